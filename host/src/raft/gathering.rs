//! When proposals are worth sending: Nagle's algorithm (RFC 896) with a bound of time.
//!
//! A batch costs the log an fsync, every member a transaction and an instance of the machine, and each pair of members a
//! message, however few commands it has. So what comes while earlier batches are under way waits for the first of them to
//! end, for enough others to go with, or for `limits::GATHER_TIME`, whichever is first. A client that is alone never waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use super::proposer::Proposal;
use crate::limits;

/// The proposals that have not been sent yet.
#[derive(Default)]
pub struct Gathering {
    proposals: Vec<Proposal>,
    since: Option<Instant>,
    batches: Arc<Batches>,
}

/// The batches that are under way.
#[derive(Default)]
struct Batches {
    count: AtomicUsize,
    ended: Notify,
}

/// A batch on its way, until this is dropped.
pub struct UnderWay(Arc<Batches>);

impl Gathering {
    pub fn add(&mut self, proposals: Vec<Proposal>, now: Instant) {
        if proposals.is_empty() {
            return;
        }
        self.since.get_or_insert(now);
        if self.proposals.is_empty() {
            self.proposals = proposals;
        } else {
            self.proposals.extend(proposals);
        }
    }

    /// What there is, if it is worth sending.
    pub fn take(&mut self, now: Instant) -> Option<Vec<Proposal>> {
        let since = self.since?;
        let is_due = self.batches.count.load(Ordering::Acquire) == 0
            || self.proposals.len() >= limits::GATHERED_PROPOSALS
            || now.saturating_duration_since(since) >= limits::GATHER_TIME;
        is_due.then(|| {
            self.since = None;
            std::mem::take(&mut self.proposals)
        })
    }

    /// Counts a batch.
    pub fn sent(&self) -> UnderWay {
        self.batches.count.fetch_add(1, Ordering::AcqRel);
        UnderWay(self.batches.clone())
    }

    /// Waits until time alone makes it worth sending what there is, or a batch has ended; for ever while there is nothing.
    pub async fn changed(&self) {
        let Some(since) = self.since else { return std::future::pending().await };
        let due_at = tokio::time::Instant::from_std(since + limits::GATHER_TIME);
        tokio::select! {
            () = self.batches.ended.notified() => {}
            () = tokio::time::sleep_until(due_at) => {}
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::types::Command;

    fn proposals(count: usize, now: Instant) -> Vec<Proposal> {
        let proposal = || Proposal { command: Command::default(), deadline: now };
        std::iter::repeat_with(proposal).take(count).collect()
    }

    fn taken(gathering: &mut Gathering, now: Instant) -> Option<usize> {
        gathering.take(now).map(|batch| batch.len())
    }

    #[test]
    fn a_client_that_is_alone_does_not_wait() {
        let now = Instant::now();
        let mut gathering = Gathering::default();
        assert_eq!(taken(&mut gathering, now), None, "there is nothing");
        gathering.add(proposals(1, now), now);
        assert_eq!(taken(&mut gathering, now), Some(1));
        drop(gathering.sent());
        gathering.add(proposals(1, now), now);
        assert_eq!(taken(&mut gathering, now), Some(1), "the batch before has ended");
    }

    #[test]
    fn what_comes_while_a_batch_is_under_way_goes_together() {
        let now = Instant::now();
        let mut gathering = Gathering::default();
        let under_way = gathering.sent();
        gathering.add(proposals(1, now), now);
        gathering.add(proposals(2, now), now + limits::GATHER_TIME / 2);
        assert_eq!(taken(&mut gathering, now + limits::GATHER_TIME / 2), None);
        drop(under_way);
        assert_eq!(taken(&mut gathering, now + limits::GATHER_TIME / 2), Some(3));
    }

    #[test]
    fn enough_of_them_or_the_time_ends_the_wait() {
        let now = Instant::now();
        let mut gathering = Gathering::default();
        let _under_way = gathering.sent();
        gathering.add(proposals(limits::GATHERED_PROPOSALS, now), now);
        assert_eq!(taken(&mut gathering, now), Some(limits::GATHERED_PROPOSALS));
        gathering.add(proposals(1, now), now);
        assert_eq!(taken(&mut gathering, now), None);
        assert_eq!(taken(&mut gathering, now + limits::GATHER_TIME), Some(1));
    }

    #[tokio::test]
    async fn the_end_of_a_batch_and_the_time_are_told() {
        let now = Instant::now();
        let mut gathering = Gathering::default();
        let under_way = gathering.sent();
        gathering.add(proposals(1, now), now + Duration::from_secs(3_600));
        drop(under_way);
        gathering.changed().await;
        assert!(gathering.take(now).is_some());
        let _under_way = gathering.sent();
        gathering.add(proposals(1, now), now);
        gathering.changed().await;
        assert!(now.elapsed() >= limits::GATHER_TIME);
    }
}
