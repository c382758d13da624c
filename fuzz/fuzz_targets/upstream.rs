//! An upstream connection: arbitrary commands, and arbitrary octets from the backend, cut anywhere. Nothing that a
//! backend says makes a connection look clean that is not, no octet is made up, and nothing is kept without a bound.

#![no_main]

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use imapool::imap::MAX_WHOLE_LINE;
use imapool::imap::capability::Capabilities;
use imapool::imap::command::{Command, Segment, parse_head};
use imapool::imap::frame::Literal;
use imapool::imap::request::Request;
use imapool::upstream::machine::{Event, Machine, Own};
use libfuzzer_sys::fuzz_target;

const COMMANDS: [&str; 16] = [
    "SELECT x",
    "SELECT",
    "EXAMINE INBOX (QRESYNC (1 2))",
    "FETCH 1:* (FLAGS MODSEQ)",
    "UID SEARCH RETURN (UPDATE) ALL",
    "CANCELUPDATE \"a\"",
    "IDLE",
    "APPEND x ",
    "RENAME ",
    "XYZZY ",
    "ENABLE CONDSTORE",
    "CLOSE",
    "UNSELECT",
    "NAMESPACE",
    "NOTIFY NONE",
    "LIST \"\" *",
];

struct Connection {
    machine: Machine,
    input: BytesMut,
    given: usize,
    passed: usize,
    /// A command of a session whose end has not come.
    running: bool,
    /// Part of its tagged reply has come.
    half_answered: bool,
    /// A literal may be given; `None`: must be waited for or is over.
    literal: Option<()>,
    streams: bool,
    attached: bool,
}

impl Connection {
    fn command(&mut self, which: u8) {
        let text = COMMANDS[usize::from(which) % 16];
        let line = format!("a {text}");
        let head = parse_head(line.as_bytes()).expect("a command");
        let mut segments = vec![Segment { text: Bytes::from_static(text.as_bytes()), literal: None }];
        let mut streams = None;
        if text.ends_with(' ') && which & 0x10 != 0 && head.name.carries_message() {
            streams = Some(Literal { len: 4, sync: which & 0x20 != 0, binary: which & 0x40 != 0 });
        } else if text.ends_with(' ') {
            segments[0].literal = Some((Bytes::from_static(b"\r\nb "), which & 0x40 != 0));
            segments.push(Segment { text: Bytes::from_static(b" {x"), literal: None });
        }
        self.streams = streams.is_some();
        self.running = true;
        let command = Command { tag: Bytes::from_static(b"a"), name: head.name, segments };
        self.machine.handle_command(Request::new(command, streams));
    }

    /// Something that is not the backend's doing.
    fn act(&mut self, which: u8) {
        match which & 7 {
            0..=3 if !self.running && self.attached && self.machine.is_clean() => self.command(which >> 3),
            4 if self.literal.take().is_some() => {
                self.machine.handle_octets(b"\0\r\nx");
                self.machine.handle_segment(b"", None);
            }
            5 if self.attached && !self.running && self.machine.is_clean() => {
                self.machine.handle_release();
                self.attached = false;
                self.literal = None;
            }
            6 if !self.attached => {
                self.machine.handle_attach();
                self.attached = true;
            }
            7 if self.machine.is_clean() && !self.running => {
                let own = if which & 8 != 0 { Own::Unselect } else { Own::Noop };
                self.machine.handle_own(own);
            }
            _ => {}
        }
        let sent = self.machine.poll_transmit();
        assert!(sent.is_empty() || !self.machine.is_clean() || !self.running);
    }

    /// False: the connection is lost.
    fn server(&mut self, octets: &[u8]) -> bool {
        self.input.extend_from_slice(octets);
        self.given += octets.len();
        if self.machine.handle_input(&mut self.input).is_err() {
            return false;
        }
        assert!(self.input.len() <= MAX_WHOLE_LINE);
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Data(octets) => {
                    assert!(self.attached && !octets.is_empty());
                    self.passed += octets.len();
                }
                Event::Continue(_) => {
                    assert!(self.running);
                    if self.streams {
                        self.literal = Some(());
                    }
                }
                Event::Tagged(octets) => {
                    assert!(self.running && !octets.is_empty());
                    self.passed += octets.len();
                    self.half_answered = true;
                }
                Event::Done(rest, _) => {
                    assert!(std::mem::take(&mut self.running), "the end of nothing");
                    let whole = rest.ends_with(b"\n") && rest.starts_with(b" ");
                    assert!(if std::mem::take(&mut self.half_answered) { rest.is_empty() } else { whole });
                    if !self.machine.is_clean() && self.literal.take().is_some() {
                        self.machine.handle_octets(b"\0\r\nx");
                        self.machine.handle_segment(b"", None);
                    }
                    let _ = self.machine.poll_transmit();
                }
                Event::OwnDone(..) | Event::Ignored(..) => {}
                Event::Bye(text) => {
                    assert!(self.machine.is_closing() && !text.ends_with(b"\n"));
                    return false;
                }
            }
        }
        // A client's tag of one octet never is longer than ours.
        assert!(self.passed <= self.given);
        if self.machine.is_clean() {
            assert!(!self.running && self.machine.at_line_start() && !self.machine.is_waiting());
        }
        true
    }
}

fuzz_target!(|octets: &[u8]| {
    let Some((how, octets)) = octets.split_first() else { return };
    let mut capabilities = String::from("IMAP4rev1");
    for (bit, name) in [" LITERAL+", " UNSELECT", " IMAP4rev2"].iter().enumerate() {
        if how & 1 << bit != 0 {
            capabilities.push_str(name);
        }
    }
    let machine = Machine::new(Arc::new(Capabilities::parse(capabilities.as_bytes())), 0);
    let mut connection = Connection {
        machine,
        input: BytesMut::new(),
        given: 0,
        passed: 0,
        running: false,
        half_answered: false,
        literal: None,
        streams: false,
        attached: false,
    };
    connection.act(6);
    // Each 0xff and the octet after it are an event; what is between comes from the backend.
    let mut rest = octets;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == 0xff).unwrap_or(rest.len());
        if !connection.server(&rest[..end]) {
            return;
        }
        rest = &rest[end..];
        if let [0xff, which, after @ ..] = rest {
            connection.act(*which);
            rest = after;
        } else {
            return;
        }
    }
});
