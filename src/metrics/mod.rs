//! The numbers imapool keeps about itself, for Prometheus.
//!
//! Whoever counts holds a handle and adds to an atomic: nothing on the way of a command looks a label up, takes a lock
//! or allocates. All label values are closed sets but `backend` and `listener`, which are known from
//! the configuration.

mod exposition;
mod histogram;
mod hubs;
mod labels;
mod operation;
mod process;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

pub use self::exposition::CONTENT_TYPE;
pub use self::exposition::PerLabel;
use self::exposition::{Families, begin, write};
pub use self::histogram::{Counts, Histogram};
pub use self::hubs::{HubGuard, HubMetrics};
pub use self::labels::Label;
pub use self::labels::{
    CheckResult, CheckoutResult, CommandLabel, CommandResult, ConnectionState, DelayReason, DialResult, Direction,
    HubState, LoginPath, LoginResult, ResumeResult, RetireReason, RouteResult, ServiceState, SessionClose, WaitCause,
};
pub use self::operation::{HealthMetrics, OperationMetrics};
use self::process::ProcessCollector;

/// Every number of one process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Client sessions now open: `imapool_client_sessions`. Whoever opens one increments it, and decrements it when it
    /// counts how that has ended.
    pub client_sessions: Gauge,
    /// Sessions that ended: `imapool_client_sessions_total`
    pub sessions_closed: PerLabel<SessionClose, Counter>,
    /// `imapool_logins_total`
    pub logins: PerLabel<LoginResult, Counter>,
    /// The time from a complete login command to its tagged reply: `imapool_login_seconds`
    pub login_seconds: PerLabel<LoginPath, Histogram>,
    /// Wishes for a backend: `imapool_routes_total`
    pub routes: PerLabel<RouteResult, Counter>,
    /// The time from a complete command to its tagged reply: `imapool_command_seconds`
    pub command_seconds: PerLabel<CommandLabel, Histogram>,
    /// What an operator asks first.
    pub operation: OperationMetrics,
    /// By name, in the order in which they became known. One that a reload took away keeps its numbers.
    backends: Known<BackendMetrics>,
    /// The same for listeners.
    listeners: Known<ListenerMetrics>,
    refresh: OnceLock<Refresh>,
}

type Known<T> = Mutex<Vec<(String, Arc<T>)>>;

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
        let metrics = Metrics::default();
        for name in backends {
            metrics.backend(name);
        }
        Arc::new(metrics)
    }

    /// The numbers of the backend of this name; all at zero where there was none.
    pub fn backend(&self, name: &str) -> Arc<BackendMetrics> {
        known(&self.backends, name)
    }

    /// The numbers of the listener of this name; all at zero where there was none.
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        known(&self.listeners, name)
    }

    /// All numbers in the Prometheus text format 0.0.4 (see [`CONTENT_TYPE`]).
    ///
    /// Reads files in /proc: not for an async task.
    pub fn render(self: &Arc<Self>) -> String {
        self.refresh();
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessCollector));
        registry.sub_registry_with_prefix("imapool").register_collector(Box::new(Arc::clone(self)));
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
        self.command_seconds.all().map(|(_, seconds)| seconds.count()).sum()
    }

    /// Has `refresh` run before each rendering, where it may block for some milliseconds. Only the first one counts.
    pub fn before_render(&self, refresh: impl Fn() + Send + Sync + 'static) {
        let _ = self.refresh.set(Refresh(Box::new(refresh)));
    }
}

fn known<T: Default>(all: &Known<T>, name: &str) -> Arc<T> {
    let mut all = all.lock();
    let place = all.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        all.push((name.to_owned(), Arc::default()));
        all.len() - 1
    });
    Arc::clone(&all[place].1)
}

/// Writes the `imapool_*` families.
impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        write(out, "client_sessions", "Client sessions now open", &self.client_sessions)?;
        let help = "Client sessions that have ended, by how they ended";
        write(out, "client_sessions", help, &self.sessions_closed)?;
        write(out, "logins", "Login attempts of client sessions, by their result", &self.logins)?;
        write(out, "routes", "Wishes of sessions that log in for a backend, by their result", &self.routes)?;
        let help = "Time from a login command to its tagged reply, by the way it was answered";
        write(out, "login_seconds", help, &self.login_seconds)?;
        let help = "Time from a client's complete command to its tagged reply";
        write(out, "command_seconds", help, &self.command_seconds)?;
        self.operation.write(out)?;
        // Who becomes known meanwhile does not wait.
        let (backends, listeners) = (self.backends.lock().clone(), self.listeners.lock().clone());
        write_upstream(out, &backends, &listeners)?;
        let mut family = begin(out, "build_info", "Always 1; the label says which version runs", MetricType::Gauge)?;
        family.encode_family(&[("version", env!("CARGO_PKG_VERSION"))])?.encode_gauge(&1_i64)
    }
}

/// Each with its name.
type All<T> = [(String, Arc<T>)];

