//! A FETCH reply less its MODSEQ (RFC 7162 section 3.1.4), for a session that has not asked for mod-sequences, on a
//! connection that tells them. It is read while it passes by; memory is bounded.

use bytes::{BufMut as _, BytesMut};

use super::nesting::Nesting;

/// The item, with what has to follow.
const ITEM: &[u8] = b"MODSEQ ";

/// See the module. Takes what follows the word FETCH, but for the octets of literals.
#[derive(Debug, Default)]
pub struct WithoutModseq {
    nesting: Nesting,
    /// The list of items has just begun.
    first: bool,
    /// What may be the item, with the space before it; nothing of it is written yet.
    held: Vec<u8>,
    /// In the item's parentheses.
    skipping: bool,
    /// The item was the first: the space after it goes, too.
    glue: bool,
}

impl WithoutModseq {
    /// Octets of its lines.
    pub fn text(&mut self, octets: &[u8], out: &mut BytesMut) {
        octets.iter().for_each(|octet| self.octet(*octet, out));
    }

    fn octet(&mut self, octet: u8, out: &mut BytesMut) {
        let among_items = self.nesting.depth == 1 && self.nesting.is_plain();
        if among_items && self.holds(octet, out) {
            return;
        }
        self.nesting.pass(octet);
        self.first = octet == b'(' && self.nesting.depth == 1 && self.nesting.is_plain();
        if self.skipping && octet == b')' && self.nesting.depth == 1 {
            self.skipping = false;
            return;
        }
        if !self.skipping {
            out.put_u8(octet);
        }
    }

    /// Between two items, or in a name: whether the octet is not to be written, or not yet.
    fn holds(&mut self, octet: u8, out: &mut BytesMut) -> bool {
        let space = usize::from(self.held.first() == Some(&b' '));
        let word = self.held.len() - space;
        if octet == b'(' && word >= ITEM.len() - 1 {
            self.glue = space == 0;
            self.held.clear();
            self.skipping = true;
            return false;
        }
        if std::mem::take(&mut self.glue) && octet == b' ' {
            self.first = true;
            return true;
        }
        let begins = !self.held.is_empty() || self.first;
        if begins && ITEM.get(word).is_some_and(|next| *next == octet.to_ascii_uppercase()) {
            self.held.push(octet);
            return true;
        }
        out.put_slice(&self.held);
        self.held.clear();
        if octet == b' ' {
            self.held.push(octet);
        }
        octet == b' '
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn without(text: &[u8], cut: usize) -> BytesMut {
        let (mut filter, mut out) = (WithoutModseq::default(), BytesMut::new());
        let (one, other) = text.split_at(cut.min(text.len()));
        filter.text(one, &mut out);
        filter.text(other, &mut out);
        out
    }

    const REPLIES: [(&str, &str); 11] = [
        (" (FLAGS (\\Seen) MODSEQ (7))\r\n", " (FLAGS (\\Seen))\r\n"),
        (" (MODSEQ (7) FLAGS (\\Seen))\r\n", " (FLAGS (\\Seen))\r\n"),
        (" (modseq (7) MODSEQ (8) UID 5)\r\n", " (UID 5)\r\n"),
        (" (UID 5 ModSeq (123456789012) FLAGS ())\r\n", " (UID 5 FLAGS ())\r\n"),
        (" (MODSEQ (7))\r\n", " ()\r\n"),
        (" (FLAGS (MODSEQ) UID 5)\r\n", " (FLAGS (MODSEQ) UID 5)\r\n"),
        (" (X-MODSEQ (7) MODSEQS (8) UID 5)\r\n", " (X-MODSEQ (7) MODSEQS (8) UID 5)\r\n"),
        (" (BODY[HEADER.FIELDS ( MODSEQ (x))] NIL UID 5)\r\n", " (BODY[HEADER.FIELDS ( MODSEQ (x))] NIL UID 5)\r\n"),
        (" (ENVELOPE (\" MODSEQ (1)\" NIL) UID 5)\r\n", " (ENVELOPE (\" MODSEQ (1)\" NIL) UID 5)\r\n"),
        (
            " (BODY[TEXT] \"( MODSEQ (\\\") MODSEQ (1)\" MODSEQ (9))\r\n",
            " (BODY[TEXT] \"( MODSEQ (\\\") MODSEQ (1)\")\r\n",
        ),
        (" (BODY[] {5}\r\n FLAGS (\\Seen) MODSEQ (9))\r\n", " (BODY[] {5}\r\n FLAGS (\\Seen))\r\n"),
    ];

    #[test]
    fn one_item_is_left_out() {
        for (before, after) in REPLIES {
            for cut in 0..=before.len() {
                assert_eq!(without(before.as_bytes(), cut), after, "{before} cut at {cut}");
            }
        }
    }

    proptest! {
        /// Where there is no such item, nothing is changed.
        #[test]
        fn all_else_stays(text in r#" \((UID|FLAGS|MOD|MODSEQ5|[()\[\] "a]){0,12}\)"#, cut in 0..40_usize) {
            prop_assert_eq!(&without(text.as_bytes(), cut)[..], text.as_bytes());
        }
    }
}
