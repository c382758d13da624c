//! What a client session is sent, looked at octet by octet: everything in it must be of this session, in order.

use std::fmt::Write as _;

use crate::plan::{Fault, MAILBOXES, Marker, Plan, account_of, is_shared_number, numbered, words};

/// A command of the session, as far as its reply is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) tag: String,
    /// Its number in the session.
    pub(crate) command: u64,
    pub(crate) verb: &'static str,
    /// Of a SELECT or EXAMINE.
    pub(crate) mailbox: Option<usize>,
    /// `None`: the proxy answers it.
    pub(crate) plan: Option<Plan>,
}

/// An octet that does not belong here, in words.
#[derive(Debug)]
pub(crate) struct Foreign(pub(crate) String);

/// See the module.
pub(crate) struct Checker {
    session: u64,
    worlds: u64,
    shared: bool,
    account: usize,
    expected: Vec<Expected>,
    /// Commands answered.
    done: usize,
    /// Of those: answered by the backend.
    served: u64,
    /// Parts of the running command's reply that have come.
    part: u64,
    line: Vec<u8>,
    /// What is left of a literal: its octets over and over, where in it, and how many.
    literal: Option<(Vec<u8>, usize, usize)>,
    /// In a line that goes on after a literal.
    continued_line: bool,
    /// The running command has been asked for more.
    asked: bool,
    selected: bool,
    /// The mailbox, where connections are shared.
    mailbox: Option<usize>,
    greeted: bool,
    bye: bool,
    /// The last lines, for whoever has to find out what went wrong.
    seen: Vec<String>,
}

/// For a verb: a login with a wrong secret.
pub(crate) const WRONG_LOGIN: &str = "LOGIN with a wrong secret";

/// Words with digits in them that say nothing about a session.
const HARMLESS: [&[u8]; 4] = [b"IMAP4rev1", b"XOAUTH2", b"AUTH=XOAUTH2", env!("CARGO_PKG_VERSION").as_bytes()];

impl Checker {
    pub(crate) fn new(session: u64, worlds: u64, shared: bool, expected: Vec<Expected>) -> Self {
        Self {
            session,
            worlds,
            shared,
            account: account_of(session, worlds),
            expected,
            done: 0,
            served: 0,
            part: 0,
            line: Vec::new(),
            literal: None,
            continued_line: false,
            asked: false,
            selected: false,
            mailbox: None,
            greeted: false,
            bye: false,
            seen: Vec::new(),
        }
    }

    pub(crate) fn done(&self) -> usize {
        self.done
    }

    pub(crate) fn served(&self) -> u64 {
        self.served
    }

    pub(crate) fn asked(&self) -> bool {
        self.asked
    }

    pub(crate) fn greeted(&self) -> bool {
        self.greeted
    }

    pub(crate) fn bye(&self) -> bool {
        self.bye
    }

