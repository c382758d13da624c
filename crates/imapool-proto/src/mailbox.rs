//! A selected mailbox that several sessions share.

pub mod enabled;
pub mod log;
pub mod machine;
pub mod plan;
pub mod shadow;

#[cfg(test)]
mod model;
