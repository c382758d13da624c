//! Accounts and their pools: who may use which upstream connection, and who has to wait.
//!
//! Each account has a deadpool of its own, found by the account's full key; so a connection cannot be handed to another
//! account. Around it stand two fair semaphores, the account's first and the global one second; a connection at rest
//! holds neither, so that it can be retired to make room. A checkout takes what deadpool gives and exchanges it for
//! the connection at rest that fits best: the wanted mailbox selected, the wanted state enabled.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use deadpool::managed::{self, Metrics as ObjectMetrics, Object, PoolError, QueueMode, RecycleError, RecycleResult};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use crate::config::{self, Live};
use crate::imap::capability::Capabilities;
use crate::imap::sasl::{Credential, SecretKind};
use crate::mailbox::registry::{Everywhere, Registry};
use crate::metrics::{CheckoutResult, RetireReason};
use crate::ports::{Allowance, Budget, Counted};
use crate::secret::Fingerprint;
use crate::session::machine::{Remnant, Run};
use crate::throttle::Standing;
use crate::upstream::backend::{Backend, OpenError, Unauthenticated};
use crate::upstream::connection::{Connection, FromUpstream};
use crate::upstream::login::Outcome;
use crate::upstream::machine::{Facts, Sticky};

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

/// What a session needs of a connection.
#[derive(Debug, Clone, Default)]
pub struct Want {
    /// It would be good to have this mailbox selected already.
    pub mailbox: Option<Bytes>,
    /// The state that must be on it.
    pub sticky: Arc<Sticky>,
    /// Or this one, which the session's next command would bring about.
    pub or_sticky: Option<Sticky>,
    /// Whose session wants it.
    pub client: Option<IpAddr>,
}

/// Why there is no connection for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// All of the account's connections, or all there may be, were in use for `pool.checkout_timeout`.
    #[error("no connection to the mail server became free in time")]
    Timeout,
    /// The backend takes no more connections of this account, and none is left of those it took.
    #[error("the mail server takes no more connections for this account")]
    Limit,
    /// The backend now refuses the credential it had accepted.
    #[error("the mail server no longer accepts this login")]
    Refused,
    /// The backend cannot be reached.
    #[error("the mail server cannot be reached")]
    Unavailable,
}

/// A seat in an account's deadpool, and the connection in it while it rests.
#[derive(Debug, Default)]
struct Seat(Mutex<Option<Connection>>);

/// Fills seats.
struct Manager {
    account: Weak<Account>,
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Manager")
    }
}

/// What went wrong with filling a seat.
#[derive(Debug)]
enum FillError {
    Open(OpenError),
    Refused,
    AccountGone,
}

impl managed::Manager for Manager {
    type Type = Seat;
    type Error = FillError;

    async fn create(&self) -> Result<Seat, FillError> {
        let account = self.account.upgrade().ok_or(FillError::AccountGone)?;
        if let Some(mut verified) = account.take_verified()
            && verified.attach()
        {
            return Ok(Seat(Mutex::new(Some(verified))));
        }
        Ok(Seat(Mutex::new(Some(account.dial().await?))))
    }

    async fn recycle(&self, seat: &mut Seat, _: &ObjectMetrics) -> RecycleResult<FillError> {
        if seat.0.get_mut().as_mut().is_some_and(Connection::attach) {
            return Ok(());
        }
        Err(RecycleError::Message("closed while at rest".into()))
    }
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

    /// A further connection.
    async fn dial(&self) -> Result<Connection, FillError> {
        let credential = self.credential.lock().clone();
        let client = *self.last_client.lock();
        let (connection, outcome) =
            self.backend.log_in(&credential, Standing::Proven, client).await.map_err(FillError::Open)?;
        match outcome {
            Outcome::Refused(_) => {
                self.backend.keep(connection);
                Err(FillError::Refused)
            }
            _ => {
                let (connection, capabilities) = self.backend.authenticated(connection);
                self.opened(&connection);
                self.learn(capabilities);
                Ok(connection)
            }
        }
    }

