//! A backend that fails in one of the ways backends fail, under load, and comes back.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use imapool::demo::server::{Options, Server};
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::economy::report;
use crate::front_end::Client;
use crate::host::Hosts;
use crate::proxy::{Address, Imapool, SERVER};

/// `pool.checkout_timeout` in these tests.
const CHECKOUT: Duration = Duration::from_secs(4);
/// What a busy machine adds.
const SLACK: Duration = Duration::from_secs(2);
/// From the backend's return to the first session that goes well.
const RECOVERY: Duration = Duration::from_secs(5);
/// Dials in a second, while the backend is away and when it is back.
const DIALS: u64 = 30;
const SESSIONS_AT_ONCE: u32 = 8;
/// Between two sessions of a worker.
const PAUSE: Duration = Duration::from_millis(100);
/// So long after packets began to get lost, imapool knows: three dials have timed out.
const NOTICED: Duration = Duration::from_secs(7);

/// What the backend does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serve,
    Refuse,
    Silent,
    CloseAfterGreeting,
    SlowAccept,
}

/// The server's address, behind which it can be made to fail.
struct Switch<'a> {
    hosts: &'a Hosts,
    server: Server,
    serving: Option<(Arc<TcpListener>, JoinHandle<()>)>,
}

impl<'a> Switch<'a> {
    fn new(hosts: &'a Hosts) -> Self {
        let server = hosts.server.run(Server::start(Options::default())).expect("a server");
        let mut switch = Self { hosts, server, serving: None };
        switch.set(Mode::Serve);
        switch
    }

    /// Ends all connections, and behaves differently from now on.
    fn set(&mut self, mode: Mode) {
        let (before, target) = (self.serving.take(), self.server.address());
        self.serving = self.hosts.server.run(async move {
            if let Some((listener, before)) = before {
                // To close it is not enough: a process that another test is about to start has it, too, until it runs.
                let _ = SockRef::from(&*listener).shutdown(Shutdown::Both);
                before.abort();
                let _ = before.await;
            }
            (mode != Mode::Refuse).then(|| {
                let listener = Arc::new(listen(mode));
                (Arc::clone(&listener), tokio::spawn(accept(listener, target, mode)))
            })
        });
    }
}

fn listen(mode: Mode) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(SocketAddr::from(([0, 0, 0, 0], SERVER))).expect("an address");
    // With a short queue, connect(2) itself has to wait for a slow server.
    socket.listen(if mode == Mode::SlowAccept { 1 } else { 1024 }).expect("a queue")
}

async fn accept(listener: Arc<TcpListener>, target: SocketAddr, mode: Mode) {
    let mut connections = JoinSet::new();
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            match mode {
                Mode::Serve | Mode::SlowAccept | Mode::Refuse => {
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                    }
                }
                Mode::Silent => std::future::pending().await,
                Mode::CloseAfterGreeting => {
                    let _ = stream.write_all(b"* OK [CAPABILITY IMAP4rev1] here\r\n").await;
                }
            }
        });
        if mode == Mode::SlowAccept {
            sleep(Duration::from_millis(500)).await;
        }
    }
}

/// What a session came to.
struct Attempt {
    begun: Instant,
    ended: Instant,
    /// The longest that a command took, and which.
    slowest: (Duration, String),
    result: Result<(), String>,
}

/// Sessions one after the other until `done`; those of one worker are each of an account never seen before.
async fn sessions(address: Address, worker: u32, done: Arc<AtomicBool>) -> Vec<Attempt> {
    static NEW: AtomicU32 = AtomicU32::new(1000);
    let mut attempts = Vec::new();
    while !done.load(Ordering::Acquire) {
        let user = if worker == 1 { NEW.fetch_add(1, Ordering::Relaxed) } else { worker };
        let begun = Instant::now();
        let mut slowest = (Duration::ZERO, String::new());
        let result = session(&address, user, &mut slowest).await;
        attempts.push(Attempt { begun, ended: Instant::now(), slowest, result });
        sleep(PAUSE).await;
    }
    attempts
}

async fn session(address: &Address, user: u32, slowest: &mut (Duration, String)) -> Result<(), String> {
    let mut client = Client::connect(address).await?;
    for (tag, command) in [("a1", format!("LOGIN user{user} pw-user{user}")), ("a2", "SELECT INBOX".to_owned())] {
        let begun = Instant::now();
        let result = client.command(tag, &command).await;
        let took = begun.elapsed();
        if took > slowest.0 {
            *slowest = (took, format!("{command} of user{user}: {result:?}"));
        }
        result?;
    }
    client.command("a3", "LOGOUT").await
}

/// How long an outage lasts.
fn outage() -> Duration {
    Duration::from_secs(std::env::var("IMAPOOL_NETNS_OUTAGE").map_or(10, |seconds| seconds.parse().expect("seconds")))
}

