//! Snapshots that are whole, and every other kind.

use std::fs;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::disk::{Disk, Faults};
use super::{INDEX, OTHER, ROWS, durable_rows, mark, specs};
use crate::storage::snapshot::{self, SnapshotReader};
use crate::storage::{Backends, State, StorageError, TableKind, TableSpec, Tables, files};

/// A state with some rows, at the commit with this number.
fn state(directory: &Path, number: u64) -> State {
    state_over(directory, number, &files())
}

fn state_over(directory: &Path, number: u64, backends: &Backends) -> State {
    let mut state = State::open(directory, backends, &specs()).unwrap();
    let mut overlay = state.overlay();
    for row in 0..number {
        overlay.put(ROWS, &row.to_be_bytes(), &vec![row as u8; row as usize % 50]).unwrap();
        overlay.put(OTHER, &[row as u8], b"").unwrap();
        overlay.put(INDEX, &row.to_be_bytes(), b"derived").unwrap();
    }
    state.commit(overlay.into_writes(), mark(number)).unwrap();
    state.persist().unwrap();
    state
}

#[test]
fn a_snapshot_becomes_the_same_state() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = state(here.path(), 30);
    let path = here.path().join("a.snapshot");
    snapshot::write(&source.view(), &path).unwrap();
    assert_eq!(snapshot::verify(&path).unwrap(), mark(30));

    let mut target = state(there.path(), 5);
    let (views, old) = (target.views(), target.view());
    let old_rows = durable_rows(&*old);
    let view = target.install_snapshot(&path).unwrap();
    assert!(!path.exists());
    assert_eq!(*view.mark(), mark(30));
    assert_eq!(durable_rows(&*view), durable_rows(&*source.view()));
    assert_eq!(target.totals, source.totals);
    assert_eq!(view.count(INDEX, b"", b"").unwrap(), 0);

    assert_eq!(*views.latest().mark(), mark(5), "it has no derived tables yet");
    target.finish_rebuild();
    assert_eq!(*views.latest().mark(), mark(30));
    assert_eq!(durable_rows(&*old), old_rows, "an old view remains valid");

    // It goes on from there, and is on disk already.
    drop((view, old, views, target));
    let mut target = State::open(there.path(), &files(), &specs()).unwrap();
    assert_eq!(*target.view().mark(), mark(30));
    let mut overlay = target.overlay();
    overlay.put(ROWS, b"more", b"").unwrap();
    let view = target.commit(overlay.into_writes(), mark(31)).unwrap();
    assert_eq!(durable_rows(&*view).len(), 61);
}

/// In etcd, a second snapshot that came while the first one was being taken over was a panic (18055).
#[test]
fn two_snapshots_one_after_the_other_18055() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut target = state(there.path(), 5);
    let mut held = vec![target.view()];
    for number in [30, 40] {
        let source_directory = tempfile::tempdir().unwrap();
        let source = state(source_directory.path(), number);
        let path = here.path().join("a.snapshot");
        snapshot::write(&source.view(), &path).unwrap();
        let view = target.install_snapshot(&path).unwrap();
        assert_eq!(durable_rows(&*view), durable_rows(&*source.view()));
        held.push(view);
    }
    // The derived tables of the first were never rebuilt, and its readers are still there.
    target.finish_rebuild();
    assert_eq!(*target.views().latest().mark(), mark(40));
    assert_eq!(
        held.iter().map(|view| view.mark().clone()).collect::<Vec<_>>(),
        [5, 30, 40].map(mark)
    );
    drop((held, target));
    let target = State::open(there.path(), &files(), &specs()).unwrap();
    assert_eq!(*target.view().mark(), mark(40));
}

#[test]
fn an_empty_state_has_a_snapshot_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    let path = directory.path().join("a.snapshot");
    snapshot::write(&state.view(), &path).unwrap();
    assert_eq!(state.install_snapshot(&path).unwrap().mark().applied, None);
}

/// Each byte matters: cut anywhere or changed anywhere, a snapshot is refused, with the place and the reason.
#[test]
fn a_damaged_snapshot_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.snapshot");
    snapshot::write(&state(directory.path(), 6).view(), &path).unwrap();
    let whole = fs::read(&path).unwrap();
    let refuse = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = snapshot::verify(&path).expect_err("it is refused");
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("at byte"), "{error}");
    };
    for length in 0..whole.len() {
        refuse(&whole[..length]);
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            refuse(&damaged);
        }
    }
    refuse(&[whole.as_slice(), b"x"].concat());
}

