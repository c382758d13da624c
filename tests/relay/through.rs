//! What clients say and hear, wherever their account is.

use std::sync::Arc;

use imapool::config::TlsMode;
use imapool::session::registry::Record;
use imapool_demo_server::{Options, Passwords};
use tokio::net::TcpStream;

use crate::ring::{MODES, Ring, inner_address};
use crate::support::tls::Certificates;
use crate::support::{Client, soon, until};

/// Every class of command: the replies to a client whose account is elsewhere are those that it gets where it is.
#[tokio::test]
async fn every_class_of_command() {
    for mode in MODES {
        let ring = Ring::new(mode).await;
        let (here, there) = (ring.user_of(0), ring.user_of(1));
        for user in [&here, &there] {
            let mut client = ring.login(0, user).await;
            client
                .play("C: a SELECT INBOX\nS~ a OK [READ-WRITE]…\nC: b CAPABILITY\nS: * CAPABILITY IMAP4rev1…\nS: b OK…")
                .await;
            let message = format!("Subject: x\r\n\r\n{}\r\n", "0123456789".repeat(30_000));
            client.play(&format!("C: c APPEND INBOX {{{}}}\nS: + …", message.len())).await;
            client.send(format!("{message}\r\n")).await;
            client.play("S~ c OK…").await;
            client.send(format!("d APPEND INBOX {{{}+}}\r\n{message}\r\n", message.len())).await;
            client.play("S~ d OK…").await;
            client.play("C: e NOOP\nS~ e OK…\nC: f UID SEARCH LARGER 200000\nS: * SEARCH …\nS: f OK…").await;
            client.send("g FETCH * BODY.PEEK[]\r\n").await;
            let wanted = format!(" FETCH (BODY[] {{{}}}", message.len());
            client.until(|line| line.ends_with(&wanted)).await;
            assert_eq!(client.octets(message.len()).await, message.as_bytes());
            client.play("S~ g OK…\nC: h IDLE\nS~ + …").await;
            ring.server.deliver(user, "INBOX", "Subject: news\r\n\r\n").unwrap();
            client.until(|line| line.ends_with(" EXISTS")).await;
            client.play("C: DONE\nS~ h OK…\nC: i XNONE\nS: i BAD…\nC: j LOGOUT\nS: * BYE…\nS: j OK…\nS.").await;
            ring.replicas[0].sessions(0).await;
        }
        ring.replicas[1].sessions(0).await;
        // Each account's connections are with its replica, and nothing is pooled towards another.
        assert_eq!(ring.relayed(0), 1, "of two sessions one has gone through");
        assert_eq!((ring.relayed(1), ring.relayed(2)), (0, 0));
        let accounts = |place: usize| {
            let accounts = ring.replicas[place].proxy().pools().accounts();
            accounts.iter().map(|account| account.name()).collect::<Vec<_>>()
        };
        assert_eq!([accounts(0), accounts(1), accounts(2)], [vec![here], vec![there], vec![]]);
        ring.finish().await;
    }
}

