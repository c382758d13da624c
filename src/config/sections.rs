//! The sections of the file, and the checks that need more than one key.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use toml::de::DeTable;

use super::error::Fault;
use super::read::{Reader, Section, Table};
use super::relay::{self, PlacedRoute, PlacedRouting};
use super::{
    Account, Admin, Auth, Backend, Check, Config, Group, Limits, ListenAddr, Listener, Log, Pool, Route, Routing,
    TlsMode, host_and_port, value,
};
use crate::files;
use imapool_proto::routing::name::{Names, Pattern};

/// For systems where no path is an address.
const NO_UNIX_SOCKETS: &str = "there are no Unix sockets on this system, write an IP address and a port";

/// A listener or backend, and where its name and its address are.
pub(super) struct Placed<T> {
    pub(super) it: T,
    pub(super) name_at: usize,
    address_at: usize,
}

/// What routes may name.
pub(super) struct Scene<'s> {
    pub(super) listeners: &'s [Placed<Listener>],
    pub(super) backends: &'s [Placed<Backend>],
    pub(super) groups: &'s [Placed<Group>],
}

impl Scene<'_> {
    /// Refuses a key that names neither a backend nor a group.
    fn check_target(&self, section: &mut Section<'_, '_>, key: &'static str, target: Option<&String>) {
        let Some(target) = target.filter(|target| !target.is_empty()) else { return };
        let backends = self.backends.iter().map(|placed| &placed.it.name);
        let known: Vec<_> = backends.chain(self.groups.iter().map(|placed| &placed.it.name)).collect();
        if !known.contains(&target) {
            section.refuse(key, there_is_no("backend and no group", &known));
        }
    }

    fn check_groups(&self, reader: &mut Reader<'_>) {
        for (place, group) in self.groups.iter().enumerate() {
            let backends = self.backends.iter().map(|it| (it.name_at, &it.it.name));
            let mut earlier = backends.chain(self.groups[..place].iter().map(|it| (it.name_at, &it.it.name)));
            if let Some((first, _)) = earlier.find(|(_, name)| **name == group.it.name) {
                let remedy = "routes name backends and groups alike, write another";
                duplicate(reader, "group.name", (first, group.name_at), format!("\"{}\"", group.it.name), remedy);
            }
        }
        for placed in self.backends {
            if let Some(group) = &placed.it.group
                && !self.groups.iter().any(|known| known.it.name == *group)
            {
                let remedy = format!("add a [[group]] with the line name = \"{group}\"");
                reader
                    .fault(placed.name_at, Fault::Missing { key: format!("group \"{group}\""), remedy: remedy.into() });
            }
        }
        for group in self.groups {
            if !self.backends.iter().any(|backend| backend.it.group.as_ref() == Some(&group.it.name)) {
                let remedy = "no backend is in it: write group in a [[backend]], or delete this section".into();
                let value = format!("\"{}\"", group.it.name);
                reader.fault(group.name_at, Fault::BadValue { key: "group.name".into(), value, remedy });
            }
        }
    }
}

fn there_is_no(what: &str, known: &[&String]) -> String {
    let known: Vec<_> = known.iter().map(|name| format!("\"{name}\"")).collect();
    format!("there is no {what} of this name, only {}", known.join(", "))
}

