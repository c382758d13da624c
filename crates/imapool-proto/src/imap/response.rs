//! Replies of a backend: what a line is, as far as routing needs to know (RFC 9051 section 7).

use super::command::is_astring_char;

/// The five status replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// OK
    Ok,
    /// NO
    No,
    /// BAD
    Bad,
    /// PREAUTH (greeting only)
    PreAuth,
    /// BYE
    Bye,
}

/// What a line of a backend is, by its first octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `+ …`
    Continuation,
    /// `* OK …` and the like.
    Status(Status),
    /// `* CAPABILITY …`
    Capability,
    /// `* ENABLED …`
    Enabled,
    /// `* ESEARCH …`
    Esearch,
    /// `* n EXPUNGE`, `* n FETCH …`, `* VANISHED …`: news of single messages.
    MessageNews,
    /// `* n EXISTS`, `* n RECENT`: the size of the mailbox.
    MailboxSize,
    /// Any other untagged reply.
    Data,
    /// `i7 OK …`: something that can be a tag, then OK, NO or BAD.
    Tagged,
    /// None of these: no line that a server may say.
    Stray {
        /// `OK [COPYUID …`: a status reply whose `*` was forgotten.
        status: bool,
    },
}

impl Kind {
    /// Whether a literal may end the line: never in the free text of status replies (`a OK see ticket {5}`).
    #[must_use]
    pub fn may_end_in_literal(self) -> bool {
        !matches!(
            self,
            Self::Continuation
                | Self::Status(_)
                | Self::Tagged
                | Self::Capability
                | Self::Enabled
                | Self::Stray { status: true }
        )
    }

    /// Whether the line is best seen whole before anything is done with it.
    #[must_use]
    pub fn wants_whole_line(self) -> bool {
        matches!(self, Self::Continuation | Self::Status(_) | Self::Tagged | Self::Capability | Self::Enabled)
    }
}

/// Octets of a line's start that [`classify`](super::untagged::classify) and [`esearch_tag`] want to see, when there
/// are as many.
pub const CLASSIFY: usize = 64;

pub(super) fn status(word: &[u8]) -> Option<Status> {
    Some(match word.len() {
        2 if word.eq_ignore_ascii_case(b"OK") => Status::Ok,
        2 if word.eq_ignore_ascii_case(b"NO") => Status::No,
        3 if word.eq_ignore_ascii_case(b"BAD") => Status::Bad,
        3 if word.eq_ignore_ascii_case(b"BYE") => Status::Bye,
        7 if word.eq_ignore_ascii_case(b"PREAUTH") => Status::PreAuth,
        _ => return None,
    })
}

pub(super) fn skip_spaces(text: &[u8]) -> &[u8] {
    &text[text.iter().take_while(|b| **b == b' ').count()..]
}

pub(super) fn word(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| matches!(b, b' ' | b'\r' | b'\n')).unwrap_or(text.len());
    &text[..end]
}

/// A status reply, tagged or not, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusReply<'a> {
    /// Which.
    pub status: Status,
    /// What stands in the brackets of a response code, if there is one.
    pub code: Option<&'a [u8]>,
    /// The text for people, after the code.
    pub text: &'a [u8],
}

impl<'a> StatusReply<'a> {
    /// Parses what follows a tag or `*`: `OK [CODE] text`. `A OK` without text, more than one space, and 8-bit text
    /// occur in the wild and are taken. `None`: no status reply.
    #[must_use]
    pub fn parse(rest: &'a [u8]) -> Option<Self> {
        let rest = skip_spaces(trim_line_end(rest));
        let head = word(rest);
        let status = status(head)?;
        let text = skip_spaces(&rest[head.len()..]);
        let coded =
            text.strip_prefix(b"[").and_then(|inner| memchr::memchr(b']', inner).map(|end| inner.split_at(end)));
        Some(match coded {
            Some((code, after)) => Self { status, code: Some(code), text: skip_spaces(&after[1..]) },
            None => Self { status, code: None, text },
        })
    }

    /// Parses the start of a line that goes on: a response code may have no end yet.
    #[must_use]
    pub fn parse_start(rest: &'a [u8]) -> Option<Self> {
        let reply = Self::parse(rest)?;
        Some(match reply.text.strip_prefix(b"[").filter(|_| reply.code.is_none()) {
            Some(code) => Self { code: Some(code), text: b"", ..reply },
            None => reply,
        })
    }

    /// Whether the response code's name is `name`.
    #[must_use]
    pub fn has_code(&self, name: &str) -> bool {
        self.code.is_some_and(|code| word(code).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// What follows `CAPABILITY` in that response code.
    #[must_use]
    pub fn capabilities(&self) -> Option<&'a [u8]> {
        self.code.filter(|_| self.has_code("CAPABILITY")).map(|code| &code["CAPABILITY".len()..])
    }
}

/// `line` without CR and LF at its end.
#[must_use]
pub fn trim_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Whether a word can be a tag (RFC 9051 section 9).
pub(super) fn is_tag(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|b| is_astring_char(*b) && *b != b'+')
}

/// Splits a tagged line into its tag and the rest, the space before it included.
#[must_use]
pub fn split_tag(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(word(line).len())
}

/// Where in an ESEARCH reply, `* ESEARCH (TAG "ours") …` (RFC 4731 section 3.1), the tag stands. The start of the
/// line is enough.
#[must_use]
pub fn esearch_tag(line: &[u8]) -> Option<std::ops::Range<usize>> {
    let open = memchr::memchr(b'(', line)?;
    let start = line.get(open + 1..open + 6).filter(|head| head.eq_ignore_ascii_case(b"TAG \"")).map(|_| open + 6)?;
    Some(start..start + memchr::memchr(b'"', &line[start..])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_replies_as_they_occur() {
        let parse = |text: &'static str| StatusReply::parse(text.as_bytes());
        assert_eq!(parse(" OK\r\n"), Some(StatusReply { status: Status::Ok, code: None, text: b"" }));
        let coded = parse(" OK [CAPABILITY IMAP4rev1 ID] hi\r\n").unwrap();
        assert_eq!(coded.capabilities(), Some(&b" IMAP4rev1 ID"[..]));
        assert_eq!(coded.text, b"hi");
        assert!(parse("  NO  [LIMIT] x").unwrap().has_code("limit"));
        assert_eq!(parse(" NO [LIMIT x").unwrap().code, None);
        assert_eq!(parse(" é"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn correlators() {
        let line = b"* ESEARCH (TAG \"i1\") ALL 1\r\n";
        assert_eq!(&line[esearch_tag(line).unwrap()], b"i1");
        assert_eq!(esearch_tag(b"* ESEARCH COUNT 1\r\n"), None);
        assert_eq!(esearch_tag(b"* ESEARCH (TAG \"i1"), None);
    }
}
