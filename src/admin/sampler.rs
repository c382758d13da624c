//! The numbers over time, and what the status page shows of them: looked at once for all viewers.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{self, AccountRow, Query};
use super::recent::recent;
use super::{Readiness, Subject};
use crate::metrics::{BackendMetrics, CheckoutResult, CommandResult, ConnectionState};
use crate::metrics::{Counts, Label as _, LoginResult, RetireReason};

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(2);
/// Samples that are kept: 15 minutes.
const HISTORY: usize = 450;
/// Samples that rates and latencies are told over: a minute.
const WINDOW: usize = 30;
/// Accounts that the page shows.
const BUSIEST: usize = 20;
/// What was looked at so long ago is not kept for the next viewer.
const FORGOTTEN: Duration = Duration::from_secs(10);
/// A viewer's connection ends after this, before the admin server ends it; browsers come back by themselves.
const SHOWING: Duration = Duration::from_secs(50);
/// A summary that is asked for is made anew when the last is older.
pub(super) const FRESH: Duration = Duration::from_secs(1);

type Ready = Arc<dyn Fn() -> Readiness + Send + Sync>;

/// See the module.
pub(super) struct Sampler {
    pub(super) subject: Arc<dyn Subject>,
    readiness: Ready,
    started: Instant,
    samples: Mutex<Samples>,
    latest: watch::Sender<Bytes>,
    summary: Kept<Value>,
    accounts: Kept<Arc<Vec<AccountRow>>>,
}

#[derive(Default)]
struct Samples {
    /// Those of the window, the oldest first.
    raw: VecDeque<Raw>,
    /// The places in the charts, as they are shown.
    points: VecDeque<String>,
    point: Value,
}

/// What was last looked at, and when.
struct Kept<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> Kept<T> {
    /// What was seen at most so long ago, else what `look` sees now.
    fn within(&self, max_age: Duration, look: impl FnOnce() -> T) -> T {
        let mut kept = self.0.lock();
        if let Some((at, seen)) = &*kept
            && at.elapsed() < max_age
        {
            return seen.clone();
        }
        let seen = look();
        *kept = Some((Instant::now(), seen.clone()));
        seen
    }
}

/// Counters at one moment.
#[derive(Debug, Clone)]
struct Raw {
    at: Instant,
    sessions: u64,
    logins: u64,
    commands: u64,
    reused: u64,
    opened: u64,
    login: Counts,
    checkout: Counts,
}

