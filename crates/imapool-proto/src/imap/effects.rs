//! What STORE and FETCH do to flags, as far as those who share the mailbox are concerned.

use bytes::Bytes;

use super::command::{Command, Name, Segment};
use super::rewrite::is_uid;

/// The STORE (or UID STORE) without `.SILENT`, so that the server tells the new flags, of which the others shall hear
/// (RFC 9051 section 6.4.6). `None`: it is not silent, or no STORE.
#[must_use]
pub fn loud(command: &Command) -> Option<Command> {
    if command.name != Name::Store {
        return None;
    }
    let text = &command.segments[0].text;
    // The item's name is the first word that ends so: before it are numbers and modifiers (RFC 7162 section 3.1.3).
    let mut end = 0;
    let silent = |word: &[u8]| {
        let name = word.strip_prefix(b"+").or(word.strip_prefix(b"-")).unwrap_or(word);
        name.eq_ignore_ascii_case(b"FLAGS.SILENT")
    };
    let found = text.split(|b| *b == b' ').any(|word| {
        end += word.len() + 1;
        silent(word)
    });
    if !found {
        return None;
    }
    end -= 1;
    let mut loud = command.clone();
    loud.segments[0].text = Bytes::from([&text[..end - ".SILENT".len()], &text[end..]].concat());
    Some(loud)
}

/// What a FETCH asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FetchEffects {
    /// FLAGS, or a macro with it (ALL, FAST, FULL; RFC 9051 section 6.4.5).
    pub flags: bool,
    /// Content other than by PEEK: it sets \Seen (RFC 9051 section 6.4.5, RFC 3516 section 4.2).
    pub seen: bool,
    /// UID, whether by name or because it is a UID FETCH (RFC 9051 section 6.4.9).
    pub uid: bool,
}

/// What a FETCH (or UID FETCH) asks for; nothing for other commands.
#[must_use]
pub fn fetch_effects(command: &Command) -> FetchEffects {
    if command.name != Name::Fetch {
        return FetchEffects::default();
    }
    let mut effects = FetchEffects { uid: is_uid(command), ..FetchEffects::default() };
    // What is in the brackets of a section are no items; it may hold a literal.
    let mut section = false;
    for segment in &command.segments {
        for word in segment.text.split(|b| matches!(b, b' ' | b'(' | b')')) {
            if !section {
                effects.note(word);
            }
            for octet in word {
                section = (section || *octet == b'[') && *octet != b']';
            }
        }
    }
    effects
}

/// Whether a FETCH asks for UID, and whether for FLAGS; `None`: it asks for something else, or makes no sense.
#[must_use]
pub fn only_uid_and_flags(command: &Command) -> Option<(bool, bool)> {
    let [Segment { text, literal: None }] = &command.segments[..] else { return None };
    let items = text.splitn(3, |b| *b == b' ').nth(2)?;
    let items = items.strip_prefix(b"(").map_or(Some(items), |items| items.strip_suffix(b")"))?;
    let (mut uid, mut flags) = (false, false);
    for item in items.split(|b| *b == b' ') {
        match &item.to_ascii_uppercase()[..] {
            b"UID" => uid = true,
            b"FLAGS" => flags = true,
            _ => return None,
        }
    }
    Some((uid, flags))
}

impl FetchEffects {
    fn note(&mut self, word: &[u8]) {
        let is = |names: &[&str]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
        let begins =
            |head: &str| word.get(..head.len()).is_some_and(|start| start.eq_ignore_ascii_case(head.as_bytes()));
        self.flags |= is(&["FLAGS", "ALL", "FAST", "FULL"]);
        self.uid |= is(&["UID"]);
        self.seen |= is(&["RFC822", "RFC822.TEXT"]) || begins("BODY[") || begins("BINARY[");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::rewrite::tests::{command, print};

    #[test]
    fn silence_is_taken_out() {
        for (line, expected) in [
            ("STORE 1:* +FLAGS.SILENT (\\Seen)", Some("STORE 1:* +FLAGS (\\Seen)")),
            ("uid store 1 (UNCHANGEDSINCE 5) -flags.silent x", Some("uid store 1 (UNCHANGEDSINCE 5) -flags x")),
            ("STORE 1 FLAGS.SILENT FLAGS.SILENT", Some("STORE 1 FLAGS FLAGS.SILENT")),
            ("STORE 1 FLAGS (\\Seen)", None),
            ("COPY 1 FLAGS.SILENT", None),
        ] {
            assert_eq!(loud(&command(line)).map(|loud| print(&loud)).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn what_asks_only_for_uid_and_flags() {
        for (line, expected) in [
            ("FETCH 1 UID", Some((true, false))),
            ("fetch 1:2 (flags uid)", Some((true, true))),
            ("FETCH 1 (FLAGS", None),
            ("FETCH 1 FAST", None),
            ("FETCH 1 (FLAGS) (CHANGEDSINCE 1)", None),
            ("UID FETCH 1 FLAGS", None),
            ("FETCH 1", None),
        ] {
            assert_eq!(only_uid_and_flags(&command(line)), expected, "{line}");
        }
    }

    #[test]
    fn what_fetches_do() {
        for (line, flags, seen, uid) in [
            ("FETCH 1 FLAGS", true, false, false),
            ("FETCH 1 fast", true, false, false),
            ("FETCH 1 (uid flags)", true, false, true),
            ("UID FETCH 1 (UID BODY.PEEK[HEADER.FIELDS (FLAGS {ALL})] RFC822.SIZE)", false, false, true),
            ("FETCH 1 (BODY.PEEK[HEADER.FIELDS (UID)] FLAGS)", true, false, false),
            ("FETCH 1 body[]", false, true, false),
            ("FETCH 1 (BINARY.PEEK[1] RFC822.HEADER BODY BODYSTRUCTURE)", false, false, false),
            ("FETCH 1 (BINARY[1])", false, true, false),
            ("FETCH 1 RFC822", false, true, false),
            ("UID SEARCH FLAGS RFC822", false, false, false),
        ] {
            assert_eq!(fetch_effects(&command(line)), FetchEffects { flags, seen, uid }, "{line}");
        }
    }
}
