//! A client that checks all it is told against what it may be told, and what it knows against the server.

use std::collections::{BTreeMap, HashMap};

use super::server::{Flags, Message, in_set};
use super::world::command;
use crate::mailbox::enabled::Enabled;
use crate::mailbox::plan::{Plan, plan};

/// A message as the client knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) uid: Option<u32>,
    pub(super) flags: Option<Flags>,
    pub(super) modseq: Option<u64>,
}

/// A command that runs.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) line: String,
    /// By number, and neither COPY nor MOVE: no EXPUNGE may come.
    pub(super) keeps_numbers: bool,
    /// Messages that it counted when it gave it.
    count: u32,
    /// FETCH replies by number so far.
    fetched: Vec<u32>,
    found: Option<Vec<u32>>,
}

#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) enabled: Enabled,
    /// By a command that is not answered yet.
    switching: bool,
    pub(super) mailbox: Option<String>,
    pub(super) view: Vec<Known>,
    pub(super) running: Option<Running>,
    pub(super) idling: bool,
    /// What it knew of mailboxes when it left them.
    memories: HashMap<String, Memory>,
    /// What SELECT says of the one that it selects, and what it knew of that, unless it was told otherwise.
    told: Memory,
    /// With QRESYNC, the flags that it knows from another time, or was told since.
    cached: BTreeMap<u32, Flags>,
    seen: Seen,
    buffer: Vec<u8>,
}

/// What a client with QRESYNC keeps of a mailbox.
#[derive(Debug, Clone, Default)]
struct Memory {
    validity: u32,
    modseq: u64,
    flags: BTreeMap<u32, Flags>,
}

/// The highest mod-sequence in the replies to a command, and what HIGHESTMODSEQ said in its place (RFC 7162 section 6).
#[derive(Debug, Default)]
struct Seen {
    highest: u64,
    said: Option<u64>,
}

impl Client {
    /// Gives a command.
    pub(super) fn begin(&mut self, line: &str) {
        let upper = line.to_ascii_uppercase();
        let keeps_numbers = ["FETCH", "STORE", "SEARCH"].iter().any(|verb| upper.starts_with(verb));
        let count = u32::try_from(self.view.len()).unwrap();
        self.running = Some(Running { line: line.to_owned(), keeps_numbers, count, fetched: Vec::new(), found: None });
        if upper.starts_with("SELECT") || upper.starts_with("EXAMINE") {
            self.left();
            let memory = self.memories.get(line.split(' ').nth(1).unwrap()).filter(|_| upper.contains("QRESYNC"));
            self.told = Memory { flags: memory.map_or_else(BTreeMap::new, |it| it.flags.clone()), ..Memory::default() };
        }
    }

    /// The parameters by which it selects a mailbox that it knows.
    pub(super) fn resync(&self, name: &str) -> Option<String> {
        let Memory { validity, modseq, .. } = self.memories.get(name)?;
        Some(format!(" (QRESYNC ({validity} {modseq}))"))
    }

    /// It has switched on so much from now on.
    pub(super) fn switches_on(&mut self, enabled: Enabled) {
        if enabled > self.enabled {
            // What it kept was not meant for that.
            self.memories.clear();
            self.enabled = enabled;
            self.switching = self.running.is_some();
        }
    }

    /// The mailbox is not selected any more.
    pub(super) fn left(&mut self) {
        let view = std::mem::take(&mut self.view);
        self.cached.clear();
        self.seen = Seen::default();
        if let Some(name) = self.mailbox.take().filter(|_| self.told.modseq > 0) {
            let flags = view.into_iter().filter_map(|known| known.uid.zip(known.flags)).collect();
            self.memories.insert(name, Memory { flags, ..self.told.clone() });
        }
    }

    /// The command was not run; true: it was a SELECT.
    pub(super) fn unconnected(&mut self) -> bool {
        self.running.take().expect("a reply without a command");
        self.mailbox.is_none()
    }

    pub(super) fn data(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
        while let Some(line) = self.take_line() {
            self.untagged(&line);
        }
    }

