//! The one place where the parts are put together: binds everything before anything is served, exchanges parts while it
//! runs, and takes it all down again.

mod accept;
mod check;
mod reload;
mod renewing;
mod seeing;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::accept::{Acceptor, Gate};
use crate::admin::{self, AdminError, AdminServer, AdminState, Token};
use crate::auth::{Authenticator, Settings};
use crate::config::{self, Config, ListenAddr, Live};
use crate::listener::{BindError, BoundListener, Inherited, ListenerContext};
use crate::metrics::{Metrics, RetireReason};
use crate::net::Net;
use crate::pool::Pools;
use crate::ports::{self, Budget, PortRangeError};
use crate::routing::{RouteError, Router, Table};
use crate::secret::NoRandomness;
use crate::session::driver::Context;
use crate::session::registry::Registry;
use crate::tls::TlsConfigError;
use crate::upstream::backend::Backend;

pub use self::check::{Checked, ask, certificate_until};
pub use self::reload::ReloadError;

/// How often idle things are looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// How long the first look at the backends may hold up the start.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// How long upstream connections may take to say goodbye, at the end.
const GOODBYES: Duration = Duration::from_secs(5);

/// How long sessions may take to hear BYE that have come by a listener for replicas in the meantime.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Why the proxy does not start, or does not take another configuration.
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
    /// A file of routes, or a service that is to be asked.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// No randomness to protect secrets with.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// The end has begun.
    #[error("imapool is shutting down")]
    Draining,
}

/// A running proxy. Dropping it leaves it running until the runtime ends; use [`Proxy::drain`].
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    /// What runs by it, and by which configuration.
    running: parking_lot::Mutex<Running>,
    /// Held while that is exchanged.
    exchanging: Mutex<()>,
    /// The configuration, for those who look at it.
    config: ArcSwap<Config>,
    /// Where it came from.
    source: OnceLock<PathBuf>,
    /// Held while that is read and gone by: what was read last is what holds in the end.
    reading: Mutex<()>,
    /// Told of each new configuration.
    watcher: OnceLock<Watcher>,
    pool_config: Live<config::Pool>,
    context: Live<Context>,
    router: Arc<Router>,
    auth: Arc<Authenticator>,
    gate: Arc<Gate>,
    metrics: Arc<Metrics>,
    pools: Arc<Pools>,
    budget: Arc<Budget>,
    registry: Arc<Registry>,
    lifetimes: seeing::Lifetimes,
    looking: renewing::Looking,
    sessions: TaskTracker,
    /// Sessions that come by a listener for replicas while the process ends.
    late: TaskTracker,
    net: Net,
    /// Another process takes over.
    handing_over: AtomicBool,
    /// Begins the end: no new sessions, those at rest are told.
    drain: CancellationToken,
    /// Nothing of an account is left: the listeners for replicas close.
    close: CancellationToken,
    /// The end: the admin address closes, too.
    stop: CancellationToken,
}

type Watcher = Box<dyn Fn(&Config) + Send + Sync>;

#[derive(Default)]
struct Running {
    listeners: Vec<RunningListener>,
    admin: Option<RunningAdmin>,
}

#[derive(Clone)]
struct RunningListener {
    /// As it is configured, and as it is bound.
    configured: ListenAddr,
    bound: ListenAddr,
    context: Live<ListenerContext>,
    stop: CancellationToken,
}

