//! The front end's load: short sessions, which end in every way a session can.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::proxy::Address;

/// A session that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
const HEADERS: &str = "FETCH 1:10 (UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])";
const BODIES: &str = "FETCH 1:10 (BODY.PEEK[])";

/// How sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// LOGOUT, and close as soon as it is answered.
    Polite,
    /// Close, once there is nothing to read.
    Abrupt,
    /// By turns: half-closes, with and without LOGOUT; closes in the middle of a reply, before one, before the login.
    Mixed,
}

/// Chooses the account of the n-th session.
pub(crate) type Chooser = Arc<dyn Fn(u32) -> u32 + Send + Sync>;

/// What to run.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) address: Address,
    pub(crate) ending: Ending,
    pub(crate) sessions: u32,
    pub(crate) at_once: u32,
    pub(crate) account: Chooser,
}

/// What came of it: what went wrong, and how often.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) went_well: u32,
    pub(crate) failures: BTreeMap<String, u32>,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    pub(crate) fn failed(&self) -> u32 {
        self.failures.values().sum()
    }
}

/// A TCP connection, or TLS on one.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Runs the load.
pub(crate) async fn run(load: Load) -> Outcome {
    let next = Arc::new(AtomicU32::new(0));
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..load.at_once {
        let (load, next) = (load.clone(), Arc::clone(&next));
        workers.spawn(async move {
            let mut failures = Vec::new();
            let mut went_well = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= load.sessions {
                    return (went_well, failures);
                }
                let user = format!("user{}", (load.account)(n));
                match timeout(PATIENCE, session(&load.address, &user, load.ending, n)).await {
                    Ok(Ok(())) => went_well += 1,
                    Ok(Err(failure)) => failures.push(failure),
                    Err(_) => failures.push("took too long".to_owned()),
                }
            }
        });
    }
    let mut outcome = Outcome::default();
    while let Some(part) = workers.join_next().await {
        let (went_well, failures) = part.expect("no panic");
        outcome.went_well += went_well;
        for failure in failures {
            *outcome.failures.entry(failure).or_default() += 1;
        }
    }
    outcome.elapsed = begun.elapsed();
    outcome
}

async fn session(address: &Address, user: &str, ending: Ending, n: u32) -> Result<(), String> {
    let mut client = Client::connect(address).await?;
    if ending == Ending::Mixed && n % 6 == 5 {
        return Ok(());
    }
    client.command("a1", &format!("LOGIN {user} pw-{user}")).await?;
    client.command("a2", "SELECT INBOX").await?;
    match (ending, n % 6) {
        (Ending::Polite, _) => {
            client.headers(user).await?;
            client.command("a4", "LOGOUT").await
        }
        (Ending::Abrupt, _) => client.headers(user).await,
        (Ending::Mixed, 0) => {
            client.send("a3 LOGOUT\r\n").await?;
            client.half_close().await?;
            client.reply("a3").await?;
            client.end().await
        }
        (Ending::Mixed, 1) => {
            client.send(&format!("a3 {HEADERS}\r\n")).await?;
            client.half_close().await?;
            client.reply("a3").await?;
            client.own_messages(user)?;
            client.end().await
        }
        (Ending::Mixed, 2) => {
            client.send(&format!("a3 {HEADERS}\r\na4 LOGOUT\r\n")).await?;
            client.half_close().await?;
            client.reply("a4").await?;
            client.own_messages(user)?;
            client.end().await
        }
        (Ending::Mixed, 3) => {
            client.send(&format!("a3 {BODIES}\r\n")).await?;
            client.some().await
        }
        (Ending::Mixed, _) => client.send(&format!("a3 {BODIES}\r\n")).await,
    }
}

/// One connection of the front end.
pub(crate) struct Client {
    stream: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects and reads the greeting.
    pub(crate) async fn connect(address: &Address) -> Result<Self, String> {
        let stream = TcpStream::connect(address.tcp).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse => "no port left".to_owned(),
            _ => format!("connect: {error}"),
        })?;
        stream.set_nodelay(true).map_err(failed)?;
        let stream: Box<dyn Io> = match &address.tls {
            None => Box::new(stream),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await.map_err(failed)?),
        };
        let mut client = Self { stream, buffer: Vec::new() };
        client.reply("*").await?;
        Ok(client)
    }

    /// Runs a command; what is not answered by OK is an error: the reply.
    pub(crate) async fn command(&mut self, tag: &str, command: &str) -> Result<(), String> {
        self.send(&format!("{tag} {command}\r\n")).await?;
        self.reply(tag).await
    }

    async fn send(&mut self, line: &str) -> Result<(), String> {
        self.stream.write_all(line.as_bytes()).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)
    }

    async fn half_close(&mut self) -> Result<(), String> {
        self.stream.shutdown().await.map_err(failed)
    }

    /// Reads up to the line that begins with the tag.
    async fn reply(&mut self, tag: &str) -> Result<(), String> {
        self.buffer.clear();
        let mut line = 0;
        loop {
            while let Some(length) = self.buffer[line..].iter().position(|octet| *octet == b'\n') {
                let text = &self.buffer[line..line + length];
                if let Some(status) = text.strip_prefix(tag.as_bytes()).and_then(|rest| rest.strip_prefix(b" ")) {
                    let text = String::from_utf8_lossy(text).trim().to_owned();
                    return if status.starts_with(b"OK") { Ok(()) } else { Err(text) };
                }
                line += length + 1;
            }
            self.read(tag).await?;
        }
    }

    async fn read(&mut self, wanted: &str) -> Result<(), String> {
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(format!("closed before {wanted}")),
            Ok(_) => Ok(()),
            Err(error) => Err(format!("before {wanted}: {error}")),
        }
    }

    /// Reads the first octets of a reply.
    async fn some(&mut self) -> Result<(), String> {
        self.buffer = Vec::with_capacity(100);
        self.read("the reply").await
    }

    /// Reads to the end of the connection, which may be a reset: everything that matters has been read.
    async fn end(&mut self) -> Result<(), String> {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        if rest.is_empty() { Ok(()) } else { Err("octets after the last reply".to_owned()) }
    }

    async fn headers(&mut self, user: &str) -> Result<(), String> {
        self.command("a3", HEADERS).await?;
        self.own_messages(user)
    }

    /// Every message names its account in its subject.
    fn own_messages(&self, user: &str) -> Result<(), String> {
        let text = String::from_utf8_lossy(&self.buffer);
        let own = text.matches(&format!("Subject: [{user}] ")).count();
        if own == 10 && own == text.matches("Subject: ").count() {
            return Ok(());
        }
        Err(format!("{own} own messages"))
    }
}

fn failed(error: io::Error) -> String {
    error.to_string()
}
