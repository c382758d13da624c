//! Sequence sets of commands and replies (RFC 9051 section 9, `sequence-set`; RFC 3501 section 9).

use std::str::FromStr;

use super::nesting::Nesting;
use super::ranges::Ranges;

/// A number (both ends are the same), or a range, either way round. `None` is `*`: the largest in use. None is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// What stands before the colon.
    pub from: Option<u32>,
    /// What stands after it.
    pub to: Option<u32>,
}

impl Element {
    /// Whether `*` is part of it.
    pub fn has_star(self) -> bool {
        self.from.is_none() || self.to.is_none()
    }

    /// Smaller and larger end where the largest number in use is `star`: `4:2` is the same as `2:4`, `*:4` as `4:*`.
    #[must_use]
    pub fn resolve(self, star: u32) -> (u32, u32) {
        let (a, b) = (self.from.unwrap_or(star), self.to.unwrap_or(star));
        (a.min(b), a.max(b))
    }

    /// Whether no number in it is larger than the largest in use.
    pub(super) fn is_within(self, star: u32) -> bool {
        self.from.max(self.to).is_none_or(|number| number <= star)
    }
}

/// Why a text is no set of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Zero, a number above [`u32::MAX`], nothing between two commas, or something else altogether. A server answers
    /// BAD.
    #[error("malformed sequence set")]
    Malformed,
    /// `$`, the result of the last SEARCH RETURN (SAVE) (RFC 5182): only the connection it ran on knows it.
    #[error("saved search result")]
    SavedResult,
}

/// Reads the elements of a set one by one, in the order they are written. Takes no memory. Nothing follows an error.
pub fn elements(set: &[u8]) -> impl Iterator<Item = Result<Element, SetError>> + '_ {
    // The dollar stands alone (RFC 9051 section 9: `sequence-set =/ seq-last-command`).
    let error = if set == b"$" { SetError::SavedResult } else { SetError::Malformed };
    let mut failed = false;
    set.split(|b| *b == b',').map_while(move |text| {
        let element = (!failed).then(|| element(text).ok_or(error));
        failed |= matches!(element, Some(Err(_)));
        element
    })
}

fn element(text: &[u8]) -> Option<Element> {
    let mut ends =
        text.splitn(2, |b| *b == b':').map(|end| if end == b"*" { Some(None) } else { nz_number(end).map(Some) });
    let from = ends.next()??;
    Some(Element { from, to: ends.next().unwrap_or(Some(from))? })
}

/// `nz-number` (RFC 9051 section 9): digits, the first of them not zero, up to [`u32::MAX`].
#[must_use]
pub fn nz_number(digits: &[u8]) -> Option<u32> {
    decimal(digits).filter(|_| !digits.starts_with(b"0"))
}

