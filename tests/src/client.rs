//! A thin client of etcd's API for the tests: one connection to one member, no retries.

use std::time::Duration;

use proto::etcdserverpb as pb;
use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::lease_client::LeaseClient;
use proto::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::grpc::health::v1::health_client::HealthClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// A connection to one member. It is made by the first request, and again by the first one after it
/// broke. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub cluster: ClusterClient<Channel>,
    pub health: HealthClient<Channel>,
}

impl Client {
    /// A client of the member at `address` (`host:port`). Panics if that is no address.
    pub fn new(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect_timeout(CONNECT_WITHIN).connect_lazy();
        Self {
            kv: KvClient::new(channel.clone())
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            health: HealthClient::new(channel),
        }
    }

    /// Puts a key.
    pub async fn put(&self, key: &str, value: &str) -> Result<pb::PutResponse, Status> {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        let request = pb::PutRequest { key, value, ..Default::default() };
        Ok(self.kv.clone().put(request).await?.into_inner())
    }

    /// Reads a range; `serializable` and the rest are in the request.
    pub async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
        Ok(self.kv.clone().range(request).await?.into_inner())
    }

    /// Reads one key, linearizably.
    pub async fn get(&self, key: &str) -> Result<pb::RangeResponse, Status> {
        self.range(pb::RangeRequest { key: key.to_owned().into(), ..Default::default() }).await
    }

    /// Reads one key from this member alone.
    pub async fn get_serializable(&self, key: &str) -> Result<pb::RangeResponse, Status> {
        let key = key.to_owned().into();
        self.range(pb::RangeRequest { key, serializable: true, ..Default::default() }).await
    }

    /// Puts a key that is gone when its lease is.
    pub async fn put_leased(&self, key: &str, lease: i64) -> Result<pb::PutResponse, Status> {
        let key = key.to_owned().into();
        let request = pb::PutRequest { key, lease, ..Default::default() };
        Ok(self.kv.clone().put(request).await?.into_inner())
    }

    /// Grants a lease; its id is drawn if it is 0.
    pub async fn grant(&self, id: i64, ttl: i64) -> Result<pb::LeaseGrantResponse, Status> {
        let request = pb::LeaseGrantRequest { ttl, id };
        Ok(self.lease.clone().lease_grant(request).await?.into_inner())
    }

    pub async fn revoke(&self, id: i64) -> Result<pb::LeaseRevokeResponse, Status> {
        let request = pb::LeaseRevokeRequest { id };
        Ok(self.lease.clone().lease_revoke(request).await?.into_inner())
    }

    /// Renews a lease once, in a stream of its own.
    pub async fn keep_alive(&self, id: i64) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let requests = tonic::codegen::tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let mut answers = self.lease.clone().lease_keep_alive(requests).await?.into_inner();
        answers.message().await?.ok_or_else(|| Status::unknown("the stream ended"))
    }

    /// What is left of a lease, and its keys.
    pub async fn time_to_live(&self, id: i64) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        Ok(self.lease.clone().lease_time_to_live(request).await?.into_inner())
    }

    /// The ids of all leases that this member knows, in their order.
    pub async fn leases(&self) -> Result<Vec<i64>, Status> {
        let answer = self.lease.clone().lease_leases(pb::LeaseLeasesRequest {}).await?;
        let mut ids: Vec<i64> = answer.into_inner().leases.iter().map(|it| it.id).collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Runs a transaction.
    pub async fn txn(&self, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
        Ok(self.kv.clone().txn(request).await?.into_inner())
    }

    /// This member's status.
    pub async fn status(&self) -> Result<pb::StatusResponse, Status> {
        Ok(self.maintenance.clone().status(pb::StatusRequest {}).await?.into_inner())
    }

    /// The members, as this one knows them after a quorum has been asked.
    pub async fn members(&self) -> Result<Vec<pb::Member>, Status> {
        let request = pb::MemberListRequest { linearizable: true };
        Ok(self.cluster.clone().member_list(request).await?.into_inner().members)
    }

    /// Adds a member with this peer URL.
    pub async fn member_add(
        &self,
        peer_url: &str,
        is_learner: bool,
    ) -> Result<pb::MemberAddResponse, Status> {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner };
        Ok(self.cluster.clone().member_add(request).await?.into_inner())
    }

    /// Removes a member.
    pub async fn member_remove(&self, id: u64) -> Result<Vec<pb::Member>, Status> {
        let request = pb::MemberRemoveRequest { id };
        Ok(self.cluster.clone().member_remove(request).await?.into_inner().members)
    }

    /// Makes a learner a voter.
    pub async fn member_promote(&self, id: u64) -> Result<Vec<pb::Member>, Status> {
        let request = pb::MemberPromoteRequest { id };
        Ok(self.cluster.clone().member_promote(request).await?.into_inner().members)
    }

    /// Gives a member other peer URLs.
    pub async fn member_update(
        &self,
        id: u64,
        urls: Vec<String>,
    ) -> Result<Vec<pb::Member>, Status> {
        let request = pb::MemberUpdateRequest { id, peer_ur_ls: urls };
        Ok(self.cluster.clone().member_update(request).await?.into_inner().members)
    }

    /// Makes another member the leader, if this one is.
    pub async fn move_leader(&self, target_id: u64) -> Result<(), Status> {
        let request = pb::MoveLeaderRequest { target_id };
        self.maintenance.clone().move_leader(request).await.map(|_| ())
    }

    /// The hash of this member's keys at a revision (0: its latest).
    pub async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Status> {
        let request = pb::HashKvRequest { revision };
        Ok(self.maintenance.clone().hash_kv(request).await?.into_inner())
    }
}

/// A range over every key that starts with `prefix`, which must not end in 0xff.
pub fn prefix(prefix: &str) -> pb::RangeRequest {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    pb::RangeRequest { key: prefix.to_owned().into(), range_end: end.into(), ..Default::default() }
}

/// A range over all keys.
pub fn everything() -> pb::RangeRequest {
    let zero = bytes::Bytes::from_static(b"\0");
    pb::RangeRequest { key: zero.clone(), range_end: zero, ..Default::default() }
}

/// What a request that got no answer in time looks like to a client with a deadline.
pub async fn within<T>(
    time: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(time, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::new(Code::DeadlineExceeded, "the client's own deadline")),
    }
}
