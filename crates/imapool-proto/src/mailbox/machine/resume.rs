//! The ends of what runs upstream, and how a hub goes on with another connection.

use bytes::{Bytes, BytesMut};

use super::jobs::{By, Finishing, Job, Joining, Running};
use super::replies::UNANNOUNCED;
use super::replies::highest_modseq;
use super::selection::Selection;
use super::{Action, Link, Machine, MemberId, Nonsense, Stat, Told};
use crate::imap::command::Name;
use crate::imap::fetch_items::mod_sequence;
use crate::imap::ranges::Ranges;
use crate::imap::renumber::modified;
use crate::imap::request::Request;
use crate::imap::response::StatusReply;
use crate::imap::untagged::Replies;
use crate::mailbox::enabled::{Enabled, Parameters};
use crate::mailbox::log::{Log, LogError};

/// Times that UIDs are asked for when they do not fit the number of messages.
const MAX_COUNTS: u8 = 40;
/// After so many times, one by one.
const COUNTS: u8 = 4;
/// After so many times, SELECT counts anew.
const RESELECT: u8 = 8;
/// Octets of the numbers in one command of ours.
const MAX_SET: usize = 4000;
/// Octets of the news between a list of UIDs and the end of the command that asked for it.
const MAX_AFTER: usize = 16 * 1024 * 1024;
/// Messages whose UIDs are asked for one by one.
const FEW: u32 = 200;

/// The mailbox as it is found on a new connection, before the members' views follow it.
#[derive(Debug)]
pub(super) struct Fresh {
    selection: Selection,
    exists: u32,
    /// The UIDs, once they were seen to fit.
    uids: Option<Ranges>,
    /// The UIDs that were told one by one, from the first message on.
    told: Ranges,
    /// The UIDs of messages that went before that.
    pub(super) gone: Ranges,
    /// The members' views have followed the mailbox on this connection: nothing else has gone.
    pub(super) followed: bool,
    /// So many have to be told.
    asked: u32,
    /// What happened after that.
    after: Vec<After>,
    /// What it takes.
    octets: usize,
}

#[derive(Debug)]
enum After {
    Exists(u32),
    Expunge(u32),
    Vanished(Ranges),
}

impl Fresh {
    pub(super) fn new(selection: Selection, exists: u32) -> Self {
        Self {
            selection,
            exists,
            uids: None,
            told: Ranges::new(),
            gone: Ranges::new(),
            followed: false,
            asked: exists,
            after: Vec::new(),
            octets: 0,
        }
    }

    pub(super) fn exists(&mut self, count: u32) -> Result<(), Nonsense> {
        match self.uids {
            Some(_) => self.happens(After::Exists(count)),
            None if count < self.exists => Err(LogError::Shrunk(self.exists, count).into()),
            None => {
                self.exists = count;
                Ok(())
            }
        }
    }

    pub(super) fn expunged(&mut self, number: u32) -> Result<(), Nonsense> {
        if self.uids.is_some() {
            return self.happens(After::Expunge(number));
        }
        if number.saturating_sub(self.exists) > UNANNOUNCED {
            return Err(LogError::NoSuchMessage(number, self.exists).into());
        }
        self.exists = self.exists.max(number) - 1;
        // Which of those that were told is not known.
        self.asked = u32::MAX;
        Ok(())
    }

    pub(super) fn vanished(&mut self, uids: &Ranges) -> Result<(), Nonsense> {
        if self.uids.is_some() {
            return self.happens(After::Vanished(uids.clone()));
        }
        // Each was there, and is gone once.
        if !self.gone.intersection(uids).is_empty() {
            return Err(Nonsense::Vanished);
        }
        self.exists = self.exists.checked_sub(uids.len()).ok_or(Nonsense::Vanished)?;
        self.gone.insert_all(uids);
        self.asked = u32::MAX;
        Ok(())
    }

    fn happens(&mut self, event: After) -> Result<(), Nonsense> {
        self.octets += size_of::<After>();
        if let After::Vanished(uids) = &event {
            self.octets += uids.octets();
        }
        self.after.push(event);
        if self.octets > MAX_AFTER { Err(Nonsense::TooMuch) } else { Ok(()) }
    }

    pub(super) fn told(&mut self, number: u32, uid: u32) {
        if number - 1 == self.told.len() && self.told.last().is_none_or(|last| last < uid) {
            self.told.insert(uid);
        }
    }

