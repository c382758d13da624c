//! From Dovecot as a proxy, in the language of 2.3 or of 2.4: what `doveconf -nP` prints, with passwd-files. Pure.

mod language;

use std::collections::BTreeSet;
use std::path::Path;

use self::language::{Section, read};
use super::draft::{Backend, Draft, Fate, Listener, tls_mode, usual_port};
use super::{ImportError, Imported, Setting, Source, lines};
use crate::config::TlsMode;

/// What a passdb answers, as far as a proxy goes by it.
#[derive(Debug, Clone, Default)]
struct Fields {
    proxies: bool,
    host: Option<String>,
    port: Option<u16>,
    tls: Option<TlsMode>,
    login: Option<String>,
    /// Those that are lost, without their values.
    lost: BTreeSet<(String, &'static str)>,
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
                self.tls = if field == "ssl" { Some(TlsMode::Implicit) } else { self.tls.or(Some(TlsMode::StartTls)) };
                match value {
                    "any-cert" => {
                        self.lose(key, "the server's certificate is always verified: is it valid, for this name?");
                    }
                    "no" | "n" => self.lose(key, "means TLS to Dovecot, whatever its value: is that meant?"),
                    _ => {}
                }
            }
            "destuser" | "user" if ["%u", "%{user}"].contains(&value) => {}
            "destuser" if value.contains('%') => {
                self.lose(key, "the server gets the name as it was written; see the third word in a file of accounts");
            }
            "destuser" => self.login = Some(value.to_owned()),
            // Which name it is from there on, unless that says otherwise.
            "user" if value.contains('%') => {
                self.lose(key, "see routing.user, and the third word in a file of accounts");
            }
            "user" => drop(self.login.get_or_insert_with(|| value.to_owned())),
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
            "nopassword" | "nodelay" | "nologin" | "noauthenticate" | "proxy_nopipelining" | "password" => {}
            key if key.starts_with("userdb_") || key.starts_with("forward_") || key == "allow_nets" => {
                self.lose(key, "it has no counterpart");
            }
            _ => self.lose(key, "imapool does not know this field"),
        }
    }

    fn lose(&mut self, key: &str, words: &'static str) {
        self.lost.insert((key.to_owned(), words));
    }

    /// `proxy=y host=192.0.2.1 …`
    fn read(&mut self, text: &str) {
        for field in text.split_whitespace() {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            self.set(key, value);
        }
    }

    /// Where it leads.
    fn backend(&self, draft: &mut Draft, ca_file: Option<&str>) -> Result<usize, &'static str> {
        let host = self.host.as_deref().ok_or("it names no host")?;
        if host.contains('%') {
            return Err("where it leads depends on the name; write a service for [[route]] http");
        }
        let tls = self.tls.unwrap_or(TlsMode::None);
        let port = self.port.unwrap_or(usual_port(tls));
        let backend = Backend::new(host, port, tls).ok_or("its host is neither a name nor an IP address")?;
        Ok(draft.backend(Backend { ca_file: ca_file.map(str::to_owned), ..backend }))
    }
}

/// Makes a draft of its listeners for IMAP and of the passdbs that proxy.
pub(super) fn import(source: &Source<'_>) -> Result<Imported, ImportError> {
    let root = read(source.conf)?;
    let mut draft = Draft::default();
    listeners(&mut draft, &root);
    // Whom one denies, none lets in.
    let (denies, allows): (Vec<_>, Vec<_>) = root.of("passdb").partition(|passdb| denies(passdb));
    for passdb in denies.into_iter().chain(allows) {
        read_passdb(&mut draft, source, &root, passdb);
    }
    if draft.backends.is_empty() {
        return Err(ImportError::Nothing(
            "no passdb that proxies to a host (proxy=y host=…): import what `doveconf -nP` prints on the proxy",
        ));
    }
    draft.master_separator = root.value("auth_master_user_separator").filter(|it| !it.is_empty()).map(str::to_owned);
    for setting in &root.settings {
        draft.tell(setting.line, &setting.key, &fate(setting));
    }
    root.sections.iter().for_each(|section| tell_section(&mut draft, section));
    Ok(draft.finish(source.name, source.map))
}

