//! What is known of the flags of a mailbox's messages, so that only what changed is told to the others.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::imap::ranges::Ranges;

/// Different sets of flags remembered by a shadow; with more, all is forgotten once. Mailboxes use some dozens.
const MAX_SETS: usize = 60_000;

/// Messages in a block: what is told of one costs memory for so many.
const BLOCK: u32 = 64;

/// Octets that a shadow may take; with more, all is forgotten. Of a message whose neighbours are known, too, two
/// octets are kept, ten with its mod-sequence.
const MAX_OCTETS: usize = if cfg!(test) { 256 * 1024 } else { 128 * 1024 * 1024 };

/// Of [`BLOCK`] messages that follow each other.
#[derive(Debug, Clone)]
struct Block {
    /// One more than the place in `sets`; 0: not known.
    flags: [u16; BLOCK as usize],
    /// Mod-sequences, where they are told (RFC 7162); 0: not known.
    modseqs: Option<Box<[u64; BLOCK as usize]>>,
}

/// Which flags each message had when a backend last told them, by message number. What it costs depends on how many
/// messages were told of, and how many are gone, never on how many there are said to be.
#[derive(Debug, Clone, Default)]
pub struct Shadow {
    /// Messages that are gone. Each is kept under the number it would have if none had gone ever since.
    gone: Ranges,
    /// By the kept number of their first message, divided by [`BLOCK`].
    blocks: BTreeMap<u32, Block>,
    /// Blocks that have mod-sequences.
    with_modseqs: usize,
    sets: Vec<Bytes>,
    places: BTreeMap<Bytes, u16>,
    /// Members are to be told the flags of these with their mod-sequence.
    owed: Ranges,
    /// All was forgotten once, or flags were told that are not noted here: what is not known may have been told all the
    /// same, of any message.
    pub(super) forgot: bool,
    /// Of the first so many messages, those whose mod-sequence is not known have none above this.
    settled: (u32, u64),
}

impl Block {
    const EMPTY: Self = Self { flags: [0; BLOCK as usize], modseqs: None };
    /// With its place among the others.
    const OCTETS: usize = size_of::<Self>() + 24;
    const MODSEQS: usize = size_of::<[u64; BLOCK as usize]>();
}

/// The block of a kept number, and where in it.
fn place(kept: u32) -> (u32, usize) {
    (kept / BLOCK, (kept % BLOCK) as usize)
}

impl Shadow {
    /// The number under which message `number` is kept.
    fn kept(&self, number: u32) -> Option<u32> {
        self.gone.nth_absent(number).filter(|_| number > 0)
    }

    /// The same the other way round.
    fn number(&self, kept: u32) -> u32 {
        kept - self.gone.rank(kept)
    }

    /// The flags of message `number`, if they are known: as by [`normal`].
    #[must_use]
    pub fn flags(&self, number: u32) -> Option<&Bytes> {
        let (block, at) = place(self.kept(number)?);
        let set = self.blocks.get(&block)?.flags[at];
        self.sets.get(usize::from(set).checked_sub(1)?)
    }

    /// Notes the flags of message `number` (as by [`normal`]). `Some(true)`: they were known, and were others.
    /// `Some(false)`: they were known, and the same.
    pub fn learn(&mut self, number: u32, flags: &Bytes) -> Option<bool> {
        let before = self.flags(number).map(|known| known != flags).or(self.forgot.then_some(true));
        if before == Some(false) {
            return before;
        }
        let set = self.set(flags);
        if let Some((block, at)) = self.block(number) {
            block.flags[at] = set;
        }
        before
    }

    /// Where message `number` is noted.
    fn block(&mut self, number: u32) -> Option<(&mut Block, usize)> {
        if self.octets() > MAX_OCTETS || number > 0 && self.kept(number).is_none() {
            self.forget(false);
        }
        let (block, at) = place(self.kept(number)?);
        Some((self.blocks.entry(block).or_insert(Block::EMPTY), at))
    }

    /// How much memory it takes, but for the sets of flags.
    pub fn octets(&self) -> usize {
        let blocks = self.blocks.len() * Block::OCTETS + self.with_modseqs * Block::MODSEQS;
        blocks + self.gone.octets() + self.owed.octets()
    }

