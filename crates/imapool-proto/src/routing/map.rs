//! A file that says where accounts go, a line each: `key target [login]`.
//!
//! The key is a name, `@` and a domain, or `@*.` and a domain. Of those that fit a name, the most exact counts. The
//! target is the name of a backend or of a group, or `-` for nobody. The login is what the backend is to know the user
//! by. Spaces and tabs separate. Empty lines, and lines that begin with `#`, say nothing.

use std::hash::{BuildHasher as _, Hasher as _};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::name::{Kind, Names, Pattern, domain_of};
use super::{By, Route, Target};

/// The longest line, in octets: two names of the longest kind, and room.
pub const LONGEST_LINE: usize = 4096;
/// The longest file, in octets: positions in it are kept in 32 bits.
pub const LONGEST: u64 = 1 << 30;
/// Different targets in one file.
const MOST_TARGETS: usize = u16::MAX as usize;

/// A file that was read. A line takes about 40 octets beside its own.
#[derive(Debug, Default)]
pub struct Map {
    /// Key and login of each entry, one behind the other.
    text: Vec<u8>,
    entries: HashTable<Entry>,
    targets: Vec<Target>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Where its key begins.
    at: u32,
    line: u32,
    key: u16,
    /// Empty: none.
    login: u16,
    target: u16,
    kind: Kind,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLine {
    /// It has one word, or more than three.
    #[error("it must have two words, or three: the key, the target, and what the user is to log in by")]
    Words,
    /// There is no such backend, and no such group.
    #[error("there is no backend and no group \"{0}\"")]
    Target(String),
    /// The key means no account.
    #[error("the key means no account: write a name, \"@\" and a domain, or \"@*.\" and a domain")]
    Key,
    /// Another line has the same key.
    #[error("line {0} has the same key")]
    Twice(u32),
    /// The key is not UTF-8.
    #[error("it is not UTF-8")]
    NotUtf8,
    /// It is longer than [`LONGEST_LINE`].
    #[error("it is longer than {LONGEST_LINE} octets")]
    TooLong,
    /// There is no room for more.
    #[error("the file is too long")]
    TooMuch,
}

impl Map {
    /// Takes the next line in, without its end. `number` counts from 1.
    ///
    /// # Errors
    /// See [`BadLine`]; the map is as it was.
    pub fn add(
        &mut self,
        number: u32,
        line: &[u8],
        names: &Names,
        target: impl FnOnce(&str) -> Option<Target>,
    ) -> Result<(), BadLine> {
        if line.len() > LONGEST_LINE {
            return Err(BadLine::TooLong);
        }
        let line = std::str::from_utf8(line).map_err(|_| BadLine::NotUtf8)?;
        let mut words = line.split_ascii_whitespace();
        let key = match words.next() {
            Some(key) if !key.starts_with('#') => key,
            _ => return Ok(()),
        };
        let (name, login) = (words.next().ok_or(BadLine::Words)?, words.next().unwrap_or_default());
        if words.next().is_some() {
            return Err(BadLine::Words);
        }
        let target = match name {
            "-" => Target::Nobody,
            name => target(name).ok_or_else(|| BadLine::Target(name.to_owned()))?,
        };
        let Pattern { kind, key } = Pattern::parse(key, names).map_err(|_| BadLine::Key)?;
        if let Some(earlier) = self.find(kind, &key) {
            return Err(BadLine::Twice(earlier.line));
        }
        self.insert(kind, &key, number, target, login)
    }

    fn insert(&mut self, kind: Kind, key: &[u8], line: u32, target: Target, login: &str) -> Result<(), BadLine> {
        let target = match self.targets.iter().position(|known| *known == target) {
            Some(place) => place,
            None if self.targets.len() == MOST_TARGETS => return Err(BadLine::TooMuch),
            None => {
                self.targets.push(target);
                self.targets.len() - 1
            }
        };
        let too_long = |_| BadLine::TooLong;
        let entry = Entry {
            at: u32::try_from(self.text.len()).map_err(|_| BadLine::TooMuch)?,
            line,
            key: u16::try_from(key.len()).map_err(too_long)?,
            login: u16::try_from(login.len()).map_err(too_long)?,
            target: u16::try_from(target).map_err(|_| BadLine::TooMuch)?,
            kind,
        };
        self.text.extend_from_slice(key);
        self.text.extend_from_slice(login.as_bytes());
        let text = &self.text;
        self.entries.insert_unique(hash(kind, key), entry, |entry| hash(entry.kind, entry.key(text)));
        Ok(())
    }

    /// What it says of the account of this key: by its name, else by its domain, else by the nearest of those above.
    /// `by`: what has led here.
    #[must_use]
    pub fn get(&self, key: &[u8], by: By) -> Option<Route<'_>> {
        let of_name = self.find(Kind::Name, key);
        let entry = of_name.or_else(|| {
            let domain = domain_of(key)?;
            let dots = domain.iter().enumerate().skip(2).filter(|(_, octet)| **octet == b'.');
            let mut above = dots.map(|(at, _)| self.find(Kind::Below, &domain[at..]));
            self.find(Kind::Domain, domain).or_else(|| above.find_map(|found| found))
        })?;
        let login = entry.login(&self.text);
        let (target, login) = (self.targets[usize::from(entry.target)], (!login.is_empty()).then_some(login));
        Some(Route { by, line: Some(entry.line), target, login })
    }

    fn find(&self, kind: Kind, key: &[u8]) -> Option<Entry> {
        let same = |entry: &Entry| entry.kind == kind && entry.key(&self.text) == key;
        self.entries.find(hash(kind, key), same).copied()
    }

    /// Gives back what was taken for more lines than there are.
    pub fn shrink(&mut self) {
        self.text.shrink_to_fit();
    }

    /// How many keys it has.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.entries.len()
    }

    /// Where its lines lead.
    #[must_use]
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
}

impl Entry {
    fn key<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let at = self.at as usize;
        &text[at..at + usize::from(self.key)]
    }

    fn login<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let at = self.at as usize + usize::from(self.key);
        &text[at..at + usize::from(self.login)]
    }
}

/// The operator writes the keys: nobody else can choose such as collide.
fn hash(kind: Kind, key: &[u8]) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u8(kind as u8);
    hasher.write(key);
    hasher.finish()
}
