//! Runs modules inside the entries that concern them.
//!
//! ```text
//! call:  module -> its writes as one request --+
//! others' requests ----------------------------+-> admit -> machine -> react -> (once more, with what they add)
//! ```
//!
//! An entry that concerns a module is applied alone, on the view before it: what a module reads is what the machine's
//! own query answers there. Which entries these are, and what comes of them, depends on the state and the log alone.
//! Whatever fails leaves nothing of the entry behind but the count of failures.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::EntryPayload;
use proto::instar::log as pb;
use xxhash_rust::xxh3::Xxh3;

use super::apply::{Applier, command_of, commands_of};
use super::execution::Execution;
use super::machine_commands::{self, FAILED_PRECONDITION, MachineDigest, TABLE, refuse};
use super::module_commands::{self, after_failure, module_slots, row_prefix, write_slot};
use super::module_requests::{self, Effects, MachineKeys, effects, too_many, touched, touches};
use super::types::{Command, Entry};
use crate::limits;
use crate::runtime::{
    Access, Applied, CallError, Cost, Fault, KeyValue, Keys, Machines, Module, Moment, Operation,
    Outcome, Rejection, Spent, TouchedKey, Written,
};
use crate::storage::{Overlay, Tables};

/// gRPC's codes.
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;

/// The modules that are enabled, in the order of their names.
#[derive(Default)]
pub struct ActiveModules(Vec<ActiveModule>);

struct ActiveModule {
    slot: pb::ModuleSlot,
    module: Module,
    prefixes: Arc<[Bytes]>,
}

impl ActiveModules {
    /// Those that a state says are enabled. A member that has not compiled one yet, having just started or come by a
    /// snapshot, does so now, and applies nothing meanwhile.
    pub fn load(tables: &impl Tables, machines: &Arc<Machines>) -> io::Result<Self> {
        let mut modules = Vec::new();
        for slot in module_slots(tables).map_err(io::Error::other)? {
            if !slot.enabled {
                continue;
            }
            let module = obtain(tables, machines, &slot)?;
            let prefixes = slot.prefixes.clone().into();
            modules.push(ActiveModule { slot, module, prefixes });
        }
        Ok(Self(modules))
    }

    /// Whether an entry has to be shown to a module.
    pub(super) fn concern(&self, entry: &Entry) -> bool {
        let sees = |it: &ActiveModule| {
            let serves = it.module.description().serves;
            serves.admit || serves.react
        };
        if !self.0.iter().any(sees) {
            return false;
        }
        let Some(command) = command_of(entry).filter(|command| !command.for_host) else {
            return false;
        };
        match effects(&command.request) {
            Effects::Nothing => false,
            Effects::OfLeases => self.0.iter().any(|it| it.module.description().serves.react),
            Effects::Operations(operations) => {
                self.0.iter().filter(|it| sees(it)).any(|it| it.is_touched_by(&operations))
            }
        }
    }
}

fn obtain(
    tables: &impl Tables,
    machines: &Arc<Machines>,
    slot: &pb::ModuleSlot,
) -> io::Result<Module> {
    let lost = || io::Error::other(format!("the component of module {} is not there", slot.name));
    let digest: MachineDigest = slot.digest.as_ref().try_into().map_err(|_| lost())?;
    if let Some(module) = machines.compiled_module(&digest) {
        return Ok(module);
    }
    let component = machine_commands::component(tables, &digest).map_err(io::Error::other)?;
    let component = component.ok_or_else(lost)?;
    let machines = machines.clone();
    let compiling = std::thread::Builder::new()
        .name("compile".to_owned())
        .spawn(move || machines.compile_module(&component))?;
    compiling.join().map_err(|_| lost())?.map_err(io::Error::other)
}

impl ActiveModule {
    fn covers(&self, key: &[u8]) -> bool {
        self.prefixes.iter().any(|prefix| key.starts_with(prefix))
    }

    fn is_touched_by(&self, operations: &[Operation]) -> bool {
        operations.iter().any(|it| self.prefixes.iter().any(|prefix| touches(it, prefix)))
    }

    fn name(&self) -> &str {
        &self.slot.name
    }

    /// What clients are told of a failure.
    fn failed(&self, reason: &str) -> Rejection {
        let message =
            format!("instar: the module {:?} failed on this request: {reason}", self.name());
        Rejection { code: INTERNAL, message }
    }
}