    fn forget(&mut self, sets: bool) {
        let old = std::mem::take(self);
        let (sets, places) = if sets { Default::default() } else { (old.sets, old.places) };
        *self = Self { forgot: true, settled: old.settled, sets, places, ..Self::default() };
    }

    /// The mod-sequence of message `number`, if it is known.
    #[must_use]
    pub fn modseq(&self, number: u32) -> Option<u64> {
        let kept = self.kept(number)?;
        let (block, at) = place(kept);
        let modseq = self.blocks.get(&block)?.modseqs.as_ref()?[at];
        (modseq > 0 && !self.owed.contains(kept)).then_some(modseq)
    }

    /// There are so many messages, and everything up to this mod-sequence was told. A member may know flags that were
    /// never told here: from another time, with the mod-sequence up to which they hold (RFC 7162 section 6).
    pub fn settle(&mut self, messages: u32, modseq: u64) {
        self.settled = (messages, modseq);
    }

    /// The mod-sequence of [`Shadow::settle`], if there was one.
    pub fn settled(&self) -> Option<u64> {
        Some(self.settled.1).filter(|modseq| *modseq > 0)
    }

    /// Notes the mod-sequence of message `number`. True: it has changed, or was owed.
    pub fn learn_modseq(&mut self, number: u32, modseq: u64) -> bool {
        let (messages, settled) = self.settled;
        let Some((block, at)) = self.block(number) else { return false };
        let first = block.modseqs.is_none();
        let modseqs = block.modseqs.get_or_insert_with(|| Box::new([0; BLOCK as usize]));
        let before = std::mem::replace(&mut modseqs[at], modseq);
        self.with_modseqs += usize::from(first);
        let owed = self.kept(number).is_some_and(|kept| self.owed.remove(kept));
        owed || before != modseq && (before != 0 || number <= messages && modseq > settled)
    }

    /// The mod-sequence of message `number` is another now, and not known.
    pub fn outdate(&mut self, number: u32) {
        if let Some(kept) = self.kept(number).filter(|_| self.with_modseqs > 0) {
            self.forget_modseq(kept);
        }
    }

    fn forget_modseq(&mut self, kept: u32) {
        let (block, at) = place(kept);
        if let Some(modseqs) = self.blocks.get_mut(&block).and_then(|block| block.modseqs.as_mut()) {
            modseqs[at] = 0;
        }
    }

    /// Members are to be told the flags of this message with its mod-sequence, which is to be asked for first.
    pub fn owe(&mut self, number: u32) {
        let kept = self.block(number).is_some().then(|| self.kept(number)).flatten();
        self.owed.extend(kept);
    }

    /// The messages of which [`Shadow::owe`] says so, from message `from` on.
    pub fn owed(&self, from: u32) -> impl Iterator<Item = u32> {
        let first = self.kept(from.max(1)).unwrap_or(u32::MAX);
        self.owed.from(first).flatten().map(|kept| self.number(kept))
    }

    /// What is owed still cannot be had.
    pub fn forgive(&mut self) {
        std::mem::take(&mut self.owed).iter().for_each(|kept| self.forget_modseq(kept));
    }

    fn set(&mut self, flags: &Bytes) -> u16 {
        if let Some(place) = self.places.get(flags) {
            return *place;
        }
        if self.sets.len() >= MAX_SETS {
            self.forget(true);
        }
        // A copy of its own: what was given may be part of a long reply.
        let flags = Bytes::copy_from_slice(flags);
        self.sets.push(flags.clone());
        let place = u16::try_from(self.sets.len()).unwrap_or(u16::MAX);
        self.places.insert(flags, place);
        place
    }

    /// These messages are gone, all at once; those behind them move up.
    pub fn expunge(&mut self, numbers: &Ranges) {
        self.settled.0 -= numbers.upto(self.settled.0);
        // The last first, which does not change the numbers of those before.
        for span in numbers.spans().rev() {
            let Some(first) = self.kept(*span.start()) else { continue };
            let last = self.kept(*span.end()).unwrap_or(u32::MAX);
            self.gone.insert_range(first..=last);
            self.owed.remove_range(first..=last);
            self.clear(first, last);
        }
        if self.octets() > MAX_OCTETS {
            self.forget(false);
        } else if self.blocks.is_empty() && self.owed.is_empty() {
            // Nobody is there whose number would change.
            self.gone = Ranges::new();
        }
    }

