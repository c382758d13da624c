//! Who may log in: whoever's credential the backend has accepted, now or within `auth.cache_ttl`.

mod relayed;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

pub use self::relayed::Passage;
use crate::config;
use crate::flights::{Flight, Flights};
use crate::imap::sasl::Credential;
use crate::metrics::{LoginPath, LoginResult, Metrics};
use crate::pool::{Account, CheckoutError, Grant, Key, Pass, Pools};
use crate::residence::{Stay, Visit};
use crate::secret::{Fingerprint, Fingerprinter, NoRandomness};
use crate::shown;
use crate::throttle::{Standing, Throttle};
use crate::upstream::backend::{Backend, Entry, OpenError, Unauthenticated};
use crate::upstream::login::{LoginError, Outcome, Refusal};
use crate::upstream::turns::Turn;

/// What became of a login.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The backend has accepted the credential.
    Accepted(Pass),
    /// The backend has refused it.
    Refused(Refusal),
    /// The backend allows no further connection for it. What the client is told.
    Limit(Arc<str>),
    /// The backend cannot be asked, or does not say. What the client is told.
    Unavailable(Arc<str>),
    /// Not asked: too many wrong ones came from there, or for this account, and wait already.
    Throttled,
}

impl Verdict {
    fn unavailable() -> Self {
        Self::Unavailable("The mail server cannot check logins at the moment.".into())
    }
}

/// A verdict, and what else the backend said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What became of the login.
    pub verdict: Verdict,
    /// What the backend wants the user to see, each as an untagged reply without `*` and line end.
    pub alerts: Arc<[String]>,
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, alerts: Arc::default() }
    }
}

/// Who asks, for the queue.
#[derive(Debug, Clone)]
struct Asker {
    user: Vec<u8>,
    client: Option<IpAddr>,
    proven: bool,
}

/// RFC 5530 section 3.
const FAILED: &str = "AUTHENTICATIONFAILED";
/// A service may have an answer held back for so long at most.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Of `auth.cache_ttl`: an older credential that is used is verified anew beside its use, so that who logs in all the
/// time never waits for that.
const REFRESH: f64 = 0.75;

/// What the backend is asked.
#[derive(Debug)]
struct Question {
    key: Key,
    /// Whose sessions ask: it may have a successor by now.
    account: Option<Arc<Account>>,
    /// What keeps the account at this backend meanwhile.
    visit: Visit,
    fingerprint: Fingerprint,
    credential: Arc<Credential>,
    asker: Asker,
}

/// The credential, and the number of the residence of who shows it: several names may have one login at the backend,
/// and each is let in by its own.
type Occasion = (Fingerprint, u64);

/// What a reload may change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[auth]`
    pub auth: config::Auth,
    /// How long a login may wait: `pool.checkout_timeout`.
    pub wait: Duration,
    /// How long it may take until the backend has been asked: who asks again meanwhile waits for the same answer.
    pub patience: Duration,
}

/// See the module.
pub struct Authenticator {
    settings: ArcSwap<Settings>,
    pools: Arc<Pools>,
    metrics: Arc<Metrics>,
    fingerprinter: Fingerprinter,
    flights: Arc<Flights<Occasion, Answer>>,
    throttle: Mutex<Throttle>,
    /// How backends last refused a wrong password, without anything of whose it was.
    words: Mutex<Option<String>>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authenticator(..)")
    }
}

impl Authenticator {
    /// Knows nobody yet.
    ///
    /// # Errors
    /// Without randomness nothing can be fingerprinted.
    pub fn new(settings: Settings, pools: Arc<Pools>, metrics: Arc<Metrics>) -> Result<Arc<Self>, NoRandomness> {
        Ok(Arc::new(Self {
            throttle: Mutex::new(Throttle::new(settings.auth.failure_delay)),
            words: Mutex::default(),
            settings: ArcSwap::from_pointee(settings),
            pools,
            metrics,
            fingerprinter: Fingerprinter::new()?,
            flights: Arc::default(),
        }))
    }

    /// Goes by other settings from now on; what is known and under way stays.
    pub fn apply(&self, settings: Settings) {
        self.throttle.lock().set_first_delay(settings.auth.failure_delay);
        self.settings.store(Arc::new(settings));
    }

