//! Groups of replicas: whether a session goes through to another process, or is routed anew in this one.

use std::sync::{Arc, Weak};

use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{Approach, Found, Router, Table, Target, Way};
use crate::config::Config;
use crate::imap::sasl::Credential;
use crate::platform;
use crate::residence::{Entered, Residence, Wanted};
use crate::upstream::backend::Backend;

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

/// Whether a replica refuses a session because its account is going to another one.
#[must_use]
pub fn is_on_its_way(reply: &str) -> bool {
    reply.ends_with(super::RETURNING)
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
    /// Whether a session that has come to this replica may go on here; and whether its account is another one's, by all
    /// that is known here: whoever has sent it knows better, perhaps.
    /// `name`: what whoever sent it went by.
    pub(super) fn admit_at_replica<'t>(
        &self,
        table: &Table,
        (name, key): (&[u8], &[u8]),
        listener: &str,
    ) -> Result<bool, Found<'t>> {
        let Some(relay) = table.relays.iter().find(|relay| relay.inner == listener && relay.here.is_some()) else {
            return Ok(false);
        };
        let within = table.groups[relay.group].check.settles_within();
        // As long as others may have accounts that were this process's before it was started again.
        if Instant::now() < self.started + within {
            return Err(Found::Later(Some(self.started + within)));
        }
        let Some(home) = table.home(Target::Group(relay.group), name).filter(|home| Some(*home) != relay.here) else {
            return Ok(false);
        };
        if self.residences.visited(key).is_some_and(|at| !table.is_replica(at)) {
            // Its sessions here go on, and others beside them.
            return Ok(false);
        }
        let backend = &table.backends[home];
        // Who cannot reach it, or has not heard of it yet, may send it here still: the next check tells more.
        if backend.was_well() || backend.back_for().is_some_and(|time| time < within) {
            return Err(Found::Way(Way::Unavailable(super::RETURNING)));
        }
        Ok(true)
    }

    /// Whether this process is one of several replicas.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.table.load().relays.iter().any(|relay| relay.here.is_some())
    }

    /// Whether the backend of this index is down, by all that is known of it.
    #[must_use]
    pub fn is_down(&self, index: usize) -> bool {
        let table = self.table.load();
        table.backends.iter().any(|backend| backend.index == index && backend.down_for().is_some())
    }

    /// Waits for the end of a check, which may tell more; false: it is too late.
    pub async fn has_looked_again(&self, deadline: Instant) -> bool {
        timeout_at(deadline, self.noticed.notified()).await.is_ok()
    }

    /// A check has ended. A replica that is there has its accounts: whoever has them meanwhile lets go of them. After
    /// it was away, that is before others send anybody there, which needs further checks.
    pub(super) fn has_checked(&self, backend: &Backend) {
        self.noticed.notify_waiters();
        let table = self.table.load();
        if !table.is_replica(backend.index) {
            return;
        }
        if !backend.was_well() {
            // Whoever goes through to one that is down hears it, however silent that is.
            if backend.down_for().is_some() {
                let all = self.residences.all();
                let there = all.iter().filter(|residence| residence.backend() == backend.index);
                there.for_each(|residence| Self::end(&table, residence, "its replica is down"));
            }
            return;
        }
        let is_its = |residence: &Arc<Residence>| {
            let by = residence.by().0;
            let relay = table.relays.iter().find(|relay| relay.inner == by && relay.here.is_some());
            let home = relay.and_then(|relay| table.home(Target::Group(relay.group), residence.name()));
            let home = home.filter(|home| relay.is_some_and(|relay| Some(*home) != relay.here));
            home.is_some_and(|home| table.backends[home].index == backend.index)
        };
        let lent: Vec<_> = if backend.is_returning() {
            self.residences.all()
        } else {
            let mut lent = self.lent.lock();
            lent.retain(|residence| residence.strong_count() > 0);
            lent.iter().filter_map(Weak::upgrade).collect()
        };
        for residence in lent.iter().filter(|residence| is_its(residence)) {
            Self::end(&table, residence, "its replica has it again");
        }
    }

    /// Where an account goes that belongs to a group of replicas; `None`: it does not.
    pub(super) fn enter_replica<'t>(
        &self,
        table: &'t Table,
        (name, key): (&[u8], &[u8]),
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
        let all: Vec<_> = routes.members(target).collect();
        let members: Vec<_> = all.iter().copied().filter(|place| table.may_stay(*place)).collect();
        let here = relay.here.filter(|here| members.contains(here));
        let others: Vec<_> = members.iter().filter(|place| Some(**place) != here).map(|place| index(*place)).collect();
        let choice = table.choice(target, key);
        let home = table.home(target, key);
        if home.is_some_and(|home| Some(home) != relay.here && table.backends[home].is_returning()) {
            // The one that has it has let go of it, or is about to.
            return Some(Found::Later(None));
        }
        // While it has sessions, it stays where it is: here, if that is no replica.
        let away = self.residences.visited(key).filter(|at| others.contains(at));
        if here.is_some() {
            let is_replica = |at: &usize| all.iter().any(|place| index(*place) == *at);
            let is_here = self.residences.visited(key).is_some_and(|at| !is_replica(&at));
            if is_here || (choice == here && away.is_none()) {
                return Some(Found::Here(Arc::clone(credential), &relay.inner));
            }
        }
        let wanted = Wanted {
            key,
            name,
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
