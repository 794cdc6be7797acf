//! The log as its readers see it.

use std::path::Path;

use bytes::Bytes;

use super::disk::Disk;
use crate::limits::LOG_REMOVED_ROWS;
use crate::storage::{Log, LogBatch};

fn entries(indices: std::ops::Range<u64>) -> Vec<(u64, Bytes)> {
    indices.map(|index| (index, Bytes::from(index.to_string()))).collect()
}

/// What is purged is gone at once, however long its removal takes.
#[test]
fn purged_entries_are_not_seen_before_they_are_removed() {
    let disk = Disk::default();
    let open = |disk: &Disk| Log::open(Path::new(""), &disk.backends()).expect("a log");
    let (mut log, _) = open(&disk);
    let most = LOG_REMOVED_ROWS as u64;
    let last = 3 * most + 10;
    log.write(&LogBatch { entries: entries(1..last + 1), ..LogBatch::default() }).unwrap();
    let reader = log.reader();
    let purge_through = Some((3 * most, Bytes::from_static(b"id")));
    log.write(&LogBatch { purge_through: purge_through.clone(), ..LogBatch::default() }).unwrap();
    let rest = entries(3 * most + 1..last + 1);
    assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), rest);
    assert_eq!(reader.read(0..3 * most, usize::MAX).unwrap(), []);

    // Opened again, it goes on removing, and shows the same.
    drop((log, reader));
    let (mut log, state) = open(&disk);
    assert_eq!((state.purged, state.last_index), (purge_through, Some(last)));
    let reader = log.reader();
    for _ in 0..4 {
        log.write(&LogBatch { vote: Some(Bytes::new()), ..LogBatch::default() }).unwrap();
        assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), rest);
    }

    // A purge ahead of the log, as after a snapshot: the rows before it are no entries any more.
    let purge_through = Some((2 * last, Bytes::new()));
    log.write(&LogBatch { purge_through, ..LogBatch::default() }).unwrap();
    assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), []);
    let appended = entries(2 * last + 1..2 * last + 3);
    log.write(&LogBatch { entries: appended.clone(), ..LogBatch::default() }).unwrap();
    assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), appended);
    drop((log, reader));
    assert_eq!(open(&disk).1.last_index, Some(2 * last + 2));
}

#[test]
fn a_reader_stops_at_its_bytes_but_not_before_the_first_row() {
    let disk = Disk::default();
    let (mut log, _) = Log::open(Path::new(""), &disk.backends()).expect("a log");
    log.write(&LogBatch { entries: entries(10..100), ..LogBatch::default() }).unwrap();
    let read = |from, to, bytes| {
        let rows = log.reader().read(from..to, bytes).unwrap();
        rows.into_iter().map(|(index, _)| index).collect::<Vec<_>>()
    };
    assert_eq!(read(20, 90, 0), [20]);
    assert_eq!(read(20, 90, 6), [20, 21, 22]);
    assert_eq!(read(20, 23, 1000), [20, 21, 22]);
    assert!(read(30, 20, 1000).is_empty());
    assert!(read(100, u64::MAX, 1000).is_empty());
}
