//! Credentials, and the SASL mechanisms that carry them: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login),
//! XOAUTH2, OAUTHBEARER (RFC 7628).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::secret::Secret;

/// Octets of a user name; no server knows a longer one.
const MAX_NAME: usize = 1024;

/// How a credential was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// The LOGIN command.
    LoginCommand,
    /// AUTHENTICATE PLAIN
    Plain,
    /// AUTHENTICATE LOGIN
    Login,
    /// AUTHENTICATE XOAUTH2
    XOAuth2,
    /// AUTHENTICATE OAUTHBEARER
    OAuthBearer,
}

impl Mechanism {
    /// By its SASL name, whatever the case.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        [Self::Plain, Self::Login, Self::XOAuth2, Self::OAuthBearer]
            .into_iter()
            .find(|mechanism| name.eq_ignore_ascii_case(mechanism.name().as_bytes()))
    }

    /// The SASL name; for the LOGIN command, `LOGIN`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LoginCommand | Self::Login => "LOGIN",
            Self::Plain => "PLAIN",
            Self::XOAuth2 => "XOAUTH2",
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }

    /// What the secret is. Credentials of the same kind for the same user are interchangeable proofs.
    #[must_use]
    pub fn kind(self) -> SecretKind {
        match self {
            Self::LoginCommand | Self::Plain | Self::Login => SecretKind::Password,
            Self::XOAuth2 => SecretKind::XOAuth2,
            Self::OAuthBearer => SecretKind::OAuthBearer,
        }
    }
}

/// What a credential's secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SecretKind {
    /// A password, given by LOGIN, PLAIN or the LOGIN mechanism.
    #[default]
    Password,
    /// An XOAUTH2 token.
    XOAuth2,
    /// An OAUTHBEARER token.
    OAuthBearer,
}

/// How a string was written by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a quoted string, or an atom: within the line.
    Quoted,
    /// As a literal, or in base64.
    Literal,
}

/// Who wants to log in, and with what.
#[derive(Debug, Clone)]
pub struct Credential {
    /// How it was given.
    pub mechanism: Mechanism,
    /// The authentication identity: whose secret it is. Never empty.
    pub user: Vec<u8>,
    /// The authorisation identity, whose mail is to be read; empty: the same.
    pub authzid: Vec<u8>,
    /// The password; for XOAUTH2 and OAUTHBEARER the whole initial response.
    pub secret: Secret,
    /// How user and secret were written. It makes no other credential of it.
    pub forms: [Form; 2],
}

/// Why a credential is refused before any backend sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SaslError {
    /// Not base64 (RFC 4648 section 4), or a malformed message of the mechanism.
    #[error("Malformed SASL response")]
    Malformed,
    /// OAUTHBEARER may leave the name to the token (RFC 7628 section 3.1); whose connections it may use, only the name
    /// says.
    #[error("imapool needs the user's name in OAUTHBEARER (a=)")]
    Nameless,
    /// The client sent `*`.
    #[error("Authentication aborted")]
    Aborted,
}

/// The server's half of one exchange.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    user: Option<Vec<u8>>,
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Send `+ ` and this text (base64 already, or empty), and read a line.
    Challenge(&'static str),
    /// The exchange is over.
    Done(Credential),
}

impl Exchange {
    /// Begins; a mechanism's first step is to ask.
    #[must_use]
    pub fn new(mechanism: Mechanism) -> Self {
        Self { mechanism, user: None }
    }

