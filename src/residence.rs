//! Where accounts are: each at one backend at a time, whoever asks for it, and however the routes change.
//!
//! A [`Residence`] is an account at a backend. Whatever is logged in there for it holds it, or is about to log in: each
//! session and each verification through a [`Visit`], each connection until its socket is closed. As long as anybody
//! holds it, nobody gets one of the same account at another backend. So two servers never have one account logged in,
//! and who moves an account only has to have these leave and wait.
//!
//! Sessions can also be kept: then the same residence is at another backend once nothing of it is logged in at the one
//! before ([`Stay`], [`Moving`]).

mod place;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::place::Now;
pub use self::place::{Moving, Stay};

/// Names besides the first that are known of one account at once.
const MOST_NAMES: usize = 64;

/// Of an account.
type Key = Arc<[u8]>;

/// All accounts that are somewhere, or were not long ago, by their keys.
#[derive(Debug, Default)]
pub struct Residences {
    homes: Mutex<HashMap<Key, Home>>,
    /// Keys of accounts that are asked for by the key of another name, which a route leads to them: those of
    /// [`Residence::names`].
    aliases: Mutex<HashMap<Box<[u8]>, Key>>,
}

#[derive(Debug)]
struct Home {
    /// Index of the backend.
    backend: usize,
    residence: Weak<Residence>,
    /// When the last session of an account that was let in ended.
    last: Option<Instant>,
}

static NEXT_RESIDENCE: AtomicU64 = AtomicU64::new(0);

/// An account at one backend, while anything of it is there.
#[derive(Debug)]
pub struct Residence {
    /// Unique in the process.
    pub(crate) number: u64,
    /// The account's key, by the name that it logs in by: one server has it, whatever it is asked for by.
    pub key: Arc<[u8]>,
    /// The key of the name that it was asked for by first, which routes and settings go by.
    pub name: Box<[u8]>,
    /// Of further ones.
    others: Mutex<Vec<Box<[u8]>>>,
    place: Mutex<Now>,
    /// What its sessions log in by, where that is another name than the client's.
    pub login: Option<Box<[u8]>>,
    /// How it was asked for: listener and server name.
    by: (Box<str>, Option<Box<str>>),
    all: Weak<Residences>,
    visits: AtomicUsize,
    /// Of these, by who was let in.
    let_in: AtomicUsize,
    /// Client sessions: see [`Presence`].
    sessions: AtomicUsize,
    /// When the last visit of somebody who was let in ended; none: nobody was, so far.
    last: Mutex<Option<Instant>>,
    tenants: Mutex<Tenants>,
    /// Tells when it is to be left, and keeps nobody there.
    pub ended: CancellationToken,
    /// Tells when nobody holds it any more.
    gone: Arc<Notify>,
}

/// What is of an account at a backend, and can leave.
pub trait Tenant: fmt::Debug + Send + Sync {
    /// Has it end, soon and in good order; nothing is waited for.
    fn leave(&self);

    /// Has it give up what it has at the backend as soon as nothing runs there. It goes on at another one.
    fn let_go(&self);

    /// Whether it has something at the backend that others wait for to be given up.
    fn holds_on(&self) -> bool;

    /// Whether it is a session that nobody has asked to end.
    fn goes_on(&self) -> bool;
}

/// Those who are told.
#[derive(Debug, Default)]
struct Tenants {
    /// One for each kind of credential, and for each spelling of the name; each once.
    pools: Vec<Weak<dyn Tenant>>,
    sessions: Vec<Weak<dyn Tenant>>,
}

/// What a session or a verification holds.
#[derive(Debug, Clone)]
pub struct Visit(Arc<Visited>);

#[derive(Debug)]
struct Visited {
    residence: Arc<Residence>,
    let_in: AtomicBool,
}

/// Where an account may be.
#[derive(Debug)]
pub struct Wanted<'w> {
    /// Its key, by the name that it logs in by.
    pub key: &'w [u8],
    /// The key of the name that it is asked for by.
    pub name: &'w [u8],
    /// The backend for it if it is nowhere; none: it may stay, but not come.
    pub choice: Option<usize>,
    /// The choice is one of several that would do.
    pub free: bool,
    /// Where it may stay if it is there.
    pub allowed: Vec<usize>,
    /// For how long after its last session.
    pub stay: Duration,
    /// What to log in by, where that is another name than the client's.
    pub login: Option<&'w [u8]>,
    /// How it is asked for: by which listener, and what the client called this host in TLS.
    pub by: (&'w str, Option<&'w str>),
}

/// What became of a wish.
#[derive(Debug)]
pub enum Entered {
    /// It is here now.
    At(Visit),
    /// It is somewhere else, which it has to leave first.
    Elsewhere(Arc<Residence>),
    /// It is nowhere, and may not come.
    Nowhere,
}

