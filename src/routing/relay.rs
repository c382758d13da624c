//! Groups of replicas: whether a session goes through to another process, or is routed anew in this one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use super::{Found, Router, Table, Target, Way, rendezvous};
use crate::config::{self, Config};
use crate::imap::capability::{FREE, Front};
use crate::imap::sasl::Credential;
use crate::platform;
use crate::residence::{Residence, Wanted, push};
use crate::upstream::backend::Backend;

/// One group of replicas.
#[derive(Debug, Clone)]
pub(super) struct Relay {
    /// Its place among the groups.
    group: usize,
    /// The listener by which its members are reached.
    inner: String,
    /// The place of the backend that is this process.
    here: Option<usize>,
    /// What decides which of them has an account: the name and weight of each, and which is this one.
    shares: (Shares, Option<String>),
    settling: Arc<Settling>,
}

/// Others may have accounts that are this process's since then: it lets none in that it has not, until they say that
/// they have none.
#[derive(Debug)]
pub(super) struct Settling {
    since: Mutex<Instant>,
    over: AtomicBool,
    /// One is not among them any more, and may hold accounts: nobody asks it.
    blind: bool,
    /// What has decided since this process had all of its accounts; empty: it had not, or that is long ago.
    before: Vec<Shares>,
}

/// So many lists are known that came one after the other before this process had all of its accounts.
const MOST_LISTS: usize = 16;

/// The name and weight of each.
type Shares = Vec<(String, usize)>;

impl Settling {
    fn begin(blind: bool, before: Vec<Shares>) -> Arc<Self> {
        Arc::new(Self { since: Mutex::new(Instant::now()), over: AtomicBool::new(false), blind, before })
    }
}

impl Relay {
    /// Which of them it is.
    fn own(&self) -> Option<&str> {
        self.shares.1.as_deref()
    }

    /// What another list of replicas begins.
    fn after(&self, earlier: &Self, table: &Table) -> Arc<Settling> {
        let (now, before) = (&self.shares.0, &earlier.shares.0);
        let is_left = |name: &str| !now.iter().any(|(known, _)| known == name) && Some(name) != self.own();
        let is_there = |name: &str| {
            let backend = table.backends.iter().find(|backend| backend.config.name == name);
            backend.is_some_and(|backend| backend.down_for().is_none())
        };
        let settled = table.settles(earlier).is_none();
        let blind = before.iter().any(|(name, _)| is_left(name) && is_there(name));
        let mut had = if settled { Vec::new() } else { earlier.settling.before.clone() };
        // Whoever was not settled and had nothing has nothing, whatever comes after.
        if earlier.own() == self.own() && (settled || !had.is_empty()) && had.len() < MOST_LISTS {
            had.push(before.clone());
        } else {
            had.clear();
        }
        Settling::begin(blind || (earlier.settling.blind && !settled), had)
    }

    /// An account was this process's before, and has been since, whatever list held.
    fn had(&self, key: &[u8]) -> bool {
        let is_own = |before: &Shares| {
            let shares = before.iter().map(|(name, weight)| (&**name, u32::try_from(*weight).unwrap_or(u32::MAX)));
            rendezvous::pick(key, shares).is_some_and(|place| Some(&*before[place].0) == self.own())
        };
        !self.settling.before.is_empty() && self.settling.before.iter().all(is_own)
    }
}

/// Those of a configuration; at the start and with each reload it is told if this process is none of a group.
pub(super) fn relays(config: &Config) -> Vec<Relay> {
    let own = config.routing.replica.clone().or_else(host_name).unwrap_or_default();
    let mut relays = Vec::new();
    for (place, group) in config.groups.iter().enumerate() {
        let Some(inner) = group.inner.clone().filter(|_| group.relays()) else { continue };
        let is_member = |backend: &&config::Backend| backend.group.as_ref() == Some(&group.name);
        let here = config.backends.iter().position(|backend| backend.name == own && is_member(&backend));
        if here.is_none() {
            warn!(
                group = group.name,
                replica = own,
                "this process is none of the group's replicas (routing.replica): \
                   all of its sessions go to others"
            );
        }
        let members = config.backends.iter().filter(is_member);
        let mut shares: Vec<_> = members.map(|backend| (backend.name.clone(), backend.weight)).collect();
        shares.sort();
        let shares = (shares, here.map(|here| config.backends[here].name.clone()));
        relays.push(Relay { group: place, inner, here, shares, settling: Settling::begin(false, Vec::new()) });
    }
    relays
}