    /// A connection for a session, within `pool.checkout_timeout`.
    ///
    /// # Errors
    /// See [`CheckoutError`].
    pub async fn checkout(self: &Arc<Self>, want: &Want) -> Result<Lease, CheckoutError> {
        let start = Instant::now();
        let deadline = start + self.config.load().checkout_timeout;
        *self.last_used.lock() = start;
        *self.last_client.lock() = want.client;
        if self.turns.available_permits() == 0 {
            self.waits.fetch_add(1, Ordering::Relaxed);
        }
        let waiting = Counted::new(&self.waiting);
        let result = timeout_at(deadline, self.checkout_in_turn(want)).await.unwrap_or(Err(CheckoutError::Timeout));
        drop(waiting);
        let label = match &result {
            Ok(lease) if lease.dialed => CheckoutResult::Dialed,
            Ok(_) => CheckoutResult::Reused,
            Err(CheckoutError::Timeout) => CheckoutResult::Timeout,
            Err(CheckoutError::Limit) => CheckoutResult::Limit,
            Err(CheckoutError::Refused) => CheckoutResult::Refused,
            Err(CheckoutError::Unavailable) => CheckoutResult::Unavailable,
        };
        self.backend.metrics().checkout(label, start.elapsed());
        result
    }

    async fn checkout_in_turn(self: &Arc<Self>, want: &Want) -> Result<Lease, CheckoutError> {
        self.restore_turns();
        self.backend.in_service().await;
        loop {
            let (turn, place) = self.turn().await;
            match self.seat(want).await {
                Ok(Some(taken)) => return Ok(Lease::new(self, taken, turn, place)),
                // It was closed just then, or did not answer: the next.
                Ok(None) => {}
                Err(FillError::Refused) => {
                    self.forget(None);
                    return Err(CheckoutError::Refused);
                }
                Err(FillError::Open(OpenError::Limit(text))) => {
                    drop((turn, place));
                    if !self.lower_limit(&text) {
                        return Err(CheckoutError::Limit);
                    }
                }
                Err(FillError::Open(_) | FillError::AccountGone) => return Err(CheckoutError::Unavailable),
            }
        }
    }

    /// Waits until a further connection may be in use. Hubs that rest are asked for theirs meanwhile.
    async fn turn(&self) -> (OwnedSemaphorePermit, OwnedSemaphorePermit) {
        // Neither semaphore is ever closed.
        let waiting = (self.turns.available_permits() == 0).then(|| self.hubs.wait());
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("open semaphore");
        drop(waiting);
        let _waiting = (self.everywhere.available_permits() == 0).then(|| self.all_hubs.wait());
        let place = Arc::clone(&self.everywhere).acquire_owned().await.expect("open semaphore");
        (turn, place)
    }

    /// A seat with a connection that fits; `None`: try again.
    async fn seat(&self, want: &Want) -> Result<Option<Taken>, FillError> {
        let mut object = match self.seats.get().await {
            Ok(object) => object,
            Err(PoolError::Backend(error)) => return Err(error),
            Err(_) => return Err(FillError::AccountGone),
        };
        let Some(mut connection) = object.0.lock().take() else { return Ok(None) };
        self.exchange(&mut connection, want);
        if fitness(&connection.shared().facts(), want) == 0 {
            if let Some(other) = self.further_seat(want).await {
                drop(put_back(std::mem::replace(&mut object, other.object), connection));
                connection = other.connection;
            } else if is_blank(&connection) && enable(&mut connection, &want.sticky).await {
                // One that carries nothing yet is as good as a new one.
            } else {
                // Its place is this one: the account never has more.
                retire_and_wait(connection, RetireReason::Sticky).await;
                connection = self.dial().await?;
            }
            let fits = fitness(&connection.shared().facts(), want) > 0;
            if !fits && !enable(&mut connection, &want.sticky).await {
                return Ok(None);
            }
        }
        if self.doubts(&connection) && !connection.check().await {
            connection.retire(RetireReason::FailedCheck);
            // Its seat goes with it.
            let _ = Object::take(object);
            return Ok(None);
        }
        Ok(Some(Taken { object, connection }))
    }

