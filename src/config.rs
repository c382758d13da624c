//! The configuration file: TOML in, a [`Config`] that cannot be invalid out.

mod diff;
mod error;
mod lifetime;
mod place;
mod read;
mod sections;
mod syntax;
#[cfg(test)]
mod tests;
mod value;
mod warning;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
pub use imapool_proto::upstream::login::Identify;
use ipnet::IpNet;
use serde::Serialize;
use toml::de::DeTable;

use crate::files;

pub use diff::{Change, Effect, diff};
pub use error::{ConfigError, Fault, Problem};
pub use lifetime::Lifetime;
pub use place::Places;
pub use warning::Warning;

/// Everything `imapool run` needs to know. Made by [`Config::parse`]; every value has been validated.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

impl Config {
    /// A configuration of one listener and one backend, everything else by default.
    pub fn new(listener: Listener, backend: Backend) -> Config {
        Config {
            listeners: vec![listener],
            backends: vec![backend],
            pool: Pool::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            admin: Admin::default(),
            log: Log::default(),
        }
    }

    /// Reads and parses a file, and makes sure that the files it names (certificates, keys, roots) can be read.
    ///
    /// # Errors
    /// [`ConfigError::Read`] when the file cannot be read, else as [`Config::parse`].
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Self::load_with_places(path).map(|(config, _)| config)
    }

    /// As [`Config::load`]; says also where in the file each value is, for errors that show only when it is used.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with_places(path: &Path) -> Result<(Config, Places), ConfigError> {
        let file = path.display().to_string();
        parse(&text_of(path, &file)?, &file, &files::probe)
    }

    /// Its section `[admin]` alone, for those who ask an imapool that runs: what is wrong elsewhere was refused by it,
    /// and must not keep anybody from asking. The files that it names are not looked at.
    ///
    /// # Errors
    /// Where the file cannot be read, is not TOML, or that section is wrong.
    pub fn read_admin(path: &Path) -> Result<Admin, ConfigError> {
        let file = path.display().to_string();
        let text = text_of(path, &file)?;
        let (root, errors) = DeTable::parse_recoverable(&text);
        let file = Arc::from(file);
        if !errors.is_empty() {
            return Err(ConfigError::Invalid(read::syntax_problems(&file, &text, errors)));
        }
        let mut reader = read::Reader::new(&text, &|_, _| Ok(()));
        let admin = sections::admin(&mut reader, root.get_ref());
        let problems = reader.finish(&file).problems;
        if problems.is_empty() { Ok(admin) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// As [`Config::load`], but the files that it names are not looked at: for those who only compare it, and may not
    /// read them.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let file = path.display().to_string();
        Self::parse(&text_of(path, &file)?, &file)
    }

    /// Parses a configuration; `file_name` is for the messages. Pure: opens no file and looks up no name.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong. Where the text is not even TOML, with that alone.
    pub fn parse(text: &str, file_name: &str) -> Result<Config, ConfigError> {
        parse(text, file_name, &|_, _| Ok(())).map(|(config, _)| config)
    }

    /// Every key the parser knows, with its section (empty for the sections themselves).
    pub fn keys() -> Vec<(&'static str, &'static str)> {
        let (root, _) = DeTable::parse_recoverable("[[listener]]\n[[backend]]\n");
        let mut reader = read::Reader::new("[[listener]]\n[[backend]]\n", &|_, _| Ok(()));
        sections::config(&mut reader, root.get_ref());
        reader.finish(&Arc::from("")).keys
    }

    /// What is allowed and yet likely to be a mistake.
    pub fn warnings(&self) -> Vec<Warning> {
        warning::of(self)
    }
}

/// A part of the configuration which a reload exchanges while it is being read.
pub type Live<T> = Arc<ArcSwap<T>>;

fn parse(text: &str, file_name: &str, probe: read::Probe<'_>) -> Result<(Config, Places), ConfigError> {
    let file = Arc::from(file_name);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(ConfigError::Invalid(read::syntax_problems(&file, text, errors)));
    }
    let mut reader = read::Reader::new(text, probe);
    let config = sections::config(&mut reader, root.get_ref());
    let found = reader.finish(&file);
    match config {
        Some(config) if found.problems.is_empty() => Ok((config, found.places)),
        _ => Err(ConfigError::Invalid(found.problems)),
    }
}

