//! Replicas that apply one log, each in batches of its own, and die and come back as they like: what of the protocol
//! does not depend on raft, many times a second.

mod campaign;
mod hostile;
mod log;
mod members;
mod module_costs;
mod modules;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RangeRequest, RangeResponse};
use proto::instar::kv;
use tokio::sync::mpsc;

use self::log::Log;
use super::apply::{Applier, rebuild};
use super::clock::ReplicatedClock;
use super::digests::{Digest, Digests};
use super::feed::EventFeed;
use super::machine_commands::{self, MachineDigest};
use super::membership::AppliedMembership;
use super::module_execution::ActiveModules;
use super::observer::Observer;
use super::progress::Progress;
use super::shard::{ShardLinks, Shards};
use crate::runtime::{BUILT_IN, Budgets, Machines, Outcome, Rejection, Runtime};
use crate::storage::{State, View, files, snapshot};

/// The built-in machine with a section that means nothing: another component, another digest.
fn twin() -> Vec<u8> {
    let mut component = BUILT_IN.to_vec();
    component.extend_from_slice(&[0, 6, 4, b't', b'w', b'i', b'n', 1]);
    component
}

/// In memory where that is possible: nothing here loses power, and a disk would take most of the time.
fn scratch() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).expect("a directory")
}

fn machines(cache: &Path) -> Arc<Machines> {
    let runtime = Runtime::with_budgets(Some(cache.to_owned()), Budgets::SMALL).expect("an engine");
    let machine = runtime.load(BUILT_IN).expect("the built-in machine loads");
    Machines::new(runtime, machine)
}

/// What an entry was answered, and the state's digest with it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Applied {
    digest: u128,
    response: Result<Bytes, Rejection>,
}

/// Notes every answer by its index.
#[derive(Default)]
struct Answers(Mutex<BTreeMap<u64, Applied>>);

impl Observer for Answers {
    fn applied(&self, view: &Arc<View>, outcomes: &[Outcome]) {
        let last = view.mark().applied.map_or(0, |applied| applied.index);
        let first = last + 1 - outcomes.len() as u64;
        let mut answers = self.0.lock().expect("nobody panics");
        for (index, outcome) in (first..).zip(outcomes) {
            let applied = Applied { digest: outcome.digest, response: outcome.response.clone() };
            let before = answers.insert(index, applied.clone());
            // Applied again after a crash, it is the same.
            assert!(before.is_none_or(|before| before == applied), "entry {index} differs");
        }
    }
}

/// One member's state and apply thread, without the thread.
struct Replica {
    id: u64,
    directory: tempfile::TempDir,
    machines: Arc<Machines>,
    answers: Arc<Answers>,
    running: Option<Applier>,
}

