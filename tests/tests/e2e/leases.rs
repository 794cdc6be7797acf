//! Leases: over when their time is, neither earlier nor much later, whatever happens to the members.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::check::leases::{Health, LeaseHistory, Seen, What, judge};
use tests::client::{Client, prefix, within};
use tests::cluster::{Cluster, Plan, Program, etcd_programs};
use tokio::task::JoinSet;
use tonic::Status;

use crate::raw;

const LEASES: i64 = 24;
const KEYS_A_LEASE: usize = 3;
const REQUEST_WITHIN: Duration = Duration::from_millis(700);
/// Between two looks at the keys of a lease.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What members are started with in these cases, and what a new leader gives on top of a lease's time.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(1_000);

/// One client of one lease: keeps it alive for a while, then watches it go.
struct Holder {
    id: i64,
    ttl_s: u64,
    kept: Duration,
    members: Vec<Client>,
    random: StdRng,
    epoch: Instant,
    seen: Vec<Seen>,
}

impl Holder {
    fn member(&mut self) -> Client {
        let at = self.random.random_range(0..self.members.len());
        self.members[at].clone()
    }

    /// Notes what a request found out, if it was answered.
    async fn ask(
        &mut self,
        request: impl Future<Output = Result<Option<What>, Status>>,
    ) -> Option<What> {
        let sent = self.epoch.elapsed();
        let what = within(REQUEST_WITHIN, request).await.ok().flatten()?;
        self.seen.push(Seen { sent, answered: self.epoch.elapsed(), what });
        Some(what)
    }

    async fn keep_alive(&mut self) -> Option<What> {
        let (client, id) = (self.member(), self.id);
        let request = async move {
            let answer = client.keep_alive(id).await?;
            Ok(Some(if answer.ttl > 0 { What::Renewed } else { What::Gone }))
        };
        self.ask(request).await
    }

    async fn look(&mut self) -> Option<What> {
        let (client, id) = (self.member(), self.id);
        let request = async move {
            let found = client.range(prefix(&directory(id))).await?;
            Ok(Some(if found.count == KEYS_A_LEASE as i64 { What::Present } else { What::Gone }))
        };
        self.ask(request).await
    }