    /// Whether a connection has to show that it is alive before it is used again. In an outage those at rest are not to be
    /// trusted, however fresh: whoever is given one that hangs, hangs.
    fn doubts(&self, connection: &Connection) -> bool {
        let doubtful = connection.rested_for() > self.config.load().check_after || !self.backend.is_reachable();
        doubtful && !connection.is_fresh()
    }

    /// A seat with a new connection, where there is room for one without waiting for anybody.
    async fn further_seat(&self, want: &Want) -> Option<Taken> {
        let at_once = managed::Timeouts { wait: Some(Duration::ZERO), ..managed::Timeouts::default() };
        let object = self.seats.timeout_get(&at_once).await.ok()?;
        let connection = object.0.lock().take()?;
        if connection.is_fresh() || fitness(&connection.shared().facts(), want) > 0 {
            return Some(Taken { object, connection });
        }
        // It came to rest meanwhile.
        drop(put_back(object, connection));
        None
    }

    /// Exchanges `mine` for the connection at rest that fits best, if one fits better.
    fn exchange(&self, mine: &mut Connection, want: &Want) {
        let mut fit = fitness(&mine.shared().facts(), want);
        if fit == BEST_FIT || self.seats.status().available == 0 {
            return;
        }
        self.seats.retain(|seat, _| {
            let mut seat = seat.0.lock();
            if let Some(other) = seat.as_mut() {
                let other_fit = fitness(&other.shared().facts(), want);
                if other_fit > fit && other.attach() {
                    // If mine cannot be put to rest, its seat finds out when it is next wanted.
                    let _ = mine.release();
                    std::mem::swap(mine, other);
                    fit = other_fit;
                }
            }
            true
        });
    }

    /// The backend takes no more connections: makes do with those there are, for a while. False: there are none.
    fn lower_limit(&self, text: &str) -> bool {
        let have = self.seats.status().size;
        if have == 0 {
            warn!(
                user = self.name(),
                backend = self.backend.config.name,
                text,
                "backend takes no connection of this account"
            );
            return false;
        }
        let mut withheld = self.withheld.lock();
        let already = withheld.as_ref().map_or(0, |(permit, _)| permit.num_permits());
        for _ in already..self.max.saturating_sub(have) {
            let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else { break };
            match withheld.as_mut() {
                Some((permit, _)) => permit.merge(turn),
                None => *withheld = Some((turn, Instant::now())),
            }
        }
        warn!(
            user = self.name(),
            backend = self.backend.config.name,
            connections = have,
            text,
            "backend takes no further connection of this account; lower pool.max_per_account"
        );
        true
    }

    fn restore_turns(&self) {
        let mut withheld = self.withheld.lock();
        if withheld.as_ref().is_some_and(|(_, since)| since.elapsed() >= LIMIT_MEMORY) {
            *withheld = None;
        }
    }
}

/// The best that [`fitness`] knows.
const BEST_FIT: u8 = 3;

/// How well a connection suits; 0: not at all.
fn fitness(facts: &Facts, want: &Want) -> u8 {
    if want.or_sticky.as_ref().is_some_and(|sticky| *sticky == *facts.sticky) {
        return 3;
    }
    if *facts.sticky != *want.sticky {
        return 0;
    }
    let best = if want.or_sticky.is_some() { 2 } else { 3 };
    match (&want.mailbox, &facts.selected) {
        (None, None) => best,
        (Some(wanted), Some(selected)) if wanted == selected => best,
        _ => 1,
    }
}

/// Retires a connection, and waits until its socket is closed.
async fn retire_and_wait(connection: Connection, reason: RetireReason) {
    let open = Arc::new(Semaphore::new(1));
    connection.keep_to_the_end(Arc::clone(&open).try_acquire_owned());
    connection.retire(reason);
    // Never closed.
    let _ = open.acquire().await;
}

