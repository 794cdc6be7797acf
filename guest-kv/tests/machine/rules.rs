//! Rules of etcd's one by one: what a random campaign would meet too rarely, or cannot know without etcd itself.

use crate::store::{Store, all_at, delete_range, etcd, op, put};
use guest_kv::memory::MemoryTables;
use guest_kv::tables::{CURRENT, HISTORY, KEY, STATE, Tables};
use guest_kv::{Progress, RequestLimits};
use prost::Message;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{HashKvRequest, HashKvResponse, RangeResponse, TxnRequest};
use proto::instar::kv::request::Kind;
use proto::instar::kv::{CompactionProgress, CompactionStep, RangeStreamStep, Request};

fn hash(store: &Store, revision: i64) -> (u32, i64, i64) {
    let (_, body) = store.query(Kind::HashKv(HashKvRequest { revision })).expect("a hash");
    let hash = HashKvResponse::decode(&body[..]).expect("a HashKVResponse");
    (hash.hash, hash.compact_revision, hash.hash_revision)
}

/// The numbers are those that etcd 3.7.1 answers to the same commands.
#[test]
fn hashes_are_those_of_etcd() {
    let mut store = Store::default();
    assert_eq!(hash(&store, 0), (1084519789, -1, 1));
    store.put("a", "1");
    store.put("b", "2");
    store.delete_range("a", "");
    store.put("a", "3");
    store.put("a", "6");
    store.delete_range("b", "");
    let by_revision = [2587454935, 1827592406, 1562576432, 2804068566, 3546693656, 2159105203];
    for (revision, expected) in (2..).zip(by_revision) {
        assert_eq!(hash(&store, revision), (expected, -1, revision));
    }
    assert_eq!(hash(&store, 0), (2159105203, -1, 7));

    // The removal of rows changes nothing.
    for finish in [false, true] {
        if finish {
            assert_eq!(store.finish_compaction(), 1);
        } else {
            assert!(store.compact(5).task_pending);
        }
        assert_eq!(hash(&store, 6), (3993642920, 5, 6));
        assert_eq!(hash(&store, 0), (2278733889, 5, 7));
    }
    store.put("a", "7");
    assert_eq!(hash(&store, 0), (3956386521, 5, 8));
    // Nothing is alive: etcd's keep-set is empty.
    store.delete_range("\0", "\0");
    assert_eq!(hash(&store, 0), (1737652254, 5, 9));
    store.put("z", "1");
    assert_eq!(hash(&store, 0), (1634999179, 5, 10));
    store.put("z", "2");
    store.delete_range("z", "");
    assert_eq!(hash(&store, 0), (3600247831, 5, 12));
    assert!(store.compact(12).task_pending);
    assert_eq!(hash(&store, 0), (1084519789, 12, 12));
    store.finish_compaction();
    assert_eq!(hash(&store, 0), (1084519789, 12, 12));
    store.put("q", "1");
    assert_eq!(hash(&store, 0), (861092120, 12, 13));
    assert_eq!(
        store.query(Kind::HashKv(HashKvRequest { revision: 14 })).map_err(|r| r.code),
        Err(11)
    );
    assert_eq!(
        store.query(Kind::HashKv(HashKvRequest { revision: 11 })).map_err(|r| r.code),
        Err(11)
    );
}

/// The history of etcd's key_index_test.go: foo at 2, 4, 6 (deleted), 8, 10, 12 (deleted), 14, 15.1, 16 (deleted).
fn foo() -> Store {
    let mut store = Store::default();
    for revision in 2..=16 {
        match revision {
            2 | 4 | 8 | 10 | 14 => store.put("foo", "x"),
            6 | 12 | 16 => store.delete_range("foo", ""),
            15 => {
                let puts = ["other", "foo"].map(|key| op(Op::RequestPut(put(key, "x"))));
                assert_eq!(store.txn(puts.to_vec()).revision, 15);
            }
            _ => store.put("other", "x"),
        }
    }
    store
}

#[test]
fn compaction_keeps_what_etcd_keeps() {
    let all = [2, 4, 6, 8, 10, 12, 14, 15, 16];
    let first_kept = [2, 2, 2, 4, 4, 6, 8, 8, 8, 10, 10, 12, 14, 14, 15, 16, 17];
    let mut continuous = foo();
    continuous.put("other", "x");
    for (compacted, first) in (1..=17).zip(first_kept) {
        let expected: Vec<_> = all
            .into_iter()
            .filter(|main| *main >= first)
            .map(|main| (main, i64::from(main == 15), [6, 12, 16].contains(&main)))
            .collect();
        let mut jump = foo();
        jump.put("other", "x");
        for store in [&mut continuous, &mut jump] {
            assert!(store.compact(compacted).response.is_ok());
            store.finish_compaction();
            assert_eq!(store.rows_of("foo"), expected, "compacted {compacted}");
            assert_eq!(store.check(), Ok(()));
        }
    }
}

