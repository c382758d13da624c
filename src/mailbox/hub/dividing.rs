//! A further connection, for the others, where one member's command takes long.

use std::task::{Context, Poll};

use tokio::time::Instant;
use tracing::debug;

use super::{Checkout, FromHub, Hub, RETRY, STANDSTILL, machine};
use crate::mailbox::machine::{Machine, MemberId};
use crate::mailbox::registry::Registry;
use crate::pool::{CheckoutError, Lease};

/// The others stay where they are until it is there: their turn may come first, and it may never come.
#[derive(Default)]
pub(super) struct Further {
    checkout: Option<Checkout>,
    /// The last could not be had; the next is asked for then.
    not_before: Option<Instant>,
}

impl Hub {
    /// The others go on with a connection of their own, if they can have one. If not, they wait as long as for a
    /// connection. A reply that is not read at all is given up in the end: what is left of it is read by nobody.
    pub(super) fn overloaded(&mut self, owner: MemberId) {
        if self.further.checkout.is_some() {
            return;
        }
        let may_be_had = self.account.has_room() || self.account.sharers.has_resting(&self.status.sharer);
        if may_be_had && self.further.not_before.is_none_or(|at| at <= Instant::now()) {
            self.further.checkout = self.checkout();
            return;
        }
        let patience = self.patience();
        let reads_nothing = self.members.get(&owner).is_some_and(|place| place.line.is_sated());
        if !reads_nothing || self.machine.since_taken() < patience * STANDSTILL {
            self.unconnected = CheckoutError::Timeout;
            return self.machine.handle_busy(patience);
        }
        debug!(waiting = self.members.len() - 1, "a client that takes nothing has to leave its hub");
        self.machine.handle_leave(owner);
        if let Some(place) = self.members.remove(&owner) {
            place.line.tell(FromHub::Stalled);
        }
    }

    /// True: the further connection is there, or cannot be had.
    pub(super) fn poll_further(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(checkout) = &mut self.further.checkout else { return false };
        let Poll::Ready(result) = checkout.as_mut().poll(cx) else { return false };
        self.further = Further::default();
        match result {
            Ok(lease) => self.divide(Box::new(lease)),
            Err(error) => {
                debug!(user = self.account.name(), %error, "no further connection for a mailbox");
                self.further.not_before = Some(Instant::now() + RETRY);
            }
        }
        true
    }

    /// The others go on with this connection, if they still wait; otherwise it comes to rest.
    fn divide(&mut self, lease: Box<Lease>) {
        let Some(owner) = self.machine.kept_waiting_by() else { return };
        let mut others: Vec<MemberId> = self.machine.members().filter(|id| *id != owner).collect();
        if let Err(lease) = self.fork(&others, Some(lease)) {
            // Who knows nothing yet can begin anywhere.
            others.retain(|id| self.machine.is_joining(*id));
            self.send_elsewhere(&others, lease);
        }
    }

    /// To another hub of a mailbox with this name.
    pub(super) fn send_elsewhere(&mut self, ids: &[MemberId], given: Option<Box<Lease>>) {
        if ids.is_empty() {
            return;
        }
        let machine = machine(&self.account, self.key.clone(), self.kind);
        let mut other = self.further_hub(machine, true, given);
        for id in ids {
            let enabled = self.machine.enabled(*id);
            if let (Some(run), Some(place)) = (self.machine.eject(*id), self.members.remove(id)) {
                other.machine.handle_join(*id, run, enabled);
                other.take_in(*id, place);
            }
        }
        tokio::spawn(other.run());
    }

    /// `is_open`: others may join it.
    fn further_hub(&self, machine: Machine, is_open: bool, given: Option<Box<Lease>>) -> Box<Self> {
        let entrance = Registry::of(&self.account).add(&self.account, &self.key, self.kind, is_open);
        let mut hub = Self::new(&self.auth, &self.account, self.key.clone(), self.kind, machine, entrance);
        hub.checkout = given.map(|lease| Box::pin(std::future::ready(Ok(*lease))) as Checkout);
        hub
    }

    /// A hub of their own for these members, which shares this connection with whoever comes; without one, the hub is
    /// for them alone.
    ///
    /// # Errors
    /// It cannot be: what was to be given.
    pub(super) fn fork(&mut self, ids: &[MemberId], given: Option<Box<Lease>>) -> Result<(), Option<Box<Lease>>> {
        let Some(mut machine) = self.machine.fork(ids) else { return Err(given) };
        debug!(members = ids.len(), "hub divided");
        self.counted.metrics().divisions.inc();
        let is_open = given.is_some();
        machine.apart = !is_open;
        let mut other = self.further_hub(machine, is_open, given);
        other.generation = self.generation;
        other.backend = self.backend;
        for id in ids {
            if let Some(place) = self.members.remove(id) {
                other.take_in(*id, place);
            }
        }
        tokio::spawn(other.run());
        Ok(())
    }
}
