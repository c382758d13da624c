//! A private Dovecot, 2.3 or 2.4.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{User, geteuid};

use crate::debian13;
use crate::process::{Group, find_program, free_port, skip};
use crate::server::{Kind, Options, Server, await_greeting, server_folder};

/// Starts one; `None` (after saying so) if Dovecot is not installed.
pub(crate) async fn start(kind: Kind, options: &Options) -> Option<Server> {
    let program = program(kind)?;
    let mut last_log = String::new();
    for _attempt in 0..3 {
        let folder = server_folder(options);
        let address = free_port();
        let tls_address = options.tls.is_some().then(free_port);
        let file = folder.path().join("dovecot.conf");
        make_folders(folder.path());
        let configuration = match kind {
            Kind::Dovecot24 => configuration_of_2_4,
            _ => configuration,
        };
        std::fs::write(&file, configuration(folder.path(), address, tls_address, options)).expect("write");
        std::fs::write(folder.path().join("passwd"), options.accounts.passwd_file()).expect("write");
        let mut processes = spawn(&program, folder.path());
        let up = await_greeting(&mut processes, address).await;
        let server = Server { kind, address, tls_address, processes, folder };
        if up {
            return Some(server);
        }
        last_log = server.log();
    }
    panic!("Dovecot does not start:\n{last_log}");
}

/// Where it is: on this machine, or in the root folder of another.
enum Program {
    Here(PathBuf),
    In(PathBuf),
}

fn program(kind: Kind) -> Option<Program> {
    if kind == Kind::Dovecot24 {
        return debian13::root_with("usr/sbin/dovecot", "Dovecot 2.4").map(Program::In);
    }
    let program = find_program("dovecot");
    if program.is_none() {
        skip("Dovecot (Debian: dovecot-imapd)");
    }
    program.map(Program::Here)
}

/// Its processes, from the configuration in the folder.
pub(crate) fn run(kind: Kind, folder: &Path) -> Group {
    spawn(&program(kind).expect("it was there before"), folder)
}

fn spawn(program: &Program, folder: &Path) -> Group {
    let mut command = match program {
        Program::Here(program) => Command::new(program),
        Program::In(root) => debian13::command(root, "", "/usr/sbin/dovecot"),
    };
    command.arg("-F").arg("-c").arg(folder.join("dovecot.conf"));
    Group::spawn(&mut command, &folder.join("output")).expect("dovecot can be run")
}

/// Whose the mail is: Dovecot refuses to serve root's.
fn mail_owner() -> User {
    let me = geteuid();
    let owner = if me.is_root() { User::from_name("mail") } else { User::from_uid(me) };
    owner.expect("the user database can be read").expect("the user mail exists")
}

/// What is said the same way in the languages of 2.3 and 2.4. `anvil-auth-penalty` is off unless a test wants it: it
/// slows every login from an address that has brought wrong passwords, and here all come from one. Tests of slowness
/// set `auth_failure_delay`.
fn common(folder: &Path, address: SocketAddr, tls_address: Option<SocketAddr>, options: &Options) -> String {
    let tls_listener = tls_address.map_or(String::from("port = 0"), |a| format!("port = {}\n ssl = yes", a.port()));
    format!(
        "base_dir = {folder}/run\n\
         state_dir = {folder}/state\n\
         log_path = {folder}/log\n\
         listen = 127.0.0.1\n\
         protocols = imap\n\
         auth_mechanisms = plain login\n\
         auth_failure_delay = {delay} s\n\
         auth_cache_size = 0\n\
         first_valid_uid = 1\n\
         mail_max_userip_connections = {per_user}\n\
         mail_fsync = never\n\
         namespace inbox {{\n inbox = yes\n separator = /\n\
         mailbox Drafts {{\n special_use = \\Drafts\n auto = create\n }}\n\
         mailbox Sent {{\n special_use = \\Sent\n auto = create\n }}\n}}\n\
         service imap-login {{\n process_limit = 4\n\
         inet_listener imap {{\n port = {port}\n }}\n\
         inet_listener imaps {{\n {tls_listener}\n }}\n}}\n\
         service anvil {{\n unix_listener anvil-auth-penalty {{\n mode = {penalty}\n }}\n}}\n\
         service stats {{\n unix_listener stats-writer {{\n mode = 0666\n }}\n}}\n",
        folder = folder.display(),
        delay = options.auth_failure_delay,
        per_user = options.max_userip_connections,
        port = address.port(),
        penalty = if options.penalty { "0600" } else { "0" },
    )
}

