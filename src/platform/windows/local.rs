//! Sockets with a path, and those that the process was started with: here are none. No value of these types is ever
//! made, so that whoever handles them need not ask which system this is.

use std::io;
use std::path::{Path, PathBuf};

/// A socket that the process was started with.
pub(crate) use std::convert::Infallible as Inherited;
/// A connected one.
pub use tokio::io::Empty as Stream;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listening(Inherited);

impl Listening {
    pub(crate) fn bind(_: &Path, _: bool, _: i32) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn adopt(socket: Inherited) -> io::Result<Self> {
        match socket {}
    }

    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        match self.0 {}
    }
}

/// Never connects.
///
/// # Errors
/// Always.
#[expect(clippy::unused_async, reason = "it is one where there are such sockets")]
pub async fn connect(_: &Path) -> io::Result<Stream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// None.
pub(crate) fn inherited() -> (Vec<std::net::TcpListener>, Vec<Inherited>) {
    (Vec::new(), Vec::new())
}

/// The path of one.
pub(crate) fn path_of(socket: &Inherited) -> Option<PathBuf> {
    match *socket {}
}
