//! A SEARCH that asks for nothing but numbers, UIDs and ALL: what it finds can be told without the server, also of
//! messages that are gone, as long as the session counts them.

use bytes::Bytes;

use super::command::{Command, Name, Segment};
use super::ranges::Ranges;
use super::sequence::{Number, SequenceSet};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    tag: Bytes,
    /// The options of RETURN (RFC 4731); `None`: the reply is a SEARCH.
    returns: Option<Vec<Vec<u8>>>,
    /// All of them have to hold; true: negated.
    keys: Vec<(bool, Key)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    All,
    Numbers(SequenceSet),
    Uids(SequenceSet),
}

impl Search {
    /// `None`: it asks for something else, is by UID, or is written in a way that is seldom.
    #[must_use]
    pub fn parse(command: &Command) -> Option<Self> {
        let [Segment { text, literal: None }] = &command.segments[..] else { return None };
        let at = text.iter().position(|b| *b == b' ').filter(|_| command.name == Name::Search)?;
        let text = text[..at].eq_ignore_ascii_case(b"SEARCH").then(|| text[at + 1..].to_ascii_uppercase())?;
        let (returns, text) = match text.strip_prefix(b"RETURN (") {
            Some(rest) => {
                let end = memchr::memchr(b')', rest).filter(|end| rest[*end + 1..].starts_with(b" "))?;
                let words = rest[..end].split(|b| *b == b' ').filter(|word| !word.is_empty());
                let words: Vec<_> = words.map(<[u8]>::to_vec).collect();
                (Some(if words.is_empty() { vec![b"ALL".to_vec()] } else { words }), &rest[end + 2..])
            }
            None => (None, &text[..]),
        };
        let known = |word: &Vec<u8>| matches!(&word[..], b"MIN" | b"MAX" | b"ALL" | b"COUNT");
        returns.iter().flatten().all(known).then_some(())?;
        let mut words = text.split(|b| *b == b' ');
        let mut keys = Vec::new();
        let mut negated = false;
        while let Some(word) = words.next() {
            let key = match word {
                b"NOT" => {
                    negated = !negated;
                    continue;
                }
                b"ALL" => Key::All,
                b"UID" => Key::Uids(SequenceSet::parse(words.next()?).ok()?),
                set => Key::Numbers(SequenceSet::parse(set).ok()?),
            };
            keys.push((std::mem::take(&mut negated), key));
        }
        (!negated).then_some(Self { tag: command.tag.clone(), returns, keys })
    }

    /// Whether UIDs have to be known for it.
    #[must_use]
    pub fn asks_uids(&self) -> bool {
        self.keys.iter().any(|(_, key)| matches!(key, Key::Uids(_)))
    }

    /// What is found, by the numbers of a session that counts `known` messages, the last of which has the UID
    /// `last_uid`; `by_uid` gives the numbers of those with these UIDs. `None`: it names numbers that no message has,
    /// of which the server may say what it likes.
    pub fn find(&self, known: u32, last_uid: u32, by_uid: impl Fn(&Ranges) -> Ranges) -> Option<Ranges> {
        let mut found = Ranges::from_runs(vec![(1, known)]);
        for (negated, key) in &self.keys {
            let hits = match key {
                Key::All => found.clone(),
                Key::Numbers(set) => {
                    let there = |end| !matches!(end, Number::Value(n) if n > known);
                    set.elements().iter().all(|it| there(it.from) && there(it.to)).then(|| set.resolve(known))?
                }
                Key::Uids(set) => by_uid(&set.resolve(last_uid)),
            };
            found = if *negated { found.difference(&hits) } else { found.intersection(&hits) };
        }
        Some(found)
    }

    /// The ESEARCH that says so (RFC 4731 section 3.1); `None`: it is to be a SEARCH.
    #[must_use]
    pub fn esearch(&self, found: &Ranges) -> Option<Bytes> {
        self.returns.as_ref().map(|options| esearch(&self.tag, options, found))
    }
}

/// The reply to a SEARCH without RETURN of who speaks IMAP4rev2 (RFC 9051 section 6.4.4).
#[must_use]
pub fn esearch_all(tag: &[u8], found: &Ranges) -> Bytes {
    esearch(tag, &[b"ALL".to_vec()], found)
}

fn esearch(tag: &[u8], options: &[Vec<u8>], found: &Ranges) -> Bytes {
    let mut reply = format!("* ESEARCH (TAG \"{}\")", String::from_utf8_lossy(tag));
    for option in options {
        reply += &match (&option[..], found.first(), found.last()) {
            (b"COUNT", ..) => format!(" COUNT {}", found.len()),
            (b"MIN", Some(first), _) => format!(" MIN {first}"),
            (b"MAX", _, Some(last)) => format!(" MAX {last}"),
            (b"ALL", Some(_), _) => format!(" ALL {found}"),
            _ => String::new(),
        };
    }
    (reply + "\r\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::rewrite::tests::command;

    /// Of five messages with the UIDs 11 to 15.
    fn found(line: &str) -> Option<String> {
        let search = Search::parse(&command(line))?;
        let by_uid = |uids: &Ranges| uids.iter().filter(|uid| (11..=15).contains(uid)).map(|uid| uid - 10).collect();
        let found = search.find(5, 15, by_uid)?;
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
            ("SEARCH RETURN () ALL", " ALL 1:5"),
            ("SEARCH RETURN (MIN MAX COUNT) NOT UID *", " MIN 1 MAX 4 COUNT 4"),
            ("SEARCH RETURN (MIN COUNT ALL) UID 9", " COUNT 0"),
        ] {
            assert_eq!(found(line).as_deref(), Some(expected), "{line}");
        }
    }

    #[test]
    fn what_the_server_has_to_say() {
        for line in [
            "SEARCH UNSEEN",
            "SEARCH 6",
            "SEARCH (ALL)",
            "SEARCH OR 1 2",
            "SEARCH NOT",
            "SEARCH UID",
            "SEARCH CHARSET UTF-8 ALL",
            "SEARCH RETURN (PARTIAL 1:2) ALL",
            "SEARCH RETURN (ALL)ALL",
            "UID SEARCH ALL",
            "SORT (DATE) UTF-8 ALL",
        ] {
            assert_eq!(found(line), None, "{line}");
        }
    }
}
