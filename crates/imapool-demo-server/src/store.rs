//! Accounts, their mailboxes and messages.
//!
//! One lock for each account; nothing is awaited under it. A mailbox keeps a counter that grows with every change,
//! and each message the counter's value at its last change of flags: a session compares these with what it has
//! told its client, and so needs no event queue of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::date::DateTime;
use super::options::Seed;

/// Accounts that may come into being by logging in.
const MAX_ACCOUNTS: usize = 100_000;
/// Mailboxes of one account.
const MAX_MAILBOXES: usize = 10_000;
/// Octets of a mailbox's name.
const MAX_NAME: usize = 1000;

/// All accounts; a clone is the same store.
#[derive(Clone, Default)]
pub struct Store {
    accounts: Arc<Mutex<HashMap<String, Arc<Account>>>>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("accounts", &self.accounts.lock().len()).finish()
    }
}

impl Store {
    /// The account, which is made where it is new; `None` where there are too many.
    pub(super) fn account(&self, user: &str, seed: &Seed) -> Option<Arc<Account>> {
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.get(user) {
            return Some(account.clone());
        }
        if accounts.len() >= MAX_ACCOUNTS {
            return None;
        }
        let account = Arc::new(Account::new(user, seed));
        accounts.insert(user.to_owned(), account.clone());
        Some(account)
    }
}

/// One account.
pub(super) struct Account {
    pub(super) user: String,
    content: Mutex<Content>,
    /// Changes whenever something in the account does: what IDLE waits for.
    changes: watch::Sender<u64>,
}

impl Account {
    fn new(user: &str, seed: &Seed) -> Self {
        let mut content = Content { user: user.to_owned(), ..Content::default() };
        let names = std::iter::once(("INBOX", 0)).chain(seed.mailboxes.iter().map(|(name, n)| (name.as_str(), *n)));
        for (name, messages) in names {
            // Refused names (INBOX a second time) are there already.
            let _exists = content.create(name);
            if let Some(mailbox) = content.by_name_mut(name) {
                for n in 1..=messages {
                    let date = DateTime::from_unix(1_706_778_000 + i64::try_from(n).unwrap_or(0) * 60);
                    mailbox.append((seed.message)(user, name, n).into(), BTreeSet::new(), date);
                }
            }
            content.subscribed.insert(content.canonical(name));
        }
        Self { user: user.to_owned(), content: Mutex::new(content), changes: watch::Sender::new(0) }
    }

    /// The account's content, to read, or to change in ways of which no session is told.
    pub(super) fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock()
    }

    /// Changes the content and wakes the account's sessions in IDLE.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        let result = change(&mut self.content.lock());
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
        result
    }

    /// Hears of later changes.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Names a mailbox for as long as the server lives, through renames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MailboxId(u64);

/// Why a mailbox cannot be created, deleted or renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameError {
    Exists,
    Missing,
    Inbox,
    Invalid,
    TooMany,
}

/// What an account holds.
#[derive(Default)]
pub(super) struct Content {
    user: String,
    names: BTreeMap<String, MailboxId>,
    mailboxes: BTreeMap<MailboxId, Mailbox>,
    pub(super) subscribed: BTreeSet<String>,
    made: u64,
}

impl Content {
    /// INBOX in any case is `INBOX`; a trailing delimiter only says that children will follow.
    pub(super) fn canonical(&self, name: &str) -> String {
        let name = name.strip_suffix('/').unwrap_or(name);
        if name.eq_ignore_ascii_case("INBOX") {
            return "INBOX".into();
        }
        match name.split_at_checked(6) {
            Some((inbox, rest)) if inbox.eq_ignore_ascii_case("INBOX/") => format!("INBOX/{rest}"),
            _ => name.to_owned(),
        }
    }

