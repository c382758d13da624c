//! What the behaviour tests share: a proxy in this process, a client of raw octets, a backend that follows a script.
//!
//! Each test runs on a runtime of one thread, so that its log and its panics, those of the proxy's tasks included,
//! are its own.

pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod tls;

use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use imapool::app::Proxy;
use imapool::config::{self, Config, ListenAddr, PoolMode};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

#[allow(unused_imports, reason = "not every test scripts a backend")]
pub(crate) use backend::{Conn, Scripted};
pub(crate) use client::Client;

/// Beyond this a test has hung.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Waits for `future`, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("not in time: {what}"),
    }
}

/// Waits until `condition` holds, looking again and again: for what has no event that could be awaited from outside.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A proxy with one listener in front of one backend.
pub(crate) struct Harness {
    proxy: Option<Proxy>,
    pub(crate) address: SocketAddr,
    pub(crate) log: Log,
    _log: DefaultGuard,
}

impl Harness {
    /// In front of `backend`, with the configuration that `change` makes of the default for tests.
    pub(crate) async fn start(backend: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        watch_panics();
        let log = Log::default();
        let guard = log.install();
        let mut config = configuration(backend);
        change(&mut config);
        let proxy = soon("start", Proxy::start(config)).await.unwrap();
        let address = match proxy.listener_addresses().remove(0).1 {
            ListenAddr::Tcp(address) => address,
            ListenAddr::Unix(path) => panic!("{} is no TCP address", path.display()),
        };
        Self { proxy: Some(proxy), address, log, _log: guard }
    }

    /// The same with `pool.mode = "session"`: who has got a connection keeps it to its end.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) async fn by_session(backend: SocketAddr, change: impl FnOnce(&mut Config)) -> Self {
        Self::start(backend, |config| {
            config.pool.mode = PoolMode::Session;
            change(config);
        })
        .await
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("not finished")
    }

    /// A client that has read the greeting.
    pub(crate) async fn client(&self) -> Client {
        let mut client = Client::connect(self.address).await;
        let greeting = client.line().await;
        assert!(greeting.starts_with("* OK [CAPABILITY "), "{greeting}");
        client
    }

    /// A client that has logged in with the password `pw-<user>`.
    pub(crate) async fn login(&self, user: &str) -> Client {
        let mut client = self.client().await;
        client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l OK…")).await;
        client
    }

    /// Logs in, runs one command that needs the backend, and logs out: so that one connection of `user` rests.
    pub(crate) async fn visit(&self, user: &str) {
        let mut client = self.login(user).await;
        client.play("C: v LIST \"\" INBOX\nS~ v OK…\nC: o LOGOUT\nS: * BYE…\nS: o OK…\nS.").await;
    }

    /// The sum of all series of a metric whose labels contain `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &str) -> u64 {
        let text = self.proxy().metrics().render();
        let series = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (found, value) = rest.rsplit_once(' ')?;
            let ours = (found.is_empty() || found.starts_with('{')) && found.contains(labels);
            ours.then(|| value.parse::<f64>().unwrap())
        });
        series.sum::<f64>() as u64
    }

    /// Upstream connections in this state; `""`: in any.
    pub(crate) fn connections(&self, state: &str) -> u64 {
        self.metric("imapool_upstream_connections", state)
    }

    /// Waits until so many client sessions are open.
    pub(crate) async fn sessions(&self, wanted: u64) {
        until(&format!("{wanted} sessions\n{}", self.log.text()), || {
            self.metric("imapool_client_sessions", "") == wanted
        })
        .await;
    }

    /// Waits until so many upstream connections rest, and none is in any other state than at rest or spare.
    pub(crate) async fn at_rest(&self, wanted: u64) {
        until(&format!("{wanted} connections at rest"), || {
            self.connections("idle") == wanted && self.connections("active") + self.connections("connecting") == 0
        })
        .await;
    }

    /// As [`Harness::at_rest`], beside so many that are in use.
    pub(crate) async fn at_rest_beside(&self, wanted: u64, in_use: u64) {
        until(&format!("{wanted} connections at rest beside {in_use}"), || {
            self.connections("idle") == wanted && self.connections("active") + self.connections("connecting") == in_use
        })
        .await;
    }

    /// Waits for a log line that holds all of these.
    pub(crate) async fn logged(&self, parts: &[&str]) {
        let found = |log: &Log| log.text().lines().any(|line| parts.iter().all(|part| line.contains(part)));
        let waited = tokio::time::timeout(LIMIT, async {
            while !found(&self.log) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "no log line with {parts:?} in\n{}", self.log.text());
    }

    /// Takes the proxy out, for a test of its end.
    pub(crate) fn take(&mut self) -> Proxy {
        self.proxy.take().expect("not finished")
    }

    /// Whatever happened: all sessions end when their clients have gone, the proxy drains, and nothing is left of it.
    pub(crate) async fn finish(mut self) {
        self.sessions(0).await;
        let proxy = self.take();
        let metrics = proxy.metrics();
        soon("drain", proxy.drain()).await;
        let gauge = |text: &str, name: &str| -> f64 {
            text.lines()
                .filter(|line| line.starts_with(name))
                .map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
                .sum()
        };
        until("no upstream connection", || gauge(&metrics.render(), "imapool_upstream_connections{") == 0.0).await;
        no_panics();
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log\n{}", self.log.text());
            // Told already: the next case of a property test, on this thread, must not fail for it.
            panics_here();
        }
    }
}

