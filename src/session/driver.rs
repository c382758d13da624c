//! The task of one client session: moves octets between the client's socket, the [`Machine`] and an upstream
//! connection, and does what the machine asks for.

mod closing;
mod login;
mod running;
mod shared;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep, timeout};
use tracing::info;

use self::closing::Ended;
pub(super) use self::closing::close_client;
use self::running::{Running, no_connection};
use self::shared::Sharing;
use super::machine::{Action, Bounds, End, Machine};
use super::registry::{CLOSING, Record, Registry};
use super::trace::Trace;
use crate::auth::Authenticator;
use crate::config::{Limits, PlaintextLogin};
use crate::imap::capability::Front;
use crate::imap::command::Name;
use crate::imap::request::Request;
use crate::imap::sticky::Sticky;
use crate::listener::ClientAddr;
use crate::metrics::{CommandResult, Metrics, SessionClose};
use crate::pool::{Account, CheckoutError, Grant, Lease, Pass};
use crate::residence::Presence;
use crate::routing::Router;
use crate::stream::Stream;
use crate::upstream::connection::{Input, poll_read_with};
use crate::upstream::loss::Loss;

/// How long a message of a client that has closed its side may be on offer to the backend.
const OFFER: Duration = Duration::from_secs(2);
/// Replies collected before they are written, in octets; what comes beyond waits with the backend.
const MAX_QUEUED: usize = 16 * 1024;

/// What all sessions share.
#[derive(Debug, Clone)]
pub struct Context {
    /// Judges logins.
    pub auth: Arc<Authenticator>,
    /// Which backend each session goes to.
    pub router: Arc<Router>,
    /// `[limits]`
    pub limits: Limits,
    /// `log.slow`
    pub slow: Duration,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Which sessions there are.
    pub registry: Arc<Registry>,
}

impl Context {
    /// A session is over, for this reason.
    pub(super) fn closes(&self, record: &Record, close: SessionClose) {
        self.metrics.sessions_closed.inc(close);
        record.ends(close);
    }
}

/// What is offered before login as the connection stands.
fn offered(stream: &Stream, record: &Record, context: &Context) -> (Front, Arc<str>) {
    let (client, listener) = (record.client, &record.listener);
    let secure = stream.is_tls()
        || match listener.config.plaintext_login {
            PlaintextLogin::Never => false,
            PlaintextLogin::Loopback => client.is_loopback(),
            PlaintextLogin::Always => true,
        };
    let front = Front { starttls: listener.tls.is_some() && !stream.is_tls(), login: secure };
    // Whoever looks after a server comes for nobody.
    let for_nobody = || stream.peer_address().map(ClientAddr::Tcp) == Some(client);
    (front, context.router.offered(&listener.config.name, front, for_nobody))
}

/// A client's session.
pub(crate) struct Session {
    stream: Stream,
    machine: Machine,
    /// What it was let in with.
    grant: Option<Grant>,
    /// Its place among the sessions of its account.
    presence: Option<Presence>,
    /// Logins so far, whatever became of them.
    attempts: u32,
    lease: Option<Lease>,
    /// What was enabled on a connection that was lost.
    sticky: Option<Arc<Sticky>>,
    /// What it has switched on, while its connection carries more: then it has no mailbox selected.
    lent: Option<Arc<Sticky>>,
    running: Option<Running>,
    output: VecDeque<Bytes>,
    queued: usize,
    /// Of the running command, on their way to the backend.
    parts: VecDeque<Input>,
    sharing: Sharing,
    /// When it last had something to do.
    now: Instant,
    last_input: Instant,
    last_output: Instant,
    /// Something was sent after the client had closed its side.
    answered_eof: bool,
    /// Somebody asked for its end: by then, whatever runs.
    close_by: Option<Instant>,
    record: Arc<Record>,
    /// While an administrator wishes to see the account's protocol.
    trace: Option<Box<Trace>>,
    context: Arc<Context>,
}

enum Wake {
    /// Something was read, written or heard, and done.
    Done(Result<(), Ended>),
    Lost(Loss),
    Timer,
    Drain,
}

