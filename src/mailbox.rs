//! A selected mailbox that several sessions share. Pure but for the hub's task and the registry.

pub mod enabled;
pub mod hub;
pub(crate) mod line;
pub mod log;
pub mod machine;
pub mod plan;
pub mod registry;
pub mod shadow;

#[cfg(test)]
mod model;
