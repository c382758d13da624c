//! What the backend says: whose it is, and what of it is news for the others.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::jobs::Job;
use super::resume::Recovery;
use super::tagged::Tagged;
use super::{Action, Link, Machine, MemberId, Nonsense, Told};
use crate::imap::fetch_items::{FetchScanner, Items, mod_sequence};
use crate::imap::renumber::Renumber;
use crate::imap::response::{Status, StatusReply};
use crate::imap::sequence::Found;
use crate::imap::untagged::{Octets, Part, Replies, Reply};
use crate::imap::without_modseq::WithoutModseq;
use crate::mailbox::log::LogError;
use crate::mailbox::shadow::{normal, stored};

/// Octets of a FETCH held back until it is known whether there is more to it than flags.
const HELD: usize = 512;
/// Octets of a line that the hub keeps for itself. Other lines are passed on all the same.
const KEPT: usize = 64 * 1024;
/// Messages that a FETCH or EXPUNGE may be of beyond those that were announced: as many as a command may have moved to
/// their mailbox.
pub(super) const UNANNOUNCED: u32 = 1000;
/// Pieces above this are passed on without a copy.
const COPIED: usize = 2048;
/// Octets that a reply may take more than it did, by a longer number.
const LONGER: usize = 64;

/// The untagged reply at hand.
#[derive(Debug)]
pub(super) struct Reading {
    reply: Reply,
    /// It goes to the member whose command runs.
    to: Option<MemberId>,
    /// The message of a FETCH, by the number that the member knows it by; 0: its UID will tell.
    number: u32,
    /// Of a FETCH, the octets behind that word which are not passed on yet; `None`: it is passed on as it comes.
    held: Option<BytesMut>,
    items: Option<FetchScanner>,
    /// Leaves out of a FETCH what the member is not told.
    less: Option<WithoutModseq>,
    renumber: Option<Renumber>,
    /// UIDs in it that the hub asked for, or that have vanished.
    found: Option<Found>,
    /// For the hub itself.
    kept: BytesMut,
    begun: bool,
    /// It is longer than what is kept.
    overflows: bool,
}

/// What the backend is saying.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pub(super) reading: Option<Box<Reading>>,
    /// Room for the next.
    pub(super) spare: Option<Box<Reading>>,
    /// A stray line is not the owner's: nor was the reply before it.
    pub(super) astray: bool,
    pub(super) tagged: Option<Tagged>,
    /// For the owner of the job, of what was just read.
    pub(super) passed: BytesMut,
}

impl Incoming {
    /// In place of the one before.
    fn reading_of(&mut self, reply: Reply, to: Option<MemberId>) -> Box<Reading> {
        match self.spare.take() {
            // Field by field: most are empty, and hundreds of octets would be copied for each reply.
            Some(mut spare) => {
                spare.begin(reply, to);
                spare
            }
            None => Box::new(Reading::of(reply, to)),
        }
    }
}

impl Reading {
    fn of(reply: Reply, to: Option<MemberId>) -> Self {
        Self {
            reply,
            to,
            number: 0,
            held: None,
            items: None,
            less: None,
            renumber: None,
            found: None,
            kept: BytesMut::new(),
            begun: false,
            overflows: false,
        }
    }

    fn begin(&mut self, reply: Reply, to: Option<MemberId>) {
        (self.reply, self.to, self.number) = (reply, to, 0);
        (self.held, self.items, self.less, self.renumber, self.found) = (None, None, None, None, None);
        (self.begun, self.overflows) = (false, false);
        self.kept.clear();
    }

    /// Part of it has gone to a member, and part is still to come.
    pub(super) fn is_passing(&self) -> bool {
        self.to.is_some() && self.begun
    }
}

