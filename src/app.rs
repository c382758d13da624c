//! The one place where the parts are put together: binds everything before anything is served, and takes it down again.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::{AdminError, AdminServer, AdminState, Readiness};
use crate::auth::Authenticator;
use crate::config::{Config, ListenAddr, TlsMode};
use crate::listener::{BindError, BoundListener, ClientAddr, ListenerContext, prepare};
use crate::metrics::{Metrics, SessionClose};
use crate::pool::Pools;
use crate::ports::{self, Budget, PortRangeError};
use crate::secret::NoRandomness;
use crate::session::driver::{self, Context};
use crate::stream::Stream;
use crate::tls::TlsConfigError;
use crate::upstream::backend::Backend;

/// How often idle things are looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// How long the first look at the backends may hold up the start.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// Clients that are told at once that there are too many; others are just cut off.
const MAX_REFUSALS: usize = 256;
/// How long upstream connections may take to say goodbye, at the end.
const GOODBYES: Duration = Duration::from_secs(5);

/// Why the proxy does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin address cannot be listened on.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// TLS towards a backend.
    #[error("backend {name:?}: {source}")]
    Tls {
        /// The backend.
        name: String,
        /// What is wrong.
        source: TlsConfigError,
    },
    /// The ports towards a backend.
    #[error("backend {name:?}: {source}")]
    Ports {
        /// The backend.
        name: String,
        /// What is wrong.
        source: PortRangeError,
    },
    /// No randomness to protect secrets with.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

