//! What sessions are let in with, and whether the backend still accepts it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Account;
use crate::imap::sasl::Credential;
use crate::residence::Visit;
use crate::secret::Fingerprint;
use crate::upstream::login::Refusal;

/// The backend has to be asked again.
const VOID: u64 = 0;
/// The backend has refused it after it had accepted it.
const REFUSED: u64 = 1;
/// Added to milliseconds, so that they are neither.
const FIRST: u64 = 2;
/// A credential is asked about ahead of time at most this often.
const PAUSE: Duration = Duration::from_secs(1);
/// A refusal that does not say by a response code that the credential is no longer good counts when it comes again
/// after so long: what is wrong with a server for a moment, many put as a plain NO.
const DOUBT: Duration = Duration::from_secs(2);

/// What is known of one credential of an account: kept as long as the account remembers it or a session was let in
/// with it.
#[derive(Debug)]
pub(super) struct Proof {
    pub(super) fingerprint: Fingerprint,
    since: Instant,
    /// When the backend last accepted it, in milliseconds after `since`; or [`VOID`], or [`REFUSED`].
    accepted: AtomicU64,
    /// When it was last asked about ahead of time, in milliseconds after `since`.
    asked: AtomicU64,
    /// A refusal that does not say for certain that the credential is no longer good: its words, and when they came.
    doubt: Mutex<Option<(String, Instant)>>,
    /// While sessions have it, they share one copy.
    credential: Mutex<Weak<Credential>>,
}

impl Proof {
    /// Of a credential that was just accepted.
    pub(super) fn new(fingerprint: Fingerprint) -> Arc<Self> {
        Arc::new(Self {
            fingerprint,
            since: Instant::now(),
            accepted: AtomicU64::new(FIRST),
            asked: AtomicU64::new(VOID),
            doubt: Mutex::default(),
            credential: Mutex::default(),
        })
    }

    fn at(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.since).as_millis();
        FIRST.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    pub(super) fn accept(&self) {
        *self.doubt.lock() = None;
        self.accepted.store(self.at(Instant::now()), Ordering::Release);
    }

    /// Whether the same was said at least [`DOUBT`] ago, and no OK since.
    pub(super) fn is_refused_again(&self, refusal: &Refusal) -> bool {
        let mut doubt = self.doubt.lock();
        match doubt.as_ref().filter(|(reply, _)| *reply == refusal.reply) {
            Some((_, since)) => since.elapsed() >= DOUBT,
            None => {
                *doubt = Some((refusal.reply.clone(), Instant::now()));
                false
            }
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.doubt.lock().as_ref().is_some_and(|(_, since)| since.elapsed() < DOUBT)
    }

    /// False: it was refused already.
    pub(super) fn refuse(&self) -> bool {
        self.accepted.swap(REFUSED, Ordering::AcqRel) != REFUSED
    }

    /// Has the backend asked before it is good again, unless it was refused.
    pub(super) fn void(&self) {
        let _ = self.accepted.fetch_update(Ordering::AcqRel, Ordering::Acquire, |at| (at >= FIRST).then_some(VOID));
    }

    pub(super) fn is_refused(&self) -> bool {
        self.accepted.load(Ordering::Acquire) == REFUSED
    }

    /// When the backend last accepted it, if nothing has spoken against it since.
    fn accepted(&self) -> Option<u64> {
        Some(self.accepted.load(Ordering::Acquire)).filter(|accepted| *accepted >= FIRST)
    }

    /// The copy that sessions share: the one that they have already, or this.
    pub(super) fn share(&self, credential: &Arc<Credential>) -> Arc<Credential> {
        let mut shared = self.credential.lock();
        shared.upgrade().unwrap_or_else(|| {
            *shared = Arc::downgrade(credential);
            Arc::clone(credential)
        })
    }
}

/// The credential that a session was let in with, and the account that it is of. The secret is wiped with the last of
/// them.
#[derive(Clone)]
pub struct Grant(Arc<Granted>);

struct Granted {
    account: Arc<Account>,
    proof: Arc<Proof>,
    credential: Arc<Credential>,
    /// Its account is at this backend for as long as this is held.
    visit: Visit,
    /// Index of the backend that it was given at.
    backend: usize,
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("account", &self.0.account).finish_non_exhaustive()
    }
}

