//! ENVELOPE and BODYSTRUCTURE (RFC 3501 section 7.4.2).

use bytes::Bytes;

use super::mime::{self, Part};
use super::reply::Reply;

/// Writes the ENVELOPE of a message.
pub(super) fn envelope(octets: &Bytes, message: &Part, out: &mut Reply) {
    let get = |name| message.field(octets, name);
    let from = get("From");
    out.text("(").nstring(get("Date").as_deref()).text(" ").nstring(get("Subject").as_deref()).text(" ");
    addresses(from.as_deref(), out);
    for name in ["Sender", "Reply-To"] {
        out.text(" ");
        // "If the Sender or Reply-To lines are absent …, the server sets … from the From line".
        addresses(get(name).filter(|v| !v.is_empty()).as_deref().or(from.as_deref()), out);
    }
    for name in ["To", "Cc", "Bcc"] {
        out.text(" ");
        addresses(get(name).as_deref(), out);
    }
    out.text(" ").nstring(get("In-Reply-To").as_deref());
    out.text(" ").nstring(get("Message-ID").as_deref()).text(")");
}

fn addresses(field: Option<&[u8]>, out: &mut Reply) {
    let parsed: Vec<Address> = field.map(split_addresses).unwrap_or_default();
    if parsed.is_empty() {
        out.text("NIL");
        return;
    }
    out.text("(");
    for Address { name, mailbox, host } in &parsed {
        out.text("(").nstring(name.as_deref()).text(" NIL ");
        out.nstring(mailbox.as_deref()).text(" ").nstring(host.as_deref()).text(")");
    }
    out.text(")");
}

/// One address; the beginning of a group has a mailbox and no host, its end neither.
#[derive(Debug, Default, PartialEq, Eq)]
struct Address {
    name: Option<Vec<u8>>,
    mailbox: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
}

/// Splits an address list (RFC 5322 section 3.4): tolerant, comments dropped.
fn split_addresses(field: &[u8]) -> Vec<Address> {
    let mut list = Vec::new();
    let mut phrase = Vec::new();
    let mut angle: Option<Vec<u8>> = None;
    let (mut quoted, mut escaped, mut in_angle, mut comment) = (false, false, false, 0_u32);
    let finish = |phrase: &mut Vec<u8>, angle: &mut Option<Vec<u8>>, list: &mut Vec<Address>| {
        let name = std::mem::take(phrase).trim_ascii().to_vec();
        match angle.take() {
            Some(spec) => list.push(address((!name.is_empty()).then_some(name), &spec)),
            None if !name.is_empty() => list.push(address(None, &name)),
            None => {}
        }
    };
    for &b in field {
        if escaped {
            escaped = false;
        } else if b == b'\\' && (quoted || comment > 0) {
            escaped = true;
            continue;
        } else if b == b'"' && comment == 0 {
            quoted = !quoted;
            continue;
        } else if !quoted {
            match b {
                b'(' => comment += 1,
                b')' if comment > 0 => {
                    comment -= 1;
                    continue;
                }
                _ if comment > 0 => {}
                b'<' => {
                    (in_angle, angle) = (true, Some(Vec::new()));
                    continue;
                }
                b'>' => {
                    in_angle = false;
                    continue;
                }
                b':' if !in_angle => {
                    let group = std::mem::take(&mut phrase).trim_ascii().to_vec();
                    list.push(Address { mailbox: Some(group), ..Address::default() });
                    continue;
                }
                b',' | b';' if !in_angle => {
                    finish(&mut phrase, &mut angle, &mut list);
                    if b == b';' {
                        list.push(Address::default());
                    }
                    continue;
                }
                _ => {}
            }
        }
        if comment > 0 {
            continue;
        }
        match (&mut angle, in_angle) {
            (Some(spec), true) => spec.push(b),
            (Some(_), false) => {}
            (None, _) => phrase.push(b),
        }
    }
    finish(&mut phrase, &mut angle, &mut list);
    list
}