    /// A whole reply, literals included.
    fn take_line(&mut self) -> Option<String> {
        let mut at = 0;
        loop {
            let end = at + self.buffer[at..].windows(2).position(|w| w == b"\r\n")? + 2;
            let line = std::str::from_utf8(&self.buffer[at..end - 2]).unwrap();
            let size =
                line.strip_suffix('}').and_then(|l| l.rsplit_once('{')).map(|(_, n)| n.parse::<usize>().unwrap());
            match size {
                Some(size) if self.buffer.len() < end + size => return None,
                Some(size) => at = end + size,
                None => {
                    let line = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
                    return Some(line);
                }
            }
        }
    }

    fn untagged(&mut self, line: &str) {
        let text = line.strip_prefix("* ").unwrap_or_else(|| panic!("not untagged: {line:?}"));
        let mut words = text.trim_end().splitn(3, ' ');
        let (first, second) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match (first.parse::<u32>(), second) {
            (Ok(count), "EXISTS") => {
                let count = count as usize;
                assert!(count >= self.view.len(), "EXISTS {count} after {}", self.view.len());
                self.view.resize(count, Known::default());
            }
            (Ok(count), "RECENT") => {
                assert!(count as usize <= self.view.len(), "{count} recent of {}", self.view.len())
            }
            (Ok(number), "EXPUNGE") => {
                let running = self.running.as_ref();
                assert!(running.is_some() || self.idling, "EXPUNGE without a command");
                assert!(!running.is_some_and(|r| r.keeps_numbers), "EXPUNGE during {running:?}");
                assert!(self.enabled < Enabled::Qresync, "EXPUNGE in VANISHED's place");
                assert!((1..=self.view.len()).contains(&(number as usize)), "EXPUNGE {number} of {}", self.view.len());
                self.view.remove(number as usize - 1);
                if let Some(running) = &mut self.running {
                    running.fetched.retain(|fetched| *fetched != number);
                    running.fetched.iter_mut().filter(|fetched| **fetched > number).for_each(|fetched| *fetched -= 1);
                }
            }
            (Err(_), _) if first == "VANISHED" => self.vanished(&text.trim_end()["VANISHED ".len()..]),
            (Ok(number), "FETCH") => self.fetched(number, words.next().unwrap_or("")),
            (Err(_), _) if first == "SEARCH" => {
                let text = text.split(" (MODSEQ").next().unwrap();
                let found = text.trim_end().split(' ').skip(1).map(|n| n.parse().unwrap()).collect();
                let running = self.running.as_mut().expect("a SEARCH result without a SEARCH");
                assert!(running.line.contains("SEARCH"));
                running.found = Some(found);
            }
            (Err(_), _) if first == "OK" && self.mailbox.is_none() => {
                if let Some(modseq) = code(text, "[HIGHESTMODSEQ ") {
                    self.told.modseq = modseq;
                }
                if let Some(validity) = code(text, "[UIDVALIDITY ") {
                    self.told.validity = u32::try_from(validity).unwrap();
                }
            }
            (Err(_), _) if first == "OK" => self.seen.said = code(text, "[HIGHESTMODSEQ ").or(self.seen.said),
            (Err(_), _) if matches!(first, "FLAGS" | "LIST" | "STATUS" | "ESEARCH") => {}
            _ => panic!("what is this: {line:?}"),
        }
    }

