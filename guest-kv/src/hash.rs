//! HashKV and Hash (server/storage/mvcc/hash.go): CRC-32C over a table's name and its rows.
//!
//! HashKV at a revision covers the rows of the `key` table up to it. Rows up to the compacted revision count only if
//! they are the newest of their key at the hashed revision and no tombstones. So the hash is the same before, during
//! and after the removal of dead rows, and the same as etcd's.
//!
//! One thing of etcd's is left out: for the revision of a recent compaction etcd answers with the hash that it took
//! while compacting, which covers the rows that were removed, if it has not been restarted since.

use std::ops::ControlFlow;

use crc::{CRC_32_ISCSI, Crc, Digest, Table as CrcTable};

use crate::index;
use crate::listing;
use crate::rejection::Rejection;
use crate::request::Span;
use crate::revision::Revision;
use crate::row::{KeyValue, corrupt};
use crate::state::State;
use crate::tables::{DESCRIPTIONS, KEY, TableKind, Tables, scan_all};
use crate::wire;

static CASTAGNOLI: Crc<u32, CrcTable<16>> = Crc::<u32, CrcTable<16>>::new(&CRC_32_ISCSI);

/// Rows fetched at once.
const PAGE_ROWS: u32 = 1000;

const KEY_TABLE_NAME: &[u8] = b"key";

/// Answers HashKV: the body of a HashKVResponse. 0 stands for the current revision; a negative one covers no row.
pub fn hash_kv<T: Tables>(tables: &T, state: &State, revision: i64) -> Result<Vec<u8>, Rejection> {
    if revision > 0 && revision < state.compacted {
        return Err(Rejection::compacted());
    }
    if revision > state.revision {
        return Err(Rejection::future_revision());
    }
    let revision = if revision == 0 { state.revision } else { revision };
    let mut digest = CASTAGNOLI.digest();
    digest.update(KEY_TABLE_NAME);
    if revision > 0 {
        hash_rows(tables, state, revision, &mut digest);
    }
    let mut out = Vec::new();
    wire::put_int64(&mut out, 2, i64::from(digest.finalize()));
    wire::put_int64(&mut out, 3, state.compacted);
    wire::put_int64(&mut out, 4, revision);
    Ok(out)
}

/// Answers Hash: the body of a HashResponse, over all durable tables.
pub fn hash<T: Tables>(tables: &T) -> Vec<u8> {
    let mut digest = CASTAGNOLI.digest();
    for description in DESCRIPTIONS.iter().filter(|d| d.kind == TableKind::Durable) {
        digest.update(description.name.as_bytes());
        let _ = scan_all(tables, description.table, &[], &[], PAGE_ROWS, &mut |key, value| {
            digest.update(key);
            digest.update(value);
            ControlFlow::Continue(())
        });
    }
    let mut out = Vec::new();
    wire::put_int64(&mut out, 2, i64::from(digest.finalize()));
    out
}

fn hash_rows<T: Tables>(
    tables: &T,
    state: &State,
    revision: i64,
    digest: &mut Digest<'_, u32, CrcTable<16>>,
) {
    let horizon = horizon(tables, state, revision);
    let end = Revision { main: revision, sub: i64::MAX }.tombstone_key();
    let _ = scan_all(tables, KEY, &[], &end, PAGE_ROWS, &mut |key, row| {
        let Some((at, tombstone)) = Revision::parse(key) else {
            corrupt("a key of the key table is no revision")
        };
        let counts = at.main > state.compacted
            || (!tombstone && is_newest(tables, KeyValue::expect(row).key, at, horizon));
        if counts {
            digest.update(key);
            digest.update(row);
        }
        ControlFlow::Continue(())
    });
}

/// The revision at which a row below the compacted revision must be the newest of its key. It is the hashed one, unless
/// no key is alive there: etcd's keep-set is empty then, which it takes for "no compaction", and hashes every row that
/// the compaction has left.
fn horizon<T: Tables>(tables: &T, state: &State, revision: i64) -> i64 {
    let everything = Span { key: &[0], end: Some(&[]) };
    let mut alive = false;
    let _ = listing::visit(tables, state, everything, revision, 1, &mut |_, _| {
        alive = true;
        ControlFlow::Break(())
    });
    if alive { revision } else { state.compacted }
}

fn is_newest<T: Tables>(tables: &T, key: &[u8], at: Revision, horizon: i64) -> bool {
    index::successor(tables, key, at).is_none_or(|successor| successor.main > horizon)
}
