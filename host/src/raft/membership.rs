//! The membership as it was applied, and what may be changed about it.
//!
//! What a member is to be (a voter, or a learner that stays one) is an attribute, and what it is to raft follows: a
//! voter that was just added is a learner to raft until it has caught up (`membership_keeper`), so that it cannot
//! take the quorum away. Clients are told the attribute.
//!
//! Nothing here waits or proposes. The checks are etcd's, and so are their sentences.

use std::collections::BTreeSet;
use std::io;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use super::types::{self, DecodeError, Member, MemberAttributes, Membership, StoredMembership};
use crate::storage::Mark;

/// How much of the leader's log a learner must have to be promoted: etcd's `readyPercentThreshold`.
const READY_PERCENT: u64 = 90;

/// The membership of the state: the last one applied, and who has been removed so far.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppliedMembership {
    pub stored: StoredMembership,
    /// These ids are never given out again.
    pub removed: BTreeSet<u64>,
}

impl AppliedMembership {
    /// Reads what a mark keeps.
    pub fn decode(row: &Bytes) -> Result<Self, DecodeError> {
        let message = proto::instar::log::StoredMembership::decode(row.clone())?;
        let removed = message.removed_member_ids.iter().copied().collect();
        Ok(Self { stored: types::stored_membership_from_pb(message)?, removed })
    }

    pub fn encode(&self) -> Bytes {
        let mut message = types::stored_membership_to_pb(&self.stored);
        message.removed_member_ids = self.removed.iter().copied().collect();
        message.encode_to_vec().into()
    }

    /// Takes the next membership over. Whoever is no longer in it has been removed.
    pub fn advance(&mut self, next: StoredMembership) {
        let gone = |id: &&u64| next.get_node(id).is_none();
        self.removed.extend(self.stored.nodes().map(|(id, _)| id).filter(gone));
        self.stored = next;
    }

    pub fn records(&self) -> Vec<MemberRecord> {
        records(self.stored.membership())
    }
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

impl MemberRecord {
    pub(super) fn new(id: u64, member: &Member) -> Self {
        let MemberAttributes { name, peer_urls, client_urls, is_learner, .. } =
            member.attributes().clone();
        Self { id, name, peer_urls, client_urls, is_learner }
    }

    /// Whether it has ever told its name.
    fn is_started(&self) -> bool {
        !self.name.is_empty()
    }
}

/// The members in the order of their ids.
pub fn records(membership: &Membership) -> Vec<MemberRecord> {
    membership.nodes().map(|(id, member)| MemberRecord::new(*id, member)).collect()
}

/// The members as of a state.
///
/// # Errors
/// It is none that this program wrote.
pub fn recorded_members(mark: &Mark) -> io::Result<Vec<MemberRecord>> {
    let membership = AppliedMembership::decode(&mark.membership).map_err(io::Error::other)?;
    Ok(membership.records())
}

/// What a client wants changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    Add { id: u64, peer_urls: Vec<String>, is_learner: bool },
    Promote { id: u64 },
    Remove { id: u64 },
    Update { id: u64, peer_urls: Vec<String> },
}

/// Why a membership is not changed, in etcd's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChangeRefused {
    #[error("etcdserver: member ID already exist")]
    MemberExists,
    #[error("etcdserver: member not found")]
    MemberNotFound,
    #[error("etcdserver: Peer URLs already exists")]
    PeerUrlExists,
    #[error("etcdserver: can only promote a learner member")]
    NotALearner,
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    #[error("etcdserver: too many learner members in cluster")]
    TooManyLearners,
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
}

/// What the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangePolicy {
    /// Refuse what would endanger the quorum.
    pub strict: bool,
    pub max_learners: u32,
}

/// What the leader knows when it is asked for a change.
pub struct Situation<'a> {
    pub own_id: u64,
    pub members: &'a [MemberRecord],
    pub removed: &'a BTreeSet<u64>,
    /// Whom it has heard of just now; itself not counted.
    pub in_touch: BTreeSet<u64>,
    /// The last index of the leader's log.
    pub last_index: u64,
    /// The last index that the member in question is known to have.
    pub matched_index: u64,
}

