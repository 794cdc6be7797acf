//! The one place where replicated state changes.
//!
//! A thread of its own takes committed entries in batches: one run of the machine, one storage transaction, one
//! hand-off of the answers. Nothing is compiled here, no snapshot is written, and the disk is waited for only where
//! state is made durable.
//!
//! Invariants:
//! - Rows, applied id, membership, machine and digest of a batch are one transaction.
//! - Whoever is told of an applied index, or of an outcome, finds it in the latest view.
//! - What fails here without being an answer of the machine stops the applying for good: openraft gets an error, and
//!   the process ends.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::entry::EntryPayload;
use proto::instar::log::Slots;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::Xxh3;

use super::RequestError;
use super::clock::ReplicatedClock;
use super::digests::{Digest, Digests};
use super::execution::Execution;
use super::feed::{self, EventFeed};
use super::membership::AppliedMembership;
use super::module_execution::ActiveModules;
use super::observer::Observer;
use super::operations;
use super::progress::{Expelled, Progress};
use super::shadow::Shadows;
use super::shard::Shards;
use super::types::{Command, Entry, Origin, StoredMembership};
use crate::limits;
use crate::metrics::metrics;
use crate::runtime::{self, Applied, Machine, Machines, Outcome, UpkeepError};
use crate::storage::{AppliedId, Defragmentation, Mark, State, View, snapshot};

/// How long applied entries may wait until the state on disk covers them. The log has them meanwhile.
const DURABLE_INTERVAL: Duration = Duration::from_millis(500);
/// What takes longer counts as slow: etcd's `DefaultWarningApplyDuration`.
const SLOW_APPLY: Duration = Duration::from_millis(100);
/// How many entries may wait for it.
const DURABLE_ENTRIES: u64 = 5_000;

