//! How many connections there are, who waits for one, and when one is tried, kept alive or replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use imapool::config::PoolMode;
use imapool::demo::server::{Event, Fault, Kill, Options, Server, Stage};

use crate::support::{Client, Conn, Gate, Harness, Scripted, until};

const LOGOUT: &str = "C: o LOGOUT\nS: * BYE…\nS: o OK…\nS.";

/// A session that holds one of the account's connections.
async fn busy(harness: &Harness, user: &str) -> Client {
    let mut client = harness.login(user).await;
    client.play("C: a LIST \"\" INBOX\nS: * LIST…\nS: a OK…").await;
    client
}

#[tokio::test]
async fn an_account_never_has_more_than_its_share_and_waiting_is_fair() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::by_session(server.address(), |config| config.pool.max_per_account = 2).await;
    let mut holders = vec![busy(&harness, "u8").await, busy(&harness, "u8").await];
    let mut waiting = Vec::new();
    for number in 1..=5 {
        let mut client = harness.login("u8").await;
        client.send("w LIST \"\" INBOX\r\n").await;
        // In the order in which they ask: each has asked before the next begins.
        client.send("x NOOP\r\n").await;
        until("it waits", || who_wait(&harness, "u8") == number).await;
        waiting.push(client);
    }
    assert_eq!(server.open_of("u8"), 2);
    for client in waiting {
        // The longest waiting gets what the longest holding gives back.
        holders.remove(0).play(LOGOUT).await;
        let mut client = client;
        client.play("S: * LIST…\nS: w OK…\nS: x OK…").await;
        holders.push(client);
        assert_eq!(server.open_of("u8"), 2);
    }
    assert_eq!(server.counters().logins, 2);
    drop(holders);
    harness.finish().await;
}

/// How many sessions of this account wait for a connection.
fn who_wait(harness: &Harness, user: &str) -> usize {
    let accounts = harness.proxy().pools().accounts();
    accounts.iter().filter(|account| account.name() == user).map(|account| account.usage().waiting).sum()
}

/// Lets every other task of this runtime run until it waits: that nothing happens then has no event.
async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
}

#[tokio::test]
async fn who_waits_too_long_hears_so_and_goes_on() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::by_session(server.address(), |config| {
        config.pool.max_per_account = 1;
        config.pool.checkout_timeout = Duration::from_millis(200);
    })
    .await;
    let mut holder = busy(&harness, "u8").await;
    let mut client = harness.login("u8").await;
    client.play("C: a LIST \"\" INBOX\nS: a NO [UNAVAILABLE]…\nC: b NOOP\nS: b OK…").await;
    harness.logged(&["u8", "no connection", "became free in time"]).await;
    assert_eq!(harness.metric("imapool_checkouts_total", "result=\"timeout\""), 1);
    holder.play(LOGOUT).await;
    client.play("C: c LIST \"\" INBOX\nS: * LIST…\nS: c OK…").await;
    drop(client);
    harness.finish().await;
}

/// What is owed already does not wait with a command that waits for a connection.
#[tokio::test]
async fn who_waits_has_the_replies_to_what_came_before() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.pool.max_per_account = 1).await;
    let mut holder = busy(&harness, "u8").await;
    let mut client = harness.client().await;
    client.send("l LOGIN u8 pw-u8\r\na NOOP\r\nb LIST \"\" INBOX\r\n").await;
    // The connection is given back only after these.
    client.play("S: l OK…\nS: a OK…").await;
    holder.play(LOGOUT).await;
    client.play("S: * LIST…\nS: b OK…").await;
    assert_eq!(harness.metric("imapool_checkouts_total", "result=\"timeout\""), 0);
    drop(client);
    harness.finish().await;
}

#[tokio::test]
async fn the_connection_at_rest_longest_makes_room() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.pool.max_total = 3).await;
    for (user, at_rest) in [("one", 1), ("two", 2), ("three", 3)] {
        harness.visit(user).await;
        harness.at_rest(at_rest).await;
    }
    harness.visit("two").await;
    harness.at_rest(3).await;
    let mut held = Vec::new();
    for (user, gone) in [("four", "one"), ("five", "three"), ("six", "two")] {
        held.push(busy(&harness, user).await);
        until(gone, || server.open_of(gone) == 0).await;
        assert!(server.open() <= 3);
    }
    assert_eq!(harness.metric("imapool_upstream_retired_total", "reason=\"evicted\""), 3);
    drop(held);
    harness.finish().await;
}

