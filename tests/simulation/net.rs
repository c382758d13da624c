//! A network in memory: octets take their time, come in pieces, and are lost with their connection; connections are
//! refused, answered late or never, cut and frozen. All of it follows from the seed.

pub(crate) mod hosts;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foldhash::quality::{FixedState, FoldHasher};
use imapool::demo::server::{Server, Wire};
use imapool::net::{Connecting, Connection, Outside};
use imapool::stream::Peer;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use self::hosts::{Hosts, Life};
use crate::chance::Chance;

/// What may lie in one direction of a connection.
const WINDOW: usize = 64 << 10;
/// As imapool sets TCP_USER_TIMEOUT: what is not acknowledged for so long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Nobody asks for octets so often while time stands still.
const BUSY: u64 = 200_000;

/// What goes wrong, as one case in so many; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    /// A dialed connection is refused.
    pub(crate) refused: u64,
    /// A dialed connection never comes about.
    pub(crate) lost: u64,
    /// A dialed connection is reset after some octets.
    pub(crate) cut: u64,
    /// A dialed connection stops to deliver after some octets.
    pub(crate) frozen: u64,
    /// Octets take up to 300 ms in place of 3.
    pub(crate) slow: u64,
}

/// Where a service is that says where users belong.
pub(crate) const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

/// Serves whoever connects to [`SERVICE`].
pub(crate) type Service = Arc<dyn Fn(End) + Send + Sync>;

/// The network, with a server on the other side of it.
#[derive(Clone)]
pub(crate) struct Net(Arc<Inner>);

struct Inner {
    calm: Arc<AtomicBool>,
    state: Mutex<State>,
    said: Mutex<Said>,
}

struct State {
    chance: Chance,
    faults: Faults,
    server: Option<Arc<Server>>,
    service: Option<Service>,
    /// Backends that cannot be reached.
    down: BTreeSet<IpAddr>,
    links: Vec<Arc<Link>>,
    /// Mailboxes that were selected on two of a user's connections at a time.
    divided: BTreeSet<(String, (String, bool))>,
    arriving: VecDeque<End>,
    acceptor: Option<Waker>,
    clients: u64,
    /// Several imapools, where there are.
    hosts: Hosts,
}

/// What was said on all connections, and when.
struct Said {
    /// How often somebody has asked for octets that are not there since time went on.
    asked: (Instant, u64),
    begun: Instant,
    hash: FoldHasher<'static>,
    lines: Option<Vec<String>>,
}

/// One dialed connection, as it is looked at from outside.
pub(crate) struct Link {
    pub(crate) dialed: Instant,
    /// Which of several imapools has it.
    from: Option<Life>,
    /// Which backend it is to.
    pub(crate) to: IpAddr,
    /// Since when somebody is logged in, or nearly so.
    pub(crate) since: Mutex<Instant>,
    /// imapool has it, or dials it.
    open: AtomicBool,
    /// imapool has said LOGOUT.
    leaves: AtomicBool,
    /// Who is logged in on it.
    pub(crate) user: Mutex<Option<String>>,
    /// By which token.
    token: Mutex<Option<String>>,
    /// The mailbox that is selected on it, as far as commands tell, and whether for reading only.
    selects: Mutex<Option<(String, bool)>>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

impl Net {
    /// `trace`: what is said is kept for [`Net::lines`].
    pub(crate) fn new(chance: Chance, faults: Faults, trace: bool) -> Self {
        let (server, service, acceptor) = (None, None, None);
        let (links, down, divided, arriving) = Default::default();
        let (clients, hosts) = Default::default();
        let state = State { chance, faults, server, service, down, links, divided, arriving, acceptor, clients, hosts };
        let now = Instant::now();
        let said = Said {
            asked: (now, 0),
            begun: now,
            hash: FixedState::default().build_hasher(),
            lines: trace.then(Vec::new),
        };
        Self(Arc::new(Inner { calm: Arc::default(), state: Mutex::new(state), said: Mutex::new(said) }))
    }

