//! Who is inside: how many client connections there may be, and how many of them that have not logged in. Where there
//! are too many of the latter, the one that has been silent longest gives way to the next that comes: who means to
//! log in does so within moments, and who does not must not keep others out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::config::Limits;

/// How many there may be.
#[derive(Debug, Clone, Copy, Default)]
struct Most {
    /// `limits.sessions`
    sessions: usize,
    /// `limits.unauthenticated`, as a number.
    strangers: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Crowd(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    most: Most,
    /// All, but for those that have given way and are just leaving.
    sessions: usize,
    last: u64,
    /// Those who have not logged in: first those who have not shown a credential, or a wrong one, by their age, then
    /// those whose credential is being verified.
    strangers: BTreeMap<(bool, u64), Arc<Notice>>,
}

/// Wakes one, also to tell that it has to go.
#[derive(Debug, Default)]
struct Notice {
    given: AtomicBool,
    left: AtomicBool,
    wake: Notify,
}

/// A place inside, until it is left or dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Weak<Crowd>,
    id: u64,
    notice: Arc<Notice>,
}

impl Crowd {
    /// Nobody yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Arc<Self> {
        Self::with(Most::of(limits))
    }

    /// So many, all of whom may have shown nothing.
    #[must_use]
    pub fn of_strangers(most: usize) -> Arc<Self> {
        Self::with(Most { sessions: most, strangers: most })
    }

    fn with(most: Most) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inside { most, ..Inside::default() })))
    }

    /// Goes by other limits from now on. Whoever has logged in stays.
    pub fn apply(&self, limits: &Limits) {
        let mut inside = self.0.lock();
        inside.most = Most::of(limits);
        while inside.strangers.len() > inside.most.strangers && inside.dismiss(true) {}
    }

    /// One more has come, which has not logged in: its place, and how many had to give way to it. `None`: there are
    /// too many who have logged in, or are about to.
    pub fn enter(self: &Arc<Self>) -> (Option<Place>, usize) {
        let mut inside = self.0.lock();
        let before = inside.strangers.len();
        while inside.strangers.len() >= inside.most.strangers && inside.dismiss(true) {}
        while inside.sessions >= inside.most.sessions && inside.dismiss(false) {}
        let gone = before - inside.strangers.len();
        if inside.sessions >= inside.most.sessions {
            return (None, gone);
        }
        inside.sessions += 1;
        inside.last += 1;
        let (id, notice) = (inside.last, Arc::<Notice>::default());
        inside.strangers.insert((false, id), Arc::clone(&notice));
        (Some(Place { crowd: Arc::downgrade(self), id, notice }), gone)
    }

    /// Those who have not logged in.
    pub fn strangers(&self) -> usize {
        self.0.lock().strangers.len()
    }
}

impl Most {
    fn of(limits: &Limits) -> Self {
        Self { sessions: limits.sessions, strangers: limits.unauthenticated.of(limits.sessions) }
    }
}

impl Inside {
    /// The oldest of the silent ones gives way; if there is none, and `any`, the oldest of the others. False: nobody
    /// does.
    fn dismiss(&mut self, any: bool) -> bool {
        let Some(((verified, _), _)) = self.strangers.first_key_value() else { return false };
        if *verified && !any {
            return false;
        }
        let Some((_, notice)) = self.strangers.pop_first() else { return false };
        self.sessions -= 1;
        notice.given.store(true, Ordering::Release);
        notice.wake.notify_waiters();
        true
    }

    /// It is no stranger any more.
    fn forget(&mut self, id: u64) {
        self.strangers.remove(&(false, id)).or_else(|| self.strangers.remove(&(true, id)));
    }
}

impl Place {
    /// Whether it has to be given up, at once.
    pub fn is_given_up(&self) -> bool {
        self.notice.given.load(Ordering::Acquire)
    }

    /// Waits until it has to be given up.
    pub async fn given_up(&self) {
        loop {
            let woken = self.woken();
            if self.is_given_up() {
                return;
            }
            woken.await;
        }
    }

    /// Wakes all who wait for it: there is something for them to see.
    pub(super) fn wake(&self) {
        self.notice.wake.notify_waiters();
    }

