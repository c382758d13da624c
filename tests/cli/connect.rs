//! `imapool check --connect`: the step that failed, and what to do; in front of servers that do what they like.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::place::{Done, NAME, Place};

/// Does this with each connection.
async fn server<F, A>(act: F) -> SocketAddr
where
    F: Fn(TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(act(stream));
        }
    });
    address
}

/// Greets, and answers each command alike; until STARTTLS.
async fn speak<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, greeting: &str, answer: &str) {
    let _gone = stream.write_all(greeting.as_bytes()).await;
    let mut heard = Vec::new();
    while let Ok(octet) = stream.read_u8().await {
        heard.push(octet);
        if octet == b'\n' {
            let line = String::from_utf8_lossy(&std::mem::take(&mut heard)).into_owned();
            let Some((tag, command)) = line.trim().split_once(' ') else { continue };
            let _gone = stream.write_all(answer.replace("TAG", tag).as_bytes()).await;
            if command == "STARTTLS" {
                return;
            }
        }
    }
}

fn acceptor(place: &Place) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(place.read("cert.pem").as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(place.read("key.pem").as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

/// With time limits that a test can wait for.
async fn check(place: &Arc<Place>, address: &str, more: &str) -> Done {
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[backend]]\nname = \"mail\"\naddress = \"{address}\"\n\
         connect_timeout = \"500ms\"\nlogin_timeout = \"500ms\"\n{more}\n[pool]\ncheckout_timeout = \"500ms\"\n"
    );
    let place = Arc::clone(place);
    tokio::task::spawn_blocking(move || place.check(text, &["--connect"])).await.unwrap()
}