/// Nothing was switched on yet, and no mailbox is selected (ENABLE comes before SELECT, RFC 5161 section 3.1).
fn is_blank(connection: &Connection) -> bool {
    let facts = connection.shared().facts();
    *facts.sticky == Sticky::default() && facts.selected.is_none()
}

/// Brings a fresh connection into the state of one that was lost, or that a hub wants. False: it could not be.
async fn enable(connection: &mut Connection, sticky: &Sticky) -> bool {
    let Some(command) = sticky.command() else { return true };
    if connection.run(Box::new(Run { command, streams: None })).is_err() {
        return false;
    }
    loop {
        match connection.event().await {
            FromUpstream::Done(_, rest, _) => return rest.starts_with(b" OK"),
            FromUpstream::Lost(_) => return false,
            _ => {}
        }
    }
}

/// Puts a connection to rest in its seat. If that cannot be, it is given back, to be ended, and its seat is gone.
fn put_back(object: Object<Manager>, mut connection: Connection) -> Option<Connection> {
    if connection.release() {
        *object.0.lock() = Some(connection);
        return None;
    }
    let _ = Object::take(object);
    Some(connection)
}

struct Taken {
    object: Object<Manager>,
    connection: Connection,
}

/// An upstream connection in use by one session. Dropping it puts the connection to rest in its account's pool, if
/// nothing is left on it, and ends it otherwise.
pub struct Lease {
    account: Arc<Account>,
    connection: Option<Connection>,
    object: Option<Object<Manager>>,
    generation: u64,
    dialed: bool,
    /// Its turn of the account and its place among all. Nobody else gets them before the socket is closed.
    places: [Option<OwnedSemaphorePermit>; 2],
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Lease {
    fn new(account: &Arc<Account>, taken: Taken, turn: OwnedSemaphorePermit, place: OwnedSemaphorePermit) -> Self {
        Self {
            account: Arc::clone(account),
            dialed: taken.connection.is_fresh(),
            connection: Some(taken.connection),
            object: Some(taken.object),
            generation: account.generation.load(Ordering::Acquire),
            places: [Some(turn), Some(place)],
        }
    }

    /// Ends the connection, for this reason.
    pub fn retire(mut self, reason: RetireReason) {
        self.end(reason);
    }

    fn end(&mut self, reason: RetireReason) {
        if let Some(connection) = self.connection.take() {
            connection.keep_to_the_end(self.places.iter_mut().filter_map(Option::take));
            connection.retire(reason);
        }
    }

    /// The same lease, but of a connection at rest that fits better, if there is one; the one at hand comes to rest in its
    /// seat.
    ///
    /// # Errors
    /// See [`CheckoutError`]: when the other does not answer, and no further one can be had.
    pub async fn exchanged(mut self, want: &Want) -> Result<Self, CheckoutError> {
        let account = Arc::clone(&self.account);
        let before = self.shared().id;
        account.exchange(&mut self, want);
        if self.shared().id == before || !account.doubts(&self) {
            return Ok(self);
        }
        if let Ok(true) = timeout(account.config.load().checkout_timeout, self.check()).await {
            return Ok(self);
        }
        self.retire(RetireReason::FailedCheck);
        account.checkout(want).await
    }

    /// Reads what is still to come for a session that has gone (after ending its IDLE, if that is what it did), within the
    /// budget for that, and puts the connection to rest.
    pub async fn drain(mut self, remnant: Remnant) {
        let config = self.account.config.load();
        let (octets, time) = (config.drain_bytes, config.drain_timeout);
        drop(config);
        if !self.deref_mut().drain(remnant, octets, time).await {
            self.end(RetireReason::DrainBudget);
        }
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("taken only on drop")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("taken only on drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        if self.account.generation.load(Ordering::Acquire) != self.generation {
            let reason = *self.account.outdated.lock();
            self.end(reason);
        }
        match self.connection.take() {
            Some(connection) => {
                if let Some(unfit) = put_back(object, connection) {
                    unfit.keep_to_the_end(self.places.iter_mut().filter_map(Option::take));
                }
            }
            // The seat goes with its connection.
            None => drop(Object::take(object)),
        }
    }
}

/// All accounts.
pub struct Pools {
    config: Live<config::Pool>,
    backends: ArcSwap<Vec<Arc<Backend>>>,
    accounts: RwLock<HashMap<Key, Arc<Account>>>,
    everywhere: Allowance,
    hubs: Arc<Everywhere>,
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").field("accounts", &self.accounts.read().len()).finish_non_exhaustive()
    }
}

