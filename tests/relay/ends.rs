//! How sessions end: a side is lost at each step, or somebody asks for the end.

use std::time::Duration;

use imapool_demo_server::Options;
use tokio::io::AsyncWriteExt as _;

use crate::owner::{outer, outer_with, owner, proxied};
use crate::ring::{MODES, Ring};
use crate::support::{Gate, Harness, Scripted, soon, until};

const LOST: &str = "* BYE [UNAVAILABLE] The connection to the mail server was lost";

/// Before the answer to the login, it is not answered; the session goes on.
#[tokio::test]
async fn an_owner_that_is_lost_before_it_has_answered() {
    for mode in MODES {
        for step in 0..4 {
            let replica = Scripted::raw(move |mut conn| async move {
                if step == 0 || !proxied(&mut conn).await || step == 1 {
                    return;
                }
                conn.send("* OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] replica\r\n").await;
                if step == 3 {
                    let _login = conn.command().await;
                }
            })
            .await;
            let harness = outer(&replica, mode).await;
            let mut client = harness.client().await;
            client.play("C: a LOGIN u p\nS: a NO [UNAVAILABLE]…\nC: b NOOP\nS: b OK…\nC: c LOGOUT\nS~ c OK…\nS.").await;
            harness.finish().await;
        }
    }
}

/// Afterwards, the client is told where a line may stand, and never within a reply.
#[tokio::test]
async fn an_owner_that_is_lost_in_the_session() {
    for mode in MODES {
        for (said, last) in [
            ("", LOST),
            ("* 1 EXISTS\r\n", LOST),
            ("* 1 FETCH (BODY[] {3}\r\nabc)\r\n", LOST),
            ("* OK {3}\r\n", LOST),
            ("* 1 EXIS", ""),
            ("* 1 FETCH (BODY[] {100}\r\nabc\r\n", ""),
            // It has said so itself.
            ("* BYE gone\r\n", ""),
        ] {
            let replica = owner(move |mut conn, _| async move {
                conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
                conn.line().await;
                conn.send(said).await;
            })
            .await;
            let harness = outer(&replica, mode).await;
            let mut client = harness.login("u").await;
            client.send("a NOOP\r\n").await;
            let heard = client.rest().await;
            let wanted = if last.is_empty() { said.to_owned() } else { format!("{said}{last}\r\n") };
            assert_eq!(heard, wanted);
            harness.sessions(0).await;
            harness.logged(&["session ended", "close=\"upstream_lost\""]).await;
            harness.finish().await;
        }
    }
}

/// Its connection ends with the client's, whatever is under way.
#[tokio::test]
async fn a_client_that_is_lost() {
    for mode in MODES {
        for step in 0..4 {
            let (gate, reached) = Gate::pair();
            let replica = owner(move |mut conn, _| {
                let gate = gate.clone();
                async move {
                    if step == 0 {
                        gate.open();
                        // The login is judged all the same.
                        conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
                    } else {
                        conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in\nC: NOOP").await;
                        match step {
                            1 => {}
                            2 => conn.send("* 1 EXIS").await,
                            _ => conn.send("* 1 FETCH (BODY[] {100}\r\nabc").await,
                        }
                        gate.open();
                    }
                    conn.gone().await;
                }
            })
            .await;
            let harness = outer(&replica, mode).await;
            let mut client = harness.client().await;
            client.send("a LOGIN u p\r\n").await;
            if step > 0 {
                client.play("S: a OK…\nC: b NOOP").await;
            }
            reached.passed().await;
            client.reset();
            harness.sessions(0).await;
            until("the replica to see the end", || replica.open() == 0).await;
            harness.finish().await;
        }
    }
}

/// The owner hears that the client says no more, and the client still hears the rest.
#[tokio::test]
async fn a_client_that_closes_its_side() {
    for mode in MODES {
        let replica = owner(|mut conn, _| async move {
            conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in\nC: XLONG").await;
            assert_eq!(conn.line().await, None, "its end");
            conn.play("S: * 1 EXISTS\nS: TAG OK at last").await;
        })
        .await;
        let harness = outer(&replica, mode).await;
        let mut client = harness.login("u").await;
        client.send("b XLONG\r\n").await;
        soon("the client's end", client.stream.shutdown()).await.unwrap();
        client.play("S: * 1 EXISTS\nS: b OK at last\nS.").await;
        harness.sessions(0).await;
        harness.logged(&["session ended", "close=\"client_closed\""]).await;
        harness.finish().await;
    }
}

