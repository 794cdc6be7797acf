//! The raft log as openraft sees it.
//!
//! Writes go to the log thread in the order they are made, and only the log thread talks to the disk. What has been
//! appended can be read at once, from the tail kept here in memory; the callback that lets it count follows when it is
//! on disk (`log_thread`).
//!
//! Invariants:
//! - The tail is contiguous, and holds every entry that is not on disk yet.
//! - A vote and a truncation have returned only when they are on disk.
//! - Nothing is purged that the state on disk does not cover: the snapshot that openraft purges for is taken from
//!   state that was made durable first (`state_machine`), and `purge` checks it again.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::{LogState, OptionalSend, RaftLogReader};
use prost::Message;

use super::log_thread::{LogTask, LogThread};
use super::types::{self, Entry, LogId, TypeConfig, Vote};
use crate::limits;
use crate::storage::LogReader;

/// What the log held when it was opened.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    pub vote: Option<Vote>,
    pub committed: Option<LogId>,
    pub last_purged: Option<LogId>,
    pub last: Option<LogId>,
}

/// The handle that openraft writes through and reads from. Clones are further readers.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    thread: LogThread,
    disk: LogReader,
    tail: Mutex<Tail>,
    /// Up to which index the state on disk covers the log; written by the apply thread.
    durable_applied_index: Arc<AtomicU64>,
}

#[derive(Default)]
struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    vote: Option<Vote>,
    committed: Option<LogId>,
    last_purged: Option<LogId>,
    last: Option<LogId>,
    /// The highest index that is known to be on disk. Only entries up to it may leave the tail.
    flushed_index: u64,
}

impl LogStore {
    pub fn new(
        thread: LogThread,
        disk: LogReader,
        recovered: Recovered,
        durable_applied_index: Arc<AtomicU64>,
    ) -> Self {
        let tail = Tail {
            vote: recovered.vote,
            committed: recovered.committed,
            last_purged: recovered.last_purged,
            last: recovered.last,
            flushed_index: recovered.last.map_or(0, |log_id| log_id.index),
            ..Tail::default()
        };
        Self {
            shared: Arc::new(Shared {
                thread,
                disk,
                tail: Mutex::new(tail),
                durable_applied_index,
            }),
        }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a task to the log thread and waits until it is on disk.
    async fn write_through(
        &self,
        make: impl FnOnce(IOFlushed<TypeConfig>) -> LogTask,
    ) -> io::Result<()> {
        let (flushed, on_disk) = TypeConfig::oneshot();
        self.shared.thread.send(make(IOFlushed::signal(flushed)))?;
        on_disk.await.map_err(|_| stopped())?
    }

    /// The entries of `start..end`, until `max_bytes` are exceeded; at least one if the range has any.
    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let tail_start = self.tail().first_index();
        if start >= tail_start {
            return Ok(self.tail().read(start, end, max_bytes));
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        let rows = self
            .shared
            .disk
            .read(start..end.min(tail_start), max_bytes)
            .map_err(io::Error::other)?;
        for (index, row) in rows {
            bytes += row.len();
            entries.push(decode(index, row)?);
        }
        let next = entries.last().map_or(start, |entry: &Entry| entry.log_id.index + 1);
        if next == tail_start && bytes < max_bytes {
            entries.extend(self.tail().read(next, end, max_bytes - bytes));
        }
        Ok(entries)
    }
}

impl Tail {
    /// The index of the first entry held, or the one that the next entry will have.
    fn first_index(&self) -> u64 {
        match self.entries.front() {
            Some(entry) => entry.log_id.index,
            None => self.last.map_or(0, |log_id| log_id.index + 1),
        }
    }

    fn read(&self, start: u64, end: u64, max_bytes: usize) -> Vec<Entry> {
        let first = self.first_index();
        let mut bytes = 0;
        let skip = start.saturating_sub(first) as usize;
        let count = end.saturating_sub(start) as usize;
        let within_budget = |entry: &&Entry| {
            let admitted = bytes < max_bytes;
            bytes += size(entry);
            admitted
        };
        self.entries.iter().skip(skip).take(count).take_while(within_budget).cloned().collect()
    }

    fn append(&mut self, entry: Entry) {
        self.bytes += size(&entry);
        self.last = Some(entry.log_id);
        self.entries.push_back(entry);
    }