impl Sampler {
    /// Samples until `stop`.
    pub(super) fn start(subject: &Arc<dyn Subject>, readiness: &Ready, stop: &CancellationToken) -> Arc<Self> {
        let sampler = Arc::new(Self {
            subject: Arc::clone(subject),
            readiness: Arc::clone(readiness),
            started: Instant::now(),
            samples: Mutex::default(),
            latest: watch::Sender::new(Bytes::new()),
            summary: Kept(Mutex::default()),
            accounts: Kept(Mutex::default()),
        });
        let (sampling, stop) = (Arc::clone(&sampler), stop.clone());
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PERIOD);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while stop.run_until_cancelled(ticks.tick()).await.is_some() {
                let sampling = Arc::clone(&sampling);
                // The kernel's table of connections is walked through, and all accounts where somebody looks.
                let _ = tokio::task::spawn_blocking(move || sampling.tick()).await;
            }
        });
        sampler
    }

    fn tick(&self) {
        self.sample();
        self.accounts.0.lock().take_if(|(at, _)| at.elapsed() > FORGOTTEN);
        if self.latest.receiver_count() > 0 {
            let summary = self.summary(Duration::ZERO);
            self.latest.send_replace(event("summary", &summary));
        }
    }

    /// Tells a viewer what was, and what is new, until one of the two has gone.
    pub(super) async fn show(&self, viewer: mpsc::Sender<Bytes>) {
        let mut news = self.latest.subscribe();
        let history = self.samples.lock().points.make_contiguous().join(",");
        if viewer.send(event("history", format!("[{history}]"))).await.is_err() {
            return;
        }
        let over = tokio::time::sleep(SHOWING);
        tokio::pin!(over);
        loop {
            let told = tokio::select! {
                changed = news.changed() => changed.is_ok(),
                () = viewer.closed() => false,
                () = &mut over => false,
            };
            let news = news.borrow_and_update().clone();
            if !told || viewer.send(news).await.is_err() {
                return;
            }
        }
    }

    fn sample(&self) {
        let metrics = self.subject.metrics();
        metrics.refresh();
        let raw = Raw::of(&*self.subject);
        let mut samples = self.samples.lock();
        let point = self.point(&raw.since(samples.raw.back().unwrap_or(&raw)));
        if samples.raw.len() > WINDOW {
            samples.raw.pop_front();
        }
        samples.raw.push_back(raw);
        if samples.points.len() == HISTORY {
            samples.points.pop_front();
        }
        samples.points.push_back(point.to_string());
        samples.point = point;
    }

    /// All accounts, as they were at most so long ago.
    pub(super) fn accounts(&self, max_age: Duration) -> Arc<Vec<AccountRow>> {
        self.accounts.within(max_age, || Arc::new(api::account_rows(&*self.subject)))
    }

    /// All that the page shows but the history. May take milliseconds where there are many accounts.
    pub(super) fn summary(&self, max_age: Duration) -> Value {
        self.summary.within(max_age, || self.look())
    }

    fn look(&self) -> Value {
        let (subject, metrics) = (&*self.subject, self.subject.metrics());
        let (before, point) = {
            let samples = self.samples.lock();
            (samples.raw.front().cloned(), samples.point.clone())
        };
        let now = Raw::of(subject);
        let since = now.since(before.as_ref().unwrap_or(&now));
        let state = (self.readiness)();
        let config = subject.config();
        let accounts = self.accounts(FRESH);
        let mut busiest: Vec<_> = accounts.iter().collect();
        api::sort_accounts(&mut busiest, "sessions");
        busiest.truncate(BUSIEST);
        let backends = api::backends(subject);
        let closed = metrics.sessions_closed.so_far();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "ready": state == Readiness::Ready,
            "state": state.to_string(),
            "sessions": { "open": metrics.client_sessions.get(), "limit": config.limits.sessions, "closed": closed },
            "upstream": upstream(subject),
            "rates": since["rates"],
            "reuse_ratio": since["reuse_ratio"],
            "login_seconds": since["login_seconds"],
            "checkout_seconds": since["checkout_seconds"],
            "logins": metrics.logins.so_far(),
            "backends": backends,
            "hubs": api::hubs(subject, &Query::parse(&format!("sort=sessions&limit={BUSIEST}"))),
            "commands": { "lost": metrics.operation.commands_so_far(CommandResult::Lost) },
            "configuration": { "reload_refused": metrics.operation.reload_refused() },
            "certificates": certificates(subject),
            "accounts": { "known": accounts.len(), "busiest": busiest },
            "recent": recent(),
            "point": point,
        })
    }

    /// One place in the charts; `since`: what has happened since the last.
    fn point(&self, since: &Value) -> Value {
        let upstream = upstream(&*self.subject);
        json!({
            "at": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            "sessions": self.subject.metrics().client_sessions.get(),
            "idle": upstream["connections"]["idle"],
            "active": upstream["connections"]["active"],
            "spare": upstream["connections"]["spare"],
            "connecting": upstream["connections"]["connecting"],
            "ports": upstream["ports"]["in_use"],
            "time_wait": upstream["ports"]["time_wait"],
            "capacity": upstream["budget"]["capacity"],
            "logins": since["rates"]["logins"],
            "commands": since["rates"]["commands"],
            "reuse": since["reuse_ratio"],
            "login_p50": since["login_seconds"]["p50"],
            "login_p99": since["login_seconds"]["p99"],
            "checkout_p50": since["checkout_seconds"]["p50"],
            "checkout_p99": since["checkout_seconds"]["p99"],
        })
    }
}

