//! Puts the parts together, and takes them apart again.
//!
//! Order of the start: ports first, then the data directory, so that a start that fails has changed nothing on disk;
//! then the machine, the state, raft, and clients last. The end goes the other way round.

mod auto_compaction;
mod coordinator;
mod database_snapshot;
mod integrity;
mod machine_requests;
mod machine_service;
mod module_service;
mod offline;
mod query_pool;
mod restore;
mod shadow_service;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};

use self::coordinator::{ClientCoordinator, Shared};
pub use self::offline::{OfflineError, OfflineState};
use self::query_pool::QueryPool;
pub use self::restore::{NewMember, RestoreError, restore};
use crate::api::{self, BindError, Listeners, Purpose, ServeError};
use crate::config::{AutoCompaction, ClusterState, Config, Url};
use crate::lease::{Keeper, KeeperLinks, Leases};
use crate::limits;
use crate::raft::{
    self, ChangePolicy, Ended, JoinError, Node, NodeOptions, OwnIdentity, StartError,
};
use crate::runtime::{BUILT_IN, Machine, Machines, Runtime, RuntimeError, UpkeepError};
use crate::storage::{DataDir, DataDirError, Identity, Log, State, StorageError, Views, files};
use crate::watch::Hub;

/// How long clients may take to end their calls when the member stops. With the hand-over of the leadership it stays
/// below the 1.5 s after which etcd's users expect the process to be gone.
const CLIENT_GRACE: Duration = Duration::from_millis(200);

/// How long a member that was removed goes on, so that its clients get their answers; etcd's figure.
const REMOVAL_GRACE: Duration = Duration::from_secs(1);