#[tokio::test]
async fn all_ways_to_log_in_and_what_is_sent_ahead() {
    for mode in MODES {
        let ring = Ring::new(mode).await;
        for user in [ring.user_of(0), ring.user_of(2)] {
            let plain = base64(&format!("\0{user}\0pw-{user}"));
            let name = base64(&user);
            let password = base64(&format!("pw-{user}"));
            for script in [
                format!(
                    "C- a LOGIN {user} pw-{user}\\r\\nb SELECT INBOX\\r\\nc LOGOUT\\r\\n\nS: a OK [CAPABILITY IMAP4rev1…"
                ),
                format!(
                    "C: a AUTHENTICATE PLAIN {plain}\nS: a OK [CAPABILITY IMAP4rev1…\nC- b SELECT INBOX\\r\\nc LOGOUT\\r\\n"
                ),
                format!("C: a AUTHENTICATE PLAIN\nS: + \nC- {plain}\\r\\nb SELECT INBOX\\r\\nc LOGOUT\\r\\n\nS: a OK…"),
                format!(
                    "C: a AUTHENTICATE LOGIN\nS: + …\nC: {name}\nS: + …\nC- {password}\\r\\nb SELECT INBOX\\r\\nc LOGOUT\\r\\n\nS: a OK…"
                ),
                format!(
                    "C- a LOGIN {{{}+}}\\r\\n{user} pw-{user}\\r\\nb SELECT INBOX\\r\\nc LOGOUT\\r\\n\nS: a OK…",
                    user.len()
                ),
            ] {
                let mut client = ring.replicas[0].client().await;
                client.play(&script).await;
                client.play("S~ b OK [READ-WRITE]…\nS: * BYE…\nS: c OK…\nS.").await;
            }
        }
        assert_eq!(ring.relayed(0), 5);
        ring.finish().await;
    }
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Its owner's words, and the session goes on; with the right password it goes through.
#[tokio::test]
async fn a_wrong_password() {
    for mode in MODES {
        let options = Options { passwords: Passwords::prefixed(), ..Options::default() };
        let ring = Ring::with(mode, 2, options, |_| ()).await;
        for user in [ring.user_of(0), ring.user_of(1)] {
            let mut client = ring.replicas[0].client().await;
            client.play(&format!("C: a LOGIN {user} wrong\nS: a NO [AUTHENTICATIONFAILED]…")).await;
            client.play(&format!("C: b NOOP\nS: b OK…\nC: c LOGIN {user} pw-{user}\nS: c OK…")).await;
            client.play("C: d SELECT INBOX\nS~ d OK…\nC: e LOGOUT\nS: * BYE…\nS: e OK…\nS.").await;
        }
        assert_eq!(ring.relayed(0), 1);
        ring.finish().await;
    }
}

/// STARTTLS with the client, TLS from the first octet between replicas, both certificates looked at.
#[tokio::test]
async fn tls_on_both_ways() {
    for mode in MODES {
        let authority = Certificates::new();
        let ring = Ring::with(mode, 2, Options::default(), |config| {
            authority.secure_listener(&mut config.listeners[0], TlsMode::StartTls);
            authority.secure_listener(&mut config.listeners[1], TlsMode::Implicit);
            for replica in config.backends.iter_mut().filter(|backend| backend.group.is_some()) {
                authority.secure_backend(replica, TlsMode::Implicit);
            }
        })
        .await;
        let user = ring.user_of(1);
        let tcp = TcpStream::connect(ring.replicas[0].address).await.unwrap();
        let mut plain = Client::over(tcp);
        plain.play("S: * OK…\nC: a STARTTLS\nS: a OK…").await;
        drop(plain);
        let mut tcp = TcpStream::connect(ring.replicas[0].address).await.unwrap();
        start_tls(&mut tcp).await;
        let mut client = Client::over(authority.connect(tcp).await.unwrap());
        client.play(&format!("C: b LOGIN {user} pw-{user}\nS: b OK…\nC: c SELECT INBOX\nS~ c OK…")).await;
        let message = "0123456789".repeat(100_000);
        client.send(format!("d APPEND INBOX {{{}+}}\r\n{message}\r\n", message.len())).await;
        client.play("S~ d OK…").await;
        client.send("e FETCH * BODY.PEEK[]\r\n").await;
        let wanted = format!(" FETCH (BODY[] {{{}}}", message.len());
        client.until(|line| line.ends_with(&wanted)).await;
        assert_eq!(client.octets(message.len()).await, message.as_bytes());
        client.play("S~ e OK…\nC: f LOGOUT\nS: * BYE…\nS: f OK…\nS.").await;
        assert_eq!(ring.relayed(0), 1);
        drop(client);
        ring.finish().await;
    }
}

async fn start_tls(tcp: &mut TcpStream) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut said = Vec::new();
    soon("STARTTLS", async {
        tcp.write_all(b"a STARTTLS\r\n").await.unwrap();
        while !String::from_utf8_lossy(&said).contains("\r\na OK") || !said.ends_with(b"\r\n") {
            tcp.read_buf(&mut said).await.unwrap();
        }
    })
    .await;
}

/// Who looks sees the session at the outer replica, and where it goes; its owner sees the client's address.
#[tokio::test]
async fn who_looks_sees_where_a_session_is() {
    let ring = Ring::new(MODES[0]).await;
    let user = ring.user_of(1);
    let mut client = ring.login(0, &user).await;
    client.play("C: a SELECT INBOX\nS~ a OK…").await;
    // Beside it there are checks.
    let is_its = |record: &Arc<Record>| record.user().as_deref() == Some(&*user);
    let [outer, owner] =
        [0, 1].map(|place| ring.replicas[place].proxy().registry().all().into_iter().find(is_its).unwrap());
    assert_eq!(outer.replica().map(|replica| &*replica.config.name), Some("r1"));
    assert!(owner.replica().is_none() && owner.user().as_deref() == Some(&*user));
    assert_eq!(outer.client.ip(), owner.client.ip());
    assert_eq!(ring.replicas[0].metric("imapool_upstream_connections", "backend=\"r1\",state=\"relayed\""), 1);
    let in_use = || {
        let proxy = ring.replicas[0].proxy();
        let backends = proxy.pools().backends();
        proxy.budget().usage(backends.iter().find(|backend| backend.config.name == "r1").unwrap().index).0
    };
    until("it alone to count in the budget", || in_use() == 1).await;
    assert!(ring.replicas[0].metric("imapool_backend_octets_total", "backend=\"r1\"") > 0);
    assert!(outer.received() > 0 && outer.sent() > 0);
    client.play("C: b LOGOUT\nS: * BYE…\nS: b OK…\nS.").await;
    ring.replicas[0].sessions(0).await;
    ring.replicas[2].logged(&["session ended", "relayed=\"r1\"", "close=\"logout\""]).await;
    until("nothing to count", || in_use() == 0).await;
    ring.finish().await;
}

/// What a replica holds of others is worked out for their checks alone: those come for nobody.
#[tokio::test]
async fn of_whom_nothing_is_held_is_told_to_checks_only() {
    let ring = Ring::new(MODES[0]).await;
    let inner = inner_address(&ring.replicas[0]);
    let loopback = inner.ip();
    for (header, told) in [
        ("PROXY TCP4 192.0.2.7 127.0.0.1 1143 143\r\n", false),
        ("PROXY UNKNOWN\r\n", true),
        // Whoever is on the same host as the replica that it comes by.
        (&*format!("PROXY TCP4 {loopback} {loopback} 0 143\r\n"), false),
    ] {
        let mut client = Client::over(TcpStream::connect(inner).await.unwrap());
        client.send(header).await;
        let greeting = client.line().await;
        for other in ["r1", "r2"] {
            assert_eq!(greeting.contains(&format!(" XIMAPOOL-FREE={other}")), told, "{header}{greeting}");
        }
    }
    ring.finish().await;
}
