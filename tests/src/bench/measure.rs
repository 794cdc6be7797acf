//! One run: a fresh cluster, the data a workload needs, the load, and what it cost.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::client::Role;
use super::cluster::{Cluster, Subject};
use super::error::BenchError;
use super::generator::{self, Bound, Load, Outcome, Part};
use super::grpc::{self, CallError};
use super::histogram::Histogram;
use super::message;
use super::process;
use super::workload::{
    Action, Crowd, DATASET_KEYS, Extent, LONG_TTL_S, Shape, Target, Workload, check_listing,
};

/// The clients that put what a workload needs to be there.
const SETTERS: Crowd = Crowd { connections: 16, streams: 16 };
/// The client that does what only one does.
const ONE: Crowd = Crowd { connections: 1, streams: 1 };
/// The clients that put while watchers catch up, and their keys, which nobody watches.
const PUTTERS: Crowd = Crowd { connections: 16, streams: 1 };
const UNWATCHED: Action = Action::Update { first: 1_000_000, keys: 10_000 };
/// The time of leases that are to expire: as long as granting them may take, and a little.
const GRANTS_PER_S_MIN: u64 = 4_000;
const TTL_S_MIN: u64 = 5;
/// What a program is given after the load of many keys to finish what it does in the background, before
/// its memory is read. The peak includes this time too.
const SETTLE: Duration = Duration::from_secs(2);

/// How long and how much to measure.
#[derive(Clone, Debug)]
pub struct Effort {
    pub warm_up: Duration,
    pub measured: Duration,
    /// Keys of the workload that loads many.
    pub keys: u64,
    /// Revisions that watchers go back to catch up.
    pub revisions: u64,
    /// Leases of the workloads that grant many.
    pub leases: u64,
    /// Threads of the generator.
    pub threads: usize,
}

/// The figures of one run.
#[derive(Clone, Default, Debug)]
pub struct Sample {
    pub requests: u64,
    pub requests_per_s: f64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Servers' user and system time a request, all members.
    pub cpu_us: f64,
    pub memory: process::Memory,
    /// Puts a second while watchers catch up, as a share of those before.
    pub puts_kept: Option<f64>,
    /// The generator's own time a request.
    pub generator_us: f64,
    /// Share (0 to 1) of the machine that neither the servers nor the generator used.
    pub others_share: f64,
    pub failures: u64,
    pub first_failure: Option<String>,
}

/// Measures one workload once, on a cluster that is started for it and ended after it.
pub fn measure(
    subject: &Subject,
    workload: &Workload,
    members: usize,
    effort: &Effort,
    directory: &Path,
) -> Result<Sample, BenchError> {
    let cluster = Cluster::start(subject, members, directory)?;
    let run = Run { cluster: &cluster, target: workload.target, effort, pids: cluster.pids() };
    run.measure(workload).map_err(|error| BenchError::Member {
        label: subject.label.clone(),
        what: format!("could not be measured: {error}"),
        log: cluster.log_ends(),
    })
}

/// One run on one cluster.
struct Run<'a> {
    cluster: &'a Cluster,
    target: Target,
    effort: &'a Effort,
    pids: Vec<u32>,
}

