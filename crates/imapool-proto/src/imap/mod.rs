//! IMAP on the wire (RFC 9051, RFC 3501): framing, and as much grammar as routing needs. Pure: no tokio, no sockets,
//! no clock.

pub mod capability;
pub mod command;
pub mod decided;
pub mod effects;
pub mod fetch_items;
pub mod frame;
pub mod framer;
pub mod modseqs;
pub mod numbering;
pub mod phrases;
mod program;
pub mod ranges;
pub mod renumber;
pub mod request;
pub mod response;
pub mod rewrite;
pub mod sasl;
pub mod sequence;
pub mod sticky;
pub mod untagged;
pub mod without_modseq;

/// Octets that are awaited of a line of a backend that is best seen whole (status replies, CAPABILITY). Of a longer
/// one, what there is has to do.
pub const MAX_WHOLE_LINE: usize = 64 * 1024;

/// Digits, and nothing else, as a number that fits.
pub(crate) fn decimal<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let digits = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok()
}

/// `number` with one more digit; what is out of range is no message's number.
pub(crate) fn with_digit(number: Option<u64>, digit: u8) -> Option<u64> {
    Some(number.unwrap_or(0).saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}
