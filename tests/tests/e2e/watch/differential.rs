//! Random writes and watches, with Instar's streams beside etcd's: event by event, header by header.
//!
//! What is written has its events foretold by a model, so that it is known when a stream is complete: only then the two
//! are compared, and the next step is made.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::watch_create_request::FilterType;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, Plan, Program, etcd_programs};
use tests::watching::{Log, Told, Watching, channel};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Watch operations in CI: creations, cancellations, requests for progress.
const OPERATIONS: u64 = 20_000;
/// Pairs of servers that are compared at the same time. The first one's seed is the test's.
const AT_ONCE: u64 = 5;
/// Streams at the same time.
const STREAMS: usize = 4;
/// Watchers of a stream, beyond which one is cancelled.
const WATCHERS: usize = 12;
const KEYS: u32 = 12;
/// A request for progress is dropped while a watcher is being caught up, which nothing shows: when each side is asked
/// again. etcd looks after such watchers ten times a second; here it takes as long as a query does.
const ASK_AGAIN_AFTER: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];

const PATIENCE: Duration = Duration::from_secs(30);

/// One of the two servers.
struct Side {
    _cluster: Cluster,
    client: Client,
    channel: Channel,
    streams: Vec<Watching>,
}

/// What the test knows of a watcher.
struct Watcher {
    key: Bytes,
    range_end: Bytes,
    no_put: bool,
    no_delete: bool,
    /// As asked for.
    start_revision: i64,
    /// The first revision it is to be told of.
    from: i64,
    /// Whether it has been refused its past.
    is_compacted: bool,
}

impl Watcher {
    /// Whether it keeps its stream from being told of progress.
    fn is_behind(&self, revision: i64) -> bool {
        self.is_compacted || self.start_revision > revision
    }

    fn wants(&self, (revision, key, is_delete): &(i64, Bytes, bool)) -> bool {
        let in_range = match self.range_end.as_ref() {
            [] => *key == self.key,
            [0] => *key >= self.key,
            end => *key >= self.key && key.as_ref() < end,
        };
        let filtered = if *is_delete { self.no_delete } else { self.no_put };
        in_range && !filtered && *revision >= self.from && !self.is_compacted
    }
}

struct Test {
    random: StdRng,
    sides: [Side; 2],
    /// By stream, and id.
    watchers: Vec<BTreeMap<i64, Watcher>>,
    /// All there ever were: revision, key, whether it is a deletion.
    events: Vec<(i64, Bytes, bool)>,
    revision: i64,
    compacted: i64,
    /// Events since the streams were last compared, a watcher.
    due: Vec<BTreeMap<i64, usize>>,
    operations: u64,
}

/// Whether a watcher was told what `is_it` looks for.
fn is_told(log: &Log, id: i64, is_it: impl Fn(&Told) -> bool) -> bool {
    log.told.get(&id).into_iter().flatten().any(is_it)
}

pub async fn same_streams(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    // Most of the time goes by with waiting for etcd, which looks after watchers that lag ten times a second.
    let mut runs = JoinSet::new();
    for number in 0..AT_ONCE {
        let directory = scene.directory.join(number.to_string());
        let seed = scene.seed.wrapping_add(number);
        runs.spawn(run(Scene { directory, seed, ..scene.clone() }));
    }
    while let Some(ended) = runs.join_next().await {
        ended??;
    }
    Ok(Verdict::Passed)
}

async fn run(scene: Scene) -> Result<()> {
    std::fs::create_dir(&scene.directory)?;
    let mut test = Test::start(&scene).await?;
    while test.operations < OPERATIONS / AT_ONCE * scene.campaign {
        test.step().await.map_err(|error| error.context(format!("seed {}", scene.seed)))?;
    }
    let Test { operations, revision, .. } = test;
    scene.note(format!("{operations} operations, seed {}, revision {revision}", scene.seed));
    Ok(())
}

