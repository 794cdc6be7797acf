//! The host's own commands: components on their way through the log, and which of them runs.
//!
//! Everything here is a function of the log alone: all members carry a command out on equal states, and come to equal
//! ones. What is kept is in a table of the host's own, durable and in every snapshot, which no machine can name.
//!
//! It compiles nothing (`machine_keeper`), and switches nothing (`apply`).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use prost::Message;
use proto::instar::log as pb;
use proto::instar::log::host_command::Kind;

use super::{module_commands, schema};
use crate::limits;
use crate::runtime::{Description, Rejection};
use crate::storage::{Overlay, StorageError, TableId, TableKind, TableSpec, Tables};

/// Where the host keeps it. Machines' tables have lower ids.
pub const TABLE: TableId = limits::HOST_TABLES_FROM;

const SLOTS: &[u8] = &[0];
const BLOB: u8 = 1;
const CHUNK: u8 = 2;
const READY: u8 = 3;

/// gRPC's codes.
pub(super) const INVALID_ARGUMENT: u32 = 3;
pub(super) const NOT_FOUND: u32 = 5;
pub(super) const FAILED_PRECONDITION: u32 = 9;

pub type MachineDigest = [u8; 32];

/// The tables of a machine and the host's.
pub fn with_host_tables(machine: &[TableSpec]) -> Vec<TableSpec> {
    let own = TableSpec { id: TABLE, name: "instar-machines".to_owned(), kind: TableKind::Durable };
    machine.iter().cloned().chain([own]).collect()
}

/// `sha256:` and its digits, as operators name a machine.
pub fn name_of(digest: &[u8]) -> String {
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Why a command was not carried out. Its text says what to do.
pub(super) fn refuse(code: u32, message: impl Into<String>) -> Rejection {
    Rejection { code, message: format!("instar: {}", message.into()) }
}

/// A command that failed: by its own fault, or by the storage's.
pub(super) enum Failed {
    Refused(Rejection),
    Storage(StorageError),
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Self {
        Failed::Storage(error)
    }
}

impl From<Rejection> for Failed {
    fn from(rejection: Rejection) -> Self {
        Failed::Refused(rejection)
    }
}

/// What a command has to know of the cluster, the same on every member.
pub struct Circumstances<'a> {
    pub active: MachineDigest,
    pub description: &'a Description,
    pub voters: Vec<u64>,
}

/// Carries a command out. What it refuses it leaves as it was.
pub fn carry_out(
    request: &[u8],
    overlay: &mut Overlay,
    circumstances: &Circumstances<'_>,
) -> Result<Result<Bytes, Rejection>, StorageError> {
    match try_carry_out(request, overlay, circumstances) {
        Ok(()) => Ok(Ok(Bytes::new())),
        Err(Failed::Refused(rejection)) => {
            overlay.discard_entry();
            Ok(Err(rejection))
        }
        Err(Failed::Storage(error)) => Err(error),
    }
}

fn try_carry_out(
    request: &[u8],
    overlay: &mut Overlay,
    circumstances: &Circumstances<'_>,
) -> Result<(), Failed> {
    let unknown = || refuse(INVALID_ARGUMENT, "this is no command that this version knows");
    let command = pb::HostCommand::decode(request).map_err(|_| unknown())?;
    match command.kind.ok_or_else(unknown)? {
        Kind::PutChunk(chunk) => put_chunk(&chunk, overlay, circumstances),
        Kind::Ready(ready) => note_ready(&ready, overlay),
        Kind::Activate(activate) => activate_machine(&activate, overlay, circumstances),
        Kind::Rollback(rollback) => roll_back(&rollback, overlay, circumstances),
        Kind::Finalise(finalise) => schema::finalise(&finalise, overlay, circumstances),
        Kind::ActivateModule(activate) => {
            module_commands::activate(&activate, overlay, &circumstances.voters)
        }
        Kind::DisableModule(disable) => module_commands::disable(&disable, overlay),
        // Carried out where machines and modules are run (`migration`, `module_execution`).
        Kind::MigrateStep(_) | Kind::CallModule(_) => Err(unknown().into()),
    }
}

fn put_chunk(
    chunk: &pb::PutChunk,
    overlay: &mut Overlay,
    circumstances: &Circumstances<'_>,
) -> Result<(), Failed> {
    let digest = digest_of(&chunk.digest)?;
    if chunk.size_bytes == 0 || chunk.size_bytes > limits::COMPONENT_BYTES as u64 {
        let limit = limits::COMPONENT_BYTES;
        return Err(refuse(INVALID_ARGUMENT, format!("a component has 1 to {limit} bytes")).into());
    }
    let known = blob(overlay, &digest)?;
    let mut blob = match known {
        Some(blob) => blob,
        None => {
            make_room(overlay, circumstances, chunk.for_module)?;
            let (size_bytes, for_module) = (chunk.size_bytes, chunk.for_module);
            pb::Blob { size_bytes, received_bytes: 0, chunks: 0, for_module }
        }
    };
    if blob.size_bytes != chunk.size_bytes || blob.for_module != chunk.for_module {
        let message = "another size was named for this component, or it is here as a module already, or as a machine";
        return Err(refuse(INVALID_ARGUMENT, message).into());
    }
    if chunk.offset < blob.received_bytes {
        return Ok(());
    }
    let end = chunk.offset.saturating_add(chunk.data.len() as u64);
    if chunk.offset > blob.received_bytes || end > blob.size_bytes || chunk.data.is_empty() {
        let message = "a part of the component is missing; put it again";
        return Err(refuse(FAILED_PRECONDITION, message).into());
    }
    overlay.put(TABLE, &chunk_key(&digest, blob.chunks), &chunk.data)?;
    blob.received_bytes = end;
    blob.chunks += 1;
    overlay.put(TABLE, &key(BLOB, &digest), &blob.encode_to_vec())?;
    Ok(())
}

