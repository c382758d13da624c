//! From Dovecot as a proxy, in the language of 2.3 or of 2.4: what `doveconf -nP` prints, with passwd-files. Pure.

mod language;

use std::path::Path;

use self::language::{Section, Setting, read};
use super::draft::{Backend, Draft, Listener, usual_port};
use super::{ImportError, Imported, Source};
use crate::config::TlsMode;

/// What a passdb answers, as far as a proxy goes by it.
#[derive(Debug, Clone)]
struct Fields {
    proxies: bool,
    host: Option<String>,
    port: Option<u16>,
    tls: TlsMode,
    login: Option<String>,
    /// Those that are lost, without their values.
    lost: Vec<(String, &'static str)>,
}

impl Default for Fields {
    fn default() -> Self {
        Self { proxies: false, host: None, port: None, tls: TlsMode::None, login: None, lost: Vec::new() }
    }
}

impl Fields {
    fn set(&mut self, key: &str, value: &str) {
        // 2.4 can have one of a protocol or a passdb of its own: `!proxy`.
        match key.trim_start_matches('!') {
            "proxy" | "proxy_maybe" | "proxy_always" => self.proxies |= !["n", "no"].contains(&value),
            "host" | "hostip" => self.host = Some(value.to_owned()),
            "port" => match value.parse() {
                Ok(port) => self.port = Some(port),
                Err(_) => self.lose(key, "it is no number"),
            },
            // Whatever the value is: Dovecot looks at none but `any-cert`.
            field @ ("ssl" | "starttls") => {
                match field {
                    "ssl" => self.tls = TlsMode::Implicit,
                    _ if self.tls == TlsMode::None => self.tls = TlsMode::StartTls,
                    _ => {}
                }
                match value {
                    "any-cert" => {
                        self.lose(key, "the server's certificate is always verified: is it valid, for this name?");
                    }
                    "no" | "n" => self.lose(key, "means TLS to Dovecot, whatever its value: is that meant?"),
                    _ => {}
                }
            }
            "destuser" if value.contains('%') => {
                if !["%u", "%{user}"].contains(&value) {
                    self.lose(
                        key,
                        "the server gets the name as it was written; see the third word in a file of accounts",
                    );
                }
            }
            "destuser" => self.login = Some(value.to_owned()),
            "pass" if ["%w", "%{password}"].contains(&value) => {}
            "pass" | "master" | "proxy_mech" => {
                self.lose(key, "imapool logs in as the client does, and with nobody else's password");
            }
            "proxy_timeout" => self.lose(key, "backend.connect_timeout and backend.login_timeout"),
            "source_ip" => self.lose(key, "backend.source_addresses"),
            "delay_until" => {
                self.lose(key, "an account that moves leaves its old server before it logs in at the new one")
            }
            // The server judges the password, and these are about one's own.
            "nopassword" | "nodelay" | "nologin" | "noauthenticate" | "proxy_nopipelining" | "password" | "user" => {}
            key if key.starts_with("userdb_") || key.starts_with("forward_") || key == "allow_nets" => {
                self.lose(key, "it has no counterpart");
            }
            _ => self.lose(key, "imapool does not know this field"),
        }
    }

    fn lose(&mut self, key: &str, words: &'static str) {
        self.lost.push((key.to_owned(), words));
    }

    /// `proxy=y host=192.0.2.1 …`
    fn read(&mut self, text: &str) {
        for field in text.split_whitespace() {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            self.set(key, value);
        }
    }

    /// Tells what of it is lost, once for each name.
    fn tell(&mut self, draft: &mut Draft, line: usize, what: &str) {
        self.lost.sort_unstable();
        self.lost.dedup();
        for (key, words) in self.lost.drain(..) {
            draft.lose(line, &format!("{what} {key}"), words);
        }
    }

    /// Where it leads.
    fn backend(&self, draft: &mut Draft, ca_file: Option<&str>) -> Result<usize, &'static str> {
        let host = self.host.as_deref().ok_or("it names no host")?;
        if host.contains('%') {
            return Err("where it leads depends on the name; write a service for [[route]] http");
        }
        let port = self.port.unwrap_or(usual_port(self.tls));
        let backend = Backend::new(host, port, self.tls).ok_or("its host is neither a name nor an IP address")?;
        Ok(draft.backend(Backend { ca_file: ca_file.map(str::to_owned), ..backend }))
    }
}

