//! From one TOML value to one value of the configuration.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value as Json;
use toml::Spanned;
use toml::de::DeValue;

use super::{Check, Header, HostPort, ListenAddr, Share};
use crate::secret::Secret;

/// A value with its place in the file.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// A value that was refused: where, and why.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) span: Range<usize>,
    pub(super) reason: Reason,
}

#[derive(Debug)]
pub(super) enum Reason {
    /// It has another type than this.
    Type { found: &'static str, expected: &'static str },
    /// The type is right; this is what to do about the value.
    Value(Cow<'static, str>),
}

pub(super) type Outcome<T> = Result<T, Refusal>;
type Read<T> = Box<dyn Fn(&Value<'_>) -> Outcome<T>>;
type Show<T> = Box<dyn Fn(&T) -> Json>;

/// How a value is read and told, and what it may be.
pub(super) struct Kind<T> {
    pub(super) read: Read<T>,
    pub(super) show: Show<T>,
    pub(super) shape: Shape,
}

/// What a value may be, for those who do not read it.
#[derive(Debug, Clone)]
pub(crate) enum Shape {
    Text,
    Flag,
    /// Words; of a key that was a flag once, that too.
    OneOf(Vec<Json>),
    Integer(RangeInclusive<usize>),
    /// A number, or a part of another, from 1% to 100%.
    Share(RangeInclusive<usize>),
    /// In octets.
    Size(RangeInclusive<usize>),
    Duration(RangeInclusive<Duration>),
    DurationOrNever,
    /// Of strings.
    List,
    Ports,
    /// A table of such keys, none of which has to be there.
    Table(Vec<(&'static str, Shape)>),
    /// This, or `""` for nothing of its own.
    OrNone(Box<Shape>),
}

fn kind<T: Serialize + 'static>(shape: Shape, read: impl Fn(&Value<'_>) -> Outcome<T> + 'static) -> Kind<T> {
    Kind { read: Box::new(read), show: Box::new(json), shape }
}

/// As JSON; what cannot be told, null.
pub(super) fn json<T: Serialize>(value: &T) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

/// A string that is more than it looks.
pub(super) fn text<T: Serialize + 'static>(read: impl Fn(&Value<'_>) -> Outcome<T> + 'static) -> Kind<T> {
    kind(Shape::Text, read)
}

/// A year: nothing here is meant to take longer, so a longer time is a slip of the pen.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// `sun_path` has 108 bytes on Linux, one of which ends the path.
const UNIX_PATH_MAX: usize = 107;

fn wrong_type<T>(value: &Value<'_>, expected: &'static str) -> Outcome<T> {
    let found = match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Err(Refusal { span: value.span(), reason: Reason::Type { found, expected } })
}

fn refuse<T>(value: &Value<'_>, remedy: impl Into<Cow<'static, str>>) -> Outcome<T> {
    Err(Refusal { span: value.span(), reason: Reason::Value(remedy.into()) })
}

fn string<'v>(value: &'v Value<'_>, expected: &'static str) -> Outcome<&'v str> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        _ => wrong_type(value, expected),
    }
}

pub(super) fn flag() -> Kind<bool> {
    kind(Shape::Flag, |value| match value.get_ref() {
        DeValue::Boolean(boolean) => Ok(*boolean),
        _ => wrong_type(value, "true or false, without quotes"),
    })
}

/// One of a few words; `false` and `true` stand for two of them.
pub(super) fn boolean_or<T: Copy + Serialize + 'static>([no, yes]: [T; 2], words: Kind<T>) -> Kind<T> {
    let mut all = vec![true.into(), false.into()];
    if let Shape::OneOf(words) = words.shape {
        all.splice(0..0, words);
    }
    kind(Shape::OneOf(all), move |value| match value.get_ref() {
        DeValue::Boolean(boolean) => Ok(if *boolean { yes } else { no }),
        _ => (words.read)(value),
    })
}

