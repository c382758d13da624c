//! The gate in front of every connection that is opened: how many, how fast, and for whom. Pure: time is an argument.
//!
//! Two things stand in the way of a loop, whatever its cause. Each account has a [`Line`]: a burst of connections,
//! then one at a time, and after too many that were of no use pauses that grow until one is used. All connections to
//! a backend pass its [`Gate`], which alone gives the [`Pass`] that dialing takes.

use std::time::{Duration, Instant};

/// Connections to one backend that may be opened at once, and one more for each [`BACKEND_PAUSE`]: that many accounts
/// can log in at the start, or dial again after an outage.
const BACKEND_BURST: u32 = 20_000;
/// See [`BACKEND_BURST`].
const BACKEND_PAUSE: Duration = Duration::from_millis(2);
/// Connections that an account may open at once, beyond twice `pool.max_per_account`.
const FURTHER: u32 = 4;
/// One more each, after that. Mailboxes whose sessions have switched on different things take turns on few
/// connections, and most of these turns cost one: clients of mixed kinds were seen to need forty a second.
const ACCOUNT_PAUSE: Duration = Duration::from_millis(25);
/// The pause before the next connection, once twice `pool.max_per_account` were opened in a row of which none was
/// used; it doubles with each further one, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Why one has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The account has opened as many connections as it may for now.
    Account,
    /// The connections that the account opened of late were of no use.
    BackOff,
    /// All together have opened as many connections to the backend as they may for now.
    Backend,
}

/// For whom a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// Somebody waits for it: a further connection of an account, or a credential to be verified.
    Login,
    /// Nobody yet: it is to be there for the next login.
    Spare,
    /// Nobody: it is to be seen whether the backend is there.
    Look,
    /// One session, which goes through to a replica on it. As many are opened as sessions log in: there is no loop to
    /// be held up, and the replica has a gate of its own.
    Relay,
}

/// The right to open one connection. It is used up by that, or given back.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "it is to be used up or given back"]
pub struct Pass {
    /// It was taken from the bucket.
    counts: bool,
}

/// Not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Later {
    /// Not before then.
    pub at: Instant,
    /// Why.
    pub reason: Reason,
}

/// Tokens that come back one by one. Those who wait for one are counted, so that nobody gets theirs.
#[derive(Debug)]
struct Bucket {
    size: u32,
    pause: Duration,
    /// When it is full again; `None`: it is.
    full_at: Option<Instant>,
    waiting: u32,
}

impl Bucket {
    fn new(size: u32, pause: Duration) -> Self {
        Self { size, pause, full_at: None, waiting: 0 }
    }

    /// When there are so many tokens, at the earliest now.
    fn has_at(&self, tokens: u32, now: Instant) -> Instant {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        let used_up = full_at + self.pause.saturating_mul(tokens);
        now + used_up.saturating_duration_since(now + self.pause.saturating_mul(self.size))
    }

    /// Tokens that there are for whoever comes.
    fn free(&self, now: Instant) -> u32 {
        let lacks = self.full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let lacking = lacks.as_nanos().div_ceil(self.pause.as_nanos().max(1));
        let lacking = u32::try_from(lacking).unwrap_or(u32::MAX);
        self.size.saturating_sub(lacking).saturating_sub(self.waiting)
    }

    fn take(&mut self, now: Instant) {
        self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + self.pause);
    }

    fn give_back(&mut self) {
        self.full_at = self.full_at.and_then(|at| at.checked_sub(self.pause));
    }

    /// One more waits for a token, or one less.
    fn waits(&mut self, one_more: bool) {
        self.waiting = if one_more { self.waiting.saturating_add(1) } else { self.waiting.saturating_sub(1) };
    }

    /// Takes a token for one who has not waited yet, or who has (`waited`).
    fn enter(&mut self, waited: bool, now: Instant) -> Result<(), Instant> {
        let before = if waited { 0 } else { self.waiting };
        let at = self.has_at(before.saturating_add(1), now);
        if at > now {
            return Err(at);
        }
        self.take(now);
        Ok(())
    }
}

/// In front of one backend.
#[derive(Debug)]
pub struct Gate(Bucket);

impl Default for Gate {
    fn default() -> Self {
        Self(Bucket::new(BACKEND_BURST, BACKEND_PAUSE))
    }
}

