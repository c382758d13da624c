//! The two halves of `imapool demo`: a front end that runs out of ports, and what either way costs. Without root.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use imapool::app::Proxy;
use imapool::config::{Config, ListenAddr};
use imapool::demo::load::SessionError;
use imapool::demo::report::{Shortage, Ways};
use imapool::demo::{DemoArgs, DemoError, Front};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(60);
/// One load at a time: each takes all that the machine has.
static ALONE: Mutex<()> = Mutex::const_new(());
const LOGIN_COST: Duration = Duration::from_millis(5);

fn arguments() -> DemoArgs {
    DemoArgs { sessions: 200, accounts: 10, concurrency: 16, login_cost: LOGIN_COST, server: None, keep: false }
}

/// A proxy that only relays octets: it spares nobody anything.
async fn relay(to: SocketAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(to).await.unwrap();
                // Either side may reset; then the session is over.
                let _over = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    address
}

/// What came of the first half; `None`, and a word on stderr, where the kernel cannot narrow a socket's ports.
fn possible(shortage: io::Result<Shortage>) -> Option<Shortage> {
    match shortage {
        Ok(shortage) => Some(shortage),
        Err(error) => {
            assert!(std::env::var("IMAPOOL_REQUIRE_REAL").is_err(), "no IP_LOCAL_PORT_RANGE: {error}");
            // Past the test harness, which would swallow it.
            let _ = writeln!(io::stderr(), "SKIPPED: no IP_LOCAL_PORT_RANGE (Linux 6.3): {error}");
            None
        }
    }
}

fn assert_direct_runs_short(ways: &Ways, ports: usize) {
    let outcome = &ways.direct.outcome;
    let short = outcome.failures.get(&SessionError::NoPort).copied().unwrap_or_default();
    assert_eq!(short, outcome.failed(), "nothing else fails: {:?}", outcome.failures);
    // How many depends on how fast this machine is.
    assert!(short > 0, "the ports were enough for {} sessions in {:?}", outcome.durations.len(), outcome.elapsed);
    // Other programs of this host may have some of them.
    let taken = ways.direct.front_end.unwrap().time_wait;
    assert!((ports / 2..=ports).contains(&taken), "{taken} of {ports} ports are taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_few_ports_sessions_fail_directly_and_none_does_through_imapool() {
    let _alone = ALONE.lock().await;
    let server = imapool::demo::start_server(Duration::ZERO, None).await.unwrap();
    let backend = server.address();
    let toml = format!(
        "listener = [{{ address = \"127.0.0.1:0\" }}]\nbackend = [{{ address = \"{backend}\" }}]\n\
                        admin = {{ address = \"\" }}\n"
    );
    let proxy = Proxy::start(Config::parse(&toml, "test").unwrap()).await.unwrap();
    let ListenAddr::Tcp(address) = proxy.listener_addresses()[0].1.clone() else { panic!("a TCP listener") };
    let arguments = arguments();
    let run = || timeout(WAIT, imapool::demo::run_short(&arguments, &server, address));
    let held = |ways: &Ways| ways.pooled.front_end.unwrap().held();
    let mut shortage = run().await.unwrap();
    // Where a machine stands still for seconds, a FIN is what is left of a reset.
    if let Ok(first) = &shortage
        && [&first.logout, &first.hang_up].into_iter().any(|ways| held(ways) > 0)
    {
        shortage = run().await.unwrap();
    }
    if let Some(shortage) = possible(shortage) {
        for ways in [&shortage.logout, &shortage.hang_up] {
            assert_direct_runs_short(ways, shortage.few.ports.len());
            let pooled = &ways.pooled;
            assert!(pooled.outcome.durations.len() > shortage.few.ports.len(), "no load: {pooled:?}");
            assert_eq!(pooled.outcome.failed(), 0, "{:?}", pooled.outcome.failures);
            assert!(held(ways) < shortage.few.ports.len() / 4, "{} ports are still taken", held(ways));
        }
    }
    proxy.drain().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_are_measured() {
    let _alone = ALONE.lock().await;
    let server = imapool::demo::start_server(LOGIN_COST, None).await.unwrap();
    let proxy = relay(server.address()).await;
    let cost = timeout(WAIT, imapool::demo::compare(&arguments(), &server, proxy, WAIT)).await.unwrap();
    for run in [&cost.ways.direct, &cost.ways.pooled] {
        // A relay spares the server nothing.
        assert_eq!((run.connections, run.logins, run.outcome.failed()), (200, 200, 0));
        assert_eq!(run.outcome.durations.len(), 200);
        assert!(run.outcome.quantile(0.0).unwrap() >= LOGIN_COST);
        if cfg!(target_os = "linux") {
            assert!(run.front_end.unwrap().held() > 0, "{:?}", run.front_end);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_fails_where_the_proxy_does_not_keep_the_promise() {
    let _alone = ALONE.lock().await;
    let stopped = Arc::new(AtomicUsize::new(0));
    let demo = imapool::demo::run_with(arguments(), async |toml| {
        let backend = toml.split("[[backend]]").nth(1).unwrap();
        let address = backend.split("address = \"").nth(1).unwrap().split('"').next().unwrap();
        // Every second session is refused.
        let listener = refusing(address.parse()?).await;
        let stopped = Arc::clone(&stopped);
        let stop = Box::pin(async move {
            stopped.fetch_add(1, Ordering::Relaxed);
        });
        Ok(Front { listener, admin: None, stop })
    });
    let failure = timeout(WAIT, demo).await.unwrap().unwrap_err();
    assert!(
        matches!(failure, DemoError::SessionsFailed { failed, begun } if failed > 0 && failed < begun),
        "{failure:?}"
    );
    assert_eq!(stopped.load(Ordering::Relaxed), 2, "one for each half");
}

/// A proxy that hangs up on every second client.
async fn refusing(to: SocketAddr) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let relay = relay(to).await;
    tokio::spawn(async move {
        for odd in [true, false].into_iter().cycle() {
            let Ok((mut client, _)) = listener.accept().await else { return };
            if odd {
                continue;
            }
            tokio::spawn(async move {
                let mut upstream = TcpStream::connect(relay).await.unwrap();
                let _over = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn the_program_shows_both_halves_and_ends_well() {
    let _alone = ALONE.lock().await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_imapool"));
    command.args(["demo", "--sessions", "300", "--login-cost", "1ms"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(WAIT, command.output()).await.expect("in time").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1. A FRONT END THAT RUNS OUT OF PORTS"), "{text}");
    assert!(text.contains("2. WHAT IT COSTS"), "{text}");
    assert!(text.lines().last().unwrap().contains("Through imapool: none of "), "{text}");
    let row = text.lines().find(|line| line.starts_with("sessions that failed")).expect("the second part's row");
    assert!(row.ends_with(" 0"), "{row}");
}

#[test]
fn the_picture_is_the_one_of_the_figures() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/failed-sessions.py");
    let output = match std::process::Command::new("python3").args([script, "--check"]).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var("IMAPOOL_REQUIRE_REAL").is_err(), "python3: {error}");
            let _ = writeln!(io::stderr(), "SKIPPED: python3 is not installed");
            return;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
