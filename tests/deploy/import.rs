//! `imapool import`: what it makes passes `check`, and serves.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use imapool::demo::server::{Options, Server};

use crate::support::{Imapool, finish, folder, imapool, skip, succeed};

/// What Debian's package has in /etc/imapproxy.conf, without its comments.
const DEBIAN: &str = "server_hostname localhost\nconnect_retries 10\nconnect_delay 5\ncache_size 3072\nlisten_port 1143\n\
    server_port 143\ncache_expiration_time 300\nproc_username nobody\nproc_groupname nogroup\n\
    stat_filename /var/run/pimpstats\nprotocol_log_filename /var/log/imapproxy_protocol.log\nsyslog_facility LOG_MAIL\n\
    send_tcp_keepalives no\nenable_select_cache no\nforeground_mode no\nforce_tls no\n\
    chroot_directory /var/lib/imapproxy/chroot\nenable_admin_commands no\n";

/// Debian's, with lines in place of others, and more of them.
fn edited(changes: &[(&str, &str)]) -> String {
    let mut conf = DEBIAN.to_owned();
    for (key, line) in changes {
        let old = DEBIAN.lines().find(|line| line.split(' ').next() == Some(key));
        match old {
            Some(old) => conf = conf.replace(&format!("{old}\n"), &format!("{line}\n")),
            None => writeln!(conf, "{line}").unwrap(),
        }
    }
    conf
}

