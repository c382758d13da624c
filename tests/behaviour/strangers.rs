//! Those who have not logged in, and may never: what they can take from others, and whom they can deceive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use imapool::config::{PlaintextLogin, Share};
use imapool::demo::server::{Options, Server};
use tokio::io::AsyncWriteExt as _;

use crate::support::{Client, Conn, Gate, Harness, LIMIT, Scripted, soon, until};

/// Refuses every login: at once for as long as `held` says, and when the gate opens after that.
async fn refusing(at_once: usize, held: Gate) -> (Scripted, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let ours = Arc::clone(&asked);
    let backend = Scripted::raw(move |mut conn: Conn| {
        let (asked, held) = (Arc::clone(&ours), held.clone());
        async move {
            conn.send("* OK [CAPABILITY IMAP4rev1 LITERAL+] ready\r\n").await;
            while let Some(command) = conn.command().await {
                let tag = conn.tag.clone();
                if command.starts_with("LOGIN") && asked.fetch_add(1, Ordering::SeqCst) >= at_once {
                    held.passed().await;
                }
                if command == "CAPABILITY" {
                    conn.send("* CAPABILITY IMAP4rev1 LITERAL+\r\n").await;
                }
                let said = if command.starts_with("LOGIN") { "NO [AUTHENTICATIONFAILED] no" } else { "OK well" };
                conn.send(format!("{tag} {said}\r\n")).await;
            }
        }
    })
    .await;
    (backend, asked)
}

