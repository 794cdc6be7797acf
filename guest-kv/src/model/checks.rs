//! What etcd refuses without looking at its store.

use std::collections::BTreeSet;

use bytes::Bytes;
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// A refusal: gRPC code and text.
pub type Refusal = (u32, &'static str);

const EMPTY_KEY: Refusal = (3, "etcdserver: key is not provided");
const KEY_NOT_FOUND: Refusal = (3, "etcdserver: key not found");
const VALUE_PROVIDED: Refusal = (3, "etcdserver: value is provided");
const LEASE_PROVIDED: Refusal = (3, "etcdserver: lease is provided");
const TOO_MANY_OPS: Refusal = (3, "etcdserver: too many operations in txn request");
const DUPLICATE_KEY: Refusal = (3, "etcdserver: duplicate key given in txn request");
const INVALID_SORT: Refusal = (3, "etcdserver: invalid sort option");
const STREAM_SORT: Refusal = (12, "RangeStream does not support custom sort orders");
const STREAM_FILTERS: Refusal = (12, "RangeStream does not support revision filters");

pub fn check_range(r: &RangeRequest) -> Result<(), Refusal> {
    if r.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if SortOrder::try_from(r.sort_order).is_err() || SortTarget::try_from(r.sort_target).is_err() {
        return Err(INVALID_SORT);
    }
    Ok(())
}

pub fn check_range_stream(r: &RangeRequest) -> Result<(), Refusal> {
    check_range(r)?;
    let key_ascending =
        r.sort_target == SortTarget::Key as i32 && r.sort_order == SortOrder::Ascend as i32;
    if r.sort_order != SortOrder::None as i32 && !key_ascending {
        return Err(STREAM_SORT);
    }
    let filters =
        [r.min_mod_revision, r.max_mod_revision, r.min_create_revision, r.max_create_revision];
    if filters != [0; 4] {
        return Err(STREAM_FILTERS);
    }
    Ok(())
}

pub fn check_put(p: &PutRequest) -> Result<(), Refusal> {
    if p.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if p.ignore_value && !p.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if p.ignore_lease && p.lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    Ok(())
}

pub fn check_delete_range(d: &DeleteRangeRequest) -> Result<(), Refusal> {
    if d.key.is_empty() { Err(EMPTY_KEY) } else { Ok(()) }
}

pub fn check_txn(t: &TxnRequest, operations: i64) -> Result<(), Refusal> {
    let longest = t.compare.len().max(t.success.len()).max(t.failure.len()) as i64;
    if longest > operations {
        return Err(TOO_MANY_OPS);
    }
    if t.compare.iter().any(|c| c.key.is_empty()) {
        return Err(EMPTY_KEY);
    }
    for op in t.success.iter().chain(&t.failure) {
        match op.request.as_ref() {
            Some(Op::RequestRange(r)) => check_range(r)?,
            Some(Op::RequestPut(p)) => check_put(p)?,
            Some(Op::RequestDeleteRange(d)) => check_delete_range(d)?,
            Some(Op::RequestTxn(t)) => check_txn(t, operations - longest)?,
            None => return Err(KEY_NOT_FOUND),
        }
    }
    Ok(())
}

type Deletes = Vec<(Bytes, Bytes)>;

/// What a list of operations puts, and what it deletes.
pub fn check_overlaps(ops: &[RequestOp]) -> Result<(BTreeSet<Bytes>, Deletes), Refusal> {
    // Unlike anywhere else, an end of one zero byte is no more than that.
    let deleted = |deletes: &Deletes, key: &Bytes| {
        deletes.iter().any(
            |(from, end)| {
                if end.is_empty() { key == from } else { key >= from && key < end }
            },
        )
    };
    let mut deletes = Deletes::new();
    let mut puts = BTreeSet::new();
    for op in ops {
        if let Some(Op::RequestDeleteRange(d)) = &op.request {
            deletes.push((d.key.clone(), d.range_end.clone()));
        }
    }
    for op in ops {
        if let Some(Op::RequestTxn(t)) = &op.request {
            let (then_puts, then_deletes) = check_overlaps(&t.success)?;
            let (else_puts, else_deletes) = check_overlaps(&t.failure)?;
            for key in then_puts.union(&else_puts) {
                if deleted(&deletes, key) || !puts.insert(key.clone()) {
                    return Err(DUPLICATE_KEY);
                }
            }
            deletes.extend(then_deletes);
            deletes.extend(else_deletes);
        }
    }
    for op in ops {
        if let Some(Op::RequestPut(p)) = &op.request
            && (deleted(&deletes, &p.key) || !puts.insert(p.key.clone()))
        {
            return Err(DUPLICATE_KEY);
        }
    }
    Ok((puts, deletes))
}
