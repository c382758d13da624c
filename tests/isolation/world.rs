//! A proxy in front of a backend of its own, and what is known of both in the end.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use imapool::app::Proxy;
use imapool::config::{self, Config, ListenAddr};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::backend::{self, Traits};
use crate::client::{Outcome, Session, Wrong};
use crate::plan::{ACCOUNTS, MAILBOXES};

/// What all tasks of one world share.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    /// Among how many worlds the sessions are dealt out.
    pub(crate) worlds: u64,
    pub(crate) backend_connections: AtomicU64,
    /// Messages that were expunged and replaced, of each mailbox of each account.
    pub(crate) gone: Vec<AtomicU64>,
    failures: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn fail(&self, what: String) {
        self.failures.lock().push(what);
    }

    pub(crate) fn failed(&self) -> bool {
        !self.failures.lock().is_empty()
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        std::mem::take(&mut self.failures.lock())
    }
}

/// What is set differently in each world.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) traits: Traits,
    pub(crate) configure: fn(&mut Config),
    /// One session in so many is run: where connections are scarce, sessions wait.
    pub(crate) every: u64,
    /// Sessions at once.
    pub(crate) clients: usize,
}

/// See the module.
pub(crate) struct Running {
    pub(crate) world: Arc<World>,
    pub(crate) setting: Setting,
    proxy: Proxy,
    backend: JoinHandle<()>,
    socket: PathBuf,
    tcp: std::net::SocketAddr,
}

impl Running {
    pub(crate) async fn start(setting: Setting, seed: u64, worlds: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = config::Backend::new("127.0.0.1", listener.local_addr().unwrap().port());
        let gone = (0..ACCOUNTS.len() * MAILBOXES.len()).map(|_| AtomicU64::new(0)).collect();
        let world =
            Arc::new(World { seed, worlds, backend_connections: AtomicU64::new(0), gone, failures: Mutex::default() });
        let backend_task = tokio::spawn(backend::serve(listener, setting.traits, Arc::clone(&world)));
        let socket = std::env::temp_dir().join(format!("imapool-{}-{}.sock", std::process::id(), setting.name));
        let proxy = Proxy::start(configuration(&setting, &socket, backend)).await.unwrap();
        let tcp = proxy
            .listener_addresses()
            .into_iter()
            .find_map(|(_, address)| match address {
                ListenAddr::Tcp(address) => Some(address),
                ListenAddr::Unix(_) => None,
            })
            .unwrap();
        Self { world, setting, proxy, backend: backend_task, socket, tcp }
    }

    /// Runs one session.
    pub(crate) async fn session(&self, number: u64) -> Result<Outcome, Wrong> {
        let session = Session::new(self.world.seed, number, self.world.worlds, self.setting.traits.shared);
        let unconnected = |error| Wrong { what: format!("no connection to the proxy: {error}"), story: String::new() };
        // Resets exist on TCP only.
        if (number / self.world.worlds).is_multiple_of(4) {
            let mut stream = TcpStream::connect(self.tcp).await.map_err(unconnected)?;
            let outcome = session.run(&mut stream).await?;
            if outcome.reset {
                let _ = stream.set_zero_linger();
            }
            return Ok(outcome);
        }
        let mut stream = UnixStream::connect(&self.socket).await.map_err(unconnected)?;
        session.run(&mut stream).await
    }

    /// When all sessions are over: nobody may hold anything any more, and then everything must end.
    pub(crate) async fn end(self) -> Vec<String> {
        let metrics = self.proxy.metrics();
        let at_rest = ["imapool_client_sessions ", "state=\"active\"", "state=\"connecting\""];
        if let Some(lines) = wait_for_zero(&metrics, &at_rest).await {
            self.world.fail(format!("with no client left: {lines}"));
        }
        self.proxy.drain().await;
        if let Some(lines) =
            wait_for_zero(&metrics, &["imapool_client_sessions ", "imapool_upstream_connections{"]).await
        {
            self.world.fail(format!("after the end: {lines}"));
        }
        self.backend.abort();
        let name = self.setting.name;
        self.world.failures().into_iter().map(|failure| format!("{name}: {failure}")).collect()
    }

    pub(crate) fn numbers(&self) -> String {
        let text = self.proxy.metrics().render();
        let interesting = ["_total", "imapool_upstream_connections{"];
        let lines = text.lines().filter(|line| {
            line.starts_with("imapool_") && interesting.iter().any(|word| line.contains(word)) && !line.ends_with(" 0")
        });
        let connections = self.world.backend_connections.load(Ordering::Relaxed);
        format!("{}: {connections} connections\n  {}", self.setting.name, lines.collect::<Vec<_>>().join("\n  "))
    }
}

/// Waits until all numbers with one of these words are 0; gives those that did not become so.
async fn wait_for_zero(metrics: &std::sync::Arc<imapool::metrics::Metrics>, words: &[&str]) -> Option<String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = metrics.render();
        let left: Vec<_> = text
            .lines()
            .filter(|line| {
                !line.starts_with('#') && words.iter().any(|word| line.contains(word)) && !line.ends_with(" 0")
            })
            .collect();
        if left.is_empty() {
            return None;
        }
        if Instant::now() > deadline {
            return Some(left.join(", "));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Everything that takes time takes little of it.
fn configuration(setting: &Setting, socket: &std::path::Path, mut backend: config::Backend) -> Config {
    let milliseconds = Duration::from_millis;
    backend.reply_timeout = milliseconds(200);
    backend.login_timeout = milliseconds(3000);
    let tcp = config::Listener::new(ListenAddr::Tcp("127.0.0.1:0".parse().unwrap()));
    let mut config = Config::new(config::Listener::new(ListenAddr::Unix(socket.into())), backend);
    config.listeners.push(tcp);
    config.admin.address = None;
    config.auth.failure_delay = milliseconds(1);
    config.pool.drain_bytes = 4096;
    config.pool.drain_timeout = milliseconds(20);
    config.pool.checkout_timeout = milliseconds(3000);
    config.limits.login_timeout = milliseconds(400);
    config.limits.idle_timeout = milliseconds(250);
    config.limits.write_timeout = milliseconds(200);
    config.limits.drain_timeout = milliseconds(2000);
    (setting.configure)(&mut config);
    config
}
