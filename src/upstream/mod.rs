//! The backend's side.

pub mod dial;
