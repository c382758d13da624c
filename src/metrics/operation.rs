//! What an operator asks first: is it ready, are the backends there, has the last reload done it, how long do
//! certificates last, and what became of commands.

use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::RwLock;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::exposition::{Families, PerLabel, Series};
use super::{BackendMetrics, CommandLabel, CommandResult, Gauge, ServiceState};

/// The numbers of the process.
#[derive(Debug, Default)]
pub struct OperationMetrics {
    /// 1: new sessions can be served. `imapool_ready`
    pub ready: Gauge,
    /// `limits.sessions`: `imapool_client_sessions_limit`
    pub sessions_limit: Gauge,
    /// Upstream connections that there may be, in all: `imapool_upstream_connections_limit`
    pub connections_limit: Gauge,
    reloaded_well: Gauge,
    reloaded_at: Gauge,
    commands: PerLabel<CommandLabel, PerLabel<CommandResult, Counter>>,
    /// By listener, when its certificate expires: seconds since the Unix epoch; 0: it has none.
    certificates: RwLock<Vec<(String, Gauge)>>,
}

/// The health of one backend.
#[derive(Debug, Default)]
pub struct HealthMetrics {
    /// 1: it was there when it was last tried. `imapool_backend_up`
    pub up: Gauge,
    services: PerLabel<ServiceState, Gauge>,
    /// Connections that there may be to it at once: `imapool_backend_connections_limit`
    pub connections_limit: Gauge,
    /// When the first of the certificates that it last showed expires, in seconds since the Unix epoch; 0: it has not
    /// shown any. `imapool_backend_certificate_expiry_timestamp_seconds`
    pub certificate: Gauge,
    /// Logins that it refused for a limit of its own: `imapool_backend_limits_total`
    pub limits: Counter,
}

impl HealthMetrics {
    /// Whether sessions get connections to it: `imapool_backend_service`.
    pub fn serves(&self, now: ServiceState) {
        for state in ServiceState::ALL {
            self.services.get(*state).set(i64::from(*state == now));
        }
    }
}

impl OperationMetrics {
    /// Counts a command that has ended: `imapool_commands_total`.
    pub fn command_ended(&self, command: CommandLabel, result: CommandResult) {
        self.commands.get(command).get(result).inc();
    }

    /// Commands with this result so far.
    pub fn commands_so_far(&self, result: CommandResult) -> u64 {
        CommandLabel::ALL.iter().map(|command| self.commands.get(*command).get(result).get()).sum()
    }

    /// The configuration was taken, at the start or by a reload, or one was refused.
    pub fn reloaded(&self, well: bool) {
        self.reloaded_well.set(i64::from(well));
        if well {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.reloaded_at.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        }
    }

    /// Whether the last configuration that was read was refused.
    pub fn reload_refused(&self) -> bool {
        self.reloaded_well.get() == 0
    }

    /// When the certificates of the listeners expire, by their names. True: there are others than before.
    pub(super) fn set_certificates(&self, now: &[(String, i64)]) -> bool {
        let mut known = self.certificates.write();
        let same = known.iter().map(|(name, _)| name).eq(now.iter().map(|(name, _)| name));
        if !same {
            *known = now.iter().map(|(name, _)| (name.clone(), Gauge::default())).collect();
        }
        for ((_, gauge), (_, at)) in known.iter().zip(now) {
            gauge.set(*at);
        }
        !same
    }

    /// When the certificates of the listeners expire, by their names.
    pub fn certificates(&self) -> Vec<(String, i64)> {
        self.certificates.read().iter().map(|(name, gauge)| (name.clone(), gauge.get())).collect()
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge("ready", "1 while new client sessions can be served, as /readyz says", &self.ready);
        gauge("client_sessions_limit", "Client sessions that there may be at once", &self.sessions_limit);
        gauge("upstream_connections_limit", "Upstream connections that there may be at once", &self.connections_limit);
        gauge(
            "config_last_reload_successful",
            "1 if the last configuration that was read is the one that runs, 0 if it was refused",
            &self.reloaded_well,
        );
        gauge(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration that runs was taken, in seconds since the Unix epoch",
            &self.reloaded_at,
        );
        let commands = CommandLabel::ALL.iter().flat_map(|command| {
            let label = [("command", command.as_str().to_owned())];
            self.commands.get(*command).series(&label)
        });
        registry.register("commands", "Commands of client sessions, by their result", commands.collect::<Series<_>>());
        let certificates = self.certificates.read();
        if !certificates.is_empty() {
            let series = certificates.iter().map(|(name, gauge)| (vec![("listener", name.clone())], gauge.clone()));
            registry.register(
                "listener_certificate_expiry_timestamp_seconds",
                "When the listener's certificate expires, in seconds since the Unix epoch, 0 without one",
                series.collect::<Series<_>>(),
            );
        }
    }
}

/// Those of all backends.
pub(super) fn register_health(all: &mut Families<'_, BackendMetrics>) {
    all.each("backend_up", "1 if the backend was there when it was last tried", |it| &it.health.up);
    all.each("backend_connections_limit", "Upstream connections that there may be to this backend", |it| {
        &it.health.connections_limit
    });
    all.each(
        "backend_certificate_expiry_timestamp_seconds",
        "When the certificate that the backend last showed expires, in seconds since the Unix epoch, 0 without one",
        |it| &it.health.certificate,
    );
    all.each("backend_limits", "Logins that the backend refused because a limit of its own was reached", |it| {
        &it.health.limits
    });
    all.by_label(
        "backend_service",
        "1 for whether sessions get connections to the backend, as an administrator wishes",
        |it| &it.health.services,
    );
}