/// Drops components that nobody runs or could go back to, so that there is room for one more.
fn make_room(
    overlay: &mut Overlay,
    circumstances: &Circumstances<'_>,
    for_module: bool,
) -> Result<(), Failed> {
    let slots = slots(overlay)?;
    let modules = module_commands::module_slots(overlay)?;
    let mut blobs = blobs(overlay)?;
    blobs.retain(|_, blob| blob.for_module == for_module);
    let limit = if for_module { limits::MODULE_BLOBS } else { limits::MACHINE_BLOBS };
    let mut excess = (blobs.len() + 1).saturating_sub(limit);
    for digest in blobs.keys() {
        if excess == 0 {
            break;
        }
        if *digest == circumstances.active || slots.previous == digest.as_slice() {
            continue;
        }
        if modules.iter().any(|slot| slot.digest == digest.as_slice()) {
            continue;
        }
        for kind in [BLOB, CHUNK, READY] {
            let start = key(kind, digest);
            let end = after_prefix(&start);
            overlay.delete_range(TABLE, &start, &end)?;
        }
        excess -= 1;
    }
    Ok(())
}

fn note_ready(ready: &pb::Ready, overlay: &mut Overlay) -> Result<(), Failed> {
    let digest = digest_of(&ready.digest)?;
    if component_size(overlay, &digest)?.is_none() {
        return Err(refuse(NOT_FOUND, "the component is not there any more").into());
    }
    overlay.put(TABLE, &ready_key(&digest, ready.member_id), &ready.encode_to_vec())?;
    Ok(())
}

fn activate_machine(
    activate: &pb::Activate,
    overlay: &mut Overlay,
    circumstances: &Circumstances<'_>,
) -> Result<(), Failed> {
    let digest = digest_of(&activate.digest)?;
    expect(&activate.expected_active, circumstances)?;
    if digest == circumstances.active {
        return Err(refuse(FAILED_PRECONDITION, "this machine is active already").into());
    }
    whole(overlay, &digest)?;
    if whole(overlay, &circumstances.active).is_err() {
        let message = "the component of the active machine is not in the state, so there would be no way back: put \
                       any machine again, which brings it there";
        return Err(refuse(FAILED_PRECONDITION, message).into());
    }
    let before = slots(overlay)?;
    let mut successor = None;
    let readiness = readiness(overlay, &digest)?;
    for voter in &circumstances.voters {
        match readiness.get(voter) {
            Some(ready) if ready.refusal.is_empty() => {
                schema::check_successor(&before, circumstances.description, ready).map_err(
                    |reason| {
                        refuse(
                            FAILED_PRECONDITION,
                            format!("this machine cannot take over: {reason}"),
                        )
                    },
                )?;
                successor = Some(ready);
            }
            Some(ready) => {
                let reason = &ready.refusal;
                let message = format!("member {voter:x} cannot run this machine: {reason}");
                return Err(refuse(FAILED_PRECONDITION, message).into());
            }
            None => {
                let message = format!(
                    "member {voter:x} has not compiled this machine yet: wait for it with `instarctl machine prepare`"
                );
                return Err(refuse(FAILED_PRECONDITION, message).into());
            }
        }
    }
    let mut after = match successor {
        Some(successor) => schema::with_tables(&before, circumstances.description, successor),
        None => before,
    };
    after.previous = Bytes::copy_from_slice(&circumstances.active);
    after.active = Bytes::copy_from_slice(&digest);
    after.on_probation = true;
    // What the machine before could not go on with, this one may.
    if let Some(migration) = &mut after.migration {
        migration.failure.clear();
    }
    Ok(write_slots(overlay, &after)?)
}

fn roll_back(
    rollback: &pb::Rollback,
    overlay: &mut Overlay,
    circumstances: &Circumstances<'_>,
) -> Result<(), Failed> {
    expect(&rollback.expected_active, circumstances)?;
    let before = slots(overlay)?;
    if before.previous.is_empty() {
        let message = "there is no previous machine to go back to, since the active one was finalised or is itself \
                       what was gone back to; `instarctl machine activate` takes any whose schema is that of the rows";
        return Err(refuse(FAILED_PRECONDITION, message).into());
    }
    Ok(write_slots(overlay, &rolled_back(&before))?)
}

