//! What changes the cluster: etcd's Cluster service but for its list, and Maintenance.MoveLeader.
//!
//! Here requests are read and ids drawn; whether a change may be made, the leader decides.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;

use super::coordinator::{Coordinator, MemberInfo};
use super::grpc::{Method, Service, check_metadata};
use super::kv::decode;
use super::services::member;
use super::status::{Code, Status};
use super::wire::Frame;
use crate::config::{Url, added_member_id};
use crate::raft::MembershipChange;

/// Serves one of the methods above.
pub(super) async fn unary<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    match method {
        Method::MemberAdd => member_add(service, headers, message).await,
        Method::MemberPromote => {
            let request = decode::<pb::MemberPromoteRequest>(message)?;
            let change = MembershipChange::Promote { id: request.id };
            let members = change_membership(service, headers, change).await?;
            Ok(answer(service, &pb::MemberPromoteResponse { header: None, members }))
        }
        Method::MemberRemove => {
            let request = decode::<pb::MemberRemoveRequest>(message)?;
            let change = MembershipChange::Remove { id: request.id };
            let members = change_membership(service, headers, change).await?;
            Ok(answer(service, &pb::MemberRemoveResponse { header: None, members }))
        }
        Method::MemberUpdate => {
            let request = decode::<pb::MemberUpdateRequest>(message)?;
            check_metadata(service.coordinator.standing(), headers, false)?;
            let urls = peer_urls(&request.peer_ur_ls)?;
            let peer_urls = urls.iter().map(ToString::to_string).collect();
            let change = MembershipChange::Update { id: request.id, peer_urls };
            let members = change_membership(service, headers, change).await?;
            Ok(answer(service, &pb::MemberUpdateResponse { header: None, members }))
        }
        _ => move_leader(service, headers, message).await,
    }
}

async fn member_add<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let request = decode::<pb::MemberAddRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    let urls = peer_urls(&request.peer_ur_ls)?;
    // The one use of the wall clock: etcd makes it part of the id, so that a member that returns is another one.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let added = MemberInfo {
        id: added_member_id(&urls, now),
        name: String::new(),
        peer_urls: urls.iter().map(ToString::to_string).collect(),
        client_urls: Vec::new(),
        is_learner: request.is_learner,
    };
    let change = MembershipChange::Add {
        id: added.id,
        peer_urls: added.peer_urls.clone(),
        is_learner: added.is_learner,
    };
    let members = change_membership(service, headers, change).await?;
    let response = pb::MemberAddResponse { header: None, member: Some(member(added)), members };
    Ok(answer(service, &response))
}

async fn change_membership<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    change: MembershipChange,
) -> Result<Vec<pb::Member>, Status> {
    check_metadata(service.coordinator.standing(), headers, false)?;
    let members = service.coordinator.change_membership(change).await?;
    Ok(members.into_iter().map(member).collect())
}

/// These responses carry no revision, as in etcd.
fn answer<C: Coordinator>(service: &Service<C>, response: &impl Message) -> Frame {
    Frame::response(&service.header(0), response.encode_to_vec().into())
}

/// The URLs of a request, sorted as etcd sorts them.
fn peer_urls(urls: &[String]) -> Result<Vec<Url>, Status> {
    let refused =
        || Status::new(Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    let parsed: Result<Vec<Url>, _> = urls.iter().map(|url| Url::parse(url.trim())).collect();
    let mut parsed = parsed.map_err(|_| refused())?;
    if parsed.is_empty() {
        return Err(refused());
    }
    parsed.sort();
    Ok(parsed)
}

/// Only the leader serves it, and its answer has no header.
async fn move_leader<C: Coordinator>(
    service: &Service<C>,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let request = decode::<pb::MoveLeaderRequest>(message)?;
    check_metadata(service.coordinator.standing(), headers, false)?;
    service.coordinator.move_leader(request.target_id).await?;
    Ok(Frame::plain(pb::MoveLeaderResponse { header: None }.encode_to_vec().into()))
}
