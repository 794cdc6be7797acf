//! What goes into a machine and what comes out, in the host's own types.

use std::time::Duration;

use bytes::Bytes;

use super::Spent;
use crate::storage::{Overlay, TableId, TableSpec};

/// What a machine says of itself. Checked: see [`super::Runtime::load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub version: String,
    /// Of the durable rows.
    pub schema_version: u32,
    pub tables: Vec<TableSpec>,
}

/// One committed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position in the log.
    pub index: u64,
    /// Replicated time, in milliseconds; never lower than that of the entry before.
    pub time_ms: u64,
    pub command: Bytes,
}

/// A refusal: an answer, the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A gRPC status code, 1 to 16.
    pub code: u32,
    pub message: String,
}

/// Names a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRef {
    pub table: TableId,
    pub key: Bytes,
}

/// What an entry did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The response's body, without the header that the host puts before it.
    pub response: Result<Bytes, Rejection>,
    /// The state's revision after the entry.
    pub revision: u64,
    /// Durable rows that the entry wrote or removed, for watchers and timers, in order.
    pub events: Vec<RowRef>,
    /// Whether [`super::Reader::next_task`] has something to propose.
    pub task_pending: bool,
    /// XXH3-128 over the entry's writes, response, revision and events. Equal on all replicas.
    pub digest: u128,
    /// Whether the machine failed on the entry, and the host answered in its place.
    pub is_fault: bool,
}

/// What applying a batch gives.
pub struct Applied {
    /// The overlay, with the writes of all entries.
    pub overlay: Overlay,
    /// One an entry, in order.
    pub outcomes: Vec<Outcome>,
    /// To be dropped when nobody waits for the outcomes any more.
    pub spent: Spent,
    pub cost: Cost,
}

/// What a machine used to apply a batch. No answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cost {
    pub fuel: u64,
    pub time: Duration,
}

/// How a request is to be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Through the log.
    Write,
    /// By a query, on a state at least as new as the cluster's when the request arrived.
    Read,
    /// By a query, on whatever state this member has.
    LocalRead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    pub route: Route,
    /// Whether a query may touch many rows, and is to be run where it holds up nobody.
    pub heavy: bool,
}

/// The answer to a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The state's revision, for the header.
    pub revision: u64,
    pub body: Bytes,
    /// The query that gives the next message of a stream.
    pub next: Option<Bytes>,
}
