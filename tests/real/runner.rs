//! Runs a conversation against an address and writes down what came back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::accounts::password_of;
use crate::client::Client;
use crate::compare::{Edge, Normaliser};
use crate::conversation::{Conversation, Line, Step, Variables};

/// How long a transcript waits before it says that nothing came: shorter than any server's patience.
const SILENCE: Duration = Duration::from_secs(10);

/// What was said, made comparable: `C:` and `S:` lines.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    /// Line by line.
    pub(crate) lines: Vec<String>,
    /// Every list of capabilities the server told, in order.
    pub(crate) capabilities: Vec<String>,
}

/// Gives an account its five messages and its mailboxes.
pub(crate) async fn prepare_account(server: SocketAddr, user: &str) -> io::Result<()> {
    let mut client = Client::login(server, user, &password_of(user)).await?;
    client.command("CREATE Box").await?.ok();
    client.command("CREATE Box/Deep").await?.ok();
    for (flags, date, message) in messages() {
        client.append("INBOX", &format!("({flags}) \"{date}\" "), &message).await?.ok();
    }
    client.logout().await
}

fn messages() -> Vec<(&'static str, &'static str, String)> {
    let plain = |n: u32, from: &str, subject: &str, body: &str| {
        format!(
            "From: {from} <{from}@example.org>\r\nTo: Bob <bob@example.org>\r\nSubject: {subject}\r\n\
             Date: 0{n} Jan 2024 10:00:00 +0000\r\nMessage-ID: <{n}@example.org>\r\n\r\n{body}\r\n"
        )
    };
    let mixed = "From: Ann <ann@example.org>\r\nSubject: mixed\r\nDate: 04 Jan 2024 10:00:00 +0000\r\n\
                 Message-ID: <4@example.org>\r\nReferences: <1@example.org>\r\nMIME-Version: 1.0\r\n\
                 Content-Type: multipart/mixed; boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n\
                 hello part\r\n--b\r\nContent-Type: application/octet-stream; name=\"x.bin\"\r\n\
                 Content-Transfer-Encoding: base64\r\nContent-Disposition: attachment\r\n\r\nAAECAwQF\r\n--b--\r\n";
    vec![
        ("", "01-Jan-2024 10:00:00 +0000", plain(1, "ann", "first", "hello")),
        ("\\Flagged", "02-Jan-2024 10:00:00 +0000", plain(2, "carl", "Re: first", "hello again")),
        ("\\Seen \\Answered", "03-Jan-2024 10:00:00 +0000", plain(3, "ann", "third", "some text {5}\r\n{5}")),
        ("\\Seen", "04-Jan-2024 10:00:00 +0000", mixed.to_owned()),
        ("", "05-Jan-2024 10:00:00 +0000", plain(5, "dora", "=?utf-8?q?=C3=BCber?=", "* BYE\r\na1 OK\r\n+ x")),
    ]
}

/// Runs `conversation` as `user` at `address`; third parties speak to `server`.
pub(crate) async fn run(
    conversation: &Conversation,
    user: &str,
    address: SocketAddr,
    server: SocketAddr,
    recent_counts: bool,
) -> Transcript {
    let variables = Variables::new(user);
    let mut runner = Runner {
        client: None,
        third_party: None,
        address,
        server,
        variables,
        normaliser: Normaliser::new(user, recent_counts),
        transcript: Transcript::default(),
        pipelined: Vec::new(),
        tag: String::new(),
        continued: false,
    };
    if let Err(error) = runner.run(conversation).await {
        let end = match error.kind() {
            io::ErrorKind::TimedOut => "<silence>",
            // How a closed connection is noticed is up to the kernel.
            _ => "<closed>",
        };
        runner.transcript.lines.push(format!("S: {end}"));
    }
    runner.transcript
}

struct Runner {
    client: Option<Client>,
    third_party: Option<Client>,
    address: SocketAddr,
    server: SocketAddr,
    variables: Variables,
    normaliser: Normaliser,
    transcript: Transcript,
    /// Sent with the next command.
    pipelined: Vec<u8>,
    /// Of the command that runs.
    tag: String,
    /// The next line continues that command.
    continued: bool,
}

/// What ended a wait.
enum Seen {
    Tagged,
    Continuation,
    Wanted,
}

impl Runner {
    async fn run(&mut self, conversation: &Conversation) -> io::Result<()> {
        self.connect(conversation.fresh).await?;
        for index in 0..conversation.len() {
            self.transcript.lines.push(conversation.written(index));
            match conversation.step(index, &self.variables) {
                Step::Command(line) => self.command(&line).await?,
                Step::Pipelined(line) => {
                    self.begin(&line);
                    self.pipelined.extend(line.bytes());
                }
                Step::Untagged(line) => {
                    self.send(&line.bytes()).await?;
                    let before = self.transcript.lines.len();
                    self.wait(Some("")).await?;
                    self.same_refusal(before);
                }
                Step::Await(wanted) => {
                    self.wait(Some(&wanted)).await?;
                }
                Step::ThirdParty(line) => self.third_party(&line).await?,
                Step::Reconnect => {
                    self.connect(false).await?;
                }
                Step::ReadToEnd => {
                    self.send(b"").await?;
                    return self.read_to_end().await;
                }
            }
        }
        self.command(&Line { pieces: vec![b"zz LOGOUT\r\n".to_vec()] }).await?;
        self.read_to_end().await
    }