/// A string that fits; `remedy`: what to do about another one.
fn fitting(
    value: &Value<'_>,
    expected: &'static str,
    fits: impl FnOnce(&str) -> bool,
    remedy: &'static str,
) -> Outcome<String> {
    let text = string(value, expected)?;
    if fits(text) { Ok(text.to_owned()) } else { refuse(value, remedy) }
}

/// A name for logs and metric labels.
pub(super) fn name(value: &Value<'_>) -> Outcome<String> {
    let is_name =
        |text: &str| !text.trim().is_empty() && text.chars().count() <= 100 && !text.chars().any(char::is_control);
    let remedy = "a name has 1 to 100 printable characters; without the key, it is the address";
    fitting(value, "a string such as \"main\"", is_name, remedy)
}

/// A word for `None`, or another value.
fn or_word<T: 'static>(none: &'static str, Kind { read, show, shape }: Kind<T>) -> Kind<Option<T>> {
    Kind {
        read: Box::new(move |value| match value.get_ref() {
            DeValue::String(text) if text == none => Ok(None),
            _ => read(value).map(Some),
        }),
        show: Box::new(move |value| value.as_ref().map_or_else(|| none.into(), &show)),
        shape,
    }
}

/// As [`or_word`], where an empty string is that, and a text may be one anyway.
pub(super) fn or_none<T: 'static>(of: Kind<T>) -> Kind<Option<T>> {
    let shape = match of.shape.clone() {
        Shape::Text => Shape::Text,
        shape => Shape::OrNone(Box::new(shape)),
    };
    Kind { shape, ..or_word("", of) }
}

/// The name of a backend or of a group, or `""`.
pub(super) fn target() -> Kind<Option<String>> {
    text(|value| match value.get_ref() {
        DeValue::String(text) if text.is_empty() => Ok(Some(String::new())),
        _ => name(value).map(Some),
    })
}

/// `http://host[:port][/path]`: what else is wrong with one, the lookup says.
pub(super) fn url(value: &Value<'_>) -> Outcome<Option<String>> {
    let is_url = |text: &str| {
        text.starts_with("http://") && !text.contains(|char: char| char.is_control() || char.is_whitespace())
    };
    let expected = "a URL in quotes such as \"http://127.0.0.1:8080/auth\"";
    let remedy = "write a URL such as \"http://127.0.0.1:8080/auth\"; there is no TLS towards the service";
    fitting(value, expected, is_url, remedy).map(Some)
}

/// `["Name: value"]`
pub(super) fn headers() -> Kind<Vec<Header>> {
    list("a list of headers such as [\"X-Auth-Key: secret\"]", |value| {
        let text = string(value, "a header in quotes such as \"X-Auth-Key: secret\"")?;
        match text.split_once(':').map(|(name, value)| (name.trim(), value.trim())) {
            Some((name, value)) if !name.is_empty() => {
                Ok(Header { name: name.to_owned(), value: Secret::copy_of(value.as_bytes()) })
            }
            // Without what was written, which may be a secret.
            _ => {
                let start = value.span().start;
                Err(Refusal { span: start..start, reason: Reason::Value("write \"Name: value\"".into()) })
            }
        }
    })
}

/// Names and patterns of accounts.
pub(super) fn users() -> Kind<Vec<String>> {
    list("a list of names such as [\"anna@example.org\", \"@example.net\"]", word)
}

/// Whatever has a printable character, and no others.
pub(super) fn word(value: &Value<'_>) -> Outcome<String> {
    let is_word = |text: &str| !text.trim().is_empty() && !text.contains(char::is_control);
    let remedy = "write a name, \"@\" and a domain, or \"@*.\" and a domain";
    fitting(value, "a name in quotes such as \"anna@example.org\"", is_word, remedy)
}

/// Empty, or a domain.
pub(super) fn domain(value: &Value<'_>) -> Outcome<String> {
    let is_domain = |text: &str| !text.contains(|char: char| char.is_control() || "@* ".contains(char));
    let remedy = "write a domain such as \"example.org\", without \"@\", or \"\" for none";
    fitting(value, "a domain in quotes such as \"example.org\"", is_domain, remedy)
}

