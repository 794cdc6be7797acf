//! One member of the cluster: puts the parts together, and takes them apart again.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, Instant, ServerState, SnapshotPolicy};
use prost::Message;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use super::apply::{Applier, ApplyThread};
use super::clock::ReplicatedClock;
use super::digests::{Digest, Digests};
use super::lease_rounds::{LeaseRound, LeaseRounds, PeerLeaseRound};
use super::log_store::{self, LogStore, Recovered};
use super::log_thread::LogThread;
use super::membership::MembershipKeeper;
use super::network::{Network, OwnIdentity, Peers};
use super::observer::Observer;
use super::peer_service::{self, PeerService};
use super::progress::Progress;
use super::proposer::Proposer;
use super::read_index::ReadIndex;
use super::shard::{Shard, ShardLinks, Shards};
use super::state_machine::{StateMachine, applied_state};
use super::types::{self, Member, MemberAttributes, Raft, StoredMembership};
use super::upkeep::Upkeep;
use crate::limits;
use crate::runtime::Machine;
use crate::storage::{Log, LogState, Mark, State, Views};

/// How long a leader that stops waits for another one to take over.
const TRANSFER_PATIENCE: Duration = Duration::from_millis(1_000);
/// How often a member that is not yet in the membership as it should be tries again.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(20);

/// What a member is started with.
pub struct NodeOptions {
    pub own: OwnIdentity,
    pub name: String,
    pub client_urls: Vec<String>,
    /// The members that the cluster begins with, this one among them: id -> name and peer URLs. Every member must be
    /// started with the same.
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
}

/// What the membership says of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    pub id: u64,
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    pub is_learner: bool,
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
    #[error("a thread or the peer listener cannot be started: {0}")]
    System(#[from] io::Error),
}

/// A running member. It lives on the raft runtime; what others need of it is shared.
pub struct Node {
    pub(super) raft: Raft,
    pub(super) own_id: u64,
    pub progress: Arc<Progress>,
    pub(super) peers: Arc<Peers>,
    /// Gone once the member stops, and with it the thread.
    apply: Mutex<Option<ApplyThread>>,
    pub(super) digests: Arc<Digests>,
    pub(super) snapshot_directory: PathBuf,
    /// Held while the state is defragmented.
    pub(super) defragmenting: tokio::sync::Mutex<()>,
    shards: Arc<Shards>,
    /// For what this member asks of itself; its runtime is raft's.
    pub(super) own_shard: Arc<Shard>,
    /// Told once this member has published itself.
    published: Arc<Notify>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    election_timeout: Duration,
    lease_rounds: mpsc::Sender<LeaseRound>,
    peer_lease_rounds: Mutex<Option<mpsc::Receiver<PeerLeaseRound>>>,
}

