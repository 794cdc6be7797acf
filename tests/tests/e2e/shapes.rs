//! Answers that are not part of the random stream: limits, status, members, HTTP. Both programs run with
//! etcd's defaults.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::grpc::health::v1::HealthCheckRequest;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, Plan, Program, etcd_programs};
use tests::differential::Call;

use crate::raw;

/// etcd's default limits.
const MAX_REQUEST_BYTES: usize = 1_572_864;
const MAX_TXN_OPS: usize = 128;
/// What etcd's gRPC accepts beyond the limit on a request.
const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
/// What the largest request has beside its value: tags, lengths, the key, etcd's own request id, whose
/// length is a matter of luck.
const ENVELOPE_BYTES_MAX: usize = 64;

/// etcd, then the program under test; one member each.
async fn both(scene: &Scene) -> Result<[Cluster; 2]> {
    let start = |program, name| Plan::new(program, 1, &scene.directory.join(name)).start();
    let (etcd, subject) =
        tokio::try_join!(start(Program::Etcd, "etcd"), start(scene.subject, "subject"))?;
    Ok([etcd, subject])
}

/// Requests at and beyond each limit are answered as by etcd.
pub async fn limits_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let clusters = both(&scene).await?;
    let [etcd, subject] = clusters.each_ref().map(|cluster| cluster.client(0));
    let mut calls = Vec::new();
    let grpc_limit = MAX_REQUEST_BYTES + GRPC_OVERHEAD_BYTES;
    let lengths = [
        MAX_REQUEST_BYTES - ENVELOPE_BYTES_MAX,
        MAX_REQUEST_BYTES,
        grpc_limit - 100,
        grpc_limit - 12,
        grpc_limit,
        2 * grpc_limit,
    ];
    calls.extend(lengths.map(put_of));
    for (compares, gets, nested) in [
        (128, 0, 0),
        (129, 0, 0),
        (0, 128, 0),
        (0, 129, 0),
        (1, 127, 1),
        (1, 126, 2),
        (64, 64, 64),
        (2, 3, 126),
        (0, 0, 129),
    ] {
        calls.push(txn_of(compares, gets, nested));
    }
    for call in calls {
        let (etcd, subject) = tokio::join!(call.send(&etcd), call.send(&subject));
        let mut shown = format!("{call:?}");
        shown.truncate(100);
        ensure!(etcd == subject, "{shown}\n  etcd: {etcd:?}\n  here: {subject:?}");
    }
    Ok(Verdict::Passed)
}

fn put_of(value_bytes: usize) -> Call {
    let value = vec![b'v'; value_bytes].into();
    Call::Put(pb::PutRequest { key: "large".into(), value, ..Default::default() })
}

/// A transaction with so many compares and gets, and a nested one with so many gets.
fn txn_of(compares: usize, gets: usize, nested: usize) -> Call {
    assert!(compares.max(gets).max(nested) <= MAX_TXN_OPS + 1);
    let get = || {
        let range = pb::RangeRequest { key: "k".into(), ..Default::default() };
        pb::RequestOp { request: Some(Request::RequestRange(range)) }
    };
    let inner = pb::TxnRequest { success: vec![get(); nested], ..Default::default() };
    let mut success = vec![get(); gets];
    if nested > 0 {
        success.push(pb::RequestOp { request: Some(Request::RequestTxn(inner)) });
    }
    let compare = vec![pb::Compare { key: "k".into(), ..Default::default() }; compares];
    Call::Txn(pb::TxnRequest { compare, success, ..Default::default() })
}

/// What a client sees of the cluster, but for what has to differ.
#[derive(PartialEq, Debug)]
struct Shape {
    version: String,
    storage_version: String,
    quota_bytes: i64,
    errors: Vec<String>,
    is_learner: bool,
    leads_itself: bool,
    downgrade: Option<pb::DowngradeInfo>,
    has_sizes: bool,
    indexes_in_order: bool,
    revision: i64,
    members: Vec<(String, usize, usize, bool)>,
    members_revision: i64,
    /// Whether the ids in both headers are the ids in the answers.
    ids_agree: bool,
    health: Result<i32, String>,
    health_of_nothing: Result<i32, String>,
}

