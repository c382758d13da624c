//! A client session: what it says, in which manner, and at which octet it leaves.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout};

use crate::check::{Checker, Expected, Foreign, WRONG_LOGIN};
use crate::plan::{ACCOUNTS, MAILBOXES, Plan, Rng, Token, account_of};

/// No session may take longer: every time limit of the proxy is far below.
const HANG: Duration = Duration::from_secs(90);

/// A part of what a client says.
#[derive(Debug)]
enum Part {
    Octets(Vec<u8>),
    /// Waits for `+`.
    Wait,
    Pause(Duration),
}

/// What a client does when it has sent, or received, so many octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Close,
    Reset,
    HalfClose,
    /// Does nothing for so long: sends nothing more, or reads nothing meanwhile.
    Stall(Duration),
}

/// How a client behaves.
#[derive(Debug)]
struct Manner {
    pipelined: bool,
    /// Octets sent at a time.
    piece: usize,
    sent: Option<(usize, Cut)>,
    received: Option<(usize, Cut)>,
    /// What it does when everything is answered, if it is still connected.
    end: Cut,
}

/// A session before it begins.
pub(crate) struct Session {
    script: Vec<Vec<Part>>,
    manner: Manner,
    checker: Checker,
}

/// What became of a session.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Outcome {
    /// Everything was answered.
    pub(crate) complete: bool,
    /// It was left by the client before that.
    pub(crate) cut: bool,
    /// Commands that the backend answered.
    pub(crate) served: u64,
    /// The connection is to be reset.
    pub(crate) reset: bool,
}

/// Why a session is wrong.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) what: String,
    pub(crate) story: String,
}

impl Session {
    /// `shared`: with sessions of the same account it shares connections, so that some of its commands bear no mark.
    pub(crate) fn new(seed: u64, number: u64, worlds: u64, shared: bool) -> Self {
        let mut rng = Rng::new(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        let mut writer =
            Writer { rng: Rng::new(rng.next()), session: number, shared, script: Vec::new(), expected: Vec::new() };
        writer.write(account_of(number, worlds));
        let octets: usize = writer.script.iter().flatten().map(Part::len).sum();
        let manner = Manner::any(&mut rng, octets);
        Self { script: writer.script, manner, checker: Checker::new(number, worlds, shared, writer.expected) }
    }

    /// From the connection's first octet to its last.
    pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(self, stream: &mut S) -> Result<Outcome, Wrong> {
        let Self { script, manner, checker } = self;
        let what = format!("{manner:?}");
        let mut run = Run {
            stream,
            checker,
            script: script.into_iter().map(|parts| parts.into_iter().collect()).collect(),
            begun: 0,
            output: BytesMut::new(),
            sent: 0,
            received: 0,
            pause: None,
            deaf: None,
            mute: false,
            half_closed: false,
            manner,
        };
        let result = match timeout(HANG, run.run()).await {
            Ok(result) => result,
            Err(_) => Err(Foreign("the session hangs".into())),
        };
        let complete = run.checker.done() == run.script.len();
        let served = run.checker.served();
        match result {
            Ok(End::Client(cut)) => Ok(Outcome { complete, cut: !complete, served, reset: cut == Cut::Reset }),
            Ok(End::Proxy) => Ok(Outcome { complete, cut: run.mute || run.half_closed, served, reset: false }),
            Err(Foreign(foreign)) => {
                let story =
                    format!("  {what}\n{}\n  sent {}, received {}", run.checker.story(), run.sent, run.received);
                Err(Wrong { what: foreign, story })
            }
        }
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Octets(octets) => octets.len(),
            Self::Wait | Self::Pause(_) => 0,
        }
    }
}

impl Manner {
    fn any(rng: &mut Rng, octets: usize) -> Self {
        let octets = octets as u64;
        let cut = |rng: &mut Rng| match rng.below(100) {
            0..40 => Cut::Close,
            40..70 => Cut::Reset,
            70..94 => Cut::HalfClose,
            _ => Cut::Stall(Duration::from_millis(rng.below(400))),
        };
        let sent = rng.chance(350).then(|| (usize::try_from(rng.below(octets + 1)).unwrap(), cut(rng)));
        let received = rng.chance(250).then(|| {
            // Within the greeting and the first replies, mostly; now and then deep in a literal.
            let bound = if rng.chance(800) { 800 } else { 60_000 };
            (usize::try_from(rng.below(bound)).unwrap(), cut(rng))
        });
        let end = match rng.below(10) {
            0..5 => Cut::HalfClose,
            5..8 => Cut::Close,
            _ => Cut::Reset,
        };
        let piece = if rng.chance(50) { 1 + usize::try_from(rng.below(9)).unwrap() } else { usize::MAX };
        Self { pipelined: rng.chance(500), piece, sent, received, end }
    }
}

