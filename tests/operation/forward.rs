//! What a backend is told of the client for whom a connection is opened.

use std::sync::{Arc, Mutex};

use crate::support::{Conn, Harness, Scripted};

/// What came before each login: a PROXY header, and the commands.
type Seen = Arc<Mutex<Vec<(Vec<u8>, Vec<String>)>>>;

async fn backend(header: bool) -> (Scripted, Seen) {
    let seen = Seen::default();
    let ours = Arc::clone(&seen);
    let backend = Scripted::raw(move |mut conn: Conn| {
        let seen = Arc::clone(&ours);
        async move {
            let mut octets = Vec::new();
            if header {
                octets = conn.octets(16).await;
                let more = octets.last().copied().unwrap_or_default();
                octets.extend(conn.octets(usize::from(more)).await);
            }
            conn.send("* OK ready\r\n").await;
            let mut before = Vec::new();
            while let Some(command) = conn.command().await {
                let tag = conn.tag.clone();
                match command.split(' ').next().unwrap() {
                    "CAPABILITY" => {
                        let told = format!("* CAPABILITY IMAP4rev1 LITERAL+ ID UNSELECT\r\n{tag} OK told\r\n");
                        conn.send(told).await;
                    }
                    "LOGIN" => {
                        before.push(command);
                        seen.lock().unwrap().push((octets.clone(), before.clone()));
                        let wrong = before.last().unwrap().contains("wrong");
                        let said = if wrong { "NO no" } else { "OK [CAPABILITY IMAP4rev1 LITERAL+ ID UNSELECT] in" };
                        conn.send(format!("{tag} {said}\r\n")).await;
                        if !wrong {
                            return conn.obey().await;
                        }
                    }
                    _ => {
                        before.push(command);
                        conn.send(format!("{tag} OK well\r\n")).await;
                    }
                }
            }
        }
    })
    .await;
    (backend, seen)
}

#[tokio::test]
async fn by_id_before_each_login() {
    let (backend, seen) = backend(false).await;
    let harness = Harness::start(backend.address, |config| {
        config.backends[0].forward_client_id = true;
        config.pool.spare = 1;
    })
    .await;
    let mut wrong = harness.client().await;
    wrong.play("C: a LOGIN u8 wrong\nS: a NO…").await;
    harness.visit("u8").await;
    let seen = seen.lock().unwrap().clone();
    let introduced: Vec<_> = seen.iter().map(|(_, before)| before[before.len() - 2].clone()).collect();
    assert_eq!(introduced, ["ID (\"x-originating-ip\" \"127.0.0.1\")"; 2], "{seen:?}");
    drop(wrong);
    harness.finish().await;
}

#[tokio::test]
async fn by_a_proxy_header_and_then_no_connection_is_kept_for_the_next_login() {
    let (backend, seen) = backend(true).await;
    let harness = Harness::start(backend.address, |config| {
        config.backends[0].send_proxy = true;
        config.pool.spare = 2;
    })
    .await;
    let mut wrong = harness.client().await;
    wrong.play("C: a LOGIN u8 wrong\nS: a NO…").await;
    harness.visit("u8").await;
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.len(), 2);
    for (header, before) in &seen {
        let wanted = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[127, 0, 0, 1, 127, 0, 0, 1, 0, 0]].concat();
        assert!(header.starts_with(&wanted), "{header:?}");
        assert_eq!(before.len(), 1, "a connection of its own for each login: {before:?}");
    }
    drop(wrong);
    harness.finish().await;
}

#[tokio::test]
async fn nothing_unless_it_is_wished() {
    let (backend, seen) = backend(false).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    harness.visit("u8").await;
    assert_eq!(seen.lock().unwrap()[0].1.len(), 1);
    harness.finish().await;
}
