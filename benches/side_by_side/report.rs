//! What came out, for people: a table for each measurement, and a line for each target.

use std::collections::BTreeMap;

use crate::measure::{Measurement, Scale};
use crate::peers::Kind;

/// All figures of one measurement: for each peer, for each round, for each column. A round that failed is an empty one.
type Rounds = Vec<Vec<f64>>;

/// Collects figures and prints them.
#[derive(Default)]
pub(crate) struct Report {
    figures: BTreeMap<Measurement, Vec<(Kind, Rounds)>>,
}

/// What a target is measured by.
enum Figure {
    /// The column's ratio to the reference.
    Ratio,
    /// The column's ratio to this peer's.
    RatioTo(Kind),
    /// The column itself.
    Value,
}

struct Target {
    kind: Kind,
    text: &'static str,
    measurement: Measurement,
    column: usize,
    figure: Figure,
    /// `Err`: at most; `Ok`: at least.
    bound: Result<f64, f64>,
    unit: &'static str,
}

const TARGETS: [Target; 12] = [
    target("sessions/s in front of Dovecot", Measurement::Sessions, 0, Figure::Ratio, Ok(7.0), "× direct"),
    target("login p50 in front of Dovecot", Measurement::Sessions, 1, Figure::Ratio, Err(0.02), "× direct"),
    target("CPU per warm session", Measurement::Cpu, 0, Figure::Ratio, Err(0.6), "× HAProxy"),
    target("CPU per warm session, TLS", Measurement::Tls, 0, Figure::Ratio, Err(0.4), "× HAProxy"),
    target("NOOP round trip p50", Measurement::Noop, 0, Figure::Ratio, Err(1.0), "× HAProxy"),
    target("bulk FETCH octets/s", Measurement::Bulk, 0, Figure::Ratio, Ok(1.2), "× HAProxy"),
    target("memory per idle session", Measurement::Memory, 0, Figure::Value, Err(4.0), "KiB"),
    target("CPU per session, many accounts", Measurement::Accounts, 2, Figure::Value, Err(1.2), "× few accounts"),
    shared("CPU per warm session, multiplex", Measurement::Cpu, 0, SESSION_MODE, Err(1.15), "× session mode"),
    shared("CPU per session, TLS, multiplex", Measurement::Tls, 0, Figure::Ratio, Err(0.4), "× HAProxy"),
    shared("memory per session in IDLE", Measurement::Idle, 0, Figure::Value, Err(5.0), "KiB"),
    shared("upstream connections for them", Measurement::Idle, 2, Figure::Value, Err(250.0), ""),
];

const SESSION_MODE: Figure = Figure::RatioTo(Kind::Imapool);

const fn target(
    text: &'static str,
    measurement: Measurement,
    column: usize,
    figure: Figure,
    bound: Result<f64, f64>,
    unit: &'static str,
) -> Target {
    Target { kind: Kind::Imapool, text, measurement, column, figure, bound, unit }
}

/// Of the mode "multiplex".
const fn shared(
    text: &'static str,
    measurement: Measurement,
    column: usize,
    figure: Figure,
    bound: Result<f64, f64>,
    unit: &'static str,
) -> Target {
    Target { kind: Kind::Multiplex, text, measurement, column, figure, bound, unit }
}

impl Report {
    /// The figures of one peer in the next round.
    pub(crate) fn add(&mut self, measurement: Measurement, kind: Kind, figures: Vec<f64>) {
        let peers = self.figures.entry(measurement).or_default();
        match peers.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, rounds)) => rounds.push(figures),
            None => peers.push((kind, vec![figures])),
        }
    }

    pub(crate) fn print(&self, scale: &Scale) {
        for (measurement, peers) in &self.figures {
            println!("\n{}: {}", measurement.name(), measurement.title(scale));
            print!("  {:<18}", "");
            for column in measurement.columns() {
                print!(" {:>16}", column.title);
                if column.ratio {
                    print!(" {:>9}", format!("× {}", measurement.reference().name()));
                }
            }
            println!();
            for (kind, _) in peers {
                self.print_row(*measurement, *kind);
            }
        }
        println!();
        for target in &TARGETS {
            self.print_target(target);
        }
    }

    fn print_row(&self, measurement: Measurement, kind: Kind) {
        print!("  {:<18}", kind.name());
        for (index, column) in measurement.columns().iter().enumerate() {
            print!(" {:>16}", shown(self.value(measurement, kind, index), column.decimals));
            if column.ratio {
                print!(" {:>9}", shown(self.ratio(measurement, kind, index, measurement.reference()), 3));
            }
        }
        let missing = self.rounds(measurement, kind).iter().filter(|round| round.is_empty()).count();
        println!("{}", if missing > 0 { format!("   ({missing} rounds failed)") } else { String::new() });
    }

    fn print_target(&self, target: &Target) {
        let Target { kind, text, measurement, column, bound, unit, .. } = target;
        let measured = match target.figure {
            Figure::Ratio => self.ratio(*measurement, *kind, *column, measurement.reference()),
            Figure::RatioTo(reference) => self.ratio(*measurement, *kind, *column, reference),
            Figure::Value => self.value(*measurement, *kind, *column),
        };
        let (wanted, met) = match bound {
            Ok(least) => (format!("≥ {least}"), measured.map(|m| m >= *least)),
            Err(most) => (format!("≤ {most}"), measured.map(|m| m <= *most)),
        };
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        };
        println!("target {text:<31} wanted {wanted:>6} {unit:<15} measured {:>8}  {verdict}", shown(measured, 3));
    }

    fn rounds(&self, measurement: Measurement, kind: Kind) -> &[Vec<f64>] {
        let peers = self.figures.get(&measurement).map_or(&[][..], Vec::as_slice);
        peers.iter().find(|(k, _)| *k == kind).map_or(&[], |(_, rounds)| rounds)
    }

    /// The median over the rounds.
    fn value(&self, measurement: Measurement, kind: Kind, column: usize) -> Option<f64> {
        let rounds = self.rounds(measurement, kind).iter();
        median(rounds.filter_map(|round| round.get(column).copied()).collect())
    }

    /// The median of each round's ratio to the reference in the same round: what slows the machine down for a while
    /// slows both down.
    fn ratio(&self, measurement: Measurement, kind: Kind, column: usize, reference: Kind) -> Option<f64> {
        let reference = self.rounds(measurement, reference);
        let pairs = self.rounds(measurement, kind).iter().zip(reference);
        median(pairs.filter_map(|(a, b)| Some(a.get(column)? / b.get(column)?)).collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

fn shown(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
}