fn text_of(path: &Path, file: &str) -> Result<String, ConfigError> {
    let read = files::read(path, files::CONFIGURATION);
    let octets = read.map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
    String::from_utf8(octets).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        ConfigError::Invalid(vec![Problem::new(&Arc::from(file), &valid, valid.len(), Fault::NotUtf8)])
    })
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// `127.0.0.1:1143`, `[::1]:1143`
    Tcp(SocketAddr),
    /// `unix:/run/imapool/imap.sock`
    Unix(PathBuf),
}

impl ListenAddr {
    /// Whether the kernel takes them for one address, or one for a part of the other: then only one can be listened on,
    /// unless both have `reuse_port`. Addresses of IPv6 are for IPv6 only, and port 0 is a free one.
    #[must_use]
    pub fn overlaps(&self, other: &ListenAddr) -> bool {
        match (self, other) {
            (ListenAddr::Tcp(one), ListenAddr::Tcp(two)) => {
                let same_port = one.port() == two.port() && one.port() != 0 && one.is_ipv4() == two.is_ipv4();
                same_port && (one.ip() == two.ip() || one.ip().is_unspecified() || two.ip().is_unspecified())
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for ListenAddr {
    /// As it is written in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(address) => address.fmt(f),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How TLS begins on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never.
    None,
    /// By the STARTTLS command (RFC 9051 section 6.2.1).
    StartTls,
    /// From the first byte (RFC 8314).
    Implicit,
}

impl TlsMode {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            TlsMode::None => "none",
            TlsMode::StartTls => "starttls",
            TlsMode::Implicit => "implicit",
        }
    }
}

/// Where a password may cross a connection without TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaintextLogin {
    /// Nowhere: LOGINDISABLED until TLS.
    Never,
    /// From loopback addresses and Unix sockets.
    Loopback,
    /// From anywhere.
    Always,
}

impl PlaintextLogin {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            PlaintextLogin::Never => "never",
            PlaintextLogin::Loopback => "loopback",
            PlaintextLogin::Always => "always",
        }
    }
}

/// `[[listener]]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Listener {
    /// For logs; the address by default.
    pub name: String,
    /// Required.
    #[serde(serialize_with = "diff::shown")]
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
    /// Let another imapool process of the same user listen on the same address, to take over from this one (Linux; TCP
    /// only). Default: false.
    pub reuse_port: bool,
}

impl Listener {
    /// A listener with everything but its address by default; its name is the address.
    pub fn new(address: ListenAddr) -> Listener {
        Listener {
            name: address.to_string(),
            address,
            tls: TlsMode::None,
            certificate: None,
            private_key: None,
            proxy_protocol_from: Vec::new(),
            plaintext_login: PlaintextLogin::Loopback,
            reset_on_client_close: true,
            reuse_port: false,
        }
    }
}

/// `[[backend]]`
#[derive(Debug, Clone, PartialEq, Serialize)]
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
    /// Local ports to dial from; a part of the system's ephemeral range (Linux 6.3 and later). Default: all of it.
    #[serde(serialize_with = "diff::ports")]
    pub source_port_range: Option<RangeInclusive<u16>>,
    /// To connect, over all its addresses. Default 5 s.
    #[serde(serialize_with = "diff::words")]
    pub connect_timeout: Duration,
    /// For the TLS handshake, the greeting, and each own command before and during login. Default 30 s.
    #[serde(serialize_with = "diff::words")]
    pub login_timeout: Duration,
    /// How long a command may run without a byte from the backend. Default 10 min.
    #[serde(serialize_with = "diff::words")]
    pub reply_timeout: Duration,
    /// Tell the backend by ID, after each login, that this is imapool. Default: auto.
    pub id: Identify,
    /// Tell the backend by ID for which client's login a connection is opened. Default: false.
    pub forward_client_id: bool,
    /// Begin each connection with a PROXY header, version 2. Default: false.
    pub send_proxy: bool,
}

