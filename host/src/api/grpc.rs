//! Takes a gRPC call from its first headers to its end: checks what every call has to keep to, finds the method, and
//! runs it under the client's deadline. A call whose client goes away is dropped where it stands.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method as HttpMethod, Request, StatusCode, request};
use tokio::sync::{Semaphore, watch};

use super::call::{self, Encoding, Gone, Responder};
use super::coordinator::{Coordinator, RequestError, Standing};
use super::status::{Code, Status};
use super::streams::{Requests, Responses};
use super::unread::{Turn, Unread};
use super::wire::{Frame, ResponseHeader};
use super::{
    Settings, cluster, election, kv, lease, lock, machine, maintenance, module, services,
    watch as watch_service,
};
use crate::limits;
use crate::metrics::{Call, Calls};

/// What all calls of one client runtime share.
pub(super) struct Service<C> {
    pub(super) coordinator: Arc<C>,
    pub(super) settings: Arc<Settings>,
    /// Of the whole server, in KiB.
    pub(super) large_messages: Arc<Semaphore>,
    /// True once the server has begun to stop.
    pub(super) stopping: watch::Receiver<bool>,
    /// What the metrics tell of calls, of all threads.
    pub(super) calls: Arc<Calls>,
    /// The number of this service's thread.
    pub(super) thread: usize,
}

impl<C: Coordinator> Service<C> {
    /// The header of a response at `revision`.
    pub(super) fn header(&self, revision: u64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.settings.cluster_id,
            member_id: self.settings.member_id,
            revision,
            raft_term: self.coordinator.standing().raft_term,
        }
    }

    /// The most bytes of a message as the gateway gets it.
    pub(super) fn most_json_bytes(&self) -> usize {
        self.most_message_bytes() * limits::GATEWAY_JSON_FACTOR
    }

    pub(super) fn most_message_bytes(&self) -> usize {
        self.settings.max_request_bytes as usize + limits::GRPC_OVERHEAD_BYTES
    }
}

/// The methods that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Range,
    RangeStream,
    Put,
    DeleteRange,
    Txn,
    Compact,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseLeases,
    LeaseKeepAlive,
    Lock,
    Unlock,
    Campaign,
    Proclaim,
    Leader,
    Observe,
    Resign,
    Status,
    Hash,
    HashKv,
    Alarm,
    Defragment,
    Downgrade,
    Snapshot,
    MemberList,
    Watch,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberPromote,
    MoveLeader,
    MachineList,
    MachinePut,
    MachinePrepare,
    MachineShadow,
    MachineActivate,
    MachineRollback,
    MachineFinalise,
    ModulePut,
    ModuleList,
    ModuleActivate,
    ModuleDisable,
    ModuleCall,
    ModuleLogs,
    ModuleStatistics,
    HealthCheck,
    HealthList,
    HealthWatch,
}

