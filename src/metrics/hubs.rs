//! The numbers of shared mailboxes (`pool.mode = "multiplex"`).

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::exposition::{PerLabel, Series};
use super::{BackendMetrics, Gauge, Histogram, HubState, ResumeResult, WaitCause};

/// The numbers of the hubs on one backend.
#[derive(Debug, Default)]
pub struct HubMetrics {
    hubs: PerLabel<HubState, Gauge>,
    sessions: Gauge,
    lag: Gauge,
    parks: Counter,
    divisions: Counter,
    resumes: PerLabel<ResumeResult, Counter>,
    wait: PerLabel<WaitCause, Histogram>,
}

impl HubMetrics {
    /// Counts a hub that gave its connection to another: `imapool_hub_parks_total`.
    pub fn parked(&self) {
        self.parks.inc();
    }

    /// Counts a hub of which some sessions go on with another connection: `imapool_hub_divisions_total`.
    pub fn divided(&self) {
        self.divisions.inc();
    }

    /// Counts a mailbox that was selected anew under its sessions: `imapool_hub_resumes_total`.
    pub fn resumed(&self, result: ResumeResult) {
        self.resumes.get(result).inc();
    }

    /// Records how long a session's command waited for its turn: `imapool_hub_wait_seconds`.
    pub fn waited(&self, cause: WaitCause, waited: Duration) {
        self.wait.get(cause).observe(waited);
    }
}

/// One hub's part in the gauges; dropping it takes it out.
#[derive(Debug)]
pub struct HubGuard {
    metrics: Arc<HubMetrics>,
    state: HubState,
    sessions: i64,
    lag: i64,
}

impl HubGuard {
    /// Of a hub without connection and sessions.
    #[must_use]
    pub fn new(metrics: Arc<HubMetrics>) -> Self {
        metrics.hubs.get(HubState::Parked).inc();
        Self { metrics, state: HubState::Parked, sessions: 0, lag: 0 }
    }

    /// The numbers that are not this hub's own.
    #[must_use]
    pub fn metrics(&self) -> &HubMetrics {
        &self.metrics
    }

    /// How the hub is now: its sessions, and the events that it keeps for those of them that were not told yet.
    pub fn set(&mut self, state: HubState, sessions: usize, lag: usize) {
        let sessions = i64::try_from(sessions).unwrap_or(i64::MAX);
        let lag = i64::try_from(lag).unwrap_or(i64::MAX);
        if (state, sessions, lag) == (self.state, self.sessions, self.lag) {
            return;
        }
        self.metrics.hubs.get(self.state).dec();
        self.metrics.hubs.get(state).inc();
        self.metrics.sessions.inc_by(sessions - self.sessions);
        self.metrics.lag.inc_by(lag - self.lag);
        (self.state, self.sessions, self.lag) = (state, sessions, lag);
    }
}

impl Drop for HubGuard {
    fn drop(&mut self) {
        self.set(self.state, 0, 0);
        self.metrics.hubs.get(self.state).dec();
    }
}

/// A backend's label, and its numbers.
pub(super) type Labelled<'a> = ([(&'static str, String); 1], &'a Arc<BackendMetrics>);

/// Those of all backends.
pub(super) fn register(backends: &[Labelled<'_>], registry: &mut Registry) {
    let hubs = || backends.iter().map(|(label, backend)| (label, backend.hubs()));
    registry.register(
        "hubs",
        "Mailboxes that sessions share a connection for, by whether there is one now",
        hubs().flat_map(|(label, hubs)| hubs.hubs.series(label)).collect::<Series<_>>(),
    );
    let mut gauge = |name: &str, help: &str, gauge: fn(&HubMetrics) -> &Gauge| {
        let series = hubs().map(|(label, hubs)| (label.to_vec(), gauge(hubs).clone()));
        registry.register(name, help, series.collect::<Series<_>>());
    };
    gauge("hub_sessions", "Client sessions that share a connection with others of their mailbox", |hubs| {
        &hubs.sessions
    });
    gauge("hub_lag_events", "News of mailboxes kept for sessions that may not hear of them yet", |hubs| &hubs.lag);
    let mut counter = |name: &str, help: &str, counter: fn(&HubMetrics) -> &Counter| {
        let series = hubs().map(|(label, hubs)| (label.to_vec(), counter(hubs).clone()));
        registry.register(name, help, series.collect::<Series<_>>());
    };
    counter("hub_parks", "Connections that a shared mailbox gave up to others", |hubs| &hubs.parks);
    counter("hub_divisions", "Times that sessions got a further connection for their mailbox", |hubs| &hubs.divisions);
    registry.register(
        "hub_resumes",
        "Mailboxes that were selected anew under their sessions, by what was found",
        hubs().flat_map(|(label, hubs)| hubs.resumes.series(label)).collect::<Series<_>>(),
    );
    registry.register(
        "hub_wait_seconds",
        "Time a command of a shared mailbox waited for its turn, by what for",
        hubs().flat_map(|(label, hubs)| hubs.wait.series(label)).collect::<Series<_>>(),
    );
}
