//! The KV machine as a component: it is what the model of etcd's rules is, what the same code is natively, and it does
//! not depend on how entries are divided into batches.

use std::{cell::RefCell, rc::Rc};

use guest_kv::{
    Admission, Answered, Entry, Outcome, Rejection, RequestLimits, model, model::Subject,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Replica, kv, runtime};
use crate::{
    runtime::{self, Machine, Migrated, QueryError, native, reader::Reader},
    storage::{Mark, TableKind},
};

/// The seed of a campaign, printed so that it can be repeated: `INSTAR_SEED`, or a new one.
fn seed() -> u64 {
    let given = std::env::var("INSTAR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("INSTAR_SEED={seed}");
    seed
}

/// How many operations a campaign has: `INSTAR_OPERATIONS`, or some seconds' worth.
fn operations() -> u64 {
    let given = std::env::var("INSTAR_OPERATIONS").ok();
    given.and_then(|operations| operations.parse().ok()).unwrap_or(4_000)
}

/// All that was applied in an episode, and what came of it.
type Log = Rc<RefCell<Vec<(Vec<u8>, runtime::Outcome)>>>;

/// The component, with the linked library beside it: both apply every command, and must agree.
struct Both {
    component: Replica<'static>,
    reader: Reader,
    linked: native::Machine,
    linked_reader: native::Reader,
    log: Log,
}

impl Both {
    fn new(log: Log) -> Self {
        log.borrow_mut().clear();
        let runtime = native::Runtime::new(None).expect("a runtime");
        let linked = runtime.load(runtime::BUILT_IN).expect("a machine");
        let component = Replica::new(kv());
        let (reader, linked_reader) = (kv().reader(), linked.reader());
        Both { component, reader, linked, linked_reader, log }
    }
}

impl Subject for Both {
    fn admit(&mut self, request: &[u8], limits: RequestLimits) -> Result<Admission, Rejection> {
        let admission = self.reader.admit(request, limits.operations).map_err(rejection)?;
        Ok(Admission {
            route: match admission.route {
                runtime::Route::Write => guest_kv::Route::Write,
                runtime::Route::Read => guest_kv::Route::Read,
                runtime::Route::LocalRead => guest_kv::Route::LocalRead,
            },
            heavy: admission.heavy,
        })
    }

    fn apply(&mut self, entry: Entry<'_>) -> Outcome {
        let overlay = self.component.state.overlay();
        let before = self.component.revision;
        self.component.index = entry.index - 1;
        let outcome = self.component.apply(&[entry.command]).remove(0);

        let entry = self.component.entry(entry.index, entry.command);
        let linked =
            self.linked.apply(overlay, before, std::slice::from_ref(&entry)).expect("an outcome");
        assert_eq!(outcome, linked.outcomes[0], "the component and the library disagree");
        self.log.borrow_mut().push((entry.command.to_vec(), outcome.clone()));

        let response = outcome.response.map(|body| body.to_vec());
        let events = outcome.events.into_iter();
        Outcome {
            response: response.map_err(|it| rejection(QueryError::Rejected(it))),
            revision: outcome.revision,
            events: events
                .map(|it| guest_kv::Row { table: it.table, key: it.key.into() })
                .collect(),
            task_pending: outcome.task_pending,
        }
    }

    fn query(&mut self, request: &[u8]) -> Result<(Answered, Vec<u8>), Rejection> {
        let answer = self.reader.query(&self.component.view(), request);
        let linked = self.linked_reader.query(&self.component.view(), request);
        match (&answer, &linked) {
            (Ok(answer), Ok(linked)) => assert_eq!(answer, linked),
            (Err(answer), Err(linked)) => assert_eq!(answer.to_string(), linked.to_string()),
            _ => panic!("the component says {answer:?}, the library {linked:?}"),
        }
        let answer = answer.map_err(rejection)?;
        let next = answer.next.map(|next| next.to_vec());
        Ok((Answered { revision: answer.revision, next }, answer.body.to_vec()))
    }

    fn next_task(&mut self) -> Option<Vec<u8>> {
        let task = self.reader.next_task(&self.component.view()).expect("an answer");
        task.map(|task| task.to_vec())
    }

    fn restart(&mut self) -> Result<(), String> {
        let before = self.component.rows();
        self.component.forget_derived();
        self.component.rebuild().map_err(|error| error.to_string())?;
        self.reader = kv().reader();
        if self.component.rows() == before { Ok(()) } else { Err("rebuilt rows differ".into()) }
    }

    fn check(&mut self) -> Result<(), String> {
        kv().check(&self.component.view()).map_err(|error| error.to_string())
    }

    fn rows(&mut self, table: guest_kv::tables::Table) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.component.rows().into_iter();
        let rows = rows.filter(|(of, ..)| *of == table);
        rows.map(|(_, key, value)| (key, value)).collect()
    }
}

fn rejection(error: QueryError) -> Rejection {
    match error {
        QueryError::Rejected(it) => Rejection { code: it.code, message: it.message },
        QueryError::Failed(error) => panic!("{error}"),
    }
}

