//! What a scraper reads, by a strict parser of the text format 0.0.4.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// A backend name that breaks a careless encoder.
const AWKWARD: &str = "a \"b\" \\ c\nd,e}=1 # HELP é";

/// The name, labels and value of a sample that is expected.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

type LabelSet = BTreeMap<String, String>;

/// The samples of one family, by their names and labels.
struct Parsed {
    kind: String,
    samples: BTreeMap<(String, LabelSet), f64>,
}

/// Reads a whole exposition and panics at the first thing the format, or good manners, forbid.
fn parse(text: &str) -> BTreeMap<String, Parsed> {
    assert!(text.ends_with('\n'), "the last line has no end");
    let mut families: BTreeMap<String, Parsed> = BTreeMap::new();
    let mut lines = text[..text.len() - 1].split('\n').peekable();
    while let Some(line) = lines.next() {
        let help = line.strip_prefix("# HELP ").unwrap_or_else(|| panic!("no family begins with {line:?}"));
        let (name, help) = help.split_once(' ').unwrap();
        assert!(help.len() > 5 && help.ends_with('.') && !help.contains('\\'), "{name}: {help:?}");
        let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).unwrap().to_owned();
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert_name(name);

        let mut samples = BTreeMap::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (sample, labels, value) = parse_sample(line);
            let suffix = sample.strip_prefix(name).unwrap_or_else(|| panic!("{sample} among {name}"));
            match kind.as_str() {
                "counter" => assert!(suffix.is_empty() && value >= 0.0, "{line}"),
                "gauge" => assert!(suffix.is_empty(), "{line}"),
                "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
                other => panic!("{name} has the type {other}"),
            }
            assert!(samples.insert((sample, labels), value).is_none(), "twice: {line}");
        }
        assert!(!samples.is_empty(), "{name} has no sample");
        let family = Parsed { kind, samples };
        if family.kind == "histogram" {
            assert_histogram(name, &family);
        }
        assert!(families.insert(name.to_owned(), family).is_none(), "two families are called {name}");
    }
    families
}

fn parse_sample(line: &str) -> (String, LabelSet, f64) {
    let (name, mut rest) = line.split_at(line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line:?}")));
    assert_name(name);
    let mut labels = LabelSet::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line:?}"));
            assert_name(label);
            let (value, after) = parse_label_value(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{label} twice: {line}");
            rest = after;
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            rest = rest.strip_prefix(',').unwrap_or_else(|| panic!("no separator: {line:?}"));
        }
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
    assert!(!value.contains(' '), "more than a value: {line:?}");
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line:?}")))
}

/// What stands up to the closing quote, without its escapes, and the text after that quote.
fn parse_label_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next().unwrap().1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                other => panic!("\\{other} is no escape"),
            }),
            plain => value.push(plain),
        }
    }
    panic!("a label's value has no end: {text:?}");
}

fn assert_name(name: &str) {
    assert!(name.starts_with(|first: char| first.is_ascii_alphabetic()), "{name:?}");
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{name:?}");
}

/// Cumulative buckets up to `+Inf`, which equals the count; a sum; nothing else.
fn assert_histogram(name: &str, family: &Parsed) {
    let mut buckets: BTreeMap<LabelSet, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in &family.samples {
        let mut labels = labels.clone();
        match labels.remove("le") {
            Some(bound) => buckets.entry(labels).or_default().push((bound.parse().unwrap(), *value)),
            None => assert!(!sample.ends_with("_bucket"), "{name}: a bucket without a bound"),
        }
    }
    assert_eq!(family.samples.len(), buckets.values().map(|of_one| of_one.len() + 2).sum::<usize>());
    for (labels, mut of_one) in buckets {
        of_one.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(of_one.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}: {of_one:?}");
        let count = family.samples[&(format!("{name}_count"), labels.clone())];
        assert_eq!(of_one.last(), Some(&(f64::INFINITY, count)), "{name}");
        assert!(family.samples.contains_key(&(format!("{name}_sum"), labels)));
    }
}

