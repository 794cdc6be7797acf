//! What is asked of modules: bringing one into the state, activating it where all can run it, disabling, and calls.

use bytes::Bytes;
use prost::Message;
use proto::instar::log as log_pb;
use proto::instar::log::host_command::Kind;
use proto::instar::v1 as pb;
use sha2::{Digest, Sha256};

use super::coordinator::Shared;
use super::machine_service::{
    DEADLINE_EXCEEDED, FAILED_PRECONDITION, INVALID_ARGUMENT, LOOK_INTERVAL, NOT_FOUND,
    PREPARE_TIMEOUT, broken, propose, refuse, send,
};
use crate::api::{ModuleRequest, RequestError};
use crate::raft::{self, Shard};

/// Serves one request. All are answered with how it stands afterwards.
pub async fn serve(
    shared: &Shared,
    shard: &Shard,
    request: ModuleRequest,
) -> Result<pb::Modules, RequestError> {
    match request {
        ModuleRequest::List => shard.read_index().await?,
        ModuleRequest::Put(component) => put(shared, shard, component).await?,
        ModuleRequest::Activate { name, digest, grants } => {
            shard.read_index().await?;
            let digest = match digest.is_empty() {
                true => only_one(shared, &name).await?,
                false => digest,
            };
            prepare(shared, &digest).await?;
            let activate = log_pb::ActivateModule { name, digest, prefixes: grants };
            propose(shard, Kind::ActivateModule(activate)).await?;
        }
        ModuleRequest::Disable { name } => {
            propose(shard, Kind::DisableModule(log_pb::DisableModule { name })).await?;
        }
    }
    list(shared)
}

/// Runs a procedure.
pub async fn call(
    shard: &Shard,
    call: pb::CallModuleRequest,
) -> Result<pb::CallModuleResponse, RequestError> {
    let pb::CallModuleRequest { name, procedure, argument } = call;
    let call = log_pb::CallModule { name, procedure, argument };
    let command = log_pb::HostCommand { kind: Some(Kind::CallModule(call)) };
    let outcome = shard.propose_for_host(command.encode_to_vec().into()).await?;
    let result = outcome.response.map_err(RequestError::Rejected)?;
    Ok(pb::CallModuleResponse { result, revision: outcome.revision as i64 })
}

/// Checks and compiles the component here before any of it goes to the log.
async fn put(shared: &Shared, shard: &Shard, component: Bytes) -> Result<(), RequestError> {
    let machines = shared.machines.clone();
    let compiled = component.clone();
    let compiling = tokio::task::spawn_blocking(move || machines.try_out_module(compiled));
    match compiling.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(refuse(INVALID_ARGUMENT, error)),
        Err(_) => return Err(RequestError::Stopped),
    }
    shard.read_index().await?;
    send(shared, shard, Sha256::digest(&component).into(), &component, true).await
}

/// The component of a name that is not active yet, if there is no doubt which one is meant.
async fn only_one(shared: &Shared, name: &str) -> Result<Bytes, RequestError> {
    let deadline = tokio::time::Instant::now() + PREPARE_TIMEOUT;
    loop {
        let modules = list(shared)?;
        // One that nobody has looked at yet has no name.
        let is_unknown = |it: &pb::ModuleComponent| it.name.is_empty() && it.refusal.is_empty();
        if modules.components.iter().any(is_unknown) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_INTERVAL).await;
            continue;
        }
        let is_active =
            |digest: &Bytes| modules.modules.iter().any(|it| it.enabled && it.digest == *digest);
        let named = modules.components.iter().filter(|it| it.name == name);
        let mut found = named.filter(|it| !is_active(&it.digest)).map(|it| it.digest.clone());
        return match (found.next(), found.next()) {
            (Some(digest), None) => Ok(digest),
            (None, _) => {
                let message = format!(
                    "there is no component of a module {name:?} that is not active: put one"
                );
                Err(refuse(NOT_FOUND, message))
            }
            (Some(_), Some(_)) => {
                let message = format!(
                    "there are several components of {name:?}: say which with --digest; `module list` shows them"
                );
                Err(refuse(FAILED_PRECONDITION, message))
            }
        };
    }
}

/// Waits until every voter has said that it can run it.
async fn prepare(shared: &Shared, digest: &Bytes) -> Result<(), RequestError> {
    let deadline = tokio::time::Instant::now() + PREPARE_TIMEOUT;
    loop {
        let modules = list(shared)?;
        let component = modules.components.iter().find(|it| it.digest == *digest);
        let Some(component) = component.filter(|it| it.received_bytes == it.size_bytes) else {
            let name = raft::machine_name(digest);
            let message = format!("the module {name} is not there, or not whole: put it first");
            return Err(refuse(NOT_FOUND, message));
        };
        if !component.refusal.is_empty() {
            return Err(refuse(FAILED_PRECONDITION, &component.refusal));
        }
        if component.ready_voters == component.voters {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            let (ready, voters) = (component.ready_voters, component.voters);
            let message = format!(
                "only {ready} of {voters} voters have compiled the module: see whether all run, and try again"
            );
            return Err(refuse(DEADLINE_EXCEEDED, message));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn list(shared: &Shared) -> Result<pb::Modules, RequestError> {
    let view = shared.views.latest();
    let status = |slot: log_pb::ModuleSlot| pb::ModuleStatus {
        name: slot.name,
        digest: slot.digest,
        grants: slot.prefixes,
        enabled: slot.enabled,
        failures: slot.failures,
        last_failure: slot.last_failure,
    };
    let slots = raft::module_slots(&*view).map_err(broken)?;
    let mut components = Vec::new();
    let blobs = raft::blobs(&*view).map_err(broken)?;
    for (digest, blob) in blobs.into_iter().filter(|(_, blob)| blob.for_module) {
        let readiness = raft::readiness(&*view, &digest).map_err(broken)?;
        let members = shared.node.members();
        let voters: Vec<u64> =
            members.iter().filter(|member| !member.is_learner).map(|member| member.id).collect();
        let told = || voters.iter().filter_map(|id| readiness.get(id));
        let ready: Vec<_> = told().filter(|ready| ready.refusal.is_empty()).collect();
        let refused = told().find(|ready| !ready.refusal.is_empty());
        components.push(pb::ModuleComponent {
            digest: Bytes::copy_from_slice(&digest),
            name: ready.first().map(|ready| ready.name.clone()).unwrap_or_default(),
            version: ready.first().map(|ready| ready.version.clone()).unwrap_or_default(),
            size_bytes: blob.size_bytes,
            received_bytes: blob.received_bytes,
            ready_voters: ready.len() as u32,
            voters: voters.len() as u32,
            refusal: refused
                .map(|it| {
                    format!("member {:x} cannot run this module: {}", it.member_id, it.refusal)
                })
                .unwrap_or_default(),
        });
    }
    Ok(pb::Modules { modules: slots.into_iter().map(status).collect(), components })
}
