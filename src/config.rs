//! The configuration file: TOML in, a [`Config`] that cannot be invalid out.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Everything `imapool run` needs to know. Made by [`Config::parse`]; every value has been validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where client sessions are accepted; at least one.
    pub listeners: Vec<Listener>,
    /// The IMAP servers; at least one, the first is the default.
    pub backends: Vec<Backend>,
    /// `[pool]`
    pub pool: Pool,
    /// `[auth]`
    pub auth: Auth,
    /// `[limits]`
    pub limits: Limits,
    /// `[admin]`; `address = ""` switches it off.
    pub admin: Admin,
    /// `[log]`
    pub log: Log,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// `127.0.0.1:1143`, `[::1]:1143`
    Tcp(SocketAddr),
    /// `unix:/run/imapool/imap.sock`
    Unix(PathBuf),
}

/// How TLS begins on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    None,
    /// By the STARTTLS command (RFC 9051 section 6.2.1).
    StartTls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// Where a password may cross a connection without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaintextLogin {
    /// Nowhere: LOGINDISABLED until TLS.
    Never,
    /// From loopback addresses and Unix sockets.
    Loopback,
    /// From anywhere.
    Always,
}

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// For logs; the address by default.
    pub name: String,
    /// Required.
    pub address: ListenAddr,
    /// Default: none.
    pub tls: TlsMode,
    /// PEM certificate chain and private key; present when `tls` is not none.
    pub certificate: Option<PathBuf>,
    /// See `certificate`.
    pub private_key: Option<PathBuf>,
    /// Peers in these networks must send a PROXY header, and are believed.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Default: loopback.
    pub plaintext_login: PlaintextLogin,
    /// Answer a client that closes without LOGOUT by a reset, once all it is owed was delivered. Default: true.
    pub reset_on_client_close: bool,
}

/// `[[backend]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// For logs and metric labels; the address by default.
    pub name: String,
    /// Host (a name or an IP address) and port; required.
    pub host: String,
    /// See `host`.
    pub port: u16,
    /// Default: none.
    pub tls: TlsMode,
    /// What the certificate must say; the host by default.
    pub server_name: String,
    /// PEM roots instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Local addresses to dial from, in turn; empty: the kernel chooses.
    pub source_addresses: Vec<IpAddr>,
    /// To connect, over all its addresses. Default 5 s.
    pub connect_timeout: Duration,
    /// For the TLS handshake, the greeting, and each own command before and during login. Default 30 s.
    pub login_timeout: Duration,
    /// How long a command may run without a byte from the backend. Default 10 min.
    pub reply_timeout: Duration,
}

/// `pool.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// Sessions share connections wherever that is invisible.
    Multiplex,
    /// Each session holds one connection from its first command that needs the server until it ends.
    Session,
}

/// `[pool]`
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Default (while multiplexing is being built): session.
    pub mode: PoolMode,
    /// 1..=1000, default 4.
    pub max_per_account: usize,
    /// 0: from the port budget and the descriptor limit. Default 0.
    pub max_total: usize,
    /// How long a mailbox stays selected on a connection at rest. Default 30 s.
    pub linger: Duration,
    /// A connection at rest for so long is retired. Default 5 min.
    pub idle_timeout: Duration,
    /// Age (less up to a tenth, by chance) at which a connection is retired. Default 1 h.
    pub max_lifetime: Duration,
    /// At rest for longer than this: NOOP before handing out. Default 30 s.
    pub check_after: Duration,
    /// NOOP on a connection at rest this often, below the server's own time-out. Default 10 min.
    pub keepalive: Duration,
    /// How long a session may wait for a connection. Default 10 s.
    pub checkout_timeout: Duration,
    /// Not-authenticated connections kept per backend to verify credentials on. Default 2.
    pub spare: usize,
    /// Keep the connections of different credentials of one account apart. Default false.
    pub per_credential: bool,
    /// A reply still coming when its client is gone is read to its end within this many bytes... Default 256 KiB.
    pub drain_bytes: usize,
    /// ...and this time, else the connection is destroyed. Default 2 s.
    pub drain_timeout: Duration,
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// How long a credential is accepted without asking the backend, counted from the backend's word. 0: never.
    /// Default 5 min.
    pub cache_ttl: Duration,
    /// Answers to a wrong credential are held back this long (doubling with each further failure of the same
    /// account or client address within a minute, up to 16 times). Default 1 s.
    pub failure_delay: Duration,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Client sessions in all. Default 20,000.
    pub sessions: usize,
    /// Client sessions of one client address; 0: only `sessions` counts. Default 0: a front end is one address.
    pub sessions_per_address: usize,
    /// Default 10 s.
    pub tls_handshake_timeout: Duration,
    /// From accept to authenticated. Default 60 s.
    pub login_timeout: Duration,
    /// Without a byte from the client (RFC 9051 section 5.4: at least 30 min). Default 30 min.
    pub idle_timeout: Duration,
    /// How long a client may refuse to take what it asked for. Default 5 min.
    pub write_timeout: Duration,
    /// Octets of a command line. Default 64 KiB.
    pub command_line: usize,
    /// Octets of the literals of one command, other than a message's. Default 64 KiB.
    pub literals: usize,
    /// On SIGTERM: how long commands in flight may still run. Default 30 s.
    pub drain_timeout: Duration,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Default 127.0.0.1:9143; `None` (written `""`): no admin address.
    pub address: Option<SocketAddr>,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Default: text.
    pub format: LogFormat,
    /// error | warn | info | debug | trace; default: info.
    pub level: String,
}
