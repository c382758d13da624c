//! What is allowed, and told all the same.

use super::*;

#[test]
fn warnings() {
    let warnings = |text: &str| -> Vec<String> {
        let warnings = parsed(text).expect("a warning is no error").warnings();
        warnings.iter().map(|warning| warning.split([' ', ':']).next().unwrap_or_default().to_owned()).collect()
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
    let config = parsed(&text).unwrap_or_else(|error| panic!("a warning is no error: {error}"));
    config.warnings()
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
            listener_l("address = \"127.0.0.1:0\"\ncertificates = [\"/certs\"]"),
            NEAR.to_owned(),
            "listener \"l\" has tls = \"none\", so nobody uses its certificates: write tls = \"starttls\" or \
             \"implicit\", or delete the line",
        ),
        (
            listener_l("address = \"127.0.0.1:0\"\nclient_ca_file = \"/ca\""),
            NEAR.to_owned(),
            "listener \"l\" has tls = \"none\", so nobody uses its client_ca_file: write tls = \"starttls\" or \
             \"implicit\", or delete the line",
        ),
        (
            quiet(),
            format!("{NEAR}{pair}\n"),
            "backend \"b\" has tls = \"none\", so nobody uses its certificate and private_key: write tls = \"starttls\" \
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
        parsed(&text).map_err(|error| error.to_string())
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

/// Of a configuration with two backends in a group and one alone, all of them near.
fn of_routes(text: &str) -> Vec<String> {
    let backend =
        |name: &str, more: &str| format!("[[backend]]\nname = \"{name}\"\naddress = \"127.0.0.1:143\"\n{more}\n");
    let (grouped, rest) = text.split_once("---\n").unwrap_or(("", text));
    let pair = format!("group = \"g\"\n{grouped}");
    let head =
        listener_l("address = \"127.0.0.1:1\"") + &backend("a", &pair) + &backend("b", &pair) + &backend("c", "");
    let open = "[routing]\nmoves_file = \"/m\"\n[[group]]\nname = \"g\"\n";
    let config = Config::parse(&format!("{head}{open}{rest}"), "f").unwrap_or_else(|error| panic!("{error}"));
    config.warnings()
}

#[track_caller]
fn tells(text: &str, wanted: &[&str]) {
    assert_eq!(of_routes(text), wanted, "{text}");
}

#[test]
fn what_stands_behind_what_is_for_all_that_it_is_for() {
    let never = |what: &str, by: &str| {
        format!("{what} never counts: whoever it is for, {by} or one before that has already. Move it up, or delete it")
    };
    let routes = |all: &[&str]| all.iter().map(|it| format!("[[route]]\n{it}\n")).collect::<String>();
    let accounts = |all: &[&str]| all.iter().map(|it| format!("[[account]]\nusers = [{it}]\n")).collect::<String>();
    let to = |more: &str| format!("to = \"a\"\n{more}");
    for (earlier, later) in [
        (to(""), to("users = [\"x\"]")),
        (to(""), to("")),
        ("http = \"http://127.0.0.1/\"".to_owned(), to("listeners = [\"l\"]")),
        // There is no other listener.
        (to("listeners = [\"l\"]"), to("")),
        (to("users = [\"@example.org\"]"), to("users = [\"X@Example.org\", \"@example.org\"]")),
        (to("server_names = [\"a.example\", \"b.example\"]"), to("server_names = [\"B.example\"]\nusers = [\"x\"]")),
    ] {
        tells(&routes(&[&earlier, &later]), &[&never("route 2", "route 1")]);
    }
    for (earlier, later) in [
        // Whoever is not in it goes on.
        ("file = \"/f\"".to_owned(), to("")),
        (to("users = [\"x\"]"), to("")),
        (to("users = [\"x\"]"), to("users = [\"x\", \"y\"]")),
        (to("server_names = [\"a.example\"]"), to("")),
        (to("server_names = [\"a.example\"]"), to("server_names = [\"a.example\", \"b.example\"]")),
    ] {
        tells(&routes(&[&earlier, &later]), &[]);
    }
    tells(&routes(&[&to("users = [\"x\"]"), &to(""), &to("users = [\"y\"]")]), &[&never("route 3", "route 2")]);
    for (all, shadowed) in [
        (&["\"@example.org\"", "\"X@example.org\""][..], Some(("account 2", "account 1"))),
        (&["\"x\"", "\"x\""], Some(("account 2", "account 1"))),
        (&["\"@*.org\"", "\"y\"", "\"y\", \"@a.org\", \"@*.a.org\""], Some(("account 3", "account 2"))),
        (&["\"x@example.org\"", "\"@example.org\""], None),
        (&["\"@example.org\"", "\"x@example.org\", \"y\""], None),
        (&["\"@*.example.org\"", "\"@example.org\""], None),
    ] {
        let wanted: Vec<_> = shadowed.iter().map(|(what, by)| never(what, by)).collect();
        tells(&accounts(all), &wanted.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn what_counts_only_beside_something_else() {
    let quiet = || listener_l("address = \"127.0.0.1:0\"");
    warns(&[(
        quiet(),
        format!("{NEAR}weight = 7\n"),
        "backend \"b\" has a weight, but is in no group, where alone it counts: write group, or delete the line",
    )]);
    tells("weight = 7\n---\n", &[]);
    tells(
        "weight = 0\n---\n",
        &["group \"g\" takes no new accounts, because each of its backends has weight = 0: give one of them a weight"],
    );
    for (key, value) in [
        ("timeout", "\"1s\""),
        ("ttl", "\"1s\""),
        ("negative_ttl", "\"1s\""),
        ("stale", "\"1s\""),
        ("headers", "[\"A: b\"]"),
        ("send_password", "true"),
    ] {
        let said = format!("route 1 has no http, for which alone there is {key}: delete the line");
        tells(&format!("[[route]]\nto = \"a\"\n{key} = {value}"), &[&said]);
        tells(&format!("[[route]]\nhttp = \"http://127.0.0.1/\"\n{key} = {value}"), &[]);
    }
    let both = "route 1 has no http, for which alone there is ttl, stale: delete the line";
    tells("[[route]]\nto = \"a\"\nttl = \"1s\"\nstale = \"1s\"\ntimeout = \"5s\"", &[both]);
}

#[test]
fn passwords_for_a_service_on_another_host() {
    for (host, near) in [
        ("127.0.0.1:8080", true),
        ("[::1]:8080", true),
        ("localhost", true),
        ("192.0.2.1", false),
        ("[2001:db8::1]:8080", false),
        ("auth.example.org:8080", false),
    ] {
        let name = host.trim_end_matches(":8080").trim_matches(['[', ']']);
        let said = format!(
            "route 1 sends passwords in the clear to {name}: run the service on this host, or write send_password = \
             false, unless the network between is trusted"
        );
        let route = format!("[[route]]\nhttp = \"http://{host}/auth\"\n");
        tells(&route, &[]);
        let wanted = [said.as_str()];
        tells(&format!("{route}send_password = true\n"), if near { &[] } else { &wanted });
    }
}

/// As for `[pool]`, for what takes its place.
#[test]
fn what_is_otherwise_and_never_takes_effect() {
    let never = |key: &str, other: &str| {
        format!("{key} never takes effect, because {other} comes first: lower the one or raise the other")
    };
    let account = "[[account]]\nusers = [\"x\"]\n";
    tells(&format!("{account}max_per_account = 9\nidle_timeout = \"1h\"\n"), &[]);
    tells(
        &format!("{account}max_per_account = 9\nidle_timeout = \"2h\"\n[pool]\nmax_total = 8\n"),
        &[&never("account 1.max_per_account", "pool.max_total"), &never("account 1.idle_timeout", "pool.max_lifetime")],
    );
    let late = "pool.keepalive 30m may come too late: servers log out after 30 minutes, write \"10m\"";
    tells(&format!("{account}idle_timeout = \"30m\"\n[pool]\nkeepalive = \"30m\"\n"), &[late]);
    warns(&[(
        listener_l("address = \"127.0.0.1:0\""),
        format!("{NEAR}idle_timeout = \"2h\"\n"),
        &never("backend \"b\".idle_timeout", "pool.max_lifetime"),
    )]);
}
