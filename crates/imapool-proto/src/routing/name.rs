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

/// Some of all keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// `anna@example.org`: this one.
    Name(Box<[u8]>),
    /// `@example.org`: all of this domain; kept with its `@`.
    Domain(Box<[u8]>),
    /// `@*.example.org`: all of the domains below this one; kept as `.example.org`.
    Below(Box<[u8]>),
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
        let some = |kind: fn(Box<[u8]>) -> Self, start: &[u8], domain: &str| {
            let folded = names.folded(domain.trim_end_matches('.'));
            if is_domain(domain) { Ok(kind([start, &folded].concat().into())) } else { Err(NotAPattern) }
        };
        if let Some(domain) = text.strip_prefix("@*.") {
            some(Self::Below, b".", domain)
        } else if let Some(domain) = text.strip_prefix('@') {
            some(Self::Domain, b"@", domain)
        } else {
            let name = names.key(text.as_bytes(), text.as_bytes());
            if name.is_empty() { Err(NotAPattern) } else { Ok(Self::Name(name.into())) }
        }
    }

    /// Whether the account of this key is one of them.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Self::Name(name) => **name == *key,
            Self::Domain(domain) => domain_of(key).is_some_and(|own| *own == **domain),
            // A domain is not below itself.
            Self::Below(parent) => {
                domain_of(key).is_some_and(|own| own.len() > parent.len() + 1 && own.ends_with(parent))
            }
        }
    }
}

/// The domain of a key, with its `@`.
pub(super) fn domain_of(key: &[u8]) -> Option<&[u8]> {
    key.iter().rposition(|octet| *octet == b'@').map(|at| &key[at..])
}
