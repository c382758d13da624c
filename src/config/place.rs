//! Where in the file a value is, for what turns out to be wrong only when it is used: a port that is taken, a key
//! that does not belong to its certificate.

use std::sync::Arc;

/// The places of all values that a file has.
#[derive(Debug, Clone)]
pub struct Places {
    file: Arc<str>,
    values: Vec<Written>,
}

#[derive(Debug, Clone)]
struct Written {
    section: &'static str,
    /// Which of the sections of this name, in the order of the file.
    index: usize,
    key: &'static str,
    line: usize,
    column: usize,
}

impl Places {
    /// `values`: section, where its header begins, key, where its value begins; in bytes from the start of `text`.
    pub(super) fn new(file: &Arc<str>, text: &str, values: &[(&'static str, usize, &'static str, usize)]) -> Places {
        let mut headers: Vec<_> = values.iter().map(|value| (value.0, value.1)).collect();
        headers.sort_unstable();
        headers.dedup();
        let before = |header: (&str, usize)| headers.partition_point(|other| *other < header);
        let newlines: Vec<_> = memchr::memchr_iter(b'\n', text.as_bytes()).collect();
        let place = |&(section, header, key, offset): &(&'static str, usize, &'static str, usize)| {
            let line = newlines.partition_point(|newline| *newline < offset);
            let start = line.checked_sub(1).map_or(0, |above| newlines[above] + 1);
            let column = text.get(start..offset).map_or(0, |text| text.trim_start_matches('\u{feff}').chars().count());
            let index = before((section, header)) - before((section, 0));
            Written { section, index, key, line: line + 1, column: column + 1 }
        };
        Places { file: Arc::clone(file), values: values.iter().map(place).collect() }
    }

    /// `FILE:LINE:COLUMN` of a key of the section at this index (0 where there is only one); where it has a default, of
    /// the section's first key; without that, `FILE`.
    pub fn of(&self, section: &str, index: usize, key: &str) -> String {
        let mut ours = self.values.iter().filter(|place| place.section == section && place.index == index);
        let first = ours.clone().next();
        match ours.find(|place| place.key == key).or(first) {
            Some(place) => format!("{}:{}:{}", self.file, place.line, place.column),
            None => self.file.to_string(),
        }
    }
}
