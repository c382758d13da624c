//! What of CONDSTORE and QRESYNC (RFC 7162) is on: on the connection, the most that a member has switched on, or more;
//! of that, each member is told what it has switched on itself.

use bytes::Bytes;

use super::replies::tells_highest;
use super::{Action, Job, Link, Machine, Member, MemberId, Told};
use crate::imap::response::StatusReply;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::log::Replay;

impl Machine {
    /// What has to be on, on the connection.
    pub fn needed(&self) -> Enabled {
        self.members.values().map(|member| member.enabled).max().unwrap_or_default()
    }

    /// What the member has switched on.
    #[must_use]
    pub fn enabled(&self, id: MemberId) -> Enabled {
        self.members.get(&id).map_or(Enabled::Nothing, |member| member.enabled)
    }

    /// The backend tells mod-sequences.
    pub(super) fn has_modseqs(&self) -> bool {
        self.view.tells_modseqs(self.on)
    }

    /// A member is told them.
    pub(super) fn wants_modseqs(&self) -> bool {
        self.has_modseqs() && self.needed().has_modseqs()
    }

    /// This member is.
    pub(super) fn hears_modseqs(&self, id: MemberId) -> bool {
        self.view.tells_modseqs(self.enabled(id))
    }

    /// This member is told VANISHED, and not EXPUNGE (RFC 7162 section 3.2.10.2).
    pub(super) fn hears_vanished(&self, id: MemberId) -> bool {
        self.enabled(id) == Enabled::Qresync && self.hears_modseqs(id)
    }

    /// A member that knows the mailbox is told VANISHED.
    pub(super) fn tells_vanished(&self) -> bool {
        self.members.iter().any(|(id, member)| member.enabled == Enabled::Qresync && self.view.log.has(*id))
    }

    /// The member whose command runs is not told mod-sequences, and the backend may tell them.
    pub(super) fn spares_owner(&self) -> bool {
        let Some(Job::Member(running)) = &self.job else { return false };
        self.on.has_modseqs() && !self.enabled(running.id).has_modseqs()
    }

    /// What a tagged reply tells the member whose command is over: without HIGHESTMODSEQ, if it is spared that.
    pub(super) fn without_modseq(&self, id: MemberId, rest: Bytes) -> Bytes {
        let spared = self.on.has_modseqs() && !self.enabled(id).has_modseqs();
        if !spared || !tells_highest(&rest) {
            return rest;
        }
        let text = StatusReply::parse(&rest).map(|reply| reply.text).filter(|text| !text.is_empty());
        [b" OK ", text.unwrap_or(b"Completed."), b"\r\n"].concat().into()
    }

    /// This member gives a command that asks for mod-sequences, and is told them from now on (RFC 7162 section 3.1).
    pub(super) fn switches_on(&mut self, id: MemberId) {
        if self.enabled(id).has_modseqs() {
            return;
        }
        // It hears without them what is older than that.
        self.replay(id, Replay::KeepNumbers);
        let Some(member) = self.members.get_mut(&id) else { return };
        (member.enabled, member.switching) = (Enabled::Condstore, true);
        // The backend says so only when it is switched on; whether it was, nobody knows before it has said so.
        let was_on = self.manners.known().grants_condstore;
        if let Some(modseq) = self.highest_modseq().filter(|_| was_on) {
            let text = format!("* OK [HIGHESTMODSEQ {modseq}] Highest mod-sequence\r\n");
            self.tell(id, Told::Data(text.into()));
        }
    }

    /// The command was answered. One that the backend does not understand has switched on nothing.
    pub(super) fn has_switched_on(&mut self, id: MemberId, bad: bool) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if std::mem::take(&mut member.switching) && bad {
            member.enabled = Enabled::Nothing;
        }
    }

    fn highest_modseq(&self) -> Option<u64> {
        self.view.selection.as_ref()?.highest_modseq.filter(|_| self.has_modseqs())
    }

    /// The connection tells too little: for those who are about to join, or, before the mailbox is selected there, for
    /// any.
    pub(super) fn lacks(&self, open: bool) -> bool {
        let needed = self.needed();
        if self.on >= needed || self.fresh.is_some() {
            return false;
        }
        match (needed, open) {
            (Enabled::Qresync, false) => true,
            (_, false) => false,
            (Enabled::Condstore, _) if !self.may_ask_for_condstore() => false,
            (Enabled::Condstore, _) if self.wants_census() || self.is_resumable() => true,
            _ => self.who_lacks().next().is_some(),
        }
    }

    fn who_lacks(&self) -> impl Iterator<Item = MemberId> {
        let lacks =
            |id: &MemberId, it: &Member| it.enabled > self.on && it.waiting.is_some() && !self.view.log.has(*id);
        self.members.iter().filter(move |(id, member)| lacks(id, member)).map(|(id, _)| *id)
    }

    pub(super) fn may_ask_for_condstore(&self) -> bool {
        self.manners.known().condstore.allows(self.now)
    }

    /// Sees to it that the connection tells what they need: CONDSTORE comes with SELECT, for QRESYNC another
    /// connection is asked for, or this one anew (RFC 5161 section 3.1: no mailbox is selected then).
    pub(super) fn raise(&mut self, open: bool) {
        if open && self.wants_census() {
            return self.ask_for_uids();
        }
        if !self.is_resumable() {
            let ids = self.who_lacks().collect();
            return self.actions.push_back(Action::Elsewhere(ids));
        }
        if self.needed() == Enabled::Qresync {
            return self.disconnect(self.now);
        }
        self.link = Link::Up { open: false };
    }
}
