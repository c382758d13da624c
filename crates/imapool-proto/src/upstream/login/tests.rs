//! Transcripts of logins.

use proptest::prelude::*;

use super::*;
use crate::imap::sasl::{Form, Mechanism};

const ID: &str = concat!("ID (\"name\" \"imapool\" \"version\" \"", env!("CARGO_PKG_VERSION"), "\")");

fn password(user: &str, password: &str) -> Credential {
    Credential::new(Mechanism::LoginCommand, user.into(), Vec::new(), password.into())
}

fn heard(login: &mut Login, text: &str) -> Result<Option<Outcome>, LoginError> {
    login.handle_input(&mut BytesMut::from(format!("{text}\r\n").as_bytes()))
}

/// `C:` is what the machine has to send, `S:` what the server says, `=` the outcome.
fn play(login: &mut Login, script: &str) {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (who, text) = line.split_once(' ').unwrap();
        match who {
            "C:" => {
                assert_eq!(String::from_utf8_lossy(&login.poll_transmit()), text.replace("\\r\\n", "\r\n") + "\r\n")
            }
            "S:" => assert_eq!(heard(login, text), Ok(None), "{line}"),
            "S=" => {
                let (text, outcome) = text.rsplit_once(" => ").unwrap();
                let got = heard(login, text);
                assert!(format!("{got:?}").contains(outcome), "{line}: {got:?}");
            }
            _ => panic!("{line}"),
        }
    }
}

fn greet(login: &mut Login, capabilities: &str) {
    let script = format!(
        "S: * OK [CAPABILITY IMAP4rev1] hi
         C: i0 CAPABILITY
         S: * CAPABILITY {capabilities}
         S= i0 OK done => Ready"
    );
    play(login, &script);
}

