//! The build for Windows, in front of the in-memory server, for clients of this host: `.ci/windows` builds it, and says
//! where it is (`IMAPOOL_WINDOWS_EXE`). It runs under Wine (`IMAPOOL_WINE`), which brings the folder of the system's
//! files (`WINEPREFIX`).

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use imapool::demo::load::{self, Ending, Load};
use imapool::demo::server::{Options, Server};
use indicatif::ProgressBar;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

/// Beyond this, it has hung.
const WAIT: Duration = Duration::from_secs(60);
/// No session of a load begins later: a machine may be slow.
const LOAD: Duration = Duration::from_secs(1200);
const ACCOUNTS: u32 = 50;

/// The program, if there is one to test; and how it is run.
fn program() -> Option<(OsString, OsString)> {
    let Some(exe) = std::env::var_os("IMAPOOL_WINDOWS_EXE") else {
        assert!(std::env::var_os("IMAPOOL_REQUIRE_WINDOWS").is_none(), "IMAPOOL_WINDOWS_EXE names no program");
        // Past the test harness, which would swallow it.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED: IMAPOOL_WINDOWS_EXE names no build for Windows").unwrap();
        return None;
    };
    Some((std::env::var_os("IMAPOOL_WINE").unwrap_or_else(|| "wine64".into()), exe))
}

/// Starts it, and waits until it listens.
async fn start(config: &Path, backend: SocketAddr, mode: &str) -> Option<(Child, SocketAddr, BufReader<ChildStderr>)> {
    let (wine, exe) = program()?;
    let text = format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n[[backend]]\naddress = \"{backend}\"\n\
         [pool]\nmode = \"{mode}\"\n[admin]\naddress = \"\"\n[log]\nsessions = false\n"
    );
    std::fs::write(config, text).unwrap();
    let mut child = Command::new(wine)
        .arg(exe)
        .args(["run", "--config"])
        // As Wine names the whole of this host's files.
        .arg(format!("Z:{}", config.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut heard = String::new();
    let address = timeout(WAIT, async {
        loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).await.unwrap() > 0, "it has ended: {heard}");
            heard.push_str(&line);
            let address = line.split_once("address=").map(|(_, rest)| rest.trim());
            if let Some(address) = address.filter(|_| line.contains("listening listener=")) {
                return address.parse().unwrap();
            }
        }
    });
    let address = address.await.expect("it listens");
    Some((child, address, log))
}

async fn visit(address: SocketAddr, sessions: u32, ending: Ending) {
    let load = Load {
        address,
        sessions,
        accounts: ACCOUNTS,
        concurrency: 16,
        ending,
        rate: None,
        ports: None,
        time_limit: LOAD,
    };
    let outcome = load::run(load, &ProgressBar::hidden()).await;
    let well = u32::try_from(outcome.durations.len()).unwrap();
    assert_eq!((well, outcome.failed()), (sessions, 0), "{:?}", outcome.failures);
    println!("{sessions} sessions, {ending:?}: {:.0} a second", outcome.per_second());
}

/// 20,000 sessions by default: none fails, and no more connections are opened for the last than for the first.
#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_share_few_connections() {
    let number = std::env::var("IMAPOOL_WINDOWS_SESSIONS").map_or(20_000, |number| number.parse().unwrap());
    for (mode, number) in [("multiplex", number), ("session", number / 10)] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(Options::default()).await.unwrap();
        let Some((mut child, address, mut log)) = start(&folder.path().join("i.toml"), server.address(), mode).await
        else {
            return;
        };
        // It must not wait for a reader.
        let drained = tokio::spawn(async move { tokio::io::copy(&mut log, &mut tokio::io::sink()).await });
        visit(address, number / 10, Ending::Logout).await;
        let first = server.counters().accepted;
        visit(address, number / 2, Ending::Logout).await;
        visit(address, number - number / 10 - number / 2, Ending::HangUp).await;
        let last = server.counters().accepted;
        assert!(last - first <= u64::from(ACCOUNTS), "{mode}: {first} connections at first, {last} in the end");
        assert!(last <= u64::from(4 * ACCOUNTS), "{mode}: {last} connections");
        child.start_kill().unwrap();
        child.wait().await.unwrap();
        drained.await.unwrap().unwrap();
        server.stop().await;
    }
}
