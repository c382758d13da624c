//! Properties of the upstream machine: how a backend's octets are cut on their way changes nothing, and a slow and
//! simple reader of the whole stream finds the same ends of replies.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{command, connected};
use crate::imap::MAX_WHOLE_LINE;
use crate::imap::request::Request;
use crate::imap::response::CLASSIFY;
use crate::imap::untagged::{Divider, Part, Replies};
use crate::upstream::machine::*;

/// Everything a session gets, in order.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    octets: Vec<u8>,
    /// What else came, and after how many octets.
    marks: Vec<(usize, String)>,
    error: Option<ProtocolError>,
}

/// Plays `parts` to a machine in pieces, each cut at `cuts` (modulo what is left of it). It has the first of
/// `commands` to begin with, and the next after each reply, as far as they go.
fn hear(parts: &[Vec<u8>], cuts: &[usize], commands: &[&str]) -> Heard {
    let mut machine = connected("IMAP4rev1 LITERAL+ UNSELECT");
    // Its own: what is said of messages is passed on.
    machine.facts.selected = Some(Bytes::from_static(b"Sx"));
    machine.fresh = false;
    let mut heard = Heard::default();
    let mut commands = commands.iter();
    let mut give = |machine: &mut Machine| {
        let Some(octets) = commands.next() else { return };
        let (command, streams) = command(octets.as_bytes());
        machine.handle_command(Request::new(command, streams));
        let _ = machine.poll_transmit();
    };
    give(&mut machine);
    let mut input = BytesMut::new();
    let mut cuts = cuts.iter().cycle();
    for part in parts {
        let mut rest = &part[..];
        while !rest.is_empty() {
            let (piece, next) = rest.split_at(cuts.next().map_or(rest.len(), |cut| cut % rest.len() + 1));
            rest = next;
            input.extend_from_slice(piece);
            if let Err(error) = machine.handle_input(&mut input) {
                heard.error = Some(error);
                return heard;
            }
            assert!(input.len() <= MAX_WHOLE_LINE, "unbounded: {}", input.len());
            heard.take(&mut machine);
        }
        if machine.is_clean() {
            assert!(machine.at_line_start() && !machine.is_waiting());
            give(&mut machine);
        }
    }
    heard
}

impl Heard {
    fn take(&mut self, machine: &mut Machine) {
        while let Some(event) = machine.poll_event() {
            match event {
                Event::Data(octets) => {
                    assert!(!octets.is_empty());
                    self.octets.extend_from_slice(&octets);
                }
                // Of many in a row, how many are told depends on how they come.
                Event::Ignored(..) => {}
                other => self.marks.push((self.octets.len(), format!("{other:?}"))),
            }
        }
    }
}

/// Parts, those of one kind that follow each other as one.
#[derive(Debug, Default, PartialEq)]
struct Spelled(Vec<(String, Vec<u8>)>);

impl Spelled {
    fn note(&mut self, replies: &Replies) {
        for part in replies.parts() {
            let (kind, octets) = match &part {
                Part::Begin(reply) => (format!("{reply:?}"), Vec::new()),
                Part::Text { octets, .. } => ("text".into(), octets.to_vec()),
                Part::Literal(octets) => ("literal".into(), octets.to_vec()),
            };
            match self.0.last_mut() {
                Some((last, all)) if *last == kind && !matches!(part, Part::Begin(_)) => all.extend(octets),
                _ => self.0.push((kind, octets)),
            }
            if matches!(part, Part::Text { ends: true, .. }) {
                self.0.push(("end".into(), Vec::new()));
            }
        }
    }
}

/// A generated reply: its octets, and the tagged line that must be found at its end.
#[derive(Debug, Clone)]
struct Reply {
    data: Vec<Vec<u8>>,
    status: &'static str,
    text: String,
}

/// Octets as literals and 8-bit texts have them, with a liking for what looks like protocol.
fn wild(len: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"\r\ni0 OK done\r\n".to_vec()),
        Just(b"\r\ni1 OK done\r\n".to_vec()),
        Just(b"{5}\r\n".to_vec()),
        Just(b"* BYE x\r\n".to_vec()),
        Just(b"\n".to_vec()),
        vec(any::<u8>(), 0..10),
    ];
    vec(piece, 0..len).prop_map(|pieces| pieces.concat())
}

/// Text within a line.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,40}", Just("{5} x".into()), Just("x{3}y \"{4}\"".into()), Just("ü {+}".into())]
}

fn token() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-zA-Z0-9().:]{1,20}".prop_map(String::into_bytes),
        2 => text().prop_map(|text| format!("\"{}\"", text.replace(['"', '\\'], "'")).into_bytes()),
        1 => (wild(6), any::<bool>()).prop_map(|(octets, binary)| {
            let mut out = format!("{}{{{}}}\r\n", if binary { "~" } else { "" }, octets.len()).into_bytes();
            out.extend(octets);
            out.push(b')');
            out
        }),
        1 => Just(vec![b'n'; 200]),
    ]
}