/// Runs the load, has the backend fail and come back, and judges what the sessions came to.
/// `notice`: how long the outage may remain unnoticed, if it is not told; commands that run then take as long as they
/// take.
fn endure(
    name: &str,
    notice: Duration,
    fail: impl FnOnce(&Hosts, &mut Switch<'_>),
    restore: impl FnOnce(&Hosts, &mut Switch<'_>),
) {
    let Some(hosts) = Hosts::new(5000, 100) else { return };
    let mut switch = Switch::new(&hosts);
    let imapool = Imapool::start(&hosts, "", &format!("[pool]\ncheckout_timeout = \"{}s\"", CHECKOUT.as_secs()));
    let done = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (1..=SESSIONS_AT_ONCE)
        .map(|worker| hosts.front.spawn(sessions(imapool.plain.clone(), worker, Arc::clone(&done))))
        .collect();
    imapool.await_sum("imapool_client_sessions_total", "logout", u64::from(2 * SESSIONS_AT_ONCE)..);

    let failed = Instant::now();
    fail(&hosts, &mut switch);
    let away = most_dials(&hosts, &imapool, outage());
    restore(&hosts, &mut switch);
    let restored = Instant::now();
    let back = most_dials(&hosts, &imapool, RECOVERY + SLACK);
    done.store(true, Ordering::Release);
    let attempts: Vec<_> = workers.into_iter().flat_map(|worker| hosts.front.wait(worker)).collect();

    let first =
        attempts.iter().filter(|a| a.result.is_ok() && a.ended > restored && a.begun > failed).map(|a| a.ended).min();
    let recovery = first.expect("a session that goes well again") - restored;
    let unnoticed = |a: &&Attempt| !notice.is_zero() && a.begun < failed + notice && a.ended > failed;
    let known = attempts.iter().filter(|a| !unnoticed(a));
    let (slowest, command) = known.map(|attempt| &attempt.slowest).max().expect("attempts");
    let during: Vec<_> = attempts.iter().filter(|a| a.begun > failed && a.ended < restored).collect();
    let refused = during.iter().filter(|a| a.result.is_err()).count();
    report(format_args!(
        "{name}: {} sessions during the outage, {refused} of them refused; slowest command {slowest:.1?} ({command}); recovery {recovery:.1?}; \
         dials in a second: {away} while away, {back} when back",
        during.len()
    ));
    for attempt in &during {
        if let Err(error) = &attempt.result {
            assert!(error.contains("NO [UNAVAILABLE]"), "{error}");
        }
    }
    assert!(*slowest <= CHECKOUT + SLACK, "{slowest:?}: {command}");
    assert!(recovery <= RECOVERY, "{recovery:?}");
    assert!(away <= DIALS && back <= DIALS, "dials in a second: {away}, {back}");
    let last: Vec<_> = attempts.iter().filter(|a| a.begun > restored + RECOVERY).collect();
    assert!(!last.is_empty() && last.iter().all(|a| a.result.is_ok()), "all is well again");
    assert_eq!(imapool.metrics().sum("imapool_upstream_dials_total", "no_ports"), 0);
}

/// Watches for so long; gives the most dials of a second. Ports are watched, too.
fn most_dials(hosts: &Hosts, imapool: &Imapool<'_>, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let dials = || {
        let numbers = imapool.metrics();
        let all = numbers.sum("imapool_upstream_dials_total", "");
        all - numbers.sum("imapool_upstream_dials_total", "breaker")
    };
    let (mut before, mut most) = (dials(), 0);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_secs(1));
        let now = dials();
        most = most.max(now - before);
        before = now;
        assert!(hosts.middle.sockets("", &hosts.server_address.to_string()) <= 100, "ports are bounded");
    }
    most
}

fn endure_mode(mode: Mode) {
    endure(&format!("{mode:?}"), Duration::ZERO, |_, switch| switch.set(mode), |_, switch| switch.set(Mode::Serve));
}

#[test]
fn a_backend_that_refuses() {
    endure_mode(Mode::Refuse);
}

#[test]
fn a_backend_that_is_silent() {
    endure_mode(Mode::Silent);
}

#[test]
fn a_backend_that_closes_after_its_greeting() {
    endure_mode(Mode::CloseAfterGreeting);
}

#[test]
fn a_backend_that_is_slow_to_accept() {
    endure_mode(Mode::SlowAccept);
}

#[test]
fn a_network_that_loses_every_packet() {
    let route = |what: &'static str| {
        move |hosts: &Hosts, _: &mut Switch<'_>| {
            let middle = hosts.server_address.octets();
            // The server's packets to imapool go nowhere.
            hosts.server.execute(&format!("ip route {what} blackhole 10.99.{}.1/32", middle[2]));
        }
    };
    endure("packets lost", NOTICED, route("add"), route("delete"));
}
