//! The backend's side: dialing, logging in, and the connections that live in the pools.

pub use imapool_proto::upstream::{breaker, gate, login, loss, machine, manners};

pub mod backend;
pub mod connection;
pub mod dial;
pub mod turns;
