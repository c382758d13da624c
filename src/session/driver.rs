//! The task of one client session: moves octets between the client's socket, the [`Machine`] and an upstream
//! connection, and does what the machine asks for.

mod shared;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use self::shared::Sharing;
use super::machine::{Action, Bounds, End, LoginReply, Machine, Remnant, Run};
use super::registry::{CLOSING, Record, Registry};
use super::trace::Trace;
use crate::auth::{Authenticator, Verdict};
use crate::config::{Limits, Live, PlaintextLogin};
use crate::imap::capability::Front;
use crate::imap::command::Name;
use crate::imap::sasl::Credential;
use crate::listener::{ClientAddr, ListenerContext};
use crate::mailbox::hub::FromHub;
use crate::metrics::{CommandLabel, Metrics, SessionClose};
use crate::pool::{Account, CheckoutError, Lease, Want};
use crate::stream::{Peer, Stream};
use crate::upstream::backend::Backend;
use crate::upstream::connection::{FromUpstream, Loss, Part, poll_read_with};
use crate::upstream::machine::Sticky;

/// How long a client may take to answer our FIN with its own.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// A client that closed its side and still got a reply has this long to read it before the reset: on Linux it can do so
/// afterwards, too, but other systems throw away what lies unread when a reset comes.
const READING_GRACE: Duration = Duration::from_millis(50);
/// How long a message of a client that has closed its side may be on offer to the backend.
const OFFER: Duration = Duration::from_secs(2);
/// Replies collected before they are written, in octets; what comes beyond waits with the backend.
const MAX_QUEUED: usize = 16 * 1024;
/// Times a command is run anew because its connection was gone.
const MAX_ATTEMPTS: u8 = 3;

/// What all sessions share.
#[derive(Debug)]
pub struct Context {
    /// Judges logins.
    pub auth: Arc<Authenticator>,
    /// The backend that sessions log in to.
    pub backend: Live<Backend>,
    /// `[limits]`
    pub limits: Limits,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Which sessions there are.
    pub registry: Arc<Registry>,
    /// Cancelled when the proxy begins to shut down.
    pub drain: CancellationToken,
}

/// Runs a session on a connection that is ready for IMAP, to its end.
pub async fn run(stream: Stream, record: Arc<Record>, context: Arc<Context>) {
    let (client, listener) = (record.client, Arc::clone(&record.listener));
    record.set_tls(stream.tls_version());
    let front = front(&stream, client, &listener);
    let bounds = Bounds { line: context.limits.command_line, literals: context.limits.literals };
    let offered = context.backend.load().capabilities().before_login(front).into();
    let now = Instant::now();
    // On the heap, once: the steps below would each keep a place for it in the task's memory otherwise.
    let mut session = Box::new(Session {
        stream,
        machine: Machine::new(bounds, front, offered),
        client,
        listener,
        account: None,
        lease: None,
        sticky: None,
        running: None,
        output: VecDeque::new(),
        queued: 0,
        parts: VecDeque::new(),
        sharing: Sharing::default(),
        started: now,
        last_input: now,
        last_output: now,
        answered_eof: false,
        close_by: None,
        record,
        trace: None,
        context,
    });
    session.greet();
    let ended = loop {
        match session.serve().await {
            Ended::Not => match Box::pin(session.secure()).await {
                Some(secured) => session = secured,
                None => return,
            },
            ended => break ended,
        }
    };
    Box::pin(session.finish(ended)).await;
}

/// What can be offered before login as the connection stands.
fn front(stream: &Stream, client: ClientAddr, listener: &ListenerContext) -> Front {
    let secure = stream.is_tls()
        || match listener.config.plaintext_login {
            PlaintextLogin::Never => false,
            PlaintextLogin::Loopback => client.is_loopback(),
            PlaintextLogin::Always => true,
        };
    Front { starttls: listener.tls.is_some() && !stream.is_tls(), login: secure }
}

