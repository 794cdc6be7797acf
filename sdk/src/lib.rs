//! For writing modules: programs of your own that run beside the data, on every member, inside its transactions.
//!
//! A module implements [`Module`] for a type, says with [`export!`] which one, and is built as a `cdylib` for
//! `wasm32-unknown-unknown`. It writes only what it serves:
//!
//! - [`Module::call`]: procedures that clients call. What one writes is one revision, or nothing.
//! - [`Module::admit`]: sees what clients ask for under the module's prefixes, and may refuse it.
//! - [`Module::react`]: is told what happened there, and adds to it in the same revision.
//!
//! What it does must follow from its arguments and from what it reads through [`kv`] and [`store`] alone: every member
//! runs it on its own. There is no clock (see [`Moment::time_ms`]), no randomness, and nothing outlives a call but what
//! was written.
//!
//! Off WebAssembly the same functions work on a host in memory ([`testing::Host`]), so a module's tests are `cargo test`.

// The generated glue names this crate, wherever it is.
#[cfg(target_arch = "wasm32")]
extern crate self as instar_sdk;

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod component;
mod error;
pub mod kv;
pub mod log;
mod module;
pub mod store;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;

pub use error::{Code, Rejection};
pub use module::{Event, Module, Moment, Operation, Served, json};
