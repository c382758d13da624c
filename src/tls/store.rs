//! The certificates that are shown at one place, which can be exchanged while connections are being accepted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::TlsConfigError;
use super::names::ByName;
use super::pem::{Certificate, Pair, Stamps};
use super::shelf::{self, Found};
use crate::files;

/// One certificate with its key, and, for a listener, further ones by their names.
pub struct CertificateStore {
    pair: Pair,
    /// Files and folders of further ones.
    further: Vec<PathBuf>,
    current: ArcSwap<Shown>,
    tried: Mutex<Tried>,
    left_out: Vec<TlsConfigError>,
}

/// What is shown.
struct Shown {
    /// To whom asks for no name, or for one that is not known.
    default: Arc<Certificate>,
    further: Further,
    by_name: ByName,
}

/// By the file with the chain.
type Further = BTreeMap<PathBuf, Arc<Certificate>>;

/// The files as they were when they were last tried, good or bad.
#[derive(Debug, Default)]
struct Tried {
    default: Stamps,
    further: HashMap<Pair, Stamps>,
    /// What was told of folders, which is not told again while it is so.
    told: Vec<String>,
}

/// What came of a look at the files.
#[derive(Debug, Default)]
pub struct Renewal {
    /// Files that were loaded, and are used from now on.
    pub taken: Vec<PathBuf>,
    /// Files that are gone, whose certificates are no longer shown.
    pub gone: Vec<PathBuf>,
    /// What cannot be loaded. The old one is kept, where there was one.
    pub problems: Vec<TlsConfigError>,
}

impl Renewal {
    /// Nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.gone.is_empty() && self.problems.is_empty()
    }
}

impl Shown {
    fn new(default: Arc<Certificate>, further: Further) -> Self {
        let by_name = ByName::of(further.values().chain(std::iter::once(&default)));
        Self { default, further, by_name }
    }
}

impl CertificateStore {
    /// Loads both PEM files and checks that they belong together.
    ///
    /// # Errors
    /// Names the file that is at fault.
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, TlsConfigError> {
        Self::after(certificate, private_key, &[], None)
    }

    /// As [`CertificateStore::load`], with further ones in these files and folders. What an earlier one has loaded from
    /// the same files is not read again, nor given up where it has become wrong.
    ///
    /// # Errors
    /// Where something that is named is wrong. What is wrong in a folder is left out.
    pub fn after(
        certificate: &Path,
        private_key: &Path,
        further: &[PathBuf],
        earlier: Option<&Self>,
    ) -> Result<Self, TlsConfigError> {
        let pair = Pair::new(certificate, private_key);
        let default = Arc::new(Certificate::load(&pair, files::PEM)?);
        let mut tried = Tried { default: default.stamps, ..Tried::default() };
        let earlier = earlier.map(|earlier| earlier.current.load_full());
        let none = Further::new();
        let known = earlier.as_ref().map_or(&none, |shown| &shown.further);
        let found = shelf::find(shelf::MOST, further, &|pair| known.contains_key(&pair.certificate));
        let (loaded, look) = look(further, found, known, &mut tried);
        let pairs_named = tried.further.keys().filter(|pair| further.contains(&pair.certificate));
        let named: HashSet<&Path> =
            further.iter().chain(pairs_named.map(|pair| &pair.private_key)).map(PathBuf::as_path).collect();
        let is_refused = |problem: &TlsConfigError| {
            let is_named = problem.path().is_some_and(|path| named.contains(path));
            is_named && !matches!(problem, TlsConfigError::TooMany { .. })
        };
        let (refused, mut left_out): (Vec<_>, Vec<_>) = look.problems.into_iter().partition(is_refused);
        if let Some(problem) = refused.into_iter().next() {
            return Err(problem);
        }
        left_out.extend(without_any(further, &loaded, &left_out));
        let current = ArcSwap::from_pointee(Shown::new(default, loaded));
        Ok(Self { pair, further: further.to_vec(), current, tried: Mutex::new(tried), left_out })
    }

    /// What was wrong in folders when it was made.
    #[must_use]
    pub fn left_out(&self) -> &[TlsConfigError] {
        &self.left_out
    }

    /// When the first of its certificates expires, in seconds since the Unix epoch.
    #[must_use]
    pub fn expires(&self) -> Option<i64> {
        let shown = self.current.load();
        shown.further.values().filter_map(|it| it.expires).chain(shown.default.expires).min()
    }

    /// All that it has, that for everybody first.
    pub(crate) fn all(&self) -> Vec<Arc<Certificate>> {
        let shown = self.current.load();
        std::iter::once(&shown.default).chain(shown.further.values()).cloned().collect()
    }

    /// Whether both are made of the same files, and these were the same when they were last looked at.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        let tried = |it: &Self| {
            let tried = it.tried.lock();
            (tried.default, tried.further.clone())
        };
        (&self.pair, &self.further) == (&other.pair, &other.further) && tried(self) == tried(other)
    }

    /// Loads what has changed; handshakes from now on use it. Blocks for a look at each file.
    ///
    /// What cannot be loaded is told once, and again when the file has changed once more: a half-written pair is
    /// repaired by its other half.
    #[must_use]
    pub fn renew(&self) -> Renewal {
        let mut tried = self.tried.lock();
        let shown = self.current.load_full();
        let is_known = |pair: &Pair| shown.further.contains_key(&pair.certificate);
        let mut found = shelf::find(shelf::MOST, &self.further, &is_known);
        found.problems.extend(emptied(&self.further, &found, &shown.further));
        let (further, mut renewal) = look(&self.further, found, &shown.further, &mut tried);
        let mut default = Arc::clone(&shown.default);
        let stamps = self.pair.stamps();
        if tried.default != stamps {
            tried.default = stamps;
            match Certificate::load(&self.pair, files::PEM) {
                Ok(loaded) => {
                    renewal.taken.insert(0, self.pair.certificate.clone());
                    default = Arc::new(loaded);
                }
                Err(problem) => renewal.problems.insert(0, problem),
            }
        }
        if !(renewal.taken.is_empty() && renewal.gone.is_empty()) {
            self.current.store(Arc::new(Shown::new(default, further)));
        }
        renewal
    }
}