    fn vanished(&mut self, set: &str) {
        assert_eq!(self.enabled, Enabled::Qresync, "VANISHED {set}");
        let running = self.running.as_mut();
        if let Some(set) = set.strip_prefix("(EARLIER) ") {
            assert!(running.is_some_and(|r| r.line.contains("QRESYNC") || r.line.contains("VANISHED")), "{set}");
            return self.told.flags.retain(|uid, _| !in_set(set, *uid, u32::MAX));
        }
        assert!(running.is_some() || self.idling, "VANISHED without a command");
        assert!(self.mailbox.is_some(), "VANISHED during SELECT");
        assert!(!running.is_some_and(|r| r.keeps_numbers), "VANISHED during {:?}", self.running);
        let uids = set.split(',').flat_map(|part| {
            let (first, last) = part.split_once(':').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse().unwrap()
        });
        for uid in uids {
            self.cached.remove(&uid);
            // Of messages whose UIDs it does not know, it knows no longer which are which.
            let known = |at: usize| self.view.get(at).and_then(|known| known.uid);
            let first =
                (0..self.view.len()).rev().find(|at| known(*at).is_some_and(|it| it < uid)).map_or(0, |at| at + 1);
            let last = (first..self.view.len()).find(|at| known(*at).is_some()).unwrap_or(self.view.len());
            let at = if known(last) == Some(uid) { last } else { first };
            assert!(at < self.view.len() && (at < last || at == last && known(last) == Some(uid)), "no message {uid}");
            if at < last {
                self.view[first..last].fill(Known::default());
            }
            self.view.remove(at);
            let number = u32::try_from(at).unwrap() + 1;
            if let Some(running) = &mut self.running {
                running.fetched.retain(|fetched| *fetched != number);
                running.fetched.iter_mut().filter(|fetched| **fetched > number).for_each(|fetched| *fetched -= 1);
            }
        }
    }

    fn fetched(&mut self, number: u32, items: &str) {
        assert!((1..=self.view.len()).contains(&(number as usize)), "FETCH {number} of {}", self.view.len());
        let after = |word: &str| items.split_once(word).map(|(_, rest)| rest);
        let uid = after("UID ").map(|rest| rest.split([' ', ')']).next().unwrap().parse::<u32>().unwrap());
        let body = after("\r\nmessage ").map(|rest| rest.split('\r').next().unwrap().parse::<u32>().unwrap());
        let modseq = after("MODSEQ (").map(|rest| rest.split(')').next().unwrap().parse::<u64>().unwrap());
        assert!(self.enabled.has_modseqs() || modseq.is_none(), "a mod-sequence that nobody wants: {items}");
        if self.enabled.has_modseqs() && modseq.is_none() && items.contains("FLAGS (") {
            let asked = self.switching || self.running.as_ref().is_some_and(|running| running.line.contains("FETCH"));
            assert!(asked, "flags without mod-sequence: {items}");
        }
        if modseq.is_some() {
            self.view[number as usize - 1].modseq = modseq;
        }
        self.seen.highest = self.seen.highest.max(modseq.filter(|_| self.mailbox.is_some()).unwrap_or(0));
        let flags = after("FLAGS (").map(|rest| flags(rest.split(')').next().unwrap()));
        for uid in uid.into_iter().chain(body) {
            let known = &mut self.view[number as usize - 1].uid;
            assert!(known.is_none_or(|known| known == uid), "message {number} is {known:?}, not {uid}");
            *known = Some(uid);
        }
        if let Some(flags) = flags {
            if let Some(uid) = uid.filter(|_| self.mailbox.is_none()) {
                self.told.flags.insert(uid, flags.clone());
            }
            match self.view[number as usize - 1].uid {
                Some(uid) if self.enabled == Enabled::Qresync => drop(self.cached.insert(uid, flags.clone())),
                // Which one is not known here.
                _ => self.cached.clear(),
            }
            self.view[number as usize - 1].flags = Some(flags);
        }
        let uids: Vec<u32> = self.view.iter().filter_map(|known| known.uid).collect();
        assert!(uids.is_sorted_by(|a, b| a < b), "UIDs out of order: {uids:?}");
        if let Some(running) = &mut self.running {
            running.fetched.push(number);
        }
    }

    /// Whether it waits for the answer to this command.
    pub(super) fn runs(&self, line: &str) -> bool {
        self.running.as_ref().is_some_and(|running| running.line == line)
    }