/// At rest it is told at once; a command that runs is answered first.
#[tokio::test]
async fn the_process_ends() {
    for mode in MODES {
        let (gate, hold) = Gate::pair();
        let (running, runs) = Gate::pair();
        let replica = owner(move |mut conn, login| {
            let (hold, running) = (hold.clone(), running.clone());
            async move {
                conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
                if login.contains("busy") {
                    conn.play("C: XLONG").await;
                    running.open();
                    // The client says no more, it hears; the command goes on.
                    assert_eq!(conn.line().await, None);
                    hold.passed().await;
                    conn.play("S: TAG OK done").await;
                } else {
                    conn.gone().await;
                }
            }
        })
        .await;
        let mut harness = outer(&replica, mode).await;
        let (mut idle, mut busy) = (harness.login("idle").await, harness.login("busy").await);
        busy.send("b XLONG\r\n").await;
        runs.passed().await;
        let drain = tokio::spawn(harness.take().drain());
        idle.play("S: * BYE [UNAVAILABLE] Server shutting down\nS.").await;
        gate.open();
        busy.play("S: b OK done\nS: * BYE [UNAVAILABLE] Server shutting down\nS.").await;
        soon("drain", drain).await.unwrap();
    }
}

/// Whoever is closed by an administrator hears it; from an owner that does not come to an end, after a while.
#[tokio::test]
async fn an_administrator_ends_it() {
    for mode in MODES {
        for obeys in [true, false] {
            let replica = owner(move |mut conn, _| async move {
                conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
                conn.gone().await;
                if !obeys {
                    std::future::pending().await
                }
            })
            .await;
            let harness = outer(&replica, mode).await;
            let mut client = harness.login("u").await;
            harness.proxy().registry().all().iter().for_each(|record| record.close());
            client.play("S: * BYE [UNAVAILABLE] Session closed by the administrator\nS.").await;
            harness.sessions(0).await;
            harness.logged(&["session ended", "close=\"operator\""]).await;
            harness.finish().await;
        }
    }
}

/// A client that takes nothing is let go of, and so is its owner.
#[tokio::test]
async fn a_client_that_reads_nothing() {
    let replica = owner(|mut conn, _| async move {
        conn.play("S: TAG OK [CAPABILITY IMAP4rev1] in").await;
        let filler = [b'x'; 64 * 1024];
        while conn.stream.write_all(&filler).await.is_ok() {}
    })
    .await;
    let change = |config: &mut imapool::config::Config| config.limits.write_timeout = Duration::from_millis(200);
    let harness = outer_with(&replica, change).await;
    let client = harness.login("u").await;
    harness.sessions(0).await;
    harness.logged(&["session ended", "close=\"write_timeout\""]).await;
    until("the replica to see the end", || replica.open() == 0).await;
    drop(client);
    harness.finish().await;
}

/// A command still runs at one that ends: until that is over, nobody else logs the account in.
#[tokio::test]
async fn a_replica_that_ends_has_its_accounts_to_the_end() {
    for mode in MODES {
        let impatient = |config: &mut imapool::config::Config| {
            config.pool.spare = 0;
            config.pool.checkout_timeout = Duration::from_secs(2);
            config.limits.drain_timeout = Duration::from_secs(60);
        };
        let mut ring = Ring::with(mode, 3, Options::default(), impatient).await;
        let user = ring.user_of(2);
        let mut busy = [ring.login(2, &user).await, ring.login(0, &user).await];
        for client in &mut busy {
            client.play("C: a APPEND INBOX {10}\nS: + …").await;
        }
        let mut last = ring.replicas.pop().unwrap();
        let drain = tokio::spawn(last.take().drain());
        for place in [0, 1] {
            let mut client = ring.replicas[place].client().await;
            client.play(&format!("C: l LOGIN {user} pw-{user}\nS: l NO [UNAVAILABLE] The account goes back…")).await;
            client.play("C: o LOGOUT\nS~ o OK…\nS.").await;
            assert_eq!(ring.pools_with(&user), 0, "the one that ends has it");
        }
        for client in &mut busy {
            client.play("C: 0123456789\nS~ a OK…\nS~ * BYE…\nS.").await;
        }
        soon("drain", drain).await.unwrap();
        let mut client = ring.login(0, &user).await;
        client.play("C: s SELECT INBOX\nS~ s OK…\nC: o LOGOUT\nS~ o OK…\nS.").await;
        assert_eq!(ring.pools_with(&user), 1);
        drop(last);
        ring.finish().await;
    }
}

/// A whole replica goes: its sessions hear BYE, those of others notice nothing.
#[tokio::test]
async fn a_replica_ends() {
    for mode in MODES {
        let mut ring = Ring::new(mode).await;
        let (here, there, third) = (ring.user_of(0), ring.user_of(1), ring.user_of(2));
        let mut clients = Vec::new();
        for user in [&here, &there, &third] {
            let mut client = ring.login(0, user).await;
            client.play("C: a SELECT INBOX\nS~ a OK…").await;
            clients.push(client);
        }
        let mut replica: Harness = ring.replicas.remove(1);
        soon("drain", replica.take().drain()).await;
        clients[1].play("S: * BYE [UNAVAILABLE] Server shutting down\nS.").await;
        for client in [0, 2] {
            clients[client].play("C: b NOOP\nS~ b OK…\nC: c LOGOUT\nS: * BYE…\nS: c OK…\nS.").await;
        }
        drop(clients);
        ring.finish().await;
    }
}
