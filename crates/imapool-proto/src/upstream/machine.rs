//! One upstream connection as IMAP sees it: what is in flight on it, what it is left with, and whether it may be handed
//! on. No sockets, no clock, no pool.
//!
//! Every command goes out under a tag of our own, which no client can choose and which is used once in a
//! connection's life. A connection is dirty from the first octet of a command until the reply with that very tag has
//! come and nothing is left over; any other tag is a protocol error, after which the connection is not used again.

mod leaving;
mod replies;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};

use self::leaving::Leaving;
use crate::imap::capability::Capabilities;
use crate::imap::command::{Command, Name, Segment};
use crate::imap::frame::Literal;
use crate::imap::request::Request;
use crate::imap::sticky::Sticky;
use crate::imap::untagged::{Divider, Replies};
use crate::upstream::manners::Manners;

/// What ENABLE answered on this connection, to be said again to a later session that asks for the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EnableReply {
    /// What it was asked for.
    asked: BTreeSet<Vec<u8>>,
    /// The untagged `ENABLED` line, if there was one.
    pub untagged: Bytes,
    /// What followed the tag, line end included.
    pub tagged: Bytes,
}

impl EnableReply {
    /// Whether it is the reply to this ENABLE, too.
    pub fn answers(&self, command: &Command) -> bool {
        command.name == Name::Enable && self.asked == Sticky::asked_by(command)
    }
}

/// What a pool has to know of a connection at rest.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The mailbox that is selected ([`Command::selected_mailbox`]).
    pub selected: Option<Bytes>,
    /// What may be on, by what was asked for and not refused: nobody gets the connection who has not asked for just
    /// that.
    pub sticky: Arc<Sticky>,
    /// What the backend has said to be on: what the session may go by (RFC 5161 section 3.2, RFC 7162 section 3.1.8).
    pub granted: Arc<Sticky>,
    /// The reply to the last ENABLE.
    pub enable_reply: Option<Arc<EnableReply>>,
}

/// Commands of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Sign of life.
    Noop,
    /// Leaves the mailbox without expunging (`leaving.rs`).
    Unselect,
    /// The end.
    Logout,
}

/// Why a backend's stream cannot be used further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A tagged reply to no command of ours.
    #[error("tagged reply to a command that was not sent")]
    UnknownTag,
    /// Neither OK, NO nor BAD after the tag of the command in flight.
    #[error("malformed tagged reply")]
    BadStatus,
    /// A literal's size is out of range.
    #[error("literal size out of range")]
    Literal,
    /// A continuation that nothing waits for.
    #[error("unexpected continuation")]
    Continuation,
}

/// What came of the backend's octets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Part of the replies to the session's command, or news between its commands. Complete lines, but for literals and
    /// very long lines, which come in parts.
    Data(Replies),
    /// The backend waits for more of the session's command; the whole line.
    Continue(Bytes),
    /// Part of the tagged reply to the session's command, where that is too long to be had whole: from the space
    /// after the tag to the line's end, in as many parts as come. Then [`Event::Done`] has nothing more of it.
    Tagged(Bytes),
    /// The session's command is over: ` OK …` with line end, and whether a mailbox is selected now.
    Done(Bytes, bool),
    /// A command of ours is over, and whether it did what it is for.
    OwnDone(Own, bool),
    /// `* BYE …`: the text after BYE. The connection will take no further command.
    Bye(Bytes),
    /// A line that nobody gets, which one may wonder about: its first octets.
    Ignored(Ignored, Bytes),
}

/// Why a line was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It is none that a server may say.
    Stray,
    /// A list of capabilities, or of what was enabled, that is longer than is kept.
    TooLong,
}

#[derive(Debug)]
enum InFlight {
    Own(Own),
    Leaving(Leaving),
    Session {
        tag: Bytes,
        name: Name,
        mailbox: Option<Bytes>,
        sticky: Option<Sticky>,
        /// The reply to an ENABLE, as far as it has come.
        enable: Option<Box<EnableReply>>,
        /// A mailbox of an earlier session was still selected.
        lingering: bool,
        /// CLOSED was said (RFC 7162 section 3.2.11): whatever was selected is not any more.
        closed: bool,
        /// HIGHESTMODSEQ or NOMODSEQ was said (RFC 7162 section 3.1.2).
        modseq: bool,
    },
}

