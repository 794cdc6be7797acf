//! The types that openraft is instantiated with, and their protobuf form.
//!
//! openraft's serde derives are no stable format, so everything that is stored or sent goes through the messages of
//! `instar.log`. Conversions to protobuf cannot fail; those from it check every field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::EntryPayload;
use openraft::impls::leader_id_adv;
use openraft::{OptionalSend, RaftTypeConfig};
use proto::instar::log as pb;
use thiserror::Error;

/// Instar's instantiation of openraft.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Command;
    /// Outcomes take their own way back: see `waiters`.
    type R = ();
    type NodeId = u64;
    type Node = Member;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = EntryPayload<Command, u64, Member>;
    type Entry = openraft::Entry<LeaderId, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = openraft::impls::ProgressResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type LeaderId = leader_id_adv::LeaderId<u64, u64>;
pub type LogId = openraft::LogId<LeaderId>;
pub type Vote = openraft::Vote<LeaderId>;
pub type Membership = openraft::Membership<u64, Member>;
pub type StoredMembership = openraft::StoredMembership<LeaderId, u64, Member>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Raft = openraft::Raft<TypeConfig, super::state_machine::StateMachine>;

/// Names the waiter of a command: a request of one incarnation of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    pub member_id: u64,
    pub incarnation: u64,
    pub request_id: u64,
}

/// What a log entry carries for the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Command {
    pub origin: Origin,
    /// Replicated time in milliseconds, stamped by the leader.
    pub time_ms: u64,
    pub request: Bytes,
    /// The only term in which it means anything; 0 stands for all of them.
    pub only_in_term: u64,
    /// The request is the host's own command (`machine_commands`), and nothing for the machine.
    pub for_host: bool,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes at {} ms", self.request.len(), self.time_ms)
    }
}

/// What the membership says of a member. Shared, because openraft copies it with every metrics update.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member(Arc<MemberAttributes>);

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberAttributes {
    /// Empty until the member has published itself.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Whether it is to stay without a vote. Any other member gets its vote as soon as it has caught up.
    pub is_learner: bool,
    /// Empty until the member has published itself.
    pub client_urls: Vec<String>,
    /// Of the data directory that the member published itself from; empty until then.
    pub data_incarnation: Bytes,
}

impl Member {
    pub fn new(attributes: MemberAttributes) -> Self {
        Self(Arc::new(attributes))
    }

    pub fn attributes(&self) -> &MemberAttributes {
        &self.0
    }
}

