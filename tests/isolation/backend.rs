//! An IMAP server which says of every octet whose it is, and which misbehaves as the commands' [`Plan`]s want it.
//!
//! It keeps watch in the other direction, too: a connection must carry only commands of sessions of its own account,
//! and a message only octets of the command that it belongs to.

#[path = "shared.rs"]
mod shared;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use crate::plan::{
    ACCOUNTS, Fault, MAILBOXES, Marker, Plan, Rng, Token, account_by, account_of, literal, number, shared_number, words,
};
use crate::world::World;

/// What differs between backends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Traits {
    pub(crate) literal_plus: bool,
    pub(crate) unselect: bool,
    /// Sessions share connections: what is said of a mailbox has to make sense.
    pub(crate) shared: bool,
    /// Logins that fail for no fault of the credential, of a thousand.
    pub(crate) flaky_logins: u64,
}

impl Traits {
    fn capabilities(self) -> String {
        let mut words = "IMAP4rev1 SASL-IR AUTH=PLAIN AUTH=XOAUTH2 IDLE ENABLE CONDSTORE ESEARCH".to_owned();
        if self.literal_plus {
            words.push_str(" LITERAL+");
        }
        if self.unselect {
            words.push_str(" UNSELECT");
        }
        words
    }
}

/// Accepts until the runtime's task is aborted.
pub(crate) async fn serve(listener: TcpListener, traits: Traits, world: Arc<World>) {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let id = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        world.backend_connections.fetch_add(1, Ordering::Relaxed);
        let world = Arc::clone(&world);
        tokio::spawn(async move {
            let mut connection = Connection {
                stream,
                input: BytesMut::new(),
                id,
                traits,
                rng: Rng::new(world.seed ^ id),
                account: None,
                selected: None,
                seen: 0,
                last: None,
                later: None,
                world,
            };
            // However it ends, the socket is closed by that.
            let _ = connection.run().await;
        });
    }
}

/// What a connection has to do a little later, if nothing else comes first.
#[derive(Debug)]
enum Later {
    Say(Vec<u8>),
    Close,
}

/// A command, its literals put in place of their announcements.
struct Command {
    tag: String,
    text: Vec<u8>,
    /// The last literal.
    literal: Option<Vec<u8>>,
}

struct Connection {
    stream: TcpStream,
    input: BytesMut,
    id: u64,
    traits: Traits,
    rng: Rng,
    account: Option<usize>,
    /// A mailbox, and the session that selected it.
    selected: Option<(usize, u64)>,
    /// Of the messages that were expunged there, those that were told of.
    seen: u64,
    /// Tag of the command before.
    last: Option<String>,
    later: Option<(Instant, Later)>,
    world: Arc<World>,
}

