//! What routes, groups and accounts say in vain.

use imapool_proto::routing::first::First;
use imapool_proto::routing::name::{Names, Pattern};

use super::super::{Backend, Config, Group, Route};
use super::is_near;

pub(super) fn of(config: &Config) -> Vec<String> {
    let names = config.routing.names();
    let routes = config.routes.iter().enumerate();
    let alone = config.backends.iter().filter(|backend| is_weighed_alone(backend)).map(|backend| {
        let name = &backend.name;
        format!(
            "backend \"{name}\" has a weight, but is in no group, where alone it counts: write group, or delete the line"
        )
    });
    let empty = config.groups.iter().filter(|group| takes_nobody(group, &config.backends)).map(|group| {
        let name = &group.name;
        format!(
            "group \"{name}\" takes no new accounts, because each of its backends has weight = 0: give one of them a \
             weight"
        )
    });
    let lookups = routes.flat_map(|(place, route)| of_lookup(place, route));
    let shadowed = shadowed_routes(config, &names).into_iter().chain(shadowed_accounts(config, &names));
    alone.chain(empty).chain(lookups).chain(shadowed).collect()
}

/// A weight that is the default is told by nobody from one that is not there.
fn is_weighed_alone(backend: &Backend) -> bool {
    backend.group.is_none() && backend.weight != Backend::new("localhost", 143).weight
}

fn takes_nobody(group: &Group, backends: &[Backend]) -> bool {
    backends.iter().filter(|backend| backend.group.as_ref() == Some(&group.name)).all(|backend| backend.weight == 0)
}

fn of_lookup(place: usize, route: &Route) -> Option<String> {
    let name = of_place("route", place);
    let Some(url) = &route.http else {
        let keys = in_vain(route).join(", ");
        return (!keys.is_empty())
            .then(|| format!("{name} has no http, for which alone there is {keys}: delete the line"));
    };
    let url: hyper::Uri = url.parse().ok()?;
    let host = url.host()?.trim_matches(['[', ']']);
    let is_told = route.send_password && !is_near(host);
    is_told.then(|| {
        format!(
            "{name} sends passwords in the clear to {host}: run the service on this host, or write send_password = \
             false, unless the network between is trusted"
        )
    })
}

/// Keys of a lookup that are otherwise than by default.
fn in_vain(route: &Route) -> Vec<&'static str> {
    let usual = Route::default();
    let keys = [
        ("timeout", route.timeout != usual.timeout),
        ("ttl", route.ttl != usual.ttl),
        ("negative_ttl", route.negative_ttl != usual.negative_ttl),
        ("stale", route.stale != usual.stale),
        ("headers", !route.headers.is_empty()),
        ("send_password", route.send_password),
    ];
    keys.into_iter().filter_map(|(key, is_said)| is_said.then_some(key)).collect()
}

/// `route 3`
fn of_place(kind: &str, place: usize) -> String {
    format!("{kind} {}", place + 1)
}

fn patterns(users: &[String], names: &Names) -> Vec<Pattern> {
    users.iter().filter_map(|user| Pattern::parse(user, names).ok()).collect()
}

/// Those before which another stands that fits whenever they do, and passes nobody on.
fn shadowed_routes(config: &Config, names: &Names) -> Vec<String> {
    let everywhere: Vec<_> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    let users: Vec<_> = config.routes.iter().map(|route| patterns(&route.users, names)).collect();
    let has_all = |earlier: usize, later: usize| {
        let (one, other) = (&config.routes[earlier], &config.routes[later]);
        let of_users = users[earlier].is_empty()
            || (!users[later].is_empty()
                && users[later].iter().all(|user| users[earlier].iter().any(|known| known.covers(user))));
        let at: Vec<_> = other.listeners.iter().map(String::as_str).collect();
        let at = if at.is_empty() { &everywhere } else { &at };
        let at_listeners = one.listeners.is_empty() || at.iter().all(|name| one.listeners.iter().any(|it| it == name));
        let known = |name: &String| one.server_names.iter().any(|known| known.eq_ignore_ascii_case(name));
        let as_host =
            one.server_names.is_empty() || (!other.server_names.is_empty() && other.server_names.iter().all(known));
        of_users && at_listeners && as_host
    };
    let passes_on = |place: usize| config.routes[place].file.is_some();
    let shadow = |later| (0..later).find(|earlier| !passes_on(*earlier) && has_all(*earlier, later));
    let shadowed = (0..config.routes.len()).filter_map(|place| Some((place, shadow(place)?)));
    shadowed.map(|(place, by)| shadow_of("route", place, by)).collect()
}

/// Those all of whose users are another's that stands before them.
fn shadowed_accounts(config: &Config, names: &Names) -> Vec<String> {
    let (mut earlier, mut shadowed) = (First::default(), Vec::new());
    for (place, account) in config.accounts.iter().enumerate() {
        let users = patterns(&account.users, names);
        let by: Option<Vec<_>> = users.iter().map(|user| earlier.covering(user)).collect();
        if let Some(last) = by.and_then(|by| by.into_iter().max()) {
            shadowed.push(shadow_of("account", place, last));
        }
        earlier.add(place, users);
    }
    shadowed
}

fn shadow_of(kind: &str, place: usize, by: usize) -> String {
    let [what, by] = [place, by].map(|place| of_place(kind, place));
    format!("{what} never counts: whoever it is for, {by} or one before that has already. Move it up, or delete it")
}