/// Makes a draft of its listeners for IMAP and of the passdbs that proxy.
pub(super) fn import(source: &Source<'_>) -> Result<Imported, ImportError> {
    let root = read(source.conf)?;
    let mut draft = Draft::default();
    listeners(&mut draft, &root);
    for passdb in root.of("passdb") {
        read_passdb(&mut draft, source, &root, passdb);
    }
    if !draft.has_backends() {
        return Err(ImportError::Nothing(
            "no passdb that proxies to a host (proxy=y host=…): import what `doveconf -nP` prints on the proxy",
        ));
    }
    draft.master_separator = root.value("auth_master_user_separator").filter(|it| !it.is_empty()).map(str::to_owned);
    root.settings.iter().for_each(|setting| tell_setting(&mut draft, setting));
    root.sections.iter().for_each(|section| tell_section(&mut draft, section));
    Ok(draft.finish(source.name, source.map))
}

/// The file of a certificate or a key, in either language.
fn file_of(section: &Section, of_23: &str, of_24: &str) -> Option<String> {
    let old = section.value(of_23).and_then(|value| value.strip_prefix('<')).map(str::trim);
    section.value(of_24).or(old).filter(|path| !path.is_empty()).map(str::to_owned)
}

fn listeners(draft: &mut Draft, root: &Section) {
    let certificate =
        file_of(root, "ssl_cert", "ssl_server_cert_file").zip(file_of(root, "ssl_key", "ssl_server_key_file"));
    let ssl = root.value("ssl").unwrap_or("yes");
    let of_tls = ["ssl_cert", "ssl_key", "ssl_server_cert_file", "ssl_server_key_file"];
    if ssl != "no" && certificate.is_none() && (ssl == "required" || of_tls.iter().any(|key| root.value(key).is_some()))
    {
        draft.lose(
            1,
            "ssl_cert and ssl_key",
            "not both are named here, so NO LISTENER HAS TLS: `doveconf -n` hides the key, `doveconf -nP` shows it",
        );
    }
    let in_clear = [("disable_plaintext_auth", "no"), ("auth_allow_cleartext", "yes"), ("ssl", "any")];
    let plaintext = ssl != "required" && in_clear.iter().any(|(key, value)| root.value(key) == Some(value));
    let addresses: Vec<_> = match root.value("listen") {
        None => vec!["0.0.0.0", "[::]"],
        Some(listen) => listen
            .split([',', ' '])
            .filter(|it| !it.is_empty())
            .map(|it| match it {
                "*" => "0.0.0.0",
                "::" => "[::]",
                it => it,
            })
            .collect(),
    };
    let ours = root.of("service").find(|service| service.name == "imap-login");
    let written: Vec<_> = ours.iter().flat_map(|service| service.of("inet_listener")).collect();
    for (name, usual) in [("imap", 143), ("imaps", 993)] {
        let section = written.iter().find(|section| section.name == name);
        let port = section.and_then(|it| it.value("port")).map_or(Some(usual), |port| port.parse().ok());
        let is_implicit = section.and_then(|it| it.value("ssl")).map_or(name == "imaps", |ssl| ssl == "yes");
        if port == Some(0) || (is_implicit && (ssl == "no" || certificate.is_none())) {
            continue;
        }
        let Some(port) = port else {
            let line = section.map_or(1, |section| section.line);
            draft.lose(line, "inet_listener", "its port is no number");
            continue;
        };
        if section.and_then(|it| it.value("haproxy")).is_some_and(|it| it == "yes") {
            draft.lose(
                section.map_or(1, |it| it.line),
                "inet_listener haproxy",
                "write listener.proxy_protocol_from: the load balancers' networks",
            );
        }
        let starttls = if ssl == "no" || certificate.is_none() { TlsMode::None } else { TlsMode::StartTls };
        let tls = if is_implicit { TlsMode::Implicit } else { starttls };
        for address in &addresses {
            let address = if address.contains(':') && !address.starts_with('[') {
                format!("[{address}]")
            } else {
                (*address).to_owned()
            };
            let Ok(address) = format!("{address}:{port}").parse::<std::net::SocketAddr>() else {
                draft.lose(1, "listen", "a name is no address to listen on");
                continue;
            };
            let certificate = certificate.clone();
            draft.listeners.push(Listener {
                address: address.to_string(),
                tls,
                certificate,
                client_ca_file: None,
                plaintext,
            });
        }
    }
    for section in written.iter().filter(|section| !["imap", "imaps"].contains(&section.name.as_str())) {
        draft.lose(section.line, "inet_listener", "add a [[listener]] for this one");
    }
    if draft.listeners.is_empty() {
        draft.listeners.push(Listener {
            address: "127.0.0.1:143".into(),
            tls: TlsMode::None,
            certificate: None,
            client_ca_file: None,
            plaintext: false,
        });
        draft.lose(
            1,
            "service imap-login",
            "no listener that could be taken over: write its address in place of 127.0.0.1:143",
        );
    }
}

