//! Which durable tables a state has, as its own file tells: machines that come while it runs bring some that nobody
//! knew of when it was opened.
//!
//! A table is never given up, and its number never gets another name. As long as there are no others than whoever opens
//! the file asks for, it tells of none.

use redb::{ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction};

use super::StorageError;
use super::state_file::{FILE, META, failed, table_name};
use super::tables::{TableId, TableKind, TableSpec};
use crate::limits;

const TABLES: &str = "tables";

/// Makes the durable tables that are not there yet, and says how many rows they all have.
pub(super) fn create(
    transaction: &WriteTransaction,
    specs: &[TableSpec],
) -> Result<u64, StorageError> {
    let mut rows = 0;
    for spec in durable(specs) {
        let name = table_name(spec.id);
        let definition = TableDefinition::<&[u8], &[u8]>::new(&name);
        rows += transaction.open_table(definition).map_err(failed)?.len().map_err(failed)?;
    }
    Ok(rows)
}

/// As `create`, and notes all of them in the file.
pub(super) fn record(
    transaction: &WriteTransaction,
    specs: &[TableSpec],
) -> Result<(), StorageError> {
    create(transaction, specs)?;
    let mut meta = transaction.open_table(META).map_err(failed)?;
    meta.insert(TABLES, encode(specs).as_slice()).map_err(failed)?;
    Ok(())
}

/// The durable tables that are noted in the file.
pub(super) fn recorded(meta: &Table<'_, &str, &[u8]>) -> Result<Vec<TableSpec>, StorageError> {
    let row = meta.get(TABLES).map_err(failed)?.map(|row| row.value().to_vec());
    let decoded = decode(&row.unwrap_or_default());
    decoded.ok_or_else(|| StorageError::corrupt(FILE, "its list of tables is none"))
}

/// The tables of the one list and of the other.
pub(super) fn joined(
    specs: &[TableSpec],
    others: impl IntoIterator<Item = TableSpec>,
) -> Result<Vec<TableSpec>, StorageError> {
    let mut all = specs.to_vec();
    for other in others {
        match all.iter().find(|spec| spec.id == other.id || spec.name == other.name) {
            Some(same) if *same == other => {}
            Some(spec) => {
                let (id, name, other_id, other_name) = (spec.id, &spec.name, other.id, &other.name);
                let reason = format!(
                    "table {id} ({name}) and table {other_id} ({other_name}) cannot both be there"
                );
                return Err(StorageError::corrupt(FILE, reason));
            }
            None => all.push(other),
        }
    }
    if all.len() > limits::STATE_TABLES {
        let reason = format!("{} tables are more than a state may have", all.len());
        return Err(StorageError::corrupt(FILE, reason));
    }
    Ok(all)
}

/// A durable table.
pub(super) fn spec(id: TableId, name: &str) -> TableSpec {
    TableSpec { id, name: name.to_owned(), kind: TableKind::Durable }
}

fn durable(specs: &[TableSpec]) -> impl Iterator<Item = &TableSpec> {
    specs.iter().filter(|spec| spec.kind == TableKind::Durable)
}

fn encode(specs: &[TableSpec]) -> Vec<u8> {
    let mut row = Vec::new();
    for spec in durable(specs) {
        row.extend_from_slice(&spec.id.to_le_bytes());
        row.extend_from_slice(&(spec.name.len() as u32).to_le_bytes());
        row.extend_from_slice(spec.name.as_bytes());
    }
    row
}

fn decode(mut row: &[u8]) -> Option<Vec<TableSpec>> {
    let mut specs = Vec::new();
    while !row.is_empty() {
        let (id, rest) = row.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        specs.push(spec(u32::from_le_bytes(*id), std::str::from_utf8(name).ok()?));
        row = rest;
    }
    Some(specs)
}
