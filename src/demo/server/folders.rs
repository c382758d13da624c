//! The commands on mailboxes as a whole: SELECT, CREATE, LIST, STATUS, APPEND … (RFC 3501 section 6.3).

use std::collections::BTreeMap;

use super::commands::{Outcome, Refusal};
use super::date::DateTime;
use super::parse::Parser;
use super::reply::Reply;
use super::selected::{mailbox_name, missing_target, stored_flags};
use super::session::Session;
use super::store::{Account, Content, Mailbox, Message, NameError};
use super::view::View;

const SYSTEM_FLAGS: &str = "\\Answered \\Flagged \\Deleted \\Seen \\Draft";

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::No(
            match error {
                NameError::Exists => "[ALREADYEXISTS] Mailbox already exists.",
                NameError::Missing => "[NONEXISTENT] Mailbox doesn't exist.",
                NameError::Inbox => "[CANNOT] INBOX cannot be deleted.",
                NameError::Invalid => "[CANNOT] Invalid mailbox name.",
                NameError::TooMany => "[LIMIT] Too many mailboxes.",
            }
            .into(),
        )
    }
}

impl Session {
    /// SELECT and EXAMINE. Where they fail, no mailbox is selected any more.
    pub(super) fn select(&mut self, account: &Account, mut p: Parser, read_only: bool, out: &mut Reply) -> Outcome {
        p.space()?;
        let name = mailbox_name(&mut p)?;
        p.end()?;
        self.view = None;
        let mut content = account.lock();
        let id = content.id(&name).ok_or(NameError::Missing)?;
        let mailbox = content.by_id_mut(id).ok_or(NameError::Missing)?;
        let view = View::new(id, mailbox, read_only);
        let keywords: String = mailbox.keywords().iter().map(|k| format!(" {k}")).collect();
        out.untagged(&format!("FLAGS ({SYSTEM_FLAGS}{keywords})"));
        let permanent = if read_only { String::new() } else { format!("{SYSTEM_FLAGS}{keywords} \\*") };
        out.untagged(&self.marked(&format!("OK [PERMANENTFLAGS ({permanent})] Flags permitted.")));
        out.untagged(&format!("{} EXISTS", view.len()));
        out.untagged(&format!("{} RECENT", view.recent()));
        if let Some(unseen) = mailbox.messages().iter().position(unseen) {
            out.untagged(&self.marked(&format!("OK [UNSEEN {}] First unseen.", unseen + 1)));
        }
        out.untagged(&self.marked(&format!("OK [UIDVALIDITY {}] UIDs valid", mailbox.uid_validity)));
        out.untagged(&self.marked(&format!("OK [UIDNEXT {}] Predicted next UID", mailbox.uid_next)));
        drop(content);
        self.view = Some(view);
        Ok(if read_only { "[READ-ONLY] Examine completed." } else { "[READ-WRITE] Select completed." }.into())
    }

    /// CREATE, DELETE, SUBSCRIBE and UNSUBSCRIBE.
    pub(super) fn change_name(&mut self, account: &Account, verb: &str, mut p: Parser) -> Outcome {
        p.space()?;
        let name = mailbox_name(&mut p)?;
        p.end()?;
        let selected = self.view.as_ref().map(|v| v.mailbox);
        let deleted_selected = account.change(|content| {
            let canonical = content.canonical(&name);
            match verb {
                "CREATE" => content.create(&name)?,
                "DELETE" => return content.delete(&name).map(|id| Some(id) == selected),
                "UNSUBSCRIBE" => drop(content.subscribed.remove(&canonical)),
                _ => {
                    content.id(&name).ok_or(NameError::Missing)?;
                    content.subscribed.insert(canonical);
                }
            }
            Ok::<_, NameError>(false)
        })?;
        if deleted_selected {
            self.view = None;
        }
        Ok(format!("{verb} completed."))
    }

    /// RENAME
    pub(super) fn rename(&mut self, account: &Account, mut p: Parser) -> Outcome {
        p.space()?;
        let from = mailbox_name(&mut p)?;
        p.space()?;
        let to = mailbox_name(&mut p)?;
        p.end()?;
        account.change(|content| content.rename(&from, &to))?;
        Ok("Rename completed.".into())
    }

    /// LIST and LSUB.
    pub(super) fn list(&mut self, account: &Account, mut p: Parser, subscribed: bool, out: &mut Reply) -> Outcome {
        p.space()?;
        let reference = p.astring()?;
        p.space()?;
        let pattern = p.pattern()?;
        p.end()?;
        let verb = if subscribed { "LSUB" } else { "LIST" };
        if pattern.is_empty() {
            out.untagged(&format!("{verb} (\\Noselect) \"/\" \"\""));
            return Ok(format!("{verb} completed."));
        }
        let pattern = [&reference[..], &pattern[..]].concat();
        let content = account.lock();
        for (name, exists) in listed(&content, subscribed) {
            if !matches(&pattern, name.as_bytes()) {
                continue;
            }
            let below = format!("{name}/");
            let parent = content.names().any(|n| n.starts_with(&below));
            let children = match (self.offers("CHILDREN"), parent) {
                (false, _) => "",
                (true, false) => "\\HasNoChildren",
                (true, true) => "\\HasChildren",
            };
            let flags = [if exists { "" } else { "\\Noselect" }, children];
            let flags: Vec<_> = flags.into_iter().filter(|f| !f.is_empty()).collect();
            out.text(&format!("* {verb} ({}) \"/\" ", flags.join(" "))).string(name.as_bytes()).text("\r\n");
        }
        Ok(format!("{verb} completed."))
    }

