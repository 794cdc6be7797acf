//! Transactions (server/etcdserver/txn/txn.go).
//!
//! In three passes, none of which writes before the last: all compares, nested ones too, see the state before the
//! transaction and fix the *path*, that is which branch each transaction takes; then the operations on the path are
//! checked; then they are executed and cannot fail any more.
//!
//! Nesting is bounded by `request::TXN_DEPTH_MAX`; the functions that recurse keep their frames small.

use std::ops::ControlFlow;

use crate::listing;
use crate::range::{self, Buffer, Purpose};
use crate::rejection::Rejection;
use crate::request::{Compare, Op, Operand, Range, Txns};
use crate::row::KeyValue;
use crate::state::State;
use crate::tables::Tables;
use crate::wire;
use crate::write::{Writer, check_put};

const HEADER_FIELD: u32 = 1;
/// `revision` of a ResponseHeader.
const REVISION_FIELD: u32 = 3;
const SUCCEEDED_FIELD: u32 = 2;
const RESPONSES_FIELD: u32 = 3;
/// The responses of a ResponseOp.
const RANGE_FIELD: u32 = 1;
const PUT_FIELD: u32 = 2;
const DELETE_RANGE_FIELD: u32 = 3;
const TXN_FIELD: u32 = 4;

/// Whether a transaction needs no log entry: it has nothing but ranges, and no transaction within.
pub fn is_read_only(txns: &Txns<'_>) -> bool {
    let txn = txns.get(Txns::ROOT);
    txn.success.iter().chain(&txn.failure).all(|op| matches!(op, Op::Range(_)))
}

/// Whether a read-only transaction may be answered from any member's state.
pub fn is_serializable(txns: &Txns<'_>) -> bool {
    let txn = txns.get(Txns::ROOT);
    let serializable = |op: &Op<'_>| matches!(op, Op::Range(range) if range.serializable);
    txn.success.iter().chain(&txn.failure).all(serializable)
}

/// Whether a read-only transaction may touch many rows.
pub fn is_heavy(txns: &Txns<'_>) -> bool {
    let txn = txns.get(Txns::ROOT);
    let is_range = |op: &Op<'_>| matches!(op, Op::Range(range) if !range.range_end.is_empty());
    txn.compares.iter().any(|compare| !compare.range_end.is_empty())
        || txn.success.iter().chain(&txn.failure).any(is_range)
}

/// Executes a transaction. Returns the body of its response.
pub fn execute<T: Tables>(
    writer: &mut Writer<'_, T>,
    txns: &Txns<'_>,
) -> Result<Vec<u8>, Rejection> {
    let path = check(writer.tables(), &writer.view(), txns)?;
    let mut out = Vec::new();
    let mut run = Run { writer, txns, path: &path };
    run.txn(Txns::ROOT, &mut out);
    Ok(out)
}

/// Answers a read-only transaction. Returns the body of its response.
pub fn read<T: Tables>(tables: &T, view: &State, txns: &Txns<'_>) -> Result<Vec<u8>, Rejection> {
    let path = check(tables, view, txns)?;
    let mut out = Vec::new();
    wire::put_bool(&mut out, SUCCEEDED_FIELD, path[0]);
    for op in branch(txns, Txns::ROOT, path[0]) {
        if let Op::Range(range) = op {
            put_range_response(tables, view, range, &mut out);
        }
    }
    Ok(out)
}

/// Refuses what must not be executed. Returns the path: the outcome of each transaction on it, in the order in which
/// they are met.
fn check<T: Tables>(tables: &T, view: &State, txns: &Txns<'_>) -> Result<Vec<bool>, Rejection> {
    let mut path = Vec::new();
    let scope = Scope { tables, view, txns };
    scope.find_path(Txns::ROOT, &mut path);
    scope.check_ops(Txns::ROOT, &mut &path[..])?;
    Ok(path)
}

