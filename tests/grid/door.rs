//! The way to a server, direct or through the proxy, and what was seen on it.

use std::net::SocketAddr;

use imapool::demo::server::personality::Personality;
use imapool::demo::server::{MessageInfo, Server};

use crate::support::{Client, Harness};

/// Whose account it is.
pub(crate) const USER: &str = "anna";

/// Where sessions connect to, and the results of their commands.
pub(crate) struct Door<'a> {
    kind: &'a Personality,
    address: SocketAddr,
    direct: bool,
    /// A session has switched something on by ENABLE.
    enabled: bool,
    seen: Vec<String>,
}

/// What was seen, and what is left in the mailboxes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    seen: Vec<String>,
    mailboxes: Vec<(&'static str, Vec<MessageInfo>)>,
}

/// A session.
pub(crate) struct Session {
    pub(crate) client: Client,
    name: &'static str,
    commands: usize,
}

impl<'a> Door<'a> {
    pub(crate) fn direct(kind: &'a Personality, address: SocketAddr) -> Self {
        Self { kind, address, direct: true, enabled: false, seen: Vec::new() }
    }

    pub(crate) fn through(kind: &'a Personality, harness: &Harness) -> Self {
        Self { kind, address: harness.address, direct: false, enabled: false, seen: Vec::new() }
    }

    /// What this kind calls the mailbox, quoted.
    pub(crate) fn mailbox(&self, name: &str) -> String {
        format!("\"{}\"", self.kind.options.names.outer(name).replace('\\', "\\\\"))
    }

    /// Whether the server offers an extension to those who are logged in.
    pub(crate) fn offers(&self, name: &str) -> bool {
        self.kind.options.capabilities.after.split(' ').any(|offered| offered.eq_ignore_ascii_case(name))
    }

    /// Whether the server refuses IDLE.
    pub(crate) fn idles(&self) -> bool {
        self.offers("IDLE") && self.kind.options.quirks.idle_refused.is_none()
    }

    pub(crate) fn is_direct(&self) -> bool {
        self.direct
    }

    /// A session that has read the greeting.
    pub(crate) async fn connect(&mut self, name: &'static str) -> Session {
        let mut client = Client::connect(self.address).await;
        let greeting = client.line().await;
        assert!(greeting.starts_with("* OK"), "{greeting}");
        Session { client, name, commands: 0 }
    }

    /// A session that is logged in.
    pub(crate) async fn login(&mut self, name: &'static str) -> Session {
        let mut session = self.connect(name).await;
        let by_mechanism = self.direct && self.kind.options.capabilities.before.contains("LOGINDISABLED");
        if by_mechanism {
            session
                .client
                .play("C: l AUTHENTICATE LOGIN\nS: + …\nC: YW5uYQ==\nS: + …\nC: cHctYW5uYQ==\nS~ l OK…")
                .await;
        } else {
            let lines = session.client.command(&format!("l LOGIN {USER} pw-{USER}")).await;
            assert!(lines.last().unwrap().starts_with("l OK"), "{}: {lines:?}", self.kind.name);
        }
        if self.direct && self.kind.options.quirks.id_before_select.is_some() {
            session.client.play("C: i ID (\"name\" \"a client\")\nS~ i OK…").await;
        }
        session
    }

    /// A session in INBOX.
    pub(crate) async fn inbox(&mut self, name: &'static str) -> Session {
        let mut session = self.login(name).await;
        self.run(&mut session, "SELECT INBOX").await;
        session
    }

    /// Runs a command and notes what was said. The lines, the tagged one last.
    pub(crate) async fn run(&mut self, session: &mut Session, command: &str) -> Vec<String> {
        session.commands += 1;
        self.enabled |= command.starts_with("ENABLE");
        let tag = format!("{}{}", session.name, session.commands);
        session.client.send(format!("{tag} {command}\r\n")).await;
        let lines = session.client.until(|line| line.starts_with(&format!("{tag} "))).await;
        self.note(&format!("{} {command}", session.name), &tag, &lines);
        lines
    }

