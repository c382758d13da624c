//! One client session, from greeting to logout (RFC 9051 section 3), without sockets, clock or pool.
//!
//! Input goes in by the `handle_*` methods; what has to be done comes out of [`Machine::poll`], one [`Action`] at a
//! time. One command runs at a time; what a client pipelines waits in the input buffer.

mod login;
mod running;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::running::Awaited;
use crate::imap::capability::Front;
use crate::imap::command::{Command, HeadError, MAX_TAG, Name, Segment, parse_head};
use crate::imap::frame::{Decoder, Frame, FrameError, Line, Literal};
use crate::imap::request::Request;
use crate::imap::sasl::{Credential, Exchange};

/// Bounds on what a client may send, in octets.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of one line.
    pub line: usize,
    /// Of all literals of one command together and the text between them, but for the message of an APPEND.
    pub literals: usize,
}

/// Malformed commands in a row after which a session is ended.
const MAX_ERRORS: u8 = 20;

/// Octets of pipelined commands after which no more are read while a command runs.
const MAX_PIPELINED: usize = 4096;

/// What a part of a collected command counts for at least, in octets: literals of no octets cost memory, too.
const SEGMENT_COST: u64 = 128;

/// Longest line of a client that has not logged in, and all literals of one command of it, in octets: enough for names
/// and passwords. Anybody may have as many connections as there are sessions.
const MAX_STRANGERS: usize = 8 * 1024;

/// Longest line of a SASL exchange, its first one included, in octets: tokens of OAuth are some kilobytes.
const MAX_SASL_LINE: usize = 16 * 1024;

/// What the buffers of a client that has not logged in grow by, in octets.
const GROWTH: usize = 256;

/// What has to be done next.
#[derive(Debug)]
pub enum Action {
    /// Send to the client.
    Write(Bytes),
    /// Send what was written so far, then begin TLS, then [`Machine::handle_tls`].
    StartTls,
    /// Have it verified, then [`Machine::handle_login`].
    Login(Arc<Credential>),
    /// Run on an upstream connection; what it says comes back by [`Machine::handle_continue`] and
    /// [`Machine::handle_done`].
    Run(Box<Request>),
    /// Further octets of the running command: part of a literal, `DONE`, or a line.
    Send(Bytes),
    /// The text after a literal of the running command; a further literal may follow it.
    SendSegment(Bytes, Option<Literal>),
    /// The session is over; everything written so far is still owed to the client.
    Close(End),
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// LOGOUT.
    Logout,
    /// The client closed, or stopped sending.
    ClientClosed,
    /// Too many malformed commands, or one after which the stream cannot be trusted.
    ProtocolError,
    /// The proxy is shutting down.
    Drain,
    /// An administrator asked for it.
    Operator,
    /// No command for too long.
    IdleTimeout,
    /// Not logged in in time.
    LoginTimeout,
    /// The mailbox's connection was lost.
    UpstreamLost,
    /// Not logged in, with too many others who are not either.
    GaveWay,
}

/// What became of a login.
#[derive(Debug)]
pub enum LoginReply {
    /// Accepted; the capabilities to offer from now on.
    Accepted(Arc<str>),
    /// Refused, with the text of the tagged reply (`NO [AUTHENTICATIONFAILED] …`), and the backend's base64 challenge
    /// that explains why, which the mechanism wants answered first (RFC 7628 section 3.2.3).
    Refused {
        /// Without tag and line end.
        reply: String,
        /// Base64.
        challenge: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotAuthenticated,
    Authenticated,
    Selected,
}

/// What is going on.
#[derive(Debug)]
enum Op {
    /// Waiting for a command's first line.
    Ready,
    /// A command whose literals are being collected.
    Collecting { command: Command, literal: BytesMut, binary: bool, total: u64 },
    /// AUTHENTICATE.
    Sasl { tag: Bytes, exchange: Exchange },
    /// A credential is being verified.
    LoggingIn { tag: Bytes },
    /// The client has to answer the challenge that tells why its token was refused.
    Refusing { tag: Bytes, reply: String },
    /// TLS is being negotiated.
    StartingTls,
    /// A command runs on the backend.
    Running { tag: Bytes, name: Name, part: Awaited },
    /// The rest of a command that was answered already.
    Discarding,
    /// Closed.
    Over,
}

/// What a session leaves on its connection when it ends while a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remnant {
    /// A reply on its way.
    Reply,
    /// An IDLE, to be ended by `DONE`: now, if it was accepted, else when it is.
    Idle {
        /// The backend has said `+`.
        accepted: bool,
    },
    /// A command that only the client could have said the rest of.
    Unfinished,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    bounds: Bounds,
    decoder: Decoder,
    input: BytesMut,
    actions: VecDeque<Action>,
    state: State,
    op: Op,
    /// Of the command that ran when the session was over.
    remnant: Remnant,
    front: Front,
    offered: Arc<str>,
    errors: u8,
    /// Part of the running command's tagged reply was written.
    half_answered: bool,
    eof: bool,
    /// The session is to end as soon as nothing runs, for this reason.
    draining: Option<End>,
}

