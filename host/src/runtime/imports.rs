//! What a machine can reach: the three interfaces of the contract, on top of [`HostState`].
//!
//! Arguments are read where they lie, in the guest's memory; only results are copied. Every call is charged for what
//! it makes the host do. Whatever breaks a rule ends the call.

use std::ops::ControlFlow;

use wasmtime::{
    StoreContextMut,
    component::{Linker, WasmList, WasmStr},
};

use super::{
    CONTRACT_PACKAGE, CONTRACT_VERSION, Fault, LocalFailure, abi,
    fuel::{PER_IMPORT, PER_ROW_READ, PER_ROW_WRITTEN},
    host_state::{Ended, HostState, check_key, check_value},
    instance::Behind,
};
use crate::{
    limits::{ANSWER_BYTES, LOG_LINES_PER_CALL, MACHINE_LOG_LINE_BYTES, PAGE_BYTES},
    storage::StorageError,
};

type Cx<'a> = StoreContextMut<'a, HostState>;
type List = WasmList<u8>;

impl From<StorageError> for Ended {
    fn from(error: StorageError) -> Self {
        Ended::Local(LocalFailure::Storage(error))
    }
}

/// Offers the interfaces under their names.
pub(super) fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let mut tables = linker.instance(&interface("tables"))?;
    tables.func_wrap("get", get)?;
    tables.func_wrap("scan", scan)?;
    tables.func_wrap("count", count)?;
    tables.func_wrap("put", put)?;
    tables.func_wrap("delete", delete)?;
    tables.func_wrap("delete-range", delete_range)?;
    let mut answer = linker.instance(&interface("answer"))?;
    answer.func_wrap("append", append)?;
    answer.func_wrap("append-rows", append_rows)?;
    answer.func_wrap("length", length)?;
    linker.instance(&interface("log"))?.func_wrap("write", write_log)
}

/// The full name of an interface of the contract.
pub(super) fn interface(name: &str) -> String {
    format!("{CONTRACT_PACKAGE}/{name}@{CONTRACT_VERSION}")
}

fn get(mut cx: Cx, (table, key): (u32, List)) -> wasmtime::Result<(Option<Vec<u8>>,)> {
    let row = (|| {
        let (host, key) = (cx.data(), key.as_le_slice(&cx));
        host.kind(table)?;
        check_key(key)?;
        let mut row = None;
        host.tables()?.get(table, key, &mut |value| row = Some(value.to_vec()))?;
        Ok(row)
    })();
    let row = settle(&mut cx, row)?;
    charge(&mut cx, row.as_ref().map_or(0, |row| PER_ROW_READ + row.len() as u64))?;
    Ok((row,))
}

fn scan(
    mut cx: Cx,
    (table, start, end, limit, reverse): (u32, List, List, u32, bool),
) -> wasmtime::Result<(abi::Page,)> {
    let page = (|| {
        let (host, start, end) = (cx.data(), start.as_le_slice(&cx), end.as_le_slice(&cx));
        host.kind(table)?;
        let limit = if limit == 0 { u32::MAX } else { limit };
        let (mut rows, mut count, mut more) = (Vec::new(), 0, false);
        host.tables()?.scan(table, start, end, reverse, &mut |key, value| {
            if count == limit || rows.len() > PAGE_BYTES {
                more = true;
                return ControlFlow::Break(());
            }
            count += 1;
            for part in [key, value] {
                // Both are within limits that are far below 4 GiB.
                rows.extend_from_slice(&(part.len() as u32).to_le_bytes());
                rows.extend_from_slice(part);
            }
            ControlFlow::Continue(())
        })?;
        Ok((abi::Page { rows, more }, u64::from(count)))
    })();
    let (page, count) = settle(&mut cx, page)?;
    charge(&mut cx, count * PER_ROW_READ + page.rows.len() as u64)?;
    Ok((page,))
}

fn count(mut cx: Cx, (table, start, end): (u32, List, List)) -> wasmtime::Result<(u64,)> {
    let rows = (|| {
        let host = cx.data();
        host.kind(table)?;
        let (start, end) = (start.as_le_slice(&cx), end.as_le_slice(&cx));
        Ok(host.tables()?.count(table, start, end)?)
    })();
    let rows = settle(&mut cx, rows)?;
    charge(&mut cx, rows.saturating_mul(PER_ROW_READ))?;
    Ok((rows,))
}

fn put(mut cx: Cx, (table, key, value): (u32, List, List)) -> wasmtime::Result<()> {
    let bytes = key.len() + value.len();
    let overlay = cx.data_mut().take_overlay(table).map_err(Ended::from);
    let mut overlay = settle(&mut cx, overlay)?;
    let written = (|| {
        let (key, value) = (key.as_le_slice(&cx), value.as_le_slice(&cx));
        check_key(key)?;
        check_value(value)?;
        Ok(overlay.0.put(table, key, value)?)
    })();
    cx.data_mut().give_back(overlay);
    settle(&mut cx, written)?;
    let counted = cx.data_mut().count_writes(1, bytes).map_err(Ended::from);
    settle(&mut cx, counted)?;
    charge(&mut cx, PER_ROW_WRITTEN + bytes as u64)
}

fn delete(mut cx: Cx, (table, key): (u32, List)) -> wasmtime::Result<()> {
    let bytes = key.len();
    let overlay = cx.data_mut().take_overlay(table).map_err(Ended::from);
    let mut overlay = settle(&mut cx, overlay)?;
    let deleted = (|| {
        let key = key.as_le_slice(&cx);
        check_key(key)?;
        Ok(overlay.0.delete(table, key)?)
    })();
    cx.data_mut().give_back(overlay);
    settle(&mut cx, deleted)?;
    let counted = cx.data_mut().count_writes(1, bytes).map_err(Ended::from);
    settle(&mut cx, counted)?;
    charge(&mut cx, PER_ROW_WRITTEN + bytes as u64)
}

