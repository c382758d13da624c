//! A backend that closes after any octet of what it says: every command of a client is answered, or its connection
//! ends; what is answered is not the end of somebody else's line or literal, and the next connection serves on. Both
//! modes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imapool::config::PoolMode;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::client::Socket;
use crate::support::{Conn, Harness, Scripted, soon};

/// Last words: of a server that ends, or has lost its wits.
const FAREWELLS: &[&str] = &[
    "",
    "* BYE ending\r\n",
    "\r\n* BYE ending\r\n",
    "foo OK done\r\n",
    "\r\nfoo NO done\r\n",
    "\r\n)\r\nfoo\r\n",
    "+ \r\n",
];

/// Nothing is cut.
const WHOLE: usize = usize::MAX;
/// Neither is what was to be.
const HEALED: usize = usize::MAX - 1;

/// Octets that may still be said.
struct Mouth {
    conn: Conn,
    left: usize,
    limit: Arc<AtomicUsize>,
    /// What is said last.
    farewell: &'static str,
}

impl Mouth {
    /// False: it is shut.
    async fn say(&mut self, octets: &str) -> bool {
        if self.limit.load(Ordering::SeqCst) == HEALED {
            self.left = WHOLE;
        }
        let said = &octets.as_bytes()[..octets.len().min(self.left)];
        self.conn.send(said).await;
        self.left = self.left.saturating_sub(octets.len());
        self.left > 0
    }

    async fn serve(mut self) {
        self.answer().await;
        if self.left == 0 {
            self.conn.send(self.farewell).await;
        }
    }

    async fn answer(&mut self) {
        if self.left == 0 {
            return;
        }
        while let Some(command) = self.conn.command().await {
            let tag = self.conn.tag.clone();
            if command == "IDLE" {
                if !self.say("+ idling\r\n* 4 EXISTS\r\n").await || self.conn.line().await.is_none() {
                    return;
                }
            } else if command.ends_with('}') {
                let (_, size) = command.trim_end_matches('}').rsplit_once('{').unwrap();
                if !self.say("+ go\r\n").await {
                    return;
                }
                self.conn.octets(size.parse().unwrap()).await;
                self.conn.line().await;
            }
            let data = data(&command);
            if !self.say(&format!("{data}{tag} OK done\r\n")).await {
                return;
            }
            if command == "LOGOUT" {
                return;
            }
        }
    }
}

fn data(command: &str) -> String {
    match command {
        "LOGOUT" => "* BYE bye\r\n".into(),
        _ if command.starts_with("SELECT ") => {
            "* FLAGS (\\Seen)\r\n* 3 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 14] x\r\n".into()
        }
        _ if command.starts_with("STATUS ") => "* STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)\r\n".into(),
        _ if command.starts_with("UID SEARCH 1:") => "* SEARCH 11 12 13\r\n".into(),
        _ if command.contains("SEARCH") => "* SEARCH 2\r\n".into(),
        _ if command.starts_with("LIST ") => "* LIST () \"/\" {5}\r\nx OK \r\nfoo bar\r\n".into(),
        _ if command.contains("BODY[]") => {
            "* 2 FETCH (BODY[] {12}\r\n1 OK done\r\n) FLAGS (\\Seen) UID 12)\r\n* 1 FETCH (ENVELOPE (\"a\r\n b\"))\r\n"
                .into()
        }
        _ if command.contains("STORE") => "* 1 FETCH (FLAGS (\\Deleted))\r\n".into(),
        _ if command.contains("MOVE") => "OK [COPYUID 1 13 5]\r\n* 3 EXPUNGE\r\n".into(),
        _ => String::new(),
    }
}

/// All commands that a client gives here; `{}` stands for a literal of five octets.
const COMMANDS: [&str; 10] = [
    "SELECT INBOX",
    "LIST \"\" *",
    "FETCH 1:2 BODY[]",
    "STORE 1 +FLAGS (\\Deleted)",
    "SEARCH ALL",
    "IDLE",
    "APPEND x {}",
    "UID MOVE 13 x",
    "COPY 1 x",
    "NOOP",
];

/// Whether the reply with this tag stands at the end of `heard`, which is well-framed up to there; `None`: more has
/// to come.
fn is_answered(heard: &[u8], tag: &str) -> Option<()> {
    let mut rest = heard;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let (line, next) = rest.split_at(end + 1);
        rest = next;
        let line = String::from_utf8_lossy(line).into_owned();
        if line.starts_with(&format!("{tag} ")) {
            return Some(());
        }
        let literal = line.trim_end().strip_suffix('}').and_then(|line| line.rsplit_once('{')?.1.parse::<usize>().ok());
        if let Some(size) = literal.filter(|_| line.starts_with("* ") || line.starts_with(' ')) {
            rest = rest.get(size..)?;
        }
    }
    None
}

