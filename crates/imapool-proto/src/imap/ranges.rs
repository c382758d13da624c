//! Sets of message numbers or UIDs, kept as ranges: a mailbox of 100,000 messages of which few were ever deleted
//! takes some hundred octets.

use std::fmt;
use std::iter::once;
use std::ops::RangeInclusive;

/// Runs in a chunk before it is divided. (Few in tests, so that they have many chunks.)
const MAX_RUNS: usize = if cfg!(test) { 4 } else { 256 };

/// A run of members. What lies between two runs is never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    first: u32,
    last: u32,
    /// Members in the runs before this one: in its chunk, where it is kept; in all, where it is given out.
    before: u32,
}

impl Span {
    fn new(first: u32, last: u32) -> Self {
        Self { first, last, before: 0 }
    }

    /// Members in this run and those before it.
    fn upto(self) -> u32 {
        self.before + (self.last - self.first + 1)
    }
}

/// Makes `before` of a chunk's runs right from run `at` on.
fn recount(chunk: &mut [Span], at: usize) {
    let mut before = members(&chunk[..at]);
    for span in &mut chunk[at..] {
        span.before = before;
        before = span.upto();
    }
}

/// The members of a chunk.
fn members(chunk: &[Span]) -> u32 {
    chunk.last().map_or(0, |span| span.upto())
}

/// Where a run is: its chunk, and its place there.
type At = (usize, usize);

/// A set of numbers from 1 to [`u32::MAX`] (`nz-number`, RFC 9051 section 9). Zero is no member, ever.
///
/// Twelve octets for each run of members, in chunks of up to `MAX_RUNS`. Looking up is O(log runs), and so is adding
/// what is there already; a change moves the runs of one chunk.
#[derive(Clone, Default)]
pub struct Ranges {
    /// Of runs that follow each other, never none.
    chunks: Vec<Vec<Span>>,
    /// Sums of the chunks' members, as a Fenwick tree.
    sums: Vec<u32>,
}

impl Ranges {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of runs in any order, which may overlap. Where they are a few ascending lists, O(runs); else they are sorted.
    #[must_use]
    pub fn from_runs(mut runs: Vec<(u32, u32)>) -> Self {
        runs.sort();
        runs.into_iter().map(|(first, last)| first..=last).collect()
    }

    /// How many members.
    pub fn len(&self) -> u32 {
        self.before(self.chunks.len())
    }

    /// No member.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// How many runs of members.
    pub fn runs(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum()
    }

    /// What it takes beyond the first run.
    pub fn octets(&self) -> usize {
        // Of several chunks, each counts as full.
        let runs = if self.chunks.len() > 1 { self.chunks.len() * MAX_RUNS } else { self.runs() };
        runs.saturating_sub(1) * size_of::<Span>()
    }

    /// The smallest member.
    pub fn first(&self) -> Option<u32> {
        self.get((0, 0)).map(|span| span.first)
    }

    /// The largest member.
    pub fn last(&self) -> Option<u32> {
        self.chunks.last()?.last().map(|span| span.last)
    }

    /// Whether `n` is a member.
    #[must_use]
    pub fn contains(&self, n: u32) -> bool {
        self.get(self.find(|span| span.last < n)).is_some_and(|span| span.first <= n)
    }

    /// Members in the chunks before this one.
    fn before(&self, chunk: usize) -> u32 {
        let (mut at, mut sum) = (chunk, 0);
        while at > 0 {
            sum += self.sums[at - 1];
            at &= at - 1;
        }
        sum
    }

    /// A chunk has other members than it had: so many more, or fewer (modulo 2^32).
    fn adjust(&mut self, chunk: usize, more: u32) {
        let mut at = chunk + 1;
        while let Some(sum) = self.sums.get_mut(at - 1) {
            *sum = sum.wrapping_add(more);
            at += at & at.wrapping_neg();
        }
    }

    /// There are other chunks than there were.
    fn add_up(&mut self) {
        self.sums.clear();
        self.sums.extend(self.chunks.iter().map(|chunk| members(chunk)));
        for at in 1..=self.sums.len() {
            let sum = self.sums[at - 1];
            if let Some(above) = self.sums.get_mut(at + (at & at.wrapping_neg()) - 1) {
                *above += sum;
            }
        }
    }