#[test]
fn the_component_is_the_model_and_the_library() {
    let log = Log::default();
    if let Err(difference) = model::run(seed(), operations(), || Both::new(log.clone())) {
        panic!("{difference}");
    }
}

#[test]
fn batches_and_restarts_do_not_show() {
    let log = Log::default();
    let seed = seed();
    model::run(seed, 1_500, || Both::new(log.clone())).expect("no difference");
    let log = log.borrow();
    let mut random = StdRng::seed_from_u64(seed);
    for most in [2, 30, 400] {
        let mut replica = Replica::new(kv());
        let mut rest = &log[..];
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(random.random_range(1..=most.min(rest.len())));
            let commands: Vec<_> = batch.iter().map(|(command, _)| command).collect();
            let outcomes = replica.apply(&commands);
            assert!(outcomes.iter().eq(batch.iter().map(|(_, outcome)| outcome)), "up to {most}");
            rest = after;
            if random.random_bool(0.05) {
                replica.forget_derived();
                replica.rebuild().expect("a rebuild");
            }
        }
    }
}

/// How a history is taken by two machines: at which entries the new one takes over, is taken back, takes over again,
/// and raises the schema, with a step of the migration behind every so many entries from there on.
struct Course {
    switches: [usize; 4],
    pace: usize,
}

impl Course {
    fn machine<'a>(&self, entry: usize, [old, locked, new]: [&'a Machine; 3]) -> &'a Machine {
        match self.switches.iter().filter(|switch| **switch <= entry).count() {
            0 | 2 => old,
            1 | 3 => locked,
            _ => new,
        }
    }

    /// Whether an entry begins a batch, whatever else does: it is behind an entry of the host's.
    fn is_behind_barrier(&self, entry: usize) -> bool {
        self.switches.contains(&entry) || self.steps_before(entry)
    }

    fn steps_before(&self, entry: usize) -> bool {
        entry > self.switches[3] && entry.is_multiple_of(self.pace)
    }

    /// Takes a history in batches of up to so many entries.
    fn take(
        &self,
        log: &[Vec<u8>],
        most: usize,
        random: &mut StdRng,
    ) -> (Vec<runtime::Outcome>, Replica<'static>) {
        let next = runtime().load(::machines::KV_1_1).expect("a machine");
        let locked = next.with_locked(vec![guest_kv::tables::DIRECTORY]);
        let mut replica = Replica::new(kv());
        replica.state.declare(&next.description().tables).expect("tables");
        let (mut outcomes, mut from, mut cursor) = (Vec::new(), 0, Vec::new());
        while from < log.len() {
            if self.steps_before(from) {
                let (overlay, migrated) =
                    next.migrate_step(1, &cursor, &replica.view()).expect("a step");
                if let Migrated::More(more) = migrated.expect("no refusal") {
                    cursor = more.to_vec();
                }
                replica.state.commit(overlay.into_writes(), Mark::default()).expect("a commit");
            }
            let to =
                (from + 1..log.len()).find(|at| self.is_behind_barrier(*at)).unwrap_or(log.len());
            let to = to.min(from + random.random_range(1..=most));
            let machine = self.machine(from, [kv(), &locked, &next]);
            outcomes.extend(replica.apply_with(machine, &log[from..to]));
            from = to;
        }
        next.check(&replica.view()).expect("no complaint");
        let counted = replica.rows_of(guest_kv::tables::DIRECTORY);
        assert!(!counted.is_empty(), "nothing was counted");
        (outcomes, replica)
    }
}

/// Wherever another machine takes over, goes, and changes the rows, clients are answered the same, and replicas, which
/// divide the log into other batches, have the same rows.
#[test]
fn another_machine_and_its_schema_do_not_show() {
    let log = Log::default();
    let seed = seed();
    model::run(seed, 1_500, || Both::new(log.clone())).expect("no difference");
    let (commands, expected): (Vec<_>, Vec<_>) = log.borrow().iter().cloned().unzip();
    let mut random = StdRng::seed_from_u64(seed);
    for pace in [1, 9] {
        let mut switches = [0; 4].map(|_: usize| random.random_range(1..commands.len() * 2 / 3));
        switches.sort_unstable();
        let course = Course { switches, pace };
        let (one_by_one, replica) = course.take(&commands, 1, &mut random);
        let told = |outcome: &runtime::Outcome| runtime::Outcome { digest: 0, ..outcome.clone() };
        assert!(one_by_one.iter().map(told).eq(expected.iter().map(told)), "{switches:?}");
        let (in_batches, other) = course.take(&commands, 200, &mut random);
        assert!(one_by_one == in_batches, "{switches:?}");
        assert_eq!(replica.rows(), other.rows());
        let counts = |replica: &Replica<'_>| replica.rows_of(guest_kv::tables::DIRECTORY);
        assert_eq!(counts(&replica), counts(&other));
    }
}

#[test]
fn durable_tables_are_etcds_buckets() {
    let tables = &kv().description().tables;
    let durable = tables.iter().filter(|table| table.kind == TableKind::Durable);
    assert_eq!(
        durable.map(|table| &*table.name).collect::<Vec<_>>(),
        ["key", "meta", "lease", "lease_grant", "alarm"]
    );
}
