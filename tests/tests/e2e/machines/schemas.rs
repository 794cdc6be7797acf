//! A machine with another schema takes over while clients write, is taken back, and comes to stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::instar::v1 as machine_pb;
use tests::case::{Scene, Verdict};
use tests::client::{Client, prefix};
use tests::cluster::{Cluster, Plan, instarctl};
use tokio::process::Command;

use super::{machines_of, put};

const WRITERS: usize = 6;
/// Keys that are there before: some steps of the migration.
const KEYS: usize = 12_000;
const KEYS_PER_TXN: usize = 100;
/// Directories that are counted again and again.
const DIRECTORIES: [&str; 4] = ["seed/", "seed/3/", "busy/1/", "busy/"];
const PATIENCE: Duration = Duration::from_secs(30);

/// What runs, stands, or is left, in one place to stop and to count.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    writes: AtomicU64,
    counts: AtomicU64,
}

/// Keys come and go in a few directories. A request may fail while a leader is killed.
async fn write(client: Client, writer: usize, load: Arc<Load>) {
    let mut number = 0;
    while !load.stop.load(Ordering::Relaxed) {
        let directory = format!("busy/{writer}/{}/", number % 5);
        let done = match number % 11 {
            10 => {
                let pb::RangeRequest { key, range_end, .. } = prefix(&directory);
                let request = pb::DeleteRangeRequest { key, range_end, ..Default::default() };
                client.kv.clone().delete_range(request).await.is_ok()
            }
            _ => client.put(&format!("{directory}{}", number % 37), "value").await.is_ok(),
        };
        load.writes.fetch_add(u64::from(done), Ordering::Relaxed);
        number += 1;
    }
}

/// A count and a list, of one state.
async fn compare(client: &Client, directory: &str) -> Result<bool> {
    let ask = |request: pb::RangeRequest| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestRange(request)),
    };
    let count = pb::RangeRequest { count_only: true, ..prefix(directory) };
    let list = pb::RangeRequest { keys_only: true, ..prefix(directory) };
    let txn = pb::TxnRequest { success: vec![ask(count), ask(list)], ..Default::default() };
    let Ok(answer) = client.txn(txn).await else { return Ok(false) };
    let ranges: Vec<_> = answer
        .responses
        .into_iter()
        .filter_map(|response| match response.response {
            Some(pb::response_op::Response::ResponseRange(range)) => Some(range),
            _ => None,
        })
        .collect();
    let [count, list] = ranges.as_slice() else { anyhow::bail!("two ranges have two answers") };
    ensure!(
        count.count == list.kvs.len() as i64,
        "{directory} has {} keys, and {} are counted",
        list.kvs.len(),
        count.count
    );
    Ok(true)
}

async fn count(client: Client, load: Arc<Load>) -> Result<()> {
    while !load.stop.load(Ordering::Relaxed) {
        for directory in DIRECTORIES {
            let done = compare(&client, directory).await?;
            load.counts.fetch_add(u64::from(done), Ordering::Relaxed);
        }
    }
    Ok(())
}

async fn seed(client: &Client) -> Result<()> {
    for first in (0..KEYS).step_by(KEYS_PER_TXN) {
        let put = |number: usize| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: format!("seed/{}/{number}", number % 40).into(),
                ..Default::default()
            })),
        };
        let success = (first..first + KEYS_PER_TXN).map(put).collect();
        client.txn(pb::TxnRequest { success, ..Default::default() }).await?;
    }
    Ok(())
}

async fn listed(cluster: &Cluster, at: usize) -> Result<machine_pb::Machines> {
    Ok(machines_of(cluster, at).await?.list(machine_pb::ListRequest {}).await?.into_inner())
}

