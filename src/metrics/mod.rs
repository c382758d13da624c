//! The numbers imapool keeps about itself, for Prometheus.
//!
//! Whoever counts holds a handle and adds to an atomic: nothing on the way of a command looks a label up, takes a lock
//! or allocates. All label values are closed sets but `backend` and `listener`, which are known from
//! the configuration.

mod exposition;
mod histogram;
mod hubs;
mod labels;
mod octets;
mod operation;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use self::exposition::CONTENT_TYPE;
pub use self::exposition::PerLabel;
use self::exposition::{Families, Series};
pub use self::histogram::{Counts, Histogram};
pub use self::hubs::{HubGuard, HubMetrics};
pub use self::labels::Label;
pub use self::labels::{
    CheckoutResult, CommandLabel, CommandResult, ConnectionState, DelayReason, DialResult, Direction, HubState,
    LoginPath, LoginResult, ResumeResult, RetireReason, RouteResult, ServiceState, SessionClose, WaitCause,
};
pub use self::octets::{ListenerMetrics, Octets};
pub use self::operation::{HealthMetrics, OperationMetrics};
use crate::process::ProcessCollector;

/// Every number of one process.
#[derive(Debug)]
pub struct Metrics {
    /// Client sessions now open: `imapool_client_sessions`. Whoever opens one increments it, and decrements it with
    /// [`Metrics::session_closed`].
    pub client_sessions: Gauge,
    /// `imapool_client_sessions_total`
    pub sessions_closed: PerLabel<SessionClose, Counter>,
    /// `imapool_logins_total`
    pub logins: PerLabel<LoginResult, Counter>,
    login_seconds: PerLabel<LoginPath, Histogram>,
    routes: PerLabel<RouteResult, Counter>,
    command_seconds: PerLabel<CommandLabel, Histogram>,
    operation: OperationMetrics,
    /// By name, in the order in which they became known. One that a reload took away keeps its numbers.
    backends: RwLock<Vec<(String, Arc<BackendMetrics>)>>,
    /// The same for listeners.
    listeners: RwLock<Vec<(String, Arc<ListenerMetrics>)>>,
    /// Made anew when a backend or listener becomes known.
    registry: Mutex<Registry>,
    refresh: OnceLock<Refresh>,
}

/// Brings numbers up to date that nobody counts as they change.
struct Refresh(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refresh(..)")
    }
}

impl Metrics {
    /// All numbers at zero, for backends of these names (in the configuration's order). Backends of one name share
    /// their numbers.
    pub fn new(backends: &[String]) -> Arc<Metrics> {
        let metrics = Metrics {
            client_sessions: Gauge::default(),
            sessions_closed: PerLabel::default(),
            logins: PerLabel::default(),
            login_seconds: PerLabel::default(),
            routes: PerLabel::default(),
            command_seconds: PerLabel::default(),
            operation: OperationMetrics::default(),
            backends: RwLock::default(),
            listeners: RwLock::default(),
            registry: Mutex::default(),
            refresh: OnceLock::new(),
        };
        for name in backends {
            metrics.backend(name);
        }
        *metrics.registry.lock() = metrics.registry();
        Arc::new(metrics)
    }

