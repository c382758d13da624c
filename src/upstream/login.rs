//! From the greeting to an authenticated connection, line by line (RFC 9051 sections 3, 6.2 and 7.1): greeting, STARTTLS,
//! CAPABILITY, then LOGIN or AUTHENTICATE. No sockets, no clock.
//!
//! A refused credential leaves the connection as it was, for the next one to be tried on.

use std::net::IpAddr;

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::imap::capability::Capabilities;
use crate::imap::command::quoted;
use crate::imap::response::{Kind, Status, StatusReply, classify, split_tag, trim_line_end};
use crate::imap::sasl::{Credential, Mechanism, SecretKind};

/// What a step ended in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend agreed to STARTTLS: do the handshake, forget what was read, then [`Login::handle_tls`].
    StartTls,
    /// Not authenticated, capabilities known: ready for [`Login::start`].
    Ready,
    /// Authenticated.
    Accepted,
    /// The credential was refused.
    Refused(Refusal),
    /// Not the credential's fault: too many connections or logins. The backend's words.
    Limit(String),
    /// Not the credential's fault: the backend cannot judge now. The backend's words.
    Unavailable(String),
}

/// A backend's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The tagged reply without tag and line end: `NO [AUTHENTICATIONFAILED] …`.
    pub reply: String,
    /// Base64 that explains why a token was refused (RFC 7628 section 3.2.2).
    pub challenge: Option<String>,
}

/// Why a connection cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// `* BYE`, with its text.
    #[error("the backend said goodbye: {0}")]
    Bye(String),
    /// Already logged in: nothing could be verified, nor secured (RFC 9051 section 7.1.4).
    #[error("the backend greets with PREAUTH: imapool has to log in itself, on another port of it")]
    PreAuth,
    /// STARTTLS is configured, and the backend has it not.
    #[error("the backend offers no STARTTLS, which backend.tls demands: {0}")]
    NoStartTls(String),
    /// No way to say the credential to this backend as it is secured.
    #[error("the backend offers no way to log in with this kind of credential (LOGINDISABLED: set backend.tls?)")]
    NoMechanism,
    /// Not IMAP.
    #[error("the backend does not speak IMAP: unexpected {0:?}")]
    Unexpected(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Greeting,
    StartTls,
    Tls,
    Capability { authenticated: bool },
    Nothing,
    Id,
    Login,
    Sasl { sent: bool },
    Authenticated,
}

/// See the module.
#[derive(Debug)]
pub struct Login {
    starttls: bool,
    next_tag: u64,
    waiting: Waiting,
    capabilities: Capabilities,
    /// Capabilities told since the login began.
    news: Option<Capabilities>,
    /// What goes out when the backend asks for it, last first: octets of literals with what follows, or a SASL message.
    held: Vec<Bytes>,
    kind: SecretKind,
    challenge: Option<String>,
    output: BytesMut,
}

impl Login {
    /// A connection just made (and secured, if TLS is implicit); `starttls`: STARTTLS must come before anything.
    #[must_use]
    pub fn new(starttls: bool) -> Self {
        Self {
            starttls,
            next_tag: 0,
            waiting: Waiting::Greeting,
            capabilities: Capabilities::default(),
            news: None,
            held: Vec::new(),
            kind: SecretKind::Password,
            challenge: None,
            output: BytesMut::new(),
        }
    }

    /// What the backend offers now.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// How many tags were used.
    #[must_use]
    pub fn next_tag(&self) -> u64 {
        self.next_tag
    }