/// The proxy's configuration unless a test changes it: quick to fail, no spare connections, whose comings and goings
/// would blur what is counted, and no delay after a wrong password. `IMAPOOL_POOL_MODE=session` runs all tests in
/// that mode that do not choose one.
fn configuration(backend: SocketAddr) -> Config {
    let listener = config::Listener {
        name: "webmail".into(),
        ..config::Listener::new(ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
    };
    let backend =
        config::Backend { name: "mail".into(), ..config::Backend::new(backend.ip().to_string(), backend.port()) };
    let mut config = Config::new(listener, backend);
    config.admin.address = None;
    if let Ok(mode) = std::env::var("IMAPOOL_POOL_MODE") {
        let modes = [PoolMode::Session, PoolMode::Multiplex];
        config.pool.mode = modes.into_iter().find(|known| known.as_str() == mode).expect("session or multiplex");
    }
    config.pool.spare = 0;
    config.auth.failure_delay = Duration::ZERO;
    config.limits.drain_timeout = Duration::from_secs(5);
    config
}

/// What was logged on this thread.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    fn install(&self) -> DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::DEBUG)
            .fmt_fields(imapool::log_format::Fields)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

static PANICS: Mutex<Option<HashMap<ThreadId, Vec<String>>>> = Mutex::new(None);

/// A panic in a task that nobody joins would go unnoticed.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
            panics.get_or_insert_default().entry(thread::current().id()).or_default().push(info.to_string());
            drop(panics);
            usual(info);
        }));
    });
}

/// Takes out what panicked on this thread: a property test runs many cases on it.
fn panics_here() -> Option<Vec<String>> {
    let mut panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner);
    panics.as_mut().and_then(|panics| panics.remove(&thread::current().id()))
}

fn no_panics() {
    // A panic takes the lock, too.
    let ours = panics_here();
    assert!(ours.is_none(), "a task has panicked: {ours:?}");
}

/// Holds a script until the test lets it go on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(Arc<tokio::sync::watch::Sender<bool>>);

impl Gate {
    /// One for the test, one for the script.
    pub(crate) fn pair() -> (Self, Self) {
        let gate = Self::default();
        (gate.clone(), gate)
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn passed(&self) {
        let mut state = self.0.subscribe();
        let _open = soon("the test to open the gate", state.wait_for(|open| *open)).await;
    }
}
