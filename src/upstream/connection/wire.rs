//! One authenticated connection: its socket and its machine. Whoever holds it drives it; it has no task of its own.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;
use tracing::info;

use super::{CHUNK, FromUpstream, Loss, Opened, Part, Shared, Timing, poll_read_with};
use crate::metrics::{BackendMetrics, ConnectionState, RetireReason, StateGuard};
use crate::ports::Permit;
use crate::session::machine::Run;
use crate::stream::{Ended, Stream};
use crate::upstream::machine::{Event, Machine, Own, ProtocolError};

/// What a backend may say unasked while a connection rests, in octets.
const UNASKED: usize = 1024 * 1024;
/// How long a retired connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long a command of our own may take on an authenticated connection.
const OWN_COMMAND: Duration = Duration::from_secs(30);

/// Read at a time from a backend that goes on filling [`CHUNK`], in octets. So much memory may wait for each of a few slow
/// clients, but not for all.
const STRETCH: usize = 128 * 1024;
/// Connections that are read so.
static STRETCHES: Semaphore = Semaphore::const_new(8);

/// What is waited for besides the backend.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Nothing, with the times of what to do next.
    Resting { unselect: Option<Instant>, noop: Instant },
    /// A command of our own is in flight, in a pool or not.
    Own(Instant),
    /// A session has it.
    Leased,
}

pub(super) struct Wire {
    stream: Stream,
    machine: Machine,
    input: BytesMut,
    output: Bytes,
    timing: Timing,
    phase: Phase,
    /// Somebody has it.
    leased: bool,
    /// Who has it waits for [`FromUpstream::Checked`].
    checking: bool,
    /// Who has it does not want any events for now.
    held: bool,
    opened: Instant,
    /// When it was last put to rest.
    rested: Instant,
    last_octet: Instant,
    /// An octet of the session's command was sent, one of its reply was received.
    sent: bool,
    replied: bool,
    /// Octets read since the last request, while at rest.
    unasked: usize,
    /// To be told after the events that came before it.
    failed: Option<Exit>,
    reading: Reading,
    timer: Pin<Box<Sleep>>,
    state: StateGuard,
    metrics: Arc<BackendMetrics>,
    permit: Permit,
}

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Exit {
    /// In an orderly way: LOGOUT.
    Retire(RetireReason),
    /// The backend closed.
    ServerClosed,
    /// The backend said BYE, with this text.
    Bye(Bytes),
    /// Its handle was dropped.
    Abandoned,
    Protocol(ProtocolError),
    Io(io::Error),
    Timeout,
}

impl Wire {
    /// A connection that somebody has from the start.
    pub(super) fn new(opened: Opened, timing: Timing, metrics: &Arc<BackendMetrics>) -> Self {
        let now = Instant::now();
        let mut wire = Self {
            stream: opened.stream,
            machine: opened.machine,
            input: opened.input,
            output: Bytes::new(),
            timing,
            phase: Phase::Leased,
            leased: true,
            checking: false,
            held: false,
            opened: now,
            rested: now,
            last_octet: now,
            sent: false,
            replied: false,
            unasked: 0,
            failed: None,
            reading: Reading::Pieces,
            timer: Box::pin(tokio::time::sleep_until(now)),
            state: opened.state,
            metrics: Arc::clone(metrics),
            permit: opened.permit,
        };
        wire.machine.handle_attach();
        wire
    }

    /// When it was last put to rest.
    pub(super) fn rested(&self) -> Instant {
        self.rested
    }

    /// Takes it out of rest. What was said before is read first: it is not for whoever comes.
    pub(super) fn attach(&mut self, shared: &Shared) -> Result<(), Exit> {
        let rest = pin!(unconstrained(poll_fn(|cx| self.poll_rest(shared, cx))));
        if let Poll::Ready(exit) = rest.poll(&mut Context::from_waker(Waker::noop())) {
            return Err(exit);
        }
        self.leased = true;
        self.unasked = 0;
        self.last_octet = Instant::now();
        self.machine.handle_attach();
        self.state.set(ConnectionState::Active);
        if !matches!(self.phase, Phase::Own(_)) {
            self.phase = Phase::Leased;
        }
        Ok(())
    }

