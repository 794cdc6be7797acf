//! What Lock and Election are built on: etcd's `concurrency` package (client/v3/concurrency), which is a client like any
//! other, inside the server. Each holder or candidate has a key of its own below a common prefix, bound to its lease; the
//! one whose key was created first owns the prefix.
//!
//! Errors reach clients as etcd sends them: what the inner client was told, without its code.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request as Op;
use proto::mvccpb::KeyValue;

use super::coordinator::Coordinator;
use super::grpc::Service;
use super::status::{Code, Status};
use super::wire::{self, EtcdRequest};
use crate::runtime::Route;
use crate::watch::{WatchMessage, WatchRequest};

/// The lease of a holder that brings none, in seconds; etcd's. Nobody renews it.
const SESSION_TTL_S: i64 = 60;

/// The server as its own client.
pub(super) struct Inner<'a, C> {
    pub(super) service: &'a Service<C>,
}

/// An answer, and the revision of its header.
pub(super) struct Answer<T> {
    pub(super) revision: u64,
    pub(super) message: T,
}

fn unknown(status: Status) -> Status {
    Status::new(Code::Unknown, status.message)
}

impl<C: Coordinator> Inner<'_, C> {
    async fn request<T: Message + Default>(
        &self,
        kind: EtcdRequest,
        message: &impl Message,
    ) -> Result<Answer<T>, Status> {
        let answer = self.request_with_code(kind, message).await;
        let (revision, body) = answer.map_err(unknown)?;
        let message = T::decode(body)
            .map_err(|error| Status::new(Code::Unknown, format!("instar: {error}")))?;
        Ok(Answer { revision, message })
    }

    async fn request_with_code(
        &self,
        kind: EtcdRequest,
        message: &impl Message,
    ) -> Result<(u64, Bytes), Status> {
        let settings = &self.service.settings;
        let coordinator = &self.service.coordinator;
        let bytes = wire::raft_request_bytes(kind, message.encoded_len(), settings.member_id);
        if bytes > settings.max_request_bytes as usize {
            return Err(Status::new(Code::InvalidArgument, "etcdserver: request is too large"));
        }
        let request = wire::etcd_request(kind, &message.encode_to_vec());
        let admission = coordinator.admit(&request)?;
        if admission.route == Route::Write {
            let proposed = coordinator.propose(request).await?;
            return Ok((proposed.revision, proposed.body));
        }
        if admission.route == Route::Read {
            coordinator.read_index().await?;
        }
        let answered = coordinator.query(request, admission.heavy).await?;
        Ok((answered.revision, answered.body))
    }

    pub(super) async fn range(
        &self,
        range: pb::RangeRequest,
    ) -> Result<Answer<pb::RangeResponse>, Status> {
        self.request(EtcdRequest::Range, &range).await
    }

    pub(super) async fn txn(&self, txn: pb::TxnRequest) -> Result<Answer<pb::TxnResponse>, Status> {
        self.request(EtcdRequest::Txn, &txn).await
    }

    pub(super) async fn delete(
        &self,
        key: Bytes,
    ) -> Result<Answer<pb::DeleteRangeResponse>, Status> {
        let delete = pb::DeleteRangeRequest { key, ..Default::default() };
        self.request(EtcdRequest::DeleteRange, &delete).await
    }

    /// The lease of a holder: the one that it brings, or a new one.
    pub(super) async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let id = loop {
            match rand::random::<i64>() & i64::MAX {
                0 => continue,
                id => break id,
            }
        };
        let ttl = SESSION_TTL_S.max(self.service.settings.minimum_lease_ttl_s);
        let grant = pb::LeaseGrantRequest { ttl, id };
        let granted: Answer<pb::LeaseGrantResponse> =
            self.request(EtcdRequest::LeaseGrant, &grant).await?;
        Ok(granted.message.id)
    }

    /// Waits until no key below the prefix is left that was created up to this revision.
    ///
    /// It looks at the youngest of them only, so that of many who wait few are woken by what does not concern them.
    pub(super) async fn wait_deletes(
        &self,
        prefix: &[u8],
        most_create_revision: i64,
    ) -> Result<(), Status> {
        loop {
            let range = pb::RangeRequest {
                max_create_revision: most_create_revision,
                ..first_or_last(prefix, SortOrder::Descend)
            };
            let before = self.range(range).await?;
            let Some(youngest) = before.message.kvs.into_iter().next() else { return Ok(()) };
            self.wait_event(&youngest.key, before.revision, Wanted::Delete).await?;
        }
    }

    /// Waits for an event of a key after a revision, or until what has happened since is compacted: then, too, it is
    /// time to look again. Whatever happens to other keys wakes nobody.
    pub(super) async fn wait_event(
        &self,
        key: &Bytes,
        revision: u64,
        wanted: Wanted,
    ) -> Result<(), Status> {
        let range_end = if wanted == Wanted::PutBelow { prefix_end(key) } else { Bytes::new() };
        let stream = self.service.coordinator.watches().open();
        stream.create(&WatchRequest {
            key: key.clone(),
            range_end,
            start_revision: revision as i64 + 1,
            no_put: wanted == Wanted::Delete,
            no_delete: wanted == Wanted::PutBelow,
            ..WatchRequest::default()
        });
        loop {
            match stream.pop() {
                None => stream.ready().await,
                Some(WatchMessage::Events { .. } | WatchMessage::Compacted { .. }) => return Ok(()),
                Some(WatchMessage::Refused { reason, .. }) => {
                    return Err(Status::new(Code::Unknown, reason));
                }
                Some(
                    WatchMessage::Created { .. }
                    | WatchMessage::Canceled { .. }
                    | WatchMessage::Progress { .. },
                ) => {}
            }
        }
    }
}

