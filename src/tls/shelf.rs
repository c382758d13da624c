//! Where further certificates lie: in files, and in folders as ACME clients and the users of HAProxy fill them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::TlsConfigError;
use super::pem::Pair;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) pairs: BTreeSet<Pair>,
    /// Folders that cannot be looked at, or not to their end. What was in them is unknown, not gone.
    pub(super) problems: Vec<TlsConfigError>,
    /// Folders with more than is taken.
    pub(super) surplus: Vec<TlsConfigError>,
}

/// How much is looked at of one listener.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    /// Of whatever is in its folders.
    entries: usize,
    /// Of its certificates.
    pairs: usize,
}

/// As a rule.
pub(super) const MOST: Most = Most { entries: 100_000, pairs: 20_000 };

/// Looks at each entry of `certificates`: a file, or a folder of files and of folders. Where there are too many, those
/// that are known go before others.
pub(super) fn find(most: Most, entries: &[PathBuf], is_known: &dyn Fn(&Pair) -> bool) -> Found {
    let mut search = Search { found: Found::default(), left: most.entries, is_full: false };
    for entry in entries {
        let too_many = |most, what| TlsConfigError::TooMany { path: entry.clone(), most, what };
        match fs::metadata(entry) {
            Ok(metadata) if metadata.is_dir() => search.folder(entry, true),
            Ok(_) => search.add(entry, &|beside| beside.exists()),
            Err(source) => search.found.problems.push(TlsConfigError::Read { path: entry.clone(), source }),
        }
        if std::mem::take(&mut search.is_full) {
            search.found.problems.push(too_many(most.entries, "files"));
        }
        if search.found.pairs.len() > most.pairs {
            search.found.shorten(entry, most.pairs, is_known);
            search.found.surplus.push(too_many(most.pairs, "certificates"));
        }
    }
    search.found
}

impl Found {
    /// Whether this file with a chain is there, whatever file its key is in.
    pub(super) fn has(&self, certificate: &Path) -> bool {
        let first = Pair::new(certificate, Path::new(""));
        self.pairs.range(first..).next().is_some_and(|pair| pair.certificate == certificate)
    }

    /// Leaves so many, at the cost of this entry.
    fn shorten(&mut self, entry: &Path, most: usize, is_known: &dyn Fn(&Pair) -> bool) {
        let pairs = std::mem::take(&mut self.pairs);
        let (mut ours, others): (Vec<_>, Vec<_>) =
            pairs.into_iter().partition(|pair| pair.certificate.starts_with(entry));
        self.pairs = others.into_iter().collect();
        ours.sort_by_key(|pair| !is_known(pair));
        ours.truncate(most.saturating_sub(self.pairs.len()));
        self.pairs.extend(ours);
    }
}

struct Search {
    found: Found,
    /// How many entries of folders may still be looked at.
    left: usize,
    /// There were more.
    is_full: bool,
}

impl Search {
    /// `outer`: those in it are looked at, too.
    fn folder(&mut self, folder: &Path, outer: bool) {
        let (files, folders) = match self.list(folder) {
            Ok(listed) => listed,
            Err(problem) => return self.found.problems.push(problem),
        };
        let is_partial = self.is_full;
        let is_there = |path: &Path| files.contains(path) || (is_partial && path.exists());
        // A folder of certbot's or dehydrated's: cert.pem and chain.pem beside it are parts of it.
        let whole = folder.join("fullchain.pem");
        if is_there(&whole) && key_of(&whole, &is_there).is_some() {
            self.add(&whole, &is_there);
        } else {
            for file in files.iter().filter(|file| is_certificate(file) && !is_key(file, &files)) {
                self.add(file, &is_there);
            }
        }
        if outer {
            for folder in folders {
                if !self.is_full {
                    self.folder(&folder, false);
                }
            }
        }
    }

    fn add(&mut self, certificate: &Path, is_there: &dyn Fn(&Path) -> bool) {
        let private_key = key_of(certificate, is_there).unwrap_or_else(|| certificate.into());
        self.found.pairs.insert(Pair { certificate: certificate.into(), private_key });
    }

