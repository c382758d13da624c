//! Another configuration takes the place of the one that runs: all of it or nothing. First everything is made that can
//! fail; then parts are exchanged, which cannot. Sessions notice nothing of it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{error, info, warn};

use super::{Checked, Proxy, Running, StartError, auth_settings, hands_over, new_backend};
use crate::admin::{AdminServer, Token};
use crate::config::{self, Change, Config, ConfigError, Effect, ListenAddr, Places, TlsMode, diff};
use crate::listener::{BindError, BindProblem, BoundListener, Inherited, ListenerContext};
use crate::routing::{RouteError, Rules, Table};
use crate::session::driver::Context;
use crate::session::trace::Slow;
use crate::tls::{TlsConfigError, TlsConnectorConfig};
use crate::upstream::backend::Backend;

/// Why the old configuration serves on. Displays with `FILE:LINE:COLUMN`.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What it says cannot be had.
    #[error("{place}: {source}")]
    Start {
        /// Where in the file that stands.
        place: String,
        /// What cannot be had.
        source: StartError,
    },
    /// The proxy was not started from a file.
    #[error("there is no configuration file to reload: imapool was not started from one")]
    NoFile,
}

/// All that a new configuration needs beyond what is there.
struct Plan {
    listeners: Vec<PlannedListener>,
    /// In the order of the configuration.
    backends: Vec<Arc<Backend>>,
    table: Table,
    admin: PlannedAdmin,
}

enum PlannedListener {
    /// The running one at this place, with another context where that has changed.
    Kept(usize, Option<Arc<ListenerContext>>),
    Bound(BoundListener),
}

enum PlannedAdmin {
    Off,
    Kept(Option<Token>),
    Bound(AdminServer, Option<Token>),
}

impl Proxy {
    /// Says from which file the configuration came, for [`Proxy::reload_file`].
    pub fn set_source(&self, file: PathBuf) {
        let _ = self.0.source.set(file);
    }

    /// Has `watcher` told of each configuration that is taken from now on. Only the first one counts.
    pub fn watch(&self, watcher: impl Fn(&Config) + Send + Sync + 'static) {
        let _ = self.0.watcher.set(Box::new(watcher));
    }

    /// Reads the configuration file again and goes by it. Tells in the log what has changed, or why nothing has.
    ///
    /// # Errors
    /// See [`ReloadError`]; the old configuration serves on.
    pub async fn reload_file(&self) -> Result<Vec<Change>, ReloadError> {
        let result = self.try_reload_file().await;
        self.0.metrics.operation().reloaded(result.is_ok());
        match &result {
            Ok(changes) if changes.is_empty() => info!("configuration reloaded; nothing has changed"),
            Ok(changes) => {
                for change in changes {
                    match change.effect {
                        Effect::Restart => warn!(%change, "a change that needs a restart"),
                        _ => info!(%change, "configuration changed"),
                    }
                }
            }
            Err(error) => {
                for line in error.to_string().lines() {
                    error!("cannot reload; the old configuration serves on: {line}");
                }
            }
        }
        result
    }

    async fn try_reload_file(&self) -> Result<Vec<Change>, ReloadError> {
        let file = self.0.source.get().cloned().ok_or(ReloadError::NoFile)?;
        let _reading = self.0.reading.lock().await;
        let loading = tokio::task::spawn_blocking(move || {
            let (config, places) = Config::load_with_places(&file)?;
            let warnings = Checked::new(&config).warnings;
            Ok::<_, ConfigError>((config, places, warnings))
        });
        let Ok(loaded) = loading.await else { return Err(ReloadError::NoFile) };
        let (config, places, warnings) = loaded?;
        for warning in warnings {
            warn!("{warning}");
        }
        let placed = config.clone();
        self.reload(config).await.map_err(|source| ReloadError::Start { place: source.place(&placed, &places), source })
    }

