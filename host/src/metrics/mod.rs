//! What the process counts and measures, for /metrics: etcd's metrics by their names, and Instar's own under `instar_`.
//!
//! - Anyone may record; nobody but the API reads. It knows nothing of who records.
//! - Recording is an atomic addition, or two for a histogram: never a lock, an allocation or a system call. Requests are
//!   counted by `calls`, a client thread for itself; what is recorded here is recorded once a batch.
//! - What only has to be looked up is set when it is asked for (`Figures`), and costs nothing before.

mod calls;
mod figures;
mod registrar;
mod store;
#[cfg(test)]
mod tests;

use std::sync::{LazyLock, Mutex, PoisonError};

use prometheus::{
    CounterVec, Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry, TextEncoder,
};

pub use calls::{Call, Calls, METHOD_CODES, Method, MethodKind, MethodTable};
use figures::FigureGauges;
pub use figures::Figures;
use registrar::Registrar;

/// The process's metrics.
pub fn metrics() -> &'static Metrics {
    static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);
    &METRICS
}

/// Everything that is recorded where it happens.
pub struct Metrics {
    registry: Registry,
    /// For docs/metrics.md.
    #[cfg_attr(not(test), expect(dead_code, reason = "the page of metrics is written by a test"))]
    notes: Vec<registrar::Note>,
    figures: Mutex<FigureGauges>,

    // The disk.
    pub wal_fsync_seconds: Histogram,
    pub wal_write_bytes: IntGauge,
    pub backend_commit_seconds: Histogram,
    pub state_commit_seconds: Histogram,

    // Raft.
    pub leader_changes: IntCounter,
    pub proposals_failed: IntCounter,
    pub read_indexes_failed: IntCounter,
    pub peers: Peers,

    // The machine.
    pub guest_apply_seconds: Histogram,
    pub apply_batch_entries: Histogram,
    pub guest_fuel: IntCounter,
    pub modules: Modules,

    // The store.
    pub operations: store::Operations,
    pub leases: store::Leases,
    pub watches: store::Watches,
    pub works: store::Works,

    // What clients ask for.
    pub health: Health,
    pub calls: calls::Vectors,
}

/// Messages to and from the other members.
pub struct Peers {
    pub sent_bytes: IntCounterVec,
    pub received_bytes: IntCounterVec,
    pub sent_failures: IntCounterVec,
    pub round_trip_seconds: HistogramVec,
}

impl Peers {
    fn new(to: &mut Registrar) -> Peers {
        Peers {
            sent_bytes: to.counters(
                "etcd_network_peer_sent_bytes_total",
                "The total number of bytes sent to peers.",
                &["To"],
            ),
            received_bytes: to.counters(
                "etcd_network_peer_received_bytes_total",
                "The total number of bytes received from peers.",
                &["From"],
            ),
            sent_failures: to.counters(
                "etcd_network_peer_sent_failures_total",
                "The total number of send failures from peers.",
                &["To"],
            ),
            round_trip_seconds: to.histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "Round-Trip-Time histogram between peers",
                DOUBLING_FROM_100_US,
                &["To"],
            ),
        }
    }
}

/// What modules have cost here, by name and export.
pub struct Modules {
    pub runs: IntCounterVec,
    pub failures: IntCounterVec,
    pub fuel: IntCounterVec,
    pub seconds: CounterVec,
}

impl Modules {
    fn new(to: &mut Registrar) -> Modules {
        let labels = &["module", "export"];
        Modules {
            runs: to.counters("instar_module_runs_total", "How often modules were run.", labels),
            failures: to.counters(
                "instar_module_failures_total",
                "How often modules failed: traps, loops, and answers that are none.",
                labels,
            ),
            fuel: to.counters(
                "instar_module_fuel_total",
                "The fuel that modules have used.",
                labels,
            ),
            seconds: to.float_counters(
                "instar_module_seconds_total",
                "The time that modules have run for.",
                labels,
            ),
        }
    }
}

/// What health checks found.
pub struct Health {
    pub success: IntCounter,
    pub failures: IntCounter,
    pub check: IntGaugeVec,
    pub checks: IntCounterVec,
}

impl Health {
    fn new(to: &mut Registrar) -> Health {
        Health {
            success: to.counter(
                "etcd_server_health_success",
                "The total number of successful health checks",
            ),
            failures: to
                .counter("etcd_server_health_failures", "The total number of failed health checks"),
            check: to.gauges(
                "etcd_server_healthcheck",
                "The result of each kind of healthcheck.",
                &["type", "name"],
            ),
            checks: to.counters(
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                &["type", "name", "status"],
            ),
        }
    }
}

/// A member's id as etcd writes it.
pub fn member_label(id: u64) -> String {
    format!("{id:x}")
}

impl Metrics {
    fn new() -> Metrics {
        let mut to = Registrar::new();
        let metrics = Metrics {
            figures: Mutex::new(FigureGauges::new(&mut to)),
            wal_fsync_seconds: to.histogram(
                "etcd_disk_wal_fsync_duration_seconds",
                "The latency distributions of fsync called by WAL.",
                DOUBLING_FROM_1_MS,
            ),
            wal_write_bytes: to
                .gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL."),
            backend_commit_seconds: to.histogram(
                "etcd_disk_backend_commit_duration_seconds",
                "The latency distributions of commit called by backend.",
                DOUBLING_FROM_1_MS,
            ),
            state_commit_seconds: to.histogram(
                "instar_state_commit_duration_seconds",
                "The time that making one batch of entries visible takes, without the disk.",
                DOUBLING_FROM_100_US,
            ),
            leader_changes: to.counter(
                "etcd_server_leader_changes_seen_total",
                "The number of leader changes seen.",
            ),
            proposals_failed: to.counter(
                "etcd_server_proposals_failed_total",
                "The total number of failed proposals seen.",
            ),
            read_indexes_failed: to.counter(
                "etcd_server_read_indexes_failed_total",
                "The total number of failed read indexes seen.",
            ),
            peers: Peers::new(&mut to),
            guest_apply_seconds: to.histogram(
                "instar_guest_apply_duration_seconds",
                "The time that the state machine takes for one batch of entries.",
                DOUBLING_FROM_100_US,
            ),
            apply_batch_entries: to.histogram(
                "instar_apply_batch_entries",
                "The number of entries that are applied together.",
                (1.0, 2.0, 11),
            ),
            guest_fuel: to.counter(
                "instar_guest_fuel_total",
                "The fuel (about one unit an instruction) that applied batches have used.",
            ),
            modules: Modules::new(&mut to),
            operations: store::Operations::new(&mut to),
            leases: store::Leases::new(&mut to),
            watches: store::Watches::new(&mut to),
            works: store::Works::new(&mut to),
            health: Health::new(&mut to),
            calls: calls::Vectors::new(&mut to),
            registry: Registry::new(),
            notes: Vec::new(),
        };
        to.process();
        let (registry, notes) = to.finish();
        Metrics { registry, notes, ..metrics }
    }

    /// All metrics in Prometheus' text format. Only one at a time is made.
    ///
    /// # Errors
    /// A metric that cannot be written, which is a mistake of this module.
    pub fn render(&self, figures: &Figures, calls: &Calls) -> Result<Vec<u8>, prometheus::Error> {
        let gauges = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.set(figures);
        self.calls.set(calls);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// The first bucket in seconds, the factor, and how many: `prometheus.ExponentialBuckets`.
type Buckets = (f64, f64, usize);

const DOUBLING_FROM_1_MS: Buckets = (0.001, 2.0, 14);
const DOUBLING_FROM_100_US: Buckets = (0.0001, 2.0, 16);
