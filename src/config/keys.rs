//! Every key of the configuration, a row each: its type, its default, what it may be, and what a reload does about a
//! change. The parser, `/api/config`, the schema and `imapool check --diff` go by it. What a key is about, operators
//! are told by config/imapool.toml.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::Value as Json;

use super::diff::Effect;
use super::read::Section;
use super::value::{self, Kind, Shape, YEAR, duration, flag, integer, list, one_of, or_none, share, size, text};
use super::{Check, Header, HostPort, Identify, ListenAddr, Share, host_and_port};

const IDENTIFY: &[Identify] = &[Identify::Auto, Identify::Always, Identify::Never];
const LOG_LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// More sessions or connections than any host carries.
const MILLION: usize = 1_000_000;
/// Of connections of one account.
const PLACES: RangeInclusive<usize> = 1..=1000;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// The least duration of those where zero does not mean "at once" or "never".
const MS: Duration = Duration::from_millis(1);
const ZERO: Duration = Duration::ZERO;

/// What is known of a key, whatever the type of its value.
pub(crate) struct Key {
    pub(crate) section: &'static str,
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// As it is told; `None`: the key is required.
    pub(crate) default: Option<Json>,
    /// What comes of another value at a reload.
    pub(crate) effect: Effect,
}

/// The whole table, in the order in which messages name the keys.
pub(crate) static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let listener = Listener::new(ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))));
    let mut keys = listener.keys();
    keys.extend(Backend::new("localhost", 143).keys());
    keys.extend(Group::new(String::new()).keys());
    keys.extend(Routing::default().keys());
    keys.extend(Route::default().keys());
    keys.extend(Account::new(Vec::new()).keys());
    keys.extend(Pool::default().keys());
    keys.extend(Auth::default().keys());
    keys.extend(Limits::default().keys());
    keys.extend(Admin::default().keys());
    keys.extend(Log::default().keys());
    keys
});