/// The file of a certificate or a key, in either language.
fn file_of(section: &Section, of_23: &str, of_24: &str) -> Option<String> {
    let old = section.value(of_23).and_then(|value| value.strip_prefix('<')).map(str::trim);
    section.value(of_24).or(old).filter(|path| !path.is_empty()).map(str::to_owned)
}

/// What holds for all of its listeners.
struct Front<'s> {
    /// None without TLS.
    certificate: Option<(String, String)>,
    plaintext: bool,
    addresses: Vec<&'s str>,
}

impl<'s> Front<'s> {
    fn new(draft: &mut Draft, root: &'s Section) -> Self {
        let certificate =
            file_of(root, "ssl_cert", "ssl_server_cert_file").zip(file_of(root, "ssl_key", "ssl_server_key_file"));
        let ssl = root.value("ssl").unwrap_or("yes");
        let of_tls = ["ssl_cert", "ssl_key", "ssl_server_cert_file", "ssl_server_key_file"];
        let wants_tls = ssl == "required" || of_tls.iter().any(|key| root.value(key).is_some());
        if ssl != "no" && certificate.is_none() && wants_tls {
            let words =
                "not both are named here, so NO LISTENER HAS TLS: `doveconf -n` hides the key, `doveconf -nP` shows it";
            draft.lose(1, "ssl_cert and ssl_key", words);
        }
        let in_clear = [("disable_plaintext_auth", "no"), ("auth_allow_cleartext", "yes"), ("ssl", "any")];
        let plaintext = ssl != "required" && in_clear.iter().any(|(key, value)| root.value(key) == Some(value));
        let written = |it: &'s str| match it {
            "*" => "0.0.0.0",
            "::" => "[::]",
            it => it,
        };
        let addresses = match root.value("listen") {
            None => vec!["0.0.0.0", "[::]"],
            Some(listen) => listen.split([',', ' ']).filter(|it| !it.is_empty()).map(written).collect(),
        };
        Self { certificate: certificate.filter(|_| ssl != "no"), plaintext, addresses }
    }

    /// `imap` or `imaps`, with what is written of it.
    fn inet_listener(&self, draft: &mut Draft, (name, usual): (&str, u16), section: Option<&Section>) {
        let line = section.map_or(1, |section| section.line);
        let value = |key: &str| section.and_then(|it| it.value(key));
        let port = value("port").map_or(Some(usual), |port| port.parse().ok());
        let is_implicit = value("ssl").map_or(name == "imaps", |ssl| ssl == "yes");
        let has_tls = self.certificate.is_some();
        if port == Some(0) || (is_implicit && !has_tls) {
            return;
        }
        let Some(port) = port else { return draft.lose(line, "inet_listener", "its port is no number") };
        if value("haproxy") == Some("yes") {
            let words = "write listener.proxy_protocol_from: the load balancers' networks";
            draft.lose(line, "inet_listener haproxy", words);
        }
        let tls = tls_mode(is_implicit, has_tls);
        for address in &self.addresses {
            let is_bare = address.contains(':') && !address.starts_with('[');
            let written = if is_bare { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            let Ok(address) = written.parse::<std::net::SocketAddr>() else {
                draft.lose(1, "listen", "a name is no address to listen on");
                continue;
            };
            draft.listeners.push(self.listener(address.to_string(), tls));
        }
    }

    fn listener(&self, address: String, tls: TlsMode) -> Listener {
        let (certificate, plaintext) = (self.certificate.clone(), self.plaintext);
        Listener { address, tls, certificate, client_ca_file: None, plaintext }
    }
}

