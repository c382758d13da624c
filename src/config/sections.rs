//! The sections of the file, their keys, defaults and bounds, and the checks that need more than one key.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::error::Fault;
use super::read::{Reader, Section};
use super::value::{self, ANY, SOME};
use super::{
    Admin, Auth, Backend, Config, Identify, Limits, ListenAddr, Listener, Log, LogFormat, PerCredential,
    PlaintextLogin, Pool, PoolMode, TlsMode,
};
use crate::files;

const IDENTIFY: &[Identify] = &[Identify::Auto, Identify::Always, Identify::Never];
const TLS_MODES: &[TlsMode] = &[TlsMode::None, TlsMode::StartTls, TlsMode::Implicit];
const PLAINTEXT_LOGINS: &[PlaintextLogin] = &[PlaintextLogin::Never, PlaintextLogin::Loopback, PlaintextLogin::Always];
const POOL_MODES: &[PoolMode] = &[PoolMode::Multiplex, PoolMode::Session];
const PER_CREDENTIAL: &[PerCredential] = &[PerCredential::Tokens, PerCredential::Always, PerCredential::Never];
const LOG_FORMATS: &[LogFormat] = &[LogFormat::Text, LogFormat::Json];
const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// More sessions or connections than any host carries.
const MANY: usize = 1_000_000;
/// From shorter than any client's commands to more than anyone should have to buffer.
const COMMAND_SIZES: RangeInclusive<usize> = 512..=64 * 1024 * 1024;
/// What an abandoned reply may still cost.
const DRAIN_SIZES: RangeInclusive<usize> = 0..=1024 * 1024 * 1024;

/// A table of the file and where its header begins.
type Table<'t> = (usize, &'t DeTable<'t>);

/// A listener or backend, and where its name and its address are.
struct Placed<T> {
    it: T,
    name_at: usize,
    address_at: usize,
}

/// The whole file; `None`, with the reason noted, when something required is absent or wrong.
pub(super) fn config<'t>(reader: &mut Reader<'t>, root: &'t DeTable<'t>) -> Option<Config> {
    let mut top = reader.root(root);
    let listeners = top.tables("listener", "add a [[listener]] with a line such as address = \"127.0.0.1:1143\"");
    let backends = top.tables("backend", "add a [[backend]] with a line such as address = \"127.0.0.1:143\"");
    let [pool, auth, limits, admin, log] = ["pool", "auth", "limits", "admin", "log"].map(|key| top.table(key));
    top.finish();

    let mut listeners: Vec<_> = listeners.into_iter().map(|table| read_listener(reader, table)).collect();
    let mut backends: Vec<_> = backends.into_iter().map(|table| read_backend(reader, table)).collect();
    let pool = read_pool(reader, pool);
    let auth = read_auth(reader, auth);
    let limits = read_limits(reader, limits);
    let (admin, admin_at) = read_admin(reader, admin);
    let log = read_log(reader, log);

    // What is missing here has left a fault behind, by which the whole file is refused.
    let complete = listeners.iter().all(Option::is_some) && backends.iter().all(Option::is_some);
    let listeners: Vec<_> = listeners.drain(..).flatten().collect();
    let backends: Vec<_> = backends.drain(..).flatten().collect();
    names_are_unique(reader, "listener.name", listeners.iter().map(|placed| (placed.name_at, &placed.it.name)));
    names_are_unique(reader, "backend.name", backends.iter().map(|placed| (placed.name_at, &placed.it.name)));
    addresses_are_unique(reader, &listeners, admin.address.clone().map(|address| (admin_at, address)));
    no_backend_is_a_listener(reader, &listeners, &backends);
    (complete && !listeners.is_empty() && !backends.is_empty()).then(|| Config {
        listeners: listeners.into_iter().map(|placed| placed.it).collect(),
        backends: backends.into_iter().map(|placed| placed.it).collect(),
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

fn read_listener<'t>(reader: &mut Reader<'t>, (header, table): Table<'t>) -> Option<Placed<Listener>> {
    let mut section = reader.section("listener", header, Some(table));
    let address = section.required("address", "add a line such as address = \"127.0.0.1:1143\"", value::listen_address);
    // Without an address, read on: there may be more to tell.
    let defaults = Listener::new(address.clone().unwrap_or(ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))));
    let listener = Listener {
        name: section.or("name", defaults.name, value::name),
        address: defaults.address,
        tls: section.or("tls", defaults.tls, value::one_of(TLS_MODES, TlsMode::as_str)),
        certificate: section.optional("certificate", value::path),
        private_key: section.optional("private_key", value::path),
        proxy_protocol_from: section.or(
            "proxy_protocol_from",
            defaults.proxy_protocol_from,
            value::list("a list of networks such as [\"10.0.0.0/8\"]", value::network),
        ),
        plaintext_login: section.or(
            "plaintext_login",
            defaults.plaintext_login,
            value::one_of(PLAINTEXT_LOGINS, PlaintextLogin::as_str),
        ),
        reset_on_client_close: section.or("reset_on_client_close", defaults.reset_on_client_close, value::boolean),
        reuse_port: section.or("reuse_port", defaults.reuse_port, value::boolean),
    };
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
    }
    if matches!(listener.address, ListenAddr::Unix(_)) && !listener.proxy_protocol_from.is_empty() {
        section.refuse("proxy_protocol_from", "the peers of a Unix socket have no address, delete the line");
    }
    let (name_at, address_at) = (section.offset("name"), section.offset("address"));
    section.finish();
    address.map(|_| Placed { it: listener, name_at, address_at })
}

