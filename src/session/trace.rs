//! The protocol of one account in the log, for a while and by an administrator's wish: what was asked and answered,
//! without the contents of strings and literals, which are people's mail and secrets. Pure but for the log.
//!
//! Arguments are shown of the commands that take some, and of which `shows_arguments` says so. Of any other, the name
//! is all, if it can be a command's: whoever mistypes LOGIN, or sends a password where a command is expected, must not
//! find it in a log. That goes for its tag and for what the server answers, too, which may repeat it.

use std::time::Duration;

use tracing::info;

use super::registry::Record;
use crate::imap::command::{Command, Name};
use crate::imap::framer::Framer;
use crate::imap::rewrite::is_uid;
use crate::imap::untagged::classify;
use crate::metrics::{CommandResult, Label as _};
use crate::shown;

/// Octets of a line that are shown.
const SHOWN: usize = 300;
/// Octets of the name of a command that is not known.
const SHOWN_NAME: usize = 32;

/// A command has ended: it is logged if it took longer than `log.slow`; zero: none is. The time of IDLE is the client's
/// choice.
pub(super) fn note_if_slow(slow: Duration, record: &Record, name: Name, result: CommandResult, taken: Duration) {
    if slow.is_zero() || taken <= slow || name == Name::Idle {
        return;
    }
    let account = record.account();
    info!(
        target: "imapool::slow",
        session = record.id,
        client = %record.client,
        user = account.map(|account| account.name()),
        backend = account.map(|account| account.backend().config.name.clone()),
        connection = record.last_connection(),
        command = name.as_str(),
        result = result.as_str(),
        seconds = (taken.as_secs_f64() * 1000.0).round() / 1000.0,
        "slow command"
    );
}

/// Makes lines fit to be shown out of what goes to a client.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// What has come of a line.
    line: Vec<u8>,
    /// Octets of a literal that are still to come.
    literal: u64,
    /// The command that runs is none whose arguments are shown.
    is_hidden: bool,
}

impl Trace {
    /// A command on its way to the backend.
    pub(super) fn command(&mut self, record: &Record, command: &Command) {
        log(record, "C", &self.asked(command));
    }

    fn asked(&mut self, command: &Command) -> String {
        self.is_hidden = !shows_arguments(command.name);
        let first = command.segments.first().map_or(&b""[..], |segment| &segment.text[..]);
        let name = first.split(|octet| *octet == b' ').next().unwrap_or_default();
        if self.is_hidden {
            return name_of_unknown(name);
        }
        if takes_nothing(command.name) && !is_uid(command) {
            let more = if name.len() < first.trim_ascii_end().len() { " …" } else { "" };
            return format!("{} {}{more}", text(&command.tag), text(name));
        }
        let mut redacted = Vec::new();
        for segment in &command.segments {
            redact(&segment.text, &mut redacted);
            if let Some((literal, _)) = &segment.literal {
                redacted.extend_from_slice(format!("{{{}}} ", literal.len()).as_bytes());
            }
        }
        format!("{} {}", text(&command.tag), text(&redacted))
    }

    /// Octets on their way to the client.
    pub(super) fn reply(&mut self, record: &Record, octets: &[u8]) {
        self.lines(octets, |line| log(record, "S", line));
    }

    fn lines(&mut self, mut octets: &[u8], mut shown: impl FnMut(&str)) {
        loop {
            let skipped = octets.len().min(usize::try_from(self.literal).unwrap_or(usize::MAX));
            self.literal -= skipped as u64;
            octets = &octets[skipped..];
            let Some((first, rest)) = octets.split_first() else { return };
            octets = rest;
            if *first != b'\n' {
                self.line.push(*first);
                if self.line.len() > 64 * 1024 {
                    // Of so long a line the beginning is enough; its end counts for a literal.
                    self.line.drain(SHOWN..self.line.len() - 64);
                }
                continue;
            }
            let mut line = std::mem::take(&mut self.line);
            line.truncate(line.trim_ascii_end().len());
            match literal_after(&line) {
                Some(length) => {
                    self.literal = length;
                    self.line = line;
                    self.line.push(b' ');
                }
                None => {
                    let mut redacted = Vec::new();
                    redact(&line, &mut redacted);
                    shown(&if self.is_hidden { status(&line) } else { text(&redacted) });
                }
            }
        }
    }
}