/// What the apply thread can be asked to do.
pub enum ApplyTask {
    Apply {
        entries: Vec<Entry>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Brings everything applied to disk, and gives the view that is there now.
    MakeDurable {
        done: oneshot::Sender<io::Result<Arc<View>>>,
    },
    /// Replaces the state by that of a snapshot file.
    Install {
        path: PathBuf,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// The same, for a member that has taken itself out of service: the snapshot must not be older than what it has
    /// passed over since.
    Reinstall {
        path: PathBuf,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// See `storage`'s own description.
    BeginDefragment {
        done: oneshot::Sender<io::Result<Defragmentation>>,
    },
    FinishDefragment {
        work: Defragmentation,
        done: oneshot::Sender<io::Result<()>>,
    },
}

/// A handle to the thread, which ends when the last handle is gone.
#[derive(Clone)]
pub struct ApplyThread {
    tasks: SyncSender<ApplyTask>,
}

impl ApplyThread {
    pub fn start(applier: Applier) -> io::Result<(Self, JoinHandle<()>)> {
        let (sender, receiver) = mpsc::sync_channel(limits::APPLY_TASKS);
        let handle = std::thread::Builder::new()
            .name("apply".into())
            .spawn(move || applier.run(&receiver))?;
        Ok((Self { tasks: sender }, handle))
    }

    pub async fn apply(&self, entries: Vec<Entry>) -> io::Result<()> {
        self.ask(|done| ApplyTask::Apply { entries, done }).await
    }

    pub async fn make_durable(&self) -> io::Result<Arc<View>> {
        self.ask(|done| ApplyTask::MakeDurable { done }).await
    }

    pub async fn install(&self, path: PathBuf) -> io::Result<()> {
        self.ask(|done| ApplyTask::Install { path, done }).await
    }

    pub async fn reinstall(&self, path: PathBuf) -> io::Result<()> {
        self.ask(|done| ApplyTask::Reinstall { path, done }).await
    }

    pub async fn begin_defragment(&self) -> io::Result<Defragmentation> {
        self.ask(|done| ApplyTask::BeginDefragment { done }).await
    }

    pub async fn finish_defragment(&self, work: Defragmentation) -> io::Result<()> {
        self.ask(|done| ApplyTask::FinishDefragment { work, done }).await
    }

    async fn ask<T>(
        &self,
        task: impl FnOnce(oneshot::Sender<io::Result<T>>) -> ApplyTask,
    ) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let stopped = || io::Error::new(io::ErrorKind::BrokenPipe, "the apply thread has stopped");
        self.tasks.send(task(done)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

/// What the apply thread owns.
pub struct Applier {
    pub own_id: u64,
    pub state: State,
    pub machine: Machine,
    pub machines: Arc<Machines>,
    /// Which machines run, as the state has it.
    pub slots: Slots,
    pub modules: ActiveModules,
    pub shards: Arc<Shards>,
    pub progress: Arc<Progress>,
    pub clock: Arc<ReplicatedClock>,
    pub feed: Arc<EventFeed>,
    /// Up to which index the state on disk covers the log (`log_store` purges no further).
    pub durable_applied_index: Arc<AtomicU64>,
    pub observers: Vec<Arc<dyn Observer>>,
    pub digests: Arc<Digests>,
    pub shadows: Arc<Shadows>,
    /// The last entry that was passed over, because this member is out of service.
    pub passed_over_index: u64,
}

/// What is applied but not on disk yet.
#[derive(Default)]
struct Volatile {
    entries: u64,
    since: Option<Instant>,
}

impl Applier {
    fn run(mut self, tasks: &Receiver<ApplyTask>) {
        let mut volatile = Volatile::default();
        loop {
            let wait = volatile
                .since
                .map_or(Duration::MAX, |since| DURABLE_INTERVAL.saturating_sub(since.elapsed()));
            match tasks.recv_timeout(wait.min(Duration::from_secs(3600))) {
                Ok(task) => self.carry_out(task, &mut volatile),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let due = volatile.entries >= DURABLE_ENTRIES
                || volatile.since.is_some_and(|since| since.elapsed() >= DURABLE_INTERVAL);
            if due && let Err(error) = self.make_durable(&mut volatile) {
                // Every later task fails with the same error, and openraft stops over it.
                tracing::error!(error = %error, "cannot write the state; this member stops applying");
                volatile = Volatile::default();
            }
        }
        if let Err(error) = self.make_durable(&mut volatile) {
            tracing::error!(error = %error, "cannot write the state at the end; it will be applied again from the log");
        }
    }

    fn carry_out(&mut self, task: ApplyTask, volatile: &mut Volatile) {
        match task {
            ApplyTask::Apply { entries, done } => {
                volatile.entries += entries.len() as u64;
                volatile.since.get_or_insert_with(Instant::now);
                drop(done.send(self.apply(entries)));
            }
            ApplyTask::MakeDurable { done } => {
                drop(done.send(self.make_durable(volatile).map(|()| self.state.view())));
            }
            ApplyTask::Install { path, done } => {
                *volatile = Volatile::default();
                drop(done.send(self.install(&path)));
            }
            ApplyTask::Reinstall { path, done } => {
                *volatile = Volatile::default();
                drop(done.send(self.reinstall(&path)));
            }
            ApplyTask::BeginDefragment { done } => {
                drop(done.send(self.state.begin_defragment().map_err(io::Error::other)));
            }
            ApplyTask::FinishDefragment { work, done } => {
                let finished = self.finish_defragment(work, volatile);
                drop(done.send(finished));
            }
        }
    }

    pub(super) fn apply(&mut self, mut entries: Vec<Entry>) -> io::Result<()> {
        if self.progress.is_quarantined() {
            self.pass_over(&entries);
            return Ok(());
        }
        // A snapshot that was reinstalled may be ahead of what raft has handed out.
        let covered = self.state.view().mark().applied.map(|applied| applied.index);
        if entries.first().is_some_and(|first| Some(first.log_id.index) <= covered) {
            let (before, behind) =
                entries.into_iter().partition(|entry| Some(entry.log_id.index) <= covered);
            entries = behind;
            self.fail_waiters(&before, &RequestError::LeaderLost);
            if entries.is_empty() {
                return Ok(());
            }
        }
        metrics().apply_batch_entries.observe(entries.len() as f64);
        while !entries.is_empty() {
            let began = Instant::now();
            let timer = metrics().guest_apply_seconds.start_timer();
            let execution = self.execute(&entries)?;
            timer.observe_duration();
            let behind = entries.split_off(execution.entries);
            self.commit(&entries, execution)?;
            if began.elapsed() > SLOW_APPLY {
                metrics().operations.slow_applies.inc_by(entries.len() as u64);
            }
            entries = behind;
        }
        Ok(())
    }

    /// Makes part of the state what these entries, all of them, did.
    fn commit(&mut self, entries: &[Entry], execution: Execution) -> io::Result<()> {
        let Execution { commands, applied, switch, modules, .. } = execution;
        let Applied { overlay, outcomes, spent, cost } = applied;
        let view = self.state.view();
        let mut mark = view.mark().clone();
        let keys = view.table_named(feed::KEYS);
        drop(view);
        let digests = advance(&mut mark, entries, &commands, &outcomes);
        let membership = self.membership_after(entries);
        if let Some(membership) = &membership {
            mark.membership = membership.encode();
        }
        let machine = switch.as_ref().map_or(&self.machine, |(machine, _)| machine);
        mark.machine = machine.digest();
        // Before the commit, whose view is the first that this machine's readers are given.
        let tables = &machine.description().tables;
        self.state.declare(tables).map_err(io::Error::other)?;
        let task_pending = outcomes.last().map(|outcome| outcome.task_pending);
        let applied_index = mark.applied.map_or(0, |applied| applied.index);
        let (time_ms, revision) = (mark.time_ms, mark.revision);
        let events = self.feed.collect(&overlay, keys, &outcomes);
        let writes = overlay.into_writes();
        self.show(entries, &commands, (&outcomes, &writes), cost);
        let timer = metrics().state_commit_seconds.start_timer();
        self.state.commit(writes, mark).map_err(io::Error::other)?;
        timer.observe_duration();
        if let Some((machine, slots)) = switch {
            self.switch(machine, slots);
        }
        if let Some(modules) = modules {
            self.modules = modules;
        }

        operations::applied(&commands, &outcomes, keys);
        self.feed.publish(revision, events);
        self.clock.observe(time_ms);
        if let Some(membership) = membership {
            self.tell_membership(membership);
        }
        for observer in &self.observers {
            observer.applied(&self.state.view(), &outcomes);
        }
        self.digests.record(digests);
        self.progress.set_applied(applied_index, task_pending);
        let origins = entries.iter().filter_map(command_of).map(|command| command.origin);
        self.shards.complete(origins.zip(outcomes.into_iter().map(Ok)));
        self.shards.fail(entries.iter().filter_map(out_of_term), RequestError::TermOver);
        drop(spent);
        self.machine.make_spare();
        Ok(())
    }

    /// Entries that this member keeps in its log, but must not apply: its state is not the one that they are for.
    fn pass_over(&mut self, entries: &[Entry]) {
        if let Some(last) = entries.last() {
            self.passed_over_index = last.log_id.index;
        }
        self.fail_waiters(entries, &RequestError::Corrupt);
    }

    fn fail_waiters(&self, entries: &[Entry], error: &RequestError) {
        let origins = entries.iter().filter_map(command_of).map(|command| command.origin);
        self.shards.fail(origins, error.clone());
        self.shards.fail(entries.iter().filter_map(out_of_term), RequestError::TermOver);
    }

    /// The membership that the entries lead to; none if they leave it as it is.
    fn membership_after(&self, entries: &[Entry]) -> Option<AppliedMembership> {
        let mut changed = None;
        for entry in entries {
            if let EntryPayload::Membership(membership) = &entry.payload {
                let next = StoredMembership::new(Some(entry.log_id), membership.clone());
                let before = || (*self.progress.applied_membership()).clone();
                changed.get_or_insert_with(before).advance(next);
            }
        }
        changed
    }

    fn tell_membership(&self, membership: AppliedMembership) {
        let is_removed = membership.removed.contains(&self.own_id);
        self.progress.set_applied_membership(membership);
        if is_removed {
            self.progress.set_expelled(Expelled::Removed);
        }
    }

    fn make_durable(&mut self, volatile: &mut Volatile) -> io::Result<()> {
        if volatile.since.is_some() {
            let _timer = metrics().backend_commit_seconds.start_timer();
            let applied = self.state.persist().map_err(io::Error::other)?;
            self.durable_applied_index
                .store(applied.map_or(0, |applied| applied.index), Ordering::Release);
            *volatile = Volatile::default();
        }
        Ok(())
    }

    fn reinstall(&mut self, path: &Path) -> io::Result<()> {
        let index = snapshot::SnapshotReader::open(path)
            .map_err(io::Error::other)?
            .mark()
            .applied
            .map_or(0, |applied| applied.index);
        let passed_over = self.passed_over_index.max(self.progress.applied_index());
        if index < passed_over {
            return Err(io::Error::other(format!(
                "the snapshot is of entry {index}, and this member is at {passed_over} already"
            )));
        }
        self.install(path)
    }

    fn finish_defragment(
        &mut self,
        work: Defragmentation,
        volatile: &mut Volatile,
    ) -> io::Result<()> {
        let view = self.state.finish_defragment(work).map_err(io::Error::other)?;
        let applied_index = view.mark().applied.map_or(0, |applied| applied.index);
        self.durable_applied_index.store(applied_index, Ordering::Release);
        *volatile = Volatile::default();
        Ok(())
    }

    pub(super) fn install(&mut self, path: &Path) -> io::Result<()> {
        metrics().works.installing.set(1);
        let installed = self.install_file(path);
        metrics().works.installing.set(0);
        installed
    }

    fn install_file(&mut self, path: &Path) -> io::Result<()> {
        self.state.install_snapshot(path).map_err(io::Error::other)?;
        self.follow_slots()?;
        rebuild(&self.machine, &mut self.state).map_err(io::Error::other)?;
        let view = self.state.view();
        let applied_index = view.mark().applied.map_or(0, |applied| applied.index);
        self.durable_applied_index.store(applied_index, Ordering::Release);
        self.feed.publish(view.mark().revision, None);
        self.clock.observe(view.mark().time_ms);
        self.digests.restart_from(Digest { index: applied_index, digest: view.mark().digest });
        let membership =
            AppliedMembership::decode(&view.mark().membership).map_err(io::Error::other)?;
        tracing::info!(
            index = applied_index,
            revision = view.mark().revision,
            "applied a snapshot that the leader sent"
        );
        self.tell_membership(membership);
        self.progress.set_applied(applied_index, None);
        if self.progress.is_quarantined() {
            tracing::info!(index = applied_index, "this member has a state of its peers again");
            self.progress.set_quarantined(false);
        }
        Ok(())
    }
}

/// Fills the derived tables. Also to be called before a member starts.
pub fn rebuild(machine: &Machine, state: &mut State) -> Result<(), UpkeepError> {
    let view = state.view();
    machine.rebuild(view, &mut |overlay| state.commit_derived(overlay.into_writes()))?;
    state.finish_rebuild();
    Ok(())
}

/// What the machine is to apply of an entry. A command that means something in one term only is none in another: every
/// member sees the same two terms, so all of them pass it over.
pub(super) fn command_of(entry: &Entry) -> Option<&Command> {
    match &entry.payload {
        EntryPayload::Normal(command) if is_in_term(command, entry) => Some(command),
        _ => None,
    }
}

/// Who waits for a command that is passed over.
fn out_of_term(entry: &Entry) -> Option<Origin> {
    match &entry.payload {
        EntryPayload::Normal(command) if !is_in_term(command, entry) => Some(command.origin),
        _ => None,
    }
}

fn is_in_term(command: &Command, entry: &Entry) -> bool {
    command.only_in_term == 0 || command.only_in_term == entry.log_id.leader_id.term
}

/// What the machine is given: times that never go back, whatever a leader stamped.
pub(super) fn commands_of(entries: &[Entry], mut time_ms: u64) -> Vec<runtime::Entry> {
    let command = |entry: &Entry| {
        let command = command_of(entry)?;
        time_ms = time_ms.max(command.time_ms);
        let index = entry.log_id.index;
        Some(runtime::Entry { index, time_ms, command: command.request.clone() })
    };
    entries.iter().filter_map(command).collect()
}

/// Moves the mark behind the entries. Gives the digest behind each of them.
fn advance(
    mark: &mut Mark,
    entries: &[Entry],
    commands: &[runtime::Entry],
    outcomes: &[Outcome],
) -> Vec<Digest> {
    let mut digests = Vec::with_capacity(entries.len());
    let mut before = mark.digest;
    for (command, outcome) in commands.iter().zip(outcomes) {
        let mut digest = Xxh3::new();
        digest.update(&mark.digest.to_le_bytes());
        digest.update(&command.index.to_le_bytes());
        digest.update(&outcome.digest.to_le_bytes());
        mark.digest = digest.digest128();
        mark.time_ms = command.time_ms;
        mark.revision = outcome.revision;
        digests.push(Digest { index: command.index, digest: mark.digest });
    }
    // Entries that are none of the machine's leave the digest as it is.
    let mut of_commands = std::mem::take(&mut digests).into_iter().peekable();
    for entry in entries {
        let index = entry.log_id.index;
        if let Some(digest) = of_commands.next_if(|digest| digest.index == index) {
            before = digest.digest;
        }
        digests.push(Digest { index, digest: before });
    }
    if let Some(last) = entries.last() {
        mark.applied = Some(AppliedId {
            term: last.log_id.leader_id.term,
            leader_id: last.log_id.leader_id.node_id,
            index: last.log_id.index,
        });
    }
    digests
}