/// The whole file; `None`, with the reason noted, when something required is absent or wrong.
pub(super) fn config<'t>(reader: &mut Reader<'t>, root: &'t DeTable<'t>) -> Option<Config> {
    let mut top = reader.root(root);
    let listeners = top.tables("listener", "add a [[listener]] with a line such as address = \"127.0.0.1:1143\"");
    let backends = top.tables("backend", "add a [[backend]] with a line such as address = \"127.0.0.1:143\"");
    let [groups, routes, accounts] = ["group", "route", "account"].map(|key| top.any_tables(key));
    let [routing, pool, auth, limits, admin, log] =
        ["routing", "pool", "auth", "limits", "admin", "log"].map(|key| top.table(key));
    top.finish();

    let mut listeners: Vec<_> = listeners.into_iter().map(|table| read_listener(reader, table)).collect();
    let mut backends: Vec<_> = backends.into_iter().map(|table| read_backend(reader, table)).collect();
    let names: Vec<_> = listeners.iter().flatten().map(|placed| placed.it.name.clone()).collect();
    let groups: Vec<_> = groups.into_iter().map(|table| read_group(reader, table, &names)).collect();
    let pool = read_plain(reader.section("pool", pool), Pool::read);
    let auth = read_plain(reader.section("auth", auth), Auth::read);
    let limits = read_plain(reader.section("limits", limits), Limits::read);
    let (admin, admin_at) = read_admin(reader, admin);
    let log = read_plain(reader.section("log", log), Log::read);

    // What is missing here has left a fault behind, by which the whole file is refused.
    let complete = listeners.iter().all(Option::is_some)
        && backends.iter().all(Option::is_some)
        && groups.iter().all(Option::is_some);
    let groups: Vec<_> = groups.into_iter().flatten().collect();
    let listeners: Vec<_> = listeners.drain(..).flatten().collect();
    let backends: Vec<_> = backends.drain(..).flatten().collect();
    names_are_unique(reader, "listener.name", listeners.iter().map(|placed| (placed.name_at, &placed.it.name)));
    names_are_unique(reader, "backend.name", backends.iter().map(|placed| (placed.name_at, &placed.it.name)));
    let scene = Scene { listeners: &listeners, backends: &backends, groups: &groups };
    let routing = read_routing(reader, routing, &scene);
    let names = routing.it.names();
    let routes: Vec<_> = routes.into_iter().map(|table| read_route(reader, table, &scene, &names)).collect();
    let accounts = accounts.into_iter().filter_map(|table| read_account(reader, table, &names)).collect();
    scene.check_groups(reader);
    relay::check(reader, &scene, &routes, &routing);
    addresses_are_unique(reader, &listeners, admin.address.clone().map(|address| (admin_at, address)));
    no_backend_is_a_listener(reader, &scene);
    (complete && !listeners.is_empty() && !backends.is_empty()).then(|| Config {
        listeners: listeners.into_iter().map(|placed| placed.it).collect(),
        backends: backends.into_iter().map(|placed| placed.it).collect(),
        groups: groups.into_iter().map(|placed| placed.it).collect(),
        routing: routing.it,
        routes: routes.into_iter().map(|placed| placed.it).collect(),
        accounts,
        pool,
        auth,
        limits,
        admin,
        log,
    })
}

/// The section `[admin]` alone.
pub(super) fn admin<'t>(reader: &mut Reader<'t>, root: &'t DeTable<'t>) -> Admin {
    let table = reader.root(root).table("admin");
    read_admin(reader, table).0
}

fn read_listener<'t>(reader: &mut Reader<'t>, table: Table<'t>) -> Option<Placed<Listener>> {
    let mut section = reader.section("listener", Some(table));
    let address = section.required("address", "add a line such as address = \"127.0.0.1:1143\"", value::listen_address);
    // Without an address, read on: there may be more to tell.
    let defaults = Listener::new(address.clone().unwrap_or(ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))));
    let listener = defaults.read(&mut section);
    if listener.tls != TlsMode::None {
        let files = [("certificate", &listener.certificate), ("private_key", &listener.private_key)];
        for (key, file) in files {
            match file {
                Some(path) => section.must_be_readable(key, path, files::PEM),
                None if section.has(key) => {}
                None => {
                    let remedy = format!(
                        "tls = \"{}\" needs it, name a PEM file or write tls = \"none\"",
                        listener.tls.as_str()
                    );
                    section.missing(key, section.offset("tls"), remedy);
                }
            }
        }
        for path in &listener.certificates {
            section.must_be_there("certificates", path, files::CERTIFICATE);
        }
        if let Some(path) = &listener.client_ca_file {
            section.must_be_readable("client_ca_file", path, files::PEM);
        }
    }
    let has = section.system();
    if listener.reuse_port && !has.reuse_port {
        section.refuse("reuse_port", "two processes cannot share a port on this system, delete the line");
    }
    if matches!(listener.address, ListenAddr::Unix(_)) && !has.unix_sockets {
        section.refuse("address", NO_UNIX_SOCKETS);
    }
    if matches!(listener.address, ListenAddr::Unix(_)) && !listener.proxy_protocol_from.is_empty() {
        section.refuse("proxy_protocol_from", "the peers of a Unix socket have no address, delete the line");
    }
    let (name_at, address_at) = (section.offset("name"), section.offset("address"));
    section.finish();
    address.map(|_| Placed { it: listener, name_at, address_at })
}

