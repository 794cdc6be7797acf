//! What two machines made of the same entries, side by side, and where it differs, in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bytes::Bytes;
use proto::instar::v1 as pb;

use super::shadow::ShadowBatch;
use crate::limits;
use crate::runtime::{Applied, Description, Outcome, RowRef};
use crate::storage::{TableId, Tables, View, Writes};

/// What a batch's comparison found.
#[derive(Default)]
pub struct Found {
    /// So many entries were compared, from the first on.
    pub compared: usize,
    /// Entries whose response, revision or events differ.
    pub entries: u64,
    /// Whether the batch left other rows.
    pub in_writes: bool,
    /// Up to the limit on them.
    pub differences: Vec<pb::Difference>,
}

/// Compares what the active machine did with what another one, of this description, did.
pub fn compare(machine: &Description, batch: &ShadowBatch, applied: Applied) -> Found {
    let mut found = Found::default();
    let mut is_equal = true;
    let sides = batch.outcomes.iter().zip(&applied.outcomes);
    for (entry, (active, shadow)) in batch.commands.iter().zip(sides) {
        found.compared += 1;
        // The digest is of all that an entry did; most entries are done with here.
        if active.digest == shadow.digest {
            continue;
        }
        is_equal = false;
        let parts = parts(machine, active, shadow);
        found.entries += u64::from(!parts.is_empty());
        for (part, active, shadow) in parts {
            found.note(pb::Difference {
                first_index: entry.index,
                last_index: entry.index,
                part: part.to_owned(),
                active,
                shadow,
                command: cut(entry.command.escape_ascii().to_string()),
            });
        }
        // What follows in the batch was applied to another state.
        if active.revision != shadow.revision || active.events != shadow.events {
            break;
        }
    }
    if is_equal {
        return found;
    }
    let shadow = applied.overlay.into_writes();
    let (active, shadow) = differing_rows(machine, &batch.view, &batch.writes, &shadow);
    if active != shadow {
        found.in_writes = true;
        found.note(pb::Difference {
            first_index: batch.commands.first().map_or(0, |entry| entry.index),
            last_index: batch.commands.last().map_or(0, |entry| entry.index),
            part: "writes".to_owned(),
            active: cut(active),
            shadow: cut(shadow),
            command: String::new(),
        });
    }
    found
}

impl Found {
    fn note(&mut self, difference: pb::Difference) {
        if self.differences.len() < limits::SHADOW_DIFFERENCES {
            self.differences.push(difference);
        }
    }
}

/// The parts of an entry's effects that differ, and both sides of each.
fn parts(
    machine: &Description,
    active: &Outcome,
    shadow: &Outcome,
) -> Vec<(&'static str, String, String)> {
    let mut parts = Vec::new();
    if active.response != shadow.response {
        parts.push(("response", response(active), response(shadow)));
    }
    if active.revision != shadow.revision {
        parts.push(("revision", active.revision.to_string(), shadow.revision.to_string()));
    }
    if active.events != shadow.events {
        let (active, shadow) = (&active.events, &shadow.events);
        parts.push(("events", events(machine, active), events(machine, shadow)));
    }
    parts
}

fn response(outcome: &Outcome) -> String {
    cut(match &outcome.response {
        Ok(body) => format!("answered \"{}\"", body.escape_ascii()),
        Err(rejection) => format!("rejected with {}: {}", rejection.code, rejection.message),
    })
}

fn events(machine: &Description, events: &[RowRef]) -> String {
    let mut text = String::new();
    for event in events {
        if text.len() > limits::SHADOW_DIFFERENCE_BYTES {
            break;
        }
        let separator = if text.is_empty() { "" } else { ", " };
        let key = event.key.escape_ascii();
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{} \"{key}\"", table_name(machine, event.table));
    }
    match text.is_empty() {
        true => "none".to_owned(),
        false => cut(text),
    }
}

type Rows<'a> = BTreeMap<(TableId, &'a Bytes), Option<&'a Bytes>>;

/// The rows that the two leave different, as each leaves them. To write what is there already is no difference.
fn differing_rows(
    machine: &Description,
    view: &View,
    active: &Writes,
    shadow: &Writes,
) -> (String, String) {
    let active: Rows = active.rows().map(|(table, key, value)| ((table, key), value)).collect();
    let shadow: Rows = shadow.rows().map(|(table, key, value)| ((table, key), value)).collect();
    let mut sides = (String::new(), String::new());
    let keys = active.keys().chain(shadow.keys().filter(|key| !active.contains_key(*key)));
    for row in keys {
        if sides.0.len().min(sides.1.len()) > limits::SHADOW_DIFFERENCE_BYTES {
            break;
        }
        let side = |rows: &Rows| match rows.get(row) {
            Some(value) => value.cloned(),
            None => before(view, row.0, row.1),
        };
        let (active, shadow) = (side(&active), side(&shadow));
        if active != shadow {
            describe(&mut sides.0, machine, row, active.as_deref());
            describe(&mut sides.1, machine, row, shadow.as_deref());
        }
    }
    sides
}

fn before(view: &View, table: TableId, key: &[u8]) -> Option<Bytes> {
    let mut found = None;
    // A view that cannot be read fails the apply thread, which needs it more.
    let read = view.get(table, key, &mut |value| found = Some(Bytes::copy_from_slice(value)));
    read.ok().and(found)
}

fn describe(
    text: &mut String,
    machine: &Description,
    (table, key): &(TableId, &Bytes),
    value: Option<&[u8]>,
) {
    let separator = if text.is_empty() { "" } else { "; " };
    let (table, key) = (table_name(machine, *table), key.escape_ascii());
    // Writing to a string does not fail.
    let _ = match value {
        Some(value) => write!(text, "{separator}{table} \"{key}\" = \"{}\"", value.escape_ascii()),
        None => write!(text, "{separator}{table} \"{key}\" is not there"),
    };
}

fn table_name(machine: &Description, table: TableId) -> String {
    let spec = machine.tables.iter().find(|spec| spec.id == table);
    spec.map_or_else(|| format!("table {table}"), |spec| spec.name.clone())
}

fn cut(mut text: String) -> String {
    if text.len() > limits::SHADOW_DIFFERENCE_BYTES {
        let bytes = text.len();
        let end = text.floor_char_boundary(limits::SHADOW_DIFFERENCE_BYTES);
        text.truncate(end);
        text.push_str(&format!("… ({bytes} bytes)"));
    }
    text
}
