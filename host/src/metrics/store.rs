//! What is counted of the store: operations, leases, watches, and the rarer works on the disk.

use prometheus::{Histogram, IntCounter, IntGauge};

use super::DOUBLING_FROM_1_MS;
use super::registrar::Registrar;

/// Operations as etcd counts them: those of a transaction one by one.
pub struct Operations {
    pub ranges: IntCounter,
    pub puts: IntCounter,
    pub deletes: IntCounter,
    /// Requests of more than one operation.
    pub txns: IntCounter,
    pub slow_applies: IntCounter,
    pub slow_read_indexes: IntCounter,
    pub learners_promoted: IntCounter,
}

impl Operations {
    pub(super) fn new(to: &mut Registrar) -> Operations {
        Operations {
            ranges: to
                .counter("etcd_mvcc_range_total", "Total number of ranges seen by this member."),
            puts: to.counter("etcd_mvcc_put_total", "Total number of puts seen by this member."),
            deletes: to
                .counter("etcd_mvcc_delete_total", "Total number of deletes seen by this member."),
            txns: to.counter("etcd_mvcc_txn_total", "Total number of txns seen by this member."),
            slow_applies: to.counter(
                "etcd_server_slow_apply_total",
                "The total number of slow apply requests (likely overloaded from slow disk).",
            ),
            slow_read_indexes: to.counter(
                "etcd_server_slow_read_indexes_total",
                "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            ),
            learners_promoted: to.counter(
                "etcd_server_learner_promote_successes",
                "The total number of successful learner promotions while this member is leader.",
            ),
        }
    }
}

pub struct Leases {
    pub granted: IntCounter,
    pub revoked: IntCounter,
    pub renewed: IntCounter,
    pub expired: IntCounter,
    pub ttl_seconds: Histogram,
}

impl Leases {
    pub(super) fn new(to: &mut Registrar) -> Leases {
        Leases {
            granted: to.counter(
                "etcd_debugging_lease_granted_total",
                "The total number of granted leases.",
            ),
            revoked: to.counter(
                "etcd_debugging_lease_revoked_total",
                "The total number of revoked leases.",
            ),
            renewed: to.counter(
                "etcd_debugging_lease_renewed_total",
                "The number of renewed leases seen by the leader.",
            ),
            expired: to.counter(
                "etcd_debugging_server_lease_expired_total",
                "The total number of expired leases.",
            ),
            // A second to three months.
            ttl_seconds: to.histogram(
                "etcd_debugging_lease_ttl_total",
                "Bucketed histogram of lease TTLs.",
                (1.0, 2.0, 24),
            ),
        }
    }
}

pub struct Watches {
    pub streams: IntGauge,
    pub watchers: IntGauge,
    /// Those that are not told of batches as they come.
    pub slow_watchers: IntGauge,
    pub events: IntCounter,
    /// In the outboxes of streams.
    pub pending_events: IntGauge,
}

impl Watches {
    pub(super) fn new(to: &mut Registrar) -> Watches {
        Watches {
            streams: to
                .gauge("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams."),
            watchers: to.gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers."),
            slow_watchers: to.gauge(
                "etcd_debugging_mvcc_slow_watcher_total",
                "Total number of unsynced slow watchers.",
            ),
            events: to.counter(
                "etcd_debugging_mvcc_events_total",
                "Total number of events sent by this member.",
            ),
            pending_events: to.gauge(
                "etcd_debugging_mvcc_pending_events_total",
                "Total number of pending events to be sent.",
            ),
        }
    }
}

/// What is done now and then, on behalf of operators and other members.
pub struct Works {
    pub hash_seconds: Histogram,
    pub hash_rev_seconds: Histogram,
    pub defragment_seconds: Histogram,
    pub defragmenting: IntGauge,
    pub snapshot_seconds: Histogram,
    pub installing: IntGauge,
    pub wal_write_seconds: Histogram,
}

impl Works {
    pub(super) fn new(to: &mut Registrar) -> Works {
        Works {
            hash_seconds: to.histogram(
                "etcd_mvcc_hash_duration_seconds",
                "The latency distribution of storage hash operation.",
                (0.01, 2.0, 15),
            ),
            hash_rev_seconds: to.histogram(
                "etcd_mvcc_hash_rev_duration_seconds",
                "The latency distribution of storage hash by revision operation.",
                (0.01, 2.0, 15),
            ),
            defragment_seconds: to.histogram(
                "etcd_disk_backend_defrag_duration_seconds",
                "The latency distribution of backend defragmentation.",
                (0.1, 2.0, 13),
            ),
            defragmenting: to.gauge(
                "etcd_disk_defrag_inflight",
                "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            ),
            snapshot_seconds: to.histogram(
                "etcd_disk_backend_snapshot_duration_seconds",
                "The latency distribution of backend snapshots.",
                (0.01, 2.0, 17),
            ),
            installing: to.gauge(
                "etcd_server_snapshot_apply_in_progress_total",
                "1 if the server is applying the incoming snapshot. 0 if none.",
            ),
            wal_write_seconds: to.histogram(
                "etcd_disk_wal_write_duration_seconds",
                "The latency distributions of write called by WAL.",
                DOUBLING_FROM_1_MS,
            ),
        }
    }
}
