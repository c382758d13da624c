//! What is thought of a backend that is one of several: what checks say, and what an administrator wishes. Both are
//! kept apart, and both are shown.

mod trial;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use imapool_proto::routing::health::Health;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use self::trial::Trial;
use super::{Backend, Concern, OpenError, Purpose, Unauthenticated};
use crate::config::Check;
use crate::files;
use crate::imap::capability::Capabilities;
use crate::imap::sasl::{Credential, Mechanism};
use crate::metrics::RetireReason;
use crate::secret::Secret;
use crate::upstream::gate::Whom;
use crate::upstream::login::Outcome;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    health: Mutex<Health>,
    /// In place of the configured weight.
    weight: Mutex<Option<u32>>,
    trial: Mutex<Trial>,
    /// Held while a check goes on.
    checking: tokio::sync::Mutex<()>,
    /// Tells one credential of a test account from another.
    hasher: RandomState,
    /// What it offered to the last check that was well, and when that began.
    told: Mutex<Option<(Instant, Arc<Capabilities>)>>,
}

/// What a check has found.
#[derive(Debug)]
enum Found {
    /// It lets the test account in, or greets where there is none.
    Well,
    /// It greets. Whether it lets anybody in is not known.
    Greets,
    /// It cannot be reached, or not used.
    Lost(String),
    /// It greets, and does not let the test account in.
    LetsNobodyIn(String),
}

impl Standing {
    pub(super) fn succeeds(&self, earlier: &Self) {
        self.health.lock().clone_from(&earlier.health.lock());
        self.weight.lock().clone_from(&earlier.weight.lock());
        self.trial.lock().clone_from(&earlier.trial.lock());
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

    /// Others have its accounts, who take over after so long.
    #[must_use]
    pub fn is_away(&self, after: Duration) -> bool {
        self.standing.health.lock().is_away(after, Instant::now().into_std())
    }

    /// It has its accounts again.
    pub fn settle(&self) {
        self.standing.health.lock().settle();
    }

    /// Whether it has offered this word to a check that began then or later.
    #[must_use]
    pub fn has_told(&self, word: &str, since: Instant) -> bool {
        self.standing.told.lock().as_ref().is_some_and(|(begun, offered)| *begun >= since && offered.has(word))
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
        let limit = check.limit();
        let greeted = AtomicBool::new(false);
        let found = match timeout(limit, self.look(check, &greeted)).await {
            Ok(Some(found)) => found,
            // It could not be looked, for a reason that is this host's.
            Ok(None) => return,
            Err(_) => {
                let why = format!("there is no answer within {}", humantime::format_duration(limit));
                if greeted.into_inner() { Found::LetsNobodyIn(why) } else { Found::Lost(why) }
            }
        };
        if !self.is_gone() {
            self.heard(&found, check);
        }
    }

    fn heard(&self, found: &Found, check: &Check) {
        let mut trial = self.standing.trial.lock();
        match found {
            // It is there again, if that was the matter. Whether it lets somebody in again is not known.
            Found::Greets if trial.lets_nobody_in => return,
            Found::Well => trial.is_over(),
            Found::LetsNobodyIn(_) => trial.lets_nobody_in = true,
            Found::Greets | Found::Lost(_) => {}
        }
        drop(trial);
        let (well, enough, why) = match found {
            Found::Well | Found::Greets => (true, check.successes, ""),
            Found::Lost(why) | Found::LetsNobodyIn(why) => (false, check.failures, &**why),
        };
        let changed = self.standing.health.lock().heard(well, enough, Instant::now().into_std());
        self.metrics.health.checked(well);
        let backend = &self.config.name;
        match changed {
            Some(true) => info!(backend, "up again, as its checks say"),
            Some(false) => warn!(backend, why, "down, as its checks say"),
            None => {}
        }
    }

    /// Whether it is there now, by its greeting.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn greets(self: &Arc<Self>) -> Result<(), OpenError> {
        let permit = self.room().await?;
        self.keep(self.open(Purpose::of(Whom::Look), permit).await?);
        Ok(())
    }

    /// What can be seen of it; none: that cannot be found out now. `greeted`: it has, so far.
    async fn look(self: &Arc<Self>, check: &Check, greeted: &AtomicBool) -> Option<Found> {
        if self.is_local() {
            return Some(Found::Well);
        }
        let begun = Instant::now();
        let permit = self.budget.try_permit(self.index)?;
        let connection = match self.open(Purpose::of(Whom::Look), permit).await {
            Ok(connection) => connection,
            // It is there, and has no room: that is no reason to send it more.
            Err(OpenError::Limit(_)) => return None,
            Err(error) if error.concerns() == Concern::Host => return None,
            Err(error) => return Some(Found::Lost(error.to_string())),
        };
        *self.standing.told.lock() = Some((begun, Arc::clone(connection.login.capabilities())));
        greeted.store(true, Ordering::Release);
        let found = match test_account(check).await {
            None => Found::Well,
            Some(Ok(credential)) => {
                let mark = self.standing.hasher.hash_one((&credential.user, credential.secret.expose()));
                if self.standing.trial.lock().is_due(mark, Instant::now()) {
                    return Some(self.lets_in(connection, &credential, (check, mark)).await);
                }
                Found::Greets
            }
            Some(Err(why)) => {
                if self.standing.trial.lock().is_news(&why) {
                    warn!(backend = self.config.name, why, "a check by a test account cannot be made; it greets");
                }
                Found::Greets
            }
        };
        self.keep(connection);
        Some(found)
    }

    /// Whether the test account is let in. It says goodbye at once.
    async fn lets_in(
        &self,
        mut connection: Unauthenticated,
        credential: &Credential,
        (check, mark): (&Check, u64),
    ) -> Found {
        if let Err(error) = connection.prepare(None).await {
            return Found::LetsNobodyIn(error.to_string());
        }
        match connection.log_in(credential).await {
            Ok(Outcome::Refused(refusal)) => {
                if self.standing.trial.lock().refused(mark, check, Instant::now()) {
                    let told = "the test account is refused: it is tried less often from now on, and at once when the \
                                password in its file is another one";
                    warn!(backend = self.config.name, user = check.user, reply = refusal.reply, "{told}");
                }
                Found::LetsNobodyIn(format!("the test account is refused: {}", refusal.reply))
            }
            Ok(_) => {
                let (connection, _) = self.authenticated(connection, 0, Duration::ZERO, &Arc::default());
                connection.retire(RetireReason::Checked);
                Found::Well
            }
            Err(error) => Found::LetsNobodyIn(error.to_string()),
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