impl Method {
    fn find(path: &str) -> Option<Method> {
        Some(match path {
            "/etcdserverpb.KV/Range" => Method::Range,
            "/etcdserverpb.KV/Put" => Method::Put,
            "/etcdserverpb.KV/Txn" => Method::Txn,
            "/etcdserverpb.KV/DeleteRange" => Method::DeleteRange,
            "/etcdserverpb.KV/RangeStream" => Method::RangeStream,
            "/etcdserverpb.KV/Compact" => Method::Compact,
            "/etcdserverpb.Lease/LeaseGrant" => Method::LeaseGrant,
            "/etcdserverpb.Lease/LeaseRevoke" => Method::LeaseRevoke,
            "/etcdserverpb.Lease/LeaseTimeToLive" => Method::LeaseTimeToLive,
            "/etcdserverpb.Lease/LeaseKeepAlive" => Method::LeaseKeepAlive,
            "/etcdserverpb.Lease/LeaseLeases" => Method::LeaseLeases,
            "/v3lockpb.Lock/Lock" => Method::Lock,
            "/v3lockpb.Lock/Unlock" => Method::Unlock,
            "/v3electionpb.Election/Campaign" => Method::Campaign,
            "/v3electionpb.Election/Proclaim" => Method::Proclaim,
            "/v3electionpb.Election/Leader" => Method::Leader,
            "/v3electionpb.Election/Observe" => Method::Observe,
            "/v3electionpb.Election/Resign" => Method::Resign,
            "/etcdserverpb.Maintenance/Status" => Method::Status,
            "/etcdserverpb.Maintenance/Hash" => Method::Hash,
            "/etcdserverpb.Maintenance/HashKV" => Method::HashKv,
            "/etcdserverpb.Maintenance/Alarm" => Method::Alarm,
            "/etcdserverpb.Maintenance/Defragment" => Method::Defragment,
            "/etcdserverpb.Maintenance/Snapshot" => Method::Snapshot,
            "/etcdserverpb.Maintenance/Downgrade" => Method::Downgrade,
            "/etcdserverpb.Cluster/MemberList" => Method::MemberList,
            "/etcdserverpb.Watch/Watch" => Method::Watch,
            "/etcdserverpb.Cluster/MemberAdd" => Method::MemberAdd,
            "/etcdserverpb.Cluster/MemberRemove" => Method::MemberRemove,
            "/etcdserverpb.Cluster/MemberUpdate" => Method::MemberUpdate,
            "/etcdserverpb.Cluster/MemberPromote" => Method::MemberPromote,
            "/etcdserverpb.Maintenance/MoveLeader" => Method::MoveLeader,
            "/instar.v1.Machine/List" => Method::MachineList,
            "/instar.v1.Machine/Put" => Method::MachinePut,
            "/instar.v1.Machine/Prepare" => Method::MachinePrepare,
            "/instar.v1.Machine/Shadow" => Method::MachineShadow,
            "/instar.v1.Machine/Activate" => Method::MachineActivate,
            "/instar.v1.Machine/Rollback" => Method::MachineRollback,
            "/instar.v1.Machine/Finalise" => Method::MachineFinalise,
            "/instar.v1.Module/Put" => Method::ModulePut,
            "/instar.v1.Module/List" => Method::ModuleList,
            "/instar.v1.Module/Activate" => Method::ModuleActivate,
            "/instar.v1.Module/Disable" => Method::ModuleDisable,
            "/instar.v1.Module/Call" => Method::ModuleCall,
            "/instar.v1.Module/Logs" => Method::ModuleLogs,
            "/instar.v1.Module/Statistics" => Method::ModuleStatistics,
            "/grpc.health.v1.Health/Check" => Method::HealthCheck,
            "/grpc.health.v1.Health/List" => Method::HealthList,
            "/grpc.health.v1.Health/Watch" => Method::HealthWatch,
            _ => return None,
        })
    }
}

impl Method {
    /// Whether it is served by way of `Requests` and `Responses`: those with messages in both directions, and those
    /// that go on until the client or the server ends them.
    pub(super) fn is_stream(self) -> bool {
        matches!(
            self,
            Method::HealthWatch
                | Method::Watch
                | Method::LeaseKeepAlive
                | Method::Observe
                | Method::MachinePut
                | Method::MachineShadow
                | Method::ModulePut
                | Method::ModuleLogs
        )
    }
}

/// The services of which at least one method is served.
const SERVICES: [&str; 10] = [
    "instar.v1.Machine",
    "instar.v1.Module",
    "etcdserverpb.Watch",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Cluster",
    "grpc.health.v1.Health",
];

