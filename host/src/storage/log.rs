//! The file of the raft log. Its rows are opaque here: raft encodes them.
//!
//! One write is one transaction and one fsync: when it returns, everything in it is on disk, and before that none of
//! it is. Rows up to the purged index are gone for every reader at once, and removed a portion at a time, so that
//! shortening a long log holds nothing up.
//!
//! Whoever purges must know that the state on disk (`State::persist`) covers what is purged: nothing here can tell.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::guard::{Guarded, guarded};
use super::state_file::open_database;
use super::{Backends, StorageError};
use crate::limits;

const FILE: &str = "log.redb";
const ENTRIES: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
/// The purged index (8 bytes, little-endian), then raft's own form of its id.
const PURGED: &str = "purged";

/// What one transaction does, in the order of the fields.
#[derive(Debug, Clone, Default)]
pub struct LogBatch {
    /// Drop the entries from this index on.
    pub truncate_from: Option<u64>,
    pub entries: Vec<(u64, Bytes)>,
    /// Drop the entries through this index, and remember its id.
    pub purge_through: Option<(u64, Bytes)>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
}

/// What the log held when it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogState {
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<(u64, Bytes)>,
    /// The index of the last entry; none if there is none behind the purged ones.
    pub last_index: Option<u64>,
}

/// The writer of the log, owned by the log thread.
pub struct Log {
    database: Arc<Guarded>,
    /// Rows through this index may still have to be removed.
    purged_index: Option<u64>,
    failure: Option<StorageError>,
}

/// Reads the log beside its writer.
#[derive(Clone)]
pub struct LogReader {
    database: Arc<Guarded>,
}

fn failed(error: impl std::fmt::Display) -> StorageError {
    StorageError::io(FILE, error)
}

impl Log {
    /// Opens the log in a directory, or makes a new one.
    pub fn open(directory: &Path, backends: &Backends) -> Result<(Self, LogState), StorageError> {
        let database = open_database(&directory.join(FILE), backends, limits::LOG_CACHE_BYTES)?;
        let state = guarded(FILE, || Self::read_state(&database))?;
        let purged_index = state.purged.as_ref().map(|(index, _)| *index);
        Ok((Self { database: Arc::new(database), purged_index, failure: None }, state))
    }

    /// Says what the log holds; makes its tables if it is new.
    fn read_state(database: &Guarded) -> Result<LogState, StorageError> {
        let mut transaction = database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        let state = {
            let meta = transaction.open_table(META).map_err(failed)?;
            let entries = transaction.open_table(ENTRIES).map_err(failed)?;
            let row = |name: &str| -> Result<Option<Bytes>, StorageError> {
                let row = meta.get(name).map_err(failed)?;
                Ok(row.map(|row| Bytes::copy_from_slice(row.value())))
            };
            let purged = row(PURGED)?.map(decode_purged).transpose()?;
            let last_index = entries.last().map_err(failed)?.map(|(index, _)| index.value());
            let behind_purge =
                |index: &u64| purged.as_ref().is_none_or(|(purged, _)| index > purged);
            LogState {
                vote: row(VOTE)?,
                committed: row(COMMITTED)?,
                last_index: last_index.filter(behind_purge),
                purged,
            }
        };
        transaction.commit().map_err(failed)?;
        Ok(state)
    }

    /// Carries a batch out and brings it to disk. After a failure every further call fails in the same way.
    pub fn write(&mut self, batch: &LogBatch) -> Result<(), StorageError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = guarded(FILE, || self.try_write(batch));
        self.failure = result.as_ref().err().cloned();
        result
    }

    pub fn reader(&self) -> LogReader {
        LogReader { database: self.database.clone() }
    }

    fn try_write(&mut self, batch: &LogBatch) -> Result<(), StorageError> {
        let mut transaction = self.database.begin_write().map_err(failed)?;
        transaction.set_durability(Durability::Immediate).map_err(failed)?;
        {
            let mut entries = transaction.open_table(ENTRIES).map_err(failed)?;
            if let Some(from) = batch.truncate_from {
                entries.retain_in(from.., |_, _| false).map_err(failed)?;
            }
            for (index, row) in &batch.entries {
                entries.insert(index, row.as_ref()).map_err(failed)?;
            }
            if let Some((through, _)) = &batch.purge_through {
                self.purged_index = self.purged_index.max(Some(*through));
            }
            self.purged_index = remove_purged(&mut entries, self.purged_index)?;
            let mut meta = transaction.open_table(META).map_err(failed)?;
            if let Some((through, id)) = &batch.purge_through {
                let mut row = through.to_le_bytes().to_vec();
                row.extend_from_slice(id);
                meta.insert(PURGED, row.as_slice()).map_err(failed)?;
            }
            for (name, row) in [(VOTE, &batch.vote), (COMMITTED, &batch.committed)] {
                if let Some(row) = row {
                    meta.insert(name, row.as_ref()).map_err(failed)?;
                }
            }
        }
        transaction.commit().map_err(failed)
    }
}

/// Removes a portion of the purged rows; none when all of them are gone.
fn remove_purged(
    entries: &mut redb::Table<'_, u64, &[u8]>,
    purged_index: Option<u64>,
) -> Result<Option<u64>, StorageError> {
    let Some(through) = purged_index else { return Ok(None) };
    for _ in 0..limits::LOG_REMOVED_ROWS {
        let first = entries.first().map_err(failed)?.map(|(index, _)| index.value());
        if first.is_none_or(|first| first > through) {
            return Ok(None);
        }
        entries.pop_first().map_err(failed)?;
    }
    Ok((!entries.is_empty().map_err(failed)?).then_some(through))
}

fn decode_purged(row: Bytes) -> Result<(u64, Bytes), StorageError> {
    Ok((decode_purged_index(&row)?, row.slice(8..)))
}

fn decode_purged_index(row: &[u8]) -> Result<u64, StorageError> {
    match row.split_first_chunk::<8>() {
        Some((index, _)) => Ok(u64::from_le_bytes(*index)),
        None => Err(StorageError::corrupt(FILE, "its purge mark is too short")),
    }
}

impl LogReader {
    /// The rows of a range of indices, until `max_bytes` are reached; at least one if the range has any. Purged rows
    /// are not seen, whether they have been removed yet or not.
    pub fn read(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StorageError> {
        guarded(FILE, || self.try_read(range, max_bytes))
    }

    fn try_read(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StorageError> {
        let transaction = self.database.begin_read().map_err(failed)?;
        let entries = transaction.open_table(ENTRIES).map_err(failed)?;
        let meta = transaction.open_table(META).map_err(failed)?;
        let purged = meta.get(PURGED).map_err(failed)?;
        let purged = purged.map(|row| decode_purged_index(row.value())).transpose()?;
        let first = purged.map_or(0, |index| index.saturating_add(1));
        let start = range.start.max(first);
        let mut rows = Vec::new();
        let mut bytes = 0;
        if start >= range.end {
            return Ok(rows);
        }
        for row in entries.range(start..range.end).map_err(failed)? {
            let (index, value) = row.map_err(failed)?;
            bytes += value.value().len();
            rows.push((index.value(), Bytes::copy_from_slice(value.value())));
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(rows)
    }
}
