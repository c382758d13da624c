//! What sessions are routed by at one time: the rules, and the backends they lead to.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::rulebook::{Decision, RouteError, Rulebook};
use super::{Routes, Target};
use crate::config::{self, Config};
use crate::imap::capability::Capabilities;
use crate::net::Net;
use crate::upstream::backend::Backend;

/// The port of a server that a service names without one (RFC 9051 section 2.1).
const IMAP: u16 = 143;

/// See the module.
pub struct Table {
    pub(super) book: Rulebook,
    /// By the places of the rules' backends.
    pub(super) backends: Vec<Arc<Backend>>,
    /// Of each group.
    stays: Vec<Duration>,
    /// What each listener offers before login, and what of.
    offered: Mutex<HashMap<String, Offered>>,
}

/// A list made of others.
struct Offered {
    of: Vec<Arc<Capabilities>>,
    list: Arc<Capabilities>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("rules", &self.book.words).finish_non_exhaustive()
    }
}

impl Table {
    /// For a configuration and its backends, in its order. Files that have not changed since `earlier` are not read
    /// again. May block.
    ///
    /// # Errors
    /// When a file or a service cannot be used.
    pub fn new(
        config: &Config,
        backends: Vec<Arc<Backend>>,
        earlier: Option<&Self>,
        net: &Net,
    ) -> Result<Self, RouteError> {
        let book = Rulebook::new(config, earlier.map(|it| &it.book), net)?;
        let stays = config.groups.iter().map(|group| group.stay).collect();
        Ok(Self { book, backends, stays, offered: Mutex::default() })
    }

    /// The same by other rules.
    pub(super) fn with(&self, book: Rulebook) -> Self {
        let (backends, stays) = (self.backends.clone(), self.stays.clone());
        Self { book, backends, stays, offered: Mutex::default() }
    }

    /// How long accounts stay at one of a target's backends after their last session.
    pub(super) fn stay(&self, target: Target) -> Duration {
        match target {
            Target::Group(group) => self.stays[group],
            Target::Backend(_) | Target::Nobody => Duration::ZERO,
        }
    }

    /// The longest of these.
    pub(super) fn longest_stay(&self) -> Duration {
        self.stays.iter().max().copied().unwrap_or_default()
    }

    /// What sessions of a listener are offered before login: what all backends share that they may come to, those that
    /// are down left out unless all are.
    pub(super) fn offered(&self, listener: &str) -> Arc<Capabilities> {
        let routes = &self.book.routes;
        if let (true, Target::Backend(place)) = (routes.rules.is_empty(), routes.default) {
            return self.backends[place].capabilities();
        }
        let within_reach = || routes.within_reach(Some(listener)).into_iter().map(|place| &self.backends[place]);
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

    /// What a service names.
    pub(super) fn named(&self, host: &str, port: Option<u16>) -> Option<Target> {
        let is_at = |place: usize, address: &SocketAddr| self.backends[place].addresses().contains(address);
        named(&self.book.routes, self.backends.iter().map(|backend| &backend.config), is_at, host, port)
    }

    /// Those that any session may come to, in the order of the configuration.
    #[must_use]
    pub fn in_use(&self) -> Vec<&Arc<Backend>> {
        self.book.routes.within_reach(None).into_iter().map(|place| &self.backends[place]).collect()
    }

    /// What is decided of a name, and why.
    #[must_use]
    pub fn decide(&self, user: &str, listener: &str, server_name: Option<&str>) -> Decision {
        self.book.decide(user, listener, server_name)
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
        Ok(ip) => (0..routes.backends.len()).find(|place| is_at(*place, &SocketAddr::new(ip, port))),
        Err(_) => backends.position(|backend| backend.host.eq_ignore_ascii_case(host) && backend.port == port),
    };
    place.map(Target::Backend)
}
