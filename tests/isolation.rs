//! No session ever sees an octet that is not its own.
//!
//! Random sessions of several accounts run against proxies in front of a backend which says of every octet whose it is.
//! Clients leave at any octet, half-close, pipeline, stall and read slowly; the backend closes, resets, stalls, says
//! goodbye, sends garbage, wrong tags and late data. What a client receives is checked octet by octet, and what the
//! backend receives is checked against the account that the connection was logged in for.
//!
//! What a session does and what the backend does to it follow from the seed and the session's number; how the sessions
//! interleave does not. Environment: `IMAPOOL_ISOLATION_SEED`; `IMAPOOL_ISOLATION_SESSIONS`, how many in all (default
//! 100,000); `IMAPOOL_ISOLATION_SECONDS`, instead, how long; `IMAPOOL_ISOLATION_ONLY`, a session's number, to run it
//! alone. `IMAPOOL_ISOLATION_NUMBERS`, anything, prints the metrics of each proxy in the end.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

#[path = "isolation/backend.rs"]
mod backend;
#[path = "isolation/check.rs"]
mod check;
#[path = "isolation/client.rs"]
mod client;
#[path = "isolation/plan.rs"]
mod plan;
#[path = "isolation/world.rs"]
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backend::Traits;
use imapool::config::{PerCredential, PoolMode};
use world::{Running, Setting};

const PLAIN: Traits = Traits { literal_plus: true, unselect: true, shared: false, flaky_logins: 5 };

const SETTING: Setting = Setting { name: "", traits: PLAIN, clients: 24, every: 1, configure: |_| {} };