struct RunningAdmin {
    configured: ListenAddr,
    bound: ListenAddr,
    token: Live<Option<Token>>,
    hosts: Live<Vec<String>>,
    stop: CancellationToken,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("listeners", &self.listener_addresses()).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Binds every address, looks once whether the backends are there, and begins to serve.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_over(config, Inherited::default(), Net::System).await
    }

    /// As [`Proxy::start`], with listening sockets that the process was started with in place of those it would bind,
    /// and perhaps over another net than this host's; the admin address is this host's all the same.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub async fn start_over(config: Config, mut inherited: Inherited, net: Net) -> Result<Self, StartError> {
        let bind = |listener| BoundListener::with_context(ListenerContext::new(listener)?, &mut inherited, &net);
        let bound = config.listeners.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let admin = match &config.admin.address {
            Some(address) => {
                let server = AdminServer::bind_or_adopt(address, hands_over(&config), &mut inherited)?;
                Some((server, Token::load(&config.admin)?))
            }
            None => None,
        };
        for address in inherited.left() {
            warn!(address, "a socket was handed to imapool that no listener has the address of; it is closed");
        }
        drop(inherited);
        let proxy = Self(Arc::new(Inner::new(&config, net)?));
        let (census, inner) = (seeing::census(Arc::downgrade(&proxy.0.pools)), Arc::downgrade(&proxy.0));
        proxy.0.metrics.before_render(move || {
            census();
            if let Some(inner) = inner.upgrade() {
                inner.show();
            }
        });
        proxy.0.metrics.operation.reloaded(true);
        proxy.0.first_look().await;
        proxy.keep_house();
        let mut running = proxy.0.running.lock();
        proxy.0.router.begin();
        if let Some((server, token)) = admin {
            running.admin = Some(proxy.serve_admin(&config.admin, server, token));
        }
        running.listeners = bound.into_iter().map(|listener| proxy.0.serve(listener)).collect();
        drop(running);
        Ok(proxy)
    }

    /// Name and bound address of each listener, with its real port.
    #[must_use]
    pub fn listener_addresses(&self) -> Vec<(String, ListenAddr)> {
        let running = self.0.running.lock();
        let listeners = running.listeners.iter();
        listeners.map(|l| (l.context.load().config.name.clone(), l.bound.clone())).collect()
    }

    /// The bound admin address, if it is a TCP address.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        let running = self.0.running.lock();
        match &running.admin.as_ref()?.bound {
            ListenAddr::Tcp(address) => Some(*address),
            ListenAddr::Unix(_) => None,
        }
    }

    /// Its numbers.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.0.metrics)
    }

    /// Its client sessions.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.0.registry)
    }

    /// Accounts and their upstream connections.
    #[must_use]
    pub fn pools(&self) -> Arc<Pools> {
        Arc::clone(&self.0.pools)
    }

    /// How many upstream connections there may be.
    #[must_use]
    pub fn budget(&self) -> Arc<Budget> {
        Arc::clone(&self.0.budget)
    }

    /// Which backend each session goes to.
    #[must_use]
    pub fn router(&self) -> Arc<Router> {
        Arc::clone(&self.0.router)
    }

    /// What it runs by.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.0.config.load_full()
    }

    /// Hands over to another process as on SIGUSR1: no new sessions, those that are open go on, at rest too, until
    /// they end or `limits.drain_timeout` is over; then as [`Proxy::drain`].
    pub async fn hand_over(self) {
        let inner = &self.0;
        let deadline = Instant::now() + inner.config.load().limits.drain_timeout;
        inner.handing_over.store(true, Ordering::Release);
        {
            let _turn = inner.exchanging.lock().await;
            let running = inner.running.lock();
            for listener in &running.listeners {
                listener.stop.cancel();
            }
            // The new process answers there.
            if let Some(admin) = &running.admin {
                admin.stop.cancel();
            }
        }
        inner.sessions.close();
        info!(sessions = inner.metrics.client_sessions.get(), "handing over; open sessions go on until drain_timeout");
        let _ = timeout_at(deadline, inner.sessions.wait()).await;
        self.drain().await;
    }

    /// Ends it as on SIGTERM: no new sessions, BYE to those at rest, the others finish their command, within
    /// `limits.drain_timeout`; then the upstream connections log out.
    pub async fn drain(self) {
        let inner = &self.0;
        let deadline = Instant::now() + inner.config.load().limits.drain_timeout;
        inner.router.end_as_replica();
        inner.drain.cancel();
        inner.registry.drain();
        if inner.router.is_replica() {
            // The others wait for them.
            inner.pools.accounts().iter().for_each(|account| account.retire(RetireReason::Shutdown));
        }
        inner.sessions.close();
        if timeout_at(deadline, inner.sessions.wait()).await.is_err() {
            warn!(sessions = inner.sessions.len(), "drain_timeout is over; ending the remaining sessions");
        }
        inner.pools.shut_down();
        let goodbyes = Instant::now() + GOODBYES;
        if timeout_at(goodbyes, inner.budget.all_closed()).await.is_err() {
            warn!(connections = inner.budget.in_use(), "upstream connections that did not say goodbye in time");
        }
        inner.end_late().await;
        inner.stop.cancel();
    }

    fn keep_house(&self) {
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move { inner.drain.run_until_cancelled(inner.router.check()).await });
        let inner = Arc::clone(&self.0);
        let mut ticks = tokio::time::interval(HOUSEKEEPING);
        tokio::spawn(async move {
            while inner.drain.run_until_cancelled(ticks.tick()).await.is_some() {
                let backends = inner.pools.backends();
                inner.auth.sweep();
                inner.budget.warn_if_scarce(backends.iter().map(|it| (it.index, it.config.name.as_str())));
                inner.renew_certificates();
                let router = Arc::clone(&inner.router);
                tokio::spawn(async move { router.tend().await });
                inner.tell_of_certificates();
                tend(backends.iter());
            }
        });
    }

    fn serve_admin(&self, config: &config::Admin, server: AdminServer, token: Option<Token>) -> RunningAdmin {
        let running = RunningAdmin {
            configured: config.address.clone().unwrap_or_else(|| server.address().clone()),
            bound: server.address().clone(),
            token: Arc::new(ArcSwap::from_pointee(token)),
            hosts: Arc::new(ArcSwap::from_pointee(config.hosts.clone())),
            stop: self.0.stop.child_token(),
        };
        info!(listener = "admin", address = %server.address(), "listening");
        let inner = Arc::clone(&self.0);
        let state = AdminState {
            metrics: self.metrics(),
            readiness: Arc::new(move || inner.readiness()),
            token: Arc::clone(&running.token),
            hosts: Arc::clone(&running.hosts),
            subject: Some(Arc::new(self.clone())),
        };
        tokio::spawn(server.serve(state, running.stop.clone()));
        running
    }
}

