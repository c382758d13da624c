//! What sharing connections costs those who share: how long after a direct client those in IDLE hear of mail, how
//! long others wait beside a long command and a slow reader, and what a session costs where the backend is far away.
//! `cargo bench --bench sharing`; benches/README.md says more.

#![allow(dead_code, reason = "the tests' own parts, of which a benchmark needs some")]

#[path = "../../tests/real/accounts.rs"]
mod accounts;
#[path = "../../tests/real/client.rs"]
mod client;
#[path = "../../tests/real/courier.rs"]
mod courier;
#[path = "../../tests/real/cyrus.rs"]
mod cyrus;
#[path = "../../tests/real/debian13.rs"]
mod debian13;
#[path = "../../tests/real/dovecot.rs"]
mod dovecot;
mod fairness;
mod far;
mod idle;
#[path = "../../tests/real/process.rs"]
mod process;
#[path = "../../tests/real/proxy.rs"]
mod proxy;
#[path = "../../tests/real/server.rs"]
mod server;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;

use crate::proxy::Settings;

/// Measures `pool.mode = "multiplex"`.
#[derive(Debug, Parser)]
#[command(name = "sharing")]
struct Options {
    /// Accounts whose clients are in IDLE.
    #[arg(long, default_value_t = 100)]
    accounts: usize,
    /// Clients in IDLE of each account.
    #[arg(long, default_value_t = 20)]
    clients: usize,
    /// Messages delivered to each account.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long the long SEARCH takes.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only `idle`, `fairness` or `far`.
    #[arg(long)]
    only: Option<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    // `cargo test --all-targets` runs benches too, with whatever arguments test harnesses take.
    if !std::env::args().any(|argument| ["--bench", "--help"].contains(&argument.as_str())) {
        eprintln!("sharing measures under `cargo bench` only");
        return Ok(());
    }
    let options = Options::parse();
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| only == name);
    if wanted("idle") {
        idle::measure(&options).await?;
    }
    if wanted("fairness") {
        fairness::measure(Duration::from_secs(options.seconds)).await?;
    }
    if wanted("far") {
        far::measure().await?;
    }
    Ok(())
}

/// As the proxy is set up here.
fn settings() -> Settings {
    Settings { mode: "multiplex", spare: 0, ..Settings::default() }
}

/// Of many times.
struct Quantiles {
    count: usize,
    p50: Duration,
    p99: Duration,
    most: Duration,
}

impl Quantiles {
    /// # Panics
    /// Without times.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        Self { count: times.len(), p50: at(50), p99: at(99), most: at(100) }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (p50, p99, most) = (ms(self.p50), ms(self.p99), ms(self.most));
        write!(f, "p50 {p50:>8.2} ms   p99 {p99:>8.2} ms   most {most:>8.2} ms   ({})", self.count)
    }
}
