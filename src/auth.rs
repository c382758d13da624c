//! Who may log in: whoever's credential the backend has accepted, now or within `auth.cache_ttl`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::config;
use crate::imap::sasl::{Credential, SecretKind};
use crate::metrics::{LoginPath, LoginResult, Metrics};
use crate::pool::{Account, Key, Pools};
use crate::secret::{Fingerprint, Fingerprinter, NoRandomness};
use crate::throttle::Throttle;
use crate::upstream::backend::OpenError;
use crate::upstream::login::{LoginError, Outcome, Refusal};

/// What became of a login.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// The backend has accepted the credential.
    Accepted(Arc<Account>),
    /// The backend has refused it.
    Refused(Refusal),
    /// The backend allows no further connection for it.
    Limit,
    /// The backend cannot be asked.
    Unavailable,
}

/// A verification that is under way, and where its verdict will be.
type Flight = watch::Receiver<Option<Verdict>>;

/// What a reload may change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[auth]`
    pub auth: config::Auth,
    /// How long a login may wait for its turn and for the backend's word.
    pub patience: Duration,
}

/// See the module.
pub struct Authenticator {
    settings: ArcSwap<Settings>,
    pools: Arc<Pools>,
    metrics: Arc<Metrics>,
    fingerprinter: Fingerprinter,
    flights: Mutex<HashMap<Fingerprint, Flight>>,
    throttle: Mutex<Throttle>,
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
            settings: ArcSwap::from_pointee(settings),
            pools,
            metrics,
            fingerprinter: Fingerprinter::new()?,
            flights: Mutex::default(),
        }))
    }

    /// Goes by other settings from now on; what is known and under way stays.
    pub fn apply(&self, settings: Settings) {
        self.throttle.lock().set_first_delay(settings.auth.failure_delay);
        self.settings.store(Arc::new(settings));
    }

    /// The account, if the backend of this index has accepted the credential within `auth.cache_ttl`.
    #[must_use]
    pub fn known(&self, backend: usize, credential: &Credential) -> Option<Arc<Account>> {
        let start = Instant::now();
        let fingerprint = self.fingerprint(backend, credential);
        let account = self.pools.find(&self.pools.key(backend, credential, fingerprint))?;
        if !account.has_accepted(&fingerprint, self.settings.load().auth.cache_ttl) {
            return None;
        }
        self.metrics.login(LoginResult::Cached);
        self.metrics.login_seconds(LoginPath::Cached, start.elapsed());
        Some(account)
    }

    fn fingerprint(&self, backend: usize, credential: &Credential) -> Fingerprint {
        let kind: &[u8] = match credential.mechanism.kind() {
            SecretKind::Password => b"password",
            SecretKind::XOAuth2 => b"xoauth2",
            SecretKind::OAuthBearer => b"oauthbearer",
        };
        let secret = credential.secret.expose();
        self.fingerprinter.fingerprint(&[&backend.to_be_bytes(), kind, &credential.user, &credential.authzid, secret])
    }

    /// Has the backend of this index judge a credential, unless too many wrong ones came before it.
    pub async fn verify(self: &Arc<Self>, backend: usize, credential: Credential, client: Option<IpAddr>) -> Verdict {
        let start = Instant::now();
        let fingerprint = self.fingerprint(backend, &credential);
        let key = self.pools.key(backend, &credential, fingerprint);
        let user = key.user.clone();
        let delay = self.throttle.lock().delay(&user, client, Instant::now());
        if !delay.is_zero() {
            self.metrics.login(LoginResult::Throttled);
            tokio::time::sleep(delay).await;
        }
        let verdict = self.flight(key, fingerprint, credential).await;
        let (result, path) = match &verdict {
            Verdict::Accepted(_) => {
                self.throttle.lock().succeeded(&user, client);
                (LoginResult::Verified, LoginPath::Verified)
            }
            Verdict::Refused(refusal) => {
                info!(user = %String::from_utf8_lossy(&user), client = client.map(tracing::field::display), reply = refusal.reply, "login refused");
                let delay = self.throttle.lock().failed(&user, client, Instant::now());
                tokio::time::sleep(delay).await;
                (LoginResult::Refused, LoginPath::Refused)
            }
            Verdict::Limit => (LoginResult::Limit, LoginPath::Failed),
            Verdict::Unavailable => (LoginResult::Unavailable, LoginPath::Failed),
        };
        self.metrics.login(result);
        self.metrics.login_seconds(path, start.elapsed());
        verdict
    }

    /// One verification for all who ask with the same credential at the same time. It runs to its end, whoever leaves.
    async fn flight(self: &Arc<Self>, key: Key, fingerprint: Fingerprint, credential: Credential) -> Verdict {
        let mut flight = {
            let mut flights = self.flights.lock();
            match flights.get(&fingerprint) {
                Some(flight) => flight.clone(),
                None => {
                    let (land, flight) = watch::channel(None);
                    flights.insert(fingerprint, flight.clone());
                    let this = Arc::clone(self);
                    tokio::spawn(async move {
                        let patience = this.settings.load().patience;
                        let asked = timeout(patience, this.ask(key, fingerprint, credential)).await;
                        this.flights.lock().remove(&fingerprint);
                        land.send_replace(Some(asked.unwrap_or(Verdict::Unavailable)));
                    });
                    flight
                }
            }
        };
        let landed = flight.wait_for(Option::is_some).await.map(|verdict| verdict.clone());
        landed.ok().flatten().unwrap_or(Verdict::Unavailable)
    }

    /// Asks the backend.
    async fn ask(&self, key: Key, fingerprint: Fingerprint, credential: Credential) -> Verdict {
        // A reload has taken it away since the session began.
        let Some(backend) = self.pools.backend(key.backend) else { return Verdict::Unavailable };
        backend.in_service().await;
        // The semaphore is never closed.
        let _turn = backend.verifications().acquire().await.expect("open semaphore");
        match backend.log_in(&credential).await {
            Ok((connection, Outcome::Refused(refusal))) => {
                backend.keep(connection);
                if let Some(account) = self.pools.find(&key) {
                    account.forget(Some(&fingerprint));
                }
                Verdict::Refused(refusal)
            }
            Ok((connection, _)) => {
                Verdict::Accepted(self.pools.accepted(key, &backend, fingerprint, credential, connection))
            }
            Err(OpenError::Login(LoginError::NoMechanism)) => {
                warn!(backend = backend.config.name, error = %LoginError::NoMechanism, "cannot verify a credential");
                Verdict::Unavailable
            }
            Err(OpenError::Limit(text)) => {
                warn!(backend = backend.config.name, user = %String::from_utf8_lossy(&key.user), text, "backend limits connections");
                Verdict::Limit
            }
            // Told once, when the circuit opened, and not with each login.
            Err(OpenError::Breaker) => Verdict::Unavailable,
            Err(error) => {
                warn!(backend = backend.config.name, %error, "cannot verify a credential");
                Verdict::Unavailable
            }
        }
    }

    /// Forgets what need not be known any longer. Call it every few seconds.
    pub fn sweep(&self) {
        self.throttle.lock().sweep(Instant::now());
        self.pools.sweep(self.settings.load().auth.cache_ttl);
    }
}
