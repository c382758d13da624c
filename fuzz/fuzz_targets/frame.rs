//! The framing of a client's stream: cutting it anywhere changes nothing, no octet is lost or made up.

#![no_main]

use bytes::BytesMut;
use imapool::imap::frame::{Decoder, Frame, FrameError};
use libfuzzer_sys::fuzz_target;

const MAX_LINE: usize = 80;

/// What was decoded, literals in one piece, and how many octets it took.
fn decode(octets: &[u8], cut: usize) -> (Vec<String>, usize) {
    let mut decoder = Decoder::default();
    let mut buffer = BytesMut::new();
    let (mut frames, mut literal, mut taken) = (Vec::new(), Vec::new(), 0);
    for piece in octets.chunks(cut) {
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            let left = decoder.literal_left();
            let decoded = decoder.decode(&mut buffer, MAX_LINE);
            let used = before - buffer.len();
            taken += used;
            match decoded {
                Ok(None) => {
                    assert_eq!(used, 0);
                    assert!(buffer.len() <= MAX_LINE, "more buffered than a line");
                    break;
                }
                Ok(Some(Frame::Line(line))) => {
                    assert!(used > line.text.len());
                    assert!(!line.text.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')));
                    frames.push(format!("{line:?}"));
                    assert_eq!(decoder.at_command_start(), line.literal.is_none());
                }
                Ok(Some(Frame::Chunk { octets, last })) => {
                    assert_eq!(octets.len(), used);
                    assert_eq!(left - used as u64, decoder.literal_left());
                    assert_eq!(last, decoder.literal_left() == 0);
                    literal.extend_from_slice(&octets);
                    if last {
                        frames.push(format!("{:?}", std::mem::take(&mut literal)));
                    }
                }
                Err(error) => {
                    frames.push(format!("{error:?}"));
                    if error == FrameError::TooLong {
                        return (frames, 0);
                    }
                    assert!(used > 0);
                }
            }
        }
    }
    assert_eq!(taken + buffer.len(), octets.len());
    (frames, taken)
}

fuzz_target!(|octets: &[u8]| {
    let Some((cut, octets)) = octets.split_first() else { return };
    let whole = decode(octets, octets.len().max(1));
    assert_eq!(whole, decode(octets, 1 + usize::from(*cut)));
    assert_eq!(whole, decode(octets, 1));
});