impl Machine {
    /// Untagged replies, or parts of them.
    pub fn handle_data(&mut self, data: &Replies) {
        if self.link == Link::Broken {
            return;
        }
        self.heard_at = self.now;
        if matches!(self.job, Some(Job::Open { .. } | Job::Member(_))) {
            self.incoming.passed.reserve(data.len().min(COPIED) + LONGER);
        }
        for part in data.parts() {
            match part {
                Part::Begin(reply) => self.begin_reply(reply),
                Part::Text { octets, ends } => {
                    self.reply_text(&octets);
                    if ends {
                        self.end_reply();
                    }
                }
                Part::Literal(octets) => self.reply_literal(&octets),
            }
            if self.link == Link::Broken {
                break;
            }
        }
        self.pass_on();
    }

    /// The backend asks for more: it has begun to idle.
    pub fn handle_continue(&mut self) {
        if let Some(Job::Idle(idle)) = &mut self.job {
            idle.accepted = true;
        }
    }

    /// What was read goes to the member whose it is.
    pub(super) fn pass_on(&mut self) {
        if self.incoming.passed.is_empty() {
            return;
        }
        let data = std::mem::take(&mut self.incoming.passed).freeze();
        self.pass(data);
    }

    fn pass(&mut self, data: Bytes) {
        if let Some(Job::Member(running)) = &mut self.job {
            running.answered = true;
        }
        if let Some(owner) = self.owner() {
            self.tell(owner, Told::Data(data));
        }
    }

    fn emit(&mut self, octets: &Octets<'_>) {
        if octets.len() > COPIED {
            self.pass_on();
            self.pass(octets.to_bytes());
        } else {
            self.incoming.passed.put_slice(octets);
        }
    }

    fn present_owner(&self) -> Option<MemberId> {
        self.owner().filter(|owner| self.members.contains_key(owner))
    }

    /// The backend contradicts itself: nothing can be known of the mailbox by this connection, and nothing more of it
    /// counts.
    pub(super) fn broken(&mut self, why: impl Into<Nonsense>) {
        self.incoming.reading = None;
        if self.link != Link::Broken {
            self.link = Link::Broken;
            self.actions.push_back(Action::Abandon(why.into()));
        }
    }

    fn begin_reply(&mut self, reply: Reply) {
        let to = self.present_owner();
        let mut reading = self.incoming.reading_of(reply, to);
        if let Some(Job::Idle(idle)) = &mut self.job {
            idle.heard |=
                matches!(reply, Reply::Exists(_) | Reply::Expunge(_) | Reply::Fetch(_) | Reply::Vanished { .. });
        }
        match reply {
            Reply::Exists(count) => self.exists(count),
            Reply::Expunge(number) => self.expunged(number),
            Reply::Recent(count) => self.recent(count),
            Reply::Fetch(number) => {
                self.announced(number);
                match self.number_for_owner(number) {
                    Some(number) => reading.number = number,
                    None => reading.to = None,
                }
                reading.held = Some(BytesMut::new());
                reading.less = self.spares_owner().then(WithoutModseq::default);
                reading.items = Some(FetchScanner::default());
            }
            Reply::Search | Reply::Sort | Reply::Thread | Reply::Esearch => self.begin_result(&mut reading),
            // An answer to the one who has asked (RFC 7162 section 3.2.10.1).
            Reply::Vanished { earlier: true } if !self.owner_asks_for_vanished() => reading.to = None,
            Reply::Vanished { earlier: true } => {
                reading.begun = true;
                self.incoming.passed.put_slice(b"* VANISHED");
            }
            Reply::Vanished { .. } => reading.found = Some(Found::uids()),
            Reply::OutOfRange => self.broken(Nonsense::OutOfRange),
            // It may be the rest of the reply before it, which has a line's end where it may have none.
            Reply::Stray if self.incoming.astray => reading.to = None,
            Reply::Flags | Reply::Status(_) | Reply::Other | Reply::Stray => {}
        }
        if self.link != Link::Broken {
            self.incoming.reading = Some(reading);
        }
    }

