//! How the test account of a group fares at a member. Servers punish who is refused again and again.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::Check;

/// One that is refused is tried at least so often, or as often as members are checked.
const LONGEST: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug, Clone, Default)]
pub(super) struct Trial {
    /// It was not let in when it was last tried.
    pub(super) lets_nobody_in: bool,
    /// What it was refused with, and how often in a row.
    refused: (u64, u32),
    /// Not with that again before.
    next: Option<Instant>,
    /// Why there is no password, as it was told.
    told: Option<String>,
}

impl Trial {
    /// Whether it may be tried with this credential. There is one.
    pub(super) fn is_due(&mut self, credential: u64, now: Instant) -> bool {
        self.told = None;
        self.refused.0 != credential || self.next.is_none_or(|next| next <= now)
    }

    /// The member refuses this credential. As often as takes it out, it is asked at each check; then half as often each
    /// time. Gives whether that begins.
    pub(super) fn refused(&mut self, credential: u64, check: &Check, now: Instant) -> bool {
        let times = if self.refused.0 == credential { self.refused.1.saturating_add(1) } else { 1 };
        self.refused = (credential, times);
        let Some(beyond) = times.checked_sub(check.failures.get()) else { return false };
        let wait = check.interval.saturating_mul(1 << (beyond + 1).min(20));
        self.next = now.checked_add(wait.min(LONGEST.max(check.interval)));
        beyond == 0
    }

    /// It was let in.
    pub(super) fn is_over(&mut self) {
        *self = Self { told: self.told.take(), ..Self::default() };
    }

    /// There is no password: whether that was not told before.
    pub(super) fn is_news(&mut self, why: &str) -> bool {
        self.told.replace(why.to_owned()).as_deref() != Some(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many seconds after a start it is tried, where members are checked every ten seconds.
    fn tried(trial: &mut Trial, seconds: u64) -> Vec<u64> {
        let (start, check) = (Instant::now(), Check::default());
        let mut tried = Vec::new();
        for second in (0..seconds).step_by(10) {
            let now = start + Duration::from_secs(second);
            if trial.is_due(7, now) {
                tried.push(second);
                assert_eq!(trial.refused(7, &check, now), tried.len() == 3, "told once");
            }
        }
        tried
    }

    #[test]
    fn a_wrong_password_is_tried_less_and_less_often() {
        let mut trial = Trial::default();
        let all = tried(&mut trial, 4000);
        assert_eq!(all, [0, 10, 20, 40, 80, 160, 320, 640, 1240, 1840, 2440, 3040, 3640]);
        assert!(!trial.is_due(7, Instant::now()) && trial.is_due(8, Instant::now()), "another one is tried at once");
        trial.is_over();
        assert_eq!(tried(&mut trial, 50), [0, 10, 20, 40]);
    }

    #[test]
    fn what_is_the_matter_with_the_password_is_told_once() {
        let mut trial = Trial::default();
        assert!(trial.is_news("gone") && !trial.is_news("gone") && trial.is_news("empty"));
        assert!(trial.is_due(1, Instant::now()));
        assert!(trial.is_news("empty"), "it was there meanwhile");
    }
}
