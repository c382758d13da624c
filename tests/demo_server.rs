//! The in-memory IMAP server of the tests and the demo, in raw transcripts.

// A helper's panic is its test's failure.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imapool::demo::server::{Capabilities, Event, Fault, Kill, Options, Passwords, Server, Stage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const WAIT: Duration = Duration::from_secs(10);

/// A client that speaks raw octets.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    closed: bool,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(WAIT, TcpStream::connect(address)).await.unwrap().unwrap();
        Self { stream, buffer: Vec::new(), closed: false }
    }

    async fn login(server: &Server, user: &str) -> Self {
        let mut client = Self::connect(server.address()).await;
        client.line().await;
        let reply = client.command(&format!("l LOGIN {user} pw-{user}")).await;
        assert!(reply.last().unwrap().starts_with("l OK"), "{reply:?}");
        client
    }

    async fn select(server: &Server, user: &str) -> Self {
        let mut client = Self::login(server, user).await;
        let reply = client.command("s SELECT INBOX").await;
        assert!(reply.last().unwrap().starts_with("s OK [READ-WRITE]"), "{reply:?}");
        client
    }

    async fn send(&mut self, octets: impl AsRef<[u8]>) {
        timeout(WAIT, self.stream.write_all(octets.as_ref())).await.unwrap().unwrap();
    }

    /// One line without its end; what is left, at the end of the connection.
    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned();
            }
            let mut chunk = [0; 4096];
            match timeout(WAIT, self.stream.read(&mut chunk)).await.expect("no line in time") {
                Ok(0) | Err(_) => {
                    self.closed = true;
                    return String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned();
                }
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// Sends a line and returns all lines up to its tagged reply, or the end of the connection.
    async fn command(&mut self, line: &str) -> Vec<String> {
        self.send(format!("{line}\r\n")).await;
        let tag = format!("{} ", line.split(' ').next().unwrap());
        self.until(|l| l.starts_with(&tag)).await
    }

    async fn until(&mut self, last: impl Fn(&str) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await;
            let found = last(&line);
            lines.push(line);
            if found || self.closed {
                return lines;
            }
        }
    }

    /// Runs a transcript: `C:` lines are sent, `S:` lines are what must come. A trailing `…` matches any rest, and
    /// `CRLF` in a `C:` line is a line end within.
    async fn transcript(&mut self, text: &str) {
        for step in text.lines().map(str::trim_start).filter(|l| !l.is_empty()) {
            let (side, line) = step.split_at(2);
            let line = line.strip_prefix(' ').unwrap_or(line);
            match side {
                "C:" => self.send(format!("{}\r\n", line.replace("CRLF", "\r\n"))).await,
                "S:" => {
                    let got = self.line().await;
                    match line.strip_suffix('…') {
                        Some(start) => assert!(got.starts_with(start), "wanted {line:?}, got {got:?}"),
                        None => assert_eq!(got, line),
                    }
                }
                _ => panic!("bad step {step:?}"),
            }
        }
    }
}

async fn server(options: Options) -> Server {
    Server::start(options).await.unwrap()
}

