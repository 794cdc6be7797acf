//! Which modules there are, as the state has it: activated, disabled, failing. And their own rows.
//!
//! As in `machine_commands`, everything here is a function of the log alone, and in the host's own table.

use bytes::Bytes;
use prost::Message;
use proto::instar::log as pb;
use proto::instar::log::host_command::Kind;

use super::machine_commands::{
    self, FAILED_PRECONDITION, Failed, INVALID_ARGUMENT, MachineDigest, NOT_FOUND, TABLE, refuse,
};
use super::types::Command;
use crate::limits;
use crate::storage::{Overlay, StorageError, Tables};

/// Kinds of rows in the host's table, beside those of `machine_commands`.
const SLOT: u8 = 16;
const ROW: u8 = 17;

fn slot_key(name: &str) -> Vec<u8> {
    [&[SLOT], name.as_bytes()].concat()
}

/// What the keys of a module's own rows begin with. No name has a zero byte.
pub fn row_prefix(name: &str) -> Vec<u8> {
    [&[ROW], name.as_bytes(), &[0]].concat()
}

/// The call that a command of the host's is, if it is one.
pub fn call_of(command: &Command) -> Option<pb::CallModule> {
    match pb::HostCommand::decode(command.request.clone()).ok()?.kind? {
        Kind::CallModule(call) => Some(call),
        _ => None,
    }
}

/// All modules that were ever activated, in the order of their names.
pub fn module_slots(tables: &impl Tables) -> Result<Vec<pb::ModuleSlot>, StorageError> {
    let mut slots = Vec::new();
    let mut broken = None;
    machine_commands::rows(tables, &[SLOT], |_, value| match pb::ModuleSlot::decode(value) {
        Ok(slot) => slots.push(slot),
        Err(error) => broken = Some(error),
    })?;
    match broken {
        None => Ok(slots),
        Some(error) => Err(StorageError::corrupt("the modules' table", error)),
    }
}

pub fn write_slot(overlay: &mut Overlay, slot: &pb::ModuleSlot) -> Result<(), StorageError> {
    overlay.put(TABLE, &slot_key(&slot.name), &slot.encode_to_vec())
}

/// Puts a module, or another version of it, in its place.
pub(super) fn activate(
    activate: &pb::ActivateModule,
    overlay: &mut Overlay,
    voters: &[u64],
) -> Result<(), Failed> {
    let pb::ActivateModule { name, digest, prefixes } = activate;
    let key: MachineDigest = machine_commands::digest_of(digest)?;
    if prefixes.len() > limits::MODULE_PREFIXES
        || prefixes.iter().any(|prefix| prefix.len() > limits::MODULE_PREFIX_BYTES)
    {
        let message = format!(
            "a module may be granted {} prefixes of {} bytes at most",
            limits::MODULE_PREFIXES,
            limits::MODULE_PREFIX_BYTES
        );
        return Err(refuse(INVALID_ARGUMENT, message).into());
    }
    let digest_name = machine_commands::name_of(digest);
    if machine_commands::component_size(overlay, &key)?.is_none_or(|(_, for_module)| !for_module) {
        let message = format!("the module {digest_name} is not there, or not whole: put it first");
        return Err(refuse(NOT_FOUND, message).into());
    }
    let readiness = machine_commands::readiness(overlay, &key)?;
    for voter in voters {
        let refusal = match readiness.get(voter) {
            None => "has not compiled this module yet: try again".to_owned(),
            Some(ready) if !ready.refusal.is_empty() => {
                format!("cannot run this module: {}", ready.refusal)
            }
            Some(ready) if ready.name != *name => {
                return Err(named_otherwise(name, &ready.name).into());
            }
            Some(_) => continue,
        };
        let message = format!("member {voter:x} {refusal}");
        return Err(refuse(FAILED_PRECONDITION, message).into());
    }
    let slots = module_slots(overlay)?;
    if slots.len() >= limits::MODULES && slots.iter().all(|slot| slot.name != *name) {
        let message = format!("there are {} modules already, as many as may be", limits::MODULES);
        return Err(refuse(FAILED_PRECONDITION, message).into());
    }
    let slot = pb::ModuleSlot {
        name: name.clone(),
        digest: digest.clone(),
        prefixes: prefixes.clone(),
        enabled: true,
        failures: 0,
        last_failure: String::new(),
    };
    Ok(write_slot(overlay, &slot)?)
}

fn named_otherwise(name: &str, own: &str) -> crate::runtime::Rejection {
    refuse(FAILED_PRECONDITION, format!("this component calls itself {own:?}, and not {name:?}"))
}

pub(super) fn disable(disable: &pb::DisableModule, overlay: &mut Overlay) -> Result<(), Failed> {
    let slots = module_slots(overlay)?;
    let Some(slot) = slots.into_iter().find(|slot| slot.name == disable.name) else {
        return Err(unknown(&disable.name).into());
    };
    Ok(write_slot(overlay, &pb::ModuleSlot { enabled: false, ..slot })?)
}

pub(super) fn unknown(name: &str) -> crate::runtime::Rejection {
    let message =
        format!("there is no module {name:?}: `instarctl module list` shows those there are");
    refuse(NOT_FOUND, message)
}

/// The slot after a failure: enough of them in a row, and the module is out.
pub(super) fn after_failure(slot: &pb::ModuleSlot, reason: &str) -> pb::ModuleSlot {
    let failures = slot.failures.saturating_add(1);
    let enabled = slot.enabled && failures < limits::MODULE_FAILURES;
    pb::ModuleSlot { failures, enabled, last_failure: reason.to_owned(), ..slot.clone() }
}

/// Puts rows of a module's own in their place.
pub(super) fn write_rows(
    overlay: &mut Overlay,
    name: &str,
    rows: impl IntoIterator<Item = (Bytes, Option<Bytes>)>,
) -> Result<(), StorageError> {
    let prefix = row_prefix(name);
    for (key, value) in rows {
        let key = [&prefix, &*key].concat();
        match value {
            Some(value) => overlay.put(TABLE, &key, &value)?,
            None => overlay.delete(TABLE, &key)?,
        }
    }
    Ok(())
}