/// What modules did in one entry, besides what the machine did for them.
#[derive(Default)]
struct Traces {
    /// By module: rows of its own.
    rows: Vec<(String, BTreeMap<Bytes, Option<Bytes>>)>,
    /// By module: why it failed, or none where it did not.
    runs: BTreeMap<String, Option<String>>,
}

/// What stopped an entry: an answer, or this member's own failure.
enum Stop {
    Refused(Rejection),
    Failed(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Stop::Failed(error)
    }
}

/// A module cannot be shown all that a request touches.
fn too_much(what: String) -> Stop {
    let message = format!("instar: this request touches {what}");
    Stop::Refused(Rejection { code: RESOURCE_EXHAUSTED, message })
}

/// One entry that concerns modules.
struct Turn<'a> {
    applier: &'a Applier,
    entry: &'a Entry,
    moment: Moment,
    traces: Traces,
}

impl Applier {
    /// The modules after an entry, if they are others than before.
    pub(super) fn modules_after(&self, overlay: &Overlay) -> io::Result<Option<ActiveModules>> {
        let mut slots = module_slots(overlay).map_err(io::Error::other)?;
        slots.retain(|slot| slot.enabled);
        if slots.iter().eq(self.modules.0.iter().map(|it| &it.slot)) {
            return Ok(None);
        }
        ActiveModules::load(overlay, &self.machines).map(Some)
    }

    /// A request of somebody else's under a module's prefixes.
    pub(super) fn execute_with_modules(&self, entry: &Entry) -> io::Result<Execution> {
        let request = command_of(entry).map(|command| command.request.clone()).unwrap_or_default();
        let mut turn = Turn::new(self, entry);
        let result = turn.request(request, None);
        turn.finish(result)
    }

    /// A client's call of a module.
    pub(super) fn execute_call(
        &self,
        entry: &Entry,
        call: &pb::CallModule,
    ) -> io::Result<Execution> {
        let mut turn = Turn::new(self, entry);
        let result = turn.call(call);
        turn.finish(result)
    }
}

impl<'a> Turn<'a> {
    fn new(applier: &'a Applier, entry: &'a Entry) -> Self {
        let view = applier.state.view();
        let mark = view.mark();
        let time_ms = command_of(entry).map_or(0, |command| command.time_ms).max(mark.time_ms);
        let moment = Moment { index: entry.log_id.index, time_ms, revision: mark.revision };
        Turn { applier, entry, moment, traces: Traces::default() }
    }

    fn call(&mut self, call: &pb::CallModule) -> Result<Execution, Stop> {
        let applier = self.applier;
        let active = applier.modules.0.iter().find(|it| it.slot.name == call.name);
        let Some(active) = active else { return Err(Stop::Refused(self.absent(&call.name)?)) };
        if !active.module.description().serves.call {
            let message = format!("the module {:?} has no procedures to call", call.name);
            return Err(Stop::Refused(refuse(FAILED_PRECONDITION, message)));
        }
        let (procedure, argument) = (call.procedure.clone(), &call.argument);
        let access = self.access(active);
        let called = active.module.call(access, procedure, argument, self.moment);
        let (reply, written) = self.settle(active, called)?;
        let body = reply.map_err(Stop::Refused)?;
        let mut execution = match written.keys.is_empty() {
            true => self.answer(Ok(Bytes::new()))?,
            false => self.request(module_requests::txn(&written), Some(active.name()))?,
        };
        for outcome in &mut execution.applied.outcomes {
            if outcome.response.is_ok() {
                outcome.response = Ok(body.clone());
            }
        }
        self.traces.rows.push((call.name.clone(), written.rows));
        Ok(execution)
    }

    /// Why there is no such module.
    fn absent(&self, name: &str) -> Result<Rejection, Stop> {
        let slots = module_slots(&*self.applier.state.view()).map_err(io::Error::other)?;
        Ok(match slots.iter().find(|slot| slot.name == name) {
            None => module_commands::unknown(name),
            Some(slot) if slot.failures < limits::MODULE_FAILURES => {
                refuse(FAILED_PRECONDITION, format!("the module {name:?} is disabled"))
            }
            Some(slot) => {
                let (failures, reason) = (slot.failures, &slot.last_failure);
                let message = format!(
                    "the module {name:?} is disabled since it failed {failures} times in a row: {reason}"
                );
                refuse(FAILED_PRECONDITION, message)
            }
        })
    }