impl Machine {
    /// A session that is about to be greeted with the capabilities `offered`.
    #[must_use]
    pub fn new(bounds: Bounds, front: Front, offered: Arc<str>) -> Self {
        let mut machine = Self {
            bounds,
            decoder: Decoder::default(),
            input: BytesMut::new(),
            actions: VecDeque::new(),
            state: State::NotAuthenticated,
            op: Op::Ready,
            remnant: Remnant::Reply,
            front,
            offered,
            errors: 0,
            half_answered: false,
            eof: false,
            draining: None,
        };
        machine.write(format!("* OK [CAPABILITY {}] imapool ready.\r\n", machine.offered));
        machine
    }

    /// Whether the client has logged in.
    pub fn is_authenticated(&self) -> bool {
        self.state != State::NotAuthenticated
    }

    /// Whether a mailbox is selected.
    pub fn is_selected(&self) -> bool {
        self.state == State::Selected
    }

    /// Whether more input is of use now. False while enough pipelined commands wait, so that TCP slows the client.
    pub fn wants_input(&self) -> bool {
        !self.eof
            && match self.op {
                Op::Over | Op::StartingTls => false,
                // What is read is taken off the buffer, or is the start of one line, which has a bound of its own.
                _ => self.takes_input() || self.input.len() < MAX_PIPELINED,
            }
    }

    /// IDLE runs.
    pub fn is_idling(&self) -> bool {
        matches!(self.op, Op::Running { part: Awaited::Done, .. })
    }

    /// What the running command leaves on the connection when the session ends here, or has ended.
    pub fn remnant(&self) -> Remnant {
        match &self.op {
            Op::Over => self.remnant,
            Op::Running { part: Awaited::DoneHeld, .. } => Remnant::Idle { accepted: false },
            Op::Running { part: Awaited::Done, .. } => Remnant::Idle { accepted: true },
            Op::Running { part: Awaited::Literal { .. } | Awaited::LiteralHeld { .. } | Awaited::Line, .. } => {
                Remnant::Unfinished
            }
            _ => Remnant::Reply,
        }
    }

    /// A command runs that the client has to say more of.
    pub fn is_awaiting_client(&self) -> bool {
        matches!(self.op, Op::Running { part: Awaited::Literal { .. } | Awaited::Line, .. })
    }

    /// The backend has yet to ask for a message that is announced to it. Servers do, or refuse it, at once.
    pub fn is_offering_message(&self) -> bool {
        matches!(self.op, Op::Running { part: Awaited::LiteralHeld { .. }, .. })
    }

    /// The client has closed its side.
    pub fn has_eof(&self) -> bool {
        self.eof
    }

    /// How many octets [`Machine::handle_input`] takes now. Before login, no more than complete one line.
    pub fn room(&self) -> usize {
        match self.op {
            _ if !self.wants_input() => 0,
            _ if self.is_authenticated() => usize::MAX,
            Op::LoggingIn { .. } => MAX_PIPELINED - self.input.len(),
            _ => (self.max_line() + 1).saturating_sub(self.input.len()),
        }
    }

