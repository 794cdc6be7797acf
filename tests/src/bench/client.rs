//! The clients of a load: what each role sends, awaits, checks and records.
//!
//! A caller sends its next request when it has the answer to the last; so does a lease that is kept alive.
//! Puts at a rate are sent when they are due, answered or not. A watcher has one watch on a stream of its
//! own, and the versions of its key must follow each other, so that a lost or repeated event ends the run.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::error::BenchError;
use super::grpc::{self, CallError, Stream};
use super::histogram::Histogram;
use super::message::{self, Keyed, bytes_field, number_field};
use super::workload::{Action, Caller, kept_bytes};

/// What a client waits after an error before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(10);
/// Puts at a rate that may be unanswered; a server that is so far behind does not keep up.
const UNANSWERED_PUTS_MAX: usize = 10_000;
/// How often a client of no role of its own looks whether the run is over.
const STOP_SEEN_WITHIN: Duration = Duration::from_millis(10);
/// How often the leases that are left are listed: rarely, since a listing costs the server, too.
const LEASES_LISTED_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a put's answer that are looked at.
const PUT_ANSWER_BYTES: usize = 1024;

pub const WARM_UP: u8 = 0;
pub const MEASURE: u8 = 1;
pub const STOP: u8 = 2;

/// The beginning of the times that values carry.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn now_ns() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// One request out at a time.
    Call(Action),
    /// Puts of keys in turn, evenly in time, whose values carry the time they are sent at.
    PutAtRate { keys: u64, puts_per_s: u64 },
    /// Watches one of `keys` keys until the run is over.
    Watch { keys: u64 },
    /// Watches one of `keys` keys from the first revision, until it has `events`.
    CatchUp { keys: u64, events: u64 },
    /// Keeps the lease alive whose id is the client's number, from 1.
    KeepAlive,
    /// Lists leases until none of so many is left.
    AwaitExpiry { leases: u64 },
}

impl Role {
    /// The method's path.
    pub fn path(self) -> &'static str {
        match self {
            Self::Call(action) => action.path(),
            Self::PutAtRate { .. } => grpc::PUT,
            Self::Watch { .. } | Self::CatchUp { .. } => grpc::WATCH,
            Self::KeepAlive => grpc::LEASE_KEEP_ALIVE,
            Self::AwaitExpiry { .. } => grpc::LEASE_LEASES,
        }
    }
}

/// What all threads of a load share.
pub struct Shared {
    pub phase: AtomicU8,
    next: AtomicU64,
    requests_max: u64,
}

impl Shared {
    /// The start of a load.
    pub fn new(requests_max: u64) -> Self {
        Self { phase: WARM_UP.into(), next: 0.into(), requests_max }
    }

    /// Waits until the run is over.
    pub async fn stopped(&self) {
        while self.phase.load(Ordering::Relaxed) != STOP {
            tokio::time::sleep(STOP_SEEN_WITHIN).await;
        }
    }
}

/// What the clients of one thread saw.
#[derive(Default)]
pub struct Recorder {
    pub calls: Histogram,
    pub deliveries: Histogram,
    pub failures: u64,
    pub first_failure: Option<String>,
}

/// A client's way to the rest of the generator.
#[derive(Clone)]
pub struct Context {
    pub shared: Arc<Shared>,
    pub recorder: Arc<Mutex<Recorder>>,
}

impl Context {
    fn phase(&self) -> u8 {
        self.shared.phase.load(Ordering::Relaxed)
    }

