//! Where a connection is while nobody uses it: in its berth, watched by a task of its own.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use super::wire::{Exit, Wire};
use super::{CLOSED, RESTING, Shared};
use crate::metrics::RetireReason;
use crate::ports::{Evict, Since};
use crate::upstream::loss::Loss;

/// Where the wire is.
#[derive(Default)]
enum State {
    /// At rest; its keeper reads, so that a goodbye is seen at once.
    Resting(Box<Wire>),
    /// In use; whoever has the handle has it.
    #[default]
    Away,
    /// Not to be used again; with what is to be said goodbye to.
    Over(Option<Box<Wire>>),
}

/// The place that a wire comes back to.
#[derive(Default)]
pub(super) struct Berth(Mutex<(State, Option<Waker>)>);

impl Berth {
    fn put(&self, place: State) {
        let mut berth = self.0.lock();
        berth.0 = place;
        let keeper = berth.1.take();
        drop(berth);
        if let Some(keeper) = keeper {
            keeper.wake();
        }
    }
}

impl Evict for Shared {
    fn evict(&self) -> bool {
        self.retire(RetireReason::Evicted)
    }
}

impl Shared {
    /// Since when it rests, or rested last.
    pub(super) fn since(&self) -> Since {
        (*self.rested.lock(), self.id)
    }

    /// Takes out what rests in its berth, and says in `state` what becomes of it.
    pub(super) fn take(&self, state: u8) -> Option<Box<Wire>> {
        let mut berth = self.berth.0.lock();
        match std::mem::take(&mut berth.0) {
            State::Resting(wire) => {
                self.budget.taken(&self.share, self.since());
                self.state.store(state, Ordering::Release);
                Some(wire)
            }
            other => {
                berth.0 = other;
                None
            }
        }
    }

    /// Ends it if it rests; false: somebody uses it, or it is gone already.
    pub fn retire(&self, reason: RetireReason) -> bool {
        let wire = self.take(CLOSED);
        wire.map(|wire| self.end(wire, Exit::Retire(reason))).is_some()
    }

    pub(super) fn rest(self: &Arc<Self>, mut wire: Box<Wire>) {
        *self.rested.lock() = wire.rested;
        self.state.store(RESTING, Ordering::Release);
        let mut berth = self.berth.0.lock();
        // Watched in its keeper's name from here on, who need not be woken for that. One that has not told its name is
        // about to look.
        let over = match &berth.1 {
            Some(keeper) => wire.poll_rest(self, &mut Context::from_waker(keeper)),
            None => Poll::Pending,
        };
        match over {
            Poll::Pending => {
                berth.0 = State::Resting(wire);
                let this: Arc<dyn Evict> = Arc::<Self>::clone(self);
                self.budget.rests(&self.share, self.since(), Arc::downgrade(&this));
                drop(berth);
                self.budget.rested(&self.share);
            }
            Poll::Ready(exit) => {
                drop(berth);
                drop(self.end(wire, exit));
            }
        }
    }

    /// Ends the connection. What takes time (LOGOUT) is its keeper's.
    pub(super) fn end(&self, wire: Box<Wire>, exit: Exit) -> Loss {
        let (loss, leaving) = wire.end(self, exit);
        self.berth.put(State::Over(leaving));
        loss
    }

    pub(super) fn socket_closed(&self) {
        drop(self.kept.lock().take());
    }
}

/// Watches over a connection while it rests, and says goodbye to it in the end.
pub(super) async fn keep(shared: Arc<Shared>) {
    if let Some(wire) = poll_fn(|cx| poll(&shared, cx)).await {
        wire.say_goodbye().await;
        shared.socket_closed();
    }
}

/// Ready when the connection is not to be used again: with what is left of it.
fn poll(shared: &Shared, cx: &mut Context<'_>) -> Poll<Option<Box<Wire>>> {
    let mut berth = shared.berth.0.lock();
    let exit = match &mut berth.0 {
        State::Resting(wire) => wire.poll_rest(shared, cx),
        State::Away => Poll::Pending,
        State::Over(leaving) => return Poll::Ready(leaving.take()),
    };
    let Poll::Ready(exit) = exit else {
        berth.1 = Some(cx.waker().clone());
        return Poll::Pending;
    };
    let State::Resting(wire) = std::mem::replace(&mut berth.0, State::Over(None)) else { return Poll::Ready(None) };
    drop(berth);
    Poll::Ready(wire.end(shared, exit).1)
}
