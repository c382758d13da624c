//! The structure of a message (RFC 5322, RFC 2045): header fields, body parts, section numbers.

use std::ops::Range;

use bytes::Bytes;

/// Parts below this depth are not taken apart.
const MAX_DEPTH: usize = 20;
/// Parts of one multipart.
const MAX_PARTS: usize = 500;

/// Where the body begins: after the first empty line, or at the end.
pub(super) fn header_end(octets: &[u8]) -> usize {
    let mut start = 0;
    while let Some(length) = memchr::memchr(b'\n', &octets[start..]) {
        let line = &octets[start..start + length];
        start += length + 1;
        if line.is_empty() || line == b"\r" {
            return start;
        }
    }
    octets.len()
}

/// The fields of a header: name, and the whole field with its folded lines and line ends.
pub(super) fn fields(header: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = header;
    std::iter::from_fn(move || {
        loop {
            let mut end = line_length(rest);
            if end == 0 {
                return None;
            }
            while matches!(rest.get(end), Some(b' ' | b'\t')) {
                end += line_length(&rest[end..]);
            }
            let (field, after) = rest.split_at(end);
            rest = after;
            // A line without a colon is no field: skip it.
            if let Some(colon) = memchr::memchr(b':', field) {
                return Some((field[..colon].trim_ascii_end(), field));
            }
        }
    })
}

fn line_length(octets: &[u8]) -> usize {
    memchr::memchr(b'\n', octets).map_or(octets.len(), |at| at + 1)
}

/// A field's value, unfolded and trimmed.
pub(super) fn field(header: &[u8], name: &str) -> Option<Vec<u8>> {
    let (name, field) = fields(header).find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))?;
    let value = &field[memchr::memchr(b':', field).map_or(name.len(), |colon| colon + 1)..];
    let unfolded: Vec<u8> = value.iter().copied().filter(|b| !matches!(b, b'\r' | b'\n')).collect();
    Some(unfolded.trim_ascii().to_vec())
}

/// One part of a message, or the message itself; ranges lie within the message's octets.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) header: Range<usize>,
    pub(super) body: Range<usize>,
    /// Type and subtype in upper case, and the parameters.
    pub(super) kind: String,
    pub(super) subtype: String,
    pub(super) params: Vec<(String, String)>,
    /// The parts of a multipart.
    pub(super) parts: Vec<Part>,
    /// What a message/rfc822 carries.
    pub(super) message: Option<Box<Part>>,
}

impl Part {
    /// Takes a message apart.
    pub(super) fn parse(octets: &[u8]) -> Self {
        Self::within(octets, 0..octets.len(), 0, "TEXT/PLAIN")
    }

    fn within(octets: &[u8], range: Range<usize>, depth: usize, default: &str) -> Self {
        let split = range.start + header_end(&octets[range.clone()]);
        let (header, body) = (range.start..split, split..range.end);
        let value = field(&octets[header.clone()], "Content-Type");
        let value = value.as_deref().map(String::from_utf8_lossy);
        let (full, params) = parameters(value.as_deref().unwrap_or(default));
        let (kind, subtype) = match full.split_once('/') {
            Some((kind, subtype)) if !kind.is_empty() && !subtype.is_empty() => (kind, subtype),
            _ => ("TEXT", "PLAIN"),
        };
        let mut part = Self {
            header,
            body,
            kind: kind.to_ascii_uppercase(),
            subtype: subtype.to_ascii_uppercase(),
            params,
            parts: Vec::new(),
            message: None,
        };
        if depth < MAX_DEPTH {
            part.descend(octets, depth);
        }
        part
    }

    fn descend(&mut self, octets: &[u8], depth: usize) {
        if self.kind == "MESSAGE" && self.subtype == "RFC822" {
            self.message = Some(Box::new(Self::within(octets, self.body.clone(), depth + 1, "TEXT/PLAIN")));
        }
        if self.kind == "MULTIPART" {
            let default = if self.subtype == "DIGEST" { "MESSAGE/RFC822" } else { "TEXT/PLAIN" };
            let boundary = self.params.iter().find(|(name, _)| name == "BOUNDARY").map(|(_, b)| b.clone());
            if let Some(boundary) = boundary.filter(|b| !b.is_empty()) {
                self.parts = split(octets, self.body.clone(), boundary.as_bytes())
                    .into_iter()
                    .map(|range| Self::within(octets, range, depth + 1, default))
                    .collect();
            }
        }
    }

