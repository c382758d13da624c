//! What a configuration may say, but should not say unawares.

mod routes;

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Backend, Config, Lifetime, ListenAddr, Listener, PlaintextLogin, TlsMode};

/// RFC 9051 section 5.4: an inactivity time-out must be at least this, on a server's side and so on ours.
const AUTOLOGOUT: Duration = Duration::from_secs(30 * 60);

/// Something that is allowed and yet likely to be a mistake. Displays as one line with the key and a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Passwords may cross the network to this listener in the clear.
    PlaintextListener {
        /// The listener's name.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
    /// Passwords cross the network to this backend in the clear.
    PlaintextBackend {
        /// The backend's name.
        name: String,
        /// Its `host:port`.
        address: String,
    },
    /// The admin address tells everyone who can reach it.
    PublicAdmin {
        /// Where it listens.
        address: SocketAddr,
    },
    /// `limits.idle_timeout` is shorter than the standard allows.
    ShortIdleTimeout {
        /// The value.
        value: Duration,
    },
    /// `pool.keepalive` comes too late for a server that logs out after half an hour.
    LateKeepalive {
        /// The value.
        value: Duration,
    },
    /// A certificate that is not good, or not for long.
    Certificate {
        /// `listener "webmail"`
        whose: String,
        /// The file it is in.
        file: PathBuf,
        /// Since or until when.
        lifetime: Lifetime,
    },
    /// Something in a folder of certificates that is not shown to anybody.
    LeftOut {
        /// `listener "webmail"`
        whose: String,
        /// Which file, and why.
        problem: String,
    },
    /// Files for TLS beside `tls = "none"`.
    UnusedFiles {
        /// `listener "webmail"`
        whose: String,
        /// The keys that name them.
        keys: &'static str,
    },
    /// Two listeners for the same connections, told apart only by how exact their addresses are.
    Overlap {
        /// The one for all addresses.
        all: String,
        /// The one for a single address.
        one: String,
        /// That address.
        address: SocketAddr,
    },
    /// A backend that nobody is sent to.
    UnusedBackend {
        /// Its name.
        name: String,
    },
    /// The other side begins TLS in another way at this port.
    UnusualTls {
        /// `listener "webmail"`
        whose: String,
        /// The port.
        port: u16,
        /// What is configured.
        tls: TlsMode,
        /// What is usual there.
        usual: TlsMode,
    },
    /// A listener for other hosts, from which nobody can log in.
    NoLogins {
        /// The listener's name.
        name: String,
        /// Where it listens.
        address: SocketAddr,
    },
    /// A listener on which nobody at all can log in.
    NoLoginsAtAll {
        /// The listener's name.
        name: String,
        /// Where it listens.
        address: ListenAddr,
    },
    /// A section that is never looked at, because others that stand before it are for all that it is for.
    Shadowed {
        /// `route 3`
        what: String,
        /// The latest of these.
        by: String,
    },
    /// A weight of a backend that is in no group.
    WeightAlone {
        /// The backend's name.
        name: String,
    },
    /// A group in which no backend takes new accounts.
    NoWeight {
        /// The group's name.
        name: String,
    },
    /// Keys of a lookup in a route that has none.
    NoLookup {
        /// `route 3`
        route: String,
        /// The keys.
        keys: Vec<&'static str>,
    },
    /// Passwords cross the network to the service of a route in the clear.
    PlaintextService {
        /// `route 3`
        route: String,
        /// The host that is asked.
        host: String,
    },
    /// A value that another one keeps from ever taking effect.
    Ineffective {
        /// The key with its section.
        key: Cow<'static, str>,
        /// The key that comes first.
        because_of: &'static str,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::PlaintextListener { name, address } => write!(
                f,
                "listener \"{name}\" takes passwords in the clear from anywhere on {address}: \
                 write tls = \"starttls\" or \"implicit\", or plaintext_login = \"loopback\""
            ),
            Warning::PlaintextBackend { name, address } => write!(
                f,
                "backend \"{name}\" gets passwords in the clear at {address}: write tls = \"starttls\" or \"implicit\" \
                 unless the network between is trusted"
            ),
            Warning::PublicAdmin { address } => write!(
                f,
                "admin.address {address} can be reached from other hosts, who can read the numbers and the names of accounts \
                 without the token: restrict it by a firewall, or write a loopback address"
            ),
            Warning::Certificate { whose, file, lifetime } => {
                write!(f, "{whose}: a certificate in {} {lifetime}", file.display())
            }
            Warning::LeftOut { whose, problem } => {
                write!(f, "{whose}: not all of its certificates are shown: {problem}")
            }
            Warning::UnusedFiles { whose, keys } => write!(
                f,
                "{whose} has tls = \"none\", so nobody uses its {keys}: write tls = \"starttls\" or \"implicit\", or \
                 delete the line"
            ),
            Warning::Overlap { all, one, address } => write!(
                f,
                "listener \"{all}\" gets nothing that comes to {address}, because listener \"{one}\" is there: \
                 if both are meant, give them different ports"
            ),
            Warning::UnusedBackend { name } => write!(
                f,
                "backend \"{name}\" gets no sessions, because no [[route]] leads there, nor routing.default: add one, or \
                 delete it"
            ),
            Warning::UnusualTls { whose, port, tls, usual } => write!(
                f,
                "{whose} has tls = \"{}\" on port {port}, where \"{}\" is usual: write that, or another port",
                tls.as_str(),
                usual.as_str()
            ),
            Warning::NoLogins { name, address } => write!(
                f,
                "listener \"{name}\" is open to other hosts on {address}, but lets nobody from there log in: without \
                 TLS, plaintext_login = \"loopback\" refuses them. Write tls = \"starttls\" or \"implicit\", or \
                 plaintext_login = \"always\" if the network is trusted, or a loopback address"
            ),
            Warning::NoLoginsAtAll { name, address } => write!(
                f,
                "listener \"{name}\" on {address} lets nobody log in: it has no TLS, without which plaintext_login = \
                 \"never\" refuses everybody. Write tls = \"starttls\" or \"implicit\", or plaintext_login = \"loopback\""
            ),
            Warning::Shadowed { .. }
            | Warning::WeightAlone { .. }
            | Warning::NoWeight { .. }
            | Warning::NoLookup { .. }
            | Warning::PlaintextService { .. } => self.fmt_of_routes(f),
            of_values => of_values.fmt_of_values(f),
        }
    }
}

