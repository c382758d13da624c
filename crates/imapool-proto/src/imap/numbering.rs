//! How one session numbers the messages of a mailbox, where it has not yet been told all that the server has said.
//!
//! A message keeps its number for a session until the session is told of an EXPUNGE before it (RFC 9051 section
//! 2.3.1.2), and new ones are numbered behind all others. So the session's list is the server's, with messages that
//! are gone between, and without the newest.

use std::ops::RangeInclusive;

use super::ranges::Ranges;

/// See the module. Maps the session's numbers to the server's and back, O(log runs of messages that are gone).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbering {
    gone: Ranges,
    known: u32,
    exists: u32,
}

impl Numbering {
    /// `gone`: the session's numbers for messages that are no more; those above `known` do not matter. `known`: how
    /// many messages the session counts, `exists`: how many the server does.
    #[must_use]
    pub fn new(mut gone: Ranges, known: u32, exists: u32) -> Self {
        drop(gone.split_above(known));
        Self { gone, known, exists }
    }

    /// Every number is the same on both sides.
    pub fn is_identity(&self) -> bool {
        self.gone.is_empty() && self.known == self.exists
    }

    /// How many messages the session counts: its last number.
    pub fn known(&self) -> u32 {
        self.known
    }

    /// How many messages the server counts.
    pub fn exists(&self) -> u32 {
        self.exists
    }

    /// The session's numbers for messages that are gone.
    pub fn gone(&self) -> &Ranges {
        &self.gone
    }

    /// The server's number of the last message that both know; 0: there is none.
    pub fn common(&self) -> u32 {
        self.known - self.gone.len()
    }

    /// The server's number for the session's `n`. `None`: the message is gone, or there never was one.
    #[must_use]
    pub fn forward(&self, n: u32) -> Option<u32> {
        ((1..=self.known).contains(&n) && !self.gone.contains(n)).then(|| n - self.gone.rank(n))
    }

    /// The session's number for the server's `m`. `None`: it does not know this message yet.
    #[must_use]
    pub fn back(&self, m: u32) -> Option<u32> {
        (1..=self.common()).contains(&m).then(|| self.gone.nth_absent(m)).flatten()
    }

    /// The server's numbers for those of the session's that are left of a range; between them nothing is missing.
    /// `None`: none is left.
    #[must_use]
    pub fn forward_range(&self, range: RangeInclusive<u32>) -> Option<RangeInclusive<u32>> {
        let (first, last) = (*range.start().max(&1), *range.end().min(&self.known));
        if first > last {
            return None;
        }
        let before = first - 1 - self.gone.rank(first);
        let upto = last - self.gone.upto(last);
        (before < upto).then(|| before + 1..=upto)
    }

    /// How many of the session's numbers in a range are of messages that are gone.
    #[must_use]
    pub fn gone_in(&self, range: RangeInclusive<u32>) -> u32 {
        let (first, last) = (*range.start(), *range.end().min(&self.known));
        if first > last { 0 } else { self.gone.upto(last) - self.gone.rank(first) }
    }

    /// The server's numbers for those of a set that are left.
    #[must_use]
    pub fn forward_set(&self, set: &Ranges) -> Ranges {
        set.spans().filter_map(|span| self.forward_range(span)).collect()
    }

    /// The session's numbers for a range of the server's, in pieces: messages that are gone stand between them. Those
    /// it does not know are left out.
    pub fn back_range(&self, range: RangeInclusive<u32>) -> impl Iterator<Item = RangeInclusive<u32>> + '_ {
        let (first, last) = (*range.start().max(&1), *range.end().min(&self.common()));
        let mut next = Some(first);
        std::iter::from_fn(move || {
            let at = next.filter(|at| *at <= last)?;
            let start = self.gone.nth_absent(at)?;
            let end = self.gone.absent_until(start).min(self.gone.nth_absent(last)?);
            next = at.checked_add(end - start + 1);
            Some(start..=end)
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Some numberings, of at most 20 messages.
    pub(crate) fn numbering() -> impl Strategy<Value = Numbering> {
        (vec(any::<bool>(), 0..20), 0u32..4).prop_map(|(list, new)| {
            let gone: Ranges = (1..).zip(&list).filter(|(_, gone)| **gone).map(|(n, _)| n).collect();
            let (known, left) = (list.len() as u32, list.len() as u32 - gone.len());
            Numbering::new(gone, known, left + new)
        })
    }

    /// The session's numbers of the messages that both know, in the server's order.
    pub(crate) fn shared(numbering: &Numbering) -> Vec<u32> {
        (1..=numbering.known()).filter(|n| !numbering.gone().contains(*n)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn is_a_list_with_holes(numbering in numbering(), a in 0u32..25, b in 0u32..25) {
            let list = shared(&numbering);
            prop_assert_eq!(numbering.common() as usize, list.len());
            for n in 0..30 {
                prop_assert_eq!(numbering.forward(n), list.iter().position(|m| *m == n).map(|at| at as u32 + 1));
                let back = n.checked_sub(1).and_then(|at| list.get(at as usize)).copied();
                prop_assert_eq!(numbering.back(n), back);
            }
            let mapped: Vec<u32> = (a..=b).filter_map(|n| numbering.forward(n)).collect();
            prop_assert_eq!(numbering.forward_range(a..=b).into_iter().flatten().collect::<Vec<_>>(), mapped.clone());
            prop_assert_eq!(numbering.forward_set(&(a..=b).collect()), mapped.into_iter().collect::<Ranges>());
            let gone = (a..=b).filter(|n| numbering.gone().contains(*n)).count();
            prop_assert_eq!(numbering.gone_in(a..=b) as usize, gone);
            let pieces: Vec<_> = numbering.back_range(a..=b).collect();
            let numbers: Vec<u32> = pieces.iter().cloned().flatten().collect();
            prop_assert_eq!(&numbers, &(a..=b).filter_map(|m| numbering.back(m)).collect::<Vec<_>>());
            prop_assert_eq!(pieces, numbers.into_iter().collect::<Ranges>().spans().collect::<Vec<_>>());
        }
    }

    #[test]
    fn in_step() {
        let numbering = Numbering::new(Ranges::from_iter([9]), 7, 7);
        assert!(numbering.is_identity(), "what is above known does not count");
        assert_eq!((numbering.forward(7), numbering.forward(8), numbering.back(8)), (Some(7), None, None));
        assert!(!Numbering::new(Ranges::new(), 7, 8).is_identity());
    }

    #[test]
    fn the_whole_domain() {
        let numbering = Numbering::new(Ranges::from_iter([1]), u32::MAX, u32::MAX);
        assert_eq!(numbering.back_range(1..=u32::MAX).collect::<Vec<_>>(), [2..=u32::MAX]);
        assert_eq!(numbering.forward_range(0..=u32::MAX), Some(1..=u32::MAX - 1));
        let numbering = Numbering::new(Ranges::new(), u32::MAX, u32::MAX);
        assert_eq!(numbering.back_range(1..=u32::MAX).collect::<Vec<_>>(), [1..=u32::MAX]);
    }
}
