//! What the server said of a selected mailbox, and how much of it each session has been told.
//!
//! The server speaks to one connection; the sessions that share it hear of an EXPUNGE only where the RFC lets them
//! (RFC 3501 section 7.4.1, RFC 9051 section 7.5.1), and of the rest when they run a command or idle. So news are
//! appended to a log, and each session has a place in it. What lies before it, the session has been told, but for
//! EXPUNGEs that were withheld: while a session only runs FETCH, STORE and SEARCH by number, it hears of new messages
//! and flags, and keeps its numbers.
//!
//! What a session is told is the sum of its lag, not a recording: a message's flags once, as they are now; of
//! messages that came and went meanwhile nothing. The view that a client builds from it is the server's.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut as _, Bytes, BytesMut};
use foldhash::HashMap;

use crate::imap::numbering::Numbering;
use crate::imap::ranges::Ranges;

/// Events kept for sessions that lag. Who lags more has the flags it missed fetched anew ([`Log::take_stale`]).
const MAX_EVENTS: usize = 4096;

/// Octets of FETCH items and lines kept for sessions that lag.
const MAX_OCTETS: usize = 256 * 1024;

/// Lines of news about the mailbox as a whole kept for a session that lags further.
const MAX_TEXTS: usize = 8;

/// Names a session, of those that share the mailbox, for as long as they do.
pub type MemberId = u64;

/// How much of its lag a session may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Everything: a command runs that is not FETCH, STORE or SEARCH by number, or the session idles.
    All,
    /// Everything but EXPUNGE: the session's numbers stay what they are.
    KeepNumbers,
}

/// One thing to tell a session, in its own numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// `* n EXPUNGE` (RFC 9051 section 7.5.1) for each of these messages, the last first, so that none shifts the next.
    Expunge(Ranges),
    /// The same, where the UIDs were given: EXPUNGE, or `* VANISHED uids` (RFC 7162 section 3.2.10.2).
    Vanished {
        /// Those that are gone.
        uids: Ranges,
        /// What their numbers were before.
        numbers: Ranges,
    },
    /// `* n EXISTS` (RFC 9051 section 7.4.1)
    Exists(u32),
    /// `* n RECENT` (RFC 3501 section 7.3.2)
    Recent(u32),
    /// `* n FETCH items` (RFC 9051 section 7.5.2)
    Fetch(u32, Bytes),
    /// A whole line, as it came.
    Text(Bytes),
}

impl News {
    /// Appends the reply's line; of [`News::Expunge`] all lines.
    pub fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Expunge(gone) => write_expunged(gone, out),
            Self::Vanished { uids, .. } => out.put_slice(format!("* VANISHED {uids}\r\n").as_bytes()),
            Self::Exists(n) => out.put_slice(format!("* {n} EXISTS\r\n").as_bytes()),
            Self::Recent(n) => out.put_slice(format!("* {n} RECENT\r\n").as_bytes()),
            Self::Fetch(n, items) => {
                out.put_slice(format!("* {n} FETCH ").as_bytes());
                out.put_slice(items);
                out.put_slice(b"\r\n");
            }
            Self::Text(line) => out.put_slice(line),
        }
    }
}

/// `* n EXPUNGE` for each, the last first.
pub fn write_expunged(gone: &Ranges, out: &mut BytesMut) {
    for number in gone.spans().rev().flat_map(Iterator::rev) {
        out.put_slice(b"* ");
        out.put_slice(itoa::Buffer::new().format(number).as_bytes());
        out.put_slice(b" EXPUNGE\r\n");
    }
}

/// The server said what cannot be. Nothing was logged; numbers can no longer be relied on, nor can the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Of a message whose number is 0 or above what EXISTS said.
    #[error("news of message {0}, of {1}")]
    NoSuchMessage(u32, u32),
    /// EXISTS says less than before, without EXPUNGE (RFC 9051 section 5.2).
    #[error("{1} messages where there were {0}")]
    Shrunk(u32, u32),
}

