//! What the server is about to write: text with large pieces of messages in between, which are not copied.

use bytes::{BufMut, Bytes, BytesMut};

use super::personality::{Literals, Quirks};

/// Pieces above this size are kept by reference.
const COPY_BELOW: usize = 4096;

/// Octets to write, in order.
#[derive(Debug, Default)]
pub(super) struct Reply {
    parts: Vec<Bytes>,
    tail: BytesMut,
    literals: Literals,
    pub(super) folded_strings: bool,
    pub(super) odd_structure: bool,
}

impl Reply {
    /// An empty reply of a server with these quirks.
    pub(super) fn with(quirks: &Quirks) -> Self {
        let Quirks { literals, folded_strings, odd_structure, .. } = *quirks;
        Self { literals, folded_strings, odd_structure, ..Self::default() }
    }

    /// Appends text as it is.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.tail.put_slice(text.as_bytes());
        self
    }

    /// Appends octets as they are.
    pub(super) fn raw(&mut self, octets: &[u8]) -> &mut Self {
        self.tail.put_slice(octets);
        self
    }

    /// One untagged line: `* <text>`.
    pub(super) fn untagged(&mut self, text: &str) -> &mut Self {
        self.text("* ").text(text).text("\r\n")
    }

    /// A literal with these octets (RFC 3501 section 4.3).
    pub(super) fn literal(&mut self, octets: &Bytes) -> &mut Self {
        let plus = if self.literals == Literals::Plus { "+" } else { "" };
        self.text(&format!("{{{}{plus}}}\r\n", octets.len()));
        if octets.len() < COPY_BELOW {
            return self.raw(octets);
        }
        let tail = self.tail.split().freeze();
        self.parts.push(tail);
        self.parts.push(octets.clone());
        self
    }

    /// The end of a FETCH of one message.
    pub(super) fn end_of_fetch(&mut self, had_literal: bool) -> &mut Self {
        // The parenthesis stands after the empty line in the reports.
        let line = if had_literal && self.literals == Literals::LineAfter { "\r\n" } else { "" };
        self.text(line).text(")\r\n")
    }

    /// A quoted string, or a literal where quoting cannot carry the octets.
    pub(super) fn string(&mut self, octets: &[u8]) -> &mut Self {
        let line_end = |b: &u8| self.folded_strings && matches!(b, b'\r' | b'\n');
        let quotable =
            octets.len() < 1000 && octets.iter().all(|b| (0x20..0x7f).contains(b) || *b == b'\t' || line_end(b));
        if !quotable {
            return self.text(&format!("{{{}}}\r\n", octets.len())).raw(octets);
        }
        self.tail.put_u8(b'"');
        for &b in octets {
            if matches!(b, b'"' | b'\\') {
                self.tail.put_u8(b'\\');
            }
            self.tail.put_u8(b);
        }
        self.tail.put_u8(b'"');
        self
    }

    /// A string, or NIL.
    pub(super) fn nstring(&mut self, octets: Option<&[u8]>) -> &mut Self {
        match octets {
            Some(octets) => self.string(octets),
            None => self.text("NIL"),
        }
    }

    /// The octets in order.
    pub(super) fn into_parts(mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.parts.push(self.tail.freeze());
        }
        self.parts
    }
}

/// `1:3,5`: ascending UIDs as a set.
pub(super) fn uid_set(uids: &[u32]) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &uid in uids {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == uid => *last = uid,
            _ => ranges.push((uid, uid)),
        }
    }
    let text = |&(a, b): &(u32, u32)| if a == b { a.to_string() } else { format!("{a}:{b}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}
