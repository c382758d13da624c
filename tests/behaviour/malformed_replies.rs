//! Replies that are none, as servers of the field say them: the client gets what the server has said, octet for
//! octet, and its command, its session and the connection go on. Both modes, with a second session beside that hears
//! none of it.

use imapool::config::PoolMode;
use proptest::prelude::*;

use crate::support::{Client, Conn, Harness, Scripted, soon};

/// A server with three messages (UIDs 11 to 13) in each mailbox, that answers `command` by `reply` (`TAG` stands for
/// the tag).
pub(crate) async fn serve(mut conn: Conn, command: &str, reply: &[u8]) {
    while let Some(got) = soon("a command", conn.command()).await {
        let tag = conn.tag.clone();
        let told = match &*got {
            _ if got == command => {
                conn.send(with_tag(reply, &tag)).await;
                continue;
            }
            "LOGOUT" => return conn.send(format!("* BYE bye\r\n{tag} OK bye\r\n")).await,
            "IDLE" => {
                conn.send("+ idling\r\n").await;
                if conn.line().await.is_none() {
                    return;
                }
                ""
            }
            _ if got.starts_with("SELECT ") => {
                "* FLAGS (\\Seen)\r\n* 3 EXISTS\r\n* 0 RECENT\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 14] x\r\n"
            }
            _ if got.starts_with("STATUS ") => "* STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)\r\n",
            "UID SEARCH 1:3" => "* SEARCH 11 12 13\r\n",
            "UID SEARCH UNSEEN" => "* SEARCH 11\r\n",
            _ => "",
        };
        conn.send(format!("{told}{tag} OK done\r\n")).await;
    }
}

fn with_tag(reply: &[u8], tag: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = reply;
    while let Some(at) = rest.windows(3).position(|three| three == b"TAG") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(tag.as_bytes());
        rest = &rest[at + 3..];
    }
    out.extend_from_slice(rest);
    out
}

async fn harness(backend: &Scripted, mode: PoolMode) -> Harness {
    Harness::start(backend.address, |config| config.pool.mode = mode).await
}

async fn selected(harness: &Harness) -> Client {
    let mut client = harness.login("u8").await;
    client.play("C: s SELECT INBOX\nS~ s OK…").await;
    client
}

/// The client that gives `command` hears this `reply`, and goes on; one beside it hears nothing. There is one
/// connection for both where they share, and neither mode loses it.
async fn heard_as_said(mode: PoolMode, command: &'static str, reply: &[u8]) {
    eprintln!("{mode:?}: {command}: {:?}", String::from_utf8_lossy(&reply[..reply.len().min(300)]));
    let said = reply.to_vec();
    let backend = Scripted::start(move |conn: Conn| {
        let said = said.clone();
        async move { serve(conn, command, &said).await }
    })
    .await;
    let harness = harness(&backend, mode).await;
    let mut one = selected(&harness).await;
    let mut two = selected(&harness).await;
    one.send(format!("x {command}\r\n")).await;
    let expected = with_tag(reply, "x");
    let got = one.octets(expected.len()).await;
    assert!(got == expected, "{:?}", String::from_utf8_lossy(&got[..got.len().min(300)]));
    for client in [&mut one, &mut two] {
        client.play("C: y NOOP\nS: y OK done\nC: z LIST \"\" x\nS: z OK done").await;
    }
    // The third finds the connection, or the hub, as it was.
    let mut three = selected(&harness).await;
    three.play("C: y LIST \"\" y\nS: y OK done").await;
    let connections = if mode == PoolMode::Multiplex { 1 } else { 3 };
    assert_eq!(backend.logins(), connections);
    drop((one, two, three));
    harness.finish().await;
}

const MODES: [PoolMode; 2] = [PoolMode::Multiplex, PoolMode::Session];

