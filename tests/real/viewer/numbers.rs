//! What a viewer checks that works by number, between another's EXPUNGE and its own hearing of it.

use std::collections::BTreeSet;
use std::io;

use super::{Message, Viewer};

/// A search for numbers, UIDs and ALL: each message that the client counts is found, whether it is still there or not.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    keys: Keys,
    returns: &'static str,
    /// UID SEARCH: the UIDs of those that it names, if they are all known.
    uids: Option<BTreeSet<u32>>,
    /// So many messages were there when it was asked.
    count: usize,
    answered: bool,
}

/// Of which there may be two numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keys {
    All,
    Range(usize, usize),
    Not(usize),
    Either(usize, usize),
    /// All but the last of a range, in parentheses.
    Within(usize, usize),
    /// The message of this number has this UID.
    Uid(usize, u32),
    NotUid(usize, u32),
}

impl Keys {
    /// The `which`th kind of it, with these numbers.
    pub(crate) fn new(which: usize, n: usize, m: usize, uid: Option<u32>) -> Self {
        match (which % 7, uid) {
            (0, _) => Self::Range(n, m),
            (1, _) => Self::Not(n),
            (2, _) => Self::Either(n, m),
            (3, _) => Self::Within(n, m),
            (4, Some(uid)) => Self::Uid(n, uid),
            (5, Some(uid)) => Self::NotUid(n, uid),
            _ => Self::All,
        }
    }

    fn finds(self, number: usize) -> bool {
        match self {
            Self::All => true,
            Self::Range(n, m) => (n.min(m)..=n.max(m)).contains(&number),
            Self::Not(n) | Self::NotUid(n, _) => number != n,
            Self::Either(n, m) => number == n || number == m,
            Self::Within(n, m) => (n.min(m)..=n.max(m)).contains(&number) && number != m,
            Self::Uid(n, _) => number == n,
        }
    }
}

impl std::fmt::Display for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => write!(f, "ALL"),
            Self::Range(n, m) => write!(f, "{n}:{m}"),
            Self::Not(n) => write!(f, "NOT {n}"),
            Self::Either(n, m) => write!(f, "OR {n} {m}"),
            Self::Within(n, m) => write!(f, "({n}:{m} (NOT {m}))"),
            Self::Uid(_, uid) => write!(f, "UID {uid}"),
            Self::NotUid(_, uid) => write!(f, "NOT (UID {uid})"),
        }
    }
}

impl Query {
    /// What is wrong about this reply, if there is anything. `misses`: the server leaves out what is gone, although
    /// the client has not been told, and names in ESEARCH what has come before it tells of it.
    pub(super) fn check(&mut self, text: &str, view: &mut [Message], misses: bool) -> Result<(), String> {
        self.answered = true;
        let numbers: BTreeSet<usize> = match &self.uids {
            Some(uids) => uids.iter().map(|uid| *uid as usize).collect(),
            None => (1..=view.len()).filter(|number| self.keys.finds(*number)).collect(),
        };
        let text = text.trim_end();
        let item = |name: &str| {
            let (_, rest) = text.split_once(&format!(" {name} "))?;
            rest.split(' ').next()
        };
        let esearch = text.starts_with("* ESEARCH");
        let right = if esearch && self.returns.contains("COUNT") {
            let is = |name: &str, value: Option<usize>| item(name) == value.map(|value| value.to_string()).as_deref();
            misses
                || is("COUNT", Some(numbers.len()))
                    && is("MIN", numbers.first().copied())
                    && is("MAX", numbers.last().copied())
        } else {
            let found: BTreeSet<usize> = if esearch {
                let mut found = set(item("ALL").unwrap_or_default());
                found.retain(|number| !misses || self.uids.is_some() || *number <= view.len());
                found
            } else {
                let text = text.split_once(" (MODSEQ").map_or(text, |(text, _)| text);
                text.split(' ').skip(2).filter_map(|word| word.parse().ok()).collect()
            };
            for missed in numbers.difference(&found).filter(|_| misses) {
                let is_it = |at: usize, message: &Message| match self.uids {
                    Some(_) => message.uid.is_some_and(|uid| uid as usize == *missed),
                    // One that came while it was searched need not be found.
                    None => at + 1 == *missed && at < self.count,
                };
                (0..).zip(view.iter_mut()).filter(|(at, it)| is_it(*at, it)).for_each(|(_, it)| it.missed = true);
            }
            found == numbers || misses && found.is_subset(&numbers)
        };
        if right { Ok(()) } else { Err(format!("{} of {}: {text} instead of {numbers:?}", self.keys, view.len())) }
    }
}

