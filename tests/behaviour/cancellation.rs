//! Clients that vanish, at any octet of what they say or are told.

use std::net::SocketAddr;
use std::time::Duration;

use imapool::demo::server::{Options, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Conn, Gate, Harness, Scripted, soon, until};

/// A bare socket that can be closed (FIN) or reset (RST).
async fn connect(address: SocketAddr) -> TcpStream {
    let stream = soon("connect", TcpStream::connect(address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn vanish(stream: TcpStream, reset: bool) {
    if reset {
        stream.set_zero_linger().unwrap();
    }
    drop(stream);
}

/// redis-py, PgDog, pgagroal: a task cancelled between sending and receiving shifts all later replies by one.
#[tokio::test]
async fn a_vanished_asker_shifts_no_reply() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        while let Some(command) = conn.command().await {
            let tag = conn.tag.clone();
            let Some(name) = command.strip_prefix("LIST \"\" ") else {
                return conn.send(format!("{tag} OK bye\r\n")).await;
            };
            // In two pieces, so that there is always something half said.
            conn.send(format!("* LIST () \"/\" {name}\r\n")).await;
            tokio::task::yield_now().await;
            conn.send(format!("{tag} OK {name}\r\n")).await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| config.pool.max_per_account = 1).await;
    for round in 0..60 {
        let mut stream = connect(harness.address).await;
        stream.write_all(format!("l LOGIN u8 pw-u8\r\na LIST \"\" gone{round}\r\n").as_bytes()).await.unwrap();
        // Vanishes while greeted, while the command is on its way, and while it is answered.
        for _ in 0..round % 12 {
            tokio::task::yield_now().await;
        }
        vanish(stream, round % 2 == 0);
        let mut client = harness.login("u8").await;
        client.play(&format!("C: b LIST \"\" mine{round}\nS: * LIST () \"/\" mine{round}\nS: b OK mine{round}")).await;
    }
    harness.sessions(0).await;
    harness.finish().await;
}

const CONVERSATION: &str = "l LOGIN {2}\r\nu8 {5+}\r\npw-u8\r\na SELECT INBOX\r\nb APPEND Drafts (\\Seen) {11}\r\nhello world\r\n\
    c APPEND Drafts {5+}\r\nagain\r\nd FETCH 1:* (FLAGS BODY[])\r\ne IDLE\r\nDONE\r\nf SEARCH SUBJECT {1}\r\nx\r\ng LOGOUT\r\n";

/// A client vanishes after each octet of a conversation with literals, IDLE and replies; whoever comes after hears only
/// what is its own, and nothing is left.
#[tokio::test]
async fn a_client_may_vanish_after_any_octet() {
    let server = Server::start(Options { marker: true, ..Options::default() }).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.pool.max_per_account = 2).await;
    for cut in 0..=CONVERSATION.len() {
        let mut stream = connect(harness.address).await;
        stream.write_all(&CONVERSATION.as_bytes()[..cut]).await.unwrap();
        if cut % 3 == 0 {
            // Some read a little first.
            let mut some = [0; 64];
            let _read = soon("greeting", stream.read(&mut some)).await.unwrap();
        }
        vanish(stream, cut % 2 == 0);
        if cut % 8 == 0 {
            probe(&harness, cut).await;
        }
    }
    harness.sessions(0).await;
    until("no connection in use", || harness.connections("active") + harness.connections("connecting") == 0).await;
    assert!(harness.connections("") <= 2, "{}", harness.connections(""));
    probe(&harness, 0).await;
    harness.finish().await;
}

/// A session that is told only what it asked for.
async fn probe(harness: &Harness, round: usize) {
    let mut client = harness.login("u8").await;
    client
        .play(&format!("C: p{round} STATUS INBOX (MESSAGES)\nS: * STATUS \"INBOX\" (MESSAGES 10)\nS: p{round} OK…"))
        .await;
    client.play("C: q LOGOUT\nS: * BYE…\nS: q OK…\nS.").await;
}

/// Vanishes in the middle of a reply: short ones are read to their end, long ones cost the connection.
#[tokio::test]
async fn a_reply_is_drained_within_its_budget_of_octets() {
    for (size, budget, logins, reason) in [(200_000, 1 << 20, 1, "drain_budget"), (4 << 20, 1 << 20, 2, "drain_budget")]
    {
        let backend = Scripted::start(move |mut conn: Conn| async move {
            if conn.number == 1 {
                conn.play("C: SELECT INBOX\nS: TAG OK x\nC: FETCH 1 BODY[]").await;
                let tag = conn.tag.clone();
                conn.send(format!("* 1 FETCH (BODY[] {{{size}}}\r\n")).await;
                conn.send(vec![b'x'; size]).await;
                conn.send(format!(")\r\n{tag} OK done\r\n")).await;
            }
            conn.obey().await;
        })
        .await;
        let harness = Harness::start(backend.address, |config| config.pool.drain_bytes = budget).await;
        let mut client = harness.login("u8").await;
        client.play("C: a SELECT INBOX\nS: a OK x\nC: b FETCH 1 BODY[]").await;
        let _some = client.octets(100).await;
        drop(client);
        harness.sessions(0).await;
        until("drained", || harness.connections("active") == 0).await;
        let retired = harness.metric("imapool_upstream_retired_total", reason);
        assert_eq!(retired, logins - 1, "{size} of {budget}");
        harness.visit("u8").await;
        assert_eq!(backend.logins() as u64, logins, "{size} of {budget}");
        harness.finish().await;
    }
}

/// A backend that takes its time over a reply that nobody wants any more.
#[tokio::test]
async fn a_reply_is_drained_within_its_budget_of_time() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number == 1 {
            conn.play("C: LIST \"\" slow\nC.").await;
        } else {
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| config.pool.drain_timeout = Duration::from_millis(50)).await;
    let mut client = harness.login("u8").await;
    client.play("C: a LIST \"\" slow").await;
    until("LIST at the backend", || backend.received().contains("LIST")).await;
    client.reset();
    until("given up", || harness.metric("imapool_upstream_retired_total", "reason=\"drain_budget\"") == 1).await;
    until("closed", || harness.connections("") == 0 && backend.open() == 0).await;
    harness.visit("u8").await;
    harness.finish().await;
}

