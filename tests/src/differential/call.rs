//! Requests that are sent to both servers, and their answers in a form that can be compared.

use proto::etcdserverpb as pb;
use proto::etcdserverpb::ResponseHeader;
use proto::etcdserverpb::response_op::Response;
use tonic::{Code, Status};

use super::ties;
use crate::client::Client;

/// A request.
#[derive(Clone, PartialEq, Debug)]
pub enum Call {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    HashKv(pb::HashKvRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(i64),
    LeaseKeepAlive(i64),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
    LeaseLeases,
}

/// One message of an answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Message {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    HashKv(pb::HashKvResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseKeepAlive(pb::LeaseKeepAliveResponse),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
    LeaseLeases(pb::LeaseLeasesResponse),
}

/// How much less than all of its time a lease may have left in a comparison: two servers are never asked at the same
/// moment.
const LEASE_TOLERANCE_S: i64 = 200;

/// An answer: its messages (a stream has several), then an error or none.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reply {
    pub messages: Vec<Message>,
    pub error: Option<(Code, String)>,
}

impl Call {
    /// Sends the request. What two servers may differ in is settled in the answer: ids and the term only
    /// say whether they are there, and rows that a sort finds equal are in the order of their keys.
    pub async fn send(&self, client: &Client) -> Reply {
        let mut messages = Vec::new();
        let error = match self.send_into(client, &mut messages).await {
            Ok(()) => None,
            Err(status) => Some((status.code(), status.message().to_owned())),
        };
        messages.iter_mut().for_each(Message::anonymise);
        ties::settle(self, &mut messages);
        Reply { messages, error }
    }

    async fn send_into(&self, client: &Client, into: &mut Vec<Message>) -> Result<(), Status> {
        let mut kv = client.kv.clone();
        into.push(match self.clone() {
            Self::Range(request) => Message::Range(kv.range(request).await?.into_inner()),
            Self::Put(request) => Message::Put(kv.put(request).await?.into_inner()),
            Self::DeleteRange(request) => {
                Message::DeleteRange(kv.delete_range(request).await?.into_inner())
            }
            Self::Txn(request) => Message::Txn(kv.txn(request).await?.into_inner()),
            Self::Compact(request) => Message::Compact(kv.compact(request).await?.into_inner()),
            Self::HashKv(request) => {
                let answer = client.maintenance.clone().hash_kv(request).await?;
                Message::HashKv(answer.into_inner())
            }
            Self::LeaseGrant(request) => {
                Message::LeaseGrant(client.grant(request.id, request.ttl).await?)
            }
            Self::LeaseRevoke(id) => Message::LeaseRevoke(client.revoke(id).await?),
            Self::LeaseKeepAlive(id) => Message::LeaseKeepAlive(client.keep_alive(id).await?),
            Self::LeaseTimeToLive(request) => {
                let answer = client.lease.clone().lease_time_to_live(request).await?;
                Message::LeaseTimeToLive(answer.into_inner())
            }
            Self::LeaseLeases => {
                let answer = client.lease.clone().lease_leases(pb::LeaseLeasesRequest {}).await?;
                Message::LeaseLeases(answer.into_inner())
            }
            Self::RangeStream(request) => {
                let mut stream = kv.range_stream(request).await?.into_inner();
                while let Some(part) = stream.message().await? {
                    into.push(Message::Range(part.range_response.unwrap_or_default()));
                }
                return Ok(());
            }
        });
        Ok(())
    }
}

impl Reply {
    /// The revision in the answer's header, if it has one.
    pub fn revision(&self) -> Option<i64> {
        self.messages.iter().rev().find_map(Message::header).map(|header| header.revision)
    }
}

impl Message {
    fn header(&self) -> Option<&ResponseHeader> {
        match self {
            Self::Range(message) => message.header.as_ref(),
            Self::Put(message) => message.header.as_ref(),
            Self::DeleteRange(message) => message.header.as_ref(),
            Self::Txn(message) => message.header.as_ref(),
            Self::Compact(message) => message.header.as_ref(),
            Self::HashKv(message) => message.header.as_ref(),
            Self::LeaseGrant(message) => message.header.as_ref(),
            Self::LeaseRevoke(message) => message.header.as_ref(),
            Self::LeaseKeepAlive(message) => message.header.as_ref(),
            Self::LeaseTimeToLive(message) => message.header.as_ref(),
            Self::LeaseLeases(message) => message.header.as_ref(),
        }
    }

    fn anonymise(&mut self) {
        match self {
            Self::Range(message) => anonymise(&mut message.header),
            Self::Put(message) => anonymise(&mut message.header),
            Self::DeleteRange(message) => anonymise(&mut message.header),
            Self::Txn(message) => anonymise_txn(message),
            Self::Compact(message) => anonymise(&mut message.header),
            Self::HashKv(message) => anonymise(&mut message.header),
            Self::LeaseGrant(message) => anonymise(&mut message.header),
            Self::LeaseRevoke(message) => anonymise(&mut message.header),
            Self::LeaseKeepAlive(message) => anonymise(&mut message.header),
            Self::LeaseTimeToLive(message) => {
                anonymise(&mut message.header);
                message.keys.sort();
                if (0..LEASE_TOLERANCE_S).contains(&(message.granted_ttl - message.ttl)) {
                    message.ttl = message.granted_ttl;
                }
            }
            Self::LeaseLeases(message) => {
                anonymise(&mut message.header);
                message.leases.sort_by_key(|lease| lease.id);
            }
        }
    }
}

/// Marks ids that are there without telling which: a header that lacks them differs from one that has
/// them, also where an inner answer has a header of its own.
fn anonymise(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        header.cluster_id = u64::from(header.cluster_id != 0);
        header.member_id = u64::from(header.member_id != 0);
        header.raft_term = u64::from(header.raft_term != 0);
    }
}

fn anonymise_txn(txn: &mut pb::TxnResponse) {
    anonymise(&mut txn.header);
    for op in &mut txn.responses {
        match &mut op.response {
            Some(Response::ResponseRange(inner)) => anonymise(&mut inner.header),
            Some(Response::ResponsePut(inner)) => anonymise(&mut inner.header),
            Some(Response::ResponseDeleteRange(inner)) => anonymise(&mut inner.header),
            Some(Response::ResponseTxn(inner)) => anonymise_txn(inner),
            None => {}
        }
    }
}