/// When they expire: those of the listeners, and those that backends have shown.
fn certificates(subject: &dyn Subject) -> Value {
    let listeners = subject.metrics().operation.certificates.lock().clone();
    let listeners = listeners.into_iter().map(|(name, at)| ("listener", name, at));
    let backends = subject.pools().backends();
    let backends = backends.iter().map(|it| ("backend", it.config.name.clone(), it.metrics().health.certificate.get()));
    let all = listeners.chain(backends).filter(|(.., at)| *at > 0);
    all.map(|(side, name, at)| json!({ "side": side, "name": name, "expires": at })).collect()
}

/// Connections and ports, over all backends.
fn upstream(subject: &dyn Subject) -> Value {
    let backends = subject.pools().backends();
    let sum = |count: &dyn Fn(&BackendMetrics) -> i64| -> i64 {
        backends.iter().map(|backend| count(backend.metrics())).sum()
    };
    let connections: HashMap<_, _> =
        ConnectionState::ALL.iter().map(|state| (state.as_str(), sum(&|m| m.connections_in(*state)))).collect();
    let retired: HashMap<_, _> = RetireReason::ALL
        .iter()
        .map(|reason| (reason.as_str(), sum(&|m| m.retired.get(*reason).get().try_into().unwrap_or(i64::MAX))))
        .collect();
    let budget = subject.budget();
    json!({
        "connections": connections,
        "budget": { "in_use": budget.in_use(), "capacity": budget.capacity() },
        "ports": {
            "in_use": sum(&|m| m.ports_in_use.get()),
            "time_wait": sum(&|m| m.ports_time_wait.get()),
            "capacity": sum(&|m| m.ports_capacity.get()),
        },
        "retired": retired,
    })
}

impl Raw {
    fn of(subject: &dyn Subject) -> Self {
        let metrics = subject.metrics();
        let backends = subject.pools().backends();
        let checkouts = |results: &[CheckoutResult]| -> u64 {
            let of = |metrics: &BackendMetrics| results.iter().map(|it| metrics.checkouts.get(*it).get()).sum::<u64>();
            backends.iter().map(|backend| of(backend.metrics())).sum()
        };
        let counts = backends.iter().map(|backend| backend.metrics().checkout_wait.counts());
        Self {
            at: Instant::now(),
            sessions: metrics.sessions_closed.sum(),
            logins: [LoginResult::Cached, LoginResult::Verified].map(|r| metrics.logins.get(r).get()).iter().sum(),
            commands: metrics.commands_so_far(),
            reused: checkouts(&[CheckoutResult::Reused, CheckoutResult::Joined]),
            opened: checkouts(&[CheckoutResult::Dialed]),
            login: metrics.login_counts(),
            checkout: counts.fold(Counts::default(), |sum, counts| sum.and(&counts)),
        }
    }

    /// What has happened since an earlier moment.
    fn since(&self, before: &Self) -> Value {
        let seconds = (self.at - before.at).as_secs_f64();
        let count = |of: fn(&Self) -> u64| of(self).saturating_sub(of(before));
        let rate = |of| if seconds > 0.0 { count(of) as f64 / seconds } else { 0.0 };
        let (reused, opened) = (count(|raw| raw.reused), count(|raw| raw.opened));
        let quantiles = |counts: Counts| json!({ "p50": counts.quantile(0.5), "p99": counts.quantile(0.99) });
        json!({
            "rates": {
                "sessions": rate(|raw| raw.sessions),
                "logins": rate(|raw| raw.logins),
                "commands": rate(|raw| raw.commands),
            },
            // Of the checkouts, those that needed no new connection.
            "reuse_ratio": (reused + opened > 0).then(|| reused as f64 / (reused + opened) as f64),
            "login_seconds": quantiles(self.login.since(&before.login)),
            "checkout_seconds": quantiles(self.checkout.since(&before.checkout)),
        })
    }
}

fn event(name: &str, data: impl Display) -> Bytes {
    // JSON has its line ends escaped.
    format!("retry: 500\nevent: {name}\ndata: {data}\n\n").into()
}
