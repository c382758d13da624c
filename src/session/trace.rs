//! The protocol of one account in the log, for a while and by an administrator's wish: what was asked and answered, without
//! the contents of strings and literals, which are people's mail and secrets. Pure but for the log.

use tracing::info;

use super::registry::Record;
use crate::imap::command::{Command, Name};

/// Octets of a line that are shown.
const SHOWN: usize = 300;

/// Makes lines fit to be shown out of what goes to a client.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// What has come of a line.
    line: Vec<u8>,
    /// Octets of a literal that are still to come.
    literal: usize,
}

impl Trace {
    /// A command on its way to the backend.
    pub(super) fn command(record: &Record, command: &Command) {
        let mut redacted = Vec::new();
        for segment in &command.segments {
            redact(&segment.text, &mut redacted);
            if let Some((literal, _)) = &segment.literal {
                redacted.extend_from_slice(format!("{{{}}} ", literal.len()).as_bytes());
            }
        }
        // Nobody logs in twice; who tries has a password in it.
        let secret = matches!(command.name, Name::Login | Name::Authenticate);
        let line = if secret { command.name.as_str().to_owned() } else { text(&redacted) };
        log(record, "C", &format!("{} {line}", text(&command.tag)));
    }

    /// Octets on their way to the client.
    pub(super) fn reply(&mut self, record: &Record, octets: &[u8]) {
        self.lines(octets, |line| log(record, "S", line));
    }

    fn lines(&mut self, mut octets: &[u8], mut shown: impl FnMut(&str)) {
        loop {
            let skipped = self.literal.min(octets.len());
            self.literal -= skipped;
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
            let line = std::mem::take(&mut self.line);
            match literal_after(&line) {
                Some(length) => {
                    self.literal = length;
                    self.line = line;
                    self.line.push(b' ');
                }
                None => {
                    let mut redacted = Vec::new();
                    redact(&line, &mut redacted);
                    shown(&text(&redacted));
                }
            }
        }
    }
}

fn log(record: &Record, side: &str, line: &str) {
    let user = record.account().map(|account| account.name());
    info!(target: "imapool::trace", session = record.id, user, "{side}: {line}");
}

/// The length of the literal that a line announces. Not in texts for people (ARCHITECTURE, invariant 15).
fn literal_after(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let untagged = line.strip_prefix(b"* ")?;
    let first = untagged.split(|octet| *octet == b' ').next().unwrap_or_default();
    let status: [&[u8]; 5] = [b"OK", b"NO", b"BAD", b"BYE", b"PREAUTH"];
    if status.iter().any(|word| first.eq_ignore_ascii_case(word)) {
        return None;
    }
    let open = line.strip_suffix(b"}")?.iter().rposition(|octet| *octet == b'{')?;
    std::str::from_utf8(&line[open + 1..line.len() - 1]).ok()?.trim_end_matches('+').parse().ok()
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

fn text(line: &[u8]) -> String {
    let shown = &line[..line.len().min(SHOWN)];
    let mut text: String =
        String::from_utf8_lossy(shown.trim_ascii_end()).chars().filter(|char| !char.is_control()).collect();
    if shown.len() < line.len() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn long_lines_are_shortened_and_no_control_character_gets_through() {
        let mut line = b"* 1 FETCH (X \x1b[31m ".to_vec();
        line.extend(std::iter::repeat_n(b'y', 200_000));
        line.extend_from_slice(b" {4}\r\nabcd)\r\n* 3 EXISTS\r\n");
        let lines = shown(&[&line]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() < 2 * SHOWN && lines[0].ends_with('…') && !lines[0].contains('\u{1b}'), "{}", lines[0]);
        assert_eq!(lines[1], "* 3 EXISTS");
    }
}
