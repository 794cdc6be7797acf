//! The machine's tables and the mark: the state of this member, written by the apply thread alone.
//!
//! `commit` makes a batch visible, not durable; `persist` brings everything committed to disk. After a crash the state
//! is that of the last `persist`, and the raft log is applied again from there, so the log must not be purged past it.
//! `persist` may take some milliseconds; the apply thread calls it every 500 ms or 5,000 entries.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::backend::AnyBackend;
use super::overlay::Writes;
use super::row_set::RowSet;
use super::snapshot::SnapshotReader;
use super::tables::{TableKind, TableSpec};
use super::view::{TableView, View, Views};
use super::{AppliedId, Backends, Mark, Overlay, StorageError};
use crate::limits;

const FILE: &str = "state.redb";
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("instar");
const MARK: &str = "mark";
const ROWS_BYTES: &str = "rows_bytes";

/// The single writer of the state.
pub struct State {
    path: PathBuf,
    backends: Backends,
    database: Database,
    specs: Vec<TableSpec>,
    derived: Vec<(u32, RowSet)>,
    rows_bytes: u64,
    views: Views,
}

fn failed(error: impl std::fmt::Display) -> StorageError {
    StorageError::io(FILE, error)
}

/// The redb table of a machine's table.
fn table_name(spec: &TableSpec) -> String {
    format!("durable-{}", spec.id)
}

impl State {
    /// Opens the state in a directory, or makes a new one. Derived tables are empty: `Machine::rebuild` fills them.
    pub fn open(
        directory: &Path,
        backends: &Backends,
        specs: &[TableSpec],
    ) -> Result<Self, StorageError> {
        let path = directory.join(FILE);
        let database = open_database(&path, backends, limits::STATE_CACHE_BYTES)?;
        Self::with_database(path, backends.clone(), database, specs.to_vec())
    }

    fn with_database(
        path: PathBuf,
        backends: Backends,
        database: Database,
        specs: Vec<TableSpec>,
    ) -> Result<Self, StorageError> {
        let (mark, rows_bytes) = prepare(&database, &specs)?;
        let derived: Vec<(u32, RowSet)> = specs
            .iter()
            .filter(|spec| spec.kind == TableKind::Derived)
            .map(|spec| (spec.id, RowSet::default()))
            .collect();
        let view = make_view(&path, &database, &specs, &derived, mark, rows_bytes)?;
        let views = Views(Arc::new(ArcSwap::from_pointee(view)));
        Ok(Self { path, backends, database, specs, derived, rows_bytes, views })
    }

    /// The state as of the last commit.
    pub fn view(&self) -> Arc<View> {
        self.views.latest()
    }

