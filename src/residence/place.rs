//! Where an account is for a time, what of it is logged in there, and how it goes on at another backend without its
//! sessions noticing.
//!
//! What is logged in there, or is about to be, holds a [`Stay`]. An account that moves gets none until all of them are
//! over: then it is at the other backend, and whoever waited gets one of that.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Residence;

/// One backend, for as long as an account is there without a break.
#[derive(Debug, Clone)]
struct Place {
    /// Index of the backend.
    backend: usize,
    /// Of this one, and of those before it at the same backend.
    stays: TaskTracker,
    /// It is to be left, as the account moves.
    left: CancellationToken,
}

/// Where it is, and where it goes.
#[derive(Debug)]
pub(super) struct Now {
    place: Place,
    /// It could be at another one as well.
    chosen: bool,
    /// Index of the backend that it goes to; and whoever waits is told when that is over.
    pub(super) to: Option<(usize, CancellationToken)>,
}

/// Something of an account is logged in at its backend, or about to be: the account is nowhere else meanwhile.
#[derive(Debug)]
pub struct Stay {
    _counted: TaskTrackerToken,
    place: Place,
    _residence: Arc<Residence>,
}

/// An account moves, and nothing of it begins to stay anywhere. Dropped before it has arrived, it is where it was.
#[derive(Debug)]
pub struct Moving {
    /// Whose.
    pub residence: Arc<Residence>,
    from: Place,
    /// Index of the backend that it goes to.
    pub to: usize,
    chosen: bool,
    settled: CancellationToken,
}

impl Now {
    /// `chosen`: it could be at another one as well.
    pub(super) fn new(backend: usize, chosen: bool) -> Self {
        let stays = TaskTracker::new();
        // So that it can be waited for whenever there is none.
        stays.close();
        Self { place: Place { backend, stays, left: CancellationToken::new() }, chosen, to: None }
    }
}

impl Residence {
    /// The right to be logged in where it is, until the last of it is dropped. `None`: it is to be left, or moves.
    #[must_use]
    pub fn stay(self: &Arc<Self>) -> Option<Stay> {
        let now = self.place.lock();
        let stays = !self.is_ending() && now.to.is_none();
        stays.then(|| Stay {
            _counted: now.place.stays.token(),
            place: now.place.clone(),
            _residence: Arc::clone(self),
        })
    }

    /// Index of the backend.
    #[must_use]
    pub fn backend(&self) -> usize {
        self.place.lock().place.backend
    }

    /// Whether its route leads to several backends, of which this is one.
    #[must_use]
    pub fn is_chosen(&self) -> bool {
        self.place.lock().chosen
    }

    /// Whether it moves, with its sessions.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.place.lock().to.is_some()
    }

    /// Index of the backend that it is at, or goes to.
    #[must_use]
    pub fn destination(&self) -> usize {
        let now = self.place.lock();
        now.to.as_ref().map_or(now.place.backend, |(to, _)| *to)
    }

    /// Waits while it moves. The caller sets the deadline.
    pub async fn settled(&self) {
        let moves = self.place.lock().to.clone();
        if let Some((_, settled)) = moves {
            self.meanwhile(settled.cancelled()).await;
        }
    }

    /// Nothing of it begins to stay where it is, from now on; what is there is told nothing yet. `None`: it is to be
    /// left, or moves already. `chosen`: it could be at another backend than this one as well.
    #[must_use]
    pub fn begin_move(self: &Arc<Self>, to: usize, chosen: bool) -> Option<Moving> {
        let mut now = self.place.lock();
        if self.is_ending() || now.to.is_some() {
            return None;
        }
        let settled = CancellationToken::new();
        now.to = Some((to, settled.clone()));
        let from = now.place.clone();
        Some(Moving { residence: Arc::clone(self), from, to, chosen, settled })
    }
}

impl Stay {
    /// Index of the backend.
    #[must_use]
    pub fn backend(&self) -> usize {
        self.place.backend
    }

    /// What comes of `something` that is done there, unless the account moves before that is over.
    pub async fn meanwhile<T>(&self, something: impl Future<Output = T>) -> Option<T> {
        self.place.left.run_until_cancelled(something).await
    }
}

impl Moving {
    /// Index of the backend that is left.
    #[must_use]
    pub fn from(&self) -> usize {
        self.from.backend
    }

    /// Has all that is there let go of it as soon as nothing runs; what is being verified is broken off.
    pub fn let_go(&self) {
        self.from.left.cancel();
        // Pools first: by that, sessions know what to let go of.
        self.residence.tenants().iter().rev().for_each(|tenant| tenant.let_go());
    }

    /// Has those sessions leave that hold on to something there; gives how many these are.
    pub fn dismiss_those_who_hold_on(&self) -> usize {
        let mut there = self.residence.tenants();
        there.retain(|tenant| tenant.holds_on());
        there.iter().for_each(|tenant| tenant.leave());
        there.len()
    }

    /// Waits until nothing of it is there any more, or it is to be left with its sessions. The caller sets the
    /// deadline.
    pub async fn is_over(&self) {
        self.residence.meanwhile(self.from.stays.wait()).await;
    }

