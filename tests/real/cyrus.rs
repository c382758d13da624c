//! A private Cyrus: 3.6, from the system or from unpacked Debian packages, or 3.10, of Debian 13.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};

use crate::accounts::Accounts;
use crate::debian13;
use crate::process::{Group, free_port, skip};
use crate::server::{Kind, Options, Server, await_greeting, server_folder};

/// Where `imapd` and the others are below a root folder.
const BINARIES: &str = "usr/lib/cyrus/bin";

/// Starts one; `None` (after saying so) if Cyrus is not installed.
pub(crate) async fn start(kind: Kind, options: &Options) -> Option<Server> {
    let newer = kind == Kind::Cyrus310;
    let root = root(kind)?;
    let mut last_log = String::new();
    for _attempt in 0..3 {
        let folder = server_folder(options);
        let address = free_port();
        let owner = owner(newer);
        prepare(folder.path(), &binaries(&root, newer), address);
        check_passwords(&folder.path().join("auth"), options.accounts.clone()).expect("a socket in a fresh folder");
        give_to(folder.path(), &owner);
        let mut processes = run(kind, folder.path());
        let up = await_greeting(&mut processes, address).await;
        let server = Server { kind, address, tls_address: None, processes, folder };
        if up {
            return Some(server);
        }
        last_log = server.log();
    }
    panic!("Cyrus does not start:\n{last_log}");
}

/// Its processes, from the configuration in the folder.
pub(crate) fn run(kind: Kind, folder: &Path) -> Group {
    let newer = kind == Kind::Cyrus310;
    let root = root(kind).expect("it was there before");
    let master = binaries(&root, newer).join("master");
    let mut command = if newer { debian13::command(&root, "", &master) } else { Command::new(&master) };
    if !newer {
        command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
    }
    command
        .arg("-D")
        .args([Path::new("-C"), &folder.join("imapd.conf")])
        .args([Path::new("-M"), &folder.join("cyrus.conf")])
        .args([Path::new("-p"), &folder.join("master.pid")])
        .env("CYRUS_USER", &owner(newer).name);
    Group::spawn(&mut command, &folder.join("output")).expect("master can be run")
}

fn root(kind: Kind) -> Option<PathBuf> {
    match kind {
        Kind::Cyrus310 => debian13::root_with("usr/lib/cyrus/bin/master", "Cyrus 3.10"),
        _ => root_folder(),
    }
}

/// Where its programs are, as its own processes see it.
fn binaries(root: &Path, newer: bool) -> PathBuf {
    if newer { Path::new("/").join(BINARIES) } else { root.join(BINARIES) }
}

fn root_folder() -> Option<PathBuf> {
    let named = std::env::var_os("IMAPOOL_CYRUS_ROOT").map(PathBuf::from);
    let usual = ["/opt/imapool-test/cyrus", "/"].map(PathBuf::from);
    let root = named.into_iter().chain(usual).find(|root| root.join(BINARIES).join("master").is_file());
    if root.is_none() {
        skip("Cyrus (Debian: cyrus-imapd, or unpacked at IMAPOOL_CYRUS_ROOT)");
    }
    root
}

/// Whom Cyrus runs as: its processes refuse to serve as root. The user `mail` has one number in every Debian.
fn owner(newer: bool) -> User {
    let me = geteuid();
    let found = if newer {
        User::from_name("mail").ok().flatten()
    } else if me.is_root() {
        User::from_name("cyrus").ok().flatten().or_else(|| User::from_name("mail").ok().flatten())
    } else {
        User::from_uid(me).ok().flatten()
    };
    found.expect("the user cyrus or mail exists")
}

fn prepare(folder: &Path, binaries: &Path, address: SocketAddr) {
    for name in ["conf", "conf/socket", "spool", "run", "sieve", "tmp"] {
        std::fs::create_dir(folder.join(name)).expect("a fresh folder");
    }
    let (folder_text, binaries) = (folder.display(), binaries.display());
    let imapd = format!(
        "configdirectory: {folder_text}/conf\n\
         proc_path: {folder_text}/run/proc\n\
         mboxname_lockpath: {folder_text}/run/lock\n\
         temp_path: {folder_text}/tmp\n\
         defaultpartition: default\n\
         partition-default: {folder_text}/spool\n\
         sievedir: {folder_text}/sieve\n\
         altnamespace: yes\n\
         unixhierarchysep: yes\n\
         allowplaintext: yes\n\
         sasl_mech_list: PLAIN LOGIN\n\
         sasl_pwcheck_method: saslauthd\n\
         sasl_saslauthd_path: {folder_text}/auth\n\
         autocreate_quota: 1000000\n\
         autocreate_inbox_folders: Sent|Drafts\n\
         anyoneuseracl: yes\n\
         imapidlepoll: 1\n\
         timeout: 60\n\
         failedloginpause: 0\n\
         delete_mode: immediate\n\
         skiplist_unsafe: yes\n\
         syslog_prefix: cyrus\n",
    );
    std::fs::write(folder.join("imapd.conf"), imapd).expect("write");
    // The parser wants each section's brace at the end of a line. Only SERVICES are given -C by master.
    let cyrus = format!(
        "START {{\n recover cmd=\"{binaries}/ctl_cyrusdb -C {folder_text}/imapd.conf -r\"\n}}\n\
         SERVICES {{\n imap cmd=\"{binaries}/imapd -C {folder_text}/imapd.conf -U 1000\" \
         listen=\"{address}\" prefork=2 maxchild=400\n}}\n\
         DAEMON {{\n idled cmd=\"{binaries}/idled -C {folder_text}/imapd.conf\"\n}}\n",
    );
    std::fs::write(folder.join("cyrus.conf"), cyrus).expect("write");
}

/// Everything in the folder belongs to whom the server runs as.
fn give_to(folder: &Path, owner: &User) {
    if !geteuid().is_root() {
        return;
    }
    chown(folder, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may");
    for entry in std::fs::read_dir(folder).expect("our folder").flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            give_to(&entry.path(), owner);
        }
        chown(entry.path(), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may");
    }
}

/// Serves saslauthd's protocol: four counted strings (user, password, service, realm), answered by one. So no
/// user of this machine is needed, and a test can change a password. The thread ends when the process does.
fn check_passwords(socket: &Path, accounts: Accounts) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off in the middle is its own affair.
            let _ = answer(stream, &accounts);
        }
    });
    Ok(())
}

fn answer(mut stream: UnixStream, accounts: &Accounts) -> io::Result<()> {
    let mut fields = Vec::with_capacity(4);
    for _ in 0..4 {
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut field = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut field)?;
        fields.push(String::from_utf8_lossy(&field).into_owned());
    }
    let verdict: &[u8] = if accounts.accepts(&fields[0], &fields[1]) { b"\0\x02OK" } else { b"\0\x02NO" };
    stream.write_all(verdict)
}