    pub(crate) fn set_server(&self, server: Option<Arc<Server>>) {
        self.0.state.lock().server = server;
    }

    pub(crate) fn set_service(&self, service: Option<Service>) {
        self.0.state.lock().service = service;
    }

    /// A backend can be reached, or not.
    pub(crate) fn set_down(&self, backend: IpAddr, down: bool) {
        let set = &mut self.0.state.lock().down;
        let _ = if down { set.insert(backend) } else { set.remove(&backend) };
    }

    /// Nothing goes wrong from now on, but what has begun to.
    pub(crate) fn calm(&self) {
        self.0.calm.store(true, Ordering::Relaxed);
        let mut state = self.0.state.lock();
        state.faults = Faults::default();
        state.down.clear();
    }

    /// The connections that imapool has dialed.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        self.0.state.lock().links.clone()
    }

    /// How many of them are open, to backends.
    pub(crate) fn open(&self) -> usize {
        let open = |link: &&Arc<Link>| link.open.load(Ordering::Relaxed) && link.to != SERVICE;
        self.0.state.lock().links.iter().filter(open).count()
    }

    /// How many of them a user has, those without which have said LOGOUT.
    pub(crate) fn open_of(&self, user: &str) -> usize {
        let ours = |link: &&Arc<Link>| {
            let open = link.open.load(Ordering::Relaxed) && !link.leaves.load(Ordering::Relaxed);
            open && link.user.lock().as_deref() == Some(user)
        };
        self.0.state.lock().links.iter().filter(ours).count()
    }

    /// How many of these are to this backend.
    pub(crate) fn open_to(&self, user: &str, backend: IpAddr) -> usize {
        let ours = |link: &&Arc<Link>| {
            let open = link.open.load(Ordering::Relaxed) && !link.leaves.load(Ordering::Relaxed);
            open && link.to == backend && link.user.lock().as_deref() == Some(user)
        };
        self.0.state.lock().links.iter().filter(ours).count()
    }

    /// The backends that imapool has a connection to on which a user is logged in.
    pub(crate) fn homes_of(&self, user: &str) -> BTreeSet<IpAddr> {
        let links = &self.0.state.lock().links;
        let held = links.iter().filter(|link| link.open.load(Ordering::Relaxed));
        held.filter(|link| link.user.lock().as_deref() == Some(user)).map(|link| link.to).collect()
    }

    /// The same, with those that have.
    pub(crate) fn held_of(&self, user: &str) -> usize {
        let held = |link: &&Arc<Link>| link.open.load(Ordering::Relaxed) && link.user.lock().as_deref() == Some(user);
        self.0.state.lock().links.iter().filter(held).count()
    }

    /// How many of them a user has that were logged in before that.
    pub(crate) fn older_of(&self, user: &str, than: Instant) -> usize {
        let old = |link: &&Arc<Link>| {
            let open = link.open.load(Ordering::Relaxed) && !link.leaves.load(Ordering::Relaxed);
            open && *link.since.lock() < than && link.user.lock().as_deref() == Some(user)
        };
        self.0.state.lock().links.iter().filter(old).count()
    }

    /// Not all sessions of a user share one hub there, or did not once.
    pub(crate) fn is_divided(&self, user: &str, mailbox: &str, read_only: bool) -> bool {
        self.0.state.lock().divided.contains(&(user.to_owned(), (mailbox.to_owned(), read_only)))
    }

    /// A mailbox is selected on this connection, or none any more.
    fn selects(&self, link: &Link, mailbox: Option<(String, bool)>) {
        link.selects.lock().clone_from(&mailbox);
        let (Some(mailbox), Some(user)) = (mailbox, link.user.lock().clone()) else { return };
        let mut state = self.0.state.lock();
        let open = state.links.iter().filter(|link| link.open.load(Ordering::Relaxed));
        let ours = open.filter(|link| link.user.lock().as_ref() == Some(&user));
        if ours.filter(|link| link.selects.lock().as_ref() == Some(&mailbox)).count() > 1 {
            state.divided.insert((user, mailbox));
        }
    }

