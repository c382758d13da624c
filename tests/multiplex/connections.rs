//! How many connections there are, and what happens when one is taken away, lost, or too slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use imapool::config::PoolMode;
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;

use super::{Conn, Harness, SELECTED, Scripted, multiplexing, pair};
use crate::support::backend::CAPABILITIES;
use crate::support::{Client, Gate, soon, until};

/// Plays a mailbox of no messages for whatever is asked.
async fn empty(conn: &mut Conn) {
    while let Some(command) = conn.command().await {
        match command.split(' ').next().unwrap() {
            "SELECT" | "EXAMINE" => {
                conn.play(
                    "S: * 0 EXISTS
                     S: * OK [UIDVALIDITY 7] valid
                     S: * OK [UIDNEXT 1] next
                     S: TAG OK [READ-WRITE] selected",
                )
                .await;
            }
            "IDLE" => conn.play("S: + idling\nC> DONE\nS: TAG OK idled").await,
            "LOGOUT" => return conn.play("S: * BYE bye\nS: TAG OK bye").await,
            _ => conn.play("S: TAG OK done").await,
        }
    }
}

/// RFC 9051 section 6.3.2: a connection has one mailbox selected at a time. With one connection, sessions in several
/// mailboxes take turns.
#[tokio::test]
async fn mailboxes_take_turns_on_one_connection() {
    let backend = Scripted::start(|mut conn: Conn| async move { empty(&mut conn).await }).await;
    let harness = multiplexing(&backend, 1).await;
    let mut clients = Vec::new();
    for mailbox in ["INBOX", "Sent", "Trash"] {
        let mut client = harness.login("u8").await;
        client.play(&format!("C: a SELECT {mailbox}\nS~ a OK [READ-WRITE]…")).await;
        clients.push(client);
    }
    for round in 0..3 {
        for client in &mut clients {
            client.play(&format!("C: b{round} NOOP\nS: b{round} OK done")).await;
        }
    }
    assert_eq!(backend.logins(), 1);
    let metric = |name: &str, label: &str| harness.metric(&format!("imapool_{name}"), label);
    assert_eq!(metric("hub_sessions", ""), 3);
    assert_eq!((metric("hubs", "state=\"connected\""), metric("hubs", "state=\"parked\"")), (1, 2));
    assert!(metric("hub_parks_total", "") >= 8);
    assert!(metric("hub_resumes_total", "result=\"same\"") >= 8);
    assert!(metric("hub_wait_seconds_count", "cause=\"connection\"") >= 8);
    drop(clients);
    harness.finish().await;
}

/// RFC 9051 section 2.3.1.1: by UIDVALIDITY and UIDNEXT it is seen that nothing has changed. So a connection that is
/// lost under sessions at rest is replaced, and nobody hears of it.
#[tokio::test]
async fn nobody_at_rest_hears_of_a_loss() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number == 1 {
            conn.play(SELECTED).await;
            return conn.play(super::JOINED).await;
        }
        conn.play(SELECTED.replace("INBOX", "\"INBOX\"").as_str()).await;
        conn.play("C: NOOP\nS: TAG OK noop").await;
        conn.obey().await;
    })
    .await;
    let harness = multiplexing(&backend, 1).await;
    let (mut one, two) = pair(&harness).await;
    one.play("C: b NOOP\nS: b OK noop").await;
    assert_eq!(backend.logins(), 2);
    drop((one, two));
    harness.finish().await;
}

/// RFC 9051 section 6.5: what commands of extensions leave behind is not known. So they get a connection of their own.
#[tokio::test]
async fn what_is_not_known_pins() {
    let backend = Scripted::start(|mut conn: Conn| async move { empty(&mut conn).await }).await;
    let harness = multiplexing(&backend, 2).await;
    let (mut one, mut two) = pair(&harness).await;
    one.play("C: b XYZZY\nS: b OK done\nC: c NOOP\nS: c OK done").await;
    two.play("C: b NOOP\nS: b OK done").await;
    assert_eq!(backend.logins(), 2);
    drop((one, two));
    harness.finish().await;
}

