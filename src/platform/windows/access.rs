//! Who may read and write the service's files, by icacls. Groups are named by their identifiers (SID), since their
//! names are in the system's language.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::paths;

/// Why a folder is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Something could not be asked or done.
    #[error("cannot prepare {}: {error}; run this as an administrator", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A folder is a link to another, which is nobody's to close.
    #[error("{} is a link: remove it, and make a folder", path.display())]
    Link {
        /// Which.
        path: PathBuf,
    },
    /// Somebody could replace it, and have the passwords of all who log in.
    #[error(
        "others than administrators may write to {path}: put it into a folder such as C:\\Program Files\\imapool, or \
         take that from them: icacls \"{path}\" /inheritance:d /remove:g *{group}",
        path = path.display()
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// The group that may.
        group: &'static str,
    },
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AccessError {
    move |error| AccessError::Io { path: path.to_owned(), error }
}

/// Has the folder of the configuration and that of the log belong to administrators. The service may read the one and
/// write to the other, and nobody else may do either, whoever made them, and what is in them.
///
/// # Errors
/// See [`AccessError`].
pub(super) fn close_folders(service: &str) -> Result<(), AccessError> {
    const SYSTEM: &str = "*S-1-5-18:(OI)(CI)F";
    const ADMINISTRATORS: &str = "*S-1-5-32-544:(OI)(CI)F";
    const OWNER: &str = "*S-1-5-32-544";
    let (folder, logs) = (paths::folder(), paths::logs());
    let sid = sid_of_service(service);
    let (reads, writes) = (format!("*{sid}:(OI)(CI)RX"), format!("*{sid}:(OI)(CI)M"));
    for path in [&folder, &logs] {
        make(path)?;
        // An owner may always change who else may do what.
        icacls(path, &["/setowner", OWNER, "/L"])?;
        icacls(path, &["/reset", "/L"])?;
    }
    icacls(&folder, &["/inheritance:r", "/grant:r", SYSTEM, "/grant:r", ADMINISTRATORS, "/grant:r", &reads])?;
    // What is in it, too. The folder of the log is, at least.
    let all = folder.join("*");
    icacls(&all, &["/setowner", OWNER, "/T", "/L"])?;
    icacls(&all, &["/reset", "/T", "/L"])?;
    icacls(&logs, &["/grant", &writes])
}

/// A folder, and no link to another.
fn make(path: &Path) -> Result<(), AccessError> {
    fs::create_dir_all(path).map_err(failed(path))?;
    let found = fs::symlink_metadata(path).map_err(failed(path))?;
    if found.is_symlink() { Err(AccessError::Link { path: path.to_owned() }) } else { Ok(()) }
}

fn icacls<S: AsRef<OsStr>>(path: &Path, arguments: &[S]) -> Result<(), AccessError> {
    let mut icacls = paths::of_system("icacls.exe");
    let status = icacls.arg(path).args(arguments).arg("/Q").status().map_err(failed(path))?;
    let error = || failed(path)(io::Error::other(format!("icacls ended with {status}")));
    if status.success() { Ok(()) } else { Err(error()) }
}

/// Refuses what every user may write to, of these files and their folders. Gives those of which it is not known.
///
/// # Errors
/// [`AccessError::Open`]
pub(super) fn nobody_else_writes(files: &[&Path]) -> Result<Vec<PathBuf>, AccessError> {
    let mut unknown = Vec::new();
    for file in files {
        for path in [Some(*file), file.parent()].into_iter().flatten() {
            match list(path).as_deref().map(group_that_may_write) {
                None => unknown.push(path.to_owned()),
                Some(None) => {}
                Some(Some(group)) => return Err(AccessError::Open { path: path.to_owned(), group }),
            }
        }
    }
    Ok(unknown)
}

/// Who may do what with a file, in the system's notation for it (SDDL). It is written to a file, in a folder that is
/// closed already.
fn list(path: &Path) -> Option<String> {
    let saved = paths::folder().join("access.tmp");
    let save: [&OsStr; 2] = ["/save".as_ref(), saved.as_os_str()];
    let said = icacls(path, &save).ok().and_then(|()| fs::read(&saved).ok());
    // It may not be there.
    let _ = fs::remove_file(&saved);
    let said = said?;
    let units = said.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let text: String = char::decode_utf16(units).map(|found| found.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    // A line with the name, then one with the list.
    text.lines().find(|line| line.starts_with("D:")).map(str::to_owned)
}

/// Groups that strangers are in, in the notation's two letters and by their identifiers: everybody, users, those who
/// logged in at all, here, by network or without a name, and guests.
const STRANGERS: [(&str, &str); 7] = [
    ("WD", "S-1-1-0"),
    ("BU", "S-1-5-32-545"),
    ("AU", "S-1-5-11"),
    ("IU", "S-1-5-4"),
    ("NU", "S-1-5-2"),
    ("AN", "S-1-5-7"),
    ("BG", "S-1-5-32-546"),
];
/// To write, to remove what is in a folder, to remove the thing itself, to change who may, to become the owner;
/// anything of it in general (to do all, and to write).
const WRITES: u32 = 0x2 | 0x40 | 0x1_0000 | 0x4_0000 | 0x8_0000 | 0x1000_0000 | 0x4000_0000;
/// In the notation's letters: those that have nothing of [`WRITES`].
const READS: [&str; 12] = ["CC", "LC", "SW", "RP", "WP", "LO", "CR", "RC", "GR", "GX", "FR", "FX"];

/// Which group of strangers may write, by a list in the system's notation: `D:PAI(A;OICI;FA;;;SY)(A;;0x1200a9;;;BU)`.
fn group_that_may_write(list: &str) -> Option<&'static str> {
    list.split('(').skip(1).find_map(|entry| {
        let mut fields = entry.split([';', ')']);
        let (kind, flags, rights) = (fields.next()?, fields.next()?, fields.next()?);
        let (_, _, group) = (fields.next()?, fields.next()?, fields.next()?);
        // Those that only what is made later will have are not for this one.
        let counts = matches!(kind, "A" | "XA") && !pairs(flags).any(|flag| flag == "IO");
        let (_, group) = STRANGERS.iter().find(|(letters, sid)| group == *letters || group == *sid)?;
        (counts && may_write(rights)).then_some(*group)
    })
}

