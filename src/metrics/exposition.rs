//! From handles to text: families with fixed label values, and the Prometheus text format 0.0.4.
//!
//! prometheus-client writes OpenMetrics, in which a counter's `# TYPE` line lacks the `_total` of its samples. So
//! the counter `imapool_client_sessions_total` and the gauge `imapool_client_sessions` would claim the same family. In
//! the older text format, which every scraper reads, a family is named as its samples are and the two are distinct.

use std::fmt;
use std::marker::PhantomData;

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

use super::labels::Label;

/// The media type of [`Metrics::render`](super::Metrics::render)'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric for each value of a label, found by an array index.
#[derive(Debug, Clone)]
pub(super) struct PerLabel<L, M> {
    metrics: Box<[M]>,
    label: PhantomData<L>,
}

impl<L: Label, M: Default + Clone> PerLabel<L, M> {
    pub(super) fn get(&self, label: L) -> &M {
        &self.metrics[label.index()]
    }

    /// The time series of these metrics, each with the labels given and its own.
    pub(super) fn series(&self, labels: &[(&'static str, String)]) -> impl Iterator<Item = (Labels, M)> {
        L::ALL.iter().map(|label| {
            let own = (L::NAME, label.value().to_owned());
            (labels.iter().cloned().chain([own]).collect(), self.get(*label).clone())
        })
    }
}

impl<L: Label, M: Default> Default for PerLabel<L, M> {
    fn default() -> Self {
        Self { metrics: L::ALL.iter().map(|_| M::default()).collect(), label: PhantomData }
    }
}

/// The labels of one time series.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A family whose time series are all known from the start, in a fixed order. (prometheus-client's own `Family` is a
/// locked hash map that grows as it is asked.)
#[derive(Debug)]
pub(super) struct Series<M>(Vec<(Labels, M)>);

impl<M> FromIterator<(Labels, M)> for Series<M> {
    fn from_iter<I: IntoIterator<Item = (Labels, M)>>(series: I) -> Self {
        Self(series.into_iter().collect())
    }
}

impl<M: EncodeMetric + TypedMetric> EncodeMetric for Series<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
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