impl Session {
    /// On a connection that is ready for IMAP. On the heap, once: each step of its life would keep a place for it
    /// otherwise.
    pub(crate) fn new(stream: Stream, record: Arc<Record>, context: Arc<Context>) -> Box<Self> {
        record.set_tls(stream.tls_version());
        let bounds = Bounds { line: context.limits.command_line, literals: context.limits.literals };
        let (front, offered) = offered(&stream, &record, &context);
        let now = Instant::now();
        Box::new(Self {
            stream,
            machine: Machine::new(bounds, front, offered),
            grant: None,
            presence: None,
            attempts: 0,
            lease: None,
            sticky: None,
            lent: None,
            running: None,
            output: VecDeque::new(),
            queued: 0,
            parts: VecDeque::new(),
            sharing: Sharing::default(),
            now,
            last_input: now,
            last_output: now,
            answered_eof: false,
            close_by: None,
            record,
            trace: None,
            context,
        })
    }

    /// Runs it to its end.
    pub(crate) async fn run(mut self: Box<Self>) {
        self.greet().await;
        let ended = loop {
            let Err(ended) = self.serve().await;
            match ended {
                Ended::Not => match Box::pin(self.secure()).await {
                    Some(secured) => self = secured,
                    None => return,
                },
                Ended::Through(passage, ahead) => return Box::pin(self.go_through(*passage, ahead)).await,
                ended => break ended,
            }
        };
        Box::pin(self.finish(ended)).await;
    }

    /// The machine's first words. A replica that passes a session on here has sent its login ahead of them: there, they
    /// go together with the answer.
    async fn greet(&mut self) {
        if let Some(Action::Write(greeting)) = self.machine.poll() {
            self.queue(greeting);
            if !self.has_heard_already().await {
                self.write_now(false);
            }
        }
    }

    /// Takes what has come behind a PROXY header. False: nothing has.
    async fn has_heard_already(&mut self) -> bool {
        if self.record.listener.config.proxy_protocol_from.is_empty() {
            return false;
        }
        let read = poll_fn(|cx| Poll::Ready(self.poll_read(cx))).await;
        let Poll::Ready(Ok(octets)) = read else { return false };
        self.record.add_received(octets);
        octets > 0
    }

    /// Reads as much as the machine takes.
    fn poll_read(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        let (room, machine) = (self.machine.room(), &mut self.machine);
        poll_read_with(&mut self.stream, cx, room, |octets| machine.handle_input(octets))
    }

