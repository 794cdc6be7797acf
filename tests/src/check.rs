//! Judges histories of concurrent clients of a key-value store.
//!
//! `watches` judges what watchers were told. `history` is what clients recorded and what the store says its keys were at each revision. `witness`
//! takes the revisions as the order in which everything happened and verifies that this order explains
//! every answer: fast, and complete for as long as revisions are told. `search` looks for any order at
//! all, in small histories, without believing revisions; it is there to check the witness check. `leases` judges what
//! was seen of leases.

mod history;
pub mod leases;
mod search;
mod watches;
mod witness;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

pub use history::{
    Action, Condition, Effect, History, Operation, Outcome, Row, Rows, Timeline, Write,
};
pub use search::is_linearizable;
pub use watches::{Broken, Change, Session, Sight, check_watch};
pub use witness::{Violation, check};
