//! The whole API over real sockets, against a coordinator that makes its answers up.

mod cost;
mod gateway;
mod grpc;
mod hostile;
mod http1;
mod streams;
mod unchanged_clients;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, Method, Request, StatusCode};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use proto::etcdserverpb as pb;
use proto::instar::kv;
use proto::instar::v1::Machines;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::coordinator::MachineRequest;
use super::{
    Alarm, Answered, Coordinator, Listeners, MemberInfo, NodeStatus, Proposed, RequestError,
    Server, Settings, SnapshotFile, Standing, serve,
};
use crate::config::{GrpcConfig, HttpConfig, Url};
use crate::metrics::Calls;
use crate::raft::{ChangeRefused, EventFeed, MembershipChange};
use crate::runtime::{Admission, Rejection, Route};
use crate::watch::Hub;

pub(super) const SETTINGS: Settings = Settings {
    cluster_id: 0xc1,
    member_id: 0xa1,
    max_request_bytes: 1_572_864,
    quota_backend_bytes: 0,
    election_timeout: Duration::from_millis(20),
    http: HttpConfig {
        listen_http_urls: Vec::new(),
        listen_metrics_urls: Vec::new(),
        gateway: true,
        cors: Vec::new(),
        host_whitelist: Vec::new(),
    },
    grpc: GrpcConfig {
        max_concurrent_streams: u32::MAX,
        keepalive_min_time: Duration::from_secs(5),
        keepalive_interval: Duration::from_secs(7_200),
        keepalive_timeout: Duration::from_secs(20),
        extensive_metrics: true,
        warning_duration: Duration::from_millis(300),
        watch_progress_notify_interval: Duration::from_secs(600),
    },
    minimum_lease_ttl_s: 2,
    machine_upgrades: true,
};

/// A key of which `query` and `propose` do not answer until `release` is notified.
pub(super) const KEY_THAT_WAITS: &str = "wait";
/// A range of this key is answered with as many bytes as its limit says.
pub(super) const KEY_THAT_IS_LARGE: &str = "large";

/// Answers without doing anything.
#[derive(Debug, Default)]
pub(super) struct Fake {
    pub(super) has_no_leader: AtomicBool,
    /// How often it was asked where it stands while it had no leader.
    pub(super) leaderless_looks: AtomicU64,
    pub(super) is_learner: AtomicBool,
    pub(super) alarm: std::sync::Mutex<Option<Alarm>>,
    pub(super) revision: AtomicU64,
    pub(super) db_size_bytes: AtomicU64,
    /// The alarms that were raised.
    pub(super) raised: AtomicU64,
    /// Calls that wait, or waited until they were dropped.
    pub(super) waiting: AtomicU64,
    pub(super) dropped: AtomicU64,
    /// Answers that were made for `KEY_THAT_IS_LARGE`.
    pub(super) large_answers: AtomicU64,
    pub(super) release: Notify,
    pub(super) watches: FakeHub,
}

/// Of a store in which nothing happens.
#[derive(Debug)]
pub(super) struct FakeHub(Hub);

impl Default for FakeHub {
    fn default() -> FakeHub {
        FakeHub(Hub::new(Arc::new(EventFeed::new(5, 1)), 0))
    }
}

/// Counts a call that was dropped where it waited.
struct Waits<'a>(&'a Fake);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

impl Fake {
    async fn wait(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let waits = Waits(self);
        self.release.notified().await;
        std::mem::forget(waits);
    }

    fn check_leader(&self) -> Result<(), RequestError> {
        match self.has_no_leader.load(Ordering::SeqCst) {
            true => Err(RequestError::NoLeader),
            false => Ok(()),
        }
    }

    async fn range(&self, range: pb::RangeRequest) -> Answered {
        let revision = self.revision.load(Ordering::SeqCst);
        if range.key == KEY_THAT_WAITS {
            self.wait().await;
        }
        let value = if range.key == KEY_THAT_IS_LARGE {
            self.large_answers.fetch_add(1, Ordering::SeqCst);
            Bytes::from(vec![b'v'; range.limit as usize])
        } else {
            Bytes::from_static(b"value")
        };
        let kv = proto::mvccpb::KeyValue { key: range.key, value, ..Default::default() };
        let response = pb::RangeResponse { kvs: vec![kv], count: 1, ..Default::default() };
        Answered { revision, body: response.encode_to_vec().into(), next: None }
    }

    /// Three messages, of which each has one key.
    async fn range_stream(&self, step: kv::RangeStreamStep) -> Answered {
        let mut answered = self.range(step.range.clone().unwrap_or_default()).await;
        answered.revision = 7;
        if step.sent_count < 2 {
            let next = kv::RangeStreamStep { sent_count: step.sent_count + 1, ..step };
            let kind = kv::request::Kind::RangeStreamStep(next);
            answered.next = Some(kv::Request { kind: Some(kind) }.encode_to_vec().into());
        }
        answered
    }
}

