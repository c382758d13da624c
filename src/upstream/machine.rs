//! One upstream connection as IMAP sees it: what is in flight on it, what it is left with, and whether it may be handed
//! on. No sockets, no clock, no pool.
//!
//! Every command goes out under a tag of our own, which no client can choose and which is used once in a
//! connection's life. A connection is dirty from the first octet of a command until the reply with that very tag has
//! come and nothing is left over; any other tag is a protocol error, after which the connection is not used again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::imap::MAX_WHOLE_LINE;
use crate::imap::capability::Capabilities;
use crate::imap::command::{Command, Name, Segment};
use crate::imap::frame::{Literal, trailing_literal};
use crate::imap::response::{CLASSIFY, Kind, Status, StatusReply, classify, esearch_tag, split_tag, trim_line_end};

/// State that cannot be undone: the connection can only be handed to a session that wants just the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sticky {
    /// CONDSTORE is on, by whatever command (RFC 7162 section 3.1).
    pub condstore: bool,
    /// What else ENABLE was asked for (RFC 5161), in capitals.
    pub enabled: BTreeSet<Vec<u8>>,
}

impl Sticky {
    /// What this state becomes by `command`, if that changes it.
    #[must_use]
    pub fn after(&self, command: &Command) -> Option<Self> {
        let mut after = self.clone();
        if command.name == Name::Enable {
            after.enabled.append(&mut enable_words(command));
            // QRESYNC includes it (RFC 7162 section 3.2.3).
            after.condstore |= after.enabled.remove(&b"CONDSTORE"[..]) || after.enabled.contains(&b"QRESYNC"[..]);
        } else {
            after.condstore |= command.enables_condstore();
        }
        (after != *self).then_some(after)
    }

    /// The ENABLE that brings a fresh connection into this state, if it takes one.
    #[must_use]
    pub fn command(&self) -> Option<Command> {
        let condstore = self.condstore.then_some(&b"CONDSTORE"[..]);
        let words: Vec<&[u8]> = condstore.into_iter().chain(self.enabled.iter().map(Vec::as_slice)).collect();
        let text = [b"ENABLE ", &words.join(&b' ')[..]].concat().into();
        let segments = vec![Segment { text, literal: None }];
        (!words.is_empty()).then_some(Command { tag: Bytes::new(), name: Name::Enable, segments })
    }
}

/// The arguments of an ENABLE, in capitals.
fn enable_words(command: &Command) -> BTreeSet<Vec<u8>> {
    let words = command.segments[0].text.split(|b| *b == b' ').skip(1);
    words.filter(|word| !word.is_empty()).map(<[u8]>::to_ascii_uppercase).collect()
}

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
    #[must_use]
    pub fn answers(&self, command: &Command) -> bool {
        command.name == Name::Enable && self.asked == enable_words(command)
    }
}

/// What a pool has to know of a connection at rest.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The mailbox that is selected ([`Command::selected_mailbox`]).
    pub selected: Option<Bytes>,
    /// See [`Sticky`].
    pub sticky: Arc<Sticky>,
    /// The reply to the last ENABLE.
    pub enable_reply: Option<Arc<EnableReply>>,
}

/// Commands of our own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Sign of life.
    Noop,
    /// Leaves the mailbox without expunging: UNSELECT, or an EXAMINE that fails (RFC 3691 section 1).
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
    /// Neither OK, NO nor BAD after our tag.
    #[error("malformed tagged reply")]
    BadStatus,
    /// A line that has to be seen whole is longer than it may be.
    #[error("reply line too long")]
    TooLong,
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
    Data(Bytes),
    /// The backend waits for more of the session's command; the whole line.
    Continue(Bytes),
    /// The session's command is over: ` OK …` with line end, and whether a mailbox is selected now.
    Done(Bytes, bool),
    /// A command of ours is over, and whether it did what it is for.
    OwnDone(Own, bool),
    /// `* BYE …`: the text after BYE. The connection will take no further command.
    Bye(Bytes),
}

#[derive(Debug)]
enum InFlight {
    Own(Own),
    Session {
        tag: Bytes,
        name: Name,
        mailbox: Option<Bytes>,
        sticky: Option<Sticky>,
        /// The reply to an ENABLE, as far as it has come.
        enable: Option<Box<EnableReply>>,
        /// A mailbox of an earlier session was still selected.
        lingering: bool,
    },
}

