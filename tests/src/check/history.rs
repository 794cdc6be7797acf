//! What clients did, what they were told, and what the store held at each revision.

use std::collections::BTreeMap;

/// A key's value and its place in the history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub value: String,
    pub create_revision: i64,
    pub mod_revision: i64,
    pub version: i64,
}

/// All keys at one revision.
pub type Rows = BTreeMap<String, Row>;

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    Put { key: String },
    Delete { key: String },
}

/// What must hold for a write to happen: the key's value, or that there is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    pub key: String,
    pub value: Option<String>,
}

/// Changes in one revision. At least one of them is a put, and every put has `value`, which no other
/// write of the history has: that is how the store's revisions are told apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    pub value: String,
    pub condition: Option<Condition>,
    pub effects: Vec<Effect>,
}

/// What a client asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Write(Write),
    /// One key, or all without one.
    Read {
        key: Option<String>,
        serializable: bool,
    },
}

/// What it was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The write happened, at this revision.
    Wrote { revision: i64 },
    /// A read's answer; or the condition did not hold, with its key as it was. `revision` is the store's
    /// latest at that moment.
    Saw { revision: i64, rows: Rows },
    /// Nothing: the write happened once, or never, or is still to happen.
    Unknown,
}

/// One request. Times are nanoseconds of one clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    pub client: usize,
    pub invoked_ns: u64,
    /// When the answer came; meaningless for an unknown outcome.
    pub returned_ns: u64,
    pub action: Action,
    pub outcome: Outcome,
}

/// The store's keys after each revision from `first` on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timeline {
    pub first: i64,
    pub states: Vec<Rows>,
}

impl Timeline {
    /// The keys at a revision, if the timeline has it.
    pub fn at(&self, revision: i64) -> Option<&Rows> {
        let at = revision.checked_sub(self.first)?;
        self.states.get(usize::try_from(at).ok()?)
    }
}

/// A run: its operations in any order, and its timeline read afterwards.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    pub operations: Vec<Operation>,
    pub timeline: Timeline,
}

impl Condition {
    /// Whether the condition holds among these keys.
    pub fn holds(&self, rows: &Rows) -> bool {
        rows.get(&self.key).map(|row| &row.value) == self.value.as_ref()
    }
}

impl Write {
    /// The keys after the write at `revision`.
    pub fn apply(&self, before: &Rows, revision: i64) -> Rows {
        let mut rows = before.clone();
        for effect in &self.effects {
            match effect {
                Effect::Delete { key } => drop(rows.remove(key)),
                Effect::Put { key } => {
                    let old = rows.get(key);
                    let row = Row {
                        value: self.value.clone(),
                        create_revision: old.map_or(revision, |old| old.create_revision),
                        mod_revision: revision,
                        version: old.map_or(0, |old| old.version) + 1,
                    };
                    rows.insert(key.clone(), row);
                }
            }
        }
        rows
    }
}

impl Action {
    /// What a read at a revision with these keys must have seen; for a write, its condition's key.
    pub fn view(&self, rows: &Rows) -> Rows {
        let key = match self {
            Self::Read { key, .. } => key.as_ref(),
            Self::Write(write) => write.condition.as_ref().map(|condition| &condition.key),
        };
        match key {
            None => rows.clone(),
            Some(key) => rows
                .get_key_value(key)
                .map(|(k, row)| (k.clone(), row.clone()))
                .into_iter()
                .collect(),
        }
    }
}
