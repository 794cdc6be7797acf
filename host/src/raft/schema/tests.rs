//! Who may take over from whom, and what becomes of the slots.

use super::*;
use crate::storage::TableSpec;

type Declared = (u32, &'static str, TableKind);

const KEYS: Declared = (1, "keys", TableKind::Durable);
const INDEX: Declared = (2, "index", TableKind::Derived);
const COUNTS: Declared = (13, "counts", TableKind::Durable);

fn machine(schema_version: u32, tables: &[Declared]) -> Description {
    let spec =
        |(id, name, kind): &Declared| TableSpec { id: *id, name: (*name).to_owned(), kind: *kind };
    Description {
        name: "kv".to_owned(),
        version: "1".to_owned(),
        schema_version,
        tables: tables.iter().map(spec).collect(),
    }
}

fn ready(description: &Description) -> pb::Ready {
    pb::Ready {
        name: description.name.clone(),
        schema_version: description.schema_version,
        tables: tables_of(description),
        ..pb::Ready::default()
    }
}

/// The slots after an activation.
fn activated(slots: &pb::Slots, active: &Description, successor: &Description) -> pb::Slots {
    check_successor(slots, active, &ready(successor)).expect("a successor");
    let slots = with_tables(slots, active, &ready(successor));
    let active = Bytes::from(vec![successor.schema_version as u8; 32]);
    pb::Slots { active, previous: Bytes::from_static(&[9; 32]), on_probation: true, ..slots }
}

fn old() -> Description {
    machine(1, &[KEYS, INDEX])
}

fn new() -> Description {
    machine(2, &[KEYS, INDEX, COUNTS])
}

/// What `finalise` makes of the slots.
fn finalised(slots: &pb::Slots, active: &Description) -> pb::Slots {
    let directory = tempfile::tempdir().expect("a directory");
    let tables = super::super::with_host_tables(&active.tables);
    let state = crate::storage::State::open(directory.path(), &crate::storage::files(), &tables);
    let mut overlay = state.expect("a state").overlay();
    write_slots(&mut overlay, slots).expect("a row");
    let active_digest = slots.active.as_ref().try_into().expect("a digest");
    let circumstances =
        Circumstances { active: active_digest, description: active, voters: vec![] };
    let request = pb::Finalise { expected_active: slots.active.clone() };
    let done = finalise(&request, &mut overlay, &circumstances);
    assert!(done.is_ok());
    super::super::slots(&overlay).expect("slots")
}

#[test]
fn new_tables_are_locked_until_the_schema_is_raised() {
    let slots = activated(&pb::Slots::default(), &old(), &new());
    assert_eq!((slots.schema_version, locked(&slots, &new())), (1, vec![13]));
    assert_eq!(locked(&slots, &old()), Vec::<TableId>::new());
    // Back, and once more: the table is known, and still nobody's.
    assert_eq!(check_successor(&slots, &new(), &ready(&old())), Ok(()));
    let again = activated(&slots, &old(), &new());
    assert_eq!((again.tables.len(), locked(&again, &new())), (2, vec![13]));

    let raised = finalised(&again, &new());
    assert_eq!((raised.schema_version, locked(&raised, &new())), (2, vec![]));
    assert!(raised.previous.is_empty() && !raised.on_probation);
    assert_eq!(raised.migration.as_ref().map(|it| (it.from_schema, it.steps)), Some((1, 0)));
    assert_eq!(finalised(&raised, &new()), raised, "done again, it changes nothing");
}

#[test]
fn who_cannot_go_on_with_the_rows_is_refused() {
    let refused = |slots: &pb::Slots, active: &Description, other: &Description, part: &str| {
        let reason = check_successor(slots, active, &ready(other)).expect_err(part);
        assert!(reason.contains(part), "{reason}");
    };
    let none = pb::Slots::default();
    refused(&none, &old(), &Description { name: "queue".to_owned(), ..old() }, "is named");
    refused(&none, &old(), &machine(2, &[INDEX, COUNTS]), "lacks table 1 (keys)");
    refused(&none, &old(), &machine(1, &[KEYS, INDEX, COUNTS]), "schema 1 does not");
    refused(&none, &old(), &machine(2, &[KEYS, COUNTS]), "other derived tables");
    refused(
        &none,
        &old(),
        &machine(2, &[KEYS, INDEX, (1, "counts", TableKind::Durable)]),
        "go together",
    );
    let tried = activated(&none, &old(), &new());
    let renamed = machine(3, &[KEYS, INDEX, (13, "ttl", TableKind::Durable)]);
    refused(&tried, &new(), &renamed, "the state has table 13 (counts)");
    let raised = finalised(&tried, &new());
    refused(&raised, &new(), &old(), "no way back");
    refused(&raised, &new(), &machine(3, &[KEYS, INDEX, COUNTS]), "still being brought");
    let over = after_step(&raised, Ok(Migrated::Done));
    assert_eq!(check_successor(&over, &new(), &ready(&machine(3, &[KEYS, INDEX, COUNTS]))), Ok(()));
    refused(&over, &new(), &machine(3, &[KEYS, INDEX]), "lacks table 13");
}

#[test]
fn a_migration_goes_on_from_its_cursor_and_stops_at_a_failure() {
    let raised = finalised(&activated(&pb::Slots::default(), &old(), &new()), &new());
    let step = |slots: &pb::Slots| next_step(slots).map(|step| (step.schema_version, step.number));
    assert_eq!(step(&raised), Some((2, 0)));
    let after = after_step(&raised, Ok(Migrated::More(Bytes::from_static(b"k"))));
    assert_eq!(step(&after), Some((2, 1)));
    assert_eq!(after.migration.as_ref().map(|it| &it.cursor[..]), Some(&b"k"[..]));
    let failed = after_step(&after, Err("a row that nobody understands".to_owned()));
    assert_eq!(step(&failed), None);
    assert_eq!(failed.migration.as_ref().map(|it| it.steps), Some(1));
    let over = after_step(&after, Ok(Migrated::Done));
    assert_eq!((step(&over), over.migration), (None, None));
}
