//! Message numbers in commands: found wherever they may stand, and exchanged for the server's.
//!
//! FETCH, STORE, COPY, MOVE, REPLACE have one set, as their first argument. SEARCH, SORT and THREAD have them as keys
//! anywhere in their program, so every key has to be known by its arguments: an unknown one could have an argument
//! that looks like a set, and a `SUBJECT` certainly can. The arguments of UID commands are UIDs, which are
//! everybody's; but a `UID SEARCH` may have keys that are message numbers.

use bytes::Bytes;

use super::command::{Command, Name, Segment};
use super::numbering::Numbering;
use super::program::{Program, Token, Unknown, Where};
use super::ranges::{Ranges, Run};
use super::sequence::{Element, SetError, elements};

/// Octets of a set of UIDs that are said not to be recent; in how many keys of a search.
const MAX_NOT_RECENT: usize = 4096;
const MAX_RECENT_KEYS: usize = 4;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Holds no message number that would be another for the server.
    Unchanged,
    /// With the server's numbers.
    Rewritten {
        /// Send this instead.
        command: Command,
        /// Some numbers were of messages that are gone; the rest is asked for. Never set for searches, in which such a
        /// message matches nothing.
        missing: bool,
    },
    /// All numbers are of messages that are gone: there is nothing to ask the server for.
    AllGone,
    /// No set where one has to be, or a search program without sense: `BAD`, as from the server.
    Malformed,
    /// Numbers may be in it that cannot be found. A session whose numbering is not the server's may not run it.
    Unmappable,
}

/// What of a command depends on the connection and the session that it is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uses {
    /// Message numbers.
    pub numbers: bool,
    /// `$`: the result of an earlier search (RFC 5182).
    pub saved_result: bool,
    /// `RETURN (SAVE)` (RFC 5182).
    pub saves_result: bool,
    /// `RETURN (UPDATE)` or `(CONTEXT)` (RFC 5267).
    pub context: bool,
}

/// What the command uses. A command that makes no sense uses nothing.
#[must_use]
pub fn uses(command: &Command) -> Uses {
    let mut uses = Uses::default();
    for token in Program::new(command).flatten() {
        match token {
            Token::Set(place) => note_set(&mut uses, place.text(command), false),
            Token::Uids(place) => note_set(&mut uses, place.text(command), true),
            Token::Return(option) => {
                uses.saves_result |= option.eq_ignore_ascii_case(b"SAVE");
                uses.context |= option.eq_ignore_ascii_case(b"UPDATE") || option.eq_ignore_ascii_case(b"CONTEXT");
            }
            Token::Saved => uses.saved_result = true,
            _ => {}
        }
    }
    uses
}

fn note_set(uses: &mut Uses, set: &[u8], uids: bool) {
    for element in elements(set) {
        match element {
            Ok(_) => uses.numbers |= !uids,
            Err(SetError::SavedResult) => uses.saved_result = true,
            Err(SetError::Malformed) => {}
        }
    }
}

/// Exchanges the session's message numbers for the server's. Call it before the session is told of what it did not
/// know when it sent the command: `*` is the last message that it knows. (Where [`Numbering::is_identity`], there is
/// no need to.)
///
/// Numbers that no message of the session has (RFC 9051 section 9: `seq-number` above EXISTS) become numbers that no
/// message of the server has, so that it is the server who complains, or does not.
#[must_use]
pub fn rewrite(command: &Command, numbering: &Numbering) -> Outcome {
    if numbering.is_identity() {
        return Outcome::Unchanged;
    }
    let searches = match command.name {
        Name::Search | Name::Sort | Name::Thread => true,
        Name::Fetch | Name::Store | Name::Copy | Name::Move | Name::Replace if !is_uid(command) => false,
        Name::Other => return Outcome::Unmappable,
        _ => return Outcome::Unchanged,
    };
    let (mut edits, mut missing) = (Vec::new(), false);
    for token in Program::new(command) {
        match token {
            Ok(Token::Keys(place)) => edits.extend(restrict(command, place, numbering)),
            Ok(Token::Set(place)) => match Mapped::new(place.text(command), numbering) {
                Ok(mapped) if mapped.text.is_empty() && !searches => return Outcome::AllGone,
                Ok(mapped) => {
                    missing |= mapped.missing && !searches;
                    edits.push((place, mapped.as_key()));
                }
                Err(SetError::Malformed) => return Outcome::Malformed,
                Err(SetError::SavedResult) => return Outcome::Unmappable,
            },
            Ok(Token::Saved) | Err(Unknown::Key) => return Outcome::Unmappable,
            Err(Unknown::Malformed) => return Outcome::Malformed,
            Ok(_) => {}
        }
    }
    if edits.is_empty() {
        return Outcome::Unchanged;
    }
    Outcome::Rewritten { command: apply(command, edits), missing }
}

