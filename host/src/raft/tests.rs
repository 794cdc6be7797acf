//! Members in one process, over real sockets and real files: what the end-to-end tests cannot arrange.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::entry::EntryPayload;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, PutRequest, RangeRequest};
use proto::instar::kv;

use super::RequestError;
use super::digests::Verdict;
use super::membership::{ChangePolicy, ChangeRefused, MemberRecord, MembershipChange};
use super::membership_keeper::ChangeError;
use super::network::OwnIdentity;
use super::node::{Ended, Node, NodeOptions};
use super::types::{Member, Membership};
use crate::runtime::{BUILT_IN, Machine, Machines, Runtime};
use crate::storage::{Backends, DataDir, Identity, Log, State, Tables, Views, files};

const PATIENCE: Duration = Duration::from_secs(20);

fn machine() -> Machine {
    Runtime::new(None)
        .and_then(|runtime| runtime.load(BUILT_IN))
        .expect("the built-in machine loads")
}

fn request(etcd: InternalRaftRequest) -> Bytes {
    kv::Request { kind: Some(kv::request::Kind::Etcd(etcd)) }.encode_to_vec().into()
}

fn put(key: &str, value: &str) -> Bytes {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    request(InternalRaftRequest { put: Some(put), ..InternalRaftRequest::default() })
}

/// One member, and how to start it again.
struct TestMember {
    options: Box<dyn Fn() -> NodeOptions>,
    directory: tempfile::TempDir,
    peer_address: String,
    running: Option<Running>,
}

struct Running {
    node: Arc<Node>,
    views: Views,
    runtime: tokio::runtime::Runtime,
    _data: DataDir,
}

struct TestCluster {
    machine: Machine,
    members: Vec<TestMember>,
    _alone: MutexGuard<'static, ()>,
}

/// Clusters run one after the other: many at once on a small machine starve each other's heartbeats, and a test about
/// one leader finds another.
static ALONE: Mutex<()> = Mutex::new(());

impl TestCluster {
    fn new(count: usize) -> Self {
        Self::with_backends(&vec![files(); count])
    }

