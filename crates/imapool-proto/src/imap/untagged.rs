//! A backend's replies, cut apart as they come: which reply this is, its lines and its literals. Nothing is collected,
//! so memory does not depend on what the backend says.

use std::ops::Deref;

use bytes::{Bytes, BytesMut};

use super::command::is_tag;
use super::framer::Framer;
use super::response::{CLASSIFY, Kind, Status, skip_spaces, status, word};
use super::sequence::with_digit;

/// Room for the parts of a short reply.
const MARKS: usize = 64;

/// What an untagged reply is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    #[default]
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
    Text {
        /// They may be none.
        octets: Octets<'a>,
        /// The reply is over.
        ends: bool,
    },
    /// Octets of a literal; it may come in several.
    Literal(Octets<'a>),
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

/// A part, and where it ends. There are two for each line: so it is small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    end: u32,
    kind: PartKind,
}

const _: () = assert!(size_of::<Mark>() == 12);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartKind {
    Begin(Reply),
    Text,
    LastText,
    Literal,
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
        self.marks.iter().map(move |mark| {
            let octets = Octets { all: &self.octets, from: at, to: mark.end as usize };
            at = octets.to;
            match mark.kind {
                PartKind::Begin(reply) => Part::Begin(reply),
                PartKind::Text => Part::Text { octets, ends: false },
                PartKind::LastText => Part::Text { octets, ends: true },
                PartKind::Literal => Part::Literal(octets),
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
        let kind = match literal {
            true => PartKind::Literal,
            false if self.framer.at_line_start() => PartKind::LastText,
            false => PartKind::Text,
        };
        self.note(end, kind);
    }

    /// A whole line, of which there is no more, is passed on as it is, up to `end`.
    pub fn pass_line(&mut self, reply: Reply, at: usize, end: usize) {
        self.note(at, PartKind::Begin(reply));
        self.note(end, PartKind::LastText);
    }

    fn note(&mut self, end: usize, kind: PartKind) {
        if self.divides {
            if self.marks.is_empty() {
                self.marks.reserve(MARKS);
            }
            // No more than that is read at once.
            self.marks.push(Mark { end: u32::try_from(end).unwrap_or(u32::MAX), kind });
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
                self.begin(&classify(rest), at);
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
    fn plain(kind: Kind, reply: Reply) -> Self {
        Self { kind, reply, head: 0 }
    }
}

/// Classifies the line at the front of `rest`, by its first [`CLASSIFY`] octets, however many there are.
#[must_use]
pub fn classify(rest: &[u8]) -> LineStart {
    let line = &rest[..rest.len().min(CLASSIFY)];
    let rest = match line {
        [b'+', ..] => return LineStart::plain(Kind::Continuation, Reply::Other),
        [b'*', b' ', rest @ ..] => skip_spaces(rest),
        _ => return tagged_or_stray(line),
    };
    if rest.first().is_some_and(u8::is_ascii_digit) {
        return numbered(rest, line.len());
    }
    let name = word(rest);
    let head = line.len() - rest.len() + name.len();
    let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
    let answer = |kind, reply| LineStart { kind, reply, head };
    match name.len() {
        2..=7 if let Some(status) = status(name) => LineStart::plain(Kind::Status(status), Reply::Status(status)),
        4 if is(b"SORT") => answer(Kind::Data, Reply::Sort),
        5 if is(b"FLAGS") => LineStart::plain(Kind::Data, Reply::Flags),
        6 if is(b"SEARCH") => answer(Kind::Data, Reply::Search),
        6 if is(b"THREAD") => answer(Kind::Data, Reply::Thread),
        7 if is(b"ESEARCH") => answer(Kind::Esearch, Reply::Esearch),
        7 if is(b"ENABLED") => LineStart::plain(Kind::Enabled, Reply::Other),
        8 if is(b"VANISHED") => {
            let earlier = word(skip_spaces(&line[head..])).eq_ignore_ascii_case(b"(EARLIER)");
            answer(Kind::MessageNews, Reply::Vanished { earlier })
        }
        10 if is(b"CAPABILITY") => LineStart::plain(Kind::Capability, Reply::Other),
        _ => LineStart::plain(Kind::Data, Reply::Other),
    }
}

/// `12 EXISTS`, at the end of so many octets of a line.
fn numbered(rest: &[u8], len: usize) -> LineStart {
    let (digits, name) = rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count());
    if !name.starts_with(b" ") {
        return LineStart::plain(Kind::Data, Reply::Other);
    }
    let number = digits.iter().fold(None, |number, digit| with_digit(number, *digit));
    let name = skip_spaces(name);
    let head = len - name.len();
    let name = word(name);
    let is = |word: &[u8]| name.eq_ignore_ascii_case(word);
    let (kind, reply): (Kind, fn(u32) -> Reply) = match name.len() {
        5 if is(b"FETCH") => (Kind::MessageNews, Reply::Fetch),
        7 if is(b"EXPUNGE") => (Kind::MessageNews, Reply::Expunge),
        6 if is(b"EXISTS") => (Kind::MailboxSize, Reply::Exists),
        6 if is(b"RECENT") => (Kind::MailboxSize, Reply::Recent),
        _ => return LineStart::plain(Kind::Data, Reply::Other),
    };
    match number.and_then(|number| u32::try_from(number).ok()) {
        Some(number) if number > 0 || kind == Kind::MailboxSize => {
            LineStart { kind, reply: reply(number), head: head + name.len() }
        }
        _ => LineStart::plain(kind, Reply::OutOfRange),
    }
}

/// What proves the end of a reply is taken by the letter; all else is for people to wonder at.
fn tagged_or_stray(line: &[u8]) -> LineStart {
    let tag = word(line);
    let second = word(skip_spaces(&line[tag.len()..]));
    if is_tag(tag) && matches!(status(second), Some(Status::Ok | Status::No | Status::Bad)) {
        return LineStart::plain(Kind::Tagged, Reply::Other);
    }
    LineStart::plain(Kind::Stray { status: status(tag).is_some() }, Reply::Stray)
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
                    Part::Text { octets, .. } => ("text", octets.to_vec()),
                    Part::Literal(octets) => ("literal", octets.to_vec()),
                };
                match parts.last_mut() {
                    Some((last, all)) if *last == kind && kind != "begin" => all.extend(octets),
                    _ => parts.push((kind, octets)),
                }
                if matches!(part, Part::Text { ends: true, .. }) {
                    parts.push(("end", Vec::new()));
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

    #[test]
    fn kinds() {
        for (line, kind) in [
            ("+ go ahead\r\n", Kind::Continuation),
            ("+\r\n", Kind::Continuation),
            ("* OK hi\r\n", Kind::Status(Status::Ok)),
            ("* ok\r\n", Kind::Status(Status::Ok)),
            ("* BYE see you {5}\r\n", Kind::Status(Status::Bye)),
            ("*  NO two spaces\r\n", Kind::Status(Status::No)),
            ("* CAPABILITY IMAP4rev1\r\n", Kind::Capability),
            ("* 12 FETCH (UID 1)\r\n", Kind::MessageNews),
            ("* 12 EXPUNGE\r\n", Kind::MessageNews),
            ("* VANISHED 1:3\r\n", Kind::MessageNews),
            ("* 3 EXISTS\r\n", Kind::MailboxSize),
            ("* 3 RECENT\r\n", Kind::MailboxSize),
            ("* 3 XYZZY\r\n", Kind::Data),
            ("* LIST () \"/\" x\r\n", Kind::Data),
            ("* OKAY x\r\n", Kind::Data),
            ("* ESEARCH (TAG \"x\")\r\n", Kind::Esearch),
            ("* ENABLED\r\n", Kind::Enabled),
            ("i1 OK done\r\n", Kind::Tagged),
            ("i1  no\r\n", Kind::Tagged),
            ("foo BAD\n", Kind::Tagged),
            ("OK OK\r\n", Kind::Tagged),
            ("OK [COPYUID 1 2 3] Moved\r\n", Kind::Stray { status: true }),
            ("BYE\r\n", Kind::Stray { status: true }),
            ("\r\n", Kind::Stray { status: false }),
            ("\n", Kind::Stray { status: false }),
            ("   \r\n", Kind::Stray { status: false }),
            (" i1 OK done\r\n", Kind::Stray { status: false }),
            (")\r\n", Kind::Stray { status: false }),
            ("*\r\n", Kind::Stray { status: false }),
            ("*OK x\r\n", Kind::Stray { status: false }),
            ("foo\r\n", Kind::Stray { status: false }),
            ("foo bar\r\n", Kind::Stray { status: false }),
            ("foo OKAY\r\n", Kind::Stray { status: false }),
            ("i1 BYE x\r\n", Kind::Stray { status: false }),
            ("i1\tOK\r\n", Kind::Stray { status: false }),
            ("\"a OK b\r\n", Kind::Stray { status: false }),
            ("\0 OK\r\n", Kind::Stray { status: false }),
            ("\u{fc} OK\r\n", Kind::Stray { status: false }),
            ("* 12\r\n", Kind::Data),
            ("* \r\n", Kind::Data),
        ] {
            assert_eq!(classify(line.as_bytes()).kind, kind, "{line}");
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