fn delete_range(mut cx: Cx, (table, start, end): (u32, List, List)) -> wasmtime::Result<(u64,)> {
    let overlay = cx.data_mut().take_overlay(table).map_err(Ended::from);
    let mut overlay = settle(&mut cx, overlay)?;
    let (from, to) = (start.as_le_slice(&cx), end.as_le_slice(&cx));
    let rows = overlay.0.delete_range(table, from, to).map_err(Ended::from);
    cx.data_mut().give_back(overlay);
    let rows = settle(&mut cx, rows)?;
    let counted = cx.data_mut().count_writes(rows, 0).map_err(Ended::from);
    settle(&mut cx, counted)?;
    charge(&mut cx, rows.saturating_mul(PER_ROW_WRITTEN))?;
    Ok((rows,))
}

fn append(mut cx: Cx, (bytes,): (List,)) -> wasmtime::Result<()> {
    let appended = extend_answer(&mut cx, |cx, answer| {
        let bytes = bytes.as_le_slice(cx);
        if answer.len() + bytes.len() > ANSWER_BYTES {
            return Err(too_long().into());
        }
        answer.extend_from_slice(bytes);
        Ok(())
    });
    settle(&mut cx, appended)?;
    charge(&mut cx, bytes.len() as u64)
}

fn append_rows(
    mut cx: Cx,
    (table, keys, key_length, field): (u32, List, u32, u32),
) -> wasmtime::Result<()> {
    let appended = extend_answer(&mut cx, |cx, answer| {
        let before = answer.len();
        let (host, keys) = (cx.data(), keys.as_le_slice(cx));
        host.kind(table)?;
        let key_length = key_length as usize;
        if key_length == 0 || keys.len() % key_length != 0 {
            return Err(Fault::new("it named rows by keys of uneven length").into());
        }
        if field == 0 || field >= 1 << 29 {
            return Err(Fault::new("it named a field that protobuf does not have").into());
        }
        let tables = host.tables()?;
        let mut fits = true;
        let found = tables.get_many(table, keys, key_length, &mut |value| {
            fits &= answer.len() + value.len() <= ANSWER_BYTES;
            if fits {
                put_varint(answer, u64::from(field) << 3 | 2);
                put_varint(answer, value.len() as u64);
                answer.extend_from_slice(value);
            }
        })?;
        if !found {
            return Err(Fault::new("it named a row that does not exist").into());
        }
        if !fits {
            return Err(too_long().into());
        }
        let rows = (keys.len() / key_length) as u64;
        Ok(rows * PER_ROW_READ + (answer.len() - before) as u64)
    });
    let units = settle(&mut cx, appended)?;
    charge(&mut cx, units)
}

fn length(mut cx: Cx, (): ()) -> wasmtime::Result<(u64,)> {
    let length = extend_answer(&mut cx, |_, answer| Ok(answer.len() as u64));
    Ok((settle(&mut cx, length)?,))
}

fn write_log(mut cx: Cx, (level, message): (abi::LogLevel, WasmStr)) -> wasmtime::Result<()> {
    charge(&mut cx, 0)?;
    cx.data_mut().log_lines += 1;
    if cx.data().log_lines > LOG_LINES_PER_CALL {
        return Ok(());
    }
    let message = message.to_str(&cx)?;
    let line = &message[..message.floor_char_boundary(MACHINE_LOG_LINE_BYTES)];
    match level {
        abi::LogLevel::Debug => tracing::debug!(target: "machine", "{line}"),
        abi::LogLevel::Info => tracing::info!(target: "machine", "{line}"),
        abi::LogLevel::Warn => tracing::warn!(target: "machine", "{line}"),
        abi::LogLevel::Error => tracing::error!(target: "machine", "{line}"),
    }
    Ok(())
}

/// Lets `extend` append to the answer while it reads the guest's memory.
fn extend_answer<R>(
    cx: &mut Cx,
    extend: impl FnOnce(&Cx, &mut Vec<u8>) -> Result<R, Ended>,
) -> Result<R, Ended> {
    let Some(mut answer) = cx.data_mut().answer.take() else {
        return Err(Fault::new("it built an answer in a call that is no query").into());
    };
    let extended = extend(cx, &mut answer);
    cx.data_mut().answer = Some(answer);
    extended
}

fn too_long() -> Fault {
    Fault::new(format!("its answer is longer than {ANSWER_BYTES} bytes"))
}

/// A number as protobuf has it.
pub(super) fn put_varint(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

/// Ends the call if there is no result, and leaves the reason with the host.
pub(super) fn settle<R, S: Behind>(
    cx: &mut StoreContextMut<'_, S>,
    result: Result<R, Ended>,
) -> wasmtime::Result<R> {
    result.map_err(|ended| {
        cx.data_mut().host().ended = Some(ended);
        wasmtime::Error::msg("the host ends the call")
    })
}

/// Charges a call of an import, and `units` of fuel for what it did.
pub(super) fn charge<S>(cx: &mut StoreContextMut<'_, S>, units: u64) -> wasmtime::Result<()> {
    spend(cx, PER_IMPORT.saturating_add(units))
}

/// Charges `units` of fuel, and no more.
pub(super) fn spend<S>(cx: &mut StoreContextMut<'_, S>, units: u64) -> wasmtime::Result<()> {
    match cx.get_fuel()?.checked_sub(units) {
        Some(left) => cx.set_fuel(left),
        None => Err(wasmtime::Trap::OutOfFuel.into()),
    }
}
