//! The server side of the peer connections.
//!
//! Nothing of a message is looked at before its identity has been checked: openraft itself knows neither clusters nor
//! data directories, and would take a stranger's vote. `Members` alone is open: it changes nothing, and whoever wants
//! to join has no identity yet.

use std::io;
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
};
use prost::Message;
use proto::instar::peer as pb;
use proto::instar::peer::peer_server::{Peer, PeerServer};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::change_messages;
use super::confirmer::{Confirmed, Confirmer};
use super::digests::Digests;
use super::lease_rounds::{LeaseAsk, LeaseTime, PeerLeaseRound};
use super::membership_keeper::{Attempt, MembershipKeeper};
use super::network::{OwnIdentity, Peers};
use super::progress::Progress;
use super::proposer::Proposal;
use super::state_machine::snapshot_of;
use super::types::{self, DecodeError, Raft, TypeConfig};
use super::{integrity, snapshot_stream};
use crate::limits;
use crate::metrics::{member_label, metrics};
use crate::runtime::ActiveReader;
use crate::storage::Views;

/// What answers the peers.
pub struct PeerService {
    pub own: OwnIdentity,
    pub raft: Raft,
    pub confirmer: Arc<Confirmer>,
    pub progress: Arc<Progress>,
    pub membership: Arc<MembershipKeeper>,
    pub proposals: mpsc::Sender<Vec<Proposal>>,
    pub lease_rounds: mpsc::Sender<PeerLeaseRound>,
    pub request_timeout: Duration,
    pub snapshot_directory: std::path::PathBuf,
    pub digests: Arc<Digests>,
    pub views: Views,
    /// For the few queries of peers; never waited for long.
    pub reader: Mutex<ActiveReader>,
    /// Who this member is to its peers, where it sends them something.
    pub peers: Arc<Peers>,
}

/// Serves peers on these listeners for as long as the runtime lives.
///
/// # Errors
/// A listener cannot be made non-blocking.
pub fn serve(service: PeerService, listeners: Vec<TcpListener>) -> io::Result<()> {
    let server = PeerServer::new(service)
        .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES);
    for listener in listeners {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let router = Server::builder()
            .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::PEER_STREAM_WINDOW_BYTES * 2)
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .add_service(server.clone());
        tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming(incoming).await {
                tracing::error!(error = %error, "the peer listener has failed");
            }
        });
    }
    Ok(())
}

/// Checks who speaks. Each refusal tells the other side's operator what is wrong.
#[derive(Clone)]
struct Doorkeeper {
    own: OwnIdentity,
    progress: Arc<Progress>,
}

impl Doorkeeper {
    fn admit(&self, identity: Option<&pb::Identity>) -> Result<u64, Status> {
        let identity =
            identity.ok_or_else(|| Status::invalid_argument("the message names no sender"))?;
        let from = identity.from_member_id;
        if identity.cluster_id != self.own.cluster_id {
            return Err(Status::permission_denied(format!(
                "cluster ID mismatch: member {from:x} is of cluster {:x}, this member of {:x}; \
                 check --initial-cluster and --initial-cluster-token of both",
                identity.cluster_id, self.own.cluster_id
            )));
        }
        if identity.to_member_id != self.own.member_id {
            return Err(Status::permission_denied(format!(
                "member {from:x} looks for member {:x} here, but this is {:x}; check the peer URLs",
                identity.to_member_id, self.own.member_id
            )));
        }
        if from == self.own.member_id {
            return Err(Status::permission_denied(
                "this member does not talk to itself; check the peer URLs",
            ));
        }
        if self.progress.applied_membership().removed.contains(&from) {
            // No other refusal has this code: see `PeerError::expulsion`.
            return Err(Status::not_found(format!(
                "member {from:x} has been permanently removed from the cluster"
            )));
        }
        // A member that is not known may be new: it can lead before this member has heard of it.
        if let Some(member) = self.progress.membership().get_node(&from) {
            let known = &member.attributes().data_incarnation;
            if !known.is_empty() && *known != identity.data_incarnation {
                return Err(Status::data_loss(format!(
                    "member {from:x} has lost its data since it joined, and with it what it voted and \
                     acknowledged; remove it from the cluster and add it as a new member"
                )));
            }
        }
        Ok(from)
    }
}

fn invalid(error: DecodeError) -> Status {
    Status::invalid_argument(format!("the message {error}"))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft has stopped: {error}"))
}

fn append_request(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    Ok(AppendEntriesRequest {
        vote: types::vote_from_pb(request.vote)?,
        prev_log_id: types::optional_log_id_from_pb(request.previous)?,
        entries: request.entries.into_iter().map(types::entry_from_pb).collect::<Result<_, _>>()?,
        leader_commit: types::optional_log_id_from_pb(request.leader_commit)?,
    })
}