    fn owner_asks_for_vanished(&self) -> bool {
        let asks = match &self.job {
            Some(Job::Member(running)) => running.run.modseqs().vanished,
            Some(Job::Open { run, .. }) => run.command.resynchronises(),
            _ => false,
        };
        asks && self.present_owner().is_some()
    }

    /// Cyrus forgets EXISTS for what MOVE moves within a mailbox, until it tells of its flags, or that it is gone. Of a
    /// message that is not there nothing can be said.
    pub(super) fn announced(&mut self, number: u32) {
        let beyond = number.saturating_sub(self.view.exists());
        if beyond > 0 && self.is_open() {
            match beyond <= UNANNOUNCED {
                true => self.counts(number),
                false => self.broken(LogError::NoSuchMessage(number, self.view.exists())),
            }
        }
    }

    /// The number by which the owner of the job knows the message.
    fn number_for_owner(&self, number: u32) -> Option<u32> {
        let running = match &self.job {
            Some(Job::Member(_)) if self.recovery.looks_for_strays() => return Some(0),
            Some(Job::Member(running)) if running.mapped => running,
            Some(Job::Open { selection, .. }) if number > selection.exists => return None,
            _ => return Some(number),
        };
        let cursor = self.members.get(&running.id)?.cursor?;
        self.view.log.back(cursor, number)
    }

    fn begin_result(&mut self, reading: &mut Reading) {
        let Some(Job::Member(running)) = &mut self.job else {
            reading.found = match (&self.job, reading.reply) {
                (Some(Job::Census { .. } | Job::Unseen { .. }), Reply::Search) => Some(Found::list()),
                (Some(Job::Census { .. }), Reply::Esearch) => Some(Found::item(b"ALL")),
                (Some(Job::Unseen { .. }), Reply::Esearch) => Some(Found::item(b"MIN")),
                _ => None,
            };
            return;
        };
        if matches!(reading.reply, Reply::Search | Reply::Esearch)
            && let Some(found) = running.answer.replaces(reading.reply)
        {
            reading.found = Some(found);
            reading.to = None;
            self.view.touched = true;
            return;
        }
        let renumber = Renumber::new(reading.reply, running.shape.uid);
        let Some(cursor) = reading.to.and_then(|id| self.members.get(&id)).and_then(|member| member.cursor) else {
            return;
        };
        renumber.head(&self.view.log.numbering(cursor), &mut self.incoming.passed);
        reading.begun = true;
        self.view.touched |= !running.shape.uid;
        // Cyrus 3.6 answers SORT RETURN (MIN) by numbers that are none: they pass as they come.
        if !running.shape.uid && (running.mapped || reading.reply != Reply::Esearch) {
            reading.renumber = Some(renumber);
        }
    }

    fn reply_text(&mut self, text: &Octets<'_>) {
        let Some(mut reading) = self.incoming.reading.take() else { return };
        match reading.reply {
            Reply::Exists(_) | Reply::Expunge(_) | Reply::Recent(_) | Reply::OutOfRange => {}
            Reply::Vanished { earlier: true } => {
                if reading.to.is_some() {
                    self.emit(text);
                }
            }
            Reply::Vanished { earlier: false } => reading.found.iter_mut().for_each(|found| found.text(text)),
            Reply::Fetch(_) => {
                if let Some(items) = &mut reading.items {
                    items.text(text);
                }
                self.fetch_octets(&mut reading, text, false);
            }
            Reply::Search | Reply::Sort | Reply::Thread | Reply::Esearch => self.result_text(&mut reading, text),
            Reply::Flags | Reply::Status(_) | Reply::Other | Reply::Stray => self.line_octets(&mut reading, text),
        }
        self.incoming.reading = Some(reading);
    }

