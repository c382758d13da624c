//! What becomes of a command of a session that shares its connection.

use bytes::Bytes;

use super::shadow::normal;
use crate::imap::command::{Command, Name, Segment};
use crate::imap::effects::fetch_effects;
use crate::imap::request::Request;
use crate::imap::rewrite::{is_uid, uses};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// The hub answers it.
    Idle,
    /// The session leaves; the others notice nothing.
    Unselect,
    /// What is marked \Deleted goes, and the session leaves.
    Close,
    /// With arguments that it cannot have: servers may take it all the same, and wait for more, or leave the mailbox.
    Malformed,
    /// It runs on the shared connection.
    Run(Shape),
    /// It leaves something on the connection that others must not meet, or may come to mean anything: the session
    /// needs a connection of its own.
    Pin,
}

/// What has to be known of a command that runs on a shared connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shape {
    /// Names messages by number, and gets numbers in reply, so that the client must not hear of an EXPUNGE meanwhile
    /// (RFC 9051 section 7.5.1; RFC 5256 section 3 for SORT and THREAD; RFC 7162 section 3.2.10.2 for UID SEARCH).
    pub keeps_numbers: bool,
    /// Names messages by number.
    pub by_number: bool,
    /// `UID …`
    pub uid: bool,
    /// Asks for flags and changes none: what comes is news only if it differs from what is known.
    pub asks_flags: bool,
    /// A STORE.
    pub store: Option<Store>,
}

/// What a STORE does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// `.SILENT`
    pub silent: bool,
    /// It changes only messages that did not change meanwhile (UNCHANGEDSINCE, RFC 7162 section 3.1.3).
    pub conditional: bool,
    /// `+`, `-`, or `F` for replacing.
    pub sign: u8,
    /// As by [`normal`].
    pub flags: Bytes,
}

/// What becomes of a command, where the backend offers CONDSTORE or does not.
#[must_use]
pub fn plan(request: &Request, condstore: bool) -> Plan {
    use Name::{
        Check, Close, Copy, Create, Delete, DeleteAcl, Expunge, Fetch, GenUrlAuth, GetAcl, GetMetadata, GetQuota,
        GetQuotaRoot, Idle, List, ListRights, Lsub, Move, MyRights, Namespace, Noop, Rename, ResetKey, Search, SetAcl,
        SetMetadata, SetQuota, Sort, Status, Store, Subscribe, Thread, Unselect, Unsubscribe, UrlFetch,
    };
    // What a backend makes of mod-sequences that it does not offer (RFC 7162 section 3.1), nobody knows.
    if request.modseqs().mentioned && !condstore {
        return Plan::Pin;
    }
    let command = &request.command;
    match command.name {
        Idle if command.arguments().at_end() => Plan::Idle,
        Unselect if command.arguments().at_end() => Plan::Unselect,
        Close if command.arguments().at_end() => Plan::Close,
        Idle | Unselect | Close => Plan::Malformed,
        Fetch | Store | Search | Sort | Thread | Copy | Move | Expunge => messages(command),
        // With literals or without, these say nothing of single messages.
        Noop | Check | List | Lsub | Status | Create | Delete | Rename | Subscribe | Unsubscribe | Namespace
        | GetQuota | GetQuotaRoot | SetQuota | GetAcl | SetAcl | DeleteAcl | ListRights | MyRights | GetMetadata
        | SetMetadata | GenUrlAuth | UrlFetch | ResetKey => Plan::Run(Shape::default()),
        _ => Plan::Pin,
    }
}

/// See [`Shape::keeps_numbers`].
#[must_use]
pub fn keeps_numbers(command: &Command) -> bool {
    let quiet = matches!(command.name, Name::Fetch | Name::Store | Name::Search | Name::Sort | Name::Thread);
    quiet && (!is_uid(command) || uses(command).numbers)
}

/// Whether there may be numbers of messages in a command, or in the reply to it.
#[must_use]
pub fn may_name_messages(command: &Command) -> bool {
    let never = matches!(command.name, Name::Enable | Name::Select | Name::Examine);
    !never && (uses(command).numbers || !is_uid(command) && command.arguments().word().is_some())
}

fn messages(command: &Command) -> Plan {
    let uses = uses(command);
    if uses.saved_result || uses.saves_result || uses.context {
        return Plan::Pin;
    }
    let uid = is_uid(command);
    let effects = fetch_effects(command);
    let name = command.name;
    Plan::Run(Shape {
        keeps_numbers: keeps_numbers(command),
        by_number: uses.numbers,
        uid,
        asks_flags: effects.flags && !effects.seen,
        store: if name == Name::Store { store(command) } else { None },
    })
}

