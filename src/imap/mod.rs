//! IMAP on the wire (RFC 9051, RFC 3501): framing, and as much grammar as routing needs. Pure: no tokio, no sockets, no clock.

pub mod capability;
pub mod command;
pub mod effects;
pub mod fetch_items;
pub mod frame;
pub mod numbering;
mod program;
pub mod ranges;
pub mod renumber;
pub mod response;
pub mod rewrite;
pub mod sasl;
pub mod sequence;
pub mod untagged;

/// Longest line of a backend that has to be seen whole (status replies, CAPABILITY), in octets. Longer data lines stream.
pub const MAX_WHOLE_LINE: usize = 64 * 1024;
