//! One authenticated connection: its socket and its machine. Whoever holds it drives it; it has no task of its own.

mod goodbye;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use tokio::io::AsyncWrite;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};
use tracing::{debug, info, warn};

use super::reading::{Reading, poll_read};
use super::{FromUpstream, Input, Shared, Timing};
use crate::imap::command::Command;
use crate::imap::request::Request;
use crate::imap::untagged::Replies;
use crate::metrics::{BackendMetrics, ConnectionState, Direction, RetireReason, StateGuard};
use crate::ports::Permit;
use crate::shown;
use crate::stream::Stream;
use crate::upstream::backend::Unauthenticated;
use crate::upstream::machine::{Event, Facts, Ignored, Machine, Own, ProtocolError};
use crate::upstream::manners::Manners;

/// What a backend may say unasked while a connection rests, in octets.
const UNASKED: usize = 1024 * 1024;
/// Lines in the log about lines of one connection that nobody understands.
const REMARKS: u8 = 10;
/// How long the backend has to ask for a literal, or to refuse it; it may wait for a lock. To a command that it does
/// not understand before the literal, Dovecot says nothing at all.
const GO_AHEAD: Duration = Duration::from_secs(30);
/// How long a command of our own may take on an authenticated connection.
const OWN_COMMAND: Duration = Duration::from_secs(30);

/// See the module.
pub(in crate::upstream) struct Wire {
    pub(super) stream: Stream,
    pub(super) machine: Machine,
    input: BytesMut,
    output: Bytes,
    timing: Timing,
    /// Somebody has it.
    leased: bool,
    /// A command of our own is in flight, in a pool or not, and has to be answered by then.
    own: Option<Instant>,
    /// What is to be done next where it rests, and when.
    unselect: Option<Instant>,
    noop: Instant,
    /// Who has it waits for [`FromUpstream::Checked`].
    checking: bool,
    /// Who has it does not want any events for now.
    held: bool,
    opened: Instant,
    /// When it was last put to rest.
    pub(super) rested: Instant,
    last_octet: Instant,
    /// When its backend was last doubted for its silence.
    doubted: Instant,
    /// An octet of the session's command was sent, one of its reply was received.
    sent: bool,
    replied: bool,
    /// Octets read since the last request, while at rest.
    unasked: usize,
    /// Lines in the log that it may still cause by what nobody understands.
    remarks: u8,
    /// To be told after the events that came before it.
    failed: Option<Exit>,
    reading: Reading,
    timer: Pin<Box<Sleep>>,
    state: StateGuard,
    metrics: Arc<BackendMetrics>,
    pub(super) permit: Permit,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum Exit {
    /// In an orderly way: LOGOUT.
    #[error("imapool gives it up")]
    Retire(RetireReason),
    #[error("the server closed it")]
    ServerClosed,
    #[error("the server said goodbye: {}", shown::text(.0))]
    Bye(Bytes),
    #[error("whoever had it is gone")]
    Abandoned,
    #[error(transparent)]
    Protocol(ProtocolError),
    #[error(transparent)]
    Io(io::Error),
    #[error("the server did not answer in time")]
    Timeout,
    /// As if it had not understood the command.
    #[error("the server did not ask for a literal")]
    NoGoAhead,
}

impl Wire {
    /// One that was just authenticated. Somebody has it from the start.
    pub(in crate::upstream) fn new(
        opened: Unauthenticated,
        timing: Timing,
        manners: &Arc<Manners>,
        metrics: &Arc<BackendMetrics>,
    ) -> Box<Self> {
        let now = Instant::now();
        let Unauthenticated { stream, input, login, mut state, permit, .. } = opened;
        let mut machine = Machine::new(Arc::clone(login.capabilities()), login.next_tag());
        machine.manners = Arc::clone(manners);
        machine.handle_attach();
        state.set(ConnectionState::Active);
        Box::new(Self {
            stream,
            machine,
            input,
            output: Bytes::new(),
            timing,
            leased: true,
            own: None,
            unselect: None,
            noop: now,
            checking: false,
            held: false,
            opened: now,
            rested: now,
            last_octet: now,
            doubted: now,
            sent: false,
            replied: false,
            unasked: 0,
            remarks: REMARKS,
            failed: None,
            reading: Reading::Pieces,
            timer: Box::pin(tokio::time::sleep_until(now)),
            state,
            metrics: Arc::clone(metrics),
            permit,
        })
    }

