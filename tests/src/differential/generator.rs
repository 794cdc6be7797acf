//! Draws requests: a small key space with keys that are prefixes of one another, every field of every
//! request, and a share of requests that a server must refuse.

use std::collections::HashSet;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::Call;
use super::position::{COMPACTED, LATEST};

/// What the servers are started with; small, so that requests beyond the limits are cheap.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;
pub const MAX_TXN_OPS: usize = 16;

/// What a put or a transaction with one put has beside key and value.
const ENVELOPE_BYTES_MAX: usize = 64;

const KEYS: [&[u8]; 24] = [
    b"a",
    b"a\0",
    b"a\0\0",
    b"aa",
    b"ab",
    b"a\xff",
    b"a\xff\xff",
    b"b",
    b"b/1",
    b"b/2",
    b"b/\0",
    b"b/\xff",
    b"c",
    b"\0",
    b"\0\0",
    b"\x01",
    b"\xff",
    b"\xff\xff",
    b"\xfe\xff",
    b"key/1",
    b"key/10",
    b"key/2",
    b"key/3",
    b"z",
];
const KEY_BYTES: [u8; 5] = [0, 1, b'a', 0xfe, 0xff];
const DEPTH_MAX: usize = 3;

/// A source of requests: the same seed gives the same ones.
#[derive(Debug)]
pub struct Generator {
    random: StdRng,
    /// For values that differ from all before.
    counter: u64,
    /// Whether requests are about leases, half of them.
    leases: bool,
    /// A lease that has little time, and must be gone before it is over.
    short_lease: Option<i64>,
}

/// Ids that leases are given, by request.
const LEASES: [i64; 8] = [1, 2, 3, 7, -1, 0x7fff, i64::MAX, i64::MIN];

/// Keys a transaction writes already; `None` where it may clash.
type Written = Option<HashSet<Bytes>>;

