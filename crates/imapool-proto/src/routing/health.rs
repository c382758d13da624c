//! What checks say of a backend: whether it is in service, and how much of its share it gets after it has come back.
//! Pure: time is an argument.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// See the module. A backend that was never checked counts as up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Checks in a row that speak against the state.
    against: u32,
    /// It is down, since then.
    down: Option<Instant>,
    /// It was down before, and came back then.
    back: Option<Instant>,
    /// How long it was down before that, if it has not settled since.
    lasted: Duration,
    /// Whether the last check was well.
    last: Option<bool>,
}

impl Health {
    /// A check has ended, of which so many with the same outcome, in a row, change the state. Gives whether the backend
    /// is up now, if that has changed.
    pub fn heard(&mut self, well: bool, enough: NonZeroU32, now: Instant) -> Option<bool> {
        self.last = Some(well);
        if well == self.is_up() {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < enough.get() {
            return None;
        }
        self.against = 0;
        if well {
            self.lasted = self.lasted.max(self.down_for(now).unwrap_or_default());
            (self.down, self.back) = (None, Some(now));
        } else {
            self.goes_down(now);
        }
        Some(well)
    }

    /// It refuses connections: nobody is there, whatever the checks say so far. Gives whether that is news.
    pub fn refused(&mut self, now: Instant) -> bool {
        let news = self.is_up();
        (self.against, self.last) = (0, Some(false));
        if news {
            self.goes_down(now);
        }
        news
    }

    fn goes_down(&mut self, now: Instant) {
        if self.back.is_none() {
            self.lasted = Duration::ZERO;
        }
        (self.down, self.back) = (Some(now), None);
    }

    /// Others have what is its: it has been down for so long, or was, and has not settled since.
    #[must_use]
    pub fn is_away(&self, after: Duration, now: Instant) -> bool {
        match self.down_for(now) {
            Some(time) => time.max(self.lasted) >= after,
            None => self.back.is_some() && self.lasted >= after,
        }
    }

    /// From now on it is as if it had never been down, if it is up.
    pub fn settle(&mut self) {
        if self.is_up() {
            (self.back, self.lasted) = (None, Duration::ZERO);
        }
    }

    /// For how long it has been up again; none: it is down, or never was.
    #[must_use]
    pub fn back_for(&self, now: Instant) -> Option<Duration> {
        self.back.map(|since| now.saturating_duration_since(since))
    }

    /// By the checks so far.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.down.is_none()
    }

    /// What the last check said; none: there was none.
    #[must_use]
    pub fn last(&self) -> Option<bool> {
        self.last
    }

    /// For how long it has been down; none: it is up.
    #[must_use]
    pub fn down_for(&self, now: Instant) -> Option<Duration> {
        self.down.map(|since| now.saturating_duration_since(since))
    }

