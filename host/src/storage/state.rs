//! The machine's tables and the mark: the state of this member, written by the apply thread alone.
//!
//! `commit` makes a batch visible, not durable; `persist` brings everything committed to disk. After a crash the state
//! is that of the last `persist` or of a later commit, never between two of them, and the raft log is applied again
//! from there, so the log must not be purged past what `persist` has said.
//!
//! `persist` stalls its caller for the time of two fsyncs and of writing what has gathered: some milliseconds if it is
//! called every 500 ms or 5,000 entries, as the apply thread does. Nobody waits for it but the purging of the log.
//!
//! Invariants:
//! - Readers (`Views`) never see derived tables that are being rebuilt.
//! - After the first failure of a write every further one fails with the same error. Views may fail then, too.
//! - Views live as long as the `State`, and no longer, though the state be replaced by a snapshot's.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use redb::{Durability, TableDefinition, WriteTransaction};

use super::defragment::{Defragmentation, Written};
use super::guard::{Guarded, guarded};
use super::overlay::Writes;
use super::row_set::RowSet;
use super::snapshot::SnapshotReader;
use super::state_file::{
    FILE, Gauge, Totals, check_database, failed, fill, make_view, open_database, prepare,
    remove_if_there, sync_directory, table_name, write_mark,
};
use super::tables::{TableId, TableKind, TableSpec};
use super::view::{View, Views};
use super::{AppliedId, Backends, Mark, Overlay, StorageError};
use crate::limits;

/// Rows to write, or to remove where there is no value.
type Rows = [(Bytes, Option<Bytes>)];

/// The single writer of the state.
pub struct State {
    path: PathBuf,
    backends: Backends,
    database: Guarded,
    /// Held by each view of this file.
    generation: Arc<()>,
    /// Files of states that were replaced, open as long as there are views of them.
    retired: Vec<(Arc<()>, Guarded)>,
    /// What is written during a defragmentation.
    written: Option<Arc<Written>>,
    specs: Arc<[TableSpec]>,
    derived: Vec<(TableId, RowSet)>,
    pub(super) totals: Totals,
    gauge: Gauge,
    /// What the writer sees.
    latest: Arc<View>,
    /// What everybody else sees: the same, but while derived tables are rebuilt.
    views: Views,
    failure: Option<StorageError>,
}

impl State {
    /// Finds out whether the state in a directory can be opened, and changes nothing. To be asked before the log is
    /// opened, so that a member with a damaged state leaves its log as it is.
    pub fn check(directory: &Path, backends: &Backends) -> Result<(), StorageError> {
        check_database(&directory.join(FILE), backends)
    }

    /// Opens the state in a directory, or makes a new one. Derived tables are empty: `Machine::rebuild` fills them, and
    /// `finish_rebuild` shows them.
    pub fn open(
        directory: &Path,
        backends: &Backends,
        specs: &[TableSpec],
    ) -> Result<Self, StorageError> {
        let path = directory.join(FILE);
        let database = open_database(&path, backends, limits::STATE_CACHE_BYTES)?;
        guarded(FILE, || Self::with_database(path, backends.clone(), database, specs.into()))
    }

    fn with_database(
        path: PathBuf,
        backends: Backends,
        database: Guarded,
        specs: Arc<[TableSpec]>,
    ) -> Result<Self, StorageError> {
        let (mark, totals) = prepare(&database, &specs)?;
        let derived: Vec<(TableId, RowSet)> = specs
            .iter()
            .filter(|spec| spec.kind == TableKind::Derived)
            .map(|spec| (spec.id, RowSet::default()))
            .collect();
        let generation = Arc::new(());
        let mut gauge = Gauge::new(&path);
        let size = gauge.size(&path, totals);
        let view = make_view(&database, &specs, &derived, &generation, mark, size)?;
        let latest = Arc::new(view);
        Ok(Self {
            path,
            backends,
            database,
            generation,
            retired: Vec::new(),
            written: None,
            specs,
            derived,
            totals,
            gauge,
            views: Views(Arc::new(ArcSwap::new(latest.clone()))),
            latest,
            failure: None,
        })
    }

    /// The state as of the last commit, for the writer: derived tables may be half rebuilt.
    pub fn view(&self) -> Arc<View> {
        self.latest.clone()
    }

    /// Where anyone finds the latest view that is whole.
    pub fn views(&self) -> Views {
        self.views.clone()
    }

    /// An overlay over the latest view.
    pub fn overlay(&self) -> Overlay {
        Overlay::new(self.view())
    }