    /// Where anyone finds the latest view.
    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// Makes a batch part of the state, and publishes the view that shows it. Not durable before `persist`.
    pub fn commit(&mut self, writes: Writes, mark: Mark) -> Result<Arc<View>, StorageError> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::None).map_err(failed)?;
        for (table, rows) in &writes.0 {
            if !rows.is_empty() {
                self.write_rows(&transaction, *table, rows)?;
            }
        }
        write_mark(&transaction, &mark, self.rows_bytes)?;
        transaction.commit().map_err(failed)?;
        self.publish(mark)
    }

    /// Writes derived tables alone, while they are rebuilt; the mark stays.
    pub fn commit_derived(&mut self, writes: Writes) -> Result<Arc<View>, StorageError> {
        for (table, rows) in &writes.0 {
            let derived = self.derived.iter_mut().find(|(id, _)| id == table);
            match derived {
                Some((_, set)) => write_derived(set, rows),
                None if rows.is_empty() => {}
                None => return Err(StorageError::NoTable(*table)),
            }
        }
        let mark = self.view().mark().clone();
        self.publish(mark)
    }

    /// Empties the derived tables.
    pub fn clear_derived(&mut self) -> Result<Arc<View>, StorageError> {
        for (_, set) in &mut self.derived {
            *set = RowSet::default();
        }
        let mark = self.view().mark().clone();
        self.publish(mark)
    }

    /// Brings everything committed to disk, and says up to which entry the disk has it now.
    pub fn persist(&mut self) -> Result<Option<AppliedId>, StorageError> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        // Reopening then takes milliseconds, whatever the size.
        transaction.set_quick_repair(true);
        let view = self.view();
        write_mark(&transaction, view.mark(), self.rows_bytes)?;
        transaction.commit().map_err(failed)?;
        Ok(view.mark().applied)
    }

    /// Replaces the state by that of a snapshot file, which is removed. Derived tables are empty afterwards.
    ///
    /// The new state is a file of its own until it is whole and on disk; a crash leaves the old one or the new one.
    pub fn install_snapshot(&mut self, snapshot: &Path) -> Result<Arc<View>, StorageError> {
        let fresh_path = self.path.with_extension("new");
        remove_if_there(&fresh_path)?;
        let fresh = open_database(&fresh_path, &self.backends, limits::STATE_CACHE_BYTES)?;
        let mut reader = SnapshotReader::open(snapshot)?;
        fill(&fresh, &mut reader, &self.specs)?;
        drop(fresh);
        fs::rename(&fresh_path, &self.path)
            .map_err(|error| StorageError::path(&self.path, error))?;
        sync_directory(&self.path)?;
        let database = open_database(&self.path, &self.backends, limits::STATE_CACHE_BYTES)?;
        let renewed = Self::with_database(
            self.path.clone(),
            self.backends.clone(),
            database,
            self.specs.clone(),
        )?;
        let views = self.views.clone();
        views.0.store(renewed.view());
        *self = Self { views, ..renewed };
        remove_if_there(snapshot)?;
        Ok(self.view())
    }

    fn write_rows(
        &mut self,
        transaction: &redb::WriteTransaction,
        table: u32,
        rows: &[(bytes::Bytes, Option<bytes::Bytes>)],
    ) -> Result<(), StorageError> {
        if let Some((_, set)) = self.derived.iter_mut().find(|(id, _)| *id == table) {
            write_derived(set, rows);
            return Ok(());
        }
        let spec = self.specs.iter().find(|spec| spec.id == table);
        let name = table_name(spec.ok_or(StorageError::NoTable(table))?);
        let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
        let mut stored = transaction.open_table(definition).map_err(failed)?;
        for (key, value) in rows {
            let before = match value {
                Some(value) => stored.insert(key.as_ref(), value.as_ref()),
                None => stored.remove(key.as_ref()),
            };
            let before = before.map_err(failed)?.map_or(0, |old| key.len() + old.value().len());
            let after = value.as_ref().map_or(0, |value| key.len() + value.len());
            self.rows_bytes = (self.rows_bytes + after as u64).saturating_sub(before as u64);
        }
        Ok(())
    }

    fn publish(&mut self, mark: Mark) -> Result<Arc<View>, StorageError> {
        let view = make_view(
            &self.path,
            &self.database,
            &self.specs,
            &self.derived,
            mark,
            self.rows_bytes,
        )?;
        let view = Arc::new(view);
        self.views.0.store(view.clone());
        Ok(view)
    }

    /// An overlay over the latest view.
    pub fn overlay(&self) -> Overlay {
        Overlay::new(self.view())
    }
}

fn write_derived(set: &mut RowSet, rows: &[(bytes::Bytes, Option<bytes::Bytes>)]) {
    for (key, value) in rows {
        match value {
            Some(value) => set.put(key, value),
            None => set.delete(key),
        }
    }
}

pub(super) fn open_database(
    path: &Path,
    backends: &Backends,
    cache_bytes: usize,
) -> Result<Database, StorageError> {
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let backend = backends(path).map_err(|error| StorageError::path(path, error))?;
    redb::Builder::new()
        .set_cache_size(cache_bytes)
        .create_with_backend(AnyBackend(backend))
        .map_err(|error| match error {
            redb::DatabaseError::Storage(redb::StorageError::Io(error)) => {
                StorageError::path(path, error)
            }
            other => StorageError::corrupt(&file, other),
        })
}