impl Generator {
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), counter: 0, leases: false, short_lease: None }
    }

    /// One that draws requests about leases as well.
    pub fn with_leases(seed: u64) -> Self {
        Self { leases: true, ..Self::new(seed) }
    }

    /// The next request.
    pub fn call(&mut self) -> Call {
        if let Some(id) = self.short_lease.take() {
            return Call::LeaseRevoke(id);
        }
        if self.leases && self.chance(0.5) {
            return self.lease_call();
        }
        match self.random.random_range(0..1000) {
            0..260 => Call::Put(self.put()),
            260..500 => Call::Range(self.range()),
            500..580 => Call::DeleteRange(self.delete()),
            580..600 => self.oversized(),
            600..650 => Call::RangeStream(self.stream()),
            650..665 => Call::Compact(self.compaction()),
            665..720 => Call::HashKv(pb::HashKvRequest { revision: self.revision() }),
            _ => {
                let mut written = (!self.chance(0.15)).then(HashSet::new);
                let mut txn = self.txn(DEPTH_MAX, &mut written);
                if deletes_range(&txn) {
                    never_ignore(&mut txn);
                }
                Call::Txn(txn)
            }
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.random.random_bool(probability)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(&mut self.random).expect("a table with rows")
    }

    fn key(&mut self) -> Bytes {
        match self.random.random_range(0..100) {
            0 => Bytes::new(),
            1 => vec![b'a'; self.random.random_range(1..400)].into(),
            2..15 => {
                let length = self.random.random_range(1..4);
                (0..length).map(|_| self.pick(&KEY_BYTES)).collect()
            }
            _ => Bytes::from_static(self.pick(&KEYS)),
        }
    }

    fn range_end(&mut self, key: &Bytes) -> Bytes {
        match self.random.random_range(0..100) {
            0..40 => Bytes::new(),
            40..58 => Bytes::from_static(b"\0"),
            58..80 => self.key(),
            80..90 => prefix_end(key),
            90..95 => key.clone(),
            _ => [key, &b"\0"[..]].concat().into(),
        }
    }

    fn value(&mut self) -> Bytes {
        self.counter += 1;
        match self.random.random_range(0..100) {
            0..8 => Bytes::new(),
            8..30 => Bytes::from_static(self.pick(&[b"x", b"y", b"\0", b"\xff"])),
            30..36 => vec![self.random.random(); self.random.random_range(100..5000)].into(),
            _ => format!("v{}", self.counter).into(),
        }
    }

    fn revision(&mut self) -> i64 {
        match self.random.random_range(0..100) {
            0..45 => 0,
            45..80 => LATEST - self.random.random_range(0..30),
            80..85 => LATEST + self.random.random_range(1..3),
            85..95 => COMPACTED + self.random.random_range(-2..3),
            95..97 => self.random.random_range(0..10),
            _ => self.pick(&[-1, 1, 2, i64::MAX, i64::MIN]),
        }
    }

    /// Off most of the time.
    fn bound(&mut self) -> i64 {
        match self.random.random_range(0..100) {
            0..92 => 0,
            92..99 => LATEST - self.random.random_range(0..60),
            _ => self.pick(&[-1, 1, i64::MAX, i64::MIN]),
        }
    }

    /// A request about leases. Times are so long that none is over before the test is.
    fn lease_call(&mut self) -> Call {
        let id = self.pick(&LEASES);
        match self.random.random_range(0..100) {
            0..35 => {
                let ttl = self.random.random_range(1_000..100_000);
                Call::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
            }
            35..40 => {
                let ttl = self.pick(&[0, 1, -1, i64::MIN]);
                self.short_lease = Some(id);
                Call::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
            }
            40..43 => {
                let ttl = self.pick(&[9_000_000_000, 9_000_000_001, i64::MAX]);
                Call::LeaseGrant(pb::LeaseGrantRequest { id, ttl })
            }
            43..58 => Call::LeaseRevoke(if self.chance(0.05) { 0 } else { id }),
            58..75 => Call::LeaseKeepAlive(if self.chance(0.05) { 0 } else { id }),
            75..93 => {
                let keys = self.chance(0.8);
                Call::LeaseTimeToLive(pb::LeaseTimeToLiveRequest { id, keys })
            }
            _ => Call::LeaseLeases,
        }
    }

    fn lease(&mut self) -> i64 {
        if self.leases {
            return if self.chance(0.4) { self.pick(&LEASES) } else { 0 };
        }
        if self.chance(0.03) { self.pick(&[1, -1, 7, i64::MAX]) } else { 0 }
    }

    fn limit(&mut self) -> i64 {
        match self.random.random_range(0..100) {
            0..50 => 0,
            50..96 => self.random.random_range(1..8),
            _ => self.pick(&[-1, 1000, i64::MAX, i64::MIN]),
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let key = self.key();
        pb::RangeRequest {
            range_end: self.range_end(&key),
            key,
            limit: self.limit(),
            revision: self.revision(),
            sort_order: self.pick(&[0, 0, 0, 0, 0, 1, 1, 2, 2, 2]),
            sort_target: self.pick(&[0, 0, 0, 0, 0, 0, 1, 2, 3, 4]),
            serializable: self.chance(0.3),
            keys_only: self.chance(0.15),
            count_only: self.chance(0.1),
            min_mod_revision: self.bound(),
            max_mod_revision: self.bound(),
            min_create_revision: self.bound(),
            max_create_revision: self.bound(),
        }
        .but_sometimes(self.chance(0.02), |range| {
            range.sort_order = self.pick(&[3, -1, 0, 77]);
            range.sort_target = self.pick(&[5, -1, 0, 99]);
        })
    }

    /// A range that a stream takes, most of the time; whole key spaces, so that there are several parts.
    fn stream(&mut self) -> pb::RangeRequest {
        if self.chance(0.15) {
            let mut range = self.range();
            // etcd 3.7.1 takes another target without an order, sorts each part for itself, goes on
            // after whatever key came last, and so leaves keys out.
            if range.sort_order == 0 && (0..5).contains(&range.sort_target) {
                range.sort_target = 0;
            }
            return range;
        }
        let key = self.key();
        pb::RangeRequest {
            range_end: if self.chance(0.7) { b"\0"[..].into() } else { self.range_end(&key) },
            key: if self.chance(0.7) { b"\0"[..].into() } else { key },
            limit: if self.chance(0.3) { self.random.random_range(1..60) } else { self.limit() },
            revision: self.revision(),
            serializable: self.chance(0.3),
            keys_only: self.chance(0.1),
            count_only: self.chance(0.1),
            sort_order: i32::from(self.chance(0.2)),
            ..Default::default()
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.chance(0.08);
        let ignore_lease = self.chance(0.08);
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && !self.chance(0.1) { Bytes::new() } else { self.value() },
            lease: if ignore_lease && !self.chance(0.1) { 0 } else { self.lease() },
            prev_kv: self.chance(0.3),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = self.key();
        // Wiping everything is rare: most requests should find keys.
        let range_end = match self.chance(0.75) {
            true => Bytes::new(),
            false => self.range_end(&key),
        };
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.chance(0.4) }
    }

    fn compaction(&mut self) -> pb::CompactionRequest {
        let revision = match self.random.random_range(0..100) {
            0..60 => LATEST - self.random.random_range(0..40),
            60..70 => LATEST,
            70..80 => LATEST + self.random.random_range(1..3),
            80..95 => COMPACTED + self.random.random_range(-1..2),
            _ => self.pick(&[0, -1, i64::MAX, i64::MIN]),
        };
        pb::CompactionRequest { revision, physical: self.chance(0.4) }
    }

    /// A request just below or above the limit on its size. Not closer: etcd counts a request id of its
    /// own, whose encoding may be a byte longer in one server than in another.
    fn oversized(&mut self) -> Call {
        let mut put = pb::PutRequest { key: self.key(), ..Default::default() };
        let near = self.random.random_range(0..160);
        let length = match self.chance(0.5) {
            true => MAX_REQUEST_BYTES + near,
            false => MAX_REQUEST_BYTES - ENVELOPE_BYTES_MAX - put.key.len() - near,
        };
        put.value = vec![b'v'; length].into();
        match self.chance(0.5) {
            true => Call::Put(put),
            false => Call::Txn(pb::TxnRequest {
                success: vec![op(Request::RequestPut(put))],
                ..Default::default()
            }),
        }
    }

    fn txn(&mut self, depth: usize, written: &mut Written) -> pb::TxnRequest {
        let compares = self.pick(&[0, 0, 1, 1, 1, 2, 3]);
        let mut txn = pb::TxnRequest::default();
        txn.compare.extend((0..compares).map(|_| self.compare()));
        for branch in [&mut txn.success, &mut txn.failure] {
            let count = self.pick(&[0, 1, 1, 2, 2, 3, 4]);
            branch.extend((0..count).map(|_| self.op(depth, written)));
        }
        if self.chance(0.01) {
            let count = MAX_TXN_OPS + self.random.random_range(0..2);
            let range = pb::RangeRequest { key: self.key(), ..Default::default() };
            txn.success.resize(count, op(Request::RequestRange(range)));
        }
        txn
    }

    fn op(&mut self, depth: usize, written: &mut Written) -> pb::RequestOp {
        match self.random.random_range(0..100) {
            0..35 => {
                let mut put = self.put();
                put.key = self.unwritten(put.key, written);
                op(Request::RequestPut(put))
            }
            35..55 => {
                let mut delete = self.delete();
                if written.is_some() {
                    delete.key = self.unwritten(delete.key, written);
                    delete.range_end = Bytes::new();
                }
                op(Request::RequestDeleteRange(delete))
            }
            55..84 => op(Request::RequestRange(self.range_in_txn())),
            84..99 if depth > 1 => op(Request::RequestTxn(self.txn(depth - 1, written))),
            99 if self.chance(0.3) => pb::RequestOp { request: None },
            _ => op(Request::RequestRange(self.range_in_txn())),
        }
    }

    /// Mostly without a revision: one that cannot be read fails the whole transaction.
    fn range_in_txn(&mut self) -> pb::RangeRequest {
        let mut range = self.range();
        if self.chance(0.7) {
            range.revision = 0;
        }
        range
    }

    fn unwritten(&mut self, mut key: Bytes, written: &mut Written) -> Bytes {
        let Some(written) = written else { return key };
        while !written.insert(key.clone()) {
            self.counter += 1;
            key = match self.chance(0.8) {
                true => Bytes::from_static(self.pick(&KEYS)),
                false => format!("key/{}", self.counter % 40).into(),
            };
        }
        key
    }

    fn compare(&mut self) -> pb::Compare {
        let key = self.key();
        let target = self.pick(&[0, 1, 2, 3, 4]);
        let matching = |target| match target {
            0 => TargetUnion::Version(self.random.random_range(0..4)),
            1 => TargetUnion::CreateRevision(match self.random.random_bool(0.4) {
                true => 0,
                false => LATEST - self.random.random_range(0..60),
            }),
            2 => TargetUnion::ModRevision(match self.random.random_bool(0.4) {
                true => 0,
                false => LATEST - self.random.random_range(0..60),
            }),
            3 => TargetUnion::Value(Bytes::from_static(b"x")),
            _ => TargetUnion::Lease(0),
        };
        let mut matching = matching;
        let union = Some(matching(target));
        let mut compare = pb::Compare {
            result: self.pick(&[0, 0, 1, 2, 3]),
            target,
            range_end: if self.chance(0.25) { self.range_end(&key) } else { Bytes::new() },
            key,
            target_union: union,
        };
        if self.chance(0.03) {
            match self.random.random_range(0..4) {
                0 => compare.target_union = None,
                1 => compare.target = self.pick(&[0, 1, 2, 3, 4]),
                2 => compare.target = self.pick(&[5, -1, 42]),
                _ => compare.result = self.pick(&[4, -1, 42]),
            }
        }
        compare
    }
}

/// Whether a transaction deletes a range of keys anywhere.
fn deletes_range(txn: &pb::TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(delete)) => !delete.range_end.is_empty(),
        Some(Request::RequestTxn(inner)) => deletes_range(inner),
        _ => false,
    })
}