async fn shape(client: &Client) -> Result<Shape> {
    client.put("k", "v").await?;
    let status = client.status().await.context("status")?;
    let header = status.header.unwrap_or_default();
    let request = pb::MemberListRequest { linearizable: true };
    let list = client.cluster.clone().member_list(request).await.context("members")?.into_inner();
    let list_header = list.header.unwrap_or_default();
    let health = async |service: &str| {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = client.health.clone().check(request).await;
        answer.map(|answer| answer.into_inner().status).map_err(|status| status.to_string())
    };
    Ok(Shape {
        leads_itself: status.leader == header.member_id,
        downgrade: status.downgrade_info,
        has_sizes: status.db_size > 0 && status.db_size >= status.db_size_in_use,
        indexes_in_order: status.raft_applied_index <= status.raft_index
            && status.raft_applied_index > 0
            && status.raft_term == header.raft_term,
        version: status.version,
        storage_version: status.storage_version,
        quota_bytes: status.db_size_quota,
        errors: status.errors,
        is_learner: status.is_learner,
        revision: header.revision,
        ids_agree: list.members.iter().any(|member| member.id == header.member_id)
            && header.cluster_id == list_header.cluster_id
            && header.member_id == list_header.member_id,
        members: list
            .members
            .into_iter()
            .map(|m| (m.name, m.peer_ur_ls.len(), m.client_ur_ls.len(), m.is_learner))
            .collect(),
        members_revision: list_header.revision,
        health: health("").await,
        health_of_nothing: health("nothing").await,
    })
}

/// Status, MemberList and Health have etcd's shape; services that are not there say so.
pub async fn status_and_members_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let clusters = both(&scene).await?;
    wait_cluster_version(&clusters).await?;
    let etcd = shape(&clusters[0].client(0)).await.context("etcd")?;
    let subject = shape(&clusters[1].client(0)).await.context("the subject")?;
    ensure!(etcd == subject, "\n  etcd: {etcd:#?}\n  here: {subject:#?}");
    let address = &clusters[1].members[0].address;
    for path in ["/etcdserverpb.KV/NoSuchMethod", "/no.such.Service/Method"] {
        let told = [&clusters[0].members[0].address, address];
        let [etcd, subject] = told.map(|at| raw::grpc_answer(at, path, raw::framed(&[])));
        let (etcd, subject) = tokio::try_join!(etcd, subject)?;
        ensure!(etcd == subject, "{path}\n  etcd: {etcd}\n  here: {subject}");
    }
    Ok(Verdict::Passed)
}

/// etcd settles its cluster's and its storage's version a moment after it serves.
async fn wait_cluster_version(clusters: &[Cluster]) -> Result<()> {
    for cluster in clusters {
        let member = &cluster.members[0];
        let client = member.client();
        let settled = async || match client.status().await {
            Ok(status)
                if status.storage_version.is_empty() || status.storage_version == "3.5.0" =>
            {
                Err(tonic::Status::unavailable("the versions are not settled"))
            }
            other => other,
        };
        member.wait_answer(settled).await?;
    }
    Ok(())
}

/// The HTTP endpoints answer as etcd's.
pub async fn http_is_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let clusters = both(&scene).await?;
    wait_cluster_version(&clusters).await?;
    let paths = [
        "/version",
        "/health",
        "/health?serializable=true",
        "/health?exclude=NOSPACE",
        "/livez",
        "/livez?verbose",
        "/livez/serializable_read",
        "/livez?exclude=serializable_read&verbose",
        "/readyz",
        "/readyz?verbose",
        "/readyz/linearizable_read",
        "/readyz/nothing",
        "/nothing",
    ];
    let wanted = paths.iter().map(|path| ("GET", *path));
    for (method, path) in wanted.chain([("POST", "/health"), ("PUT", "/version")]) {
        let told = [0, 1].map(|at| raw::http(&clusters[at].members[0].address, method, path));
        let [etcd, subject] = told;
        let (mut etcd, mut subject) = tokio::try_join!(etcd, subject)?;
        if path.contains("verbose") {
            // etcd runs its checks in a random order.
            etcd.sort_lines();
            subject.sort_lines();
        }
        ensure!(etcd == subject, "{method} {path}\n  etcd: {etcd:?}\n  here: {subject:?}");
    }
    // A client that speaks gRPC finds nothing odd on the same port.
    let answer = raw::framed(Bytes::new().as_ref());
    let told = raw::grpc_answer(&clusters[1].members[0].address, "/etcdserverpb.KV/Range", answer);
    ensure!(told.await?.starts_with("3 "), "an empty range is an invalid argument");
    Ok(Verdict::Passed)
}
