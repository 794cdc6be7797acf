//! Members die, and are paused, at every step of putting another machine in the place of the one that runs, while
//! clients write: at the end all run the same machine on equal states, and nothing acknowledged is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use proto::instar::v1 as pb;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tests::case::{Scene, Verdict};
use tests::client::{Client, within};
use tests::cluster::{Cluster, Plan};
use tonic::Status;

use super::machines::{machines_of, put, twin};
use super::membership::got_snapshot;

/// Of each step, for each unit of the campaign.
const ROUNDS: u64 = 2;
/// How soon a member dies after a step was asked for.
const DIES_WITHIN_MS: u64 = 150;
const ANSWERED_WITHIN: Duration = Duration::from_secs(8);
const DONE_WITHIN: Duration = Duration::from_secs(60);
/// The log is shortened so often that who was away gets a snapshot.
const SNAPSHOT_ENTRIES: u64 = 100;
/// Who writes while a member is away, and how often each: more than the others' logs hold.
const MISSED_WRITERS: usize = 32;
const MISSED_PUTS: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Put,
    Prepare,
    Activate,
    Provoke,
    RollBack,
}

const STEPS: [Step; 5] = [Step::Put, Step::Prepare, Step::Activate, Step::Provoke, Step::RollBack];

/// One client for each member: every write has a key of its own, and what is acknowledged is noted.
struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let tasks = (0..cluster.members.len()).map(|at| {
            let (client, stop) = (cluster.client(at), stop.clone());
            tokio::spawn(Self::write(client, at, stop, Arc::clone(&acknowledged)))
        });
        let tasks = tasks.collect();
        Self { stop, acknowledged, tasks }
    }

    async fn write(
        client: Client,
        at: usize,
        stop: Arc<AtomicBool>,
        acknowledged: Arc<Mutex<Vec<String>>>,
    ) {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let key = format!("kills/{at}/{number}");
            match within(ANSWERED_WITHIN, client.put(&key, &key)).await {
                Ok(_) => acknowledged.lock().expect("no writer panics").push(key),
                // Its member is dead; there is nothing to hurry for.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn end(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await?;
        }
        Ok(std::mem::take(&mut *self.acknowledged.lock().expect("no writer panics")))
    }
}

/// What is asked of one member, whatever becomes of it.
async fn ask(
    cluster_address: &str,
    step: Step,
    component: &Bytes,
    digest: &Bytes,
) -> Result<(), Status> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{cluster_address}"))
        .map_err(|error| Status::internal(error.to_string()))?;
    let channel =
        endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let mut client = pb::machine_client::MachineClient::new(channel);
    let digest = digest.clone();
    match step {
        Step::Put => put(&mut client, component).await.map(drop),
        Step::Prepare => client.prepare(pb::PrepareRequest { digest }).await.map(drop),
        Step::Activate => {
            let request = pb::ActivateRequest { digest, ..Default::default() };
            match client.activate(request).await {
                // An earlier attempt, whose answer was lost, has done it.
                Err(status) if status.message().contains("is active already") => Ok(()),
                other => other.map(drop),
            }
        }
        Step::Provoke => Client::new(cluster_address).put("kills/provoke", "x").await.map(drop),
        Step::RollBack => {
            match client.rollback(pb::RollbackRequest::default()).await {
                // The same.
                Err(status) if status.message().contains("no previous machine") => Ok(()),
                other => other.map(drop),
            }
        }
    }
}

