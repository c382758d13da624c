//! The task itself: reads, writes, waits, and ends the connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;
use tracing::info;

use super::{CHUNK, CLOSED, FromTask, Loss, Opened, Shared, Timing, ToTask, poll_read_with};
use crate::metrics::{BackendMetrics, ConnectionState, RetireReason, StateGuard};
use crate::ports::Permit;
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

/// What the task is waiting for besides the backend.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// In a pool, with the times of what to do next.
    Resting { unselect: Option<Instant>, noop: Instant },
    /// A command of our own is in flight, in a pool or not.
    Own(Instant),
    /// A session has it.
    Leased,
}

pub(super) struct Task {
    stream: Stream,
    machine: Machine,
    input: BytesMut,
    output: Bytes,
    requests: mpsc::Receiver<(u32, ToTask)>,
    replies: mpsc::Sender<(u32, FromTask)>,
    shared: Arc<Shared>,
    timing: Timing,
    lease: u32,
    phase: Phase,
    /// Somebody waits for [`FromTask::Checked`].
    checking: bool,
    opened: Instant,
    /// When it was last put to rest.
    rested: Instant,
    last_octet: Instant,
    /// An octet of the session's command was sent, one of its reply was received.
    sent: bool,
    replied: bool,
    /// Octets read since the last request, while at rest.
    unasked: usize,
    reading: Reading,
    timer: Pin<Box<Sleep>>,
    state: StateGuard,
    metrics: Arc<BackendMetrics>,
    permit: Permit,
}

/// Why the task ends.
#[derive(Debug)]
enum Exit {
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

enum Wake {
    Request(Option<(u32, ToTask)>),
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Timer,
    Retired,
}

impl Task {
    /// The task of a connection that somebody has from the start.
    pub(super) fn new(
        opened: Opened,
        shared: Arc<Shared>,
        timing: Timing,
        metrics: &Arc<BackendMetrics>,
        requests: mpsc::Receiver<(u32, ToTask)>,
        replies: mpsc::Sender<(u32, FromTask)>,
    ) -> Self {
        let now = Instant::now();
        let mut task = Self {
            stream: opened.stream,
            machine: opened.machine,
            input: opened.input,
            output: Bytes::new(),
            requests,
            replies,
            shared,
            timing,
            lease: 0,
            phase: Phase::Leased,
            checking: false,
            opened: now,
            rested: now,
            last_octet: now,
            sent: false,
            replied: false,
            unasked: 0,
            reading: Reading::Pieces,
            timer: Box::pin(tokio::time::sleep_until(now)),
            state: metrics.connection(ConnectionState::Active),
            metrics: Arc::clone(metrics),
            permit: opened.permit,
        };
        task.machine.handle_attach();
        task
    }

    pub(super) async fn run(mut self) {
        let exit = loop {
            if let Err(exit) = self.step().await {
                break exit;
            }
        };
        self.end(exit).await;
    }

    async fn step(&mut self) -> Result<(), Exit> {
        self.deliver().await?;
        if self.output.is_empty() {
            self.output = self.machine.poll_transmit();
        }
        match self.wait().await {
            Wake::Request(Some((lease, request))) => self.request(lease, request)?,
            Wake::Request(None) => return Err(Exit::Abandoned),
            Wake::Written(written) => {
                let written = written.map_err(Exit::Io)?;
                if written == 0 {
                    return Err(Exit::ServerClosed);
                }
                self.sent = true;
                self.last_octet = Instant::now();
                let _ = self.output.split_to(written);
            }
            Wake::Read(read) => {
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
                    self.deliver().await?;
                    return Err(Exit::Protocol(error));
                }
                if self.input.is_empty() && matches!(self.reading, Reading::Pieces) {
                    self.input = BytesMut::new();
                }
            }
            Wake::Timer => self.timer_fired()?,
            Wake::Retired => {
                let reason = self.shared.retire.lock().unwrap_or(RetireReason::Error);
                return Err(Exit::Retire(reason));
            }
        }
        Ok(())
    }

