//! The state of one moment.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::guard::guarded;
use super::row_set::{RowSet, bounds};
use super::state_file::{FILE, Size, table_name};
use super::tables::{TableId, TableKind, TableSpec, Tables, Visit};
use super::{Mark, StorageError};

/// Bytes to bytes: every table of a machine.
pub type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// One table of a view.
pub(super) enum TableView {
    /// Opened when it is first asked for: most batches touch few tables.
    Durable(OnceLock<Rows>),
    Derived(RowSet),
}

/// A table, open.
enum Open<'a> {
    Durable(&'a Rows),
    Derived(&'a RowSet),
}

/// All tables and the mark, as of one applied batch. Cheap to share; not to be held longer than a query takes, because
/// the disk space of what has been overwritten since is not reused meanwhile.
pub struct View {
    pub(super) mark: Mark,
    pub(super) specs: Arc<[TableSpec]>,
    pub(super) transaction: ReadTransaction,
    pub(super) tables: Vec<(TableId, TableView)>,
    /// Tells the state's writer that its file is still needed.
    pub(super) _generation: Arc<()>,
    pub(super) size: Size,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("mark", &self.mark).finish_non_exhaustive()
    }
}

impl View {
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// What the state takes on the disk, with what a defragmentation would give back.
    pub fn size_bytes(&self) -> u64 {
        self.size.bytes
    }

    /// How much of it is in use.
    pub fn size_in_use_bytes(&self) -> u64 {
        self.size.in_use_bytes
    }

    /// The durable table of a name.
    pub fn table_named(&self, name: &str) -> Option<TableId> {
        let is_named = |spec: &&TableSpec| spec.name == name && spec.kind == TableKind::Durable;
        self.specs.iter().find(is_named).map(|spec| spec.id)
    }

    fn table(&self, table: TableId) -> Result<Open<'_>, StorageError> {
        let found = self.tables.iter().find(|(id, _)| *id == table);
        let rows = match found.ok_or(StorageError::NoTable(table))? {
            (_, TableView::Derived(rows)) => return Ok(Open::Derived(rows)),
            (_, TableView::Durable(rows)) => rows,
        };
        if let Some(rows) = rows.get() {
            return Ok(Open::Durable(rows));
        }
        let opened = guarded(FILE, || {
            let name = table_name(table);
            let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
            self.transaction.open_table(definition).map_err(failed)
        })?;
        Ok(Open::Durable(rows.get_or_init(|| opened)))
    }
}

fn failed(error: impl std::fmt::Display) -> StorageError {
    StorageError::io(FILE, error)
}

impl Tables for View {
    fn get(
        &self,
        table: TableId,
        key: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError> {
        match self.table(table)? {
            Open::Durable(rows) => {
                return guarded(FILE, || match rows.get(key).map_err(failed)? {
                    Some(value) => {
                        visit(value.value());
                        Ok(true)
                    }
                    None => Ok(false),
                });
            }
            Open::Derived(rows) => match rows.get(key) {
                Some(value) => visit(value),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        let rows = match self.table(table)? {
            Open::Durable(rows) => rows,
            Open::Derived(rows) => {
                rows.scan(start, end, reverse, visit);
                return Ok(());
            }
        };
        let Some(bounds) = bounds(start, end) else { return Ok(()) };
        guarded(FILE, || {
            let mut range = ReadableTable::range::<&[u8]>(rows, bounds).map_err(failed)?;
            loop {
                let Some(row) = (if reverse { range.next_back() } else { range.next() }) else {
                    return Ok(());
                };
                let (key, value) = row.map_err(failed)?;
                if let ControlFlow::Break(()) = visit(key.value(), value.value()) {
                    return Ok(());
                }
            }
        })
    }

    /// The whole table is counted without looking at its rows.
    fn count(&self, table: TableId, start: &[u8], end: &[u8]) -> Result<u64, StorageError> {
        if start.is_empty() && end.is_empty() {
            return match self.table(table)? {
                Open::Durable(rows) => rows.len().map_err(failed),
                Open::Derived(rows) => Ok(rows.len() as u64),
            };
        }
        let mut count = 0;
        self.scan(table, start, end, false, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// Rows that lie side by side, as those of keys that were written together do, are found by stepping on from one to
    /// the next, which costs a fraction of a search.
    fn get_many(
        &self,
        table: TableId,
        keys: &[u8],
        key_length: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError> {
        let keys = keys.chunks_exact(key_length.max(1));
        match self.table(table)? {
            Open::Durable(rows) => {
                guarded(FILE, || get_stepping(rows, keys, visit).map_err(failed))
            }
            Open::Derived(rows) => {
                for key in keys {
                    let Some(value) = rows.get(key) else { return Ok(false) };
                    visit(value);
                }
                Ok(true)
            }
        }
    }

    fn kind(&self, table: TableId) -> Option<TableKind> {
        self.tables.iter().find(|(id, _)| *id == table).map(|(_, view)| match view {
            TableView::Durable(_) => TableKind::Durable,
            TableView::Derived(_) => TableKind::Derived,
        })
    }
}

/// Searches that are made at most before stepping is tried again.
const MOST_SEARCHES: u32 = 64;

/// Finds rows by keys: by a step where the next row is the one that is wanted, else by a search. Beginning to step
/// costs twice a search, so the more often it was in vain, the rarer it is tried.
fn get_stepping<'a>(
    rows: &Rows,
    keys: impl Iterator<Item = &'a [u8]>,
    visit: &mut dyn FnMut(&[u8]),
) -> Result<bool, redb::StorageError> {
    let mut walk: Option<redb::Range<'_, &[u8], &[u8]>> = None;
    let (mut pause, mut searches) = (0, 0);
    for key in keys {
        if let Some(mut range) = walk.take() {
            if let Some(next) = range.next()
                && let (found, value) = next?
                && found.value() == key
            {
                visit(value.value());
                walk = Some(range);
                pause = 0;
                continue;
            }
            pause = (2 * pause + 1).min(MOST_SEARCHES);
            searches = pause;
        }
        if searches > 0 {
            searches -= 1;
            match rows.get(key)? {
                Some(value) => visit(value.value()),
                None => return Ok(false),
            }
            continue;
        }
        let mut range = ReadableTable::range::<&[u8]>(rows, key..)?;
        let Some(first) = range.next() else { return Ok(false) };
        let (found, value) = first?;
        if found.value() != key {
            return Ok(false);
        }
        visit(value.value());
        walk = Some(range);
    }
    Ok(true)
}

/// Where the latest view is to be had, by anyone, without waiting.
#[derive(Clone)]
pub struct Views(pub(super) Arc<ArcSwap<View>>);

impl Views {
    pub fn latest(&self) -> Arc<View> {
        self.0.load_full()
    }
}
