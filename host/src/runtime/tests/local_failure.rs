//! What fails on this member alone is never an answer.

use super::{Budgets, Replica, hostile};
use crate::{
    limits::MACHINE_INSTANCES,
    runtime::{CallError, LocalFailure, QueryError, machine::Runtime},
    storage::{self, State},
};

#[test]
fn a_storage_that_fails_stops_applying() {
    let directory = tempfile::tempdir().expect("a directory");
    // It lacks the tables that the machine declares.
    let state = State::open(directory.path(), &storage::files(), &[]).expect("a state");
    let entry = Replica::new(hostile()).entry(7, b"pkey");
    let failed = hostile().apply(state.overlay(), 0, &[entry]).err().expect("a failure");
    assert_eq!(failed.index, 7);
    assert!(matches!(failed.failure, LocalFailure::Storage(_)), "{failed}");

    let failed = hostile().reader().query(&state.view(), b"gkey");
    assert!(matches!(failed, Err(QueryError::Failed(CallError::Local(_)))));
}

#[test]
fn a_lack_of_instances_stops_applying_and_passes() {
    let runtime = Runtime::with_budgets(None, Budgets::SMALL).expect("an engine");
    let machine = runtime.load(::hostile::HOSTILE).expect("a machine");
    let mut replica = Replica::new(&machine);
    let mut readers: Vec<_> = (0..MACHINE_INSTANCES).map(|_| machine.reader()).collect();
    for reader in &mut readers {
        reader.admit(b"q", 1).expect("an admission");
    }
    let entry = replica.entry(1, b"pkey");
    let failed = machine.apply(replica.state.overlay(), 0, &[entry]).err().expect("a failure");
    assert!(matches!(failed.failure, LocalFailure::Resources(_)), "{failed}");
    readers.pop();
    assert!(replica.apply(&[b"pkey"])[0].response.is_ok());
}
