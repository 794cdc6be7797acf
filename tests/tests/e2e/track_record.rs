//! Those of etcd's known correctness bugs that were no watch bugs of one member, by the numbers of their issues;
//! docs/track-record.md has them all.

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Plan, Program};
use tests::load::Ledger;
use tests::watching::{Told, Watching, channel};
use tonic::Code;

use crate::membership::got_snapshot;

/// Entries that the others keep; how many are written while a member is away for the first time, which is far more; and
/// how often it is away, each time for twice as many.
const SNAPSHOT_COUNT: u64 = 100;
const MISSED_PUTS: u64 = 16_000;
const MOST_ROUNDS: u32 = 5;
const WATCHED_PUTS: usize = 20;

/// In etcd, a member that had been cut off and was sent a snapshot told its watchers of events that they had been told
/// of before.
pub async fn a_watch_goes_on_over_a_snapshot_15271(scene: Scene) -> Result<Verdict> {
    let mut plan =
        Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", SNAPSHOT_COUNT);
    if scene.subject == Program::Etcd {
        plan = plan.flag("snapshot-catchup-entries", SNAPSHOT_COUNT);
    }
    let mut cluster = plan.start().await?;
    let behind = (cluster.leader().await? + 1) % 3;
    let writer = cluster.client((behind + 1) % 3);
    let up: Vec<String> =
        (0..3).filter(|&at| at != behind).map(|at| cluster.members[at].address.clone()).collect();
    let request =
        pb::WatchCreateRequest { key: "w".into(), start_revision: 1, ..Default::default() };
    let watcher = Watching::open(channel(&cluster.members[behind].address), request).await?;
    let mut expected = put_some(&writer).await?;
    watcher.wait("what came before", |log| log.events(0) == expected.len()).await?;

    // Whether the others have let go of what it misses cannot be seen from outside: as long as they take it to be there,
    // they keep what they are sending it. It misses more, until it is sent a snapshot.
    let ledger = Ledger::start("missed", &up, 64);
    let mut round = 0;
    while !got_snapshot(&cluster.members[behind].log()) {
        ensure!(round < MOST_ROUNDS, "it was sent no snapshot");
        cluster.members[behind].pause()?;
        cluster.members[(behind + 1) % 3].wait_answer(async || writer.get("w").await).await?;
        expected.extend(put_some(&writer).await?);
        ledger.wait_progress(MISSED_PUTS << round).await?;
        expected.extend(put_some(&writer).await?);
        cluster.members[behind].resume()?;
        watcher.wait("what it missed", |log| log.events(0) >= expected.len()).await?;
        round += 1;
    }
    expected.extend(put_some(&writer).await?);
    watcher.wait("what came after", |log| log.events(0) >= expected.len()).await?;
    ledger.settle(&writer).await?;

    let told =
        watcher.log(|log| log.told.values().flatten().filter_map(revision).collect::<Vec<_>>());
    ensure!(told == expected, "{told:?}, not {expected:?}");
    scene.note(format!("a snapshot in round {round}"));
    Ok(Verdict::Passed)
}

async fn put_some(client: &Client) -> Result<Vec<i64>> {
    let mut revisions = Vec::new();
    for _ in 0..WATCHED_PUTS {
        let answer = client.put("w", "v").await?;
        revisions.push(answer.header.unwrap_or_default().revision);
    }
    Ok(revisions)
}

fn revision(told: &Told) -> Option<i64> {
    match told {
        Told::Event { event, .. } => event.kv.as_ref().map(|kv| kv.mod_revision),
        _ => None,
    }
}

const ROUNDS: u64 = 5;
const DEAD_REVISIONS: usize = 400;

/// In etcd, the revision was the highest that the rows had: a crash between the removal of the last rows and the note of
/// the compaction took it back.
pub async fn the_revision_stays_after_a_compaction_17780(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    for round in 0..ROUNDS * scene.campaign {
        let client = cluster.client(0);
        for _ in 0..DEAD_REVISIONS {
            client.put("k", "v").await?;
        }
        let request = pb::DeleteRangeRequest { key: "k".into(), ..Default::default() };
        let deleted = client.kv.clone().delete_range(request).await?.into_inner();
        let revision = deleted.header.unwrap_or_default().revision;
        let request = pb::CompactionRequest { revision, physical: round % 2 == 0 };
        client.kv.clone().compact(request).await?;
        cluster.members[0].kill();
        cluster.members[0].start().await?;
        let client = cluster.client(0);
        let read = cluster.members[0].wait_answer(async || client.get("k").await).await?;
        let now = read.header.unwrap_or_default().revision;
        ensure!(now == revision, "{now} after the crash, {revision} before");
        let put = client.put("k", "v").await?.header.unwrap_or_default().revision;
        ensure!(put == revision + 1, "{put} comes after {revision}");
    }
    Ok(Verdict::Passed)
}

/// In etcd, a transaction that read a compacted revision had its writes carried out by the members that had compacted
/// later.
pub async fn a_compacted_read_writes_nothing_18667(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let client = cluster.client(0);
    let first = client.put("a", "1").await?.header.unwrap_or_default().revision;
    client.put("a", "2").await?;
    let last = client.put("a", "3").await?.header.unwrap_or_default().revision;
    let request = pb::CompactionRequest { revision: last, physical: false };
    client.kv.clone().compact(request).await?;

    let put = pb::PutRequest { key: "b".into(), value: "v".into(), ..Default::default() };
    let range = pb::RangeRequest { key: "a".into(), revision: first, ..Default::default() };
    let success = vec![
        pb::RequestOp { request: Some(Request::RequestPut(put)) },
        pb::RequestOp { request: Some(Request::RequestRange(range)) },
    ];
    let inner = pb::TxnRequest { success: success.clone(), ..Default::default() };
    let nested = vec![pb::RequestOp { request: Some(Request::RequestTxn(inner)) }];
    for success in [success, nested] {
        let transaction = pb::TxnRequest { success, ..Default::default() };
        let refused =
            client.kv.clone().txn(transaction).await.err().context("it was carried out")?;
        ensure!(refused.code() == Code::OutOfRange, "{refused}");
        let read = client.get("b").await?;
        ensure!(read.count == 0, "it has written");
        ensure!(read.header.unwrap_or_default().revision == last, "it has a revision");
    }
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}
