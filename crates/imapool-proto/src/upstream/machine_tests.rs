use super::*;
use crate::imap::MAX_WHOLE_LINE;
use crate::imap::command::parse_head;
use crate::imap::frame::{Decoder, Frame};
use crate::imap::request::Request;
use crate::imap::sticky::words;

#[path = "machine_properties.rs"]
mod properties;

/// Reads a client's command; an announced literal that does not follow is one that streams.
pub(super) fn command(octets: &[u8]) -> (Command, Option<Literal>) {
    let mut decoder = Decoder::default();
    let mut input = BytesMut::from(octets);
    input.extend_from_slice(b"\r\n");
    let mut segments: Vec<Segment> = Vec::new();
    let mut literal = None;
    while let Some(frame) = decoder.decode(&mut input, 1 << 20).expect("a well-framed command") {
        match frame {
            Frame::Line(line) => {
                segments.push(Segment { text: line.text, literal: None });
                literal = line.literal;
                if input.is_empty() {
                    break;
                }
            }
            Frame::Chunk { octets, .. } => {
                let binary = literal.take().is_some_and(|literal| literal.binary);
                segments.last_mut().unwrap().literal = Some((octets, binary));
            }
        }
    }
    let head = parse_head(&segments[0].text).unwrap();
    let tag = segments[0].text.split_to(head.tag_end);
    let _space = segments[0].text.split_to(1);
    (Command { tag, name: head.name, segments }, literal)
}

pub(super) fn connected(capabilities: &str) -> Machine {
    let mut machine = Machine::new(Arc::new(Capabilities::parse(capabilities.as_bytes())), 0);
    machine.handle_attach();
    machine
}

/// What came out of the machine, in order; neighbouring data in one piece.
#[derive(Debug, PartialEq)]
enum Got {
    Data(Vec<u8>),
    Other(String),
}

/// A machine and what it has said that no line of the script has asked for yet.
struct Play {
    machine: Machine,
    input: BytesMut,
    got: VecDeque<Got>,
}

impl Play {
    fn new(capabilities: &str) -> Self {
        Self { machine: connected(capabilities), input: BytesMut::new(), got: VecDeque::new() }
    }

    fn collect(&mut self) {
        while let Some(event) = self.machine.poll_event() {
            let text = |octets: &[u8]| String::from_utf8_lossy(octets).replace("\r\n", "");
            match event {
                Event::Data(octets) => match self.got.back_mut() {
                    Some(Got::Data(data)) => data.extend_from_slice(&octets),
                    _ => self.got.push_back(Got::Data(octets.to_vec())),
                },
                Event::Continue(line) => self.got.push_back(Got::Other(text(&line))),
                Event::Done(rest, selected) => {
                    let selected = if selected { " [selected]" } else { "" };
                    self.got.push_back(Got::Other(text(&rest) + selected));
                }
                Event::OwnDone(own, status) => self.got.push_back(Got::Other(format!("{own:?} {status:?}"))),
                Event::Bye(words) => self.got.push_back(Got::Other(text(&words))),
                other => self.got.push_back(Got::Other(format!("{other:?}"))),
            }
        }
    }

    /// Nothing is left that the script should have asked for.
    fn assert_quiet(&mut self, before: &str) {
        self.collect();
        assert_eq!(self.got, [], "before {before}");
        assert_eq!(self.machine.poll_transmit(), "", "before {before}");
    }

    fn server(&mut self, octets: &[u8]) -> Result<(), ProtocolError> {
        self.input.extend_from_slice(octets);
        self.machine.handle_input(&mut self.input)
    }

    fn expect(&mut self, line: &str, text: &str) {
        self.collect();
        assert_eq!(self.got.pop_front(), Some(Got::Other(text.into())), "{line}");
    }

    /// `C:` a command (`L:` octets of a literal, `T:` the text after one, `O:` other octets) of the session, `B:` what
    /// the backend has to get for it; `S:` what the backend says, `D:` what of it has to reach the session as data,
    /// `+:` the session being asked for more, `=:` the end of its command. `U:` a session's end and the next one's
    /// start. Each line is one, with `\r\n` for line ends within; `S;` and `D;` have none at the end.
    fn play(&mut self, script: &str) -> &mut Self {
        let mut before = "";
        for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            let (who, text) = line.split_at(2);
            let goes_on =
                matches!((std::mem::replace(&mut before, who), who), ("S:" | "S;", "S:" | "S;" | "S!") | ("L:", "T:"));
            let text = text.strip_prefix(' ').unwrap_or(text).replace("\\r\\n", "\r\n");
            match who {
                "B:" => {
                    let sent = self.machine.poll_transmit();
                    assert_eq!(String::from_utf8_lossy(&sent), text + "\r\n", "{line}");
                    continue;
                }
                "B;" => {
                    assert_eq!(String::from_utf8_lossy(&self.machine.poll_transmit()), text, "{line}");
                    continue;
                }
                "D:" | "D;" => {
                    self.collect();
                    let text = if who == "D:" { text + "\r\n" } else { text };
                    let Some(Got::Data(data)) = self.got.pop_front() else { panic!("no data for {line}") };
                    let rest = data.strip_prefix(text.as_bytes());
                    let rest = rest.unwrap_or_else(|| panic!("{line}: got {}", String::from_utf8_lossy(&data)));
                    if !rest.is_empty() {
                        self.got.push_front(Got::Data(rest.to_vec()));
                    }
                    continue;
                }
                "+:" | "=:" | "!:" => {
                    self.expect(line, &text);
                    continue;
                }
                _ if goes_on => {}
                _ => self.assert_quiet(line),
            }
            match who {
                "C:" => {
                    let (command, streams) = command(text.as_bytes());
                    self.machine.handle_command(Request::new(command, streams));
                }
                "L:" | "O:" => self.machine.handle_octets(text.as_bytes()),
                "T:" => {
                    let mut decoder = Decoder::default();
                    let Ok(Some(Frame::Line(line))) = decoder.decode(&mut BytesMut::from(&*(text + "\r\n")), 100)
                    else {
                        panic!("{line}")
                    };
                    self.machine.handle_segment(&line.text, line.literal);
                }
                "S:" => assert_eq!(self.server((text + "\r\n").as_bytes()), Ok(()), "{line}"),
                "S;" => assert_eq!(self.server(text.as_bytes()), Ok(()), "{line}"),
                "S!" => {
                    let (text, error) = text.rsplit_once(" => ").unwrap();
                    let got = self.server(format!("{text}\r\n").as_bytes());
                    assert_eq!(format!("{:?}", got.unwrap_err()), error, "{line}");
                }
                "U:" => {
                    assert!(self.machine.is_clean(), "{line}");
                    self.machine.handle_release();
                    self.machine.handle_attach();
                }
                "N:" => self.machine.handle_own(Own::Noop),
                _ => panic!("{line}"),
            }
        }
        self.assert_quiet("the end");
        self
    }

    fn clean(&self) {
        assert!(self.machine.is_clean() && self.input.is_empty());
        assert_eq!(self.machine.spoiled(), None);
    }
}

