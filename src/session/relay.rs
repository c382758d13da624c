//! A session that goes through to a replica: octets as they are, both ways, each way only as fast as it is taken.
//!
//! Nothing is changed, and nothing is understood but where the replica's lines end: so that a client whose replica is
//! lost, or who has to go, can be told so, and never in the middle of a reply.

mod pipe;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::time::{Instant, Sleep, timeout};

use self::pipe::{Broken, Pipe};
use super::driver::{Context, close_client};
use super::registry::{CLOSING, Record};
use crate::auth::Passage;
use crate::imap::follow::{Follower, Parting};
use crate::metrics::{Direction, SessionClose};
use crate::stream::Stream;
use crate::upstream::backend::{Backend, Relayed};

/// A client that has to go, and is sending something, is let be until it has been silent for so long, or the time for
/// that is over: it may be in the middle of a message.
const QUIET: Duration = Duration::from_millis(500);

/// A session from its login on, before it is passed through.
pub(super) struct Beginning {
    pub(super) client: Stream,
    pub(super) record: Arc<Record>,
    pub(super) context: Arc<Context>,
    pub(super) passage: Passage,
    /// What the client is owed, the OK to its login among it.
    pub(super) owed: Bytes,
    /// What the client has sent behind its login.
    pub(super) ahead: Bytes,
    /// The client has closed its side.
    pub(super) has_eof: bool,
}

struct Relay {
    client: Stream,
    owner: Stream,
    /// From the client to the replica, and back.
    up: Pipe,
    down: Pipe,
    follower: Follower,
    record: Arc<Record>,
    backend: Arc<Backend>,
    write_timeout: Duration,
    /// Somebody asked for its end; until then, whatever happens.
    leaving: Option<Leaving>,
    last_input: Instant,
    /// How much the client had been sent when it had said all.
    answered: Option<usize>,
    /// Since when the client has taken nothing of what it is owed.
    stuck: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Clone, Copy)]
struct Leaving {
    label: SessionClose,
    by: Option<Instant>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    /// The replica has ended it, or is gone.
    Owner,
    /// Somebody asked for its end, and the replica did not come to it in time.
    Closed,
    /// The client is gone.
    ClientLost,
    /// It took nothing for too long.
    WriteTimeout,
}

/// Passes a session through, to its end.
pub(super) async fn run(beginning: Beginning) {
    let Beginning { client, record, context, passage, owed, ahead, has_eof } = beginning;
    let Passage { backend, visit, relayed, .. } = passage;
    let Relayed { stream: owner, input, held, .. } = relayed;
    backend.metrics().relayed.inc();
    let mut follower = Follower::default();
    follower.handle(&input);
    backend.metrics().octets.add(Direction::Received, input.len());
    let mut relay = Box::new(Relay {
        client,
        owner,
        up: Pipe::holding(ahead, has_eof),
        down: Pipe::holding([owed, input].concat().into(), false),
        follower,
        record,
        backend,
        write_timeout: context.limits.write_timeout,
        leaving: None,
        last_input: Instant::now(),
        answered: None,
        stuck: None,
        timer: None,
    });
    let over = relay.pass().await;
    let label = relay.label(over);
    context.closes(&relay.record, label);
    let last_words = relay.last_words(over, label);
    let was_answered = relay.answered.is_some_and(|before| before != relay.down.written);
    let Relay { mut client, owner, up, record, .. } = *relay;
    // Its socket is closed before the account may go elsewhere; by a reset, as any that was dialed.
    drop(owner);
    drop((held, visit));
    if matches!(over, Over::ClientLost | Over::WriteTimeout) {
        return client.reset();
    }
    if let Some(words) = last_words {
        client.cork(true);
        let said = timeout(context.limits.write_timeout, async {
            client.write_all(words.as_bytes()).await?;
            client.flush().await
        });
        if !matches!(said.await, Ok(Ok(()))) {
            return client.reset();
        }
    }
    // It may have closed its side, and been sent something since.
    close_client(client, &record.listener, &context.limits, label, up.eof, was_answered).await;
}