#[test]
fn greeting_with_capabilities_then_login() {
    let mut login = Login::new(false, Identify::Auto);
    greet(&mut login, "IMAP4rev1 LITERAL+");
    login.start(&password("u\"8", "pä\r\nx")).unwrap();
    play(
        &mut login,
        "C: i1 LOGIN \"u\\\"8\" {6+}\\r\\npä\\r\\nx
         S= i1 NO [AUTHENTICATIONFAILED] no => Refused(Refusal { reply: \"NO [AUTHENTICATIONFAILED] no\"",
    );
    login.start(&password("u8", "x")).unwrap();
    play(
        &mut login,
        "C: i2 LOGIN \"u8\" \"x\"
         S: i2 OK hello
         C: i3 CAPABILITY\\r\\ni4 STATUS INBOX (UIDNEXT)
         S: * CAPABILITY IMAP4rev1 SORT
         S: i3 OK done
         S: * STATUS INBOX (UIDNEXT 7)
         S= i4 OK done => Accepted",
    );
    assert!(login.capabilities().has("SORT"));
}

#[test]
fn literals_wait_to_be_asked_for() {
    let mut login = Login::new(false, Identify::Auto);
    greet(&mut login, "IMAP4rev1");
    login.start(&password("ü", "ö")).unwrap();
    play(
        &mut login,
        "C: i1 LOGIN {2}
         S: + go",
    );
    assert_eq!(login.poll_transmit(), "ü {2}\r\n");
    play(&mut login, "S: + go");
    assert_eq!(login.poll_transmit(), "ö\r\n");
    play(
        &mut login,
        &format!(
            "S: i1 OK [CAPABILITY IMAP4rev1 ID NAMESPACE] in
             C: i2 {ID}\\r\\ni3 STATUS INBOX (UIDNEXT)
             S: i2 BAD what
             S= i3 OK [ALERT] done => Accepted"
        ),
    );
}

#[test]
fn starttls_forgets_what_came_before() {
    let mut login = Login::new(true, Identify::Auto);
    play(
        &mut login,
        "S: * OK [CAPABILITY IMAP4rev1 EVIL] hi
         C: i0 STARTTLS
         S= i0 OK begin => StartTls",
    );
    assert!(login.capabilities().is_empty());
    login.handle_tls();
    play(
        &mut login,
        "C: i1 CAPABILITY
         S: * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR LOGINDISABLED
         S= i1 OK done => Ready",
    );
    login.start(&password("u", "p")).unwrap();
    play(&mut login, "C: i2 AUTHENTICATE PLAIN AHUAcA==");
}

#[test]
fn what_is_not_an_imap_server_that_can_be_used() {
    for (starttls, script) in [
        (true, "S= * PREAUTH hi => PreAuth"),
        (false, "S= * PREAUTH hi => PreAuth"),
        (false, "S= * BYE too busy => Bye(\"too busy\")"),
        (false, "S= 220 smtp ready => Unexpected"),
        (false, "S= * NO go away => Unexpected"),
    ] {
        play(&mut Login::new(starttls, Identify::Auto), script);
    }
    play(&mut Login::new(true, Identify::Auto), "S: * OK hi\nC: i0 STARTTLS\nS= i0 BAD what => NoStartTls(\"what\")");
    play(&mut Login::new(false, Identify::Auto), "S: * OK hi\nC: i0 CAPABILITY\nS= i7 OK what => Unexpected");
}

#[test]
fn a_limit_is_not_a_wrong_password() {
    for (reply, outcome) in [
        ("NO [LIMIT] Maximum number of connections from user+IP exceeded", "Limit"),
        ("NO [ALERT] Too many simultaneous connections. (Failure)", "Limit"),
        ("NO Too many open connections", "Limit"),
        ("NO [UNAVAILABLE] Temporary authentication failure.", "Unavailable"),
        ("NO [AUTHENTICATIONFAILED] Authentication failed.", "Refused"),
        ("NO Too many login failures", "Unavailable"),
        ("BAD Request is throttled. Suggested Backoff Time: 57131 milliseconds", "Unavailable"),
        ("NO [ALERT] Account exceeded command or bandwidth limits. (Failure)", "Unavailable"),
        ("BAD User is authenticated but not connected.", "NotConnected"),
        ("NO LOGIN failed.", "definite: false"),
        ("NO [EXPIRED] old", "definite: true"),
        ("BAD Plaintext not allowed", "Refused"),
    ] {
        let mut login = Login::new(false, Identify::Auto);
        greet(&mut login, "IMAP4rev1");
        login.start(&password("u", "p")).unwrap();
        play(&mut login, &format!("S= i1 {reply} => {outcome}"));
    }
}

#[test]
fn a_refused_token_says_why() {
    let mut login = Login::new(false, Identify::Auto);
    greet(&mut login, "IMAP4rev1 AUTH=XOAUTH2");
    let token = Credential::new(Mechanism::XOAuth2, b"u".to_vec(), Vec::new(), b"tok".to_vec());
    login.start(&token).unwrap();
    play(
        &mut login,
        "C: i1 AUTHENTICATE XOAUTH2
         S: +
         C: dG9r
         S: + eyJzdGF0dXMiOiI0MDEifQ==",
    );
    assert_eq!(login.poll_transmit(), "\r\n");
    play(&mut login, "S= i1 NO failed => challenge: Some(\"eyJzdGF0dXMiOiI0MDEifQ==\")");
    assert_eq!(login.start(&password("u", "p")), Ok(()));
    login.capabilities = Capabilities::parse(b"LOGINDISABLED").into();
    assert_eq!(login.start(&password("u", "p")), Err(LoginError::NoMechanism));
}

/// Logged in by the OK, but with the first command still to be answered.
fn logged_in(capabilities: &str, identify: Identify) -> Login {
    let mut login = Login::new(false, identify);
    greet(&mut login, capabilities);
    login.start(&password("u", "p")).unwrap();
    play(&mut login, "C: i1 LOGIN \"u\" \"p\"\nS: i1 OK in");
    login
}

#[test]
fn an_ok_alone_is_no_login() {
    for (said, outcome) in [
        (
            "i3 BAD User is authenticated but not connected.",
            "NotConnected(\"User is authenticated but not connected.\")",
        ),
        ("i3 NO [AUTHENTICATIONFAILED] no", "NotConnected(\"no\")"),
        ("i2 NO not now", "NotConnected(\"not now\")"),
        ("i2 OK but nothing told", "NotConnected"),
        ("* BYE go away", "NotConnected(\"go away\")"),
        ("i1 OK once more", "Unexpected"),
        ("i4 OK done", "Unexpected"),
        ("i3 PREAUTH done", "Unexpected"),
        ("i2", "Unexpected"),
        ("+ more", "Unexpected"),
    ] {
        let mut login = logged_in("IMAP4rev1", Identify::Auto);
        play(&mut login, &format!("C: i2 CAPABILITY\\r\\ni3 STATUS INBOX (UIDNEXT)\nS= {said} => {outcome}"));
        assert!(!login.is_ready());
    }
    let mut login = logged_in("IMAP4rev1", Identify::Auto);
    assert_eq!(login.handle_end("it is gone"), Some(Outcome::NotConnected("it is gone".into())));
}

/// Where there is no INBOX, another command shows that there is a session; where STATUS is refused for whatever reason,
/// one that opens the mailbox. Who was refused is refused that, too.
#[test]
fn without_status_another_command_proves_the_session() {
    let begin = |offered: &str| {
        let mut login = logged_in(offered, Identify::Auto);
        let script = "C: i2 CAPABILITY\\r\\ni3 STATUS INBOX (UIDNEXT)\nS: * CAPABILITY x\nS: i2 OK told";
        play(&mut login, &script.replace(" x", &format!(" {offered}")));
        login
    };
    for (said, outcome) in [
        ("OK done", "Accepted"),
        ("NO no", "NotConnected"),
        ("BAD no", "NotConnected"),
        ("NO [LIMIT] too many", "Limit"),
    ] {
        for (offered, command) in [("IMAP4rev1", "LIST \"\" \"\""), ("IMAP4rev1 NAMESPACE", "NAMESPACE")] {
            for refusal in ["NO [NONEXISTENT] what", "NO Mailbox does not exist", "NO no such mailbox"] {
                let mut login = begin(offered);
                play(&mut login, &format!("S: i3 {refusal}\nC: i4 {command}\nS= i4 {said} => {outcome}"));
            }
        }
        for refusal in [
            "NO [SERVERBUG] oh",
            "NO Server Unavailable. 15",
            "NO Status Command is not permitted in current state",
            "BAD unknown command",
            "NO [NOPERM] there may be no such right",
        ] {
            let mut login = begin("IMAP4rev1 NAMESPACE");
            play(&mut login, &format!("S: i3 {refusal}\nC: i4 EXAMINE INBOX"));
            if said.starts_with("OK") {
                play(&mut login, "S: * 3 EXISTS\nS: i4 OK [READ-ONLY] there\nC: i5 CLOSE\nS= i5 OK left => Accepted");
            } else {
                play(&mut login, &format!("S= i4 {said} => {outcome}"));
            }
        }
    }
    play(&mut begin("IMAP4rev1"), "S= i3 NO [LIMIT] too many => Limit");
    let mut login = begin("IMAP4rev1");
    play(&mut login, "S: i3 BAD what\nC: i4 EXAMINE INBOX\nS: i4 OK\nC: i5 CLOSE\nS= i5 NO never => NotConnected");
}

#[test]
fn who_imapool_is_is_told_where_it_is_wanted() {
    const PROOF: &str = "STATUS INBOX (UIDNEXT)";
    for (identify, offered, sent) in [
        (Identify::Auto, "IMAP4rev1 ID", format!("i2 CAPABILITY\r\ni3 {ID}\r\ni4 {PROOF}\r\n")),
        (Identify::Auto, "IMAP4rev1", format!("i2 CAPABILITY\r\ni3 {PROOF}\r\n")),
        (Identify::Always, "IMAP4rev1", format!("i2 CAPABILITY\r\ni3 {ID}\r\ni4 {PROOF}\r\n")),
        (Identify::Never, "IMAP4rev1 ID", format!("i2 CAPABILITY\r\ni3 {PROOF}\r\n")),
    ] {
        assert_eq!(logged_in(offered, identify).poll_transmit(), sent);
    }
    // Offered only after the login, and not told with its OK.
    let mut login = logged_in("IMAP4rev1", Identify::Auto);
    play(
        &mut login,
        &format!(
            "C: i2 CAPABILITY\\r\\ni3 {PROOF}
             S: * CAPABILITY IMAP4rev1 ID
             S: i2 OK told
             S: i3 OK listed
             C: i4 {ID}
             S= i4 NO I do not care => Accepted"
        ),
    );
    // Not offered, but wanted.
    let mut login = logged_in("IMAP4rev1", Identify::Auto);
    play(
        &mut login,
        &format!(
            "C: i2 CAPABILITY\\r\\ni3 {PROOF}
             S: * CAPABILITY IMAP4rev1
             S: i2 OK told
             S: i3 NO STATUS Unsafe Login. Please contact kefu@188.com for help
             C: i4 {ID}\\r\\ni5 {PROOF}
             S: * ID {{5}}
             S: i5 OK
             S: i4 OK who
             S= i5 OK listed => Accepted"
        ),
    );
}

#[test]
fn a_password_goes_by_the_login_mechanism_where_nothing_else_is_offered() {
    let mut login = Login::new(false, Identify::Never);
    greet(&mut login, "IMAP4rev1 LOGINDISABLED AUTH=LOGIN SASL-IR");
    login.start(&password("u8", "p\u{e4}")).unwrap();
    play(
        &mut login,
        "C: i1 AUTHENTICATE LOGIN
         S: + VXNlcm5hbWU6
         C: dTg=
         S: + UGFzc3dvcmQ6
         C: cMOk
         S: + and?
         C: *
         S= i1 NO no => Refused",
    );
    let for_another = Credential::new(Mechanism::Plain, b"u".to_vec(), b"boss".to_vec(), b"p".to_vec());
    assert_eq!(login.start(&for_another), Err(LoginError::NoMechanism));
    greet(&mut Login::new(false, Identify::Never), "IMAP4rev1");
    let mut both = Login::new(false, Identify::Never);
    greet(&mut both, "IMAP4rev1 LOGINDISABLED AUTH=LOGIN AUTH=PLAIN SASL-IR");
    both.start(&password("u", "p")).unwrap();
    play(&mut both, "C: i1 AUTHENTICATE PLAIN AHUAcA==");
}

#[test]
fn octets_of_8_bits_go_as_the_client_wrote_them() {
    let quoted = || password("u", "p\u{e4}").written(Form::Quoted, Form::Quoted);
    for (offered, credential, sent) in [
        ("IMAP4rev1 LITERAL+", quoted(), "i1 LOGIN \"u\" \"p\u{e4}\"\r\n"),
        ("IMAP4rev1", quoted(), "i1 LOGIN \"u\" \"p\u{e4}\"\r\n"),
        ("IMAP4rev1 LITERAL+", password("u", "p\u{e4}"), "i1 LOGIN \"u\" {3+}\r\np\u{e4}\r\n"),
        ("IMAP4rev1", password("u", "p\u{e4}"), "i1 LOGIN \"u\" {3}\r\n"),
        (
            "IMAP4rev1 LITERAL+",
            password("u", "p\r\n").written(Form::Quoted, Form::Quoted),
            "i1 LOGIN \"u\" {3+}\r\np\r\n\r\n",
        ),
    ] {
        let mut login = Login::new(false, Identify::Never);
        greet(&mut login, offered);
        login.start(&credential).unwrap();
        assert_eq!(String::from_utf8_lossy(&login.poll_transmit()), sent);
    }
    let long = "\u{e4}".repeat(501);
    let mut login = Login::new(false, Identify::Never);
    greet(&mut login, "IMAP4rev1 LITERAL+");
    login.start(&password("u", &long).written(Form::Quoted, Form::Quoted)).unwrap();
    assert_eq!(String::from_utf8_lossy(&login.poll_transmit()), format!("i1 LOGIN \"u\" {{1002+}}\r\n{long}\r\n"));
}

#[test]
fn a_server_that_knows_no_literals_gets_the_password_without() {
    let mut login = Login::new(false, Identify::Never);
    greet(&mut login, "IMAP4rev1");
    login.start(&password("u", "p\u{e4}")).unwrap();
    play(
        &mut login,
        "C: i1 LOGIN \"u\" {3}
         S: i1 BAD what is this
         C: i2 LOGIN \"u\" \"p\u{e4}\"
         S= i2 BAD no => Refused",
    );
    // Once asked for, or refused by NO, it was understood.
    login.start(&password("u", "p\u{e4}")).unwrap();
    play(&mut login, "C: i3 LOGIN \"u\" {3}\nS= i3 NO no => Refused");
    login.start(&password("u", "p\r\n\u{e4}")).unwrap();
    play(&mut login, "C: i4 LOGIN \"u\" {5}\nS= i4 BAD no => Refused");
}

#[test]
fn what_the_user_is_to_see_is_kept_for_him() {
    let mut login = Login::new(false, Identify::Never);
    greet(&mut login, "IMAP4rev1");
    play(&mut login, "S: * OK [ALERT] to nobody");
    login.start(&password("u", "p")).unwrap();
    play(
        &mut login,
        "C: i1 LOGIN \"u\" \"p\"
         S: * NO [WEBALERT https://example.org/?a=b%20c] Web login \u{7}required.
         S: * OK [ALERT] once
         S: * OK [ALERT] once
         S: * OK nothing of note
         S: i1 OK [ALERT] twice",
    );
    login.poll_transmit();
    play(&mut login, "S: * OK [ALERT] thrice\nS: * OK [ALERT] too many");
    assert_eq!(
        login.take_alerts(),
        [
            "NO [WEBALERT https://example.org/?a=b%20c] Web login required.",
            "OK [ALERT] once",
            "OK [ALERT] twice",
            "OK [ALERT] thrice"
        ]
    );
    assert!(login.take_alerts().is_empty());
}

#[test]
fn a_goodbye_in_place_of_an_answer_says_why_where_it_does() {
    for (bye, outcome) in [
        ("Authentication failed", Some("Refused(Refusal { reply: \"NO [AUTHENTICATIONFAILED] Authentication failed\"")),
        ("[EXPIRED] go away", Some("definite: true")),
        ("Too many connections", Some("Limit")),
        ("try again later", Some("Unavailable")),
        ("go away", None),
        ("", None),
    ] {
        let mut login = Login::new(false, Identify::Never);
        greet(&mut login, "IMAP4rev1");
        login.start(&password("u", "p")).unwrap();
        login.poll_transmit();
        play(&mut login, &format!("S: * BYE {bye}"));
        assert!(!login.is_ready());
        let got = login.handle_end("closed").map(|got| format!("{got:?}"));
        assert!(got.as_deref().unwrap_or("").contains(outcome.unwrap_or("")), "{bye}: {got:?}");
        assert_eq!(
            (got.is_some(), login.last_words()),
            (outcome.is_some(), Some(bye.trim_start_matches("[EXPIRED] ")))
        );
    }
    // The answer may still come; it is the last on this connection.
    let mut login = Login::new(false, Identify::Never);
    greet(&mut login, "IMAP4rev1");
    login.start(&password("u", "p")).unwrap();
    login.poll_transmit();
    play(&mut login, "S: * BYE too much\nS= i1 NO [AUTHENTICATIONFAILED] no => Refused");
    assert!(!login.is_ready());
    // An OK after it opens nothing.
    let mut login = Login::new(false, Identify::Never);
    greet(&mut login, "IMAP4rev1");
    login.start(&password("u", "p")).unwrap();
    login.poll_transmit();
    play(&mut login, "S: * BYE too much\nS= i1 OK in => NotConnected");
}

#[test]
fn what_is_said_is_bounded() {
    for flood in ["* LIST () NIL {4294967295}\r\n".to_owned(), "* X\r\n".repeat(60_000), "x".repeat(70_000)] {
        let mut login = logged_in("IMAP4rev1", Identify::Auto);
        let heard = login.handle_input(&mut BytesMut::from(flood.as_bytes()));
        assert!(matches!(heard, Err(LoginError::Unexpected(_))), "{heard:?}");
    }
}

/// What a server may say after a greeting and CAPABILITY; `#` stands for the tag of the last command, `@` for that
/// before it.
const SAID: [&str; 24] = [
    "# OK in",
    "@ OK told",
    "# OK [CAPABILITY IMAP4rev1 NAMESPACE ID] in",
    "# NO no",
    "# BAD User is authenticated but not connected.",
    "@ NO no",
    "# NO [ALERT] no",
    "* OK [ALERT] look",
    "* NO [WEBALERT http://x/] look",
    "* BYE go",
    "* BYE Authentication failed",
    "* CAPABILITY IMAP4rev1 ID",
    "* LIST () NIL {3}",
    "* LIST () NIL {4294967295}",
    "abc)",
    "i77 OK no",
    "i1 OK in",
    "i2 OK in",
    "#",
    "+ ",
    "+ more",
    "",
    "x",
    "# PREAUTH in",
];

proptest! {
    /// However the server's words come, and however they are cut: nobody is let in before the login was answered OK,
    /// and then the first command of the session, each under its own tag.
    #[test]
    fn nobody_is_let_in_without_a_session(
        script in proptest::collection::vec((0..SAID.len(), 1usize..40), 1..12), ms in 0usize..2, never: bool,
    ) {
        let identify = if never { Identify::Never } else { Identify::Auto };
        let mut login = Login::new(false, identify);
        greet(&mut login, ["IMAP4rev1 ID LITERAL+", "IMAP4rev1 AUTH=LOGIN LOGINDISABLED"][ms]);
        login.start(&password("u", "p")).unwrap();
        let first = format!("i{:x}", login.next_tag() - 1);
        // Tags to which OK was said, and the one of the command that proves a session.
        let (mut well, mut proof) = (Vec::new(), None);
        let mut input = BytesMut::new();
        'script: for (said, cut) in script {
            let sent = login.poll_transmit();
            let proves = |line: &&[u8]| {
                [&b"STATUS INBOX (UIDNEXT)\r"[..], b"CLOSE\r", b"LIST \"\" \"\"\r", b"NAMESPACE\r"].iter().any(|end| line.ends_with(end))
            };
            for line in sent.split(|b| *b == b'\n').filter(proves) {
                let tag = String::from_utf8_lossy(line).split(' ').next().unwrap().to_owned();
                proof = Some(tag);
            }
            let last = login.next_tag() - 1;
            let line = SAID[said].replace('#', &format!("i{last:x}")).replace('@', &format!("i{:x}", last - 1)) + "\r\n";
            if let Some((tag, _)) = line.split_once(" OK") {
                well.push(tag.to_owned());
            }
            for piece in line.as_bytes().chunks(cut) {
                input.extend_from_slice(piece);
                match login.handle_input(&mut input) {
                    Ok(None) => {}
                    Ok(Some(Outcome::Accepted)) => {
                        prop_assert!(well.contains(&first));
                        prop_assert!(proof.as_ref().is_some_and(|tag| well.contains(tag)), "{:?} of {:?}", proof, well);
                        break 'script;
                    }
                    Ok(Some(_)) | Err(_) => break 'script,
                }
            }
        }
        for alert in login.take_alerts() {
            prop_assert!(alert.len() < 3000 && !alert.contains(['\r', '\n']));
        }
        prop_assert!(!matches!(login.handle_end("over"), Some(Outcome::Accepted | Outcome::Ready | Outcome::StartTls)));
    }
}

/// A replica's greeting tells what it offers, its words are the client's, and its OK is the session's first.
#[test]
fn a_replica_is_asked_nothing_but_the_login() {
    let mut login = Login::relayed(false);
    play(&mut login, "S= * OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] hi => Ready");
    assert!(!login.has_output() && login.capabilities().has("AUTH=PLAIN"));
    login.start(&password("u", "x")).unwrap();
    play(
        &mut login,
        "C: i0 LOGIN \"u\" \"x\"
         S= i0 NO [UNAVAILABLE] later => Refused(Refusal { reply: \"NO [UNAVAILABLE] later\"",
    );
    login.start(&password("u", "y")).unwrap();
    play(
        &mut login,
        "C: i1 LOGIN \"u\" \"y\"
         S= i1 OK [CAPABILITY IMAP4rev1 X] in => Accepted",
    );
    assert!(!login.has_output() && login.capabilities().has("X"));
}

/// One that tells less is asked for the rest.
#[test]
fn a_replica_that_tells_less_is_asked() {
    let mut login = Login::relayed(false);
    play(
        &mut login,
        "S: * OK hi
         C: i0 CAPABILITY
         S: * CAPABILITY IMAP4rev1
         S= i0 OK done => Ready",
    );
    login.start(&password("u", "x")).unwrap();
    play(
        &mut login,
        "C: i1 LOGIN \"u\" \"x\"
         S: i1 OK in
         C: i2 CAPABILITY
         S: * CAPABILITY IMAP4rev1 Y
         S= i2 OK done => Accepted",
    );
    assert!(login.capabilities().has("Y"));
}

fn known(words: &str) -> Arc<Capabilities> {
    Arc::new(Capabilities::parse(words.as_bytes()))
}

/// To a replica of which it is known what it offers, the login is said before it has greeted.
#[test]
fn a_login_ahead_of_the_greeting() {
    let mut login = Login::relayed(false);
    assert!(login.start_ahead(&known("IMAP4rev1 AUTH=PLAIN"), &password("u", "x")) && login.has_started());
    play(
        &mut login,
        "C: i0 LOGIN \"u\" \"x\"
         S= * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN NEW] hi => Ready",
    );
    assert!(login.has_started() && !login.is_ready() && login.capabilities().has("NEW"));
    play(
        &mut login,
        "S: * OK [ALERT] look
         S= i0 OK [CAPABILITY IMAP4rev1 X] in => Accepted",
    );
    assert!(login.capabilities().has("X") && !login.has_started());
    assert_eq!(login.take_alerts(), ["OK [ALERT] look"]);
}

/// The greeting says less, and so does the answer: the rest is asked for once it is in.
#[test]
fn a_login_ahead_of_a_greeting_that_tells_nothing() {
    let mut login = Login::relayed(false);
    assert!(login.start_ahead(&known("IMAP4rev1 OLD"), &password("u", "x")));
    play(
        &mut login,
        "C: i0 LOGIN \"u\" \"x\"
         S= * OK hi => Ready
         S: i0 OK in
         C: i1 CAPABILITY
         S: * CAPABILITY IMAP4rev1 Y
         S= i1 OK done => Accepted",
    );
    assert!(login.capabilities().has("Y") && !login.capabilities().has("OLD"));
}

/// A refusal leaves the connection as any refusal does; what comes in place of the greeting answers nothing.
#[test]
fn what_comes_of_a_login_that_was_ahead() {
    for (script, has_started) in [
        ("S= * OK hi => Ready\nS= i0 NO [AUTHENTICATIONFAILED] no => Refused(Refusal { reply: \"NO [AUTH", false),
        ("S= * BYE [UNAVAILABLE] full => Bye", true),
        ("S= * PREAUTH in => PreAuth", true),
        ("S= i0 OK in => Unexpected", true),
        ("S= * 1 EXISTS => Unexpected", true),
    ] {
        let mut login = Login::relayed(false);
        assert!(login.start_ahead(&known("IMAP4rev1"), &password("u", "x")));
        let _said = login.poll_transmit();
        play(&mut login, script);
        assert_eq!((login.has_started(), login.handle_end("gone")), (has_started, None), "{script}");
    }
}

/// Where the greeting has to be waited for, nothing is said.
#[test]
fn no_login_ahead() {
    let token = Credential::new(Mechanism::XOAuth2, "u".into(), Vec::new(), "t".into());
    for (starttls, offered, credential) in [
        (true, "IMAP4rev1 AUTH=PLAIN", password("u", "x")),
        (false, "IMAP4rev1 LOGINDISABLED", password("u", "x")),
        (false, "IMAP4rev1 AUTH=PLAIN", token),
        // In a literal, which has to be asked for.
        (false, "IMAP4rev1", password("u", "x\u{e4}")),
    ] {
        let mut login = Login::relayed(starttls);
        assert!(!login.start_ahead(&known(offered), &credential), "{offered}");
        assert!(!login.has_output() && !login.has_started(), "{offered}");
    }
    let mut login = Login::relayed(false);
    assert!(login.start_ahead(&known("IMAP4rev1 LITERAL+"), &password("u", "x\u{e4}")), "in one go");
    assert!(!login.start_ahead(&known("IMAP4rev1 LITERAL+"), &password("u", "x")), "once");
    let mut other = Login::new(false, Identify::Auto);
    assert!(!other.start_ahead(&known("IMAP4rev1"), &password("u", "x")), "to nobody but a replica");
}
