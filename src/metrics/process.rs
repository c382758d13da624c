//! What the operating system knows about this process, under the names every Prometheus client uses (`process_*`).
//!
//! Read anew for each scrape. A number that cannot be had here is absent, not zero.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::exposition::write;
use crate::platform;

/// Writes the `process_*` families.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (facts, out) = (platform::facts(), &mut encoder);
        // The encoder adds `_total`.
        known(out, "process_cpu_seconds", "User and system CPU time spent", facts.cpu_seconds.map(ConstCounter::new))?;
        known(out, "process_open_fds", "Open file descriptors", facts.open_fds.map(ConstGauge::new))?;
        let help = "Most file descriptors that may be open at a time";
        known(out, "process_max_fds", help, facts.max_fds.map(ConstGauge::new))?;
        known(out, "process_resident_memory_bytes", "Resident memory", facts.resident_bytes.map(ConstGauge::new))?;
        known(out, "process_virtual_memory_bytes", "Virtual memory", facts.virtual_bytes.map(ConstGauge::new))?;
        let help = "Start of the process in seconds since the Unix epoch";
        known(out, "process_start_time_seconds", help, facts.start_seconds.map(ConstGauge::new))
    }
}

fn known(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: Option<impl EncodeMetric>) -> fmt::Result {
    metric.map_or(Ok(()), |metric| write(out, name, help, &metric))
}
