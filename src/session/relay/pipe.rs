//! One way of a session that goes through: what is read is written at once. Only what the other side does not take is
//! kept, and nothing more is read until it has.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use crate::stream::Stream;
use crate::upstream::connection::with_scratch;

/// See the module.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Read, and not taken yet: no more than is read at once, or what there was at first.
    kept: Bytes,
    /// Octets that the sink has taken.
    pub(super) written: usize,
    /// Something may lie in the buffers of TLS.
    unflushed: bool,
    source: Source,
    /// The source has said itself that it says no more.
    pub(super) eof: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Open,
    /// It says no more, or is not listened to any longer.
    Ended,
    /// The sink was told so, or is gone.
    Closed,
}

/// A side that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    Source,
    Sink,
}

impl Pipe {
    /// Begins with what was read already; `ended`: there will be no more.
    pub(super) fn holding(kept: Bytes, ended: bool) -> Self {
        let source = if ended { Source::Ended } else { Source::Open };
        Self { kept, written: 0, unflushed: false, source, eof: ended }
    }

    /// The sink does not take what there is.
    pub(super) fn is_blocked(&self) -> bool {
        !self.kept.is_empty() || self.unflushed
    }

    /// Nothing more is read.
    pub(super) fn saw_end(&self) -> bool {
        self.source != Source::Open
    }

    /// Reads no more.
    pub(super) fn end(&mut self) {
        if self.source == Source::Open {
            self.source = Source::Ended;
        }
    }

    /// The sink knows of the end.
    pub(super) fn close(&mut self) {
        self.source = Source::Closed;
    }

    /// The sink is gone.
    pub(super) fn give_up(&mut self) {
        self.kept = Bytes::new();
        self.unflushed = false;
        self.close();
    }

    /// Moves what can be moved. Ready when the source has ended and all of it was taken; not again once it is closed.
    /// `seen`: what was read, before it is written.
    pub(super) fn poll(
        &mut self,
        source: &mut Stream,
        sink: &mut Stream,
        cx: &mut Context<'_>,
        mut seen: impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        if self.source == Source::Closed {
            return Poll::Pending;
        }
        loop {
            while !self.kept.is_empty() {
                match ready!(Pin::new(&mut *sink).poll_write(cx, &self.kept)) {
                    Ok(taken) if taken > 0 => {
                        self.wrote(taken, sink);
                        self.kept.advance(taken);
                    }
                    _ => return Poll::Ready(Err(Broken::Sink)),
                }
            }
            self.kept = Bytes::new();
            let flushed = if self.unflushed { Pin::new(&mut *sink).poll_flush(cx) } else { Poll::Ready(Ok(())) };
            match flushed {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Sink)),
                // TLS says itself when it takes no more.
                Poll::Pending if self.source == Source::Ended => return Poll::Pending,
                Poll::Pending => {}
            }
            if self.source == Source::Ended {
                return Poll::Ready(Ok(()));
            }
            if let Err(broken) = ready!(self.poll_move(source, sink, cx, &mut seen)) {
                return Poll::Ready(Err(broken));
            }
        }
    }

    /// Reads once, and writes what the sink takes at once.
    fn poll_move(
        &mut self,
        source: &mut Stream,
        sink: &mut Stream,
        cx: &mut Context<'_>,
        seen: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<(), Broken>> {
        with_scratch(|scratch| {
            let mut target = ReadBuf::new(scratch);
            if ready!(Pin::new(source).poll_read(cx, &mut target)).is_err() {
                return Poll::Ready(Err(Broken::Source));
            }
            let octets = target.filled();
            if octets.is_empty() {
                self.eof = true;
                self.end();
                return Poll::Ready(Ok(()));
            }
            seen(octets);
            let taken = match Pin::new(&mut *sink).poll_write(cx, octets) {
                Poll::Ready(Ok(taken)) if taken > 0 => taken,
                Poll::Ready(_) => return Poll::Ready(Err(Broken::Sink)),
                Poll::Pending => 0,
            };
            self.wrote(taken, sink);
            self.kept = Bytes::copy_from_slice(&octets[taken..]);
            Poll::Ready(Ok(()))
        })
    }

    fn wrote(&mut self, taken: usize, sink: &Stream) {
        self.written = self.written.wrapping_add(taken);
        self.unflushed |= taken > 0 && sink.is_tls();
    }
}