    /// The tagged reply came; `now`: the mailbox as the server had it when it answered.
    /// Where that is not known: the mailbox as it is, `there`.
    pub(super) fn done(&mut self, rest: &str, now: Option<&[Message]>, there: &[Message]) -> &'static str {
        assert!(self.buffer.is_empty(), "a tagged reply within a line");
        let running = self.running.take().expect("a reply without a command");
        // Where it never got its turn, nobody knows what it was.
        let switched = rest.starts_with(" OK") && ["MODSEQ", "CHANGED"].iter().any(|word| running.line.contains(word));
        self.switching &= !switched;
        let line = running.line.as_str();
        let verb = line.split(' ').next().unwrap();
        if rest.starts_with(" BAD") {
            panic!("{line}: {rest}");
        }
        let ok = rest.starts_with(" OK");
        let Seen { highest, said } = std::mem::take(&mut self.seen);
        if self.mailbox.is_some() && self.told.modseq > 0 {
            let said = code(rest, "[HIGHESTMODSEQ ").or(said);
            // Without QRESYNC, no server says that it withholds an EXPUNGE: only its own word counts.
            let seen = if self.enabled == Enabled::Qresync { highest } else { 0 };
            self.told.modseq = said.unwrap_or(seen.max(self.told.modseq));
        }
        match verb {
            "SELECT" | "EXAMINE" if ok => {
                self.mailbox = Some(line.split(' ').nth(1).unwrap().to_owned());
                return if line.contains("QRESYNC") { self.caught_up(now) } else { "selected" };
            }
            "NOOP" if ok => {
                if let Some(now) = now {
                    self.equals(now);
                    return "checked";
                }
            }
            "FETCH" => self.was_fetched(&running, line, rest, now.unwrap_or(there)),
            "STORE" | "UID" if line.contains("SILENT") && !line.contains("UNCHANGED") => {
                self.stored_silently(&running, ok);
            }
            "STORE" if rest.contains("MODIFIED") => {
                let set = rest.split_once("[MODIFIED ").unwrap().1.split(']').next().unwrap();
                let own = line.split(' ').nth(1).unwrap();
                let count = u32::try_from(self.view.len()).unwrap();
                let of_own = |n: u32| !in_set(set, n, count) || in_set(own, n, count);
                assert!((1..=count).all(of_own), "{line}: {rest}");
                return "modified";
            }
            "SEARCH" if ok => self.was_searched(&running, line),
            _ => {}
        }
        if rest.contains("EXPUNGEISSUED") {
            // RFC 2180 section 4, RFC 9051 section 7.5.1: what is left is served.
            assert!(!running.keeps_numbers || self.needs_own_connection(line), "{line}: {rest}");
            if running.keeps_numbers {
                self.something_is_gone(rest, now);
            }
            return "gone";
        }
        ""
    }

    /// What the client knew of the mailbox, and was told of it since, is what the server has.
    fn caught_up(&mut self, now: Option<&[Message]>) -> &'static str {
        let known = std::mem::take(&mut self.told.flags);
        self.cached = known.clone();
        let Some(now) = now else { return "selected" };
        for (uid, flags) in known {
            match now.iter().find(|message| message.uid == uid) {
                Some(message) => assert_eq!(flags, message.flags, "flags of UID {uid}"),
                // It counts the message, and will be told.
                None if self.view.iter().any(|known| known.uid == Some(uid)) => {}
                None => panic!("UID {uid} has vanished, and nobody says so"),
            }
        }
        "resumed"
    }

    /// What is asked for by number comes, as long as it is there.
    fn was_fetched(&self, running: &Running, line: &str, rest: &str, now: &[Message]) {
        let set = line.split(' ').nth(1).unwrap();
        let count = u32::try_from(self.view.len()).unwrap();
        for number in (1..=count).filter(|n| in_set(set, *n, count)) {
            let known = self.view[number as usize - 1].uid;
            let all = rest.starts_with(" OK") && !line.contains("CHANGEDSINCE");
            let Some(uid) = known.filter(|_| all) else { continue };
            let there = now.iter().any(|m| m.uid == uid);
            assert!(running.fetched.contains(&number) || !there, "{line}: {number} did not come: {rest}");
        }
    }

    fn was_searched(&self, running: &Running, line: &str) {
        let Some(found) = &running.found else { panic!("{line}: no result") };
        let count = u32::try_from(self.view.len()).unwrap();
        for number in found {
            assert!((1..=count).contains(number), "{line} found {number} of {count}");
            let key = line.split_once(' ').unwrap().1;
            let uid = self.view[*number as usize - 1].uid;
            if let (Some(set), Some(uid)) = (key.strip_prefix("UID "), uid) {
                assert!(in_set(set, uid, u32::MAX), "{line} found {number}, which is {uid}");
            }
        }
        if let Some(set) = line.strip_prefix("SEARCH ").filter(|key| key.starts_with(|c: char| c.is_ascii_digit())) {
            assert!(found.iter().all(|n| in_set(set, *n, count)), "{line} found {found:?}");
            let all = (1..=running.count).all(|n| !in_set(set, n, count) || found.contains(&n));
            assert!(all, "{line} found {found:?} of {}", running.count);
        }
        if line == "SEARCH ALL" {
            // What it counts is there, until it is told otherwise.
            let all = (1..=u32::try_from(found.len()).unwrap()).eq(found.iter().copied());
            assert!(all && found.len() as u32 >= running.count, "{line} found {found:?} of {}", running.count);
        }
    }

    /// The client knows what its STORE did, unless it was told otherwise.
    fn stored_silently(&mut self, running: &Running, ok: bool) {
        self.cached.clear();
        let words: Vec<&str> = running.line.split(' ').collect();
        let by_uid = words[0] == "UID";
        let (set, item) = if by_uid { (words[2], words[3]) } else { (words[1], words[2]) };
        let given = flags(running.line.rsplit_once('(').unwrap().1.trim_end_matches(')'));
        let count = u32::try_from(self.view.len()).unwrap();
        for number in 1..=count {
            let known = &mut self.view[number as usize - 1];
            let named = if by_uid {
                known.uid.is_none_or(|uid| in_set(set, uid, u32::MAX))
            } else {
                in_set(set, number, count)
            };
            if !named || running.fetched.contains(&number) && !self.enabled.has_modseqs() {
                continue;
            }
            let Some(before) = known.flags.take().filter(|_| ok && (!by_uid || known.uid.is_some())) else { continue };
            known.flags = Some(match item.as_bytes()[0] {
                b'+' => before.union(&given).cloned().collect(),
                b'-' => before.difference(&given).cloned().collect(),
                _ => given.clone(),
            });
        }
    }

    fn needs_own_connection(&self, line: &str) -> bool {
        plan(&command(line), true) == Plan::Pin
    }

    fn something_is_gone(&self, rest: &str, now: Option<&[Message]>) {
        let Some(now) = now else { return };
        let all_known = self.view.iter().all(|known| known.uid.is_some());
        let all_there = self.view.iter().all(|known| known.uid.is_none_or(|uid| now.iter().any(|m| m.uid == uid)));
        assert!(!all_known || !all_there || self.view.is_empty(), "nothing is gone: {rest}");
    }

    /// What the client knows is what the server has.
    pub(super) fn equals(&self, now: &[Message]) {
        let uids: Vec<_> = now.iter().map(|m| m.uid).collect();
        assert_eq!(self.view.len(), now.len(), "client {:?}, server {uids:?}", self.view);
        for (known, message) in self.view.iter().zip(now) {
            assert!(known.uid.is_none_or(|uid| uid == message.uid), "client {:?}, server {uids:?}", self.view);
            if let Some(flags) = &known.flags {
                assert_eq!(flags, &message.flags, "flags of UID {}", message.uid);
            }
            if let Some(modseq) = known.modseq {
                assert_eq!(modseq, message.changed, "mod-sequence of UID {}", message.uid);
            }
            if let Some(flags) = self.cached.get(&message.uid) {
                assert_eq!(flags, &message.flags, "flags of UID {}, from another time", message.uid);
            }
        }
        let vanished = self.cached.keys().find(|uid| !uids.contains(uid));
        assert_eq!(vanished, None, "nobody says so");
    }
}

/// The number in a response code.
fn code(text: &str, name: &str) -> Option<u64> {
    text.split_once(name)?.1.split(']').next()?.parse().ok()
}

fn flags(text: &str) -> Flags {
    text.split(' ').filter(|f| !f.is_empty()).map(Into::into).collect()
}
