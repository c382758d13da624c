//! What sessions are routed by at one time: the rules, and the backends they lead to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::relay::{Relay, relays};
use super::rulebook::{Decision, RouteError, Rulebook};
use super::{Asked, By, Route, Routes, Rules, Step, Target};
use crate::config::{self, Config};
use crate::imap::capability::Capabilities;
use crate::net::Net;
use crate::residence::Residence;
use crate::terms::AllTerms;
use crate::upstream::backend::{Backend, Service};

/// The port of a server that a service names without one (RFC 9051 section 2.1).
const IMAP: u16 = 143;

/// Weights are counted in these, so that one can grow little by little. (A power of two, so that it makes no other
/// choice.)
const PARTS: u32 = 1024;

/// See the module.
pub struct Table {
    pub(super) book: Rulebook,
    /// By the places of the rules' backends.
    pub(super) backends: Vec<Arc<Backend>>,
    pub(super) groups: Vec<config::Group>,
    /// Those of the groups that relay.
    pub(super) relays: Vec<Relay>,
    /// What each listener offers before login, and what of.
    offered: Mutex<HashMap<String, Offered>>,
}

/// A list made of others.
struct Offered {
    of: Vec<Arc<Capabilities>>,
    list: Arc<Capabilities>,
}

impl Table {
    /// For a configuration and its backends, in its order. Reads its files.
    ///
    /// # Errors
    /// When a file or a service cannot be used.
    pub fn new(config: &Config, backends: Vec<Arc<Backend>>, net: &Net) -> Result<Self, RouteError> {
        Ok(Self::of(config, backends, Rulebook::new(config, None, net)?))
    }

    /// By rules that are made already.
    pub(crate) fn by(config: &Config, backends: Vec<Arc<Backend>>, rules: &Rules<'_>) -> Self {
        Self::of(config, backends, rules.book.clone())
    }

    fn of(config: &Config, backends: Vec<Arc<Backend>>, book: Rulebook) -> Self {
        let groups = config.groups.clone();
        Self { book, backends, groups, relays: relays(config), offered: Mutex::default() }
    }

    /// The same by other rules.
    pub(super) fn with(&self, book: Rulebook) -> Self {
        let (backends, groups, relays) = (self.backends.clone(), self.groups.clone(), self.relays.clone());
        Self { book, backends, groups, relays, offered: Mutex::default() }
    }

    /// How long accounts stay at one of a target's backends after their last session.
    pub(super) fn stay(&self, target: Target) -> Duration {
        match target {
            Target::Group(group) => self.groups[group].stay,
            Target::Backend(_) | Target::Nobody => Duration::ZERO,
        }
    }

    /// The group that a backend is in.
    pub(super) fn group(&self, place: usize) -> Option<&config::Group> {
        self.book.routes.backends[place].group.map(|group| &self.groups[group])
    }

    /// Where an account that is nowhere goes to, by the place of the backend.
    pub(super) fn choice(&self, target: Target, key: &[u8]) -> Option<usize> {
        let routes = &self.book.routes;
        let choice = routes.backend(target, key, |place| self.weight(place));
        // Where all who may take accounts are down, they wait for theirs.
        choice.or_else(|| routes.backend(target, key, |place| self.wished_weight(place)))
    }

    /// As it is configured, or as an administrator wishes.
    #[must_use]
    pub fn wished_weight(&self, place: usize) -> u32 {
        self.backends[place].weight_by_hand().unwrap_or_else(|| self.book.routes.backends[place].weight)
    }

    /// What a backend gets of its group's accounts now, in proportion to the others': so many times its weight.
    pub(super) fn weight(&self, place: usize) -> u32 {
        let weight = self.wished_weight(place).saturating_mul(PARTS);
        let (backend, Some(group)) = (&self.backends[place], self.group(place)) else { return weight };
        match group.takes_over_after() {
            None => weight,
            Some(_) if !self.may_stay(place) || backend.service() != Service::Running => 0,
            Some(_) => backend.grown(weight, group.slow_start),
        }
    }

    /// Whether accounts that are at a backend may stay there, for all that is known of it.
    pub(super) fn may_stay(&self, place: usize) -> bool {
        let (backend, group) = (&self.backends[place], self.group(place));
        let Some(after) = group.and_then(config::Group::takes_over_after) else { return true };
        if group.is_some_and(config::Group::relays) {
            return !backend.is_away(after);
        }
        backend.service() != Service::Drained && backend.down_for().is_none_or(|time| time < after)
    }

    /// The place of the backend of this index.
    pub(super) fn place_of(&self, index: usize) -> Option<usize> {
        self.backends.iter().position(|backend| backend.index == index)
    }

    /// The members of groups, with how they are checked; not what was drained.
    pub(super) fn checked(&self) -> impl Iterator<Item = (&Arc<Backend>, &config::Check)> {
        let checked = |(place, backend)| self.group(place).map(|group| (backend, &group.check));
        let all = self.backends.iter().enumerate().filter_map(checked);
        all.filter(|(backend, _): &(&Arc<Backend>, _)| backend.service() != Service::Drained)
    }

    /// What the weight of each backend is now: what is configured or wished for, or less.
    pub fn weights(&self) -> impl Iterator<Item = (&Arc<Backend>, u32)> {
        let weight = |place: usize| self.weight(place).div_ceil(PARTS);
        self.backends.iter().enumerate().map(move |(place, backend)| (backend, weight(place)))
    }