    /// Its files and folders, less what is hidden (and where Kubernetes keeps what it links to).
    fn list(&mut self, folder: &Path) -> Result<(BTreeSet<PathBuf>, BTreeSet<PathBuf>), TlsConfigError> {
        let unreadable = |source| TlsConfigError::Read { path: folder.into(), source };
        let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Some(left) = self.left.checked_sub(1) else {
                self.is_full = true;
                break;
            };
            self.left = left;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let kind = entry.file_type().map_err(unreadable)?;
            let path = entry.path();
            let is_folder = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
            if is_folder {
                folders.insert(path)
            } else {
                files.insert(path)
            };
        }
        Ok((files, folders))
    }
}

fn text(part: Option<&OsStr>) -> &str {
    part.and_then(OsStr::to_str).unwrap_or_default()
}

/// The file beside it that has its key; `None`: there is none, the key is in the same file.
fn key_of(certificate: &Path, is_there: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let (name, stem) = (text(certificate.file_name()), text(certificate.file_stem()));
    let names = match name {
        "fullchain.pem" => vec!["privkey.pem".to_owned(), "key.pem".to_owned()],
        _ => vec![format!("{stem}.key"), format!("{name}.key"), format!("{stem}-key.pem")],
    };
    names.into_iter().map(|name| certificate.with_file_name(name)).find(|path| is_there(path))
}

/// Whether it is called like a file with a certificate.
fn is_certificate(file: &Path) -> bool {
    // `.pem.rsa`: HAProxy's, for several keys of one name.
    [".pem", ".crt", ".pem.rsa", ".pem.ecdsa"].iter().any(|ending| text(file.file_name()).ends_with(ending))
}

/// Whether it is the key of another one: `NAME-key.pem`.
fn is_key(file: &Path, files: &BTreeSet<PathBuf>) -> bool {
    let of = text(file.file_name()).strip_suffix("-key.pem").map(|name| file.with_file_name(format!("{name}.pem")));
    of.is_some_and(|certificate| files.contains(&certificate))
}