    /// Whoever shows this credential is let in, if the backend that is visited has accepted it within `auth.cache_ttl`.
    #[must_use]
    pub fn known(
        self: &Arc<Self>,
        visit: &Visit,
        credential: &Arc<Credential>,
        client: Option<IpAddr>,
        now: Instant,
    ) -> Option<Pass> {
        let start = Instant::now();
        if self.settings.load().auth.cache_ttl.is_zero() {
            return None;
        }
        let fingerprint = self.fingerprint(credential);
        let key = self.pools.key(visit.residence().backend(), credential, fingerprint);
        let grant = self.pools.find(&key)?.grant(&fingerprint, credential, visit.clone())?;
        let pass = self.pass(&grant, client, now)?;
        self.metrics.logins.inc(LoginResult::Cached);
        self.metrics.login_seconds.get(LoginPath::Cached).observe(start.elapsed());
        Some(pass)
    }

    /// The right of a session to go on, if its credential was accepted within `auth.cache_ttl` (with zero: at its own
    /// login) and nothing speaks against it since. In the last quarter of that time the backend is asked beside it; not
    /// for an account that may open one connection now and then, which is for whoever works.
    #[must_use]
    pub fn pass(self: &Arc<Self>, grant: &Grant, client: Option<IpAddr>, now: Instant) -> Option<Pass> {
        let cache_ttl = self.settings.load().auth.cache_ttl;
        let pass = grant.pass(cache_ttl, now)?;
        let early = !cache_ttl.is_zero() && pass.age() > cache_ttl.mul_f64(REFRESH);
        if early && !grant.account().queue.backs_off() && grant.may_ask() {
            drop(self.ask_again(grant, client));
        }
        Some(pass)
    }

    /// The same, asking the backend if need be: one verification for all who have the credential, within
    /// `pool.checkout_timeout`.
    ///
    /// # Errors
    /// [`CheckoutError::Refused`] when the credential is no longer accepted, any other when that cannot be found out
    /// now.
    pub async fn renew(self: &Arc<Self>, grant: &Grant, client: Option<IpAddr>) -> Result<Pass, CheckoutError> {
        if let Some(pass) = self.pass(grant, client, Instant::now()) {
            return Ok(pass);
        }
        // Who was let in with what was refused since would ask for each of its sessions. A login asks.
        if grant.is_refused() {
            return Err(CheckoutError::Refused);
        }
        let patience = grant.account().config().checkout_timeout;
        match landed(patience, self.ask_again(grant, client)).await.verdict {
            Verdict::Accepted(pass) => grant.renewed(&pass).ok_or(CheckoutError::Unavailable),
            Verdict::Refused(_) if grant.is_refused() => Err(CheckoutError::Refused),
            Verdict::Limit(_) => Err(CheckoutError::Limit),
            Verdict::Refused(_) | Verdict::Unavailable(_) | Verdict::Throttled => Err(CheckoutError::Unavailable),
        }
    }

    fn ask_again(self: &Arc<Self>, grant: &Grant, client: Option<IpAddr>) -> Flight<Answer> {
        let account = grant.account();
        let key = Key::clone(&account.key());
        self.flight(Question {
            fingerprint: grant.fingerprint(),
            credential: Arc::clone(grant.credential()),
            asker: Asker { user: key.user.clone(), client, proven: true },
            account: Some(Arc::clone(account)),
            visit: grant.visit().clone(),
            key,
        })
    }

    /// What a credential is known by, wherever its account is: that is part of the account's key.
    fn fingerprint(&self, credential: &Credential) -> Fingerprint {
        let (kind, secret) = ([credential.mechanism.kind() as u8], credential.secret.expose());
        self.fingerprinter.fingerprint(&[&kind, &credential.user, &credential.authzid, secret])
    }

    /// No backend has an account of this name: answered, held back and counted like a wrong password.
    pub async fn nobody(&self, credential: &Credential, client: Option<IpAddr>) -> Answer {
        // In the words in which backends refuse, so that these do not tell who has one.
        let words = self.words.lock().clone();
        let mut answer =
            self.turned_away(credential, client, Some(FAILED.to_owned()), "Authentication failed.", None).await;
        if let (Some(words), Verdict::Refused(refusal)) = (words, &mut answer.verdict) {
            refusal.reply = words;
        }
        answer
    }