impl Node {
    /// Starts the member and serves its peers. To be called on the raft runtime, which its tasks stay on.
    pub async fn start(
        options: NodeOptions,
        (log, log_state): (Log, LogState),
        (state, views): (State, Views),
        machine: Machine,
        observers: Vec<Arc<dyn Observer>>,
        peer_listeners: Vec<TcpListener>,
    ) -> Result<Arc<Self>, StartError> {
        let applied_index = views.latest().mark().applied.map_or(0, |applied| applied.index);
        let progress = Arc::new(Progress::new(applied_index));
        let clock = Arc::new(ReplicatedClock::starting_at(views.latest().mark().time_ms));
        let durable_applied_index = Arc::new(AtomicU64::new(applied_index));
        let (proposal_sender, proposals) = mpsc::channel(limits::PROPOSAL_BATCHES);
        let (round_sender, rounds) = mpsc::channel(limits::READ_ROUNDS);
        let (lease_sender, lease_rounds) = mpsc::channel(limits::READ_ROUNDS);
        let (peer_lease_sender, peer_lease_rounds) = mpsc::channel(limits::PEER_LEASE_ROUNDS);
        let links = ShardLinks {
            member_id: options.own.member_id,
            incarnation: options.process_incarnation,
            request_timeout: options.request_timeout,
            progress: progress.clone(),
            proposals: proposal_sender.clone(),
            read_rounds: round_sender,
        };
        let shards = Arc::new(Shards::new(options.shards, &links));
        let own_shard = shards.own();
        let published = Arc::new(Notify::new());

        let digests = Arc::new(Digests::default());
        let digest = views.latest().mark().digest;
        digests.restart_from(Digest { index: applied_index, digest });

        let recovered = recover(&log, &log_state)?;
        let disk = log.reader();
        let (log_thread, log_handle) = LogThread::start(log)?;
        let log_store = LogStore::new(log_thread, disk, recovered, durable_applied_index.clone());
        let (reader, peers_reader) = (machine.reader(), machine.reader());
        let applier = Applier {
            state,
            machine,
            shards: shards.clone(),
            progress: progress.clone(),
            clock: clock.clone(),
            durable_applied_index,
            observers,
            digests: digests.clone(),
            passed_over_index: 0,
        };
        let (apply, apply_handle) = ApplyThread::start(applier)?;

        let election_timeout = Duration::from_millis(options.election_timeout_ms);
        let peers = Arc::new(Peers::new(
            options.own.clone(),
            progress.clone(),
            election_timeout,
            options.snapshot_directory.clone(),
        ));
        let (_, membership) = applied_state(views.latest().mark())?;
        progress.set_membership(Arc::new(membership));
        let state_machine = StateMachine::new(apply.clone(), views.clone(), progress.clone());
        let config = configuration(&options)?;
        let network = Network { peers: peers.clone() };
        let raft = Raft::new(options.own.member_id, config, network, log_store, state_machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        initialize(&raft, &options).await?;

        let node = Arc::new(Self {
            raft: raft.clone(),
            own_id: options.own.member_id,
            progress: progress.clone(),
            peers: peers.clone(),
            apply: Mutex::new(Some(apply)),
            digests: digests.clone(),
            snapshot_directory: options.snapshot_directory.clone(),
            defragmenting: tokio::sync::Mutex::new(()),
            shards: shards.clone(),
            own_shard: own_shard.clone(),
            published: published.clone(),
            threads: Mutex::new(vec![log_handle, apply_handle]),
            election_timeout,
            lease_rounds: lease_sender,
            peer_lease_rounds: Mutex::new(Some(peer_lease_rounds)),
        });
        tokio::spawn(node.clone().follow_metrics());

        let membership = Arc::new(MembershipKeeper::new(raft.clone(), progress.clone()));
        let service = PeerService {
            own: options.own.clone(),
            raft: raft.clone(),
            progress: progress.clone(),
            membership: membership.clone(),
            proposals: proposal_sender,
            lease_rounds: peer_lease_sender,
            request_timeout: options.request_timeout,
            snapshot_directory: options.snapshot_directory.clone(),
            digests,
            views: views.clone(),
            reader: Mutex::new(peers_reader),
            peers: peers.clone(),
        };
        peer_service::serve(service, peer_listeners)?;
        let request_timeout = options.request_timeout;
        let proposer = Proposer {
            raft: raft.clone(),
            peers: peers.clone(),
            progress: progress.clone(),
            clock,
            shards: shards.clone(),
            request_timeout,
        };
        tokio::spawn(proposer.run(proposals));
        let read_index = ReadIndex {
            raft: raft.clone(),
            peers: peers.clone(),
            progress: progress.clone(),
            request_timeout,
        };
        tokio::spawn(read_index.run(rounds));
        let leases =
            LeaseRounds { raft, peers: peers.clone(), progress: progress.clone(), request_timeout };
        tokio::spawn(leases.run(lease_rounds));
        let shard = own_shard.clone();
        tokio::spawn(async move { own_shard.run().await });
        tokio::spawn(Upkeep { reader, views, progress: progress.clone(), shard }.run());
        let own = own_record(&options);
        tokio::spawn(async move {
            publish(own, peers, progress, membership).await;
            published.notify_one();
        });
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

    pub fn members(&self) -> Vec<MemberRecord> {
        records(&self.progress.membership())
    }

    /// Waits until this member cannot go on, and says why. Never returns while all is well.
    pub async fn failed(&self) -> String {
        tokio::select! {
            reason = self.raft_failed() => reason,
            reason = self.progress.wait_failure() => reason,
        }
    }

    async fn raft_failed(&self) -> String {
        let mut metrics = self.raft.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "raft has stopped".to_owned();
            }
        }
    }