    /// The number that a message had before these vanished.
    pub(super) fn number_before(&self, number: u32, uid: u32) -> u32 {
        number + self.gone.rank(uid)
    }

    /// The UIDs, once the reply is over, and what happened after that. One by one cannot miscount: the backend may
    /// not tell of EXPUNGE meanwhile, and who comes is told later.
    fn found(&mut self) -> Option<Ranges> {
        if self.uids.is_none() && self.told.len() >= self.asked.max(1) && self.told.len() <= self.exists {
            if self.told.len() < self.exists {
                self.after.push(After::Exists(self.exists));
            }
            return Some(std::mem::take(&mut self.told));
        }
        // An empty mailbox may have no list at all.
        self.uids.take().or((self.exists == 0).then(Ranges::new))
    }

    pub(super) fn counted(&mut self, uids: Ranges) {
        if self.uids.is_none() && uids.len() == self.exists {
            self.uids = Some(uids);
        }
    }
}

/// What is to be found out before members are served as if nothing had happened.
#[derive(Debug, Default)]
pub(super) enum Recovery {
    #[default]
    UpToDate,
    /// Flags were told without their mod-sequence, which is to be asked for.
    Modseqs,
    /// From this number on, flags may have changed while there was no connection.
    Flags(u32),
    /// Messages are gone of which only the UIDs are known, and not the numbers: the mailbox as it is to be found,
    /// before the members' views follow it again.
    Strays(Box<Fresh>),
}

impl Recovery {
    pub(super) fn is_up_to_date(&self) -> bool {
        matches!(self, Self::UpToDate)
    }

    pub(super) fn looks_for_strays(&self) -> bool {
        matches!(self, Self::Strays(_))
    }

    pub(super) fn lacks_flags(&self) -> bool {
        matches!(self, Self::Flags(_))
    }

    /// What else is to be found out comes with them.
    pub(super) fn owes_modseqs(&mut self) {
        if matches!(self, Self::UpToDate) {
            *self = Self::Modseqs;
        }
    }

