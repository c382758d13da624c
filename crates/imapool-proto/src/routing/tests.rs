use proptest::prelude::*;

use super::first::First;
use super::map::BadLine;
use super::*;

const FOLDED: Names = Names { fold: true, default_domain: String::new(), master_separator: String::new() };

fn names(default_domain: &str, master_separator: &str) -> Names {
    Names { default_domain: default_domain.into(), master_separator: master_separator.into(), ..FOLDED }
}

/// Backends a, b (group "pair"), c alone.
fn routes(rules: Vec<Rule>, default: Target) -> Routes {
    let member = |name: &str, group| Member { name: name.into(), group, weight: 100 };
    let backends = vec![member("a", Some(0)), member("b", Some(0)), member("c", None)];
    Routes { names: FOLDED, moves: None, rules, default, backends, groups: vec!["pair".into()], relays: Vec::new() }
}

fn rule(users: &[&str], listeners: &[&str], server_names: &[&str], source: Source) -> Rule {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let users = users.iter().map(|user| Pattern::parse(user, &FOLDED).unwrap()).collect();
    Rule { users, listeners: owned(listeners), server_names: owned(server_names), source }
}

fn map(lines: &str) -> Result<Map, (u32, BadLine)> {
    let (all, mut map) = (routes(Vec::new(), Target::Nobody), Map::default());
    for (number, line) in (1..).zip(lines.split('\n')) {
        map.add(number, line.as_bytes(), &FOLDED, |name| all.target(name)).map_err(|bad| (number, bad))?;
    }
    Ok(map)
}

/// Where a user goes, as `rule[:line] target[ login]`.
fn goes(routes: &Routes, user: &str, listener: &str, server_name: Option<&str>) -> String {
    let key = routes.names.key(user.as_bytes(), b"");
    match routes.step(&Asked { key: &key, listener, server_name }) {
        Step::Ask(rule) => format!("{rule} ?"),
        Step::Goes(Route { by, line, target, login }) => {
            let rule = match by {
                By::Move => "moved".to_owned(),
                By::Rule(rule) => rule.to_string(),
                By::Default => "default".to_owned(),
            };
            let line = line.map_or(String::new(), |line| format!(":{line}"));
            let target = match target {
                Target::Backend(place) => &routes.backends[place].name,
                Target::Group(place) => &routes.groups[place],
                Target::Nobody => "-",
            };
            let login = login.map_or(String::new(), |login| format!(" {}", String::from_utf8_lossy(login)));
            format!("{rule}{line} {target}{login}")
        }
    }
}

#[test]
fn a_name_becomes_a_key() {
    for (names, user, authzid, key) in [
        (names("", ""), "Anna@Example.ORG", "", "anna@example.org"),
        (names("", ""), " anna ", "", "anna"),
        (names("Example.org", ""), "Anna", "", "anna@example.org"),
        (names("example.org.", ""), "anna", "", "anna@example.org"),
        (names("example.org", ""), "anna@other.org", "", "anna@other.org"),
        (names("", "*"), "anna*admin", "", "anna"),
        (names("example.org", "*"), "anna*admin@example.com", "", "anna@example.org"),
        (names("", "*"), "*admin", "", "*admin"),
        (names("", ""), "anna*admin", "", "anna*admin"),
        // A proxy user of SASL PLAIN reads the mail of whom it names.
        (names("", "*"), "admin", "Anna@example.org", "anna@example.org"),
        (Names::default(), "Anna@Example.ORG ", "", "Anna@Example.ORG "),
    ] {
        assert_eq!(String::from_utf8(names.key(user.as_bytes(), authzid.as_bytes())).unwrap(), key, "{user}");
    }
    assert_eq!(FOLDED.key(b"M\xfcller", b""), b"m\xfcller", "no UTF-8");
    // Whatever is cut off a name, its domain is not.
    for user in [vec![b'X'; 1000], "Ü".repeat(400).into_bytes(), vec![0xff; 1000]] {
        let key = FOLDED.key(&[&user[..], b"@Example.org"].concat(), b"");
        assert!(key.ends_with(b"@example.org") && key.len() == user.len() + 12);
    }
}

