//! The members' side: what they ask for, and what they are told.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{JOIN, Link, Machine, Member, MemberId, Stat, Told};
use crate::imap::fetch_items::Items;
use crate::imap::ranges::Ranges;
use crate::mailbox::log::{News, Replay};
use crate::mailbox::plan::{Plan, plan};
use crate::session::machine::Run;

impl Member {
    /// Keeps account of which messages' flags it was told.
    pub(super) fn hears(&mut self, news: &News) {
        match news {
            News::Fetch(number, _) => drop(self.told.insert(*number)),
            News::Expunge(gone) if !self.told.is_empty() => {
                let others = self.told.iter().filter(|number| number != gone);
                self.told = others.map(|number| number - u32::from(number > *gone)).collect();
            }
            News::Vanished { numbers, .. } if !self.told.is_empty() => {
                self.told = self.told.difference(numbers).iter().map(|number| number - numbers.rank(number)).collect();
            }
            _ => {}
        }
    }
}

impl Machine {
    /// A session wants to join; `run` is its SELECT or EXAMINE of this mailbox.
    pub fn handle_join(&mut self, id: MemberId, run: Box<Run>) {
        let member = Member {
            cursor: None,
            idling: false,
            waiting: Some(run),
            since: self.now,
            connected: true,
            attempts: 0,
            told: Ranges::new(),
            selecting: None,
            complete: None,
            out: VecDeque::new(),
        };
        self.members.insert(id, member);
        self.enqueue(id);
    }

    /// A command of a member, which has none running.
    pub fn handle_command(&mut self, id: MemberId, run: Box<Run>) {
        let read_only = self.is_read_only();
        let Some(member) = self.members.get_mut(&id).filter(|member| member.cursor.is_some()) else { return };
        member.told = Ranges::new();
        let enabled = self.settings.enabled;
        match plan(&run.command, enabled) {
            Plan::Idle if self.settings.idle => {
                member.idling = true;
                member.out.push_back(Told::Continue(Bytes::from_static(b"+ idling\r\n")));
                self.wake();
            }
            Plan::Idle => self.done(id, b" BAD IDLE is not available.\r\n"),
            Plan::Malformed => self.done(id, b" BAD It takes no arguments.\r\n"),
            Plan::Unselect => self.leave_with(id, b" OK Unselect completed.\r\n"),
            Plan::Close if read_only => self.leave_with(id, b" OK Close completed.\r\n"),
            _ => {
                member.waiting = Some(run);
                member.attempts = 0;
                self.enqueue(id);
            }
        }
    }

    /// What a member says in IDLE: its driver lets only `DONE` through.
    pub fn handle_octets(&mut self, id: MemberId) {
        if self.members.get(&id).is_some_and(|member| member.idling) {
            self.replay(id, Replay::All);
            if let Some(member) = self.members.get_mut(&id) {
                member.idling = false;
            }
            self.done(id, b" OK Idle completed.\r\n");
        }
    }

    /// A member has gone.
    pub fn handle_leave(&mut self, id: MemberId) {
        let Some(member) = self.members.remove(&id) else { return };
        if let Some(cursor) = member.cursor {
            self.log.leave(cursor);
        }
        self.queue.retain(|waiting| *waiting != id);
    }

    /// What a member is told next. Call it when the member can take it, and not otherwise.
    pub fn poll_member(&mut self, id: MemberId) -> Option<Told> {
        if self.members.get(&id)?.idling {
            self.replay(id, Replay::All);
        }
        if self.owner() == Some(id) {
            self.taken_at = self.now;
        }
        let member = self.members.get_mut(&id)?;
        let mut told = member.out.pop_front()?;
        while let Told::Data(data) = &told {
            match member.out.front() {
                Some(Told::Data(more)) if data.len() + more.len() <= JOIN => {
                    told = Told::Data([&data[..], more].concat().into());
                }
                Some(Told::Done(more, rest, selected)) if more.is_empty() => {
                    told = Told::Done(data.clone(), rest.clone(), *selected);
                }
                _ => break,
            }
            member.out.pop_front();
        }
        if member.idling && member.out.is_empty() {
            // It may idle for hours.
            member.out = VecDeque::new();
        }
        let gone = match told {
            Told::Bye(_) | Told::Cut | Told::Yours(_) | Told::Done(_, _, false) => true,
            Told::Unconnected => member.cursor.is_none(),
            _ => false,
        };
        if gone {
            self.handle_leave(id);
        }
        Some(told)
    }

