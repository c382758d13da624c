//! From up-imapproxy's configuration (imapproxy.conf). Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::ImportError;
use super::draft::{heading, quoted};

/// A line of the file.
struct Setting<'t> {
    line: usize,
    key: String,
    value: &'t str,
}

impl Setting<'_> {
    fn is_yes(&self) -> bool {
        self.value.eq_ignore_ascii_case("yes")
    }

    fn error(&self, expected: &'static str) -> ImportError {
        ImportError::Value { line: self.line, key: self.key.clone(), value: self.value.to_owned(), expected }
    }

    /// The names which a services file has for the two ports of IMAP are taken too.
    fn port(&self) -> Result<u16, ImportError> {
        match self.value {
            "imap" | "imap2" | "imap4" => Ok(143),
            "imaps" => Ok(993),
            number => number.parse().map_err(|_| self.error("a port number")),
        }
    }

    fn number(&self) -> Result<u32, ImportError> {
        self.value.parse().map_err(|_| self.error("a number"))
    }
}

/// What has no counterpart, or another one than a key.
enum Fate {
    /// It needs none: imapool does it, or does not need it.
    Done(&'static str),
    /// It is lost, and somebody should look at it.
    Lost(&'static str),
}

/// The keys that become no key of imapool's.
fn fate(setting: &Setting<'_>) -> Fate {
    use Fate::{Done, Lost};
    match setting.key.as_str() {
        "connect_retries" | "connect_delay" => {
            Done("a session waits for a connection for pool.checkout_timeout; a dead server is tried again by itself")
        }
        "proc_username" | "proc_groupname" => Done("User= and Group= of the systemd service"),
        "chroot_directory" => Done("ProtectSystem= and the other lines of the systemd service"),
        "stat_filename" => Done("imapool status and imapool top; for Prometheus, /metrics at the admin address"),
        "protocol_log_filename" => Done("imapool ctl trace; passwords are never in it"),
        "syslog_facility" => Done("the log goes to standard error, and from there to the journal"),
        "send_tcp_keepalives" => Done("always on"),
        "foreground_mode" => Done("always in the foreground"),
        "enable_select_cache" if setting.is_yes() => {
            Done("pool.linger keeps the mailbox selected; a session still sees the server's own answer to its SELECT")
        }
        "enable_select_cache" => Done("answers to SELECT are never cached"),
        "enable_admin_commands" if setting.is_yes() => Done("imapool ctl, at the admin address"),
        "enable_admin_commands" => Done("there are none"),
        "preauth_command" => Lost("imapool sends no command of yours before the login"),
        "tls_ca_path" => Lost("name one PEM file in backend.ca_file, or delete it to trust the system's authorities"),
        "tls_cert_file" | "tls_key_file" => Lost("imapool shows the server a certificate that has its key: name both"),
        "tls_verify_server" if setting.is_yes() => Done("the server's certificate is always verified"),
        "tls_verify_server" => Lost("the server's certificate is always verified: is it valid, for this name?"),
        "tls_ciphers" => Lost("TLS 1.2 and 1.3, with the cipher suites that are held to be secure"),
        "tls_no_tlsv1" | "tls_no_tlsv1.1" => Done("neither TLS 1.0 nor 1.1 is spoken"),
        "tls_no_tlsv1.2" if setting.is_yes() => Lost("TLS 1.2 is spoken where the server has no TLS 1.3"),
        "tls_no_tlsv1.2" => Done("TLS 1.2 is spoken"),
        "auth_sasl_plain_username" | "auth_sasl_plain_password" | "auth_shared_secret" => {
            Lost("imapool logs in as the client does, and with nobody else's password")
        }
        "dns_rr" => Done("the name is looked up for each connection, and all its addresses are tried"),
        "ipversion_only" => Lost("both are tried; an IP address in place of the name, or source_addresses, settles it"),
        _ => Lost("imapool does not know this keyword"),
    }
}

/// Makes an imapool.toml of an imapproxy.conf; `name` is what its first line calls the file.
pub(super) fn import(conf: &str, name: &str) -> Result<String, ImportError> {
    let settings = read(conf);
    // The last one counts, as in up-imapproxy.
    let last = |key: &str| settings.iter().rev().find(|setting| setting.key == key);
    let mut toml = heading(name);
    let listener = listener(last("listen_address"), last("listen_port"))?;
    let _ = write!(toml, "[[listener]]\naddress = {}\n", quoted(&listener.to_string()));
    if !listener.ip().is_loopback() {
        toml += "# As up-imapproxy: passwords in the clear from anywhere. Better: tls = \"starttls\", and a certificate.\n\
                 plaintext_login = \"always\"\n";
    }
    toml += "\n[[backend]]\n";
    write_backend(&mut toml, &last)?;
    write_pool(&mut toml, &last)?;
    if let Some(level) = last("syslog_prioritymask").map(level) {
        let _ = write!(toml, "\n[log]\nlevel = {}\n", quoted(level));
    }
    write_rest(&mut toml, &settings);
    Ok(toml)
}

/// Keywords that are taken over.
const TAKEN: &[&str] = &[
    "server_hostname",
    "server_port",
    "listen_address",
    "listen_port",
    "cache_size",
    "cache_expiration_time",
    "force_tls",
    "tls_ca_file",
    "syslog_prioritymask",
];

/// `keyword value`, one a line; `#` begins a comment at the start of a line only.
fn read(conf: &str) -> Vec<Setting<'_>> {
    let lines = conf.lines().enumerate().map(|(number, text)| (number + 1, text.trim()));
    let settings = lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#')).map(|(line, text)| {
        let (key, value) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        Setting { line, key: key.to_ascii_lowercase(), value: value.trim() }
    });
    settings.collect()
}

