//! Which backend an account's sessions go to: rules, the first of which that fits decides.
//!
//! A rule leads to a backend, to a group of equal ones, of which [`rendezvous`] picks one, to nobody, or to somebody
//! who is asked elsewhere. What is decided here depends on nothing but the configuration and what is asked.

pub mod first;
pub mod health;
pub mod map;
pub mod name;
pub mod rendezvous;

use std::sync::Arc;

use self::map::Map;
use self::name::{Names, Pattern};

/// Where a rule leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To this backend, by its place in [`Routes::backends`].
    Backend(usize),
    /// To one of this group, by its place in [`Routes::groups`].
    Group(usize),
    /// To none: the name is refused.
    Nobody,
}

/// Where a rule has its answer from.
#[derive(Debug, Clone)]
pub enum Source {
    /// It is the same for all.
    Fixed(Target),
    /// A file says it; for a name that is not in it, the next rule is asked.
    Map(Arc<Map>),
    /// Somebody else has to be asked.
    Lookup,
}

/// Says where the sessions go for which everything in it holds. An empty list holds for all.
#[derive(Debug, Clone)]
pub struct Rule {
    /// Whose mail it is.
    pub users: Vec<Pattern>,
    /// Names of the listeners that they came by.
    pub listeners: Vec<String>,
    /// Names that the client called this host by in TLS (SNI, RFC 6066 section 3): `mail.example.org`, or
    /// `*.example.org` for all below.
    pub server_names: Vec<String>,
    /// Where they go.
    pub source: Source,
}

/// A backend, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, by which the hash goes.
    pub name: String,
    /// The group it is in, by its place in [`Routes::groups`].
    pub group: Option<usize>,
    /// Its share of the group's accounts, in proportion to the others'. Zero: it gets no new ones.
    pub weight: u32,
}

/// What a session asks before it logs in.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Whose mail it wants, by [`Names::key`].
    pub key: &'a [u8],
    /// The listener that it came by.
    pub listener: &'a str,
    /// What it called this host in TLS.
    pub server_name: Option<&'a str>,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'r> {
    /// Where it goes.
    Goes(Route<'r>),
    /// The source of this rule has to be asked. What it says, holds: no other rule is looked at.
    Ask(usize),
}

/// What says where a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The account was moved by hand.
    Move,
    /// A rule, by its place.
    Rule(usize),
    /// No rule.
    Default,
}

/// Where a session goes, and what says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route<'r> {
    /// What says so.
    pub by: By,
    /// The line of its file, counted from 1.
    pub line: Option<u32>,
    /// Where it goes.
    pub target: Target,
    /// The name to log in by, where it is another than the client's.
    pub login: Option<&'r [u8]>,
}

/// All rules, and what they lead to.
#[derive(Debug, Clone)]
pub struct Routes {
    /// How a user's name becomes the key.
    pub names: Names,
    /// Where accounts were moved by hand, whatever the rules say.
    pub moves: Option<Arc<Map>>,
    /// The first that fits decides.
    pub rules: Vec<Rule>,
    /// Where those go for whom none fits.
    pub default: Target,
    /// In the order of the configuration.
    pub backends: Vec<Member>,
    /// Names of the groups.
    pub groups: Vec<String>,
    /// Groups of replicas, by their places in `groups`: what is routed there is routed again by the replica.
    pub relays: Vec<usize>,
}

