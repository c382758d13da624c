//! TLS towards clients and towards backends: what is accepted, what is refused and in which words.

use std::fs;
use std::path::Path;
use std::time::Duration;

use imapool::config::{self, ListenAddr, TlsMode};
use imapool::listener::{self, BindProblem, BoundListener, HandshakeError, prepare};
use imapool::metrics::DialResult;
use imapool::net::Net;
use imapool::stream::{Socket, Stream};
use imapool::tls::{CertificateProblem, CertificateStore, TlsConfigError, TlsConnectorConfig, TlsError};
use imapool::upstream::dial::{DialError, Dialer};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use crate::support::{
    Authority, Folder, LIMIT, Pair, accept_from, backend, listener, pass, port_of, soon, tcp_listener,
};

const NAME: &str = "mail.example.org";

/// A listener with implicit TLS that shows `pair`, and a backend configuration that leads to it and trusts `ca`.
fn set_up(folder: &Folder, pair: &Pair, ca: &str) -> (BoundListener, config::Backend) {
    let mut config = tcp_listener();
    config.tls = TlsMode::Implicit;
    pair.install(&folder.0, &mut config);
    let listener = BoundListener::bind(&config).unwrap();
    let mut backend = backend("127.0.0.1", port_of(&listener));
    backend.tls = TlsMode::Implicit;
    backend.ca_file = Some(folder.file("ca.pem", ca));
    (listener, backend)
}

/// Both ends of one connection.
async fn connect(
    listener: &BoundListener,
    dialer: &Dialer,
) -> (Result<Stream, DialError>, Result<listener::Accepted, HandshakeError>) {
    soon(async {
        tokio::join!(dialer.connect(pass(), None, &[]), async {
            let (stream, peer) = listener.accept().await;
            prepare(stream, peer, listener.context(), LIMIT).await
        })
    })
    .await
}

/// Bytes go both ways, a MiB at once too.
async fn talk(mut one: Stream, mut other: Stream) {
    let big: Vec<u8> = (0..1 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let (mut at_other, mut at_one) = (vec![0; big.len()], [0; 9]);
    soon(async {
        let sent = async {
            one.write_all(&big).await?;
            one.flush().await?;
            one.read_exact(&mut at_one).await
        };
        let received = async {
            other.read_exact(&mut at_other).await?;
            other.write_all(b"a1 OK hi\n").await?;
            other.flush().await
        };
        let (sent, received) = tokio::join!(sent, received);
        sent.unwrap();
        received.unwrap();
    })
    .await;
    assert!(at_other == big);
    assert_eq!(&at_one, b"a1 OK hi\n");
}

#[tokio::test]
async fn the_right_certificate_is_accepted_and_a_second_connection_resumes() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let (listener, backend) = set_up(&folder, &ca.sign(NAME), &ca.pem);
    let dialer = Dialer::new(&backend, Net::System).unwrap();
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let (client, server) = connect(&listener, &dialer).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        assert_eq!(client.tls_version(), Some("TLSv1_3"));
        assert!(server.stream.is_tls() && server.stream.tls_version() == client.tls_version());
        assert_eq!(server.client.ip(), client.local_address().map(|address| address.ip()));
        let Stream::Tls(tls) = &client else { panic!("{client:?} is no TLS") };
        assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"imap"[..]));
        kinds.push(tls.get_ref().1.handshake_kind().unwrap());
        talk(client, server.stream).await;
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
}