/// The connection is over.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Connection {
    async fn run(&mut self) -> Result<(), Over> {
        self.stream.set_nodelay(true)?;
        let greeting = format!("* OK [CAPABILITY {}] ready\r\n", self.traits.capabilities());
        self.stream.write_all(greeting.as_bytes()).await?;
        loop {
            let line = self.line().await?;
            // What was to be said later comes before the next reply: it may be the rest of a line.
            if let Some((_, Later::Say(octets))) = self.later.take_if(|(_, what)| matches!(what, Later::Say(_))) {
                self.stream.write_all(&octets).await?;
            }
            let Some(command) = self.command(line).await? else { continue };
            match self.account {
                None => self.log_in(&command).await?,
                Some(account) => self.answer(&command, account).await?,
            }
            self.last = Some(command.tag);
        }
    }

    /// A line without its end; meanwhile does what is due.
    async fn line(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                let mut line = self.input.split_to(end + 1).to_vec();
                line.truncate(end.saturating_sub(usize::from(line[..end].ends_with(b"\r"))));
                return Ok(line);
            }
            let Some((due, _)) = &self.later else {
                self.read().await?;
                continue;
            };
            match timeout_at(*due, self.stream.read_buf(&mut self.input)).await {
                Ok(read) => drop(some(read?)?),
                Err(_) => match self.later.take() {
                    Some((_, Later::Say(octets))) => self.stream.write_all(&octets).await?,
                    _ => return Err(Over),
                },
            }
        }
    }

    async fn read(&mut self) -> Result<(), Over> {
        self.input.reserve(4096);
        some(self.stream.read_buf(&mut self.input).await?)?;
        Ok(())
    }

    /// The whole command that begins with `line`; `None`: its literal was refused.
    async fn command(&mut self, mut line: Vec<u8>) -> Result<Option<Command>, Over> {
        let tag = String::from_utf8(words(&line).next().unwrap_or_default().to_vec()).unwrap_or_default();
        let mut text = Vec::new();
        let mut last = None;
        while let Some((start, len, sync)) = announced(&line) {
            text.extend_from_slice(&line[..start]);
            if sync {
                let token = Token::find(&text).filter(|_| self.account.is_some());
                if let Some((token, account)) = token.zip(self.account) {
                    let (session, command, connection) = (token.session, token.command, self.id);
                    if Plan::of(token.seed).refuses_literal {
                        let marker = Marker::Reply { session, command, account, connection, part: 0 };
                        self.say(&format!("{tag} NO literal refused {}\r\n", marker.text())).await?;
                        return Ok(None);
                    }
                    let marker = Marker::Continue { session, command, account, connection };
                    self.say(&format!("+ {}\r\n", marker.text())).await?;
                } else {
                    self.say("+ more\r\n").await?;
                }
            }
            while self.input.len() < len {
                self.read().await?;
            }
            let octets = self.input.split_to(len).to_vec();
            if octets.len() < 200 {
                text.extend_from_slice(&octets);
            }
            last = Some(octets);
            line = self.line().await?;
        }
        text.extend_from_slice(&line);
        Ok(Some(Command { tag, text, literal: last }))
    }

    async fn say(&mut self, text: &str) -> Result<(), Over> {
        Ok(self.stream.write_all(text.as_bytes()).await?)
    }

    async fn log_in(&mut self, command: &Command) -> Result<(), Over> {
        let tag = &command.tag;
        let verb = words(&command.text).nth(1).unwrap_or_default().to_ascii_uppercase();
        if verb == b"CAPABILITY" {
            return self.capability(tag).await;
        }
        let (account, secret) = match &verb[..] {
            b"LOGIN" => {
                let text = &command.text[tag.len() + " LOGIN ".len()..];
                // A literal is in the text as it is, without quotes; then there is but one space.
                let (user, rest) = string(text);
                (account_by(&user, b"", false), string(rest).0)
            }
            b"AUTHENTICATE" => {
                let mut arguments = words(&command.text).skip(2);
                let mechanism = arguments.next().unwrap_or_default().to_vec();
                sasl(&mechanism, arguments.next().unwrap_or_default())
            }
            _ => (None, Vec::new()),
        };
        let Some(account) = account else { return self.say(&format!("{tag} BAD what is this\r\n")).await };
        if self.rng.chance(self.traits.flaky_logins) {
            return match self.rng.below(4) {
                0 => self.say(&format!("{tag} NO [UNAVAILABLE] not now\r\n")).await,
                // A good credential refused: all that was opened with it is to go.
                1 => self.refuse(tag, account).await,
                _ => Err(Over),
            };
        }
        if secret != ACCOUNTS[account].secret.as_bytes() {
            return self.refuse(tag, account).await;
        }
        self.account = Some(account);
        let capabilities = self.traits.capabilities();
        self.say(&format!("{tag} OK [CAPABILITY {capabilities}] welcome x{}\r\n", self.id)).await
    }

    async fn capability(&mut self, tag: &str) -> Result<(), Over> {
        let capabilities = self.traits.capabilities();
        self.say(&format!("* CAPABILITY {capabilities}\r\n{tag} OK x{}\r\n", self.id)).await
    }

    async fn refuse(&mut self, tag: &str, account: usize) -> Result<(), Over> {
        let marker = Marker::Account { account, connection: self.id };
        self.say(&format!("{tag} NO [AUTHENTICATIONFAILED] refused {}\r\n", marker.text())).await
    }

    async fn answer(&mut self, command: &Command, account: usize) -> Result<(), Over> {
        let verb = String::from_utf8_lossy(words(&command.text).nth(1).unwrap_or_default()).to_ascii_uppercase();
        let Some(token) = Token::find(&command.text) else {
            let proves = command.text.ends_with(b"STATUS INBOX (UIDNEXT)");
            return match self.traits.shared && !proves && !matches!(verb.as_str(), "CAPABILITY" | "ENABLE" | "LOGOUT") {
                true => self.answer_sharer(command, &verb, account).await,
                false => self.answer_unmarked(command, &verb, account).await,
            };
        };
        self.watch(command, &verb, token, account);
        let mut plan = Plan::of(token.seed);
        if verb.starts_with('X') && plan.fault == Fault::Continuation {
            // A command that nobody knows may ask for something whenever it likes.
            plan.fault = Fault::None;
        }
        let Token { session, command: index, .. } = token;
        let mut reply = Reply { out: Vec::new(), session, command: index, account, connection: self.id, part: 0 };
        let keeps_numbers = matches!(verb.as_str(), "FETCH" | "STORE" | "SEARCH");
        if plan.news_before {
            self.news(&mut reply.out, !keeps_numbers);
        }
        if verb == "IDLE" {
            self.idle(&mut reply, &plan).await?;
        } else if verb == "XASK" {
            self.say(&format!("+ {}\r\n", reply.asking().text())).await?;
            let line = self.line().await?;
            if Token::find(&line).is_none_or(|answer| (answer.session, answer.command) != (session, index)) {
                self.world.fail(format!("an answer to {} is {:?}", token.text(), line.escape_ascii().to_string()));
            }
        }
        let status = self.body(&mut reply, command, &verb, &plan);
        self.send(reply, &command.tag, status, &plan).await
    }

    /// Commands without a token: ENABLE, and those of the proxy itself.
    async fn answer_unmarked(&mut self, command: &Command, verb: &str, account: usize) -> Result<(), Over> {
        let tag = &command.tag;
        if verb == "CAPABILITY" {
            return self.capability(tag).await;
        }
        let mut out = Vec::new();
        if self.rng.chance(300) {
            self.news(&mut out, true);
        }
        if verb == "ENABLE" {
            let marker = Marker::Account { account, connection: self.id };
            out.extend_from_slice(format!("* ENABLED CONDSTORE\r\n{tag} OK enabled {}\r\n", marker.text()).as_bytes());
            return Ok(self.stream.write_all(&out).await?);
        }
        let nobody = Marker::Nobody { connection: self.id }.text();
        out.extend_from_slice(format!("* OK {nobody}\r\n* LIST () \"/\" {nobody}\r\n").as_bytes());
        let status = match verb {
            "UNSELECT" if self.traits.unselect => {
                self.selected = None;
                "OK"
            }
            "EXAMINE" => {
                self.selected = None;
                "NO"
            }
            "LOGOUT" => {
                out.extend_from_slice(format!("* BYE {nobody}\r\n{tag} OK {nobody}\r\n").as_bytes());
                self.stream.write_all(&out).await?;
                return Err(Over);
            }
            "NOOP" => "OK",
            // After each login: whether there is a session.
            "STATUS" if command.text.ends_with(b"STATUS INBOX (UIDNEXT)") => "OK",
            _ => {
                let (text, last) = (command.text.escape_ascii().to_string(), &self.last);
                self.world.fail(format!("a command without token on connection {}, after {last:?}: {text:?}", self.id));
                "BAD"
            }
        };
        out.extend_from_slice(format!("{tag} {status} {nobody}\r\n").as_bytes());
        Ok(self.stream.write_all(&out).await?)
    }

    /// Whether what came belongs here.
    fn watch(&self, command: &Command, verb: &str, token: Token, account: usize) {
        let owner = account_of(token.session, self.world.worlds);
        if owner != account {
            self.world.fail(format!("{} of account {owner} on a connection of account {account}", token.text()));
        }
        if let Some(message) = &command.literal
            && verb == "APPEND"
            && *message != token.message(message.len())
        {
            self.world.fail(format!("the message of {} holds foreign octets", token.text()));
        }
    }

    /// What happened in the selected mailbox, told to whoever selected it.
    fn news(&mut self, out: &mut Vec<u8>, expunge: bool) {
        if self.traits.shared {
            return self.sharers_news(out, expunge);
        }
        let Some((mailbox, session)) = self.selected else { return };
        let account = self.account.unwrap_or_default();
        let n = number(session, mailbox);
        let marker = Marker::News { session, mailbox, account, connection: self.id }.text();
        for _ in 0..=self.rng.below(2) {
            let line = match self.rng.below(6) {
                0 => format!("* {n} EXISTS\r\n"),
                1 => format!("* {n} EXPUNGE\r\n"),
                2 => format!("* {n} FETCH (FLAGS ({marker}))\r\n"),
                3 => format!("* FLAGS ({marker})\r\n"),
                4 => format!("* OK [PERMANENTFLAGS ({marker})] flags\r\n"),
                _ => format!("* {n} RECENT\r\n"),
            };
            out.extend_from_slice(line.as_bytes());
        }
    }

    async fn idle(&mut self, reply: &mut Reply, plan: &Plan) -> Result<(), Over> {
        let mut out = std::mem::take(&mut reply.out);
        out.extend_from_slice(format!("+ {}\r\n", reply.asking().text()).as_bytes());
        self.stream.write_all(&out).await?;
        if plan.lines > 0 {
            let mut out = Vec::new();
            self.news(&mut out, true);
            self.later = Some((Instant::now() + Duration::from_millis(plan.lines), Later::Say(out)));
        }
        let line = self.line().await?;
        if line != b"DONE" {
            self.world.fail(format!("IDLE ended by {:?}", line.escape_ascii().to_string()));
        }
        Ok(())
    }

    /// The untagged part, and what becomes of the connection's state; gives the status.
    fn body(&mut self, reply: &mut Reply, command: &Command, verb: &str, plan: &Plan) -> &'static str {
        let mailbox = self.selected.map_or(0, |(mailbox, _)| mailbox);
        let n = self.count(reply, mailbox);
        if self.selected.is_none() && matches!(verb, "FETCH" | "SEARCH" | "UID" | "STORE" | "CHECK" | "CLOSE") {
            return "BAD";
        }
        match verb {
            "SELECT" | "EXAMINE" => self.select(reply, command, plan.status),
            "CLOSE" | "UNSELECT" if plan.status == "OK" => self.selected = None,
            "FETCH" | "STORE" => reply.untagged(plan, &format!("{n} FETCH (FLAGS () X ")),
            "SEARCH" => reply.line(&format!("SEARCH {n} ")),
            "UID" => reply.line(&format!("ESEARCH (TAG \"{}\") UID ALL {n} X ", command.tag)),
            "IDLE" | "APPEND" | "CREATE" => {}
            _ => reply.untagged(plan, &format!("{verb} (")),
        }
        plan.status
    }

    /// How many messages the mailbox has.
    fn count(&self, reply: &Reply, mailbox: usize) -> u64 {
        if self.traits.shared { shared_number(reply.account, mailbox) } else { number(reply.session, mailbox) }
    }

    fn select(&mut self, reply: &mut Reply, command: &Command, status: &str) {
        if let Some((mailbox, session)) = self.selected
            && status != "BAD"
        {
            let marker = Marker::News { session, mailbox, account: reply.account, connection: self.id };
            reply.out.extend_from_slice(format!("* OK [CLOSED] {}\r\n", marker.text()).as_bytes());
        }
        let name = words(&command.text).nth(2).unwrap_or_default();
        let mailbox = MAILBOXES.iter().position(|mailbox| mailbox.as_bytes() == name).unwrap_or_default();
        match status {
            "OK" => {
                let session = if self.traits.shared { 0 } else { reply.session };
                self.selected = Some((mailbox, session));
                self.seen = self.world.gone[reply.account * MAILBOXES.len() + mailbox].load(Ordering::Relaxed);
                let n = self.count(reply, mailbox);
                reply.line("FLAGS (");
                reply.line(&format!("OK [UIDVALIDITY {n}] "));
                reply.out.extend_from_slice(format!("* {n} EXISTS\r\n* {n} RECENT\r\n").as_bytes());
            }
            "NO" => self.selected = None,
            _ => {}
        }
    }

    /// Sends the reply, as well as the plan allows.
    async fn send(&mut self, mut reply: Reply, tag: &str, status: &str, plan: &Plan) -> Result<(), Over> {
        let account = Marker::Account { account: reply.account, connection: self.id }.text();
        let later = |later: u64, what: Later| Some((Instant::now() + Duration::from_millis(later), what));
        let tagged = format!("{tag} {status} done {}\r\n", reply.marker().text());
        match plan.fault {
            Fault::Bye { before: true } => reply.raw(&format!("* BYE {account}\r\n")),
            Fault::WrongTag { old } => {
                let wrong = self.last.take().filter(|_| old).unwrap_or_else(|| "zz".into());
                reply.raw(&format!("{wrong} OK {}\r\n", Marker::Nobody { connection: self.id }.text()));
            }
            Fault::Garbage => reply.raw("\0\u{1}GARBAGE1 \u{7f}{12}\r\n\r\r\n GARBAGE2\r\n"),
            Fault::Continuation => reply.raw(&format!("+ {}\r\n", reply.asking().text())),
            Fault::Silence => {
                // Until the proxy gives up.
                loop {
                    self.read().await?;
                    self.input.clear();
                }
            }
            _ => {}
        }
        reply.raw(&tagged);
        if plan.news_after {
            self.news(&mut reply.out, false);
        }
        let line = format!("* LIST () \"/\" {account}\r\n");
        match plan.fault {
            Fault::Bye { before: false } => reply.raw(&format!("* BYE {account}\r\n")),
            Fault::Twice { later: 0 } => reply.raw(&tagged),
            Fault::Twice { later: ms } => self.later = later(ms, Later::Say(tagged.into())),
            Fault::Late { later: 0 } => reply.raw(&line),
            Fault::Late { later: ms } => self.later = later(ms, Later::Say(line.into())),
            Fault::LateInParts { later: ms } => {
                let at = usize::try_from(self.rng.below(line.len() as u64)).unwrap();
                reply.raw(&line[..at]);
                self.later = later(ms, Later::Say(line[at..].into()));
            }
            Fault::Close { later: ms } => self.later = later(ms, Later::Close),
            _ => {}
        }
        self.write(&reply.out, plan).await?;
        match plan.fault {
            Fault::Bye { .. } => Err(Over),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, octets: &[u8], plan: &Plan) -> Result<(), Over> {
        if plan.delay > 0 {
            sleep(Duration::from_millis(plan.delay)).await;
        }
        let end = match plan.fault {
            Fault::Cut { thousandths, .. } => octets.len() * usize::try_from(thousandths).unwrap() / 1000,
            _ => octets.len(),
        };
        let mut left = &octets[..end];
        for piece in 1..plan.pieces {
            let at = usize::try_from(self.rng.below(left.len() as u64 + 1)).unwrap();
            self.stream.write_all(&left[..at]).await?;
            left.advance(at);
            if piece % 2 == 0 {
                sleep(Duration::from_millis(1)).await;
            } else {
                tokio::task::yield_now().await;
            }
        }
        self.stream.write_all(left).await?;
        let Fault::Cut { reset, .. } = plan.fault else { return Ok(()) };
        if reset {
            self.stream.set_zero_linger()?;
        }
        Err(Over)
    }
}

