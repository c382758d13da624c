//! What is not TOML: where, and what to write instead.

use super::*;

#[test]
fn text_that_is_not_toml() {
    let cases = [
        (
            "[pool]\nlinger = 30s\n",
            "f:2:10: `linger`: not valid TOML: string values must be quoted, expected literal string; \
             text needs quotes: linger = \"30s\"",
        ),
        (
            "[pool]\n  linger =\n",
            "f:2:11: `linger`: not valid TOML: string values must be quoted, expected literal string; \
             write a value, or delete the line to have the default",
        ),
        ("[pool\n", "f:1:6: not valid TOML: unclosed table, expected `]`"),
        ("[pool]\n[log]\n[pool]\n", "f:3:2: not valid TOML: duplicate key; keep one of the two"),
        (
            "linger: \"30s\"\n",
            "f:1:7: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`; \
             write an equals sign: linger = \"30s\"",
        ),
        // Two lines, two problems; columns count characters.
        (
            "ö = \"\u{e9}\nx = \"ééé\" 5\n",
            "f:1:1: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`\n\
             f:2:11: `x`: not valid TOML: unexpected key or value, expected newline, `#`",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(wrong(text), expected, "{text:?}");
    }
}

/// Whatever the parser says of it, the line to write is told.
#[test]
fn a_line_that_is_not_toml_comes_with_the_right_one() {
    let address = "address = \"127.0.0.1:143\"";
    for (line, remedy) in [
        ("address = 127.0.0.1:143", &format!("text needs quotes: {address}") as &str),
        ("address = 127.0.0.1:143  # IMAP", &format!("text needs quotes: {address}")),
        ("address = \"127.0.0.1:143", &format!("a quote is missing: {address}")),
        ("address = 127.0.0.1:143\"", &format!("a quote is missing: {address}")),
        ("address = '127.0.0.1:143", &format!("a quote is missing: {address}")),
        ("address = “127.0.0.1:143”", &format!("quotes must be straight: {address}")),
        ("address = „127.0.0.1:143“", &format!("quotes must be straight: {address}")),
        ("address = \"127.0.0.1:143”", &format!("quotes must be straight: {address}")),
        ("address = ‘127.0.0.1:143’", &format!("quotes must be straight: {address}")),
        ("address: \"127.0.0.1:143\"", &format!("write an equals sign: {address}")),
        ("address = [::1]:143", "text needs quotes: address = \"[::1]:143\""),
        ("address = unix:/run/x.sock", "text needs quotes: address = \"unix:/run/x.sock\""),
        ("address = /run/x.sock", "text needs quotes: address = \"/run/x.sock\""),
        ("proxy_protocol_from = [10.0.0.0/8]", "text needs quotes: proxy_protocol_from = [\"10.0.0.0/8\"]"),
        ("unauthenticated = 25%", "text needs quotes: unauthenticated = \"25%\""),
        ("reuse_port = True", "write reuse_port = true"),
        ("reuse_port = no", "write reuse_port = false"),
        (
            "certificate = \"C:\\x\\y.pem\"",
            "between double quotes a backslash is not itself, take single ones: certificate = 'C:\\x\\y.pem'",
        ),
        ("name = \u{1b}[2J\u{7}", "text needs quotes: name = \"\u{fffd}[2J\u{fffd}\""),
        ("certificate = C:\\x\\y.pem", "text needs quotes: certificate = 'C:\\x\\y.pem'"),
    ] {
        let told = wrong(&format!("[[listener]]\n{line}\n"));
        assert!(!told.contains(char::is_control));
        assert!(told.starts_with("f:2:") && told.ends_with(remedy), "{line}: {told}");
    }
}

/// A file of another kind, or a very wrong one, costs neither minutes nor a terminal full of messages.
#[test]
fn of_very_many_problems_the_first_are_told() {
    let lines = |line: &dyn Fn(usize) -> String| (0..20_000).map(line).collect::<String>();
    for text in [
        lines(&|_| "x\n".to_owned()),
        lines(&|_| "= ".to_owned()),
        format!("[pool]\n{}", lines(&|number| format!("key{number} = 1\n"))),
        lines(&|_| "[[listener]]\n".to_owned()),
    ] {
        let told = wrong(&text);
        assert!((1..=50).contains(&told.lines().count()), "{}", told.lines().count());
        assert!(told.starts_with("f:1:") || told.starts_with("f:2:"), "{}", told.lines().next().unwrap());
    }
}
