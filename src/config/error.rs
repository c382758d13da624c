//! What can be wrong with a configuration file, and how that is said.

use std::borrow::Cow;
use std::fmt;
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
    #[error("{}", Lines(.0))]
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file's name as it was given.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What is wrong there.
    pub fault: Fault,
}

impl Problem {
    /// `offset`: bytes from the start of `text`.
    pub(super) fn new(file: &Arc<str>, text: &str, offset: usize, fault: Fault) -> Problem {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        // A byte order mark is no column to anyone who looks at the file in an editor.
        let column = before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1;
        Problem { file: Arc::clone(file), line: before.matches('\n').count() + 1, column, fault }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.fault)
    }
}

/// What is wrong at one place, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not UTF-8, as TOML must be.
    #[error("not UTF-8: save the file in that encoding")]
    NotUtf8,
    /// Not TOML.
    #[error("{}not valid TOML: {message}", Prefix(.key))]
    Syntax {
        /// The key of that line, where there is one.
        key: Option<String>,
        /// What the TOML parser says, and the remedy.
        message: String,
    },
    /// A key which nobody reads: misspelt, or in the wrong section.
    #[error("unknown key `{key}`: {remedy}")]
    UnknownKey {
        /// With its section: `pool.lingr`.
        key: String,
        /// Names the nearest valid key.
        remedy: String,
    },
    /// A key without which nothing works.
    #[error("`{key}` is missing: {remedy}")]
    Missing {
        /// With its section.
        key: String,
        /// The line to write.
        remedy: Cow<'static, str>,
    },
    /// A value of another type than the key has.
    #[error("`{key}` is {found}, but must be {expected}")]
    WrongType {
        /// With its section.
        key: String,
        /// The type found, with its article.
        found: &'static str,
        /// The type expected, with an example.
        expected: &'static str,
    },
    /// A value of the right type that makes no sense.
    #[error("`{key}` cannot be {value}: {remedy}")]
    BadValue {
        /// With its section.
        key: String,
        /// As it stands in the file.
        value: String,
        /// Why, and what to write instead.
        remedy: Cow<'static, str>,
    },
    /// The same thing twice where each must be unique.
    #[error("`{key}` {value} is taken already, by line {line}: {remedy}")]
    Duplicate {
        /// With its section.
        key: String,
        /// What is there twice.
        value: String,
        /// Where it is for the first time.
        line: usize,
        /// What to do.
        remedy: &'static str,
    },
}

struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

struct Prefix<'a>(&'a Option<String>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, "`{key}`: "),
            None => Ok(()),
        }
    }
}
