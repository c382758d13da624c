//! Accounts and their pools: who may use which upstream connection, and who has to wait.
//!
//! Each account has a deadpool of its own, found by the account's full key; so a connection cannot be handed to another
//! account. Around it stand two fair semaphores, the account's first and the global one second; a connection at rest
//! holds neither, so that it can be retired to make room. A checkout takes what deadpool gives and exchanges it for
//! the connection at rest that fits best: the wanted mailbox selected, the wanted state enabled.

mod checkout;
mod lease;
mod pools;
mod seat;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool::managed;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::info;

pub use self::checkout::{CheckoutError, Want};
pub use self::lease::Lease;
pub use self::pools::Pools;
use self::seat::Manager;
use crate::config::{self, Live};
use crate::imap::capability::Capabilities;
use crate::imap::sasl::{Credential, SecretKind};
use crate::mailbox::registry::{Everywhere, Registry};
use crate::metrics::RetireReason;
use crate::secret::Fingerprint;
use crate::upstream::backend::Backend;
use crate::upstream::connection::Connection;

/// For how long a backend's "too many connections" is remembered for the account.
const LIMIT_MEMORY: Duration = Duration::from_secs(120);
/// Credentials of one account that may be known at once.
const MAX_CREDENTIALS: usize = 8;

/// Whose connections a pool holds. Compared by equality of all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// Index of the backend.
    pub backend: usize,
    /// Whose secret it is.
    pub user: Vec<u8>,
    /// Whose mail is read, if somebody else's.
    pub authzid: Vec<u8>,
    /// What the secret is.
    pub kind: SecretKind,
    /// With `pool.per_credential`: which.
    pub credential: Option<Fingerprint>,
}

/// One account on one backend: its connections, and the credentials that were accepted.
pub struct Account {
    key: Key,
    backend: Arc<Backend>,
    config: Live<config::Pool>,
    /// `pool.max_per_account` when it was made: seats and turns cannot be resized.
    max: usize,
    seats: managed::Pool<Manager>,
    turns: Arc<Semaphore>,
    everywhere: Arc<Semaphore>,
    /// The newest credential that the backend accepted: for dialing.
    credential: Mutex<Credential>,
    accepted: Mutex<Vec<(Fingerprint, Instant)>>,
    capabilities: ArcSwap<Capabilities>,
    offered: Mutex<Arc<str>>,
    /// Raised when a credential is no longer good: connections of an earlier generation are not used again.
    generation: AtomicU64,
    /// Why it was raised.
    outdated: Mutex<RetireReason>,
    /// A connection that was made to verify a credential, until a seat takes it.
    verified: Mutex<Option<Connection>>,
    /// Turns that are withheld because the backend said that there are too many connections.
    withheld: Mutex<Option<(OwnedSemaphorePermit, Instant)>>,
    last_used: Mutex<Instant>,
    hubs: Arc<Registry>,
    all_hubs: Arc<Everywhere>,
    /// Who last asked for a connection: for whom one is opened.
    last_client: Mutex<Option<IpAddr>>,
    /// Sessions that wait for a connection now, and how often one had to so far.
    waiting: AtomicUsize,
    waits: AtomicU64,
    /// Until when its protocol is shown in the log.
    traced: Mutex<Option<Instant>>,
    is_traced: AtomicBool,
}

/// What an account has and uses at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Connections, in use or at rest.
    pub connections: usize,
    /// Of these: held by a session.
    pub in_use: usize,
    /// Sessions that wait for one.
    pub waiting: usize,
    /// How often a session had to wait so far, because all places were taken.
    pub waits: u64,
    /// Since a session last logged in or took a connection.
    pub unused_for: Duration,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("user", &self.name()).finish_non_exhaustive()
    }
}

