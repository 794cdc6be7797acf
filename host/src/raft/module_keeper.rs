//! Has modules compiled that are in the state, as `machine_keeper` has machines.

use bytes::Bytes;
use proto::instar::log as pb;

use super::machine_commands::{self, MachineDigest};
use super::machine_keeper::MachineKeeper;

impl MachineKeeper {
    /// What there is to say of a module. It compiles on a thread that may take its time.
    pub(super) async fn try_out_module(
        &self,
        digest: MachineDigest,
        component: Vec<u8>,
    ) -> pb::Ready {
        let machines = self.machines.clone();
        let compiling = move || match machines.compiled_module(&digest) {
            Some(module) => Ok(module),
            None => machines.compile_module(&component).map_err(|error| error.to_string()),
        };
        let compiled = tokio::task::spawn_blocking(compiling).await;
        let compiled = compiled.unwrap_or_else(|_| Err("the compiler gave up".to_owned()));
        let mut ready = pb::Ready {
            digest: Bytes::copy_from_slice(&digest),
            member_id: self.own_id,
            ..pb::Ready::default()
        };
        match compiled {
            Ok(module) if module.digest() == digest => {
                let description = module.description();
                ready.name = description.name.clone();
                ready.version = description.version.clone();
                tracing::info!(
                    module = ready.name,
                    digest = machine_commands::name_of(&digest),
                    "a module is compiled"
                );
            }
            Ok(_) => {
                let refusal = "the component is not the one that its digest names; put it again";
                ready.refusal = refusal.to_owned();
            }
            Err(refusal) => ready.refusal = refusal,
        }
        ready
    }
}
