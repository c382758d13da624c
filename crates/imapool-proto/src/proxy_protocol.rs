//! The PROXY protocol, versions 1 and 2, as a pure function over the bytes that have come so far.
//!
//! <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>. The header ends where the client's own bytes (IMAP or
//! a TLS ClientHello) begin, so whoever reads it must not take a byte more: [`parse`] says exactly how long it is, and
//! while it is incomplete, that everything seen so far belongs to it.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};
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

/// A header of version 2 that says for whom a connection to `destination` is: `None`: for nobody (LOCAL).
#[must_use]
pub fn header(client: Option<IpAddr>, destination: SocketAddr) -> Vec<u8> {
    let header = match client.map(|client| (client.to_canonical(), destination.ip().to_canonical())) {
        None => ProxyHeader::with_local(),
        Some((client, ip)) => {
            // Both addresses are of one family there; the client's port is nobody's business.
            let (client, ip) = if client.is_ipv4() == ip.is_ipv4() { (client, ip) } else { (wide(client), wide(ip)) };
            let (source, destination) = (SocketAddr::new(client, 0), SocketAddr::new(ip, destination.port()));
            ProxyHeader::with_address(ProxiedAddress::stream(source, destination))
        }
    };
    let mut octets = Vec::new();
    // Into a vector without additions it always fits.
    let _ = header.encode_v2(&mut octets);
    octets
}

