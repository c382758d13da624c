//! What is told of the whole: whether it is ready, and the numbers that nobody counts as they change.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tracing::warn;

use super::Inner;
use super::check::{now, worst};
use crate::admin::Readiness;
use crate::config::Lifetime;
use crate::listener::ListenerContext;
use crate::metrics::ServiceState;
use crate::platform::Held;
use crate::platform::ports::held;
use crate::pool::Pools;
use crate::ports::ports_towards;
use crate::tls::CertificateStore;
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
            let held = held(&backend.dialer.addresses()).unwrap_or_else(|| Held {
                in_use: usize::try_from(metrics.connections_open()).unwrap_or_default(),
                time_wait: 0,
            });
            let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            metrics.ports_capacity.set(gauge(ports_towards(&backend.config)));
            metrics.ports_in_use.set(gauge(held.in_use));
            metrics.ports_time_wait.set(gauge(held.time_wait));
        }
        *last = Some(std::time::Instant::now());
    }
}

/// What was last told of certificates, by whose they are.
pub(super) type Lifetimes = Mutex<HashMap<String, OfFiles>>;

/// Of those that are not good, or not for long: by their files.
type OfFiles = HashMap<PathBuf, Lifetime>;

/// Of thousands that expire at once, so many are told each time.
const TOLD: usize = 20;

/// Tells what is new, at most `left` of it; what there is no room for, the next time. Nothing of an owner that was not
/// looked at before.
fn changed(whose: &str, store: &CertificateStore, before: Option<&OfFiles>, now: i64, left: &mut usize) -> OfFiles {
    let mut of_now = OfFiles::new();
    for (place, certificate) in store.all().iter().enumerate() {
        let Some(lifetime) = worst(&certificate.validities, now) else { continue };
        let (file, mut known) = (certificate.file(), lifetime);
        if let Some(before) = before.map(|before| before.get(file)).filter(|before| *before != Some(&lifetime)) {
            match (left.checked_sub(1), before) {
                (None, None) => continue,
                (None, Some(before)) => known = *before,
                (Some(fewer), _) => {
                    *left = fewer;
                    match place {
                        0 => warn!("{whose}: its certificate {lifetime}"),
                        _ => warn!("{whose}: its certificate in {} {lifetime}", file.display()),
                    }
                }
            }
        }
        of_now.insert(file.to_owned(), known);
    }
    of_now
}

impl Inner {
    /// Whether new sessions can be served.
    pub(super) fn readiness(&self) -> Readiness {
        if self.drain.is_cancelled() || self.handing_over.load(Ordering::Acquire) {
            return Readiness::Draining;
        }
        // One that serves is enough: the sessions of the others are told what is wrong.
        let table = self.router.table();
        let mut in_use = table.in_use();
        // Whether other replicas are there says nothing of this one.
        if in_use.iter().any(|backend| !table.is_replica(backend.index)) {
            in_use.retain(|backend| !table.is_replica(backend.index));
        }
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
        let operation = &self.metrics.operation;
        operation.ready.set(i64::from(self.readiness() == Readiness::Ready));
        operation.sessions_limit.set(gauge(self.config.load().limits.sessions));
        operation.connections_limit.set(gauge(self.budget.capacity()));
        for backend in self.pools.backends().iter() {
            let health = &backend.metrics().health;
            health.up.set(i64::from(backend.is_reachable()));
            health.connections_limit.set(gauge(self.budget.usage(backend.index).1));
            health.serves(match backend.service() {
                Service::Running => ServiceState::Running,
                Service::Paused => ServiceState::Paused,
                Service::Drained => ServiceState::Drained,
            });
        }
        let accounts = self.router.residences().counts();
        for (backend, weight) in self.router.table().weights() {
            let health = &backend.metrics().health;
            health.weight.set(i64::from(weight));
            health.healthy.set(i64::from(backend.down_for().is_none()));
            health.accounts.set(gauge(accounts.get(&backend.index).copied().unwrap_or_default()));
        }
        self.show_certificates();
    }

    /// Warns of certificates that have expired, or soon will, once for each. What is so from the start is told there.
    pub(super) fn tell_of_certificates(&self) {
        let contexts = self.contexts();
        let of_listeners = contexts.iter().filter_map(|context| {
            Some((format!("listener \"{}\"", context.config.name), context.tls.as_ref()?.certificates()))
        });
        let backends = self.pools.backends();
        let of_backends = backends.iter().filter_map(|backend| {
            Some((format!("backend \"{}\"", backend.config.name), backend.dialer.certificate()?))
        });
        let (now, mut left) = (now(), TOLD);
        let mut known = self.lifetimes.lock();
        let seen = of_listeners.chain(of_backends).map(|(whose, store)| {
            let of_now = changed(&whose, store, known.get(&whose), now, &mut left);
            (whose, of_now)
        });
        *known = seen.collect();
    }

    /// What listeners go by.
    pub(super) fn contexts(&self) -> Vec<Arc<ListenerContext>> {
        self.running.lock().listeners.iter().map(|listener| listener.context.load_full()).collect()
    }

    fn show_certificates(&self) {
        let contexts = self.contexts();
        let expiries = contexts.iter().map(|listener| {
            let expires = listener.tls.as_ref().and_then(|tls| tls.certificates().expires());
            (listener.config.name.clone(), expires.unwrap_or_default())
        });
        *self.metrics.operation.certificates.lock() = expiries.collect();
    }
}
