//! What an operator does: moves an account, has one leave, gives a backend another weight, empties it.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::name::Names;
use super::{Router, Table, Target, files};
use crate::residence::Residence;
use crate::upstream::backend::Service;

/// So many accounts with sessions leave an evacuated backend in each [`PAUSE`]: their clients come back at once.
const AT_ONCE: usize = 20;
/// See [`AT_ONCE`].
const PAUSE: Duration = Duration::from_millis(100);

/// What an evacuation has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evacuation {
    /// So many accounts leave.
    pub leaving: usize,
    /// So many stay, as their routes name this very backend.
    pub bound: usize,
}

/// Why it cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum HandError {
    /// It could not be kept.
    #[error("routing.moves_file is not set, so a move could not be kept: name a file there, and reload")]
    NoFile,
    /// It cannot stand in a file.
    #[error("an account of this name cannot be moved: it is empty, or has a space in it")]
    Name,
    /// It is none.
    #[error("there is no backend and no group {0:?}")]
    Target(String),
    /// There is no such backend.
    #[error("there is no backend {0:?}")]
    Backend(String),
    /// It is in no group.
    #[error("backend {0:?} is in no group, so there is no other for its accounts: move them one by one, by ctl move")]
    Alone(String),
    /// The others would not know of it.
    #[error(
        "backend {0:?} is a replica, and the others would go by what is configured: change that at all of them, or end it"
    )]
    Replica(String),
    /// Nobody else takes accounts.
    #[error("no other backend of group {0:?} takes accounts now: they have no weight, or are down or out of service")]
    Nowhere(String),
    /// Its sessions cannot be kept.
    #[error("its sessions cannot be kept: {0}; without --keep-sessions it can be moved")]
    Kept(&'static str),
    /// The target does not serve now.
    #[error("backend {backend:?} does not serve now, and nothing was changed: {why}")]
    Silent {
        /// Its name.
        backend: String,
        /// What it lacks.
        why: String,
    },
    /// The file cannot be used as it is.
    #[error("it is written down, but routes cannot be read again, and nobody goes by it yet: the log says why")]
    Unread,
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Whether it can stand as one word in a file.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['#', '@'])
        && !text.contains(char::is_whitespace)
        && !text.contains(char::is_control)
}

/// A line that says where an account goes, to be written down.
pub(super) struct Order {
    /// The account's.
    pub(super) key: Vec<u8>,
    /// That of the name that it is called.
    name: Vec<u8>,
    path: PathBuf,
    names: Names,
    line: Option<String>,
}

impl Order {
    pub(super) fn new(router: &Router, user: &[u8], to: Option<&str>) -> Result<Self, HandError> {
        let table = router.table.load();
        let book = &table.book;
        let (key, name) = router.account_of(&table, user);
        let path = book.moves.as_ref().map(|file| file.path.clone()).ok_or(HandError::NoFile)?;
        let account = String::from_utf8(key.clone()).ok().filter(|account| is_word(account)).ok_or(HandError::Name)?;
        if let Some(to) = to.filter(|to| book.routes.target(to).is_none() || !is_word(to)) {
            return Err(HandError::Target(to.to_owned()));
        }
        let line = to.map(|to| format!("{account} {to}"));
        Ok(Self { key, name, path, names: book.routes.names.clone(), line })
    }

    /// It is safely on the disk when this returns, with the account's key.
    pub(super) async fn write(self) -> Result<Vec<u8>, HandError> {
        let path = self.path.clone();
        let write = move || {
            let keys = [self.key, self.name];
            files::amend(&self.path, &self.names, &keys, self.line.as_deref())?;
            let [key, _] = keys;
            Ok(key)
        };
        let written = tokio::task::spawn_blocking(write).await;
        let written = written.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        written.map_err(|source| HandError::Write { path, source })
    }
}

