//! A login that is said before the greeting has come: a replica, of which it is known what it offers, need not be
//! waited for. That spares a round trip, and a write.

use std::sync::Arc;

use super::{Capabilities, Credential, Login, Waiting, ways};

impl Login {
    /// Begins to log in before the other side has greeted, where that can be said in one go to a replica that offers
    /// what it is `known` to have offered. The greeting ends in [`super::Outcome::Ready`] all the same. False: it has
    /// to be waited for.
    #[must_use]
    pub fn start_ahead(&mut self, known: &Arc<Capabilities>, credential: &Credential) -> bool {
        if !self.relays || self.starttls || self.waiting != Waiting::Greeting || self.ahead {
            return false;
        }
        let Some(said) = ways::say(known, credential).filter(|said| said.held.is_empty()) else { return false };
        self.ahead = true;
        self.capabilities = Arc::clone(known);
        self.begin(said, credential);
        true
    }

    /// A credential was said, and is not answered yet.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.ahead || self.waiting == Waiting::Verdict
    }
}
