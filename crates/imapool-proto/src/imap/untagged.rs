//! A backend's replies, cut apart as they come: which reply this is, its lines and its literals. Nothing is collected,
//! so memory does not depend on what the backend says.

use std::ops::Deref;

use bytes::{Bytes, BytesMut};

use super::framer::Framer;
use super::response::{CLASSIFY, Kind, Status, classify};

/// What an untagged reply is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// `* n FETCH`
    Fetch(u32),
    /// `* n EXPUNGE`
    Expunge(u32),
    /// `* n EXISTS`
    Exists(u32),
    /// `* n RECENT`
    Recent(u32),
    /// `* VANISHED` (RFC 7162 section 3.2.10)
    Vanished {
        /// `(EARLIER)`: no news, but an answer.
        earlier: bool,
    },
    /// `* SEARCH`
    Search,
    /// `* SORT` (RFC 5256)
    Sort,
    /// `* THREAD` (RFC 5256)
    Thread,
    /// `* ESEARCH` (RFC 4731)
    Esearch,
    /// FETCH or EXPUNGE of message 0, and these, EXISTS and RECENT with a number of more than 32 bits: it cannot be
    /// true.
    OutOfRange,
    /// `* FLAGS`: which there are in the mailbox.
    Flags,
    /// `* OK` and the like.
    Status(Status),
    /// Any other reply.
    Other,
    /// No reply, or the rest of one that has a line's end where it may have none.
    Stray,
}

/// A part of the stream.
#[derive(Debug)]
pub enum Part<'a> {
    /// A reply begins. Of FETCH, EXPUNGE, EXISTS, RECENT, VANISHED, SEARCH, SORT, THREAD and ESEARCH the octets up to
    /// and with that word are not given again; of the others all are.
    Begin(Reply),
    /// What follows, line ends included; a line may come in several.
    Text(Octets<'a>),
    /// Octets of a literal; it may come in several.
    Literal(Octets<'a>),
    /// The reply is over.
    End,
}

/// Octets of a part, where they were read.
#[derive(Debug)]
pub struct Octets<'a> {
    all: &'a Bytes,
    from: usize,
    to: usize,
}

impl Octets<'_> {
    /// To be kept, without a copy: then all that was read at once is.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.all.slice(self.from..self.to)
    }
}

impl Deref for Octets<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.all[self.from..self.to]
    }
}

/// Octets of the stream, and where in them what begins and ends, if that is wanted ([`Divider::divides`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replies {
    octets: Bytes,
    marks: Vec<Mark>,
}

/// A part, and where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    end: usize,
    kind: PartKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartKind {
    Begin(Reply),
    Text,
    Literal,
    End,
}

impl Replies {
    /// The octets as they go to a client.
    #[must_use]
    pub fn into_octets(self) -> Bytes {
        self.octets
    }

    /// The parts, in order.
    pub fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let mut at = 0;
        self.marks.iter().filter_map(move |mark| {
            let octets = Octets { all: &self.octets, from: at, to: mark.end };
            at = mark.end;
            match mark.kind {
                PartKind::Begin(reply) => Some(Part::Begin(reply)),
                PartKind::End => Some(Part::End),
                _ if octets.is_empty() => None,
                PartKind::Text => Some(Part::Text(octets)),
                PartKind::Literal => Some(Part::Literal(octets)),
            }
        })
    }
}

impl Deref for Replies {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.octets
    }
}

/// Follows the stream, and says where its lines and literals end. It notes the parts of what is passed on only if
/// somebody wants them: who passes everything on as it comes pays nothing for that.
#[derive(Debug, Default)]
pub struct Divider {
    framer: Framer,
    divides: bool,
    marks: Vec<Mark>,
}

impl Divider {
    /// See [`Framer`].
    #[must_use]
    pub fn framer(&self) -> Framer {
        self.framer
    }

    /// Whether parts are wanted from here on.
    pub fn divides(&mut self, divides: bool) {
        self.divides = divides;
    }

    /// A line begins `at` so many octets of what is passed on next ([`Divider::cut`]).
    pub fn begin(&mut self, line: &LineStart, at: usize) {
        self.framer.begin(line.kind);
        self.note(at + line.head, PartKind::Begin(line.reply));
    }

    /// A line that is never passed on begins.
    pub fn begin_dropped(&mut self, kind: Kind) {
        self.framer.begin(kind);
    }

    /// Goes on within a line by the next part of the stream: how many of `octets` are its.
    pub fn take(&mut self, octets: &[u8]) -> usize {
        self.framer.take(octets)
    }

