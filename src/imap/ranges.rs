//! Sets of message numbers or UIDs, kept as ranges: a mailbox of 100,000 messages of which few were ever deleted takes some
//! hundred octets.

use std::fmt;
use std::ops::RangeInclusive;

/// A run of members. What lies between two spans is never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first: u32,
    last: u32,
    /// Members in the spans before this one.
    before: u32,
}

impl Span {
    fn len(self) -> u32 {
        self.last - self.first + 1
    }

    /// Members in this span and those before it.
    fn upto(self) -> u32 {
        self.before + self.len()
    }
}

/// A set of numbers from 1 to [`u32::MAX`] (`nz-number`, RFC 9051 section 9). Zero is no member, ever.
///
/// Twelve octets for each run of members. Looking up is O(log runs), changing is O(runs), O(1) at the end.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Ranges {
    spans: Vec<Span>,
}

impl Ranges {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many members.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.spans.last().map_or(0, |span| span.upto())
    }

    /// No member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The smallest member.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.spans.first().map(|span| span.first)
    }

    /// The largest member.
    #[must_use]
    pub fn last(&self) -> Option<u32> {
        self.spans.last().map(|span| span.last)
    }

    /// Whether `n` is a member.
    #[must_use]
    pub fn contains(&self, n: u32) -> bool {
        self.spans.get(self.spans.partition_point(|span| span.last < n)).is_some_and(|span| span.first <= n)
    }

    /// Adds `n`; whether it is new.
    pub fn insert(&mut self, n: u32) -> bool {
        let len = self.len();
        self.insert_range(n..=n);
        self.len() > len
    }

    /// Adds all of `range`; an empty one adds nothing, and neither does zero.
    pub fn insert_range(&mut self, range: RangeInclusive<u32>) {
        let (first, last) = ((*range.start()).max(1), *range.end());
        if first > last {
            return;
        }
        // Those that touch the range become one with it.
        let from = self.spans.partition_point(|span| span.last < first - 1);
        let to = self.spans.partition_point(|span| span.first <= last.saturating_add(1));
        let (mut start, mut end) = (first, last);
        if let [head, ..] = &self.spans[from..to] {
            start = start.min(head.first);
            end = end.max(self.spans[to - 1].last);
        }
        self.spans.splice(from..to, [Span { first: start, last: end, before: 0 }]);
        self.recount(from);
    }

    /// Adds all of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        other.spans().for_each(|span| self.insert_range(span));
    }

    /// Takes `n` out; whether it was a member.
    pub fn remove(&mut self, n: u32) -> bool {
        let len = self.len();
        self.remove_range(n..=n);
        self.len() < len
    }

    /// Takes all of `range` out.
    pub fn remove_range(&mut self, range: RangeInclusive<u32>) {
        let (first, last) = range.into_inner();
        let from = self.spans.partition_point(|span| span.last < first);
        let to = self.spans.partition_point(|span| span.first <= last);
        if first > last || from >= to {
            return;
        }
        let left =
            Some(self.spans[from]).filter(|span| span.first < first).map(|span| Span { last: first - 1, ..span });
        let right =
            Some(self.spans[to - 1]).filter(|span| span.last > last).map(|span| Span { first: last + 1, ..span });
        self.spans.splice(from..to, left.into_iter().chain(right));
        self.recount(from);
    }

    /// Makes `before` right from span `from` on.
    fn recount(&mut self, from: usize) {
        let mut before = from.checked_sub(1).map_or(0, |at| self.spans[at].upto());
        for span in &mut self.spans[from..] {
            span.before = before;
            before = span.upto();
        }
    }

    /// The `k`-th member, counted from 1 in ascending order.
    #[must_use]
    pub fn nth(&self, k: u32) -> Option<u32> {
        let at = self.spans.partition_point(|span| span.before < k);
        let span = self.spans[..at].last()?;
        (k <= span.upto()).then(|| span.first + (k - span.before - 1))
    }

    /// How many members are smaller than `n`.
    #[must_use]
    pub fn rank(&self, n: u32) -> u32 {
        let at = self.spans.partition_point(|span| span.first < n);
        self.spans[..at].last().map_or(0, |span| span.before + (span.last.min(n - 1) - span.first + 1))
    }

    /// The `k`-th number, counted from 1, that is not a member; `None` when it would be above [`u32::MAX`].
    #[must_use]
    pub fn nth_absent(&self, k: u32) -> Option<u32> {
        // Spans behind fewer than k absent numbers lie before the k-th.
        let at = self.spans.partition_point(|span| span.first - 1 - span.before < k);
        k.checked_add(self.spans[..at].last().map_or(0, |span| span.upto()))
    }

    /// Where the run of numbers that are no members, which `n` is in, ends.
    #[must_use]
    pub fn absent_until(&self, n: u32) -> u32 {
        self.spans.get(self.spans.partition_point(|span| span.first < n)).map_or(u32::MAX, |span| span.first - 1)
    }

    /// Members that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Self::new();
        let mut holes = other.spans.iter().peekable();
        for span in &self.spans {
            let mut first = span.first;
            while let Some(hole) = holes.peek().filter(|hole| hole.first <= span.last) {
                if hole.first > first {
                    left.push(first, hole.first - 1);
                }
                first = first.max(hole.last.saturating_add(1));
                if hole.last > span.last {
                    // It may reach into the next span.
                    break;
                }
                holes.next();
            }
            // A hole up to u32::MAX leaves nothing, although `first` could not be moved behind it.
            if first <= span.last && !other.contains(first) {
                left.push(first, span.last);
            }
        }
        left
    }

    /// Members that are in `other`, too.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&self.difference(other))
    }

    /// Adds a span behind all others.
    fn push(&mut self, first: u32, last: u32) {
        self.insert_range(first..=last);
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.spans().flatten()
    }

    /// The runs of members, ascending, none touching the next.
    pub fn spans(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u32>> + '_ {
        self.spans.iter().map(|span| span.first..=span.last)
    }

    /// As several sequence sets of at most `octets` each (but for one range, which may be longer), ascending: for commands,
    /// whose lines servers limit.
    pub fn sequence_sets(&self, octets: usize) -> impl Iterator<Item = String> + '_ {
        let mut spans =
            self.spans.iter().map(|span| Self { spans: vec![Span { before: 0, ..*span }] }.to_string()).peekable();
        std::iter::from_fn(move || {
            let mut set = spans.next()?;
            while let Some(next) = spans.next_if(|next| set.len() + 1 + next.len() <= octets) {
                set.push(',');
                set.push_str(&next);
            }
            Some(set)
        })
    }
}

