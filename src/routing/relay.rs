//! Groups of replicas: whether a session goes through to another process, or is routed anew in this one.

use std::sync::Arc;

use tracing::warn;

use super::{Approach, Found, Router, Table, Target, Way};
use crate::config::Config;
use crate::imap::sasl::Credential;
use crate::platform;
use crate::residence::{Entered, Wanted};

/// One group of replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relay {
    /// Its place among the groups.
    group: usize,
    /// The listener by which its members are reached.
    inner: String,
    /// The place of the backend that is this process.
    here: Option<usize>,
}

/// Those of a configuration; at the start and with each reload it is told if this process is none of a group.
pub(super) fn relays(config: &Config) -> Vec<Relay> {
    let own = config.routing.replica.clone().or_else(host_name).unwrap_or_default();
    let mut relays = Vec::new();
    for (place, group) in config.groups.iter().enumerate() {
        let Some(inner) = group.inner.clone().filter(|_| group.relays()) else { continue };
        let is_here =
            |backend: &crate::config::Backend| backend.name == own && backend.group.as_ref() == Some(&group.name);
        let here = config.backends.iter().position(is_here);
        if here.is_none() {
            warn!(
                group = group.name,
                replica = own,
                "this process is none of the group's replicas (routing.replica): \
                   all of its sessions go to others"
            );
        }
        relays.push(Relay { group: place, inner, here });
    }
    relays
}

/// Up to its first dot.
fn host_name() -> Option<String> {
    platform::host_name()?.split('.').next().map(str::to_owned)
}

impl Table {
    /// The group that this target is, or is in, if it relays.
    fn relay(&self, target: Target) -> Option<&Relay> {
        let group = self.book.routes.relay_of(target)?;
        self.relays.iter().find(|relay| relay.group == group)
    }

    /// Whether replicas reach each other by this listener.
    fn is_inner(&self, listener: &str) -> bool {
        self.relays.iter().any(|relay| relay.inner == listener)
    }

    /// The listener by which sessions go on in this process that come to this backend.
    pub(super) fn inner_of(&self, place: usize) -> Option<&str> {
        self.relays.iter().find(|relay| relay.here == Some(place)).map(|relay| &*relay.inner)
    }

    /// Whether the backend of this index is a replica of this imapool.
    #[must_use]
    pub fn is_replica(&self, index: usize) -> bool {
        let place = self.backends.iter().position(|backend| backend.index == index);
        place.is_some_and(|place| self.book.routes.relay_of(Target::Backend(place)).is_some())
    }

    /// Tells the backends which of them is this process.
    pub(super) fn mark_local(&self) {
        for (place, backend) in self.backends.iter().enumerate() {
            backend.set_local(self.inner_of(place).is_some());
        }
    }
}

impl Router {
    /// Where an account goes that belongs to a group of replicas; `None`: it does not.
    pub(super) fn enter_replica<'t>(
        &self,
        table: &'t Table,
        key: &[u8],
        (target, login): (Target, Option<&[u8]>),
        credential: &Arc<Credential>,
        (listener, server_name): Approach<'_>,
    ) -> Option<Found<'t>> {
        let relay = table.relay(target)?;
        if table.is_inner(listener) {
            warn!(
                listener,
                "a session that came from a replica would go to one again; what leads there has to be for \
                   other listeners"
            );
            return Some(Found::Way(Way::Unavailable("The replicas disagree on where this account belongs.")));
        }
        let routes = &table.book.routes;
        let index = |place: usize| table.backends[place].index;
        let members: Vec<_> = routes.members(target).filter(|place| table.may_stay(*place)).collect();
        let here = relay.here.filter(|here| members.contains(here));
        let others: Vec<_> = members.iter().filter(|place| Some(**place) != here).map(|place| index(*place)).collect();
        let choice = table.choice(target, key);
        // While it has sessions, it stays where it is: here, if that is no replica.
        let away = self.residences.visited(key).filter(|at| others.contains(at));
        if here.is_some() {
            let key = routes.names.key(&credential.user, &credential.authzid);
            let is_here = self.residences.visited(&key).is_some_and(|at| !others.contains(&at));
            if is_here || (choice == here && away.is_none()) {
                return Some(Found::Here(Arc::clone(credential), &relay.inner));
            }
        }
        let wanted = Wanted {
            key,
            choice: away.or(choice.map(index)),
            free: matches!(target, Target::Group(_)),
            allowed: &others,
            stay: std::time::Duration::ZERO,
            login,
            listener,
            server_name,
        };
        Some(match self.residences.enter(&wanted) {
            Entered::At(visit) => Found::Way(Way::Relay(visit, Arc::clone(credential))),
            Entered::Elsewhere(residence) => Found::Elsewhere(residence),
            Entered::Nowhere => Found::Way(Way::Unavailable("No replica takes new accounts at the moment.")),
        })
    }
}
