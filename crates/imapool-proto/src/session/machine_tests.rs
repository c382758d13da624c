use super::*;
use crate::imap::sasl::Mechanism;

#[path = "machine_properties.rs"]
mod properties;

const OFFERED: &str = "IMAP4rev1 AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2";
const BOUNDS: Bounds = Bounds { line: 100, literals: 1000 };

/// An action in one line, as the scripts have it.
fn told(action: &Action) -> String {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).replace('\r', "\\r").replace('\n', "\\n");
    let announced = |literal: &Option<Literal>| {
        literal.map_or_else(String::new, |l| format!("{{{}{}}}", l.len, if l.sync { "" } else { "+" }))
    };
    match action {
        Action::Write(octets) => {
            let line = octets.strip_suffix(b"\r\n").expect("whole lines");
            assert!(!line.contains(&b'\n'), "one line at a time");
            format!("S: {}", text(line))
        }
        Action::StartTls => "TLS".into(),
        Action::Login(c) => {
            let authzid = if c.authzid.is_empty() { String::new() } else { format!(" as {}", text(&c.authzid)) };
            format!("LOGIN {:?} {} {}{authzid}", c.mechanism, text(&c.user), text(c.secret.expose()))
        }
        Action::Run(run) => {
            let mut out = format!("RUN {} ", text(&run.command.tag));
            for segment in &run.command.segments {
                out += &text(&segment.text);
                if let Some((octets, binary)) = &segment.literal {
                    out += &format!("{}<{}>", if *binary { "~" } else { "" }, text(octets));
                }
            }
            out + &announced(&run.streams)
        }
        Action::Send(octets) => format!("SEND {}", text(octets)),
        Action::SendSegment(segment, literal) => format!("SEGMENT {}{}", text(segment), announced(literal)),
        Action::Close(end) => format!("CLOSE {end:?}"),
    }
}

struct Play {
    machine: Machine,
    got: VecDeque<String>,
}

impl Play {
    fn new(starttls: bool, login: bool) -> Self {
        let mut play =
            Self { machine: Machine::new(BOUNDS, Front { starttls, login }, OFFERED.into()), got: VecDeque::new() };
        play.play(&format!("\nS: * OK [CAPABILITY {OFFERED}] imapool ready."));
        play
    }

    fn logged_in() -> Self {
        let mut play = Self::new(false, true);
        play.play(
            "C: in LOGIN u p
             LOGIN LoginCommand u p
             > accept IMAP4rev1 IDLE
             S: in OK [CAPABILITY IMAP4rev1 IDLE] Logged in",
        );
        play
    }

    fn selected() -> Self {
        let mut play = Self::logged_in();
        play.play("C: s SELECT x\nRUN s SELECT x\n> selected OK x\nS: s OK x");
        assert!(play.machine.is_selected());
        play
    }

    fn collect(&mut self) {
        while let Some(action) = self.machine.poll() {
            self.got.push_back(told(&action));
        }
    }