/// Empty, or what no name has in it.
pub(super) fn separator(value: &Value<'_>) -> Outcome<String> {
    let is_of_names = |char: char| char.is_control() || char.is_alphanumeric() || char == '@';
    let is_separator = |text: &str| text.chars().count() <= 8 && !text.contains(is_of_names);
    let remedy = "write what no user's name has in it, such as \"*\", or \"\" for nothing";
    fitting(value, "a character in quotes such as \"*\"", is_separator, remedy)
}

/// A host name, or `*.` and one for all below.
pub(super) fn server_name_or_below(value: &Value<'_>) -> Outcome<String> {
    let is_either = |text: &str| is_host_name(text.strip_prefix("*.").unwrap_or(text));
    let remedy = "write a host name such as \"imap.example.org\", or \"*.example.org\" for all below";
    fitting(value, "a host name in quotes such as \"imap.example.org\"", is_either, remedy)
}

fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

pub(super) fn path(value: &Value<'_>) -> Outcome<Option<PathBuf>> {
    let remedy = "write the path of a file, or delete the line";
    fitting(value, "a file's path in quotes", is_path, remedy).map(|path| Some(path.into()))
}

/// As [`path`], as an element of a list.
pub(super) fn file_or_folder(value: &Value<'_>) -> Outcome<PathBuf> {
    let remedy = "write the path of a file or a folder, or take it out of the list";
    fitting(value, "the path of a file or a folder in quotes", is_path, remedy).map(PathBuf::from)
}

/// One of a few words; `word` gives each value's.
pub(super) fn one_of<C: Copy, T: From<C> + Serialize + 'static>(
    choices: &'static [C],
    word: fn(C) -> &'static str,
) -> Kind<T> {
    kind(Shape::OneOf(choices.iter().map(|choice| word(*choice).into()).collect()), move |value| {
        let text = string(value, "one of a few words, in quotes")?;
        match choices.iter().find(|choice| word(**choice) == text) {
            Some(choice) => Ok(T::from(*choice)),
            None => {
                let words: Vec<String> = choices.iter().map(|choice| format!("\"{}\"", word(*choice))).collect();
                refuse(value, format!("write one of {}", words.join(", ")))
            }
        }
    })
}

pub(super) fn integer(range: RangeInclusive<usize>) -> Kind<usize> {
    kind(Shape::Integer(range.clone()), move |value| number(value, &range))
}

fn number(value: &Value<'_>, range: &RangeInclusive<usize>) -> Outcome<usize> {
    let DeValue::Integer(integer) = value.get_ref() else {
        return wrong_type(value, "a whole number, without quotes");
    };
    match usize::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => refuse(value, format!("write a number from {} to {}", range.start(), range.end())),
    }
}

/// A number, or a part of another number.
pub(super) fn share(range: RangeInclusive<usize>) -> Kind<Share> {
    const EXPECTED: &str = "a number, or a part such as \"25%\"";
    kind(Shape::Share(range.clone()), move |value| match value.get_ref() {
        DeValue::Integer(_) => number(value, &range).map(Share::Number),
        DeValue::String(text) => match text.trim().strip_suffix('%').map(|number| number.trim_end().parse()) {
            Some(Ok(percent @ 1..=100)) => Ok(Share::Percent(percent)),
            _ => refuse(value, format!("write {EXPECTED}, from 1% to 100%")),
        },
        _ => wrong_type(value, EXPECTED),
    })
}

