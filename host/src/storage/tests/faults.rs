//! Disks that fail: the first failure is final, says why, and nothing that failed was acknowledged.

use std::io::ErrorKind;
use std::path::Path;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::{Disk, Faults};
use super::power_loss_log::{LogModel, random_batch};
use super::{ROWS, durable_rows, mark, seed, specs};
use crate::storage::{LogBatch, State, StorageError};

fn failing(operations: u64, only_syncs: bool, kind: ErrorKind) -> Faults {
    Faults { operations_left: Some(operations), only_syncs, kind: Some(kind), sync_lies: false }
}

fn cases() -> impl Iterator<Item = Faults> {
    [ErrorKind::StorageFull, ErrorKind::Other].into_iter().flat_map(|kind| {
        let writes = (0..60).map(move |operations| failing(operations, false, kind));
        writes.chain((0..12).map(move |operations| failing(operations, true, kind)))
    })
}

fn says_why(error: &StorageError, file: &str, kind: ErrorKind) {
    let text = error.to_string();
    let reason = std::io::Error::from(kind).to_string();
    assert!(text.contains(file) && text.contains(&reason), "{text}");
}

#[test]
fn a_log_that_failed_once_acknowledges_nothing_more() {
    let mut random = StdRng::seed_from_u64(seed());
    for faults in cases() {
        let disk = Disk::default();
        let (mut log, mut model) = LogModel::read(&disk).expect("a new log");
        disk.set_faults(faults);
        let (error, failed) = loop {
            let batch = random_batch(&model, &mut random);
            match log.write(&batch) {
                Ok(()) => model.apply(&batch),
                Err(error) => break (error, batch),
            }
        };
        says_why(&error, "log.wal", faults.kind.unwrap());

        disk.set_faults(Faults::default());
        let vote = LogBatch { vote: Some(Bytes::from_static(b"too late")), ..LogBatch::default() };
        for _ in 0..2 {
            assert_eq!(log.write(&vote), Err(error.clone()));
        }
        drop(log);
        let image = disk.with_content(|content| content.image(&mut random));
        let found = LogModel::read(&Disk::holding(image)).expect("it opens").1;
        let mut with_failed = model.clone();
        with_failed.apply(&failed);
        assert!(found == model || found == with_failed);
    }
}

#[test]
fn a_state_that_failed_once_takes_nothing_more() {
    let mut random = StdRng::seed_from_u64(seed());
    for faults in cases() {
        let disk = Disk::default();
        let open = |disk: &Disk| State::open(Path::new(""), &disk.backends(), &specs());
        let mut state = open(&disk).expect("a new state");
        disk.set_faults(faults);
        let mut persisted = 0;
        let error = (1u64..)
            .find_map(|number| {
                let mut overlay = state.overlay();
                let value = vec![1; random.random_range(0..3000)];
                overlay.put(ROWS, &number.to_be_bytes(), &value).unwrap();
                let committed = state.commit(overlay.into_writes(), mark(number));
                let result = committed.and_then(|_| state.persist());
                result.map(|applied| persisted = applied.map_or(0, |applied| applied.index)).err()
            })
            .expect("it fails at some time");
        says_why(&error, "state.redb", faults.kind.unwrap());

        disk.set_faults(Faults::default());
        assert_eq!(state.persist(), Err(error.clone()));
        let overlay = state.overlay();
        assert_eq!(state.commit(overlay.into_writes(), mark(9)).map(|_| ()), Err(error));
        drop(state);
        let image = disk.with_content(|content| content.image(&mut random));
        let reopened = open(&Disk::holding(image)).expect("it opens");
        let reopened_view = reopened.view();
        let found = reopened_view.mark().applied.map_or(0, |applied| applied.index);
        assert!(found == persisted || found == persisted + 1, "{persisted}, now {found}");
        assert_eq!(durable_rows(&*reopened_view).len() as u64, found);
    }
}