impl Account {
    /// The user's name, for logs.
    #[must_use]
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.key.user).into_owned()
    }

    /// What it is known by.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// What it has and uses now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let seats = self.seats.status();
        let verified = usize::from(self.verified.lock().is_some());
        Usage {
            connections: seats.size + verified,
            in_use: seats.size.saturating_sub(seats.available),
            waiting: self.waiting.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
            unused_for: self.last_used.lock().elapsed(),
        }
    }

    /// Has its protocol shown in the log for so long from now; zero ends that.
    pub fn trace_for(&self, time: Duration) {
        *self.traced.lock() = Some(Instant::now() + time);
        self.is_traced.store(!time.is_zero(), Ordering::Relaxed);
    }

    /// Whether its protocol is to be shown in the log.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        if !self.is_traced.load(Ordering::Relaxed) {
            return false;
        }
        let over = self.traced.lock().is_none_or(|until| until <= Instant::now());
        if over {
            self.is_traced.store(false, Ordering::Relaxed);
        }
        !over
    }

    /// Where its mail is.
    #[must_use]
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// `[pool]`, as it is now.
    #[must_use]
    pub fn config(&self) -> Arc<config::Pool> {
        self.config.load_full()
    }

    /// The hubs of its mailboxes.
    #[must_use]
    pub fn hubs(&self) -> &Arc<Registry> {
        &self.hubs
    }

    /// Whether the backend offers its sessions this capability.
    #[must_use]
    pub fn offers(&self, capability: &str) -> bool {
        self.capabilities.load().has(capability)
    }

    /// Whether a checkout would not have to wait for anybody.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.turns.available_permits() > 0 && self.everywhere.available_permits() > 0
    }

    /// The capabilities to offer its sessions.
    #[must_use]
    pub fn offered(&self) -> Arc<str> {
        Arc::clone(&self.offered.lock())
    }

    /// How long ago the backend accepted this credential, if it is one of those that are remembered.
    #[must_use]
    pub fn accepted_ago(&self, fingerprint: &Fingerprint) -> Option<Duration> {
        *self.last_used.lock() = Instant::now();
        // All are compared, so that the time tells nothing of which it was.
        let accepted = self.accepted.lock();
        let found =
            accepted.iter().fold(None, |found, (known, since)| if known == fingerprint { Some(since) } else { found });
        found.map(Instant::elapsed)
    }

    /// The backend has just accepted this credential.
    fn accept(&self, fingerprint: Fingerprint, credential: Credential) {
        let mut accepted = self.accepted.lock();
        accepted.retain(|(known, _)| *known != fingerprint);
        if accepted.len() >= MAX_CREDENTIALS {
            accepted.remove(0);
        }
        accepted.push((fingerprint, Instant::now()));
        *self.credential.lock() = credential;
    }

    /// The backend has refused a credential that it had accepted before: nothing that was opened with it is used again.
    pub fn forget(&self, fingerprint: Option<&Fingerprint>) {
        let known = {
            // Expired ones count: it is by those that a refusal is noticed.
            let mut accepted = self.accepted.lock();
            let before = accepted.len();
            accepted.retain(|(known, _)| fingerprint.is_some_and(|refused| known != refused));
            accepted.len() < before
        };
        if known {
            info!(
                user = self.name(),
                backend = self.backend.config.name,
                "credential no longer accepted; retiring connections"
            );
            self.retire(RetireReason::Credential);
        }
    }

    /// As if the account had never been seen: no connection is used again, and each credential is verified anew.
    pub fn retire_all(&self, reason: RetireReason) {
        self.accepted.lock().clear();
        self.retire(reason);
    }

    /// No connection that is open now is used again: those at rest end now, the others when they come back.
    pub fn retire(&self, reason: RetireReason) {
        *self.outdated.lock() = reason;
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.retire_resting(reason);
    }

    /// Retires what rests.
    pub fn retire_resting(&self, reason: RetireReason) {
        self.take_verified();
        let removed = self.seats.retain(|_, _| false).removed;
        for connection in removed.into_iter().filter_map(|seat| seat.0.into_inner()) {
            // None is opened in its place before it is closed.
            connection.shared().keep_to_the_end(Arc::clone(&self.turns).try_acquire_owned());
            connection.shared().retire(reason);
        }
    }

    fn take_verified(&self) -> Option<Connection> {
        self.verified.lock().take()
    }

    /// Takes in a connection on which a credential was just accepted: in place of the one at rest longest, or to be the
    /// next that is needed.
    fn adopt(&self, mut connection: Connection) {
        if !connection.release() {
            return;
        }
        let mut oldest: Option<(Instant, u64)> = None;
        self.seats.retain(|seat, _| {
            if let Some(resting) = seat.0.lock().as_ref().map(Connection::shared)
                && let Some(since) = resting.resting_since()
                && oldest.is_none_or(|(longest, _)| since < longest)
            {
                oldest = Some((since, resting.id));
            }
            true
        });
        let mut connection = Some(connection);
        if let Some((_, oldest)) = oldest {
            self.seats.retain(|seat, _| {
                let mut seat = seat.0.lock();
                if seat.as_ref().is_some_and(|resting| resting.shared().id == oldest) {
                    std::mem::swap(&mut *seat, &mut connection);
                }
                true
            });
        } else if self.seats.status().size < self.max {
            connection = std::mem::replace(&mut *self.verified.lock(), connection);
        }
        if let Some(replaced) = connection {
            replaced.shared().retire(RetireReason::Replaced);
        }
    }

    fn opened(&self, connection: &Connection) {
        let (connection, user, backend) = (connection.shared().id, self.name(), &self.backend.config.name);
        info!(target: "imapool::connections", connection, user, backend, "upstream connection opened");
    }

    fn learn(&self, capabilities: Arc<Capabilities>) {
        if **self.capabilities.load() != *capabilities {
            *self.offered.lock() = Arc::from(capabilities.after_login());
            self.capabilities.store(capabilities);
        }
    }

    /// Gives up the seats of connections that ended while at rest.
    fn clear_away_closed(&self) {
        self.seats.retain(|seat, _| seat.0.lock().as_ref().is_some_and(|resting| !resting.shared().is_closed()));
        self.verified.lock().take_if(|verified| verified.shared().is_closed());
    }
}
