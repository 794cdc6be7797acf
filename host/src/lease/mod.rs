//! The time of leases. Which leases there are is replicated state, and the machine's; how much of their time is left
//! is known to the member that leads, and to nobody else.
//!
//! ```text
//! apply thread ──rows of leases──> Keeper (timers) ──LeaseExpiry, LeaseCheckpoint, in this term only──> Shard ──> log
//! client runtime ──Leases──> raft's lease rounds ─┬─ this member leads: Keeper
//!                                                 └─ a follower: the leader's Keeper
//! ```
//!
//! Invariants:
//! - A lease is never revoked by its time unless the leader of that term decided it: the command means nothing in the
//!   log of another term, and nothing for a lease that was granted again.
//! - The keeper of a new leader begins when everything of earlier terms is applied, and gives every lease its time anew,
//!   or what the last checkpoint left of it, and the time of an election on top. It never shortens.
//! - A renewal counts only after a quorum has confirmed that this member leads in the term of its keeper; and when a
//!   checkpoint may have noted less time, only after the log has taken that back.
//! - Clocks are monotonic. Whether the wall clock jumps does not matter.
//!
//! It writes no state: whatever it decides is a proposal.

mod command;
mod keeper;
mod leases;
mod row;
#[cfg(test)]
mod tests;
mod timers;

pub use keeper::{Keeper, KeeperLinks};
pub use leases::Leases;
