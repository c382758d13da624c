//! From Perdition: perdition.conf with its popmap. Pure.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::draft::{Backend, Draft, Listener, usual_port};
use super::{ImportError, Imported, Source};
use crate::config::TlsMode;

/// `key value`, where the key may be a single letter.
struct Setting {
    line: usize,
    key: String,
    value: String,
}

/// Keys that have a letter.
const LETTERS: &[(&str, &str)] = &[
    ("A", "add_domain"),
    ("a", "authenticate_in"),
    ("B", "no_bind_banner"),
    ("b", "bind_address"),
    ("C", "connection_logging"),
    ("c", "client_server_specification"),
    ("D", "domain_delimiter"),
    ("d", "debug"),
    ("F", "log_facility"),
    ("g", "group"),
    ("I", "imap_capability"),
    ("i", "inetd_mode"),
    ("L", "connection_limit"),
    ("l", "listen_port"),
    ("M", "map_library"),
    ("m", "map_library_opt"),
    ("n", "no_lookup"),
    ("o", "server_ok_line"),
    ("P", "protocol"),
    ("p", "outgoing_port"),
    ("q", "quiet"),
    ("S", "strip_domain"),
    ("s", "outgoing_server"),
    ("t", "timeout"),
    ("U", "username_from_database"),
    ("u", "username"),
];

/// Quotes and backslashes take characters as they are; `#` begins a comment.
fn read(conf: &str) -> Vec<Setting> {
    let (mut settings, mut line, mut begun) = (Vec::new(), 1, 1);
    let (mut key, mut value, mut quote) = (String::new(), String::new(), None);
    let mut in_value = false;
    let mut characters = conf.chars().chain(['\n']).peekable();
    while let Some(it) = characters.next() {
        let word = if in_value { &mut value } else { &mut key };
        match (it, quote) {
            ('\\', None) if characters.next_if_eq(&'\n').is_some() => line += 1,
            ('\\', None | Some('"')) => word.extend(characters.next()),
            (it, Some(open)) if it == open => quote = None,
            ('"' | '\'', None) => quote = Some(it),
            ('#', None) => while characters.next_if(|it| *it != '\n').is_some() {},
            ('\n', _) => {
                line += 1;
                let name = std::mem::take(&mut key);
                let long = LETTERS.iter().find(|(letter, _)| *letter == name).map_or(name.as_str(), |(_, long)| long);
                if !name.is_empty() {
                    let key = long.trim_end_matches(':').to_owned();
                    settings.push(Setting { line: begun, key, value: value.trim().to_owned() });
                }
                value.clear();
                (begun, in_value, quote) = (line, false, None);
            }
            (it, None) if it.is_whitespace() && !in_value => in_value = !key.is_empty(),
            (it, _) => word.push(it),
        }
    }
    settings
}

/// What holds for all servers.
struct Outgoing {
    tls: TlsMode,
    port: u16,
    ca_file: Option<String>,
    /// The name in the popmap is what to log in by.
    renames: bool,
}

impl Outgoing {
    /// `host[:port]`
    fn backend(&self, text: &str) -> Option<Backend> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, number_of(port)?),
            _ => (text, self.port),
        };
        Some(Backend { ca_file: self.ca_file.clone(), ..Backend::new(host, port, self.tls)? })
    }
}

fn number_of(port: &str) -> Option<u16> {
    match port {
        "imap" | "imap2" | "imap4" => Some(143),
        "imaps" => Some(993),
        number => number.parse().ok(),
    }
}

