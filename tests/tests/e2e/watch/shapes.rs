//! What requests and responses look like, and what many of them cost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::etcdserverpb::watch_request::RequestUnion;
use tests::case::{Scene, Verdict};
use tests::client::prefix;
use tests::cluster::{Cluster, Plan, Program, etcd_programs};
use tests::watching::{Log, Watching, channel};
use tonic::codegen::tokio_stream;

fn resident_mib(cluster: &Cluster) -> Result<u64> {
    Ok(cluster.members[0].resident_bytes()? >> 20)
}

fn on(key: String) -> pb::WatchCreateRequest {
    pb::WatchCreateRequest { key: key.into(), ..Default::default() }
}

/// A response without what differs between clusters.
fn plain(response: &pb::WatchResponse) -> pb::WatchResponse {
    let header = response
        .header
        .map(|header| pb::ResponseHeader { revision: header.revision, ..Default::default() });
    pb::WatchResponse { header, ..response.clone() }
}

/// Response by response: fragments, a request without content, a half-closed stream.
pub async fn requests_and_responses_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let mut told = Vec::new();
    for (program, name) in [(Program::Etcd, "etcd"), (scene.subject, "subject")] {
        let cluster = Plan::new(program, 1, &scene.directory.join(name)).start().await?;
        told.push((fragments(&cluster).await?, half_closed(&cluster).await?));
    }
    let [etcd, subject] = &told[..] else { unreachable!("two programs") };
    let sizes = |responses: &[pb::WatchResponse]| -> Vec<(usize, bool)> {
        responses.iter().map(|it| (it.events.len(), it.fragment)).collect()
    };
    ensure!(etcd.0 == subject.0, "fragments: {:?}, {:?}", sizes(&etcd.0), sizes(&subject.0));
    ensure!(etcd.0.iter().any(|response| response.fragment), "nothing was cut");
    ensure!(etcd.1 == subject.1, "a half-closed stream: {:?}, {:?}", etcd.1, subject.1);
    Ok(Verdict::Passed)
}

const LARGE_KEYS: usize = 6;
const LARGE_VALUE_BYTES: usize = 700 << 10;

/// Large values are deleted at once, with the previous values: more than a response may have.
async fn fragments(cluster: &Cluster) -> Result<Vec<pb::WatchResponse>> {
    let client = cluster.client(0);
    let range = prefix("large/");
    let mut responses = Vec::new();
    for fragment in [true, false] {
        for key in 0..LARGE_KEYS {
            client.put(&format!("large/{key}"), &"v".repeat(LARGE_VALUE_BYTES)).await?;
        }
        let request = pb::WatchCreateRequest {
            key: range.key.clone(),
            range_end: range.range_end.clone(),
            prev_kv: true,
            fragment,
            ..Default::default()
        };
        let channel = channel(&cluster.members[0].address);
        let stream = Watching::open_with(channel, request, true, false).await?;
        let (key, range_end) = (range.key.clone(), range.range_end.clone());
        let delete = pb::DeleteRangeRequest { key, range_end, ..Default::default() };
        client.kv.clone().delete_range(delete).await?;
        stream.wait("all deletions", |log| log.events(0) == LARGE_KEYS).await?;
        responses.extend(stream.log(|log| log.responses.iter().map(plain).collect::<Vec<_>>()));
    }
    Ok(responses)
}

/// A client that has nothing more to ask for is told all the same. A request without content is no request.
async fn half_closed(cluster: &Cluster) -> Result<Vec<pb::WatchResponse>> {
    let requests = [None, Some(RequestUnion::CreateRequest(on("half".into())))];
    let requests = requests.map(|request_union| pb::WatchRequest { request_union });
    let mut client = WatchClient::new(channel(&cluster.members[0].address));
    let mut stream = client.watch(tokio_stream::iter(requests)).await?.into_inner();
    let mut responses = Vec::new();
    for round in 0..3 {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.message()).await??;
        responses.push(plain(&next.context("the stream has ended")?));
        cluster.client(0).put("half", &format!("{round}")).await?;
    }
    Ok(responses)
}

const STREAMS: usize = 10_000;
const CONNECTIONS: usize = 10;
/// What they may cost beside an idle member, in MiB.
const STREAMS_MIB: u64 = 400;

