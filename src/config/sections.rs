//! The sections of the file, and the checks that need more than one key.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use super::read::Section;
use super::{
    Account, Admin, Auth, Backend, Check, Config, Group, Limits, ListenAddr, Listener, Log, Pool, Route, Routing,
    TlsMode, host_and_port, relay, value,
};
use crate::files;
use imapool_proto::routing::name::{Names, Pattern};

/// For systems where no path is an address.
const NO_UNIX_SOCKETS: &str = "there are no Unix sockets on this system, write an IP address and a port";

/// A listener, say, and the section that says it.
pub(super) struct Placed<'t, T> {
    pub(super) it: T,
    pub(super) section: Section<'t>,
}

/// What routes may name.
pub(super) struct Scene<'t> {
    pub(super) listeners: Vec<Placed<'t, Listener>>,
    pub(super) backends: Vec<Placed<'t, Backend>>,
    pub(super) groups: Vec<Placed<'t, Group>>,
}

impl Scene<'_> {
    /// Refuses a key that names neither a backend nor a group.
    fn check_target(&self, section: &Section<'_>, key: &str, target: Option<&String>) {
        let Some(target) = target.filter(|target| !target.is_empty()) else { return };
        let backends = self.backends.iter().map(|placed| &placed.it.name);
        let known: Vec<_> = backends.chain(self.groups.iter().map(|placed| &placed.it.name)).collect();
        if !known.contains(&target) {
            section.refuse(key, &there_is_no("backend and no group", &known));
        }
    }

    fn check_groups(&self) {
        for (place, Placed { it, section }) in self.groups.iter().enumerate() {
            let backends = self.backends.iter().map(|placed| (placed.section, &placed.it.name));
            let groups = self.groups[..place].iter().map(|placed| (placed.section, &placed.it.name));
            if let Some((first, _)) = backends.chain(groups).find(|(_, name)| **name == it.name) {
                section.is_taken("name", &first, &it.name, "routes name backends and groups alike, write another");
            }
            if !self.backends.iter().any(|backend| backend.it.group.as_ref() == Some(&it.name)) {
                let remedy = "no backend is in it: write group in a [[backend]], or delete this section";
                section.refuse_name("name", &it.name, remedy);
            }
        }
        for Placed { it, section } in &self.backends {
            if let Some(group) = &it.group
                && !self.groups.iter().any(|known| known.it.name == *group)
            {
                let remedy = format!("add a [[group]] with the line name = \"{group}\"");
                section.fault("name", format!("`group \"{group}\"` is missing: {remedy}"));
            }
        }
    }
}

fn there_is_no(what: &str, known: &[&String]) -> String {
    let known: Vec<_> = known.iter().map(|name| format!("\"{name}\"")).collect();
    format!("there is no {what} of this name, only {}", known.join(", "))
}

/// The whole file. What is wrong is noted, and what is made then is of no use.
pub(super) fn config(top: Section<'_>) -> Config {
    top.note_unknown();
    let listeners = top.some_tables("listener", "add a [[listener]] with a line such as address = \"127.0.0.1:1143\"");
    let backends = top.some_tables("backend", "add a [[backend]] with a line such as address = \"127.0.0.1:143\"");
    let [groups, routes, accounts] = ["group", "route", "account"].map(|key| top.tables(key));

    let listeners: Vec<_> = listeners.into_iter().filter_map(read_listener).collect();
    let backends: Vec<_> = backends.into_iter().filter_map(read_backend).collect();
    let groups: Vec<_> = groups.into_iter().filter_map(|section| read_group(section, &listeners)).collect();
    names_are_unique(&listeners, |listener| &listener.name);
    names_are_unique(&backends, |backend| &backend.name);
    let scene = Scene { listeners, backends, groups };
    let routing = read_routing(top.table("routing"), &scene);
    let names = routing.it.names();
    let routes: Vec<_> = routes.into_iter().map(|section| read_route(section, &scene, &names)).collect();
    let accounts = accounts.into_iter().filter_map(|section| read_account(&section, &names)).collect();
    let admin = read_admin(top.table("admin"));
    scene.check_groups();
    relay::check(&scene, &routes, &routing);
    addresses_are_unique(&scene.listeners, &admin);
    no_backend_is_a_listener(&scene);
    Config {
        listeners: scene.listeners.into_iter().map(|placed| placed.it).collect(),
        backends: scene.backends.into_iter().map(|placed| placed.it).collect(),
        groups: scene.groups.into_iter().map(|placed| placed.it).collect(),
        routing: routing.it,
        routes: routes.into_iter().map(|placed| placed.it).collect(),
        accounts,
        pool: Pool::default().read(&top.table("pool")),
        auth: Auth::default().read(&top.table("auth")),
        limits: Limits::default().read(&top.table("limits")),
        admin: admin.it,
        log: Log::default().read(&top.table("log")),
    }
}

/// The section `[admin]` alone.
pub(super) fn admin(top: Section<'_>) -> Admin {
    read_admin(top.table("admin")).it
}

