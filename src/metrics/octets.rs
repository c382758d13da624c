//! How much goes through: by listener on the clients' side, by backend on the other.

use prometheus_client::metrics::counter::Counter;

use super::exposition::{Families, PerLabel};
use super::labels::Direction;
use super::{BackendMetrics, Gauge};

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

pub(super) fn register_listeners(mut all: Families<'_, ListenerMetrics>) {
    if !all.of.is_empty() {
        all.each("listener_sessions", "Client sessions now open, by listener", |it| &it.sessions);
        all.by_label(
            "listener_octets",
            "Octets received from clients and sent to them, without TLS, by listener",
            |it| &it.octets.0,
        );
    }
}

pub(super) fn register(all: &mut Families<'_, BackendMetrics>) {
    all.by_label(
        "backend_octets",
        "Octets received from the backend and sent to it once logged in, without TLS",
        |it| &it.octets.0,
    );
}
