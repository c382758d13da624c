//! A circuit breaker: after failures in a row a backend is left alone for a while, and asked by one at a time after.
//! Pure: time is an argument, and so is chance.

use std::time::{Duration, Instant};

/// Failures in a row that open the circuit.
const FAILURES: u32 = 3;
/// Wait after the circuit opens; doubles with each further failure, up to [`MAX_WAIT`].
const MIN_WAIT: Duration = Duration::from_millis(250);
/// Longest wait between two attempts at a dead backend: after it is back, the first session gets through within this.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// An attempt that has not told its outcome by then does not keep the next one from being made: it may hang on a
/// connection that was lost in the outage, while the backend is back.
const PROBE_LOST: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    /// When the next attempt may be made, while the circuit is open.
    open_until: Option<Instant>,
    probing_since: Option<Instant>,
}

impl Breaker {
    /// Whether an attempt would be refused now.
    pub fn refuses(&self, now: Instant) -> bool {
        let probing = self.probing_since.is_some_and(|since| now < since + PROBE_LOST);
        self.open_until.is_some_and(|until| now < until || probing)
    }

    /// Whether an attempt may be made now; each yes must be followed by [`Breaker::succeeded`],
    /// [`Breaker::failed`] or [`Breaker::undecided`].
    pub fn try_attempt(&mut self, now: Instant) -> bool {
        if self.refuses(now) {
            return false;
        }
        self.probing_since = self.open_until.map(|_| now);
        true
    }

    /// The backend has greeted: the circuit closes. But until it has judged a login, too, the next failure opens it
    /// again, for longer: some servers greet and then fall over.
    pub fn greeted(&mut self) {
        self.open_until = None;
        self.probing_since = None;
    }

    /// An attempt succeeded: the circuit closes.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// An attempt came to nothing for a reason that tells nothing of the backend: things stay as they are.
    pub fn undecided(&mut self) {
        self.probing_since = None;
    }

    /// An attempt failed. `chance` in 0..1 spreads the next one over the second half of the wait.
    pub fn failed(&mut self, now: Instant, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        self.probing_since = None;
        if self.failures >= FAILURES {
            let doublings = (self.failures - FAILURES).min(10);
            let wait = MIN_WAIT.saturating_mul(1 << doublings).min(MAX_WAIT);
            self.open_until = Some(now + wait.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0));
        }
    }

    /// The circuit is open: the backend is taken for dead.
    pub fn is_open(&self) -> bool {
        self.open_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_probes_and_closes() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            assert!(breaker.try_attempt(start));
            breaker.failed(start, 1.0);
        }
        assert!(!breaker.try_attempt(start) && breaker.is_open());
        let later = start + MIN_WAIT;
        assert!(breaker.try_attempt(later), "one probe");
        assert!(!breaker.try_attempt(later), "not two");
        breaker.failed(later, 1.0);
        assert!(!breaker.try_attempt(later + MIN_WAIT), "waits twice as long");
        assert!(breaker.try_attempt(later + 2 * MIN_WAIT));
        breaker.succeeded();
        assert!(breaker.try_attempt(later) && !breaker.is_open());
    }

    #[test]
    fn a_greeting_alone_does_not_make_failures_forgotten() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES {
            breaker.failed(start, 1.0);
        }
        breaker.greeted();
        assert!(breaker.try_attempt(start) && !breaker.is_open());
        breaker.failed(start, 1.0);
        assert_eq!(breaker.open_until, Some(start + 2 * MIN_WAIT));
        breaker.succeeded();
        breaker.failed(start, 1.0);
        assert!(!breaker.is_open());
    }

    #[test]
    fn what_tells_nothing_of_the_backend_neither_opens_nor_closes() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            assert!(breaker.try_attempt(start));
            breaker.undecided();
        }
        assert!(!breaker.is_open());
        for _ in 0..FAILURES {
            breaker.failed(start, 1.0);
        }
        assert!(breaker.try_attempt(start + MIN_WAIT));
        breaker.undecided();
        assert!(breaker.is_open() && breaker.try_attempt(start + MIN_WAIT), "the next may try");
        breaker.failed(start + MIN_WAIT, 1.0);
        assert_eq!(breaker.open_until, Some(start + 3 * MIN_WAIT), "as if there had been none between");
    }

    #[test]
    fn the_wait_is_bounded_and_a_lost_probe_forgotten() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            breaker.failed(start, 1.0);
        }
        assert_eq!(breaker.open_until, Some(start + MAX_WAIT));
        assert!(breaker.try_attempt(start + MAX_WAIT));
        assert!(breaker.try_attempt(start + MAX_WAIT + PROBE_LOST));
    }
}
