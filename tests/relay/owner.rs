//! A replica that says what real ones say seldom.

use std::future::Future;
use std::net::SocketAddr;

use imapool::config::{Config, PoolMode};

use crate::ring::{MODES, parsed, take};
use crate::support::{Conn, Harness, Scripted};

const OFFERED: &str = "IMAP4rev1 SASL-IR LITERAL+ IDLE AUTH=PLAIN X-OWNER";

/// A replica that follows a script from a login on: it gets the connection and the login's line without its tag.
pub(crate) async fn owner<F>(script: impl Fn(Conn, String) -> F + Send + Sync + Clone + 'static) -> Scripted
where
    F: Future<Output = ()> + Send + 'static,
{
    Scripted::raw(move |mut conn| {
        let script = script.clone();
        async move {
            if !proxied(&mut conn).await {
                return;
            }
            conn.send(format!("* OK [CAPABILITY {OFFERED}] replica\r\n")).await;
            while let Some(command) = conn.command().await {
                if command != "CAPABILITY" {
                    return script(conn, command).await;
                }
                conn.play(&format!("S: * CAPABILITY {OFFERED}\nS: TAG OK told")).await;
            }
        }
    })
    .await
}

/// Reads the PROXY header; false: nothing came.
pub(crate) async fn proxied(conn: &mut Conn) -> bool {
    let head = conn.octets(16).await;
    let [.., high, low] = head[..] else { return false };
    if head.len() < 16 {
        return false;
    }
    assert_eq!(&head[..12], b"\r\n\r\n\0\r\nQUIT\n");
    conn.octets(usize::from(u16::from_be_bytes([high, low]))).await;
    true
}

/// In front of that replica, to which all sessions go.
pub(crate) async fn outer(replica: &Scripted, mode: PoolMode) -> Harness {
    outer_with(replica, |config| config.pool.mode = mode).await
}

pub(crate) async fn outer_with(replica: &Scripted, change: impl FnOnce(&mut Config)) -> Harness {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
    Harness::start(nowhere, |config| {
        take(config, parsed(nowhere, &[replica.address], None));
        change(config);
    })
    .await
}

/// Refusals go to the client word by word, and so does what the user is to see.
#[tokio::test]
async fn its_words_are_the_clients() {
    for mode in MODES {
        for words in [
            "NO [AUTHENTICATIONFAILED] wrong, {5} times",
            "NO [UNAVAILABLE] come again",
            "NO [LIMIT] there are too many connections of yours",
            "NO [EXPIRED] a new one, please",
            "NO nothing more to say",
            "BAD I do not like that",
        ] {
            let replica = owner(move |mut conn, _| async move {
                conn.play(&format!("S: * OK [ALERT] read this\nS: TAG {words}")).await;
                conn.gone().await;
            })
            .await;
            let harness = outer(&replica, mode).await;
            let mut client = harness.client().await;
            client.play(&format!("C: a LOGIN u p\nS: * OK [ALERT] read this\nS: a {words}")).await;
            client.play("C: b NOOP\nS: b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
            let throttled = harness.metric("imapool_logins_total", "refused");
            assert_eq!(throttled, u64::from(!words.contains("[UNAVAILABLE]") && !words.contains("[LIMIT]")), "{words}");
            harness.finish().await;
        }
    }
}

/// The capabilities that it told, and all that it says from then on, as it is: nothing is asked of it in between.
#[tokio::test]
async fn a_session_is_its_from_the_ok_on() {
    for mode in MODES {
        let replica = owner(|mut conn, login| async move {
            assert_eq!(login, "LOGIN \"u\" \"p\"");
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1 X-MINE] in\nS: * OK behind the OK").await;
            conn.play("C> b XYZZY\nC> \nC> no command\nS: b OK  spaces  stay \nS: *garbage\nC.").await;
        })
        .await;
        let harness = outer(&replica, mode).await;
        let mut client = harness.client().await;
        client.play("C: a LOGIN u p\nS: a OK [CAPABILITY IMAP4rev1 X-MINE SASL-IR LITERAL+ ID] Logged in").await;
        client.play("S: * OK behind the OK\nC: b XYZZY\nC: \nC: no command\nS: b OK  spaces  stay \nS: *garbage").await;
        client.reset();
        harness.finish().await;
    }
}
