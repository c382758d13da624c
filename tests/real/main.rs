//! imapool in front of real IMAP servers (Dovecot, Cyrus), and real clients through it.
//!
//! Every test starts its own server, as a private instance on a loopback port with everything in a temporary
//! folder. A server or client that is not installed makes a test say `SKIPPED` and pass, or fail when
//! `IMAPOOL_REQUIRE_REAL=1`. `.ci/run` shows how to install them all.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `IMAPOOL_REQUIRE_REAL` | `1`: what is missing is a failure |
//! | `IMAPOOL_BIN` | the proxy to test instead of the one just built |
//! | `IMAPOOL_FLOOD` | how many wrong passwords `flood` sends; 1,000 by default |
//! | `IMAPOOL_SHARED_SECONDS` | how long the clients of `multiplex` are at work; 4 by default |
//! | `IMAPOOL_SHARED_DIRECT` | if set, these connect to the server instead of imapool, which tests what they check |
//! | `IMAPOOL_RANDOM`, `IMAPOOL_RANDOM_SEED` | how many conversations at random (20 by default), and from which
//! number on |
//! | `IMAPOOL_TOWN_ACCOUNTS` | how many accounts `town` has; 60 by default |
//! | `IMAPOOL_CYRUS_ROOT` | where Debian's Cyrus packages were unpacked; else `/opt/imapool-test/cyrus`, else `/` |
//! | `IMAPOOL_DEBIAN13_ROOT` | a Debian 13 with Dovecot 2.4, Cyrus 3.10 and Courier; else
//! `/opt/imapool-test/debian13` |

mod accounts;
mod auth;
mod beside_nginx;
mod client;
mod clients;
mod compare;
mod conversation;
mod conversations;
mod courier;
mod cyrus;
mod debian13;
mod directory;
mod dovecot;
mod flood;
mod idlers;
mod leftovers;
mod load;
mod moving;
mod multiplex;
mod places;
mod process;
mod proxy;
mod random;
mod recipes;
mod replicas;
mod restart;
mod runner;
mod server;
mod tls;
mod town;
mod viewer;
