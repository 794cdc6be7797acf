//! Brings proposals into the log: here when this member leads, through the leader when it does not.
//!
//! A command is tried again only while it is certain that no log has it. As soon as a peer may have taken it in, its
//! waiter gets the outcome from the apply thread, or an error that says that the outcome is unknown: so nothing is
//! ever applied twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::raft::WriteResult;
use tokio::sync::{Semaphore, mpsc};

use super::RequestError;
use super::clock::ReplicatedClock;
use super::gathering::{Gathering, UnderWay};
use super::network::Peers;
use super::progress::Progress;
use super::shard::Shards;
use super::types::{Command, Raft, TypeConfig};
use crate::limits;

/// How long a proposal that nobody could take waits before it is tried again.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// A command on its way to the log.
#[derive(Debug)]
pub struct Proposal {
    pub command: Command,
    /// When its waiter gives up; after that it must not be proposed any more.
    pub deadline: Instant,
}

/// What went wrong with a command that was handed to openraft.
#[derive(Debug)]
pub enum Failure {
    /// It never was in the log.
    NotAppended(Command),
    /// It never left this member.
    NotSent(Proposal),
    /// It was in this member's log, and another leader's log replaced it. It may have been committed before.
    Unknown(Command),
}

impl Failure {
    /// Success needs no telling: the outcome takes its own way back, from the apply thread.
    fn of_write(command: Command, result: WriteResult<TypeConfig>) -> Option<Self> {
        match result {
            Ok(_) => None,
            Err(ClientWriteError::ForwardToLeader(_)) => Some(Self::NotAppended(command)),
            Err(_) => Some(Self::Unknown(command)),
        }
    }
}

/// The task that proposes. It runs on the raft runtime.
pub struct Proposer {
    pub raft: Raft,
    pub peers: Arc<Peers>,
    pub progress: Arc<Progress>,
    pub clock: Arc<ReplicatedClock>,
    pub shards: Arc<Shards>,
    pub request_timeout: Duration,
}

impl Proposer {
    /// Runs until every sender of proposals is gone.
    pub async fn run(self, mut proposals: mpsc::Receiver<Vec<Proposal>>) {
        let (failures, mut failed) = mpsc::unbounded_channel();
        let forwards = Arc::new(Semaphore::new(limits::FORWARDED_BATCHES));
        let mut parked: Vec<Proposal> = Vec::new();
        let mut retry_at = Instant::now();
        let mut gathering = Gathering::default();
        loop {
            let mut received = Vec::new();
            tokio::select! {
                proposed = proposals.recv() => match proposed {
                    Some(proposed) => received = proposed,
                    None => return,
                },
                Some(failure) = failed.recv() => parked.extend(self.retry(failure)),
                () = tokio::time::sleep_until(retry_at.into()), if !parked.is_empty() => {
                    received = std::mem::take(&mut parked);
                }
                () = gathering.changed() => {}
            }
            while let Ok(more) = proposals.try_recv() {
                received.extend(more);
            }
            while let Ok(failure) = failed.try_recv() {
                parked.extend(self.retry(failure));
            }
            let now = Instant::now();
            gathering.add(received, now);
            let Some(mut batch) = gathering.take(now) else { continue };
            batch.retain(|proposal| proposal.deadline > now);
            let unsent = self.route(batch, gathering.sent(), &failures, &forwards).await;
            if retry_at <= now {
                retry_at = now + RETRY_DELAY;
            }
            parked.extend(unsent);
        }
    }

    /// Sends the batch where it can be proposed. What comes back could not be sent anywhere yet.
    async fn route(
        &self,
        batch: Vec<Proposal>,
        under_way: UnderWay,
        failures: &mpsc::UnboundedSender<Failure>,
        forwards: &Arc<Semaphore>,
    ) -> Vec<Proposal> {
        if batch.is_empty() {
            return batch;
        }
        if self.raft.is_leader() {
            self.propose(batch, under_way, failures).await;
            return Vec::new();
        }
        let leader_id =
            self.progress.leader_id().filter(|leader_id| *leader_id != self.peers.own_id());
        let (Some(leader_id), Ok(permit)) = (leader_id, forwards.clone().try_acquire_owned())
        else {
            return batch;
        };
        let (peers, shards) = (self.peers.clone(), self.shards.clone());
        let failures = failures.clone();
        tokio::spawn(async move {
            forward(&peers, &shards, leader_id, batch, &failures).await;
            drop((permit, under_way));
        });
        Vec::new()
    }