fn branch<'t, 'r>(txns: &'t Txns<'r>, place: usize, succeeded: bool) -> &'t [Op<'r>] {
    let txn = txns.get(place);
    if succeeded { &txn.success } else { &txn.failure }
}

/// Takes the next outcome off a path.
fn step(path: &mut &[bool]) -> bool {
    match path.split_first() {
        Some((first, rest)) => {
            *path = rest;
            *first
        }
        None => false,
    }
}

/// The state before the transaction.
struct Scope<'s, 'r, T> {
    tables: &'s T,
    view: &'s State,
    txns: &'s Txns<'r>,
}

impl<T: Tables> Scope<'_, '_, T> {
    fn find_path(&self, place: usize, path: &mut Vec<bool>) {
        let succeeded = self.txns.get(place).compares.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in branch(self.txns, place, succeeded) {
            if let Op::Txn(place) = op {
                self.find_path(*place, path);
            }
        }
    }

    fn check_ops(&self, place: usize, path: &mut &[bool]) -> Result<(), Rejection> {
        for op in branch(self.txns, place, step(path)) {
            match op {
                Op::Range(range) => self.check_range(range)?,
                Op::Put(put) => check_put(self.tables, put)?,
                Op::Txn(place) => self.check_ops(*place, path)?,
                Op::DeleteRange(_) | Op::Empty | Op::TooDeep => {}
            }
        }
        Ok(())
    }

    /// Unlike a range of its own, a range within a transaction refuses negative revisions once there was a compaction.
    fn check_range(&self, range: &Range<'_>) -> Result<(), Rejection> {
        match range.revision {
            0 => Ok(()),
            revision if revision > self.view.revision => Err(Rejection::future_revision()),
            revision if revision < self.view.compacted => Err(Rejection::compacted()),
            _ => Ok(()),
        }
    }

    /// Whether a compare holds: for every key of its span, or, if there is none, for a key that has only zeros. A
    /// value cannot be compared with one that is not there.
    #[inline(never)]
    fn holds(&self, compare: &Compare<'_>) -> bool {
        let (mut holds, mut found) = (true, false);
        let needs_row = matches!(compare.target, TARGET_VALUE | TARGET_LEASE);
        let _ = listing::visit(
            self.tables,
            self.view,
            compare.span(),
            self.view.revision,
            u32::MAX,
            &mut |_, entry| {
                found = true;
                holds = if needs_row {
                    range::row(self.tables, &entry, |row| {
                        satisfies(compare, &KeyValue::expect(row))
                    })
                } else {
                    let kv = KeyValue {
                        create_revision: entry.create_revision(),
                        mod_revision: entry.mod_revision(),
                        version: entry.version(),
                        ..KeyValue::default()
                    };
                    satisfies(compare, &kv)
                };
                if holds { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            },
        );
        if found {
            holds
        } else {
            compare.target != TARGET_VALUE && satisfies(compare, &KeyValue::default())
        }
    }
}

const TARGET_VERSION: i32 = 0;
const TARGET_CREATE: i32 = 1;
const TARGET_MOD: i32 = 2;
const TARGET_VALUE: i32 = 3;
const TARGET_LEASE: i32 = 4;

const RESULT_EQUAL: i32 = 0;
const RESULT_GREATER: i32 = 1;
const RESULT_LESS: i32 = 2;
const RESULT_NOT_EQUAL: i32 = 3;

/// Compares one key. An operand that does not fit the target counts as zero or empty; an unknown target as equal; an
/// unknown result as satisfied.
fn satisfies(compare: &Compare<'_>, kv: &KeyValue<'_>) -> bool {
    let order = match (compare.target, compare.operand) {
        (TARGET_VALUE, Operand::Value(value)) => kv.value.cmp(value),
        (TARGET_VALUE, _) => kv.value.cmp(&[]),
        (TARGET_CREATE, Operand::CreateRevision(revision)) => kv.create_revision.cmp(&revision),
        (TARGET_CREATE, _) => kv.create_revision.cmp(&0),
        (TARGET_MOD, Operand::ModRevision(revision)) => kv.mod_revision.cmp(&revision),
        (TARGET_MOD, _) => kv.mod_revision.cmp(&0),
        (TARGET_VERSION, Operand::Version(version)) => kv.version.cmp(&version),
        (TARGET_VERSION, _) => kv.version.cmp(&0),
        (TARGET_LEASE, Operand::Lease(lease)) => kv.lease.cmp(&lease),
        (TARGET_LEASE, _) => kv.lease.cmp(&0),
        _ => std::cmp::Ordering::Equal,
    };
    match compare.result {
        RESULT_EQUAL => order.is_eq(),
        RESULT_NOT_EQUAL => order.is_ne(),
        RESULT_GREATER => order.is_gt(),
        RESULT_LESS => order.is_lt(),
        _ => true,
    }
}

/// The execution of a transaction that was checked.
struct Run<'w, 't, 'r, T> {
    writer: &'w mut Writer<'t, T>,
    txns: &'w Txns<'r>,
    /// What is left of the path.
    path: &'w [bool],
}

