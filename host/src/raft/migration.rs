//! Brings the rows to another schema while clients read and write: one bounded step an entry, until it is over.
//!
//! Where it stands is in the slots. The leader proposes the step that they name (`upkeep`); one that is proposed twice,
//! by two leaders, does something once. A step that the machine fails ends the migration until another machine of the
//! same schema is activated, which goes on from there.
//!
//! Before, while a machine is only prepared, every member takes the steps over its own state and keeps nothing of them.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::instar::log as pb;
use proto::instar::log::host_command::Kind;

use super::apply::{Applier, commands_of};
use super::execution::Execution;
use super::machine_commands::{FAILED_PRECONDITION, refuse, write_slots};
use super::machine_keeper::MachineKeeper;
use super::schema;
use super::shard::Shard;
use super::types::{Command, Entry};
use crate::runtime::{Applied, CallError, Cost, Machine, Outcome, Spent, UpkeepError};
use crate::storage::{Overlay, StorageError, Views};

/// How long a rehearsal may go on. Its view is held meanwhile, and with it what is overwritten.
const REHEARSAL_TIME: Duration = Duration::from_secs(2);

/// The step that a command of the host's is, if it is one.
pub fn step_of(command: &Command) -> Option<pb::MigrateStep> {
    match pb::HostCommand::decode(command.request.clone()).ok()?.kind? {
        Kind::MigrateStep(step) => Some(step),
        _ => None,
    }
}

impl Applier {
    pub(super) fn execute_migration(
        &self,
        entry: &Entry,
        step: &pb::MigrateStep,
    ) -> io::Result<Execution> {
        let view = self.state.view();
        let (time_ms, revision) = (view.mark().time_ms, view.mark().revision);
        let (spent, cost) = (Spent::default(), Cost::default());
        let commands = commands_of(std::slice::from_ref(entry), time_ms);
        let due = self.slots.migration.as_ref();
        let due = due.filter(|_| schema::next_step(&self.slots).as_ref() == Some(step));
        let Some(migration) = due else {
            let message = "this step of the migration was taken already";
            let mut overlay = Overlay::new(view);
            let refused = Err(refuse(FAILED_PRECONDITION, message));
            let outcomes = vec![Outcome::of_host(refused, &mut overlay, revision)];
            let applied = Applied { overlay, outcomes, spent, cost };
            return Ok(Execution { entries: 1, commands, applied, switch: None, modules: None });
        };
        let (mut overlay, migrated) = self
            .machine
            .migrate_step(migration.from_schema, &migration.cursor, &view)
            .map_err(io::Error::other)?;
        let slots = schema::after_step(&self.slots, migrated);
        tell(&slots, migration);
        write_slots(&mut overlay, &slots).map_err(io::Error::other)?;
        let mut outcome = Outcome::of_host(Ok(Bytes::new()), &mut overlay, revision);
        outcome.task_pending = schema::next_step(&slots).is_some();
        let applied = Applied { overlay, outcomes: vec![outcome], spent, cost };
        let switch = Some((self.machine.clone(), slots));
        Ok(Execution { entries: 1, commands, applied, switch, modules: None })
    }
}

impl MachineKeeper {
    /// Adds to what is said of a machine how the rows would come to its schema; or refuses it if they would not.
    pub(super) async fn rehearse(&self, machine: Machine, mut ready: pb::Ready) -> pb::Ready {
        let view = self.views.latest();
        let (active, schema_version) =
            (self.machines.active(), machine.description().schema_version);
        let Ok(slots) = super::slots(&*view) else { return ready };
        let from_schema = schema::of_rows(&slots, active.description());
        let succeeds = schema::check_successor(&slots, active.description(), &ready).is_ok();
        if !succeeds || schema_version <= from_schema {
            return ready;
        }
        let rehearsing = move || machine.rehearse(from_schema, view, REHEARSAL_TIME);
        match tokio::task::spawn_blocking(rehearsing).await {
            Ok(Ok(rehearsal)) => {
                let us = |time: Duration| time.as_micros() as u64;
                ready.rehearsal = Some(pb::Rehearsal {
                    steps: rehearsal.steps,
                    took_us: us(rehearsal.took),
                    longest_us: us(rehearsal.longest),
                    is_whole: rehearsal.is_whole,
                });
            }
            Ok(Err(UpkeepError::Failed(CallError::Local(failure)))) => {
                tracing::warn!(%failure, "a migration cannot be rehearsed here");
            }
            Ok(Err(error)) => {
                ready.refusal = format!("its migration from schema {from_schema} fails: {error}");
            }
            Err(error) => tracing::warn!(%error, "the rehearsal of a migration was given up"),
        }
        ready
    }
}

fn tell(slots: &pb::Slots, before: &pb::Migration) {
    let (from_schema, schema) = (before.from_schema, slots.schema_version);
    match &slots.migration {
        None => {
            let steps = before.steps + 1;
            tracing::info!(from_schema, schema, steps, "the rows are brought to another schema");
        }
        Some(migration) if !migration.failure.is_empty() => {
            let failure = &migration.failure;
            tracing::error!(from_schema, schema, "the rows stay between two schemas: {failure}");
        }
        Some(_) => {}
    }
}

/// Proposes the next step, if there is one; says whether it was taken.
pub async fn propose_step(views: &Views, shard: &Shard) -> Result<bool, StorageError> {
    let slots = super::slots(&*views.latest())?;
    let Some(step) = schema::next_step(&slots) else { return Ok(false) };
    let command = pb::HostCommand { kind: Some(Kind::MigrateStep(step)) };
    match shard.propose_for_host(command.encode_to_vec().into()).await {
        Ok(outcome) => Ok(outcome.response.is_ok()),
        Err(error) => {
            tracing::debug!(%error, "the migration has to wait");
            Ok(false)
        }
    }
}
