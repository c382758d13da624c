//! Searches of who counts messages that are gone. What asks for nothing but numbers, UIDs and ALL can be told without
//! the server; of what asks for more, what is known of those that are gone decides whether they are found.

use std::iter::Peekable;

use bytes::Bytes;

use super::command::{Command, Name};
use super::program::{Program, Token, Where};
use super::ranges::Ranges;
use super::rewrite::is_uid;
use super::sequence::{SequenceSet, nz_number};

/// Parentheses, NOT and OR within each other that are followed.
const DEEP: u32 = 32;
/// Options of RETURN.
const OPTIONS: [&[u8]; 4] = [b"MIN", b"MAX", b"ALL", b"COUNT"];

/// A SEARCH or UID SEARCH that can be judged here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    tag: Bytes,
    uid: bool,
    /// The options of RETURN (RFC 4731, RFC 9394); `None`: the reply is a SEARCH.
    returns: Option<Vec<Returned>>,
    key: Key,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Returned {
    Item(&'static [u8]),
    /// As it is written; the first and the last, counted from the end if they are negative.
    Partial(Bytes, bool, u32, u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    /// All of them have to hold.
    All(Vec<Key>),
    Numbers(SequenceSet),
    Uids(SequenceSet),
    /// A flag, in capital letters.
    Flag(Vec<u8>),
    /// What only the server knows.
    Other,
    Not(Box<Key>),
}

/// Those messages of which it is known whether a key holds.
#[derive(Debug, Clone, Default)]
struct Known {
    yes: Ranges,
    no: Ranges,
}

/// What is known of messages, by the numbers of the session.
pub struct Facts<'a> {
    /// How many the session counts.
    pub known: u32,
    /// The UID of the last; 0: it is not known.
    pub last_uid: u32,
    /// The numbers of those with these UIDs; `None`: not all UIDs are known.
    pub by_uid: &'a dyn Fn(&Ranges) -> Option<Ranges>,
    /// Whether a message has a flag, in capital letters; `None`: it is not known.
    pub has_flag: &'a dyn Fn(u32, &[u8]) -> Option<bool>,
}

impl Search {
    /// `None`: its reply would be of another kind, or it is written in a way that is seldom.
    #[must_use]
    pub fn parse(command: &Command) -> Option<Self> {
        let mut tokens = Program::new(command).peekable();
        let returns = if tokens.next_if_eq(&Ok(Token::Returns)).is_some() { Some(options(&mut tokens)?) } else { None };
        let begins = command.name == Name::Search && matches!(tokens.next(), Some(Ok(Token::Keys(_))));
        let key = all_of(&mut tokens, command, DEEP).filter(|_| begins && tokens.next().is_none())?;
        Some(Self { tag: command.tag.clone(), uid: is_uid(command), returns, key })
    }

    /// Whether what it finds is told by UIDs.
    pub fn is_by_uid(&self) -> bool {
        self.uid
    }

    /// Whether numbers, UIDs and ALL are all that it asks for.
    pub fn is_decided(&self) -> bool {
        self.key.all(&|key| !matches!(key, Key::Flag(_) | Key::Other))
    }

    /// Whether UIDs have to be known for it.
    pub fn asks_uids(&self) -> bool {
        !self.key.all(&|key| !matches!(key, Key::Uids(_)))
    }

    /// Those of `among` that are found, as far as it is known. `None`: it names numbers that no message has, of which
    /// the server may say what it likes.
    #[must_use]
    pub fn find(&self, among: &Ranges, facts: &Facts<'_>) -> Option<Ranges> {
        let named = |key: &Key| match key {
            Key::Numbers(set) => set.0.iter().all(|element| element.is_within(facts.known)),
            _ => true,
        };
        self.key.all(&named).then(|| self.key.judge(among, facts).yes)
    }

    /// What the server is to be asked, so that what it finds can be joined with what is found here.
    #[must_use]
    pub fn asking_for_all(&self, command: &Command) -> Option<Command> {
        self.returns.as_ref()?;
        let mut command = command.clone();
        let text = &command.segments.first()?.text;
        let start = text.iter().position(|b| *b == b'(')?;
        let end = memchr::memchr(b')', &text[start..])? + start;
        command.segments[0].text = [&text[..start], b"(ALL)", &text[end + 1..]].concat().into();
        Some(command)
    }

    /// The ESEARCH that says so (RFC 4731 section 3.1); `None`: it is to be a SEARCH.
    #[must_use]
    pub fn esearch(&self, found: &Ranges) -> Option<Bytes> {
        self.returns.as_ref().map(|options| self.with(options, found))
    }

    /// The reply to a SEARCH without RETURN of who speaks IMAP4rev2 (RFC 9051 section 6.4.4).
    #[must_use]
    pub fn esearch_all(&self, found: &Ranges) -> Bytes {
        self.with(&[Returned::Item(b"ALL")], found)
    }

    fn with(&self, options: &[Returned], found: &Ranges) -> Bytes {
        let mut reply = format!("* ESEARCH (TAG \"{}\")", String::from_utf8_lossy(&self.tag));
        if self.uid {
            reply += " UID";
        }
        for option in options {
            reply += &match (option, found.first(), found.last()) {
                (Returned::Item(b"COUNT"), ..) => format!(" COUNT {}", found.len()),
                (Returned::Item(b"MIN"), Some(first), _) => format!(" MIN {first}"),
                (Returned::Item(b"MAX"), _, Some(last)) => format!(" MAX {last}"),
                (Returned::Item(b"ALL"), Some(_), _) => format!(" ALL {found}"),
                (Returned::Partial(text, back, first, last), ..) => {
                    let part = part(found, *back, *first, *last);
                    let set = if part.is_empty() { "NIL".to_owned() } else { part.to_string() };
                    format!(" PARTIAL ({} {set})", String::from_utf8_lossy(text))
                }
                _ => String::new(),
            };
        }
        (reply + "\r\n").into()
    }
}

/// From the `first` to the `last` of them, `back`: counted from the last.
fn part(found: &Ranges, back: bool, first: u32, last: u32) -> Ranges {
    let (first, last) = (first.min(last), first.max(last).min(found.len()));
    if first > last {
        return Ranges::new();
    }
    let (first, last) = if back { (found.len() + 1 - last, found.len() + 1 - first) } else { (first, last) };
    let ends = found.nth(first).zip(found.nth(last));
    ends.map_or_else(Ranges::new, |(first, last)| found.within(first..=last).collect())
}

type Tokens<'a> = Peekable<Program<'a>>;

fn options(tokens: &mut Tokens<'_>) -> Option<Vec<Returned>> {
    let mut options = Vec::new();
    let mut words = std::iter::from_fn(|| match tokens.next_if(|token| matches!(token, Ok(Token::Return(_)))) {
        Some(Ok(Token::Return(word))) => Some(word),
        _ => None,
    });
    while let Some(word) = words.next() {
        let word = word.to_ascii_uppercase();
        options.push(match OPTIONS.iter().find(|option| **option == word) {
            Some(option) => Returned::Item(option),
            None if word == b"PARTIAL" => partial(words.next()?)?,
            None => return None,
        });
    }
    if options.is_empty() {
        options.push(Returned::Item(b"ALL"));
    }
    Some(options)
}

/// `1:100`, or `-1:-100` (RFC 9394 section 3.1).
fn partial(text: &[u8]) -> Option<Returned> {
    let colon = memchr::memchr(b':', text)?;
    let (first, last) = (&text[..colon], &text[colon + 1..]);
    let (back, first, last) = match (first.strip_prefix(b"-"), last.strip_prefix(b"-")) {
        (Some(first), Some(last)) => (true, first, last),
        _ => (false, first, last),
    };
    Some(Returned::Partial(Bytes::copy_from_slice(text), back, nz_number(first)?, nz_number(last)?))
}

/// Keys up to a parenthesis, or the end.
fn all_of(tokens: &mut Tokens<'_>, command: &Command, deep: u32) -> Option<Key> {
    let mut all = vec![key(tokens, command, deep)?];
    while !matches!(tokens.peek(), None | Some(Ok(Token::Close))) {
        all.push(key(tokens, command, deep)?);
    }
    Some(Key::All(all))
}

fn key(tokens: &mut Tokens<'_>, command: &Command, deep: u32) -> Option<Key> {
    let deep = deep.checked_sub(1)?;
    let set = |place: Where| SequenceSet::parse(place.text(command)).ok();
    let (place, argument) = match tokens.next()?.ok()? {
        Token::Open => return all_of(tokens, command, deep).filter(|_| tokens.next() == Some(Ok(Token::Close))),
        Token::Set(place) => return set(place).map(Key::Numbers),
        Token::Uids(place) => return set(place).map(Key::Uids),
        Token::Key(place, argument) => (place, argument),
        _ => return None,
    };
    let word = place.text(command).to_ascii_uppercase();
    let flag = |name: &[u8]| Key::Flag([b"\\", name].concat());
    let keyword = || Some(Key::Flag(argument?.to_ascii_uppercase()));
    let not = |key| Key::Not(Box::new(key));
    Some(match &word[..] {
        b"NOT" => not(key(tokens, command, deep)?),
        b"OR" => {
            let neither = [key(tokens, command, deep)?, key(tokens, command, deep)?].map(not);
            not(Key::All(neither.into()))
        }
        b"ALL" => Key::All(Vec::new()),
        b"ANSWERED" | b"DELETED" | b"DRAFT" | b"FLAGGED" | b"SEEN" | b"RECENT" => flag(&word),
        b"UNANSWERED" | b"UNDELETED" | b"UNDRAFT" | b"UNFLAGGED" | b"UNSEEN" => not(flag(&word[2..])),
        b"OLD" => not(flag(b"RECENT")),
        b"NEW" => Key::All(vec![flag(b"RECENT"), not(flag(b"SEEN"))]),
        b"KEYWORD" => keyword()?,
        b"UNKEYWORD" => not(keyword()?),
        // Each is followed by another key; of the last, the reply tells a mod-sequence.
        b"FUZZY" | b"INTHREAD" | b"MODSEQ" => return None,
        _ => Key::Other,
    })
}

impl Key {
    fn all(&self, holds: &dyn Fn(&Self) -> bool) -> bool {
        match self {
            Self::Not(key) => key.all(holds),
            Self::All(keys) => keys.iter().all(|key| key.all(holds)),
            key => holds(key),
        }
    }

    fn judge(&self, among: &Ranges, facts: &Facts<'_>) -> Known {
        let known = |hits: &Ranges| Known { yes: among.intersection(hits), no: among.difference(hits) };
        match self {
            Self::Numbers(set) => known(&set.resolve(facts.known)),
            Self::Uids(set) => match (facts.last_uid, set.has_star()) {
                (0, true) => Known::default(),
                (last, _) => (facts.by_uid)(&set.resolve(last)).map_or_else(Known::default, |hits| known(&hits)),
            },
            Self::Flag(flag) => {
                let mut known = Known::default();
                for number in among.iter() {
                    match (facts.has_flag)(number, flag) {
                        Some(true) => drop(known.yes.insert(number)),
                        Some(false) => drop(known.no.insert(number)),
                        None => {}
                    }
                }
                known
            }
            Self::Other => Known::default(),
            Self::Not(key) => {
                let Known { yes, no } = key.judge(among, facts);
                Known { yes: no, no: yes }
            }
            Self::All(keys) => {
                let mut all = Known { yes: among.clone(), no: Ranges::new() };
                for Known { yes, no } in keys.iter().map(|key| key.judge(among, facts)) {
                    all.yes = all.yes.intersection(&yes);
                    all.no.insert_all(&no);
                }
                all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::rewrite::tests::command;

    /// Of five messages with the UIDs 11 to 15, of which the first has \Seen and $X, and nothing is known of the third.
    fn found(line: &str) -> Option<String> {
        let search = Search::parse(&command(line))?;
        let by_uid =
            |uids: &Ranges| Some(uids.iter().filter(|uid| (11..=15).contains(uid)).map(|uid| uid - 10).collect());
        let has_flag =
            |number, flag: &[u8]| (number != 3).then_some(number == 1 && [&b"\\SEEN"[..], b"$X"].contains(&flag));
        let facts = Facts { known: 5, last_uid: 15, by_uid: &by_uid, has_flag: &has_flag };
        let found = search.find(&Ranges::from_runs(vec![(1, 5)]), &facts)?;
        let esearch = search.esearch(&found).map(|reply| String::from_utf8(reply.to_vec()).unwrap());
        Some(esearch.map_or(found.to_string(), |reply| reply.trim_end().split_once(')').unwrap().1.to_owned()))
    }

    #[test]
    fn what_needs_no_server() {
        for (line, expected) in [
            ("SEARCH ALL", "1:5"),
            ("search not 2 all", "1,3:5"),
            ("SEARCH NOT NOT 2:* UID 13:*", "3:5"),
            ("SEARCH UID 99", ""),
            ("SEARCH OR 1 (2:4 NOT 3)", "1:2,4"),
            ("SEARCH (ALL)", "1:5"),
            ("SEARCH NOT (1 2)", "1:5"),
            ("SEARCH CHARSET UTF-8 NOT OR 1 UID 12", "3:5"),
            ("SEARCH CHARSET \"UTF-8\" 2", "2"),
            ("SEARCH RETURN () ALL", " ALL 1:5"),
            ("SEARCH RETURN (MIN MAX COUNT) NOT UID *", " MIN 1 MAX 4 COUNT 4"),
            ("SEARCH RETURN (MIN COUNT ALL) UID 9", " COUNT 0"),
            ("SEARCH RETURN (PARTIAL 2:3) NOT 2", " PARTIAL (2:3 3:4)"),
            ("SEARCH RETURN (PARTIAL -1:-2 COUNT) NOT 2", " PARTIAL (-1:-2 4:5) COUNT 4"),
            ("SEARCH RETURN (PARTIAL 6:9) ALL", " PARTIAL (6:9 NIL)"),
        ] {
            assert_eq!(found(line).as_deref(), Some(expected), "{line}");
            assert!(Search::parse(&command(line)).unwrap().is_decided(), "{line}");
        }
    }

    #[test]
    fn what_is_known_of_some() {
        for (line, expected) in [
            ("SEARCH SEEN", "1"),
            ("SEARCH UNSEEN", "2,4:5"),
            ("SEARCH OR 3 KEYWORD $x", "1,3"),
            ("SEARCH NOT (SEEN 1:2)", "2:5"),
            ("SEARCH NEW", ""),
            ("SEARCH OLD", "1:2,4:5"),
            ("SEARCH SUBJECT \"a (b\" 1:2", ""),
            ("SEARCH OR 2 HEADER X \"\"", "2"),
            ("SEARCH NOT (FROM x 2)", "1,3:5"),
        ] {
            assert_eq!(found(line).as_deref(), Some(expected), "{line}");
            assert!(!Search::parse(&command(line)).unwrap().is_decided(), "{line}");
        }
    }

    #[test]
    fn what_the_server_has_to_say() {
        let deep = format!("SEARCH {}ALL", "NOT ".repeat(40));
        for line in [
            "SEARCH 6",
            "SEARCH",
            "SEARCH ()",
            "SEARCH (ALL",
            "SEARCH ALL)",
            "SEARCH OR 1",
            "SEARCH NOT",
            "SEARCH UID",
            "SEARCH MODSEQ 5",
            "SEARCH FUZZY ALL",
            "SEARCH XYZZY 1",
            "SEARCH RETURN (SAVE) ALL",
            "SORT (DATE) UTF-8 ALL",
            &deep,
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }

    #[test]
    fn the_server_is_asked_for_all() {
        let command = command("UID SEARCH RETURN (COUNT PARTIAL 1:2) 1:2 UNSEEN");
        let search = Search::parse(&command).unwrap();
        let asked = search.asking_for_all(&command).unwrap();
        assert_eq!(&asked.segments[0].text[..], b"UID SEARCH RETURN (ALL) 1:2 UNSEEN");
    }
}