    /// A request, the caller's own among them, on its way past all others that it concerns.
    fn request(&mut self, request: Bytes, caller: Option<&str>) -> Result<Execution, Stop> {
        if let Effects::Operations(operations) = effects(&request) {
            self.admit(&operations, caller)?;
        }
        let entry = self.entry_with(request.clone());
        let execution = self.applier.run_machine(std::slice::from_ref(&entry))?;
        let added = self.react(&execution)?;
        if added.keys.is_empty() {
            return Ok(execution);
        }
        let entry = self.entry_with(module_requests::with_also(&request, &added));
        Ok(self.applier.run_machine(std::slice::from_ref(&entry))?)
    }

    /// The entry as the machine is given it.
    fn entry_with(&self, request: Bytes) -> Entry {
        let before = command_of(self.entry).cloned().unwrap_or_default();
        let command = Command { request, for_host: false, ..before };
        Entry { log_id: self.entry.log_id, payload: EntryPayload::Normal(command) }
    }

    fn admit(&mut self, operations: &[Operation], caller: Option<&str>) -> Result<(), Stop> {
        let applier = self.applier;
        let others = applier.modules.0.iter().filter(|it| Some(it.name()) != caller);
        for active in others.filter(|it| it.module.description().serves.admit) {
            let concerns = |it: &&Operation| active.is_touched_by(std::slice::from_ref(*it));
            let shown: Vec<Operation> = operations.iter().filter(concerns).cloned().collect();
            if shown.is_empty() {
                continue;
            }
            self.check_count(active, shown.len())?;
            let admitted = active.module.admit(self.access(active), shown, self.moment);
            self.settle(active, admitted)?.map_err(Stop::Refused)?;
        }
        Ok(())
    }

    /// Tells modules what the machine did, and gives what all of them add to it.
    fn react(&mut self, execution: &Execution) -> Result<Written, Stop> {
        let applier = self.applier;
        let mut added = Written::default();
        let reacts = |it: &&ActiveModule| it.module.description().serves.react;
        let outcome = execution.applied.outcomes.first();
        if !applier.modules.0.iter().any(|it| reacts(&it)) {
            return Ok(added);
        }
        let Some(outcome) = outcome.filter(|outcome| outcome.response.is_ok()) else {
            return Ok(added);
        };
        let touched = touched(&execution.applied.overlay, outcome).map_err(io::Error::other)?;
        for active in applier.modules.0.iter().filter(reacts) {
            let count = touched.keys().filter(|key| active.covers(key)).count();
            if count == 0 {
                continue;
            }
            self.check_count(active, count)?;
            let events = self.events(active, &touched)?;
            let reacted = active.module.react(self.access(active), events, self.moment);
            let reacted = reacted.and_then(|written| {
                let taken = |key: &Bytes| touched.contains_key(key) || added.keys.contains_key(key);
                match written.keys.keys().any(taken) {
                    true => Err(Fault::new("it wrote a key that the entry itself writes").into()),
                    false => Ok(written),
                }
            });
            let written = self.settle(active, reacted)?;
            added.keys.extend(written.keys);
            self.traces.rows.push((active.name().to_owned(), written.rows));
        }
        Ok(added)
    }

    fn events(
        &self,
        active: &ActiveModule,
        touched: &BTreeMap<Bytes, Option<KeyValue>>,
    ) -> Result<Vec<TouchedKey>, Stop> {
        let mut keys = self.keys();
        let (mut events, mut bytes) = (Vec::new(), 0);
        for (key, current) in touched.iter().filter(|(key, _)| active.covers(key)) {
            let read = keys.range(key, None, 1, limits::MODULE_FUEL);
            let previous = match read {
                Ok((mut found, _)) => found.pop(),
                Err(CallError::Fault(fault)) => {
                    return Err(Stop::Refused(active.failed(&fault.to_string())));
                }
                Err(CallError::Local(failure)) => return Err(io::Error::other(failure).into()),
            };
            let values = current.iter().chain(&previous).map(|kv| kv.value.len());
            bytes += key.len() + values.sum::<usize>();
            if bytes > limits::MODULE_EVENT_BYTES {
                let (name, limit) = (active.name(), limits::MODULE_EVENT_BYTES);
                return Err(too_much(format!(
                    "more than {limit} bytes of keys and values that the module {name:?} looks at"
                )));
            }
            events.push(TouchedKey { key: key.clone(), current: current.clone(), previous });
        }
        Ok(events)
    }

