//! What a command says of mod-sequences (RFC 7162).

use super::command::{Command, Name};
use super::nesting::Nesting;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modseqs {
    /// It may switch on CONDSTORE for the rest of the connection (RFC 7162 section 3.1): any mention of a mod-sequence
    /// does. Says yes too often (a mailbox of that name), never too seldom.
    pub mentioned: bool,
    /// Who gives it hears mod-sequences from then on (RFC 7162 section 3.1): not because of a mailbox or a text with
    /// such a name.
    pub asked: bool,
    /// It asks for what has vanished (RFC 7162 section 3.2.6).
    pub vanished: bool,
}

/// What `command` says of them.
#[must_use]
pub fn modseqs(command: &Command) -> Modseqs {
    use Name::{Examine, Fetch, List, Other, Search, Select, Sort, Status, Store, Thread};
    let may = matches!(command.name, Select | Examine | Fetch | Store | Search | Sort | Thread | Status | List | Other);
    if !may || !command.segments.iter().any(|segment| mentions(&segment.text)) {
        return Modseqs::default();
    }
    let atoms = atoms(command);
    let has = |word: &[u8]| atoms.iter().any(|atom| atom == word);
    let asked = match command.name {
        Fetch => has(b"MODSEQ") || has(b"CHANGEDSINCE"),
        // Behind the set comes the modifier, if there is one.
        Store => atoms.get(1).is_some_and(|atom| atom == b"UNCHANGEDSINCE"),
        Status => atoms.iter().skip(1).any(|atom| atom == b"HIGHESTMODSEQ"),
        List => has(b"RETURN") && has(b"STATUS") && has(b"HIGHESTMODSEQ"),
        // What follows is a number, or the name of an entry.
        Search | Sort | Thread => atoms
            .windows(2)
            .any(|two| two[0] == b"MODSEQ" && two[1].iter().all(|octet| octet.is_ascii_digit() || *octet == b'"')),
        _ => false,
    };
    Modseqs { mentioned: true, asked, vanished: asked && command.name == Fetch && has(b"VANISHED") }
}

/// Whether a word of RFC 7162 is in it, whatever the case.
fn mentions(text: &[u8]) -> bool {
    // Each is looked for by its rarest letter, and where in it that stands.
    let any = |letter: u8, words: &[(&[u8], usize)]| {
        memchr::memchr2_iter(letter.to_ascii_lowercase(), letter, text).any(|at| {
            words.iter().any(|(word, letter)| {
                let here = at.checked_sub(*letter).and_then(|start| text[start..].get(..word.len()));
                // Octet by octet: most differ in the first.
                here.is_some_and(|here| here.iter().zip(*word).all(|(a, b)| a.eq_ignore_ascii_case(b)))
            })
        })
    };
    any(b'Q', &[(b"MODSEQ", 5), (b"QRESYNC", 0)]) || any(b'C', &[(b"CONDSTORE", 0), (b"CHANGEDSINCE", 0)])
}

/// The atoms of a command's arguments, in capitals; a quotation mark stands for a string, whichever it is. What is in
/// brackets is left out.
fn atoms(command: &Command) -> Vec<Vec<u8>> {
    let mut atoms: Vec<Vec<u8>> = vec![Vec::new()];
    let mut nesting = Nesting::default();
    for segment in &command.segments {
        for octet in &segment.text {
            let is_plain = nesting.is_plain();
            nesting.pass(*octet);
            match octet {
                _ if !is_plain => {}
                b'"' => atoms.push(b"\"".to_vec()),
                b' ' | b'(' | b')' => atoms.push(Vec::new()),
                octet => atoms.last_mut().into_iter().for_each(|atom| atom.push(octet.to_ascii_uppercase())),
            }
        }
        if segment.literal.is_some() {
            atoms.push(b"\"".to_vec());
        }
    }
    atoms.retain(|atom| !atom.is_empty());
    let verbs = if atoms.first().is_some_and(|verb| verb == b"UID") { 2 } else { 1 };
    atoms.drain(..verbs.min(atoms.len()));
    atoms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imap::rewrite::tests::command;

    #[test]
    fn condstore_is_noticed() {
        for line in [
            "SELECT x (CONDSTORE)",
            "FETCH 1 (modseq)",
            "UID FETCH 1 FLAGS (CHANGEDSINCE 1)",
            "STORE 1 (UNCHANGEDSINCE 1) FLAGS ()",
            "STATUS x (HIGHESTMODSEQ)",
            "SEARCH MODSEQ 1",
            "SELECT x (Qresync (1 2))",
            "SELECT ds.modseq",
        ] {
            assert!(modseqs(&command(line)).mentioned, "{line}");
        }
        for line in ["FETCH 1 FLAGS", "SELECT ds", "LIST \"\" mods", "SELECT qr", "NOOP modseq"] {
            assert!(!modseqs(&command(line)).mentioned, "{line}");
        }
    }

    #[test]
    fn who_asks_for_mod_sequences() {
        for line in [
            "FETCH 1 (MODSEQ)",
            "fetch 1 modseq",
            "UID FETCH 1:* (FLAGS) (CHANGEDSINCE 5)",
            "STORE 1 (UNCHANGEDSINCE 5) +FLAGS (x)",
            "UID STORE 1 (UNCHANGEDSINCE 5) +FLAGS (x)",
            "SEARCH MODSEQ 5",
            "UID SEARCH OR (MODSEQ \"/flags/\\\\draft\" all 5) SEEN",
            "STATUS INBOX (MESSAGES HIGHESTMODSEQ)",
            "STATUS \"modseq\" (HIGHESTMODSEQ)",
            "STATUS [Gmail] (HIGHESTMODSEQ)",
            "LIST \"\" * RETURN (STATUS (HIGHESTMODSEQ))",
        ] {
            assert!(modseqs(&command(line)).asked, "{line}");
        }
        for line in [
            "FETCH 1 (FLAGS BODY.PEEK[HEADER.FIELDS (MODSEQ)])",
            "STORE 1 +FLAGS (UNCHANGEDSINCE)",
            "SEARCH SUBJECT \"MODSEQ 5\"",
            "SEARCH SUBJECT MODSEQ",
            "STATUS HIGHESTMODSEQ (MESSAGES)",
            "LIST \"\" HIGHESTMODSEQ",
            "COPY 1 MODSEQ",
        ] {
            assert!(!modseqs(&command(line)).asked, "{line}");
        }
        assert!(modseqs(&command("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 5 VANISHED)")).vanished);
        assert!(!modseqs(&command("UID FETCH 1:* (FLAGS) (CHANGEDSINCE 5)")).vanished);
    }
}
