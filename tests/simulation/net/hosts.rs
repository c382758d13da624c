//! Several imapools on one network: each has an address, listens there, may die and come back, and may not reach
//! another.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use imapool::net::{Connecting, Connection, Outside};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use super::{End, Net, Pipe, USER_TIMEOUT, pair};

/// Where clients come.
pub(crate) const OUTER: u16 = 143;

/// A process at an address: which of those that were there.
pub(crate) type Life = (IpAddr, u64);

/// See the module.
#[derive(Default)]
pub(super) struct Hosts {
    lives: BTreeMap<IpAddr, u64>,
    /// They reach nobody, and nobody reaches them.
    dead: BTreeSet<Life>,
    /// Nobody says at these addresses that nobody is there.
    mute: BTreeSet<IpAddr>,
    listening: BTreeMap<SocketAddr, Listening>,
    /// Pairs that do not reach each other.
    apart: BTreeSet<[IpAddr; 2]>,
    /// Where clients come, unless it is chance.
    preferred: Option<IpAddr>,
    wires: Vec<Wire>,
    dialed: u64,
}

#[derive(Default)]
struct Listening {
    life: u64,
    arriving: VecDeque<End>,
    acceptor: Option<Waker>,
}

/// A connection of a process, to another one or to anybody else.
struct Wire {
    from: Life,
    to: Option<Life>,
    pipes: [Weak<Mutex<Pipe>>; 2],
}

impl Hosts {
    /// Whether there are any.
    pub(super) fn is_any(&self) -> bool {
        !self.lives.is_empty()
    }

    pub(super) fn is_dead(&self, life: Life) -> bool {
        self.dead.contains(&life)
    }

    pub(super) fn wire(&mut self, from: Life, to: Option<Life>, end: &End) {
        self.wires.retain(|wire| wire.pipes.iter().any(|pipe| pipe.strong_count() > 0));
        let pipes = [Arc::downgrade(&end.out), Arc::downgrade(&end.into)];
        self.wires.push(Wire { from, to, pipes });
    }

    fn are_apart(&self, one: IpAddr, other: IpAddr) -> bool {
        self.apart.contains(&[one.min(other), one.max(other)])
    }

    /// Those that clients reach.
    fn outer(&self) -> Vec<SocketAddr> {
        self.listening.keys().filter(|address| address.port() == OUTER).copied().collect()
    }

    fn arrive(&mut self, address: SocketAddr, end: End) {
        let Some(listening) = self.listening.get_mut(&address) else { return };
        listening.arriving.push_back(end);
        if let Some(acceptor) = listening.acceptor.take() {
            acceptor.wake();
        }
    }
}

/// Nothing arrives on it any more; both ends hear so, after a while.
fn sever(wire: &Wire, after: Duration) {
    for pipe in wire.pipes.iter().filter_map(Weak::upgrade) {
        let mut pipe = pipe.lock();
        pipe.after = Some((0, false));
        pipe.reset_at(Instant::now() + after);
    }
}

impl Net {
    /// A process begins at an address.
    pub(crate) fn host(&self, ip: IpAddr) -> Host {
        let hosts = &mut self.0.state.lock().hosts;
        hosts.mute.remove(&ip);
        let life = hosts.lives.entry(ip).or_default();
        *life += 1;
        Host { net: self.clone(), life: (ip, *life) }
    }

    /// The process at an address is gone from one moment to the next, and its connections with it. `mute`: whoever has
    /// one hears nothing of that.
    pub(crate) fn kill(&self, host: &Host, mute: bool) {
        let (dead, severed) = {
            let mut state = self.0.state.lock();
            let links: Vec<_> = state.links.iter().filter(|link| link.from == Some(host.life)).cloned().collect();
            let hosts = &mut state.hosts;
            hosts.dead.insert(host.life);
            if mute {
                hosts.mute.insert(host.life.0);
            }
            for wire in hosts.wires.iter().filter(|wire| wire.from == host.life || wire.to == Some(host.life)) {
                sever(wire, if mute && wire.to.is_some() { USER_TIMEOUT } else { Duration::ZERO });
            }
            let gone: Vec<_> = hosts.listening.keys().filter(|address| address.ip() == host.life.0).copied().collect();
            (links, gone.iter().filter_map(|address| hosts.listening.remove(address)).collect::<Vec<_>>())
        };
        dead.iter().for_each(|link| link.open.store(false, std::sync::atomic::Ordering::Relaxed));
        drop(severed);
    }