/// A reply in the making.
struct Reply {
    out: Vec<u8>,
    session: u64,
    command: u64,
    account: usize,
    connection: u64,
    part: u64,
}

impl Reply {
    fn marker(&self) -> Marker {
        let Self { session, command, account, connection, part, .. } = *self;
        Marker::Reply { session, command, account, connection, part }
    }

    fn asking(&self) -> Marker {
        let Self { session, command, account, connection, .. } = *self;
        Marker::Continue { session, command, account, connection }
    }

    fn raw(&mut self, text: &str) {
        self.out.extend_from_slice(text.as_bytes());
    }

    /// An untagged line, which ends in the marker of this part of the reply.
    fn line(&mut self, text: &str) {
        self.start(text);
        self.raw(if text.contains('(') && !text.contains(')') { ")\r\n" } else { "\r\n" });
    }

    fn start(&mut self, text: &str) {
        let marker = self.marker().text();
        self.raw(&format!("* {text}{marker}"));
        self.part += 1;
    }

    /// The lines of the plan, with its literal in the last one; `text` leaves one parenthesis open.
    fn untagged(&mut self, plan: &Plan, text: &str) {
        for line in 1..=plan.lines {
            self.start(text);
            if let Some(len) = plan.literal.filter(|_| line == plan.lines) {
                self.raw(&format!(" {{{len}}}\r\n"));
                self.out.extend_from_slice(&literal(self.session, self.command, self.account, len));
            }
            self.raw(")\r\n");
        }
    }
}

