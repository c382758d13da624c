//! Connections that wait for a login: how many, for whom, and for how long.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Backend, Purpose, Service, Unauthenticated};
use crate::metrics::ConnectionState;
use crate::throttle::Standing;
use crate::upstream::gate::Whom;

/// A spare connection is not kept for longer: servers hang up on those that do not log in (Dovecot: 3 min).
const SPARE_AGE: Duration = Duration::from_secs(120);

/// Spare connections are renewed for so long after the last login at the backend: at night it is left alone.
const SPARE_INTEREST: Duration = Duration::from_secs(600);

/// One on which a credential was refused is kept for so long beyond `pool.spare`, for the next of a flood.
const USED_SPARE_AGE: Duration = Duration::from_secs(10);

impl Backend {
    /// Those that refused somebody already are for who may well be refused, too; the unused ones for who stands
    /// better, and never for suspects.
    pub(super) fn take_spare(&self, standing: Standing) -> Option<Unauthenticated> {
        let mut spares = self.spares.lock();
        let used = standing >= Standing::Unknown;
        match spares.iter().rposition(|spare| spare.used == used) {
            Some(at) => Some(spares.swap_remove(at)),
            None if standing == Standing::Suspect => None,
            None => spares.pop(),
        }
    }

    /// How many unused ones there should be. One that began with a client's address is no other client's.
    fn spare(&self) -> usize {
        if self.config.send_proxy { 0 } else { self.pool.load().spare }
    }

    /// Keeps a connection for the next login, if there is room for it: in a flood of wrong ones, as many as there may
    /// be verifications, so that each serves for many.
    pub fn keep(&self, spare: Unauthenticated) {
        let mut spares = self.spares.lock();
        let room = match self.spare() {
            0 => false,
            most if spare.used => spares.len() < most.max(self.turns.places()),
            most => spares.iter().filter(|other| !other.used).count() < most,
        };
        if room {
            self.hold(&mut spares, spare);
        }
    }

    pub(super) fn hold(&self, spares: &mut Vec<Unauthenticated>, mut spare: Unauthenticated) {
        let wanted = !self.is_gone() && self.service() != Service::Drained;
        if wanted && spare.login.is_ready() && spare.opened.elapsed() < SPARE_AGE {
            spare.state.set(ConnectionState::Spare);
            spare.kept = Some(Instant::now());
            spares.push(spare);
        }
    }

    /// Ends spare connections that are closed, old, or more than there should be; all, where others could use their
    /// ports.
    pub(super) fn clear_away_spares(&self) {
        let mut spares = self.spares.lock();
        if self.budget.is_short(self.index, 0) {
            spares.clear();
        }
        let mut surplus = spares.len().saturating_sub(self.spare());
        spares.retain_mut(|spare| {
            let is_over = spare.kept.is_some_and(|since| since.elapsed() > USED_SPARE_AGE);
            let drop = surplus > 0 && spare.used && is_over;
            surplus -= usize::from(drop);
            let (is_young, is_alive) = (spare.opened.elapsed() < SPARE_AGE, spare.is_alive());
            if is_young && !is_alive {
                self.suspect();
            }
            !drop && is_young && is_alive
        });
    }

    /// Opens spare connections, one after the other, until there are `pool.spare`; only to a backend that is in use
    /// and there, and where nobody has to make room for them.
    pub(super) fn refill_soon(self: &Arc<Self>) {
        if !self.lacks_spares() || self.refilling.swap(true, Ordering::AcqRel) {
            return;
        }
        let backend = Arc::clone(self);
        tokio::spawn(async move {
            while backend.lacks_spares() {
                let Some(permit) = backend.budget.try_permit(backend.index) else { break };
                let Ok(spare) = backend.open(Purpose::of(Whom::Spare), permit).await else { break };
                backend.keep(spare);
            }
            backend.refilling.store(false, Ordering::Release);
        });
    }

    fn lacks_spares(&self) -> bool {
        let spares = self.spares.lock();
        let unused = spares.iter().filter(|spare| !spare.used).count();
        // Those that verify come back, most of them. Together they shall not be more than the places for them.
        unused < self.spare()
            && spares.len() + self.turns.running() < self.turns.places()
            && *self.reachable.borrow()
            && !self.is_gone()
            && self.service() == Service::Running
            // With another one too: else it would be ended again, and opened again.
            && !self.budget.is_short(self.index, 1)
            && self.last_login.lock().elapsed() < SPARE_INTEREST
    }

    /// Ends the spare connections.
    pub fn end_spares(&self) {
        self.spares.lock().clear();
    }
}
