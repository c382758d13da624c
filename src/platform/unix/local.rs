//! Unix sockets, and sockets that the process was started with.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::files::{Identity, identity};
pub(crate) use std::os::unix::net::UnixListener as Inherited;
pub use tokio::net::UnixStream as Stream;

/// Owner and group: those of the service and of its front ends.
const MODE: u32 = 0o660;

/// A listening Unix socket, which takes its file away with it.
#[derive(Debug)]
pub(crate) struct Listening {
    listener: UnixListener,
    /// Which one, so that a successor's file is left alone; `None`: it is not ours to remove.
    file: Option<(PathBuf, Identity)>,
}

impl Listening {
    /// `take_over`: in place of a process that listens there; connections go to either, and none is refused.
    pub(crate) fn bind(path: &Path, take_over: bool, backlog: i32) -> io::Result<Self> {
        let mut place = path.to_path_buf();
        if take_over {
            place.as_mut_os_string().push(format!(".{}", std::process::id()));
        }
        let address = SockAddr::unix(&place)?;
        remove_stale(&place, &address)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address)?;
        // Before listening: until then nobody can connect, whatever the umask allowed.
        fs::set_permissions(&place, Permissions::from_mode(MODE))?;
        socket.listen(backlog)?;
        let listener = UnixListener::from_std(socket.into())?;
        let identity = identity(&fs::symlink_metadata(&place)?);
        if take_over {
            fs::rename(&place, path)?;
        }
        Ok(Self { listener, file: Some((path.into(), identity)) })
    }

    /// One that was bound by somebody else, who keeps it.
    pub(crate) fn adopt(socket: Inherited) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(socket)?, file: None })
    }

    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

/// Connects to the socket at this path.
pub async fn connect(path: &Path) -> io::Result<Stream> {
    Stream::connect(path).await
}

/// Listening sockets that the process was started with, by systemd or by another launcher that speaks its protocol:
/// those that the environment variables LISTEN_FDS and LISTEN_PID tell of. Call it once, before anything is opened.
pub(crate) fn inherited() -> (Vec<std::net::TcpListener>, Vec<Inherited>) {
    let mut fds = listenfd::ListenFd::from_env();
    let (mut tcp, mut unix) = (Vec::new(), Vec::new());
    for place in 0..fds.len() {
        if let Ok(Some(socket)) = fds.take_tcp_listener(place) {
            tcp.push(socket);
        } else if let Ok(Some(socket)) = fds.take_unix_listener(place) {
            unix.push(socket);
        }
    }
    (tcp, unix)
}

/// The path of one.
pub(crate) fn path_of(socket: &Inherited) -> Option<PathBuf> {
    socket.local_addr().ok()?.as_pathname().map(Path::to_path_buf)
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some((path, ours)) = &self.file
            && fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == *ours)
        {
            drop(fs::remove_file(path));
        }
    }
}

/// Removes the socket file of a process that is gone: one on which nobody answers.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A connect that would have to wait meets somebody whose backlog is full.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}