/// Each watches a key of its own; a few keys are put, and only those are told.
pub async fn ten_thousand_streams(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let idle_mib = resident_mib(&cluster)?;
    let mut streams = Vec::new();
    let channels: Vec<_> = (0..CONNECTIONS).map(|_| channel(&cluster.members[0].address)).collect();
    for number in 0..STREAMS {
        let channel = channels[number % CONNECTIONS].clone();
        streams.push(Watching::open(channel, on(format!("key/{number}"))).await?);
    }
    let used_mib = resident_mib(&cluster)?.saturating_sub(idle_mib);
    scene.note(format!("{STREAMS} streams take {used_mib} MiB"));
    ensure!(used_mib < STREAMS_MIB, "{used_mib} MiB");
    for number in (0..STREAMS).step_by(STREAMS / 100) {
        cluster.client(0).put(&format!("key/{number}"), "v").await?;
        streams[number].wait("its put", |log| log.events(0) == 1).await?;
    }
    let told: usize = streams.iter().map(|stream| stream.log(|log| log.events(0))).sum();
    ensure!(told == 100, "{told} events");
    Ok(Verdict::Passed)
}

const WATCHERS: usize = 300_000;
/// For each watcher, in bytes.
const WATCHER_BYTES: u64 = 2_048;

/// One stream creates very many watchers: memory is bounded for each, and a put does not look at all of them.
pub async fn a_stream_of_many_watchers(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let address = &cluster.members[0].address;
    let idle_mib = resident_mib(&cluster)?;
    let stream = Watching::open(channel(address), on("key/0".into())).await?;
    for number in 1..WATCHERS {
        let mut request = on(format!("key/{number}"));
        if number % 2 == 0 {
            request.range_end = format!("key/{number}/").into();
        }
        stream.create(request).await?;
    }
    stream.wait("all of them", |log| log.created.len() == WATCHERS).await?;
    let used_mib = resident_mib(&cluster)?.saturating_sub(idle_mib);
    let client = cluster.client(0);
    let started = Instant::now();
    for number in 0..1_000 {
        client.put(&format!("key/{}", number * 250 + 1), "v").await?;
    }
    let put_us = started.elapsed().as_micros() / 1_000;
    let told = |log: &Log| log.told.keys().map(|id| log.events(*id)).sum::<usize>();
    stream.wait("the events", |log| told(log) >= 1_000).await?;
    scene.note(format!("{WATCHERS} watchers take {used_mib} MiB; a put takes {put_us} µs"));
    ensure!(used_mib << 20 < WATCHERS as u64 * WATCHER_BYTES, "{used_mib} MiB");
    Ok(Verdict::Passed)
}

const SLOW_PUTS: usize = 3_000;
const SLOW_VALUE_BYTES: usize = 32 << 10;
/// What may be kept while a client does not read; the storage's own caches, which grow with the puts, included.
const SLOW_MIB: u64 = 480;

/// A client that stops reading gets everything in the end, and costs nobody else a thing.
pub async fn a_reader_that_stops(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let address = &cluster.members[0].address;
    let requests = [on("k".into())].map(|create| pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    });
    let open =
        tokio_stream::StreamExt::chain(tokio_stream::iter(requests), tokio_stream::pending());
    let mut client = WatchClient::new(channel(address)).max_decoding_message_size(usize::MAX);
    let mut slow = client.watch(open).await?.into_inner();
    let quick = Watching::open(channel(address), on("k".into())).await?;
    let writer = cluster.client(0);
    let value = "v".repeat(SLOW_VALUE_BYTES);
    writer.put("warm", &value).await?;
    let before_mib = resident_mib(&cluster)?;
    for _ in 0..SLOW_PUTS {
        writer.put("k", &value).await?;
    }
    quick.wait("all puts", |log| log.events(0) == SLOW_PUTS).await?;
    let used_mib = resident_mib(&cluster)?.saturating_sub(before_mib);
    let (mut told, mut last) = (0, 0);
    while told < SLOW_PUTS {
        let response = tokio::time::timeout(Duration::from_secs(30), slow.message()).await??;
        for event in response.context("the stream has ended")?.events {
            let revision = event.kv.unwrap_or_default().mod_revision;
            ensure!(last == 0 || revision == last + 1, "{revision} after {last}");
            last = revision;
            told += 1;
        }
    }
    let mib = (SLOW_PUTS * SLOW_VALUE_BYTES) >> 20;
    scene.note(format!("{mib} MiB of events; memory grew by {used_mib} MiB"));
    ensure!(used_mib < SLOW_MIB, "memory grew by {used_mib} MiB");
    Ok(Verdict::Passed)
}
