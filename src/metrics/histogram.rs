//! A histogram of durations that is recorded with two atomic additions.
//!
//! prometheus-client's own histogram holds a mutex while it records and while it is encoded, so a scrape could make a
//! session wait. This one has fixed buckets, and no lock.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds of the buckets, in seconds: from a login answered from memory to a search through an archive.
const BOUNDS: [f64; 18] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// How long something took, in buckets from 100 µs to 60 s.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One count for each of [`BOUNDS`], and the last for what is above them all. Not cumulative.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    /// In nanoseconds: enough for 584 years.
    sum: AtomicU64,
}

impl Histogram {
    /// Records one duration.
    pub fn observe(&self, duration: Duration) {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < duration.as_secs_f64());
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// What has been recorded so far.
    pub fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|bucket| self.buckets[bucket].load(Ordering::Relaxed)))
    }

    /// How many durations have been recorded.
    pub fn count(&self) -> u64 {
        self.counts().0.iter().sum()
    }
}

/// The buckets of a histogram at one moment, or what was added to them between two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts([u64; BOUNDS.len() + 1]);

impl Counts {
    /// What was recorded since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Counts) -> Counts {
        Counts(std::array::from_fn(|bucket| self.0[bucket].saturating_sub(earlier.0[bucket])))
    }

    /// Of two histograms together.
    #[must_use]
    pub fn and(&self, other: &Counts) -> Counts {
        Counts(std::array::from_fn(|bucket| self.0[bucket] + other.0[bucket]))
    }

    /// The time in seconds that this share (0 to 1) of all stayed within, interpolated within its bucket as Prometheus
    /// does; `None`: nothing was recorded.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let all: u64 = self.0.iter().sum();
        if all == 0 {
            return None;
        }
        let rank = share * all as f64;
        let (mut below, mut lower) = (0, 0.0);
        for (bucket, count) in self.0.iter().enumerate() {
            // What is above all bounds is at least the last of them.
            let upper = BOUNDS.get(bucket).copied().unwrap_or(lower);
            if *count > 0 && (below + count) as f64 >= rank {
                let part = ((rank - below as f64) / *count as f64).clamp(0.0, 1.0);
                return Some(lower + part * (upper - lower));
            }
            below += count;
            lower = upper;
        }
        Some(lower)
    }
}

impl TypedMetric for Histogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Histogram {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Counts(counts) = self.counts();
        let buckets: Vec<_> = BOUNDS.into_iter().chain([f64::INFINITY]).zip(counts).collect();
        // From the same reading as the buckets, so that `_count` equals the `+Inf` bucket in every scrape.
        let count = counts.iter().sum();
        // Exact to the microsecond below 285 years.
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counts().quantile(0.5), None);
        for _ in 0..99 {
            histogram.observe(Duration::from_millis(2));
        }
        let before = histogram.counts();
        let half = before.quantile(0.5).unwrap();
        assert!((0.001..=0.0025).contains(&half), "{half}");
        histogram.observe(Duration::from_secs(90));
        assert_eq!(histogram.counts().quantile(1.0), Some(60.0));
        assert_eq!(histogram.counts().since(&before).quantile(0.01), Some(60.0));
        assert_eq!(before.since(&before).quantile(0.5), None);
    }

    fn buckets(histogram: &Histogram) -> Vec<u64> {
        histogram.counts().0.to_vec()
    }

    #[test]
    fn a_duration_on_a_bound_counts_below_it() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(100));
        histogram.observe(Duration::from_nanos(100_001));
        histogram.observe(Duration::ZERO);
        assert_eq!(buckets(&histogram)[..3], [2, 1, 0]);
        assert_eq!(histogram.count(), 3);
    }

    #[test]
    fn what_is_above_all_bounds_has_a_bucket_of_its_own() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_secs(60));
        histogram.observe(Duration::from_secs(61));
        assert_eq!(buckets(&histogram)[BOUNDS.len() - 1..], [1, 1]);
        histogram.observe(Duration::MAX);
        assert_eq!(buckets(&histogram)[BOUNDS.len()..], [2]);
    }

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
    }
}