#[test]
fn a_login_takes_the_place_of_the_accounts_name() {
    use crate::imap::sasl::{Credential, Form, Mechanism};
    let credential = |mechanism, user: &str, authzid: &str| Credential {
        mechanism,
        user: user.into(),
        authzid: authzid.into(),
        secret: crate::secret::Secret::copy_of(b"secret"),
        forms: [Form::Quoted; 2],
    };
    for (mechanism, user, authzid, wanted) in [
        (Mechanism::Plain, "anna", "", ["u7", ""]),
        (Mechanism::LoginCommand, "anna*admin", "", ["u7*admin", ""]),
        (Mechanism::Plain, "admin", "anna", ["admin", "u7"]),
        (Mechanism::XOAuth2, "anna", "", ["anna", ""]),
    ] {
        let renamed = names("", "*").renamed(&credential(mechanism, user, authzid), b"u7");
        assert_eq!([renamed.user, renamed.authzid], wanted.map(|name| name.as_bytes().to_vec()), "{user} {authzid}");
    }
}

#[test]
fn patterns_mean_names_domains_and_those_below() {
    for (pattern, fits, others) in [
        ("Anna@Example.org", "ANNA@example.org.", &["anna", "xanna@example.org", "anna@example.org.evil"][..]),
        ("anna", "Anna", &["anna@example.org"]),
        ("@Example.org", "x@example.org", &["x@sub.example.org", "example.org", "x@notexample.org", "@example.org@x"]),
        ("@example.org", "x@y@example.org", &["x@example.org@y"]),
        (
            "@*.example.org",
            "x@a.b.example.org",
            &["x@example.org", "x@.example.org", "x@notexample.org", ".example.org"],
        ),
    ] {
        let read = Pattern::parse(pattern, &FOLDED).unwrap();
        assert!(read.matches(&FOLDED.key(fits.as_bytes(), b"")), "{pattern}: {fits}");
        for other in others {
            assert!(!read.matches(&FOLDED.key(other.as_bytes(), b"")), "{pattern}: {other}");
        }
    }
    for none in ["", "@", "@*.", "@*", "@*.*.org", "@a@b", "@.org", "  "] {
        assert!(Pattern::parse(none, &FOLDED).is_err(), "{none:?}");
    }
}

/// Of the accounts of the first, the second has some or all.
#[test]
fn a_pattern_covers_what_it_has_all_of() {
    for (pattern, within, beyond) in [
        ("anna@example.org", &["Anna@Example.org"][..], &["anna", "@example.org", "@*.org"][..]),
        ("@example.org", &["@Example.org.", "x@example.org"], &["x@a.example.org", "@*.example.org", "@a.example.org"]),
        (
            "@*.example.org",
            &["@*.example.org", "@*.a.example.org", "@a.example.org", "x@b.a.example.org"],
            &["@example.org", "x@example.org", "@*.org", "@*.notexample.org", "@notexample.org"],
        ),
    ] {
        let read = |text: &str| Pattern::parse(text, &FOLDED).unwrap();
        for other in within {
            assert!(read(pattern).covers(&read(other)), "{pattern}: {other}");
        }
        for other in beyond {
            assert!(!read(pattern).covers(&read(other)), "{pattern}: {other}");
        }
    }
}

#[test]
fn the_first_rule_that_fits_decides() {
    let file =
        Arc::new(map("# who has moved\nanna@example.net c anna.net\n@example.net pair\n\nout@example.net -").unwrap());
    let fixed = Source::Fixed;
    let all = routes(
        vec![
            rule(&["anna@example.org", "@example.com"], &[], &[], fixed(Target::Backend(2))),
            rule(&["@example.org"], &["inner"], &[], fixed(Target::Backend(1))),
            rule(&[], &[], &["imap.example.org", "*.customers.example"], fixed(Target::Group(0))),
            rule(&[], &[], &[], Source::Map(file)),
            rule(&["@asked.example"], &[], &[], Source::Lookup),
            rule(&["@*.example.org"], &[], &[], fixed(Target::Nobody)),
        ],
        Target::Backend(0),
    );
    for (user, listener, server_name, wanted) in [
        ("Anna@example.org", "inner", None, "0 c"),
        ("x@example.com", "inner", Some("imap.example.org"), "0 c"),
        ("bert@example.org", "inner", None, "1 b"),
        ("bert@example.org", "outer", None, "default a"),
        ("bert@example.org", "outer", Some("IMAP.example.org."), "2 pair"),
        ("bert", "outer", Some("one.customers.example"), "2 pair"),
        ("bert", "outer", Some("customers.example"), "default a"),
        ("anna@example.net", "outer", None, "3:2 c anna.net"),
        ("bert@example.net", "outer", None, "3:3 pair"),
        ("out@example.net", "outer", None, "3:5 -"),
        ("x@asked.example", "outer", None, "4 ?"),
        ("x@sub.example.org", "outer", None, "5 -"),
        ("nobody", "outer", None, "default a"),
    ] {
        assert_eq!(goes(&all, user, listener, server_name), wanted, "{user} by {listener}, {server_name:?}");
    }
}

