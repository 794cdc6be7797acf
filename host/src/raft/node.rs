//! One member of the cluster: puts the parts together, and takes them apart again.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, ServerState};
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use super::RequestError;
use super::apply::ApplyThread;
use super::confirmer::Confirmer;
use super::digests::Digests;
use super::feed::EventFeed;
use super::lease_rounds::{LeaseRound, PeerLeaseRound};
use super::machine_keeper::MachineKeeper;
use super::membership::{ChangePolicy, MemberRecord, MembershipChange};
use super::membership_keeper::{Attempt, ChangeError, MembershipKeeper};
use super::network::{OwnIdentity, Peers};
use super::observer::Observer;
use super::progress::{Expelled, Progress};
use super::shadow::Shadows;
use super::shard::{Shard, Shards};
use super::state_machine::StateMachine;
use super::types::{Member, Raft};
use super::upkeep::Upkeep;
use super::wiring::{Wiring, own_record};
use crate::runtime::Machines;
use crate::storage::{Log, LogState, State, Views};

/// How long a leader that stops waits for another one to take over.
const TRANSFER_PATIENCE: Duration = Duration::from_millis(1_000);
/// How often a member that is not yet in the membership as it should be tries again.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// How long a change of the membership that could not be proposed waits before it is tried again.
const CHANGE_RETRY_DELAY: Duration = Duration::from_millis(20);

const LOST_DATA: &str = "it has lost its data since it joined, and with it what it voted and acknowledged; remove it \
                         from the cluster and add it as a new member";

/// What a member is started with.
pub struct NodeOptions {
    pub own: OwnIdentity,
    pub name: String,
    pub client_urls: Vec<String>,
    /// The members that the cluster begins with, this one among them: id -> name and peer URLs. Every member must be
    /// started with the same. None for a member that joins a running cluster.
    pub initial_members: BTreeMap<u64, (String, Vec<String>)>,
    pub heartbeat_interval_ms: u64,
    pub election_timeout_ms: u64,
    /// After how many entries the log is shortened.
    pub snapshot_entries: u64,
    /// Where snapshots lie while they are sent or received.
    pub snapshot_directory: PathBuf,
    /// How many client runtimes there are.
    pub shards: usize,
    pub request_timeout: Duration,
    /// Drawn anew for each start of the process.
    pub process_incarnation: u64,
    pub change_policy: ChangePolicy,
    /// Begin as the only member, whatever the log says of others.
    pub force_new_cluster: bool,
}

impl NodeOptions {
    pub(super) fn election_timeout(&self) -> Duration {
        Duration::from_millis(self.election_timeout_ms)
    }
}

/// Why a member could not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("raft cannot be set up: {0}")]
    Configuration(String),
    #[error("the raft log cannot be read: {0}")]
    Log(String),
    #[error("raft cannot start: {0}")]
    Raft(String),
    #[error(
        "the member has been permanently removed from the cluster; its data directory is of no use any more: start a \
         new member, with an empty one, after adding it to the cluster"
    )]
    Removed,
    #[error("a thread or the peer listener cannot be started: {0}")]
    System(#[from] io::Error),
}

/// Why a member has ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Failed(String),
    /// From the cluster, by an operator.
    Removed,
}

/// Why the leadership was not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MoveLeaderError {
    #[error("this member does not lead")]
    NotLeader,
    #[error("this is no member that could lead")]
    BadTransferee,
    #[error("the other member did not take over in time")]
    TimedOut,
}

/// A running member. It lives on the raft runtime; what others need of it is shared.
pub struct Node {
    pub(super) raft: Raft,
    /// Of raft.
    pub(super) confirmer: Arc<Confirmer>,
    runtime: tokio::runtime::Handle,
    pub(super) own_id: u64,
    pub progress: Arc<Progress>,
    pub(super) peers: Arc<Peers>,
    pub(super) membership: Arc<MembershipKeeper>,
    /// Gone once the member stops, and with it the thread.
    apply: Mutex<Option<ApplyThread>>,
    pub(super) digests: Arc<Digests>,
    pub(super) snapshot_directory: PathBuf,
    /// Held while the state is defragmented.
    pub(super) defragmenting: tokio::sync::Mutex<()>,
    /// The events of what is applied.
    pub feed: Arc<EventFeed>,
    /// Where machines are rehearsed.
    pub shadows: Arc<Shadows>,
    shards: Arc<Shards>,
    /// For what this member asks of itself; its runtime is raft's.
    pub(super) own_shard: Arc<Shard>,
    /// Told once this member has published itself.
    published: Notify,
    threads: Mutex<Vec<JoinHandle<()>>>,
    election_timeout: Duration,
    lease_rounds: mpsc::Sender<LeaseRound>,
    peer_lease_rounds: Mutex<Option<mpsc::Receiver<PeerLeaseRound>>>,
    pub(super) request_timeout: Duration,
}

