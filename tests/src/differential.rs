//! One stream of requests to two servers, whose answers must be equal field by field.
//!
//! `generator` draws requests from a seed, `call` sends them and makes answers comparable, `run` finds
//! the first difference, `shrink` the fewest requests that still show one. Requests name revisions
//! relative to the latest or the compacted one (`position`), so that they keep their meaning when
//! requests before them are left out.

mod call;
mod generator;
mod position;
mod run;
mod shrink;
mod ties;

pub use call::{Call, Message, Reply};
pub use generator::Generator;
pub use run::{Difference, EtcdEnded, Pair, Planted};
pub use shrink::shrink;
