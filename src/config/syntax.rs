//! What to do about a line that is not TOML. Pure.

use super::read::excerpt;

/// As word processors and web pages write them.
const TYPOGRAPHIC: &[char] = &['“', '”', '„', '‟', '‘', '’', '‚', '‛', '«', '»', '‹', '›', '″', '′', '`', '´'];

/// What to do about the value of a key, which the parser does not understand.
pub(super) fn of_value(key: &str, value: &str) -> Option<String> {
    let value = without_comment(value);
    let write = |text: &str| format!("{key} = {}", excerpt(text));
    // Between single quotes, a backslash is itself.
    let quoted = |text: &str| write(&if text.contains('\\') { format!("'{text}'") } else { format!("\"{text}\"") });
    if value.is_empty() {
        return Some("write a value, or delete the line to have the default".to_owned());
    }
    if value.contains(TYPOGRAPHIC) {
        let straight = value.replace(TYPOGRAPHIC, "\"");
        return Some(format!("quotes must be straight: {}", quoted(straight.trim_matches('"'))));
    }
    let quotes = ['"', '\''].map(|quote| value.matches(quote).count());
    if let Some(quote) = ['"', '\''].into_iter().find(|quote| value.starts_with(*quote) || value.ends_with(*quote)) {
        if quotes.iter().sum::<usize>() % 2 == 1 {
            return Some(format!("a quote is missing: {}", quoted(value.trim_matches(quote))));
        }
        let spoiled = quote == '"' && value.contains('\\');
        let line = quoted(value.trim_matches('"'));
        return spoiled.then(|| format!("between double quotes a backslash is not itself, take single ones: {line}"));
    }
    match value.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => return Some(format!("write {}", write("true"))),
        "false" | "no" | "off" => return Some(format!("write {}", write("false"))),
        _ => {}
    }
    if let Some(list) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let each = |element: &str| format!("\"{}\"", element.trim().trim_matches(['"', '\'']));
        let list: Vec<_> = list.split(',').filter(|element| !element.trim().is_empty()).map(each).collect();
        return Some(format!("text needs quotes: {}", write(&format!("[{}]", list.join(", ")))));
    }
    let bare = quotes == [0, 0] && !value.starts_with('{');
    bare.then(|| format!("text needs quotes: {}", quoted(value)))
}

/// What to do about a line that is no setting.
pub(super) fn of_line(line: &str) -> Option<String> {
    let (key, value) = line.trim().split_once(':')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_key.then(|| format!("write an equals sign: {}", excerpt(&format!("{key} = {}", value.trim()))))
}

/// Without what follows a `#`, which no value here has in it.
fn without_comment(value: &str) -> &str {
    value.split('#').next().unwrap_or_default().trim()
}