/// What the admin server sees of it.
impl admin::Subject for Proxy {
    fn metrics(&self) -> Arc<Metrics> {
        self.metrics()
    }

    fn registry(&self) -> Arc<Registry> {
        self.registry()
    }

    fn pools(&self) -> Arc<Pools> {
        self.pools()
    }

    fn budget(&self) -> Arc<Budget> {
        self.budget()
    }

    fn config(&self) -> Arc<Config> {
        self.config()
    }

    fn router(&self) -> Arc<Router> {
        self.router()
    }

    fn reload(&self) -> admin::Reloading<'_> {
        Box::pin(async {
            self.reload_file().await.map_err(|error| {
                let status = if matches!(error, ReloadError::NoFile) { 409 } else { 422 };
                admin::Refusal(status, error.to_string())
            })
        })
    }
}

impl Inner {
    fn new(config: &Config, net: Net) -> Result<Self, StartError> {
        let Made { metrics, budget, pool_config, backends } = Made::of(config, &net)?;
        let table = Table::new(config, backends.clone(), &net)?;
        let pools = Arc::new(Pools::new(Arc::clone(&pool_config), Arc::clone(table.terms()), backends, &budget));
        let auth = Authenticator::new(auth_settings(config), Arc::clone(&pools), Arc::clone(&metrics))?;
        let registry = Arc::<Registry>::default();
        let router = Arc::new(Router::new(table, Arc::clone(&pool_config), Arc::clone(&metrics)));
        let context = Context {
            auth: Arc::clone(&auth),
            router: Arc::clone(&router),
            limits: config.limits.clone(),
            slow: config.log.slow,
            metrics: Arc::clone(&metrics),
            registry: Arc::clone(&registry),
        };
        Ok(Self {
            running: parking_lot::Mutex::default(),
            exchanging: Mutex::default(),
            config: ArcSwap::from_pointee(config.clone()),
            source: OnceLock::new(),
            reading: Mutex::default(),
            watcher: OnceLock::new(),
            pool_config,
            context: Arc::new(ArcSwap::from_pointee(context)),
            router,
            auth,
            gate: Gate::new(&config.limits),
            metrics,
            pools,
            budget,
            registry,
            lifetimes: seeing::Lifetimes::default(),
            looking: renewing::Looking::default(),
            sessions: TaskTracker::new(),
            late: TaskTracker::new(),
            net,
            handing_over: AtomicBool::new(false),
            drain: CancellationToken::new(),
            close: CancellationToken::new(),
            stop: CancellationToken::new(),
        })
    }

