//! From Perdition: perdition.conf with its popmap. Pure.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::draft::{Backend, Draft, Fate, Listener, tls_mode, usual_port};
use super::{ImportError, Imported, Setting, Source, last, lines, port_of};
use crate::config::TlsMode;

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
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port_of(port)?),
            _ => (text, self.port),
        };
        Some(Backend { ca_file: self.ca_file.clone(), ..Backend::new(host, port, self.tls)? })
    }
}

/// Makes a draft of one process of it: of perdition.imap4 or perdition.imap4s.
pub(super) fn import(source: &Source<'_>) -> Result<Imported, ImportError> {
    let settings = read(source.conf);
    let text = |key: &str| last(&settings, key).map(|setting| setting.value.clone()).filter(|value| !value.is_empty());
    let mut draft = Draft::default();
    let modes = text("ssl_mode").unwrap_or_default();
    let has = |mode: &str| modes.split(',').any(|it| it.trim() == mode);
    let protocol = text("protocol").unwrap_or_default().to_ascii_uppercase();
    let spoken = ["IMAP4", "IMAP4S", "IMAPS"];
    if let Some(setting) = last(&settings, "protocol").filter(|_| !spoken.contains(&protocol.as_str())) {
        return Err(setting.error("IMAP4 or IMAP4S: imapool speaks nothing else"));
    }
    let starttls = modes.contains("tls_outgoing") || modes.contains("tls_all");
    let tls = tls_mode(has("ssl_outgoing") || has("ssl_all"), starttls);
    let outgoing = Outgoing {
        tls,
        port: port_in(&settings, "outgoing_port", tls)?,
        ca_file: text("ssl_ca_file"),
        renames: last(&settings, "username_from_database").is_some(),
    };
    let implicit = has("ssl_listen") || has("ssl_all") || protocol.ends_with('S');
    let listener = listener(&mut draft, &settings, &modes, implicit)?;
    draft.listeners.push(listener);
    accounts(&mut draft, source, &settings, &outgoing);
    if let Some(servers) = last(&settings, "outgoing_server") {
        for server in servers.value.split(',').map(str::trim).filter(|server| !server.is_empty()) {
            let backend = outgoing.backend(server).ok_or_else(|| servers.error("host names or IP addresses"))?;
            let place = draft.backend(backend);
            draft.default.insert(place);
        }
    }
    if draft.backends.is_empty() {
        return Err(ImportError::Nothing(
            "no server: neither outgoing_server nor a popmap that can be read (--accounts) names one",
        ));
    }
    for setting in &settings {
        draft.tell(setting.line, &setting.key, &fate(setting));
    }
    Ok(draft.finish(source.name, source.map))
}

/// That of a key, or the usual one.
fn port_in(settings: &[Setting], key: &str, tls: TlsMode) -> Result<u16, ImportError> {
    let Some(setting) = last(settings, key) else { return Ok(usual_port(tls)) };
    port_of(&setting.value).filter(|port| *port > 0).ok_or_else(|| setting.error("a port number"))
}

fn listener(draft: &mut Draft, settings: &[Setting], modes: &str, implicit: bool) -> Result<Listener, ImportError> {
    let starttls = modes.contains("tls_listen") || modes.contains("tls_all");
    let tls = tls_mode(implicit, starttls);
    let port = port_in(settings, "listen_port", tls)?;
    let ip = match last(settings, "bind_address").filter(|address| !address.value.is_empty()) {
        None => IpAddr::from([0, 0, 0, 0]),
        Some(address) => address.value.parse().map_err(|_| address.error("an IP address"))?,
    };
    let file = |key: &str| last(settings, key).map(|setting| setting.value.clone());
    let certificate = file("ssl_cert_file").zip(file("ssl_key_file"));
    let mode = last(settings, "ssl_mode").or(last(settings, "protocol"));
    if let (Some(mode), None, true) = (mode, &certificate, tls != TlsMode::None) {
        draft.lose(mode.line, &mode.key, "without ssl_cert_file and ssl_key_file there is no TLS at the listener");
    }
    // `tls_listen_force` takes no password without TLS.
    let plaintext =
        tls == TlsMode::None || (tls == TlsMode::StartTls && certificate.is_some() && !modes.contains("_force"));
    let address = SocketAddr::new(ip, port).to_string();
    Ok(Listener { address, tls, certificate, client_ca_file: None, plaintext })
}

