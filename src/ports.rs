//! The budget of upstream connections: how many this host can hold, who holds them, and who has to give one up.
//!
//! A connection holds a [`Permit`] from before it is dialed until its socket is closed. When none is left, the
//! connection that has been at rest longest, anywhere, is retired to make room; if none is at rest, the first that
//! comes to rest. As many are retired as somebody waits for, and each makes room for the one who has waited longest.

mod allowance;
mod demand;
mod resting;
mod roster;

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use socket2::{Domain, SockRef, Socket, Type};
use thiserror::Error;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep};
use tracing::warn;

pub(crate) use self::allowance::Allowance;
pub use self::demand::{Everywhere, Sharers, Waiting};
pub(crate) use self::demand::{Sharer, Yielding};
use self::resting::Need;
pub(crate) use self::resting::{Evict, Since};
pub(crate) use self::roster::Seen;
pub use self::roster::{ConnectionView, Roster};
use crate::config::{self, Config};
use crate::platform::descriptor_limit;
use crate::platform::ports::{self, OR_DESCRIPTORS, WIDEN};

/// Who waits for room looks again this often, whatever the counts say: a wake-up that was lost costs no more.
const DOUBT: Duration = Duration::from_secs(1);

/// Descriptors kept for everything that is neither a client session nor an upstream connection.
const RESERVED_DESCRIPTORS: usize = 64;
/// For how long ports are left alone that the kernel did not have.
const SHORTAGE: Duration = Duration::from_secs(30);
/// How often the log may say that ports run short.
const WARNING_PAUSE: Duration = Duration::from_secs(600);

/// See the module.
#[derive(Debug)]
pub struct Budget {
    /// Over all backends: `pool.max_total`, and what the file descriptors allow.
    total: Arc<Share>,
    /// Towards each backend, by its index: ports. A reload adds to them and takes none away, as connections may be
    /// left.
    backends: RwLock<Vec<Arc<Share>>>,
    /// Who is asked to let a connection rest when none does.
    pub(crate) sharers: Arc<Everywhere>,
    /// All authenticated connections.
    pub roster: Roster,
}

/// So many connections.
#[derive(Debug)]
pub(crate) struct Share {
    allowance: Allowance,
    /// Who waits for one, and what is about to be closed for them.
    need: Need,
    /// Authenticated ones that are open; below, those of them that rest.
    open: AtomicUsize,
    /// The one that has rested longest first.
    resting: Mutex<BTreeMap<Since, Weak<dyn Evict>>>,
    warned: Mutex<Option<Instant>>,
}

/// The right to one upstream connection.
#[derive(Debug)]
pub struct Permit {
    backend: usize,
    budget: Arc<Budget>,
    /// What it takes: one of the backend's ports, and one of all connections.
    taken: [(Arc<Share>, Option<OwnedSemaphorePermit>); 2],
    /// Its connection is about to be closed, for somebody who waits.
    leaving: bool,
    /// What else is given back with it.
    kept: Option<Arc<dyn Any + Send + Sync>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        for (share, permit) in &mut self.taken {
            let permit = permit.take();
            let withheld = permit.is_some() && share.allowance.withholds();
            share.need.left(self.leaving, permit.is_some() && !withheld);
            if let Some(permit) = permit
                && withheld
            {
                permit.forget();
                // Who waits for it waits for another.
                self.budget.make_room(share);
            }
        }
    }
}

impl Permit {
    /// The index of the backend that it is for.
    pub fn backend(&self) -> usize {
        self.backend
    }

    /// Keeps something until its connection is closed.
    pub(crate) fn keep(&mut self, it: &Arc<impl Any + Send + Sync>) {
        self.kept = Some(Arc::clone(it) as Arc<dyn Any + Send + Sync>);
    }

    /// Its connection is about to be closed, for somebody who waits: nobody else has to go for that.
    pub(crate) fn leave(&mut self) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.taken.iter().for_each(|(share, _)| share.need.leaves());
        }
    }
}

impl Share {
    fn resize(&self, capacity: usize) {
        let more = self.allowance.resize(capacity);
        self.need.granted(more);
    }

    fn new(capacity: usize) -> Self {
        let (need, open, resting, warned) = Default::default();
        Self { allowance: Allowance::new(capacity), need, open, resting, warned }
    }
}

