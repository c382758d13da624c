//! What is true: what the server holds, and what clients have asked for. What sessions are told is held against it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imapool::demo::server::{MessageInfo, Server};

/// Whose message it is, and which.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    pub(crate) user: String,
    pub(crate) name: String,
}

impl Identity {
    pub(crate) fn message(user: &str, name: &str) -> Vec<u8> {
        format!("X-Identity: {user} {name}\r\nSubject: {name}\r\n\r\nBelongs to {user}.\r\n").into_bytes()
    }

    /// With so many octets more.
    pub(crate) fn padded(user: &str, name: &str, padding: usize) -> Vec<u8> {
        let mut message = Self::message(user, name);
        message.resize(message.len() + padding, b'x');
        message
    }

    pub(crate) fn of(octets: &[u8]) -> Self {
        let text = String::from_utf8_lossy(octets);
        let line = text.lines().next().and_then(|line| line.strip_prefix("X-Identity: "));
        let (user, name) =
            line.and_then(|line| line.split_once(' ')).unwrap_or_else(|| panic!("whose is this: {text}"));
        Self { user: user.to_owned(), name: name.to_owned() }
    }
}

/// What became of something that must happen once or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Count {
    /// Answered with OK.
    pub(crate) done: usize,
    /// Not answered, or answered so that nobody can know.
    pub(crate) unknown: usize,
}

/// See above.
pub(crate) struct Truth {
    server: Arc<Server>,
    /// `(user, mailbox, uid)`: asked to be gone.
    doomed: BTreeSet<(String, String, u32)>,
    seen: BTreeMap<(String, String, u32), Identity>,
    /// `(user, mailbox, read-only, uid)`: a session was told that it is gone, and so whoever tells all of them knows.
    told: BTreeSet<(String, String, bool, u32)>,
    /// Keywords that are set on one message only.
    marks: BTreeMap<String, (String, String, Option<u32>)>,
    /// Sessions that lie in IDLE in one mailbox, and how often one came to where no other was.
    asleep: BTreeSet<u64>,
    pub(crate) alone: u64,
    /// Of those in `asleep`, whose SELECT is not answered yet.
    joining: BTreeSet<u64>,
    /// Commands of all clients.
    pub(crate) asked: u64,
    /// `(mailbox, identity)` in mailboxes that nobody else writes to, and that nobody expunges.
    kept: BTreeMap<(String, Identity), Count>,
}

impl Truth {
    pub(crate) fn new(server: &Arc<Server>) -> Self {
        Self {
            server: Arc::clone(server),
            doomed: BTreeSet::new(),
            seen: BTreeMap::new(),
            told: BTreeSet::new(),
            marks: BTreeMap::new(),
            asleep: BTreeSet::new(),
            alone: 0,
            joining: BTreeSet::new(),
            asked: 0,
            kept: BTreeMap::new(),
        }
    }

    pub(crate) fn messages(&self, user: &str, mailbox: &str) -> Vec<MessageInfo> {
        self.server.messages(user, mailbox).unwrap_or_default()
    }

    pub(crate) fn uids(&self, user: &str, mailbox: &str) -> BTreeSet<u32> {
        self.messages(user, mailbox).iter().map(|message| message.uid).collect()
    }

    fn find(&self, user: &str, mailbox: &str, uid: u32) -> Option<MessageInfo> {
        self.messages(user, mailbox).into_iter().find(|message| message.uid == uid)
    }

    /// A client is about to have it expunged or moved.
    pub(crate) fn doom(&mut self, user: &str, mailbox: &str, uid: u32) {
        self.doomed.insert((user.to_owned(), mailbox.to_owned(), uid));
    }

    /// A session was told that it is gone.
    pub(crate) fn gone(&mut self, user: &str, mailbox: &str, read_only: bool, uid: Option<u32>) {
        let Some(uid) = uid else { return };
        assert!(self.find(user, mailbox, uid).is_none(), "{user} {mailbox} {uid} is told to be gone, and is there");
        self.told.insert((user.to_owned(), mailbox.to_owned(), read_only, uid));
    }

    /// The UIDs that any session was told to be gone.
    pub(crate) fn told(&self, user: &str, mailbox: &str, read_only: bool) -> BTreeSet<u32> {
        let here = |told: &&(String, String, bool, u32)| (&*told.0, &*told.1, told.2) == (user, mailbox, read_only);
        self.told.iter().filter(here).map(|told| told.3).collect()
    }

    /// A session was told these flags.
    pub(crate) fn flags(&mut self, user: &str, mailbox: &str, uid: Option<u32>, flags: &BTreeSet<String>) {
        for mark in flags.iter().filter(|flag| flag.starts_with("$m")) {
            let of = self.marks.get_mut(mark).unwrap_or_else(|| panic!("{mark} was never set"));
            if of.1 != mailbox {
                continue;
            }
            assert_eq!(of.0, user, "{mark} is another's");
            match (of.2, uid) {
                (Some(of), Some(uid)) => assert_eq!(of, uid, "{mark} is told of another message"),
                (None, Some(uid)) => of.2 = Some(uid),
                _ => {}
            }
        }
    }