    /// Octets from the client.
    pub fn handle_input(&mut self, octets: &[u8]) {
        if self.is_authenticated() {
            self.input.extend_from_slice(octets);
        } else {
            append(&mut self.input, octets);
        }
    }

    /// The longest line that is taken now.
    fn max_line(&self) -> usize {
        match self.op {
            Op::Sasl { .. } => MAX_SASL_LINE,
            _ if self.is_authenticated() => self.bounds.line,
            // The initial response (RFC 4959) is a part of the exchange.
            Op::Ready if begins_authenticate(&self.input) => MAX_SASL_LINE,
            _ => self.bounds.line.min(MAX_STRANGERS),
        }
    }

    /// Octets of memory held for what came from the client.
    #[cfg(test)]
    fn held(&self) -> usize {
        let begun = match &self.op {
            Op::Collecting { command, literal, .. } => {
                let parts = command.segments.iter();
                let octets =
                    |part: &Segment| part.text.len() + part.literal.as_ref().map_or(0, |(octets, _)| octets.len());
                parts.map(octets).sum::<usize>() + literal.capacity()
            }
            Op::Sasl { exchange, .. } => exchange.held(),
            _ => 0,
        };
        self.input.capacity() + begun
    }

    /// The client will send no more; it may still be reading.
    pub fn handle_eof(&mut self) {
        self.eof = true;
    }

    /// TLS stands: whatever was sent before it is forgotten (RFC 9051 section 6.2.1).
    pub fn handle_tls(&mut self, front: Front, offered: Arc<str>) {
        self.input.clear();
        self.decoder = Decoder::default();
        self.front = front;
        self.offered = offered;
        self.op = Op::Ready;
    }

    /// Ends the session as soon as nothing runs, because of `reason`: [`End::Drain`] or [`End::Operator`].
    pub fn handle_drain(&mut self, reason: End) {
        self.draining = Some(reason);
        if self.is_idling() || matches!(self.op, Op::Collecting { .. } | Op::Sasl { .. } | Op::Refusing { .. }) {
            self.dismiss(reason);
        }
    }

    /// Ends the session now, at an administrator's wish: a command that runs is answered by `reply`.
    pub fn handle_closed(&mut self, reply: &str) {
        let remnant = self.remnant();
        self.answer_lost(reply);
        self.dismiss(End::Operator);
        self.remnant = remnant;
    }

    /// The session is somebody else's from here on: what the client is to be sent still, and what it has sent since.
    pub fn hand_over(&mut self) -> (Vec<Bytes>, Bytes) {
        self.op = Op::Over;
        let written = std::mem::take(&mut self.actions).into_iter().filter_map(|action| match action {
            Action::Write(octets) => Some(octets),
            _ => None,
        });
        (written.collect(), self.input.split().freeze())
    }

    /// Takes leave of a client who did nothing to deserve it, whatever it was about to do.
    pub fn dismiss(&mut self, reason: End) {
        let text = match reason {
            End::Operator => "[UNAVAILABLE] Session closed by the administrator",
            End::GaveWay => "[UNAVAILABLE] Too many connections that have not logged in; try again later",
            _ => "[UNAVAILABLE] Server shutting down",
        };
        self.bye(text, reason);
    }

    /// No command came for too long, or no login.
    pub fn handle_timeout(&mut self) {
        if self.is_authenticated() {
            self.bye("Disconnected for inactivity", End::IdleTimeout);
        } else {
            self.bye("Disconnected: no login in time", End::LoginTimeout);
        }
    }

    /// The backend has ended the connection of the selected mailbox, with these words: so does the session. A command
    /// that runs is answered by `reply`.
    pub fn handle_bye(&mut self, reply: &str, text: &[u8]) {
        self.answer_lost(reply);
        self.bye(&String::from_utf8_lossy(text), End::UpstreamLost);
    }

    /// The backend no longer accepts the login: ends the session.
    pub fn handle_revoked(&mut self) {
        self.answer_lost("NO [AUTHENTICATIONFAILED] The mail server no longer accepts this login.");
        self.bye("The mail server no longer accepts this login", End::UpstreamLost);
    }

