//! What a configuration may say, but should not say unawares: each warning is one line, with the key and a remedy.

mod routes;

use std::net::IpAddr;
use std::time::Duration;

use super::{Backend, Config, ListenAddr, Listener, PlaintextLogin, TlsMode};

/// RFC 9051 section 5.4: an inactivity time-out must be at least this, on a server's side and so on ours.
const AUTOLOGOUT: Duration = Duration::from_secs(30 * 60);

pub(super) fn of(config: &Config) -> Vec<String> {
    let listeners = config.listeners.iter().flat_map(of_listener).chain(overlaps(&config.listeners));
    let backends = config.backends.iter().flat_map(of_backend).chain(unused(config));
    let admin = config.admin.address.as_ref().filter(|address| address.is_public()).map(|address| {
        format!(
            "admin.address {address} can be reached from other hosts, who can read the numbers and the names of accounts \
             without the token: restrict it by a firewall, or write a loopback address"
        )
    });
    let routes = routes::of(config);
    listeners.chain(backends).chain(routes).chain(admin).chain(of_times_and_numbers(config)).collect()
}

fn of_listener(listener: &Listener) -> Vec<String> {
    let Listener { name, address, tls, .. } = listener;
    let whose = format!("listener \"{name}\"");
    let pair = listener.certificate.is_some() || listener.private_key.is_some();
    let files = [
        (pair, "certificate and private_key"),
        (!listener.certificates.is_empty(), "certificates"),
        (listener.client_ca_file.is_some(), "client_ca_file"),
    ];
    let mut warnings = unused_files(&whose, *tls, &files);
    warnings.extend(match (listener.plaintext_login, tls) {
        // Nobody at all can log in.
        (PlaintextLogin::Never, TlsMode::None) => Some(format!(
            "{whose} on {address} lets nobody log in: it has no TLS, without which plaintext_login = \
             \"never\" refuses everybody. Write tls = \"starttls\" or \"implicit\", or plaintext_login = \"loopback\""
        )),
        // Passwords may cross the network to it in the clear.
        (PlaintextLogin::Always, TlsMode::None | TlsMode::StartTls) if address.is_public() => Some(format!(
            "{whose} takes passwords in the clear from anywhere on {address}: \
             write tls = \"starttls\" or \"implicit\", or plaintext_login = \"loopback\""
        )),
        // It is for other hosts, from which nobody can log in.
        (PlaintextLogin::Loopback, TlsMode::None) if address.is_public() => Some(format!(
            "{whose} is open to other hosts on {address}, but lets nobody from there log in: without \
             TLS, plaintext_login = \"loopback\" refuses them. Write tls = \"starttls\" or \"implicit\", or \
             plaintext_login = \"always\" if the network is trusted, or a loopback address"
        )),
        _ => None,
    });
    // Without TLS, it is something in front of imapool that has it.
    if let ListenAddr::Tcp(address) = address
        && *tls != TlsMode::None
    {
        warnings.extend(unusual(&whose, address.port(), *tls));
    }
    warnings
}

/// Nothing of what is said to it crosses a network.
fn is_near(host: &str) -> bool {
    host.parse::<IpAddr>().map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
}

fn of_backend(backend: &Backend) -> Vec<String> {
    let Backend { name, tls, .. } = backend;
    let whose = format!("backend \"{name}\"");
    let in_clear = (*tls == TlsMode::None && !is_near(&backend.host)).then(|| {
        let address = backend.address();
        format!(
            "{whose} gets passwords in the clear at {address}: write tls = \"starttls\" or \"implicit\" \
             unless the network between is trusted"
        )
    });
    let files =
        [(backend.ca_file.is_some(), "ca_file"), (backend.certificate.is_some(), "certificate and private_key")];
    let of_files = unused_files(&whose, *tls, &files);
    in_clear.into_iter().chain(of_files).chain(unusual(&whose, backend.port, *tls)).collect()
}

/// Files for TLS beside `tls = "none"`: whether there are any, and the keys that name them.
fn unused_files(whose: &str, tls: TlsMode, files: &[(bool, &str)]) -> Vec<String> {
    let unused = files.iter().filter(|(is_named, _)| tls == TlsMode::None && *is_named);
    let warning = |keys: &str| {
        format!(
            "{whose} has tls = \"none\", so nobody uses its {keys}: write tls = \"starttls\" or \"implicit\", or \
             delete the line"
        )
    };
    unused.map(|(_, keys)| warning(keys)).collect()
}

/// RFC 8314 section 7.1: 143 is for STARTTLS, 993 for implicit TLS. The other side begins TLS in another way there.
fn unusual(whose: &str, port: u16, tls: TlsMode) -> Option<String> {
    let usual = match (port, tls) {
        (993, TlsMode::None | TlsMode::StartTls) => TlsMode::Implicit,
        (143, TlsMode::Implicit) => TlsMode::StartTls,
        _ => return None,
    };
    let [tls, usual] = [tls, usual].map(TlsMode::as_str);
    Some(format!("{whose} has tls = \"{tls}\" on port {port}, where \"{usual}\" is usual: write that, or another port"))
}

