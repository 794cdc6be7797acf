//! When each lease is over, on the member that leads. Time comes in from outside; nothing here waits.
//!
//! A renewal only moves a lease's deadline. The heap learns of it when it comes to the lease: it has an entry for each
//! lease, whose time is never later than the lease's deadline, and some for leases that are gone.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use super::row::LeaseRow;

/// After which time without a renewal what is left of a lease is noted in the log; etcd's checkpoint interval.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// Heap entries of leases that are gone, beyond as many as there are leases: then the heap is made anew.
const STALE_ENTRIES: usize = 1024;

/// What comes of a wish to renew a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It has so many seconds from now on.
    Renewed(i64),
    Unknown,
    /// Its time is over; it is being revoked.
    Expired,
    /// The log may have less time for it. To be taken back first, up to this checkpoint (`checkpoint_taken_back`).
    Checkpointed(u64),
}

#[derive(Debug)]
struct Timer {
    granted_index: u64,
    ttl_s: i64,
    deadline: Instant,
    /// Whether it is being revoked because it is over.
    taken: bool,
    /// When it was renewed last.
    renewed: Instant,
    /// Counts the checkpoints that were proposed, the one that the leader began with included.
    checkpoints: u64,
    /// Up to which of them the log has taken them back.
    taken_back: u64,
}

type Queue = BinaryHeap<Reverse<(Instant, i64)>>;

/// The timers of all leases, in one term of this member's leadership.
#[derive(Debug)]
pub struct Timers {
    pub term: u64,
    minimum_ttl_s: i64,
    leases: HashMap<i64, Timer>,
    deadlines: Queue,
    checkpoints: Queue,
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.max(0) as u64)
}

/// `base` and so much later; for all practical purposes never, if that is out of reach.
fn later(base: Instant, by: Duration) -> Instant {
    const CENTURIES: Duration = Duration::from_secs(10_000_000_000);
    base.checked_add(by.min(CENTURIES)).unwrap_or(base)
}

impl Timers {
    /// The timers of a leader that begins: every lease has its time anew, or what the last checkpoint left of it, and
    /// `extension` on top.
    pub fn begin(
        term: u64,
        minimum_ttl_s: i64,
        rows: &[LeaseRow],
        now: Instant,
        extension: Duration,
    ) -> Self {
        let mut timers = Self {
            term,
            minimum_ttl_s,
            leases: HashMap::with_capacity(rows.len()),
            deadlines: BinaryHeap::with_capacity(rows.len()),
            checkpoints: Queue::new(),
        };
        for row in rows {
            timers.insert(row, now, extension);
        }
        timers
    }

    fn insert(&mut self, row: &LeaseRow, now: Instant, extension: Duration) {
        // A member that was started with shorter elections may have granted it.
        let ttl_s = row.ttl_s.max(self.minimum_ttl_s);
        let left_s = if row.remaining_s > 0 { row.remaining_s.min(ttl_s) } else { ttl_s };
        let deadline = later(now, seconds(left_s) + extension);
        let timer = Timer {
            granted_index: row.granted_index,
            ttl_s,
            deadline,
            taken: false,
            renewed: now,
            checkpoints: u64::from(row.remaining_s > 0),
            taken_back: 0,
        };
        self.leases.insert(row.id, timer);
        self.deadlines.push(Reverse((deadline, row.id)));
        if seconds(left_s) > CHECKPOINT_INTERVAL {
            self.checkpoints.push(Reverse((later(now, CHECKPOINT_INTERVAL), row.id)));
        }
    }

    /// A lease was granted or checkpointed. Only a grant changes anything here.
    pub fn written(&mut self, row: &LeaseRow, now: Instant) {
        let known = self.leases.get(&row.id).map(|timer| timer.granted_index);
        if known != Some(row.granted_index) {
            self.insert(row, now, Duration::ZERO);
        }
    }

