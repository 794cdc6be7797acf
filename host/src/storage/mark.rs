//! What changes together with the tables.

use bytes::Bytes;

/// The id of an applied log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedId {
    pub term: u64,
    /// The member that led when the entry was made.
    pub leader_id: u64,
    pub index: u64,
}

/// Where the state stands. It is written in the transaction of the rows that it speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mark {
    /// The last entry applied; none in a new state.
    pub applied: Option<AppliedId>,
    /// The membership as of that entry; opaque here, raft encodes it.
    pub membership: Bytes,
    /// Replicated time of that entry, in milliseconds.
    pub time_ms: u64,
    /// The machine's revision after that entry.
    pub revision: u64,
    /// XXH3-128 chained over every entry's writes, response and events.
    pub digest: u128,
    /// SHA-256 of the machine that applied that entry.
    pub machine: [u8; 32],
}

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 1 + 1 + 24 + 8 + 8 + 16 + 32;

impl Mark {
    /// The form on disk: `docs/on-disk-format.md`.
    pub fn encode(&self) -> Vec<u8> {
        let applied = self.applied.unwrap_or(AppliedId { term: 0, leader_id: 0, index: 0 });
        let mut out = Vec::with_capacity(FIXED_BYTES + self.membership.len());
        out.push(VERSION);
        out.push(u8::from(self.applied.is_some()));
        for number in [applied.term, applied.leader_id, applied.index, self.time_ms, self.revision]
        {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.digest.to_le_bytes());
        out.extend_from_slice(&self.machine);
        out.extend_from_slice(&self.membership);
        out
    }

    /// None if the bytes are no mark of a version that this program knows.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (fixed, membership) = bytes.split_at_checked(FIXED_BYTES)?;
        let number = |at: usize| fixed.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if fixed[0] != VERSION || fixed[1] > 1 {
            return None;
        }
        let applied = AppliedId { term: number(2)?, leader_id: number(10)?, index: number(18)? };
        Some(Self {
            applied: (fixed[1] == 1).then_some(applied),
            time_ms: number(26)?,
            revision: number(34)?,
            digest: u128::from_le_bytes(fixed.get(42..58)?.try_into().ok()?),
            machine: fixed.get(58..90)?.try_into().ok()?,
            membership: Bytes::copy_from_slice(membership),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_encoding() {
        let mark = Mark {
            applied: Some(AppliedId { term: 3, leader_id: u64::MAX, index: 77 }),
            membership: Bytes::from_static(b"members"),
            time_ms: 5,
            revision: 9,
            digest: u128::MAX - 1,
            machine: [7; 32],
        };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&Mark::default().encode()), Some(Mark::default()));
        assert_eq!(Mark::decode(b"short"), None);
    }
}
