//! The server `instar`.
//!
//! ```text
//! main > server > api > lease > raft > runtime > storage > config, limits
//! ```
//!
//! A module may use what stands to its right, never what stands to its left.

pub mod api;
pub mod config;
pub mod lease;
pub mod limits;
pub mod logging;
pub mod raft;
pub mod runtime;
pub mod server;
pub mod storage;