fn read_passdb(draft: &mut Draft, source: &Source<'_>, root: &Section, passdb: &Section) {
    let driver = passdb.value("driver").unwrap_or(&passdb.name).to_owned();
    let what = format!("passdb {driver}");
    let args = passdb.value("args").unwrap_or_default();
    let ca_file = file_of(root, "ssl_client_ca_file", "ssl_client_ca_file");
    // `default_fields` come first, then those of the database, then `override_fields`.
    let [mut before, mut after] = [Fields::default(), Fields::default()];
    before.read(passdb.value("default_fields").unwrap_or_default());
    after.read(passdb.value("override_fields").unwrap_or_default());
    for kind in ["default_fields", "fields", "override_fields"] {
        let fields = if kind == "override_fields" { &mut after } else { &mut before };
        for setting in passdb.of(kind).flat_map(|section| &section.settings) {
            fields.set(&setting.key, &setting.value);
        }
    }
    if passdb.value("master").is_some_and(|it| it == "yes") {
        return draft.lose(
            passdb.line,
            &what,
            "the server judges masters, too; auth_master_user_separator was taken over",
        );
    }
    match driver.as_str() {
        "static" => {
            before.read(args);
            let fields = merged(&before, &after);
            let mut told = fields.clone();
            told.tell(draft, passdb.line, &what);
            if !fields.proxies {
                draft.lose(passdb.line, &what, "it does not proxy; the server judges passwords");
            } else if draft.has_default() {
                draft.lose(passdb.line, &what, "an earlier one is for everybody");
            } else {
                match fields.backend(draft, ca_file.as_deref()) {
                    Ok(backend) => draft.goes_to(backend),
                    Err(words) => draft.lose(passdb.line, &what, words),
                }
            }
        }
        "passwd-file" => {
            let named =
                passdb.value("passwd_file_path").or_else(|| args.split_whitespace().find(|it| !it.contains('=')));
            let Some(file) = source.accounts.or_else(|| named.map(Path::new)) else {
                return draft.lose(passdb.line, &what, "it names no file: name it by --accounts");
            };
            match (source.read)(file) {
                Ok(text) => accounts(draft, &text, &before, &after, ca_file.as_deref()),
                Err(error) => {
                    let words = format!("{} cannot be read ({error}): name it by --accounts", file.display());
                    draft.lose(passdb.line, &what, &words);
                }
            }
        }
        "sql" | "ldap" | "lua" | "dict" | "oauth2" => {
            draft.lose(passdb.line, &what, "write a service in front of it for [[route]] http, or a file of accounts");
        }
        _ => draft.lose(passdb.line, &what, "the server judges passwords; where it led to, [[route]] has to say"),
    }
}

/// One after the other.
fn merged(first: &Fields, second: &Fields) -> Fields {
    Fields {
        proxies: first.proxies || second.proxies,
        host: second.host.clone().or_else(|| first.host.clone()),
        port: second.port.or(first.port),
        tls: if second.tls == TlsMode::None { first.tls } else { second.tls },
        login: second.login.clone().or_else(|| first.login.clone()),
        lost: [&first.lost[..], &second.lost].concat(),
    }
}

/// `user:password:uid:gid:gecos:home:shell:fields`; no password is looked at.
fn accounts(draft: &mut Draft, text: &str, before: &Fields, after: &Fields, ca_file: Option<&str>) {
    const OF_THE_FILE: &str = "of the passwd-file";
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (user, rest) = line.split_once(':').unwrap_or((line, ""));
        let mut own = Fields::default();
        own.read(rest.splitn(7, ':').nth(6).unwrap_or_default());
        let mut fields = merged(&merged(before, &own), after);
        fields.tell(draft, number + 1, OF_THE_FILE);
        if !fields.proxies {
            draft.lose(number + 1, OF_THE_FILE, "it does not proxy");
            continue;
        }
        let login = fields.login.clone();
        let written = fields.backend(draft, ca_file).and_then(|backend| draft.account(user, backend, login.as_deref()));
        if let Err(words) = written {
            draft.lose(number + 1, OF_THE_FILE, words);
        }
    }
}