impl Backend {
    /// A backend with everything but its address by default; its name is the address.
    pub fn new(host: impl Into<String>, port: u16) -> Backend {
        let host = host.into();
        let mut backend = Backend {
            name: String::new(),
            // A certificate never has the dot that ends an absolute name.
            server_name: host.trim_end_matches('.').to_owned(),
            host,
            port,
            tls: TlsMode::None,
            ca_file: None,
            source_addresses: Vec::new(),
            source_port_range: None,
            connect_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(30),
            reply_timeout: Duration::from_secs(600),
            id: Identify::Auto,
            forward_client_id: false,
            send_proxy: false,
        };
        backend.name = backend.address();
        backend
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => SocketAddr::new(ip, self.port).to_string(),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

/// `pool.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// Sessions share connections wherever that is invisible.
    Multiplex,
    /// Each session holds one connection from its first command that needs the server until it ends.
    Session,
}

impl PoolMode {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolMode::Multiplex => "multiplex",
            PoolMode::Session => "session",
        }
    }
}

/// `pool.per_credential`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PerCredential {
    /// Each token has connections of its own; the passwords of an account share.
    Tokens,
    /// Each password has, too.
    Always,
    /// Whatever was accepted for an account shares.
    Never,
}

impl PerCredential {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            PerCredential::Tokens => "tokens",
            PerCredential::Always => "always",
            PerCredential::Never => "never",
        }
    }
}

/// `[pool]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    /// Default: multiplex.
    pub mode: PoolMode,
    /// 1..=1000, default 4.
    pub max_per_account: usize,
    /// 0: from the port budget and the descriptor limit. Default 0.
    pub max_total: usize,
    /// How long a mailbox stays selected on a connection at rest. Default 30 s.
    #[serde(serialize_with = "diff::words")]
    pub linger: Duration,
    /// With multiplexing: how long a command may keep others of its mailbox waiting before these get a further
    /// connection. Default 200 ms.
    #[serde(serialize_with = "diff::words")]
    pub share_patience: Duration,
    /// A connection at rest for so long is retired. Default 5 min.
    #[serde(serialize_with = "diff::words")]
    pub idle_timeout: Duration,
    /// Age (less up to a tenth, by chance) at which a connection is retired. Default 1 h.
    #[serde(serialize_with = "diff::words")]
    pub max_lifetime: Duration,
    /// At rest for longer than this: NOOP before handing out. Default 30 s.
    #[serde(serialize_with = "diff::words")]
    pub check_after: Duration,
    /// NOOP on a connection at rest this often, below the server's own time-out. Default 10 min.
    #[serde(serialize_with = "diff::words")]
    pub keepalive: Duration,
    /// How long a session may wait for a connection. Default 10 s.
    #[serde(serialize_with = "diff::words")]
    pub checkout_timeout: Duration,
    /// Not-authenticated connections kept ready for each backend, to verify credentials on. Default 2.
    pub spare: usize,
    /// Which credentials of one account have connections of their own. Default: tokens.
    pub per_credential: PerCredential,
    /// A reply still coming when its client is gone is read to its end within this many bytes... Default 256 KiB.
    pub drain_bytes: usize,
    /// ...and this time, else the connection is destroyed. Default 2 s.
    #[serde(serialize_with = "diff::words")]
    pub drain_timeout: Duration,
}

impl Default for Pool {
    fn default() -> Pool {
        Pool {
            mode: PoolMode::Multiplex,
            max_per_account: 4,
            max_total: 0,
            linger: Duration::from_secs(30),
            share_patience: Duration::from_millis(200),
            idle_timeout: Duration::from_secs(300),
            max_lifetime: Duration::from_secs(3600),
            check_after: Duration::from_secs(30),
            keepalive: Duration::from_secs(600),
            checkout_timeout: Duration::from_secs(10),
            spare: 2,
            per_credential: PerCredential::Tokens,
            drain_bytes: 256 * 1024,
            drain_timeout: Duration::from_secs(2),
        }
    }
}

