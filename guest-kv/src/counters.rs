//! How many keys there are in each directory, so that counting those below a prefix does not walk over them: machine
//! 1.1, schema 2.
//!
//! A directory is a key up to and with one of its slashes: its first `LEVELS`, as far as `DIRECTORY_BYTES` go. The table
//! is durable:
//! - `0`: how far keys are counted (`Counted`). There is none before the migration begins: until then the table is
//!   empty, and a machine of schema 1 can take the rows back.
//! - `1` and a directory: how many live keys begin with it (8 bytes big-endian), unless there are none.
//!
//! The invariant, at the end of every call: the counts are those of the live keys that are counted, no others. The
//! migration counts keys in their order, so a write counts if its key is before where the migration is; what is not is
//! met by it later, as it is then.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::Progress;
use crate::revision::number;
use crate::row::corrupt;
use crate::tables::{CURRENT, DIRECTORY, Tables};

/// Whether this machine counts. The library's own tests are those of the machine that does.
pub const ENABLED: bool = cfg!(any(test, feature = "counters"));

const COUNTED_KEY: &[u8] = &[0];
const COUNT: u8 = 1;

/// Directories of one key that are counted: what a key without limits could ask for on each write.
const LEVELS: usize = 8;
const DIRECTORY_BYTES: usize = 512;

/// Keys that a step of the migration counts, and directories that it meets: some milliseconds.
const STEP_ROWS: u32 = 1000;
const STEP_DIRECTORIES: usize = 1000;

/// Directories whose counts are held in memory until they are written.
const HELD_DIRECTORIES: usize = 10_000;

/// How far keys are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Counted {
    Nothing,
    /// All keys before this one.
    Before(Vec<u8>),
    Everything,
}

impl Counted {
    fn read<T: Tables>(tables: &T) -> Self {
        if !ENABLED {
            return Counted::Nothing;
        }
        let counted = tables.get(DIRECTORY, COUNTED_KEY, |row| match row {
            [0, key @ ..] => Counted::Before(key.to_vec()),
            [1] => Counted::Everything,
            _ => corrupt("keys are counted up to nowhere"),
        });
        counted.unwrap_or(Counted::Nothing)
    }

    fn write<T: Tables>(&self, tables: &mut T) {
        match self {
            Counted::Nothing => tables.delete(DIRECTORY, COUNTED_KEY),
            Counted::Before(key) => tables.put(DIRECTORY, COUNTED_KEY, &[&[0], &key[..]].concat()),
            Counted::Everything => tables.put(DIRECTORY, COUNTED_KEY, &[1]),
        }
    }

    fn includes(&self, key: &[u8]) -> bool {
        match self {
            Counted::Nothing => false,
            Counted::Before(next) => key < next.as_slice(),
            Counted::Everything => true,
        }
    }
}

/// Keys that come to life and die in one transaction, until they are written.
#[derive(Default)]
pub struct Changes {
    /// Read with the first key that has a directory: no transaction changes it.
    counted: Option<Counted>,
    of: BTreeMap<Vec<u8>, i64>,
}

impl Changes {
    /// A key has come to life (1), or has died (-1).
    pub fn note<T: Tables>(&mut self, tables: &mut T, key: &[u8], change: i64) {
        if !ENABLED || !key.contains(&b'/') {
            return;
        }
        let counted = self.counted.get_or_insert_with(|| Counted::read(tables));
        if counted.includes(key) {
            self.add(key, change);
        }
        if self.of.len() >= HELD_DIRECTORIES {
            std::mem::take(self).write(tables);
        }
    }

    fn add(&mut self, key: &[u8], change: i64) {
        for directory in directories(key) {
            match self.of.get_mut(directory) {
                Some(sum) => *sum += change,
                None => drop(self.of.insert(directory.to_vec(), change)),
            }
        }
    }

    pub fn write<T: Tables>(self, tables: &mut T) {
        for (directory, change) in self.of.into_iter().filter(|(_, change)| *change != 0) {
            let key = row_key(&directory);
            match tables.get(DIRECTORY, &key, read_count).unwrap_or(0).checked_add_signed(change) {
                None => corrupt("a directory has fewer keys than none"),
                Some(0) => tables.delete(DIRECTORY, &key),
                Some(count) => tables.put(DIRECTORY, &key, &count.to_be_bytes()),
            }
        }
    }
}

