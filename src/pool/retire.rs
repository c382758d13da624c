//! What ends of an account's connections: what is retired, and what is given up at rest for others.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::Account;
use super::seat::Seat;
use crate::metrics::RetireReason;
use crate::terms::Terms;
use crate::upstream::connection::{Connection, Shared};

impl Account {
    /// As if the account had never been seen: no connection is used again, and each credential is verified anew.
    pub fn retire_all(&self, reason: RetireReason) {
        let mut proofs = self.proofs.lock();
        proofs.retain(|proof| Arc::strong_count(proof) > 1);
        proofs.iter().for_each(|proof| proof.void());
        drop(proofs);
        self.retire(reason);
    }

    /// No connection that is open now is used again: those at rest end now, those that sessions share between two
    /// commands, and the others when they come back.
    pub fn retire(&self, reason: RetireReason) {
        self.raise(reason, true);
    }

    /// `leave`: those who share what is older leave it.
    pub(super) fn raise(&self, reason: RetireReason, leave: bool) {
        let mut outdated = self.outdated.lock();
        *outdated = reason;
        let next = self.generation() + 1;
        if leave {
            self.to_leave.store(next, Ordering::Release);
        }
        self.generation.store(next, Ordering::Release);
        drop(outdated);
        self.retire_resting(reason);
        self.sharers.look_up();
    }

    /// Goes by other terms from now on: new sessions and connections do. Where there are fewer places, what rests is
    /// given up now, what sessions share beyond them between two commands, and what a session has for itself when it
    /// comes back.
    pub(super) fn go_by(&self, terms: Terms) {
        let before = std::mem::replace(&mut *self.terms.lock(), terms).max_per_account;
        let max = terms.max_per_account;
        if max > self.seats.status().max_size {
            self.seats.resize(max);
        }
        self.resize_turns(*self.limit.lock());
        self.queue.resize(max);
        if max < before {
            self.raise(RetireReason::Reload, false);
        }
    }

    /// There are more connections than there may be by now.
    pub(super) fn is_crowded(&self) -> bool {
        self.seats.status().size > self.terms().max_per_account
    }

    /// How often its connections were retired: what is older than that is not used again.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Retires what rests.
    pub fn retire_resting(&self, reason: RetireReason) {
        let removed = self.seats.retain(|_, _| false).removed;
        for connection in removed.into_iter().filter_map(|seat| seat.0.into_inner()) {
            self.keep_place_of(&connection);
            connection.shared().retire(reason);
        }
    }

    /// None is opened in the place of this one, which rested and has no seat any more, before its socket is closed.
    pub(super) fn keep_place_of(&self, leaving: &Connection) {
        leaving.shared().keep_to_the_end(self.turns.claim());
        self.note_leaving(leaving.shared());
    }

    /// The connection at rest longest in a seat: since when, and its number.
    pub(super) fn longest_at_rest(&self) -> Option<(Instant, u64)> {
        self.at_rest().iter().filter_map(|resting| Some((resting.resting_since()?, resting.id))).min()
    }

    /// Waits until a connection rests, and asks a hub for its own. The caller sets the deadline.
    pub(super) async fn something_at_rest(&self) {
        let _waiting = self.sharers.wait();
        while self.longest_at_rest().is_none() {
            self.rested.notified().await;
        }
    }

    /// Ends that one, and waits until its socket is closed. False: there is none.
    pub(super) async fn give_up_longest_at_rest(&self) -> bool {
        let Some((_, oldest)) = self.longest_at_rest() else { return false };
        let is_it = |seat: &Seat| seat.0.lock().as_ref().is_some_and(|resting| resting.shared().id == oldest);
        let removed = self.seats.retain(|seat, _| !is_it(seat)).removed;
        let Some(connection) = removed.into_iter().find_map(|seat| seat.0.into_inner()) else { return false };
        let closed = connection.shared().when_closed();
        self.note_leaving(connection.shared());
        connection.shared().retire(RetireReason::Replaced);
        drop(connection);
        closed.await;
        true
    }

    /// Takes note of one that ends, and whose socket may be open for a while.
    pub(super) fn note_leaving(&self, leaving: &Arc<Shared>) {
        let mut all = self.leaving.lock();
        all.retain(|it| it.strong_count() > 0);
        all.push(Arc::downgrade(leaving));
    }

    /// Waits until one of those that end is closed. False: none does.
    pub(super) async fn one_has_left(&self) -> bool {
        let Some(closed) = self.leaving().first().map(|leaving| leaving.when_closed()) else { return false };
        closed.await;
        true
    }

    /// Waits until a connection may be opened in a seat: the sockets of those that have left theirs count, until they
    /// are closed.
    pub(super) async fn room_for_a_socket(&self) {
        let is_full = || self.seats.status().size + self.leaving().len() > self.most();
        while is_full() && self.one_has_left().await {}
    }

    /// Those that end, and whose sockets are open still.
    fn leaving(&self) -> Vec<Arc<Shared>> {
        let all = self.leaving.lock();
        all.iter().filter_map(Weak::upgrade).filter(|leaving| leaving.has_socket()).collect()
    }

    /// Gives up the seats of connections that ended while at rest.
    pub(super) fn clear_away_closed(&self) {
        let rests = |seat: &Seat| seat.0.lock().as_ref().is_some_and(|resting| !resting.shared().is_closed());
        let removed = self.seats.retain(|seat, _| rests(seat)).removed;
        for closed in removed.into_iter().filter_map(|seat| seat.0.into_inner()) {
            self.keep_place_of(&closed);
        }
    }
}