/// A running proxy. Dropping it leaves it running until the runtime ends; use [`Proxy::drain`].
pub struct Proxy {
    listeners: Vec<(String, ListenAddr)>,
    admin: Option<SocketAddr>,
    metrics: Arc<Metrics>,
    pools: Arc<Pools>,
    budget: Arc<Budget>,
    sessions: TaskTracker,
    /// Begins the end: no new sessions, those at rest are told.
    drain: CancellationToken,
    /// The end: the admin address closes, too.
    stop: CancellationToken,
    drain_timeout: Duration,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("listeners", &self.listeners).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Binds every address, looks once whether the backends are there, and begins to serve.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let bound = config.listeners.iter().map(BoundListener::bind).collect::<Result<Vec<_>, _>>()?;
        let admin = match config.admin.address {
            Some(address) => Some(AdminServer::bind(address).await?),
            None => None,
        };
        let names: Vec<_> = config.backends.iter().map(|backend| backend.name.clone()).collect();
        let metrics = Metrics::new(&names);
        let budget = Budget::new(&config);
        let backends = backends(&config, &budget, &metrics)?;
        metrics.before_render(ports::census(backends.clone()));
        let pools = Arc::new(Pools::new(config.pool.clone(), backends.clone(), budget.capacity()));
        // For its turn, and for the backend's word: servers take their time with wrong passwords.
        let patience = config.pool.checkout_timeout + config.backends[0].login_timeout;
        let auth = Authenticator::new(config.auth.clone(), patience, Arc::clone(&pools), Arc::clone(&metrics))?;
        let proxy = Self {
            listeners: bound.iter().map(|l| (l.context().config.name.clone(), l.local_address().clone())).collect(),
            admin: admin.as_ref().map(AdminServer::address),
            metrics: Arc::clone(&metrics),
            pools,
            budget,
            sessions: TaskTracker::new(),
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            drain_timeout: config.limits.drain_timeout,
        };
        proxy.first_look(&backends).await;
        proxy.keep_house(&auth);
        if let Some(admin) = admin {
            info!(listener = "admin", address = %admin.address(), "listening");
            tokio::spawn(admin.serve(proxy.admin_state(), proxy.stop.clone()));
        }
        let context = Arc::new(Context {
            auth,
            backend: Arc::clone(&backends[0]),
            limits: config.limits.clone(),
            metrics,
            drain: proxy.drain.clone(),
        });
        let gate = Gate::new(config.limits.sessions, config.limits.sessions_per_address);
        for listener in bound {
            let accepting = Acceptor {
                context: Arc::clone(&context),
                gate: Arc::clone(&gate),
                sessions: proxy.sessions.clone(),
                listener: Arc::clone(listener.context()),
            };
            info!(listener = accepting.listener.config.name, address = %listener.local_address(), "listening");
            proxy.sessions.spawn(accepting.serve(listener));
        }
        Ok(proxy)
    }

    /// Name and bound address of each listener, with its real port.
    #[must_use]
    pub fn listener_addresses(&self) -> Vec<(String, ListenAddr)> {
        self.listeners.clone()
    }

    /// The bound admin address.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Its numbers.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// The upstream connections that exist, those being dialed included.
    #[must_use]
    pub fn upstream_connections(&self) -> usize {
        self.budget.in_use()
    }

    /// Ends it as on SIGTERM: no new sessions, BYE to those at rest, the others finish their command, within
    /// `limits.drain_timeout`; then the upstream connections log out.
    pub async fn drain(self) {
        let deadline = Instant::now() + self.drain_timeout;
        self.drain.cancel();
        self.sessions.close();
        if timeout_at(deadline, self.sessions.wait()).await.is_err() {
            warn!(sessions = self.sessions.len(), "drain_timeout is over; ending the remaining sessions");
        }
        self.pools.shut_down();
        let goodbyes = Instant::now() + GOODBYES;
        if timeout_at(goodbyes, self.budget.all_closed()).await.is_err() {
            warn!(connections = self.budget.in_use(), "upstream connections that did not say goodbye in time");
        }
        self.stop.cancel();
    }

    /// Learns the backends' capabilities, so that the first greeting tells them. A backend that is down does not keep
    /// the proxy from starting.
    async fn first_look(&self, backends: &[Arc<Backend>]) {
        let deadline = Instant::now() + FIRST_LOOK;
        let looks: Vec<_> =
            backends.iter().cloned().map(|backend| tokio::spawn(async move { backend.tend().await })).collect();
        for look in looks {
            let _ = timeout_at(deadline, look).await;
        }
    }

    fn keep_house(&self, auth: &Arc<Authenticator>) {
        let (auth, stop) = (Arc::clone(auth), self.drain.clone());
        let (backends, budget) = (self.pools.backends().to_vec(), Arc::clone(&self.budget));
        let mut ticks = tokio::time::interval(HOUSEKEEPING);
        tokio::spawn(async move {
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                auth.sweep();
                budget.warn_if_scarce(&backends);
                for backend in &backends {
                    backend.tend().await;
                }
            }
        });
    }

    fn admin_state(&self) -> AdminState {
        let (pools, drain) = (Arc::clone(&self.pools), self.drain.clone());
        let readiness = move || {
            if drain.is_cancelled() {
                return Readiness::Draining;
            }
            // All sessions go to the first one.
            match pools.backends()[0].outage() {
                Some(outage) => Readiness::NoBackend(outage),
                None => Readiness::Ready,
            }
        };
        AdminState { metrics: Arc::clone(&self.metrics), readiness: Arc::new(readiness) }
    }
}

fn backends(config: &Config, budget: &Arc<Budget>, metrics: &Arc<Metrics>) -> Result<Vec<Arc<Backend>>, StartError> {
    let backends = config.backends.iter().enumerate().map(|(index, backend)| {
        let numbers = Arc::clone(metrics.backend(index));
        ports::check_range(backend).map_err(|source| StartError::Ports { name: backend.name.clone(), source })?;
        let (name, config) = (backend.name.clone(), (backend.clone(), config.pool.clone()));
        Backend::new(index, config.0, config.1, Arc::clone(budget), numbers)
            .map_err(|source| StartError::Tls { name, source })
    });
    backends.collect()
}

