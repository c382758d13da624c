//! Text of strangers (user names, what clients and servers say) where people read it and filters search it: no
//! character of it ends a field or a line, turns the direction of writing round, hides, or is taken for a field of
//! the line itself.

use std::fmt::{self, Write};

/// Characters of one value that are shown.
pub const MOST: usize = 500;

/// As text, whatever the octets are, and no more of it than is shown; one character more tells that it was longer.
///
/// For a field of the log give it as a string (`user = shown::text(..)`): then each format quotes it in its own way.
#[must_use]
pub fn text(octets: &[u8]) -> String {
    // A character has four octets at most.
    let octets = &octets[..octets.len().min(4 * (MOST + 1))];
    String::from_utf8_lossy(octets).chars().take(MOST + 1).collect()
}

/// In quotes, escaped, and cut after [`MOST`] characters.
#[derive(Debug, Clone, Copy)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever looks for ` client=` in a line finds only the line's own.
        in_quotes(f, self.0, |f, char| if char == '=' { f.write_str("\\u{3d}") } else { escaped(f, char) })
    }
}

/// Without quotes, for words that are the line's own but may quote others; and cut after four times [`MOST`]
/// characters.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().take(4 * MOST).try_for_each(|char| escaped(f, char))
    }
}

/// As a JSON string, cut after [`MOST`] characters.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(pub &'a str);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        in_quotes(f, self.0, |f, char| match shows_itself(char) {
            true => f.write_char(char),
            false => char.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(f, "\\u{unit:04x}")),
        })
    }
}

/// Whether it needs no quotes in a line of fields: numbers, addresses, words.
#[must_use]
pub fn is_bare(text: &str) -> bool {
    let bare = |octet: u8| octet.is_ascii_alphanumeric() || b"._:/-+@%[]()#,".contains(&octet);
    !text.is_empty() && text.len() <= MOST && text.bytes().all(bare)
}

/// Each character but quotes and backslashes as `write` has it.
fn in_quotes(
    f: &mut fmt::Formatter<'_>,
    text: &str,
    write: impl Fn(&mut fmt::Formatter<'_>, char) -> fmt::Result,
) -> fmt::Result {
    f.write_char('"')?;
    for char in text.chars().take(MOST) {
        if matches!(char, '"' | '\\') { write!(f, "\\{char}")? } else { write(f, char)? }
    }
    f.write_str(if text.chars().nth(MOST).is_some() { "…\"" } else { "\"" })
}

fn escaped(f: &mut fmt::Formatter<'_>, char: char) -> fmt::Result {
    if shows_itself(char) { f.write_char(char) } else { write!(f, "\\u{{{:x}}}", u32::from(char)) }
}

/// Not a control character (C0, C1, DEL), nor one that changes what stands around it or is not seen: formats (those of
/// direction among them), separators of lines, spaces of other widths, combining marks, what is not assigned.
fn shows_itself(char: char) -> bool {
    match char {
        ' '..='~' => true,
        // Letters and symbols by their category, which nobody sees.
        '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' | '\u{fffc}' => false,
        _ => char.escape_debug().len() == 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// None of these may reach a terminal or a filter as it is.
    const HIDDEN: &str = "\0\t\n\r\u{1b}\u{7f}\u{80}\u{85}\u{9b}\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\
        \u{202e}\u{2066}\u{2069}\u{feff}\u{e0041}\u{3164}\u{a0}\u{3000}\u{301}\u{fe0f}\u{fff9}\u{e000}";

    #[test]
    fn what_is_hidden_or_ends_something_is_escaped() {
        for char in HIDDEN.chars() {
            let text = format!("a{char}b");
            for shown in [Quoted(&text).to_string(), Plain(&text).to_string(), Json(&text).to_string()] {
                assert!(!shown.contains(char) && shown.contains("\\u"), "{shown:?}");
            }
        }
        assert_eq!(Quoted("Jörg \"x\" \\ 漢字").to_string(), "\"Jörg \\\"x\\\" \\\\ 漢字\"");
        assert_eq!(Quoted("x client=203.0.113.66").to_string(), "\"x client\\u{3d}203.0.113.66\"");
        assert_eq!(Plain("C: a \"x\" \u{202e}").to_string(), "C: a \"x\" \\u{202e}");
        assert_eq!(Json("\u{e0041}\"").to_string(), "\"\\udb40\\udc41\\\"\"");
    }

    #[test]
    fn what_is_long_has_an_end() {
        let long = "ü".repeat(MOST + 7);
        let shown = Quoted(&text(long.as_bytes())).to_string();
        assert_eq!(shown.chars().count(), MOST + 3, "{shown}");
        assert!(shown.ends_with("ü…\""), "{shown}");
        assert!(Quoted(&"ü".repeat(MOST)).to_string().ends_with("ü\""));
    }

    proptest! {
        #[test]
        fn any_octets_are_one_value(octets in proptest::collection::vec(any::<u8>(), 0..3000)) {
            one_value(&text(&octets));
        }

        #[test]
        fn any_text_is_one_value(text in any::<String>()) {
            one_value(&text);
        }
    }

    fn one_value(text: &str) {
        let quoted = Quoted(text).to_string();
        let inner = &quoted[1..quoted.len() - 1];
        let mut chars = inner.chars();
        while let Some(char) = chars.next() {
            assert!(char != '"' && char != '=' && shows_itself(char), "{quoted}");
            if char == '\\' {
                assert!(chars.next().is_some(), "{quoted}");
            }
        }
        let told: String = serde_json::from_str(&Json(text).to_string()).unwrap();
        let shown: String = text.chars().take(MOST).collect();
        assert_eq!(told.strip_suffix('…').unwrap_or(&told), shown.strip_suffix('…').unwrap_or(&shown));
    }
}
