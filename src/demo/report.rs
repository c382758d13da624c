//! What the demo prints.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::load::{Outcome, SessionError};
use super::server::personality::Personality;
use super::sockets::{Few, Ports};
use crate::platform::ports::{FEW, LENT_AGAIN, time_wait};

/// Width of the first column.
const LABEL: usize = 44;

/// What it is about.
pub const INTRODUCTION: &str = "\
A front end opens a connection for each request: login, a look into the mailbox, and the end. First straight to an IMAP
server, then through imapool. All three are on this host, the server is in memory, nothing is installed or changed.

";

/// The kinds of servers, one line each.
pub fn kinds(kinds: &[Personality]) -> String {
    let width = kinds.iter().map(|kind| kind.name.len()).max().unwrap_or_default();
    kinds.iter().map(|kind| format!("{:width$}  {}\n", kind.name, kind.about)).collect()
}

/// Which kind of server runs, and what is known of it.
pub fn kind(kind: &Personality) -> String {
    let know = if kind.verdict.know.is_empty() { String::new() } else { format!("{}\n", kind.verdict.know) };
    format!("The server is of the kind {}: {}.\n{know}\n", kind.name, kind.about)
}

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
    /// Ports held by imapool towards the server after the run.
    pub proxy: Option<Ports>,
}

/// The same load, both ways.
#[derive(Debug)]
pub struct Ways {
    /// Front end and server alone.
    pub direct: Run,
    /// With imapool between them.
    pub pooled: Run,
}

/// The first part: a front end that has few ports.
#[derive(Debug)]
pub struct Shortage {
    /// The few.
    pub few: Few,
    /// All that this host has.
    pub host: Option<RangeInclusive<u16>>,
    /// Sessions begun in a second.
    pub rate: u32,
    /// Sessions that end with LOGOUT.
    pub logout: Ways,
    /// Sessions that just end.
    pub hang_up: Ways,
}

/// The second part: a front end that has all ports.
#[derive(Debug)]
pub struct Cost {
    /// What was measured.
    pub ways: Ways,
    /// Whose sessions they were.
    pub accounts: u32,
    /// Waited by the server in each login.
    pub login_cost: Duration,
    /// Ports this host can connect from.
    pub host: Option<RangeInclusive<u16>>,
}

/// How sessions went, one way, in all of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Those that went well.
    pub well: u64,
    /// Those that did not.
    pub failed: u64,
}

impl Tally {
    /// All that were begun.
    pub fn begun(self) -> u64 {
        self.well + self.failed
    }

    fn add(mut self, run: &Run) -> Self {
        self.well += run.outcome.durations.len() as u64;
        self.failed += u64::from(run.outcome.failed());
        self
    }
}

/// What all of it comes to.
#[derive(Debug, Clone, Copy)]
pub struct Verdict {
    /// Without imapool.
    pub direct: Tally,
    /// With it.
    pub pooled: Tally,
}

impl Verdict {
    /// Whether all sessions through imapool went well, and there were some.
    pub fn is_kept(&self) -> bool {
        self.pooled.failed == 0 && self.pooled.well > 0
    }
}

/// Sums up both parts; the first may not have been possible.
pub fn verdict(shortage: Option<&Shortage>, cost: &Cost) -> Verdict {
    let runs = || shortage.into_iter().flat_map(|s| [&s.logout, &s.hang_up]).chain([&cost.ways]);
    let direct = runs().fold(Tally::default(), |tally, ways| tally.add(&ways.direct));
    let pooled = runs().fold(Tally::default(), |tally, ways| tally.add(&ways.pooled));
    Verdict { direct, pooled }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { direct, pooled } = self;
        write!(f, "\nDirect: {} of {} sessions failed. ", number(direct.failed), number(direct.begun()))?;
        match (self.is_kept(), pooled.failed) {
            (true, _) => writeln!(f, "Through imapool: none of {}.", number(pooled.begun())),
            (false, 0) => writeln!(f, "Through imapool: none was begun."),
            (false, failed) => {
                writeln!(f, "Through imapool: {} of {}. This must not be.", number(failed), number(pooled.begun()))
            }
        }
    }
}

