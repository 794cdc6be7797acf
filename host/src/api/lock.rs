//! The Lock service (server/etcdserver/api/v3lock, client/v3/concurrency/mutex.go).

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::range_request::SortOrder;
use proto::etcdserverpb::request_op::Request as Op;
use proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest};

use super::concurrency::{
    Inner, Withdrawal, created_in, first_or_last, found, get, holder_key, op, put,
};
use super::coordinator::Coordinator;
use super::grpc::{Method, Service, check_metadata};
use super::kv::decode;
use super::status::{Code, Status};
use super::wire::{EtcdRequest, Frame};

pub(super) async fn unary<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
) -> Result<Frame, Status> {
    let inner = Inner { service };
    match method {
        Method::Lock => {
            let request = decode::<LockRequest>(message)?;
            check_metadata(service.coordinator.standing(), headers, false)?;
            let (revision, key) = lock(&inner, request).await?;
            let response = LockResponse { header: None, key };
            Ok(Frame::response(&service.header(revision), response.encode_to_vec().into()))
        }
        _ => {
            let request = decode::<UnlockRequest>(message)?;
            check_metadata(service.coordinator.standing(), headers, false)?;
            let deleted = inner.delete(request.key).await?;
            Ok(Frame::response(&service.header(deleted.revision), Bytes::new()))
        }
    }
}

/// Waits until the lock is the client's. Gives the revision of the header, and the key that stands for the ownership.
async fn lock<C: Coordinator>(
    inner: &Inner<'_, C>,
    request: LockRequest,
) -> Result<(u64, Bytes), Status> {
    let lease = inner.session(request.lease).await?;
    let prefix = [&request.name[..], b"/"].concat();
    let key = holder_key(&prefix, lease);
    let owner = op(Op::RequestRange(first_or_last(&prefix, SortOrder::Ascend)));
    let claim = pb::TxnRequest {
        compare: vec![created_in(&key, 0)],
        success: vec![put(&key, &Bytes::new(), lease), owner.clone()],
        failure: vec![get(&key), owner],
    };
    let delete = pb::DeleteRangeRequest { key: key.clone(), ..Default::default() };
    let claimed = inner.txn(claim).await?;
    let withdrawal = Withdrawal::new(inner.service, EtcdRequest::DeleteRange, &delete);
    let own = match claimed.message.succeeded {
        true => claimed.revision as i64,
        false => found(&claimed.message, 0).first().map_or(0, |kv| kv.create_revision),
    };
    if found(&claimed.message, 1).first().is_none_or(|owner| owner.create_revision == own) {
        withdrawal.forget();
        return Ok((claimed.revision, key));
    }
    inner.wait_deletes(&prefix, own - 1).await?;
    // The lease may be over meanwhile, and with it the claim.
    let still = inner.range(pb::RangeRequest { key: key.clone(), ..Default::default() }).await?;
    withdrawal.forget();
    if still.message.kvs.is_empty() {
        return Err(Status::new(Code::Unknown, "mutex: session is expired"));
    }
    Ok((still.revision, key))
}