    /// What to do next; `None`: wait for input, or for what was asked of the outside.
    pub fn poll(&mut self) -> Option<Action> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if !self.step() {
                break;
            }
        }
        if self.eof && self.takes_input() {
            self.close(End::ClientClosed);
            return self.actions.pop_front();
        }
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
        None
    }

    /// What goes on now is what the client says: without more from it, nothing does.
    fn takes_input(&self) -> bool {
        match self.op {
            Op::Ready | Op::Collecting { .. } | Op::Sasl { .. } | Op::Discarding | Op::Refusing { .. } => true,
            Op::Running { part, .. } => part.takes_input(),
            Op::LoggingIn { .. } | Op::StartingTls | Op::Over => false,
        }
    }

    /// Takes one step with the input at hand; false: nothing to do.
    fn step(&mut self) -> bool {
        if let (Op::Ready, Some(reason)) = (&self.op, self.draining) {
            self.dismiss(reason);
            return true;
        }
        if !self.takes_input() {
            return false;
        }
        let max_line = self.max_line();
        match self.decoder.decode(&mut self.input, max_line) {
            Ok(None) => return false,
            Ok(Some(Frame::Line(line))) => self.line(line),
            Ok(Some(Frame::Chunk { octets, .. })) => self.chunk(octets),
            Err(error) => self.unframed(error),
        }
        true
    }

    fn line(&mut self, line: Line) {
        match std::mem::replace(&mut self.op, Op::Ready) {
            Op::Ready => self.first_line(line),
            Op::Collecting { command, literal, binary, total } => {
                self.next_line(command, literal.freeze(), binary, total, line)
            }
            Op::Sasl { tag, exchange } => self.sasl_line(tag, exchange, &line),
            Op::Refusing { tag, reply } => {
                if let Some(literal) = line.literal {
                    self.skip_literal(literal);
                }
                self.write(reply_line(&tag, "", &reply));
            }
            Op::Running { tag, name, part } => self.running_line(tag, name, part, line),
            Op::Discarding => self.discarded_line(line),
            op @ (Op::LoggingIn { .. } | Op::StartingTls | Op::Over) => self.op = op,
        }
    }

    /// Nothing of a command that was answered before it ended is run. A synchronising literal in it will not come.
    fn discarded_line(&mut self, line: Line) {
        match line.literal {
            Some(literal) if literal.sync => self.decoder.cancel_literal(),
            Some(_) => self.op = Op::Discarding,
            None => {}
        }
    }

    fn first_line(&mut self, line: Line) {
        let head = match parse_head(&line.text) {
            Ok(head) => head,
            Err(error) => return self.bad_head(error, &line),
        };
        let command = Command {
            tag: self.own(line.text.slice(..head.tag_end)),
            name: head.name,
            segments: vec![Segment { text: self.own(line.text.slice(head.tag_end + 1..)), literal: None }],
        };
        match line.literal {
            None => self.command(command),
            Some(literal) if head.name.carries_message() && self.is_authenticated() => {
                // It goes on to the backend as it comes.
                self.run(command, Some(literal), Awaited::LiteralHeld { sync: literal.sync });
            }
            Some(literal) => {
                let total = if self.is_authenticated() { 0 } else { line.text.len() as u64 };
                self.collect(command, literal, total);
            }
        }
    }

    /// Before login, a copy: a slice would hold the whole buffer that the line came in.
    fn own(&self, text: Bytes) -> Bytes {
        if self.is_authenticated() { text } else { Bytes::copy_from_slice(&text) }
    }

    fn bad_head(&mut self, error: HeadError, line: &Line) {
        let tag_end = memchr::memchr(b' ', &line.text).unwrap_or(line.text.len());
        let tag = if error == HeadError::Command { line.text.slice(..tag_end) } else { Bytes::from_static(b"*") };
        if let Some(literal) = line.literal {
            self.skip_literal(literal);
        }
        self.bad(&tag, &error.to_string());
    }

    /// The command with this literal has been answered: what follows of it is thrown away.
    fn skip_literal(&mut self, literal: Literal) {
        if literal.sync {
            self.decoder.cancel_literal();
        } else {
            self.op = Op::Discarding;
        }
    }

    /// Collects a literal, unless the command gets too big by it; `total` is its size without the literal.
    fn collect(&mut self, command: Command, literal: Literal, total: u64) {
        let total = total.saturating_add(literal.len);
        let strangers = if self.is_authenticated() { usize::MAX } else { MAX_STRANGERS };
        let most = self.bounds.literals.min(strangers) as u64;
        if total > most {
            self.skip_literal(literal);
            self.no(&command.tag, "[TOOBIG] Literal too big");
            // What a client is about to send unasked has to be read to be thrown away: only so much of it.
            if !literal.sync && total > most * 16 {
                self.bye("[TOOBIG] Literal too big", End::ProtocolError);
            }
            return;
        }
        if literal.sync {
            self.write(Bytes::from_static(b"+ OK\r\n"));
        }
        self.op = Op::Collecting { command, literal: BytesMut::new(), binary: literal.binary, total };
    }

    fn next_line(&mut self, mut command: Command, literal: Bytes, binary: bool, total: u64, line: Line) {
        let total = total.saturating_add(line.text.len() as u64).saturating_add(SEGMENT_COST);
        if let Some(last) = command.segments.last_mut() {
            last.literal = Some((literal, binary));
        }
        command.segments.push(Segment { text: self.own(line.text), literal: None });
        match line.literal {
            Some(literal) => self.collect(command, literal, total),
            None => self.command(command),
        }
    }

    fn chunk(&mut self, octets: Bytes) {
        match &mut self.op {
            Op::Collecting { literal, .. } if self.state == State::NotAuthenticated => append(literal, &octets),
            Op::Collecting { literal, .. } => literal.extend_from_slice(&octets),
            Op::Running { part: Awaited::Literal { .. }, .. } => self.actions.push_back(Action::Send(octets)),
            _ => {}
        }
    }

    fn unframed(&mut self, error: FrameError) {
        let tag = match &self.op {
            Op::Collecting { command, .. } => command.tag.clone(),
            Op::Sasl { tag, .. } | Op::Refusing { tag, .. } => tag.clone(),
            // Unless its reply was given already.
            Op::Running { tag, part, .. } if *part != (Awaited::Literal { answered: true }) => tag.clone(),
            _ => Bytes::from_static(b"*"),
        };
        let code = if error == FrameError::TooLong { "[TOOBIG] " } else { "" };
        self.write(reply_line(&tag, "BAD ", &format!("{code}{error}")));
        // A line that cannot be framed has no end that one could go on after.
        self.bye(&format!("{code}{error}"), End::ProtocolError);
    }

    /// A whole command.
    fn command(&mut self, mut command: Command) {
        // What is answered here, or in a hub. To all else, the server says what it thinks of such a space.
        use Name::{Authenticate, Capability, Close, Id, Idle, Logout, StartTls, Unselect};
        if matches!(command.name, Authenticate | Capability | Close | Id | Idle | Logout | StartTls | Unselect) {
            command.trim_end();
        }
        match (command.name, self.state) {
            (Name::Capability | Name::Logout | Name::StartTls | Name::Idle, _) if !command.arguments().at_end() => {
                self.bad(&command.tag, "This command takes no arguments.");
            }
            (Name::Id, _) if !is_id_list(&command) => self.bad(&command.tag, "ID takes NIL or a list of strings."),
            (Name::Capability, _) => {
                self.write(format!("* CAPABILITY {}\r\n", self.offered));
                self.ok(&command.tag, "Capability completed.");
            }
            (Name::Logout, _) => {
                self.write(Bytes::from_static(b"* BYE Logging out\r\n"));
                self.ok(&command.tag, "Logout completed.");
                self.close(End::Logout);
            }
            (Name::Id, _) => {
                self.write(concat!("* ID (\"name\" \"imapool\" \"version\" \"", env!("CARGO_PKG_VERSION"), "\")\r\n"));
                self.ok(&command.tag, "ID completed.");
            }
            // With arguments it is none; servers differ in what they make of that.
            (Name::Noop, State::NotAuthenticated) => self.ok(&command.tag, "NOOP completed."),
            (Name::Noop, State::Authenticated) if command.arguments().at_end() => {
                self.ok(&command.tag, "NOOP completed.");
            }
            (Name::StartTls, State::NotAuthenticated) => self.start_tls(&command),
            (Name::Login, State::NotAuthenticated) => self.login(&command),
            (Name::Authenticate, State::NotAuthenticated) => self.authenticate(&command),
            (_, State::NotAuthenticated) => self.bad(&command.tag, "Log in first, or unknown command."),
            (Name::Login | Name::Authenticate | Name::StartTls, _) => self.bad(&command.tag, "Already logged in."),
            (Name::Compress | Name::Unauthenticate, _) => self.bad(&command.tag, "Unknown command."),
            _ => {
                let part = if command.name == Name::Idle { Awaited::DoneHeld } else { Awaited::Nothing };
                self.run(command, None, part);
            }
        }
    }

    fn start_tls(&mut self, command: &Command) {
        if !self.front.starttls {
            return self.bad(&command.tag, "TLS is not available here, or active already.");
        }
        self.ok(&command.tag, "Begin TLS negotiation now.");
        self.actions.push_back(Action::StartTls);
        self.input.clear();
        self.op = Op::StartingTls;
    }

    fn write(&mut self, octets: impl Into<Bytes>) {
        self.actions.push_back(Action::Write(octets.into()));
    }

    fn ok(&mut self, tag: &[u8], text: &str) {
        self.errors = 0;
        self.write(reply_line(tag, "OK ", text));
    }

    fn no(&mut self, tag: &[u8], text: &str) {
        self.write(reply_line(tag, "NO ", text));
    }

    /// A malformed command: after too many in a row, whoever sends them is not speaking IMAP.
    fn bad(&mut self, tag: &[u8], text: &str) {
        self.write(reply_line(tag, "BAD ", text));
        self.errors += 1;
        if self.errors >= MAX_ERRORS {
            self.bye("Too many malformed commands", End::ProtocolError);
        }
    }

    fn bye(&mut self, text: &str, end: End) {
        if !matches!(self.op, Op::Over) {
            self.write(format!("* BYE {text}\r\n"));
            self.close(end);
        }
    }

    fn close(&mut self, end: End) {
        self.remnant = self.remnant();
        self.op = Op::Over;
        self.actions.push_back(Action::Close(end));
    }
}

