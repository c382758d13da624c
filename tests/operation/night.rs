//! What an operator meets at night, brought about, and compared with what docs/operations.md says of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use imapool::demo::server::{Event, Fault, Options, Server, Stage};
use nix::sys::signal::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Issued, NAME};
use crate::load::connect;
use crate::support::Client;
use crate::told::{Keys, Night};

async fn server() -> Server {
    Server::start(Options::default()).await.unwrap()
}

async fn logged_in(night: &Night, user: &str) -> Client {
    let mut client = connect(night.imapool.address(), None).await;
    client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l OK…")).await;
    client
}

async fn in_inbox(night: &Night, user: &str) -> Client {
    let mut client = logged_in(night, user).await;
    client.play("C: s SELECT INBOX\nS~ s OK…").await;
    client
}

/// Three who were not here before are not let in; one or two may get the connections that are kept for logins.
async fn nobody_gets_in(night: &mut Night) {
    let mut refused = 0;
    for number in 0..8 {
        let mut client = connect(night.imapool.address(), None).await;
        let reply = night.asks(&mut client, &format!("a LOGIN other{number} pw-other{number}")).await;
        refused += usize::from(reply.starts_with("a NO [UNAVAILABLE]"));
        if refused == 3 {
            return;
        }
    }
    panic!("only {refused} are refused");
}

/// It accepts connections, and says nothing any more.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_hangs() {
    let frozen = Arc::<AtomicBool>::default();
    let ours = Arc::clone(&frozen);
    let hangs = move |event: &Event<'_>| match event.stage {
        Stage::Greeting | Stage::Command if ours.load(Ordering::Relaxed) => Fault::Silence,
        _ => Fault::None,
    };
    let server = Server::start(Options { faults: Some(Arc::new(hangs)), ..Options::default() }).await.unwrap();
    let mut night = Night::begin(server.address(), &Keys::default(), &[]).await;
    let mut client = in_inbox(&night, "u5").await;
    frozen.store(true, Ordering::Relaxed);
    night.falls().await;
    let reply = night.asks(&mut client, "f STORE 1 +FLAGS (\\Seen)").await;
    assert!(reply.starts_with("f NO [UNAVAILABLE]"), "{reply}");
    nobody_gets_in(&mut night).await;
    night.status(1).await;
    night.holds("The server hangs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_away() {
    let server = server().await;
    let mut night = Night::begin(server.address(), &Keys::default(), &[]).await;
    let mut client = in_inbox(&night, "u5").await;
    night.falls().await;
    server.stop().await;
    let reply = night.asks(&mut client, "f FETCH 1 (FLAGS)").await;
    assert!(reply.starts_with("f NO [UNAVAILABLE]"), "{reply}");
    nobody_gets_in(&mut night).await;
    night.status(1).await;
    night.holds("The server is away").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_has_paused_it() {
    let server = server().await;
    let mut night = Night::begin(server.address(), &Keys::default(), &[]).await;
    let mut client = logged_in(&night, "u5").await;
    client.play("C: s STATUS INBOX (MESSAGES)\nS~ s OK…").await;
    night.falls().await;
    assert_eq!(night.run("Actions", &["ctl", "pause", "main"]).await, Some(0));
    let reply = night.asks(&mut client, "f SELECT INBOX").await;
    assert!(reply.starts_with("f NO [UNAVAILABLE]"), "{reply}");
    night.status(1).await;
    night.holds("Somebody has paused it").await;
}

/// TLS in front of a server, with a certificate that can be exchanged.
struct Front {
    address: SocketAddr,
    shown: Arc<Mutex<TlsAcceptor>>,
}

fn acceptor(issued: &Issued) -> TlsAcceptor {
    let chain = vec![CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap()))
}

impl Front {
    async fn start(server: SocketAddr, issued: &Issued) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shown) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(acceptor(issued))));
        let ours = Arc::clone(&shown);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = ours.lock().unwrap().clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(server).await.unwrap();
                    let _over = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        Self { address, shown }
    }
}

