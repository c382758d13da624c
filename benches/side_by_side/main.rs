//! imapool beside its peers, on the same work in turn: `cargo bench --bench side_by_side`. benches/README.md says
//! what is measured and how.

mod auth_http;
mod canned;
mod client;
mod dovecot;
mod load;
mod measure;
mod peers;
mod process;
mod report;
mod tls;

use std::fs;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::canned::Canned;
use crate::dovecot::Backend;
use crate::measure::{Measurement, Scale, Stage};
use crate::peers::{Kind, Peer, Room};
use crate::process::{Scratch, interrupt, interrupted};
use crate::report::Report;
use crate::tls::Tls;

/// Compares imapool with a direct connection, HAProxy, nginx, Dovecot as proxy and up-imapproxy.
#[derive(Debug, Parser)]
#[command(name = "side_by_side")]
struct Options {
    /// How often everything is measured; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these peers and measurements; where none of a kind is named, all of that kind.
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// A smoke run: one short round with small numbers, which mean nothing.
    #[arg(long)]
    quick: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    // `cargo test --all-targets` runs benches too, with whatever arguments test harnesses take.
    if !std::env::args().any(|argument| ["--bench", "--quick", "--help"].contains(&argument.as_str())) {
        eprintln!("side_by_side measures under `cargo bench` only, or with --quick");
        return Ok(());
    }
    let options = Options::parse();
    if !cfg!(target_os = "linux") {
        bail!("the comparison reads /proc and runs on Linux only");
    }
    let (kinds, measurements) = selection(&options.only)?;
    let mut scale = if options.quick { Scale::QUICK } else { Scale::FULL };
    let rounds = if options.quick { 1 } else { options.rounds };
    fit_descriptors(&mut scale)?;

    let runtime = Background::start()?;
    let scratch = Scratch::new()?;
    let canned = Canned::start(&runtime.handle, scale.bulk_octets)?;
    let dovecot = start_dovecot(&measurements, &scratch, &scale);
    let tls = Tls::make(&scratch.folder("tls")?)?;
    let sessions = scale.idle_sessions.max(scale.many_accounts);
    let room = Room { runtime: &runtime.handle, scratch: &scratch, tls: &tls, sessions };
    let stage = Stage { scale, room, canned: &canned, dovecot: dovecot.as_ref() };
    print_facts(rounds);
    let peers = find_peers(&kinds, &stage);
    let report = run(rounds, &measurements, &peers, &stage);
    report.print(&scale);
    Ok(())
}

/// Measures everything: in each round each measurement, and in each of those every peer in turn.
fn run(rounds: u32, measurements: &[Measurement], peers: &[Peer], stage: &Stage<'_>) -> Report {
    let mut report = Report::default();
    for round in 1..=rounds {
        for measurement in measurements {
            for peer in peers.iter().filter(|peer| measurement.concerns(peer.kind)) {
                if interrupted() {
                    eprintln!("interrupted: what there is until now");
                    return report;
                }
                let begun = Instant::now();
                let (what, who) = (measurement.name(), peer.kind.name());
                let figures = measurement.run(stage, peer).unwrap_or_else(|error| {
                    eprintln!("{what} {who}: {error:#}");
                    Vec::new()
                });
                eprintln!("round {round}/{rounds} {what} {who}: {:.1} s", begun.elapsed().as_secs_f64());
                report.add(*measurement, peer.kind, figures);
            }
        }
    }
    report
}

fn selection(only: &[String]) -> Result<(Vec<Kind>, Vec<Measurement>)> {
    let mut kinds: Vec<Kind> = Kind::ALL.to_vec();
    let mut measurements: Vec<Measurement> = Measurement::ALL.to_vec();
    let known: Vec<&str> = kinds.iter().map(|k| k.name()).chain(measurements.iter().map(|m| m.name())).collect();
    if let Some(name) = only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("--only {name}: unknown; there are {}", known.join(", "));
    }
    let named = |name: &str| only.iter().any(|wanted| wanted == name);
    if kinds.iter().any(|kind| named(kind.name())) {
        kinds.retain(|kind| named(kind.name()));
    }
    if measurements.iter().any(|measurement| named(measurement.name())) {
        measurements.retain(|measurement| named(measurement.name()));
    }
    Ok((kinds, measurements))
}

/// Raises the limit of open files as far as it goes, for the children too, and lowers what does not fit.
fn fit_descriptors(scale: &mut Scale) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // Each session takes two here (the load's end and the canned backend's) and two in a proxy.
    let fits = usize::try_from(hard.saturating_sub(3000) / 2).unwrap_or(usize::MAX);
    let all = [&mut scale.idle_sessions, &mut scale.many_accounts, &mut scale.hubs];
    if all.iter().any(|count| **count > fits) {
        println!("{hard} open files are allowed: no more than {fits} sessions at once");
        all.into_iter().for_each(|count| *count = fits.min(*count));
    }
    Ok(())
}

fn start_dovecot(measurements: &[Measurement], scratch: &Scratch, scale: &Scale) -> Option<Backend> {
    if !measurements.contains(&Measurement::Sessions) {
        return None;
    }
    let start = || {
        let program = dovecot::find()?;
        dovecot::start_backend(&program, &scratch.folder("backend")?, scale.dovecot_accounts)
    };
    start().inspect_err(|error| println!("no Dovecot as backend, so no sessions in front of one: {error:#}")).ok()
}

/// The peers that are there and work; of the others, why they are left out.
fn find_peers(kinds: &[Kind], stage: &Stage<'_>) -> Vec<Peer> {
    let mut peers = Vec::new();
    for kind in kinds {
        if interrupted() {
            break;
        }
        match Peer::find(*kind).and_then(|peer| stage.probe(&peer).map(|()| peer)) {
            Ok(peer) => {
                println!("peer {:<17} {}", kind.name(), peer.version);
                peers.push(peer);
            }
            Err(error) => println!("peer {:<17} LEFT OUT: {error:#}", kind.name()),
        }
    }
    peers
}

fn print_facts(rounds: u32) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, m)| m);
    let cores = thread::available_parallelism().map_or(0, usize::from);
    println!("machine: {cores} × {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim());
    println!("load average before: {}", read("/proc/loadavg").trim());
    println!("Dovecot as backend: passwd-file, {} hashes, maildir, no auth cache", dovecot::PASSWORD_SCHEME);
    println!("medians over {rounds} rounds, the peers in turn; ratios are taken within a round");
    if cfg!(debug_assertions) {
        println!("THIS IS A DEBUG BUILD: its figures mean nothing");
    }
}

/// The runtime of the canned backend, the HTTP helper and the signals: one thread of its own.
struct Background {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Background {
    fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build().context("start the runtime")?;
        let handle = runtime.handle().clone();
        let entered = handle.enter();
        for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
            let mut signals = signal(kind)?;
            handle.spawn(async move {
                while signals.recv().await.is_some() {
                    interrupt();
                }
            });
        }
        drop(entered);
        let (stop, stopped) = oneshot::channel::<()>();
        // Ends when the sender is dropped, which is why the error is as good as a message.
        thread::spawn(move || runtime.block_on(stopped));
        Ok(Self { handle, _stop: stop })
    }
}