    /// Octets of memory held for what came from the client.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.user.as_ref().map_or(0, Vec::capacity)
    }

    /// What to ask before anything came.
    pub fn first_challenge(&self) -> &'static str {
        if self.mechanism == Mechanism::Login { "VXNlcm5hbWU6" } else { "" }
    }

    /// Takes the initial response of SASL-IR, where `=` stands for an empty one (RFC 4959 section 3).
    ///
    /// # Errors
    /// See [`SaslError`].
    pub fn initial(&mut self, response: &[u8]) -> Result<Step, SaslError> {
        self.response(if response == b"=" { b"" } else { response })
    }

    /// Takes a line of the client.
    ///
    /// # Errors
    /// See [`SaslError`].
    pub fn response(&mut self, line: &[u8]) -> Result<Step, SaslError> {
        if line == b"*" {
            return Err(SaslError::Aborted);
        }
        let message = STANDARD.decode(line).map_err(|_| SaslError::Malformed)?;
        let credential = match self.mechanism {
            Mechanism::Plain | Mechanism::LoginCommand => plain(&message).ok_or(SaslError::Malformed)?,
            Mechanism::Login => match self.user.take() {
                None if message.len() > MAX_NAME => return Err(SaslError::Malformed),
                None => {
                    self.user = Some(message);
                    return Ok(Step::Challenge("UGFzc3dvcmQ6"));
                }
                Some(user) => Credential::new(Mechanism::Login, user, Vec::new(), message),
            },
            Mechanism::XOAuth2 => {
                let user = xoauth2_user(&message).ok_or(SaslError::Malformed)?.to_vec();
                Credential::new(self.mechanism, user, Vec::new(), message)
            }
            Mechanism::OAuthBearer => {
                let nameless = message.starts_with(b"n,,\x01");
                let why = if nameless { SaslError::Nameless } else { SaslError::Malformed };
                let user = oauthbearer_user(&message).ok_or(why)?;
                Credential::new(self.mechanism, user, Vec::new(), message)
            }
        };
        if credential.is_sound() { Ok(Step::Done(credential)) } else { Err(SaslError::Malformed) }
    }
}

impl Credential {
    /// As given by a client.
    #[must_use]
    pub fn new(mechanism: Mechanism, user: Vec<u8>, authzid: Vec<u8>, secret: Vec<u8>) -> Self {
        let authzid = if authzid == user { Vec::new() } else { authzid };
        Self { mechanism, user, authzid, secret: Secret::new(secret), forms: [Form::Literal; 2] }
    }

    /// The same, its user and secret having been written so.
    #[must_use]
    pub fn written(self, user: Form, secret: Form) -> Self {
        Self { forms: [user, secret], ..self }
    }

    /// Somebody's, and sayable to a backend: a user name of at most 1,024 octets, no NUL in name or password (no IMAP
    /// string has one, and in PLAIN it is the separator), no control characters in the name.
    pub fn is_sound(&self) -> bool {
        let name_sound = |name: &[u8]| name.len() <= MAX_NAME && !name.iter().any(u8::is_ascii_control);
        !self.user.is_empty()
            && name_sound(&self.user)
            && name_sound(&self.authzid)
            && !self.secret.expose().contains(&0)
    }

    /// The two messages of AUTHENTICATE LOGIN for it, in base64: name and password.
    pub fn login_messages(&self) -> [Secret; 2] {
        [&self.user[..], self.secret.expose()].map(|part| Secret::new(STANDARD.encode(part).into_bytes()))
    }

    /// The message of AUTHENTICATE for it, in base64.
    pub fn sasl_message(&self) -> Secret {
        let message = match self.mechanism.kind() {
            SecretKind::Password => {
                let parts: [&[u8]; 3] = [&self.authzid, &self.user, self.secret.expose()];
                Secret::new(parts.join(&0))
            }
            SecretKind::XOAuth2 | SecretKind::OAuthBearer => self.secret.clone(),
        };
        Secret::new(STANDARD.encode(message.expose()).into_bytes())
    }
}

