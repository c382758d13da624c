//! A real `imapool run` on the middle host.

use std::fmt::{self, Write as _};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeBounds;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::host::Hosts;

const PLAIN: u16 = 143;
const TLS: u16 = 993;
const ADMIN: u16 = 9143;
/// Where the server listens.
pub(crate) const SERVER: u16 = 143;
/// What the certificate says.
const NAME: &str = "imap.example.org";
const START: Duration = Duration::from_secs(20);

/// How to reach imapool, or the server.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) tcp: SocketAddr,
    pub(crate) tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// A running imapool; it is killed on drop.
pub(crate) struct Imapool<'a> {
    hosts: &'a Hosts,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    folder: PathBuf,
    /// Without TLS.
    pub(crate) plain: Address,
    /// With it.
    pub(crate) tls: Address,
}

impl<'a> Imapool<'a> {
    /// In front of the server; `backend` and `more` are added to the configuration, to its backend and to its end.
    pub(crate) fn start(hosts: &'a Hosts, backend: &str, more: &str) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let unique = format!("imapool-netns-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(unique);
        std::fs::create_dir(&folder).unwrap();
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&certificate, cert.pem()).unwrap();
        std::fs::write(&key, signing_key.serialize_pem()).unwrap();
        let (own, server) = (hosts.proxy_address, hosts.server_address);
        let listener = |name: &str, port: u16, rest: &str| {
            format!(
                "[[listener]]\nname = \"{name}\"\naddress = \"{own}:{port}\"\nplaintext_login = \"always\"\n{rest}\n"
            )
        };
        let with_tls = format!("tls = \"implicit\"\ncertificate = {certificate:?}\nprivate_key = {key:?}\n");
        let mut text = listener("plain", PLAIN, "") + &listener("tls", TLS, &with_tls);
        let _ = write!(
            text,
            "[[backend]]\nname = \"main\"\naddress = \"{server}:{SERVER}\"\n{backend}\n\
             [admin]\naddress = \"127.0.0.1:{ADMIN}\"\n\n{more}\n"
        );
        let config = folder.join("imapool.toml");
        std::fs::write(&config, text).unwrap();

        let log = Arc::new(Mutex::new(String::new()));
        let (child, reader) = spawn(hosts, config, 2, &log);
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(client));
        let address = |port, tls| Address { tcp: SocketAddr::from((own, port)), tls };
        let name = ServerName::try_from(NAME).unwrap();
        Self {
            hosts,
            child,
            log,
            reader: Some(reader),
            folder,
            plain: address(PLAIN, None),
            tls: address(TLS, Some((connector, name))),
        }
    }

    /// Scrapes until this sum is one of `wanted`: what is taken from the system is up to half a second old.
    pub(crate) fn await_sum(&self, family: &str, label: &str, wanted: impl RangeBounds<u64> + fmt::Debug) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let sum = self.metrics().sum(family, label);
            if wanted.contains(&sum) {
                return;
            }
            assert!(Instant::now() < deadline, "{family} is {sum}, not {wanted:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its numbers.
    pub(crate) fn metrics(&self) -> Numbers {
        Numbers(self.hosts.middle.run(scrape()))
    }
}

impl Drop for Imapool<'_> {
    fn drop(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            eprintln!("imapool had ended: {status}");
        }
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"));
        let _ = kill(pid, Signal::SIGKILL);
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
        if thread::panicking() {
            let log = self.log.lock();
            let lines: Vec<_> = log.lines().collect();
            eprintln!("--- imapool's last words:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// Starts the binary on the middle host, and waits until it listens on so many addresses.
fn spawn(hosts: &Hosts, config: PathBuf, listeners: usize, log: &Arc<Mutex<String>>) -> (Child, JoinHandle<()>) {
    let mut child = hosts.middle.run(async move {
        // Should the tests be killed, so is this.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_imapool"), "run", "--config"]);
        command.arg(config).stderr(Stdio::piped()).spawn().expect("setpriv, of util-linux")
    });
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    let (ready, wait) = std::sync::mpsc::channel();
    let all = Arc::clone(log);
    let reader = thread::spawn(move || {
        let mut listening = 0;
        for line in stderr.lines().map_while(Result::ok) {
            listening += usize::from(line.contains("listening"));
            if listening == listeners {
                let _ = ready.send(());
            }
            let mut all = all.lock();
            all.push_str(&line);
            all.push('\n');
        }
    });
    if wait.recv_timeout(START).is_err() {
        let _ = child.kill();
        panic!("imapool does not start: {}", log.lock());
    }
    (child, reader)
}

async fn scrape() -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ADMIN)).await.expect("the admin address");
    let request = b"GET /metrics HTTP/1.1\r\nHost: imapool\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

/// What a scrape gave.
pub(crate) struct Numbers(String);

impl Numbers {
    /// The sum over all series of a family whose labels contain `label`.
    pub(crate) fn sum(&self, family: &str, label: &str) -> u64 {
        let values = self.0.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let labels = series.strip_prefix(family)?;
            let ours = labels.is_empty() || labels.starts_with('{');
            (ours && labels.contains(label)).then(|| value.parse::<u64>().expect("a whole number"))
        });
        let values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "no {family} with {label} in {}", self.0);
        values.into_iter().sum()
    }
}
