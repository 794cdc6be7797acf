//! Replicated time.
//!
//! The leader stamps entries with the last applied time plus its own monotonic elapsed time. No wall clock is read: a
//! time means something only beside another time of the same log.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

/// The time of the log, carried on by this process's monotonic clock.
#[derive(Debug)]
pub struct ReplicatedClock {
    started: Instant,
    /// Replicated time less elapsed time, in milliseconds.
    offset_ms: AtomicI64,
}

impl ReplicatedClock {
    /// A clock that stands at the time of the last applied entry.
    pub fn starting_at(time_ms: u64) -> Self {
        Self { started: Instant::now(), offset_ms: AtomicI64::new(time_ms as i64) }
    }

    pub fn now_ms(&self) -> u64 {
        (self.offset_ms.load(Ordering::Acquire) + self.elapsed_ms()).max(0) as u64
    }

    /// Told of the time of an applied entry; the clock never goes back.
    pub fn observe(&self, time_ms: u64) {
        self.offset_ms.fetch_max(time_ms as i64 - self.elapsed_ms(), Ordering::AcqRel);
    }

    fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_from_what_was_applied_and_never_back() {
        let clock = ReplicatedClock::starting_at(5_000);
        assert!(clock.now_ms() >= 5_000);
        clock.observe(9_000);
        assert!(clock.now_ms() >= 9_000);
        clock.observe(100);
        assert!(clock.now_ms() >= 9_000);
    }
}