    /// STATUS
    pub(super) fn status(&mut self, account: &Account, mut p: Parser, out: &mut Reply) -> Outcome {
        p.space()?;
        let name = mailbox_name(&mut p)?;
        p.space()?;
        let items = p.list(Parser::keyword)?;
        p.end()?;
        let content = account.lock();
        let mailbox = content.by_name(&name).ok_or(NameError::Missing)?;
        let mut values = Vec::new();
        for item in items {
            let value = match item.as_str() {
                "MESSAGES" => mailbox.messages().len(),
                "RECENT" => mailbox.messages().iter().filter(|m| m.uid >= mailbox.recent_from).count(),
                "UIDNEXT" => mailbox.uid_next as usize,
                "UIDVALIDITY" => mailbox.uid_validity as usize,
                "UNSEEN" => mailbox.messages().iter().filter(|m| unseen(m)).count(),
                _ => return Err(Refusal::bad("an unknown item of STATUS")),
            };
            values.push(format!("{item} {value}"));
        }
        out.text("* STATUS ").string(content.canonical(&name).as_bytes());
        out.text(&format!(" ({})\r\n", values.join(" ")));
        Ok("Status completed.".into())
    }

    /// APPEND with one message.
    pub(super) fn append(&mut self, account: &Account, mut p: Parser) -> Outcome {
        p.space()?;
        let name = mailbox_name(&mut p)?;
        p.space()?;
        let mut flags = Vec::new();
        if p.peek() == Some(b'(') {
            flags = p.list(Parser::flag)?;
            p.space()?;
        }
        let mut date = DateTime::now();
        if p.peek() == Some(b'"') {
            date = DateTime::parse_imap(&mut p)?;
            p.space()?;
        }
        let octets = p.string()?.ok_or_else(|| Refusal::bad("expected a literal"))?;
        p.end()?;
        if octets.is_empty() {
            return Err(Refusal::No("[CANNOT] Can't save a zero byte message.".into()));
        }
        // \Recent in APPEND is allowed by some clients and means nothing.
        flags.retain(|f| !f.eq_ignore_ascii_case("\\Recent"));
        let flags = stored_flags(flags)?;
        let appended = account.change(|content| {
            let mailbox: &mut Mailbox = content.by_name_mut(&name)?;
            Some((mailbox.uid_validity, mailbox.append(octets, flags, date)))
        });
        let (validity, uid) = appended.ok_or_else(missing_target)?;
        let code = if self.offers("UIDPLUS") { format!("[APPENDUID {validity} {uid}] ") } else { String::new() };
        Ok(format!("{code}Append completed."))
    }

    /// Whether an APPEND is to be refused before its message is read.
    pub(super) fn refuses_append(&self, mut p: Parser) -> Option<Refusal> {
        let account = self.account.as_ref()?;
        // A name which is itself a literal is not here yet: then APPEND is refused at its end.
        let name = p.space().ok().and_then(|()| mailbox_name(&mut p).ok())?;
        account.lock().id(&name).is_none().then(missing_target)
    }
}

fn unseen(message: &Message) -> bool {
    !message.flags.contains("\\Seen")
}

/// The names LIST or LSUB may show, and whether each exists; parents that do not exist are shown as such.
fn listed(content: &Content, subscribed: bool) -> BTreeMap<String, bool> {
    let names: Vec<&str> =
        if subscribed { content.subscribed.iter().map(String::as_str).collect() } else { content.names().collect() };
    let mut listed = BTreeMap::new();
    for name in &names {
        for (end, _) in name.match_indices('/') {
            listed.entry(name[..end].to_owned()).or_insert(false);
        }
    }
    listed.extend(names.into_iter().map(|name| (name.to_owned(), true)));
    listed
}

/// Whether a name matches a pattern of LIST: `*` is anything, `%` anything but the delimiter. INBOX has no case.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if name == b"INBOX" && pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    // Backtracking over two wildcards without recursion: reachable[i] says that the pattern so far can match name[..i].
    let mut reachable = vec![false; name.len() + 1];
    reachable[0] = true;
    for &p in pattern {
        if matches!(p, b'*' | b'%') {
            for i in 0..name.len() {
                reachable[i + 1] |= reachable[i] && (p == b'*' || name[i] != b'/');
            }
        } else {
            for i in (0..name.len()).rev() {
                reachable[i + 1] = reachable[i] && name[i] == p;
            }
            reachable[0] = false;
        }
    }
    reachable[name.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards() {
        let found = |pattern: &str, name: &str| matches(pattern.as_bytes(), name.as_bytes());
        assert!(found("*", "a/b/c") && found("%", "a") && !found("%", "a/b") && found("a/%", "a/b"));
        assert!(found("*c", "a/b/c") && found("%/%/c", "a/b/c") && !found("%/c", "a/b/c"));
        assert!(found("inbox", "INBOX") && !found("A", "a") && !found("", "a") && found("**%", "a"));
    }
}
