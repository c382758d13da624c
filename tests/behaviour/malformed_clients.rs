//! Clients that do not speak IMAP, or do so badly: a clear BAD or BYE, a log line, no panic, and nothing is left.

use imapool::demo::server::{Options, Server};

use crate::support::{Client, Conn, Harness, Scripted};

/// A session before login: what is sent (see [`Client::play`]) and what comes.
const BEFORE_LOGIN: &[(&str, &str)] = &[
    ("an empty line", "C: \nS: * BAD Invalid tag"),
    ("no tag", "C:  NOOP\nS: * BAD Invalid tag"),
    ("a tag only", "C: a\nS: a BAD Missing command"),
    ("a tag and a space", "C- a \\r\\n\nS: a BAD Missing command"),
    ("two spaces", "C: a  NOOP\nS: a BAD Missing command"),
    ("+ in the tag", "C: a+ NOOP\nS: * BAD Invalid tag"),
    ("* for a tag", "C: * NOOP\nS: * BAD Invalid tag"),
    ("quotes in the tag", "C: \"a\" NOOP\nS: * BAD Invalid tag"),
    ("a brace in the tag", "C: {3} NOOP\nS: * BAD Invalid tag"),
    ("a tab", "C: a\tNOOP\nS: * BAD Invalid tag"),
    ("a bare literal", "C: {3}\nS: * BAD Literal…\nS: * BYE…\nS."),
    ("an unknown command", "C: a XYZZY\nS: a BAD…"),
    ("a command before login", "C: a SELECT INBOX\nS: a BAD Log in first…"),
    ("APPEND before login", "C: a APPEND INBOX {3+}\\r\\nxyz\nS: a BAD Log in first…"),
    ("IDLE before login", "C: a IDLE\nS: a BAD Log in first…\nC: DONE\nS: DONE BAD Missing command"),
    ("LF alone ends a line", "C- a NOOP\\n\nS: a OK…"),
    ("a line in small letters", "C: a noop\nS: a OK…"),
    ("NUL", "C: a NO\\0OP\nS: * BAD NUL…\nS: * BYE NUL…\nS."),
    ("a bare CR", "C: a NOOP\\rb NOOP\nS: * BAD NUL or bare CR…\nS: * BYE…\nS."),
    ("an overflowing literal", "C: a LOGIN {18446744073709551621}\nS: * BAD Literal size…\nS: * BYE…\nS."),
    ("a long number", "C: a LOGIN {99999999999999999999999999999999999999}\nS: * BAD Literal size…\nS: * BYE…\nS."),
    ("a negative literal", "C: a LOGIN u8 {-1}\nS: a BAD…"),
    ("a literal within quotes", "C: a LOGIN \"u8 {3+}\nS: * BAD Literal in the middle…\nS: * BYE…\nS."),
    ("a glued literal", "C: a LOGIN u8{3+}\nS: * BAD Literal in the middle…\nS: * BYE…\nS."),
    ("a glued literal after a literal", "C: a LOGIN {2+}\\r\\nu8{3+}\nS: a BAD Literal in the middle…\nS: * BYE…\nS."),
    ("a literal that is too big", "C: a LOGIN {70000}\nS: a NO [TOOBIG]…"),
    ("literals too big together", "C: a LOGIN {5000}\nS: + …\nC: @5000@ {5000}\nS: a NO [TOOBIG]…"),
    ("one too big that comes unasked", "C: a LOGIN {70000+}\\r\\n@70000@ pw\nS: a NO [TOOBIG]…"),
    ("one much too big", "C: a LOGIN {2000000+}\nS: a NO [TOOBIG]…\nS: * BYE [TOOBIG]…\nS."),
    ("LOGIN without arguments", "C: a LOGIN\nS: a BAD…"),
    ("LOGIN with one", "C: a LOGIN u8\nS: a BAD…"),
    ("LOGIN with three", "C: a LOGIN u8 pw-u8 x\nS: a BAD…"),
    ("LOGIN with a list", "C: a LOGIN (u8) pw-u8\nS: a BAD…"),
    ("LOGIN of nobody", "C: a LOGIN \"\" pw\nS: a NO [AUTHENTICATIONFAILED]…"),
    ("an escape of any octet", "C: a LOGIN \"u\\8\" pw\nS: a NO [AUTHENTICATIONFAILED]…"),
    ("an open quote", "C: a LOGIN \"u8 pw\nS: a BAD…"),
    ("8-bit octets", "C: a LOGIN \"ü8\" \"pw-ü\"\nS: a NO [AUTHENTICATIONFAILED]…"),
    ("8-bit octets for a command", "C: a ÜBER\nS: a BAD…"),
    ("bad base64", "C: a AUTHENTICATE PLAIN !!!\nS: a BAD Malformed SASL…"),
    ("base64 that lacks its end", "C: a AUTHENTICATE PLAIN AHU4AHB3LXU\nS: a BAD Malformed SASL…"),
    ("bad base64 later", "C: a AUTHENTICATE LOGIN\nS: + …\nC: dTg=\nS: + …\nC: \u{1}\nS: a BAD Malformed SASL…"),
    ("SASL without its NULs", "C: a AUTHENTICATE PLAIN dTg=\nS: a BAD Malformed SASL…"),
    ("an aborted SASL exchange", "C: a AUTHENTICATE PLAIN\nS: + \nC: *\nS: a BAD Authentication aborted…"),
    ("one aborted later", "C: a AUTHENTICATE LOGIN\nS: + …\nC: dTg=\nS: + …\nC: *\nS: a BAD Authentication aborted…"),
    ("a literal for a SASL response", "C: a AUTHENTICATE PLAIN\nS: + \nC: {3+}\\r\\nxyz\nS: a BAD…\nS: * BYE…\nS."),
    ("an unknown mechanism", "C: a AUTHENTICATE GSSAPI\nS: a NO Mechanism not available."),
    ("no mechanism", "C: a AUTHENTICATE\nS: a BAD…"),
    ("STARTTLS where there is none", "C: a STARTTLS\nS: a BAD…"),
    ("commands after garbage", "C: %%%%\\r\\nb NOOP\\r\\n\\r\\nc NOOP\nS: * BAD…\nS: b OK…\nS: * BAD…\nS: c OK…"),
    ("HTTP", "C: GET / HTTP/1.1\nS: GET BAD…\nC: Host: x\nS: Host: BAD…\nC: \nS: * BAD…"),
    ("a TLS ClientHello", "C- \u{16}\u{3}\u{1}\\0\u{5}\u{1}\\0\\0\u{1}\\n\nS: * BAD NUL…\nS: * BYE…\nS."),
];

