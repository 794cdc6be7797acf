//! What a batch of entries has written so far, over the state before it.
//!
//! Nothing here is in the state yet: a batch that traps is dropped, and the state has never heard of it. Writes are
//! kept in one ordered map a table, with the way back of the entry in work beside it, so that reading one's own
//! writes costs one look-up.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::Xxh3;

use super::row_set::bounds;
use super::tables::{TableId, TableKind, TableSpec, Tables, Visit};
use super::{StorageError, View};
use crate::limits;

/// One row of a batch: its value, or none if it was removed, and the entry that wrote it last.
#[derive(Debug, Clone)]
struct Written {
    value: Option<Bytes>,
    entry: u64,
}

type TableWrites = BTreeMap<Bytes, Written>;

/// A batch in the making.
pub struct Overlay {
    base: Arc<View>,
    tables: Vec<(TableId, TableWrites)>,
    /// Those of them that the base does not have.
    fresh: Vec<(TableId, TableKind)>,
    /// Counts the entries, so that a row tells whose it is.
    entry: u64,
    /// What the entry in work has replaced, in order.
    undo: Vec<(TableId, Bytes, Option<Written>)>,
    digest: Xxh3,
    /// Where the next rows are put, one behind the other: an allocation for many instead of several for each.
    room: BytesMut,
}

/// The writes of a whole batch.
#[derive(Clone)]
pub struct Writes(pub(super) Vec<(TableId, Vec<(Bytes, Option<Bytes>)>)>);

impl Writes {
    /// Every row that was written: its table, its key, and its value, or none if it was removed.
    pub fn rows(&self) -> impl Iterator<Item = (TableId, &Bytes, Option<&Bytes>)> {
        self.0.iter().flat_map(|(table, rows)| {
            rows.iter().map(move |(key, value)| (*table, key, value.as_ref()))
        })
    }

    /// What keys and values have.
    pub fn bytes(&self) -> usize {
        self.rows().map(|(_, key, value)| key.len() + value.map_or(0, Bytes::len)).sum()
    }
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

impl Overlay {
    pub fn new(base: Arc<View>) -> Self {
        let tables = base.tables.iter().map(|(id, _)| (*id, TableWrites::new())).collect();
        Self {
            base,
            tables,
            fresh: Vec::new(),
            entry: 0,
            undo: Vec::new(),
            digest: Xxh3::new(),
            room: BytesMut::new(),
        }
    }

    /// Adds the tables that the base lacks, empty: for a machine whose tables are not declared, and never will be if
    /// nothing comes of it. No state takes such writes.
    pub fn declare(&mut self, specs: &[TableSpec]) {
        for spec in specs {
            if self.tables.iter().all(|(id, _)| *id != spec.id) {
                self.tables.push((spec.id, TableWrites::new()));
                self.fresh.push((spec.id, spec.kind));
            }
        }
    }

    /// How many rows the batch has put or removed, each once.
    pub fn rows_written(&self) -> usize {
        self.tables.iter().map(|(_, writes)| writes.len()).sum()
    }

    /// The state that the batch began with.
    pub fn base(&self) -> &Arc<View> {
        &self.base
    }

    pub fn put(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.note(PUT, table, key, value);
        let (key, value) = self.copy(key, value);
        self.write(table, key, Some(value))
    }

    pub fn delete(&mut self, table: TableId, key: &[u8]) -> Result<(), StorageError> {
        self.note(DELETE, table, key, &[]);
        let (key, _) = self.copy(key, &[]);
        self.write(table, key, None)
    }

    /// Removes the rows of a range, as `Tables::scan` understands it, and says how many there were.
    pub fn delete_range(
        &mut self,
        table: TableId,
        start: &[u8],
        end: &[u8],
    ) -> Result<u64, StorageError> {
        let mut keys = Vec::new();
        self.scan(table, start, end, false, &mut |key, _| {
            keys.push(Bytes::copy_from_slice(key));
            ControlFlow::Continue(())
        })?;
        let count = keys.len() as u64;
        for key in keys {
            self.note(DELETE, table, &key, &[]);
            self.write(table, key, None)?;
        }
        Ok(count)
    }

    /// Whether the entry in work has put this row, or removed it.
    pub fn wrote(&self, table: TableId, key: &[u8]) -> bool {
        let written = self.writes(table).ok().and_then(|writes| writes.get(key));
        written.is_some_and(|written| written.entry == self.entry)
    }

    /// Whether the entry in work has written nothing.
    pub fn entry_is_empty(&self) -> bool {
        self.undo.is_empty()
    }

    /// Ends the entry in work: it is part of the batch now. Gives the XXH3-128 of its writes, in the order of the calls.
    pub fn finish_entry(&mut self) -> u128 {
        let digest = self.digest.digest128();
        self.begin_entry();
        digest
    }

    /// Takes back what the entry in work has written.
    pub fn discard_entry(&mut self) {
        for (table, key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            let Some((_, writes)) = self.tables.iter_mut().find(|(id, _)| *id == table) else {
                continue;
            };
            match before {
                Some(written) => writes.insert(key, written),
                None => writes.remove(&key),
            };
        }
        self.begin_entry();
    }

