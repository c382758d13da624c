//! Lines and literals: where one ends and the next begins (RFC 9051 section 4.3, RFC 7888).
//!
//! Whoever frames a stream differently from the server behind it lets bytes be read as something else. So a client's
//! line ends at LF, with or without CR before it, as servers see it; a bare CR or a NUL in a line is refused; and a
//! literal is one only where every server sees one: at the very end of a line, after a space or a parenthesis, outside
//! quotes.

use bytes::{Bytes, BytesMut};

use super::nesting::open_quote;
use super::sequence::decimal;

/// Largest literal that can be announced, in octets (`number64`, RFC 9051 section 9).
pub const MAX_LITERAL: u64 = i64::MAX as u64;

/// A literal's announcement at the end of a line: `{5}`, `{5+}`, `~{5}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Literal {
    /// Octets that follow the line.
    pub len: u64,
    /// The sender waits for a continuation before it sends them.
    pub sync: bool,
    /// `~{n}`: may hold NUL (RFC 3516).
    pub binary: bool,
}

/// A line that cannot be framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("Command line too long")]
    TooLong,
    /// NUL, or CR without LF.
    #[error("NUL or bare CR in command line")]
    BadOctet,
    /// More than [`MAX_LITERAL`].
    #[error("Literal size out of range")]
    LiteralSize,
    /// Inside a quoted string, or glued to what stands before it.
    #[error("Literal in the middle of a string")]
    LiteralPlace,
}

/// Finds the announcement at the end of `line` (given without its line end) and where it starts.
///
/// # Errors
/// [`FrameError::LiteralSize`] when the number is out of range.
fn trailing_literal(line: &[u8]) -> Result<Option<(usize, Literal)>, FrameError> {
    let Some(line) = line.strip_suffix(b"}") else { return Ok(None) };
    let (line, sync) = line.strip_suffix(b"+").map_or((line, true), |line| (line, false));
    let digits = line.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (line, digits) = line.split_at(line.len() - digits);
    let Some(line) = line.strip_suffix(b"{").filter(|_| !digits.is_empty()) else { return Ok(None) };
    let (line, binary) = line.strip_suffix(b"~").map_or((line, false), |line| (line, true));
    let len = decimal(digits).filter(|len| *len <= MAX_LITERAL).ok_or(FrameError::LiteralSize)?;
    Ok(Some((line.len(), Literal { len, sync, binary })))
}

/// One line of a client, without its line end and without the literal's announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What stands before the announcement, or all of it.
    pub text: Bytes,
    /// What follows the line.
    pub literal: Option<Literal>,
}

/// What [`Decoder::decode`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A line; if it announced a literal, its octets come next.
    Line(Line),
    /// Octets of a literal; `last` when it ends here.
    Chunk {
        /// Never empty, but for a literal of no octets.
        octets: Bytes,
        /// The literal is complete.
        last: bool,
    },
}

/// Cuts a client's stream into lines and literals.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Octets of a literal still to come; `None`: a line comes next.
    literal: Option<u64>,
    /// Octets at the start of the buffer known to hold no LF.
    scanned: usize,
    /// The last line ended in a literal: the next line goes on with the same command.
    continues: bool,
}

impl Decoder {
    /// Takes the next frame off the front of `buffer`; `None`: more input is needed. A line may be at most
    /// `max_line` octets, and the buffer never has to hold more than that.
    ///
    /// # Errors
    /// The line cannot be framed. It has been taken off, but for [`FrameError::TooLong`], after which the stream
    /// cannot be used any further.
    pub fn decode(&mut self, buffer: &mut BytesMut, max_line: usize) -> Result<Option<Frame>, FrameError> {
        if let Some(left) = self.literal {
            return Ok(self.decode_chunk(buffer, left));
        }
        let Some(at) = memchr::memchr(b'\n', &buffer[self.scanned..]).map(|at| at + self.scanned) else {
            self.scanned = buffer.len();
            return if buffer.len() > max_line { Err(FrameError::TooLong) } else { Ok(None) };
        };
        self.scanned = 0;
        if at > max_line {
            return Err(FrameError::TooLong);
        }
        let mut text = buffer.split_to(at + 1);
        text.truncate(if text[..at].ends_with(b"\r") { at - 1 } else { at });
        self.continues = false;
        if memchr::memchr2(b'\r', 0, &text).is_some() {
            return Err(FrameError::BadOctet);
        }
        let Some((start, literal)) = trailing_literal(&text)? else {
            return Ok(Some(Frame::Line(Line { text: text.freeze(), literal: None })));
        };
        if !matches!(text[..start].last(), Some(b' ' | b'(')) || open_quote(&text[..start]) {
            return Err(FrameError::LiteralPlace);
        }
        text.truncate(start);
        self.literal = Some(literal.len);
        self.continues = true;
        Ok(Some(Frame::Line(Line { text: text.freeze(), literal: Some(literal) })))
    }

