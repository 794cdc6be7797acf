//! Metrics beside etcd's: names, types, help and labels; and that the values are true.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use tests::case::{Scene, Verdict};
use tests::cluster::{POLL_EVERY, Plan, Program, READY_WITHIN, etcd_programs};

use crate::raw;

/// What etcd's dashboard and alert rules (contrib/mixin) ask for.
const DASHBOARD: [&str; 25] = [
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_peer_sent_bytes_total",
    "etcd_server_has_leader",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds",
    "grpc_server_msg_received_total",
    "grpc_server_msg_sent_total",
    "grpc_server_started_total",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
];

/// Metrics that etcd's release does not have with these flags, or no more; dashboards of old do.
const ONLY_HERE: [&str; 1] = ["etcd_debugging_mvcc_db_total_size_in_bytes"];

/// What a live etcd prints and this server does not, by the beginnings of names, each with its reason.
const EXCEPTIONS: [(&str, &str); 30] = [
    ("go_", "nothing here is Go's"),
    ("promhttp_", "of Go's handler"),
    ("process_network_", "of Go's collector"),
    ("process_virtual_memory_max_bytes", "of Go's collector"),
    ("etcd_server_go_version", "nothing here is Go's"),
    ("etcd_grpc_proxy_", "there is no proxy in a member"),
    ("etcd_debugging_store_", "of the API of version 2"),
    ("etcd_debugging_auth_revision", "of authentication"),
    ("etcd_server_feature_enabled", "there are no feature gates"),
    ("etcd_debugging_disk_backend_commit_", "phases of a commit of bbolt's"),
    ("etcd_mvcc_db_open_read_transactions", "views are no transactions, and cost nothing"),
    ("etcd_debugging_mvcc_db_compaction_", "steps of the log, not one work"),
    ("etcd_debugging_mvcc_index_compaction_", "steps of the log, not one work"),
    ("etcd_debugging_mvcc_compact_revision", "known to the machine alone"),
    ("etcd_debugging_mvcc_keys_total", "known to the machine alone"),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", "the host reads no keys and values"),
    ("etcd_debugging_server_watch_send_loop_", "there are no such loops"),
    ("etcd_debugging_snap_save_", "snapshots are views; nothing is marshalled"),
    ("etcd_snap_", "snapshots are views, written only for members that need one"),
    (
        "etcd_server_apply_duration_seconds",
        "entries are applied in batches: instar_guest_apply_duration_seconds",
    ),
    ("etcd_server_range_duration_seconds", "grpc_server_handling_seconds has it"),
    ("etcd_server_request_duration_seconds", "grpc_server_handling_seconds has it"),
    ("etcd_server_heartbeat_send_failures_total", "openraft does not tell of late heartbeats"),
    ("etcd_network_active_peers", "connections to peers are raft's own"),
    ("etcd_network_disconnected_peers_total", "connections to peers are raft's own"),
    ("etcd_network_peer_received_failures_total", "what is refused is not counted"),
    ("etcd_network_snapshot_", "a snapshot is one call among others"),
    ("etcd_network_server_stream_failures_total", "of etcd's interceptor"),
    ("etcd_server_learner_promote_failures", "a refusal is an answer"),
    ("etcd_server_client_requests_total", "grpc_server_started_total has it"),
];

/// A page of metrics.
#[derive(Default, Debug)]
struct Page {
    types: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
    /// Values by name and labels, as they are written.
    values: BTreeMap<String, f64>,
}

