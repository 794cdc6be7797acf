//! Finds few and simple requests that still make two servers differ.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request;

use super::{Call, Difference, Pair};

/// How many requests before the failing one are tried first, growing.
const TAILS: [usize; 7] = [0, 3, 10, 30, 100, 300, 1000];

/// A reproduction: the requests, of which the last is answered differently.
#[derive(Debug)]
pub struct Shrunk {
    pub calls: Vec<Call>,
    pub difference: Difference,
}

/// Shrinks `calls`, whose last one made the servers differ; gives back the best found within `time`, or
/// `None` when the difference does not show again on fresh servers.
pub async fn shrink(pair: &Pair, calls: &[Call], time: Duration) -> Result<Option<Shrunk>> {
    let mut search = Search { pair, until: Instant::now() + time, best: None };
    let tails = TAILS.into_iter().filter(|tail| tail + 1 < calls.len()).map(|tail| tail + 1);
    for length in tails.chain([calls.len()]) {
        if search.attempt(calls[calls.len() - length..].to_vec()).await? {
            break;
        }
    }
    if search.best.is_some() {
        search.leave_out().await?;
        search.simplify().await?;
        search.leave_out().await?;
    }
    Ok(search.best)
}

struct Search<'a> {
    pair: &'a Pair,
    until: Instant,
    best: Option<Shrunk>,
}

impl Search<'_> {
    fn is_over(&self) -> bool {
        Instant::now() > self.until
    }

    fn calls(&self) -> Vec<Call> {
        self.best.as_ref().map(|best| best.calls.clone()).unwrap_or_default()
    }

    /// Keeps `calls` (up to the difference) as the best if they show one.
    async fn attempt(&mut self, mut calls: Vec<Call>) -> Result<bool> {
        let Some(difference) = self.pair.first_difference(&calls).await? else {
            return Ok(false);
        };
        calls.truncate(difference.at + 1);
        self.best = Some(Shrunk { calls, difference });
        Ok(true)
    }

    /// Leaves out runs of requests, long runs first, then shorter ones.
    async fn leave_out(&mut self) -> Result<()> {
        let mut run = self.calls().len().div_ceil(2);
        while run > 0 && !self.is_over() {
            let mut at = 0;
            while at < self.calls().len() && !self.is_over() {
                let mut fewer = self.calls();
                let end = (at + run).min(fewer.len());
                fewer.drain(at..end);
                if fewer.is_empty() || !self.attempt(fewer).await? {
                    at += run;
                }
            }
            run /= 2;
        }
        Ok(())
    }

    /// Makes each request simpler as long as the difference stays.
    async fn simplify(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.calls().len() && !self.is_over() {
            let calls = self.calls();
            let mut simpler = false;
            for candidate in simpler_than(&calls[at]) {
                let mut changed = calls.clone();
                changed[at] = candidate;
                if self.is_over() {
                    break;
                }
                if self.attempt(changed).await? {
                    simpler = true;
                    break;
                }
            }
            at += usize::from(!simpler);
        }
        Ok(())
    }
}

/// Requests that are simpler than this one by one step.
fn simpler_than(call: &Call) -> Vec<Call> {
    match call {
        Call::Txn(txn) => simpler_txns(txn).into_iter().map(Call::Txn).collect(),
        Call::Range(range) => simpler_ranges(range).into_iter().map(Call::Range).collect(),
        Call::RangeStream(range) => {
            simpler_ranges(range).into_iter().map(Call::RangeStream).collect()
        }
        Call::Put(put) => simpler_puts(put).into_iter().map(Call::Put).collect(),
        Call::DeleteRange(delete) => {
            let simpler = pb::DeleteRangeRequest { prev_kv: false, ..delete.clone() };
            changed(delete, [simpler]).into_iter().map(Call::DeleteRange).collect()
        }
        _ => Vec::new(),
    }
}

/// Those of `simpler` that differ from what they were made of.
fn changed<T: PartialEq>(from: &T, simpler: impl IntoIterator<Item = T>) -> Vec<T> {
    simpler.into_iter().filter(|simpler| simpler != from).collect()
}

fn simpler_ranges(range: &pb::RangeRequest) -> Vec<pb::RangeRequest> {
    let base = || range.clone();
    let simpler = [
        pb::RangeRequest { key: base().key, range_end: base().range_end, ..Default::default() },
        pb::RangeRequest { range_end: Bytes::new(), ..base() },
        pb::RangeRequest { limit: 0, ..base() },
        pb::RangeRequest { revision: 0, ..base() },
        pb::RangeRequest { sort_order: 0, ..base() },
        pb::RangeRequest { sort_target: 0, ..base() },
        pb::RangeRequest { serializable: false, ..base() },
        pb::RangeRequest { keys_only: false, ..base() },
        pb::RangeRequest { count_only: false, ..base() },
        pb::RangeRequest { min_mod_revision: 0, max_mod_revision: 0, ..base() },
        pb::RangeRequest { min_create_revision: 0, max_create_revision: 0, ..base() },
    ];
    changed(range, simpler)
}

fn simpler_puts(put: &pb::PutRequest) -> Vec<pb::PutRequest> {
    let base = || put.clone();
    let simpler = [
        pb::PutRequest { value: Bytes::new(), ..base() },
        pb::PutRequest { value: put.value.slice(..put.value.len().min(1)), ..base() },
        pb::PutRequest { lease: 0, ..base() },
        pb::PutRequest { prev_kv: false, ..base() },
        pb::PutRequest { ignore_value: false, ..base() },
        pb::PutRequest { ignore_lease: false, ..base() },
    ];
    changed(put, simpler)
}

fn simpler_txns(txn: &pb::TxnRequest) -> Vec<pb::TxnRequest> {
    let mut simpler = Vec::new();
    for at in 0..txn.compare.len() {
        let mut fewer = txn.clone();
        fewer.compare.remove(at);
        simpler.push(fewer);
    }
    type Branch = fn(&mut pb::TxnRequest) -> &mut Vec<pb::RequestOp>;
    let branches: [Branch; 2] = [|txn| &mut txn.success, |txn| &mut txn.failure];
    for branch in branches {
        for at in 0..branch(&mut txn.clone()).len() {
            let mut fewer = txn.clone();
            let op = branch(&mut fewer).remove(at);
            simpler.push(fewer.clone());
            for request in simpler_ops(&op) {
                let mut other = fewer.clone();
                branch(&mut other).insert(at, pb::RequestOp { request: Some(request) });
                simpler.push(other);
            }
        }
    }
    simpler
}

fn simpler_ops(op: &pb::RequestOp) -> Vec<Request> {
    match &op.request {
        Some(Request::RequestRange(range)) => {
            simpler_ranges(range).into_iter().map(Request::RequestRange).collect()
        }
        Some(Request::RequestPut(put)) => {
            simpler_puts(put).into_iter().map(Request::RequestPut).collect()
        }
        Some(Request::RequestTxn(txn)) => {
            simpler_txns(txn).into_iter().map(Request::RequestTxn).collect()
        }
        Some(Request::RequestDeleteRange(_)) | None => Vec::new(),
    }
}
