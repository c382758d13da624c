//! The PROXY protocol, versions 1 and 2, as a pure function over the bytes that have come so far.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. The header ends where the client's own bytes (IMAP or
//! a TLS ClientHello) begin, so whoever reads it must not take a byte more: [`parse`] says exactly how long it is, and
//! while it is incomplete, that everything seen so far belongs to it.

use std::net::SocketAddr;

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use thiserror::Error;

/// The longest version 1 header, CRLF included (section 2.1 of the specification).
pub const MAX_V1: usize = 107;
/// The longest version 2 header accepted here. The format allows 65,551; what real senders add (TLS details, a unique
/// id, a cloud's endpoint id) stays in the hundreds.
pub const MAX_V2: usize = 4096;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const FIXED_V2: usize = 16;

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Every byte given belongs to the header, and it goes on: by at most so many bytes (never 0).
    NeedMore(usize),
    /// The header is the first `len` bytes.
    Header {
        /// The client's address; `None` where the header carries none (LOCAL, UNKNOWN, a Unix socket): then the
        /// address of the connection itself stands.
        source: Option<SocketAddr>,
        /// Octets of the header. What follows is the client's.
        len: usize,
    },
}

/// Why the bytes are no PROXY header. The connection cannot be used: where its client's bytes begin is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidHeader {
    /// Neither signature.
    #[error(
        "it does not begin with a PROXY header: let the load balancer send one, or take its network out of proxy_protocol_from"
    )]
    Missing,
    /// The signature is right, the rest is not.
    #[error("its PROXY header is malformed")]
    Malformed,
    /// Longer than [`MAX_V1`] or [`MAX_V2`].
    #[error("its PROXY header is too long (at most {MAX_V1} octets in version 1, {MAX_V2} in version 2)")]
    TooLong,
    /// A header for datagrams on a stream.
    #[error("its PROXY header announces UDP")]
    Datagram,
}

/// Looks for a header at the start of `bytes`.
///
/// # Errors
/// [`InvalidHeader`] as soon as it is certain, without waiting for more.
pub fn parse(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
    if begins(bytes, SIGNATURE_V2) {
        parse_v2(bytes)
    } else if begins(bytes, SIGNATURE_V1) {
        parse_v1(bytes)
    } else {
        Err(InvalidHeader::Missing)
    }
}

/// Whether `bytes` agrees with `signature` as far as both go.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let both = bytes.len().min(signature.len());
    bytes[..both] == signature[..both]
}

fn parse_v1(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
    let bytes = &bytes[..bytes.len().min(MAX_V1)];
    // The line's end is looked for here and not left to the parser, which seeks each field's own end and would ask for
    // more after a short line, so that the client's bytes became part of the header.
    match memchr::memchr(b'\n', bytes) {
        Some(end) => decode(&bytes[..=end]),
        None if bytes.len() == MAX_V1 => Err(InvalidHeader::TooLong),
        None => Ok(Progress::NeedMore(MAX_V1 - bytes.len())),
    }
}

fn parse_v2(bytes: &[u8]) -> Result<Progress, InvalidHeader> {
    let Some(fixed) = bytes.first_chunk::<FIXED_V2>() else {
        return Ok(Progress::NeedMore(FIXED_V2 - bytes.len()));
    };
    let len = FIXED_V2 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > MAX_V2 {
        return Err(InvalidHeader::TooLong);
    }
    match bytes.get(..len) {
        Some(header) => decode(header),
        None => Ok(Progress::NeedMore(len - bytes.len())),
    }
}

/// Decodes `header`, which must be all of it and nothing else.
fn decode(header: &[u8]) -> Result<Progress, InvalidHeader> {
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(header, config) {
        Ok((parsed, len)) if len == header.len() => match parsed.proxied_address() {
            Some(address) if address.protocol == Protocol::Datagram => Err(InvalidHeader::Datagram),
            Some(address) => Ok(Progress::Header { source: Some(canonical(address.source)), len }),
            None => Ok(Progress::Header { source: None, len }),
        },
        _ => Err(InvalidHeader::Malformed),
    }
}

/// `::ffff:192.0.2.1` is 192.0.2.1: one client must not count as two.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