    /// The numbers of the backend of this name; all at zero where there was none.
    pub fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        self.known(&self.backends, name)
    }

    /// The numbers of the listener of this name; all at zero where there was none.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        self.known(&self.listeners, name)
    }

    fn known<T: Default>(&self, all: &RwLock<Vec<(String, Arc<T>)>>, name: &str) -> Arc<T> {
        let find = |all: &[(String, Arc<T>)]| {
            all.iter().find(|(known, _)| known == name).map(|(_, numbers)| Arc::clone(numbers))
        };
        if let Some(numbers) = find(&all.read()) {
            return numbers;
        }
        let mut all = all.write();
        if let Some(numbers) = find(&all) {
            return numbers;
        }
        let numbers = Arc::<T>::default();
        all.push((name.to_owned(), Arc::clone(&numbers)));
        drop(all);
        *self.registry.lock() = self.registry();
        numbers
    }

    /// What an operator asks first.
    pub fn operation(&self) -> &OperationMetrics {
        &self.operation
    }

    /// When the certificates of the listeners expire, by their names.
    pub fn set_listener_certificates(&self, now: &[(String, i64)]) {
        if self.operation.set_certificates(now) {
            *self.registry.lock() = self.registry();
        }
    }

    /// Counts a session that ended: `imapool_client_sessions_total`. Leaves [`Metrics::client_sessions`] alone.
    pub fn session_closed(&self, close: SessionClose) {
        self.sessions_closed.get(close).inc();
    }

    /// Counts a login: `imapool_logins_total`.
    pub fn login(&self, result: LoginResult) {
        self.logins.get(result).inc();
    }

    /// Counts a wish for a backend: `imapool_routes_total`.
    pub fn routed(&self, result: RouteResult) {
        self.routes.get(result).inc();
    }

    /// Records the time from a complete login command to its tagged reply: `imapool_login_seconds`.
    pub fn login_seconds(&self, path: LoginPath, duration: Duration) {
        self.login_seconds.get(path).observe(duration);
    }

    /// Records the time from a complete command to its tagged reply: `imapool_command_seconds`.
    pub fn command(&self, name: CommandLabel, duration: Duration) {
        self.command_seconds.get(name).observe(duration);
    }

    /// All numbers in the Prometheus text format 0.0.4 (see [`CONTENT_TYPE`]).
    ///
    /// Reads files in /proc: not for an async task.
    pub fn render(&self) -> String {
        self.refresh();
        // One at a time: what is shown here stays until it is written.
        let registry = self.registry.lock();
        for (_, backend) in self.backends.read().iter() {
            backend.connections.show();
        }
        exposition::render(&registry)
    }

    /// Brings up to date what is not counted as it changes. May block for some milliseconds.
    pub fn refresh(&self) {
        if let Some(Refresh(refresh)) = self.refresh.get() {
            refresh();
        }
    }

    /// The times of logins that were accepted, so far.
    pub fn login_counts(&self) -> Counts {
        let [cached, verified] = [LoginPath::Cached, LoginPath::Verified].map(|path| self.login_seconds.get(path));
        cached.counts().and(&verified.counts())
    }

    /// Commands that were answered by a backend, so far.
    pub fn commands_so_far(&self) -> u64 {
        CommandLabel::ALL.iter().map(|label| self.command_seconds.get(*label).count()).sum()
    }

    /// Has `refresh` run before each rendering, where it may block for some milliseconds. Only the first one counts.
    pub fn before_render(&self, refresh: impl Fn() + Send + Sync + 'static) {
        let _ = self.refresh.set(Refresh(Box::new(refresh)));
    }

    fn registry(&self) -> Registry {
        let mut registry = Registry::default();
        let own = registry.sub_registry_with_prefix("imapool");
        self.register_sessions(own);
        self.operation.register(own);
        self.register_upstream(own);
        Self::register_process(own);
        registry.register_collector(Box::new(ProcessCollector));
        registry
    }

    fn register_sessions(&self, registry: &mut Registry) {
        registry.register("client_sessions", "Client sessions now open", self.client_sessions.clone());
        registry.register(
            "client_sessions",
            "Client sessions that have ended, by how they ended",
            self.sessions_closed.clone(),
        );
        registry.register("logins", "Login attempts of client sessions, by their result", self.logins.clone());
        registry.register(
            "routes",
            "Wishes of sessions that log in for a backend, by their result",
            self.routes.clone(),
        );
        registry.register(
            "login_seconds",
            "Time from a login command to its tagged reply, by the way it was answered",
            self.login_seconds.clone(),
        );
        registry.register(
            "command_seconds",
            "Time from a client's complete command to its tagged reply",
            self.command_seconds.clone(),
        );
    }

    fn register_upstream(&self, registry: &mut Registry) {
        let mut all = Families { label: "backend", of: &self.backends.read(), registry };
        all.by_label(
            "upstream_connections",
            "Upstream connections now open or being opened, by what they are doing",
            |it| &it.connections.shown,
        );
        all.by_label("upstream_dials", "Attempts to open an upstream connection, by their result", |it| &it.dials);
        all.by_label("dials_delayed", "Upstream connections that were not opened at once, by the reason", |it| {
            &it.delayed
        });
        all.each(
            "accounts_backing_off",
            "Accounts that pause before each upstream connection, as too many in a row were of no use",
            |it| &it.backing_off,
        );
        all.by_label("upstream_retired", "Upstream connections retired or destroyed, by the reason", |it| &it.retired);
        all.by_label("checkouts", "Wishes of client sessions for an upstream connection, by their result", |it| {
            &it.checkouts
        });
        all.each(
            "checkout_wait_seconds",
            "Time a client session waited for an upstream connection, whatever the result",
            |it| &it.checkout_wait,
        );
        hubs::register(&mut all);
        operation::register_health(&mut all);
        octets::register_listeners(Families {
            label: "listener",
            of: &self.listeners.read(),
            registry: &mut *all.registry,
        });
        octets::register(&mut all);
        all.each("ports_capacity", "Local ports that connections to this backend may use", |it| &it.ports_capacity);
        all.each("ports_in_use", "Local ports in use by connections to this backend", |it| &it.ports_in_use);
        all.each("ports_time_wait", "Local ports held by TIME_WAIT towards this backend", |it| &it.ports_time_wait);
    }

    fn register_process(registry: &mut Registry) {
        let build: Gauge = Gauge::default();
        build.set(1);
        let label = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        registry.register(
            "build_info",
            "Always 1; the label says which version runs",
            Series::from_iter([(label, build)]),
        );
    }
}

