//! ENVELOPE and BODYSTRUCTURE (RFC 3501 section 7.4.2).

use bytes::Bytes;

use super::mime::{self, Part};
use super::reply::Reply;

/// Writes the ENVELOPE of a message.
pub(super) fn envelope(octets: &Bytes, message: &Part, out: &mut Reply) {
    let get = |name| message.field(octets, name);
    let from = get("From");
    let subject = if out.folded_strings { message.folded_field(octets, "Subject") } else { get("Subject") };
    out.text("(").nstring(get("Date").as_deref()).text(" ").nstring(subject.as_deref()).text(" ");
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
    let mut splitter = Splitter::default();
    for &b in field {
        splitter.octet(b);
    }
    splitter.finish();
    splitter.list
}

/// An address list that is being read octet by octet.
#[derive(Default)]
struct Splitter {
    list: Vec<Address>,
    /// Outside of angle brackets: a display name, or an address.
    phrase: Vec<u8>,
    /// Within angle brackets.
    angle: Option<Vec<u8>>,
    in_angle: bool,
    quoted: bool,
    escaped: bool,
    /// How deep in comments.
    comment: u32,
}

impl Splitter {
    fn octet(&mut self, b: u8) {
        if std::mem::take(&mut self.escaped) {
            return self.keep(b);
        }
        match b {
            b'\\' if self.quoted || self.comment > 0 => self.escaped = true,
            b'"' if self.comment == 0 => self.quoted = !self.quoted,
            _ if self.quoted => self.keep(b),
            b'(' => self.comment += 1,
            b')' => self.comment = self.comment.saturating_sub(1),
            _ if self.comment > 0 => {}
            b'<' => (self.in_angle, self.angle) = (true, Some(Vec::new())),
            b'>' => self.in_angle = false,
            b':' if !self.in_angle => {
                let group = std::mem::take(&mut self.phrase).trim_ascii().to_vec();
                self.list.push(Address { mailbox: Some(group), ..Address::default() });
            }
            b',' | b';' if !self.in_angle => {
                self.finish();
                if b == b';' {
                    self.list.push(Address::default());
                }
            }
            _ => self.keep(b),
        }
    }

    fn keep(&mut self, b: u8) {
        match (&mut self.angle, self.in_angle) {
            _ if self.comment > 0 => {}
            (Some(spec), true) => spec.push(b),
            // What follows an address in angle brackets is no part of it.
            (Some(_), false) => {}
            (None, _) => self.phrase.push(b),
        }
    }

    /// The end of one address.
    fn finish(&mut self) {
        let name = std::mem::take(&mut self.phrase).trim_ascii().to_vec();
        match self.angle.take() {
            Some(spec) => self.list.push(address((!name.is_empty()).then_some(name), &spec)),
            None if !name.is_empty() => self.list.push(address(None, &name)),
            None => {}
        }
    }
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
        if out.odd_structure {
            out.text(")");
            return;
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
