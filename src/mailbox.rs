//! A selected mailbox that several sessions share. Pure but for the hub's task.

pub mod log;