/// The command that runs on the backend.
struct Running {
    name: Name,
    since: Instant,
    /// To run it anew, as long as that can be done.
    again: Option<Box<Run>>,
    attempts: u8,
}

/// Why a session is over.
#[derive(Debug)]
enum Ended {
    /// It is not: TLS begins.
    Not,
    /// In words, by one of the two sides.
    By(End),
    /// The client's connection failed.
    ClientLost,
    /// The client took nothing for too long.
    WriteTimeout,
    /// The backend's connection broke in the middle of a reply.
    Cut,
    /// Somebody asked for its end, and its command has run on for too long.
    Closed,
}

struct Session {
    stream: Stream,
    machine: Machine,
    client: ClientAddr,
    listener: Arc<ListenerContext>,
    account: Option<Arc<Account>>,
    lease: Option<Lease>,
    /// What was enabled on a connection that was lost.
    sticky: Option<Arc<Sticky>>,
    running: Option<Running>,
    output: VecDeque<Bytes>,
    queued: usize,
    /// Of the running command, on their way to the backend.
    parts: VecDeque<Part>,
    sharing: Sharing,
    started: Instant,
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
    Input(io::Result<usize>),
    Output(io::Result<usize>),
    Upstream(FromUpstream),
    Hub(FromHub),
    Timer,
    Drain,
}

impl Session {
    /// The machine's first words.
    fn greet(&mut self) {
        if let Some(Action::Write(greeting)) = self.machine.poll() {
            self.queue(greeting);
            self.write_now(false);
        }
    }

