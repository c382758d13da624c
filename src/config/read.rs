//! Takes values out of the TOML tree by section and key, and notes what is wrong on the way, so that one run tells all.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::Config;
use super::error::{Fault, Problem};
use super::place::Places;
use super::syntax;
use super::value::{Kind, Reason, Refusal, Value};

/// A table of the file and where its header begins.
pub(super) type Table<'t> = (usize, &'t DeTable<'t>);

/// Tells whether a file that the configuration names can be read, of at most so many octets.
pub(super) type Probe<'t> = &'t dyn Fn(&Path, u64) -> io::Result<()>;

/// Problems that are told at once: with more it is the wrong file, or the first explain the others.
const MOST: usize = 50;
/// So many of the parser's errors are looked at.
const MOST_ERRORS: usize = 20 * MOST;

/// Collects what is wrong.
pub(super) struct Reader<'t> {
    text: &'t str,
    probe: Probe<'t>,
    faults: Vec<(usize, Fault)>,
    /// Where each key is, and its section.
    keys: Vec<(usize, &'static str, &'t str)>,
    /// Section, where its header begins, key, where its value begins.
    places: Vec<(&'static str, usize, &'static str, usize)>,
}

/// What a reader has to say in the end.
pub(super) struct Found {
    /// What is wrong, in the order of the file; at most [`MOST`].
    pub(super) problems: Vec<Problem>,
    pub(super) places: Places,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, probe: Probe<'t>) -> Reader<'t> {
        Reader { text, probe, faults: Vec::new(), keys: Vec::new(), places: Vec::new() }
    }

    /// The top level of the file.
    pub(super) fn root<'r>(&'r mut self, table: &'t DeTable<'t>) -> Section<'r, 't> {
        self.section("", Some((0, table)))
    }

    /// A table, absent or not.
    pub(super) fn section<'r>(&'r mut self, name: &'static str, table: Option<Table<'t>>) -> Section<'r, 't> {
        let (header, table) = table.unzip();
        Section { reader: self, name, header: header.unwrap_or_default(), table }
    }

    /// Notes what is wrong at a place: bytes from the start of the text.
    pub(super) fn fault(&mut self, offset: usize, fault: Fault) {
        self.faults.push((offset, fault));
    }

    /// The line of a place, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }

    pub(super) fn finish(mut self, file: &Arc<str>) -> Found {
        let known = Config::keys();
        let mut unknown = std::mem::take(&mut self.keys);
        unknown.retain(|(_, section, key)| !known.contains(&(*section, *key)));
        unknown.sort_unstable_by_key(|(offset, ..)| *offset);
        for (offset, section, key) in unknown.into_iter().take(MOST) {
            let remedy = nearest(section, key, &known);
            // A quoted key may have line ends in it, and the message is one line.
            let key = qualified(section, &key.escape_debug().to_string());
            self.fault(offset, Fault::UnknownKey { key, remedy });
        }
        self.faults.sort_by_key(|(offset, _)| *offset);
        let faults = self.faults.into_iter().take(MOST);
        let problems = faults.map(|(offset, fault)| Problem::new(file, self.text, offset, fault)).collect();
        let places = Places::new(file, self.text, &self.places);
        Found { problems, places }
    }
}

/// One table of the file.
pub(super) struct Section<'r, 't> {
    reader: &'r mut Reader<'t>,
    name: &'static str,
    header: usize,
    table: Option<&'t DeTable<'t>>,
}