impl Residences {
    /// Lets a session in where its account is, if it may be there, else where it should be.
    pub fn enter(self: &Arc<Self>, wanted: &Wanted<'_>) -> Entered {
        let mut homes = self.homes.lock();
        let mut stays = None;
        if let Some(home) = homes.get(wanted.key) {
            let residence = home.residence.upgrade();
            let recent = |last: Option<Instant>| last.is_some_and(|last| last.elapsed() < wanted.stay);
            let may_stay = Some(home.backend) == wanted.choice
                || (wanted.allowed.contains(&home.backend)
                    && residence.as_ref().map_or(recent(home.last), |it| it.is_visited() || recent(*it.last.lock())));
            match residence {
                Some(residence) if may_stay && !residence.is_ending() && !residence.is_moving() => {
                    if residence.is_asked_for_by(wanted.name) {
                        self.aliases.lock().insert(wanted.name.into(), Arc::clone(&residence.key));
                    }
                    return Entered::At(Visit::new(residence));
                }
                Some(residence) => return Entered::Elsewhere(residence),
                None if may_stay => stays = Some(home.backend),
                None => {}
            }
        }
        let Some(backend) = stays.or(wanted.choice) else { return Entered::Nowhere };
        let key: Arc<[u8]> = Arc::from(wanted.key);
        let residence = Arc::new(Residence {
            number: NEXT_RESIDENCE.fetch_add(1, Ordering::Relaxed),
            key: Arc::clone(&key),
            name: wanted.name.into(),
            others: Mutex::default(),
            place: Mutex::new(Now::new(backend, wanted.free)),
            login: wanted.login.map(Box::from),
            by: (wanted.by.0.into(), wanted.by.1.map(Box::from)),
            all: Arc::downgrade(self),
            visits: AtomicUsize::new(0),
            let_in: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            last: Mutex::new(homes.get(wanted.key).filter(|home| home.backend == backend).and_then(|home| home.last)),
            tenants: Mutex::default(),
            ended: CancellationToken::new(),
            gone: Arc::default(),
        });
        let home = Home { backend, residence: Arc::downgrade(&residence), last: *residence.last.lock() };
        if wanted.name != wanted.key {
            self.aliases.lock().insert(wanted.name.into(), Arc::clone(&key));
        }
        homes.insert(key, home);
        Entered::At(Visit::new(residence))
    }

    /// Those that anybody holds, by their keys.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Residence>> {
        let mut all: Vec<_> = self.homes.lock().values().filter_map(|home| home.residence.upgrade()).collect();
        all.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        all
    }

    /// How many of them are at each backend, by its index.
    #[must_use]
    pub fn counts(&self) -> HashMap<usize, usize> {
        let mut counts = HashMap::new();
        for home in self.homes.lock().values().filter(|home| home.residence.strong_count() > 0) {
            *counts.entry(home.backend).or_default() += 1;
        }
        counts
    }

    /// Has nobody come back to the backend of this index because of having been there.
    pub fn forget(&self, backend: usize) {
        self.homes.lock().retain(|_, home| home.backend != backend || home.residence.strong_count() > 0);
    }

    /// The one of this account, by its key or by that of another name which a route leads to it.
    #[must_use]
    pub fn find(&self, key: &[u8]) -> Option<Arc<Residence>> {
        let homes = self.homes.lock();
        let home = homes.get(key).or_else(|| homes.get(self.aliases.lock().get(key)?));
        home?.residence.upgrade()
    }

    /// The key of the account that is asked for by this key.
    #[must_use]
    pub fn account(&self, key: &[u8]) -> Option<Arc<[u8]>> {
        self.aliases.lock().get(key).cloned()
    }

    /// Index of the backend that this account has sessions at, or somebody who wants to log in.
    #[must_use]
    pub fn visited(&self, key: &[u8]) -> Option<usize> {
        self.find(key).filter(|it| it.is_visited() && !it.is_ending()).map(|it| it.backend())
    }

    /// Forgets accounts that left longer ago than any group wishes them to stay. Call it every few seconds.
    pub fn sweep(&self, stay: Duration) {
        let recent = |home: &Home| home.last.is_some_and(|last| last.elapsed() < stay);
        let mut homes = self.homes.lock();
        homes.retain(|_, home| home.residence.strong_count() > 0 || recent(home));
        self.aliases.lock().retain(|_, account| homes.contains_key(account));
    }
}

impl Drop for Residence {
    fn drop(&mut self) {
        if let Some(all) = self.all.upgrade()
            && let Entry::Occupied(mut home) = all.homes.lock().entry(Arc::clone(&self.key))
            && std::ptr::eq(home.get().residence.as_ptr(), self)
        {
            let mut aliases = all.aliases.lock();
            self.names().iter().for_each(|name| drop(aliases.remove(name)));
            drop(aliases);
            match *self.last.lock() {
                Some(last) if !self.is_ending() => home.get_mut().last = Some(last),
                // Nobody was let in, or it was sent away: there is nothing to come back for.
                _ => drop(home.remove()),
            }
        }
        self.gone.notify_waiters();
    }
}

impl Residence {
    /// The keys of all names that it was asked for by.
    #[must_use]
    pub fn names(&self) -> Vec<Box<[u8]>> {
        let others = self.others.lock();
        std::iter::once(&self.name).chain(others.iter()).cloned().collect()
    }

