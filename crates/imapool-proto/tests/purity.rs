//! What this crate can reach: neither a runtime nor sockets, clocks or randomness. Its sources are held to that by
//! clippy.toml, which names what the standard library has of these.
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "in a test, a panic is the message")]

use std::collections::BTreeSet;
use std::process::Command;

/// All that it is built of, directly or not. What is added here must be as pure.
const PARTS: [&str; 34] = [
    "base64",
    "block-buffer",
    "bytes",
    "cfg-if",
    "cpufeatures",
    "crypto-common",
    "digest",
    "foldhash",
    "generic-array",
    "hashbrown",
    "imapool-proto",
    "itoa",
    "libc",
    "lock_api",
    "memchr",
    "parking_lot",
    "parking_lot_core",
    "proc-macro2",
    "proxy-header",
    "quote",
    "scopeguard",
    "serde",
    "serde_core",
    "serde_derive",
    "sha2",
    "smallvec",
    "subtle",
    "syn",
    "thiserror",
    "thiserror-impl",
    "typenum",
    "unicode-ident",
    "version_check",
    "zeroize",
];
/// Part of `parking_lot` on other platforms.
const ELSEWHERE: [&str; 3] = ["bitflags", "redox_syscall", "windows-link"];

#[test]
fn it_is_built_of_what_is_pure() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--package", "imapool-proto", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let parts: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(parts.contains("bytes"), "{tree}");
    let strangers: Vec<_> = parts.iter().filter(|part| !PARTS.contains(part) && !ELSEWHERE.contains(part)).collect();
    assert!(strangers.is_empty(), "{strangers:?} would be part of it");
}
