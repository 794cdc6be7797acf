//! Defragmentation: the rows move to a new file while batches go on being committed.
//!
//! 1. `State::begin_defragment`: from now on commits note the keys that they write (`Written`).
//! 2. `Defragmentation::copy`, on any thread: walks the tables a portion at a time, each from the latest view, so that
//!    no view is held long; then carries over what was written meanwhile, until little is left.
//! 3. `State::finish_defragment`: carries over the rest, brings the new file to disk, and puts it in the old one's
//!    place by a rename. Before the rename a crash leaves the old file, after it the new one, and both are whole.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::{Durability, TableDefinition};

use super::declared;
use super::guard::{Guarded, guarded};
use super::overlay::Writes;
use super::state_file::{failed, open_database, remove_if_there, table_name, write_mark};
use super::tables::{TableId, TableKind, TableSpec, Tables};
use super::view::{View, Views};
use super::{Backends, StorageError};
use crate::limits;

const FILE: &str = "state.defragmented";
/// What a noted key takes beside its bytes.
const NOTE_BYTES: usize = 64;

/// The keys that commits have written since the defragmentation began, or since they were last taken.
#[derive(Default)]
pub(super) struct Written(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    keys: Vec<(TableId, Bytes)>,
    bytes: usize,
    /// There were more than are allowed: the copy cannot become whole any more.
    too_many: bool,
}

impl Written {
    /// To be called when the view that shows these writes has been published: whoever takes a key and then the latest
    /// view finds in it what was written.
    pub(super) fn note(&self, writes: &Writes, is_durable: impl Fn(TableId) -> bool) {
        let mut noted = self.lock();
        for (table, rows) in writes.0.iter().filter(|(table, _)| is_durable(*table)) {
            for (key, _) in rows {
                noted.bytes += key.len() + NOTE_BYTES;
                if noted.bytes > limits::DEFRAGMENT_WRITTEN_BYTES {
                    *noted = Keys { too_many: true, ..Keys::default() };
                    return;
                }
                // A copy: the key may be a small part of a large buffer.
                noted.keys.push((*table, Bytes::copy_from_slice(key)));
            }
        }
    }

    fn take(&self) -> Result<Vec<(TableId, Bytes)>, StorageError> {
        let mut noted = self.lock();
        if noted.too_many {
            let reason = "too much was written meanwhile; defragment again when there is less load";
            return Err(StorageError::io(FILE, reason));
        }
        noted.bytes = 0;
        Ok(std::mem::take(&mut noted.keys))
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new file in the making. Dropped before it is finished, it leaves nothing behind.
pub struct Defragmentation {
    path: PathBuf,
    /// None once the file is whole, and closed.
    database: Option<Guarded>,
    views: Views,
    tables: Vec<TableId>,
    pub(super) written: Arc<Written>,
}

impl Drop for Defragmentation {
    fn drop(&mut self) {
        if self.database.take().is_some()
            && let Err(error) = remove_if_there(&self.path)
        {
            tracing::warn!(error = %error, "cannot remove the file of a defragmentation that was given up");
        }
    }
}

impl Defragmentation {
    pub(super) fn new(
        state: &Path,
        backends: &Backends,
        specs: &[TableSpec],
        views: Views,
    ) -> Result<Self, StorageError> {
        let path = state.with_extension("defragmented");
        remove_if_there(&path)?;
        let database = open_database(&path, backends, limits::DEFRAGMENT_CACHE_BYTES)?;
        let durable = specs.iter().filter(|spec| spec.kind == TableKind::Durable);
        let tables = durable.map(|spec| spec.id).collect();
        Ok(Self { path, database: Some(database), views, tables, written: Arc::default() })
    }

    /// Copies everything but the little that is written while it ends. Takes as long as the state is large, on whatever
    /// thread has the time.
    pub fn copy(&self) -> Result<(), StorageError> {
        for table in &self.tables {
            let mut start = Some(Vec::new());
            while let Some(from) = start {
                start = self.copy_portion(*table, &from)?;
                self.carry_over(&self.written.take()?)?;
            }
        }
        // What is not on disk yet, the apply thread would have to wait for.
        self.commit(Durability::Immediate, |_| Ok(()))?;
        loop {
            let keys = self.written.take()?;
            self.carry_over(&keys)?;
            if keys.len() <= limits::DEFRAGMENT_LAST_ROWS {
                return Ok(());
            }
        }
    }

    /// Copies a portion from a key on. Says where the next one begins.
    fn copy_portion(&self, table: TableId, from: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let view = self.views.latest();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        view.scan(table, from, &[], false, &mut |key, value| {
            bytes += key.len() + value.len() + NOTE_BYTES;
            rows.push((Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value))));
            match bytes < limits::SNAPSHOT_PORTION_BYTES {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        drop(view);
        let full = bytes >= limits::SNAPSHOT_PORTION_BYTES;
        let next = rows.last().filter(|_| full).map(|(last, _)| [last, &[0][..]].concat());
        self.commit(Durability::None, |transaction| write_rows(transaction, table, &rows))?;
        Ok(next)
    }

    /// Writes the rows of these keys as the latest view has them.
    fn carry_over(&self, keys: &[(TableId, Bytes)]) -> Result<(), StorageError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.carry_over_from(&self.views.latest(), keys)
    }

    fn carry_over_from(&self, view: &View, keys: &[(TableId, Bytes)]) -> Result<(), StorageError> {
        self.commit(Durability::None, |transaction| {
            for of_table in keys.chunk_by(|a, b| a.0 == b.0) {
                let table = of_table[0].0;
                let mut rows = Vec::with_capacity(of_table.len());
                for (_, key) in of_table {
                    let mut found = None;
                    view.get(table, key, &mut |value| {
                        found = Some(Bytes::copy_from_slice(value));
                    })?;
                    rows.push((key.clone(), found));
                }
                write_rows(transaction, table, &rows)?;
            }
            Ok(())
        })
    }

    /// Makes the file whole as of a view, which nothing follows, with all its tables, which it tells of if the old one
    /// does, and closes it.
    pub(super) fn seal(
        &mut self,
        view: &View,
        (specs, are_recorded): (&[TableSpec], bool),
        rows_bytes: u64,
    ) -> Result<&Path, StorageError> {
        self.carry_over_from(view, &self.written.take()?)?;
        self.commit(Durability::Immediate, |transaction| {
            transaction.set_quick_repair(true);
            match are_recorded {
                true => declared::record(transaction, specs)?,
                false => drop(declared::create(transaction, specs)?),
            }
            write_mark(transaction, view.mark(), rows_bytes)
        })?;
        self.database = None;
        Ok(&self.path)
    }

    fn commit(
        &self,
        durability: Durability,
        write: impl FnOnce(&mut redb::WriteTransaction) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let Some(database) = &self.database else { return Ok(()) };
        guarded(FILE, || {
            let mut transaction = database.begin_write().map_err(failed)?;
            transaction.set_durability(durability).map_err(failed)?;
            write(&mut transaction)?;
            transaction.commit().map_err(failed)
        })
    }
}

fn write_rows(
    transaction: &redb::WriteTransaction,
    table: TableId,
    rows: &[(Bytes, Option<Bytes>)],
) -> Result<(), StorageError> {
    let name = table_name(table);
    let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
    let mut stored = transaction.open_table(definition).map_err(failed)?;
    for (key, value) in rows {
        match value {
            Some(value) => stored.insert(key.as_ref(), value.as_ref()).map_err(failed)?,
            None => stored.remove(key.as_ref()).map_err(failed)?,
        };
    }
    Ok(())
}