/// Two for the same connections, told apart only by how exact their addresses are: they may overlap because the kernel
/// lets them (`reuse_port`); others are errors.
fn overlaps(listeners: &[Listener]) -> impl Iterator<Item = String> {
    listeners.iter().flat_map(move |all| {
        listeners.iter().filter_map(move |one| match (&all.address, &one.address) {
            (ListenAddr::Tcp(wide), ListenAddr::Tcp(address)) if wide.ip().is_unspecified() => {
                let overlap = all.address.overlaps(&one.address) && wide != address;
                overlap.then(|| {
                    format!(
                        "listener \"{}\" gets nothing that comes to {address}, because listener \"{}\" is there: \
                         if both are meant, give them different ports",
                        all.name, one.name
                    )
                })
            }
            _ => None,
        })
    })
}

/// Backends that nobody is sent to: no route names them, directly or by their group. What files and services say is not
/// known here.
fn unused(config: &Config) -> impl Iterator<Item = String> {
    let first = &config.backends[0].name;
    let default = config.routing.default.as_ref().unwrap_or(first);
    let named =
        move |name: &String| config.routes.iter().filter_map(|it| it.to.as_ref()).chain([default]).any(|to| to == name);
    let open = config.routing.moves_file.is_some() || config.routes.iter().any(|route| route.to.is_none());
    let unused =
        config.backends.iter().filter(move |it| !open && !named(&it.name) && !it.group.as_ref().is_some_and(&named));
    unused.map(|backend| {
        format!(
            "backend \"{}\" gets no sessions, because no [[route]] leads there, nor routing.default: add one, or \
             delete it",
            backend.name
        )
    })
}

fn of_times_and_numbers(config: &Config) -> Vec<String> {
    let (pool, limits) = (&config.pool, &config.limits);
    let mut warnings = Vec::new();
    if limits.idle_timeout < AUTOLOGOUT {
        warnings.push(format!(
            "limits.idle_timeout {} is below the 30 minutes of RFC 9051 section 5.4: clients that idle will be cut off",
            humantime::format_duration(limits.idle_timeout)
        ));
    }
    // What takes the place of `[pool]`'s.
    let of_backend = |it: &Backend| (format!("backend \"{}\"", it.name), it.max_per_account, it.idle_timeout);
    let accounts = (1..).zip(&config.accounts);
    let accounts = accounts.map(|(place, it)| (format!("account {place}"), it.max_per_account, it.idle_timeout));
    let others: Vec<_> = config.backends.iter().map(of_backend).chain(accounts).collect();
    // Too late for a server that logs out after half an hour.
    let is_late = |rest: Duration| rest >= AUTOLOGOUT;
    if is_late(pool.keepalive) && others.iter().filter_map(|it| it.2).chain([pool.idle_timeout]).any(is_late) {
        warnings.push(format!(
            "pool.keepalive {} may come too late: servers log out after 30 minutes, write \"10m\"",
            humantime::format_duration(pool.keepalive)
        ));
    }
    // Values that another one keeps from ever taking effect.
    let contradictions = [
        (pool.linger > pool.idle_timeout, "pool.linger", "pool.idle_timeout"),
        (pool.idle_timeout > pool.max_lifetime, "pool.idle_timeout", "pool.max_lifetime"),
        (pool.max_total != 0 && pool.max_per_account > pool.max_total, "pool.max_per_account", "pool.max_total"),
        (limits.sessions_per_address > limits.sessions, "limits.sessions_per_address", "limits.sessions"),
        (limits.tls_handshake_timeout > limits.login_timeout, "limits.tls_handshake_timeout", "limits.login_timeout"),
    ];
    let contradictions = contradictions.map(|(contradicts, key, by)| (contradicts, key.to_owned(), by));
    let of_others = others.into_iter().flat_map(|(whose, most, rest)| {
        let is_too_many = pool.max_total != 0 && most.is_some_and(|most| most > pool.max_total);
        let is_too_long = rest.is_some_and(|rest| rest > pool.max_lifetime);
        [
            (is_too_many, format!("{whose}.max_per_account"), "pool.max_total"),
            (is_too_long, format!("{whose}.idle_timeout"), "pool.max_lifetime"),
        ]
    });
    let in_vain = contradictions.into_iter().chain(of_others).filter(|(contradicts, ..)| *contradicts);
    warnings.extend(in_vain.map(|(_, key, because_of)| {
        format!("{key} never takes effect, because {because_of} comes first: lower the one or raise the other")
    }));
    warnings
}