fn listener(address: Option<&Setting<'_>>, port: Option<&Setting<'_>>) -> Result<SocketAddr, ImportError> {
    let ip = match address {
        Some(address) => address.value.parse().map_err(|_| address.error("an IP address"))?,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    Ok(SocketAddr::new(ip, port.map_or(Ok(143), Setting::port)?))
}

fn write_backend<'t>(toml: &mut String, last: &impl Fn(&str) -> Option<&'t Setting<'t>>) -> Result<(), ImportError> {
    let server = last("server_hostname").ok_or(ImportError::NoServer)?;
    let port = last("server_port").map_or(Ok(143), Setting::port)?;
    let host = match server.value.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if server.value.is_empty() || server.value.contains(char::is_whitespace) => {
            return Err(server.error("a host name or an IP address"));
        }
        Err(_) => format!("{}:{port}", server.value),
    };
    let _ = writeln!(toml, "address = {}", quoted(&host));
    let (forced, authority) = (last("force_tls").filter(|force| force.is_yes()), last("tls_ca_file"));
    if forced.is_some() || authority.is_some() || last("tls_ca_path").is_some() {
        if forced.is_none() {
            toml.push_str(
                "# up-imapproxy took TLS only where the server asked for it; delete the line if it has none.\n",
            );
        }
        toml.push_str("tls = \"starttls\"\n");
    }
    if let Some(authority) = authority {
        let _ = writeln!(toml, "ca_file = {}", quoted(authority.value));
    }
    if let (Some(certificate), Some(key)) = (last("tls_cert_file"), last("tls_key_file")) {
        let _ = writeln!(toml, "certificate = {}\nprivate_key = {}", quoted(certificate.value), quoted(key.value));
    }
    Ok(())
}

fn write_pool<'t>(toml: &mut String, last: &impl Fn(&str) -> Option<&'t Setting<'t>>) -> Result<(), ImportError> {
    toml.push_str(
        "\n[pool]\n# up-imapproxy had no limit for one account. Keep it below the server's (Dovecot: \
         mail_max_userip_connections).\nmax_per_account = 4\n",
    );
    if let Some(size) = last("cache_size") {
        let _ = writeln!(toml, "max_total = {}  # cache_size", size.number()?);
    }
    if let Some(time) = last("cache_expiration_time") {
        let _ = writeln!(toml, "idle_timeout = \"{}s\"  # cache_expiration_time", time.number()?.max(1));
    }
    Ok(())
}

