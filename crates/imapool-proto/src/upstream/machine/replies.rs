//! What the backend says: found out line by line what it is, and passed on, dropped, or taken for what it tells of the
//! connection.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{EnableReply, Event, Ignored, InFlight, Machine, Own, ProtocolError};
use crate::imap::MAX_WHOLE_LINE;
use crate::imap::command::Name;
use crate::imap::phrases;
use crate::imap::response::{CLASSIFY, EsearchTag, Kind, Status, StatusReply, esearch_tag, split_tag, trim_line_end};
use crate::imap::sticky::{Sticky, words};
use crate::imap::untagged::{LineStart, Reply, classify};

/// Octets of an over-long tagged reply that are kept to judge it by.
const KEPT: usize = 1024;
/// Octets shown of a line that is not understood.
const SHOWN: usize = 40;

impl Machine {
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
            if self.divider.framer().at_line_start() {
                if self.is_paused() || !self.line_start(input, passed)? {
                    return Ok(());
                }
                continue;
            }
            let literal = self.divider.framer().in_literal();
            let len = self.divider.take(&input[*passed..]);
            if self.divider.framer().is_lost() {
                return Err(ProtocolError::Literal);
            }
            if len == 0 {
                return Ok(());
            }
            *passed = self.pass(input, *passed, len, literal);
            if self.divider.framer().at_line_start() {
                self.line_over(input, passed);
            }
        }
    }

    /// Passes on, or drops, `len` octets at `passed`; gives the new `passed`.
    fn pass(&mut self, input: &mut BytesMut, mut passed: usize, len: usize, literal: bool) -> usize {
        if !self.line.dropping {
            self.line.half_passed = true;
            self.divider.pass(passed + len, literal);
            return passed + len;
        }
        self.flush(input, &mut passed);
        input.advance(len);
        0
    }

    fn flush(&mut self, input: &mut BytesMut, passed: &mut usize) {
        if *passed > 0 {
            let replies = self.divider.cut(input.split_to(*passed).freeze());
            let is_tagged = self.line.ending.is_some();
            self.events.push_back(if is_tagged { Event::Tagged(replies.into_octets()) } else { Event::Data(replies) });
            *passed = 0;
        }
    }

    /// The end of a line, or of what was passed on of it.
    fn line_over(&mut self, input: &mut BytesMut, passed: &mut usize) {
        self.line.half_passed = false;
        if self.line.ending.is_none() {
            return;
        }
        self.flush(input, passed);
        let Some(start) = self.line.ending.take() else { return };
        if let Some(reply) = StatusReply::parse_start(&start) {
            let rest = if std::mem::take(&mut self.line.dropping) { without_code(&reply) } else { Bytes::new() };
            self.done(&reply, rest);
        }
    }

    /// The start of a line; false: more input is needed.
    fn line_start(&mut self, input: &mut BytesMut, passed: &mut usize) -> Result<bool, ProtocolError> {
        let rest = &input[*passed..];
        if rest.is_empty() {
            return Ok(false);
        }
        if rest.len() < CLASSIFY && memchr::memchr(b'\n', &rest[self.line.scanned..]).is_none() {
            self.line.scanned = rest.len();
            return Ok(false);
        }
        // By the same octets however the line was cut on its way here.
        let start = &rest[..rest.len().min(CLASSIFY)];
        let line = classify(start);
        let kind = line.kind;
        if kind == Kind::Esearch && esearch_tag(start).is_err() {
            // That it has begun shows whose it is, should another session come now.
            self.line.scanned = rest.len();
            return Ok(false);
        }
        if !kind.wants_whole_line() {
            self.line.scanned = 0;
            let len = || memchr::memchr(b'\n', start).map_or(start.len(), |at| at + 1);
            if matches!(kind, Kind::Stray { .. }) {
                self.stray(&start[..len()])?;
            } else {
                self.line.dropping = self.drops(kind);
            }
            self.line.stale = false;
            if kind != Kind::Esearch || self.line.dropping || !self.retag(input, passed, &line) {
                self.begin_line(&line, *passed);
            }
            return Ok(true);
        }
        let end = memchr::memchr(b'\n', &rest[self.line.scanned..]).map(|at| at + self.line.scanned + 1);
        let len = end.unwrap_or(rest.len());
        let Some(end) = end.filter(|end| *end <= MAX_WHOLE_LINE) else {
            if len <= MAX_WHOLE_LINE {
                self.line.scanned = rest.len();
                return Ok(false);
            }
            self.line.scanned = 0;
            self.flush(input, passed);
            self.long_line(kind, input)?;
            self.line.stale = false;
            self.begin_line(&line, *passed);
            return Ok(true);
        };
        self.line.scanned = 0;
        if matches!(kind, Kind::Status(Status::Ok | Status::No | Status::Bad))
            && let Some(reply) = StatusReply::parse_start(&rest[1..end])
        {
            self.note_status(&reply);
            if self.passes_status(&reply) {
                self.divider.pass_line(line.reply, *passed, *passed + end);
                *passed += end;
                return Ok(true);
            }
        }
        self.flush(input, passed);
        let line = input.split_to(end).freeze();
        self.whole_line(kind, &line)?;
        self.line.stale = false;
        Ok(true)
    }

    fn begin_line(&mut self, line: &LineStart, at: usize) {
        match self.line.dropping || self.line.ending.is_some() {
            true => self.divider.begin_dropped(line.kind),
            false => self.divider.begin(line, at),
        }
    }

    /// A line that no server may say. In the reply to a session's command it goes where the reply before it went, of
    /// which it may be the rest: a quoted string with a line's end in it. All else is nobody's.
    fn stray(&mut self, start: &[u8]) -> Result<(), ProtocolError> {
        if self.after_tag(start).is_ok() {
            return Err(ProtocolError::BadStatus);
        }
        let within = matches!(self.in_flight, Some(InFlight::Session { .. })) && !self.line.stale && self.attached;
        if !within {
            self.line.dropping = true;
            self.ignore(Ignored::Stray, trim_line_end(start));
        }
        Ok(())
    }

    /// Of many such lines in a row, one is told of.
    fn ignore(&mut self, why: Ignored, start: &[u8]) {
        if !matches!(self.events.back(), Some(Event::Ignored(last, _)) if *last == why) {
            let shown = Bytes::copy_from_slice(&start[..start.len().min(SHOWN)]);
            self.events.push_back(Event::Ignored(why, shown));
        }
    }

    /// The start of a line of which there is more than is kept: its first octets have to do. It stays at the front of
    /// `input`, less what is not to be passed on; the rest goes where it goes.
    fn long_line(&mut self, kind: Kind, input: &mut BytesMut) -> Result<(), ProtocolError> {
        self.line.dropping = true;
        match kind {
            Kind::Tagged => {
                let rest = self.after_tag(input)?;
                let (tag, kept) = (input.len() - rest.len(), Bytes::copy_from_slice(&rest[..KEPT]));
                let reply = StatusReply::parse_start(&kept).ok_or(ProtocolError::BadStatus)?;
                let session = matches!(self.in_flight, Some(InFlight::Session { .. }));
                self.line.dropping = !session || reply.has_code("CAPABILITY");
                input.advance(tag);
                self.line.ending = Some(kept);
            }
            Kind::Status(Status::Ok | Status::No | Status::Bad)
                if StatusReply::parse_start(&input[1..]).is_some_and(|reply| self.passes_status(&reply)) =>
            {
                self.line.dropping = false;
            }
            Kind::Capability | Kind::Enabled => self.ignore(Ignored::TooLong, input),
            _ => {
                let line = Bytes::from([&input[..MAX_WHOLE_LINE], b"\r\n"].concat());
                self.whole_line(kind, &line)?;
            }
        }
        Ok(())
    }

    /// Whether a reply of this kind is nobody's: no session is there, or it is about the mailbox of an earlier one.
    fn drops(&self, kind: Kind) -> bool {
        if !self.attached || self.line.stale {
            return true;
        }
        // Where no mailbox is selected, and none is about to be, there are no messages.
        let selects =
            matches!(self.in_flight, Some(InFlight::Session { name: Name::Select | Name::Examine | Name::Other, .. }));
        let of_none = self.facts.selected.is_none() && !selects && self.spoiled.is_none();
        if of_none && matches!(kind, Kind::MessageNews | Kind::MailboxSize) {
            return true;
        }
        match &self.in_flight {
            Some(InFlight::Own(_) | InFlight::Leaving(_)) => self.fresh,
            // None of these is part of the reply to a SELECT.
            Some(InFlight::Session { lingering, .. }) => {
                *lingering && matches!(kind, Kind::MessageNews | Kind::Esearch)
            }
            // Between commands, a session that has selected nothing is told nothing of mailboxes.
            None => self.fresh && self.facts.selected.is_some(),
        }
    }

    /// What an untagged status reply says of the mailbox that is selected.
    fn note_status(&mut self, reply: &StatusReply<'_>) {
        let Some(InFlight::Session { closed, modseq, .. }) = &mut self.in_flight else { return };
        if reply.status == Status::Ok && reply.code.is_some() {
            *closed |= reply.has_code("CLOSED");
            *modseq |= reply.has_code("HIGHESTMODSEQ") || reply.has_code("NOMODSEQ");
        }
    }

    /// Whether an untagged status reply can go on as it is.
    fn passes_status(&self, reply: &StatusReply<'_>) -> bool {
        let lingering = matches!(self.in_flight, Some(InFlight::Session { lingering: true, .. }));
        let closes_other = lingering && reply.has_code("CLOSED");
        !closes_other && !reply.has_code("CAPABILITY") && !names_a_tag(reply) && !self.drops(Kind::Data)
    }

    /// Passes on the start of an ESEARCH reply with the client's tag in place of ours; false: there is none, and
    /// nothing is done.
    fn retag(&mut self, input: &mut BytesMut, passed: &mut usize, line: &LineStart) -> bool {
        let Ok(Some(EsearchTag { tag, written })) = esearch_tag(&input[*passed..]) else { return false };
        let Some(tag) = self.client_tag(&input[*passed..][tag]).map(Bytes::copy_from_slice) else { return false };
        self.flush(input, passed);
        let mut head = input.split_to(written.end);
        head.truncate(written.start);
        head.extend_from_slice(&tag);
        self.divider.begin(line, 0);
        self.divider.pass(head.len(), false);
        self.line.half_passed = true;
        self.events.push_back(Event::Data(self.divider.cut(head.freeze())));
        true
    }

    /// The client's tag for one of ours: of the command in flight, or of a search that keeps sending updates.
    fn client_tag<'a>(&'a self, ours: &[u8]) -> Option<&'a [u8]> {
        let number = own_tag_number(ours)?;
        if let Some(InFlight::Session { tag, .. }) = &self.in_flight
            && Some(number) == self.tag_in_flight()
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
                let reply = StatusReply::parse(&line[1..]);
                let text = reply.map_or(&b""[..], |reply| reply.text);
                if reply.is_some_and(|reply| reply.has_code("ALERT")) && !self.drops(kind) {
                    // Users have to see it (RFC 9051 section 7.1), also those who go on with another connection.
                    let alert = [b"* OK [ALERT] ", text, b"\r\n"].concat();
                    self.tell(Reply::Status(Status::Ok), alert.into());
                }
                self.closing = true;
                self.events.push_back(Event::Bye(line.slice_ref(text)));
            }
            Kind::Enabled => {
                if let Some(InFlight::Session { enable: Some(reply), .. }) = &mut self.in_flight {
                    reply.untagged = line.clone();
                }
                if !self.drops(kind) {
                    self.tell(Reply::Other, line.clone());
                }
            }
            Kind::Status(status) if StatusReply::parse_start(&line[1..]).is_some_and(|reply| names_a_tag(&reply)) => {
                if !self.drops(kind)
                    && let Some(mapped) = self.retag_code(line)
                {
                    self.tell(Reply::Status(status), mapped);
                }
            }
            // What a backend says of its capabilities unasked is not what a client may rely on here.
            _ => {}
        }
        Ok(())
    }

    fn tell(&mut self, reply: Reply, line: Bytes) {
        let replies = self.divider.line(reply, line);
        self.events.push_back(Event::Data(replies));
    }

    /// The line with the client's tag in place of ours, which is the first quoted string of its response code.
    /// `None`: it is about no command of this client's.
    fn retag_code(&self, line: &Bytes) -> Option<Bytes> {
        let Some(start) = memchr::memchr(b'"', line).map(|quote| quote + 1) else { return Some(line.clone()) };
        let end = start + memchr::memchr(b'"', &line[start..])?;
        let tag = self.client_tag(&line[start..end])?;
        Some([&line[..start], tag, &line[end..]].concat().into())
    }

    fn continuation(&mut self, line: &Bytes) -> Result<(), ProtocolError> {
        if let Some((literal, text)) = self.pending.parts.pop_front() {
            self.output.put_slice(&literal);
            self.output.put_slice(&text);
            return Ok(());
        }
        if self.pending.streaming == Some(true) {
            self.pending.streaming = Some(false);
        } else if !matches!(&self.in_flight, Some(InFlight::Session { name: Name::Idle | Name::Other, .. })) {
            return Err(ProtocolError::Continuation);
        } else {
            self.pending.asked = true;
        }
        self.events.push_back(Event::Continue(line.clone()));
        Ok(())
    }

    /// What follows our tag.
    fn after_tag<'a>(&self, line: &'a [u8]) -> Result<&'a [u8], ProtocolError> {
        let (tag, rest) = split_tag(line);
        let ours = self.in_flight.is_some() && own_tag_number(tag) == self.tag_in_flight();
        ours.then_some(rest).ok_or(ProtocolError::UnknownTag)
    }

    /// The number of the tag of the command in flight.
    fn tag_in_flight(&self) -> Option<u64> {
        self.next_tag.checked_sub(1 + self.pending.ahead.len() as u64)
    }

    fn tagged(&mut self, line: &Bytes) -> Result<(), ProtocolError> {
        let rest = self.after_tag(line)?;
        let reply = StatusReply::parse(rest).ok_or(ProtocolError::BadStatus)?;
        self.done(&reply, if reply.has_code("CAPABILITY") { without_code(&reply) } else { line.slice_ref(rest) });
        Ok(())
    }

    /// The command in flight is over; `rest` is what its session is still to be told of the tagged reply.
    fn done(&mut self, reply: &StatusReply<'_>, rest: Bytes) {
        let Some(in_flight) = self.in_flight.take() else { return };
        self.pending.parts.clear();
        self.pending.asked = false;
        // Refused before it was asked for: it will not be sent.
        if self.pending.streaming == Some(true) {
            self.pending.streaming = None;
        }
        match in_flight {
            InFlight::Leaving(leaving) => self.left(leaving, reply),
            InFlight::Own(own) => self.events.push_back(Event::OwnDone(own, reply.status == Status::Ok)),
            InFlight::Session { .. } => {
                self.session_done(in_flight, reply);
                self.events.push_back(Event::Done(rest, self.facts.selected.is_some() && !self.fresh));
                if phrases::says_not_connected(reply) {
                    // Whatever is asked next, the answer would be the same: as good as a BYE.
                    self.closing = true;
                    self.events.push_back(Event::Bye(Bytes::copy_from_slice(reply.text)));
                    return;
                }
            }
        }
        // Behind a mailbox that cannot be left, nothing is run.
        if self.events.back() != Some(&Event::OwnDone(Own::Unselect, false)) {
            self.run_deferred();
        }
    }

    /// What the command has left behind.
    fn session_done(&mut self, in_flight: InFlight, reply: &StatusReply<'_>) {
        let InFlight::Session { name, mailbox, sticky, enable, lingering, closed, modseq, .. } = in_flight else {
            return;
        };
        let ok = reply.status == Status::Ok;
        let listed = Sticky::of_words(enable.as_ref().map_or_else(BTreeSet::new, |enable| words(&enable.untagged, 2)));
        match name {
            Name::Select | Name::Examine => {
                self.context_tags.clear();
                if ok {
                    self.facts.selected = mailbox.or_else(|| Some(Bytes::new()));
                    self.uncertain = false;
                } else if closed {
                    self.facts.selected = None;
                } else if reply.status == Status::No {
                    // The mailbox that was selected before should not be any more (RFC 9051 section 6.3.2). With some
                    // servers it is; to the session it is not.
                    self.uncertain |= self.facts.selected.is_some();
                    self.fresh = true;
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
                if let Some(enable) = enable {
                    let told = EnableReply { tagged: reply_bytes(reply), ..*enable };
                    self.facts.enable_reply = Some(Arc::new(told));
                }
            }
            _ => {}
        }
        self.switched_on(name, sticky, &listed, modseq, reply.status);
    }

    /// What may be on now, and what the backend says to be: of ENABLE, what it lists; CONDSTORE in a mailbox, if it
    /// tells mod-sequences or that there are none.
    fn switched_on(&mut self, name: Name, asked: Option<Sticky>, listed: &Sticky, modseq: bool, status: Status) {
        let Some(asked) = asked else { return };
        let (ok, enables) = (status == Status::Ok, name == Name::Enable);
        let selects = matches!(name, Name::Select | Name::Examine);
        // ENABLE does nothing that it does not answer by OK (RFC 5161 section 3.1).
        if ok || !enables && status != Status::Bad {
            self.facts.sticky = Arc::new(asked.clone());
        }
        let granted = if enables {
            listed.common(&asked)
        } else {
            let known = ["CONDSTORE", "QRESYNC"].iter().any(|name| self.capabilities.has(name));
            Sticky { condstore: asked.condstore && if selects { modseq } else { known }, ..Sticky::default() }
        };
        // Whatever comes of a command in a mailbox, mod-sequences are told from then on, if it says up to where (RFC
        // 7162 section 3.1).
        let said = ok || !enables && !selects && modseq;
        if said && granted != Sticky::default() {
            let qresync = granted.enabled.contains(&b"QRESYNC"[..]);
            self.manners.learn(|known| {
                known.grants_condstore |= granted.condstore;
                known.grants_qresync |= qresync;
            });
        }
        if said {
            self.facts.granted = Arc::new(self.facts.granted.with(&granted));
        }
        if !listed.is_within(&self.facts.sticky) {
            self.facts.sticky = Arc::new(self.facts.sticky.with(listed));
        }
    }
}

/// Whether the response code tells which command it is about: INPROGRESS (RFC 9585 section 4), NOUPDATE (RFC 5267
/// section 4.3.2).
fn names_a_tag(reply: &StatusReply<'_>) -> bool {
    reply.has_code("INPROGRESS") || reply.has_code("NOUPDATE")
}

/// ` OK [CODE] text` with line end, from its parts.
fn reply_bytes(reply: &StatusReply<'_>) -> Bytes {
    let status: &[u8] = match reply.status {
        Status::Ok => b" OK ",
        Status::No => b" NO ",
        _ => b" BAD ",
    };
    let code = reply.code.map_or(Vec::new(), |code| [b"[", code, b"] "].concat());
    let text = if reply.text.is_empty() { b"Done." } else { reply.text };
    [status, &code, text, b"\r\n"].concat().into()
}

/// The reply without its response code.
fn without_code(reply: &StatusReply<'_>) -> Bytes {
    reply_bytes(&StatusReply { code: None, ..*reply })
}

fn own_tag_number(tag: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(tag.strip_prefix(b"i")?).ok()?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    // One spelling only.
    let canonical = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (canonical && (number == 0) == digits.starts_with('0') && (number > 0 || digits.len() == 1)).then_some(number)
}
