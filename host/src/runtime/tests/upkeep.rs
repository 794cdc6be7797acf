//! Work in steps: it ends, it writes only what it may, and it cannot go round in circles.

use std::time::Duration;

use super::{Replica, hostile, kv, runtime};
use crate::{
    runtime::{CallError, Migrated, UpkeepError},
    storage::{Mark, Overlay},
};

/// A state with rows, whose derived table is empty.
fn unbuilt(commands: &[&[u8]]) -> Replica<'static> {
    let mut replica = Replica::new(hostile());
    replica.apply(commands);
    replica.forget_derived();
    replica
}

fn fault(result: Result<(), UpkeepError>) -> String {
    match result {
        Err(UpkeepError::Failed(CallError::Fault(fault))) => fault.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn derived_rows_are_made_from_durable_ones() {
    let commands: Vec<_> = (b'a'..=b'z').map(|letter| [b'p', letter, b'x']).collect();
    let commands: Vec<&[u8]> = commands.iter().map(|command| &command[..]).collect();
    let mut applied = Replica::new(hostile());
    applied.apply(&commands);
    let mut rebuilt = unbuilt(&commands);
    assert_ne!(rebuilt.rows(), applied.rows());

    let refused = hostile().check(&rebuilt.view());
    assert!(matches!(refused, Err(UpkeepError::Refused(why)) if why.contains("derived table")));
    rebuilt.rebuild().expect("a rebuild");
    assert_eq!(rebuilt.rows(), applied.rows());
    hostile().check(&rebuilt.view()).expect("no complaint");
}

#[test]
fn a_rebuild_writes_no_durable_row_and_ends() {
    let failed = unbuilt(&[b"psabotage"]).rebuild();
    assert_eq!(fault(failed), "it wrote a durable table while it rebuilt derived ones");
    let failed = unbuilt(&[b"pa", b"pb", b"pc", b"pd", b"pstandstill"]).rebuild();
    assert_eq!(fault(failed), "a step of its upkeep led back to where it began");
}

#[test]
fn a_migration_from_an_unknown_schema_is_refused_in_the_machines_words() {
    let mut replica = unbuilt(&[b"pa"]);
    let view = replica.view();
    let mut steps = 0;
    let mut commit = |overlay: Overlay| {
        steps += 1;
        replica.state.commit(overlay.into_writes(), Mark::default())
    };
    hostile().migrate(1, view.clone(), &mut commit).expect("a migration");
    let refused = hostile().migrate(7, view, &mut commit);
    assert!(matches!(refused, Err(UpkeepError::Refused(why)) if why == "schema 7 is unknown"));
    assert_eq!(steps, 2);
    assert!(replica.rows().contains(&(7, b"schema".to_vec(), b"2".to_vec())));
}

#[test]
fn a_step_of_a_migration_leaves_all_or_nothing() {
    let replica = unbuilt(&[b"pa"]);
    let view = replica.view();
    let step = |from, cursor: &[u8]| hostile().migrate_step(from, cursor, &view).expect("a step");
    let (overlay, migrated) = step(1, b"");
    assert_eq!(migrated, Ok(Migrated::More(vec![1].into())));
    assert!(!overlay.entry_is_empty());
    let (overlay, migrated) = step(1, b"x");
    assert_eq!((overlay.entry_is_empty(), migrated), (true, Ok(Migrated::Done)));
    let (overlay, migrated) = step(7, b"");
    assert!(overlay.entry_is_empty());
    assert_eq!(migrated, Err("schema 7 is unknown".to_owned()));
}

/// Table 7, which `migrate` writes, and table 1, which entries do.
#[test]
fn a_locked_table_can_be_read_and_not_written() {
    let mut replica = unbuilt(&[b"pa"]);
    let locked = hostile().with_locked(vec![7]);
    let (overlay, migrated) = locked.migrate_step(1, b"", &replica.view()).expect("a step");
    assert!(overlay.entry_is_empty() && migrated.is_err_and(|it| it.contains("a schema that")));
    let locked = hostile().with_locked(vec![1]);
    let entries = [replica.entry(2, b"pb"), replica.entry(3, b"r")];
    let applied = locked.apply(replica.state.overlay(), 0, &entries).expect("outcomes");
    assert_eq!(applied.outcomes.iter().map(|it| it.is_fault).collect::<Vec<_>>(), [true, false]);
    replica.state.commit(applied.overlay.into_writes(), Mark::default()).expect("a commit");
    let mut reader = locked.reader();
    assert!(reader.query(&replica.view(), b"ga").is_ok());
    assert!(reader.query(&replica.view(), b"gb").is_err());
}

/// The tables of the next machine are none of the state's yet, and are not afterwards.
#[test]
fn a_rehearsal_leaves_nothing_behind() {
    let replica = unbuilt(&[b"pa"]);
    let before = replica.rows();
    let patience = Duration::from_secs(10);
    let rehearsal = hostile().rehearse(1, replica.view(), patience).expect("a rehearsal");
    assert_eq!((rehearsal.steps, rehearsal.is_whole), (2, true));
    let refused = hostile().rehearse(7, replica.view(), patience);
    assert!(matches!(refused, Err(UpkeepError::Refused(why)) if why == "schema 7 is unknown"));
    assert_eq!(replica.rows(), before);

    let replica = Replica::new(kv());
    let next = runtime().load(::machines::KV_1_1).expect("a machine");
    let rehearsal = next.rehearse(1, replica.view(), patience).expect("a rehearsal");
    assert_eq!((rehearsal.steps, rehearsal.is_whole), (1, true));
    let cut_short = next.rehearse(1, replica.view(), Duration::ZERO).expect("a rehearsal");
    assert_eq!((cut_short.steps, cut_short.is_whole), (0, false));
}