fn level(mask: &Setting<'_>) -> &'static str {
    match mask.value.to_ascii_uppercase().as_str() {
        "LOG_DEBUG" => "debug",
        "LOG_WARNING" => "warn",
        "LOG_EMERG" | "LOG_ALERT" | "LOG_CRIT" | "LOG_ERR" => "error",
        _ => "info",
    }
}

/// Lists what became no key, first what somebody should look at.
fn write_rest(toml: &mut String, settings: &[Setting<'_>]) {
    let (mut lost, mut done) = (String::new(), String::new());
    let has = |key: &str| settings.iter().any(|setting| setting.key == key);
    let pair = ["tls_cert_file", "tls_key_file"];
    let is_taken = |key: &str| TAKEN.contains(&key) || (pair.contains(&key) && pair.iter().all(|key| has(key)));
    for setting in settings.iter().filter(|setting| !is_taken(&setting.key)) {
        let (list, words) = match fate(setting) {
            Fate::Lost(words) => (&mut lost, words),
            Fate::Done(words) => (&mut done, words),
        };
        // The value may be a secret, and is in the old file anyway.
        let _ = writeln!(list, "#   line {}, {}: {words}", setting.line, setting.key.escape_debug());
    }
    for (heading, list) in [("NOT TAKEN OVER, look at each of these:", lost), ("Not needed, or elsewhere:", done)] {
        if !list.is_empty() {
            let _ = write!(toml, "\n# {heading}\n{list}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, ListenAddr, PlaintextLogin, TlsMode};

    fn import(conf: &str) -> (String, Config) {
        let toml = super::import(conf, "imapproxy.conf").unwrap();
        let config = Config::parse(&toml, "imapool.toml").unwrap_or_else(|error| panic!("{error}\n{toml}"));
        (toml, config)
    }

    #[test]
    fn what_has_a_counterpart_is_taken_over() {
        let (toml, config) = import(
            "# a comment\nserver_hostname mail.example.org\nserver_port 1430\nlisten_port 1143\n\
             cache_size 3072\ncache_expiration_time 120\nsyslog_prioritymask LOG_WARNING\n",
        );
        assert_eq!(config.listeners[0].address, ListenAddr::Tcp("0.0.0.0:1143".parse().unwrap()));
        assert_eq!(config.listeners[0].plaintext_login, PlaintextLogin::Always);
        assert_eq!((config.backends[0].host.as_str(), config.backends[0].port), ("mail.example.org", 1430));
        assert_eq!((config.pool.max_total, config.pool.idle_timeout), (3072, Duration::from_secs(120)));
        assert_eq!((config.log.level.as_str(), config.backends[0].tls), ("warn", TlsMode::None));
        assert!(!toml.contains("NOT TAKEN OVER"), "{toml}");
    }

    #[test]
    fn tls_towards_the_server_and_a_listener_on_loopback() {
        let (toml, config) = import(
            "server_hostname\t::1\r\nforce_tls YES \r\n  tls_ca_file /etc/my \"CA\".pem\r\nlisten_address 127.0.0.1\r\n\
             tls_verify_server no\r\n",
        );
        assert_eq!((config.backends[0].address().as_str(), config.backends[0].tls), ("[::1]:143", TlsMode::StartTls));
        assert_eq!(config.backends[0].ca_file.as_deref(), Some("/etc/my \"CA\".pem".as_ref()));
        assert_eq!(config.listeners[0].plaintext_login, PlaintextLogin::Loopback);
        assert!(toml.contains("#   line 5, tls_verify_server: the server's certificate is always verified"), "{toml}");
    }

    #[test]
    fn what_has_none_is_listed_without_its_value() {
        let (toml, _) = import(
            "server_hostname localhost\nauth_shared_secret hunter2\npreauth_command ID (\"GUID\" \"1\")\nno\u{1b}such thing\n\
             foreground_mode yes\nconnect_retries 10\n",
        );
        let (taken, rest) = toml.split_once("NOT TAKEN OVER").unwrap();
        let (lost, done) = rest.split_once("Not needed").unwrap();
        for key in ["auth_shared_secret", "preauth_command", "line 4, no\\u{1b}such"] {
            assert!(lost.contains(key), "{key}: {toml}");
        }
        for key in ["foreground_mode", "connect_retries"] {
            assert!(done.contains(key), "{key}: {toml}");
        }
        assert!(!toml.contains("hunter2") && !toml.contains("GUID"), "{toml}");
        assert!(taken.contains("\"localhost:143\""), "{toml}");
    }

    #[test]
    fn the_last_of_several_counts() {
        let (_, config) = import("server_hostname a\nserver_port imap\nserver_port imaps\n");
        assert_eq!(config.backends[0].port, 993);
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_line() {
        assert_eq!(super::import("listen_port 143\n", "x"), Err(ImportError::NoServer));
        for (conf, key) in [
            ("server_hostname a\n\nserver_port many\n", "server_port"),
            ("server_hostname a\n\nlisten_port 65536\n", "listen_port"),
            ("server_hostname a\n\nlisten_address eth0\n", "listen_address"),
            ("server_hostname a\n\ncache_size -1\n", "cache_size"),
            ("server_port 1\n\nserver_hostname a b\n", "server_hostname"),
        ] {
            let error = super::import(conf, "x").unwrap_err();
            assert!(matches!(&error, ImportError::Value { line: 3, key: k, .. } if k == key), "{error}");
        }
    }
}
