//! Tables that come while the state is open: they are in its file from then on, whoever opens it, and however it came there.

use super::{INDEX, ROWS, mark, rows_of, specs};
use crate::storage::{State, TableId, TableKind, TableSpec, Tables, files, snapshot};

const NEW: TableId = 13;

fn new_table() -> TableSpec {
    TableSpec { id: NEW, name: "new".to_owned(), kind: TableKind::Durable }
}

/// With the new table, as a machine declares its own.
fn more_specs() -> Vec<TableSpec> {
    specs().into_iter().chain([new_table()]).collect()
}

fn put(state: &mut State, table: TableId, index: u64) {
    let mut overlay = state.overlay();
    overlay.put(table, &index.to_le_bytes(), b"a value").unwrap();
    state.commit(overlay.into_writes(), mark(index)).unwrap();
}

/// A state with rows in a table that came later.
fn grown(directory: &std::path::Path) -> State {
    let mut state = State::open(directory, &files(), &specs()).unwrap();
    put(&mut state, ROWS, 1);
    assert_eq!(state.view().kind(NEW), None);
    state.declare(&more_specs()).unwrap();
    put(&mut state, NEW, 2);
    put(&mut state, INDEX, 3);
    state
}

#[test]
fn a_table_that_came_later_is_there_for_whoever_opens_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = grown(directory.path());
    let rows = rows_of(&*state.view(), NEW);
    assert_eq!(rows.len(), 1);
    assert_eq!(rows_of(&*state.views().latest(), NEW), rows, "readers have it");
    state.persist().unwrap();
    drop(state);
    let reopened = State::open(directory.path(), &files(), &specs()).unwrap();
    assert_eq!(rows_of(&*reopened.view(), NEW), rows);
    assert_eq!(*reopened.view().mark(), mark(3));
}

#[test]
fn a_snapshot_brings_the_tables_that_the_receiver_never_heard_of() {
    let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = here.path().join("a.snapshot");
    let sender = grown(here.path());
    snapshot::write(&sender.view(), &path).unwrap();
    let mut receiver = State::open(there.path(), &files(), &specs()).unwrap();
    let view = receiver.install_snapshot(&path).unwrap();
    assert_eq!(rows_of(&*view, NEW), rows_of(&*sender.view(), NEW));
    receiver.declare(&more_specs()).unwrap();
    put(&mut receiver, NEW, 4);
    // Once more, now that it knows them.
    snapshot::write(&sender.view(), &path).unwrap();
    receiver.install_snapshot(&path).unwrap();
    drop(receiver);
    let reopened = State::open(there.path(), &files(), &specs()).unwrap();
    assert_eq!(reopened.view().kind(NEW), Some(TableKind::Durable));
}

#[test]
fn a_table_may_come_while_the_state_is_defragmented() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    put(&mut state, ROWS, 1);
    let work = state.begin_defragment().unwrap();
    work.copy().unwrap();
    state
        .declare(&[new_table(), TableSpec { id: 20, name: "empty".to_owned(), ..new_table() }])
        .unwrap();
    put(&mut state, NEW, 2);
    let view = state.finish_defragment(work).unwrap();
    assert_eq!((view.count(NEW, b"", b""), view.count(20, b"", b"")), (Ok(1), Ok(0)));
    drop((view, state));
    let reopened = State::open(directory.path(), &files(), &specs()).unwrap();
    assert_eq!(reopened.view().count(NEW, b"", b""), Ok(1));
    assert_eq!(reopened.view().count(20, b"", b""), Ok(0));
}

#[test]
fn a_number_and_a_name_go_together() {
    for (id, name, kind) in [
        (NEW, "another", TableKind::Durable),
        (14, "new", TableKind::Durable),
        (NEW, "new", TableKind::Derived),
        (INDEX, "index", TableKind::Durable),
    ] {
        let spec = TableSpec { id, name: name.to_owned(), kind };
        let directory = tempfile::tempdir().unwrap();
        assert!(grown(directory.path()).declare(std::slice::from_ref(&spec)).is_err(), "{spec:?}");
        if id != INDEX {
            assert!(State::open(directory.path(), &files(), &[spec]).is_err());
        }
    }
}

#[test]
fn a_derived_table_may_come_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &specs()).unwrap();
    let spec = TableSpec { id: 9, name: "order".to_owned(), kind: TableKind::Derived };
    state.declare(&[spec]).unwrap();
    put(&mut state, 9, 1);
    assert_eq!(state.view().count(9, b"", b""), Ok(1));
    state.persist().unwrap();
    drop(state);
    let reopened = State::open(directory.path(), &files(), &specs()).unwrap();
    assert_eq!(reopened.view().kind(9), None, "the machine declares it again");
}
