//! What the API asks, answered by raft, the machine and the storage.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb::{InternalRaftRequest, RangeRequest, RangeResponse};
use proto::instar::kv;
use proto::instar::v1::{
    CallModuleRequest, CallModuleResponse, Machines, Modules, ShadowReport, ShadowRequest,
};
use tokio::sync::{Semaphore, mpsc};

use super::query_pool::QueryPool;
use super::{database_snapshot, machine_requests, machine_service, module_service, shadow_service};
use crate::api::SnapshotFile;
use crate::api::{
    Alarm, AlarmKind, Answered, Coordinator, MachineRequest, MemberInfo, ModuleRequest, NodeStatus,
    Proposed, RequestError, Standing,
};
use crate::lease::Leases;
use crate::metrics::metrics;
use crate::raft::{self, ChangeError, MembershipChange, MoveLeaderError, Node, Shard, WatchEvent};
use crate::runtime::{
    self, ActiveReader, Admission, Answer, CallError, Journal, LocalFailure, QueryError,
};
use crate::storage::Views;
use crate::watch::{History, HistoryError, Hub};

/// Of a store that was never written to, of which the machine has not said anything yet. etcd's.
const FIRST_REVISION: u64 = 1;

/// What all coordinators have in common.
#[derive(Clone)]
pub struct Shared {
    pub node: Arc<Node>,
    pub views: Views,
    pub machines: Arc<runtime::Machines>,
    /// Where a client's snapshot lies while it is sent.
    pub snapshot_directory: PathBuf,
    pub max_txn_ops: u32,
    pub request_timeout: Duration,
}

/// One client runtime's way to the rest of the server.
pub struct ClientCoordinator {
    pub shared: Shared,
    pub shard: Arc<Shard>,
    /// A warm instance, used by this runtime's thread alone: the lock is never waited for.
    pub reader: Mutex<ActiveReader>,
    pub query_pool: QueryPool,
    pub leases: Leases,
    /// How many snapshots may be written at the same time.
    pub snapshots: Arc<Semaphore>,
    pub watches: Hub,
}