impl Budget {
    /// What the configuration and this host allow: for each backend four fifths of the ports that its source addresses
    /// have, since other processes and TIME_WAIT need some, too; over all `pool.max_total`, which if it is set has
    /// precedence over the four fifths; and never more than the descriptor limit leaves beside `limits.sessions`.
    #[must_use]
    pub fn new(config: &Config) -> Arc<Self> {
        Self::of(most(config), config.backends.iter().map(|backend| share_of(config, backend)))
    }

    /// At most `total` connections, and so many to each backend; at least one each.
    pub fn of(total: usize, backends: impl IntoIterator<Item = usize>) -> Arc<Self> {
        let backends: Vec<_> = backends.into_iter().map(|ports| Arc::new(Share::new(ports.min(total)))).collect();
        let sum = backends.iter().map(|share| share.allowance.capacity()).sum();
        let total = Arc::new(Share::new(total.min(sum)));
        Arc::new(Self { total, backends: RwLock::new(backends), sharers: Arc::default(), roster: Roster::default() })
    }

    /// Makes room for a further backend; gives its index.
    pub fn add(&self, config: &Config, backend: &config::Backend) -> usize {
        let mut backends = self.backends.write();
        backends.push(Arc::new(Share::new(share_of(config, backend).min(most(config)))));
        backends.len() - 1
    }

    /// Goes by other limits from now on: `current` are the backends and their indices. What is there beyond them is not
    /// ended, but not replaced either.
    pub fn resize(&self, config: &Config, current: &[usize]) {
        let backends = self.backends.read();
        let mut sum = 0;
        for (index, backend) in current.iter().zip(&config.backends) {
            let ports = share_of(config, backend).min(most(config));
            backends[*index].resize(ports);
            sum += ports.max(1);
        }
        self.total.resize(most(config).min(sum));
    }

    /// Connections that may exist at once.
    pub fn capacity(&self) -> usize {
        self.total.allowance.capacity()
    }

    /// Connections that exist now, or are being dialed.
    pub fn in_use(&self) -> usize {
        self.total.allowance.in_use()
    }

    /// Connections to the backend of this index that exist or are being dialed, and how many there may be.
    #[must_use]
    pub fn usage(&self, backend: usize) -> (usize, usize) {
        let share = self.share(backend);
        (share.allowance.in_use(), share.allowance.capacity())
    }

    fn share(&self, backend: usize) -> Arc<Share> {
        Arc::clone(&self.backends.read()[backend])
    }

    /// Waits for room for a connection to this backend, in the order of asking, and makes some by retiring what has
    /// been at rest longest; if none rests, hubs are asked for theirs. The caller sets the deadline.
    pub async fn permit(self: &Arc<Self>, backend: usize) -> Permit {
        let mut permit = self.untaken(backend);
        // What is given up in between goes to the next, as any permit does.
        for (share, taken) in &mut permit.taken {
            *taken = Some(self.acquire(share, backend).await);
        }
        permit
    }

    /// Room at once, or none.
    pub fn try_permit(self: &Arc<Self>, backend: usize) -> Option<Permit> {
        let mut permit = self.untaken(backend);
        for (share, taken) in &mut permit.taken {
            *taken = Some(self.try_acquire(share)?);
        }
        Some(permit)
    }

    fn untaken(self: &Arc<Self>, backend: usize) -> Permit {
        let taken = [self.share(backend), Arc::clone(&self.total)].map(|share| (share, None));
        Permit { backend, budget: Arc::clone(self), taken, leaving: false, kept: None }
    }