fn some(read: usize) -> Result<usize, Over> {
    if read == 0 { Err(Over) } else { Ok(read) }
}

/// Where the announcement of a literal at the end of `line` begins, its size, and whether it waits for `+`.
fn announced(line: &[u8]) -> Option<(usize, usize, bool)> {
    let start = line.iter().rposition(|octet| *octet == b'{')?;
    let inner = std::str::from_utf8(line[start..].strip_prefix(b"{")?.strip_suffix(b"}")?).ok()?;
    let digits = inner.strip_suffix('+');
    Some((start, digits.unwrap_or(inner).parse().ok()?, digits.is_none()))
}

/// A string off the front of `text`, quoted or not.
fn string(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some(mut rest) = text.strip_prefix(b"\"") else {
        let end = text.iter().position(|octet| *octet == b' ').unwrap_or(text.len());
        return (text[..end].to_vec(), text.get(end + 1..).unwrap_or_default());
    };
    let mut out = Vec::new();
    while let Some((octet, after)) = rest.split_first() {
        rest = after;
        match octet {
            b'"' => break,
            b'\\' => {
                out.extend(rest.first());
                rest = rest.get(1..).unwrap_or_default();
            }
            octet => out.push(*octet),
        }
    }
    (out, rest.strip_prefix(b" ").unwrap_or(rest))
}

/// Account and secret of an initial response.
fn sasl(mechanism: &[u8], response: &[u8]) -> (Option<usize>, Vec<u8>) {
    let response = BASE64_STANDARD.decode(response).unwrap_or_default();
    if mechanism == b"XOAUTH2" {
        let mut fields = response.split(|octet| *octet == 1);
        let user = fields.next().and_then(|field| field.strip_prefix(b"user=")).unwrap_or_default();
        let token = fields.next().and_then(|field| field.strip_prefix(b"auth=Bearer ")).unwrap_or_default();
        return (account_by(user, b"", true), token.to_vec());
    }
    let mut fields = response.split(|octet| *octet == 0);
    let authzid = fields.next().unwrap_or_default();
    let user = fields.next().unwrap_or_default();
    (account_by(user, authzid, false), fields.next().unwrap_or_default().to_vec())
}
