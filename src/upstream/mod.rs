//! The backend's side: dialing, logging in, and the connections that live in the pools.

pub mod backend;
pub mod breaker;
pub mod connection;
pub mod dial;
pub mod gate;
pub mod login;
pub mod machine;
pub mod manners;
pub mod turns;
