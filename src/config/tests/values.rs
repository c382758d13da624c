//! Each kind of value: what is refused, where, and with which words.

use super::*;

/// `true` and `false` are what the key was before.
#[test]
fn which_credentials_are_kept_apart() {
    let of = |line: &str| Config::parse(&format!("{MINIMAL}[pool]\n{line}\n"), "f").map(|it| it.pool.per_credential);
    for (line, wanted) in [
        ("", PerCredential::Tokens),
        ("per_credential = \"tokens\"", PerCredential::Tokens),
        ("per_credential = \"always\"", PerCredential::Always),
        ("per_credential = \"never\"", PerCredential::Never),
        ("per_credential = true", PerCredential::Always),
        ("per_credential = false", PerCredential::Never),
    ] {
        assert_eq!(of(line).unwrap(), wanted, "{line}");
    }
    assert_eq!(
        wrong_after_minimal("[pool]\nper_credential = \"yes\"\n"),
        "f:6:18: `pool.per_credential` cannot be \"yes\": write one of \"tokens\", \"always\", \"never\""
    );
}

#[test]
fn values_of_a_wrong_type() {
    let cases = [
        (
            "[pool]\nlinger = 30\n",
            "f:6:10: `pool.linger` cannot be 30: the unit is missing, write \"30s\" for seconds, or \"30m\", \"30h\"",
        ),
        (
            "[pool]\nlinger = 1.5\n",
            "f:6:10: `pool.linger` is a floating-point number, but must be a duration in quotes such as \"30s\", \"5m\" or \"1h\"",
        ),
        (
            "[pool]\nmax_total = \"5\"\n",
            "f:6:13: `pool.max_total` is a string, but must be a whole number, without quotes",
        ),
        (
            "[pool]\nmax_total = 5.0\n",
            "f:6:13: `pool.max_total` is a floating-point number, but must be a whole number, without quotes",
        ),
        (
            "[pool]\nper_credential = 1\n",
            "f:6:18: `pool.per_credential` is an integer, but must be one of a few words, in quotes",
        ),
        (
            "[log]\nsessions = \"yes\"\n",
            "f:6:12: `log.sessions` is a string, but must be true or false, without quotes",
        ),
        ("[pool]\nmode = true\n", "f:6:8: `pool.mode` is a boolean, but must be one of a few words, in quotes"),
        (
            "[limits]\nliterals = []\n",
            "f:6:12: `limits.literals` is an array, but must be a size such as \"64KiB\", or a number of bytes",
        ),
        (
            "[admin]\naddress = 2026-01-01\n",
            "f:6:11: `admin.address` is a date or time, but must be an address in quotes such as \"127.0.0.1:9143\"",
        ),
        (
            "source_addresses = \"::1\"\n",
            "f:5:20: `backend.source_addresses` is a string, but must be a list of IP addresses such as [\"192.0.2.7\"]",
        ),
        (
            "source_port_range = 40000\n",
            "f:5:21: `backend.source_port_range` is an integer, but must be a range of ports in quotes such as \"40000-44999\"",
        ),
        (
            "source_addresses = [\n  \"192.0.2.7\",\n  5]\n",
            "f:7:3: `backend.source_addresses` is an integer, but must be an IP address in quotes such as \"192.0.2.7\"",
        ),
        ("ca_file = {}\n", "f:5:11: `backend.ca_file` is a table, but must be a file's path in quotes"),
        (
            "[[pool]]\n",
            "f:5:1: `pool` is a list, but must be a section that is written once, with its name in single brackets",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong_after_minimal(text), expected, "{text:?}");
    }
    let single = "is a section with its name in single brackets, but must be a section with its name in double brackets, \
                  since there may be several";
    assert_eq!(
        wrong("[listener]\naddress = \"127.0.0.1:0\"\n[backend]\n"),
        format!("f:1:1: `listener` {single}\nf:3:1: `backend` {single}")
    );
    assert!(wrong("listener = 5\nbackend = [{}, 6]").contains("f:2:16: `backend` is a single value"));
}

#[test]
fn durations_out_of_bounds() {
    let advice = "write a duration in quotes such as \"30s\", \"5m\" or \"1h\"";
    for bad in ["", "-1s", "30 parsecs", "s", "99999999999999999999y"] {
        refused(
            with("pool", &format!("linger = \"{bad}\"")),
            &format!("f:6:10: `pool.linger` cannot be \"{bad}\": {advice}"),
        );
    }
    for bad in ["\"30\"", "30", "\" 30 \""] {
        refused(
            with("pool", &format!("linger = {bad}")),
            &format!(
                "f:6:10: `pool.linger` cannot be {bad}: the unit is missing, write \"30s\" for seconds, or \"30m\", \"30h\""
            ),
        );
    }
    assert!(with("pool", "linger = \"0\"").is_ok());
    refused(
        with("pool", "idle_timeout = \"0s\""),
        "f:6:16: `pool.idle_timeout` cannot be \"0s\": too short, at least 1ms",
    );
    refused(
        with("auth", "cache_ttl = \"366days\""),
        "f:6:13: `auth.cache_ttl` cannot be \"366days\": too long, at most 365days",
    );
    assert_eq!(with("auth", "cache_ttl = \"365days\"").unwrap().auth.cache_ttl, value::YEAR);
}