impl Node {
    /// Starts the member and serves its peers. To be called on the raft runtime, which its tasks stay on.
    pub async fn start(
        options: NodeOptions,
        log: (Log, LogState),
        (state, views): (State, Views),
        machines: Arc<Machines>,
        observers: Vec<Arc<dyn Observer>>,
        peer_listeners: Vec<TcpListener>,
    ) -> Result<Arc<Self>, StartError> {
        let (wiring, mut queues) = Wiring::new(&options, &views)?;
        let (reader, peers_reader) = (machines.reader(), machines.reader());
        let (log, recovered) = wiring.recover(&options, log, &views)?;
        let (log_store, log_handle) = wiring.start_log(log, recovered)?;
        let (apply, apply_handle) =
            wiring.start_applying(&options, state, machines.clone(), observers)?;
        let state_machine =
            StateMachine::new(apply.clone(), views.clone(), wiring.progress.clone());
        let raft = wiring.start_raft(&options, log_store, state_machine).await?;

        let node = Arc::new(Self {
            confirmer: Arc::new(Confirmer::new(raft.clone())),
            raft: raft.clone(),
            runtime: tokio::runtime::Handle::current(),
            own_id: options.own.member_id,
            progress: wiring.progress.clone(),
            peers: wiring.peers.clone(),
            membership: wiring.keeper(&options, raft),
            apply: Mutex::new(Some(apply)),
            digests: wiring.digests.clone(),
            snapshot_directory: options.snapshot_directory.clone(),
            defragmenting: tokio::sync::Mutex::new(()),
            feed: wiring.feed.clone(),
            shadows: wiring.shadows.clone(),
            shards: wiring.shards.clone(),
            own_shard: wiring.shards.own(),
            published: Notify::new(),
            threads: Mutex::new(vec![log_handle, apply_handle]),
            election_timeout: options.election_timeout(),
            lease_rounds: wiring.lease_rounds.clone(),
            peer_lease_rounds: Mutex::new(queues.peer_lease_rounds.take()),
            request_timeout: options.request_timeout,
        });
        wiring.serve_peers(&options, &node, &views, peers_reader, peer_listeners)?;
        wiring.spawn_proposing(&node, queues);
        let shard = wiring.shards.own();
        let progress = wiring.progress;
        let keeper = MachineKeeper {
            own_id: options.own.member_id,
            machines,
            views: views.clone(),
            progress: progress.clone(),
            shard: shard.clone(),
        };
        tokio::spawn(keeper.run());
        tokio::spawn(Upkeep { reader, views, progress, shard: shard.clone() }.run());
        tokio::spawn(async move { shard.run().await });
        tokio::spawn(node.membership.clone().run());
        tokio::spawn(node.clone().follow_metrics());
        tokio::spawn(node.clone().notice_expulsion());
        tokio::spawn(node.clone().publish(own_record(&options)));
        Ok(node)
    }

    /// The shard of a client runtime.
    pub fn shard(&self, number: usize) -> Option<Arc<Shard>> {
        self.shards.get(number)
    }

    /// How many client runtimes there are.
    pub fn shard_count(&self) -> usize {
        self.shards.of_clients()
    }

    /// The shard of the member itself, whose runtime is raft's.
    pub fn own_shard(&self) -> Arc<Shard> {
        self.own_shard.clone()
    }

    /// Where the leader is asked for the time of leases.
    pub fn lease_rounds(&self) -> mpsc::Sender<LeaseRound> {
        self.lease_rounds.clone()
    }

