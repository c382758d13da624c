//! The members' side: what they ask for, and what they are told.

use bytes::{Bytes, BytesMut};

use super::outgoing::Outgoing;
use super::{Link, Machine, Member, MemberId, Stat, Told};
use crate::imap::fetch_items::Items;
use crate::imap::numbering::Numbering;
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::log::{Cursor, News, Replay};
use crate::mailbox::plan::{Plan, plan};

/// Messages whose flags a member missed that it is told at a time.
const STALE: u32 = 512;

/// EXPUNGEs that a member is told at a time: some dozens of megabytes of lines.
const MAX_EXPUNGED: u32 = 4 * 1024 * 1024;

impl Member {
    /// Keeps account of which messages' flags it was told.
    pub(super) fn hears(&mut self, news: &News) {
        let Some(told) = &mut self.told else { return };
        match news {
            News::Fetch(number, _) => drop(told.insert(*number)),
            News::Expunge(gone) | News::Vanished { numbers: gone, .. } => {
                let known = told.last().unwrap_or(0);
                *told = Numbering::new(gone.clone(), known, known).forward_set(told);
            }
            _ => {}
        }
    }

    /// What becomes of the mailbox is no longer its affair. Its place in the log, which is to be left.
    pub(super) fn dismiss(&mut self, last: Told) -> Option<Cursor> {
        self.waiting = None;
        self.idling = false;
        self.catching_up = false;
        self.out.push_back(last);
        self.cursor.take()
    }
}

impl Machine {
    /// A session wants to join that has switched on so much; `run` is its SELECT or EXAMINE of this mailbox.
    pub fn handle_join(&mut self, id: MemberId, run: Box<Request>, enabled: Enabled) {
        self.in_line |= !run.command.has_literal();
        self.levels.add(enabled);
        let member = Member {
            enabled,
            switching: false,
            cursor: None,
            idling: false,
            waiting: Some(run),
            plan: None,
            since: self.now,
            connected: true,
            attempts: 0,
            catching_up: false,
            told: None,
            recent: Ranges::new(),
            selecting: None,
            complete: None,
            out: Outgoing::default(),
        };
        self.members.insert(id, Box::new(member));
        self.enqueue(id);
    }

    /// A command of a member, which has none running.
    pub fn handle_command(&mut self, id: MemberId, run: Box<Request>) {
        let read_only = self.is_read_only();
        let Some(member) = self.members.get_mut(&id).filter(|member| member.cursor.is_some()) else { return };
        let plan = plan(&run, self.settings.condstore);
        let silent = matches!(&plan, Plan::Run(shape) if shape.store.as_ref().is_some_and(|store| store.silent));
        member.told = silent.then(Ranges::new);
        member.catching_up = false;
        match plan {
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
                member.plan = Some(plan);
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
        self.levels.remove(member.enabled);
        if let Some(cursor) = member.cursor {
            self.view.log.leave(cursor);
        }
        self.queue.retain(|waiting| *waiting != id);
        self.finishing.take_if(|finishing| finishing.running.id == id);
    }

    /// What a member is told next. Call it when the member can take it, and not otherwise.
    pub fn poll_member(&mut self, id: MemberId) -> Option<Told> {
        let member = self.members.get(&id)?;
        if member.out.is_empty() {
            // Nothing is looked up before what was said earlier has been taken.
            match (member.idling, member.catching_up) {
                (true, _) => self.replay(id, Replay::All),
                (false, true) => self.catch_up_further(id),
                (false, false) => {}
            }
        }
        if self.owner() == Some(id) {
            self.taken_at = self.now;
        }
        let member = self.members.get_mut(&id)?;
        let told = member.out.pop_front()?;
        let gone = match told {
            Told::Bye(_) | Told::Cut | Told::Yours(_) | Told::Revoked | Told::Done(_, _, false) => true,
            Told::Unconnected => member.cursor.is_none(),
            _ => false,
        };
        if gone {
            self.handle_leave(id);
        }
        Some(told)
    }

    /// Whether there is something for this member.
    pub fn has_news(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|member| {
            let lags = || member.cursor.is_some_and(|cursor| self.view.log.has_news(cursor));
            !member.out.is_empty() || member.catching_up || member.idling && lags()
        })
    }

    /// Where it stands, once it has joined.
    pub(super) fn cursor(&self, id: MemberId) -> Option<Cursor> {
        self.members.get(&id)?.cursor
    }

    /// Somebody has the mailbox selected.
    pub(super) fn has_joined(&self) -> bool {
        self.members.values().any(|member| member.cursor.is_some())
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
        if let Link::Down { retry_at } = &mut self.link {
            *retry_at = self.now;
        }
    }