    async fn run(mut self) -> Result<LeaseHistory> {
        let client = self.member();
        let sent = self.epoch.elapsed();
        client.grant(self.id, self.ttl_s as i64).await.context("grant")?;
        self.seen.push(Seen { sent, answered: self.epoch.elapsed(), what: What::Renewed });
        for key in 0..KEYS_A_LEASE {
            let key = format!("{}{key}", directory(self.id));
            client.put_leased(&key, self.id).await.context("put")?;
        }
        let until = self.epoch.elapsed() + self.kept;
        while self.epoch.elapsed() < until && self.keep_alive().await != Some(What::Gone) {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        while self.look().await != Some(What::Gone) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // It is gone for good, for everybody.
        for _ in 0..self.members.len() {
            self.keep_alive().await;
            self.look().await;
        }
        let ttl = Duration::from_secs(self.ttl_s);
        Ok(LeaseHistory { id: self.id, ttl, seen: self.seen, ..LeaseHistory::default() })
    }
}

fn directory(id: i64) -> String {
    format!("lease/{id:02}/")
}

fn holders(
    scene: &Scene,
    cluster: &Cluster,
    epoch: Instant,
    kept_s: u64,
) -> JoinSet<Result<LeaseHistory>> {
    let mut holders = JoinSet::new();
    for id in 1..=LEASES {
        let mut random = StdRng::seed_from_u64(scene.seed.wrapping_add(id as u64));
        let kept = Duration::from_millis(random.random_range(0..kept_s * 1_000));
        let ttl_s = random.random_range(2..5);
        let members = (0..cluster.members.len()).map(|at| cluster.client(at)).collect();
        let holder = Holder { id, ttl_s, kept, members, random, epoch, seen: Vec::new() };
        holders.spawn(holder.run());
    }
    holders
}

/// How many keys of a lease there were after each revision that changed one.
async fn keys_by_revision(client: &Client, id: i64, latest: i64) -> Result<Vec<(i64, usize)>> {
    let mut keys = Vec::new();
    let mut last = 0;
    for revision in 2..=latest {
        let range = pb::RangeRequest { revision, count_only: true, ..prefix(&directory(id)) };
        let count = client.range(range).await?.count as usize;
        if count != last {
            keys.push((revision, count));
            last = count;
        }
    }
    Ok(keys)
}

async fn judge_all(
    scene: &Scene,
    cluster: &Cluster,
    mut holders: JoinSet<Result<LeaseHistory>>,
    health: Health,
) -> Result<()> {
    let mut histories = Vec::new();
    while let Some(history) = holders.join_next().await {
        histories.push(history??);
    }
    let latest = cluster.wait_equal().await?;
    let client = cluster.client(0);
    for history in &mut histories {
        history.keys = keys_by_revision(&client, history.id, latest).await?;
        judge(history, health).map_err(anyhow::Error::msg)?;
    }
    for at in 0..cluster.members.len() {
        ensure!(cluster.client(at).leases().await?.is_empty(), "member {at} still has leases");
    }
    let seen: usize = histories.iter().map(|history| history.seen.len()).sum();
    scene.note(format!("seed {}, {} leases, {seen} answers", scene.seed, histories.len()));
    Ok(())
}

fn plan(scene: &Scene, members: usize) -> Plan {
    Plan::new(scene.subject, members, &scene.directory)
        .flag("heartbeat-interval", 100)
        .flag("election-timeout", ELECTION_TIMEOUT.as_millis())
}

/// Requests that must be refused, or answered with nothing: the method, and the message's bytes.
const REFUSED: [(&str, &[u8]); 26] = [
    ("etcdserverpb.Lease/LeaseGrant", b"\x08\x81\xb4\xc4\xc3\x21"), // 9,000,000,001 s
    ("etcdserverpb.Lease/LeaseGrant", b"\x08\x64\x10\x07"),         // id 7, which there is
    ("etcdserverpb.Lease/LeaseGrant", b"\x08"),
    ("etcdserverpb.Lease/LeaseGrant", b"\xff\xff\xff"),
    ("etcdserverpb.Lease/LeaseRevoke", b""),
    ("etcdserverpb.Lease/LeaseRevoke", b"\x08\x09"),
    ("etcdserverpb.Lease/LeaseRevoke", b"\x08"),
    ("etcdserverpb.Lease/LeaseTimeToLive", b"\x08"),
    ("etcdserverpb.Lease/LeaseTimeToLive", b"\x08\x09"),
    ("etcdserverpb.Lease/LeaseLeases", b"\x0a\x05"),
    ("etcdserverpb.Lease/LeaseKeepAlive", b""),
    ("etcdserverpb.Lease/LeaseKeepAlive", b"\x08"),
    ("etcdserverpb.Lease/LeaseKeepAlive", b"\x08\x09"),
    ("v3lockpb.Lock/Lock", b"\x0a\x05x"),
    ("v3lockpb.Lock/Lock", b"\x0a\x01x\x10\x09"),
    ("v3lockpb.Lock/Unlock", b""),
    ("v3lockpb.Lock/Unlock", b"\x0a\x05x"),
    ("v3electionpb.Election/Campaign", b"\x0a\x05x"),
    ("v3electionpb.Election/Campaign", b"\x0a\x01x\x10\x09"),
    ("v3electionpb.Election/Proclaim", b""),
    ("v3electionpb.Election/Proclaim", b"\x0a\x00"),
    ("v3electionpb.Election/Resign", b""),
    ("v3electionpb.Election/Resign", b"\x0a\x05x"),
    ("v3electionpb.Election/Leader", b""),
    ("v3electionpb.Election/Leader", b"\x0a\x05x"),
    ("v3electionpb.Election/Observe", b"\x0a\x05x"),
];

/// Bad requests get etcd's codes and texts.
pub async fn refusals_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let etcd = Plan::new(Program::Etcd, 1, &scene.directory.join("etcd")).start().await?;
    let subject = Plan::new(scene.subject, 1, &scene.directory.join("subject")).start().await?;
    for cluster in [&etcd, &subject] {
        cluster.client(0).grant(7, 1_000).await?;
    }
    let mut differences = Vec::new();
    for (path, message) in REFUSED {
        let path = format!("/{path}");
        let answer = async |cluster: &Cluster| {
            let address = &cluster.members[0].address;
            let answer = raw::grpc_answer(address, &path, raw::framed(message)).await?;
            // A call that went well has an empty message, or none.
            // Go writes this space in one of two ways, differently from build to build, so that nobody relies on it.
            let answer = answer.replace("%C2%A0", " ");
            anyhow::Ok(if answer.starts_with("0 ") { "0".to_owned() } else { answer })
        };
        let (expected, answered) = (answer(&etcd).await?, answer(&subject).await?);
        if expected != answered {
            differences
                .push(format!("{path} {message:?}:\n  etcd: {expected}\n  here: {answered}"));
        }
    }
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(Verdict::Passed)
}

