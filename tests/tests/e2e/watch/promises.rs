//! Watchers that resume on another member while members are killed: the six promises.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::check::{Change, Session, Sight, check_watch};
use tests::client::{Client, prefix, within};
use tests::cluster::{Cluster, POLL_EVERY, Plan};
use tests::watching::{Watching, channel};
use tokio::task::JoinSet;

const ROUNDS: u64 = 6;
const WRITERS: usize = 8;
const WATCHERS: usize = 9;
/// Transactions acknowledged between two faults.
const WRITES_BETWEEN: u64 = 300;
const REQUEST_WITHIN: Duration = Duration::from_secs(2);

/// What writers and watchers share.
#[derive(Default)]
struct Shared {
    has_ended: AtomicBool,
    written: AtomicU64,
    /// The last revision there is, once it is known.
    last_revision: AtomicI64,
}

pub async fn promises_hold_under_kills(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", 500);
    let mut cluster = plan.start().await?;
    let addresses: Vec<String> = cluster.members.iter().map(|it| it.address.clone()).collect();
    let shared = Arc::new(Shared::default());
    let (mut writers, mut watchers) = (JoinSet::new(), JoinSet::new());
    for writer in 0..WRITERS {
        writers.spawn(write(shared.clone(), addresses.clone(), writer));
    }
    for watcher in 0..WATCHERS {
        let seed = scene.seed.wrapping_add(watcher as u64);
        watchers.spawn(watch(shared.clone(), addresses.clone(), watcher, seed));
    }
    kill(&scene, &mut cluster, &shared).await?;
    shared.has_ended.store(true, Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended.context("a writer")?;
    }
    let last_revision = cluster.wait_equal().await?;
    shared.last_revision.store(last_revision, Ordering::SeqCst);

    let kvs = cluster.client(0).range(prefix("w/")).await?.kvs;
    let truth: Vec<Change> = kvs.iter().map(|kv| (kv.mod_revision, text(&kv.key))).collect();
    let (mut sessions_count, mut promises) = (0, 0);
    while let Some(sessions) = watchers.join_next().await {
        let sessions = sessions.context("a watcher")?;
        sessions_count += sessions.len();
        let sights = sessions.iter().flat_map(|session| &session.sights);
        promises += sights.filter(|sight| matches!(sight, Sight::Progress(_))).count();
        if let Err(broken) = check_watch(&truth, &sessions, Some(last_revision)) {
            anyhow::bail!("a promise is broken: {broken:?}, seed {}", scene.seed);
        }
    }
    let changes = truth.len();
    scene.note(format!(
        "{changes} changes up to revision {last_revision}, {sessions_count} sessions, {promises} promises, seed {}",
        scene.seed
    ));
    ensure!(sessions_count > WATCHERS && promises > 0, "nothing was resumed, or nothing promised");
    Ok(Verdict::Passed)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn kill(scene: &Scene, cluster: &mut Cluster, shared: &Shared) -> Result<()> {
    let mut random = StdRng::seed_from_u64(scene.seed);
    for round in 0..ROUNDS * scene.campaign {
        wait_written(shared, WRITES_BETWEEN).await?;
        let victims = match round % 3 {
            0 => vec![random.random_range(0..3)],
            1 => vec![cluster.leader().await?],
            _ => vec![0, 1, 2],
        };
        victims.iter().for_each(|&at| cluster.members[at].kill());
        for at in victims {
            cluster.members[at].spawn()?;
        }
        cluster.wait_ready().await?;
    }
    wait_written(shared, WRITES_BETWEEN).await
}

async fn wait_written(shared: &Shared, more: u64) -> Result<()> {
    let goal = shared.written.load(Ordering::SeqCst) + more;
    let waited = async {
        while shared.written.load(Ordering::SeqCst) < goal {
            tokio::time::sleep(POLL_EVERY).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waited).await.context("the writers are stuck")
}

/// Transactions of three keys, each of which is written once.
async fn write(shared: Arc<Shared>, addresses: Vec<String>, writer: usize) {
    let clients: Vec<Client> = addresses.iter().map(|address| Client::new(address)).collect();
    for number in 0_u64.. {
        if shared.has_ended.load(Ordering::SeqCst) {
            return;
        }
        let put = |part| {
            let key = format!("w/{writer}/{number:06}/{part}").into();
            let put = pb::PutRequest { key, value: "v".into(), ..Default::default() };
            pb::RequestOp { request: Some(Request::RequestPut(put)) }
        };
        let txn = pb::TxnRequest { success: (0..3).map(put).collect(), ..Default::default() };
        let client = &clients[(writer + number as usize) % clients.len()];
        match within(REQUEST_WITHIN, client.txn(txn)).await {
            Ok(_) => drop(shared.written.fetch_add(1, Ordering::SeqCst)),
            // Some member is down: another one next.
            Err(_) => tokio::time::sleep(POLL_EVERY).await,
        }
    }
}

/// Watches until all is told; on another member after every break, and after some time without one.
async fn watch(
    shared: Arc<Shared>,
    addresses: Vec<String>,
    watcher: usize,
    seed: u64,
) -> Vec<Session> {
    let channels: Vec<_> = addresses.iter().map(|address| channel(address)).collect();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut sessions, mut next): (Vec<Session>, i64) = (Vec::new(), 1);
    for attempt in watcher.. {
        let range = prefix("w/");
        let request = pb::WatchCreateRequest {
            key: range.key,
            range_end: range.range_end,
            start_revision: next,
            prev_kv: watcher.is_multiple_of(3),
            ..Default::default()
        };
        let channel = channels[attempt % channels.len()].clone();
        let opened = within(REQUEST_WITHIN, Watching::open_with(channel, request, true, true));
        let Ok(stream) = opened.await else {
            tokio::time::sleep(POLL_EVERY).await;
            continue;
        };
        let mut session = Session { start: next, sights: Vec::new() };
        for _ in 0..random.random_range(20..200) {
            // If it fails the stream is over, which the log says as well.
            let _ = stream.request_progress().await;
            tokio::time::sleep(POLL_EVERY).await;
            let (responses, end) =
                stream.log(|log| (std::mem::take(&mut log.responses), log.end.clone()));
            next = take(&mut session, responses, next);
            let last_revision = shared.last_revision.load(Ordering::SeqCst);
            if last_revision != 0 && next > last_revision {
                sessions.push(session);
                return sessions;
            }
            if end.is_some() {
                break;
            }
        }
        sessions.push(session);
    }
    unreachable!("it goes on until all is told")
}

/// Adds responses to a session. Gives the revision to resume at.
fn take(session: &mut Session, responses: Vec<pb::WatchResponse>, mut next: i64) -> i64 {
    for response in responses.into_iter().filter(|response| !response.created) {
        let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
        let changes: Vec<Change> = kvs.map(|kv| (kv.mod_revision, text(&kv.key))).collect();
        let (told, sight) = match changes.last() {
            Some((revision, _)) => (*revision, Sight::Changes(changes)),
            None => {
                let revision = response.header.unwrap_or_default().revision;
                (revision, Sight::Progress(revision))
            }
        };
        next = next.max(told + 1);
        session.sights.push(sight);
    }
    next
}
