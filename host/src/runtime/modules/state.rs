//! What stands behind one instance of a module, for one call: what it may read, and what it has written so far.
//!
//! Writes are kept here, and nowhere else: whatever ends the call, the state has never heard of them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{
    abi::{KeyRefusal, RowRefusal},
    types::{Access, KeyValue, Written},
};
use crate::{
    limits::{MODULE_MEMORY_BYTES, MODULE_READ_ROWS, MODULE_WRITE_BYTES, MODULE_WRITES},
    runtime::{
        Budget, CallError, Fault,
        fuel::PER_ROW_READ,
        host_state::{Ended, HostState, Source},
        instance::Behind,
    },
    storage::Tables,
};

pub(in crate::runtime) struct ModuleState {
    host: HostState,
    /// For its log lines.
    pub name: String,
    /// What it has logged: the level, and the text.
    pub lines: Vec<(&'static str, String)>,
    /// None while it describes itself.
    access: Option<Access>,
    may_write: bool,
    written: Written,
    written_bytes: usize,
}

impl Behind for ModuleState {
    fn host(&mut self) -> &mut HostState {
        &mut self.host
    }
}

/// A key's place in an order without an end, or before one.
fn is_before(key: &[u8], end: &[u8]) -> bool {
    end.is_empty() || key < end
}

impl ModuleState {
    pub fn new(name: &str, access: Option<Access>, may_write: bool, fuel: u64) -> Self {
        let budget = Budget { fuel, memory_bytes: MODULE_MEMORY_BYTES };
        ModuleState {
            host: HostState::new(None, Source::Nothing, budget),
            name: name.to_owned(),
            lines: Vec::new(),
            access,
            may_write,
            written: Written::default(),
            written_bytes: 0,
        }
    }

    pub fn into_written(self) -> Written {
        self.written
    }

    fn access(&mut self) -> Result<&mut Access, Fault> {
        self.access.as_mut().ok_or_else(|| Fault::new("it reached for the state in `describe`"))
    }

    fn check_key(&mut self, key: &[u8]) -> Result<Result<(), KeyRefusal>, Fault> {
        let granted = self.access()?.prefixes.iter().any(|prefix| key.starts_with(prefix));
        Ok(match (key.is_empty(), granted) {
            (true, _) => Err(KeyRefusal::NoKey),
            (false, true) => Ok(()),
            (false, false) => Err(KeyRefusal::NotGranted),
        })
    }

    /// A range is granted if both its ends are under the same prefix, the last one just behind it at most.
    fn check_range(&mut self, start: &[u8], end: &[u8]) -> Result<Result<(), KeyRefusal>, Fault> {
        let inside = |prefix: &Bytes| {
            let behind = behind(prefix);
            start.starts_with(prefix)
                && (behind.is_empty() || (!end.is_empty() && end <= behind.as_slice()))
        };
        let granted = self.access()?.prefixes.iter().any(inside);
        Ok(if granted { Ok(()) } else { Err(KeyRefusal::NotGranted) })
    }

    /// One key, and what reading it used. Uses at most `fuel`, as all that read do.
    pub fn get(
        &mut self,
        key: &[u8],
        fuel: u64,
    ) -> Result<(Result<Option<KeyValue>, KeyRefusal>, u64), Ended> {
        if let Err(refusal) = self.check_key(key)? {
            return Ok((Err(refusal), 0));
        }
        if let Some(written) = self.written.keys.get(key) {
            let key = Bytes::copy_from_slice(key);
            let own = written.clone().map(|written| own(key, written));
            let used = PER_ROW_READ + own.as_ref().map_or(0, |kv| kv.value.len() as u64);
            return Ok((Ok(own), used));
        }
        let (mut found, used) = self.access()?.keys.range(key, None, 1, fuel).map_err(ended)?;
        let found = found.pop();
        Ok((Ok(found.clone()), used + found.as_ref().map_or(0, units_of)))
    }

    /// Keys of a range, with what was written laid over what is there.
    pub fn range(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: u32,
        fuel: u64,
    ) -> Result<(Result<Vec<KeyValue>, KeyRefusal>, u64), Ended> {
        if let Err(refusal) = self.check_range(start, end)? {
            return Ok((Err(refusal), 0));
        }
        if !end.is_empty() && start >= end {
            return Ok((Ok(Vec::new()), 0));
        }
        let limit = limit.min(MODULE_READ_ROWS);
        let mut rows = first_written(&self.written.keys, start, end, limit);
        let own_units = rows.len() as u64 * PER_ROW_READ;
        // Each of those may hide a key.
        let asked = limit.saturating_add(rows.len() as u32);
        let (found, used) =
            self.access()?.keys.range(start, Some(end), asked, fuel).map_err(ended)?;
        let mut merged: Vec<KeyValue> = Vec::with_capacity(found.len());
        let complete = found.len() < asked as usize;
        let last = found.last().map(|kv| kv.key.clone());
        for kv in found {
            if !rows.contains_key(&kv.key) {
                merged.push(kv);
            }
        }
        if !complete && let Some(last) = last {
            rows.retain(|key, _| *key <= last);
        }
        merged.extend(rows.into_iter().filter_map(|(key, row)| row.map(|row| own(key, row))));
        merged.sort_by(|a, b| a.key.cmp(&b.key));
        merged.truncate(limit as usize);
        let units = merged.iter().map(units_of).sum::<u64>();
        Ok((Ok(merged), used + own_units + units))
    }