/// RFC 9051 section 5.5: commands of one connection may wait for one another; those of several do not. A command that
/// takes long delays the others by `pool.share_patience`; then they have a connection of their own.
#[tokio::test]
async fn a_long_command_delays_nobody_for_long() {
    // CLOSE expunges.
    for (given, sent) in [("SEARCH BODY x", "SEARCH BODY x"), ("CLOSE", "EXPUNGE")] {
        let backend = Scripted::start(move |mut conn: Conn| async move {
            if conn.number == 1 {
                conn.play(SELECTED).await;
                conn.play(super::JOINED).await;
                // It is never answered.
                conn.play(&format!("C: {sent}")).await;
                return conn.gone().await;
            }
            conn.play(SELECTED.replace("INBOX", "\"INBOX\"").as_str()).await;
            conn.obey().await;
        })
        .await;
        let harness = multiplexing(&backend, 2).await;
        let (mut one, mut two) = pair(&harness).await;
        one.play(&format!("C: b {given}")).await;
        until("the command at the backend", || backend.received().contains(sent)).await;
        two.play("C: b NOOP\nS: b OK done").await;
        assert_eq!(backend.logins(), 2);
        one.reset();
        drop(two);
        harness.finish().await;
    }
}

/// A further connection may never come: whoever waits has its turn where it is as soon as the long command is over, and
/// so does who comes meanwhile.
#[tokio::test]
async fn nobody_leaves_for_a_connection_that_does_not_come() {
    let (gate, found) = Gate::pair();
    let silent = Arc::new(AtomicBool::new(false));
    let is_silent = Arc::clone(&silent);
    let backend = Scripted::raw(move |mut conn: Conn| {
        let (found, silent) = (found.clone(), is_silent.load(Ordering::Relaxed));
        async move {
            if silent {
                return conn.gone().await;
            }
            conn.send(format!("* OK [CAPABILITY {CAPABILITIES}] ready\r\n")).await;
            if !conn.log_in(CAPABILITIES).await {
                return;
            }
            conn.play(SELECTED).await;
            conn.play(super::JOINED).await;
            conn.play("C: SEARCH BODY x").await;
            found.passed().await;
            conn.play("S: TAG OK found").await;
            conn.obey().await;
        }
    })
    .await;
    let harness = multiplexing(&backend, 4).await;
    let (mut one, mut two) = pair(&harness).await;
    silent.store(true, Ordering::Relaxed);
    let open = backend.open();
    one.play("C: b SEARCH BODY x").await;
    until("the search at the backend", || backend.received().contains("BODY x")).await;
    two.play("C: b NOOP").await;
    until("a further connection", || backend.open() > open).await;
    gate.open();
    one.play("S: b OK found").await;
    two.play("S: b OK done\nC: c NOOP\nS: c OK done").await;
    assert_eq!(backend.logins(), 1);
    drop((one, two));
    harness.finish().await;
}

/// `pool.drain_bytes` and `pool.drain_timeout` are for shared mailboxes, too: neither who waits nor who idles waits for
/// the end of what nobody reads any more.
#[tokio::test]
async fn nobody_waits_for_what_nobody_reads() {
    const LONG: Duration = Duration::from_secs(3600);
    for (sent, octets, time) in [(1 << 20, 1 << 16, LONG), (100, 1 << 30, Duration::from_millis(50))] {
        for waits in ["C: b NOOP\nS: b OK done", "C: b IDLE\nS: + …"] {
            let backend = Scripted::start(move |mut conn: Conn| async move {
                if conn.number == 1 {
                    conn.play(SELECTED).await;
                    conn.play(super::JOINED).await;
                    conn.play("C: FETCH 1 (BODY.PEEK[])").await;
                    conn.send("* 1 FETCH (BODY[] {10000000}\r\n").await;
                    conn.send(vec![b'x'; sent]).await;
                    // The rest does not come.
                    return conn.gone().await;
                }
                conn.play(SELECTED.replace("INBOX", "\"INBOX\"").as_str()).await;
                conn.obey().await;
            })
            .await;
            let harness = Harness::start(backend.address, |config| {
                config.pool.mode = PoolMode::Multiplex;
                config.pool.max_per_account = 1;
                (config.pool.drain_bytes, config.pool.drain_timeout) = (octets, time);
            })
            .await;
            let (mut one, mut two) = pair(&harness).await;
            one.play("C: b FETCH 1 (BODY.PEEK[])\nS: * 1 FETCH (BODY[] {10000000}").await;
            one.reset();
            two.play(waits).await;
            until("another connection", || backend.logins() == 2).await;
            assert_eq!(harness.metric("imapool_upstream_retired_total", "reason=\"drain_budget\""), 1);
            drop(two);
            harness.finish().await;
        }
    }
}