fn read_backend<'t>(reader: &mut Reader<'t>, table: Table<'t>) -> Option<Placed<Backend>> {
    let mut section = reader.section("backend", Some(table));
    let address = section.required("address", "add a line such as address = \"127.0.0.1:143\"", value::host_and_port);
    let (host, port) = address.clone().unwrap_or_default();
    let backend = Backend::new(host, port).read(&mut section);
    check_source_addresses(&mut section, &backend);
    check_backend_files(&mut section, &backend);
    if backend.source_port_range.is_some() && !section.system().source_port_range {
        section.refuse("source_port_range", "only Linux can keep connections to a range of ports, delete the line");
    }
    let (name_at, address_at) = (section.offset("name"), section.offset("address"));
    section.finish();
    address.map(|_| Placed { it: backend, name_at, address_at })
}

fn check_backend_files(section: &mut Section<'_, '_>, backend: &Backend) {
    let pair = [("certificate", &backend.certificate), ("private_key", &backend.private_key)];
    for ((key, file), (other, _)) in pair.iter().zip(pair.iter().rev()) {
        if file.is_none() && section.has(other) && !section.has(key) {
            let remedy =
                format!("{other} is nothing without it, name a PEM file (it may be the same), or delete {other}");
            section.missing(key, section.offset(other), remedy);
        }
    }
    if backend.tls == TlsMode::None {
        return;
    }
    for (key, file) in pair.into_iter().chain([("ca_file", &backend.ca_file)]) {
        if let Some(path) = file {
            section.must_be_readable(key, path, files::PEM);
        }
    }
}

fn read_group<'t>(reader: &mut Reader<'t>, table: Table<'t>, listeners: &[String]) -> Option<Placed<Group>> {
    let mut section = reader.section("group", Some(table));
    let name = section.required("name", "add a line such as name = \"mail\"", value::name);
    let mut it = Group::new(name.clone().unwrap_or_default()).read(&mut section);
    if it.relays() && !section.has("check") {
        it.check = Check::of_replicas();
    }
    if it.relays() && it.check.successes == NonZeroU32::MIN {
        section.refuse("check", "a replica is not up at its first success: write successes = 2 or more");
    }
    if it.relays() && it.check.interval > relay::LONGEST_INTERVAL {
        let most = humantime::format_duration(relay::LONGEST_INTERVAL);
        let remedy = format!("accounts of a lost replica wait for the checks: write an interval of {most} or less");
        section.refuse("check", remedy);
    }
    if it.relays() && it.slow_start > Duration::ZERO {
        section.refuse("slow_start", "replicas would not agree whose an account is: delete the line");
    }
    if let Some(path) = &it.check.password_file {
        section.must_be_readable("check", path, files::TOKEN);
    }
    match &it.inner {
        None if it.relays() => {
            let remedy = "mode = \"relay\" needs it: name the listener by which the replicas reach each other";
            section.missing("inner", section.offset("mode"), remedy);
        }
        Some(_) if !it.relays() => {
            section.refuse("inner", "only a group with mode = \"relay\" has one, delete the line")
        }
        Some(inner) if !listeners.contains(inner) => {
            section.refuse("inner", there_is_no("listener", &listeners.iter().collect::<Vec<_>>()));
        }
        _ => {}
    }
    let name_at = section.offset("name");
    section.finish();
    name.map(|_| Placed { it, name_at, address_at: name_at })
}

