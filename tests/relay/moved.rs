//! Accounts that go to another replica than before, and routes that lead in a circle.

use std::time::Duration;

use imapool::admin::act;
use imapool::config::{Config, Route};
use imapool_demo_server::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::ring::{MODES, Ring};
use crate::support::{Client, soon, until};

/// While it has sessions at another replica it stays there. One that is here goes when that is another's by the hash.
#[tokio::test]
async fn an_account_goes_where_the_hash_says_since_a_reload() {
    for mode in MODES {
        let ring = Ring::with(mode, 2, Options::default(), |_| ()).await;
        let weigh = async |here: usize, there: usize| {
            let mut config = Config::clone(&ring.replicas[0].proxy().config());
            for backend in &mut config.backends {
                backend.weight = if backend.name == "r0" { here } else { there };
            }
            ring.replicas[0].proxy().reload(config).await.unwrap();
        };
        let user = ring.user_of(1);
        let mut first = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 1);
        weigh(100, 0).await;
        let mut second = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 2, "it stays");
        for client in [&mut first, &mut second] {
            client.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        }
        ring.replicas[0].sessions(0).await;
        let mut third = ring.login(0, &user).await;
        assert_eq!(ring.relayed(0), 2, "it is here");
        third.play("C: a SELECT INBOX\nS~ a OK…").await;
        weigh(0, 100).await;
        third.play("S~ * BYE…\nS.").await;
        let mut fourth = served(&ring, 0, &user).await;
        assert_eq!(ring.relayed(0), 3, "it is gone");
        assert!(ring.replicas[0].proxy().pools().accounts().iter().all(|account| account.usage().connections == 0));
        fourth.play("C: a SELECT INBOX\nS~ a OK…\nC: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        ring.finish().await;
    }
}

/// What no check of the configuration sees: a file that leads from the inner listener to a replica.
#[tokio::test]
async fn nobody_goes_in_a_circle() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("map");
    std::fs::write(&file, "anna r1\nbert r0\n").unwrap();
    for mode in MODES {
        let ring = Ring::with(mode, 2, Options::default(), |config| {
            if !config.groups.is_empty() {
                config.routes.insert(0, Route { file: Some(file.clone()), ..Route::default() });
            }
        })
        .await;
        for user in ["anna", "bert"] {
            let mut client = ring.replicas[0].client().await;
            client.play(&format!("C: a LOGIN {user} pw-{user}\nS: a NO [UNAVAILABLE] The replicas disagree…")).await;
            client.play("C: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
        }
        ring.finish().await;
    }
}

/// Logs in as somebody who does not give up, within what it may take at most.
async fn served(ring: &Ring, place: usize, user: &str) -> Client {
    soon("a login", async {
        loop {
            let mut client = ring.replicas[place].client().await;
            let said = client.command(&format!("l LOGIN {user} pw-{user}")).await;
            match said.last().unwrap() {
                told if told.starts_with("l OK") => return client,
                told => assert!(told.starts_with("l NO [UNAVAILABLE]"), "{said:?}"),
            }
        }
    })
    .await
}

