//! A rehearsal: a machine that is not active applies what the active one has applied, and what the two did is compared.
//!
//! ```text
//! apply thread -- batches, never waiting --> shadow thread: the same entries, on the view before them -> report
//! ```
//!
//! - Each batch begins on the state as the active machine left it, so that a difference has no consequences beyond its
//!   batch. Nothing of what the other machine writes is kept.
//! - Compared are, of each entry, the response, the revision and the events, and of each batch the rows that it leaves
//!   written. Entries that the leader proposes for the machine's own upkeep are compared as those of clients are.
//! - Where a revision or events differ, the rest of the batch is not compared: it was applied to another state.
//! - The host's own commands reach no machine, and are no part of it. Entries that modules have a part in are passed
//!   over and counted, and so are batches that find the queue full.
//!
//! It must not write, propose, or hold up the apply thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use proto::instar::v1 as pb;

use super::apply::Applier;
use super::execution::of_host;
use super::module_commands;
use super::shadow_comparison::compare;
use super::types::Entry;
use crate::limits;
use crate::runtime::{self, Cost, Machine, Outcome};
use crate::storage::{Overlay, TableKind, TableSpec, Tables, View, Writes};

/// Where the apply thread finds the rehearsal that is under way. There is one at a time.
#[derive(Default)]
pub struct Shadows {
    tap: ArcSwapOption<Tap>,
    is_busy: AtomicBool,
}

struct Tap {
    batches: SyncSender<ShadowBatch>,
    rehearsed: Arc<Rehearsed>,
}

/// What the active machine made of some entries.
pub struct ShadowBatch {
    /// The state before them.
    pub view: Arc<View>,
    pub commands: Vec<runtime::Entry>,
    pub outcomes: Vec<Outcome>,
    pub writes: Writes,
    pub cost: Cost,
}

impl ShadowBatch {
    fn bytes(&self) -> usize {
        let commands = self.commands.iter().map(|entry| entry.command.len());
        let answers = self.outcomes.iter().map(|it| it.response.as_ref().map_or(0, |it| it.len()));
        commands.sum::<usize>() + answers.sum::<usize>() + self.writes.bytes()
    }
}

/// What a rehearsal's two threads and whoever asked for it share.
#[derive(Default)]
struct Rehearsed {
    report: Mutex<pb::ShadowReport>,
    queued_bytes: AtomicUsize,
    is_cancelled: AtomicBool,
    is_done: AtomicBool,
}

impl Rehearsed {
    fn lock(&self) -> MutexGuard<'_, pb::ShadowReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn skip(&self, entries: usize) {
        let mut report = self.lock();
        report.skipped_batches += 1;
        report.skipped_entries += entries as u64;
    }
}

/// Why there can be no rehearsal.
#[derive(Debug, thiserror::Error)]
pub enum ShadowRefused {
    #[error(
        "another machine is being rehearsed on this member: wait until it is done, or ask another member"
    )]
    Busy,
    #[error(
        "it declares table {0} as the active machine's state does not have it, so it cannot run beside it"
    )]
    Table(String),
    #[error("a thread cannot be started: {0}")]
    System(#[from] std::io::Error),
}

impl Shadows {
    /// Begins to show a machine what is applied from now on. `view` is a state of the active one.
    pub fn begin(
        self: &Arc<Self>,
        machine: Machine,
        view: &View,
    ) -> Result<Rehearsal, ShadowRefused> {
        let tables = &machine.description().tables;
        // Tables that the state does not have yet are empty, as they are when the machine is activated.
        let differs = |table: &&TableSpec| match view.kind(table.id) {
            Some(kind) => kind != table.kind,
            None => table.kind == TableKind::Derived,
        };
        if let Some(table) = tables.iter().find(differs) {
            return Err(ShadowRefused::Table(table.name.clone()));
        }
        if self.is_busy.swap(true, Ordering::AcqRel) {
            return Err(ShadowRefused::Busy);
        }
        let rehearsed = Arc::new(Rehearsed::default());
        let (batches, queue) = sync_channel(limits::SHADOW_BATCHES);
        let (shadows, shared) = (self.clone(), rehearsed.clone());
        let thread = std::thread::Builder::new().name("shadow".to_owned()).spawn(move || {
            follow(&machine, &queue, &shared);
            drop(queue);
            shared.is_done.store(true, Ordering::Release);
            shadows.is_busy.store(false, Ordering::Release);
        });
        if let Err(error) = thread {
            self.is_busy.store(false, Ordering::Release);
            return Err(error.into());
        }
        self.tap.store(Some(Arc::new(Tap { batches, rehearsed: rehearsed.clone() })));
        Ok(Rehearsal { shadows: self.clone(), rehearsed, started: Instant::now() })
    }

