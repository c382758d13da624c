//! Commands of a client: tag, name, arguments, and what each leaves behind on a connection.

use std::borrow::Cow;

use bytes::Bytes;

use super::sasl::Form;

/// Longest tag taken, in octets. RFC 9051 sets no bound.
pub const MAX_TAG: usize = 128;

/// A part of a command: text, and the literal that follows it, if one does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Without line end, and without the literal's announcement.
    pub text: Bytes,
    /// The literal's octets, and whether it is binary (RFC 3516).
    pub literal: Option<(Bytes, bool)>,
}

/// A whole command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// As the client sent it.
    pub tag: Bytes,
    /// Which command.
    pub name: Name,
    /// Everything after the tag and its space; never empty.
    pub segments: Vec<Segment>,
}

macro_rules! names {
    (repeatable) => { true };
    ($($variant:ident $text:literal $($repeatable:ident)?),* $(,)?) => {
        /// The commands imapool knows by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Name {
            $(#[doc = $text] $variant,)*
            /// Any other.
            Other,
        }

        impl Name {
            /// Each of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)* Self::Other];

            /// Case does not matter (RFC 9051 section 2.2).
            #[must_use]
            pub fn parse(verb: &[u8]) -> Self {
                $(if verb.eq_ignore_ascii_case($text.as_bytes()) { return Self::$variant; })*
                Self::Other
            }

            /// In capitals, as in the RFCs; `OTHER` for what is not known.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other => "OTHER",
                }
            }

            /// May be sent a second time when its connection was lost before any reply: changes nothing on the server.
            #[must_use]
            pub fn repeatable(self) -> bool {
                match self {
                    $($(Self::$variant => names!($repeatable),)?)*
                    _ => false,
                }
            }
        }
    };
}

names! {
    Select "SELECT" repeatable, Fetch "FETCH" repeatable, Noop "NOOP" repeatable, Login "LOGIN", Logout "LOGOUT",
    Capability "CAPABILITY", List "LIST" repeatable, Status "STATUS" repeatable, Search "SEARCH" repeatable,
    Store "STORE", Idle "IDLE" repeatable, Append "APPEND", Authenticate "AUTHENTICATE", Id "ID", StartTls "STARTTLS",
    Enable "ENABLE" repeatable, Examine "EXAMINE" repeatable, Create "CREATE", Delete "DELETE", Rename "RENAME",
    Subscribe "SUBSCRIBE", Unsubscribe "UNSUBSCRIBE", Lsub "LSUB" repeatable, Namespace "NAMESPACE" repeatable,
    Check "CHECK", Close "CLOSE", Unselect "UNSELECT", Expunge "EXPUNGE", Copy "COPY", Move "MOVE",
    Sort "SORT" repeatable, Thread "THREAD" repeatable, Replace "REPLACE", GetQuota "GETQUOTA" repeatable,
    GetQuotaRoot "GETQUOTAROOT" repeatable, SetQuota "SETQUOTA", GetAcl "GETACL" repeatable, SetAcl "SETACL",
    DeleteAcl "DELETEACL", ListRights "LISTRIGHTS" repeatable, MyRights "MYRIGHTS" repeatable,
    GetMetadata "GETMETADATA" repeatable, SetMetadata "SETMETADATA", GenUrlAuth "GENURLAUTH", UrlFetch "URLFETCH",
    ResetKey "RESETKEY", Notify "NOTIFY", Language "LANGUAGE", Comparator "COMPARATOR", Compress "COMPRESS",
    Unauthenticate "UNAUTHENTICATE", CancelUpdate "CANCELUPDATE", Uid "UID",
}

impl Name {
    /// The message of these is a literal of any size, which must stream.
    #[must_use]
    pub fn carries_message(self) -> bool {
        matches!(self, Self::Append | Self::Replace)
    }

    /// Leaves something on the connection that cannot be undone nor named: no later session may have it.
    #[must_use]
    pub fn spoils_connection(self) -> bool {
        matches!(self, Self::Notify | Self::Language | Self::Comparator | Self::Other)
    }
}