    /// Goes by this configuration from now on; gives what is different.
    ///
    /// # Errors
    /// See [`StartError`]; nothing has changed then.
    pub async fn reload(&self, config: Config) -> Result<Vec<Change>, StartError> {
        let _turn = self.0.exchanging.lock().await;
        if self.0.drain.is_cancelled() || self.0.handing_over.load(Ordering::Acquire) {
            return Err(StartError::Draining);
        }
        let rules = self.0.router.rules(&config, &self.0.net).await?;
        let kept = self.kept(&config);
        let prepared = prepare(kept, config.backends.clone()).await?;
        let mut running = self.0.running.lock();
        let plan = self.plan(&running, &config, &rules, prepared)?;
        let changes = differences(&self.0.config.load(), &config);
        self.exchange(&mut running, config, plan, &rules);
        Ok(changes)
    }

    /// The listeners of a configuration, each with the one that runs in its place.
    fn kept(&self, config: &Config) -> Vec<Kept> {
        let (running, mut taken) = (self.0.running.lock(), HashSet::new());
        let kept = config.listeners.iter().map(|listener| {
            let index = kept(&running, listener).filter(|index| taken.insert(*index));
            (listener.clone(), index, index.map(|index| running.listeners[index].context.load_full()))
        });
        kept.collect()
    }

    /// Makes what the configuration needs, and everything that can fail.
    fn plan(
        &self,
        running: &Running,
        config: &Config,
        rules: &Rules<'_>,
        prepared: Vec<Prepared>,
    ) -> Result<Plan, StartError> {
        let plan_listener = |Prepared { kept, context, changed }| match kept {
            Some(index) => Ok(PlannedListener::Kept(index, changed.then(|| Arc::new(context)))),
            None => {
                let bound = BoundListener::with_context(context, &mut Inherited::default(), &self.0.net)?;
                Ok::<_, StartError>(PlannedListener::Bound(bound))
            }
        };
        let listeners = prepared.into_iter().map(plan_listener).collect::<Result<_, _>>()?;
        let admin = match (&config.admin.address, &running.admin) {
            (None, _) => PlannedAdmin::Off,
            (Some(address), Some(admin)) if admin.configured == *address => {
                PlannedAdmin::Kept(Token::load(&config.admin)?)
            }
            (Some(address), _) => {
                let token = Token::load(&config.admin)?;
                let mut none = Inherited::default();
                PlannedAdmin::Bound(AdminServer::bind_or_adopt(address, hands_over(config), &mut none)?, token)
            }
        };
        let old = self.0.pools.backends();
        let backends = config.backends.iter().enumerate().map(|(place, backend)| {
            if let Some(same) = old.iter().find(|old| old.is_made_of(backend)) {
                return Ok(Arc::clone(same));
            }
            let index = match predecessor(&old, config, place) {
                Some(changed) => changed.index,
                None => self.0.budget.add(config, backend),
            };
            new_backend(index, backend, &self.0.pool_config, &self.0.budget, &self.0.metrics, &self.0.net)
        });
        let backends: Vec<_> = backends.collect::<Result<_, _>>()?;
        let table = Table::by(config, backends.clone(), rules);
        Ok(Plan { backends, table, listeners, admin })
    }

    /// Nothing here fails or waits.
    fn exchange(&self, running: &mut Running, config: Config, plan: Plan, rules: &Rules<'_>) {
        let inner = &self.0;
        let indices: Vec<_> = plan.backends.iter().map(|backend| backend.index).collect();
        inner.budget.resize(&config, &indices);
        inner.pools.apply(config.pool.clone());
        inner.auth.apply(auth_settings(&config));
        inner.gate.apply(&config.limits);
        let before = inner.pools.backends();
        inner.pools.set_backends(plan.backends.clone(), inner.budget.capacity());
        inner.look_at(plan.backends.iter().filter(|new| !before.iter().any(|old| Arc::ptr_eq(old, new))));
        inner.pools.set_terms(Arc::clone(plan.table.terms()));
        inner.router.apply(plan.table, rules);
        inner.end_sessions_of_gone_backends();
        let old = inner.context.load();
        inner.context.store(Arc::new(Context {
            auth: Arc::clone(&old.auth),
            router: Arc::clone(&old.router),
            limits: config.limits.clone(),
            slow: Slow::than(config.log.slow),
            metrics: Arc::clone(&old.metrics),
            registry: Arc::clone(&old.registry),
        }));
        self.exchange_listeners(running, plan.listeners);
        self.exchange_admin(running, &config.admin, plan.admin);
        if let Some(watcher) = inner.watcher.get() {
            watcher(&config);
        }
        inner.config.store(Arc::new(config));
    }