async fn refusal(pair: &Pair, ca: &str) -> CertificateProblem {
    let folder = Folder::new();
    let (listener, backend) = set_up(&folder, pair, ca);
    let (client, server) = connect(&listener, &Dialer::new(&backend, Net::System).unwrap()).await;
    assert!(matches!(server, Err(HandshakeError::Tls(TlsError::Protocol(_)))), "{server:?}");
    match client {
        Err(error @ DialError::Tls { .. }) => {
            assert_eq!(error.result(), DialResult::Tls);
            let DialError::Tls { source: TlsError::Certificate(problem), .. } = error else { panic!("{error:?}") };
            problem
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_name_is_refused_and_the_right_ones_are_told() {
    let ca = Authority::new();
    let problem = refusal(&ca.sign("imap.example.net"), &ca.pem).await;
    assert_eq!(
        problem,
        CertificateProblem::WrongName { server_name: NAME.into(), presented: "imap.example.net".into() }
    );
    assert!(problem.to_string().contains("set server_name"), "{problem}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let ca = Authority::new();
    let pair = ca.sign_with(NAME, |params| params.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(
        refusal(&pair, &ca.pem).await,
        CertificateProblem::Expired(Some(date_time_ymd(2020, 1, 1).unix_timestamp()))
    );
}

#[tokio::test]
async fn a_certificate_of_the_future_is_refused() {
    let ca = Authority::new();
    let pair = ca.sign_with(NAME, |params| params.not_before = date_time_ymd(4000, 1, 1));
    assert_eq!(refusal(&pair, &ca.pem).await, CertificateProblem::NotValidYet);
}

#[tokio::test]
async fn an_unknown_authority_is_refused() {
    // The second has our authority's name, but not its key.
    for other in ["Another Authority", "Test Authority"] {
        let problem = refusal(&Authority::named(other).sign(NAME), &Authority::new().pem).await;
        assert_eq!(problem, CertificateProblem::UnknownIssuer);
        assert!(problem.to_string().contains("ca_file"), "{problem}");
    }
}

#[tokio::test]
async fn a_self_signed_server_certificate_that_is_a_ca_is_refused_with_the_remedy() {
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pair = Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() };
    let problem = refusal(&pair, &pair.certificate).await;
    assert!(matches!(problem, CertificateProblem::Other(_)), "{problem:?}");
    assert!(problem.to_string().contains("basicConstraints=CA:FALSE"), "{problem}");
}

#[tokio::test]
async fn the_systems_roots_do_not_know_a_private_authority() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let (listener, mut backend) = set_up(&folder, &ca.sign(NAME), &ca.pem);
    backend.ca_file = None;
    // A host without any roots says so when the dialer is made.
    let dialer = match Dialer::new(&backend, Net::System) {
        Ok(dialer) => dialer,
        Err(error) => return assert!(matches!(error, TlsConfigError::SystemRoots(_)), "{error}"),
    };
    let (client, _) = connect(&listener, &dialer).await;
    let Err(DialError::Tls { source: TlsError::Certificate(problem), .. }) = client else { panic!("{client:?}") };
    assert_eq!(problem, CertificateProblem::UnknownIssuer);
}

#[tokio::test]
async fn a_backend_without_tls_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (folder, ca) = (Folder::new(), Authority::new());
    let mut backend = backend("127.0.0.1", listener.local_addr().unwrap().port());
    backend.tls = TlsMode::Implicit;
    backend.ca_file = Some(folder.file("ca.pem", &ca.pem));
    let dialer = Dialer::new(&backend, Net::System).unwrap();
    let greet = async {
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"* OK IMAP4rev1 ready\r\n").await.unwrap();
        server
    };
    let (result, _server) = soon(async { tokio::join!(dialer.connect(pass(), None, &[]), greet) }).await;
    let Err(error @ DialError::Tls { source: TlsError::NotTls, .. }) = result else { panic!("{result:?}") };
    assert!(error.to_string().contains("STARTTLS"), "{error}");
}

#[tokio::test]
async fn a_client_without_tls_one_that_leaves_and_one_that_is_silent_are_told_apart() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let (listener, _) = set_up(&folder, &ca.sign(NAME), &ca.pem);

    let (mut client, (stream, peer)) = accept_from(&listener).await;
    client.write_all(b"a1 LOGIN user secret\r\n").await.unwrap();
    let error = soon(prepare(stream, peer, listener.context(), LIMIT)).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Tls(TlsError::NotTls)), "{error:?}");
    assert!(!error.to_string().contains("secret"));

    let (client, (stream, peer)) = accept_from(&listener).await;
    drop(client);
    let error = soon(prepare(stream, peer, listener.context(), LIMIT)).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Closed), "{error:?}");

    let (_client, (stream, peer)) = accept_from(&listener).await;
    let limit = Duration::from_millis(50);
    let error = soon(prepare(stream, peer, listener.context(), limit)).await.unwrap_err();
    assert!(matches!(error, HandshakeError::Timeout(l) if l == limit), "{error:?}");
    assert_eq!(error.label(), "timeout");
}