    /// Waits until it is woken after this call, or has to be given up.
    pub(super) fn woken(&self) -> Notified<'_> {
        self.notice.wake.notified()
    }

    /// Whether a credential is being verified now: whose is does not give way before the silent ones.
    pub fn verifies(&self, now: bool) {
        self.with(|inside, id| {
            if let Some(notice) = inside.strangers.remove(&(!now, id)) {
                inside.strangers.insert((now, id), notice);
            }
        });
    }

    /// It has logged in, and stays. False: too late, it has to go.
    pub fn logged_in(&self) -> bool {
        self.with(Inside::forget);
        !self.is_given_up()
    }

    fn with(&self, change: impl FnOnce(&mut Inside, u64)) {
        if let Some(crowd) = self.crowd.upgrade() {
            change(&mut crowd.0.lock(), self.id);
        }
    }

    /// Leaves it to others, whoever knows of it still.
    pub fn leave(&self) {
        if self.notice.left.swap(true, Ordering::AcqRel) {
            return;
        }
        self.with(|inside, id| {
            inside.forget(id);
            // Else somebody else has it.
            if !self.is_given_up() {
                inside.sessions -= 1;
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Share;

    fn crowd(sessions: usize, strangers: usize) -> Arc<Crowd> {
        Crowd::new(&Limits { sessions, unauthenticated: Share::Number(strangers), ..Limits::default() })
    }

    #[test]
    fn the_oldest_silent_one_gives_way() {
        let crowd = crowd(10, 3);
        let enter = || crowd.enter().0.unwrap();
        let (first, second, third) = (enter(), enter(), enter());
        first.verifies(true);
        let fourth = enter();
        assert!(second.is_given_up() && !first.is_given_up() && !third.is_given_up());
        assert!(third.logged_in());
        let fifth = enter();
        assert!([&first, &fourth, &fifth].iter().all(|place| !place.is_given_up()));
        // A wrong password makes nobody younger.
        first.verifies(false);
        let _sixth = enter();
        assert!(first.is_given_up() && !first.logged_in());
        assert_eq!(crowd.strangers(), 3);
    }

    #[test]
    fn if_all_are_being_verified_the_oldest_of_them_does() {
        let crowd = crowd(10, 2);
        let places: Vec<_> = (0..2).map(|_| crowd.enter().0.unwrap()).collect();
        places.iter().for_each(|place| place.verifies(true));
        let _third = crowd.enter().0.unwrap();
        assert!(places[0].is_given_up() && !places[1].is_given_up());
    }

    #[test]
    fn with_all_places_taken_only_silent_ones_give_way() {
        let crowd = crowd(2, 2);
        let (first, second) = (crowd.enter().0.unwrap(), crowd.enter().0.unwrap());
        assert!(first.logged_in());
        let third = crowd.enter().0.unwrap();
        assert!(second.is_given_up(), "silent");
        drop(second);
        third.verifies(true);
        assert!(crowd.enter().0.is_none(), "somebody is in, and somebody about to be");
        assert!(!third.is_given_up());
        // Once, however often it is said.
        third.leave();
        third.leave();
        drop(third);
        assert_eq!(crowd.0.lock().sessions, 1);
        assert!(crowd.enter().0.is_some());
        assert_eq!(crowd.enter().1, 0, "it was dropped");
    }

    #[test]
    fn other_limits_hold_at_once() {
        let crowd = crowd(10, 5);
        let places: Vec<_> = (0..5).map(|_| crowd.enter().0.unwrap()).collect();
        crowd.apply(&Limits { sessions: 10, unauthenticated: Share::Number(2), ..Limits::default() });
        let given: Vec<_> = places.iter().map(Place::is_given_up).collect();
        assert_eq!(given, [true, true, true, false, false]);
    }

    proptest! {
        #[test]
        fn the_numbers_hold_whatever_happens(steps in proptest::collection::vec((0usize..5, any::<usize>()), 0..200)) {
            let crowd = crowd(7, 4);
            let mut places: Vec<Place> = Vec::new();
            for (step, which) in steps {
                let which = if places.is_empty() { 0 } else { which % places.len() };
                match (step, places.get(which)) {
                    (0, Some(place)) => place.verifies(true),
                    (1, Some(place)) => place.verifies(false),
                    (2, Some(place)) => drop(place.logged_in()),
                    (3, Some(_)) => drop(places.swap_remove(which)),
                    _ => places.extend(crowd.enter().0),
                }
                let inside = crowd.0.lock();
                prop_assert!(inside.strangers.len() <= 4 && inside.sessions <= 7);
                prop_assert_eq!(inside.sessions, places.iter().filter(|place| !place.is_given_up()).count());
            }
            drop(places);
            prop_assert_eq!((crowd.strangers(), crowd.0.lock().sessions), (0, 0));
        }
    }
}