    /// A login is refused before any backend is asked, in these words. Unless the code says that it is no fault of the
    /// credential's, that is held back and counted like a wrong password; `wait` is the least that it is held back.
    pub async fn turned_away(
        &self,
        credential: &Credential,
        client: Option<IpAddr>,
        code: Option<String>,
        text: &str,
        wait: Option<Duration>,
    ) -> Answer {
        let start = Instant::now();
        let asker = Asker { user: credential.user.clone(), client, proven: false };
        let is_wrong = is_the_credentials_fault(code.as_deref());
        let told = (client.map(tracing::field::display), shown::text(&asker.user));
        info!(client = told.0, user = told.1, reply = text, "login refused by the routes");
        if is_wrong {
            self.delay(&asker).await;
            self.throttle.lock().failed(&asker.user, client, Instant::now().into_std());
        }
        self.metrics.logins.inc(if is_wrong { LoginResult::Refused } else { LoginResult::Unavailable });
        if is_wrong {
            self.hold(&asker).await;
        }
        if let Some(wait) = wait.map(|wait| wait.min(LONGEST_WAIT)) {
            tokio::time::sleep_until(start + wait).await;
        }
        self.metrics.login_seconds.get(LoginPath::Refused).observe(start.elapsed());
        let reply = code.map_or_else(|| format!("NO {text}"), |code| format!("NO [{code}] {text}"));
        Verdict::Refused(Refusal { reply, challenge: None, definite: true }).into()
    }

    /// Has the backend that is visited judge a credential, unless too many wrong ones came before it.
    pub async fn verify(self: &Arc<Self>, visit: Visit, credential: Arc<Credential>, client: Option<IpAddr>) -> Answer {
        let start = Instant::now();
        let fingerprint = self.fingerprint(&credential);
        let key = self.pools.key(visit.residence().backend(), &credential, fingerprint);
        let proven = self.pools.find(&key).is_some_and(|account| account.has_accepted(&fingerprint));
        let asker = Asker { user: key.user.clone(), client, proven };
        // Nobody has to wait for that at another backend.
        if !proven && visit.residence().meanwhile(self.delay(&asker)).await.is_none() {
            return Verdict::unavailable().into();
        }
        let question = Question { key, account: None, visit, fingerprint, credential, asker: asker.clone() };
        let (wait, flight) = (self.settings.load().wait, self.flight(question));
        let answer = landed(wait, flight).await;
        let (client, user) = (client.map(tracing::field::display), shown::text(&asker.user));
        let (result, path) = match &answer.verdict {
            Verdict::Accepted(_) => (LoginResult::Verified, LoginPath::Verified),
            Verdict::Refused(refusal) => {
                info!(client, user, reply = refusal.reply, "login refused");
                (LoginResult::Refused, LoginPath::Refused)
            }
            Verdict::Throttled => (LoginResult::Throttled, LoginPath::Failed),
            Verdict::Limit(_) => (LoginResult::Limit, LoginPath::Failed),
            Verdict::Unavailable(_) => {
                // Why, the line says that tells of the backend; of one that goes on thinking there is none.
                info!(client, user, seconds = start.elapsed().as_secs(), "login not checked");
                (LoginResult::Unavailable, LoginPath::Failed)
            }
        };
        self.metrics.logins.inc(result);
        if matches!(result, LoginResult::Refused | LoginResult::Throttled) {
            self.hold(&asker).await;
        }
        self.metrics.login_seconds.get(path).observe(start.elapsed());
        answer
    }

    /// Has who was wrong before wait.
    async fn delay(&self, asker: &Asker) {
        let delay = self.throttle.lock().delay(&asker.user, asker.client, Instant::now().into_std());
        // Even a sleep of no time would let others by, and they would be asked about twice.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }

    /// Holds an answer back that is not yes.
    async fn hold(&self, asker: &Asker) {
        let delay = self.throttle.lock().hold(&asker.user, asker.client, Instant::now().into_std());
        tokio::time::sleep(delay).await;
    }

    /// One verification for all who ask with the same credential at the same time. It runs to its end, whoever leaves.
    fn flight(self: &Arc<Self>, question: Question) -> Flight<Answer> {
        let (this, patience) = (Arc::clone(self), self.settings.load().patience);
        let occasion = (question.fingerprint, question.visit.residence().number);
        let asked = || async move {
            let asked = timeout(patience, this.ask(question)).await;
            asked.unwrap_or_else(|_| Verdict::unavailable().into())
        };
        self.flights.join(occasion, Verdict::unavailable().into(), asked, |_| {})
    }

    fn standing(&self, asker: &Asker) -> Standing {
        if asker.proven {
            return Standing::Proven;
        }
        self.throttle.lock().standing(&asker.user, asker.client, Instant::now().into_std())
    }

    /// A turn at the backend. While somebody waited for it, others who came with him may have been found wrong.
    async fn turn<'b>(&self, backend: &'b Backend, asker: &Asker) -> Option<(Turn<'b>, Standing)> {
        let mut standing = self.standing(asker);
        loop {
            let turn = backend.turns.take(standing).await?;
            match self.standing(asker) {
                worse if worse > standing => standing = worse,
                _ => return Some((turn, standing)),
            }
        }
    }

