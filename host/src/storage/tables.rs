//! Tables of rows, as a machine sees them.

use std::ops::ControlFlow;

use super::StorageError;

pub type TableId = u32;

/// Where a table is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// On disk and in snapshots.
    Durable,
    /// In memory; made from the durable ones when a member starts.
    Derived,
}

/// The declaration of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSpec {
    pub id: TableId,
    pub name: String,
    pub kind: TableKind,
}

/// What a visitor of rows answers: whether it wants the next one.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reading rows, of one moment.
pub trait Tables {
    /// Shows the value under a key; false if there is no such row.
    fn get(
        &self,
        table: TableId,
        key: &[u8],
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError>;

    /// Shows the rows from `start` (empty: the first) to `end` (excluded; empty: past the last) in ascending order, or
    /// in descending order if `reverse`. An inverted range has no rows.
    fn scan(
        &self,
        table: TableId,
        start: &[u8],
        end: &[u8],
        reverse: bool,
        visit: Visit<'_>,
    ) -> Result<(), StorageError>;

    /// The number of rows of a range, understood as in `scan`.
    fn count(&self, table: TableId, start: &[u8], end: &[u8]) -> Result<u64, StorageError> {
        let mut count = 0;
        self.scan(table, start, end, false, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        Ok(count)
    }

    /// Shows the values under keys of one length, packed one after the other; false if one of them has no row.
    fn get_many(
        &self,
        table: TableId,
        keys: &[u8],
        key_length: usize,
        visit: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, StorageError> {
        for key in keys.chunks_exact(key_length.max(1)) {
            if !self.get(table, key, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where the table is kept; none if there is no such table.
    fn kind(&self, table: TableId) -> Option<TableKind>;
}
