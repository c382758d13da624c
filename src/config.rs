//! The configuration file: TOML in, a [`Config`] that cannot be invalid out.

mod diff;
mod error;
mod keys;
mod lifetime;
mod place;
mod read;
mod relay;
mod sections;
mod syntax;
#[cfg(test)]
mod tests;
mod value;
mod warning;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use imapool_proto::routing::name::Names;
pub use imapool_proto::upstream::login::Identify;
use serde::{Serialize, Serializer};

use crate::files;
use crate::platform::HAS;
use crate::secret::{Secret, mark};

pub use diff::{Change, Effect, diff};
pub use error::{ConfigError, Problem};
pub use keys::{
    Account, Admin, Auth, Backend, Group, GroupMode, Limits, Listener, Log, LogFormat, PerCredential, PlaintextLogin,
    Pool, PoolMode, Route, Routing, RoutingName, TlsMode,
};
pub(crate) use keys::{KEYS, Key};
pub use lifetime::Lifetime;
pub use place::Places;
pub(crate) use value::{Shape, is_host_name};

/// Everything `imapool run` needs to know. Made by [`Config::parse`]; every value has been validated.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Where client sessions are accepted; at least one.
    pub listeners: Vec<Listener>,
    /// The IMAP servers; at least one, the first is the default.
    pub backends: Vec<Backend>,
    /// Groups of equal backends.
    pub groups: Vec<Group>,
    /// `[routing]`
    pub routing: Routing,
    /// Which accounts go where; the first that fits decides.
    pub routes: Vec<Route>,
    /// What is otherwise for some accounts; the first that has one of them counts.
    pub accounts: Vec<Account>,
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
            groups: Vec::new(),
            routing: Routing::default(),
            routes: Vec::new(),
            accounts: Vec::new(),
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
        read::read(&text_of(path, &file)?, &file, &files::probe, HAS, sections::config)
    }

    /// Its section `[admin]` alone, for those who ask an imapool that runs: what is wrong elsewhere was refused by it,
    /// and must not keep anybody from asking. The files that it names are not looked at.
    ///
    /// # Errors
    /// Where the file cannot be read, is not TOML, or that section is wrong.
    pub fn read_admin(path: &Path) -> Result<Admin, ConfigError> {
        let file = path.display().to_string();
        read::read(&text_of(path, &file)?, &file, NO_FILES, HAS, sections::admin).map(|(admin, _)| admin)
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
        read::read(text, file_name, NO_FILES, HAS, sections::config).map(|(config, _)| config)
    }

    /// As [`Config::parse`], for a system that has this.
    #[cfg(test)]
    pub(crate) fn parse_for(has: crate::platform::Has, text: &str) -> Result<Config, ConfigError> {
        read::read(text, "f", NO_FILES, has, sections::config).map(|(config, _)| config)
    }

    /// Every key, with its section (empty for the sections themselves).
    pub fn keys() -> Vec<(&'static str, &'static str)> {
        let keys = KEYS.iter().map(|key| (key.section, key.name));
        let mut sections: Vec<_> = KEYS.iter().map(|key| ("", key.section)).collect();
        sections.dedup();
        sections.into_iter().chain(keys).collect()
    }

    /// What is allowed and yet likely to be a mistake, each in one line with the key and a remedy.
    pub fn warnings(&self) -> Vec<String> {
        warning::of(self)
    }
}

/// A part of the configuration which a reload exchanges while it is being read.
pub type Live<T> = Arc<ArcSwap<T>>;

/// For those who look at none of the files that are named.
const NO_FILES: read::Probe<'_> = &|_, _| Ok(());

fn text_of(path: &Path, file: &str) -> Result<String, ConfigError> {
    let read = files::read(path, files::CONFIGURATION);
    let octets = read.map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
    String::from_utf8(octets).map_err(|error| {
        let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]).into_owned();
        let what = "not UTF-8: save the file in that encoding".to_owned();
        ConfigError::Invalid(vec![Problem::new(&Arc::from(file), &valid, valid.len(), what)])
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

    /// Whether other hosts may reach it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        matches!(self, ListenAddr::Tcp(address) if !address.ip().is_loopback())
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

impl Serialize for ListenAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Listener {
    /// A listener with everything but its address by default; its name is the address.
    pub fn new(address: ListenAddr) -> Listener {
        Listener::by_default(address)
    }
}

impl Group {
    /// A group with everything but its name by default.
    pub fn new(name: impl Into<String>) -> Group {
        Group::by_default(name.into())
    }
}

impl Account {
    /// For these, with everything as for all.
    pub fn new(users: Vec<String>) -> Account {
        Account::by_default(users)
    }
}

impl Routing {
    /// How a user's name becomes the key of its account.
    pub fn names(&self) -> Names {
        Names {
            fold: self.user == RoutingName::Lowercase,
            default_domain: self.default_domain.clone(),
            master_separator: self.master_separator.clone(),
        }
    }
}

impl Backend {
    /// A backend with everything but its address by default; its name is the address.
    pub fn new(host: impl Into<String>, port: u16) -> Backend {
        Backend::by_default(host.into(), port)
    }

    /// All its addresses, each a host (a name or an IP address without brackets) and a port.
    pub fn everywhere(&self) -> impl Iterator<Item = (&str, u16)> {
        let further = self.fallback_addresses.iter().map(|further| (further.host.as_str(), further.port));
        std::iter::once((self.host.as_str(), self.port)).chain(further)
    }

    /// `host:port`, an IPv6 address in brackets.
    pub fn address(&self) -> String {
        host_and_port(&self.host, self.port)
    }
}

fn host_and_port(host: &str, port: u16) -> String {
    match host.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) => format!("{host}:{port}"),
    }
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// TCP.
    pub port: u16,
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&host_and_port(&self.host, self.port))
    }
}

/// `group.check`: how it is found out whether a member is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// From the beginning of a check to that of the next, and the longest that one may take (a second, if that is
    /// more).
    #[serde(serialize_with = "in_words")]
    pub interval: Duration,
    /// So many failures in a row: the member is down.
    pub failures: NonZeroU32,
    /// So many successes in a row: it is up again.
    pub successes: NonZeroU32,
    /// The test account that logs in; empty: none does, the greeting will do.
    pub user: String,
    /// The file with its password.
    pub password_file: Option<PathBuf>,
}

impl Default for Check {
    fn default() -> Self {
        const ONE: NonZeroU32 = NonZeroU32::MIN;
        let (failures, successes) = (ONE.saturating_add(2), ONE.saturating_add(1));
        Self { interval: Duration::from_secs(10), failures, successes, user: String::new(), password_file: None }
    }
}

/// As it may be written in the file.
pub(crate) fn in_words<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// What is sent with each lookup of a route. The value may be a secret: it is not told, only whether it is another one.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// `X-Auth-Key`
    pub name: String,
    /// What stands behind the colon.
    pub value: Secret,
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}: … ({:04x})", self.name, mark(&self.value)))
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
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(*number as u64),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl Admin {
    /// Whether other hosts may reach it.
    pub fn is_public(&self) -> bool {
        self.address.as_ref().is_some_and(ListenAddr::is_public)
    }
}
