//! A naive IMAP server in memory, without sockets: what the model test compares with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::mailbox::enabled::Enabled;

pub(super) type Flags = BTreeSet<String>;

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) uid: u32,
    pub(super) flags: Flags,
    /// Its mod-sequence.
    pub(super) changed: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    validity: u32,
    next: u32,
    changed: u64,
    pub(super) messages: Vec<Message>,
    /// UIDs, and the mod-sequence of their end.
    expunged: Vec<(u32, u64)>,
}

impl Mailbox {
    fn new(validity: u32) -> Self {
        Self { validity, next: 1, changed: 1, messages: Vec::new(), expunged: Vec::new() }
    }

    pub(super) fn append(&mut self, flags: Flags) -> u32 {
        let uid = self.next;
        self.next += 1;
        self.changed += 1;
        self.messages.push(Message { uid, flags, changed: self.changed });
        uid
    }

    fn get(&self, uid: u32) -> Option<&Message> {
        self.messages.iter().find(|m| m.uid == uid)
    }

    pub(super) fn set(&mut self, uid: u32, flags: Flags) {
        if let Some(message) = self.messages.iter_mut().find(|m| m.uid == uid)
            && message.flags != flags
        {
            self.changed += 1;
            message.flags = flags;
            message.changed = self.changed;
        }
    }

    pub(super) fn expunge(&mut self, gone: impl Fn(&Message) -> bool) -> Vec<u32> {
        let uids: Vec<u32> = self.messages.iter().filter(|m| gone(m)).map(|m| m.uid).collect();
        self.messages.retain(|m| !gone(m));
        self.changed += u64::from(!uids.is_empty());
        self.expunged.extend(uids.iter().map(|uid| (*uid, self.changed)));
        uids
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) mailboxes: BTreeMap<String, Mailbox>,
    made: u32,
    /// So many mailboxes cannot be selected.
    pub(super) refusing: usize,
    /// What it always refuses.
    pub(super) refusals: Refusals,
    /// Times that it was asked for IDLE and refused it.
    pub(super) refused_idles: usize,
}

/// How a server refuses something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    No,
    Bad,
    /// OK, without doing anything.
    Nothing,
}

impl Refusal {
    fn reply(self) -> String {
        match self {
            Self::No => "NO not here",
            Self::Bad => "BAD what is that",
            Self::Nothing => "OK done, or not",
        }
        .into()
    }
}

/// What a server refuses of what imapool asks of its own accord.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refusals {
    pub(super) idle: Option<Refusal>,
    /// IDLE is begun before it is refused.
    pub(super) late: bool,
    /// Of the mailbox that is selected.
    pub(super) status: Option<Refusal>,
    /// With RETURN.
    pub(super) esearch: Option<Refusal>,
    /// As imapool puts it.
    pub(super) search: Option<Refusal>,
}

impl Refusals {
    fn of(&self, verb: &str, args: &str, by_uid: bool) -> Option<Refusal> {
        let unseen = args.ends_with("UNSEEN");
        match verb {
            "STATUS" => self.status,
            "SEARCH" if by_uid && args.starts_with("RETURN") => self.esearch.or(self.search),
            "SEARCH" if by_uid && (unseen || args.starts_with(|c: char| c.is_ascii_digit())) => self.search,
            _ => None,
        }
    }
}

impl World {
    pub(super) fn create(&mut self, name: &str) {
        self.made += 1;
        let made = self.made;
        self.mailboxes.entry(name.to_owned()).or_insert_with(|| Mailbox::new(1000 + made));
    }

    pub(super) fn mailbox(&mut self, name: &str) -> Option<&mut Mailbox> {
        self.mailboxes.get_mut(name)
    }
}

#[derive(Debug)]
struct Entry {
    uid: u32,
    told: u64,
}

#[derive(Debug)]
struct Selected {
    name: String,
    validity: u32,
    read_only: bool,
    entries: Vec<Entry>,
    known: u32,
    /// The mod-sequence up to which all was told.
    synced: u64,
}