impl Routes {
    /// The first rule that has an answer for a session; and where the account was moved to, whatever that says.
    #[must_use]
    pub fn step(&self, asked: &Asked<'_>) -> Step<'_> {
        match self.ruled(asked) {
            Step::Goes(route) => Step::Goes(self.moved(asked.key, route)),
            ask @ Step::Ask(_) => ask,
        }
    }

    /// Where somebody goes whom the rules lead there: the same, if the account was not moved by hand. It keeps the name
    /// that it logs in by.
    #[must_use]
    pub fn moved<'r>(&'r self, key: &[u8], route: Route<'r>) -> Route<'r> {
        let moved = self.moves.as_ref().and_then(|moves| {
            let account = route.login.and_then(|login| moves.get(&self.names.key(login, b""), By::Move));
            account.or_else(|| moves.get(key, By::Move))
        });
        let Some(moved) = moved else { return route };
        let is_relayed = |target| self.relay_of(target).is_some();
        // To a replica, or from there to a server: whichever the rules decide of here.
        if moved.target != Target::Nobody && is_relayed(route.target) != is_relayed(moved.target) {
            return route;
        }
        Route { login: moved.login.or(route.login), ..moved }
    }

    /// The name that one of the files gives whoever asks by this key, to log in by.
    #[must_use]
    pub fn login_of(&self, key: &[u8]) -> Option<&[u8]> {
        let mut found = self.rules.iter().filter_map(|rule| match &rule.source {
            Source::Map(map) => map.get(key, By::Default),
            Source::Fixed(_) | Source::Lookup => None,
        });
        found.next()?.login
    }

    /// What the rules say, whoever was moved by hand.
    fn ruled(&self, asked: &Asked<'_>) -> Step<'_> {
        for (place, rule) in self.rules.iter().enumerate().filter(|(_, rule)| rule.fits(asked)) {
            let by = By::Rule(place);
            return match &rule.source {
                Source::Fixed(target) => Step::Goes(Route { by, line: None, target: *target, login: None }),
                Source::Lookup => Step::Ask(place),
                Source::Map(map) => match map.get(asked.key, by) {
                    Some(route) => Step::Goes(route),
                    None => continue,
                },
            };
        }
        Step::Goes(Route { by: By::Default, line: None, target: self.default, login: None })
    }

    /// The group of replicas that a target is, or is in.
    #[must_use]
    pub fn relay_of(&self, target: Target) -> Option<usize> {
        let group = match target {
            Target::Backend(place) => self.backends[place].group,
            Target::Group(group) => Some(group),
            Target::Nobody => None,
        };
        group.filter(|group| self.relays.contains(group))
    }

    /// The backend or group of this name.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<Target> {
        let backend = self.backends.iter().position(|backend| backend.name == name).map(Target::Backend);
        backend.or_else(|| self.groups.iter().position(|group| group == name).map(Target::Group))
    }

    /// Whether names of backends and groups mean the same here as there.
    #[must_use]
    pub fn has_targets_of(&self, other: &Self) -> bool {
        let names = |all: &'_ Self| all.backends.iter().map(|backend| backend.name.clone()).collect::<Vec<_>>();
        names(self) == names(other) && self.groups == other.groups
    }

    /// The backends that a target may mean.
    pub fn members(&self, target: Target) -> impl Iterator<Item = usize> + '_ {
        (0..self.backends.len()).filter(move |place| match target {
            Target::Backend(backend) => backend == *place,
            Target::Group(group) => self.backends[*place].group == Some(group),
            Target::Nobody => false,
        })
    }

    /// The backend for an account, where the members of groups have the weights that `weight` says by their places.
    /// `None`: the target is nobody, or a group in which nobody takes new accounts.
    pub fn backend(&self, target: Target, key: &[u8], weight: impl Fn(usize) -> u32) -> Option<usize> {
        match target {
            Target::Backend(backend) => Some(backend),
            Target::Group(_) => {
                let shares = self.members(target).map(|place| (self.backends[place].name.as_str(), weight(place)));
                self.members(target).nth(rendezvous::pick(key, shares)?)
            }
            Target::Nobody => None,
        }
    }

    /// The backends that sessions of a listener (of any, without one) may come to, in the order of the configuration.
    #[must_use]
    pub fn within_reach(&self, listener: Option<&str>) -> Vec<usize> {
        let of_all = |rule: &Rule| rule.listeners.is_empty();
        let rules = self.rules.iter().filter(|rule| of_all(rule) || listener.is_none_or(|name| rule.is_for(name)));
        let mut all = vec![false; self.backends.len()];
        let mut mark = |target| self.members(target).for_each(|place| all[place] = true);
        let mut open = true;
        for rule in rules {
            match &rule.source {
                Source::Fixed(target) => mark(*target),
                Source::Map(map) => map.targets().iter().for_each(|target| mark(*target)),
                // It may name any of them.
                Source::Lookup => (0..self.backends.len()).for_each(|place| mark(Target::Backend(place))),
            }
            // Nothing gets past a rule for everybody.
            let is_for_all = rule.users.is_empty() && rule.server_names.is_empty();
            open &= !is_for_all || matches!(rule.source, Source::Map(_)) || (listener.is_none() && !of_all(rule));
            if !open {
                break;
            }
        }
        if open {
            mark(self.default);
        }
        self.moves.iter().flat_map(|moves| moves.targets()).for_each(|target| mark(*target));
        (0..all.len()).filter(|place| all[*place]).collect()
    }
}

impl Rule {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let of_user = self.users.is_empty() || self.users.iter().any(|pattern| pattern.matches(asked.key));
        let of_listener = self.listeners.is_empty() || self.is_for(asked.listener);
        let of_name = |name: &str| self.server_names.iter().any(|wanted| is_server_name(wanted, name));
        of_user && of_listener && (self.server_names.is_empty() || asked.server_name.is_some_and(of_name))
    }

    fn is_for(&self, listener: &str) -> bool {
        self.listeners.iter().any(|wanted| wanted == listener)
    }
}

/// Whether a name is the wanted one, or below `*.` of it.
fn is_server_name(wanted: &str, name: &str) -> bool {
    let name = name.trim_end_matches('.');
    match wanted.strip_prefix('*') {
        Some(parent) => {
            let cut = name.len().checked_sub(parent.len()).filter(|cut| *cut > 0 && name.is_char_boundary(*cut));
            cut.is_some_and(|cut| name[cut..].eq_ignore_ascii_case(parent))
        }
        None => name.eq_ignore_ascii_case(wanted),
    }
}

#[cfg(test)]
mod tests;
