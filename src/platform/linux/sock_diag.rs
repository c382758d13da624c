//! What the kernel knows of TCP connections, from sock_diag(7): exact, without unsafe code, and far cheaper than
//! reading /proc/net/tcp.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::platform::{Delivery, Held};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const IPPROTO_TCP: u8 = 6;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// Where things are in `struct inet_diag_msg`, which follows the header.
const FAMILY: usize = HEADER;
const STATE: usize = HEADER + 1;
const REMOTE_PORT: usize = HEADER + 6;
const REMOTE_ADDRESS: usize = HEADER + 24;
const WRITE_QUEUE: usize = HEADER + 60;
/// States of a connection (`include/net/tcp_states.h`).
const TIME_WAIT: u8 = 6;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const LISTEN: u8 = 10;
const CLOSING: u8 = 11;

/// The state of the connection between `local` and `peer`, by one look-up in the kernel's hash table.
///
/// # Errors
/// When the connection is gone, or the kernel does not offer sock_diag here.
pub(crate) fn delivery(local: SocketAddr, peer: SocketAddr) -> io::Result<Delivery> {
    let diag = open()?;
    send(diag.as_raw_fd(), &request(0, local, peer), MsgFlags::empty())?;
    let mut reply = [0; 1024];
    // The answer is there when send returns: nothing here waits.
    let len = recv(diag.as_raw_fd(), &mut reply, MsgFlags::MSG_DONTWAIT)?;
    let message = &reply[..len];
    if at(message, 4) != Some(SOCK_DIAG_BY_FAMILY.to_ne_bytes()) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let state = message.get(STATE).copied().unwrap_or_default();
    let undelivered = at(message, WRITE_QUEUE).and_then(|octets| usize::try_from(u32::from_ne_bytes(octets)).ok());
    Ok(Delivery {
        undelivered: undelivered.ok_or(io::ErrorKind::InvalidData)?,
        peer_closed: [TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING].contains(&state),
    })
}

/// Counts the connections to these addresses. A walk through the kernel's hash table for each port among them and each
/// family: microseconds to a few milliseconds.
///
/// # Errors
/// When the kernel does not offer sock_diag here.
pub(crate) fn held(towards: &HashSet<SocketAddr>) -> io::Result<Held> {
    let mut held = Held::default();
    let ports: HashSet<_> = towards.iter().map(SocketAddr::port).collect();
    for port in ports {
        // IPv4 addresses are in both tables: an IPv6 socket can be connected to one.
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            dump(SocketAddr::new(any, port), |message| {
                let Some((peer, state)) = remote(message).zip(message.get(STATE)) else { return };
                if *state == LISTEN || !towards.contains(&peer) {
                    return;
                }
                let counter = if *state == TIME_WAIT { &mut held.time_wait } else { &mut held.in_use };
                *counter += 1;
            })?;
        }
    }
    Ok(held)
}

/// Shows every connection of this family to this port.
fn dump(towards: SocketAddr, mut see: impl FnMut(&[u8])) -> io::Result<()> {
    let diag = open()?;
    let from = SocketAddr::new(towards.ip(), 0);
    send(diag.as_raw_fd(), &request(NLM_F_DUMP, from, towards), MsgFlags::empty())?;
    let mut buffer = vec![0; 32 * 1024];
    loop {
        // The kernel writes the next part while this one is taken: nothing here waits.
        let len = recv(diag.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
        let mut rest = &buffer[..len];
        while let (Some(length), Some(kind)) = (at(rest, 0), at(rest, 4)) {
            let length = usize::try_from(u32::from_ne_bytes(length)).unwrap_or(usize::MAX).clamp(HEADER, rest.len());
            match u16::from_ne_bytes(kind) {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(io::ErrorKind::Unsupported.into()),
                _ => see(&rest[..length]),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn open() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
}

/// Asks for one connection, or, in a dump, for all of its family with this remote port.
fn request(flags: u16, local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    // The interface of a link-local address.
    let scope = if let SocketAddr::V6(peer) = peer { peer.scope_id() } else { 0 };
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(u32::try_from(HEADER + REQUEST).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]); // sequence and port id: one question, one socket
    message.extend([family as u8, IPPROTO_TCP, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes()); // states: any
    message.extend(local.port().to_be_bytes());
    message.extend(peer.port().to_be_bytes());
    message.extend(octets(local.ip()));
    message.extend(octets(peer.ip()));
    message.extend(scope.to_ne_bytes());
    message.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    message
}

/// One of IPv4 is in the first four.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96).to_be_bytes(),
    }
}

/// The other end of a connection; an IPv4 address is one in either table.
fn remote(message: &[u8]) -> Option<SocketAddr> {
    let ip = if *message.get(FAMILY)? == AddressFamily::Inet as u8 {
        IpAddr::from(at::<4>(message, REMOTE_ADDRESS)?)
    } else {
        Ipv6Addr::from(at::<16>(message, REMOTE_ADDRESS)?).to_canonical()
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(at(message, REMOTE_PORT)?)))
}

/// What is at this place, if the message is long enough.
fn at<const N: usize>(message: &[u8], place: usize) -> Option<[u8; N]> {
    message.get(place..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_are_counted_by_their_remote_address() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let address = listener.local_addr().unwrap();
            let towards = HashSet::from([address]);
            // Others may have had this port before.
            let before = held(&towards).unwrap();
            assert_eq!(before.in_use, 0);
            let mut pairs: Vec<_> =
                (0..300).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap())).collect();
            assert_eq!(held(&towards).unwrap().in_use, 300);

            let (client, (server, _)) = pairs.pop().unwrap();
            let [near, far] = [client.local_addr().unwrap(), client.peer_addr().unwrap()];
            assert_eq!(delivery(near, far).unwrap(), Delivery { undelivered: 0, peer_closed: false });
            drop(server);
            assert_eq!(delivery(near, far).unwrap(), Delivery { undelivered: 0, peer_closed: true });
            drop(client);
            assert_eq!(delivery(near, far).unwrap_err().kind(), io::ErrorKind::NotFound);

            let (client, server) = pairs.pop().unwrap();
            drop(client);
            drop(server);
            let after = held(&towards).unwrap();
            assert_eq!((after.time_wait > 0, after.in_use), (true, 298), "{before:?} {after:?}");
        }
    }
}