/// Why a command's first line is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// No tag, or one with octets that no tag has (RFC 9051 section 9, `tag`).
    #[error("Invalid tag")]
    Tag,
    /// Nothing after the tag, or no command name there.
    #[error("Missing command")]
    Command,
}

/// The head of a command's first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The tag is `line[..tag_end]`; the command begins one octet on.
    pub tag_end: usize,
    /// The command; of `UID x`, `x`.
    pub name: Name,
}

/// Reads tag and command name off `line` (without line end).
///
/// # Errors
/// See [`HeadError`].
pub fn parse_head(line: &[u8]) -> Result<Head, HeadError> {
    use Name::{Copy, Expunge, Fetch, Move, Other, Replace, Search, Sort, Store, Thread, Uid};
    let tag_end = memchr::memchr(b' ', line).unwrap_or(line.len());
    if tag_end > MAX_TAG || !is_tag(&line[..tag_end]) {
        return Err(HeadError::Tag);
    }
    let rest = line.get(tag_end + 1..).unwrap_or_default();
    let (verb, rest) = split_word(rest);
    if verb.is_empty() || !verb.iter().all(|b| is_atom_char(*b)) {
        return Err(HeadError::Command);
    }
    let name = match Name::parse(verb) {
        Uid => match Name::parse(split_word(rest).0) {
            name @ (Copy | Expunge | Fetch | Move | Replace | Search | Sort | Store | Thread) => name,
            _ => Other,
        },
        name => name,
    };
    Ok(Head { tag_end, name })
}

fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b' ', text).unwrap_or(text.len());
    (&text[..end], text.get(end + 1..).unwrap_or_default())
}

/// `ATOM-CHAR` (RFC 9051 section 9).
fn is_atom_char(octet: u8) -> bool {
    octet.is_ascii_graphic() && !matches!(octet, b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']')
}

/// `ASTRING-CHAR` (RFC 9051 section 9).
pub(super) fn is_astring_char(octet: u8) -> bool {
    is_atom_char(octet) || octet == b']'
}

/// Whether a word can be a tag (RFC 9051 section 9).
pub(super) fn is_tag(word: &[u8]) -> bool {
    !word.is_empty() && word.iter().all(|b| is_astring_char(*b) && *b != b'+')
}

impl Command {
    /// Takes spaces off its end, which many servers do not mind.
    pub fn trim_end(&mut self) {
        if let [Segment { text, literal: None }] = &mut self.segments[..] {
            let spaces = text.iter().rev().take_while(|b| **b == b' ').count();
            text.truncate(text.len() - spaces);
        }
    }

    /// A cursor behind the command's name (and, of `UID x`, behind `x`).
    pub fn arguments(&self) -> Arguments<'_> {
        let text = &self.segments[0].text;
        let (verb, rest) = split_word(text);
        let skipped =
            if verb.eq_ignore_ascii_case(b"UID") { verb.len() + 1 + split_word(rest).0.len() } else { verb.len() };
        Arguments { segments: &self.segments, at: skipped.min(text.len()) }
    }

    /// Whether a literal is part of it.
    pub fn has_literal(&self) -> bool {
        self.segments.iter().any(|segment| segment.literal.is_some())
    }

    /// Whether it resumes a mailbox by QRESYNC (RFC 7162 section 3.2.5).
    pub fn resynchronises(&self) -> bool {
        self.segments.iter().any(|segment| segment.text.windows(7).any(|word| word.eq_ignore_ascii_case(b"QRESYNC")))
    }

    /// The mailbox of a SELECT or EXAMINE, as the key of a selected mailbox: its name with INBOX in capitals, after
    /// `r` or `w` for the mode. `None` when the arguments make no sense (the server will say so).
    pub fn selected_mailbox(&self) -> Option<Bytes> {
        let mode = match self.name {
            Name::Select => b'w',
            Name::Examine => b'r',
            _ => return None,
        };
        let mailbox = self.arguments().astring()?;
        Some([&[mode], canonical(&mailbox)].concat().into())
    }

    /// The names that mean another mailbox, or none, once a CREATE, DELETE or RENAME is done: with INBOX in capitals.
    pub fn renames(&self) -> Vec<Bytes> {
        let names = match self.name {
            Name::Create | Name::Delete => 1,
            Name::Rename => 2,
            _ => return Vec::new(),
        };
        let mut arguments = self.arguments();
        let name = |_| Some(Bytes::copy_from_slice(canonical(&arguments.astring()?)));
        (0..names).map_while(name).collect()
    }
}