fn listeners(draft: &mut Draft, root: &Section) {
    let front = Front::new(draft, root);
    let ours = root.of("service").find(|service| service.name == "imap-login");
    let written: Vec<_> = ours.iter().flat_map(|service| service.of("inet_listener")).collect();
    for known in [("imap", 143), ("imaps", 993)] {
        let section = written.iter().find(|section| section.name == known.0);
        front.inet_listener(draft, known, section.copied());
    }
    for section in written.iter().filter(|section| !["imap", "imaps"].contains(&section.name.as_str())) {
        draft.lose(section.line, "inet_listener", "add a [[listener]] for this one");
    }
    if draft.listeners.is_empty() {
        draft.listeners.push(front.listener("127.0.0.1:143".to_owned(), TlsMode::None));
        let words = "no listener that could be taken over: write its address in place of 127.0.0.1:143";
        draft.lose(1, "service imap-login", words);
    }
}

/// A passdb, as far as each driver goes by it.
struct Passdb<'s> {
    line: usize,
    /// What notes call it.
    what: String,
    args: &'s str,
    file: Option<&'s str>,
    /// Those that come before the ones of the database, and those that come after them.
    before: Fields,
    after: Fields,
    ca_file: Option<String>,
}

fn denies(passdb: &Section) -> bool {
    passdb.value("deny") == Some("yes")
}

/// What decides which names it is for, and how, has no counterpart.
fn tell_rest(draft: &mut Draft, section: &Section, what: &str) {
    for setting in &section.settings {
        let fate = match setting.key.as_str() {
            "driver" | "args" | "default_fields" | "override_fields" | "deny" | "master" => Fate::Taken,
            // The server judges passwords.
            "passwd_file_path" | "default_password_scheme" => Fate::Taken,
            _ => Fate::Lost("it was not taken over: does anybody depend on it?"),
        };
        draft.tell(setting.line, &format!("{what} {}", setting.key), &fate);
    }
}

fn read_passdb(draft: &mut Draft, source: &Source<'_>, root: &Section, section: &Section) {
    let driver = section.value("driver").unwrap_or(&section.name);
    // `default_fields` come first, then those of the database, then `override_fields`.
    let [mut before, mut after] = [Fields::default(), Fields::default()];
    before.read(section.value("default_fields").unwrap_or_default());
    after.read(section.value("override_fields").unwrap_or_default());
    for kind in ["default_fields", "fields", "override_fields"] {
        let fields = if kind == "override_fields" { &mut after } else { &mut before };
        for setting in section.of(kind).flat_map(|section| &section.settings) {
            fields.set(&setting.key, &setting.value);
        }
    }
    let args = section.value("args").unwrap_or_default();
    let passdb = Passdb {
        line: section.line,
        what: format!("passdb {driver}"),
        args,
        // 2.4 has a setting for it, 2.3 the last word of the arguments.
        file: section.value("passwd_file_path").or_else(|| args.split_whitespace().find(|it| !it.contains('='))),
        before,
        after,
        ca_file: file_of(root, "ssl_client_ca_file", "ssl_client_ca_file"),
    };
    if ["static", "passwd-file"].contains(&driver) {
        tell_rest(draft, section, &passdb.what);
    }
    let words = match driver {
        "passwd-file" if denies(section) => return passdb.of_the_denied(draft, source),
        _ if denies(section) => "WHOM IT DENIES IS LET IN: give each an [[account]] with allow = false",
        _ if section.value("master") == Some("yes") => {
            "the server judges masters, too; auth_master_user_separator was taken over"
        }
        "static" => return passdb.of_everybody(draft),
        "passwd-file" => return passdb.of_a_file(draft, source),
        "sql" | "ldap" | "lua" | "dict" | "oauth2" => {
            "write a service in front of it for [[route]] http, or a file of accounts"
        }
        _ => "the server judges passwords; where it led to, [[route]] has to say",
    };
    passdb.lose(draft, words);
}