    /// Learns the backends' capabilities, so that the first greeting tells them. A backend that is down does not keep
    /// the proxy from starting.
    async fn first_look(&self) {
        let deadline = Instant::now() + FIRST_LOOK;
        for look in tend(self.pools.backends().iter()) {
            let _ = timeout_at(deadline, look).await;
        }
    }

    /// Closes what was open for replicas: nobody has anything of an account here, and they may have them.
    async fn end_late(&self) {
        self.close.cancel();
        self.registry.end();
        self.late.close();
        let _ = timeout_at(Instant::now() + LAST_WORDS, self.late.wait()).await;
    }

    fn serve(self: &Arc<Self>, listener: BoundListener) -> RunningListener {
        let config = &listener.context().config;
        // Known from now on, at zero.
        self.metrics.listener(&config.name);
        let running = RunningListener {
            configured: config.address.clone(),
            bound: listener.local_address().clone(),
            context: Arc::new(ArcSwap::new(Arc::clone(listener.context()))),
            stop: self.close.child_token(),
        };
        info!(listener = config.name, address = %running.bound, "listening");
        let acceptor =
            Acceptor { inner: Arc::clone(self), listener: Arc::clone(&running.context), stop: running.stop.clone() };
        tokio::spawn(acceptor.serve(listener, self.sessions.token()));
        running
    }
}

/// What is made of a configuration first.
struct Made {
    metrics: Arc<Metrics>,
    budget: Arc<Budget>,
    pool_config: Live<config::Pool>,
    backends: Vec<Arc<Backend>>,
}

impl Made {
    fn of(config: &Config, net: &Net) -> Result<Self, StartError> {
        let names: Vec<_> = config.backends.iter().map(|backend| backend.name.clone()).collect();
        let (metrics, budget) = (Metrics::new(&names), Budget::new(config));
        let pool_config: Live<_> = Arc::new(ArcSwap::from_pointee(config.pool.clone()));
        let backends = config.backends.iter().enumerate();
        let backends = backends.map(|(index, it)| new_backend(index, it, &pool_config, &budget, &metrics, net));
        let backends = backends.collect::<Result<_, _>>()?;
        Ok(Self { metrics, budget, pool_config, backends })
    }
}

/// Has backends asked what they offer, and whether they are there: none waits for another, nor anybody for one that
/// does not answer.
fn tend<'b>(backends: impl Iterator<Item = &'b Arc<Backend>>) -> Vec<JoinHandle<()>> {
    backends.cloned().map(|backend| tokio::spawn(async move { backend.tend().await })).collect()
}

fn new_backend(
    index: usize,
    config: &config::Backend,
    pool: &Live<config::Pool>,
    budget: &Arc<Budget>,
    metrics: &Metrics,
    net: &Net,
) -> Result<Arc<Backend>, StartError> {
    ports::check_range(config).map_err(|source| StartError::Ports { name: config.name.clone(), source })?;
    let numbers = metrics.backend(&config.name);
    Backend::new(index, config.clone(), Arc::clone(pool), Arc::clone(budget), numbers, net.clone())
        .map_err(|source| StartError::Tls { name: config.name.clone(), source })
}

/// Whether another process may take over by listening beside this one.
fn hands_over(config: &Config) -> bool {
    config.listeners.iter().any(|listener| listener.reuse_port)
}

/// For its turn, and for the backend's word: servers take their time with wrong passwords. Nobody has to wait for the
/// latter to its end.
fn auth_settings(config: &Config) -> Settings {
    let wait = config.pool.checkout_timeout;
    let longest = config.backends.iter().map(|backend| backend.login_timeout).max().unwrap_or_default();
    Settings { auth: config.auth.clone(), wait, patience: wait + longest }
}