fn data_line() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![
        Just("* 1 FETCH ("),
        Just("* LIST"),
        Just("*  SEARCH"),
        Just("* X-UNKNOWN"),
        Just("* 12 EXISTS"),
        Just("* ESEARCH"),
        Just("* VANISHED"),
    ];
    let spaced = (head, vec((token(), 1usize..3), 0..6)).prop_map(|(head, tokens)| {
        let mut line = head.as_bytes().to_vec();
        for (token, spaces) in tokens {
            line.extend(std::iter::repeat_n(b' ', spaces));
            line.extend(token);
        }
        line
    });
    let line = prop_oneof![
        6 => spaced,
        1 => text().prop_map(|text| format!("* OK [X] {text}").into_bytes()),
        1 => text().prop_map(|text| format!("*  no {text}").into_bytes()),
    ];
    (line, any::<bool>()).prop_map(|(mut line, cr)| {
        // Text that the naive reader would need grammar for: an announcement where none is meant.
        while matches!(line.last(), Some(b'}')) && line.starts_with(b"* ") && !line.starts_with(b"* OK") {
            line.pop();
        }
        line.extend_from_slice(if cr { b"\r\n" } else { b"\n" });
        line
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    (vec(data_line(), 0..6), prop_oneof![Just("OK"), Just("no"), Just(" BAD")], text())
        .prop_map(|(data, status, text)| Reply { data, status, text })
}

/// The stream of these replies, and what the session has to hear.
fn written(replies: &[Reply]) -> (Vec<Vec<u8>>, Heard) {
    let mut stream = Vec::new();
    let mut heard = Heard::default();
    for (number, reply) in replies.iter().enumerate() {
        heard.octets.extend(reply.data.concat());
        let rest = format!(" {} {}\r\n", reply.status, reply.text);
        stream.push([reply.data.concat(), format!("i{number:x}{rest}").into_bytes()].concat());
        let done = Event::Done(Bytes::from(rest.into_bytes()), true);
        heard.marks.push((heard.octets.len(), format!("{done:?}")));
    }
    (stream, heard)
}

/// The whole stream read slowly and simply: where each tagged line begins.
fn reference(stream: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    let mut line_start = 0;
    let mut continues = false;
    while let Some(len) = stream[at..].iter().position(|b| *b == b'\n') {
        let line = String::from_utf8_lossy(&stream[at..at + len]).into_owned();
        let head = String::from_utf8_lossy(&stream[line_start..at + len]).to_uppercase();
        at += len + 1;
        let words: Vec<&str> = head.split([' ', '\r', '\n']).filter(|word| !word.is_empty()).collect();
        if !continues && words.first() != Some(&"*") {
            ends.push(line_start);
        }
        let status = !continues && matches!(words.get(1), Some(&("OK" | "NO" | "BAD")));
        let tagged = !continues && words.first() != Some(&"*");
        let size = line.trim_end_matches('\r').strip_suffix('}').and_then(|line| {
            let (_, size) = line.rsplit_once('{')?;
            size.bytes().all(|b| b.is_ascii_digit()).then(|| size.parse::<usize>().ok())?
        });
        match size.filter(|_| !status && !tagged) {
            Some(size) => {
                at += size;
                continues = true;
            }
            None => {
                continues = false;
                line_start = at;
            }
        }
    }
    ends
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![0]), vec(0usize..8, 1..5), vec(0usize..500, 1..20)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn replies_end_where_a_naive_reader_sees_them_end(replies in vec(reply(), 1..5), cuts in cuts()) {
        let (stream, expected) = written(&replies);
        let starts = reference(&stream.concat());
        prop_assert_eq!(starts.len(), replies.len());
        let heard = hear(&stream, &cuts, &["a NAMESPACE"; 4]);
        // The tagged lines are what is missing from what was passed on.
        let mut octets = 0;
        for (index, (mark, _)) in heard.marks.iter().enumerate() {
            let before: usize = replies[..index].iter().map(|r| format!("ix {} {}\r\n", r.status, r.text).len()).sum();
            prop_assert_eq!(mark + before, starts[index]);
            octets = *mark;
        }
        prop_assert!(octets <= heard.octets.len());
        prop_assert_eq!(heard, expected);
    }

    #[test]
    fn cutting_changes_nothing(replies in vec(reply(), 1..5), noise in wild(4), cuts in cuts()) {
        let (mut stream, _) = written(&replies);
        stream.push(noise);
        let commands = ["abc SELECT x", "a UID SEARCH RETURN (ALL) 1", "a IDLE", "a XNEW", "x FETCH 1 BODY[]"];
        let whole = hear(&stream, &[], &commands);
        let pieces = hear(&stream, &cuts, &commands);
        // What is still to come of a line may be held back, or not.
        if whole.error.is_none() {
            prop_assert_eq!(&whole.marks, &pieces.marks);
            let common = whole.octets.len().min(pieces.octets.len());
            prop_assert_eq!(&whole.octets[..common], &pieces.octets[..common]);
            prop_assert!(whole.octets.len().abs_diff(pieces.octets.len()) <= CLASSIFY);
        }
        prop_assert_eq!(whole.error, pieces.error);
    }

    #[test]
    fn arbitrary_octets_break_nothing(octets in vec(prop_oneof![
        Just(b"* ".to_vec()), Just(b"i0 OK".to_vec()), Just(b"\r\n".to_vec()), Just(b"+ ".to_vec()), Just(b"{3}\r\n".to_vec()),
        Just(b"ESEARCH (TAG \"i0\")".to_vec()), Just(b"* ESEARCH (TAG {2}\r\ni0) COUNT 1\r\n".to_vec()),
         Just(b"1 FETCH ".to_vec()), Just(vec![b' '; 70]), vec(any::<u8>(), 0..20)
    ], 0..60), cuts in cuts()) {
        let stream = [octets.concat()];
        for command in ["abc SELECT x", "a UID SEARCH RETURN (UPDATE) 1", "a IDLE", "a APPEND x {3}", "a FETCH 1 MODSEQ"] {
            let heard = hear(&stream, &cuts, &[command]);
            let whole = hear(&stream, &[], &[command]);
            prop_assert_eq!(heard.error.is_some(), whole.error.is_some());
            let common = whole.octets.len().min(heard.octets.len());
            prop_assert_eq!(&whole.octets[..common], &heard.octets[..common]);
        }
    }

    /// A hub is told the parts of what is passed on, and all of them: those that are found in the octets alone.
    #[test]
    fn the_parts_are_those_of_what_is_passed_on(octets in vec(prop_oneof![
        Just(b"* 1 FETCH (BODY[] ".to_vec()), Just(b"* 4 EXISTS\r\n".to_vec()), Just(b"* OK x".to_vec()), Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()), Just(b"{3}\r\n".to_vec()), Just(b"{12+}\r\n".to_vec()), Just(b"OK [COPYUID".to_vec()),
        Just(b"* ESEARCH (TAG \"i0\") ".to_vec()), Just(b"* ESEARCH (TAG {2}\r\ni0) ".to_vec()), Just(b"i0 OK {5}\r\n".to_vec()), Just(b"* CAPABILITY ".to_vec()),
        Just(b"\"a\r\nb\"".to_vec()), Just(b")\r\n".to_vec()), Just(vec![b' '; 70]), vec(any::<u8>(), 0..20),
    ], 0..40), cuts in cuts()) {
        let mut machine = connected("IMAP4rev1");
        machine.divide_replies(true);
        let (command, streams) = command(b"a UID SEARCH RETURN (ALL) 1");
        machine.handle_command(Request::new(command, streams));
        let _ = machine.poll_transmit();
        let (mut divider, mut passed, mut input) = (Divider::default(), BytesMut::new(), BytesMut::new());
        let (mut told, mut found) = (Spelled::default(), Spelled::default());
        let octets = octets.concat();
        let (mut rest, mut cuts) = (&octets[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, next) = rest.split_at(cuts.next().map_or(rest.len(), |cut| cut % rest.len() + 1));
            rest = next;
            input.extend_from_slice(piece);
            let sane = machine.handle_input(&mut input).is_ok();
            while let Some(event) = machine.poll_event() {
                if let Event::Data(replies) = event {
                    told.note(&replies);
                    passed.extend_from_slice(&replies);
                }
            }
            found.note(&divider.divide(&mut passed));
            let whole = divider.framer().at_line_start() && passed.is_empty();
            prop_assert_eq!(whole, machine.at_line_start());
            if whole {
                prop_assert_eq!(&told, &found);
            }
            if !sane {
                break;
            }
        }
    }

    #[test]
    fn long_lines_need_no_memory(len in 0usize..300_000, cut in 1usize..40_000) {
        let mut stream = b"* LIST ".to_vec();
        stream.resize(len + 7, b'x');
        stream.extend_from_slice(b" {12}\r\ni0 OK done\r\n\r\ni0 OK ok\r\n");
        let heard = hear(&[stream.clone()], &[cut], &["a NAMESPACE"]);
        prop_assert_eq!(heard.marks.len(), 1);
        prop_assert_eq!(heard.octets.len(), stream.len() - b"i0 OK ok\r\n".len());
    }
}
