//! IDLE upstream for all members who idle; where the backend has refused it, however it did, NOOP in its place.

use std::time::{Duration, Instant};

use super::jobs::Job;
use super::{Action, IDLE_RENEWAL, Machine, Nonsense};
use crate::imap::command::Name;
use crate::imap::request::Request;

/// Servers answer IDLE, and DONE, at once.
const ANSWER: Duration = Duration::from_secs(15);
/// An IDLE that has lasted for so long works.
const PROOF: Duration = Duration::from_secs(30);
/// News are asked for this often while a member idles and the backend does not.
const POLL: Duration = Duration::from_secs(15);

/// The IDLE that runs.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// The backend has said `+`.
    pub(super) accepted: bool,
    /// When `DONE` was sent.
    pub(super) ended: Option<Instant>,
    /// The backend has told something.
    pub(super) heard: bool,
}

impl Machine {
    pub(super) fn has_idlers(&self) -> bool {
        self.members.values().any(|member| member.idling)
    }

    /// Members idle, and the backend may be asked to.
    pub(super) fn wants_idle(&self) -> bool {
        self.settings.idle && self.has_idlers() && self.manners.known().idle.allows(self.now)
    }

    pub(super) fn begin_idle(&mut self) {
        self.begin(Job::Idle(Idle::default()), Request::own(Name::Idle, "IDLE"));
    }

    /// How long nothing may happen upstream before news are asked for.
    pub(super) fn before_poll(&self) -> Duration {
        let keepalive = self.settings.keepalive;
        // Where NOOP is refused, too, ever more seldom.
        let poll = POLL.saturating_mul(1 << self.in_vain.polls.min(16));
        if self.has_idlers() { poll.min(keepalive) } else { keepalive }
    }

    /// News were asked for.
    pub(super) fn polled(&mut self, ok: bool) {
        self.in_vain.polls = if ok { 0 } else { self.in_vain.polls.saturating_add(1) };
        self.in_vain.losses = 0;
    }

    /// By when the backend has to have said something to the IDLE that runs, or it is begun anew.
    pub(super) fn idle_deadline(&self, idle: &Idle) -> Instant {
        match idle.ended {
            Some(ended) => ended + ANSWER,
            None if !idle.accepted => self.job_since + ANSWER,
            None => self.job_since + IDLE_RENEWAL,
        }
    }

    /// Ends the IDLE that runs if there is something else to do; or the connection, if the backend says nothing to it.
    pub(super) fn interrupt_idle(&mut self) {
        let Some(Job::Idle(idle)) = &self.job else { return };
        let over = self.now >= self.idle_deadline(idle);
        if !idle.accepted || idle.ended.is_some() {
            if over {
                self.broken(Nonsense::Unanswered);
            }
            return;
        }
        let wanted = self.hold.give_up.is_some()
            || self.recovery.looks_for_strays()
            || !self.queue.is_empty()
            || !self.has_idlers();
        if over || wanted {
            self.actions.push_back(Action::EndIdle);
            if let Some(Job::Idle(idle)) = &mut self.job {
                idle.ended = Some(self.now);
            }
            self.ask_ahead_of_admission();
        }
    }

    fn has_lasted(&self, idle: &Idle) -> bool {
        idle.accepted && self.now.saturating_duration_since(self.job_since) >= PROOF
    }

    /// The backend has answered it: by itself, or since `DONE` was sent.
    pub(super) fn idle_done(&mut self, idle: &Idle) {
        let lasted = self.has_lasted(idle);
        if lasted {
            self.in_vain.losses = 0;
        }
        self.manners.learn(|known| match idle.ended {
            _ if lasted => known.idle.works(),
            Some(_) if idle.heard => known.idle.works(),
            // Nobody can say.
            Some(_) => {}
            None if idle.heard => known.idle.failed(self.now),
            None => known.idle.refused(self.now),
        });
    }

    /// The connection was lost meanwhile.
    pub(super) fn idle_lost(&mut self, idle: &Idle) {
        let lasted = self.has_lasted(idle);
        let unanswered = (!idle.accepted || idle.ended.is_some()) && self.now >= self.idle_deadline(idle);
        if lasted {
            self.in_vain.losses = 0;
        }
        self.manners.learn(|known| {
            if unanswered {
                known.idle.refused(self.now);
            } else if lasted {
                known.idle.works();
            } else {
                known.idle.failed(self.now);
            }
        });
    }
}
