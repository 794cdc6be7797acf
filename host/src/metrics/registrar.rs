//! Makes metrics, registers them, and notes what they are for the documents.

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, exponential_buckets, process_collector::ProcessCollector,
};

use super::Buckets;

/// What a metric is, in words.
#[derive(Debug, Clone)]
#[cfg_attr(not(test), expect(dead_code, reason = "the page of metrics is written by a test"))]
pub(super) struct Note {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) labels: Vec<String>,
    pub(super) help: String,
}

/// Names are written by hand, and a test makes all metrics: a mistake does not get further than that, and costs a
/// metric, not the process.
pub(super) struct Registrar {
    registry: Registry,
    notes: Vec<Note>,
}

impl Registrar {
    pub(super) fn new() -> Registrar {
        Registrar { registry: Registry::new(), notes: Vec::new() }
    }

    pub(super) fn finish(mut self) -> (Registry, Vec<Note>) {
        self.notes.sort_by(|left, right| left.name.cmp(&right.name));
        (self.registry, self.notes)
    }

    fn add<M: Collector + Clone + 'static>(&mut self, metric: M, kind: &'static str) -> M {
        for description in metric.desc() {
            self.notes.push(Note {
                name: description.fq_name.clone(),
                kind,
                labels: description.variable_labels.clone(),
                help: description.help.clone(),
            });
        }
        if let Err(error) = self.registry.register(Box::new(metric.clone())) {
            tracing::error!(%error, "a metric cannot be registered");
        }
        metric
    }

    pub(super) fn counter(&mut self, name: &str, help: &str) -> IntCounter {
        let made = IntCounter::new(name, help).unwrap_or_else(|_| invalid(name));
        self.add(made, "counter")
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str) -> IntGauge {
        let made = IntGauge::new(name, help).unwrap_or_else(|_| invalid(name));
        self.add(made, "gauge")
    }

    pub(super) fn counters(&mut self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let made = IntCounterVec::new(Opts::new(name, help), labels);
        self.add(made.unwrap_or_else(|_| invalid(name)), "counter")
    }

    /// Counters of what is no whole number.
    pub(super) fn float_counters(&mut self, name: &str, help: &str, labels: &[&str]) -> CounterVec {
        let made = CounterVec::new(Opts::new(name, help), labels);
        self.add(made.unwrap_or_else(|_| invalid(name)), "counter")
    }

    pub(super) fn gauges(&mut self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        let made = IntGaugeVec::new(Opts::new(name, help), labels);
        self.add(made.unwrap_or_else(|_| invalid(name)), "gauge")
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, buckets: Buckets) -> Histogram {
        let made = Histogram::with_opts(options(name, help, buckets));
        self.add(made.unwrap_or_else(|_| invalid(name)), "histogram")
    }

    pub(super) fn histograms(
        &mut self,
        name: &str,
        help: &str,
        buckets: Buckets,
        labels: &[&str],
    ) -> HistogramVec {
        let made = HistogramVec::new(options(name, help, buckets), labels);
        self.add(made.unwrap_or_else(|_| invalid(name)), "histogram")
    }

    /// With the library's own buckets, which are those of Go's.
    pub(super) fn histograms_of_default(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> HistogramVec {
        let made = HistogramVec::new(HistogramOpts::new(name, help), labels);
        self.add(made.unwrap_or_else(|_| invalid(name)), "histogram")
    }

    /// Memory, time and files of the process, where the system tells.
    pub(super) fn process(&mut self) {
        let process = ProcessCollector::for_self();
        for description in process.desc() {
            let name = description.fq_name.clone();
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            let help = description.help.clone();
            self.notes.push(Note { name, kind, labels: Vec::new(), help });
        }
        if let Err(error) = self.registry.register(Box::new(process)) {
            tracing::error!(%error, "the metrics of the process cannot be registered");
        }
    }
}

fn options(name: &str, help: &str, (start, factor, count): Buckets) -> HistogramOpts {
    let buckets = exponential_buckets(start, factor, count).unwrap_or_default();
    HistogramOpts::new(name, help).buckets(buckets)
}

/// A name or label that Prometheus does not take can only be a mistake in this program, and shows in the first test.
fn invalid(name: &str) -> ! {
    unreachable!("{name} is no name for a metric")
}