/// A client, and all it has heard since its last command.
struct Talk {
    stream: Box<dyn Socket>,
    heard: Vec<u8>,
    number: usize,
}

impl Talk {
    /// False: the connection has ended.
    async fn read(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let read = soon("an answer or an end", self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.heard.extend_from_slice(&chunk[..read]);
        read > 0
    }

    /// Gives a command; false: the connection has ended before its tagged reply.
    async fn command(&mut self, command: &str) -> bool {
        self.number += 1;
        let tag = format!("c{}", self.number);
        self.heard.clear();
        let (line, literal) = match command.strip_suffix("{}") {
            Some(start) => (format!("{start}{{5}}"), Some("hello\r\n")),
            None => (command.to_owned(), (command == "IDLE").then_some("DONE\r\n")),
        };
        let _gone = self.stream.write_all(format!("{tag} {line}\r\n").as_bytes()).await;
        let mut more = literal;
        loop {
            if is_answered(&self.heard, &tag).is_some() {
                return true;
            }
            if more.is_some() && self.heard.split(|b| *b == b'\n').any(|line| line.starts_with(b"+ ")) {
                let _gone = self.stream.write_all(more.take().unwrap().as_bytes()).await;
            }
            if !self.read().await {
                return false;
            }
        }
    }
}

async fn talk(harness: &Harness, user: &str) -> Talk {
    Talk { stream: harness.login(user).await.into_stream(), heard: Vec::new(), number: 0 }
}

/// Runs these commands of one session, beside one that has selected the mailbox, and closes the first connection
/// after so many octets. False: none was.
async fn dialogue(harness: &Harness, limit: &AtomicUsize, user: &str, commands: &[&str], octets: usize) -> bool {
    limit.store(octets, Ordering::SeqCst);
    let mut one = talk(harness, user).await;
    let mut two = talk(harness, user).await;
    let mut there = two.command("SELECT INBOX").await;
    for command in commands {
        if !one.command(command).await {
            break;
        }
        there = there && two.command("NOOP").await;
    }
    // Whatever became of those two: the next one is served, on whichever connection.
    let cut = limit.swap(HEALED, Ordering::SeqCst) == WHOLE;
    let mut three = talk(harness, user).await;
    assert!(three.command("LIST \"\" *").await && three.command("SELECT INBOX").await && three.command("NOOP").await);
    let heard = String::from_utf8_lossy(&three.heard).into_owned();
    // What was cut may be a part of a status's text.
    assert!(heard.lines().last().is_some_and(|last| last.starts_with("c3 OK")), "{heard:?}");
    cut
}

async fn stage(mode: PoolMode, farewell: &'static str) -> (Scripted, Harness, Arc<AtomicUsize>) {
    let limit = Arc::new(AtomicUsize::new(WHOLE));
    let ours = Arc::clone(&limit);
    let backend = Scripted::start(move |conn: Conn| {
        // Only the first connection since the number was set.
        let taken = ours.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| (left != HEALED).then_some(WHOLE));
        let (left, limit) = (taken.unwrap_or(WHOLE), Arc::clone(&ours));
        async move { Mouth { conn, left, limit, farewell }.serve().await }
    })
    .await;
    let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
    (backend, harness, limit)
}

async fn everywhere(mode: PoolMode) {
    let (_backend, harness, limit) = stage(mode, "").await;
    // More than all that is said in reply to the commands.
    for octets in 0..900 {
        assert!(dialogue(&harness, &limit, &format!("u{octets}"), &COMMANDS, octets).await, "no connection was cut");
    }
    harness.finish().await;
}

#[tokio::test]
async fn cut_anywhere_when_sharing() {
    everywhere(PoolMode::Multiplex).await;
}

#[tokio::test]
async fn cut_anywhere_by_session() {
    everywhere(PoolMode::Session).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_commands_cut_anywhere(
        chosen in proptest::collection::vec(0..COMMANDS.len(), 1..8), octets in 0usize..600, multiplex: bool,
        farewell in proptest::sample::select(FAREWELLS),
    ) {
        let commands: Vec<&str> = chosen.iter().map(|at| COMMANDS[*at]).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mode = if multiplex { PoolMode::Multiplex } else { PoolMode::Session };
            let (_backend, harness, limit) = stage(mode, farewell).await;
            assert!(dialogue(&harness, &limit, "u8", &commands, octets).await);
            harness.finish().await;
        });
    }
}
