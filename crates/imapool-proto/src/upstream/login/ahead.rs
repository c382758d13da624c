//! A login that is said before the greeting has come: a replica, of which it is known what it offers, need not be
//! waited for. That spares a round trip, and a write.

use std::sync::Arc;

use super::{Capabilities, Credential, Login, Outcome, StatusReply, Waiting, ways};

impl Login {
    /// Begins to log in before the other side has greeted, where that can be said in one go to a replica that offers
    /// what it is `known` to have offered. The greeting ends in [`Outcome::Ready`] all the same. False: it has to be
    /// waited for.
    #[must_use]
    pub fn start_ahead(&mut self, known: &Arc<Capabilities>, credential: &Credential) -> bool {
        if !self.relays || self.starttls || self.waiting != Waiting::Greeting || self.ahead.is_some() {
            return false;
        }
        let Some(way) = ways::way(known, credential) else { return false };
        let said = way.say(known, credential);
        if !said.held.is_empty() {
            return false;
        }
        self.ahead = Some(self.begin(way, credential));
        self.capabilities = Arc::clone(known);
        self.put(&said.first);
        true
    }

    /// A credential was said, and is not answered yet.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.ahead.is_some() || matches!(self.waiting, Waiting::Login | Waiting::Sasl)
    }

    /// The greeting has come behind a login that was said ahead of it.
    pub(super) fn greeted_behind(&mut self, waiting: Waiting, line: &[u8]) -> Outcome {
        self.waiting = waiting;
        self.heard = 0;
        if let Some(told) = StatusReply::parse(&line[1..]).and_then(|reply| reply.capabilities())
            && !self.capabilities.is_told_by(told)
        {
            self.capabilities = Arc::new(Capabilities::parse(told));
        }
        Outcome::Ready
    }
}