    async fn propose(
        &self,
        batch: Vec<Proposal>,
        under_way: UnderWay,
        failures: &mpsc::UnboundedSender<Failure>,
    ) {
        let under_way = Arc::new(under_way);
        let time_ms = self.clock.now_ms();
        let mut rest = batch;
        while !rest.is_empty() {
            let behind = rest.split_off(chunk_length(&rest));
            let commands =
                rest.into_iter().map(|Proposal { command, .. }| Command { time_ms, ..command });
            let commands: Vec<Command> = commands.collect();
            // openraft runs its whole engine once a message: so one message for all, not one each.
            let Ok(results) = self.raft.client_write_many(commands.clone()).await else {
                // openraft has stopped; `node` ends the process, and says why.
                return;
            };
            tokio::spawn(report_failures(commands, results, failures.clone(), under_way.clone()));
            rest = behind;
        }
    }

    /// What is to be tried again after a failure.
    fn retry(&self, failure: Failure) -> Option<Proposal> {
        match failure {
            // A waiter that is gone by then makes the command no less valid: it was never refused.
            Failure::NotAppended(command) => {
                Some(Proposal { command, deadline: Instant::now() + self.request_timeout })
            }
            Failure::NotSent(proposal) => Some(proposal),
            Failure::Unknown(command) => {
                self.shards.fail([command.origin], RequestError::LeaderLost);
                None
            }
        }
    }
}

/// Gives back the commands of one message that came to nothing; they may still be worth another try.
async fn report_failures(
    commands: Vec<Command>,
    mut results: BoxStream<'static, Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>>,
    failures: mpsc::UnboundedSender<Failure>,
    _under_way: Arc<UnderWay>,
) {
    for command in commands {
        // Without results openraft has stopped, and the waiters are told so.
        let Some(Ok(result)) = results.next().await else { return };
        if let Some(failure) = Failure::of_write(command, result) {
            drop(failures.send(failure));
        }
    }
}

/// Hands a batch to the leader. Proposals that it certainly did not take in are returned as failures to be retried.
async fn forward(
    peers: &Peers,
    shards: &Shards,
    leader_id: u64,
    mut batch: Vec<Proposal>,
    failures: &mpsc::UnboundedSender<Failure>,
) {
    while !batch.is_empty() {
        let rest = batch.split_off(chunk_length(&batch));
        let commands: Vec<&Command> = batch.iter().map(|proposal| &proposal.command).collect();
        match peers.propose(leader_id, &commands).await {
            Ok(true) => {}
            Ok(false) => retry_later(batch, failures),
            Err(error) if error.was_never_sent() => retry_later(batch, failures),
            Err(error) => {
                tracing::warn!(error = %error, leader = format!("{leader_id:x}"), "cannot forward proposals");
                shards.fail(
                    batch.iter().map(|proposal| proposal.command.origin),
                    RequestError::ConnectionLost,
                );
            }
        }
        batch = rest;
    }
}

fn retry_later(batch: Vec<Proposal>, failures: &mpsc::UnboundedSender<Failure>) {
    for proposal in batch {
        drop(failures.send(Failure::NotSent(proposal)));
    }
}

/// How many of the commands fit into one message; at least one.
fn chunk_length(batch: &[Proposal]) -> usize {
    let mut bytes = 0;
    let fits = |proposal: &&Proposal| {
        bytes += proposal.command.request.len();
        bytes <= limits::APPEND_REQUEST_BYTES
    };
    batch.iter().take_while(fits).count().max(1)
}