impl Warning {
    /// Those of times and numbers.
    fn fmt_of_values(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::ShortIdleTimeout { value } => write!(
                f,
                "limits.idle_timeout {} is below the 30 minutes of RFC 9051 section 5.4: clients that idle will be cut off",
                humantime::format_duration(*value)
            ),
            Warning::LateKeepalive { value } => write!(
                f,
                "pool.keepalive {} may come too late: servers log out after 30 minutes, write \"10m\"",
                humantime::format_duration(*value)
            ),
            Warning::Ineffective { key, because_of } => {
                write!(
                    f,
                    "{key} never takes effect, because {because_of} comes first: lower the one or raise the other"
                )
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn of(config: &Config) -> Vec<Warning> {
    let listeners = config.listeners.iter().flat_map(of_listener).chain(overlaps(&config.listeners));
    let backends = config.backends.iter().flat_map(of_backend).chain(unused(config));
    let admin = match config.admin.address {
        Some(ListenAddr::Tcp(address)) if config.admin.is_public() => Some(Warning::PublicAdmin { address }),
        _ => None,
    };
    let routes = routes::of(config);
    listeners.chain(backends).chain(routes).chain(admin).chain(of_times_and_numbers(config)).collect()
}

fn of_listener(listener: &Listener) -> Vec<Warning> {
    let whose = format!("listener \"{}\"", listener.name);
    let mut warnings = Vec::new();
    if listener.tls == TlsMode::None && (listener.certificate.is_some() || listener.private_key.is_some()) {
        warnings.push(Warning::UnusedFiles { whose: whose.clone(), keys: "certificate and private_key" });
    }
    if listener.tls == TlsMode::None && !listener.certificates.is_empty() {
        warnings.push(Warning::UnusedFiles { whose: whose.clone(), keys: "certificates" });
    }
    if listener.tls == TlsMode::None && listener.client_ca_file.is_some() {
        warnings.push(Warning::UnusedFiles { whose: whose.clone(), keys: "client_ca_file" });
    }
    let name = listener.name.clone();
    if (listener.plaintext_login, listener.tls) == (PlaintextLogin::Never, TlsMode::None) {
        warnings.push(Warning::NoLoginsAtAll { name: name.clone(), address: listener.address.clone() });
    }
    let ListenAddr::Tcp(address) = listener.address else { return warnings };
    if !address.ip().is_loopback() {
        match (listener.plaintext_login, listener.tls) {
            (PlaintextLogin::Always, TlsMode::None | TlsMode::StartTls) => {
                warnings.push(Warning::PlaintextListener { name, address });
            }
            (PlaintextLogin::Loopback, TlsMode::None) => warnings.push(Warning::NoLogins { name, address }),
            _ => {}
        }
    }
    // Without TLS, it is something in front of imapool that has it.
    if listener.tls != TlsMode::None {
        warnings.extend(unusual(whose, address.port(), listener.tls));
    }
    warnings
}

/// Nothing of what is said to it crosses a network.
fn is_near(host: &str) -> bool {
    host.parse::<IpAddr>().map_or(host.eq_ignore_ascii_case("localhost"), |ip| ip.is_loopback())
}

fn of_backend(backend: &Backend) -> Vec<Warning> {
    let whose = format!("backend \"{}\"", backend.name);
    let mut warnings = Vec::new();
    if backend.tls == TlsMode::None && !is_near(&backend.host) {
        warnings.push(Warning::PlaintextBackend { name: backend.name.clone(), address: backend.address() });
    }
    if backend.tls == TlsMode::None && backend.ca_file.is_some() {
        warnings.push(Warning::UnusedFiles { whose: whose.clone(), keys: "ca_file" });
    }
    if backend.tls == TlsMode::None && backend.certificate.is_some() {
        warnings.push(Warning::UnusedFiles { whose: whose.clone(), keys: "certificate and private_key" });
    }
    warnings.extend(unusual(whose, backend.port, backend.tls));
    warnings
}

/// RFC 8314 section 7.1: 143 is for STARTTLS, 993 for implicit TLS.
fn unusual(whose: String, port: u16, tls: TlsMode) -> Option<Warning> {
    let usual = match (port, tls) {
        (993, TlsMode::None | TlsMode::StartTls) => TlsMode::Implicit,
        (143, TlsMode::Implicit) => TlsMode::StartTls,
        _ => return None,
    };
    Some(Warning::UnusualTls { whose, port, tls, usual })
}

/// Those that may overlap because the kernel lets them (`reuse_port`); others are errors.
fn overlaps(listeners: &[Listener]) -> impl Iterator<Item = Warning> {
    listeners.iter().flat_map(move |all| {
        listeners.iter().filter_map(move |one| match (&all.address, &one.address) {
            (ListenAddr::Tcp(wide), ListenAddr::Tcp(address)) if wide.ip().is_unspecified() => {
                let overlap = all.address.overlaps(&one.address) && wide != address;
                overlap.then(|| Warning::Overlap { all: all.name.clone(), one: one.name.clone(), address: *address })
            }
            _ => None,
        })
    })
}

/// Those that no route names, directly or by their group. What files and services say is not known here.
fn unused(config: &Config) -> impl Iterator<Item = Warning> {
    let first = &config.backends[0].name;
    let default = config.routing.default.as_ref().unwrap_or(first);
    let named =
        move |name: &String| config.routes.iter().filter_map(|it| it.to.as_ref()).chain([default]).any(|to| to == name);
    let open = config.routing.moves_file.is_some() || config.routes.iter().any(|route| route.to.is_none());
    let unused =
        config.backends.iter().filter(move |it| !open && !named(&it.name) && !it.group.as_ref().is_some_and(&named));
    unused.map(|backend| Warning::UnusedBackend { name: backend.name.clone() })
}

fn of_times_and_numbers(config: &Config) -> Vec<Warning> {
    let (pool, limits) = (&config.pool, &config.limits);
    let mut warnings = Vec::new();
    if limits.idle_timeout < AUTOLOGOUT {
        warnings.push(Warning::ShortIdleTimeout { value: limits.idle_timeout });
    }
    let others = config.backends.iter().filter_map(|it| it.idle_timeout);
    let others = others.chain(config.accounts.iter().filter_map(|it| it.idle_timeout));
    if pool.keepalive >= AUTOLOGOUT && others.chain([pool.idle_timeout]).any(|time| time >= AUTOLOGOUT) {
        warnings.push(Warning::LateKeepalive { value: pool.keepalive });
    }
    let contradictions = [
        (pool.linger > pool.idle_timeout, "pool.linger", "pool.idle_timeout"),
        (pool.idle_timeout > pool.max_lifetime, "pool.idle_timeout", "pool.max_lifetime"),
        (pool.max_total != 0 && pool.max_per_account > pool.max_total, "pool.max_per_account", "pool.max_total"),
        (limits.sessions_per_address > limits.sessions, "limits.sessions_per_address", "limits.sessions"),
        (limits.tls_handshake_timeout > limits.login_timeout, "limits.tls_handshake_timeout", "limits.login_timeout"),
    ];
    for (contradicts, key, because_of) in contradictions {
        if contradicts {
            warnings.push(Warning::Ineffective { key: key.into(), because_of });
        }
    }
    warnings.extend(of_what_is_otherwise(config));
    warnings
}

/// The same of what takes the place of `[pool]`'s.
fn of_what_is_otherwise(config: &Config) -> Vec<Warning> {
    let pool = &config.pool;
    let backends =
        config.backends.iter().map(|it| (format!("backend \"{}\"", it.name), it.max_per_account, it.idle_timeout));
    let accounts = (1..).zip(&config.accounts);
    let accounts = accounts.map(|(place, it)| (format!("account {place}"), it.max_per_account, it.idle_timeout));
    let in_vain = |(whose, most, rest): (String, Option<usize>, Option<Duration>)| {
        let most = most.filter(|most| pool.max_total != 0 && *most > pool.max_total);
        let rest = rest.filter(|rest| *rest > pool.max_lifetime);
        let most = most.map(|_| (format!("{whose}.max_per_account"), "pool.max_total"));
        [most, rest.map(|_| (format!("{whose}.idle_timeout"), "pool.max_lifetime"))]
    };
    let in_vain = backends.chain(accounts).flat_map(in_vain).flatten();
    in_vain.map(|(key, because_of)| Warning::Ineffective { key: key.into(), because_of }).collect()
}