fn tell_setting(draft: &mut Draft, setting: &Setting) {
    let (line, key) = (setting.line, setting.key.as_str());
    match key {
        "listen"
        | "ssl"
        | "ssl_cert"
        | "ssl_key"
        | "ssl_server_cert_file"
        | "ssl_server_key_file"
        | "ssl_client_ca_file"
        | "disable_plaintext_auth"
        | "auth_allow_cleartext"
        | "auth_master_user_separator" => {}
        "!include" | "!include_try" => {
            draft.lose(line, key, "what it names was not read; import what `doveconf -nP` prints")
        }
        "ssl_client_ca_dir" => {
            draft.lose(line, key, "name one PEM file in backend.ca_file, or none, to trust the system's authorities")
        }
        "ssl_client_require_valid_cert" => draft.drop(line, key, "the server's certificate is always verified"),
        "ssl_client_cert" | "ssl_client_key" | "ssl_client_cert_file" | "ssl_client_key_file" => {
            draft.lose(line, key, "backend.certificate and backend.private_key");
        }
        "ssl_ca"
        | "ssl_server_ca_file"
        | "ssl_verify_client_cert"
        | "ssl_server_request_client_cert"
        | "auth_ssl_require_client_cert" => draft.lose(line, key, "listener.client_ca_file"),
        "ssl_min_protocol"
        | "ssl_cipher_list"
        | "ssl_cipher_suites"
        | "ssl_curve_list"
        | "ssl_dh"
        | "ssl_server_dh_file"
        | "ssl_prefer_server_ciphers"
        | "ssl_server_prefer_ciphers"
        | "ssl_options" => {
            draft.drop(line, key, "TLS 1.2 and 1.3, with the cipher suites that are held to be secure");
        }
        "ssl_key_password" | "ssl_server_key_password" => draft.lose(line, key, "the key must not be encrypted"),
        "haproxy_trusted_networks" => draft.lose(line, key, "listener.proxy_protocol_from"),
        "login_trusted_networks" => draft.lose(
            line,
            key,
            "what clients say by ID of who is behind them is not believed; see listener.proxy_protocol_from",
        ),
        "auth_default_realm" | "auth_default_domain" => draft.lose(line, key, "routing.default_domain"),
        "auth_username_format" => draft.lose(line, key, "see routing.user; the server gets the name as it was written"),
        "login_greeting" => draft.drop(line, key, "the greeting is imapool's"),
        "mail_max_userip_connections" => {
            draft.lose(line, key, "limits.sessions_per_address, and pool.max_per_account towards the server")
        }
        "imap_capability" | "auth_mechanisms" => draft.drop(line, key, "the server's own are offered"),
        "dovecot_config_version"
        | "dovecot_storage_version"
        | "protocols"
        | "base_dir"
        | "state_dir"
        | "instance_name"
        | "verbose_proctitle"
        | "shutdown_clients" => draft.drop(line, key, "no part of the proxy"),
        _ if [
            "mail_",
            "mailbox_",
            "log_",
            "auth_",
            "login_",
            "default_",
            "first_valid",
            "last_valid",
            "lda_",
            "lmtp_",
            "mdbox_",
            "doveadm_",
            "submission_",
            "pop3_",
            "sieve_",
            "quota_",
            "postmaster_",
            "debug_",
            "info_",
            "syslog_",
            "stats_",
        ]
        .iter()
        .any(|start| key.starts_with(start)) =>
        {
            draft.drop(line, key, "no part of the proxy for IMAP");
        }
        _ => draft.lose(line, key, "imapool does not know this setting"),
    }
}

fn tell_section(draft: &mut Draft, section: &Section) {
    let what = format!("{} {}", section.kind, section.name);
    let (line, what) = (section.line, what.trim());
    match section.kind.as_str() {
        "passdb" => {}
        "service" if section.name == "imap-login" => {
            for setting in &section.settings {
                draft.drop(setting.line, &format!("{what} {}", setting.key), "one process serves all; see [limits]");
            }
        }
        "local_name" => {
            draft.lose(line, what, "put its certificate with its key into a folder, for listener.certificates")
        }
        "local" | "remote" => draft.lose(line, what, "what holds for some addresses only was not taken over"),
        "protocol" if section.name == "imap" => draft.lose(line, what, "what is in it was not taken over"),
        "protocol" | "protocols" | "service" | "userdb" | "namespace" | "plugin" | "dict" | "mail_plugins"
        | "event_exporter" | "metric" | "fs_list" | "mailbox" => {
            draft.drop(line, what, "no part of the proxy for IMAP")
        }
        _ => draft.lose(line, what, "imapool does not know this section"),
    }
}