#[tokio::test]
async fn starttls_on_both_sides() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let mut config = tcp_listener();
    config.tls = TlsMode::StartTls;
    ca.sign(NAME).install(&folder.0, &mut config);
    let listener = BoundListener::bind(&config).unwrap();
    let mut backend = backend("127.0.0.1", port_of(&listener));
    backend.tls = TlsMode::StartTls;
    backend.ca_file = Some(folder.file("ca.pem", &ca.pem));
    let dialer = Dialer::new(&backend, Net::System).unwrap();

    let (client, server) = connect(&listener, &dialer).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap().stream);
    assert!(!client.is_tls() && !server.is_tls());
    client.write_all(b"a STARTTLS\r\n").await.unwrap();
    let mut command = [0; 12];
    soon(server.read_exact(&mut command)).await.unwrap();
    let tls = listener.context().tls.as_ref().unwrap();
    let (client, server) =
        soon(async { tokio::join!(dialer.start_tls(client), server.server_handshake(tls, LIMIT)) }).await;
    talk(client.unwrap(), server.unwrap()).await;
}

#[tokio::test]
async fn tls_does_not_begin_twice() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let (listener, backend) = set_up(&folder, &ca.sign(NAME), &ca.pem);
    let dialer = Dialer::new(&backend, Net::System).unwrap();
    let (client, server) = connect(&listener, &dialer).await;
    let error = dialer.start_tls(client.unwrap()).await.unwrap_err();
    assert!(matches!(error, DialError::Tls { source: TlsError::AlreadyTls, .. }), "{error:?}");
    let tls = listener.context().tls.as_ref().unwrap();
    let error = server.unwrap().stream.server_handshake(tls, LIMIT).await.unwrap_err();
    assert!(matches!(error, TlsError::AlreadyTls), "{error:?}");
}