    /// The tokens by which somebody is logged in on open connections.
    pub(crate) fn tokens(&self) -> Vec<String> {
        let token = |link: &Arc<Link>| {
            let open = link.open.load(Ordering::Relaxed) && !link.leaves.load(Ordering::Relaxed);
            link.token.lock().clone().filter(|_| open && link.user.lock().is_some())
        };
        self.0.state.lock().links.iter().filter_map(token).collect()
    }

    /// A number that follows from all that was said.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.0.said.lock().hash.finish()
    }

    /// Tells what happens besides.
    pub(crate) fn note(&self, what: &str) {
        self.0.said.lock().line("--", what.as_bytes());
    }

    /// What was said, if it was to be kept.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.said.lock().lines.take().unwrap_or_default()
    }

    /// A client's connection to imapool.
    pub(crate) fn dial(&self) -> End {
        if self.0.state.lock().hosts.is_any() {
            return self.dial_host();
        }
        let mut state = self.0.state.lock();
        state.clients += 1;
        let number = state.clients;
        let (chance, slow) = (state.chance.fork(number << 20), state.faults.slow);
        let (client, ours) = pair(self, &format!("c{number}"), chance, slow, None);
        state.arriving.push_back(ours);
        if let Some(acceptor) = state.acceptor.take() {
            acceptor.wake();
        }
        client
    }
}

impl Said {
    /// Somebody asks for octets in vain.
    fn asks(&mut self, now: Instant) {
        let (at, times) = self.asked;
        self.asked = (now, if at == now { times + 1 } else { 0 });
        assert!(times < BUSY, "somebody is busy with nothing");
    }

    fn line(&mut self, who: &str, octets: &[u8]) {
        let at = self.begun.elapsed();
        self.hash.write_u128(at.as_nanos());
        self.hash.write(who.as_bytes());
        self.hash.write(octets);
        // What is said after a failure only hides what led to it.
        if let Some(lines) = self.lines.as_mut().filter(|_| !crate::has_failed()) {
            lines.push(format!("{:10.4} {who} {}", at.as_secs_f64(), octets.escape_ascii()));
        }
    }
}

impl Net {
    /// `from`: one of several imapools.
    fn connect_from(&self, address: SocketAddr, from: Option<Life>) -> Connecting {
        let mut state = self.0.state.lock();
        let number = u16::try_from(state.links.len() + 1).expect("few");
        let mut chance = state.chance.fork(u64::from(number));
        let faults = state.faults;
        let mut happens = |one_in: u64| one_in > 0 && chance.one_in(one_in);
        let (refused, lost) = (happens(faults.refused), happens(faults.lost));
        let (cut, frozen) = (happens(faults.cut), happens(faults.frozen));
        let after = (cut || frozen).then(|| (usize::try_from(chance.below(6000)).expect("small"), cut));
        let delay = Duration::from_micros(chance.below(4000));
        let link = Arc::new(Link {
            dialed: Instant::now(),
            from,
            to: address.ip(),
            since: Mutex::new(Instant::now()),
            open: AtomicBool::new(true),
            leaves: AtomicBool::new(false),
            user: Mutex::default(),
            token: Mutex::default(),
            selects: Mutex::default(),
        });
        state.links.push(Arc::clone(&link));
        let pending = Held(link);
        let net = self.clone();
        Box::pin(async move {
            sleep(delay).await;
            if lost {
                std::future::pending::<()>().await;
            }
            let (server, service) = {
                let state = net.0.state.lock();
                let refused = refused || state.down.contains(&address.ip());
                (state.server.clone().filter(|_| !refused), state.service.clone().filter(|_| !refused))
            };
            if address.ip() == SERVICE {
                let service = service.ok_or(io::ErrorKind::ConnectionRefused)?;
                let (mut ours, theirs) = pair(&net, &format!("h{number}"), chance, faults.slow, after);
                ours.link = Some(pending);
                service(theirs);
                return Ok(Box::new(ours) as Box<dyn Connection>);
            }
            let server = server.ok_or(io::ErrorKind::ConnectionRefused)?;
            if from.is_some_and(|from| net.0.state.lock().hosts.is_dead(from)) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            let (mut ours, theirs) = pair(&net, &format!("s{number}"), chance, faults.slow, after);
            ours.link = Some(pending);
            ours.addresses.1 = address;
            if let Some(from) = from {
                net.0.state.lock().hosts.wire(from, None, &ours);
            }
            server.accept(theirs, SocketAddr::from(([10, 0, 0, 1], number)));
            Ok(Box::new(ours) as Box<dyn Connection>)
        })
    }
}