/// Octets: an integer, or a string with a unit.
pub(super) fn size(range: RangeInclusive<usize>) -> Kind<usize> {
    const EXPECTED: &str = "a size such as \"64KiB\", or a number of bytes";
    kind(Shape::Size(range.clone()), move |value| {
        let octets = match value.get_ref() {
            DeValue::Integer(integer) => u64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            DeValue::String(text) => match text.parse::<ByteSize>() {
                Ok(size) => Some(size.as_u64()),
                Err(_) => return refuse(value, format!("write {EXPECTED}")),
            },
            _ => return wrong_type(value, EXPECTED),
        };
        match octets.and_then(|octets| usize::try_from(octets).ok()) {
            Some(octets) if range.contains(&octets) => Ok(octets),
            _ => {
                let [least, most] = [*range.start(), *range.end()].map(|bound| ByteSize::b(bound as u64));
                refuse(value, format!("write a size from {least} to {most}"))
            }
        }
    })
}

pub(super) fn duration(range: RangeInclusive<Duration>) -> Kind<Duration> {
    const EXPECTED: &str = "a duration in quotes such as \"30s\", \"5m\" or \"1h\"";
    let shape = Shape::Duration(range.clone());
    let read = move |value: &Value<'_>| {
        let number = match value.get_ref() {
            DeValue::Integer(integer) => Some(integer.as_str()),
            DeValue::String(text) if *text != "0" => {
                Some(text.trim()).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            }
            _ => None,
        };
        if let Some(number) = number.filter(|number| !number.is_empty() && number.len() < 10) {
            return refuse(
                value,
                format!("the unit is missing, write \"{number}s\" for seconds, or \"{number}m\", \"{number}h\""),
            );
        }
        let Ok(duration) = humantime::parse_duration(string(value, EXPECTED)?) else {
            return refuse(value, format!("write {EXPECTED}"));
        };
        if duration < *range.start() {
            return refuse(value, format!("too short, at least {}", in_words(*range.start())));
        }
        if duration > *range.end() {
            return refuse(value, format!("too long, at most {}", in_words(*range.end())));
        }
        Ok(duration)
    };
    let show = |duration: &Duration| humantime::format_duration(*duration).to_string().into();
    Kind { show: Box::new(show), ..kind(shape, read) }
}

/// `never`: `None`.
pub(super) fn duration_or_never(range: RangeInclusive<Duration>) -> Kind<Option<Duration>> {
    Kind { shape: Shape::DurationOrNever, ..or_word("never", duration(range)) }
}

/// `{ interval = "10s", failures = 3, successes = 2 }`
pub(super) fn check() -> Kind<Check> {
    const KEYS: [&str; 5] = ["interval", "failures", "successes", "user", "password_file"];
    let interval = duration(Duration::from_millis(100)..=YEAR);
    let times = || integer(1..=1000);
    let shapes = [interval.shape.clone(), times().shape, times().shape, Shape::Text, Shape::Text];
    let shape = Shape::Table(KEYS.into_iter().zip(shapes).collect());
    let read = move |value: &Value<'_>| {
        let DeValue::Table(table) = value.get_ref() else {
            return wrong_type(value, "a table such as { interval = \"10s\", failures = 3, successes = 2 }");
        };
        let mut check = Check::default();
        for (key, value) in table.iter() {
            match &**key.get_ref() {
                "interval" => check.interval = (interval.read)(value)?,
                "failures" => check.failures = at_least_one((times().read)(value)?),
                "successes" => check.successes = at_least_one((times().read)(value)?),
                "user" => check.user = word(value)?,
                "password_file" => check.password_file = path(value)?,
                _ => {
                    let remedy = format!("there is no such key in it, only {}", KEYS.join(", "));
                    return Err(Refusal { span: key.span(), reason: Reason::Value(remedy.into()) });
                }
            }
        }
        if check.user.is_empty() != check.password_file.is_none() {
            return refuse(value, "a check by a test account needs both user and password_file");
        }
        Ok(check)
    };
    kind(shape, read)
}

