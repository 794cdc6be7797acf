//! The load generator: clients on current-thread runtimes, as lean as `h2` allows.
//!
//! A load has parts, each some clients with one role (`client`). Nothing is shared between threads but two
//! atomics; a thread's clients share one recorder. The calling thread sleeps, and reads the clocks of all
//! processes at the two ends of the measured window.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::client::{Client, Context, MEASURE, Recorder, Role, STOP, Shared};
use super::error::BenchError;
use super::grpc::{self, CallError};
use super::histogram::Histogram;
use super::process::{self, Memory};
use super::workload::Crowd;

/// How long requests may still be out when a timed run is over, before the run fails.
const STRAGGLERS_MAX: Duration = Duration::from_secs(30);
/// How long a run that is bounded by a count may take.
const COUNTED_RUN_MAX: Duration = Duration::from_secs(1_800);
/// How long all streams may take to be opened.
const OPEN_MAX: Duration = Duration::from_secs(60);

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// Runs unmeasured, then measured for a time.
    Time { warm_up: Duration, measured: Duration },
    /// Until every client has ended, all of it measured; callers send so many requests together.
    Requests(u64),
}

/// Clients that do the same.
#[derive(Debug)]
pub struct Part {
    pub role: Role,
    /// The member of each connection.
    pub connections: Vec<SocketAddr>,
    /// Clients on each connection.
    pub streams: usize,
}

impl Part {
    /// A crowd whose connections are dealt to the members in turn.
    pub fn new(role: Role, members: &[SocketAddr], crowd: Crowd) -> Self {
        let connections = members.iter().copied().cycle().take(crowd.connections).collect();
        Self { role, connections, streams: crowd.streams }
    }
}

/// One load on running members.
#[derive(Debug)]
pub struct Load<'a> {
    pub parts: Vec<Part>,
    pub threads: usize,
    pub bound: Bound,
    /// The processes whose time is the servers' time.
    pub pids: &'a [u32],
}

/// What a load's measured window saw.
pub struct Outcome {
    pub elapsed: Duration,
    /// Of calls, and of what came over streams (events, renewals, watchers that have caught up, leases
    /// that are gone).
    pub calls: Histogram,
    pub deliveries: Histogram,
    /// Requests answered with an error, and the first such error.
    pub failures: u64,
    pub first_failure: Option<String>,
    /// The servers' memory at the end of the window, all connections still open.
    pub memory: Memory,
    pub servers_cpu: Duration,
    pub generator_cpu: Duration,
    /// What everything else on the machine used: the noise.
    pub others_cpu: Duration,
}

enum Report {
    /// Connected; the path of the thread's clock.
    Ready(String),
    Ended(Result<(), BenchError>),
}

/// Runs a load to its end.
pub fn run(load: &Load) -> Result<Outcome, BenchError> {
    let requests_max = match load.bound {
        Bound::Time { .. } => u64::MAX,
        Bound::Requests(requests) => requests,
    };
    let shared = Arc::new(Shared::new(requests_max));
    let recorders: Vec<Arc<Mutex<Recorder>>> = (0..load.threads).map(|_| Arc::default()).collect();
    let (report, reports) = channel();
    std::thread::scope(|scope| {
        let mut gates = Vec::new();
        for (index, recorder) in recorders.iter().enumerate() {
            let (gate, opened) = channel();
            gates.push(gate);
            let thread = Thread { load, index, shared: shared.clone(), recorder: recorder.clone() };
            let report = report.clone();
            scope.spawn(move || thread.run(&report, &opened));
        }
        drop(report);
        let window = control(load, &shared, &reports, &gates);
        // Whatever happened: threads that still run end, and those that wait at their gate are let go.
        shared.phase.store(STOP, Ordering::Relaxed);
        window
    })
    .map(|window| gather(&window, recorders))
}

/// The measured window: readings at its two ends.
struct Window {
    start: Reading,
    end: Reading,
    memory: Memory,
}

struct Reading {
    at: Instant,
    servers: Duration,
    generator: Duration,
    busy: Duration,
}

fn read(load: &Load, clocks: &[String]) -> Result<Reading, BenchError> {
    let mut generator = Duration::ZERO;
    for clock in clocks {
        generator += process::thread_cpu(clock)?;
    }
    let (servers, busy) = (process::cpu_of(load.pids)?, process::machine_busy()?);
    Ok(Reading { at: Instant::now(), servers, generator, busy })
}