/// Waits until something is so.
async fn wait<F: Future<Output = Result<bool>>>(what: &str, is_so: impl Fn() -> F) -> Result<()> {
    let started = Instant::now();
    while !is_so().await.unwrap_or(false) {
        ensure!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The upgrade, the way back, and the upgrade once more; a member restarts in between. Returns the new machine.
async fn upgrade(cluster: &mut Cluster, load: &Load) -> Result<Bytes> {
    let mut client = machines_of(cluster, 0).await?;
    let digest = put(&mut client, &Bytes::from_static(machines::KV_1_1)).await?.digest;
    let request = machine_pb::PrepareRequest { digest: digest.clone() };
    let before = client.prepare(request).await?.into_inner();
    let prepared =
        before.components.iter().find(|it| it.digest == digest).context("it is there")?;
    for voter in &prepared.voters {
        let rehearsal = voter.rehearsal.as_ref().context("its migration was rehearsed")?;
        let steps = (KEYS / 2_000) as u64..=(KEYS / 100) as u64;
        ensure!(rehearsal.is_whole && steps.contains(&rehearsal.steps), "{rehearsal:?}");
    }
    let activate = machine_pb::ActivateRequest { digest: digest.clone(), ..Default::default() };
    for expected in [&digest, &before.active, &digest] {
        let after = match *expected == digest {
            true => client.activate(activate.clone()).await?,
            false => client.rollback(machine_pb::RollbackRequest::default()).await?,
        };
        let after = after.into_inner();
        ensure!(after.active == *expected, "another machine is active than was asked for");
        ensure!(after.schema_version == 1 && after.migration.is_none(), "{after:?}");
        let counts = load.counts.load(Ordering::Relaxed);
        wait("counts", async || Ok(load.counts.load(Ordering::Relaxed) > counts + 8)).await?;
    }
    cluster.members[2].kill();
    cluster.members[2].start().await?;
    wait("the machine after a restart", async || Ok(listed(cluster, 2).await?.active == digest))
        .await?;
    Ok(digest)
}

/// Raises the schema, and kills the leader meanwhile.
async fn finalise(cluster: &mut Cluster) -> Result<u64> {
    let leader = cluster.leader().await?;
    let through = &cluster.members[(leader + 1) % 3].address;
    let mut command = Command::new(instarctl()?);
    command.args(["--endpoints", through, "machine", "finalise"]);
    let output = command.output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "finalise: {error}");
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("schema: 2"), "it says how it stands: {text}");
    let steps = listed(cluster, (leader + 1) % 3).await?.migration.map_or(u64::MAX, |it| it.steps);
    cluster.members[leader].kill();
    cluster.members[leader].start().await?;
    let mut command = Command::new(instarctl()?);
    command.args([
        "--endpoints",
        &cluster.members[leader].address,
        "machine",
        "finalise",
        "--wait",
    ]);
    let output = command.output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "finalise --wait: {error}");
    for at in 0..3 {
        wait("the migration is over", async || {
            let machines = listed(cluster, at).await?;
            Ok(machines.schema_version == 2 && machines.migration.is_none())
        })
        .await?;
    }
    Ok(steps)
}

/// No digest, no hash, and no count differs, on any member.
async fn compare_members(cluster: &Cluster) -> Result<i64> {
    let revision = cluster.wait_equal().await?;
    let mut hashes = Vec::new();
    for member in &cluster.members {
        let client = member.client();
        for directory in DIRECTORIES {
            ensure!(compare(&client, directory).await?, "a quiet cluster answers");
        }
        // Over all durable tables, those that count among them.
        let answer = client.maintenance.clone().hash(pb::HashRequest {}).await?;
        hashes.push(answer.into_inner().hash);
        ensure!(client.status().await?.errors.is_empty(), "an alarm was raised");
    }
    ensure!(hashes.iter().all(|hash| *hash == hashes[0]), "hashes of all tables: {hashes:?}");
    Ok(revision)
}

pub async fn a_schema_is_raised(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no machine to replace".to_owned()));
    }
    let plan = Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", 500);
    let mut cluster = plan.start().await?;
    seed(&cluster.client(0)).await?;
    let load = Arc::new(Load::default());
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write(cluster.client(writer % 2), writer, load.clone())))
        .collect();
    let counting = tokio::spawn(count(cluster.client(1), load.clone()));
    let digest = upgrade(&mut cluster, &load).await?;
    let begun = Instant::now();
    let steps = finalise(&mut cluster).await?;
    let took = begun.elapsed();
    let counts = load.counts.load(Ordering::Relaxed);
    wait("counts", async || Ok(load.counts.load(Ordering::Relaxed) > counts + 8)).await?;
    load.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await?;
    }
    counting.await?.context("while it was written")?;
    let revision = compare_members(&cluster).await?;
    let (writes, counts) =
        (load.writes.load(Ordering::Relaxed), load.counts.load(Ordering::Relaxed));
    scene.note(format!("{writes} writes, {counts} counts, equal at {revision}"));
    let leader_killed = match steps {
        u64::MAX => "after the last step".to_owned(),
        steps => format!("after step {steps}"),
    };
    scene.note(format!("raised in {took:?}, with the leader killed {leader_killed}"));

    let mut client = machines_of(&cluster, 1).await?;
    let refused = client.rollback(machine_pb::RollbackRequest::default()).await;
    let status = refused.expect_err("there is no way back");
    ensure!(status.message().contains("no previous machine"), "{status}");
    let built_in = listed(&cluster, 1).await?.components.into_iter().find(|it| it.digest != digest);
    let built_in = built_in.context("the machine before is still there")?.digest;
    let activate = machine_pb::ActivateRequest { digest: built_in, ..Default::default() };
    let status = client.activate(activate).await.expect_err("its schema is over");
    ensure!(status.message().contains("there is no way back"), "{status}");

    let newcomer = cluster.grow(0, false).await?;
    let log = cluster.members[newcomer].log();
    ensure!(log.contains("applied a snapshot"), "the newcomer was sent no snapshot");
    ensure!(
        listed(&cluster, newcomer).await?.active == digest,
        "the newcomer runs another machine"
    );
    cluster.client(newcomer).put("busy/1/after", "all").await?;
    compare_members(&cluster).await?;
    Ok(Verdict::Passed)
}
