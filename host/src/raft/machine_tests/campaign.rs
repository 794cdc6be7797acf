//! Seeded runs of the whole protocol: two operators and a client at once, members that die at any of its steps, fall
//! behind, and are sent snapshots across switches. A model says what the log means.
//!
//! `INSTAR_SEED` repeats a run, `INSTAR_CAMPAIGN` makes so many times as many.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::log::{Log, digest_of};
use super::{Replica, expect_equal, machines, twin};
use crate::raft::machine_commands::MachineDigest;
use crate::runtime::{BUILT_IN, Machines};

const RUNS: u64 = 200;
/// A component travels in so many.
const PIECES: usize = 4;
const MEMBERS: u64 = 3;

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
    random: StdRng,
    log: Log,
    model: Model,
    replicas: [Replica; 3],
    /// At which steps members die.
    deadly: fn(Step) -> bool,
    kills: u64,
    snapshots: u64,
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
        let mut ids = 1..=MEMBERS;
        let replica = |machines: &Arc<Machines>| {
            Replica::new(ids.next().expect("three of them"), machines.clone())
        };
        Self {
            random: StdRng::seed_from_u64(seed),
            log: Log::new(),
            model: Model::new(),
            replicas: machines.each_ref().map(replica),
            deadly: DEADLY[(seed % DEADLY.len() as u64) as usize],
            kills: 0,
            snapshots: 0,
        }
    }

    fn run(mut self) -> (u64, u64) {
        let mut operators = [operator(&mut self.random, TWIN), operator(&mut self.random, TRAP)];
        while operators.iter().any(|steps| !steps.is_empty()) {
            let step = match self.random.random_range(0..4) {
                who @ 0..2 => operators[who].pop_front(),
                2 => Some(Step::Put),
                _ => Some(Step::Provoke),
            };
            let Some(step) = step else { continue };
            let is_informed = self.random.random_bool(0.85);
            let guess = self.random.random_range(0..3);
            let expected = if is_informed { self.model.active } else { guess };
            let index = self.model.append(&mut self.log, step, expected);
            if (self.deadly)(step) && self.random.random_bool(0.3) {
                self.kill_at(index);
            }
            self.disturb();
        }
        self.settle();
        (self.kills, self.snapshots)
    }

    /// A member dies before it has applied an entry, right after, or after that was brought to disk.
    fn kill_at(&mut self, index: u64) {
        let before = self.random.random_bool(0.3);
        let is_durable = self.random.random_bool(0.4);
        let replica = &mut self.replicas[self.random.random_range(0..MEMBERS as usize)];
        replica.apply_to(&self.log, index - u64::from(before));
        if is_durable {
            replica.persist();
        }
        replica.crash();
        self.kills += 1;
    }

    /// Members go on, each at its own pace; now and then one is left behind, or dies.
    fn disturb(&mut self) {
        for at in 0..self.replicas.len() {
            let last = self.log.last_index();
            match self.random.random_range(0..100) {
                0..40 => {
                    let from = self.replicas[at].applied_index();
                    let index = self.random.random_range(from.min(last)..=last);
                    self.replicas[at].apply_to(&self.log, index);
                }
                40..44 => self.replicas[at].persist(),
                44..46 => {
                    self.replicas[at].crash();
                    self.kills += 1;
                }
                46..48 => self.send_snapshot(at),
                _ => {}
            }
        }
    }

    fn send_snapshot(&mut self, to: usize) {
        let from = (to + 1) % self.replicas.len();
        if self.replicas[from].applied_index() > self.replicas[to].applied_index() {
            let [first, second, third] = &mut self.replicas;
            let (to, from) = match to {
                0 => (first, second),
                1 => (second, third),
                _ => (third, first),
            };
            to.install(from);
            self.snapshots += 1;
        }
    }

    /// All apply the rest, and are what the model says.
    fn settle(&mut self) {
        let last = self.log.last_index();
        for replica in &mut self.replicas {
            while replica.applied_index() < last {
                let index = replica.applied_index() + self.random.random_range(1..20);
                replica.apply_to(&self.log, index);
            }
            let active = self.model.digests[self.model.active];
            assert_eq!(replica.active(), active, "another machine runs than should");
            assert_eq!(replica.keys(), self.model.keys, "a write is lost, or there are others");
            for (index, applied) in replica.answers.0.lock().expect("nobody panics").iter() {
                if let Some(accepted) = self.model.answers.get(index) {
                    assert_eq!(applied.response.is_ok(), *accepted, "{index}: {applied:?}");
                }
            }
        }
        expect_equal(&self.replicas);
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn members(cache: &Path) -> [Arc<Machines>; 3] {
    [(); 3].map(|()| machines(cache))
}

#[test]
fn members_die_at_every_step() {
    let seed = number("INSTAR_SEED").unwrap_or_else(|| rand::rng().random());
    let runs = RUNS * number("INSTAR_CAMPAIGN").unwrap_or(1).max(1);
    let cache = tempfile::tempdir().expect("a directory");
    let machines = members(cache.path());
    let (mut kills, mut snapshots) = (0, 0);
    for run in 0..runs {
        let seed = seed.wrapping_add(run);
        // With the last of these, the run that failed is the first of a campaign.
        println!("INSTAR_SEED={seed}");
        let (killed, sent) = Run::new(seed, &machines).run();
        kills += killed;
        snapshots += sent;
    }
    println!("{runs} runs, {kills} members killed, {snapshots} snapshots");
    assert!(kills > runs && snapshots > runs / 4, "nothing much happened");
}
