//! The Election service (server/etcdserver/api/v3election, client/v3/concurrency/election.go).

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::SortOrder;
use proto::etcdserverpb::request_op::Request as Op;
use proto::mvccpb::KeyValue;
use proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ResignRequest,
};

use super::call::Gone;
use super::concurrency::{
    Answer, Inner, Wanted, Withdrawal, created_in, first_or_last, found, get, holder_key, op, put,
};
use super::coordinator::Coordinator;
use super::grpc::{Method, Service, check_metadata};
use super::kv::decode;
use super::services::only_request;
use super::status::{Code, Status};
use super::streams::{Requests, Responses};
use super::wire::{EtcdRequest, Frame};

fn missing_leader() -> Status {
    Status::new(Code::Unknown, "\"leader\" field must be provided")
}

fn not_leader() -> Status {
    Status::new(Code::Unknown, "election: not leader")
}

pub(super) async fn unary<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let inner = Inner { service };
    let check = || check_metadata(service.coordinator.standing(), headers, false);
    let (revision, body) = match method {
        Method::Campaign => {
            let request = decode::<CampaignRequest>(message)?;
            check()?;
            let won = campaign(&inner, request).await?;
            (won.revision, won.message.encode_to_vec())
        }
        Method::Proclaim => {
            let request = decode::<ProclaimRequest>(message)?;
            check()?;
            let leader = request.leader.ok_or_else(missing_leader)?;
            let lease = inner.session(leader.lease).await?;
            (proclaim(&inner, &leader.key, leader.rev, lease, &request.value).await?, Vec::new())
        }
        Method::Resign => {
            let request = decode::<ResignRequest>(message)?;
            check()?;
            let leader = request.leader.ok_or_else(missing_leader)?;
            inner.session(leader.lease).await?;
            // Who does not lead any more has nothing to give back; that is no error.
            (inner.txn(resignation(&leader.key, leader.rev)).await?.revision, Vec::new())
        }
        _ => {
            let request = decode::<LeaderRequest>(message)?;
            check()?;
            let leader = leader(&inner, &request.name, false).await?;
            let no_leader = || Status::new(Code::Unknown, "election: no leader");
            let kv = leader.message.ok_or_else(no_leader)?;
            let response = LeaderResponse { header: None, kv: Some(kv) };
            (leader.revision, response.encode_to_vec())
        }
    };
    Ok(Frame::response(&service.header(revision), body.into()))
}

fn prefix(name: &[u8]) -> Vec<u8> {
    [name, b"/"].concat()
}

/// Waits until the client leads.
async fn campaign<C: Coordinator>(
    inner: &Inner<'_, C>,
    request: CampaignRequest,
) -> Result<Answer<CampaignResponse>, Status> {
    let lease = inner.session(request.lease).await?;
    let prefix = prefix(&request.name);
    let key = holder_key(&prefix, lease);
    let claim = pb::TxnRequest {
        compare: vec![created_in(&key, 0)],
        success: vec![put(&key, &request.value, lease)],
        failure: vec![get(&key)],
    };
    let claimed = inner.txn(claim).await?;
    let own = match claimed.message.succeeded {
        true => claimed.revision as i64,
        false => found(&claimed.message, 0).first().map_or(0, |kv| kv.create_revision),
    };
    let withdrawal = Withdrawal::new(inner.service, EtcdRequest::Txn, &resignation(&key, own));
    let proclaimed = found(&claimed.message, 0).first().map(|kv| &kv.value);
    if proclaimed.is_some_and(|value| *value != request.value) {
        proclaim(inner, &key, own, lease, &request.value).await?;
    }
    match inner.wait_deletes(&prefix, own - 1).await {
        Ok(()) => withdrawal.forget(),
        Err(status) => {
            // A candidate that was not cancelled stays one.
            withdrawal.forget();
            return Err(status);
        }
    }
    let leader = LeaderKey { name: request.name, key, rev: own, lease };
    let message = CampaignResponse { header: None, leader: Some(leader) };
    Ok(Answer { revision: claimed.revision, message })
}

/// Sets the leader's value, if it leads. Gives the revision of the header.
async fn proclaim<C: Coordinator>(
    inner: &Inner<'_, C>,
    key: &Bytes,
    revision: i64,
    lease: i64,
    value: &Bytes,
) -> Result<u64, Status> {
    let txn = pb::TxnRequest {
        compare: vec![created_in(key, revision)],
        success: vec![put(key, value, lease)],
        ..Default::default()
    };
    let done = inner.txn(txn).await?;
    if done.message.succeeded { Ok(done.revision) } else { Err(not_leader()) }
}

/// Removes a candidate's key, if it is still the one of that revision.
fn resignation(key: &Bytes, revision: i64) -> pb::TxnRequest {
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    pb::TxnRequest {
        compare: vec![created_in(key, revision)],
        success: vec![op(Op::RequestDeleteRange(delete))],
        ..Default::default()
    }
}

/// The key of whoever leads, if anyone does.
async fn leader<C: Coordinator>(
    inner: &Inner<'_, C>,
    name: &[u8],
    serializable: bool,
) -> Result<Answer<Option<KeyValue>>, Status> {
    let range = first_or_last(&prefix(name), SortOrder::Ascend);
    let first = inner.range(pb::RangeRequest { serializable, ..range }).await?;
    Ok(Answer { revision: first.revision, message: first.message.kvs.into_iter().next() })
}

/// Serves Observe: the leader's value, and again whenever another one leads or the value has changed. Of values that
/// follow each other quickly only the last is certain to be told, as in etcd.
pub(super) async fn observe<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    let checked = only_request::<LeaderRequest>(requests).await.and_then(|request| {
        check_metadata(service.coordinator.standing(), headers, false)?;
        Ok(request)
    });
    let request = match checked {
        Ok(request) => request,
        Err(status) => return Ok(Err(status)),
    };
    let inner = Inner { service };
    let mut told = 0;
    loop {
        let news = tokio::select! {
            news = news(&inner, &request.name, told), if responses.has_room() => news,
            driven = responses.drive() => {
                driven?;
                continue;
            }
        };
        // etcd ends the stream without an error when its watch is lost.
        let Ok((revision, kv)) = news else { return Ok(Ok(())) };
        told = kv.mod_revision;
        let response = LeaderResponse { header: None, kv: Some(kv) };
        responses.push(Frame::response(&service.header(revision), response.encode_to_vec().into()));
    }
}

/// The next value that is not the one of this revision, and the revision of its header.
async fn news<C: Coordinator>(
    inner: &Inner<'_, C>,
    name: &[u8],
    told: i64,
) -> Result<(u64, KeyValue), Status> {
    // What comes after the first value is news whenever this member learns of it.
    let mut serializable = told != 0;
    loop {
        let leader = leader(inner, name, serializable).await?;
        serializable = true;
        let (key, wanted) = match leader.message {
            Some(kv) if kv.mod_revision != told => return Ok((leader.revision, kv)),
            Some(kv) => (kv.key, Wanted::Any),
            None => (prefix(name).into(), Wanted::PutBelow),
        };
        inner.wait_event(&key, leader.revision, wanted).await?;
    }
}