/// The value of one sample.
fn value(metrics: &Arc<Metrics>, sample: &str, labels: &[(&str, &str)]) -> f64 {
    let labels: LabelSet = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let key = (sample.to_owned(), labels);
    let families = parse(&metrics.render());
    *families.values().find_map(|family| family.samples.get(&key)).unwrap_or_else(|| panic!("no {key:?}"))
}

#[test]
fn every_family_of_the_contract_is_there_from_the_start() {
    let metrics = Metrics::new(&["main".to_owned(), AWKWARD.to_owned()]);
    metrics.listener("webmail");
    let families = parse(&metrics.render());
    let contract: [(&str, &str, &[&str], usize); 43] = [
        ("imapool_client_sessions", "gauge", &[], 1),
        ("imapool_client_sessions_total", "counter", &["close"], 14),
        ("imapool_logins_total", "counter", &["result"], 8),
        ("imapool_routes_total", "counter", &["result"], 3),
        ("imapool_login_seconds", "histogram", &["path"], 4 * 21),
        ("imapool_command_seconds", "histogram", &["command"], CommandLabel::ALL.len() * 21),
        ("imapool_upstream_connections", "gauge", &["backend", "state"], 2 * 5),
        ("imapool_sessions_relayed_total", "counter", &["backend"], 2),
        ("imapool_upstream_dials_total", "counter", &["backend", "result"], 2 * 14),
        ("imapool_dials_delayed_total", "counter", &["backend", "reason"], 2 * 3),
        ("imapool_accounts_backing_off", "gauge", &["backend"], 2),
        ("imapool_upstream_retired_total", "counter", &["backend", "reason"], 2 * 18),
        ("imapool_checkouts_total", "counter", &["backend", "result"], 2 * 8),
        ("imapool_checkout_wait_seconds", "histogram", &["backend"], 2 * 21),
        ("imapool_hubs", "gauge", &["backend", "state"], 2 * 2),
        ("imapool_hub_sessions", "gauge", &["backend"], 2),
        ("imapool_hub_lag_events", "gauge", &["backend"], 2),
        ("imapool_hub_parks_total", "counter", &["backend"], 2),
        ("imapool_hub_divisions_total", "counter", &["backend"], 2),
        ("imapool_hub_resumes_total", "counter", &["backend", "result"], 2 * 3),
        ("imapool_hub_wait_seconds", "histogram", &["backend", "cause"], 2 * 2 * 21),
        ("imapool_ports_capacity", "gauge", &["backend"], 2),
        ("imapool_ports_in_use", "gauge", &["backend"], 2),
        ("imapool_ports_time_wait", "gauge", &["backend"], 2),
        ("imapool_listener_sessions", "gauge", &["listener"], 1),
        ("imapool_listener_octets_total", "counter", &["direction", "listener"], 2),
        ("imapool_backend_octets_total", "counter", &["backend", "direction"], 2 * 2),
        ("imapool_ready", "gauge", &[], 1),
        ("imapool_client_sessions_limit", "gauge", &[], 1),
        ("imapool_upstream_connections_limit", "gauge", &[], 1),
        ("imapool_config_last_reload_successful", "gauge", &[], 1),
        ("imapool_config_last_reload_success_timestamp_seconds", "gauge", &[], 1),
        ("imapool_commands_total", "counter", &["command", "result"], CommandLabel::ALL.len() * 4),
        ("imapool_backend_up", "gauge", &["backend"], 2),
        ("imapool_backend_limits_total", "counter", &["backend"], 2),
        ("imapool_backend_service", "gauge", &["backend", "service"], 2 * 3),
        ("imapool_backend_connections_limit", "gauge", &["backend"], 2),
        ("imapool_backend_certificate_expiry_timestamp_seconds", "gauge", &["backend"], 2),
        ("imapool_backend_healthy", "gauge", &["backend"], 2),
        ("imapool_backend_weight", "gauge", &["backend"], 2),
        ("imapool_backend_accounts", "gauge", &["backend"], 2),
        ("imapool_backend_checks_total", "counter", &["backend", "result"], 2 * 2),
        ("imapool_build_info", "gauge", &["version"], 1),
    ];
    for (name, kind, labels, samples) in contract {
        let family = families.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!((family.kind.as_str(), family.samples.len()), (kind, samples), "{name}");
        for ((_, found), value) in &family.samples {
            let found: BTreeSet<_> = found.keys().map(String::as_str).filter(|label| *label != "le").collect();
            assert_eq!(found, labels.iter().copied().collect(), "{name}");
            assert_eq!(*value, if name == "imapool_build_info" { 1.0 } else { 0.0 }, "{name}");
        }
    }
    let others: Vec<_> = families.keys().filter(|name| !contract.iter().any(|(known, ..)| name == known)).collect();
    assert!(others.iter().all(|name| name.starts_with("process_")), "{others:?}");
    assert_eq!(others.len(), crate::platform::facts().known(), "{others:?}");
}