fn read_routing<'t>(reader: &mut Reader<'t>, table: Option<Table<'t>>, scene: &Scene<'_>) -> PlacedRouting {
    let mut section = reader.section("routing", table);
    let routing = Routing::default().read(&mut section);
    scene.check_target(&mut section, "default", routing.default.as_ref());
    let (default_at, replica_at) = (section.offset("default"), section.offset("replica"));
    section.finish();
    PlacedRouting { it: routing, default_at, replica_at }
}

fn read_route<'t>(reader: &mut Reader<'t>, table: Table<'t>, scene: &Scene<'_>, names: &Names) -> PlacedRoute {
    const ONE: &str = "a route says where by one of `to`, `file` and `http`";
    let mut section = reader.section("route", Some(table));
    let route = Route::default().read(&mut section);
    scene.check_target(&mut section, "to", route.to.as_ref());
    check_users(&mut section, &route.users, names);
    let known: Vec<_> = scene.listeners.iter().map(|placed| &placed.it.name).collect();
    if route.listeners.iter().any(|name| !known.contains(&name)) {
        section.refuse("listeners", there_is_no("listener", &known));
    }
    if let Some(path) = &route.file {
        section.must_be_readable("file", path, files::MAP);
    }
    let given: Vec<_> = ["to", "file", "http"].into_iter().filter(|key| section.has(key)).collect();
    match given[..] {
        [] => section.missing("to", section.offset(""), ONE),
        [_] => {}
        [_, second, ..] => section.refuse(second, ONE),
    }
    let to_at = section.offset("to");
    section.finish();
    PlacedRoute { it: route, to_at }
}

/// `None`: it says for nobody what is otherwise, which is noted.
fn read_account<'t>(reader: &mut Reader<'t>, table: Table<'t>, names: &Names) -> Option<Account> {
    let mut section = reader.section("account", Some(table));
    let users = section.required("users", "add a line such as users = [\"@example.org\"]", value::users().read);
    let account = Account::new(users.clone().unwrap_or_default()).read(&mut section);
    if users.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("users", "name at least one account or domain, or delete this section");
    }
    check_users(&mut section, &account.users, names);
    section.finish();
    users.map(|_| account)
}

/// Refuses names that mean nobody.
fn check_users(section: &mut Section<'_, '_>, users: &[String], names: &Names) {
    if let Some(user) = users.iter().find(|user| Pattern::parse(user, names).is_err()) {
        let remedy = format!("\"{user}\" means no account: write a name, \"@\" and a domain, or \"@*.\" and a domain");
        section.refuse("users", remedy);
    }
}

fn check_source_addresses(section: &mut Section<'_, '_>, backend: &Backend) {
    let sources = &backend.source_addresses;
    if (1..sources.len()).any(|index| sources[..index].contains(&sources[index])) {
        section.refuse("source_addresses", "one address is there twice, keep one of the two");
    }
    if let Ok(host) = backend.host.parse::<IpAddr>()
        && let Some(stranger) = sources.iter().find(|source| source.is_ipv4() != host.is_ipv4())
    {
        let remedy = format!("from {stranger} nothing reaches {host}, take addresses of the same IP version");
        section.refuse("source_addresses", remedy);
    }
}

/// A section whose keys have nothing to do with each other.
fn read_plain<'r, 't, T: Default>(mut section: Section<'r, 't>, read: impl FnOnce(T, &mut Section<'r, 't>) -> T) -> T {
    let it = read(T::default(), &mut section);
    section.finish();
    it
}

