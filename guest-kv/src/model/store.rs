//! etcd's rules, written down as plainly as they can be: a list of all changes, searched from end to end.
//!
//! Nothing here shares code with the machine, and nothing is clever.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, HashKvResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use proto::mvccpb::KeyValue;

use super::checks::{
    Refusal, check_delete_range, check_overlaps, check_put, check_range, check_range_stream,
    check_txn,
};
use super::leases::Leases;

const KEY_NOT_FOUND: Refusal = (3, "etcdserver: key not found");
const LEASE_NOT_FOUND: Refusal = (5, "etcdserver: requested lease not found");
const COMPACTED: Refusal = (11, "etcdserver: mvcc: required revision has been compacted");
const FUTURE: Refusal = (11, "etcdserver: mvcc: required revision is a future revision");

/// One change of one key.
#[derive(Debug, Clone)]
struct Change {
    main: i64,
    sub: i64,
    key: Bytes,
    /// None: deleted.
    kv: Option<KeyValue>,
}

impl Change {
    fn row_key(&self) -> Vec<u8> {
        let mut key = [&self.main.to_be_bytes()[..], b"_", &self.sub.to_be_bytes()].concat();
        if self.kv.is_none() {
            key.push(b't');
        }
        key
    }

    fn row(&self) -> Vec<u8> {
        match &self.kv {
            Some(kv) => kv.encode_to_vec(),
            None => KeyValue { key: self.key.clone(), ..Default::default() }.encode_to_vec(),
        }
    }
}

/// The store: what etcd's would hold, with every compaction carried out on the spot.
#[derive(Debug, Clone)]
pub struct Store {
    changes: Vec<Change>,
    pub revision: i64,
    /// -1: never.
    pub compacted: i64,
    pub leases: Leases,
}

impl Default for Store {
    fn default() -> Self {
        Store { changes: Vec::new(), revision: 1, compacted: -1, leases: Leases::default() }
    }
}

fn in_range(key: &[u8], from: &[u8], range_end: &[u8]) -> bool {
    match range_end {
        b"" => key == from,
        b"\0" => key >= from,
        end => key >= from && key < end,
    }
}

impl Store {
    /// The rows of etcd's `key` bucket.
    pub fn rows(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.changes.iter().map(|change| (change.row_key(), change.row())).collect()
    }

    /// The row keys of the changes of one revision.
    pub fn row_keys_at(&self, main: i64) -> Vec<Vec<u8>> {
        self.changes.iter().filter(|c| c.main == main).map(Change::row_key).collect()
    }

    fn alive(&self, revision: i64, from: &[u8], range_end: &[u8]) -> Vec<KeyValue> {
        let mut newest = BTreeMap::new();
        for change in &self.changes {
            if change.main <= revision && in_range(&change.key, from, range_end) {
                newest.insert(&change.key, &change.kv);
            }
        }
        newest.into_values().flatten().cloned().collect()
    }

    fn get(&self, revision: i64, key: &[u8]) -> Option<KeyValue> {
        self.alive(revision, key, b"").pop()
    }

