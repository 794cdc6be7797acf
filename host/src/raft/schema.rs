//! The schema of the state's rows: which machines can go on with them, and how they come to be of a newer one.
//!
//! The rows have one schema, and `Slots` says which. Until `finalise` a machine of a higher one works on the rows as they
//! are, and its new tables are locked: they are there, empty, and whoever writes them fails. So the machine before
//! can always take over again. `finalise` raises the schema, and from then on there is no way back; the rows are brought
//! to it by steps of `migrate`, each an entry of the log.
//!
//! As in `machine_commands`, everything here is a function of the log alone.

use bytes::Bytes;
use proto::instar::log as pb;

use super::machine_commands::{
    Circumstances, FAILED_PRECONDITION, Failed, expect, refuse, slots, write_slots,
};
use crate::limits;
use crate::runtime::{Description, Migrated};
use crate::storage::{Overlay, TableId, TableKind};

/// What a machine's tables are, as a member tells the others.
pub fn tables_of(description: &Description) -> Vec<pb::Table> {
    let table = |spec: &crate::storage::TableSpec| pb::Table {
        id: spec.id,
        name: spec.name.clone(),
        derived: spec.kind == TableKind::Derived,
        locked: false,
    };
    description.tables.iter().map(table).collect()
}

/// The slots with what they leave open: before the first activation the rows are those of the machine that runs.
fn completed(slots: &pb::Slots, active: &Description) -> pb::Slots {
    let mut slots = slots.clone();
    if slots.schema_version == 0 {
        slots.schema_version = active.schema_version;
        slots.tables = tables_of(active);
        slots.tables.retain(|table| !table.derived);
    }
    slots
}

/// The schema of the rows.
pub fn of_rows(slots: &pb::Slots, active: &Description) -> u32 {
    completed(slots, active).schema_version
}

/// Whether a machine can go on with the state of another one; why not, in words for the operator.
pub fn check_successor(
    slots: &pb::Slots,
    active: &Description,
    successor: &pb::Ready,
) -> Result<(), String> {
    let slots = completed(slots, active);
    if successor.name != active.name {
        let (own, other) = (&successor.name, &active.name);
        return Err(format!("it is named {own:?}, and the machine that runs {other:?}"));
    }
    let (own, rows) = (successor.schema_version, slots.schema_version);
    if own < rows {
        return Err(format!(
            "it has schema {own}, and the rows have schema {rows} since a machine of that schema was finalised: there is \
             no way back"
        ));
    }
    if own > rows && slots.migration.is_some() {
        return Err(format!(
            "it has schema {own}, and the rows are still being brought to schema {rows}: wait until `instarctl machine \
             list` shows no migration"
        ));
    }
    check_tables(&slots, active, successor)
}

fn check_tables(
    slots: &pb::Slots,
    active: &Description,
    successor: &pb::Ready,
) -> Result<(), String> {
    let derived = |tables: &[pb::Table]| {
        let mut derived: Vec<_> =
            tables.iter().filter(|it| it.derived).map(|it| (it.id, it.name.clone())).collect();
        derived.sort();
        derived
    };
    if derived(&successor.tables) != derived(&tables_of(active)) {
        return Err("it has other derived tables than the machine that runs, and they are not made anew at a switch"
            .to_owned());
    }
    let durable = || successor.tables.iter().filter(|table| !table.derived);
    let is_same = |a: &pb::Table, b: &pb::Table| a.id == b.id && a.name == b.name;
    for table in slots.tables.iter().filter(|table| !table.locked) {
        if !durable().any(|own| is_same(own, table)) {
            let (id, name) = (table.id, &table.name);
            return Err(format!("it lacks table {id} ({name}), which has rows"));
        }
    }
    for own in durable() {
        let (id, name) = (own.id, &own.name);
        let known = slots.tables.iter().find(|it| it.id == own.id || it.name == own.name);
        match known {
            Some(known) if !is_same(own, known) => {
                let (other_id, other) = (known.id, &known.name);
                return Err(format!(
                    "it has table {id} ({name}), and the state has table {other_id} ({other}): number and name go together"
                ));
            }
            Some(known) if !known.locked => {}
            _ if successor.schema_version > slots.schema_version => {}
            _ => {
                let schema = slots.schema_version;
                return Err(format!(
                    "it has table {id} ({name}), which schema {schema} does not: build it with a higher schema version"
                ));
            }
        }
    }
    let new = durable().filter(|own| !slots.tables.iter().any(|it| it.id == own.id)).count();
    if slots.tables.len() + new > limits::MACHINE_TABLES {
        return Err("the state would have more tables than it may".to_owned());
    }
    Ok(())
}

/// The slots with the tables of a machine that is to run, which `check_successor` has passed.
pub fn with_tables(slots: &pb::Slots, active: &Description, successor: &pb::Ready) -> pb::Slots {
    let mut slots = completed(slots, active);
    for table in successor.tables.iter().filter(|table| !table.derived) {
        if !slots.tables.iter().any(|known| known.id == table.id) {
            slots.tables.push(pb::Table { locked: true, ..table.clone() });
        }
    }
    slots.tables.sort_by_key(|table| table.id);
    slots
}

/// The tables of a machine that it must not write yet.
pub fn locked(slots: &pb::Slots, description: &Description) -> Vec<TableId> {
    let is_locked = |id: TableId| slots.tables.iter().any(|it| it.id == id && it.locked);
    description.tables.iter().map(|spec| spec.id).filter(|id| is_locked(*id)).collect()
}

/// Gives up the way back, and has the rows brought to the schema of the machine that runs. Done again, it changes nothing.
pub fn finalise(
    finalise: &pb::Finalise,
    overlay: &mut Overlay,
    circumstances: &Circumstances<'_>,
) -> Result<(), Failed> {
    expect(&finalise.expected_active, circumstances)?;
    let stored = slots(overlay)?;
    if stored.active.is_empty() {
        let message = "no machine was activated, so there is nothing to finalise";
        return Err(refuse(FAILED_PRECONDITION, message).into());
    }
    let active = circumstances.description;
    let mut slots = completed(&stored, active);
    let is_raised = active.schema_version > slots.schema_version;
    slots.previous = Bytes::new();
    slots.on_probation = false;
    if is_raised {
        slots.migration =
            Some(pb::Migration { from_schema: slots.schema_version, ..Default::default() });
        slots.schema_version = active.schema_version;
        for table in &mut slots.tables {
            table.locked &= !active.tables.iter().any(|spec| spec.id == table.id);
        }
    }
    Ok(write_slots(overlay, &slots)?)
}

/// The step that is to be taken next, if the rows are being brought to another schema and nothing has failed.
pub fn next_step(slots: &pb::Slots) -> Option<pb::MigrateStep> {
    let migration = slots.migration.as_ref().filter(|migration| migration.failure.is_empty())?;
    Some(pb::MigrateStep { schema_version: slots.schema_version, number: migration.steps })
}

/// The slots after a step.
pub fn after_step(slots: &pb::Slots, migrated: Result<Migrated, String>) -> pb::Slots {
    let mut slots = slots.clone();
    match (migrated, &mut slots.migration) {
        (Ok(Migrated::Done), migration) => *migration = None,
        (Ok(Migrated::More(cursor)), Some(migration)) => {
            migration.cursor = cursor;
            migration.steps += 1;
        }
        (Err(mut failure), Some(migration)) => {
            failure.truncate(failure.floor_char_boundary(limits::REJECTION_MESSAGE_BYTES));
            migration.failure = failure;
        }
        (_, None) => {}
    }
    slots
}

#[cfg(test)]
mod tests;
