//! The commands of the lease keeper.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest};
use proto::instar::kv::request::Kind;
use proto::instar::kv::{LeaseExpiry, LeaseExpiryProgress, Request, lease_expiry};

/// Revokes leases: ids, and the index of the entry that granted each.
pub fn expiry(leases: &[(i64, u64)]) -> Bytes {
    let lease = |(id, granted_index): &(i64, u64)| lease_expiry::Lease {
        id: *id,
        granted_index: *granted_index,
    };
    let leases = leases.iter().map(lease).collect();
    request(Kind::LeaseExpiry(LeaseExpiry { leases }))
}

/// How many of an expiry's leases were handled; none if the machine says something else.
pub fn handled(body: &Bytes) -> Option<usize> {
    LeaseExpiryProgress::decode(body.clone()).ok().map(|progress| progress.handled as usize)
}

/// Notes what is left of leases, in seconds; 0 stands for all of their time.
pub fn checkpoint(leases: &[(i64, i64)]) -> Bytes {
    let checkpoint = |(id, remaining_ttl): &(i64, i64)| LeaseCheckpoint {
        id: *id,
        remaining_ttl: *remaining_ttl,
    };
    let checkpoints = leases.iter().map(checkpoint).collect();
    request(Kind::Etcd(InternalRaftRequest {
        lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
        ..InternalRaftRequest::default()
    }))
}

fn request(kind: Kind) -> Bytes {
    Request { kind: Some(kind) }.encode_to_vec().into()
}
