//! What is looked up when the metrics are asked for.

use prometheus::{IntGauge, IntGaugeVec};

use super::member_label;
use super::registrar::Registrar;

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

pub(super) struct FigureGauges {
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

impl FigureGauges {
    pub(super) fn new(to: &mut Registrar) -> FigureGauges {
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

    pub(super) fn set(&self, figures: &Figures) {
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
