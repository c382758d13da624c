//! The account of a session moves to another backend, and the session goes on there if it can.

use super::Session;

impl Session {
    /// Gives up a connection of its own to where the account was, between two commands. What is selected only there
    /// cannot be gone on with, as after a loss: then the session ends.
    pub(super) fn let_go_of_what_moves(&mut self) {
        // Taken since, it is to where the account is now.
        if self.lease.as_ref().is_none_or(|lease| !lease.is_outdated()) {
            return self.record.has_let_go();
        }
        let idles = self.machine.is_idling();
        let is_busy = self.running.is_some() && !idles;
        if is_busy || !self.parts.is_empty() || !self.is_between_lines() {
            return;
        }
        if self.is_elsewhere_as_good() && !idles {
            self.drop_lease();
        } else {
            self.record.close();
        }
        self.record.has_let_go();
    }
}