/// Up to its first dot.
fn host_name() -> Option<String> {
    platform::host_name()?.split('.').next().map(str::to_owned)
}

/// What is offered at an inner listener by who holds nothing of the replica of this name.
fn free(replica: &str) -> String {
    format!("{FREE}{}", utf8_percent_encode(replica, NON_ALPHANUMERIC))
}

/// Whether a replica refuses a session because its account is going to another one.
#[must_use]
pub fn is_on_its_way(reply: &str) -> bool {
    reply.ends_with(super::RETURNING)
}

impl Table {
    /// The group that this target is, or is in, if it relays.
    pub(super) fn relay(&self, target: Target) -> Option<&Relay> {
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
        self.place_of(index).is_some_and(|place| self.book.routes.relay_of(Target::Backend(place)).is_some())
    }

    /// The group whose other replicas come to this process by this listener.
    fn inner(&self, listener: &str) -> Option<&Relay> {
        self.relays.iter().find(|relay| relay.inner == listener && relay.here.is_some())
    }

    /// Whether replicas came by this listener, and this process is none any more.
    pub(super) fn is_left(&self, listener: &str) -> bool {
        self.relays.iter().any(|relay| relay.inner == listener && relay.here.is_none())
    }

    /// The place of the other replica that has this account, which was asked for by an inner listener.
    fn other_home(&self, residence: &Residence) -> Option<usize> {
        let relay = self.inner(residence.by().0)?;
        self.choice(Target::Group(relay.group), &residence.name).filter(|home| Some(*home) != relay.here)
    }

    /// The place of the replica that has this account, which was asked for by an inner listener, if those that cannot
    /// be reached just now turn out to be down.
    fn heir_by(&self, listener: &str, key: &[u8]) -> Option<usize> {
        let relay = self.inner(listener)?;
        let is_well = |place: usize| Some(place) == relay.here || self.backends[place].was_well();
        let weight = |place: usize| if is_well(place) { self.weight(place) } else { 0 };
        self.book.routes.backend(Target::Group(relay.group), key, weight)
    }

    /// Others may have accounts that are this process's: until then at most, and not longer than until they have said
    /// that they have none, or are down.
    fn settles(&self, relay: &Relay) -> Option<Instant> {
        let here = relay.here.filter(|_| !relay.settling.over.load(Ordering::Acquire))?;
        let (check, since) = (&self.groups[relay.group].check, *relay.settling.since.lock());
        let (least, most, now) = (since + check.notices_within(), since + check.settles_within(), Instant::now());
        if now < least {
            return Some(least);
        }
        let free = free(&self.backends[here].config.name);
        let may_hold = |place: usize| {
            let backend = &self.backends[place];
            place != here && backend.down_for().is_none() && !backend.has_told(&free, least)
        };
        let mut others = self.book.routes.members(Target::Group(relay.group));
        if now < most && (relay.settling.blind || others.any(may_hold)) {
            return Some(most);
        }
        relay.settling.over.store(true, Ordering::Release);
        None
    }

    /// As [`Table::choice`]; while others have this process's accounts, the one that has this one.
    pub(super) fn choice_unsettled(&self, relay: &Relay, target: Target, key: &[u8]) -> Option<usize> {
        let choice = self.choice(target, key);
        if choice.is_none() || choice != relay.here || self.settles(relay).is_none() || relay.had(key) {
            return choice;
        }
        let weight = |place: usize| if Some(place) == relay.here { 0 } else { self.weight(place) };
        self.book.routes.backend(target, key, weight).or(choice)
    }

    /// What was begun by the table before goes on, where the same replicas have the same shares.
    pub(super) fn settles_as(&mut self, before: &Self) {
        for relay in &mut self.relays {
            let Some(earlier) = before.relays.iter().find(|it| it.inner == relay.inner) else { continue };
            relay.settling = match earlier.shares == relay.shares {
                true => Arc::clone(&earlier.settling),
                false => relay.after(earlier, before),
            };
        }
    }

