//! Where in the file a value is, for what turns out to be wrong only when it is used: a port that is taken, a key
//! that does not belong to its certificate.

use std::sync::Arc;

/// The places of all values that a file has.
#[derive(Debug, Clone)]
pub struct Places {
    file: Arc<str>,
    /// Each with its line and column.
    values: Vec<(Written, usize, usize)>,
}

/// Where a value begins, in bytes from the start of the file.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) section: &'static str,
    /// Which of the sections of this name, in the order of the file.
    pub(super) index: usize,
    pub(super) key: &'static str,
    pub(super) offset: usize,
}

impl Places {
    pub(super) fn new(file: &Arc<str>, text: &str, values: Vec<Written>) -> Places {
        let newlines: Vec<_> = memchr::memchr_iter(b'\n', text.as_bytes()).collect();
        let place = |written: Written| {
            let line = newlines.partition_point(|newline| *newline < written.offset);
            let start = line.checked_sub(1).map_or(0, |above| newlines[above] + 1);
            let before = text.get(start..written.offset).unwrap_or_default();
            (written, line + 1, before.trim_start_matches('\u{feff}').chars().count() + 1)
        };
        Places { file: Arc::clone(file), values: values.into_iter().map(place).collect() }
    }

    /// `FILE:LINE:COLUMN` of a key of the section at this index (0 where there is only one); where it has a default, of
    /// the section's first key; without that, `FILE`.
    pub fn of(&self, section: &str, index: usize, key: &str) -> String {
        let mut ours = self.values.iter().filter(|(it, ..)| it.section == section && it.index == index);
        let first = ours.clone().next();
        match ours.find(|(it, ..)| it.key == key).or(first) {
            Some((_, line, column)) => format!("{}:{line}:{column}", self.file),
            None => self.file.to_string(),
        }
    }
}