/// DONE and gone: DONE is said once, since a second one would be answered, and that reply would be the next session's.
#[tokio::test]
async fn done_is_said_once() {
    let (gate, gone) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let gone = gone.clone();
        async move {
            conn.play("C: SELECT INBOX\nS: TAG OK selected\nC: IDLE\nS: + idling\nC> DONE").await;
            gone.passed().await;
            conn.play("S: TAG OK idled").await;
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::by_session(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: s SELECT INBOX\nS: s OK selected\nC: a IDLE\nS: + idling").await;
    client.send("DONE\r\n").await;
    until("DONE at the backend", || backend.received().contains("DONE")).await;
    client.reset();
    harness.sessions(0).await;
    gate.open();
    harness.sessions(0).await;
    harness.at_rest(1).await;
    harness.visit("u8").await;
    assert_eq!(backend.received().matches("DONE").count(), 1, "{}", backend.received());
    assert_eq!(backend.logins(), 1);
    harness.finish().await;
}

/// Gone during IDLE: DONE is said for the client, and the connection is used again.
#[tokio::test]
async fn an_idle_that_was_left_is_ended() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        conn.play("C: SELECT INBOX\nS: TAG OK selected\nC: IDLE\nS: + idling\nS: * 3 EXISTS\nC> DONE\nS: * 4 EXISTS\nS: TAG OK idled").await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::by_session(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: s SELECT INBOX\nS: s OK selected\nC: a IDLE\nS: + idling\nS: * 3 EXISTS").await;
    drop(client);
    harness.at_rest(1).await;
    harness.visit("u8").await;
    assert_eq!(backend.logins(), 1);
    harness.finish().await;
}

/// Gone before the backend had a word on IDLE, which it refuses: DONE is not sent, as it would be a command then.
#[tokio::test]
async fn an_idle_that_is_refused_is_not_ended() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number > 1 {
            return conn.obey().await;
        }
        conn.play("C: SELECT INBOX\nS: TAG OK selected\nC: IDLE").await;
        // Wait for the client to be gone; see below.
        conn.play("C> DONE").await;
    })
    .await;
    let harness =
        Harness::by_session(backend.address, |config| config.pool.drain_timeout = Duration::from_millis(100)).await;
    let mut client = harness.login("u8").await;
    client.play("C: s SELECT INBOX\nS: s OK selected\nC: a IDLE").await;
    until("IDLE at the backend", || backend.received().contains("IDLE")).await;
    client.reset();
    until("given up", || harness.connections("") == 0).await;
    assert!(!backend.received().contains("DONE"), "{}", backend.received());
    harness.visit("u8").await;
    harness.sessions(0).await;
}

