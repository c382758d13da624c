//! One backend: connections to it that nobody has logged in on yet, and what is known of its health.

mod admission;
mod ask;
mod relayed;
mod spares;
mod standing;
mod unauthenticated;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use parking_lot::Mutex;
use scopeguard::{ScopeGuard, guard};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::admission::{Entry, Queue};
pub use self::ask::{AskError, Asked};
pub use self::relayed::Relayed;
pub use self::unauthenticated::Unauthenticated;
use super::breaker::Breaker;
use super::connection::{Connection, Timing, Wire};
use super::dial::{DialError, Dialer};
use super::gate::{Gate, Pass, Reason, Whom};
use super::login::{LoginError, Outcome};
use super::manners::Manners;
use super::turns::Turns;
use crate::config::{self, Live};
use crate::imap::capability::Capabilities;
use crate::imap::phrases::{self, Meaning};
use crate::imap::sasl::Credential;
use crate::metrics::{BackendMetrics, ConnectionState, DialResult};
use crate::net::Net;
use crate::ports::{Budget, Permit};
use crate::throttle::Standing;
use crate::tls::{CertificateProblem, Stamp, TlsConfigError, TlsError};

/// Connections that may be dialed to one backend at once: after an outage, or at the start, the others queue.
const DIALS_AT_ONCE: usize = 16;
/// Whether it is there is looked at this often, where nothing else tells.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// And where something speaks against it (a connection was lost, or says nothing), not more often than this.
const LOOK_AT_ONCE: Duration = Duration::from_secs(5);
/// A backend has as long to greet, however long it took to reach it.
const TO_GREET: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Not even tried.
    #[error("the backend has failed just now; waiting before the next attempt")]
    Breaker,
    /// Not even tried.
    #[error("too many connections were opened of late; waiting before the next")]
    Gate(Reason),
    /// Not even tried: wrong logins have opened enough connections lately.
    #[error("wrong logins have opened as many connections as they may for now")]
    Suspect,
    /// It is not in the configuration any more, or not like this, or the account leaves it, or the process ends.
    #[error("a reload has taken the backend away, or changed it, or the account leaves it, or imapool ends")]
    Gone,
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// A connection, but not one to log in on.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// Closed while something was awaited.
    #[error("the backend closed the connection")]
    Closed,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// As many as there may be are in use.
    #[error("no room for a further connection within {} (pool.max_total, ports, descriptors)", humantime::format_duration(*.0))]
    NoRoom(Duration),
    /// Silence.
    #[error("the backend did not answer within {}: it hangs, or is overloaded",
        humantime::format_duration(in_millis(*.0)))]
    Timeout(Duration),
    /// Too many connections, in the backend's own words.
    #[error("the backend has reached a limit: {0}")]
    Limit(String),
    /// The backend cannot judge this credential now, in its own words.
    #[error("the backend cannot log this user in now: {0}")]
    Unavailable(String),
    /// The backend has accepted a credential, but there is no session behind it; in its own words.
    #[error("the backend has accepted the login, but not opened a session: {0}")]
    NotConnected(String),
    /// The connection ended, or nothing was said, after a credential was sent.
    /// Its last words, if it had any, are [`LoginError::Bye`].
    #[error("the backend did not judge the credential: {0}")]
    Unjudged(Box<OpenError>),
}

/// Whom a failure concerns. What was said to an account's credential is no other account's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Concern {
    Account,
    Host,
    Backend,
}

/// For what a connection is opened.
#[derive(Clone, Copy)]
struct Purpose<'c> {
    whom: Whom,
    /// Whom `backend.send_proxy` tells of.
    client: Option<IpAddr>,
    /// To log in with, without waiting for the greeting where that can be.
    ahead: Option<&'c Credential>,
}

impl Purpose<'_> {
    fn of(whom: Whom) -> Self {
        Self { whom, client: None, ahead: None }
    }
}

/// What came of a credential.
#[derive(Debug)]
pub struct Judgement {
    /// The outcome, and the connection.
    pub result: Result<(Unauthenticated, Outcome), OpenError>,
    /// What the backend wants the user to see, each as an untagged reply without `*` and line end.
    pub alerts: Vec<String>,
}

