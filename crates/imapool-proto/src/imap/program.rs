//! The program of SEARCH, SORT and THREAD (RFC 9051 section 6.4.4, RFC 5256): which of its words are what.
//!
//! Only words are told apart, not how they are nested: `NOT`, `OR` and parentheses change what is found, never where
//! the arguments of a key end. Memory and stack do not depend on the program.

use std::ops::Range;

use super::command::{Command, Name};
use super::rewrite::Edit;

/// Where in a command something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Where {
    segment: usize,
    range: Range<usize>,
}

impl Where {
    /// What stands there.
    pub(super) fn text<'a>(&self, command: &'a Command) -> &'a [u8] {
        &command.segments[self.segment].text[self.range.clone()]
    }

    /// `text` instead.
    pub(super) fn edit(self, text: Vec<u8>) -> Edit {
        Edit { segment: self.segment, range: self.range, text }
    }
}

/// What matters of a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A word of RETURN (RFC 4731).
    Return(&'a [u8]),
    /// The keys begin here; of no length.
    Keys(Where),
    /// A set of message numbers, as a key.
    Set(Where),
    /// A set of UIDs, argument of UID.
    Uids(Where),
    /// RECENT, NEW or OLD.
    Recent(Where),
    /// `$`, or `UID $` (RFC 5182).
    Saved,
}

/// Why a program cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// A key that is not known.
    Key,
    /// Something is missing that has to be there.
    Malformed,
}

/// What follows a key.
pub(super) enum Arguments {
    /// As many strings, numbers, dates or atoms.
    Words(u8),
    /// A set of UIDs.
    Uids,
    /// `[entry-name entry-type] mod-sequence` (RFC 7162 section 3.1.5).
    ModSeq,
}

pub(super) fn arguments(key: &[u8]) -> Option<Arguments> {
    let mut name = [0; 20];
    let name = name.get_mut(..key.len())?;
    name.copy_from_slice(key);
    name.make_ascii_uppercase();
    Some(match &*name {
        // RFC 9051 section 6.4.4, RFC 3501; RFC 8514; RFC 6203, whose FUZZY is followed by a key as NOT and OR are.
        b"ALL" | b"ANSWERED" | b"DELETED" | b"DRAFT" | b"FLAGGED" | b"NEW" | b"OLD" | b"RECENT" | b"SEEN"
        | b"UNANSWERED" | b"UNDELETED" | b"UNDRAFT" | b"UNFLAGGED" | b"UNSEEN" | b"NOT" | b"OR"
        | b"SAVEDATESUPPORTED" | b"FUZZY" => Arguments::Words(0),
        b"BCC" | b"BODY" | b"CC" | b"FROM" | b"SUBJECT" | b"TEXT" | b"TO" | b"KEYWORD" | b"UNKEYWORD" | b"BEFORE"
        | b"ON" | b"SINCE" | b"SENTBEFORE" | b"SENTON" | b"SENTSINCE" | b"LARGER" | b"SMALLER" => Arguments::Words(1),
        // RFC 5032; RFC 8514; RFC 8474; RFC 5466; RFC 9738; Gmail's.
        b"OLDER" | b"YOUNGER" | b"SAVEDBEFORE" | b"SAVEDON" | b"SAVEDSINCE" | b"EMAILID" | b"THREADID" | b"FILTER"
        | b"UIDAFTER" | b"UIDBEFORE" | b"X-GM-RAW" | b"X-GM-MSGID" | b"X-GM-THRID" | b"X-GM-LABELS" => {
            Arguments::Words(1)
        }
        // An algorithm, and then a key (draft-ietf-morg-inthread).
        b"INTHREAD" => Arguments::Words(1),
        b"HEADER" => Arguments::Words(2),
        b"UID" => Arguments::Uids,
        b"MODSEQ" => Arguments::ModSeq,
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
    /// What comes before the keys.
    Head,
    /// In the parentheses of RETURN.
    Return,
    Charset,
    Keys,
    Over,
}

impl<'a> Program<'a> {
    /// Of SEARCH, SORT or THREAD, by UID or not.
    pub(super) fn new(command: &'a Command) -> Self {
        let text = &command.segments[0].text;
        let mut words = text.split(|b| *b == b' ');
        let verb = words.next().map_or(0, <[u8]>::len);
        let uid = text[..verb].eq_ignore_ascii_case(b"UID");
        let at = if uid { verb + 1 + words.next().map_or(0, <[u8]>::len) } else { verb };
        Self { command, segment: 0, at: at.min(text.len()), stage: Stage::Head }
    }

    fn text(&self) -> &'a [u8] {
        &self.command.segments[self.segment].text[self.at..]
    }

    fn here(&self) -> Where {
        Where { segment: self.segment, range: self.at..self.at }
    }

    /// Skips spaces and, with `parentheses`, what else does not matter between keys.
    fn skip(&mut self, parentheses: bool) {
        let between = |b: &&u8| **b == b' ' || (parentheses && matches!(**b, b'(' | b')'));
        self.at += self.text().iter().take_while(between).count();
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
        self.skip(false);
        self.word()
    }

    /// Takes the next word if it is this one.
    fn take(&mut self, name: &[u8]) -> bool {
        let text = self.text();
        let found = text.len() >= name.len() && text[..name.len()].eq_ignore_ascii_case(name);
        self.at += if found { name.len() } else { 0 };
        found
    }

    /// Up to the keys, or into RETURN.
    fn head(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.skip(false);
        if self.take(b"RETURN (") {
            self.stage = Stage::Return;
            return Ok(None);
        }
        self.charset()
    }

    /// Between RETURN and the keys: CHARSET; of SORT its criteria and charset, of THREAD algorithm and charset.
    fn charset(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.stage = Stage::Keys;
        self.skip(false);
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
        self.skip(false);
        Ok(Some(Token::Keys(self.here())))
    }

    fn option(&mut self) -> Result<Option<Token<'a>>, Unknown> {
        self.skip(false);
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
        self.skip(true);
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
        if [&b"RECENT"[..], b"NEW", b"OLD"].iter().any(|name| key.eq_ignore_ascii_case(name)) {
            return Ok(Some(Token::Recent(place)));
        }
        match arguments(key).ok_or(Unknown::Key)? {
            Arguments::Words(count) => {
                for _ in 0..count {
                    self.argument()?;
                }
            }
            Arguments::ModSeq => {
                if let Word::Quoted = self.argument()? {
                    self.argument()?;
                    self.argument()?;
                }
            }
            Arguments::Uids => {
                let Word::Atom(place) = self.argument()? else { return Err(Unknown::Key) };
                return Ok(Some(if place.text(self.command) == b"$" { Token::Saved } else { Token::Uids(place) }));
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Program<'a> {
    type Item = Result<Token<'a>, Unknown>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let token = match self.stage {
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

/// The length of the quoted string at the start of `text`, quotes included.
pub(super) fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|b| {
        let ends = *b == b'"' && !escaped;
        escaped = *b == b'\\' && !escaped;
        ends
    })?;
    Some(end + 2)
}
