//! Conversations as data: `conversations/*.txt` (its README has the format), read into steps.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::accounts::password_of;
use crate::server::Kind;

/// One conversation of a file.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    /// What follows `==`.
    pub(crate) name: String,
    /// The client logs in by itself.
    pub(crate) fresh: bool,
    only: Option<String>,
    not: Option<String>,
    lines: Vec<String>,
}

/// What the client does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Sends, then waits for the tagged reply or a continuation.
    Command(Line),
    /// Sends together with the next one.
    Pipelined(Line),
    /// Sends, then waits for one response of any kind.
    Untagged(Line),
    /// Waits for an untagged response that contains this.
    Await(String),
    /// A command by a third party, straight on the server.
    ThirdParty(Line),
    /// Drops the connection and comes back.
    Reconnect,
    /// Reads up to the server's end of the connection.
    ReadToEnd,
}

/// A line as it is sent: pieces, between which a synchronising literal waits for its continuation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line {
    /// What goes out in one write each; the last has the CRLF.
    pub(crate) pieces: Vec<Vec<u8>>,
}

impl Line {
    /// The words before any literal.
    pub(crate) fn words(&self) -> Vec<String> {
        let first = self.pieces.first().map_or(&[][..], Vec::as_slice);
        String::from_utf8_lossy(first).split_whitespace().map(str::to_owned).collect()
    }

    /// All of it in one write, whatever its literals.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pieces.concat()
    }
}

/// What `${…}` stands for. The server's part changes as a conversation goes on.
#[derive(Debug, Clone)]
pub(crate) struct Variables {
    /// Whose conversation it is.
    pub(crate) user: String,
    /// The last UIDVALIDITY told.
    pub(crate) uidvalidity: String,
    /// The last HIGHESTMODSEQ told.
    pub(crate) modseq: String,
}

impl Variables {
    /// Before the server has said anything.
    pub(crate) fn new(user: &str) -> Self {
        Self { user: user.to_owned(), uidvalidity: "1".to_owned(), modseq: "1".to_owned() }
    }

    fn fill_in(&self, text: &str) -> String {
        let password = password_of(&self.user);
        let numbers: Vec<String> = (1..2000).map(|n| n.to_string()).collect();
        text.replace("${user}", &self.user)
            .replace("${pass}", &password)
            .replace("${plain}", &STANDARD.encode(format!("\0{}\0{password}", self.user)))
            .replace("${user64}", &STANDARD.encode(&self.user))
            .replace("${pass64}", &STANDARD.encode(&password))
            .replace("${uidvalidity}", &self.uidvalidity)
            .replace("${modseq}", &self.modseq)
            .replace("${long}", &"long".repeat(1500))
            .replace("${numbers}", &numbers.join(","))
    }
}

/// All conversations for this kind of server, in order.
pub(crate) fn all(kind: Kind) -> Vec<Conversation> {
    let files = [
        include_str!("conversations/login.txt"),
        include_str!("conversations/mailboxes.txt"),
        include_str!("conversations/messages.txt"),
        include_str!("conversations/syntax.txt"),
        include_str!("conversations/newer.txt"),
    ];
    let conversations = files.iter().flat_map(|text| parse(text));
    let means = |name: &str| name == kind.name() || name == kind.family();
    let fits = |c: &Conversation| c.only.as_deref().is_none_or(means) && !c.not.as_deref().is_some_and(means);
    conversations.filter(fits).collect()
}

/// What a file holds.
pub(crate) fn parse(text: &str) -> Vec<Conversation> {
    let mut conversations: Vec<Conversation> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(title) = line.strip_prefix("== ") {
            let (name, attributes) = title.split_once(" [").unwrap_or((title, ""));
            let mut attributes = attributes.split([']', '[']).map(str::trim);
            conversations.push(Conversation {
                name: name.to_owned(),
                fresh: attributes.clone().any(|a| a == "fresh"),
                only: attributes.clone().find_map(|a| a.strip_prefix("only ")).map(str::to_owned),
                not: attributes.find_map(|a| a.strip_prefix("not ")).map(str::to_owned),
                lines: Vec::new(),
            });
        } else {
            conversations.last_mut().expect("a file begins with ==").lines.push(line.to_owned());
        }
    }
    conversations
}

impl Conversation {
    /// How many steps it has.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether others speak for the account meanwhile.
    pub(crate) fn has_third_party(&self) -> bool {
        self.lines.iter().any(|line| line.starts_with("X:"))
    }

