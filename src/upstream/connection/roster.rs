//! Which authenticated connections there are, for those who look at them: also those that no account lists any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Shared;

/// All authenticated connections, from the login until the socket is closed.
#[derive(Debug, Default)]
pub struct Roster(Mutex<BTreeMap<u64, Weak<Shared>>>);

/// A connection as it is at one moment.
#[derive(Debug)]
pub struct ConnectionView {
    /// Unique in the process.
    pub id: u64,
    /// Whose it is.
    pub user: String,
    /// The backend's name.
    pub backend: String,
    /// Its port on this host; `None` where it is no TCP connection.
    pub local_port: Option<u16>,
    /// Since the login.
    pub age: Duration,
    /// For how long it has rested; `None`: it does not.
    pub at_rest: Option<Duration>,
    /// Nobody gets it any more: it ends, or does so as soon as it comes back.
    pub retiring: bool,
    /// The mailbox that is selected on it ([`crate::imap::command::Command::selected_mailbox`]).
    pub selected: Option<bytes::Bytes>,
}

impl Roster {
    pub(super) fn add(&self, shared: &Arc<Shared>) {
        self.0.lock().insert(shared.id, Arc::downgrade(shared));
    }

    pub(super) fn remove(&self, id: u64) {
        self.0.lock().remove(&id);
    }

    /// All, the oldest first.
    #[must_use]
    pub fn views(&self) -> Vec<ConnectionView> {
        let all: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        all.iter().map(|shared| shared.view()).collect()
    }
}

impl Shared {
    fn view(&self) -> ConnectionView {
        let owner = self.owner.get();
        let account = owner.and_then(|(account, ..)| account.upgrade());
        let outdated = account.is_none_or(|account| account.generation() != self.generation);
        let text = |name: fn(&(_, String, String)) -> &String| owner.map(name).cloned().unwrap_or_default();
        ConnectionView {
            id: self.id,
            user: text(|(_, user, _)| user),
            backend: text(|(_, _, backend)| backend),
            local_port: self.local_port,
            age: self.epoch.elapsed(),
            at_rest: self.resting_since().map(|since| Instant::now() - since),
            retiring: self.is_closed() || outdated,
            selected: self.facts.lock().selected.clone(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.budget.roster().remove(self.id);
    }
}
