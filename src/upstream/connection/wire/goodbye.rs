//! How a connection ends.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tracing::info;

use super::{Exit, Wire};
use crate::metrics::{Label as _, RetireReason};
use crate::stream::Ended;
use crate::upstream::connection::Shared;
use crate::upstream::connection::reading::poll_read;
use crate::upstream::loss::Loss;
use crate::upstream::machine::{Event, Own};

/// How long a retired connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

impl Wire {
    /// Ends the connection so that TIME_WAIT stays with the backend, or nowhere: at once, or, if it comes back, by
    /// [`Wire::say_goodbye`].
    pub(in crate::upstream::connection) fn end(
        mut self: Box<Self>,
        shared: &Shared,
        exit: Exit,
    ) -> (Loss, Option<Box<Self>>) {
        shared.closed();
        if matches!(exit, Exit::Retire(RetireReason::Evicted)) {
            self.permit.leave();
        }
        if matches!(exit, Exit::ServerClosed | Exit::Bye(_) | Exit::Io(_) | Exit::Timeout | Exit::NoGoAhead) {
            shared.doubts_backend();
        }
        let reason = self.reason(shared, &exit);
        let bye = if let Exit::Bye(text) = &exit { Some(text.clone()) } else { None };
        // A command that waits for one of our own was not sent, whatever else was.
        let unsent = !self.sent || self.machine.defers();
        let unasked = matches!(exit, Exit::NoGoAhead);
        let loss = Loss { unsent, unanswered: !self.replied, unasked, cut: !self.machine.at_line_start(), bye };
        self.metrics.retired.inc(reason);
        let seconds = self.opened.elapsed().as_secs();
        let (connection, reason) = (shared.id, reason.as_str());
        info!(target: "imapool::connections", connection, reason, seconds, cause = %exit, "upstream connection retired");
        let orderly =
            matches!(exit, Exit::Retire(_) | Exit::Abandoned) && self.machine.is_clean() && self.output.is_empty();
        if orderly {
            return (loss, Some(self));
        }
        let Self { stream, state, permit, .. } = *self;
        stream.reset();
        // It is counted no more before its places are free.
        drop(state);
        drop(permit);
        shared.socket_closed();
        (loss, None)
    }

    fn reason(&self, shared: &Shared, exit: &Exit) -> RetireReason {
        match exit {
            Exit::Retire(reason) => *reason,
            Exit::ServerClosed | Exit::Bye(_) => RetireReason::ServerClosed,
            Exit::Abandoned if self.machine.spoiled().is_some() => RetireReason::Sticky,
            Exit::Abandoned if !self.machine.is_clean() => RetireReason::Unclean,
            Exit::Abandoned => RetireReason::Shutdown,
            Exit::Protocol(error) => {
                info!(connection = shared.id, %error, "backend broke the protocol");
                RetireReason::ProtocolError
            }
            Exit::Io(error) => {
                info!(connection = shared.id, %error, "upstream connection failed");
                RetireReason::Error
            }
            Exit::Timeout | Exit::NoGoAhead => RetireReason::Timeout,
        }
    }

    /// LOGOUT, and whatever it takes.
    pub(in crate::upstream::connection) async fn say_goodbye(mut self: Box<Self>) {
        if matches!(tokio::time::timeout(GOODBYE, self.logout()).await, Ok(Ok(()))) {
            let Self { stream, state, permit, .. } = *self;
            let _: Ended = stream.wait_peer_close(GOODBYE).await;
            drop(state);
            drop(permit);
        } else {
            self.stream.reset();
        }
    }

    /// LOGOUT, and the reply to it.
    async fn logout(&mut self) -> io::Result<()> {
        self.machine.handle_own(Own::Logout);
        self.stream.write_all(&self.machine.poll_transmit()).await?;
        self.stream.flush().await?;
        loop {
            while let Some(event) = self.machine.poll_event() {
                if matches!(event, Event::OwnDone(Own::Logout, _)) {
                    return Ok(());
                }
            }
            let (stream, input, reading) = (&mut self.stream, &mut self.input, &mut self.reading);
            if poll_fn(|cx| poll_read(stream, cx, input, reading)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.machine.handle_input(&mut self.input).map_err(io::Error::other)?;
        }
    }
}
