//! FETCH (RFC 3501 section 6.4.5): what was asked for, and the answer.

use bytes::Bytes;

use super::envelope;
use super::mime::{self, Part};
use super::parse::{ParseError, Parser};
use super::reply::Reply;
use super::store::Message;
use super::view::flag_list;

/// One data item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Flags,
    Uid,
    InternalDate,
    Size,
    ModSeq,
    Envelope,
    Structure { extended: bool },
    Octets { label: String, section: Section, partial: Option<(u32, u32)>, peek: bool },
}

/// What of a message: a part, and what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    path: Vec<u32>,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    All,
    Header,
    Fields { names: Vec<Bytes>, not: bool },
    Text,
    Mime,
}

/// The items of a FETCH: one, a list, or a macro.
pub(super) fn parse_items(p: &mut Parser) -> Result<Vec<Item>, ParseError> {
    let mut items = if p.peek() == Some(b'(') { p.list(item)?.concat() } else { item_or_macro(p)? };
    items.dedup();
    Ok(items)
}

fn item_or_macro(p: &mut Parser) -> Result<Vec<Item>, ParseError> {
    let before = p.clone();
    let fast = vec![Item::Flags, Item::InternalDate, Item::Size];
    let more = match p.run(|b| b.is_ascii_alphabetic()).to_ascii_uppercase().as_slice() {
        b"FAST" => vec![],
        b"ALL" => vec![Item::Envelope],
        b"FULL" => vec![Item::Envelope, Item::Structure { extended: false }],
        _ => {
            *p = before;
            return item(p);
        }
    };
    Ok([fast, more].concat())
}

fn item(p: &mut Parser) -> Result<Vec<Item>, ParseError> {
    let name = p.run(|b| b.is_ascii_alphanumeric() || b == b'.').to_ascii_uppercase();
    let whole = |what, label: &str, peek| {
        let section = Section { path: Vec::new(), what };
        Item::Octets { label: label.into(), section, partial: None, peek }
    };
    let item = match name.as_slice() {
        b"FLAGS" => Item::Flags,
        b"UID" => Item::Uid,
        b"INTERNALDATE" => Item::InternalDate,
        b"RFC822.SIZE" => Item::Size,
        b"MODSEQ" => Item::ModSeq,
        b"ENVELOPE" => Item::Envelope,
        b"BODYSTRUCTURE" => Item::Structure { extended: true },
        b"RFC822" => whole(What::All, "RFC822", false),
        b"RFC822.HEADER" => whole(What::Header, "RFC822.HEADER", true),
        b"RFC822.TEXT" => whole(What::Text, "RFC822.TEXT", false),
        b"BODY" if p.peek() != Some(b'[') => Item::Structure { extended: false },
        b"BODY" => section(p, false)?,
        b"BODY.PEEK" => section(p, true)?,
        _ => return Err(ParseError("a data item of FETCH")),
    };
    Ok(vec![item])
}

/// `[1.2.HEADER.FIELDS (From)]<0.100>`
fn section(p: &mut Parser, peek: bool) -> Result<Item, ParseError> {
    p.expect(b'[', "a section")?;
    let (mut path, mut label) = (Vec::new(), String::from("BODY["));
    while p.peek().is_some_and(|b| b.is_ascii_digit()) {
        let number = p.number()?;
        if number == 0 || path.len() >= 100 {
            return Err(ParseError("a part's number"));
        }
        path.push(number);
        label.push_str(&number.to_string());
        if !p.eat(b'.') {
            break;
        }
        label.push('.');
    }
    if path.is_empty() || label.ends_with('.') || p.peek() == Some(b']') {
        let what = what(p, &mut label, &path)?;
        p.expect(b']', "a closing bracket")?;
        label.push(']');
        let partial = partial(p, &mut label)?;
        return Ok(Item::Octets { label, section: Section { path, what }, partial, peek });
    }
    Err(ParseError("a section"))
}

fn what(p: &mut Parser, label: &mut String, path: &[u32]) -> Result<What, ParseError> {
    let name = p.run(|b| b.is_ascii_alphabetic() || b == b'.').to_ascii_uppercase();
    let open = label.ends_with('.');
    let what = match name.as_slice() {
        b"" if !open => What::All,
        b"HEADER" => What::Header,
        b"TEXT" => What::Text,
        b"MIME" if !path.is_empty() => What::Mime,
        b"HEADER.FIELDS" | b"HEADER.FIELDS.NOT" => {
            p.space()?;
            let names = p.list(Parser::astring)?;
            if names.is_empty() {
                return Err(ParseError("a header field's name"));
            }
            What::Fields { names, not: name.ends_with(b"NOT") }
        }
        _ => return Err(ParseError("a section")),
    };
    label.push_str(&String::from_utf8_lossy(&name));
    if let What::Fields { names, .. } = &what {
        let names: Vec<_> = names.iter().map(|n| quote(n)).collect();
        label.push_str(&format!(" ({})", names.join(" ")));
    }
    Ok(what)
}