#[test]
fn compaction_is_refused_and_taken_over() {
    let mut store = foo();
    assert_eq!(store.compact(-1).response.map_err(|r| r.code), Err(11));
    let future = store.compact(17).response.expect_err("a future revision");
    assert_eq!(future.message, "etcdserver: mvcc: required revision is a future revision");
    assert!(store.compact(0).response.is_ok());
    let compacted = store.compact(0).response.expect_err("a compacted revision");
    assert_eq!(compacted.message, "etcdserver: mvcc: required revision has been compacted");
    assert!(store.compact(3).response.is_ok());
    // Unreadable at once, whatever is removed.
    assert!(store.query(etcd(|r| r.range = Some(all_at(3)))).is_ok());
    assert_eq!(store.query(etcd(|r| r.range = Some(all_at(2)))).map_err(|r| r.code), Err(11));
    let step = |revision, row_limit| Kind::CompactionStep(CompactionStep { revision, row_limit });
    assert!(store.apply(step(3, 2)).task_pending);
    assert!(store.compact(10).task_pending);
    // A step of the earlier compaction is late.
    let outcome = store.apply(step(3, 1000));
    let expected =
        CompactionProgress { scheduled_revision: 10, finished_revision: 0, pending: true };
    assert_eq!(outcome.response, Ok(expected.encode_to_vec()));
    let mut steps = 1;
    while store.apply(step(10, 0)).task_pending {
        steps += 1;
    }
    assert!(steps > 5, "{steps} steps");
    let (_, body) = store.query(step(0, 0)).expect("progress");
    let expected =
        CompactionProgress { scheduled_revision: 10, finished_revision: 10, pending: false };
    assert_eq!(body, expected.encode_to_vec());
    assert_eq!(guest_kv::next_task(&store.tables), None);
    assert_eq!(store.rows_of("foo")[0], (10, 0, false));
    assert_eq!(store.check(), Ok(()));
}

/// A key with many revisions is looked up rather than walked.
#[test]
fn busy_keys_are_listed_at_every_revision() {
    let mut store = Store::default();
    for round in 0..100 {
        store.put("busy", &round.to_string());
        if round % 10 == 0 {
            store.put("calm", &round.to_string());
            store.delete_range("busy", "");
        }
        store.put("gone", "x");
    }
    store.delete_range("gone", "");
    store.put("zoo", "x");
    let mut expected = std::collections::BTreeMap::new();
    for (key, row) in
        store.tables.table(KEY).map(|(k, r)| (k.to_vec(), r.to_vec())).collect::<Vec<_>>()
    {
        let kv = proto::mvccpb::KeyValue::decode(&row[..]).expect("a KeyValue");
        match key.len() {
            17 => expected.insert(kv.key.clone(), kv.clone()),
            _ => expected.remove(&kv.key),
        };
        let revision = i64::from_be_bytes(key[..8].try_into().expect("8 bytes"));
        let (_, body) = store.query(etcd(|r| r.range = Some(all_at(revision)))).expect("a range");
        let found = RangeResponse::decode(&body[..]).expect("a RangeResponse");
        assert_eq!(found.kvs, expected.values().cloned().collect::<Vec<_>>(), "at {revision}");
    }
}

fn nested(depth: usize) -> Request {
    let mut txn = TxnRequest::default();
    for level in 0..depth {
        let leaf = if level == 0 { vec![op(Op::RequestPut(put("deep", "x")))] } else { Vec::new() };
        let inner = op(Op::RequestTxn(txn));
        txn = TxnRequest { success: [vec![inner], leaf].concat(), ..Default::default() };
    }
    Request { kind: Some(etcd(|r| r.txn = Some(txn))) }
}

/// etcd's default limit of 128 operations lets transactions nest 128 times. The stack is the component's.
#[test]
fn transactions_nest_as_deep_as_in_etcd() {
    let stack_bytes = if cfg!(debug_assertions) { 1 << 20 } else { 128 << 10 };
    let requests = [126, 128, 129, 3000].map(|depth| nested(depth).encode_to_vec());
    let work = move || {
        let limits = RequestLimits { operations: u32::MAX };
        let mut store = Store::default();
        for request in &requests[..2] {
            assert!(guest_kv::admit(request, limits).is_ok());
            assert!(store.apply_bytes(request).response.is_ok());
        }
        assert_eq!(store.rows_of("deep").len(), 2);
        for request in &requests[2..] {
            let refused = guest_kv::admit(request, limits).expect_err("too deep");
            assert_eq!(refused.message, "etcdserver: too many operations in txn request");
            assert_eq!(store.apply_bytes(request).response, Err(refused));
        }
        // The innermost has two operations where only one is left.
        let limits = RequestLimits { operations: 128 };
        assert!(guest_kv::admit(&requests[0], limits).is_ok());
        assert!(guest_kv::admit(&requests[1], limits).is_err());
    };
    let thread = std::thread::Builder::new().stack_size(stack_bytes).spawn(work).expect("a thread");
    thread.join().expect("no overflow, no panic");
}

