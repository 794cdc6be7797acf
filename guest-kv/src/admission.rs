//! What can be refused without looking at the state: etcd's checks, in its order (server/etcdserver/api/v3rpc/key.go);
//! and how a request that passes is to be served.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::lease_request::LeaseGrant;
use crate::rejection::Rejection;
use crate::request::{AlarmAction, DeleteRange, Op, Put, Range, Request, Txns};
use crate::txn;

/// The longest time to live, in seconds.
const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// How a request is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Through the log.
    Write,
    /// By `query`, on a state as new as the cluster's.
    Read,
    /// By `query`, on the member's own state.
    LocalRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub route: Route,
    /// Whether a query may touch many rows.
    pub heavy: bool,
}

/// Refuses a request that no state could make valid. `operations` is the most that a transaction may have in one
/// list, with every level of nesting taking from it.
pub fn check(request: &Request<'_>, operations: u32) -> Result<(), Rejection> {
    match request {
        Request::Range(range) => check_range(range),
        Request::RangeStream(step) => check_range_stream(&step.range),
        Request::Put(put) => check_put(put),
        Request::DeleteRange(delete) => check_delete_range(delete),
        Request::Txn(txns) => {
            check_txn(txns, Txns::ROOT, i64::from(operations))?;
            let txn = txns.get(Txns::ROOT);
            check_overlaps(txns, &txn.success)?;
            check_overlaps(txns, &txn.failure)?;
            Ok(())
        }
        Request::LeaseGrant(grant) => check_lease_grant(grant),
        Request::Unknown => Err(Rejection::unknown_request()),
        Request::Compaction(_)
        | Request::CompactionStep(_)
        | Request::HashKv(_)
        | Request::Hash
        | Request::LeaseRevoke(_)
        | Request::LeaseCheckpoint(_)
        | Request::LeaseExpiry(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases
        | Request::Alarm(_)
        | Request::WatchStep(_) => Ok(()),
    }
}

/// How a request that passed `check` is to be served.
pub fn admission(request: &Request<'_>) -> Admission {
    let read = |serializable| if serializable { Route::LocalRead } else { Route::Read };
    let (route, heavy) = match request {
        Request::Range(range) => (read(range.serializable), !range.range_end.is_empty()),
        // Later steps read at a revision that this member has already read at.
        Request::RangeStream(step) => {
            (read(step.range.serializable || step.pinned_revision != 0), true)
        }
        Request::Txn(txns) if txn::is_read_only(txns) => {
            (read(txn::is_serializable(txns)), txn::is_heavy(txns))
        }
        Request::HashKv(_) | Request::Hash | Request::WatchStep(_) => (Route::LocalRead, true),
        // Whether the leader knows the lease was asked before.
        Request::LeaseTimeToLive(ask) => (Route::LocalRead, ask.keys),
        Request::LeaseLeases => (Route::LocalRead, true),
        Request::Alarm(alarm) if alarm.action == AlarmAction::Get => (Route::Read, false),
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::Compaction(_)
        | Request::CompactionStep(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseCheckpoint(_)
        | Request::LeaseExpiry(_)
        | Request::Alarm(_)
        | Request::Unknown => (Route::Write, false),
    };
    Admission { route, heavy }
}

fn check_range(range: &Range<'_>) -> Result<(), Rejection> {
    if range.key.is_empty() {
        return Err(Rejection::empty_key());
    }
    let orders = 0..=2;
    let targets = 0..=4;
    if !orders.contains(&range.sort_order) || !targets.contains(&range.sort_target) {
        return Err(Rejection::invalid_sort_option());
    }
    Ok(())
}

fn check_range_stream(range: &Range<'_>) -> Result<(), Rejection> {
    check_range(range)?;
    if !range.has_default_order() {
        return Err(Rejection::stream_sort());
    }
    if range.has_revision_filters() {
        return Err(Rejection::stream_filter());
    }
    Ok(())
}

fn check_put(put: &Put<'_>) -> Result<(), Rejection> {
    if put.key.is_empty() {
        return Err(Rejection::empty_key());
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(Rejection::value_provided());
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(Rejection::lease_provided());
    }
    Ok(())
}

/// The shortest time to live is the host's to raise: it depends on how long elections take.
fn check_lease_grant(grant: &LeaseGrant) -> Result<(), Rejection> {
    if grant.ttl > LEASE_TTL_MAX { Err(Rejection::lease_ttl_too_large()) } else { Ok(()) }
}

fn check_delete_range(delete: &DeleteRange<'_>) -> Result<(), Rejection> {
    if delete.key.is_empty() { Err(Rejection::empty_key()) } else { Ok(()) }
}

fn check_txn(txns: &Txns<'_>, place: usize, operations: i64) -> Result<(), Rejection> {
    let txn = txns.get(place);
    let longest = txn.compares.len().max(txn.success.len()).max(txn.failure.len()) as i64;
    if longest > operations {
        return Err(Rejection::too_many_ops());
    }
    if txn.compares.iter().any(|compare| compare.key.is_empty()) {
        return Err(Rejection::empty_key());
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(range) => check_range(range)?,
            Op::Put(put) => check_put(put)?,
            Op::DeleteRange(delete) => check_delete_range(delete)?,
            Op::Txn(place) => check_txn(txns, *place, operations - longest)?,
            Op::TooDeep => return Err(Rejection::too_many_ops()),
            Op::Empty => return Err(Rejection::key_not_found()),
        }
    }
    Ok(())
}

/// The keys that a list of operations may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

/// Refuses a list of operations that puts a key twice, or puts and deletes it. Branches of one transaction may write
/// the same keys, as only one of them is taken.
///
/// As in etcd, deletions of an earlier nested transaction count against the puts of a later one, but not the other way
/// round.
fn check_overlaps<'a>(txns: &Txns<'a>, ops: &[Op<'a>]) -> Result<Writes<'a>, Rejection> {
    let mut writes = Writes::default();
    for op in ops {
        if let Op::DeleteRange(delete) = op {
            writes.deletes.insert(delete);
        }
    }
    for op in ops {
        if let Op::Txn(place) = op {
            let txn = txns.get(*place);
            let then = check_overlaps(txns, &txn.success)?;
            let otherwise = check_overlaps(txns, &txn.failure)?;
            writes.add_branches(then, otherwise)?;
        }
    }
    for op in ops {
        if let Op::Put(put) = op {
            writes.add_put(put.key)?;
        }
    }
    Ok(writes)
}

impl<'a> Writes<'a> {
    fn add_put(&mut self, key: &'a [u8]) -> Result<(), Rejection> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(Rejection::duplicate_key());
        }
        Ok(())
    }

    #[inline(never)]
    fn add_branches(&mut self, then: Writes<'a>, otherwise: Writes<'a>) -> Result<(), Rejection> {
        for key in &then.puts {
            self.add_put(key)?;
        }
        for key in otherwise.puts {
            if !then.puts.contains(key) {
                self.add_put(key)?;
            }
        }
        self.deletes.add(then.deletes);
        self.deletes.add(otherwise.deletes);
        Ok(())
    }
}

/// The last key of an interval of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End<'a> {
    /// The first key behind it.
    Before(&'a [u8]),
    /// Its only key.
    At(&'a [u8]),
}

impl<'a> End<'a> {
    /// Whether a key, not before the interval's begin, is in it.
    fn covers(self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < end,
            End::At(last) => key <= last,
        }
    }

    /// The bytes of the first key behind the interval, in two parts.
    fn limit(self) -> (&'a [u8], &'static [u8]) {
        match self {
            End::Before(end) => (end, &[]),
            End::At(last) => (last, &[0]),
        }
    }

    fn max(self, other: Self) -> Self {
        let bytes = |end: Self| {
            let (key, zero) = end.limit();
            key.iter().chain(zero)
        };
        if bytes(self).ge(bytes(other)) { self } else { other }
    }
}

/// A set of keys as intervals that do not overlap: begin -> end.
#[derive(Debug, Default)]
struct Intervals<'a>(BTreeMap<&'a [u8], End<'a>>);

impl<'a> Intervals<'a> {
    /// A range end of one zero byte is taken literally here, as etcd does, and makes an interval without keys.
    fn insert(&mut self, delete: &DeleteRange<'a>) {
        let end = match delete.range_end {
            [] => End::At(delete.key),
            end => End::Before(end),
        };
        self.insert_interval(delete.key, end);
    }

    fn insert_interval(&mut self, mut begin: &'a [u8], mut end: End<'a>) {
        if !end.covers(begin) {
            return;
        }
        if let Some((before, before_end)) = self.last_until(begin)
            && before_end.covers(begin)
        {
            begin = before;
            end = end.max(before_end);
        }
        while let Some((after, after_end)) = self.first_from(begin)
            && end.covers(after)
        {
            end = end.max(after_end);
            self.0.remove(after);
        }
        self.0.insert(begin, end);
    }

    fn add(&mut self, mut other: Intervals<'a>) {
        if other.0.len() > self.0.len() {
            std::mem::swap(self, &mut other);
        }
        for (begin, end) in other.0 {
            self.insert_interval(begin, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.last_until(key).is_some_and(|(_, end)| end.covers(key))
    }

    fn last_until(&self, key: &[u8]) -> Option<(&'a [u8], End<'a>)> {
        let range = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        range.map(|(begin, end)| (*begin, *end)).next_back()
    }

    fn first_from(&self, key: &[u8]) -> Option<(&'a [u8], End<'a>)> {
        let range = self.0.range::<[u8], _>((Bound::Included(key), Bound::Unbounded));
        range.map(|(begin, end)| (*begin, *end)).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_the_union_of_what_was_inserted() {
        let keys: Vec<&[u8]> = vec![b"a", b"a\0", b"a\0\0", b"b", b"b\0", b"c", b"d"];
        let mut deletes = Vec::new();
        for key in &keys {
            for range_end in [&b""[..], b"\0", b"a\0", b"b", b"c", b"d"] {
                deletes.push(DeleteRange { key, range_end, prev_kv: false });
            }
        }
        let covers = |delete: &DeleteRange<'_>, key: &[u8]| match delete.range_end {
            [] => key == delete.key,
            end => delete.key <= key && key < end,
        };
        for a in &deletes {
            for b in &deletes {
                for c in deletes.iter().step_by(5) {
                    let (mut left, mut right) = (Intervals::default(), Intervals::default());
                    left.insert(a);
                    right.insert(b);
                    right.insert(c);
                    left.add(right);
                    for key in &keys {
                        let expected = [a, b, c].iter().any(|delete| covers(delete, key));
                        assert_eq!(left.contains(key), expected, "{a:?} {b:?} {c:?} {key:?}");
                    }
                }
            }
        }
    }
}