impl Router {
    /// Has an account go to a backend or group by its name, or with none where the routes say, from now on. It is
    /// written down before anybody has to leave. Waits until nothing of the account is where it was, for so long at
    /// most; gives whether that is so.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub async fn move_account(
        self: &Arc<Self>,
        user: &[u8],
        to: Option<&str>,
        wait: Duration,
    ) -> Result<bool, HandError> {
        let tending = self.tending.lock().await;
        let key = Order::new(self, user, to)?.write().await?;
        self.reread(None).await;
        drop(tending);
        Ok(self.has_left(&key, wait).await)
    }

    /// Waits until nothing of an account is where it has to leave, for so long at most; gives whether that is so.
    pub(super) async fn has_left(&self, key: &[u8], wait: Duration) -> bool {
        let Some(residence) = self.residences.find(key).filter(|it| it.is_ending()) else { return true };
        timeout(wait, residence.over()).await.is_ok()
    }

    /// The key of the account that a name means, as far as it is known here what it logs in by; and that of the name.
    pub(super) fn account_of(&self, table: &Table, user: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let routes = &table.book.routes;
        let name = routes.names.key(user, b"");
        let known = self.residences.account(&name).map(|account| account.to_vec());
        let account = known.or_else(|| Some(routes.names.key(routes.login_of(&name)?, b"")));
        (account.unwrap_or_else(|| name.clone()), name)
    }

    /// Has an account leave its backend; its next login is let in there as any. False: nothing of it is anywhere.
    pub fn kick(&self, user: &[u8]) -> bool {
        self.known_as(user).is_some_and(|residence| {
            Self::end(&self.table.load(), &residence, "an administrator has it leave");
            true
        })
    }

    /// Gives a backend another weight than the configured one, or that again, until imapool ends; a reload changes
    /// nothing of it. Accounts that are there stay, as after any change of weights.
    ///
    /// # Errors
    /// When it is in no group, or is a replica.
    pub fn weigh(&self, name: &str, weight: Option<u32>) -> Result<(), HandError> {
        let table = self.table.load();
        let (place, _) = member(&table, name)?;
        self.may_be_set_apart(name)?;
        table.backends[place].set_weight(weight);
        info!(backend = name, weight = table.wished_weight(place), "weight set");
        Ok(())
    }

    /// Whether a backend can be given another part of the accounts here alone, or none: not a replica, since all have
    /// to agree whose an account is.
    ///
    /// # Errors
    /// If it is one.
    pub fn may_be_set_apart(&self, name: &str) -> Result<(), HandError> {
        let table = self.table.load();
        let is_one = table.backends.iter().any(|it| it.config.name == name && table.is_replica(it.index));
        if is_one { Err(HandError::Replica(name.to_owned())) } else { Ok(()) }
    }

    /// Empties a backend of a group: it gets no new accounts (its weight is 0 from now on), and those that are there go
    /// to the others. Their sessions end, a few at a time. Returns when that has begun; it ends early when the backend
    /// is given a weight again.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn evacuate(self: &Arc<Self>, name: &str) -> Result<Evacuation, HandError> {
        let table = self.table.load_full();
        let (place, group) = member(&table, name)?;
        self.may_be_set_apart(name)?;
        let takes = |other: usize| {
            let backend = &table.backends[other];
            table.weight(other) > 0 && backend.down_for().is_none() && backend.service() == Service::Running
        };
        if !table.book.routes.members(Target::Group(group)).any(|other| other != place && takes(other)) {
            return Err(HandError::Nowhere(table.book.routes.groups[group].clone()));
        }
        let backend = Arc::clone(&table.backends[place]);
        backend.set_weight(Some(0));
        // Who enters from now on does not come there.
        self.residences.forget(backend.index);
        let mut there = self.residences.all();
        there.retain(|residence| residence.destination() == backend.index);
        let all = there.len();
        there.retain(|residence| residence.is_chosen());
        let evacuation = Evacuation { leaving: there.len(), bound: all - there.len() };
        there.sort_by_key(|residence| residence.is_used());
        let there = there.iter().map(Arc::downgrade).collect();
        tokio::spawn(leave(Arc::clone(self), backend.index, name.to_owned(), there));
        Ok(evacuation)
    }
}

/// The place of a backend, and its group's.
fn member(table: &Table, name: &str) -> Result<(usize, usize), HandError> {
    let backends = &table.book.routes.backends;
    let place = backends.iter().position(|backend| backend.name == name);
    let place = place.ok_or_else(|| HandError::Backend(name.to_owned()))?;
    backends[place].group.map(|group| (place, group)).ok_or_else(|| HandError::Alone(name.to_owned()))
}

/// Has accounts leave, those that are in use a few at a time. Who has gone home meanwhile does not come back either. It
/// goes on where another backend takes the place of that one, as after a reload.
async fn leave(router: Arc<Router>, index: usize, name: String, all: Vec<Weak<Residence>>) {
    let (mut used, mut left) = (0, all.len());
    for residence in all {
        let table = router.table.load_full();
        if let Some(why) = no_longer(&table, index) {
            warn!(backend = name, why, left, "an evacuation has ended before all accounts have left");
            return;
        }
        left -= 1;
        let Some(residence) = residence.upgrade() else { continue };
        used += usize::from(residence.is_used());
        Router::end(&table, &residence, "its backend is being evacuated");
        drop(residence);
        if used == AT_ONCE {
            used = 0;
            sleep(PAUSE).await;
        }
    }
    router.residences.forget(index);
}

/// Why the backend of this index is not to be evacuated any more; none: it is.
fn no_longer(table: &Table, index: usize) -> Option<&'static str> {
    let Some(place) = table.place_of(index) else { return Some("it is not in the configuration any more") };
    if table.book.routes.backends[place].group.is_none() {
        return Some("it is in no group any more");
    }
    (table.backends[place].weight_by_hand() != Some(0)).then_some("it was given a weight")
}