    /// Waits for the first of: room to write, something to read, a request, the timer, an eviction.
    async fn wait(&mut self) -> Wake {
        let notified = self.shared.wake.notified();
        let mut notified = std::pin::pin!(notified);
        let mut abandoned = std::pin::pin!(self.replies.closed());
        let deadline = self.deadline();
        let resting = !matches!(self.phase, Phase::Leased);
        // A slow client: nothing more is read from the backend meanwhile, so that TCP slows it. At rest nobody has to be
        // waited for.
        let mut crowded = !resting && self.replies.capacity() == 0;
        let replies = &self.replies;
        let mut room = std::pin::pin!(async move { crowded && replies.reserve().await.is_ok() });
        let output = &self.output;
        let (stream, requests, input, reading, timer, last_octet) = (
            &mut self.stream,
            &mut self.requests,
            &mut self.input,
            &mut self.reading,
            &mut self.timer,
            &mut self.last_octet,
        );
        poll_fn(|cx| {
            // What was said before a session came is read before it goes first: it is not for it.
            if resting && let Poll::Ready(read) = poll_read(stream, cx, input, reading) {
                return Poll::Ready(Wake::Read(read));
            }
            if !output.is_empty() {
                if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, output) {
                    return Poll::Ready(Wake::Written(written));
                }
                // Requests wait until all is written. That nobody is left to make any must be seen all the same.
                if abandoned.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Wake::Request(None));
                }
                // TLS keeps what it could not send: it wants to be flushed. Reads do that.
            } else {
                ready_or_pending(Pin::new(&mut *stream).poll_flush(cx));
                if let Poll::Ready(request) = requests.poll_recv(cx) {
                    return Poll::Ready(Wake::Request(request));
                }
            }
            if crowded {
                ready!(room.as_mut().poll(cx));
                // What the backend had to wait for is not held against it.
                crowded = false;
                *last_octet = Instant::now();
            }
            if let Poll::Ready(read) = poll_read(stream, cx, input, reading) {
                return Poll::Ready(Wake::Read(read));
            }
            if resting && notified.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wake::Retired);
            }
            if let Some(deadline) = deadline {
                // The timer is moved only when it fires too early, not with each octet.
                if timer.deadline() > deadline || timer.is_elapsed() {
                    timer.as_mut().reset(deadline);
                }
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Wake::Timer);
                }
            }
            Poll::Pending
        })
        .await
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
        if now >= self.retires_at() {
            let reason =
                if now >= self.opened + self.timing.lifetime { RetireReason::Lifetime } else { RetireReason::Idle };
            // A session that has just taken it goes first; it will be back.
            self.phase = Phase::Leased;
            return if self.shared.retire(reason) { Err(Exit::Retire(reason)) } else { Ok(()) };
        }
        self.start_own(if unselect.is_some_and(|at| now >= at) { Own::Unselect } else { Own::Noop });
        Ok(())
    }

    fn start_own(&mut self, own: Own) {
        self.machine.handle_own(own);
        self.phase = Phase::Own(Instant::now() + OWN_COMMAND);
    }

    fn request(&mut self, lease: u32, request: ToTask) -> Result<(), Exit> {
        self.last_octet = Instant::now();
        self.unasked = 0;
        if lease != self.lease {
            self.lease = lease;
            self.machine.handle_attach();
            self.state.set(ConnectionState::Active);
        }
        if !matches!(self.phase, Phase::Own(_)) {
            self.phase = Phase::Leased;
        }
        match request {
            ToTask::Run(run) => {
                if self.machine.is_closing() {
                    return Err(Exit::ServerClosed);
                }
                self.sent = false;
                self.replied = false;
                self.set_reusable(false);
                self.machine.handle_command(run.command, run.streams);
            }
            ToTask::Octets(octets) => self.machine.handle_octets(&octets),
            ToTask::Segment(text, literal) => {
                self.machine.handle_segment(&text, literal);
                if self.machine.is_closing() {
                    return Err(Exit::ServerClosed);
                }
                self.publish();
            }
            ToTask::Check => {
                self.checking = true;
                // What comes with the reply is nobody's.
                self.machine.handle_release();
                if !matches!(self.phase, Phase::Own(_)) {
                    self.start_own(Own::Noop);
                }
            }
            ToTask::Release => {
                let own = matches!(self.phase, Phase::Own(_));
                // A command that waits for ours to end is the session's, and its session is gone.
                if self.machine.defers() || !own && !self.machine.is_clean() {
                    return Err(Exit::Retire(RetireReason::Unclean));
                }
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
            }
            ToTask::Retire(reason) => return Err(Exit::Retire(reason)),
        }
        Ok(())
    }

    fn rest(&mut self) {
        let now = Instant::now();
        let unselect = self.machine.facts().selected.is_some().then(|| now + self.timing.linger);
        self.phase = Phase::Resting { unselect, noop: now + self.timing.keepalive };
    }

    /// Hands the machine's events to the session, as fast as it takes them.
    async fn deliver(&mut self) -> Result<(), Exit> {
        while let Some(event) = self.machine.poll_event() {
            let told = match event {
                // In most cases all there is to say comes at once: then the session is woken once.
                Event::Data(data) => match self.machine.poll_done() {
                    Some((rest, selected)) => {
                        self.publish();
                        FromTask::Done(data, rest, selected)
                    }
                    None => FromTask::Data(data),
                },
                Event::Continue(line) => FromTask::Continue(line),
                Event::Done(rest, selected) => {
                    self.publish();
                    FromTask::Done(Bytes::new(), rest, selected)
                }
                Event::OwnDone(own, well) => match self.own_done(own, well)? {
                    Some(told) => told,
                    None => continue,
                },
                Event::Bye(text) => {
                    info!(connection = self.shared.id, text = %String::from_utf8_lossy(&text), "backend said goodbye");
                    return Err(Exit::Bye(text));
                }
            };
            self.tell(told).await?;
        }
        Ok(())
    }

    fn own_done(&mut self, own: Own, well: bool) -> Result<Option<FromTask>, Exit> {
        if !well {
            return Err(Exit::Retire(RetireReason::FailedCheck));
        }
        *self.shared.facts.lock() = self.machine.facts().clone();
        if self.checking {
            if own != Own::Noop {
                self.start_own(Own::Noop);
                return Ok(None);
            }
            self.checking = false;
            self.machine.handle_attach();
            self.phase = Phase::Leased;
            return Ok(Some(FromTask::Checked));
        }
        if matches!(self.phase, Phase::Own(_)) {
            self.phase = Phase::Leased;
            if self.shared.resting_since().is_some() {
                self.rest();
            }
        }
        Ok(None)
    }

    async fn tell(&mut self, event: FromTask) -> Result<(), Exit> {
        match self.replies.try_send((self.lease, event)) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Exit::Abandoned),
            // A slow client: nothing more is read from the backend meanwhile, so that TCP slows it.
            Err(mpsc::error::TrySendError::Full(event)) => {
                self.replies.send(event).await.map_err(|_| Exit::Abandoned)?;
                self.last_octet = Instant::now();
                Ok(())
            }
        }
    }

    /// Says what is left on the connection, before the session learns that its command is over.
    fn publish(&mut self) {
        let facts = self.machine.facts();
        let mut known = self.shared.facts.lock();
        if known.selected != facts.selected || !Arc::ptr_eq(&known.sticky, &facts.sticky) {
            *known = facts.clone();
        }
        drop(known);
        let clean = self.machine.is_clean() && self.output.is_empty() && self.input.is_empty();
        self.set_reusable(clean && self.machine.spoiled().is_none());
    }

    fn set_reusable(&self, reusable: bool) {
        self.shared.reusable.store(reusable, Ordering::Release);
    }

    /// Tells the session, then ends the connection so that TIME_WAIT stays with the backend, or nowhere.
    async fn end(mut self, exit: Exit) {
        self.shared.state.store(CLOSED, Ordering::Release);
        self.shared.budget.forget(self.shared.id);
        let mut reason = self.reason(&exit);
        let bye = if let Exit::Bye(text) = &exit { Some(text.clone()) } else { None };
        let mut loss = Loss { unsent: !self.sent, unanswered: !self.replied, cut: !self.machine.at_line_start(), bye };
        // A command that was never looked at was not sent either.
        self.requests.close();
        while let Ok((lease, request)) = self.requests.try_recv() {
            match request {
                ToTask::Run(_) => {
                    self.lease = lease;
                    loss = Loss { unsent: true, unanswered: true, cut: false, bye: None };
                }
                // Whoever gave it up has said why, and was not heard.
                ToTask::Retire(why) if matches!(exit, Exit::Abandoned) => reason = why,
                _ => {}
            }
        }
        self.metrics.retired(reason);
        let seconds = self.opened.elapsed().as_secs();
        let (connection, reason) = (self.shared.id, reason.as_str());
        info!(target: "imapool::connections", connection, reason, seconds, cause = ?exit, "upstream connection retired");
        let orderly =
            matches!(exit, Exit::Retire(_) | Exit::Abandoned) && self.machine.is_clean() && self.output.is_empty();
        if orderly && tokio::time::timeout(GOODBYE, self.logout()).await == Ok(true) {
            let _: Ended = self.stream.wait_peer_close(GOODBYE).await;
        } else {
            self.stream.reset();
        }
        drop(self.permit);
        drop(self.shared.kept.lock().take());
        // When a slow client has room for it, or has gone.
        let _ = self.replies.send((self.lease, FromTask::Lost(loss))).await;
    }

    fn reason(&self, exit: &Exit) -> RetireReason {
        match exit {
            Exit::Retire(reason) => *reason,
            Exit::ServerClosed | Exit::Bye(_) => RetireReason::ServerClosed,
            Exit::Abandoned if self.machine.spoiled().is_some() => RetireReason::Sticky,
            Exit::Abandoned if !self.machine.is_clean() => RetireReason::Unclean,
            // Retired at rest, and its handle dropped before that was noticed; or the end of all.
            Exit::Abandoned => self.shared.retire.lock().unwrap_or(RetireReason::Shutdown),
            Exit::Protocol(error) => {
                info!(connection = self.shared.id, %error, "backend broke the protocol");
                RetireReason::ProtocolError
            }
            Exit::Io(error) => {
                info!(connection = self.shared.id, %error, "upstream connection failed");
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

/// Whatever a flush says, reads and writes will say, too.
fn ready_or_pending(_: Poll<io::Result<()>>) {}

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