    /// `C:` a line of the client (`C;` without line end), `>` what comes from elsewhere; all other lines are what the
    /// machine has to do for it, no more and no less, as [`told`] puts it.
    fn play(&mut self, script: &str) -> &mut Self {
        for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            self.collect();
            let octets = |text: &str| text.strip_prefix(' ').unwrap_or(text).replace("\\r\\n", "\r\n");
            match line.split_at(2.min(line.len())) {
                ("C:", text) => self.input(line, (octets(text) + "\r\n").as_bytes()),
                ("C;", text) => self.input(line, octets(text).as_bytes()),
                ("> ", event) => {
                    assert_eq!(self.got, [""; 0], "before {line}");
                    self.event(event);
                }
                _ => assert_eq!(self.got.pop_front().as_deref(), Some(line)),
            }
        }
        self.collect();
        assert_eq!(self.got, [""; 0], "after all");
        self
    }

    fn input(&mut self, line: &str, octets: &[u8]) {
        assert_eq!(self.got, [""; 0], "before {line}");
        assert!(self.machine.wants_input(), "{line}");
        self.machine.handle_input(octets);
    }

    fn event(&mut self, event: &str) {
        let (word, text) = event.split_once(' ').unwrap_or((event, ""));
        match word {
            "accept" => self.machine.handle_login(LoginReply::Accepted(text.into()), &[]),
            "refuse" => self.machine.handle_login(LoginReply::Refused { reply: text.into(), challenge: None }, &[]),
            "challenge" => {
                let (challenge, reply) = text.split_once(' ').unwrap();
                let challenge = Some(challenge.into());
                self.machine.handle_login(LoginReply::Refused { reply: reply.into(), challenge }, &[]);
            }
            "continue" => self.machine.handle_continue(format!("{text}\r\n").into()),
            "done" => self.machine.handle_done(format!(" {text}\r\n").as_bytes(), false),
            "selected" => self.machine.handle_done(format!(" {text}\r\n").as_bytes(), true),
            "lost" => self.machine.handle_lost(text),
            "revoked" => self.machine.handle_revoked(),
            "drain" => self.machine.handle_drain(End::Drain),
            "close" => self.machine.handle_drain(End::Operator),
            "timeout" => self.machine.handle_timeout(),
            "eof" => self.machine.handle_eof(),
            "tls" => self.machine.handle_tls(Front { starttls: false, login: true }, text.into()),
            _ => panic!("{event}"),
        }
    }
}

#[test]
fn before_login() {
    let mut play = Play::new(false, true);
    play.play(
        "C: a capability
         S: * CAPABILITY IMAP4rev1 AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2
         S: a OK Capability completed.
         C: b NOOP
         S: b OK NOOP completed.
         C: c SELECT INBOX
         S: c BAD Log in first, or unknown command.
         C: d APPEND INBOX {3+}\\r\\nabc
         S: d BAD Log in first, or unknown command.
         C: e STARTTLS
         S: e BAD TLS is not available here, or active already.
         C: f LOGOUT
         S: * BYE Logging out
         S: f OK Logout completed.
         CLOSE Logout",
    );
    assert!(!play.machine.wants_input() && !play.machine.is_authenticated());
}

#[test]
fn id_is_answered_here() {
    let id = concat!(
        "S: * ID (\"name\" \"imapool\" \"version\" \"",
        env!("CARGO_PKG_VERSION"),
        "\")\nS: i OK ID completed."
    );
    Play::new(false, true).play(&format!("C: i ID NIL\n{id}"));
    Play::selected().play(&format!("C: i ID (\"x\" {{1+}}\\r\\ny)\n{id}"));
}

#[test]
fn login() {
    let mut play = Play::new(false, true);
    play.play(
        r#"C: a LOGIN u
           S: a BAD LOGIN needs a user name and a password.
           C: a LOGIN u p x
           S: a BAD LOGIN takes two arguments.
           C: a LOGIN "" x
           S: a NO [AUTHENTICATIONFAILED] Authentication failed.
           C: a login "u\"8" pass]word
           LOGIN LoginCommand u"8 pass]word
           > refuse NO [AUTHENTICATIONFAILED] wrong
           S: a NO [AUTHENTICATIONFAILED] wrong
           C: b LOGIN {2}
           S: + OK
           C: ab {3+}
           C: c
           C:
           LOGIN LoginCommand ab c\r\n
           > accept NEW
           S: b OK [CAPABILITY NEW] Logged in
           C: c CAPABILITY
           S: * CAPABILITY NEW
           S: c OK Capability completed.
           C: d LOGIN u p
           S: d BAD Already logged in.
           C: e AUTHENTICATE PLAIN
           S: e BAD Already logged in.
           C: f STARTTLS
           S: f BAD Already logged in.
           C: g COMPRESS DEFLATE
           S: g BAD Unknown command.
           C: h UNAUTHENTICATE
           S: h BAD Unknown command."#,
    );
    assert!(play.machine.is_authenticated() && !play.machine.is_selected());
}

#[test]
fn no_password_without_tls() {
    let mut play = Play::new(true, false);
    play.play(
        "C: a LOGIN u p
         S: a NO [PRIVACYREQUIRED] Logging in needs TLS first.
         C: b AUTHENTICATE PLAIN AHUAcA==
         S: b NO [PRIVACYREQUIRED] Logging in needs TLS first.",
    );
}

