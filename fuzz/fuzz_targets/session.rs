//! A client session: arbitrary octets of the client, cut anywhere, and arbitrary answers of what is outside the
//! machine. Whatever reaches the client are whole lines, each command that ran is answered once, and a closed session
//! says nothing.

#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use imapool::imap::capability::Front;
use imapool::imap::request::Request;
use imapool::session::machine::{Action, Bounds, End, LoginReply, Machine};
use libfuzzer_sys::fuzz_target;

const OFFERED: &str = "IMAP4rev1 AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2 AUTH=OAUTHBEARER";
const BOUNDS: Bounds = Bounds { line: 200, literals: 400 };

struct Session {
    machine: Machine,
    running: Option<Box<Request>>,
    logging_in: bool,
    securing: bool,
    closed: bool,
    selected: bool,
    /// Octets of the message that is given now still to come.
    streaming: Option<u64>,
}

impl Session {
    fn settle(&mut self) {
        while let Some(action) = self.machine.poll() {
            assert!(!self.closed, "after the end: {action:?}");
            match action {
                Action::Write(octets) => {
                    assert!(octets.ends_with(b"\r\n"), "{octets:?}");
                    assert_eq!(octets.iter().filter(|b| **b == b'\n').count(), 1, "{octets:?}");
                }
                Action::StartTls => self.securing = true,
                Action::Login(credential) => {
                    assert!(credential.is_sound() && !self.machine.is_authenticated());
                    self.logging_in = true;
                }
                Action::Run(run) => {
                    assert!(self.running.is_none() && self.machine.is_authenticated());
                    let size: usize = run.command.segments.iter().map(|s| s.text.len()).sum();
                    let literals = run.command.segments.iter().filter_map(|s| s.literal.as_ref());
                    assert!(
                        size + literals.map(|(octets, _)| octets.len()).sum::<usize>()
                            <= BOUNDS.literals + 2 * BOUNDS.line
                    );
                    self.streaming = run.streams.map(|literal| literal.len);
                    self.running = Some(run);
                }
                Action::Send(octets) => {
                    if let Some(left) = &mut self.streaming {
                        *left = left.checked_sub(octets.len() as u64).expect("no more than was announced");
                    } else {
                        assert!(octets.ends_with(b"\r\n"));
                    }
                }
                Action::SendSegment(text, literal) => {
                    assert_eq!(self.streaming, Some(0), "the literal was given whole");
                    assert!(!text.contains(&b'\n') && !text.contains(&0));
                    self.streaming = literal.map(|literal| literal.len);
                }
                Action::Close(_) => self.closed = true,
            }
        }
        assert!(!self.closed || !self.machine.wants_input());
        if !self.machine.has_eof() && !self.closed && !self.securing {
            let busy = self.running.is_some() || self.logging_in;
            assert!(busy || self.machine.wants_input(), "waits for nothing");
        }
    }

    fn act(&mut self, which: u8) {
        match which & 15 {
            0 if self.logging_in => {
                self.logging_in = false;
                self.machine.handle_login(LoginReply::Accepted(Arc::from(OFFERED)), &[]);
            }
            1 if self.logging_in => {
                self.logging_in = false;
                let challenge = (which & 16 != 0).then(|| "e30=".into());
                self.machine.handle_login(LoginReply::Refused { reply: "NO no".into(), challenge }, &[]);
            }
            2 | 3 if self.running.is_some() => self.machine.handle_continue(Bytes::from_static(b"+ go\r\n")),
            4..=6 if self.running.is_some() => {
                self.running = None;
                self.selected = which & 16 != 0;
                self.machine.handle_done(b" OK done\r\n", self.selected);
            }
            7 if self.running.is_some() => {
                self.running = None;
                self.machine.handle_lost("NO lost.");
            }
            8 if self.selected && self.running.is_none() => self.machine.handle_lost("NO lost."),
            9 => self.machine.handle_drain(End::Drain),
            10 if self.running.is_none() && !self.logging_in => self.machine.handle_timeout(),
            11 => self.machine.handle_eof(),
            12 if self.securing => {
                self.securing = false;
                self.machine.handle_tls(Front { starttls: false, login: true }, Arc::from(OFFERED));
            }
            13 if self.running.is_some() => {
                self.running = None;
                self.machine.handle_revoked();
            }
            _ => {}
        }
        self.settle();
    }
}

fuzz_target!(|octets: &[u8]| {
    let Some((how, octets)) = octets.split_first() else { return };
    let front = Front { starttls: how & 1 != 0, login: how & 2 == 0 };
    let mut session = Session {
        machine: Machine::new(BOUNDS, front, Arc::from(OFFERED)),
        running: None,
        logging_in: false,
        securing: false,
        closed: false,
        selected: false,
        streaming: None,
    };
    session.settle();
    // Each 0xff and the octet after it are an event outside; what is between comes from the client.
    let mut rest = octets;
    while !rest.is_empty() && !session.closed {
        let end = rest.iter().position(|b| *b == 0xff).unwrap_or(rest.len());
        if session.machine.wants_input() {
            session.machine.handle_input(&rest[..end]);
        }
        session.settle();
        rest = &rest[end..];
        let [0xff, which, after @ ..] = rest else { return };
        session.act(*which);
        rest = after;
    }
});