/// Zero has a meaning for these durations, and for no other.
#[test]
fn durations_that_may_be_zero() {
    let durations = Config::keys().into_iter().filter(|(section, key)| {
        !section.is_empty() && with_key(section, key, "\"1h 30m\"").is_ok() && with_key(section, key, "\"1\"").is_err()
    });
    let zero: Vec<_> = durations.filter(|(section, key)| with_key(section, key, "\"0s\"").is_ok()).collect();
    assert_eq!(
        zero,
        [
            ("group", "stay"),
            ("route", "ttl"),
            ("route", "negative_ttl"),
            ("route", "stale"),
            ("pool", "linger"),
            ("pool", "share_patience"),
            ("pool", "check_after"),
            ("pool", "drain_timeout"),
            ("auth", "cache_ttl"),
            ("auth", "failure_delay"),
            ("limits", "drain_timeout"),
            ("log", "slow")
        ]
    );
}

#[test]
fn numbers_and_sizes_out_of_bounds() {
    for bad in ["0", "1001", "-1", "99999999999999999999999"] {
        refused(
            with("pool", &format!("max_per_account = {bad}")),
            &format!("f:6:19: `pool.max_per_account` cannot be {bad}: write a number from 1 to 1000"),
        );
    }
    for bad in ["100", "-1", "\"100\"", "\"65MiB\"", "\"9999999999999999TiB\""] {
        refused(
            with("limits", &format!("command_line = {bad}")),
            &format!("f:6:16: `limits.command_line` cannot be {bad}: write a size from 512 B to 64.0 MiB"),
        );
    }
    refused(
        with("limits", "command_line = \"64 apples\""),
        "f:6:16: `limits.command_line` cannot be \"64 apples\": write a size such as \"64KiB\", or a number of bytes",
    );
    assert_eq!(with("pool", "max_per_account = 1_000").unwrap().pool.max_per_account, 1000);
}

#[test]
fn words_that_are_none_of_the_few() {
    refused(
        with("log", "level = \"loud\""),
        "f:6:9: `log.level` cannot be \"loud\": write one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
    );
    refused(
        backend("address = \"h:1\"\ntls = \"TLS\""),
        "f:5:7: `backend.tls` cannot be \"TLS\": write one of \"none\", \"starttls\", \"implicit\"",
    );
    assert_eq!(with("pool", "mode = \"multiplex\"").unwrap().pool.mode, PoolMode::Multiplex);
    for name in ["", "  ", "a\\nb", &"x".repeat(101)] {
        assert!(listener(&format!("address = \"127.0.0.1:1\"\nname = \"{name}\"")).is_err(), "{name:?}");
    }
}

#[test]
fn addresses_to_listen_on() {
    let general = "write an IP address and a port, such as \"127.0.0.1:1143\" or \"[::1]:1143\", or \"unix:/run/imapool/imap.sock\"";
    let all = "for all addresses write \"[::]:143\", or \"0.0.0.0:143\" for IPv4 alone; for this host alone \"127.0.0.1:143\"";
    let names =
        "names are not looked up here, write an address of this host, such as \"127.0.0.1:143\" or \"[::1]:143\"";
    let socket = "write the socket's whole path, such as \"unix:/run/imapool/imap.sock\"";
    let cases = [
        ("", general),
        ("127.0.0.1:imap", general),
        ("127.0.0.256:143", general),
        ("mail.example.org:143", names),
        ("127.0.0.1:99999", "ports go from 1 to 65535, and 0 takes a free one: write another"),
        ("1143000", "ports go from 1 to 65535, and 0 takes a free one: write another"),
        ("143", all),
        ("/run/x.sock", "the address of a Unix socket begins with unix:, write \"unix:/run/x.sock\""),
        ("imap.sock", "the address of a Unix socket begins with unix:, write \"unix:/run/imapool/imap.sock\""),
        ("2001:db8::1:x", general),
        ("127.0.0.1", "the port is missing, write \"127.0.0.1:1143\""),
        ("::1", "the port is missing, write \"[::1]:1143\""),
        ("[::1]", "the port is missing, write \"[::1]:1143\""),
        (":143", all),
        ("*:143", all),
        ("localhost:143", names),
        ("224.0.0.1:143", "nothing can listen on a multicast address, write an address of this host"),
        ("unix:", socket),
        ("unix:imap.sock", socket),
        ("unix:/run/", socket),
    ];
    for (address, remedy) in cases {
        refused(
            listener(&format!("address = \"{address}\"")),
            &format!("f:4:11: `listener.address` cannot be \"{address}\": {remedy}"),
        );
    }
    let long = format!("unix:/{}", "x".repeat(107));
    assert!(listener(&format!("address = \"{long}\"")).unwrap_err().to_string().contains("at most 107 bytes"));
    assert!(listener(&format!("address = \"{}\"", &long[..long.len() - 1])).is_ok());
    for (address, remedy) in [
        ("localhost:143", names),
        ("127.0.0.1", "the port is missing, write \"127.0.0.1:9143\""),
        ("127.0.0.1:70000", "ports go from 1 to 65535, and 0 takes a free one: write another"),
        ("/run/a.sock", "the address of a Unix socket begins with unix:, write \"unix:/run/a.sock\""),
        ("unix:a.sock", "write the socket's whole path, such as \"unix:/run/imapool/admin.sock\""),
        (
            "x",
            "write an IP address and a port, such as \"127.0.0.1:9143\" or \"[::1]:9143\", or \
             \"unix:/run/imapool/admin.sock\", or \"\" for no admin address",
        ),
    ] {
        refused(
            with("admin", &format!("address = \"{address}\"")),
            &format!("f:6:11: `admin.address` cannot be \"{address}\": {remedy}"),
        );
    }
}