    /// A range as etcd executes it. `now` is the revision that a read sees as the newest.
    fn execute_range(
        &self,
        now: i64,
        r: &RangeRequest,
        total_count: bool,
        stream: bool,
    ) -> Result<RangeResponse, Refusal> {
        if r.revision > now {
            return Err(FUTURE);
        }
        let revision = if r.revision <= 0 { now } else { r.revision };
        if revision < self.compacted {
            return Err(COMPACTED);
        }
        let header = Some(ResponseHeader { revision: now, ..Default::default() });
        let mut kvs = self.alive(revision, &r.key, &r.range_end);
        let mut count = kvs.len() as i64;
        if r.count_only {
            return Ok(RangeResponse { header, count, ..Default::default() });
        }
        let unsorted = r.sort_order == SortOrder::None as i32
            || (r.sort_target == SortTarget::Key as i32
                && r.sort_order == SortOrder::Ascend as i32);
        let unfiltered = r.min_mod_revision == 0
            && r.max_mod_revision == 0
            && r.min_create_revision == 0
            && r.max_create_revision == 0;
        let mut more = false;
        if r.limit > 0 && unsorted && unfiltered {
            // One more than asked for is fetched, to know whether there is more; it is sorted with the others.
            let fetched = r.limit.saturating_add(1);
            if !total_count {
                count = count.min(fetched);
            }
            more = kvs.len() as i64 > r.limit;
            kvs.truncate(if stream { r.limit as usize } else { fetched as usize });
        }
        kvs.retain(|kv| r.max_mod_revision == 0 || kv.mod_revision <= r.max_mod_revision);
        kvs.retain(|kv| r.min_mod_revision == 0 || kv.mod_revision >= r.min_mod_revision);
        kvs.retain(|kv| r.max_create_revision == 0 || kv.create_revision <= r.max_create_revision);
        kvs.retain(|kv| r.min_create_revision == 0 || kv.create_revision >= r.min_create_revision);
        sort(&mut kvs, r);
        if r.limit > 0 && kvs.len() as i64 > r.limit {
            kvs.truncate(r.limit as usize);
            more = true;
        }
        if r.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if r.sort_target != SortTarget::Value as i32 {
                    kv.lease = 0;
                }
            }
        }
        Ok(RangeResponse { header, kvs, more, count })
    }

    pub fn range(&self, r: &RangeRequest) -> Result<RangeResponse, Refusal> {
        check_range(r)?;
        self.execute_range(self.revision, r, true, false)
    }

    /// All messages of a stream.
    pub fn range_stream(
        &self,
        r: &RangeRequest,
        target_bytes: u64,
    ) -> Result<Vec<RangeResponse>, Refusal> {
        check_range_stream(r)?;
        let mut r = r.clone();
        if r.count_only {
            return Ok(vec![self.execute_range(self.revision, &r, false, true)?]);
        }
        let total_limit = if r.limit == 0 { i64::MAX } else { r.limit };
        r.limit = total_limit.min(10);
        let mut messages = Vec::new();
        let mut sent = 0;
        loop {
            let mut message = self.execute_range(self.revision, &r, false, true)?;
            sent += message.kvs.len() as i64;
            let size = message.encoded_len() as u64;
            // The next message begins behind the greatest key of this one.
            let greatest = message.kvs.iter().map(|kv| kv.key.clone()).max().unwrap_or_default();
            let next: Bytes = [&greatest[..], b"\0"].concat().into();
            if message.more && sent < total_limit {
                messages.push(RangeResponse { kvs: message.kvs, ..Default::default() });
            } else {
                message.count = sent;
                if message.more {
                    let revision = if r.revision <= 0 { self.revision } else { r.revision };
                    message.count += self.alive(revision, &next, &r.range_end).len() as i64;
                }
                messages.push(message);
                return Ok(messages);
            }
            r.key = next;
            if size < target_bytes / 2 {
                r.limit *= 2;
            } else if size > target_bytes * 2 {
                r.limit /= 2;
            }
            r.limit = r.limit.max(1).min(total_limit - sent);
        }
    }

    pub fn put(&mut self, p: &PutRequest) -> Result<PutResponse, Refusal> {
        check_put(p)?;
        self.check_put_state(self.revision, p)?;
        let mut changes = 0;
        let response = self.execute_put(self.revision, &mut changes, p);
        self.revision += 1;
        Ok(response)
    }

    fn check_put_state(&self, begin: i64, p: &PutRequest) -> Result<(), Refusal> {
        if p.lease != 0 && !self.leases.has(p.lease) {
            return Err(LEASE_NOT_FOUND);
        }
        if (p.ignore_value || p.ignore_lease) && self.get(begin, &p.key).is_none() {
            return Err(KEY_NOT_FOUND);
        }
        Ok(())
    }

    fn execute_put(&mut self, begin: i64, changes: &mut i64, p: &PutRequest) -> PutResponse {
        let main = begin + 1;
        let previous = self.get(main, &p.key);
        let old = previous.clone().unwrap_or_default();
        let kv = KeyValue {
            key: p.key.clone(),
            create_revision: if previous.is_some() { old.create_revision } else { main },
            mod_revision: main,
            version: old.version + 1,
            value: if p.ignore_value { old.value } else { p.value.clone() },
            lease: if p.ignore_lease { old.lease } else { p.lease },
        };
        self.changes.push(Change { main, sub: *changes, key: p.key.clone(), kv: Some(kv) });
        *changes += 1;
        PutResponse {
            header: Some(ResponseHeader { revision: main, ..Default::default() }),
            prev_kv: previous.filter(|_| p.prev_kv),
        }
    }

    pub fn delete_range(&mut self, d: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Refusal> {
        check_delete_range(d)?;
        let mut changes = 0;
        let response = self.execute_delete_range(self.revision, &mut changes, d);
        self.revision += i64::from(changes > 0);
        Ok(response)
    }

    fn execute_delete_range(
        &mut self,
        begin: i64,
        changes: &mut i64,
        d: &DeleteRangeRequest,
    ) -> DeleteRangeResponse {
        let kvs = self.alive(begin + 1, &d.key, &d.range_end);
        for kv in &kvs {
            let key = kv.key.clone();
            self.changes.push(Change { main: begin + 1, sub: *changes, key, kv: None });
            *changes += 1;
        }
        let revision = begin + i64::from(*changes > 0);
        DeleteRangeResponse {
            header: Some(ResponseHeader { revision, ..Default::default() }),
            deleted: kvs.len() as i64,
            prev_kvs: if d.prev_kv { kvs } else { Vec::new() },
        }
    }

    pub fn txn(&mut self, t: &TxnRequest) -> Result<TxnResponse, Refusal> {
        check_txn(t, i64::MAX)?;
        check_overlaps(&t.success)?;
        check_overlaps(&t.failure)?;
        let begin = self.revision;
        self.check_txn_state(begin, t)?;
        let mut changes = 0;
        let mut response = self.execute_txn(begin, &mut changes, t);
        self.revision += i64::from(changes > 0);
        response.header = Some(ResponseHeader { revision: self.revision, ..Default::default() });
        Ok(response)
    }

    fn branch<'t>(&self, begin: i64, t: &'t TxnRequest) -> (bool, &'t [RequestOp]) {
        let succeeded = t.compare.iter().all(|compare| self.holds(begin, compare));
        (succeeded, if succeeded { &t.success } else { &t.failure })
    }

    fn check_txn_state(&self, begin: i64, t: &TxnRequest) -> Result<(), Refusal> {
        for op in self.branch(begin, t).1 {
            match op.request.as_ref() {
                Some(Op::RequestRange(r)) => match r.revision {
                    0 => {}
                    revision if revision > begin => return Err(FUTURE),
                    revision if revision < self.compacted => return Err(COMPACTED),
                    _ => {}
                },
                Some(Op::RequestPut(p)) => self.check_put_state(begin, p)?,
                Some(Op::RequestTxn(t)) => self.check_txn_state(begin, t)?,
                Some(Op::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    fn execute_txn(&mut self, begin: i64, changes: &mut i64, t: &TxnRequest) -> TxnResponse {
        let (succeeded, ops) = self.branch(begin, t);
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref() {
                Some(Op::RequestRange(r)) => {
                    let now = begin + i64::from(*changes > 0);
                    let found = self.execute_range(now, r, true, false);
                    found.ok().map(OpResponse::ResponseRange)
                }
                Some(Op::RequestPut(p)) => {
                    Some(OpResponse::ResponsePut(self.execute_put(begin, changes, p)))
                }
                Some(Op::RequestDeleteRange(d)) => Some(OpResponse::ResponseDeleteRange(
                    self.execute_delete_range(begin, changes, d),
                )),
                Some(Op::RequestTxn(t)) => {
                    let mut inner = self.execute_txn(begin, changes, t);
                    inner.header = Some(ResponseHeader::default());
                    Some(OpResponse::ResponseTxn(inner))
                }
                None => None,
            };
            responses.push(ResponseOp { response });
        }
        TxnResponse { header: None, succeeded, responses }
    }

    fn holds(&self, begin: i64, c: &Compare) -> bool {
        let kvs = self.alive(begin, &c.key, &c.range_end);
        if kvs.is_empty() {
            return c.target != CompareTarget::Value as i32 && satisfied(c, &KeyValue::default());
        }
        kvs.iter().all(|kv| satisfied(c, kv))
    }

    /// The live keys of a lease, in order.
    pub fn attached(&self, lease: i64) -> Vec<Bytes> {
        let alive = self.alive(self.revision, b"\0", b"\0");
        alive.into_iter().filter(|kv| kv.lease == lease).map(|kv| kv.key).collect()
    }

    /// Deletes keys that are alive, in one revision.
    pub fn delete_keys(&mut self, keys: Vec<Bytes>) {
        let main = self.revision + 1;
        for (key, sub) in keys.into_iter().zip(0..) {
            self.changes.push(Change { main, sub, key, kv: None });
            self.revision = main;
        }
    }

    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(COMPACTED);
        }
        if revision > self.revision {
            return Err(FUTURE);
        }
        self.compacted = revision;
        let mut newest = BTreeMap::new();
        for change in self.changes.iter().filter(|c| c.main <= revision) {
            newest.insert(change.key.clone(), (change.main, change.sub));
        }
        self.changes.retain(|c| {
            c.main > revision
                || (newest[&c.key] == (c.main, c.sub) && (c.kv.is_some() || c.main == revision))
        });
        Ok(())
    }

    pub fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Refusal> {
        if revision > 0 && revision < self.compacted {
            return Err(COMPACTED);
        }
        if revision > self.revision {
            return Err(FUTURE);
        }
        let revision = if revision == 0 { self.revision } else { revision };
        let keep: BTreeMap<_, _> = self
            .alive(revision, b"\0", b"\0")
            .into_iter()
            .map(|kv| (kv.key.clone(), kv.mod_revision))
            .collect();
        let mut bytes = b"key".to_vec();
        for change in self.changes.iter().filter(|c| c.main <= revision) {
            let kept = change.kv.is_some() && keep.get(&change.key) == Some(&change.main);
            let dropped = change.main <= self.compacted && !keep.is_empty() && !kept;
            let skipped = change.main == self.compacted && change.kv.is_none();
            if !dropped && !skipped {
                bytes.extend(change.row_key());
                bytes.extend(change.row());
            }
        }
        Ok(HashKvResponse {
            header: None,
            hash: crc32c(&bytes),
            compact_revision: self.compacted,
            hash_revision: revision,
        })
    }
}