    fn exchange_listeners(&self, running: &mut Running, planned: Vec<PlannedListener>) {
        let mut old: Vec<_> = std::mem::take(&mut running.listeners).into_iter().map(Some).collect();
        for listener in planned {
            running.listeners.push(match listener {
                PlannedListener::Bound(listener) => self.0.serve(listener),
                PlannedListener::Kept(index, context) => {
                    let Some(kept) = old[index].take() else { continue };
                    if let Some(context) = context {
                        kept.context.store(context);
                    }
                    kept
                }
            });
        }
        for gone in old.into_iter().flatten() {
            info!(listener = gone.context.load().config.name, address = %gone.bound, "no longer listening");
            gone.stop.cancel();
        }
    }

    fn exchange_admin(&self, running: &mut Running, config: &config::Admin, planned: PlannedAdmin) {
        match planned {
            PlannedAdmin::Kept(token) => {
                if let Some(admin) = &running.admin {
                    admin.token.store(Arc::new(token));
                    admin.hosts.store(Arc::new(config.hosts.clone()));
                }
            }
            PlannedAdmin::Off => {
                if let Some(admin) = running.admin.take() {
                    admin.stop.cancel();
                }
            }
            PlannedAdmin::Bound(server, token) => {
                let new = self.serve_admin(config, server, token);
                if let Some(old) = running.admin.replace(new) {
                    old.stop.cancel();
                }
            }
        }
    }
}

impl super::Inner {
    /// Has new backends asked what they offer, and whether they are there.
    fn look_at<'b>(&self, backends: impl Iterator<Item = &'b Arc<Backend>>) {
        for backend in backends {
            let backend = Arc::clone(backend);
            tokio::spawn(async move { backend.tend().await });
        }
    }

    /// There is nothing that they could ask any more. Those that go through to a replica go on, if it is where it was.
    fn end_sessions_of_gone_backends(&self) {
        for record in self.registry.all() {
            let is_there = record.replica().is_some_and(|replica| self.router.leads_to(replica));
            if record.backend().is_some_and(|backend| backend.is_gone()) && !is_there {
                record.close();
            }
        }
    }
}

/// What a listener of the new configuration needs.
struct Prepared {
    /// The place of the running one of this address.
    kept: Option<usize>,
    context: ListenerContext,
    /// It is another one than that which runs.
    changed: bool,
}

/// A listener, with the place of the one that it takes the place of, and what that goes by.
type Kept = (config::Listener, Option<usize>, Option<Arc<ListenerContext>>);

/// Loads all files with certificates, beside the runtime. Loaded in any case: files that do not fit are refused as a
/// start refuses them, also when that was told before.
async fn prepare(listeners: Vec<Kept>, backends: Vec<config::Backend>) -> Result<Vec<Prepared>, StartError> {
    let loading = tokio::task::spawn_blocking(move || {
        let prepared = listeners.into_iter().map(|(listener, kept, earlier)| {
            let context = ListenerContext::after(&listener, earlier.as_deref())?;
            let changed = earlier.is_none_or(|earlier| !earlier.is_like(&context));
            Ok(Prepared { kept, context, changed })
        });
        let prepared = prepared.collect::<Result<Vec<_>, StartError>>()?;
        for backend in backends.iter().filter(|it| it.tls != TlsMode::None && it.certificate.is_some()) {
            let name = || backend.name.clone();
            TlsConnectorConfig::new(backend).map_err(|source| StartError::Tls { name: name(), source })?;
        }
        Ok(prepared)
    });
    match loading.await {
        Ok(prepared) => prepared,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The place of the running listener of this address.
fn kept(running: &Running, config: &config::Listener) -> Option<usize> {
    let any_port = matches!(config.address, ListenAddr::Tcp(address) if address.port() == 0);
    running.listeners.iter().position(|listener| {
        let same_name = listener.context.load().config.name == config.name;
        listener.configured == config.address && (same_name || !any_port)
    })
}

/// Whose place the backend at this place of the configuration takes: that of the same name, or, where its name is new,
/// of the one at the same place, if that name is gone, and it has the same address, or both are called by their
/// addresses: it is another server otherwise.
fn predecessor<'o>(old: &'o [Arc<Backend>], config: &Config, place: usize) -> Option<&'o Arc<Backend>> {
    let name = &config.backends[place].name;
    let by_name = old.iter().find(|old| old.config.name == *name);
    let new = &config.backends[place];
    let is_gone = |old: &&Arc<Backend>| !config.backends.iter().any(|new| new.name == old.config.name);
    let is_unnamed = |backend: &config::Backend| backend.name == backend.address();
    let is_same =
        |old: &&Arc<Backend>| old.config.address() == new.address() || (is_unnamed(&old.config) && is_unnamed(new));
    by_name.or_else(|| old.get(place).filter(is_gone).filter(is_same))
}

