//! Seeded runs with modules: an operator puts, activates and disables them, clients call them and write under their
//! prefixes, one of them fails on demand, and the machine below is switched meanwhile; and members die at any of these
//! steps, fall behind, and are sent snapshots.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;

use super::log::{Log, digest_of};
use super::members::{MEMBERS, Members, campaign, compilers};
use super::{Replica, expect_equal, machines, twin};
use crate::limits::MODULE_FAILURES;
use crate::raft::machine_commands::MachineDigest;
use crate::raft::module_commands::module_slots;
use crate::runtime::{BUILT_IN, Machines};

const RUNS: u64 = 100;
const STEPS: usize = 120;
/// A component travels in so many.
const PIECES: usize = 2;

/// What the quota allows, and how many names clients choose from.
const QUOTA: i64 = 3;
const NAMES: u32 = 7;

/// The modules' places.
const LIMITER: usize = 0;
const QUOTAS: usize = 1;
const HOSTILE: usize = 2;
const MODULES: [(&str, &str, &[u8]); 3] = [
    ("rate-limit", "/limits/", ::modules::RATE_LIMIT),
    ("prefix-quota", "/tenants/", ::modules::PREFIX_QUOTA),
    ("hostile", "/hostile/", ::modules::HOSTILE),
];

/// One entry of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Piece(usize, usize),
    Ready(usize, u64),
    Activate(usize),
    Disable(usize),
    /// A call that writes a key.
    Configure(u32),
    /// A put that counts for the quota.
    PutForTenant(u32),
    /// A call or a put that the hostile module sees; whether it fails on it.
    Call(bool),
    Put(bool),
    /// To the other machine.
    Switch,
}

/// One kind of step a run.
const DEADLY: [fn(Step) -> bool; 6] = [
    |step| matches!(step, Step::Piece(..) | Step::Ready(..)),
    |step| matches!(step, Step::Activate(_)),
    |step| matches!(step, Step::Disable(_)),
    |step| matches!(step, Step::Configure(_) | Step::PutForTenant(_)),
    |step| matches!(step, Step::Call(_) | Step::Put(_)),
    |step| matches!(step, Step::Switch),
];

/// What a module is to be in the state.
#[derive(Default)]
struct Slot {
    pieces: usize,
    ready: BTreeSet<u64>,
    is_known: bool,
    enabled: bool,
    failures: u32,
}

/// What the log means, as far as it goes.
struct Model {
    slots: [Slot; 3],
    machines: [MachineDigest; 2],
    active: usize,
    /// As the quota module has counted them.
    counted: i64,
    keys: BTreeMap<Bytes, Bytes>,
    /// Whether each entry is carried out, by its index.
    answers: BTreeMap<u64, bool>,
}

impl Slot {
    /// It was run, and failed or did not.
    fn ran(&mut self, failed: bool) {
        self.failures = if failed { self.failures + 1 } else { 0 };
        self.enabled &= self.failures < MODULE_FAILURES;
    }

    fn can_be_activated(&self) -> bool {
        self.pieces == PIECES && self.ready.len() as u64 == MEMBERS
    }
}

impl Model {
    fn put(&mut self, key: &str, value: &str) {
        self.keys.insert(key.to_owned().into(), value.to_owned().into());
    }

    /// The quota module looks at a put.
    fn put_for_tenant(&mut self, key: &str, value: &str) -> bool {
        let is_new = !self.keys.contains_key(key.as_bytes());
        let counts = self.slots[QUOTAS].enabled && is_new;
        let accepted = !counts || self.counted < QUOTA;
        if accepted {
            self.counted += i64::from(counts);
            self.put(key, value);
        }
        accepted
    }

    /// The hostile module looks at a request, and lets it pass if it can.
    fn provoke(&mut self, fails: bool) -> bool {
        let slot = &mut self.slots[HOSTILE];
        let enabled = slot.enabled;
        if enabled {
            slot.ran(fails);
        }
        !(enabled && fails)
    }
}

