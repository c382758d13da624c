//! The program of SEARCH, SORT and THREAD (RFC 9051 section 6.4.4, RFC 5256): which of its words are what; and of
//! commands whose first argument is a set, that set.
//!
//! Only words are told apart, not how they are nested: `NOT`, `OR` and parentheses change what is found, never where
//! the arguments of a key end. Memory and stack do not depend on the program.

use std::ops::Range;

use super::command::{Command, Name};
use super::nesting::quoted_len;
use super::rewrite::is_uid;

/// Where in a command something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Where {
    pub(super) segment: usize,
    pub(super) range: Range<usize>,
}

impl Where {
    /// What stands there.
    pub(super) fn text<'a>(&self, command: &'a Command) -> &'a [u8] {
        &command.segments[self.segment].text[self.range.clone()]
    }
}

/// What matters of a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// RETURN (RFC 4731) begins.
    Returns,
    /// A word of it.
    Return(&'a [u8]),
    /// The keys begin here; of no length.
    Keys(Where),
    /// A set of message numbers, as a key, or as first argument.
    Set(Where),
    /// A set of UIDs, argument of UID, or first argument of a UID command.
    Uids(Where),
    /// Any other key, and its first argument, if that is an atom.
    Key(Where, Option<&'a [u8]>),
    /// `$`, or `UID $` (RFC 5182).
    Saved,
    /// A parenthesis between keys.
    Open,
    /// Its end.
    Close,
}

/// Why a program cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// A key that is not known.
    Key,
    /// Something is missing that has to be there.
    Malformed,
}

/// How many strings, numbers, dates or atoms follow a key; of MODSEQ, at least.
fn arguments(key: &[u8]) -> Option<u8> {
    let mut name = [0; 20];
    let name = name.get_mut(..key.len())?;
    name.copy_from_slice(key);
    name.make_ascii_uppercase();
    Some(match &*name {
        // RFC 9051 section 6.4.4, RFC 3501; RFC 8514; RFC 6203, whose FUZZY is followed by a key as NOT and OR are.
        b"ALL" | b"ANSWERED" | b"DELETED" | b"DRAFT" | b"FLAGGED" | b"NEW" | b"OLD" | b"RECENT" | b"SEEN"
        | b"UNANSWERED" | b"UNDELETED" | b"UNDRAFT" | b"UNFLAGGED" | b"UNSEEN" | b"NOT" | b"OR"
        | b"SAVEDATESUPPORTED" | b"FUZZY" => 0,
        b"BCC" | b"BODY" | b"CC" | b"FROM" | b"SUBJECT" | b"TEXT" | b"TO" | b"KEYWORD" | b"UNKEYWORD" | b"BEFORE"
        | b"ON" | b"SINCE" | b"SENTBEFORE" | b"SENTON" | b"SENTSINCE" | b"LARGER" | b"SMALLER" => 1,
        // RFC 5032; RFC 8514; RFC 8474; RFC 5466; RFC 9738; RFC 7162; Gmail's.
        b"OLDER" | b"YOUNGER" | b"SAVEDBEFORE" | b"SAVEDON" | b"SAVEDSINCE" | b"EMAILID" | b"THREADID" | b"FILTER"
        | b"UIDAFTER" | b"UIDBEFORE" | b"MODSEQ" | b"X-GM-RAW" | b"X-GM-MSGID" | b"X-GM-THRID" | b"X-GM-LABELS" => 1,
        // An algorithm, and then a key (draft-ietf-morg-inthread).
        b"INTHREAD" => 1,
        b"HEADER" => 2,
        _ => return None,
    })
}

/// A word, by its form.
enum Word {
    Atom(Where),
    Quoted,
    Literal,
}

/// Reads a program from its beginning. Ends after an error.
#[derive(Debug)]
pub(super) struct Program<'a> {
    command: &'a Command,
    segment: usize,
    at: usize,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The first argument is a set.
    Set,
    /// What comes before the keys.
    Head,
    /// In the parentheses of RETURN.
    Return,
    Charset,
    Keys,
    Over,
}

impl<'a> Program<'a> {
    /// Of a command, by UID or not; of one without numbers, nothing.
    pub(super) fn new(command: &'a Command) -> Self {
        let stage = match command.name {
            Name::Search | Name::Sort | Name::Thread => Stage::Head,
            Name::Fetch | Name::Store | Name::Copy | Name::Move | Name::Replace | Name::Expunge => Stage::Set,
            _ => Stage::Over,
        };
        Self { command, segment: 0, at: command.arguments().at, stage }
    }