impl Situation<'_> {
    /// Says whether a change may be made, in the order in which etcd looks: first at the quorum
    /// (`mayAddMember` and the like), then at the change itself (`ValidateConfigurationChange`).
    pub fn check(
        &self,
        change: &MembershipChange,
        policy: &ChangePolicy,
    ) -> Result<(), ChangeRefused> {
        match change {
            MembershipChange::Add { id, peer_urls, is_learner } => {
                if policy.strict {
                    self.may_add(*is_learner)?;
                }
                self.not_removed(*id)?;
                if self.member(*id).is_some() {
                    return Err(ChangeRefused::MemberExists);
                }
                self.urls_are_free(*id, peer_urls)?;
                let learners = self.members.iter().filter(|member| member.is_learner).count();
                if *is_learner && learners >= policy.max_learners as usize {
                    return Err(ChangeRefused::TooManyLearners);
                }
            }
            MembershipChange::Promote { id } => {
                self.may_promote(*id, policy.strict)?;
            }
            MembershipChange::Remove { id } => {
                if policy.strict {
                    self.may_remove(*id)?;
                }
                self.existing(*id)?;
                if !self.voters().any(|voter| voter.id != *id) {
                    // A cluster without a voter could not even say that it has none.
                    return Err(ChangeRefused::NotEnoughStarted);
                }
            }
            MembershipChange::Update { id, peer_urls } => {
                self.existing(*id)?;
                self.urls_are_free(*id, peer_urls)?;
            }
        }
        Ok(())
    }

    fn member(&self, id: u64) -> Option<&MemberRecord> {
        self.members.iter().find(|member| member.id == id)
    }

    fn not_removed(&self, id: u64) -> Result<(), ChangeRefused> {
        if self.removed.contains(&id) { Err(ChangeRefused::MemberNotFound) } else { Ok(()) }
    }

    fn existing(&self, id: u64) -> Result<&MemberRecord, ChangeRefused> {
        self.member(id).ok_or(ChangeRefused::MemberNotFound)
    }

    fn urls_are_free(&self, id: u64, urls: &[String]) -> Result<(), ChangeRefused> {
        let mut others = self.members.iter().filter(|member| member.id != id);
        if others.any(|member| member.peer_urls.iter().any(|url| urls.contains(url))) {
            return Err(ChangeRefused::PeerUrlExists);
        }
        Ok(())
    }

    /// As etcd counts them: those that were added as voters, started or not.
    fn voters(&self) -> impl Iterator<Item = &MemberRecord> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    fn voters_in_touch(&self) -> usize {
        self.voters()
            .filter(|voter| voter.id == self.own_id || self.in_touch.contains(&voter.id))
            .count()
    }

    /// Fails unless the started voters would be a quorum of `count`.
    fn enough_started(started: usize, count: usize) -> Result<(), ChangeRefused> {
        if started < quorum(count) { Err(ChangeRefused::NotEnoughStarted) } else { Ok(()) }
    }

    fn may_add(&self, is_learner: bool) -> Result<(), ChangeRefused> {
        let (voters, started) =
            (self.voters().count(), self.voters().filter(|voter| voter.is_started()).count());
        let may_grow = voters == 1 && started == 1;
        if !is_learner && !may_grow {
            Self::enough_started(started, voters + 1)?;
        }
        if voters > 1 && self.voters_in_touch() < quorum(voters + 1) {
            return Err(ChangeRefused::Unhealthy);
        }
        Ok(())
    }

    fn may_promote(&self, id: u64, strict: bool) -> Result<(), ChangeRefused> {
        let member = self.existing(id)?;
        if self.matched_index * 100 < self.last_index * READY_PERCENT && id != self.own_id {
            return Err(ChangeRefused::LearnerNotReady);
        }
        if strict {
            let started = self.voters().filter(|voter| voter.is_started()).count();
            Self::enough_started(started + 1, self.voters().count() + 1)?;
        }
        if member.is_learner { Ok(()) } else { Err(ChangeRefused::NotALearner) }
    }

    fn may_remove(&self, id: u64) -> Result<(), ChangeRefused> {
        if self.member(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        let rest = || self.voters().filter(|voter| voter.id != id);
        Self::enough_started(rest().filter(|voter| voter.is_started()).count(), rest().count())?;
        // One that is down is no part of the quorum that works.
        if id != self.own_id && !self.in_touch.contains(&id) {
            return Ok(());
        }
        if self.voters_in_touch() < 2 + self.voters().count().saturating_sub(1) / 2 {
            return Err(ChangeRefused::Unhealthy);
        }
        Ok(())
    }
}

fn quorum(count: usize) -> usize {
    count / 2 + 1
}

#[cfg(test)]
mod tests;
