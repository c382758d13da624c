//! The rules of a configuration, the files they name, and who is to be asked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::http::{Lookup, Settings};
use super::map::Map;
use super::name::Pattern;
use super::{Asked, By, MapError, Member, Routes, Rule, Source, Step, Target, files};
use crate::config::{self, Config};
use crate::net::Net;
use crate::terms::{AllTerms, Terms};
use crate::tls::Stamp;

/// Why there can be no such routes.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] MapError),
    /// The service of a rule, by its place, cannot be asked, and why.
    #[error("{1}")]
    Service(usize, String),
}

/// See the module. The vectors are by the places of the rules.
#[derive(Debug, Clone)]
pub(super) struct Rulebook {
    pub(super) routes: Routes,
    /// How each rule is told of.
    pub(super) words: Vec<String>,
    pub(super) files: Vec<Option<MapFile>>,
    /// Who was moved by hand.
    pub(super) moves: Option<MapFile>,
    /// Who is asked.
    pub(super) lookups: Vec<Option<Arc<Lookup>>>,
    /// What else holds for accounts.
    pub(super) terms: Arc<AllTerms>,
}

#[derive(Debug, Clone)]
pub(super) struct MapFile {
    pub(super) path: PathBuf,
    /// As it was when it was last looked at, good or bad.
    pub(super) seen: Option<Stamp>,
    pub(super) map: Arc<Map>,
}

/// A file that has changed, as it was seen, and what it says now.
pub(super) type Reread = (PathBuf, Option<Stamp>, Result<Arc<Map>, MapError>);

/// What is decided of a name, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The name of the backend; none: the name is refused, or no backend takes it, or a service has to be asked.
    pub backend: Option<String>,
    /// The rule, as it stands in the configuration.
    pub rule: String,
    /// What routes go by.
    pub key: String,
    /// What the user is to log in by, where it is another name.
    pub login: Option<String>,
    /// The place of the rule whose service has to be asked.
    pub asks: Option<usize>,
    /// The `[[account]]` that has it, as it stands in the configuration.
    pub account: Option<String>,
    /// What holds for it, at that backend if there is one.
    pub terms: Terms,
}

impl Rulebook {
    /// Of a configuration. What `earlier` has read and asked that is the same is kept. May block.
    ///
    /// # Errors
    /// When a file or a service cannot be used.
    pub(super) fn new(config: &Config, earlier: Option<&Self>, net: &Net) -> Result<Self, RouteError> {
        let mut routes = targets(config);
        // Of another configuration, a line may mean something else.
        let same = |it: &&Self| it.routes.names == routes.names && it.routes.has_targets_of(&routes);
        let known: Vec<_> = earlier.filter(same).into_iter().flat_map(Self::all_files).collect();
        let asked = earlier.map_or(&[][..], |it| &it.lookups);
        let (mut files, mut lookups) = (Vec::new(), Vec::new());
        for (place, route) in config.routes.iter().enumerate() {
            let file = route.file.as_ref().map(|path| MapFile::read(path, &routes, &known)).transpose()?;
            lookups.push(lookup(route, asked, net).map_err(|error| RouteError::Service(place, error))?);
            routes.rules.push(rule(route, &routes, file.as_ref()));
            files.push(file);
        }
        let moves = match &config.routing.moves_file {
            // Nobody was moved so far.
            Some(path) if !path.exists() => Some(MapFile { path: path.clone(), seen: None, map: Arc::default() }),
            Some(path) => Some(MapFile::read(path, &routes, &known)?),
            None => None,
        };
        routes.moves = moves.as_ref().map(|file| Arc::clone(&file.map));
        let words = config.routes.iter().enumerate().map(|(place, route)| told(place, route)).collect();
        Ok(Self { routes, words, files, moves, lookups, terms: Arc::new(AllTerms::new(config)) })
    }

    /// The same with the files that have been read again.
    pub(super) fn with(&self, reread: &[Reread]) -> Self {
        let mut book = self.clone();
        let files = book.files.iter_mut().chain([&mut book.moves]).flatten();
        for file in files {
            if let Some((_, seen, map)) = reread.iter().find(|(path, ..)| *path == file.path) {
                file.seen = *seen;
                file.map = map.as_ref().map_or_else(|_| Arc::clone(&file.map), Arc::clone);
            }
        }
        for (rule, file) in book.routes.rules.iter_mut().zip(&book.files) {
            if let Some(file) = file {
                rule.source = Source::Map(Arc::clone(&file.map));
            }
        }
        book.routes.moves = book.moves.as_ref().map(|file| Arc::clone(&file.map));
        book
    }

    pub(super) fn all_files(&self) -> impl Iterator<Item = &MapFile> {
        self.files.iter().chain([&self.moves]).flatten()
    }

    /// Reads files again that have changed, each once; with `looks`, those only that look as they did then, and were
    /// not changed while they were read. Blocks.
    pub(super) fn read_changed(&self, mut looks: Option<&mut HashMap<PathBuf, Option<Stamp>>>) -> Vec<Reread> {
        let mut read: Vec<Reread> = Vec::new();
        for file in self.all_files() {
            let seen = Stamp::of(&file.path);
            if seen == file.seen || read.iter().any(|(other, ..)| *other == file.path) {
                continue;
            }
            let before = looks.as_deref_mut().map(|looks| looks.insert(file.path.clone(), seen));
            if before.is_some_and(|before| before != Some(seen)) {
                continue;
            }
            let map = files::read(&file.path, &self.routes.names, |name| self.routes.target(name));
            if Stamp::of(&file.path) == seen {
                read.push((file.path.clone(), seen, map.map(Arc::new)));
            }
        }
        read
    }