    /// They have been asked for.
    fn has_modseqs(&mut self) {
        if matches!(self, Self::Modseqs) {
            *self = Self::UpToDate;
        }
    }
}

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
        self.note_answered();
        let now = self.now;
        self.quiet_since = now;
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
            Job::Census { by, fresh: Some(fresh) } => {
                self.note_search(by, ok);
                self.recounted(fresh, ok);
            }
            Job::Census { .. } if self.recovery.looks_for_strays() => {}
            Job::Census { by, .. } => {
                self.note_search(by, ok);
                self.note_census();
            }
            Job::Status { joining, text } => self.told_status(joining, &rest, ok.then_some(&text)),
            // Whether there is one is not to be learned: to select it will tell.
            Job::Exists { joining, found } if found || !ok => {
                self.manners.learn(|known| known.status.refused(now));
                self.admit_without_status(joining);
            }
            Job::Exists { joining, .. } => self.actions.push_back(Action::Elsewhere(joining.ids)),
            Job::Unseen { joining, first: unseen } => {
                if !ok {
                    self.manners.learn(|known| known.search.refused(now));
                }
                self.begin(Job::Refresh(Joining { unseen, ..joining }), Request::own(Name::Noop, "NOOP"));
            }
            Job::Refresh(joining) => self.refreshed(joining),
            // Whatever came of EXPUNGE: CLOSE of a mailbox that may not be changed only leaves it (RFC 9051 section
            // 6.4.1).
            Job::Close { member, alone: false } => self.leave_with(member, b" OK Close completed.\r\n"),
            Job::Close { member, alone: true } => {
                let rest = self.without_modseq(member, rest);
                match selected {
                    true => self.tell(member, Told::Done(Bytes::new(), rest, true)),
                    false => self.done_with(member, rest, false),
                }
            }
            Job::Member(running) if told => self.tell(running.id, Told::Done(Bytes::new(), Bytes::new(), true)),
            Job::Member(running) if self.is_selecting(running.id) => self.caught_up(running.id, rest, ok),
            Job::Member(running) if self.recovery.looks_for_strays() => {
                let now = self.now;
                self.members.get_mut(&running.id).into_iter().for_each(|member| member.since = now);
                self.finishing = Some(Finishing { running, rest, ok });
            }
            Job::Member(running) => self.answered(*running, rest, ok),
            Job::Skip { then: Some(then) } => self.begin(then.0, then.1),
            Job::Skip { then: None } => {}
            Job::Recheck => {
                if !self.recovery.lacks_flags() {
                    // What is refused is not asked for again and again.
                    self.recovery.has_modseqs();
                    self.view.shadow.forgive();
                    if ok {
                        self.view.settle();
                    }
                }
            }
            Job::KeepAlive => self.polled(ok),
            Job::Idle(idle) => self.idle_done(&idle),
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
        self.done_with(running.id, rest, true);
    }

    /// What has vanished is known now, or will be later: whose command was over before hears that.
    pub(super) fn finish(&mut self) {
        let Some(Finishing { mut running, rest, ok }) = self.finishing.take() else { return };
        self.replay(running.id, running.replay);
        if self.has_to_leave(running.id) {
            let rest = self.without_modseq(running.id, rest);
            let member = self.members.get_mut(&running.id);
            return member
                .into_iter()
                .for_each(|it| it.out.push_before_last(Told::Done(Bytes::new(), rest.clone(), true)));
        }
        let cursor = self.members.get(&running.id).and_then(|member| member.cursor);
        running.mapped |= cursor.is_some_and(|cursor| self.view.log.withholds(cursor));
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
            Some(selected) => self.done_with(id, selected, true),
            None => self.done_with(id, rest, false),
        }
    }

    /// `[MODIFIED 7,9]` in the tagged reply to a STORE (RFC 7162 section 3.1.3).
    fn in_own_numbers(&self, running: &Running, rest: Bytes) -> Bytes {
        let cursor = self.members.get(&running.id).and_then(|member| member.cursor);
        match cursor.filter(|_| running.mapped || !self.is_open()) {
            Some(_) if highest_modseq(&rest).is_some() => Bytes::from_static(b" OK Completed.\r\n"),
            Some(cursor) if running.shape.store.is_some() && !running.shape.uid => {
                Bytes::copy_from_slice(&modified(&rest, &self.view.log.numbering(cursor)))
            }
            _ => rest,
        }
    }

    fn opened(&mut self, member: MemberId, run: &Request, selection: Selection, rest: Bytes, ok: bool) {
        if !ok {
            return self.done_with(member, rest, false);
        }
        self.view.log = Log::new(selection.exists, selection.recent.unwrap_or(0));
        self.view.uids = Ranges::new();
        self.view.touched = false;
        self.view.shadow = super::Shadow::default();
        self.view.recent.forget_numbers();
        self.view.gone = Ranges::new();
        self.recovery = Recovery::UpToDate;
        self.view.selection = Some(Selection { rest: rest.clone(), ..selection });
        self.link = Link::Up { open: true };
        self.view.settle();
        let uid_next = self.view.selection.as_ref().and_then(|selection| selection.uid_next);
        self.welcome(member, run, uid_next, Bytes::new(), rest);
    }

    /// The mailbox is selected for this member: it is told so, and before that, if it asks (RFC 7162 section 3.2.5),
    /// what has changed since it knew the mailbox.
    fn welcome(&mut self, id: MemberId, run: &Request, uid_next: Option<u32>, reply: Bytes, rest: Bytes) {
        let catch_up = self.catch_up(run, uid_next);
        let complete = self.view.selection.as_ref().and_then(|selection| selection.highest_modseq);
        let Some(member) = self.members.get_mut(&id) else { return };
        member.cursor = Some(self.view.log.join());
        member.complete = complete;
        if catch_up.is_none() {
            return member.out.push_back(Told::Done(reply, rest, true));
        }
        if !reply.is_empty() {
            member.out.push_back(Told::Data(reply));
        }
        member.selecting = Some(rest);
        member.waiting = catch_up;
        self.queue.push_front(id);
    }

    /// The command that tells just what a SELECT with the parameter QRESYNC does (RFC 7162 section 3.2.6).
    fn catch_up(&self, select: &Request, uid_next: Option<u32>) -> Option<Box<Request>> {
        let resync = Parameters::of(&select.command)?.resync?;
        let validity = self.view.selection.as_ref()?.validity;
        // Not `1:*`: what was behind the last message has vanished, too.
        let all = || uid_next.map_or("1:*".into(), |next| format!("1:{}", next.saturating_sub(1).max(1)));
        let text =
            format!("UID FETCH {} (FLAGS) (CHANGEDSINCE {} VANISHED)", resync.uids.unwrap_or_else(all), resync.modseq);
        (self.has_modseqs() && validity == Some(resync.validity)).then(|| Request::own(Name::Fetch, text))
    }

    /// What STATUS said of the mailbox of this name, for those who join; `None`: that there is none.
    fn told_status(&mut self, joining: Joining, rest: &[u8], text: Option<&BytesMut>) {
        if self.recovery.looks_for_strays() {
            return self.join_later(joining);
        }
        let number = |word: &[u8]| text.and_then(|text| number_after(text, word));
        let small = |word: &[u8]| number(word).and_then(|number| u32::try_from(number).ok());
        let validity = small(b"UIDVALIDITY ");
        let known = self.view.selection.as_ref().and_then(|selection| selection.validity);
        let is_gone = || StatusReply::parse(rest).is_some_and(|reply| reply.has_code("NONEXISTENT"));
        if text.is_none() && is_gone() || known.is_some() && validity.is_some() && validity != known {
            // It was renamed or deleted under the members (RFC 2180 section 3): who selects it now means another one.
            return self.actions.push_back(Action::Elsewhere(joining.ids));
        }
        let uid_next = small(b"UIDNEXT ");
        if uid_next.is_none() {
            // It is gone, or may not be asked for while it is selected (RFC 3501 section 6.3.10).
            let run = self.with_mailbox(Name::List, "");
            return self.begin(Job::Exists { joining, found: false }, run);
        }
        self.manners.learn(|known| known.status.works());
        let modseq = number(b"HIGHESTMODSEQ ").filter(|_| self.has_modseqs());
        self.look_for_unseen(Joining { uid_next, modseq, ..joining });
    }

    /// Without STATUS, what those who join are to be told is learned by selecting the mailbox anew; what that shows
    /// is news for the others.
    pub(super) fn admit_without_status(&mut self, joining: Joining) {
        if !std::mem::take(&mut self.anew) {
            // If the others have left meanwhile, it is selected by one of those who wait.
            let has_others = self.members.values().any(|member| member.cursor.is_some());
            if !has_others || self.wants_census() {
                return self.join_later(joining);
            }
            if !self.is_resumable() {
                return self.actions.push_back(Action::Elsewhere(joining.ids));
            }
            self.anew = true;
            self.join_later(joining);
            self.link = Link::Up { open: false };
            self.in_vain.counts = 0;
            return self.open();
        }
        let Some(selection) = &self.view.selection else { return };
        let modseq = selection.highest_modseq.filter(|_| self.has_modseqs());
        self.look_for_unseen(Joining { uid_next: selection.uid_next, modseq, ..joining });
    }

    fn look_for_unseen(&mut self, joining: Joining) {
        match self.ask_for_unseen() {
            Some(run) => self.begin(Job::Unseen { joining, first: None }, run),
            None => self.begin(Job::Refresh(joining), Request::own(Name::Noop, "NOOP")),
        }
    }

    /// Asks for the first message without \\Seen, if its number would be known then.
    pub(super) fn ask_for_unseen(&self) -> Option<Box<Request>> {
        let allowed = self.settings.unseen && self.manners.known().search.allows(self.now);
        let exists = self.view.exists();
        (allowed && exists > 0 && self.view.uids.len() == exists).then(|| {
            let returns = if self.returns() { "RETURN (MIN) " } else { "" };
            Request::own(Name::Search, format!("UID SEARCH {returns}UNSEEN"))
        })
    }

    /// All who wait join now: what they are told is how the mailbox is at this moment.
    fn refreshed(&mut self, mut joining: Joining) {
        if self.recovery.looks_for_strays() {
            return self.join_later(joining);
        }
        let unknown = self.view.exists().saturating_sub(self.view.uids.len());
        if unknown > joining.unknown {
            // More have come since UIDNEXT was said, which is above the UIDs of all (RFC 9051 section 2.3.1.1).
            if unknown <= FEW && joining.counts < COUNTS {
                joining.counts += 1;
                let run = self.view.fetch_new_uids();
                return self.begin(Job::Refresh(joining), run);
            }
            joining.uid_next = None;
        }
        let after_last = self.view.uids.last().map(|last| last.saturating_add(1));
        joining.uid_next = joining.uid_next.map(|next| after_last.map_or(next, |after| after.max(next)));
        self.note_highest(joining.modseq);
        self.view.settle();
        let Some(selection) = &self.view.selection else { return };
        let there =
            joining.unseen.filter(|uid| self.view.uids.len() == self.view.exists() && self.view.uids.contains(*uid));
        let unseen = there.map(|uid| self.view.uids.rank(uid) + 1);
        let rest = selection.rest.clone();
        let reply = |modseq| selection.reply(self.view.exists(), &joining, modseq, unseen).freeze();
        let plain = reply(None);
        let with_modseq = if self.needed().has_modseqs() { reply(joining.modseq) } else { Bytes::new() };
        for id in &joining.ids {
            let waiting = self.members.get_mut(id).and_then(|member| member.waiting.take());
            if let Some(run) = waiting {
                let reply = if self.enabled(*id).has_modseqs() { &with_modseq } else { &plain };
                self.welcome(*id, &run, joining.uid_next, reply.clone(), rest.clone());
            }
        }
    }

    /// Those who were about to join wait again.
    pub(super) fn join_later(&mut self, joining: Joining) {
        for id in joining.ids.into_iter().rev() {
            if self.members.get(&id).is_some_and(|member| member.waiting.is_some()) {
                self.queue.push_front(id);
            }
        }
    }

    /// Whether members can go on with another connection, whatever has changed in the mailbox by then: it is known
    /// which messages they know.
    pub(super) fn is_resumable(&self) -> bool {
        // With QRESYNC, they will be told the UIDs of what is gone.
        self.view.uids.len() == self.view.exists() || !self.view.touched && !self.tells_vanished()
    }

    /// The UIDs of all messages would be good to know.
    pub(super) fn wants_census(&self) -> bool {
        self.is_open()
            && self.view.uids.len() != self.view.exists()
            && self.in_vain.counts < MAX_COUNTS
            && self.manners.known().census.allows(self.now)
            && self.members.values().any(|member| member.cursor.is_some())
    }

    /// The same, before a member's command: if it can be, in a way in which the backend may not tell of EXPUNGE
    /// (RFC 9051 section 7.5.1), so that the numbers in that command stay what they are.
    pub(super) fn ask_for_new_uids(&mut self) {
        if self.in_vain.counts == 0 && self.view.exists().saturating_sub(self.view.uids.len()) <= FEW {
            self.ask_one_by_one(None);
        } else {
            self.ask_for_uids(None);
        }
    }

    fn ask_one_by_one(&mut self, fresh: Option<Fresh>) {
        let run =
            if fresh.is_some() { Request::own(Name::Fetch, "FETCH 1:* (UID)") } else { self.view.fetch_new_uids() };
        self.begin(Job::Census { by: By::Fetch, fresh }, run);
    }

    /// Whether SEARCH may be asked for its result in this form (RFC 4731).
    fn returns(&self) -> bool {
        self.settings.esearch && self.manners.known().esearch.allows(self.now)
    }

    /// Whether UID SEARCH is a way to ask for UIDs.
    fn note_search(&mut self, by: By, ok: bool) {
        let now = self.now;
        self.manners.learn(|known| match by {
            By::Search { returns: true } if ok => known.esearch.works(),
            By::Search { returns: true } => known.esearch.refused(now),
            By::Search { returns: false } if ok => known.search.works(),
            By::Search { returns: false } => known.search.refused(now),
            By::Fetch | By::Noop => {}
        });
    }

    /// Whether there is a way at all. Once all were tried for long, there is a pause.
    fn note_census(&mut self) {
        let now = self.now;
        if self.view.uids.len() == self.view.exists() {
            self.in_vain.counts = 0;
            return self.manners.learn(|known| known.census.works());
        }
        self.in_vain.counts = self.in_vain.counts.saturating_add(1);
        if self.in_vain.counts >= MAX_COUNTS {
            self.manners.learn(|known| known.census.failed(now));
        }
    }

    pub(super) fn ask_for_uids(&mut self, fresh: Option<Fresh>) {
        if self.in_vain.counts % 2 == 1 {
            // Cyrus leaves out of UID SEARCH what is gone, and says so only when asked for news.
            return self.begin(Job::Census { by: By::Noop, fresh }, Request::own(Name::Noop, "NOOP"));
        }
        let exists = fresh.as_ref().map_or(self.view.exists(), |fresh| fresh.exists);
        let searches = self.manners.known().search.allows(self.now);
        if exists > 0 && (self.in_vain.counts >= COUNTS || !searches) {
            // One by one cannot miscount, however many come and go meanwhile.
            return self.ask_one_by_one(fresh);
        }
        let known = if fresh.is_some() { 0 } else { self.view.uids.len() };
        let returns = self.returns();
        let by = By::Search { returns };
        let returns = if returns { "RETURN (ALL) " } else { "" };
        // By number: Cyrus finds messages of which it has not told yet, in the place of those that are gone.
        let set = if exists > known { format!("{}:{exists}", known + 1) } else { "ALL".into() };
        let run = Request::own(Name::Search, format!("UID SEARCH {returns}{set}"));
        self.begin(Job::Census { by, fresh }, run);
    }

    fn reselected(&mut self, selection: Selection, parameter: &'static str, ok: bool) {
        let now = self.now;
        let Some(known) = &self.view.selection else { return };
        if !ok && passes(&selection.rest) {
            return self.selected_later(&selection.rest);
        }
        if !ok && !parameter.is_empty() {
            // It may be the parameter that is refused; the others have not asked for it.
            self.manners.learn(|known| known.condstore.refused(now));
            self.on = Enabled::Nothing;
            return self.open();
        }
        if !ok {
            // The parameter was not what is wrong.
            self.manners.learn(|known| known.condstore.works());
            return self.bye_all(b"The mailbox can no longer be selected");
        }
        if known.validity != selection.validity || access(known) != access(&selection) {
            return self.bye_all(b"The mailbox is no longer what it was");
        }
        if selection.highest_modseq.zip(self.view.shadow.settled()).is_some_and(|(now, before)| now < before) {
            // By mod-sequences, which only ever grow (RFC 7162 section 3.1), nothing can be compared.
            if self.needed().has_modseqs() {
                return self.bye_all(b"The mailbox is no longer what it was");
            }
            self.view.shadow.settle(0, 0);
        }
        let same = !known.changed
            && known.exists == selection.exists
            && known.uid_next.is_some()
            && known.uid_next == selection.uid_next;
        if same || selection.exists == 0 && self.view.exists() == 0 {
            self.view.go_on_with(selection);
            self.stats.push(Stat::Resumed { changed: false });
            return self.resumed();
        }
        let exists = selection.exists;
        let fresh = Fresh::new(selection, exists);
        self.ask_for_uids(Some(fresh));
    }

    /// The backend cannot select the mailbox just now: whoever waits hears that in its words, and it is tried again.
    fn selected_later(&mut self, refusal: &Bytes) {
        self.finish();
        for id in std::mem::take(&mut self.queue) {
            let Some(member) = self.members.get_mut(&id) else { continue };
            member.waiting = None;
            let selected = member.cursor.is_some();
            self.done_with(id, refusal.clone(), selected);
        }
        self.disconnect(self.now + self.settings.parked);
    }

    /// What differs from what the members know is news for them.
    fn recounted(&mut self, mut fresh: Fresh, ok: bool) {
        let Some(uids) = fresh.found().filter(|_| ok) else {
            // One by one, it is refused when a message is gone of which the backend has not told yet: it will.
            self.in_vain.counts = self.in_vain.counts.saturating_add(1);
            if self.in_vain.counts >= MAX_COUNTS {
                return self.bye_all(b"[UNAVAILABLE] Connection to the mail server lost");
            }
            if self.in_vain.counts.is_multiple_of(RESELECT) && self.is_resumable() {
                return self.open();
            }
            let (gone, followed) = (std::mem::take(&mut fresh.gone), fresh.followed);
            let again = Fresh { gone, followed, ..Fresh::new(fresh.selection, fresh.exists) };
            return self.ask_for_uids(Some(again));
        };
        self.in_vain.counts = 0;
        if fresh.followed {
            self.view.place_strays(&uids, &fresh.gone);
        } else {
            self.view.gone.insert_all(&fresh.gone);
        }
        if self.view.uids.len() < self.view.exists() {
            self.view.place_older(&uids);
        }
        if !self.is_resumable() {
            return self.bye_all(b"[UNAVAILABLE] Connection to the mail server lost");
        }
        let came = uids.difference(&self.view.uids);
        if came.first().is_some_and(|first| self.view.uids.last().is_some_and(|last| first < last)) {
            // UIDs only ever grow (RFC 9051 section 2.3.1.1).
            return self.bye_all(b"The mailbox is no longer what it was");
        }
        self.view.go_on_with(fresh.selection);
        self.link = Link::Up { open: true };
        self.loses_uids(&self.view.uids.difference(&uids));
        if self.view.exists() > uids.len() {
            // Of the last ones nobody knows more than that they are there: any will do.
            self.loses(&Ranges::from_runs(vec![(uids.len() + 1, self.view.exists())]));
        } else {
            self.counts(uids.len());
        }
        self.view.uids = uids;
        let exists = self.view.exists();
        if let Some(selection) = &mut self.view.selection {
            (selection.exists, selection.changed) = (exists, false);
        }
        for event in fresh.after {
            match event {
                After::Exists(count) => self.counts(count),
                After::Expunge(number) => self.loses(&Ranges::from_iter([number])),
                After::Vanished(uids) => self.vanishes(&uids),
            }
            if self.link == Link::Broken {
                return;
            }
        }
        self.stats.push(Stat::Resumed { changed: true });
        self.resumed();
    }

    fn resumed(&mut self) {
        self.link = Link::Up { open: true };
        self.view.delayed = false;
        self.view.gone = Ranges::new();
        self.recovery = Recovery::Flags(1);
    }

    /// Asks for the flags that members know; false: there are none to ask for.
    pub(super) fn ask_for_flags(&mut self) -> bool {
        if let Some(since) = self.view.shadow.settled().filter(|_| self.recovery.lacks_flags() && self.has_modseqs()) {
            // What members know from another time is not in the shadow.
            self.recovery = Recovery::UpToDate;
            let text = format!("FETCH 1:* (FLAGS) (CHANGEDSINCE {since})");
            if self.view.exists() > 0 {
                self.begin(Job::Recheck, Request::own(Name::Fetch, text));
            }
            return self.view.exists() > 0;
        }
        let (set, next) = match self.recovery {
            // Members may know the flags of any message.
            Recovery::Flags(_) if self.view.shadow.has_forgotten() && self.view.exists() > 0 => {
                ("1:*".to_owned(), None)
            }
            Recovery::Flags(from) => some_runs(self.view.shadow.known(from)),
            _ => some_runs(self.view.shadow.owed(1)),
        };
        self.recovery = next.map_or(Recovery::UpToDate, Recovery::Flags);
        if set.is_empty() {
            return false;
        }
        let items = if self.has_modseqs() { "FLAGS MODSEQ" } else { "FLAGS" };
        self.begin(Job::Recheck, Request::own(Name::Fetch, format!("FETCH {set} ({items})")));
        true
    }
}

