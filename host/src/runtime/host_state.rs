//! What stands behind one instance of a machine: the tables that it sees, the answer that it builds, and the limits it
//! is under. It lives in the instance's store, and is taken back from there even after a trap.

use std::sync::Arc;

use wasmtime::ResourceLimiter;

use super::{Budget, Description, Fault, LocalFailure};
use crate::{
    limits::{ENTRY_WRITE_BYTES, ENTRY_WRITES, ROW_KEY_BYTES, ROW_VALUE_BYTES},
    storage::{Overlay, TableId, TableKind, Tables, View},
};

/// The tables that a call sees.
pub(super) enum Source {
    /// None: every access is a fault.
    Nothing,
    View(Arc<View>),
    /// A state being written. The box makes it cheap to move out of the store and back, which an import does so that
    /// it can read the guest's memory, owned by the store as well, while it writes.
    Overlay(Box<Overlay>, Writable),
}

/// Which tables a call may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writable {
    All,
    /// In `rebuild`.
    Derived,
}

/// Why a call was ended by the host.
pub(super) enum Ended {
    Fault(Fault),
    Local(LocalFailure),
}

impl From<Fault> for Ended {
    fn from(fault: Fault) -> Self {
        Ended::Fault(fault)
    }
}

pub(super) struct HostState {
    pub source: Source,
    pub budget: Budget,
    /// The body of a query's answer; none if the call may not build one.
    pub answer: Option<Vec<u8>>,
    /// Set by whatever ends a call from inside: an import, or the limiter.
    pub ended: Option<Ended>,
    pub log_lines: u32,
    /// Tables that nobody writes yet: see [`super::Machine::with_locked`].
    pub locked: Arc<[TableId]>,
    /// What this call has written so far.
    writes: u64,
    write_bytes: u64,
    /// None until the machine has described itself; it has no tables before.
    description: Option<Arc<Description>>,
}

impl HostState {
    pub fn new(description: Option<Arc<Description>>, source: Source, budget: Budget) -> Self {
        HostState {
            source,
            budget,
            answer: None,
            ended: None,
            log_lines: 0,
            locked: Arc::default(),
            writes: 0,
            write_bytes: 0,
            description,
        }
    }

    /// Before each call: what is counted by call starts at nothing.
    pub fn begin_call(&mut self) {
        self.ended = None;
        self.log_lines = 0;
        self.writes = 0;
        self.write_bytes = 0;
    }

    /// The tables, for reading.
    pub fn tables(&self) -> Result<&dyn Tables, Fault> {
        match &self.source {
            Source::Nothing => Err(Fault::new("it reached for its tables where it has none")),
            Source::View(view) => Ok(&**view),
            Source::Overlay(overlay, _) => Ok(&**overlay),
        }
    }

    pub fn kind(&self, table: TableId) -> Result<TableKind, Fault> {
        match &self.description {
            Some(description) => description.kind(table),
            None => Err(Fault::new("it reached for its tables before it had declared them")),
        }
    }

    /// Takes the overlay out, for writing `rows` rows of `bytes` bytes to a table; whoever takes it gives it back with
    /// [`Self::give_back`].
    pub fn take_overlay(&mut self, table: TableId) -> Result<(Box<Overlay>, Writable), Fault> {
        let kind = self.kind(table)?;
        if self.locked.contains(&table) {
            return Err(Fault::new("it wrote a table of a schema that the rows do not have yet"));
        }
        match std::mem::replace(&mut self.source, Source::Nothing) {
            Source::Overlay(overlay, Writable::Derived) if kind == TableKind::Durable => {
                self.source = Source::Overlay(overlay, Writable::Derived);
                Err(Fault::new("it wrote a durable table while it rebuilt derived ones"))
            }
            Source::Overlay(overlay, writable) => Ok((overlay, writable)),
            other => {
                self.source = other;
                Err(Fault::new("it wrote to its tables in a call that only reads"))
            }
        }
    }

    pub fn give_back(&mut self, (overlay, writable): (Box<Overlay>, Writable)) {
        self.source = Source::Overlay(overlay, writable);
    }

    /// Counts what this call writes against the limits on an entry.
    pub fn count_writes(&mut self, rows: u64, bytes: usize) -> Result<(), Fault> {
        self.writes += rows;
        self.write_bytes += bytes as u64;
        if self.writes > ENTRY_WRITES {
            return Err(Fault::new(format!("it wrote more than {ENTRY_WRITES} rows in one step")));
        }
        if self.write_bytes > ENTRY_WRITE_BYTES {
            let limit = ENTRY_WRITE_BYTES;
            return Err(Fault::new(format!("it wrote more than {limit} bytes in one step")));
        }
        Ok(())
    }
}

/// Checks the key of a row that is read or written.
pub(super) fn check_key(key: &[u8]) -> Result<(), Fault> {
    match key.len() {
        0 => Err(Fault::new("it named a row with an empty key")),
        length if length > ROW_KEY_BYTES => {
            Err(Fault::new(format!("it named a row with a key of more than {ROW_KEY_BYTES} bytes")))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_value(value: &[u8]) -> Result<(), Fault> {
    if value.len() > ROW_VALUE_BYTES {
        return Err(Fault::new(format!("it wrote a value of more than {ROW_VALUE_BYTES} bytes")));
    }
    Ok(())
}

/// Memory is the one resource whose refusal a guest could see and answer to. It does not get to: a refusal ends the
/// call, so that what a call answers never depends on how much an instance had grown before.
impl ResourceLimiter for HostState {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let limit = self.budget.memory_bytes.min(maximum.unwrap_or(usize::MAX));
        if desired <= limit {
            return Ok(true);
        }
        self.ended = Some(Fault::new("it asked for more memory than it may have").into());
        Err(wasmtime::Error::msg("the memory limit is reached"))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // The growth was within all limits: it is the operating system that has no memory.
        self.ended = Some(Ended::Local(LocalFailure::Resources(format!("{error:#}"))));
        Err(error)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_none_or(|maximum| desired <= maximum) {
            return Ok(true);
        }
        self.ended = Some(Fault::new("it asked for a larger function table than allowed").into());
        Err(wasmtime::Error::msg("the limit on function tables is reached"))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.ended = Some(Ended::Local(LocalFailure::Resources(format!("{error:#}"))));
        Err(error)
    }
}
