//! What the API asks, answered by raft, the machine and the storage.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use super::query_pool::QueryPool;
use crate::api::{Answered, Coordinator, MemberInfo, NodeStatus, Proposed, RequestError, Standing};
use crate::raft::{self, ChangeError, MembershipChange, MoveLeaderError, Node, Shard};
use crate::runtime::{Admission, Answer, QueryError, Reader};
use crate::storage::Views;

/// One client runtime's way to the rest of the server.
pub struct ClientCoordinator {
    pub node: Arc<Node>,
    pub shard: Arc<Shard>,
    pub views: Views,
    /// A warm instance, used by this runtime's thread alone: the lock is never waited for.
    pub reader: Mutex<Reader>,
    pub query_pool: QueryPool,
    pub max_txn_ops: u32,
    pub request_timeout: Duration,
}

impl ClientCoordinator {
    fn with_reader<T>(&self, work: impl FnOnce(&mut Reader) -> T) -> T {
        work(&mut self.reader.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl From<raft::RequestError> for RequestError {
    fn from(error: raft::RequestError) -> Self {
        match error {
            raft::RequestError::TooManyRequests => Self::TooManyRequests,
            raft::RequestError::TimedOut => Self::Timeout,
            raft::RequestError::LeaderLost => Self::TimeoutLeaderFailed,
            raft::RequestError::ConnectionLost => Self::TimeoutConnectionLost,
            raft::RequestError::Stopped => Self::Stopped,
        }
    }
}

fn refused(error: QueryError) -> RequestError {
    match error {
        QueryError::Rejected(rejection) => RequestError::Rejected(rejection),
        other => RequestError::Unavailable(other.to_string()),
    }
}

fn answered(answer: Answer) -> Answered {
    Answered { revision: answer.revision, body: answer.body, next: answer.next }
}

fn info(member: raft::MemberRecord) -> MemberInfo {
    MemberInfo {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
    }
}

impl Coordinator for ClientCoordinator {
    fn admit(&self, request: &[u8]) -> Result<Admission, RequestError> {
        self.with_reader(|reader| reader.admit(request, self.max_txn_ops)).map_err(refused)
    }

    async fn propose(&self, request: Bytes) -> Result<Proposed, RequestError> {
        let outcome = self.shard.propose(request).await?;
        match outcome.response {
            Ok(body) => Ok(Proposed { revision: outcome.revision, body }),
            Err(rejection) => Err(RequestError::Rejected(rejection)),
        }
    }

    async fn query(&self, request: Bytes, heavy: bool) -> Result<Answered, RequestError> {
        let view = self.views.latest();
        let answer = if heavy {
            self.query_pool.query(view, request).await?
        } else {
            self.with_reader(|reader| reader.query(&view, &request))
        };
        answer.map(answered).map_err(refused)
    }

    async fn read_index(&self) -> Result<(), RequestError> {
        Ok(self.shard.read_index().await?)
    }

    /// The machine compacts in steps that the log carries, so nothing is left once it has no upkeep left.
    async fn compacted(&self, _revision: i64) -> Result<(), RequestError> {
        let done = self.node.progress.wait_task_done();
        tokio::time::timeout(self.request_timeout, done).await.map_err(|_| RequestError::Timeout)
    }

    fn standing(&self) -> Standing {
        Standing {
            raft_term: self.node.progress.term(),
            leader: self.node.leader_id().unwrap_or(0),
            is_learner: self.node.is_learner(),
        }
    }

    fn status(&self) -> NodeStatus {
        let view = self.views.latest();
        NodeStatus {
            standing: self.standing(),
            revision: view.mark().revision,
            raft_index: self.node.progress.committed_index(),
            raft_applied_index: self.node.progress.applied_index(),
            db_size_bytes: view.size_bytes(),
            db_size_in_use_bytes: view.size_in_use_bytes(),
            alarms: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn members(&self) -> Vec<MemberInfo> {
        self.node.members().into_iter().map(info).collect()
    }

    async fn change_membership(
        &self,
        change: MembershipChange,
    ) -> Result<Vec<MemberInfo>, RequestError> {
        match self.node.change_membership(change).await {
            Ok(members) => Ok(members.into_iter().map(info).collect()),
            Err(ChangeError::Refused(refused)) => Err(refused.into()),
            Err(ChangeError::Request(error)) => Err(error.into()),
        }
    }

    async fn move_leader(&self, to: u64) -> Result<(), RequestError> {
        self.node.move_leader(to).await.map_err(|error| match error {
            MoveLeaderError::NotLeader => RequestError::NotLeader,
            MoveLeaderError::BadTransferee => RequestError::BadLeaderTransferee,
            MoveLeaderError::TimedOut => RequestError::TimeoutLeaderTransfer,
        })
    }

    async fn run(self: Arc<Self>) {
        self.shard.run().await;
    }
}
