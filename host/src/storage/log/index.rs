//! Which entries the log has, and where their rows are.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Where a row is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub offset: u64,
    pub bytes: u32,
    checksum: u32,
}

impl Row {
    pub fn new(offset: u64, row: &[u8]) -> Self {
        Self { offset, bytes: row.len() as u32, checksum: checksum(row) }
    }

    pub fn is(&self, row: &[u8]) -> bool {
        self.bytes as usize == row.len() && self.checksum == checksum(row)
    }
}

fn checksum(row: &[u8]) -> u32 {
    xxh3_64(row) as u32
}

/// The rows without a gap, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// The index of the first row; without rows, that of the next one.
    first: u64,
    rows: VecDeque<Row>,
    purged: Option<u64>,
    /// Entries before this index were there once, in segments that are gone. They must all be purged.
    missing_before: u64,
}

/// An entry that does not follow the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub index: u64,
    pub expected: u64,
}

impl Index {
    /// As a segment begins whose predecessors may be gone.
    pub fn starting_at(next_index: u64) -> Self {
        Self { first: next_index, missing_before: next_index, ..Self::default() }
    }

    pub fn next_index(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    pub fn last_index(&self) -> Option<u64> {
        (!self.rows.is_empty()).then(|| self.next_index() - 1)
    }

    pub fn truncate(&mut self, from: u64) {
        self.rows.truncate(from.saturating_sub(self.first) as usize);
        self.missing_before = self.missing_before.min(from);
        if self.rows.is_empty() && self.first > from {
            self.first = from;
        }
    }

    /// Whether entries can follow what is there, or what a truncation leaves of it.
    pub fn check(&self, truncate_from: Option<u64>, entries: &[(u64, Bytes)]) -> Result<(), Gap> {
        let Some((first, _)) = entries.first() else { return Ok(()) };
        let next = truncate_from.map_or(self.next_index(), |from| from.min(self.next_index()));
        let next = if self.begins_anywhere() { *first } else { next };
        let gap = (next..).zip(entries).find(|(expected, (index, _))| index != expected);
        gap.map_or(Ok(()), |(expected, (index, _))| Err(Gap { index: *index, expected }))
    }

    /// A log that holds nothing, and never purged anything.
    fn begins_anywhere(&self) -> bool {
        self.rows.is_empty() && self.purged.is_none() && self.missing_before == 0
    }

    pub fn append(&mut self, index: u64, row: Row) -> Result<(), Gap> {
        if self.begins_anywhere() {
            self.first = index;
        }
        let expected = self.next_index();
        if index != expected {
            return Err(Gap { index, expected });
        }
        self.rows.push_back(row);
        Ok(())
    }

    pub fn purge(&mut self, through: u64) {
        let next = through.saturating_add(1);
        let dropped = next.saturating_sub(self.first).min(self.rows.len() as u64);
        self.rows.drain(..dropped as usize);
        self.first += dropped;
        if self.rows.is_empty() {
            self.first = self.first.max(next);
        }
        self.purged = self.purged.max(Some(through));
    }

    /// The first entry that should be there and is not.
    pub fn missing(&self) -> Option<u64> {
        let needed = self.purged.map_or(0, |purged| purged.saturating_add(1));
        (self.missing_before > needed).then_some(needed)
    }

    /// The rows of a range, until `max_bytes` are reached; at least one if the range has any.
    pub fn rows(&self, range: Range<u64>, max_bytes: usize) -> Vec<(u64, Row)> {
        let start = range.start.max(self.first);
        let count = range.end.min(self.next_index()).saturating_sub(start);
        let skipped = start - self.first;
        let mut bytes = 0;
        let rows = self.rows.iter().skip(skipped as usize).take(count as usize).take_while(|row| {
            let room = bytes == 0 || bytes < max_bytes;
            bytes += row.bytes as usize;
            room
        });
        rows.zip(start..).map(|(row, index)| (index, *row)).collect()
    }

    pub fn has(&self, index: u64) -> bool {
        (self.first..self.next_index()).contains(&index)
    }
}