const CAPABILITIES: &str = "* OK [CAPABILITY IMAP4rev1 IDLE STARTTLS AUTH=PLAIN] hello\r\n";
const ANSWER: &str = "* CAPABILITY IMAP4rev1 IDLE STARTTLS AUTH=PLAIN\r\nTAG OK done\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_is_told() {
    let place = Arc::new(Place::new());
    let plain = server(async |mut stream| speak(&mut stream, CAPABILITIES, ANSWER).await).await;
    let done = check(&place, &plain.to_string(), "").await;
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    let wanted = format!(
        "\nThe servers:\n  backend \"mail\" at {plain}: {plain} answers without TLS; offers IMAP4rev1 IDLE AUTH=PLAIN\n"
    );
    assert!(done.stdout.ends_with(&wanted), "{done:?}");
    let tls = acceptor(&place);
    let implicit = server(move |stream| {
        let tls = tls.clone();
        async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            speak(&mut stream, CAPABILITIES, ANSWER).await;
        }
    })
    .await;
    let settings = format!("server_name = \"{NAME}\"\nca_file = \"ca.pem\"\n");
    let done = check(&place, &implicit.to_string(), &format!("{settings}tls = \"implicit\"")).await;
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    assert!(done.stdout.contains("answers by TLSv1_3, certificate verified; offers IMAP4rev1"), "{done:?}");
    let tls = acceptor(&place);
    let starttls = server(move |mut stream| {
        let tls = tls.clone();
        async move {
            speak(&mut stream, CAPABILITIES, "TAG OK go\r\n").await;
            let Ok(mut stream) = tls.accept(stream).await else { return };
            let answer = "* CAPABILITY IMAP4rev1 QRESYNC\r\nTAG OK done\r\n";
            speak(&mut stream, "", answer).await;
        }
    })
    .await;
    let done = check(&place, &starttls.to_string(), &format!("{settings}tls = \"starttls\"")).await;
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""), "{done:?}");
    assert!(done.stdout.contains("certificate verified; offers IMAP4rev1 QRESYNC"), "{done:?}");
    // One that will soon be refused.
    place.issue(-90, 3);
    let tls = acceptor(&place);
    let old = server(move |stream| {
        let tls = tls.clone();
        async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            speak(&mut stream, CAPABILITIES, ANSWER).await;
        }
    })
    .await;
    let done = check(&place, &old.to_string(), &format!("{settings}tls = \"implicit\"")).await;
    assert_eq!(done.code, Some(0));
    assert!(done.stderr.contains("the server's certificate expires at 20"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_that_failed_is_told_with_the_remedy() {
    let place = Arc::new(Place::new());
    let implicit = "; if it expects TLS from the first octet there, as on port 993, write tls = \"implicit\"\n";
    let silent = server(async |stream| {
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    let endless = server(async |mut stream| while stream.write_all(&[b'x'; 4096]).await.is_ok() {}).await;
    let literals = server(async |mut stream| while stream.write_all(b"* X {4294967296}\r\nx").await.is_ok() {}).await;
    // Before or after it was seen to be connected.
    let resets = server(async |stream| stream.set_zero_linger().unwrap()).await;
    let closes = server(async |stream| drop(stream)).await;
    let busy = server(async |mut stream| {
        let _gone = stream.write_all(b"* BYE no service for you\r\n").await;
    })
    .await;
    let disabled = "* CAPABILITY IMAP4rev1 LOGINDISABLED\r\nTAG OK done\r\n";
    let disabled = server(async |mut stream| speak(&mut stream, "* OK hello\r\n", disabled).await).await;
    let web = server(async |mut stream| speak(&mut stream, "HTTP/1.1 400 Bad Request\r\n", "").await).await;
    let known = server(async |mut stream| speak(&mut stream, "* PREAUTH hello\r\n", "").await).await;
    let tls = acceptor(&place);
    let speaks_tls = server(move |stream| {
        let tls = tls.clone();
        async move { drop(tls.accept(stream).await) }
    })
    .await;
    let alerts = server(async |mut stream| {
        let _gone = stream.write_all(&[0x15, 3, 1, 0, 2, 2, 70, b'\r', b'\n']).await;
    })
    .await;
    for (address, step, parts) in [
        ("127.0.0.1:1".to_owned(), "connecting", &["refuses connections: is the IMAP server running"][..]),
        (
            "nowhere.invalid:143".to_owned(),
            "resolving",
            &["cannot resolve nowhere.invalid", "check the backend's address"],
        ),
        (silent.to_string(), "greeting", &["did not answer within 500ms: it hangs, or is overloaded;", implicit]),
        (endless.to_string(), "greeting", &["does not speak IMAP: unexpected \"a line without end\"", implicit]),
        (literals.to_string(), "greeting", &["unexpected", implicit]),
        (resets.to_string(), "", &["; i"]),
        (closes.to_string(), "greeting", &["closed the connection", implicit]),
        (busy.to_string(), "greeting", &["no service for you"]),
        (disabled.to_string(), "login", &["offers no way to log in", "set backend.tls?"]),
        (web.to_string(), "greeting", &["HTTP/1.1 400 Bad Request", implicit]),
        (known.to_string(), "greeting", &["PREAUTH"]),
        (speaks_tls.to_string(), "greeting", &[implicit]),
        (alerts.to_string(), "greeting", &["does not speak IMAP", implicit]),
    ] {
        let done = check(&place, &address, "").await;
        assert_eq!(done.code, Some(1), "{address}: {done:?}");
        let told = done.stderr.lines().last().unwrap().to_owned() + "\n";
        let head = if step.is_empty() { String::new() } else { format!("{step}: ") };
        assert!(told.starts_with(&format!("backend \"mail\" at {address}: {head}")), "{told}");
        assert!(parts.iter().all(|part| told.contains(part)), "{parts:?}: {told}");
        assert!(!told.trim_end().contains(char::is_control), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_that_cannot_be_had_is_told_with_the_remedy() {
    let place = Arc::new(Place::new());
    let settings = format!("server_name = \"{NAME}\"\nca_file = \"ca.pem\"\n");
    let plain = server(async |mut stream| speak(&mut stream, CAPABILITIES, ANSWER).await).await;
    let without =
        server(async |mut stream| speak(&mut stream, "* OK hello\r\n", "TAG BAD no such command\r\n").await).await;
    let closes = server(async |mut stream| drop(stream.read_u8().await)).await;
    let silent = server(async |stream| {
        let _kept = stream;
        std::future::pending().await
    })
    .await;
    let falls_silent = server(async |mut stream| {
        speak(&mut stream, CAPABILITIES, "TAG OK go\r\n").await;
        std::future::pending().await
    })
    .await;
    let secure = async || {
        let tls = acceptor(&place);
        server(move |stream| {
            let tls = tls.clone();
            async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                speak(&mut stream, CAPABILITIES, ANSWER).await;
            }
        })
        .await
    };
    let good = secure().await;
    place.issue(-60, -1);
    let expired = secure().await;
    let wrong_name = settings.replace(NAME, "other.example.org");
    let unknown = format!("server_name = \"{NAME}\"\nca_file = \"cert.pem\"\n");
    for (address, settings, tls, step, parts) in [
        (plain, &settings, "implicit", "TLS", "it may want STARTTLS, or no TLS"),
        (silent, &settings, "implicit", "TLS", "does it begin TLS with the first octet there?"),
        (closes, &settings, "implicit", "TLS", "does it begin TLS with the first octet there?"),
        (expired, &settings, "implicit", "TLS", "the certificate has expired: renew it on the server"),
        (good, &wrong_name, "implicit", "TLS", "set server_name to a name it carries"),
        (good, &unknown, "implicit", "TLS", "signed by an unknown authority: set ca_file"),
        (without, &settings, "starttls", "STARTTLS", "write tls = \"implicit\" and the port for it"),
        (falls_silent, &settings, "starttls", "TLS", "the TLS handshake was not finished within"),
        (silent, &settings, "starttls", "greeting", "write tls = \"implicit\""),
    ] {
        let done = check(&place, &address.to_string(), &format!("{settings}tls = \"{tls}\"")).await;
        assert_eq!(done.code, Some(1), "{done:?}");
        let told = done.stderr.lines().last().unwrap();
        assert!(told.starts_with(&format!("backend \"mail\" at {address}: {step}: ")), "{told}");
        assert!(told.contains(parts), "{tls}, {parts}: {told}");
    }
}

/// Each is asked, whatever becomes of the others; and none without the option.
#[tokio::test(flavor = "multi_thread")]
async fn all_backends_are_asked_at_once() {
    let place = Arc::new(Place::new());
    let plain = server(async |mut stream| speak(&mut stream, CAPABILITIES, ANSWER).await).await;
    let more = format!("[[backend]]\nname = \"spare\"\naddress = \"{plain}\"\n");
    let done = check(&place, "127.0.0.1:1", &more).await;
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("backend \"mail\" at 127.0.0.1:1: connecting: "), "{done:?}");
    assert!(done.stdout.contains(&format!("backend \"spare\" at {plain}: {plain} answers")), "{done:?}");
    let done = place.run(&["check", "-c", "imapool.toml"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(!done.stdout.contains("The servers"), "{done:?}");
}
