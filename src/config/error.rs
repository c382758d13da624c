//! What can be wrong with a configuration file, and how that is said.

use std::io;
use std::sync::Arc;

/// Why there is no [`Config`](super::Config).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error("{file}: cannot read the configuration: {source}")]
    Read {
        /// The file's name as it was given.
        file: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file was read and is wrong; displays as one line `FILE:LINE:COLUMN: message` for each problem.
    #[error("{}", lines(.0))]
    Invalid(
        /// At least one, in the order of the file.
        Vec<Problem>,
    ),
}

impl ConfigError {
    /// The problems with their places in the file; none when the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            ConfigError::Read { .. } => &[],
            ConfigError::Invalid(problems) => problems,
        }
    }
}

/// One thing that is wrong, and where. Displays as `FILE:LINE:COLUMN: message`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {what}")]
pub struct Problem {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong there, with its remedy.
    pub what: String,
}

impl Problem {
    /// `offset`: bytes from the start of `text`.
    pub(super) fn new(file: &Arc<str>, text: &str, offset: usize, what: String) -> Problem {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        // A byte order mark is no column to anyone who looks at the file in an editor.
        let column = before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1;
        Problem { file: Arc::clone(file), line: before.matches('\n').count() + 1, column, what }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
