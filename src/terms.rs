//! What holds for one account: as the first `[[account]]` says that has it, else as its `[[backend]]` says, else as
//! `[pool]` says.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use imapool_proto::routing::first::First;
use imapool_proto::routing::name::{Names, Pattern};
use serde::{Serialize, Serializer};

use crate::config::{Account, Backend, Config, PoolMode};

/// What holds for one account. Displays as a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// Whether its sessions share connections.
    pub mode: PoolMode,
    /// Its connections at most.
    pub max_per_account: usize,
    /// A connection at rest for so long is retired.
    #[serde(serialize_with = "in_words")]
    pub idle_timeout: Duration,
    /// Its client sessions at once; 0: only those of all count.
    pub sessions: usize,
    /// Whether it may log in.
    pub allow: bool,
}

fn in_words<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*time))
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (most, mode, rest) =
            (self.max_per_account, self.mode.as_str(), humantime::format_duration(self.idle_timeout));
        write!(f, "at most {most} connections, mode: {mode}, closed after {rest} at rest")?;
        match self.sessions {
            0 => Ok(()),
            sessions => write!(f, "; at most {sessions} sessions"),
        }
    }
}

/// What takes the place of what `[pool]` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Otherwise {
    mode: Option<PoolMode>,
    max_per_account: Option<usize>,
    idle_timeout: Option<Duration>,
}

impl From<&Backend> for Otherwise {
    fn from(backend: &Backend) -> Self {
        let Backend { mode, max_per_account, idle_timeout, .. } = *backend;
        Self { mode, max_per_account, idle_timeout }
    }
}

impl From<&Account> for Otherwise {
    fn from(account: &Account) -> Self {
        let Account { mode, max_per_account, idle_timeout, .. } = *account;
        Self { mode, max_per_account, idle_timeout }
    }
}

impl Otherwise {
    fn instead(self, of: Terms) -> Terms {
        Terms {
            mode: self.mode.unwrap_or(of.mode),
            max_per_account: self.max_per_account.unwrap_or(of.max_per_account),
            idle_timeout: self.idle_timeout.unwrap_or(of.idle_timeout),
            ..of
        }
    }
}

/// One `[[account]]`.
#[derive(Debug, Clone)]
struct Entry {
    /// How it is told of.
    words: String,
    otherwise: Otherwise,
    sessions: usize,
    allow: bool,
}

/// What one configuration says of all accounts. They are looked up by the key that routes go by.
#[derive(Debug, Clone)]
pub struct AllTerms {
    names: Names,
    first: First,
    entries: Vec<Entry>,
    /// Those that say anything, by their names.
    backends: HashMap<String, Otherwise>,
    pool: Terms,
    /// How many processes share what an account may have.
    replicas: usize,
}

