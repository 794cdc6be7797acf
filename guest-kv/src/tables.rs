//! What the machine stands on: its tables and the answer it gives, as the contract (`wit/`) has them.
//!
//! Neither trait has errors: a host that cannot serve a call ends the whole call (a trap). Whoever implements them
//! natively does the same, by panicking or by keeping the error aside and returning what ends the call soonest.

use std::ops::ControlFlow;

/// The number of a table.
pub type Table = u32;

/// etcd's `key` bucket: revision key -> marshalled mvccpb.KeyValue. See `revision` and `row`.
pub const KEY: Table = 1;
/// etcd's `meta` bucket, as far as the machine needs it. See `state`.
pub const META: Table = 2;
/// Live keys -> where their newest revision is. See `index`.
pub const CURRENT: Table = 3;
/// Superseded revisions and tombstones by key. See `index`.
pub const HISTORY: Table = 4;
/// One row: the revisions that nearly every call needs. See `state`.
pub const STATE: Table = 5;
/// etcd's `lease` bucket: id (8 bytes big-endian) -> marshalled leasepb.Lease. See `lease`.
pub const LEASE: Table = 6;
/// Beside each lease: the log index that granted it. See `lease`.
pub const LEASE_GRANT: Table = 7;
/// The keys of each lease. See `lease`.
pub const ATTACHED: Table = 8;
/// etcd's `alarm` bucket. See `alarm`.
pub const ALARM: Table = 12;
/// How many keys are in each directory; of schema 2. See `counters`.
pub const DIRECTORY: Table = 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Durable,
    Derived,
}

/// The declaration of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableDescription {
    pub table: Table,
    pub name: &'static str,
    pub kind: TableKind,
}

/// The tables that `describe` declares.
pub const DESCRIPTIONS: &[TableDescription] = &[
    TableDescription { table: KEY, name: "key", kind: TableKind::Durable },
    TableDescription { table: META, name: "meta", kind: TableKind::Durable },
    TableDescription { table: CURRENT, name: "current", kind: TableKind::Derived },
    TableDescription { table: HISTORY, name: "history", kind: TableKind::Derived },
    TableDescription { table: STATE, name: "state", kind: TableKind::Derived },
    TableDescription { table: LEASE, name: "lease", kind: TableKind::Durable },
    TableDescription { table: LEASE_GRANT, name: "lease_grant", kind: TableKind::Durable },
    TableDescription { table: ATTACHED, name: "attached", kind: TableKind::Derived },
    TableDescription { table: ALARM, name: "alarm", kind: TableKind::Durable },
    #[cfg(any(test, feature = "counters"))]
    TableDescription { table: DIRECTORY, name: "directory", kind: TableKind::Durable },
];

/// Looks at a row's key and value, and says whether to go on.
pub type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v;

/// The rows of all tables, as one consistent state that shows a call its own writes.
pub trait Tables {
    /// Hands the value under `key` to `read`; none if there is no such row.
    fn get<R>(&self, table: Table, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Option<R>;

    /// Visits the rows from `start` (empty: the first) to `end` (excluded; empty: past the last) in ascending order,
    /// until `limit` of them (at least 1) were visited, `visit` breaks off, or the page is full.
    ///
    /// Returns where the next page starts; none if the range has no further rows. After a break it means nothing.
    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: u32,
        visit: &mut Visit<'_>,
    ) -> Option<Vec<u8>>;

    /// Hands the last row of the range to `read`; none if the range has no rows.
    fn last<R>(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> R,
    ) -> Option<R>;

    /// The number of rows from `start` to `end`, understood as in `scan`.
    fn count(&self, table: Table, start: &[u8], end: &[u8]) -> u64;

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]);

    fn delete(&mut self, table: Table, key: &[u8]);
}

/// Visits all rows from `start` to `end`, page by page, until `visit` breaks off.
pub fn scan_all<T: Tables>(
    tables: &T,
    table: Table,
    start: &[u8],
    end: &[u8],
    page_rows: u32,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    let mut flow = ControlFlow::Continue(());
    let mut from = start.to_vec();
    loop {
        let next = tables.scan(table, &from, end, page_rows, &mut |key, value| {
            flow = visit(key, value);
            flow
        });
        match next {
            Some(next) if flow.is_continue() => from = next,
            _ => return flow,
        }
    }
}

/// The body of an answer, which grows at its end.
pub trait Answer {
    fn append(&mut self, bytes: &[u8]);

    /// Appends, for each of the packed keys, the row under it as a length-delimited protobuf field.
    fn append_rows(&mut self, table: Table, keys: &[u8], key_length: u32, field: u32);

    /// How many bytes were appended so far.
    fn length(&self) -> u64;
}
