//! How the parts of a member are wired when it starts.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::errors::{InitializeError, RaftError};
use openraft::{Config, SnapshotPolicy};
use prost::Message;
use tokio::sync::mpsc;

use super::apply::{Applier, ApplyThread};
use super::clock::ReplicatedClock;
use super::digests::{Digest, Digests};
use super::execution;
use super::feed::EventFeed;
use super::force_new_cluster::force_new_cluster;
use super::lease_rounds::{LeaseRound, LeaseRounds, PeerLeaseRound};
use super::log_store::{self, LogStore, Recovered};
use super::log_thread::LogThread;
use super::machine_commands;
use super::membership::AppliedMembership;
use super::membership_keeper::MembershipKeeper;
use super::module_execution::ActiveModules;
use super::network::{Network, Peers};
use super::node::{Node, NodeOptions, StartError};
use super::observer::Observer;
use super::peer_service::{self, PeerService};
use super::progress::Progress;
use super::proposer::{Proposal, Proposer};
use super::read_index::{ReadIndex, ReadRound};
use super::shadow::Shadows;
use super::shard::{ShardLinks, Shards};
use super::state_machine::{StateMachine, applied_state};
use super::types::{self, Member, MemberAttributes, Raft};
use crate::limits;
use crate::runtime::{ActiveReader, Machines};
use crate::storage::{Log, LogState, State, Views};

/// What the parts of a member share.
pub struct Wiring {
    pub progress: Arc<Progress>,
    pub shards: Arc<Shards>,
    pub peers: Arc<Peers>,
    pub digests: Arc<Digests>,
    pub feed: Arc<EventFeed>,
    pub shadows: Arc<Shadows>,
    pub lease_rounds: mpsc::Sender<LeaseRound>,
    peer_lease_rounds: mpsc::Sender<PeerLeaseRound>,
    clock: Arc<ReplicatedClock>,
    durable_applied_index: Arc<AtomicU64>,
    proposal_sender: mpsc::Sender<Vec<Proposal>>,
}

/// The ends that tasks take.
pub struct Queues {
    proposals: mpsc::Receiver<Vec<Proposal>>,
    rounds: mpsc::Receiver<ReadRound>,
    lease_rounds: mpsc::Receiver<LeaseRound>,
    /// For whoever keeps the leases' time.
    pub peer_lease_rounds: Option<mpsc::Receiver<PeerLeaseRound>>,
}

impl Wiring {
    pub fn new(options: &NodeOptions, views: &Views) -> Result<(Self, Queues), StartError> {
        let view = views.latest();
        let applied_index = view.mark().applied.map_or(0, |applied| applied.index);
        let progress = Arc::new(Progress::new(applied_index));
        let membership = applied_membership(views)?;
        progress.set_membership(Arc::new(membership.stored.clone()));
        let is_removed = membership.removed.contains(&options.own.member_id);
        progress.set_applied_membership(membership);
        if is_removed {
            return Err(StartError::Removed);
        }
        let (proposal_sender, proposals) = mpsc::channel(limits::PROPOSAL_BATCHES);
        let (read_rounds, rounds) = mpsc::channel(limits::READ_ROUNDS);
        let (lease_sender, lease_rounds) = mpsc::channel(limits::READ_ROUNDS);
        let (peer_lease_sender, peer_lease_rounds) = mpsc::channel(limits::PEER_LEASE_ROUNDS);
        let peer_lease_rounds = Some(peer_lease_rounds);
        let links = ShardLinks {
            member_id: options.own.member_id,
            incarnation: options.process_incarnation,
            request_timeout: options.request_timeout,
            progress: progress.clone(),
            proposals: proposal_sender.clone(),
            read_rounds,
        };
        let peers = Peers::new(
            options.own.clone(),
            progress.clone(),
            options.election_timeout(),
            options.snapshot_directory.clone(),
        );
        let digests = Digests::default();
        digests.restart_from(Digest { index: applied_index, digest: view.mark().digest });
        let wiring = Self {
            shards: Arc::new(Shards::new(options.shards, &links)),
            peers: Arc::new(peers),
            digests: Arc::new(digests),
            feed: Arc::new(EventFeed::new(view.mark().revision, options.shards)),
            shadows: Arc::default(),
            lease_rounds: lease_sender,
            peer_lease_rounds: peer_lease_sender,
            clock: Arc::new(ReplicatedClock::starting_at(view.mark().time_ms)),
            durable_applied_index: Arc::new(AtomicU64::new(applied_index)),
            progress,
            proposal_sender,
        };
        Ok((wiring, Queues { proposals, rounds, lease_rounds, peer_lease_rounds }))
    }

