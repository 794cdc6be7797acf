//! The server `instar`.
//!
//! ```text
//! main > server > api > watch, lease > raft > runtime > storage > metrics > logging > config, limits
//! ```
//!
//! A module may use what stands to its right, never what stands to its left.

pub mod api;
pub mod config;
pub mod lease;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod raft;
pub mod runtime;
pub mod server;
pub mod storage;
pub mod watch;