/// A search for a session to which the messages with these UIDs are not recent (RFC 3501 section 2.3.2), although the
/// server says so. `None`: it does not matter, or is too much to say.
#[must_use]
pub fn not_recent(command: &Command, uids: &Ranges) -> Option<Command> {
    let set = uids.to_string();
    if set.is_empty() || set.len() > MAX_NOT_RECENT || !matches!(command.name, Name::Search | Name::Sort | Name::Thread)
    {
        return None;
    }
    let edits = Program::new(command).flatten().filter_map(|token| {
        let Token::Key(place, _) = token else { return None };
        let key = String::from_utf8_lossy(place.text(command)).into_owned();
        let text = match &key.to_ascii_uppercase()[..] {
            "OLD" => format!("(OR {key} UID {set})"),
            "RECENT" | "NEW" => format!("({key} NOT UID {set})"),
            _ => return None,
        };
        Some((place, text.into_bytes()))
    });
    let edits: Vec<_> = edits.take(MAX_RECENT_KEYS).collect();
    (!edits.is_empty()).then(|| apply(command, edits))
}

/// A key before all others, for a session that does not know the newest messages: they shall not be counted among the
/// matches (RFC 4731 section 3.1: COUNT, MAX). In UID commands the session may be told of them first.
fn restrict(command: &Command, place: Where, numbering: &Numbering) -> Option<(Where, Vec<u8>)> {
    let common = numbering.common();
    let key = match common {
        _ if common == numbering.exists() || is_uid(command) => return None,
        0 => "NOT ALL ".to_owned(),
        _ => format!("{} ", Run(1, common)),
    };
    Some((place, key.into_bytes()))
}

/// A set in the server's numbers.
struct Mapped {
    /// Empty: none of the messages is left.
    text: Vec<u8>,
    /// Some are gone.
    missing: bool,
}

impl Mapped {
    fn new(set: &[u8], numbering: &Numbering) -> Result<Self, SetError> {
        let mut mapped = Self { text: Vec::new(), missing: false };
        for element in elements(set) {
            mapped.add(element?, numbering);
        }
        Ok(mapped)
    }

    fn add(&mut self, element: Element, numbering: &Numbering) {
        let known = numbering.known();
        let (first, last) = element.resolve(known);
        let beyond_all = [element.from, element.to].into_iter().flatten().filter(|number| *number > known).max();
        let beyond_all = beyond_all.map(|number| beyond(number, numbering));
        if let (Some(number), true) =
            (beyond_all, element.has_star() && numbering.forward(known) == Some(numbering.exists()))
        {
            // `9:*` in a mailbox of seven: whatever the server makes of it. Its last message is the session's.
            return self.push(&format!("{number}:*"));
        }
        // With no message at all, `*` is a number that none has.
        let star = (known == 0 && element.has_star()).then(|| beyond(1, numbering));
        self.missing |= numbering.gone_in(first.max(1)..=last) > 0;
        if let Some(range) = numbering.forward_range(first..=last) {
            self.push(&Run(*range.start(), *range.end()).to_string());
        }
        if let Some(number) = beyond_all.or(star) {
            self.push(&number.to_string());
        }
    }

    fn push(&mut self, element: &str) {
        if !self.text.is_empty() {
            self.text.push(b',');
        }
        self.text.extend_from_slice(element.as_bytes());
    }

    /// As one search key; with none left it matches nothing, also under NOT and OR.
    fn as_key(&self) -> Vec<u8> {
        if self.text.is_empty() { b"NOT ALL".to_vec() } else { self.text.clone() }
    }
}

/// A number that no message of the server has, for one that no message of the session has: as far beyond its last.
fn beyond(n: u32, numbering: &Numbering) -> u32 {
    // Dovecot takes u32::MAX for `*`.
    numbering.exists().saturating_add(n.saturating_sub(numbering.known()).max(1)).min(u32::MAX - 1)
}

/// The command with all edits made, which are in its order.
fn apply(command: &Command, edits: Vec<(Where, Vec<u8>)>) -> Command {
    let mut segments: Vec<Segment> = command.segments.clone();
    let mut edits = edits.into_iter().peekable();
    for (at, segment) in segments.iter_mut().enumerate() {
        if edits.peek().is_none_or(|(place, _)| place.segment != at) {
            continue;
        }
        let mut text = Vec::with_capacity(segment.text.len() + 16);
        let mut copied = 0;
        while let Some((place, new)) = edits.next_if(|(place, _)| place.segment == at) {
            text.extend_from_slice(&segment.text[copied..place.range.start]);
            text.extend_from_slice(&new);
            copied = place.range.end;
        }
        text.extend_from_slice(&segment.text[copied..]);
        segment.text = Bytes::from(text);
    }
    Command { tag: command.tag.clone(), name: command.name, segments }
}

/// Whether it is a UID command.
#[must_use]
pub fn is_uid(command: &Command) -> bool {
    let text = &command.segments[0].text;
    text.len() > 4 && text[..4].eq_ignore_ascii_case(b"UID ")
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
pub(super) mod tests;
