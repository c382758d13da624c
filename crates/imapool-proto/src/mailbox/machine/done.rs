//! The ends of what runs upstream.

use bytes::Bytes;

use super::jobs::{Finishing, Job, Running};
use super::replies::{highest_modseq, tells_highest};
use super::resume::Recovery;
use super::selection::Selection;
use super::{Link, Machine, MemberId, Told};
use crate::imap::renumber::modified;
use crate::imap::untagged::Replies;

impl Machine {
    /// What came before it, the tagged reply without its tag, and whether a mailbox is selected.
    pub fn handle_done(&mut self, data: &Replies, rest: Bytes, selected: bool) {
        self.handle_data(data);
        if self.link == Link::Broken {
            return;
        }
        let tagged = self.incoming.tagged.take();
        let told = tagged.as_ref().is_some_and(|tagged| tagged.passes);
        let rest = tagged.map_or(rest, |tagged| tagged.in_short());
        self.note_highest(highest_modseq(&rest));
        if self.owner().is_none() {
            self.alerts(&[b"*", &rest[..]].concat(), None);
        }
        let Some(job) = self.job.take() else { return };
        if std::mem::take(&mut self.ahead.runs) {
            self.manners.learn(|known| known.ahead.works());
        }
        self.quiet_since = self.now;
        let ok = rest.get(..3).is_some_and(|status| status.eq_ignore_ascii_case(b" OK"));
        if matches!(job, Job::Open { .. } | Job::Member(_)) {
            self.in_vain.losses = 0;
        }
        let tells_all = job.tells_all();
        let delays = std::mem::take(&mut self.view.delays);
        // Who gave the command has heard it.
        self.view.delayed &= !tells_all && !delays;
        match job {
            Job::Open { member, run, selection } => self.opened(member, &run, selection, rest, ok && selected),
            Job::Reselect { selection, parameter } => {
                self.reselected(Selection { rest, ..selection }, parameter, ok && selected);
            }
            Job::Census { by, fresh: true } => {
                self.note_search(by, ok);
                self.recounted(ok);
            }
            Job::Census { .. } if self.fresh.is_some() => {}
            Job::Census { by, .. } => {
                self.note_search(by, ok);
                self.note_census();
            }
            Job::Status { text } => self.told_status(&rest, ok.then_some(&text)),
            // Whether there is one is not to be learned: to select it will tell.
            Job::Exists { found } if found || !ok => {
                self.manners.learn(|known| known.status.refused(self.now));
                self.admit_without_status();
            }
            Job::Exists { .. } => self.join_elsewhere(),
            Job::Unseen => {
                if !ok {
                    self.manners.learn(|known| known.search.refused(self.now));
                }
                self.ask_for_news();
            }
            Job::Refresh => self.refreshed(),
            // Whatever came of EXPUNGE: CLOSE of a mailbox that may not be changed only leaves it (RFC 9051 section
            // 6.4.1).
            Job::Close { member, alone: false } => self.done(member, " OK Close completed.\r\n", false),
            Job::Close { member, alone: true } => {
                let rest = self.without_modseq(member, rest);
                match selected {
                    true => self.tell(member, Told::Done(Bytes::new(), rest, true)),
                    false => self.done(member, rest, false),
                }
            }
            Job::Member(running) if told => self.tell(running.id, Told::Done(Bytes::new(), Bytes::new(), true)),
            Job::Member(running) if self.is_selecting(running.id) => self.caught_up(running.id, rest, ok),
            Job::Member(running) if self.fresh.is_some() => {
                self.members.get_mut(&running.id).into_iter().for_each(|member| member.since = Some(self.now));
                self.finishing = Some(Finishing { running, rest, ok });
            }
            Job::Member(running) => self.answered(*running, rest, ok),
            Job::Skip { then: Some(then) } => self.begin(then.0, then.1),
            Job::Skip { then: None } => {}
            Job::Recheck => {
                if !self.recovery.lacks_flags() {
                    // What is refused is not asked for again and again.
                    self.recovery = Recovery::UpToDate;
                    self.view.shadow.forgive();
                    if ok {
                        self.view.settle();
                    }
                }
            }
            Job::KeepAlive => self.polled(ok),
            Job::Idle(idle) => self.idle_over(&idle, false),
        }
        self.view.delayed |= delays && !tells_all;
        if !selected && self.is_open() {
            self.link = Link::Up { open: false };
        }
    }

    /// A member's command is over.
    fn answered(&mut self, running: Running, rest: Bytes, ok: bool) {
        self.has_switched_on(running.id, rest.starts_with(b" BAD"));
        let rest = self.without_modseq(running.id, self.in_own_numbers(&running, rest));
        if ok {
            self.tell_answer(running.id, running.answer);
        }
        self.done(running.id, rest, true);
    }

    /// What has vanished is known now, or will be later: whose command was over before hears that.
    pub(super) fn finish(&mut self) {
        let Some(Finishing { mut running, rest, ok }) = self.finishing.take() else { return };
        self.replay(running.id, running.replay);
        if self.has_to_leave(running.id) {
            let told = Told::Done(Bytes::new(), self.without_modseq(running.id, rest), true);
            if let Some(member) = self.members.get_mut(&running.id) {
                member.out.push_before_last(told);
            }
            return;
        }
        running.mapped |= self.view.log.withholds(running.id);
        self.answered(*running, rest, ok);
    }

    /// The backend says up to where it has told everything.
    pub(super) fn note_highest(&mut self, modseq: Option<u64>) {
        let open = self.is_open();
        if let Some(selection) = self.view.selection.as_mut().filter(|_| open && modseq.is_some()) {
            selection.highest_modseq = modseq;
        }
    }

    /// A member was told what has changed since it knew the mailbox.
    fn caught_up(&mut self, id: MemberId, rest: Bytes, ok: bool) {
        let selected = self.members.get_mut(&id).and_then(|member| member.selecting.take());
        match selected.filter(|_| ok) {
            Some(selected) => self.done(id, selected, true),
            None => self.done(id, rest, false),
        }
    }

    /// `[MODIFIED 7,9]` in the tagged reply to a STORE (RFC 7162 section 3.1.3).
    fn in_own_numbers(&self, running: &Running, rest: Bytes) -> Bytes {
        if !running.mapped && self.is_open() {
            return rest;
        }
        match running.shape.store {
            _ if tells_highest(&rest) => Bytes::from_static(b" OK Completed.\r\n"),
            Some(_) if !running.shape.uid => {
                Bytes::copy_from_slice(&modified(&rest, &self.view.log.numbering(running.id)))
            }
            _ => rest,
        }
    }
}
