//! Long work in steps: derived tables from durable ones, rows of an older schema into newer ones, and the machine's
//! own checks. Each step has an instance of its own, so that none can keep anything but its cursor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime::component::{ComponentExportIndex, ComponentNamedList, Lift, Lower};

use super::{
    Budget, CallError, Fault, LocalFailure, UpkeepError, abi,
    host_state::{HostState, Source, Writable},
    machine::Machine,
    reader::continuation,
};
use crate::limits::REHEARSAL_ROWS;
use crate::storage::{Overlay, StorageError, View};

/// Stores the writes of a step, and gives the view that the next one starts from.
pub type Commit<'a> = dyn FnMut(Overlay) -> Result<Arc<View>, StorageError> + 'a;

impl Machine {
    /// Makes the derived tables, which must be empty, from the durable ones.
    ///
    /// # Errors
    ///
    /// Derived tables are then half made: they are to be emptied before another try.
    pub fn rebuild(&self, view: Arc<View>, commit: &mut Commit<'_>) -> Result<(), UpkeepError> {
        let export = &self.exports().rebuild;
        let budget = self.budgets().alone;
        self.write_steps(view, (Writable::Derived, budget), commit, |machine, state, cursor| {
            let (reply, state) = machine.step::<_, (abi::Progress,)>(state, export, (cursor,))?;
            Ok((Ok(reply.0), state))
        })
    }

    /// Turns durable rows of `from_schema` into those of this machine's schema.
    ///
    /// # Errors
    ///
    /// [`UpkeepError::Refused`] if the machine does not know that schema. Steps before an error are committed: give it
    /// a state that can be thrown away, or that is put away as a whole afterwards.
    pub fn migrate(
        &self,
        from_schema: u32,
        view: Arc<View>,
        commit: &mut Commit<'_>,
    ) -> Result<(), UpkeepError> {
        let export = &self.exports().migrate;
        let budget = self.budgets().step;
        self.write_steps(view, (Writable::All, budget), commit, |machine, state, cursor| {
            let parameters = (from_schema, cursor);
            let (reply, state) =
                machine.step::<_, (Result<abi::Progress, String>,)>(state, export, parameters)?;
            Ok((reply.0, state))
        })
    }

    /// One step of [`Self::migrate`] over a state, with its writes, or without any if it failed. What fails it is the
    /// same on every replica: the machine's refusal, or its fault.
    ///
    /// # Errors
    ///
    /// This member cannot take the step, which is committed, so it must stop applying.
    pub fn migrate_step(
        &self,
        from_schema: u32,
        cursor: &[u8],
        view: &Arc<View>,
    ) -> Result<(Overlay, Result<Migrated, String>), LocalFailure> {
        let overlay = Box::new(Overlay::new(view.clone()));
        let source = Source::Overlay(overlay, Writable::All);
        let state = self.state(source, self.budgets().step);
        match self.migrate_in(state, from_schema, cursor) {
            Ok((overlay, migrated)) => Ok((overlay, Ok(migrated))),
            Err(UpkeepError::Failed(CallError::Local(failure))) => Err(failure),
            Err(UpkeepError::Failed(CallError::Fault(fault))) => {
                Ok((Overlay::new(view.clone()), Err(fault.to_string())))
            }
            Err(UpkeepError::Refused(reason)) => Ok((Overlay::new(view.clone()), Err(reason))),
        }
    }

    /// Takes the steps of a migration over a state that nobody keeps, and says how long they take; or that they fail. It
    /// ends early after `patience`, or when it has written what may be held in memory.
    pub fn rehearse(
        &self,
        from_schema: u32,
        view: Arc<View>,
        patience: Duration,
    ) -> Result<Rehearsal, UpkeepError> {
        let mut overlay = Overlay::new(view);
        overlay.declare(&self.description().tables);
        let (mut rehearsal, mut cursor) = (Rehearsal::default(), Bytes::new());
        while rehearsal.took < patience && overlay.rows_written() < REHEARSAL_ROWS {
            let started = Instant::now();
            let source = Source::Overlay(Box::new(overlay), Writable::All);
            let state = self.state(source, self.budgets().step);
            let (written, migrated) = self.migrate_in(state, from_schema, &cursor)?;
            overlay = written;
            overlay.finish_entry();
            let took = started.elapsed();
            rehearsal.steps += 1;
            rehearsal.took += took;
            rehearsal.longest = rehearsal.longest.max(took);
            match migrated {
                Migrated::More(next) => cursor = next,
                Migrated::Done => {
                    rehearsal.is_whole = true;
                    break;
                }
            }
        }
        Ok(rehearsal)
    }

