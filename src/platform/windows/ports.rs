//! Local ports: what netsh, the registry and the table of connections say of them.

use std::collections::HashSet;
use std::io::Read as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::Stdio;
use std::sync::{LazyLock, mpsc};
use std::time::Duration;

use netstat2::{
    AddressFamilyFlags, ProtocolFlags, ProtocolSocketInfo, TcpState, iterate_sockets_info,
    iterate_sockets_info_without_pids,
};
use windows_registry::LOCAL_MACHINE;

use super::paths;
use crate::platform::Held;
pub(crate) use crate::platform::elsewhere::{LENT_AGAIN, keep_to};

/// What to do where there are too few.
pub(crate) const WIDEN: &str = "widen the dynamic ports (netsh int ipv4 set dynamicport tcp start=10000 num=55536)";
/// What else to raise, where connections run short: nothing.
pub(crate) const OR_DESCRIPTORS: &str = "";
/// How a program can be kept to few ports, to show what comes of it.
pub(crate) const FEW: &str = "it takes a host\n\
    with few ports. An administrator can leave it few, with `netsh int ipv4 set dynamicport tcp start=50000 num=255`,\n\
    and give the others back with `netsh int ipv4 set dynamicport tcp start=49152 num=16384`\n";

/// Since Windows Vista.
const DEFAULT: RangeInclusive<u16> = 49_152..=65_535;
/// How long netsh may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);
/// More than it says, in octets.
const LONGEST: u64 = 1 << 16;

/// Ports held towards these addresses. `None`: the system does not tell.
pub(crate) fn held(towards: &HashSet<SocketAddr>) -> Option<Held> {
    let mut held = Held::default();
    // Whose a connection is costs time, and is of no interest; without that, the crate knows the table of IPv4 alone.
    let four = iterate_sockets_info_without_pids(ProtocolFlags::TCP).ok()?;
    let six = || iterate_sockets_info(AddressFamilyFlags::IPV6, ProtocolFlags::TCP);
    let six = towards.iter().any(SocketAddr::is_ipv6).then(six).transpose().ok()?;
    for socket in four.chain(six.into_iter().flatten()) {
        let ProtocolSocketInfo::Tcp(tcp) = socket.ok()?.protocol_socket_info else { continue };
        if !towards.contains(&SocketAddr::new(tcp.remote_addr.to_canonical(), tcp.remote_port)) {
            continue;
        }
        match tcp.state {
            TcpState::Listen | TcpState::Closed | TcpState::DeleteTcb => {}
            TcpState::TimeWait => held.time_wait += 1,
            _ => held.in_use += 1,
        }
    }
    Some(held)
}

/// The ports that connect chooses from, as they were at the start.
pub(crate) fn ephemeral_range() -> Option<RangeInclusive<u16>> {
    static RANGE: LazyLock<RangeInclusive<u16>> = LazyLock::new(|| {
        let said = ask_netsh(&["show", "dynamicport", "tcp"]);
        said.as_deref().and_then(dynamic_ports).unwrap_or(DEFAULT)
    });
    Some(RANGE.clone())
}

/// How many of them a program gets: without those that are reserved (by Hyper-V, WinNAT, an administrator), as they
/// were at the start.
pub(crate) fn ephemeral_ports(_: Option<&RangeInclusive<u16>>) -> usize {
    static PORTS: LazyLock<usize> = LazyLock::new(|| {
        let said = ask_netsh(&["show", "excludedportrange", "protocol=tcp"]);
        let reserved = said.as_deref().map(excluded_ports).unwrap_or_default();
        without(&ephemeral_range().unwrap_or(DEFAULT), &reserved)
    });
    *PORTS
}

/// How many ports of a range are in none of the others.
fn without(range: &RangeInclusive<u16>, others: &[RangeInclusive<u16>]) -> usize {
    range.clone().filter(|port| !others.iter().any(|other| other.contains(port))).count()
}

/// How long a port is held by a connection that is over: 30 to 300 s, or else 120 s.
pub(crate) fn time_wait() -> Duration {
    const PARAMETERS: &str = r"SYSTEM\CurrentControlSet\Services\Tcpip\Parameters";
    let set = LOCAL_MACHINE.open(PARAMETERS).and_then(|key| key.get_u32("TcpTimedWaitDelay")).ok();
    Duration::from_secs(set.filter(|seconds| (30..=300).contains(seconds)).unwrap_or(120).into())
}

