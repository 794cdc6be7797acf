//! The KV service, and the hashes and alarms of Maintenance: everything that the state machine answers. The host does not read
//! these requests, with the exception of Compact, of which it has to know whether to wait.

use std::pin::pin;

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb::CompactionRequest;

use super::call::{Gone, Responder};
use super::coordinator::{Answered, Coordinator, RequestError};
use super::grpc::{Method, Service, check_metadata, unless_gone};
use super::quota;
use super::status::{Code, Status};
use super::unread::Turn;
use super::wire::{self, EtcdRequest, Frame, OwnRequest};
use crate::metrics::metrics;
use crate::runtime::{Admission, Route};

/// Serves a call with one response message.
pub(super) async fn unary<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    let kind = match method {
        Method::Put => EtcdRequest::Put,
        Method::DeleteRange => EtcdRequest::DeleteRange,
        Method::Txn => EtcdRequest::Txn,
        Method::Alarm => EtcdRequest::Alarm,
        _ => EtcdRequest::Range,
    };
    let request = wire::etcd_request(kind, message);
    let admitted = service.coordinator.admit(&request);
    let is_local_range =
        |admission: &Admission| kind == EtcdRequest::Range && admission.route == Route::LocalRead;
    let for_learners = admitted.as_ref().is_ok_and(is_local_range);
    check_metadata(service.coordinator.standing(), headers, for_learners)?;
    quota::check(service, kind, message).await?;
    let admission = admitted?;
    match admission.route {
        Route::Write => propose(service, kind, request, message.len()).await,
        Route::Read | Route::LocalRead => query(service, request, admission, turn).await,
    }
}

/// The same for the calls that operators make.
pub(super) async fn unary_of_operators<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    match method {
        Method::Compact => compact(service, headers, message).await,
        Method::Hash => hash(service, headers, OwnRequest::Hash, message, turn).await,
        Method::HashKv => hash(service, headers, OwnRequest::HashKv, message, turn).await,
        other => unary(service, other, headers, message, turn).await,
    }
}

pub(super) async fn propose<C: Coordinator>(
    service: &Service<C>,
    kind: EtcdRequest,
    request: Bytes,
    message_bytes: usize,
) -> Result<Frame, Status> {
    let bytes = wire::raft_request_bytes(kind, message_bytes, service.settings.member_id);
    if bytes > service.settings.max_request_bytes as usize {
        return Err(Status::new(Code::InvalidArgument, "etcdserver: request is too large"));
    }
    let proposed = service.coordinator.propose(request).await?;
    Ok(Frame::response(&service.header(proposed.revision), proposed.body))
}

/// Answers a query, once the state is new enough and the client owes no more reading than it may.
async fn read<C: Coordinator>(
    service: &Service<C>,
    request: Bytes,
    admission: Admission,
    turn: &mut Turn<'_>,
) -> Result<Answered, RequestError> {
    if admission.route == Route::Read {
        service.coordinator.read_index().await?;
    }
    turn.may_answer(admission.heavy).await;
    service.coordinator.query(request, admission.heavy).await
}

pub(super) async fn query<C: Coordinator>(
    service: &Service<C>,
    request: Bytes,
    admission: Admission,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    let answered = read(service, request, admission, turn).await?;
    Ok(Frame::response(&service.header(answered.revision), answered.body))
}

/// A compaction is answered when it is decided; a `physical` one, when this member's storage is rid of what it removes.
async fn compact<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let compaction = decode::<CompactionRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    let request = wire::etcd_request(EtcdRequest::Compaction, message);
    service.coordinator.admit(&request)?;
    let frame = propose(service, EtcdRequest::Compaction, request, message.len()).await?;
    if compaction.physical {
        service.coordinator.compacted(compaction.revision).await?;
    }
    Ok(frame)
}

async fn hash<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    kind: OwnRequest,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    let request = wire::own_request(kind, message);
    let admission = service.coordinator.admit(&request)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    let seconds = match kind {
        OwnRequest::Hash => &metrics().works.hash_seconds,
        _ => &metrics().works.hash_rev_seconds,
    };
    let _timer = seconds.start_timer();
    query(service, request, admission, turn).await
}

/// Serves RangeStream: one query a message, and the next one only when the client has room for its answer.
pub(super) async fn range_stream<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
    turn: &mut Turn<'_>,
    responder: &mut Responder<'_>,
) -> Result<Result<(), Status>, Gone> {
    let target_bytes = u64::from(service.settings.max_request_bytes);
    let mut request = wire::range_stream_request(message, target_bytes);
    let checked = check_metadata(service.coordinator.standing(), headers, false);
    let admitted = checked.and_then(|()| service.coordinator.admit(&request).map_err(Status::from));
    let mut admission = match admitted {
        Ok(admission) => admission,
        Err(status) => return Ok(Err(status)),
    };
    loop {
        let read = read(service, request, admission, turn);
        let answered = match unless_gone(responder, pin!(read)).await? {
            Ok(answered) => answered,
            Err(error) => return Ok(Err(error.into())),
        };
        let header = answered.next.is_none().then(|| service.header(answered.revision));
        responder.message(Frame::range_stream(header.as_ref(), answered.body)).await?;
        match answered.next {
            Some(next) => request = next,
            None => return Ok(Ok(())),
        }
        // What follows is read at the revision that this member has read at already.
        admission.route = Route::LocalRead;
    }
}

/// Reads a request that the host looks into.
///
/// # Errors
/// Bytes that are no such message, in the words of grpc-go.
pub(super) fn decode<M: Message + Default>(message: &Bytes) -> Result<M, Status> {
    decode_or(message, "grpc: error unmarshalling request")
}

/// The same, of a message of a stream.
pub(super) fn decode_streamed<M: Message + Default>(message: &Bytes) -> Result<M, Status> {
    decode_or(message, "grpc: failed to unmarshal the received message")
}

fn decode_or<M: Message + Default>(message: &Bytes, error: &str) -> Result<M, Status> {
    M::decode(message.clone()).map_err(|_| {
        let text = format!("{error}: proto: cannot parse invalid wire-format data");
        Status::new(Code::Internal, text)
    })
}
