//! `--force-new-cluster`: makes a member the only one of its cluster, for when the others are lost for good.
//!
//! A membership of it alone is put behind its log, and all of it counts as committed: nobody is left who could
//! contradict. Of the last entries a member may not know yet that they are committed, and they may have been
//! acknowledged; so none is dropped, where etcd drops them. The others count as removed from then on.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::entry::EntryPayload;
use prost::Message;

use super::log_store::Recovered;
use super::membership::AppliedMembership;
use super::node::StartError;
use super::types::{
    self, Entry, LeaderId, LogId, Member, MemberAttributes, Membership, StoredMembership, Vote,
};
use crate::limits;
use crate::storage::{Log, LogBatch};

/// Adds to the log, and says what it holds then. An empty one is no cluster to take over, and stays as it is.
pub fn force_new_cluster(
    log: &mut Log,
    recovered: Recovered,
    own_id: u64,
    applied: Option<LogId>,
    membership: AppliedMembership,
) -> Result<Recovered, StartError> {
    let Some(last) = recovered.last.max(applied) else { return Ok(recovered) };
    let next = applied.map_or(0, |log_id| log_id.index + 1);
    let membership = last_membership(log, next..last.index + 1, membership)?;
    let known = membership.stored.get_node(&own_id).cloned().unwrap_or_default();
    let own = Member::new(MemberAttributes { is_learner: false, ..known.attributes().clone() });
    let alone = Membership::new(vec![BTreeSet::from([own_id])], BTreeMap::from([(own_id, own)]))
        .map_err(|error| StartError::Configuration(error.to_string()))?;

    let voted_term = recovered.vote.map_or(0, |vote| vote.leader_id.term);
    let leader_id = LeaderId { term: voted_term.max(last.leader_id.term) + 1, node_id: own_id };
    let log_id = LogId { leader_id, index: last.index + 1 };
    let entry: Entry = openraft::Entry { log_id, payload: EntryPayload::Membership(alone) };
    let vote = Vote { leader_id, committed: true };
    let row = |message: Vec<u8>| Bytes::from(message);
    let batch = LogBatch {
        entries: vec![(log_id.index, row(types::entry_to_pb(&entry).encode_to_vec()))],
        vote: Some(row(types::vote_to_pb(&vote).encode_to_vec())),
        committed: Some(row(types::log_id_to_pb(&log_id).encode_to_vec())),
        ..LogBatch::default()
    };
    log.write(&batch).map_err(|error| StartError::Log(error.to_string()))?;
    tracing::warn!(
        member = format!("{own_id:x}"),
        index = log_id.index,
        "forced a new cluster of this member alone; remove --force-new-cluster from now on"
    );
    Ok(Recovered {
        vote: Some(vote),
        committed: Some(log_id),
        last: Some(log_id),
        last_purged: recovered.last_purged,
    })
}

/// The membership after the entries that are not applied yet.
fn last_membership(
    log: &Log,
    range: std::ops::Range<u64>,
    mut membership: AppliedMembership,
) -> Result<AppliedMembership, StartError> {
    let unreadable = |error: String| StartError::Log(error);
    let mut next = range.start;
    while next < range.end {
        let rows = log
            .reader()
            .read(next..range.end, limits::APPEND_REQUEST_BYTES)
            .map_err(|error| unreadable(error.to_string()))?;
        let Some((last, _)) = rows.last() else { break };
        next = last + 1;
        for (_, row) in rows {
            let entry = proto::instar::log::Entry::decode(row)
                .map_err(types::DecodeError::from)
                .and_then(types::entry_from_pb)
                .map_err(|error| unreadable(format!("an entry {error}")))?;
            if let EntryPayload::Membership(changed) = entry.payload {
                membership.advance(StoredMembership::new(Some(entry.log_id), changed));
            }
        }
    }
    Ok(membership)
}
