//! A memory of bounded size: the oldest entry gives way.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use tokio::time::Instant;

/// What an entry takes beside its own octets, about.
const OVERHEAD: usize = 256;

/// Values that are good for a time.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    entries: HashMap<Arc<K>, Entry<V>>,
    /// The keys by age.
    order: BTreeMap<u64, Arc<K>>,
    next: u64,
    octets: usize,
    most: usize,
    most_octets: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    until: Instant,
    age: u64,
    octets: usize,
}

impl<K: Eq + Hash, V> Memory<K, V> {
    /// For at most so many entries, and so many octets in all.
    pub(super) fn new(most: usize, most_octets: usize) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), next: 0, octets: 0, most, most_octets }
    }

    /// What is remembered, if it is good still.
    pub(super) fn get(&self, key: &K, now: Instant) -> Option<&V> {
        self.entries.get(key).filter(|entry| now < entry.until).map(|entry| &entry.value)
    }

    /// Remembers `value`, of about so many octets, in place of what was there.
    pub(super) fn put(&mut self, key: Arc<K>, value: V, octets: usize, now: Instant, until: Instant) {
        self.remove(&key);
        if now >= until {
            return;
        }
        let (age, octets) = (self.next, octets + OVERHEAD);
        self.next += 1;
        self.octets += octets;
        self.order.insert(age, Arc::clone(&key));
        self.entries.insert(key, Entry { value, until, age, octets });
        while self.entries.len() > self.most || self.octets > self.most_octets || self.oldest_is_past(now) {
            let Some((_, oldest)) = self.order.first_key_value() else { return };
            self.remove(&Arc::clone(oldest));
        }
    }

    pub(super) fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.age);
            self.octets -= entry.octets;
        }
    }

    fn oldest_is_past(&self, now: Instant) -> bool {
        let oldest = self.order.first_key_value().and_then(|(_, key)| self.entries.get(key));
        oldest.is_some_and(|entry| entry.until <= now)
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
        assert_eq!((memory.octets, memory.order.len()), (0, 0));
    }

    #[test]
    fn what_is_put_anew_is_young_and_there_once() {
        let now = Instant::now();
        let mut memory = Memory::new(2, usize::MAX);
        for _ in 0..1000 {
            memory.put(Arc::new("a"), 1, 5, now, now + LONG);
        }
        assert_eq!((memory.order.len(), memory.octets), (1, OVERHEAD + 5));
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
