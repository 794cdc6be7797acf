//! What a member keeps: the raft log, the machine's tables, and the directory that they are in.
//!
//! Only this module names redb and imbl. The log and the state are reached through [`Backends`], so that tests can cut the power.
//!
//! Invariants:
//! - The rows of a batch and its [`Mark`] are one transaction.
//! - A [`View`] never changes, and shows derived and durable tables of the same moment.
//! - After the first error of a file nothing more is written to it.
//!
//! It knows nothing of what the rows mean, and nothing of raft but opaque bytes.

mod backend;
mod data_dir;
mod declared;
mod defragment;
mod error;
mod guard;
mod log;
mod mark;
mod overlay;
mod restoration;
mod row_set;
pub mod snapshot;
mod state;
mod state_file;
mod tables;
#[cfg(test)]
mod tests;
mod view;

pub use backend::{Backends, files};
pub use data_dir::{DataDir, DataDirError, Identity};
pub use defragment::Defragmentation;
pub use error::StorageError;
pub use log::{Log, LogBatch, LogReader, LogState};
pub use mark::{AppliedId, Mark};
pub use overlay::{Overlay, Writes};
pub use restoration::Restoration;
pub use state::State;
pub use tables::{TableId, TableKind, TableSpec, Tables};
pub use view::{View, Views};