    /// The step of this index as the file has it.
    pub(crate) fn written(&self, index: usize) -> String {
        self.lines[index].clone()
    }

    /// The step of this index, with the variables as they are now.
    pub(crate) fn step(&self, index: usize, variables: &Variables) -> Step {
        let written = &self.lines[index];
        let (kind, text) = written.split_once(':').unwrap_or((written, ""));
        let text = variables.fill_in(text.strip_prefix(' ').unwrap_or(text));
        match kind {
            "C" => Step::Command(parse_line(&text)),
            "P" => Step::Pipelined(parse_line(&text)),
            "U" => Step::Untagged(parse_line(&text)),
            "X" => Step::ThirdParty(parse_line(&text)),
            "W" => Step::Await(text),
            "N" => Step::Reconnect,
            "Z" => Step::ReadToEnd,
            other => panic!("{}: no step is called {other:?}", self.name),
        }
    }
}

/// Text with `{{literals}}` as what is sent.
fn parse_line(text: &str) -> Line {
    let mut line = Line { pieces: vec![Vec::new()] };
    let mut rest = text;
    while let Some((before, literal)) = rest.split_once("{{") {
        // The literal may itself hold {{=n}}.
        let end = closing(literal);
        push(&mut line, &octets(before));
        push_literal(&mut line, &literal[..end]);
        rest = &literal[end + 2..];
    }
    push(&mut line, &octets(rest));
    push(&mut line, b"\r\n");
    line
}

/// Where the `}}` is that belongs to an opened `{{`: the last of a run of braces.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("{{=") {
            depth += 1;
            at += 3;
        } else if text[at..].starts_with("}}") && !text[at..].starts_with("}}}") {
            if depth == 0 {
                return at;
            }
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    panic!("{{{{ without }}}} in {text:?}");
}

fn push(line: &mut Line, bytes: &[u8]) {
    line.pieces.last_mut().expect("never empty").extend_from_slice(bytes);
}

fn push_literal(line: &mut Line, written: &str) {
    if let Some(length) = written.strip_prefix('=') {
        push(line, &vec![b'x'; length.parse().expect("a number")]);
        return;
    }
    let (written, binary) = written.strip_prefix('~').map_or((written, ""), |rest| (rest, "~"));
    let (written, plus) = written.strip_prefix('+').map_or((written, ""), |rest| (rest, "+"));
    let content = octets_with_runs(written);
    push(line, format!("{binary}{{{}{plus}}}\r\n", content.len()).as_bytes());
    if plus.is_empty() {
        line.pieces.push(Vec::new());
    }
    push(line, &content);
}

fn octets_with_runs(text: &str) -> Vec<u8> {
    let Some((before, rest)) = text.split_once("{{=") else { return octets(text) };
    let (length, after) = rest.split_once("}}").expect("{{=n}}");
    [octets(before), vec![b'x'; length.parse().expect("a number")], octets_with_runs(after)].concat()
}

/// Text with `<CRLF>` and `<xHH>` replaced.
fn octets(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        out.extend_from_slice(before.as_bytes());
        let hex = after.strip_prefix('x').and_then(|a| u8::from_str_radix(a.get(..2)?, 16).ok());
        rest = match (after.strip_prefix("CRLF>"), hex) {
            (Some(after), _) => {
                out.extend_from_slice(b"\r\n");
                after
            }
            (None, Some(octet)) if after.get(3..4) == Some(">") => {
                out.push(octet);
                &after[4..]
            }
            _ => {
                out.push(b'<');
                after
            }
        };
    }
    out.extend_from_slice(rest.as_bytes());
    out
}

#[test]
fn lines_become_what_is_sent() {
    let pieces = |text: &str| parse_line(text).pieces;
    assert_eq!(pieces("a NOOP"), [b"a NOOP\r\n".to_vec()]);
    assert_eq!(pieces("a X {{bc}} {{+de}}"), [b"a X {2}\r\n".to_vec(), b"bc {2+}\r\nde\r\n".to_vec()]);
    assert_eq!(pieces("a {{~+<x00><CRLF>}} <b"), [b"a ~{3+}\r\n\0\r\n <b\r\n".to_vec()]);
    assert_eq!(pieces("a {{+b{{=3}}c}}"), [b"a {5+}\r\nbxxxc\r\n".to_vec()]);
    assert_eq!(pieces("a {{{5+}}} \"{5}\""), [b"a {4}\r\n".to_vec(), b"{5+} \"{5}\"\r\n".to_vec()]);
}
