//! What a module can reach: the three interfaces of its contract, on top of [`ModuleState`]. Every call is charged for
//! what it makes the host do.

use wasmtime::{StoreContextMut, component::Linker};

use super::{
    abi::{KeyRecord, KeyRefusal, RowRecord, RowRefusal},
    interface,
    state::ModuleState,
};
use crate::{
    limits::{LOG_LINES_PER_CALL, MACHINE_LOG_LINE_BYTES},
    runtime::{
        abi::LogLevel,
        fuel::{PER_ROW_READ, PER_ROW_WRITTEN},
        imports::{charge, settle, spend},
        instance::Behind,
    },
};

type Cx<'a> = StoreContextMut<'a, ModuleState>;

/// Offers the interfaces under their names.
pub(in crate::runtime) fn add_to_linker(linker: &mut Linker<ModuleState>) -> wasmtime::Result<()> {
    let mut kv = linker.instance(&interface("kv"))?;
    kv.func_wrap("get", get)?;
    kv.func_wrap("range", range)?;
    kv.func_wrap("put", |cx: Cx, (key, value, lease): (Vec<u8>, Vec<u8>, i64)| {
        write_key(cx, key, Some((value, lease)))
    })?;
    kv.func_wrap("delete", |cx: Cx, (key,): (Vec<u8>,)| write_key(cx, key, None))?;
    let mut store = linker.instance(&interface("store"))?;
    store.func_wrap("get", stored)?;
    store.func_wrap("scan", stored_rows)?;
    store.func_wrap("put", |cx: Cx, (key, value): (Vec<u8>, Vec<u8>)| {
        write_row(cx, key, Some(value))
    })?;
    store.func_wrap("delete", |cx: Cx, (key,): (Vec<u8>,)| write_row(cx, key, None))?;
    linker.instance(&interface("log"))?.func_wrap("write", write_log)
}

type Refused<T> = wasmtime::Result<(Result<T, KeyRefusal>,)>;

/// Charges a call of an import that was given so many bytes, before anything is done, and says what is left for that.
fn begin(cx: &mut Cx, bytes: usize) -> wasmtime::Result<u64> {
    charge(cx, bytes as u64)?;
    cx.get_fuel()
}

fn get(mut cx: Cx, (key,): (Vec<u8>,)) -> Refused<Option<KeyRecord>> {
    let fuel = begin(&mut cx, key.len())?;
    let got = cx.data_mut().get(&key, fuel);
    let (got, used) = settle(&mut cx, got)?;
    spend(&mut cx, used)?;
    Ok((got.map(|kv| kv.map(KeyRecord::from)),))
}

fn range(mut cx: Cx, (start, end, limit): (Vec<u8>, Vec<u8>, u32)) -> Refused<Vec<KeyRecord>> {
    let fuel = begin(&mut cx, start.len() + end.len())?;
    let got = cx.data_mut().range(&start, &end, limit, fuel);
    let (got, used) = settle(&mut cx, got)?;
    spend(&mut cx, used)?;
    Ok((got.map(|found| found.into_iter().map(KeyRecord::from).collect()),))
}

fn write_key(mut cx: Cx, key: Vec<u8>, value: Option<(Vec<u8>, i64)>) -> Refused<()> {
    let bytes = key.len() + value.as_ref().map_or(0, |(value, _)| value.len());
    charge(&mut cx, PER_ROW_WRITTEN + bytes as u64)?;
    let written = cx.data_mut().write_key(key, value);
    Ok((settle(&mut cx, written)?,))
}

fn stored(mut cx: Cx, (key,): (Vec<u8>,)) -> wasmtime::Result<(Option<Vec<u8>>,)> {
    begin(&mut cx, key.len())?;
    let row = cx.data_mut().stored(&key);
    let row = settle(&mut cx, row)?;
    spend(&mut cx, PER_ROW_READ + row.as_ref().map_or(0, |row| row.len() as u64))?;
    Ok((row.map(|row| row.to_vec()),))
}

fn stored_rows(
    mut cx: Cx,
    (start, end, limit): (Vec<u8>, Vec<u8>, u32),
) -> wasmtime::Result<(Vec<RowRecord>,)> {
    let fuel = begin(&mut cx, start.len() + end.len())?;
    let rows = cx.data_mut().stored_rows(&start, &end, limit, fuel);
    let (rows, used) = settle(&mut cx, rows)?;
    spend(&mut cx, used)?;
    let record = |(key, value): (bytes::Bytes, bytes::Bytes)| RowRecord {
        key: key.to_vec(),
        value: value.to_vec(),
    };
    Ok((rows.into_iter().map(record).collect(),))
}

fn write_row(
    mut cx: Cx,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
) -> wasmtime::Result<(Result<(), RowRefusal>,)> {
    let bytes = key.len() + value.as_ref().map_or(0, Vec::len);
    charge(&mut cx, PER_ROW_WRITTEN + bytes as u64)?;
    let written = cx.data_mut().write_row(key, value);
    Ok((settle(&mut cx, written)?,))
}

fn write_log(mut cx: Cx, (level, message): (LogLevel, String)) -> wasmtime::Result<()> {
    charge(&mut cx, message.len() as u64)?;
    let state = cx.data_mut();
    state.host().log_lines += 1;
    if state.host().log_lines > LOG_LINES_PER_CALL {
        return Ok(());
    }
    let module = &state.name;
    let line = &message[..message.floor_char_boundary(MACHINE_LOG_LINE_BYTES)];
    let level = match level {
        LogLevel::Debug => {
            tracing::debug!(target: "module", module, "{line}");
            "debug"
        }
        LogLevel::Info => {
            tracing::info!(target: "module", module, "{line}");
            "info"
        }
        LogLevel::Warn => {
            tracing::warn!(target: "module", module, "{line}");
            "warn"
        }
        LogLevel::Error => {
            tracing::error!(target: "module", module, "{line}");
            "error"
        }
    };
    let line = line.to_owned();
    state.lines.push((level, line));
    Ok(())
}
