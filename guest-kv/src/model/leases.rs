//! etcd's rules for leases, as plainly as they can be.

use std::collections::BTreeMap;

use prost::Message;
use proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseLeasesResponse, LeaseStatus,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use proto::instar::kv::request::Kind;
use proto::instar::kv::{LeaseExpiry, LeaseExpiryProgress, Request};

use super::checks::Refusal;
use super::store::Store;
use crate::tables::{KEY, LEASE, Table};

const LEASE_NOT_FOUND: Refusal = (5, "etcdserver: requested lease not found");
const LEASE_EXISTS: Refusal = (9, "etcdserver: lease already exists");
const TTL_TOO_LARGE: Refusal = (11, "etcdserver: too large lease TTL");

/// leasepb.Lease, which is in no .proto of etcd's API.
#[derive(Clone, PartialEq, Message)]
struct Row {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

/// Names of rows, in the order in which watchers are told of them.
type Events = Vec<(Table, Vec<u8>)>;

/// All leases: id -> row, and the index of the entry that granted it.
#[derive(Debug, Clone, Default)]
pub struct Leases(BTreeMap<i64, (Row, u64)>);

pub fn check_grant(grant: &LeaseGrantRequest) -> Result<(), Refusal> {
    if grant.ttl > 9_000_000_000 { Err(TTL_TOO_LARGE) } else { Ok(()) }
}

/// Ids in the order of the `lease` table, which has them as unsigned numbers.
fn in_order(leases: &Leases) -> Vec<&Row> {
    let mut rows: Vec<&Row> = leases.0.values().map(|(row, _)| row).collect();
    rows.sort_by_key(|row| row.id as u64);
    rows
}

impl Leases {
    pub fn has(&self, id: i64) -> bool {
        self.0.contains_key(&id)
    }

    pub fn granted(&self) -> Vec<(i64, u64)> {
        self.0.iter().map(|(id, (_, index))| (*id, *index)).collect()
    }

    /// The rows of etcd's `lease` bucket.
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let row = |row: &Row| (row.id.to_be_bytes().to_vec(), row.encode_to_vec());
        in_order(self).into_iter().map(row).collect()
    }

    pub fn list(&self) -> LeaseLeasesResponse {
        let leases = in_order(self).into_iter().map(|row| LeaseStatus { id: row.id }).collect();
        LeaseLeasesResponse { header: None, leases }
    }
}

impl Store {
    /// Executes a command that is about leases; none for any other.
    pub fn lease_command(
        &mut self,
        request: &Request,
        index: u64,
    ) -> Option<Result<(Vec<u8>, Events), Refusal>> {
        match &request.kind {
            Some(Kind::LeaseExpiry(expiry)) => Some(Ok(self.expire(expiry))),
            Some(Kind::Etcd(etcd)) => {
                if let Some(grant) = &etcd.lease_grant {
                    return Some(self.grant(grant, index));
                }
                if let Some(revoke) = &etcd.lease_revoke {
                    let revoked = self.revoke(revoke.id).ok_or(LEASE_NOT_FOUND);
                    return Some(revoked.map(|events| (Vec::new(), events)));
                }
                let checkpoint = etcd.lease_checkpoint.as_ref()?;
                let mut events = Events::new();
                for checkpoint in &checkpoint.checkpoints {
                    if let Some((row, _)) = self.leases.0.get_mut(&checkpoint.id) {
                        row.remaining_ttl = checkpoint.remaining_ttl;
                        events.push((LEASE, row.id.to_be_bytes().to_vec()));
                    }
                }
                Some(Ok((Vec::new(), events)))
            }
            _ => None,
        }
    }

    fn grant(
        &mut self,
        grant: &LeaseGrantRequest,
        index: u64,
    ) -> Result<(Vec<u8>, Events), Refusal> {
        check_grant(grant)?;
        let LeaseGrantRequest { id, ttl } = *grant;
        if id == 0 {
            return Err(LEASE_NOT_FOUND);
        }
        if self.leases.has(id) {
            return Err(LEASE_EXISTS);
        }
        self.leases.0.insert(id, (Row { id, ttl, remaining_ttl: 0 }, index));
        let response = LeaseGrantResponse { header: None, id, ttl, error: String::new() };
        Ok((response.encode_to_vec(), vec![(LEASE, id.to_be_bytes().to_vec())]))
    }

    fn revoke(&mut self, id: i64) -> Option<Events> {
        self.leases.0.get(&id)?;
        let keys = self.attached(id);
        let mut events = Events::new();
        if !keys.is_empty() {
            self.delete_keys(keys);
            let rows = self.row_keys_at(self.revision);
            events.extend(rows.into_iter().map(|key| (KEY, key)));
        }
        self.leases.0.remove(&id);
        events.push((LEASE, id.to_be_bytes().to_vec()));
        Some(events)
    }

    fn expire(&mut self, expiry: &LeaseExpiry) -> (Vec<u8>, Events) {
        let mut events = Events::new();
        for lease in &expiry.leases {
            let known = self.leases.0.get(&lease.id).map(|(_, index)| *index);
            if known == Some(lease.granted_index) {
                events.extend(self.revoke(lease.id).into_iter().flatten());
            }
        }
        // There are not enough keys for an expiry to be cut short.
        let handled = expiry.leases.len() as u32;
        (LeaseExpiryProgress { handled }.encode_to_vec(), events)
    }

    pub fn time_to_live(
        &self,
        ask: &LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse, Refusal> {
        let (row, _) = self.leases.0.get(&ask.id).ok_or(LEASE_NOT_FOUND)?;
        Ok(LeaseTimeToLiveResponse {
            header: None,
            id: row.id,
            ttl: 0,
            granted_ttl: row.ttl,
            keys: if ask.keys { self.attached(row.id) } else { Vec::new() },
        })
    }
}
