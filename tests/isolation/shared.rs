//! What the backend says of mailboxes whose connections are shared: it has to make sense, since the proxy keeps
//! account of it. The number of messages tells whose mailbox it is; when one is expunged, a new one takes its place.

use std::sync::atomic::Ordering;

use tokio::io::AsyncWriteExt as _;

use super::{Command, Connection, Over};
use crate::plan::{MAILBOXES, MAX_GONE, Marker, shared_number, words};

impl Connection {
    /// Commands without a token: those of the proxy itself, and those of clients that may have no arguments. Their
    /// replies are told to all who share the mailbox, or to nobody.
    pub(super) async fn answer_sharer(&mut self, command: &Command, verb: &str, account: usize) -> Result<(), Over> {
        let marker = Marker::Account { account, connection: self.id }.text();
        let nobody = Marker::Nobody { connection: self.id }.text();
        let name = words(&command.text).nth(2).unwrap_or_default();
        let mailbox = MAILBOXES.iter().position(|mailbox| mailbox.as_bytes() == name);
        let mut out = Vec::new();
        let quiet = verb == "FETCH";
        if self.rng.chance(300) {
            self.sharers_news(&mut out, !quiet);
        }
        let status = match verb {
            "SELECT" | "EXAMINE" => self.shared_select(&mut out, verb, mailbox, &marker),
            "STATUS" => {
                let gone = mailbox.map_or(0, |mailbox| self.gone(account, mailbox).load(Ordering::Relaxed));
                let validity = mailbox.map_or(0, |mailbox| shared_number(account, mailbox));
                let next = validity + gone + 1;
                out.extend_from_slice(
                    format!("* STATUS {nobody} (UIDNEXT {next} UIDVALIDITY {validity})\r\n").as_bytes(),
                );
                "OK"
            }
            "UID" | "FETCH" => {
                self.list(&mut out, command, account, &nobody);
                "OK"
            }
            "IDLE" => {
                self.stream.write_all(format!("+ {marker}\r\n").as_bytes()).await?;
                self.sharers_news(&mut out, true);
                self.stream.write_all(&std::mem::take(&mut out)).await?;
                let line = self.line().await?;
                if line != b"DONE" {
                    self.world.fail(format!("IDLE ended by {:?}", line.escape_ascii().to_string()));
                }
                self.sharers_news(&mut out, true);
                "OK"
            }
            "CLOSE" | "UNSELECT" => {
                self.selected = None;
                "OK"
            }
            _ => "OK",
        };
        if self.rng.chance(10) {
            return Err(Over);
        }
        out.extend_from_slice(format!("{} {status} {marker}\r\n", command.tag).as_bytes());
        Ok(self.stream.write_all(&out).await?)
    }

    fn gone(&self, account: usize, mailbox: usize) -> &std::sync::atomic::AtomicU64 {
        &self.world.gone[account * MAILBOXES.len() + mailbox]
    }

    fn shared_select(&mut self, out: &mut Vec<u8>, verb: &str, mailbox: Option<usize>, marker: &str) -> &'static str {
        self.selected = None;
        let Some(mailbox) = mailbox.filter(|_| !self.rng.chance(20)) else { return "NO" };
        let account = self.account.unwrap_or_default();
        self.seen = self.gone(account, mailbox).load(Ordering::Relaxed);
        self.selected = Some((mailbox, 0));
        let n = shared_number(account, mailbox);
        let next = n + self.seen + 1;
        out.extend_from_slice(
            format!(
                "* FLAGS ({marker})\r\n* OK [UIDVALIDITY {n}] {marker}\r\n* OK [UIDNEXT {next}] {marker}\r\n\
                 * {n} EXISTS\r\n* {n} RECENT\r\n"
            )
            .as_bytes(),
        );
        if verb == "EXAMINE" { "OK [READ-ONLY]" } else { "OK [READ-WRITE]" }
    }

    /// UIDs, by UID SEARCH or FETCH, and flags: what hubs ask for.
    fn list(&mut self, out: &mut Vec<u8>, command: &Command, account: usize, nobody: &str) {
        let Some((mailbox, _)) = self.selected else { return };
        let n = shared_number(account, mailbox);
        let (last, before) = (n + self.seen, n - 1);
        let text = String::from_utf8_lossy(&command.text).into_owned();
        let flags = Marker::News { session: 0, mailbox, account, connection: self.id }.text();
        if text.contains("FLAGS") {
            return out.extend_from_slice(format!("* {n} FETCH (FLAGS ({flags}))\r\n").as_bytes());
        }
        if text.contains("FETCH") {
            return out.extend_from_slice(format!("* {n} FETCH (UID {last})\r\n").as_bytes());
        }
        if text.contains("MIN") {
            return out.extend_from_slice(format!("* ESEARCH (TAG \"{}\") UID MIN {last}\r\n", command.tag).as_bytes());
        }
        let found = if text.contains("ALL") { format!("1:{before},{last}") } else { last.to_string() };
        out.extend_from_slice(format!("* ESEARCH (TAG \"{}\") UID ALL {found}\r\n", command.tag).as_bytes());
        out.extend_from_slice(format!("* LIST () \"/\" {nobody}\r\n").as_bytes());
    }

    /// What happened in the selected mailbox; `expunge`: EXPUNGE may be said now.
    pub(super) fn sharers_news(&mut self, out: &mut Vec<u8>, expunge: bool) {
        let Some((mailbox, session)) = self.selected else { return };
        let account = self.account.unwrap_or_default();
        let n = shared_number(account, mailbox);
        let marker = Marker::News { session, mailbox, account, connection: self.id }.text();
        if expunge && self.rng.chance(300) {
            let full = |gone: u64| (gone < MAX_GONE).then_some(gone + 1);
            let _ = self.gone(account, mailbox).fetch_update(Ordering::Relaxed, Ordering::Relaxed, full);
        }
        let gone = self.gone(account, mailbox).load(Ordering::Relaxed);
        if expunge && gone > self.seen {
            self.seen = gone;
            out.extend_from_slice(format!("* {n} EXPUNGE\r\n* {n} EXISTS\r\n").as_bytes());
        }
        let line = match self.rng.below(4) {
            0 => format!("* {n} FETCH (FLAGS ({marker}))\r\n"),
            1 => format!("* FLAGS ({marker})\r\n"),
            2 => format!("* OK [PERMANENTFLAGS ({marker})] flags\r\n"),
            _ => format!("* {n} RECENT\r\n"),
        };
        out.extend_from_slice(line.as_bytes());
    }
}