    /// Makes a batch part of the state, and publishes the view that shows it. Not durable before `persist`.
    ///
    /// The batch's overlay must have been made over the latest view.
    pub fn commit(&mut self, writes: Writes, mark: Mark) -> Result<Arc<View>, StorageError> {
        self.unless_failed(|state| {
            state.write_durable(&writes, &mark)?;
            state.write_derived(&writes);
            state.refresh(mark)?;
            state.views.0.store(state.latest.clone());
            if let Some(written) = &state.written {
                written.note(&writes, |table| !state.is_derived(table));
            }
            state.retired.retain(|(generation, _)| Arc::strong_count(generation) > 1);
            Ok(state.view())
        })
    }

    /// Writes derived tables alone, while they are rebuilt. The mark stays, and readers see none of it before
    /// `finish_rebuild`. Rows of durable tables are refused.
    pub fn commit_derived(&mut self, writes: Writes) -> Result<Arc<View>, StorageError> {
        for (table, rows) in &writes.0 {
            if !rows.is_empty() && !self.is_derived(*table) {
                return Err(StorageError::NoTable(*table));
            }
        }
        self.unless_failed(|state| {
            state.write_derived(&writes);
            state.refresh(state.latest.mark.clone())?;
            Ok(state.view())
        })
    }

    /// Empties the derived tables; readers go on seeing them as they were.
    pub fn clear_derived(&mut self) -> Result<Arc<View>, StorageError> {
        self.unless_failed(|state| {
            for (_, set) in &mut state.derived {
                *set = RowSet::default();
            }
            state.refresh(state.latest.mark.clone())?;
            Ok(state.view())
        })
    }

    /// Shows readers the derived tables, and with them a state that was installed.
    pub fn finish_rebuild(&mut self) {
        self.views.0.store(self.latest.clone());
    }

    /// Brings everything committed to disk, and says up to which entry the disk has it now.
    pub fn persist(&mut self) -> Result<Option<AppliedId>, StorageError> {
        self.unless_failed(|state| {
            let mut transaction = state.database.begin_write().map_err(failed)?;
            transaction.set_durability(Durability::Immediate).map_err(failed)?;
            // Reopening then takes milliseconds, whatever the size.
            transaction.set_quick_repair(true);
            write_mark(&transaction, state.latest.mark(), state.totals.bytes)?;
            transaction.commit().map_err(failed)?;
            state.weigh()?;
            Ok(state.latest.mark().applied)
        })
    }