struct Run {
    members: Members,
    model: Model,
    deadly: fn(Step) -> bool,
}

impl Run {
    /// Both machines are there, and ready.
    fn new(seed: u64, machines: &[Arc<Machines>; 3]) -> Self {
        let mut members = Members::new(seed, machines);
        let both = [BUILT_IN.to_vec(), twin()];
        for component in &both {
            members.log.put_component(component);
            members.log.ready_on_all(digest_of(component));
        }
        let mut model = Model {
            slots: Default::default(),
            machines: both.each_ref().map(|component| digest_of(component)),
            active: 0,
            counted: 0,
            keys: BTreeMap::new(),
            answers: BTreeMap::new(),
        };
        members.log.put("/tenants/a/.quota", &QUOTA.to_string());
        model.put("/tenants/a/.quota", &QUOTA.to_string());
        Self { members, model, deadly: DEADLY[(seed % DEADLY.len() as u64) as usize] }
    }

    fn step(&mut self) -> Step {
        let random = &mut self.members.random;
        let which = random.random_range(0..MODULES.len());
        let slot = &self.model.slots[which];
        // As an operator goes on, but for slips.
        let next = match (slot.pieces, slot.ready.len() as u64) {
            (pieces @ 0..PIECES, _) => Step::Piece(which, pieces),
            (_, ready @ 0..MEMBERS) => Step::Ready(which, ready + 1),
            _ => Step::Activate(which),
        };
        match random.random_range(0..20) {
            0 => Step::Piece(which, random.random_range(0..PIECES)),
            1 => Step::Ready(which, random.random_range(1..=MEMBERS)),
            2 => Step::Activate(which),
            3 => Step::Disable(which),
            4 => Step::Switch,
            5..13 if !slot.enabled => next,
            5..11 => Step::PutForTenant(random.random_range(0..NAMES)),
            11..14 => Step::Configure(random.random_range(0..NAMES)),
            14..17 => Step::Put(random.random_bool(0.8)),
            _ => Step::Call(random.random_bool(0.8)),
        }
    }