/// Why there is no such method, in the words of grpc-go.
fn no_such_method(path: &str) -> Status {
    let split = path.strip_prefix('/').and_then(|path| path.rsplit_once('/'));
    let message = match split {
        None => format!("malformed method name: {path:?}"),
        Some((service, method)) if SERVICES.contains(&service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
    };
    Status::new(Code::Unimplemented, message)
}

/// Serves one call. Returns when it is over.
pub(super) async fn serve<C: Coordinator>(
    service: Arc<Service<C>>,
    unread: Arc<Unread>,
    request: Request<RecvStream>,
    response: SendResponse<Bytes>,
) {
    let (head, body) = request.into_parts();
    let meter = service.calls.begin(service.thread, head.uri.path());
    let mut responder = Responder::new(response, &unread, meter);
    let content_type = head.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let Some(subtype) = content_subtype(content_type) else {
        return responder.refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, &no_grpc(content_type));
    };
    if !subtype.is_empty() {
        responder.set_subtype(subtype);
    }
    let deadline = match check_head(&head) {
        Ok(deadline) => deadline,
        Err((code, status)) => return responder.refuse(code, &status),
    };
    let started = Instant::now();
    let outcome = {
        let mut run = pin!(run(&service, &head, body, &mut responder, meter));
        match deadline {
            Some(deadline) => match tokio::time::timeout(deadline, run.as_mut()).await {
                Ok(outcome) => outcome,
                Err(_) => Ok(Err(Status::new(Code::DeadlineExceeded, "context deadline exceeded"))),
            },
            None => run.await,
        }
    };
    let took = started.elapsed();
    let code = match &outcome {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => status.code,
        Err(Gone) => Code::Cancelled as u32,
    };
    meter.handled(code, took);
    if took > service.settings.grpc.warning_duration && meter.is_unary() {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(path = head.uri.path(), took_ms, code, "a request took long");
    }
    match outcome {
        Ok(result) => responder.finish(result),
        Err(Gone) => responder.reset(),
    }
}

/// What stands behind `application/grpc` in a content type. None if it is no gRPC.
fn content_subtype(content_type: &[u8]) -> Option<&[u8]> {
    let rest = content_type.strip_prefix(b"application/grpc")?;
    match rest.split_first() {
        None => Some(rest),
        Some((b'+' | b';', subtype)) => Some(subtype),
        Some(_) => None,
    }
}

fn no_grpc(content_type: &[u8]) -> Status {
    let content_type = String::from_utf8_lossy(content_type);
    let message = format!("invalid gRPC request content-type {content_type:?}");
    Status::new(Code::InvalidArgument, message)
}

/// What gRPC asks of the headers, in the order in which grpc-go looks at them. Gives the client's deadline.
fn check_head(head: &request::Parts) -> Result<Option<Duration>, (StatusCode, Status)> {
    let deadline = match head.headers.get("grpc-timeout").map(call::parse_timeout) {
        None => None,
        Some(Ok(deadline)) => Some(deadline),
        Some(Err(reason)) => {
            let status = Status::new(Code::Internal, format!("malformed grpc-timeout: {reason}"));
            return Err((StatusCode::BAD_REQUEST, status));
        }
    };
    if head.method != HttpMethod::POST {
        let message = format!(
            "Received a HEADERS frame with :method {:?} which should be POST",
            head.method.as_str()
        );
        return Err((StatusCode::METHOD_NOT_ALLOWED, Status::new(Code::Internal, message)));
    }
    if deadline == Some(Duration::ZERO) {
        let status = Status::new(Code::DeadlineExceeded, "context deadline exceeded");
        return Err((StatusCode::OK, status));
    }
    Ok(deadline)
}

