//! What is known of the flags of a mailbox's messages, so that only what changed is told to the others.

use std::collections::HashMap;

use bytes::Bytes;

/// Different sets of flags remembered by a shadow; with more, all is forgotten once. Mailboxes use some dozens.
const MAX_SETS: usize = 60_000;

/// In place of a mod-sequence. (Real ones go up to 2^63 - 1.)
const OWED: u64 = u64::MAX;

/// Which flags each message had when a backend last told them, by message number. Two octets a message.
#[derive(Debug, Clone, Default)]
pub struct Shadow {
    /// Of message `n` at `n - 1`: one more than the place in `sets`; 0 or none: not known.
    known: Vec<u16>,
    /// Their mod-sequences, where they are told (RFC 7162): 0 where they are not known, [`OWED`] where members are to be told.
    modseqs: Vec<u64>,
    sets: Vec<Bytes>,
    places: HashMap<Bytes, u16>,
    /// All was forgotten once: what is not known may have been told all the same.
    forgot: bool,
    /// Of the first so many messages, those whose mod-sequence is not known have none above this.
    settled: (u32, u64),
}

impl Shadow {
    /// The flags of message `number`, if they are known: as by [`normal`].
    #[must_use]
    pub fn flags(&self, number: u32) -> Option<&Bytes> {
        let place = *self.known.get(index(number)?)?;
        self.sets.get(usize::from(place).checked_sub(1)?)
    }

    /// Notes the flags of message `number` (as by [`normal`]). `Some(true)`: they were known, and were others.
    /// `Some(false)`: they were known, and the same.
    pub fn learn(&mut self, number: u32, flags: &Bytes) -> Option<bool> {
        let before = self.flags(number).map(|known| known != flags).or(self.forgot.then_some(true));
        if before == Some(false) {
            return before;
        }
        let place = self.place(flags);
        if let Some(at) = index(number) {
            if self.known.len() <= at {
                self.known.resize(at + 1, 0);
            }
            self.known[at] = place;
        }
        before
    }

    /// The mod-sequence of message `number`, if it is known.
    #[must_use]
    pub fn modseq(&self, number: u32) -> Option<u64> {
        self.modseqs.get(index(number)?).copied().filter(|modseq| !matches!(*modseq, 0 | OWED))
    }

    /// There are so many messages, and everything up to this mod-sequence was told. A member may know flags that were never
    /// told here: from another time, with the mod-sequence up to which they hold (RFC 7162 section 6).
    pub fn settle(&mut self, messages: u32, modseq: u64) {
        self.settled = (messages, modseq);
    }

    /// The mod-sequence of [`Shadow::settle`], if there was one.
    #[must_use]
    pub fn settled(&self) -> Option<u64> {
        Some(self.settled.1).filter(|modseq| *modseq > 0)
    }

    /// Notes the mod-sequence of message `number`. True: it has changed, or was owed.
    pub fn learn_modseq(&mut self, number: u32, modseq: u64) -> bool {
        let Some(at) = index(number) else { return false };
        if self.modseqs.len() <= at {
            self.modseqs.resize(at + 1, 0);
        }
        let before = std::mem::replace(&mut self.modseqs[at], modseq);
        let (messages, settled) = self.settled;
        before != modseq && (before != 0 || number <= messages && modseq > settled)
    }

    /// Members are to be told the flags of this message with its mod-sequence, which is to be asked for first.
    pub fn owe(&mut self, number: u32) {
        self.learn_modseq(number, OWED);
    }

    /// The messages of which [`Shadow::owe`] says so.
    pub fn owed(&self) -> impl Iterator<Item = u32> {
        (1..).zip(&self.modseqs).filter(|(_, modseq)| **modseq == OWED).map(|(number, _)| number)
    }

    /// What is owed still cannot be had.
    pub fn forgive(&mut self) {
        self.modseqs.iter_mut().filter(|modseq| **modseq == OWED).for_each(|modseq| *modseq = 0);
    }

    fn place(&mut self, flags: &Bytes) -> u16 {
        if let Some(place) = self.places.get(flags) {
            return *place;
        }
        if self.sets.len() >= MAX_SETS {
            *self = Self { forgot: true, settled: self.settled, ..Self::default() };
        }
        // A copy of its own: what was given may be part of a long reply.
        let flags = Bytes::copy_from_slice(flags);
        self.sets.push(flags.clone());
        let place = u16::try_from(self.sets.len()).unwrap_or(u16::MAX);
        self.places.insert(flags, place);
        place
    }

    /// Message `number` is gone; those behind it move up.
    pub fn expunge(&mut self, number: u32) {
        if let Some(at) = index(number).filter(|at| *at < self.known.len()) {
            self.known.remove(at);
        }
        if let Some(at) = index(number).filter(|at| *at < self.modseqs.len()) {
            self.modseqs.remove(at);
        }
        self.settled.0 -= u32::from((1..=self.settled.0).contains(&number));
    }

    /// The numbers of the messages whose flags are known, as ascending ranges.
    #[must_use]
    pub fn ranges(&self) -> Vec<(u32, u32)> {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for (number, _) in (1..).zip(&self.known).filter(|(_, place)| **place != 0) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        ranges
    }
}

fn index(number: u32) -> Option<usize> {
    usize::try_from(number).ok()?.checked_sub(1)
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
        shadow.expunge(1);
        assert_eq!((shadow.flags(2), shadow.flags(3)), (Some(&seen), None));
        shadow.expunge(2);
        shadow.expunge(9);
        assert_eq!(shadow.ranges(), []);
    }

    #[test]
    fn what_has_changed_since_all_was_told() {
        let mut shadow = Shadow::default();
        assert!(!shadow.learn_modseq(1, 9));
        shadow.settle(3, 10);
        shadow.expunge(2);
        assert!(!shadow.learn_modseq(2, 10));
        assert!(shadow.learn_modseq(2, 11));
        assert!(!shadow.learn_modseq(2, 11));
        // It has come since: nobody knows anything of it.
        assert!(!shadow.learn_modseq(3, 11));
        assert!(!shadow.learn_modseq(1, 9));
    }

    #[test]
    fn ranges_of_what_is_known() {
        let mut shadow = Shadow::default();
        for number in [7, 1, 2, 4] {
            shadow.learn(number, &normal(b"x"));
        }
        assert_eq!(shadow.ranges(), [(1, 2), (4, 4), (7, 7)]);
    }

    #[test]
    fn order_and_case_of_flags_do_not_matter() {
        assert_eq!(normal(b"(\\Seen  $Junk \\Recent)"), normal(b"$Junk \\Seen"));
        assert_eq!(stored(b"\\Seen", b'+', b"\\Flagged"), normal(b"(\\Flagged \\Seen)"));
        assert_eq!(stored(b"\\Seen a", b'-', b"\\SEEN"), normal(b"a"));
        assert_eq!(stored(b"\\Seen a", b'F', b"b"), normal(b"b"));
    }
}