impl Gate {
    /// A pass, or when to ask again. What nobody waits for leaves half of what there is to the others.
    ///
    /// # Errors
    /// [`Later`], which is no promise: it is to be asked again then.
    pub fn enter(&mut self, whom: Whom, waited: bool, now: Instant) -> Result<Pass, Later> {
        let later = |at| Later { at, reason: Reason::Backend };
        if whom == Whom::Relay {
            return Ok(Pass { counts: false });
        }
        if whom != Whom::Login && self.0.free(now) < self.0.size / 2 {
            return Err(later(now + self.0.pause.saturating_mul(self.0.size / 2)));
        }
        self.0.enter(waited, now).map(|()| Pass { counts: true }).map_err(later)
    }

    /// Nothing was dialed with it.
    pub fn give_back(&mut self, pass: Pass) {
        if pass.counts {
            self.0.give_back();
        }
    }

    /// One more waits, or one less: with a pass, or without.
    pub fn waits(&mut self, one_more: bool) {
        self.0.waits(one_more);
    }

    /// Connections that may be opened at once now.
    #[must_use]
    pub fn free(&self, now: Instant) -> u32 {
        self.0.free(now)
    }
}

/// Of one account, in front of the gate: each login with a credential that was accepted before.
#[derive(Debug)]
pub struct Line {
    bucket: Bucket,
    /// Connections that may be opened in a row without a pause although none was used.
    grace: u32,
    /// Those that were opened since one was last used.
    unproven: u32,
    /// How many of these were followed by a pause.
    pauses: u32,
    paused_until: Option<Instant>,
}

impl Line {
    /// Of an account with `places` for connections (`pool.max_per_account`).
    #[must_use]
    pub fn new(places: usize) -> Self {
        let grace = grace_of(places);
        let bucket = Bucket::new(grace.saturating_add(FURTHER), ACCOUNT_PAUSE);
        Self { bucket, grace, unproven: 0, pauses: 0, paused_until: None }
    }

    /// It has so many places from now on. What was let pass counts on, but no pause has been made for it.
    pub fn resize(&mut self, places: usize) {
        self.grace = grace_of(places);
        self.bucket.size = self.grace.saturating_add(FURTHER);
        self.end_pauses_within_grace();
    }

    /// Lets one pass, or says when to ask again. It counts as of no use until [`Line::proven`].
    ///
    /// # Errors
    /// [`Later`], which is no promise: it is to be asked again then.
    pub fn enter(&mut self, waited: bool, now: Instant) -> Result<(), Later> {
        if let Some(at) = self.paused_until.filter(|until| *until > now) {
            return Err(Later { at, reason: Reason::BackOff });
        }
        self.bucket.enter(waited, now).map_err(|at| Later { at, reason: Reason::Account })?;
        self.unproven = self.unproven.saturating_add(1);
        if self.unproven >= self.grace {
            let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(10));
            self.pauses = self.pauses.saturating_add(1);
            self.paused_until = Some(now + pause.min(LONGEST_PAUSE));
        }
        Ok(())
    }

    /// One more waits, or one less.
    pub fn waits(&mut self, one_more: bool) {
        self.bucket.waits(one_more);
    }

    /// Who was let pass has opened nothing, or nothing that is to be used. `tried`: but it was tried.
    pub fn unused(&mut self, tried: bool) {
        if !tried {
            self.bucket.give_back();
        }
        self.unproven = self.unproven.saturating_sub(1);
        self.pauses = self.pauses.saturating_sub(1);
        self.end_pauses_within_grace();
    }

    /// A connection was of use: a client's command was answered on it, or an IDLE lasted.
    pub fn proven(&mut self) {
        self.unproven = 0;
        self.end_pauses_within_grace();
    }

    fn end_pauses_within_grace(&mut self) {
        if self.unproven < self.grace {
            (self.pauses, self.paused_until) = (0, None);
        }
    }

    /// Whether it has to pause after each connection, until one is used.
    pub fn backs_off(&self) -> bool {
        self.paused_until.is_some()
    }
}

fn grace_of(places: usize) -> u32 {
    u32::try_from(places.max(1)).unwrap_or(u32::MAX).saturating_mul(2)
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
