//! Members come and go while clients write.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::client::Client;
use tests::cluster::{Cluster, Plan, Program};
use tests::load::Ledger;
use tonic::{Code, Status};

const WRITERS: usize = 16;
const PUTS_BETWEEN: u64 = 200;
const SNAPSHOT_COUNT: u64 = 100;
/// Of membership changes with kills.
const ROUNDS: u64 = 6;
const STOPS_WITHIN: Duration = Duration::from_secs(20);
/// What Instar logs when it has installed a snapshot, and what etcd logs.
const SNAPSHOT_APPLIED: [&str; 2] = ["applied a snapshot", "applied snapshot"];

/// Whether a member was sent a snapshot in its present run.
pub fn got_snapshot(log: &str) -> bool {
    SNAPSHOT_APPLIED.iter().any(|line| log.contains(line))
}

async fn members(cluster: &Cluster, at: usize) -> Result<Vec<pb::Member>> {
    let client = cluster.client(at);
    cluster.members[at].wait_answer(async || client.members().await).await
}

/// One member, then three, five, and three again, under load: nothing acknowledged is lost.
pub async fn grows_and_shrinks_under_load(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 1, &scene.directory).flag("snapshot-count", SNAPSHOT_COUNT);
    let mut cluster = plan.start().await?;
    let ledger = Ledger::start("grow", &[cluster.members[0].address.clone()], WRITERS);
    for _ in 0..4 {
        ledger.wait_progress(PUTS_BETWEEN).await?;
        cluster.grow(0, false).await?;
    }
    ensure!(members(&cluster, 0).await?.len() == 5, "five members");
    ledger.wait_progress(PUTS_BETWEEN).await?;
    // Once a follower, once the leader, unless that is the one that the clients know.
    let leader = cluster.leader().await?;
    for at in [if leader == 0 { 4 } else { leader }, 1] {
        cluster.shrink(0, at).await?;
        ledger.wait_progress(PUTS_BETWEEN).await?;
    }
    ensure!(members(&cluster, 0).await?.len() == 3, "three members");
    let tally = ledger.settle(&cluster.client(0)).await?;
    let revision = cluster.wait_equal().await?;
    scene.note(format!("{tally:?}, equal at revision {revision}"));
    // They vote: the cluster lives without one of them, and not without two.
    cluster.members[2].kill();
    let client = cluster.client(0);
    cluster.members[0].wait_answer(async || client.put("k", "v").await).await?;
    Ok(Verdict::Passed)
}

/// A member that lost its data is refused under its old id, and comes back under a new one.
pub async fn a_lost_member_is_replaced(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let client = cluster.client(0);
    client.put("k", "v").await?;
    cluster.wait_equal().await?;
    let old = cluster.id(0, 2).await?;
    cluster.members[2].kill();
    fs::remove_dir_all(&cluster.members[2].data_directory)?;
    let described = members(&cluster, 0).await?;
    if scene.is_instar() {
        // etcd takes it back with state "existing", and with it a member that has forgotten what it voted.
        let fresh = cluster.members[2].flags.clone();
        for is_existing in [false, true] {
            if is_existing {
                cluster.members[2].joins(&described);
            }
            cluster.members[2].spawn()?;
            let exit = cluster.members[2].wait_exit(STOPS_WITHIN).await?;
            ensure!(!exit.status.success(), "it started without its data");
            let log = cluster.members[2].log();
            let told = ["has already been bootstrapped", "it has lost its data"];
            ensure!(told.iter().any(|line| log.contains(line)), "{log}");
            if cluster.members[2].data_directory.exists() {
                fs::remove_dir_all(&cluster.members[2].data_directory)?;
            }
        }
        cluster.members[2].flags = fresh;
    }
    cluster.remove(0, old).await?;
    let url = cluster.members[2].peer_url();
    let added = cluster.members[0].wait_answer(async || client.member_add(&url, false).await);
    let added = added.await?;
    let new = added.member.context("the member")?.id;
    ensure!(new != old, "the id {old:x} was given out again");
    cluster.members[2].joins(&added.members);
    cluster.members[2].start().await?;
    cluster.wait_equal().await?;
    ensure!(cluster.id(0, 2).await? == new, "it runs under the new id");
    Ok(Verdict::Passed)
}