/// Reads the popmap, if it is one of text.
fn accounts(draft: &mut Draft, source: &Source<'_>, settings: &[Setting], outgoing: &Outgoing) {
    let (library, opt) = (last(settings, "map_library"), last(settings, "map_library_opt"));
    let is_regex = library.is_some_and(|library| library.value.contains("regex"));
    let is_table = library.is_none_or(|it| ["gdbm", "bdb", "cdb"].iter().any(|kind| it.value.contains(kind)));
    let line = opt.or(library).map_or(1, |setting| setting.line);
    if !is_regex && !is_table && source.accounts.is_none() {
        if library.is_some_and(|library| !library.value.is_empty()) {
            let words = "export it to lines `user:server` for --accounts, or write a service for [[route]] http";
            draft.lose(line, "map_library", words);
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
    for (number, line) in lines(&text) {
        if let Err(words) = account(draft, line, is_regex, outgoing) {
            draft.lose_account(number, "of the popmap", words);
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
    let key = if is_regex { plain(key).ok_or("this expression has no counterpart")? } else { key.to_owned() };
    let place = draft.backend(backend);
    // An earlier expression that fits decides.
    if is_regex {
        if !draft.default.is_empty() {
            return Err("an earlier line is for everybody");
        }
        if key == EVERYBODY {
            draft.default.insert(place);
            return Ok(());
        }
        let domain = key.rsplit_once('@').filter(|(name, _)| !name.is_empty());
        if domain.is_some_and(|(_, domain)| draft.has_line_for(&format!("@{domain}"))) {
            return Err("an earlier line is for its whole domain");
        }
    }
    draft.account(&key, Some(place), user.filter(|_| outgoing.renames))
}

/// What an expression for all names means.
const EVERYBODY: &str = "*";

/// What it means: a name, a domain with its `@`, or [`EVERYBODY`]; `None`: something else.
fn plain(expression: &str) -> Option<String> {
    let text = expression.strip_prefix('^').unwrap_or(expression);
    let text = text.strip_suffix('$').unwrap_or(text);
    let rest = ["(.*)", ".*", "(.+)", ".+", "([^@]*)", "([^@]+)", "[^@]*", "[^@]+"]
        .iter()
        .find_map(|any| text.strip_prefix(any));
    let name = rest.unwrap_or(text).replace("\\.", ".").replace("\\@", "@");
    let is_literal = !name.contains(|it: char| "\\^$*+?()[]{}|".contains(it));
    match rest {
        Some("") => Some(EVERYBODY.to_owned()),
        Some(_) => (is_literal && name.starts_with('@') && name.len() > 1).then_some(name),
        // Without both ends, it is any name that has it within.
        None => (is_literal && expression.starts_with('^') && expression.ends_with('$')).then_some(name),
    }
}

fn fate(setting: &Setting) -> Fate {
    use Fate::{Done, Lost, Taken};
    match setting.key.as_str() {
        "bind_address" | "listen_port" | "outgoing_port" | "outgoing_server" | "protocol" | "ssl_mode" => Taken,
        "ssl_cert_file" | "ssl_key_file" | "ssl_ca_file" | "map_library" | "map_library_opt" => Taken,
        "username_from_database" => Taken,
        "no_lookup" => Done("names are resolved by the system"),
        "lookup_domain" => Done("keys such as @example.org are for a domain"),
        "lower_case" => Done("names are compared so (routing.user); the server gets them as they were written"),
        "domain_delimiter" if setting.value == "@" => Done("it is @"),
        "domain_delimiter" => Lost("only @ stands before a domain"),
        "add_domain" => {
            Lost("routing.default_domain adds one for the lookup; the server gets the name as it was written")
        }
        "strip_domain" => {
            Lost("the server gets the name as it was written; a third word in a file of accounts is another one")
        }
        "client_server_specification" => Lost("a client does not choose its server"),
        "authenticate_in" | "authenticate_timeout" => Lost("the server alone judges passwords"),
        "ssl_no_cert_verify"
        | "ssl_no_cn_verify"
        | "ssl_ca_accept_self_signed"
        | "ssl_cert_accept_self_signed"
        | "ssl_cert_accept_expired"
        | "ssl_cert_accept_not_yet_valid"
        | "ssl_no_client_cert_verify" => {
            Lost("the server's certificate is always verified: is it valid, for this name?")
        }
        "ssl_ca_path" => Lost("name one PEM file in backend.ca_file, or none, to trust the system's authorities"),
        "ssl_ca_chain_file" => Lost("put the chain behind the certificate, into the same file"),
        "ssl_cert_verify_depth"
        | "ssl_listen_ciphers"
        | "ssl_outgoing_ciphers"
        | "ssl_dh_params_file"
        | "ssl_passphrase_fd"
        | "ssl_passphrase_file" => {
            Lost("TLS 1.2 and 1.3 as they are held to be secure, and a key that is not encrypted")
        }
        "imap_capability" | "pop_capability" | "managesieve_capability" => Done("the server's own are offered"),
        "connection_limit" | "connect_limit" => Lost("limits.sessions"),
        "timeout" => Done("limits.idle_timeout"),
        "connect_relog" => Done("each session is told in the log"),
        "connection_logging" | "debug" | "quiet" => Done("log.level, and imapool ctl trace"),
        "log_facility" | "log_passwd" => Done("the log goes to standard error, and never has a password"),
        "username" | "group" => Done("User= and Group= of the systemd service"),
        "inetd_mode" | "no_daemon" | "pid_file" | "tcp_keepalive" => Done("it needs none"),
        "no_bind_banner" | "ok_line" | "server_resp_line" | "server_ok_line" => {
            Done("the greeting is imapool's, and the answer to a login the server's")
        }
        _ => Lost("imapool does not know this option"),
    }
}