impl OpenError {
    fn result(&self) -> DialResult {
        match self {
            Self::Breaker | Self::Suspect => DialResult::Breaker,
            Self::Gate(_) => DialResult::Gate,
            Self::NoRoom(_) => DialResult::NoPorts,
            Self::Dial(error) => error.result(),
            Self::Login(LoginError::Bye(_) | LoginError::PreAuth) => DialResult::Greeting,
            Self::Login(_) | Self::Limit(_) | Self::Unavailable(_) | Self::NotConnected(_) => DialResult::Protocol,
            Self::Unjudged(error) => error.result(),
            Self::Closed | Self::Gone => DialResult::Closed,
            Self::Io(_) => DialResult::Io,
            Self::Timeout(_) => DialResult::Timeout,
        }
    }

    fn concerns(&self) -> Concern {
        match self {
            Self::Limit(_)
            | Self::Unavailable(_)
            | Self::NotConnected(_)
            | Self::Unjudged(_)
            | Self::Login(LoginError::NoMechanism) => Concern::Account,
            Self::Breaker | Self::Gate(_) | Self::Suspect | Self::NoRoom(_) | Self::Gone => Concern::Host,
            Self::Dial(error) if error.is_local() => Concern::Host,
            Self::Dial(_) | Self::Login(_) | Self::Closed | Self::Io(_) | Self::Timeout(_) => Concern::Backend,
        }
    }

    /// A `BYE Too many connections` is a limit, too.
    fn from_login(error: LoginError) -> Self {
        match error {
            LoginError::Bye(text) if phrases::of_words(text.as_bytes()) == Some(Meaning::Limit) => Self::Limit(text),
            error => Self::Login(error),
        }
    }
}

/// Whether sessions get connections to a backend, as an administrator wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// They do.
    Running,
    /// They wait (within `pool.checkout_timeout`); what is open stays so.
    Paused,
    /// They wait, and what is open ends as soon as it can.
    Drained,
}

impl Service {
    /// The word for it in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Drained => "drained",
        }
    }
}

/// See the module.
pub struct Backend {
    /// Its place in the configuration, and in the metrics.
    pub index: usize,
    /// Its configuration.
    pub config: config::Backend,
    pool: Live<config::Pool>,
    /// The file of its authorities as it was when it was read.
    authorities: Option<Stamp>,
    /// Connects to it, and knows its addresses and what it is shown when it asks for a certificate.
    pub(crate) dialer: Dialer,
    breaker: Mutex<Breaker>,
    gate: Mutex<Gate>,
    last_error: Mutex<Option<String>>,
    reachable: watch::Sender<bool>,
    /// When it last greeted; something has spoken against it since; the last attempt came to nothing, as it was silent.
    greeted: Mutex<Option<Instant>>,
    suspected: AtomicBool,
    silent: AtomicBool,
    /// It is this very process: nothing is dialed there.
    local: AtomicBool,
    service: watch::Sender<Service>,
    standing: standing::Standing,
    dials: Semaphore,
    /// Who may have a credential verified now: hold the turn while it is.
    pub(crate) turns: Turns,
    spares: Mutex<Vec<Unauthenticated>>,
    /// Held while it is looked after.
    tending: tokio::sync::Mutex<()>,
    /// Spare connections are being opened.
    refilling: AtomicBool,
    /// It is not in the configuration any more: nothing is opened there.
    gone: CancellationToken,
    last_login: Mutex<Instant>,
    capabilities: ArcSwap<Capabilities>,
    budget: Arc<Budget>,
    metrics: Arc<BackendMetrics>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend").field("name", &self.config.name).finish_non_exhaustive()
    }
}

/// How long to wait for a port at first, after there was none.
const PORT_PAUSE: Duration = Duration::from_millis(5);