/// The slots after a rollback.
pub fn rolled_back(slots: &pb::Slots) -> pb::Slots {
    let active = slots.previous.clone();
    pb::Slots { active, previous: Bytes::new(), on_probation: false, ..slots.clone() }
}

pub fn write_slots(overlay: &mut Overlay, slots: &pb::Slots) -> Result<(), StorageError> {
    overlay.put(TABLE, SLOTS, &slots.encode_to_vec())
}

pub(super) fn expect(expected: &[u8], circumstances: &Circumstances<'_>) -> Result<(), Rejection> {
    if expected == circumstances.active {
        return Ok(());
    }
    let active = name_of(&circumstances.active);
    Err(refuse(
        FAILED_PRECONDITION,
        format!(
            "{active} is active, and not the machine that was expected: list them, and decide again"
        ),
    ))
}

pub(super) fn digest_of(bytes: &[u8]) -> Result<MachineDigest, Rejection> {
    bytes.try_into().map_err(|_| refuse(INVALID_ARGUMENT, "a machine's digest has 32 bytes"))
}

fn whole(tables: &impl Tables, digest: &MachineDigest) -> Result<pb::Blob, Failed> {
    match blob(tables, digest)? {
        Some(blob) if blob.received_bytes == blob.size_bytes && !blob.for_module => Ok(blob),
        _ => {
            let name = name_of(digest);
            let message = format!("{name} is not there, or not whole: put it first");
            Err(refuse(NOT_FOUND, message).into())
        }
    }
}

/// Which machines run; empty before the first activation.
pub fn slots(tables: &impl Tables) -> Result<pb::Slots, StorageError> {
    Ok(row(tables, SLOTS)?.unwrap_or_default())
}

pub(super) fn blob(
    tables: &impl Tables,
    digest: &MachineDigest,
) -> Result<Option<pb::Blob>, StorageError> {
    row(tables, &key(BLOB, digest))
}

/// A row; none either if this state has no table of the host's.
pub(super) fn row<M: Message + Default>(
    tables: &impl Tables,
    key: &[u8],
) -> Result<Option<M>, StorageError> {
    if tables.kind(TABLE).is_none() {
        return Ok(None);
    }
    let mut decoded = None;
    tables.get(TABLE, key, &mut |value| decoded = Some(M::decode(value)))?;
    decoded.transpose().map_err(|error| StorageError::corrupt("the machines' table", error))
}

/// All components that have begun to arrive.
pub fn blobs(tables: &impl Tables) -> Result<BTreeMap<MachineDigest, pb::Blob>, StorageError> {
    let mut blobs = BTreeMap::new();
    rows(tables, &[BLOB], |key, value| {
        if let (Some(digest), Ok(blob)) = (digest_in(key), pb::Blob::decode(value)) {
            blobs.insert(digest, blob);
        }
    })?;
    Ok(blobs)
}

/// A component, if it is there as a whole.
pub fn component(
    tables: &impl Tables,
    digest: &MachineDigest,
) -> Result<Option<Vec<u8>>, StorageError> {
    let Some(blob) = blob(tables, digest)? else { return Ok(None) };
    if blob.received_bytes != blob.size_bytes {
        return Ok(None);
    }
    let mut component = Vec::new();
    rows(tables, &key(CHUNK, digest), |_, value| component.extend_from_slice(value))?;
    Ok(Some(component))
}

/// The size of a component that is there as a whole, and whether it is a module.
pub(super) fn component_size(
    tables: &impl Tables,
    digest: &MachineDigest,
) -> Result<Option<(u64, bool)>, StorageError> {
    let blob = blob(tables, digest)?.filter(|blob| blob.received_bytes == blob.size_bytes);
    Ok(blob.map(|blob| (blob.size_bytes, blob.for_module)))
}

/// What members have said of a component.
pub fn readiness(
    tables: &impl Tables,
    digest: &MachineDigest,
) -> Result<BTreeMap<u64, pb::Ready>, StorageError> {
    let mut readiness = BTreeMap::new();
    rows(tables, &key(READY, digest), |_, value| {
        if let Ok(ready) = pb::Ready::decode(value) {
            readiness.insert(ready.member_id, ready);
        }
    })?;
    Ok(readiness)
}

pub(super) fn rows(
    tables: &impl Tables,
    prefix: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]),
) -> Result<(), StorageError> {
    if tables.kind(TABLE).is_none() {
        return Ok(());
    }
    tables.scan(TABLE, prefix, &after_prefix(prefix), false, &mut |key, value| {
        visit(key, value);
        ControlFlow::Continue(())
    })
}

/// The first key behind all that begin so.
pub(super) fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn key(kind: u8, digest: &MachineDigest) -> Vec<u8> {
    [&[kind], digest.as_slice()].concat()
}

fn chunk_key(digest: &MachineDigest, number: u32) -> Vec<u8> {
    [&key(CHUNK, digest), number.to_be_bytes().as_slice()].concat()
}

fn ready_key(digest: &MachineDigest, member_id: u64) -> Vec<u8> {
    [&key(READY, digest), member_id.to_be_bytes().as_slice()].concat()
}

fn digest_in(key: &[u8]) -> Option<MachineDigest> {
    key.get(1..33)?.try_into().ok()
}