    pub fn write_key(
        &mut self,
        key: Vec<u8>,
        value: Option<(Vec<u8>, i64)>,
    ) -> Result<Result<(), KeyRefusal>, Ended> {
        if let Err(refusal) = self.check_key(&key)? {
            return Ok(Err(refusal));
        }
        if !self.may_write {
            return Ok(Err(KeyRefusal::ReadOnly));
        }
        let bytes = key.len() + value.as_ref().map_or(0, |(value, _)| value.len());
        let is_new = !self.written.keys.contains_key(key.as_slice());
        if !self.has_room(self.written.keys.len() + usize::from(is_new), bytes) {
            return Ok(Err(KeyRefusal::TooMuch));
        }
        let value = value.map(|(value, lease)| (Bytes::from(value), lease));
        self.written.keys.insert(key.into(), value);
        Ok(Ok(()))
    }

    pub fn stored(&mut self, key: &[u8]) -> Result<Option<Bytes>, Ended> {
        if let Some(written) = self.written.rows.get(key) {
            return Ok(written.clone());
        }
        let access = self.access()?;
        let key = [&access.row_prefix, key].concat();
        let mut row = None;
        access.view.get(access.table, &key, &mut |value| {
            row = Some(Bytes::copy_from_slice(value));
        })?;
        Ok(row)
    }

    /// Rows of a range, with what was written laid over what is there, and what reading them used.
    pub fn stored_rows(
        &mut self,
        start: &[u8],
        end: &[u8],
        limit: u32,
        fuel: u64,
    ) -> Result<(Vec<(Bytes, Bytes)>, u64), Ended> {
        let limit = limit.min(MODULE_READ_ROWS);
        if limit == 0 || (!end.is_empty() && start >= end) {
            return Ok((Vec::new(), 0));
        }
        let mut rows = first_written(&self.written.rows, start, end, limit);
        let access = self.access()?;
        let prefix = &access.row_prefix;
        let first = [prefix, start].concat();
        let behind = if end.is_empty() { behind(prefix) } else { [prefix, end].concat() };
        // Rows that were removed must not make the page shorter; a row beyond the page cannot be left out.
        let mut left = limit as usize + rows.len();
        let units = |key: &[u8], value: &[u8]| PER_ROW_READ + (key.len() + value.len()) as u64;
        let own = rows.iter().map(|(key, value)| units(key, value.as_deref().unwrap_or_default()));
        let mut used: u64 = own.sum();
        access.view.scan(access.table, &first, &behind, false, &mut |key, value| {
            let key = Bytes::copy_from_slice(&key[prefix.len()..]);
            used += units(&key, value);
            rows.entry(key).or_insert_with(|| Some(Bytes::copy_from_slice(value)));
            left -= 1;
            // Beyond its fuel, nothing of it is ever seen.
            let is_over = left == 0 || used > fuel;
            if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let alive = rows.into_iter().filter_map(|(key, row)| Some((key, row?)));
        Ok((alive.take(limit as usize).collect(), used))
    }

    pub fn write_row(
        &mut self,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    ) -> Result<Result<(), RowRefusal>, Ended> {
        self.access()?;
        if !self.may_write {
            return Ok(Err(RowRefusal::ReadOnly));
        }
        let bytes = key.len() + value.as_ref().map_or(0, Vec::len);
        let is_new = !self.written.rows.contains_key(key.as_slice());
        if !self.has_room(self.written.rows.len() + usize::from(is_new), bytes) {
            return Ok(Err(RowRefusal::TooMuch));
        }
        self.written.rows.insert(key.into(), value.map(Bytes::from));
        Ok(Ok(()))
    }

    /// Counts bytes that are to be written.
    fn has_room(&mut self, rows: usize, bytes: usize) -> bool {
        let fits = rows <= MODULE_WRITES && self.written_bytes + bytes <= MODULE_WRITE_BYTES;
        if fits {
            self.written_bytes += bytes;
        }
        fits
    }
}

/// What was written to a range: as much of it as can be among the range's first `limit` rows, or hides one of these.
fn first_written<T: Clone>(
    written: &BTreeMap<Bytes, Option<T>>,
    start: &[u8],
    end: &[u8],
    limit: u32,
) -> BTreeMap<Bytes, Option<T>> {
    let from = Bytes::copy_from_slice(start);
    let mut alive = 0;
    let range = written.range(from..).take_while(|(key, _)| is_before(key, end));
    let first = range.take_while(|(_, value)| {
        let is_needed = alive < limit;
        alive += u32::from(value.is_some());
        is_needed
    });
    first.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// What a key costs that a call is given.
fn units_of(kv: &KeyValue) -> u64 {
    PER_ROW_READ + (kv.key.len() + kv.value.len()) as u64
}

/// As a call sees what it wrote itself: its revision is not known yet.
fn own(key: Bytes, (value, lease): (Bytes, i64)) -> KeyValue {
    KeyValue { key, value, create_revision: 0, mod_revision: 0, version: 0, lease }
}

/// The first key behind all that begin so; empty if there is none.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

fn ended(error: CallError) -> Ended {
    match error {
        CallError::Fault(fault) => Ended::Fault(fault),
        CallError::Local(failure) => Ended::Local(failure),
    }
}
