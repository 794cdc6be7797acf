//! The file under the state: opening it, its tables, and filling a new one from a snapshot.
//!
//! What is in the file is described in `docs/on-disk-format.md`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};

use super::backend::AnyBackend;
use super::guard::{Guarded, guarded, without_report};
use super::row_set::RowSet;
use super::snapshot::{SnapshotReader, SnapshotRow};
use super::tables::{TableId, TableKind, TableSpec};
use super::view::{TableView, View};
use super::{Backends, Mark, StorageError};
use crate::limits;

pub(super) const FILE: &str = "state.redb";
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("instar");
const MARK: &str = "mark";
const ROWS_BYTES: &str = "rows_bytes";

pub(super) fn failed(error: impl std::fmt::Display) -> StorageError {
    StorageError::io(FILE, error)
}

/// The redb table of a machine's table.
pub(super) fn table_name(id: TableId) -> String {
    format!("durable-{id}")
}

/// Whether the state in a directory can be opened. Nothing of the file changes, whatever the answer: so that the log is
/// not touched beside a state that is damaged.
pub(super) fn check_database(path: &Path, backends: &Backends) -> Result<(), StorageError> {
    let io = |error| StorageError::path(path, error);
    let backend = AnyBackend::holding_back(backends(path).map_err(io)?).map_err(io)?;
    open_shielded(path, backend, 0).map(drop)
}

/// Opens a redb file, or makes one. A file that is not redb's, or that is cut short, is refused.
pub(super) fn open_database(
    path: &Path,
    backends: &Backends,
    cache_bytes: usize,
) -> Result<Guarded, StorageError> {
    let io = |error| StorageError::path(path, error);
    let backend = AnyBackend::holding_back(backends(path).map_err(io)?).map_err(io)?;
    let database = open_shielded(path, backend.clone(), cache_bytes)?;
    backend.let_through().map_err(io)?;
    Ok(database)
}

/// Opens a file whose backend still holds back what is written to it.
fn open_shielded(
    path: &Path,
    backend: AnyBackend,
    cache_bytes: usize,
) -> Result<Guarded, StorageError> {
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let opened = without_report(|| {
        redb::Builder::new().set_cache_size(cache_bytes).create_with_backend(backend)
    });
    match opened {
        Ok(Ok(database)) => Ok(Guarded::new(database)),
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(error))))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            Err(StorageError::path(path, error))
        }
        Ok(Err(error)) => Err(StorageError::corrupt(&file, error)),
        Err(_) => Err(StorageError::corrupt(&file, "its content contradicts itself")),
    }
}

/// Makes a whole, empty redb file, so that a crash later cannot leave half of one.
pub(super) fn create_database(path: &Path, backends: &Backends) -> Result<(), StorageError> {
    let database = open_database(path, backends, 0)?;
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::Immediate).map_err(failed)?;
    transaction.commit().map_err(failed)
}

/// What the durable tables hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) rows: u64,
    /// Keys and values.
    pub(super) bytes: u64,
}

/// Reads the mark, and makes the tables that are not there yet.
pub(super) fn prepare(
    database: &Database,
    specs: &[TableSpec],
) -> Result<(Mark, Totals), StorageError> {
    guarded(FILE, || prepare_tables(database, specs))
}

fn prepare_tables(
    database: &Database,
    specs: &[TableSpec],
) -> Result<(Mark, Totals), StorageError> {
    let mut transaction = database.begin_write().map_err(failed)?;
    transaction.set_durability(Durability::None).map_err(failed)?;
    let (mark, rows_bytes) = {
        let meta = transaction.open_table(META).map_err(failed)?;
        let mark = meta.get(MARK).map_err(failed)?.map(|row| row.value().to_vec());
        let bytes = meta.get(ROWS_BYTES).map_err(failed)?.map(|row| row.value().to_vec());
        (mark, bytes)
    };
    let mut rows = 0;
    for spec in specs.iter().filter(|spec| spec.kind == TableKind::Durable) {
        let name = table_name(spec.id);
        let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
        rows += transaction.open_table(definition).map_err(failed)?.len().map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    let (Some(mark), Some(rows_bytes)) = (mark, rows_bytes) else {
        return Ok((Mark::default(), Totals { rows, bytes: 0 }));
    };
    let mark = Mark::decode(&mark)
        .ok_or_else(|| StorageError::corrupt(FILE, "its mark is of no known version"))?;
    let rows_bytes = rows_bytes
        .try_into()
        .map_err(|_| StorageError::corrupt(FILE, "its row count is not a number"))?;
    Ok((mark, Totals { rows, bytes: u64::from_le_bytes(rows_bytes) }))
}

pub(super) fn write_mark(
    transaction: &redb::WriteTransaction,
    mark: &Mark,
    rows_bytes: u64,
) -> Result<(), StorageError> {
    let mut meta = transaction.open_table(META).map_err(failed)?;
    meta.insert(MARK, mark.encode().as_slice()).map_err(failed)?;
    meta.insert(ROWS_BYTES, rows_bytes.to_le_bytes().as_slice()).map_err(failed)?;
    Ok(())
}

/// A view of what has been committed, with the derived tables of the same moment.
pub(super) fn make_view(
    database: &Database,
    specs: &Arc<[TableSpec]>,
    derived: &[(TableId, RowSet)],
    generation: &Arc<()>,
    mark: Mark,
    size: Size,
) -> Result<View, StorageError> {
    let transaction = database.begin_read().map_err(failed)?;
    let view = |spec: &TableSpec| match derived.iter().find(|(id, _)| *id == spec.id) {
        Some((_, set)) => (spec.id, TableView::Derived(set.clone())),
        None => (spec.id, TableView::Durable(OnceLock::new())),
    };
    let tables = specs.iter().map(view).collect();
    let specs = specs.clone();
    Ok(View { mark, specs, transaction, tables, _generation: generation.clone(), size })
}

/// What the state takes, as etcd's `dbSize` and `dbSizeInUse` mean it: the file with what it could give back, and
/// without. What redb needs for itself whatever it holds is counted in neither.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) in_use_bytes: u64,
}

