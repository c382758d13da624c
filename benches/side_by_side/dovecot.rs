//! Dovecot 2.3 in a folder of its own: as the real backend, and as a proxy.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::client::{Door, MESSAGES, PASSWORD, account};
use crate::process::{Server, find_program, first_line_of, free_address, output_of};

/// The scheme of the password hashes: what Dovecot itself takes by default (bcrypt, cost 5).
pub(crate) const PASSWORD_SCHEME: &str = "BLF-CRYPT";
/// Whose the mail is when the bench runs as root, for whom Dovecot serves no mail: the user nobody.
const NOBODY: u32 = 65534;

/// The program, if there is one whose configuration we can write.
pub(crate) fn find() -> Result<PathBuf> {
    let Some(program) = find_program(&["dovecot"]) else { bail!("not found on PATH") };
    let version = first_line_of(&program, "--version");
    if !version.starts_with("2.3.") {
        bail!("is Dovecot {version}, and this bench writes the configuration of 2.3 only");
    }
    Ok(program)
}

/// A Dovecot with mailboxes.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server,
}

/// Starts Dovecot with `accounts` users, each with ten messages in INBOX.
pub(crate) fn start_backend(program: &Path, folder: &Path, accounts: usize) -> Result<Backend> {
    let address = free_address()?;
    let user = User::current()?;
    make_mailboxes(folder, accounts, &user)?;
    let Some(doveadm) = find_program(&["doveadm"]) else { bail!("doveadm not found") };
    let hash = output_of(&doveadm, &["pw", "-s", PASSWORD_SCHEME, "-p", PASSWORD])?;
    let users: String = (0..accounts).map(|number| format!("{}:{hash}\n", account(number))).collect();
    fs::write(folder.join("users"), users)?;
    let mut config = common_config(folder, address, &user);
    let at = folder.display();
    let (uid, gid) = user.mail_ids();
    write!(
        config,
        "mail_location = maildir:{at}/mail/%u\n\
         first_valid_uid = 1\n\
         first_valid_gid = 1\n\
         mail_max_userip_connections = 100\n\
         passdb {{\n  driver = passwd-file\n  args = {at}/users\n}}\n\
         userdb {{\n  driver = static\n  args = uid={uid} gid={gid} home={at}/mail/%u\n}}\n"
    )?;
    let server = start(program, folder, &config, address)?;
    Ok(Backend { address, server })
}

/// Starts Dovecot as a proxy that sends every login on to `upstream`.
pub(crate) fn start_proxy(
    program: &Path,
    folder: &Path,
    address: SocketAddr,
    upstream: SocketAddr,
    sessions: usize,
) -> Result<Server> {
    let mut config = common_config(folder, address, &User::current()?);
    let (host, port) = (upstream.ip(), upstream.port());
    // The login processes carry all sessions themselves: Dovecot's "high-performance" mode, as its manual advises for
    // proxies.
    write!(
        config,
        "service imap-login {{\n  service_count = 0\n  process_min_avail = 2\n  client_limit = {}\n}}\n\
         passdb {{\n  driver = static\n  args = nopassword=y proxy=y host={host} port={port}\n}}\n",
        sessions * 2 + 2000,
    )?;
    start(program, folder, &config, address)
}

fn start(program: &Path, folder: &Path, config: &str, address: SocketAddr) -> Result<Server> {
    let file = folder.join("dovecot.conf");
    fs::write(&file, config)?;
    let log = folder.join("stderr.log");
    Server::start(Command::new(program).arg("-F").arg("-c").arg(&file), &log, &Door::plain(address))
}

fn common_config(folder: &Path, address: SocketAddr, user: &User) -> String {
    let at = folder.display();
    let mut config = format!(
        "protocols = imap\n\
         listen = {}\n\
         base_dir = {at}/run\n\
         state_dir = {at}/state\n\
         log_path = {at}/dovecot.log\n\
         ssl = no\n\
         disable_plaintext_auth = no\n\
         service imap-login {{\n  inet_listener imap {{\n    port = {}\n  }}\n  inet_listener imaps {{\n    port = 0\n  }}\n}}\n",
        address.ip(),
        address.port(),
    );
    if !user.is_root() {
        let (name, group) = (&user.name, &user.group);
        config += &format!(
            "default_internal_user = {name}\ndefault_internal_group = {group}\ndefault_login_user = {name}\n\
             service imap-login {{\n  chroot =\n}}\nservice anvil {{\n  chroot =\n}}\nservice stats {{\n  chroot =\n}}\n"
        );
    }
    config
}

fn make_mailboxes(folder: &Path, accounts: usize, user: &User) -> Result<()> {
    let own = |path: &Path| if user.is_root() { chown(path, Some(NOBODY), Some(NOBODY)) } else { Ok(()) };
    for number in 0..accounts {
        let name = account(number);
        let home = folder.join("mail").join(&name);
        for part in ["cur", "new", "tmp"] {
            fs::create_dir_all(home.join(part))?;
            own(&home.join(part))?;
        }
        own(&home)?;
        for message in 1..=MESSAGES {
            let file = home.join("cur").join(format!("{}.M{message}.bench:2,S", 1_700_000_000 + message));
            fs::write(&file, text(&name, message))?;
            own(&file)?;
        }
    }
    Ok(())
}

fn text(account: &str, number: usize) -> String {
    let body = "A line of the message's text, of the usual length for such a line.\r\n".repeat(40);
    format!(
        "From: A Sender <sender@example.org>\r\nTo: {account}@example.org\r\nSubject: Message number {number}\r\n\
         Date: Mon, 7 Feb 1994 21:52:25 -0800\r\nMessage-ID: <{number}.{account}@example.org>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n{body}"
    )
}

/// Who runs the bench.
pub(crate) struct User {
    uid: u32,
    gid: u32,
    pub(crate) name: String,
    pub(crate) group: String,
}

impl User {
    pub(crate) fn current() -> Result<Self> {
        let Some(id) = find_program(&["id"]) else { bail!("id(1) not found") };
        Ok(Self {
            uid: output_of(&id, &["-u"])?.parse()?,
            gid: output_of(&id, &["-g"])?.parse()?,
            name: output_of(&id, &["-un"])?,
            group: output_of(&id, &["-gn"])?,
        })
    }

    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    fn mail_ids(&self) -> (u32, u32) {
        if self.is_root() { (NOBODY, NOBODY) } else { (self.uid, self.gid) }
    }
}
