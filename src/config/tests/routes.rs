//! Routes, and what they name.

use super::*;

/// Two backends in a group and one alone; then `text`.
fn routed(text: &str) -> String {
    let backend = |name: &str, more: &str| format!("[[backend]]\nname = \"{name}\"\naddress = \"{name}:143\"\n{more}");
    let pair = "group = \"pair\"\n";
    let backends = [backend("a", pair), backend("b", pair), backend("c", "")].concat();
    format!("[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n{backends}[[group]]\nname = \"pair\"\n{text}")
}

#[test]
fn what_is_not_there_cannot_be_named() {
    let known = "only \"a\", \"b\", \"c\", \"pair\"";
    let first = routed("").lines().count() + 1;
    for (text, line, column, wanted) in [
        ("[[route]]\nto = \"d\"", 1, 6, format!("`route.to` cannot be \"d\": there is no backend and no group of this name, {known}")),
        ("[routing]\ndefault = \"d\"", 1, 11, format!("`routing.default` cannot be \"d\": there is no backend and no group of this name, {known}")),
        ("[[route]]\nto = \"a\"\nlisteners = [\"x\"]", 2, 13, "`route.listeners` cannot be [\"x\"]: there is no listener of this name, only \"web\"".into()),
        ("[[route]]\nusers = [\"a\"]", 0, 1, "`route.to` is missing: a route says where by one of `to`, `file` and `http`".into()),
        ("[[route]]\nto = \"a\"\nfile = \"x\"", 2, 8, "`route.file` cannot be \"x\": a route says where by one of `to`, `file` and `http`".into()),
        ("[[route]]\nto = \"a\"\nusers = [\"b\", \"@\"]", 2, 9, "`route.users` cannot be [\"b\", \"@\"]: \"@\" means no account: write a name, \"@\" and a domain, or \"@*.\" and a domain".into()),
        ("[[route]]\nto = \"a\"\nserver_names = [\"*\"]", 2, 17, "`route.server_names` cannot be \"*\": write a host name such as \"imap.example.org\", or \"*.example.org\" for all below".into()),
        ("[[group]]\nname = \"empty\"", 1, 8, "`group.name` cannot be \"empty\": no backend is in it: write group in a [[backend]], or delete this section".into()),
        ("[[group]]\nstay = \"1m\"", 0, 1, "`group.name` is missing: add a line such as name = \"mail\"".into()),
        ("[routing]\ndefault_domain = \"@x.org\"", 1, 18, "`routing.default_domain` cannot be \"@x.org\": write a domain such as \"example.org\", without \"@\", or \"\" for none".into()),
        ("[routing]\nmaster_separator = \"a\"", 1, 20, "`routing.master_separator` cannot be \"a\": write what no user's name has in it, such as \"*\", or \"\" for nothing".into()),
    ] {
        assert_eq!(wrong(&routed(text)), format!("f:{}:{column}: {wanted}", first + line), "{text}");
    }
    let twice = "[[group]]\nname = \"a\"\n[[group]]\nname = \"pair\"\n";
    let said = wrong(&routed(twice));
    assert!(
        said.contains("`group.name` \"a\" is taken already, by line 5: routes name backends and groups alike"),
        "{said}"
    );
    assert!(said.contains("`group.name` \"pair\" is taken already, by line 16:"), "{said}");
    let said = wrong(&routed("").replace("[[group]]\nname = \"pair\"\n", ""));
    assert!(
        said.starts_with("f:5:8: `group \"pair\"` is missing: add a [[group]] with the line name = \"pair\""),
        "{said}"
    );
}

#[test]
fn how_members_of_a_group_are_checked() {
    let check = |text: &str| routed(&format!("check = {text}\n"));
    let parsed = |text: &str| Config::parse(&check(text), "f").unwrap().groups.remove(0).check;
    assert_eq!(parsed("{}"), Check::default());
    let given = parsed("{ interval = \"1s\", failures = 7, successes = 9, user = \"u\", password_file = \"/p\" }");
    assert_eq!((given.interval.as_secs(), given.failures.get(), given.successes.get()), (1, 7, 9));
    assert_eq!((given.user.as_str(), given.password_file), ("u", Some(PathBuf::from("/p"))));
    let line = routed("").lines().count() + 1;
    for (text, column, wanted) in [
        (
            "3",
            9,
            "`group.check` is an integer, but must be a table such as { interval = \"10s\", failures = 3, successes = 2 }",
        ),
        (
            "{ intervall = \"1s\" }",
            11,
            "`group.check` cannot be intervall: there is no such key in it, only interval, failures, successes, user, password_file",
        ),
        ("{ interval = \"1ms\" }", 22, "`group.check` cannot be \"1ms\": too short, at least 100ms"),
        ("{ failures = 0 }", 22, "`group.check` cannot be 0: write a number from 1 to 1000"),
        (
            "{ user = \"u\" }",
            9,
            "`group.check` cannot be { user = \"u\" }: a check by a test account needs both user and password_file",
        ),
    ] {
        assert_eq!(wrong(&check(text)), format!("f:{line}:{column}: {wanted}"), "{text}");
    }
    let failover = |text: &str| Config::parse(&routed(text), "f").unwrap().groups.remove(0).failover_after;
    assert_eq!(failover(""), None);
    assert_eq!(failover("failover_after = \"never\""), None);
    assert_eq!(failover("failover_after = \"30s\""), Some(Duration::from_secs(30)));
    assert!(wrong(&routed("failover_after = \"soon\"")).contains("write a duration in quotes"), "or never");
}

#[test]
fn a_backend_that_nobody_is_sent_to() {
    let unused = |text: &str| {
        let config = parsed(&routed(text)).unwrap();
        let name = |warning: &String| Some(warning.split_once(" gets no sessions, ")?.0.split('"').nth(1)?.to_owned());
        config.warnings().iter().filter_map(name).collect::<Vec<_>>().join(" ")
    };
    for (text, wanted) in [
        ("", "b c"),
        ("[routing]\ndefault = \"pair\"", "c"),
        ("[routing]\ndefault = \"\"\n[[route]]\nusers = [\"x\"]\nto = \"c\"", "a b"),
        ("[routing]\ndefault = \"pair\"\n[[route]]\nusers = [\"x\"]\nto = \"c\"", ""),
        // The file may name any of them.
        ("[[route]]\nfile = \"/nowhere\"", ""),
    ] {
        assert_eq!(unused(text), wanted, "{text}");
    }
}

/// Wherever a mistake is, the value of a header is not told: it may be a secret.
#[test]
fn no_header_is_told() {
    for headers in [
        "[\"X-Key: hunter2]",
        "[\"X-Key: hunter2\" \"Y: hunter2\"]",
        "\"X-Key: hunter2\"",
        "[\"X-Key hunter2\"]",
        "[\"X\\qKey: hunter2\"]",
        "[X-Key: hunter2]",
        "[1, \"X-Key: hunter2\"]",
        "[\n\"X-Key: hunter2,\n]",
    ] {
        let text = routed(&format!("[[route]]\nhttp = \"http://h/a\"\nheaders = {headers}"));
        let error = parsed(&text).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
    let text = routed("[[route]]\nhttp = \"http://h/a\"\nheaders = [\"X-Key: hunter2\"]");
    let config = parsed(&text).unwrap();
    let told = format!("{config:?} {}", serde_json::to_string(&config).unwrap());
    assert!(!told.contains("hunter2") && told.contains("X-Key"), "{told}");
}
