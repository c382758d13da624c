//! IDLE upstream for all members who idle; where the backend has refused it, however it did, NOOP in its place.

use std::time::{Duration, Instant};

use super::jobs::Job;
use super::{Action, IDLE_RENEWAL, Machine, Nonsense};

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
    /// `over`: its deadline has passed.
    pub(super) fn interrupt_idle(&mut self, over: bool) {
        let has_idlers = self.has_idlers();
        let Some(Job::Idle(idle)) = &mut self.job else { return };
        if !idle.accepted || idle.ended.is_some() {
            if over {
                self.broken(Nonsense::Unanswered);
            }
            return;
        }
        let wanted = self.hold.give_up.is_some() || self.fresh.is_some() || !self.queue.is_empty() || !has_idlers;
        if over || wanted {
            idle.ended = Some(self.now);
            self.actions.push_back(Action::EndIdle);
            self.ask_ahead_of_admission();
        }
    }

    /// The backend has answered it, by itself or since `DONE` was sent; or the connection was lost meanwhile.
    pub(super) fn idle_over(&mut self, idle: &Idle, lost: bool) {
        let lasted = idle.accepted && self.now.saturating_duration_since(self.job_since) >= PROOF;
        if lasted {
            self.in_vain.losses = 0;
        }
        let unanswered = (!idle.accepted || idle.ended.is_some()) && self.now >= self.idle_deadline(idle);
        self.manners.learn(|known| match idle.ended {
            _ if lost && unanswered => known.idle.refused(self.now),
            _ if lasted => known.idle.works(),
            _ if lost => known.idle.failed(self.now),
            Some(_) if idle.heard => known.idle.works(),
            // Nobody can say.
            Some(_) => {}
            None if idle.heard => known.idle.failed(self.now),
            None => known.idle.refused(self.now),
        });
    }
}
