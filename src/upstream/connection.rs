//! One authenticated upstream connection, and the handle that others have of it.
//!
//! The handle of a connection in use holds all of it: socket, buffers, protocol. Whoever has the handle drives it,
//! within his own task, so that no octet has to wait for another task. It keeps no state in futures: they can be
//! dropped at any moment. What a session leaves unread when it vanishes is read by whoever took over its handle. At
//! rest, the connection lies in its berth, where its keeper goes on reading, so that a goodbye is seen at once.

mod keeper;
mod reading;
mod wire;

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::keeper::Berth;
use self::wire::Exit;
pub(super) use self::wire::Wire;
use super::backend::{Backend, Queue};
use super::loss::Loss;
use super::machine::Facts;
use crate::config;
use crate::imap::command::{Command, Name};
use crate::imap::frame::Literal;
use crate::imap::request::Request;
use crate::imap::untagged::Replies;
use crate::metrics::RetireReason;
use crate::ports::{Budget, ConnectionView, Seen, Share};
use crate::session::machine::Remnant;
use crate::stream::Stream;

/// Read at a time, in octets; also what may wait here for a slow client.
const CHUNK: usize = 32 * 1024;

/// Gives numbers to connections.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

const RESTING: u8 = 0;
const LEASED: u8 = 1;
const CLOSED: u8 = 2;

