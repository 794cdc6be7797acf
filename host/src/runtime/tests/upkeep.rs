//! Work in steps: it ends, it writes only what it may, and it cannot go round in circles.

use super::{Replica, hostile};
use crate::{
    runtime::{CallError, UpkeepError},
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
