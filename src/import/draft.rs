//! What becomes of a foreign configuration, before it is written down.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;

use imapool_proto::routing::map::LONGEST_LINE;
use imapool_proto::routing::name::{Names, Pattern};

use super::Imported;
use crate::config::{TlsMode, is_host_name};

/// Such lists are read by people.
const MOST_NOTES: usize = 1000;
/// So many accounts are named that were left out for the same reason; the others are counted.
const MOST_ALIKE: usize = 10;
/// So many reasons are told of why accounts were left out.
const MOST_REASONS: usize = 100;

/// Where IMAP is (RFC 8314 section 7.1).
pub(super) fn usual_port(tls: TlsMode) -> u16 {
    if tls == TlsMode::Implicit { 993 } else { 143 }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listener {
    /// As `listener.address` has it.
    pub(super) address: String,
    pub(super) tls: TlsMode,
    /// Chain and key; both, or there is no TLS.
    pub(super) certificate: Option<(String, String)>,
    pub(super) client_ca_file: Option<String>,
    /// Passwords were taken without TLS from anywhere.
    pub(super) plaintext: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backend {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: TlsMode,
    pub(super) ca_file: Option<String>,
    pub(super) certificate: Option<(String, String)>,
}

impl Backend {
    /// Of a host name or an IP address, as it is written in a URL or without brackets; `None`: it is neither.
    pub(super) fn new(host: &str, port: u16, tls: TlsMode) -> Option<Self> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_host = match host.parse::<IpAddr>() {
            Ok(ip) => !ip.is_unspecified() && !ip.is_multicast(),
            Err(_) => is_host_name(host),
        };
        (is_host && port > 0).then(|| Self { host: host.to_owned(), port, tls, ca_file: None, certificate: None })
    }

    /// Its address, by which it is called, too.
    pub(super) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// What tells it apart from others at the same address.
    pub(super) fn name(&self) -> String {
        self.address()
    }
}

/// A service that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) url: String,
    /// Addresses of listeners; empty: of all.
    pub(super) listeners: Vec<String>,
    pub(super) timeout: Option<String>,
    pub(super) send_password: bool,
}

impl Service {
    /// `…?key=…`
    pub(super) fn may_have_secret(&self) -> bool {
        self.url.contains('?')
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) listeners: Vec<Listener>,
    backends: Vec<Backend>,
    /// Where in `backends` that of an address is: there may be one for each account.
    places: HashMap<String, usize>,
    pub(super) services: Vec<Service>,
    /// Where those go who are in no line; several: they are a group. Empty: nobody.
    default: BTreeSet<usize>,
    /// `key target [login]`.
    accounts: Vec<String>,
    keys: BTreeSet<String>,
    /// `[routing]`
    pub(super) master_separator: Option<String>,
    lost: Vec<String>,
    /// What becomes of accounts, apart from that: there may be any number.
    lost_accounts: Alike,
    done: Vec<String>,
}

/// Notes of accounts, by what they say.
#[derive(Debug, Default)]
struct Alike {
    /// The first lines, and how many more there are.
    reasons: BTreeMap<(String, &'static str), (Vec<usize>, usize)>,
    /// Lines for other reasons.
    others: usize,
}

impl Alike {
    fn add(&mut self, line: usize, what: &str, words: &'static str) {
        let reason = (what.to_owned(), words);
        if self.reasons.len() == MOST_REASONS && !self.reasons.contains_key(&reason) {
            self.others += 1;
            return;
        }
        let (lines, more) = self.reasons.entry(reason).or_default();
        if lines.len() < MOST_ALIKE {
            lines.push(line);
        } else {
            *more += 1;
        }
    }

    /// In the order of their lines; how many more there are stands behind the last that is named.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for ((what, words), (lines, more)) in &self.reasons {
            for (place, line) in lines.iter().enumerate() {
                let more = if place + 1 == MOST_ALIKE { *more } else { 0 };
                let more = if more > 0 { format!("; the same of {more} more lines") } else { String::new() };
                notes.push((*line, format!("#   line {line}, {}: {words}{more}\n", what.escape_debug())));
            }
        }
        notes.sort();
        let mut notes: Vec<_> = notes.into_iter().map(|(_, note)| note).collect();
        if self.others > 0 {
            notes.push(format!("#   and {} more lines for accounts, for other reasons\n", self.others));
        }
        notes
    }
}

impl Draft {
    /// What somebody should look at.
    pub(super) fn lose(&mut self, line: usize, what: &str, words: &str) {
        note(&mut self.lost, line, what, words);
    }

