//! Requests whose bytes are damaged, repeated or out of order: never a panic, and never another meaning than
//! protobuf's own. `INSTAR_SEED` and `INSTAR_MUTATIONS` choose another campaign.

use guest_kv::memory::MemoryTables;
use guest_kv::{RequestLimits, Route};
use prost::Message;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{Compare, PutRequest, RangeRequest, TxnRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::number;
use crate::store::{Store, all_at, delete_range, op, put};

/// Fields of an InternalRaftRequest.
const RANGE: u8 = 3;
const PUT: u8 = 4;
const TXN: u8 = 6;

/// Wraps a request of etcd's into the machine's.
fn envelope(field: u8, message: &[u8]) -> Vec<u8> {
    let wrap = |field: u8, message: &[u8]| {
        let mut out = vec![field << 3 | 2];
        prost::encoding::encode_varint(message.len() as u64, &mut out);
        out.extend_from_slice(message);
        out
    };
    wrap(1, &wrap(field, message))
}

fn samples() -> Vec<(u8, Vec<u8>)> {
    let range = RangeRequest { limit: 3, sort_order: 1, keys_only: true, ..all_at(0) };
    let put_a = PutRequest { prev_kv: true, ..put("a", "value") };
    let inner = TxnRequest {
        compare: vec![],
        success: vec![op(Op::RequestPut(put("b", "x")))],
        failure: vec![op(Op::RequestRange(range.clone()))],
    };
    let txn = TxnRequest {
        compare: vec![Compare {
            result: 1,
            target: 1,
            key: "a".into(),
            range_end: "c".into(),
            target_union: Some(TargetUnion::CreateRevision(300)),
        }],
        success: vec![op(Op::RequestTxn(inner.clone())), op(Op::RequestPut(put_a.clone()))],
        failure: vec![
            op(Op::RequestDeleteRange(delete_range("b", "c"))),
            op(Op::RequestTxn(inner)),
        ],
    };
    vec![(RANGE, range.encode_to_vec()), (PUT, put_a.encode_to_vec()), (TXN, txn.encode_to_vec())]
}

fn mutate(rng: &mut StdRng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..rng.random_range(0..4) {
        let at = rng.random_range(0..=bytes.len());
        let to = rng.random_range(at..=bytes.len());
        match rng.random_range(0..5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 => bytes.insert(at, rng.random()),
            3 => drop(bytes.drain(at..to)),
            // Fields that come twice are merged.
            _ => bytes.extend_from_within(at..to),
        }
    }
    bytes
}

/// The message as prost reads and writes it again; none if it refuses the bytes.
fn canonical(field: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    Some(match field {
        RANGE => RangeRequest::decode(bytes).ok()?.encode_to_vec(),
        PUT => PutRequest::decode(bytes).ok()?.encode_to_vec(),
        _ => TxnRequest::decode(bytes).ok()?.encode_to_vec(),
    })
}

/// All that can be seen of a request.
fn serve(tables: &MemoryTables, request: &[u8]) -> (String, MemoryTables) {
    let mut store = Store { tables: tables.clone(), ..Store::default() };
    let admission = guest_kv::admit(request, RequestLimits { operations: 128 });
    let outcome = match admission.as_ref().map(|admission| admission.route) {
        Ok(Route::Read | Route::LocalRead) => format!("{:?}", store.query_bytes(request)),
        Ok(Route::Write) | Err(_) => format!("{:?}", store.apply_bytes(request)),
    };
    (format!("{admission:?} {outcome}"), store.tables)
}

#[test]
fn damaged_requests_mean_what_protobuf_says() {
    let seed = number("INSTAR_SEED", 20_261_123);
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut store = Store::default();
    for key in ["a", "aa", "b", "ba", "c", "a"] {
        store.put(key, "x");
    }
    let samples = samples();
    let mut understood = 0;
    for _ in 0..number("INSTAR_MUTATIONS", 100_000) {
        let (field, sample) = &samples[rng.random_range(0..samples.len())];
        let bytes = mutate(&mut rng, sample.clone());
        let served = serve(&store.tables, &envelope(*field, &bytes));
        if let Some(canonical) = canonical(*field, &bytes) {
            understood += 1;
            let expected = serve(&store.tables, &envelope(*field, &canonical));
            assert!(served == expected, "seed {seed}: {bytes:?}\n{}\n{}", served.0, expected.0);
        }
    }
    assert!(understood > 0);
    println!("{understood} requests were understood");
}