    /// What was taken is passed on, up to `end`; it was a literal's.
    pub fn pass(&mut self, end: usize, literal: bool) {
        self.note(end, if literal { PartKind::Literal } else { PartKind::Text });
        if self.framer.at_line_start() {
            self.note(end, PartKind::End);
        }
    }

    /// A whole line, of which there is no more, is passed on as it is, up to `end`.
    pub fn pass_line(&mut self, reply: Reply, at: usize, end: usize) {
        self.note(at, PartKind::Begin(reply));
        self.note(end, PartKind::Text);
        self.note(end, PartKind::End);
    }

    fn note(&mut self, end: usize, kind: PartKind) {
        if self.divides {
            self.marks.push(Mark { end, kind });
        }
    }

    /// A whole line that is told in place of what was read.
    pub fn line(&mut self, reply: Reply, line: Bytes) -> Replies {
        self.pass_line(reply, 0, line.len());
        self.cut(line)
    }

    /// All that was passed on since, with its parts.
    pub fn cut(&mut self, octets: Bytes) -> Replies {
        Replies { octets, marks: std::mem::take(&mut self.marks) }
    }

    /// Takes what it can off the front of a stream that is all passed on; less than a line's start is left.
    pub fn divide(&mut self, input: &mut BytesMut) -> Replies {
        self.divides = true;
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            if self.framer.at_line_start() {
                if rest.len() < CLASSIFY && memchr::memchr(b'\n', rest).is_none() {
                    break;
                }
                self.begin(&LineStart::of(rest), at);
            }
            let literal = self.framer.in_literal();
            at += self.take(&input[at..]);
            self.pass(at, literal);
        }
        let octets = input.split_to(at).freeze();
        self.cut(octets)
    }
}

/// What a line is, by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineStart {
    /// How it is framed, and who it is for.
    pub kind: Kind,
    /// What it is about.
    pub reply: Reply,
    /// Octets that [`Part::Begin`] stands for.
    head: usize,
}

impl LineStart {
    /// Of the line at the front of `rest`: by its first octets, however many there are.
    #[must_use]
    pub fn of(rest: &[u8]) -> Self {
        let (reply, head, kind) = reply(&rest[..rest.len().min(CLASSIFY)]);
        Self { kind, reply, head }
    }
}

/// What the line that starts like this is, how long its head is, and of which kind; other lines may follow.
fn reply(start: &[u8]) -> (Reply, usize, Kind) {
    let (first, after) = word(start, 1);
    if start.starts_with(b"* ") && first.iter().all(u8::is_ascii_digit) {
        return numbered(first, word(start, after));
    }
    let kind = classify(start);
    let (reply, head) = match kind {
        Kind::Status(status) => (Reply::Status(status), 0),
        Kind::Stray { .. } => (Reply::Stray, 0),
        Kind::Continuation | Kind::Tagged | Kind::Capability | Kind::Enabled => (Reply::Other, 0),
        _ => named(first, start, after),
    };
    (reply, head, kind)
}

/// `* 12 EXISTS`: the number, and the word behind it with its end.
fn numbered(number: &[u8], (name, end): (&[u8], usize)) -> (Reply, usize, Kind) {
    let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
    let (kind, reply): (Kind, fn(u32) -> Reply) = match name {
        _ if number.is_empty() => return (Reply::Other, 0, Kind::Data),
        _ if is(b"FETCH") => (Kind::MessageNews, Reply::Fetch),
        _ if is(b"EXPUNGE") => (Kind::MessageNews, Reply::Expunge),
        _ if is(b"EXISTS") => (Kind::MailboxSize, Reply::Exists),
        _ if is(b"RECENT") => (Kind::MailboxSize, Reply::Recent),
        _ => return (Reply::Other, 0, Kind::Data),
    };
    // They are digits.
    match std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()) {
        Some(number) if number > 0 || kind == Kind::MailboxSize => (reply(number), end, kind),
        _ => (Reply::OutOfRange, 0, kind),
    }
}

/// `* SEARCH`: the word, and the line in which it ends `after` so many octets.
fn named(first: &[u8], start: &[u8], after: usize) -> (Reply, usize) {
    let earlier = || word(start, after).0.eq_ignore_ascii_case(b"(EARLIER)");
    match first {
        _ if first.eq_ignore_ascii_case(b"SEARCH") => (Reply::Search, after),
        _ if first.eq_ignore_ascii_case(b"SORT") => (Reply::Sort, after),
        _ if first.eq_ignore_ascii_case(b"THREAD") => (Reply::Thread, after),
        _ if first.eq_ignore_ascii_case(b"ESEARCH") => (Reply::Esearch, after),
        _ if first.eq_ignore_ascii_case(b"VANISHED") => (Reply::Vanished { earlier: earlier() }, after),
        _ if first.eq_ignore_ascii_case(b"FLAGS") => (Reply::Flags, 0),
        _ => (Reply::Other, 0),
    }
}

