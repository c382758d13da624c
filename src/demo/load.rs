//! The load: many short IMAP sessions, as a front end makes them that keeps no connection.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::platform::no_ports;
use crate::platform::ports::keep_to;

/// A session that takes longer than this has failed.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);
/// Octets of one reply.
const REPLY_LIMIT: usize = 1 << 20;

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// LOGOUT, and close as soon as it is answered.
    Logout,
    /// Close, without a word.
    HangUp,
}

/// What to run.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the sessions connect to.
    pub address: SocketAddr,
    /// Sessions in all.
    pub sessions: u32,
    /// They take turns in so many accounts, at least one; see [`user`] and [`password`].
    pub accounts: u32,
    /// Sessions at once, at least one.
    pub concurrency: u32,
    /// How they end.
    pub ending: Ending,
    /// Sessions that begin in a second, at least one, as long as no more than `concurrency` are open; `None`: as fast
    /// as they go.
    pub rate: Option<u32>,
    /// The local ports they may connect from (Linux 6.3); `None`: all that the host has.
    pub ports: Option<RangeInclusive<u16>>,
    /// No session begins after this time.
    pub time_limit: Duration,
}

/// The user name of the `n`-th account.
pub fn user(n: u32) -> String {
    format!("user{n}")
}

/// The password of a user.
pub fn password(user: &str) -> String {
    format!("pw-{user}")
}

/// How a session fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum SessionError {
    /// `connect()` failed: EADDRNOTAVAIL where the ports are used up.
    #[error("no port left to connect from")]
    NoPort,
    /// `connect()` failed in another way.
    #[error("could not connect")]
    Connect,
    /// The connection ended or failed before its time.
    #[error("connection lost")]
    Lost,
    /// A command was not answered with OK.
    #[error("command refused")]
    Refused,
    /// A message of another account was read.
    #[error("read another account's message")]
    Foreign,
    /// Longer than three seconds.
    #[error("took longer than 3 s")]
    TimedOut,
}

/// What came of a load.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From the first session's beginning to the last one's end.
    pub elapsed: Duration,
    /// How long each session that went well took, ascending.
    pub durations: Vec<Duration>,
    /// Sessions that failed, by reason.
    pub failures: BTreeMap<SessionError, u32>,
}

impl Outcome {
    /// Sessions that failed.
    pub fn failed(&self) -> u32 {
        self.failures.values().sum()
    }

    /// Sessions that went well, each second.
    pub fn per_second(&self) -> f64 {
        self.durations.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The duration which this share (0.0 to 1.0) of the sessions did not exceed; `None` where none went well.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let last = self.durations.len().checked_sub(1)?;
        self.durations.get((last as f64 * share).round() as usize).copied()
    }

    fn add(&mut self, other: Self) {
        self.durations.extend(other.durations);
        for (error, count) in other.failures {
            *self.failures.entry(error).or_default() += count;
        }
    }
}

/// Runs the load; the bar moves by one for each session.
pub async fn run(load: Load, bar: &ProgressBar) -> Outcome {
    let next = Arc::new(AtomicU32::new(0));
    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..load.concurrency {
        workers.spawn(work(load.clone(), next.clone(), start, bar.clone()));
    }
    let mut outcome = Outcome::default();
    while let Some(part) = workers.join_next().await {
        // A worker cannot panic; were it to, its sessions would be missing from the count.
        outcome.add(part.unwrap_or_default());
    }
    outcome.elapsed = start.elapsed();
    outcome.durations.sort_unstable();
    outcome
}

/// Runs one session after the other until none is left.
async fn work(load: Load, next: Arc<AtomicU32>, start: Instant, bar: ProgressBar) -> Outcome {
    let mut outcome = Outcome::default();
    let mut buffer = Vec::with_capacity(4096);
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= load.sessions || start.elapsed() > load.time_limit {
            return outcome;
        }
        if let Some(rate) = load.rate {
            sleep_until((start + Duration::from_secs_f64(f64::from(n) / f64::from(rate))).into()).await;
        }
        let user = user(n % load.accounts + 1);
        let began = Instant::now();
        match timeout(SESSION_TIMEOUT, session(&load, &user, &mut buffer)).await {
            Ok(Ok(())) => outcome.durations.push(began.elapsed()),
            Ok(Err(error)) => *outcome.failures.entry(error).or_default() += 1,
            Err(_) => *outcome.failures.entry(SessionError::TimedOut).or_default() += 1,
        }
        bar.inc(1);
    }
}