    /// Takes it out of rest. What was said before is read first: it is not for whoever comes.
    pub(super) fn attach(&mut self, shared: &Shared) -> Result<(), Exit> {
        if let Some(exit) = unconstrained(poll_fn(|cx| self.poll_rest(shared, cx))).now_or_never() {
            return Err(exit);
        }
        self.leased = true;
        self.unasked = 0;
        self.last_octet = Instant::now();
        self.machine.handle_attach();
        self.state.set(ConnectionState::Active);
        Ok(())
    }

    /// Puts it to rest; false: something is left on it.
    pub(super) fn release(&mut self, shared: &Shared) -> bool {
        // A command that waits for ours to end is the session's, and its session is gone.
        let clean = if self.own.is_some() { !self.machine.defers() } else { self.is_clean() };
        if !clean || self.failed.is_some() || self.machine.is_closing() || self.machine.spoiled().is_some() {
            return false;
        }
        self.publish(shared);
        self.leased = false;
        self.checking = false;
        self.held = false;
        self.machine.handle_release();
        self.reading = Reading::Pieces;
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.state.set(ConnectionState::Idle);
        self.rested = Instant::now();
        if self.own.is_none() {
            self.rest();
        }
        true
    }

    fn is_clean(&self) -> bool {
        self.machine.is_clean() && self.output.is_empty() && self.input.is_empty()
    }

    fn rest(&mut self) {
        let leaves = self.machine.manners.known().leaving.allows(Instant::now().into_std());
        let unselects = self.machine.facts().selected.is_some() && leaves;
        self.unselect = unselects.then(|| self.rested + self.timing.pool.linger);
        self.noop = Instant::now() + self.timing.pool.keepalive;
    }

    /// It could be put to rest now, for another session.
    pub(super) fn may_rest(&self) -> bool {
        self.is_clean() && self.failed.is_none() && !self.machine.is_closing() && self.machine.spoiled().is_none()
    }

    /// Runs a command, or gives it back, unsent.
    pub(super) fn run(&mut self, run: Box<Request>) -> Result<(), Box<Request>> {
        if self.failed.is_some() || self.machine.is_closing() {
            return Err(run);
        }
        self.last_octet = Instant::now();
        self.unasked = 0;
        self.sent = self.machine.is_paused();
        self.replied = false;
        self.machine.handle_command(run);
        if !self.input.is_empty() {
            // It was sent ahead, and has been answered.
            self.handle_input();
        }
        Ok(())
    }

    /// See [`super::Connection::run_ahead`].
    pub(super) fn run_ahead(&mut self, command: Command) {
        if self.failed.is_none() && !self.machine.is_closing() {
            self.machine.handle_ahead(command);
        }
    }

    fn handle_input(&mut self) {
        self.replied = true;
        if let Err(error) = self.machine.handle_input(&mut self.input) {
            // What came before it is owed to the session: it may be the end of a literal.
            self.fail(Exit::Protocol(error));
        }
        if self.input.is_empty() && matches!(self.reading, Reading::Pieces) {
            self.input = BytesMut::new();
        }
    }

    /// A further part of the running command; only when [`Wire::poll_output`] is ready.
    pub(super) fn send(&mut self, shared: &Shared, part: Input) {
        self.last_octet = Instant::now();
        match part {
            Input::Octets(octets) => self.machine.handle_octets(&octets),
            Input::Segment(text, literal) => {
                self.machine.handle_segment(&text, literal);
                if self.machine.is_closing() {
                    self.fail(Exit::ServerClosed);
                } else {
                    self.publish(shared);
                }
            }
            Input::Run(run) => {
                if self.run(run).is_err() {
                    self.sent = false;
                    self.replied = false;
                    self.fail(Exit::ServerClosed);
                }
            }
        }
    }

    /// Asks for a sign of life.
    pub(super) fn check(&mut self) {
        self.checking = true;
        // What comes with the reply is nobody's.
        self.machine.handle_release();
        if self.own.is_none() {
            self.start_own(Own::Noop);
        }
    }

