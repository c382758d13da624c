//! Prometheus' rules, and the dashboard.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use imapool::demo::load::{self, Ending, Load};
use imapool::demo::server::{Options, Server};
use indicatif::ProgressBar;
use regex::Regex;
use serde_json::Value;

use crate::support::{Imapool, Process, WAIT, find, folder, get, read, repository, succeed, until};

#[test]
fn the_rules_are_valid_and_fire_when_they_should() {
    let Some(promtool) = find("promtool") else { return };
    let run = |arguments: &[&str]| {
        succeed(Command::new(&promtool).args(arguments).current_dir(repository("deploy/prometheus")))
    };
    run(&["check", "config", "scrape.yml"]);
    run(&["check", "rules", "alerts.yml"]);
    let verdict = run(&["test", "rules", "alerts_test.yml"]);
    assert!(verdict.contains("SUCCESS"), "{verdict}");
    let (rules, tests) = (read("deploy/prometheus/alerts.yml"), read("deploy/prometheus/alerts_test.yml"));
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(alert), "no test of {alert}");
    }
}

/// imapool in front of a server, with some sessions behind it.
async fn run_some(folder: &std::path::Path, server: &Server) -> Imapool {
    let file = folder.join("imapool.toml");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n[[backend]]\nname = \"main\"\naddress = \"{}\"\n\n\
         [admin]\naddress = \"127.0.0.1:0\"\n",
        server.address()
    );
    std::fs::write(&file, config).unwrap();
    let running = tokio::task::spawn_blocking(move || Imapool::start(&file)).await.unwrap();
    sessions(&running, 50).await;
    running
}

async fn sessions(running: &Imapool, sessions: u32) -> load::Outcome {
    let load = Load {
        address: running.listener,
        sessions,
        accounts: 5,
        concurrency: 4,
        ending: Ending::Logout,
        rate: None,
        ports: None,
        time_limit: WAIT,
    };
    load::run(load, &ProgressBar::hidden()).await
}

/// The names of metrics in an expression.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\b(?:imapool|process)_[a-z_]+").unwrap();
    name.find_iter(expression).map(|name| name.as_str().to_owned()).collect()
}

/// Every expression of a dashboard, its variables included.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if ["expr", "definition"].contains(&key.as_str()) => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(array) => array.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_and_label_value_of_the_dashboard_and_the_rules_exists() {
    let folder = folder();
    let server = Server::start(Options::default()).await.unwrap();
    let running = run_some(folder.path(), &server).await;
    let scraped = get(running.admin, "/metrics").expect("metrics");
    let exists = |name: &str| {
        let line = format!("\n{name}");
        scraped.contains(&format!("{line}{{")) || scraped.contains(&format!("{line} "))
    };
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/imapool.json")).unwrap();
    let mut used = Vec::new();
    expressions(&dashboard, &mut used);
    assert!(used.len() > 20, "{used:?}");
    used.push(read("deploy/prometheus/alerts.yml").lines().filter(|line| !line.contains(": >-")).collect());
    let names: BTreeSet<_> = used.iter().flat_map(|expression| metrics_in(expression)).collect();
    for name in names {
        // A text may speak of a histogram, which is exposed by its parts.
        assert!(exists(&name) || exists(&format!("{name}_bucket")), "{name} is no metric:\n{scraped}");
    }
    // What is asked for by value: result="no_ports" and the like.
    let selector = Regex::new(r#"\b(result|close|state|reason)=~?"([a-z_|]+)""#).unwrap();
    for expression in &used {
        for found in selector.captures_iter(expression) {
            for value in found[2].split('|') {
                let label = format!("{}=\"{value}\"", &found[1]);
                assert!(scraped.contains(&label), "no series has {label}:\n{scraped}");
            }
        }
    }
}

/// A Prometheus of its own: on a port that was free, with its files in a folder.
fn start_prometheus(program: &std::path::Path, folder: &std::path::Path, target: SocketAddr) -> (Process, SocketAddr) {
    // Without their waiting times, which the rules' unit tests have.
    let waits = Regex::new(r"(?m)^ +for: .*\n").unwrap();
    std::fs::write(folder.join("alerts.yml"), &*waits.replace_all(&read("deploy/prometheus/alerts.yml"), "")).unwrap();
    let scrape = read("deploy/prometheus/scrape.yml").replace("127.0.0.1:9143", &target.to_string());
    let config = format!("global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n{scrape}");
    std::fs::write(folder.join("prometheus.yml"), config).unwrap();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let log = std::fs::File::create(folder.join("prometheus.log")).unwrap();
        let child = Command::new(program)
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut process = Process(child);
        let ready = until("Prometheus is ready, or has ended", || {
            if process.0.try_wait().unwrap().is_some() {
                return Some(false);
            }
            get(address, "/-/ready").map(|_| true)
        });
        if ready {
            return (process, address);
        }
        let log = std::fs::read_to_string(folder.join("prometheus.log")).unwrap();
        assert!(attempt < 3, "Prometheus does not start: {log}");
    }
}

/// The names of the alerts that fire.
fn firing(prometheus: SocketAddr) -> BTreeSet<String> {
    let answer: Value =
        serde_json::from_str(&get(prometheus, "/api/v1/alerts").unwrap_or_default()).unwrap_or_default();
    let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
    alerts
        .iter()
        .filter(|alert| alert["state"] == "firing")
        .filter_map(|alert| alert["labels"]["alertname"].as_str().map(str::to_owned))
        .collect()
}

fn up(prometheus: SocketAddr) -> Option<String> {
    let answer: Value = serde_json::from_str(&get(prometheus, "/api/v1/query?query=up")?).ok()?;
    Some(answer["data"]["result"][0]["value"][1].as_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_scrapes_it_and_its_alerts_fire() {
    let Some(program) = find("prometheus") else { return };
    let folder = folder();
    let server = Server::start(Options::default()).await.unwrap();
    let running = run_some(folder.path(), &server).await;
    let (path, target) = (folder.path().to_owned(), running.admin);
    let (_prometheus, address) = blocking(move || start_prometheus(&program, &path, target)).await;
    blocking(move || until("a good scrape", || up(address).filter(|up| up == "1"))).await;
    blocking(move || {
        until("the rules have run", || {
            get(address, "/api/v1/rules").filter(|rules| rules.contains("\"health\":\"ok\""))
        })
    })
    .await;
    assert_eq!(firing(address), BTreeSet::new(), "all is well");

    // The server goes: what was connected is lost, and nothing new can be had.
    server.stop().await;
    let deadline = std::time::Instant::now() + WAIT;
    while !firing(address).contains("ImapoolBackendUnreachable") {
        assert!(std::time::Instant::now() < deadline, "only {:?} fire", firing(address));
        sessions(&running, 3).await;
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    drop(running);
    blocking(move || until("it is seen to be down", || firing(address).contains("ImapoolDown").then_some(()))).await;
}

async fn blocking<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(run).await.unwrap()
}
