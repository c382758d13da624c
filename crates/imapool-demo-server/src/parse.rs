//! The grammar of commands (RFC 3501 section 9): a cursor over one whole command, literals included.

use bytes::Bytes;
use thiserror::Error;

/// What was expected where something else stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("expected {0}")]
pub(super) struct ParseError(pub(super) &'static str);

/// A cursor over a command; literals stand in it as `{5}` CRLF and their octets.
#[derive(Debug, Clone)]
pub(super) struct Parser {
    bytes: Bytes,
    at: usize,
}

/// Octets that end an atom (RFC 3501 `atom-specials`), without `]`.
fn is_atom(b: u8) -> bool {
    b > 0x20 && b != 0x7f && !matches!(b, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\')
}

impl Parser {
    /// A cursor at the beginning of a command, which may or may not end in CRLF.
    pub(super) fn new(command: Bytes) -> Self {
        let end = command.strip_suffix(b"\n").map_or(command.len(), |c| c.strip_suffix(b"\r").unwrap_or(c).len());
        Self { bytes: command.slice(..end), at: 0 }
    }

    /// The next octet, which stays.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Takes the octet if it is the next one.
    pub(super) fn eat(&mut self, octet: u8) -> bool {
        let found = self.peek() == Some(octet);
        self.at += usize::from(found);
        found
    }

    /// Takes one octet that must be there.
    pub(super) fn expect(&mut self, octet: u8, what: &'static str) -> Result<(), ParseError> {
        if self.eat(octet) { Ok(()) } else { Err(ParseError(what)) }
    }

    /// One space.
    pub(super) fn space(&mut self) -> Result<(), ParseError> {
        self.expect(b' ', "a space")
    }

    /// The end of the command.
    pub(super) fn end(&self) -> Result<(), ParseError> {
        if self.at == self.bytes.len() { Ok(()) } else { Err(ParseError("the end of the command")) }
    }

    /// The longest run of octets that satisfy the predicate; may be empty.
    pub(super) fn run(&mut self, wanted: impl Fn(u8) -> bool) -> Bytes {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| !wanted(b)).unwrap_or(rest.len());
        let run = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        run
    }

    /// `tag`: ASTRING-CHARs except `+`.
    pub(super) fn tag(&mut self) -> Result<String, ParseError> {
        text(self.run(|b| is_atom(b) && b != b'+' && b < 0x7f), "a tag")
    }

    /// An atom in upper case; may be 8-bit nowhere.
    pub(super) fn keyword(&mut self) -> Result<String, ParseError> {
        self.atom().map(|atom| atom.to_ascii_uppercase())
    }

    /// `atom`
    pub(super) fn atom(&mut self) -> Result<String, ParseError> {
        text(self.run(|b| is_atom(b) && b < 0x7f), "an atom")
    }

    /// `number`
    pub(super) fn number(&mut self) -> Result<u32, ParseError> {
        let digits = self.run(|b| b.is_ascii_digit());
        std::str::from_utf8(&digits).ok().and_then(|d| d.parse().ok()).ok_or(ParseError("a number"))
    }

    /// `mod-sequence-value` (RFC 7162 section 7)
    pub(super) fn long_number(&mut self) -> Result<u64, ParseError> {
        let digits = self.run(|b| b.is_ascii_digit());
        std::str::from_utf8(&digits).ok().and_then(|d| d.parse().ok()).ok_or(ParseError("a number"))
    }

    /// `astring`
    pub(super) fn astring(&mut self) -> Result<Bytes, ParseError> {
        if let Some(string) = self.string()? {
            return Ok(string);
        }
        nonempty(self.run(is_atom), "a string")
    }

    /// `list-mailbox`: as astring, with wildcards.
    pub(super) fn pattern(&mut self) -> Result<Bytes, ParseError> {
        if let Some(string) = self.string()? {
            return Ok(string);
        }
        nonempty(self.run(|b| is_atom(b) || matches!(b, b'%' | b'*')), "a pattern")
    }

    /// `nstring`: NIL is `None`.
    pub(super) fn nstring(&mut self) -> Result<Option<Bytes>, ParseError> {
        if let Some(string) = self.string()? {
            return Ok(Some(string));
        }
        if self.keyword()? == "NIL" { Ok(None) } else { Err(ParseError("a string or NIL")) }
    }

    /// A quoted string or a literal, or `None` where neither begins.
    pub(super) fn string(&mut self) -> Result<Option<Bytes>, ParseError> {
        match self.peek() {
            Some(b'"') => self.quoted().map(Some),
            Some(b'{') => self.literal().map(Some),
            Some(b'~') if self.bytes.get(self.at + 1) == Some(&b'{') => {
                self.at += 1;
                self.literal().map(Some)
            }
            _ => Ok(None),
        }
    }

    fn quoted(&mut self) -> Result<Bytes, ParseError> {
        let start = self.at + 1;
        let mut escaped = Vec::new();
        let mut at = start;
        loop {
            match self.bytes.get(at) {
                None | Some(b'\r' | b'\n' | 0) => return Err(ParseError("a closing quote")),
                Some(b'"') => break,
                Some(b'\\') => match self.bytes.get(at + 1) {
                    Some(b @ (b'"' | b'\\')) => {
                        escaped.push(*b);
                        at += 2;
                    }
                    _ => return Err(ParseError("a quote or a backslash after a backslash")),
                },
                Some(b) => {
                    escaped.push(*b);
                    at += 1;
                }
            }
        }
        self.at = at + 1;
        Ok(if escaped.len() == at - start { self.bytes.slice(start..at) } else { escaped.into() })
    }

    /// `literal`, `literal+`; the octets were read with the command.
    fn literal(&mut self) -> Result<Bytes, ParseError> {
        self.expect(b'{', "a literal")?;
        let size = self.number()? as usize;
        let _non_synchronising = self.eat(b'+');
        self.expect(b'}', "a closing brace")?;
        let _cr = self.eat(b'\r');
        self.expect(b'\n', "the end of the line after a literal's size")?;
        let end = self.at.checked_add(size).filter(|end| *end <= self.bytes.len()).ok_or(ParseError("a literal"))?;
        let octets = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(octets)
    }

    /// A parenthesised list: `(` item *(SP item) `)`, or `()`.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        self.expect(b'(', "a list")?;
        let mut items = Vec::new();
        if self.eat(b')') {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(b')') {
                return Ok(items);
            }
            self.space()?;
        }
    }

    /// `flag`: `\Seen`, `\*` is none.
    pub(super) fn flag(&mut self) -> Result<String, ParseError> {
        let system = self.eat(b'\\');
        let name = self.atom()?;
        Ok(if system { format!("\\{name}") } else { name })
    }

    /// `sequence-set`
    pub(super) fn sequence_set(&mut self) -> Result<SequenceSet, ParseError> {
        let mut ranges = Vec::new();
        loop {
            let first = self.sequence_number()?;
            let last = if self.eat(b':') { self.sequence_number()? } else { first };
            ranges.push((first, last));
            if !self.eat(b',') {
                return Ok(SequenceSet(ranges));
            }
        }
    }

    /// A number, or `None` for `*`.
    fn sequence_number(&mut self) -> Result<Option<u32>, ParseError> {
        if self.eat(b'*') {
            return Ok(None);
        }
        self.number().ok().filter(|n| *n != 0).map(Some).ok_or(ParseError("a message number"))
    }
}

