//! CONDSTORE and QRESYNC (RFC 7162): what has changed since a client last looked. A mailbox's counter is its highest
//! mod-sequence.

use super::commands::{Outcome, Refusal};
use super::parse::{ParseError, Parser, SequenceSet};
use super::reply::{Reply, uid_set};
use super::session::Session;
use super::store::Mailbox;
use super::view::{Telling, View, flag_list};

/// The parameters of SELECT and EXAMINE.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    condstore: bool,
    known: Option<Known>,
}

/// What a client knows from another time: the parameter QRESYNC.
#[derive(Debug)]
struct Known {
    validity: u32,
    modseq: u64,
    uids: Option<SequenceSet>,
}

/// The modifiers of FETCH.
#[derive(Debug, Default)]
pub(super) struct Since {
    /// Only messages that changed later.
    pub(super) modseq: Option<u64>,
    /// And which UIDs are gone since.
    pub(super) vanished: bool,
}

impl Parameters {
    /// `(CONDSTORE)`, `(QRESYNC (1 20 1:5))`, both, or nothing.
    pub(super) fn parse(p: &mut Parser) -> Result<Self, ParseError> {
        let mut parameters = Self::default();
        if !p.eat(b' ') {
            return Ok(parameters);
        }
        p.list(|p| {
            match p.keyword()?.as_str() {
                "CONDSTORE" => parameters.condstore = true,
                "QRESYNC" => {
                    p.space()?;
                    parameters.known = Some(Known::parse(p)?);
                }
                _ => return Err(ParseError("a parameter of SELECT")),
            }
            Ok(())
        })?;
        Ok(parameters)
    }
}

impl Known {
    fn parse(p: &mut Parser) -> Result<Self, ParseError> {
        p.expect(b'(', "a list")?;
        let validity = p.number()?;
        p.space()?;
        let modseq = p.long_number()?;
        let mut uids = None;
        while p.eat(b' ') {
            if p.peek() == Some(b'(') {
                // Numbers and their UIDs, which spare a server that forgets: this one does not.
                let _pairs = p.list(Parser::sequence_set)?;
            } else {
                uids = Some(p.sequence_set()?);
            }
        }
        p.expect(b')', "the end of a list")?;
        Ok(Self { validity, modseq, uids })
    }
}

impl Since {
    /// `(CHANGEDSINCE 5 VANISHED)`, or nothing.
    pub(super) fn parse(p: &mut Parser) -> Result<Self, ParseError> {
        let mut since = Self::default();
        if !p.eat(b' ') {
            return Ok(since);
        }
        p.list(|p| {
            match p.keyword()?.as_str() {
                "CHANGEDSINCE" => {
                    p.space()?;
                    since.modseq = Some(p.long_number()?);
                }
                "VANISHED" => since.vanished = true,
                _ => return Err(ParseError("a modifier of FETCH")),
            }
            Ok(())
        })?;
        Ok(since)
    }
}

/// `(UNCHANGEDSINCE 5) ` of STORE, or nothing.
pub(super) fn unchanged_since(p: &mut Parser) -> Result<Option<u64>, ParseError> {
    if p.peek() != Some(b'(') {
        return Ok(None);
    }
    let mut modseq = None;
    p.list(|p| {
        if p.keyword()? != "UNCHANGEDSINCE" {
            return Err(ParseError("a modifier of STORE"));
        }
        p.space()?;
        modseq = Some(p.long_number()?);
        Ok(())
    })?;
    p.space()?;
    Ok(modseq)
}

/// `* VANISHED (EARLIER) …`: which of these UIDs are gone since.
pub(super) fn tell_vanished(mailbox: &Mailbox, since: u64, uids: Option<&SequenceSet>, out: &mut Reply) {
    let largest = mailbox.uid_next.saturating_sub(1);
    let mut gone: Vec<u32> = mailbox
        .expunged()
        .iter()
        .filter(|(uid, at)| *at > since && uids.is_none_or(|uids| uids.contains(*uid, largest)))
        .map(|(uid, _)| *uid)
        .collect();
    gone.sort_unstable();
    if !gone.is_empty() {
        out.untagged(&format!("VANISHED (EARLIER) {}", uid_set(&gone)));
    }
}

impl Session {
    /// How this session is told the news.
    pub(super) fn telling(&self) -> Telling {
        let qresync = self.enabled.contains("QRESYNC") && self.offers("QRESYNC");
        Telling { condstore: self.condstore || qresync, qresync }
    }

    /// What was enabled takes effect.
    pub(super) fn switch_on(&mut self, enabled: &[String]) {
        let offered = self.offers("CONDSTORE");
        self.condstore |= offered && enabled.iter().any(|name| matches!(name.as_str(), "CONDSTORE" | "QRESYNC"));
    }

    /// Whether SELECT may have these parameters.
    pub(super) fn allow(&mut self, parameters: &Parameters) -> Result<(), Refusal> {
        let Parameters { condstore, known } = parameters;
        if (*condstore || known.is_some()) && !self.offers("CONDSTORE") {
            return Err(Refusal::bad("CONDSTORE was not offered"));
        }
        if known.is_some() && !self.telling().qresync {
            return Err(Refusal::bad("QRESYNC was not enabled"));
        }
        self.condstore |= *condstore;
        Ok(())
    }

    /// Tells what has changed since the time that the parameter QRESYNC names.
    pub(super) fn catch_up(&self, parameters: &Parameters, mailbox: &Mailbox, view: &View, out: &mut Reply) {
        let Some(known) = parameters.known.as_ref().filter(|known| known.validity == mailbox.uid_validity) else {
            return;
        };
        tell_vanished(mailbox, known.modseq, known.uids.as_ref(), out);
        let largest = mailbox.uid_next.saturating_sub(1);
        for (number, entry) in (1..).zip(view.entries()) {
            let Some(message) = mailbox.message(entry.uid).filter(|message| message.changed > known.modseq) else {
                continue;
            };
            if known.uids.as_ref().is_none_or(|uids| uids.contains(entry.uid, largest)) {
                let (uid, flags, modseq) = (entry.uid, flag_list(message, entry.recent), message.changed);
                out.untagged(&format!("{number} FETCH (UID {uid} FLAGS {flags} MODSEQ ({modseq}))"));
            }
        }
    }

    /// The tagged text of a command that removed messages.
    pub(super) fn removed(&self, name: &str, mailbox: Option<&Mailbox>) -> Outcome {
        let modseq = mailbox.filter(|_| self.telling().qresync).map(Mailbox::highest);
        Ok(modseq.map_or_else(String::new, |modseq| format!("[HIGHESTMODSEQ {modseq}] ")) + name + " completed.")
    }
}
