//! Which backend a session goes to when it logs in: by the routes of the configuration ([`imapool_proto::routing`]), the
//! files they name, and where the account is already.

mod files;
pub mod http;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

pub use self::files::MapError;
use self::map::Map;
use self::name::Pattern;
use crate::config::{self, Config, Live};
use crate::imap::capability::Capabilities;
use crate::imap::sasl::Credential;
use crate::metrics::{Metrics, RouteResult};
use crate::residence::{Entered, Residence, Residences, Visit, Wanted};
use crate::tls::Stamp;
use crate::upstream::backend::Backend;

pub use imapool_proto::routing::{Asked, Member, Route, Routes, Rule, Source, Step, Target, map, name};

/// What is told to whom nothing else can be told.
const UNAVAILABLE: &str = "It cannot be found out at the moment which mail server has this account.";

/// See the module.
pub struct Router {
    table: ArcSwap<Table>,
    /// Held while another table is made.
    making: Mutex<()>,
    /// Held while files are read again.
    tending: tokio::sync::Mutex<()>,
    residences: Arc<Residences>,
    metrics: Arc<Metrics>,
    patience: Live<config::Pool>,
}

/// What sessions are routed by at one time.
pub struct Table {
    routes: Routes,
    /// How each rule is told of.
    rules: Vec<String>,
    /// By the places of `routes.backends`.
    backends: Vec<Arc<Backend>>,
    /// Of each group.
    stays: Vec<Duration>,
    /// Of each rule.
    files: Vec<Option<MapFile>>,
    /// What each listener offers before login, and what of.
    offered: Mutex<HashMap<String, Offered>>,
}

/// A list made of others.
struct Offered {
    of: Vec<Arc<Capabilities>>,
    list: Arc<Capabilities>,
}

#[derive(Debug, Clone)]
struct MapFile {
    path: PathBuf,
    /// As it was when it was last looked at, good or bad.
    seen: Option<Stamp>,
    map: Arc<Map>,
}

impl MapFile {
    fn is_as(one: Option<&Self>, other: Option<&Self>) -> bool {
        one.map(|it| (it.seen, Arc::as_ptr(&it.map))) == other.map(|it| (it.seen, Arc::as_ptr(&it.map)))
    }
}

/// How somebody asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'c> {
    /// By which listener.
    pub listener: &'c str,
    /// As which host, in TLS.
    pub server_name: Option<&'c str>,
}

