//! What an operator asks first: is it ready, are the backends there, has the last reload done it, how long do
//! certificates last, and what became of commands.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;

use super::exposition::{Families, PerLabel, begin, write};
use super::{BackendMetrics, CheckResult, CommandLabel, CommandResult, Gauge, Label as _, ServiceState};

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
    pub certificates: Mutex<Vec<(String, i64)>>,
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
    /// 0: its checks say that it is down. `imapool_backend_healthy`
    pub healthy: Gauge,
    /// Its share of its group's accounts, as it is now: `imapool_backend_weight`
    pub weight: Gauge,
    /// Accounts that are there: `imapool_backend_accounts`
    pub accounts: Gauge,
    checks: PerLabel<CheckResult, Counter>,
}

impl HealthMetrics {
    /// A check has ended: `imapool_backend_checks_total`.
    pub fn checked(&self, well: bool) {
        self.checks.inc(if well { CheckResult::Well } else { CheckResult::Failed });
    }

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
        self.commands.get(command).inc(result);
    }

    /// Commands with this result so far.
    pub fn commands_so_far(&self, result: CommandResult) -> u64 {
        self.commands.all().map(|(_, results)| results.get(result).get()).sum()
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

    pub(super) fn write(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        write(out, "ready", "1 while new client sessions can be served, as /readyz says", &self.ready)?;
        write(out, "client_sessions_limit", "Client sessions that there may be at once", &self.sessions_limit)?;
        let help = "Upstream connections that there may be at once";
        write(out, "upstream_connections_limit", help, &self.connections_limit)?;
        let help = "1 if the last configuration that was read is the one that runs, 0 if it was refused";
        write(out, "config_last_reload_successful", help, &self.reloaded_well)?;
        let help = "When the configuration that runs was taken, in seconds since the Unix epoch";
        write(out, "config_last_reload_success_timestamp_seconds", help, &self.reloaded_at)?;
        Families { label: "command", of: self.commands.all().collect(), encoder: &mut *out }.by_label(
            "commands",
            "Commands of client sessions, by their result",
            |results| results,
        )?;
        let certificates = self.certificates.lock().clone();
        if certificates.is_empty() {
            return Ok(());
        }
        let help = "When the listener's certificate expires, in seconds since the Unix epoch, 0 without one";
        let name = "listener_certificate_expiry_timestamp_seconds";
        let mut family = begin(out, name, help, MetricType::Gauge)?;
        certificates
            .iter()
            .try_for_each(|(name, at)| family.encode_family(&[("listener", name.as_str())])?.encode_gauge(at))
    }
}

/// Those of all backends.
pub(super) fn write_health(all: &mut Families<'_, '_, BackendMetrics>) -> fmt::Result {
    all.each("backend_up", "1 if the backend was there when it was last tried", |it| &it.health.up)?;
    all.each("backend_connections_limit", "Upstream connections that there may be to this backend", |it| {
        &it.health.connections_limit
    })?;
    all.each(
        "backend_certificate_expiry_timestamp_seconds",
        "When the certificate that the backend last showed expires, in seconds since the Unix epoch, 0 without one",
        |it| &it.health.certificate,
    )?;
    all.each("backend_limits", "Logins that the backend refused because a limit of its own was reached", |it| {
        &it.health.limits
    })?;
    all.each("backend_healthy", "0 while the backend is down, as the checks of its group say", |it| {
        &it.health.healthy
    })?;
    all.each("backend_weight", "Share of its group's accounts that the backend gets now", |it| &it.health.weight)?;
    all.each("backend_accounts", "Accounts that have something at the backend now", |it| &it.health.accounts)?;
    all.by_label("backend_checks", "Checks of the backend, by their result", |it| &it.health.checks)?;
    all.by_label(
        "backend_service",
        "1 for whether sessions get connections to the backend, as an administrator wishes",
        |it| &it.health.services,
    )
}