    fn decode_chunk(&mut self, buffer: &mut BytesMut, left: u64) -> Option<Frame> {
        if buffer.is_empty() && left > 0 {
            return None;
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let octets = buffer.split_to(take).freeze();
        let left = left - take as u64;
        self.literal = (left > 0).then_some(left);
        Some(Frame::Chunk { octets, last: left == 0 })
    }

    /// The announced literal will not be sent: its continuation was refused.
    pub fn cancel_literal(&mut self) {
        self.literal = None;
        self.continues = false;
    }

    /// Octets of the current literal still to come.
    pub fn literal_left(&self) -> u64 {
        self.literal.unwrap_or(0)
    }

    /// Between two commands (not within a line continued by a literal).
    pub fn at_command_start(&self) -> bool {
        self.literal.is_none() && !self.continues
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn literal(len: u64, sync: bool, binary: bool) -> Literal {
        Literal { len, sync, binary }
    }

    #[test]
    fn announcements() {
        assert_eq!(trailing_literal(b"a LOGIN {5}"), Ok(Some((8, literal(5, true, false)))));
        assert_eq!(trailing_literal(b"{0+}"), Ok(Some((0, literal(0, false, false)))));
        assert_eq!(trailing_literal(b"x ~{12+}"), Ok(Some((2, literal(12, false, true)))));
        for none in ["", "}", "{}", "{+}", "{5", "5}", "{5 }", "{-5}", "{5-}", "{5++}", "{ 5}", "x{5}y"] {
            assert_eq!(trailing_literal(none.as_bytes()), Ok(None), "{none}");
        }
        assert_eq!(trailing_literal(b"{9223372036854775807}").unwrap().unwrap().1.len, MAX_LITERAL);
        assert_eq!(trailing_literal(b"{9223372036854775808}"), Err(FrameError::LiteralSize));
        assert_eq!(trailing_literal(b"{18446744073709551621}"), Err(FrameError::LiteralSize));
    }

    fn all(input: &[u8], cut: usize) -> Vec<Result<Frame, FrameError>> {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for piece in input.chunks(cut) {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer, 100) {
                    Ok(Some(frame)) => frames.push(Ok(frame)),
                    Ok(None) => break,
                    Err(error) => {
                        frames.push(Err(error));
                        if error == FrameError::TooLong {
                            return frames;
                        }
                    }
                }
            }
        }
        frames
    }

    /// Joins chunks of one literal, so that what is compared does not depend on how the input was cut.
    fn joined(frames: Vec<Result<Frame, FrameError>>) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut chunk = String::new();
        for frame in frames {
            match frame {
                Ok(Frame::Chunk { octets, last }) => {
                    chunk.push_str(&String::from_utf8_lossy(&octets));
                    if last {
                        out.push(format!("<{}>", std::mem::take(&mut chunk)));
                    }
                }
                Ok(Frame::Line(line)) => out.push(format!("{:?}{:?}", line.text, line.literal.map(|l| l.len))),
                Err(error) => out.push(error.to_string()),
            }
        }
        out
    }

    #[test]
    fn a_command_with_literals_is_the_same_however_it_is_cut() {
        let input = b"a LOGIN {4+}\r\nuser {3}\r\nabc\r\nb NOOP\nc X {0+}\r\n\r\n";
        let whole = joined(all(input, input.len()));
        assert_eq!(
            whole,
            [
                "b\"a LOGIN \"Some(4)",
                "<user>",
                "b\" \"Some(3)",
                "<abc>",
                "b\"\"None",
                "b\"b NOOP\"None",
                "b\"c X \"Some(0)",
                "<>",
                "b\"\"None"
            ]
        );
        for cut in 1..input.len() {
            assert_eq!(joined(all(input, cut)), whole, "cut every {cut}");
        }
    }

    #[test]
    fn a_literal_where_a_server_sees_none_is_refused() {
        for line in ["a LOGIN \"u {3+}\r\n", "a SELECT foo{3+}\r\n", "{3}\r\n", "a {2+}\r\nxy{3+}\r\n"] {
            let frames = all(line.as_bytes(), 7);
            assert_eq!(frames.last(), Some(&Err(FrameError::LiteralPlace)), "{line}");
        }
        assert!(matches!(all(b"a LOGIN \"u\\\"\" {3+}\r\n", 50)[0], Ok(Frame::Line(_))));
    }

    #[test]
    fn bare_cr_nul_and_long_lines_are_refused() {
        assert_eq!(all(b"a NOOP\rb NOOP\r\n", 3), [Err(FrameError::BadOctet)]);
        assert_eq!(all(b"a \0\r\n", 9), [Err(FrameError::BadOctet)]);
        assert_eq!(all(&[b'x'; 200], 9), [Err(FrameError::TooLong)]);
    }

    proptest! {
        #[test]
        fn cutting_changes_nothing(input in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b'{'), Just(b'}'), Just(b'+'), Just(b' '), Just(b'"'), Just(b'1'), any::<u8>()
        ], 0..200), cut in 1usize..50) {
            let whole = joined(all(&input, input.len().max(1)));
            let pieces = joined(all(&input, cut));
            // An unfinished literal has shown no end yet in either.
            prop_assert_eq!(whole, pieces);
        }
    }
}
