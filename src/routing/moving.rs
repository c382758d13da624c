//! Accounts that an operator moves with their sessions: nothing of them is at one backend before all of it has left the
//! other.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{info, warn};

use super::by_hand::Order;
use super::{HandError, Router, Target};
use crate::pool::Pools;
use crate::residence::{Moving, Residence};
use crate::upstream::backend::{Backend, Service};

/// Sessions that were asked to end may take so long for it, with what they leave behind, or `pool.checkout_timeout`.
const TO_END: Duration = Duration::from_secs(20);

/// What came of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Nothing is left where it was.
    pub left: bool,
    /// Sessions that go on at the other backend; with `left` unset, those that may.
    pub kept: usize,
}

/// An account, where it goes, and whether it could be at another one as well.
type Plan = (Arc<Residence>, Arc<Backend>, bool);

impl Router {
    /// Has an account go to a backend or group by its name, and its sessions with it, from now on. It is written down
    /// before anybody gives up anything, and not before that backend has greeted. Waits for it, for so long at most;
    /// then it goes on.
    ///
    /// # Errors
    /// Nothing has changed then, but for [`HandError::Unread`].
    pub async fn move_with_sessions(
        self: &Arc<Self>,
        pools: &Arc<Pools>,
        user: &[u8],
        to: &str,
        wait: Duration,
    ) -> Result<Moved, HandError> {
        let looked = Order::new(self, user, Some(to))?;
        if let Some((_, to, _)) = self.plan(&looked.key, to)? {
            serves(&to).await?;
        }
        let tending = self.tending.lock().await;
        let order = Order::new(self, user, Some(to))?;
        let begin = |(residence, to, chosen): Plan| {
            residence.begin_move(to.index, chosen).ok_or(HandError::Kept("it leaves where it is already"))
        };
        let moving = self.plan(&order.key, to)?.map(begin).transpose()?;
        let key = order.write().await?;
        self.reread(None).await;
        drop(tending);
        let Some(moving) = moving else {
            let left = self.has_left(&key, wait).await;
            return Ok(Moved { left, kept: self.residences.find(&key).map_or(0, |residence| residence.sessions()) });
        };
        let is_misplaced = self.table.load().misplaces(&moving.residence).is_some();
        // Unless somebody has had it leave meanwhile.
        if is_misplaced && !moving.residence.is_ending() {
            return Err(HandError::Unread);
        }
        let residence = Arc::downgrade(&moving.residence);
        let (router, pools) = (Arc::clone(self), Arc::clone(pools));
        // Whoever waits for it may go.
        let moved = tokio::spawn(async move { router.carry_over(&pools, moving).await });
        let left = match timeout(wait, moved).await {
            Ok(Ok(true)) => true,
            Ok(_) => self.has_left(&key, wait).await,
            Err(_) => false,
        };
        let residence = residence.upgrade().filter(|residence| !residence.is_ending());
        Ok(Moved { left, kept: residence.map_or(0, |residence| residence.sessions()) })
    }

    /// Where an account goes that is somewhere; `None`: it is nowhere, or there already.
    fn plan(&self, key: &[u8], to: &str) -> Result<Option<Plan>, HandError> {
        let table = self.table.load();
        let routes = &table.book.routes;
        let Some(residence) = self.residences.find(key).filter(|residence| !residence.is_ending()) else {
            return Ok(None);
        };
        let target = routes.target(to).ok_or_else(|| HandError::Target(to.to_owned()))?;
        let is_there = |place: usize| table.backends[place].index == residence.backend();
        if residence.is_moving() {
            return Err(HandError::Kept("it is being moved already"));
        }
        if table.is_replica(residence.backend()) || routes.relay_of(target).is_some() {
            return Err(HandError::Kept("they go through to a replica, or would"));
        }
        if routes.members(target).any(is_there) {
            return Ok(None);
        }
        let backend = table.choice(target, key).map(|place| Arc::clone(&table.backends[place]));
        let backend = backend.ok_or_else(|| HandError::Nowhere(to.to_owned()))?;
        Ok(Some((residence, backend, matches!(target, Target::Group(_)))))
    }

    /// Has everything leave where it is, and go on where it goes. False: its sessions had to end.
    async fn carry_over(&self, pools: &Pools, moving: Moving) -> bool {
        let residence = Arc::clone(&moving.residence);
        let account = String::from_utf8_lossy(&residence.key).into_owned();
        info!(account, sessions = residence.sessions(), "an account moves with its sessions");
        let arrived = self.is_left(&moving).await && !residence.is_ending() && arrives(pools, moving);
        let table = self.table.load();
        if !arrived {
            Self::end(&table, &residence, "it could not be moved with its sessions");
            return false;
        }
        info!(account, sessions = residence.sessions(), "an account has moved with its sessions");
        // Other routes may have come to hold when it was under way.
        if let Some(why) = self.table.load().misplaces(&residence) {
            Self::end(&table, &residence, why);
        }
        true
    }

    /// Waits until nothing of it is where it was. What runs there may go on for as long as a login waits; then those
    /// who are in its way leave.
    async fn is_left(&self, moving: &Moving) -> bool {
        moving.let_go();
        let grace = self.patience.load().checkout_timeout;
        if timeout(grace, moving.is_over()).await.is_ok() {
            return true;
        }
        let sessions = moving.dismiss_those_who_hold_on();
        let account = String::from_utf8_lossy(&moving.residence.key).into_owned();
        warn!(account, sessions, "sessions are ended that keep their account from moving");
        timeout(grace.max(TO_END), moving.is_over()).await.is_ok()
    }
}

/// The account's pools and the account itself are at the other backend from here on.
fn arrives(pools: &Pools, moving: Moving) -> bool {
    // A reload may exchange it just now.
    while let Some(backend) = pools.backend(moving.to) {
        if pools.move_accounts(&moving.residence.key, moving.from(), &backend) {
            return moving.arrive();
        }
    }
    false
}

/// Whether a backend takes sessions now: it is in service, and greets.
async fn serves(backend: &Arc<Backend>) -> Result<(), HandError> {
    let silent = |why| Err(HandError::Silent { backend: backend.config.name.clone(), why });
    match backend.service() {
        Service::Running => match backend.greets().await {
            Ok(()) => Ok(()),
            Err(error) => silent(error.to_string()),
        },
        service => silent(format!("it is {}", service.as_str())),
    }
}
