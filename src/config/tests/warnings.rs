//! What is allowed, and told all the same.

use super::*;

#[test]
fn warnings() {
    let warnings = |text: &str| -> Vec<String> {
        let warnings = Config::parse(text, "f").expect("a warning is no error").warnings();
        warnings
            .iter()
            .map(|warning| warning.to_string().split([' ', ':']).next().unwrap_or_default().to_owned())
            .collect()
    };
    let open =
        "[[listener]]\naddress = \"0.0.0.0:143\"\nplaintext_login = \"always\"\n[[backend]]\naddress = \"h:143\"\n";
    assert_eq!(warnings(open), ["listener", "backend"]);
    let near = open.replace("0.0.0.0:143", "127.0.0.1:144").replace("\"h:", "\"localhost:");
    assert_eq!(warnings(&near.replace("always", "loopback")), Vec::<String>::new());
    assert_eq!(warnings(&open.replace("0.0.0.0", "[::1]")), ["backend"]);
    assert_eq!(warnings(&open.replace("0.0.0.0:143", "unix:/s")), ["backend"]);
    let cases = [
        ("[admin]\naddress = \"0.0.0.0:9143\"", &["admin.address"][..]),
        ("[limits]\nidle_timeout = \"29m\"", &["limits.idle_timeout"]),
        ("[pool]\nkeepalive = \"30m\"\nidle_timeout = \"30m\"", &["pool.keepalive"]),
        ("[pool]\nkeepalive = \"30m\"", &[]),
        ("[pool]\nlinger = \"6m\"", &["pool.linger"]),
        ("[pool]\nidle_timeout = \"2h\"", &["pool.idle_timeout"]),
        ("[pool]\nmax_total = 3", &["pool.max_per_account"]),
        ("[limits]\nsessions_per_address = 20001", &["limits.sessions_per_address"]),
        ("[limits]\nlogin_timeout = \"5s\"", &["limits.tls_handshake_timeout"]),
    ];
    for (text, expected) in cases {
        assert_eq!(warnings(&format!("{MINIMAL}{text}\n")), expected, "{text:?}");
    }
}

/// As text, of these sections.
fn told(listeners: &str, backends: &str) -> Vec<String> {
    let text = format!("{listeners}[[backend]]\nname = \"b\"\n{backends}");
    let config = Config::parse(&text, "f").unwrap_or_else(|error| panic!("a warning is no error: {error}"));
    config.warnings().iter().map(ToString::to_string).collect()
}

fn listener_l(more: &str) -> String {
    format!("[[listener]]\nname = \"l\"\n{more}\n")
}

const NEAR: &str = "address = \"127.0.0.1:143\"\n";

#[track_caller]
fn warns(cases: &[(String, String, &str)]) {
    assert_eq!(told(&listener_l("address = \"127.0.0.1:0\""), NEAR), [""; 0]);
    for (listeners, backends, wanted) in cases {
        let told = told(listeners, backends);
        assert!(told.iter().any(|told| told == wanted), "{told:#?}\n{wanted}");
    }
}

/// Files that nobody uses, and TLS the other way round than is usual at a port.
#[test]
fn tls_that_is_not_as_it_seems() {
    let pair = "certificate = \"/c\"\nprivate_key = \"/k\"";
    let quiet = || listener_l("address = \"127.0.0.1:0\"");
    warns(&[
        (
            listener_l(&format!("address = \"127.0.0.1:0\"\n{pair}")),
            NEAR.to_owned(),
            "listener \"l\" has tls = \"none\", so nobody uses its certificate and private_key: write tls = \"starttls\" \
             or \"implicit\", or delete the line",
        ),
        (
            quiet(),
            format!("{NEAR}ca_file = \"/ca\"\n"),
            "backend \"b\" has tls = \"none\", so nobody uses its ca_file: write tls = \"starttls\" or \"implicit\", or \
             delete the line",
        ),
        (
            listener_l(&format!("address = \"127.0.0.1:993\"\ntls = \"starttls\"\n{pair}")),
            NEAR.to_owned(),
            "listener \"l\" has tls = \"starttls\" on port 993, where \"implicit\" is usual: write that, or another port",
        ),
        (
            quiet(),
            "address = \"h:993\"\ntls = \"starttls\"\n".to_owned(),
            "backend \"b\" has tls = \"starttls\" on port 993, where \"implicit\" is usual: write that, or another port",
        ),
        (
            quiet(),
            "address = \"127.0.0.1:993\"\n".to_owned(),
            "backend \"b\" has tls = \"none\" on port 993, where \"implicit\" is usual: write that, or another port",
        ),
        (
            quiet(),
            "address = \"h:143\"\ntls = \"implicit\"\n".to_owned(),
            "backend \"b\" has tls = \"implicit\" on port 143, where \"starttls\" is usual: write that, or another port",
        ),
    ]);
}