    /// Puts it to rest; false: something is left on it.
    pub(super) fn release(&mut self, shared: &Shared) -> bool {
        let own = matches!(self.phase, Phase::Own(_));
        // A command that waits for ours to end is the session's, and its session is gone.
        let clean = if own { !self.machine.defers() } else { self.is_clean() };
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
        if !own {
            self.rest();
        }
        true
    }

    fn is_clean(&self) -> bool {
        self.machine.is_clean() && self.output.is_empty() && self.input.is_empty()
    }

    fn rest(&mut self) {
        let unselect = self.machine.facts().selected.is_some().then(|| self.rested + self.timing.linger);
        self.phase = Phase::Resting { unselect, noop: Instant::now() + self.timing.keepalive };
    }

    /// Runs a command, or gives it back, unsent.
    pub(super) fn run(&mut self, run: Box<Run>) -> Result<(), Box<Run>> {
        if self.failed.is_some() || self.machine.is_closing() {
            return Err(run);
        }
        self.last_octet = Instant::now();
        self.unasked = 0;
        self.sent = false;
        self.replied = false;
        self.machine.handle_command(run.command, run.streams);
        Ok(())
    }

    /// A further part of the running command; only when [`Wire::poll_output`] is ready.
    pub(super) fn send(&mut self, shared: &Shared, part: Part) {
        self.last_octet = Instant::now();
        match part {
            Part::Octets(octets) => self.machine.handle_octets(&octets),
            Part::Segment(text, literal) => {
                self.machine.handle_segment(&text, literal);
                if self.machine.is_closing() {
                    self.fail(Exit::ServerClosed);
                } else {
                    self.publish(shared);
                }
            }
            Part::Run(run) => {
                if self.run(run).is_err() {
                    self.sent = false;
                    self.replied = false;
                    self.fail(Exit::ServerClosed);
                }
            }
        }
    }

    /// See [`super::Connection::at_line_start`].
    pub(super) fn at_line_start(&self) -> bool {
        self.machine.at_line_start()
    }

    /// Asks for a sign of life.
    pub(super) fn check(&mut self) {
        self.checking = true;
        // What comes with the reply is nobody's.
        self.machine.handle_release();
        if !matches!(self.phase, Phase::Own(_)) {
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
            if self.poll_input(cx)?.is_ready() {
                continue;
            }
            ready!(self.poll_timer(cx));
            self.timer_fired()?;
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
        self.unasked = self.unasked.saturating_add(read);
        if self.unasked > UNASKED && !matches!(self.phase, Phase::Leased) {
            // No session can be served before all of it is read; whoever waits takes another connection.
            return Err(Exit::Retire(RetireReason::Unclean));
        }
        self.last_octet = Instant::now();
        self.replied = true;
        if let Err(error) = self.machine.handle_input(&mut self.input) {
            // What came before it is owed to the session: it may be the end of a literal.
            self.fail(Exit::Protocol(error));
        }
        if self.input.is_empty() && matches!(self.reading, Reading::Pieces) {
            self.input = BytesMut::new();
        }
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

    fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Resting { unselect, noop } => Some(unselect.unwrap_or(noop).min(noop).min(self.retires_at())),
            Phase::Own(deadline) => Some(deadline),
            // Clients idle as long as they like: TCP's keepalive watches over the backend then.
            Phase::Leased if self.machine.is_waiting() || !self.output.is_empty() => {
                Some(self.last_octet + self.timing.reply_timeout)
            }
            Phase::Leased => None,
        }
    }

    fn retires_at(&self) -> Instant {
        (self.rested + self.timing.idle_timeout).min(self.opened + self.timing.lifetime)
    }

    fn timer_fired(&mut self) -> Result<(), Exit> {
        let now = Instant::now();
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let Phase::Resting { unselect, .. } = self.phase else { return Err(Exit::Timeout) };
        if now >= self.opened + self.timing.lifetime {
            return Err(Exit::Retire(RetireReason::Lifetime));
        }
        if now >= self.retires_at() {
            return Err(Exit::Retire(RetireReason::Idle));
        }
        self.start_own(if unselect.is_some_and(|at| now >= at) { Own::Unselect } else { Own::Noop });
        Ok(())
    }