    /// What is decided of a name, and why.
    /// `choice` picks a backend for an account that is nowhere, by its place.
    pub(super) fn decide(
        &self,
        user: &str,
        listener: &str,
        server_name: Option<&str>,
        choice: &dyn Fn(Target, &[u8]) -> Option<usize>,
    ) -> Decision {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let key = self.routes.names.key(user.as_bytes(), b"");
        let account = self.terms.words(&key);
        let decided = |backend: Option<String>, rule, login, asks| Decision {
            terms: self.terms.of(&key, backend.as_deref().unwrap_or_default()),
            account: account.clone(),
            key: text(&key),
            backend,
            rule,
            login,
            asks,
        };
        if let Some(account) = account.as_ref().filter(|_| !self.terms.allow(&key)) {
            return decided(None, format!("{account}, allow = false"), None, None);
        }
        let route = match self.routes.step(&Asked { key: &key, listener, server_name }) {
            Step::Ask(rule) => return decided(None, self.words[rule].clone(), None, Some(rule)),
            Step::Goes(route) => route,
        };
        let (mut rule, file) = match route.by {
            By::Move => ("imapool ctl move".to_owned(), self.moves.as_ref()),
            By::Rule(place) => (self.words[place].clone(), self.files[place].as_ref()),
            By::Default => ("routing.default".to_owned(), None),
        };
        if let (Some(line), Some(file)) = (route.line, file) {
            rule = format!("{rule}, {}:{line}", file.path.display());
        }
        self.tell_group(route.target, &mut rule);
        if !self.terms.allow_as(&key, route.login) {
            return decided(None, format!("{rule}, allow = false"), route.login.map(text), None);
        }
        let account = route.login.map(|login| self.routes.names.key(login, b""));
        let backend = choice(route.target, account.as_deref().unwrap_or(&key));
        decided(self.name(backend), rule, route.login.map(text), None)
    }

    /// A group is told of, too.
    pub(super) fn tell_group(&self, target: Target, rule: &mut String) {
        if let Target::Group(group) = target {
            *rule += &format!(", group {:?}", self.routes.groups[group]);
        }
    }

    pub(super) fn name(&self, place: Option<usize>) -> Option<String> {
        place.map(|place| self.routes.backends[place].name.clone())
    }

    /// By the weights of the configuration.
    pub(super) fn choice(&self, target: Target, key: &[u8]) -> Option<usize> {
        self.routes.backend(target, key, |place| self.routes.backends[place].weight)
    }
}

impl MapFile {
    /// `known`: files that are read already.
    fn read(path: &Path, routes: &Routes, known: &[&Self]) -> Result<Self, MapError> {
        // Before it is read: what changes meanwhile is seen as a change.
        let seen = Stamp::of(path);
        let same = known.iter().find(|known| known.path == path && known.seen == seen && seen.is_some());
        let map = match same {
            Some(known) => Arc::clone(&known.map),
            None => Arc::new(files::read(path, &routes.names, |name| routes.target(name))?),
        };
        Ok(Self { path: path.to_owned(), seen, map })
    }
}

/// What rules may lead to.
fn targets(config: &Config) -> Routes {
    let groups: Vec<_> = config.groups.iter().map(|group| group.name.clone()).collect();
    let member = |backend: &config::Backend| Member {
        name: backend.name.clone(),
        group: backend.group.as_ref().and_then(|group| groups.iter().position(|known| known == group)),
        weight: u32::try_from(backend.weight).unwrap_or(u32::MAX),
    };
    let backends = config.backends.iter().map(member).collect();
    let names = config.routing.names();
    let relays = (0..groups.len()).filter(|place| config.groups[*place].relays()).collect();
    let (rules, default) = (Vec::new(), Target::Backend(0));
    let mut routes = Routes { names, moves: None, rules, default, backends, groups, relays };
    if let Some(name) = &config.routing.default {
        routes.default = target(&routes, name);
    }
    routes
}

fn rule(route: &config::Route, routes: &Routes, file: Option<&MapFile>) -> Rule {
    let source = match (file, &route.to) {
        (Some(file), _) => Source::Map(Arc::clone(&file.map)),
        (None, Some(to)) => Source::Fixed(target(routes, to)),
        (None, None) => Source::Lookup,
    };
    // Refused in the configuration when they are none.
    let users = route.users.iter().filter_map(|user| Pattern::parse(user, &routes.names).ok()).collect();
    Rule { users, listeners: route.listeners.clone(), server_names: route.server_names.clone(), source }
}

/// The empty name is nobody's; others are known to be there.
fn target(routes: &Routes, name: &str) -> Target {
    routes.target(name).unwrap_or(Target::Nobody)
}

/// Who is asked for a route; `known`: those that are asked already, and remember what they said.
fn lookup(route: &config::Route, known: &[Option<Arc<Lookup>>], net: &Net) -> Result<Option<Arc<Lookup>>, String> {
    let Some(url) = &route.http else { return Ok(None) };
    let headers = route.headers.iter().map(|header| (header.name.clone(), header.value.clone())).collect();
    let config::Route { timeout, ttl, negative_ttl, stale, send_password, .. } = *route;
    let settings = Settings { url: url.clone(), timeout, ttl, negative_ttl, stale, headers, send_password };
    match known.iter().flatten().find(|known| known.settings == settings) {
        Some(known) => Ok(Some(Arc::clone(known))),
        None => Lookup::new(settings, net.clone()).map(Some),
    }
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