impl Backend {
    /// Connects nothing yet.
    ///
    /// # Errors
    /// When its TLS settings cannot be used.
    pub fn new(
        index: usize,
        config: config::Backend,
        pool: Live<config::Pool>,
        budget: Arc<Budget>,
        metrics: Arc<BackendMetrics>,
        net: Net,
    ) -> Result<Arc<Self>, TlsConfigError> {
        Ok(Arc::new(Self {
            index,
            authorities: stamp(&config),
            dialer: Dialer::new(&config, net)?,
            config,
            pool,
            breaker: Mutex::default(),
            gate: Mutex::default(),
            last_error: Mutex::default(),
            reachable: watch::Sender::new(false),
            greeted: Mutex::default(),
            suspected: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            local: AtomicBool::new(false),
            service: watch::Sender::new(Service::Running),
            standing: standing::Standing::default(),
            dials: Semaphore::new(DIALS_AT_ONCE),
            turns: Turns::default(),
            spares: Mutex::default(),
            tending: tokio::sync::Mutex::default(),
            refilling: AtomicBool::new(false),
            gone: CancellationToken::new(),
            last_login: Mutex::new(Instant::now()),
            capabilities: ArcSwap::from_pointee(Capabilities::minimal()),
            budget,
            metrics,
        }))
    }

    /// Whether a backend of this configuration would be the same; not if the file of its authorities has changed since.
    #[must_use]
    pub fn is_made_of(&self, config: &config::Backend) -> bool {
        // Group and weight are the routes' affair; what holds for accounts there is theirs (`crate::terms`).
        let config::Backend { weight, mode, max_per_account, idle_timeout, .. } = self.config;
        let group = self.config.group.clone();
        let same = config::Backend { group, weight, mode, max_per_account, idle_timeout, ..config.clone() };
        self.config == same && self.authorities == stamp(config)
    }

    /// What it offers before login.
    #[must_use]
    pub fn capabilities(&self) -> Arc<Capabilities> {
        self.capabilities.load_full()
    }

    /// Its numbers.
    #[must_use]
    pub fn metrics(&self) -> &Arc<BackendMetrics> {
        &self.metrics
    }

