//! What a caller can ask of the server: content, passwords, capabilities, limits and faults.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::personality::{Names, Quirks, Words};
use super::store::Store;

/// How a [`Server`](super::Server) behaves. `Options::default()` is a well-behaved server on a free port of
/// 127.0.0.1 which accepts any user whose password is `pw-<user>`.
#[derive(Clone)]
pub struct Options {
    /// Where to listen; port 0 takes a free one. Default: 127.0.0.1:0.
    pub addresses: Vec<SocketAddr>,
    /// Who may log in. Can be changed later by [`Server::set_passwords`](super::Server::set_passwords).
    pub passwords: Passwords,
    /// What an account holds when it is first used.
    pub seed: Seed,
    /// The content of a server that was stopped, to go on with after a restart. Default: an empty store.
    pub store: Option<Store>,
    /// Every text the server writes carries `acct=<user> conn=<n>` (and `enabled=…`), so that a test can tell
    /// whose reply it reads. Default: false.
    pub marker: bool,
    /// What the server offers and where it says so.
    pub capabilities: Capabilities,
    /// What ENABLE accepts, upper case. Default: UTF8=ACCEPT and CONDSTORE.
    pub enable: Vec<String>,
    /// Waited before the answer to each command. Default: zero.
    pub command_delay: Duration,
    /// Waited before the answer to each LOGIN or AUTHENTICATE, as a password hash would. Default: zero.
    pub login_delay: Duration,
    /// Authenticated connections of one account; further logins get `NO [LIMIT]` with Dovecot's text.
    pub max_connections_per_account: Option<usize>,
    /// Open connections in all; a further one is closed at once. Default: 20,000.
    pub max_connections: usize,
    /// Octets of one appended message. Default: 64 MiB.
    pub append_limit: usize,
    /// After LOGOUT, how long to wait for the client to close first. Default: zero, the server closes first.
    pub logout_grace: Duration,
    /// What it says. Default: words much like Dovecot's.
    pub words: Words,
    /// How mailboxes are named.
    pub names: Names,
    /// In what it differs from the RFC. Default: in nothing.
    pub quirks: Quirks,
    /// Asked at the greeting, at each announced literal and at each command.
    pub faults: Option<FaultHook>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))],
            passwords: Passwords::prefixed(),
            seed: Seed::default(),
            store: None,
            marker: false,
            capabilities: Capabilities::default(),
            enable: vec!["UTF8=ACCEPT".into(), "CONDSTORE".into()],
            command_delay: Duration::ZERO,
            login_delay: Duration::ZERO,
            max_connections_per_account: None,
            max_connections: 20_000,
            append_limit: 64 << 20,
            logout_grace: Duration::ZERO,
            words: Words::default(),
            names: Names::default(),
            quirks: Quirks::default(),
            faults: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("addresses", &self.addresses)
            .field("marker", &self.marker)
            .finish_non_exhaustive()
    }
}

/// Decides on a user and a password (or bearer token).
pub type PasswordRule = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// Who may log in.
#[derive(Clone)]
pub enum Passwords {
    /// Anyone the rule accepts.
    Rule(PasswordRule),
    /// These users with these passwords.
    List(HashMap<String, String>),
}

impl Passwords {
    /// Any user with any password.
    pub fn any() -> Self {
        Self::Rule(Arc::new(|_, _| true))
    }

    /// Any user whose password is `pw-<user>`.
    pub fn prefixed() -> Self {
        Self::Rule(Arc::new(|user, password| password.strip_prefix("pw-") == Some(user)))
    }

    /// These users with these passwords.
    pub fn list<U: Into<String>, P: Into<String>>(pairs: impl IntoIterator<Item = (U, P)>) -> Self {
        Self::List(pairs.into_iter().map(|(user, password)| (user.into(), password.into())).collect())
    }

