//! Tables and an answer in memory, for tests.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::tables::{Answer, DESCRIPTIONS, Table, TableKind, Tables, Visit};
use crate::wire;

/// All tables of a machine, in ordered maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryTables {
    rows: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    page_rows: Option<u32>,
}

impl MemoryTables {
    /// Tables whose pages end after so many rows, whatever was asked for.
    pub fn with_page_rows(page_rows: u32) -> Self {
        MemoryTables { page_rows: Some(page_rows), ..Self::default() }
    }

    /// The same durable rows, and no derived ones: what a member has that has just started.
    pub fn durable_only(&self) -> Self {
        let mut tables = self.clone();
        for description in DESCRIPTIONS.iter().filter(|d| d.kind == TableKind::Derived) {
            tables.rows.remove(&description.table);
        }
        tables
    }

    /// Whether both have the same rows.
    pub fn has_rows_of(&self, other: &Self) -> bool {
        DESCRIPTIONS.iter().all(|d| self.table(d.table).eq(other.table(d.table)))
    }

    /// The rows of a table, in order.
    pub fn table(&self, table: Table) -> impl Iterator<Item = (&[u8], &[u8])> {
        let rows = self.rows.get(&table).into_iter().flatten();
        rows.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    fn range(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = (&Vec<u8>, &Vec<u8>)> {
        let inverted = !end.is_empty() && start >= end;
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let rows = self.rows.get(&table).filter(|_| !inverted).into_iter();
        rows.flat_map(move |rows| rows.range::<[u8], _>((Bound::Included(start), upper)))
    }
}

impl Tables for MemoryTables {
    fn get<R>(&self, table: Table, key: &[u8], read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        assert!(!key.is_empty(), "an empty key");
        self.rows.get(&table)?.get(key).map(|value| read(value))
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        limit: u32,
        visit: &mut Visit<'_>,
    ) -> Option<Vec<u8>> {
        let limit = self.page_rows.unwrap_or(limit).min(limit);
        let mut rows = self.range(table, start, end);
        for _ in 0..limit.max(1) {
            let (key, value) = rows.next()?;
            if visit(key, value).is_break() {
                break;
            }
        }
        rows.next().map(|(key, _)| key.clone())
    }

    fn last<R>(
        &self,
        table: Table,
        start: &[u8],
        end: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> R,
    ) -> Option<R> {
        self.range(table, start, end).next_back().map(|(key, value)| read(key, value))
    }

    fn count(&self, table: Table, start: &[u8], end: &[u8]) -> u64 {
        self.range(table, start, end).count() as u64
    }

    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        assert!(!key.is_empty(), "an empty key");
        self.rows.entry(table).or_default().insert(key.to_vec(), value.to_vec());
    }

    fn delete(&mut self, table: Table, key: &[u8]) {
        assert!(!key.is_empty(), "an empty key");
        if let Some(rows) = self.rows.get_mut(&table) {
            rows.remove(key);
        }
    }
}

/// An answer that collects its bytes. It fetches rows from the tables it was made for.
#[derive(Debug)]
pub struct MemoryAnswer<'t> {
    pub tables: &'t MemoryTables,
    pub bytes: Vec<u8>,
}

impl<'t> MemoryAnswer<'t> {
    pub fn new(tables: &'t MemoryTables) -> Self {
        MemoryAnswer { tables, bytes: Vec::new() }
    }
}

impl Answer for MemoryAnswer<'_> {
    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn append_rows(&mut self, table: Table, keys: &[u8], key_length: u32, field: u32) {
        let key_length = key_length as usize;
        assert!(key_length > 0 && keys.len().is_multiple_of(key_length), "keys of {key_length}");
        for key in keys.chunks(key_length) {
            let row =
                self.tables.get(table, key, |row| wire::put_message(&mut self.bytes, field, row));
            assert!(row.is_some(), "no row under {key:?}");
        }
    }

    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}