    /// What sessions of a listener are offered before login: what all backends share that they may come to, those that
    /// are down left out unless all are.
    pub(super) fn offered(&self, listener: &str) -> Arc<Capabilities> {
        self.offered_by(listener, true)
    }

    /// `relays`: sessions of this listener may go on by an inner one.
    fn offered_by(&self, listener: &str, relays: bool) -> Arc<Capabilities> {
        let routes = &self.book.routes;
        if let (true, Target::Backend(place)) = (routes.rules.is_empty(), routes.default) {
            return self.backends[place].capabilities();
        }
        let within_reach = || routes.within_reach(Some(listener)).into_iter();
        let up: Vec<_> = within_reach().filter(|place| self.backends[*place].is_reachable()).collect();
        let of = if up.is_empty() { within_reach().collect() } else { up };
        let of_backend = |place: usize| match self.inner_of(place).filter(|_| relays) {
            Some(inner) => self.offered_by(inner, false),
            None => self.backends[place].capabilities(),
        };
        match &of[..] {
            [] => self.backends[0].capabilities(),
            [only] => of_backend(*only),
            several => self.shared(listener, several.iter().map(|place| of_backend(*place)).collect()),
        }
    }

    fn shared(&self, listener: &str, of: Vec<Arc<Capabilities>>) -> Arc<Capabilities> {
        let mut offered = self.offered.lock();
        let is_same = |known: &&Offered| known.of.iter().map(Arc::as_ptr).eq(of.iter().map(Arc::as_ptr));
        if let Some(known) = offered.get(listener).filter(is_same) {
            return Arc::clone(&known.list);
        }
        let list = Arc::new(Capabilities::shared(of.iter().map(|list| &**list)));
        offered.insert(listener.to_owned(), Offered { of, list: Arc::clone(&list) });
        list
    }

    /// What a service names.
    pub(super) fn named(&self, host: &str, port: Option<u16>) -> Option<Target> {
        let is_at = |place: usize, address: &SocketAddr| self.backends[place].dialer.addresses().contains(address);
        named(&self.book.routes, self.backends.iter().map(|backend| &backend.config), is_at, host, port)
    }

    /// Those that any session may come to, in the order of the configuration.
    #[must_use]
    pub fn in_use(&self) -> Vec<&Arc<Backend>> {
        self.book.routes.within_reach(None).into_iter().map(|place| &self.backends[place]).collect()
    }

    /// Why an account may not be where it is, or goes, if so.
    pub(super) fn misplaces(&self, residence: &Residence) -> Option<&'static str> {
        let names = residence.names();
        if names.iter().any(|name| !self.book.terms.allow_as(name, residence.login.as_deref())) {
            return Some("it may not log in");
        }
        names.iter().any(|name| !self.leads_to(name, residence)).then_some("the routes have changed")
    }

    /// Whether routes lead who goes by this name to where this account is.
    fn leads_to(&self, name: &[u8], residence: &Residence) -> bool {
        let routes = &self.book.routes;
        let there = self.place_of(residence.destination());
        let ((listener, server_name), at_login) = (residence.by(), residence.login.as_deref());
        let route = match routes.step(&Asked { key: name, listener, server_name }) {
            Step::Goes(route) => route,
            // Asked anew with the next login; where it was moved to is known.
            Step::Ask(rule) => {
                let Some(place) = there else { return true };
                let target = Target::Backend(place);
                routes.moved(name, Route { by: By::Rule(rule), line: None, target, login: at_login })
            }
        };
        // A token goes by its own name, whatever the routes make of that.
        let is_same = match route.login {
            login if *name == *residence.name => login == at_login,
            Some(login) => *routes.names.key(login, b"") == *residence.key,
            None => *name == *residence.key,
        };
        is_same && routes.members(route.target).any(|place| Some(place) == there)
    }

    /// What else holds for accounts.
    #[must_use]
    pub fn terms(&self) -> &Arc<AllTerms> {
        &self.book.terms
    }

    /// What is decided of a name, and why.
    #[must_use]
    pub fn decide(&self, user: &str, listener: &str, server_name: Option<&str>) -> Decision {
        self.book.decide(user, listener, server_name, &|target, key| self.choice(target, key))
    }
}

/// A backend or group by its name, or a backend by its address: nothing else is ever dialed.
pub(super) fn named<'b>(
    routes: &Routes,
    mut backends: impl Iterator<Item = &'b config::Backend> + Clone,
    is_at: impl Fn(usize, &SocketAddr) -> bool,
    host: &str,
    port: Option<u16>,
) -> Option<Target> {
    if let (Some(target), None) = (routes.target(host), port) {
        return Some(target);
    }
    let port = port.unwrap_or(IMAP);
    let place = match host.parse() {
        // Of one that was never reached, the configuration alone says where it is.
        Ok(ip) => backends.enumerate().position(|(place, backend)| {
            let is_written = |(host, at): (&str, u16)| host.parse() == Ok(ip) && at == port;
            is_at(place, &SocketAddr::new(ip, port)) || backend.everywhere().any(is_written)
        }),
        Err(_) => backends
            .position(|backend| backend.everywhere().any(|(known, at)| known.eq_ignore_ascii_case(host) && at == port)),
    };
    place.map(Target::Backend)
}