    /// The first run for which `precedes` does not hold; it holds for those before it only, whatever was counted
    /// before them. Where it holds for all, the end of the last chunk.
    fn find(&self, precedes: impl Fn(&Span) -> bool) -> At {
        let chunk = self.chunks.partition_point(|chunk| chunk.last().is_some_and(&precedes));
        match self.chunks.get(chunk) {
            Some(runs) => (chunk, runs.partition_point(precedes)),
            None => (chunk.saturating_sub(1), self.chunks.last().map_or(0, Vec::len)),
        }
    }

    /// The same, where what was counted before them matters.
    fn find_counted(&self, precedes: impl Fn(Span) -> bool) -> At {
        let (mut low, mut high) = (0, self.chunks.len().saturating_sub(1));
        while low < high {
            let middle = low.midpoint(high);
            if self.previous((middle + 1, 0)).is_some_and(&precedes) { low = middle + 1 } else { high = middle }
        }
        let before = self.before(low);
        let precedes = |span: &Span| precedes(Span { before: before + span.before, ..*span });
        (low, self.chunks.get(low).map_or(0, |chunk| chunk.partition_point(precedes)))
    }

    fn get(&self, (chunk, at): At) -> Option<Span> {
        let span = self.chunks.get(chunk)?.get(at)?;
        Some(Span { before: self.before(chunk) + span.before, ..*span })
    }

    /// The run before a place.
    fn previous(&self, (chunk, at): At) -> Option<Span> {
        match at.checked_sub(1) {
            Some(at) => self.get((chunk, at)),
            None => {
                let chunk = chunk.checked_sub(1)?;
                self.get((chunk, self.chunks[chunk].len() - 1))
            }
        }
    }

    /// Adds `n`; whether it is new.
    pub fn insert(&mut self, n: u32) -> bool {
        let was = self.contains(n);
        self.insert_range(n..=n);
        n > 0 && !was
    }

    /// Adds all of `range`; an empty one adds nothing, and neither does zero.
    pub fn insert_range(&mut self, range: RangeInclusive<u32>) {
        let (first, last) = ((*range.start()).max(1), *range.end());
        if first > last {
            return;
        }
        // Those that touch the range become one with it.
        let from = self.find(|span| span.last < first - 1);
        let Some(head) = self.get(from) else { return self.exchange(from, from, once(Span::new(first, last))) };
        if head.first <= first && last <= head.last {
            return;
        }
        let to = self.find(|span| span.first <= last.saturating_add(1));
        let whole = match self.previous(to).filter(|_| from < to) {
            Some(tail) => Span::new(first.min(head.first), last.max(tail.last)),
            None => Span::new(first, last),
        };
        self.exchange(from, to, once(whole));
    }

