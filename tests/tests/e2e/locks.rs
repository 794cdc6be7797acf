//! The Lock and Election services: etcd's answers, one owner at a time, and nothing left of who went away.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::etcdserverpb::ResponseHeader;
use proto::v3electionpb as election;
use proto::v3electionpb::election_client::ElectionClient;
use proto::v3lockpb as lock;
use proto::v3lockpb::lock_client::LockClient;
use tests::case::{Scene, Verdict};
use tests::client::{Client, prefix};
use tests::cluster::{Cluster, Plan, Program, etcd_programs};
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// How long a claim that must wait is given to show that it does.
const STILL_WAITS: Duration = Duration::from_millis(300);
const WITHIN: Duration = Duration::from_secs(20);

/// Both services of one member.
#[derive(Clone)]
struct Services {
    lock: LockClient<Channel>,
    election: ElectionClient<Channel>,
}

impl Services {
    fn of(cluster: &Cluster, at: usize) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.members[at].address))?;
        let channel = endpoint.connect_lazy();
        Ok(Self { lock: LockClient::new(channel.clone()), election: ElectionClient::new(channel) })
    }

    async fn lock(&self, name: &str, lease: i64) -> Result<lock::LockResponse, Status> {
        let request = lock::LockRequest { name: name.to_owned().into(), lease };
        Ok(self.lock.clone().lock(request).await?.into_inner())
    }

    async fn unlock(&self, key: &[u8]) -> Result<lock::UnlockResponse, Status> {
        let request = lock::UnlockRequest { key: key.to_vec().into() };
        Ok(self.lock.clone().unlock(request).await?.into_inner())
    }

    async fn campaign(
        &self,
        name: &str,
        lease: i64,
        value: &str,
    ) -> Result<election::CampaignResponse, Status> {
        let (name, value) = (name.to_owned().into(), value.to_owned().into());
        let request = election::CampaignRequest { name, lease, value };
        Ok(self.election.clone().campaign(request).await?.into_inner())
    }

    async fn proclaim(
        &self,
        leader: Option<election::LeaderKey>,
        value: &str,
    ) -> Result<election::ProclaimResponse, Status> {
        let request = election::ProclaimRequest { leader, value: value.to_owned().into() };
        Ok(self.election.clone().proclaim(request).await?.into_inner())
    }

    async fn leader(&self, name: &str) -> Result<election::LeaderResponse, Status> {
        let request = election::LeaderRequest { name: name.to_owned().into() };
        Ok(self.election.clone().leader(request).await?.into_inner())
    }

    async fn resign(
        &self,
        leader: Option<election::LeaderKey>,
    ) -> Result<election::ResignResponse, Status> {
        let request = election::ResignRequest { leader };
        Ok(self.election.clone().resign(request).await?.into_inner())
    }
}

/// What was answered, step by step, without what two servers may differ in.
#[derive(Default)]
struct Script(Vec<String>);

impl Script {
    fn note<T: Debug>(&mut self, step: &str, answer: Result<T, Status>) {
        let text = match answer {
            Ok(answer) => format!("{answer:?}"),
            Err(status) => format!("{:?}: {}", status.code(), status.message()),
        };
        self.0.push(format!("{step}: {text}"));
    }

    /// The same of an answer whose header is taken apart.
    fn answer<T: Debug>(
        &mut self,
        step: &str,
        answer: Result<T, Status>,
        header: impl Fn(&mut T) -> &mut Option<ResponseHeader>,
    ) -> Option<T> {
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(status) => {
                self.note::<T>(step, Err(status));
                return None;
            }
        };
        if let Some(header) = header(&mut answer) {
            header.cluster_id = u64::from(header.cluster_id != 0);
            header.member_id = u64::from(header.member_id != 0);
            header.raft_term = u64::from(header.raft_term != 0);
        }
        self.0.push(format!("{step}: {answer:?}"));
        Some(answer)
    }
}