#[test]
fn sasl() {
    let mut play = Play::new(false, true);
    play.play(
        "C: a AUTHENTICATE GSSAPI
         S: a NO Mechanism not available.
         C: a AUTHENTICATE OAUTHBEARER
         S: a NO Mechanism not available.
         C: a AUTHENTICATE
         S: a BAD AUTHENTICATE needs a mechanism.
         C: a AUTHENTICATE PLAIN AHUAcA== x
         S: a BAD AUTHENTICATE takes a mechanism and an initial response.
         C: a AUTHENTICATE PLAIN {8+}\\r\\nAHUAcA==
         S: a BAD AUTHENTICATE takes a mechanism and an initial response.
         C: a AUTHENTICATE PLAIN =
         S: a BAD Malformed SASL response.
         C: a AUTHENTICATE PLAIN
         S: +\x20
         C: *
         S: a BAD Authentication aborted.
         C: a AUTHENTICATE PLAIN
         S: +\x20
         C: x {3+}\\r\\nabc
         S: a BAD Malformed SASL response.
         C: a authenticate plain ZQB1AHA=
         LOGIN Plain u p as e
         > refuse NO [AUTHENTICATIONFAILED] no
         S: a NO [AUTHENTICATIONFAILED] no
         C: b AUTHENTICATE LOGIN
         S: + VXNlcm5hbWU6
         C: dQ==
         S: + UGFzc3dvcmQ6
         C: cA==
         LOGIN Login u p
         > accept X
         S: b OK [CAPABILITY X] Logged in",
    );
}

#[test]
fn a_refused_token_is_explained() {
    let token = "dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==";
    for answer in ["C:", "C: AQ==", "C: x {1+}\\r\\nx"] {
        Play::new(false, true).play(&format!(
            "C: a AUTHENTICATE XOAUTH2 {token}
             LOGIN XOAuth2 u user=u\u{1}auth=Bearer t\u{1}\u{1}
             > challenge e30= NO [AUTHENTICATIONFAILED] no
             S: + e30=
             {answer}
             S: a NO [AUTHENTICATIONFAILED] no
             C: b NOOP
             S: b OK NOOP completed."
        ));
    }
    // A synchronising literal is not waited for.
    Play::new(false, true).play(&format!(
        "C: a AUTHENTICATE XOAUTH2 {token}
         LOGIN XOAuth2 u user=u\u{1}auth=Bearer t\u{1}\u{1}
         > challenge e30= NO no
         S: + e30=
         C: x {{9}}
         S: a NO no
         C: b NOOP
         S: b OK NOOP completed."
    ));
}

#[test]
fn a_long_token_in_small_pieces() {
    let mut play = Play::new(false, true);
    play.play("C: a AUTHENTICATE XOAUTH2\nS: + ");
    let secret = "t".repeat(12_000);
    let message = format!("user=u\u{1}auth=Bearer {secret}\u{1}\u{1}");
    let line = Credential::new(Mechanism::XOAuth2, b"u".into(), Vec::new(), message.clone().into()).sasl_message();
    for piece in line.expose().chunks(1448) {
        assert!(play.machine.wants_input());
        play.machine.handle_input(piece);
        assert!(play.machine.poll().is_none());
    }
    play.play(&format!("C:\nLOGIN XOAuth2 u {message}"));
}

#[test]
fn starttls_forgets_what_was_pipelined() {
    let mut play = Play::new(true, false);
    play.play("C: a STARTTLS\\r\\nb LOGIN evil x\\r\\nc NO\nS: a OK Begin TLS negotiation now.\nTLS");
    assert!(!play.machine.wants_input());
    play.play(
        "> tls IMAP4rev1 X
         C: b CAPABILITY
         S: * CAPABILITY IMAP4rev1 X
         S: b OK Capability completed.
         C: c STARTTLS
         S: c BAD TLS is not available here, or active already.
         C: d LOGIN u p
         LOGIN LoginCommand u p",
    );
}