/// What would be noticed only by those who cannot log in.
#[test]
fn what_nobody_can_use() {
    let quiet = || listener_l("address = \"127.0.0.1:0\"");
    warns(&[
        (
            quiet(),
            format!("{NEAR}[[backend]]\naddress = \"127.0.0.1:144\"\nname = \"spare\"\n"),
            "backend \"spare\" gets no sessions, because no [[route]] leads there, nor routing.default: add one, or delete it",
        ),
        (
            listener_l("address = \"0.0.0.0:144\""),
            NEAR.to_owned(),
            "listener \"l\" is open to other hosts on 0.0.0.0:144, but lets nobody from there log in: without TLS, \
             plaintext_login = \"loopback\" refuses them. Write tls = \"starttls\" or \"implicit\", or \
             plaintext_login = \"always\" if the network is trusted, or a loopback address",
        ),
        (
            listener_l("address = \"unix:/s\"\nplaintext_login = \"never\""),
            NEAR.to_owned(),
            "listener \"l\" on unix:/s lets nobody log in: it has no TLS, without which plaintext_login = \"never\" refuses \
             everybody. Write tls = \"starttls\" or \"implicit\", or plaintext_login = \"loopback\"",
        ),
        (
            listener_l("address = \"127.0.0.1:144\"\nreuse_port = true")
                + "[[listener]]\nname = \"all\"\naddress = \"0.0.0.0:144\"\nreuse_port = true\nplaintext_login = \"always\"\n",
            NEAR.to_owned(),
            "listener \"all\" gets nothing that comes to 127.0.0.1:144, because listener \"l\" is there: if both are meant, \
             give them different ports",
        ),
    ]);
}

/// The kernel refuses the second, whichever comes first.
#[test]
fn addresses_that_overlap_are_told_before_the_start() {
    let of = |one: &str, two: &str, more: &str| {
        let text = format!(
            "[[listener]]\naddress = \"{one}\"\n{more}[[listener]]\naddress = \"{two}\"\n{more}\
             [[backend]]\naddress = \"192.0.2.1:143\"\n"
        );
        Config::parse(&text, "f").map_err(|error| error.to_string())
    };
    for (one, two) in [("0.0.0.0:144", "127.0.0.1:144"), ("127.0.0.1:144", "0.0.0.0:144"), ("[::]:144", "[::1]:144")] {
        let wanted = format!(
            "f:4:11: `listener.address` \"{two}\" is taken already, by line 2: one of the two is for all addresses of this \
             host, keep that, or write another port"
        );
        assert_eq!(of(one, two, "").unwrap_err(), wanted);
    }
    for (one, two) in [("0.0.0.0:144", "[::]:144"), ("0.0.0.0:144", "127.0.0.1:145"), ("0.0.0.0:0", "127.0.0.1:0")] {
        assert!(of(one, two, "name = \"x\"\n").unwrap_err().contains("name"), "only the name is there twice");
        assert!(of(one, two, "").is_ok(), "{one} {two}");
    }
    let admin = "[[listener]]\naddress = \"0.0.0.0:9143\"\n[[backend]]\naddress = \"192.0.2.1:143\"\n";
    assert!(
        wrong(admin)
            .starts_with("f:1:1: `admin.address` \"127.0.0.1:9143\" is taken already, by line 2: one of the two")
    );
}

#[test]
fn how_long_a_certificate_is_good() {
    const DAY: i64 = 24 * 60 * 60;
    let (begins, now) = (100 * DAY, 200 * DAY);
    for (ends, wanted) in [
        (now - 1, Some(Lifetime::Over(now - 1))),
        (now, Some(Lifetime::EndsSoon(now))),
        (now + 14 * DAY - 1, Some(Lifetime::EndsSoon(now + 14 * DAY - 1))),
        (now + 14 * DAY, None),
        (i64::MAX, None),
    ] {
        assert_eq!(Lifetime::at(now, begins, ends), wanted);
    }
    assert_eq!(Lifetime::at(begins - 1, begins, now), Some(Lifetime::NotBegun(begins)));
    // One for six days is not near its end all the time.
    assert_eq!(Lifetime::at(now, now - DAY, now + 5 * DAY), None);
    assert_eq!(Lifetime::at(now, now - 5 * DAY, now + DAY), Some(Lifetime::EndsSoon(now + DAY)));
    assert_eq!(Lifetime::Over(951_782_400).to_string(), "expired at 2000-02-29T00:00:00Z: renew it, it is refused");
    for strange in [i64::MIN, -1, i64::MAX] {
        assert!(Lifetime::Over(strange).to_string().contains("a time far away"));
    }
}