async fn run<C: Coordinator>(
    service: &Service<C>,
    head: &request::Parts,
    mut body: RecvStream,
    responder: &mut Responder<'_>,
    meter: Call<'_>,
) -> Result<Result<(), Status>, Gone> {
    let path = head.uri.path();
    let Some(method) = Method::find(path) else { return Ok(Err(no_such_method(path))) };
    let encoding = match Encoding::of(&head.headers) {
        Ok(encoding) => encoding,
        Err(status) => return Ok(Err(status)),
    };
    if method.is_stream() {
        let (headers, with) = (&head.headers, (responder, meter));
        return Box::pin(stream(service, method, headers, (body, encoding), with)).await;
    }
    let unread = responder.unread();
    let receive = async {
        let turn = unread.turn().await;
        let most_bytes = service.most_message_bytes();
        let message =
            call::receive(&mut body, most_bytes, &service.large_messages, encoding).await?;
        Ok((turn, message))
    };
    // The turn ends with the call.
    let (mut turn, message) = match unless_gone(responder, pin!(receive)).await? {
        Ok(received) => received,
        Err(status) => return Ok(Err(status)),
    };
    meter.received(message.bytes.len());
    let (headers, message) = (&head.headers, &message.bytes);
    match method {
        Method::RangeStream => {
            Box::pin(kv::range_stream(service, headers, message, &mut turn, responder)).await
        }
        Method::Snapshot => {
            Box::pin(maintenance::snapshot(service, headers, message, responder)).await
        }
        unary => {
            let answer = pin!(answer(service, unary, headers, message, &mut turn));
            match unless_gone(responder, answer).await? {
                Ok(frame) => responder.message(frame).await.map(Ok),
                Err(status) => Ok(Err(status)),
            }
        }
    }
}

/// Runs a streaming method, until it ends or the server does.
async fn stream<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    (body, encoding): (RecvStream, Encoding),
    (responder, meter): (&mut Responder<'_>, Call<'_>),
) -> Result<Result<(), Status>, Gone> {
    let most_bytes = service.most_message_bytes();
    let mut requests =
        Requests::http2((body, encoding), most_bytes, &service.large_messages, meter);
    let mut responses = Responses::new(responder);
    serve_stream(service, method, headers, &mut requests, &mut responses).await
}

/// Serves a streaming method, whatever the transport.
pub(super) async fn serve_stream<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    requests: &mut Requests<'_>,
    responses: &mut Responses<'_>,
) -> Result<Result<(), Status>, Gone> {
    let mut stopping = service.stopping.clone();
    let result = {
        let serve = async {
            match method {
                Method::HealthWatch => services::health_watch(service, requests, responses).await,
                Method::Watch => watch_service::serve(service, headers, requests, responses).await,
                Method::LeaseKeepAlive => {
                    lease::keep_alive(service, headers, requests, responses).await
                }
                Method::MachinePut => machine::put(service, headers, requests, responses).await,
                Method::MachineShadow => {
                    machine::shadow(service, headers, requests, responses).await
                }
                Method::ModulePut => module::put(service, headers, requests, responses).await,
                Method::ModuleLogs => module::logs(service, headers, requests, responses).await,
                Method::Observe => election::observe(service, headers, requests, responses).await,
                other => Ok(Err(no_such_method(&format!("/{other:?}")))),
            }
        };
        let mut serve = pin!(serve);
        tokio::select! {
            biased;
            result = serve.as_mut() => result?,
            // An error means that the server is gone, and then this is over as well. Methods that have something to say at
            // the end were perhaps asked a moment before they could know of it.
            _ = stopping.wait_for(|stopping| *stopping) => match serve.now_or_never() {
                Some(result) => result?,
                None => Err(RequestError::Stopped.into()),
            },
        }
    };
    responses.flush().await.map(|()| result)
}

/// Runs `work` until the client gives the call up.
pub(super) async fn unless_gone<T>(
    responder: &mut Responder<'_>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Gone> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => responder.poll_gone(cx).map(|()| Err(Gone)),
    })
    .await
}

async fn answer<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    let frame = match method {
        Method::Put | Method::Range | Method::Txn | Method::DeleteRange => {
            kv::unary(service, method, headers, message, turn).await
        }
        rare => Box::pin(answer_rare(service, rare, headers, message, turn)).await,
    }?;
    if frame.bytes() > limits::ANSWER_MESSAGE_BYTES {
        let message = format!(
            "grpc: trying to send message larger than max ({} vs. {})",
            frame.bytes(),
            limits::ANSWER_MESSAGE_BYTES
        );
        return Err(Status::new(Code::ResourceExhausted, message));
    }
    Ok(frame)
}

