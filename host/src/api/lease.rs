//! The Lease service. Grants and revocations go through the log; what is left of a lease's time is the leader's to say.

use std::pin::pin;

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;

use super::call::Gone;
use super::coordinator::{Coordinator, RequestError};
use super::grpc::{Method, Service, check_metadata};
use super::kv::{self, decode, decode_streamed};
use super::leadership;
use super::quota;
use super::status::Status;
use super::streams::{Requests, Responses};
use super::unread::Turn;
use super::wire::{self, EtcdRequest, Frame, OwnRequest};

/// gRPC's NOT_FOUND.
const NOT_FOUND: u32 = 5;
/// What etcd says of the time of a lease that is not there.
const NO_TIME: i64 = -1;

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
    quota::check(service, EtcdRequest::LeaseGrant, message).await?;
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
            (service.coordinator.revision(), response)
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
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    if let Err(status) = check_metadata(service.coordinator.standing(), headers, false) {
        return Ok(Err(status));
    }
    let mut leader_lost = pin!(leadership::lost(service, headers));
    loop {
        let message = tokio::select! {
            biased;
            driven = responses.drive() => {
                driven?;
                continue;
            }
            status = &mut leader_lost => return Ok(Err(status)),
            message = requests.next(), if responses.has_room() => message,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        };
        let mut renewal = pin!(renew(service, &message));
        let renewed = loop {
            tokio::select! {
                renewed = &mut renewal => break renewed,
                driven = responses.drive() => driven?,
            }
        };
        match renewed {
            Ok(frame) => responses.push(frame),
            Err(status) => return Ok(Err(status)),
        }
    }
}

/// Answers one message. A lease that is not there has no time.
async fn renew<C: Coordinator>(service: &Service<C>, message: &Bytes) -> Result<Frame, Status> {
    let request = decode_streamed::<pb::LeaseKeepAliveRequest>(message)?;
    // Made before the lease is renewed: a client must not see a lease alive at a revision at which it is revoked.
    let header = service.header(service.coordinator.revision());
    let seconds = service.coordinator.renew_lease(request.id).await?;
    let response = pb::LeaseKeepAliveResponse {
        header: None,
        id: request.id,
        ttl: seconds.unwrap_or_default(),
    };
    Ok(Frame::response(&header, response.encode_to_vec().into()))
}
