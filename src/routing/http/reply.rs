//! What the service says: the fields of its response. None of them is decoded, since nginx decodes none.

use std::net::IpAddr;
use std::time::Duration;

use hyper::header::HeaderMap;

use super::fault::Fault;
use super::{Answer, Denial};
use crate::secret::Secret;
use crate::shown;

/// Octets of a user name or a secret.
const LONGEST: usize = 8 * 1024;
/// Octets of a name of DNS.
const LONGEST_HOST: usize = 253;
/// Octets of a response code.
const LONGEST_CODE: usize = 32;

const STATUS: &str = "Auth-Status";
const SERVER: &str = "Auth-Server";
const PORT: &str = "Auth-Port";
const USER: &str = "Auth-User";
const PASS: &str = "Auth-Pass";
const WAIT: &str = "Auth-Wait";
const CODE: &str = "Auth-Error-Code";

/// The answer to the question who `user` is.
pub(super) fn answer(user: &[u8], fields: &HeaderMap) -> Result<Answer, Fault> {
    match field(fields, STATUS)? {
        None => Err(wrong(STATUS, "is missing")),
        Some(b"OK") => server(user, fields),
        Some(b"WAIT") => Err(wrong(STATUS, "is WAIT, which is not supported: answer OK, or a text")),
        Some(text) => refused(text, fields),
    }
}

fn server(user: &[u8], fields: &HeaderMap) -> Result<Answer, Fault> {
    let host = field(fields, SERVER)?.ok_or_else(|| wrong(SERVER, "is missing"))?;
    let named = value(fields, USER)?.filter(|named| *named != user);
    Ok(Answer::Server {
        host: host_of(host).ok_or_else(|| wrong(SERVER, &format!("is {}, neither name nor address", shown(host))))?,
        port: field(fields, PORT)?.map(port).transpose()?,
        user: named.map(<[u8]>::to_vec),
        secret: value(fields, PASS)?.map(Secret::copy_of),
    })
}

fn refused(text: &[u8], fields: &HeaderMap) -> Result<Answer, Fault> {
    let wait = field(fields, WAIT)?.map(wait).transpose()?;
    let told = field(fields, CODE)?.and_then(code);
    let (in_text, text) = divided(text);
    let text = if text.is_empty() { b"Login refused" } else { text };
    Ok(Answer::Refused(Denial {
        text: shown::Plain(&shown::text(text)).to_string(),
        code: told.or(in_text),
        // None at all, to nginx.
        wait: wait.filter(|wait| !wait.is_zero()),
    }))
}

/// The one value of this name. What is empty says nothing, and is no guess at what was meant.
fn field<'a>(fields: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Fault> {
    let mut values = fields.get_all(name).iter();
    let first = values.next().map(|value| value.as_bytes());
    if values.next().is_some() {
        return Err(wrong(name, "is there twice"));
    }
    match first {
        Some([]) => Err(wrong(name, "is empty")),
        other => Ok(other),
    }
}

/// The one value of this name, to log in with.
fn value<'a>(fields: &'a HeaderMap, name: &'static str) -> Result<Option<&'a [u8]>, Fault> {
    let value = field(fields, name)?;
    match value {
        Some(value) if value.len() > LONGEST => Err(wrong(name, &format!("has {} octets", value.len()))),
        Some(value) if value.iter().any(u8::is_ascii_control) => Err(wrong(name, "has a control character in it")),
        _ => Ok(value),
    }
}

/// A name or an address; the latter without brackets.
fn host_of(octets: &[u8]) -> Option<String> {
    let text = str::from_utf8(octets).ok()?;
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Ok(address) = inner.unwrap_or(text).parse::<IpAddr>() {
        return Some(address.to_string());
    }
    is_name(text).then(|| text.to_owned())
}

/// As resolvers take them, except for numbers: `127.1` and `0x7f000001` are addresses to some of them.
fn is_name(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let of_label = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'-' || octet == b'_';
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(of_label);
    let last = name.rsplit('.').next().unwrap_or(name).to_ascii_lowercase();
    let is_number = last.strip_prefix("0x").map_or_else(
        || last.bytes().all(|octet| octet.is_ascii_digit()),
        |digits| digits.bytes().all(|octet| octet.is_ascii_hexdigit()),
    );
    name.len() <= LONGEST_HOST && name.split('.').all(label) && !is_number
}

fn port(octets: &[u8]) -> Result<u16, Fault> {
    let port = number(octets).and_then(|number| u16::try_from(number).ok()).filter(|port| *port != 0);
    port.ok_or_else(|| wrong(PORT, &format!("is {}, no port", shown(octets))))
}

fn wait(octets: &[u8]) -> Result<Duration, Fault> {
    let seconds = number(octets).ok_or_else(|| wrong(WAIT, &format!("is {}, no number of seconds", shown(octets))))?;
    Ok(Duration::from_secs(seconds.into()))
}

/// Digits alone: `parse` takes a sign, too.
fn number(octets: &[u8]) -> Option<u32> {
    let digits = str::from_utf8(octets).ok().filter(|text| text.bytes().all(|octet| octet.is_ascii_digit()))?;
    digits.parse().ok()
}

/// An IMAP response code without arguments. Services speak SMTP's here, too (`535 5.7.8`): that is none.
fn code(octets: &[u8]) -> Option<String> {
    let of_code = |octet: &u8| octet.is_ascii_alphanumeric() || *octet == b'-';
    let is_code = octets.len() <= LONGEST_CODE
        && octets.first().is_some_and(u8::is_ascii_alphabetic)
        && octets.iter().all(of_code);
    is_code.then(|| String::from_utf8_lossy(octets).to_ascii_uppercase())
}

/// nginx tells clients of IMAP no Auth-Error-Code, so that services write `[UNAVAILABLE] come back later`. The text
/// alone never begins with what a client would take for a code.
fn divided(text: &[u8]) -> (Option<String>, &[u8]) {
    let end = memchr::memchr(b']', text).filter(|_| text.first() == Some(&b'['));
    let found = end.and_then(|end| Some((code(&text[1..end])?, &text[end + 1..])));
    let (code, rest) = found.map_or((None, text), |(code, rest)| (Some(code), rest));
    let begins = rest.iter().position(|octet| !b" [".contains(octet)).unwrap_or(rest.len());
    (code, &rest[begins..])
}

fn shown(octets: &[u8]) -> String {
    shown::Quoted(&shown::text(octets)).to_string()
}

fn wrong(field: &'static str, wrong: &str) -> Fault {
    Fault::Garbage { field, wrong: wrong.to_owned() }
}