/// Makes a draft of one process of it: of perdition.imap4 or perdition.imap4s.
pub(super) fn import(source: &Source<'_>) -> Result<Imported, ImportError> {
    let settings = read(source.conf);
    // The last one counts.
    let last = |key: &str| settings.iter().rev().find(|setting| setting.key == key);
    let text = |key: &str| last(key).map(|setting| setting.value.clone()).filter(|value| !value.is_empty());
    let mut draft = Draft::default();
    let modes = text("ssl_mode").unwrap_or_default();
    let has = |mode: &str| modes.split(',').any(|it| it.trim() == mode);
    let protocol = text("protocol").unwrap_or_default().to_ascii_uppercase();
    if let Some(setting) = last("protocol").filter(|_| !["IMAP4", "IMAP4S", "IMAPS"].contains(&protocol.as_str())) {
        return Err(error(setting, "IMAP4 or IMAP4S: imapool speaks nothing else"));
    }
    let outgoing = Outgoing {
        tls: match () {
            () if has("ssl_outgoing") || has("ssl_all") => TlsMode::Implicit,
            () if modes.contains("tls_outgoing") || modes.contains("tls_all") => TlsMode::StartTls,
            () => TlsMode::None,
        },
        port: 0,
        ca_file: text("ssl_ca_file"),
        renames: last("username_from_database").is_some(),
    };
    let port = last("outgoing_port").map_or(Ok(usual_port(outgoing.tls)), port_in)?;
    let outgoing = Outgoing { port, ..outgoing };
    let implicit = has("ssl_listen") || has("ssl_all") || protocol.ends_with('S');
    let listener = listener(&mut draft, &last, &modes, implicit)?;
    draft.listeners.push(listener);
    accounts(&mut draft, source, &last, &outgoing);
    if let Some(servers) = last("outgoing_server") {
        for server in servers.value.split(',').map(str::trim).filter(|server| !server.is_empty()) {
            let backend = outgoing.backend(server).ok_or_else(|| error(servers, "host names or IP addresses"))?;
            let place = draft.backend(backend);
            draft.goes_to(place);
        }
    }
    if !draft.has_backends() {
        return Err(ImportError::Nothing(
            "no server: neither outgoing_server nor a popmap that can be read (--accounts) names one",
        ));
    }
    settings.iter().for_each(|setting| tell(&mut draft, setting));
    Ok(draft.finish(source.name, source.map))
}

fn error(setting: &Setting, expected: &'static str) -> ImportError {
    let (key, value) = (setting.key.clone(), setting.value.clone());
    ImportError::Value { line: setting.line, key, value, expected }
}

fn port_in(setting: &Setting) -> Result<u16, ImportError> {
    number_of(&setting.value).filter(|port| *port > 0).ok_or_else(|| error(setting, "a port number"))
}

fn listener<'s>(
    draft: &mut Draft,
    last: &impl Fn(&str) -> Option<&'s Setting>,
    modes: &str,
    implicit: bool,
) -> Result<Listener, ImportError> {
    let starttls = modes.contains("tls_listen") || modes.contains("tls_all");
    let tls = if implicit {
        TlsMode::Implicit
    } else if starttls {
        TlsMode::StartTls
    } else {
        TlsMode::None
    };
    let port = last("listen_port").map_or(Ok(usual_port(tls)), port_in)?;
    let ip = match last("bind_address") {
        None => IpAddr::from([0, 0, 0, 0]),
        Some(address) if address.value.is_empty() => IpAddr::from([0, 0, 0, 0]),
        Some(address) => address.value.parse().map_err(|_| error(address, "an IP address"))?,
    };
    let file = |key: &str| last(key).map(|setting| setting.value.clone());
    let certificate = file("ssl_cert_file").zip(file("ssl_key_file"));
    if let (Some(mode), None, true) = (last("ssl_mode").or(last("protocol")), &certificate, tls != TlsMode::None) {
        draft.lose(mode.line, &mode.key, "without ssl_cert_file and ssl_key_file there is no TLS at the listener");
    }
    // `tls_listen_force` takes no password without TLS.
    let plaintext =
        tls == TlsMode::None || (tls == TlsMode::StartTls && certificate.is_some() && !modes.contains("_force"));
    let address = SocketAddr::new(ip, port).to_string();
    Ok(Listener { address, tls, certificate, client_ca_file: None, plaintext })
}

