//! The commands of the selected state (RFC 3501 section 6.4), UIDPLUS (RFC 4315) and MOVE (RFC 6851).

use std::collections::BTreeSet;

use super::changes::{self, Since};
use super::commands::{Outcome, Refusal};
use super::fetch::{self, Item};
use super::parse::{ParseError, Parser, SequenceSet};
use super::personality::CopyUid;
use super::reply::{Reply, uid_set};
use super::search::{self, Candidate, Wanted};
use super::session::Session;
use super::store::{Account, Mailbox, Message};
use super::view::{View, flag_list};

/// Flags of one message, and octets of one keyword.
const MAX_FLAGS: usize = 100;
const MAX_KEYWORD: usize = 200;

/// A session in its selected mailbox.
pub(super) struct Here<'a> {
    pub(super) session: &'a mut Session,
    pub(super) account: &'a Account,
    pub(super) view: View,
    pub(super) by_uid: bool,
}

/// How STORE changes flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
    Replace,
}

impl Here<'_> {
    /// The message numbers a set names. Numbers the client cannot know are an error.
    fn chosen(&self, set: &SequenceSet) -> Result<Vec<u32>, Refusal> {
        if !self.by_uid && self.view.out_of_range(set) {
            return Err(Refusal::bad("invalid message number"));
        }
        Ok(self.view.resolve(set, self.by_uid))
    }

    fn set(&self, p: &mut Parser) -> Result<Vec<u32>, Refusal> {
        p.space()?;
        let set = p.sequence_set()?;
        self.chosen(&set)
    }

    /// The tagged text, or NO where messages asked for by number are gone (RFC 5530).
    fn completed(&self, name: &str, gone: bool) -> Outcome {
        if gone && !self.by_uid && !self.session.shared.options.quirks.serves_what_is_left {
            return Err(Refusal::No("[EXPUNGEISSUED] Some of the requested messages no longer exist.".into()));
        }
        Ok(format!("{name} completed."))
    }

    fn writable(&self) -> Result<(), Refusal> {
        if self.view.read_only { Err(Refusal::No("[READ-ONLY] Mailbox is read-only.".into())) } else { Ok(()) }
    }

    pub(super) fn fetch(&mut self, mut p: Parser, out: &mut Reply) -> Outcome {
        p.space()?;
        let set = p.sequence_set()?;
        let mut chosen = self.chosen(&set)?;
        p.space()?;
        let mut items = fetch::parse_items(&mut p)?;
        let since = Since::parse(&mut p)?;
        p.end()?;
        if self.by_uid && !items.contains(&Item::Uid) {
            items.insert(0, Item::Uid);
        }
        if since.modseq.is_some() && !items.contains(&Item::ModSeq) {
            items.push(Item::ModSeq);
        }
        if items.contains(&Item::ModSeq) {
            self.needs_condstore()?;
        }
        self.readable(&chosen, &items)?;
        if let Some(modseq) = since.modseq {
            self.only_changed(&mut chosen, modseq, since.vanished.then_some(&set), out)?;
        }
        let seen = fetch::sets_seen(&items) && !self.view.read_only;
        let mut all_there = true;
        let id = self.view.mailbox;
        let unasked = self.unasked();
        let mut serve = |mailbox: &mut Mailbox| {
            for &number in &chosen {
                all_there &= fetch_one(&mut self.view, mailbox, number, &items, seen.then_some(&unasked[..]), out);
            }
        };
        if seen {
            self.account.change(|content| content.by_id_mut(id).map(&mut serve));
        } else {
            self.account.lock().by_id_mut(id).map(&mut serve);
        }
        self.completed("Fetch", !all_there)
    }

    /// From now on FETCH replies have MODSEQ (RFC 7162 section 3.1).
    fn needs_condstore(&mut self) -> Result<(), Refusal> {
        if !self.session.offers("CONDSTORE") {
            return Err(Refusal::bad("CONDSTORE was not offered"));
        }
        self.session.condstore = true;
        Ok(())
    }

    /// What is told of a message whose flags change.
    fn unasked(&self) -> Vec<Item> {
        let telling = self.session.telling();
        let all = [(telling.qresync, Item::Uid), (telling.condstore, Item::ModSeq), (true, Item::Flags)];
        all.into_iter().filter(|(told, _)| *told).map(|(_, item)| item).collect()
    }

    /// A server that cannot read one of these messages says so.
    fn readable(&self, chosen: &[u32], items: &[Item]) -> Result<(), Refusal> {
        let Some(status) = self.session.shared.options.quirks.unreadable.filter(|_| fetch::needs_structure(items))
        else {
            return Ok(());
        };
        let content = self.account.lock();
        let mailbox = content.by_id(self.view.mailbox);
        let mut messages = chosen.iter().filter_map(|n| mailbox?.message(self.view.entry(*n)?.uid));
        let unreadable = |m: &Message| {
            let header = &m.octets[..super::mime::header_end(&m.octets)];
            super::mime::field(header, "X-Unreadable").is_some()
        };
        if messages.any(unreadable) { Err(Refusal::of(status)) } else { Ok(()) }
    }

    /// Leaves those that changed after the mod-sequence; with VANISHED, tells which of the set are gone since.
    fn only_changed(
        &self,
        chosen: &mut Vec<u32>,
        modseq: u64,
        vanished: Option<&SequenceSet>,
        out: &mut Reply,
    ) -> Result<(), Refusal> {
        let content = self.account.lock();
        let Some(mailbox) = content.by_id(self.view.mailbox) else { return Ok(()) };
        if let Some(uids) = vanished {
            if !(self.by_uid && self.session.telling().qresync) {
                return Err(Refusal::bad("VANISHED is for UID FETCH once QRESYNC was enabled"));
            }
            changes::tell_vanished(mailbox, modseq, Some(uids), out);
        }
        let changed =
            |n: &u32| self.view.entry(*n).and_then(|e| mailbox.message(e.uid)).is_none_or(|m| m.changed > modseq);
        chosen.retain(changed);
        Ok(())
    }

    pub(super) fn store(&mut self, mut p: Parser, out: &mut Reply) -> Outcome {
        let chosen = self.set(&mut p)?;
        p.space()?;
        let unchanged_since = changes::unchanged_since(&mut p)?;
        if unchanged_since.is_some() {
            self.needs_condstore()?;
        }
        let telling = self.session.telling();
        let (change, silent) = store_item(&mut p)?;
        p.space()?;
        let flags = stored_flags(flags(&mut p)?)?;
        p.end()?;
        self.writable()?;
        let (view, by_uid) = (&mut self.view, self.by_uid);
        let mut modified = Vec::new();
        let gone = self.account.change(|content| {
            let Some(mailbox) = content.by_id_mut(view.mailbox) else { return true };
            let mut gone = false;
            for number in chosen {
                let entry = view.entry(number);
                let Some((entry, message)) = entry.and_then(|e| Some((e, mailbox.message(e.uid)?))) else {
                    gone = true;
                    continue;
                };
                if unchanged_since.is_some_and(|modseq| message.changed > modseq) {
                    modified.push(if by_uid { entry.uid } else { number });
                    continue;
                }
                let known = entry.told == message.changed;
                let new = changed_flags(&message.flags, &flags, change);
                mailbox.set_flags(entry.uid, new);
                let Some(message) = mailbox.message(entry.uid) else { continue };
                // What another session changed meanwhile is still news after a silent change of ours.
                if !silent || known {
                    view.mark_told(number, message);
                }
                let items = [
                    (by_uid || telling.qresync).then(|| format!("UID {}", entry.uid)),
                    telling.condstore.then(|| format!("MODSEQ ({})", message.changed.max(1))),
                    (!silent).then(|| format!("FLAGS {}", flag_list(message, entry.recent))),
                ];
                if !silent || telling.condstore {
                    let items: Vec<_> = items.into_iter().flatten().collect();
                    out.untagged(&format!("{number} FETCH ({})", items.join(" ")));
                }
            }
            gone
        });
        if !modified.is_empty() {
            return Ok(format!("[MODIFIED {}] Conditional STORE failed.", uid_set(&modified)));
        }
        self.completed("Store", gone)
    }

    pub(super) fn search(&mut self, mut p: Parser, out: &mut Reply) -> Outcome {
        p.space()?;
        let before = p.clone();
        let mut wanted = None;
        if self.session.offers("ESEARCH") && p.keyword().is_ok_and(|k| k == "RETURN") {
            p.space()?;
            wanted = Some(Wanted::parse(&mut p)?);
            p.space()?;
        } else {
            p = before;
        }
        let before = p.clone();
        if p.keyword().is_ok_and(|k| k == "CHARSET") {
            p.space()?;
            let charset = p.astring()?;
            if !charset.eq_ignore_ascii_case(b"UTF-8") && !charset.eq_ignore_ascii_case(b"US-ASCII") {
                return Err(Refusal::No("[BADCHARSET (US-ASCII UTF-8)] Unknown charset.".into()));
            }
            p.space()?;
        } else {
            p = before;
        }
        let key = search::parse(&mut p)?;
        if key.numbers().into_iter().any(|set| self.view.out_of_range(set)) {
            return Err(Refusal::bad("invalid message number"));
        }
        if key.names_modseq() {
            self.needs_condstore()?;
        }
        let content = self.account.lock();
        let mailbox = content.by_id(self.view.mailbox);
        let largest = (self.view.len(), self.view.entries().last().map_or(0, |e| e.uid));
        let (mut found, mut modseq) = (Vec::new(), 0);
        for (number, entry) in (1..).zip(self.view.entries()) {
            let Some(message) = mailbox.and_then(|m| m.message(entry.uid)) else { continue };
            if key.matches(&Candidate { number, recent: entry.recent, message, largest }) {
                found.push(if self.by_uid { message.uid } else { number });
                modseq = modseq.max(message.changed);
            }
        }
        let modseq = Some(modseq).filter(|_| key.names_modseq() && !found.is_empty());
        if let Some(wanted) = wanted {
            wanted.write(&self.session.tag, self.by_uid, &found, modseq, out);
            return Ok("Search completed.".into());
        }
        let found: String = found.iter().map(|n| format!(" {n}")).collect();
        out.untagged(&format!("SEARCH{found}{}", modseq.map_or_else(String::new, |m| format!(" (MODSEQ {m})"))));
        Ok("Search completed.".into())
    }

    /// COPY and MOVE.
    pub(super) fn copy(&mut self, mut p: Parser, and_remove: bool, out: &mut Reply) -> Outcome {
        let chosen = self.set(&mut p)?;
        p.space()?;
        let target = self.session.mailbox_name(&mut p)?;
        p.end()?;
        if and_remove {
            self.writable()?;
        }
        let wanted: Vec<u32> = chosen.iter().filter_map(|n| self.view.entry(*n)).map(|e| e.uid).collect();
        let id = self.view.mailbox;
        let copied = self.account.change(|content| {
            let target = content.id(&target).ok_or_else(missing_target)?;
            let source = content.by_id(id);
            let found: Vec<Message> =
                wanted.iter().filter_map(|uid| source.and_then(|m| m.message(*uid))).cloned().collect();
            if found.len() < wanted.len() && !self.by_uid {
                // All or nothing (RFC 3501 section 6.4.7).
                return Err(Refusal::No("[EXPUNGEISSUED] Some of the requested messages no longer exist.".into()));
            }
            let from: Vec<u32> = found.iter().map(|m| m.uid).collect();
            let Some(mailbox) = content.by_id_mut(target) else { return Err(missing_target()) };
            let to: Vec<u32> = found.into_iter().map(|m| mailbox.append(m.octets, m.flags, m.date)).collect();
            let validity = mailbox.uid_validity;
            if and_remove && let Some(source) = content.by_id_mut(id) {
                source.remove(|m| from.binary_search(&m.uid).is_ok());
            }
            Ok((validity, from, to))
        });
        let (validity, from, to) = copied?;
        let code = if from.is_empty() || !self.session.offers("UIDPLUS") {
            String::new()
        } else {
            format!("[COPYUID {validity} {} {}] ", uid_set(&from), uid_set(&to))
        };
        if and_remove {
            match self.session.shared.options.quirks.copyuid {
                _ if code.is_empty() => {}
                CopyUid::Untagged => drop(out.untagged(&self.session.marked(&format!("OK {code}Moved UIDs.")))),
                CopyUid::Bare => drop(out.text(code.trim_end()).text("\r\n")),
                CopyUid::Tagged => return Ok(format!("{code}Move completed.")),
            }
            return Ok("Move completed.".into());
        }
        Ok(format!("{code}Copy completed."))
    }

    /// EXPUNGE and UID EXPUNGE; the news tell which messages went.
    pub(super) fn expunge(&mut self, mut p: Parser) -> Outcome {
        let uids: Option<Vec<u32>> = if self.by_uid {
            let chosen = self.set(&mut p)?;
            Some(chosen.iter().filter_map(|n| self.view.entry(*n)).map(|e| e.uid).collect())
        } else {
            None
        };
        p.end()?;
        self.writable()?;
        let named = |uid: u32| uids.as_ref().is_none_or(|uids| uids.binary_search(&uid).is_ok());
        self.remove_deleted(named);
        self.session.removed("Expunge", self.account.lock().by_id(self.view.mailbox))
    }

    /// CLOSE: expunges without telling this session.
    pub(super) fn close(&mut self) {
        if !self.view.read_only {
            self.remove_deleted(|_| true);
        }
    }

    fn remove_deleted(&self, named: impl Fn(u32) -> bool) {
        let id = self.view.mailbox;
        self.account.change(|content| {
            if let Some(mailbox) = content.by_id_mut(id) {
                mailbox.remove(|m| m.flags.contains("\\Deleted") && named(m.uid));
            }
        });
    }
}

