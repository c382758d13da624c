//! Groups of replicas: what their members and their inner listener must have, and that no session goes in a circle.

use std::num::NonZeroU32;
use std::time::Duration;

use super::sections::{Placed, Scene};
use super::{Backend, Check, Group, GroupMode, Listener, Pool, Route, Routing};

/// From one check of a replica to the next.
pub(super) const LONGEST_INTERVAL: Duration = Duration::from_secs(10);
/// A replica that has come back is up for so many intervals of its checks before the others let go of its accounts.
const STEADY: u32 = 10;
/// How long that may take them: a command that runs, what is still to come of it, and the connections' goodbyes.
const LETTING_GO: Duration = Duration::from_secs(15);

/// Notes what keeps groups that relay from working.
pub(super) fn check(scene: &Scene<'_>, routes: &[Placed<'_, Route>], routing: &Placed<'_, Routing>) {
    for group in scene.groups.iter().filter(|group| group.it.relays()) {
        members_tell_the_client(scene, &group.it);
        let is_inner = |listener: &&Placed<'_, Listener>| group.it.inner.as_ref() == Some(&listener.it.name);
        if let Some(inner) = scene.listeners.iter().find(is_inner) {
            inner_believes_members(inner);
            inner_leads_elsewhere(scene, inner, routes, routing);
        }
    }
    if let Some(replica) = &routing.it.replica
        && !scene.backends.iter().any(|backend| backend.it.name == *replica && scene.is_replica(&backend.it))
    {
        let remedy = "no backend of this name is in a group with mode = \"relay\": write the name of one that is";
        routing.section.refuse_name("replica", replica, remedy);
    }
}

/// Else all clients would have the address of a replica, and one who guesses passwords would slow down all.
fn members_tell_the_client(scene: &Scene<'_>, group: &Group) {
    let members = scene.backends.iter().filter(|backend| backend.it.group.as_ref() == Some(&group.name));
    for member in members.filter(|member| !member.it.send_proxy) {
        let remedy = "it is a replica, which has to be told the addresses of clients: add the line send_proxy = true";
        member.section.missing("send_proxy", "name", remedy);
    }
}

fn inner_believes_members(inner: &Placed<'_, Listener>) {
    if inner.it.proxy_protocol_from.is_empty() {
        let remedy = "replicas come by this listener, and tell the addresses of clients: name the networks that they \
                      are in, such as [\"10.0.0.0/8\"]";
        inner.section.missing("proxy_protocol_from", "name", remedy);
    }
}

/// As far as the file says; what other files and services say is seen when it is asked.
fn inner_leads_elsewhere(
    scene: &Scene<'_>,
    inner: &Placed<'_, Listener>,
    routes: &[Placed<'_, Route>],
    routing: &Placed<'_, Routing>,
) {
    let name = &inner.it.name;
    let circle = format!("sessions of the listener \"{name}\" would go from replica to replica");
    for route in routes.iter().filter(|route| route.it.listeners.is_empty() || route.it.listeners.contains(name)) {
        if let Some(to) = route.it.to.as_ref().filter(|to| scene.is_relayed(to)) {
            let remedy = format!("{circle}: have this route be for the other listeners only, by listeners = […]");
            route.section.refuse_name("to", to, &remedy);
        }
        // Nobody gets past it.
        if route.it.users.is_empty() && route.it.server_names.is_empty() && route.it.file.is_none() {
            return;
        }
    }
    match &routing.it.default {
        Some(default) if scene.is_relayed(default) => {
            let remedy =
                format!("{circle}: write where they go, and add a route to this group for the other listeners");
            routing.section.refuse_name("default", default, &remedy);
        }
        None if scene.backends.first().is_some_and(|first| scene.is_replica(&first.it)) => {
            let why = format!("the first backend is a replica, and {circle}");
            inner.section.fault("name", format!("`routing.default` is missing: {why}: say where they go instead"));
        }
        _ => {}
    }
}

impl Group {
    /// Whether its backends are replicas of this imapool.
    #[must_use]
    pub fn relays(&self) -> bool {
        self.mode == GroupMode::Relay
    }

    /// After how long the others take over from a member that is down; `None`: never. Replicas do at once.
    #[must_use]
    pub fn takes_over_after(&self) -> Option<Duration> {
        self.failover_after.or(self.relays().then_some(Duration::ZERO))
    }
}

impl Check {
    /// Of replicas, where nothing else is said: they lose no time.
    pub(super) fn of_replicas() -> Self {
        let (failures, successes) = (NonZeroU32::MIN.saturating_add(1), NonZeroU32::MIN.saturating_add(2));
        Self { interval: Duration::from_millis(500), failures, successes, ..Self::default() }
    }

    /// The longest that one may take.
    #[must_use]
    pub fn limit(&self) -> Duration {
        self.interval.max(Duration::from_secs(1))
    }

    /// How long after a replica has begun to serve nobody is left who has found out just now that it was not there:
    /// what was begun before that has ended.
    #[must_use]
    pub fn notices_within(&self) -> Duration {
        self.limit().saturating_add(self.interval)
    }

    /// For how long a replica that has come back has to be up before it gets its accounts back.
    #[must_use]
    pub fn steady_after(&self) -> Duration {
        self.interval.saturating_mul(STEADY)
    }

    /// How long after a replica has begun to serve all others have let go of its accounts, whom it can reach and who
    /// can reach it.
    #[must_use]
    pub fn settles_within(&self) -> Duration {
        let checks = self.interval.saturating_mul(self.successes.get().saturating_add(STEADY + 1));
        self.notices_within().saturating_add(self.limit()).saturating_add(checks).saturating_add(LETTING_GO)
    }
}

impl Pool {
    /// What one of `replicas` takes of a limit that they share: at least one.
    #[must_use]
    pub fn part_of(&self, limit: usize) -> usize {
        limit.div_ceil(self.replicas.max(1)).max(1)
    }
}

impl Scene<'_> {
    /// Whether a backend is in a group that relays.
    pub(super) fn is_replica(&self, backend: &Backend) -> bool {
        let is_its = |group: &&Placed<'_, Group>| backend.group.as_ref() == Some(&group.it.name);
        self.groups.iter().find(is_its).is_some_and(|group| group.it.relays())
    }

    /// Whether a name is that of a group that relays, or of a backend in one.
    fn is_relayed(&self, name: &str) -> bool {
        self.groups.iter().any(|group| group.it.name == name && group.it.relays())
            || self.backends.iter().any(|backend| backend.it.name == name && self.is_replica(&backend.it))
    }
}
