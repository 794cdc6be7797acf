//! A naive model of etcd's rules, and campaigns that compare a machine with it.
//!
//! A campaign generates steps from a seed, takes them with the machine under test and with the model, and compares
//! all that can be seen: admissions, responses byte by byte, revisions, events, rows. It runs in episodes, each with a
//! fresh machine, so that a failure can be shrunk by repeating its episode with steps left out.
//!
//! The machine is anything that implements `Subject`: the library over tables in memory here, the component under the
//! real host in the host's tests.

mod checks;
mod generate;
mod leases;
mod native;
mod store;

pub use native::NativeSubject;
pub use store::Store;

use prost::Message;
use proto::etcdserverpb::InternalRaftRequest;
use proto::instar::kv::Request;
use proto::instar::kv::request::Kind;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::tables::{KEY, LEASE, Table};
use crate::{Admission, Answered, Entry, Outcome, Rejection, RequestLimits, Route};
use checks::Refusal;

/// Steps of an episode.
const EPISODE_STEPS: u64 = 2000;
/// How often a failing episode is repeated to make it shorter.
const SHRINK_REPLAYS: u32 = 400;

/// A machine under test, with an empty store to begin with.
pub trait Subject {
    fn admit(&mut self, request: &[u8], limits: RequestLimits) -> Result<Admission, Rejection>;
    fn apply(&mut self, entry: Entry<'_>) -> Outcome;
    /// Returns the answer's body as well.
    fn query(&mut self, request: &[u8]) -> Result<(Answered, Vec<u8>), Rejection>;
    fn next_task(&mut self) -> Option<Vec<u8>>;
    /// Throws the derived tables away and rebuilds them. An error if they differ from what was there.
    fn restart(&mut self) -> Result<(), String>;
    /// Runs the machine's own check to its end.
    fn check(&mut self) -> Result<(), String>;
    /// The rows of a durable table.
    fn rows(&mut self, table: Table) -> Vec<(Vec<u8>, Vec<u8>)>;
}

/// One step of an episode.
#[derive(Debug, Clone)]
pub enum Step {
    /// Served as admission says.
    Request(Request),
    /// Applied without having been admitted.
    Apply(Request),
    /// Handed over without its last byte.
    Truncated(Request),
    /// Whatever the machine wants proposed next.
    Task,
    Restart,
    Check,
}

/// Runs episodes until so many steps were taken. A failure comes back as a text: seed, shrunk steps, difference.
pub fn run<S: Subject>(seed: u64, steps: u64, new: impl Fn() -> S) -> Result<(), String> {
    let episodes = steps.div_ceil(EPISODE_STEPS);
    for episode in 0..episodes {
        let count = EPISODE_STEPS.min(steps - episode * EPISODE_STEPS);
        if let Err((taken, _)) = generate_episode(seed.wrapping_add(episode), count, new()) {
            let shrunk = shrink(taken, &new);
            let difference = replay(&shrunk, new()).err().unwrap_or_default();
            let mut text = format!("seed {seed}, episode {episode}: {difference}\nafter:\n");
            for step in &shrunk {
                text.push_str(&format!("  {step:?}\n"));
            }
            return Err(text);
        }
    }
    Ok(())
}

fn generate_episode<S: Subject>(
    seed: u64,
    count: u64,
    subject: S,
) -> Result<(), (Vec<Step>, String)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut pair = Pair::new(subject);
    let mut taken = Vec::new();
    for _ in 0..count {
        let hints = generate::Hints {
            revision: pair.model.revision,
            compacted: pair.model.compacted,
            // Some episodes give few keys a long history.
            keys: if seed.is_multiple_of(3) { 3 } else { usize::MAX },
            compactions: !seed.is_multiple_of(5),
            leases: pair.model.leases.granted(),
        };
        let step = generate::step(&mut rng, &hints);
        // Some episodes run into the limit, most do not.
        pair.operations = if seed.is_multiple_of(4) { 3 } else { 128 };
        taken.push(step.clone());
        if rng.random_bool(0.01) {
            taken.push(Step::Check);
        }
        if let Err(difference) = pair.take(&step) {
            return Err((taken, difference));
        }
    }
    taken.push(Step::Check);
    pair.take(&Step::Check).map_err(|difference| (taken, difference))
}

