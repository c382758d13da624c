//! A backend's replies, cut anywhere: what is read, renumbered and scanned is the same.

#![no_main]

use bytes::BytesMut;
use imapool::imap::fetch_items::{FetchScanner, Items};
use imapool::imap::numbering::Numbering;
use imapool::imap::ranges::Ranges;
use imapool::imap::renumber::{Renumber, modified};
use imapool::imap::untagged::{Divider, Part, Reply};
use libfuzzer_sys::fuzz_target;

/// The replies, renumbered, and what FETCH replies held.
fn read(octets: &[u8], cut: usize, numbering: &Numbering) -> (BytesMut, Vec<Items>) {
    let (mut divider, mut input) = (Divider::default(), BytesMut::new());
    let (mut out, mut items) = (BytesMut::new(), Vec::new());
    let (mut renumber, mut scanner) = (Renumber::new(Reply::Other, false), FetchScanner::default());
    for piece in octets.chunks(cut) {
        input.extend_from_slice(piece);
        for part in divider.divide(&mut input).parts() {
            match part {
                Part::Begin(reply) => {
                    renumber = Renumber::new(reply, false);
                    renumber.head(numbering, &mut out);
                }
                Part::Text { octets, ends } => {
                    renumber.text(&octets, numbering, &mut out);
                    scanner.text(&octets);
                    if ends {
                        assert!(out.ends_with(b"\n"));
                        items.push(scanner.finish());
                    }
                }
                Part::Literal(octets) => out.extend_from_slice(&octets),
            }
        }
    }
    (out, items)
}

fuzz_target!(|octets: &[u8]| {
    let [gone, cut, octets @ ..] = octets else { return };
    let gone: Ranges = (0..8).filter(|bit| gone & (1 << bit) != 0).map(|bit| bit + 1).collect();
    let numbering = Numbering::new(gone.clone(), 8, 8 - gone.len() + 2);
    let whole = read(octets, octets.len().max(1), &numbering);
    assert_eq!(whole, read(octets, 1 + usize::from(*cut), &numbering));
    assert_eq!(whole, read(octets, 1, &numbering));
    let _ = modified(octets, &numbering);
});
