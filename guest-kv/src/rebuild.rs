//! Makes the derived tables from the durable ones, by going through the `key` table in the order of revisions.
//!
//! A backup that was restored with a higher revision than it had has a row without a key, as in etcd: only its revision
//! means something. It stands in `history` alone, where no range comes by it, and a compaction removes it once a later
//! one is there.

use std::ops::ControlFlow;

use crate::Progress;
use crate::index::{self, Entry};
use crate::lease;
use crate::revision::Revision;
use crate::row::{KeyValue, corrupt};
use crate::state::State;
use crate::tables::{CURRENT, KEY, Tables};

/// Rows of a step: some ten milliseconds.
const STEP_ROWS: u32 = 2000;

/// Rebuilds from `cursor`, the key of the `key` table to go on with; empty begins.
pub fn rebuild<T: Tables>(tables: &mut T, cursor: &[u8]) -> Progress {
    let mut rows = Vec::new();
    let next = tables.scan(KEY, cursor, &[], STEP_ROWS, &mut |key, row| {
        let Some((revision, tombstone)) = Revision::parse(key) else {
            corrupt("a key of the key table is no revision")
        };
        let kv = KeyValue::expect(row);
        let entry = Entry::new(revision, kv.create_revision, kv.version).with_lease(kv.lease);
        rows.push((kv.key.to_vec(), entry, tombstone));
        ControlFlow::Continue(())
    });
    for (key, entry, tombstone) in rows {
        if key.is_empty() {
            match tombstone {
                true => index::put_tombstone(tables, &key, entry.revision()),
                false => index::put_superseded(tables, &key, &entry),
            }
            continue;
        }
        let old = index::newest(tables, &key);
        if let Some(old) = &old {
            index::put_superseded(tables, &key, old);
        }
        lease::reattach(tables, &key, old.map_or(0, |old| old.lease()), entry.lease());
        if tombstone {
            index::put_tombstone(tables, &key, entry.revision());
            tables.delete(CURRENT, &key);
        } else {
            tables.put(CURRENT, &key, entry.row());
        }
    }
    match next {
        Some(cursor) => Progress::More(cursor),
        None => {
            let state = State::derive(tables);
            state.write(tables);
            Progress::Done
        }
    }
}
