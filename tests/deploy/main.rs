//! What is put in place beside the binary: reference files, the import of up-imapproxy's configuration, systemd
//! units, the Debian package, Kubernetes manifests, Prometheus' rules and the dashboard.
//!
//! What needs a program that is not installed is skipped with a word on standard error, and fails if
//! `IMAPOOL_REQUIRE_REAL=1`. The package is installed only by root, in namespaces of its own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the message")]

mod import;
mod kubernetes;
mod package;
mod prometheus;
mod reference;
mod support;
mod systemd;