impl Test {
    async fn start(scene: &Scene) -> Result<Self> {
        let side = async |program, name: &str| -> Result<Side> {
            let cluster = Plan::new(program, 1, &scene.directory.join(name)).start().await?;
            let channel = channel(&cluster.members[0].address);
            let client = cluster.client(0);
            Ok(Side { _cluster: cluster, client, channel, streams: Vec::new() })
        };
        let sides = [side(Program::Etcd, "etcd").await?, side(scene.subject, "subject").await?];
        let mut test = Test {
            random: StdRng::seed_from_u64(scene.seed),
            sides,
            watchers: (0..STREAMS).map(|_| BTreeMap::new()).collect(),
            events: Vec::new(),
            revision: 1,
            compacted: 0,
            due: vec![BTreeMap::new(); STREAMS],
            operations: 0,
        };
        for at in 0..STREAMS {
            test.open(at).await?;
        }
        Ok(test)
    }

    async fn step(&mut self) -> Result<()> {
        let at = self.random.random_range(0..STREAMS);
        match self.random.random_range(0..100) {
            0..40 => self.write().await?,
            40..66 => self.create(at).await?,
            66..80 => self.cancel(at).await?,
            80..97 => self.progress(at).await?,
            97..99 => self.compact().await?,
            _ => self.open(at).await?,
        }
        if self.watchers[at].len() > WATCHERS {
            self.cancel(at).await?;
        }
        Ok(())
    }

    /// A stream anew, the old one dropped.
    async fn open(&mut self, at: usize) -> Result<()> {
        self.settle().await?;
        let request = pb::WatchCreateRequest { key: "k0".into(), ..Default::default() };
        for side in &mut self.sides {
            let stream = Watching::open(side.channel.clone(), request.clone()).await?;
            stream.wait("the first watcher", |log| log.created.len() == 1).await?;
            match at < side.streams.len() {
                true => side.streams[at] = stream,
                false => side.streams.push(stream),
            }
        }
        let watcher = Watcher {
            key: request.key,
            range_end: Bytes::new(),
            no_put: false,
            no_delete: false,
            start_revision: 0,
            from: self.revision + 1,
            is_compacted: false,
        };
        self.watchers[at] = BTreeMap::from([(0, watcher)]);
        self.due[at].clear();
        self.settle().await
    }

    fn key(&mut self) -> Bytes {
        format!("k{}", self.random.random_range(0..KEYS)).into()
    }

