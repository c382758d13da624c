//! Where a backend's lines and literals end (RFC 9051 section 4.3). There is this one reader of it: whoever follows the
//! stream asks it, so that no two can differ in what is a line and what is a literal's octets.

use super::frame::MAX_LITERAL;
use super::response::Kind;

/// Digits of a literal's size, leading zeros included.
const MAX_DIGITS: u8 = 20;
/// Digits of a size that is in range, whatever they are.
const SHORT: usize = 10;

/// How much of a literal's announcement has been seen at the end of what was read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Tail {
    #[default]
    None,
    /// `{` and digits, how many of them. The size is out of range once it is above [`MAX_LITERAL`].
    Digits(u64, u8),
    /// `{5+`: no server may write it (RFC 7888 section 4), but what follows one that does is a literal all the same.
    Plus(u64),
    /// `{5}`
    Closed(u64),
    /// `{5}` CR
    Cr(u64),
}

impl Tail {
    fn after(self, octet: u8) -> Self {
        match (self, octet) {
            (_, b'{') => Self::Digits(0, 0),
            (Self::Digits(value, count), b'0'..=b'9') => {
                // It never falls below what is out of range again.
                let size = value.saturating_mul(10).saturating_add(u64::from(octet - b'0'));
                Self::Digits(if count < MAX_DIGITS { size } else { u64::MAX }, count.saturating_add(1))
            }
            (Self::Digits(value, 1..), b'+') => Self::Plus(value),
            (Self::Digits(value, 1..) | Self::Plus(value), b'}') => Self::Closed(value),
            (Self::Closed(value), b'\r') => Self::Cr(value),
            _ => Self::None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Position {
    #[default]
    LineStart,
    Line(Tail),
    /// A line that ends in no literal, whatever it looks like.
    PlainLine,
    /// Octets still to come; [`u64::MAX`] for ever, of a size out of range: nothing behind it can be found.
    Literal(u64),
}

/// See the module. It starts between two lines; [`Framer::begin`], then [`Framer::take`] until the line is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Framer {
    place: Position,
}

impl Framer {
    /// Between two lines.
    pub fn at_line_start(self) -> bool {
        self.place == Position::LineStart
    }

    /// What comes next is a literal's.
    pub fn in_literal(self) -> bool {
        matches!(self.place, Position::Literal(_))
    }

    /// Octets of a literal that are still to come; `u64::MAX`: its size is out of range.
    #[must_use]
    pub fn left(self) -> u64 {
        match self.place {
            Position::Literal(left) => left,
            _ => 0,
        }
    }

    /// A literal's size is out of range: all that follows counts as octets of it.
    pub fn is_lost(self) -> bool {
        self.left() > MAX_LITERAL
    }

    /// A line of this kind begins.
    pub fn begin(&mut self, kind: Kind) {
        self.place = if kind.may_end_in_literal() { Position::Line(Tail::None) } else { Position::PlainLine };
    }

    /// Goes on by the next part of the stream: how many of `octets` are its. It ends with a line, a literal, or
    /// `octets`.
    pub fn take(&mut self, octets: &[u8]) -> usize {
        match self.place {
            Position::LineStart => 0,
            Position::Literal(left) => {
                let len = octets.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                self.place = after_literal(left - len as u64);
                len
            }
            Position::PlainLine => memchr::memchr(b'\n', octets).map_or(octets.len(), |at| {
                self.place = Position::LineStart;
                at + 1
            }),
            Position::Line(tail) => {
                let end = memchr::memchr(b'\n', octets);
                let line = &octets[..end.unwrap_or(octets.len())];
                self.place = match (end, line.strip_suffix(b"\r").unwrap_or(line)) {
                    (None, _) => Position::Line(tail_of(line, tail)),
                    // Most lines announce nothing, as their last octet shows.
                    (_, [.., last]) if *last != b'}' => Position::LineStart,
                    (_, text) => match announced(text).map_or_else(|| tail_of(line, tail), Tail::Closed) {
                        Tail::Closed(size) | Tail::Cr(size) => after_literal(size),
                        _ => Position::LineStart,
                    },
                };
                end.map_or(octets.len(), |end| end + 1)
            }
        }
    }
}

/// The size that the end of this line announces, if it does it as servers do, and all of it is here: `{5}`.
fn announced(line: &[u8]) -> Option<u64> {
    let line = line.strip_suffix(b"}")?;
    let digits = line.iter().rev().take(SHORT + 1).take_while(|octet| octet.is_ascii_digit()).count();
    let (before, digits) = line.split_at(line.len() - digits);
    let is_one = (1..=SHORT).contains(&digits.len()) && before.ends_with(b"{");
    is_one.then(|| digits.iter().fold(0, |size, digit| size * 10 + u64::from(digit - b'0')))
}

fn after_literal(left: u64) -> Position {
    match left {
        0 => Position::Line(Tail::None),
        _ if left > MAX_LITERAL => Position::Literal(u64::MAX),
        _ => Position::Literal(left),
    }
}

/// What has been seen of an announcement at the end of these octets, which are of one line: its last `{` counts.
#[inline(never)]
fn tail_of(octets: &[u8], tail: Tail) -> Tail {
    let (octets, tail) = match memchr::memrchr(b'{', octets) {
        Some(at) => (&octets[at..], Tail::None),
        None if tail == Tail::None => return tail,
        None => (octets, tail),
    };
    octets.iter().fold(tail, |tail, octet| tail.after(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands behind a data line with this end: a line's start, a literal of so many octets, or nothing that can
    /// be found.
    fn behind(end: &str) -> String {
        let whole = format!("* LIST {end}\n");
        let mut slow = Framer::default();
        slow.begin(Kind::Data);
        for octet in whole.as_bytes().chunks(1) {
            assert_eq!(slow.take(octet), 1);
        }
        let mut framer = Framer::default();
        framer.begin(Kind::Data);
        assert_eq!((framer.take(whole.as_bytes()), framer.place), (whole.len(), slow.place), "{end}");
        match slow.place {
            Position::LineStart => "line".into(),
            Position::Line(_) => "0".into(),
            Position::Literal(u64::MAX) => "lost".into(),
            Position::Literal(size) => size.to_string(),
            place @ Position::PlainLine => format!("{place:?}"),
        }
    }

    #[test]
    fn announcements() {
        for (end, then) in [
            ("x", "line"),
            ("{5}", "5"),
            ("{5}\r", "5"),
            ("x~{5}\r", "5"),
            ("{5+}\r", "5"),
            ("{{5}\r", "5"),
            ("{0}\r", "0"),
            ("{9223372036854775807}", "9223372036854775807"),
            ("{9223372036854775808}\r", "lost"),
            ("{99999999999999999999}\r", "lost"),
            ("{18446744073709551621}\r", "lost"),
            ("{000000000000000000001}\r", "lost"),
            ("{99999999999999999999999999999999999999}\r", "lost"),
            ("{99999999999999999999\r", "line"),
            ("{}\r", "line"),
            ("{+}\r", "line"),
            ("{5}x\r", "line"),
            ("{5}\r\r", "line"),
            ("{-5}\r", "line"),
            ("{5 }\r", "line"),
        ] {
            assert_eq!(behind(end), then, "{end:?}");
        }
    }
}