    /// Hands the leadership over if this member has it, stops raft, and brings the state to disk.
    pub async fn stop(&self) {
        if self.raft.is_leader()
            && let Some(successor) = self.successor()
        {
            tracing::info!(to = format!("{successor:x}"), "handing the leadership over");
            if self.raft.trigger().transfer_leader(successor).await.is_ok() {
                let mut metrics = self.raft.server_metrics();
                let gone = async {
                    while metrics.borrow_watched().current_leader == Some(self.own_id) {
                        if metrics.changed().await.is_err() {
                            return;
                        }
                    }
                };
                if tokio::time::timeout(TRANSFER_PATIENCE, gone).await.is_err() {
                    tracing::warn!("nobody took the leadership over in time; an election will");
                }
            }
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

    /// Keeps `progress` level with what openraft publishes.
    async fn follow_metrics(self: Arc<Self>) {
        let mut changes = self.raft.server_metrics();
        let mut ticks = tokio::time::interval(self.election_timeout / 10);
        let metrics = self.raft.metrics();
        let mut last = None;
        loop {
            let current = {
                let current = changes.borrow_and_update();
                self.progress.set_membership(current.membership_config.clone());
                self.progress.set_learner(current.state == ServerState::Learner);
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
            let acknowledged = metrics.borrow_watched().last_quorum_acked;
            if leads && self.progress.membership().voter_ids().count() == 1 {
                // A quorum of one is not asked, and never acknowledges.
                self.progress.leader_seen(Duration::ZERO);
            } else if leads && let Some(instant) = acknowledged {
                self.progress.leader_seen(instant.elapsed());
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = ticks.tick() => {}
            }
        }
    }
}

/// The members as of a state.
pub fn recorded_members(mark: &Mark) -> io::Result<Vec<MemberRecord>> {
    Ok(records(&applied_state(mark)?.1))
}

fn records(membership: &StoredMembership) -> Vec<MemberRecord> {
    let voters: Vec<u64> = membership.voter_ids().collect();
    let record = |(id, member): (&u64, &Member)| {
        let MemberAttributes { name, peer_urls, client_urls, .. } = member.attributes().clone();
        MemberRecord { id: *id, name, peer_urls, client_urls, is_learner: !voters.contains(id) }
    };
    membership.nodes().map(record).collect()
}

/// openraft's settings.
fn configuration(options: &NodeOptions) -> Result<Arc<Config>, StartError> {
    let config = Config {
        cluster_name: format!("{:x}", options.own.cluster_id),
        heartbeat_interval: options.heartbeat_interval_ms,
        election_timeout_min: (options.election_timeout_ms / 2)
            .max(options.heartbeat_interval_ms + 1),
        election_timeout_max: options.election_timeout_ms.max(options.heartbeat_interval_ms + 2),
        enable_pre_vote: Some(true),
        // The default loses acknowledged writes: a leader that dies with a tail that is not on disk, and restarts at
        // once, would resume its term and give the same log id to another entry. Never to be changed
        // (tests: `a_restarted_leader_does_not_reuse_log_ids`).
        enable_leader_restore: Some(false),
        // A follower that has lost its log must not be taken for one that is only behind.
        allow_log_reversion: None,
        quorum_loss_probe_interval: Some(options.election_timeout_ms * 2),
        state_machine_channel_size: Some(limits::APPLY_COMMANDS),
        max_payload_entries: limits::APPEND_REQUEST_ENTRIES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(options.snapshot_entries),
        max_in_snapshot_log_to_keep: limits::LOG_KEPT_ENTRIES.min(options.snapshot_entries),
        purge_batch_size: limits::LOG_PURGE_ENTRIES,
        install_snapshot_timeout: limits::SNAPSHOT_TRANSFER_MS,
        backoff: "50ms 100ms 200ms 500ms 1s".to_owned(),
        broadcast_submitted_on_append: Some(true),
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| StartError::Configuration(error.to_string()))
}

/// Decodes what the log keeps of raft's own.
fn recover(log: &Log, state: &LogState) -> Result<Recovered, StartError> {
    let failed = |error: String| StartError::Log(error);
    let decode_log_id = |row: &Bytes| {
        let message = proto::instar::log::LogId::decode(row.clone())
            .map_err(|error| failed(error.to_string()))?;
        types::log_id_from_pb(message).map_err(|error| failed(error.to_string()))
    };
    let vote = state.vote.as_ref().map(|row| {
        let message = proto::instar::log::Vote::decode(row.clone())
            .map_err(|error| failed(error.to_string()))?;
        types::vote_from_pb(Some(message)).map_err(|error| failed(error.to_string()))
    });
    let last_purged = state.purged.as_ref().map(|(_, row)| decode_log_id(row)).transpose()?;
    let last_row = match state.last_index {
        Some(index) => log
            .reader()
            .read(index..index + 1, usize::MAX)
            .map_err(|error| failed(error.to_string()))?
            .pop(),
        None => None,
    };
    let last = last_row
        .map(|(index, row)| log_store::log_id_of_row(index, row))
        .transpose()
        .map_err(|error| failed(error.to_string()))?;
    Ok(Recovered {
        vote: vote.transpose()?,
        committed: state.committed.as_ref().map(decode_log_id).transpose()?,
        last_purged,
        last: last.or(last_purged),
    })
}

/// Gives a new cluster its first membership. Every member does it, with the same members.
async fn initialize(raft: &Raft, options: &NodeOptions) -> Result<(), StartError> {
    let member = |(id, (name, peer_urls)): (&u64, &(String, Vec<String>))| {
        let attributes = MemberAttributes {
            name: name.clone(),
            peer_urls: peer_urls.clone(),
            ..MemberAttributes::default()
        };
        (*id, Member::new(attributes))
    };
    let members: BTreeMap<u64, Member> = options.initial_members.iter().map(member).collect();
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        // There is a log or a vote already: the cluster has begun before.
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(error) => Err(StartError::Raft(error.to_string())),
    }
}

fn own_record(options: &NodeOptions) -> Member {
    Member::new(MemberAttributes {
        name: options.name.clone(),
        peer_urls: Vec::new(),
        client_urls: options.client_urls.clone(),
        data_incarnation: Bytes::copy_from_slice(&options.own.data_incarnation),
    })
}

/// Keeps trying until the membership says of this member what it says of itself.
async fn publish(
    own: Member,
    peers: Arc<Peers>,
    progress: Arc<Progress>,
    membership: Arc<MembershipKeeper>,
) {
    let own_id = peers.own_id();
    let published = || {
        progress.membership().get_node(&own_id).is_some_and(|known| {
            let (known, own) = (known.attributes(), own.attributes());
            (&known.name, &known.client_urls, &known.data_incarnation)
                == (&own.name, &own.client_urls, &own.data_incarnation)
        })
    };
    while !published() {
        match progress.leader_id() {
            Some(leader_id) if leader_id == own_id => {
                membership.set_attributes(own_id, own.clone()).await;
            }
            Some(leader_id) => {
                if let Err(error) = peers.publish(leader_id, &own).await {
                    tracing::debug!(error = %error, "cannot publish this member yet");
                }
            }
            None => {}
        }
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
}