    /// What came back may have been on its way to one who is about to queue: then something else is closed for that.
    fn try_acquire(&self, share: &Arc<Share>) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(share.allowance.semaphore()).try_acquire_owned().ok()?;
        if share.need.overtaken() {
            self.make_room(share);
        }
        Some(permit)
    }

    async fn acquire(&self, share: &Arc<Share>, backend: usize) -> OwnedSemaphorePermit {
        let permits = share.allowance.semaphore();
        if let Some(permit) = self.try_acquire(share) {
            return permit;
        }
        let mut permit = pin!(Arc::clone(permits).acquire_owned());
        let waiting = share.need.wait();
        tokio::select! {
            biased;
            // Its place in the queue comes first. The semaphore is never closed.
            permit = &mut permit => {
                waiting.served();
                return permit.expect("open semaphore");
            }
            () = std::future::ready(()) => {}
        }
        // As long as nothing is about to be closed for this one, hubs are asked, too.
        let _asked = (!self.make_room(share)).then(|| match Arc::ptr_eq(share, &self.total) {
            true => self.sharers.wait(),
            false => self.sharers.wait_for_port(backend),
        });
        loop {
            tokio::select! {
                biased;
                permit = &mut permit => {
                    waiting.served();
                    return permit.expect("open semaphore");
                }
                // Nothing that was counted on has come, nor is anything on its way.
                () = sleep(DOUBT) => {
                    share.need.doubt();
                    self.make_room(share);
                }
            }
        }
    }

    /// Retires what rests longest, one for each who waits. False: there were not enough at rest.
    fn make_room(&self, share: &Arc<Share>) -> bool {
        while let Some(claim) = share.need.claim() {
            // Somebody may take one meanwhile: the next.
            let evicted = std::iter::from_fn(|| self.longest_at_rest(share)?.resting.lock().pop_first())
                .any(|(_, connection)| connection.upgrade().is_some_and(|connection| connection.evict()));
            drop(claim);
            // What has come to rest while this one was claimed was not looked at by whoever let it rest.
            if !evicted && self.longest_at_rest(share).is_none() {
                return false;
            }
        }
        true
    }

    /// The backend's share that the connection takes from which has rested longest, of those that take from this one.
    fn longest_at_rest(&self, share: &Arc<Share>) -> Option<Arc<Share>> {
        let backends = self.backends.read();
        let all = backends.iter().filter(|it| Arc::ptr_eq(share, &self.total) || Arc::ptr_eq(share, it));
        let resting = all.filter_map(|it| Some((*it.resting.lock().first_key_value()?.0, it)));
        resting.min_by_key(|(since, _)| *since).map(|(_, it)| Arc::clone(it))
    }

    /// The kernel has no port although there was a permit: others hold ports towards this backend, too. For a while
    /// it is made do with the connections there are (at least one), so that each further one takes the place of
    /// another.
    pub fn shrink(&self, backend: usize) {
        let share = self.share(backend);
        let exists = share.open.load(Ordering::Acquire) > 0;
        let permits = share.allowance.semaphore();
        let surplus = permits.available_permits().saturating_sub(usize::from(!exists));
        let surplus = u32::try_from(surplus).unwrap_or(u32::MAX);
        if let Ok(withheld) = Arc::clone(permits).try_acquire_many_owned(surplus) {
            let share = Arc::clone(&share);
            tokio::spawn(async move {
                sleep(SHORTAGE).await;
                share.need.granted(withheld.num_permits());
                drop(withheld);
            });
        }
    }

    /// Whether less than a tenth is left, of the ports towards this backend or of the connections in all; or would be,
    /// with so many `more` in use.
    pub fn is_short(&self, backend: usize, more: usize) -> bool {
        let short = |share: &Share| (share.allowance.in_use() + more) * 10 > share.allowance.capacity() * 9;
        short(&self.share(backend)) || short(&self.total)
    }

    /// Waits until no connection exists. The caller sets the deadline.
    pub async fn all_closed(&self) {
        let all = u32::try_from(self.capacity()).unwrap_or(u32::MAX);
        // Given back at once: nothing is dialed any more, but nothing shall break if something is.
        drop(self.total.allowance.semaphore().acquire_many(all).await);
    }

    /// A connection to this backend is open. The share is for the functions below.
    pub(crate) fn opened(&self, backend: usize) -> Arc<Share> {
        let share = self.share(backend);
        share.open.fetch_add(1, Ordering::AcqRel);
        share
    }

    /// It is closed.
    pub(crate) fn closed(&self, share: &Share, since: Since) {
        share.open.fetch_sub(1, Ordering::AcqRel);
        self.taken(share, since);
    }

    /// It has come to rest, and can be evicted from now on. Call [`Budget::rested`] once it can be taken.
    pub(crate) fn rests(&self, share: &Share, since: Since, connection: Weak<dyn Evict>) {
        share.resting.lock().insert(since, connection);
    }

    /// It rests no more.
    pub(crate) fn taken(&self, share: &Share, since: Since) {
        share.resting.lock().remove(&since);
    }

    /// A connection has come to rest: whoever waits for room can have its place.
    pub(crate) fn rested(&self, share: &Arc<Share>) {
        self.make_room(share);
        self.make_room(&self.total);
    }

    /// Says in the log when more than four fifths are used, and what to do about it. Call it every few seconds, with
    /// the indices and names of the backends.
    pub fn warn_if_scarce<'a>(&self, backends: impl Iterator<Item = (usize, &'a str)>) {
        let shares: Vec<_> = backends.map(|(index, name)| (self.share(index), name)).collect();
        let of_ports: usize = shares.iter().map(|(share, _)| share.allowance.capacity()).sum();
        let total = (self.capacity() < of_ports).then_some((&*self.total, "(all)"));
        let shares = shares.iter().map(|(share, name)| (&**share, *name));
        for (share, backend) in shares.chain(total) {
            let (in_use, capacity) = (share.allowance.in_use(), share.allowance.capacity());
            let mut warned = share.warned.lock();
            if in_use * 5 <= capacity * 4 || warned.is_some_and(|at| at.elapsed() < WARNING_PAUSE) {
                continue;
            }
            *warned = Some(Instant::now());
            warn!(
                backend,
                in_use,
                capacity,
                "upstream connections run short, those at rest make room for others; add source_addresses, {WIDEN}, \
                 raise pool.max_total{OR_DESCRIPTORS}, or lower pool.idle_timeout"
            );
        }
    }
}

