//! The thread that owns the log file.
//!
//! It takes whatever has queued up while the disk was busy and makes it one frame and one fsync (group commit).
//!
//! Invariants:
//! - Tasks are carried out in the order in which they were sent, and their callbacks run in that order, each after the
//!   fsync that covers it: openraft takes a callback for proof of everything before it.
//! - After the first error nothing is written any more, and every further task fails.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::storage::IOFlushed;
use prost::Message;

use super::types::{self, Entry, TypeConfig};
use crate::limits;
use crate::metrics::metrics;
use crate::storage::{Log, LogBatch};

/// One thing to write.
pub enum LogTask {
    Append {
        entries: Vec<Entry>,
        flushed: IOFlushed<TypeConfig>,
    },
    Vote {
        row: Bytes,
        flushed: IOFlushed<TypeConfig>,
    },
    /// Drops the entries from `from` on.
    Truncate {
        from: u64,
        flushed: IOFlushed<TypeConfig>,
    },
    Purge {
        through: u64,
        row: Bytes,
    },
}

/// A handle to the thread; it ends when the last handle is gone.
#[derive(Clone)]
pub struct LogThread {
    tasks: SyncSender<LogTask>,
    committed: Arc<Committed>,
    flushed_index: Arc<AtomicU64>,
}

/// The index that is committed and its row, until something is written that it can go with: it is not worth waking the
/// thread.
#[derive(Default)]
struct Committed(Mutex<Option<(u64, Bytes)>>);

impl Committed {
    fn note(&self, index: u64, row: Bytes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((index, row));
    }

    /// The row, if the log is as long: a log must not say that entries are committed which it lacks.
    fn take(&self, last_index: u64) -> Option<Bytes> {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.take_if(|(index, _)| *index <= last_index).map(|(_, row)| row)
    }
}

impl LogThread {
    /// Starts the thread. Join the handle to be sure that the file is closed.
    pub fn start(log: Log) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = mpsc::sync_channel(limits::LOG_TASKS);
        let flushed_index = Arc::new(AtomicU64::new(0));
        let committed = Arc::new(Committed::default());
        let writer = Writer {
            log,
            committed: committed.clone(),
            flushed_index: flushed_index.clone(),
            failure: None,
        };
        let handle =
            std::thread::Builder::new().name("log".into()).spawn(move || writer.run(&receiver))?;
        Ok((Self { tasks: sender, committed, flushed_index }, handle))
    }

    /// Queues a task. The queue is bounded, but openraft itself never has more than a few hundred appends under way.
    pub fn send(&self, task: LogTask) -> io::Result<()> {
        self.tasks
            .send(task)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the log thread has stopped"))
    }

    /// Has the row of the committed index written with whatever is written next, or at the end.
    pub fn note_committed(&self, index: u64, row: Bytes) {
        self.committed.note(index, row);
    }

    /// The highest index that this run has brought to disk.
    pub fn flushed_index(&self) -> u64 {
        self.flushed_index.load(Ordering::Acquire)
    }
}

struct Writer {
    log: Log,
    committed: Arc<Committed>,
    flushed_index: Arc<AtomicU64>,
    failure: Option<String>,
}

/// A frame in the making, and who wants to know when it is on disk.
#[derive(Default)]
struct Frame {
    batch: LogBatch,
    flushed: Vec<IOFlushed<TypeConfig>>,
    bytes: usize,
    last_index: Option<u64>,
}

impl Writer {
    fn run(mut self, tasks: &Receiver<LogTask>) {
        let mut held_back = None;
        loop {
            let mut frame = Frame::default();
            let Some(task) = held_back.take().or_else(|| tasks.recv().ok()) else { break };
            held_back = frame.add(task);
            while held_back.is_none() && frame.bytes < limits::LOG_FRAME_BYTES {
                match tasks.try_recv() {
                    Ok(task) => held_back = frame.add(task),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            let flushed_index = self.flushed_index.load(Ordering::Acquire);
            let last_index = frame.last_index.unwrap_or(flushed_index);
            frame.batch.committed = self.committed.take(last_index);
            self.write(frame);
        }
        let committed = self.committed.take(self.flushed_index.load(Ordering::Acquire));
        if committed.is_some() {
            let batch = LogBatch { committed, ..LogBatch::default() };
            self.write(Frame { batch, ..Frame::default() });
        }
    }

    fn write(&mut self, frame: Frame) {
        metrics().wal_write_bytes.add(i64::try_from(frame.bytes).unwrap_or(i64::MAX));
        let timer = metrics().wal_fsync_seconds.start_timer();
        if self.failure.is_none()
            && let Err(error) = self.log.write(&frame.batch)
        {
            tracing::error!(error = %error, "cannot write the raft log; this member stops acknowledging");
            self.failure = Some(error.to_string());
        }
        timer.observe_duration();
        if self.failure.is_none()
            && let Some(index) = frame.last_index
        {
            self.flushed_index.store(index, Ordering::Release);
        }
        for flushed in frame.flushed {
            flushed.io_completed(match &self.failure {
                None => Ok(()),
                Some(reason) => Err(io::Error::other(reason.clone())),
            });
        }
    }
}

impl Frame {
    /// Takes the task in, or gives it back when it must not share a frame with what is there already: within one
    /// frame a truncation comes first.
    fn add(&mut self, task: LogTask) -> Option<LogTask> {
        match task {
            LogTask::Append { entries, flushed } => {
                for entry in &entries {
                    let row = types::entry_to_pb(entry).encode_to_vec();
                    self.bytes += row.len();
                    self.last_index = Some(entry.log_id.index);
                    self.batch.entries.push((entry.log_id.index, row.into()));
                }
                self.flushed.push(flushed);
            }
            LogTask::Vote { row, flushed } => {
                self.batch.vote = Some(row);
                self.flushed.push(flushed);
            }
            LogTask::Truncate { from, flushed } => {
                if !self.batch.entries.is_empty() || self.batch.purge_through.is_some() {
                    return Some(LogTask::Truncate { from, flushed });
                }
                self.batch.truncate_from =
                    Some(self.batch.truncate_from.map_or(from, |earlier| earlier.min(from)));
                self.last_index = Some(from.saturating_sub(1));
                self.flushed.push(flushed);
            }
            LogTask::Purge { through, row } => {
                self.batch.purge_through = Some((through, row));
            }
        }
        None
    }
}