/// What others may know of a connection without having it.
pub struct Shared {
    /// Unique in the process.
    pub id: u64,
    /// What its account's generation was before the login: [`crate::pool::Account::retire`].
    pub generation: u64,
    state: AtomicU8,
    /// When it was last put to rest.
    rested: Mutex<Instant>,
    epoch: Instant,
    local_port: Option<u16>,
    /// Its account, and the names of that and of the backend.
    owner: OnceLock<(Weak<dyn Owner>, String, String)>,
    facts: Mutex<Facts>,
    berth: Berth,
    /// Given back when the socket is closed; `None`: it is.
    kept: Mutex<Option<Vec<Box<dyn Send>>>>,
    budget: Arc<Budget>,
    share: Arc<Share>,
    /// Who is told once it was of use.
    proves: OnceLock<Arc<Queue>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Shared {
    /// What is selected and enabled on it.
    pub fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// Since when it rests in a pool; `None`: it does not.
    pub fn resting_since(&self) -> Option<Instant> {
        (self.state.load(Ordering::Acquire) == RESTING).then(|| *self.rested.lock())
    }

    /// It will serve nobody any more.
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Tells the account's queue, and no other, once it was of use: a client's command was answered OK on it, or an
    /// IDLE lasted or heard something. That somebody could log in on it is no proof of that.
    pub fn proves(&self, queue: Arc<Queue>) {
        let _ = self.proves.set(queue);
    }

    /// Says whose it is, for those who look.
    pub(crate) fn belongs_to(&self, owner: Weak<dyn Owner>, user: String, backend: String) {
        let _ = self.owner.set((owner, user, backend));
    }

    fn owner(&self) -> Option<Arc<dyn Owner>> {
        self.owner.get()?.0.upgrade()
    }

    /// Something on it speaks against its backend. Gives whether that is known to say nothing to anybody.
    fn doubts_backend(&self) -> bool {
        self.owner().filter(|owner| owner.generation() == self.generation).is_some_and(|owner| {
            let backend = owner.backend();
            backend.suspect();
            backend.is_frozen()
        })
    }

    /// This is dropped when its socket is closed, which has to be ended for that.
    pub fn keep_to_the_end(&self, permit: impl Send + 'static) {
        if let Some(kept) = self.kept.lock().as_mut() {
            kept.push(Box::new(permit));
        }
    }

    /// Its socket is not closed yet.
    pub fn has_socket(&self) -> bool {
        self.kept.lock().is_some()
    }

    /// When its socket is closed, which has to be ended for that.
    pub fn when_closed(&self) -> impl Future<Output = ()> + use<> {
        let open = Arc::new(Semaphore::new(1));
        self.keep_to_the_end(Arc::clone(&open).try_acquire_owned());
        // Never closed itself.
        async move { drop(open.acquire().await) }
    }

    fn closed(&self) {
        self.state.store(CLOSED, Ordering::Release);
        self.budget.closed(&self.share, self.since());
    }
}

/// Whose connections they are.
pub(crate) trait Owner: Send + Sync {
    /// Connections of an earlier one are not used again.
    fn generation(&self) -> u64;
    /// The backend that its connections are opened to.
    fn backend(&self) -> Arc<Backend>;
}

impl Seen for Shared {
    fn view(&self) -> ConnectionView {
        let names = self.owner.get().map(|(_, user, backend)| (user.clone(), backend.clone()));
        let (user, backend) = names.unwrap_or_default();
        let outdated = self.owner().is_none_or(|owner| owner.generation() != self.generation);
        ConnectionView {
            id: self.id,
            user,
            backend,
            local_port: self.local_port,
            age: self.epoch.elapsed(),
            at_rest: self.resting_since().map(|since| Instant::now() - since),
            retiring: self.is_closed() || outdated,
            selected: self.facts.lock().selected.clone(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.budget.roster.remove(self.id);
    }
}

/// What comes of a connection, for whoever has it.
#[derive(Debug)]
pub enum FromUpstream {
    /// Replies, or parts of them, for the client as they are.
    Data(Replies),
    /// The backend asks for more.
    Continue(Bytes),
    /// Part of the tagged reply, without its tag; of what was told so, [`FromUpstream::Done`] has nothing.
    Tagged(Bytes),
    /// The last of the replies, the tagged reply without its tag, and whether a mailbox is selected now.
    Done(Replies, Bytes, bool),
    /// The connection answered a NOOP.
    Checked,
    /// The connection is gone.
    Lost(Loss),
}

/// What follows a command that runs.
#[derive(Debug)]
pub enum Input {
    /// Octets of a literal, `DONE`, or a line, as they are.
    Octets(Bytes),
    /// The text after a streamed literal, without line end, and perhaps a further literal.
    Segment(Bytes, Option<Literal>),
    /// The next command, behind the rest of one that was answered before it was complete.
    Run(Box<Request>),
}

/// How a connection is treated.
#[derive(Debug)]
pub struct Timing {
    /// Of it: `linger`, `keepalive`, and `checkout_timeout`: a command to which nothing is said for so long speaks
    /// against the backend.
    pub pool: Arc<config::Pool>,
    /// See [`crate::config::Pool`].
    pub idle_timeout: Duration,
    /// [`crate::config::Pool::max_lifetime`], less this connection's own jitter.
    pub lifetime: Duration,
    /// See [`crate::config::Backend`].
    pub reply_timeout: Duration,
}

/// The handle of a connection; dropping it ends the connection.
pub struct Connection {
    shared: Arc<Shared>,
    /// `None`: it rests, or is gone.
    wire: Option<Box<Wire>>,
    rested_for: Option<Duration>,
    /// Until it was of use.
    proof: Option<Proof>,
}

/// What would show that a connection is of use.
#[derive(Debug, Default)]
struct Proof {
    /// The command that runs is a client's, and no IDLE.
    command: bool,
    /// What runs is for news, whose ever it is, IDLE or a hub's NOOP: since when that IDLE, or this connection, lasts.
    listens_since: Option<Instant>,
}

/// A connection that the backend ends after so long was of use, if it listened.
const LASTING: Duration = Duration::from_secs(30);
/// An IDLE that imapool ends after so long was of use: the backend would have gone on. So is, when it is as old, a
/// connection with a NOOP, and one that ends by its age.
const ENDED: Duration = Duration::from_secs(1);

impl Proof {
    fn of(run: &Request, opened: Instant) -> Self {
        // A command of a hub's own has no tag.
        let own = run.command.tag.is_empty();
        let listens_since = match run.command.name {
            Name::Idle => Some(Instant::now()),
            Name::Noop if own => Some(opened),
            _ => None,
        };
        Self { command: !own && listens_since.is_none(), listens_since }
    }

    fn is_given_by(&self, event: &FromUpstream) -> bool {
        let lasted = |time| self.listens_since.is_some_and(|since| since.elapsed() >= time);
        match event {
            FromUpstream::Data(_) => self.listens_since.is_some(),
            FromUpstream::Done(_, rest, _) => (self.command || lasted(ENDED)) && rest.starts_with(b" OK"),
            FromUpstream::Lost(_) => lasted(LASTING),
            _ => false,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that was just authenticated. It counts as leased. `generation`: of its account, before that.
    #[must_use]
    pub(super) fn spawn(wire: Box<Wire>, generation: u64, budget: &Arc<Budget>) -> Self {
        let shared = Arc::new(Shared {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            generation,
            state: AtomicU8::new(LEASED),
            rested: Mutex::new(Instant::now()),
            epoch: Instant::now(),
            local_port: wire.stream.local_address().map(|address| address.port()),
            owner: OnceLock::new(),
            facts: Mutex::default(),
            berth: Berth::default(),
            kept: Mutex::new(Some(Vec::new())),
            budget: Arc::clone(budget),
            share: budget.opened(wire.permit.backend()),
            proves: OnceLock::new(),
        });
        let seen: Weak<Shared> = Arc::downgrade(&shared);
        budget.roster.add(shared.id, seen);
        tokio::spawn(keeper::keep(Arc::clone(&shared)));
        Self { shared, wire: Some(wire), rested_for: None, proof: Some(Proof::default()) }
    }

    /// See [`Shared`].
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Takes it out of rest for a new user; false: it is closed.
    pub fn attach(&mut self) -> bool {
        self.rested_for = Some(Duration::ZERO);
        let Some(mut wire) = self.shared.take(LEASED) else { return false };
        #[cfg(test)]
        crash::now();
        self.rested_for = Some(wire.rested.elapsed());
        match wire.attach(&self.shared) {
            Ok(()) => self.wire = Some(wire),
            Err(exit) => drop(self.shared.end(wire, exit)),
        }
        self.wire.is_some()
    }

    /// It was not taken out of rest, and will not be: it has ended meanwhile. Its socket may be open still.
    pub fn is_over(&self) -> bool {
        self.wire.is_none()
    }

    /// Nobody has used it yet.
    pub fn is_fresh(&self) -> bool {
        self.rested_for.is_none()
    }

    /// How long it had rested when it was taken out; `None`: nobody has used it yet.
    pub fn rested_for(&self) -> Option<Duration> {
        self.rested_for
    }

    /// When it is as old as it may become: then it is not given to anybody else.
    pub fn expires_at(&self) -> Option<Instant> {
        self.wire.as_ref().map(|wire| wire.expires_at())
    }

    /// Whether it could be put to rest now, for another session.
    pub fn may_rest(&self) -> bool {
        self.wire.as_ref().is_some_and(|wire| wire.may_rest())
    }

    /// Puts it to rest. False: it cannot be used again, and should be dropped.
    #[must_use]
    pub fn release(&mut self) -> bool {
        if !self.wire.as_mut().is_some_and(|wire| wire.release(&self.shared)) {
            return false;
        }
        if let Some(wire) = self.wire.take() {
            self.shared.rest(wire);
        }
        true
    }

    /// Whether replies are told with their parts ([`Replies::parts`]), until it is put to rest.
    pub fn divide_replies(&mut self, divides: bool) {
        if let Some(wire) = &mut self.wire {
            wire.machine.divide_replies(divides);
        }
    }

    /// Runs a command, or gives it back, unsent: the connection is gone. It is sent by the functions that poll.
    pub fn run(&mut self, run: Box<Request>) -> Result<(), Box<Request>> {
        if let Some(proof) = &mut self.proof {
            *proof = Proof::of(&run, self.shared.epoch);
        }
        match &mut self.wire {
            Some(wire) => wire.run(run),
            None => Err(run),
        }
    }

    /// Sends a command before the one that runs is answered; it is to be run next.
    pub fn run_ahead(&mut self, command: Command) {
        if let Some(wire) = &mut self.wire {
            wire.run_ahead(command);
        }
    }

    /// Room for one more [`Input`] of the running command.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // One that is gone takes nothing: the next event tells.
        self.wire.as_mut().map_or(Poll::Ready(()), |wire| wire.poll_output(cx))
    }

    /// Sends it; only after [`Connection::poll_ready`]. What comes of it is told by the next event.
    pub fn send(&mut self, part: Input) {
        if let Some(wire) = &mut self.wire {
            wire.send(&self.shared, part);
        }
    }

    /// Sends what is still to be sent, while no event is wanted. The backend is not read meanwhile, so that TCP slows
    /// it.
    pub fn poll_held(&mut self, cx: &mut Context<'_>) {
        if let Some(wire) = &mut self.wire {
            wire.poll_held(cx);
        }
    }

    /// What was passed on so far ends with a line.
    pub fn at_line_start(&self) -> bool {
        self.wire.as_ref().is_none_or(|wire| wire.machine.at_line_start())
    }

    async fn send_done(&mut self) {
        poll_fn(|cx| self.poll_ready(cx)).await;
        self.send(Input::Octets(Bytes::from_static(b"DONE\r\n")));
    }

    /// The next event; after [`FromUpstream::Lost`], nothing else.
    pub async fn event(&mut self) -> FromUpstream {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// See [`Connection::event`].
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<FromUpstream> {
        let event = match &mut self.wire {
            Some(wire) => ready!(wire.poll_event(&self.shared, cx)),
            None => Err(Exit::Abandoned),
        };
        let event = event.unwrap_or_else(|exit| FromUpstream::Lost(self.lost(exit)));
        if self.proof.as_ref().is_some_and(|proof| proof.is_given_by(&event)) {
            self.is_proven();
        }
        Poll::Ready(event)
    }

    fn is_proven(&mut self) {
        if self.proof.take().is_some()
            && let Some(queue) = self.shared.proves.get()
        {
            queue.proven();
        }
    }

    fn lost(&mut self, exit: Exit) -> Loss {
        match self.wire.take() {
            Some(wire) => self.shared.end(wire, exit),
            None => Loss::before_anything(),
        }
    }

    /// Whether it still answers, asked by NOOP.
    pub async fn check(&mut self) -> bool {
        let Some(wire) = &mut self.wire else { return false };
        wire.check();
        loop {
            match self.event().await {
                FromUpstream::Checked => return true,
                FromUpstream::Lost(_) => return false,
                _ => {}
            }
        }
    }

    /// Reads what is still to come for a session that is gone, within `octets` and `time`, and ends its IDLE. False:
    /// not to be used again.
    pub async fn drain(&mut self, mut remnant: Remnant, octets: usize, time: Duration) -> bool {
        let read = async {
            let mut left = octets;
            if remnant == (Remnant::Idle { accepted: true }) {
                self.send_done().await;
            }
            loop {
                match self.event().await {
                    FromUpstream::Data(replies) if replies.len() <= left => left -= replies.len(),
                    FromUpstream::Tagged(octets) if octets.len() <= left => left -= octets.len(),
                    FromUpstream::Data(_) | FromUpstream::Tagged(_) => return false,
                    FromUpstream::Done(..) => return true,
                    // An IDLE that is refused must not be ended: the word would be taken for a command.
                    FromUpstream::Continue(_) if remnant == (Remnant::Idle { accepted: false }) => {
                        self.send_done().await;
                        // Once, whatever the backend goes on to ask for.
                        remnant = Remnant::Reply;
                    }
                    FromUpstream::Checked | FromUpstream::Continue(_) => {}
                    FromUpstream::Lost(_) => return false,
                }
            }
        };
        tokio::time::timeout(time, read).await.unwrap_or(false)
    }

    /// Ends it, for this reason.
    pub fn retire(mut self, reason: RetireReason) {
        if reason == RetireReason::Lifetime && self.shared.epoch.elapsed() >= ENDED {
            // The backend would have gone on.
            self.is_proven();
        }
        self.end(Exit::Retire(reason));
    }

    fn end(&mut self, exit: Exit) {
        if let Some(wire) = self.wire.take().or_else(|| self.shared.take(CLOSED)) {
            self.shared.end(wire, exit);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end(Exit::Abandoned);
    }
}

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Works on a buffer that all connections of a thread share.
pub(crate) fn with_scratch<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| work(scratch))
}

/// Reads at most `most` octets, by way of a buffer that all connections of a thread share, so that one that waits
/// owns none.
pub(crate) fn poll_read_with(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    most: usize,
    take: impl FnOnce(&[u8]),
) -> Poll<io::Result<usize>> {
    with_scratch(|scratch| {
        let most = most.min(scratch.len());
        let mut target = ReadBuf::new(&mut scratch[..most]);
        ready!(Pin::new(stream).poll_read(cx, &mut target))?;
        take(target.filled());
        Poll::Ready(Ok(target.filled().len()))
    })
}

/// A fault in the protocol machine, for tests of what it takes with it.
#[cfg(test)]
pub(crate) mod crash {
    use std::cell::Cell;

    thread_local! {
        /// Connections that are taken out of rest until one crashes; 0: none does.
        pub(crate) static AFTER: Cell<u32> = const { Cell::new(0) };
    }

    pub(super) fn now() {
        let after = AFTER.get();
        AFTER.set(after.saturating_sub(1));
        assert!(after != 1, "on purpose");
    }
}

#[cfg(test)]
mod tests;