    pub(super) fn accepts(&self, user: &str, password: &str) -> bool {
        match self {
            Self::Rule(rule) => rule(user, password),
            Self::List(list) => list.get(user).is_some_and(|wanted| wanted == password),
        }
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rule(_) => "Rule(..)",
            Self::List(_) => "List(..)",
        })
    }
}

/// Makes the `n`-th message (from 1) of a mailbox: `(user, mailbox, n)`.
pub type MessageMaker = Arc<dyn Fn(&str, &str, usize) -> Vec<u8> + Send + Sync>;

/// What an account holds when it is first used. Each message names its account in subject and body.
#[derive(Clone)]
pub struct Seed {
    /// Mailboxes with the number of their messages; INBOX exists in any case.
    pub mailboxes: Vec<(String, usize)>,
    /// Makes the messages.
    pub message: MessageMaker,
}

impl Default for Seed {
    fn default() -> Self {
        Self {
            mailboxes: vec![
                ("INBOX".into(), 10),
                ("Sent".into(), 2),
                ("Drafts".into(), 0),
                ("Trash".into(), 0),
                ("Archive/2024".into(), 3),
            ],
            message: Arc::new(super::seed::message),
        }
    }
}

/// What CAPABILITY lists. The server only understands the extensions it lists: without `UNSELECT` in `after` the
/// command is BAD, without `LITERAL+` a `{5+}` ends the connection.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// Before login, space-separated.
    pub before: String,
    /// After login, space-separated.
    pub after: String,
    /// Whether the greeting has a CAPABILITY code.
    pub in_greeting: bool,
    /// Whether the reply to a login has a CAPABILITY code.
    pub after_login: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            before: "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2".into(),
            after: "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE NAMESPACE UIDPLUS MOVE UNSELECT CHILDREN".into(),
            in_greeting: true,
            after_login: true,
        }
    }
}

impl Capabilities {
    /// The same without one capability, before and after login.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        for list in [&mut self.before, &mut self.after] {
            *list = list.split(' ').filter(|c| !c.eq_ignore_ascii_case(name)).collect::<Vec<_>>().join(" ");
        }
        self
    }
}

/// Where in a connection a [`FaultHook`] is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Before the greeting.
    Greeting,
    /// A literal was announced; before the continuation request, or before its octets are read.
    Literal,
    /// The whole command was read; before it runs.
    Command,
}

/// What a [`FaultHook`] is told.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// The connection's number, from 1, in the order of acceptance.
    pub conn: u64,
    /// The account, once logged in.
    pub user: Option<&'a str>,
    /// The server's address this connection came in on.
    pub address: SocketAddr,
    /// Where in the connection.
    pub stage: Stage,
    /// The command's number on this connection, from 1; 0 at the greeting.
    pub command: u64,
    /// The command's name in upper case (`FETCH`, `UID FETCH`); empty at the greeting.
    pub verb: &'a str,
}

/// Decides on the fault of a moment.
pub type FaultHook = Arc<dyn Fn(&Event<'_>) -> Fault + Send + Sync>;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The connection closes (FIN) before the command runs.
    CloseBefore,
    /// The connection is reset (RST) before the command runs.
    ResetBefore,
    /// The command runs; after so many octets of its reply the connection closes.
    CloseMidReply(usize),
    /// These octets instead of the reply; the command does not run and the connection stays.
    Garbage(Bytes),
    /// `tag <text>` instead of running the command: `NO [UNAVAILABLE] busy`.
    Tagged(String),
    /// No reply and nothing further, ever; the connection stays open until the client closes.
    Silence,
    /// The command runs after so many milliseconds.
    DelayMs(u64),
    /// The command runs, after this text as an untagged line: `OK still here`.
    Untagged(String),
    /// `* BYE`, then close; the command does not run.
    ByeThenClose,
}

/// How [`Server::kill`](super::Server::kill) ends connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kill {
    /// A `* BYE` where no reply is being written, then FIN.
    Bye,
    /// FIN.
    Close,
    /// RST.
    Reset,
}
