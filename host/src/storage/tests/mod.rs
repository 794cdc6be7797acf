//! Tests of the storage as a whole; what a file of it does alone is tested beside it.

mod data_dir;
mod declared;
mod defragment;
mod disk;
mod faults;
mod files;
mod log;
mod overlay;
mod power_loss;
mod power_loss_log;
mod power_loss_state;
mod snapshot;
mod timing;

use std::ops::ControlFlow;

use bytes::Bytes;

use super::{AppliedId, Mark, TableId, TableKind, TableSpec, Tables};

const ROWS: TableId = 1;
const INDEX: TableId = 2;
const OTHER: TableId = 7;

/// Two durable tables and a derived one.
fn specs() -> Vec<TableSpec> {
    let spec = |id, name: &str, kind| TableSpec { id, name: name.to_owned(), kind };
    vec![
        spec(ROWS, "rows", TableKind::Durable),
        spec(INDEX, "index", TableKind::Derived),
        spec(OTHER, "other", TableKind::Durable),
    ]
}

fn mark(index: u64) -> Mark {
    Mark {
        applied: Some(AppliedId { term: index / 10, leader_id: u64::MAX - index, index }),
        membership: Bytes::from(vec![index as u8; (index % 40) as usize]),
        time_ms: index * 3,
        revision: index * 2,
        digest: u128::from(index) << 70 | 5,
        machine: [index as u8; 32],
    }
}

/// All rows of the durable tables.
fn durable_rows(tables: &impl Tables) -> Vec<(TableId, Vec<u8>, Vec<u8>)> {
    [ROWS, OTHER].into_iter().flat_map(|table| rows_of(tables, table)).collect()
}

fn rows_of(tables: &impl Tables, table: TableId) -> Vec<(TableId, Vec<u8>, Vec<u8>)> {
    let mut rows = Vec::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        rows.push((table, key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    };
    tables.scan(table, b"", b"", false, visit).expect("a scan");
    rows
}

/// `INSTAR_SEED`, or a new one; printed, so that a failure can be repeated.
fn seed() -> u64 {
    let seed = std::env::var("INSTAR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    println!("INSTAR_SEED={seed}");
    seed
}