/// `@n@` stands for so many octets.
fn expand(script: &str) -> String {
    let mut parts = script.split('@');
    let mut out = parts.next().unwrap().to_owned();
    while let (Some(number), Some(text)) = (parts.next(), parts.next()) {
        out += &"x".repeat(number.parse::<usize>().unwrap());
        out += text;
    }
    out
}

#[tokio::test]
async fn before_login() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    for (name, script) in BEFORE_LOGIN {
        eprintln!("{name}");
        let mut client = harness.client().await;
        client.play(&expand(script)).await;
        if !script.ends_with("S.") {
            // The session goes on, at the right place.
            client.play("C: ok LOGIN u8 pw-u8\nS: ok OK…\nC: l LIST \"\" INBOX\nS: * LIST…\nS: l OK…").await;
        }
    }
    harness.logged(&["malformed input", "webmail", "127.0.0.1"]).await;
    let ended = BEFORE_LOGIN.iter().filter(|(_, script)| script.ends_with("S.")).count();
    harness.sessions(0).await;
    assert_eq!(harness.metric("imapool_client_sessions_total", "close=\"protocol_error\""), ended as u64);
    assert_eq!(server.counters().bad, 0, "nothing of that was the backend's concern");
    harness.finish().await;
}

#[tokio::test]
async fn lines_without_end() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    for before in ["", "a ", "a LOGIN u8 ", "a LOGIN {2+}\r\nu8 "] {
        let mut client = harness.client().await;
        client.try_send(before).await;
        client.try_send(vec![b'('; 100_000]).await;
        let said = client.rest().await;
        assert!(said.contains(" BAD [TOOBIG]") && said.contains("* BYE [TOOBIG]"), "{said}");
    }
    harness.finish().await;
}

/// Nobody who goes on and on without speaking IMAP keeps a session.
#[tokio::test]
async fn too_many_malformed_commands_end_a_session() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let mut client = harness.client().await;
    client.try_send("a XYZZY\r\n".repeat(1000)).await;
    let said = client.rest().await;
    assert!(said.matches("a BAD").count() < 100 && said.ends_with("* BYE Too many malformed commands\r\n"), "{said}");
    harness.finish().await;
}

