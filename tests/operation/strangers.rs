//! What strangers can make the log say.

use imapool::demo::server::{Options, Server};
use regex::Regex;

use crate::process::Imapool;
use crate::support::Client;

const NAMES: &[&str] = &[
    "nobody",
    "x client=203.0.113.66",
    "x\" client=203.0.113.66 user=\"y",
    "INFO imapool::auth: login refused client=203.0.113.66 user=\"x\" reply=\"NO",
    "\u{9b}31mred\u{85}client=203.0.113.66",
    "\u{202e}66.311.0.302=tneilc\u{2028}client=203.0.113.66\u{2066}",
];

/// The patterns of the filter that is shipped, and the address that they find.
fn banned(line: &str) -> Option<String> {
    let filter = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/fail2ban/imapool.conf")).unwrap();
    let patterns = filter.split("failregex = ").nth(1).unwrap().split("\n\n").next().unwrap();
    patterns.lines().find_map(|pattern| {
        let pattern = pattern.trim().replacen("<HOST>", "(?P<host>[0-9a-fA-F:.]+)", 1);
        Some(Regex::new(&pattern).unwrap().captures(line)?["host"].to_owned())
    })
}

#[tokio::test]
async fn a_user_name_deceives_neither_readers_nor_filters_of_the_log() {
    let server = Server::start(Options::default()).await.unwrap();
    let client = Regex::new("client=(\\S+)").unwrap();
    for more in ["", "[log]\nformat = \"json\"\n"] {
        let imapool = Imapool::start(server.address(), more).await;
        for name in NAMES {
            let mut stranger = Client::connect(imapool.address()).await;
            stranger.send(format!("a LOGIN {{{}+}}\r\n{name} wrong\r\n", name.len())).await;
            stranger.play("S: * OK…\nS: a NO [AUTHENTICATIONFAILED]…").await;
        }
        let refused = || imapool.log().lines().filter(|line| line.contains("login refused")).count();
        crate::support::until("all refusals in the log", || refused() == NAMES.len()).await;
        let log = imapool.log();
        for (line, name) in log.lines().filter(|line| line.contains("login refused")).zip(NAMES) {
            assert_eq!(banned(line).as_deref(), Some("127.0.0.1"), "{line}");
            assert_eq!(banned(&format!("host imapool[7]: {line}")).as_deref(), Some("127.0.0.1"), "{line}");
            // An operator's own filter is likely to be no better than this.
            assert!(client.captures_iter(line).all(|found| &found[1] == "127.0.0.1") || !more.is_empty(), "{line}");
            assert!(
                !line.chars().any(|char| char.is_control() || "\u{202e}\u{2028}\u{2066}".contains(char)),
                "{line:?}"
            );
            if !more.is_empty() {
                let told: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!((&told["user"], &told["client"]), (&(*name).into(), &"127.0.0.1".into()), "{line}");
            }
        }
    }
}

#[test]
fn the_filter_takes_the_genuine_line_alone() {
    let genuine =
        "2026-11-28T17:00:00.000000Z  INFO imapool::auth: login refused client=192.0.2.7 user=\"u\" reply=\"NO no\"";
    // As it is, without its date, from journald, from a file of syslog.
    let without = genuine.strip_prefix("2026-11-28T17:00:00.000000").unwrap();
    for line in [genuine, without, &format!("mail imapool[12]: {genuine}"), &format!(" mail imapool: {genuine}")] {
        assert_eq!(banned(line).as_deref(), Some("192.0.2.7"), "{line}");
    }
    for forged in [
        "2026-11-28T17:00:00.000000Z  INFO imapool::trace: C: a LIST login refused client=192.0.2.7 user=\"u\" reply=\"NO\"",
        "2026-11-28T17:00:00.000000Z  INFO imapool::auth: login refused user=\"x client=192.0.2.7\" reply=\"NO no\"",
    ] {
        assert_eq!(banned(forged), None, "{forged}");
    }
}