/// Starts the threads together, opens and closes the window, and waits until all have ended. A thread
/// that has ended keeps its clock until its gate closes.
fn control(
    load: &Load,
    shared: &Shared,
    reports: &Receiver<Report>,
    gates: &[Sender<()>],
) -> Result<Window, BenchError> {
    let mut clocks = Vec::new();
    while clocks.len() < load.threads {
        match reports.recv() {
            Ok(Report::Ready(clock)) => clocks.push(clock),
            Ok(Report::Ended(result)) => return Err(ended_early(result)),
            Err(_) => return Err(ended_early(Ok(()))),
        }
    }
    let open = || {
        for gate in gates {
            // A thread that is gone has reported why.
            let _ = gate.send(());
        }
    };
    match load.bound {
        Bound::Time { warm_up, measured } => {
            open();
            pause(reports, warm_up)?;
            let start = read(load, &clocks)?;
            shared.phase.store(MEASURE, Ordering::Relaxed);
            pause(reports, measured)?;
            let end = read(load, &clocks)?;
            let memory = process::memory_of(load.pids)?;
            shared.phase.store(STOP, Ordering::Relaxed);
            all_ended(reports, load.threads)?;
            Ok(Window { start, end, memory })
        }
        Bound::Requests(_) => {
            shared.phase.store(MEASURE, Ordering::Relaxed);
            let start = read(load, &clocks)?;
            open();
            all_ended(reports, load.threads)?;
            let (end, memory) = (read(load, &clocks)?, process::memory_of(load.pids)?);
            Ok(Window { start, end, memory })
        }
    }
}

fn pause(reports: &Receiver<Report>, time: Duration) -> Result<(), BenchError> {
    match reports.recv_timeout(time) {
        Err(RecvTimeoutError::Timeout) => Ok(()),
        Ok(Report::Ended(result)) => Err(ended_early(result)),
        Ok(Report::Ready(_)) | Err(RecvTimeoutError::Disconnected) => Err(ended_early(Ok(()))),
    }
}

fn all_ended(reports: &Receiver<Report>, threads: usize) -> Result<(), BenchError> {
    for _ in 0..threads {
        match reports.recv() {
            Ok(Report::Ended(result)) => result?,
            Ok(Report::Ready(_)) | Err(_) => return Err(ended_early(Ok(()))),
        }
    }
    Ok(())
}

fn ended_early(result: Result<(), BenchError>) -> BenchError {
    let unexplained = || BenchError::Load("a thread of the generator ended too early".into());
    result.err().unwrap_or_else(unexplained)
}

fn gather(window: &Window, recorders: Vec<Arc<Mutex<Recorder>>>) -> Outcome {
    let Window { start, end, memory } = window;
    let servers_cpu = end.servers.saturating_sub(start.servers);
    let generator_cpu = end.generator.saturating_sub(start.generator);
    let busy = end.busy.saturating_sub(start.busy);
    let mut outcome = Outcome {
        elapsed: end.at - start.at,
        calls: Histogram::default(),
        deliveries: Histogram::default(),
        failures: 0,
        first_failure: None,
        memory: *memory,
        servers_cpu,
        generator_cpu,
        others_cpu: busy.saturating_sub(servers_cpu + generator_cpu),
    };
    for recorder in recorders {
        let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.calls.merge(&recorder.calls);
        outcome.deliveries.merge(&recorder.deliveries);
        outcome.failures += recorder.failures;
        outcome.first_failure = outcome.first_failure.or(recorder.first_failure.take());
    }
    outcome
}

/// One thread of the generator: a runtime, a share of the connections, one histogram.
struct Thread<'a> {
    load: &'a Load<'a>,
    index: usize,
    shared: Arc<Shared>,
    recorder: Arc<Mutex<Recorder>>,
}

