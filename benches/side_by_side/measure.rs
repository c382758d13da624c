//! The measurements. Each starts the peer afresh, warms it up, measures, and ends it, so that no peer works in the
//! shadow of another one's caches, and resident memory is counted from a known state.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::canned::Canned;
use crate::client::Client;
use crate::dovecot::Backend;
use crate::load::{self, Outcome, Work};
use crate::peers::{Kind, Peer, Room, Running};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) workers: usize,
    pub(crate) dovecot_accounts: usize,
    pub(crate) few_accounts: usize,
    pub(crate) many_accounts: usize,
    pub(crate) idle_sessions: usize,
    /// Of the sessions in IDLE.
    pub(crate) idle_accounts: usize,
    /// Accounts with one session in IDLE each.
    pub(crate) hubs: usize,
    pub(crate) noops: usize,
    pub(crate) bulk_octets: usize,
    pub(crate) bulk_count: usize,
    /// Short sessions in a run, if the time suffices. Below the number of ephemeral ports, so that even a peer which
    /// leaves all of them in TIME_WAIT gets through.
    pub(crate) sessions: usize,
    /// Of a timed run.
    pub(crate) time: Duration,
    /// Of a step that prepares one: logging in to all the accounts.
    pub(crate) warm_time: Duration,
    /// For which those in IDLE are watched doing nothing.
    pub(crate) rest: Duration,
}

impl Scale {
    pub(crate) const FULL: Self = Self {
        workers: 8,
        dovecot_accounts: 20,
        few_accounts: 50,
        many_accounts: 5000,
        idle_sessions: 5000,
        idle_accounts: 250,
        hubs: 10_000,
        noops: 20_000,
        bulk_octets: 64 << 20,
        bulk_count: 8,
        sessions: 20_000,
        time: Duration::from_secs(3),
        warm_time: Duration::from_secs(10),
        rest: Duration::from_secs(30),
    };
    pub(crate) const QUICK: Self = Self {
        many_accounts: 500,
        idle_sessions: 500,
        idle_accounts: 25,
        hubs: 1000,
        noops: 1000,
        bulk_octets: 8 << 20,
        bulk_count: 2,
        time: Duration::from_millis(300),
        warm_time: Duration::from_secs(2),
        rest: Duration::from_secs(1),
        ..Self::FULL
    };
}

/// One of the comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measurement {
    Sessions,
    Cpu,
    Tls,
    Noop,
    Bulk,
    Memory,
    Idle,
    Hubs,
    Accounts,
}

/// A figure of a measurement.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) decimals: usize,
    /// Whether the ratio to the measurement's reference is shown.
    pub(crate) ratio: bool,
}

const fn column(title: &'static str, decimals: usize, ratio: bool) -> Column {
    Column { title, decimals, ratio }
}

impl Measurement {
    pub(crate) const ALL: [Self; 9] = [
        Self::Sessions,
        Self::Cpu,
        Self::Tls,
        Self::Noop,
        Self::Bulk,
        Self::Memory,
        Self::Idle,
        Self::Hubs,
        Self::Accounts,
    ];

