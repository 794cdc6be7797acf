//! Random steps: requests of every kind over few keys, so that they meet; most of them valid, some barely not.

use bytes::Bytes;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, HashKvRequest, HashRequest,
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use proto::instar::kv::request::Kind;
use proto::instar::kv::{LeaseExpiry, RangeStreamStep, Request, lease_expiry};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::Step;

/// Keys that are prefixes of each other, with slashes, with zero bytes and with the greatest byte.
const KEYS: [&[u8]; 26] = [
    b"a",
    b"aa",
    b"ab",
    b"a\0",
    b"a\0\0",
    b"a\0b",
    b"a\xff",
    b"b",
    b"b\0",
    b"ba",
    b"c",
    b"d",
    b"e",
    b"\0",
    b"\0\0",
    b"\xff",
    b"\xff\xff",
    b"key",
    b"a/",
    b"a0",
    b"a/b",
    b"a/b/c",
    b"a/b/d",
    b"/",
    b"//a",
    b"c/d",
];

/// What the generator knows of the store.
pub struct Hints {
    pub revision: i64,
    pub compacted: i64,
    /// Keys to choose from.
    pub keys: usize,
    pub compactions: bool,
    /// The leases that there are, each with the index of the entry that granted it.
    pub leases: Vec<(i64, u64)>,
}

/// Ids of leases: small, negative, with every byte.
const LEASES: [i64; 6] = [1, 2, 7, -1, i64::MIN, 0x0102_0304_0506_0708];

/// The next step.
pub fn step(rng: &mut StdRng, hints: &Hints) -> Step {
    match rng.random_range(0..1000) {
        0..60 => lease(rng, hints),
        60..330 => request(etcd(|r| r.put = Some(put(rng, hints)))),
        330..430 => request(etcd(|r| r.delete_range = Some(delete_range(rng, hints)))),
        430..433 => request(etcd(|r| {
            let everything = Bytes::from_static(b"\0");
            r.delete_range = Some(DeleteRangeRequest {
                key: everything.clone(),
                range_end: everything,
                prev_kv: false,
            });
        })),
        433..640 => request(etcd(|r| r.txn = Some(txn(rng, hints, 0)))),
        640..860 => request(etcd(|r| r.range = Some(range(rng, hints)))),
        860..890 => request(Kind::RangeStreamStep(RangeStreamStep {
            range: Some(range(rng, hints)),
            target_bytes: rng.random_range(0..400),
            ..Default::default()
        })),
        890..900 if hints.compactions => request(etcd(|r| {
            let revision = if rng.random_bool(0.7) {
                rng.random_range(hints.compacted.max(0)..=hints.revision)
            } else {
                revision(rng, hints)
            };
            r.compaction = Some(CompactionRequest { revision, physical: false });
        })),
        890..950 => Step::Task,
        950..970 => {
            let revision = if rng.random_bool(0.5) { 0 } else { revision(rng, hints) };
            request(Kind::HashKv(HashKvRequest { revision }))
        }
        970..975 => request(Kind::Hash(HashRequest {})),
        975..980 => Step::Restart,
        980..983 => Step::Check,
        983..990 => Step::Truncated(envelope(etcd(|r| r.txn = Some(txn(rng, hints, 0))))),
        990..995 => Step::Apply(envelope(etcd(|r| r.txn = Some(txn(rng, hints, 0))))),
        _ => request(etcd(|_| ())),
    }
}

fn request(kind: Kind) -> Step {
    Step::Request(envelope(kind))
}

fn envelope(kind: Kind) -> Request {
    Request { kind: Some(kind) }
}

fn etcd(set: impl FnOnce(&mut InternalRaftRequest)) -> Kind {
    let mut request = InternalRaftRequest::default();
    set(&mut request);
    Kind::Etcd(request)
}

fn key(rng: &mut StdRng, hints: &Hints) -> Bytes {
    if rng.random_bool(0.01) {
        return Bytes::new();
    }
    Bytes::from_static(KEYS[..hints.keys.min(KEYS.len())].choose(rng).copied().unwrap_or_default())
}

fn range_end(rng: &mut StdRng, hints: &Hints) -> Bytes {
    match rng.random_range(0..10) {
        0..4 => Bytes::new(),
        4..6 => Bytes::from_static(b"\0"),
        _ => key(rng, hints),
    }
}

fn value(rng: &mut StdRng) -> Bytes {
    let length = rng.random_range(0..6);
    (0..length).map(|_| rng.random_range(b'a'..=b'c')).collect()
}

fn revision(rng: &mut StdRng, hints: &Hints) -> i64 {
    match rng.random_range(0..20) {
        0 => -1,
        1 => -2,
        2 => hints.revision + rng.random_range(1..3),
        3 => rng.random(),
        4 => hints.compacted - 1,
        5..8 => hints.compacted,
        8 => hints.revision,
        // Few changes ago.
        9..13 => hints.revision - rng.random_range(1..5),
        _ => rng.random_range(hints.compacted.max(0)..=hints.revision),
    }
}

fn put(rng: &mut StdRng, hints: &Hints) -> PutRequest {
    let ignore_value = rng.random_bool(0.05);
    let ignore_lease = rng.random_bool(0.05);
    PutRequest {
        key: key(rng, hints),
        value: if ignore_value && rng.random_bool(0.9) { Bytes::new() } else { value(rng) },
        lease: match rng.random_range(0..100) {
            0 => lease_id(rng),
            1..30 => hints.leases.choose(rng).map_or(0, |(id, _)| *id),
            _ => 0,
        },
        prev_kv: rng.random_bool(0.3),
        ignore_value,
        ignore_lease,
    }
}

fn lease_id(rng: &mut StdRng) -> i64 {
    LEASES.choose(rng).copied().unwrap_or_default()
}

