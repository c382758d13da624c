//! Accounts that go to another backend with their sessions.

use std::sync::Arc;

use super::{Account, Key, Pools};
use crate::metrics::RetireReason;
use crate::upstream::backend::Backend;

impl Pools {
    /// The accounts of this key that were at the backend of one index are at another one from now on: they go on
    /// there, and each credential is verified anew. Nothing of them is open at either, and nobody opens anything
    /// meanwhile. False: that backend is not there any more.
    #[must_use]
    pub fn move_accounts(&self, whose: &[u8], from: usize, to: &Arc<Backend>) -> bool {
        let terms = self.terms.load_full();
        let (mut moved, mut displaced) = (Vec::new(), Vec::new());
        {
            let mut accounts = self.accounts.write();
            // Who exchanges the backends looks at all accounts behind that.
            if !self.is_current(to) {
                return false;
            }
            let mut all: Vec<_> = accounts.values().cloned().collect();
            all.extend(self.forgotten());
            for account in all {
                let before = account.key();
                if before.backend != from || terms.key(&before.user, &before.authzid) != whose {
                    continue;
                }
                let key = Key { backend: to.index, ..Key::clone(&before) };
                account.key.store(Arc::new(key.clone()));
                account.sharers.move_to(to.index);
                account.backend.store(Arc::clone(to));
                if accounts.get(&before).is_some_and(|known| Arc::ptr_eq(known, &account)) {
                    accounts.remove(&before);
                    displaced.extend(accounts.insert(key, Arc::clone(&account)));
                }
                moved.push((before, account));
            }
        }
        self.forget(&displaced);
        for (before, account) in moved {
            account.go_by(terms.of(&account.owner, &to.config.name));
            account.move_to(&account.backend(), RetireReason::Moved);
            self.is_sibling_elsewhere(&before, &account);
        }
        true
    }

    /// It is no longer among those that it has been among.
    fn is_sibling_elsewhere(&self, before: &Key, account: &Arc<Account>) {
        let key = account.key();
        if key.credential.is_none() {
            return;
        }
        let mut siblings = self.siblings.lock();
        if let Some(earlier) = siblings.get_mut(&before.without_credential()) {
            earlier.retain(|sibling| !std::ptr::eq(sibling.as_ptr(), Arc::as_ptr(account)));
        }
        siblings.entry(key.without_credential()).or_default().push(Arc::downgrade(account));
    }
}
