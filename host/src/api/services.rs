//! The calls that the host answers itself: Maintenance.Status, Cluster.MemberList and gRPC's health service.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::grpc::health::v1::health_check_response::ServingStatus;
use proto::grpc::health::v1::{HealthCheckRequest, HealthCheckResponse};
use tokio::sync::watch;

use super::call::Gone;
use super::coordinator::{Alarm, Coordinator, MemberInfo};
use super::grpc::{Service, check_metadata};
use super::kv::{decode, decode_streamed};
use super::quota::DEFAULT_QUOTA_BYTES;
use super::status::{Code, Status};
use super::streams::{Requests, Responses};
use super::wire::{Frame, ResponseHeader};
use crate::config::{ETCD_CLUSTER_VERSION, ETCD_VERSION};

/// Maintenance.Status: this member's own view, which needs no leader.
pub(super) fn status<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    decode::<pb::StatusRequest>(message)?;
    let status = service.coordinator.status();
    check_metadata(status.standing, headers, true)?;
    let mut errors = Vec::new();
    if status.standing.leader == 0 {
        errors.push("etcdserver: no leader".to_owned());
    }
    errors.extend(status.alarms.iter().map(alarm_text));
    errors.extend(status.errors);
    let header =
        ResponseHeader { raft_term: status.standing.raft_term, ..service.header(status.revision) };
    let response = pb::StatusResponse {
        header: None,
        version: ETCD_VERSION.to_owned(),
        db_size: status.db_size_bytes as i64,
        leader: status.standing.leader,
        raft_index: status.raft_index,
        raft_term: status.standing.raft_term,
        raft_applied_index: status.raft_applied_index,
        errors,
        db_size_in_use: status.db_size_in_use_bytes as i64,
        is_learner: status.standing.is_learner,
        storage_version: ETCD_CLUSTER_VERSION.to_owned(),
        db_size_quota: match service.settings.quota_backend_bytes {
            0 => DEFAULT_QUOTA_BYTES,
            quota => quota,
        },
        downgrade_info: Some(pb::DowngradeInfo::default()),
    };
    Ok(Frame::response(&header, response.encode_to_vec().into()))
}

/// An alarm as Go prints the message.
fn alarm_text(alarm: &Alarm) -> String {
    format!("memberID:{} alarm:{} ", alarm.member_id, alarm.kind.name())
}

/// Cluster.MemberList. Its header carries no revision, as in etcd.
pub(super) async fn member_list<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let request = decode::<pb::MemberListRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    if request.linearizable {
        service.coordinator.read_index().await?;
    }
    let members = service.coordinator.members().into_iter().map(member).collect();
    let response = pb::MemberListResponse { header: None, members };
    Ok(Frame::response(&service.header(0), response.encode_to_vec().into()))
}

pub(super) fn member(member: MemberInfo) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
    }
}

fn serving_status<C>(service: &Service<C>) -> ServingStatus {
    match *service.stopping.borrow() {
        true => ServingStatus::NotServing,
        false => ServingStatus::Serving,
    }
}

fn health_response(status: ServingStatus) -> Frame {
    let response = HealthCheckResponse { status: status.into() };
    Frame::plain(response.encode_to_vec().into())
}

/// Health.Check. Only the service "", which stands for all of them, is known.
pub(super) fn health_check<C>(service: &Service<C>, message: &Bytes) -> Result<Frame, Status> {
    match decode::<HealthCheckRequest>(message)?.service.as_str() {
        "" => Ok(health_response(serving_status(service))),
        _ => Err(Status::new(Code::NotFound, "unknown service")),
    }
}

/// Health.List: a map with one entry, from "" to its status. Our copy of the protocol does not have it yet.
pub(super) fn health_list<C>(service: &Service<C>) -> Frame {
    let status = serving_status(service) as u8;
    Frame::plain(Bytes::copy_from_slice(&[0x0a, 6, 0x0a, 0, 0x12, 2, 0x08, status]))
}

/// Health.Watch: the status now, and again when it changes. It ends when the client or the server does.
pub(super) async fn health_watch<C>(
    service: &Service<C>,
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    let request = match only_request::<HealthCheckRequest>(requests).await {
        Ok(request) => request,
        Err(status) => return Ok(Err(status)),
    };
    let is_known = request.service.is_empty();
    let first = if is_known { serving_status(service) } else { ServingStatus::ServiceUnknown };
    responses.send(health_response(first)).await?;
    tokio::select! {
        () = stopped(&service.stopping) => {}
        driven = responses.drive() => driven?,
    }
    if first == ServingStatus::Serving {
        responses.push(health_response(ServingStatus::NotServing));
    }
    Ok(Err(Status::new(Code::Cancelled, "Stream has ended.")))
}

/// Returns when the server stops, and at any poll after that. The channel wakes those who wait one after the other: its
/// own future may still be asleep when the call is asked for its last words (`grpc::serve_stream`).
async fn stopped(stopping: &watch::Receiver<bool>) {
    let mut waiting = stopping.clone();
    let mut woken = pin!(waiting.wait_for(|stopping| *stopping));
    poll_fn(|cx| match *stopping.borrow() {
        true => Poll::Ready(()),
        // An error means that the server is gone, and then this is over as well.
        false => woken.as_mut().poll(cx).map(drop),
    })
    .await;
}

/// The request of a call that streams responses only.
pub(super) async fn only_request<M: Message + Default>(
    requests: &mut Requests<'_>,
) -> Result<M, Status> {
    match requests.next().await? {
        Some(message) => decode_streamed(&message),
        None => Err(Status::new(Code::Unknown, "EOF")),
    }
}