    /// What peers ask this member for while it leads. There is one receiver: later calls give none.
    pub fn peer_lease_rounds(&self) -> Option<mpsc::Receiver<PeerLeaseRound>> {
        self.peer_lease_rounds.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits until this member can serve: a leader has confirmed that it leads, and the membership says of this member
    /// what it says of itself (etcd is ready at the same point).
    pub async fn ready(&self) {
        while self.own_shard.read_index().await.is_err() {}
        self.published.notified().await;
    }

    /// A way to the apply thread, unless the member is stopping.
    pub(super) fn apply(&self) -> io::Result<ApplyThread> {
        let apply = self.apply.lock().unwrap_or_else(PoisonError::into_inner).clone();
        apply.ok_or_else(|| io::Error::other("this member is stopping"))
    }

    pub fn member_id(&self) -> u64 {
        self.own_id
    }

    /// The leader, unless this member has lost touch with it.
    pub fn leader_id(&self) -> Option<u64> {
        self.progress.leader_id_within(self.election_timeout * 3)
    }

    /// Whether this member follows without a vote.
    pub fn is_learner(&self) -> bool {
        self.progress.is_learner()
    }

    /// The members as of the last entry that was applied here.
    pub fn members(&self) -> Vec<MemberRecord> {
        self.progress.applied_membership().records()
    }

    /// Changes the membership, through the leader if that is another member, and waits until the change is applied
    /// here. The change goes on if nobody waits for it any more.
    pub async fn change_membership(
        self: &Arc<Self>,
        change: MembershipChange,
    ) -> Result<Vec<MemberRecord>, ChangeError> {
        let node = self.clone();
        let changing = self.runtime.spawn(async move {
            let deadline = node.request_timeout;
            let made = async {
                loop {
                    match node.attempt_change(&change).await? {
                        Attempt::NotNow => tokio::time::sleep(CHANGE_RETRY_DELAY).await,
                        Attempt::Refused(refused) => return Err(ChangeError::Refused(refused)),
                        Attempt::Unknown => return Err(RequestError::LeaderLost.into()),
                        Attempt::Changed(changed) => return Ok(changed),
                    }
                }
            };
            let made = tokio::time::timeout(deadline, made).await;
            let changed = made.map_err(|_| ChangeError::from(RequestError::TimedOut))??;
            let applied = node.progress.wait_applied(changed.log_index);
            // A member that is removed may never come to apply it.
            drop(tokio::time::timeout(node.election_timeout, applied).await);
            Ok(changed.members)
        });
        changing.await.map_err(|_| RequestError::Stopped)?
    }

    async fn attempt_change(&self, change: &MembershipChange) -> Result<Attempt, ChangeError> {
        match self.progress.leader_id() {
            _ if self.raft.is_leader() => Ok(self.membership.change(change).await),
            Some(leader_id) if leader_id != self.own_id => {
                let attempt = self.peers.change_membership(leader_id, change).await;
                attempt.map_err(|error| {
                    tracing::warn!(error = %error, "cannot forward a change of the membership");
                    RequestError::ConnectionLost.into()
                })
            }
            _ => Ok(Attempt::NotNow),
        }
    }

    /// Hands the leadership to another member, and waits until that has it.
    pub async fn move_leader(self: &Arc<Self>, to: u64) -> Result<(), MoveLeaderError> {
        if !self.raft.is_leader() {
            return Err(MoveLeaderError::NotLeader);
        }
        let membership = self.progress.membership();
        let is_voter = membership.voter_ids().any(|voter| voter == to);
        let leads = membership.get_node(&to).is_some_and(|member| !member.attributes().is_learner);
        if !is_voter || !leads {
            return Err(MoveLeaderError::BadTransferee);
        }
        if to == self.own_id {
            return Ok(());
        }
        let node = self.clone();
        let moving = self.runtime.spawn(async move {
            // A leader that hands over serves nobody meanwhile: not to one that will not answer.
            if !node.membership.is_in_touch(to) {
                return false;
            }
            let mut metrics = node.raft.server_metrics();
            if !node.membership.transfer(to, node.request_timeout).await {
                return false;
            }
            let taken = async {
                while metrics.borrow_watched().current_leader != Some(to) {
                    if metrics.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::time::timeout(node.request_timeout, taken).await.is_ok()
        });
        match moving.await {
            Ok(true) => Ok(()),
            _ => Err(MoveLeaderError::TimedOut),
        }
    }

    /// Waits until this member cannot go on, or is removed from the cluster. Never returns while all is well.
    pub async fn ended(&self) -> Ended {
        tokio::select! {
            reason = self.progress.wait_failure() => Ended::Failed(reason),
            why = self.progress.wait_expelled() => match why {
                Expelled::Removed => Ended::Removed,
                Expelled::LostData => Ended::Failed(LOST_DATA.to_owned()),
            },
        }
    }

    /// Hands the leadership over if this member has it, stops raft, and brings the state to disk.
    pub async fn stop(&self) {
        if self.raft.is_leader()
            && let Some(successor) = self.successor()
            && !self.membership.transfer(successor, TRANSFER_PATIENCE).await
        {
            tracing::warn!("nobody took the leadership over in time; an election will");
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(error = %error, "raft did not stop in order");
        }
    }

    /// Waits for the log and apply threads. To be called when the raft runtime is gone, and with it their handles.
    pub fn join_threads(&self) {
        drop(self.apply.lock().unwrap_or_else(PoisonError::into_inner).take());
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of raft has panicked");
            }
        }
    }

    /// The voter that has replicated most.
    pub(super) fn successor(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let replication = metrics.replication.as_ref()?;
        replication
            .iter()
            .filter(|(id, _)| **id != self.own_id && voters.contains(id))
            .max_by_key(|(_, matched)| matched.as_ref().map(|log_id| log_id.index))
            .map(|(id, _)| *id)
    }

    /// Keeps `progress` level with what openraft publishes: what changes seldom when it changes, the rest, which changes
    /// with every entry, in its own time.
    async fn follow_metrics(self: Arc<Self>) {
        let mut changes = self.raft.server_metrics();
        let mut ticks = tokio::time::interval(self.election_timeout / 10);
        let metrics = self.raft.metrics();
        let mut last = None;
        loop {
            let current = {
                let current = changes.borrow_and_update();
                let membership = &current.membership_config;
                if membership.log_id() != self.progress.membership().log_id() {
                    self.peers.retain(membership);
                }
                self.progress.set_membership(membership.clone());
                let own = membership.get_node(&self.own_id);
                self.progress.set_learner(own.is_some_and(|own| own.attributes().is_learner));
                let leads = current.state == ServerState::Leader
                    && current.current_leader == Some(self.own_id);
                (current.vote.leader_id.term, current.current_leader, leads)
            };
            let (term, leader_id, leads) = current;
            self.progress.set_leader(term, leader_id, leads);
            if last.replace(current) != Some(current) {
                self.progress.leader_seen(Duration::ZERO);
                let leader = leader_id.map(|id| format!("{id:x}")).unwrap_or_default();
                tracing::info!(term, leader, leads, "the leader or the term has changed");
            }
            let acknowledged = {
                let metrics = metrics.borrow_watched();
                if let Err(fatal) = &metrics.running_state {
                    self.progress.fail(fatal.to_string());
                    return;
                }
                metrics.last_quorum_acked
            };
            if leads && self.progress.membership().voter_ids().count() == 1 {
                // A quorum of one is not asked, and never acknowledges.
                self.progress.leader_seen(Duration::ZERO);
            } else if leads && let Some(instant) = acknowledged {
                self.progress.leader_seen(instant.elapsed());
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() {
                    self.progress.fail("raft has stopped".to_owned());
                    return;
                },
                _ = ticks.tick() => {}
            }
        }
    }

    /// A member that hears of no leader asks the others whether it is one of them at all.
    async fn notice_expulsion(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.election_timeout);
        loop {
            ticks.tick().await;
            if self.progress.leader_id_within(self.election_timeout * 2).is_some() {
                continue;
            }
            let membership = self.progress.membership();
            let others = membership.nodes().map(|(id, _)| *id).filter(|id| *id != self.own_id);
            for id in others {
                let asked = tokio::time::timeout(self.election_timeout, self.peers.read_index(id));
                if let Ok(Err(error)) = asked.await
                    && let Some(why) = error.expulsion()
                {
                    return self.progress.set_expelled(why);
                }
            }
        }
    }

    /// Keeps trying until the membership says of this member what it says of itself.
    async fn publish(self: Arc<Self>, own: Member) {
        let published = || {
            self.progress.membership().get_node(&self.own_id).is_some_and(|known| {
                let (known, own) = (known.attributes(), own.attributes());
                (&known.name, &known.client_urls, &known.data_incarnation)
                    == (&own.name, &own.client_urls, &own.data_incarnation)
            })
        };
        while !published() {
            match self.progress.leader_id() {
                Some(leader_id) if leader_id == self.own_id => {
                    self.membership.set_attributes(self.own_id, own.clone()).await;
                }
                Some(leader_id) => {
                    if let Err(error) = self.peers.publish(leader_id, &own).await {
                        tracing::debug!(error = %error, "cannot publish this member yet");
                    }
                }
                None => {}
            }
            tokio::time::sleep(PUBLISH_INTERVAL).await;
        }
        self.published.notify_one();
    }
}