/// Writes a session's script.
struct Writer {
    rng: Rng,
    session: u64,
    shared: bool,
    script: Vec<Vec<Part>>,
    expected: Vec<Expected>,
}

impl Writer {
    fn write(&mut self, account: usize) {
        if self.rng.chance(30) {
            self.local("CAPABILITY");
        }
        if self.rng.chance(40) {
            self.log_in(account, false);
        }
        if !self.rng.chance(15) {
            self.log_in(account, true);
        }
        let count = self.rng.pick(&[0, 1, 1, 2, 2, 2, 3, 3, 4, 6]);
        for at in 0..count {
            if at == 0 && self.rng.chance(600) {
                self.select();
            } else {
                self.any();
            }
        }
        if self.rng.chance(500) {
            self.local("LOGOUT");
        }
    }

    fn tag(&self) -> String {
        format!("a{}x{}", self.session, self.script.len())
    }

    fn push(&mut self, verb: &'static str, mailbox: Option<usize>, plan: Option<Plan>, parts: Vec<Part>) {
        let command = self.script.len() as u64;
        self.expected.push(Expected { tag: self.tag(), command, verb, mailbox, plan });
        self.script.push(parts);
    }

    fn local(&mut self, verb: &'static str) {
        let line = format!("{} {verb}\r\n", self.tag());
        self.push(verb, None, None, vec![Part::Octets(line.into())]);
    }

    fn log_in(&mut self, account: usize, right: bool) {
        let account = &ACCOUNTS[account];
        let secret = if right { account.secret.to_owned() } else { format!("wrong{}", self.session) };
        let tag = self.tag();
        let octets = |text: String| Part::Octets(text.into_bytes());
        let parts = if account.token || !account.authzid.is_empty() {
            let (mechanism, response) = if account.token {
                ("XOAUTH2", format!("user={}\u{1}auth=Bearer {secret}\u{1}\u{1}", account.user))
            } else {
                ("PLAIN", format!("{}\0{}\0{secret}", account.authzid, account.user))
            };
            let response = BASE64_STANDARD.encode(response);
            match self.rng.chance(500) {
                true => vec![octets(format!("{tag} AUTHENTICATE {mechanism} {response}\r\n"))],
                false => vec![
                    octets(format!("{tag} AUTHENTICATE {mechanism}\r\n")),
                    Part::Wait,
                    octets(format!("{response}\r\n")),
                ],
            }
        } else {
            match self.rng.below(4) {
                0 => vec![octets(format!("{tag} LOGIN {} {}\r\n", quoted(account.user), quoted(&secret)))],
                1 => vec![octets(format!(
                    "{tag} LOGIN {{{}+}}\r\n{} {{{}+}}\r\n{secret}\r\n",
                    account.user.len(),
                    account.user,
                    secret.len()
                ))],
                2 => vec![
                    octets(format!("{tag} LOGIN {} {{{}}}\r\n", quoted(account.user), secret.len())),
                    Part::Wait,
                    octets(format!("{secret}\r\n")),
                ],
                _ => vec![octets(format!(
                    "{tag} AUTHENTICATE PLAIN {}\r\n",
                    BASE64_STANDARD.encode(format!("\0{}\0{secret}", account.user))
                ))],
            }
        };
        self.push(if right { "LOGIN" } else { WRONG_LOGIN }, None, None, parts);
    }

    fn token(&mut self) -> Token {
        Token { session: self.session, command: self.script.len() as u64, seed: self.rng.next() }
    }

    fn select(&mut self) {
        let token = self.token();
        let verb = if self.rng.chance(700) { "SELECT" } else { "EXAMINE" };
        let mailbox = usize::try_from(self.rng.below(MAILBOXES.len() as u64)).unwrap();
        if self.shared && !self.rng.chance(100) {
            let line = format!("{} {verb} {}\r\n", self.tag(), MAILBOXES[mailbox]);
            return self.push(verb, Some(mailbox), None, vec![Part::Octets(line.into())]);
        }
        let line = format!("{} {verb} {} ({})\r\n", self.tag(), MAILBOXES[mailbox], token.text());
        self.push(verb, Some(mailbox), Some(Plan::of(token.seed)), vec![Part::Octets(line.into())]);
    }

    fn any(&mut self) {
        match self.rng.below(100) {
            0..10 => self.select(),
            10..20 => self.append(),
            20..26 => self.idle(),
            26..30 => self.create(),
            30..34 => {
                let line = format!("{} ENABLE CONDSTORE\r\n", self.tag());
                self.push("ENABLE", None, None, vec![Part::Octets(line.into())]);
            }
            34..36 => self.local("ID NIL"),
            36..40 => self.ask(),
            _ => self.line(),
        }
    }