/// Connections that there may be over all backends, as far as ports are not concerned.
fn most(config: &Config) -> usize {
    match config.pool.max_total {
        0 => descriptors(config),
        max => config.pool.part_of(max).min(descriptors(config)),
    }
}

/// Connections that there may be to one backend.
fn share_of(config: &Config, backend: &config::Backend) -> usize {
    let ports = ports_towards(backend);
    config.pool.part_of(if config.pool.max_total == 0 { ports * 4 / 5 } else { ports })
}

/// What the descriptor limit leaves for upstream connections.
fn descriptors(config: &Config) -> usize {
    let all = descriptor_limit();
    // A host with few descriptors shares them evenly between both sides.
    let beside_sessions = all.saturating_sub(config.limits.sessions + RESERVED_DESCRIPTORS);
    beside_sessions.max(all.saturating_sub(RESERVED_DESCRIPTORS) / 2)
}

/// Local ports that connections to this backend can have, over all its source addresses.
#[must_use]
pub fn ports_towards(backend: &config::Backend) -> usize {
    ports::ephemeral_ports(backend.source_port_range.as_ref()).saturating_mul(backend.source_addresses.len().max(1))
}

/// Why `backend.source_port_range` cannot be used.
#[derive(Debug, Error)]
pub enum PortRangeError {
    /// No such thing here.
    #[error("source_port_range needs Linux 6.3 or later: {0}; delete the line")]
    Unsupported(#[source] io::Error),
    /// The kernel would not keep to it.
    #[error(
        "source_port_range {}-{} is not within this host's ephemeral ports, {}-{}: take a part of them, or {WIDEN}",
        range.start(), range.end(), host.start(), host.end()
    )]
    Outside {
        /// What is configured.
        range: RangeInclusive<u16>,
        /// `net.ipv4.ip_local_port_range`
        host: RangeInclusive<u16>,
    },
}

/// Whether the kernel will keep to `backend.source_port_range`: it ignores, without a word, what lies outside of its
/// own.
///
/// # Errors
/// See [`PortRangeError`].
pub fn check_range(backend: &config::Backend) -> Result<(), PortRangeError> {
    let Some(range) = &backend.source_port_range else { return Ok(()) };
    let probe = Socket::new(Domain::IPV4, Type::STREAM, None);
    probe.and_then(|probe| ports::keep_to(SockRef::from(&probe), range)).map_err(PortRangeError::Unsupported)?;
    match ports::ephemeral_range() {
        Some(host) if !host.contains(range.start()) || !host.contains(range.end()) => {
            Err(PortRangeError::Outside { range: range.clone(), host })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