    /// The same of a line for an account.
    pub(super) fn lose_account(&mut self, line: usize, what: &str, words: &'static str) {
        self.lost_accounts.add(line, what, words);
    }

    /// What needs no counterpart.
    pub(super) fn drop(&mut self, line: usize, what: &str, words: &str) {
        note(&mut self.done, line, what, words);
    }

    /// One of a place that is there already is that.
    pub(super) fn backend(&mut self, backend: Backend) -> usize {
        let next = self.backends.len();
        let same = *self.places.entry(backend.address()).or_insert(next);
        if same == next {
            self.backends.push(backend);
            return next;
        }
        let known = &mut self.backends[same];
        if known.tls != backend.tls {
            // Of one that begins with TLS at once, STARTTLS is not heard.
            if known.tls == TlsMode::None || backend.tls == TlsMode::Implicit {
                known.tls = backend.tls;
            }
            let (address, words) =
                (known.address(), "named with and without TLS, or with two kinds of it: which is right?");
            note(&mut self.lost, 1, &address, words);
        }
        same
    }

    pub(super) fn has_backends(&self) -> bool {
        !self.backends.is_empty()
    }

    /// Whoever is in no line goes to one of these.
    pub(super) fn goes_to(&mut self, backend: usize) {
        self.default.insert(backend);
    }

    pub(super) fn has_default(&self) -> bool {
        !self.default.is_empty()
    }

    /// A line for an account, or for a domain (`@example.org`); tells why it cannot be written, without the name.
    pub(super) fn account(&mut self, key: &str, backend: usize, login: Option<&str>) -> Result<(), &'static str> {
        let target = self.backends[backend].name();
        self.line(key, &target, login)
    }

    fn line(&mut self, key: &str, target: &str, login: Option<&str>) -> Result<(), &'static str> {
        let is_word = |text: &str| !text.is_empty() && !text.contains(|it: char| it.is_whitespace() || it.is_control());
        let names = Names { fold: true, ..Names::default() };
        let pattern = Pattern::parse(key, &names).map_err(|_| "its key means no account")?;
        if !is_word(key) || key.starts_with('#') || !login.is_none_or(is_word) {
            return Err("a space or another character in it cannot be written");
        }
        let mut line = format!("{key} {target}");
        line.extend(login.filter(|login| *login != key).map(|login| format!(" {login}")));
        if line.len() > LONGEST_LINE {
            return Err("it is too long");
        }
        if !self.keys.insert(format!("{pattern:?}")) {
            return Err("an earlier line is for the same account");
        }
        self.accounts.push(line);
        Ok(())
    }

    /// A line that refuses an account; tells why it cannot be written, without the name.
    pub(super) fn refuse(&mut self, key: &str) -> Result<(), &'static str> {
        self.line(key, "-", None)
    }

    /// Whether there is one for exactly this.
    pub(super) fn has_line_for(&self, key: &str) -> bool {
        let names = Names { fold: true, ..Names::default() };
        Pattern::parse(key, &names).is_ok_and(|pattern| self.keys.contains(&format!("{pattern:?}")))
    }

    /// Writes it down.
    pub(super) fn finish(self, name: &str, map: &str) -> Imported {
        let mut toml = heading(name);
        self.listeners.iter().for_each(|listener| write_listener(&mut toml, listener));
        let group = (self.default.len() > 1).then_some("default");
        for (place, backend) in self.backends.iter().enumerate() {
            write_backend(&mut toml, backend, group.filter(|_| self.default.contains(&place)));
        }
        if let Some(group) = group {
            toml +=
                "# Each account stays at one of them, which follows from its name. Is it right for these servers?\n";
            let _ = writeln!(toml, "[[group]]\nname = {}\n", quoted(group));
        }
        let routes = !self.accounts.is_empty() || !self.services.is_empty() || self.backends.len() > 1;
        if routes || self.master_separator.is_some() {
            self.write_routing(&mut toml, group, routes);
        }
        if !self.accounts.is_empty() {
            let _ = writeln!(toml, "[[route]]\nfile = {}\n", quoted(map));
        }
        self.services.iter().for_each(|service| write_service(&mut toml, service));
        let mut lost = self.lost;
        lost.extend(self.lost_accounts.notes());
        for (heading, list) in
            [("NOT TAKEN OVER, look at each of these:", lost), ("Not needed, or elsewhere:", self.done)]
        {
            if !list.is_empty() {
                let _ = writeln!(toml, "# {heading}\n{}", list.concat());
            }
        }
        let accounts = (!self.accounts.is_empty()).then(|| {
            format!(
                "# Made from {} by imapool import: whose mail it is, and at which server.\n{}\n",
                name.escape_debug(),
                self.accounts.join("\n")
            )
        });
        let is_private = self.services.iter().any(Service::may_have_secret);
        Imported { toml: toml.trim_end().to_owned() + "\n", accounts, is_private }
    }

    fn write_routing(&self, toml: &mut String, group: Option<&str>, routes: bool) {
        toml.push_str("[routing]\n");
        if routes {
            let name = match (self.default.first(), group) {
                (_, Some(group)) => group.to_owned(),
                (Some(&one), None) => self.backends[one].name(),
                (None, None) => String::new(),
            };
            let why = if name.is_empty() { "  # whoever no route leads anywhere is refused" } else { "" };
            let _ = writeln!(toml, "default = {}{why}", quoted(&name));
        }
        if let Some(separator) = &self.master_separator {
            let _ = writeln!(toml, "master_separator = {}", quoted(separator));
        }
        toml.push('\n');
    }
}