/// A message of a peer, or a row of the log, that is not what it should be.
#[derive(Debug, Error)]
pub enum DecodeError {
    #[error("is not a protobuf message: {0}")]
    NotProtobuf(#[from] prost::DecodeError),
    #[error("lacks its {0}")]
    Missing(&'static str),
    #[error("has an impossible membership: {0}")]
    Membership(String),
}

pub fn leader_id_to_pb(leader: &LeaderId) -> pb::LeaderId {
    pb::LeaderId { term: leader.term, member_id: leader.node_id }
}

fn leader_id_from_pb(leader: Option<pb::LeaderId>) -> Result<LeaderId, DecodeError> {
    let leader = leader.ok_or(DecodeError::Missing("leader"))?;
    Ok(LeaderId { term: leader.term, node_id: leader.member_id })
}

pub fn log_id_to_pb(log_id: &LogId) -> pb::LogId {
    pb::LogId { leader: Some(leader_id_to_pb(&log_id.leader_id)), index: log_id.index }
}

pub fn log_id_from_pb(log_id: pb::LogId) -> Result<LogId, DecodeError> {
    Ok(LogId { leader_id: leader_id_from_pb(log_id.leader)?, index: log_id.index })
}

pub fn optional_log_id_from_pb(log_id: Option<pb::LogId>) -> Result<Option<LogId>, DecodeError> {
    log_id.map(log_id_from_pb).transpose()
}

pub fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote { leader: Some(leader_id_to_pb(&vote.leader_id)), committed: vote.committed }
}

pub fn vote_from_pb(vote: Option<pb::Vote>) -> Result<Vote, DecodeError> {
    let vote = vote.ok_or(DecodeError::Missing("vote"))?;
    Ok(Vote { leader_id: leader_id_from_pb(vote.leader)?, committed: vote.committed })
}

pub fn command_to_pb(command: &Command) -> pb::Command {
    let Origin { member_id, incarnation, request_id } = command.origin;
    pb::Command {
        origin: Some(pb::Origin { member_id, incarnation, request_id }),
        time_ms: command.time_ms,
        request: command.request.clone(),
        only_in_term: command.only_in_term,
        for_host: command.for_host,
    }
}

pub fn command_from_pb(command: pb::Command) -> Command {
    let origin = command.origin.unwrap_or_default();
    Command {
        origin: Origin {
            member_id: origin.member_id,
            incarnation: origin.incarnation,
            request_id: origin.request_id,
        },
        time_ms: command.time_ms,
        request: command.request,
        only_in_term: command.only_in_term,
        for_host: command.for_host,
    }
}

pub fn member_to_pb(id: u64, member: &Member) -> pb::Member {
    let MemberAttributes { name, peer_urls, is_learner, client_urls, data_incarnation } =
        member.attributes().clone();
    pb::Member { id, name, peer_urls, client_urls, is_learner, data_incarnation }
}

pub fn member_from_pb(member: pb::Member) -> (u64, Member) {
    let pb::Member { id, name, peer_urls, client_urls, is_learner, data_incarnation } = member;
    let attributes =
        MemberAttributes { name, peer_urls, is_learner, client_urls, data_incarnation };
    (id, Member::new(attributes))
}

pub fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let voters =
        |ids: &BTreeSet<u64>| pb::membership::Voters { member_ids: ids.iter().copied().collect() };
    pb::Membership {
        configs: membership.get_joint_config().iter().map(voters).collect(),
        members: membership.nodes().map(|(id, member)| member_to_pb(*id, member)).collect(),
    }
}

pub fn membership_from_pb(membership: pb::Membership) -> Result<Membership, DecodeError> {
    let configs = membership
        .configs
        .into_iter()
        .map(|voters| voters.member_ids.into_iter().collect::<BTreeSet<u64>>())
        .collect();
    let members: BTreeMap<u64, Member> =
        membership.members.into_iter().map(member_from_pb).collect();
    Membership::new(configs, members).map_err(|error| DecodeError::Membership(error.to_string()))
}

pub fn stored_membership_to_pb(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
        removed_member_ids: Vec::new(),
    }
}

/// The default value stands for "no membership yet": openraft's own default has no voters at all.
pub fn stored_membership_from_pb(
    stored: pb::StoredMembership,
) -> Result<StoredMembership, DecodeError> {
    let log_id = optional_log_id_from_pb(stored.log_id)?;
    match stored.membership {
        Some(membership) if !membership.configs.is_empty() => {
            Ok(StoredMembership::new(log_id, membership_from_pb(membership)?))
        }
        _ => Ok(StoredMembership::default()),
    }
}

pub fn entry_to_pb(entry: &Entry) -> pb::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => pb::entry::Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(command) => pb::entry::Payload::Command(command_to_pb(command)),
        EntryPayload::Membership(membership) => {
            pb::entry::Payload::Membership(membership_to_pb(membership))
        }
    };
    pb::Entry { log_id: Some(log_id_to_pb(&entry.log_id)), payload: Some(payload) }
}

pub fn entry_from_pb(entry: pb::Entry) -> Result<Entry, DecodeError> {
    let log_id = log_id_from_pb(entry.log_id.ok_or(DecodeError::Missing("log id"))?)?;
    let payload = match entry.payload.ok_or(DecodeError::Missing("payload"))? {
        pb::entry::Payload::Blank(_) => EntryPayload::Blank,
        pb::entry::Payload::Command(command) => EntryPayload::Normal(command_from_pb(command)),
        pb::entry::Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_pb(membership)?)
        }
    };
    Ok(openraft::Entry { log_id, payload })
}
