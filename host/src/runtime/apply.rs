//! Applies committed entries, so that how they are divided into batches does not show.

use std::time::Instant;

use super::{
    Applied, ApplyError, Budget, CallError, Cost, Entry, LocalFailure, Outcome, Rejection, abi,
    host_state::{HostState, Source, Writable},
    instance::Instance,
    machine::{ApplyExport, Machine},
    outcome::{self, Claim},
};
use crate::storage::Overlay;

impl Machine {
    /// Applies committed entries in order, in an instance that lives no longer than this call.
    ///
    /// `overlay` is what the entries see and write to; `revision` is the state's revision before the first of them.
    /// An entry that the machine fails on is answered with a rejection (gRPC code 13) and leaves nothing behind.
    ///
    /// # Errors
    ///
    /// This member cannot apply; the overlay is lost with all that was in it. The entries are committed, so it must
    /// stop applying.
    pub fn apply(
        &self,
        overlay: Overlay,
        revision: u64,
        entries: &[Entry],
    ) -> Result<Applied, ApplyError> {
        self.apply_while(overlay, revision, entries, || true)
    }

    /// As [`Self::apply`], for as many entries as are begun before `go_on` says no.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`].
    pub fn apply_while(
        &self,
        overlay: Overlay,
        revision: u64,
        entries: &[Entry],
        go_on: impl Fn() -> bool,
    ) -> Result<Applied, ApplyError> {
        let started = Instant::now();
        let overlay = Some(Box::new(overlay));
        let mut batch = Batch { machine: self, overlay, instance: None, revision, fuel: 0 };
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut index = 0;
        let failed = |index, failure| ApplyError { index, failure };
        for entry in entries.iter().take_while(|_| go_on()) {
            index = entry.index;
            outcomes.push(batch.entry(entry).map_err(|failure| failed(index, failure))?);
        }
        let cost = Cost { fuel: batch.fuel_used(), time: started.elapsed() };
        let (overlay, spent) = batch.finish();
        let overlay = overlay.ok_or(LocalFailure::Broken).map_err(|it| failed(index, it))?;
        Ok(Applied { overlay: *overlay, outcomes, spent, cost })
    }
}

impl Machine {
    /// Makes the instance of the next batch ahead: a client that is alone waits for it otherwise. To be called when there
    /// is nothing better to do.
    pub fn make_spare(&self) {
        let mut spare = self.spare();
        if spare.is_none() {
            // What is in the way now is told by the batch that finds none.
            *spare = self.new_instance().ok();
        }
    }

    /// An instance without tables, which has not run yet.
    fn instance_to_apply(&self) -> Result<(Instance, ApplyExport), CallError> {
        let spare = self.spare().take();
        spare.map_or_else(|| self.new_instance(), Ok)
    }

    fn new_instance(&self) -> Result<(Instance, ApplyExport), CallError> {
        let mut instance = self.instance(self.state(Source::Nothing, self.budgets().shared))?;
        let export = instance.export(&self.exports().apply)?;
        Ok((instance, export))
    }
}

/// The instance that a batch was applied in. Clearing its memory takes as long as a small batch does, so it is kept
/// until the batch is answered.
#[derive(Default)]
pub struct Spent {
    _instance: Option<Box<Instance>>,
}

/// Entries being applied one after the other.
struct Batch<'a> {
    machine: &'a Machine,
    /// The overlay, while no instance has it.
    overlay: Option<Box<Overlay>>,
    instance: Option<(Instance, ApplyExport)>,
    revision: u64,
    /// What its instances have used.
    fuel: u64,
}

