//! What operators ask of machines: bringing one into the state, waiting until everyone has it, and switching.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::instar::log as log_pb;
use proto::instar::log::host_command::Kind;
use proto::instar::v1 as pb;
use sha2::{Digest, Sha256};

use super::coordinator::Shared;
use crate::api::{MachineRequest, RequestError};
use crate::limits;
use crate::raft::{self, MachineDigest, Shard};
use crate::runtime::{BUILT_IN, Machines, Rejection};

/// How often it is looked whether the voters are ready.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long they may take: as long as a slow machine compiles.
pub(super) const PREPARE_TIMEOUT: Duration = Duration::from_secs(60);

/// gRPC's codes.
pub(super) const INVALID_ARGUMENT: u32 = 3;
pub(super) const DEADLINE_EXCEEDED: u32 = 4;
pub(super) const NOT_FOUND: u32 = 5;
pub(super) const FAILED_PRECONDITION: u32 = 9;

pub(super) fn refuse(code: u32, message: impl std::fmt::Display) -> RequestError {
    RequestError::Rejected(Rejection { code, message: format!("instar: {message}") })
}

pub(super) fn broken(error: impl std::fmt::Display) -> RequestError {
    RequestError::Unavailable(error.to_string())
}

/// Serves one request. All are answered with how it stands afterwards.
pub async fn serve(
    shared: &Shared,
    shard: &Shard,
    request: MachineRequest,
) -> Result<pb::Machines, RequestError> {
    match request {
        MachineRequest::List => shard.read_index().await?,
        MachineRequest::Put(component) => put(shared, shard, component).await?,
        MachineRequest::Prepare(digest) => {
            shard.read_index().await?;
            prepare(shared, digest_of(&digest)?).await?;
        }
        MachineRequest::Activate { digest, expected_active } => {
            let digest = Bytes::copy_from_slice(&digest_of(&digest)?);
            let expected_active = or_active(shared, shard, expected_active).await?;
            propose(shard, Kind::Activate(log_pb::Activate { digest, expected_active })).await?;
        }
        MachineRequest::Rollback { expected_active } => {
            let expected_active = or_active(shared, shard, expected_active).await?;
            propose(shard, Kind::Rollback(log_pb::Rollback { expected_active })).await?;
        }
        MachineRequest::Finalise { expected_active } => {
            let expected_active = or_active(shared, shard, expected_active).await?;
            propose(shard, Kind::Finalise(log_pb::Finalise { expected_active })).await?;
        }
    }
    list(shared)
}

async fn or_active(shared: &Shared, shard: &Shard, expected: Bytes) -> Result<Bytes, RequestError> {
    if expected.is_empty() {
        shard.read_index().await?;
        return Ok(Bytes::copy_from_slice(&shared.machines.active().digest()));
    }
    Ok(expected)
}

pub(super) fn digest_of(bytes: &[u8]) -> Result<MachineDigest, RequestError> {
    bytes.try_into().map_err(|_| refuse(INVALID_ARGUMENT, "a machine's digest has 32 bytes"))
}

pub(super) async fn propose(shard: &Shard, kind: Kind) -> Result<(), RequestError> {
    let command = log_pb::HostCommand { kind: Some(kind) }.encode_to_vec();
    let outcome = shard.propose_for_host(command.into()).await?;
    outcome.response.map(drop).map_err(RequestError::Rejected)
}

/// Checks and compiles the component here before any of it goes to the log. The active machine's component goes with the
/// first, so that there is a way back.
async fn put(shared: &Shared, shard: &Shard, component: Bytes) -> Result<(), RequestError> {
    let machines = shared.machines.clone();
    check(machines, component.clone()).await?;
    shard.read_index().await?;
    let digest: MachineDigest = Sha256::digest(BUILT_IN).into();
    if shared.machines.active().digest() == digest {
        send(shared, shard, digest, &Bytes::from_static(BUILT_IN), false).await?;
    }
    send(shared, shard, Sha256::digest(&component).into(), &component, false).await
}

async fn check(machines: Arc<Machines>, component: Bytes) -> Result<(), RequestError> {
    let compiling = tokio::task::spawn_blocking(move || machines.try_out(component));
    match compiling.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(refuse(INVALID_ARGUMENT, error)),
        Err(_) => Err(RequestError::Stopped),
    }
}