/// And where its address is.
fn read_admin<'t>(reader: &mut Reader<'t>, table: Option<Table<'t>>) -> (Admin, usize) {
    let mut section = reader.section("admin", table);
    let admin = Admin::default().read(&mut section);
    if let Some(path) = &admin.token_file {
        section.must_be_readable("token_file", path, files::TOKEN);
    }
    if matches!(admin.address, Some(ListenAddr::Unix(_))) && !section.system().unix_sockets {
        section.refuse("address", NO_UNIX_SOCKETS);
    }
    let address_at = section.offset("address");
    section.finish();
    (admin, address_at)
}

fn names_are_unique<'n>(
    reader: &mut Reader<'_>,
    key: &'static str,
    names: impl Iterator<Item = (usize, &'n String)> + Clone,
) {
    for (index, (offset, name)) in names.clone().enumerate() {
        if let Some((first, _)) = names.clone().take(index).find(|(_, earlier)| *earlier == name) {
            let remedy = "logs and metrics tell them apart by the name, write another";
            duplicate(reader, key, (first, offset), format!("\"{name}\""), remedy);
        }
    }
}

/// An address for all of the host's takes in each of them, unless all who listen there leave it to others, too.
fn addresses_are_unique(reader: &mut Reader<'_>, listeners: &[Placed<Listener>], admin: Option<(usize, ListenAddr)>) {
    let shares_any = listeners.iter().any(|placed| placed.it.reuse_port);
    let of_listener = |placed: &Placed<Listener>| {
        ("listener.address", placed.address_at, placed.it.address.clone(), placed.it.reuse_port)
    };
    let admin = admin.map(|(offset, address)| ("admin.address", offset, address, shares_any));
    let mut seen: Vec<(usize, ListenAddr, bool)> = Vec::new();
    for (key, offset, address, shares) in listeners.iter().map(of_listener).chain(admin) {
        let taken = seen.iter().find(|(_, earlier, also_shares)| {
            earlier.overlaps(&address) && !(shares && *also_shares && *earlier != address)
        });
        if let Some((first, earlier, _)) = taken {
            let remedy = if *earlier == address {
                "only one can listen there, write another"
            } else {
                "one of the two is for all addresses of this host, keep that, or write another port"
            };
            duplicate(reader, key, (*first, offset), format!("\"{address}\""), remedy);
        } else {
            seen.push((offset, address, shares));
        }
    }
}

/// One that is would have imapool dial itself, and again, until no port is left. A replica is: it does not dial itself.
fn no_backend_is_a_listener(reader: &mut Reader<'_>, scene: &Scene<'_>) {
    let listeners = scene.listeners;
    for backend in scene.backends.iter().filter(|backend| !scene.is_replica(&backend.it)) {
        for (host, port) in backend.it.everywhere() {
            let Ok(ip) = host.parse::<IpAddr>() else { continue };
            let is_backend = |listener: &&Placed<Listener>| match listener.it.address {
                ListenAddr::Tcp(address) => {
                    let same_host = address.ip() == ip || (address.ip().is_unspecified() && ip.is_loopback());
                    same_host && address.port() == port
                }
                ListenAddr::Unix(_) => false,
            };
            if let Some(listener) = listeners.iter().find(is_backend) {
                let remedy = "imapool would connect to itself, write the IMAP server's address";
                let places = (listener.address_at, backend.address_at);
                duplicate(reader, "backend.address", places, format!("\"{}\"", host_and_port(host, port)), remedy);
            }
        }
    }
}

/// `places`: the first one, and the one that is too many.
fn duplicate(reader: &mut Reader<'_>, key: &str, places: (usize, usize), value: String, remedy: &'static str) {
    let line = reader.line(places.0);
    reader.fault(places.1, Fault::Duplicate { key: key.to_owned(), value, line, remedy });
}