/// Octets of the message below: more than the kernel takes.
const SIZE: usize = 32 << 20;

/// Two sessions in a mailbox that have one connection, on which the first is being sent a message.
async fn halfway_through_a_message() -> (Harness, Client, Client) {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number > 1 {
            conn.play(SELECTED.replace("INBOX", "\"INBOX\"").as_str()).await;
            return conn.obey().await;
        }
        conn.play(SELECTED).await;
        conn.play(super::JOINED).await;
        conn.play("C: FETCH 1 (BODY.PEEK[])").await;
        conn.send(format!("* 1 FETCH (BODY[] {{{SIZE}}}\r\n")).await;
        for _ in 0..SIZE >> 16 {
            conn.send(vec![b'x'; 1 << 16]).await;
        }
        conn.play("S: )\nS: TAG OK fetched").await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |config| {
        config.pool.mode = PoolMode::Multiplex;
        config.pool.max_per_account = 1;
        config.pool.checkout_timeout = Duration::from_millis(300);
    })
    .await;
    let (mut one, two) = pair(&harness).await;
    one.play("C: b FETCH 1 (BODY.PEEK[])").await;
    until("the fetch at the backend", || backend.received().contains("BODY.PEEK")).await;
    (harness, one, two)
}

/// RFC 9051 section 5.3: flow control is the server's affair. A reader that takes nothing, with no further connection
/// free, delays its mailbox for six times `pool.checkout_timeout`, and not until `limits.write_timeout`: then its reply
/// is given up, with its connection. It finds itself cut off. The others hear NO each time that they have waited once
/// as long.
#[tokio::test]
async fn a_reader_that_stalls_delays_nobody_for_long() {
    let (harness, mut one, mut two) = halfway_through_a_message().await;
    let mut refused = 0;
    loop {
        let said = two.command(&format!("b{refused} NOOP")).await.concat();
        if said.starts_with(&format!("b{refused} OK done")) {
            break;
        }
        assert!(said.starts_with(&format!("b{refused} NO [UNAVAILABLE]")), "{said}");
        refused += 1;
        assert!(refused < 20, "no end");
    }
    assert_ne!(refused, 0);
    let read = one.rest().await;
    assert!(read.len() < SIZE && !read.contains("b OK"), "{} octets", read.len());
    drop(two);
    harness.finish().await;
}

/// RFC 9051 section 6.3.13: IDLE can be ended and begun anew. With `pool.max_total` reached, hubs of different
/// accounts take turns; one in IDLE gives way, too.
#[tokio::test]
async fn accounts_take_turns_on_one_connection() {
    let backend = Scripted::start(|mut conn: Conn| async move { empty(&mut conn).await }).await;
    let harness = Harness::start(backend.address, |config| {
        config.pool.mode = PoolMode::Multiplex;
        config.pool.max_per_account = 1;
        config.pool.max_total = 1;
    })
    .await;
    let mut clients = Vec::new();
    for user in ["one", "two"] {
        let mut client = harness.login(user).await;
        client.play("C: a SELECT INBOX\nS~ a OK [READ-WRITE]…").await;
        clients.push(client);
    }
    for round in 0..3 {
        for client in &mut clients {
            client.play(&format!("C: n{round} NOOP\nS: n{round} OK done\nC: i{round} IDLE\nS: + …")).await;
            until("IDLE at the backend", || backend.received().matches("IDLE").count() > round).await;
            assert!(harness.metric("imapool_upstream_connections{", "") <= 1);
        }
        for client in &mut clients {
            client.play(&format!("C: DONE\nS: i{round} OK…")).await;
        }
    }
    assert!(harness.metric("imapool_hub_parks_total", "") >= 4);
    drop(clients);
    harness.finish().await;
}