    /// A lease was revoked.
    pub fn removed(&mut self, id: i64) {
        self.leases.remove(&id);
        if self.deadlines.len() > 2 * self.leases.len() + STALE_ENTRIES {
            let entry = |(id, timer): (&i64, &Timer)| Reverse((timer.deadline, *id));
            self.deadlines = self.leases.iter().map(entry).collect();
        }
        if self.checkpoints.len() > 2 * self.leases.len() + STALE_ENTRIES {
            let mut entries = std::mem::take(&mut self.checkpoints).into_vec();
            entries.retain(|Reverse((_, id))| self.leases.contains_key(id));
            entries.sort_unstable_by_key(|Reverse((time, id))| (*id, *time));
            entries.dedup_by_key(|Reverse((_, id))| *id);
            self.checkpoints = entries.into();
        }
    }

    pub fn renew(&mut self, id: i64, now: Instant) -> Renewal {
        let Some(timer) = self.leases.get_mut(&id) else { return Renewal::Unknown };
        if timer.deadline <= now {
            return Renewal::Expired;
        }
        if timer.taken_back < timer.checkpoints {
            return Renewal::Checkpointed(timer.checkpoints);
        }
        timer.deadline = later(now, seconds(timer.ttl_s));
        timer.renewed = now;
        Renewal::Renewed(timer.ttl_s)
    }

    /// The log has taken back the checkpoints of a lease up to this one.
    pub fn checkpoint_taken_back(&mut self, id: i64, checkpoint: u64) {
        if let Some(timer) = self.leases.get_mut(&id) {
            timer.taken_back = timer.taken_back.max(checkpoint.min(timer.checkpoints));
        }
    }

    /// The whole seconds that a lease has left; below zero for one that is over and not revoked yet.
    pub fn remaining_s(&self, id: i64, now: Instant) -> Option<i64> {
        let timer = self.leases.get(&id)?;
        let left = timer.deadline.saturating_duration_since(now).as_secs();
        let over = now.saturating_duration_since(timer.deadline).as_secs();
        Some(left as i64 - over as i64)
    }

    /// Takes leases whose time is over, at most so many: ids, and the index that granted each. They cannot be renewed
    /// any more, and do not come again unless they are put back.
    pub fn take_expired(&mut self, now: Instant, most: usize) -> Vec<(i64, u64)> {
        let mut expired = Vec::new();
        while expired.len() < most
            && let Some(Reverse((time, id))) = self.deadlines.peek().copied()
            && time <= now
        {
            self.deadlines.pop();
            let Some(timer) = self.leases.get_mut(&id) else { continue };
            if timer.deadline > now {
                self.deadlines.push(Reverse((timer.deadline, id)));
            } else if !std::mem::replace(&mut timer.taken, true) {
                expired.push((id, timer.granted_index));
            }
        }
        expired
    }

    /// Puts leases back that were taken and could not be revoked.
    pub fn put_back(&mut self, leases: &[(i64, u64)], now: Instant) {
        for (id, granted_index) in leases {
            if let Some(timer) = self.leases.get_mut(id)
                && timer.granted_index == *granted_index
            {
                timer.taken = false;
                self.deadlines.push(Reverse((now, *id)));
            }
        }
    }

    /// Takes leases of which it is to be noted what they have left, at most so many: ids and seconds. They count as
    /// checkpointed from now on.
    pub fn take_checkpoints(&mut self, now: Instant, most: usize) -> Vec<(i64, i64)> {
        let mut due = Vec::new();
        while due.len() < most
            && let Some(Reverse((time, id))) = self.checkpoints.peek().copied()
            && time <= now
        {
            self.checkpoints.pop();
            let Some(timer) = self.leases.get_mut(&id) else { continue };
            if timer.deadline <= now {
                continue;
            }
            let quiet = later(timer.renewed, CHECKPOINT_INTERVAL);
            if quiet > now {
                self.checkpoints.push(Reverse((quiet, id)));
                continue;
            }
            let left = timer.deadline - now;
            let left_s = left.as_secs() as i64 + i64::from(left.subsec_nanos() > 0);
            if left_s < timer.ttl_s {
                timer.checkpoints += 1;
                due.push((id, left_s));
            }
            if left > CHECKPOINT_INTERVAL {
                self.checkpoints.push(Reverse((later(now, CHECKPOINT_INTERVAL), id)));
            }
        }
        due
    }

    /// When there is something to take next.
    pub fn next(&self) -> Option<Instant> {
        let first = |queue: &Queue| queue.peek().map(|Reverse((time, _))| *time);
        first(&self.deadlines).into_iter().chain(first(&self.checkpoints)).min()
    }
}