/// Each guess has an address of its own and a spelling of its own; the account is one.
#[tokio::test]
async fn an_account_is_not_attacked_by_its_spellings() {
    let (held, ours) = Gate::pair();
    let (backend, asked) = refusing(12, ours).await;
    let harness = Harness::start(backend.address, |config| {
        config.listeners[0].proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
        config.listeners[0].plaintext_login = PlaintextLogin::Always;
    })
    .await;
    let mut guesses = Vec::new();
    for n in 0..50_usize {
        let letters = "victim".chars().enumerate();
        let name: String = letters.map(|(at, c)| if n >> at & 1 == 1 { c.to_ascii_uppercase() } else { c }).collect();
        let mut client = Client::connect(harness.address).await;
        client.send(format!("PROXY TCP4 198.51.100.{n} 192.0.2.1 1000 143\r\n")).await;
        client.play("S: * OK…").await;
        client.send(format!("a LOGIN {name} guess{n}\r\n")).await;
        if n < 12 {
            client.play("S: a NO [AUTHENTICATIONFAILED]…").await;
        } else {
            guesses.push(client);
        }
    }
    // Two of those who are suspect are asked about, and sixteen wait. All others hear so while the backend still
    // thinks.
    let turned_away = Arc::<AtomicUsize>::default();
    let heard: Vec<_> = guesses
        .into_iter()
        .map(|mut client| {
            let turned_away = Arc::clone(&turned_away);
            tokio::spawn(async move {
                if client.line().await.starts_with("a NO [UNAVAILABLE]") {
                    turned_away.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    until("20 of 38 are turned away", || turned_away.load(Ordering::SeqCst) == 20).await;
    assert_eq!(asked.load(Ordering::SeqCst), 14);
    held.open();
    for client in heard {
        soon("an answer", client).await.unwrap();
    }
    harness.finish().await;
}

/// What is sent, and what is heard of it at last.
const TOO_MUCH: &[(&str, &str)] = &[
    ("a line", "a NOOP @8200@"),
    ("a line that does not end", "@20000@"),
    ("an announced literal", "a LOGIN {8193}\r\n"),
    ("one that comes unasked", "a LOGIN {9000+}\r\n"),
    ("literals together", "a LOGIN {5000+}\r\n@5000@ {4000+}\r\n"),
    ("a line after a literal", "a LOGIN {1+}\r\nx @9000@"),
    ("many small literals", "a LOGIN@small@"),
    ("a token", "a AUTHENTICATE XOAUTH2 @16400@"),
    ("a token, later", "a AUTHENTICATE PLAIN\r\n@16400@"),
    ("a name like AUTHENTICATE", "a AUTHENTICATED @8200@"),
];

/// However it is sent: [TOOBIG], and not one octet more is taken in.
#[tokio::test]
async fn a_stranger_has_eight_kilobytes() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |_| {}).await;
    for (name, sent) in TOO_MUCH {
        let small = " {1+}\r\nx".repeat(100);
        let sent = sent.split('@').map(|part| match part {
            "small" => small.clone(),
            part => part.parse().map_or(part.to_owned(), |count| "x".repeat(count)),
        });
        let mut client = harness.client().await;
        client.try_send(sent.collect::<String>()).await;
        let line = client.until(|line| !line.starts_with('+')).await.pop().unwrap();
        assert!(line.contains(" [TOOBIG] "), "{name}: {line}");
    }
    // What somebody may well need passes.
    let mut client = harness.client().await;
    client.play("C: a AUTHENTICATE PLAIN\nS: + ").await;
    client.send(format!("{}\r\n", STANDARD.encode(format!("\0u8\0{}", "x".repeat(12_000))))).await;
    client.play("S: a NO [AUTHENTICATIONFAILED]…").await;
    client.send(format!("b AUTHENTICATE PLAIN {}\r\n", STANDARD.encode(format!("\0u8\0{}", "x".repeat(12_000))))).await;
    client.play("S: b NO [AUTHENTICATIONFAILED]…").await;
    client.send(format!("c LOGIN u8 {{8000+}}\r\n{}\r\n", "x".repeat(8000))).await;
    client.play("S: c NO [AUTHENTICATIONFAILED]…\nC: d LOGIN u8 pw-u8\nS: d OK…").await;
    // And whoever is logged in is no stranger.
    client.send(format!("e NOOP {}\r\n", "x".repeat(60_000))).await;
    client.until(|line| line.starts_with("e ")).await;
    drop(client);
    harness.finish().await;
}

/// Replies to commands that nobody reads are not collected, and the time for logging in does not stand still meanwhile.
#[tokio::test]
async fn a_stranger_who_does_not_read_is_not_answered_without_end() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| {
        config.limits.login_timeout = Duration::from_millis(500);
    })
    .await;
    let mut client = harness.client().await;
    let commands = "a CAPABILITY\r\n".repeat(1000);
    let mut sent = 0;
    // The sockets take some; imapool takes no more than it answers.
    let pushed = tokio::time::timeout(LIMIT, async {
        while client.stream.write_all(commands.as_bytes()).await.is_ok() {
            sent += commands.len();
        }
    });
    pushed.await.expect("the session ends");
    assert!(sent < 16 << 20, "{sent} octets were taken");
    harness.sessions(0).await;
    harness.finish().await;
}

const GAVE_WAY: &str = "S: * BYE [UNAVAILABLE] Too many connections that have not logged in…\nS.";

/// By default a quarter of all.
#[tokio::test]
async fn silent_ones_do_not_keep_others_out() {
    const PLACES: usize = 40;
    const FOR_STRANGERS: usize = PLACES / 4;
    const SILENT: usize = 60;
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.limits.sessions = PLACES).await;
    let mut silent = Vec::new();
    for n in 0..SILENT {
        let mut client = harness.client().await;
        if n % 2 == 0 {
            client.send("a LOGI").await;
        }
        silent.push(client);
    }
    let right = harness.login("u8").await;
    // The oldest went, and one more for the right one, which has a place among the others now.
    let (gone, left) = silent.split_at_mut(SILENT + 1 - FOR_STRANGERS);
    assert_eq!(harness.metric("imapool_client_sessions_total", "close=\"gave_way\""), gone.len() as u64);
    for client in gone {
        client.play(GAVE_WAY).await;
    }
    harness.sessions(left.len() as u64 + 1).await;
    harness.logged(&["session ended", "close=\"gave_way\""]).await;
    harness.logged(&["WARN", "too many connections that have not logged in"]).await;
    for client in left {
        client.send("\r\nb NOOP\r\n").await;
        client.until(|line| line == "b OK NOOP completed.").await;
    }
    drop((right, silent));
    harness.finish().await;
}

