//! Random work on a log, and what must be left of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use super::disk::Disk;
use super::power_loss::{Expectation, Work};
use crate::storage::{Log, LogBatch, LogState};

/// Short ones, so that the log goes on in another one every few batches, and writes over what was purged.
const SEGMENT_BYTES: u64 = 8192;

/// What a log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogModel {
    pub entries: BTreeMap<u64, Bytes>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub purged: Option<(u64, Bytes)>,
}

impl LogModel {
    pub fn next_index(&self) -> u64 {
        let purged = self.purged.as_ref().map_or(0, |(index, _)| index + 1);
        self.entries.keys().next_back().map_or(purged, |last| last + 1)
    }

    pub fn apply(&mut self, batch: &LogBatch) {
        if let Some(from) = batch.truncate_from {
            self.entries.split_off(&from);
        }
        self.entries.extend(batch.entries.iter().cloned());
        if let Some((through, id)) = &batch.purge_through {
            self.entries = self.entries.split_off(&(through + 1));
            self.purged = Some((*through, id.clone()));
        }
        self.vote = batch.vote.clone().or(self.vote.take());
        self.committed = batch.committed.clone().or(self.committed.take());
    }

    /// What is in a file; reading it changes the file, as opening it does.
    pub fn read(disk: &Disk) -> Result<(Log, Self), String> {
        let opened = Log::open_with_segments(Path::new(""), &disk.backends(), SEGMENT_BYTES);
        let (log, state) = opened.map_err(|error| format!("it does not open: {error}"))?;
        let rows = log.reader().read(0..u64::MAX, usize::MAX).map_err(|error| error.to_string())?;
        let LogState { vote, committed, purged, last_index } = state;
        let model = Self { entries: rows.into_iter().collect(), vote, committed, purged };
        if model.entries.keys().next_back().copied() != last_index {
            return Err(format!("its last index is said to be {last_index:?}"));
        }
        Ok((log, model))
    }
}

/// A batch is whole, or was never written; which of both is open while it is being written.
#[derive(Clone)]
pub struct LogExpected {
    acknowledged: LogModel,
    in_flight: Option<LogModel>,
}

impl Expectation for LogExpected {
    fn check(&self, disk: &Disk, write_on: bool) -> Result<(), String> {
        let (mut log, mut found) = LogModel::read(disk)?;
        if found != self.acknowledged && self.in_flight.as_ref() != Some(&found) {
            let entries = |model: &LogModel| format!("{:?}", model.entries.keys());
            return Err(format!(
                "something is lost, or half there: {} instead of {}, or {:?}",
                entries(&found),
                entries(&self.acknowledged),
                self.in_flight.as_ref().map(entries)
            ));
        }
        if write_on {
            let entry = (found.next_index(), Bytes::from_static(b"after the power cut"));
            let vote = Some(Bytes::from_static(b"a vote after the power cut"));
            let batch = LogBatch { entries: vec![entry], vote, ..LogBatch::default() };
            log.write(&batch).map_err(|error| error.to_string())?;
            found.apply(&batch);
            let image = disk.current();
            drop(log);
            if LogModel::read(&Disk::holding(image))?.1 != found {
                return Err("what was written after the power cut is lost".to_owned());
            }
        }
        Ok(())
    }
}

pub struct LogWork {
    log: Log,
    model: LogModel,
    expected: Arc<Mutex<Option<LogExpected>>>,
}

impl Work for LogWork {
    type Expected = LogExpected;

    fn start(disk: &Disk, expected: Arc<Mutex<Option<LogExpected>>>) -> Self {
        let (log, model) = LogModel::read(disk).expect("a new log");
        *expected.lock().unwrap() =
            Some(LogExpected { acknowledged: model.clone(), in_flight: None });
        Self { log, model, expected }
    }

    fn step(&mut self, random: &mut StdRng) {
        let batch = random_batch(&self.model, random);
        let mut after = self.model.clone();
        after.apply(&batch);
        self.expect(Some(after.clone()));
        self.log.write(&batch).expect("the disk works");
        self.model = after;
        self.expect(None);
    }
}

impl LogWork {
    fn expect(&self, in_flight: Option<LogModel>) {
        let acknowledged = self.model.clone();
        *self.expected.lock().unwrap() = Some(LogExpected { acknowledged, in_flight });
    }
}

fn bytes(random: &mut StdRng) -> Bytes {
    let length = match random.random_range(0..20) {
        0 => random.random_range(0..60_000),
        1 => 0,
        _ => random.random_range(0..700),
    };
    let mut bytes = vec![0; length];
    random.fill(bytes.as_mut_slice());
    bytes.into()
}

/// What raft may ask for: no holes, and nothing that was purged.
pub fn random_batch(model: &LogModel, random: &mut StdRng) -> LogBatch {
    let mut batch = LogBatch::default();
    let mut after = model.clone();
    let first = after.purged.as_ref().map_or(0, |(index, _)| index + 1);
    if random.random_bool(0.15) {
        let from = random.random_range(first..=after.next_index());
        batch.truncate_from = Some(from);
        after.entries.split_off(&from);
    }
    if random.random_bool(0.8) {
        for _ in 0..random.random_range(1..30) {
            let entry = (after.next_index(), bytes(random));
            after.entries.insert(entry.0, entry.1.clone());
            batch.entries.push(entry);
        }
    }
    if random.random_bool(0.2) && after.next_index() > first {
        let through = random.random_range(first..after.next_index());
        batch.purge_through = Some((through, bytes(random)));
    } else if random.random_bool(0.03) {
        // A snapshot has been installed that is ahead of the log.
        batch.purge_through = Some((after.next_index() + 10, bytes(random)));
    }
    batch.vote = random.random_bool(0.2).then(|| bytes(random));
    batch.committed = random.random_bool(0.5).then(|| bytes(random));
    batch
}
