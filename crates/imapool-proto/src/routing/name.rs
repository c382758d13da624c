//! What an account is known by where it is routed, and patterns of that.

use crate::imap::sasl::{Credential, SecretKind};
use crate::names::wholly_folded;

/// How a user's name becomes the key of its account: `[routing]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Spellings that servers take for one name are one ([`wholly_folded`]); else every octet counts.
    pub fold: bool,
    /// Behind a name without a domain; empty: nothing.
    pub default_domain: String,
    /// What stands between a user's name and that of the master who logs in as that user; empty: nobody does.
    pub master_separator: String,
}

impl Names {
    /// The key of the account that a client wants to read: its authorisation identity, else its user name.
    #[must_use]
    pub fn key(&self, user: &[u8], authzid: &[u8]) -> Vec<u8> {
        let name = if authzid.is_empty() { self.without_master(user) } else { authzid };
        let name = if self.fold { wholly_folded(name) } else { name.to_vec() };
        if self.default_domain.is_empty() || name.contains(&b'@') {
            return name;
        }
        let domain = self.folded(self.default_domain.trim_end_matches('.'));
        [&name[..], b"@", &domain].concat()
    }

    /// The keys of all whom a login is of: whose mail it is, whose password, and a master's.
    #[must_use]
    pub fn keys(&self, user: &[u8], authzid: &[u8]) -> Vec<Vec<u8>> {
        let mut keys = vec![self.key(user, authzid)];
        if !authzid.is_empty() {
            keys.push(self.key(user, b""));
        }
        let behind = &user[self.without_master(user).len()..];
        if let Some(master) = behind.get(self.master_separator.len()..).filter(|master| !master.is_empty()) {
            keys.push(self.key(master, b""));
        }
        keys
    }

    /// A credential for the same account, which the backend knows as `login`. A token is left as it is: it was issued
    /// for the name in it.
    #[must_use]
    pub fn renamed(&self, credential: &Credential, login: &[u8]) -> Credential {
        let mut renamed = credential.clone();
        if credential.mechanism.kind() != SecretKind::Password {
            return renamed;
        }
        if credential.authzid.is_empty() {
            let master = &credential.user[self.without_master(&credential.user).len()..];
            renamed.user = [login, master].concat();
        } else {
            renamed.authzid = login.to_vec();
        }
        renamed
    }

    /// `anna*admin`: the mail is anna's.
    fn without_master<'u>(&self, user: &'u [u8]) -> &'u [u8] {
        let separator = self.master_separator.as_bytes();
        if separator.is_empty() {
            return user;
        }
        let at = user.windows(separator.len()).position(|window| window == separator);
        at.filter(|at| *at > 0).map_or(user, |at| &user[..at])
    }

    fn folded(&self, text: &str) -> Vec<u8> {
        if self.fold { wholly_folded(text.as_bytes()) } else { text.as_bytes().to_vec() }
    }
}

/// What the octets of a pattern mean: the same may be a name and a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `anna@example.org`: this one.
    Name,
    /// `@example.org`: all of this domain; kept with its `@`.
    Domain,
    /// `@*.example.org`: all of the domains below this one; kept as `.example.org`.
    Below,
}

/// Some of all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// Which.
    pub kind: Kind,
    /// What is kept of it.
    pub key: Box<[u8]>,
}

/// No account is meant by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a name, \"@\" and a domain, or \"@*.\" and a domain")]
pub struct NotAPattern;

impl Pattern {
    /// Reads one as it is written in the configuration.
    ///
    /// # Errors
    /// When it is empty, or `@` has no domain behind it.
    pub fn parse(text: &str, names: &Names) -> Result<Self, NotAPattern> {
        let is_domain = |domain: &str| !domain.is_empty() && !domain.contains(['@', '*']) && !domain.starts_with('.');
        let some = |kind, start: &[u8], domain: &str| {
            let folded = names.folded(domain.trim_end_matches('.'));
            if is_domain(domain) { Ok(Self { kind, key: [start, &folded].concat().into() }) } else { Err(NotAPattern) }
        };
        if let Some(domain) = text.strip_prefix("@*.") {
            some(Kind::Below, b".", domain)
        } else if let Some(domain) = text.strip_prefix('@') {
            some(Kind::Domain, b"@", domain)
        } else {
            let name = names.key(text.as_bytes(), text.as_bytes());
            if name.is_empty() { Err(NotAPattern) } else { Ok(Self { kind: Kind::Name, key: name.into() }) }
        }
    }

    /// Whether the account of this key is one of them.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        let domain = || domain_of(key).unwrap_or_default();
        match self.kind {
            Kind::Name => *self.key == *key,
            Kind::Domain => *self.key == *domain(),
            // A domain is not below itself.
            Kind::Below => domain().len() > self.key.len() + 1 && domain().ends_with(&self.key),
        }
    }

    /// Whether all accounts of another pattern are among those of this one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (self.kind, other.kind) {
            (_, Kind::Name) | (Kind::Below, Kind::Domain) => self.matches(&other.key),
            (Kind::Below, Kind::Below) => other.key.ends_with(&self.key),
            _ => self == other,
        }
    }
}

/// The domain of a key, with its `@`.
pub(super) fn domain_of(key: &[u8]) -> Option<&[u8]> {
    key.iter().rposition(|octet| *octet == b'@').map(|at| &key[at..])
}