/// etcd 3.7.1 ends, and ends again at every start, when a transaction deletes a key and then puts it
/// with `ignore_value` or `ignore_lease`; it refuses that only when the deleted range does not reach to
/// the end of all keys. `surviving::what_ends_etcd` sends such a transaction to Instar.
fn never_ignore(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Request::RequestTxn(inner)) => never_ignore(inner),
            _ => {}
        }
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

/// The end of the range of all keys that start with `key`; "\0" if that is the end of all keys.
fn prefix_end(key: &Bytes) -> Bytes {
    let mut end = key.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// A change that is made or not.
trait ButSometimes: Sized {
    fn but_sometimes(mut self, really: bool, change: impl FnOnce(&mut Self)) -> Self {
        if really {
            change(&mut self);
        }
        self
    }
}

impl ButSometimes for pb::RangeRequest {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_requests_and_another_seed_others() {
        let calls = |seed| {
            let mut generator = Generator::new(seed);
            (0..500).map(|_| generator.call()).collect::<Vec<_>>()
        };
        assert_eq!(calls(1), calls(1));
        assert_ne!(calls(1), calls(2));
    }

    #[test]
    fn every_kind_of_request_and_of_operation_occurs() {
        let mut generator = Generator::new(3);
        let calls: Vec<String> = (0..5000).map(|_| format!("{:?}", generator.call())).collect();
        let kinds =
            ["Put(", "Range(", "RangeStream(", "DeleteRange(", "Compact(", "HashKv(", "Txn("];
        let parts = ["RequestTxn(", "request: None", "target_union: None", "ignore_value: true"];
        for wanted in kinds.iter().chain(&parts) {
            assert!(calls.iter().any(|call| call.contains(wanted)), "no {wanted}");
        }
    }
}