/// `[auth]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Auth {
    /// How long a credential is accepted without asking the backend, counted from the backend's word. 0: never.
    /// Default 5 min.
    #[serde(serialize_with = "diff::words")]
    pub cache_ttl: Duration,
    /// Answers to a wrong credential are held back this long (doubling with each further failure of the same
    /// account from the same client address within a minute, and with every four of that address; up to 16 times).
    /// Default 1 s.
    #[serde(serialize_with = "diff::words")]
    pub failure_delay: Duration,
}

impl Default for Auth {
    fn default() -> Auth {
        Auth { cache_ttl: Duration::from_secs(300), failure_delay: Duration::from_secs(1) }
    }
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limits {
    /// Client sessions in all. Default 20,000.
    pub sessions: usize,
    /// Of these, connections that have not logged in; the oldest gives way to the next. Default 25 %.
    pub unauthenticated: Share,
    /// Client sessions of one client address; 0: only `sessions` counts. Default 0: a front end is one address.
    pub sessions_per_address: usize,
    /// Default 10 s.
    #[serde(serialize_with = "diff::words")]
    pub tls_handshake_timeout: Duration,
    /// From accept to authenticated. Default 60 s.
    #[serde(serialize_with = "diff::words")]
    pub login_timeout: Duration,
    /// Without a byte from the client (RFC 9051 section 5.4: at least 30 min). Default 30 min.
    #[serde(serialize_with = "diff::words")]
    pub idle_timeout: Duration,
    /// How long a client may refuse to take what it asked for. Default 5 min.
    #[serde(serialize_with = "diff::words")]
    pub write_timeout: Duration,
    /// Octets of a command line. Default 64 KiB.
    pub command_line: usize,
    /// Octets of the literals of one command, other than a message's. Default 64 KiB.
    pub literals: usize,
    /// On SIGTERM: how long commands in flight may still run. Default 30 s.
    #[serde(serialize_with = "diff::words")]
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            sessions: 20_000,
            unauthenticated: Share::Percent(25),
            sessions_per_address: 0,
            tls_handshake_timeout: Duration::from_secs(10),
            login_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(30 * 60),
            write_timeout: Duration::from_secs(300),
            command_line: 64 * 1024,
            literals: 64 * 1024,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// A limit within another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Number(usize),
    /// Such a part of the other, 1 to 100.
    Percent(u8),
}

impl Share {
    /// Of a part: a few at least, so that small numbers do not leave less than a burst needs.
    const LEAST: usize = 10;

    /// As a number, where the other limit is `whole`.
    #[must_use]
    pub fn of(self, whole: usize) -> usize {
        match self {
            Self::Number(number) => number.min(whole),
            Self::Percent(percent) => (whole.saturating_mul(percent.into()) / 100).max(Self::LEAST).min(whole),
        }
    }
}

impl Serialize for Share {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(*number as u64),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Admin {
    /// Default 127.0.0.1:9143; `None` (written `""`): no admin address.
    #[serde(serialize_with = "diff::shown_or_empty")]
    pub address: Option<ListenAddr>,
    /// A file with the token that actions need. Default: none; then the environment variable IMAPOOL_ADMIN_TOKEN
    /// counts, and without either there are no actions.
    pub token_file: Option<PathBuf>,
    /// Names, beside IP addresses and `localhost`, by which the admin address may be called.
    pub hosts: Vec<String>,
}

impl Default for Admin {
    fn default() -> Admin {
        let address = ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9143)));
        Admin { address: Some(address), token_file: None, hosts: Vec::new() }
    }
}

impl Admin {
    /// Whether other hosts may reach it.
    pub fn is_public(&self) -> bool {
        matches!(self.address, Some(ListenAddr::Tcp(address)) if !address.ip().is_loopback())
    }
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Log {
    /// Default: text.
    pub format: LogFormat,
    /// error | warn | info | debug | trace; default: info.
    pub level: String,
    /// A line for each client session at its end. Default: true.
    pub sessions: bool,
    /// A command that takes longer is logged at its end; zero: none is. Default: 10s.
    #[serde(serialize_with = "diff::words")]
    pub slow: Duration,
}

impl Default for Log {
    fn default() -> Log {
        Log { format: LogFormat::Text, level: "info".to_owned(), sessions: true, slow: Duration::from_secs(10) }
    }
}
