//! Defragmentation: nothing is lost or changed, whatever is written meanwhile, and wherever it stops.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::disk::Disk;
use super::{INDEX, OTHER, ROWS, durable_rows, mark, seed, specs};
use crate::limits;
use crate::storage::{Backends, State, Tables, files, snapshot};

fn key(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Writes a batch: rows of `number % 7` are removed, others get a value that tells the batch.
fn commit(state: &mut State, index: u64, numbers: impl IntoIterator<Item = u32>) {
    let mut overlay = state.overlay();
    for number in numbers {
        let value = [&index.to_le_bytes()[..], &[number as u8; 200]].concat();
        match number % 7 {
            0 => overlay.delete(ROWS, &key(number)).unwrap(),
            _ => overlay.put(ROWS, &key(number), &value).unwrap(),
        }
        overlay.put(OTHER, &key(number / 100), &value[..8]).unwrap();
        overlay.put(INDEX, &key(number), b"derived").unwrap();
    }
    state.commit(overlay.into_writes(), mark(index)).unwrap();
}

/// A state most of whose file is free.
fn fragmented(directory: &Path) -> State {
    let mut state = State::open(directory, &files(), &specs()).unwrap();
    for batch in 0..20 {
        commit(&mut state, batch, batch as u32 * 1000..batch as u32 * 1000 + 1000);
    }
    state.persist().unwrap();
    let mut overlay = state.overlay();
    overlay.delete_range(ROWS, &key(1000), &key(19_000)).unwrap();
    state.commit(overlay.into_writes(), mark(20)).unwrap();
    state.persist().unwrap();
    state
}

#[test]
fn space_is_given_back_and_nothing_else_changes() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = fragmented(directory.path());
    let before = state.view();
    let rows = durable_rows(&*before);
    assert!(before.size_bytes() > 3_000_000, "{}", before.size_bytes());
    assert!(before.size_in_use_bytes() < 1_000_000, "{}", before.size_in_use_bytes());

    let work = state.begin_defragment().unwrap();
    work.copy().unwrap();
    let after = state.finish_defragment(work).unwrap();
    assert_eq!(durable_rows(&*after), rows);
    assert_eq!(after.mark(), before.mark());
    assert_eq!(after.count(INDEX, b"", b""), before.count(INDEX, b"", b""));
    assert_eq!(after.size_in_use_bytes(), before.size_in_use_bytes());
    assert!(after.size_bytes() < 1_200_000, "{}", after.size_bytes());
    // Whoever reads the old file goes on reading it.
    assert_eq!(durable_rows(&*before), rows);
    drop(before);
    let on_disk = std::fs::metadata(directory.path().join("state.redb")).unwrap().len();
    assert!(on_disk < 3_000_000, "{on_disk}");

    commit(&mut state, 21, 500..600);
    let rows = durable_rows(&*state.view());
    assert_eq!(state.persist().unwrap().map(|applied| applied.index), Some(21));
    drop(state);
    let reopened = State::open(directory.path(), &files(), &specs()).unwrap();
    assert_eq!(durable_rows(&*reopened.view()), rows);
    assert_eq!(*reopened.view().mark(), mark(21));
}

#[test]
fn a_fresh_state_is_as_small_as_etcds() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    for index in 0..20 {
        commit(&mut state, index, index as u32..index as u32 + 2);
        state.persist().unwrap();
        let view = state.view();
        assert!(view.size_bytes() < 53_248, "{} at {index}", view.size_bytes());
        assert!(view.size_in_use_bytes() <= view.size_bytes());
    }
}

#[test]
fn what_is_written_meanwhile_is_carried_over() {
    let directory = tempfile::tempdir().unwrap();
    let state = Mutex::new(fragmented(directory.path()));
    let work = state.lock().unwrap().begin_defragment().unwrap();
    let done = AtomicBool::new(false);
    let mut random = StdRng::seed_from_u64(seed());
    let (work, last) = std::thread::scope(|threads| {
        let copying = threads.spawn(|| {
            work.copy().unwrap();
            done.store(true, Ordering::SeqCst);
            work
        });
        let mut index = 20;
        while !done.load(Ordering::SeqCst) || index < 60 {
            index += 1;
            let begin = random.random_range(0..20_000);
            commit(&mut state.lock().unwrap(), index, begin..begin + 50);
        }
        (copying.join().unwrap(), index)
    });
    let mut state = state.into_inner().unwrap();
    // Between the copy and the end of it, too.
    commit(&mut state, last + 1, 3..4_000);
    let rows = durable_rows(&*state.view());
    let after = state.finish_defragment(work).unwrap();
    assert_eq!(durable_rows(&*after), rows);
    drop((after, state));
    let reopened = State::open(directory.path(), &files(), &specs()).unwrap();
    assert_eq!(durable_rows(&*reopened.view()), rows);
    assert_eq!(*reopened.view().mark(), mark(last + 1));
}

