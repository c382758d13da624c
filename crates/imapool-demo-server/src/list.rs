//! LIST and LSUB (RFC 3501 sections 6.3.8 and 6.3.9), and what LIST-EXTENDED, LIST-STATUS and SPECIAL-USE add to LIST
//! (RFC 5258, RFC 5819, RFC 6154).

use std::collections::BTreeMap;

use super::commands::{Outcome, Refusal};
use super::parse::{ParseError, Parser};
use super::reply::Reply;
use super::session::Session;
use super::store::{Account, Content};

/// What is listed, and what is said of it.
#[derive(Default)]
struct Asked {
    patterns: Vec<Vec<u8>>,
    subscribed_only: bool,
    special_only: bool,
    subscribed: bool,
    special: bool,
    children: bool,
    status: Vec<String>,
}

/// The special use of a mailbox, by its usual name.
fn special_use(name: &str) -> Option<&'static str> {
    let uses = [
        ("Sent", "\\Sent"),
        ("Drafts", "\\Drafts"),
        ("Trash", "\\Trash"),
        ("Junk", "\\Junk"),
        ("Archive", "\\Archive"),
    ];
    uses.iter().find(|(usual, _)| *usual == name).map(|(_, attribute)| *attribute)
}

impl Session {
    /// LIST and LSUB.
    pub(super) fn list(&mut self, account: &Account, mut p: Parser, lsub: bool, out: &mut Reply) -> Outcome {
        let asked = self.asked(&mut p, lsub)?;
        let verb = if lsub { "LSUB" } else { "LIST" };
        let names = self.shared.options.names;
        let delimiter = names.quoted_delimiter();
        if asked.patterns.iter().any(Vec::is_empty) {
            out.untagged(&format!("{verb} (\\Noselect) {delimiter} \"\""));
            return Ok(format!("{verb} completed."));
        }
        let content = account.lock();
        let listed = listed(&content, asked.subscribed_only);
        for (name, exists) in &listed {
            let outer = names.outer(name);
            let fits = |pattern: &Vec<u8>| matches(pattern, outer.as_bytes(), names.delimiter);
            let special = special_use(name);
            if !asked.patterns.iter().any(fits) || asked.special_only && special.is_none() {
                continue;
            }
            let parent = listed.keys().any(|other| {
                names.outer(other).strip_prefix(&outer).is_some_and(|rest| rest.starts_with(names.delimiter))
            });
            let children = if parent { "\\HasChildren" } else { "\\HasNoChildren" };
            let attributes = [
                (!exists).then_some("\\Noselect"),
                (asked.children || self.offers("CHILDREN")).then_some(children),
                (asked.subscribed && content.subscribed.contains(name)).then_some("\\Subscribed"),
                special.filter(|_| asked.special),
            ];
            let attributes: Vec<_> = attributes.into_iter().flatten().collect();
            out.text(&format!("* {verb} ({}) {delimiter} ", attributes.join(" ")));
            out.string(outer.as_bytes()).text("\r\n");
            if let Some(mailbox) = content.by_name(name).filter(|_| *exists && !asked.status.is_empty()) {
                self.status_line(&outer, mailbox, &asked.status, out)?;
            }
        }
        Ok(format!("{verb} completed."))
    }

    /// Reads the arguments.
    fn asked(&self, p: &mut Parser, lsub: bool) -> Result<Asked, Refusal> {
        let extended = !lsub && self.offers("LIST-EXTENDED");
        let mut asked = Asked { subscribed_only: lsub, ..Asked::default() };
        p.space()?;
        if extended && p.peek() == Some(b'(') {
            for option in p.list(Parser::keyword)? {
                match option.as_str() {
                    "SUBSCRIBED" => (asked.subscribed_only, asked.subscribed) = (true, true),
                    "SPECIAL-USE" if self.offers("SPECIAL-USE") => (asked.special_only, asked.special) = (true, true),
                    "REMOTE" | "RECURSIVEMATCH" => {}
                    _ => return Err(Refusal::bad("an unknown option of LIST")),
                }
            }
            p.space()?;
        }
        let reference = p.astring()?;
        p.space()?;
        let patterns = if extended && p.peek() == Some(b'(') { p.list(Parser::pattern)? } else { vec![p.pattern()?] };
        let whole = |pattern: &[u8]| if pattern.is_empty() { Vec::new() } else { [&reference[..], pattern].concat() };
        asked.patterns = patterns.iter().map(|pattern| whole(pattern)).collect();
        // LIST-STATUS alone has this one option.
        if (extended || !lsub && self.offers("LIST-STATUS")) && p.eat(b' ') {
            self.wanted_in_return(p, &mut asked)?;
        }
        p.end()?;
        Ok(asked)
    }

    /// `RETURN (CHILDREN STATUS (MESSAGES))`
    fn wanted_in_return(&self, p: &mut Parser, asked: &mut Asked) -> Result<(), Refusal> {
        if p.keyword()? != "RETURN" {
            return Err(Refusal::bad("expected RETURN"));
        }
        p.space()?;
        let (special, status) = (self.offers("SPECIAL-USE"), self.offers("LIST-STATUS"));
        p.list(|p| {
            match p.keyword()?.as_str() {
                "SUBSCRIBED" => asked.subscribed = true,
                "CHILDREN" => asked.children = true,
                "SPECIAL-USE" if special => asked.special = true,
                "STATUS" if status => {
                    p.space()?;
                    asked.status = p.list(Parser::keyword)?;
                }
                _ => return Err(ParseError("an option of LIST")),
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// The names LIST or LSUB may show, and whether each exists; parents that do not exist are shown as such.
fn listed(content: &Content, subscribed: bool) -> BTreeMap<String, bool> {
    let names: Vec<&str> =
        if subscribed { content.subscribed.iter().map(String::as_str).collect() } else { content.names().collect() };
    let mut listed = BTreeMap::new();
    for name in &names {
        for (end, _) in name.match_indices('/') {
            listed.entry(name[..end].to_owned()).or_insert(false);
        }
    }
    listed.extend(names.into_iter().map(|name| (name.to_owned(), true)));
    listed
}

/// Whether a name matches a pattern of LIST: `*` is anything, `%` anything but the delimiter. INBOX has no case.
fn matches(pattern: &[u8], name: &[u8], delimiter: char) -> bool {
    if name == b"INBOX" && pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    // Backtracking over two wildcards without recursion: reachable[i] says that the pattern so far can match name[..i].
    let mut reachable = vec![false; name.len() + 1];
    reachable[0] = true;
    for &p in pattern {
        if matches!(p, b'*' | b'%') {
            for i in 0..name.len() {
                reachable[i + 1] |= reachable[i] && (p == b'*' || char::from(name[i]) != delimiter);
            }
        } else {
            for i in (0..name.len()).rev() {
                reachable[i + 1] = reachable[i] && name[i] == p;
            }
            reachable[0] = false;
        }
    }
    reachable[name.len()]
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards() {
        let found = |pattern: &str, name: &str| matches(pattern.as_bytes(), name.as_bytes(), '/');
        assert!(found("*", "a/b/c") && found("%", "a") && !found("%", "a/b") && found("a/%", "a/b"));
        assert!(found("*c", "a/b/c") && found("%/%/c", "a/b/c") && !found("%/c", "a/b/c"));
        assert!(found("inbox", "INBOX") && !found("A", "a") && !found("", "a") && found("**%", "a"));
        assert!(matches(b"INBOX.%", b"INBOX.a", '.') && !matches(b"%", b"INBOX.a", '.'));
    }
}