fn log(record: &Record, side: &str, line: &str) {
    let user = record.account().map(|account| account.name());
    info!(target: "imapool::trace", session = record.id, user, "{side}: {line}");
}

/// The length of the literal that a line announces.
fn literal_after(line: &[u8]) -> Option<u64> {
    let mut framer = Framer::default();
    framer.begin(classify(line).kind);
    framer.take(line);
    framer.take(b"\n");
    (!framer.at_line_start()).then(|| framer.left())
}

/// With the contents of quoted strings replaced by their length.
fn redact(line: &[u8], to: &mut Vec<u8>) {
    let mut octets = line.iter();
    while let Some(octet) = octets.next() {
        to.push(*octet);
        if *octet != b'"' {
            continue;
        }
        let mut length = 0;
        while let Some(inner) = octets.next() {
            match inner {
                b'"' => break,
                b'\\' => drop(octets.next()),
                _ => {}
            }
            length += 1;
        }
        to.extend_from_slice(format!("{length}\"").as_bytes());
    }
}

/// Those of which all atoms are protocol or names of mailboxes: no secret has its place there. Not those with URLs
/// that let anybody in who knows them (RFC 4467), nor what nobody knows.
fn shows_arguments(name: Name) -> bool {
    use Name::{Authenticate, GenUrlAuth, Login, Other, ResetKey, UrlFetch};
    !matches!(name, Other | Login | Authenticate | GenUrlAuth | UrlFetch | ResetKey)
}

/// Whatever follows the name is a mistake.
fn takes_nothing(name: Name) -> bool {
    use Name::{Capability, Check, Close, Expunge, Idle, Logout, Namespace, Noop, StartTls, Unauthenticate, Unselect};
    matches!(
        name,
        Capability | Check | Close | Expunge | Idle | Logout | Namespace | Noop | StartTls | Unauthenticate | Unselect
    )
}

/// Commands are made of letters, in capitals as a rule: all else may be anything.
fn name_of_unknown(name: &[u8]) -> String {
    let is_one =
        !name.is_empty() && name.iter().all(|octet| octet.is_ascii_uppercase() || matches!(octet, b'-' | b'='));
    if is_one { text(&name[..name.len().min(SHOWN_NAME)]) } else { format!("({} octets)", name.len()) }
}

/// Of a line that may repeat a secret: whether it is an answer, and which.
fn status(line: &[u8]) -> String {
    let mut words = line.trim_ascii_end().split(|octet| *octet == b' ');
    let first = words.next().unwrap_or_default();
    let known = |word: &&[u8]| [&b"OK"[..], b"NO", b"BAD", b"BYE"].iter().any(|known| word.eq_ignore_ascii_case(known));
    match (first, words.next().filter(known)) {
        (b"+", _) => "+".to_owned(),
        (b"*", Some(status)) => format!("* {}", text(status)),
        (b"*", None) => "*".to_owned(),
        (_, Some(status)) => text(status),
        _ => String::new(),
    }
}

