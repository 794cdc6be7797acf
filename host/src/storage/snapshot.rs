//! The state as a file: what a member that fell behind is sent.
//!
//! Written in one pass from a view, with bounded memory. Reading trusts nothing: every length is checked against a
//! limit and against the file before it is believed, and the checksum at the end against everything before it.
//! The format is in `docs/on-disk-format.md`.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::state_file::sync_directory;
use super::tables::{TableId, TableKind, TableSpec, Tables};
use super::view::View;
use super::{Mark, StorageError};
use crate::limits;

const MAGIC: &[u8; 8] = b"INSTARSN";
const VERSION: u32 = 1;
/// In the place of a table's number: the rows are over.
const END: u32 = u32::MAX;

/// Writes a view to a new file and brings it to disk: the file, and its name.
pub fn write(view: &View, path: &Path) -> Result<(), StorageError> {
    let failed = |error| StorageError::path(path, error);
    let file = File::create(path).map_err(failed)?;
    let mut writer = Summing { inner: BufWriter::with_capacity(1 << 20, file), sum: Xxh3::new() };
    writer.write_all(&head(view)).map_err(failed)?;

    let mut count = 0u64;
    for table in durable(view) {
        count += write_table(view, table.id, &mut writer).map_err(|error| match error {
            Either::Storage(error) => error,
            Either::File(error) => failed(error),
        })?;
    }
    writer.write_all(&END.to_le_bytes()).map_err(failed)?;
    writer.write_all(&count.to_le_bytes()).map_err(failed)?;
    let sum = writer.sum.digest();
    let mut inner = writer.inner;
    inner.write_all(&sum.to_le_bytes()).map_err(failed)?;
    inner.flush().map_err(failed)?;
    inner.get_ref().sync_all().map_err(failed)?;
    sync_directory(path).map_err(failed)
}

/// The durable tables in the order of their ids, which is that of the rows.
fn durable(view: &View) -> Vec<&TableSpec> {
    let mut tables: Vec<&TableSpec> =
        view.specs.iter().filter(|spec| spec.kind == TableKind::Durable).collect();
    tables.sort_by_key(|spec| spec.id);
    tables
}

fn head(view: &View) -> Vec<u8> {
    let mark = view.mark().encode();
    let tables = durable(view);
    let mut head = Vec::with_capacity(64 + mark.len());
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(mark.len() as u32).to_le_bytes());
    head.extend_from_slice(&mark);
    head.extend_from_slice(&(tables.len() as u32).to_le_bytes());
    for table in tables {
        head.extend_from_slice(&table.id.to_le_bytes());
        head.extend_from_slice(&(table.name.len() as u32).to_le_bytes());
        head.extend_from_slice(table.name.as_bytes());
    }
    head
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
    tables: Vec<(TableId, String)>,
    /// The table and key of the last row: rows only ascend.
    last: Option<(TableId, Vec<u8>)>,
    ended: bool,
}

impl SnapshotReader {
    /// Opens a snapshot and reads its head. Nothing of it is certain before `next_rows` has reached the end.
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
            tables: Vec::new(),
            last: None,
            ended: false,
        };
        reader.read_head()?;
        Ok(reader)
    }

    fn read_head(&mut self) -> Result<(), StorageError> {
        if &self.array::<8>()? != MAGIC {
            return Err(self.bad("it does not begin as a snapshot does"));
        }
        let version = self.number()?;
        if version != VERSION {
            return Err(self.bad(&format!("its version is {version}, known is {VERSION}")));
        }
        let length = self.number()?;
        let mark = self.bytes(length, limits::SNAPSHOT_MARK_BYTES)?;
        self.mark =
            Mark::decode(&mark).ok_or_else(|| self.bad("its mark is of no known version"))?;
        let count = self.number()?;
        if count as usize > limits::STATE_TABLES {
            return Err(self.bad(&format!("{count} tables are more than a machine may have")));
        }
        for _ in 0..count {
            let id = self.number()?;
            let length = self.number()?;
            let name = self.bytes(length, limits::MACHINE_NAME_BYTES)?;
            let name =
                String::from_utf8(name).map_err(|_| self.bad("a table's name is no text"))?;
            if id == END || self.tables.last().is_some_and(|(last, _)| *last >= id) {
                return Err(self.bad(&format!("table {id} is out of order")));
            }
            self.tables.push((id, name));
        }
        Ok(())
    }

    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The durable tables of the machine whose state it is: ids, ascending, and names.
    pub fn tables(&self) -> &[(TableId, String)] {
        &self.tables
    }

    /// The next rows, until they exceed `max_bytes`; none at the end, when the checksum was right. A call keeps at most
    /// `max_bytes` and one row.
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
            self.check_order(table, &key)?;
            bytes += key.len() + value.len() + size_of::<SnapshotRow>();
            self.rows += 1;
            rows.push((table, key, value));
        }
        Ok(rows)
    }

    fn check_order(&mut self, table: TableId, key: &[u8]) -> Result<(), StorageError> {
        if !self.tables.iter().any(|(id, _)| *id == table) {
            return Err(self.bad(&format!("a row is of table {table}, which is not declared")));
        }
        let ascends = self
            .last
            .as_ref()
            .is_none_or(|(last, before)| (*last, before.as_slice()) < (table, key));
        if !ascends {
            return Err(self.bad("its rows are out of order"));
        }
        let last = self.last.get_or_insert_default();
        last.0 = table;
        last.1.clear();
        last.1.extend_from_slice(key);
        Ok(())
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
            return Err(self.bad(&format!("{length} bytes are more than there are, or may be")));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), StorageError> {
        self.reader.read_exact(bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => self.bad("it ends too early"),
            _ => StorageError::path(&self.path, error),
        })?;
        self.sum.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn bad(&self, reason: &str) -> StorageError {
        let file = self.path.display().to_string();
        StorageError::Corrupt { file, reason: format!("at byte {}: {reason}", self.offset) }
    }
}