/// What the backend has to judge, it judges; what would let the two sides see different commands does not reach it.
#[tokio::test]
async fn after_login() {
    let backend = Scripted::start(|mut conn: Conn| async move {
        while let Some(command) = conn.command().await {
            let tag = conn.tag.clone();
            let reply = match &*command {
                "LOGOUT" | "NOOP" | "UNSELECT" | "SELECT INBOX" => "OK",
                "IDLE" => {
                    conn.send("+ idling\r\n").await;
                    conn.play("C> DONE").await;
                    "OK"
                }
                _ => "BAD",
            };
            conn.send(format!("{tag} {reply} judged\r\n")).await;
        }
    })
    .await;
    let harness = Harness::by_session(backend.address, |_| {}).await;
    let deep = "(".repeat(30_000);
    let selected = "C: s SELECT INBOX\nS: s OK judged\n";
    for (script, goes_on) in [
        ("C: a XYZZY\nS: a BAD judged".to_owned(), true),
        (format!("{selected}C: a FETCH 1 {deep}\nS: a BAD judged"), true),
        (format!("{selected}C: a SEARCH {deep}{}\nS: a BAD judged", ")".repeat(30_000)), true),
        ("C: a SELECT\nS: a BAD judged".into(), true),
        ("C: a SELECT \"x\nS: a BAD judged".into(), true),
        ("C: a LIST ü *\nS: a BAD judged".into(), true),
        ("C: a LOGIN u8 pw-u8\nS: a BAD…".into(), true),
        ("C: a AUTHENTICATE PLAIN\nS: a BAD…".into(), true),
        ("C: a COMPRESS DEFLATE\nS: a BAD…".into(), true),
        ("C: a UNAUTHENTICATE\nS: a BAD…".into(), true),
        ("C: a IDLE\nS: + idling\nC: b NOOP\nS: a BAD Expected DONE.".into(), true),
        ("C: a APPEND \"INBOX {3}\nS: * BAD Literal…\nS: * BYE…\nS.".into(), false),
        ("C: a APPEND INBOX{3+}\nS: * BAD Literal…\nS: * BYE…\nS.".into(), false),
        ("C: a APPEND INBOX {99999999999999999999}\nS: * BAD Literal…\nS: * BYE…\nS.".into(), false),
        ("C: a LIST \"\" \\0\nS: * BAD NUL…\nS: * BYE…\nS.".into(), false),
        ("C: a NOOP\\rb DELETE INBOX\nS: * BAD NUL…\nS: * BYE…\nS.".into(), false),
    ] {
        let mut client = harness.login("u8").await;
        client.play(&script).await;
        if goes_on {
            client.play("C: z NOOP\nS: z OK…").await;
        }
        drop(client);
        harness.sessions(0).await;
    }
    let got = backend.received();
    assert!(got.contains(&format!("SEARCH {deep}")) && !got.contains("DELETE") && !got.contains('\0'));
    harness.finish().await;
}

/// Octets by chance, in pieces: whatever they are, each session ends, nothing panics, and the next one works.
#[tokio::test]
async fn noise() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    let pieces: &[&[u8]] = &[
        b"a ",
        b"LOGIN ",
        b"\r\n",
        b"\n",
        b"\r",
        b"{3}",
        b"{3+}\r\n",
        b"{70000+}\r\n",
        b"\"",
        b"\\",
        b"(",
        b")",
        b"\0",
        b"AUTHENTICATE PLAIN ",
        b"*",
        b"+",
        b"IDLE\r\n",
        b"DONE\r\n",
        b"u8 ",
        b"pw-u8\r\n",
        b"APPEND INBOX ",
        b"~{1+}\r\n",
        b"\xff\xfe",
        b"SELECT INBOX\r\n",
        b"FETCH 1:* BODY[]\r\n",
        b"b ",
        b"NOOP\r\n",
        b"ENABLE X\r\n",
        b"{0+}\r\n",
    ];
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).unwrap()
    };
    for round in 0..150 {
        let mut client = Client::connect(harness.address).await;
        if round % 2 == 0 {
            client.send("l LOGIN u8 pw-u8\r\n").await;
        }
        let noise: Vec<u8> = (0..next(60)).flat_map(|_| pieces[next(pieces.len())].to_vec()).collect();
        for chunk in noise.chunks(1 + next(40)) {
            client.try_send(chunk).await;
            tokio::task::yield_now().await;
        }
        client.reset();
    }
    harness.sessions(0).await;
    harness.visit("u8").await;
    harness.finish().await;
}