    /// Appends what a step is in the log, and follows it in the model.
    fn append(&mut self, step: Step) -> u64 {
        let (log, model) = (&mut self.members.log, &mut self.model);
        let value = log.last_index().to_string();
        let (index, accepted) = match step {
            Step::Piece(which, number) => {
                let pieces = &mut model.slots[which].pieces;
                let accepted = number <= *pieces;
                *pieces += usize::from(number == *pieces);
                (log.put_module_piece(MODULES[which].2, number, PIECES), accepted)
            }
            Step::Ready(which, member) => {
                let (name, _, component) = MODULES[which];
                let slot = &mut model.slots[which];
                let accepted = slot.pieces == PIECES;
                if accepted {
                    slot.ready.insert(member);
                }
                (log.module_ready(name, digest_of(component), member), accepted)
            }
            Step::Activate(which) => {
                let (name, prefix, component) = MODULES[which];
                let slot = &mut model.slots[which];
                let accepted = slot.can_be_activated();
                if accepted {
                    (slot.is_known, slot.enabled, slot.failures) = (true, true, 0);
                }
                (log.activate_module(name, digest_of(component), prefix), accepted)
            }
            Step::Disable(which) => {
                let slot = &mut model.slots[which];
                slot.enabled = false;
                (log.disable_module(MODULES[which].0), slot.is_known)
            }
            Step::Configure(name) => {
                let argument = format!(r#"{{"key":"{name}","capacity":{value},"per_second":1}}"#);
                let accepted = model.slots[LIMITER].enabled;
                if accepted {
                    let configured = format!(r#"{{"capacity":{value},"per_second":1}}"#);
                    model.put(&format!("/limits/{name}"), &configured);
                }
                (log.call("rate-limit", "configure", &argument), accepted)
            }
            Step::PutForTenant(name) => {
                let key = format!("/tenants/a/{name}");
                (log.put(&key, &value), model.put_for_tenant(&key, &value))
            }
            Step::Call(fails) => {
                let accepted = model.slots[HOSTILE].enabled && model.provoke(fails);
                (log.call("hostile", if fails { "panic" } else { "echo" }, &value), accepted)
            }
            Step::Put(fails) => {
                let value = if fails { "admit:panic".to_owned() } else { value };
                let accepted = model.provoke(fails);
                if accepted {
                    model.put("/hostile/key", &value);
                }
                (log.put("/hostile/key", &value), accepted)
            }
            Step::Switch => {
                let (from, to) = (model.active, 1 - model.active);
                model.active = to;
                (log.activate(model.machines[to], model.machines[from]), true)
            }
        };
        model.answers.insert(index, accepted);
        index
    }

    fn run(mut self) -> (u64, u64) {
        for _ in 0..STEPS {
            let step = self.step();
            let index = self.append(step);
            if (self.deadly)(step) && self.members.random.random_bool(0.2) {
                self.members.kill_at(index);
            }
            self.members.disturb();
        }
        self.members.catch_up();
        for replica in &self.members.replicas {
            self.check(replica);
        }
        expect_equal(&self.members.replicas);
        (self.members.kills, self.members.snapshots)
    }

    /// It is what the model says.
    fn check(&self, replica: &Replica) {
        assert_eq!(replica.active(), self.model.machines[self.model.active], "another machine");
        assert_eq!(replica.keys(), self.model.keys, "a write is lost, or there are others");
        for (index, applied) in replica.answers.0.lock().expect("nobody panics").iter() {
            if let Some(accepted) = self.model.answers.get(index) {
                assert_eq!(applied.response.is_ok(), *accepted, "{index}: {applied:?}");
            }
        }
        let slots = module_slots(&*replica.view()).expect("slots");
        for (slot, (name, _, _)) in self.model.slots.iter().zip(MODULES) {
            let stored = slots.iter().find(|it| it.name == name);
            let stored = stored.map(|it| (it.enabled, it.failures));
            assert_eq!(stored, slot.is_known.then_some((slot.enabled, slot.failures)), "{name}");
        }
    }
}

#[test]
fn members_die_at_every_step() {
    let cache = tempfile::tempdir().expect("a directory");
    let machines = compilers(cache.path());
    campaign(RUNS, |seed| Run::new(seed, &machines).run());
}

/// Whoever joins late has never seen the entries that brought the modules.
#[test]
fn a_newcomer_has_modules_from_a_snapshot() {
    let caches = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let replica = |id, at: usize| Replica::new(id, machines(caches[at].path()));
    let (mut first, mut newcomer) = (replica(1, 0), replica(2, 1));
    let mut log = Log::new();
    for (name, prefix, component) in MODULES {
        let digest = log.put_module(component, name);
        log.activate_module(name, digest, prefix);
    }
    log.put("/tenants/a/.quota", "1");
    log.put("/tenants/a/one", "x");
    log.call("rate-limit", "configure", r#"{"key":"api","capacity":2,"per_second":1}"#);
    first.apply_to(&log, log.last_index());
    newcomer.install(&first);
    assert_eq!(module_slots(&*newcomer.view()).expect("slots").len(), MODULES.len());
    let refused = log.put("/tenants/a/two", "x");
    let taken = log.call("rate-limit", "take", r#"{"key":"api","n":2}"#);
    let failed = log.call("hostile", "panic", "");
    let mut both = [first, newcomer];
    for replica in &mut both {
        replica.apply_to(&log, log.last_index());
        let answers = replica.answers.0.lock().expect("nobody panics");
        let body = answers[&taken].response.as_ref().expect("it is answered");
        assert_eq!(**body, *br#"{"allowed":true,"left":0,"retry_after_ms":0}"#);
        for index in [refused, failed] {
            assert!(answers[&index].response.is_err(), "{index}: {:?}", answers[&index]);
        }
    }
    expect_equal(&both);
}