impl Outside for Net {
    fn connect(&self, address: SocketAddr) -> Connecting {
        self.connect_from(address, None)
    }

    fn poll_accept(&self, _: SocketAddr, cx: &mut Context<'_>) -> Poll<(Box<dyn Connection>, SocketAddr)> {
        let mut state = self.0.state.lock();
        match state.arriving.pop_front() {
            Some(end) => {
                let peer = end.addresses.1;
                Poll::Ready((Box::new(end), peer))
            }
            None => {
                state.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn chance(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "chance has no precision")]
        let chance = self.0.state.lock().chance.below(1 << 30) as f64 / f64::from(1 << 30);
        chance
    }
}

/// Open, for as long as it lives.
struct Held(Arc<Link>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.store(false, Ordering::Relaxed);
    }
}

/// One direction.
struct Pipe {
    name: String,
    chance: Chance,
    slow: u64,
    chunks: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    last: Instant,
    fin: Option<Instant>,
    reset: Option<Instant>,
    /// After so many octets nothing arrives any more; and then the connection is reset at once.
    after: Option<(usize, bool)>,
    /// Not any more.
    calm: Arc<AtomicBool>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The reader has dropped its end.
    unread: bool,
}

impl Pipe {
    fn new(name: String, chance: Chance, slow: u64, after: Option<(usize, bool)>, calm: &Arc<AtomicBool>) -> Self {
        Self {
            name,
            chance,
            slow,
            chunks: VecDeque::new(),
            held: 0,
            last: Instant::now(),
            fin: None,
            reset: None,
            after,
            calm: Arc::clone(calm),
            reader: None,
            writer: None,
            unread: false,
        }
    }

    /// When something that is sent now arrives.
    fn arrival(&mut self) -> Instant {
        let most = if self.slow > 0 && self.chance.one_in(self.slow) { 300_000 } else { 3000 };
        let delay = if self.chance.one_in(2) { 0 } else { self.chance.below(most) };
        self.last = self.last.max(Instant::now() + Duration::from_micros(delay));
        self.last
    }

    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn reset_at(&mut self, at: Instant) {
        self.reset = Some(self.reset.map_or(at, |before| before.min(at)));
        self.wake();
    }

    /// Octets that have arrived and were not read.
    fn waits(&self) -> bool {
        self.chunks.front().is_some_and(|(at, _)| *at <= Instant::now())
    }

    fn is_reset(&self) -> bool {
        self.reset.is_some_and(|at| at <= Instant::now())
    }

    fn write(&mut self, octets: &[u8]) -> usize {
        let room = WINDOW.saturating_sub(self.held).min(octets.len());
        if room == 0 || self.unread {
            // Nobody reads it: it is thrown away until the reset comes back.
            return if self.unread { octets.len() } else { 0 };
        }
        let mut arrives = room;
        let calm = self.calm.load(Ordering::Relaxed);
        if let Some((left, cut)) = self.after.as_mut().filter(|(left, _)| *left == 0 || !calm) {
            arrives = arrives.min(*left);
            *left -= arrives;
            if *left == 0 && self.reset.is_none() {
                let at = if *cut { self.last.max(Instant::now()) } else { Instant::now() + USER_TIMEOUT };
                self.reset_at(at);
            }
        }
        let at = self.arrival();
        if arrives > 0 {
            self.chunks.push_back((at, octets[..arrives].to_vec()));
        }
        self.held += room;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        room
    }
}