    /// Replaces the state by that of a snapshot file, which is removed. Derived tables are empty afterwards, and readers
    /// see the state before until `finish_rebuild`, or the next commit, shows them this one.
    ///
    /// The new state is a file of its own until it is whole and on disk; a crash leaves the old one or the new one. A
    /// snapshot that is damaged changes nothing, and the state remains usable. Views of the old state remain valid.
    pub fn install_snapshot(&mut self, snapshot: &Path) -> Result<Arc<View>, StorageError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let fresh = self.path.with_extension("new");
        if let Err(error) = self.fill_beside(&fresh, snapshot) {
            // What remains of it is removed when the directory is opened next, if it cannot be removed now.
            drop(remove_if_there(&fresh));
            return Err(error);
        }
        self.unless_failed(|state| {
            state.put_in_place(&fresh)?;
            remove_if_there(snapshot)?;
            Ok(state.view())
        })
    }

    /// Begins to move the rows to a new file. One that has begun before cannot be finished any more, and neither can
    /// this one once the state is replaced by a snapshot's.
    pub fn begin_defragment(&mut self) -> Result<Defragmentation, StorageError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        // The file of an earlier one has the same name.
        if self.written.take().is_some() {
            tracing::warn!("a defragmentation was never finished");
        }
        let work = Defragmentation::new(&self.path, &self.backends, &self.specs, self.views())?;
        self.written = Some(work.written.clone());
        Ok(work)
    }

    /// Puts the new file, copied, in the place of the old one. Everything committed is on disk afterwards. Views of the
    /// old file remain valid. Where it fails before the file is in place, the state remains usable.
    pub fn finish_defragment(
        &mut self,
        mut work: Defragmentation,
    ) -> Result<Arc<View>, StorageError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if !self.written.take().is_some_and(|written| Arc::ptr_eq(&written, &work.written)) {
            let reason = "the state was replaced while it was defragmented; defragment again";
            return Err(StorageError::io(FILE, reason));
        }
        let fresh = work.seal(&self.latest, self.latest.mark(), self.totals.bytes)?.to_owned();
        self.unless_failed(|state| {
            let database = state.rename(&fresh)?;
            let old = std::mem::replace(&mut state.database, database);
            let generation = std::mem::replace(&mut state.generation, Arc::new(()));
            state.retired.push((generation, old));
            state.gauge = Gauge::new(&state.path);
            state.refresh(state.latest.mark.clone())?;
            state.views.0.store(state.latest.clone());
            Ok(state.view())
        })
    }

    fn fill_beside(&self, fresh: &Path, snapshot: &Path) -> Result<(), StorageError> {
        let mut reader = SnapshotReader::open(snapshot)?;
        remove_if_there(fresh)?;
        let database = open_database(fresh, &self.backends, limits::STATE_CACHE_BYTES)?;
        fill(&database, &mut reader, &self.specs)
    }

    fn put_in_place(&mut self, fresh: &Path) -> Result<(), StorageError> {
        let database = self.rename(fresh)?;
        let (path, backends) = (self.path.clone(), self.backends.clone());
        let renewed = Self::with_database(path, backends, database, self.specs.clone())?;
        let old = std::mem::replace(self, renewed);
        self.views = old.views;
        self.retired = old.retired;
        self.retired.push((old.generation, old.database));
        Ok(())
    }

    /// Gives a file that is whole the state's name, and opens it.
    fn rename(&self, fresh: &Path) -> Result<Guarded, StorageError> {
        fs::rename(fresh, &self.path)
            .and_then(|()| sync_directory(&self.path))
            .map_err(|error| StorageError::path(&self.path, error))?;
        open_database(&self.path, &self.backends, limits::STATE_CACHE_BYTES)
    }

    fn unless_failed<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = guarded(FILE, || write(self));
        if let Err(error) = &result {
            self.failure = Some(error.clone());
        }
        result
    }

    fn is_derived(&self, table: TableId) -> bool {
        self.derived.iter().any(|(id, _)| *id == table)
    }

    fn write_durable(&mut self, writes: &Writes, mark: &Mark) -> Result<(), StorageError> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::None).map_err(failed)?;
        let mut totals = self.totals;
        for (table, rows) in &writes.0 {
            if !rows.is_empty() && !self.is_derived(*table) {
                totals = self.write_rows(&transaction, *table, rows, totals)?;
            }
        }
        write_mark(&transaction, mark, totals.bytes)?;
        transaction.commit().map_err(failed)?;
        self.totals = totals;
        Ok(())
    }

    /// Writes rows of one table; gives the totals afterwards.
    fn write_rows(
        &self,
        transaction: &WriteTransaction,
        table: TableId,
        rows: &Rows,
        mut totals: Totals,
    ) -> Result<Totals, StorageError> {
        if !self.specs.iter().any(|spec| spec.id == table) {
            return Err(StorageError::NoTable(table));
        }
        let name = table_name(table);
        let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
        let mut stored = transaction.open_table(definition).map_err(failed)?;
        for (key, value) in rows {
            let before = match value {
                Some(value) => stored.insert(key.as_ref(), value.as_ref()),
                None => stored.remove(key.as_ref()),
            };
            let before = before.map_err(failed)?.map(|old| key.len() + old.value().len());
            let after = value.as_ref().map(|value| key.len() + value.len());
            totals.rows = (totals.rows + u64::from(after.is_some()))
                .saturating_sub(u64::from(before.is_some()));
            totals.bytes = (totals.bytes + after.unwrap_or(0) as u64)
                .saturating_sub(before.unwrap_or(0) as u64);
        }
        Ok(totals)
    }

    fn write_derived(&mut self, writes: &Writes) {
        for (table, rows) in &writes.0 {
            let Some((_, set)) = self.derived.iter_mut().find(|(id, _)| id == table) else {
                continue;
            };
            for (key, value) in rows {
                match value {
                    Some(value) => set.put(key, value),
                    None => set.delete(key),
                }
            }
        }
    }

    /// Looks at the file's size, and shows it to whoever sees the latest rows.
    fn weigh(&mut self) -> Result<(), StorageError> {
        self.gauge = Gauge::new(&self.path);
        let is_shown = Arc::ptr_eq(&self.views.latest(), &self.latest);
        self.refresh(self.latest.mark.clone())?;
        if is_shown {
            self.views.0.store(self.latest.clone());
        }
        Ok(())
    }

    fn refresh(&mut self, mark: Mark) -> Result<(), StorageError> {
        let size = self.gauge.size(&self.path, self.totals);
        self.latest = Arc::new(make_view(
            &self.database,
            &self.specs,
            &self.derived,
            &self.generation,
            mark,
            size,
        )?);
        Ok(())
    }
}
