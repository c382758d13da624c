//! Slowing of wrong logins, here, before they reach a backend: each failure makes the next attempt at the same account
//! from the same address wait longer. Pure: time is an argument.
//!
//! It is the pair that is slowed: a front end's address is everybody's, and an account must not be locked by whoever
//! knows its name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Failures are remembered for this long after the last one.
const MEMORY: Duration = Duration::from_secs(60);
/// Delays double up to this many times the first.
const MAX_FACTOR: u32 = 16;
/// Pairs remembered at once; beyond that, all are forgotten. 100 octets each.
const MAX_PAIRS: usize = 100_000;

type Pair = (Vec<u8>, Option<IpAddr>);

/// See the module.
#[derive(Debug)]
pub struct Throttle {
    first_delay: Duration,
    failures: HashMap<Pair, (u32, Instant)>,
}

impl Throttle {
    /// `first_delay`: `auth.failure_delay`.
    #[must_use]
    pub fn new(first_delay: Duration) -> Self {
        Self { first_delay, failures: HashMap::new() }
    }

    /// `auth.failure_delay` has changed; failures so far count on.
    pub fn set_first_delay(&mut self, first_delay: Duration) {
        self.first_delay = first_delay;
    }

    /// How long an attempt has to wait before it is made. The first failure costs the next attempt nothing: its answer
    /// was held back already.
    #[must_use]
    pub fn delay(&self, user: &[u8], client: Option<IpAddr>, now: Instant) -> Duration {
        match self.failures.get(&(user.to_vec(), client)) {
            Some((failures, last)) if *failures > 1 && now < *last + MEMORY => self.delay_after(*failures - 1),
            _ => Duration::ZERO,
        }
    }

    /// Notes a failure; gives how long its answer is to be held back.
    pub fn failed(&mut self, user: &[u8], client: Option<IpAddr>, now: Instant) -> Duration {
        if self.failures.len() >= MAX_PAIRS {
            self.failures.clear();
        }
        let (failures, last) = self.failures.entry((user.to_vec(), client)).or_insert((0, now));
        *failures = if now < *last + MEMORY { failures.saturating_add(1) } else { 1 };
        *last = now;
        let failures = *failures;
        self.delay_after(failures)
    }

    /// The right credential came.
    pub fn succeeded(&mut self, user: &[u8], client: Option<IpAddr>) {
        self.failures.remove(&(user.to_vec(), client));
    }

    /// Forgets old failures.
    pub fn sweep(&mut self, now: Instant) {
        self.failures.retain(|_, (_, last)| now < *last + MEMORY);
    }

    fn delay_after(&self, failures: u32) -> Duration {
        self.first_delay * (1 << failures.saturating_sub(1).min(16)).min(MAX_FACTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_slow_only_their_own_pair() {
        let (one, other) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([127, 0, 0, 2])));
        let second = Duration::from_secs(1);
        let now = Instant::now();
        let mut throttle = Throttle::new(second);
        assert_eq!(throttle.failed(b"u", one, now), second);
        assert_eq!(throttle.delay(b"u", one, now), Duration::ZERO);
        assert_eq!(throttle.failed(b"u", one, now), 2 * second);
        assert_eq!(throttle.delay(b"u", one, now), second);
        for _ in 0..40 {
            throttle.failed(b"u", one, now);
        }
        assert_eq!(throttle.delay(b"u", one, now), 16 * second);
        assert_eq!(throttle.delay(b"u", other, now), Duration::ZERO);
        assert_eq!(throttle.delay(b"v", one, now), Duration::ZERO);
        assert_eq!(throttle.delay(b"u", one, now + MEMORY), Duration::ZERO);
        throttle.succeeded(b"u", one);
        assert_eq!(throttle.delay(b"u", one, now), Duration::ZERO);
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut throttle = Throttle::new(Duration::from_secs(1));
        for n in 0..MAX_PAIRS + 10 {
            throttle.failed(n.to_string().as_bytes(), None, now);
        }
        assert!(throttle.failures.len() <= MAX_PAIRS);
        throttle.sweep(now + MEMORY);
        assert!(throttle.failures.is_empty());
    }
}