    /// Of a line that goes on as it is, unless the hub says something in its place; literals are part of it.
    fn line_octets(&mut self, reading: &mut Reading, octets: &Octets<'_>) {
        let doubtful = self.is_doubtful(reading.reply) && !reading.overflows;
        if reading.reply == Reply::Stray {
            // The hub does not read it.
        } else if !reading.overflows && reading.kept.len() + octets.len() > KEPT {
            reading.overflows = true;
            // It is nothing that the hub would have said otherwise.
            if doubtful && reading.to.is_some() {
                self.incoming.passed.put_slice(&reading.kept);
            }
        } else if !reading.overflows {
            reading.kept.put_slice(octets);
        }
        if reading.to.is_some() && (!doubtful || reading.overflows) {
            reading.begun = true;
            self.emit(octets);
        }
    }

    /// It depends on the whole line whether it is passed on.
    fn is_doubtful(&self, reply: Reply) -> bool {
        let job = match &self.job {
            Some(Job::Open { .. }) => true,
            Some(Job::Member(running)) => running.mapped || self.recovery.looks_for_strays() || self.spares_owner(),
            _ => false,
        };
        job && matches!(reply, Reply::Status(_))
    }

    fn result_text(&mut self, reading: &mut Reading, text: &Octets<'_>) {
        if let Some(found) = &mut reading.found {
            return found.text(text);
        }
        let Some(cursor) = reading.to.and_then(|id| self.members.get(&id)).and_then(|member| member.cursor) else {
            return;
        };
        match &mut reading.renumber {
            Some(renumber) => renumber.text(text, &self.view.log.numbering(cursor), &mut self.incoming.passed),
            None => self.emit(text),
        }
    }

    fn reply_literal(&mut self, octets: &Octets<'_>) {
        let Some(mut reading) = self.incoming.reading.take() else { return };
        match reading.reply {
            Reply::Exists(_) | Reply::Expunge(_) | Reply::Recent(_) | Reply::OutOfRange => {}
            Reply::Fetch(_) => {
                reading.items.iter_mut().for_each(FetchScanner::literal);
                self.fetch_octets(&mut reading, octets, true);
            }
            Reply::Flags | Reply::Status(_) | Reply::Other | Reply::Stray => self.line_octets(&mut reading, octets),
            // No number is said in one: the name of a mailbox, say (RFC 7377 section 2.1).
            Reply::Search | Reply::Sort | Reply::Thread | Reply::Esearch | Reply::Vanished { .. } => {
                if reading.to.is_some() && reading.found.is_none() {
                    self.emit(octets);
                }
            }
        }
        self.incoming.reading = Some(reading);
    }

    /// Holds a FETCH back as long as it may be one of only flags.
    fn fetch_octets(&mut self, reading: &mut Reading, octets: &Octets<'_>, literal: bool) {
        if let Some(mut held) = reading.held.take() {
            let other = reading.items.as_ref().is_some_and(FetchScanner::has_other) && octets.ends_with(b"\n");
            let fits = !literal && held.len() + octets.len() <= HELD;
            // Most come as a whole.
            let whole = fits && other && held.is_empty();
            if fits && !whole {
                held.put_slice(octets);
            }
            if fits && !other {
                reading.held = Some(held);
                return;
            }
            if reading.to.is_some() {
                reading.begun = true;
                let read = |items: &FetchScanner| (items.uid(), items.has_flags());
                let (uid, flags) = reading.items.as_ref().map_or((None, true), read);
                self.put_fetch(reading, if whole { octets } else { &held }, uid, flags);
            }
            if fits {
                return;
            }
        }
        if reading.to.is_none() {
            return;
        }
        match reading.less.as_mut().filter(|_| !literal) {
            Some(less) => less.text(octets, &mut self.incoming.passed),
            None => self.emit(octets),
        }
    }

