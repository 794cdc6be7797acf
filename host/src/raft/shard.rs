//! What raft keeps on each client runtime.
//!
//! Requests of one runtime go to raft together, and their answers come back together: one hand-off between threads a
//! batch, never one wake-up a request. The tasks of a shard run on its own runtime, where waking a request is cheap.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};

use super::RequestError;
use super::progress::Progress;
use super::proposer::Proposal;
use super::read_index::ReadRound;
use super::types::{Command, Origin};
use super::waiters::{Completion, Waiters};
use crate::limits;
use crate::runtime::Outcome;

/// How often waiters are looked through for those whose time is up.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(100);

/// One client runtime's share.
pub struct Shard {
    number: u64,
    member_id: u64,
    incarnation: u64,
    request_timeout: Duration,
    progress: Arc<Progress>,
    waiters: Waiters,
    outbox: Mutex<Vec<Proposal>>,
    outbox_filled: Notify,
    proposals: mpsc::Sender<Vec<Proposal>>,
    readers: Mutex<Vec<oneshot::Sender<Result<(), RequestError>>>>,
    readers_waiting: Notify,
    read_rounds: mpsc::Sender<ReadRound>,
    completions: mpsc::UnboundedSender<Vec<(u64, Completion)>>,
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Vec<(u64, Completion)>>>>,
}

/// How a shard reaches raft.
#[derive(Clone)]
pub struct ShardLinks {
    pub member_id: u64,
    pub incarnation: u64,
    pub request_timeout: Duration,
    pub progress: Arc<Progress>,
    pub proposals: mpsc::Sender<Vec<Proposal>>,
    pub read_rounds: mpsc::Sender<ReadRound>,
}

/// The number of a shard takes the upper byte of a request id, the waiter's number the rest.
const SHARD_SHIFT: u32 = 56;

impl Shard {
    fn new(number: u64, links: ShardLinks) -> Self {
        let (completions, inbox) = mpsc::unbounded_channel();
        Self {
            number,
            member_id: links.member_id,
            incarnation: links.incarnation,
            request_timeout: links.request_timeout,
            progress: links.progress,
            waiters: Waiters::default(),
            outbox: Mutex::default(),
            outbox_filled: Notify::new(),
            proposals: links.proposals,
            readers: Mutex::default(),
            readers_waiting: Notify::new(),
            read_rounds: links.read_rounds,
            completions,
            inbox: Mutex::new(Some(inbox)),
        }
    }

    /// Brings a command through the log, and waits until it is applied here.
    ///
    /// An error other than `TooManyRequests` and `Stopped` leaves open whether the command was or will be applied.
    /// Dropping the future gives up waiting, and nothing else.
    pub async fn propose(&self, request: Bytes) -> Result<Outcome, RequestError> {
        self.submit(request, 0)?.await
    }

    /// The same with a command of the host's own: `instar.log.HostCommand`.
    pub async fn propose_for_host(&self, request: Bytes) -> Result<Outcome, RequestError> {
        let command = Command { request, for_host: true, ..Command::default() };
        self.hand_over(command)?.await
    }

    /// Hands a command over at once, and gives the wait for its outcome. Commands of one shard that mean something in
    /// one term only come into the log in the order in which they were handed over.
    ///
    /// It means something in the term `only_in_term` only, or in all if that is 0: should the log have it in another
    /// one, it does nothing (`TermOver`).
    pub fn submit(
        &self,
        request: Bytes,
        only_in_term: u64,
    ) -> Result<impl Future<Output = Result<Outcome, RequestError>> + Send + 'static, RequestError>
    {
        self.hand_over(Command { request, only_in_term, ..Command::default() })
    }

    fn hand_over(
        &self,
        command: Command,
    ) -> Result<impl Future<Output = Result<Outcome, RequestError>> + Send + 'static, RequestError>
    {
        let behind = self.progress.committed_index().saturating_sub(self.progress.applied_index());
        if behind > limits::APPLY_LAG_ENTRIES || self.waiters.len() >= limits::PROPOSALS_PER_SHARD {
            return Err(RequestError::TooManyRequests);
        }
        let receiver = {
            let mut outbox = lock(&self.outbox);
            let deadline = Instant::now() + self.request_timeout;
            let (number, receiver) = self.waiters.register(deadline);
            let origin = Origin {
                member_id: self.member_id,
                incarnation: self.incarnation,
                request_id: (self.number << SHARD_SHIFT) | number,
            };
            let command = Command { origin, ..command };
            outbox.push(Proposal { command, deadline });
            receiver
        };
        self.outbox_filled.notify_one();
        Ok(async move { receiver.await.map_err(|_| RequestError::Stopped)? })
    }

    /// How many commands wait for their outcome.
    pub fn pending(&self) -> usize {
        self.waiters.len()
    }