/// The numbers of one backend.
#[derive(Debug, Default)]
pub struct BackendMetrics {
    /// Local ports that connections to this backend may use, over all source addresses.
    pub ports_capacity: Gauge,
    /// Local ports in use by connections to this backend.
    pub ports_in_use: Gauge,
    /// Local ports held by TIME_WAIT towards this backend.
    pub ports_time_wait: Gauge,
    connections: Arc<Connections>,
    /// `imapool_upstream_dials_total`
    pub dials: PerLabel<DialResult, Counter>,
    /// Connections that are not opened at once: `imapool_dials_delayed_total`.
    pub delayed: PerLabel<DelayReason, Counter>,
    /// Accounts that pause before each connection: `imapool_accounts_backing_off`.
    pub backing_off: Gauge,
    /// `imapool_upstream_retired_total`
    pub retired: PerLabel<RetireReason, Counter>,
    /// `imapool_checkouts_total`
    pub checkouts: PerLabel<CheckoutResult, Counter>,
    checkout_wait: Histogram,
    hubs: Arc<HubMetrics>,
    /// On connections that are logged in: `imapool_backend_octets_total`.
    pub octets: Octets,
    health: HealthMetrics,
}

impl BackendMetrics {
    /// Counts an attempt to open a connection: `imapool_upstream_dials_total`.
    pub fn dial(&self, result: DialResult) {
        self.dials.get(result).inc();
    }

    /// Counts a connection that is given up: `imapool_upstream_retired_total`.
    pub fn retired(&self, reason: RetireReason) {
        self.retired.get(reason).inc();
    }

    /// Counts a checkout and the time its session waited for it: `imapool_checkouts_total`,
    /// `imapool_checkout_wait_seconds`.
    pub fn checkout(&self, result: CheckoutResult, waited: Duration) {
        self.checkouts.get(result).inc();
        self.checkout_wait.observe(waited);
    }

    /// Whether it is there, and serves.
    pub fn health(&self) -> &HealthMetrics {
        &self.health
    }

    /// The numbers of shared mailboxes.
    pub fn hubs(&self) -> &Arc<HubMetrics> {
        &self.hubs
    }

    /// Connections in this state now.
    pub fn connections_in(&self, state: ConnectionState) -> i64 {
        self.connections.now.lock()[state.index()]
    }

    /// How long checkouts waited, so far.
    pub fn checkout_counts(&self) -> Counts {
        self.checkout_wait.counts()
    }

    /// Connections that are open or being opened.
    pub fn connections_open(&self) -> i64 {
        self.connections.now.lock().iter().sum()
    }

    /// Counts a connection in `imapool_upstream_connections` for as long as the guard lives.
    pub fn connection(&self, state: ConnectionState) -> StateGuard {
        self.connections.now.lock()[state.index()] += 1;
        StateGuard { connections: Arc::clone(&self.connections), state }
    }
}

/// The upstream connections by their states. They change under one lock, so that a connection on its way from one
/// state to another is shown once: all together are never more than there are.
#[derive(Debug, Default)]
struct Connections {
    now: Mutex<[i64; ConnectionState::ALL.len()]>,
    shown: PerLabel<ConnectionState, Gauge>,
}

impl Connections {
    fn show(&self) {
        let now = *self.now.lock();
        for state in ConnectionState::ALL {
            self.shown.get(*state).set(now[state.index()]);
        }
    }
}

/// One upstream connection's place in `imapool_upstream_connections`; dropping it takes the connection out.
#[derive(Debug)]
pub struct StateGuard {
    connections: Arc<Connections>,
    state: ConnectionState,
}

impl StateGuard {
    /// Moves the connection to another state.
    pub fn set(&mut self, state: ConnectionState) {
        let mut now = self.connections.now.lock();
        now[self.state.index()] -= 1;
        now[state.index()] += 1;
        drop(now);
        self.state = state;
    }
}

impl Drop for StateGuard {
    fn drop(&mut self) {
        self.connections.now.lock()[self.state.index()] -= 1;
    }
}
