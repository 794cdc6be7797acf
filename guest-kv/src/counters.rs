//! How many keys there are in each directory, so that counting those below a prefix does not walk over them: machine
//! 1.1, schema 2.
//!
//! A key's directory is the key up to and with its last slash; a key without one is in the empty directory. The table
//! is durable:
//! - `0`: how far the directories are counted (`Counted`). There is none before the migration begins: until then the
//!   rows are those of schema 1, and a machine of schema 1 can take them back.
//! - `1` and a directory: how many live keys are directly in it (8 bytes big-endian), unless there are none.
//!
//! While the migration goes on, in the order of keys, a write counts if its key is behind where the migration is: what
//! is before it will be met by it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use crate::Progress;
use crate::revision::number;
use crate::row::corrupt;
use crate::tables::{CURRENT, DIRECTORY, Tables, scan_all};

const COUNTED_KEY: &[u8] = &[0];
const COUNT: u8 = 1;

/// Keys that a step of the migration counts: some milliseconds.
const STEP_ROWS: u32 = 2000;
const PAGE_ROWS: u32 = 1000;

/// How far the directories are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Counted {
    /// All keys before this one.
    Before(Vec<u8>),
    Everything,
}

impl Counted {
    fn read<T: Tables>(tables: &T) -> Option<Self> {
        tables.get(DIRECTORY, COUNTED_KEY, |row| match row {
            [0, key @ ..] => Counted::Before(key.to_vec()),
            [1] => Counted::Everything,
            _ => corrupt("the directories are counted up to nowhere"),
        })
    }

    fn write<T: Tables>(&self, tables: &mut T) {
        match self {
            Counted::Before(key) => tables.put(DIRECTORY, COUNTED_KEY, &[&[0], &key[..]].concat()),
            Counted::Everything => tables.put(DIRECTORY, COUNTED_KEY, &[1]),
        }
    }

    fn includes(&self, key: &[u8]) -> bool {
        match self {
            Counted::Before(next) => key < next.as_slice(),
            Counted::Everything => true,
        }
    }
}

/// A key has come to life, or has died.
pub fn note<T: Tables>(tables: &mut T, key: &[u8], change: i64) {
    if Counted::read(tables).is_some_and(|counted| counted.includes(key)) {
        add(tables, directory(key), change);
    }
}

/// How many live keys begin with a prefix that ends in a slash; none if it has to be counted otherwise.
pub fn count<T: Tables>(tables: &T, start: &[u8], end: &[u8]) -> Option<u64> {
    let (last, before) = start.split_last()?;
    let is_prefix = *last == b'/' && end.split_last() == Some((&(b'/' + 1), before));
    if !is_prefix || Counted::read(tables)? != Counted::Everything {
        return None;
    }
    Some(sum(tables, &row_key(start), &row_key(end)))
}

/// One step of the migration from schema 1, which goes on from where the table says that it is.
pub fn migrate<T: Tables>(tables: &mut T) -> Progress {
    let start = match Counted::read(tables) {
        None => Vec::new(),
        Some(Counted::Before(key)) => key,
        Some(Counted::Everything) => return Progress::Done,
    };
    let mut found = BTreeMap::<Vec<u8>, i64>::new();
    let next = tables.scan(CURRENT, &start, &[], STEP_ROWS, &mut |key, _| {
        *found.entry(directory(key).to_vec()).or_default() += 1;
        ControlFlow::Continue(())
    });
    for (directory, keys) in found {
        add(tables, &directory, keys);
    }
    match next {
        Some(key) => {
            Counted::Before(key.clone()).write(tables);
            Progress::More(key)
        }
        None => {
            Counted::Everything.write(tables);
            Progress::Done
        }
    }
}

/// Whether the counts add up to the keys that are there.
pub fn check<T: Tables>(tables: &T) -> Result<(), String> {
    let end = match Counted::read(tables) {
        None => return Ok(()),
        Some(Counted::Everything) => Vec::new(),
        Some(Counted::Before(key)) => key,
    };
    let (counted, alive) = (sum(tables, &[COUNT], &[]), tables.count(CURRENT, &[], &end));
    match counted == alive {
        true => Ok(()),
        false => Err(format!("the directories have {counted} keys, and {alive} are alive")),
    }
}

