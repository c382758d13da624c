//! What the server is about to write: text with large pieces of messages in between, which are not copied.

use bytes::{BufMut, Bytes, BytesMut};

/// Pieces above this size are kept by reference.
const COPY_BELOW: usize = 4096;

/// Octets to write, in order.
#[derive(Debug, Default)]
pub(super) struct Reply {
    parts: Vec<Bytes>,
    tail: BytesMut,
}

impl Reply {
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
        self.text(&format!("{{{}}}\r\n", octets.len()));
        if octets.len() < COPY_BELOW {
            return self.raw(octets);
        }
        let tail = self.tail.split().freeze();
        self.parts.push(tail);
        self.parts.push(octets.clone());
        self
    }

    /// A quoted string, or a literal where quoting cannot carry the octets.
    pub(super) fn string(&mut self, octets: &[u8]) -> &mut Self {
        let quotable = octets.len() < 1000 && octets.iter().all(|b| (0x20..0x7f).contains(b) || *b == b'\t');
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