    fn check_count(&self, active: &ActiveModule, count: usize) -> Result<(), Stop> {
        if !too_many(count) {
            return Ok(());
        }
        let (name, limit) = (active.name(), limits::MODULE_EVENTS);
        Err(too_much(format!(
            "{count} keys that the module {name:?} looks at; {limit} are allowed at once"
        )))
    }

    fn keys(&self) -> MachineKeys {
        MachineKeys { view: self.applier.state.view(), reader: self.applier.machine.reader() }
    }

    fn access(&self, active: &ActiveModule) -> Access {
        Access {
            prefixes: active.prefixes.clone(),
            keys: Box::new(self.keys()),
            view: self.applier.state.view(),
            table: TABLE,
            row_prefix: row_prefix(active.name()),
        }
    }

    /// Notes how a module's run went.
    fn settle<T>(
        &mut self,
        active: &ActiveModule,
        result: Result<T, CallError>,
    ) -> Result<T, Stop> {
        let (failure, result) = match result {
            Ok(done) => (None, Ok(done)),
            Err(CallError::Local(failure)) => return Err(io::Error::other(failure).into()),
            Err(CallError::Fault(fault)) => {
                let reason = fault.to_string();
                tracing::warn!(
                    module = active.name(),
                    index = self.moment.index,
                    "a module failed: {reason}"
                );
                let stop = Stop::Refused(active.failed(&reason));
                (Some(reason), Err(stop))
            }
        };
        self.traces.runs.insert(active.name().to_owned(), failure);
        result
    }

    /// An entry that the machine has no part in.
    fn answer(&self, response: Result<Bytes, Rejection>) -> io::Result<Execution> {
        let mut overlay = Overlay::new(self.applier.state.view());
        let outcome = Outcome::of_host(response, &mut overlay, self.moment.revision);
        let entry = std::slice::from_ref(self.entry);
        let commands = commands_of(entry, self.applier.state.view().mark().time_ms);
        let (spent, cost) = (Spent::default(), Cost::default());
        let applied = Applied { overlay, outcomes: vec![outcome], spent, cost };
        Ok(Execution { entries: 1, commands, applied, switch: None, modules: None })
    }

    /// Adds what modules left behind to what the machine did.
    fn finish(self, result: Result<Execution, Stop>) -> io::Result<Execution> {
        let mut execution = match result {
            Ok(execution) => execution,
            Err(Stop::Refused(rejection)) => self.answer(Err(rejection))?,
            Err(Stop::Failed(error)) => return Err(error),
        };
        let overlay = &mut execution.applied.overlay;
        let is_done = execution.applied.outcomes.iter().all(|outcome| outcome.response.is_ok());
        for (name, rows) in self.traces.rows {
            if is_done {
                module_commands::write_rows(overlay, &name, rows).map_err(io::Error::other)?;
            }
        }
        for active in &self.applier.modules.0 {
            let slot = match self.traces.runs.get(active.name()) {
                Some(Some(reason)) => after_failure(&active.slot, reason),
                Some(None) if active.slot.failures > 0 => {
                    pb::ModuleSlot { failures: 0, ..active.slot.clone() }
                }
                _ => continue,
            };
            if !slot.enabled {
                tracing::error!(
                    module = slot.name,
                    failures = slot.failures,
                    "a module is disabled"
                );
            }
            write_slot(overlay, &slot).map_err(io::Error::other)?;
        }
        let written = overlay.finish_entry();
        for outcome in &mut execution.applied.outcomes {
            let mut digest = Xxh3::new();
            digest.update(&outcome.digest.to_le_bytes());
            digest.update(&written.to_le_bytes());
            if let Ok(body) = &outcome.response {
                digest.update(body);
            }
            outcome.digest = digest.digest128();
        }
        execution.modules = self.applier.modules_after(&execution.applied.overlay)?;
        Ok(execution)
    }
}
