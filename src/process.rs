//! What the operating system knows about this process, under the names every Prometheus client uses (`process_*`).
//!
//! Read anew for each scrape. A number that cannot be had here is absent, not zero.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::platform;

/// Writes the `process_*` families.
#[derive(Debug)]
pub(crate) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let facts = platform::facts();
        if let Some(seconds) = facts.cpu_seconds {
            // The encoder adds `_total`.
            let metric = ConstCounter::new(seconds);
            write(&mut encoder, "process_cpu_seconds", "User and system CPU time spent", &metric)?;
        }
        let gauges = [
            ("process_open_fds", "Open file descriptors", facts.open_fds),
            ("process_max_fds", "Most file descriptors that may be open at a time", facts.max_fds),
            ("process_resident_memory_bytes", "Resident memory", facts.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory", facts.virtual_bytes),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                write(&mut encoder, name, help, &ConstGauge::new(value))?;
            }
        }
        if let Some(seconds) = facts.start_seconds {
            let help = "Start of the process in seconds since the Unix epoch";
            write(&mut encoder, "process_start_time_seconds", help, &ConstGauge::new(seconds))?;
        }
        Ok(())
    }
}

fn write(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
    metric.encode(encoder.encode_descriptor(name, &format!("{help}."), None, metric.metric_type())?)
}
