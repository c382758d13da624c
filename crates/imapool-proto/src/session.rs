//! Client sessions: the protocol machine of one.

pub mod machine;