    /// What raft left in the log, or what it is made to have left.
    pub fn recover(
        &self,
        options: &NodeOptions,
        (mut log, state): (Log, LogState),
        views: &Views,
    ) -> Result<(Log, Recovered), StartError> {
        let mut recovered = recover(&log, &state)?;
        if options.force_new_cluster {
            let (applied, _) = applied_state(views.latest().mark())?;
            let membership = applied_membership(views)?;
            let own_id = options.own.member_id;
            recovered = force_new_cluster(&mut log, recovered, own_id, applied, membership)?;
        }
        Ok((log, recovered))
    }

    pub fn start_log(
        &self,
        log: Log,
        recovered: Recovered,
    ) -> Result<(LogStore, JoinHandle<()>), StartError> {
        let disk = log.reader();
        let (thread, handle) = LogThread::start(log)?;
        Ok((LogStore::new(thread, disk, recovered, self.durable_applied_index.clone()), handle))
    }

    pub fn start_applying(
        &self,
        options: &NodeOptions,
        state: State,
        machines: Arc<Machines>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> io::Result<(ApplyThread, JoinHandle<()>)> {
        let slots = machine_commands::slots(&*state.view()).map_err(io::Error::other)?;
        let modules = ActiveModules::load(&*state.view(), &machines)?;
        ApplyThread::start(Applier {
            own_id: options.own.member_id,
            state,
            machine: execution::under(&slots, &machines.active()),
            modules,
            machines,
            slots,
            shards: self.shards.clone(),
            progress: self.progress.clone(),
            clock: self.clock.clone(),
            feed: self.feed.clone(),
            durable_applied_index: self.durable_applied_index.clone(),
            observers,
            digests: self.digests.clone(),
            shadows: self.shadows.clone(),
            passed_over_index: 0,
        })
    }

    pub async fn start_raft(
        &self,
        options: &NodeOptions,
        log_store: LogStore,
        state_machine: StateMachine,
    ) -> Result<Raft, StartError> {
        let config = configuration(options)?;
        let network = Network { peers: self.peers.clone() };
        let raft = Raft::new(options.own.member_id, config, network, log_store, state_machine)
            .await
            .map_err(|error| StartError::Raft(error.to_string()))?;
        if !options.initial_members.is_empty() {
            initialize(&raft, options).await?;
        }
        Ok(raft)
    }

    pub fn keeper(&self, options: &NodeOptions, raft: Raft) -> Arc<MembershipKeeper> {
        Arc::new(MembershipKeeper::new(
            options.own.member_id,
            raft,
            self.progress.clone(),
            options.change_policy,
            options.election_timeout(),
        ))
    }

    pub fn serve_peers(
        &self,
        options: &NodeOptions,
        node: &Node,
        views: &Views,
        reader: ActiveReader,
        listeners: Vec<TcpListener>,
    ) -> io::Result<()> {
        let service = PeerService {
            own: options.own.clone(),
            raft: node.raft.clone(),
            confirmer: node.confirmer.clone(),
            progress: self.progress.clone(),
            membership: node.membership.clone(),
            proposals: self.proposal_sender.clone(),
            lease_rounds: self.peer_lease_rounds.clone(),
            request_timeout: options.request_timeout,
            snapshot_directory: options.snapshot_directory.clone(),
            digests: self.digests.clone(),
            views: views.clone(),
            reader: Mutex::new(reader),
            peers: self.peers.clone(),
        };
        peer_service::serve(service, listeners)
    }

    /// Starts the tasks that take what the shards send.
    pub fn spawn_proposing(&self, node: &Node, queues: Queues) {
        let request_timeout = node.request_timeout;
        let proposer = Proposer {
            raft: node.raft.clone(),
            peers: self.peers.clone(),
            progress: self.progress.clone(),
            clock: self.clock.clone(),
            shards: self.shards.clone(),
            request_timeout,
        };
        tokio::spawn(proposer.run(queues.proposals));
        let read_index = ReadIndex {
            raft: node.raft.clone(),
            confirmer: node.confirmer.clone(),
            peers: self.peers.clone(),
            progress: self.progress.clone(),
            request_timeout,
        };
        tokio::spawn(read_index.run(queues.rounds));
        let leases = LeaseRounds {
            raft: node.raft.clone(),
            confirmer: node.confirmer.clone(),
            peers: self.peers.clone(),
            progress: self.progress.clone(),
            request_timeout,
        };
        tokio::spawn(leases.run(queues.lease_rounds));
    }
}

fn applied_membership(views: &Views) -> Result<AppliedMembership, StartError> {
    AppliedMembership::decode(&views.latest().mark().membership)
        .map_err(|error| StartError::Raft(format!("the stored membership {error}")))
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

pub fn own_record(options: &NodeOptions) -> Member {
    Member::new(MemberAttributes {
        name: options.name.clone(),
        client_urls: options.client_urls.clone(),
        data_incarnation: Bytes::copy_from_slice(&options.own.data_incarnation),
        ..MemberAttributes::default()
    })
}
