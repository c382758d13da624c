//! Hundreds of accounts whose tokens all change within a minute.

use std::time::Instant;

use imapool::config::PoolMode;

use crate::support::{Harness, until};
use crate::whose::{Teller, enter, token, whose};

const ACCOUNTS: usize = 500;
/// Accounts that have a session open while their token changes.
const OPEN: usize = 50;
/// Logins at once.
const AT_ONCE: usize = 32;

async fn visit(harness: &Harness, account: usize, secret: &str) {
    let mut client = enter(harness, &token(&format!("user{account}"), secret)).await;
    assert_eq!(whose(&mut client, "LIST \"\" x").await.expect("served").0, secret);
    client.play("C: o LOGOUT\nS~ o OK…\nS.").await;
}

/// Each account visits, some at a time.
async fn all_visit(harness: &Harness, age: &str) {
    let accounts: Vec<usize> = (0..ACCOUNTS).collect();
    for some in accounts.chunks(AT_ONCE) {
        let secrets: Vec<String> = some.iter().map(|account| format!("{age}-{account}")).collect();
        let visits = some.iter().zip(&secrets).map(|(account, secret)| visit(harness, *account, secret));
        let mut visits: Vec<_> = visits.map(Box::pin).collect();
        std::future::poll_fn(|cx| {
            visits.retain_mut(|visit| visit.as_mut().poll(cx).is_pending());
            if visits.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

/// A login each, and nobody fails; what the old tokens had opened is given up, at once where nobody has a session,
/// else when the last one has ended.
#[tokio::test]
async fn new_tokens_for_everybody_cost_a_login_each() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let secrets: Vec<String> = ["old", "new"]
            .iter()
            .flat_map(|age| (0..ACCOUNTS).map(move |account| format!("{age}-{account}")))
            .collect();
        let teller = Teller::start(secrets[..ACCOUNTS].iter().map(String::as_str)).await;
        let harness = Harness::start(teller.backend.address, |config| config.pool.mode = mode).await;
        all_visit(&harness, "old").await;
        let mut sessions = Vec::new();
        for account in 0..OPEN {
            let mut client = enter(&harness, &token(&format!("user{account}"), &format!("old-{account}"))).await;
            assert!(whose(&mut client, "LIST \"\" x").await.is_some());
            sessions.push(client);
        }
        assert_eq!(teller.all_logins(), ACCOUNTS, "{mode:?}: a login for each account");
        for (old, new) in secrets[..ACCOUNTS].iter().zip(&secrets[ACCOUNTS..]) {
            teller.refuse(old);
            teller.accept(new);
        }
        let start = Instant::now();
        all_visit(&harness, "new").await;
        let took = start.elapsed();
        // Every account again, from memory.
        all_visit(&harness, "new").await;
        let dials = teller.all_logins() - ACCOUNTS;
        println!(
            "{mode:?}: {ACCOUNTS} new tokens: {dials} logins in {took:.1?}, {} refused, {} connections open",
            teller.refused(),
            teller.all_open()
        );
        assert_eq!(dials, ACCOUNTS, "{mode:?}: a login for each new token");
        assert_eq!(teller.refused(), 0, "{mode:?}");
        until("only those with a session have what the old tokens opened", || {
            teller.all_open() <= ACCOUNTS + OPEN && (OPEN..ACCOUNTS).all(|account| teller.open(&secrets[account]) == 0)
        })
        .await;
        drop(sessions);
        until("nobody has", || teller.all_open() == ACCOUNTS).await;
        harness.finish().await;
    }
}

/// A backend that allows an account no further connection: what rests of its earlier token makes room.
#[tokio::test]
async fn an_earlier_token_makes_room() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let teller = Teller::start(["old", "new"]).await;
        teller.allow(1);
        let harness = Harness::start(teller.backend.address, |config| config.pool.mode = mode).await;
        visit(&harness, 0, "old").await;
        harness.at_rest(1).await;
        visit(&harness, 0, "new").await;
        visit(&harness, 0, "new").await;
        assert_eq!((teller.open("old"), teller.logins("new")), (0, 1), "{mode:?}");
        harness.finish().await;
    }
}
