//! Message numbers in replies, for a session that numbers messages otherwise than the server. One pass, however long
//! the line: a SEARCH reply can be megabytes.
//!
//! What the session does not know yet is left out. It is not counted either, since [`super::rewrite`] asks for what the
//! session knows only. A message that arrives while the search runs should be announced by EXISTS before it can be
//! found (RFC 9051 section 7.4.1); Cyrus 3.6 finds it first.

use std::borrow::Cow;

use bytes::{BufMut as _, BytesMut};

use super::nesting::Nesting;
use super::numbering::Numbering;
use super::ranges::Run;
use super::response::StatusReply;
use super::sequence::{elements, with_digit};
use super::untagged::Reply;

/// Longest name of an item of ESEARCH that is looked at, in octets.
const MAX_NAME: usize = 16;

/// Items of ESEARCH that name messages: MIN, MAX, ALL, PARTIAL.
const ITEMS: usize = 4;

/// Rewrites one reply. See the module.
#[derive(Debug)]
pub struct Renumber {
    reply: Reply,
    form: Form,
    list: List,
    name: Vec<u8>,
    /// Within a value.
    nesting: Nesting,
    set: Set,
}

/// Where in the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Everything from here on stays.
    Copy,
    /// SEARCH, SORT, THREAD.
    List,
    /// ESEARCH: a space, the correlator, or the name of an item comes next.
    Between,
    /// The name of an item.
    Name,
    /// The rest of a name that is longer than any that matters.
    LongName,
    /// A value without message numbers, or the correlator, `(TAG "x")`.
    Value,
    /// MIN, MAX, ALL.
    Set,
    /// `PARTIAL (` and the range (RFC 9394 section 3.1).
    PartialRange,
    /// The set after it.
    Partial,
}

/// Numbers, spaces and parentheses, of which only those are written that a number follows.
#[derive(Debug, Default)]
struct List {
    number: Option<u64>,
    space: bool,
    opens: u32,
    /// A number that the session does not know.
    left_out: bool,
}

/// A set that is being read.
#[derive(Debug, Default)]
struct Set {
    from: Option<u64>,
    number: Option<u64>,
    /// What is written before the first element: an item without value is none.
    prefix: Vec<u8>,
    written: bool,
    /// Elements written beyond those that were read, in all sets of the reply.
    extra: usize,
}

impl Renumber {
    /// For the reply that begins; `uid`: it answers a UID command, whose SEARCH, SORT and THREAD replies are made of
    /// UIDs. (ESEARCH says so itself.)
    #[must_use]
    pub fn new(reply: Reply, uid: bool) -> Self {
        let form = match reply {
            Reply::Search | Reply::Sort | Reply::Thread if !uid => Form::List,
            Reply::Esearch => Form::Between,
            _ => Form::Copy,
        };
        let (list, name, nesting, set) = Default::default();
        Self { reply, form, list, name, nesting, set }
    }

    /// Writes the reply's head, as far as the reader has taken it off: `* 4 FETCH`. `false`: the session does not know
    /// the message, and must not see the reply.
    pub fn head(&self, numbering: &Numbering, out: &mut BytesMut) -> bool {
        let (number, name) = match self.reply {
            Reply::Fetch(n) => (numbering.back(n), "FETCH"),
            Reply::Expunge(n) => (numbering.back(n), "EXPUNGE"),
            // Those that are gone count on for the session.
            Reply::Exists(n) => (Some(n.saturating_add(numbering.gone().len())), "EXISTS"),
            Reply::Recent(n) => (Some(n), "RECENT"),
            Reply::Vanished { .. } => return plain(out, "* VANISHED"),
            Reply::Search => return plain(out, "* SEARCH"),
            Reply::Sort => return plain(out, "* SORT"),
            Reply::Thread => return plain(out, "* THREAD"),
            Reply::Esearch => return plain(out, "* ESEARCH"),
            Reply::Flags | Reply::Status(_) | Reply::Other | Reply::OutOfRange | Reply::Stray => return true,
        };
        number.is_some_and(|n| plain(out, &format!("* {n} {name}")))
    }