/// That of the server: connections that are open go on, no further one is opened.
#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_the_server_has_expired() {
    let (server, authority) = (server().await, Authority::new());
    let front = Front::start(server.address(), &authority.issue_until(86400 * 30)).await;
    let keys = format!("tls = \"implicit\"\nserver_name = \"{NAME}\"\nca_file = \"FOLDER/ca.pem\"\n");
    let keys = Keys { backend: keys, ..Keys::default() };
    let mut night = Night::begin(front.address, &keys, &[("ca.pem", authority.pem())]).await;
    let mut client = in_inbox(&night, "u5").await;
    night.falls().await;
    *front.shown.lock().unwrap() = acceptor(&authority.issue_until(-600));
    let goes_on = client.command("f FETCH 1 (FLAGS)").await;
    assert!(goes_on.last().unwrap().starts_with("f OK"), "{goes_on:?}");
    nobody_gets_in(&mut night).await;
    night.status(1).await;
    night.run("Check", &["check", "--connect"]).await;
    night.holds("The server's certificate has expired").await;
}

/// Its own, while it runs.
#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_of_a_listener_has_expired() {
    let (server, authority) = (server().await, Authority::new());
    let issued = authority.issue_until(5);
    let keys = "tls = \"implicit\"\ncertificate = \"FOLDER/cert.pem\"\nprivate_key = \"FOLDER/key.pem\"\n".to_owned();
    let keys = Keys { listener: keys, ..Keys::default() };
    let files = [("cert.pem", issued.certificate.as_str()), ("key.pem", issued.key.as_str())];
    let mut night = Night::begin(server.address(), &keys, &files).await;
    night.falls().await;
    night.imapool.logged("expired at").await;
    let stream = TcpStream::connect(night.imapool.address()).await.unwrap();
    let refused = authority.connect(stream).await.unwrap_err();
    assert!(refused.to_string().contains("certificate expired"), "{refused}");
    night.imapool.logged("handshake failed").await;
    night.status(0).await;
    night.holds("A listener's certificate has expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_passwords_pour_in() {
    let server = server().await;
    let mut night = Night::begin(server.address(), &Keys::default(), &[]).await;
    let mut client = in_inbox(&night, "u5").await;
    night.falls().await;
    let mut guesser = connect(night.imapool.address(), None).await;
    night.asks(&mut guesser, "a LOGIN u5 wrong").await;
    // The first of an account is asked about at once; its answer is what has to wait.
    for number in 10..50 {
        let mut guesser = connect(night.imapool.address(), None).await;
        guesser.send(format!("a LOGIN u{number} wrong\r\n")).await;
    }
    night.counts("imapool_logins_total{result=\"refused\"} 41").await;
    night.asks(&mut client, "f FETCH 1 (FLAGS)").await;
    night.status(0).await;
    night.holds("Wrong passwords pour in").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_limits_connections() {
    let options = Options { max_connections_per_account: Some(1), ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let mut night = Night::begin(server.address(), &Keys::default(), &[]).await;
    let mut client = in_inbox(&night, "u5").await;
    night.falls().await;
    let mut second = logged_in(&night, "u5").await;
    night.asks(&mut second, "s SELECT Sent").await;
    night.asks(&mut client, "f FETCH 1 (FLAGS)").await;
    night.status(0).await;
    night.holds("The server limits connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_is_refused() {
    let server = server().await;
    let mut night = Night::begin(server.address(), &Keys::default(), &[]).await;
    let mut client = in_inbox(&night, "u5").await;
    night.falls().await;
    let file = night.imapool.folder.path().join("imapool.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[pool]\n", "[pool]\nmax_per_acount = 9\n")).unwrap();
    night.imapool.signal(Signal::SIGHUP);
    night.imapool.logged("cannot reload").await;
    night.asks(&mut client, "f FETCH 1 (FLAGS)").await;
    assert_eq!(night.run("Check", &["check"]).await, Some(2));
    night.status(0).await;
    night.holds("A reload is refused").await;
}
