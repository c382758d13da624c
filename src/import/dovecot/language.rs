//! The language of 2.3 and of 2.4, as far as the two are one. Pure.

use crate::import::{ImportError, Setting, last};

/// Sections in sections: more of them is no configuration.
const DEEPEST: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) line: usize,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) settings: Vec<Setting>,
    pub(super) sections: Vec<Section>,
}

impl Section {
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        last(&self.settings, key).map(|setting| setting.value.as_str())
    }

    pub(super) fn of<'s>(&'s self, kind: &'s str) -> impl Iterator<Item = &'s Section> {
        self.sections.iter().filter(move |section| section.kind == kind)
    }
}

/// Without its quotes.
fn unquoted(value: &str) -> &str {
    let value = value.trim();
    let is_quoted = value.len() > 1 && ['"', '\''].iter().any(|it| value.starts_with(*it) && value.ends_with(*it));
    if is_quoted { &value[1..value.len() - 1] } else { value }
}

pub(super) fn read(conf: &str) -> Result<Section, ImportError> {
    let mut open = vec![Section::default()];
    let mut lines = conf.lines().enumerate();
    while let Some((place, first)) = lines.next() {
        let line = place + 1;
        let mut text = first.trim().to_owned();
        while text.ends_with('\\') {
            text.pop();
            let Some((_, more)) = lines.next() else { break };
            text = format!("{} {}", text.trim_end(), more.trim());
        }
        let text = without_comment(&text).trim();
        if !text.is_empty() {
            statement(&mut open, line, text)?;
        }
    }
    match open.pop() {
        Some(root) if open.is_empty() => Ok(root),
        Some(unfinished) => Err(ImportError::Syntax { line: unfinished.line, what: "this section does not end" }),
        None => Ok(Section::default()),
    }
}

/// `#` begins one at the start of a line, and behind a space.
fn without_comment(text: &str) -> &str {
    if text.starts_with('#') {
        return "";
    }
    let mut quote = None;
    for (at, it) in text.char_indices() {
        match (it, quote) {
            (it, Some(open)) if it == open => quote = None,
            ('"', None) => quote = Some(it),
            ('#', None) if text[..at].ends_with([' ', '\t']) => return &text[..at],
            _ => {}
        }
    }
    text
}

/// One, or a section that is written in one line.
fn statement(open: &mut Vec<Section>, line: usize, text: &str) -> Result<(), ImportError> {
    let wrong = |what| Err(ImportError::Syntax { line, what });
    if text == "}" {
        let Some(ended) = (open.len() > 1).then(|| open.pop()).flatten() else { return wrong("this } ends nothing") };
        if let Some(outer) = open.last_mut() {
            outer.sections.push(ended);
        }
        return Ok(());
    }
    // `{` behind a space begins a section; `%{user}` is a value.
    let brace = text.find(" {").or_else(|| text.ends_with('{').then(|| text.len() - 1));
    let equals = text.find('=');
    if let Some(at) = brace.filter(|at| equals.is_none_or(|equals| *at < equals)) {
        if open.len() > DEEPEST {
            return wrong("so many sections in each other are not read");
        }
        let (head, rest) = (text[..at].trim(), text[at..].trim_start_matches([' ', '{']).trim());
        let (kind, name) = head.split_once([' ', '\t']).unwrap_or((head, ""));
        let (kind, name) = (kind.to_owned(), unquoted(name).to_owned());
        open.push(Section { line, kind, name, ..Section::default() });
        return match rest.strip_suffix('}').filter(|inner| !inner.contains("%{") || rest.ends_with(" }")) {
            Some(inner) => {
                if !inner.trim().is_empty() {
                    statement(open, line, inner.trim())?;
                }
                statement(open, line, "}")
            }
            None if rest.is_empty() => Ok(()),
            None => statement(open, line, rest),
        };
    }
    let (key, value) = match equals {
        Some(at) => (text[..at].trim(), &text[at + 1..]),
        None => text.split_once([' ', '\t']).unwrap_or((text, "")),
    };
    if let Some(section) = open.last_mut() {
        section.settings.push(Setting { line, key: key.to_owned(), value: unquoted(value).to_owned() });
    }
    Ok(())
}