#[test]
fn tags_are_our_own_and_each_reply_ends_with_its_own() {
    let mut play = Play::new("IMAP4rev1");
    play.play(
        "C: a1 SELECT INBOX
         B: i0 SELECT INBOX
         S: * 3 EXISTS
         D: * 3 EXISTS
         S: * OK [UIDVALIDITY 7] ok
         S: i0 OK [READ-WRITE] done
         D: * OK [UIDVALIDITY 7] ok
         =:  OK [READ-WRITE] done [selected]
         C: i0 UID FETCH 1 FLAGS
         B: i1 UID FETCH 1 FLAGS
         S: * 1 FETCH (UID 1 FLAGS ())
         S: * 4 EXISTS
         S: i1 OK
         D: * 1 FETCH (UID 1 FLAGS ())
         D: * 4 EXISTS
         =:  OK [selected]
         S: * 5 EXISTS
         D: * 5 EXISTS
         C: a CLOSE
         B: i2 CLOSE
         S: i2 OK closed
         =:  OK closed",
    );
    play.clean();
    assert_eq!(play.machine.facts().selected, None);
}

#[test]
fn the_seventeenth_tag_is_hexadecimal() {
    let mut play = Play::new("IMAP4rev1");
    play.machine.next_tag = 26;
    play.play("C: x NAMESPACE\nB: i1a NAMESPACE\nS: i1a NO  no\n=:  NO  no");
}

#[test]
fn literals_come_in_pieces_and_hide_lines() {
    let mut play = Play::new("IMAP4rev1");
    play.play(
        r#"C: s SELECT x
           B: i0 SELECT x
           S: i0 OK
           =:  OK [selected]
           C: a FETCH 1:2 BODY[]
           B: i1 FETCH 1:2 BODY[]
           S; * 1 FETCH (BODY[] {13}\r\ni1 OK
           D; * 1 FETCH (BODY[] {13}\r\ni1 OK
           S; \r\nx{9}
           D; \r\nx{9}
           S: \r\n X "{3}" BODY[2] {0}\r\n FLAGS ())
           D: \r\n X "{3}" BODY[2] {0}\r\n FLAGS ())
           S: * 2 FETCH (X "{2+}"  BODY[] ~{2}\r\n\r\n)
           D: * 2 FETCH (X "{2+}"  BODY[] ~{2}\r\n\r\n)
           S: * 2 FETCH X {2+}\r\n\r\n)
           D: * 2 FETCH X {2+}\r\n\r\n)
           S: i1 OK see ticket {5}
           =:  OK see ticket {5} [selected]"#,
    );
    play.clean();
}