/// Writes one message; false where it is gone.
///
/// With `seen`, it is marked as read, and what a change of flags calls for is said.
fn fetch_one(
    view: &mut View,
    mailbox: &mut Mailbox,
    number: u32,
    items: &[Item],
    seen: Option<&[Item]>,
    out: &mut Reply,
) -> bool {
    let Some((entry, message)) = view.entry(number).and_then(|e| Some((e, mailbox.message(e.uid)?))) else {
        return false;
    };
    let mut newly_seen = false;
    if seen.is_some() {
        let mut flags = message.flags.clone();
        newly_seen = flags.insert("\\Seen".into()) && mailbox.set_flags(entry.uid, flags);
    }
    let Some(message) = mailbox.message(entry.uid) else { return false };
    let asked = items.contains(&Item::Flags);
    let called_for = seen.filter(|_| newly_seen).unwrap_or_default();
    let unasked: Vec<_> = called_for.iter().filter(|item| !items.contains(item)).cloned().collect();
    fetch::write(number, message, entry.recent, items, &unasked, out);
    if asked || newly_seen {
        view.mark_told(number, message);
    }
    true
}

/// `+FLAGS.SILENT`
fn store_item(p: &mut Parser) -> Result<(Change, bool), ParseError> {
    let change = if p.eat(b'+') {
        Change::Add
    } else if p.eat(b'-') {
        Change::Remove
    } else {
        Change::Replace
    };
    match p.keyword()?.as_str() {
        "FLAGS" => Ok((change, false)),
        "FLAGS.SILENT" => Ok((change, true)),
        _ => Err(ParseError("FLAGS")),
    }
}

