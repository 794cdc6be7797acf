//! Put and DeleteRange: the only code that adds revisions (server/storage/mvcc/kvstore_txn.go).
//!
//! A `Writer` is one transaction: all its changes have the same main revision, the store's plus one, and count up the
//! sub revision. It sees its own changes. A transaction without a change leaves the revision as it is.

use std::ops::ControlFlow;

use crate::Row;
use crate::counters::Changes;
use crate::index::{self, Entry};
use crate::lease;
use crate::range;
use crate::rejection::Rejection;
use crate::request::{DeleteRange, Put, Span};
use crate::revision::Revision;
use crate::row::{KeyValue, corrupt};
use crate::state::State;
use crate::tables::{CURRENT, KEY, LEASE, Tables};
use crate::wire;

/// Keys that are collected before they are deleted.
const DELETE_BATCH_ROWS: u32 = 1000;

/// `prev_kv` of a PutResponse.
const PUT_PREV_FIELD: u32 = 2;
const DELETED_FIELD: u32 = 2;
/// `prev_kvs` of a DeleteRangeResponse.
const DELETE_PREV_FIELD: u32 = 3;

/// One transaction's writes.
pub struct Writer<'t, T> {
    tables: &'t mut T,
    begin: State,
    changes: i64,
    events: Vec<Row>,
    /// Keys that came and went since the counts were last written.
    counts: Changes,
}

impl<'t, T: Tables> Writer<'t, T> {
    pub fn new(tables: &'t mut T, begin: State) -> Self {
        Writer { tables, begin, changes: 0, events: Vec::new(), counts: Changes::default() }
    }

    pub fn tables(&self) -> &T {
        self.tables
    }

    pub fn tables_mut(&mut self) -> &mut T {
        self.tables
    }

    /// Writes the counts: to be called before the transaction itself counts keys.
    pub fn settle(&mut self) {
        std::mem::take(&mut self.counts).write(self.tables);
    }

    /// Tells watchers of a lease that was written or removed.
    pub fn note_lease(&mut self, row_key: &[u8]) {
        self.events.push(Row { table: LEASE, key: row_key.to_vec() });
    }

    pub fn has_changes(&self) -> bool {
        self.changes > 0
    }

    /// What a read within the transaction sees.
    pub fn view(&self) -> State {
        let revision = self.begin.revision + i64::from(self.changes > 0);
        State { revision, ..self.begin }
    }

    /// Ends the transaction. Returns the state after it, and the rows that watchers are told of.
    pub fn finish(mut self) -> (State, Vec<Row>) {
        self.settle();
        let state = self.view();
        if self.changes > 0 {
            state.write(self.tables);
        }
        (state, self.events)
    }

    /// Executes a put that was checked, and appends the body of its response.
    ///
    /// A value or lease that is to be kept but that the transaction itself has deleted is empty. (Here etcd's server
    /// goes down.)
    pub fn put(&mut self, put: &Put<'_>, out: &mut Vec<u8>) {
        let old = index::newest(self.tables, put.key);
        let needs_row = put.prev_kv || put.ignore_value || put.ignore_lease;
        let row =
            old.filter(|_| needs_row).map(|old| range::row(self.tables, &old, <[u8]>::to_vec));
        let mut kv =
            KeyValue { key: put.key, value: put.value, lease: put.lease, ..KeyValue::default() };
        if needs_row {
            let previous = row.as_deref().map(KeyValue::expect).unwrap_or_default();
            if put.ignore_value {
                kv.value = previous.value;
            }
            if put.ignore_lease {
                kv.lease = previous.lease;
            }
        }
        self.write(kv, old);
        if let Some(row) = row.as_ref().filter(|_| put.prev_kv) {
            wire::put_message(out, PUT_PREV_FIELD, row);
        }
    }

    /// Deletes a span, and appends the body of its response.
    pub fn delete_range(&mut self, request: &DeleteRange<'_>, out: &mut Vec<u8>) {
        let mut rows = Vec::new();
        let previous = request.prev_kv.then_some(&mut rows);
        let deleted = self.delete_span(request.span(), previous);
        wire::put_int64(out, DELETED_FIELD, deleted);
        out.extend_from_slice(&rows);
    }

    /// Deletes a key that is known to be alive.
    pub fn delete_key(&mut self, key: &[u8]) {
        match index::newest(self.tables, key) {
            Some(old) => self.delete(key, &old, None),
            None => corrupt("a key that is attached to a lease is not alive"),
        }
    }

    fn write(&mut self, kv: KeyValue<'_>, old: Option<Entry>) {
        let revision = self.next_revision();
        let (create_revision, version) = match old {
            Some(old) => {
                index::put_superseded(self.tables, kv.key, &old);
                (old.create_revision(), old.version() + 1)
            }
            None => {
                self.counts.note(self.tables, kv.key, 1);
                (revision.main, 1)
            }
        };
        let mod_revision = revision.main;
        let kv = KeyValue { create_revision, mod_revision, version, ..kv };
        let entry = Entry::new(revision, create_revision, version).with_lease(kv.lease);
        self.tables.put(CURRENT, kv.key, entry.row());
        self.tables.put(KEY, entry.row_key(), &kv.encode());
        lease::reattach(self.tables, kv.key, old.map_or(0, |old| old.lease()), kv.lease);
        self.events.push(Row { table: KEY, key: entry.row_key().to_vec() });
    }

    fn delete_span(&mut self, span: Span<'_>, mut previous: Option<&mut Vec<u8>>) -> i64 {
        let Some(end) = span.end else {
            let Some(old) = index::newest(self.tables, span.key) else { return 0 };
            self.delete(span.key, &old, previous);
            return 1;
        };
        let mut deleted = 0;
        let mut next = Some(span.key.to_vec());
        while let Some(start) = next {
            let mut batch = Vec::new();
            next = self.tables.scan(CURRENT, &start, end, DELETE_BATCH_ROWS, &mut |key, row| {
                batch.push((key.to_vec(), Entry::parse(row)));
                ControlFlow::Continue(())
            });
            for (key, old) in batch {
                self.delete(&key, &old, previous.as_deref_mut());
                deleted += 1;
            }
        }
        deleted
    }

    fn delete(&mut self, key: &[u8], old: &Entry, previous: Option<&mut Vec<u8>>) {
        if let Some(out) = previous {
            range::row(self.tables, old, |row| wire::put_message(out, DELETE_PREV_FIELD, row));
        }
        let revision = self.next_revision();
        let row_key = revision.tombstone_key();
        index::put_superseded(self.tables, key, old);
        index::put_tombstone(self.tables, key, revision);
        self.tables.delete(CURRENT, key);
        self.counts.note(self.tables, key, -1);
        self.tables.put(KEY, &row_key, &KeyValue { key, ..KeyValue::default() }.encode());
        lease::reattach(self.tables, key, old.lease(), 0);
        self.events.push(Row { table: KEY, key: row_key.to_vec() });
    }

    fn next_revision(&mut self) -> Revision {
        let revision = Revision { main: self.begin.revision + 1, sub: self.changes };
        self.changes += 1;
        revision
    }
}

/// Refuses a put that the state does not allow, in etcd's order.
pub fn check_put<T: Tables>(tables: &T, put: &Put<'_>) -> Result<(), Rejection> {
    if put.lease != 0 && !lease::exists(tables, put.lease) {
        return Err(Rejection::lease_not_found());
    }
    if (put.ignore_value || put.ignore_lease) && index::newest(tables, put.key).is_none() {
        return Err(Rejection::key_not_found());
    }
    Ok(())
}
