//! All accounts.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool::managed::{self, QueueMode};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::seat::Manager;
use super::{Account, Key, LIMIT_MEMORY, Pass};
use crate::config::{self, Live, PerCredential};
use crate::imap::sasl::{Credential, SecretKind};
use crate::metrics::RetireReason;
use crate::ports::{Allowance, Budget, Everywhere, Sharers};
use crate::residence::Visit;
use crate::secret::Fingerprint;
use crate::terms::AllTerms;
use crate::upstream::backend::{Backend, Queue, Service, Unauthenticated};

/// How long a hub may take to give up its connection.
const TO_PARK: Duration = Duration::from_secs(2);

/// All accounts.
pub struct Pools {
    config: Live<config::Pool>,
    pub(super) terms: ArcSwap<AllTerms>,
    backends: ArcSwap<Vec<Arc<Backend>>>,
    /// Held while these are exchanged, or an administrator says whether one serves.
    serving: Mutex<()>,
    pub(super) accounts: RwLock<HashMap<Key, Arc<Account>>>,
    /// By what tokens of one person have in common: the accounts of each.
    pub(super) siblings: Mutex<HashMap<Key, Vec<Weak<Account>>>>,
    /// Accounts that nobody logs in to any more, as long as somebody has a session or a connection there.
    forgotten: Mutex<Vec<Weak<Account>>>,
    everywhere: Allowance,
    sharers: Arc<Everywhere>,
    retirements: AtomicU64,
    /// Accounts made so far.
    made: AtomicU64,
}

impl fmt::Debug for Pools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").field("accounts", &self.accounts.read().len()).finish_non_exhaustive()
    }
}

impl Pools {
    /// Accounts are about to be retired by an administrator: what a backend is being asked at this moment about any
    /// credential is old news by then ([`Account::retire_all`]).
    pub fn retiring(&self) {
        self.retirements.fetch_add(1, Ordering::AcqRel);
    }

    /// How often that was.
    #[must_use]
    pub fn retirements(&self) -> u64 {
        self.retirements.load(Ordering::Acquire)
    }