    fn line(&mut self) {
        let token = self.token();
        let t = token.text();
        if self.shared && self.rng.chance(100) {
            let verb = self.rng.pick(&["CLOSE", "UNSELECT"]);
            return self.local(verb);
        }
        let (verb, arguments) = match self.rng.below(16) {
            0 => ("LIST", format!("\"\" {t}")),
            1 => ("STATUS", format!("INBOX ({t})")),
            2..6 => ("FETCH", format!("1:* (BODY.PEEK[HEADER.FIELDS ({t})])")),
            6 => ("SEARCH", format!("TEXT {t}")),
            7 => ("UID SEARCH", format!("RETURN (ALL) TEXT {t}")),
            8 => ("STORE", format!("1 +FLAGS ({t})")),
            9 => ("CHECK", t),
            10 => ("CLOSE", t),
            11 => ("UNSELECT", t),
            12 => ("GETQUOTAROOT", t),
            // Without a mailbox the proxy answers that itself.
            13 | 14 => ("NOOP", t),
            _ => ("XNEW", t),
        };
        let line = format!("{} {verb} {arguments}\r\n", self.tag());
        self.push(verb, None, Some(Plan::of(token.seed)), vec![Part::Octets(line.into())]);
    }

    fn append(&mut self) {
        let token = self.token();
        let len = match self.rng.below(10) {
            0..7 => self.rng.below(300),
            7..9 => self.rng.below(5000),
            _ => self.rng.below(60_000),
        };
        let message = token.message(usize::try_from(len).unwrap());
        let line = match self.shared && self.rng.chance(500) {
            true => format!("{} APPEND INBOX ({}) ", self.tag(), token.text()),
            false => format!("{} APPEND {} ", self.tag(), token.text()),
        };
        let line = line.into_bytes();
        self.literal("APPEND", line, &message, Plan::of(token.seed));
    }

    fn create(&mut self) {
        let token = self.token();
        let line = format!("{} CREATE ", self.tag()).into_bytes();
        self.literal("CREATE", line, token.text().as_bytes(), Plan::of(token.seed));
    }

    fn literal(&mut self, verb: &'static str, mut line: Vec<u8>, octets: &[u8], plan: Plan) {
        let sync = self.rng.chance(400);
        line.extend_from_slice(format!("{{{}{}}}\r\n", octets.len(), if sync { "" } else { "+" }).as_bytes());
        let rest = [octets, b"\r\n"].concat();
        let parts = match sync {
            true => vec![Part::Octets(line), Part::Wait, Part::Octets(rest)],
            false => vec![Part::Octets([line, rest].concat())],
        };
        self.push(verb, None, Some(plan), parts);
    }

    fn idle(&mut self) {
        let token = self.token();
        let plan = (!self.shared || self.rng.chance(100)).then(|| Plan::of(token.seed));
        let begin = match &plan {
            Some(_) => format!("{} IDLE {}\r\n", self.tag(), token.text()),
            None => format!("{} IDLE\r\n", self.tag()),
        };
        let pause = Duration::from_millis(if self.rng.chance(100) { 100 } else { self.rng.below(6) });
        let parts = vec![
            Part::Octets(begin.into()),
            Part::Wait,
            Part::Pause(pause),
            // One in ten forgets how an IDLE is ended.
            Part::Octets(if self.rng.chance(100) { b"NOOP\r\n".to_vec() } else { b"DONE\r\n".to_vec() }),
        ];
        self.push("IDLE", None, plan, parts);
    }

