//! Takes values out of the TOML tree by section and key, and notes what is wrong on the way, so that one run tells all.

use std::cell::RefCell;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Problem};
use super::place::{Places, Written};
use super::value::{Kind, Outcome, Reason, Refusal, Value};
use super::{Config, syntax};
use crate::platform::Has;

/// Tells whether a file that the configuration names can be read, of at most so many octets.
pub(super) type Probe<'t> = &'t dyn Fn(&Path, u64) -> io::Result<()>;

/// Problems that are told at once: with more it is the wrong file, or the first explain the others.
const MOST: usize = 50;
/// So many of the parser's errors are looked at.
const MOST_ERRORS: usize = 20 * MOST;

/// Reads a text, of which `values` makes something; tells where all of its values are.
pub(super) fn read<T>(
    text: &str,
    file: &str,
    probe: Probe<'_>,
    has: Has,
    values: impl FnOnce(Section<'_>) -> T,
) -> Result<(T, Places), ConfigError> {
    let file = &Arc::from(file);
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(ConfigError::Invalid(syntax_problems(file, text, errors)));
    }
    let reader = Reader {
        text,
        probe,
        has,
        known: Config::keys(),
        faults: RefCell::default(),
        unknown: RefCell::default(),
        places: RefCell::default(),
    };
    let it = values(Section { reader: &reader, name: "", index: 0, header: 0, table: Some(root.get_ref()) });
    Ok((it, reader.finish(file)?))
}

/// Collects what is wrong. Places in the file are in bytes from its start.
pub(super) struct Reader<'t> {
    text: &'t str,
    probe: Probe<'t>,
    /// What the system has for which this is.
    has: Has,
    /// All keys, with their sections.
    known: Vec<(&'static str, &'static str)>,
    faults: RefCell<Vec<(usize, String)>>,
    /// Where each key is that is none of those, and its section.
    unknown: RefCell<Vec<(usize, &'static str, String)>>,
    places: RefCell<Vec<Written>>,
}

impl Reader<'_> {
    fn fault(&self, offset: usize, what: String) {
        self.faults.borrow_mut().push((offset, what));
    }

    /// Where all values are; or what is wrong, in the order of the file, and at most [`MOST`] of it.
    fn finish(self, file: &Arc<str>) -> Result<Places, ConfigError> {
        let (mut faults, mut unknown) = (self.faults.into_inner(), self.unknown.into_inner());
        unknown.sort_unstable_by_key(|(offset, ..)| *offset);
        faults.extend(unknown.into_iter().take(MOST).map(|(offset, section, key)| {
            let remedy = nearest(section, &key, &self.known);
            // A quoted key may have line ends in it, and the message is one line.
            let key = qualified(section, &key.escape_debug().to_string());
            (offset, format!("unknown key `{key}`: {remedy}"))
        }));
        faults.sort_by_key(|(offset, _)| *offset);
        if faults.is_empty() {
            return Ok(Places::new(file, self.text, self.places.into_inner()));
        }
        let problem = |(offset, what)| Problem::new(file, self.text, offset, what);
        Err(ConfigError::Invalid(faults.into_iter().take(MOST).map(problem).collect()))
    }
}

/// One table of the file, or none where it could be.
#[derive(Clone, Copy)]
pub(super) struct Section<'t> {
    reader: &'t Reader<'t>,
    name: &'static str,
    /// Which of the sections of this name, in the order of the file.
    index: usize,
    /// Where its header begins.
    header: usize,
    table: Option<&'t DeTable<'t>>,
}

impl<'t> Section<'t> {
    fn get(&self, key: &str) -> Option<&'t Value<'t>> {
        self.table?.get(key)
    }

    /// The same, and notes where it is.
    fn take(&self, key: &'static str) -> Option<&'t Value<'t>> {
        let value = self.get(key)?;
        let written = Written { section: self.name, index: self.index, key, offset: value.span().start };
        self.reader.places.borrow_mut().push(written);
        Some(value)
    }

    /// The value of a key; `None` when it is absent, or was refused and noted.
    fn optional<T>(&self, key: &'static str, convert: impl FnOnce(&'t Value<'t>) -> Outcome<T>) -> Option<T> {
        let Refusal { span, reason } = match convert(self.take(key)?) {
            Ok(value) => return Some(value),
            Err(refusal) => refusal,
        };
        let start = span.start;
        let what = match reason {
            Reason::Type { found, expected } => self.of_another_type(key, found, expected),
            Reason::Value(remedy) => self.cannot_be(key, &excerpt(&self.reader.text[span]), &remedy),
        };
        self.reader.fault(start, what);
        None
    }