/// Octets of a tag of ours and a literal's announcement, or more.
const ROOM: usize = 48;

/// How far the reply at hand has been read and passed on.
#[derive(Debug, Default)]
struct Line {
    /// It goes to nobody.
    dropping: bool,
    /// Octets of the line were passed on, and its end was not.
    half_passed: bool,
    /// The start of the tagged reply, from the space after the tag on, whose end is still to come.
    ending: Option<Bytes>,
    /// Its kind is not known yet, and it began before the session came.
    stale: bool,
    /// Octets in which there is no end of a line.
    scanned: usize,
}

/// What is still to be sent.
#[derive(Debug, Default)]
struct Pending {
    /// Parts of the command in flight that may only be sent when the backend asks: each is a literal and what follows.
    parts: VecDeque<(Bytes, Bytes)>,
    /// The session's literal may be sent when the backend asks for it (`true`), or is being sent (`false`).
    streaming: Option<bool>,
    /// The backend has asked for more than literals (IDLE's `DONE`, or whatever an unknown command needs), and has not
    /// got it yet.
    asked: bool,
    /// Commands that were sent before the one in flight was answered: they are run next, in this order.
    ahead: VecDeque<Command>,
    /// A session waits for this command; ours goes first.
    deferred: Option<Box<Request>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Machine {
    capabilities: Arc<Capabilities>,
    divider: Divider,
    line: Line,
    next_tag: u64,
    in_flight: Option<InFlight>,
    pending: Pending,
    /// A session has it.
    attached: bool,
    /// What is selected is not that session's.
    fresh: bool,
    facts: Facts,
    /// Whether what is selected surely is: a SELECT that failed may have left the earlier mailbox or not.
    uncertain: bool,
    /// What is known of the backend's manners, by other connections, too.
    pub manners: Arc<Manners>,
    spoiled: Option<&'static str>,
    closing: bool,
    output: BytesMut,
    events: VecDeque<Event>,
    context_tags: Vec<(u64, Bytes)>,
}

/// Tags of searches with RETURN (UPDATE) remembered on a connection (RFC 5267 section 4.3).
const MAX_CONTEXTS: usize = 64;

impl Machine {
    /// A connection that was just authenticated, `next_tag` tags having been used for that.
    #[must_use]
    pub fn new(capabilities: Arc<Capabilities>, next_tag: u64) -> Self {
        Self { capabilities, next_tag, fresh: true, ..Self::default() }
    }

    /// What is selected and enabled.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Nothing is in flight, no literal half sent, nothing half read.
    pub fn is_clean(&self) -> bool {
        self.in_flight.is_none()
            && self.pending.deferred.is_none()
            && self.pending.ahead.is_empty()
            && self.pending.parts.is_empty()
            && self.pending.streaming.is_none()
            && self.divider.framer().at_line_start()
            && self.output.is_empty()
            && !self.closing
    }

    /// A command of the session waits for one of ours to end.
    pub fn defers(&self) -> bool {
        self.pending.deferred.is_some()
    }

    /// A reply is due from the backend: not while a client idles, or is slow to give a literal.
    pub fn is_waiting(&self) -> bool {
        match &self.in_flight {
            None => self.pending.deferred.is_some() || self.is_paused(),
            Some(_) => self.pending.streaming != Some(false) && !self.pending.asked,
        }
    }

    /// What the backend says now belongs to a command that was sent ahead ([`Machine::handle_ahead`]), and is not taken
    /// before that is run.
    pub fn is_paused(&self) -> bool {
        self.in_flight.is_none() && !self.pending.ahead.is_empty()
    }

    /// A literal was announced to the backend, which has yet to ask for it (RFC 9051 section 4.3).
    pub fn awaits_go_ahead(&self) -> bool {
        !self.pending.parts.is_empty() || self.pending.streaming == Some(true)
    }

    /// The backend has said goodbye, or cannot be trusted to understand a further command.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// What was passed on ends with a line, so that a line of ours to the client breaks nothing.
    pub fn at_line_start(&self) -> bool {
        !self.line.half_passed
    }

    /// Why no later session may have this connection, if so.
    pub fn spoiled(&self) -> Option<&'static str> {
        self.spoiled
    }

