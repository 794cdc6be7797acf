//! Checks a history with revisions as the witness of its order.
//!
//! A write stands at its revision, a read directly after the revision its answer names. That order is
//! right if each step follows from the one before it, each answer is what its place demands, each change
//! of the store is some client's and happened once, and nothing stands before something that had been
//! answered when it was asked for. Unknown outcomes are decided by the timeline.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::history::{Action, History, Operation, Outcome, Timeline, Write};

/// Why no order that agrees with the revisions explains a history. Operations are positions in it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error("operation {operation} names revision {revision}, which the timeline does not have")]
    NoSuchRevision { operation: usize, revision: i64 },
    #[error("operations {first} and {second} were both told that they wrote revision {revision}")]
    SharedRevision { first: usize, second: usize, revision: i64 },
    #[error(
        "revision {revision} is no operation's, or that of one that wrote already or never asked"
    )]
    Unexplained { revision: i64 },
    #[error("revision {revision} is not what operation {operation} makes of the one before it")]
    WrongEffect { operation: usize, revision: i64 },
    #[error("operation {operation} wrote revision {revision} although its condition did not hold")]
    ConditionIgnored { operation: usize, revision: i64 },
    #[error("operation {operation} was refused at revision {revision} although its condition held")]
    ConditionHeld { operation: usize, revision: i64 },
    #[error("operation {operation} saw what was not there at revision {revision}")]
    WrongRead { operation: usize, revision: i64 },
    #[error("operation {later} stands before operation {earlier}, which had been answered already")]
    OutOfOrder { earlier: usize, later: usize },
}

/// Checks a whole history; the first violation found.
pub fn check(history: &History) -> Result<(), Violation> {
    let writers = writers(history)?;
    check_effects(history, &writers)?;
    check_reads(history)?;
    check_real_time(history, &writers)
}

fn write_of(operation: &Operation) -> Option<&Write> {
    match &operation.action {
        Action::Write(write) => Some(write),
        Action::Read { .. } => None,
    }
}

/// Which operation wrote each revision after the timeline's first.
fn writers(history: &History) -> Result<BTreeMap<i64, usize>, Violation> {
    let mut writers = BTreeMap::new();
    let mut unknown = BTreeMap::new();
    for (at, operation) in history.operations.iter().enumerate() {
        match (&operation.outcome, write_of(operation)) {
            (&Outcome::Wrote { revision }, _) => {
                if history.timeline.at(revision).is_none() {
                    return Err(Violation::NoSuchRevision { operation: at, revision });
                }
                if let Some(first) = writers.insert(revision, at) {
                    return Err(Violation::SharedRevision { first, second: at, revision });
                }
            }
            (Outcome::Unknown, Some(write)) => drop(unknown.insert(write.value.as_str(), at)),
            _ => {}
        }
    }
    for revision in revisions_after_first(&history.timeline) {
        if let Entry::Vacant(place) = writers.entry(revision) {
            let value = value_put_at(&history.timeline, revision);
            let writer = value.and_then(|value| unknown.remove(value));
            place.insert(writer.ok_or(Violation::Unexplained { revision })?);
        }
    }
    Ok(writers)
}

fn revisions_after_first(timeline: &Timeline) -> impl Iterator<Item = i64> {
    (timeline.first + 1..).take(timeline.states.len().saturating_sub(1))
}

fn value_put_at(timeline: &Timeline, revision: i64) -> Option<&str> {
    let rows = timeline.at(revision)?;
    rows.values().find(|row| row.mod_revision == revision).map(|row| row.value.as_str())
}

/// Every revision is what its writer makes of the one before it.
fn check_effects(history: &History, writers: &BTreeMap<i64, usize>) -> Result<(), Violation> {
    for (&revision, &operation) in writers {
        let timeline = &history.timeline;
        let Some((before, after)) = timeline.at(revision - 1).zip(timeline.at(revision)) else {
            return Err(Violation::NoSuchRevision { operation, revision });
        };
        let Some(write) = write_of(&history.operations[operation]) else {
            return Err(Violation::Unexplained { revision });
        };
        if write.condition.as_ref().is_some_and(|condition| !condition.holds(before)) {
            return Err(Violation::ConditionIgnored { operation, revision });
        }
        if write.apply(before, revision) != *after {
            return Err(Violation::WrongEffect { operation, revision });
        }
    }
    Ok(())
}

/// Every answer is what was there at the revision it names.
fn check_reads(history: &History) -> Result<(), Violation> {
    for (at, operation) in history.operations.iter().enumerate() {
        let Outcome::Saw { revision, rows } = &operation.outcome else { continue };
        let (operation_at, revision) = (at, *revision);
        let Some(there) = history.timeline.at(revision) else {
            return Err(Violation::NoSuchRevision { operation: operation_at, revision });
        };
        if operation.action.view(there) != *rows {
            return Err(Violation::WrongRead { operation: operation_at, revision });
        }
        let condition = write_of(operation).and_then(|write| write.condition.as_ref());
        if condition.is_some_and(|condition| condition.holds(there)) {
            return Err(Violation::ConditionHeld { operation: operation_at, revision });
        }
    }
    Ok(())
}

/// Nothing stands before what had been answered when it was asked for.
fn check_real_time(history: &History, writers: &BTreeMap<i64, usize>) -> Result<(), Violation> {
    let places = places(history, writers);
    // At equal times invocations come first: such operations overlap.
    let mut moments = Vec::new();
    for (at, operation) in history.operations.iter().enumerate() {
        moments.push((operation.invoked_ns, 0, at));
        if operation.outcome != Outcome::Unknown {
            moments.push((operation.returned_ns, 1, at));
        }
    }
    moments.sort_unstable();
    let mut highest: Option<(i64, usize)> = None;
    for (_, kind, at) in moments {
        let Some(place) = places[at] else { continue };
        let is_return = kind == 1;
        if is_return {
            highest = highest.max(Some((place, at)));
        } else if let Some((floor, earlier)) = highest
            && place < floor
            && !may_be_stale(&history.operations[at])
        {
            return Err(Violation::OutOfOrder { earlier, later: at });
        }
    }
    Ok(())
}

/// Where each operation stands: a write at twice its revision, a read right after the revision it saw.
fn places(history: &History, writers: &BTreeMap<i64, usize>) -> Vec<Option<i64>> {
    let mut places = vec![None; history.operations.len()];
    for (&revision, &operation) in writers {
        places[operation] = Some(revision * 2);
    }
    for (at, operation) in history.operations.iter().enumerate() {
        if let Outcome::Saw { revision, .. } = operation.outcome {
            places[at] = Some(revision * 2 + 1);
        }
    }
    places
}

fn may_be_stale(operation: &Operation) -> bool {
    matches!(operation.action, Action::Read { serializable: true, .. })
}