/// Where in a reply the input stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    /// In a line whose start has been classified and passed on (or dropped), within this kind.
    InLine,
    Literal(u64),
}

/// Octets of a long line held back while its end is looked for: an announcement has at most 23.
const TAIL: usize = 32;

/// Digits of a literal's size, leading zeros included.
const MAX_DIGITS: usize = 20;

/// See the module.
#[derive(Debug)]
pub struct Machine {
    capabilities: Arc<Capabilities>,
    place: Place,
    /// The reply at hand goes to nobody.
    dropping: bool,
    /// The line at hand, whose kind is not known yet, began before the session came.
    stale: bool,
    scanned: usize,
    next_tag: u64,
    in_flight: Option<InFlight>,
    /// Parts of the command in flight that may only be sent when the backend asks: each is a literal and what follows.
    held: VecDeque<(Bytes, Bytes)>,
    /// The session's literal may be sent when the backend asks for it (`true`), or is being sent (`false`).
    streaming: Option<bool>,
    /// The backend has asked for more than literals (IDLE's `DONE`, or whatever an unknown command needs), and has not
    /// got it yet.
    asked: bool,
    /// A session waits for this command; ours goes first.
    deferred: Option<Box<(Command, Option<Literal>)>>,
    attached: bool,
    fresh: bool,
    facts: Facts,
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
        Self {
            capabilities,
            place: Place::LineStart,
            dropping: false,
            stale: false,
            scanned: 0,
            next_tag,
            in_flight: None,
            held: VecDeque::new(),
            streaming: None,
            asked: false,
            deferred: None,
            attached: false,
            fresh: true,
            facts: Facts::default(),
            spoiled: None,
            closing: false,
            output: BytesMut::new(),
            events: VecDeque::new(),
            context_tags: Vec::new(),
        }
    }

    /// What is selected and enabled.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Nothing is in flight, no literal half sent, nothing half read.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.in_flight.is_none()
            && self.deferred.is_none()
            && self.held.is_empty()
            && self.streaming.is_none()
            && self.place == Place::LineStart
            && self.output.is_empty()
            && !self.closing
    }

    /// A command of the session waits for one of ours to end.
    #[must_use]
    pub fn defers(&self) -> bool {
        self.deferred.is_some()
    }

    /// A reply is due from the backend: not while a client idles, or is slow to give a literal.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        match &self.in_flight {
            None => self.deferred.is_some(),
            Some(_) => self.streaming != Some(false) && !self.asked,
        }
    }

    /// The backend has said goodbye, or cannot be trusted to understand a further command.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Between two lines of the backend, so that a line of ours to the client breaks nothing.
    #[must_use]
    pub fn at_line_start(&self) -> bool {
        self.place == Place::LineStart || self.dropping
    }

    /// Why no later session may have this connection, if so.
    #[must_use]
    pub fn spoiled(&self) -> Option<&'static str> {
        self.spoiled
    }

    /// A session takes the connection: what is selected now is not its own.
    pub fn handle_attach(&mut self) {
        self.attached = true;
        self.fresh = true;
        self.stale = self.place == Place::LineStart && self.scanned > 0;
    }

    /// The session has left. Call only when clean.
    pub fn handle_release(&mut self) {
        self.attached = false;
        self.context_tags.clear();
    }

    /// Sends a session's command, or holds it back until a command of ours is over, or the rest of one that was refused is
    /// sent. With `streams`, its last segment
    /// is followed by a literal that comes by [`Machine::handle_octets`] after [`Event::Continue`].
    pub fn handle_command(&mut self, command: Command, streams: Option<Literal>) {
        // Within a literal whose octets are still to come, a command would count as some of them.
        if self.in_flight.is_some() || self.streaming.is_some() {
            self.deferred = Some(Box::new((command, streams)));
            return;
        }
        let mailbox = command.selected_mailbox();
        if self.fresh && self.facts.selected.is_some() && !self.selects_anew(mailbox.as_deref(), &command) {
            self.deferred = Some(Box::new((command, streams)));
            return self.handle_own(Own::Unselect);
        }
        let lingering = std::mem::take(&mut self.fresh) && self.facts.selected.is_some();
        let sticky = self.facts.sticky.after(&command);
        // What is on already is not told again.
        let enable = (command.name == Name::Enable && sticky.is_some())
            .then(|| Box::new(EnableReply { asked: enable_words(&command), ..EnableReply::default() }));
        if command.name.spoils_connection() {
            self.spoiled = Some("unknown or unshareable command");
        }
        let tag_number = self.begin(&command, streams);
        if command.name == Name::Search && command.segments.iter().any(|s| contains(&s.text, b"UPDATE")) {
            if self.context_tags.len() >= MAX_CONTEXTS {
                self.context_tags.remove(0);
            }
            self.context_tags.push((tag_number, command.tag.clone()));
        }
        self.in_flight =
            Some(InFlight::Session { tag: command.tag, name: command.name, mailbox, sticky, enable, lingering });
    }

    /// Whether the command selects the very mailbox that an earlier session has left selected: then what the backend
    /// still says of its size and flags is true for the new session, too. Of any other mailbox it would not be.
    fn selects_anew(&self, mailbox: Option<&[u8]>, command: &Command) -> bool {
        // Whatever the mode, which is the first octet of the key.
        let left = self.facts.selected.as_deref().and_then(|key| key.get(1..));
        mailbox.and_then(|key| key.get(1..)).is_some_and(|name| left == Some(name)) && !command.resynchronises()
    }

    /// Writes the command under a new tag; gives the tag's number.
    ///
    /// Literals go out only when the backend asks for them, whatever the client did: a server that stops to understand a
    /// command before its literal takes the literal's octets for commands (Dovecot and Cyrus both do).
    fn begin(&mut self, command: &Command, streams: Option<Literal>) -> u64 {
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
            if let Some(held) = self.held.back_mut().filter(|_| at > 0) {
                held.1 = text.freeze();
            }
            if let Some((octets, _)) = &segment.literal {
                self.held.push_back((octets.clone(), Bytes::new()));
            }
        }
        self.streaming = streams.map(|_| true);
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
        self.asked = false;
        self.output.extend_from_slice(octets);
    }

    /// The text after a streamed literal, and perhaps a further literal's announcement.
    pub fn handle_segment(&mut self, text: &[u8], literal: Option<Literal>) {
        self.output.put_slice(text);
        match literal {
            Some(literal) => {
                put_announcement(&mut self.output, literal.len, literal.binary);
                self.streaming = Some(true);
                // Refused already: what the backend makes of a further literal is anybody's guess.
                self.closing |= self.in_flight.is_none();
            }
            None => {
                self.output.put_slice(b"\r\n");
                self.streaming = None;
                if self.in_flight.is_none() {
                    self.run_deferred();
                }
            }
        }
    }

    fn run_deferred(&mut self) {
        if let Some((command, streams)) = self.deferred.take().map(|deferred| *deferred) {
            self.handle_command(command, streams);
        }
    }

    /// Sends a command of our own. Call only when none is in flight.
    pub fn handle_own(&mut self, own: Own) {
        self.put_tag();
        match own {
            Own::Noop => self.output.put_slice(b"NOOP\r\n"),
            Own::Unselect if self.has_unselect() => self.output.put_slice(b"UNSELECT\r\n"),
            // A failed EXAMINE leaves nothing selected (RFC 9051 section 6.3.3).
            Own::Unselect => self.output.put_slice(b"EXAMINE \"imapool/no/such/mailbox\"\r\n"),
            Own::Logout => {
                self.closing = true;
                self.output.put_slice(b"LOGOUT\r\n");
            }
        }
        self.in_flight = Some(InFlight::Own(own));
    }

    /// What is to be sent; empty: nothing. Take all of it.
    pub fn poll_transmit(&mut self) -> Bytes {
        let output = self.output.split().freeze();
        if self.output.capacity() < 256 {
            self.output = BytesMut::new();
        }
        output
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

    /// Takes what it can off the front of `input`. What is left must be given again with more behind it; it is never
    /// more than [`MAX_WHOLE_LINE`].
    ///
    /// # Errors
    /// The stream cannot be followed; the connection must not be used again. The events say what came before that.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<(), ProtocolError> {
        // Octets at the front that go to the session as they are.
        let mut passed = 0;
        let result = self.handle_lines(input, &mut passed);
        self.flush(input, &mut passed);
        result
    }

    fn handle_lines(&mut self, input: &mut BytesMut, passed: &mut usize) -> Result<(), ProtocolError> {
        loop {
            match self.place {
                Place::Literal(left) => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - *passed);
                    *passed = self.pass(input, *passed, take);
                    self.place = if left == take as u64 { Place::InLine } else { Place::Literal(left - take as u64) };
                    if left > take as u64 {
                        break;
                    }
                }
                Place::InLine => {
                    let (len, ended) = self.line_rest(&input[*passed..])?;
                    *passed = self.pass(input, *passed, len);
                    if !ended {
                        break;
                    }
                }
                Place::LineStart => match self.line_start(input, passed)? {
                    true => {}
                    false => break,
                },
            }
        }
        Ok(())
    }

    /// Passes on, or drops, `len` octets at `passed`; gives the new `passed`.
    fn pass(&mut self, input: &mut BytesMut, mut passed: usize, len: usize) -> usize {
        if !self.dropping {
            return passed + len;
        }
        self.flush(input, &mut passed);
        input.advance(len);
        0
    }

    fn flush(&mut self, input: &mut BytesMut, passed: &mut usize) {
        if *passed > 0 {
            self.events.push_back(Event::Data(input.split_to(*passed).freeze()));
            *passed = 0;
        }
    }

    /// The rest of a line that may end in a literal: how many octets of it can be passed on, and whether it ended.
    fn line_rest(&mut self, rest: &[u8]) -> Result<(usize, bool), ProtocolError> {
        let Some(at) = memchr::memchr(b'\n', &rest[self.scanned..]).map(|at| at + self.scanned) else {
            let len = rest.len().saturating_sub(TAIL);
            self.scanned = rest.len() - len;
            return Ok((len, false));
        };
        self.scanned = 0;
        let text = trim_line_end(&rest[..=at]);
        // So many digits that the brace before them may be out of sight already.
        if text
            .strip_suffix(b"}")
            .is_some_and(|t| t.iter().rev().take_while(|b| b.is_ascii_digit()).count() > MAX_DIGITS)
        {
            return Err(ProtocolError::Literal);
        }
        self.place = match trailing_literal(text).map_err(|_| ProtocolError::Literal)? {
            Some((_, literal)) if literal.sync => Place::Literal(literal.len),
            _ => Place::LineStart,
        };
        Ok((at + 1, true))
    }

    /// The start of a line; false: more input is needed.
    fn line_start(&mut self, input: &mut BytesMut, passed: &mut usize) -> Result<bool, ProtocolError> {
        let rest = &input[*passed..];
        if rest.is_empty() {
            return Ok(false);
        }
        let end = memchr::memchr(b'\n', &rest[self.scanned..]).map(|at| at + self.scanned + 1);
        if end.is_none() && rest.len() < CLASSIFY {
            self.scanned = rest.len();
            return Ok(false);
        }
        let len = end.unwrap_or(rest.len());
        // By the same octets however the line was cut on its way here.
        let kind = classify(&rest[..len.min(CLASSIFY)]);
        if !kind.needs_whole_line() {
            self.scanned = 0;
            self.dropping = self.drops(kind);
            self.stale = false;
            self.place = Place::InLine;
            if kind == Kind::Esearch && !self.dropping {
                self.retag(input, passed, len.min(CLASSIFY));
            }
            return Ok(true);
        }
        if len > MAX_WHOLE_LINE {
            return Err(ProtocolError::TooLong);
        }
        let Some(end) = end else {
            self.scanned = rest.len();
            return Ok(false);
        };
        self.scanned = 0;
        if matches!(kind, Kind::Status(Status::Ok | Status::No | Status::Bad)) && self.passes_status(&rest[..end]) {
            *passed += end;
            return Ok(true);
        }
        self.flush(input, passed);
        let line = input.split_to(end).freeze();
        self.whole_line(kind, &line)?;
        self.stale = false;
        Ok(true)
    }

    /// Whether a reply of this kind is nobody's: no session is there, or it is about the mailbox of an earlier one.
    fn drops(&self, kind: Kind) -> bool {
        if !self.attached || self.stale {
            return true;
        }
        match &self.in_flight {
            Some(InFlight::Own(_)) => self.fresh,
            // None of these is part of the reply to a SELECT.
            Some(InFlight::Session { lingering, .. }) => {
                *lingering && matches!(kind, Kind::MessageNews | Kind::Esearch)
            }
            // Between commands, a session that has selected nothing is told nothing of mailboxes.
            None => self.fresh && self.facts.selected.is_some(),
        }
    }

    /// Whether an untagged status reply can go on as it is.
    fn passes_status(&self, line: &[u8]) -> bool {
        let Some(reply) = StatusReply::parse(&line[1..]) else { return false };
        let lingering = matches!(self.in_flight, Some(InFlight::Session { lingering: true, .. }));
        let closes_other = lingering && reply.has_code("CLOSED");
        !closes_other && !reply.has_code("CAPABILITY") && !names_a_tag(&reply) && !self.drops(Kind::Data)
    }

    /// Passes on the start of an ESEARCH reply with the client's tag in place of ours, which stands within the first
    /// `len` octets.
    fn retag(&mut self, input: &mut BytesMut, passed: &mut usize, len: usize) {
        let Some(range) = esearch_tag(&input[*passed..*passed + len]) else { return };
        let Some(tag) = self.client_tag(&input[*passed..][range.clone()]).map(Bytes::copy_from_slice) else { return };
        self.flush(input, passed);
        let mut head = input.split_to(range.end);
        head.truncate(range.start);
        head.extend_from_slice(&tag);
        self.events.push_back(Event::Data(head.freeze()));
    }

    /// The client's tag for one of ours: of the command in flight, or of a search that keeps sending updates.
    fn client_tag<'a>(&'a self, ours: &[u8]) -> Option<&'a [u8]> {
        let number = own_tag_number(ours)?;
        if let Some(InFlight::Session { tag, .. }) = &self.in_flight
            && number + 1 == self.next_tag
        {
            return Some(tag);
        }
        self.context_tags.iter().find(|(known, _)| *known == number).map(|(_, tag)| &tag[..])
    }

    fn whole_line(&mut self, kind: Kind, line: &Bytes) -> Result<(), ProtocolError> {
        match kind {
            Kind::Tagged => return self.tagged(line),
            Kind::Continuation => return self.continuation(line),
            Kind::Status(Status::Bye) => {
                let text = StatusReply::parse(&line[1..]).map_or(&b""[..], |reply| reply.text);
                self.closing = true;
                self.events.push_back(Event::Bye(line.slice_ref(text)));
            }
            Kind::Enabled => {
                if let Some(InFlight::Session { enable: Some(reply), .. }) = &mut self.in_flight {
                    reply.untagged = line.clone();
                }
                if !self.drops(kind) {
                    self.events.push_back(Event::Data(line.clone()));
                }
            }
            Kind::Status(_) if StatusReply::parse(&line[1..]).is_some_and(|reply| names_a_tag(&reply)) => {
                if !self.drops(kind)
                    && let Some(mapped) = self.retag_code(line)
                {
                    self.events.push_back(Event::Data(mapped));
                }
            }
            // What a backend says of its capabilities unasked is not what a client may rely on here.
            _ => {}
        }
        Ok(())
    }

    /// The line with the client's tag in place of ours, which is the first quoted string of its response code. `None`: it is
    /// about no command of this client's.
    fn retag_code(&self, line: &Bytes) -> Option<Bytes> {
        let Some(start) = memchr::memchr(b'"', line).map(|quote| quote + 1) else { return Some(line.clone()) };
        let end = start + memchr::memchr(b'"', &line[start..])?;
        let tag = self.client_tag(&line[start..end])?;
        Some([&line[..start], tag, &line[end..]].concat().into())
    }

    fn continuation(&mut self, line: &Bytes) -> Result<(), ProtocolError> {
        if let Some((literal, text)) = self.held.pop_front() {
            self.output.put_slice(&literal);
            self.output.put_slice(&text);
            return Ok(());
        }
        if self.streaming == Some(true) {
            self.streaming = Some(false);
        } else if !matches!(&self.in_flight, Some(InFlight::Session { name: Name::Idle | Name::Other, .. })) {
            return Err(ProtocolError::Continuation);
        } else {
            self.asked = true;
        }
        self.events.push_back(Event::Continue(line.clone()));
        Ok(())
    }

    fn tagged(&mut self, line: &Bytes) -> Result<(), ProtocolError> {
        let (tag, rest) = split_tag(line);
        if own_tag_number(tag) != self.next_tag.checked_sub(1) {
            return Err(ProtocolError::UnknownTag);
        }
        let in_flight = self.in_flight.take().ok_or(ProtocolError::UnknownTag)?;
        let reply = StatusReply::parse(rest).ok_or(ProtocolError::BadStatus)?;
        if matches!(reply.status, Status::Bye | Status::PreAuth) {
            return Err(ProtocolError::BadStatus);
        }
        self.held.clear();
        self.asked = false;
        // Refused before it was asked for: it will not be sent.
        if self.streaming == Some(true) {
            self.streaming = None;
        }
        match in_flight {
            InFlight::Own(own) => self.own_done(own, reply.status),
            InFlight::Session { .. } => {
                self.session_done(in_flight, &reply);
                let rest = if reply.has_code("CAPABILITY") { without_code(&reply) } else { line.slice_ref(rest) };
                self.events.push_back(Event::Done(rest, self.facts.selected.is_some() && !self.fresh));
            }
        }
        self.run_deferred();
        Ok(())
    }

    fn own_done(&mut self, own: Own, status: Status) {
        let wanted = match own {
            Own::Unselect if !self.has_unselect() => Status::No,
            _ => Status::Ok,
        };
        if own == Own::Unselect {
            self.facts.selected = None;
        }
        self.events.push_back(Event::OwnDone(own, status == wanted));
    }

    fn has_unselect(&self) -> bool {
        self.capabilities.has("UNSELECT") || self.capabilities.has("IMAP4rev2")
    }

    /// What the command has left behind.
    fn session_done(&mut self, in_flight: InFlight, reply: &StatusReply<'_>) {
        let InFlight::Session { name, mailbox, sticky, enable, lingering, .. } = in_flight else {
            return;
        };
        let ok = reply.status == Status::Ok;
        match name {
            Name::Select | Name::Examine => {
                self.context_tags.clear();
                if reply.status != Status::Bad {
                    self.facts.selected = if ok { mailbox.or_else(|| Some(Bytes::new())) } else { None };
                } else if lingering {
                    // What is still selected is not the session's.
                    self.fresh = true;
                } else if self.facts.selected.is_some() {
                    // Whether the old one is still selected is anybody's guess.
                    self.spoiled = Some("SELECT refused as malformed");
                }
            }
            Name::Close | Name::Unselect if ok => {
                self.context_tags.clear();
                self.facts.selected = None;
            }
            Name::Enable if ok => {
                let tagged = Bytes::copy_from_slice(&reply_bytes(reply));
                if let Some(reply) = enable {
                    self.facts.enable_reply = Some(Arc::new(EnableReply { tagged, ..*reply }));
                }
            }
            _ => {}
        }
        if let Some(sticky) = sticky.filter(|_| reply.status != Status::Bad) {
            self.facts.sticky = Arc::new(sticky);
        }
    }
}

