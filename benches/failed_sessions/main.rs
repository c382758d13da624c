//! How many sessions of a front end fail for want of a port, at which rate: directly, through up-imapproxy, through
//! imapool. `cargo bench --bench failed_sessions`, as root; benches/README.md says what is measured and how.

#[allow(dead_code, reason = "the tests need more of it")]
#[path = "../../tests/namespaces/host.rs"]
mod host;
mod servers;

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Parser;
use imapool::demo::load::{self, Ending, Load, Outcome, SessionError};
use indicatif::ProgressBar;
use tokio::task::JoinHandle;

use crate::host::Host;
use crate::servers::{ACCOUNTS, Scratch, Servers};

/// Ports of each front end: a hundredth of what a Linux host has by default, 28,232.
const PORTS: u16 = 282;
const FIRST_PORT: u16 = 40_000;
/// Sessions begun in a second.
const RATES: [u32; 11] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20];
/// Sessions at once, at most.
const AT_ONCE: u32 = 32;
/// How long a port stays in TIME_WAIT: what happens before this is over says nothing about what lasts.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Counts the sessions that fail at several rates, for a front end with few ports.
#[derive(Debug, Parser)]
#[command(name = "failed_sessions")]
struct Options {
    /// Where the figures go.
    #[arg(long, default_value = "docs/failed-sessions.csv")]
    output: PathBuf,
    /// Seconds that are counted, after those in which the ports fill up.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What the sessions go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Imapproxy,
    Imapool,
}

impl Way {
    const ALL: [Self; 3] = [Self::Direct, Self::Imapproxy, Self::Imapool];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Imapproxy => "up-imapproxy",
            Self::Imapool => "imapool",
        }
    }
}

/// One point of the picture: a front end on a host of its own.
struct Point {
    ending: Ending,
    rate: u32,
    host: Host,
    task: JoinHandle<Outcome>,
}

fn main() -> Result<()> {
    // `cargo test --all-targets` runs benches too, with whatever arguments test harnesses take.
    if !std::env::args().any(|argument| ["--bench", "--help"].contains(&argument.as_str())) {
        eprintln!("failed_sessions measures under `cargo bench` only");
        return Ok(());
    }
    let options = Options::parse();
    let scratch = Scratch::new()?;
    let servers = Servers::start(&scratch)?;
    let warm = u32::try_from(TIME_WAIT.as_secs() + 5)?;
    eprintln!("measuring for {} s", (warm + options.seconds) * 3);
    let mut table = "way,ending,ports,sessions_per_second,sessions,no_port,other_failures\n".to_owned();
    let mut cables = 0..;
    // One way at a time: Dovecot has enough to do with the sessions of one.
    for way in Way::ALL {
        let mut points = Vec::new();
        for (ending, rate) in [Ending::Logout, Ending::HangUp].into_iter().flat_map(|e| RATES.map(|rate| (e, rate))) {
            let cable = cables.next().context("as many cables as points")?;
            points.push(begin(&servers, way, ending, rate, cable, (warm, options.seconds))?);
        }
        for point in points {
            let Point { ending, rate, host, task } = point;
            write_row(&mut table, way, ending, rate, &host.wait(task))?;
        }
    }
    fs::write(&options.output, &table).with_context(|| format!("write {}", options.output.display()))?;
    print!("{table}");
    Ok(())
}

/// Begins the sessions of one point: first those that fill the ports, then those that are counted.
fn begin(servers: &Servers, way: Way, ending: Ending, rate: u32, number: u8, seconds: (u32, u32)) -> Result<Point> {
    let host = Host::new(FIRST_PORT, FIRST_PORT + PORTS - 1)
        .map_err(|error| anyhow!("no network namespaces: {error}; run it as root"))?;
    let (to, port) = match way {
        Way::Direct => (&servers.dovecot, servers::IMAP),
        Way::Imapproxy => (&servers.imapproxy, servers::IMAP),
        Way::Imapool => (&servers.imapool, servers::IMAP),
    };
    let (_, address) = host.connect(to, number);
    let load = Load {
        address: SocketAddr::from((address, port)),
        sessions: rate * seconds.0,
        accounts: ACCOUNTS,
        concurrency: AT_ONCE,
        ending,
        rate: Some(rate),
        ports: None,
        time_limit: Duration::MAX,
    };
    let task = host.spawn(async move {
        let bar = ProgressBar::hidden();
        load::run(load.clone(), &bar).await;
        load::run(Load { sessions: rate * seconds.1, ..load }, &bar).await
    });
    Ok(Point { ending, rate, host, task })
}

fn write_row(table: &mut String, way: Way, ending: Ending, rate: u32, outcome: &Outcome) -> Result<()> {
    let ending = match ending {
        Ending::Logout => "logout",
        Ending::HangUp => "hang-up",
    };
    let no_port = outcome.failures.get(&SessionError::NoPort).copied().unwrap_or_default();
    let other = outcome.failed() - no_port;
    let sessions = outcome.durations.len() + usize::try_from(outcome.failed())?;
    if other > 0 {
        eprintln!("{}, {ending}, {rate}/s: {:?}", way.name(), outcome.failures);
    }
    if sessions == 0 {
        bail!("{}, {ending}, {rate}/s: no session was begun", way.name());
    }
    writeln!(table, "{},{ending},{PORTS},{rate},{sessions},{no_port},{other}", way.name())?;
    Ok(())
}
