//! Replies of a backend: what a line is, as far as routing needs to know (RFC 9051 section 7).

use std::ops::Range;

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
    pub fn may_end_in_literal(self) -> bool {
        !self.wants_whole_line() && self != Self::Stray { status: true }
    }

    /// Whether the line is best seen whole before anything is done with it.
    pub fn wants_whole_line(self) -> bool {
        matches!(self, Self::Continuation | Self::Status(_) | Self::Tagged | Self::Capability | Self::Enabled)
    }
}

/// Octets of a line's start that [`classify`](super::untagged::classify) and [`esearch_tag`] want to see, when there
/// are as many.
pub const CLASSIFY: usize = 64;
/// Octets of a tag that is a literal. Ours are shorter.
const LONGEST_TAG: usize = 20;

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
    pub fn has_code(&self, name: &str) -> bool {
        self.code.is_some_and(|code| word(code).eq_ignore_ascii_case(name.as_bytes()))
    }

    /// What follows `CAPABILITY` in that response code.
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

/// Splits a tagged line into its tag and the rest, the space before it included.
#[must_use]
pub fn split_tag(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(word(line).len())
}

/// The tag in an ESEARCH reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EsearchTag {
    /// Where it stands.
    pub tag: Range<usize>,
    /// What another tag can take the place of: of a literal, its announcement, too.
    pub written: Range<usize>,
}

/// Where in an ESEARCH reply, `* ESEARCH (TAG "ours") …` (RFC 4731 section 3.1), the tag stands, which is an `astring`
/// (RFC 9051 section 9). The first [`CLASSIFY`] octets are enough.
///
/// # Errors
/// So many octets of the reply are needed: the tag is a literal.
pub fn esearch_tag(reply: &[u8]) -> Result<Option<EsearchTag>, usize> {
    let reply = &reply[..reply.len().min(CLASSIFY)];
    let Some(at) = tag_at(reply) else { return Ok(None) };
    let rest = &reply[at..];
    let (written, tag, len) = match rest.first() {
        Some(b'"') => match memchr::memchr2(b'"', b'\n', &rest[1..]) {
            Some(len) if rest[1 + len] == b'"' => (at + 1, at + 1, len),
            _ => return Ok(None),
        },
        Some(b'{') => match announced(rest) {
            Some((line, len)) if at + line + len <= CLASSIFY => (at, at + line, len),
            _ => return Ok(None),
        },
        _ => (at, at, rest.iter().take_while(|octet| is_astring_char(**octet)).count()),
    };
    let end = tag + len;
    if end > reply.len() { Err(end) } else { Ok(Some(EsearchTag { tag: tag..end, written: written..end })) }
}

/// Where in the first line of an ESEARCH reply the tag begins.
fn tag_at(reply: &[u8]) -> Option<usize> {
    let from = memchr::memchr2(b'(', b'\n', reply)?;
    let at = from + "(TAG ".len();
    reply.get(from..at)?.eq_ignore_ascii_case(b"(TAG ").then_some(at)
}

/// `{2}`, a line's end, and what follows: where that begins, and how much of it a tag may be.
fn announced(text: &[u8]) -> Option<(usize, usize)> {
    let line = memchr::memchr(b'\n', text)? + 1;
    let digits = trim_line_end(&text[..line]).strip_prefix(b"{")?.strip_suffix(b"}")?;
    let len = std::str::from_utf8(digits).ok()?.parse().ok().filter(|len| *len <= LONGEST_TAG)?;
    Some((line, len))
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
        for (reply, tag, written) in [
            ("* ESEARCH (TAG \"i1\") ALL 1\r\n", "i1", "i1"),
            ("* esearch  (tag i1) ALL 1\r\n", "i1", "i1"),
            ("* ESEARCH (TAG {2}\r\ni1) ALL 1\r\n", "i1", "{2}\r\ni1"),
        ] {
            let found = esearch_tag(reply.as_bytes()).unwrap().unwrap();
            assert_eq!((&reply[found.tag], &reply[found.written]), (tag, written));
        }
        for reply in [
            "* ESEARCH COUNT 1\r\n",
            "* ESEARCH (TAG \"i1",
            "* ESEARCH (TAG \"i1\r\n\"",
            "* ESEARCH\r\n* X (TAG i1)\r\n",
            "* ESEARCH (TAG {99}\r\n",
            "* ESEARCH (TAG {x}\r\n",
        ] {
            assert_eq!(esearch_tag(reply.as_bytes()), Ok(None), "{reply:?}");
        }
        assert_eq!(esearch_tag(b"* ESEARCH (TAG {2}\r\ni"), Err(22));
        let far = format!("*{}ESEARCH (TAG {{20}}\r\n", " ".repeat(40));
        assert_eq!(esearch_tag(far.as_bytes()), Ok(None), "all of it would never be looked at");
    }
}
