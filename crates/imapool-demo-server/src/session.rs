//! One connection: reads whole commands, lets faults happen, writes replies.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;

use super::Shared;
use super::commands::Refusal;
use super::options::{Event, Fault, Kill, Stage};
use super::parse::Parser;
use super::personality::{Death, Step};
use super::reply::Reply;
use super::store::Account;
use super::view::View;

/// Octets of a command without its literals.
const LINE_LIMIT: usize = 64 << 10;
/// Octets of all literals of a command that is no APPEND.
const LITERAL_LIMIT: usize = 1 << 20;
/// Octets of a literal that is not waited for, where only LITERAL- is offered (RFC 7888 section 5).
const LITERAL_MINUS: usize = 4096;
/// Octets of a command before login.
const LOGIN_LIMIT: usize = 16 << 10;
/// How long a closing connection is read on for the client's FIN.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed, or the socket failed.
    Closed,
    /// All was said: FIN.
    Finished,
    /// LOGOUT was answered.
    LoggedOut,
    /// RST.
    Reset,
    /// Ended from outside.
    Killed(Kill),
}

/// What a connection runs over: a socket, or memory.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {
    /// Has the end be a reset instead of a FIN, where there is such a thing.
    fn reset_at_end(&self);
}

impl Wire for TcpStream {
    fn reset_at_end(&self) {
        // Where lingering cannot be set, the close is a FIN.
        let _fin = self.set_zero_linger();
    }
}

impl Wire for DuplexStream {
    fn reset_at_end(&self) {}
}

/// Goes on, or the connection ends.
pub(super) type Flow<T> = Result<T, End>;

/// One connection's state.
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) conn: u64,
    pub(super) account: Option<Arc<Account>>,
    pub(super) view: Option<View>,
    pub(super) enabled: BTreeSet<String>,
    /// The tag of the command that runs.
    pub(super) tag: String,
    /// ID was sent after login.
    pub(super) identified: bool,
    /// The login was answered with OK, and nothing else will be.
    pub(super) not_connected: bool,
    /// FETCH replies have MODSEQ (RFC 7162 section 3.1).
    pub(super) condstore: bool,
    stream: Box<dyn Wire>,
    address: SocketAddr,
    buffer: BytesMut,
    commands: u64,
    /// Octets that may still be written, by a fault.
    cut: Option<usize>,
    writing: bool,
}

/// A command as it was read.
pub(super) struct Command {
    pub(super) tag: String,
    pub(super) verb: String,
    /// After the verb.
    pub(super) rest: Parser,
}

impl Command {
    /// The user that LOGIN names.
    fn user(&self) -> Option<String> {
        let mut rest = self.rest.clone();
        let user = rest.space().and_then(|()| rest.astring()).ok()?;
        String::from_utf8(user.into()).ok()
    }
}

/// What reading came to.
enum Read {
    Command(Command),
    /// The command was refused while it was read.
    Refused {
        tag: String,
        refusal: Refusal,
    },
}