    /// What is to be sent. It may hold secrets.
    pub fn poll_transmit(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    /// TLS stands.
    pub fn handle_tls(&mut self) {
        self.starttls = false;
        self.send("CAPABILITY", Waiting::Capability { authenticated: false });
    }

    /// Tells the backend for whom a login is, which it may believe (Dovecot: `login_trusted_networks`); ends in
    /// [`Outcome::Ready`]. False: the backend knows no ID (RFC 2971).
    pub fn introduce(&mut self, client: IpAddr) -> bool {
        let knows = self.capabilities.has("ID");
        if knows {
            self.send(&format!("ID (\"x-originating-ip\" \"{}\")", client.to_canonical()), Waiting::Id);
        }
        knows
    }

    /// Begins to log in; after [`Outcome::Ready`], or after a refusal.
    ///
    /// # Errors
    /// [`LoginError::NoMechanism`]; the connection is as good as before.
    pub fn start(&mut self, credential: &Credential) -> Result<(), LoginError> {
        self.kind = credential.mechanism.kind();
        self.news = None;
        self.challenge = None;
        self.held.clear();
        let sasl = match self.kind {
            SecretKind::Password => "PLAIN",
            SecretKind::XOAuth2 | SecretKind::OAuthBearer => credential.mechanism.name(),
        };
        let by_login = self.kind == SecretKind::Password
            && credential.authzid.is_empty()
            && !self.capabilities.has("LOGINDISABLED")
            && (credential.mechanism == Mechanism::LoginCommand || !self.capabilities.has("AUTH=PLAIN"));
        if by_login {
            self.start_login(credential);
        } else if self.capabilities.has(&format!("AUTH={sasl}")) {
            self.start_sasl(sasl, credential);
        } else {
            return Err(LoginError::NoMechanism);
        }
        Ok(())
    }

    /// Each argument as a quoted string where it can be one, else as a literal: no octet of it can end the line.
    fn start_login(&mut self, credential: &Credential) {
        let ask = !self.capabilities.has("LITERAL+");
        let mut parts: Vec<BytesMut> = vec![BytesMut::new()];
        put_tag(&mut parts[0], self.next_tag);
        parts[0].put_slice(b" LOGIN");
        for argument in [&credential.user[..], credential.secret.expose()] {
            let last = parts.len() - 1;
            parts[last].put_u8(b' ');
            if let Some(quoted) = quoted(argument) {
                parts[last].put_slice(&quoted);
                continue;
            }
            parts[last].put_slice(format!("{{{}{}}}\r\n", argument.len(), if ask { "" } else { "+" }).as_bytes());
            if ask {
                parts.push(BytesMut::from(argument));
            } else {
                parts[last].put_slice(argument);
            }
        }
        if let Some(last) = parts.last_mut() {
            last.put_slice(b"\r\n");
        }
        self.next_tag += 1;
        self.waiting = Waiting::Login;
        self.output.put_slice(&parts[0]);
        self.held = parts.drain(1..).rev().map(BytesMut::freeze).collect();
    }

    fn start_sasl(&mut self, mechanism: &str, credential: &Credential) {
        let message = credential.sasl_message();
        put_tag(&mut self.output, self.next_tag);
        self.next_tag += 1;
        self.output.put_slice(format!(" AUTHENTICATE {mechanism}").as_bytes());
        let initial = self.capabilities.has("SASL-IR");
        if initial {
            self.output.put_u8(b' ');
            self.output.put_slice(message.expose());
        } else {
            let mut line = BytesMut::from(message.expose());
            line.put_slice(b"\r\n");
            self.held.push(line.freeze());
        }
        self.output.put_slice(b"\r\n");
        self.waiting = Waiting::Sasl { sent: initial };
    }

    /// A line of the backend, line end included. `None`: more must come.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn handle_line(&mut self, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        match classify(line) {
            Kind::Status(Status::Bye) => Err(LoginError::Bye(text_of(&line[1..]))),
            Kind::Status(status) if self.waiting == Waiting::Greeting => self.greeting(status, line),
            _ if self.waiting == Waiting::Greeting => Err(unexpected(line)),
            Kind::Capability => {
                let words = trim_line_end(line);
                self.news = Some(Capabilities::parse(&words[words.len().min("* CAPABILITY".len())..]));
                Ok(None)
            }
            // What is no reply at all says nothing, unless it stands where the end of our command should be told.
            Kind::Stray { .. } if !self.is_ours(split_tag(line).0) => Ok(None),
            Kind::Tagged | Kind::Stray { .. } => self.tagged(line),
            Kind::Continuation => self.continuation(line),
            _ => Ok(None),
        }
    }

    fn greeting(&mut self, status: Status, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        match status {
            Status::Ok => {}
            Status::PreAuth => return Err(LoginError::PreAuth),
            _ => return Err(unexpected(line)),
        }
        if self.starttls {
            // Whether it is offered cannot be trusted before TLS stands; whether it works can.
            self.send("STARTTLS", Waiting::StartTls);
        } else {
            // The greeting may tell them, too, but not all of them (Cyrus).
            self.send("CAPABILITY", Waiting::Capability { authenticated: false });
        }
        Ok(None)
    }

    fn is_ours(&self, tag: &[u8]) -> bool {
        let mut ours = BytesMut::new();
        put_tag(&mut ours, self.next_tag.wrapping_sub(1));
        tag == ours
    }

    fn tagged(&mut self, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        let (tag, rest) = split_tag(line);
        let reply = StatusReply::parse(rest).filter(|_| self.is_ours(tag)).ok_or_else(|| unexpected(line))?;
        let ok = reply.status == Status::Ok;
        match self.waiting {
            Waiting::StartTls if ok => {
                self.waiting = Waiting::Tls;
                Ok(Some(Outcome::StartTls))
            }
            Waiting::StartTls => Err(LoginError::NoStartTls(text_of(rest))),
            Waiting::Capability { authenticated } if ok => {
                self.capabilities = self.news.take().ok_or_else(|| unexpected(line))?;
                self.waiting = if authenticated { Waiting::Authenticated } else { Waiting::Nothing };
                Ok(Some(if authenticated { Outcome::Accepted } else { Outcome::Ready }))
            }
            // Whatever it thinks of that.
            Waiting::Id => {
                self.waiting = Waiting::Nothing;
                Ok(Some(Outcome::Ready))
            }
            Waiting::Login | Waiting::Sasl { .. } if ok => Ok(self.accepted(&reply)),
            Waiting::Login | Waiting::Sasl { .. } => {
                self.waiting = Waiting::Nothing;
                self.held.clear();
                Ok(Some(judge(&reply, self.challenge.take())))
            }
            _ => Err(unexpected(line)),
        }
    }

    fn accepted(&mut self, reply: &StatusReply<'_>) -> Option<Outcome> {
        self.held.clear();
        let told = reply.capabilities().map(Capabilities::parse).or_else(|| self.news.take());
        if let Some(capabilities) = told {
            self.capabilities = capabilities;
            self.waiting = Waiting::Authenticated;
            return Some(Outcome::Accepted);
        }
        self.send("CAPABILITY", Waiting::Capability { authenticated: true });
        None
    }

    fn continuation(&mut self, line: &[u8]) -> Result<Option<Outcome>, LoginError> {
        match (self.waiting, self.held.pop()) {
            (Waiting::Login | Waiting::Sasl { sent: false }, Some(part)) => {
                self.output.put_slice(&part);
                if self.waiting != Waiting::Login {
                    self.waiting = Waiting::Sasl { sent: true };
                }
            }
            (Waiting::Sasl { sent: true }, None) => {
                let answer: &[u8] = match self.kind {
                    // Nothing more to say: abort.
                    SecretKind::Password => b"*\r\n",
                    SecretKind::XOAuth2 => b"\r\n",
                    SecretKind::OAuthBearer => b"AQ==\r\n",
                };
                let text = trim_line_end(line).strip_prefix(b"+ ").unwrap_or_default();
                if self.kind != SecretKind::Password && text.iter().all(|b| b.is_ascii_graphic()) {
                    self.challenge = std::str::from_utf8(text).ok().map(str::to_owned);
                }
                self.output.put_slice(answer);
            }
            _ => return Err(unexpected(line)),
        }
        Ok(None)
    }

    fn send(&mut self, command: &str, waiting: Waiting) {
        put_tag(&mut self.output, self.next_tag);
        self.next_tag += 1;
        self.output.put_u8(b' ');
        self.output.put_slice(command.as_bytes());
        self.output.put_slice(b"\r\n");
        self.news = None;
        self.waiting = waiting;
    }
}