/// What a connection is, seen by the server.
#[derive(Debug, Default)]
pub(super) struct Connection {
    selected: Option<Selected>,
    /// The tag of the IDLE that runs.
    idling: Option<String>,
    /// Tells news before the results of a command rather than after them.
    news_first: bool,
    pub(super) enabled: Enabled,
}

/// `MODSEQ (7)`, where CONDSTORE is on.
fn modseq_text(condstore: bool, modseq: u64) -> String {
    if condstore { format!(" MODSEQ ({modseq})") } else { String::new() }
}

fn flag_text(flags: &Flags) -> String {
    format!("({})", flags.iter().cloned().collect::<Vec<_>>().join(" "))
}

/// A sequence set's members among 1..=`largest`.
pub(super) fn in_set(set: &str, number: u32, largest: u32) -> bool {
    set.split(',').any(|part| {
        let value = |text: &str| if text == "*" { largest } else { text.parse().unwrap_or(0) };
        let (a, b) = part.split_once(':').map_or_else(|| (value(part), value(part)), |(a, b)| (value(a), value(b)));
        (a.min(b)..=a.max(b)).contains(&number)
    })
}

impl Connection {
    pub(super) fn new(news_first: bool, enabled: Enabled) -> Self {
        Self { news_first, enabled, ..Self::default() }
    }

    /// More is switched on, while no mailbox is selected.
    pub(super) fn enable(&mut self, enabled: Enabled) {
        self.selected = None;
        self.enabled = self.enabled.max(enabled);
    }