/// A literal's announcement at the end of a line.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    size: usize,
    synchronising: bool,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, stream: Box<dyn Wire>, address: SocketAddr, conn: u64) -> Self {
        Self {
            shared,
            conn,
            account: None,
            view: None,
            enabled: BTreeSet::new(),
            tag: String::new(),
            identified: false,
            not_connected: false,
            condstore: false,
            stream,
            address,
            buffer: BytesMut::new(),
            commands: 0,
            cut: None,
            writing: false,
        }
    }

    /// Serves the connection until it ends.
    pub(super) async fn run(&mut self) -> End {
        if let Err(end) = self.greet().await {
            return end;
        }
        loop {
            if let Err(end) = self.step().await {
                return end;
            }
        }
    }

    async fn greet(&mut self) -> Flow<()> {
        let mut out = Reply::default();
        let offered = &self.shared.options.capabilities;
        let code = if offered.in_greeting { format!("[CAPABILITY {}] ", offered.before) } else { String::new() };
        out.untagged(&self.marked(&format!("OK {code}{}", self.shared.options.words.greeting)));
        let fault = self.fault(Stage::Greeting, "", None);
        if self.misbehave(fault, "*", &mut Reply::default()).await? {
            self.send(out).await?;
        }
        Ok(())
    }

    /// One command and its reply.
    async fn step(&mut self) -> Flow<()> {
        let mut out = Reply::with(&self.shared.options.quirks);
        let was_there = self.account.is_some();
        let (tag, result) = match self.read_command().await? {
            Read::Refused { tag, refusal } => (tag, Err(refusal)),
            Read::Command(command) => {
                let fault = self.fault(Stage::Command, &command.verb, Some(&command));
                if !self.misbehave(fault, &command.tag, &mut out).await? {
                    return Ok(());
                }
                let delay = self.shared.options.command_delay;
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                let (tag, verb) = (command.tag.clone(), command.verb.clone());
                let result = self.execute(command, &mut out).await?;
                self.remark(&verb, &mut out);
                (tag, result)
            }
        };
        self.finish(&tag, result, &mut out);
        self.send(out).await?;
        if !was_there && self.account.is_some() { self.after_login().await } else { Ok(()) }
    }

    /// What this kind of server says besides.
    fn remark(&self, verb: &str, out: &mut Reply) {
        let quirks = &self.shared.options.quirks;
        let Some(account) = self.account.as_ref().filter(|a| quirks.befall(Some(&a.user))) else { return };
        let mut remarks = quirks.remarks.iter().filter(|remark| remark.suits(verb)).peekable();
        if remarks.peek().is_some_and(|remark| remark.instead) {
            *out = Reply::with(quirks);
        }
        for remark in remarks {
            out.text(&remark.line.replace("TAG", &self.tag).replace("USER", &account.user)).text("\r\n");
        }
    }

    /// A server that dies once it has answered the login.
    async fn after_login(&mut self) -> Flow<()> {
        let quirks = &self.shared.options.quirks;
        let user = self.account.as_ref().map(|account| account.user.as_str());
        match quirks.dies {
            Some(Death { at: Step::AfterLogin, bye }) if quirks.befall(user) => {
                Err(if bye { self.bye_words().await } else { End::Finished })
            }
            _ => Ok(()),
        }
    }

    /// The tagged reply.
    pub(super) fn finish(&self, tag: &str, result: Result<String, Refusal>, out: &mut Reply) {
        let text = match result {
            Ok(text) => format!("OK {text}{}", self.shared.options.words.suffix),
            Err(Refusal::No(text)) => format!("NO {text}"),
            Err(Refusal::Bad(text)) => {
                self.shared.counting.bad.fetch_add(1, Ordering::Relaxed);
                format!("BAD {text}")
            }
        };
        out.text(tag).text(" ").text(&self.marked(&text)).text("\r\n");
    }

    /// The text with this connection's marker, where the options ask for one.
    pub(super) fn marked(&self, text: &str) -> String {
        if !self.shared.options.marker {
            return text.to_owned();
        }
        let user = self.account.as_ref().map_or("-", |a| a.user.as_str());
        let mut marked = format!("{text} acct={user} conn={}", self.conn);
        if !self.enabled.is_empty() {
            let enabled: Vec<_> = self.enabled.iter().map(String::as_str).collect();
            marked.push_str(&format!(" enabled={}", enabled.join(",")));
        }
        marked
    }

    /// What this kind of server does to its connections at this moment.
    fn own_fault(&self, stage: Stage, verb: &str, command: Option<&Command>) -> Fault {
        let quirks = &self.shared.options.quirks;
        if quirks.dies.is_none() {
            return Fault::None;
        }
        let asked = command.filter(|command| command.verb == "LOGIN").and_then(Command::user);
        let user = self.account.as_ref().map(|a| a.user.as_str()).or(asked.as_deref());
        quirks.fault(user, stage, verb)
    }

    /// What goes wrong at this moment: of this kind of server's own doing, or of the caller's.
    fn fault(&self, stage: Stage, verb: &str, command: Option<&Command>) -> Fault {
        let own = self.own_fault(stage, verb, command);
        let Some(hook) = self.shared.options.faults.as_ref().filter(|_| own == Fault::None) else { return own };
        let user = self.account.as_ref().map(|a| a.user.as_str());
        hook(&Event { conn: self.conn, user, address: self.address, stage, command: self.commands, verb })
    }

    /// Does what the fault says; whether the command is to run after it.
    async fn misbehave(&mut self, fault: Fault, tag: &str, out: &mut Reply) -> Flow<bool> {
        let mut instead = Reply::default();
        match fault {
            Fault::None => return Ok(true),
            Fault::CloseBefore => return Err(End::Finished),
            Fault::ResetBefore => return Err(End::Reset),
            Fault::CloseMidReply(octets) => {
                self.cut = Some(octets);
                return Ok(true);
            }
            Fault::DelayMs(ms) => {
                tokio::time::sleep(Duration::from_millis(ms)).await;
                return Ok(true);
            }
            Fault::Untagged(text) => {
                out.untagged(&text);
                return Ok(true);
            }
            Fault::Silence => loop {
                self.buffer.clear();
                self.fill().await?;
            },
            Fault::ByeThenClose => {
                return Err(self.bye_words().await);
            }
            Fault::Garbage(octets) => instead.raw(&octets),
            Fault::Tagged(text) => instead.text(tag).text(" ").text(&self.marked(&text)).text("\r\n"),
        };
        self.send(instead).await?;
        Ok(false)
    }

    /// Writes all of it, or as much as a fault lets through.
    pub(super) async fn send(&mut self, reply: Reply) -> Flow<()> {
        self.writing = true;
        for mut part in reply.into_parts() {
            if let Some(left) = &mut self.cut {
                part.truncate(*left);
                *left -= part.len();
            }
            while part.has_remaining() {
                self.stream.write_buf(&mut part).await.map_err(|_| End::Closed)?;
            }
            if self.cut == Some(0) {
                return Err(End::Finished);
            }
        }
        self.writing = false;
        // The reply was shorter than the fault's point.
        if self.cut.is_some() { Err(End::Finished) } else { Ok(()) }
    }

    /// Closes the socket in the way the end asks for.
    pub(super) async fn close(mut self, end: End) {
        let grace = self.shared.options.logout_grace;
        match end {
            End::Reset | End::Killed(Kill::Reset) => {
                self.stream.reset_at_end();
                return;
            }
            End::Killed(Kill::Bye) if !self.writing => {
                let mut out = Reply::default();
                out.untagged(&self.marked(&format!("BYE {}", self.shared.options.words.bye)));
                // The connection ends whether or not the client hears of it.
                let _unheard = tokio::time::timeout(CLOSE_TIMEOUT, self.send(out)).await;
            }
            End::LoggedOut if !grace.is_zero() && tokio::time::timeout(grace, self.until_closed()).await.is_ok() => {
                return;
            }
            _ => {}
        }
        if end != End::Closed && self.stream.shutdown().await.is_ok() {
            // Unread octets would turn the FIN into a reset and could cost the client our last reply.
            let _late = tokio::time::timeout(CLOSE_TIMEOUT, self.until_closed()).await;
        }
    }

    async fn until_closed(&mut self) {
        loop {
            self.buffer.clear();
            if self.fill().await.is_err() {
                return;
            }
        }
    }

    async fn fill(&mut self) -> Flow<()> {
        self.buffer.reserve(4096);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => Err(End::Closed),
            Ok(_) => Ok(()),
        }
    }

    /// One line with its end; safe to cancel. A line above the limit ends the connection.
    pub(super) async fn read_line(&mut self, limit: usize) -> Flow<BytesMut> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                return Ok(self.buffer.split_to(searched + at + 1));
            }
            searched = self.buffer.len();
            if searched > limit {
                return Err(self.bye("BYE Line too long.").await);
            }
            self.fill().await?;
        }
    }

    /// Says BYE; the end to return.
    async fn bye(&mut self, text: &str) -> End {
        self.shared.counting.bad.fetch_add(1, Ordering::Relaxed);
        let mut out = Reply::default();
        out.untagged(&self.marked(text));
        self.send(out).await.err().unwrap_or(End::Finished)
    }

    /// Says BYE in this server's words; the end to return.
    async fn bye_words(&mut self) -> End {
        let mut out = Reply::default();
        out.untagged(&self.marked(&format!("BYE {}", self.shared.options.words.bye)));
        self.send(out).await.err().unwrap_or(End::Finished)
    }

    /// One command with its literals.
    async fn read_command(&mut self) -> Flow<Read> {
        let mut command = BytesMut::new();
        let mut literals = 0;
        loop {
            let limit = if self.account.is_some() { LINE_LIMIT } else { LOGIN_LIMIT };
            let line = self.read_line(limit).await?;
            let announced = literal_at_end(&line);
            command.unsplit(line);
            if command.len() - literals > LINE_LIMIT {
                return Err(self.bye("BYE Command too long.").await);
            }
            let Some(Announced { size, synchronising }) = announced else { break };
            let (tag, verb, rest) = head(&command.clone().freeze());
            let fault = self.fault(Stage::Literal, &verb, None);
            if !self.misbehave(fault, &tag, &mut Reply::default()).await? {
                return Err(End::Finished);
            }
            if let Some(refusal) = self.refuses_literal(&verb, rest, literals.saturating_add(size)) {
                if synchronising {
                    self.count_command();
                    return Ok(Read::Refused { tag, refusal });
                }
                return Err(self.bye("BYE Literal too large, or to no mailbox.").await);
            }
            if synchronising {
                let mut out = Reply::default();
                out.text("+ ").text(&self.marked("Ready for literal")).text("\r\n");
                self.send(out).await?;
            } else if !(self.offers("LITERAL+") || self.offers("LITERAL-") && size <= LITERAL_MINUS) {
                return Err(self.bye("BYE LITERAL+ was not offered.").await);
            }
            self.read_literal(&mut command, size).await?;
            literals += size;
        }
        self.count_command();
        let (tag, verb, rest) = head(&command.freeze());
        if tag.is_empty() {
            return Ok(Read::Refused { tag: "*".into(), refusal: Refusal::bad("no tag") });
        }
        Ok(Read::Command(Command { tag, verb, rest }))
    }

    fn count_command(&mut self) {
        self.commands += 1;
        self.shared.counting.commands.fetch_add(1, Ordering::Relaxed);
    }

    async fn read_literal(&mut self, command: &mut BytesMut, size: usize) -> Flow<()> {
        let end = command.len() + size;
        loop {
            let wanted = end - command.len();
            let got = self.buffer.split_to(wanted.min(self.buffer.len()));
            command.extend_from_slice(&got);
            if command.len() == end {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Why a literal of this command is not wanted, if it is not.
    fn refuses_literal(&self, verb: &str, rest: Parser, size: usize) -> Option<Refusal> {
        let limit = match (&self.account, verb) {
            (None, _) => LOGIN_LIMIT,
            (Some(_), "APPEND") => self.shared.options.append_limit,
            _ => LITERAL_LIMIT,
        };
        if size > limit {
            return Some(Refusal::No("[TOOBIG] Literal too large.".into()));
        }
        if verb == "APPEND" { self.refuses_append(rest) } else { None }
    }

    /// The refusal of what is not known, or not offered.
    pub(super) fn unknown(&self) -> Refusal {
        Refusal::of(self.shared.options.words.unknown)
    }

    /// Whether the extension is offered in the present state; only then it is understood.
    pub(super) fn offers(&self, name: &str) -> bool {
        let offered = &self.shared.options.capabilities;
        let list = if self.account.is_some() { &offered.after } else { &offered.before };
        list.split(' ').any(|c| c.eq_ignore_ascii_case(name))
    }
}

/// Tag, verb (with UID's) and the rest; empty where they are missing.
fn head(command: &Bytes) -> (String, String, Parser) {
    let mut p = Parser::new(command.clone());
    let mut read = || {
        let tag = p.tag()?;
        let verb = p.space().and_then(|()| p.keyword()).unwrap_or_default();
        if verb != "UID" {
            return Ok((tag, verb));
        }
        let verb = p.space().and_then(|()| p.keyword()).map_or(verb, |second| format!("UID {second}"));
        Ok::<_, super::parse::ParseError>((tag, verb))
    };
    let (tag, verb) = read().unwrap_or_default();
    (tag, verb, p)
}

/// The literal a line announces, unless that stands within an open quote.
fn literal_at_end(line: &[u8]) -> Option<Announced> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let inner = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let (before, digits) = (&line[..open], &inner[open + 1..]);
    let (digits, synchronising) = match digits.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (digits, true),
    };
    let mut quoted = false;
    let mut octets = before.iter();
    while let Some(b) = octets.next() {
        match b {
            b'\\' if quoted => drop(octets.next()),
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    if quoted || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = std::str::from_utf8(digits).ok()?.parse().unwrap_or(usize::MAX);
    Some(Announced { size, synchronising })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_seen_only_where_they_are() {
        let found = |line: &[u8]| literal_at_end(line).map(|a| (a.size, a.synchronising));
        assert_eq!(found(b"a LOGIN {3}\r\n"), Some((3, true)));
        assert_eq!(found(b"a LOGIN \"x\\\"\" {3+}\n"), Some((3, false)));
        assert_eq!(found(b"a LOGIN ~{0}\r\n"), Some((0, true)));
        assert_eq!(found(b"a LOGIN {99999999999999999999999}\r\n"), Some((usize::MAX, true)));
        for line in [&b"a LOGIN \"{3}\r\n"[..], b"a {}\r\n", b"a {-1}\r\n", b"a {3} \r\n", b"a 3}\r\n", b"a {3}"] {
            assert_eq!(found(line), None, "{line:?}");
        }
    }
}
