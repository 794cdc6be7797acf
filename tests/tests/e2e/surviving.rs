//! Members are killed, paused, left behind, and run out of disk, while clients write.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::client::{Client, within};
use tests::cluster::{Cluster, Plan, Program};
use tests::load::{Ledger, Tally};
use tonic::Status;

use crate::membership::got_snapshot;

const ROUNDS: u64 = 9;
const WRITERS: usize = 24;
/// Acknowledged puts between two faults.
const PUTS_BETWEEN: u64 = 150;
/// How long a request to a member that cannot serve it is waited for: longer than etcd's own time-out
/// (5 s and two elections).
const REFUSAL_WITHIN: Duration = Duration::from_secs(12);
/// How long the others may take to elect another leader.
const ELECTED_WITHIN: Duration = Duration::from_secs(10);

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.members.iter().map(|member| member.address.clone()).collect()
}

/// Ends the load, lets the members become equal, and audits on each of them.
async fn settle(scene: &Scene, cluster: &Cluster, ledger: Ledger) -> Result<Tally> {
    let tally = ledger.settle(&cluster.client(0)).await?;
    let revision = cluster.wait_equal().await?;
    scene.note(format!("seed {}, {tally:?}, equal at revision {revision}", scene.seed));
    Ok(tally)
}

/// kill -9 of a member, of the leader, of all, again and again under load.
pub async fn kills_under_load(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", 500);
    let mut cluster = plan.start().await?;
    let mut random = StdRng::seed_from_u64(scene.seed);
    let ledger = Ledger::start("kills", &addresses(&cluster), WRITERS);
    for round in 0..ROUNDS * scene.campaign {
        ledger.wait_progress(PUTS_BETWEEN).await?;
        let victims = match round % 3 {
            0 => vec![random.random_range(0..3)],
            1 => vec![cluster.leader().await?],
            _ => vec![0, 1, 2],
        };
        victims.iter().for_each(|&at| cluster.members[at].kill());
        let down = Duration::from_millis(random.random_range(0..800));
        tokio::time::sleep(down).await;
        for at in victims {
            cluster.members[at].spawn()?;
        }
        cluster.wait_ready().await?;
    }
    ledger.wait_progress(PUTS_BETWEEN).await?;
    settle(&scene, &cluster, ledger).await?;
    Ok(Verdict::Passed)
}

/// A single member, killed again and again: all that keeps its word is its disk.
pub async fn one_member_killed(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 1, &scene.directory).flag("snapshot-count", 500);
    let mut cluster = plan.start().await?;
    let ledger = Ledger::start("one", &addresses(&cluster), WRITERS);
    for _ in 0..ROUNDS * scene.campaign {
        ledger.wait_progress(PUTS_BETWEEN).await?;
        cluster.members[0].kill();
        cluster.members[0].start().await?;
    }
    ledger.wait_progress(PUTS_BETWEEN).await?;
    settle(&scene, &cluster, ledger).await?;
    Ok(Verdict::Passed)
}

/// Five members go on without two, the leader among them.
pub async fn two_of_five_killed(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 5, &scene.directory).start().await?;
    let ledger = Ledger::start("five", &addresses(&cluster), WRITERS);
    ledger.wait_progress(PUTS_BETWEEN).await?;
    let leader = cluster.leader().await?;
    let victims = [leader, (leader + 1) % 5];
    victims.iter().for_each(|&at| cluster.members[at].kill());
    ledger.wait_progress(PUTS_BETWEEN).await?;
    for at in victims {
        cluster.members[at].spawn()?;
    }
    cluster.wait_ready().await?;
    settle(&scene, &cluster, ledger).await?;
    Ok(Verdict::Passed)
}