impl AllTerms {
    /// Of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let names = config.routing.names();
        let mut first = First::default();
        for (place, account) in config.accounts.iter().enumerate() {
            // Refused in the configuration when they are none.
            first.add(place, account.users.iter().filter_map(|user| Pattern::parse(user, &names).ok()));
        }
        let entry = |(place, account): (usize, &Account)| Entry {
            words: told(place, &account.users),
            otherwise: account.into(),
            sessions: account.sessions,
            allow: account.allow,
        };
        let backends = config.backends.iter().map(|backend| (backend.name.clone(), Otherwise::from(backend)));
        let (pool, replicas) = (&config.pool, config.pool.replicas);
        let pool = Terms {
            mode: pool.mode,
            max_per_account: pool.max_per_account,
            idle_timeout: pool.idle_timeout,
            sessions: 0,
            allow: true,
        };
        Self {
            names,
            first,
            entries: config.accounts.iter().enumerate().map(entry).collect(),
            backends: backends.filter(|(_, otherwise)| *otherwise != Otherwise::default()).collect(),
            pool,
            replicas,
        }
    }

    /// The key of an account that somebody logs in to as this user, for that user's mail or for another's.
    #[must_use]
    pub fn key(&self, user: &[u8], authzid: &[u8]) -> Vec<u8> {
        self.names.key(user, authzid)
    }

    /// What holds for the account of this key, at a backend of this name.
    #[must_use]
    pub fn of(&self, key: &[u8], backend: &str) -> Terms {
        let there = self.backends.get(backend).map_or(self.pool, |backend| backend.instead(self.pool));
        let mut terms = match self.entry(key) {
            Some(entry) => Terms { sessions: entry.sessions, allow: entry.allow, ..entry.otherwise.instead(there) },
            None => there,
        };
        terms.max_per_account = terms.max_per_account.div_ceil(self.replicas.max(1)).max(1);
        terms
    }

    /// Whether the account of this key may log in.
    #[must_use]
    pub fn allow(&self, key: &[u8]) -> bool {
        self.entry(key).is_none_or(|entry| entry.allow)
    }

    /// Whether the account of this key may log in, and the one by whose name it does so at its server, if by another.
    #[must_use]
    pub fn allow_as(&self, key: &[u8], login: Option<&[u8]>) -> bool {
        self.allow(key) && login.is_none_or(|login| self.allow(&self.names.key(login, b"")))
    }

    /// Whether all whom a login is of may log in: whoever may not has no other's mail by his password either.
    #[must_use]
    pub fn allow_all(&self, user: &[u8], authzid: &[u8]) -> bool {
        self.entries.iter().all(|entry| entry.allow) || self.names.keys(user, authzid).iter().all(|key| self.allow(key))
    }

    /// How many sessions the account of this key may have at once; 0: only those of all count.
    #[must_use]
    pub fn sessions(&self, key: &[u8]) -> usize {
        self.entry(key).map_or(0, |entry| entry.sessions)
    }

    /// The `[[account]]` of this key, as it stands in the configuration.
    #[must_use]
    pub fn words(&self, key: &[u8]) -> Option<&str> {
        self.entry(key).map(|entry| entry.words.as_str())
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        self.first.find(key).map(|place| &self.entries[place])
    }
}

/// `account 2 (users "@example.org")`
fn told(place: usize, users: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<_> = users.iter().take(SHOWN).map(|user| format!("{user:?}")).collect();
    let more = if users.len() > SHOWN { ", …" } else { "" };
    format!("account {} (users {}{more})", place + 1, shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        [[listener]]
        address = \"127.0.0.1:0\"
        [[backend]]
        name = \"plain\"
        address = \"h:143\"
        [[backend]]
        name = \"small\"
        address = \"h:144\"
        max_per_account = 2
        mode = \"session\"
        [routing]
        default_domain = \"example.org\"
        master_separator = \"*\"
        [[account]]
        users = [\"anna\"]
        max_per_account = 8
        [[account]]
        users = [\"@example.org\", \"@*.example.org\"]
        idle_timeout = \"1m\"
        sessions = 20
        [[account]]
        users = [\"@example.net\", \"anna\"]
        allow = false
        [pool]
        idle_timeout = \"7m\"
    ";

    #[test]
    fn the_account_comes_before_the_backend_and_that_before_the_pool() {
        let all = AllTerms::new(&Config::parse(TEXT, "f").unwrap());
        for (user, backend, wanted) in [
            ("x@other", "plain", "at most 4 connections, mode: multiplex, closed after 7m at rest"),
            ("x@other", "small", "at most 2 connections, mode: session, closed after 7m at rest"),
            (
                "x@other",
                "of an earlier configuration",
                "at most 4 connections, mode: multiplex, closed after 7m at rest",
            ),
            ("Anna", "plain", "at most 8 connections, mode: multiplex, closed after 7m at rest"),
            ("anna*admin", "small", "at most 8 connections, mode: session, closed after 7m at rest"),
            ("bert", "small", "at most 2 connections, mode: session, closed after 1m at rest; at most 20 sessions"),
            (
                "x@a.b.example.org",
                "plain",
                "at most 4 connections, mode: multiplex, closed after 1m at rest; at most 20 sessions",
            ),
        ] {
            let key = all.key(user.as_bytes(), b"");
            assert_eq!(all.of(&key, backend).to_string(), wanted, "{user} {backend}");
            assert_eq!(all.sessions(&key), all.of(&key, backend).sessions);
            assert!(all.allow(&key) && all.of(&key, backend).allow, "{user}");
        }
        let key = all.key(b"x", b"y@EXAMPLE.net");
        assert!(!all.allow(&key) && !all.of(&key, "plain").allow);
        assert_eq!(all.words(&key), Some("account 3 (users \"@example.net\", \"anna\")"));
        assert_eq!(all.words(b"x@other"), None);
    }
}