    /// Its weight now, of `weight` in the end: after it has come back it grows to that within `slow_start`. Never zero
    /// unless `weight` is.
    #[must_use]
    pub fn weight(&self, weight: u32, slow_start: Duration, now: Instant) -> u32 {
        let Some(back) = self.back else { return weight };
        let age = now.saturating_duration_since(back);
        if age >= slow_start || weight == 0 {
            return weight;
        }
        let part = age.as_millis() * u128::from(weight) / slow_start.as_millis().max(1);
        u32::try_from(part).unwrap_or(weight).clamp(1, weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A check has ended where so many failures take it out, and so many successes bring it back.
    fn heard(health: &mut Health, well: bool, (failures, successes): (u32, u32), now: Instant) -> Option<bool> {
        health.heard(well, NonZeroU32::new(if well { successes } else { failures }).unwrap(), now)
    }

    #[test]
    fn so_many_in_a_row_take_it_out_and_bring_it_back() {
        let start = Instant::now();
        let mut health = Health::default();
        let heard = |health: &mut Health, checks: &str| {
            checks.chars().map(|check| heard(health, check == '+', (3, 2), start)).collect::<Vec<_>>()
        };
        assert_eq!((health.is_up(), health.last()), (true, None));
        assert_eq!(heard(&mut health, "+--+--+"), [None; 7]);
        assert_eq!(heard(&mut health, "---"), [None, None, Some(false)]);
        let later = start + Duration::from_secs(9);
        assert_eq!((health.is_up(), health.down_for(later)), (false, Some(Duration::from_secs(9))));
        assert_eq!(heard(&mut health, "-+-+-"), [None; 5]);
        assert_eq!(heard(&mut health, "++"), [None, Some(true)]);
        assert_eq!((health.is_up(), health.down_for(later), health.last()), (true, None, Some(true)));
    }

    #[test]
    fn one_that_refuses_connections_is_down_at_once_and_returns_before_it_is_up() {
        let start = Instant::now();
        let (mut health, seconds) = (Health::default(), |seconds| start + Duration::from_secs(seconds));
        assert!(health.refused(start) && !health.refused(seconds(1)));
        assert_eq!(health.down_for(seconds(2)), Some(Duration::from_secs(2)));
        assert_eq!(heard(&mut health, true, (3, 2), seconds(3)), None);
        assert_eq!((health.is_up(), health.back_for(seconds(3))), (false, None));
        assert!(!health.refused(seconds(4)));
        let _ = heard(&mut health, true, (3, 2), seconds(5));
        assert_eq!(heard(&mut health, true, (3, 2), seconds(6)), Some(true));
        assert_eq!(health.back_for(seconds(9)), Some(Duration::from_secs(3)));
    }

    /// Others have taken over after two seconds, and keep what they have until it has settled.
    #[test]
    fn it_is_away_until_it_has_settled() {
        let start = Instant::now();
        let (mut health, seconds) = (Health::default(), |seconds| start + Duration::from_secs(seconds));
        let (two, enough) = (Duration::from_secs(2), (1, 1));
        let away = |health: &Health, at| health.is_away(two, seconds(at));
        assert!(!away(&health, 0));
        // So short that nobody has noticed.
        let _ = (health.refused(seconds(1)), heard(&mut health, true, enough, seconds(2)));
        assert!(!away(&health, 9));
        health.settle();
        let _ = heard(&mut health, false, enough, seconds(10));
        assert!(!away(&health, 11) && away(&health, 12));
        let _ = heard(&mut health, true, enough, seconds(13));
        assert!(away(&health, 60), "it is back, and they have it still");
        // Down again before it has settled: they go on having it.
        let _ = health.refused(seconds(61));
        health.settle();
        assert!(away(&health, 61), "it does not settle while it is down");
        let _ = heard(&mut health, true, enough, seconds(62));
        assert!(away(&health, 62));
        health.settle();
        assert!(!away(&health, 62));
        let _ = heard(&mut health, false, enough, seconds(70));
        assert!(!away(&health, 71) && away(&health, 72));
    }

    #[test]
    fn its_weight_grows_after_it_has_come_back() {
        let start = Instant::now();
        let (mut health, minute) = (Health::default(), Duration::from_secs(60));
        let at = |health: &Health, seconds| health.weight(1000, minute, start + Duration::from_secs(seconds));
        assert_eq!(at(&health, 0), 1000, "it was there from the start");
        let _ = (heard(&mut health, false, (1, 1), start), heard(&mut health, true, (1, 1), start));
        assert_eq!([0, 15, 30, 60, 99].map(|seconds| at(&health, seconds)), [1, 250, 500, 1000, 1000]);
        assert_eq!(health.weight(1000, Duration::ZERO, start), 1000);
        assert_eq!(health.weight(0, minute, start), 0);
    }

    proptest! {
        /// Whatever the checks say: it changes only after so many in a row, and the weight only grows.
        #[test]
        fn whatever_the_checks_say(
            checks in prop::collection::vec(any::<bool>(), 0..60),
            (failures, successes) in (1..5u32, 1..5u32),
            weight in any::<u32>(),
        ) {
            let (start, second) = (Instant::now(), Duration::from_secs(1));
            let mut health = Health::default();
            for (number, check) in checks.iter().enumerate() {
                let now = start + second * u32::try_from(number).unwrap();
                if let Some(up) = heard(&mut health, *check, (failures, successes), now) {
                    let enough = if up { successes } else { failures } as usize;
                    prop_assert!(number + 1 >= enough);
                    prop_assert!(checks[number + 1 - enough..=number].iter().all(|check| *check == up));
                }
                let [sooner, later] =
                    [number, number + 7].map(|at| start + second * u32::try_from(at).unwrap())
                        .map(|at| health.weight(weight, second * 20, at));
                prop_assert!(sooner <= later && later <= weight && (later > 0 || weight == 0));
            }
        }
    }
}