    /// The right to log in once. Only who is proven takes it from the account's.
    async fn entry(&self, backend: &Backend, key: &Key, asker: &Asker) -> Result<Entry, OpenError> {
        match self.pools.find(key).filter(|_| asker.proven) {
            Some(account) => backend.enter(&account.queue).await,
            None => Ok(Entry::verification()),
        }
    }

    /// Asks the backend, and the one that has taken its place meanwhile, or that the account has moved to.
    async fn ask(&self, mut question: Question) -> Answer {
        let patience = self.settings.load().patience;
        let begun = Instant::now();
        let residence = Arc::clone(question.visit.residence());
        loop {
            residence.settled().await;
            let stay = match residence.stay() {
                Some(stay) => Arc::new(stay),
                None if residence.is_ending() => return Verdict::unavailable().into(),
                // It moves on already.
                None => continue,
            };
            question.key.backend = stay.backend();
            // A reload may have taken it away since the session began.
            let Some(backend) = self.pools.backend(question.key.backend) else { return Verdict::unavailable().into() };
            // Who is still waiting then is turned away: begun so late, the verification would be broken off in its
            // middle, which costs a connection.
            let in_time = begun + patience.saturating_sub(backend.config.login_timeout);
            let asked = self.ask_this(&backend, &question, &stay, in_time);
            // Broken off in its middle if the account leaves or moves: whoever is let in elsewhere waits for that.
            if let Some(answer) = residence.meanwhile(stay.meanwhile(asked)).await.flatten().flatten() {
                return answer;
            }
        }
    }

    /// `None`: it is not the backend any more, and its word does not count.
    async fn ask_this(
        &self,
        backend: &Arc<Backend>,
        question: &Question,
        stay: &Arc<Stay>,
        in_time: Instant,
    ) -> Option<Answer> {
        let Question { key, account, asker, credential, .. } = question;
        if timeout_at(in_time, backend.in_service()).await.is_err() {
            return Some(Verdict::unavailable().into());
        }
        let Ok(entry) = self.entry(backend, key, asker).await else { return Some(Verdict::unavailable().into()) };
        let Ok(Some((_turn, standing))) = timeout_at(in_time, self.turn(backend, asker)).await else {
            return Some(Verdict::Throttled.into());
        };
        let known = account.clone().or_else(|| self.pools.find(key));
        let before = known.as_ref().map(|known| known.generation());
        // Of a later generation than that by which the account leaves, the connection would stay.
        if question.visit.residence().is_ending() {
            return Some(Verdict::unavailable().into());
        }
        let retirements = self.pools.retirements();
        if !self.pools.is_current(backend) {
            return None;
        }
        let mut judgement = backend.log_in(entry, credential, standing, asker.client).await;
        // A connection at rest would be replaced by this one anyway, and those of earlier tokens serve nobody.
        if matches!(judgement.result, Err(OpenError::Limit(_)))
            && self.pools.make_room(key, asker.proven).await
            && let Ok(entry) = self.entry(backend, key, asker).await
        {
            judgement = backend.log_in(entry, credential, standing, asker.client).await;
        }
        if !self.pools.is_current(backend) {
            return None;
        }
        let alerts = judgement.alerts.into();
        let verdict = match judgement.result {
            Ok((connection, Outcome::Refused(refusal))) => {
                self.refused(backend, question, connection, &refusal, known.as_ref());
                Verdict::Refused(refusal)
            }
            Ok((mut connection, _)) => {
                connection.permit.keep(stay);
                let pass = self.accepted(backend, question, connection, known.zip(before)).await?;
                if question.asker.proven {
                    pass.grant().account().queue.answered();
                }
                // The answer is from before that: it lets in whoever asked, who will be asked about anew, as all
                // others.
                let account = pass.grant().account();
                if self.pools.retirements() != retirements || before.is_some_and(|at| at != account.generation()) {
                    pass.grant().void();
                }
                Verdict::Accepted(pass)
            }
            Err(error) => unjudged(backend, &key.user, error),
        };
        Some(Answer { verdict, alerts })
    }