pub(super) async fn send(
    shared: &Shared,
    shard: &Shard,
    digest: MachineDigest,
    component: &Bytes,
    for_module: bool,
) -> Result<(), RequestError> {
    let view = shared.views.latest();
    let known = raft::blobs(&*view).map_err(broken)?;
    let mut offset = known.get(&digest).map_or(0, |blob| blob.received_bytes as usize);
    drop(view);
    while offset < component.len() {
        let end = component.len().min(offset + limits::MACHINE_CHUNK_BYTES);
        let chunk = log_pb::PutChunk {
            digest: Bytes::copy_from_slice(&digest),
            size_bytes: component.len() as u64,
            offset: offset as u64,
            data: component.slice(offset..end),
            for_module,
        };
        propose(shard, Kind::PutChunk(chunk)).await?;
        offset = end;
    }
    Ok(())
}

/// Waits until every voter has said that it is ready.
async fn prepare(shared: &Shared, digest: MachineDigest) -> Result<(), RequestError> {
    let deadline = tokio::time::Instant::now() + PREPARE_TIMEOUT;
    loop {
        let machines = list(shared)?;
        let component = machines.components.iter().find(|it| it.digest == digest.as_slice());
        let Some(component) = component.filter(|it| it.received_bytes == it.size_bytes) else {
            let name = raft::machine_name(&digest);
            return Err(refuse(
                NOT_FOUND,
                format!("{name} is not there, or not whole: put it first"),
            ));
        };
        check_successor(shared, &digest)?;
        if let Some(voter) = component.voters.iter().find(|voter| !voter.refusal.is_empty()) {
            let (id, reason) = (voter.member_id, &voter.refusal);
            let message = format!("member {id:x} cannot run this machine: {reason}");
            return Err(refuse(FAILED_PRECONDITION, message));
        }
        let Some(late) = component.voters.iter().find(|voter| !voter.ready) else { return Ok(()) };
        if tokio::time::Instant::now() >= deadline {
            let message = format!(
                "member {:x} has not compiled the machine in time: see whether it runs, and prepare again",
                late.member_id
            );
            return Err(refuse(DEADLINE_EXCEEDED, message));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Refuses early what the activation would refuse.
fn check_successor(shared: &Shared, digest: &MachineDigest) -> Result<(), RequestError> {
    let view = shared.views.latest();
    let slots = raft::slots(&*view).map_err(broken)?;
    let readiness = raft::readiness(&*view, digest).map_err(broken)?;
    let active = shared.machines.active();
    let mut ready = readiness.values().filter(|ready| ready.refusal.is_empty());
    if digest == &active.digest() {
        return Ok(());
    }
    let checked =
        ready.try_for_each(|ready| raft::check_successor(&slots, active.description(), ready));
    checked.map_err(|reason| {
        refuse(FAILED_PRECONDITION, format!("this machine cannot take over: {reason}"))
    })
}

fn list(shared: &Shared) -> Result<pb::Machines, RequestError> {
    let view = shared.views.latest();
    let slots = raft::slots(&*view).map_err(broken)?;
    let mut components = Vec::new();
    let blobs = raft::blobs(&*view).map_err(broken)?;
    for (digest, blob) in blobs.into_iter().filter(|(_, blob)| !blob.for_module) {
        let readiness = raft::readiness(&*view, &digest).map_err(broken)?;
        let described = readiness.values().find(|ready| ready.refusal.is_empty()).cloned();
        let described = described.unwrap_or_default();
        let voter = |id: u64| {
            let told = readiness.get(&id);
            let refusal = told.map(|ready| ready.refusal.clone()).unwrap_or_default();
            let ready = told.is_some() && refusal.is_empty();
            let rehearsal = told.and_then(|ready| ready.rehearsal).map(|it| pb::Rehearsal {
                steps: it.steps,
                took_us: it.took_us,
                longest_us: it.longest_us,
                is_whole: it.is_whole,
            });
            pb::Readiness { member_id: id, ready, refusal, rehearsal }
        };
        let members = shared.node.members();
        let voters = members.iter().filter(|member| !member.is_learner);
        components.push(pb::Component {
            digest: Bytes::copy_from_slice(&digest),
            name: described.name,
            version: described.version,
            schema_version: described.schema_version,
            size_bytes: blob.size_bytes,
            received_bytes: blob.received_bytes,
            voters: voters.map(|member| voter(member.id)).collect(),
        });
    }
    let active = match slots.active.is_empty() {
        true => Bytes::copy_from_slice(&shared.machines.active().digest()),
        false => slots.active,
    };
    Ok(pb::Machines {
        active,
        previous: slots.previous,
        on_probation: slots.on_probation,
        components,
        schema_version: slots.schema_version,
        migration: slots.migration.map(|migration| pb::Migration {
            from_schema: migration.from_schema,
            steps: migration.steps,
            cursor: migration.cursor,
            failure: migration.failure,
        }),
    })
}
