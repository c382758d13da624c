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

/// Whether TLS begins at once, or by STARTTLS.
pub(super) fn tls_mode(implicit: bool, starttls: bool) -> TlsMode {
    match (implicit, starttls) {
        (true, _) => TlsMode::Implicit,
        (false, true) => TlsMode::StartTls,
        (false, false) => TlsMode::None,
    }
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
}

impl Backend {
    /// Of a host name or an IP address, as it is written in a URL or without brackets; `None`: it is neither.
    pub(super) fn new(host: &str, port: u16, tls: TlsMode) -> Option<Self> {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_host = match host.parse::<IpAddr>() {
            Ok(ip) => !ip.is_unspecified() && !ip.is_multicast(),
            Err(_) => is_host_name(host),
        };
        (is_host && port > 0).then(|| Self { host: host.to_owned(), port, tls, ca_file: None })
    }

    /// Its address, by which it is called, too.
    pub(super) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
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

/// What becomes of a setting that is no part of these.
pub(super) enum Fate {
    /// It was taken over already.
    Taken,
    /// It needs no counterpart: imapool does it, or does not need it.
    Done(&'static str),
    /// It is lost, and somebody should look at it.
    Lost(&'static str),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) listeners: Vec<Listener>,
    pub(super) backends: Vec<Backend>,
    /// Where in `backends` that of an address is: there may be one for each account.
    places: HashMap<String, usize>,
    pub(super) services: Vec<Service>,
    /// Where those go who are in no line; several: they are a group. Empty: nobody.
    pub(super) default: BTreeSet<usize>,
    /// `key target [login]`.
    accounts: Vec<String>,
    keys: BTreeSet<String>,
    /// `[routing]`
    pub(super) master_separator: Option<String>,
    /// What is written as it is, behind all these.
    pub(super) rest: String,
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

    /// What becomes of a setting.
    pub(super) fn tell(&mut self, line: usize, what: &str, fate: &Fate) {
        match fate {
            Fate::Taken => {}
            Fate::Done(words) => note(&mut self.done, line, what, words),
            Fate::Lost(words) => note(&mut self.lost, line, what, words),
        }
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

    /// A line for an account, or for a domain (`@example.org`), that leads to a backend or is refused; tells why it
    /// cannot be written, without the name.
    pub(super) fn account(
        &mut self,
        key: &str,
        backend: Option<usize>,
        login: Option<&str>,
    ) -> Result<(), &'static str> {
        let is_word = |text: &str| !text.is_empty() && !text.contains(|it: char| it.is_whitespace() || it.is_control());
        let pattern = pattern(key).ok_or("its key means no account")?;
        if !is_word(key) || key.starts_with('#') || !login.is_none_or(is_word) {
            return Err("a space or another character in it cannot be written");
        }
        let target = backend.map_or("-".to_owned(), |backend| self.backends[backend].address());
        let mut line = format!("{key} {target}");
        line.extend(login.filter(|login| *login != key).map(|login| format!(" {login}")));
        if line.len() > LONGEST_LINE {
            return Err("it is too long");
        }
        if !self.keys.insert(pattern) {
            return Err("an earlier line is for the same account");
        }
        self.accounts.push(line);
        Ok(())
    }

    /// Whether there is one for exactly this.
    pub(super) fn has_line_for(&self, key: &str) -> bool {
        pattern(key).is_some_and(|pattern| self.keys.contains(&pattern))
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
            toml += "# Each account stays at one of them, which follows from its name. Is it right for these servers?\n\
                 [[group]]\n";
            set(&mut toml, "name", group);
            toml.push('\n');
        }
        let routes = !self.accounts.is_empty() || !self.services.is_empty() || self.backends.len() > 1;
        if routes || self.master_separator.is_some() {
            self.write_routing(&mut toml, group, routes);
        }
        if !self.accounts.is_empty() {
            toml += "[[route]]\n";
            set(&mut toml, "file", map);
            toml.push('\n');
        }
        self.services.iter().for_each(|service| write_service(&mut toml, service));
        toml += &self.rest;
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
            let one = self.default.first().map_or(String::new(), |one| self.backends[*one].address());
            let name = group.map_or(one, str::to_owned);
            let why = if name.is_empty() { "  # whoever no route leads anywhere is refused" } else { "" };
            let _ = writeln!(toml, "default = {}{why}", quoted(&name));
        }
        set(toml, "master_separator", self.master_separator.as_deref());
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

/// What stands for the same account, or domain, as others that are written otherwise; `None`: for none.
fn pattern(key: &str) -> Option<String> {
    let names = Names { fold: true, ..Names::default() };
    Pattern::parse(key, &names).ok().map(|pattern| format!("{pattern:?}"))
}

fn write_listener(toml: &mut String, listener: &Listener) {
    *toml += "[[listener]]\n";
    set(toml, "address", listener.address.as_str());
    if let (Some((certificate, key)), true) = (&listener.certificate, listener.tls != TlsMode::None) {
        set(toml, "tls", listener.tls.as_str());
        set(toml, "certificate", certificate.as_str());
        set(toml, "private_key", key.as_str());
        set(toml, "client_ca_file", listener.client_ca_file.as_deref());
    }
    let is_near = ["127.", "[::1]", "unix:"].iter().any(|start| listener.address.starts_with(start));
    if listener.plaintext && !is_near {
        *toml += "# As before: passwords in the clear from anywhere. Better: TLS, and without this line.\n\
                  plaintext_login = \"always\"\n";
    }
    toml.push('\n');
}

fn write_backend(toml: &mut String, backend: &Backend, group: Option<&str>) {
    *toml += "[[backend]]\n";
    set(toml, "address", backend.address().as_str());
    if backend.tls != TlsMode::None {
        set(toml, "tls", backend.tls.as_str());
        set(toml, "ca_file", backend.ca_file.as_deref());
    }
    set(toml, "group", group);
    toml.push('\n');
}

fn write_service(toml: &mut String, service: &Service) {
    *toml += "[[route]]\n";
    set(toml, "http", service.url.as_str());
    if !service.listeners.is_empty() {
        let listeners: Vec<_> = service.listeners.iter().map(|listener| quoted(listener)).collect();
        let _ = writeln!(toml, "listeners = [{}]", listeners.join(", "));
    }
    set(toml, "timeout", service.timeout.as_deref());
    if service.send_password {
        *toml += "# As nginx. Without it, the backend alone judges the password.\nsend_password = true\n";
    }
    toml.push('\n');
}

/// Writes `key = "value"`, where there is one.
pub(super) fn set<'v>(toml: &mut String, key: &str, value: impl Into<Option<&'v str>>) {
    toml.extend(value.into().map(|value| format!("{key} = {}\n", quoted(value))));
}

/// The first lines.
fn heading(name: &str) -> String {
    format!(
        "# Made from {} by imapool import. What could not be taken over is at the end.\n# imapool check --config FILE \
         tells whether it is right; config/imapool.toml explains every key.\n\n",
        name.escape_debug()
    )
}

/// As a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
