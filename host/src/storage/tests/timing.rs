//! What the storage costs, printed. Run by hand:
//! `cargo test --release -p host --lib -- storage::tests::timing --ignored --nocapture --test-threads 1`

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::{INDEX, ROWS, mark, specs};
use crate::storage::{Log, LogBatch, State, Tables, files};

/// etcd's revision key: eight bytes, a separator, eight bytes.
fn revision_key(revision: u64) -> [u8; 17] {
    let mut key = [0; 17];
    key[..8].copy_from_slice(&revision.to_be_bytes());
    key[8] = b'_';
    key
}

fn filled(directory: &std::path::Path, rows: u64) -> State {
    let mut state = State::open(directory, &files(), &specs()).expect("a state");
    for first in (0..rows).step_by(1000) {
        let mut overlay = state.overlay();
        for revision in first..(first + 1000).min(rows) {
            overlay.put(ROWS, &revision_key(revision), &[7; 300]).expect("a table");
        }
        state.commit(overlay.into_writes(), mark(first)).expect("a commit");
    }
    state.persist().expect("a disk");
    state
}

/// What this thread has had of a processor: other processes do not count.
fn cpu_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let nanoseconds = times.split(' ').next().and_then(|time| time.parse().ok());
    Duration::from_nanos(nanoseconds.expect("a number"))
}

#[test]
#[ignore = "timing: run by hand"]
fn commits() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut state = filled(directory.path(), 100_000);
    let mut random = StdRng::seed_from_u64(1);
    let mut revision = 100_000;
    for (batch, tables) in [1u64, 10, 100, 1000]
        .into_iter()
        .flat_map(|batch| [&[ROWS][..], &[INDEX], &[ROWS, INDEX]].map(|tables| (batch, tables)))
    {
        let (mut cpu, mut wall, mut commits) = ([Duration::ZERO; 3], Duration::ZERO, 0);
        let (begin, mut last, mut persists) = (Instant::now(), Instant::now(), Vec::new());
        while begin.elapsed() < Duration::from_secs(2) {
            let (start, start_cpu) = (Instant::now(), cpu_time());
            let mut overlay = state.overlay();
            for _ in 0..batch {
                let mut key = [0; 32];
                random.fill(&mut key[..4]);
                for table in tables {
                    match *table {
                        ROWS => overlay.put(ROWS, &revision_key(revision), &[7; 300]),
                        _ => overlay.put(INDEX, &key, &[3; 33]),
                    }
                    .expect("a table");
                }
                overlay.finish_entry();
                revision += 1;
            }
            let after_overlay = cpu_time();
            cpu[0] += after_overlay - start_cpu;
            state.commit(overlay.into_writes(), mark(revision)).expect("a commit");
            cpu[1] += cpu_time() - after_overlay;
            wall += start.elapsed();
            commits += 1;
            if last.elapsed() > Duration::from_millis(500) {
                let (start, start_cpu) = (Instant::now(), cpu_time());
                state.persist().expect("a disk");
                persists.push(start.elapsed());
                cpu[2] += cpu_time() - start_cpu;
                last = Instant::now();
            }
        }
        let of_cpu = cpu.map(|time| time.as_nanos() as f64 / 1000.0 / f64::from(commits));
        println!(
            "{batch:4} rows in {tables:?}: CPU {:.1} us overlay, {:.1} us commit, {:.1} us persist a batch; \
             {:?} of time, persists {:?}",
            of_cpu[0],
            of_cpu[1],
            of_cpu[2],
            wall / commits,
            persists,
        );
    }
}

#[test]
#[ignore = "timing: run by hand"]
fn log_writes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut log, _) = Log::open(directory.path(), &files()).expect("a log");
    let mut index = 0;
    for entries in [1u64, 16, 128] {
        let mut times: Vec<Duration> = (0..1000)
            .map(|_| {
                let row = |index| (index, Bytes::from(vec![7; 400]));
                let entries = (index..index + entries).map(row).collect::<Vec<_>>();
                index += entries.len() as u64;
                let start = Instant::now();
                log.write(&LogBatch { entries, ..LogBatch::default() }).expect("a disk");
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("{entries} entries: p50 {:?}, p99 {:?}", times[500], times[990]);
    }
    let start = Instant::now();
    let purge_through = Some((index - 10, Bytes::new()));
    log.write(&LogBatch { purge_through, ..LogBatch::default() }).expect("a disk");
    println!("purging {} entries: {:?} at once", index - 10, start.elapsed());
}

#[test]
#[ignore = "timing: run by hand"]
fn reads() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = filled(directory.path(), 1_000_000);
    let view = state.view();
    let mut random = StdRng::seed_from_u64(1);
    let mut shuffled: Vec<u64> = (0..1_000_000).collect();
    shuffled.shuffle(&mut random);
    let orders: [(&str, Vec<u64>); 4] = [
        ("side by side", (500_000..510_000).collect()),
        ("every third", (0..10_000).map(|number| 400_000 + 3 * number).collect()),
        ("ascending, far apart", (0..10_000).map(|number| 97 * number).collect()),
        ("at random", shuffled[..10_000].to_vec()),
    ];
    for (name, revisions) in orders {
        let keys: Vec<[u8; 17]> = revisions.into_iter().map(revision_key).collect();
        let mut bytes = 0;
        for round in ["cold", "warm"] {
            let start = Instant::now();
            for key in &keys {
                assert!(view.get(ROWS, key, &mut |value| bytes += value.len()).expect("a view"));
            }
            let alone = start.elapsed() / 10_000;
            let start = Instant::now();
            let packed = keys.concat();
            let visit = &mut |value: &[u8]| bytes += value.len();
            assert!(view.get_many(ROWS, &packed, 17, visit).expect("a view"));
            println!("{name}, {round}: get {alone:?}, get_many {:?}", start.elapsed() / 10_000);
        }
        assert_eq!(bytes, 4 * 10_000 * 300);
    }
}

#[test]
#[ignore = "timing: run by hand"]
fn memory_of_derived_rows() {
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number")
            * 4096
    };
    let directory = tempfile::tempdir().expect("a directory");
    let mut state = State::open(directory.path(), &files(), &specs()).expect("a state");
    let before = resident();
    let mut random = StdRng::seed_from_u64(1);
    let start = Instant::now();
    for _ in 0..1000 {
        let mut overlay = state.overlay();
        for _ in 0..1000 {
            let key: [u8; 32] = random.random();
            overlay.put(INDEX, &key, &[3; 33]).expect("a table");
        }
        state.commit_derived(overlay.into_writes()).expect("a commit");
    }
    println!(
        "{} bytes a row of 32 + 33, {:?} a put",
        (resident() - before) / 1_000_000,
        start.elapsed() / 1_000_000
    );
}
