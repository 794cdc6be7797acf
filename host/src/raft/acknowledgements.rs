//! Which acknowledgements of an append stream are told to openraft.
//!
//! openraft counts an acknowledgement of entry X for every request that ends at or before X, and takes the time at
//! which the last of them was sent for a sign of life of the peer. A request without entries, which only tells a new
//! commit index, ends where the request before it ended: the answer to the earlier one would vouch for the later
//! one, which the peer may never have seen. A leader that was paused between the two could so confirm a read with an
//! answer from before its pause, while another leader writes.
//!
//! So an answer is passed on only if the next request that waits for one ends behind it. What is held back is said by
//! the answer to that next request, which vouches for both.
//!
//! Invariant: requests and answers are looked at in the order in which openraft makes and gets them. The raft runtime
//! has one thread, and openraft takes an answer into account without giving that thread away, so no request is made
//! in between.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::types::LogId;

/// The requests of one append stream that wait for their answers, by where they end.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    ends: Mutex<VecDeque<Option<LogId>>>,
}

impl Acknowledgements {
    /// A request was made; `end` is its last entry, or the one it follows if it has none.
    pub fn expect(&self, end: Option<LogId>) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).push_back(end);
    }

    /// The answer to the oldest request has come, and acknowledges what ends at `matching`. Whether openraft may hear
    /// of it.
    pub fn settle(&self, matching: Option<LogId>) -> bool {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.pop_front();
        ends.front().is_none_or(|next| *next > matching)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::LeaderId;

    fn entry(index: u64) -> Option<LogId> {
        Some(LogId { leader_id: LeaderId { term: 1, node_id: 1 }, index })
    }

    /// `linearizability::under_kills_and_pauses`, seed 10377112633558014431: a linearizable read through a member that
    /// had been paused answered with revision 950 after another had answered with 952. The answer to a request from
    /// before the pause vouched for one that told a commit index after it, and so confirmed a leader of old.
    #[test]
    fn an_old_answer_does_not_vouch_for_a_later_request() {
        let requests = Acknowledgements::default();
        requests.expect(entry(7));
        requests.expect(entry(7));
        assert!(!requests.settle(entry(7)), "the second request is not answered");
        assert!(requests.settle(entry(7)));
    }

    #[test]
    fn entries_are_acknowledged_one_request_after_the_other() {
        let requests = Acknowledgements::default();
        requests.expect(None);
        requests.expect(entry(3));
        requests.expect(entry(5));
        assert!(requests.settle(None));
        assert!(requests.settle(entry(3)));
        assert!(requests.settle(entry(5)));
    }

    #[test]
    fn an_answer_that_says_more_than_was_asked_waits_for_all_it_covers() {
        let requests = Acknowledgements::default();
        requests.expect(entry(3));
        requests.expect(entry(5));
        assert!(!requests.settle(entry(5)));
        assert!(requests.settle(entry(5)));
    }
}
