//! A backend that costs next to nothing: it knows any account, and answers with fixed octets. What is left of a
//! session is then the proxy in front of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use memchr::memchr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::client::MESSAGES;

const CAPABILITIES: &str = "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN IDLE UNSELECT";
/// The bulk message is sent in pieces of this size, small enough to stay in a processor's cache.
const PIECE: usize = 128 * 1024;
/// A command longer than this is no command.
const LINE_LIMIT: usize = 64 * 1024;

/// The listening server; its accepting task ends when dropped.
pub(crate) struct Canned {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
    texts: Arc<Texts>,
}

impl Canned {
    /// Serves on a free loopback port; `bulk` is the size of the message that `BODY.PEEK[]` fetches, in octets.
    pub(crate) fn start(runtime: &Handle, bulk: usize) -> Result<Self> {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let texts = Arc::new(Texts::new(bulk));
        let each = Arc::clone(&texts);
        let accepting = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // An error means that the client has gone, which is its right.
                tokio::spawn(serve(stream, Arc::clone(&each)));
            }
        });
        Ok(Self { address, accepting, texts })
    }

    /// How many are logged in.
    pub(crate) fn connections(&self) -> usize {
        self.texts.logged_in.load(Ordering::Relaxed)
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The fixed replies, without the tagged line, and what else is shared.
struct Texts {
    /// Connections.
    logged_in: AtomicUsize,
    greeting: String,
    capability: String,
    select: String,
    status: String,
    search: String,
    headers: String,
    bulk: usize,
    piece: Vec<u8>,
}

impl Texts {
    fn new(bulk: usize) -> Self {
        let header = "From: A Sender <sender@example.org>\r\nSubject: A subject of the usual length, more or less\r\n\
                      Date: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\n";
        let headers = (1..=MESSAGES).map(|number| {
            let length = header.len();
            format!("* {number} FETCH (BODY[HEADER.FIELDS (FROM SUBJECT DATE)] {{{length}}}\r\n{header})\r\n")
        });
        let line = [&[b'x'; 62][..], b"\r\n"].concat();
        Self {
            logged_in: AtomicUsize::new(0),
            greeting: format!("* OK [CAPABILITY {CAPABILITIES}] canned backend ready\r\n"),
            capability: format!("* CAPABILITY {CAPABILITIES}\r\n"),
            select: format!(
                "* FLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft)\r\n\
                 * OK [PERMANENTFLAGS (\\Answered \\Flagged \\Deleted \\Seen \\Draft \\*)] Flags permitted.\r\n\
                 * {MESSAGES} EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 1] UIDs valid\r\n\
                 * OK [UIDNEXT {}] Predicted next UID\r\n",
                MESSAGES + 1
            ),
            status: format!("* STATUS INBOX (UIDNEXT {})\r\n", MESSAGES + 1),
            search: format!("* SEARCH{}\r\n", (1..=MESSAGES).map(|uid| format!(" {uid}")).collect::<String>()),
            headers: headers.collect(),
            bulk,
            piece: line.repeat(PIECE / line.len()),
        }
    }
}

/// What the next octets are.
enum Expect {
    /// A command's first line, or the next one after a literal in it.
    Line,
    /// The rest of a literal.
    Literal(usize),
    /// The client's answer in AUTHENTICATE.
    Sasl,
    /// DONE.
    Done,
}

struct Session {
    texts: Arc<Texts>,
    expect: Expect,
    /// The command so far, without its literals.
    command: Vec<u8>,
    out: Vec<u8>,
    bulk: bool,
    logged_in: bool,
    closing: bool,
}

async fn serve(mut stream: TcpStream, texts: Arc<Texts>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(texts.greeting.as_bytes()).await?;
    let mut session = Session {
        texts,
        expect: Expect::Line,
        command: Vec::new(),
        out: Vec::new(),
        bulk: false,
        logged_in: false,
        closing: false,
    };
    let mut input = Vec::with_capacity(512);
    while !session.closing && input.len() < LINE_LIMIT && stream.read_buf(&mut input).await? > 0 {
        let mut used = 0;
        while let Some(n) = session.step(&input[used..]) {
            used += n;
            if session.bulk {
                session.send_bulk(&mut stream).await?;
            }
        }
        input.drain(..used);
        stream.write_all(&session.out).await?;
        session.out.clear();
    }
    // The server closes first, as it should, and keeps the socket until the client has closed too.
    stream.shutdown().await?;
    while stream.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}

impl Drop for Session {
    fn drop(&mut self) {
        self.texts.logged_in.fetch_sub(usize::from(self.logged_in), Ordering::Relaxed);
    }
}

impl Session {
    /// Takes one line or piece of a literal from the input and returns its length; `None`: more input is needed.
    fn step(&mut self, input: &[u8]) -> Option<usize> {
        if self.closing || input.is_empty() {
            return None;
        }
        if let Expect::Literal(rest) = self.expect {
            let n = rest.min(input.len());
            self.expect = if n == rest { Expect::Line } else { Expect::Literal(rest - n) };
            return Some(n);
        }
        let end = memchr(b'\n', input)? + 1;
        let line = &input[..end];
        let line = line.strip_suffix(b"\r\n").unwrap_or(&line[..end - 1]);
        match self.expect {
            Expect::Line => self.command_line(line),
            Expect::Sasl | Expect::Done | Expect::Literal(_) => self.finish("OK", ""),
        }
        Some(end)
    }

    fn command_line(&mut self, line: &[u8]) {
        self.command.extend_from_slice(line);
        let Some((length, synchronising)) = literal(line) else { return self.run() };
        if synchronising {
            self.out.extend_from_slice(b"+ OK\r\n");
        }
        self.expect = if length == 0 { Expect::Line } else { Expect::Literal(length) };
    }

    fn run(&mut self) {
        let texts = Arc::clone(&self.texts);
        let verb = self.word(1);
        let verb = if verb.eq_ignore_ascii_case("UID") { self.word(2) } else { verb };
        // Any login is accepted.
        if !self.logged_in && ["LOGIN", "AUTHENTICATE"].iter().any(|login| verb.eq_ignore_ascii_case(login)) {
            self.logged_in = true;
            texts.logged_in.fetch_add(1, Ordering::Relaxed);
        }
        match verb.to_ascii_uppercase().as_str() {
            "LOGIN" => self.finish(&format!("OK [CAPABILITY {CAPABILITIES}]"), ""),
            "AUTHENTICATE" if self.word(3).is_empty() => self.wait_for(Expect::Sasl, b"+ \r\n"),
            "AUTHENTICATE" => self.finish(&format!("OK [CAPABILITY {CAPABILITIES}]"), ""),
            "CAPABILITY" => self.finish("OK", &texts.capability),
            "SELECT" => self.finish("OK [READ-WRITE]", &texts.select),
            "EXAMINE" => self.finish("OK [READ-ONLY]", &texts.select),
            "FETCH" if memchr::memmem::find(&self.command, b"[]").is_some() => self.bulk = true,
            "FETCH" => self.finish("OK", &texts.headers),
            "STATUS" => self.finish("OK", &texts.status),
            "SEARCH" => self.finish("OK", &texts.search),
            "NOOP" | "UNSELECT" | "CLOSE" | "CHECK" => self.finish("OK", ""),
            "LIST" => self.finish("OK", "* LIST (\\Noselect) \"/\" \"\"\r\n"),
            "NAMESPACE" => self.finish("OK", "* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n"),
            "ID" => self.finish("OK", "* ID NIL\r\n"),
            "IDLE" => self.wait_for(Expect::Done, b"+ idling\r\n"),
            "LOGOUT" => {
                self.finish("OK", "* BYE canned backend is closing\r\n");
                self.closing = true;
            }
            _ => self.finish("BAD", ""),
        }
    }

    fn wait_for(&mut self, expect: Expect, continuation: &[u8]) {
        self.expect = expect;
        self.out.extend_from_slice(continuation);
    }

    /// The untagged replies and the tagged one.
    fn finish(&mut self, status: &str, untagged: &str) {
        self.out.extend_from_slice(untagged.as_bytes());
        let tag = self.command.split(|octet| *octet == b' ').next().unwrap_or_default();
        self.out.extend_from_slice(tag);
        self.out.extend_from_slice(format!(" {status} done.\r\n").as_bytes());
        self.command.clear();
        self.expect = Expect::Line;
    }

    async fn send_bulk(&mut self, stream: &mut TcpStream) -> std::io::Result<()> {
        let texts = Arc::clone(&self.texts);
        self.out.extend_from_slice(format!("* 1 FETCH (BODY[] {{{}}}\r\n", texts.bulk).as_bytes());
        stream.write_all(&self.out).await?;
        self.out.clear();
        let mut rest = texts.bulk;
        while rest > 0 {
            let n = rest.min(texts.piece.len());
            stream.write_all(&texts.piece[..n]).await?;
            rest -= n;
        }
        self.bulk = false;
        self.finish("OK", ")\r\n");
        Ok(())
    }

    /// The n-th word of the command, counted from 0; empty where there is none.
    fn word(&self, n: usize) -> String {
        let word = self.command.split(|octet| *octet == b' ').nth(n).unwrap_or_default();
        String::from_utf8_lossy(word).into_owned()
    }
}

/// The literal announced at the end of a line: its length, and whether the client waits for a continuation.
fn literal(line: &[u8]) -> Option<(usize, bool)> {
    let inner = line.strip_suffix(b"}")?;
    let open = memchr::memrchr(b'{', inner)?;
    let digits = std::str::from_utf8(&inner[open + 1..]).ok()?;
    let length = digits.trim_end_matches('+').parse().ok()?;
    Some((length, !digits.ends_with('+')))
}