    /// `flags`: there are some in it.
    fn put_fetch(&mut self, reading: &mut Reading, octets: &[u8], uid: Option<u32>, flags: bool) {
        if reading.number == 0 && !self.find_number(reading, uid) {
            return;
        }
        let left_out = match (reading.to, reading.reply) {
            (Some(id), Reply::Fetch(number)) if flags && self.is_open() => self.claim_recent(id, number, octets),
            _ => 0..0,
        };
        self.incoming.passed.put_slice(b"* ");
        self.incoming.passed.put_slice(itoa::Buffer::new().format(reading.number).as_bytes());
        self.incoming.passed.put_slice(b" FETCH");
        for octets in [&octets[..left_out.start], &octets[left_out.end..]] {
            match &mut reading.less {
                Some(less) => less.text(octets, &mut self.incoming.passed),
                None => self.incoming.passed.put_slice(octets),
            }
        }
    }

    /// Messages have vanished, and which numbers these had is not known yet: the number by which the member knows the
    /// message of a FETCH. False: it does not know it, or nobody can say.
    fn find_number(&mut self, reading: &mut Reading, uid: Option<u32>) -> bool {
        let (Reply::Fetch(number), Recovery::Strays(strays)) = (reading.reply, &self.recovery) else { return false };
        let cursor = reading.to.and_then(|id| self.members.get(&id)).and_then(|member| member.cursor);
        let Some(uid) = uid else {
            (reading.to, reading.begun) = (None, false);
            self.broken(Nonsense::Vanished);
            return false;
        };
        match cursor.and_then(|cursor| self.view.log.back(cursor, strays.number_before(number, uid))) {
            Some(own) => reading.number = own,
            None => reading.to = None,
        }
        reading.to.is_some()
    }

    fn end_reply(&mut self) {
        let Some(mut reading) = self.incoming.reading.take() else { return };
        self.incoming.astray = reading.to.is_none();
        match reading.reply {
            Reply::Fetch(number) => self.end_fetch(number, &mut reading),
            Reply::Search | Reply::Esearch if matches!(self.job, Some(Job::Member(_))) => {
                if let Some(found) = reading.found.take() {
                    self.tell_found(found.finish());
                }
            }
            Reply::Search | Reply::Esearch => self.counted(reading.found.take()),
            Reply::Vanished { earlier: false } => match reading.found.take().and_then(Found::finish) {
                Some(uids) => self.vanished(&uids),
                None => self.broken(Nonsense::Vanished),
            },
            Reply::Flags | Reply::Status(_) | Reply::Other if !reading.overflows => self.end_line(&mut reading),
            _ => {}
        }
        self.incoming.spare = Some(reading);
    }

    fn end_line(&mut self, reading: &mut Reading) {
        let line = std::mem::take(&mut reading.kept);
        let status = matches!(reading.reply, Reply::Status(_));
        if status {
            self.alerts(&line, reading.to);
        }
        match &mut self.job {
            Some(Job::Open { selection, .. }) => {
                selection.note(&line, true);
                // What is closed by a SELECT here was somebody else's.
                if status && !line.starts_with(b"* OK [CLOSED]") {
                    self.incoming.passed.put_slice(&line);
                }
            }
            Some(Job::Reselect { selection, .. }) => drop(selection.note(&line, true)),
            Some(Job::Status { text, .. }) => text.put_slice(&line),
            Some(Job::Exists { found, .. }) => *found |= is_listed(&line),
            _ => {
                let highest = line.strip_prefix(b"* ").and_then(highest_modseq);
                self.note_highest(highest);
                self.view.delays |= highest.is_some();
                if self.is_doubtful(reading.reply) && reading.to.is_some() && highest.is_none() {
                    self.incoming.passed.put_slice(&line);
                }
                // Keywords have come into use, say.
                if self.view.selection.as_mut().is_some_and(|selection| selection.note(&line, false)) {
                    let heard = reading.to.and_then(|id| self.members.get(&id)).and_then(|member| member.cursor);
                    self.view.log.handle_text(line.freeze(), heard);
                }
            }
        }
    }