    /// Writes what follows, piece by piece, line end included.
    pub fn text(&mut self, octets: &[u8], numbering: &Numbering, out: &mut BytesMut) {
        for (at, octet) in octets.iter().enumerate() {
            if self.form == Form::Copy {
                return out.put_slice(&octets[at..]);
            }
            self.octet(*octet, numbering, out);
        }
    }

    fn octet(&mut self, octet: u8, numbering: &Numbering, out: &mut BytesMut) {
        match self.form {
            Form::Copy => out.put_u8(octet),
            Form::List => {
                let threads = self.reply == Reply::Thread;
                if self.list.octet(octet, threads, numbering, out) {
                    self.form = Form::Copy;
                }
            }
            Form::Between => self.between(octet, out),
            Form::Name => self.name(octet, out),
            Form::LongName => {
                out.put_u8(octet);
                self.form = match octet {
                    b' ' => Form::Value,
                    b'\r' | b'\n' => Form::Between,
                    _ => Form::LongName,
                };
            }
            Form::Value => {
                let over = self.nesting.depth == 0 && self.nesting.is_plain();
                if over && matches!(octet, b' ' | b'\r' | b'\n') {
                    return self.between(octet, out);
                }
                out.put_u8(octet);
                self.nesting.pass_in_esearch(octet);
            }
            Form::Set => {
                if !self.set.octet(octet, numbering, out) {
                    self.between(octet, out);
                }
            }
            // Broken off: the line has to end all the same.
            Form::PartialRange if matches!(octet, b'\r' | b'\n') => {
                out.put_slice(&self.set.prefix);
                self.between(octet, out);
            }
            Form::PartialRange => {
                self.set.prefix.push(octet);
                if octet == b' ' {
                    self.form = Form::Partial;
                } else if octet == b')' || self.set.prefix.len() > 64 {
                    out.put_slice(&self.set.prefix);
                    self.nesting.depth = u32::from(octet != b')');
                    self.form = Form::Value;
                }
            }
            Form::Partial => {
                if !self.set.octet(octet, numbering, out) {
                    if !self.set.written {
                        out.put_slice(&self.set.prefix);
                        out.put_slice(b"NIL");
                    }
                    out.put_slice(if octet == b')' { b")" } else { b"" });
                    self.form = Form::Between;
                    if octet != b')' {
                        self.between(octet, out);
                    }
                }
            }
        }
    }

    fn between(&mut self, octet: u8, out: &mut BytesMut) {
        self.form = match octet {
            b' ' => Form::Between,
            b'\r' | b'\n' => {
                out.put_u8(octet);
                Form::Between
            }
            b'(' => {
                out.put_slice(b" (");
                self.nesting.pass_in_esearch(octet);
                Form::Value
            }
            _ => {
                self.name.clear();
                self.name.push(octet);
                Form::Name
            }
        };
    }

    fn name(&mut self, octet: u8, out: &mut BytesMut) {
        if !matches!(octet, b' ' | b'\r' | b'\n') && self.name.len() < MAX_NAME {
            return self.name.push(octet);
        }
        let is = |name: &[u8]| self.name.eq_ignore_ascii_case(name);
        let head = [b" ", &self.name[..], &[octet]].concat();
        self.form = match octet {
            b'\r' | b'\n' => Form::Between,
            b' ' if is(b"MIN") || is(b"MAX") || is(b"ALL") => Form::Set,
            b' ' if is(b"PARTIAL") => Form::PartialRange,
            // What follows are UIDs (RFC 4731 section 3.1).
            b' ' if is(b"UID") => Form::Copy,
            b' ' => Form::Value,
            _ => Form::LongName,
        };
        match self.form {
            Form::Set | Form::PartialRange => {
                self.set = Set { prefix: head, extra: self.set.extra, ..Set::default() };
            }
            _ => out.put_slice(&head),
        }
    }
}

fn plain(out: &mut BytesMut, head: &str) -> bool {
    out.put_slice(head.as_bytes());
    true
}