/// Nothing happens to the members: every lease is over in time.
pub async fn over_in_time(scene: Scene) -> Result<Verdict> {
    let cluster = plan(&scene, 3).start().await?;
    cluster.leader().await?;
    let holders = holders(&scene, &cluster, Instant::now(), 4);
    judge_all(&scene, &cluster, holders, Health::default()).await?;
    Ok(Verdict::Passed)
}

/// Members are killed and paused, the leader above all. A woken leader whose time is over must not revoke anything
/// (etcd-io/etcd#15247), and a new one must neither cut nor forget the time of leases.
pub async fn under_kills_and_pauses(scene: Scene) -> Result<Verdict> {
    let mut cluster = plan(&scene, 3).start().await?;
    cluster.leader().await?;
    let mut random = StdRng::seed_from_u64(scene.seed);
    let epoch = Instant::now();
    let holders = holders(&scene, &cluster, epoch, 20);
    tokio::time::sleep(Duration::from_secs(1)).await;
    for round in 0..4 * scene.campaign {
        let leader = cluster.leader().await?;
        let victim = if round % 3 == 2 { random.random_range(0..3) } else { leader };
        let down = Duration::from_millis(random.random_range(1_500..4_000));
        if round % 2 == 0 {
            cluster.members[victim].pause()?;
            tokio::time::sleep(down).await;
            cluster.members[victim].resume()?;
        } else {
            cluster.members[victim].kill();
            tokio::time::sleep(down).await;
            cluster.members[victim].spawn()?;
        }
        cluster.wait_ready().await?;
    }
    cluster.leader().await?;
    cluster.client(0).get("any").await.context("the cluster is whole again")?;
    let health = Health { since: epoch.elapsed(), extension: ELECTION_TIMEOUT };
    judge_all(&scene, &cluster, holders, health).await?;
    Ok(Verdict::Passed)
}

