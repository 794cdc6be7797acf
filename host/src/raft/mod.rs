//! Consensus: what is acknowledged is in the log of a majority, on disk, and applied in the same order everywhere.
//!
//! ```text
//! Shard (client runtime) -> Proposer -> openraft -> LogStore -> log thread (fsync)
//!                        -> ReadIndex     |  ^
//!                                         v  |  Network / PeerService
//! Shard <- apply thread <- StateMachine <-+  +--------------------------- peers
//! ```
//!
//! openraft and everything around it run on a runtime of their own (`Node`); the log and the applying have a thread
//! each. Only this module names openraft, and of its settings those in `node` that keep data safe are not to be
//! changed by anyone.

mod acknowledgements;
mod apply;
mod change_messages;
mod clock;
mod confirmer;
mod digests;
mod execution;
mod feed;
mod force_new_cluster;
mod gathering;
mod integrity;
mod join;
mod lease_rounds;
mod log_store;
mod log_thread;
mod machine_commands;
mod machine_keeper;
#[cfg(test)]
mod machine_tests;
mod membership;
mod membership_keeper;
mod migration;
mod module_commands;
mod module_execution;
mod module_keeper;
mod module_requests;
mod network;
mod node;
mod observer;
mod operations;
mod peer_service;
mod progress;
mod proposer;
mod read_index;
mod restored;
mod schema;
mod shadow;
mod shadow_comparison;
mod shard;
mod snapshot_stream;
mod state_machine;
#[cfg(test)]
mod tests;
mod types;
mod upkeep;
mod waiters;
mod wiring;

pub use apply::rebuild;
pub use digests::Verdict;
pub use feed::{Batches, EventBatch, EventFeed, WatchEvent, put_field};
pub use join::{JoinError, Joined, join, was_started_before};
pub use lease_rounds::{LeaseAnswer, LeaseAsk, LeaseRound, LeaseTime, LeaseTimes, PeerLeaseRound};
pub use machine_commands::{
    MachineDigest, blobs, component, name_of as machine_name, readiness, slots, with_host_tables,
};
pub use membership::{
    ChangePolicy, ChangeRefused, MemberRecord, MembershipChange, recorded_members,
};
pub use membership_keeper::ChangeError;
pub use module_commands::module_slots;
pub use network::OwnIdentity;
pub use node::{Ended, MoveLeaderError, Node, NodeOptions, StartError};
pub use observer::Observer;
pub use operations::answered as count_answered;
pub use progress::{Leadership, Progress};
pub use restored::{Restored, begin_restored};
pub use schema::check_successor;
pub use shadow::{Rehearsal, ShadowRefused};
pub use shard::Shard;

/// Why a request got no answer of the machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Nothing was proposed; to be tried again later.
    #[error("too many requests are under way")]
    TooManyRequests,
    /// No answer in time. A command may still be applied.
    #[error("the request timed out")]
    TimedOut,
    /// The leader was lost after it took the command in. It may or may not be applied.
    #[error("the leader was lost with the request under way")]
    LeaderLost,
    /// The connection to the leader broke with the command under way. It may or may not be applied.
    #[error("the connection to the leader was lost with the request under way")]
    ConnectionLost,
    /// The term that the command was meant for is over. It was not applied, and never will be.
    #[error("the term of the command is over")]
    TermOver,
    /// This member's state is not the cluster's. A command may still be applied by the others.
    #[error("this member's state differs from that of its peers")]
    Corrupt,
    /// This member is stopping.
    #[error("this member is stopping")]
    Stopped,
}