fn parse(request: &[u8]) -> Result<kv::request::Kind, RequestError> {
    let refusal =
        |code, message: &str| RequestError::Rejected(Rejection { code, message: message.into() });
    let malformed = || refusal(13, "grpc: error unmarshalling request: malformed");
    let kind = kv::Request::decode(request).map_err(|_| malformed())?.kind.ok_or_else(malformed)?;
    if let kv::request::Kind::Etcd(etcd) = &kind {
        let range = etcd.range.as_ref().map(|range| &range.key);
        let put = etcd.put.as_ref().map(|put| &put.key);
        if range.or(put).is_some_and(|key| key.is_empty()) {
            return Err(refusal(3, "etcdserver: key is not provided"));
        }
    }
    Ok(kind)
}

impl Coordinator for Fake {
    fn admit(&self, request: &[u8]) -> Result<Admission, RequestError> {
        let kind = parse(request)?;
        let route = match &kind {
            kv::request::Kind::Etcd(etcd) => match &etcd.range {
                Some(range) if range.serializable => Route::LocalRead,
                Some(_) => Route::Read,
                None if etcd.alarm.is_some_and(|alarm| alarm.action == 0) => Route::Read,
                None => Route::Write,
            },
            kv::request::Kind::RangeStreamStep(_) => Route::Read,
            _ => Route::LocalRead,
        };
        let heavy = matches!(kind, kv::request::Kind::RangeStreamStep(_));
        Ok(Admission { route, heavy })
    }

    async fn propose(&self, request: Bytes) -> Result<Proposed, RequestError> {
        self.check_leader()?;
        if let kv::request::Kind::Etcd(etcd) = parse(&request)?
            && etcd.put.is_some_and(|put| put.key == KEY_THAT_WAITS)
        {
            self.wait().await;
        }
        if let kv::request::Kind::Etcd(etcd) = parse(&request)?
            && etcd.alarm.is_some()
        {
            self.raised.fetch_add(1, Ordering::SeqCst);
        }
        let revision = self.revision.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Proposed { revision, body: Bytes::new() })
    }

    async fn query(&self, request: Bytes, _heavy: bool) -> Result<Answered, RequestError> {
        match parse(&request)? {
            kv::request::Kind::Etcd(etcd) if etcd.alarm.is_some() => {
                Ok(Answered { revision: 9, body: Bytes::new(), next: None })
            }
            kv::request::Kind::Etcd(etcd) => Ok(self.range(etcd.range.unwrap_or_default()).await),
            kv::request::Kind::RangeStreamStep(step) => Ok(self.range_stream(step).await),
            kv::request::Kind::HashKv(request) => {
                let response = pb::HashKvResponse {
                    hash: 5,
                    hash_revision: request.revision,
                    ..Default::default()
                };
                Ok(Answered { revision: 9, body: response.encode_to_vec().into(), next: None })
            }
            _ => {
                let response = pb::HashResponse { hash: 6, ..Default::default() };
                Ok(Answered { revision: 9, body: response.encode_to_vec().into(), next: None })
            }
        }
    }

    async fn read_index(&self) -> Result<(), RequestError> {
        self.check_leader()?;
        // As if all of them were confirmed by one round.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Even leases are there, and have as much time as their number says.
    async fn renew_lease(&self, id: i64) -> Result<Option<i64>, RequestError> {
        self.check_leader()?;
        Ok((id % 2 == 0).then_some(id))
    }

    async fn lease_remaining(&self, id: i64) -> Result<Option<i64>, RequestError> {
        self.renew_lease(id).await
    }

    async fn compacted(&self, _revision: i64) -> Result<(), RequestError> {
        self.wait().await;
        Ok(())
    }

    fn db_size_bytes(&self) -> u64 {
        self.db_size_bytes.load(Ordering::SeqCst)
    }

    async fn defragment(&self) -> Result<(), RequestError> {
        self.db_size_bytes.store(4096, Ordering::SeqCst);
        Ok(())
    }

    async fn snapshot(&self) -> Result<SnapshotFile, RequestError> {
        let mut file = tempfile::tempfile().unwrap();
        let size_bytes = 1_300_000;
        std::io::Write::write_all(&mut file, &vec![b's'; size_bytes]).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        Ok(SnapshotFile { file, size_bytes: size_bytes as u64 })
    }

    fn standing(&self) -> Standing {
        let has_leader = !self.has_no_leader.load(Ordering::SeqCst);
        if !has_leader {
            self.leaderless_looks.fetch_add(1, Ordering::SeqCst);
        }
        Standing {
            raft_term: 2,
            leader: if has_leader { 0xa1 } else { 0 },
            is_learner: self.is_learner.load(Ordering::SeqCst),
        }
    }

    fn status(&self) -> NodeStatus {
        NodeStatus {
            standing: self.standing(),
            revision: self.revision.load(Ordering::SeqCst),
            raft_index: 11,
            raft_applied_index: 10,
            db_size_bytes: 4096,
            db_size_in_use_bytes: 2048,
            alarms: self.alarm.lock().unwrap().iter().copied().collect(),
            errors: Vec::new(),
        }
    }

    fn watches(&self) -> &Hub {
        &self.watches.0
    }

    fn members(&self) -> Vec<MemberInfo> {
        vec![MemberInfo {
            id: 0xa1,
            name: "a".into(),
            peer_urls: vec!["http://localhost:2380".into()],
            client_urls: vec!["http://localhost:2379".into()],
            is_learner: false,
        }]
    }

    async fn change_membership(
        &self,
        change: MembershipChange,
    ) -> Result<Vec<MemberInfo>, RequestError> {
        match change {
            MembershipChange::Add { .. } => Ok(self.members()),
            _ => Err(ChangeRefused::MemberNotFound.into()),
        }
    }

    async fn machine(&self, _: MachineRequest) -> Result<Machines, RequestError> {
        Ok(Machines::default())
    }

    async fn move_leader(&self, to: u64) -> Result<(), RequestError> {
        if to == 0xa1 { Ok(()) } else { Err(RequestError::BadLeaderTransferee) }
    }
}