/// Reads the popmap, if it is one of text.
fn accounts<'s>(
    draft: &mut Draft,
    source: &Source<'_>,
    last: &impl Fn(&str) -> Option<&'s Setting>,
    outgoing: &Outgoing,
) {
    let (library, opt) = (last("map_library"), last("map_library_opt"));
    let is_regex = library.is_some_and(|library| library.value.contains("regex"));
    let is_table = library.is_none_or(|it| ["gdbm", "bdb", "cdb"].iter().any(|kind| it.value.contains(kind)));
    let line = opt.or(library).map_or(1, |setting| setting.line);
    if !is_regex && !is_table && source.accounts.is_none() {
        if library.is_some_and(|library| !library.value.is_empty()) {
            draft.lose(
                line,
                "map_library",
                "export it to lines `user:server` for --accounts, or write a service for [[route]] http",
            );
        }
        return;
    }
    // The table is made of a file of text beside it.
    let named = opt.map_or("/etc/perdition/popmap", |opt| opt.value.as_str());
    let mut stem = named;
    while let Some(shorter) = [".db", ".gdbm", ".bdb", ".cdb"].iter().find_map(|end| stem.strip_suffix(end)) {
        stem = shorter;
    }
    let file = source.accounts.unwrap_or_else(|| Path::new(if is_regex { named } else { stem }));
    let text = match (source.read)(file) {
        Ok(text) => text,
        // Without any setting it is there by default, or not.
        Err(_) if opt.is_none() && library.is_none() && source.accounts.is_none() => return,
        Err(error) => {
            let words = format!("{} cannot be read ({error}): name the popmap by --accounts", file.display());
            return draft.lose(line, "map_library_opt", &words);
        }
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Err(words) = account(draft, line, is_regex, outgoing) {
            draft.lose_account(number + 1, "of the popmap", words);
        }
    }
}

/// `key:[user@]host[:port]`
fn account(draft: &mut Draft, line: &str, is_regex: bool, outgoing: &Outgoing) -> Result<(), &'static str> {
    let (key, server) = line.split_once(':').ok_or("it has no colon")?;
    let (key, server) = (key.trim(), server.trim());
    let (user, host) = server.rsplit_once('@').map_or((None, server), |(user, host)| (Some(user), host));
    if server.contains('$') {
        return Err("where it leads depends on the name; write a service for [[route]] http");
    }
    let backend = outgoing.backend(host).ok_or("it names no server")?;
    let key =
        if is_regex { plain(key).ok_or("this expression has no counterpart")? } else { Plain::Key(key.to_owned()) };
    let place = draft.backend(backend);
    match key {
        Plain::All if draft.has_default() => Err("an earlier line is for everybody"),
        Plain::All => {
            draft.goes_to(place);
            Ok(())
        }
        // An earlier expression for all decides.
        Plain::Key(_) if is_regex && draft.has_default() => Err("an earlier line is for everybody"),
        Plain::Key(key) => {
            if is_regex
                && key
                    .rsplit_once('@')
                    .is_some_and(|(name, domain)| !name.is_empty() && draft.has_line_for(&format!("@{domain}")))
            {
                return Err("an earlier line is for its whole domain");
            }
            draft.account(&key, place, user.filter(|_| outgoing.renames))
        }
    }
}

/// What a regular expression means.
enum Plain {
    All,
    /// A name, or a domain with its `@`.
    Key(String),
}

/// Those that mean a name, a domain or everybody; `None`: another one.
fn plain(expression: &str) -> Option<Plain> {
    let text = expression.strip_prefix('^').unwrap_or(expression);
    let text = text.strip_suffix('$').unwrap_or(text);
    let rest = ["(.*)", ".*", "(.+)", ".+", "([^@]*)", "([^@]+)", "[^@]*", "[^@]+"]
        .iter()
        .find_map(|any| text.strip_prefix(any));
    let name = rest.unwrap_or(text).replace("\\.", ".").replace("\\@", "@");
    let is_literal = !name.contains(|it: char| "\\^$*+?()[]{}|".contains(it));
    match rest {
        Some("") => Some(Plain::All),
        Some(_) => (is_literal && name.starts_with('@') && name.len() > 1).then_some(Plain::Key(name)),
        // Without both ends, it is any name that has it within.
        None => (is_literal && expression.starts_with('^') && expression.ends_with('$')).then_some(Plain::Key(name)),
    }
}