fn directory(key: &[u8]) -> &[u8] {
    let slash = key.iter().rposition(|byte| *byte == b'/');
    slash.map_or(&[], |slash| &key[..=slash])
}

fn row_key(directory: &[u8]) -> Vec<u8> {
    [&[COUNT], directory].concat()
}

fn read_count(row: &[u8]) -> i64 {
    number(row, 0).unwrap_or_else(|| corrupt("the count of a directory is no number"))
}

fn sum<T: Tables>(tables: &T, start: &[u8], end: &[u8]) -> u64 {
    let mut sum = 0;
    let _ = scan_all(tables, DIRECTORY, start, end, PAGE_ROWS, &mut |_, row| {
        sum += read_count(row);
        ControlFlow::Continue(())
    });
    sum.unsigned_abs()
}

fn add<T: Tables>(tables: &mut T, directory: &[u8], change: i64) {
    let key = row_key(directory);
    let before = tables.get(DIRECTORY, &key, read_count).unwrap_or(0);
    match before + change {
        0 => tables.delete(DIRECTORY, &key),
        after if after > 0 => tables.put(DIRECTORY, &key, &after.to_be_bytes()),
        _ => corrupt("a directory has fewer keys than none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryTables;

    fn live(keys: &[&str]) -> MemoryTables {
        let mut tables = MemoryTables::with_page_rows(3);
        for key in keys {
            tables.put(CURRENT, key.as_bytes(), &[0; 33]);
        }
        tables
    }

    fn migrated(mut tables: MemoryTables) -> MemoryTables {
        while migrate(&mut tables) != Progress::Done {}
        tables
    }

    #[test]
    fn a_prefix_has_the_keys_of_its_directories() {
        let tables = migrated(live(&["/a", "/a/1", "/a/2", "/a/b/1", "/ab/1", "/a0", "top"]));
        assert_eq!(count(&tables, b"/a/", b"/a0"), Some(3));
        assert_eq!(count(&tables, b"/", b"0"), Some(6));
        assert_eq!(count(&tables, b"/none/", b"/none0"), Some(0));
        for (start, end) in [(&b"/a"[..], &b"/b"[..]), (b"/a/", b"/a1"), (b"", b"0"), (b"/", b"")] {
            assert_eq!(count(&tables, start, end), None, "{start:?} to {end:?} is no directory");
        }
        assert_eq!(check(&tables), Ok(()));
    }

    #[test]
    fn nothing_counts_before_the_migration() {
        let mut tables = live(&["/a/1"]);
        note(&mut tables, b"/a/1", 1);
        assert_eq!(count(&tables, b"/a/", b"/a0"), None);
        assert_eq!(tables.count(DIRECTORY, &[], &[]), 0);
    }

    /// Keys come and go on either side of where the migration is.
    #[test]
    fn what_is_written_during_the_migration_is_counted_once() {
        let keys: Vec<String> = (0..20).map(|number| format!("/d{}/{number:02}", number % 3)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut tables = live(&keys);
        let mut steps = 0;
        while migrate(&mut tables) != Progress::Done {
            steps += 1;
            for (key, change) in [(format!("/d0/x{steps}"), 1), (format!("/d2/x{steps}"), 1)] {
                tables.put(CURRENT, key.as_bytes(), &[0; 33]);
                note(&mut tables, key.as_bytes(), change);
            }
            let gone = keys[steps];
            tables.delete(CURRENT, gone.as_bytes());
            note(&mut tables, gone.as_bytes(), -1);
            assert_eq!(check(&tables), Ok(()), "after step {steps}");
        }
        assert!(steps > 3);
        for directory in 0..3 {
            let (start, end) = (format!("/d{directory}/"), format!("/d{directory}0"));
            let alive = tables.count(CURRENT, start.as_bytes(), end.as_bytes());
            assert_eq!(count(&tables, start.as_bytes(), end.as_bytes()), Some(alive));
        }
    }
}