/// All there may be are in use: a first login of another account waits, too, and gets the place of the first that
/// rests.
#[tokio::test]
async fn a_first_login_gets_the_place_of_a_connection_that_comes_to_rest() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.pool.max_total = 1).await;
    let mut first = busy(&harness, "one").await;
    let mut second = harness.client().await;
    second.send("l LOGIN two pw-two\r\n").await;
    settle().await;
    first.play(LOGOUT).await;
    second.play("S: l OK…\nC: a LIST \"\" INBOX\nS: * LIST…\nS: a OK…").await;
    assert!(server.open() <= 1);
    drop(second);
    harness.finish().await;
}

/// Who gave up waiting for room leaves no dial behind that would be made when room comes.
#[tokio::test]
async fn who_gave_up_waiting_is_not_dialed_for() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::by_session(server.address(), |config| {
        config.pool.max_total = 1;
        config.pool.checkout_timeout = Duration::from_millis(150);
    })
    .await;
    let mut first = busy(&harness, "one").await;
    let accepted = server.counters().accepted;
    for user in ["two", "three", "four"] {
        let mut client = harness.client().await;
        client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l NO [UNAVAILABLE]…\n{LOGOUT}")).await;
    }
    first.play(LOGOUT).await;
    harness.at_rest(1).await;
    settle().await;
    assert_eq!((server.counters().accepted, server.open_of("one")), (accepted, 1));
    harness.finish().await;
}

#[tokio::test]
async fn a_connection_at_rest_too_long_or_too_old_is_retired() {
    for (idle, lifetime, reason) in [(100, 60_000, "idle"), (60_000, 100, "lifetime")] {
        let server = Server::start(Options::default()).await.unwrap();
        let harness = Harness::start(server.address(), |config| {
            config.pool.idle_timeout = Duration::from_millis(idle);
            config.pool.max_lifetime = Duration::from_millis(lifetime);
        })
        .await;
        harness.visit("u8").await;
        until("retired", || server.open() == 0).await;
        assert_eq!(harness.metric("imapool_upstream_retired_total", &format!("reason=\"{reason}\"")), 1);
        until("no connection", || harness.connections("") == 0).await;
        harness.visit("u8").await;
        harness.finish().await;
    }
}

/// One that sessions share is replaced between two commands: nobody notices. One that a session has for itself may
/// grow as old as that session.
#[tokio::test]
async fn a_connection_in_use_is_replaced_at_its_age_where_it_is_shared() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let server = Server::start(Options::default()).await.unwrap();
        let harness = Harness::start(server.address(), |config| {
            config.pool.mode = mode;
            config.pool.max_per_account = 2;
            config.pool.max_lifetime = Duration::from_millis(200);
        })
        .await;
        let (mut one, mut two) = (harness.login("u8").await, harness.login("u8").await);
        one.play("C: a SELECT INBOX\nS~ a OK…\nC: b IDLE\nS: + …").await;
        two.play("C: a SELECT INBOX\nS~ a OK…").await;
        let replaced = || harness.metric("imapool_upstream_retired_total", "reason=\"lifetime\"");
        if mode == PoolMode::Multiplex {
            until("replaced twice", || replaced() >= 2).await;
        } else {
            // Longer than a connection in use would live. That nothing happens has no event.
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(replaced(), 0);
        }
        assert!(server.open() <= 2);
        two.play("C: b STORE 1 +FLAGS (\\Flagged)\nS~ b OK…").await;
        one.play("S: * 1 FETCH (FLAGS (\\Flagged…\nC: DONE\nS~ b OK…").await;
        one.play(LOGOUT).await;
        two.play(LOGOUT).await;
        harness.finish().await;
    }
}

