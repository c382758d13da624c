//! The task that owns one authenticated upstream socket, and the handle that others have of it.
//!
//! The task lives as long as the socket: while a session uses the connection, and while it rests in a pool, where the task
//! goes on reading, so that a goodbye is seen at once. What a session leaves unread when it vanishes is read by whoever
//! took over its handle; the task itself never stops half-way through a reply.

mod task;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tokio_util::sync::PollSender;

use self::task::Task;
use super::machine::{Facts, Machine};
use crate::imap::frame::Literal;
use crate::metrics::{BackendMetrics, RetireReason};
use crate::ports::{Budget, Permit};
use crate::session::machine::{Remnant, Run};
use crate::stream::Stream;

/// Read at a time, in octets; also what may wait here for a slow client.
const CHUNK: usize = 32 * 1024;

const RESTING: u8 = 0;
const LEASED: u8 = 1;
const CLOSED: u8 = 2;

/// What others may know of a connection without asking its task.
#[derive(Debug)]
pub struct Shared {
    /// Unique in the process.
    pub id: u64,
    state: AtomicU8,
    reusable: AtomicBool,
    resting_since: AtomicU64,
    epoch: Instant,
    facts: Mutex<Facts>,
    wake: Notify,
    retire: Mutex<Option<RetireReason>>,
    /// Given back when the socket is closed; `None`: it is.
    kept: Mutex<Option<Vec<OwnedSemaphorePermit>>>,
    budget: Arc<Budget>,
}

impl Shared {
    /// What is selected and enabled on it.
    #[must_use]
    pub fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// Since when it rests in a pool; `None`: it does not.
    #[must_use]
    pub fn resting_since(&self) -> Option<Instant> {
        (self.state.load(Ordering::Acquire) == RESTING)
            .then(|| self.epoch + Duration::from_micros(self.resting_since.load(Ordering::Relaxed)))
    }

