//! The passwords and tokens of all users, as the server knows them, and since when.

use std::collections::BTreeMap;
use std::time::Duration;

use imapool::demo::server::Passwords;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// See the module.
pub(crate) struct Secrets {
    /// Of each user whose password was changed, when that was.
    changes: Mutex<BTreeMap<String, Vec<Instant>>>,
    /// How long what was accepted may be good without asking again.
    good_for: Duration,
}

impl Secrets {
    /// `good_for`: how long after its change an old secret may be good, at most.
    pub(crate) fn new(good_for: Duration) -> Arc<Self> {
        Arc::new(Self { changes: Mutex::default(), good_for })
    }

    /// The rule of the server.
    pub(crate) fn rule(self: &Arc<Self>) -> Passwords {
        let this = Arc::clone(self);
        Passwords::Rule(Arc::new(move |user, secret| {
            let version = this.version(user);
            let token = secret.strip_prefix(&format!("tk-{version}-"));
            secret == Self::password(user, version)
                || token.and_then(|token| token.split_once('-')).is_some_and(|(_, of)| of == user)
        }))
    }

    pub(crate) fn password(user: &str, version: u64) -> String {
        if version == 0 { format!("pw-{user}") } else { format!("pw{version}-{user}") }
    }

    /// One of many.
    pub(crate) fn token(user: &str, version: u64, name: u64) -> String {
        format!("tk-{version}-{name}-{user}")
    }

    /// The user's password is another from now on.
    pub(crate) fn change(&self, user: &str) {
        self.changes.lock().entry(user.to_owned()).or_default().push(Instant::now());
    }

    /// How often it was changed.
    pub(crate) fn version(&self, user: &str) -> u64 {
        self.changes.lock().get(user).map_or(0, |changes| changes.len() as u64)
    }

    /// Whether imapool need not have asked since the server has stopped to accept this one.
    pub(crate) fn may_be_known(&self, user: &str, version: u64) -> bool {
        let changed = self.changes.lock()[user][usize::try_from(version).expect("few")];
        changed.elapsed() <= self.good_for
    }
}