fn differences(old: &Config, new: &Config) -> Vec<Change> {
    match (serde_json::to_value(old), serde_json::to_value(new)) {
        (Ok(old), Ok(new)) => diff(&old, &new),
        _ => Vec::new(),
    }
}

impl StartError {
    /// Where the configuration says what cannot be had: `FILE:LINE:COLUMN`.
    #[must_use]
    pub fn place(&self, config: &Config, places: &Places) -> String {
        let of_listener = |name: &str, key| {
            let index = config.listeners.iter().position(|listener| listener.name == name);
            places.of("listener", index.unwrap_or_default(), key)
        };
        let of_backend = |name: &str, key| {
            let index = config.backends.iter().position(|backend| backend.name == name);
            places.of("backend", index.unwrap_or_default(), key)
        };
        match self {
            Self::Bind(BindError { listener, reason: BindProblem::Tls(source) }) => {
                let ours = config.listeners.iter().find(|ours| ours.name == *listener);
                of_listener(listener, ours.map_or("certificate", |ours| key_at_fault(ours, source)))
            }
            Self::Bind(error) => of_listener(&error.listener, "address"),
            Self::Admin(error) => places.of("admin", 0, error.key()),
            Self::Tls { name, source } => {
                let ours = config.backends.iter().find(|ours| ours.name == *name);
                let is = |file: Option<&PathBuf>| file.is_some_and(|file| source.path() == Some(file));
                of_backend(
                    name,
                    match ours {
                        Some(ours) if is(ours.private_key.as_ref()) => "private_key",
                        Some(ours) if is(ours.certificate.as_ref()) => "certificate",
                        _ => "ca_file",
                    },
                )
            }
            Self::Ports { name, .. } => of_backend(name, "source_port_range"),
            Self::Routes(RouteError::File(error)) => {
                let route = config.routes.iter().position(|route| route.file.as_deref() == Some(error.path()));
                places.of("route", route.unwrap_or_default(), "file")
            }
            Self::Routes(RouteError::Service(route, _)) => places.of("route", *route, "http"),
            Self::Randomness(_) | Self::Draining => places.of("", 0, ""),
        }
    }
}

/// Which key names the file that is at fault.
fn key_at_fault(listener: &config::Listener, error: &TlsConfigError) -> &'static str {
    let is = |file: Option<&PathBuf>| file.is_some_and(|file| error.path() == Some(file));
    let in_folder = |path: &PathBuf| error.path().is_some_and(|file| file.starts_with(path));
    match error {
        TlsConfigError::NoKey { .. } | TlsConfigError::BadKey { .. } if is(listener.private_key.as_ref()) => {
            "private_key"
        }
        _ if is(listener.certificate.as_ref()) => "certificate",
        _ if is(listener.private_key.as_ref()) => "private_key",
        _ if is(listener.client_ca_file.as_ref()) => "client_ca_file",
        _ if listener.certificates.iter().any(in_folder) => "certificates",
        _ => "private_key",
    }
}
