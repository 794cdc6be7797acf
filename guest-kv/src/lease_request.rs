//! The requests that are about leases.

use crate::wire::{Content, Fields, Malformed};

/// etcdserverpb.LeaseGrantRequest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseGrant {
    /// In seconds.
    pub ttl: i64,
    pub id: i64,
}

impl LeaseGrant {
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut grant = LeaseGrant::default();
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => content.int64(&mut grant.ttl),
                2 => content.int64(&mut grant.id),
                _ => {}
            }
        }
        Ok(grant)
    }
}

/// etcdserverpb.LeaseTimeToLiveRequest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseTimeToLive {
    pub id: i64,
    pub keys: bool,
}

impl LeaseTimeToLive {
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let mut ask = LeaseTimeToLive::default();
        let mut fields = Fields::new(message);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => content.int64(&mut ask.id),
                2 => content.boolean(&mut ask.keys),
                _ => {}
            }
        }
        Ok(ask)
    }
}

/// instar.kv.LeaseExpiry: ids, and the index of the entry that granted each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseExpiry {
    pub leases: Vec<(i64, u64)>,
}

impl LeaseExpiry {
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let leases = pairs(message)?;
        Ok(LeaseExpiry {
            leases: leases.into_iter().map(|(id, index)| (id, index as u64)).collect(),
        })
    }
}

/// etcdserverpb.LeaseCheckpointRequest: ids, and the seconds that are left of each.
pub fn parse_checkpoints(message: &[u8]) -> Result<Vec<(i64, i64)>, Malformed> {
    pairs(message)
}

/// A message whose field 1 is repeated, and has the numbers 1 and 2.
fn pairs(message: &[u8]) -> Result<Vec<(i64, i64)>, Malformed> {
    let mut pairs = Vec::new();
    let mut fields = Fields::new(message);
    while let Some((number, content)) = fields.next()? {
        let (1, Content::Bytes(pair)) = (number, content) else { continue };
        let (mut first, mut second) = (0, 0);
        let mut fields = Fields::new(pair);
        while let Some((number, content)) = fields.next()? {
            match number {
                1 => content.int64(&mut first),
                2 => content.int64(&mut second),
                _ => {}
            }
        }
        pairs.push((first, second));
    }
    Ok(pairs)
}