/// What the overlap check lets pass: an end of one zero byte, which it takes literally.
#[test]
fn a_key_may_change_twice_in_one_revision() {
    let mut store = Store::default();
    store.put("k", "old");
    let mut keep = put("k", "");
    keep.ignore_value = true;
    let ops = [op(Op::RequestDeleteRange(delete_range("a", "\0"))), op(Op::RequestPut(keep))];
    assert_eq!(store.txn(ops.to_vec()).revision, 3);
    assert_eq!(store.rows_of("k"), [(2, 0, false), (3, 0, true), (3, 1, false)]);
    assert!(store.compact(3).response.is_ok());
    store.finish_compaction();
    assert_eq!(store.rows_of("k"), [(3, 1, false)]);
    assert_eq!(store.check(), Ok(()));
}

#[test]
fn a_stream_keeps_its_revision() {
    let mut store = Store::default();
    for key in 0..25 {
        store.put(&format!("k{key:02}"), "x");
    }
    let step = RangeStreamStep { range: Some(all_at(0)), target_bytes: 1000, ..Default::default() };
    let (first, body) = store.query(Kind::RangeStreamStep(step)).expect("a message");
    assert_eq!(RangeResponse::decode(&body[..]).expect("a message").kvs.len(), 10);
    store.put("k05", "y");
    store.delete_range("k20", "");
    store.put("zoo", "x");
    let next = first.next.expect("a next message");
    let (second, body) = store.query_bytes(&next).expect("a message");
    let message = RangeResponse::decode(&body[..]).expect("a message");
    assert_eq!((second.revision, second.next), (first.revision, None));
    assert_eq!((message.kvs.len(), message.count, message.more), (15, 25, false));
    let route = guest_kv::admit(&next, RequestLimits { operations: 128 }).map(|a| a.route);
    assert_eq!(route, Ok(guest_kv::Route::LocalRead));
    assert!(store.compact(28).response.is_ok());
    assert_eq!(store.query_bytes(&next).map_err(|r| r.code), Err(11));
}

#[test]
fn rebuilding_is_done_in_steps() {
    let mut store = Store::default();
    for key in 0..5000 {
        store.put(&(key % 700).to_string(), "x");
    }
    let mut tables = store.tables.durable_only();
    let (mut cursor, mut steps) = (Vec::new(), 1);
    while let Progress::More(next) = guest_kv::rebuild(&mut tables, &cursor) {
        (cursor, steps) = (next, steps + 1);
    }
    assert_eq!(steps, 3);
    assert!(tables.has_rows_of(&store.tables));
}

/// The check must see what it is there for.
#[test]
fn damage_is_found() {
    type Damage = fn(&mut MemoryTables);
    let damages: [Damage; 7] = [
        |tables| tables.put(STATE, b"state", &[0; 18]),
        |tables| remove_first(tables, KEY),
        |tables| remove_first(tables, CURRENT),
        |tables| remove_first(tables, HISTORY),
        |tables| change_first(tables, KEY),
        |tables| change_first(tables, CURRENT),
        |tables| change_first(tables, HISTORY),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let mut store = foo();
        assert_eq!(store.check(), Ok(()));
        damage(&mut store.tables);
        assert!(store.check().is_err(), "damage {number} is not found");
    }
}

fn first_row(tables: &MemoryTables, table: u32) -> (Vec<u8>, Vec<u8>) {
    let row = tables.table(table).next().map(|(key, value)| (key.to_vec(), value.to_vec()));
    row.expect("a row")
}

fn remove_first(tables: &mut MemoryTables, table: u32) {
    let (key, _) = first_row(tables, table);
    tables.delete(table, &key);
}

fn change_first(tables: &mut MemoryTables, table: u32) {
    let (key, mut value) = first_row(tables, table);
    let place = match table {
        KEY => 2,      // a byte of the user key
        CURRENT => 32, // the last byte of the version
        _ => 15,       // the same, in the history
    };
    value[place] ^= 1;
    tables.put(table, &key, &value);
}