/// The token that a line of SASL is for, if it is one.
fn token(line: &[u8]) -> Option<String> {
    let word = line.strip_suffix(b"\r\n")?.rsplit(|octet| *octet == b' ').next()?;
    let response = String::from_utf8(STANDARD.decode(word).ok()?).ok()?;
    Some(response.split_once("auth=Bearer ")?.1.trim_end_matches('\x01').to_owned())
}

/// One end of a connection.
pub(crate) struct End {
    net: Net,
    out: Arc<Mutex<Pipe>>,
    into: Arc<Mutex<Pipe>>,
    timer: Pin<Box<Sleep>>,
    abortive: AtomicBool,
    addresses: (SocketAddr, SocketAddr),
    link: Option<Held>,
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("End")
    }
}

/// `after`: see [`Pipe::after`], of both directions together.
fn pair(net: &Net, name: &str, mut chance: Chance, slow: u64, after: Option<(usize, bool)>) -> (End, End) {
    let (first, second) = if chance.one_in(2) { (after, None) } else { (None, after) };
    let there = Arc::new(Mutex::new(Pipe::new(format!("{name}>"), chance.fork(1), slow, first, &net.0.calm)));
    let back = Arc::new(Mutex::new(Pipe::new(format!("{name}<"), chance.fork(2), slow, second, &net.0.calm)));
    let address = |host| SocketAddr::from(([10, 0, 0, host], 1024));
    let end = |out: &Arc<_>, into: &Arc<_>, addresses| End {
        net: net.clone(),
        out: Arc::clone(out),
        into: Arc::clone(into),
        timer: Box::pin(sleep(Duration::ZERO)),
        abortive: AtomicBool::new(false),
        addresses,
        link: None,
    };
    (end(&there, &back, (address(2), address(1))), end(&back, &there, (address(1), address(2))))
}

