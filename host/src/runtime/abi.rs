//! The types of the contract (`wit/machine.wit`) as they cross the boundary. Nothing outside of `runtime` sees them.

#![expect(dead_code, reason = "cases that only generated code makes")]

use wasmtime::component::{ComponentType, Lift, Lower};

#[derive(Clone, Copy, PartialEq, Eq, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(super) enum TableKind {
    #[component(name = "durable")]
    Durable,
    #[component(name = "derived")]
    Derived,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct TableDescription {
    pub table: u32,
    pub name: String,
    pub kind: TableKind,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Description {
    pub name: String,
    pub version: String,
    #[component(name = "schema-version")]
    pub schema_version: u32,
    pub tables: Vec<TableDescription>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Entry {
    pub index: u64,
    #[component(name = "time-ms")]
    pub time_ms: u64,
    pub command: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Rejection {
    pub code: u32,
    pub message: String,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Row {
    pub table: u32,
    pub key: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Outcome {
    pub response: Result<Vec<u8>, Rejection>,
    pub revision: u64,
    pub events: Vec<Row>,
    #[component(name = "task-pending")]
    pub task_pending: bool,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Route {
    #[component(name = "write")]
    Write,
    #[component(name = "read")]
    Read,
    #[component(name = "local-read")]
    LocalRead,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(record)]
pub(super) struct Admission {
    pub route: Route,
    pub heavy: bool,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
pub(super) struct RequestLimits {
    pub operations: u32,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub(super) struct Answered {
    pub revision: u64,
    pub next: Option<Vec<u8>>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Progress {
    #[component(name = "more")]
    More(Vec<u8>),
    #[component(name = "done")]
    Done,
}

#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Page {
    pub rows: Vec<u8>,
    pub more: bool,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
pub(super) enum LogLevel {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}
