//! Compaction: revisions below a point stop being readable at once, and their rows are removed in steps.
//!
//! A compaction at C keeps, of each key, the newest revision up to C; a tombstone only if it is at C itself (as etcd
//! does since 3.5.16). Everything else up to C is dead. Dead rows are all in `history`, so a step walks that table from
//! where the last one stopped, and removes a dead row there and in the `key` table together: the derived tables are at
//! any time what `rebuild` would make.
//!
//! What is written meanwhile cannot be missed: a revision that is superseded behind the cursor was alive until then,
//! so its successor is above C and it must stay.

use std::ops::ControlFlow;

use crate::index::{self, Past};
use crate::rejection::Rejection;
use crate::request::{self, CompactionStep};
use crate::revision::Revision;
use crate::row::corrupt;
use crate::state::{self, State};
use crate::tables::{HISTORY, KEY, Tables};
use crate::wire;

/// Rows that a step looks at: well under 10 ms of work.
const STEP_ROWS: u32 = 1000;
/// Rows fetched at once.
const PAGE_ROWS: u32 = 256;

/// Begins a compaction, or refuses it. Returns the state after it.
///
/// One that is still under way is taken over: its dead rows are dead for the later revision too.
pub fn begin<T: Tables>(tables: &mut T, state: State, revision: i64) -> Result<State, Rejection> {
    if revision <= state.compacted {
        return Err(Rejection::compacted());
    }
    if revision > state.revision {
        return Err(Rejection::future_revision());
    }
    state::set_scheduled_compaction(tables, revision);
    state::set_compaction_cursor(tables, &[]);
    let state = State { compacted: revision, compaction_pending: true, ..state };
    state.write(tables);
    Ok(state)
}

/// The command that takes the compaction further, if there is one under way.
pub fn next_task(state: State) -> Option<Vec<u8>> {
    let step = CompactionStep { revision: state.compacted, row_limit: STEP_ROWS };
    state.compaction_pending.then(|| request::encode_compaction_step(&step))
}

/// Takes the compaction one step further. Returns the state after it. A step of a compaction that is over, or was
/// taken over by a later one, does nothing.
pub fn step<T: Tables>(tables: &mut T, state: State, step: &CompactionStep) -> State {
    if !state.compaction_pending || step.revision != state.compacted {
        return state;
    }
    let cursor = state::compaction_cursor(tables);
    // A row is judged when the next one is seen, so fewer than two would get nowhere.
    let row_limit = step.row_limit.max(2);
    let (dead, next) = find_dead(tables, state.compacted, &cursor, row_limit);
    for row in dead {
        tables.delete(HISTORY, &row.history_key);
        match row.tombstone {
            true => tables.delete(KEY, &row.revision.tombstone_key()),
            false => tables.delete(KEY, &row.revision.key()),
        }
    }
    match next {
        Some(cursor) => {
            state::set_compaction_cursor(tables, &cursor);
            state
        }
        None => {
            state::set_compaction_cursor(tables, &[]);
            state::set_finished_compaction(tables, state.compacted);
            let state = State { compaction_pending: false, ..state };
            state.write(tables);
            state
        }
    }
}

/// An instar.kv.CompactionProgress: how far compactions are.
pub fn progress<T: Tables>(tables: &T) -> Vec<u8> {
    let mut out = Vec::new();
    wire::put_int64(&mut out, 1, state::scheduled_compaction(tables).unwrap_or(0));
    wire::put_int64(&mut out, 2, state::finished_compaction(tables).unwrap_or(0));
    wire::put_bool(&mut out, 3, State::read(tables).compaction_pending);
    out
}

/// A row of `history`, kept until it is judged.
struct Candidate {
    history_key: Vec<u8>,
    key_length: usize,
    revision: Revision,
    tombstone: bool,
}

impl Candidate {
    fn new(key: &[u8], past: &Past<'_>) -> Self {
        Candidate {
            history_key: key.to_vec(),
            key_length: past.escaped_key.len(),
            revision: past.revision,
            tombstone: past.tombstone,
        }
    }

    fn escaped_key(&self) -> &[u8] {
        &self.history_key[..self.key_length]
    }
}

/// Finds the dead rows among the next `row_limit` of `history`. Returns them, and where to go on; none at the end.
fn find_dead<T: Tables>(
    tables: &T,
    compacted: i64,
    cursor: &[u8],
    row_limit: u32,
) -> (Vec<Candidate>, Option<Vec<u8>>) {
    let mut dead = Vec::new();
    let mut pending: Option<Candidate> = None;
    let mut seen = 0;
    let mut from = Some(cursor.to_vec());
    while let Some(start) = from {
        let page_rows = PAGE_ROWS.min(row_limit - seen);
        from = tables.scan(HISTORY, &start, &[], page_rows, &mut |key, value| {
            let past = Past::expect(key, value);
            seen += 1;
            if let Some(row) = pending.take() {
                let successor = (row.escaped_key() == past.escaped_key).then_some(past.revision);
                if is_dead(tables, &row, successor, compacted) {
                    dead.push(row);
                }
            }
            pending = Some(Candidate::new(key, &past));
            ControlFlow::Continue(())
        });
        if seen >= row_limit && from.is_some() {
            return (dead, pending.map(|row| row.history_key));
        }
    }
    if let Some(row) = pending.filter(|row| is_dead(tables, row, None, compacted)) {
        dead.push(row);
    }
    (dead, None)
}

/// Whether a row is dead, given the revision of the same key that follows it in `history`.
fn is_dead<T: Tables>(
    tables: &T,
    row: &Candidate,
    successor: Option<Revision>,
    compacted: i64,
) -> bool {
    if row.revision.main > compacted {
        return false;
    }
    let successor = successor.or_else(|| {
        let Some(key) = index::unescape(row.escaped_key()) else {
            corrupt("a key of the history table is not escaped")
        };
        // What is alive follows everything in the history.
        index::newest(tables, &key).map(|entry| entry.revision())
    });
    match successor {
        Some(successor) if successor.main <= compacted => true,
        _ => row.tombstone && row.revision.main < compacted,
    }
}