impl End {
    fn send(&self, octets: &[u8]) -> io::Result<usize> {
        let mut out = self.out.lock();
        if out.is_reset() || out.fin.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let sent = out.write(octets);
        if let Some(Held(link)) = self.link.as_ref().filter(|_| octets.ends_with(b" LOGOUT\r\n")) {
            link.leaves.store(true, Ordering::Relaxed);
        }
        if let Some(Held(link)) = self.link.as_ref().filter(|link| link.0.user.lock().is_none()) {
            let (token, begins) = (token(octets), |verb: &[u8]| octets.windows(verb.len()).any(|word| word == verb));
            // The last attempt counts.
            if token.is_some() || begins(b" LOGIN ") || begins(b" AUTHENTICATE ") {
                *link.token.lock() = token;
            }
        }
        if let Some(Held(link)) = &self.link
            && let Ok(text) = std::str::from_utf8(octets)
            && let Some((_, command)) = text.split_once(' ')
        {
            let mut words = command.split_whitespace();
            match words.next() {
                Some(verb @ ("SELECT" | "EXAMINE")) => {
                    let mailbox = words.next().unwrap_or_default().trim_matches('"').to_owned();
                    self.net.selects(link, Some((mailbox, verb == "EXAMINE")));
                }
                Some("UNSELECT" | "CLOSE" | "LOGOUT") => self.net.selects(link, None),
                _ => {}
            }
        }
        if sent > 0 {
            self.net.0.said.lock().line(&out.name, &octets[..sent]);
        }
        if sent > 0 && (out.unread || out.reset.is_some()) {
            // Who throws it away says so.
            let at = out.reset.unwrap_or(out.last);
            out.reset_at(at);
            drop(out);
            self.into.lock().reset_at(at);
        }
        Ok(sent)
    }
}

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut pipe = this.into.lock();
        let now = Instant::now();
        if pipe.is_reset() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.waits() {
            let (at, mut chunk) = pipe.chunks.pop_front().expect("it waits");
            let whole = chunk.len().min(buf.remaining());
            let most = if pipe.chance.one_in(4) { pipe.chance.below(whole as u64) as usize + 1 } else { whole };
            let rest = chunk.split_off(most.min(whole));
            buf.put_slice(&chunk);
            pipe.held -= chunk.len();
            if !rest.is_empty() {
                pipe.chunks.push_front((at, rest));
            }
            if let Some(writer) = pipe.writer.take() {
                writer.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if pipe.chunks.is_empty() && pipe.fin.is_some_and(|at| at <= now) {
            return Poll::Ready(Ok(()));
        }
        this.net.0.said.lock().asks(now);
        pipe.reader = Some(cx.waker().clone());
        let next = [pipe.chunks.front().map(|(at, _)| *at), pipe.fin.filter(|at| *at > now), pipe.reset];
        let next = next.into_iter().flatten().min();
        drop(pipe);
        if let Some(at) = next {
            this.timer.set(sleep_until(at));
            if this.timer.as_mut().poll_elapsed(cx) {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

trait PollElapsed {
    fn poll_elapsed(self, cx: &mut Context<'_>) -> bool;
}

impl PollElapsed for Pin<&mut Sleep> {
    fn poll_elapsed(self, cx: &mut Context<'_>) -> bool {
        std::future::Future::poll(self, cx).is_ready()
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        match self.send(octets) {
            Ok(0) if !octets.is_empty() => {
                self.out.lock().writer = Some(cx.waker().clone());
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl End {
    fn finish(&self) {
        let mut out = self.out.lock();
        if out.fin.is_none() && out.after.is_none_or(|(left, _)| left > 0) {
            let at = out.arrival();
            out.fin = Some(at);
            self.net.0.said.lock().line(&out.name, b"FIN");
            out.wake();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let lost = {
            let mut into = self.into.lock();
            into.unread = true;
            into.wake();
            !into.chunks.is_empty()
        };
        if self.abortive.load(Ordering::Relaxed) || lost {
            let mut out = self.out.lock();
            let at = out.arrival();
            self.net.0.said.lock().line(&out.name, b"RST");
            out.reset_at(at);
        } else {
            self.finish();
        }
    }
}

impl Connection for End {
    fn local_address(&self) -> SocketAddr {
        self.addresses.0
    }

    fn peer_address(&self) -> SocketAddr {
        self.addresses.1
    }

    fn write_now(&self, octets: &[IoSlice<'_>]) -> usize {
        self.send(&octets.iter().flat_map(|octets| octets.iter().copied()).collect::<Vec<_>>()).unwrap_or(0)
    }

    fn poll_peek(&mut self, cx: &mut Context<'_>, octets: &mut [u8]) -> Poll<io::Result<usize>> {
        {
            let pipe = self.into.lock();
            if let Some((_, chunk)) = pipe.chunks.front().filter(|_| pipe.waits() && !pipe.is_reset()) {
                let seen = chunk.len().min(octets.len());
                octets[..seen].copy_from_slice(&chunk[..seen]);
                return Poll::Ready(Ok(seen));
            }
        }
        // Nothing is there to be taken.
        let mut nothing = ReadBuf::new(octets);
        Pin::new(self).poll_read(cx, &mut nothing).map_ok(|()| 0)
    }

    fn peer(&self) -> Peer {
        let into = self.into.lock();
        if into.is_reset() || into.fin.is_some_and(|at| at <= Instant::now()) {
            Peer::Closed
        } else if into.waits() {
            Peer::Open
        } else {
            Peer::Silent
        }
    }

    fn undelivered(&self) -> usize {
        let (out, now) = (self.out.lock(), Instant::now());
        out.chunks.iter().filter(|(at, _)| *at > now).map(|(_, chunk)| chunk.len()).sum()
    }

    fn reset_at_end(&self, reset: bool) {
        self.abortive.store(reset, Ordering::Relaxed);
    }
}

impl Wire for End {
    fn reset_at_end(&self) {
        self.abortive.store(true, Ordering::Relaxed);
    }
}