impl Page {
    async fn of(address: &str) -> Result<Page> {
        let text = raw::http(address, "GET", "/metrics").await?.body;
        let mut page = Page::default();
        for line in text.lines() {
            let part =
                |prefix| line.strip_prefix(prefix).and_then(|rest: &str| rest.split_once(' '));
            if let Some((name, kind)) = part("# TYPE ") {
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if let Some((name, help)) = part("# HELP ") {
                page.helps.insert(name.to_owned(), help.to_owned());
            } else if let Some((series, value)) = line.rsplit_once(' ') {
                page.values.insert(series.to_owned(), value.parse().context(line.to_owned())?);
            }
        }
        ensure!(!page.types.is_empty(), "no metrics: {text}");
        Ok(page)
    }

    /// The names of the labels that a metric's series have.
    fn labels(&self, name: &str) -> BTreeSet<BTreeSet<String>> {
        let ours = self.values.keys().filter(|series| {
            let end = series.find('{').unwrap_or(series.len());
            let plain = series[..end].trim_end_matches("_bucket");
            plain == name || series[..end] == *name
        });
        ours.map(|series| {
            let labels = series.split_once('{').map_or("", |(_, labels)| labels);
            let parts = labels.split("\",");
            parts.filter_map(|part| Some(part.split_once("=\"")?.0.to_owned())).collect()
        })
        .collect()
    }

    /// The sum of the series that begin so.
    fn sum(&self, beginning: &str) -> f64 {
        let found = self.values.iter().filter(|(series, _)| series.starts_with(beginning));
        found.map(|(_, value)| value).sum()
    }
}

/// Names, types, help and labels are those of etcd; what dashboards ask for is there.
pub async fn names_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let start = async |program, name| {
        let plan = Plan::new(program, 3, &scene.directory.join(name)).flag("metrics", "extensive");
        let cluster = plan.start().await?;
        for at in 0..3 {
            cluster.client(at).put("k", "v").await?;
            raw::http(&cluster.members[at].address, "GET", "/readyz").await?;
        }
        anyhow::Ok(cluster)
    };
    let etcd = start(Program::Etcd, "etcd").await?;
    let subject = start(scene.subject, "subject").await?;
    for at in 0..3 {
        let wanted = Page::of(&etcd.members[at].address).await?;
        let page = Page::of(&subject.members[at].address).await?;
        for name in DASHBOARD {
            // Only a leader sends, and only a follower receives.
            let per_peer = name.starts_with("etcd_network_peer_");
            ensure!(per_peer || page.types.contains_key(name), "{name} is missing");
        }
        for name in wanted.types.keys() {
            // Only a leader sends, and only a follower receives.
            let is_excepted = name.starts_with("etcd_network_peer_")
                || EXCEPTIONS.iter().any(|(beginning, _)| name.starts_with(beginning));
            ensure!(
                is_excepted || page.types.contains_key(name),
                "etcd has {name}, and there is no reason not to"
            );
        }
        let theirs = |name: &&String| !name.starts_with("instar_") && *name != "process_threads";
        for name in page.types.keys().filter(theirs) {
            if ONLY_HERE.contains(&name.as_str()) {
                continue;
            }
            ensure!(
                wanted.types.contains_key(name) || name.starts_with("etcd_network_peer_"),
                "etcd has no {name}"
            );
            let Some(kind) = wanted.types.get(name) else { continue };
            ensure!(page.types[name] == *kind, "{name} is a {}, not a {kind}", page.types[name]);
            if name.starts_with("process_") {
                continue;
            }
            ensure!(page.helps[name] == wanted.helps[name], "help of {name}: {}", page.helps[name]);
            let (here, there) = (page.labels(name), wanted.labels(name));
            ensure!(here.is_subset(&there), "labels of {name}: {here:?}, etcd: {there:?}");
        }
    }
    Ok(Verdict::Passed)
}

/// What the metrics say is what happened.
pub async fn values_are_true(scene: Scene) -> Result<Verdict> {
    const PUTS: u32 = 25;
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let client = cluster.client(0);
    let before = Page::of(&cluster.members[0].address).await?;
    for number in 0..PUTS {
        client.put(&format!("k{number}"), "v").await?;
    }
    let refused = client.put("", "v").await;
    ensure!(refused.is_err(), "an empty key was taken");
    // A heartbeat makes a round trip; the leader sends one in a while.
    let beat = async || -> Result<f64> {
        let mut beats = 0.0;
        for member in &cluster.members {
            let page = Page::of(&member.address).await?;
            beats += page.sum("etcd_network_peer_round_trip_time_seconds_count");
        }
        Ok(beats)
    };
    let waited = std::time::Instant::now();
    while beat().await? == 0.0 {
        ensure!(waited.elapsed() < READY_WITHIN, "no heartbeat was measured");
        tokio::time::sleep(POLL_EVERY).await;
    }
    let mut leaders = 0.0;
    let mut sent = 0.0;
    for member in &cluster.members {
        let page = Page::of(&member.address).await?;
        leaders += page.sum("etcd_server_is_leader");
        sent += page.sum("etcd_network_peer_sent_bytes_total");
        let value = |name: &str| page.values.get(name).copied().unwrap_or(f64::NAN);
        ensure!(value("etcd_server_has_leader") == 1.0, "no leader is known");
        ensure!(value("etcd_disk_wal_fsync_duration_seconds_count") > 0.0, "no fsync");
        ensure!(value("etcd_server_leader_changes_seen_total") >= 1.0, "no leader was seen");
        ensure!(value("process_resident_memory_bytes") > 1e6, "no memory");
        ensure!(value("etcd_server_proposals_applied_total") >= f64::from(PUTS), "nothing applied");
    }
    ensure!(leaders == 1.0, "{leaders} leaders");
    ensure!(sent > 0.0, "nothing was sent to peers");
    let after = Page::of(&cluster.members[0].address).await?;
    let put = |code: &str| {
        let labels = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
        let series = format!("grpc_server_handled_total{{grpc_code=\"{code}\",{labels}}}");
        after.sum(&series) - before.sum(&series)
    };
    ensure!(put("OK") == f64::from(PUTS), "{} puts were handled", put("OK"));
    ensure!(put("InvalidArgument") == 1.0, "{} puts were refused", put("InvalidArgument"));
    let grown = |name: &str| after.sum(name) - before.sum(name);
    ensure!(grown("etcd_network_client_grpc_received_bytes_total") > f64::from(PUTS), "no bytes");
    ensure!(grown("etcd_network_client_grpc_sent_bytes_total") > f64::from(PUTS), "no bytes");
    ensure!(grown("etcd_debugging_mvcc_current_revision") == f64::from(PUTS), "the revision");
    ensure!(grown("etcd_server_proposals_failed_total") == 0.0, "proposals failed");
    if scene.is_instar() {
        ensure!(grown("instar_guest_fuel_total") > 0.0, "no fuel");
        ensure!(grown("instar_guest_apply_duration_seconds_count") > 0.0, "no batch");
        ensure!(grown("instar_apply_batch_entries_sum") >= f64::from(PUTS), "no entries");
    }
    Ok(Verdict::Passed)
}
