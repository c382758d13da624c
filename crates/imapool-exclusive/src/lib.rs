//! A socket of Windows that shares its port with no other, by `SO_EXCLUSIVEADDRUSE`.
//!
//! Without an option, Windows refuses an address that is taken, but for two cases (its table of first and second binds,
//! "Using SO_REUSEADDR and SO_EXCLUSIVEADDRUSE"):
//!
//! - Who listens on `0.0.0.0` has all addresses. A later program of the same account may still take one of them,
//!   `127.0.0.1` say, and gets the clients from there, with their passwords.
//! - Who is to listen on `0.0.0.0` while another program has the port of one address gets the port all the same. It
//!   starts without an error, and never hears of the clients of that address.
//!
//! With the option either is an error. The standard library, tokio, mio, socket2 and rustix do not set it, nor do they
//! offer to; it takes a call of the system. That is the one place with `unsafe` in imapool, and this crate has nothing
//! else, so that `unsafe` stays forbidden everywhere else.
#![cfg(windows)]

use std::io;
use std::os::windows::io::{AsRawSocket as _, AsSocket};

use windows_sys::Win32::Networking::WinSock::{SO_EXCLUSIVEADDRUSE, SOCKET, SOL_SOCKET, setsockopt};

/// Has this socket share the port that it will be bound to with no other. Call it before the bind.
///
/// # Errors
/// What the system says.
pub fn set(socket: &impl AsSocket) -> io::Result<()> {
    let socket = socket.as_socket();
    // A socket's handle has as many bits in either type.
    let handle = socket.as_raw_socket() as SOCKET;
    let yes = 1_i32;
    #[expect(unsafe_code, reason = "there is no other way to set this option")]
    // SAFETY: the handle is that of a socket which is open for as long as it is borrowed. The pointer is to four
    // octets that outlive the call, of which the length says so; the system only reads them.
    let failed = unsafe {
        setsockopt(handle, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, (&raw const yes).cast::<u8>(), size_of_val(&yes) as i32)
    };
    // The system's last error is this thread's, and nothing is called in between.
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

    use socket2::{Domain, SockAddr, Socket, Type};

    use super::*;

    fn bind(address: SocketAddr, exclusive: bool, reuse: bool) -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        if exclusive {
            set(&socket)?;
        }
        if reuse {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SockAddr::from(address))?;
        socket.listen(1)?;
        Ok(socket)
    }

    /// Wine tells this from a port that is merely in use, too.
    #[test]
    fn nobody_takes_one_of_the_addresses_of_a_listener_on_all() {
        let all = bind(SocketAddr::from(([0, 0, 0, 0], 0)), true, false).unwrap();
        let port = all.local_addr().unwrap().as_socket().unwrap().port();
        for reuse in [false, true] {
            let error = bind(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)), false, reuse).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "reuse: {reuse}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_does_not_begin_beside_one_on_a_single_address() {
        let one = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = one.local_addr().unwrap().port();
        let error = bind(SocketAddr::from(([0, 0, 0, 0], port)), true, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    /// Connections that are over keep nobody from their port.
    #[test]
    fn a_port_is_free_again_once_its_listener_is_closed() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let first = bind(address, true, false).unwrap();
        let address = first.local_addr().unwrap().as_socket().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let (server, _) = first.accept().unwrap();
        // Who closes first is in TIME_WAIT.
        drop((server, client, first));
        drop(bind(address, true, false).unwrap());
    }
}
