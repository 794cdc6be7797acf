//! Streams of clients that would rather have none than one of a member without a leader.

use http::HeaderMap;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::coordinator::{Coordinator, RequestError};
use super::grpc::{Service, wants_leader};
use super::status::Status;

/// How many looks in a row may find no leader before a stream that wants one ends; etcd's maxNoLeaderCnt.
const LEADERLESS_LOOKS: u32 = 3;

/// Returns when this member has not had a leader for etcd's grace, with what a stream then ends with; never if its
/// client does not care. An election that goes well is shorter than that, and ends no stream.
pub(super) async fn lost<C: Coordinator>(service: &Service<C>, headers: &HeaderMap) -> Status {
    if !wants_leader(headers) {
        return std::future::pending().await;
    }
    let period = service.settings.election_timeout;
    let mut looks = interval_at(Instant::now() + period, period);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaderless = 0;
    while leaderless < LEADERLESS_LOOKS {
        looks.tick().await;
        let has_leader = service.coordinator.standing().leader != 0;
        leaderless = if has_leader { 0 } else { leaderless + 1 };
    }
    RequestError::NoLeader.into()
}
