//! Histories of concurrent clients while members are killed and paused.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::check::{History, Outcome, check};
use tests::cluster::{Cluster, Plan};
use tests::load::Recorder;

const CLIENTS: usize = 10;
const LASTS: Duration = Duration::from_secs(25);
const LASTS_ASLEEP: Duration = Duration::from_secs(10);
const LASTS_ALONE: Duration = Duration::from_secs(8);
/// Answers between two faults.
const ANSWERS_BETWEEN: u64 = 200;
/// Fewer answers than this would not say much.
const ANSWERS_MIN: usize = 1_000;

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.members.iter().map(|member| member.address.clone()).collect()
}

/// Three members; one at a time (sometimes all) is killed or paused.
pub async fn under_kills_and_pauses(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 3, &scene.directory).flag("snapshot-count", 100);
    let mut cluster = plan.start().await?;
    let mut random = StdRng::seed_from_u64(scene.seed);
    let recorder = Recorder::start(&addresses(&cluster), CLIENTS, scene.seed).await?;
    let started = Instant::now();
    let lasts = LASTS * u32::try_from(scene.campaign)?;
    let mut faults = 0;
    while started.elapsed() < lasts {
        recorder.wait_progress(ANSWERS_BETWEEN).await?;
        let leader = cluster.leader().await?;
        let at = if random.random_bool(0.5) { leader } else { random.random_range(0..3) };
        let pause = Duration::from_millis(random.random_range(20..1500));
        match random.random_range(0..10) {
            0..4 => {
                cluster.members[at].pause()?;
                tokio::time::sleep(pause).await;
                cluster.members[at].resume()?;
            }
            4..9 => {
                cluster.members[at].kill();
                tokio::time::sleep(pause).await;
                cluster.members[at].spawn()?;
            }
            _ => {
                cluster.members.iter_mut().for_each(|member| member.kill());
                cluster.members.iter_mut().try_for_each(|member| member.spawn())?;
            }
        }
        cluster.wait_ready().await?;
        faults += 1;
    }
    recorder.wait_progress(ANSWERS_BETWEEN).await?;
    let history = recorder.finish(&cluster.client(0)).await?;
    // Not before the clients have ended: the members are compared one after the other.
    cluster.wait_equal().await?;
    judge(&scene, &history, faults)
}

/// The leader sleeps until the others have elected another, wakes up and believes for a moment that it still leads.
///
/// Found as a stale read in `under_kills_and_pauses`, seed 10377112633558014431: an acknowledgement from before the
/// pause confirmed a read from after it (`raft/acknowledgements.rs`).
pub async fn under_leaders_that_wake_up(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 3, &scene.directory)
        .flag("heartbeat-interval", 50)
        .flag("election-timeout", 300);
    let mut cluster = plan.start().await?;
    let mut random = StdRng::seed_from_u64(scene.seed);
    let recorder = Recorder::start(&addresses(&cluster), CLIENTS, scene.seed).await?;
    let started = Instant::now();
    let lasts = LASTS_ASLEEP * u32::try_from(scene.campaign)?;
    let mut faults = 0;
    while started.elapsed() < lasts {
        recorder.wait_progress(ANSWERS_BETWEEN).await?;
        let leader = cluster.leader().await?;
        cluster.members[leader].pause()?;
        tokio::time::sleep(Duration::from_millis(random.random_range(200..700))).await;
        cluster.members[leader].resume()?;
        faults += 1;
    }
    recorder.wait_progress(ANSWERS_BETWEEN).await?;
    let history = recorder.finish(&cluster.client(0)).await?;
    cluster.wait_equal().await?;
    judge(&scene, &history, faults)
}

/// One member, killed again and again.
pub async fn of_one_member(scene: Scene) -> Result<Verdict> {
    let plan = Plan::new(scene.subject, 1, &scene.directory).flag("snapshot-count", 100);
    let mut cluster = plan.start().await?;
    let recorder = Recorder::start(&addresses(&cluster), CLIENTS, scene.seed).await?;
    let started = Instant::now();
    let lasts = LASTS_ALONE * u32::try_from(scene.campaign)?;
    let mut faults = 0;
    while started.elapsed() < lasts {
        recorder.wait_progress(ANSWERS_BETWEEN).await?;
        cluster.members[0].kill();
        cluster.members[0].start().await?;
        faults += 1;
    }
    recorder.wait_progress(ANSWERS_BETWEEN).await?;
    let history = recorder.finish(&cluster.client(0)).await?;
    judge(&scene, &history, faults)
}

fn judge(scene: &Scene, history: &History, faults: usize) -> Result<Verdict> {
    let count = |wanted: fn(&Outcome) -> bool| {
        history.operations.iter().filter(|operation| wanted(&operation.outcome)).count()
    };
    let wrote = count(|outcome| matches!(outcome, Outcome::Wrote { .. }));
    let saw = count(|outcome| matches!(outcome, Outcome::Saw { .. }));
    let unknown = count(|outcome| matches!(outcome, Outcome::Unknown));
    scene.note(format!(
        "seed {}, {faults} faults, {wrote} writes, {saw} reads, {unknown} unknown, {} revisions",
        scene.seed,
        history.timeline.states.len()
    ));
    ensure!(wrote + saw >= ANSWERS_MIN, "too few answers to say anything");
    if let Err(violation) = check(history) {
        let path = scene.directory.join("history.log");
        let lines: Vec<String> =
            history.operations.iter().enumerate().map(|(at, op)| format!("{at} {op:?}")).collect();
        std::fs::write(&path, lines.join("\n")).context("write the history")?;
        return Err(violation).context("the history is not linearizable; it is in history.log");
    }
    Ok(Verdict::Passed)
}
