//! Searches for an order that explains a small history (Wing and Gong's search with Lowe's memory of
//! what has been tried). Revisions are not believed, only values.

use std::collections::{BTreeMap, HashSet};

use super::history::{Action, Effect, Operation, Outcome, Rows, Write};

/// The most operations a history may have here.
pub const OPERATIONS_MAX: usize = 64;

/// Keys and values only.
type Values = BTreeMap<String, String>;

/// Whether some order of the operations, from an empty store on, explains every answer. Serializable
/// reads are left out. Panics with more than `OPERATIONS_MAX` operations.
pub fn is_linearizable(operations: &[Operation]) -> bool {
    assert!(operations.len() <= OPERATIONS_MAX, "too many operations for a search");
    let stale = |operation: &&Operation| {
        matches!(operation.action, Action::Read { serializable: true, .. })
    };
    let operations: Vec<&Operation> = operations.iter().filter(|op| !stale(op)).collect();
    Search { operations, tried: HashSet::new() }.from(0, &Values::new())
}

struct Search<'a> {
    operations: Vec<&'a Operation>,
    /// Sets of operations done, with what they left: nothing is to be found from there.
    tried: HashSet<(u64, Values)>,
}

impl Search<'_> {
    fn from(&mut self, done: u64, values: &Values) -> bool {
        let open: Vec<usize> =
            (0..self.operations.len()).filter(|at| done & (1 << at) == 0).collect();
        let known = |at: &&usize| self.operations[**at].outcome != Outcome::Unknown;
        let Some(first_return) =
            open.iter().filter(known).map(|&at| self.operations[at].returned_ns).min()
        else {
            return true;
        };
        if !self.tried.insert((done, values.clone())) {
            return false;
        }
        open.into_iter().any(|at| {
            let operation = self.operations[at];
            operation.invoked_ns <= first_return
                && step(operation, values).is_some_and(|next| self.from(done | (1 << at), &next))
        })
    }
}

/// What the operation leaves, if its answer fits here.
fn step(operation: &Operation, values: &Values) -> Option<Values> {
    let holds = |write: &Write| match &write.condition {
        Some(condition) => values.get(&condition.key) == condition.value.as_ref(),
        None => true,
    };
    match (&operation.action, &operation.outcome) {
        (Action::Write(write), Outcome::Wrote { .. }) => {
            holds(write).then(|| written(write, values))
        }
        (Action::Write(write), Outcome::Unknown) => {
            Some(if holds(write) { written(write, values) } else { values.clone() })
        }
        (Action::Write(write), Outcome::Saw { rows, .. }) => {
            let key = write.condition.as_ref().map(|condition| &condition.key);
            (!holds(write) && saw(key, rows, values)).then(|| values.clone())
        }
        (Action::Read { key, .. }, Outcome::Saw { rows, .. }) => {
            saw(key.as_ref(), rows, values).then(|| values.clone())
        }
        (Action::Read { .. }, _) => Some(values.clone()),
    }
}

fn saw(key: Option<&String>, rows: &Rows, values: &Values) -> bool {
    let seen = rows.iter().map(|(key, row)| (key, &row.value));
    match key {
        None => seen.eq(values.iter()),
        Some(key) => seen.eq(values.get_key_value(key)),
    }
}

fn written(write: &Write, values: &Values) -> Values {
    let mut values = values.clone();
    for effect in &write.effects {
        match effect {
            Effect::Delete { key } => drop(values.remove(key)),
            Effect::Put { key } => drop(values.insert(key.clone(), write.value.clone())),
        }
    }
    values
}
