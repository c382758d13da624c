//! What is otherwise for some accounts, and at some backends.

use super::*;

#[test]
fn what_an_account_is_said_of_must_be_somebody() {
    let advice = "write a name, \"@\" and a domain, or \"@*.\" and a domain";
    for (text, wanted) in [
        ("mode = \"session\"", "f:5:1: `account.users` is missing: add a line such as users = [\"@example.org\"]".to_owned()),
        ("users = []", "f:6:9: `account.users` cannot be []: name at least one account or domain, or delete this section".into()),
        ("users = [\"a\", \"@\"]", format!("f:6:9: `account.users` cannot be [\"a\", \"@\"]: \"@\" means no account: {advice}")),
        ("users = [\" \"]", format!("f:6:10: `account.users` cannot be \" \": {advice}")),
        (
            "users = \"a\"",
            "f:6:9: `account.users` is a string, but must be a list of names such as [\"anna@example.org\", \"@example.net\"]".into(),
        ),
        (
            "users = [\"a\"]\nmax_per_account = 0\nmode = \"both\"\nallow = 0",
            "f:7:19: `account.max_per_account` cannot be 0: write a number from 1 to 1000\n\
             f:8:8: `account.mode` cannot be \"both\": write one of \"multiplex\", \"session\"\n\
             f:9:9: `account.allow` is an integer, but must be true or false, without quotes"
                .into(),
        ),
        ("users = [\"a\"]\nlinger = \"1s\"", "f:7:1: unknown key `account.linger`: it belongs under [pool]".into()),
    ] {
        assert_eq!(wrong_after_minimal(&format!("[[account]]\n{text}\n")), wanted, "{text}");
    }
    let once = wrong_after_minimal("[account]\nusers = [\"a\"]\n");
    assert!(once.contains("must be a section with its name in double brackets, since there may be several"), "{once}");
}

#[test]
fn what_is_left_out_or_empty_is_as_in_pool() {
    let text = "max_per_account = \"\"\nmode = \"session\"\n[[account]]\nusers = [\"a\"]\nidle_timeout = \"1m\"\nmode = \"\"\n";
    let config = Config::parse(&format!("{MINIMAL}{text}"), "f").unwrap();
    let (backend, account) = (&config.backends[0], &config.accounts[0]);
    assert_eq!((backend.max_per_account, backend.mode), (None, Some(PoolMode::Session)));
    assert_eq!((account.max_per_account, account.mode), (None, None));
    assert_eq!((account.idle_timeout, account.sessions, account.allow), (Some(Duration::from_secs(60)), 0, true));
}

/// docs/tuning.md
#[test]
fn the_recipe_says_what_it_promises() {
    const PAGE: &str = include_str!("../../../docs/tuning.md");
    let recipe = PAGE.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a recipe");
    let config = Config::parse(&format!("{MINIMAL}name = \"main\"\n{recipe}"), "f").unwrap();
    // Who is sent to it, the page does not say.
    assert_eq!(config.warnings().len(), 2, "{:?}", config.warnings());
    let terms = crate::terms::AllTerms::new(&config);
    for (user, backend, wanted) in [
        (
            "Info@Example.org",
            "main",
            "at most 8 connections, mode: multiplex, closed after 5m at rest; at most 200 sessions",
        ),
        (
            "x@shared.example.org",
            "small",
            "at most 8 connections, mode: multiplex, closed after 5m at rest; at most 200 sessions",
        ),
        ("archive@example.org", "main", "at most 2 connections, mode: session, closed after 1h at rest"),
        ("x@example.org", "small", "at most 2 connections, mode: multiplex, closed after 5m at rest"),
    ] {
        assert_eq!(terms.of(&terms.key(user.as_bytes(), b""), backend).to_string(), wanted, "{user}");
    }
    assert!(!terms.allow(b"x@closed.example.org"));
}