/// RFC 9051 section 3.2: without a mailbox, no command depends on the one before. So a session holds no connection in
/// between.
#[tokio::test]
async fn a_session_without_a_mailbox_holds_nothing() {
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = multiplexing(&backend, 1).await;
    let mut one = harness.login("u8").await;
    let mut two = harness.login("u8").await;
    for tag in 0..3 {
        one.play(&format!("C: a{tag} LIST \"\" *\nS: a{tag} OK done")).await;
        two.play(&format!("C: a{tag} STATUS x (MESSAGES)\nS: a{tag} OK done")).await;
    }
    harness.at_rest(1).await;
    assert_eq!(backend.logins(), 1);
    drop((one, two));
    harness.finish().await;
}

/// One that reads on, however slowly, is not cut off. Who waits for it in the same mailbox waits as for a connection,
/// hears NO, and may go on asking.
#[tokio::test]
async fn a_slow_reader_delays_nobody_for_ever() {
    let (harness, one, mut two) = halfway_through_a_message().await;
    two.play("C: b NOOP").await;
    // It reads a little at a time, at its own pace, until the other has heard.
    let mut octets = vec![0; 1 << 14];
    let mut stream = one.into_stream();
    let mut heard = Box::pin(async {
        two.play("S: b NO [UNAVAILABLE]…").await;
    });
    loop {
        tokio::select! {
            () = &mut heard => break,
            () = tokio::time::sleep(Duration::from_millis(5)) => assert!(stream.read(&mut octets).await.unwrap() > 0),
        }
    }
    drop(heard);
    // All of it comes.
    let mut tail = Vec::new();
    while !tail.ends_with(b"b OK fetched\r\n") {
        let read = soon("more", stream.read(&mut octets)).await.unwrap();
        assert!(read > 0, "cut off");
        tail.extend_from_slice(&octets[..read]);
        tail.drain(..tail.len().saturating_sub(64));
    }
    drop((stream, two));
    harness.finish().await;
}

/// What is wrong with a SELECT is the session's own affair: it holds no connection after that. RFC 9051 section 6.3.2:
/// nor has it a mailbox then.
#[tokio::test]
async fn a_select_that_is_refused_holds_no_connection() {
    let refused = [
        ("(QRESYNC (1 1))", "BAD QRESYNC is not enabled"),
        ("(X-FOO)", "BAD what is this"),
        ("(X-FOO)", "NO what is this"),
    ];
    for (parameter, status) in refused {
        let backend = Scripted::start(move |mut conn: Conn| async move {
            while let Some(command) = conn.command().await {
                let said = match command.split(' ').next().unwrap() {
                    "SELECT" if command.contains(parameter) => &format!("S: TAG {status}"),
                    "SELECT" => "S: * 0 EXISTS\nS: * OK [UIDVALIDITY 7] x\nS: * OK [UIDNEXT 1] x\nS: TAG OK done",
                    "STATUS" => "S: * STATUS INBOX (UIDVALIDITY 7 UIDNEXT 1)\nS: TAG OK done",
                    "LOGOUT" => return conn.play("S: * BYE bye\nS: TAG OK bye").await,
                    _ => "S: TAG OK done",
                };
                conn.play(said).await;
            }
        })
        .await;
        let harness = multiplexing(&backend, 1).await;
        let (mut one, mut other) = (harness.login("u8").await, harness.login("u8").await);
        other.play("C: a SELECT INBOX\nS~ a OK…").await;
        one.play(&format!("C: a SELECT INBOX {parameter}\nS~ a {status}")).await;
        other.play("C: b NOOP\nS~ b OK…").await;
        one.play("C: b SELECT INBOX\nS~ b OK…").await;
        other.play("C: c NOOP\nS~ c OK…").await;
        drop((one, other));
        harness.finish().await;
    }
}