    /// Of a status reply with ALERT, which users have to see (RFC 9051 section 7.1): all members hear it at once, but
    /// for `heard`, as the reply to whose command it came. Whoever selects the mailbox first is alone there.
    pub(super) fn alerts(&mut self, line: &[u8], heard: Option<MemberId>) {
        if !is_alert(line) || matches!(self.job, Some(Job::Open { .. })) {
            return;
        }
        self.pass_on();
        for (_, member) in self.members.iter_mut().filter(|(id, _)| Some(**id) != heard) {
            member.out.push_alert(line);
        }
    }

    fn end_fetch(&mut self, number: u32, reading: &mut Reading) {
        let Some(mut items) = reading.items.take().map(|mut items| items.finish()) else { return };
        let modseq_only = items.flags.is_none() && items.uid.is_none() && !items.other;
        if let (Some(Job::Census { fresh: Some(fresh), .. }), Some(uid)) = (&mut self.job, items.uid) {
            fresh.told(number, uid);
        }
        // What is said of a mailbox that the members' views do not follow yet is asked for again when they do.
        if !self.is_open() {
            let wanted = reading.to.is_some() && reading.number == 0 && !(reading.less.is_some() && modseq_only);
            if let Some(held) = reading.held.take().filter(|_| wanted) {
                if items.flags.is_some() {
                    self.view.shadow.overlook();
                }
                self.put_fetch(reading, &held, items.uid, items.flags.is_some());
            }
            return;
        }
        if let Some(uid) = items.uid {
            match self.view.uids.nth(number) {
                Some(known) if known == uid => {}
                None if self.view.uids.last().is_none_or(|last| last < uid) => {
                    if number - 1 == self.view.uids.len() {
                        self.view.uids.insert(uid);
                    }
                }
                _ => return self.broken(Nonsense::OtherUid(number, uid)),
            }
        }
        if items.modseq.is_some() && !self.has_modseqs() {
            items.modseq = None;
            let asked = matches!(&self.job, Some(Job::Member(running)) if running.run.modseqs().asked);
            if !items.other && !asked {
                reading.held = reading.held.take().and_then(|held| without_modseq(&items, held));
            }
        }
        if self.has_modseqs() {
            // Whoever is told mod-sequences is told it always (RFC 7162 section 3.2.4).
            items.uid = items.uid.or(self.view.uids.nth(number));
        }
        if let Some(Job::Refresh(joining)) = &mut self.job
            && joining.asks_for_news()
        {
            // Those who join will find it so.
            joining.modseq = joining.modseq.max(items.modseq.filter(|_| joining.modseq.is_some()));
        }
        self.view.touched |= number > self.view.uids.len();
        let mut wanted = true;
        if let Some(text) = items.flags.as_ref().and_then(|flags| flags.text.as_ref()) {
            let flags = normal(text);
            wanted = items.other || !self.goes_without_saying(number, items.uid, &flags);
            let learned = self.view.shadow.learn(number, &flags);
            let newer = items.modseq.is_some_and(|modseq| self.view.shadow.learn_modseq(number, modseq));
            let asked = match &self.job {
                Some(Job::Member(running)) => running.shape.asks_flags,
                job => matches!(job, Some(Job::Recheck)),
            };
            let news = newer || if asked { learned == Some(true) } else { learned != Some(false) };
            if news && items.modseq.is_none() && self.wants_modseqs() {
                // The others have to be told it as well (RFC 7162 section 3.1.4.2).
                self.view.shadow.owe(number);
                self.recovery.owes_modseqs();
            } else if let Some(text) = items.news().filter(|_| news) {
                if items.modseq.is_none() {
                    self.view.shadow.outdate(number);
                }
                let heard = reading.to.and_then(|id| self.members.get(&id)).and_then(|member| member.cursor);
                if let Err(error) = self.view.log.handle_fetch(number, text, heard) {
                    return self.broken(error);
                }
            }
        }
        wanted &= reading.less.is_none() || !modseq_only;
        match reading.held.take().filter(|_| reading.to.is_some()) {
            Some(held) if wanted => self.put_fetch(reading, &held, items.uid, items.flags.is_some()),
            Some(_) => self.tell_modseq(number, &items),
            None => {}
        }
    }

