//! Runs entries, up to the next barrier: with the machine that is theirs, or, those of the host's own, without.
//!
//! A switch of machines is part of the entry that brings it: its effects, the slots and the mark's digest are one
//! transaction. Whether an entry brings one depends on the log alone, never on how it was divided into batches.

use std::io;

use proto::instar::log::Slots;

use super::apply::{Applier, command_of, commands_of};
use super::machine_commands::{self, Circumstances, MachineDigest, name_of};
use super::module_commands;
use super::module_execution::ActiveModules;
use super::types::{Command, Entry};
use super::{migration, schema};
use crate::metrics::metrics;
use crate::runtime::{self, Applied, Cost, Machine, Outcome, Spent};
use crate::storage::Overlay;

/// What some entries did.
pub struct Execution {
    /// So many, from the first on.
    pub entries: usize,
    pub commands: Vec<runtime::Entry>,
    pub applied: Applied,
    /// The machine that runs from now on, and the slots that say so.
    pub switch: Option<(Machine, Slots)>,
    /// The modules that run from now on, where they are others.
    pub modules: Option<ActiveModules>,
}

impl Applier {
    /// Runs the first entries of these, one at least.
    pub(super) fn execute(&self, entries: &[Entry]) -> io::Result<Execution> {
        if let Some(command) = entries.first().and_then(of_host) {
            if let Some(call) = module_commands::call_of(command) {
                return self.execute_call(&entries[0], &call);
            }
            if let Some(step) = migration::step_of(command) {
                return self.execute_migration(&entries[0], &step);
            }
            return self.execute_for_host(&entries[..1], command);
        }
        if entries.first().is_some_and(|entry| self.modules.concern(entry)) {
            return self.execute_with_modules(&entries[0]);
        }
        let is_barrier = |entry| of_host(entry).is_some() || self.modules.concern(entry);
        let barrier = entries.iter().position(is_barrier);
        self.run_machine(&entries[..barrier.unwrap_or(entries.len())])
    }

    /// Runs entries that are all the machine's alone: the first of them, at least.
    pub(super) fn run_machine(&self, entries: &[Entry]) -> io::Result<Execution> {
        let execution = self.run_with(&self.machine, entries)?;
        if !self.slots.on_probation {
            return Ok(execution);
        }
        let fault = execution.applied.outcomes.iter().position(|outcome| outcome.is_fault);
        let Some(index) = fault.map(|position| execution.commands[position].index) else {
            return Ok(execution);
        };
        match entries.iter().position(|entry| entry.log_id.index == index) {
            None => Ok(execution),
            Some(0) => self.execute_on_probation(&entries[..1]),
            Some(before) => self.run_with(&self.machine, &entries[..before]),
        }
    }

    fn run_with(&self, machine: &Machine, entries: &[Entry]) -> io::Result<Execution> {
        let view = self.state.view();
        let mark = view.mark();
        let commands = commands_of(entries, mark.time_ms);
        let revision = mark.revision;
        let applied =
            machine.apply(Overlay::new(view), revision, &commands).map_err(io::Error::other)?;
        metrics().guest_fuel.inc_by(applied.cost.fuel);
        for (command, outcome) in commands.iter().zip(&applied.outcomes) {
            if let (true, Err(rejection)) = (outcome.is_fault, &outcome.response) {
                let (index, machine) = (command.index, name_of(&machine.digest()));
                tracing::error!(index, machine, "{}", rejection.message);
            }
        }
        Ok(Execution { entries: entries.len(), commands, applied, switch: None, modules: None })
    }

    /// One entry that the new machine failed on. Where the previous one does not, it is the one that runs from here on.
    fn execute_on_probation(&self, entry: &[Entry]) -> io::Result<Execution> {
        let previous = self.obtain(&self.slots.previous, &self.slots)?;
        let mut execution = self.run_with(&previous, entry)?;
        if execution.applied.outcomes.iter().any(|outcome| outcome.is_fault) {
            return self.run_with(&self.machine, entry);
        }
        let slots = machine_commands::rolled_back(&self.slots);
        let overlay = &mut execution.applied.overlay;
        machine_commands::write_slots(overlay, &slots).map_err(io::Error::other)?;
        overlay.finish_entry();
        tracing::error!(
            machine = name_of(&self.machine.digest()),
            previous = name_of(&previous.digest()),
            index = entry[0].log_id.index,
            "the new machine failed on an entry that the previous one can apply: the previous one is back"
        );
        execution.switch = Some((previous, slots));
        Ok(execution)
    }

