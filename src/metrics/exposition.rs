//! From handles to text: families with fixed label values, and the Prometheus text format 0.0.4.
//!
//! prometheus-client writes OpenMetrics, in which a counter's `# TYPE` line lacks the `_total` of its samples. So
//! the counter `imapool_client_sessions_total` and the gauge `imapool_client_sessions` would claim the same family. In
//! the older text format, which every scraper reads, a family is named as its samples are and the two are distinct.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::labels::Label;

/// The media type of [`Metrics::render`](super::Metrics::render)'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric for each value of a label, found by an array index.
#[derive(Debug)]
pub struct PerLabel<L, M> {
    metrics: Box<[M]>,
    label: PhantomData<L>,
}

impl<L: Label, M> PerLabel<L, M> {
    /// That of this value.
    pub fn get(&self, label: L) -> &M {
        &self.metrics[label.index()]
    }

    /// All of them, each with the value of its label.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &M)> {
        L::ALL.iter().map(|label| (label.as_str(), self.get(*label)))
    }
}

impl<L: Label> PerLabel<L, Counter> {
    /// One more of this value.
    pub fn inc(&self, label: L) {
        self.get(label).inc();
    }

    /// So many more of this value.
    pub fn add(&self, label: L, count: usize) {
        self.get(label).inc_by(count as u64);
    }

    /// The counts so far, by the values of the label.
    pub fn so_far(&self) -> HashMap<&'static str, u64> {
        self.all().map(|(own, counter)| (own, counter.get())).collect()
    }

    /// All together.
    pub fn sum(&self) -> u64 {
        self.all().map(|(_, counter)| counter.get()).sum()
    }
}

impl<L: Label, M: EncodeMetric + TypedMetric> EncodeMetric for PerLabel<L, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.all().try_for_each(|(own, metric)| metric.encode(encoder.encode_family(&[(L::NAME, own)])?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

impl<L: Label, M: Default> Default for PerLabel<L, M> {
    fn default() -> Self {
        Self { metrics: L::ALL.iter().map(|_| M::default()).collect(), label: PhantomData }
    }
}

/// Writes what comes before the time series of a family.
pub(super) fn begin<'e>(
    encoder: &'e mut DescriptorEncoder<'_>,
    name: &'e str,
    help: &str,
    kind: MetricType,
) -> Result<MetricEncoder<'e>, fmt::Error> {
    encoder.encode_descriptor(name, &format!("{help}."), None, kind)
}

/// Writes a family that has no labels, or those of a [`PerLabel`].
pub(super) fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    metric.encode(begin(encoder, name, help, metric.metric_type())?)
}

/// Writes families of which each of several things has time series of its own: each backend, for example.
pub(super) struct Families<'a, 'e, T> {
    /// Whose name this label has.
    pub(super) label: &'static str,
    pub(super) of: Vec<(&'a str, &'a T)>,
    pub(super) encoder: &'a mut DescriptorEncoder<'e>,
}

impl<'a, 'e, T> Families<'a, 'e, T> {
    pub(super) fn new(label: &'static str, of: &'a [(String, Arc<T>)], encoder: &'a mut DescriptorEncoder<'e>) -> Self {
        Self { label, of: of.iter().map(|(name, it)| (name.as_str(), &**it)).collect(), encoder }
    }

    /// One time series for each.
    pub(super) fn each<M>(&mut self, name: &str, help: &str, metric: fn(&T) -> &M) -> fmt::Result
    where
        M: EncodeMetric + TypedMetric,
    {
        let mut family = begin(self.encoder, name, help, M::TYPE)?;
        self.of.iter().try_for_each(|(name, it)| metric(it).encode(family.encode_family(&[(self.label, *name)])?))
    }

    /// One for each, and for each value of a label.
    pub(super) fn by_label<L, M>(&mut self, name: &str, help: &str, metrics: fn(&T) -> &PerLabel<L, M>) -> fmt::Result
    where
        L: Label,
        M: EncodeMetric + TypedMetric,
    {
        let mut family = begin(self.encoder, name, help, M::TYPE)?;
        for (name, it) in &self.of {
            for (own, metric) in metrics(it).all() {
                metric.encode(family.encode_family(&[(self.label, *name), (L::NAME, own)])?)?;
            }
        }
        Ok(())
    }
}

/// Everything in the registry in the text format 0.0.4.
pub(super) fn render(registry: &Registry) -> String {
    let mut open_metrics = String::new();
    encode_registry(&mut open_metrics, registry).expect("a String takes every write");
    to_classic(&open_metrics)
}

/// Rewrites what differs between OpenMetrics (without its `# EOF`) and the text format 0.0.4: a counter's HELP and TYPE
/// lines get the `_total` of its samples, and there are no UNIT lines.
///
/// A line is never within a label's value, since line ends are escaped there; help texts are our own.
fn to_classic(open_metrics: &str) -> String {
    let mut classic = String::with_capacity(open_metrics.len() + open_metrics.len() / 16);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // The type, which decides about the name, comes in the next line.
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, text)) = help.take() {
                classic.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            classic.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with("# UNIT ") {
            classic.extend([line, "\n"]);
        }
    }
    classic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_named_as_its_samples() {
        let open = "# HELP a_things Things.\n# TYPE a_things counter\na_things_total{x=\"y\"} 1\n";
        let classic = "# HELP a_things_total Things.\n# TYPE a_things_total counter\na_things_total{x=\"y\"} 1\n";
        assert_eq!(to_classic(open), classic);
    }

    #[test]
    fn other_types_stay_and_units_go() {
        let open =
            "# HELP a_s Time.\n# TYPE a_s gauge\n# UNIT a_s s\na_s 1\n# HELP b B.\n# TYPE b histogram\nb_sum 0.0\n";
        let classic = "# HELP a_s Time.\n# TYPE a_s gauge\na_s 1\n# HELP b B.\n# TYPE b histogram\nb_sum 0.0\n";
        assert_eq!(to_classic(open), classic);
    }
}