fn text(line: &[u8]) -> String {
    let shown = &line[..line.len().min(SHOWN)];
    let mut text = shown::text(shown.trim_ascii_end());
    if shown.len() < line.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::command::{Segment, parse_head};

    fn shown(chunks: &[&[u8]]) -> Vec<String> {
        let (mut trace, mut lines) = (Trace::default(), Vec::new());
        for chunk in chunks {
            trace.lines(chunk, |line| lines.push(line.to_owned()));
        }
        lines
    }

    const REPLY: &[u8] = b"* 1 FETCH (UID 7 BODY[] {12}\r\nsecret\r\nmail FLAGS (\\Seen))\r\n\
        * LIST () \"/\" \"Let\\\"ters\"\r\n* OK see {5}\r\na1 OK done {3}\r\n* 2 EXISTS\r\n";

    #[test]
    fn contents_are_not_shown_wherever_the_octets_are_cut() {
        let whole = shown(&[REPLY]);
        assert_eq!(
            whole,
            [
                "* 1 FETCH (UID 7 BODY[] {12}  FLAGS (\\Seen))",
                "* LIST () \"1\" \"8\"",
                "* OK see {5}",
                "a1 OK done {3}",
                "* 2 EXISTS"
            ]
        );
        for cut in 1..REPLY.len() {
            assert_eq!(shown(&[&REPLY[..cut], &REPLY[cut..]]), whole, "{cut}");
        }
    }

    #[test]
    fn long_lines_are_shortened() {
        let mut line = b"* 1 FETCH (X ".to_vec();
        line.extend(std::iter::repeat_n(b'y', 200_000));
        line.extend_from_slice(b" {4}\r\nabcd)\r\n* 3 EXISTS\r\n");
        let lines = shown(&[&line]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() < 2 * SHOWN && lines[0].ends_with('…'), "{}", lines[0]);
        assert_eq!(lines[1], "* 3 EXISTS");
    }

    fn command(line: &str) -> Command {
        let (tag, rest) = line.split_once(' ').unwrap();
        let head = parse_head(line.as_bytes()).unwrap();
        let segments = vec![Segment { text: rest.to_owned().into(), literal: Some((b"s3cret"[..].into(), false)) }];
        Command { tag: tag.to_owned().into(), name: head.name, segments }
    }

    #[test]
    fn of_a_command_that_is_not_known_only_the_name_is_shown() {
        for line in [
            "a LOGINN u s3cret",
            "a LOGI u \"s3cret",
            "a LOGIN u s3cret",
            "a AUTHENTICAT PLAIN s3cret",
            "a AUTH PLAIN s3cret",
            "a UID LOGIN u s3cret",
            "s3cret phrase of words",
            "a X-PASSWD s3cret",
            "a GENURLAUTH imap://u@x/INBOX/;UID=1;URLAUTH=user+u s3cret",
            "a URLFETCH imap://u@x/INBOX/;UID=1:internal:s3cret",
        ] {
            let mut trace = Trace::default();
            let asked = trace.asked(&command(line));
            assert!(!asked.contains("s3cret") && asked.len() <= SHOWN_NAME, "{asked}");
            let mut lines = vec![asked];
            trace.lines(b"* BAD s3cret {3}\r\n* X s3cret\r\n+ s3cret\r\ns3cret BAD s3cret?\r\n", |line| {
                lines.push(line.to_owned());
            });
            assert_eq!(lines[1..], ["* BAD", "*", "+", "BAD"], "{line}");
            // The next one is itself again.
            assert_eq!(trace.asked(&command("b LIST \"\" INBOX")), "b LIST \"0\" INBOX{6}");
        }
        assert_eq!(Trace::default().asked(&command("a LOGINN u pw")), "LOGINN");
        for line in ["correct horse battery", "my hunter2", "Tr0ub4dor &3", "a xyzzy"] {
            let word = line.split(' ').nth(1).unwrap();
            assert_eq!(Trace::default().asked(&command(line)), format!("({} octets)", word.len()));
        }
    }

    #[test]
    fn of_a_command_that_takes_none_no_argument_is_shown() {
        assert_eq!(Trace::default().asked(&command("a NOOP s3cret")), "a NOOP …");
        assert_eq!(Trace::default().asked(&command("a close hunter2")), "a close …");
        assert_eq!(Trace::default().asked(&command("a IDLE")), "a IDLE");
        assert_eq!(Trace::default().asked(&command("a UID EXPUNGE 3:5")), "a UID EXPUNGE 3:5{6}");
        assert!(Trace::default().asked(&command(&format!("a {} x", "Y".repeat(9999)))).len() <= SHOWN_NAME);
    }
}