impl Batch<'_> {
    fn entry(&mut self, entry: &Entry) -> Result<Outcome, LocalFailure> {
        let outcome = match self.attempt(entry, self.machine.budgets().shared) {
            Ok(outcome) => outcome,
            Err(CallError::Local(failure)) => return Err(failure),
            Err(CallError::Fault(_)) => self.alone(entry)?,
        };
        self.revision = outcome.revision;
        Ok(outcome)
    }

    /// Applies an entry that has failed in a shared instance. Only what it does here counts: see [`super::Budgets`].
    fn alone(&mut self, entry: &Entry) -> Result<Outcome, LocalFailure> {
        self.retire();
        self.overlay()?.discard_entry();
        let attempt = self.attempt(entry, self.machine.budgets().alone);
        // Entries after this one must not inherit its budget.
        self.retire();
        match attempt {
            Ok(outcome) => Ok(outcome),
            Err(CallError::Local(failure)) => Err(failure),
            Err(CallError::Fault(fault)) => {
                let revision = self.revision;
                let overlay = self.overlay()?;
                overlay.discard_entry();
                Ok(outcome::failed(&fault, overlay, revision))
            }
        }
    }

    /// Runs an entry in the present instance, or in a new one with `budget` if there is none.
    fn attempt(&mut self, entry: &Entry, budget: Budget) -> Result<Outcome, CallError> {
        let (instance, export) = match &mut self.instance {
            Some(present) => present,
            vacant => {
                let (mut instance, export) = self.machine.instance_to_apply()?;
                let overlay = self.overlay.take().ok_or(LocalFailure::Broken)?;
                let source = Source::Overlay(overlay, Writable::All);
                *instance.state() = self.machine.state(source, budget);
                vacant.insert((instance, export))
            }
        };
        let command = entry.command.to_vec();
        let parameters = abi::Entry { index: entry.index, time_ms: entry.time_ms, command };
        let (returned,) = instance.call(export, (parameters,))?;
        let state = instance.state();
        let tables = self.machine.description();
        let overlay = state.overlay_mut().ok_or(LocalFailure::Broken)?;
        let kind = |table| tables.kind(table);
        Ok(outcome::accept(returned.into(), overlay, self.revision, kind)?)
    }

    fn fuel_used(&self) -> u64 {
        self.fuel + self.instance.as_ref().map_or(0, |(instance, _)| instance.fuel_used())
    }

    /// Throws the present instance away, if there is one, and takes the overlay back.
    fn retire(&mut self) {
        if let Some((instance, _)) = self.instance.take() {
            self.fuel += instance.fuel_used();
            self.overlay = instance.into_state().into_overlay();
        }
    }

    /// Takes the overlay back, and leaves the instance to be thrown away later.
    fn finish(mut self) -> (Option<Box<Overlay>>, Spent) {
        let Some((mut instance, _)) = self.instance.take() else {
            return (self.overlay, Spent::default());
        };
        let overlay = instance.state().yield_overlay();
        (overlay, Spent { _instance: Some(Box::new(instance)) })
    }

    fn overlay(&mut self) -> Result<&mut Overlay, LocalFailure> {
        self.overlay.as_deref_mut().ok_or(LocalFailure::Broken)
    }
}

impl From<abi::Outcome> for Claim {
    fn from(outcome: abi::Outcome) -> Self {
        let events = outcome.events.into_iter();
        Claim {
            response: outcome.response.map_err(Rejection::from),
            revision: outcome.revision,
            events: events.map(|row| (row.table, row.key)).collect(),
            task_pending: outcome.task_pending,
        }
    }
}

impl From<abi::Rejection> for Rejection {
    fn from(rejection: abi::Rejection) -> Self {
        Rejection { code: rejection.code, message: rejection.message }
    }
}

impl HostState {
    fn overlay_mut(&mut self) -> Option<&mut Overlay> {
        match &mut self.source {
            Source::Overlay(overlay, _) => Some(overlay),
            _ => None,
        }
    }

    /// Gives the overlay up; what runs afterwards has no tables.
    fn yield_overlay(&mut self) -> Option<Box<Overlay>> {
        match std::mem::replace(&mut self.source, Source::Nothing) {
            Source::Overlay(overlay, _) => Some(overlay),
            _ => None,
        }
    }

    pub(super) fn into_overlay(mut self) -> Option<Box<Overlay>> {
        self.yield_overlay()
    }
}
