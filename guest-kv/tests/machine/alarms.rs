//! Alarms: their rows, their answers, and what is refused under them. etcd's own answers are compared end to end.

use crate::store::{Store, delete_range, etcd, op, put};
use guest_kv::Outcome;
use guest_kv::tables::{ALARM, LEASE, STATE, Tables};
use prost::Message;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, LeaseCheckpoint, LeaseCheckpointRequest,
    LeaseGrantRequest, LeaseRevokeRequest, RangeRequest, TxnRequest,
};
use proto::instar::kv;
use proto::instar::kv::request::Kind;

fn ask(
    store: &mut Store,
    action: AlarmAction,
    member_id: u64,
    kind: AlarmType,
) -> Vec<AlarmMember> {
    let alarm = AlarmRequest { action: action.into(), member_id, alarm: kind.into() };
    let outcome = store.apply(etcd(|r| r.alarm = Some(alarm)));
    assert_eq!(outcome.events, []);
    let body = outcome.response.expect("an answer");
    store.check().expect("the invariants");
    AlarmResponse::decode(&body[..]).expect("an AlarmResponse").alarms
}

fn raise(store: &mut Store, kind: AlarmType) {
    ask(store, AlarmAction::Activate, 7, kind);
}

fn member(member_id: u64, kind: AlarmType) -> AlarmMember {
    AlarmMember { member_id, alarm: kind.into() }
}

fn list(store: &Store, kind: AlarmType) -> Vec<AlarmMember> {
    let alarm = AlarmRequest { alarm: kind.into(), ..Default::default() };
    let (_, body) = store.query(etcd(|r| r.alarm = Some(alarm))).expect("a list");
    AlarmResponse::decode(&body[..]).expect("an AlarmResponse").alarms
}

fn grant(store: &mut Store, id: i64) -> Outcome {
    store.apply(etcd(|r| r.lease_grant = Some(LeaseGrantRequest { ttl: 10, id })))
}

fn revoke(store: &mut Store, id: i64) -> Outcome {
    store.apply(etcd(|r| r.lease_revoke = Some(LeaseRevokeRequest { id })))
}

fn refusal(outcome: Outcome) -> Option<(u32, String)> {
    outcome.response.err().map(|rejection| (rejection.code, rejection.message))
}

#[test]
fn rows_are_etcds() {
    let mut store = Store::default();
    let id = 0x8e9e_05c5_2164_694d;
    for _ in 0..2 {
        let raised = ask(&mut store, AlarmAction::Activate, id, AlarmType::Nospace);
        assert_eq!(raised, [member(id, AlarmType::Nospace)]);
    }
    let row = member(id, AlarmType::Nospace).encode_to_vec();
    assert_eq!(store.tables.table(ALARM).collect::<Vec<_>>(), [(&row[..], &b""[..])]);
    assert_eq!(ask(&mut store, AlarmAction::Activate, id, AlarmType::None), []);
    raise(&mut store, AlarmType::Corrupt);

    let corrupt = [member(7, AlarmType::Corrupt)];
    assert_eq!(list(&store, AlarmType::Corrupt), corrupt);
    assert_eq!(list(&store, AlarmType::None).len(), 2);
    assert_eq!(ask(&mut store, AlarmAction::Get, 0, AlarmType::Corrupt), corrupt);
    // Nobody is asked to guess: only the very alarm is disarmed.
    for (member_id, kind) in
        [(0, AlarmType::Nospace), (id, AlarmType::Corrupt), (id, AlarmType::None)]
    {
        assert_eq!(ask(&mut store, AlarmAction::Deactivate, member_id, kind), []);
    }
    assert_eq!(list(&store, AlarmType::None).len(), 2);
    for (member_id, kind) in [(id, AlarmType::Nospace), (7, AlarmType::Corrupt)] {
        let disarmed = ask(&mut store, AlarmAction::Deactivate, member_id, kind);
        assert_eq!(disarmed, [member(member_id, kind)]);
    }
    assert_eq!(store.tables.table(ALARM).count(), 0);
    // What is derived is what a store has that was never written to.
    assert_eq!(store.tables.get(STATE, b"state", <[u8]>::to_vec), None);
}

