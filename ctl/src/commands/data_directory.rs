//! `defrag --data-dir`, and how other commands read a member that does not run.

use std::path::Path;

use guest_kv::tables::{DESCRIPTIONS, TableKind};
use host::server::{OfflineError, OfflineState};
use host::storage::{TableKind as StoredKind, TableSpec};

use crate::command_line::Invocation;
use crate::failure::Failure;
use crate::output::line;

pub async fn defragment(invocation: Invocation) -> Result<(), Failure> {
    let data_dir = invocation.text("data-dir");
    if data_dir.is_empty() {
        return Err(Failure::error("required flag(s) \"data-dir\" not set"));
    }
    let done = open(Path::new(&data_dir)).and_then(OfflineState::defragment);
    done.map_err(|why| {
        Failure::error(format!("Failed to defragment etcd data[{data_dir}] ({why})"))
    })?;
    line(format!("Finished defragmenting etcd data[{data_dir}]"))
}

/// Takes a member's data directory for this process.
pub fn open(path: &Path) -> Result<OfflineState, OfflineError> {
    let durable = DESCRIPTIONS.iter().filter(|table| table.kind == TableKind::Durable);
    let tables: Vec<TableSpec> = durable
        .map(|table| TableSpec {
            id: table.table,
            name: table.name.to_owned(),
            kind: StoredKind::Durable,
        })
        .collect();
    OfflineState::open(path, &tables)
}
