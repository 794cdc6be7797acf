//! What modules have to do with the KV machine: its keys for their reads, operations and events for their eyes, and one
//! request for what they write.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::InternalRaftRequest;
use proto::etcdserverpb::request_op::Request as Op;
use proto::instar::kv;
use proto::instar::kv::request::Kind;

use super::feed::KEYS;
use crate::limits;
use crate::runtime::{
    CallError, Fault, KeyValue, Keys, Operation, Outcome, QueryError, Reader, Written,
};
use crate::storage::{Overlay, StorageError, Tables, View};

/// The end of a range that has none, as etcd writes it. It is also the first key that there can be.
const NO_END: &[u8] = &[0];
/// Revision keys of tombstones have a byte more than others.
const REVISION_KEY_BYTES: usize = 17;

/// The machine's keys in one view.
pub struct MachineKeys {
    pub view: Arc<View>,
    pub reader: Reader,
}

impl Keys for MachineKeys {
    fn range(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u32,
        fuel: u64,
    ) -> Result<(Vec<KeyValue>, u64), CallError> {
        if limit == 0 {
            return Ok((Vec::new(), 0));
        }
        let first = if start.is_empty() { NO_END } else { start };
        let range_end = match end {
            None => Bytes::new(),
            Some([]) => Bytes::from_static(NO_END),
            Some(end) => Bytes::copy_from_slice(end),
        };
        let range = pb::RangeRequest {
            key: Bytes::copy_from_slice(first),
            range_end,
            limit: i64::from(limit),
            ..Default::default()
        };
        let request = etcd(InternalRaftRequest { range: Some(range), ..Default::default() });
        let answered = self.reader.query_within(&self.view, &request, fuel);
        let (answer, used) = answered.map_err(|error| match error {
            QueryError::Failed(error) => error,
            QueryError::Rejected(rejection) => Fault::new(rejection.message).into(),
        })?;
        let response = pb::RangeResponse::decode(answer.body)
            .map_err(|_| Fault::new("the machine gave no keys for it to read"))?;
        Ok((response.kvs.into_iter().map(key_value).collect(), used))
    }
}

fn key_value(kv: proto::mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision as u64,
        mod_revision: kv.mod_revision as u64,
        version: kv.version as u64,
        lease: kv.lease,
    }
}

fn etcd(request: InternalRaftRequest) -> Bytes {
    kv::Request { kind: Some(Kind::Etcd(request)) }.encode_to_vec().into()
}

/// The transaction that does what a call wrote.
pub fn txn(written: &Written) -> Bytes {
    let txn = pb::TxnRequest { success: operations_for(written), ..Default::default() };
    etcd(InternalRaftRequest { txn: Some(txn), ..Default::default() })
}

/// A request with operations behind it, in the same revision.
pub fn with_also(request: &Bytes, written: &Written) -> Bytes {
    let also = kv::Also { operations: operations_for(written) };
    // Fields of a message may follow each other in any order: this is the same request with more of them.
    [request, &*also.encode_to_vec()].concat().into()
}

fn operations_for(written: &Written) -> Vec<pb::RequestOp> {
    let operation = |(key, value): (&Bytes, &Option<(Bytes, i64)>)| {
        let key = key.clone();
        let request = match value.clone() {
            Some((value, lease)) => {
                Op::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() })
            }
            None => Op::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }),
        };
        pb::RequestOp { request: Some(request) }
    };
    written.keys.iter().map(operation).collect()
}

/// What a request does to keys.
pub enum Effects {
    /// These operations; of a transaction, those of both branches.
    Operations(Vec<Operation>),
    /// It may delete keys that it does not name.
    OfLeases,
    /// None.
    Nothing,
}

pub fn effects(request: &Bytes) -> Effects {
    let Ok(request) = kv::Request::decode(request.clone()) else { return Effects::Nothing };
    let request = match request.kind {
        Some(Kind::Etcd(request)) => request,
        Some(Kind::LeaseExpiry(_)) => return Effects::OfLeases,
        _ => return Effects::Nothing,
    };
    if request.lease_revoke.is_some() {
        return Effects::OfLeases;
    }
    let mut operations = Vec::new();
    operations.extend(request.put.map(put));
    operations.extend(request.delete_range.map(delete));
    let mut txns: Vec<_> = request.txn.into_iter().collect();
    while let Some(txn) = txns.pop() {
        for operation in txn.success.into_iter().chain(txn.failure) {
            match operation.request {
                Some(Op::RequestPut(request)) => operations.push(put(request)),
                Some(Op::RequestDeleteRange(request)) => operations.push(delete(request)),
                Some(Op::RequestTxn(nested)) => txns.push(nested),
                Some(Op::RequestRange(_)) | None => {}
            }
        }
    }
    match operations.is_empty() {
        true => Effects::Nothing,
        false => Effects::Operations(operations),
    }
}

fn put(request: pb::PutRequest) -> Operation {
    Operation::Put { key: request.key, value: request.value, lease: request.lease }
}

fn delete(request: pb::DeleteRangeRequest) -> Operation {
    let range_end = match &*request.range_end {
        [] => None,
        NO_END => Some(Bytes::new()),
        _ => Some(request.range_end),
    };
    Operation::Delete { key: request.key, range_end }
}

/// Whether an operation may touch a key under a prefix.
pub fn touches(operation: &Operation, prefix: &[u8]) -> bool {
    match operation {
        Operation::Put { key, .. } | Operation::Delete { key, range_end: None } => {
            key.starts_with(prefix)
        }
        Operation::Delete { key, range_end: Some(end) } => {
            let is_behind = **key > *prefix && !key.starts_with(prefix);
            !is_behind && (end.is_empty() || (**end > *prefix && end > key))
        }
    }
}

/// What an outcome, whose writes are in `overlay`, did to keys: none for those it deleted.
pub fn touched(
    overlay: &Overlay,
    outcome: &Outcome,
) -> Result<BTreeMap<Bytes, Option<KeyValue>>, StorageError> {
    let mut touched = BTreeMap::new();
    let Some(keys) = overlay.base().table_named(KEYS) else { return Ok(touched) };
    for row in outcome.events.iter().filter(|row| row.table == keys) {
        let mut decoded = Ok(proto::mvccpb::KeyValue::default());
        overlay.get(row.table, &row.key, &mut |value| {
            decoded = proto::mvccpb::KeyValue::decode(value);
        })?;
        let kv = decoded.map_err(|error| StorageError::corrupt("the machine's keys", error))?;
        let is_delete = row.key.len() > REVISION_KEY_BYTES;
        touched.insert(kv.key.clone(), (!is_delete).then(|| key_value(kv)));
    }
    Ok(touched)
}

/// More than a module is to be shown.
pub fn too_many(count: usize) -> bool {
    count > limits::MODULE_EVENTS
}
