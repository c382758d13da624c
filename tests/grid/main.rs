//! Kinds of servers × what clients do: through imapool each session gets the results that it gets directly, in both
//! modes, and short sessions share a few connections. What is known of a kind is in
//! `imapool::demo::server::personality`.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "for other tests")]
#[path = "../support/mod.rs"]
mod support;

mod door;
mod faults;
mod scenes;

use imapool::config::PoolMode;
use imapool::demo::load::{self, Ending, Load};
use imapool::demo::server::Server;
use imapool::demo::server::personality::Personality;
use indicatif::ProgressBar;

use door::Door;
use support::{Harness, LIMIT};

/// Connections that the proxy may have for an account.
const CONNECTIONS: usize = 4;
/// Short sessions: LOGIN, SELECT, FETCH, LOGOUT.
const VISITS: u32 = 1000;

/// A kind by its name.
fn kind(name: &str) -> Personality {
    Personality::of(name).unwrap_or_else(|| panic!("no kind {name}"))
}

/// A proxy in front of a server.
async fn proxy(server: &Server, mode: PoolMode) -> Harness {
    Harness::start(server.address(), |config| {
        config.pool.mode = mode;
        config.pool.max_per_account = CONNECTIONS;
    })
    .await
}

/// All that is promised of a kind that works, in one mode.
async fn holds(name: &str, mode: PoolMode) {
    let kind = kind(name);
    for (scene, play) in scenes::all() {
        let direct = Server::start(kind.options()).await.unwrap();
        let mut door = Door::direct(&kind, direct.address());
        play(&mut door).await;
        let expected = door.finish(&direct);

        let server = Server::start(kind.options()).await.unwrap();
        let harness = proxy(&server, mode).await;
        let mut door = Door::through(&kind, &harness);
        play(&mut door).await;
        let connections = server.open_of(door::USER);
        assert!(connections <= CONNECTIONS, "{name}, {scene}: {connections} connections");
        let found = door.finish(&server);
        door::assert_same(&format!("{name}, {scene}, {}", mode.as_str()), &expected, &found);
        harness.finish().await;
        server.stop().await;
        direct.stop().await;
    }
    if mode == PoolMode::Multiplex && kind.verdict.sharing {
        sharing(&kind).await;
    }
    visits(&kind, mode).await;
}

/// Sessions that have the same mailbox selected, at rest or at work in it, share one connection.
async fn sharing(kind: &Personality) {
    let server = Server::start(kind.options()).await.unwrap();
    let harness = proxy(&server, PoolMode::Multiplex).await;
    let mut door = Door::through(kind, &harness);
    let mut sessions = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let mut session = door.inbox(name).await;
        let lines = door.run(&mut session, "FETCH 1:* (FLAGS)").await;
        assert_eq!(lines.iter().filter(|line| line.contains(" FETCH (")).count(), 10, "{lines:?}");
        sessions.push(session);
    }
    for session in &mut sessions {
        door.run(session, "NOOP").await;
    }
    assert_eq!(server.open_of(door::USER), 1, "{}: six sessions in one mailbox", kind.name);
    drop(sessions);
    harness.finish().await;
    server.stop().await;
}

/// Many short sessions need few connections.
async fn visits(kind: &Personality, mode: PoolMode) {
    let server = Server::start(kind.options()).await.unwrap();
    let harness = proxy(&server, mode).await;
    let load = Load {
        address: harness.address,
        sessions: VISITS,
        accounts: 1,
        concurrency: 4,
        ending: Ending::Logout,
        rate: None,
        ports: None,
        time_limit: LIMIT,
    };
    let outcome = load::run(load, &ProgressBar::hidden()).await;
    let dials = server.counters().accepted;
    assert_eq!(outcome.failed(), 0, "{}: {:?}", kind.name, outcome.failures);
    assert_eq!(outcome.durations.len(), VISITS as usize, "{}: too slow", kind.name);
    assert!(dials <= CONNECTIONS as u64, "{}: {dials} dials for {VISITS} visits", kind.name);
    harness.finish().await;
    server.stop().await;
}

/// A test for each kind and mode, and the list of all their names. What follows a kind is why it does not hold yet.
macro_rules! grid {
    ($($test:ident: $kind:literal $(ignored $why:literal)?,)*) => {
        $(
            mod $test {
                use imapool::config::PoolMode;

                #[tokio::test]
                $(#[ignore = $why])?
                async fn multiplex() {
                    super::holds($kind, PoolMode::Multiplex).await;
                }

                #[tokio::test]
                $(#[ignore = $why])?
                async fn session() {
                    super::holds($kind, PoolMode::Session).await;
                }
            }
        )*

        /// The kinds above.
        const TESTED: &[&str] = &[$($kind),*];
    };
}

grid! {
    dovecot: "dovecot",
    cyrus: "cyrus",
    courier: "courier",
    exchange_2013: "exchange-2013",
    exchange: "exchange",
    gmail: "gmail",
    yahoo: "yahoo",
    icloud: "icloud",
    netease: "netease",
    hmailserver: "hmailserver",
    davmail: "davmail",
    domino: "domino",
    xeams: "xeams",
    lacks_idle: "lacks:IDLE",
    lacks_unselect: "lacks:UNSELECT",
    lacks_namespace: "lacks:NAMESPACE",
    lacks_enable: "lacks:ENABLE",
    lacks_condstore: "lacks:CONDSTORE",
    lacks_qresync: "lacks:QRESYNC",
    lacks_uidplus: "lacks:UIDPLUS",
    lacks_move: "lacks:MOVE",
    lacks_esearch: "lacks:ESEARCH",
    lacks_sasl_ir: "lacks:SASL-IR",
    lacks_literal_plus: "lacks:LITERAL+",
    lacks_id: "lacks:ID",
    lacks_special_use: "lacks:SPECIAL-USE",
    lacks_list_extended: "lacks:LIST-EXTENDED",
    lacks_list_status: "lacks:LIST-STATUS",
    lacks_children: "lacks:CHILDREN",
    lacks_login: "lacks:LOGIN",
}

/// None is forgotten of those that somebody adds.
#[test]
fn every_kind_is_tested() {
    let tested = |kind: &Personality| TESTED.contains(&&*kind.name) || faults::TESTED.contains(&&*kind.name);
    let untested: Vec<_> = Personality::all().into_iter().filter(|kind| !tested(kind)).map(|kind| kind.name).collect();
    assert!(untested.is_empty(), "{untested:?}");
}
