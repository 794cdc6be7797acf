//! Compacts by itself, on etcd's schedule (server/etcdserver/api/v3compactor).
//!
//! Every member keeps the schedule, and only the leader acts on it: so a new leader knows what was when.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::machine_requests;
use crate::config::AutoCompaction;
use crate::raft::Node;
use crate::storage::Views;

/// The longest time between two periodic compactions.
const MOST_INTERVAL: Duration = Duration::from_secs(3600);
/// How often a revision is noted within that time.
const NOTES: u32 = 10;
/// How often the revision is looked at where a number of them is retained.
const REVISION_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// What the machine answers to a compaction of what is compacted already: OutOfRange.
const COMPACTED_CODE: u32 = 11;

/// Runs on raft's runtime as long as that lives.
pub async fn run(config: AutoCompaction, node: Arc<Node>, views: Views) {
    let began = Instant::now();
    let mut schedule = Schedule::new(config);
    loop {
        schedule.note(revision(&views));
        tokio::time::sleep(schedule.interval()).await;
        if !node.progress.is_leader() || node.progress.is_quarantined() {
            continue;
        }
        let Some(revision) = schedule.due(began.elapsed(), revision(&views)) else { continue };
        match node.propose(machine_requests::compact(revision)).await {
            Ok(outcome) => match outcome.response {
                Err(refusal) if refusal.code != COMPACTED_CODE => {
                    tracing::warn!(revision, error = refusal.message, "failed auto compaction");
                }
                _ => {
                    tracing::info!(revision, "completed auto compaction");
                    schedule.done(began.elapsed(), revision);
                }
            },
            Err(error) => tracing::warn!(revision, error = %error, "failed auto compaction"),
        }
    }
}

/// The revision that a fresh store has is 1.
fn revision(views: &Views) -> i64 {
    i64::try_from(views.latest().mark().revision).unwrap_or(i64::MAX).max(1)
}

/// What to compact, and when.
#[derive(Debug)]
enum Schedule {
    Periodic {
        period: Duration,
        /// The revisions noted within the last period, oldest first.
        notes: VecDeque<i64>,
        last_revision: i64,
        last_success: Duration,
        /// How long after the last success: the whole period the first time.
        pause: Duration,
    },
    Revision {
        retention: i64,
        last_revision: i64,
    },
}

impl Schedule {
    fn new(config: AutoCompaction) -> Self {
        match config {
            AutoCompaction::Periodic(period) => Schedule::Periodic {
                period,
                notes: VecDeque::new(),
                last_revision: 0,
                last_success: Duration::ZERO,
                pause: period,
            },
            AutoCompaction::Revision(retention) => {
                Schedule::Revision { retention, last_revision: 0 }
            }
        }
    }

    /// Between two looks.
    fn interval(&self) -> Duration {
        match self {
            Schedule::Periodic { period, .. } => (*period).min(MOST_INTERVAL) / NOTES,
            Schedule::Revision { .. } => REVISION_INTERVAL,
        }
    }

    /// To be told the revision before each wait.
    fn note(&mut self, revision: i64) {
        let interval = self.interval();
        if let Schedule::Periodic { period, notes, .. } = self {
            notes.push_back(revision);
            let most = period.as_nanos() / interval.as_nanos().max(1) + 1;
            if notes.len() as u128 > most {
                notes.pop_front();
            }
        }
    }

    /// The revision to compact now, if it is time.
    fn due(&mut self, now: Duration, revision: i64) -> Option<i64> {
        match self {
            Schedule::Periodic { period, notes, last_revision, last_success, pause } => {
                let revision = *notes.front()?;
                if now.saturating_sub(*last_success) < *pause || revision == *last_revision {
                    return None;
                }
                *pause = (*period).min(MOST_INTERVAL);
                Some(revision)
            }
            Schedule::Revision { retention, last_revision } => {
                let revision = revision - *retention;
                (revision > 0 && revision != *last_revision).then_some(revision)
            }
        }
    }

    fn done(&mut self, now: Duration, revision: i64) {
        match self {
            Schedule::Periodic { last_revision, last_success, .. } => {
                (*last_revision, *last_success) = (revision, now);
            }
            Schedule::Revision { last_revision, .. } => *last_revision = revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// What is compacted, and after how many intervals, if the revision is 10 times the number of the interval.
    fn run(mut schedule: Schedule, intervals: u32) -> Vec<(u32, i64)> {
        let mut compacted = Vec::new();
        for number in 0..intervals {
            schedule.note(i64::from(number) * 10 + 1);
            let now = schedule.interval() * (number + 1);
            if let Some(revision) = schedule.due(now, i64::from(number + 1) * 10 + 1) {
                compacted.push((number + 1, revision));
                schedule.done(now, revision);
            }
        }
        compacted
    }

    /// The figures are those of etcd's own tests (periodic_test.go).
    #[test]
    fn a_period_below_an_hour_is_kept() {
        let schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE));
        assert_eq!(schedule.interval(), MINUTE);
        assert_eq!(run(schedule, 35), [(10, 1), (20, 91), (30, 191)]);
    }

    #[test]
    fn a_longer_period_is_kept_with_a_compaction_an_hour() {
        let schedule = Schedule::new(AutoCompaction::Periodic(2 * 60 * MINUTE));
        assert_eq!(schedule.interval(), 6 * MINUTE);
        assert_eq!(run(schedule, 45), [(20, 1), (30, 91), (40, 191)]);
    }

    #[test]
    fn a_failure_is_repeated_after_an_interval() {
        let mut schedule = Schedule::new(AutoCompaction::Periodic(10 * MINUTE));
        for number in 0..10 {
            schedule.note(number + 1);
        }
        assert_eq!(schedule.due(10 * MINUTE, 0), Some(1));
        schedule.note(11);
        schedule.note(12);
        assert_eq!(schedule.due(11 * MINUTE, 0), Some(2));
    }

    #[test]
    fn nothing_new_is_nothing_to_do() {
        let mut schedule = Schedule::new(AutoCompaction::Revision(100));
        assert_eq!(schedule.interval(), 5 * MINUTE);
        assert_eq!(schedule.due(MINUTE, 100), None);
        assert_eq!(schedule.due(MINUTE, 130), Some(30));
        schedule.done(MINUTE, 30);
        assert_eq!(schedule.due(MINUTE, 130), None);
        assert_eq!(schedule.due(MINUTE, 131), Some(31));
    }
}
