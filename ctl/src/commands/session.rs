//! What `lock` and `elect` share: a lease that is kept alive, and a queue of keys below a name.
//!
//! Who comes first is who created a key first. Each waits for the one before it to go, and only for that.

use std::rc::Rc;

use bytes::Bytes;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::mvccpb::KeyValue;
use proto::mvccpb::event::EventType;
use tokio::signal::unix::{SignalKind, signal};

use super::watching::{Watching, of_key};
use super::{ask, lease};
use crate::client::Client;
use crate::failure::Failure;
use crate::go;

/// A lease, and the client that keeps it.
#[derive(Debug)]
pub struct Session {
    pub client: Rc<Client>,
    pub lease: i64,
    ttl: i64,
}

impl Session {
    pub async fn begin(client: Client, ttl: i64) -> Result<Self, Failure> {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        let granted = ask!(client, Never, lease.lease_grant(request))?;
        Ok(Self { client: Rc::new(client), lease: granted.id, ttl: granted.ttl })
    }

    /// Renews the lease until that fails, or there is none any more.
    pub async fn keep(&self) {
        loop {
            tokio::time::sleep(lease::between_renewals(self.ttl)).await;
            match lease::renew(&self.client, self.lease).await {
                Ok(response) if response.ttl > 0 => {}
                _ => return,
            }
        }
    }
}

/// A place in the queue below a name.
#[derive(Clone, Debug)]
pub struct Place {
    pub key: Bytes,
    pub revision: i64,
    /// The header's revision of the answer that said so.
    pub known_at: i64,
}

impl Session {
    fn prefix(name: &str) -> Bytes {
        format!("{name}/").into()
    }

    /// Puts a key with `value` below `name`, unless it is there.
    pub async fn queue(&self, name: &str, value: &str) -> Result<Place, Failure> {
        let key: Bytes = format!("{name}/{:x}", self.lease).into();
        let client = &self.client;
        let missing = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Create as i32,
            key: key.clone(),
            range_end: Bytes::new(),
            target_union: Some(TargetUnion::CreateRevision(0)),
        };
        let put = Request::RequestPut(pb::PutRequest {
            key: key.clone(),
            value: value.to_owned().into(),
            lease: self.lease,
            ..Default::default()
        });
        let get =
            Request::RequestRange(pb::RangeRequest { key: key.clone(), ..Default::default() });
        let one = |request| vec![pb::RequestOp { request: Some(request) }];
        let request =
            pb::TxnRequest { compare: vec![missing], success: one(put), failure: one(get) };
        let response = ask!(client, Never, kv.txn(request))?;
        let now = response.header.map_or(0, |header| header.revision);
        let found = response.responses.into_iter().next().and_then(|first| first.response);
        let revision = match found {
            Some(Response::ResponseRange(range)) if !response.succeeded => {
                range.kvs.first().map_or(now, |pair| pair.create_revision)
            }
            _ => now,
        };
        Ok(Place { key, revision, known_at: now })
    }

    /// Waits until no key below `name` was created before the place.
    pub async fn wait_for_turn(&self, name: &str, place: &mut Place) -> Result<(), Failure> {
        let client = &self.client;
        loop {
            let before = pb::RangeRequest {
                max_create_revision: place.revision - 1,
                ..ordered(name, SortOrder::Descend)
            };
            let response = ask!(client, Reading, kv.range(before))?;
            let now = response.header.map_or(0, |header| header.revision);
            let Some(ahead) = response.kvs.into_iter().next() else { break };
            wait_until_deleted(client, ahead.key, now).await?;
        }
        // While it waited, its own key may have gone with its lease.
        let own = pb::RangeRequest { key: place.key.clone(), ..Default::default() };
        let response = ask!(client, Reading, kv.range(own))?;
        place.known_at = response.header.map_or(0, |header| header.revision);
        match response.kvs.is_empty() {
            true => Err(Failure::error("mutex: session is expired")),
            false => Ok(()),
        }
    }

    pub async fn leave(&self, place: &Place) -> Result<(), Failure> {
        let client = &self.client;
        let request = pb::DeleteRangeRequest { key: place.key.clone(), ..Default::default() };
        ask!(client, Never, kv.delete_range(request))?;
        Ok(())
    }

    pub async fn get(&self, key: Bytes) -> Result<pb::RangeResponse, Failure> {
        let client = &self.client;
        ask!(client, Reading, kv.range(pb::RangeRequest { key, ..Default::default() }))
    }
}

/// The key that was created first, or last, below a name.
fn ordered(name: &str, order: SortOrder) -> pb::RangeRequest {
    let key = Session::prefix(name);
    pb::RangeRequest {
        range_end: go::prefix_end(&key).into(),
        key,
        limit: 1,
        sort_order: order as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

async fn wait_until_deleted(client: &Client, key: Bytes, from: i64) -> Result<(), Failure> {
    let mut watching = Watching::begin(client, of_key(key, from)).await?;
    while let Some(response) = watching.next(client).await? {
        if response.canceled {
            return Err(Failure::error("lost watcher waiting for delete"));
        }
        let is_delete = |event: &proto::mvccpb::Event| event.r#type == EventType::Delete as i32;
        if response.events.iter().any(is_delete) {
            return Ok(());
        }
    }
    Err(Failure::error("lost watcher waiting for delete"))
}

/// Who leads an election: told when it changes, or when what they say does.
pub async fn observe(
    client: &Client,
    name: &str,
    mut tell: impl FnMut(pb::RangeResponse) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let response = ask!(client, Reading, kv.range(ordered(name, SortOrder::Ascend)))?;
        let now = response.header.map_or(0, |header| header.revision);
        let (header, leader) = match response.kvs.into_iter().next() {
            Some(leader) => (response.header, leader),
            None => first_candidate(client, name, now + 1).await?,
        };
        let key = leader.key.clone();
        let now = header.map_or(now, |header| header.revision);
        tell(answer(header, leader))?;
        let mut watching = Watching::begin(client, of_key(key, now + 1)).await?;
        'leads: while let Some(response) = watching.next(client).await? {
            if response.canceled {
                return Err(Failure::error("elect: observer lost"));
            }
            for event in response.events {
                if event.r#type == EventType::Delete as i32 {
                    break 'leads;
                }
                tell(answer(response.header, event.kv.unwrap_or_default()))?;
            }
        }
    }
}

fn answer(header: Option<pb::ResponseHeader>, pair: KeyValue) -> pb::RangeResponse {
    pb::RangeResponse { header, kvs: vec![pair], ..Default::default() }
}

async fn first_candidate(
    client: &Client,
    name: &str,
    from: i64,
) -> Result<(Option<pb::ResponseHeader>, KeyValue), Failure> {
    let key = Session::prefix(name);
    let range_end = go::prefix_end(&key).into();
    let request = pb::WatchCreateRequest { range_end, ..of_key(key, from) };
    let mut watching = Watching::begin(client, request).await?;
    while let Some(response) = watching.next(client).await? {
        let put = response.events.into_iter().find(|event| event.r#type == EventType::Put as i32);
        if let Some(pair) = put.and_then(|event| event.kv) {
            return Ok((response.header, pair));
        }
    }
    Err(Failure::error("elect: observer lost"))
}

/// Returns when the user, or the system, wants an end.
pub async fn interrupted() -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
