//! Another configuration takes the place of the one that runs: all of it or nothing. First everything is made that can
//! fail; then parts are exchanged, which cannot. Sessions notice nothing of it.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{error, info, warn};

use super::{Checked, Proxy, Running, RunningListener, StartError, auth_settings, hands_over, new_backend, tend};
use crate::admin::{AdminServer, Token};
use crate::config::{self, Change, Config, ConfigError, Effect, ListenAddr, Places, TlsMode, diff};
use crate::listener::{BindError, BindProblem, BoundListener, Inherited, ListenerContext};
use crate::net::Net;
use crate::routing::{RouteError, Table};
use crate::session::driver::Context;
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

enum PlannedListener {
    /// A running one, with another context where that has changed.
    Kept(RunningListener, Option<Arc<ListenerContext>>),
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
        self.0.metrics.operation.reloaded(result.is_ok());
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
        let listeners = prepare(self.kept(&config), config.backends.clone(), self.0.net.clone()).await?;
        let mut running = self.0.running.lock();
        let admin = plan_admin(&running, &config)?;
        let backends = self.plan_backends(&config)?;
        // Nothing from here on fails or waits.
        let inner = &self.0;
        let changes = differences(&inner.config.load(), &config);
        let table = Table::by(&config, backends.clone(), &rules);
        let indices: Vec<_> = backends.iter().map(|backend| backend.index).collect();
        inner.budget.resize(&config, &indices);
        inner.pools.apply(config.pool.clone());
        inner.auth.apply(auth_settings(&config));
        inner.gate.apply(&config.limits);
        let before = inner.pools.backends();
        inner.pools.set_backends(backends.clone(), inner.budget.capacity());
        tend(backends.iter().filter(|new| !before.iter().any(|old| Arc::ptr_eq(old, new))));
        inner.pools.set_terms(Arc::clone(table.terms()));
        inner.router.apply(table, &rules);
        inner.end_sessions_of_gone_backends();
        let (limits, slow) = (config.limits.clone(), config.log.slow);
        inner.context.store(Arc::new(Context { limits, slow, ..Context::clone(&inner.context.load()) }));
        self.exchange_listeners(&mut running, listeners);
        self.exchange_admin(&mut running, &config.admin, admin);
        if let Some(watcher) = inner.watcher.get() {
            watcher(&config);
        }
        inner.config.store(Arc::new(config));
        Ok(changes)
    }

    /// The listeners of a configuration, each with the one that runs in its place.
    fn kept(&self, config: &Config) -> Vec<(config::Listener, Option<RunningListener>)> {
        let (running, mut taken) = (self.0.running.lock(), HashSet::new());
        let kept = config.listeners.iter().map(|listener| {
            let any_port = matches!(listener.address, ListenAddr::Tcp(address) if address.port() == 0);
            let index = running.listeners.iter().position(|it| {
                let same_name = it.context.load().config.name == listener.name;
                it.configured == listener.address && (same_name || !any_port)
            });
            let index = index.filter(|index| taken.insert(*index));
            (listener.clone(), index.map(|index| running.listeners[index].clone()))
        });
        kept.collect()
    }

    /// The backends of a configuration, in its order: those that there are, where they are the same.
    fn plan_backends(&self, config: &Config) -> Result<Vec<Arc<Backend>>, StartError> {
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
        backends.collect()
    }

    fn exchange_listeners(&self, running: &mut Running, planned: Vec<PlannedListener>) {
        let serve = |listener| match listener {
            PlannedListener::Bound(listener) => self.0.serve(listener),
            PlannedListener::Kept(kept, context) => {
                context.into_iter().for_each(|context| kept.context.store(context));
                kept
            }
        };
        let old = std::mem::replace(&mut running.listeners, planned.into_iter().map(serve).collect());
        let is_kept = |old: &RunningListener| running.listeners.iter().any(|it| Arc::ptr_eq(&it.context, &old.context));
        for gone in old.iter().filter(|old| !is_kept(old)) {
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

fn plan_admin(running: &Running, config: &Config) -> Result<PlannedAdmin, StartError> {
    let Some(address) = &config.admin.address else { return Ok(PlannedAdmin::Off) };
    let token = Token::load(&config.admin)?;
    if running.admin.as_ref().is_some_and(|admin| admin.configured == *address) {
        return Ok(PlannedAdmin::Kept(token));
    }
    let server = AdminServer::bind_or_adopt(address, hands_over(config), &mut Inherited::default())?;
    Ok(PlannedAdmin::Bound(server, token))
}

/// Loads all files with certificates, beside the runtime, and opens what listens nowhere yet. Loaded in any case: files
/// that do not fit are refused as a start refuses them, also when that was told before.
async fn prepare(
    listeners: Vec<(config::Listener, Option<RunningListener>)>,
    backends: Vec<config::Backend>,
    net: Net,
) -> Result<Vec<PlannedListener>, StartError> {
    let loading = tokio::task::spawn_blocking(move || {
        let load = |(listener, running): (_, Option<RunningListener>)| {
            let earlier = running.as_ref().map(|running| running.context.load_full());
            let context = ListenerContext::after(&listener, earlier.as_deref())?;
            let changed = earlier.is_none_or(|earlier| !earlier.is_like(&context));
            Ok((context, running, changed))
        };
        let loaded = listeners.into_iter().map(load).collect::<Result<Vec<_>, StartError>>()?;
        for backend in backends.iter().filter(|it| it.tls != TlsMode::None && it.certificate.is_some()) {
            let name = || backend.name.clone();
            TlsConnectorConfig::new(backend).map_err(|source| StartError::Tls { name: name(), source })?;
        }
        let plan = |(context, running, changed): (_, _, bool)| match running {
            Some(running) => Ok(PlannedListener::Kept(running, changed.then(|| Arc::new(context)))),
            None => Ok(PlannedListener::Bound(BoundListener::with_context(context, &mut Inherited::default(), &net)?)),
        };
        loaded.into_iter().map(plan).collect()
    });
    loading.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
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
        let listener = |name: &str| config.listeners.iter().position(|listener| listener.name == name);
        let backend = |name: &str| config.backends.iter().position(|backend| backend.name == name);
        let (section, place, key) = match self {
            Self::Bind(BindError { listener: name, reason: BindProblem::Tls(source) }) => {
                let place = listener(name);
                let key = place.map_or("certificate", |place| key_at_fault(&config.listeners[place], source));
                ("listener", place, key)
            }
            Self::Bind(error) => ("listener", listener(&error.listener), "address"),
            Self::Admin(error) => ("admin", None, error.key()),
            Self::Tls { name, source } => {
                let place = backend(name);
                let is = |file: Option<&PathBuf>| file.is_some_and(|file| source.path() == Some(file));
                let key = match place.map(|place| &config.backends[place]) {
                    Some(ours) if is(ours.private_key.as_ref()) => "private_key",
                    Some(ours) if is(ours.certificate.as_ref()) => "certificate",
                    _ => "ca_file",
                };
                ("backend", place, key)
            }
            Self::Ports { name, .. } => ("backend", backend(name), "source_port_range"),
            Self::Routes(RouteError::File(error)) => {
                let is_its = |route: &config::Route| route.file.as_deref() == Some(error.path());
                ("route", config.routes.iter().position(is_its), "file")
            }
            Self::Routes(RouteError::Service(route, _)) => ("route", Some(*route), "http"),
            Self::Randomness(_) | Self::Draining => ("", None, ""),
        };
        places.of(section, place.unwrap_or_default(), key)
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