/// A list of flags, with or without parentheses.
fn flags(p: &mut Parser) -> Result<Vec<String>, ParseError> {
    if p.peek() == Some(b'(') {
        return p.list(Parser::flag);
    }
    let mut flags = vec![p.flag()?];
    while p.eat(b' ') {
        flags.push(p.flag()?);
    }
    Ok(flags)
}

/// Flags in their usual spelling; \Recent is the server's alone.
pub(super) fn stored_flags(flags: Vec<String>) -> Result<BTreeSet<String>, Refusal> {
    const SYSTEM: [&str; 5] = ["\\Answered", "\\Flagged", "\\Deleted", "\\Seen", "\\Draft"];
    if flags.len() > MAX_FLAGS || flags.iter().any(|f| f.len() > MAX_KEYWORD) {
        return Err(Refusal::No("[LIMIT] Too many flags, or too long ones.".into()));
    }
    flags
        .into_iter()
        .map(|flag| match SYSTEM.iter().find(|s| s.eq_ignore_ascii_case(&flag)) {
            Some(system) => Ok((*system).to_owned()),
            None if flag.starts_with('\\') => Err(Refusal::bad("an unknown system flag")),
            None => Ok(flag),
        })
        .collect()
}

fn changed_flags(old: &BTreeSet<String>, given: &BTreeSet<String>, change: Change) -> BTreeSet<String> {
    match change {
        Change::Add => old.iter().chain(given).take(MAX_FLAGS).cloned().collect(),
        Change::Remove => old.iter().filter(|f| !given.iter().any(|g| g.eq_ignore_ascii_case(f))).cloned().collect(),
        Change::Replace => given.clone(),
    }
}

/// The refusal of COPY, MOVE and APPEND to a mailbox that is not there.
pub(super) fn missing_target() -> Refusal {
    Refusal::No("[TRYCREATE] Mailbox doesn't exist.".into())
}
