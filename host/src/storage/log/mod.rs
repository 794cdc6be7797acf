//! The file of the raft log. Its rows are opaque here: raft encodes them.
//!
//! ```text
//! file:     header | segment | segment | …            a segment begins with a head of one sector
//! segment:  head | frame | frame | … | zeros, or older frames
//! frame:    head | records, one batch                 numbered through, over all segments
//! ```
//!
//! One batch is one frame, one write and one fsync: when `write` returns, everything in it is on disk, and before that
//! none of it counts. Segments whose entries are all purged are written over again.
//!
//! - Sectors that hold what is acknowledged are not written again before it is purged.
//! - Whoever purges must know that the state on disk (`State::persist`) covers what is purged: nothing here can tell.

mod batch;
mod index;
mod layout;
mod record;
mod recovery;
mod segments;

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use redb::StorageBackend;

pub use self::batch::LogBatch;
use self::batch::Meta;
use self::index::{Gap, Index, Row};
use self::layout::{Extent, FRAME_HEAD_BYTES, FileHeader, frame_bytes};
use self::record::Record;
use self::segments::Segments;
use super::{Backends, StorageError};
use crate::limits;
use crate::metrics::metrics;

pub(super) const FILE: &str = "log.wal";
/// What the file begins with.
pub(super) const MAGIC: &[u8; 8] = layout::FILE_MAGIC;

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
    shared: Arc<Shared>,
    header: FileHeader,
    segments: Segments,
    meta: Meta,
    /// Of the last frame.
    sequence: u64,
    /// A frame in the making, kept for its memory.
    buffer: Vec<u8>,
    failure: Option<StorageError>,
}

struct Shared {
    file: Box<dyn StorageBackend>,
    index: Mutex<Index>,
}

/// Reads the log beside its writer.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

fn failed(error: impl std::fmt::Display) -> StorageError {
    StorageError::io(FILE, error)
}

fn corrupt(reason: impl std::fmt::Display) -> StorageError {
    StorageError::corrupt(FILE, reason)
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "entry {} follows where entry {} should be", self.index, self.expected)
    }
}

impl Log {
    /// Opens the log in a directory, or makes a new one. Opening writes nothing.
    pub fn open(directory: &Path, backends: &Backends) -> Result<(Self, LogState), StorageError> {
        Self::open_with_segments(directory, backends, limits::LOG_SEGMENT_BYTES)
    }

    /// The same, with the length that the segments of a new log have: a multiple of a sector.
    pub(super) fn open_with_segments(
        directory: &Path,
        backends: &Backends,
        segment_bytes: u64,
    ) -> Result<(Self, LogState), StorageError> {
        let path = directory.join(FILE);
        let file = backends(&path).map_err(|error| StorageError::path(&path, error))?;
        if file.len().map_err(failed)? == 0 {
            let header = FileHeader { segment_bytes, salt: rand::random() };
            file.write(0, &header.encode()).map_err(failed)?;
        }
        let recovered = recovery::recover(&*file)?;
        // What a process that was killed had written, and not yet synced, counts from now on.
        file.sync_data().map_err(failed)?;
        let state = LogState {
            vote: recovered.meta.vote.clone(),
            committed: recovered.meta.committed.clone(),
            purged: recovered.meta.purged.clone(),
            last_index: recovered.index.last_index(),
        };
        let log = Self {
            shared: Arc::new(Shared { file, index: Mutex::new(recovered.index) }),
            header: recovered.header,
            segments: recovered.segments,
            meta: recovered.meta,
            sequence: recovered.sequence,
            buffer: Vec::new(),
            failure: None,
        };
        Ok((log, state))
    }

    pub fn reader(&self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    /// Carries a batch out and brings it to disk. After a failure every further call fails in the same way.
    pub fn write(&mut self, batch: &LogBatch) -> Result<(), StorageError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let result = self.try_write(batch);
        self.failure = result.as_ref().err().cloned();
        result
    }

