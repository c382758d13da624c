//! Client sessions: the protocol machine of one, and the task that runs it.

pub mod crowd;
pub mod driver;
pub mod machine;
pub mod registry;
pub mod trace;
