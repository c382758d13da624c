//! docs/operations.md against what imapool says: each line that it quotes must have been said, and the alerts that it
//! names must be all that fire.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use regex::Regex;
use serde_json::json;

use crate::browser::Browser;
use crate::http::{TOKEN, call};
use crate::process::Imapool;
use crate::support::{Client, soon};

/// What stands in the document for the address of the server.
const BACKEND: &str = "192.0.2.10:143";
/// And for the folder of the configuration.
const FOLDER: &str = "/etc/imapool";

/// An imapool that something happens to, and what was told of it.
pub(crate) struct Night {
    pub(crate) imapool: Imapool,
    pub(crate) admin: SocketAddr,
    backend: SocketAddr,
    /// The numbers before it happened, and how far the log was.
    before: (String, usize),
    /// What was told, by the words that the document has for where.
    told: BTreeMap<&'static str, String>,
}

/// More keys for the sections of its configuration.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) listener: String,
    pub(crate) backend: String,
}

impl Night {
    /// Quick to give up, and otherwise as by default; with files beside its configuration.
    pub(crate) async fn begin(backend: SocketAddr, keys: &Keys, files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Who gives up has waited for more than the second of ImapoolSlowCheckouts, although its wait is counted from a
        // moment after its limit began.
        let text = format!(
            "[[listener]]\nname = \"webmail\"\naddress = \"127.0.0.1:0\"\n{}\n\
             [[backend]]\nname = \"main\"\naddress = \"{backend}\"\n{}\n\
             [pool]\ncheckout_timeout = \"1500ms\"\n\
             [admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"FOLDER/token\"\n",
            keys.listener, keys.backend
        );
        let text = text.replace("FOLDER", &folder.path().display().to_string());
        let config = folder.path().join("imapool.toml");
        for (file, content) in [("token", TOKEN), ("imapool.toml", &text)].iter().chain(files) {
            fs::write(folder.path().join(file), content).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_imapool"));
        command.arg("run").arg("--config").arg(config);
        let imapool = Imapool::spawn(command, folder).await;
        imapool.logged("listening listener=\"admin\"").await;
        let admin = imapool.listening("admin");
        Self { imapool, admin, backend, before: Default::default(), told: BTreeMap::new() }
    }

    /// From here on it happens. Nothing is on its way to the server then.
    pub(crate) async fn falls(&mut self) {
        let count = |text: &str, state: &str| -> u64 {
            let series = format!("imapool_upstream_connections{{backend=\"main\",state=\"{state}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
        };
        soon("spare connections", async {
            loop {
                let text = self.metrics().await;
                if count(&text, "connecting") == 0 && count(&text, "spare") >= 2 {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
        self.before = (self.metrics().await, self.imapool.log().len());
    }

    /// Waits until the metrics have this line.
    pub(crate) async fn counts(&self, line: &str) {
        soon(line, async {
            while !self.metrics().await.lines().any(|it| it == line) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    async fn metrics(&self) -> String {
        call(self.admin, "GET", "/metrics", "").await.body
    }

    /// `imapool ACTION --admin … ARGUMENTS`; what it printed is kept.
    pub(crate) async fn run(&mut self, whose: &'static str, arguments: &[&str]) -> Option<i32> {
        let admin = self.admin.to_string();
        let mut all = vec![arguments[0], "--admin", &admin];
        if arguments[0] == "check" {
            all.truncate(1);
        }
        all.extend(&arguments[1..]);
        // The program waits for the other one.
        let output = tokio::task::block_in_place(|| self.imapool.run(&all));
        for octets in [&output.stdout, &output.stderr] {
            self.tell(whose, &String::from_utf8_lossy(octets));
        }
        output.status.code()
    }

    pub(crate) fn tell(&mut self, whose: &'static str, text: &str) {
        let told = self.told.entry(whose).or_default();
        let _ = writeln!(told, "{text}");
    }

    /// A command of a client, and what the client heard.
    pub(crate) async fn asks(&mut self, client: &mut Client, command: &str) -> String {
        let heard = client.command(command).await;
        self.tell("Clients", &heard.join("\n"));
        heard.last().cloned().unwrap_or_default()
    }

    /// Until `imapool status` ends so.
    pub(crate) async fn status(&mut self, code: i32) {
        soon("the status", async {
            while self.run("Status", &["status"]).await != Some(code) {
                self.told.remove("Status");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        })
        .await;
    }

    /// Looks at all there is to look at, and compares it with that part of the document.
    pub(crate) async fn holds(mut self, part: &str) {
        let ready = call(self.admin, "GET", "/readyz", "").await;
        self.tell("/readyz", &format!("{} {}", ready.status, ready.body));
        let log = self.imapool.log();
        self.tell("Log", &log[self.before.1..]);
        let page = self.page();
        if let Some(page) = &page {
            self.tell("Page", page);
        }
        let quotes = quoted(part);
        let mut wrong = String::new();
        for (whose, quote) in quotes.iter().filter(|(whose, _)| !["Alerts", "What to do"].contains(&whose.as_str())) {
            let told = self.told.get(whose.as_str()).map(|told| self.shown(told)).unwrap_or_default();
            if !(told.lines().any(|line| says(line, quote)) || whose == "Page" && page.is_none()) {
                let _ = writeln!(wrong, "{whose} does not say: {quote}");
            }
        }
        for whose in ["Log", "Status", "/readyz", "Page", "Alerts"] {
            if !quotes.iter().any(|(of, _)| of == whose) {
                let _ = writeln!(wrong, "nothing of {whose} is quoted");
            }
        }
        let told: String =
            self.told.iter().map(|(whose, told)| format!("--- {whose}\n{}\n", self.shown(told))).collect();
        assert!(wrong.is_empty(), "docs/operations.md, {part}:\n{wrong}{told}");
        let alerts = quotes.iter().filter(|(whose, _)| whose == "Alerts").map(|(_, alert)| alert.as_str());
        let alerts: Vec<_> = alerts.collect();
        // What is counted may be counted a moment after the client has heard of it.
        soon("the alerts", async {
            while let Err(others) = fire(&self.before.0, &self.metrics().await, &alerts) {
                eprintln!("{others}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        })
        .await;
    }

    /// What a browser shows.
    fn page(&self) -> Option<String> {
        static ONE: Mutex<()> = Mutex::new(());
        if !Browser::is_installed() {
            assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none(), "chromium is not installed");
            eprintln!("SKIPPED: chromium is not installed");
            return None;
        }
        // One browser is enough for this host.
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::task::block_in_place(|| {
            let mut browser = Browser::start();
            browser.look("light", 1280, 900);
            browser.open(&format!("http://{}/", self.admin));
            browser.until("it is live", "document.querySelector('#version').innerText !== ''");
            Some(browser.text("body"))
        })
    }

    /// As the document has it: on one line, without time, and with an address and a folder that mean something.
    fn shown(&self, told: &str) -> String {
        let folder = self.imapool.folder.path().display().to_string();
        let told = told.replace(&folder, FOLDER).replace(&self.backend.to_string(), BACKEND);
        let time = Regex::new(r"^\d{4}-\d\d-\d\dT\S+ ").unwrap();
        let lines = told.lines().map(|line| {
            let line = time.replace(line, "");
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Whether a line says it; `…` stands for anything.
fn says(line: &str, quote: &str) -> bool {
    let mut rest = line;
    quote.split('…').all(|part| {
        let found = rest.split_once(part.trim()).map(|(_, after)| after);
        rest = found.unwrap_or_default();
        found.is_some()
    })
}

fn document() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md")).unwrap()
}

/// What a part of the document quotes, and of whom: a bold word begins the quotes of one, and each line that is
/// indented by four is one; by more, it goes on with the one before.
fn quoted(part: &str) -> Vec<(String, String)> {
    let text = document();
    let heading = format!("\n## {part}\n");
    let (_, text) = text.split_once(&heading).unwrap_or_else(|| panic!("no part {part:?} in docs/operations.md"));
    let mut quotes: Vec<(String, String)> = Vec::new();
    let mut whose = "";
    for line in text.split("\n## ").next().unwrap().lines() {
        if let Some((word, _)) = line.strip_prefix("**").and_then(|line| line.split_once("**")) {
            whose = word.trim_end_matches('.');
        } else if let Some(more) = line.strip_prefix("      ") {
            let last = &mut quotes.last_mut().unwrap().1;
            *last = format!("{last} {}", more.trim());
        } else if let Some(quote) = line.strip_prefix("    ") {
            quotes.push((whose.to_owned(), quote.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
    }
    quotes
}

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus/alerts.yml")
}

/// `ImapoolNotReady: page, after 2m`, by the rules.
fn described(name: &str) -> String {
    let text = fs::read_to_string(rules()).unwrap();
    let heading = format!("- alert: {name}\n");
    let (_, rule) = text.split_once(&heading).unwrap_or_else(|| panic!("there is no alert {name}"));
    let rule = rule.split("- alert: ").next().unwrap();
    let of = |key: &str| rule.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
    let severity = of("labels: { severity: ").unwrap().trim_end_matches([' ', '}']);
    let after = of("for:").map_or("at once".to_owned(), |time| format!("after {time}"));
    format!("{name}: {severity}, {after}")
}

/// Were it to go on like this every ten seconds for an hour, these alerts would fire, and no others.
fn fire(before: &str, after: &str, alerts: &[&str]) -> Result<(), String> {
    let none = ["None"];
    let names: Vec<_> =
        alerts.iter().filter(|alert| **alert != none[0]).map(|it| it.split(':').next().unwrap()).collect();
    for (name, alert) in names.iter().zip(alerts) {
        assert_eq!(described(name), *alert);
    }
    if Command::new("promtool").arg("--version").output().is_err() {
        assert!(std::env::var_os("IMAPOOL_REQUIRE_REAL").is_none(), "promtool is not installed");
        eprintln!("SKIPPED: promtool is not installed");
        return Ok(());
    }
    let samples: Vec<_> =
        names.iter().map(|name| json!({ "labels": format!("{{alertname=\"{name}\"}}"), "value": 1 })).collect();
    let (expression, samples) = match samples.is_empty() {
        false => ("group by (alertname) (ALERTS{alertstate=\"firing\"})", samples),
        true => ("count(ALERTS{alertstate=\"firing\"}) or vector(0)", vec![json!({ "labels": "{}", "value": 0 })]),
    };
    // JSON is YAML.
    let test = json!({
        "rule_files": [rules()],
        "evaluation_interval": "10s",
        "tests": [{
            "interval": "10s",
            "input_series": series(before, after),
            "promql_expr_test": [{ "expr": expression, "eval_time": "60m", "exp_samples": samples }],
        }],
    });
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    fs::write(file.path(), test.to_string()).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(file.path()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned()).concat();
    if output.status.success() { Ok(()) } else { Err(format!("other alerts than {names:?} fire: {said}")) }
}

/// The numbers that the rules name. Counters go on as they have; time begins at 0 there, and is 3600 when it is asked.
fn series(before: &str, after: &str) -> Vec<serde_json::Value> {
    let rules = fs::read_to_string(rules()).unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let values = |text: &str| -> BTreeMap<String, f64> {
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        lines.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
    };
    let (before, latest) = (values(before), values(after));
    let mut all = vec![json!({ "series": "up{job=\"imapool\", instance=\"a\"}", "values": "1x360" })];
    for (series, value) in latest {
        let name = series.split('{').next().unwrap();
        if !rules.contains(name) {
            continue;
        }
        let grows = !after.contains(&format!("# TYPE {name} gauge"));
        let step = if grows { value - before.get(&series).copied().unwrap_or_default() } else { 0.0 };
        let value =
            if name.ends_with("expiry_timestamp_seconds") && value > 0.0 { value - now + 3600.0 } else { value };
        let labels = series.strip_prefix(name).unwrap().trim_start_matches('{').trim_end_matches('}');
        let series = format!("{name}{{job=\"imapool\", instance=\"a\", {labels}}}");
        all.push(json!({ "series": series.replace(", }", "}"), "values": format!("{value}+{step}x360") }));
    }
    all
}
