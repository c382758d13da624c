//! Where in the file a value is, for what turns out to be wrong only when it is used: a port that is taken, a key
//! that does not belong to its certificate.

use std::sync::Arc;

/// The places of all values that a file has.
#[derive(Debug, Clone)]
pub struct Places {
    file: Arc<str>,
    values: Vec<Place>,
}

#[derive(Debug, Clone)]
struct Place {
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
        let place = |&(section, header, key, offset): &(&'static str, usize, &'static str, usize)| {
            let mut earlier: Vec<usize> =
                values.iter().filter(|value| value.0 == section && value.1 < header).map(|value| value.1).collect();
            earlier.dedup();
            let before = text.get(..offset).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let column = before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1;
            Place { section, index: earlier.len(), key, line: before.matches('\n').count() + 1, column }
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
