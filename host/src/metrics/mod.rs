//! What the process counts and measures, for /metrics: etcd's metrics by their names, and Instar's own under `instar_`.
//!
//! - Anyone may record; nobody but the API reads. It knows nothing of who records.
//! - Recording is an atomic addition, or two for a histogram: never a lock, an allocation or a system call. Requests are
//!   counted by `calls`, a client thread for itself; what is recorded here is recorded once a batch.
//! - What only has to be looked up is set when it is asked for (`Figures`), and costs nothing before.

mod calls;
mod registrar;
#[cfg(test)]
mod tests;

use std::sync::{LazyLock, Mutex, PoisonError};

use prometheus::{
    Encoder, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

pub use calls::{Call, Calls, METHOD_CODES, Method, MethodKind, MethodTable};
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
    pub peer_sent_bytes: IntCounterVec,
    pub peer_received_bytes: IntCounterVec,
    pub peer_sent_failures: IntCounterVec,
    pub peer_round_trip_seconds: HistogramVec,

    // The machine.
    pub guest_apply_seconds: Histogram,
    pub apply_batch_entries: Histogram,
    pub guest_fuel: IntCounter,

    // What clients ask for.
    pub health_success: IntCounter,
    pub health_failures: IntCounter,
    pub healthcheck: IntGaugeVec,
    pub healthchecks: IntCounterVec,
    pub calls: calls::Vectors,
}

/// What is looked up when the metrics are asked for.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub member_id: u64,
    pub etcd_version: &'static str,
    pub cluster_version: &'static str,
    pub product_version: &'static str,
    pub has_leader: bool,
    pub is_leader: bool,
    pub is_learner: bool,
    pub revision: u64,
    pub proposals_committed: u64,
    pub proposals_applied: u64,
    pub proposals_pending: u64,
    pub db_size_bytes: u64,
    pub db_size_in_use_bytes: u64,
    pub quota_bytes: i64,
    /// The other members.
    pub peers: Vec<u64>,
}

struct FigureGauges {
    id: IntGaugeVec,
    version: IntGaugeVec,
    cluster_version: IntGaugeVec,
    product_version: IntGaugeVec,
    has_leader: IntGauge,
    is_leader: IntGauge,
    is_learner: IntGauge,
    revision: IntGauge,
    committed: IntGauge,
    applied: IntGauge,
    pending: IntGauge,
    size: IntGauge,
    debugging_size: IntGauge,
    size_in_use: IntGauge,
    quota: IntGauge,
    known_peers: IntGaugeVec,
    apply_lag: IntGauge,
    open_files: IntGauge,
    file_limit: IntGauge,
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
            peer_sent_bytes: to.counters(
                "etcd_network_peer_sent_bytes_total",
                "The total number of bytes sent to peers.",
                &["To"],
            ),
            peer_received_bytes: to.counters(
                "etcd_network_peer_received_bytes_total",
                "The total number of bytes received from peers.",
                &["From"],
            ),
            peer_sent_failures: to.counters(
                "etcd_network_peer_sent_failures_total",
                "The total number of send failures from peers.",
                &["To"],
            ),
            peer_round_trip_seconds: to.histograms(
                "etcd_network_peer_round_trip_time_seconds",
                "Round-Trip-Time histogram between peers",
                DOUBLING_FROM_100_US,
                &["To"],
            ),
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
            health_success: to.counter(
                "etcd_server_health_success",
                "The total number of successful health checks",
            ),
            health_failures: to
                .counter("etcd_server_health_failures", "The total number of failed health checks"),
            healthcheck: to.gauges(
                "etcd_server_healthcheck",
                "The result of each kind of healthcheck.",
                &["type", "name"],
            ),
            healthchecks: to.counters(
                "etcd_server_healthchecks_total",
                "The total number of each kind of healthcheck.",
                &["type", "name", "status"],
            ),
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

impl FigureGauges {
    fn new(to: &mut Registrar) -> FigureGauges {
        FigureGauges {
            id: to.gauges("etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.", &["server_id"]),
            version: to.gauges("etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.", &["server_version"]),
            cluster_version: to.gauges("etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version", &["cluster_version"]),
            product_version: to.gauges("instar_version", "Which version of Instar is running.", &["version"]),
            has_leader: to.gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not."),
            is_leader: to.gauge("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise."),
            is_learner: to.gauge("etcd_server_is_learner", "Whether or not this member is a learner. 1 if is, 0 otherwise."),
            revision: to.gauge("etcd_debugging_mvcc_current_revision", "The current revision of store."),
            committed: to.gauge("etcd_server_proposals_committed_total", "The total number of consensus proposals committed."),
            applied: to.gauge("etcd_server_proposals_applied_total", "The total number of consensus proposals applied."),
            pending: to.gauge("etcd_server_proposals_pending", "The current number of pending proposals to commit."),
            size: to.gauge("etcd_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes."),
            debugging_size: to.gauge("etcd_debugging_mvcc_db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes."),
            size_in_use: to.gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes."),
            quota: to.gauge("etcd_server_quota_backend_bytes", "Current backend storage quota size in bytes."),
            known_peers: to.gauges("etcd_network_known_peers", "The current number of known peers.", &["Local", "Remote"]),
            apply_lag: to.gauge("instar_apply_queue_entries", "Committed entries that wait to be applied."),
            open_files: to.gauge("os_fd_used", "The number of used file descriptors."),
            file_limit: to.gauge("os_fd_limit", "The file descriptor limit."),
        }
    }

    fn set(&self, figures: &Figures) {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let local = member_label(figures.member_id);
        self.id.with_label_values(&[&local]).set(1);
        self.version.with_label_values(&[figures.etcd_version]).set(1);
        // etcd tells it without the patch.
        let cluster_version = figures.cluster_version.trim_end_matches(".0");
        self.cluster_version.with_label_values(&[cluster_version]).set(1);
        self.product_version.with_label_values(&[figures.product_version]).set(1);
        self.has_leader.set(figures.has_leader.into());
        self.is_leader.set(figures.is_leader.into());
        self.is_learner.set(figures.is_learner.into());
        self.revision.set(number(figures.revision));
        self.committed.set(number(figures.proposals_committed));
        self.applied.set(number(figures.proposals_applied));
        self.pending.set(number(figures.proposals_pending));
        self.size.set(number(figures.db_size_bytes));
        self.debugging_size.set(number(figures.db_size_bytes));
        self.size_in_use.set(number(figures.db_size_in_use_bytes));
        self.quota.set(figures.quota_bytes);
        self.known_peers.reset();
        self.known_peers.with_label_values(&[&local, &local]).set(1);
        for peer in &figures.peers {
            self.known_peers.with_label_values(&[&local, &member_label(*peer)]).set(1);
        }
        let lag = figures.proposals_committed.saturating_sub(figures.proposals_applied);
        self.apply_lag.set(number(lag));
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.file_limit.set(limit.map_or(-1, number));
        // Where there is no /proc, it is not known.
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count());
        self.open_files.set(number(open as u64));
    }
}
