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
//! ```
//!
//! Steps that belong together are one, with ` | ` between the lines:
//!
//! ```text
//! 1< * 1 EXPUNGE | b OK…                          client 1 hears one after the other
//! 1= b IDLE | + idling                            it says this, and hears that
//! 2U b NOOP | * 1 EXPUNGE                         client 2 says this, the connection gets it as it is and answers OK:
//!                                                 client 2 hears these lines, and that
//! U= EXPUNGE | * 1 EXPUNGE | TAG OK expunged      the connection gets this command, and the backend answers these
//! lines U= EXPUNGE | * 1 EXPUNGE                        the same, with `TAG OK EXPUNGE done` U= SELECT INBOX | 3
//! messages, UIDVALIDITY 7     EXISTS, these codes, and `TAG OK [READ-WRITE] selected` U- DONE | TAG OK idled
//! the same of the rest of a command U? UIDNEXT 14, UIDVALIDITY 7                    what is asked about INBOX when
//! somebody joins: STATUS with these, UID SEARCH UNSEEN, which finds nothing, and NOOP ONE
//! client 1 selects a mailbox of three messages TWO                                             client 2 joins it ```

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
    U< * FLAGS (\\Seen \\Deleted) | * 3 EXISTS | * 0 RECENT | * OK [UIDVALIDITY 7] told | * OK [UIDNEXT 14] told
    U< TAG OK [READ-WRITE] selected
    1~ a OK [READ-WRITE] selected";

/// A second one joins it.
pub(crate) const TWO: &str = "2> a SELECT INBOX
    U= UID SEARCH 1:3 | * SEARCH 11 12 13
    U? UIDNEXT 14, UIDVALIDITY 7
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
        for step in script.lines().flat_map(steps) {
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

const CONNECTIONS: [&str; 3] = ["U", "V", "W"];

/// A line of a script as single steps.
fn steps(line: &str) -> Vec<String> {
    let line = line.trim();
    let (side, text) = line.split_at_checked(2).unwrap_or((line, ""));
    let (who, text) = (side.get(..1).unwrap_or_default(), text.strip_prefix(' ').unwrap_or(text));
    match (line, side.get(1..)) {
        ("", _) => Vec::new(),
        ("ONE", _) => ONE.lines().flat_map(steps).collect(),
        ("TWO", _) => TWO.lines().flat_map(steps).collect(),
        (_, Some("=")) if CONNECTIONS.contains(&who) => answered(who, text),
        (_, Some(connection)) if CONNECTIONS.contains(&connection) => passed(who, connection, text),
        (_, Some("?")) => asked(who, text),
        (_, Some("=")) => turn(&format!("{who}>"), &format!("{who}<"), text),
        (_, Some("-")) => turn(side, &format!("{who}<"), text),
        (_, Some(_)) => turn(side, side, text),
        _ => panic!("no step of a script: {line:?}"),
    }
}

/// `line | line`: the first on this side, the others on that.
fn turn(first: &str, then: &str, text: &str) -> Vec<String> {
    let sides = std::iter::once(first).chain(std::iter::repeat(then));
    sides.zip(text.split(" | ")).map(|(side, text)| format!("{side} {text}")).collect()
}

/// `command | line | line`: the connection gets the command, and the lines are the answer.
fn answered(connection: &str, text: &str) -> Vec<String> {
    let mut parts = text.split(" | ");
    let command = parts.next().unwrap_or_default();
    let mut answer: Vec<String> = parts.flat_map(mailbox).collect();
    if !answer.last().is_some_and(|line| line.starts_with("TAG ") || line.starts_with("+ ")) {
        answer.push(format!("TAG OK {} done", name(command)));
    }
    let answer = answer.iter().map(|line| format!("{connection}< {line}"));
    std::iter::once(format!("{connection}> {command}")).chain(answer).collect()
}

/// `tag command | line`: what the client says reaches the connection, whose OK it hears behind the lines.
fn passed(client: &str, connection: &str, text: &str) -> Vec<String> {
    let (said, lines) =
        text.split_once(" | ").map_or((text, String::new()), |(said, lines)| (said, format!("{lines} | ")));
    let (tag, command) = said.split_once(' ').unwrap_or_default();
    let said = format!("{client}> {said}");
    let heard = turn(&format!("{client}<"), &format!("{client}<"), &format!("{lines}{tag} OK {} done", name(command)));
    [vec![said], answered(connection, command), heard].concat()
}

/// The command without its arguments.
fn name(command: &str) -> String {
    let words = if command.starts_with("UID ") { 2 } else { 1 };
    command.split(' ').take(words).collect::<Vec<_>>().join(" ")
}

/// `3 messages, UIDVALIDITY 7`: how SELECT is answered. Any other line is one.
fn mailbox(line: &str) -> Vec<String> {
    let mut parts = line.split(", ");
    let Some(count) = parts.next().and_then(|part| part.strip_suffix(" messages")) else {
        return vec![line.to_owned()];
    };
    let codes = parts.map(|code| format!("* OK [{code}] told"));
    let selected = "TAG OK [READ-WRITE] selected".to_owned();
    std::iter::once(format!("* {count} EXISTS")).chain(codes).chain([selected]).collect()
}

/// `UIDNEXT 14, UIDVALIDITY 7`: what is asked about INBOX when somebody joins, with STATUS for these.
fn asked(connection: &str, text: &str) -> Vec<String> {
    let names: Vec<&str> = text.split(", ").filter_map(|item| item.split(' ').next()).collect();
    let status = format!("STATUS \"INBOX\" ({}) | * STATUS INBOX ({})", names.join(" "), text.replace(',', ""));
    [&*status, "UID SEARCH UNSEEN | * SEARCH", "NOOP"].iter().flat_map(|text| answered(connection, text)).collect()
}

/// With at most so many connections, and a backend that offers `more`: this script. Nobody hears anything else, and
/// there are no other connections.
pub(crate) async fn play(connections: usize, more: &'static str, script: &str) {
    let mut stage = Stage::set(connections, more).await;
    stage.play(script).await;
    stage.end().await;
}

/// A session in INBOX, so many connections allowed, and this script.
pub(crate) async fn one_on(connections: usize, script: &str) {
    play(connections, "", &format!("ONE\n{script}")).await;
}

/// Two sessions in INBOX on one connection, and this script.
pub(crate) async fn two(script: &str) {
    two_on(1, script).await;
}

/// The same, with so many connections allowed.
pub(crate) async fn two_on(connections: usize, script: &str) {
    play(connections, "", &format!("ONE\nTWO\n{script}")).await;
}

/// The same, with a backend that offers more.
pub(crate) async fn two_offering(more: &'static str, script: &str) {
    play(1, more, &format!("ONE\nTWO\n{script}")).await;
}

/// Two sessions in INBOX whose connection is lost. By what the backend says then, it is INBOX no more: both end.
pub(crate) async fn both_end(found: &str) {
    two(&format!(
        "U!
         2> b NOOP
         {found}
         1< * BYE…
         2< b NO [UNAVAILABLE]… | * BYE…
         1.
         2."
    ))
    .await;
}

/// Lets so much time pass at once, when all that was said has arrived.
pub(crate) async fn pass(time: Duration) {
    // Sockets are looked at every so many rounds.
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