/// Everything Dovecot is told.
fn configuration(folder: &Path, address: SocketAddr, tls_address: Option<SocketAddr>, options: &Options) -> String {
    let owner = mail_owner();
    let tls = match &options.tls {
        None => "ssl = no".to_owned(),
        Some((certificate, key)) => {
            format!("ssl = yes\nssl_cert = <{}\nssl_key = <{}", certificate.display(), key.display())
        }
    };
    let mut text = format!(
        "{common}\
         {tls}\n\
         log_timestamp = \"%s.%{{usecs}} \"\n\
         disable_plaintext_auth = no\n\
         passdb {{\n driver = passwd-file\n args = scheme=plain username_format=%u {folder}/passwd\n}}\n\
         userdb {{\n driver = static\n args = uid={uid} gid={gid} home={folder}/mail/%u\n}}\n\
         mail_location = {location}\n\
         mail_attribute_dict = file:%h/attributes\n\
         mail_plugins = acl quota\n\
         protocol imap {{\n mail_plugins = acl quota imap_acl imap_quota\n imap_metadata = yes\n}}\n\
         plugin {{\n acl = vfile\n quota = count:User quota\n quota_rule = *:storage=1G\n quota_vsizes = yes\n}}\n\
         service imap-login {{\n service_count = 0\n}}\n\
         service imap {{\n service_count = {uses}\n}}\n",
        uses = if options.reuse { 100 } else { 1 },
        common = common(folder, address, tls_address, options),
        folder = folder.display(),
        location = options.mail_location,
        uid = owner.uid,
        gid = owner.gid,
    );
    if !geteuid().is_root() {
        write_unprivileged(&mut text, &owner);
    }
    text
}

fn make_folders(folder: &Path) {
    for name in ["mail", "run", "state"] {
        std::fs::create_dir(folder.join(name)).expect("a fresh folder");
    }
    if geteuid().is_root() {
        let owner = mail_owner();
        chown(folder.join("mail"), Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).expect("root may");
    }
}

/// The same in the language of 2.4. Only for root, who alone can start it.
fn configuration_of_2_4(
    folder: &Path,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    options: &Options,
) -> String {
    let owner = mail_owner();
    let tls = match &options.tls {
        None => "ssl = no".to_owned(),
        Some((certificate, key)) => {
            let (certificate, key) = (certificate.display(), key.display());
            format!("ssl = yes\nssl_server {{\n cert_file = {certificate}\n key_file = {key}\n}}")
        }
    };
    let (driver, path) = options.mail_location.split_once(':').expect("a driver and a path");
    format!(
        "dovecot_config_version = 2.4.1\n\
         dovecot_storage_version = 2.4.1\n\
         {common}\
         {tls}\n\
         auth_allow_cleartext = yes\n\
         passdb passwd-file {{\n default_password_scheme = plain\n auth_username_format = %{{user}}\n \
         passwd_file_path = {folder}/passwd\n}}\n\
         userdb static {{\n fields {{\n uid = {uid}\n gid = {gid}\n home = {folder}/mail/%{{user}}\n }}\n}}\n\
         mail_driver = {driver}\n\
         mail_path = {path}\n\
         mail_utf8_extensions = yes\n\
         mail_plugins {{\n acl = yes\n quota = yes\n}}\n\
         mail_attribute {{\n dict file {{\n path = %{{home}}/attributes\n }}\n}}\n\
         protocol imap {{\n mail_plugins {{\n imap_acl = yes\n imap_quota = yes\n }}\n imap_metadata = yes\n}}\n\
         acl_driver = vfile\n\
         quota \"User quota\" {{\n storage_size = 1G\n}}\n\
         service imap-login {{\n restart_request_count = unlimited\n}}\n\
         service imap {{\n restart_request_count = {uses}\n}}\n",
        uses = if options.reuse { 100 } else { 1 },
        common = common(folder, address, tls_address, options),
        folder = folder.display(),
        uid = owner.uid,
        gid = owner.gid,
    )
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