    fn try_write(&mut self, batch: &LogBatch) -> Result<(), StorageError> {
        self.shared.index().check(batch.truncate_from, &batch.entries).map_err(corrupt)?;
        let mut frame = std::mem::take(&mut self.buffer);
        frame.clear();
        frame.resize(FRAME_HEAD_BYTES, 0);
        let mut payload_bytes = batch.records().map(|record| record.bytes()).sum::<usize>();
        if !self.segments.has_room(frame_bytes(payload_bytes)) {
            self.encode_start(&mut frame);
            payload_bytes += frame.len() - FRAME_HEAD_BYTES;
            self.begin_segment(frame_bytes(payload_bytes))?;
        }
        let rows = encode(batch, &mut frame, self.segments.position());
        let head = self.header.encode_frame(self.sequence + 1, &frame[FRAME_HEAD_BYTES..]);
        frame[..FRAME_HEAD_BYTES].copy_from_slice(&head);
        frame.resize(frame_bytes(payload_bytes) as usize, 0);

        let timer = metrics().works.wal_write_seconds.start_timer();
        self.shared.file.write(self.segments.position(), &frame).map_err(failed)?;
        timer.observe_duration();
        self.shared.file.sync_data().map_err(failed)?;
        self.sequence += 1;
        self.segments.wrote(frame.len() as u64, batch.entries.last().map(|(index, _)| *index));
        if frame.capacity() <= limits::LOG_BUFFER_BYTES {
            self.buffer = frame;
        }
        self.take_over(batch, &rows)
    }

    /// What a segment says first: all that must not be lost with the segments before it.
    fn encode_start(&self, frame: &mut Vec<u8>) {
        let next_index = self.shared.index().next_index();
        let start = Record::Start { next_index };
        std::iter::once(start).chain(self.meta.records()).for_each(|record| record.encode(frame));
    }

    /// Goes on in another segment, one with room for a frame of so many bytes.
    fn begin_segment(&mut self, frame_bytes: u64) -> Result<(), StorageError> {
        let extent = match self.segments.take_free(frame_bytes) {
            Some(extent) => extent,
            None => self.grow(frame_bytes)?,
        };
        self.segments.begin(extent);
        Ok(())
    }

    /// The head of a new segment is written when all of the segment is on disk: a file that is shorter than its heads
    /// say has been cut.
    fn grow(&mut self, frame_bytes: u64) -> Result<Extent, StorageError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let file = &self.shared.file;
        let extent = self.segments.behind_end(self.header.segment_bytes, frame_bytes);
        let mut offset = extent.offset;
        while offset < extent.end() {
            let bytes = (extent.end() - offset).min(ZEROS.len() as u64);
            file.write(offset, &ZEROS[..bytes as usize]).map_err(failed)?;
            offset += bytes;
        }
        file.sync_data().map_err(failed)?;
        file.write(extent.offset, &self.header.encode_segment(extent)).map_err(failed)?;
        self.segments.grew(extent);
        Ok(extent)
    }

    /// Notes what is on disk now. Only from here on may segments be written over that it makes superfluous.
    fn take_over(&mut self, batch: &LogBatch, rows: &[(u64, Row)]) -> Result<(), StorageError> {
        batch.records().for_each(|record| self.meta.note(&record));
        let mut index = self.shared.index();
        if let Some(from) = batch.truncate_from {
            index.truncate(from);
        }
        for (entry, row) in rows {
            index.append(*entry, *row).map_err(corrupt)?;
        }
        let Some((through, _)) = batch.purge_through else { return Ok(()) };
        index.purge(through);
        drop(index);
        self.segments.release(Some(through));
        match self.segments.cut() {
            Some(end) => self.shared.file.set_len(end).map_err(failed),
            None => Ok(()),
        }
    }
}

/// Puts a batch behind what is in the frame, which will be at `position`; says where its rows are then.
fn encode(batch: &LogBatch, frame: &mut Vec<u8>, position: u64) -> Vec<(u64, Row)> {
    let mut rows = Vec::with_capacity(batch.entries.len());
    for record in batch.records() {
        record.encode(frame);
        if let Record::Entry { index, row } = record {
            let offset = position + (frame.len() - row.len()) as u64;
            rows.push((index, Row::new(offset, row)));
        }
    }
    rows
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, row: Row) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; row.bytes as usize];
        self.file.read(row.offset, &mut bytes).map_err(failed)?;
        Ok(bytes.into())
    }
}

impl LogReader {
    /// The rows of a range of indices, until `max_bytes` are reached; at least one if the range has any.
    pub fn read(
        &self,
        range: Range<u64>,
        max_bytes: usize,
    ) -> Result<Vec<(u64, Bytes)>, StorageError> {
        let found = self.shared.index().rows(range, max_bytes);
        let mut rows = Vec::with_capacity(found.len());
        for (index, row) in found {
            let bytes = self.shared.read(row)?;
            if row.is(&bytes) {
                rows.push((index, bytes));
            } else if self.shared.index().has(index) {
                return Err(corrupt(format!("entry {index} is not what was written")));
            } else {
                // It was purged meanwhile, and its segment is being written over. So were those before it.
                rows.clear();
            }
        }
        Ok(rows)
    }
}