/// Why the server could not start, or had to end. Each says what to do.
#[derive(Debug, Error)]
pub enum ServerError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(
        "{0}; if the disk is sound, move the data directory away and restore this member from its peers"
    )]
    Storage(#[from] StorageError),
    #[error("the state machine cannot be run: {0}")]
    Machine(#[from] RuntimeError),
    #[error("the index cannot be made from the state: {0}")]
    Rebuild(#[from] UpkeepError),
    #[error(transparent)]
    Raft(#[from] StartError),
    #[error(transparent)]
    Serve(#[from] ServeError),
    #[error("a thread or a signal handler cannot be set up: {0}")]
    System(#[from] std::io::Error),
    #[error("this member has stopped, because it can no longer keep its word: {0}")]
    Failed(String),
}

/// Runs a member until it is told to stop, or fails.
pub fn run(config: Config) -> Result<(), ServerError> {
    raise_file_limit();
    let clients = listen(&config)?;
    let peers = Listeners::bind(&config.listen_peer_urls, "listen-peer-urls")?;
    let data = open_data(&config)?;
    let identity = *data.identity();
    tracing::info!(
        member = format!("{:x}", identity.member_id),
        cluster = format!("{:x}", identity.cluster_id),
        data_dir = %config.data_dir.display(),
        "starting"
    );
    let runtime = Runtime::new(Some(data.machines()))?;
    let built_in = runtime.load(BUILT_IN)?;
    State::check(data.files(), &files())?;
    let log = Log::open(data.files(), &files())?;
    let tables = raft::with_host_tables(&built_in.description().tables);
    let mut state = State::open(data.files(), &files(), &tables)?;
    let machine = active_machine(&runtime, built_in, &state)?;
    state.declare(&machine.description().tables)?;
    raft::rebuild(&machine, &mut state)?;
    note_machine(&state, &machine);
    let machines = Machines::new(runtime, machine.clone());
    let views = state.views();

    let shards = std::thread::available_parallelism().map_or(1, usize::from);
    let options = node_options(&config, &data, shards);
    let request_timeout = options.request_timeout;
    let keeper = Arc::new(lease_keeper(&config, &machine));
    let start = RaftStart {
        options,
        log,
        state: (state, views.clone()),
        machines: machines.clone(),
        keeper: keeper.clone(),
        peers,
        auto_compaction: config.auto_compaction,
    };
    let raft = RaftThread::start(start)?;
    let leases = keep_leases(keeper, &raft.node, &views)?;
    let lease_rounds = raft.node.lease_rounds();
    let leases = || {
        let (keeper, links) = leases.clone();
        Leases::new(keeper, links, lease_rounds.clone(), request_timeout)
    };
    let shared = Shared {
        node: raft.node.clone(),
        views,
        machines: machines.clone(),
        snapshot_directory: data.snapshots(),
        max_txn_ops: config.max_txn_ops,
        request_timeout,
    };
    let coordinators = coordinators(&shared, leases)?;
    let settings = api_settings(&config, &identity);
    let server = api::serve(clients, coordinators, settings)?;

    let end = wait_for_end(&raft.node, &config)?;
    server.stop(CLIENT_GRACE);
    raft.stop();
    match end {
        End::Asked => Ok(()),
        End::Failed(reason) => Err(ServerError::Failed(reason)),
        End::Removed => Ok(()),
    }
}

fn api_settings(config: &Config, identity: &Identity) -> api::Settings {
    api::Settings {
        cluster_id: identity.cluster_id,
        member_id: identity.member_id,
        max_request_bytes: config.max_request_bytes,
        quota_backend_bytes: config.quota_backend_bytes,
        election_timeout: Duration::from_millis(u64::from(config.election_timeout_ms)),
        http: config.http.clone(),
        grpc: config.grpc.clone(),
        minimum_lease_ttl_s: minimum_lease_ttl_s(config),
        machine_upgrades: config.machine_upgrades
            || config.listen_client_urls.iter().all(Url::is_loopback),
    }
}

/// Everything that clients are served on.
fn listen(config: &Config) -> Result<Listeners, BindError> {
    let http = &config.http;
    let purpose = match http.listen_http_urls.is_empty() {
        true => Purpose::Everything,
        false => Purpose::GrpcOnly,
    };
    Listeners::default()
        .and(&config.listen_client_urls, "listen-client-urls", purpose)?
        .and(&http.listen_http_urls, "listen-client-http-urls", Purpose::HttpOnly)?
        .and(&http.listen_metrics_urls, "listen-metrics-urls", Purpose::MetricsOnly)
}

/// Takes as many open files as the system allows, as Go's runtime does: each client is one.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
}

fn open_data(config: &Config) -> Result<DataDir, ServerError> {
    let fresh = Identity {
        cluster_id: config.initial_cluster.cluster_id,
        member_id: config.member_id,
        incarnation: rand::random(),
    };
    let joins = config.initial_cluster_state == ClusterState::Existing;
    if DataDir::exists(&config.data_dir) {
        // A member that has joined keeps its flags, and they describe the cluster as it was then.
        let may_differ = joins || !config.initial_cluster_is_given;
        return Ok(DataDir::open(&config.data_dir, fresh, may_differ)?);
    }
    let (cluster, name) = (&config.initial_cluster, &config.name);
    if joins {
        let joined = raft::join(cluster, name, config.max_learners)?;
        let (cluster_id, member_id) = (joined.cluster_id, joined.member_id);
        let identity = Identity { cluster_id, member_id, ..fresh };
        return Ok(DataDir::open(&config.data_dir, identity, false)?);
    }
    raft::was_started_before(cluster, name)?;
    Ok(DataDir::open(&config.data_dir, fresh, false)?)
}

/// Whether this member begins the cluster together with the others that its flags name.
fn begins_cluster(config: &Config, identity: &Identity) -> bool {
    config.initial_cluster_state == ClusterState::New
        && config.initial_cluster.cluster_id == identity.cluster_id
        && config.member_id == identity.member_id
}

/// The machine that the state says is active; the one that is built in until it says so.
fn active_machine(
    runtime: &Runtime,
    built_in: Machine,
    state: &State,
) -> Result<Machine, ServerError> {
    let view = state.view();
    let digest = view.mark().machine;
    if digest == built_in.digest() {
        return Ok(built_in);
    }
    match raft::component(&*view, &digest)? {
        Some(component) => Ok(runtime.load(&component)?),
        None => Ok(built_in),
    }
}

/// Tells when the state was made by another machine than the one that is built in.
fn note_machine(state: &State, machine: &Machine) {
    let view = state.view();
    let mark = view.mark();
    if mark.applied.is_some() && mark.machine != [0; 32] && mark.machine != machine.digest() {
        tracing::warn!(
            "the state was made by another build of the machine; all members must run the same one"
        );
    }
}

fn urls(urls: &[Url]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

fn node_options(config: &Config, data: &DataDir, shards: usize) -> NodeOptions {
    let identity = data.identity();
    let begins = begins_cluster(config, identity);
    let members = config.initial_cluster.members.iter().filter(|_| begins);
    let initial_members: BTreeMap<u64, (String, Vec<String>)> =
        members.map(|member| (member.id, (member.name.clone(), urls(&member.peer_urls)))).collect();
    let election_timeout_ms = u64::from(config.election_timeout_ms);
    NodeOptions {
        own: OwnIdentity {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            data_incarnation: identity.incarnation,
        },
        name: config.name.clone(),
        client_urls: urls(&config.advertise_client_urls),
        initial_members,
        heartbeat_interval_ms: u64::from(config.heartbeat_interval_ms),
        election_timeout_ms,
        snapshot_entries: config.snapshot_count,
        snapshot_directory: data.snapshots(),
        shards,
        // etcd's: time for a slow disk, and for an election on top.
        request_timeout: Duration::from_millis(5_000 + 2 * election_timeout_ms),
        process_incarnation: rand::random(),
        change_policy: ChangePolicy {
            strict: config.strict_reconfig_check,
            max_learners: config.max_learners,
        },
        force_new_cluster: config.force_new_cluster && !data.is_new(),
    }
}

/// As in etcd: three halves of the time of an election, in whole seconds.
fn minimum_lease_ttl_s(config: &Config) -> i64 {
    let ticks = config.election_timeout_ms / config.heartbeat_interval_ms.max(1);
    let minimum_ms = u64::from(3 * ticks / 2) * u64::from(config.heartbeat_interval_ms);
    minimum_ms.div_ceil(1_000) as i64
}

fn lease_keeper(config: &Config, machine: &Machine) -> Keeper {
    let extension = Duration::from_millis(u64::from(config.election_timeout_ms));
    Keeper::new(&machine.description().tables, minimum_lease_ttl_s(config), extension)
}

/// Starts the thread that keeps the time of leases; it ends with raft.
fn keep_leases(
    keeper: Arc<Keeper>,
    node: &Arc<Node>,
    views: &Views,
) -> Result<(Arc<Keeper>, KeeperLinks), ServerError> {
    let links = KeeperLinks {
        shard: node.own_shard(),
        progress: node.progress.clone(),
        views: views.clone(),
    };
    let Some(peers) = node.peer_lease_rounds() else { return Ok((keeper, links)) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = keeper.clone().run(links.clone(), peers);
    std::thread::Builder::new().name("lease".to_owned()).spawn(move || runtime.block_on(run))?;
    Ok((keeper, links))
}

fn coordinators(
    shared: &Shared,
    leases: impl Fn() -> Leases,
) -> Result<Vec<Arc<ClientCoordinator>>, ServerError> {
    let shards = shared.node.shard_count();
    let query_pool = QueryPool::start(&shared.machines, shards)?;
    let snapshots = Arc::new(Semaphore::new(limits::CLIENT_SNAPSHOTS));
    let coordinator = |(number, shard)| {
        Arc::new(ClientCoordinator {
            watches: Hub::new(shared.node.feed.clone(), number),
            shared: shared.clone(),
            shard,
            reader: Mutex::new(shared.machines.reader()),
            query_pool: query_pool.clone(),
            leases: leases(),
            snapshots: snapshots.clone(),
        })
    };
    Ok((0..shards)
        .filter_map(|number| Some((number, shared.node.shard(number)?)))
        .map(coordinator)
        .collect())
}

enum End {
    Asked,
    Removed,
    Failed(String),
}

/// Says when the member is ready; returns when it is told to stop, or can no longer go on.
fn wait_for_end(node: &Arc<Node>, config: &Config) -> Result<End, ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let ready = async {
            node.ready().await;
            tracing::info!(
                advertise_client_urls = urls(&config.advertise_client_urls).join(","),
                "ready to serve client requests"
            );
            std::future::pending::<()>().await;
        };
        let end = tokio::select! {
            _ = terminate.recv() => End::Asked,
            _ = interrupt.recv() => End::Asked,
            ended = node.ended() => match ended {
                Ended::Failed(reason) => End::Failed(reason),
                Ended::Removed => End::Removed,
            },
            () = ready => End::Asked,
        };
        match end {
            End::Asked => tracing::info!("stopping, as the process was told to"),
            End::Removed => {
                // Whoever asked this very member to remove itself is still to be answered.
                tokio::time::sleep(REMOVAL_GRACE).await;
                let error = "the member has been permanently removed from the cluster";
                tracing::warn!(error, "server error");
                tracing::warn!("data-dir used by this member must be removed");
            }
            End::Failed(_) => {}
        }
        Ok(end)
    })
}

/// What raft's thread begins with.
struct RaftStart {
    options: NodeOptions,
    log: (Log, crate::storage::LogState),
    state: (State, Views),
    machines: Arc<Machines>,
    keeper: Arc<Keeper>,
    peers: Listeners,
    auto_compaction: Option<AutoCompaction>,
}

/// The thread with raft's runtime.
struct RaftThread {
    node: Arc<Node>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl RaftThread {
    fn start(start: RaftStart) -> Result<Self, ServerError> {
        let (stop, stopping) = oneshot::channel();
        let (started, result) = mpsc::sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("raft".to_owned()).spawn(move || {
            runtime.block_on(async {
                let RaftStart { options, log, state, machines, keeper, peers, auto_compaction } =
                    start;
                let views = state.1.clone();
                let sockets = peers.into_sockets();
                let node = Node::start(options, log, state, machines, vec![keeper], sockets).await;
                let running = node.as_ref().ok().cloned();
                // The starting thread waits for exactly this one message.
                drop(started.send(node));
                if let Some(node) = running {
                    tokio::spawn(integrity::watch(node.clone()));
                    if let Some(compaction) = auto_compaction {
                        tokio::spawn(auto_compaction::run(compaction, node.clone(), views));
                    }
                    // A dropped sender means that the process ends without asking.
                    drop(stopping.await);
                    node.stop().await;
                }
            });
        })?;
        let stopped = || StartError::Raft("its thread ended early".to_owned());
        let node = result.recv().map_err(|_| stopped())??;
        Ok(Self { node, stop, thread })
    }

    /// Hands the leadership over, stops raft, and waits until the files are closed.
    fn stop(self) {
        // A thread that has ended already needs no telling.
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("raft's thread has panicked");
        }
        self.node.join_threads();
    }
}