    fn start_own(&mut self, own: Own) {
        self.machine.handle_own(own);
        self.phase = Phase::Own(Instant::now() + OWN_COMMAND);
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
                Event::Done(rest, selected) => {
                    self.publish(shared);
                    FromUpstream::Done(Bytes::new(), rest, selected)
                }
                Event::OwnDone(own, well) => match self.own_done(shared, own, well)? {
                    Some(told) => told,
                    None => continue,
                },
                Event::Bye(text) => {
                    info!(connection = shared.id, text = %String::from_utf8_lossy(&text), "backend said goodbye");
                    return Err(Exit::Bye(text));
                }
            }));
        }
        Ok(None)
    }

    fn own_done(&mut self, shared: &Shared, own: Own, well: bool) -> Result<Option<FromUpstream>, Exit> {
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
            self.machine.handle_attach();
            self.phase = Phase::Leased;
            return Ok(Some(FromUpstream::Checked));
        }
        if matches!(self.phase, Phase::Own(_)) {
            self.phase = Phase::Leased;
            if !self.leased {
                self.rest();
            }
        }
        Ok(None)
    }

    /// Says what is selected and enabled, before the session learns that its command is over.
    fn publish(&self, shared: &Shared) {
        let facts = self.machine.facts();
        let mut known = shared.facts.lock();
        if known.selected != facts.selected || !Arc::ptr_eq(&known.sticky, &facts.sticky) {
            *known = facts.clone();
        }
    }

    /// Ends the connection so that TIME_WAIT stays with the backend, or nowhere: at once, or, if it comes back, by
    /// [`Wire::say_goodbye`].
    pub(super) fn end(self: Box<Self>, shared: &Shared, exit: Exit) -> (Loss, Option<Box<Self>>) {
        shared.closed();
        let reason = self.reason(shared, &exit);
        let bye = if let Exit::Bye(text) = &exit { Some(text.clone()) } else { None };
        let loss = Loss { unsent: !self.sent, unanswered: !self.replied, cut: !self.machine.at_line_start(), bye };
        self.metrics.retired(reason);
        let seconds = self.opened.elapsed().as_secs();
        let (connection, reason) = (shared.id, reason.as_str());
        info!(target: "imapool::connections", connection, reason, seconds, cause = ?exit, "upstream connection retired");
        let orderly =
            matches!(exit, Exit::Retire(_) | Exit::Abandoned) && self.machine.is_clean() && self.output.is_empty();
        if orderly {
            return (loss, Some(self));
        }
        self.stream.reset();
        drop(self.permit);
        shared.socket_closed();
        (loss, None)
    }

    /// LOGOUT, and whatever it takes.
    pub(super) async fn say_goodbye(mut self: Box<Self>) {
        if tokio::time::timeout(GOODBYE, self.logout()).await == Ok(true) {
            let Self { stream, permit, .. } = *self;
            let _: Ended = stream.wait_peer_close(GOODBYE).await;
            drop(permit);
        } else {
            self.stream.reset();
        }
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
            Exit::Timeout => RetireReason::Timeout,
        }
    }

    /// LOGOUT, and the reply to it. False: it could not be had.
    async fn logout(&mut self) -> bool {
        self.machine.handle_own(Own::Logout);
        let mut output = self.machine.poll_transmit();
        while !output.is_empty() {
            let written = poll_fn(|cx| Pin::new(&mut self.stream).poll_write(cx, &output)).await;
            match written {
                Ok(written) if written > 0 => drop(output.split_to(written)),
                _ => return false,
            }
        }
        if poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)).await.is_err() {
            return false;
        }
        loop {
            while let Some(event) = self.machine.poll_event() {
                if matches!(event, Event::OwnDone(Own::Logout, _)) {
                    return true;
                }
            }
            let (stream, input, reading) = (&mut self.stream, &mut self.input, &mut self.reading);
            match poll_fn(|cx| poll_read(stream, cx, input, reading)).await {
                Ok(read) if read > 0 => {}
                _ => return false,
            }
            if self.machine.handle_input(&mut self.input).is_err() {
                return false;
            }
        }
    }
}

/// How a connection is read, by how much has come at a time.
enum Reading {
    /// Small pieces, by way of a buffer that is shared.
    Pieces,
    /// [`CHUNK`], into memory that is passed on without a copy.
    Chunks,
    /// The same, [`STRETCH`] at a time.
    Stretches { _turn: SemaphorePermit<'static> },
}

/// Reads into `buffer`.
fn poll_read(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
    reading: &mut Reading,
) -> Poll<io::Result<usize>> {
    let size = match reading {
        Reading::Pieces => {
            let read = ready!(poll_read_with(stream, cx, |octets| buffer.extend_from_slice(octets)));
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
