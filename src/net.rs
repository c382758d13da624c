//! Where connections come from: this host's sockets, or a network that is handed in. So the whole proxy, as it is, can
//! be run over a network in memory, with a clock and a chance of its own.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::stream::Peer;

/// One end of a connection that no socket of this host is: what [`crate::stream::Stream`] asks of TCP.
pub trait Connection: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {
    /// Our end's address.
    fn local_address(&self) -> SocketAddr;

    /// The other end's address.
    fn peer_address(&self) -> SocketAddr;

    /// Writes what there is room for, without waiting for any, and gives how many octets that were.
    fn write_now(&self, octets: &[IoSlice<'_>]) -> usize;

    /// Looks at what has come, and leaves it there; 0: the other side has closed.
    fn poll_peek(&mut self, _cx: &mut Context<'_>, _octets: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// What is known of the other side.
    fn peer(&self) -> Peer;

    /// Octets written that have not arrived.
    fn undelivered(&self) -> usize;

    /// Whether the end is a reset, which loses what has not arrived, in place of an orderly close.
    fn reset_at_end(&self, reset: bool);
}

/// A connection that is being made.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Connection>>> + Send>>;

/// What is outside of the process.
pub trait Outside: fmt::Debug + Send + Sync {
    /// Connects; takes as long as it takes.
    fn connect(&self, address: SocketAddr) -> Connecting;

    /// The next connection to a listener of this address.
    fn poll_accept(&self, address: SocketAddr, cx: &mut Context<'_>) -> Poll<(Box<dyn Connection>, SocketAddr)>;

    /// A listener of this address is closed, or was never served.
    fn stop_listening(&self, _address: SocketAddr) {}

    /// Between 0 and 1, different each time.
    fn chance(&self) -> f64;
}

/// Where connections come from, and chance.
#[derive(Debug, Clone, Default)]
pub enum Net {
    /// This host.
    #[default]
    System,
    /// Something else in its place, for listeners on TCP addresses and for backends that are named by address.
    Given(Arc<dyn Outside>),
}

impl Net {
    /// Between 0 and 1, different each time: enough to keep things from happening all at once.
    pub fn chance(&self) -> f64 {
        use std::hash::{BuildHasher as _, RandomState};
        match self {
            #[expect(clippy::cast_precision_loss, reason = "chance has no precision")]
            Self::System => RandomState::new().hash_one(0) as f64 / u64::MAX as f64,
            Self::Given(outside) => outside.chance(),
        }
    }
}
