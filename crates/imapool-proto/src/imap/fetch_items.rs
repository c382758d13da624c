//! What a FETCH reply says of a message's UID, flags and mod-sequence, among all else that it may hold, read while it
//! passes by.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::sequence::decimal;

/// Longest list of flags kept as text, in octets.
const MAX_FLAGS: usize = 4096;

/// Longest item name or number that matters, in octets.
const MAX_WORD: usize = 24;

/// A message's flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// With parentheses and without `\Recent`, which is each session's own (RFC 3501 section 2.3.2); `None` when they
    /// are longer than 4 KiB.
    pub text: Option<Bytes>,
}

/// What a FETCH reply held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Items {
    /// UID
    pub uid: Option<u32>,
    /// MODSEQ (RFC 7162 section 3.1.4)
    pub modseq: Option<u64>,
    /// FLAGS
    pub flags: Option<Flags>,
    /// Anything else.
    pub other: bool,
}

impl Items {
    /// What is news of it for others: `(FLAGS (\Seen) UID 5 MODSEQ (7))`. `None`: the flags are not in it, or too long.
    pub fn news(&self) -> Option<Bytes> {
        Some(self.with_flags(self.flags.as_ref()?.text.as_ref()?))
    }

    /// The same, with these flags (with their parentheses).
    #[must_use]
    pub fn with_flags(&self, flags: &[u8]) -> Bytes {
        let mut news = BytesMut::from(&b"(FLAGS "[..]);
        news.put_slice(flags);
        if let Some(uid) = self.uid {
            news.put_slice(format!(" UID {uid}").as_bytes());
        }
        if let Some(modseq) = self.modseq {
            news.put_slice(format!(" MODSEQ ({modseq})").as_bytes());
        }
        news.put_u8(b')');
        news.freeze()
    }
}

/// Whose value comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Item {
    /// A name comes next.
    #[default]
    None,
    Uid,
    Flags,
    ModSeq,
    Other,
}

/// See the module. Takes what follows the word FETCH; memory is bounded.
#[derive(Debug, Default)]
pub struct FetchScanner {
    items: Items,
    item: Item,
    depth: u32,
    /// In the brackets of `BODY[…]`.
    section: bool,
    quoted: bool,
    escaped: bool,
    word: Word,
    in_word: bool,
    flags: FlagList,
}

/// A name or number, up to the length that matters.
#[derive(Debug, Default)]
struct Word {
    octets: [u8; MAX_WORD],
    len: usize,
}

impl Word {
    fn push(&mut self, octets: &[u8]) {
        if let Some(free) = self.octets.get_mut(self.len..self.len + octets.len()) {
            free.copy_from_slice(octets);
            self.len += octets.len();
        } else {
            // No name or number that matters is as long.
            (self.octets[0], self.len) = (0, MAX_WORD);
        }
    }