    /// The last lines, and what was expected.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for command in &self.expected {
            let _ = writeln!(story, "  {} {} {:?} {:?}", command.tag, command.verb, command.mailbox, command.plan);
        }
        for line in &self.seen {
            let _ = writeln!(story, "  S: {line}");
        }
        let _ = write!(story, "  {} answered; unfinished: {:?}", self.done, self.line.escape_ascii().to_string());
        story
    }

    pub(crate) fn take(&mut self, mut octets: &[u8]) -> Result<(), Foreign> {
        while !octets.is_empty() {
            if let Some((unit, at, left)) = &mut self.literal {
                let start = *at % unit.len();
                let len = octets.len().min(*left).min(unit.len() - start);
                if octets[..len] != unit[start..start + len] {
                    let found = octets[..len].escape_ascii().to_string();
                    return Err(Foreign(format!("at octet {at} of a literal: {found:?}")));
                }
                *at += len;
                *left -= len;
                octets = &octets[len..];
                if *left == 0 {
                    self.literal = None;
                    self.continued_line = true;
                }
                continue;
            }
            let end = memchr::memchr(b'\n', octets).map_or(octets.len(), |end| end + 1);
            self.line.extend_from_slice(&octets[..end]);
            octets = &octets[end..];
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.note(&line);
                self.whole_line(&line)?;
            }
        }
        Ok(())
    }

    /// The stream has ended: what is left of a line must belong here, too, but for its last word, which may be cut.
    pub(crate) fn end(&mut self) -> Result<(), Foreign> {
        let mut line = std::mem::take(&mut self.line);
        line.truncate(line.iter().rposition(|octet| *octet == b' ').unwrap_or(0));
        self.note(&line);
        // An announcement that has lost its line end would be taken for a number.
        if line.ends_with(b"}") { Ok(()) } else { self.words(&line, None) }
    }

    fn note(&mut self, line: &[u8]) {
        if self.seen.len() > 40 {
            self.seen.drain(..20);
        }
        self.seen.push(line.escape_ascii().to_string());
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Foreign> {
        if !line.ends_with(b"\r\n") {
            return Err(Foreign("a line that ends in a bare LF".into()));
        }
        let mut line = &line[..line.len() - 2];
        let mut announced = None;
        if let Some(start) = line.iter().rposition(|octet| *octet == b'{').filter(|_| line.ends_with(b"}")) {
            let len = std::str::from_utf8(&line[start + 1..line.len() - 1]).ok().and_then(|len| len.parse().ok());
            announced = Some(len.ok_or_else(|| Foreign("the announcement of no literal".into()))?);
            line = &line[..start];
        }
        if std::mem::take(&mut self.continued_line) {
            return self.words(line, announced);
        }
        match line.first() {
            Some(b'+') => {
                self.asked = true;
                self.words(line, announced)
            }
            Some(b'*') if !self.greeted => {
                self.greeted = true;
                self.words(line, announced)
            }
            Some(b'*') => {
                self.bye |= line.starts_with(b"* BYE");
                self.words(line, announced)
            }
            _ => self.tagged(line),
        }
    }

    fn tagged(&mut self, line: &[u8]) -> Result<(), Foreign> {
        // An IDLE was answered just when its client ended it: the word came as a command.
        let idled = self.expected[..self.done.min(self.expected.len())].iter().any(|command| command.verb == "IDLE");
        if idled && [&b"DONE BAD "[..], b"NOOP BAD "].iter().any(|late| line.starts_with(late)) {
            return self.words(line, None);
        }
        let Some(expected) = self.expected.get(self.done).cloned() else {
            return Err(Foreign("a tagged reply to nothing".into()));
        };
        if expected.plan.is_some_and(|plan| plan.fault == Fault::Garbage) && is_garbage(line) {
            return Ok(());
        }
        let Some(rest) = line.strip_prefix(expected.tag.as_bytes()).and_then(|rest| rest.strip_prefix(b" ")) else {
            return Err(Foreign(format!("a tagged reply to something else than {}", expected.tag)));
        };
        let status = words(rest).next().unwrap_or_default().to_vec();
        let ours = words(rest).filter_map(Marker::parse).any(|marker| matches!(marker, Marker::Reply { .. }));
        self.words(rest, None)?;
        if expected.verb == WRONG_LOGIN && status == b"OK" {
            return Err(Foreign("a wrong secret was accepted".into()));
        }
        if self.shared && matches!(expected.verb, "SELECT" | "EXAMINE") {
            // Of a shared connection, its reply bears no session's mark.
            self.selected = status == b"OK" || self.selected && status == b"BAD";
            self.mailbox = expected.mailbox.filter(|_| status == b"OK").or(self.mailbox);
        }
        if ours {
            self.served += 1;
            if status == b"OK" && needs_mailbox(expected.verb) && !self.selected {
                return Err(Foreign(format!("{} worked on a mailbox that was never selected", expected.tag)));
            }
            match (expected.verb, &status[..]) {
                ("SELECT" | "EXAMINE", b"OK") => self.selected = true,
                ("SELECT" | "EXAMINE", b"NO") | ("CLOSE" | "UNSELECT", b"OK") => self.selected = false,
                _ => {}
            }
        }
        self.done += 1;
        self.part = 0;
        self.asked = false;
        Ok(())
    }

    /// Every word with a digit in it tells whose it is.
    fn words(&mut self, line: &[u8], announced: Option<usize>) -> Result<(), Foreign> {
        for word in words(line) {
            if let Some(marker) = Marker::parse(word) {
                self.marker(marker, line)?;
            } else if let Some(number) = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()) {
                self.number(number, line)?;
            } else if word.iter().any(u8::is_ascii_digit)
                && !HARMLESS.contains(&word)
                && self.front().is_none_or(|front| front.tag.as_bytes() != word)
            {
                return Err(Foreign(format!("{:?}", word.escape_ascii().to_string())));
            }
        }
        let Some(len) = announced else { return Ok(()) };
        match self.front() {
            Some(Expected { command, plan: Some(Plan { literal: Some(planned), .. }), .. }) if *planned == len => {
                let unit = format!("m{}.{command}.{};", self.session, self.account);
                // Many at a time are compared faster.
                let units = unit.repeat(len.min(8192) / unit.len() + 1).into_bytes();
                self.literal = (len > 0).then_some((units, 0, len));
                self.continued_line = len == 0;
                Ok(())
            }
            _ => Err(Foreign(format!("a literal of {len} octets, which is not this command's"))),
        }
    }

    fn front(&self) -> Option<&Expected> {
        self.expected.get(self.done)
    }

    fn marker(&mut self, marker: Marker, line: &[u8]) -> Result<(), Foreign> {
        let front = self.front().map(|front| front.command);
        let untagged = line.starts_with(b"*");
        let good = match marker {
            Marker::Reply { session, command, account, part, .. } => {
                let mine = session == self.session && account == self.account && Some(command) == front;
                let in_order = part == self.part;
                self.part += u64::from(untagged);
                mine && in_order
            }
            Marker::Continue { session, command, account, .. } => {
                session == self.session && account == self.account && Some(command) == front
            }
            Marker::News { mailbox, account, .. } if self.shared => account == self.account && self.is_in(mailbox),
            Marker::News { session, mailbox, account, .. } => {
                let of_mailbox = line.starts_with(b"* FLAGS") || line.starts_with(b"* OK [PERMANENTFLAGS");
                account == self.account && (session == self.session || of_mailbox && self.selects(session, mailbox))
            }
            Marker::Account { account, .. } => account == self.account,
            Marker::Nobody { .. } => false,
        };
        if good { Ok(()) } else { Err(Foreign(format!("{marker:?}"))) }
    }

    fn number(&self, number: u64, line: &[u8]) -> Result<(), Foreign> {
        if self.shared {
            let of_mailbox = |mailbox| self.is_in(mailbox) && is_shared_number(number, self.account, mailbox);
            // After an EXPUNGE there are fewer, which a hub says.
            let fewer = |mailbox| {
                self.is_in(mailbox)
                    && line.ends_with(b" RECENT")
                    && (1..=16).any(|gone| is_shared_number(number + gone, self.account, mailbox))
            };
            let none_recent = number == 0 && line.ends_with(b" RECENT");
            return match none_recent || (0..MAILBOXES.len()).any(|it| of_mailbox(it) || fewer(it)) {
                true => Ok(()),
                false => Err(Foreign(format!("the number {number}"))),
            };
        }
        if number > 0 {
            let (session, mailbox) = numbered(number);
            let size = line.ends_with(b"EXISTS") || line.ends_with(b"RECENT");
            if session == self.session || size && self.selects(session, mailbox) {
                return Ok(());
            }
        }
        Err(Foreign(format!("the number {number}")))
    }

    /// Whether the session has this mailbox selected, or the running command selects it.
    fn is_in(&self, mailbox: usize) -> bool {
        self.mailbox == Some(mailbox) || self.front().is_some_and(|front| front.mailbox == Some(mailbox))
    }

    /// Whether the running command selects the very mailbox that an earlier session of the account had selected: how
    /// big that is and which flags it has is true for both.
    fn selects(&self, session: u64, mailbox: usize) -> bool {
        session % self.worlds == self.session % self.worlds
            && account_of(session, self.worlds) == self.account
            && self.front().is_some_and(|front| front.mailbox == Some(mailbox))
    }
}

fn needs_mailbox(verb: &str) -> bool {
    matches!(verb, "FETCH" | "STORE" | "SEARCH" | "UID SEARCH" | "CHECK" | "CLOSE")
}

/// What a backend says that is no reply ([`Fault::Garbage`]): it goes to whose reply it came in, as it is.
fn is_garbage(line: &[u8]) -> bool {
    line.is_empty()
        || line == b"\r"
        || [&b"GARBAGE1"[..], b"GARBAGE2"].iter().any(|it| memchr::memmem::find(line, it).is_some())
}