/// What is no part of what was made already.
fn tell(draft: &mut Draft, setting: &Setting) {
    let (line, key) = (setting.line, setting.key.as_str());
    match key {
        "bind_address"
        | "listen_port"
        | "outgoing_port"
        | "outgoing_server"
        | "protocol"
        | "ssl_mode"
        | "ssl_cert_file"
        | "ssl_key_file"
        | "ssl_ca_file"
        | "map_library"
        | "map_library_opt"
        | "username_from_database" => {}
        "no_lookup" => draft.drop(line, key, "names are resolved by the system"),
        "lookup_domain" => draft.drop(line, key, "keys such as @example.org are for a domain"),
        "lower_case" => {
            draft.drop(line, key, "names are compared so (routing.user); the server gets them as they were written")
        }
        "domain_delimiter" if setting.value == "@" => draft.drop(line, key, "it is @"),
        "domain_delimiter" => draft.lose(line, key, "only @ stands before a domain"),
        "add_domain" => draft.lose(
            line,
            key,
            "routing.default_domain adds one for the lookup; the server gets the name as it was written",
        ),
        "strip_domain" => draft.lose(
            line,
            key,
            "the server gets the name as it was written; a third word in a file of accounts is another one",
        ),
        "client_server_specification" => draft.lose(line, key, "a client does not choose its server"),
        "authenticate_in" | "authenticate_timeout" => draft.lose(line, key, "the server alone judges passwords"),
        "ssl_no_cert_verify"
        | "ssl_no_cn_verify"
        | "ssl_ca_accept_self_signed"
        | "ssl_cert_accept_self_signed"
        | "ssl_cert_accept_expired"
        | "ssl_cert_accept_not_yet_valid"
        | "ssl_no_client_cert_verify" => {
            draft.lose(line, key, "the server's certificate is always verified: is it valid, for this name?");
        }
        "ssl_ca_path" => {
            draft.lose(line, key, "name one PEM file in backend.ca_file, or none, to trust the system's authorities")
        }
        "ssl_ca_chain_file" => draft.lose(line, key, "put the chain behind the certificate, into the same file"),
        "ssl_cert_verify_depth"
        | "ssl_listen_ciphers"
        | "ssl_outgoing_ciphers"
        | "ssl_dh_params_file"
        | "ssl_passphrase_fd"
        | "ssl_passphrase_file" => {
            draft.lose(line, key, "TLS 1.2 and 1.3 as they are held to be secure, and a key that is not encrypted");
        }
        "imap_capability" | "pop_capability" | "managesieve_capability" => {
            draft.drop(line, key, "the server's own are offered")
        }
        "connection_limit" | "connect_limit" => draft.lose(line, key, "limits.sessions"),
        "timeout" => draft.drop(line, key, "limits.idle_timeout"),
        "connect_relog" => draft.drop(line, key, "each session is told in the log"),
        "connection_logging" | "debug" | "quiet" => draft.drop(line, key, "log.level, and imapool ctl trace"),
        "log_facility" | "log_passwd" => {
            draft.drop(line, key, "the log goes to standard error, and never has a password")
        }
        "username" | "group" => draft.drop(line, key, "User= and Group= of the systemd service"),
        "inetd_mode" | "no_daemon" | "pid_file" | "tcp_keepalive" => draft.drop(line, key, "it needs none"),
        "no_bind_banner" | "ok_line" | "server_resp_line" | "server_ok_line" => {
            draft.drop(line, key, "the greeting is imapool's, and the answer to a login the server's");
        }
        _ => draft.lose(line, key, "imapool does not know this option"),
    }
}