/// Whether a refusal says that it may be otherwise later (RFC 5530 section 3).
fn passes(refusal: &[u8]) -> bool {
    let codes = ["UNAVAILABLE", "SERVERBUG", "INUSE", "LIMIT"];
    StatusReply::parse(refusal).is_some_and(|reply| codes.iter().any(|code| reply.has_code(code)))
}

/// READ-WRITE or READ-ONLY.
fn access(selection: &Selection) -> Option<bool> {
    let reply = StatusReply::parse(&selection.rest)?;
    reply.code.map(|_| reply.has_code("READ-ONLY"))
}

/// These numbers, which ascend, as a set that is not much longer than it may be, and the first that is left.
fn some_runs(numbers: impl Iterator<Item = u32>) -> (String, Option<u32>) {
    let (mut set, mut run) = (String::new(), None);
    let push = |set: &mut String, (first, last): (u32, u32)| {
        let comma = if set.is_empty() { "" } else { "," };
        set.push_str(&format!("{comma}{first}:{last}"));
    };
    for number in numbers {
        match &mut run {
            Some((_, last)) if number - 1 == *last => *last = number,
            Some(whole) => {
                push(&mut set, std::mem::replace(whole, (number, number)));
                if set.len() > MAX_SET {
                    return (set, Some(number));
                }
            }
            None => run = Some((number, number)),
        }
    }
    run.into_iter().for_each(|run| push(&mut set, run));
    (set, None)
}

/// The number that follows the last `word`: in a STATUS reply, the mailbox's name comes before all items, whatever it
/// holds.
fn number_after(text: &[u8], word: &[u8]) -> Option<u64> {
    let at = memchr::memmem::rfind(&text.to_ascii_uppercase(), word)?;
    let digits = &text[at + word.len()..];
    let end = digits.iter().take_while(|b| b.is_ascii_digit()).count();
    mod_sequence(&digits[..end])
}
