//! `imapool status`: how it is, in a few lines.

use std::fmt::Write as _;
use std::time::Duration;

use imapool::app;
use imapool::shown::Plain;
use serde_json::Value;

/// The summary for people.
pub(crate) fn text(summary: &Value) -> String {
    let mut text = String::new();
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let uptime = Duration::from_secs(summary["uptime_seconds"].as_u64().unwrap_or_default());
    let state = clean(summary["state"].as_str().unwrap_or("?"));
    let version = clean(summary["version"].as_str().unwrap_or("?"));
    let _ = writeln!(text, "imapool {version}, up {}: {state}", humantime::format_duration(uptime));
    let (sessions, rates) = (&summary["sessions"], &summary["rates"]);
    let _ = writeln!(
        text,
        "sessions     {} of {} open; {:.1} ended, {:.1} logins, {:.1} commands a second",
        number(&sessions["open"]),
        number(&sessions["limit"]),
        rates["sessions"].as_f64().unwrap_or_default(),
        rates["logins"].as_f64().unwrap_or_default(),
        rates["commands"].as_f64().unwrap_or_default(),
    );
    let (upstream, accounts) = (&summary["upstream"], number(&summary["accounts"]["known"]));
    let connections = &upstream["connections"];
    let _ = writeln!(
        text,
        "connections  {} of {}: {} in use, {} at rest, {} spare, {} connecting; {accounts} accounts; {} reused",
        number(&upstream["budget"]["in_use"]),
        number(&upstream["budget"]["capacity"]),
        number(&connections["active"]),
        number(&connections["idle"]),
        number(&connections["spare"]),
        number(&connections["connecting"]),
        summary["reuse_ratio"].as_f64().map_or("none".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0)),
    );
    let _ = writeln!(
        text,
        "latency      login {}, checkout {} (p50 / p99, last minute)",
        quantiles(&summary["login_seconds"]),
        quantiles(&summary["checkout_seconds"])
    );
    let logins = |results: &[&str]| results.iter().map(|result| number(&summary["logins"][result])).sum::<i64>();
    let _ = writeln!(
        text,
        "since start  {} logins accepted, {} refused, {} could not be checked; {} commands lost",
        logins(&["cached", "verified"]),
        logins(&["refused", "throttled"]),
        logins(&["unavailable", "limit"]),
        number(&summary["commands"]["lost"]),
    );
    if summary["configuration"]["reload_refused"] == true {
        text.push_str("reload       REFUSED; the old configuration serves on. imapool check says what is wrong\n");
    }
    for backend in summary["backends"].as_array().into_iter().flatten() {
        let outage = backend["outage"].as_str().map(|outage| format!(": {}", clean(outage))).unwrap_or_default();
        let reachable = if backend["reachable"] == true { "reachable" } else { "NOT REACHABLE" };
        let _ = writeln!(
            text,
            "backend      {} ({}): {}, {reachable}{outage}; ports {} in use, {} in TIME_WAIT, of {}",
            clean(backend["name"].as_str().unwrap_or("?")),
            clean(backend["address"].as_str().unwrap_or("?")),
            backend["service"].as_str().unwrap_or("?"),
            number(&backend["ports"]["in_use"]),
            number(&backend["ports"]["time_wait"]),
            number(&backend["ports"]["capacity"]),
        );
    }
    for certificate in summary["certificates"].as_array().into_iter().flatten() {
        let expires = certificate["expires"].as_i64().unwrap_or_default();
        // Only what is to be done.
        if let Some(lifetime) = app::certificate_until(expires) {
            let [side, name] = ["side", "name"].map(|key| clean(certificate[key].as_str().unwrap_or("?")));
            let _ = writeln!(text, "certificate  of {side} {name}: {lifetime}");
        }
    }
    for recent in summary["recent"].as_array().into_iter().flatten().take(5) {
        let [message, fields] = ["message", "fields"].map(|key| clean(recent[key].as_str().unwrap_or_default()));
        let (times, level) = (number(&recent["times"]), clean(recent["level"].as_str().unwrap_or("?")));
        let fields = if fields.is_empty() { fields } else { fields + "; " };
        let unit = if times == 1 { "time" } else { "times" };
        let _ = writeln!(text, "{level:<12} {message} ({fields}{times} {unit})");
    }
    text
}

fn quantiles(seconds: &Value) -> String {
    let [half, most] = ["p50", "p99"].map(|quantile| milliseconds(&seconds[quantile]));
    format!("{half} / {most}")
}

/// Of seconds.
pub(crate) fn milliseconds(seconds: &Value) -> String {
    seconds.as_f64().map_or("-".to_owned(), |seconds| format!("{:.1} ms", seconds * 1000.0))
}

/// Without what a terminal would obey: names come from clients and backends.
pub(crate) fn clean(text: &str) -> String {
    Plain(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_terminal_gets_no_control_characters() {
        assert_eq!(clean("a\u{1b}[31mb\r\n\u{9b}\u{7f}c"), "a\\u{1b}[31mb\\u{d}\\u{a}\\u{9b}\\u{7f}c");
        let summary = json!({ "state": "no backend can be reached: \u{1b}]0;x\u{7}", "recent": [
            { "level": "warn", "message": "a\nb", "fields": "text=\u{1b}c", "times": 2 },
        ] });
        let text = text(&summary);
        assert!(!text.chars().any(|char| char.is_control() && char != '\n') && text.contains("a\\u{a}b"), "{text}");
    }
}