    /// Takes back everything.
    pub fn discard_batch(&mut self) {
        for (_, writes) in &mut self.tables {
            writes.clear();
        }
        self.begin_entry();
    }

    pub fn into_writes(self) -> Writes {
        let rows = |writes: TableWrites| {
            writes.into_iter().map(|(key, written)| (key, written.value)).collect()
        };
        Writes(self.tables.into_iter().map(|(table, writes)| (table, rows(writes))).collect())
    }

    fn begin_entry(&mut self) {
        self.entry += 1;
        self.undo.clear();
        self.digest.reset();
    }

    fn copy(&mut self, key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
        let length = key.len() + value.len();
        if self.room.capacity() < length {
            self.room = BytesMut::with_capacity(length.max(limits::OVERLAY_ROOM_BYTES));
        }
        self.room.extend_from_slice(key);
        self.room.extend_from_slice(value);
        let mut row = self.room.split().freeze();
        (row.split_to(key.len()), row)
    }

    fn note(&mut self, operation: u8, table: TableId, key: &[u8], value: &[u8]) {
        let mut head = [0; 13];
        head[0] = operation;
        head[1..5].copy_from_slice(&table.to_le_bytes());
        head[5..9].copy_from_slice(&(key.len() as u32).to_le_bytes());
        head[9..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        self.digest.update(&head);
        self.digest.update(key);
        self.digest.update(value);
    }

    fn write(
        &mut self,
        table: TableId,
        key: Bytes,
        value: Option<Bytes>,
    ) -> Result<(), StorageError> {
        let found = self.tables.iter_mut().find(|(id, _)| *id == table);
        let (_, writes) = found.ok_or(StorageError::NoTable(table))?;
        let before = writes.insert(key.clone(), Written { value, entry: self.entry });
        self.undo.push((table, key, before));
        Ok(())
    }

    fn writes(&self, table: TableId) -> Result<&TableWrites, StorageError> {
        let found = self.tables.iter().find(|(id, _)| *id == table);
        found.map(|(_, writes)| writes).ok_or(StorageError::NoTable(table))
    }
}

impl Tables for Overlay {
    fn get(
        &self,
        table: TableId,
        key: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError> {
        match self.writes(table)?.get(key) {
            Some(Written { value: Some(value), .. }) => {
                visit(value);
                Ok(true)
            }
            Some(Written { value: None, .. }) => Ok(false),
            None if self.is_fresh(table) => Ok(false),
            None => self.base.get(table, key, visit),
        }
    }

    fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        let writes = self.writes(table)?;
        let Some(range) = bounds(start, end) else { return Ok(()) };
        if writes.is_empty() && !self.is_fresh(table) {
            return self.base.scan(table, start, end, reverse, visit);
        }
        let rows = writes.range::<[u8], _>(range);
        if reverse {
            self.merge(table, (start, end), true, rows.rev(), visit)
        } else {
            self.merge(table, (start, end), false, rows, visit)
        }
    }

    fn count(&self, table: TableId, start: &[u8], end: &[u8]) -> Result<u64, StorageError> {
        if self.writes(table)?.is_empty() && !self.is_fresh(table) {
            return self.base.count(table, start, end);
        }
        let mut count = 0;
        self.scan(table, start, end, false, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    fn get_many(
        &self,
        table: TableId,
        keys: &[u8],
        key_length: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError> {
        if self.writes(table)?.is_empty() && !self.is_fresh(table) {
            return self.base.get_many(table, keys, key_length, visit);
        }
        for key in keys.chunks_exact(key_length.max(1)) {
            if !self.get(table, key, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn kind(&self, table: TableId) -> Option<TableKind> {
        let fresh = self.fresh.iter().find(|(id, _)| *id == table);
        fresh.map(|(_, kind)| *kind).or_else(|| self.base.kind(table))
    }
}

impl Overlay {
    fn is_fresh(&self, table: TableId) -> bool {
        self.fresh.iter().any(|(id, _)| *id == table)
    }

    /// Goes through written rows and those of the base side by side; a written row hides the base's.
    fn merge<'a>(
        &self,
        table: TableId,
        (start, end): (&[u8], &[u8]),
        reverse: bool,
        written: impl Iterator<Item = (&'a Bytes, &'a Written)>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        let mut written = written.peekable();
        let mut stopped = false;
        let mut beside = |key: &[u8], value: &[u8]| {
            while let Some((next, row)) = written.peek() {
                let comes_first = if reverse { next.as_ref() >= key } else { next.as_ref() <= key };
                if !comes_first {
                    break;
                }
                let hides = next.as_ref() == key;
                let flow = row
                    .value
                    .as_ref()
                    .map_or(ControlFlow::Continue(()), |value| visit(next, value));
                written.next();
                if flow.is_break() {
                    stopped = true;
                    return flow;
                }
                if hides {
                    return ControlFlow::Continue(());
                }
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        };
        if !self.is_fresh(table) {
            self.base.scan(table, start, end, reverse, &mut beside)?;
        }
        for (key, row) in written {
            if stopped {
                break;
            }
            if let Some(value) = &row.value {
                stopped = visit(key, value).is_break();
            }
        }
        Ok(())
    }
}
