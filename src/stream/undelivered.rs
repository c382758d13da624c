//! How much of what was written to a TCP connection its peer's kernel has not acknowledged: from sock_diag(7), which
//! tells what the ioctl SIOCOUTQ does, without unsafe code. An exact question, answered by one look-up in a hash table.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const IPPROTO_TCP: u8 = 6;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `idiag_wqueue` in the reply: behind the header, four octets, `struct inet_diag_sockid` and two numbers.
const WQUEUE: usize = HEADER + 4 + 48 + 8;

/// Octets written and not acknowledged on the connection between `local` and `peer`.
///
/// # Errors
/// When the connection is gone, or the kernel does not offer sock_diag here.
pub(super) fn undelivered(local: SocketAddr, peer: SocketAddr) -> io::Result<usize> {
    let diag =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    send(diag.as_raw_fd(), &request(local, peer), MsgFlags::empty())?;
    let mut reply = [0; 1024];
    // The answer is there when send returns: nothing here waits.
    let len = recv(diag.as_raw_fd(), &mut reply, MsgFlags::MSG_DONTWAIT)?;
    wqueue(&reply[..len]).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn request(local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + REQUEST);
    message.extend(u32::try_from(HEADER + REQUEST).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence and port id: one question, one socket
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.extend([family as u8, IPPROTO_TCP, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes()); // states: any
    message.extend(local.port().to_be_bytes());
    message.extend(peer.port().to_be_bytes());
    message.extend(address(local.ip()));
    message.extend(address(peer.ip()));
    message.extend(scope(peer).to_ne_bytes());
    message.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    message
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&ip.octets());
            octets
        }
    }
}

/// The interface of a link-local address.
fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    }
}

fn wqueue(reply: &[u8]) -> Option<usize> {
    let kind = u16::from_ne_bytes(reply.get(4..6)?.try_into().ok()?);
    if kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let wqueue = u32::from_ne_bytes(reply.get(WQUEUE..WQUEUE + 4)?.try_into().ok()?);
    usize::try_from(wqueue).ok()
}
