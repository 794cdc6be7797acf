//! Components that became machines.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};
use wasmtime::{
    Engine,
    component::{Component, InstancePre, Linker, TypedFunc},
};

use super::{
    Budget, Budgets, CallError, Description, RuntimeError, abi, cache,
    component::{Exports, check_imports},
    engine::{self, Guests},
    host_state::{HostState, Source},
    imports,
    instance::Instance,
    modules::{self, Journal, Module, ModuleState},
    reader::Reader,
};
use crate::limits::COMPONENT_BYTES;
use crate::storage::TableId;

pub(super) type ApplyExport = TypedFunc<(abi::Entry,), (abi::Outcome,)>;

/// The engines, and what machines and modules may reach through them. One a process.
pub struct Runtime {
    engine: Engine,
    linker: Linker<HostState>,
    module_engine: Engine,
    module_linker: Linker<ModuleState>,
    cache_dir: Option<PathBuf>,
    budgets: Budgets,
}

impl Runtime {
    /// Sets the engine up. `cache_dir` is where compiled components are kept; without it, each is compiled at every
    /// start, which takes a second or so.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Engine`]: this machine cannot run it; mostly too little address space.
    pub fn new(cache_dir: Option<PathBuf>) -> Result<Self, RuntimeError> {
        Self::with_budgets(cache_dir, Budgets::PINNED)
    }

    /// As [`Self::new`], with budgets of the caller's: for tests, which have no time to use up the pinned ones.
    pub fn with_budgets(
        cache_dir: Option<PathBuf>,
        budgets: Budgets,
    ) -> Result<Self, RuntimeError> {
        let broken = |error: wasmtime::Error| RuntimeError::Engine(format!("{error:#}"));
        let engine = engine::engine(Guests::Machines).map_err(broken)?;
        let mut linker = Linker::new(&engine);
        imports::add_to_linker(&mut linker).map_err(broken)?;
        let module_engine = engine::engine(Guests::Modules).map_err(broken)?;
        let mut module_linker = Linker::new(&module_engine);
        modules::add_to_linker(&mut module_linker).map_err(broken)?;
        Ok(Runtime { engine, linker, module_engine, module_linker, cache_dir, budgets })
    }

    /// Makes a module of a component, as [`Self::load`] makes a machine.
    ///
    /// # Errors
    ///
    /// Says what of the component does not follow the contract of modules.
    pub fn load_module(
        &self,
        component: &[u8],
        journal: &Arc<Journal>,
    ) -> Result<Module, RuntimeError> {
        let (digest, compiled) = self.compiled(&self.module_engine, component)?;
        Module::new(&self.module_engine, &self.module_linker, digest, &compiled, journal)
    }

    fn compiled(
        &self,
        engine: &Engine,
        component: &[u8],
    ) -> Result<([u8; 32], Component), RuntimeError> {
        if component.len() > COMPONENT_BYTES {
            return Err(RuntimeError::TooLarge { bytes: component.len() });
        }
        let digest: [u8; 32] = Sha256::digest(component).into();
        let compiled = cache::compiled(engine, self.cache_dir.as_deref(), &digest, component)
            .map_err(|error| RuntimeError::Invalid(format!("{error:#}")))?;
        Ok((digest, compiled))
    }

    /// Makes a machine of a component: checks what it imports and exports, compiles it or takes the compiled form from
    /// the cache, and asks it what it is.
    ///
    /// # Errors
    ///
    /// Says what of the component does not follow the contract.
    pub fn load(&self, component: &[u8]) -> Result<Machine, RuntimeError> {
        let (digest, compiled) = self.compiled(&self.engine, component)?;
        check_imports(&self.engine, &compiled)?;
        let exports = Exports::find(&compiled)?;
        let pre = self
            .linker
            .instantiate_pre(&compiled)
            .map_err(|error| RuntimeError::Invalid(format!("{error:#}")))?;
        let description = Arc::new(describe(&pre, &exports, self.budgets.brief)?);
        let budgets = self.budgets;
        let inner = Inner { pre, exports, description, digest, budgets, spare: Mutex::default() };
        Ok(Machine { inner: Arc::new(inner), locked: Arc::default() })
    }
}

/// Asks a machine what it is, and finds out whether its functions have the contract's types.
fn describe(
    pre: &InstancePre<HostState>,
    exports: &Exports,
    budget: Budget,
) -> Result<Description, RuntimeError> {
    let state = HostState::new(None, Source::Nothing, budget);
    let mut instance = Instance::new(pre, state)?;
    let wrong = |name| {
        move |error: wasmtime::Error| RuntimeError::Export { name, reason: format!("{error:#}") }
    };
    type Replied<T> = (Result<T, abi::Rejection>,);
    type Stepped = (Result<abi::Progress, String>,);
    let it = &mut instance;
    it.typed::<(Vec<u8>, abi::RequestLimits), Replied<abi::Admission>>(&exports.admit)
        .map_err(wrong("admit"))?;
    it.typed::<(abi::Entry,), (abi::Outcome,)>(&exports.apply).map_err(wrong("apply"))?;
    it.typed::<(Vec<u8>,), Replied<abi::Answered>>(&exports.query).map_err(wrong("query"))?;
    it.typed::<(), (Option<Vec<u8>>,)>(&exports.next_task).map_err(wrong("next-task"))?;
    it.typed::<(Vec<u8>,), (abi::Progress,)>(&exports.rebuild).map_err(wrong("rebuild"))?;
    it.typed::<(u32, Vec<u8>), Stepped>(&exports.migrate).map_err(wrong("migrate"))?;
    it.typed::<(Vec<u8>,), Stepped>(&exports.check).map_err(wrong("check"))?;
    let describe =
        it.typed::<(), (abi::Description,)>(&exports.describe).map_err(wrong("describe"))?;
    let (description,) = instance.call(&describe, ())?;
    description.try_into()
}

/// A machine, ready to run. Clones are the same machine.
#[derive(Clone)]
pub struct Machine {
    inner: Arc<Inner>,
    locked: Arc<[TableId]>,
}

struct Inner {
    pre: InstancePre<HostState>,
    exports: Exports,
    description: Arc<Description>,
    digest: [u8; 32],
    budgets: Budgets,
    /// See [`Machine::make_spare`].
    spare: Mutex<Option<(Instance, ApplyExport)>>,
}

impl Machine {
    /// The SHA-256 of the component.
    pub fn digest(&self) -> [u8; 32] {
        self.inner.digest
    }

    pub fn description(&self) -> &Description {
        &self.inner.description
    }

    /// The same machine, which fails where it writes to one of these tables: they are of a schema that the rows are not
    /// brought to yet.
    pub fn with_locked(&self, tables: Vec<TableId>) -> Self {
        Machine { inner: self.inner.clone(), locked: tables.into() }
    }

    /// Makes a reader; it takes an instance with its first call.
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    pub(super) fn budgets(&self) -> &Budgets {
        &self.inner.budgets
    }

    pub(super) fn exports(&self) -> &Exports {
        &self.inner.exports
    }

    pub(super) fn spare(&self) -> MutexGuard<'_, Option<(Instance, ApplyExport)>> {
        self.inner.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state behind a new instance.
    pub(super) fn state(&self, source: Source, budget: Budget) -> HostState {
        let mut state = HostState::new(Some(self.inner.description.clone()), source, budget);
        state.locked = self.locked.clone();
        state
    }

    /// Makes an instance.
    pub(super) fn instance(&self, state: HostState) -> Result<Instance, CallError> {
        Instance::new(&self.inner.pre, state)
    }
}