    /// All names in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    pub(super) fn id(&self, name: &str) -> Option<MailboxId> {
        self.names.get(&self.canonical(name)).copied()
    }

    pub(super) fn by_id(&self, id: MailboxId) -> Option<&Mailbox> {
        self.mailboxes.get(&id)
    }

    pub(super) fn by_id_mut(&mut self, id: MailboxId) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(&id)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&Mailbox> {
        self.id(name).and_then(|id| self.by_id(id))
    }

    pub(super) fn by_name_mut(&mut self, name: &str) -> Option<&mut Mailbox> {
        self.id(name).and_then(|id| self.by_id_mut(id))
    }

    pub(super) fn create(&mut self, name: &str) -> Result<(), NameError> {
        let name = self.canonical(name);
        self.check(&name)?;
        if self.names.contains_key(&name) {
            return Err(NameError::Exists);
        }
        for (end, _) in name.match_indices('/').chain([(name.len(), "")]) {
            let name = &name[..end];
            if !self.names.contains_key(name) {
                self.made += 1;
                let id = MailboxId(self.made);
                // The same in every run, another for each account, mailbox and generation.
                let validity = fnv(&[self.user.as_bytes(), b"/", name.as_bytes(), &self.made.to_be_bytes()]);
                self.names.insert(name.to_owned(), id);
                self.mailboxes.insert(id, Mailbox::new(validity));
            }
        }
        Ok(())
    }

    fn check(&self, name: &str) -> Result<(), NameError> {
        let bad = |c: char| c.is_control() || matches!(c, '*' | '%');
        if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) || name.split('/').any(str::is_empty) {
            return Err(NameError::Invalid);
        }
        let levels = name.split('/').count();
        if self.names.len() + levels > MAX_MAILBOXES { Err(NameError::TooMany) } else { Ok(()) }
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<MailboxId, NameError> {
        let name = self.canonical(name);
        if name == "INBOX" {
            return Err(NameError::Inbox);
        }
        let id = self.names.remove(&name).ok_or(NameError::Missing)?;
        self.mailboxes.remove(&id);
        Ok(id)
    }

    /// RENAME (RFC 3501 section 6.3.5): children move along; INBOX's messages move and INBOX stays.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<(), NameError> {
        let (from, to) = (self.canonical(from), self.canonical(to));
        if !self.names.contains_key(&from) {
            return Err(NameError::Missing);
        }
        let below = format!("{from}/");
        if from != "INBOX" && to.starts_with(&below) {
            return Err(NameError::Invalid);
        }
        self.create(&to)?;
        if from == "INBOX" {
            let messages = self.by_name_mut("INBOX").map(Mailbox::take_all).unwrap_or_default();
            if let Some(target) = self.by_name_mut(&to) {
                for m in messages {
                    target.append(m.octets, m.flags, m.date);
                }
            }
            return Ok(());
        }
        if let Some(made) = self.names.remove(&to) {
            self.mailboxes.remove(&made);
        }
        let moving: Vec<String> = self.names.keys().filter(|n| **n == from || n.starts_with(&below)).cloned().collect();
        for old in moving {
            if let Some(id) = self.names.remove(&old) {
                self.names.insert(format!("{to}{}", &old[from.len()..]), id);
            }
        }
        Ok(())
    }
}

fn fnv(parts: &[&[u8]]) -> u32 {
    let hash =
        parts.iter().flat_map(|p| p.iter()).fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

/// One mailbox.
pub(super) struct Mailbox {
    pub(super) uid_validity: u32,
    pub(super) uid_next: u32,
    /// Messages from this UID on are \Recent to the first session that is told of them.
    pub(super) recent_from: u32,
    /// Grows with every change.
    pub(super) changed: u64,
    /// Ascending by UID.
    messages: Vec<Message>,
    /// What is gone: UID, and the counter when it went.
    expunged: Vec<(u32, u64)>,
}

/// One message.
#[derive(Clone)]
pub(super) struct Message {
    pub(super) uid: u32,
    pub(super) octets: Bytes,
    pub(super) date: DateTime,
    /// Without \Recent.
    pub(super) flags: BTreeSet<String>,
    /// The mailbox's counter at the last change of flags.
    pub(super) changed: u64,
}

impl Mailbox {
    fn new(uid_validity: u32) -> Self {
        Self { uid_validity, uid_next: 1, recent_from: 1, changed: 0, messages: Vec::new(), expunged: Vec::new() }
    }

    /// HIGHESTMODSEQ (RFC 7162 section 3.1.2.1), which is never 0.
    pub(super) fn highest(&self) -> u64 {
        self.changed.max(1)
    }

    /// The messages that are gone, in the order in which they went.
    pub(super) fn expunged(&self) -> &[(u32, u64)] {
        &self.expunged
    }

    pub(super) fn messages(&self) -> &[Message] {
        &self.messages
    }

    pub(super) fn message(&self, uid: u32) -> Option<&Message> {
        self.messages.binary_search_by_key(&uid, |m| m.uid).ok().map(|at| &self.messages[at])
    }

    /// Adds a message and returns its UID.
    pub(super) fn append(&mut self, octets: Bytes, flags: BTreeSet<String>, date: DateTime) -> u32 {
        let uid = self.uid_next;
        self.uid_next = uid.saturating_add(1);
        self.changed += 1;
        self.messages.push(Message { uid, octets, date, flags, changed: self.changed });
        uid
    }

    /// Replaces a message's flags; `false` where they were the same.
    pub(super) fn set_flags(&mut self, uid: u32, flags: BTreeSet<String>) -> bool {
        let Ok(at) = self.messages.binary_search_by_key(&uid, |m| m.uid) else { return false };
        let message = &mut self.messages[at];
        if message.flags == flags {
            return false;
        }
        self.changed += 1;
        message.flags = flags;
        message.changed = self.changed;
        true
    }

    /// Removes the messages the predicate names.
    pub(super) fn remove(&mut self, gone: impl Fn(&Message) -> bool) {
        let now = self.changed + 1;
        let (expunged, before) = (&mut self.expunged, self.messages.len());
        self.messages.retain(|m| {
            let gone = gone(m);
            if gone {
                expunged.push((m.uid, now));
            }
            !gone
        });
        self.changed += u64::from(self.messages.len() != before);
    }

    fn take_all(&mut self) -> Vec<Message> {
        self.changed += 1;
        let taken = std::mem::take(&mut self.messages);
        self.expunged.extend(taken.iter().map(|m| (m.uid, self.changed)));
        taken
    }

    /// The keywords in use, for FLAGS and PERMANENTFLAGS.
    pub(super) fn keywords(&self) -> BTreeSet<&str> {
        self.messages.iter().flat_map(|m| m.flags.iter()).filter(|f| !f.starts_with('\\')).map(String::as_str).collect()
    }
}
