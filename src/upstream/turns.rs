//! Whose credential the backend is asked about next: a bounded number at once, and the better an attempt stands the
//! more of these places are open to it.
//!
//! A backend answers a right password within milliseconds and a wrong one after seconds, so wrong ones fill any
//! queue. They find two of the eight places open, and what is proven or comes from a familiar address does not wait
//! behind them.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::throttle::Standing;

/// Connections that may be busy verifying credentials at once, by standing: Proven, Familiar, Unknown, Suspect.
const PLACES: [usize; 4] = [8, 6, 4, 2];
/// Suspect attempts that may wait for their turn; others are turned away.
const WAITING_SUSPECTS: usize = 16;
/// Connections that suspect attempts may have opened at once, and one more for each [`DIAL_PAUSE`].
const DIALS: u32 = 8;
/// Some servers hang up after each wrong password or two: then this, and not the attack, sets the number of ports.
const DIAL_PAUSE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Turns {
    /// Who passes one gate goes on to the next better one.
    gates: [Semaphore; PLACES.len()],
    suspects: Semaphore,
    /// Dials that suspects may make, and since when.
    dials: Mutex<(u32, Instant)>,
}

/// The right to one verification.
#[derive(Debug)]
pub struct Turn<'a> {
    _gates: Vec<SemaphorePermit<'a>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            gates: PLACES.map(Semaphore::new),
            suspects: Semaphore::new(WAITING_SUSPECTS),
            dials: Mutex::new((DIALS, tokio::time::Instant::now().into_std())),
        }
    }
}

impl Turns {
    /// Waits for a turn, in the order of asking among those who stand equally. `None`: too many suspects wait
    /// already. The caller sets the deadline.
    pub async fn take(&self, standing: Standing) -> Option<Turn<'_>> {
        let _place = match standing {
            Standing::Suspect => Some(self.suspects.try_acquire().ok()?),
            _ => None,
        };
        let mut gates = Vec::with_capacity(PLACES.len());
        for gate in self.gates[..=standing as usize].iter().rev() {
            // No gate is ever closed.
            gates.push(gate.acquire().await.expect("open semaphore"));
        }
        Some(Turn { _gates: gates })
    }

    /// Verifications that run now.
    pub fn running(&self) -> usize {
        PLACES[0] - self.gates[0].available_permits()
    }

    /// Connections that verifications may use at once.
    pub fn places(&self) -> usize {
        PLACES[0]
    }

    /// Whether a suspect attempt may open a connection now; a yes counts.
    pub fn may_dial(&self, now: Instant) -> bool {
        let (left, since) = &mut *self.dials.lock();
        let earned = now.saturating_duration_since(*since).div_duration_f64(DIAL_PAUSE);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and DIALS")]
        let earned = earned.min(f64::from(DIALS)) as u32;
        if earned > 0 {
            *left = (*left + earned).min(DIALS);
            *since = now;
        }
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fill(turns: &Turns, standing: Standing) -> Vec<Turn<'_>> {
        let mut held = Vec::new();
        while let Some(turn) = tokio::select! {
            biased;
            turn = turns.take(standing) => turn,
            () = tokio::task::yield_now() => None,
        } {
            held.push(turn);
        }
        held
    }

    #[tokio::test]
    async fn the_worse_leave_places_to_the_better() {
        let turns = Turns::default();
        let suspects = fill(&turns, Standing::Suspect).await;
        let unknown = fill(&turns, Standing::Unknown).await;
        let familiar = fill(&turns, Standing::Familiar).await;
        let proven = fill(&turns, Standing::Proven).await;
        assert_eq!([suspects.len(), unknown.len(), familiar.len(), proven.len()], [2, 2, 2, 2]);
        assert_eq!(turns.running(), turns.places());
        drop(suspects);
        assert_eq!(fill(&turns, Standing::Proven).await.len(), 2, "no place is kept from the best");
    }

    #[tokio::test]
    async fn suspects_who_wait_are_few() {
        let turns = Turns::default();
        let _running = fill(&turns, Standing::Suspect).await;
        let mut waiting: Vec<_> = (0..WAITING_SUSPECTS).map(|_| Box::pin(turns.take(Standing::Suspect))).collect();
        for wait in &mut waiting {
            assert!(futures_poll(wait).is_pending());
        }
        assert!(turns.take(Standing::Suspect).await.is_none());
        drop(waiting);
        assert!(futures_poll(&mut Box::pin(turns.take(Standing::Suspect))).is_pending());
    }

    fn futures_poll<F: Future + Unpin>(future: &mut F) -> std::task::Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn dials_of_suspects_are_counted_by_time() {
        let turns = Turns::default();
        let start = Instant::now();
        let dials = |at: Duration| (0..100).filter(|_| turns.may_dial(start + at)).count();
        assert_eq!(dials(Duration::from_secs(1)), 8);
        assert_eq!(dials(Duration::from_secs(12)), 1);
        assert_eq!(dials(Duration::from_secs(3600)), 8);
    }
}