/// Whoever makes a snapshot can make a right checksum, too.
#[test]
fn a_malicious_snapshot_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.snapshot");
    let number = |number: u32| number.to_le_bytes().to_vec();
    let row = |table, key: &[u8], value: &[u8]| {
        let lengths = [number(key.len() as u32), number(value.len() as u32)].concat();
        [number(table), lengths, key.to_vec(), value.to_vec()].concat()
    };
    let encoded = mark(3).encode();
    let make = |tables: &[(u32, &str)], rows: &[Vec<u8>]| {
        let mut file = b"INSTARSN".to_vec();
        file.extend([number(1), number(encoded.len() as u32), encoded.clone()].concat());
        file.extend(number(tables.len() as u32));
        for (id, name) in tables {
            file.extend([number(*id), number(name.len() as u32), name.as_bytes().into()].concat());
        }
        file.extend(rows.concat());
        file.extend(number(u32::MAX));
        file.extend((rows.len() as u64).to_le_bytes());
        let sum = xxh3_64(&file);
        file.extend(sum.to_le_bytes());
        fs::write(&path, file).unwrap();
    };
    let tables = [(ROWS, "rows"), (OTHER, "other")];
    make(&tables, &[row(ROWS, b"a", b""), row(ROWS, b"b", b""), row(OTHER, b"a", b"")]);
    assert_eq!(snapshot::verify(&path), Ok(mark(3)));

    let refuse = |reason: &str| {
        let error = snapshot::verify(&path).expect_err("it is refused").to_string();
        assert!(error.contains(reason), "{error}");
    };
    make(&tables, &[row(ROWS, b"b", b""), row(ROWS, b"a", b"")]);
    refuse("out of order");
    make(&tables, &[row(ROWS, b"a", b""), row(ROWS, b"a", b"")]);
    refuse("out of order");
    make(&tables, &[row(OTHER, b"a", b""), row(ROWS, b"b", b"")]);
    refuse("out of order");
    make(&tables, &[row(INDEX, b"a", b"")]);
    refuse("not declared");
    make(&[(OTHER, "other"), (ROWS, "rows")], &[]);
    refuse("out of order");
    make(&[(u32::MAX, "end")], &[]);
    refuse("out of order");
    make(&vec![(1, "many"); crate::limits::STATE_TABLES + 1], &[]);
    refuse("more than");
    make(&tables, &[[number(ROWS), number(u32::MAX), number(0)].concat()]);
    refuse("more than there are");
    make(&tables, &[[number(ROWS), number(1), number(u32::MAX), b"a".to_vec()].concat()]);
    refuse("more than there are");

    // It is a snapshot, but not of this machine.
    let mut state = state(directory.path(), 2);
    make(&[(ROWS, "rows"), (OTHER, "of another machine")], &[]);
    assert!(state.install_snapshot(&path).is_err());
    make(&[(INDEX, "index")], &[]);
    assert!(state.install_snapshot(&path).is_err());
    assert_eq!(*state.view().mark(), mark(2));
}

/// Rows without content cost memory as well.
#[test]
fn a_portion_is_bounded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.snapshot");
    snapshot::write(&state(directory.path(), 200).view(), &path).unwrap();
    let mut reader = SnapshotReader::open(&path).unwrap();
    let mut portions = 0;
    loop {
        let rows = reader.next_rows(1000).unwrap();
        if rows.is_empty() {
            break;
        }
        assert!(rows.len() <= 1000 / size_of::<snapshot::SnapshotRow>() + 1);
        portions += 1;
    }
    assert!(portions > 20);
}

/// A snapshot that is damaged, or a disk that is full, leaves the state as it was.
#[test]
fn an_installation_that_fails_changes_nothing() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = here.path().join("a.snapshot");
    snapshot::write(&state(here.path(), 40).view(), &path).unwrap();
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() - 20] ^= 1;

    let full = Disk::default();
    let backends: Backends = {
        let (files, full) = (files(), full.backends());
        std::sync::Arc::new(move |path| {
            if path.extension().is_some_and(|end| end == "new") { full(path) } else { files(path) }
        })
    };
    let mut state = state_over(there.path(), 4, &backends);
    let rows = durable_rows(&*state.view());
    fs::write(&path, damaged).unwrap();
    assert!(state.install_snapshot(&path).is_err());
    fs::write(&path, &whole).unwrap();
    for operations in 0.. {
        full.set_faults(Faults { operations_left: Some(operations), ..Faults::default() });
        let error = state.install_snapshot(&path).expect_err("there is no such file to rename");
        if error.to_string().contains("No such file") {
            assert!(operations > 5, "{error}");
            assert_eq!(state.persist(), Err(error), "what is on disk is uncertain");
            break;
        }
        assert!(!there.path().join("state.new").exists());
        // The state is still usable.
        let overlay = state.overlay();
        let view = state.commit(overlay.into_writes(), mark(5)).unwrap();
        assert_eq!(durable_rows(&*view), rows);
        assert_eq!(view.count(INDEX, b"", b"").unwrap(), 4);
        state.persist().unwrap();
    }
    drop(state);
    let reopened = State::open(there.path(), &files(), &specs()).unwrap();
    assert_eq!(durable_rows(&*reopened.view()), rows);
}

/// A process that dies during an installation leaves a file that nobody opens.
#[test]
fn what_an_interrupted_installation_leaves_does_not_matter() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = here.path().join("a.snapshot");
    snapshot::write(&state(here.path(), 40).view(), &path).unwrap();
    let mut target = state(there.path(), 4);
    fs::write(there.path().join("state.new"), b"half a file").unwrap();
    assert_eq!(*target.install_snapshot(&path).unwrap().mark(), mark(40));
}

#[test]
fn a_machine_with_more_tables_takes_a_snapshot_with_fewer() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = here.path().join("a.snapshot");
    snapshot::write(&state(here.path(), 3).view(), &path).unwrap();
    let mut tables = specs();
    tables.push(TableSpec { id: 20, name: "new".to_owned(), kind: TableKind::Durable });
    let mut target = State::open(there.path(), &files(), &tables).unwrap();
    let view = target.install_snapshot(&path).unwrap();
    assert_eq!(view.count(20, b"", b""), Ok(0));
    assert_eq!(view.count(ROWS, b"", b""), Ok(3));
}
