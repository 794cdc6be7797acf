//! What clients reach: etcd's gRPC services and HTTP paths, on the same ports.
//!
//! ```text
//! listener -> serve (threads) -> connection -> grpc -> call (HTTP/2 stream) -> kv | services -> Coordinator
//!                                          \-> http1 -> health | debug | gateway -> grpc, in this process
//! ```
//!
//! - It holds no replicated state. Everything it knows it asks its `Coordinator` for.
//! - It does not decode requests that the state machine answers; it wraps them, and puts a header before responses.
//! - Whatever bytes a client sends: an error or back-pressure, never a panic, never memory without a limit.

mod call;
mod client_stream;
mod cluster;
mod concurrency;
mod connection;
mod coordinator;
mod debug;
mod descriptors;
mod election;
mod gateway;
mod grpc;
mod health;
mod http1;
mod joined_writes;
mod keepalive;
mod kv;
mod leadership;
mod lease;
mod listener;
mod lock;
mod machine;
mod maintenance;
mod module;
mod prefixed;
mod quota;
mod serve;
mod services;
mod status;
mod streams;
#[cfg(test)]
mod tests;
mod unread;
mod watch;
mod wire;

pub use coordinator::{
    Alarm, AlarmKind, Answered, Coordinator, MachineRequest, MemberInfo, ModuleRequest, NodeStatus,
    Proposed, RequestError, SnapshotFile, Standing,
};
pub use listener::{BindError, Listeners, Purpose};
pub use serve::{ServeError, Server, serve};

use crate::config::{GrpcConfig, HttpConfig};
use std::time::Duration;

/// What the API has to know of this member beside what its coordinator tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub cluster_id: u64,
    pub member_id: u64,
    /// The most bytes of a log entry that a client's request makes.
    pub max_request_bytes: u32,
    /// As the flag has it: 0 is etcd's default.
    pub quota_backend_bytes: i64,
    /// How often it is looked whether a stream that wants a leader still has one.
    pub election_timeout: Duration,
    pub http: HttpConfig,
    pub grpc: GrpcConfig,
    /// Shorter leases are granted this time.
    pub minimum_lease_ttl_s: i64,
    /// Whether clients may replace the machine.
    pub machine_upgrades: bool,
}
