//! Sets of message numbers or UIDs, kept as ranges: a mailbox of 100,000 messages of which few were ever deleted
//! takes some hundred octets.

use std::fmt;
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

    fn len(self) -> u32 {
        self.last - self.first + 1
    }

    /// Members in this run and those before it.
    fn upto(self) -> u32 {
        self.before + self.len()
    }
}

/// Runs that follow each other, never none.
#[derive(Clone, Default)]
struct Chunk {
    spans: Vec<Span>,
}

impl Chunk {
    /// Its members.
    fn len(&self) -> u32 {
        self.spans.last().map_or(0, |span| span.upto())
    }

    /// Makes `before` of its runs right from run `at` on.
    fn recount(&mut self, at: usize) {
        let mut before = at.checked_sub(1).map_or(0, |last| self.spans[last].upto());
        for span in &mut self.spans[at..] {
            span.before = before;
            before = span.upto();
        }
    }
}

/// Where a run is: its chunk, and its place there.
type At = (usize, usize);

/// A set of numbers from 1 to [`u32::MAX`] (`nz-number`, RFC 9051 section 9). Zero is no member, ever.
///
/// Twelve octets for each run of members, in chunks of up to `MAX_RUNS`. Looking up is O(log runs), and so is adding
/// what is there already; a change moves the runs of one chunk.
#[derive(Clone, Default)]
pub struct Ranges {
    chunks: Vec<Chunk>,
    /// Sums of the chunks' members, as a Fenwick tree.
    sums: Vec<u32>,
}

impl Ranges {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of runs in any order, which may overlap. Where they ascend, O(runs); else they are sorted.
    #[must_use]
    pub fn from_runs(mut runs: Vec<(u32, u32)>) -> Self {
        if !runs.is_sorted() {
            runs.sort_unstable();
        }
        let mut set = Self::new();
        runs.into_iter().for_each(|(first, last)| set.insert_range(first..=last));
        set
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
        self.chunks.iter().map(|chunk| chunk.spans.len()).sum()
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
        self.chunks.last()?.spans.last().map(|span| span.last)
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
        self.sums.extend(self.chunks.iter().map(Chunk::len));
        for at in 1..=self.sums.len() {
            let sum = self.sums[at - 1];
            if let Some(above) = self.sums.get_mut(at + (at & at.wrapping_neg()) - 1) {
                *above += sum;
            }
        }
    }

    /// The first run for which `precedes` does not hold; it holds for those before it only, whatever was counted
    /// before them.
    fn find(&self, precedes: impl Fn(Span) -> bool) -> At {
        let last = |chunk: &Chunk| chunk.spans.last().is_some_and(|span| precedes(*span));
        let chunk = self.chunks.partition_point(last);
        (chunk, self.chunks.get(chunk).map_or(0, |chunk| chunk.spans.partition_point(|span| precedes(*span))))
    }

    /// The same, where what was counted before them matters.
    fn find_counted(&self, precedes: impl Fn(Span) -> bool) -> At {
        let (mut low, mut high) = (0, self.chunks.len());
        while low < high {
            let middle = low.midpoint(high);
            let last = self.get((middle, self.chunks[middle].spans.len() - 1));
            if last.is_some_and(&precedes) { low = middle + 1 } else { high = middle }
        }
        let before = self.before(low);
        let precedes = |span: &Span| precedes(Span { before: before + span.before, ..*span });
        (low, self.chunks.get(low).map_or(0, |chunk| chunk.spans.partition_point(precedes)))
    }

    fn get(&self, (chunk, at): At) -> Option<Span> {
        let span = self.chunks.get(chunk)?.spans.get(at)?;
        Some(Span { before: self.before(chunk) + span.before, ..*span })
    }

    /// The run before a place.
    fn previous(&self, (chunk, at): At) -> Option<Span> {
        match at.checked_sub(1) {
            Some(at) => self.get((chunk, at)),
            None => {
                let chunk = chunk.checked_sub(1)?;
                self.get((chunk, self.chunks[chunk].spans.len().checked_sub(1)?))
            }
        }
    }