    /// Who silently stores is told the mod-sequence all the same, and nothing else (RFC 7162 section 3.1.4.2).
    fn tell_modseq(&mut self, number: u32, items: &Items) {
        let hears = self.owner().is_some_and(|owner| self.hears_modseqs(owner));
        if let (Some(own), Some(modseq)) = (self.number_for_owner(number), items.modseq.filter(|_| hears)) {
            let uid = items.uid.map_or_else(String::new, |uid| format!("UID {uid} "));
            self.incoming.passed.put_slice(format!("* {own} FETCH ({uid}MODSEQ ({modseq}))\r\n").as_bytes());
        }
    }

    /// Whether the flags of the message are what the member whose silent STORE runs takes them for.
    fn goes_without_saying(&mut self, number: u32, uid: Option<u32>, flags: &Bytes) -> bool {
        let Some(own) = self.number_for_owner(number) else { return false };
        let Some(Job::Member(running)) = &self.job else { return false };
        let Some(member) = self.members.get_mut(&running.id) else { return false };
        let (Some(named), Some(store)) = (&running.silent, &running.shape.store) else { return false };
        let named = match running.shape.uid {
            true => {
                uid.is_some_and(|uid| named.contains(uid)) || number == self.view.exists() && named.contains(u32::MAX)
            }
            false => named.contains(number),
        };
        let expected =
            self.view.shadow.flags(number).is_none_or(|before| stored(before, store.sign, &store.flags) == *flags);
        // Once something was said, the last word has to be right.
        let told = member.told.get_or_insert_default();
        let silent = named && expected && !told.contains(own);
        if !silent {
            told.insert(own);
        }
        silent
    }

    /// The members' views follow what is said.
    pub(super) fn is_open(&self) -> bool {
        self.link == (Link::Up { open: true })
    }
}

/// The items of a FETCH, which are no others than these, less its mod-sequence; `None`: nothing is left.
fn without_modseq(items: &Items, held: BytesMut) -> Option<BytesMut> {
    let text = match (&items.flags, items.uid) {
        (Some(_), _) => match items.news() {
            Some(news) => news,
            None => return Some(held),
        },
        (None, Some(uid)) => format!("(UID {uid})").into(),
        (None, None) => return None,
    };
    Some(BytesMut::from(&[b" ", &text[..], b"\r\n"].concat()[..]))
}

/// `* OK [ALERT] …`, with OK, NO or BAD.
pub(super) fn is_alert(line: &[u8]) -> bool {
    let reply = line.strip_prefix(b"* ").and_then(StatusReply::parse);
    reply.is_some_and(|reply| reply.has_code("ALERT") && reply.status != Status::Bye)
}

/// A LIST reply to a mailbox that there is (RFC 9051 section 7.3.1).
fn is_listed(line: &[u8]) -> bool {
    let line = line.to_ascii_uppercase();
    let holds = |word: &[u8]| memchr::memmem::find(&line, word).is_some();
    line.starts_with(b"* LIST ") && !holds(b"\\NONEXISTENT") && !holds(b"\\NOSELECT")
}

/// `OK [HIGHESTMODSEQ 7]` (RFC 7162 section 3.1.2.1): up to where whoever hears it knows the mailbox. Of a VANISHED
/// that is withheld from it, it would never ask again (sections 3.2 and 6).
pub(super) fn highest_modseq(reply: &[u8]) -> Option<u64> {
    let reply = StatusReply::parse(reply).filter(|reply| reply.has_code("HIGHESTMODSEQ"))?;
    mod_sequence(reply.code?.get("HIGHESTMODSEQ ".len()..)?.trim_ascii())
}
