//! What raft finds in a data directory that was made from a backup.
//!
//! The log begins behind one entry that is applied and purged already: the membership, as every member of a new cluster
//! writes it by itself. So whoever joins later is sent the state, which no entry of the log could give it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;

use super::membership::AppliedMembership;
use super::node::StartError;
use super::types::{self, LeaderId, LogId, Member, MemberAttributes, Membership, StoredMembership};
use crate::config::InitialCluster;
use crate::storage::{AppliedId, LogBatch};

/// The beginning of a member.
pub struct Restored {
    pub applied: AppliedId,
    /// For the mark.
    pub membership: Bytes,
    pub log: LogBatch,
}

/// The same for all members of a cluster.
///
/// # Errors
/// Says why these members are no cluster.
pub fn begin_restored(cluster: &InitialCluster) -> Result<Restored, StartError> {
    let members = cluster.members.iter().map(|member| {
        let attributes = MemberAttributes {
            name: member.name.clone(),
            peer_urls: member.peer_urls.iter().map(ToString::to_string).collect(),
            ..MemberAttributes::default()
        };
        (member.id, Member::new(attributes))
    });
    let members: BTreeMap<u64, Member> = members.collect();
    let voters: BTreeSet<u64> = members.keys().copied().collect();
    let membership = Membership::new(vec![voters], members)
        .map_err(|error| StartError::Configuration(error.to_string()))?;
    // The id that openraft gives the first entry of a new cluster.
    let log_id = LogId { leader_id: LeaderId { term: 0, node_id: 0 }, index: 0 };
    let stored = StoredMembership::new(Some(log_id), membership);
    let row = Bytes::from(types::log_id_to_pb(&log_id).encode_to_vec());
    Ok(Restored {
        applied: AppliedId { term: 0, leader_id: 0, index: log_id.index },
        membership: AppliedMembership { stored, removed: BTreeSet::new() }.encode(),
        log: LogBatch {
            purge_through: Some((log_id.index, row.clone())),
            committed: Some(row),
            ..LogBatch::default()
        },
    })
}
