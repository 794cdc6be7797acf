//! The log as its readers see it.

use std::path::Path;

use bytes::Bytes;

use super::disk::Disk;
use crate::limits::LOG_FREE_SEGMENTS;
use crate::storage::{Log, LogBatch};

fn entries(indices: std::ops::Range<u64>) -> Vec<(u64, Bytes)> {
    indices.map(|index| (index, Bytes::from(index.to_string()))).collect()
}

/// Whatever was purged, readers see what is left, and so does who opens the log again.
#[test]
fn purged_entries_are_gone_and_the_others_are_not() {
    let disk = Disk::default();
    let open = |disk: &Disk| Log::open(Path::new(""), &disk.backends()).expect("a log");
    let (mut log, _) = open(&disk);
    log.write(&LogBatch { entries: entries(1..6_011), ..LogBatch::default() }).unwrap();
    let reader = log.reader();
    let purge_through = Some((6_000, Bytes::from_static(b"id")));
    log.write(&LogBatch { purge_through: purge_through.clone(), ..LogBatch::default() }).unwrap();
    let rest = entries(6_001..6_011);
    assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), rest);
    assert_eq!(reader.read(0..6_000, usize::MAX).unwrap(), []);

    drop((log, reader));
    let (mut log, state) = open(&disk);
    assert_eq!((state.purged, state.last_index), (purge_through, Some(6_010)));
    let reader = log.reader();
    assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), rest);

    // A purge ahead of the log, as after a snapshot.
    let purge_through = Some((12_000, Bytes::new()));
    log.write(&LogBatch { purge_through, ..LogBatch::default() }).unwrap();
    assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), []);
    let appended = entries(12_001..12_003);
    log.write(&LogBatch { entries: appended.clone(), ..LogBatch::default() }).unwrap();
    assert_eq!(reader.read(0..u64::MAX, usize::MAX).unwrap(), appended);
    drop((log, reader));
    assert_eq!(open(&disk).1.last_index, Some(12_002));
}

/// A log that is purged as it grows takes a few segments, however much is written to it; one that was long for once is
/// cut again.
#[test]
fn the_file_does_not_grow_with_what_was_purged() {
    const SEGMENT_BYTES: u64 = 64 << 10;
    let disk = Disk::default();
    let (mut log, _) =
        Log::open_with_segments(Path::new(""), &disk.backends(), SEGMENT_BYTES).expect("a log");
    let mut index = 0u64;
    let mut append = |log: &mut Log, kept: u64| {
        let row = |index| (index, Bytes::from(vec![index as u8; 1000]));
        let entries = (index..index + 50).map(row).collect();
        index += 50;
        let purge_through = index.checked_sub(kept + 1).map(|index| (index, Bytes::new()));
        log.write(&LogBatch { entries, purge_through, ..LogBatch::default() }).unwrap();
    };
    for _ in 0..500 {
        append(&mut log, 100);
    }
    let steady = disk.current().len() as u64;
    assert!(steady <= 6 * SEGMENT_BYTES, "{steady} bytes");
    for _ in 0..500 {
        append(&mut log, u64::MAX - 1);
    }
    assert!(disk.current().len() as u64 > 500 * 50_000);
    for _ in 0..500 {
        append(&mut log, 100);
    }
    let cut = disk.current().len() as u64;
    assert!(cut <= (LOG_FREE_SEGMENTS as u64 + 6) * SEGMENT_BYTES, "{cut} bytes");
}

/// Not a torn end but damage: what follows a damaged frame was acknowledged, and must not be dropped in silence.
#[test]
fn damage_before_the_end_is_refused() {
    const SEGMENT_BYTES: u64 = 8 << 10;
    let disk = Disk::default();
    let open =
        |disk: &Disk| Log::open_with_segments(Path::new(""), &disk.backends(), SEGMENT_BYTES);
    let (mut log, _) = open(&disk).expect("a log");
    for index in 0..60 {
        let vote = (index == 3).then(|| Bytes::from_static(b"a vote"));
        let entries = vec![(index, Bytes::from(vec![7; 700]))];
        log.write(&LogBatch { entries, vote, ..LogBatch::default() }).unwrap();
    }
    drop(log);
    let whole = disk.current();
    let used = whole.len() - whole.iter().rev().take_while(|byte| **byte == 0).count();
    let last_frame = used.next_multiple_of(512) - 1024;
    let mut refused = 0;
    for sector in (0..last_frame).step_by(512) {
        let mut damaged = whole.clone();
        damaged[sector..sector + 512].fill(0x55);
        match open(&Disk::holding(damaged)) {
            Err(error) => {
                assert!(error.to_string().contains("is damaged"), "{error}");
                refused += 1;
            }
            // The header's room, and what is left at a segment's end.
            Ok((_, state)) => assert_eq!(state.last_index, Some(59), "sector {sector}"),
        }
    }
    assert!(refused > 100, "{refused} sectors were found damaged");
    let mut torn = whole.clone();
    torn[last_frame + 512] ^= 1;
    let (_, state) = open(&Disk::holding(torn)).expect("the last frame may be torn");
    assert_eq!(state.last_index, Some(58));
}

/// What clients store may look like the log itself.
#[test]
fn rows_that_look_like_frames_are_rows() {
    let disk = Disk::default();
    let (mut log, _) = Log::open(Path::new(""), &disk.backends()).expect("a log");
    log.write(&LogBatch { entries: entries(0..3), ..LogBatch::default() }).unwrap();
    let image = Bytes::from(disk.current()[..16 << 10].to_vec());
    for index in 3..6 {
        let entries = vec![(index, image.clone())];
        log.write(&LogBatch { entries, ..LogBatch::default() }).unwrap();
    }
    drop(log);
    let (log, state) = Log::open(Path::new(""), &disk.backends()).expect("it opens");
    assert_eq!(state.last_index, Some(5));
    assert_eq!(log.reader().read(4..5, usize::MAX).unwrap(), [(4, image)]);
}

#[test]
fn entries_with_a_gap_are_refused() {
    let disk = Disk::default();
    let (mut log, _) = Log::open(Path::new(""), &disk.backends()).expect("a log");
    log.write(&LogBatch { entries: entries(0..3), ..LogBatch::default() }).unwrap();
    let gap = LogBatch { entries: entries(4..5), ..LogBatch::default() };
    let error = log.write(&gap).expect_err("entry 3 is missing");
    assert!(error.to_string().contains("entry 4 follows where entry 3 should be"), "{error}");
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