    /// Tells the backends which of them is this process.
    pub(super) fn mark_local(&self) {
        for (place, backend) in self.backends.iter().enumerate() {
            backend.set_local(self.inner_of(place).is_some());
        }
    }
}

impl Router {
    /// Listeners are served from now on.
    pub fn begin(&self) {
        for relay in &self.table.load().relays {
            *relay.settling.since.lock() = Instant::now();
        }
    }

    /// The process ends: nobody is let in any more of whom other replicas ask.
    pub fn end_as_replica(&self) {
        self.ends.store(true, Ordering::Release);
    }

    /// Whether replicas come to this process by this listener.
    #[must_use]
    pub fn is_for_replicas(&self, listener: &str) -> bool {
        self.table.load().inner(listener).is_some()
    }

    /// What sessions of a listener are offered before login; the checks of other replicas, which come for nobody, also
    /// of which of them nothing is held here.
    #[must_use]
    pub fn offered(&self, listener: &str, front: Front, for_nobody: impl FnOnce() -> bool) -> Arc<str> {
        let table = self.table.load();
        let offered = table.offered(listener).before_login(front);
        let Some(relay) = table.inner(listener).filter(|_| for_nobody()) else { return offered };
        let others = table.book.routes.members(Target::Group(relay.group)).filter(|place| Some(*place) != relay.here);
        // Whoever takes something out of it, or puts it in, holds it.
        let lent = self.lent();
        // It is its replica's, or that one's who has it if its replica is down: others may know that already.
        let whose = |it: Arc<Residence>| [table.other_home(&it), table.heir_by(listener, &it.name)];
        let held: Vec<_> = lent.iter().filter_map(Weak::upgrade).flat_map(whose).flatten().collect();
        let is_free = |place: &usize| {
            table.may_stay(*place) && table.backends[*place].down_for().is_none() && !held.contains(place)
        };
        let words = others.filter(is_free).map(|place| format!(" {}", free(&table.backends[place].config.name)));
        format!("{offered}{}", words.collect::<String>()).into()
    }

