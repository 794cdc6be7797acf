//! The client side of the peer connections.
//!
//! Each purpose has a connection of its own, so that a heartbeat never queues behind a snapshot. Every message names
//! the cluster, both members and this member's data, because the receiver checks them first. A peer that cannot be
//! reached is `Unreachable`, which makes openraft back off.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use prost::Message;
use proto::instar::peer as pb;
use proto::instar::peer::peer_client::PeerClient;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use super::acknowledgements::Acknowledgements;
use super::change_messages;
use super::digests::Digest;
use super::integrity;
use super::lease_rounds::{LeaseAsk, LeaseTime, LeaseTimes};
use super::membership::MembershipChange;
use super::membership_keeper::Attempt;
use super::progress::{Expelled, Progress};
use super::snapshot_stream;
use super::state_machine::{Snapshot, SnapshotData};
use super::types::{self, Command, DecodeError, LogId, Member, StoredMembership, TypeConfig, Vote};
use crate::limits;
use crate::metrics::{member_label, metrics};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Append,
    Heartbeat,
    Snapshot,
    Request,
}

/// Why a peer gave no answer.
#[derive(Debug, Error)]
pub enum PeerError {
    #[error("member {0:x} is not in the membership")]
    Unknown(u64),
    #[error("the peer URL {url} of member {member_id:x} cannot be used: {reason}")]
    BadUrl { member_id: u64, url: String, reason: String },
    #[error("{0}")]
    Status(#[from] Box<tonic::Status>),
    #[error("an answer of a peer {0}")]
    Decode(#[from] DecodeError),
    #[error("cannot make or read the snapshot: {0}")]
    Snapshot(#[from] io::Error),
    #[error("there is no leader to ask")]
    NoLeader,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

impl PeerError {
    /// Whether the peer says that this member is none any more: `peer_service` has these codes for nothing else.
    pub fn expulsion(&self) -> Option<Expelled> {
        match self {
            Self::Status(status) if status.code() == tonic::Code::NotFound => {
                Some(Expelled::Removed)
            }
            Self::Status(status) if status.code() == tonic::Code::DataLoss => {
                Some(Expelled::LostData)
            }
            _ => None,
        }
    }
}

impl PeerError {
    /// Whether the peer certainly never saw the request: there was no connection, and none could be made.
    pub fn was_never_sent(&self) -> bool {
        let Self::Status(status) = self else { return matches!(self, Self::Unknown(_)) };
        let mut source = std::error::Error::source(status.as_ref());
        while let Some(error) = source {
            let refused = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if refused == Some(io::ErrorKind::ConnectionRefused) {
                return true;
            }
            source = error.source();
        }
        false
    }
}

impl From<tonic::Status> for PeerError {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl From<PeerError> for RPCError<TypeConfig> {
    fn from(error: PeerError) -> Self {
        match error {
            // The peer is there and said something wrong: no reason to back off, but none to hurry either.
            PeerError::Decode(_) => Self::Network(NetworkError::new(&error)),
            _ => Self::Unreachable(Unreachable::new(&error)),
        }
    }
}

impl From<PeerError> for StreamingError<TypeConfig> {
    fn from(error: PeerError) -> Self {
        Self::Unreachable(Unreachable::new(&error))
    }
}

/// Who this member is, to its peers.
#[derive(Debug, Clone)]
pub struct OwnIdentity {
    pub cluster_id: u64,
    pub member_id: u64,
    pub data_incarnation: [u8; 16],
}

/// The connections to all peers.
pub struct Peers {
    own: OwnIdentity,
    progress: Arc<Progress>,
    election_timeout: Duration,
    snapshot_directory: std::path::PathBuf,
    channels: Mutex<BTreeMap<(u64, Purpose), (String, Channel)>>,
    /// Those that did not take the last heartbeat.
    lost: Mutex<BTreeSet<u64>>,
}

impl Peers {
    pub fn new(
        own: OwnIdentity,
        progress: Arc<Progress>,
        election_timeout: Duration,
        snapshot_directory: std::path::PathBuf,
    ) -> Self {
        let (channels, lost) = Default::default();
        Self { own, progress, election_timeout, snapshot_directory, channels, lost }
    }

    /// Notes how a heartbeat ended. An outage is logged when it begins and when it is over.
    fn note_heartbeat(&self, member_id: u64, failure: Option<&PeerError>) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = format_args!("{member_id:x}").to_string();
        match failure {
            Some(error) if lost.insert(member_id) => {
                tracing::warn!(
                    peer,
                    error = error as &dyn std::error::Error,
                    "the peer does not answer"
                );
            }
            None if lost.remove(&member_id) => tracing::info!(peer, "the peer answers again"),
            _ => {}
        }
    }

    pub fn own_id(&self) -> u64 {
        self.own.member_id
    }

    /// Asks the leader to take proposals in; false if it says that it does not lead.
    pub async fn propose(&self, leader_id: u64, commands: &[&Command]) -> Result<bool, PeerError> {
        let request = pb::ProposeRequest {
            identity: Some(self.identity(leader_id)),
            commands: commands.iter().copied().map(types::command_to_pb).collect(),
        };
        let response = self.client(leader_id, Purpose::Request)?.propose(request).await?;
        Ok(response.into_inner().accepted)
    }

    /// Asks the leader for the index that a linearizable read has to wait for; none if it could not confirm that it
    /// leads.
    pub async fn read_index(&self, leader_id: u64) -> Result<Option<u64>, PeerError> {
        let request = pb::ReadIndexRequest { identity: Some(self.identity(leader_id)) };
        let response =
            self.client(leader_id, Purpose::Request)?.read_index(request).await?.into_inner();
        Ok(response.confirmed.then_some(response.index))
    }

    /// Asks the leader for the time of leases; none if it could not confirm that it leads.
    pub async fn lease_times(
        &self,
        leader_id: u64,
        asks: &[LeaseAsk],
    ) -> Result<Option<LeaseTimes>, PeerError> {
        let ask = |ask: &LeaseAsk| pb::LeaseAsk { id: ask.id, renew: ask.renew };
        let request = pb::LeaseTimesRequest {
            identity: Some(self.identity(leader_id)),
            asks: asks.iter().map(ask).collect(),
        };
        let response =
            self.client(leader_id, Purpose::Request)?.lease_times(request).await?.into_inner();
        let time = |time: &pb::LeaseTime| match time.answer {
            None => LeaseTime::Unknown,
            Some(pb::lease_time::Answer::Pending(_)) => LeaseTime::Pending,
            Some(pb::lease_time::Answer::Seconds(seconds)) => LeaseTime::Seconds(seconds),
        };
        let times = LeaseTimes {
            times: response.times.iter().map(time).collect(),
            applied_index: response.applied_index,
        };
        if response.confirmed && times.times.len() != asks.len() {
            return Err(DecodeError::Missing("times of all leases").into());
        }
        Ok(response.confirmed.then_some(times))
    }

    /// Asks the leader to write this member's attributes into the membership.
    pub async fn publish(&self, leader_id: u64, member: &Member) -> Result<bool, PeerError> {
        let request = pb::PublishRequest {
            identity: Some(self.identity(leader_id)),
            member: Some(types::member_to_pb(self.own.member_id, member)),
        };
        let response = self.client(leader_id, Purpose::Request)?.publish(request).await?;
        Ok(response.into_inner().accepted)
    }

    /// Asks a peer for its state digests of these indices; it answers those that it has kept.
    pub async fn digests(&self, peer_id: u64, indices: &[u64]) -> Result<Vec<Digest>, PeerError> {
        let request = pb::DigestsRequest {
            identity: Some(self.identity(peer_id)),
            indices: indices.to_vec(),
        };
        let response = self.client(peer_id, Purpose::Request)?.digests(request).await?;
        let digests = response.into_inner().digests;
        Ok(digests.into_iter().filter_map(integrity::digest_from_pb).collect())
    }

    /// Asks the leader's machine; none if it could not confirm that it leads.
    pub async fn query(&self, leader_id: u64, query: Bytes) -> Result<Option<Bytes>, PeerError> {
        let request = pb::QueryRequest { identity: Some(self.identity(leader_id)), query };
        let response = self.client(leader_id, Purpose::Request)?.query(request).await?.into_inner();
        Ok(response.answered.then_some(response.answer))
    }

    /// Asks a peer for a snapshot of its state: the header, and the rest of the stream.
    pub async fn fetch_snapshot(
        &self,
        peer_id: u64,
    ) -> Result<(pb::SnapshotHeader, tonic::Streaming<pb::SnapshotRequest>), PeerError> {
        let request = pb::FetchSnapshotRequest { identity: Some(self.identity(peer_id)) };
        let mut parts =
            self.client(peer_id, Purpose::Snapshot)?.fetch_snapshot(request).await?.into_inner();
        match parts.next().await.transpose()?.and_then(|message| message.part) {
            Some(pb::snapshot_request::Part::Header(header)) => Ok((header, parts)),
            _ => Err(DecodeError::Missing("header").into()),
        }
    }

    /// Asks the leader to change the membership.
    pub async fn change_membership(
        &self,
        leader_id: u64,
        change: &MembershipChange,
    ) -> Result<Attempt, PeerError> {
        let request = pb::ChangeMembershipRequest {
            identity: Some(self.identity(leader_id)),
            change: Some(change_messages::change_to_pb(change)),
        };
        let response = self.client(leader_id, Purpose::Request)?.change_membership(request).await?;
        Ok(change_messages::attempt_from_pb(response.into_inner()))
    }

    /// Forgets the connections to members that are no longer there.
    pub fn retain(&self, membership: &StoredMembership) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        channels.retain(|(id, _), _| membership.get_node(id).is_some());
    }

    pub fn identity(&self, to_member_id: u64) -> pb::Identity {
        pb::Identity {
            cluster_id: self.own.cluster_id,
            from_member_id: self.own.member_id,
            to_member_id,
            data_incarnation: bytes::Bytes::copy_from_slice(&self.own.data_incarnation),
        }
    }

    fn client(&self, member_id: u64, purpose: Purpose) -> Result<PeerClient<Channel>, PeerError> {
        let membership = self.progress.membership();
        let member = membership.get_node(&member_id).ok_or(PeerError::Unknown(member_id))?;
        self.client_at(member_id, member, purpose)
    }

    fn client_at(
        &self,
        member_id: u64,
        member: &Member,
        purpose: Purpose,
    ) -> Result<PeerClient<Channel>, PeerError> {
        let url = member.attributes().peer_urls.first().cloned().unwrap_or_default();
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = match channels.get(&(member_id, purpose)) {
            Some((known, channel)) if *known == url => channel.clone(),
            _ => {
                let channel = self.connect(member_id, &url)?;
                channels.insert((member_id, purpose), (url, channel.clone()));
                channel
            }
        };
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
            .max_encoding_message_size(limits::PEER_MESSAGE_BYTES))
    }

    /// A connection that is made when it is first used, and given up when the other side falls silent.
    fn connect(&self, member_id: u64, url: &str) -> Result<Channel, PeerError> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| {
            PeerError::BadUrl { member_id, url: url.to_owned(), reason: error.to_string() }
        })?;
        Ok(endpoint
            .tcp_nodelay(true)
            .connect_timeout(self.election_timeout)
            .http2_keep_alive_interval(self.election_timeout)
            .keep_alive_timeout(self.election_timeout * 2)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(limits::PEER_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::PEER_STREAM_WINDOW_BYTES * 2)
            .connect_lazy())
    }
}

