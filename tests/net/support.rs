//! What these tests share: configuration, certificates, a folder of one's own, a pair of connected streams.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use imapool::config::{self, ListenAddr};
use imapool::listener::{BoundListener, ClientAddr};
use imapool::stream::Stream;
use imapool::upstream::gate::{Gate, Pass, Whom};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpStream;

/// Beyond this a test has hung.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("finished in time")
}

/// The gate of a backend that nobody has dialed yet lets everybody pass.
pub(crate) fn pass() -> Pass {
    Gate::default().enter(Whom::Login, false, Instant::now()).expect("nobody has dialed yet")
}

/// A folder that goes with its owner. Short, since the path of a Unix socket is.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("imapool-net-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn listener(address: ListenAddr) -> config::Listener {
    config::Listener { name: "webmail".into(), ..config::Listener::new(address) }
}

pub(crate) fn tcp_listener() -> config::Listener {
    listener(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()))
}

pub(crate) fn backend(host: &str, port: u16) -> config::Backend {
    config::Backend {
        server_name: "mail.example.org".into(),
        connect_timeout: LIMIT,
        login_timeout: LIMIT,
        ..config::Backend::new(host, port)
    }
}

pub(crate) fn port_of(listener: &BoundListener) -> u16 {
    match listener.local_address() {
        ListenAddr::Tcp(address) => address.port(),
        ListenAddr::Unix(path) => panic!("{} has no port", path.display()),
    }
}

/// A client's bare socket, and the stream a listener made of its other end.
pub(crate) async fn tcp_pair() -> (TcpStream, Stream) {
    let listener = BoundListener::bind(&tcp_listener()).unwrap();
    let (client, accepted) = accept_from(&listener).await;
    (client, accepted.0)
}

/// Connects to `listener` over TCP.
pub(crate) async fn accept_from(listener: &BoundListener) -> (TcpStream, (Stream, ClientAddr)) {
    let address: SocketAddr = ([127, 0, 0, 1], port_of(listener)).into();
    let (client, accepted) = soon(async { tokio::join!(TcpStream::connect(address), listener.accept()) }).await;
    let client = client.unwrap();
    client.set_nodelay(true).unwrap();
    (client, accepted)
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its key, in PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Self::named("Test Authority")
    }

    pub(crate) fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(crate) fn sign(&self, name: &str) -> Pair {
        self.sign_with(name, |_| {})
    }

    /// For a key that others may have, too: quicker than a new one.
    pub(crate) fn certify(&self, name: &str, key: &KeyPair) -> Pair {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        Pair { certificate: params.signed_by(key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    pub(crate) fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

impl Pair {
    /// Written to files, and entered into `config`.
    pub(crate) fn install(&self, folder: &Path, config: &mut config::Listener) {
        let (certificate, key) = (folder.join("fullchain.pem"), folder.join("key.pem"));
        fs::write(&certificate, &self.certificate).unwrap();
        fs::write(&key, &self.key).unwrap();
        (config.certificate, config.private_key) = (Some(certificate), Some(key));
    }
}
