//! What one client runtime asks about leases: together, one round at a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

use super::keeper::{Keeper, KeeperLinks};
use crate::limits;
use crate::raft::{LeaseAnswer, LeaseAsk, LeaseRound, LeaseTime, LeaseTimes, RequestError};

/// How long to wait before asking again after a lease that is about to be revoked, or a leader that has just lost its
/// leadership.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// A question that waits for the next round. The answer comes with the index of the state that it was given on.
struct Waiting {
    ask: LeaseAsk,
    reply: oneshot::Sender<Result<(LeaseTime, u64), RequestError>>,
}

/// The way to the leader's keeper.
pub struct Leases {
    keeper: Arc<Keeper>,
    links: KeeperLinks,
    rounds: mpsc::Sender<LeaseRound>,
    request_timeout: Duration,
    waiting: Mutex<Vec<Waiting>>,
    filled: Notify,
}

impl Leases {
    pub fn new(
        keeper: Arc<Keeper>,
        links: KeeperLinks,
        rounds: mpsc::Sender<LeaseRound>,
        request_timeout: Duration,
    ) -> Self {
        let waiting = Mutex::default();
        Self { keeper, links, rounds, request_timeout, waiting, filled: Notify::new() }
    }

    /// Renews a lease: the seconds that it has from now on; none if there is no such lease.
    pub async fn renew(&self, id: i64) -> Result<Option<i64>, RequestError> {
        self.ask(LeaseAsk { id, renew: true }).await.map(|(seconds, _)| seconds)
    }

    /// The seconds that a lease has left; none if there is no such lease. When it returns, this member is as far as the
    /// leader was that said so.
    pub async fn remaining(&self, id: i64) -> Result<Option<i64>, RequestError> {
        let (seconds, applied_index) = self.ask(LeaseAsk { id, renew: false }).await?;
        let applied = self.links.progress.wait_applied(applied_index);
        tokio::time::timeout(self.request_timeout, applied)
            .await
            .map_err(|_| RequestError::TimedOut)?;
        Ok(seconds)
    }

    async fn ask(&self, ask: LeaseAsk) -> Result<(Option<i64>, u64), RequestError> {
        let asking = async {
            loop {
                match self.ask_once(ask).await? {
                    (LeaseTime::Seconds(seconds), index) => return Ok((Some(seconds), index)),
                    (LeaseTime::Unknown, index) => return Ok((None, index)),
                    (LeaseTime::Pending, _) => tokio::time::sleep(RETRY_DELAY).await,
                }
            }
        };
        tokio::time::timeout(self.request_timeout, asking)
            .await
            .map_err(|_| RequestError::TimedOut)?
    }

    async fn ask_once(&self, ask: LeaseAsk) -> Result<(LeaseTime, u64), RequestError> {
        let answer = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= limits::LEASE_ASKS_PER_SHARD {
                return Err(RequestError::TooManyRequests);
            }
            let (reply, answer) = oneshot::channel();
            waiting.push(Waiting { ask, reply });
            answer
        };
        self.filled.notify_one();
        answer.await.map_err(|_| RequestError::Stopped)?
    }

    /// The rounds; to be run on the client runtime until the member stops.
    pub async fn run(&self) {
        loop {
            let mut round = {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                let most = waiting.len().min(limits::LEASE_ROUND_ASKS);
                waiting.drain(..most).collect::<Vec<_>>()
            };
            // Those whose client has gone away need no answer.
            round.retain(|waiting| !waiting.reply.is_closed());
            if round.is_empty() {
                self.filled.notified().await;
                continue;
            }
            let asks: Vec<LeaseAsk> = round.iter().map(|waiting| waiting.ask).collect();
            match self.round(asks).await {
                Ok(LeaseTimes { times, applied_index }) => {
                    for (waiting, time) in round.into_iter().zip(times) {
                        drop(waiting.reply.send(Ok((time, applied_index))));
                    }
                }
                Err(error) => {
                    for waiting in round {
                        drop(waiting.reply.send(Err(error.clone())));
                    }
                }
            }
        }
    }

    async fn round(&self, asks: Vec<LeaseAsk>) -> Result<LeaseTimes, RequestError> {
        let (reply, answer) = oneshot::channel();
        let round = LeaseRound { asks: asks.clone(), reply };
        self.rounds.send(round).await.map_err(|_| RequestError::Stopped)?;
        match answer.await.map_err(|_| RequestError::Stopped)?? {
            LeaseAnswer::Told(times) => Ok(times),
            LeaseAnswer::Leads { term, index } => {
                let times = self.keeper.times(&asks, (term, index), &self.links);
                let times = tokio::time::timeout(self.request_timeout, times).await;
                // A term that has just ended is as good as a lease that is about to.
                Ok(times.map_err(|_| RequestError::TimedOut)?.unwrap_or_else(|| LeaseTimes {
                    times: vec![LeaseTime::Pending; asks.len()],
                    applied_index: 0,
                }))
            }
        }
    }
}