/// With all places taken, too, whoever has logged in stays, and who has not gives way.
#[tokio::test]
async fn the_last_places_are_not_for_the_silent() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.limits.sessions = 3).await;
    let first = harness.login("u8").await;
    let second = harness.login("u9").await;
    let mut silent = harness.client().await;
    let third = harness.login("u10").await;
    silent.play(GAVE_WAY).await;
    let mut fourth = Client::connect(harness.address).await;
    fourth.play("S: * BYE [LIMIT]…\nS.").await;
    drop((first, second, third));
    harness.finish().await;
}

/// Those in a handshake count, and are cut off; those in the middle of a literal or of SASL hear why.
#[tokio::test]
async fn whoever_has_not_logged_in_counts_wherever_it_stands() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| {
        config.limits.unauthenticated = Share::Number(3);
        config.listeners[0].proxy_protocol_from = vec!["127.0.0.0/8".parse().unwrap()];
        config.listeners[0].plaintext_login = PlaintextLogin::Always;
    })
    .await;
    let known = || async {
        let mut client = Client::connect(harness.address).await;
        client.send("PROXY TCP4 198.51.100.7 192.0.2.1 1000 143\r\n").await;
        client.play("S: * OK…").await;
        client
    };
    let mut unready = Client::connect(harness.address).await;
    unready.send("PROXY TCP4 198").await;
    let mut literal = known().await;
    literal.play("C: a LOGIN {2}\nS: + OK").await;
    let mut sasl = known().await;
    sasl.play("C: a AUTHENTICATE PLAIN\nS: + ").await;
    let fourth = known().await;
    unready.play("S.").await;
    let fifth = known().await;
    literal.play(GAVE_WAY).await;
    let sixth = known().await;
    sasl.play(GAVE_WAY).await;
    drop((fourth, fifth, sixth));
    harness.finish().await;
}

/// Who has sent a credential that the backend is still thinking about is not sent away while others are silent.
#[tokio::test]
async fn whose_credential_is_being_verified_gives_way_last() {
    let (held, ours) = Gate::pair();
    let (backend, asked) = refusing(0, ours).await;
    let harness = Harness::start(backend.address, |config| config.limits.unauthenticated = Share::Number(2)).await;
    let mut asking = harness.client().await;
    asking.send("a LOGIN u8 pw\r\n").await;
    until("the backend is asked", || asked.load(Ordering::SeqCst) == 1).await;
    let mut silent = harness.client().await;
    let mut next = harness.client().await;
    silent.play(GAVE_WAY).await;
    next.send("a LOGIN u9 pw\r\n").await;
    until("the backend is asked again", || asked.load(Ordering::SeqCst) == 2).await;
    let last = harness.client().await;
    asking.play(GAVE_WAY).await;
    held.open();
    next.play("S: a NO [AUTHENTICATIONFAILED]…").await;
    drop((next, last));
    harness.finish().await;
}

/// One that takes nothing is gone as fast as the others.
#[tokio::test]
async fn who_does_not_read_gives_way_at_once() {
    let server = Server::start(Options::default()).await.unwrap();
    let harness = Harness::start(server.address(), |config| config.limits.unauthenticated = Share::Number(1)).await;
    let mut deaf = harness.client().await;
    let commands = "a CAPABILITY\r\n".repeat(1000);
    let stuck = async {
        while tokio::time::timeout(Duration::from_millis(300), deaf.stream.write_all(commands.as_bytes())).await.is_ok()
        {
        }
    };
    soon("nothing more is taken", stuck).await;
    let next = harness.client().await;
    harness.sessions(1).await;
    assert_eq!(harness.metric("imapool_client_sessions_total", "close=\"gave_way\""), 1);
    drop((deaf, next));
    harness.finish().await;
}
