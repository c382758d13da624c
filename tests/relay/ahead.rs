//! A login goes to a replica ahead of its greeting, once it is known what that one offers; and both are answered at
//! once.

use std::future::Future;

use imapool::config::PoolMode;
use imapool::proxy_protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::owner::outer;
use crate::ring::{MODES, Ring, inner_address};
use crate::support::{Conn, Harness, Scripted, soon, until};

const GREETING: &str = "* OK [CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN] replica\r\n";

/// A replica that greets checks, and of a session hears the login first: it gets the connection and the login's line
/// without its tag.
async fn listener<F>(script: impl Fn(Conn, String) -> F + Send + Sync + Clone + 'static) -> Scripted
where
    F: Future<Output = ()> + Send + 'static,
{
    Scripted::raw(move |mut conn| {
        let script = script.clone();
        async move {
            let head = conn.octets(16).await;
            if head.len() < 16 {
                return;
            }
            conn.octets(usize::from(u16::from_be_bytes([head[14], head[15]]))).await;
            let is_check = head[12] == 0x20;
            if is_check {
                conn.send(GREETING).await;
            }
            while let Some(command) = conn.command().await {
                if !is_check {
                    return script(conn, command).await;
                }
                conn.play("S: * CAPABILITY IMAP4rev1 SASL-IR LITERAL+ AUTH=PLAIN\nS: TAG OK told").await;
            }
        }
    })
    .await
}

/// In front of that replica, which has greeted once.
async fn in_front_of(replica: &Scripted, mode: PoolMode) -> Harness {
    let harness = outer(replica, mode).await;
    let backends = harness.proxy().pools().backends();
    until("a check to tell what it offers", || {
        backends.iter().any(|backend| backend.config.group.is_some() && backend.is_reachable())
    })
    .await;
    harness
}

#[tokio::test]
async fn a_login_does_not_wait_for_the_greeting() {
    for mode in MODES {
        let replica = listener(|mut conn, login| async move {
            assert_eq!(login, "LOGIN \"u\" \"p\"");
            conn.send(GREETING).await;
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1 X-MINE] in\nC> b NOOP\nS: b OK there").await;
            conn.gone().await;
        })
        .await;
        let harness = in_front_of(&replica, mode).await;
        let mut client = harness.client().await;
        client.play("C: a LOGIN u p\nS: a OK [CAPABILITY IMAP4rev1 X-MINE SASL-IR LITERAL+ ID] Logged in").await;
        client.play("C: b NOOP\nS: b OK there").await;
        client.reset();
        harness.finish().await;
    }
}

/// What comes in place of the greeting is no answer to the login: nobody's password was wrong, and the session goes on.
#[tokio::test]
async fn no_greeting_is_no_answer() {
    for said in ["", "* BYE [UNAVAILABLE] not now\r\n", "* PREAUTH in\r\n", "i0 NO [AUTHENTICATIONFAILED] wrong\r\n"] {
        let replica = listener(move |mut conn, _| async move { conn.send(said).await }).await;
        let harness = in_front_of(&replica, PoolMode::Multiplex).await;
        let mut client = harness.client().await;
        client.play("C: a LOGIN u p\nS: a NO [UNAVAILABLE]…\nC: b NOOP\nS: b OK…\nC: c LOGOUT\nS~ c OK…\nS.").await;
        assert_eq!(harness.metric("imapool_logins_total", "refused"), 0, "{said:?}");
        harness.finish().await;
    }
}

/// The refusal is the answer, wherever it comes: behind the greeting, and with it.
#[tokio::test]
async fn a_refusal_behind_the_greeting() {
    let replica = listener(|mut conn, _| async move {
        conn.send(format!("{GREETING}i0 NO [AUTHENTICATIONFAILED] not you\r\n")).await;
        conn.gone().await;
    })
    .await;
    let harness = in_front_of(&replica, PoolMode::Multiplex).await;
    let mut client = harness.client().await;
    client.play("C: a LOGIN u p\nS: a NO [AUTHENTICATIONFAILED] not you\nC: b LOGOUT\nS~ b OK…\nS.").await;
    assert_eq!(harness.metric("imapool_logins_total", "refused"), 1);
    harness.finish().await;
}

/// Whoever has said its login behind the PROXY header is greeted and answered in one go.
#[tokio::test]
async fn greeting_and_answer_go_together() {
    for mode in MODES {
        let ring = Ring::new(mode).await;
        let (user, inner) = (ring.user_of(0), inner_address(&ring.replicas[0]));
        let login = format!("a LOGIN {user} pw-{user}\r\n");
        // The second password is known at once.
        for round in 0..2 {
            let mut stream = soon("TCP", TcpStream::connect(inner)).await.unwrap();
            let header = proxy_protocol::header(Some("192.0.2.7".parse().unwrap()), inner);
            stream.write_all(&[&header, login.as_bytes()].concat()).await.unwrap();
            let mut said = Vec::with_capacity(4096);
            soon("the first words", stream.read_buf(&mut said)).await.unwrap();
            let first = String::from_utf8(said.clone()).unwrap();
            assert!(first.starts_with("* OK ") && (round == 0 || first.contains("\r\na OK ")), "{first}");
            while !said.windows(5).any(|octets| octets == b"a OK ") {
                soon("the answer", stream.read_buf(&mut said)).await.unwrap();
            }
        }
        ring.finish().await;
    }
}

/// One that says nothing behind its header is greeted at once.
#[tokio::test]
async fn who_waits_for_the_greeting_gets_it() {
    let ring = Ring::new(MODES[0]).await;
    let inner = inner_address(&ring.replicas[0]);
    let mut stream = soon("TCP", TcpStream::connect(inner)).await.unwrap();
    stream.write_all(&proxy_protocol::header(None, inner)).await.unwrap();
    let mut said = Vec::with_capacity(4096);
    soon("the greeting", stream.read_buf(&mut said)).await.unwrap();
    assert!(said.starts_with(b"* OK "));
    drop(stream);
    ring.finish().await;
}
