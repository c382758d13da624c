//! From the greeting to an authenticated connection, line by line (RFC 9051 sections 3, 6.2 and 7.1): greeting,
//! STARTTLS, CAPABILITY, then LOGIN or AUTHENTICATE, and a first command, which shows that the session behind the
//! login works. No sockets, no clock.
//!
//! A refused credential leaves the connection as it was, for the next one to be tried on.

mod ahead;
mod alerts;
mod refusal;
#[cfg(test)]
mod tests;
mod ways;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde::Serialize;

pub use self::refusal::{Outcome, Refusal};
use self::refusal::{Parting, printable, text_of, trouble};
use self::ways::Said;
use crate::imap::MAX_WHOLE_LINE;
use crate::imap::capability::Capabilities;
use crate::imap::framer::Framer;
use crate::imap::phrases::{self, Meaning};
use crate::imap::response::{Kind, Status, StatusReply, split_tag, trim_line_end};
use crate::imap::sasl::{Credential, SecretKind};
use crate::imap::untagged::classify;

/// Whether imapool tells a backend by ID what it is (RFC 2971).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Identify {
    /// Where the backend offers ID.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Identify {
    /// The word for it in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Identify::Auto => "auto",
            Identify::Always => "always",
            Identify::Never => "never",
        }
    }
}

/// Octets that a backend may say until a step is over.
const MAX_HEARD: usize = 256 * 1024;