fn replay<S: Subject>(steps: &[Step], subject: S) -> Result<(), String> {
    let mut pair = Pair::new(subject);
    steps.iter().try_for_each(|step| pair.take(step))
}

/// Leaves steps out, in ever smaller pieces, as long as the rest still fails and there is patience left.
fn shrink<S: Subject>(mut steps: Vec<Step>, new: &impl Fn() -> S) -> Vec<Step> {
    let mut patience = SHRINK_REPLAYS;
    let mut piece = steps.len().div_ceil(2);
    while piece > 0 {
        let mut at = 0;
        while at < steps.len() && patience > 0 {
            patience -= 1;
            let rest = [&steps[..at], &steps[steps.len().min(at + piece)..]].concat();
            if replay(&rest, new()).is_err() {
                steps = rest;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    steps
}

/// The machine and the model, side by side.
struct Pair<S> {
    subject: S,
    model: Store,
    index: u64,
    operations: u32,
    /// Whether a compaction may have rows to remove.
    pending: bool,
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, machine: T, model: T) -> Result<(), String> {
    if machine == model {
        return Ok(());
    }
    Err(format!("{what}:\n  machine {machine:?}\n  model   {model:?}"))
}

fn refusal<T>(result: Result<T, Refusal>) -> Result<T, Rejection> {
    result.map_err(|(code, message)| Rejection { code, message: message.to_owned() })
}

impl<S: Subject> Pair<S> {
    fn new(subject: S) -> Self {
        Pair { subject, model: Store::default(), index: 0, operations: 128, pending: false }
    }

    fn take(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Request(request) => self.serve(request),
            Step::Apply(request) => self.apply(request),
            Step::Truncated(request) => self.refuse_truncated(request),
            Step::Task => self.take_task(),
            Step::Restart => self.subject.restart(),
            Step::Check => self.check(),
        }
    }

    fn serve(&mut self, request: &Request) -> Result<(), String> {
        let bytes = request.encode_to_vec();
        let limits = RequestLimits { operations: self.operations };
        let admission = self.subject.admit(&bytes, limits);
        let expected = refusal(admit(request, self.operations));
        same("route", admission.clone().map(|a| a.route), expected)?;
        match admission.map(|a| a.route) {
            Ok(Route::Write) => self.apply(request),
            Ok(Route::Read | Route::LocalRead) => self.query(request, &bytes),
            Err(_) => {
                // What is refused at the door is refused behind it, the operator's limit aside.
                let unlimited = RequestLimits { operations: u32::MAX };
                if self.subject.admit(&bytes, unlimited).is_err() {
                    let outcome = self.apply_bytes(&bytes);
                    same("refused", outcome.response.is_err(), true)?;
                    same("revision", outcome.revision, self.model.revision as u64)?;
                }
                Ok(())
            }
        }
    }

    fn apply(&mut self, request: &Request) -> Result<(), String> {
        let before = self.model.revision;
        let (response, lease_events) = match self.model.lease_command(request, self.index + 1) {
            Some(Ok((body, events))) => (Ok(body), Some(events)),
            Some(Err(refused)) => (refusal(Err(refused)), None),
            None => (refusal(self.model_apply(request)), None),
        };
        let outcome = self.apply_bytes(&request.encode_to_vec());
        same("response", outcome.response, response)?;
        same("revision", outcome.revision, self.model.revision as u64)?;
        same("pending", outcome.task_pending, self.pending)?;
        let events: Vec<_> = outcome.events.into_iter().map(|row| (row.table, row.key)).collect();
        let expected = lease_events.unwrap_or_else(|| {
            let changed = self.model.revision > before;
            let keys = changed.then(|| self.model.row_keys_at(self.model.revision));
            keys.into_iter().flatten().map(|key| (KEY, key)).collect()
        });
        same("events", events, expected)
    }

    fn apply_bytes(&mut self, command: &[u8]) -> Outcome {
        self.index += 1;
        self.subject.apply(Entry { index: self.index, time_ms: self.index, command })
    }

    fn model_apply(&mut self, request: &Request) -> Result<Vec<u8>, Refusal> {
        let Some(Kind::Etcd(etcd)) = &request.kind else {
            return Err((3, "not a command of etcd's"));
        };
        if let Some(put) = &etcd.put {
            let response = self.model.put(put)?;
            return Ok(
                proto::etcdserverpb::PutResponse { header: None, ..response }.encode_to_vec()
            );
        }
        if let Some(delete) = &etcd.delete_range {
            let mut response = self.model.delete_range(delete)?;
            response.header = None;
            return Ok(response.encode_to_vec());
        }
        if let Some(txn) = &etcd.txn {
            let mut response = self.model.txn(txn)?;
            response.header = None;
            return Ok(response.encode_to_vec());
        }
        if let Some(compaction) = &etcd.compaction {
            self.model.compact(compaction.revision)?;
            self.pending = true;
            return Ok(Vec::new());
        }
        Err((12, "instar: the state machine does not know this request"))
    }

    fn query(&mut self, request: &Request, bytes: &[u8]) -> Result<(), String> {
        let answered = self.subject.query(bytes);
        match &request.kind {
            Some(Kind::Etcd(InternalRaftRequest { range: Some(range), .. })) => {
                let expected = self.model.range(range).map(|mut response| {
                    response.header = None;
                    response.encode_to_vec()
                });
                self.compare_answer(answered, expected)
            }
            Some(Kind::Etcd(InternalRaftRequest { txn: Some(txn), .. })) => {
                let expected = self.model.txn(txn).map(|mut response| {
                    response.header = None;
                    response.encode_to_vec()
                });
                self.compare_answer(answered, expected)
            }
            Some(Kind::HashKv(hash)) => {
                let expected = self.model.hash_kv(hash.revision).map(|hash| hash.encode_to_vec());
                self.compare_answer(answered, expected)
            }
            Some(Kind::RangeStreamStep(step)) => {
                let range = step.range.clone().unwrap_or_default();
                let expected = self.model.range_stream(&range, step.target_bytes);
                self.compare_stream(answered, expected)
            }
            Some(Kind::LeaseTimeToLive(ask)) => {
                let expected = self.model.time_to_live(ask).map(|answer| answer.encode_to_vec());
                self.compare_answer(answered, expected)
            }
            Some(Kind::LeaseLeases(_)) => {
                let expected = self.model.leases.list().encode_to_vec();
                self.compare_answer(answered, Ok(expected))
            }
            // Hash is no more than said: some number.
            _ => answered.map(|_| ()).map_err(|rejection| format!("refused: {rejection:?}")),
        }
    }

    fn compare_answer(
        &self,
        answered: Result<(Answered, Vec<u8>), Rejection>,
        expected: Result<Vec<u8>, Refusal>,
    ) -> Result<(), String> {
        let answered = answered.map(|(answered, body)| (answered.revision, answered.next, body));
        let revision = self.model.revision as u64;
        same("answer", answered, refusal(expected).map(|body| (revision, None, body)))
    }

    fn compare_stream(
        &mut self,
        first: Result<(Answered, Vec<u8>), Rejection>,
        expected: Result<Vec<proto::etcdserverpb::RangeResponse>, Refusal>,
    ) -> Result<(), String> {
        let (mut bodies, mut step) = (Vec::new(), first);
        let machine = loop {
            match step {
                Ok((answered, body)) => {
                    same("stream revision", answered.revision, self.model.revision as u64)?;
                    bodies.push(body);
                    match answered.next {
                        Some(next) => step = self.subject.query(&next),
                        None => break Ok(bodies),
                    }
                }
                Err(rejection) => break Err(rejection),
            }
        };
        let expected = expected.map(|messages| {
            let body = |message| proto::etcdserverpb::RangeResponse { header: None, ..message };
            messages.into_iter().map(|message| body(message).encode_to_vec()).collect()
        });
        same("stream", machine, refusal(expected))
    }

    fn refuse_truncated(&mut self, request: &Request) -> Result<(), String> {
        let mut bytes = request.encode_to_vec();
        bytes.pop();
        let limits = RequestLimits { operations: self.operations };
        same("code", self.subject.admit(&bytes, limits).map_err(|r| r.code), Err(13))?;
        same("code", self.subject.query(&bytes).map_err(|r| r.code), Err(13))?;
        same("code", self.apply_bytes(&bytes).response.map_err(|r| r.code), Err(13))
    }

    fn take_task(&mut self) -> Result<(), String> {
        let task = self.subject.next_task();
        same("task", task.is_some(), self.pending)?;
        if let Some(command) = task {
            // Any number of rows a step must do.
            let command = self.shorten_step(&command)?;
            let outcome = self.apply_bytes(&command);
            same("step refused", outcome.response.is_err(), false)?;
            same("step events", outcome.events.len(), 0)?;
            same("step revision", outcome.revision, self.model.revision as u64)?;
            self.pending = outcome.task_pending;
        }
        Ok(())
    }

    fn shorten_step(&self, command: &[u8]) -> Result<Vec<u8>, String> {
        let mut request = Request::decode(command).map_err(|error| format!("task: {error}"))?;
        if let Some(Kind::CompactionStep(step)) = &mut request.kind {
            same("task revision", step.revision, self.model.compacted)?;
            step.row_limit = (self.index % 23) as u32;
        }
        Ok(request.encode_to_vec())
    }

    /// The rows are the model's, at least once the compaction is over.
    fn check(&mut self) -> Result<(), String> {
        self.subject.check()?;
        while self.pending {
            self.take_task()?;
        }
        self.subject.check()?;
        same("leases", self.subject.rows(LEASE), self.model.leases.rows())?;
        same("rows", self.subject.rows(KEY), self.model.rows())
    }
}

/// How a request is to be served.
fn admit(request: &Request, operations: u32) -> Result<Route, Refusal> {
    let route = |serializable| if serializable { Route::LocalRead } else { Route::Read };
    match &request.kind {
        Some(Kind::Etcd(etcd)) => admit_etcd(etcd, operations),
        Some(Kind::RangeStreamStep(step)) => {
            let range = step.range.clone().unwrap_or_default();
            checks::check_range_stream(&range)?;
            Ok(route(range.serializable || step.pinned_revision != 0))
        }
        Some(Kind::HashKv(_) | Kind::Hash(_) | Kind::WatchStep(_)) => Ok(Route::LocalRead),
        Some(Kind::LeaseTimeToLive(_) | Kind::LeaseLeases(_)) => Ok(Route::LocalRead),
        Some(Kind::CompactionStep(_) | Kind::LeaseExpiry(_)) => Ok(Route::Write),
        None => Err((12, "instar: the state machine does not know this request")),
    }
}

fn admit_etcd(etcd: &InternalRaftRequest, operations: u32) -> Result<Route, Refusal> {
    use proto::etcdserverpb::request_op::Request as Op;
    if let Some(range) = &etcd.range {
        checks::check_range(range)?;
        return Ok(if range.serializable { Route::LocalRead } else { Route::Read });
    }
    if let Some(put) = &etcd.put {
        checks::check_put(put)?;
        return Ok(Route::Write);
    }
    if let Some(delete) = &etcd.delete_range {
        checks::check_delete_range(delete)?;
        return Ok(Route::Write);
    }
    if let Some(txn) = &etcd.txn {
        checks::check_txn(txn, i64::from(operations))?;
        checks::check_overlaps(&txn.success)?;
        checks::check_overlaps(&txn.failure)?;
        let ranges: Option<Vec<_>> = txn
            .success
            .iter()
            .chain(&txn.failure)
            .map(|op| match &op.request {
                Some(Op::RequestRange(range)) => Some(range.serializable),
                _ => None,
            })
            .collect();
        return Ok(match ranges {
            None => Route::Write,
            Some(serializable) if serializable.iter().all(|s| *s) => Route::LocalRead,
            Some(_) => Route::Read,
        });
    }
    if let Some(grant) = &etcd.lease_grant {
        leases::check_grant(grant)?;
        return Ok(Route::Write);
    }
    let other_writes =
        etcd.compaction.is_some() || etcd.lease_revoke.is_some() || etcd.lease_checkpoint.is_some();
    if other_writes {
        return Ok(Route::Write);
    }
    Err((12, "instar: the state machine does not know this request"))
}