/// Whoever joins long after the beginning is sent a snapshot.
pub async fn a_newcomer_gets_a_snapshot(scene: Scene) -> Result<Verdict> {
    let mut plan =
        Plan::new(scene.subject, 1, &scene.directory).flag("snapshot-count", SNAPSHOT_COUNT);
    if scene.subject == Program::Etcd {
        plan = plan.flag("snapshot-catchup-entries", SNAPSHOT_COUNT);
    }
    let mut cluster = plan.start().await?;
    let ledger = Ledger::start("before", &[cluster.members[0].address.clone()], WRITERS);
    ledger.wait_progress(3_000).await?;
    let newcomer = cluster.grow(0, false).await?;
    ensure!(got_snapshot(&cluster.members[newcomer].log()), "it got no snapshot");
    ledger.settle(&cluster.client(newcomer)).await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// A member that is removed stops and says why, also when it was down; and it does not come back.
pub async fn removed_members_stop(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 5, &scene.directory).start().await?;
    let told = "the member has been permanently removed from the cluster";
    let leader = cluster.leader().await?;
    let others: Vec<usize> = (0..5).filter(|&at| at != leader).collect();

    // While it is down.
    let down = others[0];
    let id = cluster.id(leader, down).await?;
    cluster.members[down].kill();
    cluster.remove(leader, id).await?;
    for _ in 0..2 {
        cluster.members[down].spawn()?;
        cluster.members[down].wait_exit(STOPS_WITHIN).await?;
        let log = cluster.members[down].log();
        ensure!(log.contains(told), "{log}");
    }
    // The leader, by itself: it is answered, and another one takes over.
    let id = cluster.id(leader, leader).await?;
    let client = cluster.client(leader);
    let left = cluster.members[leader].wait_answer(async || client.member_remove(id).await);
    ensure!(left.await?.len() == 3, "three are left");
    cluster.members[leader].wait_exit(STOPS_WITHIN).await?;
    ensure!(cluster.members[leader].log().contains(told), "the leader says why it stops");
    cluster.members[leader].spawn()?;
    let exit = cluster.members[leader].wait_exit(STOPS_WITHIN).await?;
    ensure!(cluster.members[leader].log().contains(told), "{exit:?}");
    let next = cluster.client(others[1]);
    cluster.members[others[1]].wait_answer(async || next.put("k", "v").await).await?;
    Ok(Verdict::Passed)
}

/// Two of three are lost for good: the third goes on alone, with everything, and grows again.
pub async fn a_new_cluster_is_forced(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", SNAPSHOT_COUNT);
    let mut cluster = plan.start().await?;
    let addresses: Vec<String> = cluster.members.iter().map(|m| m.address.clone()).collect();
    let ledger = Ledger::start("forced", &addresses, WRITERS);
    ledger.wait_progress(1_000).await?;
    ledger.settle(&cluster.client(0)).await?;
    let before = cluster.wait_equal().await?;
    let id = cluster.id(0, 0).await?;
    cluster.members.iter_mut().for_each(|member| member.kill());
    let mut lost = cluster.members.split_off(1);

    cluster.members[0].flags.push("--force-new-cluster".into());
    cluster.members[0].start().await?;
    let client = cluster.client(0);
    let after = client.get("any").await?.header.context("a header")?.revision;
    ensure!(after == before, "revision {before} has become {after}");
    let alone = members(&cluster, 0).await?;
    ensure!(alone.len() == 1 && alone[0].id == id, "{alone:?}");
    client.put("k", "alone").await?;
    cluster.members[0].kill();
    cluster.members[0].flags.retain(|flag| flag != "--force-new-cluster");
    cluster.members[0].start().await?;
    if scene.is_instar() {
        // The others are no members any more, should they return.
        lost[0].spawn()?;
        lost[0].wait_exit(STOPS_WITHIN).await?;
        ensure!(lost[0].log().contains("permanently removed"), "{}", lost[0].log());
    }
    cluster.grow(0, false).await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>) -> Option<(Code, String)> {
    answer.err().map(|status| (status.code(), status.message().to_owned()))
}

