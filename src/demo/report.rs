//! The table which the demo prints.

use std::fmt;
use std::time::Duration;

use super::load::Outcome;
use super::sockets::Ports;

/// How long Linux keeps a port in TIME_WAIT, in seconds.
const TIME_WAIT_SECONDS: u32 = 60;
/// Width of the first column.
const LABEL: usize = 44;

/// One way of running the load.
#[derive(Debug)]
pub struct Run {
    /// Sessions that were to run.
    pub wanted: u32,
    /// What came of them.
    pub outcome: Outcome,
    /// Connections the IMAP server accepted meanwhile.
    pub connections: u64,
    /// Logins the IMAP server checked meanwhile.
    pub logins: u64,
    /// Ports held by the front end after the run.
    pub front_end: Option<Ports>,
    /// Ports held by imapool towards the server after the run; `None` in the direct run too.
    pub proxy: Option<Ports>,
}

/// Both ways, and what is to be known about the circumstances.
#[derive(Debug)]
pub struct Report {
    /// Front end and server alone.
    pub direct: Run,
    /// The same with imapool between them.
    pub pooled: Run,
    /// Waited by the server in each login.
    pub login_cost: Duration,
    /// Ports this host can connect from.
    pub ephemeral: Option<u32>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (direct, pooled) = (&self.direct, &self.pooled);
        let mut row =
            |label: &str, direct: String, pooled: String| writeln!(f, "{label:<LABEL$}{direct:>14}{pooled:>18}");
        row("", "direct".into(), "through imapool".into())?;
        let both = |value: fn(&Run) -> String| (value(direct), value(pooled));
        let rows: [(&str, (String, String)); 9] = [
            ("sessions that went well", both(|r| number(r.outcome.durations.len() as u64))),
            ("sessions that failed", both(|r| number(r.outcome.failed().into()))),
            ("connections opened to the IMAP server", both(|r| number(r.connections))),
            ("logins the IMAP server had to check", both(|r| number(r.logins))),
            ("ports the front end holds afterwards", both(|r| ports(r.front_end))),
            ("ports imapool holds afterwards", ("-".into(), ports(pooled.proxy))),
            ("sessions per second", both(|r| number(r.outcome.per_second().round() as u64))),
            ("one session, median", both(|r| duration(r.outcome.quantile(0.5)))),
            ("one session, 99 of 100 within", both(|r| duration(r.outcome.quantile(0.99)))),
        ];
        for (label, (direct, pooled)) in rows {
            row(label, direct, pooled)?;
        }
        writeln!(f)?;
        for (name, run) in [("direct", direct), ("through imapool", pooled)] {
            write_remarks(f, name, run)?;
        }
        self.write_notes(f)
    }
}

/// Failures by reason, and sessions for which there was no time.
fn write_remarks(f: &mut fmt::Formatter<'_>, name: &str, run: &Run) -> fmt::Result {
    for (error, count) in &run.outcome.failures {
        writeln!(f, "Failed, {name}: {error} ({}).", number((*count).into()))?;
    }
    let missing = u64::from(run.wanted - run.outcome.failed()).saturating_sub(run.outcome.durations.len() as u64);
    if missing > 0 {
        writeln!(f, "Not begun, {name}: {} sessions, for lack of time.", number(missing))?;
    }
    Ok(())
}

impl Report {
    fn write_notes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.login_cost {
            Duration::ZERO => writeln!(f, "The server takes no time to check a password (--login-cost).")?,
            cost => writeln!(
                f,
                "The server waits {} in each login, in place of a password hash and a user look-up (--login-cost).",
                duration(Some(cost))
            )?,
        }
        let (Some(ephemeral), Some(held)) = (self.ephemeral, self.direct.front_end) else { return Ok(()) };
        if held.time_wait == 0 {
            return Ok(());
        }
        writeln!(
            f,
            "A port that was used stays taken for {TIME_WAIT_SECONDS} s (TIME_WAIT), and this host has {} of them: directly, no more\n\
             than {} sessions a second to one server can last, however fast both are. On the loopback interface, as\n\
             here, Linux reuses such ports after a second, so fewer are counted; across a network it does not.",
            number(ephemeral.into()),
            number((ephemeral / TIME_WAIT_SECONDS).into())
        )
    }
}

fn ports(ports: Option<Ports>) -> String {
    ports.map_or_else(|| "n/a".into(), |p| number(p.held() as u64))
}

/// `20,000`
fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn duration(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".into(), |d| format!("{:.1} ms", d.as_secs_f64() * 1000.0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::load::SessionError;
    use super::*;

    fn run(good: u64, failed: u32, wanted: u32) -> Run {
        let outcome = Outcome {
            elapsed: Duration::from_secs(2),
            durations: (0..good).map(Duration::from_millis).collect(),
            failures: BTreeMap::from([(SessionError::NoPort, failed)]),
        };
        let ports = Some(Ports { time_wait: 1000, in_use: 234 });
        Run { wanted, outcome, connections: 1_234_567, logins: 7, front_end: ports, proxy: None }
    }

    #[test]
    fn the_table_says_what_was_counted() {
        let report = Report {
            direct: run(90, 5, 100),
            pooled: run(100, 0, 100),
            login_cost: Duration::from_millis(5),
            ephemeral: Some(28_232),
        };
        let text = report.to_string();
        for wanted in ["1,234,567", "1,234", "n/a", "5 sessions, for lack of time", "(5)", "than 470", "waits 5.0 ms"] {
            assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
        }
        assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
    }
}