fn wide(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::Tlv;

    use super::*;

    const V4: &str = "192.0.2.7:40000";
    const V6: &str = "[2001:db8::7]:40000";

    fn v1(line: &str) -> Vec<u8> {
        format!("PROXY {line}\r\n").into_bytes()
    }

    fn v2(source: &str, destination: &str, protocol: Protocol) -> Vec<u8> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let mut header = ProxyHeader::with_address(ProxiedAddress { protocol, source, destination });
        header.append_tlv(Tlv::UniqueId(b"4711"[..].into()));
        let mut bytes = Vec::new();
        header.encode_v2(&mut bytes).unwrap();
        bytes
    }

    /// Version and command, family, and what follows the length.
    fn v2_raw(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = [SIGNATURE_V2, &[command, family]].concat();
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    /// Headers with the source they carry.
    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        vec![
            (v1("TCP4 192.0.2.7 198.51.100.1 40000 143"), Some(V4)),
            (v1("TCP6 2001:db8::7 2001:db8::1 40000 143"), Some(V6)),
            (v1("TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 40000 143"), Some(V4)),
            (v1("UNKNOWN"), None),
            (v1("UNKNOWN 2001:db8::7 what ever 1"), None),
            (v2(V4, "198.51.100.1:143", Protocol::Stream), Some(V4)),
            (v2(V6, "[2001:db8::1]:143", Protocol::Stream), Some(V6)),
            (v2("[::ffff:192.0.2.7]:40000", "[::1]:143", Protocol::Stream), Some(V4)),
            (v2_raw(0x20, 0x00, b""), None),
            (v2_raw(0x20, 0x11, &[192, 0, 2, 9, 127, 0, 0, 1, 0, 1, 0, 2]), None),
            (v2_raw(0x21, 0x00, b""), None),
            (v2_raw(0x21, 0x31, &[b'/'; 216]), None),
        ]
    }

    #[test]
    fn good_headers_split_at_every_byte_and_followed_by_the_clients_bytes() {
        for (header, source) in good() {
            let expected = Progress::Header { source: source.map(|s| s.parse().unwrap()), len: header.len() };
            for tail in [&b""[..], b"a1 NOOP\r\n", b"\x16\x03\x01\x02\x00", b"\r\n\r\n", b" 1 2\r\n"] {
                let bytes = [&header, tail].concat();
                assert_eq!(parse(&bytes), Ok(expected), "{}", bytes.escape_ascii());
            }
            for seen in 0..header.len() {
                match parse(&header[..seen]) {
                    // Enough to come to the end of it, or to know its length.
                    Ok(Progress::NeedMore(max)) => assert!(seen + max >= header.len().min(FIXED_V2)),
                    other => panic!("{:?} for {}", other, header[..seen].escape_ascii()),
                }
            }
        }
    }

    #[test]
    fn what_is_no_header_is_refused_with_its_reason() {
        use InvalidHeader::{Datagram, Malformed, Missing, TooLong};
        let datagram = v2(V4, "198.51.100.1:143", Protocol::Datagram);
        let cases: &[(&[u8], InvalidHeader)] = &[
            (b"a1 LOGIN u p\r\n", Missing),
            (b"\x16\x03\x01\x02\x00", Missing),
            (b"PROXX", Missing),
            (b"\r\n\r\n\0\r\nQUIX", Missing),
            (b"PROXY TCP4 192.0.2.7\r\na1 LOGIN u p\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 143\na1 NOOP\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 70000 143\r\n", Malformed),
            (b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 143\r\n", Malformed),
            (b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 143\r\n", Malformed),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 143 \r\n", Malformed),
            (b"PROXY \r\n", Malformed),
            (&[b"PROXY UNKNOWN ", &[b'x'; 93][..]].concat(), TooLong),
            (&[b"PROXY UNKNOWN ", &[b'x'; 93][..], b"\r\n"].concat(), TooLong),
            (&v2_raw(0x11, 0x11, &[0; 12]), Malformed),
            (&v2_raw(0x22, 0x11, &[0; 12]), Malformed),
            (&v2_raw(0x21, 0x11, &[0; 11]), Malformed),
            (&v2_raw(0x21, 0x41, &[0; 12]), Malformed),
            (&v2_raw(0x21, 0x11, &[0; 4081])[..16], TooLong),
            (&datagram, Datagram),
        ];
        for (bytes, reason) in cases {
            assert_eq!(parse(bytes), Err(*reason), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_longest_headers_pass() {
        let line = [b"PROXY UNKNOWN ", &[b'x'; MAX_V1 - 16][..], b"\r\n"].concat();
        assert_eq!(parse(&line), Ok(Progress::Header { source: None, len: MAX_V1 }));
        let header = v2_raw(0x20, 0x00, &[0; MAX_V2 - FIXED_V2]);
        assert_eq!(parse(&header), Ok(Progress::Header { source: None, len: MAX_V2 }));
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let wild = prop::collection::vec(any::<u8>(), 0..300);
        let changed = (0..good().len(), any::<prop::sample::Index>(), any::<u8>(), wild.clone()).prop_map(
            |(which, place, byte, tail)| {
                let mut bytes = good().swap_remove(which).0;
                let place = place.index(bytes.len());
                bytes[place] = byte;
                bytes.extend(tail);
                bytes
            },
        );
        let begun = (prop::bool::ANY, wild.clone())
            .prop_map(|(first, tail)| [if first { SIGNATURE_V1 } else { SIGNATURE_V2 }, &tail].concat());
        prop_oneof![wild, changed, begun]
    }

    proptest! {
        /// However the bytes come in, the answer is the same, and nothing beyond the header is ever asked for or taken.
        #[test]
        fn pieces_and_whole_agree(bytes in bytes()) {
            let whole = parse(&bytes);
            if let Ok(Progress::Header { len, .. }) = whole {
                prop_assert!(len <= bytes.len());
            }
            for seen in 0..bytes.len() {
                match (parse(&bytes[..seen]), whole) {
                    (Ok(Progress::NeedMore(max)), whole) => {
                        prop_assert!(max > 0 && seen + max <= MAX_V2);
                        if let Ok(Progress::Header { len, .. }) = whole {
                            prop_assert!(seen < len);
                        }
                    }
                    (decided, whole) => prop_assert_eq!(decided, whole),
                }
            }
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let destination = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (client, to, read) in [
            (Some("192.0.2.7"), "127.0.0.1:143", Some("192.0.2.7:0")),
            (Some("2001:db8::7"), "[::1]:143", Some("[2001:db8::7]:0")),
            (Some("2001:db8::7"), "127.0.0.1:143", Some("[2001:db8::7]:0")),
            // Mapped there, and read as what it is.
            (Some("192.0.2.7"), "[::1]:143", Some("192.0.2.7:0")),
            (None, "127.0.0.1:143", None),
        ] {
            let header = header(client.map(|client| client.parse().unwrap()), destination(to));
            let Ok(Progress::Header { source, len }) = parse(&header) else { panic!("{header:?}") };
            assert_eq!((source.map(|s| s.to_string()).as_deref(), len), (read, header.len()), "{client:?} to {to}");
        }
    }
}
