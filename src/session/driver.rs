//! The task of one client session: moves octets between the client's socket, the [`Machine`] and an upstream
//! connection, and does what the machine asks for.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::machine::{Action, Bounds, End, LoginReply, Machine, Run};
use crate::auth::{Authenticator, Verdict};
use crate::config::{Limits, PlaintextLogin};
use crate::imap::capability::Front;
use crate::imap::command::Name;
use crate::imap::sasl::Credential;
use crate::listener::{ClientAddr, ListenerContext};
use crate::metrics::{CommandLabel, Metrics, SessionClose};
use crate::pool::{Account, CheckoutError, Lease, Want};
use crate::stream::Stream;
use crate::upstream::backend::Backend;
use crate::upstream::connection::{FromTask, Loss, Piece, Reserving, poll_read_with};
use crate::upstream::machine::Sticky;

/// How long a client may take to answer our FIN with its own.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Replies collected before they are written, in octets; what comes beyond waits with the backend.
const MAX_QUEUED: usize = 64 * 1024;
/// What ends IDLE.
const DONE: Bytes = Bytes::from_static(b"DONE\r\n");
/// Times a command is run anew because its connection was gone.
const MAX_ATTEMPTS: u8 = 3;

/// What all sessions share.
#[derive(Debug)]
pub struct Context {
    /// Judges logins.
    pub auth: Arc<Authenticator>,
    /// The backend that sessions log in to.
    pub backend: Arc<Backend>,
    /// `[limits]`
    pub limits: Limits,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the proxy begins to shut down.
    pub drain: CancellationToken,
}

/// Runs a session on a connection that is ready for IMAP, to its end.
pub async fn run(stream: Stream, client: ClientAddr, listener: Arc<ListenerContext>, context: Arc<Context>) {
    let front = front(&stream, client, &listener);
    let bounds = Bounds { line: context.limits.command_line, literals: context.limits.literals };
    let offered = context.backend.capabilities().before_login(front).into();
    let now = Instant::now();
    let mut session = Session {
        stream,
        machine: Machine::new(bounds, front, offered),
        client,
        listener,
        account: None,
        lease: None,
        sticky: None,
        running: None,
        unsent: None,
        output: VecDeque::new(),
        queued: 0,
        started: now,
        last_input: now,
        last_output: now,
        answered_eof: false,
        context,
    };
    let ended = loop {
        match session.serve().await {
            Ended::Not => match Box::pin(session.secure()).await {
                Some(secured) => session = secured,
                None => return,
            },
            ended => break ended,
        }
    };
    session.finish(ended).await;
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
    owes: Owes,
}

/// What the backend still has to be sent of the command that runs, should the client vanish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owes {
    /// Nothing: only its reply is to come.
    Nothing,
    /// `DONE`, once IDLE is accepted.
    DoneLater,
    /// `DONE`.
    Done,
    /// What only the client knows.
    Client,
}

impl Owes {
    fn of(run: &Run) -> Self {
        match run.command.name {
            Name::Idle => Self::DoneLater,
            _ if run.streams.is_some() => Self::Client,
            _ => Self::Nothing,
        }
    }
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
    /// For the connection's task, once it has room: it may itself be waiting for us to listen.
    unsent: Option<Reserving>,
    output: VecDeque<Bytes>,
    queued: usize,
    started: Instant,
    last_input: Instant,
    last_output: Instant,
    /// Something was sent after the client had closed its side.
    answered_eof: bool,
    context: Arc<Context>,
}

enum Wake {
    Input(io::Result<usize>),
    Output(io::Result<usize>),
    Upstream(FromTask),
    Sent,
    Timer,
    Drain,
}