    /// It is at the other backend from now on, and who waited goes on there. False: it is to be left, or something of
    /// it is where it was.
    #[must_use]
    pub fn arrive(self) -> bool {
        let residence = &self.residence;
        let all = residence.all.upgrade();
        let mut homes = all.as_ref().map(|all| all.homes.lock());
        let mut now = residence.place.lock();
        let arrives = now.to.is_some() && self.from.stays.is_empty();
        if arrives {
            *now = Now::new(self.to, self.chosen);
            let home = homes.as_mut().and_then(|homes| homes.get_mut(&residence.key));
            home.into_iter().for_each(|home| home.backend = self.to);
        }
        arrives
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        let mut now = self.residence.place.lock();
        if now.to.is_some() && TaskTracker::ptr_eq(&now.place.stays, &self.from.stays) {
            // It is not to be left after all: what comes may stay, and what is there still counts.
            now.place.left = CancellationToken::new();
            now.to = None;
        }
        drop(now);
        self.settled.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::super::{Entered, Residences, Visit, Wanted};
    use super::*;

    fn wanted(choice: usize) -> Wanted<'static> {
        let (stay, login) = (Duration::ZERO, None);
        Wanted {
            key: b"u",
            name: b"u",
            choice: Some(choice),
            free: false,
            allowed: Vec::new(),
            stay,
            login,
            by: ("l", None),
        }
    }

    fn enter(all: &Arc<Residences>, choice: usize) -> Option<Visit> {
        match all.enter(&wanted(choice)) {
            Entered::At(visit) => Some(visit),
            _ => None,
        }
    }

    /// A service leads whatever anybody types to one account.
    #[test]
    fn any_number_of_names_takes_little_room() {
        let all = Arc::<Residences>::default();
        for kept in [false, true] {
            let visit = kept.then(|| enter(&all, 1).unwrap());
            for number in 0..1000_u32 {
                let name = number.to_be_bytes();
                let Entered::At(visit) = all.enter(&Wanted { name: &name, ..wanted(1) }) else {
                    panic!("it may enter")
                };
                assert_eq!(all.account(&name).is_some(), number < 64 || !kept);
                assert_eq!(visit.residence().names().len(), if kept { 65.min(2 + number as usize) } else { 1 });
                drop(visit);
            }
            drop(visit);
            assert!(all.aliases.lock().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_stays_at_one_backend_before_all_has_left_the_other() {
        let all = Arc::<Residences>::default();
        let visit = enter(&all, 1).unwrap();
        let residence = visit.residence();
        let stay = residence.stay().unwrap();
        let moving = residence.begin_move(2, true).unwrap();
        assert!(residence.stay().is_none() && residence.begin_move(3, true).is_none());
        assert!(enter(&all, 1).is_none() && enter(&all, 2).is_none(), "neither here nor there");
        assert_eq!((residence.backend(), residence.destination()), (1, 2));
        let verifying = stay.meanwhile(std::future::pending::<()>());
        moving.let_go();
        assert!(verifying.await.is_none(), "broken off");
        let long = Duration::from_secs(60);
        assert!(timeout(long, moving.is_over()).await.is_err() && timeout(long, residence.settled()).await.is_err());
        let waits = async {
            residence.settled().await;
            residence.stay().unwrap().backend()
        };
        let (came, arrived) = tokio::join!(waits, async {
            drop(stay);
            moving.is_over().await;
            moving.arrive()
        });
        assert!((came, arrived) == (2, true) && residence.is_chosen());
        assert!(enter(&all, 1).is_none() && enter(&all, 2).is_some());
        assert_eq!(all.counts().into_iter().collect::<Vec<_>>(), [(2, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_there_counts_when_a_move_was_given_up() {
        let all = Arc::<Residences>::default();
        let visit = enter(&all, 1).unwrap();
        let residence = visit.residence();
        let before = residence.stay().unwrap();
        let moving = residence.begin_move(2, true).unwrap();
        moving.let_go();
        drop(moving);
        assert!(!residence.is_moving() && enter(&all, 1).is_some());
        let stay = residence.stay().unwrap();
        assert_eq!(stay.meanwhile(async { 7 }).await, Some(7));
        drop(stay);
        let moving = residence.begin_move(2, true).unwrap();
        assert!(timeout(Duration::from_secs(60), moving.is_over()).await.is_err());
        assert!(!moving.arrive(), "something is there still");
        assert_eq!((residence.backend(), residence.is_moving()), (1, false));
        drop(before);
        assert!(residence.begin_move(2, false).unwrap().arrive());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_to_be_left_goes_nowhere() {
        let all = Arc::<Residences>::default();
        let visit = enter(&all, 1).unwrap();
        let residence = visit.residence();
        let _stay = residence.stay().unwrap();
        let moving = residence.begin_move(2, true).unwrap();
        let ((), ended) = tokio::join!(moving.is_over(), async { residence.end() });
        assert!(ended && residence.stay().is_none() && !residence.is_moving());
        residence.settled().await;
        assert!(!moving.arrive() && residence.begin_move(3, true).is_none());
        assert_eq!(residence.backend(), 1);
    }
}