impl<'t> Section<'_, 't> {
    fn get(&mut self, key: &'static str) -> Option<&'t Value<'t>> {
        let value = self.table?.get(key)?;
        self.reader.places.push((self.name, self.header, key, value.span().start));
        Some(value)
    }

    /// The value of a key; `None` when it is absent, or was refused and noted.
    fn optional<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&'t Value<'t>) -> Result<T, Refusal>,
    ) -> Option<T> {
        let Refusal { span, reason } = match convert(self.get(key)?) {
            Ok(value) => return Some(value),
            Err(refusal) => refusal,
        };
        let start = span.start;
        let key = qualified(self.name, key);
        let fault = match reason {
            Reason::Type { found, expected } => Fault::WrongType { key, found, expected },
            Reason::Value(remedy) => Fault::BadValue { key, value: excerpt(&self.reader.text[span]), remedy },
        };
        self.reader.fault(start, fault);
        None
    }

    /// The value of a key, or its default.
    pub(super) fn or<T>(&mut self, key: &'static str, default: T, kind: Kind<T>) -> T {
        self.optional(key, kind.read).unwrap_or(default)
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        remedy: &'static str,
        convert: impl FnOnce(&'t Value<'t>) -> Result<T, Refusal>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key, self.header, remedy);
        }
        self.optional(key, convert)
    }

    /// A table that is written once.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Table<'t>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some((value.span().start, table)),
            _ => {
                let expected = "a section that is written once, with its name in single brackets";
                self.reader.fault(value.span().start, not_a_section(key, value, expected));
                None
            }
        }
    }

    /// Tables of which there is at least one; `remedy` says how to write it.
    pub(super) fn tables(&mut self, key: &'static str, remedy: &'static str) -> Vec<Table<'t>> {
        let tables = self.any_tables(key);
        let value = self.table.and_then(|table| table.get(key));
        if value.is_none_or(|value| value.get_ref().as_array().is_some_and(|array| array.is_empty())) {
            self.missing(key, self.offset(key), remedy);
        }
        tables
    }

    /// Tables of which there may be any number.
    pub(super) fn any_tables(&mut self, key: &'static str) -> Vec<Table<'t>> {
        let expected = "a section with its name in double brackets, since there may be several";
        let Some(value) = self.get(key) else { return Vec::new() };
        let DeValue::Array(array) = value.get_ref() else {
            self.reader.fault(value.span().start, not_a_section(key, value, expected));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for element in array.iter() {
            match element.get_ref() {
                DeValue::Table(table) => tables.push((element.span().start, table)),
                _ => self.reader.fault(element.span().start, not_a_section(key, element, expected)),
            }
        }
        tables
    }

    /// Is the key there, whatever its value?
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Where the value of a key is, or the section's header.
    pub(super) fn offset(&self, key: &str) -> usize {
        self.table.and_then(|table| table.get(key)).map_or(self.header, |value| value.span().start)
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&mut self, key: &'static str, offset: usize, remedy: impl Into<Cow<'static, str>>) {
        let fault = Fault::Missing { key: qualified(self.name, key), remedy: remedy.into() };
        self.reader.fault(offset, fault);
    }

    /// Notes that the value of a key, though well formed, will not do.
    pub(super) fn refuse(&mut self, key: &'static str, remedy: impl Into<Cow<'static, str>>) {
        let Some(value) = self.table.and_then(|table| table.get(key)) else { return };
        let value = excerpt(&self.reader.text[value.span()]);
        let fault = Fault::BadValue { key: qualified(self.name, key), value, remedy: remedy.into() };
        self.reader.fault(self.offset(key), fault);
    }

    /// Notes it if the file that a key names cannot be read.
    pub(super) fn must_be_readable(&mut self, key: &'static str, path: &Path, most: u64) {
        if let Err(error) = (self.reader.probe)(path, most) {
            self.refuse(key, format!("the file cannot be read: {error}"));
        }
    }

    /// Notes its keys; those that are in no table are told.
    pub(super) fn finish(self) {
        let keys = self.table.into_iter().flat_map(DeTable::keys);
        self.reader.keys.extend(keys.map(|key| (key.span().start, self.name, &**key.get_ref())));
    }
}

/// Turns what the TOML parser says into problems: the first of each line, since the others follow from it.
pub(super) fn syntax_problems(file: &Arc<str>, text: &str, mut errors: Vec<toml::de::Error>) -> Vec<Problem> {
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
        let key = key.map(|key| key.escape_debug().to_string());
        let message = format!("{}{remedy}", error.message());
        problems.push(Problem::new(file, text, start, Fault::Syntax { key, message }));
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

fn not_a_section(key: &'static str, value: &Value<'_>, expected: &'static str) -> Fault {
    let found = match value.get_ref() {
        DeValue::Table(_) => "a section with its name in single brackets",
        DeValue::Array(_) => "a list",
        _ => "a single value",
    };
    Fault::WrongType { key: key.to_owned(), found, expected }
}

fn place(section: &str) -> String {
    match section {
        "" => "at the top level".to_owned(),
        "listener" | "backend" | "group" | "route" => format!("under [[{section}]]"),
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
