//! Where message numbers stand in commands, and what becomes of them.

use proptest::prelude::*;

use super::*;
use crate::imap::command::parse_head;
use crate::imap::numbering::tests::{numbering, shared};
use crate::imap::ranges::Ranges;
use crate::imap::sequence::SequenceSet;

/// `{text}` is a literal.
pub(in crate::imap) fn command(line: &str) -> Command {
    let head = parse_head(format!("a {line}").as_bytes()).unwrap();
    let mut segments = Vec::new();
    let mut rest = line;
    while let Some((text, literal)) = rest.split_once('{') {
        let (literal, after) = literal.split_once('}').unwrap();
        let text = Bytes::copy_from_slice(text.as_bytes());
        segments.push(Segment { text, literal: Some((Bytes::copy_from_slice(literal.as_bytes()), false)) });
        rest = after;
    }
    segments.push(Segment { text: Bytes::copy_from_slice(rest.as_bytes()), literal: None });
    Command { tag: "a".into(), name: head.name, segments }
}

pub(in crate::imap) fn print(command: &Command) -> String {
    let mut line = String::new();
    for segment in &command.segments {
        line.push_str(std::str::from_utf8(&segment.text).unwrap());
        if let Some((literal, _)) = &segment.literal {
            line.push_str(&format!("{{{}}}", std::str::from_utf8(literal).unwrap()));
        }
    }
    line
}

/// Seven messages, 3 and 7 of them gone, and one the session does not know: server's 1 2 . 3 4 5 . | 6.
fn seven(exists: u32) -> Numbering {
    Numbering::new(Ranges::from_iter([3, 7]), 7, exists)
}

fn told(line: &str) -> String {
    match rewrite(&command(line), &seven(5)) {
        Outcome::Rewritten { command, missing } => format!("{}{}", print(&command), if missing { " !" } else { "" }),
        other => format!("{other:?}"),
    }
}

#[test]
fn sets_that_are_arguments() {
    for (line, mapped) in [
        ("FETCH 1 FLAGS", "FETCH 1 FLAGS"),
        ("FETCH 4 FLAGS", "FETCH 3 FLAGS"),
        ("fetch 6:2 (BODY[1.2]<0.5> UID)", "fetch 2:5 (BODY[1.2]<0.5> UID) !"),
        ("FETCH 3 FLAGS", "AllGone"),
        ("FETCH 3,7,3:3,* FLAGS", "AllGone"),
        ("STORE 2,3,4 +FLAGS.SILENT (\\Seen)", "STORE 2,3 +FLAGS.SILENT (\\Seen) !"),
        ("COPY 1:* 4", "COPY 1:5 4 !"),
        ("MOVE 5:* {4}", "MOVE 4:5 {4} !"),
        ("REPLACE 4 INBOX {}", "REPLACE 3 INBOX {}"),
        ("UID FETCH 1:* FLAGS", "Unchanged"),
        ("UID STORE 4 FLAGS ()", "Unchanged"),
        ("STORE $ FLAGS ()", "Unmappable"),
        ("FETCH 1,,2 FLAGS", "Malformed"),
        ("FETCH 0 FLAGS", "Malformed"),
        ("FETCH", "Malformed"),
        ("XYZZY 4", "Unmappable"),
        ("NOOP", "Unchanged"),
        ("LIST \"\" 4", "Unchanged"),
        // None of the session's messages: none of the server's, so that it says what it says to that.
        ("FETCH 8 FLAGS", "FETCH 6 FLAGS"),
        ("FETCH 4:12 FLAGS", "FETCH 3:5,10 FLAGS !"),
        ("FETCH 4294967295 FLAGS", "FETCH 4294967293 FLAGS"),
        ("FETCH 9:* FLAGS", "FETCH 7 FLAGS !"),
    ] {
        assert_eq!(told(line), mapped, "{line}");
    }
}