/// Where a session goes.
#[derive(Debug)]
pub enum Way {
    /// To this backend, with this credential.
    To(Visit, Arc<Credential>),
    /// To none: it is refused like a wrong password.
    Nobody,
    /// It cannot be said now.
    Unavailable(&'static str),
}

/// What is decided of a name, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The name of the backend; none: the name is refused, or no backend takes it.
    pub backend: Option<String>,
    /// The rule, as it stands in the configuration.
    pub rule: String,
    /// What routes go by.
    pub key: String,
    /// What the user is to log in by, where it is another name.
    pub login: Option<String>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router").finish_non_exhaustive()
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// The rules of a configuration, with the files they name. `known`: files that are read already.
fn rules(config: &Config, known: &[Option<MapFile>]) -> Result<(Routes, Vec<Option<MapFile>>), MapError> {
    let groups: Vec<_> = config.groups.iter().map(|group| group.name.clone()).collect();
    let member = |backend: &config::Backend| Member {
        name: backend.name.clone(),
        group: backend.group.as_ref().and_then(|group| groups.iter().position(|known| known == group)),
        weight: u32::try_from(backend.weight).unwrap_or(u32::MAX),
    };
    let backends = config.backends.iter().map(member).collect();
    let names = config.routing.names();
    let mut routes = Routes { names, rules: Vec::new(), default: Target::Backend(0), backends, groups };
    routes.default = config.routing.default.as_ref().map_or(Target::Backend(0), |name| target(&routes, name));
    let mut read = Vec::new();
    for route in &config.routes {
        let file = match &route.file {
            Some(path) => Some(map_file(path, &routes, known)?),
            None => None,
        };
        let source = match (&file, &route.to) {
            (Some(file), _) => Source::Map(Arc::clone(&file.map)),
            (None, to) => Source::Fixed(target(&routes, to.as_deref().unwrap_or_default())),
        };
        // Refused in the configuration when they are none.
        let users = route.users.iter().filter_map(|user| Pattern::parse(user, &routes.names).ok()).collect();
        let (listeners, server_names) = (route.listeners.clone(), route.server_names.clone());
        routes.rules.push(Rule { users, listeners, server_names, source });
        read.push(file);
    }
    Ok((routes, read))
}

fn target(routes: &Routes, name: &str) -> Target {
    routes.target(name).unwrap_or(Target::Nobody)
}

fn map_file(path: &std::path::Path, routes: &Routes, known: &[Option<MapFile>]) -> Result<MapFile, MapError> {
    // Before it is read: what changes meanwhile is seen as a change.
    let seen = Stamp::of(path);
    let same = known.iter().flatten().find(|known| known.path == path && known.seen == seen && seen.is_some());
    let map = match same {
        Some(known) => Arc::clone(&known.map),
        None => Arc::new(files::read(path, &routes.names, |name| routes.target(name))?),
    };
    Ok(MapFile { path: path.to_owned(), seen, map })
}

/// As it stands in the configuration: `route 2 (users "@example.org")`.
fn told(place: usize, route: &config::Route) -> String {
    let list = |key: &str, values: &[String]| {
        let values: Vec<_> = values.iter().take(3).map(|value| format!("{value:?}")).collect();
        (!values.is_empty()).then(|| format!("{key} {}", values.join(", ")))
    };
    let conditions =
        [list("users", &route.users), list("listeners", &route.listeners), list("server_names", &route.server_names)];
    let conditions: Vec<_> = conditions.into_iter().flatten().collect();
    let conditions = if conditions.is_empty() { "everybody".to_owned() } else { conditions.join("; ") };
    format!("route {} ({conditions})", place + 1)
}

impl Table {
    /// For a configuration and its backends, in its order. `earlier`: files that have not changed since are not read
    /// again. May block.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn new(config: &Config, backends: Vec<Arc<Backend>>, earlier: Option<&Self>) -> Result<Self, MapError> {
        // Of another configuration, a line may mean something else.
        let same = |it: &&Self| it.routes.names == config.routing.names() && it.has_targets_of(config);
        let known = earlier.filter(same).map_or(&[][..], |it| &it.files);
        let (routes, files) = rules(config, known)?;
        let rules = config.routes.iter().enumerate().map(|(place, route)| told(place, route)).collect();
        let stays = config.groups.iter().map(|group| group.stay).collect();
        Ok(Self { routes, rules, backends, stays, files, offered: Mutex::default() })
    }

    fn has_targets_of(&self, config: &Config) -> bool {
        let backends = config.backends.iter().map(|backend| &backend.name);
        let groups = config.groups.iter().map(|group| &group.name);
        self.routes.backends.iter().map(|member| &member.name).eq(backends) && self.routes.groups.iter().eq(groups)
    }

    /// The files that have changed, each once, with what they say now. Blocks.
    fn read_changed(&self) -> Vec<(MapFile, Option<Stamp>, Result<Arc<Map>, MapError>)> {
        let mut read: Vec<(MapFile, _, _)> = Vec::new();
        for file in self.files.iter().flatten() {
            let seen = Stamp::of(&file.path);
            if seen != file.seen && read.iter().all(|(other, ..)| other.path != file.path) {
                let map = files::read(&file.path, &self.routes.names, |name| self.routes.target(name));
                read.push((file.clone(), seen, map.map(Arc::new)));
            }
        }
        read
    }

    /// The same with other files.
    fn with(&self, files: Vec<Option<MapFile>>) -> Self {
        let mut routes = self.routes.clone();
        for (rule, file) in routes.rules.iter_mut().zip(&files) {
            if let Some(file) = file {
                rule.source = Source::Map(Arc::clone(&file.map));
            }
        }
        let (rules, backends, stays) = (self.rules.clone(), self.backends.clone(), self.stays.clone());
        Self { routes, rules, backends, stays, files, offered: Mutex::default() }
    }

    /// How long accounts stay at one of a target's backends after their last session.
    fn stay(&self, target: Target) -> Duration {
        match target {
            Target::Group(group) => self.stays[group],
            Target::Backend(_) | Target::Nobody => Duration::ZERO,
        }
    }

    /// What sessions of a listener are offered before login: what all backends share that they may come to, those that
    /// are down left out unless all are.
    fn offered(&self, listener: &str) -> Arc<Capabilities> {
        if let (true, Target::Backend(place)) = (self.routes.rules.is_empty(), self.routes.default) {
            return self.backends[place].capabilities();
        }
        let within_reach = || self.routes.within_reach(Some(listener)).into_iter().map(|place| &self.backends[place]);
        let up: Vec<_> = within_reach().filter(|backend| backend.is_reachable()).collect();
        let of = if up.is_empty() { within_reach().collect() } else { up };
        match &of[..] {
            [] => self.backends[0].capabilities(),
            [only] => only.capabilities(),
            several => self.shared(listener, several.iter().map(|backend| backend.capabilities()).collect()),
        }
    }

