//! What holds for one account: as the first `[[account]]` says that has it, else as its `[[backend]]` says, else as
//! `[pool]` says.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use imapool_proto::routing::first::First;
use imapool_proto::routing::name::{Names, Pattern};
use serde::Serialize;

use crate::config::{Account, Config, Pool, PoolMode};

/// What holds for one account. Displays as a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Terms {
    /// Whether its sessions share connections.
    pub mode: PoolMode,
    /// Its connections at most.
    pub max_per_account: usize,
    /// A connection at rest for so long is retired.
    #[serde(serialize_with = "crate::config::in_words")]
    pub idle_timeout: Duration,
    /// Its client sessions at once; 0: only those of all count.
    pub sessions: usize,
    /// Whether it may log in.
    pub allow: bool,
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

impl Terms {
    /// With what takes the place of what `[pool]` says.
    fn otherwise(self, mode: Option<PoolMode>, max_per_account: Option<usize>, idle_timeout: Option<Duration>) -> Self {
        Self {
            mode: mode.unwrap_or(self.mode),
            max_per_account: max_per_account.unwrap_or(self.max_per_account),
            idle_timeout: idle_timeout.unwrap_or(self.idle_timeout),
            ..self
        }
    }
}

/// What one configuration says of all accounts. They are looked up by the key that routes go by.
#[derive(Debug, Clone)]
pub struct AllTerms {
    names: Names,
    first: First,
    accounts: Vec<Account>,
    /// At each backend, by its name, for whom no account says anything.
    backends: HashMap<String, Terms>,
    /// At others.
    elsewhere: Terms,
    /// Says how many processes share what an account may have (`replicas`).
    pool: Pool,
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
        let pool = &config.pool;
        let elsewhere = Terms {
            mode: pool.mode,
            max_per_account: pool.max_per_account,
            idle_timeout: pool.idle_timeout,
            sessions: 0,
            allow: true,
        };
        let backends = config
            .backends
            .iter()
            .map(|it| (it.name.clone(), elsewhere.otherwise(it.mode, it.max_per_account, it.idle_timeout)));
        Self {
            names,
            first,
            accounts: config.accounts.clone(),
            backends: backends.collect(),
            elsewhere,
            pool: pool.clone(),
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
        let mut terms = *self.backends.get(backend).unwrap_or(&self.elsewhere);
        if let Some(account) = self.account(key) {
            terms = terms.otherwise(account.mode, account.max_per_account, account.idle_timeout);
            (terms.sessions, terms.allow) = (account.sessions, account.allow);
        }
        Terms { max_per_account: self.pool.part_of(terms.max_per_account), ..terms }
    }

    /// Whether the account of this key may log in.
    #[must_use]
    pub fn allow(&self, key: &[u8]) -> bool {
        self.account(key).is_none_or(|account| account.allow)
    }

    /// Whether the account of this key may log in, and the one by whose name it does so at its server, if by another.
    #[must_use]
    pub fn allow_as(&self, key: &[u8], login: Option<&[u8]>) -> bool {
        self.allow(key) && login.is_none_or(|login| self.allow(&self.names.key(login, b"")))
    }

    /// Whether all whom a login is of may log in: whoever may not has no other's mail by his password either.
    #[must_use]
    pub fn allow_all(&self, user: &[u8], authzid: &[u8]) -> bool {
        self.accounts.iter().all(|account| account.allow)
            || self.names.keys(user, authzid).iter().all(|key| self.allow(key))
    }

    /// How many sessions the account of this key may have at once; 0: only those of all count.
    #[must_use]
    pub fn sessions(&self, key: &[u8]) -> usize {
        self.account(key).map_or(0, |account| account.sessions)
    }

    /// The `[[account]]` of this key, as it stands in the configuration: `account 2 (users "@example.org")`.
    #[must_use]
    pub fn words(&self, key: &[u8]) -> Option<String> {
        const SHOWN: usize = 3;
        let place = self.first.find(key)?;
        let users = &self.accounts[place].users;
        let shown: Vec<_> = users.iter().take(SHOWN).map(|user| format!("{user:?}")).collect();
        let more = if users.len() > SHOWN { ", …" } else { "" };
        Some(format!("account {} (users {}{more})", place + 1, shown.join(", ")))
    }

    fn account(&self, key: &[u8]) -> Option<&Account> {
        self.first.find(key).map(|place| &self.accounts[place])
    }
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
        assert_eq!(all.words(&key).as_deref(), Some("account 3 (users \"@example.net\", \"anna\")"));
        assert_eq!(all.words(b"x@other"), None);
    }
}
