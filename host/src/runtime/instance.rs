//! One instance of a machine, in a store of its own, and the division of what can go wrong in it.

use wasmtime::{
    Store, Trap,
    component::{ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Lower, TypedFunc},
};

use super::{
    CallError, Fault, LocalFailure,
    host_state::{Ended, HostState},
};
use crate::limits::MACHINE_CALL_BYTES;

/// What a store holds: a [`HostState`], and whatever else an instance's imports reach.
pub(super) trait Behind: Send + 'static {
    fn host(&mut self) -> &mut HostState;
}

impl Behind for HostState {
    fn host(&mut self) -> &mut HostState {
        self
    }
}

pub(super) struct Instance<S: Behind = HostState> {
    store: Store<S>,
    instance: wasmtime::component::Instance,
    fuel_used: u64,
}

impl<S: Behind> Instance<S> {
    /// Makes an instance.
    pub fn new(pre: &InstancePre<S>, mut state: S) -> Result<Self, CallError> {
        let fuel = state.host().budget.fuel;
        let mut store = Store::new(pre.engine(), state);
        store.limiter(|state| state.host());
        store.set_hostcall_fuel(MACHINE_CALL_BYTES);
        let instance = store.set_fuel(fuel).and_then(|()| pre.instantiate(&mut store));
        match instance {
            Ok(instance) => Ok(Instance { store, instance, fuel_used: 0 }),
            Err(error) => {
                let ended = store.data_mut().host().ended.take();
                // Before the machine's first instruction, what fails is the host.
                let resources = || LocalFailure::Resources(format!("{error:#}")).into();
                Err(divide(ended, &error).unwrap_or_else(resources))
            }
        }
    }

    /// Looks up an export, whose type was checked when the machine was loaded; do it once an instance.
    pub fn export<P, R>(
        &mut self,
        index: &ComponentExportIndex,
    ) -> Result<TypedFunc<P, R>, LocalFailure>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        self.typed(index).map_err(|_| LocalFailure::Broken)
    }

    /// Looks up an export whose type is not known to be right.
    pub fn typed<P, R>(&mut self, index: &ComponentExportIndex) -> wasmtime::Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        self.instance.get_typed_func(&mut self.store, index)
    }

    /// Calls an export with the whole budget. After an error the instance is of no use any more.
    pub fn call<P, R>(&mut self, export: &TypedFunc<P, R>, parameters: P) -> Result<R, CallError>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift + 'static,
    {
        let state = self.store.data_mut().host();
        state.begin_call();
        let fuel = state.budget.fuel;
        let result =
            self.store.set_fuel(fuel).and_then(|()| export.call(&mut self.store, parameters));
        self.fuel_used += fuel.saturating_sub(self.store.get_fuel().unwrap_or(fuel));
        result.map_err(|error| {
            let ended = self.store.data_mut().host().ended.take();
            divide(ended, &error).unwrap_or_else(|| malformed().into())
        })
    }

    pub fn state(&mut self) -> &mut S {
        self.store.data_mut()
    }

    /// What all calls have used.
    pub fn fuel_used(&self) -> u64 {
        self.fuel_used
    }

    /// Throws the instance away, and gives back what stood behind it.
    pub fn into_state(self) -> S {
        self.store.into_data()
    }
}

/// What neither trapped nor was ended by the host is a result that does not follow the canonical ABI: a list beyond
/// the end of memory, a string that is not UTF-8, a case that the type does not have.
fn malformed() -> Fault {
    Fault::new("it returned what the contract does not allow")
}

/// Tells the machine's failures from this member's; none if the error itself does not say.
fn divide(ended: Option<Ended>, error: &wasmtime::Error) -> Option<CallError> {
    match ended {
        Some(Ended::Fault(fault)) => return Some(fault.into()),
        Some(Ended::Local(failure)) => return Some(failure.into()),
        None => {}
    }
    if error.is::<wasmtime::OutOfMemory>() || error.is::<wasmtime::PoolConcurrencyLimitError>() {
        return Some(LocalFailure::Resources(format!("{error:#}")).into());
    }
    let fault = match error.downcast_ref::<Trap>()? {
        Trap::OutOfFuel => Fault::new("it did not end within its limit on computing"),
        Trap::StackOverflow => Fault::new("it called itself too deeply"),
        Trap::UnreachableCodeReached => Fault::new("it panicked"),
        trap => Fault::new(trap.to_string()),
    };
    Some(fault.into())
}
