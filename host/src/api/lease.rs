//! The Lease service. Grants and revocations go through the log; what is left of a lease's time is the leader's to say.

use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;

use super::call::{Gone, Responder};
use super::coordinator::{Coordinator, RequestError};
use super::grpc::{Method, Service, check_metadata, unless_gone};
use super::incoming::Incoming;
use super::kv::{self, decode};
use super::status::{Code, Status};
use super::unread::Turn;
use super::wire::{self, EtcdRequest, Frame, OwnRequest};

/// gRPC's NOT_FOUND.
const NOT_FOUND: u32 = 5;
/// What etcd says of the time of a lease that is not there.
const NO_TIME: i64 = -1;
/// How often a stream whose client asked for a leader looks whether there is one.
const LEADER_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Serves a call with one response message.
pub(super) async fn unary<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    match method {
        Method::LeaseGrant => grant(service, headers, message).await,
        Method::LeaseRevoke => {
            decode::<pb::LeaseRevokeRequest>(message)?;
            check_metadata(service.coordinator.standing(), headers, false)?;
            propose(service, EtcdRequest::LeaseRevoke, message).await
        }
        Method::LeaseTimeToLive => time_to_live(service, headers, message, turn).await,
        _ => {
            let request = wire::own_request(OwnRequest::LeaseLeases, message);
            let admission = service.coordinator.admit(&request)?;
            check_metadata(service.coordinator.standing(), headers, false)?;
            kv::query(service, request, admission, turn).await
        }
    }
}

/// Grants a lease, of an id that is drawn here if the client has chosen none, and of a time that survives an election.
async fn grant<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let mut grant = decode::<pb::LeaseGrantRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    while grant.id == 0 {
        grant.id = rand::random::<i64>() & i64::MAX;
    }
    grant.ttl = grant.ttl.max(service.settings.minimum_lease_ttl_s);
    propose(service, EtcdRequest::LeaseGrant, &grant.encode_to_vec()).await
}

async fn propose<C: Coordinator>(
    service: &Service<C>,
    kind: EtcdRequest,
    message: &[u8],
) -> Result<Frame, Status> {
    let request = wire::etcd_request(kind, message);
    service.coordinator.admit(&request)?;
    kv::propose(service, kind, request, message.len()).await
}

async fn time_to_live<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    let ask = decode::<pb::LeaseTimeToLiveRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    let remaining = service.coordinator.lease_remaining(ask.id).await?;
    let known = match remaining {
        Some(seconds) => known(service, message, turn).await?.map(|known| (seconds, known)),
        None => None,
    };
    let (revision, response) = match known {
        Some((seconds, (revision, response))) => {
            (revision, pb::LeaseTimeToLiveResponse { ttl: seconds, ..response })
        }
        None => {
            let response =
                pb::LeaseTimeToLiveResponse { id: ask.id, ttl: NO_TIME, ..Default::default() };
            (service.coordinator.status().revision, response)
        }
    };
    Ok(Frame::response(&service.header(revision), response.encode_to_vec().into()))
}

/// What the machine knows of a lease; none if it was revoked in between.
async fn known<C: Coordinator>(
    service: &Service<C>,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Option<(u64, pb::LeaseTimeToLiveResponse)>, Status> {
    let request = wire::own_request(OwnRequest::LeaseTimeToLive, message);
    let admission = service.coordinator.admit(&request)?;
    turn.may_answer(admission.heavy).await;
    match service.coordinator.query(request, admission.heavy).await {
        Ok(answered) => Ok(Some((answered.revision, decode(&answered.body)?))),
        Err(RequestError::Rejected(rejection)) if rejection.code == NOT_FOUND => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Serves LeaseKeepAlive: one answer for each message, in turn.
pub(super) async fn keep_alive<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    body: RecvStream,
    responder: &mut Responder<'_>,
) -> Result<Result<(), Status>, Gone> {
    if let Err(status) = check_metadata(service.coordinator.standing(), headers, false) {
        return Ok(Err(status));
    }
    let mut incoming = Incoming::new(body, service.most_message_bytes(), &service.large_messages);
    let mut ends = std::pin::pin!(ends(service, headers));
    loop {
        let next = async {
            tokio::select! {
                biased;
                status = &mut ends => Err(status),
                message = incoming.next() => match message? {
                    Some(message) => renew(service, &message).await.map(Some),
                    None => Ok(None),
                },
            }
        };
        match unless_gone(responder, next).await? {
            Ok(Some(frame)) => responder.message_in_turn(frame).await?,
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}

/// Answers one message. A lease that is not there has no time.
async fn renew<C: Coordinator>(service: &Service<C>, message: &Bytes) -> Result<Frame, Status> {
    let request = decode::<pb::LeaseKeepAliveRequest>(message)?;
    // Made before the lease is renewed: a client must not see a lease alive at a revision at which it is revoked.
    let header = service.header(service.coordinator.status().revision);
    let seconds = service.coordinator.renew_lease(request.id).await?;
    let response = pb::LeaseKeepAliveResponse {
        header: None,
        id: request.id,
        ttl: seconds.unwrap_or_default(),
    };
    Ok(Frame::response(&header, response.encode_to_vec().into()))
}

/// Returns when a stream has to end, whatever its client does: the server stops, or a client that asked for a leader
/// has none.
async fn ends<C: Coordinator>(service: &Service<C>, headers: &HeaderMap) -> Status {
    let mut stopping = service.stopping.clone();
    let stopped = async {
        // An error means that the server is gone.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        Status::new(Code::Unavailable, "etcdserver: server stopped")
    };
    let leaderless = async {
        if !headers.contains_key("hasleader") {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LEADER_CHECK_INTERVAL).await;
            if let Err(status) = check_metadata(service.coordinator.standing(), headers, false) {
                return status;
            }
        }
    };
    tokio::select! {
        status = stopped => status,
        status = leaderless => status,
    }
}