    fn record(&self, change: impl FnOnce(&mut Recorder)) {
        change(&mut self.recorder.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Records what belongs to the measured window only.
    fn measured(&self, change: impl FnOnce(&mut Recorder)) {
        if self.phase() == MEASURE {
            self.record(change);
        }
    }

    /// Takes note of an answer that is an error; a broken connection ends the run.
    fn failed(&self, error: CallError) -> Result<(), BenchError> {
        let CallError::Status { .. } = &error else { return Err(broken(error)) };
        self.record(|recorder| {
            recorder.failures += 1;
            recorder.first_failure.get_or_insert_with(|| error.to_string());
        });
        Ok(())
    }
}

fn broken(error: CallError) -> BenchError {
    BenchError::Load(error.to_string())
}

/// One client, connected.
pub struct Client {
    work: Work,
    sender: SendRequest<Bytes>,
    head: Request<()>,
    context: Context,
}

enum Work {
    Call { caller: Caller, kept_bytes: usize },
    PutAtRate { keys: u64, puts_per_s: u64 },
    Watch(Watch),
    CatchUp { key: u64, events: u64 },
    KeepAlive { id: i64, stream: Stream },
    AwaitExpiry { leases: u64 },
}

impl Client {
    /// The client with a number, its stream opened if that is not part of what is measured.
    pub async fn open(
        role: Role,
        number: u64,
        sender: &SendRequest<Bytes>,
        head: &Request<()>,
        context: &Context,
    ) -> Result<Self, CallError> {
        let mut sender = sender.clone();
        let work = match role {
            Role::Call(action) => {
                Work::Call { caller: Caller::new(action, number), kept_bytes: kept_bytes(action) }
            }
            Role::PutAtRate { keys, puts_per_s } => Work::PutAtRate { keys, puts_per_s },
            Role::Watch { keys } => {
                let create = message::watch(number % keys, 0);
                Work::Watch(Watch::new(Stream::open(&mut sender, head, create).await?))
            }
            Role::CatchUp { keys, events } => Work::CatchUp { key: number % keys, events },
            Role::KeepAlive => {
                let id = number as i64 + 1;
                let stream = Stream::open(&mut sender, head, message::keep_alive(id)).await?;
                Work::KeepAlive { id, stream }
            }
            Role::AwaitExpiry { leases } => Work::AwaitExpiry { leases },
        };
        Ok(Self { work, sender, head: head.clone(), context: context.clone() })
    }

    /// Waits for the first answer of a stream that is open.
    pub async fn opened(&mut self) -> Result<(), BenchError> {
        match &mut self.work {
            Work::Watch(watch) => watch.created().await,
            Work::KeepAlive { stream, .. } => kept_alive(stream).await,
            _ => Ok(()),
        }
    }

    /// Whether the client would wait for ever.
    pub fn is_endless(&self) -> bool {
        matches!(self.work, Work::Watch(_))
    }

    /// Does the client's work to its end.
    pub async fn run(self) -> Result<(), BenchError> {
        let Self { work, sender, head, context } = self;
        match work {
            Work::Call { caller, kept_bytes } => {
                Calls { caller, kept_bytes, sender, head, context }.run().await
            }
            Work::PutAtRate { keys, puts_per_s } => {
                put_at_rate(keys, puts_per_s, &sender, &head, &context).await
            }
            Work::Watch(mut watch) => loop {
                watch
                    .events(|sent_at_ns| {
                        let elapsed_ns = now_ns().saturating_sub(sent_at_ns);
                        context.measured(|recorder| recorder.deliveries.record(elapsed_ns));
                    })
                    .await?;
            },
            Work::CatchUp { key, events } => catch_up(key, events, sender, &head, &context).await,
            Work::KeepAlive { id, stream } => keep_alive(id, stream, &context).await,
            Work::AwaitExpiry { leases } => await_expiry(leases, sender, &head, &context).await,
        }
    }
}

/// The client of the role [`Role::Call`].
struct Calls {
    caller: Caller,
    kept_bytes: usize,
    sender: SendRequest<Bytes>,
    head: Request<()>,
    context: Context,
}

impl Calls {
    async fn run(mut self) -> Result<(), BenchError> {
        while self.context.phase() != STOP {
            let number = self.context.shared.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.context.shared.requests_max {
                break;
            }
            self.request(number).await?;
        }
        Ok(())
    }

    /// Sends one request until it is answered without an error: a load by count must miss no key.
    async fn request(&mut self, number: u64) -> Result<(), BenchError> {
        loop {
            let frame = self.caller.next(number);
            let started = Instant::now();
            match grpc::call(&mut self.sender, &self.head, frame, self.kept_bytes).await {
                Ok(answer) => {
                    let elapsed_ns = started.elapsed().as_nanos() as u64;
                    self.caller.accept(&answer).map_err(BenchError::Load)?;
                    self.context.measured(|recorder| recorder.calls.record(elapsed_ns));
                    return Ok(());
                }
                Err(error) => {
                    self.context.failed(error)?;
                    self.caller.failed();
                    if self.context.phase() == STOP {
                        return Ok(());
                    }
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }
}

async fn put_at_rate(
    keys: u64,
    puts_per_s: u64,
    sender: &SendRequest<Bytes>,
    head: &Request<()>,
    context: &Context,
) -> Result<(), BenchError> {
    let ended = |ended: Result<_, tokio::task::JoinError>| {
        ended.unwrap_or_else(|error| Err(BenchError::Load(format!("a put failed: {error}"))))
    };
    let put = Keyed::put();
    let mut due = tokio::time::interval(Duration::from_secs(1) / puts_per_s as u32);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut unanswered = JoinSet::new();
    for number in 0_u64.. {
        due.tick().await;
        if context.phase() == STOP {
            break;
        }
        while let Some(answered) = unanswered.try_join_next() {
            ended(answered)?;
        }
        if unanswered.len() >= UNANSWERED_PUTS_MAX {
            let why = format!("{UNANSWERED_PUTS_MAX} puts at {puts_per_s} a second are unanswered");
            return Err(BenchError::Load(why));
        }
        let (mut sender, head, context) = (sender.clone(), head.clone(), context.clone());
        let started_ns = now_ns();
        let frame = put.with_time(number % keys, started_ns);
        unanswered.spawn(async move {
            match grpc::call(&mut sender, &head, frame, PUT_ANSWER_BYTES).await {
                Ok(_) => {
                    let elapsed_ns = now_ns().saturating_sub(started_ns);
                    context.measured(|recorder| recorder.calls.record(elapsed_ns));
                    Ok(())
                }
                Err(error) => context.failed(error),
            }
        });
    }
    while let Some(answered) = unanswered.join_next().await {
        ended(answered)?;
    }
    Ok(())
}

/// A watch of one key, from before the key's first put.
struct Watch {
    stream: Stream,
    version: u64,
}

impl Watch {
    fn new(stream: Stream) -> Self {
        Self { stream, version: 0 }
    }

    async fn created(&mut self) -> Result<(), BenchError> {
        match message::watch_events(&self.stream.next().await.map_err(broken)?, |_, _| {}) {
            Some(true) => Ok(()),
            other => Err(BenchError::Load(format!("a watch was answered with {other:?}"))),
        }
    }

    /// Waits for one response; calls `visit` with the time each of its events was sent at.
    async fn events(&mut self, mut visit: impl FnMut(u64)) -> Result<(), BenchError> {
        let response = self.stream.next().await.map_err(broken)?;
        let (before, mut gaps) = (self.version, false);
        let read = message::watch_events(&response, |version, sent_at_ns| {
            gaps |= version != self.version + 1;
            self.version = version;
            visit(sent_at_ns);
        });
        match read {
            Some(_) if !gaps => Ok(()),
            Some(_) => {
                let (from, to) = (before, self.version);
                Err(BenchError::Load(format!("versions do not follow each other: {from} to {to}")))
            }
            None => Err(BenchError::Load("a watch was cancelled or told of no put".into())),
        }
    }
}

async fn catch_up(
    key: u64,
    events: u64,
    mut sender: SendRequest<Bytes>,
    head: &Request<()>,
    context: &Context,
) -> Result<(), BenchError> {
    let started = Instant::now();
    let create = message::watch(key, 1);
    let stream = Stream::open(&mut sender, head, create).await.map_err(broken)?;
    let mut watch = Watch::new(stream);
    watch.created().await?;
    while watch.version < events {
        watch.events(|_| {}).await?;
    }
    // Whenever that is: one that has not caught up within the window would be the slowest.
    let elapsed_ns = started.elapsed().as_nanos() as u64;
    context.record(|recorder| recorder.deliveries.record(elapsed_ns));
    Ok(())
}

async fn keep_alive(id: i64, mut stream: Stream, context: &Context) -> Result<(), BenchError> {
    let frame = message::keep_alive(id);
    while context.phase() != STOP {
        let started = Instant::now();
        stream.send(frame.clone()).map_err(broken)?;
        kept_alive(&mut stream).await?;
        let elapsed_ns = started.elapsed().as_nanos() as u64;
        context.measured(|recorder| recorder.deliveries.record(elapsed_ns));
    }
    Ok(())
}

/// Waits for the answer to a keep-alive, which must say that the lease has time left.
async fn kept_alive(stream: &mut Stream) -> Result<(), BenchError> {
    let answer = stream.next().await.map_err(broken)?;
    match number_field(&answer, 3) {
        Some(1..) => Ok(()),
        other => Err(BenchError::Load(format!("a lease was kept alive for {other:?} seconds"))),
    }
}

/// Records for each lease when it was first seen to be gone.
async fn await_expiry(
    leases: u64,
    mut sender: SendRequest<Bytes>,
    head: &Request<()>,
    context: &Context,
) -> Result<(), BenchError> {
    let started = Instant::now();
    let mut left = leases;
    let mut due = tokio::time::interval(LEASES_LISTED_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while left > 0 {
        due.tick().await;
        let list = grpc::call(&mut sender, head, message::leases(), usize::MAX).await;
        let answer = match list {
            Ok(answer) => answer,
            Err(error) => {
                context.failed(error)?;
                continue;
            }
        };
        bytes_field(&answer.message, 1)
            .filter(|header| !header.is_empty())
            .ok_or_else(|| BenchError::Load("a listing of leases has no header".into()))?;
        let listed = message::leases_listed(&answer.message).filter(|&listed| listed <= left);
        let listed = listed.ok_or_else(|| {
            BenchError::Load(format!("more leases are listed than the {left} that were left"))
        })?;
        let elapsed_ns = started.elapsed().as_nanos() as u64;
        context.record(|recorder| {
            (listed..left).for_each(|_| recorder.deliveries.record(elapsed_ns));
        });
        left = listed;
    }
    Ok(())
}
