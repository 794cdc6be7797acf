//! Runs modules: components that follow the contract in `wit/module/`, beside the machine and inside its entries.
//!
//! - Every call has an instance of its own, so a module can keep nothing but what it wrote.
//! - What a module reads costs it fuel, the machine's own work for it included: one figure bounds the whole call.
//! - What it writes is given back ([`Written`]), never stored here.

mod abi;
mod imports;
mod journal;
mod state;
mod types;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wasmtime::{
    Engine,
    component::{
        Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower,
    },
};

pub(in crate::runtime) use imports::add_to_linker;
use journal::Run;
pub use journal::{Export, Journal, Line, Page, Work};
pub(in crate::runtime) use state::ModuleState;
pub use types::{
    Access, KeyValue, Keys, ModuleDescription, Moment, Operation, Serves, TouchedKey, Written,
};

use super::{
    CallError, Fault, LocalFailure, Rejection, RuntimeError, abi::Rejection as RawRejection,
    component::is_name, instance::Instance, outcome::check_rejection,
};
use crate::limits::{MODULE_EVENT_FUEL, MODULE_FUEL, MODULE_RESULT_BYTES};
use crate::metrics::metrics;

const PACKAGE: &str = "instar:module";
const VERSION: &str = "1.0.0";
const INTERFACES: [&str; 3] = ["kv", "store", "log"];

/// The full name of an interface of the contract.
fn interface(name: &str) -> String {
    format!("{PACKAGE}/{name}@{VERSION}")
}

/// A module, ready to run. Clones are the same one.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Inner>,
}

struct Inner {
    pre: InstancePre<ModuleState>,
    exports: Exports,
    description: ModuleDescription,
    digest: [u8; 32],
    journal: Arc<Journal>,
}

struct Exports {
    describe: ComponentExportIndex,
    call: ComponentExportIndex,
    admit: ComponentExportIndex,
    react: ComponentExportIndex,
}

type CallParameters = (String, Vec<u8>, abi::Moment);
type CallResult = (Result<Vec<u8>, RawRejection>,);
type AdmitParameters = (Vec<abi::OperationCase>, abi::Moment);
type AdmitResult = (Result<(), RawRejection>,);
type ReactParameters = (Vec<abi::Event>, abi::Moment);

impl Module {
    pub(in crate::runtime) fn new(
        engine: &Engine,
        linker: &Linker<ModuleState>,
        digest: [u8; 32],
        compiled: &Component,
        journal: &Arc<Journal>,
    ) -> Result<Self, RuntimeError> {
        check_imports(engine, compiled)?;
        let find = |name| {
            compiled.get_export_index(None, name).ok_or_else(|| RuntimeError::ModuleExport {
                name,
                reason: "it is missing".to_owned(),
            })
        };
        let exports = Exports {
            describe: find("describe")?,
            call: find("call")?,
            admit: find("admit")?,
            react: find("react")?,
        };
        let pre = linker
            .instantiate_pre(compiled)
            .map_err(|error| RuntimeError::Invalid(format!("{error:#}")))?;
        let description = describe(&pre, &exports)?;
        let journal = journal.clone();
        Ok(Module { inner: Arc::new(Inner { pre, exports, description, digest, journal }) })
    }

    /// The SHA-256 of the component.
    pub fn digest(&self) -> [u8; 32] {
        self.inner.digest
    }

    pub fn description(&self) -> &ModuleDescription {
        &self.inner.description
    }

    /// Runs a procedure. What was written counts only beside an answer that is no refusal.
    ///
    /// # Errors
    ///
    /// [`CallError::Fault`]: the module's own failure, the same on every member.
    pub fn call(
        &self,
        access: Access,
        procedure: String,
        argument: &[u8],
        moment: Moment,
    ) -> Result<(Result<Bytes, Rejection>, Written), CallError> {
        let parameters: CallParameters = (procedure, argument.to_vec(), moment.into());
        let run = (Export::Call, moment.index, 0);
        let (reply, written) = self.run::<_, CallResult>(access, run, parameters)?;
        if reply.0.as_ref().is_ok_and(|body| body.len() > MODULE_RESULT_BYTES) {
            let message = format!("its answer is longer than {MODULE_RESULT_BYTES} bytes");
            return Err(Fault::new(message).into());
        }
        Ok((checked(reply.0)?.map(Bytes::from), written))
    }

