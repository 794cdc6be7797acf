//! The leader's errands for the machine: a compaction, for one, goes through the log step by step.
//!
//! One command at a time, the next when the last is applied, so that upkeep never takes more than its turn.

use std::sync::Arc;
use std::time::Duration;

use super::migration;
use super::progress::Progress;
use super::shard::Shard;
use crate::runtime::{ActiveReader, CallError, LocalFailure, QueryError};
use crate::storage::Views;

/// How often a leader with nothing to do looks again; what wakes it at once is an outcome that leaves work.
const IDLE_INTERVAL: Duration = Duration::from_millis(500);

/// The task that asks the machine for its next command. It runs on the raft runtime.
pub struct Upkeep {
    pub reader: ActiveReader,
    pub views: Views,
    pub progress: Arc<Progress>,
    /// A shard of its own, whose runtime is raft's.
    pub shard: Arc<Shard>,
}

impl Upkeep {
    pub async fn run(mut self) {
        let mut pending = self.progress.subscribe_task_pending();
        loop {
            // By turns, so that neither waits for the other's end.
            if self.progress.is_leader() && (self.migrate().await | self.step().await) {
                continue;
            }
            tokio::select! {
                changed = pending.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(IDLE_INTERVAL) => {}
            }
        }
    }

    /// Proposes one step of the rows' way to another schema; false if there is none, or it did not come through.
    async fn migrate(&self) -> bool {
        let proposed = migration::propose_step(&self.views, &self.shard).await;
        proposed.unwrap_or_else(|error| {
            self.progress.fail(error.to_string());
            false
        })
    }

    /// Proposes one command; false if there is none, or it did not come through.
    async fn step(&mut self) -> bool {
        match self.reader.next_task(&self.views.latest()) {
            Ok(Some(command)) => match self.shard.propose(command).await {
                Ok(_) => true,
                Err(error) => {
                    tracing::debug!(error = %error, "the machine's upkeep has to wait");
                    false
                }
            },
            Ok(None) => false,
            Err(QueryError::Failed(CallError::Local(LocalFailure::Storage(error)))) => {
                self.progress.fail(error.to_string());
                false
            }
            Err(error) => {
                tracing::warn!(error = %error, "the machine cannot say what upkeep it needs");
                false
            }
        }
    }
}
