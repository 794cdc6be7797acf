//! Linearizable reads, by ReadIndex and nothing else.
//!
//! A lease would be stale after a voter restarts (`docs/` of openraft notwithstanding: it was reproduced), so each
//! round asks a quorum. One round serves every read that was waiting when it began; on a follower the leader is asked
//! for the index, and the read waits until it is applied here.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::raft::linearizable_read::LinearizerOption;
use tokio::sync::{mpsc, oneshot};

use super::RequestError;
use super::network::Peers;
use super::progress::Progress;
use super::types::Raft;

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
                .map_err(|_| RequestError::TimedOut);
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
                _ if self.raft.is_leader() => confirm(&self.raft).await,
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

/// Asks a quorum whether this member still leads; the index to wait for if it does. Also what a follower's request ends
/// in (`peer_service`).
pub async fn confirm(raft: &Raft) -> Option<u64> {
    confirm_term(raft).await.map(|(_, index)| index)
}

/// The same, and the term that this member leads in: the index to wait for is never older than the leader's first entry.
pub async fn confirm_term(raft: &Raft) -> Option<(u64, u64)> {
    let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(RETRY_INTERVAL);
    match raft.get_read_linearizer(option).await {
        Ok(linearizer) => {
            let read_log_id = linearizer.read_log_id().log_id();
            Some((read_log_id.leader_id.term, read_log_id.index))
        }
        Err(error) => {
            tracing::debug!(error = %error, "leadership was not confirmed");
            None
        }
    }
}
