//! A data directory whose state does not come from a log: made from rows that are handed in, when a backup is restored.
//!
//! The rows go to a file that nobody knows yet, a portion at a time; the directory gets its name when the last portion,
//! the mark and the log are on disk (`DataDir::create`).

use std::path::Path;

use redb::Durability;
use xxhash_rust::xxh3::Xxh3;

use super::guard::{Guarded, guarded};
use super::snapshot::SnapshotRow;
use super::state_file::{FILE, failed, fill_table, open_database, write_mark};
use super::tables::TableId;
use super::{Log, LogBatch, Mark, StorageError, files};
use crate::limits;

/// The state and the log of a new directory while they are filled.
pub struct Restoration {
    database: Guarded,
    log: Log,
    rows: Vec<SnapshotRow>,
    portion_bytes: usize,
    rows_bytes: u64,
    digest: Xxh3,
}

impl Restoration {
    pub(super) fn create(directory: &Path) -> Result<Self, StorageError> {
        let (log, _) = Log::open(directory, &files())?;
        let path = directory.join(FILE);
        let database = open_database(&path, &files(), limits::DEFRAGMENT_CACHE_BYTES)?;
        Ok(Self {
            database,
            log,
            rows: Vec::new(),
            portion_bytes: 0,
            rows_bytes: 0,
            digest: Xxh3::new(),
        })
    }

    /// Adds a row. No row may be given twice.
    pub fn put(&mut self, table: TableId, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let longest = key.len().max(value.len());
        if longest > limits::SNAPSHOT_FIELD_BYTES {
            let most = limits::SNAPSHOT_FIELD_BYTES;
            let reason = format!("a key or a value has {longest} bytes, {most} at most are stored");
            return Err(StorageError::io(FILE, reason));
        }
        for part in [&table.to_le_bytes()[..], &(key.len() as u32).to_le_bytes()] {
            self.digest.update(part);
        }
        self.digest.update(&(value.len() as u32).to_le_bytes());
        self.digest.update(key);
        self.digest.update(value);
        self.portion_bytes += key.len() + value.len() + size_of::<SnapshotRow>();
        self.rows.push((table, key.to_vec(), value.to_vec()));
        match self.portion_bytes < limits::SNAPSHOT_PORTION_BYTES {
            true => Ok(()),
            false => self.write_portion(Durability::None, |_, _| Ok(())),
        }
    }

    /// The digest of the rows so far: members that are to be one cluster must have the same.
    pub fn digest(&self) -> u128 {
        self.digest.digest128()
    }

    /// Brings the state with its mark to disk, and the log.
    pub fn finish(mut self, mark: &Mark, log: &LogBatch) -> Result<(), StorageError> {
        self.write_portion(Durability::Immediate, |transaction, rows_bytes| {
            transaction.set_quick_repair(true);
            write_mark(transaction, mark, rows_bytes)
        })?;
        self.log.write(log)
    }

    fn write_portion(
        &mut self,
        durability: Durability,
        end: impl FnOnce(&mut redb::WriteTransaction, u64) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let Self { database, rows, rows_bytes, .. } = self;
        guarded(FILE, || {
            let mut transaction = database.begin_write().map_err(failed)?;
            transaction.set_durability(durability).map_err(failed)?;
            for of_table in rows.chunk_by(|a, b| a.0 == b.0) {
                *rows_bytes += fill_table(&transaction, of_table)?;
            }
            end(&mut transaction, *rows_bytes)?;
            transaction.commit().map_err(failed)
        })?;
        self.rows.clear();
        self.portion_bytes = 0;
        Ok(())
    }
}