/// A mailbox's name, INBOX in capitals however it is spelled (RFC 9051 section 5.1).
fn canonical(mailbox: &[u8]) -> &[u8] {
    if mailbox.eq_ignore_ascii_case(b"INBOX") { b"INBOX" } else { mailbox }
}

/// Reads a command's arguments one by one.
#[derive(Debug, Clone)]
pub struct Arguments<'a> {
    segments: &'a [Segment],
    pub(super) at: usize,
}

impl<'a> Arguments<'a> {
    /// What is left of the text at hand; `None`: no text is left.
    fn rest(&self) -> Option<&'a [u8]> {
        self.segments.first()?.text.get(self.at..)
    }

    /// A space and an `astring`: atom, quoted string or literal (RFC 9051 section 4.3), without its quoting.
    pub fn astring(&mut self) -> Option<Cow<'a, [u8]>> {
        let text = self.rest()?.strip_prefix(b" ")?;
        self.at += 1;
        if matches!(text, [] | [b'"', ..]) {
            return self.string(is_quoted_special);
        }
        let len = text.iter().position(|b| !is_astring_char(*b) && *b < 0x80).unwrap_or(text.len());
        self.at += len;
        (len > 0).then(|| Cow::Borrowed(&text[..len]))
    }

    /// A quoted string, in which `\` quotes what `quotable` says, or a literal.
    fn string(&mut self, quotable: impl Fn(u8) -> bool) -> Option<Cow<'a, [u8]>> {
        let segment = self.segments.first()?;
        if let Some(quoted) = segment.text[self.at..].strip_prefix(b"\"") {
            let (value, used) = unquoted(quoted, quotable)?;
            self.at += 1 + used;
            return Some(Cow::Owned(value));
        }
        let (literal, _) = segment.literal.as_ref()?;
        self.segments = &self.segments[1..];
        self.at = 0;
        Some(Cow::Borrowed(literal))
    }

    /// How the next string is written.
    pub fn form(&self) -> Form {
        match self.rest().and_then(|rest| rest.strip_prefix(b" ")) {
            Some([]) | None => Form::Literal,
            Some(_) => Form::Quoted,
        }
    }

    /// A space and a word up to the next space.
    pub fn word(&mut self) -> Option<&'a [u8]> {
        let text = self.rest()?.strip_prefix(b" ")?;
        let (word, _) = split_word(text);
        self.at += 1 + word.len();
        (!word.is_empty()).then_some(word)
    }

    /// An argument of LOGIN, as Dovecot reads it: any number of spaces, then a quoted string in which `\` quotes any
    /// octet, a literal, or an atom that may hold what clients forget to quote (`DOMAIN\user`, `user*master`, 8-bit
    /// octets). Whatever comes of it goes on to a backend quoted anew.
    pub fn login_string(&mut self) -> Option<Cow<'a, [u8]>> {
        self.skip_spaces();
        let text = self.rest()?;
        if matches!(text, [] | [b'"', ..]) {
            return self.string(|_| true);
        }
        let ends = |octet: u8| octet.is_ascii_control() || matches!(octet, b' ' | b'(' | b')' | b'"');
        let len = text.iter().position(|b| ends(*b)).unwrap_or(text.len());
        // What begins like a literal is none here.
        if len == 0 || text[0] == b'{' || text.get(len).is_some_and(|b| *b != b' ') {
            return None;
        }
        self.at += len;
        Some(Cow::Borrowed(&text[..len]))
    }

    /// Spaces, one or more, and a word up to the next.
    pub fn spaced_word(&mut self) -> Option<&'a [u8]> {
        let text = self.rest()?;
        // All but the one that [`Arguments::word`] takes.
        self.at += text.iter().take_while(|b| **b == b' ').count().saturating_sub(1);
        self.word()
    }

    /// Goes past spaces, where any number of them will do.
    pub fn skip_spaces(&mut self) {
        self.at += self.rest().unwrap_or_default().iter().take_while(|b| **b == b' ').count();
    }

    /// Nothing is left.
    pub fn at_end(&self) -> bool {
        matches!(self.segments, [last] if last.text.len() == self.at && last.literal.is_none())
    }
}

