//! From up-imapproxy's configuration (imapproxy.conf). Pure.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::draft::{Draft, Fate, set};
use super::{ImportError, Imported, Setting, Source, last, lines, port_of};

impl Setting {
    fn is_yes(&self) -> bool {
        self.value.eq_ignore_ascii_case("yes")
    }

    fn number(&self) -> Result<u32, ImportError> {
        self.value.parse().map_err(|_| self.error("a number"))
    }
}

/// That of a key, or the usual one.
fn port(settings: &[Setting], key: &str) -> Result<u16, ImportError> {
    last(settings, key).map_or(Ok(143), |setting| port_of(&setting.value).ok_or_else(|| setting.error("a port number")))
}

/// What becomes of each key.
fn fate(setting: &Setting, has_pair: bool) -> Fate {
    use Fate::{Done, Lost, Taken};
    match setting.key.as_str() {
        "server_hostname" | "server_port" | "listen_address" | "listen_port" | "cache_size" | "force_tls" => Taken,
        "cache_expiration_time" | "tls_ca_file" | "syslog_prioritymask" => Taken,
        "tls_cert_file" | "tls_key_file" if has_pair => Taken,
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

/// Makes a draft of an imapproxy.conf.
pub(super) fn import(source: &Source<'_>) -> Result<Imported, ImportError> {
    let settings = read(source.conf);
    let mut draft = Draft::default();
    let toml = &mut draft.rest;
    *toml += "[[listener]]\n";
    let ip = match last(&settings, "listen_address") {
        Some(address) => address.value.parse().map_err(|_| address.error("an IP address"))?,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    set(toml, "address", SocketAddr::new(ip, port(&settings, "listen_port")?).to_string().as_str());
    if !ip.is_loopback() {
        *toml += "# As up-imapproxy: passwords in the clear from anywhere. Better: tls = \"starttls\", and a certificate.\n\
                  plaintext_login = \"always\"\n";
    }
    let pair = last(&settings, "tls_cert_file").zip(last(&settings, "tls_key_file"));
    write_backend(toml, &settings, pair)?;
    write_pool(toml, &settings)?;
    if let Some(mask) = last(&settings, "syslog_prioritymask") {
        *toml += "\n[log]\n";
        set(toml, "level", level(mask));
    }
    *toml += "\n";
    for setting in &settings {
        draft.tell(setting.line, &setting.key, &fate(setting, pair.is_some()));
    }
    Ok(draft.finish(source.name, source.map))
}

/// `keyword value`, one a line; `#` begins a comment at the start of a line only.
fn read(conf: &str) -> Vec<Setting> {
    let setting = |(line, text): (usize, &str)| {
        let (key, value) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        Setting { line, key: key.to_ascii_lowercase(), value: value.trim().to_owned() }
    };
    lines(conf).map(setting).collect()
}

fn write_backend(
    toml: &mut String,
    settings: &[Setting],
    pair: Option<(&Setting, &Setting)>,
) -> Result<(), ImportError> {
    let server = last(settings, "server_hostname").ok_or(ImportError::NoServer)?;
    let port = port(settings, "server_port")?;
    let address = match server.value.parse::<IpAddr>() {
        Ok(ip) => SocketAddr::new(ip, port).to_string(),
        Err(_) if server.value.is_empty() || server.value.contains(char::is_whitespace) => {
            return Err(server.error("a host name or an IP address"));
        }
        Err(_) => format!("{}:{port}", server.value),
    };
    *toml += "\n[[backend]]\n";
    set(toml, "address", address.as_str());
    let is_forced = last(settings, "force_tls").is_some_and(Setting::is_yes);
    let authority = last(settings, "tls_ca_file");
    if is_forced || authority.is_some() || last(settings, "tls_ca_path").is_some() {
        if !is_forced {
            *toml += "# up-imapproxy took TLS only where the server asked for it; delete the line if it has none.\n";
        }
        *toml += "tls = \"starttls\"\n";
    }
    set(toml, "ca_file", authority.map(|it| it.value.as_str()));
    set(toml, "certificate", pair.map(|(certificate, _)| certificate.value.as_str()));
    set(toml, "private_key", pair.map(|(_, key)| key.value.as_str()));
    Ok(())
}

fn write_pool(toml: &mut String, settings: &[Setting]) -> Result<(), ImportError> {
    *toml += "\n[pool]\n# up-imapproxy had no limit for one account. Keep it below the server's (Dovecot: \
              mail_max_userip_connections).\nmax_per_account = 4\n";
    if let Some(size) = last(settings, "cache_size") {
        let _ = writeln!(toml, "max_total = {}  # cache_size", size.number()?);
    }
    if let Some(time) = last(settings, "cache_expiration_time") {
        let _ = writeln!(toml, "idle_timeout = \"{}s\"  # cache_expiration_time", time.number()?.max(1));
    }
    Ok(())
}

fn level(mask: &Setting) -> &'static str {
    match mask.value.to_ascii_uppercase().as_str() {
        "LOG_DEBUG" => "debug",
        "LOG_WARNING" => "warn",
        "LOG_EMERG" | "LOG_ALERT" | "LOG_CRIT" | "LOG_ERR" => "error",
        _ => "info",
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, ListenAddr, PlaintextLogin, TlsMode};

    fn source(conf: &str) -> Source<'_> {
        Source { conf, name: "imapproxy.conf", accounts: None, read: &|_| Err(io::ErrorKind::NotFound.into()), map: "" }
    }

    fn import(conf: &str) -> (String, Config) {
        let Imported { toml, .. } = super::import(&source(conf)).unwrap();
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
        assert_eq!(super::import(&source("listen_port 143\n")), Err(ImportError::NoServer));
        for (conf, key) in [
            ("server_hostname a\n\nserver_port many\n", "server_port"),
            ("server_hostname a\n\nlisten_port 65536\n", "listen_port"),
            ("server_hostname a\n\nlisten_address eth0\n", "listen_address"),
            ("server_hostname a\n\ncache_size -1\n", "cache_size"),
            ("server_port 1\n\nserver_hostname a b\n", "server_hostname"),
        ] {
            let error = super::import(&source(conf)).unwrap_err();
            assert!(matches!(&error, ImportError::Value { line: 3, key: k, .. } if k == key), "{error}");
        }
    }
}
