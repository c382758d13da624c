//! `imapool demo`, and the in-memory IMAP server which it and the tests use. Production code does not know it.

pub mod server;