impl Session {
    async fn serve(&mut self) -> Ended {
        let context = Arc::clone(&self.context);
        let mut drained = pin!(context.drain.cancelled());
        let mut timer = pin!(tokio::time::sleep_until(self.deadline()));
        let mut draining = false;
        loop {
            while self.unsent.is_none()
                && let Some(action) = self.machine.poll()
            {
                if let Err(ended) = self.act(action).await {
                    return ended;
                }
            }
            let wake = poll_fn(|cx| {
                if let Poll::Ready(wake) = self.poll_io(cx) {
                    return Poll::Ready(wake);
                }
                if !draining && drained.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Wake::Drain);
                }
                poll_timer(timer.as_mut(), self.deadline(), cx).map(|()| Wake::Timer)
            })
            .await;
            let result = match wake {
                Wake::Input(read) => self.input(read),
                Wake::Output(written) => self.written(written),
                Wake::Upstream(FromTask::Lost(loss)) => Box::pin(self.lost(loss)).await,
                Wake::Upstream(event) => {
                    self.upstream(event);
                    Ok(())
                }
                Wake::Sent => Ok(()),
                Wake::Timer => self.timed_out(),
                Wake::Drain => {
                    draining = true;
                    self.machine.handle_drain();
                    Ok(())
                }
            };
            if let Err(ended) = result {
                return ended;
            }
        }
    }

    fn poll_io(&mut self, cx: &mut TaskContext<'_>) -> Poll<Wake> {
        if self.queued < MAX_QUEUED
            && let Some(lease) = &mut self.lease
            && let Poll::Ready(event) = lease.poll_event(cx)
        {
            return Poll::Ready(Wake::Upstream(event));
        }
        if let Poll::Ready(written) = self.poll_write(cx) {
            return Poll::Ready(Wake::Output(written));
        }
        if let Some(unsent) = &mut self.unsent {
            ready!(unsent.as_mut().poll(cx));
            self.unsent = None;
            return Poll::Ready(Wake::Sent);
        }
        if self.machine.wants_input() {
            let machine = &mut self.machine;
            let read = poll_read_with(&mut self.stream, cx, |octets| machine.handle_input(octets));
            return read.map(Wake::Input);
        }
        Poll::Pending
    }

    /// Ready with what was written; pending when there is nothing to write, too.
    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<usize>> {
        if self.output.is_empty() {
            return match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Pending,
            };
        }
        let mut slices = [IoSlice::new(&[]); 8];
        let mut used = 0;
        for (slice, octets) in slices.iter_mut().zip(&self.output) {
            *slice = IoSlice::new(octets);
            used += 1;
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, &slices[..used])
    }

    fn written(&mut self, written: io::Result<usize>) -> Result<(), Ended> {
        let mut written = written.map_err(|_| Ended::ClientLost)?;
        if written == 0 {
            return Err(Ended::ClientLost);
        }
        self.queued -= written;
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
        Ok(())
    }

    fn queue(&mut self, octets: Bytes) {
        if !octets.is_empty() {
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
            Ok(0) => self.machine.handle_eof(),
            Ok(_) => self.last_input = Instant::now(),
            Err(_) => return Err(Ended::ClientLost),
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let limits = &self.context.limits;
        if !self.output.is_empty() {
            self.last_output + limits.write_timeout
        } else if !self.machine.is_authenticated() {
            self.started + limits.login_timeout
        } else {
            self.last_input + limits.idle_timeout
        }
    }

    fn timed_out(&mut self) -> Result<(), Ended> {
        if Instant::now() < self.deadline() {
            return Ok(());
        }
        if !self.output.is_empty() {
            return Err(Ended::WriteTimeout);
        }
        if self.running.is_some() && !self.machine.is_idling() && !self.machine.is_awaiting_client() {
            // The backend is at work; its own time limit holds.
            self.last_input = Instant::now();
            return Ok(());
        }
        self.machine.handle_timeout();
        Ok(())
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
                // With a connection at hand there is nothing to wait for; without one, what waiting needs is on the heap.
                if let Err(run) = self.start_at_once(run) {
                    Box::pin(self.start(run, 1)).await;
                }
            }
            Action::Send(octets) => {
                let message = self.machine.is_awaiting_literal();
                self.send(Piece::Octets(octets), if message { Owes::Client } else { Owes::Nothing });
            }
            Action::SendSegment(text, literal) => {
                let owes = if literal.is_some() { Owes::Client } else { Owes::Nothing };
                self.send(Piece::Segment(text, literal), owes);
            }
            Action::Close(end) => return Err(Ended::By(end)),
        }
        Ok(())
    }

    /// Negotiates TLS after STARTTLS was answered; `None`: the session has ended by that.
    async fn secure(self) -> Option<Self> {
        let listener = Arc::clone(&self.listener);
        let tls = listener.tls.as_ref()?;
        match self.stream.server_handshake(tls, self.context.limits.tls_handshake_timeout).await {
            Ok(stream) => {
                let mut session = Self { stream, ..self };
                let front = front(&session.stream, session.client, &session.listener);
                let offered = session.context.backend.capabilities().before_login(front);
                session.machine.handle_tls(front, offered.into());
                Some(session)
            }
            Err(error) => {
                info!(client = %self.client, listener = listener.config.name, %error, "TLS handshake failed");
                self.context.metrics.session_closed(SessionClose::HandshakeFailed);
                None
            }
        }
    }

    async fn login(&mut self, credential: Credential) {
        let context = Arc::clone(&self.context);
        let backend = context.backend.index;
        let verdict = match context.auth.known(backend, &credential) {
            Some(account) => Verdict::Accepted(account),
            None => Box::pin(context.auth.verify(backend, credential, self.client.ip())).await,
        };
        let reply = match verdict {
            Verdict::Accepted(account) => {
                let offered = account.offered();
                self.account = Some(account);
                LoginReply::Accepted(offered)
            }
            Verdict::Refused(refusal) => LoginReply::Refused { reply: refusal.reply, challenge: refusal.challenge },
            Verdict::Limit => refused("NO [LIMIT] The mail server takes no more connections for this account."),
            Verdict::Unavailable => refused("NO [UNAVAILABLE] The mail server cannot check logins at the moment."),
        };
        self.last_input = Instant::now();
        self.machine.handle_login(reply);
    }

    /// Sends more of the running command, now or when there is room; what it owes then.
    fn send(&mut self, piece: Piece, owes: Owes) {
        let Some(lease) = &self.lease else { return };
        // One that was answered already may still have to be sent to its end.
        if let Some(running) = &mut self.running {
            running.owes = owes;
        }
        if let Err(piece) = lease.try_send(piece) {
            self.unsent = Some(lease.reserve(piece));
        }
    }

    /// Runs a command on the connection that the session has. Otherwise gives it back.
    fn start_at_once(&mut self, run: Box<Run>) -> Result<(), Box<Run>> {
        let Some(lease) = &self.lease else { return Err(run) };
        let name = run.command.name;
        let again = (!self.machine.is_selected()).then(|| run.clone());
        let owes = Owes::of(&run);
        lease.try_run(run)?;
        self.running = Some(Running { name, since: Instant::now(), again, attempts: 1, owes });
        Ok(())
    }

    /// Runs a command on the session's connection, taking one if it has none.
    async fn start(&mut self, run: Box<Run>, mut attempts: u8) {
        let since = Instant::now();
        let name = run.command.name;
        let mut run = Some(run);
        while let Some(command) = run.take() {
            if self.lease.is_none() && !self.take_lease(&command).await {
                return;
            }
            let Some(lease) = &self.lease else { return };
            let again = (!self.machine.is_selected()).then(|| command.clone());
            let owes = Owes::of(&command);
            match lease.run(command).await {
                Ok(()) => self.running = Some(Running { name, since, again, attempts, owes }),
                Err(unsent) if !self.machine.is_selected() && attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                    self.drop_lease();
                    run = Some(unsent);
                }
                Err(_) => {
                    self.drop_lease();
                    self.machine.handle_lost("NO [UNAVAILABLE] Connection to the mail server lost.");
                }
            }
        }
    }

    /// Takes a connection out of the pool. False: the command has been answered, because none can be had, or because
    /// the connection is in the state already that the command asks for.
    async fn take_lease(&mut self, run: &Run) -> bool {
        let Some(account) = &self.account else { return false };
        let sticky = self.sticky.clone().unwrap_or_default();
        let want = Want { mailbox: run.command.selected_mailbox(), or_sticky: sticky.after(&run.command), sticky };
        match account.checkout(&want).await {
            Ok(lease) => {
                let facts = lease.shared().facts();
                self.lease = Some(lease);
                if let Some(reply) = facts.enable_reply.filter(|_| run.command.name == Name::Enable)
                    && want.or_sticky.is_some_and(|sticky| sticky == *facts.sticky)
                {
                    self.queue(reply.untagged.clone());
                    self.machine.handle_done(&reply.tagged, false);
                    return false;
                }
                true
            }
            Err(error) => {
                info!(client = %self.client, user = account.name(), %error, "no upstream connection for a command");
                match error {
                    CheckoutError::Timeout | CheckoutError::Unavailable => {
                        self.machine.handle_lost(&format!("NO [UNAVAILABLE] {}.", capitalized(&error)));
                    }
                    CheckoutError::Limit => self.machine.handle_lost(&format!("NO [LIMIT] {}.", capitalized(&error))),
                    CheckoutError::Refused => self.machine.handle_revoked(),
                }
                false
            }
        }
    }

    fn drop_lease(&mut self) {
        self.unsent = None;
        if let Some(lease) = self.lease.take() {
            self.sticky = Some(lease.shared().facts().sticky);
        }
    }

    fn upstream(&mut self, event: FromTask) {
        match event {
            FromTask::Data(octets) => self.queue(octets),
            FromTask::Continue(line) => {
                if let Some(running) = self.running.as_mut() {
                    if running.name == Name::Idle {
                        running.owes = Owes::Done;
                    } else {
                        // A literal that has been sent cannot be sent again.
                        running.again = None;
                        running.owes = Owes::Client;
                    }
                }
                self.machine.handle_continue(line);
            }
            FromTask::Done(data, rest, selected) => {
                self.queue(data);
                if let Some(running) = self.running.take() {
                    self.context.metrics.command(label(running.name), running.since.elapsed());
                }
                self.machine.handle_done(&rest, selected);
            }
            FromTask::Checked | FromTask::Lost(_) => {}
        }
    }

    /// The connection is gone: runs the command again where that is safe, and says what happened where it is not.
    async fn lost(&mut self, loss: Loss) -> Result<(), Ended> {
        self.drop_lease();
        let Some(running) = self.running.take() else {
            if self.machine.is_selected() {
                self.machine.handle_lost("");
            }
            return Ok(());
        };
        let user = self.account.as_ref().map(|account| account.name());
        info!(client = %self.client, user, command = running.name.as_str(), "upstream connection lost during a command");
        if loss.cut {
            return Err(Ended::Cut);
        }
        let repeatable = loss.unsent || (loss.unanswered && running.name.repeatable());
        match running.again {
            Some(run) if repeatable && running.attempts < MAX_ATTEMPTS => {
                debug!(command = running.name.as_str(), "connection lost; running the command on another");
                self.start(run, running.attempts + 1).await;
            }
            _ if loss.unsent || running.name.repeatable() => {
                self.machine.handle_lost("NO [UNAVAILABLE] Connection to the mail server lost.");
            }
            _ => self.machine.handle_lost(
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

    /// Gives back the upstream connection, then ends the client's.
    async fn finish(mut self, mut ended: Ended) {
        self.release();
        if matches!(ended, Ended::By(_))
            && let Err(failed) = self.flush().await
        {
            ended = failed;
        }
        let close = self.close_label(&ended);
        self.context.metrics.session_closed(close);
        debug!(client = %self.client, listener = self.listener.config.name, close = close.as_str(), "client session ended");
        let unasked = self.listener.config.reset_on_client_close && !self.answered_eof;
        match ended {
            Ended::By(End::ClientClosed) if unasked => self.stream.reset(),
            Ended::By(_) => {
                self.stream.close(CLOSE_DEADLINE).await;
            }
            Ended::ClientLost | Ended::WriteTimeout | Ended::Cut | Ended::Not => self.stream.reset(),
        }
    }

    /// A connection at rest goes back to its pool; one with a reply on the way is drained first, by a task of its own.
    fn release(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let owes = self.running.as_ref().map(|running| running.owes);
        match owes {
            _ if self.unsent.take().is_some() => drop(lease),
            None | Some(Owes::Client) => drop(lease),
            Some(Owes::Nothing) => drop(tokio::spawn(lease.drain(None))),
            Some(Owes::DoneLater) => drop(tokio::spawn(lease.drain(Some(DONE)))),
            Some(Owes::Done) => drop(tokio::spawn(async move {
                lease.send(Piece::Octets(DONE)).await;
                lease.drain(None).await;
            })),
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
            Ended::By(End::IdleTimeout) => SessionClose::IdleTimeout,
            Ended::By(End::LoginTimeout) => SessionClose::LoginTimeout,
            Ended::By(End::UpstreamLost) | Ended::Cut => SessionClose::UpstreamLost,
            Ended::ClientLost => SessionClose::ClientReset,
            Ended::WriteTimeout => SessionClose::WriteTimeout,
            Ended::Not => SessionClose::Error,
        }
    }
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