/// `[authzid] NUL authcid NUL passwd` (RFC 4616 section 2).
fn plain(message: &[u8]) -> Option<Credential> {
    let mut parts = message.split(|b| *b == 0).map(<[u8]>::to_vec);
    let (authzid, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then(|| Credential::new(Mechanism::Plain, user, authzid, password))
}

/// What stands before the token in a message of XOAUTH2 or OAUTHBEARER: `…^A[…^A]auth=Bearer …^A^A`.
fn header(message: &[u8]) -> Option<&[u8]> {
    let mut fields = message.strip_suffix(b"\x01\x01")?.split(|b| *b == 1);
    let header = fields.next()?;
    fields.any(|field| field.starts_with(b"auth=Bearer ")).then_some(header)
}

/// `user=…^Aauth=Bearer …^A^A`
fn xoauth2_user(message: &[u8]) -> Option<&[u8]> {
    header(message)?.strip_prefix(b"user=")
}

/// `n,a=user,^A[host=…^A]auth=Bearer …^A^A` (RFC 7628 section 3.1), the name with `=2C` and `=3D` undone (RFC 5801).
fn oauthbearer_user(message: &[u8]) -> Option<Vec<u8>> {
    let name = header(message)?.split(|b| *b == b',').find_map(|part| part.strip_prefix(b"a="))?;
    let mut parts = name.split(|b| *b == b'=');
    let mut user = parts.next()?.to_vec();
    for part in parts {
        user.push(match part.get(..2)? {
            b"2C" => b',',
            b"3D" => b'=',
            _ => return None,
        });
        user.extend_from_slice(&part[2..]);
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mechanism: &[u8], lines: &[&[u8]]) -> Result<Credential, SaslError> {
        let mut exchange = Exchange::new(Mechanism::parse(mechanism).unwrap());
        for line in lines {
            let encoded = STANDARD.encode(line);
            if let Step::Done(credential) = exchange.response(encoded.as_bytes())? {
                return Ok(credential);
            }
        }
        panic!("unfinished")
    }

    #[test]
    fn plain_and_login_name_one_user() {
        let plain = run(b"plain", &[b"\0u8\0secret"]).unwrap();
        let login = run(b"LOGIN", &[b"u8", b"secret"]).unwrap();
        assert_eq!((&plain.user, &plain.authzid), (&b"u8".to_vec(), &Vec::new()));
        assert_eq!(plain.user, login.user);
        assert_eq!(plain.secret.expose(), login.secret.expose());
        assert_eq!(run(b"PLAIN", &[b"u8\0u8\0x"]).unwrap().authzid, b"");
        assert_eq!(run(b"PLAIN", &[b"boss\0u8\0x"]).unwrap().authzid, b"boss");
    }

    #[test]
    fn tokens() {
        let x = run(b"XOAUTH2", &[b"user=me@x.org\x01auth=Bearer tok\x01\x01"]).unwrap();
        assert_eq!(x.user, b"me@x.org");
        let bearer = run(b"OAUTHBEARER", &[b"n,a=m=2Ce@x.org,\x01host=h\x01auth=Bearer tok\x01\x01"]).unwrap();
        assert_eq!(bearer.user, b"m,e@x.org");
        assert_eq!(STANDARD.decode(bearer.sasl_message().expose()).unwrap(), bearer.secret.expose());
    }

    #[test]
    fn what_could_break_a_line_or_names_nobody_is_refused() {
        for (mechanism, lines) in [
            (&b"PLAIN"[..], vec![&b"\0\0x"[..]]),
            (b"PLAIN", vec![b"\0u\r\na1 DELETE x\0x"]),
            (b"PLAIN", vec![b"u\0x"]),
            (b"PLAIN", vec![b"a\0u\0x\0y"]),
            (b"LOGIN", vec![b"u\r\nx LIST", b"x"]),
            (b"LOGIN", vec![b"u", b"a\0b"]),
            (b"XOAUTH2", vec![b"user=\x01auth=Bearer t\x01\x01"]),
            (b"XOAUTH2", vec![b"user=x"]),
            (b"OAUTHBEARER", vec![b"n,a=x=zz,\x01auth=Bearer t\x01\x01"]),
        ] {
            assert_eq!(run(mechanism, &lines).unwrap_err(), SaslError::Malformed, "{lines:?}");
        }
        assert_eq!(run(b"OAUTHBEARER", &[b"n,,\x01auth=Bearer t\x01\x01"]).unwrap_err(), SaslError::Nameless);
        let mut exchange = Exchange::new(Mechanism::Plain);
        assert_eq!(exchange.response(b"!!!").unwrap_err(), SaslError::Malformed);
        assert_eq!(exchange.response(b"*").unwrap_err(), SaslError::Aborted);
        assert!(matches!(exchange.initial(b"="), Err(SaslError::Malformed)));
    }
}