fn set(text: &str) -> BTreeSet<usize> {
    let parts = text.split(',').filter(|part| !part.is_empty()).map(|part| {
        let (first, last) = part.split_once(':').unwrap_or((part, part));
        (first.parse::<usize>().unwrap_or(0), last.parse::<usize>().unwrap_or(0))
    });
    parts.flat_map(|(first, last)| first.min(last)..=first.max(last)).collect()
}

impl Viewer {
    /// SEARCH, which has to find exactly these.
    pub(crate) async fn find(&mut self, returns: &'static str, keys: Keys) -> io::Result<()> {
        self.query = Some(Query { keys, returns, uids: None, count: self.view.len(), answered: false });
        let line = format!("SEARCH {returns}{keys}");
        let result = self.run(&line).await;
        self.found_it(&line, result)
    }

    /// UID SEARCH, if it knows the UIDs of those that it is to find.
    pub(crate) async fn find_uids(&mut self, returns: &'static str, keys: Keys) -> io::Result<()> {
        let named = (1..).zip(&self.view).filter(|(number, _)| keys.finds(*number));
        let uids: Option<BTreeSet<u32>> = named.map(|(_, message)| message.uid).collect();
        // New messages would be found as well.
        if matches!(keys, Keys::All | Keys::Not(_) | Keys::NotUid(..) | Keys::Uid(..)) || uids.is_none() {
            return self.find(returns, keys).await;
        }
        self.query = Some(Query { keys, returns, uids, count: self.view.len(), answered: false });
        let line = format!("UID SEARCH {returns}{keys}");
        let result = self.run(&line).await;
        self.found_it(&line, result)
    }

    fn found_it(&mut self, line: &str, result: io::Result<()>) -> io::Result<()> {
        let answered = self.query.take().is_some_and(|query| query.answered);
        result?;
        if answered { Ok(()) } else { self.wrong(&format!("{line}: no answer")) }
    }

    /// Of a message that is there, a FETCH by number says something: what it leaves out is gone, and NOOP tells so.
    pub(super) fn check_missed(&mut self, line: &str) -> io::Result<()> {
        if line != "NOOP" {
            return Ok(());
        }
        match (1..).zip(&self.view).find(|(_, message)| message.missed) {
            Some((number, message)) => {
                self.wrong(&format!("a reply left out message {number}, which is there: {message:?}"))
            }
            None => Ok(()),
        }
    }

    /// Of all sessions that have the mailbox selected, one is told that the message is recent.
    pub(super) fn claim_recent(&self, uid: u32) -> io::Result<()> {
        if self.session == 0 {
            return Ok(());
        }
        let mut known = self.known.lock().expect("no holder panics");
        if known.is_cyrus {
            return Ok(());
        }
        let first = *known.recent.entry((self.mailbox.clone(), uid)).or_insert(self.session);
        drop(known);
        if first == self.session {
            return Ok(());
        }
        self.wrong(&format!("UID {uid} was told to be recent to session {first} and to session {}", self.session))
    }
}

#[test]
fn queries_are_judged() {
    let query = |keys, returns| Query { keys, returns, uids: None, count: 5, answered: false };
    let view = &mut vec![Message::default(); 5];
    assert_eq!(query(Keys::Not(2), "").check("* SEARCH 1 3 4 5\r\n", view, false), Ok(()));
    assert!(query(Keys::Not(2), "").check("* SEARCH 1 3 4\r\n", view, false).is_err());
    assert_eq!(query(Keys::All, "").check("* SEARCH 1 2 4 5\r\n", view, true), Ok(()));
    assert_eq!(query(Keys::All, "RETURN () ").check("* ESEARCH (TAG \"a\") ALL 1:6\r\n", view, true), Ok(()));
    assert!(query(Keys::All, "RETURN () ").check("* ESEARCH (TAG \"a\") ALL 1:6\r\n", view, false).is_err());
    assert!(query(Keys::All, "").check("* SEARCH 1 2 3 4 5 6\r\n", view, true).is_err());
    assert_eq!(view.iter().position(|message| message.missed), Some(2));
    assert!(query(Keys::Not(2), "").check("* SEARCH 2\r\n", view, true).is_err());
    assert_eq!(query(Keys::All, "RETURN () ").check("* ESEARCH (TAG \"a\") ALL 1:5\r\n", view, false), Ok(()));
    let counts = "* ESEARCH (TAG \"a\") MIN 2 MAX 3 COUNT 2\r\n";
    assert_eq!(query(Keys::Within(2, 4), "RETURN (MIN MAX COUNT) ").check(counts, view, false), Ok(()));
    assert!(query(Keys::Within(2, 5), "RETURN (MIN MAX COUNT) ").check(counts, view, false).is_err());
}