/// What a learner serves, and how it becomes a voter.
pub async fn learners(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let client = cluster.client(0);
    for at in 0..200 {
        client.put(&format!("k{at}"), "v").await?;
    }
    let at = cluster.add(0, true).await?;
    let id = cluster.id(0, at).await?;
    let early = refused(client.member_promote(id).await);
    let text = "etcdserver: can only promote a learner member which is in sync with leader";
    ensure!(early == Some((Code::FailedPrecondition, text.into())), "{early:?}");
    client.put("k0", "a learner that is not there takes no quorum away").await?;

    cluster.members[at].start().await?;
    let learner = cluster.client(at);
    let status = cluster.members[at].wait_answer(async || learner.status().await).await?;
    ensure!(status.is_learner, "{status:?}");
    let has_row = async || match learner.get_serializable("k0").await {
        Ok(answer) if answer.kvs.is_empty() => Err(Status::unavailable("nothing yet")),
        other => other,
    };
    cluster.members[at].wait_answer(has_row).await?;
    let not_for_learners =
        Some((Code::FailedPrecondition, "etcdserver: rpc not supported for learner".to_owned()));
    for (what, answer) in [
        ("get", refused(learner.get("k0").await)),
        ("put", refused(learner.put("k0", "w").await)),
        ("member list", refused(learner.members().await)),
        ("member add", refused(learner.member_add("http://127.0.0.1:1", true).await)),
        ("hash", refused(learner.hash_kv(0).await)),
        ("move leader", refused(learner.move_leader(id).await)),
        ("grant", refused(learner.grant(1, 60).await)),
        ("time to live", refused(learner.time_to_live(1).await)),
        ("keep alive", refused(learner.keep_alive(1).await)),
    ] {
        ensure!(answer == not_for_learners, "{what}: {answer:?}");
    }
    let snapshot = learner.maintenance.clone().snapshot(pb::SnapshotRequest {}).await?;
    let first = snapshot.into_inner().message().await?.context("a snapshot")?;
    ensure!(first.remaining_bytes > 0, "{} bytes are left", first.remaining_bytes);
    let bad = refused(client.move_leader(id).await);
    let text = "etcdserver: bad leader transferee";
    ensure!(bad == Some((Code::FailedPrecondition, text.into())), "{bad:?}");

    let promoted = cluster.members[0].wait_answer(async || client.member_promote(id).await).await?;
    ensure!(promoted.iter().all(|member| !member.is_learner), "{promoted:?}");
    cluster.members[at].wait_answer(async || learner.put("k0", "x").await).await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// A promotion is one with the state: it holds after everyone has been killed (etcd 3.5 wrote it into one of two stores,
/// and the upgrade to 3.6 found learners again).
pub async fn a_promotion_survives(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let client = cluster.client(0);
    let at = cluster.grow(0, true).await?;
    let id = cluster.id(0, at).await?;
    cluster.members[0].wait_answer(async || client.member_promote(id).await).await?;
    for round in 0..3 {
        cluster.members.iter_mut().for_each(|member| member.kill());
        cluster.start_all().await?;
        let listed = members(&cluster, at).await?;
        ensure!(listed.iter().all(|member| !member.is_learner), "round {round}: {listed:?}");
        let promoted = cluster.client(at);
        cluster.members[at].wait_answer(async || promoted.put("k", "v").await).await?;
    }
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// The leadership goes where it is told to.
pub async fn the_leader_moves(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    for _ in 0..3 {
        let leader = cluster.leader().await?;
        let to = (leader + 1) % 3;
        let id = cluster.id(leader, to).await?;
        let not_led = refused(cluster.client(to).move_leader(id).await);
        let text = "etcdserver: not leader";
        ensure!(not_led == Some((Code::FailedPrecondition, text.into())), "{not_led:?}");
        cluster.client(leader).move_leader(id).await?;
        ensure!(cluster.leader().await? == to, "it leads");
        let client = cluster.client(leader);
        cluster.members[leader].wait_answer(async || client.put("k", "v").await).await?;
    }
    Ok(Verdict::Passed)
}

/// A member moves to another port: the others find it when they have been told.
pub async fn a_member_moves(scene: Scene) -> Result<Verdict> {
    let mut cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let client = cluster.client(0);
    let id = cluster.id(0, 2).await?;
    cluster.members[2].kill();
    let (from, to) = (
        cluster.members[2].peer_url(),
        format!("http://127.0.0.1:{}", tests::cluster::free_port()),
    );
    let update = cluster.members[0]
        .wait_answer(async || client.member_update(id, vec![to.clone()]).await)
        .await?;
    ensure!(update.iter().any(|member| member.peer_ur_ls == [to.clone()]), "{update:?}");
    for flag in &mut cluster.members[2].flags {
        // What the cluster began with stays as it was.
        if !flag.starts_with("--initial-cluster=") {
            *flag = flag.replace(&from, &to);
        }
    }
    cluster.members[2].flags.retain(|flag| !flag.starts_with("--initial-cluster="));
    cluster.members[2].flags.push(format!("--initial-cluster=m2={to}"));
    cluster.members[2].flags.push("--initial-cluster-state=existing".into());
    client.put("k", "v").await?;
    cluster.members[2].start().await?;
    cluster.wait_equal().await?;
    Ok(Verdict::Passed)
}

/// Members are added and removed at random, and killed in the middle of it, the leader among them.
pub async fn changes_with_kills(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", SNAPSHOT_COUNT);
    let mut cluster = plan.start().await?;
    let mut random = StdRng::seed_from_u64(scene.seed);
    let ledger = Ledger::start("churn", &[cluster.members[0].address.clone()], WRITERS);
    let started = Instant::now();
    let mut changes = Vec::new();
    for _ in 0..ROUNDS * scene.campaign {
        ledger.wait_progress(PUTS_BETWEEN).await?;
        let grows = cluster.members.len() <= 3 || random.random_bool(0.4);
        let id = match grows {
            true => None,
            false => {
                let others: Vec<usize> = (1..cluster.members.len()).collect();
                let at = *others.choose(&mut random).context("a member")?;
                Some((at, cluster.id(0, at).await?))
            }
        };
        let client = cluster.client(0);
        let victim = match random.random_bool(0.5) {
            true => cluster.leader().await?,
            false => random.random_range(0..cluster.members.len()),
        };
        let newcomer = cluster.members[0].sibling(&format!("n{}", changes.len()));
        let url = newcomer.peer_url();
        let change = tokio::spawn(async move {
            // Whether it was made, the list tells.
            match id {
                None => drop(client.member_add(&url, false).await),
                Some((_, id)) => drop(client.member_remove(id).await),
            }
        });
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        cluster.members[victim].kill();
        tokio::time::sleep(Duration::from_millis(random.random_range(0..700))).await;
        change.await?;
        let leaves = id.is_some_and(|(at, _)| at == victim);
        if !leaves {
            cluster.members[victim].start().await?;
        }
        let told = match id {
            None => {
                let url = newcomer.peer_url();
                join(&mut cluster, newcomer, &url).await?;
                "added"
            }
            Some((at, id)) => {
                cluster.remove(0, id).await?;
                let mut gone = cluster.members.remove(at);
                if gone.is_started() {
                    gone.wait_exit(STOPS_WITHIN).await?;
                }
                "removed"
            }
        };
        changes.push(told);
    }
    ledger.wait_progress(PUTS_BETWEEN).await?;
    let listed = members(&cluster, 0).await?;
    ensure!(listed.len() == cluster.members.len(), "{listed:?}");
    let tally = ledger.settle(&cluster.client(0)).await?;
    let revision = cluster.wait_equal().await?;
    let took = started.elapsed();
    scene.note(format!(
        "seed {}, {changes:?}, {tally:?}, equal at revision {revision} after {took:?}",
        scene.seed
    ));
    Ok(Verdict::Passed)
}

/// Adds a member if it has not been added yet, and starts it.
async fn join(
    cluster: &mut Cluster,
    mut newcomer: tests::cluster::Member,
    url: &str,
) -> Result<()> {
    let client: Client = cluster.client(0);
    let listed = async || {
        let there = |members: &Vec<pb::Member>| {
            members.iter().any(|member| member.peer_ur_ls.iter().any(|each| each == url))
        };
        match client.members().await {
            Ok(members) if there(&members) => Ok(members),
            Ok(_) => match client.member_add(url, false).await {
                Ok(added) => Ok(added.members),
                Err(status) => Err(status),
            },
            Err(status) => Err(status),
        }
    };
    let members = cluster.members[0].wait_answer(listed).await?;
    newcomer.joins(&members);
    newcomer.start().await?;
    cluster.members.push(newcomer);
    Ok(())
}
