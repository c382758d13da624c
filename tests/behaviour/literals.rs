//! Literals: what is announced is what is read, on each side by itself; nothing else passes before the backend's word.

use std::time::Duration;

use imapool::config::PoolMode;

use crate::support::{Conn, Gate, Harness, Scripted, until};

/// Pingora CVE-2025-4366 and CVE-2026-2833: octets that pass before the server has agreed, or that are left unread
/// when it has not, are read as commands. Here: a backend without LITERAL+ that refuses an APPEND whose message the
/// client sends unasked, and in whose message a command stands.
#[tokio::test]
async fn a_refused_literal_is_never_sent() {
    let backend = Scripted::offering("IMAP4rev1 UNSELECT", |mut conn: Conn| async move {
        conn.play("C: APPEND INBOX {19}\nS: TAG NO [OVERQUOTA] full\nC: LIST \"\" x\nS: TAG OK listed").await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.send("a APPEND INBOX {19+}\r\nx1 DELETE INBOX\r\nab\r\nb LIST \"\" x\r\n").await;
    client.play("S: a NO [OVERQUOTA] full\nS: b OK listed").await;
    assert!(!backend.received().contains("DELETE"), "{}", backend.received());
    assert_eq!(backend.logins(), 1);
    drop(client);
    harness.finish().await;
}

/// RFC 9051 section 4.3: a server asks for a literal, or refuses it. Dovecot says nothing at all to an APPEND that it
/// does not understand, and would have refused one whose literal it need not ask for: the client hears so, and nobody
/// else waits for that connection.
#[tokio::test]
async fn a_literal_that_the_backend_does_not_ask_for_ends_the_wait() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        let backend = Scripted::start(|mut conn: Conn| async move {
            if conn.number > 1 {
                return conn.obey().await;
            }
            conn.play("C: APPEND INBOX UTF8 (~{5}").await;
            // It reads on, and sees the end.
            assert_eq!(conn.line().await, None);
        })
        .await;
        let harness = Harness::start(backend.address, |config| {
            config.pool.mode = mode;
            config.pool.max_per_account = 1;
            config.backends[0].reply_timeout = Duration::from_millis(300);
        })
        .await;
        let mut client = harness.login("u8").await;
        client.send("a APPEND INBOX UTF8 (~{5+}\r\nhello)\r\nb NOOP\r\n").await;
        client.play("S: a NO [UNAVAILABLE] The mail server did not ask…\nS: b OK…").await;
        drop(client);
        harness.visit("u8").await;
        harness.finish().await;
    }
}

/// A synchronising literal that is refused does not follow, and the next line is a command.
#[tokio::test]
async fn after_a_refusal_the_next_line_is_a_command() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        conn.play("C: APPEND nowhere {10}\nS: TAG NO [TRYCREATE] none\nC: LIST \"\" x\nS: TAG OK listed").await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: a APPEND nowhere {10}\nS: a NO [TRYCREATE] none\nC: b LIST \"\" x\nS: b OK listed").await;
    drop(client);
    harness.finish().await;
}

/// A backend that answers when it has asked for a message, but before it has read it, may read it all the same:
/// nothing of the next command is ever taken for the rest of the message, nor the rest for a command.
#[tokio::test]
async fn an_early_refusal_does_not_cut_a_message() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number == 1 {
            conn.play("C: APPEND INBOX {14}\nS: + go\nS: TAG NO [OVERQUOTA] full").await;
            let message = conn.octets(14).await;
            assert!(b"x1 DELETE mine".starts_with(&message), "{:?}", String::from_utf8_lossy(&message));
            let Some(end) = conn.line().await else { return };
            assert_eq!(end, "");
        }
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.send("a APPEND INBOX {14+}\r\nx1 DE").await;
    client.play("S: a NO [OVERQUOTA] full").await;
    client.send("LETE mine\r\nb LIST \"\" x\r\n").await;
    client.play("S: b OK done").await;
    drop(client);
    harness.finish().await;
}