    fn migrate_in(
        &self,
        state: HostState,
        from_schema: u32,
        cursor: &[u8],
    ) -> Result<(Overlay, Migrated), UpkeepError> {
        let parameters = (from_schema, cursor.to_vec());
        let export = &self.exports().migrate;
        let (reply, state) =
            self.step::<_, (Result<abi::Progress, String>,)>(state, export, parameters)?;
        let migrated = match reply.0.map_err(UpkeepError::Refused)? {
            abi::Progress::Done => Migrated::Done,
            abi::Progress::More(next) => Migrated::More(advanced(cursor, next)?.into()),
        };
        Ok((*state.into_overlay().ok_or(LocalFailure::Broken)?, migrated))
    }

    /// Checks the machine's own invariants.
    ///
    /// # Errors
    ///
    /// [`UpkeepError::Refused`] with the first one that does not hold.
    pub fn check(&self, view: &Arc<View>) -> Result<(), UpkeepError> {
        let export = &self.exports().check;
        let mut cursor = Vec::new();
        loop {
            let state = self.state(Source::View(view.clone()), self.budgets().query);
            let (reply, _) =
                self.step::<_, (Result<abi::Progress, String>,)>(state, export, (cursor.clone(),))?;
            match reply.0.map_err(UpkeepError::Refused)? {
                abi::Progress::Done => return Ok(()),
                abi::Progress::More(next) => cursor = advanced(&cursor, next)?,
            }
        }
    }

    fn write_steps(
        &self,
        mut view: Arc<View>,
        (writable, budget): (Writable, Budget),
        commit: &mut Commit<'_>,
        step: impl Fn(&Self, HostState, Vec<u8>) -> Result<Step, CallError>,
    ) -> Result<(), UpkeepError> {
        let mut cursor = Vec::new();
        loop {
            let overlay = Box::new(Overlay::new(view.clone()));
            let state = self.state(Source::Overlay(overlay, writable), budget);
            let (reply, state) = step(self, state, cursor.clone())?;
            let progress = reply.map_err(UpkeepError::Refused)?;
            let mut overlay = state.into_overlay().ok_or(LocalFailure::Broken)?;
            overlay.finish_entry();
            view = commit(*overlay).map_err(LocalFailure::Storage)?;
            match progress {
                abi::Progress::Done => return Ok(()),
                abi::Progress::More(next) => cursor = advanced(&cursor, next)?,
            }
        }
    }

    /// Calls an export in an instance made for it, and gives back what stood behind it.
    fn step<P, R>(
        &self,
        state: HostState,
        export: &ComponentExportIndex,
        parameters: P,
    ) -> Result<(R, HostState), CallError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        let mut instance = self.instance(state)?;
        let export = instance.export(export)?;
        let reply = instance.call(&export, parameters)?;
        Ok((reply, instance.into_state()))
    }
}

/// What a migration would take, but for the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rehearsal {
    pub steps: u64,
    pub took: Duration,
    pub longest: Duration,
    /// Whether it came to its end.
    pub is_whole: bool,
}

/// Where a migration stands after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Migrated {
    More(Bytes),
    Done,
}

type Step = (Result<abi::Progress, String>, HostState);

/// The next cursor, which must not be the one before: a step that gets nowhere would be repeated for ever.
fn advanced(before: &[u8], next: Vec<u8>) -> Result<Vec<u8>, CallError> {
    if next == before {
        return Err(Fault::new("a step of its upkeep led back to where it began").into());
    }
    Ok(continuation(next)?.into())
}

impl From<Fault> for UpkeepError {
    fn from(fault: Fault) -> Self {
        UpkeepError::Failed(fault.into())
    }
}

impl From<LocalFailure> for UpkeepError {
    fn from(failure: LocalFailure) -> Self {
        UpkeepError::Failed(failure.into())
    }
}