    /// Those that are there still.
    fn lent(&self) -> parking_lot::MutexGuard<'_, Vec<Weak<Residence>>> {
        let mut lent = self.lent.lock();
        lent.retain(|residence| residence.strong_count() > 0);
        lent
    }

    /// Whether a session that has come to this replica may go on here; and whether its account is another one's, by all
    /// that is known here: whoever has sent it, by its name, knows better, perhaps.
    pub(super) fn admit_at_replica<'t>(&self, table: &Table, wanted: &Wanted<'_>) -> Result<bool, Found<'t>> {
        let Wanted { key, name, by: (listener, _), .. } = *wanted;
        let Some(relay) = table.relays.iter().find(|relay| relay.inner == listener) else { return Ok(false) };
        if relay.here.is_none() || self.ends.load(Ordering::Acquire) {
            return Err(Found::Way(Way::Unavailable(super::RETURNING)));
        }
        let found = self.residences.find(key);
        if found.is_some_and(|it| it.is_used() && !it.is_ending() && !table.is_replica(it.backend())) {
            // Its sessions go on, and others beside them.
            return Ok(false);
        }
        let home = table.choice(Target::Group(relay.group), name);
        if let Some(at) = table.settles(relay).filter(|_| home != relay.here || !relay.had(name)) {
            return Err(Found::Later(at));
        }
        let Some(home) = home.filter(|home| Some(*home) != relay.here) else { return Ok(false) };
        // Who cannot reach it may send it here still, if it is this process's then: the next check tells more.
        if table.backends[home].was_well() || table.heir_by(listener, name) != relay.here {
            return Err(Found::Way(Way::Unavailable(super::RETURNING)));
        }
        Ok(true)
    }

    /// False: it is another replica's account, and whoever was just let in did not know that yet.
    pub(super) fn is_still_here(&self, table: &Table, residence: &Arc<Residence>, is_lent: bool) -> bool {
        if is_lent {
            self.lend(table, residence);
        }
        is_lent || table.other_home(residence).is_none()
    }

    /// Accounts that are here, and another replica's by a new table: that one gets them when it is there.
    pub(super) fn lend(&self, table: &Table, residence: &Arc<Residence>) {
        if table.other_home(residence).is_some() {
            push(&mut self.lent.lock(), Arc::downgrade(residence));
        }
    }

    /// Whether this process is one of several replicas.
    #[must_use]
    pub fn is_replica(&self) -> bool {
        self.table.load().relays.iter().any(|relay| relay.here.is_some())
    }

    /// Whether a backend is where it was, whatever else a reload has changed of it.
    #[must_use]
    pub fn leads_to(&self, backend: &Backend) -> bool {
        let table = self.table.load();
        let everywhere = |place: usize| table.backends[place].config.everywhere();
        table.place_of(backend.index).is_some_and(|place| everywhere(place).eq(backend.config.everywhere()))
    }

    /// Whether the backend of this index is down, by all that is known of it.
    #[must_use]
    pub fn is_down(&self, index: usize) -> bool {
        let table = self.table.load();
        table.place_of(index).is_some_and(|place| table.backends[place].down_for().is_some())
    }

    /// Waits for the end of a check, which may tell more; false: it is too late.
    pub async fn has_looked_again(&self, deadline: Instant) -> bool {
        timeout_at(deadline, self.noticed.notified()).await.is_ok()
    }

    /// A check has ended. A replica that is there has its accounts: whoever has them meanwhile lets go of them. One
    /// that was away has to be up for a while before that: it may be about to go again.
    pub(super) fn has_checked(&self, backend: &Backend) {
        self.noticed.notify_waiters();
        let table = self.table.load();
        let Some(place) = table.place_of(backend.index) else { return };
        let Some(group) = table.group(place).filter(|group| group.relays()) else { return };
        if !backend.was_well() {
            // Whoever goes through to one that is down hears it, however silent that is.
            if backend.down_for().is_some() {
                let all = self.residences.all();
                let there = all.iter().filter(|residence| residence.backend() == backend.index);
                there.for_each(|residence| Self::end(&table, residence, "its replica is down"));
            }
            return;
        }
        let all = {
            let mut lent = self.lent();
            let steady = backend.back_for().is_some_and(|time| time >= group.check.steady_after());
            if steady {
                // Whoever is let in from now on sees that it is back; who was before is among these.
                backend.settle();
                let all = self.residences.all();
                lent.extend(all.iter().filter(|it| table.other_home(it) == Some(place)).map(Arc::downgrade));
            }
            lent.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        };
        for residence in all.iter().filter(|residence| table.other_home(residence) == Some(place)) {
            Self::end(&table, residence, "its replica has it again");
        }
    }

    /// Where an account may go that belongs to a group of replicas, if that is to another one; it is lent to nobody.
    pub(super) fn leave_for_replica<'t>(
        &self,
        table: &Table,
        relay: &'t Relay,
        target: Target,
        credential: &Arc<Credential>,
        wanted: &mut Wanted<'_>,
    ) -> Result<bool, Found<'t>> {
        let listener = wanted.by.0;
        if table.is_inner(listener) {
            warn!(
                listener,
                "a session that came from a replica would go to one again; what leads there has to be for \
                   other listeners"
            );
            return Err(Found::Way(Way::Unavailable("The replicas disagree on where this account belongs.")));
        }
        let index = |place: usize| table.backends[place].index;
        let here = relay.here.map(index).filter(|here| wanted.allowed.contains(here));
        wanted.allowed.retain(|at| Some(*at) != here);
        // While it has sessions, it stays where it is: here, if that is no replica.
        let visited = self.residences.visited(wanted.key);
        let away = visited.filter(|at| wanted.allowed.contains(at));
        if here.is_some() {
            let is_replica = |at| table.book.routes.members(target).any(|place| index(place) == at);
            let is_here = visited.is_some_and(|at| !is_replica(at));
            if is_here || (wanted.choice == here && away.is_none()) {
                return Err(Found::Here(Arc::clone(credential), &relay.inner));
            }
        }
        wanted.choice = away.or(wanted.choice);
        wanted.stay = Duration::ZERO;
        Ok(false)
    }
}
