//! The state machine is replaced while clients write and watch, and nobody notices.

mod schemas;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::watch_client::WatchClient;
use proto::instar::v1 as machine_pb;
use proto::instar::v1::machine_client::MachineClient;
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, Plan};
use tonic::codegen::tokio_stream;
use tonic::transport::{Channel, Endpoint};

pub use schemas::a_schema_is_raised;

const WRITERS: usize = 12;
/// Activations and rollbacks, for each unit of the campaign.
const SWITCHES: u64 = 10;
/// How long the load goes on between two switches.
const BETWEEN: Duration = Duration::from_millis(100);
const CHUNK_BYTES: usize = 256 << 10;
const PREFIX: &[u8] = b"machines/";

/// The built-in machine with a section that means nothing: another component, another digest.
pub(super) fn twin() -> Bytes {
    let mut component = host::runtime::BUILT_IN.to_vec();
    component.extend_from_slice(&[0, 6, 4, b't', b'w', b'i', b'n', 1]);
    component.into()
}

pub(super) async fn machines_of(cluster: &Cluster, at: usize) -> Result<MachineClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.members[at].address))?;
    Ok(MachineClient::new(endpoint.connect().await?))
}

pub(super) async fn put(
    client: &mut MachineClient<Channel>,
    component: &Bytes,
) -> Result<machine_pb::PutResponse, tonic::Status> {
    let chunks = component.chunks(CHUNK_BYTES);
    let requests: Vec<_> =
        chunks.map(|chunk| machine_pb::PutRequest { data: component.slice_ref(chunk) }).collect();
    Ok(client.put(tokio_stream::iter(requests)).await?.into_inner())
}

/// How long each request took that a client made: when it began, and when it was answered.
pub(super) type Answers = Arc<Mutex<Vec<(Instant, Instant)>>>;

/// Puts and transactions without an end, until told. Any failure is one too many.
pub(super) async fn write(
    client: Client,
    writer: usize,
    stop: Arc<AtomicBool>,
    answers: Answers,
) -> Result<u64> {
    let mut writes = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = format!("machines/{writer}/{}", writes % 50);
        let started = Instant::now();
        if writes % 3 == 2 {
            let put = pb::PutRequest { key: key.into(), value: "txn".into(), ..Default::default() };
            let request = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) };
            let txn = pb::TxnRequest { success: vec![request], ..Default::default() };
            client.kv.clone().txn(txn).await.context("a transaction failed")?;
        } else {
            client.put(&key, &writes.to_string()).await.context("a put failed")?;
        }
        answers.lock().expect("no writer panics").push((started, Instant::now()));
        writes += 1;
    }
    Ok(writes)
}

