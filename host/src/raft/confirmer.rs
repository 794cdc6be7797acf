//! Asks a quorum whether this member still leads.
//!
//! There is one question at a time, whoever asks: this member's reads, those of its peers, leases. Who asks while one is
//! under way shares the next, which begins after he asked; an answer to an earlier question would prove nothing to him.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::raft::linearizable_read::LinearizerOption;
use tokio::sync::oneshot;

use super::types::Raft;

/// How long a quorum has to answer; etcd's `readIndexRetryTime`.
const WAIT_TIMEOUT: Duration = Duration::from_millis(500);

/// That this member leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    pub term: u64,
    /// What has to be applied where a linearizable read is answered; never older than the leader's first entry.
    pub index: u64,
}

/// To be used on the raft runtime.
pub struct Confirmer {
    raft: Raft,
    questions: Mutex<Questions>,
}

#[derive(Default)]
struct Questions {
    waiting: Vec<oneshot::Sender<Option<Confirmed>>>,
    /// Whether somebody sees to those that wait.
    asking: bool,
}

impl Confirmer {
    pub fn new(raft: Raft) -> Self {
        Self { raft, questions: Mutex::default() }
    }

    /// None if a quorum did not confirm it, in time or at all.
    pub async fn confirm(self: &Arc<Self>) -> Option<Confirmed> {
        let (reply, answer) = oneshot::channel();
        let asking = {
            let mut questions = self.questions();
            questions.waiting.push(reply);
            std::mem::replace(&mut questions.asking, true)
        };
        if !asking {
            // Not by the caller itself, who may give up while others wait.
            tokio::spawn(self.clone().ask());
        }
        answer.await.ok().flatten()
    }

    async fn ask(self: Arc<Self>) {
        loop {
            let waiting = {
                let mut questions = self.questions();
                questions.asking = !questions.waiting.is_empty();
                std::mem::take(&mut questions.waiting)
            };
            if waiting.is_empty() {
                return;
            }
            let confirmed = self.ask_once().await;
            for reply in waiting {
                // Who has given up listens no longer.
                let _ = reply.send(confirmed);
            }
        }
    }

    async fn ask_once(&self) -> Option<Confirmed> {
        let option = LinearizerOption::from(ReadPolicy::ReadIndex).with_wait_timeout(WAIT_TIMEOUT);
        match self.raft.get_read_linearizer(option).await {
            Ok(linearizer) => {
                let read_log_id = linearizer.read_log_id().log_id();
                Some(Confirmed { term: read_log_id.leader_id.term, index: read_log_id.index })
            }
            Err(error) => {
                tracing::debug!(error = %error, "leadership was not confirmed");
                None
            }
        }
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