fn lease(rng: &mut StdRng, hints: &Hints) -> Step {
    let id = lease_id(rng);
    match rng.random_range(0..100) {
        0..45 => request(etcd(|r| {
            let ttl = match rng.random_range(0..10) {
                0 => 9_000_000_000 + rng.random_range(0..2),
                1 => rng.random(),
                _ => rng.random_range(-1..100),
            };
            let id = if rng.random_bool(0.02) { 0 } else { id };
            r.lease_grant = Some(LeaseGrantRequest { ttl, id });
        })),
        45..55 => request(etcd(|r| r.lease_revoke = Some(LeaseRevokeRequest { id }))),
        55..65 => request(etcd(|r| {
            let count = rng.random_range(0..3);
            let checkpoint =
                |_| LeaseCheckpoint { id: lease_id(rng), remaining_ttl: rng.random_range(-1..50) };
            let checkpoints = (0..count).map(checkpoint).collect();
            r.lease_checkpoint = Some(LeaseCheckpointRequest { checkpoints });
        })),
        65..75 => {
            // Mostly leases that are there, sometimes earlier ones of the same id, sometimes twice.
            let count = rng.random_range(0..4);
            let leases = (0..count).filter_map(|_| hints.leases.choose(rng).copied()).collect();
            let leases: Vec<(i64, u64)> = leases;
            let lease = |(id, index): (i64, u64)| lease_expiry::Lease {
                id,
                granted_index: if rng.random_bool(0.8) { index } else { index - 1 },
            };
            request(Kind::LeaseExpiry(LeaseExpiry {
                leases: leases.into_iter().map(lease).collect(),
            }))
        }
        75..95 => {
            let keys = rng.random_bool(0.7);
            request(Kind::LeaseTimeToLive(LeaseTimeToLiveRequest { id, keys }))
        }
        _ => request(Kind::LeaseLeases(LeaseLeasesRequest {})),
    }
}

fn delete_range(rng: &mut StdRng, hints: &Hints) -> DeleteRangeRequest {
    // Most of them small, or nothing would live long.
    let range_end = if rng.random_bool(0.7) { Bytes::new() } else { range_end(rng, hints) };
    DeleteRangeRequest { key: key(rng, hints), range_end, prev_kv: rng.random_bool(0.3) }
}

fn range(rng: &mut StdRng, hints: &Hints) -> RangeRequest {
    let sorted = rng.random_bool(0.3);
    let filtered = rng.random_bool(0.2);
    let filter = |rng: &mut StdRng| {
        if filtered && rng.random_bool(0.4) { revision(rng, hints) } else { 0 }
    };
    RangeRequest {
        key: key(rng, hints),
        range_end: range_end(rng, hints),
        limit: match rng.random_range(0..20) {
            0..10 => 0,
            10 => -1,
            11 => i64::MAX,
            12 => i64::MAX - 1,
            _ => rng.random_range(1..12),
        },
        revision: if rng.random_bool(0.6) { 0 } else { revision(rng, hints) },
        sort_order: if sorted { rng.random_range(0..3) } else { 0 },
        sort_target: if sorted {
            rng.random_range(0..5)
        } else if rng.random_bool(0.01) {
            rng.random_range(-1..7)
        } else {
            0
        },
        serializable: rng.random_bool(0.3),
        keys_only: rng.random_bool(0.2),
        count_only: rng.random_bool(0.1),
        min_mod_revision: filter(rng),
        max_mod_revision: filter(rng),
        min_create_revision: filter(rng),
        max_create_revision: filter(rng),
    }
}

fn compare(rng: &mut StdRng, hints: &Hints) -> Compare {
    let number = if rng.random_bool(0.6) { rng.random_range(0..4) } else { revision(rng, hints) };
    let target = rng.random_range(0..5);
    // Mostly the operand that belongs to the target.
    let operand = if rng.random_bool(0.9) { target } else { rng.random_range(0..6) };
    Compare {
        result: if rng.random_bool(0.98) { rng.random_range(0..4) } else { 9 },
        target: if rng.random_bool(0.98) { target } else { 9 },
        key: key(rng, hints),
        range_end: if rng.random_bool(0.7) { Bytes::new() } else { range_end(rng, hints) },
        target_union: match operand {
            0 => Some(TargetUnion::Version(number)),
            1 => Some(TargetUnion::CreateRevision(number)),
            2 => Some(TargetUnion::ModRevision(number)),
            3 => Some(TargetUnion::Value(value(rng))),
            4 => Some(TargetUnion::Lease(number)),
            _ => None,
        },
    }
}

fn txn(rng: &mut StdRng, hints: &Hints, depth: u32) -> TxnRequest {
    let read_only = depth == 0 && rng.random_bool(0.2);
    let ops = |rng: &mut StdRng| {
        let count = rng.random_range(0..4);
        (0..count).map(|_| op(rng, hints, depth, read_only)).collect()
    };
    let (success, failure) = (ops(rng), ops(rng));
    let compares = rng.random_range(0..3);
    let compare = (0..compares).map(|_| compare(rng, hints)).collect();
    TxnRequest { compare, success, failure }
}

fn op(rng: &mut StdRng, hints: &Hints, depth: u32, read_only: bool) -> RequestOp {
    let op = match rng.random_range(0..100) {
        _ if read_only => Op::RequestRange(range(rng, hints)),
        0..40 => Op::RequestPut(put(rng, hints)),
        40..60 => Op::RequestDeleteRange(delete_range(rng, hints)),
        60..80 if depth < 4 => Op::RequestTxn(txn(rng, hints, depth + 1)),
        99 => return RequestOp { request: None },
        _ => Op::RequestRange(range(rng, hints)),
    };
    RequestOp { request: Some(op) }
}
