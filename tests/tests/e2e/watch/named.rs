//! Those of etcd's known correctness bugs that were watch bugs, by the numbers of their issues.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use proto::mvccpb::event::EventType;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{POLL_EVERY, Plan};
use tests::watching::{Log, Told, Watching, channel};
use tonic::Code;
use tonic::transport::Channel;

pub async fn etcds_known_bugs(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let (client, channel) = (cluster.client(0), channel(&cluster.members[0].address));
    progress_only_after_all_events_15220(&client, &channel).await?;
    no_progress_before_a_future_revision_20221(&client, &channel).await?;
    a_deletion_at_the_compacted_revision_19179(&client, &channel).await?;
    no_deletion_is_lost_to_a_compaction_18089(&client, &channel).await?;
    Ok(Verdict::Passed)
}

fn on(key: &str, start_revision: i64) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.to_owned().into(), start_revision, ..Default::default() }
}

async fn put(client: &Client, key: &str) -> Result<i64> {
    Ok(client.put(key, "v").await?.header.unwrap_or_default().revision)
}

async fn delete(client: &Client, key: &str) -> Result<i64> {
    let request = pb::DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    let answer = client.kv.clone().delete_range(request).await?.into_inner();
    Ok(answer.header.unwrap_or_default().revision)
}

async fn compact(client: &Client, revision: i64) -> Result<()> {
    let request = pb::CompactionRequest { revision, physical: true };
    client.kv.clone().compact(request).await?;
    Ok(())
}

fn revisions(log: &Log) -> Vec<i64> {
    let revision = |told: &Told| match told {
        Told::Event { event, .. } => event.kv.as_ref().map(|kv| kv.mod_revision),
        _ => None,
    };
    log.told.values().flatten().filter_map(revision).collect()
}

/// While puts go on, a promised revision has everything up to it before it.
async fn progress_only_after_all_events_15220(client: &Client, channel: &Channel) -> Result<()> {
    const PUTS: usize = 2_000;
    let stream = Watching::open_with(channel.clone(), on("p", 0), true, false).await?;
    let writer = client.clone();
    let writing = tokio::spawn(async move {
        let mut revision = 0;
        for _ in 0..PUTS {
            revision = put(&writer, "p").await?;
        }
        anyhow::Ok(revision)
    });
    while !writing.is_finished() {
        stream.request_progress().await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let last = writing.await??;
    stream.wait("the last put", |log| log.events(0) == PUTS).await?;
    let responses = stream.log(|log| std::mem::take(&mut log.responses));
    let (mut promised, mut promises) = (0, 0);
    for response in responses.iter().filter(|response| !response.created) {
        match response.events.first().and_then(|event| event.kv.as_ref()) {
            Some(kv) => {
                ensure!(kv.mod_revision > promised, "{promised} was promised before {kv:?}")
            }
            None => {
                promised = response.header.unwrap_or_default().revision;
                promises += 1;
            }
        }
    }
    ensure!(promises > 0 && promised <= last, "{promises} promises");
    Ok(())
}

/// A watcher that begins later is promised nothing, and told nothing, before that.
async fn no_progress_before_a_future_revision_20221(
    client: &Client,
    channel: &Channel,
) -> Result<()> {
    let revision = put(client, "f").await?;
    let request = pb::WatchCreateRequest { progress_notify: true, ..on("f", revision + 3) };
    let stream = Watching::open(channel.clone(), request).await?;
    stream.request_progress().await?;
    for _ in 0..4 {
        put(client, "f").await?;
    }
    stream.wait("what it asked for", |log| log.events(0) == 2).await?;
    ensure!(stream.log(|log| revisions(log)) == [revision + 3, revision + 4], "others were told");
    ensure!(stream.log(|log| log.progress.is_empty()), "progress before its beginning");
    stream.request_progress().await?;
    stream.wait("progress", |log| log.progress == [revision + 4]).await
}

/// A watch from the compacted revision on has the deletion that happened there.
async fn a_deletion_at_the_compacted_revision_19179(
    client: &Client,
    channel: &Channel,
) -> Result<()> {
    put(client, "d").await?;
    let deleted = delete(client, "d").await?;
    compact(client, deleted).await?;
    let stream = Watching::open(channel.clone(), on("d", deleted)).await?;
    stream.wait("the deletion", |log| log.events(0) == 1).await?;
    let is_delete = |told: &Told| match told {
        Told::Event { event, .. } => event.r#type() == EventType::Delete,
        _ => false,
    };
    ensure!(stream.log(|log| log.told.values().flatten().any(is_delete)), "no deletion");
    ensure!(stream.log(|log| revisions(log)) == [deleted], "another revision");
    Ok(())
}

/// Deletions and compactions in turn, and a watcher that begins anew behind each compaction.
async fn no_deletion_is_lost_to_a_compaction_18089(
    client: &Client,
    channel: &Channel,
) -> Result<()> {
    for _ in 0..20 {
        let first = put(client, "c").await?;
        let second = delete(client, "c").await?;
        put(client, "c").await?;
        let fourth = delete(client, "c").await?;
        for start in [first, second] {
            compact(client, start).await?;
            let stream = Watching::open(channel.clone(), on("c", start)).await?;
            let expected: Vec<i64> = (start..=fourth).collect();
            stream.wait("all from then on", |log| log.events(0) == expected.len()).await?;
            let told = stream.log(|log| revisions(log));
            ensure!(told == expected, "{told:?}, not {expected:?}");
        }
    }
    Ok(())
}

/// Who wants a leader is told when there is none any more; who does not goes on waiting.
pub async fn no_leader_ends_the_stream(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let channel = channel(&cluster.members[0].address);
    let wanting = Watching::open_with(channel.clone(), on("k", 0), false, true).await?;
    let patient = Watching::open(channel.clone(), on("k", 0)).await?;
    cluster.members[1].kill();
    cluster.members[2].kill();
    let ended = async {
        loop {
            if let Some(end) = wanting.log(|log| log.end.clone()) {
                return end;
            }
            tokio::time::sleep(POLL_EVERY).await;
        }
    };
    let end = tokio::time::timeout(Duration::from_secs(30), ended).await.context("no end")?;
    ensure!(end.code() == Code::Unavailable && end.message() == "etcdserver: no leader", "{end}");
    let refused = Watching::open_with(channel, on("k", 0), false, true).await;
    let refused = refused.err().context("a stream without a leader")?;
    ensure!(refused.message() == "etcdserver: no leader", "{refused}");

    cluster.members[1].start().await?;
    let client = cluster.client(0);
    cluster.members[0].wait_answer(async || client.put("k", "v").await).await?;
    patient.wait("the put", |log| log.events(0) >= 1).await?;
    Ok(Verdict::Passed)
}
