//! Which authenticated connections there are, for those who look at them: also those that no account lists any more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Weak;
use std::time::Duration;

use parking_lot::Mutex;

/// All authenticated connections by their numbers, from the login until the socket is closed.
#[derive(Debug, Default)]
pub struct Roster(Mutex<BTreeMap<u64, Weak<dyn Seen>>>);

/// A connection that can be looked at.
pub(crate) trait Seen: fmt::Debug + Send + Sync {
    fn view(&self) -> ConnectionView;
}

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
    pub(crate) fn add(&self, id: u64, connection: Weak<dyn Seen>) {
        self.0.lock().insert(id, connection);
    }

    pub(crate) fn remove(&self, id: u64) {
        self.0.lock().remove(&id);
    }

    /// All, the oldest first.
    pub fn views(&self) -> Vec<ConnectionView> {
        let all: Vec<_> = self.0.lock().values().filter_map(Weak::upgrade).collect();
        all.iter().map(|connection| connection.view()).collect()
    }
}