#[test]
fn who_was_moved_by_hand_goes_there_whatever_the_rules_say() {
    let fixed = Source::Fixed(Target::Backend(1));
    let mut all = routes(vec![rule(&[], &[], &[], fixed)], Target::Backend(0));
    all.moves = Some(Arc::new(map("anna c\nbert - \n").unwrap()));
    for (user, wanted) in [("anna", "moved:1 c"), ("bert", "moved:2 -"), ("carla", "0 b")] {
        assert_eq!(goes(&all, user, "x", None), wanted);
    }
    assert_eq!(all.within_reach(Some("x")), [1, 2]);
}

#[test]
fn what_a_listener_can_lead_to() {
    let fixed = Source::Fixed;
    let all = routes(
        vec![
            rule(&["x"], &["inner"], &[], fixed(Target::Group(0))),
            rule(&[], &["outer"], &[], fixed(Target::Backend(1))),
            rule(&["y"], &["asks"], &[], Source::Lookup),
        ],
        Target::Backend(2),
    );
    assert_eq!(all.within_reach(Some("inner")), [0, 1, 2]);
    assert_eq!(all.within_reach(Some("outer")), [1], "nothing gets past a rule for all");
    assert_eq!(all.within_reach(Some("asks")), [0, 1, 2]);
    assert_eq!(all.within_reach(Some("other")), [2]);
    assert_eq!(all.within_reach(None), [0, 1, 2]);
    assert_eq!(routes(Vec::new(), Target::Nobody).within_reach(Some("other")), [0; 0]);
}

#[test]
fn a_group_has_one_for_each_account_and_none_without_weight() {
    let all = routes(Vec::new(), Target::Group(0));
    let picked = all.backend(Target::Group(0), b"anna", |place| all.backends[place].weight).unwrap();
    assert!(picked < 2);
    let other = |place: usize| u32::from(place != picked);
    assert_eq!(all.backend(Target::Group(0), b"anna", other), Some(1 - picked));
    assert_eq!(all.backend(Target::Backend(picked), b"anna", other), Some(picked), "it is named");
    assert_eq!(all.backend(Target::Group(0), b"anna", |_| 0), None);
    assert_eq!(all.backend(Target::Nobody, b"anna", |_| 1), None);
}

#[test]
fn a_bad_line_is_named() {
    for (lines, number, bad) in [
        ("anna a\nbert", 2, BadLine::Words),
        ("anna a b c", 1, BadLine::Words),
        ("anna nowhere", 1, BadLine::Target("nowhere".into())),
        ("@ a", 1, BadLine::Key),
        ("Anna a\n\nanna a", 3, BadLine::Twice(1)),
        ("@x.org a\n@X.org. b", 2, BadLine::Twice(1)),
    ] {
        assert_eq!(map(lines).unwrap_err(), (number, bad), "{lines}");
    }
    let mut long = Map::default();
    assert_eq!(long.add(1, &[b'x'; map::LONGEST_LINE + 1], &FOLDED, |_| None), Err(BadLine::TooLong));
    assert_eq!(long.add(1, b"\xff a", &FOLDED, |_| None), Err(BadLine::NotUtf8));
    assert!(long.keys() == 0);
    let kept = map("\tanna\ta\r\n  # c\n@x.org b").unwrap();
    assert_eq!((kept.keys(), kept.targets()), (2, &[Target::Backend(0), Target::Backend(1)][..]));
}

#[test]
fn the_most_exact_line_counts_whatever_their_order() {
    let map = map("@*.org c\n@*.b.org b\n@a.b.org a\nx@a.b.org pair").unwrap();
    for (user, line) in [("x@a.b.org", 4), ("y@a.b.org", 3), ("y@c.b.org", 2), ("y@b.org", 1), ("y@d.e.org", 1)] {
        assert_eq!(map.get(user.as_bytes(), By::Default).unwrap().line, Some(line), "{user}");
    }
    for none in ["y@org", "y", ".org", "@.org", "y@.org"] {
        assert_eq!(map.get(none.as_bytes(), By::Default), None, "{none}");
    }
}