/// Idle for longer than `check_after`: tried with NOOP first. One that does not pass is replaced, and nobody notices.
#[tokio::test]
async fn a_connection_is_tried_before_it_is_handed_out() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        match conn.number {
            1 => {
                for _ in 0..2 {
                    conn.play("C: NOOP\nS: * 5 EXISTS\nS: TAG OK x\nC: LIST \"\" INBOX\nS: TAG OK x").await;
                }
                // The third time, no more.
                conn.play("C: NOOP\nS: TAG NO tired").await;
            }
            _ => conn.obey().await,
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| config.pool.check_after = Duration::ZERO).await;
    for logins in [1, 1, 2] {
        harness.visit("u8").await;
        harness.at_rest(1).await;
        assert_eq!(backend.logins(), logins);
    }
    assert_eq!(harness.metric("imapool_upstream_retired_total", "reason=\"failed_check\""), 1);
    harness.finish().await;
}

#[tokio::test]
async fn a_connection_at_rest_is_kept_alive_and_leaves_its_mailbox() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        conn.play(
            "C: SELECT INBOX\nS: TAG OK x\nC: UNSELECT\nS: TAG OK left\nC: NOOP\nS: TAG OK x\nC: NOOP\nS: TAG OK x",
        )
        .await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |config| {
        config.pool.linger = Duration::from_millis(30);
        config.pool.keepalive = Duration::from_millis(100);
    })
    .await;
    let mut client = harness.login("u8").await;
    client.play(&format!("C: a SELECT INBOX\nS: a OK x\n{LOGOUT}")).await;
    until("kept alive", || backend.received().matches("NOOP").count() >= 2).await;
    harness.visit("u8").await;
    assert_eq!(backend.logins(), 1);
    harness.finish().await;
}

/// A BYE, a FIN or a reset on a connection at rest is seen at once, not by the next session.
#[tokio::test]
async fn the_end_of_a_connection_at_rest_is_seen_at_once() {
    for how in [Kill::Bye, Kill::Close, Kill::Reset] {
        let server = Server::start(Options::default()).await.unwrap();
        let harness = Harness::start(server.address(), |_| {}).await;
        harness.visit("u8").await;
        harness.at_rest(1).await;
        server.kill(how);
        until("seen", || harness.connections("") == 0).await;
        harness.visit("u8").await;
        assert_eq!(server.counters().logins, 2);
        harness.finish().await;
    }
}

