//! imapool's own ports: few, many accounts, several addresses, and what the metrics say of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use imapool::demo::server::Options;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::economy::{report, run, sessions, start_server};
use crate::front_end::{Chooser, Client, Ending, Load};
use crate::host::Hosts;
use crate::proxy::{Imapool, SERVER};

const ACCOUNTS: u32 = 1000;
/// Connections that count towards the budget, as ss(8) names their states: not those of which only the last
/// acknowledgement is on its way.
const ALIVE: &str = "state established state syn-sent state close-wait state fin-wait-1 state fin-wait-2";

/// ss(8) walks through the kernel's table while connections come and go: it may see both one that goes and the one that
/// takes its place.
const PASSING: usize = 8;

/// Different for each n, always the same for one n (the finalizer of MurmurHash3).
fn scattered(n: u32) -> u32 {
    let n = (n ^ (n >> 16)).wrapping_mul(0x85eb_ca6b);
    let n = (n ^ (n >> 13)).wrapping_mul(0xc2b2_ae35);
    n ^ (n >> 16)
}

#[test]
fn many_accounts_live_on_few_ports() {
    let Some(hosts) = Hosts::new(2000, 100) else { return };
    let _server = start_server(&hosts, Options::default());
    let imapool = Imapool::start(&hosts, "", "");
    let budget = 100 * 4 / 5;
    let peer = hosts.server_address.to_string();

    let in_turn: Chooser = Arc::new(|n| n + 1);
    let at_random: Chooser = Arc::new(|n| scattered(n) % ACCOUNTS + 1);
    let done = AtomicBool::new(false);
    let most = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Acquire) {
                most = most.max(hosts.middle.sockets(ALIVE, &peer));
            }
            most
        });
        for (name, account, sessions) in [("in turn", in_turn, ACCOUNTS), ("at random", at_random, sessions(3000))] {
            for ending in [Ending::Polite, Ending::Abrupt] {
                let (account, sessions) =
                    (Arc::clone(&account), if name == "in turn" { sessions } else { sessions / 2 });
                let load = Load { address: imapool.plain.clone(), ending, sessions, at_once: 32, account };
                let outcome = run(&hosts, load);
                report(format_args!("{ACCOUNTS} accounts {name}, {ending:?}: {outcome:?}"));
                if outcome.failed() > 0 {
                    done.store(true, Ordering::Release);
                    panic!("{outcome:?}");
                }
            }
        }
        done.store(true, Ordering::Release);
        watcher.join().expect("a count")
    });
    let numbers = imapool.metrics();
    let dials = numbers.sum("imapool_upstream_dials_total", "result=\"ok\"");
    report(format_args!("at most {most} connections at once for a budget of {budget}; {dials} dials"));
    assert!(most <= budget + PASSING, "{most} connections");
    assert!(most > budget / 2, "the budget was used: {most}");
    assert_eq!(numbers.sum("imapool_upstream_dials_total", "no_ports"), 0);
    assert_eq!(hosts.middle.sockets("state time-wait", &peer), 0, "TIME_WAIT on imapool's host");
}

/// How many sockets there are: `wanted`, or what ss(8) says again and again. One walk may miss some, when those of
/// other namespaces come and go meanwhile.
fn counted(hosts: &Hosts, states: &str, peer: &str, wanted: usize) -> usize {
    let mut found = 0;
    for _ in 0..20 {
        found = hosts.middle.sockets(states, peer);
        if found == wanted {
            break;
        }
    }
    found
}

/// Opens sessions that hold a connection each, and stay.
fn hold(hosts: &Hosts, imapool: &Imapool<'_>, sessions: u32) -> Vec<Client> {
    let address = imapool.plain.clone();
    hosts.front.run(async move {
        let mut clients = Vec::new();
        for n in 1..=sessions {
            let mut client = Client::connect(&address).await.expect("a greeting");
            client.command("a1", &format!("LOGIN user{n} pw-user{n}")).await.expect("a login");
            client.command("a2", "SELECT INBOX").await.expect("a mailbox");
            clients.push(client);
        }
        clients
    })
}

#[test]
fn three_source_addresses_have_three_times_the_ports() {
    let Some(hosts) = Hosts::new(2000, 100) else { return };
    let _server = start_server(&hosts, Options::default());
    let sources = [11, 12, 13].map(|last| Ipv4Addr::new(10, 99, 2, last));
    for source in sources {
        hosts.middle.execute(&format!("ip address add {source}/24 dev net2"));
    }
    let imapool = Imapool::start(
        &hosts,
        &format!("source_addresses = {:?}", sources.map(|ip| ip.to_string())),
        "[pool]\nmax_total = 300\nspare = 0",
    );
    let peer = hosts.server_address.to_string();
    let clients = hold(&hosts, &imapool, 300);
    assert_eq!(counted(&hosts, "state established", &peer, 300), 300);
    for source in sources {
        assert_eq!(counted(&hosts, &format!("state established src {source}"), &peer, 100), 100, "from {source}");
    }
    assert_eq!(imapool.metrics().sum("imapool_ports_capacity", "main"), 300);
    imapool.await_sum("imapool_ports_in_use", "main", 300..=300);
    drop(clients);
}