    /// The reply to one line of the client.
    pub(super) fn line(&mut self, world: &mut World, line: &str) -> String {
        let mut out = String::new();
        if let Some(tag) = self.idling.take() {
            assert_eq!(line, "DONE", "in IDLE");
            self.news(world, true, &mut out);
            let _ = write!(out, "{tag} OK Idle done.\r\n");
            return out;
        }
        if line == "DONE" {
            // On its way when the server ended IDLE by itself. One that answers it loses the connection by that.
            return out;
        }
        let (tag, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (verb, args) = rest.split_once(' ').unwrap_or((rest, ""));
        let (by_uid, verb, args) = match verb.to_ascii_uppercase().as_str() {
            "UID" => {
                let (verb, args) = args.split_once(' ').unwrap_or((args, ""));
                (true, verb.to_ascii_uppercase(), args)
            }
            verb => (false, verb.to_owned(), args),
        };
        if verb == "IDLE"
            && let Some(refusal) = world.refusals.idle
        {
            world.refused_idles += 1;
            let late = if world.refusals.late { "+ idling\r\n" } else { "" };
            return format!("{late}{tag} {}\r\n", refusal.reply());
        }
        if verb == "IDLE" {
            self.idling = Some(tag.to_owned());
            out.push_str("+ idling\r\n");
            self.news(world, true, &mut out);
            return out;
        }
        let quiet = !by_uid && matches!(verb.as_str(), "FETCH" | "STORE" | "SEARCH");
        if self.news_first {
            // The numbers of a COPY are those that the client knew when it sent it.
            self.news(world, !quiet && (by_uid || !matches!(verb.as_str(), "COPY" | "MOVE")), &mut out);
        }
        let asks = ["MODSEQ", "CHANGEDSINCE"].iter().any(|word| args.contains(word));
        if asks && matches!(verb.as_str(), "FETCH" | "STORE" | "SEARCH") && !self.enabled.has_modseqs() {
            // RFC 7162 section 3.1
            self.enabled = Enabled::Condstore;
            let synced = self.selected.as_ref().map_or(1, |selected| selected.synced);
            let _ = write!(out, "* OK [HIGHESTMODSEQ {synced}] from now on\r\n");
        }
        let result = match world.refusals.of(&verb, args, by_uid) {
            Some(refusal) => refusal.reply(),
            None => self.command(world, &verb, args, by_uid, &mut out),
        };
        if !(matches!(verb.as_str(), "SELECT" | "EXAMINE") || self.news_first && by_uid) {
            self.news(world, !quiet, &mut out);
        }
        let _ = write!(out, "{tag} {result}\r\n");
        out
    }

    /// What a client in IDLE is told now.
    pub(super) fn idle_news(&mut self, world: &World) -> String {
        let mut out = String::new();
        if self.idling.is_some() {
            self.news(world, true, &mut out);
        }
        out
    }

    pub(super) fn is_idling(&self) -> bool {
        self.idling.is_some()
    }

    fn news(&mut self, world: &World, may_expunge: bool, out: &mut String) {
        let Some(selected) = &mut self.selected else { return };
        let Some(mailbox) = world.mailboxes.get(&selected.name).filter(|m| m.validity == selected.validity) else {
            return;
        };
        let (mut vanished, mut delayed) = (Vec::new(), false);
        for at in (0..selected.entries.len()).rev() {
            match mailbox.get(selected.entries[at].uid) {
                None if may_expunge && self.enabled == Enabled::Qresync => {
                    vanished.push(selected.entries.remove(at).uid.to_string());
                }
                None if may_expunge => {
                    selected.entries.remove(at);
                    let _ = write!(out, "* {} EXPUNGE\r\n", at + 1);
                }
                None if self.enabled == Enabled::Qresync => delayed = true,
                None => {}
                Some(message) if message.changed > selected.entries[at].told => {
                    selected.entries[at].told = message.changed;
                    let modseq = modseq_text(self.enabled.has_modseqs(), message.changed);
                    let uid =
                        if self.enabled == Enabled::Qresync { format!("UID {} ", message.uid) } else { "".into() };
                    let _ = write!(out, "* {} FETCH ({uid}FLAGS {}{modseq})\r\n", at + 1, flag_text(&message.flags));
                }
                Some(_) => {}
            }
        }
        if !vanished.is_empty() {
            let _ = write!(out, "* VANISHED {}\r\n", vanished.join(","));
        }
        if delayed {
            // RFC 7162 section 3.2
            let _ = write!(out, "* OK [HIGHESTMODSEQ {}] delayed\r\n", selected.synced);
        } else {
            selected.synced = mailbox.changed;
        }
        if !vanished.is_empty() && self.news_first {
            let _ = write!(out, "* OK [HIGHESTMODSEQ {}] highest\r\n", mailbox.changed);
        }
        let new: Vec<&Message> = mailbox.messages.iter().filter(|m| m.uid > selected.known).collect();
        if let Some(last) = new.last() {
            selected.known = last.uid;
            selected.entries.extend(new.iter().map(|m| Entry { uid: m.uid, told: m.changed }));
            let _ = write!(out, "* {} EXISTS\r\n", selected.entries.len());
        }
    }

    fn command(&mut self, world: &mut World, verb: &str, args: &str, by_uid: bool, out: &mut String) -> String {
        match verb {
            "NOOP" | "CHECK" => "OK done.".into(),
            "SELECT" | "EXAMINE" => {
                assert!(!args.contains("QRESYNC"));
                if args.ends_with(" (CONDSTORE)") {
                    self.enabled = self.enabled.max(Enabled::Condstore);
                }
                self.select(world, args.split(' ').next().unwrap().trim_matches('"'), verb == "EXAMINE", out)
            }
            "UNSELECT" => {
                self.selected = None;
                "OK done.".into()
            }
            "LIST" => {
                for name in world.mailboxes.keys() {
                    let _ = write!(out, "* LIST () \"/\" {name}\r\n");
                }
                "OK done.".into()
            }
            "STATUS" => {
                let name = args.split(' ').next().unwrap_or_default().trim_matches('"');
                let Some(mailbox) = world.mailboxes.get(name) else { return "NO no such mailbox".into() };
                assert!(!args.contains("HIGHESTMODSEQ") || self.enabled.has_modseqs());
                let modseq = if args.contains("HIGHESTMODSEQ") {
                    format!(" HIGHESTMODSEQ {}", mailbox.changed)
                } else {
                    String::new()
                };
                let (next, validity) = (mailbox.next, mailbox.validity);
                let _ = write!(out, "* STATUS {name} (UIDNEXT {next} UIDVALIDITY {validity}{modseq})\r\n");
                "OK done.".into()
            }
            _ => self.selected_command(world, verb, args, by_uid, out),
        }
    }

    fn select(&mut self, world: &mut World, name: &str, read_only: bool, out: &mut String) -> String {
        self.selected = None;
        if world.refusing > 0 {
            world.refusing -= 1;
            return "NO [SERVERBUG] not just now".into();
        }
        let Some(mailbox) = world.mailboxes.get(name) else { return "NO no such mailbox".into() };
        let entries: Vec<Entry> = mailbox.messages.iter().map(|m| Entry { uid: m.uid, told: m.changed }).collect();
        let _ = write!(
            out,
            "* FLAGS (\\Seen \\Deleted \\Flagged)\r\n* {} EXISTS\r\n* 0 RECENT\r\n\
             * OK [HIGHESTMODSEQ {}] ok\r\n* OK [UIDVALIDITY {}] ok\r\n* OK [UIDNEXT {}] ok\r\n",
            entries.len(),
            mailbox.changed,
            mailbox.validity,
            mailbox.next
        );
        let (known, synced) = (mailbox.next - 1, mailbox.changed);
        self.selected =
            Some(Selected { name: name.into(), validity: mailbox.validity, read_only, entries, known, synced });
        format!("OK [READ-{}] selected.", if read_only { "ONLY" } else { "WRITE" })
    }

    fn selected_command(
        &mut self,
        world: &mut World,
        verb: &str,
        args: &str,
        by_uid: bool,
        out: &mut String,
    ) -> String {
        let Some(selected) = &mut self.selected else { return "BAD select first".into() };
        if !world.mailboxes.contains_key(&selected.name) {
            return "NO mailbox is gone".into();
        }
        let (set, rest) = args.split_once(' ').unwrap_or((args, ""));
        let count = u32::try_from(selected.entries.len()).unwrap();
        let largest = if by_uid { selected.entries.last().map_or(0, |e| e.uid) } else { count };
        let named: Vec<(usize, u32)> = selected
            .entries
            .iter()
            .enumerate()
            .filter(|(at, e)| in_set(set, if by_uid { e.uid } else { u32::try_from(*at).unwrap() + 1 }, largest))
            .map(|(at, e)| (at, e.uid))
            .collect();
        if !by_uid
            && matches!(verb, "FETCH" | "STORE" | "COPY" | "MOVE")
            && set.split([':', ',']).any(|n| n != "*" && n.parse::<u32>().is_ok_and(|n| n > count || n == 0))
        {
            return format!("BAD no such number {args}");
        }
        let writes = matches!(verb, "STORE" | "EXPUNGE" | "MOVE");
        if writes && selected.read_only {
            return "NO [READ-ONLY] read-only".into();
        }
        match verb {
            "FETCH" => {
                if let Some(since) = rest.strip_suffix(" VANISHED)").and_then(|rest| rest.split_once("CHANGEDSINCE ")) {
                    assert!(by_uid && self.enabled == Enabled::Qresync);
                    let since = since.1.parse::<u64>().unwrap();
                    let gone = &world.mailbox(&selected.name).unwrap().expunged;
                    let gone = gone.iter().filter(|(uid, when)| *when > since && in_set(set, *uid, largest));
                    let gone: Vec<String> = gone.map(|(uid, _)| uid.to_string()).collect();
                    if !gone.is_empty() {
                        let _ = write!(out, "* VANISHED (EARLIER) {}\r\n", gone.join(","));
                    }
                }
                let rest = rest.replace(" VANISHED)", ")");
                fetch(selected, world, &named, &rest, by_uid, self.enabled.has_modseqs(), out)
            }
            "STORE" => store(selected, world, &named, rest, by_uid, self.enabled.has_modseqs(), out),
            "SEARCH" => search(selected, world, args, by_uid, out),
            "COPY" | "MOVE" => copy(selected, world, &named, rest.trim_matches('"'), verb == "MOVE", by_uid),
            "EXPUNGE" => {
                let uids: Vec<u32> = named.iter().map(|(_, uid)| *uid).collect();
                let mailbox = world.mailbox(&selected.name).unwrap();
                mailbox.expunge(|m| m.flags.contains("\\Deleted") && (!by_uid || uids.contains(&m.uid)));
                "OK expunged.".into()
            }
            "CLOSE" => {
                let mailbox = world.mailbox(&selected.name).unwrap();
                mailbox.expunge(|m| m.flags.contains("\\Deleted"));
                self.selected = None;
                "OK closed.".into()
            }
            _ => format!("BAD unknown {verb}"),
        }
    }
}

fn fetch(
    selected: &mut Selected,
    world: &mut World,
    named: &[(usize, u32)],
    items: &str,
    by_uid: bool,
    condstore: bool,
    out: &mut String,
) -> String {
    let (items, since) = match items.split_once(" (CHANGEDSINCE ") {
        Some((items, since)) => (items, since.trim_end_matches(')').parse().unwrap()),
        None => (items, 0),
    };
    let upper = items.to_ascii_uppercase();
    assert!(condstore || since == 0 && !upper.contains("MODSEQ"), "{upper}");
    let mailbox = world.mailbox(&selected.name).unwrap();
    for (at, uid) in named {
        // RFC 2180 section 4: what is left is served.
        let Some(message) = mailbox.get(*uid) else { continue };
        if message.changed <= since {
            continue;
        }
        let mut flags = message.flags.clone();
        let seen = upper.contains("BODY[]") && !selected.read_only && flags.insert("\\Seen".into());
        if seen {
            mailbox.set(*uid, flags.clone());
        }
        let mut parts = Vec::new();
        if upper.contains("UID") || by_uid {
            parts.push(format!("UID {uid}"));
        }
        if upper.contains("BODY") {
            let body = format!("message {uid}\r\n* 1 EXPUNGE\r\n");
            parts.push(format!("BODY[] {{{}}}\r\n{body}", body.len()));
        }
        let modseq = mailbox.get(*uid).unwrap().changed;
        if upper.contains("MODSEQ") || condstore && (seen || since > 0) {
            parts.push(format!("MODSEQ ({modseq})"));
        }
        if upper.contains("FLAGS") || seen {
            parts.push(format!("FLAGS {}", flag_text(&flags)));
            // With CONDSTORE, who was told flags without their mod-sequence is told both.
            if !condstore || parts.iter().any(|part| part.starts_with("MODSEQ")) {
                selected.entries[*at].told = modseq;
            }
        }
        let _ = write!(out, "* {} FETCH ({})\r\n", at + 1, parts.join(" "));
    }
    "OK fetched.".into()
}

fn store(
    selected: &mut Selected,
    world: &mut World,
    named: &[(usize, u32)],
    rest: &str,
    by_uid: bool,
    condstore: bool,
    out: &mut String,
) -> String {
    let (since, rest) = match rest.strip_prefix("(UNCHANGEDSINCE ").and_then(|rest| rest.split_once(") ")) {
        Some((since, rest)) => (since.parse().unwrap(), rest),
        None => (u64::MAX, rest),
    };
    let (item, flags) = rest.split_once(' ').unwrap();
    let mut modified = Vec::new();
    let silent = item.to_ascii_uppercase().ends_with(".SILENT");
    let given: Flags = flags.trim_matches(['(', ')']).split(' ').filter(|f| !f.is_empty()).map(Into::into).collect();
    let mailbox = world.mailbox(&selected.name).unwrap();
    for (at, uid) in named {
        // RFC 2180 section 4: what is left is served.
        let Some(message) = mailbox.get(*uid) else { continue };
        if message.changed > since {
            modified.push(if by_uid { *uid } else { u32::try_from(*at).unwrap() + 1 });
            continue;
        }
        let stale = message.changed > selected.entries[*at].told;
        let new: Flags = match item.as_bytes()[0] {
            b'+' => message.flags.union(&given).cloned().collect(),
            b'-' => message.flags.difference(&given).cloned().collect(),
            _ => given.clone(),
        };
        mailbox.set(*uid, new.clone());
        if !silent || stale {
            let modseq = modseq_text(condstore, mailbox.get(*uid).unwrap().changed);
            let uid = if by_uid { format!("UID {uid} ") } else { String::new() };
            let _ = write!(out, "* {} FETCH ({uid}FLAGS {}{modseq})\r\n", at + 1, flag_text(&new));
        }
        selected.entries[*at].told = mailbox.changed;
    }
    if !modified.is_empty() {
        let modified: Vec<_> = modified.iter().map(u32::to_string).collect();
        return format!("OK [MODIFIED {}] not all", modified.join(","));
    }
    "OK stored.".into()
}

fn search(selected: &Selected, world: &mut World, args: &str, by_uid: bool, out: &mut String) -> String {
    let mailbox = world.mailbox(&selected.name).unwrap();
    let (returns, key) = match args.strip_prefix("RETURN (").and_then(|rest| rest.split_once(") ")) {
        Some((returns, key)) => (Some(returns), key),
        None => (None, args),
    };
    let count = u32::try_from(selected.entries.len()).unwrap();
    let max_uid = selected.entries.last().map_or(0, |e| e.uid);
    let (negated, key) = key.strip_prefix("NOT ").map_or((false, key), |key| (true, key));
    let found: Vec<String> = (1..=count)
        .zip(&selected.entries)
        .filter_map(|(number, entry)| {
            let message = mailbox.get(entry.uid);
            let flagged = |flag: &str| Some(message?.flags.contains(flag));
            let hit = match key {
                // Until its client has heard that a message is gone, the server counts it.
                "ALL" => true,
                "UNSEEN" => !flagged("\\Seen")?,
                "SEEN" => flagged("\\Seen")?,
                "DELETED" => flagged("\\Deleted")?,
                key if key.starts_with("MODSEQ ") => message?.changed >= key[7..].parse().unwrap(),
                key => match key.strip_prefix("UID ") {
                    Some(set) => in_set(set, entry.uid, max_uid),
                    None => in_set(key, number, count),
                },
            };
            (hit != negated).then(|| if by_uid { entry.uid.to_string() } else { number.to_string() })
        })
        .collect();
    if let Some(returns) = returns {
        let uid = if by_uid { " UID" } else { "" };
        let found = if returns == "MIN" { &found[..found.len().min(1)] } else { &found[..] };
        let all = if found.is_empty() { String::new() } else { format!(" {returns} {}", found.join(",")) };
        let _ = write!(out, "* ESEARCH (TAG \"\"){uid}{all}\r\n");
    } else if let Some(highest) =
        entries_highest(selected, mailbox).filter(|_| key.starts_with("MODSEQ ") && !found.is_empty())
    {
        let _ = write!(out, "* SEARCH {} (MODSEQ {highest})\r\n", found.join(" "));
    } else {
        let _ = write!(out, "* SEARCH{}\r\n", found.iter().map(|n| format!(" {n}")).collect::<String>());
    }
    "OK searched.".into()
}

fn entries_highest(selected: &Selected, mailbox: &Mailbox) -> Option<u64> {
    selected.entries.iter().filter_map(|entry| Some(mailbox.get(entry.uid)?.changed)).max()
}

fn copy(
    selected: &Selected,
    world: &mut World,
    named: &[(usize, u32)],
    target: &str,
    and_remove: bool,
    by_uid: bool,
) -> String {
    if !world.mailboxes.contains_key(target) {
        return "NO [TRYCREATE] no such mailbox".into();
    }
    let source = world.mailbox(&selected.name).unwrap();
    let found: Vec<Message> = named.iter().filter_map(|(_, uid)| source.get(*uid).cloned()).collect();
    if found.len() < named.len() && !by_uid {
        return "NO [EXPUNGEISSUED] some are gone".into();
    }
    if and_remove {
        source.expunge(|m| found.iter().any(|f| f.uid == m.uid));
    }
    for message in found {
        world.mailbox(target).unwrap().append(message.flags);
    }
    "OK copied.".into()
}