    /// The part a section number names (RFC 3501 section 6.4.5), seen from a message.
    pub(super) fn find(&self, path: &[u32]) -> Option<&Part> {
        let Some((&first, rest)) = path.split_first() else { return Some(self) };
        let inner = self.message.as_deref().unwrap_or(self);
        if !inner.parts.is_empty() {
            return inner.parts.get((first as usize).checked_sub(1)?)?.find(rest);
        }
        // A message that is no multipart has exactly part 1: its body. (For a part, that is as far as it goes.)
        (first == 1 && rest.is_empty()).then_some(inner)
    }

    /// A header field of this part.
    pub(super) fn field(&self, octets: &Bytes, name: &str) -> Option<Vec<u8>> {
        field(&octets[self.header.clone()], name)
    }

    /// A field's value as it stands in the message, folds included.
    pub(super) fn folded_field(&self, octets: &Bytes, name: &str) -> Option<Vec<u8>> {
        let header = &octets[self.header.clone()];
        let (name, field) = fields(header).find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes()))?;
        Some(field[(name.len() + 1).min(field.len())..].trim_ascii().to_vec())
    }

    /// A basic type without parts, when the MIME structure says so or is broken.
    pub(super) fn is_multipart(&self) -> bool {
        !self.parts.is_empty()
    }
}

/// The ranges between the boundary's lines; the line end before a boundary belongs to it (RFC 2046 section 5.1.1).
fn split(octets: &[u8], body: Range<usize>, boundary: &[u8]) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut open: Option<usize> = None;
    let mut at = body.start;
    while at < body.end && parts.len() < MAX_PARTS {
        let next = at + line_length(&octets[at..body.end]);
        let line = octets[at..next].trim_ascii_end();
        if let Some(after) = line.strip_prefix(b"--").and_then(|l| l.strip_prefix(boundary)) {
            let last = after == b"--";
            if last || after.is_empty() {
                if let Some(start) = open.take() {
                    parts.push(start..without_line_end(octets, start, at));
                }
                if last {
                    return parts;
                }
                open = Some(next);
            }
        }
        at = next;
    }
    // A missing end: the last part goes on to the end.
    parts.extend(open.filter(|_| parts.len() < MAX_PARTS).map(|start| start..body.end));
    parts
}

fn without_line_end(octets: &[u8], start: usize, end: usize) -> usize {
    let text = &octets[start..end];
    let text = text.strip_suffix(b"\n").map_or(text, |t| t.strip_suffix(b"\r").unwrap_or(t));
    start + text.len()
}

/// `text/plain; charset="utf-8"`: the value and its parameters, names in upper case.
pub(super) fn parameters(value: &str) -> (&str, Vec<(String, String)>) {
    let (full, mut rest) = value.split_once(';').unwrap_or((value, ""));
    let mut params = Vec::new();
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (text, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_at(after.find(';').unwrap_or(after.len())),
        };
        params.push((name.trim().to_ascii_uppercase(), text.trim().to_owned()));
        rest = next.split_once(';').map_or("", |(_, rest)| rest);
    }
    (full.trim(), params)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &[u8] =
        b"Subject: x\r\nContent-Type: multipart/mixed; boundary=AA\r\n\r\npreamble\r\n--AA\r\n\r\none\r\n\
        --AA\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ninner body\r\n--AA--\r\nepilogue";

    fn body(octets: &[u8], path: &[u32]) -> Option<String> {
        Part::parse(octets).find(path).map(|p| String::from_utf8(octets[p.body.clone()].to_vec()).unwrap())
    }

    #[test]
    fn sections_of_a_nested_message() {
        assert_eq!(body(NESTED, &[1]).as_deref(), Some("one"));
        assert_eq!(body(NESTED, &[2, 1]).as_deref(), Some("inner body"));
        assert_eq!(body(NESTED, &[3]), None);
        assert_eq!(body(b"Subject: x\r\n\r\nbody", &[1]).as_deref(), Some("body"));
        assert_eq!(body(b"Subject: x\r\n\r\nbody", &[1, 1]), None);
    }

    #[test]
    fn fields_are_unfolded() {
        let header = b"Subject: a\r\n b\r\nnonsense\r\nFrom:c\n\r\n";
        assert_eq!(field(header, "subject").as_deref(), Some(&b"a b"[..]));
        assert_eq!(field(header, "From").as_deref(), Some(&b"c"[..]));
        assert_eq!(fields(header).count(), 2);
        assert_eq!(parameters("a/b; X=\"1;2\"; y = 3").1, [("X".into(), "1;2".into()), ("Y".into(), "3".into())]);
    }
}