impl ClientCoordinator {
    fn with_reader<T>(&self, work: impl FnOnce(&mut ActiveReader) -> T) -> T {
        work(&mut self.reader.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A member whose files cannot be read stops: what it would answer next might be wrong.
    fn refused(&self, error: QueryError) -> RequestError {
        match error {
            QueryError::Rejected(rejection) => RequestError::Rejected(rejection),
            QueryError::Failed(CallError::Local(LocalFailure::Storage(error))) => {
                self.shared.node.progress.fail(error.to_string());
                RequestError::Stopped
            }
            other => RequestError::Unavailable(other.to_string()),
        }
    }

    /// Refuses everything while this member's state is not that of its peers.
    fn check_service(&self) -> Result<(), RequestError> {
        match self.shared.node.progress.is_quarantined() {
            true => Err(RequestError::Corrupt),
            false => Ok(()),
        }
    }

    /// The alarms as of this member's state, and its own if it is out of service: it cannot apply that one.
    fn alarms(&self) -> Vec<Alarm> {
        let view = self.shared.views.latest();
        let query = machine_requests::list_alarms();
        let answer = self.with_reader(|reader| reader.query(&view, &query));
        let mut alarms = match answer.map_err(|error| self.refused(error)) {
            Ok(answer) => machine_requests::alarms(&answer.body),
            Err(error) => {
                tracing::warn!(error = %error, "the alarms cannot be read");
                Vec::new()
            }
        };
        let own = Alarm { member_id: self.shared.node.member_id(), kind: AlarmKind::Corrupt };
        if self.shared.node.progress.is_quarantined() && !alarms.contains(&own) {
            alarms.push(own);
        }
        alarms
    }

    /// The revision of the last compaction that has removed all its rows.
    fn finished_compaction(&self) -> Result<i64, RequestError> {
        let view = self.shared.views.latest();
        let query = machine_requests::compaction_progress();
        let answer = self.with_reader(|reader| reader.query(&view, &query));
        let body = answer.map_err(|error| self.refused(error))?.body;
        machine_requests::finished_compaction(&body)
            .ok_or_else(|| RequestError::Unavailable("the machine knows no compactions".to_owned()))
    }
}

impl From<raft::RequestError> for RequestError {
    fn from(error: raft::RequestError) -> Self {
        match error {
            raft::RequestError::TooManyRequests => Self::TooManyRequests,
            raft::RequestError::TimedOut => Self::Timeout,
            raft::RequestError::LeaderLost | raft::RequestError::TermOver => {
                Self::TimeoutLeaderFailed
            }
            raft::RequestError::ConnectionLost => Self::TimeoutConnectionLost,
            raft::RequestError::Stopped => Self::Stopped,
            raft::RequestError::Corrupt => Self::Corrupt,
        }
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
        self.with_reader(|reader| reader.admit(request, self.shared.max_txn_ops))
            .map_err(|error| self.refused(error))
    }

    async fn propose(&self, request: Bytes) -> Result<Proposed, RequestError> {
        self.check_service()?;
        let outcome = self.shard.propose(request).await;
        let outcome = outcome.inspect_err(|_| metrics().proposals_failed.inc())?;
        match outcome.response {
            Ok(body) => Ok(Proposed { revision: outcome.revision, body }),
            Err(rejection) => Err(RequestError::Rejected(rejection)),
        }
    }

    async fn query(&self, request: Bytes, heavy: bool) -> Result<Answered, RequestError> {
        self.check_service()?;
        let view = self.shared.views.latest();
        let answer = if heavy {
            self.query_pool.query(view, request.clone()).await?
        } else {
            self.with_reader(|reader| reader.query(&view, &request))
        };
        let answer = answer.map_err(|error| self.refused(error))?;
        raft::count_answered(&request, &answer.body);
        Ok(answered(answer))
    }

    async fn read_index(&self) -> Result<(), RequestError> {
        self.check_service()?;
        let confirmed = self.shard.read_index().await;
        Ok(confirmed.inspect_err(|_| metrics().read_indexes_failed.inc())?)
    }

    async fn renew_lease(&self, id: i64) -> Result<Option<i64>, RequestError> {
        self.check_service()?;
        Ok(self.leases.renew(id).await?)
    }

    async fn lease_remaining(&self, id: i64) -> Result<Option<i64>, RequestError> {
        self.check_service()?;
        Ok(self.leases.remaining(id).await?)
    }

    /// The machine compacts in steps that the log carries: each of them may be the last.
    async fn compacted(&self, revision: i64) -> Result<(), RequestError> {
        loop {
            let applied_index = self.shared.node.progress.applied_index();
            if self.finished_compaction()? >= revision {
                return Ok(());
            }
            self.check_service()?;
            let next = self.shared.node.progress.wait_applied(applied_index + 1);
            tokio::time::timeout(self.shared.request_timeout, next)
                .await
                .map_err(|_| RequestError::Timeout)?;
        }
    }

    fn db_size_bytes(&self) -> u64 {
        self.shared.views.latest().size_bytes()
    }

    async fn defragment(&self) -> Result<(), RequestError> {
        self.shared.node.defragment().await.map_err(RequestError::Unavailable)
    }

    async fn snapshot(&self) -> Result<SnapshotFile, RequestError> {
        self.check_service()?;
        let turn = self.snapshots.clone().try_acquire_owned();
        let turn = turn.map_err(|_| RequestError::TooManyRequests)?;
        let view = self.shared.views.latest();
        let directory = self.shared.snapshot_directory.clone();
        let written = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _timer = metrics().works.snapshot_seconds.start_timer();
            database_snapshot::write(&view, &directory)
        });
        let written = written.await.map_err(|_| RequestError::Stopped)?;
        written.map_err(|error| RequestError::Unavailable(error.to_string()))
    }

    fn standing(&self) -> Standing {
        Standing {
            raft_term: self.shared.node.progress.term(),
            leader: self.shared.node.leader_id().unwrap_or(0),
            is_learner: self.shared.node.is_learner(),
        }
    }

