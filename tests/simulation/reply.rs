//! What a server says, read by code that is not the proxy's.

/// One piece of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Word(String),
    Text(Vec<u8>),
    List(Vec<Piece>),
}

impl Piece {
    pub(crate) fn word(&self) -> &str {
        match self {
            Self::Word(word) => word,
            _ => panic!("not a word: {self:?}"),
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.word().parse().unwrap_or_else(|_| panic!("not a number: {self:?}"))
    }

    pub(crate) fn list(&self) -> &[Piece] {
        match self {
            Self::List(list) => list,
            _ => panic!("not a list: {self:?}"),
        }
    }

    pub(crate) fn octets(&self) -> &[u8] {
        match self {
            Self::Word(word) => word.as_bytes(),
            Self::Text(text) => text,
            Self::List(_) => panic!("not a string: {self:?}"),
        }
    }
}

/// Where the literal that a line announces ends, if it announces one.
pub(crate) fn literal(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"}")?;
    let open = line.iter().rposition(|octet| *octet == b'{')?;
    let size = line[open + 1..].strip_suffix(b"+").unwrap_or(&line[open + 1..]);
    std::str::from_utf8(size).ok()?.parse().ok()
}

/// All pieces of a response, literals included.
pub(crate) fn pieces(text: &[u8]) -> Vec<Piece> {
    let mut at = 0;
    let pieces = list(text, &mut at);
    assert_eq!(at, text.len(), "closed once too often: {}", text.escape_ascii());
    pieces
}

fn list(text: &[u8], at: &mut usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while *at < text.len() {
        match text[*at] {
            b')' => break,
            b' ' => *at += 1,
            b'(' => {
                *at += 1;
                pieces.push(Piece::List(list(text, at)));
                assert_eq!(text.get(*at), Some(&b')'), "not closed: {}", text.escape_ascii());
                *at += 1;
            }
            b'"' => pieces.push(Piece::Text(quoted(text, at))),
            b'{' => {
                let end = *at + text[*at..].iter().position(|octet| *octet == b'\n').expect("a literal's line");
                let size = literal(&text[*at..end - 1]).expect("a literal");
                pieces.push(Piece::Text(text[end + 1..end + 1 + size].to_vec()));
                *at = end + 1 + size;
            }
            _ => pieces.push(Piece::Word(word(text, at))),
        }
    }
    pieces
}

fn quoted(text: &[u8], at: &mut usize) -> Vec<u8> {
    let mut octets = Vec::new();
    *at += 1;
    while text[*at] != b'"' {
        *at += usize::from(text[*at] == b'\\');
        octets.push(text[*at]);
        *at += 1;
    }
    *at += 1;
    octets
}

/// A word ends at a blank or a parenthesis outside of brackets: `BODY[HEADER.FIELDS (SUBJECT)]` is one.
fn word(text: &[u8], at: &mut usize) -> String {
    let (start, mut depth) = (*at, 0);
    while let Some(octet) = text.get(*at) {
        match octet {
            b'[' => depth += 1,
            b']' => depth -= 1,
            b' ' | b'(' | b')' if depth <= 0 => break,
            _ => {}
        }
        *at += 1;
    }
    String::from_utf8_lossy(&text[start..*at]).into_owned()
}

/// `1:3,7` as numbers.
pub(crate) fn numbers(set: &str) -> Vec<u32> {
    let number = |text: &str| text.parse::<u32>().unwrap_or_else(|_| panic!("not a set: {set}"));
    let mut all = Vec::new();
    for range in set.split(',') {
        match range.split_once(':') {
            Some((first, last)) => all.extend(number(first).min(number(last))..=number(first).max(number(last))),
            None => all.push(number(range)),
        }
    }
    all
}