#[tokio::test]
async fn tls_over_a_unix_socket() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let path = folder.0.join("imap.sock");
    let mut config = listener(ListenAddr::Unix(path.clone()));
    config.tls = TlsMode::Implicit;
    ca.sign(NAME).install(&folder.0, &mut config);
    let listener = BoundListener::bind(&config).unwrap();
    let mut backend = backend("unused", 1);
    backend.ca_file = Some(folder.file("ca.pem", &ca.pem));
    let tls = TlsConnectorConfig::new(&backend).unwrap();
    let client = async {
        let unix = UnixStream::connect(&path).await.unwrap();
        Stream::Plain(Socket::Unix(unix)).client_handshake(&tls, LIMIT).await.unwrap()
    };
    let server = async {
        let (stream, peer) = listener.accept().await;
        prepare(stream, peer, listener.context(), LIMIT).await.unwrap().stream
    };
    let (client, server) = soon(async { tokio::join!(client, server) }).await;
    talk(client, server).await;
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let (one, two) = (ca.sign(NAME), ca.sign(NAME));
    let certificate = folder.file("cert.pem", &one.certificate);
    let key = folder.file("key.pem", &one.key);
    let load = |certificate: &Path, key: &Path| CertificateStore::load(certificate, key).unwrap_err();

    CertificateStore::load(&certificate, &key).unwrap();
    let error = load(&certificate, &folder.file("other.pem", &two.key));
    assert!(matches!(error, TlsConfigError::Mismatch { .. }), "{error:?}");
    assert!(error.to_string().contains("cert.pem") && error.to_string().contains("other.pem"), "{error}");

    let error = load(&certificate, &folder.0.join("none.pem"));
    assert!(matches!(&error, TlsConfigError::Read { path, .. } if path.ends_with("none.pem")), "{error:?}");
    let error = load(&key, &key);
    assert!(matches!(&error, TlsConfigError::NoCertificate { path } if *path == key), "{error:?}");
    let error = load(&certificate, &certificate);
    assert!(matches!(&error, TlsConfigError::NoKey { path } if *path == certificate), "{error:?}");
    let encrypted = one.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let error = load(&certificate, &folder.file("encrypted.pem", &encrypted));
    assert!(matches!(error, TlsConfigError::NoKey { .. }), "{error:?}");
    let error = load(&certificate, &folder.file("cut.pem", &one.key[..60]));
    assert!(matches!(error, TlsConfigError::Pem { .. }), "{error:?}");
    let junk = "-----BEGIN CERTIFICATE-----\nanVuaw==\n-----END CERTIFICATE-----\n";
    let error = load(&folder.file("junk.pem", junk), &key);
    assert!(matches!(error, TlsConfigError::BadCertificate { .. }), "{error:?}");
    let error = load(&certificate, &folder.file("junk.key", &junk.replace("CERTIFICATE", "PRIVATE KEY")));
    assert!(matches!(error, TlsConfigError::BadKey { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_wrong_with_a_configuration_is_said_before_serving() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let mut config = tcp_listener();
    config.tls = TlsMode::Implicit;
    let error = BoundListener::bind(&config).unwrap_err();
    assert!(matches!(error.reason, BindProblem::Tls(TlsConfigError::NotConfigured)), "{error:?}");
    ca.sign(NAME).install(&folder.0, &mut config);
    config.private_key = Some(folder.file("other.pem", &ca.sign(NAME).key));
    let error = BoundListener::bind(&config).unwrap_err();
    assert!(error.to_string().contains("\"webmail\"") && error.to_string().contains("other.pem"), "{error}");

    let mut backend = backend("127.0.0.1", 1);
    backend.tls = TlsMode::StartTls;
    backend.ca_file = Some(folder.file("empty.pem", ""));
    let error = Dialer::new(&backend, Net::System).unwrap_err();
    assert!(matches!(error, TlsConfigError::NoCertificate { .. }), "{error:?}");
    backend.server_name = "not a name".into();
    let error = Dialer::new(&backend, Net::System).unwrap_err();
    assert!(matches!(error, TlsConfigError::ServerName { .. }), "{error:?}");
}

/// As Kubernetes exchanges a secret: the files are behind a symlink to a folder, and that symlink is replaced.
#[tokio::test]
async fn certificates_are_exchanged_while_running() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let [first, second, broken] = ["first", "second", "broken"].map(|name| {
        let path = folder.0.join(name);
        fs::create_dir(&path).unwrap();
        path
    });
    let point_to = |target: &Path| {
        let temporary = folder.0.join("temporary");
        std::os::unix::fs::symlink(target, &temporary).unwrap();
        fs::rename(temporary, folder.0.join("current")).unwrap();
    };
    let mut config = tcp_listener();
    config.tls = TlsMode::Implicit;
    ca.sign("old.example.org").install(&first, &mut config);
    ca.sign(NAME).install(&second, &mut config);
    ca.sign(NAME).install(&broken, &mut config);
    fs::write(broken.join("key.pem"), &ca.sign(NAME).key).unwrap();
    config.certificate = Some(folder.0.join("current/fullchain.pem"));
    config.private_key = Some(folder.0.join("current/key.pem"));
    point_to(&first);
    let listener = BoundListener::bind(&config).unwrap();
    let store = listener.context().tls.as_ref().unwrap().certificates();
    let mut backend = backend("127.0.0.1", port_of(&listener));
    backend.tls = TlsMode::Implicit;
    backend.ca_file = Some(folder.file("ca.pem", &ca.pem));
    let dialer = Dialer::new(&backend, Net::System).unwrap();

    assert!(store.renew().is_empty());
    assert!(connect(&listener, &dialer).await.0.is_err(), "it is for another name");
    point_to(&second);
    assert_eq!(store.renew().taken, [config.certificate.unwrap()]);
    assert!(store.renew().is_empty());
    connect(&listener, &dialer).await.0.unwrap();

    point_to(&broken);
    let renewal = store.renew();
    assert!(matches!(&renewal.problems[..], [TlsConfigError::Mismatch { .. }]), "{renewal:?}");
    assert!(store.renew().is_empty(), "reported once");
    // Not resumed: the certificate must be shown again.
    connect(&listener, &Dialer::new(&backend, Net::System).unwrap()).await.0.unwrap();
    fs::remove_file(broken.join("key.pem")).unwrap();
    assert_eq!(store.renew().problems.len(), 1, "the next half of the change");
}

/// The end of the bytes is the same with TLS and without, whether the other side says close_notify or not.
#[tokio::test]
async fn an_end_without_close_notify_is_an_end() {
    let (folder, ca) = (Folder::new(), Authority::new());
    let (listener, backend) = set_up(&folder, &ca.sign(NAME), &ca.pem);
    let (client, server) = connect(&listener, &Dialer::new(&backend, Net::System).unwrap()).await;
    let Stream::Tls(mut tls) = client.unwrap() else { panic!("no TLS") };
    let (Socket::Tcp(tcp), _) = tls.get_mut() else { panic!("no TCP") };
    tcp.shutdown().await.unwrap();
    let mut buffer = [0; 10];
    assert_eq!(soon(server.unwrap().stream.read(&mut buffer)).await.unwrap(), 0);
}
