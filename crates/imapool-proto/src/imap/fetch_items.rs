//! What a FETCH reply says of a message's UID, flags and mod-sequence, among all else that it may hold, read while it
//! passes by.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::nesting::Nesting;
use super::sequence::decimal;

/// Longest list of flags kept as text, in octets.
const MAX_FLAGS: usize = 4096;

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

/// See the module. Takes what follows the word FETCH, but for the octets of literals; memory is bounded.
#[derive(Debug, Default)]
pub struct FetchScanner {
    items: Items,
    item: Item,
    nesting: Nesting,
    /// Of a name, or of a value: a word, or `(` and the words of a list. One octet more than matters tells that it is
    /// too long.
    text: Vec<u8>,
}

impl FetchScanner {
    /// Octets of its lines.
    pub fn text(&mut self, octets: &[u8]) {
        let mut rest = octets;
        while let Some((octet, behind)) = rest.split_first() {
            match self.nesting.inert(rest) {
                0 => {
                    self.octet(*octet);
                    rest = behind;
                }
                inert => {
                    self.put(&rest[..inert]);
                    rest = &rest[inert..];
                }
            }
        }
    }

    /// Octets that may be part of a word.
    fn put(&mut self, octets: &[u8]) {
        let counts = match self.nesting.depth {
            1 => true,
            2 => matches!(self.item, Item::Flags | Item::ModSeq),
            _ => false,
        };
        if counts && self.nesting.is_plain() {
            let room = MAX_FLAGS + 1 - self.text.len();
            self.text.extend_from_slice(&octets[..octets.len().min(room)]);
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

    fn octet(&mut self, octet: u8) {
        let was_plain = self.nesting.is_plain();
        self.nesting.pass(octet);
        match (octet, self.nesting.depth) {
            // A string is over.
            (b'"', 1) if !was_plain && self.nesting.is_plain() => self.end(),
            _ if !was_plain || !self.nesting.is_plain() => {}
            (b')', 0 | 1) => self.end(),
            (b' ' | b'\r' | b'\n', 1) if self.text.is_empty() => {}
            (b' ' | b'\r' | b'\n', 1) => self.end(),
            (b'(', 2) => {
                if !self.text.is_empty() {
                    self.end();
                }
                self.put(b"(");
            }
            (b'(' | b')', _) => {}
            _ => self.put(&[octet]),
        }
    }

    /// A name or a value is over.
    fn end(&mut self) {
        let text = &self.text[..];
        self.item = match std::mem::take(&mut self.item) {
            Item::None if text.eq_ignore_ascii_case(b"UID") => Item::Uid,
            Item::None if text.eq_ignore_ascii_case(b"FLAGS") => Item::Flags,
            Item::None if text.eq_ignore_ascii_case(b"MODSEQ") => Item::ModSeq,
            Item::None if !text.is_empty() => {
                self.items.other = true;
                Item::Other
            }
            item => {
                self.items.note(item, text);
                Item::None
            }
        };
        self.text.clear();
    }
}

impl Items {
    fn note(&mut self, item: Item, value: &[u8]) {
        match (item, value.strip_prefix(b"(")) {
            (Item::Uid, None) => self.uid = mod_sequence(value).and_then(|n| u32::try_from(n).ok()),
            (Item::ModSeq, Some(value)) => self.modseq = mod_sequence(value),
            (Item::Flags, Some(flags)) => {
                let flags = flags.split(u8::is_ascii_whitespace).filter(|flag| !flag.is_empty());
                let mut text = Vec::with_capacity(value.len() + 1);
                for flag in flags.filter(|flag| !flag.eq_ignore_ascii_case(b"\\Recent")) {
                    text.push(if text.is_empty() { b'(' } else { b' ' });
                    text.extend_from_slice(flag);
                }
                text.extend_from_slice(if text.is_empty() { b"()" } else { b")" });
                self.flags = Some(Flags { text: (value.len() <= MAX_FLAGS).then(|| text.into()) });
            }
            _ => {}
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