/// A field's name as it may stand in a reply: an atom, or quoted.
fn quote(name: &[u8]) -> String {
    let clean: String = String::from_utf8_lossy(name).chars().filter(|c| c.is_ascii_graphic() && *c != '"').collect();
    if clean.len() == name.len() && !clean.contains(['(', ')', '{', '%', '*', '\\', ']']) {
        return clean;
    }
    format!("\"{}\"", clean.replace('\\', ""))
}

fn partial(p: &mut Parser, label: &mut String) -> Result<Option<(u32, u32)>, ParseError> {
    if !p.eat(b'<') {
        return Ok(None);
    }
    let from = p.number()?;
    p.expect(b'.', "a dot")?;
    let length = p.number()?;
    p.expect(b'>', "a closing angle bracket")?;
    if length == 0 {
        return Err(ParseError("a length above zero"));
    }
    label.push_str(&format!("<{from}>"));
    Ok(Some((from, length)))
}

/// Whether the items mark a message as read.
pub(super) fn sets_seen(items: &[Item]) -> bool {
    items.iter().any(|i| matches!(i, Item::Octets { peek: false, .. }))
}

/// Whether the items need the message's structure.
pub(super) fn needs_structure(items: &[Item]) -> bool {
    items.iter().any(|item| matches!(item, Item::Envelope | Item::Structure { .. }))
}

/// Writes `* n FETCH (…)` for one message; `unasked` is what a change calls for besides.
pub(super) fn write(number: u32, message: &Message, recent: bool, items: &[Item], unasked: &[Item], out: &mut Reply) {
    let needs_parts = |i: &Item| match i {
        Item::Envelope | Item::Structure { .. } => true,
        Item::Octets { section, .. } => !section.path.is_empty(),
        _ => false,
    };
    let part = items.iter().any(needs_parts).then(|| Part::parse(&message.octets));
    out.text(&format!("* {number} FETCH ("));
    let mut had_literal = false;
    for (at, item) in items.iter().chain(unasked).enumerate() {
        if at > 0 {
            out.text(" ");
        }
        match (item, &part) {
            (Item::Flags, _) => drop(out.text("FLAGS ").text(&flag_list(message, recent))),
            (Item::Uid, _) => drop(out.text(&format!("UID {}", message.uid))),
            (Item::InternalDate, _) => drop(out.text("INTERNALDATE ").text(&message.date.imap())),
            (Item::ModSeq, _) => drop(out.text(&format!("MODSEQ ({})", message.changed.max(1)))),
            (Item::Size, _) => drop(out.text(&format!("RFC822.SIZE {}", message.octets.len()))),
            (Item::Envelope, Some(part)) => {
                out.text("ENVELOPE ");
                envelope::envelope(&message.octets, part, out);
            }
            (Item::Structure { extended }, Some(part)) => {
                out.text(if *extended { "BODYSTRUCTURE " } else { "BODY " });
                envelope::structure(&message.octets, part, *extended, out);
            }
            (Item::Octets { label, section, partial, .. }, part) => {
                out.text(label).text(" ");
                match cut(section.extract(&message.octets, part.as_ref()), *partial) {
                    Some(octets) => {
                        had_literal = true;
                        out.literal(&octets)
                    }
                    None => out.text("NIL"),
                };
            }
            (Item::Envelope | Item::Structure { .. }, None) => drop(out.text("NIL")),
        }
    }
    out.end_of_fetch(had_literal);
}

fn cut(octets: Option<Bytes>, partial: Option<(u32, u32)>) -> Option<Bytes> {
    let octets = octets?;
    let Some((from, length)) = partial else { return Some(octets) };
    let from = (from as usize).min(octets.len());
    let to = from.saturating_add(length as usize).min(octets.len());
    Some(octets.slice(from..to))
}

impl Section {
    /// The section's octets, or `None` where the message has no such part.
    fn extract(&self, octets: &Bytes, message: Option<&Part>) -> Option<Bytes> {
        let (header, body) = if self.path.is_empty() {
            let split = mime::header_end(octets);
            (octets.slice(..split), octets.slice(split..))
        } else {
            let part = message?.find(&self.path)?;
            match &self.what {
                What::All => return Some(octets.slice(part.body.clone())),
                What::Mime => return Some(octets.slice(part.header.clone())),
                // HEADER and TEXT of a part exist only where the part is a message.
                _ => {
                    let inner = part.message.as_deref()?;
                    (octets.slice(inner.header.clone()), octets.slice(inner.body.clone()))
                }
            }
        };
        Some(match &self.what {
            What::All | What::Mime => octets.clone(),
            What::Header => header,
            What::Text => body,
            What::Fields { names, not } => {
                let named = |name: &[u8]| names.iter().any(|n| n.eq_ignore_ascii_case(name));
                let chosen = mime::fields(&header).filter(|(name, _)| named(name) != *not);
                let mut text: Vec<u8> = chosen.flat_map(|(_, field)| field.iter().copied()).collect();
                text.extend_from_slice(b"\r\n");
                text.into()
            }
        })
    }
}