    /// Waits until this member has applied everything that was acknowledged anywhere before the call.
    pub async fn read_index(&self) -> Result<(), RequestError> {
        let (done, confirmed) = oneshot::channel();
        lock(&self.readers).push(done);
        self.readers_waiting.notify_one();
        match tokio::time::timeout(self.request_timeout, confirmed).await {
            Ok(result) => result.map_err(|_| RequestError::Stopped)?,
            Err(_) => Err(RequestError::TimedOut),
        }
    }

    /// The shard's own tasks; to be run on its runtime until the member stops. Later calls do nothing.
    pub async fn run(&self) {
        let Some(inbox) = lock(&self.inbox).take() else { return };
        tokio::join!(
            self.send_proposals(),
            self.send_read_rounds(),
            self.deliver(inbox),
            self.expire()
        );
    }

    async fn send_proposals(&self) {
        loop {
            self.outbox_filled.notified().await;
            let batch = std::mem::take(&mut *lock(&self.outbox));
            if !batch.is_empty() && self.proposals.send(batch).await.is_err() {
                return;
            }
        }
    }

    /// One round at a time: reads that arrive while one is under way share the next.
    async fn send_read_rounds(&self) {
        loop {
            self.readers_waiting.notified().await;
            self.gather_readers().await;
            let readers = std::mem::take(&mut *lock(&self.readers));
            if readers.is_empty() {
                continue;
            }
            let (reply, answer) = oneshot::channel();
            if self.read_rounds.send(ReadRound { reply }).await.is_err() {
                return;
            }
            let result = answer.await.unwrap_or(Err(RequestError::Stopped));
            for reader in readers {
                // A client that has gone away no longer listens.
                drop(reader.send(result.clone()));
            }
        }
    }

    /// Waits as long as each turn of the runtime brings more readers: where nothing else is to be done that takes a
    /// microsecond or two, and on a processor that cannot keep up a round is shared by many.
    async fn gather_readers(&self) {
        let since = Instant::now();
        let mut seen = 0;
        while since.elapsed() < limits::GATHER_TIME {
            let waiting = lock(&self.readers).len();
            if waiting == seen {
                return;
            }
            seen = waiting;
            // The first brings in what the sockets have, the second what becomes of it.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
    }

    async fn deliver(&self, mut inbox: mpsc::UnboundedReceiver<Vec<(u64, Completion)>>) {
        while let Some(completions) = inbox.recv().await {
            self.waiters.complete(completions);
        }
    }

    async fn expire(&self) {
        let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
        loop {
            interval.tick().await;
            self.waiters.expire(Instant::now());
        }
    }
}

/// All shards of this member, and the way from an origin to its waiter.
pub struct Shards {
    member_id: u64,
    incarnation: u64,
    shards: Vec<Arc<Shard>>,
}

impl Shards {
    /// One for each of `count` client runtimes, and one for the member itself.
    pub fn new(count: usize, links: &ShardLinks) -> Self {
        let shards = (0..=count as u64).map(|number| Arc::new(Shard::new(number, links.clone())));
        Self {
            member_id: links.member_id,
            incarnation: links.incarnation,
            shards: shards.collect(),
        }
    }

    pub fn of_clients(&self) -> usize {
        self.shards.len() - 1
    }

    /// The shard of a client runtime.
    pub fn get(&self, number: usize) -> Option<Arc<Shard>> {
        let of_clients = self.shards.split_last().map_or(&[][..], |(_, rest)| rest);
        of_clients.get(number).cloned()
    }

    /// The shard of the member itself.
    pub fn own(&self) -> Arc<Shard> {
        self.shards[self.shards.len() - 1].clone()
    }

    /// Hands results to their waiters, one hand-off a shard. Those of other members, and of this member before its
    /// last restart, have nobody waiting here.
    pub fn complete(&self, results: impl IntoIterator<Item = (Origin, Completion)>) {
        let mut batches: Vec<Vec<(u64, Completion)>> = Vec::new();
        batches.resize_with(self.shards.len(), Vec::new);
        for (origin, completion) in results {
            if origin.member_id != self.member_id || origin.incarnation != self.incarnation {
                continue;
            }
            let shard = (origin.request_id >> SHARD_SHIFT) as usize;
            let number = origin.request_id & ((1 << SHARD_SHIFT) - 1);
            if let Some(batch) = batches.get_mut(shard) {
                batch.push((number, completion));
            }
        }
        for (shard, batch) in self.shards.iter().zip(batches) {
            if !batch.is_empty() {
                // A shard whose runtime has ended has no clients left.
                drop(shard.completions.send(batch));
            }
        }
    }

    pub fn fail(&self, origins: impl IntoIterator<Item = Origin>, error: RequestError) {
        self.complete(origins.into_iter().map(|origin| (origin, Err(error.clone()))));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