#[test]
fn star_where_the_last_message_is_the_sessions() {
    let numbering = Numbering::new(Ranges::from_iter([3]), 7, 6);
    let told = |line: &str| match rewrite(&command(line), &numbering) {
        Outcome::Rewritten { command, .. } => print(&command),
        other => format!("{other:?}"),
    };
    assert_eq!(told("FETCH * FLAGS"), "FETCH 6 FLAGS");
    assert_eq!(told("FETCH 9:* FLAGS"), "FETCH 8:* FLAGS");
    // Empty for the session, not for the server (RFC 9051 section 9: `*` is an error then).
    let empty = Numbering::new(Ranges::new(), 0, 3);
    for (line, mapped) in [("FETCH 1:* FLAGS", "FETCH 4 FLAGS"), ("FETCH * FLAGS", "FETCH 4 FLAGS")] {
        match rewrite(&command(line), &empty) {
            Outcome::Rewritten { command, missing: false } => assert_eq!(print(&command), mapped),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn keys_of_searches() {
    for (line, mapped) in [
        ("SEARCH 4", "SEARCH 3"),
        ("SEARCH SEEN", "Unchanged"),
        ("SEARCH 3", "SEARCH NOT ALL"),
        ("SEARCH NOT 3 OR 7 (4 SEEN)", "SEARCH NOT NOT ALL OR NOT ALL (3 SEEN)"),
        ("SEARCH SUBJECT 4 4", "SEARCH SUBJECT 4 3"),
        ("SEARCH HEADER 4 \"5 6\" 4 TEXT {7 8} 5", "SEARCH HEADER 4 \"5 6\" 3 TEXT {7 8} 4"),
        ("SEARCH CHARSET 4 TO \"a\\\"4\" 4", "SEARCH CHARSET 4 TO \"a\\\"4\" 3"),
        ("SEARCH CHARSET {4} {ab}", "Unmappable"),
        ("SEARCH RETURN (MIN PARTIAL 4:5) CHARSET UTF-8 4", "SEARCH RETURN (MIN PARTIAL 4:5) CHARSET UTF-8 3"),
        ("SEARCH RETURN () 4:*", "SEARCH RETURN () 3:5"),
        ("SEARCH LARGER 4 SMALLER 5 OLDER 6 YOUNGER 4 4", "SEARCH LARGER 4 SMALLER 5 OLDER 6 YOUNGER 4 3"),
        ("SEARCH MODSEQ 4 4", "SEARCH MODSEQ 4 3"),
        ("SEARCH MODSEQ \"/flags/\\\\draft\" all 4 4", "SEARCH MODSEQ \"/flags/\\\\draft\" all 4 3"),
        ("SEARCH UID 4 4 UID 4:*,5", "SEARCH UID 4 3 UID 4:*,5"),
        ("SEARCH KEYWORD 4 UNKEYWORD 5 4", "SEARCH KEYWORD 4 UNKEYWORD 5 3"),
        ("SEARCH SINCE 4-Jan-2020 ON \"4-Jan-2020\" 4", "SEARCH SINCE 4-Jan-2020 ON \"4-Jan-2020\" 3"),
        (
            "SEARCH FUZZY 4 SAVEDATESUPPORTED SAVEDON 4-Jan-2020 4",
            "SEARCH FUZZY 3 SAVEDATESUPPORTED SAVEDON 4-Jan-2020 3",
        ),
        ("SEARCH EMAILID 4 THREADID 5 FILTER 6 4", "SEARCH EMAILID 4 THREADID 5 FILTER 6 3"),
        ("SEARCH INTHREAD REFS 4", "SEARCH INTHREAD REFS 3"),
        ("search ((not(4)))", "search ((not(3)))"),
        ("UID SEARCH 4 UID 4", "UID SEARCH 3 UID 4"),
        ("SORT (SUBJECT) UTF-8 4 FROM 4", "SORT (SUBJECT) UTF-8 3 FROM 4"),
        ("UID SORT RETURN (ALL) (REVERSE DATE) 4 4", "UID SORT RETURN (ALL) (REVERSE DATE) 4 3"),
        ("THREAD REFERENCES 4 4", "THREAD REFERENCES 4 3"),
        ("SEARCH $", "Unmappable"),
        ("SEARCH NOT UID $", "Unmappable"),
        ("SEARCH X-WEIRD 4", "Unmappable"),
        ("SEARCH \"4\"", "Unmappable"),
        ("SEARCH {4}", "Unmappable"),
        ("SEARCH THISKEYISLONGERTHANANYTHATISKNOWN 4", "Unmappable"),
        ("SEARCH 4,x", "Malformed"),
        ("SEARCH HEADER 4", "Malformed"),
        ("SEARCH SUBJECT (4)", "Malformed"),
        ("SEARCH SUBJECT \"4", "Malformed"),
        ("SORT SUBJECT UTF-8 4", "Malformed"),
        ("THREAD REFERENCES UTF-8", "Malformed"),
        ("ESEARCH IN (mailboxes x) 4", "Unmappable"),
    ] {
        assert_eq!(told(line), mapped, "{line}");
    }
}

#[test]
fn messages_that_the_session_does_not_know_match_nothing() {
    for (line, mapped) in [
        ("SEARCH SEEN", "SEARCH 1:5 SEEN"),
        ("SEARCH RETURN (COUNT) CHARSET X 4", "SEARCH RETURN (COUNT) CHARSET X 1:5 3"),
        ("SORT (DATE) X ALL", "SORT (DATE) X 1:5 ALL"),
        ("UID SEARCH 4", "UID SEARCH 3"),
    ] {
        match rewrite(&command(line), &seven(6)) {
            Outcome::Rewritten { command, missing: false } => assert_eq!(print(&command), mapped),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rewrite(&command("UID SEARCH SEEN"), &seven(6)), Outcome::Unchanged);
    assert_eq!(rewrite(&command("SEARCH $"), &Numbering::new(Ranges::new(), 3, 3)), Outcome::Unchanged);
}

#[test]
fn uses_of_commands() {
    let none = Uses::default();
    for (line, expected) in [
        ("FETCH 1 FLAGS", Uses { numbers: true, ..none }),
        ("FETCH 1:* FLAGS", Uses { numbers: true, ..none }),
        ("UID FETCH 1:* FLAGS", none),
        ("UID COPY 1 *", none),
        ("COPY $ x", Uses { saved_result: true, ..none }),
        ("UID SEARCH SUBJECT * 4", Uses { numbers: true, ..none }),
        ("SEARCH UID 4:*", none),
        ("SEARCH RETURN (save) $", Uses { saves_result: true, saved_result: true, ..none }),
        ("SEARCH RETURN (UPDATE COUNT) ALL", Uses { context: true, ..none }),
        ("SEARCH RETURN (CONTEXT) ALL", Uses { context: true, ..none }),
        ("SEARCH X-WEIRD", none),
        ("XYZZY", none),
        ("NOOP", none),
    ] {
        assert_eq!(uses(&command(line)), expected, "{line}");
    }
}

/// A key that matches by number alone, as text, and whether it matches message `n`.
#[derive(Debug, Clone)]
enum Key {
    Set(Vec<(u32, u32)>),
    Not(Box<Key>),
    Or(Box<Key>, Box<Key>),
    And(Vec<Key>),
}

fn key(last: u32) -> impl Strategy<Value = Key> {
    // With 0 for `*`.
    let set = proptest::collection::vec((0..=last, 0..=last), 1..3).prop_map(Key::Set);
    set.prop_recursive(4, 20, 3, |key| {
        prop_oneof![
            key.clone().prop_map(|key| Key::Not(key.into())),
            (key.clone(), key.clone()).prop_map(|(a, b)| Key::Or(a.into(), b.into())),
            proptest::collection::vec(key, 1..3).prop_map(Key::And),
        ]
    })
}

impl Key {
    fn text(&self) -> String {
        let number = |n: &u32| if *n == 0 { "*".to_owned() } else { n.to_string() };
        match self {
            Self::Set(set) => {
                let set: Vec<_> = set.iter().map(|(a, b)| format!("{}:{}", number(a), number(b))).collect();
                set.join(",")
            }
            Self::Not(key) => format!("NOT {}", key.text()),
            Self::Or(a, b) => format!("OR {} {}", a.text(), b.text()),
            Self::And(keys) => format!("({})", keys.iter().map(Self::text).collect::<Vec<_>>().join(" ")),
        }
    }

    fn matches(&self, n: u32, star: u32) -> bool {
        match self {
            Self::Set(_) => SequenceSet::parse(self.text().as_bytes()).unwrap().resolve(star).contains(n),
            Self::Not(key) => !key.matches(n, star),
            Self::Or(a, b) => a.matches(n, star) || b.matches(n, star),
            Self::And(keys) => keys.iter().all(|key| key.matches(n, star)),
        }
    }
}

/// A naive server: evaluates the keys that the rewriting makes.
fn evaluate(words: &mut std::iter::Peekable<std::vec::IntoIter<String>>, n: u32, star: u32) -> bool {
    match words.next().unwrap().as_str() {
        "ALL" => true,
        "NOT" => !evaluate(words, n, star),
        "OR" => {
            let (a, b) = (evaluate(words, n, star), evaluate(words, n, star));
            a || b
        }
        "(" => {
            let mut all = true;
            while words.peek().unwrap() != ")" {
                all &= evaluate(words, n, star);
            }
            words.next();
            all
        }
        set => SequenceSet::parse(set.as_bytes()).unwrap().resolve(star).contains(n),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_search_finds_what_the_session_means(
        (numbering, key) in numbering().prop_flat_map(|n| { let last = n.known(); (Just(n), key(last)) }),
    ) {
        prop_assume!(numbering.known() > 0);
        let line = format!("SEARCH {}", key.text());
        let sent = match rewrite(&command(&line), &numbering) {
            Outcome::Rewritten { command, .. } => print(&command),
            Outcome::Unchanged => line,
            other => panic!("{other:?}"),
        };
        let program = format!("( {} )", sent["SEARCH ".len()..].replace('(', "( ").replace(')', " )"));
        let words: Vec<String> = program.split(' ').map(str::to_owned).collect();
        let found: Vec<u32> = (1..=numbering.exists())
            .filter(|n| evaluate(&mut words.clone().into_iter().peekable(), *n, numbering.exists()))
            .filter_map(|n| numbering.back(n))
            .collect();
        let meant: Vec<u32> =
            shared(&numbering).into_iter().filter(|n| key.matches(*n, numbering.known())).collect();
        prop_assert_eq!(found, meant, "{}", sent);
    }

    #[test]
    fn a_fetch_asks_for_what_is_left(
        (numbering, set) in numbering().prop_flat_map(|n| {
            let last = n.known() + 3;
            (Just(n), proptest::collection::vec((1..=last, 1..=last), 1..4))
        }),
    ) {
        let text = set.iter().map(|(a, b)| format!("{a}:{b}")).collect::<Vec<_>>().join(",");
        let all = SequenceSet::parse(text.as_bytes()).unwrap().resolve(1);
        let left: Ranges = all.iter().filter_map(|n| numbering.forward(n)).collect();
        let gone = all.iter().any(|n| numbering.gone().contains(n));
        let invalid = all.last() > Some(numbering.known());
        match rewrite(&command(&format!("FETCH {text} X")), &numbering) {
            Outcome::Rewritten { command, missing } => {
                let sent = SequenceSet::parse(command.arguments().word().unwrap()).unwrap().resolve(1);
                let valid: Ranges = sent.iter().filter(|m| *m <= numbering.exists()).collect();
                prop_assert_eq!((&valid, missing), (&left, gone));
                prop_assert_eq!(sent.len() > valid.len(), invalid, "the server shall complain");
            }
            Outcome::AllGone => prop_assert!(left.is_empty() && gone && !invalid),
            Outcome::Unchanged => prop_assert!(numbering.is_identity()),
            other => panic!("{other:?}"),
        }
    }
}