    async fn connect(&mut self, fresh: bool) -> io::Result<()> {
        self.client = None;
        let client = Client::connect(self.address).await?;
        let greeting = client.greeting.clone();
        self.client = Some(client);
        self.normaliser.connected();
        self.write_down(&greeting);
        if !fresh {
            let user = &self.variables.user;
            let login = format!("aa LOGIN {user} {}\r\n", password_of(user));
            self.command(&Line { pieces: vec![login.into_bytes()] }).await?;
        }
        Ok(())
    }

    fn client(&mut self) -> &mut Client {
        self.client.as_mut().expect("connected at the start")
    }

    /// A line that is no command is refused, with its tag or without.
    fn same_refusal(&mut self, from: usize) {
        for line in &mut self.transcript.lines[from..] {
            if line.ends_with(" BAD") {
                *line = "S: <refused>".to_owned();
            }
        }
    }

    /// Servers may run pipelined commands in any order, Dovecot does: each reply must be there, and the tagged ones
    /// in order.
    fn sort_pipelined(&mut self, from: usize) {
        let mut replies = self.transcript.lines.split_off(from);
        replies.sort_by_cached_key(|line| {
            let untagged = line.starts_with("S: * ");
            (!untagged, if untagged { line.clone() } else { String::new() })
        });
        self.transcript.lines.extend(replies);
    }

    /// Sends bytes, after those that wait to go with them.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut all = std::mem::take(&mut self.pipelined);
        all.extend_from_slice(bytes);
        if all.is_empty() { Ok(()) } else { self.client().send(&all).await }
    }

    /// Notes the line's tag and verb if it begins a command.
    fn begin(&mut self, line: &Line) {
        if !self.continued {
            let words = line.words();
            self.tag = words.first().cloned().unwrap_or_default();
            self.normaliser.command(&self.tag, words.get(1).map_or("", String::as_str));
        }
        self.continued = false;
    }

    async fn command(&mut self, line: &Line) -> io::Result<()> {
        self.begin(line);
        let pipelined = !self.pipelined.is_empty();
        let before = self.transcript.lines.len();
        for piece in &line.pieces {
            self.send(piece).await?;
            self.continued = matches!(self.wait(None).await?, Seen::Continuation);
            if !self.continued {
                break;
            }
        }
        if pipelined {
            self.sort_pipelined(before);
        }
        Ok(())
    }

    /// Reads until the tagged reply or a continuation, or (if something is wanted) what contains it.
    async fn wait(&mut self, wanted: Option<&str>) -> io::Result<Seen> {
        loop {
            let response = tokio::time::timeout(SILENCE, self.client().response()).await??;
            let Some(response) = response else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            self.write_down(&response);
            if response.starts_with(format!("{} ", self.tag).as_bytes()) && wanted.is_none() {
                return Ok(Seen::Tagged);
            }
            if response.starts_with(b"+") && wanted.is_none() {
                return Ok(Seen::Continuation);
            }
            if wanted.is_some_and(|wanted| String::from_utf8_lossy(&response).contains(wanted)) {
                return Ok(Seen::Wanted);
            }
        }
    }

    fn write_down(&mut self, response: &[u8]) {
        let text = String::from_utf8_lossy(response);
        if let Some(value) = number_after(&text, "[UIDVALIDITY ") {
            self.variables.uidvalidity = value;
        }
        if let Some(value) = number_after(&text, "[HIGHESTMODSEQ ") {
            self.variables.modseq = value;
        }
        let Edge { lines, capabilities } = self.normaliser.response(&text);
        if !lines.is_empty() {
            // One entry for one response: what is inside a literal stays in its place.
            self.transcript.lines.push(format!("S: {}", lines.join("\n   ")));
        }
        self.transcript.capabilities.extend(capabilities);
    }

    async fn read_to_end(&mut self) -> io::Result<()> {
        while let Some(response) = tokio::time::timeout(SILENCE, self.client().response()).await?? {
            self.write_down(&response);
        }
        self.transcript.lines.push("S: <end>".to_owned());
        Ok(())
    }

    async fn third_party(&mut self, line: &Line) -> io::Result<()> {
        let mut client = match self.third_party.take() {
            Some(client) => client,
            None => {
                let user = &self.variables.user;
                let mut client = Client::login(self.server, user, &password_of(user)).await?;
                client.command("SELECT INBOX").await?.ok();
                client
            }
        };
        let bytes = line.bytes();
        client.command_bytes(bytes.strip_suffix(b"\r\n").unwrap_or(&bytes)).await?.ok();
        self.third_party = Some(client);
        Ok(())
    }
}

fn number_after(text: &str, key: &str) -> Option<String> {
    let (_, rest) = text.split_once(key)?;
    Some(rest.chars().take_while(char::is_ascii_digit).collect())
}