#[test]
fn one_that_is_given_up_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = fragmented(directory.path());
    let rows = durable_rows(&*state.view());
    let path = directory.path().join("state.defragmented");
    let work = state.begin_defragment().unwrap();
    work.copy().unwrap();
    assert!(path.exists());
    drop(work);
    assert!(!path.exists());

    // A state that was replaced meanwhile has other rows.
    let file = directory.path().join("a.snapshot");
    snapshot::write(&state.view(), &file).unwrap();
    let work = state.begin_defragment().unwrap();
    state.install_snapshot(&file).unwrap();
    work.copy().unwrap();
    assert!(state.finish_defragment(work).is_err());
    assert!(!path.exists());
    assert_eq!(durable_rows(&*state.view()), rows);
    let work = state.begin_defragment().unwrap();
    work.copy().unwrap();
    state.finish_defragment(work).unwrap();
    assert_eq!(durable_rows(&*state.view()), rows);
}

#[test]
fn more_writes_than_can_be_noted_end_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    let work = state.begin_defragment().unwrap();
    let mut overlay = state.overlay();
    let long = vec![7; limits::ROW_KEY_BYTES];
    for number in 0..limits::DEFRAGMENT_WRITTEN_BYTES / limits::ROW_KEY_BYTES + 1 {
        overlay.delete(ROWS, &[&[number as u8], &long[1..]].concat()).unwrap();
    }
    state.commit(overlay.into_writes(), mark(1)).unwrap();
    let error = work.copy().unwrap_err().to_string();
    assert!(error.contains("too much was written"), "{error}");
    drop(work);
    commit(&mut state, 2, 1..5);
    state.persist().unwrap();
}

/// Files on two disks: the new file of a defragmentation, and the others.
fn two_disks(old: &Disk, fresh: &Disk) -> Backends {
    let (old, fresh) = (old.backends(), fresh.backends());
    Arc::new(move |path| {
        let is_fresh = path.extension().is_some_and(|end| end == "defragmented");
        if is_fresh { fresh(path) } else { old(path) }
    })
}

/// The power goes at every sync of either file: until the rename the old file has everything that it had to have, and
/// when the rename comes the new one has it, whole and on disk.
#[test]
fn the_power_may_go_at_any_moment() {
    let seed = seed();
    for round in 0..10 {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(round));
        let (old, fresh) = (Disk::default(), Disk::default());
        let path = Path::new("a directory that is not there");
        let mut state = State::open(path, &two_disks(&old, &fresh), &specs()).unwrap();
        for index in 1..30 {
            let begin = random.random_range(0..2_000);
            commit(&mut state, index, begin..begin + 40);
        }
        state.persist().unwrap();
        let images: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        for disk in [&old, &fresh] {
            let (images, old) = (images.clone(), old.clone());
            let mut random = StdRng::seed_from_u64(random.random());
            let is_fresh = std::ptr::eq(disk, &fresh);
            disk.on_sync(Some(Box::new(move |content| {
                let image = match is_fresh {
                    true => old.with_content(|content| content.image(&mut random)),
                    false => content.image(&mut random),
                };
                images.lock().unwrap().push(image);
            })));
        }
        let work = state.begin_defragment().unwrap();
        work.copy().unwrap();
        for index in 30..33 {
            commit(&mut state, index, 100..140);
        }
        let rows = durable_rows(&*state.view());
        // There is no such directory, so the rename fails, and with it the state: nobody knows what is on disk.
        state.finish_defragment(work).expect_err("nothing can be renamed");
        assert!(state.persist().is_err());
        for disk in [&old, &fresh] {
            disk.on_sync(None);
        }
        let images = std::mem::take(&mut *images.lock().unwrap());
        assert!(images.len() >= 3, "{}", images.len());
        for image in images {
            let found = State::open(path, &Disk::holding(image).backends(), &specs()).unwrap();
            let index = found.view().mark().applied.map_or(0, |applied| applied.index);
            assert!((29..33).contains(&index), "{index}");
        }
        for _ in 0..5 {
            let image = fresh.with_content(|content| content.image(&mut random));
            let found = State::open(path, &Disk::holding(image).backends(), &specs()).unwrap();
            assert_eq!(*found.view().mark(), mark(32));
            assert_eq!(durable_rows(&*found.view()), rows);
        }
    }
}