    fn fail(&mut self, exit: Exit) {
        self.failed.get_or_insert(exit);
    }

    /// Goes on at rest; ready when that is over for good.
    pub(super) fn poll_rest(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Exit> {
        loop {
            if let Err(exit) = ready!(self.poll_event(shared, cx)) {
                return Poll::Ready(exit);
            }
        }
    }

    /// The next event; an error is the last of them.
    pub(super) fn poll_event(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Result<FromUpstream, Exit>> {
        if std::mem::take(&mut self.held) {
            // What the backend had to wait for is not held against it.
            self.last_octet = Instant::now();
        }
        loop {
            if let Some(event) = self.next_event(shared)? {
                return Poll::Ready(Ok(event));
            }
            // TLS keeps what it could not send: it wants to be flushed. Reads do that, too.
            let _: Poll<()> = self.poll_output(cx);
            if let Some(exit) = self.failed.take() {
                return Poll::Ready(Err(exit));
            }
            // More than there is of what nobody has asked for yet is not read.
            if !self.machine.is_paused() && self.poll_input(cx)?.is_ready() {
                continue;
            }
            ready!(self.poll_timer(cx));
            self.timer_fired(shared)?;
        }
    }

    /// Goes on without events: only what there is to send is sent.
    pub(super) fn poll_held(&mut self, cx: &mut Context<'_>) {
        self.held = true;
        let _: Poll<()> = self.poll_output(cx);
    }

    /// Ready when all there is to send was written.
    pub(super) fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.output.is_empty() {
                self.output = self.machine.poll_transmit();
            }
            if self.output.is_empty() || self.failed.is_some() {
                // Whatever a flush says, reads and writes will say, too.
                let _: Poll<io::Result<()>> = Pin::new(&mut self.stream).poll_flush(cx);
                return Poll::Ready(());
            }
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.output)) {
                Ok(0) => self.fail(Exit::ServerClosed),
                Ok(written) => {
                    self.sent = true;
                    self.last_octet = Instant::now();
                    self.metrics.octets.add(Direction::Sent, written);
                    self.output.advance(written);
                }
                Err(error) => self.fail(Exit::Io(error)),
            }
        }
    }

    /// Ready when something was read.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Exit> {
        let Poll::Ready(read) = poll_read(&mut self.stream, cx, &mut self.input, &mut self.reading) else {
            return Ok(Poll::Pending);
        };
        let read = read.map_err(Exit::Io)?;
        if read == 0 {
            return Err(Exit::ServerClosed);
        }
        self.metrics.octets.add(Direction::Received, read);
        self.unasked = self.unasked.saturating_add(read);
        if self.unasked > UNASKED && !self.is_in_use() {
            // No session can be served before all of it is read; whoever waits takes another connection.
            return Err(Exit::Retire(RetireReason::Unclean));
        }
        self.last_octet = Instant::now();
        self.handle_input();
        Ok(Poll::Ready(()))
    }

    /// Ready when a deadline may be over.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline() else { return Poll::Pending };
        // The timer is moved only when it fires too early, not with each octet.
        if self.timer.deadline() > deadline || self.timer.is_elapsed() {
            self.timer.as_mut().reset(deadline);
        }
        self.timer.as_mut().poll(cx)
    }

    /// What goes on is what somebody wants who has it.
    fn is_in_use(&self) -> bool {
        self.leased && self.own.is_none()
    }

    fn deadline(&self) -> Option<Instant> {
        if !self.is_in_use() {
            let at_rest = || self.unselect.unwrap_or(self.noop).min(self.noop).min(self.retires_at());
            return Some(self.own.unwrap_or_else(at_rest));
        }
        // Clients idle as long as they like: TCP's keepalive watches over the backend then.
        (self.machine.is_waiting() || !self.output.is_empty()).then(|| {
            let doubt = self.last_octet.max(self.doubted) + self.timing.pool.checkout_timeout;
            doubt.min(self.last_octet + self.patience())
        })
    }

    /// How long the backend may say nothing while something is due.
    fn patience(&self) -> Duration {
        let limit = if self.machine.awaits_go_ahead() { GO_AHEAD } else { Duration::MAX };
        self.timing.reply_timeout.min(limit)
    }

    fn retires_at(&self) -> Instant {
        (self.rested + self.timing.idle_timeout).min(self.expires_at())
    }

    /// When it is as old as it may become.
    pub(super) fn expires_at(&self) -> Instant {
        self.opened + self.timing.lifetime
    }

    fn timer_fired(&mut self, shared: &Shared) -> Result<(), Exit> {
        let now = Instant::now();
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        if self.own.is_some() {
            return Err(Exit::Timeout);
        }
        if self.leased {
            if now >= self.last_octet + self.patience() {
                return Err(if self.machine.awaits_go_ahead() { Exit::NoGoAhead } else { Exit::Timeout });
            }
            // A command may take its time; but not on a server that greets nobody any more.
            self.doubted = now;
            return if shared.doubts_backend() { Err(Exit::Timeout) } else { Ok(()) };
        }
        if now >= self.expires_at() {
            return Err(Exit::Retire(RetireReason::Lifetime));
        }
        if now >= self.retires_at() {
            return Err(Exit::Retire(RetireReason::Idle));
        }
        self.start_own(if self.unselect.is_some_and(|at| now >= at) { Own::Unselect } else { Own::Noop });
        Ok(())
    }

    fn start_own(&mut self, own: Own) {
        self.machine.handle_own(own);
        self.own = Some(Instant::now() + OWN_COMMAND);
    }

    fn next_event(&mut self, shared: &Shared) -> Result<Option<FromUpstream>, Exit> {
        while let Some(event) = self.machine.poll_event() {
            return Ok(Some(match event {
                // In most cases all there is to say comes at once: then the session goes on once.
                Event::Data(data) => match self.machine.poll_done() {
                    Some((rest, selected)) => {
                        self.publish(shared);
                        FromUpstream::Done(data, rest, selected)
                    }
                    None => FromUpstream::Data(data),
                },
                Event::Continue(line) => FromUpstream::Continue(line),
                Event::Tagged(octets) => FromUpstream::Tagged(octets),
                Event::Ignored(why, start) => {
                    self.ignored(shared, why, &start);
                    continue;
                }
                Event::Done(rest, selected) => {
                    self.publish(shared);
                    FromUpstream::Done(Replies::default(), rest, selected)
                }
                Event::OwnDone(own, well) => match self.own_done(shared, own, well)? {
                    Some(told) => told,
                    None => continue,
                },
                Event::Bye(text) => {
                    info!(connection = shared.id, text = shown::text(&text), "backend said goodbye");
                    return Err(Exit::Bye(text));
                }
            }));
        }
        Ok(None)
    }

    fn ignored(&mut self, shared: &Shared, why: Ignored, start: &[u8]) {
        let Some(left) = self.remarks.checked_sub(1) else { return };
        self.remarks = left;
        let (connection, start) = (shared.id, start.escape_ascii());
        match why {
            Ignored::Stray => debug!(connection, %start, "a line that is no reply is ignored"),
            Ignored::TooLong => warn!(connection, %start, "a list that is longer than any ought to be is ignored"),
        }
    }

    fn own_done(&mut self, shared: &Shared, own: Own, well: bool) -> Result<Option<FromUpstream>, Exit> {
        if own == Own::Unselect {
            let now = Instant::now().into_std();
            self.machine.manners.learn(|known| if well { known.leaving.works() } else { known.leaving.failed(now) });
        }
        if !well {
            return Err(Exit::Retire(RetireReason::FailedCheck));
        }
        self.publish(shared);
        if self.checking {
            if own != Own::Noop {
                self.start_own(Own::Noop);
                return Ok(None);
            }
            self.checking = false;
            self.own = None;
            self.machine.handle_attach();
            return Ok(Some(FromUpstream::Checked));
        }
        if self.own.take().is_some() && !self.leased {
            self.rest();
        }
        Ok(None)
    }

    /// Says what is selected and enabled, before the session learns that its command is over.
    fn publish(&self, shared: &Shared) {
        let facts = self.machine.facts();
        let mut known = shared.facts.lock();
        let on = |facts: &Facts| (Arc::as_ptr(&facts.sticky), Arc::as_ptr(&facts.granted));
        if known.selected != facts.selected || on(&known) != on(facts) {
            *known = facts.clone();
        }
    }
}
