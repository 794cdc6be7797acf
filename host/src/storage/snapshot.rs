//! The state as a file: what a member that fell behind is sent.
//!
//! Written in one pass from a view, with bounded memory. Reading trusts nothing: every length is checked against a
//! limit and against the file before it is believed, and the checksum at the end against everything before it.
//! The format is in `docs/on-disk-format.md`.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::tables::{TableId, TableKind, Tables};
use super::view::View;
use super::{Mark, StorageError};
use crate::limits;

const MAGIC: &[u8; 8] = b"INSTARSN";
const VERSION: u32 = 1;
/// In the place of a table's number: the rows are over.
const END: u32 = u32::MAX;

/// Writes a view to a new file and brings it to disk.
pub fn write(view: &View, path: &Path) -> Result<(), StorageError> {
    let failed = |error| StorageError::path(path, error);
    let file = File::create(path).map_err(failed)?;
    let mut writer = Summing { inner: BufWriter::with_capacity(1 << 20, file), sum: Xxh3::new() };
    let mark = view.mark().encode();
    let mut head = Vec::with_capacity(16 + mark.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(mark.len() as u32).to_le_bytes());
    head.extend_from_slice(&mark);
    writer.write_all(&head).map_err(failed)?;

    let mut count = 0u64;
    for (table, _) in &view.tables {
        if view.kind(*table) == Some(TableKind::Durable) {
            count += write_table(view, *table, &mut writer).map_err(|error| match error {
                Either::Storage(error) => error,
                Either::File(error) => failed(error),
            })?;
        }
    }
    writer.write_all(&END.to_le_bytes()).map_err(failed)?;
    writer.write_all(&count.to_le_bytes()).map_err(failed)?;
    let sum = writer.sum.digest();
    let mut inner = writer.inner;
    inner.write_all(&sum.to_le_bytes()).map_err(failed)?;
    inner.flush().map_err(failed)?;
    inner.get_ref().sync_all().map_err(failed)
}

enum Either {
    Storage(StorageError),
    File(std::io::Error),
}

fn write_table(view: &View, table: TableId, writer: &mut impl Write) -> Result<u64, Either> {
    let mut count = 0;
    let mut failure = None;
    view.scan(table, &[], &[], false, &mut |key, value| {
        count += 1;
        let mut head = [0; 12];
        head[..4].copy_from_slice(&table.to_le_bytes());
        head[4..8].copy_from_slice(&(key.len() as u32).to_le_bytes());
        head[8..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        let written = writer
            .write_all(&head)
            .and_then(|()| writer.write_all(key))
            .and_then(|()| writer.write_all(value));
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failure = Some(error);
                ControlFlow::Break(())
            }
        }
    })
    .map_err(Either::Storage)?;
    failure.map_or(Ok(count), |error| Err(Either::File(error)))
}

/// Passes bytes on and sums them up.
struct Summing<T> {
    inner: T,
    sum: Xxh3,
}

impl<T: Write> Write for Summing<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Reads a whole snapshot, checks everything, and gives its mark.
pub fn verify(path: &Path) -> Result<Mark, StorageError> {
    let mut reader = SnapshotReader::open(path)?;
    while !reader.next_rows(limits::SNAPSHOT_PORTION_BYTES)?.is_empty() {}
    Ok(reader.mark)
}

/// A row of a snapshot: its table, key and value.
pub type SnapshotRow = (TableId, Vec<u8>, Vec<u8>);

/// Reads a snapshot from its beginning to its end.
pub struct SnapshotReader {
    path: PathBuf,
    reader: BufReader<File>,
    sum: Xxh3,
    offset: u64,
    size: u64,
    rows: u64,
    mark: Mark,
    ended: bool,
}

impl SnapshotReader {
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let failed = |error| StorageError::path(path, error);
        let file = File::open(path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let mut reader = Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 20, file),
            sum: Xxh3::new(),
            offset: 0,
            size,
            rows: 0,
            mark: Mark::default(),
            ended: false,
        };
        if &reader.array::<8>()? != MAGIC {
            return Err(reader.bad("it does not begin as a snapshot does"));
        }
        let version = reader.number()?;
        if version != VERSION {
            return Err(reader.bad(&format!("its version is {version}, known is {VERSION}")));
        }
        let length = reader.number()?;
        let mark = reader.bytes(length, limits::SNAPSHOT_MARK_BYTES)?;
        reader.mark =
            Mark::decode(&mark).ok_or_else(|| reader.bad("its mark is of no known version"))?;
        Ok(reader)
    }

    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The next rows, until they exceed `max_bytes`; none at the end, when the checksum was right.
    pub fn next_rows(&mut self, max_bytes: usize) -> Result<Vec<SnapshotRow>, StorageError> {
        let mut rows = Vec::new();
        let mut bytes = 0;
        while bytes < max_bytes && !self.ended {
            let table = self.number()?;
            if table == END {
                self.end()?;
                break;
            }
            let key_length = self.number()?;
            let value_length = self.number()?;
            let key = self.bytes(key_length, limits::SNAPSHOT_FIELD_BYTES)?;
            let value = self.bytes(value_length, limits::SNAPSHOT_FIELD_BYTES)?;
            bytes += key.len() + value.len() + 1;
            self.rows += 1;
            rows.push((table, key, value));
        }
        Ok(rows)
    }

    fn end(&mut self) -> Result<(), StorageError> {
        let count = u64::from_le_bytes(self.array()?);
        if count != self.rows {
            return Err(self.bad(&format!("it has {} rows and says {count}", self.rows)));
        }
        let expected = self.sum.digest();
        let found = u64::from_le_bytes(self.array()?);
        if found != expected {
            return Err(self.bad("its checksum is wrong"));
        }
        if self.offset != self.size {
            return Err(self.bad("there is more behind its end"));
        }
        self.ended = true;
        Ok(())
    }

    fn number(&mut self) -> Result<u32, StorageError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StorageError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn bytes(&mut self, length: u32, limit: usize) -> Result<Vec<u8>, StorageError> {
        let length = length as usize;
        if length > limit || self.offset + length as u64 > self.size {
            return Err(self.bad(&format!("a length of {length} bytes is impossible")));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.reader.read_exact(bytes).map_err(|error| self.bad(&error.to_string()))?;
        self.sum.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn bad(&self, reason: &str) -> StorageError {
        let file = self.path.display().to_string();
        StorageError::Corrupt { file, reason: format!("at byte {}: {reason}", self.offset) }
    }
}