fn append_response(result: StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::{Appended, Result as Answer};
    let answer = match result {
        Ok(log_id) => {
            Answer::Appended(Appended { log_id: log_id.as_ref().map(types::log_id_to_pb) })
        }
        Err(StreamAppendError::Conflict(log_id)) => Answer::Conflict(types::log_id_to_pb(&log_id)),
        Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(types::vote_to_pb(&vote)),
    };
    pb::AppendResponse { result: Some(answer) }
}

fn vote_request(request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, DecodeError> {
    Ok(VoteRequest {
        vote: types::vote_from_pb(request.vote)?,
        last_log_id: types::optional_log_id_from_pb(request.last_log_id)?,
        leadership_transfer: request.leader_transfer,
    })
}

fn vote_response(response: openraft::raft::VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(types::vote_to_pb(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(types::log_id_to_pb),
    }
}

impl PeerService {
    fn doorkeeper(&self) -> Doorkeeper {
        Doorkeeper { own: self.own.clone(), progress: self.progress.clone() }
    }

    /// Whether others may take this member's state for the cluster's.
    fn serves_as_leader(&self) -> bool {
        self.raft.is_leader() && !self.progress.is_quarantined()
    }

    fn admit(&self, identity: Option<&pb::Identity>) -> Result<u64, Status> {
        self.doorkeeper().admit(identity)
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

    type FetchSnapshotStream =
        Pin<Box<dyn Stream<Item = Result<pb::SnapshotRequest, Status>> + Send>>;

    /// Requests go into openraft's own pipeline; the first one that is refused ends the stream.
    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let doorkeeper = self.doorkeeper();
        let progress = self.progress.clone();
        let (refusals, mut refused) = mpsc::channel(1);
        let requests = request.into_inner().map(move |message| {
            let message = message?;
            let from = doorkeeper.admit(message.identity.as_ref())?;
            let received = metrics().peers.received_bytes.with_label_values(&[&member_label(from)]);
            received.inc_by(message.encoded_len() as u64);
            progress.leader_seen(Duration::ZERO);
            append_request(message).map_err(invalid)
        });
        let admitted = requests.scan(refusals, |refusals, request| {
            let request = match request {
                Ok(request) => Some(request),
                Err(status) => {
                    // The channel has room for the one refusal that ends the stream.
                    drop(refusals.try_send(status));
                    None
                }
            };
            std::future::ready(request)
        });
        let results = self
            .raft
            .stream_append(admitted)
            .map(|result| result.map(append_response).map_err(stopped));
        let refusal = async move { refused.recv().await.map(Err) };
        let last = futures_util::stream::once(refusal).filter_map(std::future::ready);
        Ok(Response::new(Box::pin(results.chain(last))))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        let response =
            self.raft.vote(vote_request(message).map_err(invalid)?).await.map_err(stopped)?;
        Ok(Response::new(vote_response(response)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        let response =
            self.raft.pre_vote(vote_request(message).map_err(invalid)?).await.map_err(stopped)?;
        Ok(Response::new(vote_response(response)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotRequest>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let mut parts = request.into_inner();
        let first = parts.next().await.transpose()?.and_then(|message| message.part);
        let Some(pb::snapshot_request::Part::Header(header)) = first else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let from = self.admit(header.identity.as_ref())?;
        tracing::info!(
            from = format!("{from:x}"),
            size_bytes = header.size_bytes,
            "receiving a snapshot"
        );
        let received = snapshot_stream::receive(&self.snapshot_directory, header, parts)
            .await
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let response = self
            .raft
            .install_full_snapshot(received.vote, received.snapshot)
            .await
            .map_err(stopped)?;
        Ok(Response::new(pb::SnapshotResponse { vote: Some(types::vote_to_pb(&response.vote)) }))
    }

    async fn digests(
        &self,
        request: Request<pb::DigestsRequest>,
    ) -> Result<Response<pb::DigestsResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        let digests = self.digests.find(&message.indices);
        let digests = digests.iter().map(integrity::digest_to_pb).collect();
        Ok(Response::new(pb::DigestsResponse { digests }))
    }

    async fn query(
        &self,
        request: Request<pb::QueryRequest>,
    ) -> Result<Response<pb::QueryResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        let confirmed = if self.serves_as_leader() { self.confirmer.confirm().await } else { None };
        let Some(Confirmed { index, .. }) = confirmed else {
            return Ok(Response::new(pb::QueryResponse::default()));
        };
        self.progress.wait_applied(index).await;
        let view = self.views.latest();
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = reader.query(&view, &message.query).map_err(stopped)?;
        Ok(Response::new(pb::QueryResponse { answered: true, answer: answer.body }))
    }

    async fn fetch_snapshot(
        &self,
        request: Request<pb::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let from = self.admit(request.into_inner().identity.as_ref())?;
        if !self.serves_as_leader() {
            return Err(Status::failed_precondition("this member does not lead"));
        }
        tracing::info!(
            to = format!("{from:x}"),
            "sending a snapshot to a member that asked for one"
        );
        let snapshot = snapshot_of(self.views.latest()).map_err(stopped)?;
        let snapshot = snapshot.ok_or_else(|| stopped("nothing was applied yet"))?;
        let vote = self.raft.metrics().borrow_watched().vote;
        let identity = self.peers.identity(from);
        let parts = snapshot_stream::send(&self.snapshot_directory, identity, vote, snapshot)
            .await
            .map_err(stopped)?;
        Ok(Response::new(Box::pin(parts.map(Ok))))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        let transfer = TransferLeaderRequest::new(
            types::vote_from_pb(message.from_leader).map_err(invalid)?,
            message.to_member_id,
            types::optional_log_id_from_pb(message.last_log_id).map_err(invalid)?,
        );
        let answer = self.raft.handle_transfer_leader(transfer).await.map_err(stopped)?;
        let refusal = answer.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(pb::TransferLeaderResponse { refusal }))
    }

    async fn propose(
        &self,
        request: Request<pb::ProposeRequest>,
    ) -> Result<Response<pb::ProposeResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        if !self.raft.is_leader() {
            return Ok(Response::new(pb::ProposeResponse { accepted: false }));
        }
        let deadline = Instant::now() + self.request_timeout;
        let proposal = |command| Proposal { command: types::command_from_pb(command), deadline };
        let batch = message.commands.into_iter().map(proposal).collect();
        self.proposals.send(batch).await.map_err(stopped)?;
        Ok(Response::new(pb::ProposeResponse { accepted: true }))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        self.admit(request.into_inner().identity.as_ref())?;
        let confirmed = if self.raft.is_leader() { self.confirmer.confirm().await } else { None };
        let response = pb::ReadIndexResponse {
            confirmed: confirmed.is_some(),
            index: confirmed.map_or(0, |confirmed| confirmed.index),
        };
        Ok(Response::new(response))
    }

    /// Whoever keeps the leases' time answers, once it is certain that this member leads.
    async fn lease_times(
        &self,
        request: Request<pb::LeaseTimesRequest>,
    ) -> Result<Response<pb::LeaseTimesResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        let confirmed = match self.serves_as_leader() {
            true => self.confirmer.confirm().await,
            false => None,
        };
        let Some(Confirmed { term, index }) = confirmed else {
            return Ok(Response::new(pb::LeaseTimesResponse::default()));
        };
        let ask = |ask: pb::LeaseAsk| LeaseAsk { id: ask.id, renew: ask.renew };
        let asks = message.asks.into_iter().map(ask).collect();
        let (reply, answer) = oneshot::channel();
        let round = PeerLeaseRound { asks, term, index, reply };
        self.lease_rounds.send(round).await.map_err(stopped)?;
        let times = tokio::time::timeout(self.request_timeout, answer).await;
        // No answer in time, or none at all: the term is over.
        let Ok(Ok(Some(times))) = times else {
            return Ok(Response::new(pb::LeaseTimesResponse::default()));
        };
        let time = |time| pb::LeaseTime {
            answer: match time {
                LeaseTime::Unknown => None,
                LeaseTime::Pending => Some(pb::lease_time::Answer::Pending(true)),
                LeaseTime::Seconds(seconds) => Some(pb::lease_time::Answer::Seconds(seconds)),
            },
        };
        Ok(Response::new(pb::LeaseTimesResponse {
            confirmed: true,
            times: times.times.into_iter().map(time).collect(),
            applied_index: times.applied_index,
        }))
    }

    async fn publish(
        &self,
        request: Request<pb::PublishRequest>,
    ) -> Result<Response<pb::PublishResponse>, Status> {
        let message = request.into_inner();
        let from = self.admit(message.identity.as_ref())?;
        let member = message.member.ok_or_else(|| invalid(DecodeError::Missing("member")))?;
        let (id, member) = types::member_from_pb(member);
        if id != from {
            return Err(Status::permission_denied("a member publishes itself and no other"));
        }
        let accepted = self.membership.set_attributes(id, member).await;
        Ok(Response::new(pb::PublishResponse { accepted }))
    }

    async fn change_membership(
        &self,
        request: Request<pb::ChangeMembershipRequest>,
    ) -> Result<Response<pb::ChangeMembershipResponse>, Status> {
        let message = request.into_inner();
        self.admit(message.identity.as_ref())?;
        let change = message.change.ok_or_else(|| invalid(DecodeError::Missing("change")))?;
        let change = change_messages::change_from_pb(change);
        let attempt = tokio::time::timeout(self.request_timeout, self.membership.change(&change));
        let attempt = attempt.await.unwrap_or(Attempt::Unknown);
        Ok(Response::new(change_messages::attempt_to_pb(attempt)))
    }

    async fn members(
        &self,
        _request: Request<pb::MembersRequest>,
    ) -> Result<Response<pb::MembersResponse>, Status> {
        let membership = self.progress.applied_membership();
        let nodes = membership.stored.nodes();
        Ok(Response::new(pb::MembersResponse {
            cluster_id: self.own.cluster_id,
            members: nodes.map(|(id, member)| types::member_to_pb(*id, member)).collect(),
        }))
    }
}
