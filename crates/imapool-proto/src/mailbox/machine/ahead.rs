//! Questions that are sent before an earlier one is answered (RFC 9051 section 5.5): those who join a mailbox wait for
//! one round trip then, and not for four.
//!
//! What was sent is answered, whatever has become of the reason for it, and until then no other command is run: what
//! its numbers mean would be anybody's guess. So a question is either asked as it was sent, or its answer is waited
//! for and forgotten ([`Job::Skip`]).

use std::collections::VecDeque;

use super::jobs::Job;
use super::resume::Recovery;
use super::{Action, Machine, MemberId};
use crate::imap::command::Name;
use crate::imap::request::Request;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Sent, and not asked yet.
    pub(super) sent: VecDeque<Box<Request>>,
    /// For whom. Who comes later is told how the mailbox is then.
    ids: Vec<MemberId>,
    /// The job that runs was sent ahead.
    pub(super) runs: bool,
}

impl Machine {
    /// Whether the next to be served is somebody who joins, so that STATUS is asked next.
    fn is_about_to_admit(&self) -> bool {
        self.queue.front().is_some_and(|id| self.is_joining(*id) && self.is_asked_for(*id))
            && self.is_open()
            && self.has_joined()
            && self.hold.give_up.is_none()
            && self.finishing.is_none()
            && self.recovery == Recovery::UpToDate
            && !self.wants_census()
            && !self.lacks(true)
            && self.manners.known().status.allows(self.now)
    }

    /// What those who join will ask, with the `DONE` that makes room for it.
    pub(super) fn ask_ahead_of_admission(&mut self) {
        if self.is_about_to_admit() {
            let joins = |id: &&MemberId| self.is_joining(**id);
            self.ahead.ids = self.queue.iter().filter(joins).copied().collect();
            let first = self.ask_status();
            self.send_ahead(Some(first).into_iter().chain(self.further_questions()));
        }
    }

    /// What those who join will ask, if the answer to STATUS, which was just asked, is what it should be.
    pub(super) fn ask_ahead_of_status(&mut self) {
        if self.ahead.sent.is_empty() && !self.ahead.runs {
            self.send_ahead(self.further_questions());
        }
    }

    fn further_questions(&self) -> impl Iterator<Item = Box<Request>> + use<> {
        self.ask_for_unseen().into_iter().chain([Request::own(Name::Noop, "NOOP")])
    }

    fn send_ahead(&mut self, runs: impl Iterator<Item = Box<Request>>) {
        if !self.manners.known().ahead.allows(self.now) {
            return;
        }
        for run in runs.take_while(|run| run.command.segments.iter().all(|segment| segment.literal.is_none())) {
            self.actions.push_back(Action::Ahead(run.command.clone()));
            self.ahead.sent.push_back(run);
        }
    }

    /// Whether what is asked next tells this member how the mailbox was when it asked, or later.
    pub(super) fn is_asked_for(&self, id: MemberId) -> bool {
        self.ahead.sent.is_empty() || self.ahead.ids.contains(&id)
    }

    /// Waits for answers that nobody asks for any more; false: there are none.
    pub(super) fn skip_what_is_void(&mut self) -> bool {
        let is_void = !self.ahead.sent.is_empty() && !self.is_about_to_admit();
        if is_void {
            self.skip(None);
        }
        is_void
    }

    /// Waits for the next answer and forgets it; `then` does this.
    pub(super) fn skip(&mut self, then: Option<Box<(Job, Box<Request>)>>) {
        if let Some(run) = self.ahead.sent.front().cloned() {
            self.begin(Job::Skip { then }, run);
        }
    }

    /// The connection is lost.
    pub(super) fn lose_ahead(&mut self) {
        let Ahead { sent, runs, .. } = std::mem::take(&mut self.ahead);
        if runs || !sent.is_empty() {
            self.manners.learn(|known| known.ahead.failed(self.now));
        }
    }
}