/// Counts the events of all writes, until there were as many as asked for.
async fn watch(address: String, wanted: tokio::sync::oneshot::Receiver<u64>) -> Result<()> {
    let mut client =
        WatchClient::new(Endpoint::from_shared(format!("http://{address}"))?.connect().await?);
    let create = pb::WatchCreateRequest {
        key: PREFIX.into(),
        range_end: b"machines0".to_vec().into(),
        start_revision: 1,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let first = tokio_stream::once(pb::WatchRequest { request_union: Some(union) });
    let requests = tokio_stream::StreamExt::chain(first, tokio_stream::pending());
    let mut responses = client.watch(requests).await?.into_inner();
    let (mut seen, mut last, mut wanted, mut target) = (0, 0, wanted, None);
    while target != Some(seen) {
        tokio::select! {
            asked = &mut wanted, if target.is_none() => target = Some(asked?),
            response = responses.message() => {
                let response = response?.context("the watch ended")?;
                ensure!(!response.canceled, "the watch was cancelled: {}", response.cancel_reason);
                for event in response.events {
                    let revision = event.kv.context("an event has a key")?.mod_revision;
                    ensure!(revision > last, "revision {revision} came after {last}");
                    last = revision;
                    seen += 1;
                }
            }
        }
        ensure!(target.is_none_or(|target| seen <= target), "an event came twice");
    }
    Ok(())
}

/// The longest that anyone waited whose request was under way in a time, in milliseconds.
fn pause_ms(answers: &Answers, from: Instant, to: Instant) -> f64 {
    let answers = answers.lock().expect("no writer panics");
    let under_way = answers.iter().filter(|(began, ended)| *began <= to && *ended >= from);
    under_way.map(|(began, ended)| (*ended - *began).as_secs_f64() * 1e3).fold(0.0, f64::max)
}

fn of_pauses(mut pauses: Vec<f64>) -> String {
    pauses.sort_by(f64::total_cmp);
    let at = |share: f64| pauses[((pauses.len() - 1) as f64 * share).round() as usize];
    format!("p50 {:.1} ms, p99 {:.1} ms, maximum {:.1} ms", at(0.5), at(0.99), at(1.0))
}

/// Activations and rollbacks in a row under load: no request fails, no event is missed, all members stay equal.
pub async fn switched_under_load(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no machine to replace".to_owned()));
    }
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let answers = Answers::default();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = cluster.client(writer % 3);
            tokio::spawn(write(client, writer, stop.clone(), answers.clone()))
        })
        .collect();
    let (total, wanted) = tokio::sync::oneshot::channel();
    let watcher = tokio::spawn(watch(cluster.members[1].address.clone(), wanted));

    let mut client = machines_of(&cluster, 0).await?;
    let twin = put(&mut client, &twin()).await?.digest;
    let request = machine_pb::PrepareRequest { digest: twin.clone() };
    let before = client.prepare(request).await?.into_inner();
    let (mut quiet, mut pauses) = (Vec::new(), Vec::new());
    for switch in 0..SWITCHES * scene.campaign {
        let started = Instant::now();
        tokio::time::sleep(BETWEEN / 2).await;
        quiet.push(pause_ms(&answers, started, Instant::now()));
        let started = Instant::now();
        let mut client = machines_of(&cluster, switch as usize % 3).await?;
        let after = if switch % 2 == 0 {
            let request = machine_pb::ActivateRequest {
                digest: twin.clone(),
                expected_active: before.active.clone(),
            };
            client.activate(request).await?.into_inner()
        } else {
            let request = machine_pb::RollbackRequest { expected_active: twin.clone() };
            client.rollback(request).await?.into_inner()
        };
        let expected = if switch % 2 == 0 { &twin } else { &before.active };
        ensure!(after.active == *expected, "switch {switch} was answered, and is not made");
        tokio::time::sleep(BETWEEN / 2).await;
        pauses.push(pause_ms(&answers, started, Instant::now()));
    }
    stop.store(true, Ordering::Relaxed);
    let mut writes = 0;
    for writer in writers {
        writes += writer.await??;
    }
    let told = total.send(writes);
    tokio::time::timeout(Duration::from_secs(20), watcher)
        .await
        .context("the watch lacks events")???;
    ensure!(told.is_ok(), "the watch ended before the writes did");
    let revision = cluster.wait_equal().await?;
    scene.note(format!("{writes} writes, {} switches, equal at {revision}", pauses.len()));
    scene.note(format!("longest wait in {BETWEEN:?} with a switch: {}", of_pauses(pauses)));
    scene.note(format!("longest wait in {:?} without: {}", BETWEEN / 2, of_pauses(quiet)));
    restarts(&mut cluster, &twin).await?;
    Ok(Verdict::Passed)
}

/// What runs after a restart is what the state says.
async fn restarts(cluster: &mut Cluster, twin: &Bytes) -> Result<()> {
    let request = machine_pb::ActivateRequest { digest: twin.clone(), ..Default::default() };
    machines_of(cluster, 0).await?.activate(request).await?;
    for member in &mut cluster.members {
        member.kill();
    }
    for member in &mut cluster.members {
        member.spawn()?;
    }
    cluster.wait_ready().await?;
    cluster.client(2).put("machines/after", "restart").await?;
    for at in 0..3 {
        let listed = machines_of(cluster, at).await?.list(machine_pb::ListRequest {}).await?;
        ensure!(listed.into_inner().active == *twin, "member {at} runs another machine");
    }
    cluster.wait_equal().await?;
    Ok(())
}

/// What is no machine is refused before any of it is in the log, with a sentence that says why.
pub async fn refusals(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no machine to replace".to_owned()));
    }
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let mut client = machines_of(&cluster, 0).await?;
    let refused = |result: Result<machine_pb::PutResponse, tonic::Status>, part: &str| match result
    {
        Err(status) if status.message().contains(part) => Ok(()),
        other => bail!("expected a refusal with {part:?}: {other:?}"),
    };
    refused(put(&mut client, &Bytes::from_static(b"no component")).await, "no component")?;
    // A component with an import of its own: (component (import "wasi:clocks/now" (func))).
    let mut foreign = b"\0asm\x0d\0\x01\0".to_vec();
    foreign.extend_from_slice(&[7, 5, 1, 0x40, 0, 1, 0]);
    let name = b"evil";
    foreign.extend_from_slice(&[10, name.len() as u8 + 5, 1, 0, name.len() as u8]);
    foreign.extend_from_slice(name);
    foreign.extend_from_slice(&[1, 0]);
    refused(put(&mut client, &foreign.into()).await, "`evil`")?;
    let request = machine_pb::ActivateRequest { digest: vec![7; 32].into(), ..Default::default() };
    let status = client.activate(request).await.expect_err("nobody has such a machine");
    ensure!(status.message().contains("put it first"), "{status}");
    let status = client.rollback(machine_pb::RollbackRequest::default()).await;
    let status = status.expect_err("nothing was before");
    ensure!(status.message().contains("no previous machine"), "{status}");
    cluster.client(0).put("machines/still", "there").await?;
    Ok(Verdict::Passed)
}
