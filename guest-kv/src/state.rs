//! The store's revisions: the derived row that every call starts with, and the durable `meta` rows behind it.
//!
//! The `state` table has at most one row, under `state`: current revision, compacted revision (8 bytes big-endian
//! each), a byte that is 1 while a compaction has rows to remove, and one that has which alarms are raised. No row
//! means a store that was never written to.
//!
//! The `meta` table has etcd's `scheduledCompactRev` and `finishedCompactRev` (17-byte revision keys), and
//! `compactionCursor`: where in `history` the unfinished compaction goes on.

use crate::alarm::Raised;
use crate::revision::{Revision, number};
use crate::row::corrupt;
use crate::tables::{META, STATE, Tables};

/// The revision of a store that was never written to.
pub const FIRST_REVISION: i64 = 1;
/// Stands for "never compacted", as in etcd, which also sends it to clients.
pub const NEVER_COMPACTED: i64 = -1;

const STATE_KEY: &[u8] = b"state";
const SCHEDULED_KEY: &[u8] = b"scheduledCompactRev";
const FINISHED_KEY: &[u8] = b"finishedCompactRev";
const CURSOR_KEY: &[u8] = b"compactionCursor";

/// What a call reads first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The newest revision that can be read.
    pub revision: i64,
    /// Revisions below it cannot be read any more.
    pub compacted: i64,
    /// Whether rows that the compaction left dead are still there.
    pub compaction_pending: bool,
    pub raised: Raised,
}

impl State {
    const EMPTY: State = State {
        revision: FIRST_REVISION,
        compacted: NEVER_COMPACTED,
        compaction_pending: false,
        raised: Raised { no_space: false, corrupt: false },
    };

    pub fn read<T: Tables>(tables: &T) -> State {
        tables.get(STATE, STATE_KEY, State::parse).unwrap_or(State::EMPTY)
    }

    /// Writes the derived row, unless it would say what its absence says.
    pub fn write<T: Tables>(self, tables: &mut T) {
        if self == State::EMPTY {
            tables.delete(STATE, STATE_KEY);
            return;
        }
        let mut row = [0; 18];
        row[..8].copy_from_slice(&self.revision.to_be_bytes());
        row[8..16].copy_from_slice(&self.compacted.to_be_bytes());
        row[16] = u8::from(self.compaction_pending);
        row[17] = self.raised.to_byte();
        tables.put(STATE, STATE_KEY, &row);
    }

    /// The state that the durable tables stand for (as etcd's `restore` finds it).
    ///
    /// A compaction can have removed the newest rows, so a compaction revision counts as one that was reached.
    pub fn derive<T: Tables>(tables: &T) -> State {
        let newest =
            tables.last(crate::tables::KEY, &[], &[], |key, _| match Revision::parse(key) {
                Some((revision, _)) => revision.main,
                None => corrupt("a key of the key table is no revision"),
            });
        let scheduled = scheduled_compaction(tables);
        let finished = finished_compaction(tables);
        let compacted = scheduled.max(finished).unwrap_or(NEVER_COMPACTED);
        State {
            revision: newest.unwrap_or(FIRST_REVISION).max(compacted).max(FIRST_REVISION),
            compacted,
            compaction_pending: scheduled > finished,
            raised: Raised::derive(tables),
        }
    }

    /// What the answer's header carries.
    pub fn header_revision(self) -> u64 {
        self.revision as u64
    }

    fn parse(row: &[u8]) -> State {
        let read = || {
            let (revision, compacted) = (number(row, 0)?, number(row, 8)?);
            let raised = Raised::from_byte(*row.get(17)?);
            Some(State { revision, compacted, compaction_pending: *row.get(16)? == 1, raised })
        };
        read().unwrap_or_else(|| corrupt("the state row is too short"))
    }
}

/// The revision of the last compaction that was asked for.
pub fn scheduled_compaction<T: Tables>(tables: &T) -> Option<i64> {
    compaction_row(tables, SCHEDULED_KEY)
}

/// The revision of the last compaction whose rows are all removed.
pub fn finished_compaction<T: Tables>(tables: &T) -> Option<i64> {
    compaction_row(tables, FINISHED_KEY)
}

pub fn set_scheduled_compaction<T: Tables>(tables: &mut T, main: i64) {
    tables.put(META, SCHEDULED_KEY, &Revision { main, sub: 0 }.key());
}

pub fn set_finished_compaction<T: Tables>(tables: &mut T, main: i64) {
    tables.put(META, FINISHED_KEY, &Revision { main, sub: 0 }.key());
}

/// Whether a row of etcd's `meta` bucket is the machine's to have.
pub fn is_compaction_key(key: &[u8]) -> bool {
    key == SCHEDULED_KEY || key == FINISHED_KEY
}

/// The key of `history` that the unfinished compaction looks at next; empty at its beginning.
pub fn compaction_cursor<T: Tables>(tables: &T) -> Vec<u8> {
    tables.get(META, CURSOR_KEY, <[u8]>::to_vec).unwrap_or_default()
}

pub fn set_compaction_cursor<T: Tables>(tables: &mut T, cursor: &[u8]) {
    if cursor.is_empty() {
        tables.delete(META, CURSOR_KEY);
    } else {
        tables.put(META, CURSOR_KEY, cursor);
    }
}

fn compaction_row<T: Tables>(tables: &T, key: &[u8]) -> Option<i64> {
    tables.get(META, key, |row| match Revision::parse(row) {
        Some((revision, false)) => revision.main,
        _ => corrupt("a compaction revision in the meta table is none"),
    })
}
