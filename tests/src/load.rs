//! Clients that work while members die, and remember what they were told.
//!
//! `ledger` writes as fast as it can, every key once, and can say afterwards whether a store has lost or
//! repeated anything. `recorder` writes histories for `check`: reads, writes and conditions on few keys.

mod ledger;
mod recorder;

pub use ledger::{Ledger, Tally};
pub use recorder::{Recorder, timeline};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::cluster::POLL_EVERY;

/// How long after a fault clients may go without an acknowledgement.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);
/// A client whose member does not answer pauses before it asks another.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// What running clients share with whoever runs them.
#[derive(Clone, Debug, Default)]
struct Control {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Control {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until `more` further requests have been acknowledged.
    async fn wait_progress(&self, more: u64) -> Result<()> {
        let before = self.acknowledged.load(Ordering::Relaxed);
        let started = std::time::Instant::now();
        while self.acknowledged.load(Ordering::Relaxed) < before + more {
            let waited = started.elapsed();
            ensure!(waited < PROGRESS_WITHIN, "no progress within {} s", waited.as_secs());
            tokio::time::sleep(POLL_EVERY).await;
        }
        Ok(())
    }
}