    /// Lets go of the oldest entries that are on disk, down to the limit.
    fn shrink(&mut self) {
        while self.bytes > limits::LOG_TAIL_BYTES {
            let Some(entry) = self.entries.front() else { return };
            if entry.log_id.index > self.flushed_index {
                return;
            }
            self.bytes -= size(entry);
            self.entries.pop_front();
        }
    }

    fn truncate_after(&mut self, last: Option<LogId>) {
        let keep_through = last.map(|log_id| log_id.index);
        while self.entries.back().is_some_and(|entry| Some(entry.log_id.index) > keep_through) {
            if let Some(entry) = self.entries.pop_back() {
                self.bytes -= size(&entry);
            }
        }
        self.last = last;
        self.flushed_index = self.flushed_index.min(keep_through.unwrap_or(0));
    }

    fn purge(&mut self, through: LogId) {
        while self.entries.front().is_some_and(|entry| entry.log_id.index <= through.index) {
            if let Some(entry) = self.entries.pop_front() {
                self.bytes -= size(&entry);
            }
        }
        self.last_purged = Some(through);
        if self.last.is_none_or(|last| last.index < through.index) {
            self.last = Some(through);
        }
    }
}

/// What an entry counts for in memory and on the wire: its request, and about as much as everything else takes.
fn size(entry: &Entry) -> usize {
    const REST_BYTES: usize = 96;
    match &entry.payload {
        EntryPayload::Normal(command) => REST_BYTES + command.request.len(),
        _ => REST_BYTES,
    }
}

fn decode(index: u64, row: Bytes) -> io::Result<Entry> {
    let bad = |error: types::DecodeError| {
        io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} of the raft log {error}"))
    };
    let entry = proto::instar::log::Entry::decode(row).map_err(|error| bad(error.into()))?;
    types::entry_from_pb(entry).map_err(bad)
}

/// The first index of a range, and the one behind its last.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index + 1,
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the log thread has stopped")
}

impl RaftLogReader<TypeConfig> for LogStore {
    /// In bounded portions: what a restarted member has to apply again need not fit into memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let portions =
            stream::unfold((self.clone(), bounds(&range)), |(store, (start, end))| async move {
                let portion = match store.read(start, end, limits::APPEND_REQUEST_BYTES) {
                    Ok(entries) if entries.is_empty() => return None,
                    Ok(entries) => entries,
                    Err(error) => return Some((vec![Err(error)], (store, (end, end)))),
                };
                let next = portion.last().map_or(end, |entry| entry.log_id.index + 1);
                Some((portion.into_iter().map(Ok).collect(), (store, (next, end))))
            });
        Box::pin(portions.flat_map(stream::iter))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, limits::APPEND_REQUEST_BYTES)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.tail().vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.last_purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let row = Bytes::from(types::vote_to_pb(vote).encode_to_vec());
        self.write_through(|flushed| LogTask::Vote { row, flushed }).await?;
        self.tail().vote = Some(*vote);
        Ok(())
    }

    /// Not worth an fsync of its own: it goes to disk with what is written next.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        self.tail().committed = Some(committed);
        let row = Bytes::from(types::log_id_to_pb(&committed).encode_to_vec());
        self.shared.thread.note_committed(committed.index, row);
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.tail().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut tail = self.tail();
            for entry in &entries {
                tail.append(entry.clone());
            }
            tail.flushed_index = tail.flushed_index.max(self.shared.thread.flushed_index());
            tail.shrink();
        }
        self.shared.thread.send(LogTask::Append { entries, flushed: callback })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.tail().truncate_after(last_log_id);
        let from = last_log_id.map_or(0, |log_id| log_id.index() + 1);
        self.write_through(|flushed| LogTask::Truncate { from, flushed }).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let durable = self.shared.durable_applied_index.load(Ordering::Acquire);
        if log_id.index > durable {
            return Err(io::Error::other(format!(
                "refusing to purge the raft log through {}: the state on disk ends at {durable}",
                log_id.index
            )));
        }
        self.tail().purge(log_id);
        let row = Bytes::from(types::log_id_to_pb(&log_id).encode_to_vec());
        self.shared.thread.send(LogTask::Purge { through: log_id.index, row })
    }
}

/// The log id of a row, for recovery.
pub fn log_id_of_row(index: u64, row: Bytes) -> io::Result<LogId> {
    decode(index, row).map(|entry| entry.log_id())
}
