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
    /// When all of a user's connections were last retired: no secret of his is known any more.
    retired: Mutex<BTreeMap<String, Instant>>,
    /// What the server has refused, and when first.
    refused: Mutex<BTreeMap<String, Instant>>,
    tokens: Mutex<BTreeMap<String, Token>>,
    /// How long what was accepted may be good without asking again.
    cache_ttl: Duration,
    /// How long it may take to ask.
    asking: Duration,
}

/// A token that was good once.
struct Token {
    user: String,
    /// When somebody first began to log in with it, and when somebody last left.
    first: Instant,
    left: Instant,
    sessions: usize,
}

/// Somebody is logged in with a token, or logs in again with one, for as long as it lives.
pub(crate) struct Inside(Arc<Secrets>, String);

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some(token) = self.0.tokens.lock().get_mut(&self.1) {
            token.sessions -= 1;
            token.left = Instant::now();
        }
    }
}

impl Secrets {
    pub(crate) fn new(cache_ttl: Duration, asking: Duration) -> Arc<Self> {
        let (changes, retired, refused, tokens) = Default::default();
        Arc::new(Self { changes, retired, refused, tokens, cache_ttl, asking })
    }

    /// The rule of the server.
    pub(crate) fn rule(self: &Arc<Self>) -> Passwords {
        let this = Arc::clone(self);
        Passwords::Rule(Arc::new(move |user, secret| {
            let version = this.version(user);
            let token = secret.strip_prefix(&format!("tk-{version}-"));
            let good = secret == Self::password(user, version)
                || token.and_then(|token| token.split_once('-')).is_some_and(|(_, of)| of == user);
            if !good {
                this.refused.lock().entry(secret.to_owned()).or_insert_with(Instant::now);
            }
            good
        }))
    }

    /// How long ago the server has first refused it.
    pub(crate) fn refused_for(&self, secret: &str) -> Option<Duration> {
        self.refused.lock().get(secret).map(Instant::elapsed)
    }

    /// All that is known of a user is void from now on.
    pub(crate) fn retire(&self, user: &str) {
        self.retired.lock().insert(user.to_owned(), Instant::now());
    }

    /// Somebody is about to log in again with this token, if it is one.
    pub(crate) fn tries(self: &Arc<Self>, token: &str) -> Option<Inside> {
        self.tokens.lock().get_mut(token)?.sessions += 1;
        Some(Inside(Arc::clone(self), token.to_owned()))
    }

    /// Somebody has logged in with this token; then it `began` to.
    pub(crate) fn enters(self: &Arc<Self>, user: &str, token: &str, began: Instant) -> Inside {
        let new = || Token { user: user.to_owned(), first: began, left: began, sessions: 0 };
        let mut tokens = self.tokens.lock();
        let known = tokens.entry(token.to_owned()).or_insert_with(new);
        known.sessions += 1;
        Inside(Arc::clone(self), token.to_owned())
    }

    /// Nobody is logged in with this token or about to be, and since the last has left the same user has come with a
    /// newer one, so long ago.
    pub(crate) fn is_superseded(&self, token: &str, quiet: Duration) -> bool {
        let tokens = self.tokens.lock();
        let Some(this) = tokens.get(token).filter(|this| this.sessions == 0) else { return false };
        let newest = tokens.values().filter(|other| other.user == this.user).map(|other| other.first).max();
        newest.is_some_and(|first| first > this.left && first.elapsed() > quiet)
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

    /// Whether imapool need not have asked since the server has stopped to accept this one: what is verified while it
    /// is changed counts from its end.
    pub(crate) fn may_be_known(&self, user: &str, version: u64) -> bool {
        let changed = self.changes.lock()[user][usize::try_from(version).expect("few")];
        let retired = self.retired.lock().get(user).is_some_and(|at| *at >= changed && at.elapsed() > self.asking);
        changed.elapsed() <= self.cache_ttl + self.asking && !retired
    }
}