fn sort(kvs: &mut [KeyValue], r: &RangeRequest) {
    let descending = r.sort_order == SortOrder::Descend as i32;
    if descending && r.sort_target == SortTarget::Key as i32 {
        kvs.reverse();
    }
    // Equals stay in the order of their keys.
    kvs.sort_by(|a, b| {
        let order = match SortTarget::try_from(r.sort_target) {
            Ok(SortTarget::Version) => a.version.cmp(&b.version),
            Ok(SortTarget::Create) => a.create_revision.cmp(&b.create_revision),
            Ok(SortTarget::Mod) => a.mod_revision.cmp(&b.mod_revision),
            Ok(SortTarget::Value) => a.value.cmp(&b.value),
            Ok(SortTarget::Key) | Err(_) => std::cmp::Ordering::Equal,
        };
        if descending { order.reverse() } else { order }
    });
}

fn satisfied(c: &Compare, kv: &KeyValue) -> bool {
    let number = |wanted: Option<i64>, actual: i64| actual.cmp(&wanted.unwrap_or(0));
    let union = c.target_union.as_ref();
    let order = match CompareTarget::try_from(c.target) {
        Ok(CompareTarget::Version) => number(
            union.and_then(|u| if let TargetUnion::Version(v) = u { Some(*v) } else { None }),
            kv.version,
        ),
        Ok(CompareTarget::Create) => number(
            union
                .and_then(|u| if let TargetUnion::CreateRevision(v) = u { Some(*v) } else { None }),
            kv.create_revision,
        ),
        Ok(CompareTarget::Mod) => number(
            union.and_then(|u| if let TargetUnion::ModRevision(v) = u { Some(*v) } else { None }),
            kv.mod_revision,
        ),
        Ok(CompareTarget::Lease) => number(
            union.and_then(|u| if let TargetUnion::Lease(v) = u { Some(*v) } else { None }),
            kv.lease,
        ),
        Ok(CompareTarget::Value) => match union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.cmp(&Bytes::new()),
        },
        Err(_) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(c.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
