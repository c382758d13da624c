//! What the service is asked: a request as nginx makes it.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Request, Uri};
use percent_encoding::percent_encode_byte;

use super::{Question, Settings};

/// Field names are in lower case here; on the wire each word begins in upper case.
const METHOD: HeaderName = HeaderName::from_static("auth-method");
const USER: HeaderName = HeaderName::from_static("auth-user");
const PASS: HeaderName = HeaderName::from_static("auth-pass");
const PROTOCOL: HeaderName = HeaderName::from_static("auth-protocol");
const ATTEMPT: HeaderName = HeaderName::from_static("auth-login-attempt");
const CLIENT: HeaderName = HeaderName::from_static("client-ip");
const SERVER_ADDRESS: HeaderName = HeaderName::from_static("proxy-protocol-server-addr");
const SERVER_PORT: HeaderName = HeaderName::from_static("proxy-protocol-server-port");
const TLS: HeaderName = HeaderName::from_static("auth-ssl");
const TLS_VERSION: HeaderName = HeaderName::from_static("auth-ssl-protocol");
/// nginx has none such.
const TLS_NAME: HeaderName = HeaderName::from_static("auth-ssl-server-name");

/// What a setting must not send: the question's own fields, and those that HTTP goes by.
const OURS: [HeaderName; 16] = [
    METHOD,
    USER,
    PASS,
    PROTOCOL,
    ATTEMPT,
    CLIENT,
    SERVER_ADDRESS,
    SERVER_PORT,
    TLS,
    TLS_VERSION,
    TLS_NAME,
    CONNECTION,
    CONTENT_LENGTH,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Where the service is, and what it is told each time.
#[derive(Debug)]
pub(super) struct Service {
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// The URL less its query, which may hold a key.
    pub(super) shown: Arc<str>,
    target: Uri,
    fields: HeaderMap,
    send_password: bool,
}

impl Service {
    /// What cannot be used of the settings is told in words, without a secret.
    pub(super) fn new(settings: &Settings) -> Result<Self, String> {
        let fault = |reason| format!("\"{}\" {reason}", less_query(&settings.url));
        let url: Uri = settings.url.parse().map_err(|_| fault("is no URL"))?;
        match url.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(fault("asks for https, which is not supported yet: use http")),
            _ => return Err(fault("does not begin with http://")),
        }
        let authority = url.authority().filter(|authority| !authority.host().is_empty());
        let authority = authority.ok_or_else(|| fault("names no host"))?;
        if authority.as_str().contains('@') {
            // It would be shown wherever the URL is.
            return Err("the URL has a user name in it: send it as a header (Authorization)".to_owned());
        }
        let port = match &authority.as_str()[authority.host().len()..] {
            "" => 80,
            port => port[1..].parse().ok().filter(|port| *port != 0).ok_or_else(|| fault("has a port that is none"))?,
        };
        let mut fields = fixed(settings)?;
        if !fields.contains_key(HOST) {
            fields.insert(HOST, HeaderValue::from_str(authority.as_str()).map_err(|_| fault("is no URL"))?);
        }
        Ok(Self {
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port,
            shown: less_query(&settings.url).into(),
            target: url
                .path_and_query()
                .map(|path| path.as_str())
                .unwrap_or("/")
                .parse()
                .map_err(|_| fault("is no URL"))?,
            fields,
            send_password: settings.send_password,
        })
    }

    /// The request.
    pub(super) fn request(&self, question: &Question) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = self.target.clone();
        let fields = request.headers_mut();
        fields.clone_from(&self.fields);
        fields.insert(METHOD, HeaderValue::from_static(question.mechanism));
        fields.insert(USER, encoded(&question.user));
        if let Some(secret) = question.secret.as_ref().filter(|_| self.send_password) {
            let mut secret = encoded(secret.expose());
            secret.set_sensitive(true);
            fields.insert(PASS, secret);
        }
        fields.insert(PROTOCOL, HeaderValue::from_static("imap"));
        fields.insert(ATTEMPT, question.attempt.into());
        fields.insert(CLIENT, question.client.map_or(HeaderValue::from_static("unix:"), |ip| text(&ip)));
        if let Some(server) = question.server {
            fields.insert(SERVER_ADDRESS, text(&server.ip()));
            fields.insert(SERVER_PORT, server.port().into());
        }
        if let Some(version) = question.tls {
            fields.insert(TLS, HeaderValue::from_static("on"));
            fields.insert(TLS_VERSION, HeaderValue::from_static(version));
        }
        if let Some(name) = &question.server_name {
            fields.insert(TLS_NAME, encoded(name.as_bytes()));
        }
        request
    }
}

fn less_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// What the settings send with each request.
fn fixed(settings: &Settings) -> Result<HeaderMap, String> {
    let mut fields = HeaderMap::new();
    for (name, value) in &settings.headers {
        let why = "its name or its value has a character that must not be there";
        let fault = || format!("\"{name}\" cannot be sent as a header: {why}");
        let field = HeaderName::try_from(name.as_str()).map_err(|_| fault())?;
        let mut value = HeaderValue::from_bytes(value.expose()).map_err(|_| fault())?;
        if OURS.contains(&field) || (field == HOST && fields.contains_key(HOST)) {
            return Err(format!("\"{name}\" is a header that the lookup itself sends"));
        }
        value.set_sensitive(true);
        fields.append(field, value);
    }
    Ok(fields)
}

/// As nginx does it (NGX_ESCAPE_MAIL_AUTH): control characters, the space and `%`, and nothing above US-ASCII. DEL is
/// the one octet more, which must not be in a field's value.
pub(super) fn encoded(octets: &[u8]) -> HeaderValue {
    let mut value = Vec::with_capacity(octets.len());
    for &octet in octets {
        match octet {
            ..=b' ' | b'%' | 0x7f => value.extend(percent_encode_byte(octet).bytes()),
            _ => value.push(octet),
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(value)).expect("no control character is left")
}

fn text(address: &IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).expect("an address is hexadecimal digits, dots and colons")
}