/// With the server's numbers at that moment.
#[derive(Debug, Clone)]
enum Event {
    /// All at once. As many UIDs, in the same order, or none.
    Gone {
        numbers: Ranges,
        uids: Ranges,
    },
    Fetch(u32, Bytes),
    Text(Bytes),
}

/// Where a session stands. Its numbers are those it uses itself.
#[derive(Debug, Clone, Default)]
struct Knowledge {
    /// Events before it are known to the session, or are in what follows.
    position: u64,
    /// Messages the session counts.
    told: u32,
    recent: u32,
    /// Gone, and not told. None above `told`.
    withheld: Ranges,
    /// The UIDs of `withheld`, where the server tells UIDs.
    vanished: Ranges,
    /// Messages whose flags it missed. None above `told`, and none of `withheld`.
    stale: Ranges,
    /// The last lines of news about the mailbox as a whole.
    texts: Vec<Bytes>,
}

/// See the module. A clone goes on from the same past, with the same sessions.
#[derive(Debug, Clone)]
pub struct Log {
    exists: u32,
    recent: u32,
    /// The number of the first of `events`.
    first: u64,
    events: VecDeque<Event>,
    octets: usize,
    /// Behind the last event that changed numbers.
    moved: u64,
    places: HashMap<MemberId, Box<Knowledge>>,
    max_events: usize,
}

impl Default for Log {
    fn default() -> Self {
        Self::new(0, 0)
    }
}

impl Log {
    /// Of a mailbox that was just selected, with what SELECT said of its size.
    #[must_use]
    pub fn new(exists: u32, recent: u32) -> Self {
        Self {
            exists,
            recent,
            first: 0,
            events: VecDeque::new(),
            octets: 0,
            moved: 0,
            places: HashMap::default(),
            max_events: MAX_EVENTS,
        }
    }

    /// How many messages the server counts.
    pub fn exists(&self) -> u32 {
        self.exists
    }

    /// How many messages the server calls recent: of those that there are.
    pub fn recent(&self) -> u32 {
        self.recent.min(self.exists)
    }

    /// A session that is told the mailbox's size, as it is now, by the reply to its SELECT.
    pub fn join(&mut self, id: MemberId) {
        let (position, told, recent) = (self.head(), self.exists, self.recent());
        let place = Knowledge { position, told, recent, ..Knowledge::default() };
        self.places.insert(id, Box::new(place));
    }

    /// The session is no longer interested, if it was.
    pub fn leave(&mut self, id: MemberId) {
        if let Some(place) = self.places.remove(&id) {
            self.forget(place.position);
        }
    }

    /// Whether the session has joined, and not left.
    pub fn has(&self, id: MemberId) -> bool {
        self.places.contains_key(&id)
    }

    /// No session has.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// `* n EXISTS`
    ///
    /// # Errors
    /// [`LogError::Shrunk`]
    pub fn handle_exists(&mut self, number: u32) -> Result<(), LogError> {
        if number < self.exists {
            return Err(LogError::Shrunk(self.exists, number));
        }
        self.exists = number;
        Ok(())
    }

    /// `* n RECENT`
    pub fn handle_recent(&mut self, number: u32) {
        self.recent = number;
    }

    /// These messages are gone, all at once. `uids`: as many, in the same order, where they are known; else
    /// none. `VANISHED (EARLIER)` is no news: it repeats what is known,
    /// for the one that asked.
    ///
    /// # Errors
    /// [`LogError::NoSuchMessage`]
    pub fn handle_gone(&mut self, numbers: Ranges, uids: Ranges) -> Result<(), LogError> {
        debug_assert!(uids.is_empty() || uids.len() == numbers.len());
        let Some(last) = numbers.last() else { return Err(LogError::NoSuchMessage(0, self.exists)) };
        self.check(last)?;
        self.exists -= numbers.len();
        self.push(Event::Gone { numbers, uids }, None);
        self.moved = self.head();
        Ok(())
    }