    /// As given to `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Cpu => "cpu",
            Self::Tls => "tls",
            Self::Noop => "noop",
            Self::Bulk => "bulk",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Hubs => "hubs",
            Self::Accounts => "accounts",
        }
    }

    pub(crate) fn title(self, scale: &Scale) -> String {
        let Scale { workers, dovecot_accounts, few_accounts, many_accounts, idle_sessions, idle_accounts, .. } = scale;
        match self {
            Self::Sessions => format!(
                "in front of Dovecot, warm: LOGIN, SELECT, FETCH of ten headers, LOGOUT; {workers} at once, \
                 {dovecot_accounts} accounts"
            ),
            Self::Cpu => {
                format!("the same in front of the canned backend; {workers} at once, {few_accounts} accounts")
            }
            Self::Tls => "as cpu, over TLS 1.3: with tickets of earlier sessions, and with full handshakes".to_owned(),
            Self::Noop => "NOOP round trips, canned backend, mailbox selected, one session".to_owned(),
            Self::Bulk => {
                format!("FETCH of one message of {} MiB, canned backend, one session", scale.bulk_octets >> 20)
            }
            Self::Memory => {
                format!("{idle_sessions} idle logged-in sessions of {few_accounts} accounts, canned backend")
            }
            Self::Idle => format!("{idle_sessions} sessions in IDLE of {idle_accounts} accounts, canned backend"),
            Self::Hubs => format!("{} sessions in IDLE, each of an account of its own, canned backend", scale.hubs),
            Self::Accounts => format!("sessions as in cpu, of {few_accounts} and of {many_accounts} accounts"),
        }
    }

    /// Whom the ratios are to.
    pub(crate) fn reference(self) -> Kind {
        if self == Self::Sessions { Kind::Direct } else { Kind::Haproxy }
    }

    pub(crate) fn columns(self) -> &'static [Column] {
        const FAILED: Column = column("failed", 0, false);
        match self {
            Self::Sessions => {
                const {
                    &[
                        column("sessions/s", 0, true),
                        column("login p50 µs", 0, true),
                        column("proxy CPU µs", 0, false),
                        column("Dovecot CPU µs", 0, true),
                        FAILED,
                    ]
                }
            }
            Self::Cpu => {
                const {
                    &[
                        column("proxy CPU µs", 1, true),
                        column("sessions/s", 0, true),
                        column("bench CPU µs", 1, false),
                        FAILED,
                    ]
                }
            }
            Self::Tls => {
                const {
                    &[
                        column("proxy CPU µs", 1, true),
                        column("resumed %", 1, false),
                        column("full: CPU µs", 1, true),
                        FAILED,
                    ]
                }
            }
            Self::Noop => {
                const { &[column("p50 µs", 1, true), column("p99 µs", 1, false), column("proxy CPU µs", 1, false)] }
            }
            Self::Bulk => const { &[column("MiB/s", 0, true), column("CPU ms/GiB", 0, true)] },
            Self::Memory => const { &[column("KiB/session", 2, true), column("sessions", 0, false)] },
            Self::Idle | Self::Hubs => {
                const {
                    &[
                        column("KiB/session", 2, false),
                        column("sessions", 0, false),
                        column("upstream", 0, false),
                        column("at rest: CPU %", 2, false),
                    ]
                }
            }
            Self::Accounts => {
                const {
                    &[
                        column("few: CPU µs", 1, false),
                        column("many: CPU µs", 1, true),
                        column("many ÷ few", 2, false),
                        FAILED,
                    ]
                }
            }
        }
    }

    /// Whether the peer has anything to show in it: direct has no proxy whose memory could be counted, and only those
    /// that do not pool, or share what they pool, carry more sessions in IDLE than an account has connections.
    pub(crate) fn concerns(self, kind: Kind) -> bool {
        match self {
            Self::Memory | Self::Accounts => kind != Kind::Direct,
            Self::Idle | Self::Hubs => matches!(kind, Kind::Multiplex | Kind::MultiplexBefore),
            Self::Tls => kind == Kind::Haproxy || kind.is_imapool(),
            _ => true,
        }
    }

    /// Runs it once for one peer; the figures in the order of [`Measurement::columns`], NaN where there is none.
    pub(crate) fn run(self, stage: &Stage<'_>, peer: &Peer) -> Result<Vec<f64>> {
        match self {
            Self::Sessions => stage.sessions(peer),
            Self::Cpu => stage.cpu(peer),
            Self::Tls => stage.tls(peer),
            Self::Noop => stage.noop(peer),
            Self::Bulk => stage.bulk(peer),
            Self::Memory => stage.memory(peer),
            Self::Idle => stage.idle(peer),
            Self::Hubs => stage.hubs(peer),
            Self::Accounts => stage.accounts(peer),
        }
    }
}

