//! Hosts: network namespaces. Nothing has to be tidied away: a namespace, with its interfaces and addresses, goes when
//! the last thread and the last process in it have ended, whatever ended them.

use std::future::Future;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// A network namespace, and a thread in it that runs what is asked.
pub(crate) struct Host(Option<Runtime>);

impl Host {
    /// With the loopback interface, and these ephemeral ports.
    pub(crate) fn new(first_port: u16, last_port: u16) -> Result<Self, Errno> {
        // What this thread starts is in its namespace: the runtime's thread, and the processes which that starts.
        let begin = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
            Ok(runtime.expect("a runtime"))
        };
        let host = Self(Some(thread::spawn(begin).join().expect("a thread")?));
        host.execute("ip link set lo up");
        host.run(async move {
            let range = format!("{first_port} {last_port}");
            std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("this namespace's own setting");
        });
        Ok(host)
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("taken only on drop")
    }

    /// Begins something on this host.
    pub(crate) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.runtime().spawn(task)
    }

    /// Waits for something begun; what panicked there panics here.
    pub(crate) fn wait<T: Send + 'static>(&self, task: JoinHandle<T>) -> T {
        self.runtime().block_on(task).unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Runs something on this host.
    pub(crate) fn run<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> T {
        self.wait(self.spawn(task))
    }

    /// Runs a program on this host; gives what it says.
    pub(crate) fn execute(&self, line: &str) -> String {
        let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
        self.run(async move {
            let output = Command::new(&words[0]).args(&words[1..]).output().expect("iproute2 is installed");
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("text")
        })
    }

    /// Lays a cable to another host; gives the addresses of the two ends.
    pub(crate) fn connect(&self, other: &Self, net: u8) -> (Ipv4Addr, Ipv4Addr) {
        let [mine, theirs] = [1, 2].map(|end| Ipv4Addr::new(10, 99, net, end));
        let thread = other.run(async { gettid() });
        self.execute(&format!("ip link add net{net} type veth peer name net{net} netns {thread}"));
        for (host, address) in [(self, mine), (other, theirs)] {
            host.execute(&format!("ip address add {address}/24 dev net{net}"));
            host.execute(&format!("ip link set net{net} up"));
        }
        (mine, theirs)
    }

    /// TCP sockets of this host in the states which `filter` names, connected to `peer`, as ss(8) tells them.
    pub(crate) fn sockets(&self, filter: &str, peer: &str) -> usize {
        self.execute(&format!("ss -Htan {filter} dst {peer}")).lines().count()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The hosts of a test, cabled as `front` - `middle` - `server`, and `front` - `server`.
pub(crate) struct Hosts {
    /// Where the front end runs.
    pub(crate) front: Host,
    /// Where imapool runs.
    pub(crate) middle: Host,
    /// Where the IMAP server runs.
    pub(crate) server: Host,
    /// imapool's address for the front end.
    pub(crate) proxy_address: Ipv4Addr,
    /// The server's address for imapool.
    pub(crate) server_address: Ipv4Addr,
    /// The server's address for the front end.
    pub(crate) direct_address: Ipv4Addr,
}

/// The first ephemeral port on all hosts.
const FIRST_PORT: u16 = 40_000;

impl Hosts {
    /// With so many ephemeral ports on the front end's and on imapool's host. `None`: not possible here, and so the
    /// test is skipped.
    pub(crate) fn new(front_ports: u16, middle_ports: u16) -> Option<Self> {
        let host = |ports: u16| match Host::new(FIRST_PORT, FIRST_PORT + ports - 1) {
            Ok(host) => Some(host),
            Err(error) => {
                assert!(
                    std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none_or(|required| required != "1"),
                    "no network namespaces: {error}"
                );
                // Not by eprintln!, which the test harness swallows.
                let _ = writeln!(std::io::stderr(), "SKIPPED: no network namespaces: {error}; run it as root");
                None
            }
        };
        let (front, middle, server) = (host(front_ports)?, host(middle_ports)?, host(10_000)?);
        let (_, proxy_address) = front.connect(&middle, 1);
        let (_, server_address) = middle.connect(&server, 2);
        let (_, direct_address) = front.connect(&server, 3);
        Some(Self { front, middle, server, proxy_address, server_address, direct_address })
    }
}
