//! What sessions switch on for the rest of a connection (RFC 5161) and can share nevertheless. CONDSTORE and QRESYNC
//! (RFC 7162) each may have or not: a hub's connection has the most that one of its members has, or more, and each
//! hears no more than it has itself. UTF8=ACCEPT (RFC 6855) and IMAP4rev2 (RFC 9051) are shared by those who have the
//! same.

use crate::imap::command::{Arguments, Command};
use crate::imap::sequence::SequenceSet;
use crate::imap::sticky::Sticky;

/// What a session is told of mod-sequences, or a connection tells. Each includes the ones before it.
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

impl Enabled {
    /// What may be on, on a connection in this state.
    #[must_use]
    pub fn of(sticky: &Sticky) -> Self {
        match sticky.enabled.contains(QRESYNC) {
            true => Self::Qresync,
            false if sticky.condstore => Self::Condstore,
            false => Self::Nothing,
        }
    }

    /// Mod-sequences are told.
    pub fn has_modseqs(self) -> bool {
        self >= Self::Condstore
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

const QRESYNC: &[u8] = b"QRESYNC";
const UTF8: &[u8] = b"UTF8=ACCEPT";
const REV2: &[u8] = b"IMAP4REV2";

/// All that the sessions of a hub have switched on, and so has its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EnableSet {
    /// CONDSTORE or QRESYNC.
    pub enabled: Enabled,
    /// Names and headers are in UTF-8 (RFC 6855 section 3).
    pub utf8: bool,
    /// IMAP4rev2 (RFC 9051 section 6.3.1).
    pub rev2: bool,
}

impl EnableSet {
    /// What a session that has switched on so much shares with others. `None`: there is more to it, so it shares
    /// nothing.
    #[must_use]
    pub fn of(sticky: &Sticky) -> Option<Self> {
        let set = Self { enabled: Enabled::of(sticky), utf8: sticky.has(UTF8), rev2: sticky.has(REV2) };
        sticky.enabled.iter().all(|word| [QRESYNC, UTF8, REV2].contains(&&word[..])).then_some(set)
    }

    /// What those who share a connection have in common.
    #[must_use]
    pub fn kind(self) -> Self {
        self.with(Enabled::Nothing)
    }

    /// The same, with so much of CONDSTORE and QRESYNC.
    #[must_use]
    pub fn with(self, enabled: Enabled) -> Self {
        Self { enabled, ..self }
    }

    /// The state of a connection on which just this is switched on.
    #[must_use]
    pub fn sticky(self) -> Sticky {
        let words = [(self.enabled == Enabled::Qresync, QRESYNC), (self.utf8, UTF8), (self.rev2, REV2)];
        let enabled = words.iter().filter(|(on, _)| *on).map(|(_, word)| word.to_vec());
        Sticky { condstore: self.enabled.has_modseqs(), enabled: enabled.collect() }
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

/// What a client knows of a mailbox that it selects (RFC 7162 section 3.2.5). The match data, by which it may say
/// more, are left out: they only shorten the answer.
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
            EnableSet::of(&Sticky { condstore, enabled })
        };
        let level = |enabled: Enabled| Some(EnableSet { enabled, ..EnableSet::default() });
        assert_eq!(of(false, &[]), level(Enabled::Nothing));
        assert_eq!(of(true, &[]), level(Enabled::Condstore));
        assert_eq!(of(true, &["QRESYNC"]), level(Enabled::Qresync));
        let all = EnableSet { enabled: Enabled::Qresync, utf8: true, rev2: true };
        assert_eq!(of(true, &["QRESYNC", "UTF8=ACCEPT", "IMAP4REV2"]), Some(all));
        assert_eq!(of(false, &["X-OTHER"]), None);
        for enabled in [Enabled::Nothing, Enabled::Condstore, Enabled::Qresync] {
            for (utf8, rev2) in [(false, false), (true, false), (false, true)] {
                let set = EnableSet { enabled, utf8, rev2 };
                assert_eq!(EnableSet::of(&set.sticky()), Some(set));
            }
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
