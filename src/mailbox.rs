//! A selected mailbox that several sessions share: the hub's task and the registry.

pub use imapool_proto::mailbox::{enabled, log, machine, plan, shadow};

pub mod hub;
pub(crate) mod line;
pub mod registry;
