//! From the configuration of another proxy to one of imapool's. Pure, but for [`read`] and [`write()`].

mod dovecot;
mod draft;
mod imapproxy;
mod nginx;
mod perdition;
mod write;

use std::io;
use std::path::Path;

use thiserror::Error;

pub use self::write::{WriteError, write};

/// Whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// up-imapproxy: imapproxy.conf.
    Imapproxy,
    /// nginx with its mail module: nginx.conf, or what `nginx -T` prints.
    Nginx,
    /// Perdition: perdition.conf with its popmap.
    Perdition,
    /// Dovecot as a proxy, 2.3 or 2.4: what `doveconf -nP` prints, with passwd-files.
    Dovecot,
}

impl Format {
    /// All of them, with what they are called.
    pub const ALL: [(&'static str, Self); 4] = [
        ("imapproxy", Self::Imapproxy),
        ("nginx", Self::Nginx),
        ("perdition", Self::Perdition),
        ("dovecot", Self::Dovecot),
    ];

    /// Whose this text looks like.
    #[must_use]
    pub fn of(conf: &str) -> Option<Self> {
        let lines = || conf.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
        let has = |words: &[&str]| {
            let first = |line: &str| line.split([' ', '\t', '=', '{']).next().unwrap_or_default().to_ascii_lowercase();
            lines().any(|line| words.contains(&first(line).as_str()))
        };
        // Of each, what the others have not.
        let words: [(_, &[_]); 4] = [
            (Self::Imapproxy, &["server_hostname"]),
            (Self::Dovecot, &["passdb"]),
            (Self::Nginx, &["mail", "auth_http"]),
            (Self::Perdition, &["map_library", "map_library_opt", "outgoing_server", "outgoing_port", "ssl_mode"]),
        ];
        words.into_iter().find(|(_, words)| has(words)).map(|(format, _)| format)
    }
}

/// What is to be imported.
pub struct Source<'s> {
    /// The configuration.
    pub conf: &'s str,
    /// What the first line calls it.
    pub name: &'s str,
    /// The file with the accounts (a popmap, a passwd-file), where it is not where the configuration says.
    pub accounts: Option<&'s Path>,
    /// How files are read that it names.
    pub read: &'s dyn Fn(&Path) -> io::Result<String>,
    /// Where [`Imported::accounts`] will be.
    pub map: &'s str,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The configuration.
    pub toml: String,
    /// The file that it names, with a line for each account (docs/routing.md).
    pub accounts: Option<String>,
    /// There may be a secret in the configuration (the URL of a service): nobody else is to read it.
    pub is_private: bool,
}

/// Why a file cannot be imported.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ImportError {
    /// The one key that must be there.
    #[error("no server_hostname: this is not up-imapproxy's configuration, or an unfinished one")]
    NoServer,
    /// It looks like nobody's.
    #[error("whose configuration is it? Write --from with one of imapproxy, nginx, perdition, dovecot")]
    Unknown,
    /// There is nothing in it that could be imported.
    #[error("{0}")]
    Nothing(&'static str),
    /// It cannot be read.
    #[error("line {line}: {what}")]
    Syntax {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A value that cannot be taken over, and is needed.
    #[error("line {line}: {key} {value}: write {expected}")]
    Value {
        /// The line, from 1.
        line: usize,
        /// The keyword.
        key: String,
        /// What follows it.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Makes an imapool.toml of another proxy's configuration. What has no counterpart is listed in comments. No secret of
/// the file is taken over.
///
/// # Errors
/// See [`ImportError`].
pub fn import(format: Option<Format>, source: &Source<'_>) -> Result<Imported, ImportError> {
    match format.or_else(|| Format::of(source.conf)).ok_or(ImportError::Unknown)? {
        Format::Imapproxy => imapproxy::import(source),
        Format::Nginx => nginx::import(source),
        Format::Perdition => perdition::import(source),
        Format::Dovecot => dovecot::import(source),
    }
}

/// `key value`, in a file of such lines.
#[derive(Debug)]
struct Setting {
    line: usize,
    key: String,
    value: String,
}

impl Setting {
    fn error(&self, expected: &'static str) -> ImportError {
        ImportError::Value { line: self.line, key: self.key.clone(), value: self.value.clone(), expected }
    }
}

/// Lines that say anything, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = (1..).zip(text.lines().map(str::trim));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The last one counts, in each of these languages.
fn last<'s>(settings: &'s [Setting], key: &str) -> Option<&'s Setting> {
    settings.iter().rev().find(|setting| setting.key == key)
}

/// The names which a services file has for the two ports of IMAP are taken too.
fn port_of(text: &str) -> Option<u16> {
    match text {
        "imap" | "imap2" | "imap4" => Some(143),
        "imaps" => Some(993),
        number => number.parse().ok(),
    }
}

/// A configuration, or a file that it names; what is no UTF-8 in it is replaced.
///
/// # Errors
/// What the system says, or that it is no file, or too long.
pub fn read(path: &Path) -> io::Result<String> {
    let octets = crate::files::read(path, crate::files::FOREIGN)?;
    Ok(String::from_utf8_lossy(&octets).into_owned())
}

#[cfg(test)]
mod tests;