/// A proxy in front of a backend that reads no more once it has asked for a message on its first connection.
async fn before_one_that_stops_reading() -> Harness {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number > 1 {
            return conn.obey().await;
        }
        conn.play("C: APPEND…\nS: + go").await;
        std::future::pending::<()>().await;
    })
    .await;
    Harness::start(backend.address, |config| config.backends[0].reply_timeout = Duration::from_millis(500)).await
}

/// A client that vanishes while its message is stuck half way to a backend that has stopped reading.
#[tokio::test]
async fn a_backend_that_does_not_read_holds_nothing_for_ever() {
    let harness = before_one_that_stops_reading().await;
    let mut client = harness.login("u8").await;
    client.send("a APPEND INBOX {50000000+}\r\n").await;
    let piece = vec![b'x'; 1 << 20];
    // Until nothing moves any more.
    while tokio::time::timeout(Duration::from_millis(200), client.stream.write_all(&piece)).await.is_ok() {}
    drop(client);
    harness.sessions(0).await;
    until("given up", || harness.connections("") == 0).await;
    harness.visit("u8").await;
    harness.finish().await;
}

/// The same with a client that stays: it is told.
#[tokio::test]
async fn a_client_hears_that_the_backend_does_not_read() {
    let harness = before_one_that_stops_reading().await;
    let client = harness.login("u8").await;
    let (mut reader, mut writer) = tokio::io::split(client.into_stream());
    let writing = tokio::spawn(async move {
        let _cut = writer.write_all(b"a APPEND INBOX {50000000+}\r\n").await;
        let piece = vec![b'x'; 1 << 20];
        while writer.write_all(&piece).await.is_ok() {}
    });
    let mut said = vec![0; 300];
    let read = soon("a word", reader.read(&mut said)).await.unwrap();
    let said = String::from_utf8_lossy(&said[..read]).into_owned();
    assert!(said.starts_with("a NO [UNAVAILABLE]") && said.contains("unknown"), "{said}");
    writing.abort();
    drop((reader, writing.await));
    harness.sessions(0).await;
    until("given up", || harness.connections("") == 0).await;
    harness.finish().await;
}

/// While a message is stuck on its way, the backend talks: nobody waits for the other for ever.
#[tokio::test]
async fn a_backend_that_talks_during_append_blocks_nothing() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        conn.play("C: APPEND…\nS: + go").await;
        // The proxy has more than it can pass on; meanwhile, news, each by itself.
        tokio::time::sleep(Duration::from_millis(200)).await;
        for n in 0..20 {
            conn.send(format!("* OK still here {n}\r\n")).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let message = conn.octets(20_000_000).await;
        assert_eq!(message.len(), 20_000_000);
        conn.play("C> \nS: TAG OK appended").await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.send("a APPEND INBOX {20000000+}\r\n").await;
    client.send(vec![b'x'; 20_000_000]).await;
    client.send("\r\n").await;
    let lines = client.until(|line| line.starts_with("a ")).await;
    assert_eq!((lines.len(), lines[20].as_str()), (21, "a OK appended"));
    drop(client);
    harness.finish().await;
}
