//! Clients, the proxy and the backend's connections, all led by one script, so that a rule reads from top to bottom:
//!
//! ```text
//! 1> b EXPUNGE            client 1 says
//! U> EXPUNGE              and the first upstream connection gets (V and W: the second and the third)
//! U< * 1 EXPUNGE          what the backend answers there
//! U< TAG OK expunged      TAG: of the command it got last; TAG(STATUS): of the last that begins with that word
//! U- text                 it gets this line: the rest of a command, after a literal's length
//! 1< * 1 EXPUNGE          what client 1 hears; … at the end: whatever else
//! U!                      the connection is lost
//! 2.                      client 2 vanishes
//! ONE                     client 1 selects a mailbox of three messages (TWO: client 2 does so, too)
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::multiplexing;
use crate::support::backend::CAPABILITIES;
use crate::support::client::{matches, unescape};
use crate::support::{Client, Conn, Harness, Scripted, soon};

/// See the module.
pub(crate) struct Stage {
    pub(crate) backend: Scripted,
    pub(crate) harness: Harness,
    clients: BTreeMap<u8, Client>,
    connections: Vec<Option<Conn>>,
    arrivals: mpsc::UnboundedReceiver<Conn>,
    /// Of the last command with this verb on this connection.
    tags: BTreeMap<(usize, String), String>,
}

/// The first session selects a mailbox of three messages (UIDs 11 to 13).
pub(crate) const ONE: &str = "1> a SELECT INBOX
    U> SELECT INBOX
    U< * FLAGS (\\Seen \\Deleted)
    U< * 3 EXISTS
    U< * 0 RECENT
    U< * OK [UIDVALIDITY 7] valid
    U< * OK [UIDNEXT 14] next
    U< TAG OK [READ-WRITE] selected
    1~ a OK [READ-WRITE] selected";

/// A second one joins it.
pub(crate) const TWO: &str = "2> a SELECT INBOX
    U> UID SEARCH 1:3
    U< * SEARCH 11 12 13
    U< TAG OK searched
    U> STATUS \"INBOX\" (UIDNEXT UIDVALIDITY)
    U< * STATUS INBOX (UIDNEXT 14 UIDVALIDITY 7)
    U< TAG OK status
    U> UID SEARCH UNSEEN
    U< * SEARCH
    U< TAG OK searched
    U> NOOP
    U< TAG OK noop
    2~ a OK [READ-WRITE] selected";

impl Stage {
    /// With at most so many upstream connections; the backend offers `more`, too.
    pub(crate) async fn set(connections: usize, more: &'static str) -> Self {
        let (arrived, arrivals) = mpsc::unbounded_channel();
        let capabilities: &'static str = format!("{CAPABILITIES} {more}").leak();
        let backend = Scripted::offering(capabilities, move |conn: Conn| {
            let _ = arrived.send(conn);
            std::future::ready(())
        })
        .await;
        let harness = multiplexing(&backend, connections).await;
        Self { backend, harness, clients: BTreeMap::new(), connections: Vec::new(), tags: BTreeMap::new(), arrivals }
    }

    /// Plays a script: see the module.
    pub(crate) async fn play(&mut self, script: &str) {
        let openings = |line: &'_ str| match line.trim() {
            "ONE" => ONE.to_owned(),
            "TWO" => TWO.to_owned(),
            line => line.to_owned(),
        };
        let script: Vec<String> = script.lines().map(openings).collect();
        for step in script.iter().flat_map(|part| part.lines()).map(str::trim).filter(|line| !line.is_empty()) {
            let (side, text) = step.split_at(2);
            let text = text.strip_prefix(' ').unwrap_or(text);
            let (who, what) = (side.as_bytes()[0], side.as_bytes()[1]);
            match who {
                b'1'..=b'9' => self.client(who, what, text).await,
                b'U'..=b'W' => self.upstream(usize::from(who - b'U'), what, text).await,
                _ => panic!("no step of a script: {step:?}"),
            }
        }
    }

    async fn client(&mut self, who: u8, what: u8, text: &str) {
        let who = char::from(who);
        if !self.clients.contains_key(&(who as u8)) {
            let client = self.harness.login("u8").await;
            self.clients.insert(who as u8, client);
        }
        let client = self.clients.get_mut(&(who as u8)).unwrap();
        match what {
            b'>' => client.send(unescape(text) + "\r\n").await,
            b'<' => {
                let line = client.line().await;
                assert!(matches(text, &line), "client {who} should hear {text:?}, and hears {line:?}");
            }
            b'~' => drop(client.until(|line| matches(text, line)).await),
            b'.' => drop(self.clients.remove(&(who as u8))),
            _ => panic!("no step of a client: {text:?}"),
        }
    }

    async fn upstream(&mut self, which: usize, what: u8, text: &str) {
        while self.connections.len() <= which {
            let conn = soon("a further upstream connection", self.arrivals.recv()).await.unwrap();
            self.connections.push(Some(conn));
        }
        let conn = self.connections[which].as_mut().expect("a connection that is there");
        match what {
            b'>' => {
                let line = soon(text, conn.command()).await;
                assert_eq!(line.as_deref(), Some(text), "connection {which}");
                let verb = text.split(' ').next().unwrap_or_default().to_owned();
                self.tags.insert((which, verb), conn.tag.clone());
            }
            b'-' => assert_eq!(soon(text, conn.line()).await.as_deref(), Some(text), "connection {which}"),
            b'<' => {
                let of_verb = text.strip_prefix("TAG(").and_then(|text| text.split_once(')'));
                let line = match of_verb {
                    Some((verb, rest)) => format!("{}{rest}", self.tags[&(which, verb.to_owned())]),
                    None => text.replace("TAG", &conn.tag),
                };
                conn.send(unescape(&line) + "\r\n").await;
            }
            b'!' => self.connections[which] = None,
            _ => panic!("no step of a connection: {text:?}"),
        }
    }

    /// Nobody has anything else to hear, and everything ends.
    pub(crate) async fn end(mut self) {
        for who in self.clients.keys().copied().collect::<Vec<_>>() {
            self.client(who, b'>', "z LOGOUT").await;
            self.client(who, b'<', "* BYE…").await;
        }
        assert_eq!(self.backend.logins(), self.connections.len(), "connections of which the script says nothing");
        drop((self.clients, self.connections, self.arrivals));
        self.harness.finish().await;
    }
}

/// With at most so many connections, and a backend that offers `more`: this script. Nobody hears anything else, and
/// there are no other connections.
pub(crate) async fn play(connections: usize, more: &'static str, script: &str) {
    let mut stage = Stage::set(connections, more).await;
    stage.play(script).await;
    stage.end().await;
}

/// Two sessions in INBOX on one connection, and this script.
pub(crate) async fn two(script: &str) {
    two_offering("", script).await;
}

/// The same, with a backend that offers more.
pub(crate) async fn two_offering(more: &'static str, script: &str) {
    play(1, more, &format!("ONE\nTWO\n{script}")).await;
}

/// Lets so much time pass at once.
pub(crate) async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