fn nonempty(octets: Bytes, what: &'static str) -> Result<Bytes, ParseError> {
    if octets.is_empty() { Err(ParseError(what)) } else { Ok(octets) }
}

fn text(octets: Bytes, what: &'static str) -> Result<String, ParseError> {
    nonempty(octets, what).and_then(|o| String::from_utf8(o.into()).map_err(|_| ParseError(what)))
}

/// `sequence-set` (RFC 3501 section 9): ranges in either direction, `*` for the largest number in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SequenceSet(Vec<(Option<u32>, Option<u32>)>);

impl SequenceSet {
    /// The set's ranges, each in ascending order, `*` being `largest`.
    pub(super) fn ranges(&self, largest: u32) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.0.iter().map(move |(a, b)| {
            let (a, b) = (a.unwrap_or(largest), b.unwrap_or(largest));
            (a.min(b), a.max(b))
        })
    }

    /// Whether the set names this number.
    pub(super) fn contains(&self, number: u32, largest: u32) -> bool {
        self.ranges(largest).any(|(first, last)| (first..=last).contains(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parser(text: &'static str) -> Parser {
        Parser::new(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn strings_of_all_kinds() {
        let mut p = parser("a1 LOGIN \"u \\\"x\\\\\" {4}\r\np} w rest\r\n");
        assert_eq!(p.tag().unwrap(), "a1");
        p.space().unwrap();
        assert_eq!(p.keyword().unwrap(), "LOGIN");
        p.space().unwrap();
        assert_eq!(&p.astring().unwrap()[..], b"u \"x\\");
        p.space().unwrap();
        assert_eq!(&p.astring().unwrap()[..], b"p} w");
        p.space().unwrap();
        assert_eq!(&p.astring().unwrap()[..], b"rest");
        p.end().unwrap();
    }

    #[test]
    fn malformed_input_is_an_error_and_no_panic() {
        for text in
            ["\"abc", "\"a\\", "\"a\\x\"", "{5}\r\nab", "{99999999999}\r\n", "{4294967295}\r\n", "{5}", "{", "~", ""]
        {
            assert!(parser(text).string().ok().flatten().is_none(), "{text:?}");
        }
        for text in ["0", "1:", ":1", "1,", "4294967296", "a", ""] {
            assert!(parser(text).sequence_set().is_err(), "{text:?}");
        }
    }

    #[test]
    fn sequence_sets() {
        let set = parser("5:3,9:*").sequence_set().unwrap();
        let named: Vec<u32> = (1..=12).filter(|n| set.contains(*n, 7)).collect();
        assert_eq!(named, [3, 4, 5, 7, 8, 9]);
    }
}