#[test]
fn without_space_only_what_adds_is_refused() {
    let mut store = Store::default();
    store.put("a", "1");
    assert_eq!(refusal(grant(&mut store, 1)), None);
    raise(&mut store, AlarmType::Nospace);
    let no_space = Some((8, "etcdserver: mvcc: database space exceeded".to_owned()));
    assert_eq!(refusal(store.apply(etcd(|r| r.put = Some(put("b", "2"))))), no_space);
    let put_op = || op(Op::RequestPut(put("b", "2")));
    assert_eq!(refusal(store.txn(vec![put_op()])), no_space);
    // In a branch that is not taken, and in a nested transaction, a put counts as well.
    let otherwise = TxnRequest { failure: vec![put_op()], ..Default::default() };
    let nested = vec![op(Op::RequestTxn(otherwise.clone()))];
    assert_eq!(refusal(store.apply(etcd(|r| r.txn = Some(otherwise)))), no_space);
    assert_eq!(refusal(store.txn(nested)), no_space);
    assert_eq!(refusal(grant(&mut store, 2)), no_space);
    assert_eq!(refusal(revoke(&mut store, 1)), None);

    let range = RangeRequest { key: "a".into(), ..Default::default() };
    let delete = || op(Op::RequestDeleteRange(delete_range("a", "")));
    assert_eq!(refusal(store.txn(vec![op(Op::RequestRange(range)), delete()])), None);
    assert_eq!(refusal(store.apply(etcd(|r| r.delete_range = Some(delete_range("a", ""))))), None);
    assert_eq!(refusal(store.compact(2)), None);
    assert!(store.finish_compaction() > 0);
    ask(&mut store, AlarmAction::Deactivate, 7, AlarmType::Nospace);
    store.put("b", "2");
}

#[test]
fn a_corrupt_cluster_takes_no_writes() {
    let mut store = Store::default();
    store.put("a", "1");
    store.put("a", "2");
    assert_eq!(refusal(grant(&mut store, 1)), None);
    let granted_index = store.index;
    store.compact(3);
    raise(&mut store, AlarmType::Nospace);
    raise(&mut store, AlarmType::Corrupt);
    let corrupt = Some((15, "etcdserver: corrupt cluster".to_owned()));
    assert_eq!(refusal(store.apply(etcd(|r| r.put = Some(put("b", "2"))))), corrupt);
    assert_eq!(
        refusal(store.apply(etcd(|r| r.delete_range = Some(delete_range("a", ""))))),
        corrupt
    );
    assert_eq!(
        refusal(store.txn(vec![op(Op::RequestDeleteRange(delete_range("a", "")))])),
        corrupt
    );
    assert_eq!(refusal(store.compact(3)), corrupt);
    assert_eq!(refusal(grant(&mut store, 2)), corrupt);
    assert_eq!(refusal(revoke(&mut store, 1)), corrupt);
    let over = kv::lease_expiry::Lease { id: 1, granted_index };
    let expiry = || Kind::LeaseExpiry(kv::LeaseExpiry { leases: vec![over] });
    assert_eq!(refusal(store.apply(expiry())), corrupt);
    // What is left of a lease's time is noted all the same, as in etcd.
    let checkpoint = LeaseCheckpoint { id: 1, remaining_ttl: 5 };
    let checkpoint = LeaseCheckpointRequest { checkpoints: vec![checkpoint] };
    assert_eq!(refusal(store.apply(etcd(|r| r.lease_checkpoint = Some(checkpoint)))), None);
    // What an earlier compaction left is still removed, and reads are served.
    assert!(store.finish_compaction() > 0);
    let range = RangeRequest { key: "a".into(), ..Default::default() };
    assert!(store.query(etcd(|r| r.range = Some(range))).is_ok());
    ask(&mut store, AlarmAction::Deactivate, 7, AlarmType::Corrupt);
    assert_eq!(refusal(store.apply(expiry())), None);
    assert_eq!(store.tables.table(LEASE).count(), 0);
}

#[test]
fn a_restart_forgets_no_alarm() {
    let mut store = Store::default();
    raise(&mut store, AlarmType::Nospace);
    store.tables = store.tables.durable_only();
    assert_eq!(guest_kv::rebuild(&mut store.tables, &[]), guest_kv::Progress::Done);
    store.check().expect("the invariants");
    let outcome = store.apply(etcd(|r| r.put = Some(put("b", "2"))));
    assert_eq!(refusal(outcome).map(|(code, _)| code), Some(8));
}

#[test]
fn an_unknown_action_is_refused() {
    let mut store = Store::default();
    let alarm = AlarmRequest { action: 9, ..Default::default() };
    assert_eq!(
        refusal(store.apply(etcd(|r| r.alarm = Some(alarm)))).map(|(code, _)| code),
        Some(3)
    );
}