impl Thread<'_> {
    /// Connects, waits for its gate, runs its clients, and stays until its gate closes. A report that
    /// nobody takes any more is about a run that has failed already.
    fn run(&self, report: &Sender<Report>, opened: &Receiver<()>) {
        let result = self.work(report, opened);
        if result.is_err() {
            self.shared.phase.store(STOP, Ordering::Relaxed);
        }
        drop(report.send(Report::Ended(result)));
        while opened.recv().is_ok() {}
    }

    fn work(&self, report: &Sender<Report>, opened: &Receiver<()>) -> Result<(), BenchError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BenchError::io("start a runtime"))?;
        let clients =
            runtime.block_on(async { tokio::time::timeout(OPEN_MAX, self.connect()).await });
        let clients = clients.map_err(|_| {
            BenchError::Load(format!("streams are still not open after {OPEN_MAX:?}"))
        })??;
        drop(report.send(Report::Ready(process::this_thread()?)));
        if opened.recv().is_err() {
            return Ok(());
        }
        let time_max = match self.load.bound {
            Bound::Time { warm_up, measured } => warm_up + measured + STRAGGLERS_MAX,
            Bound::Requests(_) => COUNTED_RUN_MAX,
        };
        let all = async { tokio::time::timeout(time_max, self.run_all(clients)).await };
        runtime.block_on(all).unwrap_or_else(|_| {
            Err(BenchError::Load(format!("requests are still unanswered after {time_max:?}")))
        })
    }

    /// Opens this thread's connections, and the streams that are to be open beforehand: all of them first,
    /// then their first answers are awaited.
    async fn connect(&self) -> Result<Vec<Client>, BenchError> {
        let broken = |error: CallError| BenchError::Load(error.to_string());
        let context = Context { shared: self.shared.clone(), recorder: self.recorder.clone() };
        let mut clients = Vec::new();
        for part in &self.load.parts {
            let mine = part.connections.iter().enumerate().skip(self.index);
            for (connection, &address) in mine.step_by(self.load.threads) {
                let sender = grpc::connect(address).await.map_err(broken)?;
                let head = grpc::head(address, part.role.path()).map_err(broken)?;
                for stream in 0..part.streams {
                    let number = (connection * part.streams + stream) as u64;
                    let client = Client::open(part.role, number, &sender, &head, &context).await;
                    clients.push(client.map_err(broken)?);
                }
            }
        }
        for client in &mut clients {
            client.opened().await?;
        }
        Ok(clients)
    }

    /// Runs clients that end by themselves to their end, and the others until the run is over.
    async fn run_all(&self, clients: Vec<Client>) -> Result<(), BenchError> {
        let failed = |error| BenchError::Load(format!("a client failed: {error}"));
        let (mut ending, mut endless) = (JoinSet::new(), JoinSet::new());
        for client in clients {
            if client.is_endless() { &mut endless } else { &mut ending }.spawn(client.run());
        }
        if !endless.is_empty() {
            let shared = self.shared.clone();
            ending.spawn(async move {
                shared.stopped().await;
                Ok(())
            });
        }
        loop {
            tokio::select! {
                Some(ended) = endless.join_next() => ended.map_err(failed)??,
                ended = ending.join_next() => match ended {
                    Some(ended) => ended.map_err(failed)??,
                    None => return Ok(()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::super::floor;
    use super::super::workload::Action;
    use super::*;

    /// The server that does no work, on a thread that ends with the process.
    fn floor_server() -> SocketAddr {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port");
        std::thread::spawn(move || floor::serve(address.port()).expect("the server"));
        while TcpStream::connect(address).is_err() {
            std::thread::yield_now();
        }
        address
    }

    fn load(action: Action, address: SocketAddr, bound: Bound) -> Load<'static> {
        let crowd = Crowd { connections: 3, streams: 4 };
        let parts = vec![Part::new(Role::Call(action), &[address], crowd)];
        Load { parts, threads: 2, bound, pids: &[] }
    }

    const BRIEF: Bound =
        Bound::Time { warm_up: Duration::from_millis(20), measured: Duration::from_millis(100) };

    #[test]
    fn a_count_is_kept_exactly_and_a_time_about() {
        let address = floor_server();
        let counted = run(&load(Action::Put, address, Bound::Requests(500))).expect("puts");
        assert_eq!((counted.calls.count(), counted.failures), (500, 0));
        let timed = run(&load(Action::Get { serializable: true }, address, BRIEF)).expect("gets");
        assert!(timed.calls.count() > 0 && timed.elapsed >= Duration::from_millis(100));
        assert!(timed.generator_cpu > Duration::ZERO);
    }

    #[test]
    fn errors_are_counted_and_broken_connections_end_the_run() {
        let refused = run(&load(Action::Transaction, floor_server(), BRIEF)).expect("a run");
        assert_eq!(refused.calls.count(), 0);
        assert!(refused.failures > 0);
        assert!(refused.first_failure.is_some_and(|failure| failure.contains("code 12")));

        // Accepts connections and closes them at once.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        std::thread::spawn(move || listener.incoming().for_each(drop));
        assert!(run(&load(Action::Put, address, Bound::Requests(1))).is_err());
    }
}