/// Carries a step out, asking one member after the other until one has said yes.
async fn carry_out(cluster: &Cluster, step: Step, component: &Bytes, digest: &Bytes) -> Result<()> {
    let started = Instant::now();
    for at in (0..cluster.members.len()).cycle() {
        let asked = ask(&cluster.members[at].address, step, component, digest);
        match within(ANSWERED_WITHIN, asked).await {
            Ok(()) => return Ok(()),
            Err(status) if started.elapsed() > DONE_WITHIN => bail!("{step:?} never is: {status}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    unreachable!("a cycle does not end")
}

/// A step is asked for, a member dies or stops meanwhile, and comes back.
async fn disturbed(
    cluster: &mut Cluster,
    random: &mut StdRng,
    step: Step,
    (component, digest): (&Bytes, &Bytes),
) -> Result<()> {
    let (victim, through) = (random.random_range(0..3), random.random_range(0..3));
    let address = cluster.members[through].address.clone();
    let (asked, named) = (component.clone(), digest.clone());
    let asking =
        tokio::spawn(
            async move { within(ANSWERED_WITHIN, ask(&address, step, &asked, &named)).await },
        );
    tokio::time::sleep(Duration::from_millis(random.random_range(0..DIES_WITHIN_MS))).await;
    let pauses = random.random_bool(0.25);
    match pauses {
        true => cluster.members[victim].pause()?,
        false => cluster.members[victim].kill(),
    }
    let away = Duration::from_millis(random.random_range(0..600));
    tokio::time::sleep(away).await;
    match pauses {
        true => cluster.members[victim].resume()?,
        false => cluster.members[victim].start().await?,
    }
    // Whatever it was answered, it is asked for again.
    drop(asking.await?);
    carry_out(cluster, step, component, digest).await
}

pub async fn at_every_step(scene: Scene) -> Result<Verdict> {
    if !scene.is_instar() {
        return Ok(Verdict::Skipped("etcd has no machine to replace".to_owned()));
    }
    scene.note(format!("INSTAR_SEED={}", scene.seed));
    let mut random = StdRng::seed_from_u64(scene.seed);
    let plan = Plan::new(scene.subject, 3, &scene.directory);
    let mut cluster = plan.flag("snapshot-count", SNAPSHOT_ENTRIES).start().await?;
    let load = Load::start(&cluster);
    let components = [twin(), Bytes::from(hostile::kv("trap"))];
    for round in 0..ROUNDS * scene.campaign {
        let component = &components[(round % 2) as usize];
        let digest = Bytes::copy_from_slice(&hostile::digest(component));
        for step in STEPS {
            let context = || format!("round {round}, {step:?}");
            disturbed(&mut cluster, &mut random, step, (component, &digest))
                .await
                .with_context(context)?;
        }
    }
    two_operators(&cluster, &components).await?;
    across_a_switch(&mut cluster, &mut random).await?;
    let acknowledged = load.end().await?;
    let revision = cluster.wait_equal().await?;
    let mut active = Vec::new();
    for at in 0..3 {
        let listed = machines_of(&cluster, at).await?.list(pb::ListRequest {}).await?.into_inner();
        active.push((listed.active, listed.previous, listed.on_probation));
        for key in acknowledged.iter().step_by(7) {
            let found = cluster.client(at).get_serializable(key).await?;
            ensure!(found.count == 1, "{key} was acknowledged, and {at} does not have it");
        }
    }
    ensure!(active.iter().all(|it| *it == active[0]), "members run different machines");
    ensure!(acknowledged.len() > 100, "only {} writes", acknowledged.len());
    scene.note(format!("{} writes acknowledged, equal at {revision}", acknowledged.len()));
    Ok(Verdict::Passed)
}

/// Of two that replace the same machine at once, one does, and the other is told.
async fn two_operators(cluster: &Cluster, components: &[Bytes; 2]) -> Result<()> {
    let mut digests = Vec::new();
    for component in components {
        let digest = Bytes::copy_from_slice(&hostile::digest(component));
        carry_out(cluster, Step::Put, component, &digest).await?;
        carry_out(cluster, Step::Prepare, component, &digest).await?;
        digests.push(digest);
    }
    let mut clients = (machines_of(cluster, 0).await?, machines_of(cluster, 1).await?);
    let expected_active = clients.0.list(pb::ListRequest {}).await?.into_inner().active;
    let request = |digest: &Bytes| pb::ActivateRequest {
        digest: digest.clone(),
        expected_active: expected_active.clone(),
    };
    let (first, second) = tokio::join!(
        clients.0.activate(request(&digests[0])),
        clients.1.activate(request(&digests[1])),
    );
    let lost = match (first, second) {
        (Ok(_), Err(status)) | (Err(status), Ok(_)) => status,
        other => bail!("of two activations one is carried out: {other:?}"),
    };
    ensure!(lost.message().contains("not the machine that was expected"), "{lost}");
    clients.0.rollback(pb::RollbackRequest::default()).await?;
    Ok(())
}

/// A member that was away while the machine was switched gets both, the state and the machine, from a snapshot.
async fn across_a_switch(cluster: &mut Cluster, random: &mut StdRng) -> Result<()> {
    let away = random.random_range(0..3);
    cluster.members[away].kill();
    let component = twin();
    let digest = Bytes::copy_from_slice(&hostile::digest(&component));
    carry_out(cluster, Step::Activate, &component, &digest).await?;
    let writers = (0..MISSED_WRITERS).map(|writer| {
        let client = cluster.client((away + 1 + writer % 2) % 3);
        tokio::spawn(async move {
            for number in 0..MISSED_PUTS {
                let key = format!("kills/far/{writer}");
                let put = client.put(&key, if number == 0 { "first" } else { "later" });
                within(ANSWERED_WITHIN, put).await?;
            }
            Ok::<(), Status>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await?.context("a quorum is there")?;
    }
    cluster.members[away].start().await?;
    let member = &cluster.members[away];
    member.wait_answer(async || member.client().get("kills/far/0").await).await?;
    ensure!(got_snapshot(&member.log()), "no snapshot was needed");
    let listed = machines_of(cluster, away).await?.list(pb::ListRequest {}).await?.into_inner();
    ensure!(listed.active == digest, "it runs another machine than the cluster");
    Ok(())
}