    fn offer(&self, tap: &Tap, batch: ShadowBatch) {
        let (bytes, entries) = (batch.bytes(), batch.commands.len());
        let queued = &tap.rehearsed.queued_bytes;
        if queued.load(Ordering::Relaxed) + bytes > limits::SHADOW_QUEUE_BYTES {
            return tap.rehearsed.skip(entries);
        }
        queued.fetch_add(bytes, Ordering::Relaxed);
        match tap.batches.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                queued.fetch_sub(bytes, Ordering::Relaxed);
                tap.rehearsed.skip(entries);
            }
            // The thread has ended, and has said why.
            Err(TrySendError::Disconnected(_)) => self.tap.store(None),
        }
    }

    /// Ends a rehearsal before its time.
    pub(super) fn end(&self, reason: &str) {
        if let Some(tap) = self.tap.swap(None) {
            tap.rehearsed.lock().aborted = reason.to_owned();
        }
    }
}

impl Applier {
    /// Shows what was executed to whoever rehearses; mostly there is nobody. To be called before it is committed.
    pub(super) fn show(
        &self,
        entries: &[Entry],
        commands: &[runtime::Entry],
        (outcomes, writes): (&[Outcome], &Writes),
        cost: Cost,
    ) {
        let Some(tap) = self.shadows.tap.load_full() else { return };
        let Some(first) = entries.first() else { return };
        if let Some(command) = of_host(first) {
            if module_commands::call_of(command).is_some() {
                tap.rehearsed.skip(1);
            }
            return;
        }
        if self.modules.concern(first) {
            return tap.rehearsed.skip(entries.len());
        }
        if commands.is_empty() {
            return;
        }
        let batch = ShadowBatch {
            view: self.state.view(),
            commands: commands.to_vec(),
            outcomes: outcomes.to_vec(),
            writes: writes.clone(),
            cost,
        };
        self.shadows.offer(&tap, batch);
    }
}

/// The thread: until nobody shows it anything any more.
fn follow(machine: &Machine, queue: &Receiver<ShadowBatch>, rehearsed: &Rehearsed) {
    while let Ok(batch) = queue.recv() {
        rehearsed.queued_bytes.fetch_sub(batch.bytes(), Ordering::Relaxed);
        let go_on = || !rehearsed.is_cancelled.load(Ordering::Relaxed);
        let revision = batch.view.mark().revision;
        let mut overlay = Overlay::new(batch.view.clone());
        overlay.declare(&machine.description().tables);
        let applied = match machine.apply_while(overlay, revision, &batch.commands, go_on) {
            Ok(applied) => applied,
            Err(error) => {
                rehearsed.lock().aborted = error.to_string();
                return;
            }
        };
        if applied.outcomes.len() < batch.commands.len() {
            return;
        }
        let cost = applied.cost;
        let found = compare(machine.description(), &batch, applied);
        let mut report = rehearsed.lock();
        report.batches += 1;
        report.entries += found.compared as u64;
        report.skipped_entries += (batch.commands.len() - found.compared) as u64;
        add(report.active.get_or_insert_default(), batch.cost);
        add(report.shadow.get_or_insert_default(), cost);
        report.differing_entries += found.entries;
        report.differing_batches += u64::from(found.in_writes);
        let room = limits::SHADOW_DIFFERENCES.saturating_sub(report.differences.len());
        report.differences.extend(found.differences.into_iter().take(room));
    }
}

fn add(sum: &mut pb::MachineCost, cost: Cost) {
    sum.fuel += cost.fuel;
    sum.time_us += cost.time.as_micros() as u64;
}

/// A rehearsal under way. Without it, it ends.
pub struct Rehearsal {
    shadows: Arc<Shadows>,
    rehearsed: Arc<Rehearsed>,
    started: Instant,
}

impl Rehearsal {
    /// How it stands.
    pub fn report(&self) -> pb::ShadowReport {
        let mut report = self.rehearsed.lock().clone();
        report.elapsed_ms = self.started.elapsed().as_millis() as u64;
        report
    }

    /// Shows it nothing more. What is queued is still compared.
    pub fn close(&self) {
        let tap = self.shadows.tap.load_full();
        if tap.is_some_and(|tap| Arc::ptr_eq(&tap.rehearsed, &self.rehearsed)) {
            self.shadows.tap.store(None);
        }
    }

    /// Whether all that it was shown is compared, and nothing more comes.
    pub fn is_done(&self) -> bool {
        self.rehearsed.is_done.load(Ordering::Acquire)
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        self.rehearsed.is_cancelled.store(true, Ordering::Relaxed);
        self.close();
    }
}
