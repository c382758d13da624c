//! A private Dovecot 2.3.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use nix::unistd::{User, geteuid};

use crate::process::{Group, find_program, free_port, skip};
use crate::server::{Kind, Options, Server, await_greeting, scratch_folder};

/// Starts one; `None` (after saying so) if Dovecot is not installed.
pub(crate) async fn start(options: &Options) -> Option<Server> {
    let Some(program) = find_program("dovecot") else {
        skip("Dovecot (Debian: dovecot-imapd)");
        return None;
    };
    let mut last_log = String::new();
    for _attempt in 0..3 {
        let folder = scratch_folder();
        let address = free_port();
        let tls_address = options.tls.is_some().then(free_port);
        let file = folder.path().join("dovecot.conf");
        std::fs::write(&file, configuration(folder.path(), address, tls_address, options)).expect("write");
        std::fs::write(folder.path().join("passwd"), options.accounts.passwd_file()).expect("write");
        let mut processes = spawn(&program, folder.path());
        let up = await_greeting(&mut processes, address).await;
        let server = Server { kind: Kind::Dovecot, address, tls_address, processes, folder };
        if up {
            return Some(server);
        }
        last_log = server.log();
    }
    panic!("Dovecot does not start:\n{last_log}");
}

fn spawn(program: &Path, folder: &Path) -> Group {
    let mut command = Command::new(program);
    command.arg("-F").arg("-c").arg(folder.join("dovecot.conf"));
    Group::spawn(&mut command, &folder.join("output")).expect("dovecot can be run")
}

/// Starts one anew that has ended, where it was.
pub(crate) async fn start_again(server: &mut Server) {
    let program = find_program("dovecot").expect("it was there before");
    server.processes = spawn(&program, server.folder.path());
    let up = await_greeting(&mut server.processes, server.address).await;
    assert!(up, "Dovecot does not start again:\n{}", server.log());
}

/// Whose the mail is: Dovecot refuses to serve root's.
fn mail_owner() -> User {
    let me = geteuid();
    let owner = if me.is_root() { User::from_name("mail") } else { User::from_uid(me) };
    owner.expect("the user database can be read").expect("the user mail exists")
}

/// Everything Dovecot is told. `anvil-auth-penalty` is off unless a test wants it: it slows every login from an address
/// that has brought wrong passwords, and here all come from one. Tests of slowness set `auth_failure_delay`.
fn configuration(folder: &Path, address: SocketAddr, tls_address: Option<SocketAddr>, options: &Options) -> String {
    let owner = mail_owner();
    let root = geteuid().is_root();
    for name in ["mail", "run", "state"] {
        std::fs::create_dir(folder.join(name)).expect("a fresh folder");
    }
    if root {
        chown(folder.join("mail"), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may");
    }
    let tls = match &options.tls {
        None => "ssl = no".to_owned(),
        Some((certificate, key)) => {
            format!("ssl = yes\nssl_cert = <{}\nssl_key = <{}", certificate.display(), key.display())
        }
    };
    let tls_listener = tls_address.map_or(String::from("port = 0"), |a| format!("port = {}\n ssl = yes", a.port()));
    let mut text = format!(
        "base_dir = {folder}/run\n\
         state_dir = {folder}/state\n\
         log_path = {folder}/log\n\
         listen = 127.0.0.1\n\
         protocols = imap\n\
         {tls}\n\
         disable_plaintext_auth = no\n\
         auth_mechanisms = plain login\n\
         auth_failure_delay = {delay} s\n\
         auth_cache_size = 0\n\
         passdb {{\n driver = passwd-file\n args = scheme=plain username_format=%u {folder}/passwd\n}}\n\
         userdb {{\n driver = static\n args = uid={uid} gid={gid} home={folder}/mail/%u\n}}\n\
         first_valid_uid = 1\n\
         mail_location = {location}\n\
         mail_max_userip_connections = {per_user}\n\
         mail_fsync = never\n\
         mail_attribute_dict = file:%h/attributes\n\
         mail_plugins = acl quota\n\
         protocol imap {{\n mail_plugins = acl quota imap_acl imap_quota\n imap_metadata = yes\n}}\n\
         plugin {{\n acl = vfile\n quota = count:User quota\n quota_rule = *:storage=1G\n quota_vsizes = yes\n}}\n\
         namespace inbox {{\n inbox = yes\n separator = /\n\
         mailbox Drafts {{\n special_use = \\Drafts\n auto = create\n }}\n\
         mailbox Sent {{\n special_use = \\Sent\n auto = create\n }}\n}}\n\
         service imap-login {{\n service_count = 0\n process_limit = 4\n\
         inet_listener imap {{\n port = {port}\n }}\n\
         inet_listener imaps {{\n {tls_listener}\n }}\n}}\n\
         service anvil {{\n unix_listener anvil-auth-penalty {{\n mode = {penalty}\n }}\n}}\n\
         service stats {{\n unix_listener stats-writer {{\n mode = 0666\n }}\n}}\n",
        folder = folder.display(),
        delay = options.auth_failure_delay,
        location = options.mail_location,
        penalty = if options.penalty { "0600" } else { "0" },
        uid = owner.uid,
        gid = owner.gid,
        per_user = options.max_userip_connections,
        port = address.port(),
    );
    if !root {
        write_unprivileged(&mut text, &owner);
    }
    text
}

/// Without root nothing can change its user or its root folder.
fn write_unprivileged(text: &mut String, owner: &User) {
    let name = &owner.name;
    let _ = write!(
        text,
        "default_internal_user = {name}\ndefault_login_user = {name}\ndefault_internal_group = {group}\n",
        group = nix::unistd::Group::from_gid(owner.gid).ok().flatten().map_or_else(|| name.clone(), |g| g.name),
    );
    for service in ["anvil", "imap-login", "imap-urlauth-login", "ipc", "old-stats", "stats"] {
        let _ = write!(text, "service {service} {{\n chroot =\n}}\n");
    }
}