/// The value that belongs to it may be a secret, and is in the old file anyway.
fn note(list: &mut Vec<String>, line: usize, what: &str, words: &str) {
    // It is a comment, and may tell of a file whose name ends a line.
    let words: String = words.chars().map(|it| if it.is_control() { '?' } else { it }).collect();
    if list.len() < MOST_NOTES {
        list.push(format!("#   line {line}, {}: {words}\n", what.escape_debug()));
    } else if list.len() == MOST_NOTES {
        list.push("#   and more, which are not listed\n".to_owned());
    }
}

fn write_listener(toml: &mut String, listener: &Listener) {
    let _ = writeln!(toml, "[[listener]]\naddress = {}", quoted(&listener.address));
    if let (Some((certificate, key)), true) = (&listener.certificate, listener.tls != TlsMode::None) {
        let _ = writeln!(
            toml,
            "tls = {}\ncertificate = {}\nprivate_key = {}",
            quoted(listener.tls.as_str()),
            quoted(certificate),
            quoted(key)
        );
        if let Some(authority) = &listener.client_ca_file {
            let _ = writeln!(toml, "client_ca_file = {}", quoted(authority));
        }
    }
    let is_near = ["127.", "[::1]", "unix:"].iter().any(|start| listener.address.starts_with(start));
    if listener.plaintext && !is_near {
        toml.push_str(
            "# As before: passwords in the clear from anywhere. Better: TLS, and without this line.\n\
             plaintext_login = \"always\"\n",
        );
    }
    toml.push('\n');
}

fn write_backend(toml: &mut String, backend: &Backend, group: Option<&str>) {
    let _ = writeln!(toml, "[[backend]]\naddress = {}", quoted(&backend.address()));
    if backend.tls != TlsMode::None {
        let _ = writeln!(toml, "tls = {}", quoted(backend.tls.as_str()));
        if let Some(authority) = &backend.ca_file {
            let _ = writeln!(toml, "ca_file = {}", quoted(authority));
        }
        if let Some((certificate, key)) = &backend.certificate {
            let _ = writeln!(toml, "certificate = {}\nprivate_key = {}", quoted(certificate), quoted(key));
        }
    }
    if let Some(group) = group {
        let _ = writeln!(toml, "group = {}", quoted(group));
    }
    toml.push('\n');
}

fn write_service(toml: &mut String, service: &Service) {
    let _ = writeln!(toml, "[[route]]\nhttp = {}", quoted(&service.url));
    if !service.listeners.is_empty() {
        let listeners: Vec<_> = service.listeners.iter().map(|listener| quoted(listener)).collect();
        let _ = writeln!(toml, "listeners = [{}]", listeners.join(", "));
    }
    if let Some(timeout) = &service.timeout {
        let _ = writeln!(toml, "timeout = {}", quoted(timeout));
    }
    if service.send_password {
        toml.push_str("# As nginx. Without it, the backend alone judges the password.\nsend_password = true\n");
    }
    toml.push('\n');
}

/// The first lines.
pub(super) fn heading(name: &str) -> String {
    format!(
        "# Made from {} by imapool import. What could not be taken over is at the end.\n# imapool check --config FILE \
         tells whether it is right; config/imapool.toml explains every key.\n\n",
        name.escape_debug()
    )
}

/// As a TOML string.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