/// What is told of connections that are lost again and again is that, and not what was wrong with an earlier one.
#[tokio::test]
async fn what_was_wrong_with_an_earlier_connection_is_not_said_of_later_ones() {
    let (both_wait, waits) = watch::channel(false);
    let logins = Arc::new(AtomicUsize::new(0));
    let backend = Scripted::raw(move |mut conn: Conn| {
        let (mut waits, logins) = (waits.clone(), Arc::clone(&logins));
        async move {
            conn.send(format!("* OK [CAPABILITY {CAPABILITIES}] ready\r\n")).await;
            if !conn.read_login(CAPABILITIES).await {
                return;
            }
            if logins.fetch_add(1, Ordering::SeqCst) == 1 {
                return conn.play("S: TAG NO [LIMIT] too many connections").await;
            }
            conn.play(&format!("S: TAG OK [CAPABILITY {CAPABILITIES}] in")).await;
            if !conn.prove().await {
                return;
            }
            while let Some(command) = conn.command().await {
                let said = match command.split(' ').next().unwrap() {
                    "SELECT" => "S: * 1 EXISTS\nS: * OK [UIDVALIDITY 7] x\nS: * OK [UIDNEXT 12] x\nS: TAG OK done",
                    "STATUS" => "S: * STATUS INBOX (UIDVALIDITY 7 UIDNEXT 12)\nS: TAG OK done",
                    "UID" => "S: * SEARCH 11\nS: TAG OK done",
                    "CHECK" => return,
                    "FETCH" => {
                        waits.wait_for(|both_wait| *both_wait).await.unwrap();
                        return;
                    }
                    _ => "S: TAG OK done",
                };
                conn.play(said).await;
            }
        }
    })
    .await;
    let harness = multiplexing(&backend, 1).await;
    let (mut one, mut other) = (harness.login("u8").await, harness.login("u8").await);
    one.play("C: a SELECT INBOX\nS~ a OK…").await;
    other.play("C: a SELECT INBOX\nS~ a OK…").await;
    // That connection is lost, and the next is refused.
    one.play("C: b CHECK\nS~ b NO…\nC: c NOOP\nS~ c NO [LIMIT]…").await;
    while !one.command("e NOOP").await.last().unwrap().starts_with("e OK") {}
    one.send("d FETCH 1 (UID)\r\n").await;
    until("it runs", || backend.received().contains("FETCH")).await;
    other.send("d FETCH 1 (FLAGS)\r\n").await;
    both_wait.send_replace(true);
    one.play("S~ d NO [UNAVAILABLE]…").await;
    other.play("S~ d NO [UNAVAILABLE]…").await;
    drop((one, other));
    harness.finish().await;
}

/// Who had a connection of its own, and lost it, shares the mailbox that it selects next as any other: what it runs
/// beside that is given back, and NOOP asks for news of the mailbox.
#[tokio::test]
async fn who_was_pinned_and_lost_the_connection_shares_again() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        let mut selected = false;
        while let Some(command) = conn.command().await {
            let said = match command.split(' ').next().unwrap() {
                "XYZZY" => return conn.play("S: TAG BAD what").await,
                "SELECT" => {
                    selected = true;
                    "S: * 0 EXISTS\nS: * OK [UIDVALIDITY 7] x\nS: * OK [UIDNEXT 1] x\nS: TAG OK done"
                }
                "UNSELECT" => {
                    selected = false;
                    "S: TAG OK done"
                }
                "UID" => "S: * SEARCH 11\nS: TAG OK done",
                "STATUS" => "S: * STATUS INBOX (UIDVALIDITY 7 UIDNEXT 1)\nS: TAG OK done",
                "APPEND" => {
                    conn.send("+ go\r\n").await;
                    conn.octets(3).await;
                    conn.line().await;
                    "S: TAG OK done"
                }
                "NOOP" if selected => "S: * 1 EXISTS\nS: TAG OK done",
                _ => "S: TAG OK done",
            };
            conn.play(said).await;
        }
    })
    .await;
    let harness = multiplexing(&backend, 2).await;
    let mut client = harness.login("u8").await;
    client.play("C: a XYZZY\nS: a BAD what").await;
    until("it is lost", || harness.metric("imapool_upstream_retired_total", "server_closed") == 1).await;
    client.play("C: b SELECT INBOX\nS~ b OK…\nC: c APPEND Other {3}\nS~ + …\nC: abc\nS~ c OK…\nC: d NOOP\nS~ * 1 EXISTS\nS~ d OK…").await;
    drop(client);
    harness.finish().await;
}
