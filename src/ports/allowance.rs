//! A number of permits that can be changed while they are taken.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of permits that can be changed. Where it is lowered below what is taken, permits that come back are
/// withheld.
#[derive(Debug)]
pub(crate) struct Allowance {
    permits: Arc<Semaphore>,
    /// What there may be, and what is taken beyond that and must not be given again.
    size: Arc<Mutex<(usize, usize)>>,
}

impl Allowance {
    pub(crate) fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1_000_000);
        Self { permits: Arc::new(Semaphore::new(capacity)), size: Arc::new(Mutex::new((capacity, 0))) }
    }

    pub(crate) fn semaphore(&self) -> &Arc<Semaphore> {
        &self.permits
    }

    pub(crate) fn capacity(&self) -> usize {
        self.size.lock().0
    }

    pub(crate) fn in_use(&self) -> usize {
        let (capacity, excess) = *self.size.lock();
        (capacity + excess).saturating_sub(self.permits.available_permits())
    }

    /// Gives how many more there are at once.
    pub(crate) fn resize(&self, capacity: usize) -> usize {
        let capacity = capacity.clamp(1, 1_000_000);
        let mut size = self.size.lock();
        let (old, excess) = *size;
        // All that were ever given out or lie there, less those that should.
        let all = old + excess;
        let more = capacity.saturating_sub(all);
        self.permits.add_permits(more);
        *size = (capacity, all.saturating_sub(capacity));
        drop(size);
        self.settle();
        more
    }

    /// Withholds what has come back and is too much. Call it now and then.
    pub(crate) fn settle(&self) {
        let mut size = self.size.lock();
        if size.1 > 0 {
            size.1 -= self.permits.forget_permits(size.1);
        }
    }

    /// Whether a permit that comes back must not be given to the next.
    pub(crate) fn withholds(&self) -> bool {
        let mut size = self.size.lock();
        let withholds = size.1 > 0;
        size.1 -= usize::from(withholds);
        withholds
    }

    /// One of them, if there is one to be given.
    pub(crate) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        self.settle();
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// One of them, for what is there already: where none is free, there is one too many until this is given back.
    pub(crate) fn claim(&self) -> Claim {
        let mut size = self.size.lock();
        match self.permits.try_acquire() {
            Ok(permit) => permit.forget(),
            Err(_) => size.1 += 1,
        }
        Claim(Arc::clone(&self.permits), Arc::clone(&self.size))
    }
}

/// See [`Allowance::claim`]; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim(Arc<Semaphore>, Arc<Mutex<(usize, usize)>>);

impl Drop for Claim {
    fn drop(&mut self) {
        let Self(permits, size) = self;
        let mut size = size.lock();
        match size.1.checked_sub(1) {
            Some(fewer) => size.1 = fewer,
            None => permits.add_permits(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    enum Out {
        Permit(#[expect(dead_code, reason = "dropped with it")] OwnedSemaphorePermit),
        Claim(#[expect(dead_code, reason = "dropped with it")] Claim),
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        Claim,
        GiveBack(usize),
        Resize(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Take),
            Just(Step::Claim),
            (0..8_usize).prop_map(Step::GiveBack),
            (1..6_usize).prop_map(Step::Resize)
        ]
    }

    proptest! {
        /// However many there are by now, one is given where fewer than these are taken or claimed, and not otherwise.
        #[test]
        fn no_more_are_given_than_there_may_be(steps in proptest::collection::vec(step(), 1..60)) {
            let allowance = Allowance::new(3);
            let mut out: Vec<Out> = Vec::new();
            for step in steps {
                match step {
                    Step::Take => {
                        let may = out.len() < allowance.capacity();
                        let taken = allowance.try_take();
                        prop_assert_eq!(taken.is_some(), may);
                        out.extend(taken.map(Out::Permit));
                    }
                    Step::Claim => out.push(Out::Claim(allowance.claim())),
                    Step::GiveBack(at) if at < out.len() => drop(out.swap_remove(at)),
                    Step::GiveBack(_) => {}
                    Step::Resize(capacity) => drop(allowance.resize(capacity)),
                }
                prop_assert_eq!(allowance.in_use(), out.len());
            }
        }
    }
}