    /// Nothing is known of these any more, by the numbers under which they are kept.
    fn clear(&mut self, first: u32, last: u32) {
        let ((head, from), (tail, to)) = (place(first), place(last));
        // Of those in between, each is taken out once.
        while let Some((&between, _)) = self.blocks.range(head..=tail).find(|(at, _)| **at != head && **at != tail) {
            let taken = self.blocks.remove(&between);
            self.with_modseqs -= usize::from(taken.is_some_and(|block| block.modseqs.is_some()));
        }
        for (at, Block { flags, modseqs }) in self.blocks.range_mut(head..=tail) {
            let (from, to) = (if *at == head { from } else { 0 }, if *at == tail { to + 1 } else { BLOCK as usize });
            flags[from..to].fill(0);
            modseqs.iter_mut().for_each(|modseqs| modseqs[from..to].fill(0));
        }
    }

    /// The numbers of the messages whose flags are known, from message `from` on.
    pub fn known(&self, from: u32) -> impl Iterator<Item = u32> {
        let first = self.kept(from.max(1)).unwrap_or(u32::MAX);
        let known = self.blocks.range(first / BLOCK..).flat_map(move |(block, Block { flags, .. })| {
            let all = (block * BLOCK..=block * BLOCK + (BLOCK - 1)).zip(flags);
            all.filter(move |(kept, set)| **set != 0 && *kept >= first).map(|(kept, _)| kept)
        });
        // How many are gone before it is the same for all up to the next that is gone.
        let (mut gone, mut until) = (0, 0);
        known.map(move |kept| {
            if kept > until {
                (gone, until) = (self.gone.rank(kept), self.gone.absent_until(kept));
            }
            kept - gone
        })
    }
}

/// A list of flags (with or without its parentheses) in one order and spelling, without \Recent, which is told to one
/// session only: what can be compared.
#[must_use]
pub fn normal(flags: &[u8]) -> Bytes {
    let flags = flags.strip_prefix(b"(").unwrap_or(flags);
    let flags = flags.strip_suffix(b")").unwrap_or(flags);
    let mut words: Vec<&[u8]> = flags
        .split(|b| *b == b' ')
        .filter(|word| !word.is_empty() && !word.eq_ignore_ascii_case(b"\\Recent"))
        .collect();
    words.sort_unstable_by_key(|word| word.to_ascii_lowercase());
    words.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    words.join(&b' ').into()
}