fn message(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl List {
    /// `true`: the rest stays as it is.
    fn octet(&mut self, octet: u8, threads: bool, numbering: &Numbering, out: &mut BytesMut) -> bool {
        if octet.is_ascii_digit() {
            self.number = with_digit(self.number, octet);
            return false;
        }
        if let Some(number) = self.number.take() {
            match numbering.back(message(number)) {
                Some(own) => {
                    self.lead(out);
                    out.put_slice(own.to_string().as_bytes());
                }
                None => self.left_out = true,
            }
        }
        match octet {
            b' ' => self.space |= self.opens == 0,
            b'(' if threads => self.opens = self.opens.saturating_add(1),
            // Nothing is left in them.
            b')' if self.opens > 0 => self.opens -= 1,
            b')' if threads => {
                self.space = false;
                out.put_u8(octet);
            }
            b'\r' | b'\n' => {
                // Of a list that was empty from the start (Dovecot).
                if std::mem::take(&mut self.space) && !self.left_out {
                    out.put_u8(b' ');
                }
                out.put_u8(octet);
            }
            // `(MODSEQ 7)` (RFC 7162 section 3.1.5).
            _ => {
                self.lead(out);
                out.put_u8(octet);
                return true;
            }
        }
        false
    }

    fn lead(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.space) {
            out.put_u8(b' ');
        }
        // A thread whose first message was left out begins with what comes next.
        for _ in 0..std::mem::take(&mut self.opens) {
            out.put_u8(b'(');
        }
    }
}

impl Set {
    /// `false`: the set ended before `octet`.
    fn octet(&mut self, octet: u8, numbering: &Numbering, out: &mut BytesMut) -> bool {
        match octet {
            b'0'..=b'9' => self.number = with_digit(self.number, octet),
            b':' => self.from = self.number.take(),
            b' ' | b')' | b'\r' | b'\n' => {
                self.element(numbering, out);
                return false;
            }
            b',' => self.element(numbering, out),
            // NIL, which is said where nothing was written.
            _ => {}
        }
        true
    }

    /// An element is complete. Sets of SORT are in order (RFC 5267 section 3.1), so a range may go down. Messages
    /// that are gone divide it; in a reply that names no message twice, each of them divides it once for each item.
    /// What is divided further is not believed, and left out.
    fn element(&mut self, numbering: &Numbering, out: &mut BytesMut) {
        let Some(to) = self.number.take().map(message) else { return };
        let from = self.from.take().map_or(to, message);
        let room = (ITEMS * numbering.gone().runs() + 1).saturating_sub(self.extra).max(1);
        let ranges = numbering.back_range(from.min(to)..=from.max(to)).take(room);
        let mut pieces: Vec<_> = ranges.map(|r| r.into_inner()).collect();
        self.extra += pieces.len().saturating_sub(1);
        if from > to {
            pieces.reverse();
            pieces.iter_mut().for_each(|(a, b)| std::mem::swap(a, b));
        }
        for (a, b) in pieces {
            out.put_slice(if self.written { b"," } else { &self.prefix });
            self.written = true;
            out.put_slice(Run(a, b).to_string().as_bytes());
        }
    }
}