    /// Two addresses do not reach each other, or do again. What was between them is lost.
    pub(crate) fn part(&self, one: IpAddr, other: IpAddr, apart: bool) {
        let hosts = &mut self.0.state.lock().hosts;
        let pair = [one.min(other), one.max(other)];
        if !apart {
            hosts.apart.remove(&pair);
            return;
        }
        hosts.apart.insert(pair);
        let between = |wire: &&Wire| {
            let to = wire.to.map(|life| life.0);
            [(one, other), (other, one)].iter().any(|(from, there)| wire.from.0 == *from && to == Some(*there))
        };
        hosts.wires.iter().filter(between).for_each(|wire| sever(wire, USER_TIMEOUT));
    }

    /// Clients come there from now on.
    pub(crate) fn prefer(&self, ip: IpAddr) {
        self.0.state.lock().hosts.preferred = Some(ip);
    }

    /// The processes that have a connection on which a user is logged in.
    pub(crate) fn lives_of(&self, user: &str) -> BTreeSet<Life> {
        let links = &self.0.state.lock().links;
        let held = links.iter().filter(|link| link.open.load(std::sync::atomic::Ordering::Relaxed));
        held.filter(|link| link.user.lock().as_deref() == Some(user)).filter_map(|link| link.from).collect()
    }

    /// A client's connection to one of them. Where nobody listens, it ends at once.
    pub(super) fn dial_host(&self) -> End {
        let mut state = self.0.state.lock();
        state.clients += 1;
        let number = state.clients;
        let (mut chance, slow) = (state.chance.fork(number << 20), state.faults.slow);
        let mut there = state.hosts.outer();
        there.retain(|address| state.hosts.preferred.is_none_or(|ip| address.ip() == ip));
        let to = (!there.is_empty()).then(|| chance.of(&there));
        let (client, mut ours) = pair(self, &format!("c{number}"), chance, slow, None);
        if let Some(to) = to {
            let life = (to.ip(), state.hosts.listening[&to].life);
            state.hosts.wire(life, None, &client);
            ours.addresses.0 = to;
            state.hosts.arrive(to, ours);
        }
        client
    }

    /// From one process to another.
    fn dial_between(&self, from: Life, to: SocketAddr) -> Connecting {
        let (number, mut chance, slow) = {
            let mut state = self.0.state.lock();
            state.hosts.dialed += 1;
            let number = state.hosts.dialed;
            (number, state.chance.fork(number << 40), state.faults.slow)
        };
        let net = self.clone();
        Box::pin(async move {
            sleep(Duration::from_micros(chance.below(4000))).await;
            let lost = {
                let state = net.0.state.lock();
                let hosts = &state.hosts;
                let mute = hosts.mute.contains(&to.ip()) && !hosts.listening.contains_key(&to);
                hosts.is_dead(from) || mute || hosts.are_apart(from.0, to.ip())
            };
            if lost {
                std::future::pending::<()>().await;
            }
            let (mut ours, mut theirs) = pair(&net, &format!("r{number}"), chance, slow, None);
            let port = 1024 + u16::try_from(number % 60_000).expect("small");
            ours.addresses = (SocketAddr::new(from.0, port), to);
            theirs.addresses = (to, SocketAddr::new(from.0, port));
            let mut state = net.0.state.lock();
            let life = state.hosts.listening.get(&to).map(|it| it.life).ok_or(io::ErrorKind::ConnectionRefused)?;
            state.hosts.wire(from, Some((to.ip(), life)), &ours);
            state.hosts.arrive(to, theirs);
            Ok(Box::new(ours) as Box<dyn Connection>)
        })
    }
}

/// What a process sees of the network.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    net: Net,
    pub(crate) life: Life,
}

impl Outside for Host {
    fn connect(&self, address: SocketAddr) -> Connecting {
        if address.port() == OUTER {
            self.net.connect_from(address, Some(self.life))
        } else {
            self.net.dial_between(self.life, address)
        }
    }

    fn poll_accept(&self, address: SocketAddr, cx: &mut Context<'_>) -> Poll<(Box<dyn Connection>, SocketAddr)> {
        let mut state = self.net.0.state.lock();
        if state.hosts.is_dead(self.life) {
            return Poll::Pending;
        }
        let listening = state.hosts.listening.entry(address).or_default();
        listening.life = self.life.1;
        match listening.arriving.pop_front() {
            Some(end) => {
                let peer = end.addresses.1;
                Poll::Ready((Box::new(end), peer))
            }
            None => {
                listening.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn stop_listening(&self, address: SocketAddr) {
        let mut state = self.net.0.state.lock();
        let ours = state.hosts.listening.get(&address).is_some_and(|it| it.life == self.life.1);
        let closed = if ours { state.hosts.listening.remove(&address) } else { None };
        drop(state);
        drop(closed);
    }

    fn chance(&self) -> f64 {
        self.net.chance()
    }
}
