//! How a credential is said to a backend: LOGIN (RFC 9051 section 6.2.3), or AUTHENTICATE (section 6.2.2).

use bytes::{BufMut as _, Bytes, BytesMut};

use crate::imap::capability::Capabilities;
use crate::imap::command::{quoted, quoted_8bit};
use crate::imap::sasl::{Credential, Form, Mechanism, SecretKind};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The LOGIN command.
    Login,
    /// AUTHENTICATE, with one message.
    Sasl(&'static str),
    /// AUTHENTICATE LOGIN: name and password, each when it is asked for (draft-murchison-sasl-login).
    SaslLogin,
}

/// What goes out for a credential.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// At once, after the tag.
    pub(super) first: Bytes,
    /// When the backend asks for it, last first.
    pub(super) held: Vec<Bytes>,
    /// The whole without literals, where that can be, if `held` has any.
    pub(super) unasked: Option<Bytes>,
}

/// The way that the backend offers, if there is one.
pub(super) fn way(offered: &Capabilities, credential: &Credential) -> Option<Way> {
    if credential.mechanism.kind() != SecretKind::Password {
        let name = credential.mechanism.name();
        return offered.has(&format!("AUTH={name}")).then_some(Way::Sasl(name));
    }
    let for_himself = credential.authzid.is_empty();
    let by_login = for_himself && !offered.has("LOGINDISABLED");
    if by_login && (credential.mechanism == Mechanism::LoginCommand || !offered.has("AUTH=PLAIN")) {
        Some(Way::Login)
    } else if offered.has("AUTH=PLAIN") {
        Some(Way::Sasl("PLAIN"))
    } else {
        (for_himself && offered.has("AUTH=LOGIN")).then_some(Way::SaslLogin)
    }
}

impl Way {
    /// Puts the credential into the way's words.
    pub(super) fn say(self, offered: &Capabilities, credential: &Credential) -> Said {
        match self {
            Self::Login => login(offered, credential),
            Self::Sasl(mechanism) => {
                let message = credential.sasl_message();
                if offered.has("SASL-IR") {
                    let first = [b"AUTHENTICATE ", mechanism.as_bytes(), b" ", message.expose(), b"\r\n"].concat();
                    return Said { first: first.into(), ..Said::default() };
                }
                let first = format!("AUTHENTICATE {mechanism}\r\n").into();
                Said { first, held: vec![[message.expose(), b"\r\n"].concat().into()], ..Said::default() }
            }
            Self::SaslLogin => {
                let [user, password] = credential.login_messages();
                let line = |text: &[u8]| Bytes::from([text, b"\r\n"].concat());
                let held = vec![line(password.expose()), line(user.expose())];
                Said { first: "AUTHENTICATE LOGIN\r\n".into(), held, ..Said::default() }
            }
        }
    }
}

/// Each argument as a quoted string where it can be one, else as a literal: no octet of it can end the line. 8-bit
/// octets are quoted only as a client has quoted them, as servers take that which do not understand literals here.
fn login(offered: &Capabilities, credential: &Credential) -> Said {
    let ask = !offered.has("LITERAL+");
    let mut parts: Vec<BytesMut> = vec![BytesMut::from(&b"LOGIN"[..])];
    let mut unasked = Some(BytesMut::from(&b"LOGIN"[..]));
    let arguments = [(&credential.user[..], credential.forms[0]), (credential.secret.expose(), credential.forms[1])];
    for (argument, form) in arguments {
        let last = parts.len() - 1;
        parts[last].put_u8(b' ');
        let lax = quoted_8bit(argument);
        unasked = unasked.zip(lax.as_ref()).map(|(mut said, quoted)| {
            said.put_u8(b' ');
            said.put_slice(quoted);
            said
        });
        if let Some(quoted) = quoted(argument).or(lax.filter(|_| form == Form::Quoted)) {
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
    let mut parts = parts.into_iter().map(BytesMut::freeze);
    let first = parts.next().unwrap_or_default();
    let held: Vec<Bytes> = parts.rev().collect();
    let unasked = unasked.filter(|_| !held.is_empty()).map(|mut said| {
        said.put_slice(b"\r\n");
        said.freeze()
    });
    Said { first, held, unasked }
}