    /// Adds all of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        if other.runs() <= MAX_RUNS {
            other.spans().for_each(|span| self.insert_range(span));
        } else {
            *self = Self::from_runs(self.spans().chain(other.spans()).map(RangeInclusive::into_inner).collect());
        }
    }

    /// Takes `n` out; whether it was a member.
    pub fn remove(&mut self, n: u32) -> bool {
        let was = self.contains(n);
        self.remove_range(n..=n);
        was
    }

    /// Takes all of `range` out.
    pub fn remove_range(&mut self, range: RangeInclusive<u32>) {
        let (first, last) = range.into_inner();
        let from = self.find(|span| span.last < first);
        let to = self.find(|span| span.first <= last);
        let (Some(head), Some(tail)) = (self.get(from), self.previous(to)) else { return };
        if first > last || from >= to {
            return;
        }
        let left = (head.first < first).then(|| Span::new(head.first, first - 1));
        let right = (tail.last > last).then(|| Span::new(last + 1, tail.last));
        self.exchange(from, to, left.into_iter().chain(right));
    }

    /// Takes all of `other` out.
    pub fn remove_all(&mut self, other: &Self) {
        if other.runs() <= MAX_RUNS {
            other.spans().for_each(|span| self.remove_range(span));
        } else {
            *self = self.difference(other);
        }
    }

    /// Takes out the members above `n`, and gives them.
    #[must_use]
    pub fn split_above(&mut self, n: u32) -> Self {
        let above = self.above(n);
        if let Some(first) = above.first() {
            self.remove_range(first..=u32::MAX);
        }
        above
    }

    /// Puts `new`, at most two, in the place of the runs from `from` to before `to`. All keep their distance.
    fn exchange(&mut self, (chunk, at): At, to: At, new: impl Iterator<Item = Span>) {
        if self.chunks.is_empty() {
            self.chunks.push(Vec::new());
        }
        let before = members(&self.chunks[chunk]);
        // The start of a chunk is the end of the one before.
        let (last, mut end) = if to.1 == 0 && to.0 > chunk { (to.0 - 1, self.chunks[to.0 - 1].len()) } else { to };
        if last > chunk {
            // Those that lose some of their runs become one.
            let rest = self.chunks[last].split_off(end);
            self.chunks.drain(chunk + 1..=last);
            self.chunks[chunk].splice(at.., rest);
            end = at;
        }
        let spans = &mut self.chunks[chunk];
        spans.splice(at..end, new);
        recount(spans, at);
        self.divide(chunk);
        if last == chunk && self.chunks.len() == self.sums.len() {
            self.adjust(chunk, members(&self.chunks[chunk]).wrapping_sub(before));
        } else {
            self.add_up();
        }
    }

    /// Two chunks in place of one that has become too long; none in place of one that has become empty.
    fn divide(&mut self, chunk: usize) {
        let is_last = chunk + 1 == self.chunks.len();
        let spans = &mut self.chunks[chunk];
        if spans.is_empty() {
            self.chunks.remove(chunk);
        } else if spans.len() > MAX_RUNS {
            // What is appended to fills its chunks.
            let mut further = spans.split_off(if is_last { MAX_RUNS } else { spans.len() / 2 });
            recount(&mut further, 0);
            self.chunks.insert(chunk + 1, further);
        }
    }

    /// The `k`-th member, counted from 1 in ascending order.
    #[must_use]
    pub fn nth(&self, k: u32) -> Option<u32> {
        let span = self.previous(self.find_counted(|span| span.before < k))?;
        (k <= span.upto()).then(|| span.first + (k - span.before - 1))
    }

    /// How many members are smaller than `n`.
    #[must_use]
    pub fn rank(&self, n: u32) -> u32 {
        self.upto(n.saturating_sub(1))
    }

    /// How many members are not larger than `n`.
    #[must_use]
    pub fn upto(&self, n: u32) -> u32 {
        let span = self.previous(self.find(|span| span.first <= n));
        span.map_or(0, |span| Span { last: span.last.min(n), ..span }.upto())
    }

    /// The `k`-th number, counted from 1, that is not a member; `None` when it would be above [`u32::MAX`].
    #[must_use]
    pub fn nth_absent(&self, k: u32) -> Option<u32> {
        // Runs behind fewer than k absent numbers lie before the k-th.
        let span = self.previous(self.find_counted(|span| span.first - 1 - span.before < k));
        k.checked_add(span.map_or(0, Span::upto))
    }

    /// Where the run of numbers that are no members, which `n` is in, ends.
    #[must_use]
    pub fn absent_until(&self, n: u32) -> u32 {
        self.get(self.find(|span| span.first < n)).map_or(u32::MAX, |span| span.first - 1)
    }

    /// The members above `n`.
    #[must_use]
    pub fn above(&self, n: u32) -> Self {
        n.checked_add(1).map_or_else(Self::new, |first| self.from(first).collect())
    }

    /// The runs of members from `n` on, ascending.
    pub fn from(&self, n: u32) -> impl Iterator<Item = RangeInclusive<u32>> + '_ {
        let (chunk, at) = self.find(|span| span.last < n);
        let spans = self.chunks.get(chunk..).unwrap_or_default().iter().flatten();
        spans.skip(at).map(move |span| span.first.max(n)..=span.last)
    }

    /// The runs of members in a range, ascending.
    pub fn within(&self, range: RangeInclusive<u32>) -> impl Iterator<Item = RangeInclusive<u32>> + '_ {
        let (first, last) = range.into_inner();
        self.from(first).map(move |run| *run.start()..=last.min(*run.end())).take_while(|run| !run.is_empty())
    }

    /// The first so many members; all, if there are no more.
    #[must_use]
    pub fn first_few(&self, count: u32) -> Self {
        let next = count.checked_add(1).and_then(|next| self.nth(next));
        self.within(1..=next.map_or(u32::MAX, |next| next - 1)).collect()
    }

    /// Takes out the last so many members, and gives them; all, if there are no more.
    #[must_use]
    pub fn take_last(&mut self, count: u32) -> Self {
        let left = self.len().saturating_sub(count);
        self.split_above(self.nth(left).unwrap_or(0))
    }

    /// Members that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Self::new();
        let mut holes = other.spans().peekable();
        for (mut first, last) in self.spans().map(RangeInclusive::into_inner) {
            while let Some(hole) = holes.next_if(|hole| *hole.end() < last) {
                left.insert_range(first..=hole.start() - 1);
                first = first.max(hole.end() + 1);
            }
            // The next one ends with the run, or behind it; it may reach into others.
            left.insert_range(first..=holes.peek().map_or(last, |hole| last.min(hole.start() - 1)));
        }
        left
    }

    /// Members that are in `other`, too.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        // O(log runs) for each run of the one that has fewer, and for what is found.
        let (few, many) = if self.runs() < other.runs() { (self, other) } else { (other, self) };
        few.spans().flat_map(|span| many.within(span)).collect()
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.spans().flatten()
    }

    /// The runs of members, ascending, none touching the next.
    pub fn spans(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u32>> + '_ {
        self.chunks.iter().flatten().map(|span| span.first..=span.last)
    }
}