/// The word behind the spaces at `at`, and where it ends.
fn word(line: &[u8], at: usize) -> (&[u8], usize) {
    let start = at + line[at..].iter().take_while(|b| **b == b' ').count();
    let end = start + line[start..].iter().take_while(|b| !matches!(b, b' ' | b'\r' | b'\n')).count();
    (&line[start..end], end)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// All parts, those of one kind that follow each other in one piece.
    fn read(octets: &[u8], cuts: &[usize]) -> Vec<String> {
        let (mut divider, mut input) = (Divider::default(), BytesMut::new());
        let mut parts: Vec<(&str, Vec<u8>)> = Vec::new();
        let mut rest = octets;
        let mut cuts = cuts.iter().cycle();
        while !rest.is_empty() {
            let (piece, next) = rest.split_at(cuts.next().map_or(rest.len(), |cut| cut % rest.len() + 1));
            rest = next;
            input.extend_from_slice(piece);
            for part in divider.divide(&mut input).parts() {
                let (kind, octets) = match &part {
                    Part::Begin(reply) => ("begin", format!("{reply:?}").into_bytes()),
                    Part::Text(text) => ("text", text.to_vec()),
                    Part::Literal(octets) => ("literal", octets.to_vec()),
                    Part::End => ("end", Vec::new()),
                };
                match parts.last_mut() {
                    Some((last, all)) if *last == kind && (kind == "text" || kind == "literal") => all.extend(octets),
                    _ => parts.push((kind, octets)),
                }
            }
            assert!(input.len() < CLASSIFY, "more kept than a line's start");
        }
        parts.into_iter().map(|(kind, octets)| format!("{kind} {}", String::from_utf8_lossy(&octets))).collect()
    }

    #[test]
    fn replies() {
        let whole = b"* 3 EXISTS\r\n* 2 FETCH (BODY[] {4}\r\n\r\n{9 UID 5)\r\n* SEARCH 1 2\r\n* OK {5}\r\n* VANISHED (EARLIER) 1\r\n";
        let parts = [
            "begin Exists(3)",
            "text \r\n",
            "end ",
            "begin Fetch(2)",
            "text  (BODY[] {4}\r\n",
            "literal \r\n{9",
            "text  UID 5)\r\n",
            "end ",
            "begin Search",
            "text  1 2\r\n",
            "end ",
            "begin Status(Ok)",
            "text * OK {5}\r\n",
            "end ",
            "begin Vanished { earlier: true }",
            "text  (EARLIER) 1\r\n",
            "end ",
        ];
        assert_eq!(read(whole, &[]), parts);
        assert_eq!(read(whole, &[0]), parts);
        let other = |line: &str| read(line.as_bytes(), &[]);
        for line in
            ["* 4294967296 LIST\r\n", "* LIST () {0}\r\n\"\"\r\n", "* XYZZY\r\n", "a OK {5}\r\n", "* 12\r\n", "* \r\n"]
        {
            assert_eq!(other(line), ["begin Other", &format!("text {line}"), "end "], "{line}");
        }
        for line in [
            "* 4294967296 EXISTS\r\n",
            "* 0 FETCH (UID 1)\r\n",
            "* 00 expunge\r\n",
            "* 99999999999999999999 RECENT\r\n",
        ] {
            assert_eq!(other(line), ["begin OutOfRange", &format!("text {line}"), "end "], "{line}");
        }
        assert_eq!(other("* 0 EXISTS\r\n")[0], "begin Exists(0)");
        for line in ["*\r\n", "\r\n", "  \r\n", ")\r\n", "foo bar\n", "OK [X] {5}\r\n"] {
            assert_eq!(other(line), ["begin Stray", &format!("text {line}"), "end "], "{line}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn cutting_changes_nothing(
            pieces in vec(
                prop_oneof![
                    Just("* 4 FETCH (FLAGS (\\Seen)".to_owned()), Just("* 12 EXISTS".to_owned()), Just("\r\n".to_owned()),
                    Just(" {3}\r\n".to_owned()), Just(" {12+}\r\n".to_owned()), Just("* OK hi".to_owned()),
                    Just("* ESEARCH (TAG \"x\")".to_owned()), "[{}+0-9\r\n* ]{0,6}", "[a-z ]{0,80}",
                ],
                0..20,
            ),
            cuts in vec(0usize..30, 1..8),
        ) {
            let octets = pieces.concat();
            prop_assert_eq!(read(octets.as_bytes(), &[]), read(octets.as_bytes(), &cuts));
        }
    }
}