/// What the measurements stand on.
pub(crate) struct Stage<'a> {
    pub(crate) scale: Scale,
    pub(crate) room: Room<'a>,
    pub(crate) canned: &'a Canned,
    pub(crate) dovecot: Option<&'a Backend>,
}

impl Stage<'_> {
    /// One session through the peer, to see that it works at all.
    pub(crate) fn probe(&self, peer: &Peer) -> Result<()> {
        let running = peer.start(&self.room, self.canned.address, None)?;
        let work = Work { workers: 1, accounts: 1, sessions: 2, time: self.scale.warm_time };
        load::run(&running.door, work)?;
        Ok(())
    }

    fn work(&self, accounts: usize) -> Work {
        Work { workers: self.scale.workers, accounts, sessions: self.scale.sessions, time: self.scale.time }
    }

    /// A peer that has seen each account; twice, where a session of the same account may have been there at the same
    /// time.
    fn warm(&self, peer: &Peer, upstream: SocketAddr, accounts: usize) -> Result<Running> {
        self.warmed(peer.start(&self.room, upstream, None)?, accounts)
    }

    fn warmed(&self, running: Running, accounts: usize) -> Result<Running> {
        let passes = if accounts <= 100 { 4 } else { 1 };
        let work = Work { sessions: accounts * passes, time: self.scale.warm_time, ..self.work(accounts) };
        load::run(&running.door, work).context("warming up")?;
        Ok(running)
    }

    fn sessions(&self, peer: &Peer) -> Result<Vec<f64>> {
        let backend = self.dovecot.context("no Dovecot as backend")?;
        let accounts = self.scale.dovecot_accounts;
        let running = self.warm(peer, backend.address, accounts)?;
        let before = backend.server.cpu();
        let (outcome, cpu) = timed_sessions(&running, self.work(accounts))?;
        let backend_cpu = microseconds(backend.server.cpu() - before) / outcome.sessions as f64;
        let login = microseconds(percentile(&outcome.logins, 50));
        Ok(vec![outcome.rate(), login, cpu, backend_cpu, outcome.failed as f64])
    }

    fn cpu(&self, peer: &Peer) -> Result<Vec<f64>> {
        let accounts = self.scale.few_accounts;
        let running = self.warm(peer, self.canned.address, accounts)?;
        let before = own_cpu()?;
        let (outcome, cpu) = timed_sessions(&running, self.work(accounts))?;
        let bench_cpu = microseconds(own_cpu()? - before) / outcome.sessions as f64;
        Ok(vec![cpu, outcome.rate(), bench_cpu, outcome.failed as f64])
    }

    fn tls(&self, peer: &Peer) -> Result<Vec<f64>> {
        let accounts = self.scale.few_accounts;
        let run = |resumes| {
            let client = self.room.tls.client(resumes)?;
            let running = self.warmed(peer.start(&self.room, self.canned.address, Some(&client))?, accounts)?;
            timed_sessions(&running, self.work(accounts))
        };
        let ((resumed, cpu), (full, full_cpu)) = (run(true)?, run(false)?);
        let share = resumed.resumed as f64 / resumed.sessions as f64;
        Ok(vec![cpu, share * 100.0, full_cpu, (resumed.failed + full.failed) as f64])
    }

    fn noop(&self, peer: &Peer) -> Result<Vec<f64>> {
        let running = self.warm(peer, self.canned.address, 1)?;
        let before = cpu_of(&running);
        let times = load::noops(&running.door, self.scale.noops, self.scale.time)?;
        let cpu = (cpu_of(&running) - before) / times.len() as f64;
        Ok(vec![microseconds(percentile(&times, 50)), microseconds(percentile(&times, 99)), cpu * 1e6])
    }

    fn bulk(&self, peer: &Peer) -> Result<Vec<f64>> {
        let running = self.warm(peer, self.canned.address, 1)?;
        let before = cpu_of(&running);
        let (rate, octets) = load::bulk(&running.door, self.scale.bulk_octets, self.scale.bulk_count, self.scale.time)?;
        let cpu = cpu_of(&running) - before;
        Ok(vec![rate / f64::from(1 << 20), cpu * 1e3 / (octets as f64 / f64::from(1 << 30))])
    }

    fn memory(&self, peer: &Peer) -> Result<Vec<f64>> {
        let Scale { few_accounts, idle_sessions, .. } = self.scale;
        let running = self.warm(peer, self.canned.address, few_accounts)?;
        let (clients, kibibytes) = self.hold(&running, idle_sessions, few_accounts, false)?;
        let sessions = clients.len() as f64;
        end(clients)?;
        Ok(vec![kibibytes, sessions])
    }

    fn idle(&self, peer: &Peer) -> Result<Vec<f64>> {
        let Scale { idle_accounts, idle_sessions, .. } = self.scale;
        let running = self.warm(peer, self.canned.address, idle_accounts)?;
        self.rest(&running, idle_sessions, idle_accounts)
    }

    /// Not warm: the connections to the backend count, too.
    fn hubs(&self, peer: &Peer) -> Result<Vec<f64>> {
        let running = peer.start(&self.room, self.canned.address, None)?;
        self.rest(&running, self.scale.hubs, self.scale.hubs)
    }

    /// Sessions in IDLE for which nothing happens.
    fn rest(&self, running: &Running, sessions: usize, accounts: usize) -> Result<Vec<f64>> {
        let (clients, kibibytes) = self.hold(running, sessions, accounts, true)?;
        let (sessions, upstream) = (clients.len() as f64, self.canned.connections() as f64);
        let before = cpu_of(running);
        thread::sleep(self.scale.rest);
        let cpu = (cpu_of(running) - before) / self.scale.rest.as_secs_f64();
        end(clients)?;
        Ok(vec![kibibytes, sessions, upstream, cpu * 100.0])
    }

    /// Many sessions at once, in IDLE or just logged in, and how much memory the proxy takes for each, in KiB.
    fn hold(&self, running: &Running, sessions: usize, accounts: usize, idle: bool) -> Result<(Vec<Client>, f64)> {
        let server = running.server.as_ref().context("no process to look at")?;
        let before = server.settled_resident();
        let work = Work { sessions, time: self.scale.warm_time, ..self.work(accounts) };
        let clients = load::hold(&running.door, work, idle)?;
        let grown = server.settled_resident().saturating_sub(before);
        let kibibytes = grown as f64 / 1024.0 / clients.len() as f64;
        Ok((clients, kibibytes))
    }

    fn accounts(&self, peer: &Peer) -> Result<Vec<f64>> {
        let (mut cpus, mut failed) = (Vec::new(), 0);
        for accounts in [self.scale.few_accounts, self.scale.many_accounts] {
            let running = self.warm(peer, self.canned.address, accounts)?;
            let (outcome, cpu) = timed_sessions(&running, self.work(accounts))?;
            cpus.push(cpu);
            failed += outcome.failed;
        }
        let growth = cpus[1] / cpus[0];
        Ok([cpus, vec![growth, failed as f64]].concat())
    }
}

fn end(clients: Vec<Client>) -> Result<()> {
    clients.into_iter().try_for_each(Client::reset)
}

/// Runs short sessions; with them the proxy's processor time per session in microseconds.
fn timed_sessions(running: &Running, work: Work) -> Result<(Outcome, f64)> {
    let before = cpu_of(running);
    let outcome = load::run(&running.door, work)?;
    let cpu = (cpu_of(running) - before) * 1e6 / outcome.sessions as f64;
    Ok((outcome, cpu))
}

/// In seconds; NaN for direct.
fn cpu_of(running: &Running) -> f64 {
    running.server.as_ref().map_or(f64::NAN, |server| server.cpu().as_secs_f64())
}

/// Of this process: the load and the canned backend.
fn own_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let microseconds = |time: TimeVal| u64::try_from(time.num_microseconds());
    Ok(Duration::from_micros(microseconds(usage.user_time())? + microseconds(usage.system_time())?))
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Of sorted values, of which there is at least one.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}