    /// The flags of a message, or what else became known of it: `(FLAGS (\Seen) UID 5)`, with all of its flags, since
    /// only the last word on a message is kept. `heard`: the session that got it as the reply to its own command.
    ///
    /// # Errors
    /// [`LogError::NoSuchMessage`]
    pub fn handle_fetch(&mut self, number: u32, items: Bytes, heard: Option<MemberId>) -> Result<(), LogError> {
        self.check(number)?;
        self.push(Event::Fetch(number, items), heard);
        Ok(())
    }

    /// A line that concerns the mailbox as a whole, with line end: `* FLAGS (…)`, `* OK [PERMANENTFLAGS …] …`. It comes
    /// before all other news, and of those that lag far, only the last few. `heard`: as in [`Log::handle_fetch`].
    pub fn handle_text(&mut self, line: Bytes, heard: Option<MemberId>) {
        self.push(Event::Text(line), heard);
    }

    fn check(&self, number: u32) -> Result<(), LogError> {
        if (1..=self.exists).contains(&number) { Ok(()) } else { Err(LogError::NoSuchMessage(number, self.exists)) }
    }

    /// How the session numbers messages now.
    #[must_use]
    pub fn numbering(&self, id: MemberId) -> Numbering {
        match self.places.get(&id) {
            Some(place) => Numbering::new(self.gone(place).into_owned(), place.told, self.exists),
            None => Numbering::new(Ranges::new(), self.exists, self.exists),
        }
    }

    /// The session's number for the server's, as [`Numbering::back`]: O(log runs) for one that was told all but
    /// EXPUNGE.
    #[must_use]
    pub fn back(&self, id: MemberId, number: u32) -> Option<u32> {
        let place = self.places.get(&id)?;
        (1..=self.exists).contains(&number).then_some(())?;
        self.gone(place).nth_absent(number).filter(|own| *own <= place.told)
    }

    fn gone<'a>(&'a self, place: &'a Knowledge) -> Cow<'a, Ranges> {
        if place.position >= self.moved {
            return Cow::Borrowed(&place.withheld);
        }
        let mut place = place.clone();
        self.advance(&mut place, self.head());
        Cow::Owned(place.withheld)
    }

    /// The UIDs of the messages that are gone and not told, as far as all else was told ([`Log::replay`]). `None`: not
    /// all are known.
    #[must_use]
    pub fn vanished(&self, id: MemberId) -> Option<&Ranges> {
        self.place_with_uids(id).map(|place| &place.vanished)
    }

    fn place_with_uids(&self, id: MemberId) -> Option<&Knowledge> {
        self.places.get(&id).map(|place| &**place).filter(|place| place.vanished.len() == place.withheld.len())
    }

    /// The session's own numbers of those of them that have these UIDs.
    #[must_use]
    pub fn numbers_of_vanished(&self, id: MemberId, uids: &Ranges) -> Ranges {
        let place = self.place_with_uids(id);
        place.map_or_else(Ranges::new, |it| members_at(&it.withheld, &places_of(&it.vanished, uids)))
    }

    /// Of those messages, by the session's own numbers, which are gone and not told: number and UID. None where not
    /// all their UIDs are known, nor before all else was told.
    #[must_use]
    pub fn departed(&self, id: MemberId, numbers: &Ranges) -> BTreeMap<u32, u32> {
        let Some(place) = self.place_with_uids(id) else { return BTreeMap::new() };
        let uid = |own| Some((own, place.vanished.nth(place.withheld.rank(own) + 1)?));
        place.withheld.intersection(numbers).iter().take(MAX_EVENTS).filter_map(uid).collect()
    }

    /// Events kept for sessions that were not told of them.
    pub fn kept(&self) -> usize {
        self.events.len()
    }

    /// Whether [`Log::replay`] of all, or [`Log::take_stale`], would tell the session anything.
    pub fn has_news(&self, id: MemberId) -> bool {
        self.places.get(&id).is_some_and(|place| {
            self.head() > place.position
                || !place.withheld.is_empty()
                || !place.stale.is_empty()
                || self.size(place) != place.told
                || self.recent() != place.recent
        })
    }