/// Each seen with the server that is named.
#[tokio::test]
async fn what_servers_of_the_field_say() {
    for (command, reply) in [
        // Exchange 2013 says no `* OK` before COPYUID (net-imap #250, parsedmarc #80); others forget the `*` alone.
        ("UID MOVE 11 x", "[COPYUID 124 11 233]\r\nTAG OK MOVE completed.\r\n"),
        ("UID MOVE 11 x", "OK [COPYUID 124 11 233] {5}\r\nTAG OK MOVE completed.\r\n"),
        // Outlook.com (MailKit #555).
        ("UID MOVE 11 x", "* OK [COPYUID 14  ]\r\nTAG OK MOVE completed.\r\n"),
        // A blank line after a literal (cpython #88574, imapclient #162).
        ("FETCH 1 BODY[]", "* 1 FETCH (BODY[] {6}\r\nA: b\r\n\r\n)\r\nTAG OK done\r\n"),
        ("FETCH 1 BODY[]", "* 1 FETCH (BODY[] {6}\r\nA: b\r\n)\r\n\r\nTAG OK done\r\n"),
        // Xeams ends the reply too early, and goes on without `*` (paperless-ngx #13412).
        (
            "FETCH 1 (BODY[] RFC822.SIZE)",
            "* 1 FETCH (UID 11 BODY[] {6}\r\nA: b\r\n)\r\n RFC822.SIZE 6)\r\nTAG OK done\r\n",
        ),
        // Line ends of folded headers in quoted strings (Cyrus #1522).
        (
            "FETCH 1 ENVELOPE",
            "* 1 FETCH (ENVELOPE (NIL \"two\r\n lines\" NIL NIL NIL NIL NIL NIL NIL \"<\r\n\t1>\"))\r\nTAG OK done\r\n",
        ),
        (
            "FETCH 1 (BODYSTRUCTURE BODY[])",
            "* 1 FETCH (BODYSTRUCTURE (\"TEXT\" \"PLAIN\" (\"NAME\" \"a\r\nb\") NIL NIL \"8BIT\" 8 1) BODY[] {11}\r\nx OK done\r\n)\r\nTAG OK done\r\n",
        ),
        // A quote that is not escaped, and a literal after it (MailKit #485); NetEase: `\"\"\"\"` (go-imap #659).
        (
            "FETCH 1 BODYSTRUCTURE",
            "* 1 FETCH (BODYSTRUCTURE (\"TEXT\" \"HTML\"\" NIL NIL NIL {5}\r\n8bit\" 74 2))\r\nTAG OK done\r\n",
        ),
        ("FETCH 1 BODY", "* 1 FETCH (BODY (\"TEXT\" \"HTML\" NIL NIL \"\"\"\" \"7BIT\" 74 2))\r\nTAG OK done\r\n"),
        // QQ: a backslash before the closing quote (mailcore2 #1220), a space before the parenthesis (mail-api #209).
        (
            "FETCH 1 ENVELOPE",
            "* 1 FETCH (ENVELOPE (NIL NIL ((\"x\" NIL \"u\" \"sina.com\\\")) NIL NIL NIL NIL NIL NIL NIL))\r\nTAG OK done\r\n",
        ),
        ("FETCH 1 UID", "* 1 FETCH (UID 11 )\r\nTAG OK done\r\n"),
        // Domino: parentheses too many (MailKit #943), and what is no literal of a server's: `{5+}` (MailKit #954).
        (
            "FETCH 1 ENVELOPE",
            "* 1 FETCH (UID 11 (ENVELOPE (NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)))\r\nTAG OK done\r\n",
        ),
        ("FETCH 1 BODY[]", "* 1 FETCH (BODY[] {13+}\r\n* BYE x\r\n+ \r\n UID 11)\r\nTAG OK done\r\n"),
        // mail.ru (vmime #159).
        (
            "FETCH 1 BODY",
            "* 1 FETCH (BODY ((\"text\" \"html\" NIL NIL NIL \"8bit\" 7 0)\"alternative\" (\"boundary\" NIL)))\r\nTAG OK done\r\n",
        ),
        // Nothing behind the status: Exchange (offlineimap #623), ppops.net (node-imap #539); a code and nothing else.
        ("UID COPY 99 x", "TAG OK\r\n"),
        ("UID COPY 11 x", "TAG OK [COPYUID 7 11 1]\r\n"),
        // Not even a line end as it has to be.
        ("CHECK", "TAG OK done\n"),
        ("LIST \"\" *", "* LIST () \"/\" x\nTAG OK done\r\n"),
        // David.fx, too small or too large letters: (MailKit #422).
        ("LIST \"\" *", "* List () \"/\" x\r\nTAG Ok done\r\n"),
        (
            "LIST \"\" *",
            "\r\n   \r\n*\r\n* \r\n* 12\r\n)\r\nfoo\r\nfoo bar\r\nfoo bar baz {\r\n\0\0\r\n\u{fc}\r\n**\r\nTAG OK done\r\n",
        ),
    ] {
        for mode in MODES {
            heard_as_said(mode, command, reply.as_bytes()).await;
        }
    }
    // Not UTF-8 either.
    for mode in MODES {
        heard_as_said(mode, "LIST \"\" *", b"* LIST () \"/\" \xe9\r\n\xff\xfe {3\r\nTAG OK \xfc\r\n").await;
    }
}

/// COPYUID of many messages (13,500 of them, one by one, on Dovecot), in the tagged reply to COPY and untagged to MOVE.
#[tokio::test]
async fn status_lines_of_any_length_pass() {
    let set = (1..40_000).map(|n| format!("{}", n * 2)).collect::<Vec<_>>().join(",");
    assert!(set.len() > 3 * 64 * 1024);
    for (command, reply) in [
        ("COPY 1:3 x", format!("TAG OK [COPYUID 7 {set} {set}] done {{5}}\r\n")),
        ("UID MOVE 1:3 x", format!("* OK [COPYUID 7 {set} {set}] moved {{5}}\r\nTAG OK done\r\n")),
        ("COPY 1:3 x", format!("TAG NO {set}\r\n")),
        ("CHECK", format!("* BAD {set}\r\n* NO [ALERT] {set}\r\nTAG OK done\r\n")),
    ] {
        for mode in MODES {
            heard_as_said(mode, command, reply.as_bytes()).await;
        }
    }
}