    /// It will serve nobody any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Ends it if it rests; false: somebody uses it, or it is gone already.
    pub fn retire(&self, reason: RetireReason) -> bool {
        let retired = self.state.compare_exchange(RESTING, CLOSED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if retired {
            *self.retire.lock() = Some(reason);
            self.wake.notify_one();
        }
        retired
    }

    fn try_lease(&self) -> bool {
        self.state.compare_exchange(RESTING, LEASED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn rest(&self) {
        let since = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.resting_since.store(since, Ordering::Relaxed);
        // Not if it was closed meanwhile.
        let _ = self.state.compare_exchange(LEASED, RESTING, Ordering::AcqRel, Ordering::Acquire);
        self.budget.rested();
    }
}

/// What a session tells the task.
#[derive(Debug)]
enum ToTask {
    Run(Box<Run>),
    Octets(Bytes),
    Segment(Bytes, Option<Literal>),
    /// NOOP, before the connection is handed out.
    Check,
    Release,
    Retire(RetireReason),
}

/// What the task tells the session.
#[derive(Debug)]
pub enum FromTask {
    /// Replies, or parts of them, for the client as they are.
    Data(Bytes),
    /// The backend asks for more.
    Continue(Bytes),
    /// The last of the replies, the tagged reply without its tag, and whether a mailbox is selected now.
    Done(Bytes, Bytes, bool),
    /// The connection answered a NOOP.
    Checked,
    /// The connection is gone.
    Lost(Loss),
}

/// A further part of a running command.
#[derive(Debug)]
pub enum Part {
    /// Octets of a literal, `DONE`, or a line, as they are.
    Octets(Bytes),
    /// The text after a streamed literal, without line end, and perhaps a further literal.
    Segment(Bytes, Option<Literal>),
    /// The next command, behind the rest of one that was answered before it was complete.
    Run(Box<Run>),
}

/// How a connection was lost, for whoever used it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// No octet of the command in flight was sent: it can be run elsewhere.
    pub unsent: bool,
    /// No octet of its reply had come.
    pub unanswered: bool,
    /// A line or a literal was cut: nothing sensible can be said to the client any more.
    pub cut: bool,
    /// What the backend said with its BYE.
    pub bye: Option<Bytes>,
}

/// How the task of a connection treats it.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// See [`crate::config::Pool`].
    pub linger: Duration,
    /// See [`crate::config::Pool`].
    pub keepalive: Duration,
    /// See [`crate::config::Pool`].
    pub idle_timeout: Duration,
    /// [`crate::config::Pool::max_lifetime`], less this connection's own jitter.
    pub lifetime: Duration,
    /// See [`crate::config::Backend`].
    pub reply_timeout: Duration,
}

/// A connection that was just authenticated.
#[derive(Debug)]
pub struct Opened {
    /// Unique in the process.
    pub id: u64,
    /// The socket.
    pub stream: Stream,
    /// What was read off it beyond the login's replies.
    pub input: BytesMut,
    /// Knows what was said so far.
    pub machine: Machine,
    /// Its share of the budget.
    pub permit: Permit,
}

/// The handle of a connection; dropping it ends the connection.
#[derive(Debug)]
pub struct Connection {
    shared: Arc<Shared>,
    to_task: PollSender<(u32, ToTask)>,
    from_task: mpsc::Receiver<(u32, FromTask)>,
    /// Which use of the connection this is: what belongs to an earlier one is not for this one's ears.
    lease: u32,
    rested_for: Duration,
}

impl Connection {
    /// Starts the task of a connection that was just authenticated. It counts as leased.
    #[must_use]
    pub fn spawn(opened: Opened, timing: Timing, budget: &Arc<Budget>, metrics: &Arc<BackendMetrics>) -> Self {
        let now = Instant::now();
        let shared = Arc::new(Shared {
            id: opened.id,
            state: AtomicU8::new(LEASED),
            reusable: AtomicBool::new(true),
            resting_since: AtomicU64::new(0),
            epoch: now,
            facts: Mutex::new(opened.machine.facts().clone()),
            wake: Notify::new(),
            retire: Mutex::new(None),
            kept: Mutex::new(Some(Vec::new())),
            budget: Arc::clone(budget),
        });
        budget.register(opened.permit.backend(), &shared);
        // Those who take it and give it back unused, one after the other, leave room for the next one's command.
        let (to_task, requests) = mpsc::channel(4);
        let (replies, from_task) = mpsc::channel(1);
        tokio::spawn(Task::new(opened, Arc::clone(&shared), timing, metrics, requests, replies).run());
        Self { shared, to_task: PollSender::new(to_task), from_task, lease: 0, rested_for: Duration::ZERO }
    }

    /// See [`Shared`].
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes it out of rest for a new user; false: it is closed.
    pub fn attach(&mut self) -> bool {
        self.lease = self.lease.wrapping_add(1);
        self.rested_for = self.shared.resting_since().map_or(Duration::ZERO, |since| since.elapsed());
        self.shared.try_lease()
    }

    /// Nobody has used it yet.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.lease == 0
    }

    /// How long it had rested when it was taken out.
    #[must_use]
    pub fn rested_for(&self) -> Duration {
        self.rested_for
    }

    /// Puts it to rest. False: it cannot be used again, and should be dropped.
    #[must_use]
    pub fn release(&mut self) -> bool {
        if !self.shared.reusable.load(Ordering::Acquire) || self.shared.is_closed() {
            return false;
        }
        let told = self.try_tell(ToTask::Release).is_ok();
        self.shared.rest();
        told
    }

    /// Runs a command, or gives it back, unsent: the connection is gone, or does not even take requests.
    pub fn run(&self, run: Box<Run>) -> Result<(), Box<Run>> {
        match self.try_tell(ToTask::Run(run)) {
            Err(ToTask::Run(run)) => Err(run),
            _ => Ok(()),
        }
    }

