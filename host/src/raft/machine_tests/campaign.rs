//! Seeded runs of the whole protocol: two operators and a client at once, members that die at any of its steps, fall
//! behind, and are sent snapshots across switches. A model says what the log means.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use super::log::{Log, digest_of};
use super::members::{MEMBERS, Members, campaign, compilers};
use super::{expect_equal, twin};
use crate::raft::machine_commands::MachineDigest;
use crate::runtime::{BUILT_IN, Machines};

const RUNS: u64 = 200;
/// A component travels in so many.
const PIECES: usize = 4;

/// What an operator or a client does: one entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Piece(usize, usize),
    Ready(usize, u64),
    Activate(usize),
    RollBack,
    Put,
    /// The put that one of the machines fails on.
    Provoke,
}

/// What the log means, as far as it goes.
struct Model {
    components: [Vec<u8>; 3],
    digests: [MachineDigest; 3],
    pieces: [usize; 3],
    ready: [BTreeSet<u64>; 3],
    active: usize,
    previous: Option<usize>,
    is_on_probation: bool,
    keys: BTreeMap<Bytes, Bytes>,
    /// Whether each entry is carried out, by its index.
    answers: BTreeMap<u64, bool>,
}

/// The components' places: the machine that all begin with, an honest successor, and one that fails when provoked.
const BASE: usize = 0;
const TWIN: usize = 1;
const TRAP: usize = 2;

impl Model {
    fn new() -> Self {
        let components = [BUILT_IN.to_vec(), twin(), ::hostile::kv("trap")];
        let digests = components.each_ref().map(|component| digest_of(component));
        Self {
            components,
            digests,
            pieces: [0; 3],
            ready: Default::default(),
            active: BASE,
            previous: None,
            is_on_probation: false,
            keys: BTreeMap::new(),
            answers: BTreeMap::new(),
        }
    }

    /// Appends what a step is in the log. `expected` is the machine that an operator takes to be active.
    fn append(&mut self, log: &mut Log, step: Step, expected: usize) -> u64 {
        let value = log.last_index().to_string();
        let (index, accepted) = match step {
            Step::Piece(which, number) => {
                let index = log.put_piece(&self.components[which], number, PIECES);
                let accepted = number <= self.pieces[which];
                self.pieces[which] += usize::from(number == self.pieces[which]);
                (index, accepted)
            }
            Step::Ready(which, member) => {
                let accepted = self.pieces[which] == PIECES;
                if accepted {
                    self.ready[which].insert(member);
                }
                (log.ready(self.digests[which], member), accepted)
            }
            Step::Activate(which) => {
                let index = log.activate(self.digests[which], self.digests[expected]);
                (index, self.activate(which, expected))
            }
            Step::RollBack => {
                let index = log.roll_back(self.digests[expected]);
                (index, self.roll_back(expected))
            }
            Step::Put => {
                let key = format!("key/{}", log.last_index() % 7);
                self.keys.insert(key.clone().into(), value.clone().into());
                (log.put(&key, &value), true)
            }
            Step::Provoke => {
                let accepted = self.active != TRAP || self.is_on_probation;
                if self.active == TRAP && self.is_on_probation {
                    let active = self.active;
                    assert!(self.roll_back(active), "probation has a previous machine");
                }
                if accepted {
                    self.keys.insert("provoke".into(), value.clone().into());
                }
                (log.put("provoke", &value), accepted)
            }
        };
        self.answers.insert(index, accepted);
        index
    }

    fn activate(&mut self, which: usize, expected: usize) -> bool {
        let is_whole = |which: usize| self.pieces[which] == PIECES;
        let is_ready = self.ready[which].len() as u64 == MEMBERS;
        let accepted = expected == self.active
            && which != self.active
            && is_whole(which)
            && is_whole(self.active)
            && is_ready;
        if accepted {
            self.previous = Some(self.active);
            self.active = which;
            self.is_on_probation = true;
        }
        accepted
    }

    fn roll_back(&mut self, expected: usize) -> bool {
        match self.previous {
            Some(previous) if expected == self.active => {
                self.active = previous;
                self.previous = None;
                self.is_on_probation = false;
                true
            }
            _ => false,
        }
    }
}

/// What one operator is going to do with a component.
fn operator(random: &mut StdRng, which: usize) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    for component in [BASE, which] {
        for number in 0..PIECES {
            steps.push_back(Step::Piece(component, number));
            // An answer was lost, and the client sends more than is needed; or a piece is lost midway.
            match random.random_range(0..8) {
                0 => steps.push_back(Step::Piece(component, random.random_range(0..=number))),
                1 => steps.push_front(Step::Piece(component, number)),
                _ => {}
            }
        }
    }
    for round in 0..random.random_range(2..5) {
        for member in 1..=MEMBERS {
            if round == 0 || random.random_bool(0.2) {
                steps.push_back(Step::Ready(which, member));
            }
        }
        steps.push_back(Step::Activate(which));
        if random.random_bool(0.5) {
            steps.push_back(Step::RollBack);
        }
    }
    steps
}

struct Run {
    members: Members,
    model: Model,
    /// At which steps members die.
    deadly: fn(Step) -> bool,
}

/// One kind of step a run.
const DEADLY: [fn(Step) -> bool; 6] = [
    |step| matches!(step, Step::Piece(_, 1..PIECES)),
    |step| matches!(step, Step::Ready(..)),
    |step| matches!(step, Step::Activate(_)),
    |step| matches!(step, Step::Provoke),
    |step| matches!(step, Step::RollBack),
    |step| matches!(step, Step::Put),
];

impl Run {
    fn new(seed: u64, machines: &[Arc<Machines>; 3]) -> Self {
        Self {
            members: Members::new(seed, machines),
            model: Model::new(),
            deadly: DEADLY[(seed % DEADLY.len() as u64) as usize],
        }
    }

    fn run(mut self) -> (u64, u64) {
        let random = &mut self.members.random;
        let mut operators = [operator(random, TWIN), operator(random, TRAP)];
        while operators.iter().any(|steps| !steps.is_empty()) {
            let random = &mut self.members.random;
            let step = match random.random_range(0..4) {
                who @ 0..2 => operators[who].pop_front(),
                2 => Some(Step::Put),
                _ => Some(Step::Provoke),
            };
            let Some(step) = step else { continue };
            let is_informed = random.random_bool(0.85);
            let guess = random.random_range(0..3);
            let expected = if is_informed { self.model.active } else { guess };
            let index = self.model.append(&mut self.members.log, step, expected);
            if (self.deadly)(step) && self.members.random.random_bool(0.3) {
                self.members.kill_at(index);
            }
            self.members.disturb();
        }
        self.settle();
        (self.members.kills, self.members.snapshots)
    }

    /// All apply the rest, and are what the model says.
    fn settle(&mut self) {
        self.members.catch_up();
        for replica in &self.members.replicas {
            let active = self.model.digests[self.model.active];
            assert_eq!(replica.active(), active, "another machine runs than should");
            assert_eq!(replica.keys(), self.model.keys, "a write is lost, or there are others");
            for (index, applied) in replica.answers.0.lock().expect("nobody panics").iter() {
                if let Some(accepted) = self.model.answers.get(index) {
                    assert_eq!(applied.response.is_ok(), *accepted, "{index}: {applied:?}");
                }
            }
        }
        expect_equal(&self.members.replicas);
    }
}

#[test]
fn members_die_at_every_step() {
    let cache = tempfile::tempdir().expect("a directory");
    let machines = compilers(cache.path());
    campaign(RUNS, |seed| Run::new(seed, &machines).run());
}
