//! The machines that are compiled, and which of them runs.
//!
//! One is made while the member starts, others while it serves, always beside the thread that applies: switching is
//! a look-up. A reader asks the machine that made the view that it reads, so what it answers is of one machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::compiler::Compiler;
use super::{
    Admission, Answer, Journal, Machine, Module, QueryError, Reader, Runtime, RuntimeError,
};
use crate::limits::COMPILE_TIME;
use crate::storage::View;

/// All machines of a process.
pub struct Machines {
    runtime: Arc<Runtime>,
    compiler: Compiler,
    compiled: Mutex<BTreeMap<[u8; 32], Machine>>,
    active: ArcSwap<Machine>,
    modules: Mutex<BTreeMap<[u8; 32], Module>>,
    journal: Arc<Journal>,
}

impl Machines {
    pub fn new(runtime: Runtime, active: Machine) -> Arc<Self> {
        let compiled = BTreeMap::from([(active.digest(), active.clone())]);
        let active = ArcSwap::from_pointee(active);
        Arc::new(Self {
            runtime: Arc::new(runtime),
            compiler: Compiler::start(COMPILE_TIME),
            compiled: Mutex::new(compiled),
            active,
            modules: Mutex::default(),
            journal: Arc::default(),
        })
    }

    /// The one that applies what comes next.
    pub fn active(&self) -> Machine {
        Machine::clone(&self.active.load())
    }

    pub fn set_active(&self, machine: Machine) {
        self.active.store(Arc::new(machine));
    }

    pub fn compiled(&self, digest: &[u8; 32]) -> Option<Machine> {
        self.lock().get(digest).cloned()
    }

    /// Checks and compiles a component that nobody has vouched for, in a bounded time, and keeps it.
    pub fn try_out(&self, component: Bytes) -> Result<Machine, RuntimeError> {
        let runtime = self.runtime.clone();
        let machine = self.compiler.run(move || runtime.load(&component))?;
        self.lock().insert(machine.digest(), machine.clone());
        Ok(machine)
    }

    /// As [`Self::try_out`], for a module.
    pub fn try_out_module(&self, component: Bytes) -> Result<Module, RuntimeError> {
        let (runtime, journal) = (self.runtime.clone(), self.journal.clone());
        let module = self.compiler.run(move || runtime.load_module(&component, &journal))?;
        self.lock_modules().insert(module.digest(), module.clone());
        Ok(module)
    }

    /// Compiles a component that the cluster runs, however long it takes: a second or so.
    pub fn compile(&self, component: &[u8]) -> Result<Machine, RuntimeError> {
        let machine = self.runtime.load(component)?;
        self.lock().insert(machine.digest(), machine.clone());
        Ok(machine)
    }

    /// Gives up those that the test refuses.
    pub fn retain(&self, keep: impl Fn(&[u8; 32]) -> bool) {
        let active = self.active().digest();
        self.lock().retain(|digest, _| *digest == active || keep(digest));
        self.lock_modules().retain(|digest, _| keep(digest));
    }

    pub fn compiled_module(&self, digest: &[u8; 32]) -> Option<Module> {
        self.lock_modules().get(digest).cloned()
    }

    /// As [`Self::compile`], for a module.
    pub fn compile_module(&self, component: &[u8]) -> Result<Module, RuntimeError> {
        let module = self.runtime.load_module(component, &self.journal)?;
        self.lock_modules().insert(module.digest(), module.clone());
        Ok(module)
    }

    /// What modules have done here.
    pub fn journal(&self) -> Arc<Journal> {
        self.journal.clone()
    }

    fn lock_modules(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Module>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn reader(self: &Arc<Self>) -> ActiveReader {
        let machine = self.active();
        ActiveReader { machines: self.clone(), digest: machine.digest(), reader: machine.reader() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 32], Machine>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`Reader`] of whichever machine is the right one.
pub struct ActiveReader {
    machines: Arc<Machines>,
    digest: [u8; 32],
    reader: Reader,
}

impl ActiveReader {
    /// As [`Reader::admit`], of the active machine.
    pub fn admit(&mut self, request: &[u8], max_txn_ops: u32) -> Result<Admission, QueryError> {
        let active = self.machines.active.load();
        if active.digest() != self.digest {
            self.digest = active.digest();
            self.reader = active.reader();
        }
        self.reader.admit(request, max_txn_ops)
    }

    /// As [`Reader::query`].
    pub fn query(&mut self, view: &Arc<View>, request: &[u8]) -> Result<Answer, QueryError> {
        self.follow(view).query(view, request)
    }

    /// As [`Reader::next_task`].
    pub fn next_task(&mut self, view: &Arc<View>) -> Result<Option<Bytes>, QueryError> {
        self.follow(view).next_task(view)
    }

    /// A state of a machine that this process has not compiled is one that no slot speaks of: made by another build.
    fn follow(&mut self, view: &View) -> &mut Reader {
        let wanted = view.mark().machine;
        if wanted != self.digest {
            let machine = self.machines.compiled(&wanted);
            let machine = machine.unwrap_or_else(|| self.machines.active());
            if machine.digest() != self.digest {
                self.digest = machine.digest();
                self.reader = machine.reader();
            }
        }
        &mut self.reader
    }
}