proptest! {
    /// A map says what the patterns of its lines say, one by one.
    #[test]
    fn a_map_is_its_lines(
        keys in proptest::collection::btree_set("[ab]@[ab](\\.[ab]){0,2}|@[ab](\\.[ab]){0,2}|@\\*\\.[ab](\\.[ab])?|[ab]", 0..12),
        asked in "[abc]@[abc](\\.[abc]){0,3}|[abc]",
    ) {
        let lines: Vec<_> = keys.iter().map(|key| format!("{key} a {key}")).collect();
        let map = map(&lines.join("\n")).unwrap();
        prop_assert_eq!(map.keys(), keys.len());
        let fits = keys.iter().filter(|key| Pattern::parse(key, &FOLDED).unwrap().matches(asked.as_bytes()));
        // The name itself, then its domain, then the longest above.
        let wanted = fits.max_by_key(|key| (!key.starts_with('@'), !key.starts_with("@*"), key.len()));
        let found = map.get(asked.as_bytes(), By::Default).map(|found| String::from_utf8(found.login.unwrap().to_vec()).unwrap());
        prop_assert_eq!(found.as_ref(), wanted);
    }

    /// The first list is found that has a pattern which matches, and no pattern covers one that matches more.
    #[test]
    fn the_first_list_is_found_and_what_is_covered_matches_no_more(
        lists in proptest::collection::vec(
            proptest::collection::vec("[ab]@[ab](\\.[ab]){0,2}|@[ab](\\.[ab]){0,2}|@\\*\\.[ab](\\.[ab])?|[ab]", 0..4),
            0..6,
        ),
        asked in "[abc]@[abc](\\.[abc]){0,3}|[abc]|@?(\\.[ab]){1,3}",
    ) {
        let read = |list: &Vec<String>| -> Vec<_> {
            list.iter().map(|text| Pattern::parse(text, &FOLDED).unwrap()).collect()
        };
        let lists: Vec<_> = lists.iter().map(read).collect();
        let mut first = First::default();
        lists.iter().enumerate().for_each(|(place, list)| first.add(place, list.iter().cloned()));
        let matches = |pattern: &Pattern| pattern.matches(asked.as_bytes());
        prop_assert_eq!(first.find(asked.as_bytes()), lists.iter().position(|list| list.iter().any(matches)));
        for pattern in lists.iter().flatten() {
            let covers = |list: &Vec<Pattern>| list.iter().any(|one| one.covers(pattern));
            prop_assert_eq!(first.covering(pattern), lists.iter().position(covers), "{:?}", pattern);
        }
        for (one, other) in lists.iter().flatten().flat_map(|one| lists.iter().flatten().map(move |other| (one, other))) {
            prop_assert!(!one.covers(other) || matches(one) || !matches(other), "{:?} {:?}", one, other);
        }
    }

    #[test]
    fn no_line_and_no_name_breaks_it(lines in proptest::collection::vec(any::<Vec<u8>>(), 0..20), user in any::<Vec<u8>>(), words in any::<String>()) {
        let mut map = Map::default();
        for (number, line) in (1..).zip(&lines) {
            let _ = map.add(number, line, &FOLDED, |_| Some(Target::Nobody));
        }
        let _ = map.get(&user, By::Default);
        let _ = map.add(99, format!("{words} a").as_bytes(), &names("x.org", "*"), |_| Some(Target::Nobody));
        for names in [FOLDED, names("x.org", "*"), Names::default()] {
            let _ = map.get(&names.key(&user, b""), By::Default);
            let _ = map.get(&names.key(words.as_bytes(), &user), By::Default);
        }
        let _ = is_server_name("*.example.org", &words);
    }
}

/// A move to a replica holds where the rules lead to replicas, one to a server where they lead to servers: whoever is
/// moved to another server does not get past the replica that has the account.
#[test]
fn a_move_is_for_those_who_are_asked_for_it() {
    let by_outer = rule(&[], &["outer"], &[], Source::Fixed(Target::Group(0)));
    let mut replicas = routes(vec![by_outer], Target::Backend(2));
    replicas.relays = vec![0];
    replicas.moves = Some(Arc::new(map("anna b\nbert c\ncarl -").unwrap()));
    for (user, outer, inner) in
        [("anna", "moved b", "default c"), ("bert", "0 pair", "moved c"), ("dora", "0 pair", "default c")]
    {
        let said = [goes(&replicas, user, "outer", None), goes(&replicas, user, "inner", None)];
        assert_eq!(said.map(|said| said.replace(":1", "").replace(":2", "")), [outer, inner], "{user}");
    }
    let nobody = [goes(&replicas, "carl", "outer", None), goes(&replicas, "carl", "inner", None)];
    assert_eq!(nobody[0], nobody[1]);
}