impl Relay {
    async fn pass(&mut self) -> Over {
        let record = Arc::clone(&self.record);
        let mut asked = pin!(record.closed());
        poll_fn(|cx| {
            if self.leaving.is_none() && asked.as_mut().poll(cx).is_ready() {
                let closing = self.record.is_closing();
                let label = if closing { SessionClose::Operator } else { SessionClose::Drain };
                self.leaving = Some(Leaving { label, by: closing.then(|| Instant::now() + CLOSING) });
            }
            self.poll(cx)
        })
        .await
    }

    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Over> {
        loop {
            if let Poll::Ready(over) = self.poll_up(cx) {
                return Poll::Ready(over);
            }
            if let Poll::Ready(over) = self.poll_down(cx) {
                return Poll::Ready(over);
            }
            let Some((deadline, over)) = self.due() else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            std::task::ready!(timer.as_mut().poll(cx));
            match over {
                Some(over) => return Poll::Ready(over),
                // As if the client had said all: the replica ends the command that runs, and then the session.
                None => self.up.end(),
            }
        }
    }

    /// From the client to the replica.
    fn poll_up(&mut self, cx: &mut TaskContext<'_>) -> Poll<Over> {
        let (record, metrics, last_input) = (&self.record, self.backend.metrics(), &mut self.last_input);
        let moved = self.up.poll(&mut self.client, &mut self.owner, cx, |octets| {
            *last_input = Instant::now();
            record.add_received(octets.len());
            metrics.octets.add(Direction::Sent, octets.len());
        });
        match moved {
            Poll::Ready(Err(Broken::Source)) => return Poll::Ready(Over::ClientLost),
            // What it has said before that can be read still, and its end.
            Poll::Ready(Err(Broken::Sink)) => self.up.give_up(),
            Poll::Ready(Ok(())) => {
                self.answered.get_or_insert(self.down.written);
                // It hears that the client has said all. What comes of that, it says.
                if Pin::new(&mut self.owner).poll_shutdown(cx).is_ready() {
                    self.up.close();
                }
            }
            Poll::Pending => {}
        }
        Poll::Pending
    }

    /// From the replica to the client.
    fn poll_down(&mut self, cx: &mut TaskContext<'_>) -> Poll<Over> {
        let (metrics, follower) = (self.backend.metrics(), &mut self.follower);
        let before = self.down.written;
        let moved = self.down.poll(&mut self.owner, &mut self.client, cx, |octets| {
            follower.handle(octets);
            metrics.octets.add(Direction::Received, octets.len());
        });
        let written = self.down.written - before;
        if written > 0 {
            self.record.add_sent(written);
            self.stuck = None;
        }
        if self.down.is_blocked() {
            self.stuck.get_or_insert_with(Instant::now);
        } else {
            self.stuck = None;
        }
        match moved {
            // A reset is an end as any other: on the owner's side, it is how a connection that we ended is closed.
            Poll::Ready(Ok(()) | Err(Broken::Source)) => Poll::Ready(Over::Owner),
            Poll::Ready(Err(Broken::Sink)) => Poll::Ready(Over::ClientLost),
            Poll::Pending => Poll::Pending,
        }
    }

    /// When there is something to be done, if nothing happens: it is over then, or no more of the client is heard.
    fn due(&self) -> Option<(Instant, Option<Over>)> {
        let stuck = self.stuck.map(|since| (since + self.write_timeout, Some(Over::WriteTimeout)));
        let by = self.leaving.and_then(|leaving| leaving.by).map(|by| (by, Some(Over::Closed)));
        let quiet = self.leaving.filter(|_| !self.up.saw_end()).map(|_| (self.last_input + QUIET, None));
        [stuck, by, quiet].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn label(&self, over: Over) -> SessionClose {
        match (over, self.leaving, self.follower.parting()) {
            (Over::ClientLost, ..) => SessionClose::ClientReset,
            (Over::WriteTimeout, ..) => SessionClose::WriteTimeout,
            (_, _, Parting::Logout) => SessionClose::Logout,
            (_, Some(leaving), _) => leaving.label,
            _ if self.up.eof => SessionClose::ClientClosed,
            _ => SessionClose::UpstreamLost,
        }
    }

    /// What the client is told in the end, if anything can be told.
    fn last_words(&self, over: Over, label: SessionClose) -> Option<&'static str> {
        let hears = matches!(over, Over::Owner | Over::Closed) && !self.up.eof && !self.down.is_blocked();
        let may_follow = self.follower.at_line_start() && self.follower.parting() == Parting::Not;
        (hears && may_follow).then_some(match label {
            SessionClose::Operator => "* BYE [UNAVAILABLE] Session closed by the administrator\r\n",
            SessionClose::Drain => "* BYE [UNAVAILABLE] Server shutting down\r\n",
            _ => "* BYE [UNAVAILABLE] The connection to the mail server was lost\r\n",
        })
    }
}
