//! What a viewer checks that has switched on CONDSTORE or QRESYNC (RFC 7162).

use std::collections::{BTreeSet, HashMap};
use std::io;

use super::{Message, Viewer, code};

/// What a viewer has switched on, and what it remembers.
#[derive(Debug, Default)]
pub(crate) struct Modseqs {
    /// Flags are to come with their mod-sequence.
    pub(super) condstore: bool,
    /// VANISHED is to come in EXPUNGE's place.
    pub(super) qresync: bool,
    /// UIDVALIDITY and HIGHESTMODSEQ, as SELECT said.
    told: (u32, u64),
    /// By mailbox: what SELECT said, and the flags of messages, when it was left.
    memories: HashMap<String, ((u32, u64), FlagsByUid)>,
    /// What it knows of the mailbox that it selects.
    resumed: Option<FlagsByUid>,
}

type FlagsByUid = HashMap<u32, BTreeSet<String>>;

impl Viewer {
    /// Switches on CONDSTORE or QRESYNC.
    pub(crate) async fn enable(&mut self, what: &str) -> io::Result<()> {
        self.run(&format!("ENABLE {what}")).await?;
        self.modseqs.condstore = true;
        self.modseqs.qresync = what.contains("QRESYNC");
        Ok(())
    }

    /// SELECT has told the highest mod-sequence, whether it has asked for that or not.
    pub(crate) fn has_told_modseq(&self) -> bool {
        self.modseqs.told.1 > 0
    }

    /// Switches CONDSTORE on in the middle of a mailbox (RFC 7162 section 3.1).
    pub(crate) async fn ask_for_modseqs(&mut self) -> io::Result<()> {
        self.quiet().await?;
        self.modseqs.condstore = true;
        self.run("FETCH 1:* (UID FLAGS MODSEQ)").await
    }

    /// The highest mod-sequence that SELECT has told, with CONDSTORE.
    pub(crate) fn has_modseqs(&self) -> Option<u64> {
        Some(self.modseqs.told.1).filter(|modseq| self.modseqs.condstore && *modseq > 0)
    }

    /// The parameters of its next SELECT of a mailbox that it knows.
    pub(super) fn resync(&mut self, mailbox: &str) -> String {
        let flags = self.view.iter().filter_map(|message| message.uid.zip(message.flags.clone())).collect();
        let told = std::mem::take(&mut self.modseqs.told);
        if self.modseqs.qresync && told.1 > 0 {
            self.modseqs.memories.insert(self.mailbox.clone(), (told, flags));
        }
        match self.modseqs.memories.get(mailbox).cloned() {
            Some(((validity, modseq), flags)) => {
                self.modseqs.resumed = Some(flags);
                format!(" (QRESYNC ({validity} {modseq}))")
            }
            None => String::new(),
        }
    }

    /// What it knew, and was told of it by SELECT, is so, but for what has happened since.
    pub(super) async fn check_resumed(&mut self) -> io::Result<()> {
        let Some(resumed) = self.modseqs.resumed.take() else { return Ok(()) };
        self.run("FETCH 1:* (UID FLAGS MODSEQ)").await?;
        for message in &self.view {
            let known = message.uid.and_then(|uid| resumed.get(&uid));
            let since = message.modseq.is_none_or(|modseq| modseq > self.modseqs.told.1);
            if known.is_some() && !since && known != message.flags.as_ref() {
                return self.wrong(&format!("of {message:?} it was to believe {known:?}"));
            }
        }
        // What has gone since is told now.
        self.modseqs.resumed = Some(resumed);
        self.run("NOOP").await?;
        let resumed = self.modseqs.resumed.take().unwrap_or_default();
        match resumed.keys().find(|uid| !self.view.iter().any(|message| message.uid == Some(**uid))) {
            Some(uid) => self.wrong(&format!("nobody has said that UID {uid} vanished")),
            None => Ok(()),
        }
    }

    /// `* OK [UIDVALIDITY 7] …`
    pub(super) fn note_status(&mut self, text: &str) {
        let number = |name: &str| code(text, name)?.first()?.parse::<u64>().ok();
        if let Some(validity) = number("UIDVALIDITY") {
            self.modseqs.told.0 = u32::try_from(validity).unwrap_or(0);
        }
        if let Some(modseq) = number("HIGHESTMODSEQ").filter(|_| self.modseqs.told.1 == 0) {
            self.modseqs.told.1 = modseq;
        }
    }

    /// `* VANISHED …`
    pub(super) fn vanished(&mut self, text: &str, keeps_numbers: bool) -> io::Result<()> {
        let earlier = text.starts_with("* VANISHED (EARLIER)");
        if !self.modseqs.qresync || keeps_numbers && !earlier {
            return self.wrong(&format!("where none may come: {text}"));
        }
        let uids = text.trim_end().rsplit(' ').next().unwrap_or_default().split(',').flat_map(|part| {
            let (first, last) = part.split_once(':').unwrap_or((part, part));
            first.parse::<u32>().unwrap_or(1)..=last.parse().unwrap_or(0)
        });
        for uid in uids {
            if let Some(resumed) = &mut self.modseqs.resumed {
                resumed.remove(&uid);
            }
            if !earlier {
                self.one_vanished(uid)?;
            }
        }
        Ok(())
    }

    /// Of messages whose UIDs it does not know, it knows no longer which are which.
    fn one_vanished(&mut self, uid: u32) -> io::Result<()> {
        let known = |at: usize| self.view.get(at).and_then(|message| message.uid);
        let before = (0..self.view.len()).rev().find(|at| known(*at).is_some_and(|known| known < uid));
        let first = before.map_or(0, |at| at + 1);
        let last = (first..self.view.len()).find(|at| known(*at).is_some()).unwrap_or(self.view.len());
        if known(last) == Some(uid) {
            self.view.remove(last);
        } else if first < last {
            self.view[first..last].fill(Message::default());
            self.view.remove(first);
        } else {
            return self.wrong(&format!("UID {uid} was no message: {:?}", self.view));
        }
        Ok(())
    }

    /// The mod-sequence in a FETCH.
    pub(super) fn note_modseq(&mut self, number: usize, head: &str) -> io::Result<()> {
        let modseq: Option<u64> =
            head.split_once("MODSEQ (").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
        if modseq.is_some() != self.modseqs.condstore && (modseq.is_some() || head.contains("FLAGS (") && !self.fetches)
        {
            return self.wrong(&format!("with condstore {}: {head}", self.modseqs.condstore));
        }
        let message = &mut self.view[number - 1];
        let (before, now) = (message.modseq, modseq.or(message.modseq));
        message.modseq = now;
        if before > now {
            return self.wrong(&format!("after mod-sequence {before:?}: {head}"));
        }
        if let (Some(resumed), Some(uid)) = (&mut self.modseqs.resumed, message.uid)
            && let (Some(known), Some(flags)) = (resumed.get_mut(&uid), &message.flags)
        {
            known.clone_from(flags);
        }
        Ok(())
    }
}
