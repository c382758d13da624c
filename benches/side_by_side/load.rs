//! Many sessions at once: plain threads with blocking sockets, which cost less than any reactor at these numbers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, ensure};

use crate::client::{Buffers, Client, Door, account, short_session};
use crate::process::interrupted;

/// After so many failures a run ends early.
const FAILURES_LIMIT: usize = 100;

/// How much work, and when to stop at the latest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Sessions at once.
    pub(crate) workers: usize,
    /// The sessions take these accounts in turn.
    pub(crate) accounts: usize,
    /// Sessions in all.
    pub(crate) sessions: usize,
    /// No session begins after this.
    pub(crate) time: Duration,
}

/// What a run of short sessions came to.
pub(crate) struct Outcome {
    pub(crate) sessions: usize,
    pub(crate) failed: usize,
    /// Sessions whose TLS went on from an earlier one's ticket.
    pub(crate) resumed: usize,
    pub(crate) elapsed: Duration,
    /// Of each LOGIN, sorted.
    pub(crate) logins: Vec<Duration>,
}

impl Outcome {
    /// Sessions a second.
    pub(crate) fn rate(&self) -> f64 {
        self.sessions as f64 / self.elapsed.as_secs_f64()
    }
}

/// Runs short sessions.
///
/// # Errors
/// The first session's error, when half of them or more failed.
pub(crate) fn run(door: &Door, work: Work) -> Result<Outcome> {
    let begun = Instant::now();
    let (sessions, errors) =
        in_parallel(work, |number, buffers| short_session(door, &account(number % work.accounts), buffers));
    let elapsed = begun.elapsed();
    let failed = errors.len();
    if failed >= sessions.len()
        && let Some(error) = errors.into_iter().next()
    {
        return Err(error.context(format!("{failed} of {} sessions failed", failed + sessions.len())));
    }
    let resumed = sessions.iter().filter(|session| session.resumed).count();
    let mut logins: Vec<_> = sessions.iter().map(|session| session.login).collect();
    logins.sort_unstable();
    Ok(Outcome { sessions: sessions.len(), failed, resumed, elapsed, logins })
}

/// Logs sessions in and leaves them idle, or in IDLE on INBOX.
///
/// # Errors
/// The first error, when none could log in.
pub(crate) fn hold(door: &Door, work: Work, idle: bool) -> Result<Vec<Client>> {
    let (clients, errors) = in_parallel(work, |number, buffers| {
        let mut client = Client::connect(door, buffers)?;
        client.login(buffers, &account(number % work.accounts))?;
        if idle {
            client.command(buffers, "SELECT INBOX")?;
            client.idle(buffers)?;
        }
        Ok(client)
    });
    match errors.into_iter().next() {
        Some(error) if clients.is_empty() => Err(error),
        _ => Ok(clients),
    }
}

/// The time of each of `count` NOOPs on one session with a mailbox selected, sorted.
pub(crate) fn noops(door: &Door, count: usize, time: Duration) -> Result<Vec<Duration>> {
    let mut buffers = Buffers::new();
    let mut client = selected(door, &mut buffers)?;
    for _ in 0..count / 20 {
        client.command(&mut buffers, "NOOP")?;
    }
    let deadline = Instant::now() + time;
    let mut times = Vec::with_capacity(count);
    while times.len() < count && Instant::now() < deadline {
        let begun = Instant::now();
        client.command(&mut buffers, "NOOP")?;
        times.push(begun.elapsed());
    }
    client.logout(&mut buffers)?;
    ensure!(!times.is_empty(), "no NOOP in time");
    times.sort_unstable();
    Ok(times)
}

/// Fetches the bulk message `count` times; returns octets a second and in all.
pub(crate) fn bulk(door: &Door, size: usize, count: usize, time: Duration) -> Result<(f64, u64)> {
    let mut buffers = Buffers::new();
    let mut client = selected(door, &mut buffers)?;
    let begun = Instant::now();
    let mut octets = 0;
    for _ in 0..count {
        client.fetch_bulk(&mut buffers, size)?;
        octets += size as u64;
        if begun.elapsed() > time {
            break;
        }
    }
    let rate = octets as f64 / begun.elapsed().as_secs_f64();
    client.logout(&mut buffers)?;
    Ok((rate, octets))
}

fn selected(door: &Door, buffers: &mut Buffers) -> Result<Client> {
    let mut client = Client::connect(door, buffers)?;
    client.login(buffers, &account(0))?;
    client.command(buffers, "SELECT INBOX")?;
    Ok(client)
}

/// Has the workers do `job` with the numbers from 0 on, and collects what they return.
fn in_parallel<T: Send>(work: Work, job: impl Fn(usize, &mut Buffers) -> Result<T> + Sync) -> (Vec<T>, Vec<Error>) {
    let (next, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let deadline = Instant::now() + work.time;
    let worker = || {
        let (mut buffers, mut done, mut errors) = (Buffers::new(), Vec::new(), Vec::new());
        while Instant::now() < deadline && !interrupted() && failures.load(Ordering::Relaxed) < FAILURES_LIMIT {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= work.sessions {
                break;
            }
            match job(number, &mut buffers) {
                Ok(value) => done.push(value),
                Err(error) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    errors.push(error);
                }
            }
        }
        (done, errors)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..work.workers).map(|_| scope.spawn(worker)).collect();
        let (mut done, mut errors) = (Vec::new(), Vec::new());
        for handle in workers {
            let (d, e) = handle.join().expect("a worker does not panic");
            done.extend(d);
            errors.extend(e);
        }
        (done, errors)
    })
}
