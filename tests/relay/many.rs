//! Many accounts, wherever their sessions land.

use std::collections::HashMap;

use imapool::config::PoolMode;
use imapool_demo_server::{Options, Seed};
use tokio::task::JoinSet;

use crate::ring::Ring;
use crate::support::Client;

const SESSIONS: usize = 10;

/// However many sessions an account has, and at whatever replicas they arrive, the server sees no more connections of
/// it than one replica may have: it would refuse the next.
#[tokio::test]
async fn an_account_has_one_pool() {
    // As many as show it; where sessions share nothing, it takes longer.
    for (mode, accounts) in [(PoolMode::Multiplex, 200), (PoolMode::Session, 60)] {
        one_pool(mode, accounts).await;
    }
}

async fn one_pool(mode: PoolMode, all: usize) {
    let most = 4;
    let seed = Seed { mailboxes: vec![("INBOX".into(), 1)], ..Seed::default() };
    let options = Options { seed, max_connections_per_account: Some(most), ..Options::default() };
    let ring = Ring::with(mode, 3, options, |config| config.pool.max_per_account = most).await;
    let mut owners: HashMap<usize, usize> = HashMap::new();
    let mut sessions = JoinSet::new();
    for number in 0..all * SESSIONS {
        let user = format!("u{}", number % all);
        if number < all {
            *owners.entry(ring.owner(&user)).or_default() += 1;
        }
        // Each account's sessions come to all of them.
        let address = ring.replicas[number / all % 3].address;
        sessions.spawn(async move {
            let mut client = Client::connect(address).await;
            client.play(&format!("S: * OK…\nC: l LOGIN {user} pw-{user}\nS: l OK…\nC: s SELECT INBOX\nS~ s OK…")).await;
            client.play("C: f FETCH 1 UID\nS~ f OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        });
        if sessions.len() >= 300 {
            sessions.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(ended) = sessions.join_next().await {
        ended.unwrap();
    }
    assert_eq!(owners.len(), 3, "{owners:?}");
    assert!(owners.values().all(|accounts| (all / 5..all / 2).contains(accounts)), "{owners:?}");
    let (relayed, limits): (Vec<_>, Vec<_>) = (0..3)
        .map(|place| (ring.relayed(place), ring.replicas[place].metric("imapool_backend_limits_total", "")))
        .unzip();
    assert_eq!(limits, [0, 0, 0], "the server has refused none");
    // Two of three come to another replica than their account's.
    let (through, sessions) = (relayed.iter().sum::<u64>(), (all * SESSIONS) as u64);
    assert!((sessions / 2..sessions * 17 / 20).contains(&through), "{relayed:?}");
    ring.finish().await;
}
