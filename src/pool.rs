//! Accounts and their pools: who may use which upstream connection, and who has to wait.
//!
//! Each account has a deadpool of its own, found by the account's full key; so a connection cannot be handed to another
//! account. Around it stand two fair semaphores, the account's first and the global one second; a connection at rest
//! holds neither, so that it can be retired to make room. A checkout takes what deadpool gives and exchanges it for
//! the connection at rest that fits best: the wanted mailbox selected, the wanted state enabled.

mod checkout;
mod grant;
mod lease;
mod moving;
mod pools;
mod retire;
mod seat;

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool::managed;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tracing::info;

pub use self::checkout::{CheckoutError, Want};
use self::grant::Proof;
pub use self::grant::{Grant, Pass};
pub use self::lease::Lease;
pub use self::pools::Pools;
use self::seat::Manager;
use crate::config::{self, Live};
use crate::imap::capability::Capabilities;
use crate::imap::sasl::{Credential, SecretKind};
use crate::metrics::RetireReason;
use crate::ports::{Allowance, Sharers};
use crate::residence::{Tenant, Visit};
use crate::secret::Fingerprint;
use crate::terms::Terms;
use crate::upstream::backend::{Backend, Queue, Service, Unauthenticated};
use crate::upstream::connection::{Connection, Owner, Shared};
use crate::upstream::login::Refusal;
use crate::upstream::manners::{Known, Manners};

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
    /// Which, where `pool.per_credential` keeps credentials of its kind apart.
    pub credential: Option<Fingerprint>,
}

impl Key {
    /// What it has in common with the keys of the same person's other credentials.
    #[must_use]
    pub fn without_credential(&self) -> Self {
        Self { credential: None, ..self.clone() }
    }
}

/// One account on one backend: its connections, and the credentials that were accepted.
pub struct Account {
    /// Its backend is another one once it has moved there.
    key: ArcSwap<Key>,
    /// What routes go by, of who made it: several names may lead to one account at the backend.
    owner: Box<[u8]>,
    /// In the order in which they were made.
    number: u64,
    /// A reload may put another in its place.
    backend: ArcSwap<Backend>,
    config: Live<config::Pool>,
    terms: Mutex<Terms>,
    /// As many as there ever were turns: who may have one is decided by these.
    seats: managed::Pool<Manager>,
    /// [`Terms::max_per_account`], or what the backend's limit allows of that.
    turns: Allowance,
    everywhere: Arc<Semaphore>,
    /// The credentials that the backend has accepted, in the order in which it last did so.
    proofs: Mutex<Vec<Arc<Proof>>>,
    /// Its token has a successor, and nobody has logged in with it since.
    superseded: AtomicBool,
    capabilities: ArcSwap<Capabilities>,
    offered: Mutex<Arc<str>>,
    /// Raised when a credential is no longer good: connections of an earlier generation are not used again.
    generation: AtomicU64,
    /// Those who share a connection of an earlier generation than this leave it between two commands.
    to_leave: AtomicU64,
    /// Why the generation was raised.
    outdated: Mutex<RetireReason>,
    /// Connections that end, and whose sockets may be open for a while.
    leaving: Mutex<Vec<Weak<Shared>>>,
    /// Since when the backend takes no more connections than so many, by what it said.
    limit: Mutex<Option<(Instant, usize)>>,
    last_used: Mutex<Instant>,
    /// A connection was put to rest.
    rested: Notify,
    /// What the backend was found to refuse.
    pub(crate) manners: Arc<Manners>,
    /// Its place in front of the backend's gate, where it waits for the right to log in once more.
    pub(crate) queue: Arc<Queue>,
    /// Those who share its connections, and who waits for them.
    pub(crate) sharers: Sharers,
    attachment: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// Sessions that wait for a connection now, and how often one had to so far.
    waiting: AtomicUsize,
    waits: AtomicU64,
    /// Until when its protocol is shown in the log.
    traced: Mutex<Option<Instant>>,
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

impl Owner for Account {
    fn generation(&self) -> u64 {
        self.generation()
    }

    fn backend(&self) -> Arc<Backend> {
        self.backend()
    }
}

impl Tenant for Account {
    fn leave(&self) {
        self.retire_all(RetireReason::Moved);
    }

    fn let_go(&self) {
        self.retire(RetireReason::Moved);
    }

    /// Its connections are those of its sessions and hubs.
    fn holds_on(&self) -> bool {
        false
    }

