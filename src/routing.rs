//! Which backend an account belongs to.

pub mod http;