/// Grows by small steps: by itself, a buffer grows to twice its size.
fn append(buffer: &mut BytesMut, octets: &[u8]) {
    let needed = buffer.len() + octets.len();
    if needed > buffer.capacity() {
        let mut larger = BytesMut::with_capacity(needed.next_multiple_of(GROWTH));
        larger.extend_from_slice(buffer);
        *buffer = larger;
    }
    buffer.extend_from_slice(octets);
}

/// Whether a command begins like AUTHENTICATE, as far as it has come.
fn begins_authenticate(input: &[u8]) -> bool {
    let Some(tag_end) = memchr::memchr(b' ', &input[..input.len().min(MAX_TAG + 1)]) else { return false };
    let name = input[tag_end + 1..].split(|octet| *octet == b' ').next().unwrap_or_default();
    Name::parse(&name[..name.len().min(32)]) == Name::Authenticate
}

/// Whether the arguments are those of ID: `NIL`, or strings and NIL in parentheses (RFC 2971 section 3.1).
fn is_id_list(command: &Command) -> bool {
    let mut arguments = command.arguments();
    let Some(first) = arguments.word() else { return false };
    (first.eq_ignore_ascii_case(b"NIL") && arguments.at_end())
        || (first.starts_with(b"(") && command.segments.last().is_some_and(|last| last.text.ends_with(b")")))
}

/// A tagged reply (or, with `*` for a tag, an untagged one).
fn reply_line(tag: &[u8], status: &str, text: &str) -> Bytes {
    [tag, b" ", status.as_bytes(), text.as_bytes(), b"\r\n"].concat().into()
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
