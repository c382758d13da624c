//! A memory of bounded size: the oldest entry gives way.

use std::hash::{Hash, RandomState};
use std::sync::Arc;

use lru::LruCache;
use tokio::time::Instant;

/// What an entry takes beside its own octets, about.
const OVERHEAD: usize = 256;

/// Values that are good for a time.
#[derive(Debug)]
pub(super) struct Memory<K: Eq + Hash, V> {
    /// By age: nothing counts as a use.
    entries: LruCache<Arc<K>, Entry<V>, RandomState>,
    octets: usize,
    most: usize,
    most_octets: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    until: Instant,
    octets: usize,
}

impl<K: Eq + Hash, V> Memory<K, V> {
    /// For at most so many entries, and so many octets in all.
    pub(super) fn new(most: usize, most_octets: usize) -> Self {
        Self { entries: LruCache::unbounded_with_hasher(RandomState::new()), octets: 0, most, most_octets }
    }

    /// What is remembered, if it is good still.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<&V> {
        self.entries.peek(key).filter(|entry| now < entry.until).map(|entry| &entry.value)
    }

    /// Remembers `value`, of about so many octets, in place of what was there.
    pub(super) fn put(&mut self, key: Arc<K>, value: V, octets: usize, now: Instant, until: Instant) {
        self.remove(&key);
        if now >= until {
            return;
        }
        let octets = octets + OVERHEAD;
        self.octets += octets;
        self.entries.put(key, Entry { value, until, octets });
        while let Some((_, oldest)) = self.entries.peek_lru()
            && (self.entries.len() > self.most || self.octets > self.most_octets || oldest.until <= now)
        {
            self.octets -= oldest.octets;
            self.entries.pop_lru();
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.pop(key) {
            self.octets -= entry.octets;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn the_oldest_gives_way_to_number_and_to_size() {
        let now = Instant::now();
        let mut memory = Memory::new(3, 10 * OVERHEAD);
        for key in 0..5 {
            memory.put(Arc::new(key), key, 0, now, now + LONG);
        }
        let known = |memory: &Memory<i32, i32>| (0..9).filter(|key| memory.get(key, now).is_some()).collect::<Vec<_>>();
        assert_eq!(known(&memory), [2, 3, 4]);
        memory.put(Arc::new(2), 7, 0, now, now + LONG);
        memory.put(Arc::new(5), 5, 9 * OVERHEAD, now, now + LONG);
        assert_eq!((known(&memory), memory.get(&2, now)), (vec![5], None), "{memory:?}");
        memory.put(Arc::new(6), 6, 10 * OVERHEAD, now, now + LONG);
        assert!(known(&memory).is_empty(), "larger than all there is");
        assert_eq!((memory.octets, memory.entries.len()), (0, 0));
    }

    #[test]
    fn what_is_put_anew_is_young_and_there_once() {
        let now = Instant::now();
        let mut memory = Memory::new(2, usize::MAX);
        for _ in 0..1000 {
            memory.put(Arc::new("a"), 1, 5, now, now + LONG);
        }
        assert_eq!((memory.entries.len(), memory.octets), (1, OVERHEAD + 5));
        memory.put(Arc::new("b"), 2, 0, now, now + LONG);
        memory.put(Arc::new("a"), 3, 0, now, now + LONG);
        memory.put(Arc::new("c"), 4, 0, now, now + LONG);
        assert_eq!((memory.get(&"a", now), memory.get(&"b", now)), (Some(&3), None));
    }

    #[test]
    fn what_is_past_is_not_told_and_does_not_stay() {
        let now = Instant::now();
        let mut memory = Memory::new(9, usize::MAX);
        memory.put(Arc::new("a"), 1, 0, now, now + LONG);
        assert_eq!(memory.get(&"a", now + LONG), None);
        memory.put(Arc::new("b"), 1, 0, now + LONG, now + 2 * LONG);
        assert_eq!(memory.entries.len(), 1);
        memory.put(Arc::new("b"), 1, 0, now + LONG, now + LONG);
        assert_eq!(memory.entries.len(), 0, "good for no time");
    }
}
