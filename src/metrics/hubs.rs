//! The numbers of shared mailboxes (`pool.mode = "multiplex"`).

use std::fmt;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;

use super::exposition::{Families, PerLabel};
use super::{BackendMetrics, Gauge, Histogram, HubState, ResumeResult, WaitCause};

/// The numbers of the hubs on one backend.
#[derive(Debug, Default)]
pub struct HubMetrics {
    hubs: PerLabel<HubState, Gauge>,
    sessions: Gauge,
    lag: Gauge,
    /// Hubs that gave their connection to another: `imapool_hub_parks_total`.
    pub parks: Counter,
    /// Hubs of which some sessions go on with another connection: `imapool_hub_divisions_total`.
    pub divisions: Counter,
    /// Mailboxes that were selected anew under their sessions: `imapool_hub_resumes_total`.
    pub resumes: PerLabel<ResumeResult, Counter>,
    /// How long a session's command waited for its turn: `imapool_hub_wait_seconds`.
    pub wait: PerLabel<WaitCause, Histogram>,
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

/// Those of all backends.
pub(super) fn write(all: &mut Families<'_, '_, BackendMetrics>) -> fmt::Result {
    all.by_label("hubs", "Mailboxes that sessions share a connection for, by whether there is one now", |it| {
        &it.hubs.hubs
    })?;
    all.each("hub_sessions", "Client sessions that share a connection with others of their mailbox", |it| {
        &it.hubs.sessions
    })?;
    all.each("hub_lag_events", "News of mailboxes kept for sessions that may not hear of them yet", |it| &it.hubs.lag)?;
    all.each("hub_parks", "Connections that a shared mailbox gave up to others", |it| &it.hubs.parks)?;
    all.each("hub_divisions", "Times that sessions got a further connection for their mailbox", |it| {
        &it.hubs.divisions
    })?;
    all.by_label("hub_resumes", "Mailboxes that were selected anew under their sessions, by what was found", |it| {
        &it.hubs.resumes
    })?;
    all.by_label("hub_wait_seconds", "Time a command of a shared mailbox waited for its turn, by what for", |it| {
        &it.hubs.wait
    })
}
