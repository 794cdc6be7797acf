//! Instar's answers beside etcd's.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use proto::etcdserverpb as pb;
use tests::case::{Scene, Verdict};
use tests::client::everything;
use tests::cluster::{Program, etcd_programs};
use tests::differential::{Call, EtcdEnded, Generator, Message, Pair, Reply, shrink};

/// Requests in CI.
const REQUESTS: u64 = 24_000;
/// Fresh servers are started now and then: some bugs show only while there is little data.
const REQUESTS_PER_PAIR: u64 = 6_000;
/// How often etcd may end in a run.
const ENDS_OF_ETCD: u64 = 2;
/// Far enough from a seed to be none of its parts'.
const OTHER_SEEDS: u64 = 1_000_000;
/// Requests in CI that are about leases, half of them.
const LEASE_REQUESTS: u64 = 10_000;
/// How long a reproduction is shrunk.
const SHRINK_WITHIN: Duration = Duration::from_secs(90);

const PLANTED_SHRINK_WITHIN: Duration = Duration::from_secs(20);
/// Two puts of one key would do; a busy machine may not get quite there.
const PLANTED_CALLS_MAX: usize = 4;

/// A random stream of requests is answered alike by both, and leaves both with equal keys.
pub async fn same_answers(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let directory = scene.directory.clone();
    let pair = Pair { subject: scene.subject, directory, planted: None };
    let requests = REQUESTS * scene.campaign;
    let started = Instant::now();
    let (mut part, mut ended) = (0, 0);
    while part < requests.div_ceil(REQUESTS_PER_PAIR) {
        let generator = Generator::new(scene.seed.wrapping_add(part + ended * OTHER_SEEDS));
        match compare(&scene, &pair, generator, REQUESTS_PER_PAIR).await {
            Ok(()) => part += 1,
            // Some requests end etcd 3.7.1 itself, and then there is nothing to compare with.
            Err(error) if ended < ENDS_OF_ETCD && error.is::<EtcdEnded>() => {
                scene.note(format!("begun again with another seed: {error}"));
                ended += 1;
            }
            Err(error) => return Err(error),
        }
    }
    let rate = requests as f64 / started.elapsed().as_secs_f64();
    scene.note(format!("{requests} requests, seed {}, {rate:.0} a second", scene.seed));
    Ok(Verdict::Passed)
}

/// Leases are granted, used, renewed, asked about and revoked alike by both.
pub async fn same_leases(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let directory = scene.directory.clone();
    let pair = Pair { subject: scene.subject, directory, planted: None };
    let requests = LEASE_REQUESTS * scene.campaign;
    for part in 0..requests.div_ceil(REQUESTS_PER_PAIR) {
        let generator = Generator::with_leases(scene.seed.wrapping_add(part));
        compare(&scene, &pair, generator, REQUESTS_PER_PAIR.min(requests)).await?;
    }
    scene.note(format!("{requests} requests, seed {}", scene.seed));
    Ok(Verdict::Passed)
}

async fn compare(
    scene: &Scene,
    pair: &Pair,
    mut generator: Generator,
    requests: u64,
) -> Result<()> {
    let seed = scene.seed;
    let mut running = pair.start().await?;
    let mut sent = Vec::new();
    for _ in 0..requests {
        let call = generator.call();
        sent.push(call.clone());
        if let Some(difference) = running.send(&call).await? {
            scene.note(format!("seed {seed}: {difference}the end of the log here:"));
            scene.note(running.subject_log_end());
            drop(running);
            match shrink(pair, &sent, SHRINK_WITHIN).await? {
                None => scene.note("fresh servers do not show it again"),
                Some(shrunk) => {
                    scene.note(
                        "shrunk; revisions from 2^40 on are relative to the latest, from 2^41 on",
                    );
                    scene.note("to the compacted one:");
                    shrunk.calls.iter().for_each(|call| scene.note(format!("  {call:?}")));
                    scene.note(shrunk.difference.to_string());
                }
            }
            bail!("answers differ (seed {seed})");
        }
    }
    let [etcd, subject] = running.clients();
    let last = [Call::HashKv(pb::HashKvRequest::default()), Call::Range(everything())];
    for call in last {
        let (etcd, subject) = (call.send(etcd).await, call.send(subject).await);
        ensure!(
            etcd == subject && etcd.error.is_none(),
            "{call:?} differs at the end (seed {seed})"
        );
    }
    Ok(())
}

/// etcd beside itself with a fault in its answers: the test above would see it and shrink it.
pub async fn a_planted_difference_is_found(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let pair = Pair {
        subject: Program::Etcd,
        directory: scene.directory.clone(),
        planted: Some(forget_former),
    };
    let mut generator = Generator::new(scene.seed);
    let calls: Vec<Call> = (0..3000).map(|_| generator.call()).collect();
    let Some(difference) = pair.first_difference(&calls).await? else {
        bail!("3,000 requests and nobody noticed")
    };
    let shrunk = shrink(&pair, &calls[..=difference.at], PLANTED_SHRINK_WITHIN).await?;
    let Some(shrunk) = shrunk else { bail!("fresh servers do not show it again") };
    scene.note(format!("found at request {}, shrunk to {}", difference.at, shrunk.calls.len()));
    ensure!(shrunk.calls.len() <= PLANTED_CALLS_MAX, "shrunk to as many as {:#?}", shrunk.calls);
    Ok(Verdict::Passed)
}

/// A put that is asked for the former row does not tell it.
fn forget_former(_: &Call, reply: &mut Reply) {
    for message in &mut reply.messages {
        if let Message::Put(put) = message {
            put.prev_kv = None;
        }
    }
}