    /// Gives whether that is news. A service may lead any number of names to it, and nobody has to be let in for that:
    /// of more than [`MOST_NAMES`] the rest is not known.
    fn is_asked_for_by(&self, name: &[u8]) -> bool {
        if *name == *self.name {
            return false;
        }
        let mut others = self.others.lock();
        let is_news = others.len() < MOST_NAMES && !others.iter().any(|other| **other == *name);
        if is_news {
            others.push(name.into());
        }
        is_news
    }

    /// By which listener it was asked for first, and as which host.
    #[must_use]
    pub fn by(&self) -> (&str, Option<&str>) {
        (&self.by.0, self.by.1.as_deref())
    }

    /// Whether there are sessions, or somebody who wants to log in.
    #[must_use]
    pub fn is_visited(&self) -> bool {
        self.visits.load(Ordering::Acquire) > 0
    }

    /// Whether there are sessions.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.let_in.load(Ordering::Acquire) > 0
    }

    /// A place for one more session, where there may be so many at once; 0: any number. `None`: there is none.
    #[must_use]
    pub fn admit(self: &Arc<Self>, most: usize) -> Option<Presence> {
        let one_more = |sessions| (most == 0 || sessions < most).then_some(sessions + 1);
        let admitted = self.sessions.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        admitted.is_ok().then(|| Presence(Arc::clone(self)))
    }

    /// Client sessions that were let in and are not about to end.
    #[must_use]
    pub fn sessions(&self) -> usize {
        let tenants = self.tenants.lock();
        tenants.sessions.iter().filter_map(Weak::upgrade).filter(|session| session.goes_on()).count()
    }

    /// Whether it is to be left.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// What comes of `something` that is done there, unless it is to be left before that is over.
    pub async fn meanwhile<T>(&self, something: impl Future<Output = T>) -> Option<T> {
        self.ended.run_until_cancelled(something).await
    }

    /// Lets go of it, and tells when nobody holds it any more.
    pub fn over(self: Arc<Self>) -> OwnedNotified {
        Arc::clone(&self.gone).notified_owned()
    }

    /// Has all that is there leave, and nobody else comes from now on. False: that was so already.
    pub fn end(&self) -> bool {
        let mut now = self.place.lock();
        if self.is_ending() {
            return false;
        }
        self.ended.cancel();
        now.to = None;
        drop(now);
        self.tenants().iter().for_each(|tenant| tenant.leave());
        true
    }

    /// Sessions first.
    fn tenants(&self) -> Vec<Arc<dyn Tenant>> {
        let tenants = self.tenants.lock();
        tenants.sessions.iter().chain(&tenants.pools).filter_map(Weak::upgrade).collect()
    }

    /// A pool of the account is there, and is told when it is to be left.
    pub fn keeps<T: Tenant + 'static>(&self, pool: &Arc<T>) {
        let weak: Weak<dyn Tenant> = Arc::downgrade(pool) as Weak<dyn Tenant>;
        let mut tenants = self.tenants.lock();
        if !tenants.pools.iter().any(|known| Weak::ptr_eq(known, &weak)) {
            push(&mut tenants.pools, weak);
        }
        drop(tenants);
        self.tell(&**pool);
    }

    /// A session is there, and is told when it is to be left. Call it once for each.
    pub fn take_in<T: Tenant + 'static>(&self, session: &Arc<T>) {
        push(&mut self.tenants.lock().sessions, Arc::downgrade(session) as Weak<dyn Tenant>);
        self.tell(&**session);
    }

    /// Whoever ends it has seen this one, or this one sees that.
    fn tell(&self, tenant: &dyn Tenant) {
        if self.is_ending() {
            tenant.leave();
        } else if self.is_moving() {
            tenant.let_go();
        }
    }
}

/// Forgets those that are gone instead of growing.
pub(crate) fn push<T: ?Sized>(all: &mut Vec<Weak<T>>, one: Weak<T>) {
    if all.len() == all.capacity() {
        all.retain(|known| known.strong_count() > 0);
    }
    all.push(one);
}

/// The place of one client session among those of its account.
#[derive(Debug)]
pub struct Presence(Arc<Residence>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Visit {
    fn new(residence: Arc<Residence>) -> Self {
        residence.visits.fetch_add(1, Ordering::AcqRel);
        Self(Arc::new(Visited { residence, let_in: AtomicBool::new(false) }))
    }

    /// Where.
    #[must_use]
    pub fn residence(&self) -> &Arc<Residence> {
        &self.0.residence
    }

    /// The backend has let this visitor in.
    pub fn let_in(&self) {
        if !self.0.let_in.swap(true, Ordering::AcqRel) {
            self.0.residence.let_in.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Visited {
    fn drop(&mut self) {
        if self.let_in.load(Ordering::Acquire) {
            *self.residence.last.lock() = Some(Instant::now());
            self.residence.let_in.fetch_sub(1, Ordering::AcqRel);
        }
        self.residence.visits.fetch_sub(1, Ordering::AcqRel);
    }
}