    /// How many messages the session counts once it knows of the new ones. (No session counts more than numbers go.)
    fn size(&self, place: &Knowledge) -> u32 {
        self.exists.saturating_add(place.withheld.len())
    }

    /// Whether [`Log::take_stale`] would give anything.
    pub fn is_stale(&self, id: MemberId) -> bool {
        self.places.get(&id).is_some_and(|place| !place.stale.is_empty())
    }

    /// EXPUNGEs before its place are owed to the session.
    #[must_use]
    pub fn withholds(&self, id: MemberId) -> bool {
        self.places.get(&id).is_some_and(|place| !place.withheld.is_empty())
    }

    /// What to tell the session now, in this order; it counts as told. Its numbers are those it uses when it hears
    /// each.
    pub fn replay(&mut self, id: MemberId, replay: Replay) -> Vec<News> {
        let Some(mut place) = self.places.remove(&id) else { return Vec::new() };
        let before = place.position;
        let fetched = self.advance(&mut place, self.head());
        let mut news: Vec<News> = std::mem::take(&mut place.texts).into_iter().map(News::Text).collect();
        // Of those that it never knew, it is told nothing.
        let unknown = place.withheld.split_above(place.told);
        for number in fetched.keys() {
            place.stale.remove(*number);
        }
        place.stale.remove_all(&place.withheld);
        let left: Vec<(u32, &Bytes)> = fetched
            .into_iter()
            .filter(|(number, _)| !place.withheld.contains(*number) && !unknown.contains(*number))
            .map(|(number, items)| {
                // Each counts what is told to be gone before it as gone, and what the session never knew.
                let told_gone = if replay == Replay::All { place.withheld.rank(number) } else { 0 };
                (number - told_gone - unknown.rank(number), items)
            })
            .collect();
        if replay == Replay::All {
            place.tell_expunged(&mut news);
        }
        let size = self.size(&place);
        if size != place.told {
            news.push(News::Exists(size));
            place.told = size;
        }
        if self.recent() != place.recent {
            place.recent = self.recent();
            news.push(News::Recent(place.recent));
        }
        // A number that is larger than numbers go is of a message that it does not know.
        news.extend(
            left.into_iter().filter(|(number, _)| *number <= size).map(|(n, items)| News::Fetch(n, items.clone())),
        );
        self.places.insert(id, place);
        self.forget(before);
        news
    }

    /// Messages whose flags changed while the session lagged too far for it to be known how: at most so many, each by
    /// the session's number and by the server's. Tell it their flags as they are now. Nothing is given before all
    /// else was told ([`Log::replay`]).
    pub fn take_stale(&mut self, id: MemberId, at_most: u32) -> Vec<(u32, u32)> {
        let head = self.head();
        let Some(place) = self.places.get_mut(&id).filter(|place| place.position == head) else {
            return Vec::new();
        };
        let few = place.stale.first_few(at_most);
        if let Some(last) = few.last() {
            place.stale.remove_range(1..=last);
        }
        few.iter().map(|own| (own, own - place.withheld.rank(own))).collect()
    }