    fn octets(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

#[derive(Debug, Default)]
struct FlagList {
    text: Vec<u8>,
    too_long: bool,
    /// Where in `text` the flag at hand starts.
    start: usize,
}

impl FetchScanner {
    /// Octets of its lines.
    pub fn text(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while let Some((octet, more)) = rest.split_first() {
            let plain = match () {
                () if self.quoted => 0,
                () if self.section => memchr::memchr2(b']', b'"', rest).unwrap_or(rest.len()),
                () => rest.iter().position(|octet| self.ends_word(*octet)).unwrap_or(rest.len()),
            };
            if plain == 0 {
                self.octet(*octet);
                rest = more;
            } else {
                if !self.section {
                    self.put(&rest[..plain]);
                }
                rest = &rest[plain..];
            }
        }
    }

    fn ends_word(&self, octet: u8) -> bool {
        matches!(octet, b' ' | b'(' | b')' | b'"' | b'\r' | b'\n') || octet == b'[' && self.depth == 1
    }

    /// A literal stands here, whatever its octets.
    pub fn literal(&mut self) {
        if self.depth == 1 && !self.section {
            self.item = Item::None;
        }
    }

    /// What is in it, as far as it has come.
    pub fn items(&self) -> &Items {
        &self.items
    }

    /// Whether flags are in it, as far as it has come.
    pub fn has_flags(&self) -> bool {
        self.items.flags.is_some() || self.item == Item::Flags
    }

    /// The reply is over: what it held. The scanner is as new.
    pub fn finish(&mut self) -> Items {
        std::mem::take(self).items
    }

    /// One that is in quotes, or ends what is plain.
    fn octet(&mut self, octet: u8) {
        if self.quoted {
            return self.in_quotes(octet);
        }
        match octet {
            b'"' => self.quoted = true,
            b']' if self.section => self.section = false,
            b'[' => self.section = true,
            b'(' => {
                self.end_word();
                self.depth = self.depth.saturating_add(1);
            }
            b')' => {
                self.end_word();
                self.depth = self.depth.saturating_sub(1);
                if self.depth == 1 {
                    self.end_list();
                }
            }
            _ => self.end_word(),
        }
    }

    fn in_quotes(&mut self, octet: u8) {
        match octet {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => {
                self.quoted = false;
                if self.depth == 1 && !self.section {
                    self.item = Item::None;
                }
            }
            _ => {}
        }
    }

    /// Of one word.
    fn put(&mut self, octets: &[u8]) {
        if !self.in_word {
            self.in_word = true;
            self.word.len = 0;
            self.flags.start = self.flags.text.len();
        }
        self.word.push(octets);
        if self.item == Item::Flags && self.depth == 2 {
            self.flags.put(octets);
        }
    }

    fn end_word(&mut self) {
        if !std::mem::take(&mut self.in_word) {
            return;
        }
        match (self.depth, self.item) {
            (1, Item::None) => self.item = self.name(),
            (1, Item::Uid) => {
                self.items.uid = mod_sequence(self.word.octets()).and_then(|n| u32::try_from(n).ok());
                self.item = Item::None;
            }
            (1, _) => self.item = Item::None,
            (2, Item::Flags) => self.flags.end_flag(),
            (2, Item::ModSeq) => self.items.modseq = mod_sequence(self.word.octets()),
            _ => {}
        }
    }

    fn name(&mut self) -> Item {
        match self.word.octets() {
            word if word.eq_ignore_ascii_case(b"UID") => Item::Uid,
            word if word.eq_ignore_ascii_case(b"FLAGS") => Item::Flags,
            word if word.eq_ignore_ascii_case(b"MODSEQ") => Item::ModSeq,
            _ => {
                self.items.other = true;
                Item::Other
            }
        }
    }

    /// The parentheses of a value are closed.
    fn end_list(&mut self) {
        if std::mem::take(&mut self.item) == Item::Flags {
            let FlagList { mut text, too_long, .. } = std::mem::take(&mut self.flags);
            text.insert(0, b'(');
            text.push(b')');
            self.items.flags = Some(Flags { text: (!too_long).then(|| text.into()) });
        }
    }
}

impl FlagList {
    fn put(&mut self, octets: &[u8]) {
        if self.text.len() + octets.len() > MAX_FLAGS {
            self.too_long = true;
            return;
        }
        if self.start == self.text.len() && self.start > 0 {
            self.text.push(b' ');
        }
        self.text.extend_from_slice(octets);
    }

    fn end_flag(&mut self) {
        if self.text[self.start..].trim_ascii_start().eq_ignore_ascii_case(b"\\Recent") {
            self.text.truncate(self.start);
        }
    }
}

/// `mod-sequence-value` (RFC 7162 section 7): from 1 to 2^63 - 1.
#[must_use]
pub fn mod_sequence(digits: &[u8]) -> Option<u64> {
    decimal(digits).filter(|value| (1..=i64::MAX as u64).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `{text}` for a literal.
    fn scan(text: &str, cut: usize) -> Items {
        let mut scanner = FetchScanner::default();
        for (at, part) in text.split(['{', '}']).enumerate() {
            if at % 2 == 1 {
                scanner.text(format!("{{{}}}\r\n", part.len()).as_bytes());
                scanner.literal();
            } else {
                part.as_bytes().chunks(cut).for_each(|piece| scanner.text(piece));
            }
        }
        scanner.finish()
    }

    fn told(text: &str) -> String {
        let items = scan(text, text.len());
        assert_eq!(items, scan(text, 1), "{text}");
        let news = items.news().map_or("-".to_owned(), |news| String::from_utf8(news.to_vec()).unwrap());
        format!("{news} {:?} {:?} {}", items.uid, items.modseq, if items.other { "more" } else { "only" })
    }

    #[test]
    fn items_are_found() {
        for (text, expected) in [
            (" (FLAGS (\\Seen $X))\r\n", "(FLAGS (\\Seen $X)) None None only"),
            (" (FLAGS () UID 7)\r\n", "(FLAGS () UID 7) Some(7) None only"),
            (
                " (uid 7 modseq (12) flags (\\Recent a \\RECENT b \\recent))\r\n",
                "(FLAGS (a b) UID 7 MODSEQ (12)) Some(7) Some(12) only",
            ),
            (" (UID 7 BODY[] {(FLAGS (x))} MODSEQ (3))\r\n", "- Some(7) Some(3) more"),
            (" (BODY[HEADER.FIELDS (UID \"]\" FLAGS)]<0> \"FLAGS (x\\\") UID 9\" UID 4)\r\n", "- Some(4) None more"),
            (" (ENVELOPE (UID FLAGS (UID 8) \"UID\") UID 4)\r\n", "- Some(4) None more"),
            (" (BODY[TEXT] NIL RFC822.SIZE 12 INTERNALDATE \"UID 5\" FLAGS (z))\r\n", "(FLAGS (z)) None None more"),
            (" (X-GM-LABELS (\"UID\" {FLAGS} x) UID 2)\r\n", "- Some(2) None more"),
            (" (UID 99999999999)\r\n", "- None None only"),
            (" (AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAUID UID UID 3)\r\n", "- Some(3) None more"),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn flags_are_told_apart() {
        let flags = |text: &str| scan(&format!(" (FLAGS ({text}))\r\n"), 3).flags.unwrap().text.unwrap();
        assert_eq!(flags("\\Seen $Junk \\Recent"), flags("\\Seen \\recent $Junk"));
        assert_ne!(flags("\\Recen t"), flags("t"));
        assert_ne!(flags("\\Seen"), flags("\\Seen $Junk"));
        assert_ne!(flags("ab c"), flags("a bc"));
        assert_ne!(flags("a"), flags(""));
        let long = scan(&format!(" (FLAGS ({}))", "x".repeat(5000)), 100);
        assert!(long.flags.is_some_and(|flags| flags.text.is_none()));
    }
}