async fn locks(script: &mut Script, client: &Client, services: &Services) -> Result<()> {
    for id in [1, 2, -26] {
        client.grant(id, 1_000).await?;
    }
    let first = services.lock("door", 1).await;
    let first = script.answer("lock", first, |it| &mut it.header).context("it is free")?;
    script.answer("again", services.lock("door", 1).await, |it| &mut it.header);
    script.answer("another door", services.lock("gate", -26).await, |it| &mut it.header);
    script.answer("no such lease", services.lock("door", 99).await, |it| &mut it.header);
    script.answer("no name", services.lock("", 1).await, |it| &mut it.header);

    let waiting = services.clone();
    let second = tokio::spawn(async move { waiting.lock("door", 2).await });
    tokio::time::sleep(STILL_WAITS).await;
    ensure!(!second.is_finished(), "two own the lock");
    script.answer("unlock", services.unlock(&first.key).await, |it| &mut it.header);
    let second = tokio::time::timeout(WITHIN, second).await.context("nobody gets the lock")??;
    script.answer("the next", second, |it| &mut it.header);
    script.answer("unlock what is not", services.unlock(b"door/1").await, |it| &mut it.header);
    script.answer("unlock nothing", services.unlock(b"").await, |it| &mut it.header);

    // The lease of one who waits ends: it gets no lock.
    let waiting = services.clone();
    let third = tokio::spawn(async move { waiting.lock("door", 1).await });
    wait_count(client, "door/", 2).await?;
    client.revoke(1).await?;
    client.revoke(2).await?;
    let third = tokio::time::timeout(WITHIN, third).await.context("it waits for ever")??;
    script.answer("a lease that ended", third, |it| &mut it.header);
    Ok(())
}

async fn elections(script: &mut Script, client: &Client, services: &Services) -> Result<()> {
    for id in [11, 12] {
        client.grant(id, 1_000).await?;
    }
    script.answer("no leader", services.leader("seat").await, |it| &mut it.header);
    script.answer("proclaim as nobody", services.proclaim(None, "x").await, |it| &mut it.header);
    script.answer("resign as nobody", services.resign(None).await, |it| &mut it.header);
    let won = services.campaign("seat", 11, "one").await;
    let won = script.answer("campaign", won, |it| &mut it.header).context("the seat is free")?;
    script.answer("leader", services.leader("seat").await, |it| &mut it.header);
    let mut observed = services.election.clone();
    let request = election::LeaderRequest { name: "seat".into() };
    let mut observed = observed.observe(request).await?.into_inner();
    script.answer("observed", next(&mut observed).await, |it| &mut it.header);
    let proclaimed = services.proclaim(won.leader.clone(), "two").await;
    script.answer("proclaim", proclaimed, |it| &mut it.header);
    script.answer("observed", next(&mut observed).await, |it| &mut it.header);
    script.answer("again", services.campaign("seat", 11, "three").await, |it| &mut it.header);
    script.answer("observed", next(&mut observed).await, |it| &mut it.header);
    script.answer("no lease", services.campaign("seat", 99, "x").await, |it| &mut it.header);

    let waiting = services.clone();
    let second = tokio::spawn(async move { waiting.campaign("seat", 12, "four").await });
    wait_count(client, "seat/", 2).await?;
    tokio::time::sleep(STILL_WAITS).await;
    ensure!(!second.is_finished(), "two lead");
    script.answer("resign", services.resign(won.leader.clone()).await, |it| &mut it.header);
    let second = tokio::time::timeout(WITHIN, second).await.context("nobody follows")??;
    script.answer("the next", second, |it| &mut it.header);
    script.answer("observed", next(&mut observed).await, |it| &mut it.header);
    let late = services.proclaim(won.leader.clone(), "late").await;
    script.answer("proclaim too late", late, |it| &mut it.header);
    script.answer("resign again", services.resign(won.leader).await, |it| &mut it.header);
    client.revoke(12).await?;
    script.answer("its lease ended", services.leader("seat").await, |it| &mut it.header);
    Ok(())
}

async fn next(
    observed: &mut tonic::Streaming<election::LeaderResponse>,
) -> Result<election::LeaderResponse, Status> {
    let message = tokio::time::timeout(WITHIN, observed.message()).await;
    let message = message.map_err(|_| Status::unknown("nothing is observed"))?;
    message?.ok_or_else(|| Status::unknown("the stream has ended"))
}