fn read_backend<'t>(reader: &mut Reader<'t>, (header, table): Table<'t>) -> Option<Placed<Backend>> {
    let mut section = reader.section("backend", header, Some(table));
    let address = section.required("address", "add a line such as address = \"127.0.0.1:143\"", value::host_and_port);
    let (host, port) = address.clone().unwrap_or_default();
    let defaults = Backend::new(host, port);
    let backend = Backend {
        name: section.or("name", defaults.name, value::name),
        host: defaults.host,
        port: defaults.port,
        tls: section.or("tls", defaults.tls, value::one_of(TLS_MODES, TlsMode::as_str)),
        server_name: section.or("server_name", defaults.server_name, value::server_name),
        ca_file: section.optional("ca_file", value::path),
        source_addresses: section.or(
            "source_addresses",
            defaults.source_addresses,
            value::list("a list of IP addresses such as [\"192.0.2.7\"]", value::source_address),
        ),
        source_port_range: section.optional("source_port_range", value::port_range),
        connect_timeout: section.or("connect_timeout", defaults.connect_timeout, value::duration(SOME)),
        login_timeout: section.or("login_timeout", defaults.login_timeout, value::duration(SOME)),
        reply_timeout: section.or("reply_timeout", defaults.reply_timeout, value::duration(SOME)),
        id: section.or("id", defaults.id, value::one_of(IDENTIFY, Identify::as_str)),
        forward_client_id: section.or("forward_client_id", defaults.forward_client_id, value::boolean),
        send_proxy: section.or("send_proxy", defaults.send_proxy, value::boolean),
    };
    check_source_addresses(&mut section, &backend);
    if let (Some(path), true) = (&backend.ca_file, backend.tls != TlsMode::None) {
        section.must_be_readable("ca_file", path, files::PEM);
    }
    let (name_at, address_at) = (section.offset("name"), section.offset("address"));
    section.finish();
    address.map(|_| Placed { it: backend, name_at, address_at })
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

fn read_pool<'t>(reader: &mut Reader<'t>, table: Option<Table<'t>>) -> Pool {
    let mut section = optional_section(reader, "pool", table);
    let defaults = Pool::default();
    let pool = Pool {
        mode: section.or("mode", defaults.mode, value::one_of(POOL_MODES, PoolMode::as_str)),
        max_per_account: section.or("max_per_account", defaults.max_per_account, value::integer(1..=1000)),
        max_total: section.or("max_total", defaults.max_total, value::integer(0..=MANY)),
        linger: section.or("linger", defaults.linger, value::duration(ANY)),
        share_patience: section.or("share_patience", defaults.share_patience, value::duration(ANY)),
        idle_timeout: section.or("idle_timeout", defaults.idle_timeout, value::duration(SOME)),
        max_lifetime: section.or("max_lifetime", defaults.max_lifetime, value::duration(SOME)),
        check_after: section.or("check_after", defaults.check_after, value::duration(ANY)),
        keepalive: section.or("keepalive", defaults.keepalive, value::duration(SOME)),
        checkout_timeout: section.or("checkout_timeout", defaults.checkout_timeout, value::duration(SOME)),
        spare: section.or("spare", defaults.spare, value::integer(0..=100)),
        per_credential: section.or(
            "per_credential",
            defaults.per_credential,
            // As it was written before there was a third way.
            value::boolean_or(
                [PerCredential::Never, PerCredential::Always],
                value::one_of(PER_CREDENTIAL, PerCredential::as_str),
            ),
        ),
        drain_bytes: section.or("drain_bytes", defaults.drain_bytes, value::size(DRAIN_SIZES)),
        drain_timeout: section.or("drain_timeout", defaults.drain_timeout, value::duration(ANY)),
    };
    section.finish();
    pool
}