    /// Tells a member of the news, and of some of what it missed long ago: of that, the last word is known.
    pub(super) fn replay(&mut self, id: MemberId, replay: Replay) {
        let Some(cursor) = self.cursor(id) else { return };
        let mut text = BytesMut::new();
        let news = self.view.log.replay(cursor, replay);
        self.hear(id, news, &mut text);
        let stale = self.view.log.take_stale(cursor, STALE);
        let hears_modseqs = !stale.is_empty() && self.hears_modseqs(id);
        let Some(member) = self.members.get_mut(&id).filter(|member| member.cursor.is_some()) else { return };
        for (own, number) in stale {
            let Some(flags) = self.view.shadow.flags(number) else { continue };
            if let Some(told) = &mut member.told {
                told.insert(own);
            }
            let uid = self.view.uids.nth(number).filter(|_| hears_modseqs);
            let modseq = self.view.shadow.modseq(number).filter(|_| hears_modseqs);
            let items = Items { uid, modseq, ..Items::default() };
            News::Fetch(own, items.with_flags(&[b"(", &flags[..], b")"].concat())).write(&mut text);
        }
        member.out.push_text(&mut text);
    }

    /// News for a member, behind `text`, to which they are appended unless they are long. Who would have to be told
    /// too much has to select the mailbox anew.
    pub(super) fn hear(&mut self, id: MemberId, news: Vec<News>, text: &mut BytesMut) {
        if news.is_empty() {
            return;
        }
        let (vanished, modseqs) = (self.hears_vanished(id), self.hears_modseqs(id));
        let Some(member) = self.members.get_mut(&id) else { return };
        for news in news {
            let news = match news {
                News::Vanished { numbers, .. } if !vanished => News::Expunge(numbers),
                News::Fetch(number, items) if !modseqs => News::Fetch(number, flags_only(items)),
                news => news,
            };
            member.hears(&news);
            if matches!(&news, News::Expunge(gone) if gone.len() > MAX_EXPUNGED) {
                const OTHER: &[u8] = b"[UNAVAILABLE] The mailbox is no longer what it was";
                return self.dismiss(id, Told::Bye(Bytes::from_static(OTHER)));
            }
            member.out.push_news(news, text);
        }
    }

    /// Tells a member what it missed, before its command gets its turn: false if that takes more than one piece. Its
    /// numbers stay what they were when it gave the command.
    pub(super) fn is_caught_up(&mut self, id: MemberId) -> bool {
        let Some(cursor) = self.cursor(id) else { return true };
        if self.view.log.is_stale(cursor) {
            self.replay(id, Replay::KeepNumbers);
        }
        let stale = self.view.log.is_stale(cursor);
        if let Some(member) = self.members.get_mut(&id) {
            member.catching_up = stale;
        }
        !stale
    }

    fn catch_up_further(&mut self, id: MemberId) {
        if self.is_caught_up(id) && self.members.get(&id).is_some_and(|member| member.waiting.is_some()) {
            self.queue.push_front(id);
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
                self.view.log.leave(cursor);
            }
        }
    }

    /// What is said before a tagged reply as long as a VANISHED is withheld from the member, here or by the backend:
    /// else it would take the highest mod-sequence that it has seen for the one up to which it knows everything (RFC
    /// 7162 sections 3.2 and 6).
    pub(super) fn caution(&mut self, id: MemberId) -> Bytes {
        let highest = self.view.selection.as_ref().and_then(|selection| selection.highest_modseq);
        let tells_vanished = self.hears_vanished(id);
        let Some(member) = self.members.get_mut(&id) else { return Bytes::new() };
        let Some(cursor) = member.cursor.filter(|_| tells_vanished) else { return Bytes::new() };
        if !self.view.log.has_news(cursor) {
            member.complete = highest;
        }
        match member.complete.filter(|_| self.view.delayed || self.view.log.withholds(cursor)) {
            Some(modseq) => format!("* OK [HIGHESTMODSEQ {modseq}] Messages have vanished since\r\n").into(),
            None => Bytes::new(),
        }
    }

    pub(super) fn leave_with(&mut self, id: MemberId, rest: &'static [u8]) {
        self.done_with(id, Bytes::from_static(rest), false);
    }

    /// It knew the mailbox, and was told that it cannot go on with it.
    pub(super) fn has_to_leave(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|member| member.cursor.is_none() && member.waiting.is_none())
    }

    /// This member cannot go on with the mailbox.
    pub(super) fn dismiss(&mut self, id: MemberId, last: Told) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if let Some(cursor) = member.dismiss(last) {
            self.view.log.leave(cursor);
        }
        self.queue.retain(|waiting| *waiting != id);
    }

    /// The mailbox cannot be gone on with. Those who have not heard of it yet can still select it.
    pub(super) fn bye_all(&mut self, text: &'static [u8]) {
        let (known, exists, counts) = (self.view.uids.len(), self.view.exists(), self.in_vain.counts);
        self.stats.push(Stat::Ended { why: text, known, exists, counts });
        self.finish();
        let members = &self.members;
        self.queue.retain(|id| members.get(id).is_some_and(|member| member.cursor.is_none()));
        for member in self.members.values_mut().filter(|member| member.cursor.is_some()) {
            if let Some(cursor) = member.dismiss(Told::Bye(Bytes::from_static(text))) {
                self.view.log.leave(cursor);
            }
        }
    }
}

/// News of a message as [`Items::with_flags`] writes them, less the mod-sequence, which is the last of the items.
fn flags_only(items: Bytes) -> Bytes {
    match memchr::memmem::rfind(&items, b" MODSEQ (") {
        Some(at) => [&items[..at], b")"].concat().into(),
        None => items,
    }
}
