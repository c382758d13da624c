//! Who may do what at the admin address.
//!
//! Whoever reaches it may read: by default that is this host. A browser on this host reaches it, too, and runs other
//! sites' scripts; so requests that such a script can send are told by their headers and refused. Actions need a
//! token besides.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};

use super::{AdminError, Refusal};
use crate::config;
use crate::files;
use crate::secret::Secret;

/// Where the token is, unless it is in a file.
pub const TOKEN_VARIABLE: &str = "IMAPOOL_ADMIN_TOKEN";
/// A shorter token could be guessed.
pub(super) const SHORTEST_TOKEN: usize = 16;

/// What actions are allowed by. Never printed.
#[derive(Debug, Clone)]
pub struct Token(Secret);

impl Token {
    /// The token in `admin.token_file`, else in the environment; `None`: there is none.
    ///
    /// # Errors
    /// When there should be one and is not, and when a public address would go without ([`AdminError::NoToken`]).
    pub fn load(admin: &config::Admin) -> Result<Option<Self>, AdminError> {
        let token = match &admin.token_file {
            Some(path) => {
                let octets = files::read(path, files::TOKEN)
                    .map_err(|source| AdminError::TokenFile { path: path.clone(), source })?;
                Some(Self::new(octets, &path.display().to_string())?)
            }
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(token) if !token.is_empty() => Some(Self::new(token.into_bytes(), TOKEN_VARIABLE)?),
                _ => None,
            },
        };
        match &admin.address {
            Some(address) if token.is_none() && admin.is_public() => {
                Err(AdminError::NoToken { address: address.clone() })
            }
            _ => Ok(token),
        }
    }

    fn new(octets: Vec<u8>, place: &str) -> Result<Self, AdminError> {
        let octets = Secret::new(octets);
        let token = octets.expose().trim_ascii();
        if token.len() < SHORTEST_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
            return Err(AdminError::UnfitToken { place: place.to_owned() });
        }
        Ok(Self(Secret::copy_of(token)))
    }

    /// As an `Authorization` header has it, for whoever calls the admin address.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", String::from_utf8_lossy(self.0.expose()))
    }
}

/// Why a request is refused.
const WRONG_HOST: &str = "the Host header names neither an IP address nor localhost nor one of admin.hosts: call the \
                          address by its number, or add the name to admin.hosts";
/// See [`WRONG_HOST`].
const WRONG_ORIGIN: &str = "requests from other sites are refused";
/// See [`WRONG_HOST`].
const NO_TOKEN: &str =
    "actions are off: put a token into admin.token_file or the environment variable IMAPOOL_ADMIN_TOKEN";
/// See [`WRONG_HOST`].
const WRONG_TOKEN: &str = "this needs the admin token: Authorization: Bearer TOKEN";

fn forbidden(why: &str) -> Refusal {
    Refusal(403, why.to_owned())
}

/// Whether the request may come from here: not by another site's script, nor under another site's name that was made to
/// mean this address (DNS rebinding; no site's name is an IP address).
///
/// A link on another site may lead to the page (`linked`); what that site cannot do is to read it.
pub(super) fn admit(headers: &HeaderMap, hosts: &[String], linked: bool) -> Result<(), Refusal> {
    let header = |name| headers.get(name).map(|value| value.to_str().unwrap_or("(not ASCII)"));
    let host = header(HOST).unwrap_or_default();
    if !host.is_empty() && !is_known(host, hosts) {
        return Err(forbidden(WRONG_HOST));
    }
    if linked {
        return Ok(());
    }
    if let Some(origin) = header(ORIGIN) {
        let ours = origin.split_once("://").is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host));
        if !ours {
            return Err(forbidden(WRONG_ORIGIN));
        }
    }
    let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    match site {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(forbidden(WRONG_ORIGIN)),
    }
}

/// Without its port, is the host an IP address, this host, or one that the configuration names?
fn is_known(host: &str, hosts: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    let ip = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    ip.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Whether the request carries the token.
pub(super) fn authorize(headers: &HeaderMap, token: Option<&Token>) -> Result<(), Refusal> {
    let token = token.ok_or_else(|| forbidden(NO_TOKEN))?;
    let given = headers.get(AUTHORIZATION).and_then(|value| {
        let (scheme, given) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| Secret::copy_of(given.trim_ascii()))
    });
    match given {
        Some(given) if given == token.0 => Ok(()),
        _ => Err(Refusal(401, WRONG_TOKEN.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(of: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        of.iter().map(pair).collect()
    }

    #[test]
    fn hosts_are_numbers_localhost_and_what_is_configured() {
        let hosts = ["imapool.example.org".to_owned()];
        for host in
            ["127.0.0.1:9143", "127.0.0.1", "[::1]:9143", "[::1]", "localhost:9143", "IMAPOOL.example.org:1", ""]
        {
            assert_eq!(admit(&headers(&[("host", host)]), &hosts, false), Ok(()), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example:9143", "localhost.evil", "[::1].evil:9143", "::1]", "a:b:c"]
        {
            assert_eq!(admit(&headers(&[("host", host)]), &hosts, false), Err(forbidden(WRONG_HOST)), "{host}");
        }
    }

    #[test]
    fn other_origins_are_refused() {
        let with = |name, value| admit(&headers(&[("host", "127.0.0.1:9143"), (name, value)]), &[], false);
        assert_eq!(with("origin", "http://127.0.0.1:9143"), Ok(()));
        for origin in ["http://127.0.0.1:9144", "http://evil.example", "null", "127.0.0.1:9143", "http://127.0.0.1"] {
            assert_eq!(with("origin", origin), Err(forbidden(WRONG_ORIGIN)), "{origin}");
        }
        for (site, wanted) in [("same-origin", true), ("none", true), ("cross-site", false), ("same-site", false)] {
            assert_eq!(with("sec-fetch-site", site).is_ok(), wanted, "{site}");
        }
    }

    #[test]
    fn the_token_is_compared_whole() {
        let wrong_token = || Refusal(401, WRONG_TOKEN.to_owned());
        let token = Token::new(b"0123456789abcdef\n".to_vec(), "test").unwrap();
        let with = |value: &str| authorize(&headers(&[("authorization", value)]), Some(&token));
        assert_eq!(with(&token.bearer()), Ok(()));
        assert_eq!(with("bearer  0123456789abcdef"), Ok(()));
        for wrong in ["Bearer 0123456789abcde", "Bearer 0123456789abcdeff", "Bearer ", "Basic 0123456789abcdef", "x"] {
            assert_eq!(with(wrong), Err(wrong_token()), "{wrong}");
        }
        assert_eq!(authorize(&HeaderMap::new(), Some(&token)), Err(wrong_token()));
        assert_eq!(authorize(&headers(&[("authorization", "Bearer ")]), None), Err(forbidden(NO_TOKEN)));
    }

    #[test]
    fn a_token_is_long_and_printable() {
        for unfit in ["", "short", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\u{e9}"] {
            assert!(Token::new(unfit.as_bytes().to_vec(), "test").is_err(), "{unfit:?}");
        }
    }
}