#[test]
fn addresses_of_backends() {
    let general = "write a host name or an IP address, and a port, such as \"mail.example.org:143\" or \"[::1]:143\"";
    let port = "after the host write a colon and a port from 1 to 65535";
    let cases = [
        ("mail.example.org", "the port is missing, write \"host:143\", or \"host:993\" for implicit TLS"),
        ("127.0.0.1", "the port is missing, write \"127.0.0.1:143\""),
        ("::1", "the port is missing, write \"[::1]:143\""),
        ("mail.example.org:0", port),
        ("mail.example.org:imap", port),
        (
            "imap://mail.example.org:143",
            "write host and port without \"imap://\"; whether there is TLS is said by `tls`",
        ),
        (
            "unix:/run/dovecot/imap",
            "servers are reached by TCP alone, write the server's host and port, such as \"127.0.0.1:143\"",
        ),
        (":143", general),
        ("127.0.0.256:143", general),
        ("a..b:143", general),
        ("-a:143", general),
        ("a b:143", general),
        ("0.0.0.0:143", "nothing can be dialed there, write the server's own address"),
    ];
    for (address, remedy) in cases {
        refused(
            backend(&format!("address = \"{address}\"")),
            &format!("f:4:11: `backend.address` cannot be \"{address}\": {remedy}"),
        );
    }
    for (address, host) in [("dovecot_1:143", "dovecot_1"), ("a.example.:993", "a.example."), ("[::1]:1", "::1")] {
        assert_eq!(backend(&format!("address = \"{address}\"")).unwrap().backends[0].host, host);
    }
    refused(
        backend("address = \"h:993\"\nserver_name = \"not a name\""),
        "f:5:15: `backend.server_name` cannot be \"not a name\": write the name that the backend's certificate has, \
         such as \"mail.example.org\"",
    );
}

#[test]
fn networks_and_sources() {
    let networks = |networks: &str| listener(&format!("address = \"127.0.0.1:1\"\nproxy_protocol_from = {networks}"));
    refused(
        networks("[\"10.0.0.0/8\", \"10.1.2.3/8\"]"),
        "f:5:38: `listener.proxy_protocol_from` cannot be \"10.1.2.3/8\": it has bits beyond its prefix length, write \"10.0.0.0/8\"",
    );
    let advice = "write a network such as \"10.0.0.0/8\" or \"2001:db8::/32\", or one IP address";
    refused(networks("[\"lb\"]"), &format!("f:5:24: `listener.proxy_protocol_from` cannot be \"lb\": {advice}"));
    refused(
        listener("address = \"unix:/s\"\nproxy_protocol_from = [\"::/0\"]"),
        "f:5:23: `listener.proxy_protocol_from` cannot be [\"::/0\"]: the peers of a Unix socket have no address, delete the line",
    );
    let sources = |sources: &str| backend(&format!("address = \"192.0.2.1:143\"\nsource_addresses = {sources}"));
    let cases = [
        ("[\"::\"]", "f:5:21", "\"::\"", "for the kernel's own choice, leave the list empty: source_addresses = []"),
        (
            "[\"192.0.2.2:5\"]",
            "f:5:21",
            "\"192.0.2.2:5\"",
            "write an IP address of this host, without a port, such as \"192.0.2.7\"",
        ),
        (
            "[\"192.0.2.2\", \"192.0.2.2\"]",
            "f:5:20",
            "[\"192.0.2.2\", \"192.0.2.2\"]",
            "one address is there twice, keep one of the two",
        ),
        (
            "[\"::1\"]",
            "f:5:20",
            "[\"::1\"]",
            "from ::1 nothing reaches 192.0.2.1, take addresses of the same IP version",
        ),
    ];
    for (list, place, value, remedy) in cases {
        refused(sources(list), &format!("{place}: `backend.source_addresses` cannot be {value}: {remedy}"));
    }
}
