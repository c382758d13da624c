//! SEARCH (RFC 3501 section 6.4.4).

use bytes::Bytes;
use memchr::memmem;

use super::date;
use super::mime;
use super::parse::{ParseError, Parser, SequenceSet};
use super::reply::{Reply, uid_set};
use super::store::Message;

/// Keys within keys.
const MAX_DEPTH: usize = 50;

/// A search key.
#[derive(Debug, Clone)]
pub(super) enum Key {
    All,
    Numbers(SequenceSet),
    Uids(SequenceSet),
    Flag {
        name: String,
        set: bool,
    },
    Recent(bool),
    /// A substring of a header field; empty: the field exists.
    Header(String, Vec<u8>),
    Body(Vec<u8>),
    Text(Vec<u8>),
    Internal(Order, i64),
    Sent(Order, i64),
    Larger(u32),
    Smaller(u32),
    /// Changed at this mod-sequence or later.
    Modseq(u64),
    Not(Box<Key>),
    Or(Box<Key>, Box<Key>),
    And(Vec<Key>),
}

/// How a message's day lies to the one given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Before,
    On,
    Since,
}

/// A message in the eyes of one session.
pub(super) struct Candidate<'a> {
    pub(super) number: u32,
    pub(super) recent: bool,
    pub(super) message: &'a Message,
    /// The largest number and UID of the mailbox: what `*` stands for.
    pub(super) largest: (u32, u32),
}

/// The keys up to the end of the command, all of which must match.
pub(super) fn parse(p: &mut Parser) -> Result<Key, ParseError> {
    let mut keys = vec![key(p, 0)?];
    while p.eat(b' ') {
        keys.push(key(p, 0)?);
    }
    p.end()?;
    Ok(Key::And(keys))
}

fn key(p: &mut Parser, depth: usize) -> Result<Key, ParseError> {
    if depth > MAX_DEPTH {
        return Err(ParseError("fewer keys within keys"));
    }
    match p.peek() {
        Some(b'(') => {
            let keys = p.list(|p| key(p, depth + 1))?;
            return if keys.is_empty() { Err(ParseError("a search key")) } else { Ok(Key::And(keys)) };
        }
        Some(b'*' | b'0'..=b'9') => return p.sequence_set().map(Key::Numbers),
        _ => {}
    }
    let name = p.keyword()?;
    if let Some(key) = simple(&name) {
        return Ok(key);
    }
    p.space()?;
    Ok(match name.as_str() {
        "UID" => Key::Uids(p.sequence_set()?),
        "KEYWORD" => Key::Flag { name: p.flag()?, set: true },
        "UNKEYWORD" => Key::Flag { name: p.flag()?, set: false },
        "FROM" | "TO" | "CC" | "BCC" | "SUBJECT" => Key::Header(name, lower(&p.astring()?)),
        "HEADER" => {
            let field = String::from_utf8_lossy(&p.astring()?).into_owned();
            p.space()?;
            Key::Header(field, lower(&p.astring()?))
        }
        "BODY" => Key::Body(lower(&p.astring()?)),
        "TEXT" => Key::Text(lower(&p.astring()?)),
        "BEFORE" => Key::Internal(Order::Before, date::parse_imap_date(p)?),
        "ON" => Key::Internal(Order::On, date::parse_imap_date(p)?),
        "SINCE" => Key::Internal(Order::Since, date::parse_imap_date(p)?),
        "SENTBEFORE" => Key::Sent(Order::Before, date::parse_imap_date(p)?),
        "SENTON" => Key::Sent(Order::On, date::parse_imap_date(p)?),
        "SENTSINCE" => Key::Sent(Order::Since, date::parse_imap_date(p)?),
        "LARGER" => Key::Larger(p.number()?),
        "SMALLER" => Key::Smaller(p.number()?),
        "MODSEQ" => {
            if p.peek() == Some(b'"') {
                // Mod-sequences of single flags (RFC 7162 section 3.1.5): this server has but one.
                let (_entry, _kind) = (p.string()?, p.space().and_then(|()| p.keyword())?);
                p.space()?;
            }
            Key::Modseq(p.long_number()?)
        }
        "NOT" => Key::Not(Box::new(key(p, depth + 1)?)),
        "OR" => {
            let first = key(p, depth + 1)?;
            p.space()?;
            Key::Or(Box::new(first), Box::new(key(p, depth + 1)?))
        }
        _ => return Err(ParseError("a search key")),
    })
}

/// The keys without an argument.
fn simple(name: &str) -> Option<Key> {
    let flag = |name: &str, set| Some(Key::Flag { name: format!("\\{name}"), set });
    match name {
        "ALL" => Some(Key::All),
        "RECENT" => Some(Key::Recent(true)),
        "OLD" => Some(Key::Recent(false)),
        "NEW" => Some(Key::And(vec![Key::Recent(true), Key::Flag { name: "\\Seen".into(), set: false }])),
        "ANSWERED" | "DELETED" | "DRAFT" | "FLAGGED" | "SEEN" => flag(name, true),
        "UNANSWERED" | "UNDELETED" | "UNDRAFT" | "UNFLAGGED" | "UNSEEN" => flag(&name[2..], false),
        _ => None,
    }
}