    /// A session takes the connection: what is selected now is not its own.
    pub fn handle_attach(&mut self) {
        self.attached = true;
        self.fresh = true;
        self.line.stale = self.divider.framer().at_line_start() && self.line.scanned > 0;
    }

    /// The session has left. Call only when clean.
    pub fn handle_release(&mut self) {
        self.attached = false;
        self.divider.divides(false);
        self.context_tags.clear();
    }

    /// Whether what is said from now on is told with its parts ([`Replies::parts`]): until the connection is released.
    pub fn divide_replies(&mut self, divides: bool) {
        self.divider.divides(divides);
    }

    /// Sends a session's command, or holds it back until a command of ours is over, or the rest of one that was
    /// refused is sent. Where it streams, its last segment is followed by a literal that comes by
    /// [`Machine::handle_octets`] after [`Event::Continue`].
    pub fn handle_command(&mut self, request: Box<Request>) {
        // Within a literal whose octets are still to come, a command would count as some of them.
        if self.in_flight.is_some() || self.pending.streaming.is_some() {
            self.pending.deferred = Some(request);
            return;
        }
        if self.fresh && self.facts.selected.is_some() && !self.selects_anew(&request) {
            self.pending.deferred = Some(request);
            return self.handle_own(Own::Unselect);
        }
        let lingering = std::mem::take(&mut self.fresh) && self.facts.selected.is_some();
        let sticky = self.facts.sticky.after(&request);
        let mailbox = request.selects().cloned();
        let Request { command, streams, .. } = *request;
        // What is on already is not told again.
        let enable = (command.name == Name::Enable && sticky.is_some())
            .then(|| Box::new(EnableReply { asked: Sticky::asked_by(&command), ..EnableReply::default() }));
        if command.name.spoils_connection() {
            self.spoiled = Some("unknown or unshareable command");
        }
        // Out of turn, the answer to another's tag ends the connection.
        let tag_number = if self.pending.ahead.front() == Some(&command) {
            self.pending.ahead.pop_front();
            self.line.dropping &= !self.divider.framer().at_line_start();
            self.next_tag - 1 - self.pending.ahead.len() as u64
        } else {
            self.pending.ahead.clear();
            self.begin(&command, streams)
        };
        if command.name == Name::Search && command.segments.iter().any(|s| contains(&s.text, b"UPDATE")) {
            if self.context_tags.len() >= MAX_CONTEXTS {
                self.context_tags.remove(0);
            }
            self.context_tags.push((tag_number, command.tag.clone()));
        }
        self.in_flight = Some(InFlight::Session {
            tag: command.tag,
            name: command.name,
            mailbox,
            sticky,
            enable,
            lingering,
            closed: false,
            modseq: false,
        });
    }

    /// Sends a command without literals before the one in flight is answered (RFC 9051 section 5.5). The commands that
    /// are run next have to be those that were sent ahead, in the same order.
    pub fn handle_ahead(&mut self, command: Command) {
        debug_assert!(command.segments.iter().all(|segment| segment.literal.is_none()));
        let dropping = self.line.dropping;
        self.begin(&command, None);
        self.line.dropping = dropping;
        self.pending.ahead.push_back(command);
    }

    /// Whether the command selects the very mailbox that an earlier session has left selected: then what the backend
    /// still says of its size and flags is true for the new session, too. Of any other mailbox it would not be.
    fn selects_anew(&self, request: &Request) -> bool {
        // Whatever the mode, which is the first octet of the key.
        let left = self.facts.selected.as_deref().and_then(|key| key.get(1..));
        request.selects().and_then(|key| key.get(1..)).is_some_and(|name| left == Some(name))
            && !request.command.resynchronises()
    }