    fn status(&self) -> NodeStatus {
        let view = self.shared.views.latest();
        NodeStatus {
            standing: self.standing(),
            revision: self.revision(),
            raft_index: self.shared.node.progress.committed_index(),
            raft_applied_index: self.shared.node.progress.applied_index(),
            db_size_bytes: view.size_bytes(),
            db_size_in_use_bytes: view.size_in_use_bytes(),
            alarms: self.alarms(),
            errors: Vec::new(),
        }
    }

    fn revision(&self) -> u64 {
        self.shared.views.latest().mark().revision.max(FIRST_REVISION)
    }

    fn watches(&self) -> &Hub {
        &self.watches
    }

    fn pending_proposals(&self) -> u64 {
        let shards = (0..).map_while(|number| self.shared.node.shard(number));
        shards.map(|shard| shard.pending() as u64).sum()
    }

    fn members(&self) -> Vec<MemberInfo> {
        self.shared.node.members().into_iter().map(info).collect()
    }

    async fn change_membership(
        &self,
        change: MembershipChange,
    ) -> Result<Vec<MemberInfo>, RequestError> {
        match self.shared.node.change_membership(change).await {
            Ok(members) => Ok(members.into_iter().map(info).collect()),
            Err(ChangeError::Refused(refused)) => Err(refused.into()),
            Err(ChangeError::Request(error)) => Err(error.into()),
        }
    }

    async fn machine(&self, request: MachineRequest) -> Result<Machines, RequestError> {
        self.check_service()?;
        machine_service::serve(&self.shared, &self.shard, request).await
    }

    async fn shadow(
        &self,
        request: ShadowRequest,
    ) -> Result<mpsc::Receiver<ShadowReport>, RequestError> {
        self.check_service()?;
        shadow_service::begin(&self.shared, &self.shard, request).await
    }

    async fn module(&self, request: ModuleRequest) -> Result<Modules, RequestError> {
        self.check_service()?;
        module_service::serve(&self.shared, &self.shard, request).await
    }

    async fn call_module(
        &self,
        call: CallModuleRequest,
    ) -> Result<CallModuleResponse, RequestError> {
        self.check_service()?;
        module_service::call(&self.shard, call).await
    }

    fn module_journal(&self) -> Option<Arc<Journal>> {
        Some(self.shared.machines.journal())
    }

    async fn move_leader(&self, to: u64) -> Result<(), RequestError> {
        self.shared.node.move_leader(to).await.map_err(|error| match error {
            MoveLeaderError::NotLeader => RequestError::NotLeader,
            MoveLeaderError::BadTransferee => RequestError::BadLeaderTransferee,
            MoveLeaderError::TimedOut => RequestError::TimeoutLeaderTransfer,
        })
    }

    async fn run(self: Arc<Self>) {
        tokio::join!(self.shard.run(), self.leases.run(), self.watches.run(&*self));
    }
}

impl History for ClientCoordinator {
    async fn page(&self, request: Bytes) -> Result<Bytes, HistoryError> {
        let answer = self.query_pool.query(self.shared.views.latest(), request).await;
        let answer = answer.map_err(|error| HistoryError(error.to_string()))?;
        Ok(answer.map_err(|error| HistoryError(error.to_string()))?.body)
    }

    /// The value at the revision before the event's.
    fn previous(&self, event: &WatchEvent) -> Option<Bytes> {
        let range = RangeRequest {
            key: event.key.clone(),
            revision: event.revision - 1,
            ..RangeRequest::default()
        };
        let etcd = InternalRaftRequest { range: Some(range), ..InternalRaftRequest::default() };
        let request = kv::Request { kind: Some(kv::request::Kind::Etcd(etcd)) }.encode_to_vec();
        let view = self.shared.views.latest();
        match self.with_reader(|reader| reader.query(&view, &request)) {
            Ok(answer) => {
                let response = RangeResponse::decode(answer.body).ok()?;
                Some(response.kvs.into_iter().next()?.encode_to_vec().into())
            }
            // It is compacted.
            Err(QueryError::Rejected(_)) => None,
            Err(error) => {
                tracing::warn!(%error, "an event goes out without the value before it");
                None
            }
        }
    }
}
