//! Has every machine whose component is in the state compiled, and tells the cluster.
//!
//! It follows the state and nothing else, so a member that starts, joins, or was sent a snapshot does the same. What it
//! says goes through the log: an activation counts on no member's word but that which all have read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::instar::log as pb;
use proto::instar::log::host_command::Kind;

use super::machine_commands::{self, MachineDigest};
use super::progress::Progress;
use super::schema;
use super::shard::Shard;
use crate::runtime::{Description, Machines};
use crate::storage::{StorageError, Views};

/// How long it rests after it looked at the state.
const INTERVAL: Duration = Duration::from_millis(50);

/// The task. It runs on the raft runtime.
pub struct MachineKeeper {
    pub own_id: u64,
    pub machines: Arc<Machines>,
    pub views: Views,
    pub progress: Arc<Progress>,
    pub shard: Arc<Shard>,
}

impl MachineKeeper {
    pub async fn run(self) {
        let mut found: BTreeMap<MachineDigest, pb::Ready> = BTreeMap::new();
        loop {
            // What is applied while it looks is looked at again.
            let applied_index = self.progress.applied_index();
            if let Err(error) = self.look(&mut found).await {
                self.progress.fail(error.to_string());
                return;
            }
            tokio::time::sleep(INTERVAL).await;
            self.progress.wait_applied(applied_index + 1).await;
        }
    }

    async fn look(
        &self,
        found: &mut BTreeMap<MachineDigest, pb::Ready>,
    ) -> Result<(), StorageError> {
        let blobs = machine_commands::blobs(&*self.views.latest())?;
        found.retain(|digest, _| blobs.contains_key(digest));
        self.machines.retain(|digest| blobs.contains_key(digest));
        for (digest, blob) in &blobs {
            if !found.contains_key(digest) {
                let component = machine_commands::component(&*self.views.latest(), digest)?;
                let Some(component) = component else { continue };
                let ready = match blob.for_module {
                    true => self.try_out_module(*digest, component).await,
                    false => self.try_out(*digest, component).await,
                };
                found.insert(*digest, ready);
            }
            let told = machine_commands::readiness(&*self.views.latest(), digest)?;
            if let Some(ready) = found.get(digest)
                && told.get(&self.own_id) != Some(ready)
            {
                self.tell(ready.clone()).await;
            }
        }
        Ok(())
    }

    async fn tell(&self, ready: pb::Ready) {
        let command = pb::HostCommand { kind: Some(Kind::Ready(ready)) };
        if let Err(error) = self.shard.propose_for_host(command.encode_to_vec().into()).await {
            tracing::debug!(%error, "the cluster is to be told of a machine again");
        }
    }

    /// Compiles on a thread that may take its time.
    async fn try_out(&self, digest: MachineDigest, component: Vec<u8>) -> pb::Ready {
        let machines = self.machines.clone();
        let compiling = move || match machines.compiled(&digest) {
            Some(machine) => Ok(machine),
            None => machines.compile(&component).map_err(|error| error.to_string()),
        };
        let compiled = tokio::task::spawn_blocking(compiling).await;
        let compiled = compiled.unwrap_or_else(|_| Err("the compiler gave up".to_owned()));
        let lost = "the component is not the one that its digest names; put it again";
        let accepted = compiled.and_then(|machine| match machine.digest() == digest {
            true => Ok(machine),
            false => Err(lost.to_owned()),
        });
        let about = |refusal: String, description: Option<&Description>| pb::Ready {
            digest: Bytes::copy_from_slice(&digest),
            member_id: self.own_id,
            refusal,
            name: description.map(|it| it.name.clone()).unwrap_or_default(),
            version: description.map(|it| it.version.clone()).unwrap_or_default(),
            schema_version: description.map_or(0, |it| it.schema_version),
            tables: description.map(schema::tables_of).unwrap_or_default(),
            rehearsal: None,
        };
        match accepted {
            Ok(machine) => {
                let description = machine.description();
                tracing::info!(
                    machine = machine_commands::name_of(&digest),
                    version = description.version,
                    "a machine is compiled"
                );
                let ready = about(String::new(), Some(description));
                self.rehearse(machine.clone(), ready).await
            }
            Err(refusal) => about(refusal, None),
        }
    }
}
