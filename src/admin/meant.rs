//! Whom somebody means by the name of an account: that which its users know, however it is spelled, or what imapool
//! logs in by where a line or a service says so.

use std::sync::Arc;

use super::Subject;
use crate::names::folded;
use crate::pool::Account;
use crate::session::registry::Record;
use crate::terms::AllTerms;

/// See the module.
#[derive(Debug)]
pub(super) struct Meant {
    name: Vec<u8>,
    /// The account that is meant, and the name of the backend that it is at.
    known: Option<(Vec<u8>, String)>,
    terms: Arc<AllTerms>,
}

impl Meant {
    pub(super) fn by(subject: &dyn Subject, user: &[u8]) -> Self {
        let known = subject.router().known_as(user).and_then(|residence| {
            let backend = subject.pools().backend(residence.backend())?;
            Some((residence.key.to_vec(), backend.config.name.clone()))
        });
        Self { name: folded(user), known, terms: Arc::clone(subject.router().table().terms()) }
    }

    /// Whether this user of that backend is meant.
    pub(super) fn is(&self, user: &[u8], backend: &str) -> bool {
        folded(user) == self.name || self.is_known(user, b"", backend)
    }

    fn is_known(&self, user: &[u8], authzid: &[u8], backend: &str) -> bool {
        self.known.as_ref().is_some_and(|(key, at)| at == backend && *key == self.terms.key(user, authzid))
    }

    pub(super) fn is_account(&self, account: &Account) -> bool {
        let (key, backend) = (account.key(), account.backend());
        folded(&key.user) == self.name || self.is_known(&key.user, &key.authzid, &backend.config.name)
    }

    pub(super) fn is_session(&self, record: &Record) -> bool {
        match record.account() {
            Some(account) => self.is_account(account),
            None => record.is_of(|user| folded(user) == self.name),
        }
    }

    /// All accounts that are meant, and their names; `None`: there are none.
    pub(super) fn accounts(&self, subject: &dyn Subject) -> Option<(Vec<Arc<Account>>, Vec<String>)> {
        let mut accounts = subject.pools().accounts();
        accounts.retain(|account| self.is_account(account));
        let mut users: Vec<_> = accounts.iter().map(|account| account.name()).collect();
        users.sort();
        users.dedup();
        (!accounts.is_empty()).then_some((accounts, users))
    }
}