#[test]
fn one_command_runs_at_a_time_in_order() {
    let mut play = Play::new(false, true);
    play.play(
        "C: a LOGIN u p\\r\\nb SELECT x\\r\\nc FETCH 1 FLAGS\\r\\nd LOGOUT\\r\\ne NOOP
         LOGIN LoginCommand u p
         > accept X
         S: a OK [CAPABILITY X] Logged in
         RUN b SELECT x
         > selected OK [READ-WRITE] done
         S: b OK [READ-WRITE] done
         RUN c FETCH 1 FLAGS
         > done NO nothing
         S: c NO nothing
         S: * BYE Logging out
         S: d OK Logout completed.
         CLOSE Logout",
    );
}

#[test]
fn pipelining_is_slowed() {
    let mut play = Play::logged_in();
    play.play("C: a LIST \"\" *\nRUN a LIST \"\" *");
    let mut given = 0;
    while play.machine.wants_input() {
        play.machine.handle_input(b"b NOOP\r\n");
        given += 1;
        assert!(play.machine.poll().is_none() && given < 1000);
    }
    play.play(&format!("> done OK\nS: a OK\n{}", "S: b OK NOOP completed.\n".repeat(given)));
    assert!(play.machine.wants_input());
}

#[test]
fn noop_outside_a_mailbox_needs_no_server() {
    Play::logged_in().play("C: a NOOP\nS: a OK NOOP completed.");
    let mut play = Play::selected();
    play.play("C: a NOOP\nRUN a NOOP\n> selected OK\nS: a OK\nC: b CLOSE\nRUN b CLOSE\n> done OK\nS: b OK");
    play.play("C: c NOOP\nS: c OK NOOP completed.");
}