    fn refused(
        &self,
        backend: &Backend,
        question: &Question,
        connection: Unauthenticated,
        refusal: &Refusal,
        known: Option<&Arc<Account>>,
    ) {
        // A password that was changed is no attack; from now on it is a wrong one.
        let asker = &question.asker;
        if !asker.proven {
            self.throttle.lock().failed(&asker.user, asker.client, Instant::now().into_std());
            let names_nobody = !refusal.reply.contains(&*String::from_utf8_lossy(&asker.user));
            if names_nobody && refusal.challenge.is_none() && refusal.reply.starts_with("NO [AUTHENTICATIONFAILED]") {
                *self.words.lock() = Some(refusal.reply.clone());
            }
        }
        backend.keep(connection);
        if let Some(account) = known {
            account.refused(&question.fingerprint, refusal);
        }
    }

    /// `known`: the account as it was before the backend was asked, and its generation.
    async fn accepted(
        &self,
        backend: &Arc<Backend>,
        question: &Question,
        connection: Unauthenticated,
        known: Option<(Arc<Account>, u64)>,
    ) -> Option<Pass> {
        let Question { key, account, visit, fingerprint, credential, asker } = question;
        let visit = visit.clone();
        self.throttle.lock().succeeded(&asker.user, asker.client, Instant::now().into_std());
        let is_current = |known: &Arc<Account>| {
            account.is_some() || self.pools.find(key).is_some_and(|now| Arc::ptr_eq(&now, known))
        };
        match known.filter(|(known, _)| is_current(known)) {
            Some((account, before)) => {
                Some(account.accepted(*fingerprint, credential, connection, before, visit).await)
            }
            None => self.pools.accepted(key.clone(), backend, *fingerprint, credential, connection, visit).await,
        }
    }

    /// Forgets what need not be known any longer. Call it every few seconds.
    pub fn sweep(&self) {
        self.throttle.lock().sweep(Instant::now().into_std());
        self.pools.sweep(self.settings.load().auth.cache_ttl);
    }
}

/// Whether a refusal with this response code says that the credential is wrong.
fn is_the_credentials_fault(code: Option<&str>) -> bool {
    code.is_none_or(|code| !["UNAVAILABLE", "LIMIT", "INUSE"].contains(&code))
}

/// What becomes of a flight within this time.
async fn landed(patience: Duration, flight: Flight<Answer>) -> Answer {
    let landed = timeout(patience, flight.landed()).await.ok().flatten();
    landed.unwrap_or_else(|| Verdict::unavailable().into())
}

/// With the backend's words, if it has used any.
fn quoting<T: From<String>>(what: &str, words: &str) -> T {
    if words.is_empty() { format!("{what}.") } else { format!("{what}: {words}") }.into()
}

/// What is told of a credential that the backend has not judged.
fn unjudged(backend: &Backend, user: &[u8], error: OpenError) -> Verdict {
    let name = &backend.config.name;
    match &error {
        // Told once, when the circuit opened, and not with each login.
        OpenError::Breaker | OpenError::Gate(_) => return Verdict::unavailable(),
        OpenError::Suspect => return Verdict::Throttled,
        OpenError::Limit(text) => {
            warn!(backend = name, user = shown::text(user), text, "backend limits connections");
        }
        error => {
            warn!(backend = name, user = shown::text(user), %error, "cannot verify a credential");
        }
    }
    match error {
        OpenError::Limit(text) => {
            Verdict::Limit(quoting("The mail server takes no more connections for this account", &text))
        }
        OpenError::Unavailable(text) => {
            Verdict::Unavailable(quoting("The mail server cannot check this login at the moment", &text))
        }
        OpenError::NotConnected(text) => {
            Verdict::Unavailable(quoting("The mail server took the login, but opened no session for it", &text))
        }
        OpenError::Unjudged(error) => match *error {
            OpenError::Login(LoginError::Bye(text)) => {
                Verdict::Unavailable(quoting("The mail server hung up on this login", &text))
            }
            OpenError::Closed | OpenError::Io(_) => {
                Verdict::Unavailable("The mail server hung up on this login without a word.".into())
            }
            _ => Verdict::unavailable(),
        },
        _ => Verdict::unavailable(),
    }
}
