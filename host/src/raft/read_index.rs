//! Linearizable reads, by ReadIndex and nothing else.
//!
//! A lease would be stale after a voter restarts (`docs/` of openraft notwithstanding: it was reproduced), so each
//! round asks a quorum. One round serves every read that was waiting when it began; on a follower the leader is asked
//! for the index, and the read waits until it is applied here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::RequestError;
use super::confirmer::Confirmer;
use super::network::Peers;
use super::progress::Progress;
use super::types::Raft;
use crate::metrics::metrics;

/// How long a round waits before it asks again; etcd's `readIndexRetryTime`.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait for a leader to appear before looking again.
const LEADER_POLL: Duration = Duration::from_millis(10);

/// The reads of one shard that wait for the next round.
pub struct ReadRound {
    pub reply: oneshot::Sender<Result<(), RequestError>>,
}

/// The task that makes the rounds. It runs on the raft runtime.
pub struct ReadIndex {
    pub raft: Raft,
    pub confirmer: Arc<Confirmer>,
    pub peers: Arc<Peers>,
    pub progress: Arc<Progress>,
    pub request_timeout: Duration,
}

impl ReadIndex {
    /// Runs until every sender is gone.
    pub async fn run(self, mut rounds: mpsc::Receiver<ReadRound>) {
        while let Some(first) = rounds.recv().await {
            let mut waiting = vec![first];
            while let Ok(more) = rounds.try_recv() {
                waiting.push(more);
            }
            let round = async {
                let index = self.confirmed_index().await;
                self.progress.wait_applied(index).await;
            };
            let result = tokio::time::timeout(self.request_timeout, round)
                .await
                .map_err(|_| RequestError::TimedOut)
                .inspect_err(|_| metrics().operations.slow_read_indexes.inc());
            for round in waiting {
                // A shard whose runtime has ended has no readers left.
                drop(round.reply.send(result.clone()));
            }
        }
    }

    /// The index that a leader has confirmed. Asks until it gets one; the caller limits the time.
    async fn confirmed_index(&self) -> u64 {
        loop {
            let leader_id = self.progress.leader_id();
            let index = match leader_id {
                _ if self.raft.is_leader() => {
                    self.confirmer.confirm().await.map(|confirmed| confirmed.index)
                }
                Some(leader_id) if leader_id != self.peers.own_id() => {
                    match tokio::time::timeout(RETRY_INTERVAL, self.peers.read_index(leader_id))
                        .await
                    {
                        Ok(Ok(index)) => index,
                        Ok(Err(error)) => {
                            tracing::debug!(error = %error, "the leader gave no read index");
                            None
                        }
                        Err(_) => None,
                    }
                }
                _ => None,
            };
            match index {
                Some(index) => return index,
                None => tokio::time::sleep(LEADER_POLL).await,
            }
        }
    }
}