impl Passdb<'_> {
    fn lose(&self, draft: &mut Draft, words: &str) {
        draft.lose(self.line, &self.what, words);
    }

    fn of_everybody(mut self, draft: &mut Draft) {
        self.before.read(self.args);
        let fields = merged(&self.before, &self.after);
        for (key, words) in &fields.lost {
            draft.lose(self.line, &format!("{} {key}", self.what), words);
        }
        let led = if !fields.proxies {
            Err("it does not proxy; the server judges passwords")
        } else if !draft.default.is_empty() {
            Err("an earlier one is for everybody")
        } else {
            fields.backend(draft, self.ca_file.as_deref())
        };
        match led {
            Ok(backend) => drop(draft.default.insert(backend)),
            Err(words) => self.lose(draft, words),
        }
    }

    fn of_a_file(&self, draft: &mut Draft, source: &Source<'_>) {
        if !draft.default.is_empty() {
            return self.lose(draft, "an earlier one is for everybody, so that nobody comes to this one");
        }
        for word in self.args.split_whitespace().filter(|word| word.starts_with("username_format=")) {
            if !["%u", "%Lu", "%{user}", "%{user|lower}"].contains(&&word["username_format=".len()..]) {
                let words =
                    "names in the file are parts of the accounts': see routing.default_domain, or write them whole";
                draft.lose(self.line, &format!("{} username_format", self.what), words);
            }
        }
        let Some(file) = source.accounts.or_else(|| self.file.map(Path::new)) else {
            return self.lose(draft, "it names no file: name it by --accounts");
        };
        match (source.read)(file) {
            Ok(text) => accounts(draft, &text, &self.before, &self.after, self.ca_file.as_deref()),
            Err(error) => {
                self.lose(draft, &format!("{} cannot be read ({error}): name it by --accounts", file.display()));
            }
        }
    }

    /// Each in it is refused. What `--accounts` names is no list of them.
    fn of_the_denied(&self, draft: &mut Draft, source: &Source<'_>) {
        let Some(Ok(text)) = self.file.map(|file| (source.read)(Path::new(file))) else {
            let words =
                "its file cannot be read, and WHOM IT DENIES IS LET IN: give each an [[account]] with allow = false";
            return self.lose(draft, words);
        };
        for (number, line) in lines(&text) {
            let Some(user) = line.split(':').next().filter(|user| !user.is_empty()) else { continue };
            if let Err(words) = draft.account(user, None, None) {
                draft.lose_account(number, "of those who are denied", words);
            }
        }
    }
}

/// One after the other.
fn merged(first: &Fields, second: &Fields) -> Fields {
    Fields {
        proxies: first.proxies || second.proxies,
        host: second.host.clone().or_else(|| first.host.clone()),
        port: second.port.or(first.port),
        tls: second.tls.or(first.tls),
        login: second.login.clone().or_else(|| first.login.clone()),
        lost: &first.lost | &second.lost,
    }
}

/// `user:password:uid:gid:gecos:home:shell:fields`; no password is looked at.
fn accounts(draft: &mut Draft, text: &str, before: &Fields, after: &Fields, ca_file: Option<&str>) {
    const OF_THE_FILE: &str = "of the passwd-file";
    for (number, line) in lines(text) {
        let (user, rest) = line.split_once(':').unwrap_or((line, ""));
        let mut own = Fields::default();
        own.read(rest.splitn(7, ':').nth(6).unwrap_or_default());
        let fields = merged(&merged(before, &own), after);
        for (key, words) in &fields.lost {
            draft.lose_account(number, &format!("{OF_THE_FILE} {key}"), words);
        }
        if !fields.proxies {
            draft.lose_account(number, OF_THE_FILE, "it does not proxy");
            continue;
        }
        let login = fields.login.as_deref();
        let backend = fields.backend(draft, ca_file);
        if let Err(words) = backend.and_then(|backend| draft.account(user, Some(backend), login)) {
            draft.lose_account(number, OF_THE_FILE, words);
        }
    }
}

