//! What the backend says: whose it is, and what of it is news for the others.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::jobs::Job;
use super::joining::is_status_of;
use super::tagged::Tagged;
use super::{Action, Link, Machine, MemberId, Nonsense, Told};
use crate::imap::fetch_items::{FetchScanner, mod_sequence};
use crate::imap::renumber::Renumber;
use crate::imap::response::{Status, StatusReply};
use crate::imap::sequence::Found;
use crate::imap::untagged::{Octets, Part, Replies, Reply};
use crate::imap::without_modseq::WithoutModseq;
use crate::mailbox::log::LogError;

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
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) reply: Reply,
    /// It goes to the member whose command runs.
    pub(super) to: Option<MemberId>,
    /// The message of a FETCH, by the number that the member knows it by; 0: its UID will tell.
    pub(super) number: u32,
    /// Of a FETCH, the octets behind that word which are not passed on yet; `None`: it is passed on as it comes.
    pub(super) held: Option<BytesMut>,
    pub(super) items: Option<FetchScanner>,
    /// Leaves out of a FETCH what the member is not told.
    pub(super) less: Option<WithoutModseq>,
    pub(super) renumber: Option<Renumber>,
    /// UIDs in it that the hub asked for, or that have vanished.
    pub(super) found: Option<Found>,
    /// For the hub itself.
    pub(super) kept: BytesMut,
    pub(super) begun: bool,
    /// It is longer than what is kept.
    pub(super) overflows: bool,
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

impl Reading {
    /// Field by field: most are empty, and hundreds of octets would be copied for each reply.
    pub(super) fn begin(&mut self, reply: Reply, to: Option<MemberId>) {
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
                    self.reply_octets(&octets, false);
                    if ends {
                        self.end_reply();
                    }
                }
                Part::Literal(octets) => self.reply_octets(&octets, true),
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

    pub(super) fn emit(&mut self, octets: &Octets<'_>) {
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
        let mut reading = self.incoming.spare.take().unwrap_or_default();
        reading.begin(reply, to);
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
    pub(super) fn number_for_owner(&self, number: u32) -> Option<u32> {
        let running = match &self.job {
            Some(Job::Member(_)) if self.fresh.is_some() => return Some(0),
            Some(Job::Member(running)) if running.mapped => running,
            Some(Job::Open { selection, .. }) if number > selection.exists => return None,
            _ => return Some(number),
        };
        self.view.log.back(running.id, number)
    }

    fn begin_result(&mut self, reading: &mut Reading) {
        let Some(Job::Member(running)) = &mut self.job else {
            reading.found = match (&self.job, reading.reply) {
                (Some(Job::Census { .. } | Job::Unseen), Reply::Search) => Some(Found::list()),
                (Some(Job::Census { .. }), Reply::Esearch) => Some(Found::item(b"ALL")),
                (Some(Job::Unseen), Reply::Esearch) => Some(Found::item(b"MIN")),
                _ => None,
            };
            reading.to = None;
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
        let (uid, mapped) = (running.shape.uid, running.mapped);
        let renumber = Renumber::new(reading.reply, uid);
        let Some(owner) = reading.to else { return };
        renumber.head(&self.view.log.numbering(owner), &mut self.incoming.passed);
        reading.begun = true;
        self.view.touched |= !uid;
        // Cyrus 3.6 answers SORT RETURN (MIN) by numbers that are none: they pass as they come.
        if !uid && (mapped || reading.reply != Reply::Esearch) {
            reading.renumber = Some(renumber);
        }
    }

    /// Part of a line or, where `literal` says so, of a literal in it.
    fn reply_octets(&mut self, octets: &Octets<'_>, literal: bool) {
        let Some(mut reading) = self.incoming.reading.take() else { return };
        match reading.reply {
            Reply::Exists(_) | Reply::Expunge(_) | Reply::Recent(_) | Reply::OutOfRange => {}
            Reply::Fetch(_) => self.fetch_octets(&mut reading, octets, literal),
            Reply::Search | Reply::Sort | Reply::Thread | Reply::Esearch | Reply::Vanished { .. } => {
                self.result_octets(&mut reading, octets, literal);
            }
            Reply::Flags | Reply::Status(_) | Reply::Other | Reply::Stray => self.line_octets(&mut reading, octets),
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
            Some(Job::Member(running)) => running.mapped || self.fresh.is_some() || self.spares_owner(),
            _ => false,
        };
        job && matches!(reply, Reply::Status(_))
    }

    /// No number is said in a literal: the name of a mailbox, say (RFC 7377 section 2.1).
    fn result_octets(&mut self, reading: &mut Reading, octets: &Octets<'_>, literal: bool) {
        match (&mut reading.found, reading.to, &mut reading.renumber) {
            (Some(found), ..) if !literal => found.text(octets),
            (Some(_), ..) | (None, None, _) => {}
            (None, Some(owner), Some(renumber)) if !literal => {
                renumber.text(octets, &self.view.log.numbering(owner), &mut self.incoming.passed);
            }
            (None, Some(_), _) => self.emit(octets),
        }
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
            Some(Job::Open { selection, .. } | Job::Reselect { selection, .. }) => {
                selection.note(&line, true);
                // What is closed by a SELECT here was somebody else's.
                if status && !line.starts_with(b"* OK [CLOSED]") {
                    self.incoming.passed.put_slice(&line);
                }
            }
            Some(Job::Status { text }) if is_status_of(&line, &self.key[1..]) => text.put_slice(&line),
            Some(Job::Status { .. }) => {}
            Some(Job::Exists { found }) => *found |= is_listed(&line),
            _ => {
                let highest = line.strip_prefix(b"* ").and_then(highest_modseq);
                self.note_highest(highest);
                self.view.delays |= highest.is_some();
                if self.is_doubtful(reading.reply) && reading.to.is_some() && !line.get(2..).is_some_and(tells_highest)
                {
                    self.incoming.passed.put_slice(&line);
                }
                // Keywords have come into use, say.
                if self.view.selection.as_mut().is_some_and(|selection| selection.note(&line, false)) {
                    self.view.log.handle_text(line.freeze(), reading.to);
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

    /// The members' views follow what is said.
    pub(super) fn is_open(&self) -> bool {
        self.link == (Link::Up { open: true })
    }
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

/// `OK [HIGHESTMODSEQ …]`, whatever number there is.
pub(super) fn tells_highest(reply: &[u8]) -> bool {
    StatusReply::parse(reply).is_some_and(|reply| reply.has_code("HIGHESTMODSEQ"))
}

/// `OK [HIGHESTMODSEQ 7]` (RFC 7162 section 3.1.2.1): up to where whoever hears it knows the mailbox. Of a VANISHED
/// that is withheld from it, it would never ask again (sections 3.2 and 6).
pub(super) fn highest_modseq(reply: &[u8]) -> Option<u64> {
    let reply = StatusReply::parse(reply).filter(|reply| reply.has_code("HIGHESTMODSEQ"))?;
    mod_sequence(reply.code?.get("HIGHESTMODSEQ ".len()..)?.trim_ascii())
}