/// Of a number whose range begins with one.
fn at_least_one(number: usize) -> NonZeroU32 {
    u32::try_from(number).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

fn in_words(duration: Duration) -> String {
    match duration {
        // humantime would count in months of 30.44 days.
        YEAR => "365days".to_owned(),
        other => humantime::format_duration(other).to_string(),
    }
}

/// Each element by `element`; an error is at the element, not at the list.
pub(super) fn list<T: Serialize + 'static>(
    expected: &'static str,
    element: impl Fn(&Value<'_>) -> Outcome<T> + 'static,
) -> Kind<Vec<T>> {
    kind(Shape::List, move |value| match value.get_ref() {
        DeValue::Array(array) => array.iter().map(&element).collect(),
        _ => wrong_type(value, expected),
    })
}

pub(super) fn network(value: &Value<'_>) -> Outcome<IpNet> {
    let text = string(value, "a network in quotes such as \"10.0.0.0/8\"")?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    match text.parse::<IpNet>() {
        Ok(network) if network == network.trunc() => Ok(network),
        Ok(network) => refuse(value, format!("it has bits beyond its prefix length, write \"{}\"", network.trunc())),
        Err(_) => refuse(value, "write a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or one IP address"),
    }
}

/// An address of this host to dial from.
pub(super) fn source_address(value: &Value<'_>) -> Outcome<IpAddr> {
    let text = string(value, "an IP address in quotes such as \"192.0.2.7\"")?;
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => {
            refuse(value, "for the kernel's own choice, leave the list empty: source_addresses = []")
        }
        Ok(address) if !address.is_multicast() => Ok(address),
        _ => refuse(value, "write an IP address of this host, without a port, such as \"192.0.2.7\""),
    }
}

/// `40000-44999`
pub(super) fn port_range() -> Kind<Option<RangeInclusive<u16>>> {
    let read = |value: &Value<'_>| {
        let text = string(value, "a range of ports in quotes such as \"40000-44999\"")?;
        let ends = text.split_once('-');
        match ends.and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?))) {
            Some((first, last)) if 0 < first && first <= last => Ok(Some(first..=last)),
            _ => refuse(value, "write the first and the last port, such as \"40000-44999\""),
        }
    };
    let show = |range: &Option<RangeInclusive<u16>>| {
        range.as_ref().map_or(Json::Null, |range| format!("{}-{}", range.start(), range.end()).into())
    };
    Kind { show: Box::new(show), ..kind(Shape::Ports, read) }
}

/// What an address to listen on is like.
struct Like {
    expected: &'static str,
    port: u16,
    socket: &'static str,
    /// What else may be written.
    otherwise: &'static str,
}

pub(super) fn listen_address(value: &Value<'_>) -> Outcome<ListenAddr> {
    const LISTENER: Like = Like {
        expected: "an address in quotes such as \"127.0.0.1:1143\"",
        port: 1143,
        socket: "unix:/run/imapool/imap.sock",
        otherwise: "",
    };
    address_to_listen_on(value, &LISTENER)
}

pub(super) fn admin_address(value: &Value<'_>) -> Outcome<ListenAddr> {
    const ADMIN: Like = Like {
        expected: "an address in quotes such as \"127.0.0.1:9143\"",
        port: 9143,
        socket: "unix:/run/imapool/admin.sock",
        otherwise: ", or \"\" for no admin address",
    };
    address_to_listen_on(value, &ADMIN)
}

fn address_to_listen_on(value: &Value<'_>, like: &Like) -> Outcome<ListenAddr> {
    let text = string(value, like.expected)?;
    match text.strip_prefix("unix:") {
        None => socket_address(value, text, like).map(ListenAddr::Tcp),
        Some(path) if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') => {
            refuse(value, format!("write the socket's whole path, such as \"{}\"", like.socket))
        }
        Some(path) if path.len() > UNIX_PATH_MAX => {
            refuse(value, format!("a Unix socket's path has at most {UNIX_PATH_MAX} bytes, take a shorter one"))
        }
        Some(path) => Ok(ListenAddr::Unix(path.into())),
    }
}