fn key<T>(section: &'static str, name: &'static str, value: &T, kind: Kind<T>, effect: Effect) -> Key {
    Key { section, name, shape: kind.shape, default: Some((kind.show)(value)), effect }
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Declares a closed set of words.
macro_rules! words {
    ($($(#[$about:meta])* $name:ident { $($(#[$of_word:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub enum $name {
            $($(#[$of_word])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word for it in the configuration.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }
    )*};
}

/// Declares a section of the file by its keys: `name: type = default, kind, effect;`. One that may be there several
/// times has a required key, and fields that come from it, on which defaults may depend.
macro_rules! section {
    (@shape) => { Shape::Text };
    (@shape $shape:expr) => { $shape };
    ($(#[$about:meta])* [$section:ident] $name:ident { $($keys:tt)* }) => {
        section! { $(#[$about])* [[$section]] $name {} { $($keys)* } }

        impl Default for $name {
            fn default() -> Self {
                Self::by_default()
            }
        }
    };
    (
        $(#[$about:meta])*
        [[$section:ident]] $name:ident {
            $($required:ident, $required_effect:ident $(, $shape:expr)?; $($(#[$of_field:meta])* $field:ident: $field_type:ty;)*)?
        } {
            $($(#[$of_key:meta])* $key:ident: $type:ty = $default:expr, $kind:expr, $effect:ident;)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($($(#[$of_field])* pub $field: $field_type,)*)?
            $(
                $(#[$of_key])*
                #[doc = concat!("\n\nDefault: `", stringify!($default), "`. Of the kind `", stringify!($kind), "`.")]
                pub $key: $type,
            )*
        }

        impl $name {
            pub(super) fn by_default($($($field: $field_type),*)?) -> Self {
                Self { $($key: $default,)* $($($field),*)? }
            }

            /// With what the file says in place of these values.
            pub(super) fn read(self, section: &Section<'_>) -> Self {
                Self {
                    $($key: section.or(stringify!($key), self.$key, $kind),)*
                    $($($field: self.$field),*)?
                }
            }

            /// Its keys, with these values as defaults.
            fn keys(&self) -> Vec<Key> {
                const SECTION: &str = stringify!($section);
                vec![
                    $(Key {
                        section: SECTION,
                        name: stringify!($required),
                        shape: section!(@shape $($shape)?),
                        default: None,
                        effect: Effect::$required_effect,
                    },)?
                    $(key(SECTION, stringify!($key), &self.$key, $kind, Effect::$effect),)*
                ]
            }
        }

        impl Serialize for $name {
            /// As it is told: values as they may be written in the file.
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let fields: Vec<(&str, Json)> = vec![$($((stringify!($field), value::json(&self.$field))),*)?];
                let keys = self.keys().into_iter().filter_map(|key| Some((key.name, key.default?)));
                serializer.collect_map(fields.into_iter().chain(keys))
            }
        }
    };
}

words! {
    /// How TLS begins on a connection.
    TlsMode {
        /// Never.
        None = "none",
        /// By the STARTTLS command (RFC 9051 section 6.2.1).
        StartTls = "starttls",
        /// From the first byte (RFC 8314).
        Implicit = "implicit",
    }
    /// Where a password may cross a connection without TLS.
    PlaintextLogin {
        /// Nowhere: LOGINDISABLED until TLS.
        Never = "never",
        /// From loopback addresses and Unix sockets.
        Loopback = "loopback",
        /// From anywhere.
        Always = "always",
    }
    /// `routing.user`
    RoutingName {
        /// Spellings that servers take for one name are one.
        Lowercase = "lowercase",
        /// Every octet counts.
        Exact = "exact",
    }
    /// `group.mode`
    GroupMode {
        /// The backends are mail servers, towards which connections are pooled.
        Pool = "pool",
        /// They are replicas of this imapool: a session goes through to the one that has its account.
        Relay = "relay",
    }
    /// `pool.mode`
    PoolMode {
        /// Sessions share connections wherever that is invisible.
        Multiplex = "multiplex",
        /// Each session holds one connection from its first command that needs the server until it ends.
        Session = "session",
    }
    /// `pool.per_credential`
    PerCredential {
        /// Each token has connections of its own; the passwords of an account share.
        Tokens = "tokens",
        /// Each password has, too.
        Always = "always",
        /// Whatever was accepted for an account shares.
        Never = "never",
    }
    /// `log.format`
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

section! {
    /// `[[listener]]`
    [[listener]] Listener {
        address, NewSessions;
        /// Required.
        address: ListenAddr;
    } {
        /// For logs.
        name: String = address.to_string(), text(value::name), NewSessions;
        /// How clients begin TLS.
        tls: TlsMode = TlsMode::None, one_of(TlsMode::ALL, TlsMode::as_str), NewSessions;
        /// PEM certificate chain and private key; present when `tls` is not none.
        certificate: Option<PathBuf> = None, text(value::path), NewSessions;
        /// See `certificate`.
        private_key: Option<PathBuf> = None, text(value::path), NewSessions;
        /// Files and folders with further certificates, which clients get who ask for their names (SNI).
        certificates: Vec<PathBuf> = Vec::new(),
            list("a list of files and folders such as [\"/etc/imapool/certs\"]", value::file_or_folder), NewSessions;
        /// PEM authorities, one of which has to have signed each client's certificate; `None`: clients need none.
        client_ca_file: Option<PathBuf> = None, text(value::path), NewSessions;
        /// Peers in these networks must send a PROXY header, and are believed.
        proxy_protocol_from: Vec<IpNet> = Vec::new(),
            list("a list of networks such as [\"10.0.0.0/8\"]", value::network), NewSessions;
        /// Where a password may come from without TLS.
        plaintext_login: PlaintextLogin = PlaintextLogin::Loopback,
            one_of(PlaintextLogin::ALL, PlaintextLogin::as_str), NewSessions;
        /// Answer a client that closes without LOGOUT by a reset, once all it is owed was delivered.
        reset_on_client_close: bool = true, flag(), NewSessions;
        /// Let another imapool process of the same user listen on the same address, to take over from this one (Linux;
        /// TCP only). It is the socket's, which stays at a reload.
        reuse_port: bool = false, flag(), Restart;
    }
}

// Whatever is another about a backend: it is another backend.
section! {
    /// `[[backend]]`
    [[backend]] Backend {
        address, Reconnect;
        /// Host (a name or an IP address) and port; required.
        host: String;
        /// See `host`.
        port: u16;
    } {
        /// Further addresses of the same server: `host:port`.
        fallback_addresses: Vec<HostPort> = Vec::new(),
            list("a list of addresses such as [\"192.0.2.11:143\"]", value::host_port), Reconnect;
        /// For logs and metric labels.
        name: String = host_and_port(&host, port), text(value::name), Reconnect;
        /// How TLS begins.
        tls: TlsMode = TlsMode::None, one_of(TlsMode::ALL, TlsMode::as_str), Reconnect;
        /// What the certificate must say: never the dot that ends an absolute name.
        server_name: String = host.trim_end_matches('.').to_owned(), text(value::server_name), Reconnect;
        /// PEM roots instead of the system's.
        ca_file: Option<PathBuf> = None, text(value::path), Reconnect;
        /// PEM certificate chain and private key that are shown to a backend that asks; both or neither.
        certificate: Option<PathBuf> = None, text(value::path), Reconnect;
        /// See `certificate`.
        private_key: Option<PathBuf> = None, text(value::path), Reconnect;
        /// Local addresses to dial from, in turn; empty: the kernel chooses.
        source_addresses: Vec<IpAddr> = Vec::new(),
            list("a list of IP addresses such as [\"192.0.2.7\"]", value::source_address), Reconnect;
        /// Local ports to dial from, a part of the system's ephemeral range (Linux 6.3 and later); `None`: all of it.
        source_port_range: Option<RangeInclusive<u16>> = None, value::port_range(), Reconnect;
        /// To connect, over all its addresses.
        connect_timeout: Duration = secs(5), duration(MS..=YEAR), Reconnect;
        /// For the TLS handshake, the greeting, and each own command before and during login.
        login_timeout: Duration = secs(30), duration(MS..=YEAR), Reconnect;
        /// How long a command may run without a byte from the backend.
        reply_timeout: Duration = secs(10 * 60), duration(MS..=YEAR), Reconnect;
        /// Tell the backend by ID, after each login, that this is imapool.
        id: Identify = Identify::Auto, one_of(IDENTIFY, Identify::as_str), Reconnect;
        /// Tell the backend by ID for which client's login a connection is opened.
        forward_client_id: bool = false, flag(), Reconnect;
        /// Begin each connection with a PROXY header, version 2.
        send_proxy: bool = false, flag(), Reconnect;
        /// The group of equal backends that it is in; `None` (written `""`): in none.
        group: Option<String> = None, or_none(text(value::name)), NewSessions;
        /// Its share of the group's accounts, in proportion to the others'; 0: no new ones.
        weight: usize = 100, integer(0..=MILLION), NewSessions;
        /// In place of `pool.mode`, for accounts there.
        mode: Option<PoolMode> = None, or_none(one_of(PoolMode::ALL, PoolMode::as_str)), NewSessions;
        /// In place of `pool.max_per_account`, for accounts there.
        max_per_account: Option<usize> = None, or_none(integer(PLACES)), AtOnce;
        /// In place of `pool.idle_timeout`, for accounts there.
        idle_timeout: Option<Duration> = None, or_none(duration(MS..=YEAR)), NewConnections;
    }
}

section! {
    /// `[[group]]`
    [[group]] Group {
        name, NewSessions;
        /// For routes and backends; required.
        name: String;
    } {
        /// How long an account stays at its backend after its last session, whatever the hash says by then.
        stay: Duration = secs(15 * 60), duration(ZERO..=YEAR), NewSessions;
        /// What is done with sessions that go to one of its backends.
        mode: GroupMode = GroupMode::Pool, one_of(GroupMode::ALL, GroupMode::as_str), NewSessions;
        /// With `mode = "relay"`: the listener by which the replicas reach each other; `None` (written `""`) otherwise.
        inner: Option<String> = None, or_none(text(value::name)), NewSessions;
        /// Whether accounts of a member that is down go to the others, and when; `None`: never.
        failover_after: Option<Duration> = None, value::duration_or_never(ZERO..=YEAR), NewSessions;
        /// How members are checked.
        check: Check = Check::default(), value::check(), AtOnce;
        /// With failover: a member that has come back gets its share of the accounts over so long.
        slow_start: Duration = ZERO, duration(ZERO..=YEAR), AtOnce;
    }
}

section! {
    /// `[routing]`
    [routing] Routing {
        /// The backend or group for whom no route fits; `""`: they are refused. `None`: the first backend.
        default: Option<String> = None, value::target(), NewSessions;
        /// How a user's name becomes what routes go by.
        user: RoutingName = RoutingName::Lowercase, one_of(RoutingName::ALL, RoutingName::as_str), NewSessions;
        /// What stands behind `@` where a name has none.
        default_domain: String = String::new(), text(value::domain), NewSessions;
        /// Where `imapool ctl move` keeps who was moved; `None`: nobody can be.
        moves_file: Option<PathBuf> = None, text(value::path), NewSessions;
        /// Which backend of the groups that relay this process is. `None` (written `""`): the one that has the host's
        /// name up to its first dot.
        replica: Option<String> = None, or_none(text(value::name)), NewSessions;
        /// What stands between a user's name and a master's; empty: nothing does.
        master_separator: String = String::new(), text(value::separator), NewSessions;
    }
}

section! {
    /// `[[route]]`
    [route] Route {
        /// Accounts: names, `@domain`, `@*.domain`. Empty: all.
        users: Vec<String> = Vec::new(), value::users(), NewSessions;
        /// Names of listeners. Empty: all.
        listeners: Vec<String> = Vec::new(),
            list("a list of listeners' names such as [\"webmail\"]", value::name), NewSessions;
        /// Names by which clients call this host in TLS. Empty: all.
        server_names: Vec<String> = Vec::new(),
            list("a list of host names such as [\"imap.example.org\"]", value::server_name_or_below), NewSessions;
        /// The backend or group; `""`: nobody, they are refused. `None` where a file says it.
        to: Option<String> = None, value::target(), NewSessions;
        /// A file that says it, a line for each account.
        file: Option<PathBuf> = None, text(value::path), NewSessions;
        /// The URL of a service that says it.
        http: Option<String> = None, text(value::url), NewSessions;
        /// For all of a lookup.
        timeout: Duration = secs(5), duration(MS..=YEAR), NewSessions;
        /// How long an answer is good.
        ttl: Duration = secs(60), duration(ZERO..=YEAR), NewSessions;
        /// How long a refusal is good.
        negative_ttl: Duration = secs(10), duration(ZERO..=YEAR), NewSessions;
        /// How much longer than `ttl` an answer serves an account that has sessions, while the service cannot be asked.
        stale: Duration = secs(10 * 60), duration(ZERO..=YEAR), NewSessions;
        /// Sent with each lookup: `Name: value`. Only the names are told.
        headers: Vec<Header> = Vec::new(), value::headers(), NewSessions;
        /// Whether the service is told what the client logs in with.
        send_password: bool = false, flag(), NewSessions;
    }
}

section! {
    /// `[[account]]`
    [[account]] Account {
        users, AtOnce, Shape::List;
        /// Names, `@domain`, `@*.domain`; required, and not empty.
        users: Vec<String>;
    } {
        /// In place of `pool.mode`.
        mode: Option<PoolMode> = None, or_none(one_of(PoolMode::ALL, PoolMode::as_str)), NewSessions;
        /// In place of `pool.max_per_account`.
        max_per_account: Option<usize> = None, or_none(integer(PLACES)), AtOnce;
        /// In place of `pool.idle_timeout`.
        idle_timeout: Option<Duration> = None, or_none(duration(MS..=YEAR)), NewConnections;
        /// Client sessions of one account at once; 0: only those of all count.
        sessions: usize = 0, integer(0..=MILLION), AtOnce;
        /// Whether they may log in.
        allow: bool = true, flag(), AtOnce;
    }
}

section! {
    /// `[pool]`
    [pool] Pool {
        /// Whether sessions share connections.
        mode: PoolMode = PoolMode::Multiplex, one_of(PoolMode::ALL, PoolMode::as_str), NewSessions;
        /// Connections.
        max_per_account: usize = 4, integer(PLACES), AtOnce;
        /// How many processes like this share nothing and divide the server's limits: `max_per_account`, `max_total`
        /// and the ports.
        replicas: usize = 1, integer(1..=1000), AtOnce;
        /// Connections. 0: from the port budget and the descriptor limit.
        max_total: usize = 0, integer(0..=MILLION), AtOnce;
        /// How long a mailbox stays selected on a connection at rest.
        linger: Duration = secs(30), duration(ZERO..=YEAR), NewConnections;
        /// With multiplexing: how long a command may keep others of its mailbox waiting before these get a further
        /// connection.
        share_patience: Duration = Duration::from_millis(200), duration(ZERO..=YEAR), NewHubs;
        /// A connection at rest for so long is retired.
        idle_timeout: Duration = secs(5 * 60), duration(MS..=YEAR), NewConnections;
        /// Age (less up to a tenth, by chance) at which a connection is retired.
        max_lifetime: Duration = secs(60 * 60), duration(MS..=YEAR), NewConnections;
        /// At rest for longer than this: NOOP before handing out.
        check_after: Duration = secs(30), duration(ZERO..=YEAR), AtOnce;
        /// NOOP on a connection at rest this often, below the server's own time-out.
        keepalive: Duration = secs(10 * 60), duration(MS..=YEAR), NewConnections;
        /// How long a session may wait for a connection.
        checkout_timeout: Duration = secs(10), duration(MS..=YEAR), AtOnce;
        /// Not-authenticated connections kept ready for each backend, to verify credentials on.
        spare: usize = 2, integer(0..=100), AtOnce;
        /// Which credentials of one account have connections of their own. (It was true or false before there was a
        /// third way.)
        per_credential: PerCredential = PerCredential::Tokens,
            value::boolean_or(
                [PerCredential::Never, PerCredential::Always],
                one_of(PerCredential::ALL, PerCredential::as_str),
            ), Reconnect;
        /// A reply still coming when its client is gone is read to its end within this many bytes...
        drain_bytes: usize = 256 * KIB, size(0..=1024 * MIB), AtOnce;
        /// ...and this time, else the connection is destroyed.
        drain_timeout: Duration = secs(2), duration(ZERO..=YEAR), AtOnce;
    }
}

section! {
    /// `[auth]`
    [auth] Auth {
        /// How long a credential is accepted without asking the backend, counted from the backend's word. 0: never.
        cache_ttl: Duration = secs(5 * 60), duration(ZERO..=YEAR), AtOnce;
        /// Answers to a wrong credential are held back this long (doubling with each further failure of the same
        /// account from the same client address within a minute, and with every four of that address; up to 16 times).
        failure_delay: Duration = secs(1), duration(ZERO..=YEAR), AtOnce;
    }
}

section! {
    /// `[limits]`
    [limits] Limits {
        /// Client sessions in all.
        sessions: usize = 20_000, integer(1..=MILLION), AtOnce;
        /// Of these, connections that have not logged in; the oldest gives way to the next.
        unauthenticated: Share = Share::Percent(25), share(1..=MILLION), AtOnce;
        /// Client sessions of one client address; 0: only `sessions` counts, for a front end is one address.
        sessions_per_address: usize = 0, integer(0..=MILLION), AtOnce;
        /// For the TLS handshake with a client.
        tls_handshake_timeout: Duration = secs(10), duration(MS..=YEAR), NewSessions;
        /// From accept to authenticated.
        login_timeout: Duration = secs(60), duration(MS..=YEAR), NewSessions;
        /// Without a byte from the client (RFC 9051 section 5.4: at least 30 min).
        idle_timeout: Duration = secs(30 * 60), duration(MS..=YEAR), NewSessions;
        /// How long a client may refuse to take what it asked for.
        write_timeout: Duration = secs(5 * 60), duration(MS..=YEAR), NewSessions;
        /// Octets of a command line: from shorter than any client's to more than anyone should have to buffer.
        command_line: usize = 64 * KIB, size(512..=64 * MIB), NewSessions;
        /// Octets of the literals of one command, other than a message's.
        literals: usize = 64 * KIB, size(512..=64 * MIB), NewSessions;
        /// On SIGTERM: how long commands in flight may still run.
        drain_timeout: Duration = secs(30), duration(ZERO..=YEAR), AtOnce;
    }
}

section! {
    /// `[admin]`
    [admin] Admin {
        /// `None` (written `""`): no admin address.
        address: Option<ListenAddr> = Some(ListenAddr::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 9143)))),
            or_none(text(value::admin_address)), AtOnce;
        /// A file with the token that actions need. Without it the environment variable IMAPOOL_ADMIN_TOKEN counts, and
        /// without either there are no actions.
        token_file: Option<PathBuf> = None, text(value::path), AtOnce;
        /// Names, beside IP addresses and `localhost`, by which the admin address may be called.
        hosts: Vec<String> = Vec::new(),
            list("a list of host names such as [\"imapool.example.org\"]", value::host_name), AtOnce;
    }
}

section! {
    /// `[log]`
    [log] Log {
        /// One of the levels of `tracing`.
        level: String = "info".to_owned(), one_of(LOG_LEVELS, |level| level), UnlessRustLog;
        /// For people or for machines.
        format: LogFormat = LogFormat::Text, one_of(LogFormat::ALL, LogFormat::as_str), Restart;
        /// A line for each client session at its end.
        sessions: bool = true, flag(), UnlessRustLog;
        /// A command that takes longer is logged at its end; zero: none is.
        slow: Duration = secs(10), duration(ZERO..=YEAR), NewSessions;
    }
}