/// The tagged reply to a STORE by number (what follows the tag): those of `[MODIFIED 7,9]` (RFC 7162 section 3.1.3)
/// are message numbers. Any other reply as it is.
#[must_use]
pub fn modified<'a>(rest: &'a [u8], numbering: &Numbering) -> Cow<'a, [u8]> {
    let code = StatusReply::parse(rest).filter(|status| status.has_code("MODIFIED")).and_then(|status| status.code);
    let Some((code, set)) = code.and_then(|code| Some((code, code.get("MODIFIED ".len()..)?))) else {
        return Cow::Borrowed(rest);
    };
    let Some(start) = memchr::memmem::find(rest, code) else { return Cow::Borrowed(rest) };
    let mut own = BytesMut::from(&rest[..start]);
    let mut mapped = Set { prefix: b"MODIFIED ".to_vec(), ..Set::default() };
    for octet in set.iter().filter(|_| elements(set).all(|element| element.is_ok())).chain(b" ") {
        mapped.octet(*octet, numbering, &mut own);
    }
    if !mapped.written {
        return Cow::Borrowed(rest);
    }
    own.put_slice(&rest[start + code.len()..]);
    Cow::Owned(own.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::imap::numbering::tests::numbering;
    use crate::imap::ranges::Ranges;
    use crate::imap::untagged::{Divider, Part};

    fn told_by(line: &str, uid: bool, cut: usize, numbering: &Numbering) -> String {
        let (mut divider, mut input) = (Divider::default(), BytesMut::new());
        let (mut out, mut renumber, mut dropped) = (BytesMut::new(), Renumber::new(Reply::Other, false), false);
        for piece in line.as_bytes().chunks(cut) {
            input.put_slice(piece);
            for part in divider.divide(&mut input).parts() {
                match part {
                    Part::Begin(reply) => {
                        renumber = Renumber::new(reply, uid);
                        dropped = !renumber.head(numbering, &mut out);
                    }
                    Part::Text { octets, .. } if !dropped => renumber.text(&octets, numbering, &mut out),
                    Part::Literal(octets) if !dropped => out.put_slice(&octets),
                    _ => {}
                }
            }
        }
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// The session's 3 and 7 are gone, and it does not know the server's 6.
    fn told(line: &str, uid: bool) -> String {
        let numbering = Numbering::new(Ranges::from_iter([3, 7]), 7, 6);
        let line = format!("{line}\r\n");
        let whole = told_by(&line, uid, line.len(), &numbering);
        assert_eq!(whole, told_by(&line, uid, 1, &numbering), "{line}");
        whole.strip_suffix("\r\n").unwrap_or("-").to_owned()
    }

    #[test]
    fn replies() {
        for (line, own) in [
            ("* 3 FETCH (FLAGS (\\Seen) UID 3)", "* 4 FETCH (FLAGS (\\Seen) UID 3)"),
            ("* 3 FETCH (BODY[] {4}\r\n3 6\n)", "* 4 FETCH (BODY[] {4}\r\n3 6\n)"),
            ("* 6 FETCH (FLAGS ())", "-"),
            ("* 4 EXPUNGE", "* 5 EXPUNGE"),
            ("* 6 EXISTS", "* 8 EXISTS"),
            ("* 2 RECENT", "* 2 RECENT"),
            ("* SEARCH", "* SEARCH"),
            ("* SEARCH 2 3 6 5", "* SEARCH 2 4 6"),
            ("* SEARCH 6 3 (MODSEQ 3)", "* SEARCH 4 (MODSEQ 3)"),
            ("* SEARCH 99999999999999999999999", "* SEARCH"),
            ("* SORT 5 3 4", "* SORT 6 4 5"),
            ("* THREAD (3 6 (4 5)(1 2))(2)", "* THREAD (4 (5 6)(1 2))(2)"),
            ("* THREAD (6)(3)", "* THREAD (4)"),
            ("* THREAD (6 3)((6)(4))", "* THREAD (4)((5))"),
            ("* THREAD (3 (6))", "* THREAD (4)"),
            ("* THREAD ", "* THREAD "),
            (
                "* ESEARCH (TAG \"3)\") MIN 3 MAX 5 COUNT 3 ALL 2:5 MODSEQ 3",
                "* ESEARCH (TAG \"3)\") MIN 4 MAX 6 COUNT 3 ALL 2,4:6 MODSEQ 3",
            ),
            ("* ESEARCH (TAG \"3\") UID ALL 3:4", "* ESEARCH (TAG \"3\") UID ALL 3:4"),
            ("* ESEARCH (TAG \"3\")", "* ESEARCH (TAG \"3\")"),
            ("* ESEARCH (TAG a[1) MIN 3", "* ESEARCH (TAG a[1) MIN 4"),
            ("* ESEARCH ALL 5:3,1", "* ESEARCH ALL 6:4,1"),
            ("* ESEARCH ALL 3:2", "* ESEARCH ALL 4,2"),
            ("* ESEARCH ALL 6 COUNT 0", "* ESEARCH COUNT 0"),
            ("* ESEARCH PARTIAL (1:3 3:6) MAX 3", "* ESEARCH PARTIAL (1:3 4:6) MAX 4"),
            ("* ESEARCH PARTIAL (3:3 NIL) MIN 3", "* ESEARCH PARTIAL (3:3 NIL) MIN 4"),
            ("* ESEARCH PARTIAL (-1:-3 6)", "* ESEARCH PARTIAL (-1:-3 NIL)"),
            ("* ESEARCH PARTIAL (1", "* ESEARCH PARTIAL (1"),
            ("* ESEARCH RELEVANCY (3 (\"x)\")) ALL 3", "* ESEARCH RELEVANCY (3 (\"x)\")) ALL 4"),
            (
                "* ESEARCH AVERYLONGITEMNAMETHATNOBODYKNOWS 3 ALL 3",
                "* ESEARCH AVERYLONGITEMNAMETHATNOBODYKNOWS 3 ALL 4",
            ),
            ("* VANISHED 3", "* VANISHED 3"),
            ("* LIST () \"/\" 3", "* LIST () \"/\" 3"),
            ("* OK [UNSEEN 3] x", "* OK [UNSEEN 3] x"),
        ] {
            assert_eq!(told(line, false), own, "{line}");
        }
        for line in ["* SEARCH 3 6", "* SORT 3 6", "* THREAD (3 6)"] {
            assert_eq!(told(line, true), line);
        }
    }

    /// However often a reply names the same messages, what it becomes is not much longer.
    #[test]
    fn what_is_gone_divides_a_set_only_so_often() {
        let numbering = Numbering::new((1..1000).filter(|n| n % 2 == 0).collect(), 1000, 501);
        let line = format!("* ESEARCH{}\r\n", " ALL 1:501,1:4294967295".repeat(1000));
        let told = told_by(&line, false, line.len(), &numbering);
        assert!(told.starts_with("* ESEARCH ALL 1,3,5,7,"), "{}", &told[..50]);
        assert!(told.len() < line.len() + ITEMS * 500 * ",999".len(), "{} octets of {}", told.len(), line.len());
    }

    #[test]
    fn modified_messages() {
        let numbering = Numbering::new(Ranges::from_iter([3, 7]), 7, 6);
        for (reply, own) in [
            (" OK [MODIFIED 2:4,5] done\r\n", " OK [MODIFIED 2,4:5,6] done\r\n"),
            (" NO [modified 3] no\r\n", " NO [MODIFIED 4] no\r\n"),
            (" OK done 3\r\n", " OK done 3\r\n"),
            (" OK [MODIFIED] 3\r\n", " OK [MODIFIED] 3\r\n"),
            (" OK [MODIFIED x3] 3\r\n", " OK [MODIFIED x3] 3\r\n"),
            (" BAD\r\n", " BAD\r\n"),
        ] {
            assert_eq!(modified(reply.as_bytes(), &numbering), own.as_bytes());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn every_number_is_the_sessions(numbering in numbering(), found in vec(1u32..25, 0..20), cut in 1usize..9) {
            let own: Vec<u32> = found.iter().filter_map(|m| numbering.back(*m)).collect();
            let print = |numbers: &[u32], between: &str| {
                numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(between)
            };
            for verb in ["SEARCH", "SORT"] {
                let line = format!("* {verb} {}\r\n", print(&found, " "));
                let told = told_by(&line, false, cut, &numbering);
                let expected = format!("* {verb} {}", print(&own, " "));
                prop_assert_eq!(told.trim_end(), expected.trim_end());
            }
            let set: Ranges = found.iter().copied().collect();
            let own: Ranges = own.into_iter().collect();
            let line = format!("* ESEARCH ALL {set}\r\n");
            let told = told_by(&line, false, cut, &numbering);
            // Elements that touch may stay apart.
            let read = told.strip_prefix("* ESEARCH ALL ").map(|set| {
                crate::imap::sequence::SequenceSet::parse(set.trim_end().as_bytes()).unwrap().resolve(1)
            });
            prop_assert_eq!(read.unwrap_or_default(), own, "{}", told);
        }
    }
}
