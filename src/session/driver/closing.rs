//! The end of a session: what is still owed to its client, what becomes of its connection, and who closes first.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::info;

use super::Session;
use crate::auth::Passage;
use crate::config::Limits;
use crate::listener::ListenerContext;
use crate::metrics::{CommandResult, SessionClose};
use crate::session::machine::{End, Remnant};
use crate::stream::{Peer, Stream};

/// How long a client may take to answer our FIN with its own.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// A client that closed its side and still got a reply has this long to read it before the reset: on Linux it can do so
/// afterwards, too, but other systems throw away what lies unread when a reset comes.
const READING_GRACE: Duration = Duration::from_millis(50);

/// The tagged reply of a command that is not waited for.
const GIVEN_UP: &str =
    "NO [UNAVAILABLE] Session closed by the administrator; whether the command was carried out is unknown.";

/// Why a session is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// It is not: TLS begins.
    Not,
    /// It goes on through to a replica, which is sent first what the client has sent since.
    Through(Box<Passage>, Bytes),
    /// In words, by one of the two sides.
    By(End),
    /// For this reason, in the middle of something: nothing more is said.
    Broken(SessionClose),
}

/// Closes a connection on which all was written that its client was told. `owed`: something was after the client had
/// closed its side, which it has as far as is known with `has_eof`.
pub(in crate::session) async fn close_client(
    stream: Stream,
    listener: &ListenerContext,
    limits: &Limits,
    close: SessionClose,
    has_eof: bool,
    owed: bool,
) {
    // Asked at the last moment: some clients say LOGOUT, and close their side at once.
    let peer = stream.peer();
    // Nothing comes after LOGOUT but the client's FIN; beneath TLS, a `close_notify`.
    if close == SessionClose::Logout && peer == Some(Peer::Silent) && !stream.is_tls() {
        return stream.hang_up();
    }
    let client_first = peer.map_or(has_eof, |peer| peer == Peer::Closed);
    if !client_first || !listener.config.reset_on_client_close {
        stream.close(CLOSE_DEADLINE).await;
    } else if owed || stream.undelivered().is_some() {
        // If it cannot be known what was delivered, it counts whether the client could be waiting for something.
        stream.cork(false);
        stream.reset_when_delivered(limits.write_timeout, if owed { READING_GRACE } else { Duration::ZERO }).await;
    } else {
        stream.reset();
    }
}

impl Session {
    /// Gives back the upstream connection, delivers the last words, and closes so that the client's port is free at
    /// once: TIME_WAIT comes to lie on our listening port, or, where the client was the first to close, nowhere.
    pub(super) async fn finish(mut self: Box<Self>, mut ended: Ended) {
        self.release();
        let owed = self.answered_eof || !self.output.is_empty();
        let gave_way = matches!(ended, Ended::By(End::GaveWay));
        if gave_way {
            // As far as the client takes it at once. Beneath TLS, whoever does not read does not hear.
            self.write_now(false);
            let _ = timeout(Duration::ZERO, self.flush()).await;
        } else if matches!(ended, Ended::By(_))
            && let Err(failed) = self.say_last().await
        {
            ended = failed;
        }
        let close = self.close_label(&ended);
        self.context.closes(&self.record, close);
        match ended {
            // Somebody else has its place.
            _ if gave_way => self.stream.hang_up(),
            Ended::By(_) => {
                let (listener, limits) = (&self.record.listener, &self.context.limits);
                close_client(self.stream, listener, limits, close, self.machine.has_eof(), owed).await;
            }
            _ => self.stream.reset(),
        }
    }

    /// Writes all that is queued, to be sent together with FIN as far as it fits into one segment.
    async fn say_last(&mut self) -> Result<(), Ended> {
        self.write_now(true);
        if self.output.is_empty() && !self.stream.is_tls() {
            return Ok(());
        }
        self.stream.cork(true);
        self.flush().await
    }

    /// Somebody asked for its end, and its command has run on for too long: the client is told so, unless that would
    /// come in the middle of a reply.
    pub(super) fn give_up(&mut self) -> Result<(), Ended> {
        let closed = Err(Ended::Broken(SessionClose::Operator));
        let Some(running) = &self.running else { return closed };
        self.ends(running, CommandResult::Lost);
        let is_cut = self.lease.as_ref().map_or(running.heard, |lease| !lease.at_line_start());
        if running.result.is_some() || is_cut || !self.output.is_empty() {
            return closed;
        }
        self.machine.handle_closed(GIVEN_UP);
        Ok(())
    }

    /// A connection at rest goes back to its pool; one with a reply on the way is drained first, by a task of its own.
    /// The hub is left before the client hears that it is over, and may come again.
    fn release(&mut self) {
        self.sharing.hub = None;
        // Nothing of it is at the backend while the client takes its time to close.
        self.presence = None;
        self.grant = None;
        let Some(lease) = self.lease.take() else { return };
        let remnant = self.machine.remnant();
        // What has not gone on to the backend by now never will.
        if self.running.is_some() && remnant != Remnant::Unfinished && self.parts.is_empty() {
            tokio::spawn(lease.drain(remnant));
        }
    }

    fn close_label(&self, ended: &Ended) -> SessionClose {
        match ended {
            Ended::By(End::Logout) => SessionClose::Logout,
            Ended::By(End::ClientClosed) => SessionClose::ClientClosed,
            Ended::By(End::ProtocolError) => {
                let (client, listener) = (self.record.client, &self.record.listener.config.name);
                info!(%client, listener, "session ended: malformed input");
                SessionClose::ProtocolError
            }
            Ended::By(End::Drain) => SessionClose::Drain,
            Ended::By(End::Operator) => SessionClose::Operator,
            Ended::By(End::IdleTimeout) => SessionClose::IdleTimeout,
            Ended::By(End::GaveWay) => SessionClose::GaveWay,
            Ended::By(End::LoginTimeout) => SessionClose::LoginTimeout,
            Ended::By(End::UpstreamLost) => SessionClose::UpstreamLost,
            Ended::Broken(close) => *close,
            Ended::Not | Ended::Through(..) => SessionClose::Error,
        }
    }
}