/// Why a connection cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// `* BYE`, with its text.
    #[error("the backend said goodbye: {0}")]
    Bye(String),
    /// Already logged in: nothing could be verified, nor secured (RFC 9051 section 7.1.4).
    #[error("the backend greets with PREAUTH: imapool has to log in itself, on another port of it")]
    PreAuth,
    /// STARTTLS is configured, and the backend has it not.
    #[error("the backend offers no STARTTLS, which backend.tls demands: {0}")]
    NoStartTls(String),
    /// No way to say the credential to this backend as it is secured.
    #[error("the backend offers no way to log in with this kind of credential (LOGINDISABLED: set backend.tls?)")]
    NoMechanism,
    /// Not IMAP.
    #[error("the backend does not speak IMAP: unexpected {0:?}")]
    Unexpected(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Waiting {
    #[default]
    Greeting,
    StartTls,
    Capability,
    Nothing,
    Probe,
    Verdict,
    Trial,
    Over,
}

/// What a command is for that follows the OK to a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// What is offered now.
    Capability,
    /// Who imapool is; the answer does not matter.
    Id,
    /// Whether there is a mailbox behind the login.
    Inbox,
    /// The same of a server that refuses STATUS for whatever reason.
    Examined,
    /// The mailbox is left.
    Left,
    /// The same of one that says that there is no INBOX.
    Proof,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Login {
    starttls: bool,
    /// The other side is a replica: it has found out itself what a login is worth, and its words are the client's.
    relays: bool,
    identify: Identify,
    next_tag: u64,
    waiting: Waiting,
    capabilities: Arc<Capabilities>,
    /// Capabilities told since the login began.
    news: Option<Capabilities>,
    /// What goes out when the backend asks for it, last first: octets of literals with what follows, or SASL messages.
    held: Vec<Bytes>,
    /// The same LOGIN without literals, for servers that know none there.
    unasked: Option<Bytes>,
    /// By what kind of secret AUTHENTICATE goes; `None`: it is LOGIN.
    sasl: Option<SecretKind>,
    /// A login was begun before the greeting has come.
    ahead: bool,
    challenge: Option<String>,
    /// A BYE that came in place of the answer to the credential, or before it.
    bye: Option<Parting>,
    /// Commands that follow the login, by the number of their tag.
    trial: Vec<(u64, Trial)>,
    alerts: Vec<String>,
    framer: Framer,
    heard: usize,
    output: BytesMut,
}

impl Login {
    /// A connection just made (and secured, if TLS is implicit); `starttls`: STARTTLS must come before anything.
    #[must_use]
    pub fn new(starttls: bool, identify: Identify) -> Self {
        Self { starttls, identify, ..Self::default() }
    }

    /// A connection to a replica, on which one session goes through: what it says to a credential goes to the client as
    /// it is, and the session begins with its OK.
    #[must_use]
    pub fn relayed(starttls: bool) -> Self {
        Self { starttls, relays: true, identify: Identify::Never, ..Self::default() }
    }

    /// What the backend offers now.
    pub fn capabilities(&self) -> &Arc<Capabilities> {
        &self.capabilities
    }

    /// How many tags were used.
    pub fn next_tag(&self) -> u64 {
        self.next_tag
    }

    /// Nobody is logged in, nothing is under way, and the backend has not said goodbye.
    pub fn is_ready(&self) -> bool {
        self.waiting == Waiting::Nothing && self.bye.is_none()
    }

    /// What the backend wants the user to see (RFC 9051 section 7.1, ALERT) since the login began: `OK [ALERT] …`,
    /// safe to be sent on. They are told once.
    pub fn take_alerts(&mut self) -> Vec<String> {
        std::mem::take(&mut self.alerts)
    }

    /// What is to be sent. It may hold secrets.
    pub fn poll_transmit(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    /// Whether something is to be sent.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// TLS stands.
    pub fn handle_tls(&mut self) {
        self.starttls = false;
        self.send("CAPABILITY", Waiting::Capability);
    }

    /// Tells the backend for whom a login is, which it may believe (Dovecot: `login_trusted_networks`); ends in
    /// [`Outcome::Ready`]. False: the backend knows no ID (RFC 2971).
    pub fn introduce(&mut self, client: IpAddr) -> bool {
        let knows = self.capabilities.has("ID");
        if knows {
            self.send(&format!("ID (\"x-originating-ip\" \"{}\")", client.to_canonical()), Waiting::Probe);
        }
        knows
    }

    /// Asks for a sign of life; ends in [`Outcome::Ready`].
    pub fn probe(&mut self) {
        self.send("NOOP", Waiting::Probe);
    }

    /// Begins to log in; after [`Outcome::Ready`], or after a refusal.
    ///
    /// # Errors
    /// [`LoginError::NoMechanism`]; the connection is as good as before.
    pub fn start(&mut self, credential: &Credential) -> Result<(), LoginError> {
        let said = ways::say(&self.capabilities, credential).ok_or(LoginError::NoMechanism)?;
        self.waiting = Waiting::Verdict;
        self.news = None;
        self.challenge = None;
        self.alerts.clear();
        self.heard = 0;
        self.begin(said, credential);
        Ok(())
    }

    fn begin(&mut self, said: Said, credential: &Credential) {
        self.sasl = said.sasl.then(|| credential.mechanism.kind());
        self.held = said.held;
        self.unasked = said.unasked;
        self.put(&said.first);
    }

    /// Takes whole lines off the front of `input` until a step is over. `None`: more must come.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn handle_input(&mut self, input: &mut BytesMut) -> Result<Option<Outcome>, LoginError> {
        loop {
            if self.framer.in_literal() {
                let octets = self.framer.take(input);
                input.advance(octets);
                self.hear(octets)?;
                if self.framer.in_literal() {
                    return Ok(None);
                }
            }
            let end = memchr::memchr(b'\n', input).map(|at| at + 1);
            if end.unwrap_or(input.len()) > MAX_WHOLE_LINE {
                return Err(LoginError::Unexpected("a line without end".into()));
            }
            let Some(end) = end else { return Ok(None) };
            self.hear(end)?;
            let line = input.split_to(end);
            if let Some(outcome) = self.handle_line(&line)? {
                return Ok(Some(outcome));
            }
        }
    }

    fn hear(&mut self, octets: usize) -> Result<(), LoginError> {
        self.heard = self.heard.saturating_add(octets);
        if self.heard > MAX_HEARD {
            return Err(LoginError::Unexpected("more than belongs to a login".into()));
        }
        Ok(())
    }

    /// A line, line end included.
    fn handle_line(&mut self, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        let kind = classify(line).kind;
        let continued = !self.framer.at_line_start();
        // What is no reply at all says nothing, unless it stands where the end of a command of ours should be told.
        if !continued && matches!(kind, Kind::Stray { .. }) && self.is_ours(split_tag(line).0) {
            return Err(unexpected(line));
        }
        if !continued {
            self.framer.begin(kind);
        }
        self.framer.take(line);
        if continued || kind.may_end_in_literal() {
            // What data says does not matter here, but where it ends does.
            let is_wrong = self.framer.left() > MAX_HEARD as u64 || self.waiting == Waiting::Greeting;
            return if is_wrong { Err(unexpected(line)) } else { Ok(None) };
        }
        match kind {
            Kind::Status(Status::Bye) => self.goodbye(line),
            Kind::Status(status) if self.waiting == Waiting::Greeting => self.greeting(status, line),
            _ if self.waiting == Waiting::Greeting => Err(unexpected(line)),
            Kind::Status(_) => {
                if let Some(reply) = StatusReply::parse(&line[1..])
                    && matches!(self.waiting, Waiting::Verdict | Waiting::Trial)
                {
                    alerts::note(&mut self.alerts, &reply);
                }
                Ok(None)
            }
            Kind::Capability => {
                let words = trim_line_end(line);
                self.news = Some(Capabilities::parse(&words[words.len().min("* CAPABILITY".len())..]));
                Ok(None)
            }
            Kind::Tagged => self.tagged(line),
            Kind::Continuation => self.continuation(line),
            _ => Ok(None),
        }
    }

    fn is_ours(&self, tag: &[u8]) -> bool {
        is_tag(tag, self.next_tag.wrapping_sub(1)) || self.trial.iter().any(|(number, _)| is_tag(tag, *number))
    }

    /// The answer to a credential may still follow a BYE.
    fn goodbye(&mut self, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        let text = text_of(&line[1..]);
        match self.waiting {
            Waiting::Trial => Ok(Some(self.not_connected(text))),
            Waiting::Verdict => {
                self.bye = Some(Parting::new(&line[1..], text));
                Ok(None)
            }
            _ => Err(LoginError::Bye(text)),
        }
    }

    /// The connection has ended, or nothing more is waited for, for the reason `why`. What that means for the
    /// credential that was sent, if it can be told.
    pub fn handle_end(&mut self, why: &str) -> Option<Outcome> {
        match self.waiting {
            Waiting::Trial => Some(self.not_connected(why.to_owned())),
            Waiting::Verdict => {
                self.waiting = Waiting::Over;
                self.bye.as_ref().and_then(|bye| bye.outcome.clone())
            }
            _ => None,
        }
    }

    /// The backend's last words, if it said goodbye in place of an answer.
    pub fn last_words(&self) -> Option<&str> {
        self.bye.as_ref().map(|bye| &*bye.text)
    }

    fn not_connected(&mut self, words: String) -> Outcome {
        self.waiting = Waiting::Over;
        Outcome::NotConnected(words)
    }

    fn greeting(&mut self, status: Status, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        match status {
            Status::Ok => {}
            Status::PreAuth => return Err(LoginError::PreAuth),
            _ => return Err(unexpected(line)),
        }
        if self.starttls {
            // Whether it is offered cannot be trusted before TLS stands; whether it works can.
            self.send("STARTTLS", Waiting::StartTls);
            return Ok(None);
        }
        // The greeting of a replica tells all of them; that of others may tell some, too (Cyrus).
        match StatusReply::parse(&line[1..]).and_then(|reply| reply.capabilities()).filter(|_| self.relays) {
            Some(told) if self.capabilities.is_told_by(told) => {}
            Some(told) => self.capabilities = Capabilities::parse(told).into(),
            None if self.ahead => {}
            None => {
                self.send("CAPABILITY", Waiting::Capability);
                return Ok(None);
            }
        }
        self.waiting = if std::mem::take(&mut self.ahead) { Waiting::Verdict } else { Waiting::Nothing };
        self.heard = 0;
        Ok(Some(Outcome::Ready))
    }

    fn tagged(&mut self, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        let (tag, rest) = split_tag(line);
        let reply = StatusReply::parse(rest)
            .filter(|reply| matches!(reply.status, Status::Ok | Status::No | Status::Bad))
            .ok_or_else(|| unexpected(line))?;
        if self.waiting == Waiting::Trial {
            let at = self.trial.iter().position(|(number, _)| is_tag(tag, *number)).ok_or_else(|| unexpected(line))?;
            let (_, trial) = self.trial.remove(at);
            return Ok(self.tried(trial, &reply));
        }
        if !is_tag(tag, self.next_tag.wrapping_sub(1)) {
            return Err(unexpected(line));
        }
        let ok = reply.status == Status::Ok;
        match self.waiting {
            Waiting::StartTls if ok => {
                self.waiting = Waiting::Over;
                Ok(Some(Outcome::StartTls))
            }
            Waiting::StartTls => Err(LoginError::NoStartTls(text_of(rest))),
            Waiting::Capability if ok => {
                self.capabilities = self.news.take().ok_or_else(|| unexpected(line))?.into();
                self.waiting = Waiting::Nothing;
                Ok(Some(Outcome::Ready))
            }
            // Whatever it thinks of that.
            Waiting::Probe => {
                self.waiting = Waiting::Nothing;
                Ok(Some(Outcome::Ready))
            }
            Waiting::Verdict if ok => Ok(self.accepted(&reply)),
            Waiting::Verdict => Ok(self.refused(&reply)),
            _ => Err(unexpected(line)),
        }
    }

    fn refused(&mut self, reply: &StatusReply<'_>) -> Option<Outcome> {
        let unheard = !std::mem::take(&mut self.held).is_empty();
        if let Some(without_literals) = self.unasked.take().filter(|_| unheard && reply.status == Status::Bad) {
            self.put(&without_literals);
            return None;
        }
        self.waiting = Waiting::Nothing;
        let meaning = phrases::meaning(reply).filter(|_| !self.relays);
        if let Some(trouble) = meaning.and_then(|meaning| trouble(meaning, &printable(reply.text))) {
            alerts::note(&mut self.alerts, reply);
            return Some(trouble);
        }
        Some(Outcome::Refused(Refusal::verbatim(reply, self.challenge.take())))
    }

    /// The backend says OK to the credential. Some say so to whatever they are shown, and refuse what follows: only
    /// then do they ask whoever knows.
    fn accepted(&mut self, reply: &StatusReply<'_>) -> Option<Outcome> {
        self.held.clear();
        self.unasked = None;
        alerts::note(&mut self.alerts, reply);
        if let Some(bye) = self.bye.take() {
            return Some(self.not_connected(bye.text));
        }
        let offered_id = self.capabilities.has("ID");
        let told = reply.capabilities().map(Capabilities::parse).or_else(|| self.news.take());
        self.news = None;
        self.waiting = Waiting::Trial;
        match told {
            Some(capabilities) => self.capabilities = capabilities.into(),
            None => self.try_out("CAPABILITY", Trial::Capability),
        }
        if self.relays {
            return self.trial.is_empty().then(|| self.is_over());
        }
        match self.identify {
            Identify::Auto if offered_id || self.capabilities.has("ID") => self.say_who(),
            Identify::Always => self.say_who(),
            Identify::Auto | Identify::Never => {}
        }
        self.prove();
        None
    }

    /// A harmless command that needs the mailbox: some servers answer all others before they know whose it is.
    fn prove(&mut self) {
        self.try_out("STATUS INBOX (UIDNEXT)", Trial::Inbox);
    }

    /// A command that any session takes, whatever there is in its mailboxes.
    fn prove_otherwise(&mut self) {
        let harmless = if self.capabilities.has("NAMESPACE") { "NAMESPACE" } else { "LIST \"\" \"\"" };
        self.try_out(harmless, Trial::Proof);
    }

    fn say_who(&mut self) {
        // Once is enough.
        self.identify = Identify::Never;
        let version = env!("CARGO_PKG_VERSION");
        self.try_out(&format!("ID (\"name\" \"imapool\" \"version\" \"{version}\")"), Trial::Id);
    }

    fn try_out(&mut self, command: &str, trial: Trial) {
        self.trial.push((self.next_tag, trial));
        self.put(format!("{command}\r\n").as_bytes());
    }

    fn tried(&mut self, trial: Trial, reply: &StatusReply<'_>) -> Option<Outcome> {
        let ok = reply.status == Status::Ok;
        match trial {
            Trial::Id => {}
            Trial::Inbox | Trial::Left | Trial::Proof if ok => {}
            Trial::Examined if ok => self.try_out("CLOSE", Trial::Left),
            Trial::Capability if ok => match self.news.take() {
                Some(capabilities) => self.capabilities = capabilities.into(),
                None => return Some(self.not_connected("CAPABILITY tells nothing".into())),
            },
            Trial::Inbox | Trial::Proof
                if self.identify == Identify::Auto && phrases::meaning(reply) == Some(Meaning::NeedsId) =>
            {
                self.say_who();
                self.prove();
            }
            Trial::Inbox | Trial::Examined if phrases::says_no_mailbox(reply) => self.prove_otherwise(),
            _ if phrases::meaning(reply) == Some(Meaning::Limit) => {
                self.waiting = Waiting::Over;
                return Some(Outcome::Limit(printable(reply.text)));
            }
            // Whoever may not read it may be told otherwise by a command that is to open it, and by no other.
            Trial::Inbox if !phrases::says_not_connected(reply) && !phrases::refuses_by_code(reply) => {
                self.try_out("EXAMINE INBOX", Trial::Examined);
            }
            Trial::Inbox | Trial::Examined | Trial::Left | Trial::Proof | Trial::Capability => {
                return Some(self.not_connected(printable(reply.text)));
            }
        }
        if self.trial.is_empty() && self.identify == Identify::Auto && self.capabilities.has("ID") {
            // That it is offered was told only now.
            self.say_who();
        }
        self.trial.is_empty().then(|| self.is_over())
    }

    fn is_over(&mut self) -> Outcome {
        self.waiting = Waiting::Over;
        Outcome::Accepted
    }

    fn continuation(&mut self, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        let (held, awaited) = (self.held.pop(), self.waiting == Waiting::Verdict);
        match (held, self.sasl.filter(|_| awaited)) {
            (Some(part), _) if awaited => self.output.put_slice(&part),
            // Nothing more to say: abort.
            (None, Some(SecretKind::Password)) => self.output.put_slice(b"*\r\n"),
            (None, Some(kind)) => {
                let text = trim_line_end(line).strip_prefix(b"+ ").unwrap_or_default();
                if text.iter().all(|b| b.is_ascii_graphic()) {
                    self.challenge = std::str::from_utf8(text).ok().map(str::to_owned);
                }
                self.output.put_slice(if kind == SecretKind::XOAuth2 { b"\r\n" } else { b"AQ==\r\n" });
            }
            _ => return Err(unexpected(line)),
        }
        Ok(None)
    }

    fn send(&mut self, command: &str, waiting: Waiting) {
        self.news = None;
        self.heard = 0;
        self.waiting = waiting;
        self.put(format!("{command}\r\n").as_bytes());
    }

    /// Sends this under the next tag.
    fn put(&mut self, command: &[u8]) {
        self.output.put_slice(format!("i{:x} ", self.next_tag).as_bytes());
        self.next_tag += 1;
        self.output.put_slice(command);
    }
}

fn is_tag(tag: &[u8], number: u64) -> bool {
    tag == format!("i{number:x}").as_bytes()
}

fn unexpected(line: &[u8]) -> LoginError {
    LoginError::Unexpected(printable(&line[..line.len().min(100)]))
}