impl Grant {
    pub(super) fn new(account: Arc<Account>, proof: Arc<Proof>, credential: &Arc<Credential>, visit: Visit) -> Self {
        let credential = proof.share(credential);
        visit.let_in();
        visit.residence().keeps(&account);
        let backend = account.key().backend;
        Self(Arc::new(Granted { account, proof, credential, visit, backend }))
    }

    /// What keeps its account at this backend.
    #[must_use]
    pub fn visit(&self) -> &Visit {
        &self.0.visit
    }

    /// The account.
    pub fn account(&self) -> &Arc<Account> {
        &self.0.account
    }

    /// The account is at another backend by now.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.0.account.key().backend != self.0.backend
    }

    /// What was shown.
    pub fn credential(&self) -> &Arc<Credential> {
        &self.0.credential
    }

    /// What it is known by.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.proof.fingerprint
    }

    /// Whether the backend has refused it since.
    pub fn is_refused(&self) -> bool {
        self.0.proof.is_refused()
    }

    /// The backend has to be asked before it is good again, unless it was refused.
    pub fn void(&self) {
        self.0.proof.void();
    }

    /// Whether the backend has accepted it, however long ago, and nothing has spoken against it since.
    pub fn stands(&self) -> bool {
        self.0.proof.accepted().is_some()
    }

    /// The right to go on, if the backend has accepted it within this time. Zero: a session's own login counts for as
    /// long as nothing speaks against it.
    #[must_use]
    pub fn pass(&self, cache_ttl: Duration, now: Instant) -> Option<Pass> {
        let age = Duration::from_millis(self.0.proof.at(now).saturating_sub(self.0.proof.accepted()?));
        (cache_ttl.is_zero() || age < cache_ttl).then(|| Pass { grant: self.clone(), age })
    }

    /// Whether the backend may be asked ahead of time: if that fails, not again at once.
    pub fn may_ask(&self) -> bool {
        let (now, pause) = (self.0.proof.at(Instant::now()), u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX));
        let due = |asked: u64| (asked == VOID || now.saturating_sub(asked) >= pause).then_some(now);
        !self.0.proof.is_in_doubt() && self.0.proof.asked.fetch_update(Ordering::AcqRel, Ordering::Acquire, due).is_ok()
    }

    /// The backend has accepted this credential just now, as `pass` shows, which may be of an account that has taken
    /// the place of this one.
    #[must_use]
    pub fn renewed(&self, pass: &Pass) -> Option<Pass> {
        if !Arc::ptr_eq(&self.0.proof, &pass.grant.0.proof) {
            if self.0.proof.fingerprint != pass.grant.0.proof.fingerprint {
                return None;
            }
            self.0.proof.accept();
        }
        Some(Pass::new(self.clone()))
    }
}

/// A [`Grant`] that was seen to stand: only with it a session gets a connection, or joins those who share one.
#[derive(Debug, Clone)]
pub struct Pass {
    grant: Grant,
    age: Duration,
}

impl Pass {
    /// The backend has said so just now.
    pub(super) fn new(grant: Grant) -> Self {
        Self { grant, age: Duration::ZERO }
    }

    /// Whose.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The account.
    pub fn account(&self) -> &Arc<Account> {
        &self.grant.0.account
    }

    /// How long ago the backend had accepted the credential when this was made.
    pub fn age(&self) -> Duration {
        self.age
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Fingerprinter;

    fn refusal(reply: &str) -> Refusal {
        Refusal { reply: reply.into(), challenge: None, definite: false }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_counts_when_it_comes_again_later_and_nothing_good_came_between() {
        let proof = Proof::new(Fingerprinter::new().unwrap().fingerprint(&[b"x"]));
        let no = refusal("NO LOGIN failed.");
        assert!(!proof.is_refused_again(&no) && !proof.is_refused_again(&no), "at once");
        assert!(proof.is_in_doubt());
        tokio::time::advance(DOUBT).await;
        assert!(!proof.is_in_doubt());
        assert!(!proof.is_refused_again(&refusal("NO busy")), "another one");
        assert!(!proof.is_refused_again(&no), "the first again, anew");
        proof.accept();
        tokio::time::advance(DOUBT).await;
        assert!(!proof.is_refused_again(&no), "accepted between");
        tokio::time::advance(DOUBT).await;
        assert!(proof.is_refused_again(&no));
    }
}