/// Reads the mark, and makes the tables that are not there yet.
fn prepare(database: &Database, specs: &[TableSpec]) -> Result<(Mark, u64), StorageError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::None).map_err(failed)?;
    let found = {
        let meta = transaction.open_table(META).map_err(failed)?;
        let mark = meta.get(MARK).map_err(failed)?.map(|row| row.value().to_vec());
        let bytes = meta.get(ROWS_BYTES).map_err(failed)?.map(|row| row.value().to_vec());
        (mark, bytes)
    };
    for spec in specs.iter().filter(|spec| spec.kind == TableKind::Durable) {
        let name = table_name(spec);
        transaction.open_table(TableDefinition::<&[u8], &[u8]>::new(&name)).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    let mark = match found.0 {
        Some(row) => Mark::decode(&row)
            .ok_or_else(|| StorageError::corrupt(FILE, "its mark is of no known version"))?,
        None => Mark::default(),
    };
    let rows_bytes =
        found.1.and_then(|row| row.try_into().ok()).map(u64::from_le_bytes).unwrap_or(0);
    Ok((mark, rows_bytes))
}

fn write_mark(
    transaction: &redb::WriteTransaction,
    mark: &Mark,
    rows_bytes: u64,
) -> Result<(), StorageError> {
    let mut meta = transaction.open_table(META).map_err(failed)?;
    meta.insert(MARK, mark.encode().as_slice()).map_err(failed)?;
    meta.insert(ROWS_BYTES, rows_bytes.to_le_bytes().as_slice()).map_err(failed)?;
    Ok(())
}

fn make_view(
    path: &Path,
    database: &Database,
    specs: &[TableSpec],
    derived: &[(u32, RowSet)],
    mark: Mark,
    rows_bytes: u64,
) -> Result<View, StorageError> {
    let transaction = database.begin_read().map_err(failed)?;
    let mut tables = Vec::with_capacity(specs.len());
    for spec in specs {
        let table = match derived.iter().find(|(id, _)| *id == spec.id) {
            Some((_, set)) => TableView::Derived(set.clone()),
            None => {
                let name = table_name(spec);
                let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
                TableView::Durable(transaction.open_table(definition).map_err(failed)?)
            }
        };
        tables.push((spec.id, table));
    }
    let size_bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
    Ok(View { mark, tables, size_bytes, rows_bytes })
}

/// Fills a new state from a snapshot, and brings it to disk.
fn fill(
    database: &Database,
    reader: &mut SnapshotReader,
    specs: &[TableSpec],
) -> Result<(), StorageError> {
    let mut rows_bytes = 0;
    loop {
        let rows = reader.next_rows(limits::SNAPSHOT_PORTION_BYTES)?;
        let last = rows.is_empty();
        let mut transaction = database.begin_write().map_err(failed)?;
        let durability = if last { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(failed)?;
        for (table, key, value) in &rows {
            let spec = specs.iter().find(|spec| spec.id == *table);
            let name = table_name(spec.ok_or(StorageError::NoTable(*table))?);
            let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
            let mut stored = transaction.open_table(definition).map_err(failed)?;
            stored.insert(key.as_slice(), value.as_slice()).map_err(failed)?;
            rows_bytes += (key.len() + value.len()) as u64;
        }
        if last {
            transaction.set_quick_repair(true);
            write_mark(&transaction, reader.mark(), rows_bytes)?;
        }
        transaction.commit().map_err(failed)?;
        if last {
            return Ok(());
        }
    }
}

fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::path(path, error))
        }
        _ => Ok(()),
    }
}

/// Makes a rename durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), StorageError> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| StorageError::path(directory, error))
}