impl Extend<u32> for Ranges {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, numbers: T) {
        for n in numbers {
            self.insert_range(n..=n);
        }
    }
}

impl FromIterator<u32> for Ranges {
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Self {
        let mut set = Self::new();
        set.extend(numbers);
        set
    }
}

/// As a `sequence-set` (RFC 9051 section 9): `1:3,7`. The empty set, which is none, as nothing.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, span) in self.spans.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            write!(f, "{}", span.first)?;
            if span.last > span.first {
                write!(f, ":{}", span.last)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Near both ends of the domain, so that spans meet and overflow shows.
    fn number() -> impl Strategy<Value = u32> {
        prop_oneof![4 => 1u32..60, 1 => (u32::MAX - 20)..=u32::MAX]
    }

    fn changes() -> impl Strategy<Value = Vec<(bool, u32, u32)>> {
        vec((any::<bool>(), number(), 0u32..9), 0..40)
    }

    fn build(changes: &[(bool, u32, u32)]) -> (Ranges, BTreeSet<u32>) {
        let (mut set, mut model) = (Ranges::new(), BTreeSet::new());
        for &(add, first, len) in changes {
            let last = first.saturating_add(len);
            if add {
                set.insert_range(first..=last);
                model.extend(first..=last);
            } else {
                set.remove_range(first..=last);
                model.retain(|n| !(first..=last).contains(n));
            }
        }
        (set, model)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn is_a_set(changes in changes(), probes in vec(number(), 1..20)) {
            let (mut set, mut model) = build(&changes);
            let members: Vec<u32> = model.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), members.clone());
            prop_assert_eq!(set.len() as usize, members.len());
            prop_assert_eq!((set.first(), set.last()), (members.first().copied(), members.last().copied()));
            prop_assert_eq!(members.iter().copied().collect::<Ranges>(), set.clone());
            for (at, n) in members.iter().enumerate() {
                prop_assert_eq!(set.nth(at as u32 + 1), Some(*n));
            }
            prop_assert_eq!((set.nth(0), set.nth(set.len() + 1)), (None, None));
            for n in probes {
                prop_assert_eq!(set.contains(n), model.contains(&n));
                prop_assert_eq!(set.rank(n) as usize, model.range(..n).count());
                if n < 100 {
                    prop_assert_eq!(set.nth_absent(n), (1..).filter(|m| !model.contains(m)).nth(n as usize - 1));
                }
                let mut other = set.clone();
                prop_assert_eq!(other.remove(n), model.contains(&n));
                prop_assert_eq!(set.insert(n), model.insert(n));
                prop_assert!(set.contains(n) && !other.contains(n));
            }
        }

        #[test]
        fn two_sets(a in changes(), b in changes()) {
            let ((a, a_model), (b, b_model)) = (build(&a), build(&b));
            prop_assert_eq!(a.difference(&b), a_model.difference(&b_model).copied().collect::<Ranges>());
            prop_assert_eq!(a.intersection(&b), a_model.intersection(&b_model).copied().collect::<Ranges>());
        }

        #[test]
        fn is_printed_as_a_sequence_set(changes in changes()) {
            let (set, _) = build(&changes);
            let read = crate::imap::sequence::SequenceSet::parse(set.to_string().as_bytes());
            match read {
                Ok(read) => prop_assert_eq!(read.resolve(1), set.clone()),
                Err(_) => prop_assert!(set.is_empty()),
            }
            let sets: Vec<String> = set.sequence_sets(25).collect();
            prop_assert!(sets.iter().all(|set| set.len() <= 25));
            prop_assert_eq!(sets.join(","), set.to_string());
        }
    }

    #[test]
    fn the_whole_domain() {
        let mut all = Ranges::new();
        all.insert_range(0..=u32::MAX);
        assert_eq!((all.len(), all.first(), all.last()), (u32::MAX, Some(1), Some(u32::MAX)));
        assert_eq!((all.nth(u32::MAX), all.nth_absent(1)), (Some(u32::MAX), None));
        assert!(!all.insert(0) && !all.contains(0) && Ranges::new().nth_absent(u32::MAX) == Some(u32::MAX));
        assert!(all.difference(&all).is_empty());
        assert_eq!(all.to_string(), "1:4294967295");
    }
}
