//! A machine over tables in memory, spoken to with etcd's messages.

use guest_kv::memory::{MemoryAnswer, MemoryTables};
use guest_kv::tables::KEY;
use guest_kv::{Answered, Entry, Outcome, Progress, Rejection};
use prost::Message;
use proto::etcdserverpb::request_op::Request as Op;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use proto::instar::kv::Request;
use proto::instar::kv::request::Kind;

#[derive(Default)]
pub struct Store {
    pub tables: MemoryTables,
    pub index: u64,
}

pub fn etcd(set: impl FnOnce(&mut InternalRaftRequest)) -> Kind {
    let mut request = InternalRaftRequest::default();
    set(&mut request);
    Kind::Etcd(request)
}

pub fn put(key: &str, value: &str) -> PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    PutRequest { key, value, ..Default::default() }
}

pub fn delete_range(key: &str, range_end: &str) -> DeleteRangeRequest {
    let (key, range_end) = (key.to_owned().into(), range_end.to_owned().into());
    DeleteRangeRequest { key, range_end, ..Default::default() }
}

/// Everything, at a revision.
pub fn all_at(revision: i64) -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() }
}

pub fn op(request: Op) -> RequestOp {
    RequestOp { request: Some(request) }
}

impl Store {
    pub fn apply_bytes(&mut self, command: &[u8]) -> Outcome {
        self.index += 1;
        guest_kv::apply(&mut self.tables, Entry { index: self.index, time_ms: 0, command })
    }

    pub fn apply(&mut self, kind: Kind) -> Outcome {
        self.apply_bytes(&Request { kind: Some(kind) }.encode_to_vec())
    }

    pub fn put(&mut self, key: &str, value: &str) {
        let outcome = self.apply(etcd(|r| r.put = Some(put(key, value))));
        assert!(outcome.response.is_ok(), "{outcome:?}");
    }

    pub fn delete_range(&mut self, key: &str, range_end: &str) {
        let outcome = self.apply(etcd(|r| r.delete_range = Some(delete_range(key, range_end))));
        assert!(outcome.response.is_ok(), "{outcome:?}");
    }

    pub fn txn(&mut self, success: Vec<RequestOp>) -> Outcome {
        self.apply(etcd(|r| r.txn = Some(TxnRequest { success, ..Default::default() })))
    }

    /// Begins a compaction, and takes no step.
    pub fn compact(&mut self, revision: i64) -> Outcome {
        let compaction = CompactionRequest { revision, physical: false };
        self.apply(etcd(|r| r.compaction = Some(compaction)))
    }

    /// Takes the steps that the machine asks for. Returns how many.
    pub fn finish_compaction(&mut self) -> usize {
        let mut steps = 0;
        while let Some(command) = guest_kv::next_task(&self.tables) {
            steps += 1;
            assert!(self.apply_bytes(&command).response.is_ok());
        }
        steps
    }

    pub fn query_bytes(&self, request: &[u8]) -> Result<(Answered, Vec<u8>), Rejection> {
        let mut answer = MemoryAnswer::new(&self.tables);
        let answered = guest_kv::query(&self.tables, &mut answer, request)?;
        Ok((answered, answer.bytes))
    }

    pub fn query(&self, kind: Kind) -> Result<(Answered, Vec<u8>), Rejection> {
        self.query_bytes(&Request { kind: Some(kind) }.encode_to_vec())
    }

    /// The revision keys of the rows that a key has, without `_` and the leading zeros.
    pub fn rows_of(&self, user_key: &str) -> Vec<(i64, i64, bool)> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | i64::from(*byte));
        let rows = self.tables.table(KEY).filter(|(_, row)| {
            let kv = proto::mvccpb::KeyValue::decode(*row).expect("a row is a KeyValue");
            kv.key == user_key
        });
        rows.map(|(key, _)| (number(&key[..8]), number(&key[9..17]), key.len() == 18)).collect()
    }

    pub fn check(&self) -> Result<(), String> {
        let mut cursor = Vec::new();
        while let Progress::More(next) = guest_kv::check(&self.tables, &cursor)? {
            cursor = next;
        }
        Ok(())
    }
}