#[tokio::test]
async fn a_session_from_greeting_to_logout() {
    let server = server(Options::default()).await;
    let mut c = Client::connect(server.address()).await;
    c.transcript(
        "S: * OK [CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE AUTH=PLAIN AUTH=LOGIN AUTH=XOAUTH2] imapool demo…
         C: a0 SELECT INBOX
         S: a0 BAD …
         C: a1 LOGIN ann wrong
         S: a1 NO [AUTHENTICATIONFAILED] …
         C: a2 LOGIN \"ann\" {6}
         S: + …
         C: pw-ann
         S: a2 OK [CAPABILITY IMAP4rev1 LITERAL+ SASL-IR ID ENABLE IDLE NAMESPACE UIDPLUS MOVE UNSELECT CHILDREN] …
         C: a3 ENABLE UTF8=ACCEPT X-NONE CONDSTORE
         S: * ENABLED UTF8=ACCEPT CONDSTORE
         S: a3 OK …
         C: a4 ID (\"name\" NIL)
         S: * ID (…
         S: a4 OK …
         C: a5 NAMESPACE
         S: * NAMESPACE ((\"\" \"/\")) NIL NIL
         S: a5 OK …
         C: a6 FETCH 1 FLAGS
         S: a6 BAD Error in IMAP command: no mailbox selected.
         C: a7 FROB
         S: a7 BAD …
         C: a8 SELECT nowhere
         S: a8 NO [NONEXISTENT] …
         C: a9 LOGOUT
         S: * BYE Logging out
         S: a9 OK …
         S:",
    )
    .await;
    assert!(c.closed);
    let counters = server.counters();
    assert_eq!((counters.accepted, counters.logins, counters.failed_logins), (1, 1, 1));
    assert_eq!((counters.commands, counters.bad), (10, 3));
    server.stop().await;
}

#[tokio::test]
async fn authenticate_in_all_ways() {
    let server = server(Options::default()).await;
    for (exchange, result) in [
        // NUL ann NUL pw-ann
        ("C: t AUTHENTICATE PLAIN AGFubgBwdy1hbm4=", "t OK"),
        ("C: t AUTHENTICATE PLAIN\nS: + \nC: AGFubgBwdy1hbm4=", "t OK"),
        ("C: t AUTHENTICATE LOGIN\nS: + VXNlcm5hbWU6\nC: YW5u\nS: + UGFzc3dvcmQ6\nC: cHctYW5u", "t OK"),
        ("C: t AUTHENTICATE LOGIN YW5u\nS: + UGFzc3dvcmQ6\nC: cHctYW5u", "t OK"),
        // user=ann ^A auth=Bearer pw-ann ^A ^A
        ("C: t AUTHENTICATE XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgcHctYW5uAQE=", "t OK"),
        (
            "C: t AUTHENTICATE XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgbm8BAQ==\nS: + eyJz…\nC: ",
            "t NO [AUTHENTICATIONFAILED]",
        ),
        ("C: t AUTHENTICATE PLAIN\nS: + \nC: *", "t BAD"),
        ("C: t AUTHENTICATE PLAIN\nS: + \nC: !!", "t BAD"),
        ("C: t AUTHENTICATE PLAIN =", "t BAD"),
        ("C: t AUTHENTICATE CRAM-MD5", "t NO"),
        // bob NUL ann NUL pw-ann: another authorisation identity
        ("C: t AUTHENTICATE PLAIN Ym9iAGFubgBwdy1hbm4=", "t NO [AUTHORIZATIONFAILED]"),
    ] {
        let mut c = Client::connect(server.address()).await;
        c.line().await;
        c.transcript(exchange).await;
        let reply = c.line().await;
        assert!(reply.starts_with(result), "{exchange}: {reply}");
    }
}

#[tokio::test]
async fn messages_can_be_read_in_parts() {
    let server = server(Options::default()).await;
    let message = "Subject: one\r\nFrom: A B <a@x>\r\nTo: b@y\r\nDate: 1 Jan 2024 00:00:00 +0000\r\n\r\nhello\r\n";
    server.deliver("ann", "Box", message).unwrap();
    let mut c = Client::login(&server, "ann").await;
    c.command("x EXAMINE Box").await;
    let size = message.len();
    c.transcript(&format!(
        "C: 1 FETCH 1 (UID RFC822.SIZE FLAGS)
         S: * 1 FETCH (UID 1 RFC822.SIZE {size} FLAGS (\\Recent))
         S: 1 OK …"
    ))
    .await;
    c.transcript(
        "C: 2 FETCH 1 ENVELOPE
         S: * 1 FETCH (ENVELOPE (\"1 Jan 2024 00:00:00 +0000\" \"one\" ((\"A B\" NIL \"a\" \"x\")) ((\"A B\" NIL \"a\" \"x\")) ((\"A B\" NIL \"a\" \"x\")) ((NIL NIL \"b\" \"y\")) NIL NIL NIL NIL))
         S: 2 OK …
         C: 3 FETCH 1 BODY.PEEK[HEADER.FIELDS (Subject X)]
         S: * 1 FETCH (BODY[HEADER.FIELDS (Subject X)] {16}
         S: Subject: one
         S:
         S: )
         S: 3 OK …
         C: 4 FETCH 1 BODY[TEXT]<1.3>
         S: * 1 FETCH (BODY[TEXT]<1> {3}
         S: ell)
         S: 4 OK …
         C: 5 FETCH 1 (BODYSTRUCTURE BODY[2])
         S: * 1 FETCH (BODYSTRUCTURE (\"TEXT\" \"PLAIN\" NIL NIL NIL \"7BIT\" 7 1 NIL NIL NIL NIL) BODY[2] NIL)
         S: 5 OK …
         C: 6 FETCH 2 FLAGS
         S: 6 BAD …
         C: 7 FETCH 1 BODY[HEADER
         S: 7 BAD …
         C: 8 UID FETCH 7:* FLAGS
         S: * 1 FETCH (UID 1 FLAGS (\\Recent))
         S: 8 OK …
         C: 9 STORE 1 +FLAGS (\\Seen)
         S: 9 NO [READ-ONLY] …
         C: 10 UNSELECT
         S: 10 OK …",
    )
    .await;
    c.command("y SELECT INBOX").await;
    let reply = c.command("11 FETCH 4 (BODYSTRUCTURE BODY.PEEK[2.MIME])").await;
    let html = "\"TEXT\" \"HTML\" (\"CHARSET\" \"utf-8\") NIL NIL \"7BIT\"";
    assert!(reply[0].contains("\"ALTERNATIVE\" (\"BOUNDARY\" \"=-demo-4\")") && reply[0].contains(html), "{reply:?}");
    assert_eq!(reply[1], "Content-Type: text/html; charset=utf-8");
}

#[tokio::test]
async fn mailboxes_and_appends() {
    let server = server(Options::default()).await;
    let mut c = Client::login(&server, "ann").await;
    c.transcript(
        "C: 1 CREATE a/b/
         S: 1 OK …
         C: 2 LIST \"\" a%
         S: * LIST (\\HasChildren) \"/\" \"a\"
         S: 2 OK …
         C: 3 RENAME a \"c d\"
         S: 3 OK …
         C: 4 LIST \"c d/\" *
         S: * LIST (\\HasNoChildren) \"/\" \"c d/b\"
         S: 4 OK …
         C: 5 SUBSCRIBE \"c d/b\"
         S: 5 OK …
         C: 6 LSUB \"\" c*
         S: * LSUB (\\Noselect \\HasChildren) \"/\" \"c d\"
         S: * LSUB (\\HasNoChildren) \"/\" \"c d/b\"
         S: 6 OK …
         C: 7 APPEND none {5}
         S: 7 NO [TRYCREATE] …
         C: 8 APPEND \"c d\" (\\Foo) {4+}CRLFa: b
         S: 8 BAD …
         C: 9 APPEND \"c d\" (\\seen Key) \" 1-Jan-2024 10:00:00 +0100\" {8+}CRLFa: bCRLFCRLF
         S: 9 OK [APPENDUID …
         C: 10 STATUS \"c d\" (MESSAGES UIDNEXT UNSEEN RECENT)
         S: * STATUS \"c d\" (MESSAGES 1 UIDNEXT 2 UNSEEN 0 RECENT 1)
         S: 10 OK …
         C: 11 DELETE \"c d\"
         S: 11 OK …
         C: 12 LIST \"\" c*
         S: * LIST (\\Noselect \\HasChildren) \"/\" \"c d\"
         S: * LIST (\\HasNoChildren) \"/\" \"c d/b\"
         S: 12 OK …
         C: 13 DELETE INBOX
         S: 13 NO …
         C: 14 CREATE inbox
         S: 14 NO [ALREADYEXISTS] …
         C: 15 LIST \"\" \"\"
         S: * LIST (\\Noselect) \"/\" \"\"
         S: 15 OK …",
    )
    .await;
}

#[tokio::test]
async fn searches() {
    let server = server(Options::default()).await;
    let mut c = Client::select(&server, "ann").await;
    c.command("f STORE 2,3 +FLAGS.SILENT (\\Flagged Work)").await;
    for (keys, found) in [
        ("ALL", "1 2 3 4 5 6 7 8 9 10"),
        ("FLAGGED 3:*", "3"),
        ("KEYWORD work", "2 3"),
        ("OR UID 1 (2:3 NOT 3)", "1 2"),
        ("SUBJECT \"MESSAGE 10\"", "10"),
        ("FROM sender7@ TO ann", "7"),
        ("BODY \"of ann\" NOT 1:9", "10"),
        ("SENTON 6-Feb-2024", "5"),
        ("SINCE 1-Jan-2024 BEFORE 1-Jan-2025 9:*", "9 10"),
        ("LARGER 400 1:5", "4"),
        ("HEADER X-None \"\"", ""),
        ("CHARSET UTF-8 TEXT {10+}\r\nmessage 10", "10"),
    ] {
        let reply = c.command(&format!("s SEARCH {keys}")).await;
        assert_eq!(reply[0].trim_end(), format!("* SEARCH {found}").trim_end(), "{keys}: {reply:?}");
    }
    let refused = c.command("s SEARCH CHARSET KOI8-R ALL").await;
    assert!(refused[0].starts_with("s NO [BADCHARSET"), "{refused:?}");
    let deep = format!("s SEARCH {}ALL", "NOT ".repeat(99));
    for bad in ["s SEARCH", "s SEARCH 11", "s SEARCH (ALL", "s SEARCH FROB", &deep] {
        let refused = c.command(bad).await;
        assert!(refused[0].starts_with("s BAD"), "{bad}: {refused:?}");
    }
}

#[tokio::test]
async fn two_sessions_hear_of_each_other_at_safe_points() {
    let server = server(Options::default()).await;
    let mut a = Client::select(&server, "ann").await;
    let mut b = Client::select(&server, "ann").await;
    a.transcript(
        "C: 1 STORE 1,3 +FLAGS (\\Deleted)
         S: * 1 FETCH (FLAGS (\\Deleted \\Recent))
         S: * 3 FETCH (FLAGS (\\Deleted \\Recent))
         S: 1 OK …
         C: 2 EXPUNGE
         S: * 3 EXPUNGE
         S: * 1 EXPUNGE
         S: 2 OK …",
    )
    .await;
    server.deliver("ann", "INBOX", "Subject: new\r\n\r\n").unwrap();
    // FETCH by number must not be told of EXPUNGE, but may be of new messages; its numbers are the old ones.
    b.transcript(
        "C: 1 FETCH 2,3 UID
         S: * 2 FETCH (UID 2)
         S: * 11 EXISTS
         S: * 1 RECENT
         S: 1 NO [EXPUNGEISSUED] …
         C: 2 UID FETCH 1:2 UID
         S: * 2 FETCH (UID 2)
         S: * 3 EXPUNGE
         S: * 1 EXPUNGE
         S: 2 OK …
         C: 3 IDLE
         S: + idling",
    )
    .await;
    assert_eq!(a.command("3 NOOP").await, ["* 9 EXISTS", "* 8 RECENT", "3 OK NOOP completed."]);
    a.transcript(
        "C: 4 UID MOVE 2 Trash
         S: * OK [COPYUID …
         S: * 1 EXPUNGE
         S: 4 OK …
         C: 5 UID STORE 4 FLAGS.SILENT (\\Seen)
         S: 5 OK …",
    )
    .await;
    b.transcript(
        "S: * 1 EXPUNGE
         S: * 1 FETCH (FLAGS (\\Seen))
         C: DONE
         S: 3 OK …
         C: 4 CLOSE
         S: 4 OK …",
    )
    .await;
    a.command("6 STORE 1:2 FLAGS.SILENT (\\Deleted)").await;
    assert_eq!(a.command("7 UID EXPUNGE 4").await[0], "* 1 EXPUNGE");
    assert_eq!(server.messages("ann", "INBOX").unwrap().len(), 7);
    assert_eq!(server.messages("ann", "Trash").unwrap().len(), 1);
    let copied = a.command("8 COPY 1:2 Sent").await;
    assert!(copied.last().unwrap().starts_with("8 OK [COPYUID"), "{copied:?}");
    assert_eq!(server.messages("ann", "Sent").unwrap().len(), 4);
    assert_eq!(server.messages("ann", "INBOX").unwrap().len(), 7);
}

#[tokio::test]
async fn reading_a_body_marks_it_and_tells_the_other_session() {
    let server = server(Options::default()).await;
    let mut a = Client::select(&server, "ann").await;
    let mut b = Client::select(&server, "ann").await;
    let reply = a.command("1 FETCH 2 BODY[TEXT]").await;
    assert!(reply.iter().any(|l| l.ends_with("FLAGS (\\Seen \\Recent))")), "{reply:?}");
    assert_eq!(b.command("1 NOOP").await[0], "* 2 FETCH (FLAGS (\\Seen))");
    assert_eq!(a.command("2 NOOP").await.len(), 1);
}

#[tokio::test]
async fn deleting_a_selected_mailbox_ends_the_sessions_of_others() {
    let server = server(Options::default()).await;
    let mut a = Client::login(&server, "ann").await;
    let mut b = Client::login(&server, "ann").await;
    b.command("1 SELECT Trash").await;
    a.command("0 SELECT Trash").await;
    a.command("1 DELETE Trash").await;
    assert!(b.command("2 NOOP").await[0].starts_with("* BYE"));
    assert!(a.command("2 NOOP").await[0].starts_with("2 OK"));
}

#[tokio::test]
async fn replies_carry_markers() {
    let server = server(Options { marker: true, ..Options::default() }).await;
    let _first = Client::login(&server, "ann").await;
    let mut bob = Client::login(&server, "bob").await;
    let reply = bob.command("1 SELECT INBOX").await;
    assert!(reply.last().unwrap().ends_with(" acct=bob conn=2"), "{reply:?}");
    bob.command("2 ENABLE CONDSTORE").await;
    let reply = bob.command("3 FETCH 1 BODY.PEEK[HEADER.FIELDS (Subject)]").await;
    assert_eq!(reply[1], "Subject: [bob] INBOX message 1");
    assert!(reply.last().unwrap().ends_with(" acct=bob conn=2 enabled=CONDSTORE"), "{reply:?}");
}

#[tokio::test]
async fn faults_happen_where_they_are_asked_for() {
    let faults = Arc::new(|event: &Event<'_>| match (event.stage, event.verb) {
        (Stage::Command, "NOOP") => Fault::CloseMidReply(6),
        (Stage::Command, "CHECK") => Fault::Garbage("* WHAT\r\n".into()),
        (Stage::Command, "STATUS") => Fault::Tagged("NO [UNAVAILABLE] later".into()),
        (Stage::Command, "LSUB") => Fault::Silence,
        (Stage::Command, "LIST") => Fault::ByeThenClose,
        (Stage::Command, "ID") => Fault::Untagged("OK still here".into()),
        (Stage::Command, "RENAME") => Fault::ResetBefore,
        (Stage::Literal, "APPEND") => Fault::CloseBefore,
        _ => Fault::None,
    });
    let server = server(Options { faults: Some(faults), ..Options::default() }).await;
    let mut c = Client::select(&server, "ann").await;
    assert_eq!(c.command("1 STATUS INBOX (MESSAGES)").await, ["1 NO [UNAVAILABLE] later"]);
    assert_eq!(c.command("2 ID NIL").await[0], "* OK still here");
    c.send("3 CHECK\r\n4 NOOP\r\n").await;
    assert_eq!(c.line().await, "* WHAT");
    assert_eq!(c.line().await, "4 OK N");
    for (command, wanted) in [("1 LIST \"\" *", "* BYE"), ("1 APPEND INBOX {5}", ""), ("1 RENAME a b", "")] {
        let mut c = Client::login(&server, "ann").await;
        let reply = c.command(command).await;
        assert!(reply[0].starts_with(wanted) && reply.iter().all(|l| !l.starts_with("1 ")), "{command}: {reply:?}");
    }
    let mut c = Client::login(&server, "ann").await;
    c.send("1 LSUB \"\" *\r\n2 NOOP\r\n").await;
    let answer = timeout(Duration::from_millis(100), c.stream.read_u8()).await;
    assert!(answer.is_err(), "silence was broken: {answer:?}");
}

#[tokio::test]
async fn limits_passwords_and_kills() {
    let options = Options {
        max_connections_per_account: Some(1),
        passwords: Passwords::list([("ann", "old"), ("bob", "pw-bob")]),
        capabilities: Capabilities::default().without("UNSELECT").without("LITERAL+"),
        ..Options::default()
    };
    let server = server(options).await;
    let mut a = Client::connect(server.address()).await;
    a.line().await;
    assert!(a.command("1 LOGIN ann old").await[0].starts_with("1 OK"));
    let mut b = Client::connect(server.address()).await;
    b.line().await;
    assert_eq!(
        b.command("1 LOGIN ann old").await,
        ["1 NO [LIMIT] Maximum number of connections from user+IP exceeded (mail_max_userip_connections=1)"]
    );
    server.set_passwords(Passwords::list([("ann", "new")]));
    assert!(b.command("2 LOGIN ann old").await[0].starts_with("2 NO [AUTHENTICATIONFAILED]"));
    a.command("2 SELECT INBOX").await;
    assert!(a.command("3 UNSELECT").await[0].starts_with("3 BAD"));
    assert_eq!((server.open(), server.open_of("ann"), server.open_of("bob")), (2, 1, 0));
    assert_eq!(server.kill_user("ann", Kill::Bye), 1);
    assert!(a.line().await.starts_with("* BYE"));
    drop(a);
    timeout(WAIT, server.wait_open(|open| open == 1)).await.unwrap();
    assert!(b.command("3 LOGIN ann new").await[0].starts_with("3 OK"));
    // A literal that was not offered ends the connection; so does a reset.
    assert!(b.command("4 APPEND INBOX {1+}").await[0].starts_with("* BYE"));
    drop(b);
    let _c = Client::connect(server.address()).await.line().await;
    let mut d = Client::connect(server.address()).await;
    d.line().await;
    timeout(WAIT, server.wait_open(|open| open == 1)).await.unwrap();
    server.kill(Kill::Reset);
    timeout(WAIT, server.wait_open(|open| open == 0)).await.unwrap();
    assert!(timeout(WAIT, d.stream.read_u8()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_restarted_server_goes_on_with_its_store() {
    let first = server(Options::default()).await;
    first.deliver("ann", "INBOX", "Subject: kept\r\n\r\n").unwrap();
    let mut c = Client::select(&first, "ann").await;
    let (address, store) = (first.address(), first.store());
    let stopping = tokio::spawn(timeout(WAIT, first.stop()));
    assert!(c.line().await.starts_with("* BYE"));
    drop(c);
    stopping.await.unwrap().unwrap();
    let second = server(Options { addresses: vec![address], store: Some(store), ..Options::default() }).await;
    let mut c = Client::login(&second, "ann").await;
    assert_eq!(c.command("1 STATUS INBOX (MESSAGES)").await[0], "* STATUS \"INBOX\" (MESSAGES 11)");
}

#[tokio::test]
async fn odd_input_is_answered_and_never_panics() {
    let server = server(Options::default()).await;
    let mut c = Client::select(&server, "ann").await;
    for odd in [
        "1 FETCH 1 BODY[1.2.3.4.5.MIME]<4294967295.4294967295>",
        "1 FETCH 1 BODY[]<4294967295.4294967295>",
        "1 FETCH 4294967295:* UID",
        "1 UID FETCH 4294967295 UID",
        "1 FETCH 0 UID",
        "1 FETCH 1 BODY[0]",
        "1 FETCH 1 ()",
        "1 STORE 1 FLAGS (\\Foo)",
        "1 STORE 1 FLAGS \"x\"",
        "1 COPY 1 \u{fc}",
        "1 LIST \"\" \"%%%%%%%%%%%%%%%%%%%%%%%%%%%%%*\"",
        "1 SEARCH ON 31-Foo-2024",
        "1 APPEND INBOX \"31-Feb-9999 99:99:99 +9999\" {0}",
        "1 STATUS INBOX (",
        "1 SELECT \"unclosed {3}",
        "1 CREATE \"//\"",
        "1 RENAME INBOX INBOX/x",
        "1 UID",
        "1 IDLE x",
        "1 LOGOUT x",
    ] {
        c.send(format!("{odd}\r\n")).await;
        let reply = c.until(|l| l.starts_with("1 ") || l.starts_with("+ ")).await;
        if reply.last().unwrap().starts_with('+') {
            c.send("\r\n").await;
            c.until(|l| l.starts_with("1 ")).await;
        }
        assert!(!c.closed, "{odd}");
    }
    for odd in ["", " ", "\u{0}", "(", "1"] {
        c.send(format!("{odd}\r\n")).await;
        let reply = c.line().await;
        assert!(reply.contains(" BAD "), "{odd:?}: {reply:?}");
    }
    let mut c = Client::connect(server.address()).await;
    c.line().await;
    c.send(vec![b'x'; 100_000]).await;
    assert!(c.line().await.starts_with("* BYE"));
    assert_eq!(server.messages("ann", "INBOX/x").unwrap().len(), 10);
}

/// Over memory instead of a socket, the same octets.
#[tokio::test(start_paused = true)]
async fn a_connection_needs_no_socket() {
    let options = Options { addresses: Vec::new(), login_delay: Duration::from_secs(60), ..Options::default() };
    let server = Server::start(options).await.unwrap();
    let mut stream = server.connect();
    stream.write_all(b"a LOGIN u pw-u\r\nb LOGOUT\r\n").await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("* OK") && said.contains("a OK") && said.contains("b OK"), "{said}");
    assert_eq!(server.counters().logins, 1);
    server.stop().await;
}

/// A server of this kind.
async fn like(kind: &str) -> Server {
    let kind = imapool::demo::server::personality::Personality::of(kind).unwrap();
    Server::start(kind.options()).await.unwrap()
}

#[tokio::test]
async fn changes_are_told_by_mod_sequence() {
    let server = like("dovecot").await;
    let mut a = Client::login(&server, "u").await;
    let reply = a.command("a SELECT INBOX (QRESYNC (1 1))").await;
    assert!(reply.last().unwrap().starts_with("a BAD"), "not enabled: {reply:?}");
    let reply = a.command("b ENABLE QRESYNC").await;
    assert_eq!(reply[0], "* ENABLED QRESYNC");
    let reply = a.command("c SELECT INBOX").await;
    assert!(reply.iter().any(|line| line.starts_with("* OK [HIGHESTMODSEQ 10]")), "{reply:?}");
    let validity = reply.iter().find_map(|line| line.strip_prefix("* OK [UIDVALIDITY ")?.split(']').next()).unwrap();
    let validity = validity.to_owned();
    assert_eq!(a.command("d STORE 2 +FLAGS.SILENT (\\Deleted)").await[0], "* 2 FETCH (UID 2 MODSEQ (11))");
    let reply = a.command("e STORE 2:3 (UNCHANGEDSINCE 10) +FLAGS (\\Seen)").await;
    assert_eq!(reply[0], "* 3 FETCH (UID 3 MODSEQ (12) FLAGS (\\Seen \\Recent))");
    assert!(reply[1].starts_with("e OK [MODIFIED 2]"), "{reply:?}");
    let reply = a.command("f EXPUNGE").await;
    assert_eq!(reply[0], "* VANISHED 2");
    assert!(reply[1].starts_with("f OK [HIGHESTMODSEQ 13]"), "{reply:?}");
    let reply = a.command("g UID FETCH 1:* (FLAGS) (CHANGEDSINCE 10 VANISHED)").await;
    assert_eq!(reply[0], "* VANISHED (EARLIER) 2");
    assert_eq!(reply[1], "* 2 FETCH (UID 3 FLAGS (\\Seen \\Recent) MODSEQ (12))");
    assert_eq!(reply.len(), 3);
    assert_eq!(a.command("h SEARCH MODSEQ 12").await[0], "* SEARCH 2 (MODSEQ 12)");
    let reply = a.command(&format!("i SELECT INBOX (QRESYNC ({validity} 11 1:5))")).await;
    assert!(reply.contains(&"* VANISHED (EARLIER) 2".to_owned()), "{reply:?}");
    assert!(reply.contains(&"* 2 FETCH (UID 3 FLAGS (\\Seen) MODSEQ (12))".to_owned()), "{reply:?}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_returned_of_search_and_list() {
    let server = like("dovecot").await;
    let mut a = Client::select(&server, "u").await;
    let reply = a.command("a UID SEARCH RETURN (MIN MAX COUNT) 3:5").await;
    assert_eq!(reply[0], "* ESEARCH (TAG \"a\") UID MIN 3 MAX 5 COUNT 3");
    assert_eq!(a.command("b SEARCH RETURN () 2,4:5").await[0], "* ESEARCH (TAG \"b\") ALL 2,4:5");
    assert_eq!(a.command("c SEARCH RETURN (COUNT) DELETED").await[0], "* ESEARCH (TAG \"c\") COUNT 0");
    let reply = a.command("d LIST (SPECIAL-USE) \"\" (\"*\") RETURN (STATUS (MESSAGES))").await;
    assert!(reply.contains(&"* LIST (\\HasNoChildren \\Sent) \"/\" \"Sent\"".to_owned()), "{reply:?}");
    assert!(reply.contains(&"* STATUS \"Sent\" (MESSAGES 2)".to_owned()), "{reply:?}");
    assert!(!reply.iter().any(|line| line.contains("INBOX")), "{reply:?}");
    server.stop().await;
}

/// What a kind says and does is what its reports have.
#[tokio::test]
async fn kinds_differ_as_reported() {
    let script: &[(&str, &[(&str, &str)])] = &[
        (
            "netease",
            &[("a SELECT INBOX", "a NO SELECT Unsafe Login"), ("b ID NIL", "b OK"), ("c SELECT INBOX", "c OK")],
        ),
        (
            "exchange-2013",
            &[("a SELECT INBOX", "a OK"), ("b MOVE 1 Trash", "[COPYUID "), ("c UNSELECT", "c BAD Command")],
        ),
        ("gmail", &[("a SELECT INBOX", "* 0 RECENT"), ("b NOOP", "b OK NOOP completed. [THROTTLED]")]),
        (
            "hmailserver",
            &[("a SELECT INBOX", "a OK"), ("b EXAMINE nosuch", "b BAD"), ("c CHECK", "c OK"), ("d IDLE", "d NO")],
        ),
        (
            "davmail",
            &[("a SELECT INBOX", "*  10 EXISTS"), ("b STATUS INBOX (MESSAGES)", "b NO"), ("c EXAMINE x", "c NO")],
        ),
        (
            "icloud",
            &[("a ENABLE QRESYNC", "a OK"), ("b SELECT INBOX", "b OK"), ("c SELECT INBOX (QRESYNC (1 1))", "c BAD")],
        ),
        ("xeams", &[("a EXAMINE INBOX", "* 10 EXISTS"), ("b FETCH 1 BODY.PEEK[TEXT]", "* 1 FETCH (BODY[TEXT] {34+}")]),
        (
            "courier",
            &[("a SELECT Sent", "a NO"), ("b SELECT INBOX.Sent", "b OK"), ("c LIST \"\" %", "* LIST (\\HasChildren)")],
        ),
        ("domino", &[("a LIST \"\" \"\"", "* LIST (\\Noselect) \"\\\\\""), ("b SELECT \"Archive\\\\2024\"", "b OK")]),
        ("lacks:MOVE", &[("a SELECT INBOX", "a OK"), ("b MOVE 1 Trash", "b BAD")]),
    ];
    for (kind, steps) in script {
        let server = like(kind).await;
        let mut client = Client::login(&server, "u").await;
        for (command, expected) in *steps {
            let reply = client.command(command).await;
            assert!(reply.iter().any(|line| line.starts_with(expected)), "{kind}: {command}: {reply:#?}");
        }
        server.stop().await;
    }
    let server = like("exchange").await;
    let mut client = Client::connect(server.address()).await;
    client.line().await;
    assert!(client.command("a LOGIN u wrong").await[0].starts_with("a OK"));
    assert_eq!(client.command("b SELECT INBOX").await, ["b BAD User is authenticated but not connected."]);
    server.stop().await;
}
