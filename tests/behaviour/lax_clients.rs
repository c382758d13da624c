//! What clients write against the letter of the RFC, and Dovecot takes: imapool does, too.

use imapool::config::PoolMode;

use super::malformed_replies::serve;
use crate::support::{Conn, Harness, Scripted};

async fn plain_server(conn: Conn) {
    serve(conn, "", b"").await;
}

/// imaplib quotes passwords, but no user names.
#[tokio::test]
async fn arguments_of_login() {
    let backend = Scripted::start(plain_server).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    for (line, sent) in [
        ("LOGIN DOMAIN\\user \"pw-1\"", "LOGIN \"DOMAIN\\\\user\" \"pw-1\""),
        ("login user*master \"pw-2\"", "LOGIN \"user*master\" \"pw-2\""),
        ("LOGIN u% pw%", "LOGIN \"u%\" \"pw%\""),
        ("LOGIN   u3    pw-3  ", "LOGIN \"u3\" \"pw-3\""),
        ("LOGIN u4 p{w", "LOGIN \"u4\" \"p{w\""),
        ("LOGIN \"u5\" \"\\p\\\"w\"", "LOGIN \"u5\" \"p\\\"w\""),
        ("LOGIN \"u6\"\"pw-6\"", "LOGIN \"u6\" \"pw-6\""),
    ] {
        let mut client = harness.client().await;
        client.play(&format!("C: a {line}\nS: a OK…")).await;
        assert!(backend.received().contains(sent), "{line}");
    }
    // What could be read otherwise is not taken, and reaches nobody.
    let logins = backend.logins();
    for line in ["LOGIN u (pw)", "LOGIN u p\"w", "LOGIN u pw)", "LOGIN u \"pw", "LOGIN u pw x", "LOGIN u\tpw x"] {
        let mut client = harness.client().await;
        client.play(&format!("C: a {line}\nS: a BAD…\nC: b NOOP\nS: b OK…")).await;
    }
    assert_eq!(backend.logins(), logins);
    harness.finish().await;
}

#[tokio::test]
async fn spaces_at_the_end_before_login() {
    let backend = Scripted::start(plain_server).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.client().await;
    client
        .play(
            "C: a NOOP 
             S: a OK…
             C: b CAPABILITY  
             S: * CAPABILITY…
             S: b OK…
             C: c ID NIL 
             S: * ID…
             S: c OK…
             C: d ID (\"name\" \"x\") 
             S: * ID…
             S: d OK…
             C: e STARTTLS 
             S: e BAD TLS…
             C: f AUTHENTICATE PLAIN  AHU4AHB3LXU4 
             S: f OK…
             C: g LOGOUT 
             S: * BYE…
             S: g OK…
             S.",
        )
        .await;
    drop(client);
    let mut client = harness.client().await;
    client.play("C: a authenticate plain \nS: + \nC: AHU4AHB3LXU4\nS: a OK…").await;
    drop(client);
    let mut client = harness.client().await;
    client.play("C: a AUTHENTICATE PLAIN =\nS: a BAD…\nC: b login u8 pw-u8\nS: b OK…").await;
    drop(client);
    harness.finish().await;
}

/// In a hub, too, and the first and the only one there.
#[tokio::test]
async fn spaces_at_the_end_in_a_mailbox() {
    for mode in [PoolMode::Multiplex, PoolMode::Session] {
        for sessions in [1, 2] {
            let backend = Scripted::start(plain_server).await;
            let harness = Harness::start(backend.address, |config| config.pool.mode = mode).await;
            let mut others = Vec::new();
            for _ in 1..sessions {
                let mut other = harness.login("u8").await;
                other.play("C: s SELECT INBOX\nS~ s OK…").await;
                others.push(other);
            }
            let mut client = harness.login("u8").await;
            for command in ["NOOP", "CHECK", "EXPUNGE", "NAMESPACE", "CAPABILITY", "UNSELECT", "CLOSE"] {
                client.play(&format!("C: s SELECT INBOX \nS~ s OK…\nC: a {command} \nS~ a OK…")).await;
            }
            client.play("C: s SELECT INBOX\nS~ s OK…\nC: i IDLE \nS: + idling\nC: DONE\nS: i OK…").await;
            client.play("C: o LOGOUT  \nS: * BYE…\nS: o OK…\nS.").await;
            drop(others);
            harness.finish().await;
        }
    }
}

/// Tags that Dovecot takes, and some that it does not.
#[tokio::test]
async fn tags() {
    let backend = Scripted::start(plain_server).await;
    let harness = Harness::start(backend.address, |_| {}).await;
    let mut client = harness.login("u8").await;
    for tag in ["a[b", "a}b", "a/b", "a.1", "#", "$", "-", "~", "a=b", "a'b", "a;b", "a&b", "OK", "BAD", "i0"] {
        client.play(&format!("C: {tag} LIST \"\" x\nS: {tag} OK done")).await;
    }
    for tag in ["*", "+", "a+b", "a*b", "a%b", "a\"b", "a\\b", "a(b", "a)b", "a{b"] {
        client.play(&format!("C: {tag} NOOP\nS: * BAD…\nC: a NOOP\nS: a OK…")).await;
    }
    drop(client);
    harness.finish().await;
}