/// `UID STORE 1:3 +FLAGS.SILENT (\Seen)`; `None`: it is malformed, or uncommon enough for the server to say.
fn store(command: &Command) -> Option<Store> {
    let [Segment { text, literal: None }] = &command.segments[..] else { return None };
    let mut arguments = command.arguments();
    arguments.word()?;
    let mut item = arguments.word()?;
    let conditional = item.starts_with(b"(");
    if conditional {
        while !item.ends_with(b")") {
            item = arguments.word()?;
        }
        item = arguments.word()?;
    }
    let item = item.to_ascii_uppercase();
    let (sign, rest) = match item.first()? {
        sign @ (b'+' | b'-') => (*sign, &item[1..]),
        _ => (b'F', &item[..]),
    };
    let silent = match rest {
        b"FLAGS" => false,
        b"FLAGS.SILENT" => true,
        _ => return None,
    };
    // The item is a word of its own, so its first place is the one.
    let at = memchr::memmem::find(&text.to_ascii_uppercase(), &item)?;
    let flags = text.get(at + item.len() + 1..)?;
    Some(Store { silent, conditional, sign, flags: normal(flags) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::command::parse_head;

    fn request(line: &'static str) -> Box<Request> {
        let head = parse_head(line.as_bytes()).unwrap();
        let text = Bytes::from_static(&line.as_bytes()[head.tag_end + 1..]);
        let segments = vec![Segment { text, literal: None }];
        Request::new(Command { tag: "a".into(), name: head.name, segments }, None)
    }

    fn shape(line: &'static str) -> Shape {
        match plan(&request(line), true) {
            Plan::Run(shape) => shape,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn who_may_hear_of_expunge() {
        for line in
            ["a FETCH 1 FLAGS", "a STORE 1 FLAGS ()", "a SEARCH ALL", "a SORT (DATE) UTF-8 ALL", "a UID SEARCH 1"]
        {
            assert!(shape(line).keeps_numbers, "{line}");
        }
        for line in ["a UID FETCH 1 FLAGS", "a UID SEARCH UID 1", "a COPY 1 x", "a NOOP", "a EXPUNGE", "a LIST \"\" *"]
        {
            assert!(!shape(line).keeps_numbers, "{line}");
        }
    }

    #[test]
    fn flags_that_were_asked_for() {
        for line in ["a FETCH 1 (UID FLAGS)", "a FETCH 1 all", "a UID FETCH 1 (FLAGS BODY.PEEK[])"] {
            assert!(shape(line).asks_flags, "{line}");
        }
        for line in ["a FETCH 1 (FLAGS BODY[])", "a FETCH 1 RFC822", "a FETCH 1 (FLAGS RFC822)", "a FETCH 1 UID"] {
            assert!(!shape(line).asks_flags, "{line}");
        }
    }

    #[test]
    fn what_a_store_does() {
        let store = shape("a UID STORE 1:2 +flags.silent (\\Seen x)").store.unwrap();
        assert_eq!((store.silent, store.sign, store.flags), (true, b'+', normal(b"x \\Seen")));
        let store = shape("a STORE 1:2 (UNCHANGEDSINCE 5) -FLAGS (x)").store.unwrap();
        assert_eq!((store.conditional, store.silent, store.flags), (true, false, normal(b"x")));
        assert_eq!(shape("a STORE 1 FLAGS x").store.unwrap().sign, b'F');
    }

    #[test]
    fn what_others_must_not_meet_pins() {
        for line in [
            "a NOTIFY NONE",
            "a XYZZY",
            "a ENABLE QRESYNC",
            "a SEARCH RETURN (SAVE) ALL",
            "a FETCH $ FLAGS",
            "a LANGUAGE de",
            "a SEARCH RETURN (UPDATE) ALL",
        ] {
            assert_eq!(plan(&request(line), true), Plan::Pin, "{line}");
        }
        assert_eq!(plan(&request("a FETCH 1 (MODSEQ)"), false), Plan::Pin);
        assert!(matches!(plan(&request("a FETCH 1 (MODSEQ)"), true), Plan::Run(_)));
        assert_eq!(plan(&request("a IDLE"), false), Plan::Idle);
        assert_eq!(plan(&request("a IDLE now"), false), Plan::Malformed);
        assert_eq!(plan(&request("a CLOSE"), false), Plan::Close);
    }
}