/// Whether it is the credential that is refused (RFC 5530 section 3), or something else is the matter.
fn judge(reply: &StatusReply<'_>, challenge: Option<String>) -> Outcome {
    let text = printable(reply.text);
    if reply.has_code("LIMIT") || reply.has_code("INUSE") || is_connection_limit(&text) {
        return Outcome::Limit(text);
    }
    if reply.has_code("UNAVAILABLE") || reply.has_code("SERVERBUG") || reply.has_code("CORRUPTION") {
        return Outcome::Unavailable(text);
    }
    let status = if reply.status == Status::Bad { "BAD" } else { "NO" };
    let code = match reply.code {
        Some(code) if reply.capabilities().is_none() => format!("[{}] ", printable(code)),
        _ => String::new(),
    };
    Outcome::Refused(Refusal { reply: format!("{status} {code}{text}"), challenge })
}

/// Whether a backend's words say that there are too many connections, as servers without `[LIMIT]` put it.
#[must_use]
pub fn is_connection_limit(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    (text.contains("too many") || text.contains("maximum number") || text.contains("limit"))
        && ["connection", "session", "login"].iter().any(|what| text.contains(what))
        && !text.contains("fail")
        || text.contains("too many simultaneous connections")
}

fn text_of(rest: &[u8]) -> String {
    StatusReply::parse(rest).map_or_else(|| printable(rest), |reply| printable(reply.text))
}