    /// Whether it was reached when it was last tried.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        *self.reachable.borrow() || self.is_local()
    }

    /// Whether it is this very process.
    pub(super) fn is_local(&self) -> bool {
        self.local.load(Ordering::Acquire)
    }

    /// Says whether it is this very process.
    pub fn set_local(&self, local: bool) {
        self.local.store(local, Ordering::Release);
    }

    /// Something speaks against it: a connection was lost, or says nothing. It is looked at soon whether it is there.
    pub fn suspect(&self) {
        self.suspected.store(true, Ordering::Release);
    }

    /// It takes connections, or does not refuse them, and says nothing on them: what is open says nothing either.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        !self.is_reachable() && self.silent.load(Ordering::Acquire)
    }

    /// It was seen to be there, but not of late, or something has spoken against it since.
    fn is_to_be_looked_at(&self) -> bool {
        let patience = if self.suspected.load(Ordering::Acquire) { LOOK_AT_ONCE } else { LOOK_AGAIN };
        self.greeted.lock().is_none_or(|greeted| greeted.elapsed() >= patience)
    }

    /// Whether sessions get connections to it.
    #[must_use]
    pub fn service(&self) -> Service {
        *self.service.borrow()
    }

    /// Pauses it, or has it serve again.
    pub fn set_service(&self, service: Service) {
        self.service.send_replace(service);
    }

    /// Waits while it is paused, unless it is gone. The caller sets the deadline.
    pub async fn in_service(&self) {
        if self.service() != Service::Running {
            let mut service = self.service.subscribe();
            // The sender lives as long as this.
            let _ = self.gone.run_until_cancelled(service.wait_for(|service| *service == Service::Running)).await;
        }
    }

    /// Whether it is in the configuration no more.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// It takes the place of `earlier`: what an administrator said of that holds for it, too, and what it offers is
    /// taken for the same until it was asked.
    pub(crate) fn succeeds(&self, earlier: &Self) {
        self.set_service(earlier.service());
        self.standing.succeeds(&earlier.standing);
        self.capabilities.store(earlier.capabilities());
    }

    /// Why it cannot be reached, if so.
    #[must_use]
    pub fn outage(&self) -> Option<String> {
        let last_error = || self.last_error.lock().clone().unwrap_or_else(|| "not tried yet".into());
        (!self.is_reachable()).then(last_error)
    }

    /// Connections that the gate would let be opened at once now.
    #[must_use]
    pub fn gate_free(&self) -> u32 {
        self.gate.lock().free(Instant::now().into_std())
    }

    /// Has the backend judge a credential, on a connection kept for that or a new one. The connection comes with the
    /// outcome. A credential is shown on one connection only, and the entry is used up by that. Nobody waits for a
    /// backend that is gone.
    pub async fn log_in(
        self: &Arc<Self>,
        mut entry: Entry,
        credential: &Credential,
        standing: Standing,
        client: Option<IpAddr>,
    ) -> Judgement {
        self.while_there(async {
            *self.last_login.lock() = Instant::now();
            let connection = self.ready_for(standing, client).await.inspect_err(|error| {
                if error.concerns() != Concern::Host {
                    entry.tried();
                }
            })?;
            entry.used();
            let judgement = self.show(connection, credential).await;
            if matches!(judgement.result, Err(OpenError::Limit(_))) {
                self.metrics.health.limits.inc();
            }
            Ok(judgement)
        })
        .await
    }

    /// Nobody waits for a backend that is gone.
    async fn while_there(&self, judged: impl Future<Output = Result<Judgement, OpenError>>) -> Judgement {
        let judged = self.gone.run_until_cancelled(judged).await.unwrap_or(Err(OpenError::Gone));
        judged.unwrap_or_else(|error| Judgement { result: Err(error), alerts: Vec::new() })
    }

    /// Shows it a credential. From here on, what happens is the account's: the backend has seen its credential, and
    /// nobody else's.
    async fn show(&self, mut connection: Unauthenticated, credential: &Credential) -> Judgement {
        connection.used = true;
        let result = connection.log_in(credential).await;
        let alerts = connection.login.take_alerts();
        self.judge(result.as_ref().err());
        Judgement { result: result.map(|outcome| (connection, outcome)), alerts }
    }

    /// A connection to log in on that was there a moment ago: one that is kept for that, or a new one.
    async fn ready_for(
        self: &Arc<Self>,
        standing: Standing,
        client: Option<IpAddr>,
    ) -> Result<Unauthenticated, OpenError> {
        let told = client.filter(|_| self.config.forward_client_id);
        loop {
            let mut connection = match self.take_spare(standing) {
                Some(mut spare) => {
                    spare.state.set(ConnectionState::Connecting);
                    self.refill_soon();
                    spare
                }
                None => self.fresh(standing, client).await?,
            };
            match connection.prepare(told).await {
                Ok(()) => return Ok(connection),
                // One that had waited for long has been closed meanwhile: the next, and a new one at last.
                Err(_) if connection.kept.is_some() => {}
                Err(error) => {
                    self.judge(Some(&error));
                    return Err(error);
                }
            }
        }
    }

    /// A new connection to log in on. Who stops waiting for it does not stop the dialing: the outcome is noted, and the
    /// connection kept for the next.
    async fn fresh(self: &Arc<Self>, standing: Standing, client: Option<IpAddr>) -> Result<Unauthenticated, OpenError> {
        if standing == Standing::Suspect && !self.turns.may_dial(Instant::now().into_std()) {
            return Err(OpenError::Suspect);
        }
        let permit = self.room().await?;
        let (give, take) = oneshot::channel();
        let backend = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(Ok(unwanted)) =
                give.send(backend.open(Purpose { client, ..Purpose::of(Whom::Login) }, permit).await)
            {
                backend.keep(unwanted);
            }
        });
        // The task ends by sending, or by a panic.
        take.await.unwrap_or(Err(OpenError::Closed))
    }

    /// Sees to the spare connections, and to whether the backend is there. Call it every few seconds; while one call
    /// is at work, another does nothing.
    pub async fn tend(self: &Arc<Self>) {
        let Ok(_alone) = self.tending.try_lock() else { return };
        self.clear_away_spares();
        // A backend that is down, or was never seen, is asked whether it is there, and so is one that may have gone
        // meanwhile; and nobody has to make room for that.
        let known = *self.reachable.borrow();
        if !self.is_local()
            && (!known || self.is_to_be_looked_at())
            && self.service() == Service::Running
            && let Some(permit) = self.budget.try_permit(self.index)
            && let Ok(spare) = self.open(Purpose::of(Whom::Look), permit).await
            && !self.config.send_proxy
        {
            match known {
                true => self.keep(spare),
                // It serves for the first login, also where none are to be kept; but not if it must be told whose that
                // is.
                false => self.hold(&mut self.spares.lock(), spare),
            }
        }
        self.refill_soon();
    }

    /// Ends the spare connections, and has nobody wait for it any longer, for good.
    pub fn shut_down(&self) {
        self.gone.cancel();
        self.spares.lock().clear();
    }

    /// Room for a further connection. Whoever stops waiting for it keeps no place in the queue; and nothing is
    /// evicted for an attempt that would not be made.
    async fn room(&self) -> Result<Permit, OpenError> {
        if self.breaker.lock().refuses(Instant::now().into_std()) {
            self.metrics.dials.inc(DialResult::Breaker);
            return Err(OpenError::Breaker);
        }
        if let Some(permit) = self.budget.try_permit(self.index) {
            return Ok(permit);
        }
        // Better than to evict one that somebody is logged in on.
        self.spares.lock().clear();
        let limit = self.pool.load().checkout_timeout;
        timeout(limit, self.budget.permit(self.index)).await.map_err(|_| OpenError::NoRoom(limit))
    }

    /// Dials, as gate and breaker allow.
    async fn open(&self, purpose: Purpose<'_>, permit: Permit) -> Result<Unauthenticated, OpenError> {
        // Who looks whether it is there, looks now: one does at a time.
        let looks = purpose.whom == Whom::Look;
        // The semaphore is never closed.
        let _turn = if looks { None } else { Some(self.dials.acquire().await.expect("open semaphore")) };
        let pass = self.pass(purpose.whom).await?;
        let result = if looks || self.breaker.lock().try_attempt(Instant::now().into_std()) {
            // Dropped before it is decided, an attempt that the breaker has let through tells nothing.
            let undecided = (!looks).then(|| guard((), |()| self.breaker.lock().undecided()));
            let connected = self.connect_in_place_of_another(pass, permit, purpose).await;
            undecided.map(ScopeGuard::into_inner);
            connected
        } else {
            self.gate.lock().give_back(pass);
            Err(OpenError::Breaker)
        };
        self.note(result.as_ref().err());
        result
    }

    /// Remembers what an attempt tells of the backend.
    fn note(&self, error: Option<&OpenError>) {
        self.metrics.dials.inc(error.map_or(DialResult::Ok, OpenError::result));
        let Some(error) = error else {
            self.breaker.lock().greeted();
            *self.greeted.lock() = Some(Instant::now());
            self.suspected.store(false, Ordering::Release);
            if !self.reachable.send_replace(true) {
                info!(backend = self.config.name, "backend reached");
            }
            return;
        };
        if matches!(error, OpenError::Breaker) {
            return;
        }
        if let OpenError::Dial(DialError::Tls { source, .. }) = error
            && let TlsError::Certificate(CertificateProblem::Expired(Some(at))) = source
        {
            // What was refused was shown, too: it is told also where none was taken since the start.
            self.metrics.health.certificate.set(*at);
        }
        warn!(backend = self.config.name, %error, "cannot open an upstream connection");
        *self.last_error.lock() = Some(error.to_string());
        self.judge(Some(error));
    }

    /// Has the circuit breaker learn from the end of an attempt.
    fn judge(&self, error: Option<&OpenError>) {
        let mut breaker = self.breaker.lock();
        match error.map(OpenError::concerns) {
            None => breaker.succeeded(),
            Some(Concern::Account | Concern::Host) => breaker.undecided(),
            Some(Concern::Backend) => {
                // Nobody said anything, not even no.
                let is_silent =
                    matches!(error, Some(OpenError::Timeout(_) | OpenError::Dial(DialError::Timeout { .. })));
                self.silent.store(is_silent, Ordering::Release);
                self.suspect();
                breaker.failed(Instant::now().into_std(), self.dialer.net.chance());
                if breaker.is_open() && self.reachable.send_replace(false) {
                    // Whoever logged in on one of these would wait for `login_timeout`.
                    self.end_spares();
                }
            }
        }
    }

    /// Where the kernel has no port, although the budget had one, a connection at rest is given up for its port.
    async fn connect_in_place_of_another(
        &self,
        mut pass: Pass,
        mut permit: Permit,
        purpose: Purpose<'_>,
    ) -> Result<Unauthenticated, OpenError> {
        let deadline = Instant::now() + self.pool.load().checkout_timeout;
        let mut pause = PORT_PAUSE;
        loop {
            match self.connect(pass, permit, purpose, &mut "").await {
                Err(error @ OpenError::Dial(DialError::NoPorts(_))) if Instant::now() + pause < deadline => {
                    self.metrics.dials.inc(error.result());
                    self.budget.shrink(self.index);
                    permit = timeout_at(deadline, self.budget.permit(self.index)).await.map_err(|_| error)?;
                    // The port is free a round trip after its connection was closed, or when somebody else gives one
                    // back.
                    sleep(pause).await;
                    pause *= 2;
                    pass = self.pass(purpose.whom).await?;
                }
                result => return result,
            }
        }
    }

    /// `step` is how far it came, if not to the end.
    async fn connect(
        &self,
        pass: Pass,
        permit: Permit,
        purpose: Purpose<'_>,
        step: &mut &'static str,
    ) -> Result<Unauthenticated, OpenError> {
        let state = self.metrics.connection(ConnectionState::Connecting);
        let begun = Instant::now();
        let (login, words) = self.first_words(purpose);
        let stream = Box::pin(self.dialer.connect(pass, purpose.client, &words)).await?;
        *step = ask::GREETING;
        let mut connection = Unauthenticated {
            stream,
            input: BytesMut::new(),
            login,
            opened: Instant::now(),
            limit: self.config.login_timeout,
            state,
            permit,
            kept: None,
            used: false,
        };
        // Nobody waits longer for a connection; a turn to dial must not be held longer by a backend that is silent.
        let patience = self.pool.load().checkout_timeout;
        let limit = patience.saturating_sub(begun.elapsed()).max(patience.min(TO_GREET));
        // Told is what is configured, whatever of it the dial has taken.
        if connection.greeting(limit, patience).await? == Outcome::StartTls {
            *step = "TLS";
            connection.input.clear();
            connection.stream = self.dialer.start_tls(connection.stream).await?;
            *step = "capabilities";
            connection.login.handle_tls();
            connection.outcome().await?;
        }
        if let Some(expires) = connection.stream.certificate_expires() {
            self.metrics.health.certificate.set(expires);
        }
        if **self.capabilities.load() != **connection.login.capabilities() {
            self.capabilities.store(Arc::clone(connection.login.capabilities()));
        }
        Ok(connection)
    }

    /// Makes an upstream connection of one that has just been authenticated. `generation`: of its account, before that.
    /// `idle_timeout`: as long as it may rest. `manners`: what the account knows of the backend's.
    #[must_use]
    pub fn authenticated(
        &self,
        connection: Unauthenticated,
        generation: u64,
        idle_timeout: Duration,
        manners: &Arc<Manners>,
    ) -> (Connection, Arc<Capabilities>) {
        let capabilities = Arc::clone(connection.login.capabilities());
        let pool = self.pool.load_full();
        let timing = Timing {
            idle_timeout,
            lifetime: pool.max_lifetime.mul_f64(1.0 - self.dialer.net.chance() / 10.0),
            reply_timeout: self.config.reply_timeout,
            pool,
        };
        let wire = Wire::new(connection, timing, manners, &self.metrics);
        (Connection::spawn(wire, generation, &self.budget), capabilities)
    }
}

/// Without what nobody wants to read.
fn in_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from((time + Duration::from_nanos(999_999)).as_millis()).unwrap_or(u64::MAX))
}

fn stamp(config: &config::Backend) -> Option<Stamp> {
    config.ca_file.as_deref().and_then(Stamp::of)
}

#[cfg(test)]
mod tests;