/// Makes openraft's connections.
pub struct Network {
    pub peers: Arc<Peers>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, node: &Member) -> Connection {
        self.connection(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Connection {
        self.connection(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Connection {
        self.connection(target, node, Purpose::Snapshot)
    }
}

impl Network {
    fn connection(&self, target: u64, node: &Member, purpose: Purpose) -> Connection {
        Connection { peers: self.peers.clone(), target, node: node.clone(), purpose }
    }
}

/// One connection of openraft to one peer.
pub struct Connection {
    peers: Arc<Peers>,
    target: u64,
    node: Member,
    purpose: Purpose,
}

impl Connection {
    /// At the URL that the member has now; openraft only knows the one that it had at first.
    fn client(&self) -> Result<PeerClient<Channel>, PeerError> {
        let membership = self.peers.progress.membership();
        let member = membership.get_node(&self.target).unwrap_or(&self.node);
        self.peers.client_at(self.target, member, self.purpose)
    }

    fn vote_request(&self, request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
        pb::VoteRequest {
            identity: Some(self.peers.identity(self.target)),
            vote: Some(types::vote_to_pb(&request.vote)),
            last_log_id: request.last_log_id.as_ref().map(types::log_id_to_pb),
            leader_transfer: request.leadership_transfer,
        }
    }

    async fn append_stream<S>(
        &self,
        input: S,
    ) -> Result<
        BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
        PeerError,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let identity = self.peers.identity(self.target);
        let acknowledgements = Arc::new(Acknowledgements::default());
        let expected = acknowledgements.clone();
        let label = member_label(self.target);
        let to = [label.as_str()];
        let sent = metrics().peers.sent_bytes.with_label_values(&to);
        let failures = metrics().peers.sent_failures.with_label_values(&to);
        let mut requests = input.map(move |request| {
            expected.expect(end_of(&request));
            let message = append_request(&request, &identity);
            sent.inc_by(message.encoded_len() as u64);
            message
        });
        // After a failure openraft pauses where it makes a request: a connection is tried only when there is one.
        let Some(first) = requests.next().await else {
            return Ok(Box::pin(futures_util::stream::empty()));
        };
        let requests = futures_util::stream::once(std::future::ready(first)).chain(requests);
        // A heartbeat is one message and its answer.
        let mut round_trip = (self.purpose == Purpose::Heartbeat).then(|| {
            let seconds = metrics().peers.round_trip_seconds.with_label_values(&to);
            (seconds, Instant::now())
        });
        let responses = self.client()?.append(requests).await.map_err(PeerError::from);
        if self.purpose == Purpose::Heartbeat {
            self.peers.note_heartbeat(self.target, responses.as_ref().err());
        }
        let responses = responses.inspect_err(|_| failures.inc())?.into_inner();
        let results = responses.map(move |response| {
            let response = response.inspect_err(|_| failures.inc()).map_err(PeerError::from)?;
            if let Some((seconds, started)) = round_trip.take() {
                seconds.observe(started.elapsed().as_secs_f64());
            }
            Ok(append_result(response).map_err(PeerError::from)?)
        });
        let told = results.filter(move |result| {
            let tell = match result {
                Ok(Ok(matching)) => acknowledgements.settle(*matching),
                _ => true,
            };
            std::future::ready(tell)
        });
        Ok(Box::pin(told))
    }
}

/// The last entry of a request, or the one that it follows if it has none.
fn end_of(request: &AppendEntriesRequest<TypeConfig>) -> Option<LogId> {
    request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id)
}

fn append_request(
    request: &AppendEntriesRequest<TypeConfig>,
    identity: &pb::Identity,
) -> pb::AppendRequest {
    pb::AppendRequest {
        identity: Some(identity.clone()),
        vote: Some(types::vote_to_pb(&request.vote)),
        previous: request.prev_log_id.as_ref().map(types::log_id_to_pb),
        entries: request.entries.iter().map(types::entry_to_pb).collect(),
        leader_commit: request.leader_commit.as_ref().map(types::log_id_to_pb),
    }
}

fn append_result(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, DecodeError> {
    use pb::append_response::Result as Answer;
    Ok(match response.result.ok_or(DecodeError::Missing("result"))? {
        Answer::Appended(appended) => Ok(types::optional_log_id_from_pb(appended.log_id)?),
        Answer::Conflict(log_id) => {
            Err(StreamAppendError::Conflict(types::log_id_from_pb(log_id)?))
        }
        Answer::HigherVote(vote) => {
            Err(StreamAppendError::HigherVote(types::vote_from_pb(Some(vote))?))
        }
    })
}

fn vote_response(response: pb::VoteResponse) -> Result<VoteResponse<TypeConfig>, DecodeError> {
    Ok(VoteResponse {
        vote: types::vote_from_pb(response.vote)?,
        vote_granted: response.granted,
        last_log_id: types::optional_log_id_from_pb(response.last_log_id)?,
    })
}

/// Limits an exchange with a peer to the time that openraft gives it.
async fn within<T, E: Into<PeerError>>(
    limit: Duration,
    exchange: impl Future<Output = Result<T, E>>,
) -> Result<T, PeerError> {
    match tokio::time::timeout(limit, exchange).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(PeerError::TimedOut(limit)),
    }
}

impl RaftNetworkV2<TypeConfig> for Connection {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let sent = end_of(&request);
        let exchange = async {
            let mut results = self.append_stream(futures_util::stream::iter([request])).await?;
            Ok::<_, PeerError>(results.next().await)
        };
        Ok(match within(option.hard_ttl(), exchange).await? {
            Some(result) => match result? {
                Ok(log_id) if log_id == sent => AppendEntriesResponse::Success,
                Ok(log_id) => AppendEntriesResponse::PartialSuccess(log_id),
                Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
                Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
            },
            None => {
                return Err(PeerError::from(tonic::Status::unavailable(
                    "the peer ended the stream",
                ))
                .into());
            }
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let results: BoxStream<'s, _> = self.append_stream(input).await?;
            Ok(results)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = self.vote_request(&request);
        let mut client = self.client()?;
        let response = within(option.hard_ttl(), client.vote(message)).await?;
        Ok(vote_response(response.into_inner()).map_err(PeerError::from)?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = self.vote_request(&request);
        let mut client = self.client()?;
        let response = within(option.hard_ttl(), client.pre_vote(message)).await?;
        Ok(vote_response(response.into_inner()).map_err(PeerError::from)?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sending = async {
            let identity = self.peers.identity(self.target);
            let parts =
                snapshot_stream::send(&self.peers.snapshot_directory, identity, vote, snapshot)
                    .await?;
            let response = self.client()?.snapshot(parts).await?.into_inner();
            let vote = types::vote_from_pb(response.vote)?;
            Ok::<_, PeerError>(SnapshotResponse { vote })
        };
        tokio::select! {
            result = sending => Ok(result?),
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let message = pb::TransferLeaderRequest {
            identity: Some(self.peers.identity(self.target)),
            from_leader: Some(types::vote_to_pb(request.from_leader())),
            to_member_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(types::log_id_to_pb),
        };
        let mut client = self.client()?;
        let response =
            within(option.hard_ttl(), client.transfer_leader(message)).await?.into_inner();
        if response.refusal.is_empty() {
            return Ok(Ok(()));
        }
        Err(PeerError::from(tonic::Status::failed_precondition(response.refusal)).into())
    }
}
