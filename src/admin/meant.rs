//! Whom somebody means by the name of an account: that which its users know, however it is spelled, or what imapool
//! logs in by where a line or a service says so.

use std::sync::Arc;

use super::Subject;
use crate::names::folded;
use crate::pool::Account;
use crate::session::registry::Record;

/// See the module.
#[derive(Debug)]
pub(super) struct Meant {
    name: Vec<u8>,
    /// The backends that the account of this name is at, and what it is logged in by there.
    logins: Vec<(String, Vec<u8>)>,
}

impl Meant {
    pub(super) fn by(subject: &dyn Subject, user: &[u8]) -> Self {
        let known = subject.router().known_as(user);
        let logins = known.iter().filter_map(|residence| {
            let backend = subject.pools().backend(residence.backend())?;
            Some((backend.config.name.clone(), folded(residence.login()?)))
        });
        Self { name: folded(user), logins: logins.collect() }
    }

    /// Whether this user of that backend is meant.
    pub(super) fn is(&self, user: &[u8], backend: &str) -> bool {
        let user = folded(user);
        user == self.name || self.logins.iter().any(|(at, login)| at == backend && *login == user)
    }

    pub(super) fn is_account(&self, account: &Account) -> bool {
        let (key, backend) = (account.key(), account.backend());
        let whose = [&key.user, &key.authzid];
        let is_login = |(at, login): &(String, Vec<u8>)| {
            *at == backend.config.name && whose.iter().any(|name| folded(name) == *login)
        };
        folded(&key.user) == self.name || self.logins.iter().any(is_login)
    }

    pub(super) fn is_session(&self, record: &Record) -> bool {
        match record.account() {
            Some(account) => self.is_account(account),
            None => record.is_of(|user| folded(user) == self.name),
        }
    }

    /// All accounts that are meant, and their names.
    pub(super) fn accounts(&self, subject: &dyn Subject) -> (Vec<Arc<Account>>, Vec<String>) {
        let mut accounts = subject.pools().accounts();
        accounts.retain(|account| self.is_account(account));
        let mut users: Vec<_> = accounts.iter().map(|account| account.name()).collect();
        users.sort();
        users.dedup();
        (accounts, users)
    }
}