/// Apart from the others, and in a box: what a call of theirs takes would be copied about with every put.
async fn answer_rare<C: Coordinator>(
    service: &Service<C>,
    method: Method,
    headers: &HeaderMap,
    message: &Bytes,
    turn: &mut Turn<'_>,
) -> Result<Frame, Status> {
    match method {
        Method::HealthCheck => services::health_check(service, message),
        Method::HealthList => Ok(services::health_list(service)),
        Method::Status => services::status(service, headers, message),
        Method::Defragment => maintenance::defragment(service, headers, message).await,
        Method::Downgrade => maintenance::downgrade(service, headers, message).await,
        Method::MemberList => services::member_list(service, headers, message).await,
        Method::MemberAdd
        | Method::MemberRemove
        | Method::MemberUpdate
        | Method::MemberPromote
        | Method::MoveLeader => cluster::unary(service, method, headers, message).await,
        Method::MachineList
        | Method::MachinePrepare
        | Method::MachineActivate
        | Method::MachineRollback
        | Method::MachineFinalise => machine::unary(service, method, headers, message).await,
        Method::ModuleList
        | Method::ModuleActivate
        | Method::ModuleDisable
        | Method::ModuleStatistics
        | Method::ModuleCall => module::unary(service, method, headers, message).await,
        Method::Lock | Method::Unlock => lock::unary(service, method, headers, message).await,
        Method::Campaign | Method::Proclaim | Method::Leader | Method::Resign => {
            election::unary(service, method, headers, message).await
        }
        Method::LeaseGrant
        | Method::LeaseRevoke
        | Method::LeaseTimeToLive
        | Method::LeaseLeases => lease::unary(service, method, headers, message, turn).await,
        _ => kv::unary_of_operators(service, method, headers, message, turn).await,
    }
}

/// What etcd's interceptors ask of every call to its services (server/etcdserver/api/v3rpc/interceptor.go).
///
/// `for_learners` says whether a learner serves the call.
pub(super) fn check_metadata(
    standing: Standing,
    headers: &HeaderMap,
    for_learners: bool,
) -> Result<(), Status> {
    if standing.is_learner && !for_learners {
        let message = "etcdserver: rpc not supported for learner";
        return Err(Status::new(Code::FailedPrecondition, message));
    }
    if let Some(version) = headers.get("client-api-version")
        && std::str::from_utf8(version.as_bytes()).is_err()
    {
        let message = "etcdserver: invalid client api version";
        return Err(Status::new(Code::InvalidArgument, message));
    }
    if wants_leader(headers) && standing.leader == 0 {
        return Err(Status::new(Code::Unavailable, "etcdserver: no leader"));
    }
    Ok(())
}

/// Whether the client would rather be refused than served by a member without a leader.
pub(super) fn wants_leader(headers: &HeaderMap) -> bool {
    headers.get("hasleader").is_some_and(|value| value == "true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_methods_are_named_as_grpc_go_names_them() {
        for (path, message) in [
            ("/foo", "malformed method name: \"/foo\""),
            ("/", "malformed method name: \"/\""),
            ("/etcdserverpb.Auth/AuthStatus", "unknown service etcdserverpb.Auth"),
            ("/etcdserverpb.KV/Rang", "unknown method Rang for service etcdserverpb.KV"),
            (
                "/etcdserverpb.Maintenance/Fragment",
                "unknown method Fragment for service etcdserverpb.Maintenance",
            ),
            ("/v3lockpb.Lock/TryLock", "unknown method TryLock for service v3lockpb.Lock"),
            ("/a/b/c", "unknown service a/b"),
        ] {
            assert_eq!(Method::find(path), None);
            assert_eq!(no_such_method(path), Status::new(Code::Unimplemented, message));
        }
    }
}