fn socket_address(value: &Value<'_>, text: &str, like: &Like) -> Outcome<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.ip().is_multicast() {
            refuse(value, "nothing can listen on a multicast address, write an address of this host")
        } else {
            Ok(address)
        };
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return refuse(value, format!("the port is missing, write \"{}\"", SocketAddr::new(ip, like.port)));
    }
    if text.starts_with('/') || text.ends_with(".sock") {
        let path = if text.starts_with('/') { text } else { "/run/imapool/imap.sock" };
        return refuse(value, format!("the address of a Unix socket begins with unix:, write \"unix:{path}\""));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let host_is_ip = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let remedy = match port.parse::<u16>() {
        Err(_) if is_number => "ports go from 1 to 65535, and 0 takes a free one: write another".to_owned(),
        Ok(port) if ["", "*"].contains(&host) => format!(
            "for all addresses write \"[::]:{port}\", or \"0.0.0.0:{port}\" for IPv4 alone; for this host alone \
             \"127.0.0.1:{port}\""
        ),
        Ok(port) if is_host_name(host) => format!(
            "names are not looked up here, write an address of this host, such as \"127.0.0.1:{port}\" or \
             \"[::1]:{port}\""
        ),
        Ok(port) if host_is_ip => format!("an IPv6 address needs brackets, write \"[{host}]:{port}\""),
        _ => {
            let Like { port, socket, otherwise, .. } = like;
            format!(
                "write an IP address and a port, such as \"127.0.0.1:{port}\" or \"[::1]:{port}\", or \
                 \"{socket}\"{otherwise}"
            )
        }
    };
    refuse(value, remedy)
}

/// A name by which a host may be called.
pub(super) fn host_name(value: &Value<'_>) -> Outcome<String> {
    let remedy = "write a host name without a port, such as \"imapool.example.org\"";
    fitting(value, "a host name in quotes such as \"imapool.example.org\"", is_host_name, remedy)
}

/// A host (an IP address without brackets, or a name) and a port.
pub(super) fn host_and_port(value: &Value<'_>) -> Outcome<(String, u16)> {
    let text = string(value, "a host and a port in quotes such as \"127.0.0.1:143\"")?;
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return refuse(value, format!("the port is missing, write \"{}\"", SocketAddr::new(ip, 143)));
    }
    if text.starts_with('/') || text.starts_with("unix:") {
        return refuse(
            value,
            "servers are reached by TCP alone, write the server's host and port, such as \"127.0.0.1:143\"",
        );
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return refuse(value, "the port is missing, write \"host:143\", or \"host:993\" for implicit TLS");
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 => port,
        _ => return refuse(value, "after the host write a colon and a port from 1 to 65535"),
    };
    if let Some((scheme, _)) = text.split_once("://") {
        return refuse(
            value,
            format!("write host and port without \"{scheme}://\"; whether there is TLS is said by `tls`"),
        );
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.ip().is_unspecified() || address.ip().is_multicast() {
            refuse(value, "nothing can be dialed there, write the server's own address")
        } else {
            Ok((address.ip().to_string(), port))
        };
    }
    if is_host_name(host) {
        return Ok((host.to_owned(), port));
    }
    refuse(value, "write a host name or an IP address, and a port, such as \"mail.example.org:143\" or \"[::1]:143\"")
}

/// As [`host_and_port`].
pub(super) fn host_port(value: &Value<'_>) -> Outcome<HostPort> {
    host_and_port(value).map(|(host, port)| HostPort { host, port })
}

/// RFC 1123 section 2.1, and underscores, which occur in the names of containers.
pub(crate) fn is_host_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A last label of digits alone is a misspelt IPv4 address.
    host.len() <= 253
        && host.split('.').all(is_label)
        && !host.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A name (or an IP address) that a certificate can carry.
pub(super) fn server_name(value: &Value<'_>) -> Outcome<String> {
    let is_name = |text: &str| rustls_pki_types::ServerName::try_from(text).is_ok();
    let remedy = "write the name that the backend's certificate has, such as \"mail.example.org\"";
    fitting(value, "a host name in quotes such as \"mail.example.org\"", is_name, remedy)
}