impl Run<'_> {
    fn measure(&self, workload: &Workload) -> Result<Sample, BenchError> {
        if workload.reads_dataset() {
            self.set_up(Action::Put, DATASET_KEYS)?;
        }
        match workload.shape {
            Shape::Calls { action, crowd, extent } => self.calls(action, crowd, extent),
            Shape::Watch { crowd, keys, puts_per_s } => {
                let puts = Role::PutAtRate { keys, puts_per_s };
                let parts = vec![self.part(Role::Watch { keys }, crowd), self.by_leader(puts)];
                let outcome = self.load(parts, self.timed())?;
                sample(&outcome, &outcome.deliveries)
            }
            Shape::KeepAlive { crowd } => {
                self.set_up(Action::Grant { ttl_s: LONG_TTL_S }, crowd.clients())?;
                let parts = vec![self.part(Role::KeepAlive, crowd)];
                let outcome = self.load(parts, self.timed())?;
                sample(&outcome, &outcome.deliveries)
            }
            Shape::Expiry => self.expiry(),
            Shape::CatchUp { crowd } => self.catch_up(crowd),
        }
    }

    fn calls(&self, action: Action, crowd: Crowd, extent: Extent) -> Result<Sample, BenchError> {
        if action == Action::List {
            check_first_listing(self.cluster.leader())?;
        }
        let bound = match extent {
            Extent::Time => self.timed(),
            Extent::Keys => Bound::Requests(self.effort.keys),
            Extent::Leases => Bound::Requests(self.effort.leases),
        };
        let mut outcome = self.load(vec![self.part(Role::Call(action), crowd)], bound)?;
        if extent != Extent::Time {
            std::thread::sleep(SETTLE);
            outcome.memory = process::memory_of(&self.pids)?;
        }
        sample(&outcome, &outcome.calls)
    }

    /// From the time the first lease is due.
    fn expiry(&self) -> Result<Sample, BenchError> {
        let leases = self.effort.leases;
        let ttl_s = TTL_S_MIN + leases / GRANTS_PER_S_MIN;
        let granting = Instant::now();
        self.set_up(Action::Grant { ttl_s: ttl_s as i64 }, leases)?;
        let due = Duration::from_secs(ttl_s).checked_sub(granting.elapsed());
        let late = || BenchError::Load(format!("{leases} leases were not granted in {ttl_s} s"));
        std::thread::sleep(due.ok_or_else(late)?);
        let parts = vec![self.by_leader(Role::AwaitExpiry { leases })];
        let outcome = self.load(parts, Bound::Requests(0))?;
        sample(&outcome, &outcome.deliveries)
    }

    /// The rate and the cost are those of the puts while watchers catch up, the latencies the watchers'.
    fn catch_up(&self, crowd: Crowd) -> Result<Sample, BenchError> {
        let keys = crowd.clients();
        let events = self.effort.revisions.div_ceil(keys);
        self.set_up(Action::Update { first: 0, keys }, events * keys)?;
        let puts = || self.part(Role::Call(UNWATCHED), PUTTERS);
        let alone = self.load(vec![puts()], self.timed())?;
        let watchers = self.part(Role::CatchUp { keys, events }, crowd);
        let window = Bound::Time { warm_up: Duration::ZERO, measured: self.effort.measured };
        let during = self.load(vec![puts(), watchers], window)?;
        if during.deliveries.count() != keys {
            let caught_up = during.deliveries.count();
            return Err(BenchError::Load(format!("{caught_up} of {keys} watchers caught up")));
        }
        let rate = |outcome: &Outcome| outcome.calls.count() as f64 / outcome.elapsed.as_secs_f64();
        let puts_kept = Some(rate(&during) / rate(&alone)).filter(|share| share.is_finite());
        let mut sample = Sample { puts_kept, ..sample(&during, &during.calls)? };
        sample.set_latencies(&during.deliveries);
        Ok(sample)
    }

    /// Does so many requests before anything is measured.
    fn set_up(&self, action: Action, requests: u64) -> Result<(), BenchError> {
        let members = self.cluster.members();
        let parts = vec![Part::new(Role::Call(action), &members, SETTERS)];
        self.load(parts, Bound::Requests(requests)).map(|_| ())
    }

    fn load(&self, parts: Vec<Part>, bound: Bound) -> Result<Outcome, BenchError> {
        let connections = parts.iter().map(|part| part.connections.len()).max().unwrap_or(1);
        let threads = self.effort.threads.min(connections);
        generator::run(&Load { parts, threads, bound, pids: &self.pids })
    }

    fn timed(&self) -> Bound {
        Bound::Time { warm_up: self.effort.warm_up, measured: self.effort.measured }
    }

    fn part(&self, role: Role, crowd: Crowd) -> Part {
        Part::new(role, &targets(self.cluster, self.target), crowd)
    }

    fn by_leader(&self, role: Role) -> Part {
        Part::new(role, &[self.cluster.leader()], ONE)
    }
}

fn targets(cluster: &Cluster, target: Target) -> Vec<SocketAddr> {
    let leader = cluster.leader();
    let all = cluster.members();
    match target {
        Target::All => all,
        Target::Leader => vec![leader],
        Target::Follower => all.into_iter().filter(|&member| member != leader).take(1).collect(),
    }
}

fn check_first_listing(address: SocketAddr) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(BenchError::io("start a runtime"))?;
    let listing = runtime.block_on(async {
        let mut sender = grpc::connect(address).await?;
        let head = grpc::head(address, grpc::RANGE)?;
        grpc::call(&mut sender, &head, message::list(), usize::MAX).await
    });
    let listing = listing.map_err(|error: CallError| BenchError::Load(error.to_string()))?;
    check_listing(listing.message).map_err(BenchError::Load)
}

impl Sample {
    fn set_latencies(&mut self, latencies: &Histogram) {
        let ms = |ns: f64| ns / 1e6;
        self.mean_ms = ms(latencies.mean_ns());
        self.p50_ms = ms(latencies.percentile_ns(0.50) as f64);
        self.p99_ms = ms(latencies.percentile_ns(0.99) as f64);
    }
}

/// The figures of a window, for each of what `counted` holds.
fn sample(outcome: &Outcome, counted: &Histogram) -> Result<Sample, BenchError> {
    let requests = counted.count();
    if requests == 0 {
        let why = outcome.first_failure.as_deref().unwrap_or("none was even refused");
        return Err(BenchError::Load(format!("no request was answered: {why}")));
    }
    let us_a_request = |time: Duration| time.as_secs_f64() * 1e6 / requests as f64;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let whole_machine_s = outcome.elapsed.as_secs_f64() * processors as f64;
    let mut sample = Sample {
        requests,
        requests_per_s: requests as f64 / outcome.elapsed.as_secs_f64(),
        cpu_us: us_a_request(outcome.servers_cpu),
        memory: outcome.memory,
        generator_us: us_a_request(outcome.generator_cpu),
        others_share: outcome.others_cpu.as_secs_f64() / whole_machine_s,
        failures: outcome.failures,
        first_failure: outcome.first_failure.clone(),
        ..Sample::default()
    };
    sample.set_latencies(counted);
    Ok(sample)
}
