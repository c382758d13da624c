//! The backend's side: logging in, one connection's machine, and when connections may be opened.

pub mod breaker;
pub mod gate;
pub mod login;
pub mod loss;
pub mod machine;
pub mod manners;
