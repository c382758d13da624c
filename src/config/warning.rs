//! What a configuration may say, but should not say unawares.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Backend, Config, ListenAddr, Listener, PlaintextLogin, TlsMode};

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
    /// A value that another one keeps from ever taking effect.
    Ineffective {
        /// The key with its section.
        key: &'static str,
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
        }
    }
}

pub(super) fn of(config: &Config) -> Vec<Warning> {
    let listeners = config.listeners.iter().filter_map(of_listener);
    let backends = config.backends.iter().filter_map(of_backend);
    let admin = match config.admin.address {
        Some(ListenAddr::Tcp(address)) if config.admin.is_public() => Some(Warning::PublicAdmin { address }),
        _ => None,
    };
    listeners.chain(backends).chain(admin).chain(of_times_and_numbers(config)).collect()
}

fn of_listener(listener: &Listener) -> Option<Warning> {
    let ListenAddr::Tcp(address) = listener.address else { return None };
    let exposed = listener.plaintext_login == PlaintextLogin::Always
        && listener.tls != TlsMode::Implicit
        && !address.ip().is_loopback();
    exposed.then(|| Warning::PlaintextListener { name: listener.name.clone(), address })
}

fn of_backend(backend: &Backend) -> Option<Warning> {
    let near = match backend.host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => backend.host == "localhost",
    };
    let exposed = backend.tls == TlsMode::None && !near;
    exposed.then(|| Warning::PlaintextBackend { name: backend.name.clone(), address: backend.address() })
}

fn of_times_and_numbers(config: &Config) -> Vec<Warning> {
    let (pool, limits) = (&config.pool, &config.limits);
    let mut warnings = Vec::new();
    if limits.idle_timeout < AUTOLOGOUT {
        warnings.push(Warning::ShortIdleTimeout { value: limits.idle_timeout });
    }
    if pool.keepalive >= AUTOLOGOUT && pool.idle_timeout >= AUTOLOGOUT {
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
            warnings.push(Warning::Ineffective { key, because_of });
        }
    }
    warnings
}
