//! The quota on the database (server/storage/quota.go): a request that might cross it is refused, and an alarm raised
//! that makes every member refuse what adds to the database until it is disarmed.
//!
//! This is the one place where the host looks into a put or a transaction, and only close to the quota: as long as even
//! the most that its bytes could cost would fit, nothing is decoded.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;

use super::coordinator::Coordinator;
use super::grpc::Service;
use super::status::{Code, Status};
use super::wire::{self, EtcdRequest};

/// etcd's quota when the flag is 0.
pub(super) const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

/// etcd's estimate of what it stores beside a key and its value.
const KV_OVERHEAD_BYTES: u64 = 256;
/// etcd's estimate of what a lease takes.
const LEASE_OVERHEAD_BYTES: u64 = 64;
/// The smallest put in a transaction's encoding: the tags and lengths of two empty messages.
const SMALLEST_OP_BYTES: u64 = 4;

/// Refuses a request that the quota has no room for.
pub(super) async fn check<C: Coordinator>(
    service: &Service<C>,
    kind: EtcdRequest,
    message: &Bytes,
) -> Result<(), Status> {
    let quota_bytes = match service.settings.quota_backend_bytes {
        0 => DEFAULT_QUOTA_BYTES,
        quota_bytes => quota_bytes,
    };
    let Ok(quota_bytes) = u64::try_from(quota_bytes) else { return Ok(()) };
    let size_bytes = service.coordinator.db_size_bytes();
    let fits = |cost: u64| cost == 0 || size_bytes.saturating_add(cost) < quota_bytes;
    if fits(most_cost(kind, message.len() as u64)) || fits(cost(kind, message)) {
        return Ok(());
    }
    let alarm = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: service.settings.member_id,
        alarm: pb::AlarmType::Nospace.into(),
    };
    let request = wire::etcd_request(EtcdRequest::Alarm, &alarm.encode_to_vec());
    if let Err(error) = service.coordinator.propose(request).await {
        tracing::warn!(error = %error, "the database is full, and the alarm cannot be raised");
    }
    Err(Status::new(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"))
}

/// What a request of so many bytes costs at most; 0 if its kind adds nothing.
fn most_cost(kind: EtcdRequest, message_bytes: u64) -> u64 {
    match kind {
        EtcdRequest::Put => KV_OVERHEAD_BYTES + message_bytes,
        EtcdRequest::Txn => message_bytes / SMALLEST_OP_BYTES * KV_OVERHEAD_BYTES + message_bytes,
        EtcdRequest::LeaseGrant => LEASE_OVERHEAD_BYTES,
        _ => 0,
    }
}

/// What a request costs, by etcd's reckoning. One that cannot be decoded costs nothing: it is refused elsewhere.
fn cost(kind: EtcdRequest, message: &Bytes) -> u64 {
    match kind {
        EtcdRequest::Put => pb::PutRequest::decode(message.clone()).map_or(0, |put| put_cost(&put)),
        EtcdRequest::Txn => pb::TxnRequest::decode(message.clone()).map_or(0, |txn| txn_cost(&txn)),
        EtcdRequest::LeaseGrant => LEASE_OVERHEAD_BYTES,
        _ => 0,
    }
}

fn put_cost(put: &pb::PutRequest) -> u64 {
    KV_OVERHEAD_BYTES + (put.key.len() + put.value.len()) as u64
}

/// The dearer one of its branches. prost has bounded the depth.
fn txn_cost(txn: &pb::TxnRequest) -> u64 {
    let branch = |ops: &[pb::RequestOp]| {
        let cost = |op: &pb::RequestOp| match &op.request {
            Some(Op::RequestPut(put)) => put_cost(put),
            Some(Op::RequestTxn(txn)) => txn_cost(txn),
            _ => 0,
        };
        ops.iter().map(cost).sum::<u64>()
    };
    branch(&txn.success).max(branch(&txn.failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_etcds() {
        let put = |value_bytes| pb::PutRequest {
            key: "key".into(),
            value: vec![0; value_bytes].into(),
            ..Default::default()
        };
        let op = |request| pb::RequestOp { request: Some(request) };
        let inner = pb::TxnRequest {
            success: vec![op(Op::RequestPut(put(1)))],
            failure: vec![op(Op::RequestPut(put(2))), op(Op::RequestPut(put(3)))],
            ..Default::default()
        };
        let outer = pb::TxnRequest {
            success: vec![op(Op::RequestTxn(inner)), op(Op::RequestRange(Default::default()))],
            failure: vec![op(Op::RequestPut(put(100)))],
            ..Default::default()
        };
        let encoded = |message: &dyn Fn() -> Vec<u8>| Bytes::from(message());
        let cases = [
            (EtcdRequest::Put, encoded(&|| put(10).encode_to_vec()), 269),
            (EtcdRequest::Put, Bytes::new(), 256),
            (EtcdRequest::Txn, encoded(&|| outer.encode_to_vec()), 2 * 256 + 3 + 2 + 3 + 3),
            (EtcdRequest::Txn, Bytes::new(), 0),
            (EtcdRequest::Txn, Bytes::from_static(b"\xff"), 0),
            (EtcdRequest::DeleteRange, Bytes::new(), 0),
            (EtcdRequest::LeaseGrant, Bytes::new(), 64),
            (EtcdRequest::LeaseRevoke, Bytes::new(), 0),
        ];
        for (kind, message, expected) in cases {
            assert_eq!(cost(kind, &message), expected, "{kind:?}");
            assert!(most_cost(kind, message.len() as u64) >= expected, "{kind:?}");
        }
        // The most puts that fit into the fewest bytes.
        let empty = pb::TxnRequest {
            success: vec![op(Op::RequestPut(pb::PutRequest::default())); 100],
            ..Default::default()
        };
        let message = Bytes::from(empty.encode_to_vec());
        assert_eq!(message.len() as u64, 100 * SMALLEST_OP_BYTES);
        assert_eq!(cost(EtcdRequest::Txn, &message), 25_600);
        assert!(most_cost(EtcdRequest::Txn, message.len() as u64) >= 25_600);
    }
}