    fn operations(&mut self) -> Vec<pb::RequestOp> {
        let mut keys: Vec<Bytes> =
            (0..self.random.random_range(1..4)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let random = &mut self.random;
        let operation = |key| {
            let request = match random.random_range(0..3) {
                0 => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                    key,
                    prev_kv: true,
                    ..Default::default()
                }),
                _ => {
                    let value = format!("{}", random.random::<u32>()).into();
                    Request::RequestPut(pb::PutRequest { key, value, ..Default::default() })
                }
            };
            pb::RequestOp { request: Some(request) }
        };
        keys.into_iter().map(operation).collect()
    }

    /// One to four transactions, and no waiting in between.
    async fn write(&mut self) -> Result<()> {
        for _ in 0..self.random.random_range(1..5) {
            let operations = self.operations();
            let txn = pb::TxnRequest { success: operations.clone(), ..Default::default() };
            let mut answers = Vec::new();
            for side in &self.sides {
                let mut answer = side.client.txn(txn.clone()).await?;
                let revision = answer.header.unwrap_or_default().revision;
                answer.header = Some(pb::ResponseHeader { revision, ..Default::default() });
                answers.push(answer);
            }
            ensure!(answers[0] == answers[1], "answers differ: {answers:?}");
            self.foretell(&operations, &answers[0]);
        }
        match self.random.random_range(0..4) {
            0 => Ok(()),
            _ => self.settle().await,
        }
    }

    fn foretell(&mut self, operations: &[pb::RequestOp], answer: &pb::TxnResponse) {
        let revision = answer.header.unwrap_or_default().revision;
        for (operation, response) in operations.iter().zip(&answer.responses) {
            let event = match (&operation.request, &response.response) {
                (Some(Request::RequestPut(put)), _) => (revision, put.key.clone(), false),
                (
                    Some(Request::RequestDeleteRange(delete)),
                    Some(pb::response_op::Response::ResponseDeleteRange(deleted)),
                ) if deleted.deleted > 0 => (revision, delete.key.clone(), true),
                _ => continue,
            };
            for (watchers, due) in self.watchers.iter().zip(&mut self.due) {
                for (id, _) in watchers.iter().filter(|(_, watcher)| watcher.wants(&event)) {
                    *due.entry(*id).or_default() += 1;
                }
            }
            self.events.push(event);
        }
        self.revision = revision;
    }

    async fn create(&mut self, at: usize) -> Result<()> {
        self.settle().await?;
        self.operations += 1;
        let request = self.request();
        let is_past = (1..=self.revision).contains(&request.start_revision);
        if is_past {
            self.cancel_behind(at).await?;
        }
        let mut answers = Vec::new();
        for side in &self.sides {
            let stream = &side.streams[at];
            let before = stream.log(|log| log.created.len());
            stream.create(request.clone()).await?;
            stream.wait("a creation", |log| log.created.len() > before).await?;
            answers.push(stream.log(|log| log.created[before]));
        }
        ensure!(answers[0] == answers[1], "{request:?} is answered with {answers:?}");
        if let (id, false) = answers[0] {
            let watcher = self.watcher(request);
            let past = self.events.iter().filter(|event| watcher.wants(event)).count();
            self.due[at].insert(id, past);
            if watcher.is_compacted {
                let is_it = |told: &Told| matches!(told, Told::Compacted { .. });
                for side in &self.sides {
                    let stream = &side.streams[at];
                    stream.wait("that it is compacted", |log| is_told(log, id, is_it)).await?;
                }
            }
            let is_caught_up = is_past && !watcher.is_compacted;
            self.watchers[at].insert(id, watcher);
            if is_caught_up {
                // Where nothing matches, only this shows that etcd has caught it up; else its headers would differ.
                return self.progress(at).await;
            }
        }
        self.settle().await
    }

    /// Cancels those who keep their stream from being told of progress.
    async fn cancel_behind(&mut self, at: usize) -> Result<()> {
        let watchers = self.watchers[at].iter();
        let behind = watchers.filter(|(_, watcher)| watcher.is_behind(self.revision));
        let ids: Vec<i64> = behind.map(|(id, _)| *id).collect();
        for id in ids {
            self.cancel_watcher(at, id).await?;
        }
        Ok(())
    }

    fn watcher(&self, request: pb::WatchCreateRequest) -> Watcher {
        let from = match request.start_revision {
            0 => self.revision + 1,
            start => start,
        };
        let has = |filter: FilterType| request.filters.contains(&filter.into());
        Watcher {
            no_put: has(FilterType::Noput),
            no_delete: has(FilterType::Nodelete),
            key: if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key },
            range_end: request.range_end,
            start_revision: request.start_revision,
            from,
            is_compacted: from < self.compacted,
        }
    }

    fn request(&mut self) -> pb::WatchCreateRequest {
        let key = self.key();
        let random = &mut self.random;
        let range_end = match random.random_range(0..10) {
            0..5 => Bytes::new(),
            5 => Bytes::from_static(b"\0"),
            6 => key.clone(),
            7 => Bytes::from_static(b"a"),
            _ => Bytes::from(format!("k{}", random.random_range(0..KEYS))),
        };
        let start_revision = match random.random_range(0..20) {
            0..8 => 0,
            8..15 => random.random_range(self.compacted.max(1)..=self.revision),
            15 => random.random_range(1..=self.compacted.max(1)),
            16..19 => self.revision + random.random_range(1..6),
            _ => -1,
        };
        let mut filters = Vec::new();
        for filter in [FilterType::Noput, FilterType::Nodelete] {
            if random.random_range(0..8) == 0 {
                filters.push(filter.into());
            }
        }
        pb::WatchCreateRequest {
            key: if random.random_range(0..20) == 0 { Bytes::new() } else { key },
            range_end,
            start_revision,
            prev_kv: random.random(),
            progress_notify: random.random(),
            fragment: random.random(),
            watch_id: if random.random_range(0..4) == 0 { random.random_range(-2..16) } else { 0 },
            filters,
        }
    }

    /// One that is there, or that is not.
    async fn cancel(&mut self, at: usize) -> Result<()> {
        self.operations += 1;
        let ids: Vec<i64> = self.watchers[at].keys().copied().collect();
        let id = match ids.get(self.random.random_range(0..ids.len() + 1)) {
            Some(id) => *id,
            None => self.random.random_range(1000..1010),
        };
        self.cancel_watcher(at, id).await
    }

    async fn cancel_watcher(&mut self, at: usize, id: i64) -> Result<()> {
        self.settle().await?;
        let is_there = self.watchers[at].remove(&id).is_some();
        self.due[at].remove(&id);
        let is_it = |told: &Told| matches!(told, Told::Canceled { .. });
        for side in &self.sides {
            let stream = &side.streams[at];
            stream.cancel(id).await?;
            if is_there {
                stream.wait("a cancellation", |log| is_told(log, id, is_it)).await?;
            }
        }
        self.settle().await
    }

    async fn progress(&mut self, at: usize) -> Result<()> {
        self.settle().await?;
        self.operations += 1;
        let mut watchers = self.watchers[at].values();
        if self.watchers[at].is_empty() || watchers.any(|it| it.is_behind(self.revision)) {
            return self.no_progress(at).await;
        }
        for (number, side) in self.sides.iter().enumerate() {
            let stream = &side.streams[at];
            let before = stream.log(|log| log.progress.len());
            let is_told = |log: &Log| log.progress.len() > before;
            stream.request_progress().await?;
            let patient_until = Instant::now() + PATIENCE;
            while !stream.log(|log| is_told(log)) {
                ensure!(Instant::now() < patient_until, "progress did not come, side {number}");
                let told = stream.wait("progress", is_told);
                match tokio::time::timeout(ASK_AGAIN_AFTER[number], told).await {
                    Ok(told) => told?,
                    Err(_) => stream.request_progress().await?,
                }
            }
            let told = stream.log(|log| log.progress[before]);
            ensure!(told == self.revision, "progress is {told}, not {}", self.revision);
        }
        Ok(())
    }

    /// A request that is left without an answer: that a later request has one shows it.
    async fn no_progress(&mut self, at: usize) -> Result<()> {
        let stream = &self.sides[1].streams[at];
        let before = stream.log(|log| log.progress.len());
        for side in &self.sides {
            side.streams[at].request_progress().await?;
        }
        let id = self.watchers[at].keys().next().copied().unwrap_or(1);
        self.cancel_watcher(at, id).await?;
        let after = self.sides[1].streams[at].log(|log| log.progress.len());
        ensure!(before == after, "progress although a watcher is behind");
        Ok(())
    }

    /// After it is certain that etcd lags nowhere: it would refuse those it has not caught up.
    async fn compact(&mut self) -> Result<()> {
        if self.compacted >= self.revision {
            return Ok(());
        }
        for at in 0..STREAMS {
            self.cancel_behind(at).await?;
            if !self.watchers[at].is_empty() {
                self.progress(at).await?;
            }
        }
        let revision = self.random.random_range(self.compacted + 1..=self.revision);
        for side in &self.sides {
            let request = pb::CompactionRequest { revision, physical: true };
            side.client.kv.clone().compact(request).await?;
        }
        self.compacted = revision;
        Ok(())
    }

    /// Waits until both have told all that is due, and compares.
    async fn settle(&mut self) -> Result<()> {
        for at in 0..self.sides[0].streams.len() {
            let due = std::mem::take(&mut self.due[at]);
            let mut logs = Vec::new();
            for side in &self.sides {
                let is_complete =
                    |log: &Log| due.iter().all(|(id, count)| log.events(*id) >= *count);
                side.streams[at].wait(&format!("all of {due:?}"), is_complete).await?;
                let told = side.streams[at].log(|log| std::mem::take(&mut log.told));
                let told = told.into_iter().filter(|(_, told)| !told.is_empty());
                logs.push(told.collect::<BTreeMap<_, _>>());
            }
            let [etcd, subject] = &logs[..] else { unreachable!("two sides") };
            ensure!(
                etcd == subject,
                "stream {at} differs\n  etcd: {etcd:#?}\n  here: {subject:#?}"
            );
            for (id, count) in due {
                let told = etcd.get(&id).into_iter().flatten();
                let events = told.filter(|told| matches!(told, Told::Event { .. })).count();
                ensure!(events == count, "watcher {id} was told {events} events, not {count}");
            }
        }
        Ok(())
    }
}