    async fn serve(&mut self) -> Ended {
        let context = Arc::clone(&self.context);
        let mut drained = pin!(context.drain.cancelled());
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
            while let Some(action) = self.machine.poll() {
                if let Err(ended) = self.act(action).await {
                    return ended;
                }
            }
            let wake = poll_fn(|cx| {
                if let Poll::Ready(wake) = self.poll_io(cx) {
                    return Poll::Ready(wake);
                }
                if !draining && (drained.as_mut().poll(cx).is_ready() || closed.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(Wake::Drain);
                }
                poll_timer(timer.as_mut(), self.deadline(), cx).map(|()| Wake::Timer)
            })
            .await;
            let result = match wake {
                Wake::Input(read) => self.input(read),
                Wake::Output(written) => self.written(written),
                Wake::Upstream(FromUpstream::Lost(loss)) => Box::pin(self.lost(loss)).await,
                Wake::Upstream(event) => {
                    self.upstream(event);
                    Ok(())
                }
                Wake::Hub(event) => self.heard(event),
                Wake::Timer => self.timed_out(),
                Wake::Drain => {
                    draining = true;
                    let closing = self.record.is_closing();
                    self.close_by = closing.then(|| Instant::now() + CLOSING);
                    leave = Some(if closing { End::Operator } else { End::Drain });
                    Ok(())
                }
            };
            if let Err(ended) = result {
                return ended;
            }
        }
    }

    fn poll_io(&mut self, cx: &mut TaskContext<'_>) -> Poll<Wake> {
        if let Some(lease) = &mut self.lease {
            if self.queued >= MAX_QUEUED {
                lease.poll_held(cx);
            } else if let Poll::Ready(event) = lease.poll_event(cx) {
                return Poll::Ready(Wake::Upstream(event));
            }
        }
        if self.queued < MAX_QUEUED
            && self.lease.is_none()
            && let Some(hub) = &mut self.sharing.hub
            && let Poll::Ready(event) = hub.poll_event(cx)
        {
            return Poll::Ready(Wake::Hub(event));
        }
        if let Poll::Ready(written) = self.poll_write(cx) {
            return Poll::Ready(Wake::Output(written));
        }
        self.poll_parts(cx);
        // No more of a message is read than goes on to the backend.
        if self.parts.is_empty() && self.machine.wants_input() {
            let machine = &mut self.machine;
            let read = poll_read_with(&mut self.stream, cx, |octets| machine.handle_input(octets));
            return read.map(Wake::Input);
        }
        Poll::Pending
    }

    /// Queues a part for the connection that has the rest of the command; for any other it would be commands.
    fn pass_on(&mut self, part: Part) {
        if self.lease.is_some() {
            self.parts.push_back(part);
        } else if let Some(hub) = &self.sharing.hub {
            // Nothing else is said while a command runs in a hub.
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
            _ => return Err(Ended::ClientLost),
        }
        Ok(())
    }

    fn wrote(&mut self, mut written: usize) {
        self.queued -= written;
        self.record.add_sent(written);
        self.last_output = Instant::now();
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
    fn show(&mut self, run: &Run) {
        self.trace = match &self.account {
            Some(account) if account.is_traced() => Some(self.trace.take().unwrap_or_default()),
            _ => return self.trace = None,
        };
        Trace::command(&self.record, &run.command);
    }

    fn queue(&mut self, octets: Bytes) {
        if !octets.is_empty() {
            if let Some(trace) = &mut self.trace {
                trace.reply(&self.record, &octets);
            }
            if self.output.is_empty() {
                self.last_output = Instant::now();
            }
            self.queued += octets.len();
            self.answered_eof |= self.machine.has_eof();
            self.output.push_back(octets);
        }
    }

    fn input(&mut self, read: io::Result<usize>) -> Result<(), Ended> {
        match read {
            Ok(0) => {
                self.machine.handle_eof();
                self.last_input = Instant::now();
            }
            Ok(octets) => {
                self.last_input = Instant::now();
                self.record.add_received(octets);
            }
            Err(_) => return Err(Ended::ClientLost),
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let limits = &self.context.limits;
        if let Some(close_by) = self.close_by {
            close_by
        } else if !self.output.is_empty() {
            self.last_output + limits.write_timeout
        } else if !self.machine.is_authenticated() {
            self.started + limits.login_timeout
        } else if self.machine.has_eof() && self.machine.is_offering_message() {
            // Nobody may be there any more, and a server may wait for more of a malformed command for ever.
            self.last_input + OFFER
        } else {
            self.last_input + limits.idle_timeout
        }
    }

    fn timed_out(&mut self) -> Result<(), Ended> {
        if Instant::now() < self.deadline() {
            return Ok(());
        }
        if self.close_by.is_some() {
            return Err(Ended::Closed);
        }
        if !self.output.is_empty() {
            return Err(Ended::WriteTimeout);
        }
        let offering = self.machine.has_eof() && self.machine.is_offering_message();
        if self.running.is_some() && !self.machine.is_idling() && !self.machine.is_awaiting_client() && !offering {
            // The backend is at work; its own time limit holds.
            self.last_input = Instant::now();
            return Ok(());
        }
        if !self.is_between_lines() {
            return Err(Ended::Cut);
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
                self.flush().await?;
                return Err(Ended::Not);
            }
            Action::Login(credential) => self.login(*credential).await,
            Action::Run(run) => {
                self.show(&run);
                let Some(run) = self.share(run) else { return Ok(()) };
                // With a connection at hand there is nothing to wait for; without one, what waiting needs is on the heap.
                if let Err(run) = self.start_at_once(run) {
                    Box::pin(self.start(run, 1)).await;
                }
            }
            Action::Send(octets) => self.pass_on(Part::Octets(octets)),
            Action::SendSegment(text, literal) => self.pass_on(Part::Segment(text, literal)),
            Action::Close(end) => return Err(Ended::By(end)),
        }
        Ok(())
    }

    /// Negotiates TLS after STARTTLS was answered; `None`: the session has ended by that.
    async fn secure(self: Box<Self>) -> Option<Box<Self>> {
        let listener = Arc::clone(&self.listener);
        let tls = listener.tls.as_ref()?;
        let session = *self;
        let limit = session.context.limits.tls_handshake_timeout;
        match session.stream.server_handshake(tls, limit).await {
            Ok(stream) => {
                session.record.set_tls(stream.tls_version());
                let mut session = Box::new(Self { stream, ..session });
                let front = front(&session.stream, session.client, &session.listener);
                let offered = session.context.backend.load().capabilities().before_login(front);
                session.machine.handle_tls(front, offered.into());
                Some(session)
            }
            Err(error) => {
                info!(client = %session.client, listener = listener.config.name, %error, "TLS handshake failed");
                session.context.metrics.session_closed(SessionClose::HandshakeFailed);
                session.record.ends(SessionClose::HandshakeFailed);
                None
            }
        }
    }

    async fn login(&mut self, credential: Credential) {
        let context = Arc::clone(&self.context);
        let backend = context.backend.load().index;
        let verdict = match context.auth.known(backend, &credential, self.client.ip()) {
            Some(account) => Verdict::Accepted(account),
            None => self.meanwhile(Box::pin(context.auth.verify(backend, credential, self.client.ip()))).await,
        };
        let reply = match verdict {
            Verdict::Accepted(account) => {
                let offered = account.offered();
                self.record.set_account(&account);
                self.account = Some(account);
                LoginReply::Accepted(offered)
            }
            Verdict::Refused(refusal) => LoginReply::Refused { reply: refusal.reply, challenge: refusal.challenge },
            Verdict::Limit => refused("NO [LIMIT] The mail server takes no more connections for this account."),
            Verdict::Throttled => refused("NO [UNAVAILABLE] Too many failed logins; try again later."),
            Verdict::Unavailable => refused("NO [UNAVAILABLE] The mail server cannot check logins at the moment."),
        };
        self.last_input = Instant::now();
        self.machine.handle_login(reply);
    }

    /// Runs a command on the connection that the session has. Otherwise gives it back.
    fn start_at_once(&mut self, run: Box<Run>) -> Result<(), Box<Run>> {
        if self.may_exchange(&run) {
            return Err(run);
        }
        let name = run.command.name;
        let again = self.is_elsewhere_as_good().then(|| run.clone());
        let Some(lease) = &mut self.lease else { return Err(run) };
        if self.parts.is_empty() {
            lease.run(run)?;
        } else {
            // The rest of a message that was refused early is still to go: the backend counts its octets.
            self.parts.push_back(Part::Run(run));
        }
        self.record.command_begins(name);
        self.running = Some(Running { name, since: Instant::now(), again, attempts: 1 });
        Ok(())
    }

    /// Runs a command on the session's connection, taking one if it has none.
    async fn start(&mut self, run: Box<Run>, mut attempts: u8) {
        let since = Instant::now();
        let name = run.command.name;
        let mut run = Some(run);
        while let Some(command) = run.take() {
            if (self.lease.is_none() || self.may_exchange(&command)) && !self.take_lease(&command).await {
                return;
            }
            let again = self.is_elsewhere_as_good().then(|| command.clone());
            let Some(lease) = &mut self.lease else { return };
            match lease.run(command) {
                Ok(()) => {
                    self.record.command_begins(name);
                    self.running = Some(Running { name, since, again, attempts });
                }
                Err(unsent) if self.is_elsewhere_as_good() && attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                    self.drop_lease();
                    run = Some(unsent);
                }
                Err(_) => {
                    self.drop_lease();
                    self.fail("NO [UNAVAILABLE] Connection to the mail server lost.");
                }
            }
        }
    }

    /// Whether another connection at rest may be better for a command than the one that the session has: one that carries
    /// the state already that ENABLE asks for. Otherwise each session that says something before ENABLE would cost one.
    fn may_exchange(&self, run: &Run) -> bool {
        run.command.name == Name::Enable && !self.machine.is_selected() && self.parts.is_empty()
    }

    /// Takes a connection out of the pool, or exchanges the one at hand for a better. False: the command has been answered,
    /// because none can be had, or because the connection is in the state already that the command asks for.
    async fn take_lease(&mut self, run: &Run) -> bool {
        let Some(account) = self.account.clone() else { return false };
        let sticky = match &self.lease {
            Some(lease) => lease.shared().facts().sticky,
            None => self.sticky.clone().unwrap_or_default(),
        };
        let or_sticky = sticky.after(&run.command);
        let want = Want { mailbox: run.command.selected_mailbox(), or_sticky, sticky, client: self.client.ip() };
        let taken = match self.lease.take() {
            Some(lease) => self.meanwhile(lease.exchanged(&want)).await,
            None => self.meanwhile(account.checkout(&want)).await,
        };
        match taken {
            Ok(lease) => {
                let facts = lease.shared().facts();
                self.record.takes(lease.shared().id);
                self.lease = Some(lease);
                if let Some(reply) = facts.enable_reply.filter(|reply| reply.answers(&run.command))
                    && want.or_sticky.is_some_and(|sticky| sticky == *facts.sticky)
                {
                    self.queue(reply.untagged.clone());
                    self.machine.handle_done(&reply.tagged, false);
                    self.let_go();
                    return false;
                }
                true
            }
            Err(error) => {
                info!(client = %self.client, user = account.name(), %error, "no upstream connection for a command");
                match error {
                    CheckoutError::Timeout | CheckoutError::Unavailable => {
                        self.fail(&format!("NO [UNAVAILABLE] {}.", capitalized(&error)));
                    }
                    CheckoutError::Limit => self.fail(&format!("NO [LIMIT] {}.", capitalized(&error))),
                    CheckoutError::Refused => self.machine.handle_revoked(),
                }
                false
            }
        }
    }

    fn drop_lease(&mut self) {
        // What had not gone to this connection means nothing to another.
        self.parts.clear();
        if let Some(lease) = self.lease.take() {
            self.record.gives_back();
            self.sticky = Some(lease.shared().facts().sticky);
        }
    }

    fn upstream(&mut self, event: FromUpstream) {
        match event {
            FromUpstream::Data(octets) => self.queue(octets),
            FromUpstream::Continue(line) => {
                // A literal that has been sent cannot be sent again.
                if let Some(running) = self.running.as_mut().filter(|running| running.name != Name::Idle) {
                    running.again = None;
                }
                self.machine.handle_continue(line);
            }
            FromUpstream::Done(data, rest, selected) => {
                self.queue(data);
                let running = self.running.take();
                if let Some(running) = &running {
                    self.context.metrics.command(label(running.name), running.since.elapsed());
                    self.record.command_ends();
                }
                if let Some(rest) = self.unshare(running.map(|running| running.name), rest) {
                    self.machine.handle_done(&rest, selected || self.sharing.hub.is_some());
                }
            }
            FromUpstream::Checked | FromUpstream::Lost(_) => {}
        }
    }

    /// The connection is gone: runs the command again where that is safe, and says what happened where it is not.
    async fn lost(&mut self, mut loss: Loss) -> Result<(), Ended> {
        loss.unsent |= self.parts.iter().any(|part| matches!(part, Part::Run(_)));
        self.drop_lease();
        let running = self.running.take();
        if let Some(Running { name, .. }) = &running {
            let user = self.account.as_ref().map(|account| account.name());
            info!(client = %self.client, user, command = name.as_str(), "upstream connection lost during a command");
        }
        if loss.cut && running.is_some() {
            return Err(Ended::Cut);
        }
        if let Some(text) = loss.bye.filter(|_| self.machine.is_selected() && self.sharing.hub.is_none()) {
            self.machine.handle_bye(&text);
            return Ok(());
        }
        let Some(running) = running else {
            if self.machine.is_selected() && self.sharing.hub.is_none() {
                self.machine.handle_lost("");
            }
            return Ok(());
        };
        let repeatable = loss.unsent || (loss.unanswered && running.name.repeatable());
        match running.again {
            Some(run) if repeatable && running.attempts < MAX_ATTEMPTS => {
                debug!(command = running.name.as_str(), "connection lost; running the command on another");
                self.start(run, running.attempts + 1).await;
            }
            _ if loss.unsent || running.name.repeatable() => {
                self.fail("NO [UNAVAILABLE] Connection to the mail server lost.");
            }
            _ => self.fail(
                "NO [UNAVAILABLE] Connection to the mail server lost; whether the command was carried out is unknown.",
            ),
        }
        Ok(())
    }

    /// Writes all that is queued.
    async fn flush(&mut self) -> Result<(), Ended> {
        let limit = self.context.limits.write_timeout;
        while !self.output.is_empty() {
            let written = tokio::time::timeout(limit, poll_fn(|cx| self.poll_write(cx))).await;
            self.written(written.map_err(|_| Ended::WriteTimeout)?)?;
        }
        let flushed = tokio::time::timeout(limit, poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)));
        flushed.await.map_err(|_| Ended::WriteTimeout)?.map_err(|_| Ended::ClientLost)
    }

    /// Gives back the upstream connection, delivers the last words, and closes so that the client's port is free at once:
    /// TIME_WAIT comes to lie on our listening port, or, where the client was the first to close, nowhere.
    async fn finish(mut self: Box<Self>, mut ended: Ended) {
        self.release();
        let owed = self.answered_eof || !self.output.is_empty();
        if matches!(ended, Ended::By(_))
            && let Err(failed) = self.say_last().await
        {
            ended = failed;
        }
        let close = self.close_label(&ended);
        self.context.metrics.session_closed(close);
        self.record.ends(close);
        // Asked at the last moment: some clients say LOGOUT, and close their side at once.
        let peer = self.stream.peer();
        let client_first = self.listener.config.reset_on_client_close
            && peer.map_or_else(|| self.machine.has_eof(), |peer| peer == Peer::Closed);
        match ended {
            // Nothing comes after LOGOUT but the client's FIN; beneath TLS, a `close_notify`.
            Ended::By(End::Logout) if peer == Some(Peer::Silent) && !self.stream.is_tls() => self.stream.hang_up(),
            Ended::By(_) if !client_first => {
                self.stream.close(CLOSE_DEADLINE).await;
            }
            // If it cannot be known what was delivered, it counts whether the client could be waiting for something.
            Ended::By(_) if owed || self.stream.undelivered().is_some() => {
                self.stream.cork(false);
                let grace = if owed { READING_GRACE } else { Duration::ZERO };
                self.stream.reset_when_delivered(self.context.limits.write_timeout, grace).await;
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

    /// A connection at rest goes back to its pool; one with a reply on the way is drained first, by a task of its own.
    fn release(&mut self) {
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
                info!(client = %self.client, listener = self.listener.config.name, "session ended: malformed input");
                SessionClose::ProtocolError
            }
            Ended::By(End::Drain) => SessionClose::Drain,
            Ended::By(End::Operator) | Ended::Closed => SessionClose::Operator,
            Ended::By(End::IdleTimeout) => SessionClose::IdleTimeout,
            Ended::By(End::LoginTimeout) => SessionClose::LoginTimeout,
            Ended::By(End::UpstreamLost) | Ended::Cut => SessionClose::UpstreamLost,
            Ended::ClientLost => SessionClose::ClientReset,
            Ended::WriteTimeout => SessionClose::WriteTimeout,
            Ended::Not => SessionClose::Error,
        }
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

fn refused(reply: &str) -> LoginReply {
    LoginReply::Refused { reply: reply.into(), challenge: None }
}

fn capitalized(error: &CheckoutError) -> String {
    let text = error.to_string();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Moved only when it fires too early, not with each octet.
fn poll_timer(mut timer: Pin<&mut Sleep>, deadline: Instant, cx: &mut TaskContext<'_>) -> Poll<()> {
    if timer.deadline() > deadline || timer.is_elapsed() {
        timer.as_mut().reset(deadline);
    }
    timer.poll(cx)
}

/// The metrics' label of a command, without a search.
fn label(name: Name) -> CommandLabel {
    static LABELS: LazyLock<Vec<CommandLabel>> =
        LazyLock::new(|| Name::ALL.iter().map(|name| CommandLabel::from_verb(name.as_str().as_bytes())).collect());
    LABELS[name as usize]
}