fn fate(setting: &Setting) -> Fate {
    use Fate::{Done, Lost, Taken};
    match setting.key.as_str() {
        "listen"
        | "ssl"
        | "ssl_cert"
        | "ssl_key"
        | "ssl_server_cert_file"
        | "ssl_server_key_file"
        | "ssl_client_ca_file"
        | "disable_plaintext_auth"
        | "auth_allow_cleartext"
        | "auth_master_user_separator" => Taken,
        "!include" | "!include_try" => Lost("what it names was not read; import what `doveconf -nP` prints"),
        "ssl_client_ca_dir" => Lost("name one PEM file in backend.ca_file, or none, to trust the system's authorities"),
        "ssl_client_require_valid_cert" => Done("the server's certificate is always verified"),
        "ssl_client_cert" | "ssl_client_key" | "ssl_client_cert_file" | "ssl_client_key_file" => {
            Lost("backend.certificate and backend.private_key")
        }
        "ssl_ca"
        | "ssl_server_ca_file"
        | "ssl_verify_client_cert"
        | "ssl_server_request_client_cert"
        | "auth_ssl_require_client_cert" => Lost("listener.client_ca_file"),
        "ssl_min_protocol"
        | "ssl_cipher_list"
        | "ssl_cipher_suites"
        | "ssl_curve_list"
        | "ssl_dh"
        | "ssl_server_dh_file"
        | "ssl_prefer_server_ciphers"
        | "ssl_server_prefer_ciphers"
        | "ssl_options" => Done("TLS 1.2 and 1.3, with the cipher suites that are held to be secure"),
        "ssl_key_password" | "ssl_server_key_password" => Lost("the key must not be encrypted"),
        "haproxy_trusted_networks" => Lost("listener.proxy_protocol_from"),
        "login_trusted_networks" => {
            Lost("what clients say by ID of who is behind them is not believed; see listener.proxy_protocol_from")
        }
        "auth_default_realm" | "auth_default_domain" => Lost("routing.default_domain"),
        "auth_username_format" => Lost("see routing.user; the server gets the name as it was written"),
        "login_greeting" => Done("the greeting is imapool's"),
        "mail_max_userip_connections" => {
            Lost("limits.sessions_per_address, and pool.max_per_account towards the server")
        }
        "imap_capability" | "auth_mechanisms" => Done("the server's own are offered"),
        "dovecot_config_version"
        | "dovecot_storage_version"
        | "protocols"
        | "base_dir"
        | "state_dir"
        | "instance_name"
        | "verbose_proctitle"
        | "shutdown_clients" => Done("no part of the proxy"),
        key if key.starts_with("first_valid") || key.starts_with("last_valid") => Done("no part of the proxy for IMAP"),
        key => match key.split_once('_').map_or("", |(area, _)| area) {
            "mail" | "mailbox" | "log" | "auth" | "login" | "default" | "lda" | "lmtp" | "mdbox" | "doveadm"
            | "submission" | "pop3" | "sieve" | "quota" | "postmaster" | "debug" | "info" | "syslog" | "stats" => {
                Done("no part of the proxy for IMAP")
            }
            _ => Lost("imapool does not know this setting"),
        },
    }
}

fn tell_section(draft: &mut Draft, section: &Section) {
    use Fate::{Done, Lost, Taken};
    let what = format!("{} {}", section.kind, section.name);
    let what = what.trim();
    let fate = match section.kind.as_str() {
        "passdb" => Taken,
        "service" if section.name == "imap-login" => {
            for setting in &section.settings {
                let what = format!("{what} {}", setting.key);
                draft.tell(setting.line, &what, &Done("one process serves all; see [limits]"));
            }
            Taken
        }
        "local_name" => Lost("put its certificate with its key into a folder, for listener.certificates"),
        "local" | "remote" => Lost("what holds for some addresses only was not taken over"),
        "protocol" if section.name == "imap" => Lost("what is in it was not taken over"),
        "protocol" | "protocols" | "service" | "userdb" | "namespace" | "plugin" | "dict" | "mail_plugins"
        | "event_exporter" | "metric" | "fs_list" | "mailbox" => Done("no part of the proxy for IMAP"),
        _ => Lost("imapool does not know this section"),
    };
    draft.tell(section.line, what, &fate);
}
