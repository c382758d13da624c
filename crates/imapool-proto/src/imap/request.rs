//! A command on its way to a backend, and what everyone on that way has to know of it: read off its text once.

use bytes::Bytes;

use super::command::{Command, Name, Segment};
use super::frame::Literal;
use super::modseqs::{Modseqs, modseqs};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The command; the last segment of a streaming one has no literal octets yet.
    pub command: Command,
    /// A literal of this size follows the last segment and will be streamed.
    pub streams: Option<Literal>,
    selects: Option<Bytes>,
    modseqs: Modseqs,
}

impl Request {
    /// With `streams`, a literal follows the last segment later.
    #[must_use]
    pub fn new(command: Command, streams: Option<Literal>) -> Box<Self> {
        Box::new(Self { streams, selects: command.selected_mailbox(), modseqs: modseqs(&command), command })
    }

    /// A command of imapool's own, which has no tag.
    #[must_use]
    pub fn own(name: Name, text: impl Into<Bytes>) -> Box<Self> {
        let segments = vec![Segment { text: text.into(), literal: None }];
        Self::new(Command { tag: Bytes::new(), name, segments }, None)
    }

    /// In other words that mean the same: message numbers, say, of another numbering.
    #[must_use]
    pub fn in_words(&self, command: Command) -> Box<Self> {
        Box::new(Self { command, streams: self.streams, selects: self.selects.clone(), modseqs: self.modseqs })
    }

    /// The mailbox that it selects ([`Command::selected_mailbox`]).
    pub fn selects(&self) -> Option<&Bytes> {
        self.selects.as_ref()
    }

    /// What it says of mod-sequences.
    pub fn modseqs(&self) -> Modseqs {
        self.modseqs
    }
}
