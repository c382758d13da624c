//! What is thought of a backend that is one of several: what checks say, and what an administrator wishes. Both are
//! kept apart, and both are shown.

use std::sync::Arc;
use std::time::Duration;

use imapool_proto::routing::health::{Health, Thresholds};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Backend, Concern, OpenError, Unauthenticated};
use crate::config::Check;
use crate::files;
use crate::imap::sasl::{Credential, Mechanism};
use crate::metrics::RetireReason;
use crate::secret::Secret;
use crate::upstream::gate::Whom;
use crate::upstream::login::Outcome;

/// A check may take as long as its interval, and at least this.
const SHORTEST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    health: Mutex<Health>,
    /// In place of the configured weight.
    weight: Mutex<Option<u32>>,
    /// Held while a check goes on.
    checking: tokio::sync::Mutex<()>,
}

impl Standing {
    pub(super) fn succeeds(&self, earlier: &Self) {
        let (health, weight) = (earlier.health.lock().clone(), *earlier.weight.lock());
        *self.health.lock() = health;
        *self.weight.lock() = weight;
    }
}

impl Backend {
    /// For how long it has been down, as the checks of its group say; none: it is up, or was never checked.
    #[must_use]
    pub fn down_for(&self) -> Option<Duration> {
        self.standing.health.lock().down_for(Instant::now().into_std())
    }

    /// It refuses connections: nobody is there, whatever the checks say so far.
    pub(super) fn nobody_is_there(&self) {
        if self.standing.health.lock().refused(Instant::now().into_std()) {
            warn!(backend = self.config.name, "down, as it refuses connections");
        }
    }

    /// Its last check was well.
    #[must_use]
    pub fn was_well(&self) -> bool {
        self.standing.health.lock().last() == Some(true)
    }

    /// It is down still, but its last check was well.
    #[must_use]
    pub fn is_returning(&self) -> bool {
        self.standing.health.lock().is_returning()
    }

    /// For how long it has been up again.
    #[must_use]
    pub fn back_for(&self) -> Option<Duration> {
        self.standing.health.lock().back_for(Instant::now().into_std())
    }

    /// What the checks say of it: `up`, `down`, or nothing where there was none so far.
    #[must_use]
    pub fn checked(&self) -> Option<&'static str> {
        let health = self.standing.health.lock();
        health.last().map(|_| if health.is_up() { "up" } else { "down" })
    }

    /// The weight that an administrator has given it in place of the configured one.
    #[must_use]
    pub fn weight_by_hand(&self) -> Option<u32> {
        *self.standing.weight.lock()
    }

    /// See [`Backend::weight_by_hand`].
    pub fn set_weight(&self, weight: Option<u32>) {
        *self.standing.weight.lock() = weight;
    }

    /// Its weight now, of this one in the end: less for `slow_start` after it has come back.
    #[must_use]
    pub fn grown(&self, weight: u32, slow_start: Duration) -> u32 {
        self.standing.health.lock().weight(weight, slow_start, Instant::now().into_std())
    }

    /// Finds out whether it is there: by a connection and its greeting, and a login where that is wished. One check
    /// goes on at a time; one that gets no answer in time fails, and is broken off.
    pub async fn check(self: &Arc<Self>, check: &Check) {
        let Ok(_checking) = self.standing.checking.try_lock() else { return };
        let limit = check.interval.max(SHORTEST);
        let found = match timeout(limit, self.look(check)).await {
            Ok(Some(found)) => found,
            // It could not be looked, for a reason that is this host's.
            Ok(None) => return,
            Err(_) => Err(format!("there is no answer within {}", humantime::format_duration(limit))),
        };
        if !self.is_gone() {
            self.heard(&found, check);
        }
    }

    fn heard(&self, found: &Result<(), String>, check: &Check) {
        let thresholds = Thresholds { failures: check.failures, successes: check.successes };
        let now = Instant::now().into_std();
        let changed = self.standing.health.lock().heard(found.is_ok(), thresholds, now);
        self.metrics.health().checked(found.is_ok());
        let backend = &self.config.name;
        match (changed, found) {
            (Some(true), _) => info!(backend, "up again, as its checks say"),
            (Some(false), Err(why)) => warn!(backend, why, "down, as its checks say"),
            _ => {}
        }
    }

    /// Whether it is there now, by its greeting.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn greets(self: &Arc<Self>) -> Result<(), OpenError> {
        let permit = self.room().await?;
        let connection = self.open(Whom::Look, permit, None).await?;
        if !self.config.send_proxy {
            self.keep(connection);
        }
        Ok(())
    }

    /// Whether it is there, and why not; none: that cannot be found out now.
    async fn look(self: &Arc<Self>, check: &Check) -> Option<Result<(), String>> {
        if self.is_local() {
            return Some(Ok(()));
        }
        let permit = self.budget.try_permit(self.index)?;
        let connection = match self.open(Whom::Look, permit, None).await {
            Ok(connection) => connection,
            // It is there, and has no room: that is no reason to send it more.
            Err(OpenError::Limit(_)) => return None,
            Err(error) if error.concerns() == Concern::Host => return None,
            Err(error) => return Some(Err(error.to_string())),
        };
        match test_account(check).await {
            None => {
                if !self.config.send_proxy {
                    self.keep(connection);
                }
                Some(Ok(()))
            }
            Some(Ok(credential)) => Some(self.lets_in(connection, &credential).await),
            Some(Err(why)) => {
                warn!(backend = self.config.name, why, "a check by a test account cannot be made");
                None
            }
        }
    }

    /// Whether the test account is let in. It says goodbye at once.
    async fn lets_in(&self, mut connection: Unauthenticated, credential: &Credential) -> Result<(), String> {
        connection.prepare(None).await.map_err(|error| error.to_string())?;
        match connection.log_in(credential).await {
            Ok(Outcome::Refused(refusal)) => Err(format!("the test account is refused: {}", refusal.reply)),
            Ok(_) => {
                let (connection, _) = self.authenticated(connection, 0, Duration::ZERO);
                connection.retire(RetireReason::Checked);
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What the test account logs in by; none: there is none.
async fn test_account(check: &Check) -> Option<Result<Credential, String>> {
    let path = check.password_file.clone()?;
    let told = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || files::read(&path, files::TOKEN)).await;
    let octets = match read {
        Ok(Ok(octets)) => octets,
        Ok(Err(error)) => return Some(Err(format!("{told}: {error}"))),
        Err(error) => return Some(Err(error.to_string())),
    };
    let octets = Secret::new(octets);
    if octets.expose().trim_ascii().is_empty() {
        return Some(Err(format!("{told}: it is empty")));
    }
    let (user, password) = (check.user.clone().into_bytes(), octets.expose().trim_ascii_end().to_vec());
    Some(Ok(Credential::new(Mechanism::LoginCommand, user, Vec::new(), password)))
}