impl Size {
    /// What an empty state is said to use, and what it is rounded to: four of etcd's pages.
    const EMPTY_BYTES: u64 = 16 << 10;
    const PAGE_BYTES: u64 = 4 << 10;
    /// What a row takes in its page beside its key and its value; measured with rows of 30 to 300 bytes.
    const ROW_BYTES: u64 = 13;

    fn new(on_disk_bytes: u64, totals: Totals) -> Self {
        let used = totals.bytes + totals.rows * Self::ROW_BYTES;
        let in_use_bytes = Self::EMPTY_BYTES + used.next_multiple_of(Self::PAGE_BYTES);
        let bytes = on_disk_bytes.saturating_sub(limits::STATE_OVERHEAD_BYTES).max(in_use_bytes);
        Self { bytes, in_use_bytes }
    }
}

/// Looks at what the file takes on the disk, as often as is worth a system call.
pub(super) struct Gauge {
    on_disk_bytes: u64,
    read_at: Instant,
}

impl Gauge {
    /// How old what is known may be. etcd's own figure is as old as its last commit, which is 100 ms.
    const INTERVAL: Duration = Duration::from_millis(100);

    pub(super) fn new(path: &Path) -> Self {
        Self { on_disk_bytes: on_disk_bytes(path), read_at: Instant::now() }
    }

    pub(super) fn size(&mut self, path: &Path, totals: Totals) -> Size {
        if self.read_at.elapsed() >= Self::INTERVAL {
            *self = Self::new(path);
        }
        Size::new(self.on_disk_bytes, totals)
    }
}

/// The file's length says nothing, because redb doubles it in advance: what counts is what it takes on the disk. A
/// test's file in memory takes nothing.
fn on_disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Fills a new file from a snapshot, and brings it to disk. The snapshot is whole if this succeeds: its checksum has
/// been compared before the last transaction, the only one that counts.
pub(super) fn fill(
    database: &Database,
    reader: &mut SnapshotReader,
    specs: &[TableSpec],
) -> Result<(), StorageError> {
    guarded("state.new", || fill_tables(database, reader, specs))
}

fn fill_tables(
    database: &Database,
    reader: &mut SnapshotReader,
    specs: &[TableSpec],
) -> Result<(), StorageError> {
    for (id, name) in reader.tables() {
        let known = |spec: &&TableSpec| spec.id == *id && spec.kind == TableKind::Durable;
        if specs.iter().find(known).is_none_or(|spec| spec.name != *name) {
            let reason = format!("table {id} ({name}) is none of this machine's");
            return Err(StorageError::corrupt("the snapshot", reason));
        }
    }
    let mut rows_bytes = 0;
    loop {
        let rows = reader.next_rows(limits::SNAPSHOT_PORTION_BYTES)?;
        let last = rows.is_empty();
        let mut transaction = database.begin_write().map_err(failed)?;
        let durability = if last { Durability::Immediate } else { Durability::None };
        transaction.set_durability(durability).map_err(failed)?;
        for of_table in rows.chunk_by(|a, b| a.0 == b.0) {
            rows_bytes += fill_table(&transaction, of_table)?;
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

/// Writes rows of one table; says what they take.
pub(super) fn fill_table(
    transaction: &redb::WriteTransaction,
    rows: &[SnapshotRow],
) -> Result<u64, StorageError> {
    let Some((id, _, _)) = rows.first() else { return Ok(0) };
    let name = table_name(*id);
    let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
    let mut stored = transaction.open_table(definition).map_err(failed)?;
    let mut bytes = 0;
    for (_, key, value) in rows {
        stored.insert(key.as_slice(), value.as_slice()).map_err(failed)?;
        bytes += (key.len() + value.len()) as u64;
    }
    Ok(bytes)
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StorageError::path(path, error))
        }
        _ => Ok(()),
    }
}

/// Makes a rename durable: `path` is the new name.
pub(super) fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or_else(|| Path::new("."));
    fs::File::open(directory)?.sync_all()
}