    /// Adds `n`; whether it is new.
    pub fn insert(&mut self, n: u32) -> bool {
        let new = n > 0 && !self.contains(n);
        if new {
            self.insert_range(n..=n);
        }
        new
    }

    /// Adds all of `range`; an empty one adds nothing, and neither does zero.
    pub fn insert_range(&mut self, range: RangeInclusive<u32>) {
        let (first, last) = ((*range.start()).max(1), *range.end());
        if first > last {
            return;
        }
        // Those that touch the range become one with it.
        let from = self.find(|span| span.last < first - 1);
        let Some(head) = self.get(from) else { return self.exchange(from, from, &[Span::new(first, last)]) };
        if head.first <= first && last <= head.last {
            return;
        }
        let to = self.find(|span| span.first <= last.saturating_add(1));
        let whole = match self.previous(to).filter(|_| from < to) {
            Some(tail) => Span::new(first.min(head.first), last.max(tail.last)),
            None => Span::new(first, last),
        };
        self.exchange(from, to, &[whole]);
    }

    /// Adds all of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        if other.runs() <= MAX_RUNS {
            return other.spans().for_each(|span| self.insert_range(span));
        }
        let (mut ours, mut theirs) = (self.spans().peekable(), other.spans().peekable());
        let mut all = Self::new();
        while let Some(next) = match (ours.peek(), theirs.peek()) {
            (Some(our), Some(their)) if their.start() < our.start() => theirs.next(),
            (None, _) => theirs.next(),
            _ => ours.next(),
        } {
            all.insert_range(next);
        }
        drop(ours);
        *self = all;
    }

    /// Takes `n` out; whether it was a member.
    pub fn remove(&mut self, n: u32) -> bool {
        let was = self.contains(n);
        if was {
            self.remove_range(n..=n);
        }
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
        match (left, right) {
            (Some(left), Some(right)) => self.exchange(from, to, &[left, right]),
            (Some(rest), None) | (None, Some(rest)) => self.exchange(from, to, &[rest]),
            (None, None) => self.exchange(from, to, &[]),
        }
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
        if let (Some(first), Some(last)) = (above.first(), above.last()) {
            self.remove_range(first..=last);
        }
        above
    }

    /// Puts `new` in the place of the runs from `from` to before `to`. All keep their distance.
    fn exchange(&mut self, from: At, to: At, new: &[Span]) {
        let (mut chunk, mut at) = from;
        if chunk == self.chunks.len() {
            // Behind all others: at the end of the last chunk.
            chunk = chunk.saturating_sub(1);
            match self.chunks.last() {
                Some(last) => at = last.spans.len(),
                None => self.chunks.push(Chunk::default()),
            }
        }
        let (chunks, members) = (self.sums.len(), self.chunks[chunk].len());
        // Else the one behind changes as well.
        let only = to.0 <= chunk || to == (chunk + 1, 0);
        if to.0 > chunk {
            self.chunks[chunk].spans.truncate(at);
            if let Some(last) = self.chunks.get_mut(to.0) {
                last.spans.drain(..to.1);
                last.recount(0);
            }
            self.chunks.drain(chunk + 1..to.0);
        } else {
            self.chunks[chunk].spans.drain(at..to.1);
        }
        self.chunks[chunk].spans.splice(at..at, new.iter().copied());
        self.chunks[chunk].recount(at);
        self.divide(chunk);
        if only && self.chunks.len() == chunks {
            self.adjust(chunk, self.chunks[chunk].len().wrapping_sub(members));
        } else {
            self.add_up();
        }
    }

    /// Two chunks in place of one that has become too long; none in place of one that has become empty.
    fn divide(&mut self, chunk: usize) {
        // What is appended to fills its chunks.
        let kept = if chunk + 1 == self.chunks.len() { MAX_RUNS } else { MAX_RUNS / 2 };
        let spans = &mut self.chunks[chunk].spans;
        if spans.is_empty() {
            self.chunks.remove(chunk);
        } else if spans.len() > MAX_RUNS {
            let mut further = Chunk { spans: spans.split_off(kept) };
            further.recount(0);
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
        let span = self.previous(self.find(|span| span.first < n));
        span.map_or(0, |span| span.before + (span.last.min(n - 1) - span.first + 1))
    }

    /// How many members are not larger than `n`.
    #[must_use]
    pub fn upto(&self, n: u32) -> u32 {
        let span = self.previous(self.find(|span| span.first <= n));
        span.map_or(0, |span| span.before + (span.last.min(n) - span.first + 1))
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
        let mut above = Self::new();
        if let Some(first) = n.checked_add(1) {
            self.from(first).for_each(|span| above.insert_range(span));
        }
        above
    }

    /// The runs of members from `n` on, ascending.
    pub fn from(&self, n: u32) -> impl Iterator<Item = RangeInclusive<u32>> + '_ {
        let (chunk, at) = self.find(|span| span.last < n);
        let spans = self.chunks.get(chunk..).unwrap_or_default().iter().flat_map(|chunk| &chunk.spans);
        spans.skip(at).map(move |span| span.first.max(n)..=span.last)
    }

    /// The runs of members in a range, ascending.
    pub fn within(&self, range: RangeInclusive<u32>) -> impl Iterator<Item = RangeInclusive<u32>> + '_ {
        let (first, last) = range.into_inner();
        let runs =
            self.from(first).map_while(move |run| (*run.start() <= last).then(|| *run.start()..=last.min(*run.end())));
        runs.filter(|run| !run.is_empty())
    }

    /// The first so many members; all, if there are no more.
    #[must_use]
    pub fn first_few(&self, count: u32) -> Self {
        let mut few = Self::new();
        for span in self.spans() {
            let left = count - few.len();
            if left == 0 {
                break;
            }
            few.insert_range(*span.start()..=(*span.end()).min(span.start().saturating_add(left - 1)));
        }
        few
    }

    /// Takes out the last so many members, and gives them; all, if there are no more.
    #[must_use]
    pub fn take_last(&mut self, count: u32) -> Self {
        match self.len().checked_sub(count) {
            None | Some(0) => std::mem::take(self),
            Some(left) => {
                let last = self.nth(left).unwrap_or(0);
                self.split_above(last)
            }
        }
    }

    /// Members that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut left = Self::new();
        let mut holes = other.spans().map(RangeInclusive::into_inner).peekable();
        for (mut first, last) in self.spans().map(RangeInclusive::into_inner) {
            let mut over = false;
            while let Some((from, to)) = holes.peek().copied().filter(|(from, _)| *from <= last) {
                if from > first {
                    left.insert_range(first..=from - 1);
                }
                if to >= last {
                    // It may reach into the next run.
                    over = true;
                    break;
                }
                first = first.max(to + 1);
                holes.next();
            }
            if !over {
                left.insert_range(first..=last);
            }
        }
        left
    }

    /// Members that are in `other`, too.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        // O(log runs) for each run of the one that has fewer, and for what is found.
        let (few, many) = if self.runs() < other.runs() { (self, other) } else { (other, self) };
        let mut both = Self::new();
        few.spans().flat_map(|span| many.within(span)).for_each(|span| both.insert_range(span));
        both
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.spans().flatten()
    }

    /// The runs of members, ascending, none touching the next.
    pub fn spans(&self) -> impl DoubleEndedIterator<Item = RangeInclusive<u32>> + '_ {
        self.chunks.iter().flat_map(|chunk| &chunk.spans).map(|span| span.first..=span.last)
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

impl PartialEq for Ranges {
    fn eq(&self, other: &Self) -> bool {
        self.spans().eq(other.spans())
    }
}

impl Eq for Ranges {}

/// `7`, or `1:3`.
struct Element(RangeInclusive<u32>);

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.start(), self.0.end()) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) => write!(f, "{first}:{last}"),
        }
    }
}

/// As a `sequence-set` (RFC 9051 section 9): `1:3,7`. The empty set, which is none, as nothing.
impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, span) in self.spans().enumerate() {
            f.write_str(if at > 0 { "," } else { "" })?;
            Element(span).fmt(f)?;
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
            prop_assert!(members.chunks.iter().all(|chunk| (1..=MAX_RUNS).contains(&chunk.spans.len())));
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