/// Says that the first part cannot be shown, and why.
pub fn no_shortage(error: &io::Error) -> String {
    format!(
        "1. A FRONT END THAT RUNS OUT OF PORTS cannot be shown on this system: {FEW} ({error}). The README has a \
         picture of it.\n\n"
    )
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let few = self.few.ports.len();
        let wanted = self.logout.direct.wanted;
        let all =
            self.host.as_ref().map_or_else(String::new, |host| format!(" of this host's {}", thousands(host.len())));
        writeln!(
            f,
            "1. A FRONT END THAT RUNS OUT OF PORTS. It may connect from {few}{all} ports only: {}-{}, by {}. \
             It begins {} sessions a second, {} in all.\n",
            self.few.ports.start(),
            self.few.ports.end(),
            if self.few.kept { "an\noption of its own sockets (IP_LOCAL_PORT_RANGE)" } else { "this host's\nsettings" },
            number(self.rate.into()),
            number(wanted.into())
        )?;
        write_header(f)?;
        for (heading, ways) in
            [("sessions that end with LOGOUT", &self.logout), ("sessions that just hang up", &self.hang_up)]
        {
            writeln!(f, "{heading}")?;
            write_row(f, "  went well", ways.both(|r| number(r.outcome.durations.len() as u64)))?;
            write_row(f, "  FAILED", ways.both(|r| number(r.outcome.failed().into())))?;
            write_row(f, "  ports still taken afterwards", ways.both(|r| ports(r.front_end)))?;
        }
        writeln!(f)?;
        self.logout.write_remarks(f, ", with LOGOUT")?;
        self.hang_up.write_remarks(f, ", hanging up")?;
        self.write_reason(f)
    }
}

impl Shortage {
    fn write_reason(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let few = self.few.ports.len();
        let short = [&self.logout, &self.hang_up]
            .iter()
            .any(|ways| ways.direct.outcome.failures.contains_key(&SessionError::NoPort));
        if short {
            let seconds = time_wait().as_secs();
            writeln!(
                f,
                "The side that closes first keeps the port in TIME_WAIT{LENT_AGAIN} for {seconds} s, and {few} ports are enough for {:.1} sessions a second.\n\
                 imapool closes first, or resets the connection of a front end that did: its ports are free again at once.\n",
                few as f64 / time_wait().as_secs_f64()
            )
        } else {
            writeln!(f, "No port was wanting: this machine is too slow for so many sessions.\n")
        }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "2. WHAT IT COSTS. {} sessions of {} accounts, with LOGOUT, as fast as they go; with all ports.\n",
            number(self.ways.direct.wanted.into()),
            number(self.accounts.into())
        )?;
        write_header(f)?;
        let Ways { direct, pooled } = &self.ways;
        let both = |value: fn(&Run) -> String| self.ways.both(value);
        for (label, values) in [
            ("sessions that went well", both(|r| number(r.outcome.durations.len() as u64))),
            ("sessions that failed", both(|r| number(r.outcome.failed().into()))),
            ("connections opened to the IMAP server", both(|r| number(r.connections))),
            ("logins the IMAP server had to check", both(|r| number(r.logins))),
            ("ports the front end holds afterwards", both(|r| ports(r.front_end))),
            ("ports imapool holds afterwards", ["-".into(), ports(pooled.proxy)]),
            ("sessions per second", both(|r| number(r.outcome.per_second().round() as u64))),
            ("one session, median", both(|r| duration(r.outcome.quantile(0.5)))),
            ("one session, 99 of 100 within", both(|r| duration(r.outcome.quantile(0.99)))),
        ] {
            write_row(f, label, values)?;
        }
        writeln!(f)?;
        self.ways.write_remarks(f, "")?;
        self.write_notes(f, direct)
    }
}

impl Cost {
    fn write_notes(&self, f: &mut fmt::Formatter<'_>, direct: &Run) -> fmt::Result {
        match self.login_cost {
            Duration::ZERO => writeln!(f, "The server takes no time to check a password (--login-cost).")?,
            cost => writeln!(
                f,
                "The server waits {} in each login, in place of a password hash and a user look-up (--login-cost).",
                duration(Some(cost))
            )?,
        }
        let (Some(host), Some(held)) = (&self.host, direct.front_end) else { return Ok(()) };
        if held.time_wait == 0 {
            return Ok(());
        }
        let all = host.len() as u64;
        writeln!(
            f,
            "Across a network, the {} ports of this host are enough for {} sessions a second, however fast both sides are.",
            number(all),
            number(all / time_wait().as_secs())
        )
    }
}

impl Ways {
    fn both(&self, value: fn(&Run) -> String) -> [String; 2] {
        [value(&self.direct), value(&self.pooled)]
    }