/// "Too many connections": the account makes do with those it has, for the sessions to come, too, and after a reload.
#[tokio::test]
async fn a_backends_limit_is_learned() {
    let options = Options { max_connections_per_account: Some(2), ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let kept = std::cell::OnceCell::new();
    let harness = Harness::by_session(server.address(), |config| {
        config.pool.max_per_account = 4;
        kept.set(config.clone()).unwrap();
    })
    .await;
    let mut holders = vec![busy(&harness, "u8").await, busy(&harness, "u8").await];
    let mut third = harness.login("u8").await;
    third.send("a LIST \"\" INBOX\r\n").await;
    harness.logged(&["WARN", "u8", "no further connection", "max_per_account"]).await;
    // It waits for one of the two, and so do those after it, without asking the backend again.
    let mut fourth = harness.login("u8").await;
    fourth.send("a LIST \"\" INBOX\r\n").await;
    until("both wait", || who_wait(&harness, "u8") == 2).await;
    assert_eq!(server.counters().failed_logins, 1);
    harness.proxy().reload(kept.into_inner().unwrap()).await.unwrap();
    // Meanwhile either could have asked.
    harness.visit("u9").await;
    assert_eq!((server.counters().failed_logins, who_wait(&harness, "u8")), (1, 2));
    holders.remove(0).play(LOGOUT).await;
    third.play("S: * LIST…\nS: a OK…").await;
    holders.remove(0).play(LOGOUT).await;
    fourth.play("S: * LIST…\nS: a OK…").await;
    assert_eq!(server.counters().failed_logins, 1);
    drop((third, fourth));
    harness.finish().await;
}

/// The same where mailboxes are shared: they take turns with the connections that there may be, after a reload, too.
#[tokio::test]
async fn a_backends_limit_is_learned_by_shared_mailboxes() {
    let options = Options { max_connections_per_account: Some(2), ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let kept = std::cell::OnceCell::new();
    let harness = Harness::start(server.address(), |config| {
        config.pool.mode = PoolMode::Multiplex;
        config.pool.max_per_account = 4;
        kept.set(config.clone()).unwrap();
    })
    .await;
    let mut clients = Vec::new();
    for (number, mailbox) in ["INBOX", "Sent", "Drafts", "Archive/2024"].into_iter().enumerate() {
        if number == 3 {
            harness.proxy().reload(kept.get().unwrap().clone()).await.unwrap();
        }
        let mut client = harness.login("u8").await;
        client.play(&format!("C: s SELECT {mailbox}\nS~ s OK…\nC: i IDLE\nS: +…")).await;
        clients.push(client);
        // The third has asked for one too many, and nobody since.
        assert_eq!(server.counters().failed_logins, u64::from(number >= 2), "{mailbox}");
    }
    assert_eq!(server.open_of("u8"), 2);
    harness.logged(&["WARN", "u8", "no further connection", "max_per_account"]).await;
    for client in &mut clients {
        client.play("C: DONE\nS~ i OK…").await;
    }
    drop(clients);
    harness.finish().await;
}

/// Who has had a turn before the backend said that there are too many takes a seat more than that for a moment: no
/// connection ends for it that can be used.
#[tokio::test]
async fn a_backends_limit_ends_no_connection() {
    let logins = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&logins);
    let fault = move |event: &Event<'_>| match event.stage {
        Stage::Command if event.verb == "LOGIN" && count.fetch_add(1, Ordering::Relaxed) == 4 => Fault::DelayMs(700),
        _ => Fault::None,
    };
    let options = Options { max_connections_per_account: Some(2), faults: Some(Arc::new(fault)), ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let harness = Harness::by_session(server.address(), |config| {
        config.pool.max_per_account = 4;
        config.pool.max_total = 4;
    })
    .await;
    let mut holders = vec![busy(&harness, "u8").await, busy(&harness, "u8").await];
    let other = busy(&harness, "u9").await;
    let mut third = harness.login("u8").await;
    let mut fourth = harness.login("u8").await;
    third.send("a LIST \"\" INBOX\r\n").await;
    fourth.send("a LIST \"\" INBOX\r\n").await;
    harness.logged(&["WARN", "u8", "no further connection", "max_per_account"]).await;
    until("the other logs in", || logins.load(Ordering::Relaxed) == 5).await;
    holders.remove(0).play(LOGOUT).await;
    third.play("S: * LIST…\nS: a OK…").await;
    third.play(LOGOUT).await;
    fourth.play("S: * LIST…\nS: a OK…").await;
    assert_eq!(harness.metric("imapool_upstream_retired_total", "reload"), 0);
    drop((fourth, holders, other));
    harness.finish().await;
}

/// No connection at all: `NO [LIMIT]`, not a wrong password; and the session goes on.
#[tokio::test]
async fn a_limit_with_no_connection_left_is_told() {
    let full = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&full);
    let fault = move |event: &Event<'_>| match event.stage {
        Stage::Command if event.verb == "LOGIN" && theirs.load(Ordering::Relaxed) => {
            Fault::Tagged("NO [LIMIT] Maximum number of connections from user+IP exceeded".into())
        }
        _ => Fault::None,
    };
    let server = Server::start(Options { faults: Some(Arc::new(fault)), ..Options::default() }).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    harness.visit("u8").await;
    full.store(true, Ordering::Relaxed);
    server.kill(Kill::Close);
    until("seen", || harness.connections("") == 0).await;
    let mut client = harness.login("u8").await;
    client.play("C: a LIST \"\" INBOX\nS: a NO [LIMIT]…").await;
    full.store(false, Ordering::Relaxed);
    client.play("C: b LIST \"\" INBOX\nS: * LIST…\nS: b OK…").await;
    drop(client);
    harness.finish().await;
}

/// Many sessions of many accounts at once, with less room than accounts: none fails, and never are there too many.
#[tokio::test]
async fn a_crowd_fits_through_a_narrow_door() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| {
        config.pool.max_total = 4;
        config.pool.max_per_account = 2;
        config.pool.spare = 1;
    })
    .await;
    let most = Arc::new(AtomicU64::new(0));
    let mut sessions = Vec::new();
    for at in 0..60 {
        let address = harness.address;
        sessions.push(tokio::spawn(async move {
            let user = format!("u{}", at % 12);
            let mut client = Client::connect(address).await;
            client.line().await;
            client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l OK…\nC: a SELECT INBOX\nS~ a OK…\n{LOGOUT}")).await;
        }));
    }
    for session in sessions {
        crate::support::soon("a session", session).await.unwrap();
        most.fetch_max(server.counters().open, Ordering::Relaxed);
    }
    assert!(most.load(Ordering::Relaxed) <= 4);
    harness.finish().await;
}

