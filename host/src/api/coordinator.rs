//! What the API needs from the rest of the server.

use std::fs::File;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use proto::instar::v1::{
    CallModuleRequest, CallModuleResponse, Machines, Modules, ShadowReport, ShadowRequest,
};
use tokio::sync::mpsc;

use crate::raft::{ChangeRefused, MembershipChange};
use crate::runtime::{Admission, Journal, Rejection};
use crate::watch::Hub;

/// Serves requests. There is one coordinator for each client runtime (a single thread), and everything that it is
/// asked, it is asked on that runtime.
///
/// Requests are `instar.kv.Request` messages. A call that is cancelled drops its future: that must be safe at any
/// time, and leaves open what becomes of a proposal. Time limits are the coordinator's: no future may stay unready
/// for good.
pub trait Coordinator: Send + Sync + 'static {
    /// Says how a request is to be served, or refuses it. It must not wait.
    fn admit(&self, request: &[u8]) -> Result<Admission, RequestError>;

    /// Takes a request through the log.
    fn propose(
        &self,
        request: Bytes,
    ) -> impl Future<Output = Result<Proposed, RequestError>> + Send;

    /// Returns once this member's state is as new as the cluster's was when it was asked.
    fn read_index(&self) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Answers a request that does not write from this member's own state. Where that has to be as new as the
    /// cluster's, `read_index` has been waited for. A `heavy` one may touch many rows, and is to be answered where it
    /// holds up nobody; any other should be answered at once, before the future is unready.
    fn query(
        &self,
        request: Bytes,
        heavy: bool,
    ) -> impl Future<Output = Result<Answered, RequestError>> + Send;

    /// Renews a lease, on the leader: the seconds that it has from now on; none if there is no such lease.
    fn renew_lease(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Option<i64>, RequestError>> + Send;

    /// The seconds that a lease has left, as the leader knows; none if there is no such lease. This member's state is
    /// as new as the leader's was.
    fn lease_remaining(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Option<i64>, RequestError>> + Send;

    /// Returns once nothing is left in this member's storage of what the compaction up to `revision` removes.
    fn compacted(&self, revision: i64) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// What this member's database takes on its disk. Asked for every write, so it has to be cheap.
    fn db_size_bytes(&self) -> u64;

    /// Returns once this member has given disk space that it no longer needs back to the file system.
    fn defragment(&self) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Writes this member's state to a database file of etcd's.
    fn snapshot(&self) -> impl Future<Output = Result<SnapshotFile, RequestError>> + Send;

    /// Where this member stands in its cluster. Asked for every call, so it has to be cheap.
    fn standing(&self) -> Standing;

    fn status(&self) -> NodeStatus;

    /// The revision of the latest view: of what `status` tells, the part that costs nothing.
    fn revision(&self) -> u64 {
        self.status().revision
    }

    /// The watches of this runtime.
    fn watches(&self) -> &Hub;

    /// Requests of all clients of this member that wait for their outcome.
    fn pending_proposals(&self) -> u64 {
        0
    }
    /// The members of the cluster, in the order of their ids.
    fn members(&self) -> Vec<MemberInfo>;

    /// Changes the membership, and returns all members once the change is made.
    fn change_membership(
        &self,
        change: MembershipChange,
    ) -> impl Future<Output = Result<Vec<MemberInfo>, RequestError>> + Send;

    /// What is asked of machines.
    fn machine(
        &self,
        request: MachineRequest,
    ) -> impl Future<Output = Result<Machines, RequestError>> + Send;

    /// Rehearses a machine. It ends when nobody takes its reports any more.
    fn shadow(
        &self,
        _request: ShadowRequest,
    ) -> impl Future<Output = Result<mpsc::Receiver<ShadowReport>, RequestError>> + Send {
        std::future::ready(Err(RequestError::Unavailable("there is no rehearsal".to_owned())))
    }

    /// What is asked of modules, but calls.
    fn module(
        &self,
        _request: ModuleRequest,
    ) -> impl Future<Output = Result<Modules, RequestError>> + Send {
        std::future::ready(Err(RequestError::Unavailable("there are no modules".to_owned())))
    }

    /// A call of a module.
    fn call_module(
        &self,
        _call: CallModuleRequest,
    ) -> impl Future<Output = Result<CallModuleResponse, RequestError>> + Send {
        std::future::ready(Err(RequestError::Unavailable("there are no modules".to_owned())))
    }

    /// What modules have done on this member.
    fn module_journal(&self) -> Option<Arc<Journal>> {
        None
    }

    /// Makes another member the leader, if this one is.
    fn move_leader(&self, to: u64) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Runs on this coordinator's runtime as long as that serves clients: the place where a batch of answers that
    /// another thread handed over is given to the calls that wait for them.
    fn run(self: Arc<Self>) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// The requests of the Machine service. An empty `expected_active` stands for whichever is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MachineRequest {
    List,
    Put(Bytes),
    Prepare(Bytes),
    Activate { digest: Bytes, expected_active: Bytes },
    Rollback { expected_active: Bytes },
    Finalise { expected_active: Bytes },
}

/// The requests of the Module service, without its calls. An empty digest stands for the only one that it can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModuleRequest {
    List,
    Put(Bytes),
    Activate { name: String, digest: Bytes, grants: Vec<Bytes> },
    Disable { name: String },
}

/// A file that is whole, from its beginning. It is gone when this value is.
#[derive(Debug)]
pub struct SnapshotFile {
    pub file: File,
    pub size_bytes: u64,
}

/// The answer to a proposal that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    pub revision: u64,
    /// The response message without its header.
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    pub revision: u64,
    /// The response message without its header.
    pub body: Bytes,
    /// The query for the next message of a stream.
    pub next: Option<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub raft_term: u64,
    /// 0 if none is known.
    pub leader: u64,
    pub is_learner: bool,
}

/// What `Maintenance.Status` and the health checks tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    pub standing: Standing,
    /// The state's revision.
    pub revision: u64,
    /// The index of the last entry that is known to be committed.
    pub raft_index: u64,
    pub raft_applied_index: u64,
    pub db_size_bytes: u64,
    pub db_size_in_use_bytes: u64,
    pub alarms: Vec<Alarm>,
    /// What else is wrong with this member, in words for the operator.
    pub errors: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alarm {
    pub member_id: u64,
    pub kind: AlarmKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmKind {
    NoSpace,
    Corrupt,
}

impl AlarmKind {
    /// etcd's name.
    pub fn name(self) -> &'static str {
        match self {
            AlarmKind::NoSpace => "NOSPACE",
            AlarmKind::Corrupt => "CORRUPT",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    pub id: u64,
    /// Empty until the member has told it.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has told them.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// Why a request was not served. The texts and codes are etcd's (api/v3rpc/rpctypes/error.go).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The state machine's own answer.
    #[error("{}", .0.message)]
    Rejected(Rejection),
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Before it was known whether the request was committed.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    #[error("etcdserver: request timed out")]
    Timeout,
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailed,
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutAppliedIndex,
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    #[error("etcdserver: server stopped")]
    Stopped,
    /// This member's state is not that of its peers.
    #[error("etcdserver: corrupt cluster")]
    Corrupt,
    #[error(transparent)]
    Membership(#[from] ChangeRefused),
    #[error("etcdserver: not leader")]
    NotLeader,
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TimeoutLeaderTransfer,
    /// This member cannot serve it, although the request is right; another one may.
    #[error("instar: this member cannot serve the request: {0}")]
    Unavailable(String),
}