fn lower(octets: &Bytes) -> Vec<u8> {
    octets.to_ascii_lowercase()
}

/// What a search is to give (RFC 4731): `RETURN (MIN MAX COUNT ALL)`.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    min: bool,
    max: bool,
    count: bool,
    all: bool,
}

impl Wanted {
    /// The options after `RETURN `; none of them is ALL.
    pub(super) fn parse(p: &mut Parser) -> Result<Self, ParseError> {
        let mut wanted = Self::default();
        let options = p.list(|p| {
            match p.keyword()?.as_str() {
                "MIN" => wanted.min = true,
                "MAX" => wanted.max = true,
                "COUNT" => wanted.count = true,
                "ALL" => wanted.all = true,
                _ => return Err(ParseError("an option of SEARCH")),
            }
            Ok(())
        })?;
        wanted.all |= options.is_empty();
        Ok(wanted)
    }

    /// `* ESEARCH (TAG "a") UID MIN 2 ALL 2:5`; `found` is ascending.
    pub(super) fn write(&self, tag: &str, by_uid: bool, found: &[u32], modseq: Option<u64>, out: &mut Reply) {
        let mut text = format!("ESEARCH (TAG \"{tag}\")");
        text.push_str(if by_uid { " UID" } else { "" });
        if let (Some(first), Some(last)) = (found.first(), found.last()) {
            for (wanted, value) in [(self.min, format!(" MIN {first}")), (self.max, format!(" MAX {last}"))] {
                text.push_str(if wanted { &value } else { "" });
            }
            if self.all {
                text.push_str(&format!(" ALL {}", uid_set(found)));
            }
        }
        if self.count {
            text.push_str(&format!(" COUNT {}", found.len()));
        }
        if let Some(modseq) = modseq {
            text.push_str(&format!(" MODSEQ {modseq}"));
        }
        out.untagged(&text);
    }
}

impl Key {
    /// Whether mod-sequences are asked for.
    pub(super) fn names_modseq(&self) -> bool {
        match self {
            Self::Modseq(_) => true,
            Self::Not(key) => key.names_modseq(),
            Self::Or(a, b) => a.names_modseq() || b.names_modseq(),
            Self::And(keys) => keys.iter().any(Self::names_modseq),
            _ => false,
        }
    }

    /// Whether a sequence set in the key is out of the mailbox's range.
    pub(super) fn numbers(&self) -> Vec<&SequenceSet> {
        match self {
            Self::Numbers(set) => vec![set],
            Self::Not(key) => key.numbers(),
            Self::Or(a, b) => [a.numbers(), b.numbers()].concat(),
            Self::And(keys) => keys.iter().flat_map(Key::numbers).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the message matches.
    pub(super) fn matches(&self, c: &Candidate<'_>) -> bool {
        let octets = &c.message.octets;
        match self {
            Self::All => true,
            Self::Numbers(set) => set.contains(c.number, c.largest.0),
            Self::Uids(set) => set.contains(c.message.uid, c.largest.1),
            Self::Flag { name, set } => c.message.flags.iter().any(|f| f.eq_ignore_ascii_case(name)) == *set,
            Self::Recent(recent) => c.recent == *recent,
            Self::Header(name, wanted) => {
                let header = &octets[..mime::header_end(octets)];
                mime::fields(header)
                    .filter(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))
                    .any(|(n, field)| holds(&field[n.len() + 1..], wanted))
            }
            Self::Body(wanted) => holds(&octets[mime::header_end(octets)..], wanted),
            Self::Text(wanted) => holds(octets, wanted),
            Self::Internal(order, day) => order.holds(c.message.date.day(), *day),
            Self::Sent(order, day) => {
                let field = mime::field(&octets[..mime::header_end(octets)], "Date");
                let sent = field.and_then(|f| date::message_day(&String::from_utf8_lossy(&f)));
                sent.is_some_and(|sent| order.holds(sent, *day))
            }
            Self::Larger(size) => octets.len() > *size as usize,
            Self::Modseq(modseq) => c.message.changed >= *modseq,
            Self::Smaller(size) => octets.len() < *size as usize,
            Self::Not(key) => !key.matches(c),
            Self::Or(a, b) => a.matches(c) || b.matches(c),
            Self::And(keys) => keys.iter().all(|k| k.matches(c)),
        }
    }
}

impl Order {
    fn holds(self, day: i64, wanted: i64) -> bool {
        match self {
            Self::Before => day < wanted,
            Self::On => day == wanted,
            Self::Since => day >= wanted,
        }
    }
}

/// Whether the text holds the string, which is in lower case; ASCII case does not matter.
fn holds(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || memmem::find(&text.to_ascii_lowercase(), wanted).is_some()
}