/// A lease and what hangs on it survive a restart of all members, and one that has only a snapshot
/// (etcd-io/etcd#6098: keys were attached to the leases of before, and outlived their own).
pub async fn survive_restarts_and_snapshots(scene: Scene) -> Result<Verdict> {
    let mut cluster = plan(&scene, 3).flag("snapshot-count", 100).start().await?;
    let behind = (cluster.leader().await? + 1) % 3;
    cluster.members[behind].kill();
    let client = cluster.client((behind + 1) % 3);
    client.grant(1, 1_000).await?;
    client.grant(2, 3).await?;
    client.put_leased("one", 1).await?;
    client.put_leased("two", 2).await?;
    // So many that the one that is down cannot be given them one by one.
    for number in 0..8_000 {
        client.put("filler", &number.to_string()).await?;
        if number % 500 == 0 {
            client.keep_alive(2).await?;
        }
    }
    cluster.members[behind].start().await?;
    let late = cluster.client(behind);
    let one = cluster.members[behind].wait_answer(async || late.time_to_live(1).await).await?;
    ensure!(one.granted_ttl == 1_000 && one.keys == ["one"], "from a snapshot: {one:?}");
    ensure!((900..=1_001).contains(&one.ttl), "the time of another is told as {one:?}");

    for at in 0..3 {
        cluster.members[at].kill();
    }
    for at in 0..3 {
        cluster.members[at].spawn()?;
    }
    cluster.wait_ready().await?;
    let one = cluster.members[behind].wait_answer(async || late.time_to_live(1).await).await?;
    ensure!(one.keys == ["one"], "after a restart: {one:?}");
    let gone = Instant::now();
    while !late.get("two").await?.kvs.is_empty() {
        ensure!(gone.elapsed() < Duration::from_secs(10), "the other lease never ends");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    late.revoke(1).await?;
    cluster.wait_equal().await?;
    for at in 0..3 {
        let client = cluster.client(at);
        ensure!(client.get("one").await?.kvs.is_empty(), "member {at} has kept the key");
        ensure!(client.leases().await?.is_empty(), "member {at} has kept a lease");
    }
    Ok(Verdict::Passed)
}

const MANY: i64 = 100_000;
/// One lease of so many has a key.
const LEASES_A_KEY: i64 = 10;
const GRANTERS: i64 = 100;
/// Longer than it takes to grant them all.
const MANY_TTL_S: u64 = 40;
/// How long a put may take while they all end: many times what it takes on a busy machine, and far below a stall.
const PUT_WITHIN: Duration = Duration::from_millis(1_000);

/// 100,000 leases are over in the same moment, and puts go on. (A leader that begins gives all of them the same time.)
pub async fn a_hundred_thousand_at_once(scene: Scene) -> Result<Verdict> {
    let mut cluster = plan(&scene, 1).start().await?;
    let granting = Instant::now();
    let mut granters = JoinSet::new();
    for granter in 0..GRANTERS {
        granters.spawn(grant_many(cluster.client(0), granter));
    }
    while let Some(granter) = granters.join_next().await {
        granter??;
    }
    let granted_in = granting.elapsed();
    cluster.members[0].kill();
    cluster.members[0].start().await?;
    let client = cluster.client(0);
    ensure!(
        client.leases().await?.len() as i64 == MANY,
        "some were over while others were granted"
    );
    let began = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let puts = tokio::spawn(put_until(client.clone(), stop.clone()));
    let mut first = None;
    loop {
        let left = client.leases().await?.len() as i64;
        if left < MANY {
            first.get_or_insert(began.elapsed());
        }
        if left == 0 {
            break;
        }
        ensure!(began.elapsed() < Duration::from_secs(150), "{left} leases do not end");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let (last, first) = (began.elapsed(), first.unwrap_or_default());
    stop.store(true, Ordering::Relaxed);
    let (count, longest) = puts.await??;
    scene.note(format!(
        "granted in {granted_in:.1?}; over from {first:.1?} to {last:.1?} after the restart; {count} puts meanwhile, \
         the longest took {longest:?}"
    ));
    ensure!(client.range(prefix("many/")).await?.count == 0, "a key has outlived its lease");
    ensure!(first >= Duration::from_secs(MANY_TTL_S - 5), "they were over early");
    ensure!(longest < PUT_WITHIN, "a put took {longest:?}");
    Ok(Verdict::Passed)
}

async fn grant_many(client: Client, granter: i64) -> Result<(), Status> {
    for number in 0..MANY / GRANTERS {
        let id = 1 + granter * (MANY / GRANTERS) + number;
        client.grant(id, MANY_TTL_S as i64).await?;
        if id % LEASES_A_KEY == 0 {
            client.put_leased(&format!("many/{id}"), id).await?;
        }
    }
    Ok(())
}

async fn put_until(client: Client, stop: Arc<AtomicBool>) -> Result<(u64, Duration), Status> {
    let (mut count, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        client.put("during", "x").await?;
        longest = longest.max(began.elapsed());
        count += 1;
    }
    Ok((count, longest))
}