/// Lists that may not be passed on are left out, however long; they end nothing.
#[tokio::test]
async fn a_list_of_any_length_is_left_out() {
    for mode in MODES {
        let x = "X".repeat(200_000);
        let reply =
            format!("* CAPABILITY {x}\r\n* OK [CAPABILITY {x}]\r\n* LIST () \"/\" x\r\nTAG OK [CAPABILITY {x}] hi\r\n");
        let backend = Scripted::start(move |conn: Conn| {
            let reply = reply.clone();
            async move { serve(conn, "LIST \"\" *", reply.as_bytes()).await }
        })
        .await;
        let harness = harness(&backend, mode).await;
        let mut client = selected(&harness).await;
        client.play("C: x LIST \"\" *\nS: * LIST () \"/\" x\nS: x OK…\nC: y NOOP\nS: y OK done").await;
        harness.logged(&["WARN", "longer than any"]).await;
        assert_eq!(backend.logins(), 1);
        drop(client);
        harness.finish().await;
    }
}

/// What nobody understands is logged, but not again and again.
#[tokio::test]
async fn stray_lines_between_commands_are_nobodys() {
    for mode in MODES {
        let backend = Scripted::start(|mut conn: Conn| async move {
            conn.play("C: LIST \"\" one").await;
            let strays = "foo bar\r\n\r\n)\r\n".repeat(100);
            conn.send(format!("{} OK one\r\n{strays}", conn.tag)).await;
            conn.obey().await;
        })
        .await;
        let harness = harness(&backend, mode).await;
        let mut client = harness.login("u8").await;
        client.play("C: a LIST \"\" one\nS: a OK one").await;
        drop(client);
        harness.at_rest(1).await;
        harness.logged(&["DEBUG", "a line that is no reply", "foo bar"]).await;
        let mut client = harness.login("u8").await;
        client.play("C: a LIST \"\" two\nS: a OK done").await;
        assert_eq!(backend.logins(), 1);
        let said = harness.log.text().lines().filter(|line| line.contains("no reply")).count();
        assert!(said <= 10, "{said} lines in the log");
        drop(client);
        harness.finish().await;
    }
}

/// The end of a reply has to be proven: what stands behind our own tag must be a status, and behind any other none.
#[tokio::test]
async fn what_proves_an_end_is_taken_by_the_letter() {
    for mode in MODES {
        for said in ["TAG MAYBE", "TAG", "TAG BYE x", "foo OK done", "x OK done", "TAGx NO"] {
            let backend = Scripted::start(move |conn: Conn| serve_text(conn, "COPY 1 x", said)).await;
            let harness = harness(&backend, mode).await;
            let mut client = selected(&harness).await;
            client.play("C: x COPY 1 x\nS: x NO [UNAVAILABLE]…").await;
            harness.logged(&["broke the protocol"]).await;
            drop(client);
            harness.visit("u8").await;
            harness.finish().await;
        }
    }
}

async fn serve_text(conn: Conn, command: &'static str, said: &'static str) {
    serve(conn, command, format!("{said}\r\n").as_bytes()).await;
}

fn stray() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[ -~]{0,30}".prop_map(String::into_bytes),
        "[)( *\"]{0,4}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..20),
        Just(b"* 1 FETCH (ENVELOPE (\"a".to_vec()),
        Just(b"* LIST () \"/\" {8+}\r\nx OK y\r\n".to_vec()),
        Just(b"OK [COPYUID 1 2 3] {7}".to_vec()),
    ];
    // What means something is not meant here: a continuation, a farewell, a status behind a tag, news, and a literal
    // that is none.
    line.prop_filter("garbage", |line| {
        let text = String::from_utf8_lossy(line).to_ascii_uppercase();
        let first = line.first().copied().unwrap_or(b' ');
        let words: Vec<&str> = text.split([' ', '\r', '\n']).filter(|word| !word.is_empty()).collect();
        let status = |at: usize| words.get(at).is_some_and(|word| ["OK", "NO", "BAD", "BYE", "PREAUTH"].contains(word));
        let known = line.starts_with(b"* 1 FETCH (ENV") || line.starts_with(b"* LIST () \"/\" {8+}");
        !text.contains("TAG")
            && first != b'+'
            && (known
                || first != b'*' && !line.contains(&b'\n') && !line.contains(&b'}') && !status(1)
                || line.starts_with(b"OK [COPY"))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Any such lines, before, within and after a reply: heard as they were said, and all goes on.
    #[test]
    fn garbage_is_heard_as_it_was_said(lines in proptest::collection::vec(stray(), 0..12), mode in 0usize..2) {
        let mut reply: Vec<u8> = lines.iter().flat_map(|line| [&line[..], b"\r\n"].concat()).collect();
        reply.extend_from_slice(b"TAG OK done\r\n");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(heard_as_said(MODES[mode], "LIST \"\" *", &reply));
    }
}
