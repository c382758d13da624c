//! The budget of upstream connections: how many this host can hold, who holds them, and who has to give one up.
//!
//! A connection holds a [`Permit`] from before it is dialed until its socket is closed. When none is left, the connection
//! that has been at rest longest, anywhere, is retired to make room.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::metrics::RetireReason;
use crate::upstream::connection::Shared;

/// Descriptors kept for everything that is neither a client session nor an upstream connection.
const RESERVED_DESCRIPTORS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Budget {
    connections: Arc<Semaphore>,
    capacity: usize,
    registry: Mutex<HashMap<u64, Weak<Shared>>>,
    /// Who waits for a permit.
    waiting: AtomicUsize,
}

/// The right to one upstream connection.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code, reason = "held for its Drop")] OwnedSemaphorePermit);

impl Budget {
    /// For at most `capacity` connections; at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Arc<Self> {
        let capacity = capacity.clamp(1, 1_000_000);
        Arc::new(Self {
            connections: Arc::new(Semaphore::new(capacity)),
            capacity,
            registry: Mutex::default(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// `pool.max_total`, or, where that is 0, what the descriptor limit leaves beside `limits.sessions`, and four fifths
    /// of the ephemeral ports that each source address has towards each backend.
    #[must_use]
    pub fn capacity_for(config: &Config) -> usize {
        let descriptors = system::descriptor_limit();
        // A host with few descriptors shares them evenly between both sides.
        let beside_sessions = descriptors.saturating_sub(config.limits.sessions + RESERVED_DESCRIPTORS);
        let descriptors = beside_sessions.max(descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2);
        let ports: usize =
            config.backends.iter().map(|backend| Self::ports_towards(backend.source_addresses.len())).sum();
        let capacity = descriptors.min(ports).max(1);
        if config.pool.max_total == 0 { capacity } else { config.pool.max_total.min(descriptors.max(1)) }
    }

    /// Ports that may be used towards one backend from so many source addresses (0: the kernel's choice, one).
    #[must_use]
    pub fn ports_towards(source_addresses: usize) -> usize {
        system::ephemeral_ports().saturating_mul(source_addresses.max(1)) * 4 / 5
    }

    /// Connections that may exist at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Connections that exist now, or are being dialed.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.capacity - self.connections.available_permits()
    }

    /// Waits for room, in the order of asking, after retiring the connection at rest longest. The caller sets the
    /// deadline.
    pub async fn permit(self: &Arc<Self>) -> Permit {
        let permit = match Arc::clone(&self.connections).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                // First this, then the look at what rests: whoever comes to rest looks the other way round.
                let _waiting = Waiting::new(&self.waiting);
                self.evict_longest_idle();
                // The semaphore is never closed.
                Arc::clone(&self.connections).acquire_owned().await.expect("open semaphore")
            }
        };
        Permit(permit)
    }

    /// A connection has come to rest: if somebody waits for a permit, the one at rest longest goes.
    pub fn make_room(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.evict_longest_idle();
        }
    }

    /// Room at once, or none.
    pub fn try_permit(self: &Arc<Self>) -> Option<Permit> {
        Arc::clone(&self.connections).try_acquire_owned().ok().map(Permit)
    }

    /// Waits until no connection exists. The caller sets the deadline.
    pub async fn all_closed(&self) {
        let all = u32::try_from(self.capacity).unwrap_or(u32::MAX);
        // Given back at once: nothing is dialed any more, but nothing shall break if something is.
        drop(self.connections.acquire_many(all).await);
    }

    /// Makes a connection known, so that it can be evicted.
    pub fn register(&self, shared: &Arc<Shared>) {
        self.registry.lock().insert(shared.id, Arc::downgrade(shared));
    }

    /// The connection is gone.
    pub fn forget(&self, id: u64) {
        self.registry.lock().remove(&id);
    }

    /// Retires the connection at rest longest; false: none is at rest.
    pub fn evict_longest_idle(&self) -> bool {
        loop {
            let longest = {
                let registry = self.registry.lock();
                let resting = registry.values().filter_map(Weak::upgrade);
                resting.filter_map(|shared| Some((shared.resting_since()?, shared))).min_by_key(|(since, _)| *since)
            };
            match longest {
                // Somebody may have taken it meanwhile: look again.
                Some((_, shared)) if shared.retire(RetireReason::Evicted) => return true,
                Some(_) => {}
                None => return false,
            }
        }
    }
}

/// Counts one that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(unix)]
mod system {
    pub(super) fn descriptor_limit() -> usize {
        nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
            .map_or(1024, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
    }

    /// The size of the ephemeral range, less what is reserved in it (Linux).
    pub(super) fn ephemeral_ports() -> usize {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok();
        let range = read("ip_local_port_range").unwrap_or_default();
        let mut bounds = range.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
        let (Some(low), Some(high)) = (bounds.next(), bounds.next()) else { return 16_384 };
        let reserved: usize = read("ip_local_reserved_ports")
            .unwrap_or_default()
            .trim()
            .split(',')
            .filter_map(|part| {
                let (from, to) = part.split_once('-').unwrap_or((part, part));
                let (from, to) = (from.parse::<u16>().ok()?.max(low), to.parse::<u16>().ok()?.min(high));
                (from <= to).then(|| usize::from(to - from) + 1)
            })
            .sum();
        (usize::from(high.saturating_sub(low)) + 1).saturating_sub(reserved)
    }
}

#[cfg(not(unix))]
mod system {
    pub(super) fn descriptor_limit() -> usize {
        usize::MAX / 4
    }

    /// Windows: 49152-65535.
    pub(super) fn ephemeral_ports() -> usize {
        16_384
    }
}
