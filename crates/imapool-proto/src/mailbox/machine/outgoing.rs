//! What a member is still to be told. What is long is written only when its turn comes, piece by piece: so it takes
//! no memory before, and the hub can do something else between two pieces.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::Told;
use crate::imap::ranges::Ranges;
use crate::mailbox::log::{News, write_expunged};

/// Small pieces are joined up to this size, in octets.
const JOIN: usize = 4096;
/// Messages, or runs of UIDs, in one piece.
const PIECE: u32 = 1024;
/// Pieces that wait for one who is told an alert.
const MAX_WAITING: usize = 64;

#[derive(Debug)]
enum Pending {
    Told(Told),
    Long(Form, Ranges),
}

/// What is long.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// `* n EXPUNGE` for each of these, the last first.
    Expunged,
    /// `* VANISHED` for these, in as many lines as it takes.
    Vanished,
    /// These numbers, each behind a space.
    Numbers,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    queue: VecDeque<Pending>,
}

impl Outgoing {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn push_back(&mut self, told: Told) {
        self.queue.push_back(Pending::Told(told));
    }

    /// Before what it is told last.
    pub(super) fn push_before_last(&mut self, told: Told) {
        let last = self.queue.pop_back();
        self.queue.push_back(Pending::Told(told));
        self.queue.extend(last);
    }

    /// News, behind `text`, to which those that are short are appended.
    pub(super) fn push_news(&mut self, news: News, text: &mut BytesMut) {
        let pending = match news {
            News::Expunge(gone) if gone.len() > PIECE => Pending::Long(Form::Expunged, gone),
            News::Vanished { uids, .. } if uids.runs() > PIECE as usize => Pending::Long(Form::Vanished, uids),
            news => return news.write(text),
        };
        self.push_text(text);
        self.queue.push_back(pending);
    }

    /// `* SEARCH` with these.
    pub(super) fn push_search(&mut self, found: Ranges) {
        self.push_back(Told::Data(Bytes::from_static(b"* SEARCH")));
        if !found.is_empty() {
            self.queue.push_back(Pending::Long(Form::Numbers, found));
        }
        self.push_back(Told::Data(Bytes::from_static(b"\r\n")));
    }

    /// A line that it hears between others, unless it takes nothing any more.
    pub(super) fn push_alert(&mut self, line: &[u8]) {
        if self.queue.len() < MAX_WAITING {
            self.push_back(Told::Data(Bytes::copy_from_slice(line)));
        }
    }

    /// Leaves `text` empty.
    pub(super) fn push_text(&mut self, text: &mut BytesMut) {
        if !text.is_empty() {
            self.push_back(Told::Data(text.split().freeze()));
        }
    }

    /// The next piece.
    pub(super) fn pop_front(&mut self) -> Option<Told> {
        let mut told = self.next()?;
        while let Told::Data(data) = &told {
            match self.queue.front() {
                Some(Pending::Told(Told::Data(more))) if data.len() + more.len() <= JOIN => {
                    told = Told::Data([&data[..], more].concat().into());
                }
                Some(Pending::Told(Told::Done(more, rest, selected))) if more.is_empty() => {
                    told = Told::Done(data.clone(), rest.clone(), *selected);
                }
                _ => break,
            }
            self.queue.pop_front();
        }
        if self.queue.is_empty() {
            // It may be silent for hours.
            self.queue = VecDeque::new();
        }
        Some(told)
    }

    fn next(&mut self) -> Option<Told> {
        let (form, mut left) = match self.queue.pop_front()? {
            Pending::Told(told) => return Some(told),
            Pending::Long(form, left) => (form, left),
        };
        let few = match form {
            Form::Expunged => left.take_last(PIECE),
            Form::Numbers => left.first_few(PIECE),
            Form::Vanished => {
                Ranges::from_runs(left.spans().take(PIECE as usize).map(|span| span.into_inner()).collect())
            }
        };
        let mut text = BytesMut::new();
        match form {
            Form::Expunged => write_expunged(&few, &mut text),
            Form::Numbers => few.iter().for_each(|number| text.put_slice(format!(" {number}").as_bytes())),
            Form::Vanished => text.put_slice(format!("* VANISHED {few}\r\n").as_bytes()),
        }
        // The last ones are taken already.
        if !matches!(form, Form::Expunged) {
            left.remove_all(&few);
        }
        if !left.is_empty() {
            self.queue.push_front(Pending::Long(form, left));
        }
        Some(Told::Data(text.freeze()))
    }
}
