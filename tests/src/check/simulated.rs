//! Histories of a simulated store, with or without a fault: what the checkers are checked with.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::history::*;

/// What the simulated store does wrong, once, as soon as it can.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    None,
    /// A write is acknowledged and never happens; its revision is the one it should have had.
    LostWrite,
    /// A write of unknown outcome happens twice.
    DoubleWrite,
    /// A read answers with a former state, at that state's revision.
    StaleRead,
    /// A read answers with a value that was never there.
    WrongValue,
    /// Two writes that did not overlap have their revisions exchanged.
    Reordered,
    /// A conditional write happens although its condition does not hold.
    ConditionIgnored,
    /// A conditional write is refused although its condition holds.
    ConditionHeld,
}

pub const FAULTS: [Fault; 7] = [
    Fault::LostWrite,
    Fault::DoubleWrite,
    Fault::StaleRead,
    Fault::WrongValue,
    Fault::Reordered,
    Fault::ConditionIgnored,
    Fault::ConditionHeld,
];

const KEYS: [&str; 3] = ["a", "b", "c"];

/// A history of `count` operations of a few clients, and whether the fault could be placed in it.
pub fn history(seed: u64, count: usize, fault: Fault) -> (History, bool) {
    let store = vec![Rows::new()];
    let random = StdRng::seed_from_u64(seed);
    let mut simulation = Simulation { random, states: store, fault, placed: fault == Fault::None };
    let mut operations: Vec<Operation> = (0..count).map(|at| simulation.operation(at)).collect();
    if fault == Fault::Reordered {
        simulation.placed = exchange(&mut operations, &mut simulation.states);
    }
    let timeline = Timeline { first: 1, states: simulation.states };
    (History { operations, timeline }, simulation.placed)
}

struct Simulation {
    random: StdRng,
    /// The state after each revision; the first is revision 1.
    states: Vec<Rows>,
    fault: Fault,
    placed: bool,
}

impl Simulation {
    fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    fn now(&self) -> &Rows {
        self.states.last().expect("never empty")
    }

    /// Places the fault, if it is this one, is not placed yet, and the dice say so.
    fn is_time_for(&mut self, fault: Fault) -> bool {
        let now = self.fault == fault && !self.placed && self.random.random_bool(0.3);
        self.placed |= now;
        now
    }

    /// Operations take effect in the order of this function's calls, each at `at * 100`; they begin up
    /// to 250 before and end up to 250 after that, so that neighbours overlap.
    fn operation(&mut self, at: usize) -> Operation {
        let effect_ns = 1000 + at as u64 * 100;
        let invoked_ns = effect_ns - self.random.random_range(0..250);
        let returned_ns = effect_ns + self.random.random_range(0..250);
        let (action, outcome) = match self.random.random_bool(0.5) {
            true => self.read(),
            false => self.write(at),
        };
        Operation { client: at % 5, invoked_ns, returned_ns, action, outcome }
    }

    fn read(&mut self) -> (Action, Outcome) {
        let key = self.random.random_bool(0.8).then(|| self.key());
        let serializable = self.random.random_bool(0.1);
        let action = Action::Read { key, serializable };
        let mut revision = self.revision();
        // Serializable reads may be as old as they like; so old that no linearizable one may.
        let old = revision > 6
            && (serializable
                || (self.fault == Fault::StaleRead && self.is_time_for(Fault::StaleRead)));
        if old {
            revision -= 6;
        }
        let mut rows = action.view(&self.states[revision as usize - 1]);
        if !rows.is_empty() && self.is_time_for(Fault::WrongValue) {
            rows.values_mut().for_each(|row| row.value = "never written".into());
        }
        (action, Outcome::Saw { revision, rows })
    }

    fn key(&mut self) -> String {
        (*KEYS.choose(&mut self.random).expect("keys")).to_owned()
    }

    fn write(&mut self, at: usize) -> (Action, Outcome) {
        let key = self.key();
        let now = self.now().get(&key).map(|row| row.value.clone());
        let value = if self.random.random_bool(0.7) { now } else { Some("outdated".into()) };
        let conditional = self.random.random_bool(0.4);
        let condition = conditional.then(|| Condition { key: key.clone(), value });
        let effects = match self.random.random_bool(0.2) {
            true => vec![Effect::Delete { key }, Effect::Put { key: "marker".into() }],
            false => vec![Effect::Put { key }],
        };
        let write = Write { value: format!("v{at}"), condition, effects };
        let outcome = self.outcome(&write);
        (Action::Write(write), outcome)
    }

    fn outcome(&mut self, write: &Write) -> Outcome {
        let holds = write.condition.as_ref().is_none_or(|condition| condition.holds(self.now()));
        let refused = Outcome::Saw {
            revision: self.revision(),
            rows: Action::Write(write.clone()).view(self.now()),
        };
        if !holds {
            return match self.is_time_for(Fault::ConditionIgnored) {
                true => self.apply(write),
                false => refused,
            };
        }
        if write.condition.is_some() && self.is_time_for(Fault::ConditionHeld) {
            return refused;
        }
        if self.is_time_for(Fault::LostWrite) {
            return Outcome::Wrote { revision: self.revision() + 1 };
        }
        if self.random.random_bool(0.1) {
            if self.random.random_bool(0.5) {
                self.apply(write);
                if write.condition.is_none() && self.is_time_for(Fault::DoubleWrite) {
                    self.apply(write);
                }
            }
            return Outcome::Unknown;
        }
        self.apply(write)
    }

    fn apply(&mut self, write: &Write) -> Outcome {
        let revision = self.revision() + 1;
        let after = write.apply(self.now(), revision);
        self.states.push(after);
        Outcome::Wrote { revision }
    }
}

/// Exchanges two adjacent unconditional writes that did not overlap and rebuilds the states; reads keep
/// their revisions and see what is now there.
fn exchange(operations: &mut [Operation], states: &mut Vec<Rows>) -> bool {
    let wrote = |operation: &Operation| match (&operation.action, &operation.outcome) {
        (Action::Write(write), Outcome::Wrote { revision }) if write.condition.is_none() => {
            Some(*revision)
        }
        _ => None,
    };
    let pair = (0..operations.len()).find_map(|first| {
        let revision = wrote(&operations[first])?;
        let second = operations.iter().position(|other| wrote(other) == Some(revision + 1))?;
        let apart = operations[first].returned_ns < operations[second].invoked_ns;
        apart.then_some((first, second, revision))
    });
    let Some((first, second, revision)) = pair else { return false };
    operations[first].outcome = Outcome::Wrote { revision: revision + 1 };
    operations[second].outcome = Outcome::Wrote { revision };
    // Only a history that ends here stays consistent in everything else.
    states.truncate(revision as usize - 1);
    for at in [second, first] {
        let Action::Write(write) = &operations[at].action else { return false };
        let after = write.apply(states.last().expect("never empty"), states.len() as i64 + 1);
        states.push(after);
    }
    true
}