    /// Failures by reason, and sessions for which there was no time.
    fn write_remarks(&self, f: &mut fmt::Formatter<'_>, what: &str) -> fmt::Result {
        for (name, run) in [("direct", &self.direct), ("through imapool", &self.pooled)] {
            for (error, count) in &run.outcome.failures {
                writeln!(f, "Failed, {name}{what}: {error} ({}).", number((*count).into()))?;
            }
            let begun = Tally::default().add(run).begun();
            let missing = u64::from(run.wanted).saturating_sub(begun);
            if missing > 0 {
                writeln!(f, "Not begun, {name}{what}: {} sessions, for lack of time.", number(missing))?;
            }
        }
        Ok(())
    }
}

fn write_header(f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write_row(f, "", ["direct".into(), "through imapool".into()])
}

fn write_row(f: &mut fmt::Formatter<'_>, label: &str, [direct, pooled]: [String; 2]) -> fmt::Result {
    writeln!(f, "{label:<LABEL$}{direct:>14}{pooled:>18}")
}

fn ports(ports: Option<Ports>) -> String {
    ports.map_or_else(|| "n/a".into(), |p| thousands(p.held()))
}

fn thousands(n: usize) -> String {
    number(n as u64)
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

    use super::*;

    fn run(good: u64, failed: u32, wanted: u32) -> Run {
        let outcome = Outcome {
            elapsed: Duration::from_secs(2),
            durations: (0..good).map(Duration::from_millis).collect(),
            failures: if failed > 0 { BTreeMap::from([(SessionError::NoPort, failed)]) } else { BTreeMap::new() },
        };
        let ports = Some(Ports { time_wait: 1000, in_use: 234 });
        Run { wanted, outcome, connections: 1_234_567, logins: 7, front_end: ports, proxy: None }
    }

    fn ways(direct: Run, pooled: Run) -> Ways {
        Ways { direct, pooled }
    }

    fn cost(ways: Ways) -> Cost {
        Cost { ways, accounts: 50, login_cost: Duration::from_millis(5), host: Some(32_768..=60_999) }
    }

    fn shortage(logout: Ways, hang_up: Ways) -> Shortage {
        Shortage {
            few: Few { ports: 32_768..=32_967, kept: true },
            host: Some(32_768..=60_999),
            rate: 1000,
            logout,
            hang_up,
        }
    }

    fn assert_holds(text: &str, wanted: &[&str]) {
        for wanted in wanted {
            assert!(text.contains(wanted), "{wanted} is missing:\n{text}");
        }
        assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
    }

    #[test]
    fn the_second_part_says_what_was_counted() {
        let text = cost(ways(run(90, 5, 100), run(100, 0, 100))).to_string();
        let rate = format!("for {} ", 28_232 / time_wait().as_secs());
        assert_holds(
            &text,
            &["1,234,567", "1,234", "n/a", "5 sessions, for lack of time", "(5)", &rate, "waits 5.0 ms"],
        );
    }

    #[test]
    fn the_first_part_says_what_was_narrowed_and_what_ran_short() {
        let both = || ways(run(400, 1600, 2000), run(2000, 0, 2000));
        let text = shortage(both(), both()).to_string();
        let rate = format!("for {:.1} ", 200.0 / time_wait().as_secs_f64());
        assert_holds(&text, &["200 of this host's 28,232 ports", "32768-32967", "1,600", "2,000", "TIME_WAIT", &rate]);
        let slow = || ways(run(2000, 0, 2000), run(2000, 0, 2000));
        assert_holds(&shortage(slow(), slow()).to_string(), &["too slow"]);
        assert_holds(&no_shortage(&io::ErrorKind::Unsupported.into()), &["cannot be shown", FEW]);
    }

    #[test]
    fn one_failed_session_through_imapool_breaks_the_promise() {
        let good = || ways(run(1, 9, 10), run(10, 0, 10));
        let bad = || ways(run(10, 0, 10), run(9, 1, 10));
        let kept = verdict(Some(&shortage(good(), good())), &cost(good()));
        assert!(kept.is_kept());
        assert_holds(&kept.to_string(), &["Direct: 27 of 30 sessions failed. Through imapool: none of 30."]);
        for broken in [
            verdict(Some(&shortage(bad(), good())), &cost(good())),
            verdict(Some(&shortage(good(), bad())), &cost(good())),
            verdict(None, &cost(bad())),
        ] {
            assert!(!broken.is_kept());
            assert_holds(&broken.to_string(), &["Through imapool: 1 of ", "must not be"]);
        }
        assert!(!verdict(None, &cost(ways(run(1, 0, 1), run(0, 0, 1)))).is_kept(), "nothing was shown");
    }
}
