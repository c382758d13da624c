//! How a credential is said to a backend: LOGIN (RFC 9051 section 6.2.3), or AUTHENTICATE (section 6.2.2).

use bytes::Bytes;

use crate::imap::capability::Capabilities;
use crate::imap::command::quoted_8bit;
use crate::imap::sasl::{Credential, Form, Mechanism, SecretKind};

/// What goes out for a credential.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// By AUTHENTICATE.
    pub(super) sasl: bool,
    /// At once, after the tag.
    pub(super) first: Bytes,
    /// When the backend asks for it, last first.
    pub(super) held: Vec<Bytes>,
    /// The whole without literals, where that can be, if `held` has any.
    pub(super) unasked: Option<Bytes>,
}

/// The credential in the way that the backend offers, if there is one.
pub(super) fn say(offered: &Capabilities, credential: &Credential) -> Option<Said> {
    if credential.mechanism.kind() != SecretKind::Password {
        let name = credential.mechanism.name();
        return offered.has(&format!("AUTH={name}")).then(|| sasl(name, offered, credential));
    }
    let for_himself = credential.authzid.is_empty();
    let by_login = for_himself && !offered.has("LOGINDISABLED");
    if by_login && (credential.mechanism == Mechanism::LoginCommand || !offered.has("AUTH=PLAIN")) {
        Some(login(offered, credential))
    } else if offered.has("AUTH=PLAIN") {
        Some(sasl("PLAIN", offered, credential))
    } else {
        (for_himself && offered.has("AUTH=LOGIN")).then(|| sasl_login(credential))
    }
}

/// AUTHENTICATE, with one message.
fn sasl(mechanism: &str, offered: &Capabilities, credential: &Credential) -> Said {
    let message = credential.sasl_message();
    if offered.has("SASL-IR") {
        let first = [b"AUTHENTICATE ", mechanism.as_bytes(), b" ", message.expose(), b"\r\n"].concat();
        return Said { sasl: true, first: first.into(), ..Said::default() };
    }
    let first = format!("AUTHENTICATE {mechanism}\r\n").into();
    Said { sasl: true, first, held: vec![line(message.expose())], ..Said::default() }
}

/// AUTHENTICATE LOGIN: name and password, each when it is asked for (draft-murchison-sasl-login).
fn sasl_login(credential: &Credential) -> Said {
    let [user, password] = credential.login_messages();
    let held = vec![line(password.expose()), line(user.expose())];
    Said { sasl: true, first: "AUTHENTICATE LOGIN\r\n".into(), held, ..Said::default() }
}

fn line(text: &[u8]) -> Bytes {
    [text, b"\r\n"].concat().into()
}

/// Each argument as a quoted string where it can be one, else as a literal: no octet of it can end the line. 8-bit
/// octets are quoted only as a client has quoted them, as servers take that which do not understand literals here.
fn login(offered: &Capabilities, credential: &Credential) -> Said {
    let arguments = [(&credential.user[..], credential.forms[0]), (credential.secret.expose(), credential.forms[1])];
    let lax = arguments.map(|(argument, _)| quoted_8bit(argument));
    let (mut text, mut held) = (b"LOGIN".to_vec(), Vec::new());
    for ((argument, form), lax) in arguments.into_iter().zip(&lax) {
        match lax.as_ref().filter(|_| argument.is_ascii() || form == Form::Quoted) {
            Some(quoted) => text.extend([b" ", &quoted[..]].concat()),
            None if offered.has("LITERAL+") => {
                text.extend([format!(" {{{}+}}\r\n", argument.len()).as_bytes(), argument].concat());
            }
            None => {
                text.extend(format!(" {{{}}}\r\n", argument.len()).bytes());
                held.push(Bytes::from(std::mem::replace(&mut text, argument.to_vec())));
            }
        }
    }
    held.push(line(&text));
    let first = held.remove(0);
    held.reverse();
    let unasked = match lax {
        [Some(user), Some(password)] if !held.is_empty() => {
            Some(line(&[b"LOGIN ", &user[..], b" ", &password].concat()))
        }
        _ => None,
    };
    Said { sasl: false, first, held, unasked }
}
