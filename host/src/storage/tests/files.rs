//! Files that are not what they should be: an error, no panic, and nothing changed.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{ROWS, mark, seed, specs};
use crate::storage::{Log, LogBatch, State, StorageError, Tables, files};

fn fill(directory: &Path) {
    let (mut log, _) = Log::open(directory, &files()).unwrap();
    let entries = (0..100).map(|index| (index, Bytes::from(vec![7; 500]))).collect();
    log.write(&LogBatch { entries, ..LogBatch::default() }).unwrap();
    let mut state = State::open(directory, &files(), &specs()).unwrap();
    let mut overlay = state.overlay();
    for number in 0..100u8 {
        overlay.put(ROWS, &[number], &[number; 400]).unwrap();
    }
    state.commit(overlay.into_writes(), mark(1)).unwrap();
    state.persist().unwrap();
}

fn open(directory: &Path, name: &str) -> Result<(), StorageError> {
    match name {
        "log.wal" => Log::open(directory, &files()).map(|_| ()),
        _ => State::open(directory, &files(), &specs()).map(|_| ()),
    }
}

/// Opens a file with other content; it must be refused, and stay as it is.
fn refuse(directory: &Path, name: &str, content: &[u8]) {
    let path = directory.join(name);
    fs::write(&path, content).unwrap();
    let error = open(directory, name).expect_err("it is refused");
    assert!(error.to_string().contains(name), "{error}");
    assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
    assert!(fs::read(&path).unwrap() == content, "{name} has been changed: {error}");
}

#[test]
fn what_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(seed());
    for name in ["log.wal", "state.redb"] {
        for length in [1, 8, 100, 4096, 100_000] {
            let mut garbage = vec![0; length];
            random.fill(garbage.as_mut_slice());
            refuse(directory.path(), name, &garbage);
        }
    }
}

#[test]
fn a_database_cut_short_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    for name in ["log.wal", "state.redb"] {
        let whole = fs::read(directory.path().join(name)).unwrap();
        for eighth in 1..8 {
            refuse(directory.path(), name, &whole[..whole.len() * eighth / 8]);
            refuse(directory.path(), name, &whole[..(whole.len() * eighth / 8) & !4095]);
        }
        refuse(directory.path(), name, &whole[..whole.len() - 1]);
        refuse(directory.path(), name, &whole[..300]);
    }
}

/// Whether a flipped bit in the head shows or not, there is an answer.
#[test]
fn a_damaged_head_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path());
    let mut random = StdRng::seed_from_u64(seed());
    for name in ["log.wal", "state.redb"] {
        let path = directory.path().join(name);
        let whole = fs::read(&path).unwrap();
        for _ in 0..150 {
            let mut damaged = whole.clone();
            damaged[random.random_range(0..320)] ^= 1 << random.random_range(0..8);
            fs::write(&path, &damaged).unwrap();
            if let Err(error) = open(directory.path(), name) {
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
}

/// Opening a large file does not read it. What is damaged shows when it is read, or written, and is an error then, or,
/// where redb fails over its own clean-up, one sentence and the end of the process: so each file has a process.
#[test]
fn a_damaged_page_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = StdRng::seed_from_u64(seed());
    let path = directory.path().join("state.redb");
    {
        let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
        for index in 1..20u64 {
            let mut overlay = state.overlay();
            for number in 0..200u64 {
                let key = (index * 1000 + number).to_be_bytes();
                overlay.put(ROWS, &key, &[number as u8; 150]).unwrap();
            }
            state.commit(overlay.into_writes(), mark(index)).unwrap();
        }
        state.persist().unwrap();
    }
    let whole = fs::read(&path).unwrap();
    let mut errors = 0;
    for round in 0..200 {
        let mut damaged = whole.clone();
        let page = random.random_range(1..whole.len() / 4096) * 4096;
        let range = match round % 3 {
            0 => page..page + 4096,
            1 => page..page + 16,
            _ => page + 2..page + 4,
        };
        random.fill(&mut damaged[range]);
        fs::write(&path, &damaged).unwrap();
        errors += usize::from(is_refused(directory.path()));
    }
    assert!(errors > 20, "only {errors} damages showed");
}

const DAMAGED_DIRECTORY: &str = "INSTAR_TEST_DAMAGED_DIRECTORY";
const USED: &str = "the damage does not show";
const REFUSED: &str = "the damage is refused";

/// Uses the state in a directory, in a process of its own.
fn is_refused(directory: &Path) -> bool {
    let ended = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storage::tests::files::what_a_damaged_page_does", "--ignored"])
        .arg("--nocapture")
        .env(DAMAGED_DIRECTORY, directory)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    let complained = String::from_utf8_lossy(&ended.stderr);
    let ended_in_order = ended.status.code() == Some(1)
        && complained.starts_with("error: a database file is damaged: ")
        && complained.lines().count() == 1;
    assert!(
        ended_in_order || said.contains(USED) || said.contains(REFUSED),
        "{}: {said}{complained}",
        ended.status
    );
    !said.contains(USED)
}

#[test]
#[ignore = "the process that a_damaged_page_is_no_panic starts"]
fn what_a_damaged_page_does() {
    let Some(directory) = std::env::var_os(DAMAGED_DIRECTORY) else { return };
    match use_state(Path::new(&directory)) {
        Ok(()) => println!("{USED}"),
        Err(_) => println!("{REFUSED}"),
    }
}

fn use_state(directory: &Path) -> Result<(), StorageError> {
    let mut state = State::open(directory, &files(), &specs())?;
    let view = state.view();
    let mut count = 0;
    view.scan(ROWS, b"", b"", false, &mut |_, _| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    })?;
    for index in 1..20u64 {
        view.get(ROWS, &(index * 1000 + 7).to_be_bytes(), &mut |_| {})?;
    }
    let mut overlay = state.overlay();
    overlay.put(ROWS, b"a row", b"behind them")?;
    state.commit(overlay.into_writes(), mark(21)).map(drop)
}
