//! How a connection is read: by how much comes at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::io::poll_read_buf;

use super::{CHUNK, poll_read_with};
use crate::stream::Stream;

/// Read at a time from a backend that goes on filling [`CHUNK`], in octets. So much memory may wait for each of a few
/// slow clients, but not for all.
const STRETCH: usize = 128 * 1024;

/// Connections that are read so.
static STRETCHES: Semaphore = Semaphore::const_new(8);

/// How a connection is read, by how much has come at a time.
pub(super) enum Reading {
    /// Small pieces, by way of a buffer that is shared.
    Pieces,
    /// [`CHUNK`], into memory that is passed on without a copy.
    Chunks,
    /// The same, [`STRETCH`] at a time.
    Stretches { _turn: SemaphorePermit<'static> },
}

/// Reads into `buffer`.
pub(super) fn poll_read(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    reading: &mut Reading,
) -> Poll<io::Result<usize>> {
    let size = match reading {
        Reading::Pieces => {
            let read = ready!(poll_read_with(stream, cx, CHUNK, |octets| buffer.extend_from_slice(octets)));
            if matches!(read, Ok(read) if read >= CHUNK / 4) {
                *reading = Reading::Chunks;
            }
            return Poll::Ready(read);
        }
        Reading::Chunks => CHUNK,
        Reading::Stretches { .. } => STRETCH,
    };
    buffer.reserve(size);
    let read = ready!(poll_read_buf(Pin::new(stream), cx, buffer))?;
    match reading {
        _ if read < CHUNK / 4 => *reading = Reading::Pieces,
        Reading::Chunks if read >= CHUNK => {
            if let Ok(turn) = STRETCHES.try_acquire() {
                *reading = Reading::Stretches { _turn: turn };
            }
        }
        _ => {}
    }
    Poll::Ready(Ok(read))
}
