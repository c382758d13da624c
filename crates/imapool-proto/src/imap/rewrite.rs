//! Message numbers in commands: found wherever they may stand, and exchanged for the server's.
//!
//! FETCH, STORE, COPY, MOVE, REPLACE have one set, as their first argument. SEARCH, SORT and THREAD have them as keys
//! anywhere in their program, so every key has to be known by its arguments: an unknown one could have an argument
//! that looks like a set, and a `SUBJECT` certainly can. The arguments of UID commands are UIDs, which are
//! everybody's; but a `UID SEARCH` may have keys that are message numbers.

use std::ops::{Range, RangeInclusive};

use bytes::Bytes;

use super::command::{Command, Name, Segment};
use super::numbering::Numbering;
use super::program::{Program, Token, Unknown, Where};
use super::ranges::Ranges;
use super::sequence::{Element, Number, SetError, elements};

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
    match command.name {
        Name::Fetch | Name::Store | Name::Copy | Name::Move | Name::Replace | Name::Expunge => {
            if let Some(set) = first_word(command) {
                note_set(&mut uses, set, is_uid(command));
            }
        }
        Name::Search | Name::Sort | Name::Thread => {
            for token in Program::new(command) {
                match token {
                    Ok(Token::Set(place)) => note_set(&mut uses, place.text(command), false),
                    Ok(Token::Uids(place)) => note_set(&mut uses, place.text(command), true),
                    Ok(Token::Return(option)) => {
                        uses.saves_result |= option.eq_ignore_ascii_case(b"SAVE");
                        uses.context |=
                            option.eq_ignore_ascii_case(b"UPDATE") || option.eq_ignore_ascii_case(b"CONTEXT");
                    }
                    Ok(Token::Saved) => uses.saved_result = true,
                    Ok(Token::Keys(_) | Token::Recent(_)) | Err(_) => {}
                }
            }
        }
        _ => {}
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
    match command.name {
        Name::Fetch | Name::Store | Name::Copy | Name::Move | Name::Replace if !is_uid(command) => {
            rewrite_argument(command, numbering)
        }
        Name::Search | Name::Sort | Name::Thread => rewrite_program(command, numbering),
        Name::Other => Outcome::Unmappable,
        _ => Outcome::Unchanged,
    }
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
    let edits = Program::new(command).filter_map(|token| match token {
        Ok(Token::Recent(place)) => {
            let key = String::from_utf8_lossy(place.text(command)).into_owned();
            let text = if key.eq_ignore_ascii_case("OLD") {
                format!("(OR {key} UID {set})")
            } else {
                format!("({key} NOT UID {set})")
            };
            Some(place.edit(text.into_bytes()))
        }
        _ => None,
    });
    let edits: Vec<Edit> = edits.take(MAX_RECENT_KEYS).collect();
    (!edits.is_empty()).then(|| apply(command, edits))
}

/// The set of a command whose first argument it is.
fn rewrite_argument(command: &Command, numbering: &Numbering) -> Outcome {
    let Some(set) = first_word(command) else { return Outcome::Malformed };
    let mapped = match Mapped::new(set, numbering) {
        Ok(mapped) => mapped,
        Err(SetError::Malformed) => return Outcome::Malformed,
        Err(SetError::SavedResult) => return Outcome::Unmappable,
    };
    if mapped.text.is_empty() {
        return Outcome::AllGone;
    }
    // Behind the command's name and a space: see `first_word`.
    let start = command.segments[0].text.iter().take_while(|b| **b != b' ').count() + 1;
    let edit = Edit { segment: 0, range: start..start + set.len(), text: mapped.text };
    Outcome::Rewritten { command: apply(command, vec![edit]), missing: mapped.missing }
}

/// The keys of a search.
fn rewrite_program(command: &Command, numbering: &Numbering) -> Outcome {
    let mut edits = Vec::new();
    for token in Program::new(command) {
        match token {
            Ok(Token::Keys(place)) => edits.extend(restrict(command, place, numbering)),
            Ok(Token::Set(place)) => match Mapped::new(place.text(command), numbering) {
                Ok(mapped) => edits.push(place.edit(mapped.as_key())),
                Err(SetError::Malformed) => return Outcome::Malformed,
                Err(SetError::SavedResult) => return Outcome::Unmappable,
            },
            Ok(Token::Saved) => return Outcome::Unmappable,
            Ok(Token::Uids(_) | Token::Return(_) | Token::Recent(_)) => {}
            Err(Unknown::Key) => return Outcome::Unmappable,
            Err(Unknown::Malformed) => return Outcome::Malformed,
        }
    }
    if edits.is_empty() {
        return Outcome::Unchanged;
    }
    Outcome::Rewritten { command: apply(command, edits), missing: false }
}

/// A key before all others, for a session that does not know the newest messages: they shall not be counted among the
/// matches (RFC 4731 section 3.1: COUNT, MAX). In UID commands the session may be told of them first.
fn restrict(command: &Command, place: Where, numbering: &Numbering) -> Option<Edit> {
    let common = numbering.common();
    let key = match common {
        _ if common == numbering.exists() || is_uid(command) => return None,
        0 => "NOT ALL ".to_owned(),
        1 => "1 ".to_owned(),
        _ => format!("1:{common} "),
    };
    Some(place.edit(key.into_bytes()))
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
        let ends = [element.from, element.to];
        let (first, last) = element.resolve(known);
        let beyond = ends.iter().filter_map(|end| match end {
            Number::Value(n) if *n > known => Some(beyond(*n, numbering)),
            _ => None,
        });
        let beyond = beyond.max();
        if let (Some(number), true) =
            (beyond, element.has_star() && numbering.forward(known) == Some(numbering.exists()))
        {
            // `9:*` in a mailbox of seven: whatever the server makes of it. Its last message is the session's.
            return self.push(&format!("{number}:*"));
        }
        // With no message at all, `*` is a number that none has.
        let star = known == 0 && element.has_star();
        self.missing |= numbering.gone_in(first.max(1)..=last) > 0;
        match numbering.forward_range(first..=last).map(RangeInclusive::into_inner) {
            Some((first, last)) if first == last => self.push(&first.to_string()),
            Some((first, last)) => self.push(&format!("{first}:{last}")),
            None => {}
        }
        match beyond {
            Some(number) => self.push(&number.to_string()),
            None if star => self.push(&self::beyond(1, numbering).to_string()),
            None => {}
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

/// Text to exchange.
#[derive(Debug)]
pub(super) struct Edit {
    pub(super) segment: usize,
    pub(super) range: Range<usize>,
    pub(super) text: Vec<u8>,
}

/// The command with all edits made, which are in its order.
fn apply(command: &Command, edits: Vec<Edit>) -> Command {
    let mut segments: Vec<Segment> = command.segments.clone();
    let mut edits = edits.into_iter().peekable();
    for (at, segment) in segments.iter_mut().enumerate() {
        if edits.peek().is_none_or(|edit| edit.segment != at) {
            continue;
        }
        let mut text = Vec::with_capacity(segment.text.len() + 16);
        let mut copied = 0;
        while let Some(edit) = edits.next_if(|edit| edit.segment == at) {
            text.extend_from_slice(&segment.text[copied..edit.range.start]);
            text.extend_from_slice(&edit.text);
            copied = edit.range.end;
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

/// The first argument, up to a space or the end of the text before a literal.
fn first_word(command: &Command) -> Option<&[u8]> {
    command.arguments().word()
}

#[cfg(test)]
#[path = "rewrite_tests.rs"]
pub(super) mod tests;
