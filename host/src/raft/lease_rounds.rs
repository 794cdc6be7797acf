//! Questions about the time of leases, which only the leader knows: it is asked, once a quorum has confirmed that it
//! leads. One round serves everything that was waiting when it began.
//!
//! Raft itself knows no leases. On the leader a round says no more than that this member leads, and in which term; what
//! followers ask it hands on (`PeerLeaseRound`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::RequestError;
use super::confirmer::{Confirmed, Confirmer};
use super::network::Peers;
use super::progress::Progress;
use super::types::Raft;
use crate::limits;

/// How long to wait for a leader to appear before looking again.
const LEADER_POLL: Duration = Duration::from_millis(10);
/// How long to wait for an answer before asking again, whoever leads by then. A lease that is renewed twice is no harm.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A question about one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseAsk {
    pub id: i64,
    /// Whether to renew the lease, or only to look at it.
    pub renew: bool,
}

/// The answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseTime {
    /// There is no such lease.
    Unknown,
    /// Its time is over, but it is not revoked yet: whether it will be is to be asked again.
    Pending,
    /// What a renewed lease has from now on, or what one that was looked at has left.
    Seconds(i64),
}

/// What the leader says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTimes {
    /// One for each question.
    pub times: Vec<LeaseTime>,
    /// The state that this was said on.
    pub applied_index: u64,
}

/// What comes of a round.
#[derive(Debug)]
pub enum LeaseAnswer {
    /// This member leads in this term; whoever has applied this index knows all leases.
    Leads { term: u64, index: u64 },
    /// Another one leads, and says this.
    Told(LeaseTimes),
}

/// What one client runtime asks at once.
pub struct LeaseRound {
    pub asks: Vec<LeaseAsk>,
    pub reply: oneshot::Sender<Result<LeaseAnswer, RequestError>>,
}

/// What a peer asks, after a quorum has confirmed that this member leads in `term`. The reply is none if it does not
/// any more.
pub struct PeerLeaseRound {
    pub asks: Vec<LeaseAsk>,
    pub term: u64,
    pub index: u64,
    pub reply: oneshot::Sender<Option<LeaseTimes>>,
}

/// The task that makes the rounds. It runs on the raft runtime.
pub struct LeaseRounds {
    pub raft: Raft,
    pub confirmer: Arc<Confirmer>,
    pub peers: Arc<Peers>,
    pub progress: Arc<Progress>,
    pub request_timeout: Duration,
}

impl LeaseRounds {
    /// Runs until every sender is gone.
    pub async fn run(self, mut rounds: mpsc::Receiver<LeaseRound>) {
        while let Some(first) = rounds.recv().await {
            let mut count = first.asks.len();
            let mut waiting = vec![first];
            while count < limits::LEASE_ROUND_ASKS
                && let Ok(more) = rounds.try_recv()
            {
                count += more.asks.len();
                waiting.push(more);
            }
            let asks: Vec<LeaseAsk> =
                waiting.iter().flat_map(|round| round.asks.iter().copied()).collect();
            let answer = tokio::time::timeout(self.request_timeout, self.answer(&asks)).await;
            let mut times = match answer {
                Ok(LeaseAnswer::Told(times)) => times,
                Ok(LeaseAnswer::Leads { term, index }) => {
                    for round in waiting {
                        // A runtime that has ended has no clients left.
                        drop(round.reply.send(Ok(LeaseAnswer::Leads { term, index })));
                    }
                    continue;
                }
                Err(_) => {
                    for round in waiting {
                        drop(round.reply.send(Err(RequestError::TimedOut)));
                    }
                    continue;
                }
            };
            for round in waiting {
                let rest = times.times.split_off(round.asks.len().min(times.times.len()));
                let share = std::mem::replace(&mut times.times, rest);
                let share = LeaseTimes { times: share, applied_index: times.applied_index };
                drop(round.reply.send(Ok(LeaseAnswer::Told(share))));
            }
        }
    }

    /// Asks until there is an answer; the caller limits the time.
    async fn answer(&self, asks: &[LeaseAsk]) -> LeaseAnswer {
        loop {
            if self.raft.is_leader() {
                if let Some(Confirmed { term, index }) = self.confirmer.confirm().await {
                    return LeaseAnswer::Leads { term, index };
                }
            } else if let Some(leader_id) =
                self.progress.leader_id().filter(|leader_id| *leader_id != self.peers.own_id())
            {
                let asked = self.peers.lease_times(leader_id, asks);
                match tokio::time::timeout(RETRY_INTERVAL, asked).await {
                    Ok(Ok(Some(times))) => return LeaseAnswer::Told(times),
                    Ok(Err(error)) => {
                        tracing::debug!(error = %error, "the leader did not tell of leases");
                    }
                    // It does not lead, or does not answer.
                    Ok(Ok(None)) | Err(_) => {}
                }
            }
            tokio::time::sleep(LEADER_POLL).await;
        }
    }
}