    /// As many members as there are ways to the disk.
    fn with_backends(backends: &[Backends]) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let count = backends.len() as u64;
        let reserved: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port is free")).collect();
        let addresses: Vec<String> =
            reserved.iter().map(|it| it.local_addr().unwrap().to_string()).collect();
        let initial: BTreeMap<u64, (String, Vec<String>)> = (1..=count)
            .map(|id| {
                (id, (format!("m{id}"), vec![format!("http://{}", addresses[id as usize - 1])]))
            })
            .collect();
        let members = (1..=count).map(|id| {
            let directory = tempfile::tempdir().expect("a directory");
            let (initial, snapshots) = (initial.clone(), directory.path().join("member/snapshot"));
            let options = move || NodeOptions {
                own: OwnIdentity { cluster_id: 7, member_id: id, data_incarnation: [id as u8; 16] },
                name: format!("m{id}"),
                client_urls: vec![format!("http://client-{id}")],
                initial_members: initial.clone(),
                heartbeat_interval_ms: 100,
                election_timeout_ms: 1_000,
                snapshot_entries: 100,
                snapshot_directory: snapshots.clone(),
                shards: 1,
                request_timeout: Duration::from_secs(7),
                process_incarnation: rand::random(),
                change_policy: ChangePolicy { strict: true, max_learners: 1 },
                force_new_cluster: false,
            };
            TestMember {
                options: Box::new(options),
                directory,
                peer_address: addresses[id as usize - 1].clone(),
                running: None,
            }
        });
        let mut cluster = Self { machine: machine(), members: members.collect(), _alone: alone };
        drop(reserved);
        for (number, backends) in backends.iter().enumerate() {
            cluster.start(number, backends);
        }
        cluster
    }

    fn start(&mut self, number: usize, backends: &Backends) {
        let member = &mut self.members[number];
        let options = (member.options)();
        let path = member.directory.path();
        let own = options.own.clone();
        let identity = Identity {
            cluster_id: own.cluster_id,
            member_id: own.member_id,
            incarnation: own.data_incarnation,
        };
        let data = DataDir::open(path, identity, false).expect("the data directory is ours");
        let running = run(&self.machine, data, options, &member.peer_address, backends);
        member.running = Some(running);
    }

    /// Ends a member without a word to anyone, as a crash of the process does.
    fn crash(&mut self, number: usize) {
        let running = self.members[number].running.take().expect("it runs");
        running.runtime.shutdown_timeout(Duration::from_secs(5));
        running.node.join_threads();
    }

    fn node(&self, number: usize) -> &Arc<Node> {
        &self.members[number].running.as_ref().expect("it runs").node
    }

    fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for (number, member) in self.members.iter().enumerate() {
                if let Some(running) = &member.running
                    && running.node.progress.is_leader()
                {
                    return number;
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let metrics = self.members.iter().filter_map(|member| {
            Some(member.running.as_ref()?.node.raft.metrics().borrow_watched().to_string())
        });
        panic!("nobody leads: {:?}", metrics.collect::<Vec<_>>());
    }

    /// Proposes through one member, and gives the revision.
    fn propose(&self, number: usize, command: Bytes) -> u64 {
        let running = self.members[number].running.as_ref().expect("it runs");
        let shard = running.node.shard(0).expect("there is a shard");
        let outcome = running.runtime.block_on(shard.propose(command)).expect("it is applied");
        outcome.response.expect("it is not rejected");
        outcome.revision
    }

    /// What a linearizable read of a key through one member finds.
    fn get(&self, number: usize, key: &str) -> Option<Bytes> {
        let running = self.members[number].running.as_ref().expect("it runs");
        let shard = running.node.shard(0).expect("there is a shard");
        running.runtime.block_on(shard.read_index()).expect("a quorum answers");
        let range = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        let query =
            request(InternalRaftRequest { range: Some(range), ..InternalRaftRequest::default() });
        let answer =
            self.machine.reader().query(&running.views.latest(), &query).expect("it answers");
        let response = proto::etcdserverpb::RangeResponse::decode(answer.body).expect("a response");
        response.kvs.into_iter().next().map(|kv| kv.value)
    }

    /// Waits until all running members have applied the same, and compares their digests.
    fn expect_equal_states(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let marks: Vec<_> = self
                .members
                .iter()
                .filter_map(|member| member.running.as_ref())
                .map(|running| running.views.latest().mark().clone())
                .collect();
            let level = marks.windows(2).all(|pair| pair[0].applied == pair[1].applied);
            if level {
                assert!(marks.windows(2).all(|pair| pair[0].digest == pair[1].digest), "{marks:?}");
                return;
            }
            assert!(Instant::now() < deadline, "the members do not level: {marks:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn run(
    machine: &Machine,
    data: DataDir,
    options: NodeOptions,
    peer_address: &str,
    backends: &Backends,
) -> Running {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let directory: &Path = data.files();
    let log = Log::open(directory, backends).expect("the log opens");
    let tables = &machine.description().tables;
    let mut state = State::open(directory, backends, tables).expect("the state opens");
    super::rebuild(machine, &mut state).expect("the derived tables are made");
    let views = state.views();
    let listener = bind(peer_address);
    let node = runtime
        .block_on(Node::start(
            options,
            log,
            (state, views.clone()),
            Machines::new(Runtime::new(None).expect("the engine starts"), machine.clone()),
            Vec::new(),
            vec![listener],
        ))
        .expect("the member starts");
    let shard = node.shard(0).expect("there is a shard");
    runtime.spawn(async move { shard.run().await });
    Running { node, views, runtime, _data: data }
}

/// The port of a member that has just crashed is free again soon.
fn bind(address: &str) -> TcpListener {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < deadline, "cannot bind {address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn one_member_applies_what_it_acknowledges_and_has_it_after_a_crash() {
    let mut cluster = TestCluster::new(1);
    let leader = cluster.leader();
    assert_eq!(cluster.propose(leader, put("a", "1")), 2);
    assert_eq!(cluster.propose(leader, put("a", "2")), 3);
    assert_eq!(cluster.get(leader, "a").unwrap(), "2");

    cluster.crash(0);
    cluster.start(0, &files());
    cluster.leader();
    assert_eq!(cluster.get(0, "a").unwrap(), "2");
    assert_eq!(cluster.propose(0, put("a", "3")), 4);
}

/// Changes a row of a member that does not run, as a bad disk might: the rows of a key stay readable, but say
/// something else.
fn corrupt(cluster: &TestCluster, number: usize) {
    let directory = cluster.members[number].directory.path().join("member");
    let tables = &cluster.machine.description().tables;
    let mut state = State::open(&directory, &files(), tables).expect("the state opens");
    let view = state.view();
    let keys = tables.iter().find(|table| table.name == "key").expect("a key table").id;
    let mut rows = Vec::new();
    view.scan(keys, b"", b"", false, &mut |key, row| {
        rows.push((key.to_vec(), row.to_vec()));
        std::ops::ControlFlow::Continue(())
    })
    .expect("a scan");
    let mut overlay = state.overlay();
    for (key, row) in rows {
        let mut kv = proto::mvccpb::KeyValue::decode(&row[..]).expect("a row");
        kv.version += 1;
        overlay.put(keys, &key, &kv.encode_to_vec()).expect("a table");
    }
    state.commit(overlay.into_writes(), view.mark().clone()).expect("a commit");
    state.persist().expect("a disk");
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_member_in_the_minority_finds_out_and_gets_the_leaders_state() {
    let mut cluster = TestCluster::new(3);
    let leader = cluster.leader();
    let wrong = (leader + 1) % 3;
    cluster.propose(leader, put("a", "1"));
    cluster.expect_equal_states();
    let verdict = |cluster: &TestCluster, number: usize| {
        let running = cluster.members[number].running.as_ref().expect("it runs");
        running.runtime.block_on(running.node.compare_digests())
    };
    wait_until("all agree", || (0..3).all(|number| verdict(&cluster, number) == Verdict::Agrees));

    cluster.crash(wrong);
    corrupt(&cluster, wrong);
    cluster.start(wrong, &files());
    let leader = cluster.leader();
    cluster.propose(leader, put("a", "2"));
    wait_until("the minority knows", || {
        matches!(verdict(&cluster, wrong), Verdict::Differs { .. })
    });
    for right in (0..3).filter(|number| *number != wrong) {
        assert_eq!(verdict(&cluster, right), Verdict::Agrees);
    }

    let running = cluster.members[wrong].running.as_ref().expect("it runs");
    running.runtime.block_on(running.node.quarantine());
    // It keeps the log, and applies nothing.
    let before = running.views.latest().mark().applied;
    for number in 0..300 {
        cluster.propose(leader, put("b", &number.to_string()));
    }
    assert_eq!(running.views.latest().mark().applied, before);
    let shard = running.node.shard(0).expect("there is a shard");
    let refused = running.runtime.block_on(shard.propose(put("c", "1")));
    assert_eq!(refused.map(|_| ()), Err(super::RequestError::Corrupt));

    wait_until("it has the leader's state", || {
        running.runtime.block_on(running.node.reinstall()).is_ok()
    });
    assert!(!running.node.progress.is_quarantined());
    cluster.propose(wrong, put("a", "3"));
    cluster.expect_equal_states();
    assert_eq!(cluster.get(wrong, "b").unwrap(), "299");
    wait_until("all agree again", || {
        (0..3).all(|number| verdict(&cluster, number) == Verdict::Agrees)
    });
    // What it has now, it has after a restart.
    cluster.crash(wrong);
    cluster.start(wrong, &files());
    cluster.propose(cluster.leader(), put("a", "4"));
    cluster.expect_equal_states();
}

#[test]
fn a_leader_in_the_minority_hands_the_leadership_over() {
    let mut cluster = TestCluster::new(3);
    let wrong = cluster.leader();
    cluster.propose(wrong, put("a", "1"));
    let running = cluster.members[wrong].running.as_ref().expect("it runs");
    let mut leader = wrong;
    // Whoever is handed the leadership may miss its chance, and the wrong one go on leading or be elected again.
    wait_until("another one leads", || {
        running.runtime.block_on(running.node.quarantine());
        let next_try = Instant::now() + Duration::from_secs(1);
        while leader == wrong && Instant::now() < next_try {
            std::thread::sleep(Duration::from_millis(5));
            leader = cluster.leader();
        }
        leader != wrong
    });
    cluster.propose(leader, put("a", "2"));
    wait_until("it has the leader's state", || {
        running.runtime.block_on(running.node.reinstall()).is_ok()
    });
    cluster.expect_equal_states();
    cluster.crash(wrong);
}

#[test]
fn a_member_goes_on_while_it_is_defragmented() {
    let cluster = TestCluster::new(1);
    let leader = cluster.leader();
    for number in 0..200 {
        cluster.propose(leader, put(&format!("key{number}"), &"v".repeat(2_000)));
    }
    let running = cluster.members[leader].running.as_ref().expect("it runs");
    let defragmenting = running.runtime.spawn({
        let node = running.node.clone();
        async move { node.defragment().await }
    });
    let mut written = 0;
    while !defragmenting.is_finished() {
        cluster.propose(leader, put("during", &written.to_string()));
        written += 1;
    }
    running.runtime.block_on(defragmenting).expect("a task").expect("it is defragmented");
    cluster.propose(leader, put("after", "1"));
    assert_eq!(cluster.get(leader, "key7").unwrap().len(), 2_000);
    assert_eq!(cluster.get(leader, "during").unwrap(), (written - 1).to_string());
}

#[test]
fn followers_forward_proposals_and_reads() {
    let cluster = TestCluster::new(3);
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    assert_eq!(cluster.propose(follower, put("a", "1")), 2);
    assert_eq!(cluster.get(leader, "a").unwrap(), "1");
    assert_eq!(cluster.propose(leader, put("a", "2")), 3);
    assert_eq!(cluster.get(follower, "a").unwrap(), "2");
    cluster.expect_equal_states();
}

#[test]
fn members_learn_each_others_names_and_client_urls() {
    let cluster = TestCluster::new(3);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = cluster.node(0).members();
        if members
            .iter()
            .all(|member| member.client_urls == [format!("http://client-{}", member.id)])
        {
            assert!(members.iter().all(|member| member.name == format!("m{}", member.id)));
            return;
        }
        assert!(Instant::now() < deadline, "{members:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_member_that_fell_behind_the_log_gets_a_snapshot() {
    let mut cluster = TestCluster::new(3);
    let leader = cluster.leader();
    let behind = (leader + 1) % 3;
    cluster.propose(leader, put("a", "1"));
    cluster.expect_equal_states();
    cluster.crash(behind);
    // Far more than `snapshot_entries`, and than the entries kept behind a shortened log.
    for number in 0..500 {
        cluster.propose(cluster.leader(), put("a", &number.to_string()));
    }
    cluster.start(behind, &files());
    cluster.expect_equal_states();
    assert_eq!(cluster.get(behind, "a").unwrap(), "499");
}

#[test]
fn another_leader_takes_over_without_losing_anything() {
    let mut cluster = TestCluster::new(3);
    for round in 0..3 {
        let leader = cluster.leader();
        let other = (leader + 1) % 3;
        cluster.propose(leader, put("round", &round.to_string()));
        cluster.crash(leader);
        assert_eq!(cluster.get(other, "round").unwrap(), round.to_string());
        cluster.propose(other, put("other", &round.to_string()));
        cluster.start(leader, &files());
        cluster.expect_equal_states();
    }
}

/// A leader that has lost its leadership may have decided something that the new one would not: what was meant for one
/// term does nothing in another, on no member.
#[test]
fn a_command_for_one_term_does_nothing_in_another() {
    let mut cluster = TestCluster::new(3);
    let submit = |cluster: &TestCluster, number: usize, command, term| {
        let running = cluster.members[number].running.as_ref().expect("it runs");
        let shard = running.node.shard(0).expect("there is a shard");
        let outcome = shard.submit(command, term).expect("there is room");
        running.runtime.block_on(outcome)
    };
    let (mut leader, mut term) = (0, 0);
    wait_until("a leader keeps its term for one command", || {
        leader = cluster.leader();
        term = cluster.node(leader).progress.term();
        match submit(&cluster, leader, put("a", "in its term"), term) {
            Ok(outcome) => outcome.revision == 2,
            Err(error) => error != RequestError::TermOver && panic!("{error:?}"),
        }
    });

    cluster.crash(leader);
    let next = cluster.leader();
    assert!(cluster.node(next).progress.term() > term);
    for through in [next, 3 - leader - next] {
        let outcome = submit(&cluster, through, put("a", "too late"), term);
        assert_eq!(outcome.map(|outcome| outcome.revision), Err(RequestError::TermOver));
    }
    assert_eq!(cluster.propose(next, put("b", "1")), 3, "nothing was applied in between");
    cluster.start(leader, &files());
    cluster.expect_equal_states();
    assert_eq!(cluster.get(leader, "a").unwrap(), "in its term");
}

/// A file whose syncs can be made to hang: what was written meanwhile is lost with the process.
#[derive(Debug)]
struct StallingFile {
    path: std::path::PathBuf,
    image: Mutex<Vec<u8>>,
    stall: Arc<Stall>,
}

#[derive(Debug, Default)]
struct Stall {
    state: Mutex<StallState>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum StallState {
    #[default]
    Working,
    Hanging,
    /// The power is gone.
    Dead,
}

impl Stall {
    fn set(&self, state: StallState) {
        *self.state.lock().unwrap() = state;
        self.changed.notify_all();
    }

    fn backends(stall: &Arc<Stall>) -> Backends {
        let stall = stall.clone();
        Arc::new(move |path| {
            let image = match std::fs::read(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                other => other?,
            };
            let path = path.to_owned();
            Ok(Box::new(StallingFile { path, image: Mutex::new(image), stall: stall.clone() }))
        })
    }
}

impl redb::StorageBackend for StallingFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        out.copy_from_slice(&self.image.lock().unwrap()[start..start + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.image.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let state = self.stall.state.lock().unwrap();
        let state =
            self.stall.changed.wait_while(state, |state| *state == StallState::Hanging).unwrap();
        match *state {
            StallState::Dead => Err(io::Error::other("the power is gone")),
            _ => std::fs::write(&self.path, &*self.image.lock().unwrap()),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (start, mut image) = (offset as usize, self.image.lock().unwrap());
        let length = image.len().max(start + data.len());
        image.resize(length, 0);
        image[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A put through a leader whose disk hangs, which then dies and comes back. Whether the put was acknowledged.
fn acknowledged_without_its_disk(
    cluster: &mut TestCluster,
    leader: usize,
    stalls: &[Arc<Stall>],
    backends: &[Backends],
) -> bool {
    stalls[leader].set(StallState::Hanging);
    let running = cluster.members[leader].running.as_ref().expect("it runs");
    let shard = running.node.shard(0).expect("there is a shard");
    let command = put("b", "not on the leader's disk");
    let outcome = running.runtime.block_on(shard.propose(command));
    stalls[leader].set(StallState::Dead);
    cluster.crash(leader);
    stalls[leader].set(StallState::Working);
    cluster.start(leader, &backends[leader]);
    outcome.is_ok()
}

/// openraft replicates and commits before the leader's own fsync, and by default a leader that restarts resumes its
/// term. A leader that died with a tail that two followers had and its own disk had not then gave the same log id to
/// another entry: the followers acknowledged without replacing theirs, and the states parted for good. With
/// `enable_leader_restore: Some(false)` a restarted leader has to be elected, and only one with the tail can be.
#[test]
fn a_restarted_leader_does_not_reuse_log_ids() {
    let stalls: Vec<Arc<Stall>> = (0..3).map(|_| Arc::new(Stall::default())).collect();
    let backends: Vec<Backends> = stalls.iter().map(Stall::backends).collect();
    let mut cluster = TestCluster::with_backends(&backends);
    let mut leader = cluster.leader();
    cluster.propose(leader, put("a", "on every disk"));
    cluster.expect_equal_states();

    // A leader whose disk hangs answers only while nobody else wants its vote: on a busy machine it takes another try.
    let deadline = Instant::now() + PATIENCE;
    while !acknowledged_without_its_disk(&mut cluster, leader, &stalls, &backends) {
        assert!(Instant::now() < deadline, "no leader outlives its disk");
        leader = cluster.leader();
    }

    let next = cluster.leader();
    cluster.propose(next, put("c", "after the restart"));
    cluster.expect_equal_states();
    for member in 0..3 {
        assert_eq!(cluster.get(member, "b").unwrap(), "not on the leader's disk");
        assert_eq!(cluster.get(member, "c").unwrap(), "after the restart");
    }
}

/// A leader that dies between the two steps of a change leaves a joint configuration behind, which needs two quorums
/// for everything. The next leader makes it uniform, and who was to be removed learns of it.
#[test]
fn a_half_done_change_is_finished_by_the_next_leader() {
    let mut cluster = TestCluster::new(3);
    let leader = cluster.leader();
    let own_id = leader as u64 + 1;
    cluster.propose(leader, put("a", "1"));
    let running = cluster.members[leader].running.as_ref().expect("it runs");
    let raft = running.node.raft.clone();
    let deadline = Instant::now() + PATIENCE;
    running.runtime.block_on(async {
        loop {
            let now = raft.metrics().borrow_watched().membership_config.membership().clone();
            let all: BTreeSet<u64> = now.voter_ids().collect();
            let rest = all.iter().copied().filter(|id| *id != own_id).collect();
            let nodes: BTreeMap<u64, Member> =
                now.nodes().map(|(id, member)| (*id, member.clone())).collect();
            let joint = Membership::new(vec![all, rest], nodes).expect("a membership");
            // Refused while members still publish themselves.
            match raft.append_membership(joint, EntryPayload::Blank, []).await {
                Ok(_) => return,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    cluster.crash(leader);

    let other = (leader + 1) % 3;
    while !cluster.node(other).progress.applied_membership().removed.contains(&own_id) {
        assert!(Instant::now() < deadline, "nobody finishes the change");
        std::thread::sleep(Duration::from_millis(5));
    }
    let membership = cluster.node(other).progress.applied_membership();
    assert_eq!(membership.stored.membership().get_joint_config().len(), 1);
    assert!(membership.stored.get_node(&own_id).is_none());
    cluster.propose(other, put("a", "2"));

    cluster.start(leader, &files());
    let running = cluster.members[leader].running.as_ref().expect("it runs");
    let ended = running
        .runtime
        .block_on(async { tokio::time::timeout(PATIENCE, running.node.ended()).await });
    assert_eq!(ended, Ok(Ended::Removed));
}

/// A leader that was elected just now has not heard of everyone yet.
fn change_when_healthy(running: &Running, change: MembershipChange) -> Vec<MemberRecord> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match running.runtime.block_on(running.node.change_membership(change.clone())) {
            Ok(members) => return members,
            Err(error) => {
                let is_early = error == ChangeError::Refused(ChangeRefused::Unhealthy);
                assert!(is_early && Instant::now() < deadline, "{error}");
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// etcd 3.5 could apply a change of the membership, die, and come back with another one, because its store and its
/// index were written apart. Here a member that dies at once has the change, or gets it from the log.
#[test]
fn a_change_of_the_membership_survives_a_crash_of_everyone() {
    let mut cluster = TestCluster::new(3);
    let leader = cluster.leader();
    let change = MembershipChange::Add {
        id: 9,
        peer_urls: vec!["http://nobody:1".into()],
        is_learner: true,
    };
    let running = cluster.members[leader].running.as_ref().expect("it runs");
    let members = change_when_healthy(running, change);
    assert_eq!(members.iter().filter(|member| member.is_learner).count(), 1);
    for number in 0..3 {
        cluster.crash(number);
    }
    for number in 0..3 {
        cluster.start(number, &files());
    }
    let leader = cluster.leader();
    cluster.propose(leader, put("a", "1"));
    cluster.expect_equal_states();
    for number in 0..3 {
        let records = cluster.node(number).members();
        assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [1, 2, 3, 9]);
        assert!(records[3].is_learner);
    }
    // And its removal is remembered: the id does not come back.
    let running = cluster.members[leader].running.as_ref().expect("it runs");
    let node = &running.node;
    assert_eq!(change_when_healthy(running, MembershipChange::Remove { id: 9 }).len(), 3);
    let again = MembershipChange::Add {
        id: 9,
        peer_urls: vec!["http://nobody:1".into()],
        is_learner: true,
    };
    let refused = running.runtime.block_on(node.change_membership(again)).unwrap_err();
    assert_eq!(refused, ChangeError::Refused(ChangeRefused::MemberNotFound));
}