/// Reads up to the closing quote; gives the value and the octets read, the quote included. `\` quotes what `quotable`
/// says.
fn unquoted(text: &[u8], quotable: impl Fn(u8) -> bool) -> Option<(Vec<u8>, usize)> {
    let mut value = Vec::new();
    let mut octets = text.iter().enumerate();
    while let Some((at, octet)) = octets.next() {
        match octet {
            b'"' => return Some((value, at + 1)),
            b'\\' => value.push(*octets.next().map(|(_, octet)| octet).filter(|octet| quotable(**octet))?),
            octet => value.push(*octet),
        }
    }
    None
}

/// The value of a quoted string whose opening quote was read, and how many octets of `text` it is.
pub(crate) fn unquote(text: &[u8]) -> Option<(Vec<u8>, usize)> {
    unquoted(text, is_quoted_special)
}

/// What a quoted string has behind `\` (RFC 9051 section 9).
fn is_quoted_special(octet: u8) -> bool {
    matches!(octet, b'"' | b'\\')
}

/// Writes `value` as a quoted string, when it can be one: no NUL, CR, LF or 8-bit octets, and not long.
#[must_use]
pub fn quoted(value: &[u8]) -> Option<Vec<u8>> {
    value.is_ascii().then(|| quoted_8bit(value)).flatten()
}

