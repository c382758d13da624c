//! What still comes of the reply of a member that has left.

use tokio::time::Instant;
use tracing::debug;

use super::Hub;
use crate::metrics::RetireReason;

#[derive(Debug, Clone, Copy)]
pub(super) struct Remains {
    /// Octets that came of it since.
    read: usize,
    since: Instant,
}

impl Hub {
    /// Nobody waits for what nobody reads: within the budget for that it is read to its end, as after a session that
    /// had its connection for itself ([`crate::pool::Lease::drain`]); then the connection is given up, if somebody
    /// waits or idles, and the mailbox can be gone on with. True: it was.
    pub(super) fn gives_up_remains(&mut self, now: Instant) -> bool {
        if !self.machine.reads_for_nobody() {
            self.remains = None;
            return false;
        }
        let remains = *self.remains.get_or_insert(Remains { read: 0, since: now });
        let config = self.account.config();
        let is_over = remains.read > config.drain_bytes || now >= remains.since + config.drain_timeout;
        if !is_over || !self.machine.wants_connection() {
            return false;
        }
        debug!(user = self.account.name(), octets = remains.read, "a reply that nobody reads is given up");
        self.break_off(RetireReason::DrainBudget);
        true
    }

    pub(super) fn count_remains(&mut self, octets: usize) {
        if let Some(remains) = &mut self.remains {
            remains.read = remains.read.saturating_add(octets);
        }
    }

    /// When whoever waits for the end of it has waited long enough.
    pub(super) fn remains_until(&self) -> Option<Instant> {
        let remains = self.remains.filter(|_| self.machine.wants_connection())?;
        Some(remains.since + self.account.config().drain_timeout)
    }
}
