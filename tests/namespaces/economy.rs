//! The fault that this project is for: it is there without imapool, and gone with it, on both sides.

use std::net::SocketAddr;
use std::sync::Arc;

use imapool::demo::server::{Options, Server};

use crate::front_end::{self, Ending, Load, Outcome};
use crate::host::Hosts;
use crate::proxy::{Address, Imapool, SERVER};

const PORTS: u16 = 200;
const ACCOUNTS: u32 = 20;
/// TIME_WAIT that may be left on the front end: where both sides closed at the very same time.
const STRAY: usize = 10;

/// Sessions of each kind of load.
pub(crate) fn sessions(default: u32) -> u32 {
    std::env::var("IMAPOOL_NETNS_SESSIONS").map_or(default, |number| number.parse().expect("a number"))
}

/// The server, on its host.
pub(crate) fn start_server(hosts: &Hosts, options: Options) -> Server {
    let addresses = vec![SocketAddr::from(([0, 0, 0, 0], SERVER))];
    hosts.server.run(async move { Server::start(Options { addresses, ..options }).await }).expect("a server")
}

pub(crate) fn run(hosts: &Hosts, load: Load) -> Outcome {
    hosts.front.run(front_end::run(load))
}

/// Writes what a measurement gave where the test harness does not swallow it.
pub(crate) fn report(text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn no_session_fails_and_no_time_wait_is_left() {
    let Some(hosts) = Hosts::new(PORTS, PORTS) else { return };
    // Real servers have things to write down before they close: the client is often first.
    let logout_grace = std::time::Duration::from_millis(20);
    let _server = start_server(&hosts, Options { logout_grace, ..Options::default() });
    let account: front_end::Chooser = Arc::new(|n| n % ACCOUNTS + 1);

    let direct = Address { tcp: SocketAddr::from((hosts.direct_address, SERVER)), tls: None };
    let wall = u32::from(PORTS) * 3;
    for ending in [Ending::Polite, Ending::Abrupt] {
        let load = Load { address: direct.clone(), ending, sessions: wall, at_once: 8, account: Arc::clone(&account) };
        let outcome = run(&hosts, load);
        report(format_args!("direct, {ending:?}: {outcome:?}"));
        assert!(outcome.failed() > wall / 3, "the load is none: {outcome:?}");
    }

    let imapool = Imapool::start(&hosts, "", "");
    let sessions = sessions(600) / 2;
    for ending in [Ending::Polite, Ending::Abrupt, Ending::Mixed] {
        for (name, address) in [("plain", &imapool.plain), ("TLS", &imapool.tls)] {
            for at_once in [8, 64] {
                let load = Load { address: address.clone(), ending, sessions, at_once, account: Arc::clone(&account) };
                let outcome = run(&hosts, load);
                let waiting = hosts.front.sockets("state time-wait", &hosts.proxy_address.to_string());
                report(format_args!(
                    "{ending:?}, {name}, {at_once} at once: {} well in {:.1?}, TIME_WAIT {waiting}, failures {:?}",
                    outcome.went_well, outcome.elapsed, outcome.failures
                ));
                assert_eq!((outcome.failed(), outcome.went_well), (0, sessions), "{:?}", outcome.failures);
                assert!(waiting <= STRAY, "{waiting} in TIME_WAIT on the front end after {ending:?}, {name}");
            }
        }
    }
    let behind = hosts.middle.sockets("state time-wait", &hosts.server_address.to_string());
    assert_eq!(behind, 0, "TIME_WAIT on imapool's host");
    assert_eq!(imapool.metrics().sum("imapool_upstream_dials_total", "no_ports"), 0);
}