/// As [`quoted`], with 8-bit octets as they are. No IMAP4rev1 grammar has that, but many servers take it.
#[must_use]
pub fn quoted_8bit(value: &[u8]) -> Option<Vec<u8>> {
    if value.len() > 1000 || value.iter().any(|b| matches!(b, 0 | b'\r' | b'\n')) {
        return None;
    }
    let mut out = Vec::with_capacity(value.len() + 2);
    out.push(b'"');
    for octet in value {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(*octet);
    }
    out.push(b'"');
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &'static str) -> Command {
        let head = parse_head(line.as_bytes()).unwrap();
        Command {
            tag: Bytes::from_static(&line.as_bytes()[..head.tag_end]),
            name: head.name,
            segments: vec![Segment { text: Bytes::from_static(&line.as_bytes()[head.tag_end + 1..]), literal: None }],
        }
    }

    #[test]
    fn heads() {
        assert_eq!(parse_head(b"a1 noop"), Ok(Head { tag_end: 2, name: Name::Noop }));
        assert_eq!(parse_head(b"a UID fetch 1 FLAGS"), Ok(Head { tag_end: 1, name: Name::Fetch }));
        assert_eq!(parse_head(b"a UID LOGOUT").unwrap().name, Name::Other);
        assert_eq!(parse_head(b"a XYZZY").unwrap().name, Name::Other);
        for (line, error) in [
            (&b""[..], HeadError::Tag),
            (b" NOOP", HeadError::Tag),
            (b"a+ NOOP", HeadError::Tag),
            (b"* NOOP", HeadError::Tag),
            (b"a{ NOOP", HeadError::Tag),
            (b"a", HeadError::Command),
            (b"a ", HeadError::Command),
            (b"a  NOOP", HeadError::Command),
            (b"a NO\tOP", HeadError::Command),
        ] {
            assert_eq!(parse_head(line), Err(error), "{:?}", String::from_utf8_lossy(line));
        }
        assert_eq!(parse_head(&[b'a'; 200]), Err(HeadError::Tag));
    }

    #[test]
    fn astrings() {
        let login = command("a LOGIN \"a \\\"b\\\\\" pass]word");
        let mut arguments = login.arguments();
        assert_eq!(arguments.astring().unwrap(), &b"a \"b\\"[..]);
        assert_eq!(arguments.astring().unwrap(), &b"pass]word"[..]);
        assert!(arguments.at_end());
        for bad in ["a LOGIN", "a LOGIN ", "a LOGIN \"x", "a LOGIN \"\\n\"", "a LOGIN ("] {
            assert_eq!(command(bad).arguments().astring(), None, "{bad}");
        }
        let literal = Command {
            tag: "a".into(),
            name: Name::Login,
            segments: vec![
                Segment { text: "LOGIN ".into(), literal: Some(("u\r\n8".into(), false)) },
                Segment { text: " x".into(), literal: None },
            ],
        };
        let mut arguments = literal.arguments();
        assert_eq!(arguments.astring().unwrap(), &b"u\r\n8"[..]);
        assert_eq!(arguments.astring().unwrap(), &b"x"[..]);
        assert!(arguments.at_end());
    }

    /// As Dovecot 2.3.19 reads them, but for the last two, which it refuses, and which can mean nothing else.
    #[test]
    fn arguments_of_login() {
        for (line, user, password) in [
            ("u pw", "u", "pw"),
            ("   u    pw  ", "u", "pw"),
            ("DOMAIN\\user \"pw\"", "DOMAIN\\user", "pw"),
            ("\"DOMAIN\\\\user\" \"a\\\"b\"", "DOMAIN\\user", "a\"b"),
            ("\"DOMAIN\\user\" pw", "DOMAINuser", "pw"),
            ("user*master %", "user*master", "%"),
            ("u+8@x p]w}", "u+8@x", "p]w}"),
            ("\"u\"\"pw\"", "u", "pw"),
            ("NIL nil", "NIL", "nil"),
            ("\"\" \"\"", "", ""),
            ("+ *", "+", "*"),
            ("\"ü\" \"p {5}\"", "ü", "p {5}"),
            ("ü pwü", "ü", "pwü"),
            ("u{x p{", "u{x", "p{"),
        ] {
            let login = command(format!("a LOGIN {line}").leak());
            let mut arguments = login.arguments();
            assert_eq!(arguments.login_string().as_deref(), Some(user.as_bytes()), "{line}");
            assert_eq!(arguments.login_string().as_deref(), Some(password.as_bytes()), "{line}");
            arguments.skip_spaces();
            assert!(arguments.at_end(), "{line}");
        }
        for line in [
            "u",
            "u ",
            "u (pw)",
            "u pw\"",
            "u p\"w",
            "u pw)",
            "u \"pw",
            "u \"pw\\",
            "u\tpw",
            "{x pw",
            "u {5",
            "u pw x",
            "u \"pw\"x",
        ] {
            let login = command(format!("a LOGIN {line}").leak());
            let mut arguments = login.arguments();
            let both = arguments.login_string().is_some() && arguments.login_string().is_some();
            arguments.skip_spaces();
            assert!(!both || !arguments.at_end(), "{line}");
        }
    }

    #[test]
    fn quoting_round_trips_or_declines() {
        assert_eq!(quoted(b"a\"b\\"), Some(b"\"a\\\"b\\\\\"".to_vec()));
        assert_eq!(quoted(b"a\r\nb"), None);
        assert_eq!(quoted(b"a\0"), None);
        assert_eq!(quoted("ü".as_bytes()), None);
    }

    #[test]
    fn mailbox_keys() {
        assert_eq!(command("a SELECT inbox").selected_mailbox().unwrap(), "wINBOX");
        assert_eq!(command("a EXAMINE \"A b\" (CONDSTORE)").selected_mailbox().unwrap(), "rA b");
        assert_eq!(command("a SELECT").selected_mailbox(), None);
    }
}