#[test]
fn each_handle_counts_under_its_own_labels() {
    let metrics = Metrics::new(&["main".to_owned(), AWKWARD.to_owned()]);
    let second = metrics.backend(AWKWARD);
    metrics.client_sessions.inc();
    metrics.sessions_closed.inc(SessionClose::Drain);
    metrics.logins.inc(LoginResult::Throttled);
    metrics.login_seconds.get(LoginPath::Refused).observe(Duration::from_millis(1500));
    metrics.command_seconds.get(CommandLabel::Fetch).observe(Duration::from_micros(300));
    second.dials.inc(DialResult::NoPorts);
    second.retired.inc(RetireReason::Evicted);
    second.checkout(CheckoutResult::Reused, Duration::from_secs(100));
    second.ports_capacity.set(28_000);
    let _connection = second.connection(ConnectionState::Active);

    let of_backend = ("backend", AWKWARD);
    let expected: [Expected<'_>; 16] = [
        ("imapool_client_sessions", &[], 1.0),
        ("imapool_client_sessions_total", &[("close", "drain")], 1.0),
        ("imapool_logins_total", &[("result", "throttled")], 1.0),
        ("imapool_login_seconds_sum", &[("path", "refused")], 1.5),
        ("imapool_login_seconds_bucket", &[("path", "refused"), ("le", "1.0")], 0.0),
        ("imapool_login_seconds_bucket", &[("path", "refused"), ("le", "2.5")], 1.0),
        ("imapool_command_seconds_bucket", &[("command", "fetch"), ("le", "0.00025")], 0.0),
        ("imapool_command_seconds_bucket", &[("command", "fetch"), ("le", "0.0005")], 1.0),
        ("imapool_command_seconds_count", &[("command", "store")], 0.0),
        ("imapool_upstream_dials_total", &[of_backend, ("result", "no_ports")], 1.0),
        ("imapool_upstream_retired_total", &[of_backend, ("reason", "evicted")], 1.0),
        ("imapool_checkouts_total", &[of_backend, ("result", "reused")], 1.0),
        ("imapool_checkouts_total", &[("backend", "main"), ("result", "reused")], 0.0),
        ("imapool_checkout_wait_seconds_bucket", &[of_backend, ("le", "60.0")], 0.0),
        ("imapool_ports_capacity", &[of_backend], 28_000.0),
        ("imapool_upstream_connections", &[of_backend, ("state", "active")], 1.0),
    ];
    for (sample, labels, count) in expected {
        assert_eq!(value(&metrics, sample, labels), count, "{sample} {labels:?}");
    }
}