/// One session: LOGIN, SELECT, FETCH, and the end.
async fn session(load: &Load, user: &str, buffer: &mut Vec<u8>) -> Result<(), SessionError> {
    let mut stream = connect(load).await?;
    reply(&mut stream, "*", buffer).await?;
    let login = format!("a1 LOGIN {user} {}\r\n", password(user));
    command(&mut stream, "a1", &login, buffer).await?;
    command(&mut stream, "a2", "a2 SELECT INBOX\r\n", buffer).await?;
    let fetch = "a3 FETCH 1:10 (UID FLAGS BODY.PEEK[HEADER.FIELDS (FROM SUBJECT DATE)])\r\n";
    command(&mut stream, "a3", fetch, buffer).await?;
    own_messages_only(buffer, user)?;
    match load.ending {
        Ending::Logout => command(&mut stream, "a4", "a4 LOGOUT\r\n", buffer).await,
        Ending::HangUp => Ok(()),
    }
}

async fn connect(load: &Load) -> Result<TcpStream, SessionError> {
    let failed = |error: io::Error| if no_ports(&error) { SessionError::NoPort } else { SessionError::Connect };
    let socket = if load.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    if let Some(ports) = &load.ports {
        keep_to(SockRef::from(&socket), ports).map_err(failed)?;
    }
    let stream = socket.connect(load.address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(|_| SessionError::Lost)?;
    Ok(stream)
}

/// Every message names its account in the subject.
fn own_messages_only(reply: &[u8], user: &str) -> Result<(), SessionError> {
    let own = format!("Subject: [{user}] ");
    let all = memchr::memmem::find_iter(reply, b"Subject: ").count();
    let mine = memchr::memmem::find_iter(reply, own.as_bytes()).count();
    if mine == all && mine > 0 { Ok(()) } else { Err(SessionError::Foreign) }
}

async fn command(stream: &mut TcpStream, tag: &str, line: &str, buffer: &mut Vec<u8>) -> Result<(), SessionError> {
    stream.write_all(line.as_bytes()).await.map_err(|_| SessionError::Lost)?;
    reply(stream, tag, buffer).await
}

/// Reads up to the line that begins with the tag.
async fn reply(stream: &mut TcpStream, tag: &str, buffer: &mut Vec<u8>) -> Result<(), SessionError> {
    buffer.clear();
    let mut line = 0;
    loop {
        while let Some(length) = memchr::memchr(b'\n', &buffer[line..]) {
            let rest = buffer[line..line + length].strip_prefix(tag.as_bytes()).and_then(|l| l.strip_prefix(b" "));
            if let Some(status) = rest {
                return if status.starts_with(b"OK") { Ok(()) } else { Err(SessionError::Refused) };
            }
            line += length + 1;
        }
        match stream.read_buf(buffer).await {
            Ok(n) if n > 0 && buffer.len() < REPLY_LIMIT => {}
            _ => return Err(SessionError::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few_and_none() {
        let durations = (1..=5).map(Duration::from_millis).collect();
        let outcome = Outcome { durations, ..Outcome::default() };
        assert_eq!(outcome.quantile(0.5), Some(Duration::from_millis(3)));
        assert_eq!(outcome.quantile(0.99), Some(Duration::from_millis(5)));
        assert_eq!(Outcome::default().quantile(0.5), None);
    }

    #[test]
    fn a_foreign_message_is_noticed() {
        assert!(own_messages_only(b"Subject: [user1] x\r\n", "user1").is_ok());
        for reply in [&b""[..], b"Subject: [user1] x\r\nSubject: [user2] x\r\n", b"Subject: [user11] x\r\n"] {
            assert_eq!(own_messages_only(reply, "user1"), Err(SessionError::Foreign));
        }
    }
}