    fn text(&self) -> &'a [u8] {
        &self.command.segments[self.segment].text[self.at..]
    }

    fn here(&self) -> Where {
        Where { segment: self.segment, range: self.at..self.at }
    }

    fn skip_spaces(&mut self) {
        self.at += self.text().iter().take_while(|b| **b == b' ').count();
    }

    fn at_end(&self) -> bool {
        let segment = &self.command.segments[self.segment];
        self.at == segment.text.len() && segment.literal.is_none()
    }

    /// The next word, which has to be one.
    fn word(&mut self) -> Result<Word, Unknown> {
        let text = self.text();
        match text.first() {
            None => {
                self.command.segments[self.segment].literal.as_ref().ok_or(Unknown::Malformed)?;
                (self.segment + 1 < self.command.segments.len()).then_some(()).ok_or(Unknown::Malformed)?;
                (self.segment, self.at) = (self.segment + 1, 0);
                Ok(Word::Literal)
            }
            Some(b'"') => {
                self.at += quoted_len(text).ok_or(Unknown::Malformed)?;
                Ok(Word::Quoted)
            }
            Some(_) => {
                let len = text.iter().take_while(|b| !matches!(b, b' ' | b'(' | b')' | b'"')).count();
                if len == 0 {
                    return Err(Unknown::Malformed);
                }
                let range = self.at..self.at + len;
                self.at += len;
                Ok(Word::Atom(Where { segment: self.segment, range }))
            }
        }
    }

    /// A space and a word.
    fn argument(&mut self) -> Result<Word, Unknown> {
        if !self.text().starts_with(b" ") {
            return Err(Unknown::Malformed);
        }
        self.skip_spaces();
        self.word()
    }

    /// Takes the next word if it is this one.
    fn take(&mut self, name: &[u8]) -> bool {
        let text = self.text();
        let found = text.len() >= name.len() && text[..name.len()].eq_ignore_ascii_case(name);
        self.at += if found { name.len() } else { 0 };
        found
    }

    fn set(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.stage = Stage::Over;
        let start = self.at + 1;
        let word = self.text().strip_prefix(b" ").and_then(|rest| rest.split(|b| *b == b' ').next());
        let len = word.map(<[u8]>::len).filter(|len| *len > 0).ok_or(Unknown::Malformed)?;
        let place = Where { segment: 0, range: start..start + len };
        Ok(Some(if is_uid(self.command) { Token::Uids(place) } else { Token::Set(place) }))
    }

    /// Up to the keys, or into RETURN.
    fn head(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.skip_spaces();
        if self.take(b"RETURN (") {
            self.stage = Stage::Return;
            return Ok(Some(Token::Returns));
        }
        self.charset()
    }

    /// Between RETURN and the keys: CHARSET; of SORT its criteria and charset, of THREAD algorithm and charset.
    fn charset(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.stage = Stage::Keys;
        self.skip_spaces();
        match self.command.name {
            Name::Search => {
                if !self.take(b"CHARSET ") {
                    return Ok(Some(Token::Keys(self.here())));
                }
                self.word()?;
            }
            Name::Sort => {
                let criteria = memchr::memchr(b')', self.text()).filter(|_| self.text().starts_with(b"("));
                self.at += criteria.ok_or(Unknown::Malformed)? + 1;
                self.argument()?;
            }
            _ => {
                self.word()?;
                self.argument()?;
            }
        }
        if !self.text().starts_with(b" ") {
            return Err(Unknown::Malformed);
        }
        self.skip_spaces();
        Ok(Some(Token::Keys(self.here())))
    }

    fn option(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.skip_spaces();
        if self.take(b")") {
            self.stage = Stage::Charset;
            return Ok(None);
        }
        match self.word()? {
            Word::Atom(place) => Ok(Some(Token::Return(place.text(self.command)))),
            Word::Quoted | Word::Literal => Err(Unknown::Malformed),
        }
    }

    fn key(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.skip_spaces();
        if let Some(parenthesis @ (b'(' | b')')) = self.text().first() {
            self.at += 1;
            return Ok(Some(if *parenthesis == b'(' { Token::Open } else { Token::Close }));
        }
        if self.at_end() {
            self.stage = Stage::Over;
            return Ok(None);
        }
        // Some server might take a string for a key.
        let Word::Atom(place) = self.word()? else { return Err(Unknown::Key) };
        let key = place.text(self.command);
        if key == b"$" {
            return Ok(Some(Token::Saved));
        }
        if key.first().is_some_and(|b| b.is_ascii_digit() || *b == b'*') {
            return Ok(Some(Token::Set(place)));
        }
        if key.eq_ignore_ascii_case(b"UID") {
            let Word::Atom(set) = self.argument()? else { return Err(Unknown::Key) };
            return Ok(Some(if set.text(self.command) == b"$" { Token::Saved } else { Token::Uids(set) }));
        }
        let mut words = arguments(key).ok_or(Unknown::Key)?;
        let mut first = None;
        if words > 0 {
            match self.argument()? {
                Word::Atom(place) => first = Some(place.text(self.command)),
                // `[entry-name entry-type] mod-sequence` (RFC 7162 section 3.1.5).
                Word::Quoted if key.eq_ignore_ascii_case(b"MODSEQ") => words = 3,
                _ => {}
            }
        }
        for _ in 1..words {
            self.argument()?;
        }
        Ok(Some(Token::Key(place, first)))
    }
}

impl<'a> Iterator for Program<'a> {
    type Item = Result<Token<'a>, Unknown>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let token = match self.stage {
                Stage::Set => self.set(),
                Stage::Head => self.head(),
                Stage::Return => self.option(),
                Stage::Charset => self.charset(),
                Stage::Keys => self.key(),
                Stage::Over => return None,
            };
            if token.is_err() {
                self.stage = Stage::Over;
            }
            if let Some(token) = token.transpose() {
                return Some(token);
            }
        }
    }
}