    fn try_tell(&self, request: ToTask) -> Result<(), ToTask> {
        use mpsc::error::TrySendError::{Closed, Full};
        let Some(to_task) = self.to_task.get_ref() else { return Err(request) };
        to_task.try_send((self.lease, request)).map_err(|error| match error {
            Full((_, request)) | Closed((_, request)) => request,
        })
    }

    /// Room for one more [`Part`] of the running command.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // A task that is gone takes nothing: the next event tells.
        self.to_task.poll_reserve(cx).map(drop)
    }

    /// Sends it; only after [`Connection::poll_ready`]. What comes of it is told by the next event.
    pub fn send(&mut self, part: Part) {
        let request = match part {
            Part::Octets(octets) => ToTask::Octets(octets),
            Part::Segment(text, literal) => ToTask::Segment(text, literal),
            Part::Run(run) => ToTask::Run(run),
        };
        let _ = self.to_task.send_item((self.lease, request));
    }

    async fn send_done(&mut self) {
        poll_fn(|cx| self.poll_ready(cx)).await;
        self.send(Part::Octets(Bytes::from_static(b"DONE\r\n")));
    }

    /// The next event; after [`FromTask::Lost`], nothing else.
    pub async fn event(&mut self) -> FromTask {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// See [`Connection::event`].
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<FromTask> {
        loop {
            return match ready!(self.from_task.poll_recv(cx)) {
                Some((lease, event)) if lease == self.lease => Poll::Ready(event),
                Some((_, FromTask::Lost(loss))) => Poll::Ready(FromTask::Lost(loss)),
                Some(_) => continue,
                // The task has died without a word: whatever was asked of it has an unknown outcome.
                None => Poll::Ready(FromTask::Lost(Loss { unsent: false, unanswered: false, cut: true, bye: None })),
            };
        }
    }

    /// Whether it still answers, asked by NOOP.
    pub async fn check(&mut self) -> bool {
        if self.try_tell(ToTask::Check).is_err() {
            return false;
        }
        loop {
            match self.event().await {
                FromTask::Checked => return true,
                FromTask::Lost(_) => return false,
                _ => {}
            }
        }
    }

    /// Reads what is still to come for a session that is gone, within `octets` and `time`, and ends its IDLE. False: not
    /// to be used again.
    pub async fn drain(&mut self, mut remnant: Remnant, octets: usize, time: Duration) -> bool {
        let read = async {
            let mut left = octets;
            if remnant == (Remnant::Idle { accepted: true }) {
                self.send_done().await;
            }
            loop {
                match self.event().await {
                    FromTask::Data(data) => match left.checked_sub(data.len()) {
                        Some(rest) => left = rest,
                        None => return false,
                    },
                    FromTask::Done(..) => return true,
                    // An IDLE that is refused must not be ended: the word would be taken for a command.
                    FromTask::Continue(_) if remnant == (Remnant::Idle { accepted: false }) => {
                        self.send_done().await;
                        // Once, whatever the backend goes on to ask for.
                        remnant = Remnant::Reply;
                    }
                    FromTask::Checked | FromTask::Continue(_) => {}
                    FromTask::Lost(_) => return false,
                }
            }
        };
        tokio::time::timeout(time, read).await.unwrap_or(false)
    }

    /// These are given back when its socket is closed. What follows has to end it.
    pub fn keep_to_the_end(&self, permits: impl IntoIterator<Item = OwnedSemaphorePermit>) {
        if let Some(kept) = self.shared.kept.lock().as_mut() {
            kept.extend(permits);
        }
    }

    /// Ends it, for this reason.
    pub fn retire(self, reason: RetireReason) {
        // Where there is no room for it, the dropped handle says as much.
        let _ = self.try_tell(ToTask::Retire(reason));
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Reads by way of a buffer that all connections of a thread share, so that one that waits owns none.
pub(crate) fn poll_read_with(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut target = ReadBuf::new(scratch);
        ready!(Pin::new(stream).poll_read(cx, &mut target))?;
        take(target.filled());
        Poll::Ready(Ok(target.filled().len()))
    })
}
