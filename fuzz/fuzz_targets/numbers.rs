//! Message numbers in commands: sets, and the programs of searches.

#![no_main]

use bytes::Bytes;
use imapool::imap::command::{Command, Segment, parse_head};
use imapool::imap::effects::{fetch_effects, loud};
use imapool::imap::numbering::Numbering;
use imapool::imap::ranges::Ranges;
use imapool::imap::rewrite::{Outcome, rewrite, uses};
use imapool::imap::sequence::SequenceSet;
use libfuzzer_sys::fuzz_target;

fn set(text: &[u8]) {
    let Ok(set) = SequenceSet::parse(text) else { return };
    let numbers = set.resolve(7);
    assert!(!numbers.is_empty());
    let printed = SequenceSet::parse(numbers.to_string().as_bytes()).expect("a set");
    assert_eq!(printed.resolve(1), numbers);
}

fn command(line: &[u8]) -> Option<Command> {
    let head = parse_head(line).ok()?;
    let mut texts = line[head.tag_end + 1..].split(|b| *b == b'\n').peekable();
    let mut segments = Vec::new();
    while let Some(text) = texts.next() {
        let literal = texts.peek().map(|_| (Bytes::from_static(b"1:4"), false));
        segments.push(Segment { text: Bytes::copy_from_slice(text), literal });
    }
    Some(Command { tag: Bytes::copy_from_slice(&line[..head.tag_end]), name: head.name, segments })
}

fuzz_target!(|octets: &[u8]| {
    let Some((gone, line)) = octets.split_first() else { return };
    set(line);
    let Some(command) = command(line) else { return };
    let _ = (uses(&command), fetch_effects(&command));
    assert!(loud(&command).is_none_or(|loud| loud.segments[0].text.len() < command.segments[0].text.len()));
    let gone: Ranges = (0..8).filter(|bit| gone & (1 << bit) != 0).map(|bit| bit + 1).collect();
    let numbering = Numbering::new(gone.clone(), 8, 8 - gone.len() + 2);
    if let Outcome::Rewritten { command: sent, .. } = rewrite(&command, &numbering) {
        assert_eq!(sent.segments.len(), command.segments.len());
        for (sent, own) in sent.segments.iter().zip(&command.segments) {
            assert_eq!(sent.literal, own.literal);
            assert!(!sent.text.contains(&b'\n'));
        }
        assert_eq!(uses(&sent).saved_result, uses(&command).saved_result);
    }
});