#[test]
fn status_texts_that_look_like_literals_are_none() {
    let mut play = Play::new("IMAP4rev1");
    play.play(
        "C: a NAMESPACE
         B: i0 NAMESPACE
         S: * OK see {5}
         S: * NO {99}
         S: * BAD  (x {1}
         D: * OK see {5}
         D: * NO {99}
         D: * BAD  (x {1}
         S: i0 BAD what {7}
         =:  BAD what {7}",
    );
    play.clean();
}

#[test]
fn long_lines_stream() {
    let mut play = Play::new("IMAP4rev1");
    let numbers = " 12345678".repeat(20_000);
    play.play("C: a SEARCH ALL\nB: i0 SEARCH ALL");
    for piece in format!("* SEARCH{numbers}\r\ni0 OK done\r\n").as_bytes().chunks(1000) {
        assert_eq!(play.server(piece), Ok(()));
        assert!(play.input.len() <= 64, "{}", play.input.len());
    }
    play.play(&format!("D: * SEARCH{numbers}\n=:  OK done"));
    // And one that ends in a literal, with the announcement cut.
    let name = "n".repeat(100_000);
    play.play(&format!(
        "C: a LIST \"\" *
         B: i1 LIST \"\" *
         S; * LIST () {name} {{1
         D; * LIST () {name} {{1
         S: 0}}\\r\\ni1 OK 7890
         D: 0}}\\r\\ni1 OK 7890
         S: i1 OK
         =:  OK"
    ));
    play.clean();
}

#[test]
fn capabilities_of_the_backend_are_not_the_clients() {
    Play::new("IMAP4rev1").play(
        "C: a LIST \"\" *
         B: i0 LIST \"\" *
         S: * CAPABILITY IMAP4rev1 STARTTLS
         S: * OK [CAPABILITY IMAP4rev1] news
         S: * LIST () NIL x
         D: * LIST () NIL x
         S: i0 OK [CAPABILITY IMAP4rev1 X] done
         =:  OK done",
    );
}

#[test]
fn esearch_names_the_clients_tag() {
    let mut play = Play::new("IMAP4rev1");
    play.play(
        r#"C: abc UID SEARCH RETURN (ALL) ALL
           B: i0 UID SEARCH RETURN (ALL) ALL
           S: * ESEARCH (TAG "i0") UID ALL 1:5
           D: * ESEARCH (TAG "abc") UID ALL 1:5
           S: * esearch  (tag "i0") X (TAG "i0")
           D: * esearch  (tag "abc") X (TAG "i0")
           S: * ESEARCH (TAG "i7") UID
           D: * ESEARCH (TAG "i7") UID
           S: * ESEARCH COUNT 5
           D: * ESEARCH COUNT 5
           S: i0 OK
           =:  OK"#,
    );
    // A reply without a correlator does not borrow the next line's, however they come.
    play.play(
        r#"C: b SEARCH RETURN (COUNT) ALL
           B: i1 SEARCH RETURN (COUNT) ALL
           S: * ESEARCH COUNT 5\r\n* ESEARCH (TAG i1) MIN 5\r\n* ESEARCH (TAG {2}\r\ni1) MAX 5\r\n* ESEARCH (TAG "i1") COUNT 5\r\ni1 OK done
           D: * ESEARCH COUNT 5\r\n* ESEARCH (TAG b) MIN 5\r\n* ESEARCH (TAG b) MAX 5\r\n* ESEARCH (TAG "b") COUNT 5
           =:  OK done"#,
    );
    play.clean();
}

#[test]
fn progress_is_told_by_the_clients_tag() {
    Play::new("IMAP4rev1").play(
        r#"C: a1 SEARCH TEXT x
           B: i0 SEARCH TEXT x
           S: * OK [INPROGRESS ("i0" 454 1000)] Processed 45%
           D: * OK [INPROGRESS ("a1" 454 1000)] Processed 45%
           S: * OK [INPROGRESS] Still here
           D: * OK [INPROGRESS] Still here
           S: * NO [NOUPDATE "i7"] of somebody else's search
           S: i0 OK
           =:  OK"#,
    );
}

#[test]
fn searches_with_updates_are_known_by_the_clients_tag() {
    let mut play = Play::new("IMAP4rev1");
    play.play(
        r#"C: s1 SELECT x
           B: i0 SELECT x
           S: i0 OK
           =:  OK [selected]
           C: u1 UID SEARCH RETURN (UPDATE) UNSEEN
           B: i1 UID SEARCH RETURN (UPDATE) UNSEEN
           S: i1 OK
           =:  OK [selected]
           C: c1 CHECK
           B: i2 CHECK
           S: * ESEARCH (TAG "i1") UID ADDTO (0 5)
           D: * ESEARCH (TAG "u1") UID ADDTO (0 5)
           S: i2 OK
           =:  OK [selected]
           C: c2 CANCELUPDATE "u1" "nix"
           B: i3 CANCELUPDATE "i1" "nix"
           S: i3 OK
           =:  OK [selected]
           U:
           C: u1 SELECT x
           B: i4 SELECT x
           S: * ESEARCH (TAG "i1") UID ADDTO (0 6)
           S: * OK [CLOSED] was x
           S: i4 OK
           =:  OK [selected]
           C: c CANCELUPDATE "u1"
           B: i5 CANCELUPDATE "u1"
           S: i5 OK
           =:  OK [selected]"#,
    );
}

const SELECTED: &str = "C: s SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]\nU:\n";

#[test]
fn the_mailbox_of_an_earlier_session_is_silent() {
    let mut play = Play::new("IMAP4rev1 UNSELECT");
    play.play(SELECTED);
    play.play(
        "S: * 9 EXISTS
         S: * 2 EXPUNGE
         S: * OK [ALERT] of the mailbox's time
         C: a SELECT x
         B: i1 SELECT x
         S: * 1 EXPUNGE
         S: * 3 FETCH (X {3}\\r\\nabc FLAGS ())
         S: * VANISHED 5
         S: * OK [CLOSED] gone
         S: * 7 EXISTS
         S: * FLAGS (a)
         D: * 7 EXISTS
         D: * FLAGS (a)
         S: i1 OK [READ-WRITE]
         =:  OK [READ-WRITE] [selected]
         C: b NOOP
         B: i2 NOOP
         S: * 1 EXPUNGE
         D: * 1 EXPUNGE
         S: i2 OK
         =:  OK [selected]",
    );
    play.clean();
}

#[test]
fn other_commands_than_select_find_nothing_selected() {
    for (capabilities, leave, reply) in [("IMAP4rev1 UNSELECT", "UNSELECT", "OK"), ("IMAP4rev2", "UNSELECT", "OK")] {
        let mut play = Play::new(capabilities);
        play.play(SELECTED);
        play.play(&format!(
            "C: a FETCH 1 FLAGS
             B: i1 {leave}
             S: * 1 EXPUNGE
             S: * 0 EXISTS
             S: i1 {reply} left
             !: Unselect true
             B: i2 FETCH 1 FLAGS
             S: i2 BAD No mailbox selected
             =:  BAD No mailbox selected"
        ));
        play.clean();
        assert_eq!(play.machine.facts().selected, None);
    }
}

#[test]
fn a_mailbox_that_cannot_be_left_is_told() {
    const EXAMINED: &str = "B: i1 EXAMINE \"x\"\nS: * 3 EXISTS\nS: i1 OK [READ-ONLY] x\nB: i2 CLOSE\n";
    for (capabilities, script, left) in [
        ("IMAP4rev1 UNSELECT", "B: i1 UNSELECT\nS: i1 OK x", true),
        ("IMAP4rev1", "B: i1 EXAMINE \"x\"\nS: i1 OK [READ-WRITE] x", false),
        ("IMAP4rev1", "B: i1 EXAMINE \"x\"\nS: i1 OK x", false),
        ("IMAP4rev1", "B: i1 EXAMINE \"x\"\nS: i1 NO x", false),
        ("IMAP4rev1", "B: i1 EXAMINE \"x\"\nS: i1 BAD x", false),
        ("IMAP4rev1", &format!("{EXAMINED}S: i2 OK x"), true),
        ("IMAP4rev1", &format!("{EXAMINED}S: i2 NO x"), false),
        ("IMAP4rev1", &format!("{EXAMINED}S: i2 BAD x"), false),
    ] {
        let mut play = Play::new(capabilities);
        play.play(SELECTED).machine.handle_own(Own::Unselect);
        play.play(&format!("{script}\n!: Unselect {left}"));
        assert_eq!(play.machine.facts().selected.is_none(), left, "{script}");
        // What waits for that is not sent when it comes to nothing.
        let mut play = Play::new(capabilities);
        play.play(SELECTED);
        let then = if left { "B: CREATE" } else { "" };
        let number = if script.contains("CLOSE") { 3 } else { 2 };
        let then = then.replace("B: ", &format!("B: i{number} "));
        play.play(&format!("C: a CREATE\n{script}\n!: Unselect {left}\n{then}"));
        assert_eq!(play.machine.defers(), !left, "{script}");
    }
}

/// What works is found out once.
#[test]
fn unselect_that_is_refused_is_not_asked_for_again() {
    let manners = Arc::new(Manners::default());
    let leaves = "B: i2 EXAMINE \"x\"\nS: i2 OK [READ-ONLY] x\nB: i3 CLOSE\nS: i3 OK left\n!: Unselect true";
    for (first, refusal) in [(1, "B: i1 UNSELECT\nS: i1 BAD what\n"), (0, "")] {
        let mut play = Play::new("IMAP4rev1 UNSELECT");
        play.machine.manners = Arc::clone(&manners);
        play.play(SELECTED).machine.handle_own(Own::Unselect);
        let leaves = if first == 1 { leaves.to_owned() } else { leaves.replace("i2", "i1").replace("i3", "i2") };
        play.play(&format!("{refusal}{leaves}"));
    }
}

/// DavMail and others: a mailbox may stay selected when the SELECT of another fails. Nobody can say, so it is left
/// for sure before anything else is run; UNSELECT proves nothing then.
#[test]
fn after_a_failed_select_nothing_is_certain() {
    let mut play = Play::new("IMAP4rev1 UNSELECT");
    play.play("C: s SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]");
    play.play(
        "C: a SELECT y
         B: i1 SELECT y
         S: i1 NO no such mailbox
         =:  NO no such mailbox
         S: * 1 EXPUNGE
         C: b EXPUNGE
         B: i2 EXAMINE \"x\"
         S: * 3 EXISTS
         S: i2 OK [READ-ONLY] examined
         B: i3 CLOSE
         S: i3 OK closed
         !: Unselect true
         B: i4 EXPUNGE
         S: i4 BAD nothing selected
         =:  BAD nothing selected",
    );
    play.clean();
    // A server that says that it has closed it has.
    let mut play = Play::new("IMAP4rev1 UNSELECT");
    play.play("C: s SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]");
    play.play(
        "C: a SELECT y
         B: i1 SELECT y
         S: * OK [CLOSED] x
         D: * OK [CLOSED] x
         S: i1 NO no such mailbox
         =:  NO no such mailbox
         C: b LIST
         B: i2 LIST
         S: i2 OK
         =:  OK",
    );
    play.clean();
}

#[test]
fn resynchronising_begins_with_nothing_selected() {
    let mut play = Play::new("IMAP4rev1 UNSELECT");
    play.play(SELECTED);
    play.play(
        "C: a SELECT x (QRESYNC (1 2))
         B: i1 UNSELECT
         S: i1 OK
         !: Unselect true
         B: i2 SELECT x (QRESYNC (1 2))
         S: * VANISHED (EARLIER) 1:5
         D: * VANISHED (EARLIER) 1:5
         S: i2 OK
         =:  OK [selected]",
    );
}

#[test]
fn a_select_that_is_refused_as_malformed_gives_nobody_the_old_mailbox() {
    let mut play = Play::new("IMAP4rev1 UNSELECT");
    play.play(SELECTED);
    play.play(
        "C: a SELECT x (WHAT
         B: i1 SELECT x (WHAT
         S: i1 BAD Missing argument
         =:  BAD Missing argument
         S: * 1 EXPUNGE
         C: b STORE 1 FLAGS (\\Deleted)
         B: i2 UNSELECT
         S: i2 OK
         !: Unselect true
         B: i3 STORE 1 FLAGS (\\Deleted)
         S: i3 BAD Nothing selected
         =:  BAD Nothing selected",
    );
    play.clean();
    // In a session's own mailbox, nobody knows.
    let mut play = Play::new("IMAP4rev1 UNSELECT");
    play.play("C: s SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]");
    play.play("C: a SELECT\nB: i1 SELECT\nS: i1 BAD what\n=:  BAD what [selected]");
    assert!(play.machine.spoiled().is_some());
}

#[test]
fn another_mailbox_is_selected_from_none() {
    let mut play = Play::new("IMAP4rev1 UNSELECT");
    play.play(SELECTED);
    play.play(
        "C: a SELECT y
         B: i1 UNSELECT
         S: * 9 EXISTS
         S: * FLAGS (of x)
         S: i1 OK
         !: Unselect true
         B: i2 SELECT y
         S: * 7 EXISTS
         D: * 7 EXISTS
         S: i2 OK
         =:  OK [selected]",
    );
    play.clean();
}

#[test]
fn a_refused_select_leaves_nothing_selected() {
    let mut play = Play::new("IMAP4rev1");
    play.play("C: a EXAMINE x\nB: i0 EXAMINE x\nS: i0 NO nix\n=:  NO nix");
    assert_eq!(play.machine.facts().selected, None);
    play.play("C: a EXAMINE x\nB: i1 EXAMINE x\nS: i1 BAD nix\n=:  BAD nix");
    assert_eq!(play.machine.facts().selected, None);
    play.play("C: a EXAMINE inbox\nB: i2 EXAMINE inbox\nS: i2 OK\n=:  OK [selected]");
    assert_eq!(play.machine.facts().selected.as_deref(), Some(&b"rINBOX"[..]));
}

#[test]
fn literals_of_a_command_are_given_when_they_may_be() {
    // Asked for, one by one.
    Play::new("IMAP4rev1").play(
        r"C: a RENAME {3+}\r\na b {2}\r\ncd
          B: i0 RENAME {3}
          S: + go
          B; a b {2}\r\n
          S: +
          B: cd
          S: i0 OK
          =:  OK",
    );
    // A server that stops to understand a command takes what comes unasked for commands: none does.
    Play::new("IMAP4rev1 LITERAL+")
        .play("C: a RENAME ~{1+}\\r\\nx\nB: i0 RENAME ~{1}\nS: + ok\nB: x\nS: i0 OK\n=:  OK");
    // Refused at the first or at the second: the rest is not sent.
    let mut play = Play::new("IMAP4rev1");
    play.play("C: a RENAME {1}\\r\\na {1}\\r\\nb\nB: i0 RENAME {1}\nS: i0 NO no\n=:  NO no");
    play.clean();
    play.play("C: a RENAME {1}\\r\\na {1}\\r\\nb\nB: i1 RENAME {1}\nS: +\nB; a {1}\\r\\n\nS: i1 NO no\n=:  NO no");
    play.clean();
    play.play("C: a RENAME {1}\\r\\na b\nB: i2 RENAME {1}\nS: i2 BAD no\n=:  BAD no");
    play.clean();
}

#[test]
fn messages_stream() {
    for (capabilities, announced) in [("IMAP4rev1", "{4}"), ("IMAP4rev1", "{4+}"), ("IMAP4rev1 LITERAL+", "{4+}")] {
        let mut play = Play::new(capabilities);
        play.play(&format!("C: a APPEND x {announced}\nB: i0 APPEND x {{4}}"));
        assert!(!play.machine.is_clean() && play.machine.is_waiting());
        play.play("S: + go\n+: + go");
        assert!(!play.machine.is_waiting(), "the client is waited for");
        play.play("L: ab\nB; ab\nL: cd\nB; cd\nT:\nB:");
        assert!(play.machine.is_waiting());
        play.play("S: i0 OK [APPENDUID 1 2]\n=:  OK [APPENDUID 1 2]");
        play.clean();
    }
}

#[test]
fn several_messages_stream() {
    Play::new("IMAP4rev1").play(
        "C: a APPEND x {1}\nB: i0 APPEND x {1}\nS: +\n+: +\nL: a\nT:  {2}\nB; a {2}\\r\\n\nS: + 2\n+: + 2\nL: bc\nT:
         B: bc\nS: i0 OK\n=:  OK",
    );
}

#[test]
fn refused_messages_leave_a_clean_connection_when_all_was_given() {
    for (capabilities, announced) in [("IMAP4rev1", "{4}"), ("IMAP4rev1", "{4+}"), ("IMAP4rev1 LITERAL+", "{4}")] {
        let mut play = Play::new(capabilities);
        play.play(&format!("C: a APPEND x {announced}\nB: i0 APPEND x {{4}}\nS: i0 NO [TOOBIG]\n=:  NO [TOOBIG]"));
        play.clean();
    }
    // Refused half-way: what the backend was promised, it gets.
    let mut play = Play::new("IMAP4rev1");
    play.play("C: a APPEND x {4+}\nB: i0 APPEND x {4}\nS: +\n+: +\nL: ab\nB; ab\nS: i0 NO [TOOBIG]\n=:  NO [TOOBIG]");
    assert!(!play.machine.is_clean());
    play.play("L: cd\nT:\nB: cd");
    play.clean();
    // A command that comes before the rest is not taken for part of it.
    let mut play = Play::new("IMAP4rev1");
    play.play("C: a APPEND x {4}\nB: i0 APPEND x {4}\nS: +\n+: +\nL: ab\nB; ab\nS: i0 NO [TOOBIG]\n=:  NO [TOOBIG]");
    play.play("C: b NAMESPACE");
    assert!(!play.machine.is_clean() && play.machine.is_waiting());
    play.play("L: cd\nT:\nB; cd\\r\\ni1 NAMESPACE\\r\\n\nS: i1 OK\n=:  OK");
    play.clean();
    // A further literal for a server that has lost interest.
    let mut play = Play::new("IMAP4rev1");
    play.play("C: a APPEND x {4+}\nB: i0 APPEND x {4}\nS: +\n+: +\nL: abcd\nB; abcd\nS: i0 NO x\n=:  NO x");
    play.play("T:  {5+}\nB:  {5}");
    assert!(play.machine.is_closing() && !play.machine.is_clean());
}

#[test]
fn idle() {
    let mut play = Play::new("IMAP4rev1 IDLE");
    play.play("C: s SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]\nC: a IDLE\nB: i1 IDLE");
    assert!(play.machine.is_waiting(), "for the continuation");
    play.play("S: + idling\n+: + idling\nS: * 3 EXISTS\nD: * 3 EXISTS");
    assert!(!play.machine.is_waiting());
    play.play("O: DONE\\r\\n\nB; DONE\\r\\n");
    assert!(play.machine.is_waiting(), "for the end");
    play.play("S: * 4 EXISTS\nD: * 4 EXISTS\nS: i1 OK\n=:  OK [selected]");
    play.clean();
}

/// RFC 9051 section 7.4: they are of the mailbox that is selected.
#[test]
fn where_no_mailbox_is_selected_nobody_hears_of_messages() {
    let mut play = Play::new("IMAP4rev1 IDLE");
    let news = "S: * 3 EXISTS\nS: * 1 RECENT\nS: * 1 EXPUNGE\nS: * 2 FETCH (X {2}\\r\\nab)\nS: * VANISHED 7";
    play.play(&format!(
        "C: a LIST \"\" x\nB: i0 LIST \"\" x\n{news}\nS: * LIST () NIL x\nD: * LIST () NIL x\nS: i0 OK\n=:  OK"
    ));
    play.play("C: b SELECT x\nB: i1 SELECT x\nS: * 3 EXISTS\nD: * 3 EXISTS\nS: i1 OK\n=:  OK [selected]");
    play.play("C: c CLOSE\nB: i2 CLOSE\nS: i2 OK\n=:  OK");
    play.play(&format!("C: d NOOP\nB: i3 NOOP\n{news}\nS: i3 OK\n=:  OK"));
    play.clean();
}

#[test]
fn what_is_enabled_sticks() {
    let mut play = Play::new("IMAP4rev1");
    play.play(
        "C: a ENABLE condstore  Qresync
         B: i0 ENABLE condstore  Qresync
         S: * ENABLED QRESYNC CONDSTORE
         D: * ENABLED QRESYNC CONDSTORE
         S: i0 OK [X] on
         =:  OK [X] on",
    );
    let facts = play.machine.facts().clone();
    let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect::<BTreeSet<_>>();
    assert_eq!(*facts.sticky, Sticky { condstore: true, enabled: words(&["QRESYNC"]) });
    let reply = facts.enable_reply.unwrap();
    assert_eq!(
        (&reply.untagged[..], &reply.tagged[..]),
        (&b"* ENABLED QRESYNC CONDSTORE\r\n"[..], &b" OK [X] on\r\n"[..])
    );
    let asked = |line: &str| super::tests::command(line.as_bytes()).0;
    assert!(reply.answers(&asked("a ENABLE QRESYNC condstore")) && !reply.answers(&asked("a ENABLE QRESYNC")));
    play.play("C: a ENABLE x\nB: i1 ENABLE x\nS: i1 BAD no\n=:  BAD no");
    assert_eq!(play.machine.facts().sticky, facts.sticky);
    assert_eq!(play.machine.facts().granted, facts.sticky);
    play.play("C: a ENABLE x\nB: i2 ENABLE x\nS: i2 OK\n=:  OK");
    assert_eq!(play.machine.facts().granted, facts.sticky, "not listed");
    assert_eq!(play.machine.facts().sticky.enabled, words(&["QRESYNC", "X"]));
    let enable = play.machine.facts().sticky.command(true).unwrap();
    assert_eq!(&enable.command.segments[0].text, "ENABLE CONDSTORE QRESYNC X");
    assert_eq!(play.machine.facts().enable_reply.as_ref().unwrap().untagged, "");
}

/// RFC 7162 section 3.1: what a command switches on is on, whatever else comes of it, if the backend says so.
#[test]
fn what_a_refused_command_has_switched_on_is_granted() {
    for (said, granted) in [("\nS: * OK [HIGHESTMODSEQ 7] on\nD: * OK [HIGHESTMODSEQ 7] on", true), ("", false)] {
        let mut play = Play::new("IMAP4rev1 CONDSTORE");
        play.play("C: a SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]");
        play.play(&format!("C: a FETCH 9 MODSEQ\nB: i1 FETCH 9 MODSEQ{said}\nS: i1 NO none\n=:  NO none [selected]"));
        assert!(play.machine.facts().sticky.condstore, "it may be on");
        assert_eq!(play.machine.facts().granted.condstore, granted);
    }
}

/// RFC 5161 section 3.2: what is on is what is listed. The connection may carry what was asked for all the same.
#[test]
fn what_is_granted_is_what_is_listed() {
    for (asked, reply, granted, carried) in [
        ("QRESYNC", "S: i0 NO x", "", ""),
        ("QRESYNC", "S: i0 BAD x", "", ""),
        ("QRESYNC", "S: i0 OK x", "", "QRESYNC"),
        ("QRESYNC", "S: * ENABLED\nS: i0 OK x", "", "QRESYNC"),
        ("QRESYNC", "S: * ENABLED CONDSTORE\nS: i0 OK x", "CONDSTORE", "QRESYNC"),
        ("QRESYNC", "S: * ENABLED qresync\nS: i0 OK x", "QRESYNC", "QRESYNC"),
        ("QRESYNC", "S: * ENABLED QRESYNC\nS: i0 NO x", "", "QRESYNC"),
        ("CONDSTORE", "S: * ENABLED QRESYNC\nS: i0 OK x", "CONDSTORE", "QRESYNC"),
        ("QRESYNC X", "S: * ENABLED X\nS: i0 OK x", "X", "QRESYNC X"),
    ] {
        let mut play = Play::new("IMAP4rev1 CONDSTORE QRESYNC");
        let (parsed, _) = super::tests::command(format!("a ENABLE {asked}").as_bytes());
        play.machine.handle_command(Request::new(parsed, None));
        let _ = play.machine.poll_transmit();
        for line in reply.lines() {
            assert_eq!(play.server((line[3..].to_owned() + "\r\n").as_bytes()), Ok(()));
        }
        let state = |text: &str| Sticky::of_words(words(text.as_bytes(), 0));
        let facts = play.machine.facts();
        assert_eq!((&*facts.granted, &*facts.sticky), (&state(granted), &state(carried)), "{asked}: {reply}");
    }
}

/// RFC 7162 section 3.1.8: a SELECT that switches CONDSTORE on is told the highest mod-sequence, or that there are
/// none.
#[test]
fn condstore_is_granted_with_a_mod_sequence() {
    for (line, reply, granted, carried) in [
        ("* OK [HIGHESTMODSEQ 7] x", "OK x", true, true),
        ("* OK [NOMODSEQ] x", "OK x", true, true),
        ("* OK [UIDNEXT 7] x", "OK x", false, true),
        ("* OK [HIGHESTMODSEQ 7] x", "NO x", false, true),
        ("* OK [HIGHESTMODSEQ 7] x", "BAD x", false, false),
    ] {
        let mut play = Play::new("IMAP4rev1 CONDSTORE");
        let (parsed, _) = super::tests::command(b"a SELECT x (CONDSTORE)");
        play.machine.handle_command(Request::new(parsed, None));
        let _ = play.machine.poll_transmit();
        assert_eq!(play.server(format!("{line}\r\ni0 {reply}\r\n").as_bytes()), Ok(()));
        let facts = play.machine.facts();
        assert_eq!((facts.granted.condstore, facts.sticky.condstore), (granted, carried), "{line} {reply}");
    }
}

#[test]
fn condstore_sticks_by_mention() {
    for (command, reply, on) in [
        ("SELECT x (CONDSTORE)", "OK", true),
        ("STATUS x (HIGHESTMODSEQ)", "OK", true),
        ("FETCH 1 (MODSEQ)", "NO", true),
        ("FETCH 1 (MODSEQ)", "BAD", false),
        ("FETCH 1 (FLAGS)", "OK", false),
        ("APPEND MODSEQ x", "OK", false),
    ] {
        let mut play = Play::new("IMAP4rev1");
        let (parsed, _) = super::tests::command(format!("a {command}").as_bytes());
        play.machine.handle_command(Request::new(parsed, None));
        let _ = play.machine.poll_transmit();
        assert_eq!(play.server(format!("i0 {reply}\r\n").as_bytes()), Ok(()));
        assert_eq!(play.machine.facts().sticky.condstore, on, "{command} {reply}");
    }
}

#[test]
fn some_commands_spoil() {
    for (name, spoils) in
        [("XYZZY", true), ("NOTIFY NONE", true), ("LANGUAGE de", true), ("COMPARATOR", true), ("NAMESPACE", false)]
    {
        let mut play = Play::new("IMAP4rev1");
        play.play(&format!("C: a {name}\nB: i0 {name}\nS: i0 OK\n=:  OK"));
        assert!(play.machine.is_clean());
        assert_eq!(play.machine.spoiled().is_some(), spoils, "{name}");
    }
}

#[test]
fn goodbye() {
    let mut play = Play::new("IMAP4rev1");
    play.play("S: * BYE [UNAVAILABLE] see you {5}\n!: see you {5}");
    assert!(play.machine.is_closing() && !play.machine.is_clean());
    let mut play = Play::new("IMAP4rev1");
    play.machine.handle_own(Own::Logout);
    play.play("B: i0 LOGOUT\nS: * BYE\n!:\nS: i0 OK\n!: Logout true");
    assert!(!play.machine.is_clean());
}

#[test]
fn what_no_server_says() {
    for (script, error) in [
        ("S! i0 OK early", "UnknownTag"),
        ("S! foo OK", "UnknownTag"),
        ("S! OK NO", "UnknownTag"),
        ("S! + what", "Continuation"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! i1 OK", "UnknownTag"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! i00 OK", "UnknownTag"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! a OK", "UnknownTag"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! I0 OK", "UnknownTag"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! i0 FINE", "BadStatus"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! i0", "BadStatus"),
        ("N:\nB: i0 NOOP\nS! i0 FINE", "BadStatus"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! i0 BYE", "BadStatus"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! + what", "Continuation"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! * LIST {9223372036854775808}", "Literal"),
        ("C: a NAMESPACE\nB: i0 NAMESPACE\nS! * LIST {000000000000000000001}", "Literal"),
        ("N:\nB: i0 NOOP\nS! + what", "Continuation"),
    ] {
        Play::new("IMAP4rev1").play(&format!("{script} => {error}"));
    }
}

/// What a session hears of `stream` while its NAMESPACE runs, given in pieces of this size: data, parts of the tagged
/// reply, and what else there is.
fn told_of_long(stream: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>, Vec<String>) {
    let mut play = Play::new("IMAP4rev1");
    play.play("C: a NAMESPACE\nB: i0 NAMESPACE");
    let (mut data, mut tagged, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        assert_eq!(play.server(piece), Ok(()));
        assert!(play.input.len() <= MAX_WHOLE_LINE);
        let over = play.machine.events.iter().any(|event| matches!(event, Event::Done(..)));
        assert_eq!(play.machine.is_clean(), over);
        while let Some(event) = play.machine.poll_event() {
            match event {
                Event::Data(octets) => data.extend_from_slice(&octets),
                Event::Tagged(octets) => tagged.extend_from_slice(&octets),
                other => others.push(format!("{other:?}").chars().take(70).collect()),
            }
        }
    }
    (data, tagged, others)
}

#[test]
fn lines_of_any_length_pass_within_bounds() {
    let x = "x".repeat(3 * MAX_WHOLE_LINE);
    let done = "Done(b\" OK ok\\r\\n\", false)";
    for piece in [1 << 20, 4099] {
        // Untagged ones go on as they are, and no literal is looked for in them.
        for line in ["* OK [COPYUID 7 ", "* NO ", "* bad ", "* LIST ", "foo ", ""] {
            let end = if line.starts_with("* LIST") || !line.starts_with('*') { "" } else { " {5}" };
            let line = format!("{line}{x}{end}\r\n");
            let heard = told_of_long(format!("{line}* LIST x\r\ni0 OK ok\r\n").as_bytes(), piece);
            assert_eq!(heard, ((line + "* LIST x\r\n").into(), vec![], vec![done.to_owned()]), "by {piece}");
        }
        // A tagged one, too; the connection is free when it is over, and not before.
        for rest in [format!(" OK [COPYUID 7 1:3 {x}] {{5}}\r\n"), format!("  no {x}\n")] {
            let heard = told_of_long(format!("* LIST x\r\ni0{rest}").as_bytes(), piece);
            assert_eq!(heard.0, b"* LIST x\r\n");
            assert!(heard.1 == rest.as_bytes(), "by {piece}");
            assert_eq!(heard.2, ["Done(b\"\", false)"]);
        }
        // What is not to be passed on is not, however long.
        for line in ["* CAPABILITY ", "* ENABLED ", "* OK [CAPABILITY "] {
            let heard = told_of_long(format!("{line}{x}\r\n* LIST x\r\ni0 OK ok\r\n").as_bytes(), piece);
            assert_eq!((heard.0, heard.1), (b"* LIST x\r\n".to_vec(), vec![]), "{line}");
            let ignored = heard.2.iter().filter(|event| event.starts_with("Ignored(TooLong")).count();
            assert_eq!((heard.2.len() - ignored, ignored), (1, usize::from(!line.contains("OK"))), "{line}");
        }
        let heard = told_of_long(format!("i0 OK [CAPABILITY {x}] hi\r\n").as_bytes(), piece);
        assert_eq!(heard, (vec![], vec![], vec!["Done(b\" OK Done.\\r\\n\", false)".to_owned()]));
        let heard = told_of_long(format!("* BYE {x}\r\n").as_bytes(), piece);
        assert!(heard.2.len() == 1 && heard.2[0].starts_with("Bye(b\"xxx"));
    }
}

#[test]
fn what_proves_nothing_ends_nothing() {
    let strays = [
        "",
        "   ",
        ")",
        "*",
        "foo",
        "foo bar",
        "a MAYBE done",
        "i1 FINE",
        "OK [COPYUID 1 2 3] Moved {5}",
        "BYE",
        "*OK x",
        "bar\" NIL) UID 5)",
        "\0\0",
        "\u{fc} OK",
        " i0 OK done",
    ];
    for stray in strays {
        // Within a reply, it passes.
        let mut play = Play::new("IMAP4rev1");
        play.play(&format!(
            "C: a NAMESPACE\nB: i0 NAMESPACE\nS: {stray}\nD: {stray}\nS: * NAMESPACE\nD: * NAMESPACE\nS: {stray}\nD: {stray}
             S: i0 OK\n=:  OK"
        ));
        // Between commands, and while one of our own runs, it is nobody's.
        let shown = format!("{:?}", Event::Ignored(Ignored::Stray, Bytes::copy_from_slice(stray.as_bytes())));
        play.play(&format!("S: {stray}\n!: {shown}\nN:\nB: i1 NOOP"));
        if stray != "i1 FINE" {
            play.play(&format!("S: {stray}\n!: {shown}\nS: {stray}\n!: {shown}\nS: i1 OK\n!: Noop true"));
            play.play("C: a NAMESPACE\nB: i2 NAMESPACE\nS: i2 OK\n=:  OK");
            play.clean();
        }
    }
}

/// The rest of a quoted string with a line's end in it goes where its start went, with what literals follow.
#[test]
fn a_reply_with_a_line_end_in_it_stays_whole() {
    let rest = "line\\\" NIL) BODY[] {10}\r\ni0 OK x\r\n)";
    let mut play = Play::new("IMAP4rev1");
    play.play(&format!(
        "C: a SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]\nC: a FETCH 1 ENVELOPE\nB: i1 FETCH 1 ENVELOPE
         S: * 1 FETCH (ENVELOPE (\"two\nD: * 1 FETCH (ENVELOPE (\"two\nS: {0}\nD: {0}\nS: i1 OK\n=:  OK [selected]
         U:\nC: b SELECT x\nB: i2 SELECT x\nS: * 1 FETCH (ENVELOPE (\"two\nS: {0}\nS: i2 OK\n=:  OK [selected]",
        rest.replace("\r\n", "\\r\\n")
    ));
    play.clean();
}

#[test]
fn a_non_synchronising_literal_of_a_server_is_a_literal() {
    let mut play = Play::new("IMAP4rev1");
    play.play(
        "C: a NAMESPACE\nB: i0 NAMESPACE
         S: * LIST () \"/\" {10+}\\r\\ni0 OK x\\r\\n
         D: * LIST () \"/\" {10+}\\r\\ni0 OK x\\r\\n\nS: i0 OK\n=:  OK",
    );
    play.clean();
}

#[test]
fn commands_of_our_own_go_first_and_tell_nobody() {
    let mut play = Play::new("IMAP4rev1");
    play.machine.handle_release();
    play.play("N:\nB: i0 NOOP\nS: * 3 EXISTS\nS: * OK [ALERT] x");
    play.machine.handle_attach();
    play.play(
        "C: a NAMESPACE
         S: * 3 EXISTS
         S: i0 OK
         !: Noop true
         B: i1 NAMESPACE
         S: * NAMESPACE NIL NIL NIL
         D: * NAMESPACE NIL NIL NIL
         S: i1 OK
         =:  OK",
    );
    play.clean();
}

#[test]
fn a_line_that_is_dropped_stays_dropped_to_its_end() {
    let mut play = Play::new("IMAP4rev1");
    play.play("C: s SELECT x\nB: i0 SELECT x\nS: i0 OK\n=:  OK [selected]");
    play.machine.handle_release();
    play.play("S; * 1 FETCH (X {5}\\r\\nab");
    assert!(!play.machine.is_clean() && play.machine.at_line_start());
    play.machine.handle_attach();
    play.play("S: cde FLAGS ())\nC: a SELECT x\nB: i1 SELECT x\nS: i1 OK\n=:  OK [selected]");
    play.clean();
}

/// RFC 9051 section 5.5: what was sent ahead is answered next, and is taken when it is run, not before. A command that
/// is run in its place is not told its answer.
#[test]
fn what_was_sent_ahead_is_run_in_its_turn() {
    for in_turn in [true, false] {
        let mut machine = connected("IMAP4rev1");
        machine.handle_command(Request::new(command(b"a NOOP").0, None));
        machine.handle_ahead(command(b"b CHECK").0);
        assert_eq!(machine.poll_transmit(), &b"i0 NOOP\r\ni1 CHECK\r\n"[..]);
        let mut input = BytesMut::from(&b"i0 OK one\r\ni1 OK two\r\n"[..]);
        machine.handle_input(&mut input).unwrap();
        assert_eq!(machine.poll_event(), Some(Event::Done(Bytes::from_static(b" OK one\r\n"), false)));
        assert!(machine.poll_event().is_none() && machine.is_paused() && !machine.is_clean());
        machine.handle_command(Request::new(command(if in_turn { b"b CHECK" } else { b"c CHECK" }).0, None));
        let taken = machine.handle_input(&mut input);
        assert_eq!(taken.is_ok(), in_turn);
        let told = machine.poll_event();
        assert_eq!(told, in_turn.then(|| Event::Done(Bytes::from_static(b" OK two\r\n"), false)));
        assert_eq!(machine.is_clean(), in_turn);
    }
}