#[test]
fn a_range_of_ports_is_kept_to() {
    let Some(hosts) = Hosts::new(2000, 200) else { return };
    let _server = start_server(&hosts, Options::default());
    let imapool = Imapool::start(&hosts, "source_port_range = \"40050-40099\"", "[pool]\nmax_total = 50\nspare = 0");
    let clients = hold(&hosts, &imapool, 50);
    let sockets = hosts.middle.execute(&format!("ss -Htan state established dst {}", hosts.server_address));
    let local = sockets.lines().map(|line| line.split_whitespace().nth(2).expect("a local address"));
    let ports: Vec<u16> =
        local.map(|local| local.rsplit_once(':').expect("a port").1.parse().expect("a number")).collect();
    assert_eq!(ports.len(), 50, "{sockets}");
    assert!(ports.iter().all(|port| (40_050..=40_099).contains(port)), "{ports:?}");
    assert_eq!(imapool.metrics().sum("imapool_ports_capacity", "main"), 50);
    drop(clients);
}

#[test]
fn ports_that_others_hold_cost_connections_but_no_session() {
    let Some(hosts) = Hosts::new(2000, 50) else { return };
    let _server = start_server(&hosts, Options::default());
    // Thirty of the fifty ports are another process's, which the budget of forty does not know.
    let address = SocketAddr::from((hosts.server_address, SERVER));
    let others = hosts.middle.run(async move {
        let mut others = Vec::new();
        for _ in 0..30 {
            others.push(TcpStream::connect(address).await.expect("a port"));
        }
        others
    });
    let imapool = Imapool::start(&hosts, "", "");
    let load = Load {
        address: imapool.plain.clone(),
        ending: Ending::Polite,
        sessions: 300,
        at_once: 8,
        account: Arc::new(|n| n % 100 + 1),
    };
    let outcome = run(&hosts, load);
    let numbers = imapool.metrics();
    let shortages = numbers.sum("imapool_upstream_dials_total", "no_ports");
    report(format_args!("with 20 ports left: {outcome:?}; {shortages} dials without a port"));
    assert_eq!(outcome.failed(), 0, "{:?}", outcome.failures);
    assert!(shortages > 0, "the kernel ran out of ports");
    drop(others);
}

#[test]
fn the_port_metrics_agree_with_the_kernel() {
    let Some(hosts) = Hosts::new(2000, 200) else { return };
    let server = start_server(&hosts, Options::default());
    let imapool = Imapool::start(&hosts, "", "");
    let peer = hosts.server_address.to_string();
    assert_eq!(imapool.metrics().sum("imapool_ports_capacity", "main"), 200);

    // While sessions come and go: what is counted lies between what ss(8) tells before and after.
    let account: Chooser = Arc::new(|n| scattered(n) % 20 + 1);
    let load =
        Load { address: imapool.plain.clone(), ending: Ending::Polite, sessions: sessions(1000), at_once: 16, account };
    let running = hosts.front.spawn(crate::front_end::run(load));
    let mut compared = 0;
    while !running.is_finished() {
        // Another scrape within half a second would be given the same numbers.
        std::thread::sleep(Duration::from_millis(600));
        let count = || hosts.middle.sockets("exclude time-wait exclude listening", &peer) as u64;
        let (before, counted, after) = (count(), imapool.metrics().sum("imapool_ports_in_use", "main"), count());
        let slack = PASSING as u64;
        assert!(
            counted + slack >= before.min(after) && counted <= before.max(after) + slack,
            "{before} {counted} {after}"
        );
        compared += 1;
    }
    let outcome = hosts.front.wait(running);
    assert_eq!(outcome.failed(), 0, "{:?}", outcome.failures);
    assert!(compared > 0);

    // Whoever holds them: a neighbour closes first.
    let address = SocketAddr::from((hosts.server_address, SERVER));
    hosts.middle.run(async move {
        for _ in 0..30 {
            // All of the greeting is read, or the kernel would reset the connection.
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            assert!(stream.read(&mut [0; 4096]).await.expect("a greeting") > 0);
        }
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let waiting = hosts.middle.sockets("state time-wait", &peer) as u64;
        let counted = imapool.metrics().sum("imapool_ports_time_wait", "main");
        // A connection or two may have ended by a reset all the same.
        if waiting == counted && (25..=30).contains(&counted) {
            break;
        }
        assert!(Instant::now() < deadline, "ss: {waiting}, metrics: {counted}");
        std::thread::sleep(Duration::from_millis(100));
    }

    drop(server);
}
