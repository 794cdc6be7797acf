//! Watches: who is told of what has changed, in order, once, and without end.
//!
//! ```text
//! apply thread ── EventFeed, one hand-off a batch ──> Hub (one a client runtime) ──> outbox of a stream ──> api::watch
//!                                                      └ catch-up: recent batches, or pages from the storage
//! ```
//!
//! A watcher is *synced* while the hub tells it of every batch as it comes. One that begins in the past, or whose stream
//! has no room, is *lagging*: it is told of what it missed from the recent batches, or from the storage by queries off
//! the write path, and joins the others when nothing is missing. While its stream has no room it is *stalled*.
//!
//! Invariants:
//! - `Watcher::next` is the first revision that its stream's outbox does not cover yet. It never goes back, and moves
//!   by whole revisions: so nothing is lost, repeated or torn, whatever way a revision comes.
//! - `Hub` promises a revision as progress only when the outbox covers it for every watcher that the promise is for.
//! - What waits for a stream is bounded; what a stream cannot take is not kept for it, but read again later.
//!
//! It must not hold up the apply thread, and knows nothing of gRPC.

mod catch_up;
mod hub;
mod interest;
mod intervals;
mod stream;
#[cfg(test)]
mod tests;
mod watcher;

pub use hub::{History, HistoryError, Hub, WatchStream};
pub use stream::WatchMessage;
pub use watcher::WatchRequest;