/// A server with two threads and one coordinator.
pub(super) struct Running {
    pub(super) server: Server,
    pub(super) fake: Arc<Fake>,
    pub(super) address: SocketAddr,
}

pub(super) fn start() -> Running {
    let url = Url::parse("http://127.0.0.1:0").unwrap();
    let listeners = Listeners::bind(&[url], "listen-client-urls").unwrap();
    let fake = Arc::new(Fake::default());
    let server = serve(listeners, vec![fake.clone(), fake.clone()], SETTINGS).unwrap();
    let address = server.addresses()[0];
    Running { server, fake, address }
}

/// Waits for a condition, which is asked again and again, for ten seconds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What came back for a call.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// The headers' own if the response had nothing else.
    pub(super) trailers: HeaderMap,
}

impl Reply {
    pub(super) fn grpc(&self) -> (u32, &str) {
        let text = |name| self.trailers.get(name).map_or("", |value| value.to_str().unwrap());
        (text("grpc-status").parse().unwrap(), text("grpc-message"))
    }

    /// The message of a successful unary call.
    pub(super) fn message<M: Message + Default>(&self) -> M {
        assert_eq!(self.grpc(), (0, ""), "{self:?}");
        let mut messages = unframe::<M>(&self.body);
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }
}

pub(super) fn unframe<M: Message + Default>(mut body: &[u8]) -> Vec<M> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        assert_eq!(body[0], 0);
        let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
        messages.push(M::decode(&body[5..5 + length]).unwrap());
        body = &body[5 + length..];
    }
    messages
}

pub(super) fn frame(message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(message.encoded_len() as u32);
    message.encode(&mut out).unwrap();
    out.freeze()
}

pub(super) type Sender = h2::client::SendRequest<Bytes>;

/// An HTTP/2 connection of which nothing is hidden.
pub(super) async fn connect(address: SocketAddr) -> Sender {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    sender
}

pub(super) fn grpc_request(path: &str) -> Request<()> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("http://server{path}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// Sends a request with these parts of a body, and collects the whole response.
pub(super) async fn exchange(
    sender: &Sender,
    request: Request<()>,
    body: &[Bytes],
) -> Result<Reply, h2::Error> {
    let mut sender = sender.clone().ready().await?;
    let (response, mut stream) = sender.send_request(request, body.is_empty())?;
    for (number, part) in body.iter().enumerate() {
        stream.reserve_capacity(part.len());
        let is_last = number + 1 == body.len();
        // The server may answer, and not want the rest.
        if stream.send_data(part.clone(), is_last).is_err() {
            break;
        }
    }
    collect(response.await?).await
}

pub(super) async fn collect(
    response: ::http::Response<h2::RecvStream>,
) -> Result<Reply, h2::Error> {
    let (head, mut body) = response.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await?.unwrap_or_else(|| head.headers.clone());
    Ok(Reply { status: head.status, headers: head.headers, body: bytes.freeze(), trailers })
}

/// One unary call on a connection of its own.
pub(super) async fn call(address: SocketAddr, path: &str, message: &impl Message) -> Reply {
    call_with(address, path, message, &[]).await
}

pub(super) async fn call_with(
    address: SocketAddr,
    path: &str,
    message: &impl Message,
    headers: &[(&'static str, &str)],
) -> Reply {
    let mut request = grpc_request(path);
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    exchange(&connect(address).await, request, &[frame(message)]).await.unwrap()
}

pub(super) fn put(key: &str, value_bytes: usize) -> pb::PutRequest {
    let value = vec![b'v'; value_bytes].into();
    pb::PutRequest { key: Bytes::copy_from_slice(key.as_bytes()), value, ..Default::default() }
}

pub(super) fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest { key: Bytes::copy_from_slice(key.as_bytes()), ..Default::default() }
}
