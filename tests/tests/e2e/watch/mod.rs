//! Watches: beside etcd's, under faults, and against clients that mean no good.

mod differential;
mod named;
mod promises;
mod shapes;
mod tools;

pub use differential::same_streams;
pub use named::{etcds_known_bugs, no_leader_ends_the_stream};
pub use promises::promises_hold_under_kills;
pub use shapes::{
    a_reader_that_stops, a_stream_of_many_watchers, requests_and_responses_are_etcds,
    ten_thousand_streams,
};
pub use tools::etcds_tools_work;