impl Extend<u32> for Ranges {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, numbers: T) {
        numbers.into_iter().for_each(|n| self.insert_range(n..=n));
    }
}

impl FromIterator<u32> for Ranges {
    fn from_iter<T: IntoIterator<Item = u32>>(numbers: T) -> Self {
        numbers.into_iter().map(|n| n..=n).collect()
    }
}

/// Of runs in any order, which may overlap.
impl FromIterator<RangeInclusive<u32>> for Ranges {
    fn from_iter<T: IntoIterator<Item = RangeInclusive<u32>>>(runs: T) -> Self {
        let mut set = Self::new();
        runs.into_iter().for_each(|run| set.insert_range(run));
        set
    }
}

impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        self.spans().eq(other.spans())
    }
}

impl Eq for Ranges {}

/// `7`, or `1:3`.
pub(super) struct Run(pub(super) u32, pub(super) u32);

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == self.1 { write!(f, "{}", self.0) } else { write!(f, "{}:{}", self.0, self.1) }
    }
}

/// As a `sequence-set` (RFC 9051 section 9): `1:3,7`. The empty set, which is none, as nothing.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, span) in self.spans().enumerate() {
            write!(f, "{}{}", if at > 0 { "," } else { "" }, Run(*span.start(), *span.end()))?;
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
                prop_assert_eq!(set.upto(n) as usize, model.range(..=n).count());
                prop_assert_eq!(set.above(n), model.iter().copied().filter(|m| *m > n).collect::<Ranges>());
                prop_assert_eq!(set.first_few(n), model.iter().copied().take(n as usize).collect::<Ranges>());
                let mut rest = set.clone();
                let last = rest.take_last(n);
                prop_assert_eq!(last.len(), n.min(set.len()));
                prop_assert!(rest.last().is_none_or(|rest| last.first().is_none_or(|last| rest < last)));
                rest.insert_all(&last);
                prop_assert_eq!(&rest, &set);
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
            let (mut all, mut less) = (a.clone(), a.clone());
            all.insert_all(&b);
            prop_assert_eq!(all, a_model.union(&b_model).copied().collect::<Ranges>());
            less.remove_all(&b);
            prop_assert_eq!(less, a.difference(&b));
        }

        #[test]
        fn order_does_not_matter(runs in vec((number(), 0u32..9), 0..60)) {
            let runs: Vec<_> = runs.into_iter().map(|(first, more)| (first, first.saturating_add(more))).collect();
            let members = runs.iter().flat_map(|(first, last)| *first..=*last).collect::<Ranges>();
            prop_assert_eq!(members.runs(), members.spans().count());
            prop_assert!(members.chunks.iter().all(|chunk| (1..=MAX_RUNS).contains(&chunk.len())));
            prop_assert_eq!(Ranges::from_runs(runs), members);
        }

        #[test]
        fn is_printed_as_a_sequence_set(changes in changes()) {
            let (set, _) = build(&changes);
            let read = crate::imap::sequence::SequenceSet::parse(set.to_string().as_bytes());
            match read {
                Ok(read) => prop_assert_eq!(read.resolve(1), set.clone()),
                Err(_) => prop_assert!(set.is_empty()),
            }
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