    /// Asks whether operations may be done.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn admit(
        &self,
        access: Access,
        operations: Vec<Operation>,
        moment: Moment,
    ) -> Result<Result<(), Rejection>, CallError> {
        let run = (Export::Admit, moment.index, operations.len());
        let operations = operations.into_iter().map(abi::OperationCase::from).collect();
        let parameters: AdmitParameters = (operations, moment.into());
        let (reply, _) = self.run::<_, AdmitResult>(access, run, parameters)?;
        checked(reply.0)
    }

    /// Tells what an entry did, and gives what the module adds to it.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub fn react(
        &self,
        access: Access,
        events: Vec<TouchedKey>,
        moment: Moment,
    ) -> Result<Written, CallError> {
        let run = (Export::React, moment.index, events.len());
        let events = events.into_iter().map(abi::Event::from).collect();
        let parameters: ReactParameters = (events, moment.into());
        self.run::<_, ()>(access, run, parameters).map(|((), written)| written)
    }

    /// One call of an export, in the entry of an index, that is shown so many operations or events.
    fn run<P, R>(
        &self,
        access: Access,
        (export, index, shown): (Export, u64, usize),
        parameters: P,
    ) -> Result<(R, Written), CallError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        let started = Instant::now();
        let Inner { pre, exports, description, journal, .. } = &*self.inner;
        let (may_write, function) = match export {
            Export::Call => (true, &exports.call),
            Export::Admit => (false, &exports.admit),
            Export::React => (true, &exports.react),
        };
        let fuel = MODULE_FUEL + MODULE_EVENT_FUEL * shown as u64;
        let state = ModuleState::new(&description.name, Some(access), may_write, fuel);
        let mut instance = Instance::new(pre, state)?;
        let function = instance.export::<P, R>(function)?;
        let result = instance.call(&function, parameters);
        let fuel = instance.fuel_used();
        metrics().guest_fuel.inc_by(fuel);
        let mut state = instance.into_state();
        let (failed, lines) = (result.is_err(), std::mem::take(&mut state.lines));
        let time = started.elapsed();
        journal.record(&description.name, Run { export, index, failed, fuel, time, lines });
        Ok((result?, state.into_written()))
    }
}

fn checked<T>(reply: Result<T, RawRejection>) -> Result<Result<T, Rejection>, CallError> {
    let reply = reply.map_err(Rejection::from);
    if let Err(rejection) = &reply {
        check_rejection(rejection)?;
    }
    Ok(reply)
}

/// A module may import what the contract offers, and nothing else.
fn check_imports(engine: &Engine, component: &Component) -> Result<(), RuntimeError> {
    let allowed = INTERFACES.map(interface);
    for (name, _) in component.component_type().imports(engine) {
        if !allowed.iter().any(|it| it == name) {
            return Err(RuntimeError::ModuleImport { name: name.to_owned() });
        }
    }
    Ok(())
}

/// Asks a module what it is, and finds out whether its functions have the contract's types.
fn describe(
    pre: &InstancePre<ModuleState>,
    exports: &Exports,
) -> Result<ModuleDescription, RuntimeError> {
    let wrong = |name| {
        move |error: wasmtime::Error| RuntimeError::ModuleExport {
            name,
            reason: format!("{error:#}"),
        }
    };
    let state = ModuleState::new("", None, false, MODULE_FUEL);
    let mut instance = Instance::new(pre, state)?;
    let it = &mut instance;
    it.typed::<CallParameters, CallResult>(&exports.call).map_err(wrong("call"))?;
    it.typed::<AdmitParameters, AdmitResult>(&exports.admit).map_err(wrong("admit"))?;
    it.typed::<ReactParameters, ()>(&exports.react).map_err(wrong("react"))?;
    let describe =
        it.typed::<(), (abi::Description,)>(&exports.describe).map_err(wrong("describe"))?;
    let (description,) = instance.call(&describe, ())?;
    for (what, text) in [("name", &description.name), ("version", &description.version)] {
        // A name is a part of paths.
        if !is_name(text) || text.contains('/') {
            return Err(RuntimeError::Description(format!("its {what} is {text:?}")));
        }
    }
    let serves = Serves {
        call: description.serves.contains(abi::Served::CALL),
        admit: description.serves.contains(abi::Served::ADMIT),
        react: description.serves.contains(abi::Served::REACT),
    };
    Ok(ModuleDescription { name: description.name, version: description.version, serves })
}

impl From<Moment> for abi::Moment {
    fn from(moment: Moment) -> Self {
        abi::Moment { index: moment.index, time_ms: moment.time_ms, revision: moment.revision }
    }
}

impl From<LocalFailure> for RuntimeError {
    fn from(failure: LocalFailure) -> Self {
        RuntimeError::Call(failure.into())
    }
}