/// How many live keys there are from `start` to `end`; none unless that is a directory, and all keys are counted.
pub fn count<T: Tables>(tables: &T, start: &[u8], end: &[u8]) -> Option<u64> {
    if !ENABLED || end_of(start)? != end || directories(start).last() != Some(start) {
        return None;
    }
    let is_known = Counted::read(tables) == Counted::Everything;
    is_known.then(|| tables.get(DIRECTORY, &row_key(start), read_count).unwrap_or(0))
}

/// One step of the migration from schema 1. It goes on from where the table says that it is.
pub fn migrate<T: Tables>(tables: &mut T) -> Progress {
    let start = match Counted::read(tables) {
        Counted::Nothing => Vec::new(),
        Counted::Before(key) => key,
        Counted::Everything => return Progress::Done,
    };
    let (mut found, mut full) = (Changes::default(), None);
    let next = tables.scan(CURRENT, &start, &[], STEP_ROWS, &mut |key, _| {
        found.add(key, 1);
        if found.of.len() < STEP_DIRECTORIES {
            return ControlFlow::Continue(());
        }
        full = Some([key, &[0]].concat());
        ControlFlow::Break(())
    });
    found.write(tables);
    match full.or(next) {
        Some(next) => {
            Counted::Before(next.clone()).write(tables);
            Progress::More(next)
        }
        None => {
            Counted::Everything.write(tables);
            Progress::Done
        }
    }
}

/// Whether a row says what the live keys say.
pub fn check_row<T: Tables>(tables: &T, key: &[u8], row: &[u8]) -> Result<(), String> {
    let counted = Counted::read(tables);
    let Some(directory) = key.strip_prefix(&[COUNT]) else {
        return match key == COUNTED_KEY {
            true => Ok(()),
            false => Err(format!("the directories have the malformed row {key:?}")),
        };
    };
    let (Some(count), Some(end)) = (number(row, 0), end_of(directory)) else {
        return Err(format!("directory {directory:?} has no number, or no slash"));
    };
    let end = match counted {
        Counted::Nothing => return Err("keys are counted before the migration".to_owned()),
        Counted::Before(key) => key.min(end),
        Counted::Everything => end,
    };
    let alive = if directory < &end[..] { tables.count(CURRENT, directory, &end) } else { 0 };
    match u64::try_from(count) == Ok(alive) && alive > 0 {
        true => Ok(()),
        false => Err(format!("directory {directory:?} has {alive} keys, and {count} are counted")),
    }
}

/// Whether a live key is counted, if it is to be.
pub fn check_key<T: Tables>(tables: &T, key: &[u8]) -> Result<(), String> {
    if !Counted::read(tables).includes(key) {
        return Ok(());
    }
    let is_there = |directory: &[u8]| tables.get(DIRECTORY, &row_key(directory), |_| ()).is_some();
    match directories(key).find(|directory| !is_there(directory)) {
        None => Ok(()),
        Some(directory) => Err(format!("{key:?} is alive, and {directory:?} is not counted")),
    }
}

fn directories(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = key.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let directories = slashes.map(|(at, _)| &key[..=at]).take(LEVELS);
    directories.take_while(|directory| directory.len() <= DIRECTORY_BYTES)
}

/// The first key behind a directory; none if it ends in no slash.
fn end_of(directory: &[u8]) -> Option<Vec<u8>> {
    let before = directory.strip_suffix(b"/")?;
    Some([before, &[b'/' + 1]].concat())
}

fn row_key(directory: &[u8]) -> Vec<u8> {
    [&[COUNT], directory].concat()
}

fn read_count(row: &[u8]) -> u64 {
    let count = number(row, 0).and_then(|count| u64::try_from(count).ok());
    count.unwrap_or_else(|| corrupt("the count of a directory is no number"))
}

#[cfg(test)]
mod tests;