/// What netsh says of ports: nothing else tells without the management service (WMI).
fn ask_netsh(what: &[&str]) -> Option<String> {
    let mut netsh = paths::of_system("netsh.exe")
        .args(["int", "ipv4"])
        .args(what)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let output = netsh.stdout.take()?;
    let (tell, told) = mpsc::channel();
    // Ends with the process, at the latest.
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = output.take(LONGEST).read_to_end(&mut said);
        // Who asked may have lost patience.
        let _ = tell.send(read.is_ok().then_some(said));
    });
    let said = told.recv_timeout(PATIENCE).ok().flatten();
    // It has ended, or has to.
    let _ = netsh.kill();
    let _ = netsh.wait();
    Some(String::from_utf8_lossy(&said?).into_owned())
}

/// The two numbers at the ends of lines: the first port, and how many there are. The words are in any language.
fn dynamic_ports(said: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = said.lines().filter_map(|line| line.split_whitespace().next_back()?.parse::<u16>().ok());
    let (start, number) = (numbers.next()?, numbers.next()?);
    let end = start.checked_add(number.checked_sub(1)?)?;
    (start > 0).then_some(start..=end)
}

/// The lines that begin with two numbers: the first port of a range, and the last. The words are in any language.
fn excluded_ports(said: &str) -> Vec<RangeInclusive<u16>> {
    let range = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u16>);
        Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
    };
    said.lines().filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_dynamic_ports_are_read_in_any_language() {
        let english = "\r\nProtocol tcp Dynamic Port Range\r\n---------------------------------\r\n\
            Start Port      : 49152\r\nNumber of Ports : 16384\r\n\r\n";
        assert_eq!(dynamic_ports(english), Some(49_152..=65_535));
        let german = "Protokoll tcp, Dynamischer Portbereich\n---\nStartport      : 50000\nAnzahl Ports: 255\n";
        assert_eq!(dynamic_ports(german), Some(50_000..=50_254));
        for wrong in ["", "Start Port : 49152", "a: 0\nb: 5", "a: 65000\nb: 1000", "a: 5\nb: 0", "a: 70000\nb: 1"] {
            assert_eq!(dynamic_ports(wrong), None, "{wrong}");
        }
        assert!(!ephemeral_range().unwrap().is_empty());
    }

    #[test]
    fn reserved_ports_are_nobodys_to_choose() {
        let said = "\r\nProtocol tcp Port Exclusion Ranges\r\n\r\nStart Port    End Port\r\n----------    --------\r\n\
            \x20     5357        5357\r\n     49152       49251\r\n     50000       50059     *\r\n     50050       50069\r\n\r\n\
            * - Administered port exclusions.\r\n";
        let reserved = excluded_ports(said);
        assert_eq!(reserved, [5357..=5357, 49_152..=49_251, 50_000..=50_059, 50_050..=50_069]);
        assert_eq!(without(&DEFAULT, &reserved), 16_384 - 100 - 70);
        for wrong in ["", "a b", "5", "5 b", "70000 70001", "The following command was not found"] {
            assert!(excluded_ports(wrong).is_empty(), "{wrong}");
        }
        assert_eq!(without(&DEFAULT, &[RangeInclusive::new(9, 1)]), 16_384);
        assert!((1..=65_536).contains(&ephemeral_ports(None)));
    }

    #[test]
    fn connections_are_counted_by_their_remote_address() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let towards = HashSet::from([listener.local_addr().unwrap()]);
            assert_eq!(held(&towards).unwrap().in_use, 0);
            let pairs: Vec<_> =
                (0..20).map(|_| (TcpStream::connect(listener.local_addr().unwrap()), listener.accept())).collect();
            assert_eq!(held(&towards).unwrap().in_use, pairs.len());
        }
    }

    #[test]
    fn a_port_rests_as_long_as_windows_allows() {
        assert!((30..=300).contains(&time_wait().as_secs()));
    }
}