/// Folders that had something in them, and have nothing any more: something may not be mounted.
fn emptied(entries: &[PathBuf], found: &Found, before: &Further) -> Vec<TlsConfigError> {
    let is_emptied = |entry: &&PathBuf| {
        before.keys().any(|file| file.starts_with(entry))
            && !found.pairs.iter().any(|pair| pair.certificate.starts_with(entry))
            && entry.is_dir()
    };
    entries.iter().filter(is_emptied).map(|entry| TlsConfigError::Emptied { path: entry.clone() }).collect()
}

/// Folders in which nothing was found that could be shown, and nothing that is wrong either.
fn without_any(entries: &[PathBuf], loaded: &Further, problems: &[TlsConfigError]) -> Vec<TlsConfigError> {
    let has_any = |entry: &Path| {
        loaded.keys().any(|file| file.starts_with(entry))
            || problems.iter().any(|problem| problem.path().is_some_and(|path| path.starts_with(entry)))
    };
    let bare = entries.iter().filter(|entry| entry.is_dir() && !has_any(entry));
    bare.map(|entry| TlsConfigError::Nothing { path: entry.clone() }).collect()
}

/// What is still shown of what is not found any more. What is unknown is not gone; nor is a pair of which one file is
/// there: both are exchanged one after the other.
fn kept(found: &mut Found, before: &Further, renewal: &mut Renewal) -> Further {
    let mut kept = Further::new();
    for (file, certificate) in before {
        if found.has(file) {
            // With the same key or another: see `look`.
            continue;
        }
        let private_key = &certificate.pair.private_key;
        let is_there = |problem: &TlsConfigError| problem.path().is_some_and(|path| file.starts_with(path));
        if found.problems.iter().any(is_there) {
            kept.insert(file.clone(), Arc::clone(certificate));
        } else if private_key != file && private_key.exists() {
            found.surplus.push(TlsConfigError::Read { path: file.clone(), source: io::ErrorKind::NotFound.into() });
            kept.insert(file.clone(), Arc::clone(certificate));
        } else {
            renewal.gone.push(file.clone());
        }
    }
    kept
}

/// Loads those of the files that were found which have changed.
fn look(entries: &[PathBuf], mut found: Found, before: &Further, tried: &mut Tried) -> (Further, Renewal) {
    let mut renewal = Renewal::default();
    let mut now = kept(&mut found, before, &mut renewal);
    found.problems.append(&mut found.surplus);
    let told: Vec<_> = found.problems.iter().map(ToString::to_string).collect();
    let news = found.problems.into_iter().zip(&told).filter(|(_, text)| !tried.told.contains(text));
    renewal.problems.extend(news.map(|(problem, _)| problem));
    tried.told = told;
    let mut stamps_now = HashMap::new();
    for pair in found.pairs {
        // What was shown with another key serves on until this one can be loaded.
        let (stamps, mut certificate) = (pair.stamps(), before.get(&pair.certificate).cloned());
        let is_known = certificate.as_ref().is_some_and(|known| known.stamps == stamps);
        let is_part = !entries.contains(&pair.certificate) && shelf::is_part(&pair);
        if !is_known && tried.further.get(&pair) != Some(&stamps) {
            match named(&pair) {
                Ok(loaded) => {
                    renewal.taken.push(pair.certificate.clone());
                    certificate = Some(Arc::new(loaded));
                }
                Err(TlsConfigError::NoKey { .. } | TlsConfigError::NoCertificate { .. }) if is_part => {}
                Err(problem) => renewal.problems.push(problem),
            }
        }
        now.extend(certificate.map(|certificate| (pair.certificate.clone(), certificate)));
        stamps_now.insert(pair, stamps);
    }
    tried.further = stamps_now;
    (now, renewal)
}

/// One that somebody can ask for.
fn named(pair: &Pair) -> Result<Certificate, TlsConfigError> {
    let certificate = Certificate::load(pair, files::CERTIFICATE)?;
    if certificate.names.is_empty() {
        return Err(TlsConfigError::NoName { path: pair.certificate.clone() });
    }
    Ok(certificate)
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = self.current.load();
        let schemes = hello.signature_schemes();
        let of_name = hello.server_name().and_then(|name| shown.by_name.find(name, schemes, now()));
        Some(of_name.unwrap_or_else(|| Arc::clone(&shown.default.key)))
    }
}

/// What a backend is shown that asks for a certificate.
impl ResolvesClientCert for CertificateStore {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let key = Arc::clone(&self.current.load().default.key);
        key.key.choose_scheme(schemes).is_some().then_some(key)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Seconds since the Unix epoch.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore")
            .field("pair", &self.pair)
            .field("further", &self.further)
            .finish_non_exhaustive()
    }
}