    /// The value of a key, or its default.
    pub(super) fn or<T>(&self, key: &'static str, default: T, kind: Kind<T>) -> T {
        self.optional(key, kind.read).unwrap_or(default)
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        remedy: &str,
        convert: impl FnOnce(&'t Value<'t>) -> Outcome<T>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key, key, remedy);
        }
        self.optional(key, convert)
    }

    /// A table that is written once, or not at all.
    pub(super) fn table(&self, key: &'static str) -> Section<'t> {
        let expected = "a section that is written once, with its name in single brackets";
        let written = self.take(key).and_then(|value| self.subsection(key, 0, value, expected));
        written.unwrap_or(Section { name: key, header: 0, table: None, ..*self })
    }

    /// Tables of which there is at least one; `remedy` says how to write it.
    pub(super) fn some_tables(&self, key: &'static str, remedy: &str) -> Vec<Section<'t>> {
        let is_none = |value: &Value<'_>| value.get_ref().as_array().is_some_and(|array| array.is_empty());
        if self.get(key).is_none_or(is_none) {
            self.missing(key, key, remedy);
        }
        self.tables(key)
    }

    /// Tables of which there may be any number.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Section<'t>> {
        let expected = "a section with its name in double brackets, since there may be several";
        let Some(value) = self.take(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.is_not_a_section(key, value, expected);
            return Vec::new();
        };
        let table = |(index, element)| self.subsection(key, index, element, expected);
        array.iter().enumerate().filter_map(table).collect()
    }

    /// A table in it, if it is one.
    fn subsection(
        &self,
        name: &'static str,
        index: usize,
        value: &'t Value<'t>,
        expected: &str,
    ) -> Option<Section<'t>> {
        let DeValue::Table(table) = value.get_ref() else {
            self.is_not_a_section(name, value, expected);
            return None;
        };
        let section = Section { name, index, header: value.span().start, table: Some(table), ..*self };
        section.note_unknown();
        Some(section)
    }

    /// Notes its keys that nobody knows.
    pub(super) fn note_unknown(&self) {
        let known = |key: &str| self.reader.known.contains(&(self.name, key));
        let unknown = self.table.into_iter().flat_map(DeTable::keys).filter(|key| !known(key.get_ref()));
        let unknown = unknown.map(|key| (key.span().start, self.name, key.get_ref().to_string()));
        self.reader.unknown.borrow_mut().extend(unknown);
    }

    /// What the system has for which the file is.
    pub(super) fn system(&self) -> Has {
        self.reader.has
    }

    /// Is the key there, whatever its value?
    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Where the value of a key is, or the section's header.
    fn offset(&self, key: &str) -> usize {
        self.get(key).map_or(self.header, |value| value.span().start)
    }

    /// Notes what is wrong at the value of a key, or where that is not there, at the section's header.
    pub(super) fn fault(&self, at: &str, what: String) {
        self.reader.fault(self.offset(at), what);
    }

    /// Notes that a key is missing, which is told at another's value.
    pub(super) fn missing(&self, key: &str, at: &str, remedy: &str) {
        self.fault(at, format!("`{}` is missing: {remedy}", qualified(self.name, key)));
    }

    /// Notes that the value of a key, though well formed, will not do.
    pub(super) fn refuse(&self, key: &str, remedy: &str) {
        if let Some(value) = self.get(key) {
            self.fault(key, self.cannot_be(key, &excerpt(&self.reader.text[value.span()]), remedy));
        }
    }

    /// The same of a name, however it is quoted there.
    pub(super) fn refuse_name(&self, key: &str, name: &str, remedy: &str) {
        self.fault(key, self.cannot_be(key, &format!("\"{name}\""), remedy));
    }

    /// Notes that what a key says is said by it in an earlier section, where each must be unique.
    pub(super) fn is_taken(&self, key: &str, by: &Section<'_>, value: &dyn Display, remedy: &str) {
        let line = self.reader.text[..by.offset(key)].matches('\n').count() + 1;
        let key_shown = qualified(self.name, key);
        self.fault(key, format!("`{key_shown}` \"{value}\" is taken already, by line {line}: {remedy}"));
    }

    fn cannot_be(&self, key: &str, value: &str, remedy: &str) -> String {
        format!("`{}` cannot be {value}: {remedy}", qualified(self.name, key))
    }

    fn of_another_type(&self, key: &str, found: &str, expected: &str) -> String {
        format!("`{}` is {found}, but must be {expected}", qualified(self.name, key))
    }

    fn is_not_a_section(&self, key: &str, value: &Value<'_>, expected: &str) {
        let found = match value.get_ref() {
            DeValue::Table(_) => "a section with its name in single brackets",
            DeValue::Array(_) => "a list",
            _ => "a single value",
        };
        self.reader.fault(value.span().start, self.of_another_type(key, found, expected));
    }

    /// Notes it if the file that a key names, if it names one, cannot be read.
    pub(super) fn must_be_readable(&self, key: &str, path: Option<&PathBuf>, most: u64) {
        if let Some(Err(error)) = path.map(|path| (self.reader.probe)(path, most)) {
            self.refuse(key, &format!("the file cannot be read: {error}"));
        }
    }

    /// The same of a file or a folder.
    pub(super) fn must_be_there(&self, key: &str, path: &Path, most: u64) {
        match (self.reader.probe)(path, most) {
            Ok(()) => {}
            // Where folders can be opened as files, and where they cannot.
            Err(error) if error.kind() == io::ErrorKind::IsADirectory || path.is_dir() => {
                if let Err(error) = std::fs::read_dir(path) {
                    self.refuse(key, &format!("the folder {} cannot be read: {error}", path.display()));
                }
            }
            Err(error) => self.refuse(key, &format!("{} cannot be read: {error}", path.display())),
        }
    }
}