    fn goes_on(&self) -> bool {
        false
    }
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
        String::from_utf8_lossy(&self.key().user).into_owned()
    }

    /// What another part keeps with the account as long as it lives: nothing but this type.
    pub(crate) fn attachment<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let attachment = Arc::clone(self.attachment.get_or_init(|| Arc::<T>::default()));
        attachment.downcast().expect("one part has it")
    }

    /// What it is known by.
    #[must_use]
    pub fn key(&self) -> Arc<Key> {
        self.key.load_full()
    }

    /// What it has and uses now.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let seats = self.seats.status();
        Usage {
            connections: seats.size,
            in_use: seats.size.saturating_sub(seats.available),
            waiting: self.waiting.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
            unused_for: self.last_used.lock().elapsed(),
        }
    }

    /// Has its protocol shown in the log for so long from now; zero ends that.
    pub fn trace_for(&self, time: Duration) {
        *self.traced.lock() = Some(Instant::now() + time);
    }

    /// Whether its protocol is to be shown in the log.
    #[must_use]
    pub fn is_traced(&self) -> bool {
        self.traced.lock().is_some_and(|until| until > Instant::now())
    }

    /// Where its mail is. What is opened there has to carry a generation of the account that was read before this: then
    /// it is known for what it is when a reload has put another in its place meanwhile.
    #[must_use]
    pub fn backend(&self) -> Arc<Backend> {
        self.backend.load_full()
    }

    /// Has another backend in the place of the one it was on: no connection that is open is used again, those who
    /// share one go on with another, and each credential is verified anew.
    fn move_to(&self, backend: &Arc<Backend>, why: RetireReason) {
        self.backend.store(Arc::clone(backend));
        self.lift_limit(Duration::ZERO);
        self.manners.learn(|known| *known = Known::default());
        self.retire_all(why);
    }

    /// What holds for it now.
    #[must_use]
    pub fn terms(&self) -> Terms {
        *self.terms.lock()
    }

    /// `[pool]`, as it is now; but see [`Account::terms`].
    #[must_use]
    pub fn config(&self) -> Arc<config::Pool> {
        self.config.load_full()
    }

    /// Whether a mailbox that is selected on a connection cannot be left there.
    #[must_use]
    pub fn stays(&self) -> bool {
        !self.manners.known().leaving.allows(Instant::now().into_std())
    }

    /// Whether the backend offers its sessions this capability.
    #[must_use]
    pub fn offers(&self, capability: &str) -> bool {
        self.capabilities.load().has(capability)
    }

    /// What the backend offers its sessions.
    #[must_use]
    pub fn capabilities(&self) -> Arc<Capabilities> {
        self.capabilities.load_full()
    }

    /// Whether a checkout would not have to wait for anybody.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.turns.semaphore().available_permits() > 0 && self.everywhere.available_permits() > 0
    }

    /// The capabilities to offer its sessions.
    #[must_use]
    pub fn offered(&self) -> Arc<str> {
        Arc::clone(&self.offered.lock())
    }

    /// What is known of a credential that was shown just now, if the backend ever accepted it.
    #[must_use]
    pub fn grant(
        self: &Arc<Self>,
        fingerprint: &Fingerprint,
        credential: &Arc<Credential>,
        visit: Visit,
    ) -> Option<Grant> {
        *self.last_used.lock() = Instant::now();
        self.superseded.store(false, Ordering::Relaxed);
        let proof = self.proof(fingerprint)?;
        Some(Grant::new(Arc::clone(self), proof, credential, visit))
    }

    /// Whether the backend has accepted this credential, however long ago, and not refused it since.
    #[must_use]
    pub fn has_accepted(&self, fingerprint: &Fingerprint) -> bool {
        self.proof(fingerprint).is_some_and(|proof| !proof.is_refused())
    }

    fn proof(&self, fingerprint: &Fingerprint) -> Option<Arc<Proof>> {
        // All are compared, so that the time tells nothing of which it was.
        let proofs = self.proofs.lock();
        proofs
            .iter()
            .fold(None, |found, known| if known.fingerprint == *fingerprint { Some(known) } else { found })
            .cloned()
    }

    /// The backend has just accepted this credential.
    fn accept(self: &Arc<Self>, fingerprint: Fingerprint, credential: &Arc<Credential>, visit: Visit) -> Pass {
        self.superseded.store(false, Ordering::Relaxed);
        let mut proofs = self.proofs.lock();
        let known = proofs.iter().position(|known| known.fingerprint == fingerprint);
        let proof = match known.map(|at| proofs.remove(at)) {
            Some(proof) => {
                proof.accept();
                proof
            }
            None => Proof::new(fingerprint),
        };
        // Those that sessions have are as many as there are sessions.
        let unused = |proof: &Arc<Proof>| Arc::strong_count(proof) == 1;
        if proofs.iter().filter(|proof| unused(proof)).count() >= MAX_CREDENTIALS
            && let Some(oldest) = proofs.iter().position(unused)
        {
            proofs.remove(oldest);
        }
        proofs.push(Arc::clone(&proof));
        drop(proofs);
        Pass::new(Grant::new(Arc::clone(self), proof, credential, visit))
    }

    /// The backend has just accepted `credential` on `connection`, which is kept. `generation`: before it was asked.
    pub async fn accepted(
        self: &Arc<Self>,
        fingerprint: Fingerprint,
        credential: &Arc<Credential>,
        connection: Unauthenticated,
        generation: u64,
        visit: Visit,
    ) -> Pass {
        let (connection, capabilities) =
            self.backend().authenticated(connection, generation, self.terms().idle_timeout, &self.manners);
        self.opened(&connection);
        self.learn(capabilities);
        let pass = self.accept(fingerprint, credential, visit);
        self.adopt(connection).await;
        // Drained while it logged in: whoever did that may not have known of this account, or of this connection.
        if self.backend().service() == Service::Drained {
            self.retire(RetireReason::Operator);
        }
        pass
    }

    /// The backend has refused this credential. If it had accepted it before, it is forgotten as soon as the refusal is
    /// certain: by its response code, or because it comes again. Gives whether it is certain.
    pub fn refused(&self, fingerprint: &Fingerprint, refusal: &Refusal) -> bool {
        let certain = refusal.definite || self.proof(fingerprint).is_none_or(|proof| proof.is_refused_again(refusal));
        if !certain {
            info!(
                user = self.name(),
                reply = refusal.reply,
                "a known credential was refused; it counts if that is repeated"
            );
            return false;
        }
        // Who was let in with it is let go, and nothing that is open is used again. Expired ones count: it is by those
        // that a refusal is noticed.
        if self.proof(fingerprint).is_some_and(|proof| proof.refuse()) {
            info!(
                user = self.name(),
                backend = self.backend().config.name,
                "credential no longer accepted; retiring connections"
            );
            self.retire(RetireReason::Credential);
        }
        self.proofs.lock().retain(|proof| !proof.is_refused() || Arc::strong_count(proof) > 1);
        true
    }

    fn is_current(&self, connection: &Connection) -> bool {
        connection.shared().generation == self.generation()
    }

    /// Something of this generation was put to rest just now: if it was raised meanwhile, it is retired like the
    /// others.
    fn look_after(&self, generation: u64) {
        self.rested.notify_one();
        if self.generation() != generation {
            self.retire_resting(*self.outdated.lock());
        }
    }

    /// Takes in a connection on which a credential was just accepted: in place of the one at rest longest, or in a seat
    /// more.
    async fn adopt(&self, mut connection: Connection) {
        if !self.is_current(&connection) {
            return connection.retire(*self.outdated.lock());
        }
        if !connection.release() {
            return;
        }
        let generation = connection.shared().generation;
        let replaced = if let Some((_, oldest)) = self.longest_at_rest() {
            self.change_places(&mut connection, oldest);
            Some(connection)
        } else if self.seats.status().size < self.terms().max_per_account
            && let Some(seat) = self.seat_at_once().await
        {
            seat.0.lock().replace(connection)
        } else {
            Some(connection)
        };
        if let Some(replaced) = replaced {
            self.note_leaving(replaced.shared());
            replaced.retire(RetireReason::Replaced);
        }
        self.look_after(generation);
    }

    fn opened(self: &Arc<Self>, connection: &Connection) {
        let (user, backend) = (self.name(), self.backend().config.name.clone());
        let owner: Weak<Self> = Arc::downgrade(self);
        connection.shared().belongs_to(owner, user.clone(), backend.clone());
        connection.shared().proves(Arc::clone(&self.queue));
        let connection = connection.shared().id;
        info!(target: "imapool::connections", connection, user, backend, "upstream connection opened");
    }

    fn learn(&self, capabilities: Arc<Capabilities>) {
        if **self.capabilities.load() != *capabilities {
            *self.offered.lock() = Arc::from(capabilities.after_login());
            self.capabilities.store(capabilities);
        }
    }
}

#[cfg(test)]
mod tests;
