//! The built `imapool` in front of a server.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Group, wait_until};
use crate::server::{Server, scratch_folder};

/// How long the proxy may take until it has told its addresses.
const START_LIMIT: Duration = Duration::from_secs(20);

/// What a test sets in the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// `pool.max_per_account`
    pub(crate) max_per_account: usize,
    /// `backend.tls`
    pub(crate) tls: &'static str,
    /// Further lines for `[[backend]]`.
    pub(crate) backend: String,
    /// `pool.mode`
    pub(crate) mode: &'static str,
    /// `pool.spare`; they blur the counts of connections.
    pub(crate) spare: usize,
    /// Further lines for `[pool]`.
    pub(crate) pool: String,
    /// The lines of `[auth]`.
    pub(crate) auth: String,
    /// Reach the server through this address.
    pub(crate) through: Option<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_per_account: 4,
            tls: "none",
            backend: String::new(),
            mode: "multiplex",
            spare: 2,
            pool: String::new(),
            auth: "cache_ttl = \"30m\"\nfailure_delay = \"10ms\"".into(),
            through: None,
        }
    }
}

/// A running proxy. [`Proxy::finish`] ends it and checks how it ended; dropping it only ends it.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where it accepts client sessions.
    pub(crate) address: SocketAddr,
    /// Where it tells about itself, and takes orders.
    pub(crate) admin: SocketAddr,
    process: Group,
    folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts the proxy with `server` as its only backend.
    pub(crate) async fn start(server: &Server, settings: &Settings) -> Self {
        let address = match settings.through {
            Some(address) => address,
            None if settings.tls == "implicit" => server.tls_address.expect("TLS is on"),
            None => server.address,
        };
        Self::in_front_of(server.kind.name(), address, settings).await
    }

    /// Starts the proxy with this backend.
    pub(crate) async fn in_front_of(name: &str, backend: SocketAddr, settings: &Settings) -> Self {
        Self::configured(scratch_folder(), &configuration(name, backend, settings))
    }

    /// Starts the proxy with a whole configuration, in which its listener is called webmail and there is an admin
    /// address. Its folder may have files in it already.
    pub(crate) fn configured(folder: tempfile::TempDir, configuration: &str) -> Self {
        std::fs::write(config_in(folder.path()), configuration).expect("write");
        let log = folder.path().join("log");
        let mut command = program();
        command.arg("run").arg("--config").arg(config_in(folder.path())).env_remove("RUST_LOG");
        let mut process = Group::spawn(&mut command, &log).expect("the proxy can be run");
        let told = wait_until(START_LIMIT, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            match (listening(&text, "webmail"), listening(&text, "admin")) {
                (Some(address), Some(admin)) => Some(Ok((address, admin))),
                _ => process.exited().map(|status| Err(format!("{status}:\n{text}"))),
            }
        });
        match told {
            Some(Ok((address, admin))) => Self { address, admin, process, folder },
            Some(Err(end)) => panic!("imapool ended at its start: {end}"),
            None => panic!("imapool does not tell its addresses: {}", std::fs::read_to_string(&log).expect("log")),
        }
    }

    /// What `/metrics` says, by name with labels, as in `imapool_logins_total{result="ok"}`.
    pub(crate) async fn metrics(&self) -> Metrics {
        let text = http_get(self.admin, "/metrics").await.expect("the admin address answers");
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect();
        Metrics(samples)
    }

    /// Runs `imapool` as who operates it would, with its configuration.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        program().args(arguments).arg("--config").arg(config_in(self.folder.path())).output().expect("it can be run")
    }

    /// Another configuration takes the place of its own, and is in force.
    pub(crate) fn reload(&self, configuration: &str) {
        std::fs::write(config_in(self.folder.path()), configuration).expect("write");
        self.logs(&["configuration changed"], || self.process.signal(Signal::SIGHUP));
    }

    /// Waits until it logs a line with all these words, which it does because of `cause`.
    pub(crate) fn logs(&self, words: &[&str], cause: impl FnOnce()) {
        let before = self.log().len();
        cause();
        let is_meant = |line: &str| words.iter().all(|word| line.contains(word));
        let said = || self.log().get(before..)?.lines().any(is_meant).then_some(());
        wait_until(START_LIMIT, said).unwrap_or_else(|| panic!("no {words:?} in\n{}", self.log()));
    }

    /// Its files.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// SIGTERM; it must end by itself, without an error and without ever having panicked.
    pub(crate) fn finish(mut self) {
        let status = self.process.stop();
        let log = self.log();
        assert!(status.is_some_and(|status| status.success()), "imapool ended with {status:?}:\n{log}");
        assert!(!log.contains("panicked"), "imapool panicked:\n{log}");
    }
}

/// Samples of the metrics at one moment.
#[derive(Debug)]
pub(crate) struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// The sum over all labels of one name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let samples = self.0.iter().filter(|(key, _)| key.split('{').next() == Some(name));
        samples.map(|(_, value)| value).sum()
    }

    /// Connections that are logged in: one that is being opened belongs to no account yet, and who stops waiting for
    /// it does not stop it.
    pub(crate) fn logged_in(&self) -> f64 {
        let of_account = |key: &str| ["active", "idle"].iter().any(|state| key.contains(&format!("state=\"{state}\"")));
        let samples = self.0.iter().filter(|(key, _)| key.starts_with("imapool_upstream_connections{"));
        samples.filter(|(key, _)| of_account(key)).map(|(_, value)| value).sum()
    }

    /// All samples of one name that are not 0, as text.
    pub(crate) fn text(&self, name: &str) -> String {
        let samples = self.0.iter().filter(|(key, value)| key.split('{').next() == Some(name) && **value > 0.0);
        samples.map(|(key, value)| format!("{key} {value}\n")).collect()
    }

    /// Connections opened to the server, whatever came of them.
    pub(crate) fn dials(&self) -> u64 {
        self.sum("imapool_upstream_dials_total") as u64
    }
}

fn program() -> Command {
    Command::new(std::env::var_os("IMAPOOL_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_imapool").into()))
}

fn config_in(folder: &Path) -> PathBuf {
    folder.join("imapool.toml")
}

fn configuration(name: &str, address: SocketAddr, settings: &Settings) -> String {
    format!(
        "[[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n\
         [[backend]]\nname = \"{name}\"\naddress = \"{address}\"\ntls = \"{tls}\"\n{backend}\n\
         [pool]\nmode = \"{mode}\"\nmax_per_account = {max}\nspare = {spare}\n{pool}\n\
         [auth]\n{auth}\n\
         [admin]\naddress = \"127.0.0.1:0\"\n\
         [log]\nformat = \"text\"\nlevel = \"info\"\n",
        tls = settings.tls,
        backend = settings.backend,
        mode = settings.mode,
        max = settings.max_per_account,
        spare = settings.spare,
        pool = settings.pool,
        auth = settings.auth,
    )
}

/// The address in the log line `… listening … name=NAME address=ADDRESS …`.
fn listening(log: &str, name: &str) -> Option<SocketAddr> {
    let complete = &log[..=log.rfind('\n')?];
    let line = complete.lines().find(|line| line.contains("listening") && line.contains(name))?;
    line.split(|c: char| c.is_whitespace() || "=\"'(),".contains(c)).find_map(|word| word.parse().ok())
}

async fn http_get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // 1.0: no chunks to put together.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_string(&mut answer)).await??;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    if head.starts_with("HTTP/1.") && head[8..].starts_with(" 200") {
        Ok(body.to_owned())
    } else {
        Err(io::Error::other(answer))
    }
}