/// Each has its own way of using connections again.
const SETTINGS: [Setting; 9] = [
    Setting { name: "defaults", ..SETTING },
    Setting {
        name: "one",
        traits: Traits { literal_plus: false, unselect: false, shared: false, flaky_logins: 0 },
        clients: 16,
        configure: |config| config.pool.max_per_account = 1,
        ..SETTING
    },
    Setting {
        name: "restless",
        configure: |config| {
            config.pool.max_per_account = 2;
            config.pool.linger = Duration::from_millis(1);
            config.pool.check_after = Duration::from_millis(1);
            config.pool.keepalive = Duration::from_millis(3);
            config.pool.max_lifetime = Duration::from_millis(700);
        },
        ..SETTING
    },
    Setting {
        name: "patient",
        traits: Traits { unselect: false, ..PLAIN },
        configure: |config| {
            config.pool.max_per_account = 3;
            config.pool.drain_bytes = 1 << 20;
            config.pool.drain_timeout = Duration::from_secs(2);
        },
        ..SETTING
    },
    Setting {
        name: "crowded",
        traits: Traits { literal_plus: false, ..PLAIN },
        configure: |config| {
            config.pool.max_total = 5;
            config.pool.idle_timeout = Duration::from_millis(30);
        },
        ..SETTING
    },
    Setting {
        name: "distrustful",
        configure: |config| {
            config.auth.cache_ttl = Duration::from_millis(5);
            config.pool.per_credential = PerCredential::Always;
        },
        ..SETTING
    },
    Setting {
        name: "shared",
        traits: Traits { shared: true, ..PLAIN },
        configure: |config| {
            config.pool.mode = PoolMode::Multiplex;
            config.pool.share_patience = Duration::from_millis(10);
        },
        ..SETTING
    },
    Setting {
        name: "turns",
        traits: Traits { shared: true, ..PLAIN },
        every: 10,
        configure: |config| {
            config.pool.mode = PoolMode::Multiplex;
            config.pool.max_per_account = 1;
        },
        ..SETTING
    },
    Setting {
        name: "scarce",
        traits: Traits { shared: true, unselect: false, ..PLAIN },
        every: 10,
        configure: |config| {
            config.pool.mode = PoolMode::Multiplex;
            config.pool.max_total = 5;
            config.pool.max_per_account = 2;
            config.pool.linger = Duration::from_millis(1);
            config.pool.keepalive = Duration::from_millis(3);
            config.pool.share_patience = Duration::from_millis(1);
        },
        ..SETTING
    },
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

/// What is run, and when it is enough.
struct Load {
    seed: u64,
    next: Vec<AtomicU64>,
    last: u64,
    deadline: Option<Instant>,
    wrong: AtomicBool,
    sessions: AtomicU64,
    complete: AtomicU64,
    cut: AtomicU64,
    served: AtomicU64,
}

impl Load {
    fn next(&self, world: usize) -> Option<u64> {
        let number = self.next[world].fetch_add(SETTINGS.len() as u64 * SETTINGS[world].every, Ordering::Relaxed);
        let enough = match self.deadline {
            Some(deadline) => Instant::now() >= deadline,
            None => number >= self.last,
        };
        (!enough && !self.wrong.load(Ordering::Relaxed)).then_some(number)
    }

    async fn run(&self, running: &Running, number: u64) {
        match running.session(number).await {
            Ok(outcome) => {
                self.sessions.fetch_add(1, Ordering::Relaxed);
                self.complete.fetch_add(u64::from(outcome.complete), Ordering::Relaxed);
                self.cut.fetch_add(u64::from(outcome.cut), Ordering::Relaxed);
                self.served.fetch_add(outcome.served, Ordering::Relaxed);
            }
            Err(wrong) => running.world.fail(format!("session {number}: {}\n{}", wrong.what, wrong.story)),
        }
        if running.world.failed() {
            self.wrong.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_session_sees_an_octet_of_another() {
    let seed = number("IMAPOOL_ISOLATION_SEED").unwrap_or(0x1a7_0001);
    let only = number("IMAPOOL_ISOLATION_ONLY");
    let seconds = number("IMAPOOL_ISOLATION_SECONDS");
    let worlds = SETTINGS.len() as u64;
    let load = Arc::new(Load {
        seed,
        next: (0..worlds).map(AtomicU64::new).collect(),
        last: number("IMAPOOL_ISOLATION_SESSIONS").unwrap_or(100_000),
        deadline: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        wrong: AtomicBool::new(false),
        sessions: AtomicU64::new(0),
        complete: AtomicU64::new(0),
        cut: AtomicU64::new(0),
        served: AtomicU64::new(0),
    });
    let start = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let failures = runtime.block_on(everything(&load, only));
    let (sessions, complete) = (load.sessions.load(Ordering::Relaxed), load.complete.load(Ordering::Relaxed));
    println!(
        "seed {seed}: {sessions} sessions in {:.1?}; {complete} answered in full, {} left by the client before that; \
         {} commands answered by the backend",
        start.elapsed(),
        load.cut.load(Ordering::Relaxed),
        load.served.load(Ordering::Relaxed),
    );
    assert!(failures.is_empty(), "IMAPOOL_ISOLATION_SEED={seed}\n{}", failures.join("\n"));
    if only.is_none() {
        // A proxy that refuses everything shows nobody anything foreign either.
        assert!(complete * 10 > sessions * 4, "only {complete} of {sessions} sessions were answered in full");
        assert!(load.served.load(Ordering::Relaxed) * 10 > sessions * 8, "too few commands reached the backend");
    }
}

async fn everything(load: &Arc<Load>, only: Option<u64>) -> Vec<String> {
    let tasks_before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut worlds = Vec::new();
    for (index, setting) in SETTINGS.into_iter().enumerate() {
        let load = Arc::clone(load);
        worlds.push(tokio::spawn(async move {
            let running = Arc::new(Running::start(setting, load.seed, SETTINGS.len() as u64).await);
            if let Some(number) = only {
                if number % SETTINGS.len() as u64 == index as u64 {
                    load.run(&running, number).await;
                }
            } else {
                clients(&running, &load, index).await;
            }
            if std::env::var_os("IMAPOOL_ISOLATION_NUMBERS").is_some() {
                println!("{}", running.numbers());
            }
            Arc::into_inner(running).expect("no client is left").end().await
        }));
    }
    let mut failures = Vec::new();
    for world in worlds {
        failures.extend(world.await.expect("a world panicked"));
    }
    if let Some(left) = tasks_left(tasks_before).await {
        failures.push(left);
    }
    failures
}

async fn clients(running: &Arc<Running>, load: &Arc<Load>, world: usize) {
    let clients: Vec<_> = (0..running.setting.clients)
        .map(|_| {
            let (running, load) = (Arc::clone(running), Arc::clone(load));
            tokio::spawn(async move {
                while let Some(number) = load.next(world) {
                    load.run(&running, number).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client panicked");
    }
}

/// Every task that the proxies started must have ended; says how many have not.
async fn tasks_left(before: usize) -> Option<String> {
    let metrics = tokio::runtime::Handle::current().metrics();
    let deadline = Instant::now() + Duration::from_secs(10);
    while metrics.num_alive_tasks() > before {
        if Instant::now() > deadline {
            return Some(format!("{} tasks are left", metrics.num_alive_tasks() - before));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    None
}