    /// No accounts yet; at most as many connections in use at once, anywhere, as the budget has.
    #[must_use]
    pub fn new(config: Live<config::Pool>, terms: Arc<AllTerms>, backends: Vec<Arc<Backend>>, budget: &Budget) -> Self {
        let (backends, everywhere) = (ArcSwap::from_pointee(backends), Allowance::new(budget.capacity()));
        let (accounts, siblings, forgotten, serving) = Default::default();
        Self {
            config,
            terms: ArcSwap::new(terms),
            backends,
            serving,
            accounts,
            siblings,
            forgotten,
            everywhere,
            sharers: Arc::clone(&budget.sharers),
            retirements: AtomicU64::new(0),
            made: AtomicU64::new(0),
        }
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

    /// Every account, by name, and those of one name in the order in which they were made; those, too, that nobody logs
    /// in to any more, while somebody is there.
    #[must_use]
    pub fn accounts(&self) -> Vec<Arc<Account>> {
        let mut accounts: Vec<_> = self.accounts.read().values().cloned().collect();
        accounts.extend(self.forgotten());
        accounts.sort_by_cached_key(|account| {
            let key = account.key();
            (key.backend, key.user.clone(), account.number)
        });
        accounts
    }

    /// Those that nobody logs in to any more, while somebody is there.
    pub(super) fn forgotten(&self) -> Vec<Arc<Account>> {
        self.forgotten.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn is_current(&self, backend: &Arc<Backend>) -> bool {
        self.backends.load().iter().any(|current| Arc::ptr_eq(current, backend))
    }

    /// Has the backend of this name serve, or not; gives it.
    pub fn serve(&self, name: &[u8], service: Service) -> Option<Arc<Backend>> {
        let _serving = self.serving.lock();
        let backend = self.backends.load().iter().find(|backend| backend.config.name.as_bytes() == name).cloned()?;
        backend.set_service(service);
        Some(backend)
    }

    /// Exchanges the backends, and the numbers of connections that may be in use at once. One with the index of an
    /// earlier one takes its place: what is open to that is not used again, and its accounts go on with the new one.
    pub fn set_backends(&self, backends: Vec<Arc<Backend>>, capacity: usize) {
        self.everywhere.resize(capacity);
        let serving = self.serving.lock();
        let before = self.backends();
        for (new, old) in backends.iter().flat_map(|new| before.iter().map(move |old| (new, old))) {
            if new.index == old.index && !Arc::ptr_eq(new, old) {
                new.succeeds(old);
            }
        }
        // From here on nobody opens an account on one that is gone: `accepted`.
        self.backends.store(Arc::new(backends.clone()));
        drop(serving);
        let mut orphans = Vec::new();
        self.accounts.write().retain(|key, account| {
            let stays = backends.iter().any(|backend| backend.index == key.backend);
            if !stays {
                orphans.push(Arc::clone(account));
            }
            stays
        });
        if before.iter().any(|backend| !self.is_current(backend)) {
            self.retiring();
        }
        self.forget(&orphans);
        for account in self.accounts() {
            let index = account.key().backend;
            let new = backends.iter().find(|backend| backend.index == index);
            if let Some(new) = new.filter(|new| !Arc::ptr_eq(new, &account.backend())) {
                account.move_to(new, RetireReason::Reload);
            }
        }
        for backend in before.iter().filter(|backend| !self.is_current(backend)) {
            backend.shut_down();
        }
    }

    /// Nobody logs in to these any more.
    pub(super) fn forget(&self, accounts: &[Arc<Account>]) {
        let mut forgotten = self.forgotten.lock();
        forgotten.retain(|account| account.strong_count() > 0);
        forgotten.extend(accounts.iter().map(Arc::downgrade));
        drop(forgotten);
        accounts.iter().for_each(|account| account.retire(RetireReason::Reload));
    }

    /// Goes by another `[pool]` from now on. Where it changes who shares connections, the accounts are forgotten, and
    /// with them which credentials were accepted.
    pub fn apply(&self, config: config::Pool) {
        let same_keys = self.config.load().per_credential == config.per_credential;
        self.config.store(Arc::new(config));
        if !same_keys {
            let forgotten: Vec<_> = std::mem::take(&mut *self.accounts.write()).into_values().collect();
            self.retiring();
            self.forget(&forgotten);
        }
    }

    /// Has accounts go by other terms from now on. The backends are those of the same configuration already.
    pub fn set_terms(&self, terms: Arc<AllTerms>) {
        self.terms.store(Arc::clone(&terms));
        // Whoever is not among these was made by them.
        self.accounts()
            .iter()
            .for_each(|account| account.go_by(terms.of(&account.owner, &account.backend().config.name)));
    }

    /// The key of the account that a credential is for.
    #[must_use]
    pub fn key(&self, backend: usize, credential: &Credential, fingerprint: Fingerprint) -> Key {
        let kind = credential.mechanism.kind();
        let apart = match self.config.load().per_credential {
            PerCredential::Tokens => kind != SecretKind::Password,
            PerCredential::Always => true,
            PerCredential::Never => false,
        };
        Key {
            backend,
            user: credential.user.clone(),
            authzid: credential.authzid.clone(),
            kind,
            credential: apart.then_some(fingerprint),
        }
    }

    /// The account, if a credential of it was ever accepted.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Arc<Account>> {
        self.accounts.read().get(key).cloned()
    }

    /// The backend has just accepted `credential` on `connection`: makes the account known, and keeps the connection.
    /// `None`: another has taken its place meanwhile, or none.
    pub async fn accepted(
        &self,
        key: Key,
        backend: &Arc<Backend>,
        fingerprint: Fingerprint,
        credential: &Arc<Credential>,
        connection: Unauthenticated,
        visit: Visit,
    ) -> Option<Pass> {
        let mut is_new = false;
        let (account, generation) = {
            let mut accounts = self.accounts.write();
            if !self.is_current(backend) {
                return None;
            }
            let new = |key: &Key| {
                is_new = true;
                self.account(key, &visit, Arc::clone(backend))
            };
            let account = Arc::clone(accounts.entry(key).or_insert_with_key(new));
            let generation = account.generation();
            (account, generation)
        };
        if is_new && account.key().credential.is_some() {
            self.succeeds(&account);
        }
        Some(account.accepted(fingerprint, credential, connection, generation, visit).await)
    }

    /// This account takes the place of those of the same person's earlier tokens, which expire: what rests there is
    /// given up as soon as nobody has a session there.
    fn succeeds(&self, new: &Arc<Account>) {
        let earlier = {
            let mut siblings = self.siblings.lock();
            let siblings = siblings.entry(new.key().without_credential()).or_default();
            let earlier: Vec<_> = siblings.iter().filter_map(Weak::upgrade).collect();
            siblings.retain(|sibling| sibling.strong_count() > 0);
            siblings.push(Arc::downgrade(new));
            earlier
        };
        // Passwords do not expire: several devices may have one each.
        let earlier = earlier.into_iter().filter(|_| new.key().kind != SecretKind::Password);
        for account in earlier {
            account.superseded.store(true, Ordering::Relaxed);
            clear_away_superseded(&account);
        }
    }

    /// Gives up the connection at rest longest among those of a person: of this account, if `own`, and of the same
    /// person's other tokens. One that ends already is waited for. Of this account, a hub gives up its own. False:
    /// there is none. Waits until it is closed; the caller sets the deadline.
    pub async fn make_room(&self, key: &Key, own: bool) -> bool {
        let account = self.find(key);
        if let Some(account) = &account
            && account.one_has_left().await
        {
            return true;
        }
        let own = account.filter(|_| own);
        let mut accounts: Vec<_> = {
            let siblings = self.siblings.lock();
            siblings.get(&key.without_credential()).into_iter().flatten().filter_map(Weak::upgrade).collect()
        };
        accounts.retain(|account| *account.key() != *key);
        accounts.extend(own.clone());
        let resting = accounts.iter().filter_map(|account| Some((account.longest_at_rest()?.0, account)));
        let longest = resting.min_by_key(|(since, _)| *since).map(|(_, account)| account);
        match (longest, &own) {
            (Some(account), _) => account.give_up_longest_at_rest().await,
            (None, Some(own)) => {
                let resting = timeout(TO_PARK, own.something_at_rest()).await;
                resting.is_ok() && own.give_up_longest_at_rest().await
            }
            (None, None) => false,
        }
    }

    fn account(&self, key: &Key, visit: &Visit, backend: Arc<Backend>) -> Arc<Account> {
        let owner = visit.residence().name.clone();
        let terms = self.terms.load().of(&owner, &backend.config.name);
        let max = terms.max_per_account;
        let queue = Queue::new(max, backend.metrics());
        // Fails only when time-outs are set without a runtime; none are.
        let seats = managed::Pool::builder(Manager)
            .max_size(max)
            .queue_mode(QueueMode::Lifo)
            .build()
            .expect("a pool without time-outs of its own");
        Arc::new(Account {
            key: ArcSwap::from_pointee(key.clone()),
            owner,
            number: self.made.fetch_add(1, Ordering::Relaxed),
            backend: ArcSwap::new(backend),
            config: Arc::clone(&self.config),
            terms: Mutex::new(terms),
            seats,
            turns: Allowance::new(max),
            everywhere: Arc::clone(self.everywhere.semaphore()),
            proofs: Mutex::default(),
            superseded: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            to_leave: AtomicU64::new(0),
            outdated: Mutex::new(RetireReason::Credential),
            capabilities: ArcSwap::default(),
            offered: Mutex::new(Arc::from("")),
            leaving: Mutex::default(),
            limit: Mutex::default(),
            last_used: Mutex::new(Instant::now()),
            rested: Notify::new(),
            manners: Arc::default(),
            queue,
            sharers: Sharers::new(&self.sharers, key.backend),
            attachment: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            waits: AtomicU64::new(0),
            traced: Mutex::default(),
        })
    }

    /// Forgets accounts without connections, sessions and credentials that are still good. Call it every few seconds.
    pub fn sweep(&self, cache_ttl: Duration) {
        self.everywhere.settle();
        self.forgotten.lock().retain(|account| account.strong_count() > 0);
        let accounts = self.accounts();
        for account in &accounts {
            account.turns.settle();
            account.clear_away_closed();
            clear_away_superseded(account);
        }
        drop(accounts);
        // One that nobody else holds cannot be got hold of while the map is locked.
        let unused = |account: &Arc<Account>| {
            Arc::strong_count(account) == 1
                && account.seats.status().size == 0
                && account.last_used.lock().elapsed() > cache_ttl.max(LIMIT_MEMORY)
        };
        self.accounts.write().retain(|_, account| !unused(account));
        self.siblings.lock().retain(|_, siblings| {
            siblings.retain(|sibling| sibling.strong_count() > 0);
            !siblings.is_empty()
        });
    }

    /// Retires what is open to this backend: what rests now, what is in use when it comes back.
    pub fn drain_backend(&self, backend: &Backend) {
        for account in self.accounts().iter().filter(|account| account.key().backend == backend.index) {
            account.retire(RetireReason::Operator);
        }
        backend.end_spares();
    }

    /// Retires every connection at rest, and each other one when it comes back.
    pub fn shut_down(&self) {
        for account in self.accounts() {
            account.retire(RetireReason::Shutdown);
        }
        for backend in self.backends.load().iter() {
            backend.shut_down();
        }
    }
}

/// Who has another token by now will not need what rests here. Held by the map and the caller alone, it has no session.
fn clear_away_superseded(account: &Arc<Account>) {
    if account.superseded.load(Ordering::Relaxed) && Arc::strong_count(account) <= 2 {
        account.retire_resting(RetireReason::Replaced);
    }
}
