//! How much goes through: by listener on the clients' side, by backend on the other.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::Gauge;
use super::exposition::{PerLabel, Series};
use super::hubs::Labelled;
use super::labels::Direction;

/// Octets, without TLS.
#[derive(Debug, Default)]
pub struct Octets(PerLabel<Direction, Counter>);

impl Octets {
    /// So many more.
    pub fn add(&self, direction: Direction, octets: usize) {
        self.0.get(direction).inc_by(octets as u64);
    }

    /// So far.
    pub fn so_far(&self, direction: Direction) -> u64 {
        self.0.get(direction).get()
    }
}

/// The numbers of one listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    /// `imapool_listener_sessions`
    pub sessions: Gauge,
    /// `imapool_listener_octets_total`
    pub octets: Octets,
}

pub(super) fn register(
    listeners: &[(String, Arc<ListenerMetrics>)],
    backends: &[Labelled<'_>],
    registry: &mut Registry,
) {
    if !listeners.is_empty() {
        let label = |name: &String| [("listener", name.clone())];
        let sessions = listeners.iter().map(|(name, it)| (label(name).to_vec(), it.sessions.clone()));
        registry.register(
            "listener_sessions",
            "Client sessions now open, by listener",
            sessions.collect::<Series<_>>(),
        );
        let octets = listeners.iter().flat_map(|(name, it)| it.octets.0.series(&label(name)).collect::<Vec<_>>());
        registry.register(
            "listener_octets",
            "Octets received from clients and sent to them, without TLS, by listener",
            octets.collect::<Series<_>>(),
        );
    }
    registry.register(
        "backend_octets",
        "Octets received from the backend and sent to it once logged in, without TLS",
        backends.iter().flat_map(|(label, backend)| backend.octets.0.series(label)).collect::<Series<_>>(),
    );
}