fn read_listener(section: Section<'_>) -> Option<Placed<'_, Listener>> {
    let address = section.required("address", "add a line such as address = \"127.0.0.1:1143\"", value::listen_address);
    // Without an address, read on: there may be more to tell.
    let defaults = Listener::new(address.clone().unwrap_or(ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))));
    let listener = defaults.read(&section);
    if listener.tls != TlsMode::None {
        let files = [("certificate", &listener.certificate), ("private_key", &listener.private_key)];
        for (key, file) in files {
            section.must_be_readable(key, file.as_ref(), files::PEM);
            if !section.has(key) {
                let tls = listener.tls.as_str();
                let remedy = format!("tls = \"{tls}\" needs it, name a PEM file or write tls = \"none\"");
                section.missing(key, "tls", &remedy);
            }
        }
        for path in &listener.certificates {
            section.must_be_there("certificates", path, files::CERTIFICATE);
        }
        section.must_be_readable("client_ca_file", listener.client_ca_file.as_ref(), files::PEM);
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
    address.map(|_| Placed { it: listener, section })
}

fn read_backend(section: Section<'_>) -> Option<Placed<'_, Backend>> {
    let address = section.required("address", "add a line such as address = \"127.0.0.1:143\"", value::host_and_port);
    let (host, port) = address.clone().unwrap_or_default();
    let backend = Backend::new(host, port).read(&section);
    check_source_addresses(&section, &backend);
    check_backend_files(&section, &backend);
    if backend.source_port_range.is_some() && !section.system().source_port_range {
        section.refuse("source_port_range", "only Linux can keep connections to a range of ports, delete the line");
    }
    address.map(|_| Placed { it: backend, section })
}

fn check_backend_files(section: &Section<'_>, backend: &Backend) {
    for (key, other) in [("certificate", "private_key"), ("private_key", "certificate")] {
        if section.has(other) && !section.has(key) {
            let remedy =
                format!("{other} is nothing without it, name a PEM file (it may be the same), or delete {other}");
            section.missing(key, other, &remedy);
        }
    }
    if backend.tls != TlsMode::None {
        section.must_be_readable("certificate", backend.certificate.as_ref(), files::PEM);
        section.must_be_readable("private_key", backend.private_key.as_ref(), files::PEM);
        section.must_be_readable("ca_file", backend.ca_file.as_ref(), files::PEM);
    }
}

fn read_group<'t>(section: Section<'t>, listeners: &[Placed<'_, Listener>]) -> Option<Placed<'t, Group>> {
    let name = section.required("name", "add a line such as name = \"mail\"", value::name);
    let mut it = Group::new(name.clone().unwrap_or_default()).read(&section);
    if it.relays() && !section.has("check") {
        it.check = Check::of_replicas();
    }
    if it.relays() && it.check.successes == NonZeroU32::MIN {
        section.refuse("check", "a replica is not up at its first success: write successes = 2 or more");
    }
    if it.relays() && it.check.interval > relay::LONGEST_INTERVAL {
        let most = humantime::format_duration(relay::LONGEST_INTERVAL);
        let remedy = format!("accounts of a lost replica wait for the checks: write an interval of {most} or less");
        section.refuse("check", &remedy);
    }
    if it.relays() && it.slow_start > Duration::ZERO {
        section.refuse("slow_start", "replicas would not agree whose an account is: delete the line");
    }
    section.must_be_readable("check", it.check.password_file.as_ref(), files::TOKEN);
    match &it.inner {
        None if it.relays() => {
            let remedy = "mode = \"relay\" needs it: name the listener by which the replicas reach each other";
            section.missing("inner", "mode", remedy);
        }
        Some(_) if !it.relays() => {
            section.refuse("inner", "only a group with mode = \"relay\" has one, delete the line")
        }
        Some(inner) => check_listeners(&section, "inner", std::slice::from_ref(inner), listeners),
        None => {}
    }
    name.map(|_| Placed { it, section })
}

/// Refuses a key that names a listener that is not there.
fn check_listeners(section: &Section<'_>, key: &str, named: &[String], listeners: &[Placed<'_, Listener>]) {
    let known: Vec<_> = listeners.iter().map(|placed| &placed.it.name).collect();
    if named.iter().any(|name| !known.contains(&name)) {
        section.refuse(key, &there_is_no("listener", &known));
    }
}

fn read_routing<'t>(section: Section<'t>, scene: &Scene<'_>) -> Placed<'t, Routing> {
    let it = Routing::default().read(&section);
    scene.check_target(&section, "default", it.default.as_ref());
    Placed { it, section }
}

fn read_route<'t>(section: Section<'t>, scene: &Scene<'_>, names: &Names) -> Placed<'t, Route> {
    const ONE: &str = "a route says where by one of `to`, `file` and `http`";
    let it = Route::default().read(&section);
    scene.check_target(&section, "to", it.to.as_ref());
    check_users(&section, &it.users, names);
    check_listeners(&section, "listeners", &it.listeners, &scene.listeners);
    section.must_be_readable("file", it.file.as_ref(), files::MAP);
    let given: Vec<_> = ["to", "file", "http"].into_iter().filter(|key| section.has(key)).collect();
    match given[..] {
        [] => section.missing("to", "to", ONE),
        [_] => {}
        [_, second, ..] => section.refuse(second, ONE),
    }
    Placed { it, section }
}

/// `None`: it says for nobody what is otherwise, which is noted.
fn read_account(section: &Section<'_>, names: &Names) -> Option<Account> {
    let users = section.required("users", "add a line such as users = [\"@example.org\"]", value::users().read);
    let account = Account::new(users.clone().unwrap_or_default()).read(section);
    if users.as_ref().is_some_and(Vec::is_empty) {
        section.refuse("users", "name at least one account or domain, or delete this section");
    }
    check_users(section, &account.users, names);
    users.map(|_| account)
}

/// Refuses names that mean nobody.
fn check_users(section: &Section<'_>, users: &[String], names: &Names) {
    if let Some(user) = users.iter().find(|user| Pattern::parse(user, names).is_err()) {
        let remedy = format!("\"{user}\" means no account: write a name, \"@\" and a domain, or \"@*.\" and a domain");
        section.refuse("users", &remedy);
    }
}

fn check_source_addresses(section: &Section<'_>, backend: &Backend) {
    let sources = &backend.source_addresses;
    if (1..sources.len()).any(|index| sources[..index].contains(&sources[index])) {
        section.refuse("source_addresses", "one address is there twice, keep one of the two");
    }
    if let Ok(host) = backend.host.parse::<IpAddr>()
        && let Some(stranger) = sources.iter().find(|source| source.is_ipv4() != host.is_ipv4())
    {
        let remedy = format!("from {stranger} nothing reaches {host}, take addresses of the same IP version");
        section.refuse("source_addresses", &remedy);
    }
}

fn read_admin(section: Section<'_>) -> Placed<'_, Admin> {
    let admin = Admin::default().read(&section);
    section.must_be_readable("token_file", admin.token_file.as_ref(), files::TOKEN);
    if matches!(admin.address, Some(ListenAddr::Unix(_))) && !section.system().unix_sockets {
        section.refuse("address", NO_UNIX_SOCKETS);
    }
    Placed { it: admin, section }
}

fn names_are_unique<T>(placed: &[Placed<'_, T>], name: impl Fn(&T) -> &String) {
    let mut seen = HashMap::new();
    for Placed { it, section } in placed {
        match seen.get(name(it)) {
            Some(first) => {
                let remedy = "logs and metrics tell them apart by the name, write another";
                section.is_taken("name", first, name(it), remedy);
            }
            None => drop(seen.insert(name(it), *section)),
        }
    }
}

/// An address for all of the host's takes in each of them, unless all who listen there leave it to others, too.
fn addresses_are_unique(listeners: &[Placed<'_, Listener>], admin: &Placed<'_, Admin>) {
    let shares_any = listeners.iter().any(|placed| placed.it.reuse_port);
    let of_listeners = listeners.iter().map(|placed| (placed.section, &placed.it.address, placed.it.reuse_port));
    let admin = admin.it.address.as_ref().map(|address| (admin.section, address, shares_any));
    let mut seen: Vec<(Section<'_>, &ListenAddr, bool)> = Vec::new();
    for (section, address, shares) in of_listeners.chain(admin) {
        let taken = seen.iter().find(|(_, earlier, also_shares)| {
            earlier.overlaps(address) && !(shares && *also_shares && *earlier != address)
        });
        if let Some((first, earlier, _)) = taken {
            let remedy = if *earlier == address {
                "only one can listen there, write another"
            } else {
                "one of the two is for all addresses of this host, keep that, or write another port"
            };
            section.is_taken("address", first, address, remedy);
        } else {
            seen.push((section, address, shares));
        }
    }
}

/// One that is would have imapool dial itself, and again, until no port is left. A replica is: it does not dial itself.
fn no_backend_is_a_listener(scene: &Scene<'_>) {
    for backend in scene.backends.iter().filter(|backend| !scene.is_replica(&backend.it)) {
        for (host, port) in backend.it.everywhere() {
            let Ok(ip) = host.parse::<IpAddr>() else { continue };
            let is_backend = |listener: &&Placed<'_, Listener>| match listener.it.address {
                ListenAddr::Tcp(address) => {
                    let same_host = address.ip() == ip || (address.ip().is_unspecified() && ip.is_loopback());
                    same_host && address.port() == port
                }
                ListenAddr::Unix(_) => false,
            };
            if let Some(listener) = scene.listeners.iter().find(is_backend) {
                let remedy = "imapool would connect to itself, write the IMAP server's address";
                backend.section.is_taken("address", &listener.section, &host_and_port(host, port), remedy);
            }
        }
    }
}