/// A backend that closes no connection before the gate is open.
async fn slow_to_say_goodbye() -> (Gate, Scripted) {
    let (gate, held) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let held = held.clone();
        async move {
            while let Some(command) = conn.command().await {
                if command == "LOGOUT" {
                    return held.passed().await;
                }
                conn.send(format!("{} OK done\r\n", conn.tag)).await;
            }
        }
    })
    .await;
    (gate, backend)
}

/// A connection that has to make room for another is not replaced before it is closed, even if nobody waits for that
/// any more.
#[tokio::test]
async fn a_checkout_that_is_given_up_leaves_no_room_for_two() {
    let (gate, backend) = slow_to_say_goodbye().await;
    let harness = Harness::start(backend.address, |config| config.pool.max_per_account = 1).await;
    let mut first = harness.login("u8").await;
    first.play(&format!("C: a ENABLE UTF8=ACCEPT\nS~ a OK done\n{LOGOUT}")).await;
    harness.at_rest(1).await;
    // It needs one on which nothing was switched on, and has gone before it has it.
    let mut second = harness.login("u8").await;
    second.send("a SELECT INBOX\r\n").await;
    let said = Instant::now();
    until("the goodbye to be said", || backend.received().contains("LOGOUT")).await;
    second.reset();
    harness.sessions(0).await;
    let mut third = harness.login("u8").await;
    third.send("a LIST \"\" *\r\n").await;
    // By the time that another account is served, it would have been.
    harness.visit("u9").await;
    let over = said.elapsed() > Duration::from_secs(2);
    assert!(backend.logins() == 2 || over, "u8's first, and u9's: not {}", backend.logins());
    gate.open();
    third.play("S: a OK done").await;
    assert_eq!(backend.logins(), 3);
    third.play(LOGOUT).await;
    harness.finish().await;
}

/// `u8` has a connection, and one that ends and is not closed before the gate is open: it gets no third before that.
async fn a_third_waits_for_the_goodbye(harness: &Harness, backend: &Scripted, gate: Gate) {
    let said = Instant::now();
    until("the goodbye to be said", || backend.received().contains("LOGOUT")).await;
    let mut third = harness.login("u8").await;
    third.send("a LIST \"\" *\r\n").await;
    // By the time that another account is served, it would have been.
    harness.visit("u9").await;
    let over = said.elapsed() > Duration::from_secs(2);
    assert!(backend.logins() == 3 || over, "u8's two, and u9's: not {}", backend.logins());
    gate.open();
    third.play("S: a OK done").await;
    third.play(LOGOUT).await;
}

/// One that is not closed yet leaves no room for a further one beside one at rest.
#[tokio::test]
async fn a_connection_that_ends_counts_until_it_is_closed() {
    let (gate, backend) = slow_to_say_goodbye().await;
    let harness = Harness::start(backend.address, |config| config.pool.max_per_account = 2).await;
    let mut first = harness.login("u8").await;
    first.play("C: a NOTIFY NONE\nS: a OK done").await;
    let mut second = harness.login("u8").await;
    second.play(&format!("C: a ENABLE CONDSTORE\nS~ a OK done\n{LOGOUT}")).await;
    harness.at_rest_beside(1, 1).await;
    // Nobody else may meet what the first has left on its connection.
    first.play(LOGOUT).await;
    a_third_waits_for_the_goodbye(&harness, &backend, gate).await;
    harness.finish().await;
}

/// Nor does one that was at rest, and gave its place to one on which another credential was verified.
#[tokio::test]
async fn a_connection_that_was_replaced_counts_until_it_is_closed() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let (gate, backend) = slow_to_say_goodbye().await;
        let harness = Harness::start(backend.address, |config| {
            config.pool.mode = mode;
            config.pool.max_per_account = 2;
        })
        .await;
        harness.visit("u8").await;
        harness.at_rest(1).await;
        let mut holder = harness.client().await;
        holder.play("C: l LOGIN u8 another\nS: l OK…\nC: a NOTIFY NONE\nS: a OK done").await;
        a_third_waits_for_the_goodbye(&harness, &backend, gate).await;
        drop(holder);
        harness.finish().await;
    }
}