/// Waits until there are so many keys below a prefix.
async fn wait_count(client: &Client, below: &str, count: i64) -> Result<()> {
    let waiting = async {
        while client.range(prefix(below)).await?.count != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Status>(())
    };
    tokio::time::timeout(WITHIN, waiting)
        .await
        .with_context(|| format!("there are never {count} keys below {below}"))??;
    Ok(())
}

/// The same steps are answered alike by both, header revisions and errors included.
pub async fn answers_are_etcds(scene: Scene) -> Result<Verdict> {
    if let Err(reason) = etcd_programs() {
        return Ok(Verdict::Skipped(reason));
    }
    let mut scripts = Vec::new();
    for (program, directory) in [(Program::Etcd, "etcd"), (scene.subject, "subject")] {
        let cluster = Plan::new(program, 1, &scene.directory.join(directory)).start().await?;
        let (client, services) = (cluster.client(0), Services::of(&cluster, 0)?);
        let mut script = Script::default();
        locks(&mut script, &client, &services).await?;
        elections(&mut script, &client, &services).await?;
        scripts.push(script.0);
    }
    for (etcd, subject) in scripts[0].iter().zip(&scripts[1]) {
        ensure!(etcd == subject, "answered differently:\n  etcd: {etcd}\n  here: {subject}");
    }
    scene.note(format!("{} steps", scripts[0].len()));
    Ok(Verdict::Passed)
}

const OWNERS: i64 = 12;
const TURNS: u64 = 15;

/// Many want one lock, on all members: it is never owned by two, and everyone gets their turns.
pub async fn one_owner_at_a_time(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 3, &scene.directory).start().await?;
    let inside = Arc::new(AtomicU64::new(0));
    let mut owners = JoinSet::new();
    for owner in 1..=OWNERS {
        let at = owner as usize % 3;
        let (client, services) = (cluster.client(at), Services::of(&cluster, at)?);
        let inside = inside.clone();
        owners.spawn(async move {
            client.grant(owner, 1_000).await?;
            for _ in 0..TURNS {
                let held = services.lock("one", owner).await?;
                let others = inside.fetch_add(1, Ordering::SeqCst);
                client.put("turn", &owner.to_string()).await?;
                inside.fetch_sub(1, Ordering::SeqCst);
                if others != 0 {
                    return Err(Status::internal("the lock has two owners"));
                }
                services.unlock(&held.key).await?;
            }
            Ok(())
        });
    }
    while let Some(owner) = owners.join_next().await {
        owner??;
    }
    ensure!(cluster.client(0).range(prefix("one/")).await?.count == 0, "claims are left");
    scene.note(format!("{} turns", OWNERS as u64 * TURNS));
    Ok(Verdict::Passed)
}

/// A client that gives up waiting leaves no claim behind, and one that dies leaves it to its lease.
pub async fn who_goes_away_is_forgotten(scene: Scene) -> Result<Verdict> {
    let cluster = Plan::new(scene.subject, 1, &scene.directory).start().await?;
    let (client, services) = (cluster.client(0), Services::of(&cluster, 0)?);
    for (id, ttl) in [(1, 3), (2, 1_000), (3, 1_000)] {
        client.grant(id, ttl).await?;
    }
    services.lock("door", 1).await?;
    services.campaign("seat", 1, "one").await?;
    let (waiting, candidate) = (services.clone(), services.clone());
    let waiting = tokio::spawn(async move { waiting.lock("door", 2).await });
    let candidate = tokio::spawn(async move { candidate.campaign("seat", 2, "two").await });
    wait_count(&client, "door/", 2).await?;
    wait_count(&client, "seat/", 2).await?;
    waiting.abort();
    candidate.abort();
    wait_count(&client, "door/", 1).await?;
    wait_count(&client, "seat/", 1).await?;
    // The first owner says nothing more: its lease ends, and the next one is served.
    let door = tokio::time::timeout(WITHIN, services.lock("door", 3)).await;
    door.context("the lock of a dead owner")??;
    let seat = tokio::time::timeout(WITHIN, services.campaign("seat", 3, "three")).await;
    seat.context("the seat of a dead leader")??;
    Ok(Verdict::Passed)
}