/// Whether the response code tells which command it is about: INPROGRESS (RFC 9585 section 4), NOUPDATE (RFC 5267
/// section 4.3.2).
fn names_a_tag(reply: &StatusReply<'_>) -> bool {
    reply.has_code("INPROGRESS") || reply.has_code("NOUPDATE")
}

/// ` OK [CODE] text` with line end, from its parts.
fn reply_bytes(reply: &StatusReply<'_>) -> Vec<u8> {
    let status = match reply.status {
        Status::Ok => " OK",
        Status::No => " NO",
        _ => " BAD",
    };
    let mut out = status.as_bytes().to_vec();
    if let Some(code) = reply.code {
        out.extend_from_slice(b" [");
        out.extend_from_slice(code);
        out.push(b']');
    }
    out.push(b' ');
    out.extend_from_slice(if reply.text.is_empty() { b"Done." } else { reply.text });
    out.extend_from_slice(b"\r\n");
    out
}

/// The reply without its response code.
fn without_code(reply: &StatusReply<'_>) -> Bytes {
    reply_bytes(&StatusReply { code: None, ..*reply }).into()
}

fn put_own_tag(out: &mut BytesMut, number: u64) {
    use std::fmt::Write as _;
    // Writing to memory cannot fail.
    let _ = write!(out, "i{number:x}");
}

fn own_tag_number(tag: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(tag.strip_prefix(b"i")?).ok()?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    // One spelling only.
    (digits == format!("{number:x}")).then_some(number)
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
