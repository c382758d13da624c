//! The members' side: what they ask for, and what they are told.

use bytes::{Bytes, BytesMut};

use super::{Link, Machine, Member, MemberId, Stat, Told};
use crate::imap::fetch_items::Items;
use crate::imap::numbering::Numbering;
use crate::imap::ranges::Ranges;
use crate::imap::request::Request;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::log::{News, Replay};
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

    /// There is no connection for its command.
    pub(super) fn give_up(&mut self) {
        self.waiting = None;
        self.out.push_back(Told::Unconnected);
    }
}

impl Machine {
    /// A session wants to join that has switched on so much; `run` is its SELECT or EXAMINE of this mailbox.
    pub fn handle_join(&mut self, id: MemberId, run: Box<Request>, enabled: Enabled) {
        self.in_line |= !run.command.has_literal();
        self.members.insert(id, Box::new(Member { enabled, waiting: Some(run), ..Member::default() }));
        self.enqueue(id);
    }

    /// A command of a member, which has none running.
    pub fn handle_command(&mut self, id: MemberId, run: Box<Request>) {
        let read_only = self.is_read_only();
        let Some(member) = self.members.get_mut(&id).filter(|_| self.view.log.has(id)) else { return };
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
            Plan::Idle => self.done(id, " BAD IDLE is not available.\r\n", true),
            Plan::Malformed => self.done(id, " BAD It takes no arguments.\r\n", true),
            Plan::Unselect => self.done(id, " OK Unselect completed.\r\n", false),
            Plan::Close if read_only => self.done(id, " OK Close completed.\r\n", false),
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
        if let Some(member) = self.members.get_mut(&id).filter(|member| member.idling) {
            member.idling = false;
            self.replay(id, Replay::All);
            self.done(id, " OK Idle completed.\r\n", true);
        }
    }

    /// A member has gone.
    pub fn handle_leave(&mut self, id: MemberId) {
        self.members.remove(&id);
        self.view.log.leave(id);
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
            Told::Unconnected => !self.view.log.has(id),
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
            !member.out.is_empty() || member.catching_up || member.idling && self.view.log.has_news(id)
        })
    }

    /// Somebody has the mailbox selected.
    pub(super) fn has_joined(&self) -> bool {
        !self.view.log.is_empty()
    }

    fn enqueue(&mut self, id: MemberId) {
        self.queue.push_back(id);
        let (now, connected) = (self.now, self.is_open());
        if let Some(member) = self.members.get_mut(&id) {
            (member.since, member.connected) = (Some(now), connected);
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
        let mut text = BytesMut::new();
        let news = self.view.log.replay(id, replay);
        self.hear(id, news, &mut text);
        let stale = self.view.log.take_stale(id, STALE);
        let hears_modseqs = !stale.is_empty() && self.hears_modseqs(id);
        let Some(member) = self.members.get_mut(&id).filter(|_| self.view.log.has(id)) else { return };
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
        if self.view.log.is_stale(id) {
            self.replay(id, Replay::KeepNumbers);
        }
        let stale = self.view.log.is_stale(id);
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

    /// The member's command is answered; `selected`: and it has the mailbox selected still.
    pub(super) fn done(&mut self, id: MemberId, rest: impl Into<Bytes>, selected: bool) {
        let caution = self.caution(id);
        let Some(member) = self.members.get_mut(&id) else { return };
        // A SELECT that cannot be answered to its end has failed.
        let selected = selected && member.selecting.take().is_none();
        member.out.push_back(Told::Done(caution, rest.into(), selected));
        if !selected {
            // It has left, though it has not heard so yet.
            self.view.log.leave(id);
        }
    }

    /// The member's command is the next to get its turn.
    pub(super) fn goes_first(&mut self, id: MemberId, run: Box<Request>) {
        if let Some(member) = self.members.get_mut(&id) {
            member.waiting = Some(run);
            self.queue.push_front(id);
        }
    }

    /// What is said before a tagged reply as long as a VANISHED is withheld from the member, here or by the backend:
    /// else it would take the highest mod-sequence that it has seen for the one up to which it knows everything (RFC
    /// 7162 sections 3.2 and 6).
    pub(super) fn caution(&mut self, id: MemberId) -> Bytes {
        let highest = self.view.selection.as_ref().and_then(|selection| selection.highest_modseq);
        let hears = self.hears_vanished(id) && self.view.log.has(id);
        let Some(member) = self.members.get_mut(&id).filter(|_| hears) else { return Bytes::new() };
        if !self.view.log.has_news(id) {
            member.complete = highest;
        }
        match member.complete.filter(|_| self.view.delayed || self.view.log.withholds(id)) {
            Some(modseq) => format!("* OK [HIGHESTMODSEQ {modseq}] Messages have vanished since\r\n").into(),
            None => Bytes::new(),
        }
    }

    /// It knew the mailbox, and was told that it cannot go on with it.
    pub(super) fn has_to_leave(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(|member| member.waiting.is_none() && !self.view.log.has(id))
    }

    /// What becomes of the mailbox is no longer this member's affair.
    pub(super) fn dismiss(&mut self, id: MemberId, last: Told) {
        let Some(member) = self.members.get_mut(&id) else { return };
        (member.waiting, member.idling, member.catching_up) = (None, false, false);
        member.out.push_back(last);
        self.view.log.leave(id);
        self.queue.retain(|waiting| *waiting != id);
    }

    /// The mailbox cannot be gone on with. Those who have not heard of it yet can still select it.
    pub(super) fn bye_all(&mut self, text: &'static [u8]) {
        let (known, exists, counts) = (self.view.uids.len(), self.view.exists(), self.in_vain.counts);
        self.stats.push(Stat::Ended { why: text, known, exists, counts });
        self.finish();
        let ids: Vec<MemberId> = self.members().filter(|id| self.view.log.has(*id)).collect();
        ids.into_iter().for_each(|id| self.dismiss(id, Told::Bye(Bytes::from_static(text))));
    }
}

/// News of a message as [`Items::with_flags`] writes them, less the mod-sequence, which is the last of the items.
fn flags_only(items: Bytes) -> Bytes {
    match memchr::memmem::rfind(&items, b" MODSEQ (") {
        Some(at) => [&items[..at], b")"].concat().into(),
        None => items,
    }
}