#[test]
fn literals_are_collected() {
    let mut play = Play::logged_in();
    play.play(
        "C: a RENAME {3}
         S: + OK
         C; a
         C; bc
         C:  ~{4+}
         C: \\r\\nxy
         RUN a RENAME <abc> ~<\\r\\nxy>
         > done OK
         S: a OK
         C: b RENAME (\"{1}\" {0}
         S: + OK
         C: )
         RUN b RENAME (\"{1}\" <>)",
    );
}

#[test]
fn literals_have_a_bound() {
    let mut play = Play::logged_in();
    play.play("C: a RENAME {1001}\nS: a NO [TOOBIG] Literal too big\nC: b NOOP\nS: b OK NOOP completed.");
    let octets = "x".repeat(600);
    play.play(&format!(
        "C: a RENAME {{600+}}
         C: {octets} {{600}}
         S: a NO [TOOBIG] Literal too big
         C: a RENAME {{600+}}
         C; {octets} {{600+}}\\r\\n
         S: a NO [TOOBIG] Literal too big
         C: {octets} x {{2+}}\\r\\n12 y {{5}}
         C: c NOOP
         S: c OK NOOP completed.
         C: a RENAME {{99999+}}
         S: a NO [TOOBIG] Literal too big
         S: * BYE [TOOBIG] Literal too big
         CLOSE ProtocolError"
    ));
    // Empty literals are not for free.
    let mut play = Play::new(false, true);
    play.play(&format!("C: a LOGIN {{0+}}{}\nS: a NO [TOOBIG] Literal too big\nC:", "\\r\\n x {0+}".repeat(8)));
}

#[test]
fn messages_stream() {
    let mut play = Play::logged_in();
    play.play("C: a APPEND x {5}\nRUN a APPEND x {5}");
    assert!(play.machine.remnant() == Remnant::Unfinished && !play.machine.is_awaiting_client());
    play.play("> continue + come on\nS: + come on");
    assert!(play.machine.is_awaiting_client());
    play.play(
        "C; ab
         SEND ab
         C: cde {3+}
         SEND cde
         SEGMENT  {3+}
         > continue
         C; 123\\r\\n
         SEND 123
         SEGMENT\x20
         C: b NOOP
         > done OK [APPENDUID 1 2]
         S: a OK [APPENDUID 1 2]
         S: b OK NOOP completed.",
    );
    play.play("C: c APPEND x {0+}\nRUN c APPEND x {0+}\nC:\n> continue\nSEND\x20\nSEGMENT\x20\n> done OK\nS: c OK");
}

#[test]
fn a_message_may_be_refused_at_any_point() {
    // Before it was asked for.
    Play::logged_in()
        .play("C: a APPEND x {5}\nRUN a APPEND x {5}\n> done NO no\nS: a NO no\nC: b NOOP\nS: b OK NOOP completed.");
    Play::logged_in().play(
        "C: a APPEND x {5+}\nRUN a APPEND x {5+}\nC: abc\\r\\n {2+}\\r\\nxx\\r\\nb NOOP\n> done NO no\nS: a NO no
         S: b OK NOOP completed.",
    );
    // While it is given: the server still gets what was announced.
    Play::logged_in().play(
        "C: a APPEND x {5}\nRUN a APPEND x {5}\n> continue + \nS: + \nC; ab\nSEND ab\n> done NO no\nS: a NO no
         C: cde\nSEND cde\nSEGMENT\x20\nC: b NOOP\nS: b OK NOOP completed.",
    );
    // Before a second one.
    for (announced, given) in [("{3}", ""), ("{3+}", "C: abc\n")] {
        Play::logged_in().play(&format!(
            "C: a APPEND x {{1}}\nRUN a APPEND x {{1}}\n> continue + \nS: + \nC: a {announced}\nSEND a\nSEGMENT  {announced}
             > done NO no\nS: a NO no\n{given}C: b NOOP\nS: b OK NOOP completed."
        ));
    }
}

#[test]
fn idle() {
    let mut play = Play::selected();
    play.play("C: a IDLE\nRUN a IDLE");
    assert!(matches!(play.machine.remnant(), Remnant::Idle { .. }) && !play.machine.is_idling());
    play.play("> continue + idling\nS: + idling");
    assert!(play.machine.is_idling());
    play.play("> continue + again\nC: done\nSEND DONE\\r\\n");
    assert!(!matches!(play.machine.remnant(), Remnant::Idle { .. }), "DONE was said");
    play.play("C: b NOOP\n> selected OK done\nS: a OK done\nRUN b NOOP");
    // DONE before the continuation, and a refusal.
    Play::logged_in().play(
        "C: a IDLE\\r\\nDONE\\r\\nb NOOP\nRUN a IDLE\n> continue + \nS: + \nSEND DONE\\r\\n\n> done OK\nS: a OK
         S: b OK NOOP completed.\nC: c IDLE\nRUN c IDLE\n> done BAD no\nS: c BAD no\n\
         C: d IDLE now\nS: d BAD This command takes no arguments.",
    );
}

#[test]
fn idle_ended_by_something_else() {
    for line in ["x NOOP", "DONE ", "x {9}", "", "DONE {4}"] {
        Play::selected().play(&format!(
            "C: a IDLE\nRUN a IDLE\n> continue + \nS: + \nC: {line}\nSEND DONE\\r\\n\n> selected OK done
             S: a BAD Expected DONE.\nC: b NOOP\nRUN b NOOP"
        ));
    }
    // What belongs to that line is no command.
    Play::selected().play(
        "C: a IDLE\nRUN a IDLE\n> continue + \nS: + \nC: x {1+}\\r\\nyb DELETE x\\r\\nc NOOP\nSEND DONE\\r\\n
         > selected OK done\nS: a BAD Expected DONE.\nRUN c NOOP",
    );
}

#[test]
fn unknown_commands_may_ask_for_lines() {
    let mut play = Play::logged_in();
    play.play("C: a XYZZY\nRUN a XYZZY\n> continue + more\nS: + more");
    assert!(play.machine.is_awaiting_client());
    play.play("C: plugh\nSEND plugh\\r\\n\n> continue + more\nS: + more\nC:\nSEND \\r\\n\n> done OK\nS: a OK");
    // What is not asked for is not sent.
    play.play(
        "C: b LIST x y\nRUN b LIST x y\n> continue + what\nC: c NOOP\n> done OK\nS: b OK\nS: c OK NOOP completed.",
    );
    play.play(
        "C: a XYZZY\nRUN a XYZZY\n> continue + more\nS: + more\nC: x {5+}
         S: a BAD Literal in the middle of a string\nS: * BYE Literal in the middle of a string\nCLOSE ProtocolError",
    );
}

#[test]
fn the_clients_end() {
    // At rest, and with an unfinished command.
    for open in ["", "C; a NO\n", "C: a LOGIN {3}\nS: + OK\n", "C: a AUTHENTICATE PLAIN\nS: + \n"] {
        Play::new(false, true).play(&format!("{open}> eof\nCLOSE ClientClosed"));
    }
    // What was sent before it is still done, and answered.
    Play::logged_in().play(
        "C: a LIST x y\\r\\nb NOOP\\r\\nc LOGOUT\nRUN a LIST x y\n> eof\n> done OK\nS: a OK\nS: b OK NOOP completed.
         S: * BYE Logging out\nS: c OK Logout completed.\nCLOSE Logout",
    );
    Play::new(false, true)
        .play("C: a LOGIN u p\nLOGIN LoginCommand u p\n> eof\n> refuse NO\nS: a NO\nCLOSE ClientClosed");
    Play::logged_in().play("C: a XYZZY\nRUN a XYZZY\n> eof\n> continue + \nS: + \nCLOSE ClientClosed");
}

#[test]
fn what_was_running_at_the_end_is_known() {
    let mut play = Play::selected();
    play.play("C: a IDLE\nRUN a IDLE\n> continue + \nS: + \n> eof\nCLOSE ClientClosed");
    assert!(matches!(play.machine.remnant(), Remnant::Idle { .. }) && play.machine.remnant() != Remnant::Unfinished);
    let mut play = Play::selected();
    play.play("C: a IDLE\nRUN a IDLE\n> continue + \nS: + \n> drain\nS: * BYE [UNAVAILABLE] Server shutting down\nCLOSE Drain");
    assert!(matches!(play.machine.remnant(), Remnant::Idle { .. }));
    for end in ["> eof\nCLOSE ClientClosed", "> timeout\nS: * BYE Disconnected for inactivity\nCLOSE IdleTimeout"] {
        let mut play = Play::logged_in();
        play.play(&format!("C: a APPEND x {{5}}\nRUN a APPEND x {{5}}\n> continue + \nS: + \nC; a\nSEND a\n{end}"));
        assert!(
            play.machine.remnant() == Remnant::Unfinished && !matches!(play.machine.remnant(), Remnant::Idle { .. })
        );
    }
    let mut play = Play::logged_in();
    play.play("C: a LOGOUT\nS: * BYE Logging out\nS: a OK Logout completed.\nCLOSE Logout");
    assert!(play.machine.remnant() != Remnant::Unfinished && !matches!(play.machine.remnant(), Remnant::Idle { .. }));
}

const DRAINED: &str = "S: * BYE [UNAVAILABLE] Server shutting down\nCLOSE Drain\n";

#[test]
fn draining() {
    for open in ["", "C; a NO\n", "C: a LOGIN {3}\nS: + OK\n", "C: a AUTHENTICATE PLAIN\nS: + \n"] {
        Play::new(false, true).play(&format!("{open}> drain\n{DRAINED}"));
    }
    Play::new(false, true)
        .play(&format!("C: a LOGIN u p\nLOGIN LoginCommand u p\n> drain\n> refuse NO\nS: a NO\n{DRAINED}"));
    // What runs is finished; what is pipelined behind it is not begun.
    Play::logged_in()
        .play(&format!("C: a LIST x y\\r\\nb LIST y z\nRUN a LIST x y\n> drain\n> done OK\nS: a OK\n{DRAINED}"));
    Play::selected().play(&format!("C: a IDLE\nRUN a IDLE\n> drain\n> continue + \nS: + \n{DRAINED}"));
    Play::logged_in().play(&format!(
        "C: a APPEND x {{2}}\nRUN a APPEND x {{2}}\n> drain\n> continue + \nS: + \nC: ab\nSEND ab\nSEGMENT\x20
         > done OK\nS: a OK\n{DRAINED}"
    ));
    Play::new(true, true)
        .play(&format!("C: a STARTTLS\nS: a OK Begin TLS negotiation now.\nTLS\n> drain\n> tls X\n{DRAINED}"));
    Play::logged_in().play(
        "C: a LIST x y\nRUN a LIST x y\n> close\n> done OK\nS: a OK\nS: * BYE [UNAVAILABLE] Session closed by the \
         administrator\nCLOSE Operator",
    );
}

#[test]
fn timeouts() {
    Play::new(false, true)
        .play("> timeout\nS: * BYE Disconnected: no login in time\nCLOSE LoginTimeout\n> timeout\n> drain");
    Play::logged_in().play("C; a\n> timeout\nS: * BYE Disconnected for inactivity\nCLOSE IdleTimeout\n> eof");
}

#[test]
fn lost_connections() {
    // Without a mailbox the session goes on.
    Play::logged_in()
        .play("C: a LIST x y\\r\\nb NOOP\nRUN a LIST x y\n> lost NO gone\nS: a NO gone\nS: b OK NOOP completed.");
    let ends = "S: * BYE [UNAVAILABLE] Connection to the mail server lost\nCLOSE UpstreamLost";
    Play::selected().play(&format!("C: a NOOP\\r\\nb NOOP\nRUN a NOOP\n> lost NO gone\nS: a NO gone\n{ends}"));
    Play::selected().play(&format!("> lost NO gone\n{ends}"));
    // In the middle of a message: the rest is read and thrown away.
    Play::logged_in().play(
        "C: a APPEND x {5}\nRUN a APPEND x {5}\n> continue + \nS: + \nC; ab\nSEND ab\n> lost NO gone\nS: a NO gone
         C: cde {2+}\\r\\nxy\nC: b NOOP\nS: b OK NOOP completed.",
    );
    for announced in ["{5}", "{5+}\nC: abcde"] {
        let (first, rest) = announced.split_once('\n').unwrap_or((announced, ""));
        Play::logged_in().play(&format!(
            "C: a APPEND x {first}\nRUN a APPEND x {first}\n> lost NO gone\nS: a NO gone\n{rest}\nC: b NOOP
             S: b OK NOOP completed."
        ));
    }
    Play::logged_in().play(
        "C: a IDLE\nRUN a IDLE\n> continue + \nS: + \n> lost NO gone\nS: a NO gone\nC: b NOOP\nS: b OK NOOP completed.",
    );
    Play::logged_in().play(
        "C: a LIST x y\nRUN a LIST x y\n> revoked
         S: a NO [AUTHENTICATIONFAILED] The mail server no longer accepts this login.
         S: * BYE The mail server no longer accepts this login\nCLOSE UpstreamLost",
    );
}

#[test]
fn malformed_commands() {
    let mut play = Play::logged_in();
    play.play(
        "C:
         S: * BAD Invalid tag
         C: a
         S: a BAD Missing command
         C: a\\x00
         S: * BAD NUL or bare CR in command line
         S: * BYE NUL or bare CR in command line
         CLOSE ProtocolError"
            .replace("\\x00", "\0")
            .as_str(),
    );
    Play::logged_in().play("C: + {3}\nS: * BAD Invalid tag\nC: a  {3+}\nS: a BAD Missing command\nC: abc\nC: b NOOP\nS: b OK NOOP completed.");
    let long = "x".repeat(101);
    Play::logged_in().play(&format!(
        "C; {long}\nS: * BAD [TOOBIG] Command line too long\nS: * BYE [TOOBIG] Command line too long\nCLOSE ProtocolError"
    ));
    Play::logged_in().play(
        "C: a SELECT \"x {3+}\nS: * BAD Literal in the middle of a string\nS: * BYE Literal in the middle of a string
         CLOSE ProtocolError",
    );
    Play::logged_in().play(
        "C: a SELECT {1+}\\r\\nx\0\nS: a BAD NUL or bare CR in command line\nS: * BYE NUL or bare CR in command line
         CLOSE ProtocolError",
    );
}

#[test]
fn whoever_does_not_speak_imap_is_sent_away() {
    let mut play = Play::new(false, true);
    play.play(&"C: x y\nS: x BAD Log in first, or unknown command.\n".repeat(19));
    play.play("C: a NOOP\nS: a OK NOOP completed.");
    play.play(&"C: x y\nS: x BAD Log in first, or unknown command.\n".repeat(19));
    play.play(
        "C: x y\nS: x BAD Log in first, or unknown command.\nS: * BYE Too many malformed commands\nCLOSE ProtocolError",
    );
}
