//! One run: a fresh cluster, the data a workload needs, the load, and what it cost.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::cluster::{Cluster, Subject};
use super::error::BenchError;
use super::generator::{self, Bound, Load, Outcome};
use super::grpc::{self, CallError};
use super::message;
use super::process::{self, Memory};
use super::workload::{Action, DATASET_KEYS, Extent, Target, Workload, check_listing};

/// Connections and clients on each that put the dataset.
const DATASET_CONNECTIONS: usize = 16;
const DATASET_STREAMS: usize = 16;
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
    pub memory: Memory,
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
    run_on(&cluster, workload, effort).map_err(|error| BenchError::Member {
        label: subject.label.clone(),
        what: format!("could not be measured: {error}"),
        log: cluster.log_ends(),
    })
}

fn run_on(cluster: &Cluster, workload: &Workload, effort: &Effort) -> Result<Sample, BenchError> {
    let pids = cluster.pids();
    if workload.reads_dataset() {
        generator::run(&Load {
            action: Action::Put,
            connections: dealt(&cluster.members(), DATASET_CONNECTIONS),
            streams: DATASET_STREAMS,
            threads: effort.threads,
            bound: Bound::Requests(DATASET_KEYS),
            pids: &pids,
        })?;
    }
    if workload.action == Action::List {
        check_first_listing(cluster.leader())?;
    }
    let members = targets(cluster, workload.target);
    let outcome = generator::run(&Load {
        action: workload.action,
        connections: dealt(&members, workload.connections),
        streams: workload.streams,
        threads: effort.threads.min(workload.connections),
        bound: match workload.extent {
            Extent::Time => Bound::Time { warm_up: effort.warm_up, measured: effort.measured },
            Extent::Keys => Bound::Requests(effort.keys),
        },
        pids: &pids,
    })?;
    if workload.extent == Extent::Keys {
        std::thread::sleep(SETTLE);
    }
    sample(&outcome, process::memory_of(&pids)?)
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

/// Deals connections to members in turn.
fn dealt(members: &[SocketAddr], connections: usize) -> Vec<SocketAddr> {
    members.iter().copied().cycle().take(connections).collect()
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

fn sample(outcome: &Outcome, memory: Memory) -> Result<Sample, BenchError> {
    let requests = outcome.latencies.count();
    if requests == 0 {
        let why = outcome.first_failure.as_deref().unwrap_or("none was even refused");
        return Err(BenchError::Load(format!("no request was answered: {why}")));
    }
    let ms = |ns: f64| ns / 1e6;
    let us_a_request = |time: Duration| time.as_secs_f64() * 1e6 / requests as f64;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let whole_machine_s = outcome.elapsed.as_secs_f64() * processors as f64;
    Ok(Sample {
        requests,
        requests_per_s: requests as f64 / outcome.elapsed.as_secs_f64(),
        mean_ms: ms(outcome.latencies.mean_ns()),
        p50_ms: ms(outcome.latencies.percentile_ns(0.50) as f64),
        p99_ms: ms(outcome.latencies.percentile_ns(0.99) as f64),
        cpu_us: us_a_request(outcome.servers_cpu),
        memory,
        generator_us: us_a_request(outcome.generator_cpu),
        others_share: outcome.others_cpu.as_secs_f64() / whole_machine_s,
        failures: outcome.failures,
        first_failure: outcome.first_failure.clone(),
    })
}
