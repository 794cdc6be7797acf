//! Runs state machines: components that follow the contract in `wit/`.
//!
//! The only module that names wasmtime. It owns the engine, the compiled machines and the warm instances that answer
//! queries; it owns no state of a cluster. What a machine returns is checked here, before anything is stored.
//!
//! - A failure of the machine ([`Fault`]) is the same on every replica and becomes an answer, a rejection.
//! - A failure of this member ([`LocalFailure`]) never becomes an answer.
//! - What an entry gives does not depend on the batch that it is applied in, nor on how old an instance is.
//!
//! It must not commit, propose, or know what a machine's bytes mean.

#![cfg_attr(feature = "native-guest", allow(dead_code, reason = "the component is not run"))]

mod abi;
mod apply;
mod cache;
mod compiler;
mod component;
mod engine;
mod error;
mod fuel;
mod host_state;
mod imports;
mod instance;
mod machine;
mod machines;
mod modules;
#[cfg(any(feature = "native-guest", test))]
#[cfg_attr(not(feature = "native-guest"), allow(dead_code, reason = "tests need a part of it"))]
mod native;
mod outcome;
mod reader;
#[cfg(test)]
mod tests;
mod types;
mod upkeep;

pub use apply::Spent;
pub use engine::ENVIRONMENT;
pub use error::{
    ApplyError, CallError, Fault, LocalFailure, QueryError, RuntimeError, UpkeepError,
};
pub use fuel::{Budget, Budgets};
#[cfg(not(feature = "native-guest"))]
pub use machine::{Machine, Runtime};
pub use machines::{ActiveReader, Machines};
pub use modules::{
    Access, Export, Journal, KeyValue, Keys, Line, Module, ModuleDescription, Moment, Operation,
    Page, Serves, TouchedKey, Work, Written,
};
#[cfg(feature = "native-guest")]
pub use native::{Machine, Reader, Runtime};
#[cfg(not(feature = "native-guest"))]
pub use reader::Reader;
pub use types::{
    Admission, Answer, Applied, Cost, Description, Entry, Outcome, Rejection, Route, RowRef,
};
pub use upkeep::{Commit, Migrated, Rehearsal};

/// The contract that this host supports.
pub const CONTRACT: &str = "instar:machine@1.0.0";
const CONTRACT_PACKAGE: &str = "instar:machine";
const CONTRACT_VERSION: &str = "1.0.0";

/// The KV machine, as built with this host.
pub const BUILT_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/machine.wasm"));