impl Pools {
    /// No accounts yet; at most as many connections in use at once, anywhere, as the budget has.
    #[must_use]
    pub fn new(config: Live<config::Pool>, backends: Vec<Arc<Backend>>, budget: &Budget) -> Self {
        let (backends, everywhere) = (ArcSwap::from_pointee(backends), Allowance::new(budget.capacity()));
        Self { config, backends, accounts: RwLock::default(), everywhere, hubs: Arc::clone(budget.hubs()) }
    }

    /// The backends, the default one first.
    #[must_use]
    pub fn backends(&self) -> Arc<Vec<Arc<Backend>>> {
        self.backends.load_full()
    }

    /// The backend of this index, if there still is one.
    #[must_use]
    pub fn backend(&self, index: usize) -> Option<Arc<Backend>> {
        self.backends.load().iter().find(|backend| backend.index == index).cloned()
    }

    /// Every account, in no order.
    #[must_use]
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        self.accounts.read().values().cloned().collect()
    }

    /// Exchanges the backends, and the numbers of connections that may be in use at once. What is open to one that is
    /// not among them any more is not used by further sessions.
    pub fn set_backends(&self, backends: Vec<Arc<Backend>>, capacity: usize) {
        self.everywhere.resize(capacity);
        let kept = |index: usize| backends.iter().any(|backend| backend.index == index);
        let gone: Vec<_> = self.backends.load().iter().filter(|backend| !kept(backend.index)).cloned().collect();
        let mut orphans = Vec::new();
        self.accounts.write().retain(|key, account| {
            let stays = kept(key.backend);
            if !stays {
                orphans.push(Arc::clone(account));
            }
            stays
        });
        self.backends.store(Arc::new(backends));
        for account in orphans {
            account.retire(RetireReason::Reload);
        }
        for backend in gone {
            backend.shut_down();
        }
    }

    /// Goes by another `[pool]` from now on. Where the number of places changes or who shares connections, the accounts
    /// get new pools; credentials that were accepted remain so, as long as keys do.
    pub fn apply(&self, config: config::Pool) {
        let old = self.config.load_full();
        let same_keys = old.per_credential == config.per_credential;
        let same_size = old.max_per_account == config.max_per_account;
        self.config.store(Arc::new(config));
        if same_keys && same_size {
            return;
        }
        let replaced = {
            let mut accounts = self.accounts.write();
            let replaced = std::mem::take(&mut *accounts);
            if same_keys {
                accounts.extend(replaced.iter().map(|(key, account)| (key.clone(), self.successor(account))));
            }
            replaced
        };
        for account in replaced.values() {
            account.retire(RetireReason::Reload);
        }
    }

    fn successor(&self, account: &Account) -> Arc<Account> {
        let credential = account.credential.lock().clone();
        let new = self.account(&account.key, Arc::clone(&account.backend), &credential);
        new.accepted.lock().clone_from(&account.accepted.lock());
        new.learn(account.capabilities.load_full());
        new
    }

    /// The key of the account that a credential is for.
    #[must_use]
    pub fn key(&self, backend: usize, credential: &Credential, fingerprint: Fingerprint) -> Key {
        Key {
            backend,
            user: credential.user.clone(),
            authzid: credential.authzid.clone(),
            kind: credential.mechanism.kind(),
            credential: self.config.load().per_credential.then_some(fingerprint),
        }
    }

    /// The account, if a credential of it was ever accepted.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Arc<Account>> {
        self.accounts.read().get(key).cloned()
    }

    /// The backend has just accepted `credential` on `connection`: makes the account known, and keeps the connection.
    pub fn accepted(
        &self,
        key: Key,
        backend: &Arc<Backend>,
        fingerprint: Fingerprint,
        credential: Credential,
        connection: Unauthenticated,
    ) -> Arc<Account> {
        let (connection, capabilities) = backend.authenticated(connection);
        let account = {
            let mut accounts = self.accounts.write();
            let new = |key: &Key| self.account(key, Arc::clone(backend), &credential);
            Arc::clone(accounts.entry(key).or_insert_with_key(new))
        };
        account.opened(&connection);
        account.learn(capabilities);
        account.accept(fingerprint, credential);
        account.adopt(connection);
        account
    }

    fn account(&self, key: &Key, backend: Arc<Backend>, credential: &Credential) -> Arc<Account> {
        let max = self.config.load().max_per_account;
        Arc::new_cyclic(|account| {
            let manager = Manager { account: Weak::clone(account) };
            // Fails only when time-outs are set without a runtime; none are.
            let seats = managed::Pool::builder(manager)
                .max_size(max)
                .queue_mode(QueueMode::Lifo)
                .build()
                .expect("a pool without time-outs of its own");
            Account {
                key: key.clone(),
                backend,
                config: Arc::clone(&self.config),
                max,
                seats,
                turns: Arc::new(Semaphore::new(max)),
                everywhere: Arc::clone(self.everywhere.semaphore()),
                credential: Mutex::new(credential.clone()),
                accepted: Mutex::default(),
                generation: AtomicU64::new(0),
                outdated: Mutex::new(RetireReason::Credential),
                capabilities: ArcSwap::default(),
                offered: Mutex::new(Arc::from("")),
                verified: Mutex::default(),
                withheld: Mutex::default(),
                last_used: Mutex::new(Instant::now()),
                hubs: Arc::new(Registry::new(Arc::clone(&self.hubs))),
                all_hubs: Arc::clone(&self.hubs),
                last_client: Mutex::default(),
                waiting: AtomicUsize::new(0),
                waits: AtomicU64::new(0),
                traced: Mutex::default(),
                is_traced: AtomicBool::new(false),
            }
        })
    }

    /// Forgets accounts without connections, sessions and credentials that are still good. Call it every few seconds.
    pub fn sweep(&self, cache_ttl: Duration) {
        self.everywhere.settle();
        let accounts: Vec<_> = self.accounts.read().values().cloned().collect();
        for account in &accounts {
            account.clear_away_closed();
        }
        drop(accounts);
        // One that nobody else holds cannot be got hold of while the map is locked.
        let unused = |account: &Arc<Account>| {
            Arc::strong_count(account) == 1
                && account.seats.status().size == 0
                && account.verified.lock().is_none()
                && account.last_used.lock().elapsed() > cache_ttl.max(LIMIT_MEMORY)
        };
        self.accounts.write().retain(|_, account| !unused(account));
    }

    /// Retires what is open to this backend: what rests now, what is in use when it comes back.
    pub fn drain_backend(&self, backend: &Backend) {
        for account in self.accounts().iter().filter(|account| account.backend.index == backend.index) {
            account.retire(RetireReason::Operator);
        }
        backend.end_spares();
    }

    /// Retires every connection at rest, and each other one when it comes back.
    pub fn shut_down(&self) {
        for account in self.accounts.read().values() {
            account.retire(RetireReason::Shutdown);
        }
        for backend in self.backends.load().iter() {
            backend.shut_down();
        }
    }
}

impl Account {
    /// Gives up the seats of connections that ended while at rest.
    fn clear_away_closed(&self) {
        self.seats.retain(|seat, _| seat.0.lock().as_ref().is_some_and(|resting| !resting.shared().is_closed()));
        self.verified.lock().take_if(|verified| verified.shared().is_closed());
    }
}