/// What a STORE makes of `before` (both as by [`normal`]): `sign` is `+`, `-`, or anything else for replacing.
#[must_use]
pub fn stored(before: &[u8], sign: u8, given: &[u8]) -> Bytes {
    let words = |text: &'_ [u8]| -> Vec<Vec<u8>> {
        text.split(|b| *b == b' ').filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let given = words(given);
    let result: Vec<Vec<u8>> = match sign {
        b'+' => words(before).into_iter().chain(given).collect(),
        b'-' => words(before).into_iter().filter(|w| !given.iter().any(|g| g.eq_ignore_ascii_case(w))).collect(),
        _ => given,
    };
    normal(&result.join(&b' '))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_changes_are_news() {
        let mut shadow = Shadow::default();
        let (seen, none) = (normal(b"(\\Seen)"), normal(b"(\\Recent)"));
        assert_eq!(shadow.learn(3, &none), None);
        assert_eq!(shadow.learn(3, &normal(b"()")), Some(false));
        assert_eq!(shadow.learn(3, &seen), Some(true));
        assert_eq!(shadow.flags(3), Some(&seen));
        assert_eq!((shadow.flags(2), shadow.flags(4), shadow.flags(0)), (None, None, None));
        shadow.expunge(&[1].into_iter().collect());
        assert_eq!((shadow.flags(2), shadow.flags(3)), (Some(&seen), None));
        shadow.expunge(&[2].into_iter().collect());
        shadow.expunge(&[9].into_iter().collect());
        assert_eq!(shadow.known(1).count(), 0);
    }

    #[test]
    fn what_has_changed_since_all_was_told() {
        let mut shadow = Shadow::default();
        assert!(!shadow.learn_modseq(1, 9));
        shadow.settle(3, 10);
        shadow.expunge(&[2].into_iter().collect());
        assert!(!shadow.learn_modseq(2, 10));
        assert!(shadow.learn_modseq(2, 11));
        assert!(!shadow.learn_modseq(2, 11));
        // It has come since: nobody knows anything of it.
        assert!(!shadow.learn_modseq(3, 11));
        assert!(!shadow.learn_modseq(1, 9));
    }

    /// What a naive list of all messages would know: flags, mod-sequence, whether it is owed.
    type Model = Vec<(Option<Bytes>, Option<u64>, bool)>;

    fn equals(shadow: &Shadow, model: &Model) {
        for (number, (flags, modseq, owed)) in (1..).zip(model) {
            assert_eq!(shadow.flags(number), flags.as_ref(), "{number}");
            assert_eq!(shadow.modseq(number), modseq.filter(|_| !owed), "{number}");
        }
        for from in [1, 2, 30] {
            let known = (1..).zip(model).filter(|(n, (flags, ..))| *n >= from && flags.is_some()).map(|(n, _)| n);
            assert_eq!(shadow.known(from).collect::<Vec<_>>(), known.collect::<Vec<u32>>());
            let owed = (1..).zip(model).filter(|(n, (.., owed))| *n >= from && *owed).map(|(n, _)| n);
            assert_eq!(shadow.owed(from).collect::<Vec<_>>(), owed.collect::<Vec<u32>>());
        }
    }

    proptest! {
        #[test]
        fn is_a_list(ops in vec((0u8..5, 1u32..200, 1u32..90), 1..60)) {
            let (mut shadow, mut model) = (Shadow::default(), Model::new());
            for (op, number, what) in ops {
                model.resize(model.len().max(200), (None, None, false));
                let (of, at) = (&mut model[number as usize - 1], number as usize - 1);
                match op {
                    0 => {
                        let flags = normal(format!("f{what}").as_bytes());
                        prop_assert_eq!(shadow.learn(number, &flags), of.0.as_ref().map(|known| *known != flags));
                        of.0 = Some(flags);
                    }
                    1 => {
                        let new = of.2 || of.1.is_some_and(|known| known != u64::from(what));
                        prop_assert_eq!(shadow.learn_modseq(number, what.into()), new);
                        (of.1, of.2) = (Some(what.into()), false);
                    }
                    2 => {
                        shadow.owe(number);
                        of.2 = true;
                    }
                    3 => {
                        shadow.expunge(&[number].into_iter().collect());
                        model.remove(at);
                    }
                    _ => {
                        let numbers: Ranges = (number..number + what).step_by(1 + what as usize % 3).collect();
                        shadow.expunge(&numbers);
                        let mut at = 1..;
                        model.retain(|_| at.next().is_some_and(|at| !numbers.contains(at)));
                    }
                }
                equals(&shadow, &model);
            }
            shadow.forgive();
            prop_assert_eq!(shadow.owed(1).count(), 0);
        }

        /// Whatever numbers are told of, and however many are gone, memory is bounded.
        #[test]
        fn is_bounded(ops in vec((0u8..4, any::<u32>(), any::<u32>()), 1..2000)) {
            let mut shadow = Shadow::default();
            for (op, number, what) in ops {
                match op {
                    0 => drop(shadow.learn(number, &normal(format!("f{}", what % 9).as_bytes()))),
                    1 => drop(shadow.learn_modseq(number, what.into())),
                    2 => shadow.owe(number),
                    _ => shadow.expunge(&Ranges::from_runs(vec![(number.min(what), number.max(what)), (3, 3)])),
                }
                // One message more than fits, and what is gone since it was last looked at.
                prop_assert!(shadow.octets() < MAX_OCTETS + 2 * Block::OCTETS + Block::MODSEQS + 1000);
            }
        }
    }

    #[test]
    fn order_and_case_of_flags_do_not_matter() {
        assert_eq!(normal(b"(\\Seen  $Junk \\Recent)"), normal(b"$Junk \\Seen"));
        assert_eq!(stored(b"\\Seen", b'+', b"\\Flagged"), normal(b"(\\Flagged \\Seen)"));
        assert_eq!(stored(b"\\Seen a", b'-', b"\\SEEN"), normal(b"a"));
        assert_eq!(stored(b"\\Seen a", b'F', b"b"), normal(b"b"));
    }
}