    /// Appends a message with a literal that is waited for; notes the result.
    pub(crate) async fn append(&mut self, session: &mut Session, mailbox: &str, message: &str) {
        session.commands += 1;
        let tag = format!("{}{}", session.name, session.commands);
        session.client.send(format!("{tag} APPEND {mailbox} {{{}}}\r\n", message.len())).await;
        let asked = session.client.until(|l| l.starts_with('+') || l.starts_with(&format!("{tag} "))).await;
        let mut lines = asked.clone();
        if asked.last().unwrap().starts_with('+') {
            session.client.send(format!("{message}\r\n")).await;
            lines = session.client.until(|line| line.starts_with(&format!("{tag} "))).await;
        }
        self.note(&format!("{} APPEND {mailbox}", session.name), &tag, &lines);
    }

    /// Notes a finding.
    pub(crate) fn found(&mut self, what: String) {
        self.seen.push(what);
    }

    fn note(&mut self, command: &str, tag: &str, lines: &[String]) {
        self.seen.push(format!("-- {command}"));
        let news = |line: &&String| line.ends_with(" EXISTS") || line.ends_with(" EXPUNGE");
        // EXISTS and EXPUNGE may come with another command, or more of them in one: the views at the end tell.
        let said = lines.iter().filter(|line| !news(line) && !self.is_chat(line));
        let mut said: Vec<_> = said.map(|line| plain(line, tag)).collect();
        let tagged = said.pop();
        // Flags that somebody else changed may come before or after what was asked for, or with another command.
        if command.contains("NOOP") {
            said.clear();
        }
        said.sort();
        self.seen.extend(said.into_iter().chain(tagged));
    }

    /// Texts for people, \Recent, and what a session is told of the mailbox besides what it asked for.
    fn is_chat(&self, line: &str) -> bool {
        let chat = ["* OK [CLOSED]", "* OK [UNSEEN", "* CAPABILITY"];
        // Who joins others is told HIGHESTMODSEQ only if it has asked for mod-sequences.
        let modseq = !self.enabled && line.starts_with("* OK [HIGHESTMODSEQ");
        modseq || line.ends_with(" RECENT") || line == "* OK" || chat.iter().any(|start| line.starts_with(start))
    }

    /// What was seen on this way, with what the server holds now.
    pub(crate) fn finish(self, server: &Server) -> Outcome {
        let names = ["INBOX", "Sent", "Drafts", "Trash", "Archive/2024", "New"];
        let mailboxes = names.into_iter().filter_map(|name| Some((name, server.messages(USER, name)?))).collect();
        Outcome { seen: self.seen, mailboxes }
    }
}

/// The line without tag, text for people, and \Recent; of MOVE's COPYUID only the code.
fn plain(line: &str, tag: &str) -> String {
    let line = line.replace(" \\Recent", "").replace("\\Recent", "");
    if let Some(tagged) = line.strip_prefix(&format!("{tag} ")) {
        let mut words = tagged.splitn(2, ' ');
        let status = words.next().unwrap_or_default();
        let rest = words.next().unwrap_or_default();
        let code = rest.find(']').filter(|_| rest.starts_with('[')).map_or("", |end| &rest[..=end]);
        return format!("{status} {code}").trim_end().to_owned();
    }
    match line.strip_prefix("* OK ").and_then(|rest| rest.split_once(']')) {
        Some((code, _)) => format!("* OK {code}]"),
        None => line,
    }
}

/// Both ways are the same.
pub(crate) fn assert_same(what: &str, direct: &Outcome, through: &Outcome) {
    for (at, (expected, found)) in direct.seen.iter().zip(&through.seen).enumerate() {
        let context = direct.seen[..at].iter().rev().find(|line| line.starts_with("-- "));
        assert_eq!(
            expected, found,
            "{what}: line {at}, after {context:?}\ndirect {:#?}\nthrough {:#?}",
            direct.seen, through.seen
        );
    }
    assert_eq!(direct.seen.len(), through.seen.len(), "{what}: {:#?} {:#?}", direct.seen, through.seen);
    assert_eq!(direct.mailboxes, through.mailboxes, "{what}: what is left differs");
}
