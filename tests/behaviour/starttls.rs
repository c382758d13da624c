//! What comes before TLS counts for nothing once TLS stands, on either side.

use imapool::config::{PlaintextLogin, TlsMode};
use tokio::net::TcpStream;

use crate::support::tls::Certificates;
use crate::support::{Client, Conn, Harness, Scripted, soon, until};

async fn tcp(harness: &Harness) -> TcpStream {
    let stream = soon("connect", TcpStream::connect(harness.address)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads a line off a bare socket, octet by octet, so that nothing beyond is taken.
async fn line(stream: &mut TcpStream) -> String {
    use tokio::io::AsyncReadExt as _;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(soon("a line", stream.read_u8()).await.unwrap());
    }
    String::from_utf8(line).unwrap()
}

async fn write(stream: &mut TcpStream, text: &str) {
    use tokio::io::AsyncWriteExt as _;
    soon("write", stream.write_all(text.as_bytes())).await.unwrap();
}

/// A proxy that takes no password before STARTTLS.
async fn only_with_tls(backend: &Scripted, certificates: &Certificates) -> Harness {
    Harness::start(backend.address, |config| {
        certificates.secure_listener(&mut config.listeners[0], TlsMode::StartTls);
        config.listeners[0].plaintext_login = PlaintextLogin::Never;
    })
    .await
}

/// Dovecot CVE-2021-33515, nginx CVE-2014-3556, PgBouncer CVE-2021-3935: commands that somebody on the wire put behind
/// STARTTLS are not run in the client's session.
#[tokio::test]
async fn what_a_client_sent_before_tls_is_thrown_away() {
    let certificates = Certificates::new();
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = only_with_tls(&backend, &certificates).await;
    let mut stream = tcp(&harness).await;
    let greeting = line(&mut stream).await;
    assert!(greeting.contains("STARTTLS") && greeting.contains("LOGINDISABLED"), "{greeting}");
    write(&mut stream, "a LOGIN u8 pw-u8\r\n").await;
    assert!(line(&mut stream).await.starts_with("a NO [PRIVACYREQUIRED]"));
    write(&mut stream, "b STARTTLS\r\nevil NOOP\r\nworse LOGIN mallory pw-mallory\r\nhalf a li").await;
    assert!(line(&mut stream).await.starts_with("b OK"));
    let mut client = Client::over(certificates.connect(stream).await.expect("TLS"));
    client
        .play(
            "C: c CAPABILITY
             S: * CAPABILITY…
             S: c OK…
             C: d LOGIN u8 pw-u8
             S: d OK…
             C: e LIST \"\" x
             S: e OK…
             C: f STARTTLS
             S: f BAD…
             C: g LOGOUT
             S: * BYE…
             S: g OK…",
        )
        .await;
    assert!(!backend.received().contains("mallory"), "{}", backend.received());
    drop(client);
    harness.finish().await;
}

/// The capabilities before TLS are not those after it.
#[tokio::test]
async fn with_tls_the_session_starts_over() {
    let certificates = Certificates::new();
    let backend = Scripted::start(|mut conn: Conn| async move { conn.obey().await }).await;
    let harness = only_with_tls(&backend, &certificates).await;
    let mut stream = tcp(&harness).await;
    line(&mut stream).await;
    write(&mut stream, "a STARTTLS\r\n").await;
    line(&mut stream).await;
    let mut client = Client::over(certificates.connect(stream).await.expect("TLS"));
    let capabilities = client.command("b CAPABILITY").await.remove(0);
    assert!(capabilities.contains("AUTH=PLAIN") && !capabilities.contains("STARTTLS"), "{capabilities}");
    assert!(!capabilities.contains("LOGINDISABLED"), "{capabilities}");
    drop(client);
    // No TLS after STARTTLS: the end, and a line for the operator.
    let mut stream = tcp(&harness).await;
    line(&mut stream).await;
    write(&mut stream, "a STARTTLS\r\n").await;
    line(&mut stream).await;
    write(&mut stream, "b LOGIN u8 pw-u8\r\n").await;
    let mut plain = Client::over(stream);
    let _alert = plain.rest().await;
    harness.logged(&["TLS handshake failed", "webmail"]).await;
    assert_eq!(backend.logins(), 0);
    harness.finish().await;
}

/// The same in the other direction: what was said before TLS is not the backend's word.
#[tokio::test]
async fn what_a_backend_said_before_tls_is_thrown_away() {
    let certificates = std::sync::Arc::new(Certificates::new());
    let theirs = std::sync::Arc::clone(&certificates);
    let backend = Scripted::raw(move |mut conn: Conn| {
        let acceptor = theirs.acceptor();
        async move {
            conn.play("S: * OK [CAPABILITY IMAP4rev1 STARTTLS X-EVIL] hi\nC: STARTTLS").await;
            let tag = conn.tag.clone();
            // With the reply, somebody on the wire says that the next commands have succeeded already.
            conn.send(format!("{tag} OK go\r\n* CAPABILITY IMAP4rev1 X-EVIL\r\ni1 OK done\r\ni2 OK in\r\n")).await;
            let mut conn = conn.secure(&acceptor).await;
            if conn.line_is("CAPABILITY").await {
                conn.play("S: * CAPABILITY IMAP4rev1 AUTH=PLAIN X-TRUE\nS: TAG OK done").await;
                if conn.log_in("IMAP4rev1 X-TRUE").await {
                    conn.obey().await;
                }
            }
        }
    })
    .await;
    let harness = Harness::start(backend.address, |config| {
        certificates.secure_backend(&mut config.backends[0], TlsMode::StartTls)
    })
    .await;
    let mut client = Client::connect(harness.address).await;
    let greeting = client.line().await;
    assert!(greeting.contains("X-TRUE") && !greeting.contains("X-EVIL"), "{greeting}");
    client.play("C: a LOGIN u8 pw-u8\nS: a OK…\nC: b LIST \"\" x\nS: b OK…").await;
    assert_eq!(backend.logins(), 1, "logged in by the backend's own word");
    drop(client);
    harness.finish().await;
}

/// PREAUTH skips STARTTLS, and login (RFC 9051 section 7.1.4): an error, with or without TLS.
#[tokio::test]
async fn preauth_is_an_error() {
    let certificates = Certificates::new();
    for mode in [TlsMode::StartTls, TlsMode::None] {
        let backend = Scripted::raw(|mut conn: Conn| async move {
            conn.send("* PREAUTH [CAPABILITY IMAP4rev1] welcome, root\r\n").await;
            while conn.line().await.is_some() {}
        })
        .await;
        let harness = Harness::start(backend.address, |config| {
            if mode == TlsMode::StartTls {
                certificates.secure_backend(&mut config.backends[0], mode);
            }
        })
        .await;
        let mut client = harness.client().await;
        client.play("C: a LOGIN u8 pw-u8\nS: a NO [UNAVAILABLE]…").await;
        harness.logged(&["WARN", "mail", "PREAUTH"]).await;
        assert_eq!(backend.received(), "", "not a word to it");
        drop(client);
        until("nothing open", || harness.connections("") == 0 && backend.open() == 0).await;
        harness.finish().await;
    }
}

/// A backend that does not do STARTTLS, however it says so: nobody's password is sent.
#[tokio::test]
async fn without_tls_at_the_backend_no_password_is_sent() {
    let certificates = Certificates::new();
    for reply in ["TAG BAD unknown", "TAG NO not now", "* BYE no"] {
        let backend = Scripted::raw(move |mut conn: Conn| async move {
            conn.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi\r\n").await;
            if conn.command().await.is_some() {
                conn.play(&format!("S: {reply}")).await;
                while conn.line().await.is_some() {}
            }
        })
        .await;
        let harness = Harness::start(backend.address, |config| {
            certificates.secure_backend(&mut config.backends[0], TlsMode::StartTls)
        })
        .await;
        let mut client = harness.client().await;
        client.play("C: a LOGIN u8 pw-u8\nS: a NO [UNAVAILABLE]…").await;
        harness.logged(&["WARN", "mail", if reply.contains("BYE") { "goodbye" } else { "STARTTLS" }]).await;
        assert!(!backend.received().contains("pw-u8"), "{}", backend.received());
        drop(client);
        harness.finish().await;
    }
}
