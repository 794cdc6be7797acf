//! The runtime with machines of both kinds: the real one, and one that breaks the contract.

mod costs;
mod hostile;
mod kv;
mod load;
mod local_failure;
mod reader;
mod upkeep;

use std::{
    ops::ControlFlow,
    sync::{Arc, OnceLock},
};

use tempfile::TempDir;

use super::{Budgets, Entry, Outcome, UpkeepError, machine::Machine, machine::Runtime};
use crate::storage::{self, Mark, State, Tables, View};

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::with_budgets(None, Budgets::SMALL).expect("an engine"))
}

/// The machine that breaks the contract.
fn hostile() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| runtime().load(::hostile::HOSTILE).expect("a machine"))
}

/// The KV machine.
fn kv() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| runtime().load(super::BUILT_IN).expect("a machine"))
}

/// A replica: a machine and its state, in a directory of its own.
struct Replica<'a> {
    machine: &'a Machine,
    state: State,
    revision: u64,
    index: u64,
    _directory: TempDir,
}

impl<'a> Replica<'a> {
    fn new(machine: &'a Machine) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let tables = &machine.description().tables;
        let state = State::open(directory.path(), &storage::files(), tables).expect("a state");
        Replica { machine, state, revision: 0, index: 0, _directory: directory }
    }

    fn view(&self) -> Arc<View> {
        self.state.view()
    }

    /// Applies commands as one batch.
    fn apply(&mut self, commands: &[impl AsRef<[u8]>]) -> Vec<Outcome> {
        self.apply_with(self.machine, commands)
    }

    /// As `apply`, by another machine.
    fn apply_with(&mut self, machine: &Machine, commands: &[impl AsRef<[u8]>]) -> Vec<Outcome> {
        let entries: Vec<_> = commands
            .iter()
            .map(|command| {
                self.index += 1;
                self.entry(self.index, command.as_ref())
            })
            .collect();
        let overlay = self.state.overlay();
        let applied = machine.apply(overlay, self.revision, &entries).expect("no local failure");
        self.revision = applied.outcomes.last().map_or(self.revision, |outcome| outcome.revision);
        self.state.commit(applied.overlay.into_writes(), Mark::default()).expect("a commit");
        applied.outcomes
    }

    fn entry(&self, index: u64, command: &[u8]) -> Entry {
        Entry { index, time_ms: index / 3, command: command.to_vec().into() }
    }

    /// Makes the derived tables, which must be empty.
    fn rebuild(&mut self) -> Result<(), UpkeepError> {
        let (view, state) = (self.view(), &mut self.state);
        self.machine.rebuild(view, &mut |overlay| state.commit_derived(overlay.into_writes()))
    }

    fn forget_derived(&mut self) {
        self.state.clear_derived().expect("empty tables");
    }

    /// All rows of all tables.
    fn rows(&self) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        let tables = self.machine.description().tables.iter();
        tables.flat_map(|table| self.rows_of(table.id)).collect()
    }

    fn rows_of(&self, table: u32) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        let mut rows = Vec::new();
        let visit = &mut |key: &[u8], value: &[u8]| {
            rows.push((table, key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        };
        self.view().scan(table, b"", b"", false, visit).expect("a scan");
        rows
    }
}