/// The events that somebody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// That the key is deleted.
    Delete,
    /// Whatever happens to the key.
    Any,
    /// That a key is put that begins with it.
    PutBelow,
}

/// The key of a holder.
pub(super) fn holder_key(prefix: &[u8], lease: i64) -> Bytes {
    let number = lease.unsigned_abs();
    let sign = if lease < 0 { "-" } else { "" };
    [prefix, format!("{sign}{number:x}").as_bytes()].concat().into()
}

/// The oldest (ascending) or the youngest (descending) key below a prefix.
pub(super) fn first_or_last(prefix: &[u8], order: SortOrder) -> pb::RangeRequest {
    pb::RangeRequest {
        key: Bytes::copy_from_slice(prefix),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: order.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

/// The first key that no longer begins with the prefix; a zero byte, that is none, if there is no such key.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

pub(super) fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

pub(super) fn get(key: &Bytes) -> pb::RequestOp {
    op(Op::RequestRange(pb::RangeRequest { key: key.clone(), ..Default::default() }))
}

pub(super) fn put(key: &Bytes, value: &Bytes, lease: i64) -> pb::RequestOp {
    let (key, value) = (key.clone(), value.clone());
    op(Op::RequestPut(pb::PutRequest { key, value, lease, ..Default::default() }))
}

/// Whether a key was created in this revision; 0: whether there is none.
pub(super) fn created_in(key: &Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// The keys that one of a transaction's ranges found.
pub(super) fn found(txn: &pb::TxnResponse, at: usize) -> &[KeyValue] {
    use proto::etcdserverpb::response_op::Response;
    match txn.responses.get(at).and_then(|op| op.response.as_ref()) {
        Some(Response::ResponseRange(range)) => &range.kvs,
        _ => &[],
    }
}

/// Takes a claim back when its call ends before it was met, whether it failed or its client has gone away.
pub(super) struct Withdrawal<C: Coordinator> {
    coordinator: Arc<C>,
    request: Option<Bytes>,
}

impl<C: Coordinator> Withdrawal<C> {
    pub(super) fn new(service: &Service<C>, kind: EtcdRequest, message: &impl Message) -> Self {
        let request = wire::etcd_request(kind, &message.encode_to_vec());
        Self { coordinator: service.coordinator.clone(), request: Some(request) }
    }

    /// The claim is met: it stays.
    pub(super) fn forget(mut self) {
        self.request = None;
    }
}

impl<C: Coordinator> Drop for Withdrawal<C> {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        let coordinator = self.coordinator.clone();
        // Without a runtime the server is ending; then the lease takes the claim back.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = coordinator.propose(request).await {
                    tracing::debug!(error = %error, "a claim is left to its lease");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_etcds_clients() {
        for (lease, key) in [
            (1, "a/1"),
            (0x694d_7abc_0123_4567, "a/694d7abc01234567"),
            (-26, "a/-1a"),
            (i64::MIN, "a/-8000000000000000"),
        ] {
            assert_eq!(holder_key(b"a/", lease), key);
        }
    }

    #[test]
    fn the_end_of_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(prefix_end(b"a/"), "a0");
        assert_eq!(prefix_end(b"a\xff\xff"), "b");
        assert_eq!(prefix_end(b"\xff"), "\0");
    }
}