fn write_upstream(
    out: &mut DescriptorEncoder<'_>,
    backends: &All<BackendMetrics>,
    listeners: &All<ListenerMetrics>,
) -> fmt::Result {
    let help = "Upstream connections now open or being opened, by what they are doing";
    let mut family = begin(out, "upstream_connections", help, MetricType::Gauge)?;
    for (name, backend) in backends {
        let now = *backend.connections.lock();
        for (state, count) in ConnectionState::ALL.iter().zip(now) {
            let labels = [("backend", name.as_str()), (ConnectionState::NAME, state.as_str())];
            family.encode_family(&labels)?.encode_gauge(&count)?;
        }
    }
    let all = &mut Families::new("backend", backends, out);
    all.by_label("upstream_dials", "Attempts to open an upstream connection, by their result", |it| &it.dials)?;
    all.by_label("dials_delayed", "Upstream connections that were not opened at once, by the reason", |it| {
        &it.delayed
    })?;
    all.each(
        "accounts_backing_off",
        "Accounts that pause before each upstream connection, as too many in a row were of no use",
        |it| &it.backing_off,
    )?;
    all.by_label("upstream_retired", "Upstream connections retired or destroyed, by the reason", |it| &it.retired)?;
    all.by_label("checkouts", "Wishes of client sessions for an upstream connection, by their result", |it| {
        &it.checkouts
    })?;
    all.each(
        "checkout_wait_seconds",
        "Time a client session waited for an upstream connection, whatever the result",
        |it| &it.checkout_wait,
    )?;
    all.each("sessions_relayed", "Client sessions that went through to this replica", |it| &it.relayed)?;
    hubs::write(all)?;
    operation::write_health(all)?;
    if !listeners.is_empty() {
        let mut all = Families::new("listener", listeners, &mut *all.encoder);
        all.each("listener_sessions", "Client sessions now open, by listener", |it| &it.sessions)?;
        let help = "Octets received from clients and sent to them, without TLS, by listener";
        all.by_label("listener_octets", help, |it| &it.octets)?;
    }
    let help = "Octets received from the backend and sent to it once logged in, without TLS";
    all.by_label("backend_octets", help, |it| &it.octets)?;
    all.each("ports_capacity", "Local ports that connections to this backend may use", |it| &it.ports_capacity)?;
    all.each("ports_in_use", "Local ports in use by connections to this backend", |it| &it.ports_in_use)?;
    all.each("ports_time_wait", "Local ports held by TIME_WAIT towards this backend", |it| &it.ports_time_wait)
}

/// The numbers of one listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    /// `imapool_listener_sessions`
    pub sessions: Gauge,
    /// Without TLS: `imapool_listener_octets_total`
    pub octets: PerLabel<Direction, Counter>,
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
    connections: Connections,
    /// Attempts to open a connection: `imapool_upstream_dials_total`
    pub dials: PerLabel<DialResult, Counter>,
    /// Connections that are not opened at once: `imapool_dials_delayed_total`.
    pub delayed: PerLabel<DelayReason, Counter>,
    /// Accounts that pause before each connection: `imapool_accounts_backing_off`.
    pub backing_off: Gauge,
    /// Connections that were given up: `imapool_upstream_retired_total`
    pub retired: PerLabel<RetireReason, Counter>,
    /// `imapool_checkouts_total`
    pub checkouts: PerLabel<CheckoutResult, Counter>,
    /// How long they took: `imapool_checkout_wait_seconds`
    pub checkout_wait: Histogram,
    /// The numbers of shared mailboxes.
    pub hubs: Arc<HubMetrics>,
    /// Sessions that have gone through to this replica: `imapool_sessions_relayed_total`.
    pub relayed: Counter,
    /// On connections that are logged in, without TLS: `imapool_backend_octets_total`.
    pub octets: PerLabel<Direction, Counter>,
    /// Whether it is there, and serves.
    pub health: HealthMetrics,
}

impl BackendMetrics {
    /// Counts a checkout and the time its session waited for it: `imapool_checkouts_total`,
    /// `imapool_checkout_wait_seconds`.
    pub fn checkout(&self, result: CheckoutResult, waited: Duration) {
        self.checkouts.inc(result);
        self.checkout_wait.observe(waited);
    }

    /// Connections in this state now.
    pub fn connections_in(&self, state: ConnectionState) -> i64 {
        self.connections.lock()[state.index()]
    }

    /// Connections that are open or being opened.
    pub fn connections_open(&self) -> i64 {
        self.connections.lock().iter().sum()
    }

    /// Counts a connection in `imapool_upstream_connections` for as long as the guard lives.
    pub fn connection(&self, state: ConnectionState) -> StateGuard {
        self.connections.lock()[state.index()] += 1;
        StateGuard { connections: Arc::clone(&self.connections), state }
    }
}

/// The upstream connections by their states. They change under one lock, so that a connection on its way from one
/// state to another is shown once: all together are never more than there are.
type Connections = Arc<Mutex<[i64; ConnectionState::ALL.len()]>>;

/// One upstream connection's place in `imapool_upstream_connections`; dropping it takes the connection out.
#[derive(Debug)]
pub struct StateGuard {
    connections: Connections,
    state: ConnectionState,
}

impl StateGuard {
    /// Moves the connection to another state.
    pub fn set(&mut self, state: ConnectionState) {
        let mut now = self.connections.lock();
        now[self.state.index()] -= 1;
        now[state.index()] += 1;
        drop(now);
        self.state = state;
    }
}

impl Drop for StateGuard {
    fn drop(&mut self) {
        self.connections.lock()[self.state.index()] -= 1;
    }
}