    /// The number of the next event.
    fn head(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// `heard`: the session that knows it. One that lags hears it again, in its turn.
    fn push(&mut self, event: Event, heard: Option<MemberId>) {
        if self.places.is_empty() {
            return;
        }
        let head = self.head();
        self.octets += event.octets();
        self.events.push_back(event);
        if self.events.len() > self.max_events || self.octets > MAX_OCTETS {
            self.make_room();
        }
        if let Some(place) = heard.and_then(|id| self.places.get_mut(&id)).filter(|place| place.position == head) {
            place.position += 1;
            self.forget(head);
        }
    }

    /// Moves a place on to before event `to`, and takes up what happened on the way. Messages that the session does
    /// not know are numbered behind those that it does: so there may be some above `told` in `withheld` then. Gives the
    /// last FETCH of each.
    fn advance(&self, place: &mut Knowledge, to: u64) -> BTreeMap<u32, &Bytes> {
        let mut fetched = BTreeMap::new();
        // `position` is between `first` and `head`: events are forgotten only behind all places.
        for event in self.events.range((place.position - self.first) as usize..(to - self.first) as usize) {
            match event {
                Event::Gone { numbers, uids } => place.lose(numbers, uids),
                Event::Fetch(number, items) => {
                    // `None`: its number is larger than numbers go.
                    fetched.extend(place.withheld.nth_absent(*number).map(|own| (own, items)));
                }
                Event::Text(line) => place.texts.push(line.clone()),
            }
        }
        place.position = to;
        fetched
    }

    /// Forgets what every session has passed, when one that stood at `position` has moved on.
    fn forget(&mut self, position: u64) {
        if position > self.first || self.events.is_empty() {
            return;
        }
        let slowest = self.places.values().map(|place| place.position).min().unwrap_or(self.head());
        for event in self.events.drain(..(slowest - self.first) as usize) {
            self.octets -= event.octets();
        }
        self.first = slowest;
    }

    /// Moves the slowest places on to the middle of the log, and keeps for each which messages are gone, and of
    /// which the flags are no longer known: sets, whose size depends on the mailbox alone.
    fn make_room(&mut self) {
        let middle = self.first + (self.events.len() as u64).div_ceil(2);
        let mut places = std::mem::take(&mut self.places);
        for place in places.values_mut().filter(|place| place.position < middle) {
            let fetched = self.advance(place, middle);
            place.stale.extend(fetched.into_keys().take_while(|number| *number <= place.told));
            drop(place.withheld.split_above(place.told));
            place.stale.remove_all(&place.withheld);
            place.texts.drain(..place.texts.len().saturating_sub(MAX_TEXTS));
        }
        self.places = places;
        self.forget(self.first);
    }
}

/// The members of a set at these places in it, counted from 1, as far as there are as many.
pub(super) fn members_at(set: &Ranges, places: &Ranges) -> Ranges {
    let mut members = Ranges::new();
    for span in places.spans() {
        let last = (*span.end()).min(set.len());
        let (Some(first), Some(last)) = (set.nth(*span.start()), set.nth(last)) else { break };
        set.within(first..=last).for_each(|run| members.insert_range(run));
    }
    members
}

/// The places of these in a set, as far as they are members.
pub(super) fn places_of(set: &Ranges, members: &Ranges) -> Ranges {
    let there = set.intersection(members);
    Ranges::from_runs(there.spans().map(|span| (set.upto(*span.start()), set.upto(*span.end()))).collect())
}

impl Knowledge {
    /// These messages are gone, by the server's numbers.
    fn lose(&mut self, numbers: &Ranges, uids: &Ranges) {
        if !uids.is_empty() {
            let known = self.told - self.withheld.upto(self.told);
            self.vanished.insert_all(&uids.first_few(numbers.upto(known)));
        }
        // The last first, which does not change the numbers of those before. Between two of the server's numbers that
        // follow each other there are only messages that are gone already. One whose number is larger than numbers
        // go, no session knows.
        for span in numbers.spans().rev() {
            if let Some(first) = self.withheld.nth_absent(*span.start()) {
                self.withheld.insert_range(first..=self.withheld.nth_absent(*span.end()).unwrap_or(u32::MAX));
            }
        }
    }

    /// Tells all that was withheld.
    fn tell_expunged(&mut self, news: &mut Vec<News>) {
        let (gone, vanished) = (std::mem::take(&mut self.withheld), std::mem::take(&mut self.vanished));
        if gone.is_empty() {
            return;
        }
        self.stale = Numbering::new(gone.clone(), self.told, self.told).forward_set(&self.stale);
        self.told -= gone.len();
        news.push(match vanished.len() == gone.len() {
            true => News::Vanished { uids: vanished, numbers: gone },
            false => News::Expunge(gone),
        });
    }
}

impl Event {
    fn octets(&self) -> usize {
        match self {
            Self::Gone { numbers, uids } => numbers.octets() + uids.octets(),
            Self::Fetch(_, text) | Self::Text(text) => text.len(),
        }
    }
}

#[cfg(test)]
#[path = "log_properties.rs"]
mod properties;
