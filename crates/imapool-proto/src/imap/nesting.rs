//! What of a line an octet is part of: quotes, the brackets of a section, parentheses.

/// See the module. It begins outside all of them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Nesting {
    /// Parentheses within each other.
    pub(super) depth: u32,
    /// In a quoted string.
    pub(super) quoted: bool,
    /// Behind a backslash in it.
    escaped: bool,
    /// In the brackets of `BODY[…]`.
    section: bool,
}

impl Nesting {
    /// In no string, and in no section.
    pub(super) fn is_plain(self) -> bool {
        !self.quoted && !self.section
    }

    /// How many octets at the front of these change nothing of it, and end no word.
    pub(super) fn inert(self, octets: &[u8]) -> usize {
        let ends = |octet: &u8| matches!(octet, b' ' | b'(' | b')' | b'"' | b'[' | b']' | b'\r' | b'\n');
        let end = match () {
            () if self.escaped => Some(0),
            () if self.quoted => memchr::memchr2(b'"', b'\\', octets),
            () if self.section => memchr::memchr2(b']', b'"', octets),
            () => octets.iter().position(ends),
        };
        end.unwrap_or(octets.len())
    }

    /// Goes past an octet.
    pub(super) fn pass(&mut self, octet: u8) {
        match octet {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            _ if self.quoted => {}
            b']' => self.section = false,
            _ if self.section => {}
            // Farther in it stands for itself, in a flag say.
            b'[' => self.section = self.depth <= 1,
            b'(' => self.depth = self.depth.saturating_add(1),
            b')' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// The same where there are no sections: in ESEARCH a bracket is part of a tag.
    pub(super) fn pass_in_esearch(&mut self, octet: u8) {
        self.pass(octet);
        self.section = false;
    }
}

/// The length of the quoted string at the start of `text`, quotes included.
pub(super) fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut nesting = Nesting::default();
    let closes = |octet: &u8| {
        nesting.pass(*octet);
        !nesting.quoted
    };
    text.iter().position(closes).map(|end| end + 1)
}

/// Whether a quoted string begins in `text` and does not end there.
pub(super) fn open_quote(text: &[u8]) -> bool {
    let mut nesting = Nesting::default();
    text.iter().for_each(|octet| nesting.pass(*octet));
    nesting.quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings() {
        for (text, len) in
            [("\"a\" b", Some(3)), ("\"a\\\"b\\\\\"\"", Some(8)), ("\"(]\"", Some(4)), ("\"a", None), ("\"a\\\"", None)]
        {
            assert_eq!(quoted_len(text.as_bytes()), len, "{text}");
        }
        assert!(open_quote(b"a \"b\" \"") && !open_quote(b"a \"b\\\"\""));
    }

    #[test]
    fn what_is_in_brackets_or_quotes_is_no_parenthesis() {
        for (text, depth, is_plain) in [
            ("(BODY[HEADER (", 1, false),
            ("(BODY[HEADER (\"]", 1, false),
            ("(BODY[HEADER (x)] (", 2, true),
            ("(FLAGS ([", 2, true),
            ("(\"(", 1, false),
            (")(", 1, true),
        ] {
            let mut nesting = Nesting::default();
            text.bytes().for_each(|octet| nesting.pass(octet));
            assert_eq!((nesting.depth, nesting.is_plain()), (depth, is_plain), "{text}");
        }
    }
}