/// The client vanishes in a message of which the backend has a part: nobody else gets that connection.
#[tokio::test]
async fn half_a_message_costs_the_connection() {
    for (sent, early) in [("hello", false), ("", false), ("hello", true)] {
        let (gate, gone) = Gate::pair();
        let backend = Scripted::start(move |mut conn: Conn| {
            let gone = gone.clone();
            async move {
                if conn.number > 1 {
                    return conn.obey().await;
                }
                conn.play("C: APPEND INBOX {12}\nS: + go").await;
                if early {
                    conn.play("S: TAG NO full").await;
                }
                gone.passed().await;
                let rest = conn.octets(100).await;
                assert!(rest.len() <= 5, "nothing is made up: {rest:?}");
            }
        })
        .await;
        let harness = Harness::start(backend.address, |_| {}).await;
        let mut client = harness.login("u8").await;
        client.send(format!("a APPEND INBOX {{12+}}\r\n{sent}")).await;
        until("APPEND at the backend", || backend.received().contains("APPEND")).await;
        if early {
            client.play("S: a NO full").await;
        }
        client.reset();
        harness.sessions(0).await;
        gate.open();
        until("given up", || harness.connections("") == 0).await;
        harness.visit("u8").await;
        assert_eq!(backend.logins(), 2);
        harness.finish().await;
    }
}

/// Before the backend has agreed to IDLE, what the client sends is not passed on; nor after, if it is not DONE.
#[tokio::test]
async fn nothing_passes_before_idle_is_agreed() {
    let (gate, held) = Gate::pair();
    let backend = Scripted::start(move |mut conn: Conn| {
        let held = held.clone();
        async move {
            conn.play("C: SELECT INBOX\nS: TAG OK selected\nC: IDLE").await;
            held.passed().await;
            conn.play("S: TAG NO not today\nC: LIST \"\" x\nS: TAG OK x").await;
            conn.play("C: IDLE\nS: + idling\nC> DONE\nS: TAG OK idled\nC: LIST \"\" y\nS: TAG OK y").await;
            conn.obey().await;
        }
    })
    .await;
    let harness = Harness::by_session(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.play("C: s SELECT INBOX\nS: s OK selected").await;
    client.send("a IDLE\r\nb LIST \"\" x\r\n").await;
    until("IDLE at the backend", || backend.received().contains("IDLE")).await;
    assert!(!backend.received().contains("LIST \"\" x"));
    gate.open();
    client.play("S: a NO not today\nS: b OK x").await;
    client.send("c IDLE\r\nd DELETE INBOX\r\ne LIST \"\" y\r\n").await;
    client.play("S: + idling\nS: c BAD Expected DONE.\nS: e OK y").await;
    assert!(!backend.received().contains("DELETE"), "{}", backend.received());
    drop(client);
    harness.finish().await;
}

/// COMPRESS would make one side's octets the other's garbage: it is neither offered nor passed on.
#[tokio::test]
async fn compress_is_not_passed_on() {
    let backend =
        Scripted::offering("IMAP4rev1 COMPRESS=DEFLATE", |mut conn: Conn| async move { conn.obey().await }).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    let capabilities = client.command("a CAPABILITY").await.concat();
    assert!(!capabilities.contains("COMPRESS"), "{capabilities}");
    client.play("C: b COMPRESS DEFLATE\nS: b BAD…\nC: c LIST \"\" x\nS: c OK done").await;
    assert!(!backend.received().contains("COMPRESS"));
    drop(client);
    harness.finish().await;
}

/// A literal is each side's own affair: what the client may send at once is asked for at a backend without LITERAL+,
/// and what stands in it, line ends and all, is octets.
#[tokio::test]
async fn literals_are_translated() {
    let backend = Scripted::offering("IMAP4rev1", |mut conn: Conn| async move {
        conn.play("C: CREATE {9}\nS: + go").await;
        assert_eq!(conn.octets(9).await, b"a\r\nb {3}\r");
        conn.play("C> \nS: TAG OK created\nC: APPEND INBOX {4}\nS: + go").await;
        assert_eq!(conn.octets(4).await, b"\r\n\0\xff");
        conn.play("C> \nS: TAG OK appended").await;
        conn.obey().await;
    })
    .await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    client.send("a CREATE {9+}\r\na\r\nb {3}\r\r\n").await;
    client.play("S: a OK created").await;
    client.send(b"b APPEND INBOX {4+}\r\n\r\n\0\xff\r\n").await;
    client.play("S: b OK appended").await;
    drop(client);
    harness.finish().await;
}

/// A client that never sends the message it announced is ended in the end, and its connection with it.
#[tokio::test]
async fn a_message_that_never_comes_ends_the_session() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        if conn.number > 1 {
            return conn.obey().await;
        }
        conn.play("C: APPEND INBOX {12}\nS: + go\nC.").await;
    })
    .await;
    let harness =
        Harness::start(backend.address, |config| config.limits.idle_timeout = Duration::from_millis(300)).await;
    let mut client = harness.login("u8").await;
    client.play("C: a APPEND INBOX {12}\nS: + go\nS: * BYE…\nS.").await;
    harness.sessions(0).await;
    until("given up", || harness.connections("") == 0).await;
    harness.finish().await;
}