/// Turns what the TOML parser says into problems: the first of each line, since the others follow from it.
fn syntax_problems(file: &Arc<str>, text: &str, mut errors: Vec<toml::de::Error>) -> Vec<Problem> {
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let mut problems: Vec<Problem> = Vec::new();
    let has_headers = text.lines().any(|line| line.trim_start().starts_with("headers"));
    let mut last = None;
    for error in errors.into_iter().take(MOST_ERRORS) {
        let start = error.span().map_or(0, |span| span.start);
        let line_start = text.get(..start).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
        if last.replace(line_start) == Some(line_start) || problems.len() == MOST {
            continue;
        }
        let line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let setting = text.get(line_start..start).and_then(|before| before.split_once('='));
        let key = setting.map(|(key, _)| key.trim()).filter(|key| !key.is_empty());
        let remedy = match key {
            // What is quoted may be of a list of headers, whose values are secrets.
            _ if has_headers => None,
            _ if error.message() == "duplicate key" => Some("keep one of the two".to_owned()),
            Some(key) => syntax::of_value(key, line.split_once('=').map_or("", |(_, value)| value)),
            None => syntax::of_line(line),
        };
        let remedy = remedy.map_or(String::new(), |remedy| format!("; {remedy}"));
        let key = key.map_or(String::new(), |key| format!("`{}`: ", key.escape_debug()));
        let what = format!("{key}not valid TOML: {}{remedy}", error.message());
        problems.push(Problem::new(file, text, start, what));
    }
    problems
}

fn qualified(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// A value as it stands in the file, if need be shortened.
pub(super) fn excerpt(source: &str) -> String {
    const MOST: usize = 80;
    let line = source.lines().next().unwrap_or_default();
    // A terminal would obey control characters.
    let shown = |char: char| if char.is_control() { '\u{fffd}' } else { char };
    let mut shortened: String = line.chars().take(MOST).map(shown).collect();
    if line.len() < source.len() || line.chars().nth(MOST).is_some() {
        shortened.push('…');
    }
    shortened
}

fn place(section: &str) -> String {
    match section {
        "" => "at the top level".to_owned(),
        "listener" | "backend" | "group" | "route" | "account" => format!("under [[{section}]]"),
        _ => format!("under [{section}]"),
    }
}

/// What to do about an unknown key, given all known ones.
fn nearest(section: &str, key: &str, known: &[(&'static str, &'static str)]) -> String {
    let elsewhere: Vec<String> =
        known.iter().filter(|(_, name)| *name == key).map(|(section, _)| place(section)).collect();
    if !elsewhere.is_empty() {
        return format!("it belongs {}", elsewhere.join(" or "));
    }
    let here: Vec<&str> = known.iter().filter(|(name, _)| *name == section).map(|(_, key)| *key).collect();
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(key, candidate);
    match here.iter().min_by_key(distance) {
        Some(near) if distance(&near) <= key.len() / 3 + 1 => format!("did you mean `{near}`?"),
        Some(near) => format!("the nearest is `{near}`; valid here: {}", here.join(", ")),
        None => "there are no keys here".to_owned(),
    }
}