fn read_auth<'t>(reader: &mut Reader<'t>, table: Option<Table<'t>>) -> Auth {
    let mut section = optional_section(reader, "auth", table);
    let defaults = Auth::default();
    let auth = Auth {
        cache_ttl: section.or("cache_ttl", defaults.cache_ttl, value::duration(ANY)),
        failure_delay: section.or("failure_delay", defaults.failure_delay, value::duration(ANY)),
    };
    section.finish();
    auth
}

fn read_limits<'t>(reader: &mut Reader<'t>, table: Option<Table<'t>>) -> Limits {
    let mut section = optional_section(reader, "limits", table);
    let defaults = Limits::default();
    let limits = Limits {
        sessions: section.or("sessions", defaults.sessions, value::integer(1..=MANY)),
        unauthenticated: section.or("unauthenticated", defaults.unauthenticated, value::share(1..=MANY)),
        sessions_per_address: section.or(
            "sessions_per_address",
            defaults.sessions_per_address,
            value::integer(0..=MANY),
        ),
        tls_handshake_timeout: section.or(
            "tls_handshake_timeout",
            defaults.tls_handshake_timeout,
            value::duration(SOME),
        ),
        login_timeout: section.or("login_timeout", defaults.login_timeout, value::duration(SOME)),
        idle_timeout: section.or("idle_timeout", defaults.idle_timeout, value::duration(SOME)),
        write_timeout: section.or("write_timeout", defaults.write_timeout, value::duration(SOME)),
        command_line: section.or("command_line", defaults.command_line, value::size(COMMAND_SIZES)),
        literals: section.or("literals", defaults.literals, value::size(COMMAND_SIZES)),
        drain_timeout: section.or("drain_timeout", defaults.drain_timeout, value::duration(ANY)),
    };
    section.finish();
    limits
}

/// And where its address is.
fn read_admin<'t>(reader: &mut Reader<'t>, table: Option<Table<'t>>) -> (Admin, usize) {
    let mut section = optional_section(reader, "admin", table);
    let defaults = Admin::default();
    let admin = Admin {
        address: section.or("address", defaults.address, value::admin_address),
        token_file: section.optional("token_file", value::path),
        hosts: section.or(
            "hosts",
            defaults.hosts,
            value::list("a list of host names such as [\"imapool.example.org\"]", value::host_name),
        ),
    };
    if let Some(path) = &admin.token_file {
        section.must_be_readable("token_file", path, files::TOKEN);
    }
    let address_at = section.offset("address");
    section.finish();
    (admin, address_at)
}

fn read_log<'t>(reader: &mut Reader<'t>, table: Option<Table<'t>>) -> Log {
    let mut section = optional_section(reader, "log", table);
    let defaults = Log::default();
    let level = section.optional("level", value::one_of(LOG_LEVELS, |level| level));
    let log = Log {
        format: section.or("format", defaults.format, value::one_of(LOG_FORMATS, LogFormat::as_str)),
        level: level.map_or(defaults.level, str::to_owned),
        sessions: section.or("sessions", defaults.sessions, value::boolean),
        slow: section.or("slow", defaults.slow, value::duration(ANY)),
    };
    section.finish();
    log
}

fn optional_section<'r, 't>(
    reader: &'r mut Reader<'t>,
    name: &'static str,
    table: Option<Table<'t>>,
) -> Section<'r, 't> {
    let (header, table) = table.map_or((0, None), |(header, table)| (header, Some(table)));
    reader.section(name, header, table)
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

/// One that is would have imapool dial itself, and again, until no port is left.
fn no_backend_is_a_listener(reader: &mut Reader<'_>, listeners: &[Placed<Listener>], backends: &[Placed<Backend>]) {
    for backend in backends {
        let Ok(ip) = backend.it.host.parse::<IpAddr>() else { continue };
        let is_backend = |listener: &&Placed<Listener>| match listener.it.address {
            ListenAddr::Tcp(address) => {
                let same_host = address.ip() == ip || (address.ip().is_unspecified() && ip.is_loopback());
                same_host && address.port() == backend.it.port
            }
            ListenAddr::Unix(_) => false,
        };
        if let Some(listener) = listeners.iter().find(is_backend) {
            let remedy = "imapool would connect to itself, write the IMAP server's address";
            let places = (listener.address_at, backend.address_at);
            duplicate(reader, "backend.address", places, format!("\"{}\"", backend.it.address()), remedy);
        }
    }
}

/// `places`: the first one, and the one that is too many.
fn duplicate(reader: &mut Reader<'_>, key: &str, places: (usize, usize), value: String, remedy: &'static str) {
    let line = reader.line(places.0);
    reader.fault(places.1, Fault::Duplicate { key: key.to_owned(), value, line, remedy });
}