/// The others have its accounts while it is away, and let go of them before it has them again: the server would refuse
/// a connection beyond what one replica may have.
#[tokio::test]
async fn a_replica_that_is_lost_gives_its_accounts_away_and_gets_them_back() {
    for mode in MODES {
        let options = Options { max_connections_per_account: Some(2), ..Options::default() };
        let mut ring = Ring::with(mode, 3, options, |config| {
            config.pool.max_per_account = 2;
            config.pool.spare = 0;
        })
        .await;
        let (lost, untouched) = (ring.user_of(2), ring.user_of(1));
        let mut others = [served(&ring, 0, &untouched).await, served(&ring, 1, &untouched).await];
        let mut before = served(&ring, 0, &lost).await;
        for client in others.iter_mut().chain([&mut before]) {
            client.play("C: s SELECT INBOX\nS~ s OK…").await;
        }
        let configuration = ring.end_last().await;
        before.play("S: * BYE…\nS.").await;
        // One of the others has it, whichever it comes by.
        let mut meanwhile = [served(&ring, 0, &lost).await, served(&ring, 1, &lost).await];
        for client in &mut meanwhile {
            client.play("C: s SELECT INBOX\nS~ s OK…").await;
        }
        assert_eq!(ring.pools_with(&lost), 1);
        ring.start_again(configuration).await;
        // By the replica itself, which would have let in everybody at once. Until it has the account back, whoever has
        // it serves, and may let go of it just then.
        soon("a whole session", async {
            loop {
                let mut first = served(&ring, 2, &lost).await;
                first.try_send("s SELECT INBOX\r\no LOGOUT\r\n").await;
                if first.rest().await.contains("o OK") {
                    break;
                }
            }
        })
        .await;
        assert!(ring.pools_with(&lost) <= 1, "never at two");
        for client in &mut meanwhile {
            client.play("S~ * BYE…\nS.").await;
        }
        let back = || ring.replicas[0].metric("imapool_backend_healthy", "backend=\"r2\"") == 1;
        until("the replica to be taken for healthy", back).await;
        for place in [0, 1, 2] {
            let mut client = served(&ring, place, &lost).await;
            client.play("C: s SELECT INBOX\nS~ s OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        }
        assert_eq!(ring.pools_with(&lost), 1);
        let last = &ring.replicas[2];
        assert!(last.proxy().pools().accounts().iter().any(|account| account.name() == lost), "its own");
        for client in &mut others {
            client.play("C: n NOOP\nS~ n OK…").await;
        }
        let limits = ring.replicas.iter().map(|it| it.metric("imapool_backend_limits_total", "")).sum::<u64>();
        assert_eq!(limits, 0, "the server has refused none");
        drop(others);
        ring.finish().await;
    }
}

/// A further replica gets its accounts: the others let go of them, whoever is logged in.
#[tokio::test]
async fn another_replica_is_put_into_the_list() {
    for mode in MODES {
        let options = Options { max_connections_per_account: Some(2), ..Options::default() };
        let ring = Ring::with(mode, 3, options, |config| {
            config.pool.max_per_account = 2;
            config.pool.spare = 0;
        })
        .await;
        let (moves, stays) = (ring.user_of(2), ring.user_of(0));
        let listed = async |with: bool| {
            for replica in &ring.replicas {
                let mut config = Config::clone(&replica.proxy().config());
                for backend in &mut config.backends {
                    backend.group =
                        (backend.name != "mail" && (with || backend.name != "r2")).then(|| "replicas".into());
                }
                replica.proxy().reload(config).await.unwrap();
            }
        };
        listed(false).await;
        let mut before = [served(&ring, 0, &moves).await, served(&ring, 2, &moves).await];
        let mut other = served(&ring, 1, &stays).await;
        for client in before.iter_mut().chain([&mut other]) {
            client.play("C: s SELECT INBOX\nS~ s OK…").await;
        }
        assert!(ring.pools_of(2).is_empty(), "it is not among them");
        listed(true).await;
        // Whose replica has been the same all the time waits for nothing.
        let mut at_once = ring.login(0, &stays).await;
        at_once.play("C: s SELECT INBOX\nS~ s OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        for client in &mut before {
            client.play("S~ * BYE…\nS.").await;
        }
        for place in [0, 1, 2] {
            let mut client = served(&ring, place, &moves).await;
            client.play("C: s SELECT INBOX\nS~ s OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
            assert_eq!((ring.pools_with(&moves), ring.pools_of(2)), (1, vec![moves.clone()]));
        }
        other.play("C: n NOOP\nS~ n OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        ring.finish().await;
    }
}

/// What else a reload changes of a replica is no concern of the sessions that go through to it; where it is, is one.
#[tokio::test]
async fn a_reload_ends_sessions_only_of_a_replica_that_is_elsewhere() {
    for mode in MODES {
        let ring = Ring::with(mode, 2, Options::default(), |_| ()).await;
        let user = ring.user_of(1);
        let mut client = ring.login(0, &user).await;
        client.play("C: a SELECT INBOX\nS~ a OK…").await;
        let change = async |change: &dyn Fn(&mut imapool::config::Backend)| {
            let mut config = Config::clone(&ring.replicas[0].proxy().config());
            config.backends.iter_mut().filter(|backend| backend.name == "r1").for_each(change);
            ring.replicas[0].proxy().reload(config).await.unwrap();
        };
        change(&|backend| backend.reply_timeout *= 2).await;
        client.play("C: b NOOP\nS~ b OK…").await;
        change(&|backend| backend.port ^= 1).await;
        client.play("S~ * BYE…\nS.").await;
        drop(client);
        ring.finish().await;
    }
}

/// A replica that begins and ends, again and again, throws nobody out at the others.
#[tokio::test]
async fn one_that_does_not_stay_gets_nothing_back() {
    for mode in MODES {
        // Long enough that it is never there for ten of them.
        let slow = |config: &mut Config| {
            config.groups.iter_mut().for_each(|group| group.check.interval = Duration::from_secs(2));
        };
        let mut ring = Ring::with(mode, 3, Options::default(), slow).await;
        let user = ring.user_of(2);
        let mut configuration = ring.end_last().await;
        let mut client = served(&ring, 0, &user).await;
        client.play("C: s SELECT INBOX\nS~ s OK…").await;
        for _ in 0..3 {
            ring.start_again(configuration).await;
            configuration = ring.end_last().await;
            client.play("C: n NOOP\nS~ n OK…").await;
        }
        client.play("C: o LOGOUT\nS~ o OK…\nS.").await;
        ring.finish().await;
    }
}

/// What one of them would do alone, the others would not know of.
#[tokio::test]
async fn no_operator_takes_accounts_from_a_replica() {
    let ring = Ring::with(MODES[0], 2, Options::default(), |_| ()).await;
    let proxy = ring.replicas[0].proxy();
    for action in ["weight?to=0", "weight", "evacuate", "pause", "drain"] {
        let said = act(proxy, &format!("backends/r1/{action}")).await.unwrap_err();
        assert!(said.starts_with("backend \"r1\" is a replica"), "{action}: {said}");
    }
    act(proxy, "backends/mail/pause").await.unwrap();
    act(proxy, "backends/mail/resume").await.unwrap();
    act(proxy, "backends/r1/resume").await.unwrap();
    ring.finish().await;
}

/// Says of everybody the same.
async fn service(server: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/auth", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|octets| octets > 0) {
                    if read.ends_with(b"\r\n\r\n") {
                        read.clear();
                        let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAuth-Status: OK";
                        let answer = format!("{head}\r\nAuth-Server: {server}\r\n\r\n");
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                }
            });
        }
    });
    url
}

/// A service says that replicas have the account, and another one, which the replica asks, where the mail is: also
/// where that replica is this very process.
#[tokio::test]
async fn two_services_are_asked_one_after_the_other() {
    let (outer, inner) = (service("replicas").await, service("mail").await);
    for mode in MODES {
        let ring = Ring::with(mode, 2, Options::default(), |config| {
            if !config.groups.is_empty() {
                let asks = |listener: &str, url: &str| Route {
                    listeners: vec![listener.into()],
                    http: Some(url.into()),
                    ..Route::default()
                };
                config.routes = vec![asks("outer", &outer), asks("inner", &inner)];
            }
        })
        .await;
        for number in 0..6 {
            let mut client = ring.login(0, &format!("u{number}")).await;
            client.play("C: s SELECT INBOX\nS~ s OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        }
        let relayed = ring.relayed(0);
        assert!((1..6).contains(&relayed), "of six, some are here and some are not: {relayed}");
        ring.finish().await;
    }
}