/// One of three refuses writes and linearizable reads, serves serializable ones, and is of use again
/// when another is back.
pub async fn a_minority_refuses(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    cluster.client(0).put("k", "before").await?;
    cluster.wait_equal().await?;
    let alone = cluster.leader().await?;
    let others = [(alone + 1) % 3, (alone + 2) % 3];
    others.iter().for_each(|&at| cluster.members[at].kill());

    let client = cluster.client(alone);
    let write = within(REFUSAL_WITHIN, client.put("k", "refused"));
    let read = within(REFUSAL_WITHIN, client.get("k"));
    let (write, read) = tokio::join!(write, read);
    for (what, refused) in [("write", write.err()), ("linearizable read", read.err())] {
        let status = refused.with_context(|| format!("a {what} was answered by a minority"))?;
        scene.note(format!("{what}: {:?}, {}", status.code(), status.message()));
        ensure!(is_etcds_refusal(&status), "a {what} is refused with {status}");
    }
    let stale = client.get_serializable("k").await?;
    ensure!(
        stale.kvs.first().is_some_and(|kv| kv.value == "before"),
        "a serializable read: {stale:?}"
    );

    cluster.members[others[0]].start().await?;
    let put = cluster.members[alone].wait_answer(async || client.put("k", "after").await);
    put.await?;
    cluster.members[others[1]].start().await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// etcd's answer when no majority answers: its own time-out, or that there is no leader.
fn is_etcds_refusal(status: &Status) -> bool {
    let texts =
        ["etcdserver: request timed out", "etcdserver: no leader", "etcdserver: leader changed"];
    status.code() == tonic::Code::Unavailable
        && texts.iter().any(|text| status.message().starts_with(text))
}

/// A paused follower catches up; a paused leader is replaced, and answers nothing stale when it wakes.
pub async fn paused_members(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let ledger = Ledger::start("paused", &addresses(&cluster), WRITERS);
    for round in 0..2 * scene.campaign {
        let leader = cluster.leader().await?;
        let at = if round % 2 == 0 { (leader + 1) % 3 } else { leader };
        ledger.wait_progress(PUTS_BETWEEN).await?;
        cluster.members[at].pause()?;
        let awake = cluster.client((at + 1) % 3);
        ledger.wait_progress(PUTS_BETWEEN).await?;
        let value = format!("round {round}");
        let put = cluster.members[(at + 1) % 3].wait_answer(async || awake.put("k", &value).await);
        put.await?;
        cluster.members[at].resume()?;
        let woken = cluster.client(at);
        let read = cluster.members[at].wait_answer(async || woken.get("k").await).await?;
        ensure!(
            read.kvs.first().is_some_and(|kv| kv.value == value),
            "stale: {read:?}, not {value}"
        );
    }
    settle(&scene, &cluster, ledger).await?;
    Ok(Verdict::Passed)
}

/// How much a member misses, and how much of the log the others keep for it.
const MISSED_PUTS: u64 = 8_000;
const SNAPSHOT_COUNT: u64 = 100;

/// A member that has missed more than the others' logs hold gets a snapshot, also while they are busy.
pub async fn far_behind(scene: Scene) -> Result<Verdict> {
    let mut plan =
        Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", SNAPSHOT_COUNT);
    if scene.subject == Program::Etcd {
        plan = plan.flag("snapshot-catchup-entries", SNAPSHOT_COUNT);
    }
    let mut cluster = plan.start().await?;
    let behind = (cluster.leader().await? + 1) % 3;
    cluster.members[behind].kill();
    let up: Vec<String> =
        (0..3).filter(|&at| at != behind).map(|at| cluster.members[at].address.clone()).collect();
    let ledger = Ledger::start("missed", &up, 64);
    ledger.wait_progress(MISSED_PUTS).await?;
    cluster.members[behind].start().await?;
    let client = cluster.client(behind);
    cluster.members[behind].wait_answer(async || client.get("any").await).await?;
    ledger.wait_progress(PUTS_BETWEEN).await?;
    settle(&scene, &cluster, ledger).await?;
    ensure!(got_snapshot(&cluster.members[behind].log()), "it was sent no snapshot");
    // And once more from the disk that the snapshot left.
    cluster.members[behind].kill();
    cluster.members[behind].start().await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// What the full member's file system holds; etcd wants 64 MiB for each file of its log in advance.
const DISK_MIB: u64 = 320;
/// What is left free before the load starts.
const LEFT_FREE_BYTES: u64 = 2 << 20;
const BLOCK: usize = 1 << 20;
const BIG_VALUE_BYTES: usize = 64 << 10;
/// Enough to fill what is left and etcd's files.
const BIG_PUTS_MAX: usize = 3_000;

/// One member's disk is full: it stops acknowledging and says why, the others go on, and with room and
/// a restart it catches up.
pub async fn a_full_disk(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).prepare()?;
    let full = 2;
    let directory = cluster.members[full].data_directory.clone();
    let mount = match Mount::tmpfs(&directory, DISK_MIB) {
        Ok(mount) => mount,
        Err(error) => return Ok(Verdict::Skipped(format!("cannot mount a small disk: {error:#}"))),
    };
    cluster.start_all().await?;
    let others = Client::new(&cluster.members[0].address);
    others.put("k", "before").await?;
    cluster.wait_equal().await?;

    let ballast = directory.join("ballast");
    fill(&ballast)?;
    let value = "v".repeat(BIG_VALUE_BYTES);
    let mut puts = 0;
    while !says_why(&cluster.members[full].log()) {
        let key = format!("big/{}", puts % 50);
        let put = within(REFUSAL_WITHIN, others.put(&key, &value)).await;
        // If it is the leader whose disk is full, what is under way has no outcome that anyone knows.
        if !says_why(&cluster.members[full].log()) {
            put.with_context(|| format!("put {puts}, with one full member of three"))?;
        }
        puts += 1;
        ensure!(puts < BIG_PUTS_MAX, "the member has not noticed that its disk is full");
    }
    scene.note(format!("full after {puts} puts"));
    let told =
        within(REFUSAL_WITHIN, cluster.client(full).put("k", "through the full member")).await;
    ensure!(told.is_err(), "a member that cannot write acknowledged: {told:?}");
    let elected = Instant::now() + ELECTED_WITHIN;
    while let Err(error) = others.put("k", "without it").await {
        ensure!(Instant::now() < elected, "the others do not go on: {error}");
    }
    for round in 0..20 {
        others.put("k", &format!("without it {round}")).await.context("the others go on")?;
    }
    cluster.members[full].kill();
    fs::remove_file(&ballast).context("make room")?;
    cluster.members[full].start().await.context("with room again")?;
    cluster.wait_equal().await?;
    drop(cluster);
    drop(mount);
    Ok(Verdict::Passed)
}

fn says_why(log: &str) -> bool {
    log.to_lowercase().contains("no space left on device")
}

/// A small file system, gone with the value.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, mib: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "instar-e2e"]).arg(at);
        let output = mount.output().context("run mount")?;
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "{text}");
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that is just ending may hold a file. Nothing can be done about a failure.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// Fills the file system that `path` is on, but for `LEFT_FREE_BYTES`.
fn fill(path: &Path) -> Result<()> {
    let mut file = File::create(path).context("create the ballast")?;
    let block = vec![0_u8; BLOCK];
    let mut written = 0;
    while let Ok(length @ 1..) = file.write(&block) {
        written += length as u64;
    }
    file.set_len(written.saturating_sub(LEFT_FREE_BYTES)).context("leave some room")
}

/// A transaction that deletes a key and puts it again with `ignore_value` ends etcd 3.7.1 at every
/// start. Here it is answered, and the member lives.
pub async fn what_ends_etcd(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Passed);
    }
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let client = cluster.client(0);
    client.put("k", "v").await?;
    let delete = pb::DeleteRangeRequest {
        key: "a".into(),
        range_end: b"\0"[..].into(),
        ..Default::default()
    };
    let put = pb::PutRequest { key: "k".into(), ignore_value: true, ..Default::default() };
    let ops = [Request::RequestDeleteRange(delete), Request::RequestPut(put)];
    let success = ops.map(|request| pb::RequestOp { request: Some(request) }).into();
    let answer = client.txn(pb::TxnRequest { success, ..Default::default() }).await;
    scene.note(format!("answered with {:?}", answer.as_ref().map_err(Status::message)));
    let started = Instant::now();
    client.put("k", "still here").await.context("the member after it")?;
    ensure!(started.elapsed() < REFUSAL_WITHIN, "it took {:?}", started.elapsed());
    cluster.members[0].kill();
    cluster.members[0].start().await?;
    client.get("k").await.context("the member after a restart")?;
    Ok(Verdict::Passed)
}