    /// Writes the command under a new tag; gives the tag's number.
    ///
    /// Literals go out only when the backend asks for them, whatever the client did: a server that stops to
    /// understand a command before its literal takes the literal's octets for commands (Dovecot and Cyrus both do).
    fn begin(&mut self, command: &Command, streams: Option<Literal>) -> u64 {
        // A stray line before any reply is the session's.
        self.line.dropping &= !self.divider.framer().at_line_start();
        self.output.reserve(ROOM + command.segments.first().map_or(0, |first| first.text.len()));
        let number = self.put_tag();
        for (at, segment) in command.segments.iter().enumerate() {
            let mut text = BytesMut::new();
            let target = if at == 0 { &mut self.output } else { &mut text };
            put_segment_text(target, segment, command.name == Name::CancelUpdate, &self.context_tags);
            match (&segment.literal, streams) {
                (Some((octets, binary)), _) => put_announcement(target, octets.len() as u64, *binary),
                (None, Some(literal)) if at + 1 == command.segments.len() => {
                    put_announcement(target, literal.len, literal.binary);
                }
                (None, _) => target.put_slice(b"\r\n"),
            }
            if let Some(held) = self.pending.parts.back_mut().filter(|_| at > 0) {
                held.1 = text.freeze();
            }
            if let Some((octets, _)) = &segment.literal {
                self.pending.parts.push_back((octets.clone(), Bytes::new()));
            }
        }
        self.pending.streaming = streams.map(|_| true);
        number
    }

    fn put_tag(&mut self) -> u64 {
        let number = self.next_tag;
        self.next_tag += 1;
        put_own_tag(&mut self.output, number);
        self.output.put_u8(b' ');
        number
    }

    /// Further octets of the session's command, as they are.
    pub fn handle_octets(&mut self, octets: &[u8]) {
        self.pending.asked = false;
        self.output.extend_from_slice(octets);
    }

    /// The text after a streamed literal, and perhaps a further literal's announcement.
    pub fn handle_segment(&mut self, text: &[u8], literal: Option<Literal>) {
        self.output.put_slice(text);
        match literal {
            Some(literal) => {
                put_announcement(&mut self.output, literal.len, literal.binary);
                self.pending.streaming = Some(true);
                // Refused already: what the backend makes of a further literal is anybody's guess.
                self.closing |= self.in_flight.is_none();
            }
            None => {
                self.output.put_slice(b"\r\n");
                self.pending.streaming = None;
                if self.in_flight.is_none() {
                    self.run_deferred();
                }
            }
        }
    }

    fn run_deferred(&mut self) {
        if let Some(request) = self.pending.deferred.take() {
            self.handle_command(request);
        }
    }

    /// Sends a command of our own. Call only when none is in flight.
    pub fn handle_own(&mut self, own: Own) {
        match own {
            Own::Noop => self.put_own(InFlight::Own(own), b"NOOP\r\n"),
            Own::Unselect => self.leave(),
            Own::Logout => {
                self.closing = true;
                self.put_own(InFlight::Own(own), b"LOGOUT\r\n");
            }
        }
    }

    fn put_own(&mut self, own: InFlight, text: &[u8]) {
        self.put_tag();
        self.output.put_slice(text);
        self.in_flight = Some(own);
    }

    /// What is to be sent; empty: nothing. Take all of it.
    pub fn poll_transmit(&mut self) -> Bytes {
        std::mem::take(&mut self.output).freeze()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next event, if it is the end of the session's command.
    pub fn poll_done(&mut self) -> Option<(Bytes, bool)> {
        match self.events.pop_front()? {
            Event::Done(rest, selected) => Some((rest, selected)),
            other => {
                self.events.push_front(other);
                None
            }
        }
    }
}

fn put_own_tag(out: &mut BytesMut, number: u64) {
    use std::fmt::Write as _;
    // Writing to memory cannot fail.
    let _ = write!(out, "i{number:x}");
}

fn put_announcement(out: &mut BytesMut, len: u64, binary: bool) {
    use std::fmt::Write as _;
    let _ = write!(out, "{}{{{len}}}\r\n", if binary { "~" } else { "" });
}

/// CANCELUPDATE names searches by the client's tags (RFC 5267 section 4.3.4): ours go out in their place.
fn put_segment_text(out: &mut BytesMut, segment: &Segment, cancels: bool, contexts: &[(u64, Bytes)]) {
    if !cancels {
        return out.put_slice(&segment.text);
    }
    for (at, part) in segment.text.split(|b| *b == b'"').enumerate() {
        if at > 0 {
            out.put_u8(b'"');
        }
        match contexts.iter().find(|(_, tag)| at % 2 == 1 && part == &tag[..]) {
            Some((number, _)) => put_own_tag(out, *number),
            None => out.put_slice(part),
        }
    }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