    /// A command nobody knows, whose continuation asks for a further line.
    fn ask(&mut self) {
        let token = self.token();
        let parts = vec![
            Part::Octets(format!("{} XASK {}\r\n", self.tag(), token.text()).into()),
            Part::Wait,
            Part::Octets(format!("answer {}\r\n", token.text()).into()),
        ];
        self.push("XASK", None, Some(Plan::of(token.seed)), parts);
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

enum End {
    Client(Cut),
    Proxy,
}

enum Wake {
    Sent(io::Result<usize>),
    /// Octets in the buffer; 0 at the end.
    Received(io::Result<usize>),
    Timer,
}

struct Run<'a, S> {
    stream: &'a mut S,
    checker: Checker,
    script: Vec<std::collections::VecDeque<Part>>,
    /// The command that is being said.
    begun: usize,
    output: BytesMut,
    sent: usize,
    received: usize,
    pause: Option<Instant>,
    /// Reads nothing until then.
    deaf: Option<Instant>,
    /// Says nothing more.
    mute: bool,
    half_closed: bool,
    manner: Manner,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Run<'_, S> {
    async fn run(&mut self) -> Result<End, Foreign> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            self.fill();
            if let Some((at, cut)) = self.manner.sent
                && self.sent >= at
            {
                self.manner.sent = None;
                match cut {
                    Cut::Stall(_) => self.mute = true,
                    Cut::HalfClose => self.half_close().await,
                    cut => return Ok(End::Client(cut)),
                }
            }
            if self.checker.done() == self.script.len() && !self.half_closed {
                match self.manner.end {
                    Cut::HalfClose => self.half_close().await,
                    cut => return Ok(End::Client(cut)),
                }
            }
            match self.wait(&mut buffer).await {
                Wake::Sent(Ok(sent)) => {
                    self.sent += sent;
                    let _ = self.output.split_to(sent);
                }
                // It may still have something to read, such as why.
                Wake::Sent(Err(_)) => self.mute = true,
                Wake::Received(Ok(0) | Err(_)) => return self.checker.end().map(|()| End::Proxy),
                Wake::Received(Ok(len)) => {
                    self.received += len;
                    self.checker.take(&buffer[..len])?;
                    if let Some(cut) = self.cut_after_receiving() {
                        return Ok(End::Client(cut));
                    }
                }
                Wake::Timer => {
                    self.deaf = self.deaf.filter(|until| *until > Instant::now());
                    self.pause = self.pause.filter(|until| *until > Instant::now());
                }
            }
        }
    }

    fn cut_after_receiving(&mut self) -> Option<Cut> {
        let (at, cut) = self.manner.received?;
        if self.received < at {
            return None;
        }
        self.manner.received = None;
        match cut {
            Cut::Stall(time) => self.deaf = Some(Instant::now() + time),
            Cut::HalfClose => {}
            cut => return Some(cut),
        }
        None
    }

    async fn half_close(&mut self) {
        self.half_closed = true;
        self.mute = true;
        // If that fails, the connection is gone, as the next read will tell.
        let _ = poll_fn(|cx| Pin::new(&mut *self.stream).poll_shutdown(cx)).await;
    }

    /// Puts out what can be said now.
    fn fill(&mut self) {
        while !self.mute && self.output.is_empty() && self.pause.is_none() {
            // A client speaks when it was greeted; one that pipelines does not wait for that either.
            if !self.checker.greeted() && !self.manner.pipelined || self.checker.bye() {
                return;
            }
            if self.begun >= self.script.len() {
                return;
            }
            let answered = self.checker.done() > self.begun;
            match self.script[self.begun].front() {
                None if answered || self.manner.pipelined => self.begun += 1,
                None => return,
                // Answered before it was said: the rest is not asked for any more.
                Some(_) if answered => self.script[self.begun].clear(),
                Some(Part::Wait) if self.checker.done() == self.begun && self.checker.asked() => {
                    self.script[self.begun].pop_front();
                }
                Some(Part::Wait) => return,
                Some(Part::Pause(time)) => {
                    self.pause = Some(Instant::now() + *time);
                    self.script[self.begun].pop_front();
                }
                Some(Part::Octets(octets)) => {
                    self.output.extend_from_slice(octets);
                    self.script[self.begun].pop_front();
                }
            }
            if self.manner.pipelined && self.manner.piece == usize::MAX {
                self.gather();
            }
        }
    }

    /// Pipelined commands go out in one piece, as far as they wait for nothing.
    fn gather(&mut self) {
        let commands = self.script.len();
        while let Some(parts) = self.script.get_mut(self.begun) {
            match parts.front() {
                None if self.begun + 1 < commands => self.begun += 1,
                Some(Part::Octets(octets)) => {
                    self.output.extend_from_slice(octets);
                    parts.pop_front();
                }
                _ => return,
            }
        }
    }

    async fn wait(&mut self, buffer: &mut [u8]) -> Wake {
        let left = self.manner.sent.map_or(usize::MAX, |(at, _)| at - self.sent);
        let take = self.output.len().min(self.manner.piece).min(left);
        let until = match (self.deaf, self.pause) {
            (Some(deaf), Some(pause)) => Some(deaf.min(pause)),
            (deaf, pause) => deaf.or(pause),
        };
        let mut timer = pin!(sleep(until.map_or(HANG, |until| until.saturating_duration_since(Instant::now()))));
        let (output, deaf, mute) = (&self.output[..take], self.deaf.is_some(), self.mute);
        let stream = &mut *self.stream;
        poll_fn(|cx| {
            if !output.is_empty()
                && !mute
                && let Poll::Ready(sent) = Pin::new(&mut *stream).poll_write(cx, output)
            {
                return Poll::Ready(Wake::Sent(sent));
            }
            if !deaf {
                let mut target = ReadBuf::new(buffer);
                if let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut target) {
                    return Poll::Ready(Wake::Received(read.map(|()| target.filled().len())));
                }
            }
            if until.is_some() && timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wake::Timer);
            }
            Poll::Pending
        })
        .await
    }
}
