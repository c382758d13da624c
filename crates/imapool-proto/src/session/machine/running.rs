//! The command that runs on the backend: what its client still has to say of it, and what the backend says.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{Action, End, Machine, Op, State};
use crate::imap::command::{Command, Name};
use crate::imap::frame::{FrameError, Line, Literal};
use crate::imap::request::Request;

/// Which part of a running command the client still has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// None; the reply is awaited.
    Nothing,
    /// A literal, when the backend wants it.
    LiteralHeld { sync: bool },
    /// A literal, now. `answered`: the reply came already, but the backend still takes the rest.
    Literal { answered: bool },
    /// `DONE`, when IDLE was accepted.
    DoneHeld,
    /// `DONE`, now.
    Done,
    /// IDLE was ended by something else than `DONE`: its reply becomes a BAD.
    NotDone,
    /// A line, asked for by an unknown command's continuation.
    Line,
}

impl Awaited {
    /// Whether what the client sends now belongs to the running command.
    pub(super) fn takes_input(self) -> bool {
        matches!(self, Self::Literal { .. } | Self::Done | Self::Line)
    }
}

impl Machine {
    pub(super) fn run(&mut self, command: Command, streams: Option<Literal>, part: Awaited) {
        self.op = Op::Running { tag: command.tag.clone(), name: command.name, part };
        self.actions.push_back(Action::Run(Request::new(command, streams)));
    }

    /// A line of the client while its command runs.
    pub(super) fn running_line(&mut self, tag: Bytes, name: Name, part: Awaited, line: Line) {
        let part = match part {
            Awaited::Literal { answered } => {
                self.actions.push_back(Action::SendSegment(line.text, line.literal));
                match (line.literal, answered) {
                    (Some(literal), false) => Awaited::LiteralHeld { sync: literal.sync },
                    (Some(literal), true) => return self.skip_literal(literal),
                    (None, true) => return,
                    (None, false) => Awaited::Nothing,
                }
            }
            Awaited::Done => {
                self.actions.push_back(Action::Send(Bytes::from_static(b"DONE\r\n")));
                if line.literal.is_some_and(|literal| literal.sync) {
                    self.decoder.cancel_literal();
                }
                if line.literal.is_none() && line.text.eq_ignore_ascii_case(b"DONE") {
                    Awaited::Nothing
                } else {
                    Awaited::NotDone
                }
            }
            // Whether the backend would take it for a literal depends on a command that is not known.
            _ if line.literal.is_some() => {
                self.op = Op::Running { tag, name, part };
                return self.unframed(FrameError::LiteralPlace);
            }
            _ => {
                let mut octets = BytesMut::from(&line.text[..]);
                octets.put_slice(b"\r\n");
                self.actions.push_back(Action::Send(octets.freeze()));
                Awaited::Nothing
            }
        };
        self.op = Op::Running { tag, name, part };
    }

    /// The backend asks for more of the running command; `line` is its whole line.
    pub fn handle_continue(&mut self, line: Bytes) {
        let Op::Running { name, part, .. } = &mut self.op else { return };
        match *part {
            Awaited::LiteralHeld { sync } => {
                *part = Awaited::Literal { answered: false };
                if sync {
                    self.actions.push_back(Action::Write(line));
                }
            }
            Awaited::DoneHeld => {
                *part = Awaited::Done;
                self.actions.push_back(Action::Write(line));
                if let Some(reason) = self.draining {
                    self.handle_drain(reason);
                }
            }
            Awaited::Nothing if *name == Name::Other => {
                *part = Awaited::Line;
                self.actions.push_back(Action::Write(line));
            }
            _ => {}
        }
    }

    /// Part of the running command's tagged reply, which is too long to be had whole: from the space after the tag
    /// on. Of what was given so, [`Machine::handle_done`] has nothing.
    pub fn handle_tagged(&mut self, octets: Bytes) {
        let Op::Running { tag, .. } = &self.op else { return };
        if !std::mem::replace(&mut self.half_answered, true) {
            self.actions.push_back(Action::Write(tag.clone()));
        }
        self.actions.push_back(Action::Write(octets));
    }

    /// The running command's tagged reply came: ` OK …` with its line end. `selected`: whether a mailbox is selected
    /// from now on. What the client gets is queued; [`Machine::poll`] goes on.
    pub fn handle_done(&mut self, rest: &[u8], selected: bool) {
        let Op::Running { tag, part, .. } = &mut self.op else { return };
        let mut line = BytesMut::with_capacity(tag.len() + rest.len());
        if !std::mem::take(&mut self.half_answered) {
            line.put_slice(tag);
            line.put_slice(if *part == Awaited::NotDone { b" BAD Expected DONE.\r\n" } else { rest });
        }
        self.state = if selected { State::Selected } else { State::Authenticated };
        self.errors = 0;
        match part {
            Awaited::Literal { answered } if !self.decoder.at_command_start() => *answered = true,
            Awaited::LiteralHeld { sync: false } => self.op = Op::Discarding,
            Awaited::LiteralHeld { sync: true } => {
                self.decoder.cancel_literal();
                self.op = Op::Ready;
            }
            _ if self.decoder.at_command_start() => self.op = Op::Ready,
            _ => self.op = Op::Discarding,
        }
        self.actions.push_back(Action::Write(line.freeze()));
    }

    /// The running command cannot be run, or its outcome will never be known: `reply` is the tagged reply's text. When
    /// a mailbox was selected, the session ends.
    pub fn handle_lost(&mut self, reply: &str) {
        // A line that the client was asked for would be taken for a command.
        let lost = self.is_selected() || matches!(self.op, Op::Running { part: Awaited::Line, .. });
        self.answer_lost(reply);
        if lost {
            self.bye("[UNAVAILABLE] Connection to the mail server lost", End::UpstreamLost);
        }
    }

    /// The running command, if there is one, will not be answered otherwise.
    pub(super) fn answer_lost(&mut self, reply: &str) {
        if matches!(self.op, Op::Running { .. }) {
            self.handle_done(format!(" {reply}\r\n").as_bytes(), false);
        }
        if let Op::Running { .. } = self.op {
            self.op = Op::Discarding;
        }
    }
}