/// The Debian default and three that somebody has worked on; what must be listed as lost.
fn configurations() -> Vec<(&'static str, String, &'static [&'static str])> {
    let busy = [
        ("server_hostname", "server_hostname 127.0.0.1"),
        ("listen_address", "listen_address 127.0.0.1"),
        ("cache_size", "cache_size\t500   "),
        ("cache_expiration_time", "cache_expiration_time 60"),
        ("enable_select_cache", "enable_select_cache yes"),
        ("syslog_prioritymask", "syslog_prioritymask LOG_WARNING"),
        ("preauth_command", "preauth_command ID (\"GUID\" \"1\")"),
        ("dns_rr", "dns_rr yes"),
    ];
    let secret = [
        ("server_hostname", "server_hostname localhost"),
        ("auth_sasl_plain_username", "auth_sasl_plain_username master"),
        ("auth_sasl_plain_password", "auth_sasl_plain_password s3cr3t-one"),
        ("auth_shared_secret", "auth_shared_secret s3cr3t-two"),
        ("ipversion_only", "ipversion_only 4"),
        ("tls_no_tlsv1", "tls_no_tlsv1 yes"),
    ];
    let foreign = [
        ("server_port", "server_port imap2"),
        ("force_tls", "  force_tls  no\r"),
        ("own_idea", "own_idea 42"),
        ("tls_verify_server", "tls_verify_server no"),
    ];
    vec![
        ("Debian's", DEBIAN.to_owned(), &[]),
        ("a busy one", edited(&busy), &["preauth_command"]),
        ("one with secrets", edited(&secret), &["auth_sasl_plain_password", "auth_shared_secret", "ipversion_only"]),
        ("an odd one", edited(&foreign), &["own_idea", "tls_verify_server"]),
    ]
}

/// Imports a file, checks what comes of it, and serves with it.
async fn import_and_serve(folder: &Path, conf: &str, lost: &[&str]) {
    let (old, new) = (folder.join("imapproxy.conf"), folder.join("imapool.toml"));
    std::fs::write(&old, conf).unwrap();
    let _ = std::fs::remove_file(&new);
    succeed(imapool().arg("import").arg(&old).arg("--output").arg(&new));
    succeed(imapool().args(["check", "--config"]).arg(&new));
    let toml = std::fs::read_to_string(&new).unwrap();
    let (_, not_taken) = toml.split_once("NOT TAKEN OVER").unwrap_or_default();
    for key in lost {
        assert!(not_taken.contains(&format!(", {key}: ")), "{key}: {toml}");
    }
    assert_eq!(lost.is_empty(), !toml.contains("NOT TAKEN OVER"), "{toml}");
    assert!(!toml.contains("s3cr3t"), "{toml}");

    // The same on ports that are free here.
    let server = Server::start(Options::default()).await.unwrap();
    let port = server.address().port();
    let toml = toml
        .replace("0.0.0.0:1143", "127.0.0.1:0")
        .replace("127.0.0.1:1143", "127.0.0.1:0")
        .replace("localhost:143", &format!("localhost:{port}"))
        .replace("127.0.0.1:143", &format!("127.0.0.1:{port}"));
    std::fs::write(&new, toml + "\n[admin]\naddress = \"127.0.0.1:0\"\n").unwrap();
    let running = Imapool::start(&new);
    let url = format!("imap://{}/INBOX;MAILINDEX=1", running.listener);
    let message = tokio::task::spawn_blocking(move || {
        succeed(Command::new("curl").args(["-sS", "-m", "20", "-u", "ann:pw-ann", &url]))
    });
    let message = message.await.unwrap();
    assert!(message.contains("Subject: [ann] INBOX message 1\r\n"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_makes_passes_check_and_serves() {
    if crate::support::find("curl").is_none() {
        return;
    }
    let folder = folder();
    for (name, conf, lost) in configurations() {
        eprintln!("{name}");
        import_and_serve(folder.path(), &conf, lost).await;
    }
}

/// A folder with what the files of other proxies name: a certificate with its key, and an authority.
fn tls_files(folder: &Path) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["mail.example.org".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    std::fs::write(folder.join("cert.pem"), certificate).unwrap();
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    folder.display().to_string()
}

/// Configurations of others, as they are found; `FOLDER` is where their files are. What must be listed as lost.
const OTHERS: &[(&str, &str, &[&str])] = &[
    ("nginx", include_str!("others/nginx.conf"), &["auth_http_header", "server (pop3)", "auth_http"]),
    ("perdition", include_str!("others/perdition.conf"), &["strip_domain"]),
    ("dovecot 2.3", include_str!("others/dovecot-2.3.conf"), &["passdb static starttls"]),
    ("dovecot 2.4", include_str!("others/dovecot-2.4.conf"), &["passdb sql"]),
];

#[test]
fn what_it_makes_of_others_passes_check() {
    let folder = folder();
    let files = tls_files(folder.path());
    std::fs::write(folder.path().join("popmap"), "anna:bob@192.0.2.1:1143\n@example.net:192.0.2.2\n").unwrap();
    let users = "anna:{PLAIN}s3cr3t::::::proxy=y host=192.0.2.1 port=1143\n@example.net:::::::proxy=y host=192.0.2.2\n";
    std::fs::write(folder.path().join("users"), users).unwrap();
    for (name, conf, lost) in OTHERS {
        let [old, new, map] = ["old.conf", "new.toml", "new.map"].map(|file| folder.path().join(file));
        std::fs::write(&old, conf.replace("FOLDER", &files)).unwrap();
        let _ = std::fs::remove_file(&new);
        let _ = std::fs::remove_file(&map);
        let from = name.split(' ').next().unwrap();
        succeed(imapool().arg("import").arg(&old).args(["--from", from]).arg("--output").arg(&new));
        succeed(imapool().args(["check", "--config"]).arg(&new));
        let toml = std::fs::read_to_string(&new).unwrap();
        let (_, not_taken) = toml.split_once("NOT TAKEN OVER").unwrap_or_default();
        let not_taken = not_taken.split("# Not needed").next().unwrap();
        for key in *lost {
            assert!(not_taken.contains(&format!(", {key}: ")), "{name}: {key}: {toml}");
        }
        let listed = not_taken.lines().filter(|line| line.starts_with("#   ")).count();
        assert_eq!(listed, lost.len(), "{name}: {toml}");
        assert!(!toml.contains("s3cr3t"), "{name}: {toml}");
        if *name == "nginx" {
            assert!(!map.exists());
            continue;
        }
        assert!(!std::fs::read_to_string(&map).unwrap().contains("s3cr3t"));
        for (user, backend) in [("anna", "192.0.2.1:1143"), ("bert@example.net", "192.0.2.2:143")] {
            let route = succeed(imapool().args(["route", user, "--config"]).arg(&new));
            assert!(route.contains(backend), "{name}: {route}");
        }
        // Not beside it, where there is one already.
        std::fs::remove_file(&new).unwrap();
        let output = finish(imapool().arg("import").arg(&old).arg("--output").arg(&new));
        assert!(output.status.code() == Some(1) && !new.exists(), "{name}");
        let output = finish(imapool().arg("import").arg(&old));
        assert!(String::from_utf8_lossy(&output.stderr).contains("name that by --output"), "{name}: {output:?}");
    }
}

/// The file itself, so that the copy of its settings above stays what it says it is.
#[test]
fn debians_own_file_has_those_settings() {
    let file = "/usr/share/imapproxy/imapproxy.conf.default";
    let Ok(conf) = std::fs::read_to_string(file) else { return skip("Debian's package imapproxy is not installed") };
    // What the package fills in when it is installed.
    let conf = conf.replace("your.imap.server.com", "localhost").replace("listen_port 143\n", "listen_port 1143\n");
    let settings = conf.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(settings.collect::<Vec<_>>(), DEBIAN.lines().collect::<Vec<_>>());
    succeed(imapool().args(["import", file]));
}

#[test]
fn a_file_that_exists_is_not_overwritten_and_a_wrong_one_is_told() {
    let folder = folder();
    let (old, new) = (folder.path().join("imapproxy.conf"), folder.path().join("imapool.toml"));
    std::fs::write(&old, DEBIAN).unwrap();
    std::fs::write(&new, "mine").unwrap();
    let output = finish(imapool().arg("import").arg(&old).arg("--output").arg(&new));
    assert_eq!((output.status.code(), std::fs::read_to_string(&new).unwrap().as_str()), (Some(1), "mine"));
    std::fs::write(&old, "server_hostname a\nserver_port x\n").unwrap();
    let output = finish(imapool().arg("import").arg(&old));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("line 2: server_port x: write a port number") && output.stdout.is_empty(), "{told}");
}

/// Where not all of it can be written, nothing is left, and it is told.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    let folder = folder();
    let (old, new) = (folder.path().join("perdition.conf"), folder.path().join("imapool.toml"));
    let popmap = folder.path().join("popmap");
    std::fs::write(&old, format!("map_library libperditiondb_gdbm.so\nmap_library_opt {}\n", popmap.display()))
        .unwrap();
    std::fs::write(&popmap, (0..2000).map(|it| format!("user{it}:192.0.2.1\n")).collect::<String>()).unwrap();
    let there = || std::fs::read_dir(folder.path()).unwrap().count();
    let before = there();
    // No file may grow beyond a few kilobytes.
    let limited = "trap '' XFSZ; ulimit -f 8; exec \"$@\"";
    let mut command = std::process::Command::new("sh");
    let program = imapool().get_program().to_owned();
    command.args(["-c", limited, "sh"]).arg(program).arg("import").arg(&old).arg("--output").arg(&new);
    let output = finish(&mut command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && told.contains("nothing was written: "), "{output:?}");
    assert!(told.contains("imapool.map: File too large"), "{told}");
    assert_eq!(there(), before, "{told}");
    succeed(imapool().arg("import").arg(&old).arg("--output").arg(&new));
}

#[cfg(unix)]
#[test]
fn what_may_have_a_secret_is_for_its_owner() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    for (url, others) in [("localhost/auth?key=1234", 0), ("localhost/auth", 0o044)] {
        let (old, new) = (folder.path().join("nginx.conf"), folder.path().join("imapool.toml"));
        std::fs::write(&old, format!("mail {{ server {{ listen 143; auth_http {url}; }} }}")).unwrap();
        // Whatever the umask of whoever runs this is.
        let mut command = std::process::Command::new("sh");
        let program = imapool().get_program().to_owned();
        command.args(["-c", "umask 022; exec \"$@\"", "sh"]).arg(program).arg("import").arg(&old);
        succeed(command.arg("--output").arg(&new));
        assert_eq!(std::fs::metadata(&new).unwrap().permissions().mode() & 0o077, others, "{url}");
        std::fs::remove_file(&new).unwrap();
    }
}
