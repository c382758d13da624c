//! Client sessions: the task that runs one, and which there are.

pub use imapool_proto::session::machine;

pub mod crowd;
pub mod driver;
pub mod registry;
pub(crate) mod relay;
pub mod trace;