/// Digits, and nothing else, as a number that fits.
pub(crate) fn decimal<T: FromStr>(digits: &[u8]) -> Option<T> {
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// `number` with one more digit; what is out of range is no message's number.
pub(crate) fn with_digit(number: Option<u64>, digit: u8) -> Option<u64> {
    Some(number.unwrap_or(0).saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}

/// A set as it was written: its elements, in that order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceSet(pub(super) Vec<Element>);

impl SequenceSet {
    /// Reads a whole text. Memory is at most eight times its length.
    ///
    /// # Errors
    /// See [`SetError`].
    pub fn parse(text: &[u8]) -> Result<Self, SetError> {
        elements(text).collect::<Result<_, _>>().map(Self)
    }

    /// Whether `*` occurs.
    pub fn has_star(&self) -> bool {
        self.0.iter().any(|element| element.has_star())
    }

    /// The numbers it means where the largest in use is `star`; with 0 (nothing is in use) `*` means nothing.
    #[must_use]
    pub fn resolve(&self, star: u32) -> Ranges {
        let runs = self.0.iter().map(|element| element.resolve(star));
        runs.filter(|(first, _)| *first > 0).map(|(first, last)| first..=last).collect()
    }
}

/// Runs of numbers in one reply, as they come, before it is no longer believed: 32 MiB.
const MAX_RUNS: usize = 4 * 1024 * 1024;

/// The numbers that a SEARCH or VANISHED reply, or an item of an ESEARCH reply (RFC 4731 section 3.1), is made of,
/// collected while the line passes by. Memory depends on the runs of numbers alone, and is bounded.
#[derive(Debug, Default)]
pub struct Found {
    /// Of ESEARCH, the item that is looked for.
    item: Option<&'static [u8]>,
    /// What comes next is its value.
    wanted: bool,
    nesting: Nesting,
    /// The first letters of a word.
    word: Vec<u8>,
    from: Option<u64>,
    number: Option<u64>,
    runs: Vec<(u32, u32)>,
    unusable: bool,
    /// Whatever else is there makes all of it unusable.
    only_numbers: bool,
}

impl Found {
    /// For a SEARCH (or SORT) reply.
    #[must_use]
    pub fn list() -> Self {
        Self::default()
    }

    /// For a VANISHED reply, which is nothing but a set of UIDs (RFC 7162 section 3.2.10).
    #[must_use]
    pub fn uids() -> Self {
        Self { only_numbers: true, ..Self::default() }
    }

    /// For an ESEARCH reply: this item (of at most three letters).
    #[must_use]
    pub fn item(name: &'static [u8]) -> Self {
        Self { item: Some(name), ..Self::default() }
    }

    /// What follows the reply's name, piece by piece.
    pub fn text(&mut self, octets: &[u8]) {
        for octet in octets {
            self.octet(*octet);
        }
    }

    /// All that was found; numbers out of range are not. `None`: more than can be, or not what can be.
    #[must_use]
    pub fn finish(mut self) -> Option<Ranges> {
        self.octet(b' ');
        (!self.unusable).then(|| Ranges::from_runs(self.runs))
    }

    fn octet(&mut self, octet: u8) {
        self.unusable |= self.only_numbers && !matches!(octet, b'0'..=b'9' | b':' | b',' | b' ' | b'\r' | b'\n');
        self.nesting.pass_in_esearch(octet);
        match octet {
            b'"' | b'(' | b')' => {}
            // The correlator, (MODSEQ n), PARTIAL.
            _ if self.nesting.depth > 0 || !self.nesting.is_plain() => {}
            b'0'..=b'9' => self.number = with_digit(self.number, octet),
            b':' => self.from = self.number.take(),
            b',' => self.element(),
            b' ' | b'\r' | b'\n' => {
                self.element();
                self.wanted = self.item.is_some_and(|item| self.word.eq_ignore_ascii_case(item));
                self.word.clear();
            }
            _ if self.word.len() < 4 => self.word.push(octet),
            _ => {}
        }
    }

    fn element(&mut self) {
        if let (Some(to), true) = (self.number.take(), self.wanted || self.item.is_none()) {
            let from = self.from.unwrap_or(to);
            if let (Ok(first @ 1..), Ok(last)) = (u32::try_from(from.min(to)), u32::try_from(from.max(to))) {
                self.run(first, last);
            }
        }
        self.from = None;
    }

    fn run(&mut self, first: u32, last: u32) {
        let few = self.runs.len() < MAX_RUNS;
        match self.runs.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(first) => *end = last,
            _ if few => self.runs.push((first, last)),
            _ => self.unusable = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sets() {
        let parse = |text: &str| SequenceSet::parse(text.as_bytes());
        for (text, star, numbers) in [
            ("1", 9, "1"),
            ("*", 9, "9"),
            ("2,4:7,9,12:*", 15, "2,4:7,9,12:15"),
            ("4:2,3:5,6", 9, "2:6"),
            ("*:4", 3, "3:4"),
            ("3291:*", 7, "7:3291"),
            ("*:*,1", 5, "1,5"),
            ("*", 0, ""),
            ("5:*", 0, ""),
            ("4294967295", 1, "4294967295"),
        ] {
            let set = parse(text).unwrap();
            assert_eq!(set.resolve(star).to_string(), numbers, "{text}");
            assert_eq!(set.has_star(), text.contains('*'));
        }
        for text in
            ["", "0", "1,", ",1", "1,,2", "1:", ":1", "1:2:3", "01", "4294967296", "a", "1 ", "$,1", "**", "1:$", "-1"]
        {
            assert_eq!(parse(text), Err(SetError::Malformed), "{text}");
        }
        assert_eq!(parse("$"), Err(SetError::SavedResult));
    }

    #[test]
    fn found_numbers() {
        let esearch = " (TAG \"ALL 7\") UID MIN 2 ALL 2,4:5,9:8 COUNT 5 MODSEQ 7\r\n";
        for (item, text, numbers) in [
            ("", " 3 1 2 9 (MODSEQ 12)\r\n", "1:3,9"),
            ("", " 1:4294967295\r\n", "1:4294967295"),
            ("", " 4294967295,1,0,4294967296,0:0\r\n", "1,4294967295"),
            ("", "\r\n", ""),
            ("", " 42949672961 5", "5"),
            ("ALL", esearch, "2,4:5,8:9"),
            ("MIN", esearch, "2"),
            ("ALL", " (TAG \"x\") UID COUNT 0\r\n", ""),
            ("ALL", " (TAG a[1) ALL 2:5\r\n", "2:5"),
        ] {
            for cut in [1, text.len()] {
                let mut found = if item.is_empty() { Found::list() } else { Found::item(item.as_bytes()) };
                text.as_bytes().chunks(cut).for_each(|piece| found.text(piece));
                assert_eq!(found.finish().unwrap().to_string(), numbers, "{text}");
            }
        }
    }

    #[test]
    fn a_set_of_uids_is_nothing_else() {
        for (text, numbers) in [(" 1,3:5\r\n", Some("1 3:5")), (" 1* BYE\r\n", None), (" 1 (2)\r\n", None)] {
            let mut found = Found::uids();
            found.text(text.as_bytes());
            let told = found.finish().map(|uids| {
                let run = |run: std::ops::RangeInclusive<u32>| match run.start() == run.end() {
                    true => run.start().to_string(),
                    false => format!("{}:{}", run.start(), run.end()),
                };
                uids.spans().map(run).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(told.as_deref(), numbers, "{text}");
        }
    }

    #[test]
    fn too_many_runs_are_not_believed() {
        let mut found = Found::list();
        for _ in 0..=MAX_RUNS / 2 {
            found.text(b"9,7,");
        }
        assert!(found.runs.len() <= MAX_RUNS);
        assert_eq!(found.finish(), None);
    }

    proptest! {
        #[test]
        fn order_and_direction_do_not_matter(
            mut pairs in proptest::collection::vec((1u32..40, 1u32..40), 1..10), star in 1u32..50,
        ) {
            let print = |pairs: &[(u32, u32)]| {
                let texts: Vec<_> = pairs.iter().map(|(a, b)| format!("{a}:{b}")).collect();
                SequenceSet::parse(texts.join(",").as_bytes()).map(|set| set.resolve(star))
            };
            let one = print(&pairs);
            pairs.reverse();
            for pair in &mut pairs {
                *pair = (pair.1, pair.0);
            }
            prop_assert_eq!(one, print(&pairs));
        }
    }
}