    /// Whether there is something for this member.
    #[must_use]
    pub fn has_news(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|member| {
            let lags = || member.cursor.is_some_and(|cursor| self.log.has_news(cursor));
            !member.out.is_empty() || member.idling && lags()
        })
    }

    fn enqueue(&mut self, id: MemberId) {
        self.queue.push_back(id);
        let (now, connected) = (self.now, self.is_open());
        if let Some(member) = self.members.get_mut(&id) {
            (member.since, member.connected) = (now, connected);
        }
        self.wake();
    }

    /// Whatever a member asks for makes a connection worth another try.
    fn wake(&mut self) {
        if self.link == Link::Down {
            self.retry_at = self.now;
        }
    }

    /// Tells a member of the news.
    pub(super) fn replay(&mut self, id: MemberId, replay: Replay) {
        let has_modseqs = self.has_modseqs();
        let Some(member) = self.members.get_mut(&id) else { return };
        let Some(cursor) = member.cursor else { return };
        let mut text = BytesMut::new();
        for news in self.log.replay(cursor, replay) {
            member.hears(&news);
            news.write(&mut text);
        }
        // Of what it missed long ago, the last word is known.
        if let Some(stale) = self.log.take_stale(cursor) {
            let numbering = self.log.numbering(cursor);
            for number in stale.iter() {
                let Some((own, flags)) = numbering.back(number).zip(self.shadow.flags(number)) else { continue };
                member.told.insert(own);
                let uid = self.uids.nth(number).filter(|_| has_modseqs);
                let items = Items { uid, modseq: self.shadow.modseq(number), ..Items::default() };
                News::Fetch(own, items.with_flags(&[b"(", &flags[..], b")"].concat())).write(&mut text);
            }
        }
        if !text.is_empty() {
            member.out.push_back(Told::Data(text.freeze()));
        }
    }

    pub(super) fn done(&mut self, id: MemberId, rest: &'static [u8]) {
        self.done_with(id, Bytes::from_static(rest), true);
    }

    pub(super) fn done_with(&mut self, id: MemberId, rest: Bytes, selected: bool) {
        let caution = self.caution(id);
        if let Some(member) = self.members.get_mut(&id) {
            // A SELECT that cannot be answered to its end has failed.
            let selected = selected && member.selecting.take().is_none();
            member.out.push_back(Told::Done(caution, rest, selected));
            // It has left, though it has not heard so yet.
            if let Some(cursor) = member.cursor.take_if(|_| !selected) {
                self.log.leave(cursor);
            }
        }
    }

    /// What is said before a tagged reply as long as a VANISHED is withheld from the member, here or by the backend: else it
    /// would take the highest mod-sequence that it has seen for the one up to which it knows everything (RFC 7162 sections 3.2
    /// and 6).
    fn caution(&mut self, id: MemberId) -> Bytes {
        let highest = self.selection.as_ref().and_then(|selection| selection.highest_modseq);
        let tells_vanished = self.tells_vanished();
        let Some(member) = self.members.get_mut(&id) else { return Bytes::new() };
        let Some(cursor) = member.cursor.filter(|_| tells_vanished) else { return Bytes::new() };
        if !self.log.has_news(cursor) {
            member.complete = highest;
        }
        match member.complete.filter(|_| self.delayed || self.log.withholds(cursor)) {
            Some(modseq) => format!("* OK [HIGHESTMODSEQ {modseq}] Messages have vanished since\r\n").into(),
            None => Bytes::new(),
        }
    }

    pub(super) fn leave_with(&mut self, id: MemberId, rest: &'static [u8]) {
        self.done_with(id, Bytes::from_static(rest), false);
    }

    /// The mailbox cannot be gone on with. Those who have not heard of it yet can still select it.
    pub(super) fn bye_all(&mut self, text: &'static [u8]) {
        let (known, exists, counts) = (self.uids.len(), self.exists, self.miscounted);
        self.stats.push(Stat::Ended { why: text, known, exists, counts });
        let members = &self.members;
        self.queue.retain(|id| members.get(id).is_some_and(|member| member.cursor.is_none()));
        for member in self.members.values_mut().filter(|member| member.cursor.is_some()) {
            // What becomes of the mailbox is no longer its affair.
            if let Some(cursor) = member.cursor.take() {
                self.log.leave(cursor);
            }
            member.waiting = None;
            member.idling = false;
            member.out.push_back(Told::Bye(Bytes::from_static(text)));
        }
    }
}
