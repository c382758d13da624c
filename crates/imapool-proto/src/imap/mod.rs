//! IMAP on the wire (RFC 9051, RFC 3501): framing, and as much grammar as routing needs. Pure: no tokio, no sockets,
//! no clock.

pub mod capability;
pub mod command;
pub mod decided;
pub mod effects;
pub mod fetch_items;
pub mod follow;
pub mod frame;
pub mod framer;
pub mod modseqs;
mod nesting;
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