    fn execute_for_host(&self, entry: &[Entry], command: &Command) -> io::Result<Execution> {
        let view = self.state.view();
        let mark = view.mark();
        let commands = commands_of(entry, mark.time_ms);
        let revision = mark.revision;
        let circumstances = Circumstances {
            active: self.machine.digest(),
            description: self.machine.description(),
            voters: self.progress.applied_membership().stored.membership().voter_ids().collect(),
        };
        let mut overlay = Overlay::new(view);
        let response = machine_commands::carry_out(&command.request, &mut overlay, &circumstances)
            .map_err(io::Error::other)?;
        let mut outcome = Outcome::of_host(response, &mut overlay, revision);
        let slots = machine_commands::slots(&overlay).map_err(io::Error::other)?;
        outcome.task_pending = schema::next_step(&slots).is_some();
        let switch = match slots != self.slots {
            true => Some((self.obtain(&slots.active, &slots)?, slots)),
            false => None,
        };
        let (spent, cost) = (Spent::default(), Cost::default());
        let applied = Applied { overlay, outcomes: vec![outcome], spent, cost };
        let modules = self.modules_after(&applied.overlay)?;
        Ok(Execution { entries: 1, commands, applied, switch, modules })
    }

    /// A machine of the state's, which was compiled long before, as it runs under these slots. A member that lacks it, having just started or come
    /// by a snapshot, acknowledges the log meanwhile, and applies no more before a thread has compiled it.
    fn obtain(&self, digest: &[u8], slots: &Slots) -> io::Result<Machine> {
        let lost =
            || io::Error::other(format!("the component of {} is not there", name_of(digest)));
        let digest: MachineDigest = digest.try_into().map_err(|_| lost())?;
        if let Some(machine) = self.machines.compiled(&digest) {
            return Ok(under(slots, &machine));
        }
        let view = self.state.view();
        let component = machine_commands::component(&*view, &digest).map_err(io::Error::other)?;
        let component = component.ok_or_else(lost)?;
        let machines = self.machines.clone();
        let compiling = std::thread::Builder::new()
            .name("compile".to_owned())
            .spawn(move || machines.compile(&component))?;
        let compiled = compiling.join().map_err(|_| lost())?;
        compiled.map(|machine| under(slots, &machine)).map_err(io::Error::other)
    }

    pub(super) fn switch(&mut self, machine: Machine, slots: Slots) {
        if machine.digest() != self.machine.digest() {
            self.shadows.end("another machine became active: begin again");
            tracing::info!(
                machine = name_of(&machine.digest()),
                version = machine.description().version,
                "another machine is active"
            );
        }
        self.machines.set_active(machine.clone());
        self.machine = machine;
        self.slots = slots;
    }

    /// Takes the machine that a state which was just installed says is active.
    pub(super) fn follow_slots(&mut self) -> io::Result<()> {
        let slots = machine_commands::slots(&*self.state.view()).map_err(io::Error::other)?;
        let machine = match slots.active.is_empty() {
            true => self.machine.clone(),
            false => self.obtain(&slots.active, &slots)?,
        };
        self.state.declare(&machine.description().tables).map_err(io::Error::other)?;
        self.switch(machine, slots);
        self.modules = ActiveModules::load(&*self.state.view(), &self.machines)?;
        Ok(())
    }
}

/// A machine with those of its tables locked that are.
pub(super) fn under(slots: &Slots, machine: &Machine) -> Machine {
    machine.with_locked(schema::locked(slots, machine.description()))
}

pub(super) fn of_host(entry: &Entry) -> Option<&Command> {
    command_of(entry).filter(|command| command.for_host)
}