/// Lets in as many client sessions as there may be, in all and of one address.
#[derive(Debug)]
struct Gate {
    all: Arc<Semaphore>,
    /// Those who are told that there is no place, at once.
    refusals: Arc<Semaphore>,
    per_address: usize,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// The right of one address to a further session.
struct Admission {
    gate: Arc<Gate>,
    address: Option<IpAddr>,
}

impl Gate {
    fn new(all: usize, per_address: usize) -> Arc<Self> {
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), refusals, per_address, addresses: Mutex::default() })
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).try_acquire_owned().ok()
    }

    fn admit(self: &Arc<Self>, client: ClientAddr) -> Option<Admission> {
        let address = client.ip().filter(|_| self.per_address > 0);
        if let Some(address) = address {
            let mut addresses = self.addresses.lock();
            let count = addresses.entry(address).or_default();
            if *count >= self.per_address {
                return None;
            }
            *count += 1;
        }
        Some(Admission { gate: Arc::clone(self), address })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut addresses = self.gate.addresses.lock();
        if let Some(count) = addresses.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// Accepts on one listener.
#[derive(Clone)]
struct Acceptor {
    context: Arc<Context>,
    gate: Arc<Gate>,
    sessions: TaskTracker,
    listener: Arc<ListenerContext>,
}

impl Acceptor {
    async fn serve(self, listener: BoundListener) {
        let drain = self.context.drain.clone();
        while let Some((stream, peer)) = drain.run_until_cancelled(listener.accept()).await {
            match self.gate.place() {
                Some(place) => {
                    let counted = Counted::new(&self.context.metrics, place);
                    if self.listener.is_ready(peer) {
                        self.begin(stream, peer, counted);
                    } else {
                        let acceptor = self.clone();
                        self.sessions.spawn(async move { acceptor.welcome(stream, peer, counted).await });
                    }
                }
                None => {
                    self.turned_away(peer, "limits.sessions");
                    match Arc::clone(&self.gate.refusals).try_acquire_owned() {
                        Ok(turn) if self.listener.config.tls != TlsMode::Implicit => {
                            self.sessions.spawn(async move {
                                refuse(stream).await;
                                drop(turn);
                            });
                        }
                        _ => stream.reset(),
                    }
                }
            }
        }
    }

    fn turned_away(&self, client: ClientAddr, limit: &str) {
        warn!(%client, listener = self.listener.config.name, limit, "too many sessions");
        self.context.metrics.session_closed(SessionClose::Limit);
    }

    /// What comes before the first greeting.
    async fn welcome(self, stream: Stream, peer: ClientAddr, counted: Counted) {
        let limit = self.context.limits.tls_handshake_timeout;
        let accepted = match Box::pin(prepare(stream, peer, &self.listener, limit)).await {
            Ok(accepted) => accepted,
            Err(error) => {
                info!(client = %peer, listener = self.listener.config.name, %error, "handshake failed");
                return self.context.metrics.session_closed(SessionClose::HandshakeFailed);
            }
        };
        self.begin(accepted.stream, accepted.client, counted);
    }

    /// Gives the session a task of its own size.
    fn begin(&self, stream: Stream, client: ClientAddr, counted: Counted) {
        let Some(admission) = self.gate.admit(client) else {
            self.turned_away(client, "limits.sessions_per_address");
            self.sessions.spawn(async move {
                refuse(stream).await;
                drop(counted);
            });
            return;
        };
        let (listener, context) = (Arc::clone(&self.listener), Arc::clone(&self.context));
        self.sessions.spawn(async move {
            let _held = (counted, admission);
            driver::run(stream, client, listener, context).await;
        });
    }
}

/// A session in `imapool_client_sessions`, and its place among `limits.sessions`.
struct Counted {
    metrics: Arc<Metrics>,
    _place: OwnedSemaphorePermit,
}

impl Counted {
    fn new(metrics: &Arc<Metrics>, place: OwnedSemaphorePermit) -> Self {
        metrics.client_sessions.inc();
        Self { metrics: Arc::clone(metrics), _place: place }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.client_sessions.dec();
    }
}

/// Says why there is no session. A limit never looks like a wrong password.
async fn refuse(mut stream: Stream) {
    let say = stream.write_all(b"* BYE [LIMIT] Too many sessions; try again later.\r\n");
    if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), say).await {
        stream.close(Duration::from_secs(1)).await;
    }
}