impl Replica {
    fn new(id: u64, machines: Arc<Machines>) -> Self {
        let directory = scratch();
        let mut replica = Self { id, directory, machines, answers: Arc::default(), running: None };
        replica.start();
        replica.persist();
        replica
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// As a process starts: from what is on disk, and nothing else.
    fn start(&mut self) {
        // What an earlier process had compiled is gone.
        let built_in = self.machines.compile(BUILT_IN).expect("the built-in machine loads");
        self.machines.set_active(built_in.clone());
        self.machines.retain(|_| false);
        let tables = machine_commands::with_host_tables(&built_in.description().tables);
        fs::create_dir_all(self.state()).expect("a directory");
        let mut state = State::open(&self.state(), &files(), &tables).expect("the state opens");
        let view = state.view();
        let slots = machine_commands::slots(&*view).expect("slots");
        let machine = match slots.active.is_empty() {
            true => built_in,
            false => {
                let digest: MachineDigest = slots.active.as_ref().try_into().expect("a digest");
                assert_eq!(view.mark().machine, digest, "the mark and the slots disagree");
                let component = machine_commands::component(&*view, &digest).expect("a read");
                self.machines.compile(&component.expect("it is there")).expect("it loads")
            }
        };
        self.machines.set_active(machine.clone());
        rebuild(&machine, &mut state).expect("derived tables");
        let mark = view.mark();
        let applied_index = mark.applied.map_or(0, |applied| applied.index);
        let progress = Arc::new(Progress::new(applied_index));
        let membership = AppliedMembership::decode(&mark.membership).expect("a membership");
        progress.set_applied_membership(membership);
        let digests = Digests::default();
        digests.restart_from(Digest { index: applied_index, digest: mark.digest });
        let modules = ActiveModules::load(&*view, &self.machines).expect("modules");
        self.running = Some(Applier {
            own_id: self.id,
            machine,
            machines: self.machines.clone(),
            slots,
            modules,
            shards: Arc::new(Shards::new(1, &self.links(progress.clone()))),
            progress,
            clock: Arc::new(ReplicatedClock::starting_at(mark.time_ms)),
            feed: Arc::new(EventFeed::new(mark.revision, 1)),
            durable_applied_index: Arc::default(),
            observers: vec![self.answers.clone()],
            digests: Arc::new(digests),
            shadows: Arc::default(),
            passed_over_index: 0,
            state,
        });
    }

    /// Nobody proposes anything here.
    fn links(&self, progress: Arc<Progress>) -> ShardLinks {
        let (proposals, _) = mpsc::channel(1);
        let (read_rounds, _) = mpsc::channel(1);
        ShardLinks {
            member_id: self.id,
            incarnation: 1,
            request_timeout: Duration::from_secs(5),
            progress,
            proposals,
            read_rounds,
        }
    }

    fn applier(&mut self) -> &mut Applier {
        self.running.as_mut().expect("it runs")
    }

    fn view(&self) -> Arc<View> {
        self.running.as_ref().expect("it runs").state.view()
    }

    fn applied_index(&self) -> u64 {
        self.view().mark().applied.map_or(0, |applied| applied.index)
    }

    fn active(&self) -> MachineDigest {
        self.running.as_ref().expect("it runs").machine.digest()
    }

    /// Applies the next entries of the log, up to this one, as one batch.
    fn apply_to(&mut self, log: &Log, index: u64) {
        let entries = log.entries(self.applied_index() + 1, index);
        if !entries.is_empty() {
            self.applier().apply(entries).expect("it is applied");
        }
    }

    /// Brings everything applied to disk, and keeps what a crash would leave.
    fn persist(&mut self) {
        self.applier().state.persist().expect("it is written");
        let (from, to) = (self.state(), self.directory.path().join("durable"));
        fs::create_dir_all(&to).expect("a directory");
        for file in fs::read_dir(from).expect("the state's directory") {
            let file = file.expect("a file");
            fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
        }
    }

    /// Loses everything that was not brought to disk, and starts again.
    fn crash(&mut self) {
        drop(self.running.take());
        let (from, to) = (self.directory.path().join("durable"), self.state());
        fs::remove_dir_all(&to).expect("no state");
        fs::create_dir_all(&to).expect("a directory");
        for file in fs::read_dir(from).expect("what is durable") {
            let file = file.expect("a file");
            fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
        }
        self.start();
    }

    /// Takes over another one's state, as a member does that the log has left behind.
    fn install(&mut self, from: &Replica) {
        let path = self.directory.path().join("snapshot");
        snapshot::write(&from.view(), &path).expect("a snapshot");
        self.applier().install(&path).expect("it is installed");
        self.persist();
    }

    /// Every key and its value, as the machine that runs reads them.
    fn keys(&self) -> BTreeMap<Bytes, Bytes> {
        let range = RangeRequest {
            key: Bytes::from_static(&[0]),
            range_end: Bytes::from_static(&[0]),
            ..RangeRequest::default()
        };
        let etcd = InternalRaftRequest { range: Some(range), ..InternalRaftRequest::default() };
        let query = kv::Request { kind: Some(kv::request::Kind::Etcd(etcd)) }.encode_to_vec();
        let reader = self.running.as_ref().expect("it runs").machine.reader();
        let answer = { reader }.query(&self.view(), &query).expect("it answers");
        let response = RangeResponse::decode(answer.body).expect("a response");
        response.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
    }
}

/// All that two replicas at the same entry must agree on.
fn expect_equal(replicas: &[Replica]) {
    let first = &replicas[0];
    let slots = |replica: &Replica| machine_commands::slots(&*replica.view()).expect("slots");
    for other in &replicas[1..] {
        assert_eq!(first.view().mark(), other.view().mark(), "marks differ");
        assert_eq!(slots(first), slots(other), "slots differ");
        assert_eq!(first.active(), other.active(), "another machine runs");
        assert_eq!(first.keys(), other.keys(), "keys differ");
        let answers = other.answers.0.lock().expect("nobody panics");
        for (index, applied) in first.answers.0.lock().expect("nobody panics").iter() {
            let same = answers.get(index).is_none_or(|other| other == applied);
            assert!(same, "entry {index}: {applied:?} and {:?}", answers.get(index));
        }
    }
}
