//! One client's connection: sends commands, reads what is said, and holds it against what it may be told.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::net::{End, Net};
use crate::reply::{Piece, literal, pieces};
use crate::truth::Truth;
use crate::view::{Running, View};

/// The connection is over: closed, or lost.
#[derive(Debug)]
pub(crate) struct Gone;

/// The result of a command.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) word: String,
    /// In brackets, without arguments; empty: none.
    pub(crate) code: String,
    /// For whoever reads a failure.
    #[expect(dead_code, reason = "shown by Debug")]
    pub(crate) text: String,
}

impl Status {
    pub(crate) fn is_ok(&self) -> bool {
        self.word == "OK"
    }

    /// The server is not to be had, or not now: said by imapool or by the server.
    pub(crate) fn is_unavailable(&self) -> bool {
        ["UNAVAILABLE", "LIMIT", "SERVERBUG", "INUSE"].contains(&&*self.code)
    }
}

/// A connection of a client.
pub(crate) struct Client {
    pub(crate) truth: Arc<Mutex<Truth>>,
    pub(crate) user: String,
    pub(crate) view: Option<View>,
    pub(crate) condstore: bool,
    pub(crate) qresync: bool,
    pub(crate) capabilities: String,
    /// Untagged lines that are no news of the mailbox, of the command that runs or ran last.
    pub(crate) said: Vec<Vec<Piece>>,
    net: Net,
    name: u64,
    end: End,
    input: BytesMut,
    tags: u64,
    running: Running,
    /// Nothing takes longer.
    patience: Duration,
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) async fn connect(
        net: &Net,
        name: u64,
        truth: &Arc<Mutex<Truth>>,
        patience: Duration,
    ) -> Result<Self, Gone> {
        let mut client = Self {
            truth: Arc::clone(truth),
            user: String::new(),
            view: None,
            condstore: false,
            qresync: false,
            capabilities: String::new(),
            said: Vec::new(),
            end: net.dial(),
            net: net.clone(),
            name,
            input: BytesMut::new(),
            tags: 0,
            running: Running::default(),
            patience,
        };
        let greeting = client.line("the greeting").await?;
        let greeting = String::from_utf8_lossy(&greeting).into_owned();
        if greeting.starts_with("* BYE ") {
            return Err(Gone);
        }
        assert!(greeting.starts_with("* OK "), "{greeting}");
        client.capable(&greeting);
        Ok(client)
    }

    fn capable(&mut self, line: &str) {
        if let Some((_, list)) = line.split_once("[CAPABILITY ") {
            self.capabilities = format!(" {} ", list.split(']').next().unwrap_or_default());
        }
    }

    pub(crate) fn can(&self, capability: &str) -> bool {
        self.capabilities.contains(&format!(" {capability} "))
    }

    pub(crate) fn note(&self, what: &str) {
        self.net.note(&format!("client {}: {what}", self.name));
    }

    /// A response with its literals, without the last line end.
    async fn line(&mut self, what: &str) -> Result<Vec<u8>, Gone> {
        let patience = self.patience;
        match timeout(patience, self.whole_line()).await {
            Ok(line) => line,
            Err(_) => panic!("{what} takes longer than {patience:?} (client {}, {:?})", self.name, self.running),
        }
    }

    async fn whole_line(&mut self) -> Result<Vec<u8>, Gone> {
        let mut from = 0;
        loop {
            if let Some(end) = self.input[from..].iter().position(|octet| *octet == b'\n') {
                let end = from + end;
                assert!(end > 0 && self.input[end - 1] == b'\r', "a bare line feed");
                match literal(&self.input[from..end - 1]) {
                    Some(size) => {
                        while self.input.len() < end + 1 + size {
                            self.read().await?;
                        }
                        from = end + 1 + size;
                    }
                    None => {
                        let mut line = self.input.split_to(end + 1).to_vec();
                        line.truncate(end - 1);
                        return Ok(line);
                    }
                }
            } else {
                self.read().await?;
            }
        }
    }

    async fn read(&mut self) -> Result<(), Gone> {
        match self.end.read_buf(&mut self.input).await {
            Ok(0) | Err(_) => Err(Gone),
            Ok(_) => Ok(()),
        }
    }

    pub(crate) async fn write(&mut self, octets: &[u8]) -> Result<(), Gone> {
        let patience = self.patience;
        match timeout(patience, self.end.write_all(octets)).await {
            Ok(result) => result.map_err(|_| Gone),
            Err(_) => panic!("nothing is read for {patience:?} (client {}, {:?})", self.name, self.running),
        }
    }

    /// Sends a command, without its literals' octets; gives its tag.
    pub(crate) async fn send(&mut self, command: &str) -> Result<String, Gone> {
        self.tags += 1;
        let tag = format!("{}x{}", self.name, self.tags);
        self.begins(command, self.tags);
        self.write(format!("{tag} {command}\r\n").as_bytes()).await?;
        Ok(tag)
    }

    /// What is said from now on belongs to this command.
    fn begins(&mut self, command: &str, number: u64) {
        let mut words = command.split(' ');
        let verb = words.next().map(|verb| match verb {
            "UID" => format!("UID {}", words.next().unwrap_or_default()),
            verb => verb.to_owned(),
        });
        self.running = Running { verb, number };
        self.truth.lock().asked += 1;
        self.said.clear();
    }

    /// Sends commands without waiting, and then reads what came of each.
    pub(crate) async fn run_all(&mut self, commands: &[String]) -> Result<Vec<Status>, Gone> {
        let first = self.tags + 1;
        let all: String =
            (first..).zip(commands).map(|(tag, command)| format!("{}x{tag} {command}\r\n", self.name)).collect();
        self.tags += commands.len() as u64;
        self.begins(&commands[0], first);
        self.write(all.as_bytes()).await?;
        let mut results = Vec::new();
        for (tag, command) in (first..).zip(commands) {
            self.begins(command, tag);
            results.push(self.finish(&format!("{}x{tag}", self.name)).await?);
        }
        Ok(results)
    }

    /// Logs in by SASL, with an initial response (RFC 4959).
    pub(crate) async fn authenticate(&mut self, mechanism: &str, response: &str) -> Result<Status, Gone> {
        let response = STANDARD.encode(response);
        let tag = self.send(&format!("AUTHENTICATE {mechanism} {response}")).await?;
        if let Some(status) = self.until_continuation(&tag).await? {
            return Ok(status);
        }
        // Why it is refused: an empty answer ends it.
        self.write(b"\r\n").await?;
        self.finish(&tag).await
    }

    /// Reads to the end of the command of this tag.
    pub(crate) async fn finish(&mut self, tag: &str) -> Result<Status, Gone> {
        loop {
            let line = self.line("the reply").await?;
            if let Some(status) = self.take(&line, Some(tag))? {
                return Ok(status);
            }
        }
    }

    /// Runs a command.
    pub(crate) async fn run(&mut self, command: &str) -> Result<Status, Gone> {
        let tag = self.send(command).await?;
        self.finish(&tag).await
    }

    /// As [`Client::run`], for one that ends with a literal.
    pub(crate) async fn run_with(&mut self, command: &str, octets: &[u8], wait: bool) -> Result<Status, Gone> {
        let plus = if wait { "" } else { "+" };
        let tag = self.send(&format!("{command} {{{}{plus}}}", octets.len())).await?;
        if wait && let Some(status) = self.until_continuation(&tag).await? {
            return Ok(status);
        }
        self.write(&[octets, b"\r\n"].concat()).await?;
        self.finish(&tag).await
    }

    /// `Some`: the command is over instead.
    pub(crate) async fn until_continuation(&mut self, tag: &str) -> Result<Option<Status>, Gone> {
        loop {
            let line = self.line("the continuation").await?;
            if line.starts_with(b"+ ") {
                return Ok(None);
            }
            if let Some(status) = self.take(&line, Some(tag))? {
                return Ok(Some(status));
            }
        }
    }

    /// Hears what is said within `time` while it idles. `Some`: it is over before that.
    pub(crate) async fn listen(&mut self, tag: &str, time: Duration) -> Result<Option<Status>, Gone> {
        let until = tokio::time::Instant::now() + time;
        loop {
            match tokio::time::timeout_at(until, self.whole_line()).await {
                Ok(line) => {
                    if let Some(status) = self.take(&line?, Some(tag))? {
                        return Ok(Some(status));
                    }
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Takes one line; `Some`: the tagged reply.
    fn take(&mut self, line: &[u8], tag: Option<&str>) -> Result<Option<Status>, Gone> {
        if let Some(rest) = line.strip_prefix(b"* ") {
            return self.untagged(rest).map(|()| None);
        }
        if line.starts_with(b"[COPYUID ") {
            // As Exchange 2013 does.
            return Ok(None);
        }
        let text = String::from_utf8_lossy(line).into_owned();
        let tag = tag.unwrap_or("no tag");
        let rest = text.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' '));
        let rest = rest.unwrap_or_else(|| panic!("neither untagged nor tagged {tag}: {text}"));
        let (word, words) = rest.split_once(' ').unwrap_or((rest, ""));
        let code = words.strip_prefix('[').map(|code| code.split([' ', ']']).next().unwrap_or_default());
        let status = Status { word: word.into(), code: code.unwrap_or_default().into(), text: words.into() };
        self.capable(&text);
        self.running.verb = None;
        Ok(Some(status))
    }

    fn untagged(&mut self, line: &[u8]) -> Result<(), Gone> {
        for word in ["OK ", "NO ", "BAD ", "BYE ", "PREAUTH "] {
            if let Some(text) = line.strip_prefix(word.as_bytes()) {
                let text = String::from_utf8_lossy(text).into_owned();
                return self.condition(word.trim_end(), &text);
            }
        }
        let pieces = pieces(line);
        let first = pieces[0].word().to_ascii_uppercase();
        let truth = Arc::clone(&self.truth);
        let mut truth = truth.lock();
        if let Ok(number) = first.parse::<u32>() {
            let word = pieces[1].word().to_ascii_uppercase();
            let text = line.escape_ascii();
            let view = self.view.as_mut().unwrap_or_else(|| panic!("news while nothing is selected: {text}"));
            view.numbered(number, &word, &pieces[2..], &self.running, &mut truth);
        } else if first == "VANISHED" {
            self.view.as_mut().expect("a mailbox is selected").vanished(&pieces[1..], &self.running, &mut truth);
        } else {
            self.said.push(pieces);
        }
        Ok(())
    }

    fn condition(&mut self, word: &str, text: &str) -> Result<(), Gone> {
        if word == "BYE" && self.running.verb.as_deref() != Some("LOGOUT") {
            self.note(&format!("BYE {text}"));
            return Err(Gone);
        }
        let number = |code: &str| {
            let rest = text.strip_prefix('[')?.strip_prefix(code)?.strip_prefix(' ')?;
            rest.split(']').next()?.parse::<u64>().ok()
        };
        let Some(view) = &mut self.view else { return Ok(()) };
        if let Some(validity) = number("UIDVALIDITY") {
            assert!(view.opening, "UIDVALIDITY in the middle");
            view.uidvalidity = u32::try_from(validity).ok();
        }
        if let Some(highest) = number("HIGHESTMODSEQ") {
            view.highest = view.highest.max(highest);
        }
        Ok(())
    }
}