fn pairs(letters: &str) -> impl Iterator<Item = &str> {
    (0..letters.len() / 2).filter_map(move |number| letters.get(2 * number..2 * number + 2))
}

/// By these rights, in letters or as a number; what is not understood is everything.
fn may_write(rights: &str) -> bool {
    if !rights.starts_with(|first: char| first.is_ascii_digit()) {
        return pairs(rights).any(|pair| !READS.contains(&pair));
    }
    let number = rights.strip_prefix("0x").map_or_else(|| rights.parse(), |digits| u32::from_str_radix(digits, 16));
    number.map_or(true, |rights| rights & WRITES != 0)
}

/// The identifier that the system makes of a service's name. The service has it under whatever account it runs.
fn sid_of_service(name: &str) -> String {
    let name: Vec<u8> = name.to_uppercase().encode_utf16().flat_map(u16::to_le_bytes).collect();
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &name);
    let parts = digest.as_ref().chunks_exact(4).map(|part| u32::from_le_bytes([part[0], part[1], part[2], part[3]]));
    parts.fold("S-1-5-80".to_owned(), |sid, part| format!("{sid}-{part}"))
}

/// An account by its name in every language: those of the system that need no password.
pub(super) fn account(named: &str) -> OsString {
    // CreateService knows them by these names, whatever the system's language calls them.
    let known = match named.to_lowercase().trim_start_matches(r"nt authority\") {
        "localservice" | "local service" | "s-1-5-19" => r"NT AUTHORITY\LocalService",
        "networkservice" | "network service" | "s-1-5-20" => r"NT AUTHORITY\NetworkService",
        _ => named,
    };
    known.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_known_by_the_systems_identifier_of_it() {
        let installer = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464";
        assert_eq!(sid_of_service("TrustedInstaller"), installer);
        assert_eq!(sid_of_service("trustedinstaller"), installer);
    }

    #[test]
    fn accounts_of_the_system_have_one_name() {
        for named in [r"NT AUTHORITY\LocalService", r"nt authority\local service", "LocalService", "S-1-5-19"] {
            assert_eq!(account(named), r"NT AUTHORITY\LocalService", "{named}");
        }
        assert_eq!(account("NetworkService"), r"NT AUTHORITY\NetworkService");
        assert_eq!(account(r"EXAMPLE\imapool$"), r"EXAMPLE\imapool$");
        assert_eq!(account(r"NT SERVICE\imapool"), r"NT SERVICE\imapool");
    }

    #[test]
    fn who_may_write_is_read_from_the_systems_list() {
        for (list, group) in [
            // C:\Program Files\imapool
            ("D:AI(A;OICIID;FA;;;SY)(A;OICIID;FA;;;BA)(A;OICIID;0x1200a9;;;BU)(A;OICIIOID;GA;;;CO)", None),
            // C:\imapool, as whoever makes a folder there leaves it.
            (
                "D:AI(A;OICIID;FA;;;BA)(A;OICIID;FA;;;SY)(A;OICIID;0x1200a9;;;BU)(A;ID;0x1301bf;;;AU)(A;OICIIOID;SDGXGWGR;;;AU)",
                Some("S-1-5-11"),
            ),
            // C:\ProgramData: who may make files in it can put a library there that a program of this folder loads.
            ("D:PAI(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;FRFX;;;BU)(A;CI;DCLCRPCR;;;BU)", Some("S-1-5-32-545")),
            ("D:P(A;;FA;;;S-1-1-0)", Some("S-1-1-0")),
            ("D:P(A;;GW;;;IU)", Some("S-1-5-4")),
            ("D:P(A;;WO;;;WD)", Some("S-1-1-0")),
            ("D:P(A;;131241;;;WD)", None),
            ("D:P(A;;1179926;;;WD)", Some("S-1-1-0")),
            // Rights that nobody knows yet.
            ("D:P(A;;ZZ;;;WD)", Some("S-1-1-0")),
            ("D:P(XA;;FW;;;BU;(@User.clearance > 5))", Some("S-1-5-32-545")),
            // What is denied, and what is for one user.
            ("D:P(D;;FA;;;WD)(A;;FA;;;S-1-5-21-1-2-3-1001)", None),
            // Only for what is made in it.
            ("D:P(A;OIIO;FA;;;WD)", None),
            ("D:", None),
            ("D:P(A;;FA", None),
        ] {
            assert_eq!(group_that_may_write(list), group, "{list}");
        }
    }

    #[test]
    fn a_link_is_no_folder_to_close() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        make(&real).unwrap();
        make(&real).unwrap();
        // Not everybody may make one, and Wine only says that it did.
        let made = std::os::windows::fs::symlink_dir(&real, &link);
        if made.is_ok() && fs::symlink_metadata(&link).is_ok_and(|link| link.is_symlink()) {
            assert!(matches!(make(&link), Err(AccessError::Link { .. })));
        }
    }
}
