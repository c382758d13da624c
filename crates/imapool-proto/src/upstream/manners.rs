//! What a backend was found to refuse of what imapool asks of its own accord. It is remembered for an account, so
//! that nothing is asked again and again: the next connection and the next hub know it, too.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What was refused in plain words is asked for again after this, and then after twice as long each time.
const REFUSED: Duration = Duration::from_secs(10 * 60);
/// The same for what has failed without a word, which may be chance: once it is taken for that.
const FAILED: Duration = Duration::from_secs(60);
/// It is never longer.
const LONGEST: Duration = Duration::from_secs(6 * 60 * 60);

/// How one thing that is asked for has fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Refusal {
    /// In a row.
    times: u32,
    until: Option<Instant>,
}

impl Refusal {
    /// Whether it may be asked for.
    pub fn allows(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// It was refused.
    pub fn refused(&mut self, now: Instant) {
        self.times = self.times.saturating_add(1);
        self.until = Some(now + doubled(REFUSED, self.times - 1));
    }

    /// It came to nothing, which may be chance.
    pub fn failed(&mut self, now: Instant) {
        self.times = self.times.saturating_add(1);
        self.until = self.times.checked_sub(2).map(|times| now + doubled(FAILED, times));
    }

    /// It was done.
    pub fn works(&mut self) {
        *self = Self::default();
    }
}

fn doubled(wait: Duration, times: u32) -> Duration {
    wait.saturating_mul(1 << times.min(16)).min(LONGEST)
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Known {
    /// IDLE for a hub's members (RFC 2177).
    pub idle: Refusal,
    /// A command that is sent before the one before it is answered (RFC 9051 section 5.5).
    pub ahead: Refusal,
    /// STATUS of the mailbox that is selected, which RFC 3501 section 6.3.10 lets a server refuse.
    pub status: Refusal,
    /// UID SEARCH with RETURN (RFC 4731).
    pub esearch: Refusal,
    /// UID SEARCH.
    pub search: Refusal,
    /// The UIDs of all messages, by whatever command.
    pub census: Refusal,
    /// SELECT with the parameter CONDSTORE, for one session among others (RFC 7162 section 3.1.8).
    pub condstore: Refusal,
    /// ENABLE, of what a session had switched on already (RFC 5161).
    pub enable: Refusal,
    /// CONDSTORE was switched on, and the backend has said so (RFC 7162 section 3.1).
    pub grants_condstore: bool,
    /// ENABLE QRESYNC was answered by ENABLED (section 3.2.3).
    pub grants_qresync: bool,
    /// Leaving a mailbox without expunging, by whatever command.
    pub leaving: Refusal,
    /// UNSELECT is refused where something else leaves the mailbox (RFC 3691).
    pub no_unselect: bool,
}

/// What is known of the backend by all who have a connection of the account.
#[derive(Debug, Default)]
pub struct Manners(Mutex<Known>);

impl Manners {
    /// What is known now.
    pub fn known(&self) -> Known {
        *self.0.lock()
    }

    /// Learns something.
    pub fn learn(&self, lesson: impl FnOnce(&mut Known)) {
        lesson(&mut self.0.lock());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_asked_for_ever_more_seldom() {
        let mut now = Instant::now();
        let mut refusal = Refusal::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(refusal.allows(now));
            refusal.refused(now);
            assert!(!refusal.allows(now));
            let until = refusal.until.unwrap();
            waits.push((until - now).as_secs() / 60);
            now = until;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 360, 360, 360, 360, 360, 360]);
        refusal.works();
        assert!(refusal.allows(now));
    }

    #[test]
    fn what_fails_once_may_be_chance() {
        let now = Instant::now();
        let mut refusal = Refusal::default();
        refusal.failed(now);
        assert!(refusal.allows(now));
        refusal.failed(now);
        assert!(!refusal.allows(now + FAILED / 2) && refusal.allows(now + FAILED));
        for _ in 0..100 {
            refusal.failed(now);
        }
        assert!(refusal.allows(now + LONGEST));
    }
}