    fn shared(&self, listener: &str, of: Vec<Arc<Capabilities>>) -> Arc<Capabilities> {
        let mut offered = self.offered.lock();
        let is_same = |known: &&Offered| {
            known.of.len() == of.len() && known.of.iter().zip(&of).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        if let Some(known) = offered.get(listener).filter(is_same) {
            return Arc::clone(&known.list);
        }
        let list = Arc::new(Capabilities::shared(of.iter().map(|list| &**list)));
        offered.insert(listener.to_owned(), Offered { of, list: Arc::clone(&list) });
        list
    }

    /// Those that any session may come to, in the order of the configuration.
    #[must_use]
    pub fn in_use(&self) -> Vec<&Arc<Backend>> {
        self.routes.within_reach(None).into_iter().map(|place| &self.backends[place]).collect()
    }

    /// What is decided of a name, and why.
    #[must_use]
    pub fn decide(&self, user: &str, listener: &str, server_name: Option<&str>) -> Decision {
        let key = self.routes.names.key(user.as_bytes(), b"");
        decide(&self.routes, &self.rules, &self.files, &Asked { key: &key, listener, server_name })
    }
}

/// What a configuration decides of a name; its files are read, nothing is connected.
///
/// # Errors
/// When a file cannot be used.
pub fn explain(config: &Config, user: &str, listener: &str, server_name: Option<&str>) -> Result<Decision, MapError> {
    let (routes, files) = rules(config, &[])?;
    let rules: Vec<_> = config.routes.iter().enumerate().map(|(place, route)| told(place, route)).collect();
    let key = routes.names.key(user.as_bytes(), b"");
    Ok(decide(&routes, &rules, &files, &Asked { key: &key, listener, server_name }))
}

/// Reads the files of a configuration as a start would.
///
/// # Errors
/// When one cannot be used.
pub fn check(config: &Config) -> Result<(), MapError> {
    rules(config, &[]).map(drop)
}

fn decide(routes: &Routes, rules: &[String], files: &[Option<MapFile>], asked: &Asked<'_>) -> Decision {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let key = text(asked.key);
    match routes.step(asked) {
        Step::Ask(rule) => Decision { backend: None, rule: rules[rule].clone(), key, login: None },
        Step::Goes(route) => {
            let mut rule = route.rule.map_or("routing.default".to_owned(), |place| rules[place].clone());
            if let (Some(line), Some(file)) = (route.line, route.rule.and_then(|place| files[place].as_ref())) {
                rule = format!("{rule}, {}:{line}", file.path.display());
            }
            if let Target::Group(group) = route.target {
                rule = format!("{rule}, group {:?}", routes.groups[group]);
            }
            let backend = routes.backend(route.target, asked.key).map(|place| routes.backends[place].name.clone());
            Decision { backend, rule, key, login: route.login.map(text) }
        }
    }
}

impl Router {
    /// Knows where nobody is.
    #[must_use]
    pub fn new(table: Table, patience: Live<config::Pool>, metrics: Arc<Metrics>) -> Self {
        let (making, tending, residences) = Default::default();
        Self { table: ArcSwap::from_pointee(table), making, tending, residences, metrics, patience }
    }

    /// What it goes by now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Where accounts are.
    #[must_use]
    pub fn residences(&self) -> &Arc<Residences> {
        &self.residences
    }

    /// What sessions of a listener are offered before login.
    #[must_use]
    pub fn offered(&self, listener: &str) -> Arc<Capabilities> {
        self.table.load().offered(listener)
    }

    /// Where a session goes that logs in with this credential, if that can be said without waiting.
    #[must_use]
    pub fn way_at_once(&self, credential: &Arc<Credential>, caller: Caller<'_>) -> Option<Way> {
        let way = self.step(credential, caller).ok()?;
        self.count(&way);
        Some(way)
    }

    fn count(&self, way: &Way) {
        self.metrics.routed(match way {
            Way::To(..) => RouteResult::Routed,
            Way::Nobody => RouteResult::Refused,
            Way::Unavailable(_) => RouteResult::Unavailable,
        });
    }