/// For logs and replies: one line, bounded.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(trim_line_end(text)).chars().filter(|c| !c.is_control()).take(300).collect()
}

fn unexpected(line: &[u8]) -> LoginError {
    LoginError::Unexpected(printable(&line[..line.len().min(100)]))
}

fn put_tag(out: &mut BytesMut, number: u64) {
    out.put_slice(format!("i{number:x}").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Credential {
        Credential::new(Mechanism::LoginCommand, user.into(), Vec::new(), password.into())
    }

    /// `C:` is what the machine has to send, `S:` what the server says, `=` the outcome.
    fn play(login: &mut Login, script: &str) {
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (who, text) = line.split_once(' ').unwrap();
            match who {
                "C:" => {
                    assert_eq!(String::from_utf8_lossy(&login.poll_transmit()), text.replace("\\r\\n", "\r\n") + "\r\n")
                }
                "S:" => assert_eq!(login.handle_line(format!("{text}\r\n").as_bytes()), Ok(None), "{line}"),
                "S=" => {
                    let (text, outcome) = text.rsplit_once(" => ").unwrap();
                    let got = login.handle_line(format!("{text}\r\n").as_bytes());
                    assert!(format!("{got:?}").contains(outcome), "{line}: {got:?}");
                }
                _ => panic!("{line}"),
            }
        }
    }

    fn greet(login: &mut Login, capabilities: &str) {
        let script = format!(
            "S: * OK [CAPABILITY IMAP4rev1] hi
             C: i0 CAPABILITY
             S: * CAPABILITY {capabilities}
             S= i0 OK done => Ready"
        );
        play(login, &script);
    }

    #[test]
    fn greeting_with_capabilities_then_login() {
        let mut login = Login::new(false);
        greet(&mut login, "IMAP4rev1 LITERAL+");
        login.start(&password("u\"8", "pä\r\nx")).unwrap();
        play(
            &mut login,
            "C: i1 LOGIN \"u\\\"8\" {6+}\\r\\npä\\r\\nx
             S= i1 NO [AUTHENTICATIONFAILED] no => Refused(Refusal { reply: \"NO [AUTHENTICATIONFAILED] no\"",
        );
        login.start(&password("u8", "x")).unwrap();
        play(
            &mut login,
            "C: i2 LOGIN \"u8\" \"x\"
             S: i2 OK hello
             C: i3 CAPABILITY
             S: * CAPABILITY IMAP4rev1 SORT
             S= i3 OK done => Accepted",
        );
        assert!(login.capabilities().has("SORT"));
    }

    #[test]
    fn literals_wait_to_be_asked_for() {
        let mut login = Login::new(false);
        greet(&mut login, "IMAP4rev1");
        login.start(&password("ü", "ö")).unwrap();
        play(
            &mut login,
            "C: i1 LOGIN {2}
             S: + go",
        );
        assert_eq!(login.poll_transmit(), "ü {2}\r\n");
        play(&mut login, "S: + go");
        assert_eq!(login.poll_transmit(), "ö\r\n");
        play(&mut login, "S= i1 OK [CAPABILITY IMAP4rev1 ID] in => Accepted");
    }

    #[test]
    fn starttls_forgets_what_came_before() {
        let mut login = Login::new(true);
        play(
            &mut login,
            "S: * OK [CAPABILITY IMAP4rev1 EVIL] hi
             C: i0 STARTTLS
             S= i0 OK begin => StartTls",
        );
        assert!(login.capabilities().is_empty());
        login.handle_tls();
        play(
            &mut login,
            "C: i1 CAPABILITY
             S: * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR LOGINDISABLED
             S= i1 OK done => Ready",
        );
        login.start(&password("u", "p")).unwrap();
        play(&mut login, "C: i2 AUTHENTICATE PLAIN AHUAcA==");
    }

    #[test]
    fn what_is_not_an_imap_server_that_can_be_used() {
        for (starttls, script) in [
            (true, "S= * PREAUTH hi => PreAuth"),
            (false, "S= * PREAUTH hi => PreAuth"),
            (false, "S= * BYE too busy => Bye(\"too busy\")"),
            (false, "S= 220 smtp ready => Unexpected"),
            (false, "S= * NO go away => Unexpected"),
        ] {
            play(&mut Login::new(starttls), script);
        }
        play(&mut Login::new(true), "S: * OK hi\nC: i0 STARTTLS\nS= i0 BAD what => NoStartTls(\"what\")");
        play(&mut Login::new(false), "S: * OK hi\nC: i0 CAPABILITY\nS= i7 OK what => Unexpected");
    }

    #[test]
    fn a_limit_is_not_a_wrong_password() {
        for (reply, outcome) in [
            ("NO [LIMIT] Maximum number of connections from user+IP exceeded", "Limit"),
            ("NO [ALERT] Too many simultaneous connections. (Failure)", "Limit"),
            ("NO Too many open connections", "Limit"),
            ("NO [UNAVAILABLE] Temporary authentication failure.", "Unavailable"),
            ("NO [AUTHENTICATIONFAILED] Authentication failed.", "Refused"),
            ("NO Too many login failures", "Refused"),
            ("BAD Plaintext not allowed", "Refused"),
        ] {
            let mut login = Login::new(false);
            greet(&mut login, "IMAP4rev1");
            login.start(&password("u", "p")).unwrap();
            play(&mut login, &format!("S= i1 {reply} => {outcome}"));
        }
    }

    #[test]
    fn a_refused_token_says_why() {
        let mut login = Login::new(false);
        greet(&mut login, "IMAP4rev1 AUTH=XOAUTH2");
        let token = Credential::new(Mechanism::XOAuth2, b"u".to_vec(), Vec::new(), b"tok".to_vec());
        login.start(&token).unwrap();
        play(
            &mut login,
            "C: i1 AUTHENTICATE XOAUTH2
             S: +
             C: dG9r
             S: + eyJzdGF0dXMiOiI0MDEifQ==",
        );
        assert_eq!(login.poll_transmit(), "\r\n");
        play(&mut login, "S= i1 NO failed => challenge: Some(\"eyJzdGF0dXMiOiI0MDEifQ==\")");
        assert_eq!(login.start(&password("u", "p")), Ok(()));
        login.capabilities = Capabilities::parse(b"LOGINDISABLED");
        assert_eq!(login.start(&password("u", "p")), Err(LoginError::NoMechanism));
    }
}