    /// A client comes to lie in IDLE.
    pub(crate) fn lies_down(&mut self, name: u64) {
        self.alone += u64::from(self.asleep.is_empty());
        self.asleep.insert(name);
        self.joining.insert(name);
    }

    /// Its SELECT is answered.
    pub(crate) fn lies(&mut self, name: u64) {
        self.joining.remove(&name);
    }

    /// It leaves, if it was there. Who is about to join may be alone then.
    pub(crate) fn gets_up(&mut self, name: u64) {
        let (was_there, was_joining) = (self.asleep.remove(&name), self.joining.remove(&name));
        let left_alone = !self.asleep.is_empty() && self.asleep.is_subset(&self.joining);
        self.alone += u64::from(was_there && !was_joining && left_alone);
    }

    /// A session was told this content.
    pub(crate) fn body(&mut self, user: &str, mailbox: &str, uid: Option<u32>, identity: &Identity) {
        assert_eq!(identity.user, user, "another's message: {identity:?}");
        let Some(uid) = uid else { return };
        let held = self.find(user, mailbox, uid).map(|message| Identity::of(&message.octets));
        let key = (user.to_owned(), mailbox.to_owned(), uid);
        let known = held.or_else(|| self.seen.get(&key).cloned());
        assert!(known.is_none_or(|known| known == *identity), "{key:?} is told to be {identity:?}");
        self.seen.insert(key, identity.clone());
    }

    /// A client is about to set this keyword on one message: the one of this UID, if it knows it.
    pub(crate) fn mark(&mut self, mark: &str, user: &str, mailbox: &str, uid: Option<u32>) {
        self.marks.insert(mark.to_owned(), (user.to_owned(), mailbox.to_owned(), uid));
    }

    /// It was told that it is done. Gives the UID of the message that has it.
    pub(crate) fn marked(&mut self, mark: &str) -> Option<u32> {
        let (user, mailbox, uid) = self.marks[mark].clone();
        let has: Vec<_> =
            self.messages(&user, &mailbox).into_iter().filter(|m| m.flags.iter().any(|f| f == mark)).collect();
        assert!(has.len() <= 1, "{mark} was set on {} messages", has.len());
        let found = has.first().map(|message| message.uid);
        if let (Some(uid), Some(found)) = (uid, found) {
            assert_eq!(uid, found, "{mark} was set on another message of {user} {mailbox}");
        }
        if let (Some(uid), None) = (uid, found) {
            assert!(self.find(&user, &mailbox, uid).is_none(), "{mark} was not set on {user} {mailbox} {uid}");
        }
        if let Some(found) = found {
            self.marks.get_mut(mark).expect("it was set").2 = Some(found);
        }
        found
    }

    /// Something was written into a mailbox of this client's own.
    pub(crate) fn kept(&mut self, mailbox: &str, identity: &Identity) -> &mut Count {
        self.kept.entry((mailbox.to_owned(), identity.clone())).or_default()
    }

    /// What holds at any time. Cheap enough for each command's end.
    pub(crate) fn check_kept(&self, user: &str, mailbox: &str) {
        let mut found: BTreeMap<Identity, usize> = BTreeMap::new();
        for message in self.messages(user, mailbox) {
            *found.entry(Identity::of(&message.octets)).or_default() += 1;
        }
        for ((at, identity), count) in &self.kept {
            if at == mailbox && identity.user == user {
                let found = found.remove(identity).unwrap_or_default();
                let most = count.done + count.unknown;
                assert!(
                    (count.done..=most).contains(&found),
                    "{identity:?} is {found} times in {mailbox}: acknowledged {}, not known {}",
                    count.done,
                    count.unknown
                );
            }
        }
        assert!(found.is_empty(), "nobody wrote {found:?} to {mailbox}");
    }

    /// Nothing is gone that nobody asked to be gone.
    pub(crate) fn check_doomed(&self, user: &str, mailbox: &str, ever: &BTreeSet<u32>) {
        let there = self.uids(user, mailbox);
        for uid in ever.difference(&there) {
            let key = (user.to_owned(), mailbox.to_owned(), *uid);
            assert!(self.doomed.contains(&key), "{key:?} is gone, and nobody asked for that");
        }
    }

    /// No message is twice in a mailbox that nobody copies to.
    pub(crate) fn check_single(&self, user: &str, mailbox: &str) {
        let mut found = BTreeSet::new();
        for message in self.messages(user, mailbox) {
            let identity = Identity::of(&message.octets);
            assert!(found.insert(identity.clone()), "{identity:?} is twice in {mailbox}");
        }
    }

    /// All of the mailboxes that [`Truth::kept`] speaks of.
    pub(crate) fn check_all_kept(&self) {
        let all: BTreeSet<_> = self.kept.keys().map(|(mailbox, identity)| (identity.user.clone(), mailbox)).collect();
        for (user, mailbox) in all {
            self.check_kept(&user, mailbox);
        }
    }
}