impl<T: Tables> Run<'_, '_, '_, T> {
    /// Appends `succeeded` and `responses` of a TxnResponse.
    fn txn(&mut self, place: usize, out: &mut Vec<u8>) {
        let succeeded = step(&mut self.path);
        wire::put_bool(out, SUCCEEDED_FIELD, succeeded);
        let txns = self.txns;
        for op in branch(txns, place, succeeded) {
            match op {
                Op::Txn(place) => {
                    // The header of an inner transaction is there, but empty.
                    let mut inner = Vec::new();
                    wire::put_message(&mut inner, HEADER_FIELD, &[]);
                    self.txn(*place, &mut inner);
                    put_response(out, TXN_FIELD, &inner);
                }
                op => self.leaf(op, out),
            }
        }
    }

    #[inline(never)]
    fn leaf(&mut self, op: &Op<'_>, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        let field = match op {
            Op::Range(range) => {
                self.writer.settle();
                put_range_response(self.writer.tables(), &self.writer.view(), range, out);
                return;
            }
            Op::Put(put) => {
                self.writer.put(put, &mut body);
                PUT_FIELD
            }
            Op::DeleteRange(delete) => {
                self.writer.delete_range(delete, &mut body);
                DELETE_RANGE_FIELD
            }
            Op::Txn(_) | Op::Empty | Op::TooDeep => return,
        };
        let mut response = header(&self.writer.view());
        response.extend_from_slice(&body);
        put_response(out, field, &response);
    }
}

/// The header of an inner response: nothing but the revision.
fn header(view: &State) -> Vec<u8> {
    let mut fields = Vec::new();
    wire::put_int64(&mut fields, REVISION_FIELD, view.revision);
    let mut header = Vec::new();
    wire::put_message(&mut header, HEADER_FIELD, &fields);
    header
}

#[inline(never)]
fn put_range_response<T: Tables>(tables: &T, view: &State, range: &Range<'_>, out: &mut Vec<u8>) {
    let mut response = header(view);
    let mut buffer = Buffer { tables, bytes: &mut response };
    match range::range(tables, &mut buffer, view, range, Purpose::Response) {
        Ok(found) => found.append_to(&mut buffer),
        Err(rejection) => unreachable!("a range that was checked: {rejection:?}"),
    }
    put_response(out, RANGE_FIELD, &response);
}

/// Appends one of `responses`: a ResponseOp with one field.
fn put_response(out: &mut Vec<u8>, field: u32, response: &[u8]) {
    let length = 1 + wire::varint_length(response.len() as u64) + response.len();
    wire::put_varint(out, u64::from(RESPONSES_FIELD) << 3 | 2);
    wire::put_varint(out, length as u64);
    wire::put_message(out, field, response);
}
