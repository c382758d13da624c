//! What is told of the whole: whether it is ready, and the numbers that nobody counts as they change.

use std::collections::HashMap;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use super::Inner;
use super::check::{now, worst};
use crate::admin::Readiness;
use crate::config::Lifetime;
use crate::metrics::ServiceState;
use crate::pool::Pools;
use crate::ports::{held, ports_towards};
use crate::upstream::backend::Service;

/// Scrapes closer together than this see the same numbers of ports.
const CENSUS_AGE: Duration = Duration::from_millis(500);

/// Counts the ports that are held towards each backend, for the metrics; at most twice a second. Not for an async task:
/// the kernel's table of connections is walked through.
pub(super) fn census(pools: Weak<Pools>) -> impl Fn() + Send + Sync {
    let last: Mutex<Option<std::time::Instant>> = Mutex::default();
    move || {
        let mut last = last.lock();
        if last.is_some_and(|last| last.elapsed() < CENSUS_AGE) {
            return;
        }
        let backends = pools.upgrade().map(|pools| pools.backends()).unwrap_or_default();
        for backend in backends.iter() {
            let metrics = backend.metrics();
            let (in_use, time_wait) = held(&backend.addresses())
                .unwrap_or_else(|| (usize::try_from(metrics.connections_open()).unwrap_or_default(), 0));
            let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            metrics.ports_capacity.set(gauge(ports_towards(&backend.config)));
            metrics.ports_in_use.set(gauge(in_use));
            metrics.ports_time_wait.set(gauge(time_wait));
        }
        *last = Some(std::time::Instant::now());
    }
}

/// What was last told of the certificate of each listener.
pub(super) type Lifetimes = Mutex<HashMap<String, Option<Lifetime>>>;

impl Inner {
    /// Whether new sessions can be served.
    pub(super) fn readiness(&self) -> Readiness {
        if self.drain.is_cancelled() || self.handing_over.load(Ordering::Acquire) {
            return Readiness::Draining;
        }
        // One that serves is enough: the sessions of the others are told what is wrong.
        let table = self.router.table();
        let in_use = table.in_use();
        let serving = in_use.iter().find(|it| it.service() == Service::Running && it.is_reachable());
        // Without any, the configuration refuses everybody: as it says.
        let Some(backend) = serving.or(in_use.first()) else { return Readiness::Ready };
        match (backend.service(), backend.outage()) {
            (Service::Running, None) => Readiness::Ready,
            (Service::Running, Some(outage)) => Readiness::NoBackend(outage),
            (service, _) => Readiness::OutOfService(backend.config.name.clone(), service.as_str()),
        }
    }

    /// Brings numbers up to date.
    pub(super) fn show(&self) {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let operation = self.metrics.operation();
        operation.ready.set(i64::from(self.readiness() == Readiness::Ready));
        operation.sessions_limit.set(gauge(self.config.load().limits.sessions));
        operation.connections_limit.set(gauge(self.budget.capacity()));
        for backend in self.pools.backends().iter() {
            let health = backend.metrics().health();
            health.up.set(i64::from(backend.is_reachable()));
            health.connections_limit.set(gauge(self.budget.usage(backend.index).1));
            health.serves(match backend.service() {
                Service::Running => ServiceState::Running,
                Service::Paused => ServiceState::Paused,
                Service::Drained => ServiceState::Drained,
            });
        }
        self.show_certificates();
    }

    /// Warns of certificates of listeners that have expired, or soon will, once for each. What is so from the start is
    /// told there.
    pub(super) fn tell_of_certificates(&self) {
        let Ok(running) = self.running.try_lock() else { return };
        let contexts: Vec<_> = running.listeners.iter().map(|listener| listener.context.load_full()).collect();
        drop(running);
        let now = now();
        let mut told = self.lifetimes.lock();
        for context in &contexts {
            let chain = context.tls.as_ref().map(|tls| tls.certificates().chain()).unwrap_or_default();
            let (name, lifetime) = (&context.config.name, worst(&chain, now));
            let before = told.insert(name.clone(), lifetime);
            if let (Some(before), Some(lifetime)) = (before, lifetime)
                && before != Some(lifetime)
            {
                warn!("listener \"{name}\": its certificate {lifetime}");
            }
        }
        told.retain(|name, _| contexts.iter().any(|context| context.config.name == *name));
    }

    fn show_certificates(&self) {
        let Ok(running) = self.running.try_lock() else { return };
        let listeners = running.listeners.iter().map(|listener| listener.context.load_full());
        let expiries = listeners.map(|listener| {
            let expires = listener.tls.as_ref().and_then(|tls| tls.certificates().expires());
            (listener.config.name.clone(), expires.unwrap_or_default())
        });
        let expiries: Vec<_> = expiries.collect();
        drop(running);
        self.metrics.set_listener_certificates(&expiries);
    }
}