    /// Where a session goes that logs in with this credential. Waits, for `pool.checkout_timeout` at most, while its
    /// account leaves another backend.
    pub async fn way(&self, credential: &Arc<Credential>, caller: Caller<'_>) -> Way {
        let deadline = Instant::now() + self.patience.load().checkout_timeout;
        let way = loop {
            let residence = match self.step(credential, caller) {
                Ok(way) => break way,
                Err(residence) => residence,
            };
            self.end(&residence, "its route leads elsewhere");
            let over = self.residences.over(Arc::downgrade(&residence));
            drop(residence);
            if timeout_at(deadline, over).await.is_err() {
                break Way::Unavailable("The account is being moved to another mail server; try again later.");
            }
        };
        self.count(&way);
        way
    }

    /// As far as it can be said at once.
    fn step(&self, credential: &Arc<Credential>, caller: Caller<'_>) -> Result<Way, Arc<Residence>> {
        let table = self.table.load();
        let routes = &table.routes;
        let key = routes.names.key(&credential.user, &credential.authzid);
        let Caller { listener, server_name } = caller;
        let Step::Goes(route) = routes.step(&Asked { key: &key, listener, server_name }) else {
            return Ok(Way::Unavailable(UNAVAILABLE));
        };
        if route.target == Target::Nobody {
            return Ok(Way::Nobody);
        }
        let index = |place: usize| table.backends[place].index;
        let allowed: Vec<_> = routes.members(route.target).map(index).collect();
        let wanted = Wanted {
            key: &key,
            choice: routes.backend(route.target, &key).map(index),
            allowed: &allowed,
            stay: table.stay(route.target),
            listener,
            server_name,
        };
        match self.residences.enter(&wanted) {
            Entered::At(visit) => {
                let credential = match route.login {
                    Some(login) => Arc::new(routes.names.renamed(credential, login)),
                    None => Arc::clone(credential),
                };
                Ok(Way::To(visit, credential))
            }
            Entered::Elsewhere(residence) => Err(residence),
            Entered::Nowhere => Ok(Way::Unavailable("The mail server takes no new accounts at the moment.")),
        }
    }

    /// Has an account leave: its sessions end, its connections log out, and nobody else comes.
    fn end(&self, residence: &Arc<Residence>, why: &str) {
        if residence.end() {
            let (account, backend) = (String::from_utf8_lossy(residence.key()), self.name(residence.backend()));
            info!(account = account.as_ref(), backend, why, "an account leaves its backend");
        }
    }

    fn name(&self, index: usize) -> Option<String> {
        let table = self.table.load();
        table.backends.iter().find(|it| it.index == index).map(|it| it.config.name.clone())
    }

    /// Goes by another table from now on. Accounts that it has elsewhere leave where they are; others notice nothing.
    pub fn apply(&self, table: Table) {
        let _making = self.making.lock();
        self.exchange(table);
    }

    fn exchange(&self, table: Table) {
        self.table.store(Arc::new(table));
        let table = self.table.load();
        let is_misplaced = |residence: &Arc<Residence>| {
            let (listener, server_name) = residence.by();
            let asked = Asked { key: residence.key(), listener, server_name };
            match table.routes.step(&asked) {
                Step::Goes(route) => {
                    !table.routes.members(route.target).any(|place| table.backends[place].index == residence.backend())
                }
                // Asked anew with the next login.
                Step::Ask(_) => false,
            }
        };
        for residence in self.residences.all().iter().filter(|residence| is_misplaced(residence)) {
            self.end(residence, "the routes have changed");
        }
    }

    /// Forgets who left long ago, and reads files again that have changed. Call it every few seconds; while one call is
    /// at work, another does nothing.
    pub async fn tend(self: &Arc<Self>) {
        let table = self.table.load_full();
        self.residences.sweep(table.stays.iter().max().copied().unwrap_or_default());
        let Ok(_alone) = self.tending.try_lock() else { return };
        if table.files.iter().all(Option::is_none) {
            return;
        }
        let ours = Arc::clone(&table);
        // Reading may take seconds.
        let Ok(read) = tokio::task::spawn_blocking(move || ours.read_changed()).await else { return };
        let mut files = table.files.clone();
        for (file, seen, map) in read {
            let path = file.path.clone();
            for known in files.iter_mut().flatten().filter(|known| known.path == path) {
                known.seen = seen;
                if let Ok(map) = &map {
                    known.map = Arc::clone(map);
                }
            }
            match map {
                Ok(map) => info!(file = %path.display(), lines = map.len(), "routes read again"),
                Err(error) => warn!("cannot take over changed routes; the old ones serve on: {error}"),
            }
        }
        if files.iter().zip(&table.files).any(|(new, old)| !MapFile::is_as(new.as_ref(), old.as_ref())) {
            let _making = self.making.lock();
            // A reload has read them itself.
            if Arc::ptr_eq(&self.table.load(), &table) {
                self.exchange(table.with(files));
            }
        }
    }
}
