//! The accounts of a test server: names, passwords, what is in their mailboxes.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

/// User names and passwords, shared with the server's way of checking them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Accounts(Arc<RwLock<HashMap<String, String>>>);

impl Accounts {
    /// `count` accounts named `prefix0`, `prefix1` …, each with the password `pw-NAME`.
    pub(crate) fn numbered(prefix: &str, count: usize) -> Self {
        let accounts = Self::default();
        for n in 0..count {
            let user = format!("{prefix}{n}");
            accounts.set(&user, &password_of(&user));
        }
        accounts
    }

    /// Adds an account or changes its password.
    pub(crate) fn set(&self, user: &str, password: &str) {
        self.0.write().expect("no holder panics").insert(user.to_owned(), password.to_owned());
    }

    /// Whether this is the user's password.
    pub(crate) fn accepts(&self, user: &str, password: &str) -> bool {
        self.0.read().expect("no holder panics").get(user).is_some_and(|known| known == password)
    }

    /// The password of an account that there is.
    pub(crate) fn password(&self, user: &str) -> String {
        self.0.read().expect("no holder panics")[user].clone()
    }

    /// Of all accounts.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.read().expect("no holder panics").keys().cloned().collect()
    }

    /// As a passwd-file, one `user:{PLAIN}password` a line.
    pub(crate) fn passwd_file(&self) -> String {
        let map = self.0.read().expect("no holder panics");
        map.iter().map(|(user, password)| format!("{user}:{{PLAIN}}{password}\n")).collect()
    }
}

/// The password that [`Accounts::numbered`] gives.
pub(crate) fn password_of(user: &str) -> String {
    format!("pw-{user}")
}