#[test]
fn backends_of_one_name_share_their_numbers() {
    let metrics = Metrics::new(&["a".to_owned(), "b".to_owned(), "a".to_owned()]);
    metrics.backend("a").dials.inc(DialResult::Ok);
    metrics.backend("a").dials.inc(DialResult::Ok);
    assert_eq!(value(&metrics, "imapool_upstream_dials_total", &[("backend", "a"), ("result", "ok")]), 2.0);
    assert_eq!(value(&metrics, "imapool_upstream_dials_total", &[("backend", "b"), ("result", "ok")]), 0.0);
}

#[test]
fn a_guard_moves_its_connection_and_takes_it_out_when_dropped() {
    let metrics = Metrics::new(&["main".to_owned()]);
    let backend = metrics.backend("main");
    let of = |state| backend.connections_in(state);
    let mut guard = backend.connection(ConnectionState::Connecting);
    assert_eq!((of(ConnectionState::Connecting), of(ConnectionState::Idle)), (1, 0));
    guard.set(ConnectionState::Idle);
    guard.set(ConnectionState::Idle);
    assert_eq!((of(ConnectionState::Connecting), of(ConnectionState::Idle)), (0, 1));
    assert_eq!(guard.state, ConnectionState::Idle);
    drop(guard);
    assert_eq!((of(ConnectionState::Connecting), of(ConnectionState::Idle)), (0, 0));
}

/// Whoever watches the limits must not see a connection twice that is on its way from one state to another.
#[test]
fn a_connection_is_shown_once_while_its_state_changes() {
    let metrics = Metrics::new(&["main".to_owned()]);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut guard = metrics.backend("main").connection(ConnectionState::Idle);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                guard.set(ConnectionState::Active);
                guard.set(ConnectionState::Idle);
            }
        });
        for _ in 0..2000 {
            let text = metrics.render();
            let shown =
                text.lines().filter(|line| line.starts_with("imapool_upstream_connections{") && line.ends_with(" 1"));
            let shown = shown.count();
            assert!(shown <= 1, "{text}");
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Of those who waited in vain by the default, each bucket up to there has none.
#[test]
fn there_is_a_bucket_at_the_default_timeout() {
    let metrics = Metrics::new(&["main".to_owned()]);
    let limit = crate::config::Pool::default().checkout_timeout;
    metrics.backend("main").checkout(CheckoutResult::Reused, limit);
    metrics.backend("main").checkout(CheckoutResult::Timeout, limit + Duration::from_millis(1));
    let bound = format!("{:?}", limit.as_secs_f64());
    let bucket = |le: &str| value(&metrics, "imapool_checkout_wait_seconds_bucket", &[("backend", "main"), ("le", le)]);
    assert_eq!((bucket(&bound), bucket("+Inf")), (1.0, 2.0));
}

/// A second opinion: the parser of Prometheus' own Python client, where it is installed.
#[test]
fn the_python_client_reads_it() {
    const SCRIPT: &str = "\
import sys
try:
    from prometheus_client.parser import text_string_to_metric_families as parse
except ImportError:
    sys.exit(77)
for family in parse(sys.stdin.read()):
    print(family.name, family.type, len(family.samples))
";
    let metrics = Metrics::new(&["main".to_owned(), AWKWARD.to_owned()]);
    let python = Command::new("python3")
        .args(["-c", SCRIPT])
        .env("PYTHONUTF8", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut python) = python else {
        eprintln!("SKIPPED: there is no python3");
        return;
    };
    // A script that ends early, without the module, does not read.
    let _ = python.stdin.take().unwrap().write_all(metrics.render().as_bytes());
    let output = python.wait_with_output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("SKIPPED: python3 has no prometheus_client");
        return;
    }
    assert!(output.status.success());
    let families = String::from_utf8(output.stdout).unwrap();
    for family in ["imapool_client_sessions gauge 1", "imapool_client_sessions counter 12"] {
        assert!(families.lines().any(|line| line == family), "no {family:?} in\n{families}");
    }
}
