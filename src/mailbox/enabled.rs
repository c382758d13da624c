//! What sessions switch on for the rest of a connection (RFC 5161) and can share nevertheless, each with its like: CONDSTORE and
//! QRESYNC (RFC 7162).

use std::collections::BTreeSet;

use crate::imap::command::{Arguments, Command};
use crate::imap::sequence::SequenceSet;
use crate::upstream::machine::Sticky;

/// What all sessions of a hub have switched on, and so has its connection. Each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Enabled {
    /// Nothing.
    #[default]
    Nothing,
    /// Flags are told with their mod-sequence (RFC 7162 section 3.1).
    Condstore,
    /// VANISHED takes the place of EXPUNGE (RFC 7162 section 3.2).
    Qresync,
}

const QRESYNC: &[u8] = b"QRESYNC";

impl Enabled {
    /// What a session that has switched on so much shares with others. `None`: there is more to it, so it shares nothing.
    #[must_use]
    pub fn of(sticky: &Sticky) -> Option<Self> {
        match sticky.enabled.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
            [] if sticky.condstore => Some(Self::Condstore),
            [] => Some(Self::Nothing),
            [QRESYNC] => Some(Self::Qresync),
            _ => None,
        }
    }

    /// The state of a connection on which just this is switched on.
    #[must_use]
    pub fn sticky(self) -> Sticky {
        let enabled = (self == Self::Qresync).then(|| QRESYNC.to_vec());
        Sticky { condstore: self.has_modseqs(), enabled: BTreeSet::from_iter(enabled) }
    }

    /// Mod-sequences are told.
    #[must_use]
    pub fn has_modseqs(self) -> bool {
        self >= Self::Condstore
    }

    /// What a SELECT says, so that the connection comes into this state by that, if it can (RFC 7162 section 3.1.8).
    #[must_use]
    pub fn parameter(self) -> &'static str {
        if self == Self::Condstore { " (CONDSTORE)" } else { "" }
    }

    /// The capability that has to be there.
    #[must_use]
    pub fn capability(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Condstore => Some("CONDSTORE"),
            Self::Qresync => Some("QRESYNC"),
        }
    }
}

/// The parameters of a SELECT or EXAMINE (RFC 4466 section 2.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parameters {
    /// CONDSTORE (RFC 7162 section 3.1.8).
    pub condstore: bool,
    /// QRESYNC
    pub resync: Option<Resync>,
}

/// What a client knows of a mailbox that it selects (RFC 7162 section 3.2.5). The match data, by which it may say more, are left
/// out: they only shorten the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resync {
    /// The mailbox's UIDVALIDITY.
    pub validity: u32,
    /// The highest mod-sequence.
    pub modseq: u64,
    /// The UIDs that are of interest; `None`: all.
    pub uids: Option<String>,
}

impl Parameters {
    /// Reads them; `None`: there are others, or they are malformed.
    #[must_use]
    pub fn of(select: &Command) -> Option<Self> {
        let mut arguments = select.arguments();
        arguments.astring()?;
        let mut parameters = Self::default();
        if arguments.at_end() {
            return Some(parameters);
        }
        let text = rest(arguments)?;
        let mut text = text.strip_prefix('(')?.strip_suffix(')')?;
        while !text.is_empty() {
            text = match text.strip_prefix("QRESYNC (") {
                Some(arguments) => {
                    let (resync, after) = Resync::parse(arguments)?;
                    parameters.resync = Some(resync);
                    after
                }
                None => {
                    parameters.condstore = true;
                    text.strip_prefix("CONDSTORE")?
                }
            };
            text = if text.is_empty() { text } else { text.strip_prefix(' ').filter(|text| !text.is_empty())? };
        }
        Some(parameters)
    }
}

impl Resync {
    /// `7 90 1:5 (1,2 3,4))`, and what follows.
    fn parse(text: &str) -> Option<(Self, &str)> {
        let (known, after) = match text.split_once(" (") {
            Some((known, matches)) if !known.contains(')') => (known, matches.split_once(')')?.1.strip_prefix(')')?),
            _ => text.split_once(')')?,
        };
        let mut words = known.split(' ');
        let validity = words.next()?.parse().ok().filter(|validity| *validity > 0)?;
        let modseq = words.next()?.parse().ok().filter(|modseq| *modseq > 0)?;
        let uids = words.next().map(str::to_owned);
        let well_formed = uids.as_ref().is_none_or(|uids| SequenceSet::parse(uids.as_bytes()).is_ok());
        (well_formed && words.next().is_none()).then_some((Self { validity, modseq, uids }, after))
    }
}

/// What is left, in capitals.
fn rest(mut arguments: Arguments<'_>) -> Option<String> {
    let mut words = Vec::new();
    while let Some(word) = arguments.word() {
        words.push(std::str::from_utf8(word).ok()?.to_ascii_uppercase());
    }
    arguments.at_end().then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::imap::command::{Name, Segment};

    fn parameters(text: &'static str) -> Option<Parameters> {
        let text = Bytes::from(format!("SELECT INBOX{text}"));
        Parameters::of(&Command {
            tag: "a".into(),
            name: Name::Select,
            segments: vec![Segment { text, literal: None }],
        })
    }

    #[test]
    fn what_is_shared() {
        let of = |condstore: bool, words: &[&str]| {
            let enabled = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            Enabled::of(&Sticky { condstore, enabled })
        };
        assert_eq!(of(false, &[]), Some(Enabled::Nothing));
        assert_eq!(of(true, &[]), Some(Enabled::Condstore));
        assert_eq!(of(true, &["QRESYNC"]), Some(Enabled::Qresync));
        assert_eq!(of(true, &["QRESYNC", "UTF8=ACCEPT"]), None);
        assert_eq!(of(false, &["IMAP4REV2"]), None);
        for enabled in [Enabled::Nothing, Enabled::Condstore, Enabled::Qresync] {
            assert_eq!(Enabled::of(&enabled.sticky()), Some(enabled));
        }
    }

    #[test]
    fn parameters_of_select() {
        let resync = |uids: Option<&str>| {
            let resync = Resync { validity: 7, modseq: 90, uids: uids.map(str::to_owned) };
            Some(Parameters { condstore: false, resync: Some(resync) })
        };
        assert_eq!(parameters(""), Some(Parameters::default()));
        assert_eq!(parameters(" (condstore)"), Some(Parameters { condstore: true, resync: None }));
        assert_eq!(parameters(" (QRESYNC (7 90))"), resync(None));
        assert_eq!(parameters(" (qresync (7 90 1:5,9))"), resync(Some("1:5,9")));
        assert_eq!(parameters(" (QRESYNC (7 90 1:5 (1,2 3,4)))"), resync(Some("1:5")));
        assert_eq!(parameters(" (QRESYNC (7 90 (1,2 3,4)))"), resync(None));
        for text in [" (QRESYNC (7 90) CONDSTORE)", " (CONDSTORE QRESYNC (7 90 (1 2)))"] {
            assert_eq!(parameters(text), resync(None).map(|it| Parameters { condstore: true, ..it }), "{text}");
        }
        for text in [
            " ",
            " CONDSTORE",
            " (CONDSTORE",
            " (CONDSTORE )",
            " (CONDSTOREX)",
            " (QRESYNC)",
            " (QRESYNC (7))",
            " (QRESYNC (7 0))",
            " (QRESYNC (7 90 x))",
            " (QRESYNC (7 90 1 2))",
            " (QRESYNC (7 90)",
            " (QRESYNC (7 90 1 (2 3))",
            " (X-OTHER)",
        ] {
            assert_eq!(parameters(text), None, "{text}");
        }
    }
}
