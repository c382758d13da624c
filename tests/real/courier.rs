//! A private Courier-IMAP 5.2, of Debian 13.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::User;

use crate::accounts::{Accounts, password_of};
use crate::debian13;
use crate::process::{Group, free_port};
use crate::server::{Kind, Options, Server, await_greeting, server_folder};

const AUTHDAEMON: &str = "authmodulelist=\"authuserdb\"\nauthmodulelistorig=\"authuserdb\"\ndaemons=4\n\
                          authdaemonvar=/run/courier/authdaemon\nDEBUG_LOGIN=0\nDEFAULTOPTIONS=\"\"\nLOGGEROPTS=\"\"\n";

/// Its configuration has one place only, which is this test's in what it sees of the file system.
const FIRST: &str = "mount --bind \"$FOLDER/courier\" \"$ROOT/etc/courier\"";

/// The daemon that checks passwords ends with the group.
const RUN: &str = r#"
mkdir -p /run/courier/authdaemon
makeuserdb
/usr/lib/courier/courier-authlib/authdaemond &
export IMAP_CAPABILITY="IMAP4rev1 UIDPLUS CHILDREN NAMESPACE THREAD=ORDEREDSUBJECT THREAD=REFERENCES SORT QUOTA IDLE"
export IMAP_KEYWORDS=1 IMAP_ACL=1 IMAP_IDLE_TIMEOUT=5 IMAP_MAILBOX_SANITY_CHECK=1 IMAP_USELOCKS=1 IMAP_ENHANCEDIDLE=0
export MAILDIRPATH=Maildir AUTHMODULES=authdaemon PROTOCOL=imap
exec couriertcpd -address=127.0.0.1 -maxprocs=400 -maxperip=400 -nodnslookup "$PORT" \
    /usr/lib/courier/courier/imaplogin /usr/bin/imapd Maildir
"#;

/// Starts one; `None` (after saying so) if it is not installed.
pub(crate) async fn start(options: &Options) -> Option<Server> {
    let root = debian13::root_with("usr/lib/courier/courier/imaplogin", "Courier-IMAP 5.2")?;
    let mut last_log = String::new();
    for _attempt in 0..3 {
        let folder = server_folder(options);
        let address = free_port();
        prepare(folder.path(), &options.accounts);
        let mut command = debian13::command(&root, FIRST, "sh");
        command.args(["-euc", RUN]).env("FOLDER", folder.path()).env("PORT", address.port().to_string());
        let mut processes = Group::spawn(&mut command, &folder.path().join("output")).expect("unshare can be run");
        let up = await_greeting(&mut processes, address).await;
        let server = Server { kind: Kind::Courier, address, tls_address: None, processes, folder };
        if up {
            return Some(server);
        }
        last_log = server.log();
    }
    panic!("Courier does not start:\n{last_log}");
}

/// The password file, and an empty maildir for each account.
fn prepare(folder: &Path, accounts: &Accounts) {
    let owner = User::from_name("mail").expect("the user database can be read").expect("the user mail exists");
    let configuration = folder.join("courier");
    std::fs::create_dir(&configuration).expect("a fresh folder");
    std::fs::write(configuration.join("authdaemonrc"), AUTHDAEMON).expect("write");
    let users = accounts.names();
    assert!(users.iter().all(|user| accounts.accepts(user, &password_of(user))), "passwords of another kind");
    let mut userdb = String::new();
    for (user, hash) in users.iter().zip(hashes(&users)) {
        let home = folder.join("mail").join(user);
        let maildir = home.join("Maildir");
        for name in ["cur", "new", "tmp"] {
            std::fs::create_dir_all(maildir.join(name)).expect("a fresh folder");
        }
        for path in [home.clone(), maildir.clone(), maildir.join("cur"), maildir.join("new"), maildir.join("tmp")] {
            chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may");
        }
        userdb += &format!(
            "{user}\tuid={}|gid={}|home={}|shell=/bin/sh|systempw={hash}\n",
            owner.uid,
            owner.gid,
            home.display()
        );
    }
    let file = configuration.join("userdb");
    std::fs::write(&file, userdb).expect("write");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).expect("our file");
}

/// Courier knows passwords by their hashes only.
fn hashes(users: &[String]) -> Vec<String> {
    let mut openssl = Command::new("openssl")
        .args(["passwd", "-1", "-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl can be run");
    let mut input = openssl.stdin.take().expect("a pipe");
    let passwords: String = users.iter().map(|user| password_of(user) + "\n").collect();
    // By a thread, since openssl answers before it has read all.
    let writer = std::thread::spawn(move || input.write_all(passwords.as_bytes()));
    let output = openssl.wait_with_output().expect("openssl ends");
    writer.join().expect("no panic").expect("openssl reads all");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