    async fn serve(&mut self) -> Result<Infallible, Ended> {
        let record = Arc::clone(&self.record);
        let mut closed = pin!(record.closed());
        let mut timer = pin!(tokio::time::sleep_until(self.deadline()));
        let mut draining = false;
        let mut leave = None;
        loop {
            if self.is_between_lines()
                && let Some(reason) = leave.take()
            {
                self.machine.handle_drain(reason);
            }
            if self.record.is_to_let_go() {
                self.let_go_of_what_moves();
            }
            // Nor is anything more answered than the client takes.
            while self.queued < MAX_QUEUED
                && let Some(action) = self.machine.poll()
            {
                self.act(action).await?;
            }
            let wake = poll_fn(|cx| {
                self.now = Instant::now();
                if let Poll::Ready(wake) = self.poll_io(cx) {
                    return Poll::Ready(wake);
                }
                if !draining && closed.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Wake::Drain);
                }
                poll_timer(timer.as_mut(), self.deadline(), cx).map(|()| Wake::Timer)
            })
            .await;
            match wake {
                Wake::Done(result) => result?,
                Wake::Lost(loss) => Box::pin(self.lost(loss)).await?,
                Wake::Timer => self.timed_out()?,
                // Somebody else has its place.
                Wake::Drain if !self.machine.is_authenticated() && self.record.place.is_given_up() => {
                    return Err(self.gave_way());
                }
                Wake::Drain if !self.record.is_to_end() => closed.set(record.closed()),
                Wake::Drain => {
                    draining = true;
                    let closing = self.record.is_closing();
                    self.close_by = closing.then(|| self.now + CLOSING);
                    leave = Some(if closing { End::Operator } else { End::Drain });
                }
            }
        }
    }

    /// Queues the last words of one whose place somebody else has.
    fn gave_way(&mut self) -> Ended {
        self.machine.dismiss(End::GaveWay);
        while let Some(action) = self.machine.poll() {
            if let Action::Write(octets) = action {
                self.queue(octets);
            }
        }
        Ended::By(End::GaveWay)
    }

    fn poll_io(&mut self, cx: &mut TaskContext<'_>) -> Poll<Wake> {
        // What the client has not taken yet is enough.
        let is_full = self.queued >= MAX_QUEUED;
        if let Some(lease) = &mut self.lease {
            if is_full {
                lease.poll_held(cx);
            } else if let Poll::Ready(event) = lease.poll_event(cx) {
                return Poll::Ready(self.upstream(event));
            }
        } else if let Some(hub) = self.sharing.hub.as_ref().filter(|_| !is_full)
            && let Poll::Ready(event) = hub.poll_event(cx)
        {
            return Poll::Ready(Wake::Done(self.heard(event)));
        }
        if let Poll::Ready(written) = self.poll_write(cx) {
            return Poll::Ready(Wake::Done(self.written(written)));
        }
        self.poll_parts(cx);
        // No more of a message is read than goes on to the backend.
        if self.parts.is_empty() && !is_full && self.machine.room() > 0 {
            return self.poll_read(cx).map(|read| Wake::Done(self.input(read)));
        }
        Poll::Pending
    }

    /// Queues a part for the connection that has the rest of the command; for any other it would be commands.
    fn pass_on(&mut self, part: Input) {
        if std::mem::take(&mut self.sharing.idles_alone) {
            self.machine.handle_done(b" OK Idle completed.\r\n", false);
        } else if self.lease.is_some() {
            self.parts.push_back(part);
        } else if let Some(hub) = &self.sharing.hub
            // Nothing else is said while a command runs in a hub; the rest of a message that was refused, before that.
            && self.running.as_ref().is_some_and(|running| running.name == Name::Idle)
        {
            hub.end_idle();
        }
    }

    /// Hands on what there is of the running command, as fast as the backend takes it.
    fn poll_parts(&mut self, cx: &mut TaskContext<'_>) {
        let Some(lease) = &mut self.lease else { return self.parts.clear() };
        if self.parts.is_empty() {
            return;
        }
        // The last look for room sends the last part.
        while lease.poll_ready(cx).is_ready() {
            let Some(part) = self.parts.pop_front() else { return };
            lease.send(part);
        }
    }

    /// Ready with what was written; pending when there is nothing to write, too.
    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        if self.output.is_empty() {
            return match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            };
        }
        let (slices, used) = slices(&self.output);
        Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used])
    }

    /// Waits for something, and writes meanwhile what the client is owed already.
    async fn meanwhile<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        let mut awaited = pin!(awaited);
        poll_fn(|cx| {
            self.now = Instant::now();
            if let Poll::Ready(result) = awaited.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            // What is wrong with the client's connection, its next use says, too.
            while let Poll::Ready(Ok(written)) = self.poll_write(cx)
                && written > 0
            {
                self.wrote(written);
            }
            Poll::Pending
        })
        .await
    }

    /// Writes what the socket takes without waiting; `last`: see [`Stream::write_now`].
    fn write_now(&mut self, last: bool) {
        if self.output.is_empty() {
            return;
        }
        let (slices, used) = slices(&self.output);
        let written = self.stream.write_now(&slices[..used], last);
        if written > 0 {
            self.wrote(written);
        }
    }

    fn written(&mut self, written: io::Result<usize>) -> Result<(), Ended> {
        match written {
            Ok(written) if written > 0 => self.wrote(written),
            _ => return Err(Ended::Broken(SessionClose::ClientReset)),
        }
        Ok(())
    }

    fn wrote(&mut self, mut written: usize) {
        self.queued -= written;
        self.record.add_sent(written);
        self.last_output = self.now;
        while let Some(first) = self.output.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            self.output.pop_front();
        }
        if self.output.is_empty() && self.output.capacity() > 8 {
            self.output = VecDeque::new();
        }
    }

    /// Shows a command in the log where that is wished. What is shown begins with a command: there, lines begin.
    fn show(&mut self, run: &Request) {
        self.trace = match self.account() {
            Some(account) if account.is_traced() => Some(self.trace.take().unwrap_or_default()),
            _ => None,
        };
        if let Some(trace) = &mut self.trace {
            trace.command(&self.record, &run.command);
        }
    }

    fn queue(&mut self, octets: Bytes) {
        if !octets.is_empty() {
            if let Some(trace) = &mut self.trace {
                trace.reply(&self.record, &octets);
            }
            if self.output.is_empty() {
                self.last_output = self.now;
            }
            self.queued += octets.len();
            self.answered_eof |= self.machine.has_eof();
            self.output.push_back(octets);
        }
    }

    fn input(&mut self, read: io::Result<usize>) -> Result<(), Ended> {
        let octets = read.map_err(|_| Ended::Broken(SessionClose::ClientReset))?;
        self.last_input = self.now;
        self.record.add_received(octets);
        if octets == 0 {
            self.machine.handle_eof();
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let limits = &self.context.limits;
        if let Some(close_by) = self.close_by {
            close_by
        } else if !self.machine.is_authenticated() {
            // Whether it reads or not.
            self.record.since + limits.login_timeout
        } else if !self.output.is_empty() {
            self.last_output + limits.write_timeout
        } else if self.machine.has_eof() && self.machine.is_offering_message() {
            // Nobody may be there any more, and a server may wait for more of a malformed command for ever.
            self.last_input + OFFER
        } else {
            self.last_input + limits.idle_timeout
        }
    }

    fn timed_out(&mut self) -> Result<(), Ended> {
        if self.now < self.deadline() {
            return Ok(());
        }
        if self.close_by.take().is_some() {
            return self.give_up();
        }
        if !self.output.is_empty() {
            return Err(Ended::Broken(SessionClose::WriteTimeout));
        }
        let offering = self.machine.has_eof() && self.machine.is_offering_message();
        if self.running.is_some() && !self.machine.is_idling() && !self.machine.is_awaiting_client() && !offering {
            // The backend is at work; its own time limit holds.
            self.last_input = self.now;
            return Ok(());
        }
        if !self.is_between_lines() {
            return Err(Ended::Broken(SessionClose::UpstreamLost));
        }
        self.machine.handle_timeout();
        Ok(())
    }

    /// What is said now does not come within something that the backend pushes during IDLE.
    fn is_between_lines(&self) -> bool {
        !self.machine.is_idling() || self.lease.as_ref().is_none_or(|lease| lease.at_line_start())
    }

    async fn act(&mut self, action: Action) -> Result<(), Ended> {
        match action {
            Action::Write(octets) => self.queue(octets),
            Action::StartTls => {
                Box::pin(self.flush()).await?;
                return Err(Ended::Not);
            }
            // On the heap: for most of its life, a session waits for something else.
            Action::Login(credential) => return Box::pin(self.login(&credential)).await,
            Action::Run(run) => {
                self.show(&run);
                // Nobody joins a mailbox from here on by a name that it gives away.
                self.tell_renames(&run.command.renames());
                let Some(run) = self.answer_alone(run) else { return Ok(()) };
                // A connection that it has is its own. With one at hand there is nothing to wait for; otherwise what
                // waiting needs is on the heap.
                if self.lease.is_some() {
                    if let Err(run) = self.start_at_once(run) {
                        Box::pin(self.start(run, 1, None)).await;
                    }
                    return Ok(());
                }
                match self.pass_for(&run).await {
                    Ok(pass) => {
                        let Some(run) = self.share(run, &pass) else { return Ok(()) };
                        Box::pin(self.start(run, 1, Some(pass))).await;
                    }
                    // If its credential is but old, a session goes on in its mailbox: the hub looks after the
                    // connection, which is there already. What was retired has to be accepted anew: the hub's next
                    // connection is another session's.
                    Err(error) if error != CheckoutError::Refused && self.stands() && self.stays_in_hub(&run) => {
                        self.run_in_hub(run);
                    }
                    Err(error) => self.turned_away(&run, error),
                }
            }
            Action::Send(octets) => self.pass_on(Input::Octets(octets)),
            Action::SendSegment(text, literal) => self.pass_on(Input::Segment(text, literal)),
            Action::Close(end) => return Err(Ended::By(end)),
        }
        Ok(())
    }

    /// Negotiates TLS after STARTTLS was answered; `None`: the session has ended by that.
    async fn secure(self: Box<Self>) -> Option<Box<Self>> {
        let listener = Arc::clone(&self.record.listener);
        let tls = listener.tls.as_ref()?;
        let session = *self;
        let limit = session.context.limits.tls_handshake_timeout;
        let record = Arc::clone(&session.record);
        let secured = tokio::select! {
            biased;
            // Nothing can be said in the middle of a handshake.
            () = record.place.given_up() => Err(SessionClose::GaveWay),
            secured = session.stream.server_handshake(tls, limit) => secured.map_err(|error| {
                info!(client = %record.client, listener = listener.config.name, %error, "TLS handshake failed");
                SessionClose::HandshakeFailed
            }),
        };
        let stream = secured.map_err(|close| session.context.closes(&record, close)).ok()?;
        record.set_tls(stream.tls_version());
        let mut session = Box::new(Self { stream, ..session });
        let (front, offered) = offered(&session.stream, &session.record, &session.context);
        session.machine.handle_tls(front, offered);
        Some(session)
    }

    fn account(&self) -> Option<&Arc<Account>> {
        self.grant.as_ref().map(Grant::account)
    }

    /// The right to a connection, or to a part in one: the session's own credential must be accepted still.
    async fn pass_for(&mut self, run: &Request) -> Result<Pass, CheckoutError> {
        let Some(grant) = &self.grant else { return Err(CheckoutError::Unavailable) };
        if let Some(pass) = self.context.auth.pass(grant, self.record.client.ip(), self.now) {
            return Ok(pass);
        }
        // In a mailbox, whoever asked in vain a moment ago need not ask with each command.
        if self.stays_in_hub(run) && grant.stands() && !grant.may_ask() {
            return Err(CheckoutError::Unavailable);
        }
        let (grant, auth) = (grant.clone(), Arc::clone(&self.context.auth));
        let renewed = Box::pin(self.meanwhile(auth.renew(&grant, self.record.client.ip()))).await;
        if let Err(error) = &renewed {
            let user = grant.account().name();
            info!(client = %self.record.client, user, %error, "a session's credential was asked about again");
            self.last_input = self.now;
        }
        renewed
    }

    /// Whether its credential was accepted, however long ago, and nothing speaks against it.
    fn stands(&self) -> bool {
        self.grant.as_ref().is_some_and(Grant::stands)
    }

    /// Answers a command for which there can be no connection.
    fn turned_away(&mut self, run: &Request, error: CheckoutError) {
        self.context.metrics.operation.command_ended(running::label(run.command.name), CommandResult::No);
        let selects = matches!(run.command.name, Name::Select | Name::Examine);
        if error == CheckoutError::Refused || !selects {
            return self.unconnected(error);
        }
        // The mailbox is left, whatever comes of the command (RFC 9051 section 6.3.2).
        self.sharing.hub = None;
        self.machine.handle_done(format!(" {}\r\n", no_connection(error)).as_bytes(), false);
    }

    /// There is no connection for a command.
    fn unconnected(&mut self, error: CheckoutError) {
        match error {
            CheckoutError::Refused => self.machine.handle_revoked(),
            // It never will, where its account is by now.
            CheckoutError::Unfit if self.grant.as_ref().is_some_and(Grant::has_moved) => {
                self.machine.handle_lost(&no_connection(error));
            }
            _ => self.fail(&no_connection(error)),
        }
    }

    /// Writes all that is queued.
    async fn flush(&mut self) -> Result<(), Ended> {
        let (limit, late) = (self.context.limits.write_timeout, |_| Ended::Broken(SessionClose::WriteTimeout));
        while !self.output.is_empty() {
            let written = timeout(limit, poll_fn(|cx| self.poll_write(cx))).await;
            self.written(written.map_err(late)?)?;
        }
        let flushed = timeout(limit, poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)));
        flushed.await.map_err(late)?.map_err(|_| Ended::Broken(SessionClose::ClientReset))
    }
}

/// The first of what waits to be written, and how many those are.
fn slices(output: &VecDeque<Bytes>) -> ([IoSlice<'_>; 8], usize) {
    let mut slices = [IoSlice::new(&[]); 8];
    let mut used = 0;
    for (slice, octets) in slices.iter_mut().zip(output) {
        *slice = IoSlice::new(octets);
        used += 1;
    }
    (slices, used)
}

/// Moved only when it fires too early, not with each octet.
fn poll_timer(mut timer: Pin<&mut Sleep>, deadline: Instant, cx: &mut TaskContext<'_>) -> Poll<()> {
    if timer.deadline() > deadline || timer.is_elapsed() {
        timer.as_mut().reset(deadline);
    }
    timer.poll(cx)
}
