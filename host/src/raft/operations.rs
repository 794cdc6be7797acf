//! Counts operations as etcd does, for the metrics: what was applied, once a batch, and what was answered.
//!
//! Requests and answers are not decoded for it. Of both only the tags and lengths of their outer fields are read, and
//! what cannot be read is not counted.

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use proto::etcdserverpb::LeaseGrantResponse;
use proto::instar::kv::LeaseExpiryProgress;

use crate::metrics::metrics;
use crate::runtime::{Entry, Outcome};
use crate::storage::TableId;

/// `instar.kv.Request`'s kinds.
const ETCD: u32 = 1;
const RANGE_STREAM_STEP: u32 = 3;
const LEASE_EXPIRY: u32 = 6;
/// `etcdserverpb.InternalRaftRequest`'s kinds.
const RANGE: u32 = 3;
const PUT: u32 = 4;
const DELETE_RANGE: u32 = 5;
const TXN: u32 = 6;
const LEASE_GRANT: u32 = 8;
const LEASE_REVOKE: u32 = 9;
/// `responses` of a TxnResponse.
const TXN_RESPONSES: u32 = 3;
/// Transactions within transactions; the machine takes no deeper ones from anybody.
const TXN_DEPTH: u32 = 64;

/// The fields of a message, with the contents of those that have a length.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (number, wire_type) = decode_key(&mut self.0).ok()?;
        let value = decode_varint(&mut self.0).ok()?;
        match wire_type {
            WireType::Varint => Some((number, &[])),
            WireType::LengthDelimited => {
                let (content, rest) = self.0.split_at_checked(usize::try_from(value).ok()?)?;
                self.0 = rest;
                Some((number, content))
            }
            _ => None,
        }
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    ranges: u64,
    puts: u64,
    deletes: u64,
    txns: u64,
    granted: u64,
    revoked: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.ranges += other.ranges;
        self.puts += other.puts;
        self.deletes += other.deletes;
        // One is one even for etcd: that of the operation itself.
        self.txns += u64::from(other.ranges + other.puts + other.deletes > 1);
        self.granted += other.granted;
        self.revoked += other.revoked;
    }

    /// What a request did that was answered so; `keys` is how many rows of keys it wrote.
    fn of(request: &[u8], answer: &[u8], keys: u64) -> Counts {
        let mut counts = Counts::default();
        match Fields(request).next() {
            Some((ETCD, inner)) => {
                for (kind, _) in Fields(inner) {
                    counts.count_etcd(kind, answer, keys);
                }
            }
            Some((RANGE_STREAM_STEP, _)) => counts.ranges = 1,
            Some((LEASE_EXPIRY, _)) => {
                let progress = LeaseExpiryProgress::decode(answer).unwrap_or_default();
                counts.revoked = u64::from(progress.handled);
                counts.deletes = keys;
            }
            _ => {}
        }
        counts
    }

    fn count_etcd(&mut self, kind: u32, answer: &[u8], keys: u64) {
        match kind {
            RANGE => self.ranges += 1,
            PUT => self.puts += 1,
            DELETE_RANGE => self.deletes += 1,
            TXN => self.count_responses(answer, TXN_DEPTH),
            LEASE_GRANT => {
                self.granted += 1;
                let granted = LeaseGrantResponse::decode(answer).unwrap_or_default();
                metrics().leases.ttl_seconds.observe(granted.ttl as f64);
            }
            LEASE_REVOKE => {
                self.revoked += 1;
                self.deletes += keys;
            }
            _ => {}
        }
    }

    /// A transaction's answer has one response for each operation that was carried out.
    fn count_responses(&mut self, answer: &[u8], depth: u32) {
        for (_, response) in Fields(answer).filter(|(field, _)| *field == TXN_RESPONSES) {
            match Fields(response).next() {
                Some((1, _)) => self.ranges += 1,
                Some((2, _)) => self.puts += 1,
                Some((3, _)) => self.deletes += 1,
                Some((4, inner)) if depth > 0 => self.count_responses(inner, depth - 1),
                _ => {}
            }
        }
    }

    fn record(self) {
        let (operations, leases) = (&metrics().operations, &metrics().leases);
        for (counter, count) in [
            (&operations.ranges, self.ranges),
            (&operations.puts, self.puts),
            (&operations.deletes, self.deletes),
            (&operations.txns, self.txns),
            (&leases.granted, self.granted),
            (&leases.revoked, self.revoked),
        ] {
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }
}

/// Counts what a batch did; `keys` is the table whose rows are keys.
pub(super) fn applied(commands: &[Entry], outcomes: &[Outcome], keys: Option<TableId>) {
    let mut counts = Counts::default();
    for (command, outcome) in commands.iter().zip(outcomes) {
        let Ok(answer) = &outcome.response else { continue };
        let is_key = |table| Some(table) == keys;
        let rows = outcome.events.iter().filter(|row| is_key(row.table)).count() as u64;
        counts.add(Counts::of(&command.command, answer, rows));
    }
    counts.record();
}

/// Counts a query that was answered.
pub fn answered(request: &[u8], answer: &[u8]) {
    let mut counts = Counts::default();
    counts.add(Counts::of(request, answer, 0));
    counts.record();
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb as pb;
    use proto::etcdserverpb::response_op::Response;
    use proto::instar::kv;

    use super::*;

    fn etcd(request: pb::InternalRaftRequest) -> Vec<u8> {
        kv::Request { kind: Some(kv::request::Kind::Etcd(request)) }.encode_to_vec()
    }

    fn total(request: &[u8], answer: &[u8], keys: u64) -> Counts {
        let mut total = Counts::default();
        total.add(Counts::of(request, answer, keys));
        total
    }

    #[test]
    fn operations_are_counted_as_etcd_counts_them() {
        let none = Counts::default();
        let put = pb::InternalRaftRequest { put: Some(Default::default()), ..Default::default() };
        assert_eq!(total(&etcd(put), b"", 1), Counts { puts: 1, ..none });
        let revoke = pb::InternalRaftRequest {
            lease_revoke: Some(Default::default()),
            ..Default::default()
        };
        let revoked = Counts { deletes: 2, txns: 1, revoked: 1, ..none };
        assert_eq!(total(&etcd(revoke), b"", 2), revoked);

        let op = |response| pb::ResponseOp { response: Some(response) };
        let inner = pb::TxnResponse {
            responses: vec![op(Response::ResponseDeleteRange(Default::default()))],
            ..Default::default()
        };
        let answer = pb::TxnResponse {
            succeeded: true,
            responses: vec![
                op(Response::ResponsePut(Default::default())),
                op(Response::ResponseRange(Default::default())),
                op(Response::ResponseTxn(inner)),
            ],
            ..Default::default()
        };
        let txn = pb::InternalRaftRequest { txn: Some(Default::default()), ..Default::default() };
        let counted = Counts { ranges: 1, puts: 1, deletes: 1, txns: 1, ..none };
        assert_eq!(total(&etcd(txn.clone()), &answer.encode_to_vec(), 2), counted);
        assert_eq!(total(&etcd(txn), b"", 0), none, "a transaction that did nothing");
    }

    #[test]
    fn what_cannot_be_read_is_not_counted() {
        for bytes in [&b"\xff"[..], b"\x0a\x7f", b"\x0a\x02\x32", b"\x0b", b""] {
            assert_eq!(total(bytes, bytes, 0), Counts::default());
        }
    }
}
