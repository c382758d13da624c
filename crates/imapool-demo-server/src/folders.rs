//! The commands on mailboxes as a whole: SELECT, CREATE, LIST, STATUS, APPEND … (RFC 3501 section 6.3).

use super::changes::Parameters;
use super::commands::{Outcome, Refusal};
use super::date::DateTime;
use super::parse::Parser;
use super::reply::Reply;
use super::selected::{missing_target, stored_flags};
use super::session::Session;
use super::store::{Account, Mailbox, Message, NameError};
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
    /// SELECT and EXAMINE. Where they fail, no mailbox is selected any more, unless this kind of server keeps it.
    pub(super) fn select(&mut self, account: &Account, mut p: Parser, read_only: bool, out: &mut Reply) -> Outcome {
        let shared = self.shared.clone();
        let quirks = &shared.options.quirks;
        if let Some(status) = quirks.id_before_select.filter(|_| !self.identified) {
            return Err(Refusal::of(status));
        }
        p.space()?;
        let name = self.mailbox_name(&mut p);
        // Also where the name is none: the arguments are read to their end.
        let parameters = Parameters::parse(&mut p)?;
        p.end()?;
        self.allow(&parameters)?;
        let mut content = account.lock();
        let found = name.and_then(|name| content.id(&name).ok_or_else(|| self.no_mailbox()));
        let left = if found.is_err() && quirks.failed_select_keeps { None } else { self.view.take() };
        let id = found?;
        let mailbox = content.by_id_mut(id).ok_or(NameError::Missing)?;
        if left.is_some() && self.offers("QRESYNC") {
            out.untagged(&self.marked("OK [CLOSED] Previous mailbox closed."));
        }
        let view = View::new(id, mailbox, read_only, quirks.no_recent);
        let keywords: String = mailbox.keywords().iter().map(|k| format!(" {k}")).collect();
        out.untagged(&format!("FLAGS ({SYSTEM_FLAGS}{keywords})"));
        let permanent = if read_only { String::new() } else { format!("{SYSTEM_FLAGS}{keywords} \\*") };
        out.untagged(&self.marked(&format!("OK [PERMANENTFLAGS ({permanent})] Flags permitted.")));
        let wide = if quirks.wide_exists { " " } else { "" };
        out.untagged(&format!("{wide}{} EXISTS", view.len()));
        out.untagged(&format!("{} RECENT", view.recent()));
        if let Some(unseen) = mailbox.messages().iter().position(unseen) {
            out.untagged(&self.marked(&format!("OK [UNSEEN {}] First unseen.", unseen + 1)));
        }
        if !(read_only && quirks.examine_without_validity) {
            out.untagged(&self.marked(&format!("OK [UIDVALIDITY {}] UIDs valid", mailbox.uid_validity)));
            out.untagged(&self.marked(&format!("OK [UIDNEXT {}] Predicted next UID", mailbox.uid_next)));
        }
        if self.offers("CONDSTORE") {
            out.untagged(&self.marked(&format!("OK [HIGHESTMODSEQ {}] Highest", mailbox.highest())));
        }
        self.catch_up(&parameters, mailbox, &view, out);
        drop(content);
        self.view = Some(view);
        Ok(if read_only { "[READ-ONLY] Examine completed." } else { "[READ-WRITE] Select completed." }.into())
    }

    /// The refusal of a mailbox that is not there.
    fn no_mailbox(&self) -> Refusal {
        Refusal::of(self.shared.options.words.no_mailbox)
    }

    /// An argument that names a mailbox: the store's name for it.
    pub(super) fn mailbox_name(&self, p: &mut Parser) -> Result<String, Refusal> {
        let name = p.astring()?;
        let name = std::str::from_utf8(&name).map_err(|_| Refusal::bad("a mailbox name that is not UTF-8"))?;
        self.shared.options.names.inner(name).ok_or_else(|| self.no_mailbox())
    }

    /// CREATE, DELETE, SUBSCRIBE and UNSUBSCRIBE.
    pub(super) fn change_name(&mut self, account: &Account, verb: &str, mut p: Parser) -> Outcome {
        p.space()?;
        let name = self.mailbox_name(&mut p)?;
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
        let from = self.mailbox_name(&mut p)?;
        p.space()?;
        let to = self.mailbox_name(&mut p)?;
        p.end()?;
        account.change(|content| content.rename(&from, &to))?;
        Ok("Rename completed.".into())
    }

    /// STATUS
    pub(super) fn status(&mut self, account: &Account, mut p: Parser, out: &mut Reply) -> Outcome {
        p.space()?;
        let name = self.mailbox_name(&mut p)?;
        p.space()?;
        let items = p.list(Parser::keyword)?;
        p.end()?;
        let content = account.lock();
        let id = content.id(&name).ok_or_else(|| self.no_mailbox())?;
        let is_selected = self.view.as_ref().is_some_and(|view| view.mailbox == id);
        if let Some(status) = self.shared.options.quirks.status_of_selected.filter(|_| is_selected) {
            return Err(Refusal::of(status));
        }
        self.condstore |= self.offers("CONDSTORE") && items.iter().any(|item| item == "HIGHESTMODSEQ");
        let mailbox = content.by_id(id).ok_or(NameError::Missing)?;
        let outer = self.shared.options.names.outer(&content.canonical(&name));
        self.status_line(&outer, mailbox, &items, out)?;
        Ok("Status completed.".into())
    }

    /// `* STATUS`, of STATUS and of LIST.
    pub(super) fn status_line(
        &self,
        outer: &str,
        mailbox: &Mailbox,
        items: &[String],
        out: &mut Reply,
    ) -> Result<(), Refusal> {
        let no_recent = self.shared.options.quirks.no_recent;
        let mut values = Vec::new();
        for item in items {
            let messages = mailbox.messages();
            let value = match item.as_str() {
                "MESSAGES" => messages.len() as u64,
                "RECENT" => messages.iter().filter(|m| !no_recent && m.uid >= mailbox.recent_from).count() as u64,
                "UIDNEXT" => mailbox.uid_next.into(),
                "UIDVALIDITY" => mailbox.uid_validity.into(),
                "UNSEEN" => messages.iter().filter(|m| unseen(m)).count() as u64,
                "SIZE" if self.offers("STATUS=SIZE") => messages.iter().map(|m| m.octets.len() as u64).sum(),
                "HIGHESTMODSEQ" if self.offers("CONDSTORE") => mailbox.highest(),
                _ => return Err(Refusal::bad("an unknown item of STATUS")),
            };
            values.push(format!("{item} {value}"));
        }
        out.text("* STATUS ").string(outer.as_bytes()).text(&format!(" ({})\r\n", values.join(" ")));
        Ok(())
    }

    /// APPEND with one message.
    pub(super) fn append(&mut self, account: &Account, mut p: Parser) -> Outcome {
        p.space()?;
        let name = self.mailbox_name(&mut p)?;
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
        let name = p.space().ok().and_then(|()| self.mailbox_name(&mut p).ok())?;
        account.lock().id(&name).is_none().then(missing_target)
    }
}

fn unseen(message: &Message) -> bool {
    !message.flags.contains("\\Seen")
}
