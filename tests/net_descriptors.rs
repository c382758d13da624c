//! Accepting when the process is out of file descriptors. In a process of its own: the limit is the process's.

#![allow(clippy::unwrap_used, reason = "a test")]
#![cfg(unix)]

use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use imapool::config::{ListenAddr, Listener};
use imapool::listener::BoundListener;
use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::time::timeout;

/// What this process has spent of the CPU.
fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let micros = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap());
    micros(usage.user_time()) + micros(usage.system_time())
}

#[tokio::test]
async fn accepting_goes_on_when_descriptors_are_back_and_does_not_spin() {
    let config = Listener::new(ListenAddr::Tcp((Ipv4Addr::LOCALHOST, 0).into()));
    let listener = BoundListener::bind(&config).unwrap();
    let ListenAddr::Tcp(address) = *listener.local_address() else { panic!("no TCP address") };
    let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The lowest free descriptor is the next to be given out, and from there on there are none.
    let free = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    setrlimit(Resource::RLIMIT_NOFILE, u64::try_from(free).unwrap(), hard).unwrap();
    let (begun, before) = (Instant::now(), cpu());
    let starved = timeout(Duration::from_millis(400), listener.accept()).await;
    let (took, spent) = (begun.elapsed(), cpu() - before);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(starved.is_err(), "there was no descriptor for it");
    assert!(spent < took / 4, "{spent:?} of CPU in {took:?}");
    for _ in clients {
        timeout(Duration::from_secs(10), listener.accept()).await.expect("the clients are still in the queue");
    }
}