/// Whether it is called like a part of one that lies beside it (a chain, a key, an authority), as ACME clients lay them
/// down: what is in it need not be a certificate with its key.
pub(super) fn is_part(pair: &Pair) -> bool {
    let stem = text(pair.certificate.file_stem());
    let names = ["ca", "cacert", "cert", "chain", "dhparam", "dhparams", "key", "privkey"];
    let endings = [".issuer", ".chain", ".key", "-key", "-chain", "-ca"];
    pair.certificate == pair.private_key
        && (names.contains(&stem) || endings.iter().any(|ending| stem.ends_with(ending)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn with(files: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for file in files {
                let path = folder.path().join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, "").unwrap();
            }
            Self(folder)
        }

        /// What is found: `certificate` or `certificate + key`.
        fn found(&self) -> Vec<String> {
            let found = find(MOST, &[self.0.path().to_owned()], &|_| false);
            assert!(found.problems.is_empty(), "{:?}", found.problems);
            let shown =
                |path: &Path| path.strip_prefix(self.0.path()).unwrap().display().to_string().replace('\\', "/");
            let pairs = found.pairs.iter().map(|pair| match pair.private_key == pair.certificate {
                true => shown(&pair.certificate),
                false => format!("{} + {}", shown(&pair.certificate), shown(&pair.private_key)),
            });
            pairs.collect()
        }
    }

    #[track_caller]
    fn finds(files: &[&str], wanted: &[&str]) {
        assert_eq!(Folder::with(files).found(), wanted);
    }

    #[test]
    fn what_others_lay_down_is_found_and_nothing_besides() {
        // HAProxy.
        finds(
            &[
                "a.pem",
                "b.pem",
                "b.pem.key",
                "b.pem.ocsp",
                "b.pem.issuer",
                "c.pem.rsa",
                "c.pem.ecdsa",
                ".d.pem",
                "README",
            ],
            &["a.pem", "b.pem + b.pem.key", "c.pem.ecdsa", "c.pem.rsa"],
        );
        // lego.
        finds(
            &["_.example.org.crt", "_.example.org.issuer.crt", "_.example.org.json", "_.example.org.key"],
            &["_.example.org.crt + _.example.org.key", "_.example.org.issuer.crt"],
        );
        // certbot, and dehydrated, which keeps the old ones.
        finds(
            &["README", "a/cert.pem", "a/chain.pem", "a/fullchain.pem", "a/privkey.pem", "a/README"],
            &["a/fullchain.pem + a/privkey.pem"],
        );
        finds(
            &[
                "a/cert-17.pem",
                "a/fullchain-17.pem",
                "a/privkey-17.pem",
                "a/fullchain.pem",
                "a/privkey.pem",
                "a/cert.csr",
            ],
            &["a/fullchain.pem + a/privkey.pem"],
        );
        // Caddy.
        finds(
            &["a.example/a.example.crt", "a.example/a.example.key", "a.example/a.example.json"],
            &["a.example/a.example.crt + a.example/a.example.key"],
        );
        // Kubernetes, mkcert.
        finds(&["tls.crt", "tls.key", "ca.crt", "..data/tls.crt"], &["ca.crt", "tls.crt + tls.key"]);
        finds(&["a.example.pem", "a.example-key.pem"], &["a.example.pem + a.example-key.pem"]);
    }

    #[test]
    fn what_is_called_like_a_part_need_have_no_key() {
        for (file, part) in [
            ("ca.crt", true),
            ("cert.pem", true),
            ("_.example.org.issuer.crt", true),
            ("example.ca.pem", false),
            ("cert.example.pem", false),
        ] {
            assert_eq!(is_part(&Pair::new(file.as_ref(), file.as_ref())), part, "{file}");
        }
        assert!(!is_part(&Pair::new("cert.pem".as_ref(), "cert.key".as_ref())));
    }

    #[test]
    fn folders_in_folders_are_looked_at_once_and_no_deeper() {
        finds(&["a/b/c.pem", "a/d.pem"], &["a/d.pem"]);
    }

    #[test]
    fn a_file_is_what_it_is_called_and_what_is_missing_is_told() {
        let folder = Folder::with(&["odd", "odd.key", "live/fullchain.pem", "live/privkey.pem"]);
        let path = |name: &str| folder.0.path().join(name);
        let found = find(MOST, &[path("odd"), path("none"), path("live/fullchain.pem")], &|_| false);
        let keys: Vec<_> = found.pairs.iter().map(|pair| pair.private_key.clone()).collect();
        assert_eq!(keys, [path("live/privkey.pem"), path("odd.key")]);
        assert!(matches!(&found.problems[..], [TlsConfigError::Read { path: none, .. }] if *none == path("none")));
    }

    /// What there is room for is taken, what is known first; the rest is told of.
    #[test]
    fn of_too_much_as_much_is_taken_as_there_is_room_for() {
        let folder = Folder::with(&["a.pem", "b.pem", "c.pem", "d/e.pem"]);
        let path = |name: &str| folder.0.path().join(name);
        let is_known = |pair: &Pair| [path("b.pem"), path("d/e.pem")].contains(&pair.certificate);
        let look = |entries, pairs| find(Most { entries, pairs }, &[folder.0.path().to_owned()], &is_known);
        let found = look(5, 4);
        assert_eq!((found.pairs.len(), found.problems.len(), found.surplus.len()), (4, 0, 0), "{found:?}");
        let found = look(5, 3);
        let names: Vec<_> = found.pairs.iter().map(|pair| pair.certificate.clone()).collect();
        assert_eq!(names, [path("a.pem"), path("b.pem"), path("d/e.pem")]);
        assert!(matches!(&found.surplus[..], [TlsConfigError::TooMany { most: 3, .. }]), "{found:?}");
        assert!(found.problems.is_empty(), "all was seen");
        let found = look(2, 9);
        assert!((1..=2).contains(&found.pairs.len()), "{found:?}");
        assert!(matches!(&found.problems[..], [TlsConfigError::TooMany { most: 2, .. }]), "{found:?}");
    }

    /// Which of them come first when a folder is listed is left to chance.
    #[test]
    fn a_key_that_was_not_listed_is_found_all_the_same() {
        let folder = Folder::with(&["a.crt", "a.key", "b.crt", "b.key"]);
        for entries in 1..4 {
            let found = find(Most { entries, pairs: 9 }, &[folder.0.path().to_owned()], &|_| false);
            assert!(found.pairs.iter().all(|pair| pair.private_key != pair.certificate), "{found:?}");
        }
    }
}