fn address(name: Option<Vec<u8>>, spec: &[u8]) -> Address {
    let (mailbox, host) = match memchr::memrchr(b'@', spec) {
        Some(at) => (&spec[..at], &spec[at + 1..]),
        None => (spec, &b"MISSING_DOMAIN"[..]),
    };
    Address { name, mailbox: Some(mailbox.trim_ascii().to_vec()), host: Some(host.trim_ascii().to_vec()) }
}

/// Writes BODY (`extended` false) or BODYSTRUCTURE of a part.
pub(super) fn structure(octets: &Bytes, part: &Part, extended: bool, out: &mut Reply) {
    out.text("(");
    if part.is_multipart() {
        for inner in &part.parts {
            structure(octets, inner, extended, out);
        }
        out.text(" ").string(part.subtype.as_bytes());
        if extended {
            out.text(" ");
            params(&part.params, out);
        }
    } else {
        single(octets, part, extended, out);
    }
    if extended {
        out.text(" ");
        disposition(octets, part, out);
        out.text(" NIL ").nstring(part.field(octets, "Content-Location").as_deref());
    }
    out.text(")");
}

fn single(octets: &Bytes, part: &Part, extended: bool, out: &mut Reply) {
    let get = |name| part.field(octets, name);
    // A multipart whose structure is broken has no parts to list; plain text is the safe thing to say.
    let (kind, subtype) = match part.kind.as_str() {
        "MULTIPART" => ("TEXT", "PLAIN"),
        kind => (kind, part.subtype.as_str()),
    };
    out.string(kind.as_bytes()).text(" ").string(subtype.as_bytes()).text(" ");
    params(&part.params, out);
    out.text(" ").nstring(get("Content-ID").as_deref());
    out.text(" ").nstring(get("Content-Description").as_deref());
    let encoding = get("Content-Transfer-Encoding").unwrap_or_else(|| b"7BIT".to_vec());
    out.text(" ").string(&encoding.to_ascii_uppercase());
    out.text(&format!(" {}", part.body.len()));
    let lines = memchr::memchr_iter(b'\n', &octets[part.body.clone()]).count();
    if let Some(message) = &part.message {
        out.text(" ");
        envelope(octets, message, out);
        out.text(" ");
        structure(octets, message, extended, out);
        out.text(&format!(" {lines}"));
    } else if kind == "TEXT" {
        out.text(&format!(" {lines}"));
    }
    if extended {
        out.text(" ").nstring(get("Content-MD5").as_deref());
    }
}

fn params(params: &[(String, String)], out: &mut Reply) {
    if params.is_empty() {
        out.text("NIL");
        return;
    }
    for (at, (name, value)) in params.iter().enumerate() {
        out.text(if at == 0 { "(" } else { " " }).string(name.as_bytes()).text(" ").string(value.as_bytes());
    }
    out.text(")");
}

fn disposition(octets: &Bytes, part: &Part, out: &mut Reply) {
    let Some(value) = part.field(octets, "Content-Disposition") else {
        out.text("NIL");
        return;
    };
    let value = String::from_utf8_lossy(&value).into_owned();
    let (kind, list) = mime::parameters(&value);
    out.text("(").string(kind.to_ascii_uppercase().as_bytes()).text(" ");
    params(&list, out);
    out.text(")");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(field: &str) -> Vec<String> {
        let show = |v: &Option<Vec<u8>>| v.as_ref().map_or("NIL".into(), |v| String::from_utf8_lossy(v).into_owned());
        split_addresses(field.as_bytes())
            .iter()
            .map(|a| format!("{}|{}|{}", show(&a.name), show(&a.mailbox), show(&a.host)))
            .collect()
    }

    #[test]
    fn address_lists() {
        assert_eq!(names("\"Doe, J\" <j@x.org>, k@y.org (comment, here)"), ["Doe, J|j|x.org", "NIL|k|y.org"]);
        assert_eq!(names("Team: a@x, b@y;"), ["NIL|Team|NIL", "NIL|a|x", "NIL|b|y", "NIL|NIL|NIL"]);
        assert_eq!(names("<"), ["NIL||MISSING_DOMAIN"]);
        assert!(names("").is_empty());
    }
}
