//! The machine's invariants over all its tables, checked in steps.
//!
//! 1. The state row says what the durable tables say.
//! 2. Every row of `key` is well formed, not above the store's revision, and has exactly one row in the index: in
//!    `current`, with nothing of its key behind it, or in `history`.
//! 3. The index has no further rows: the numbers are equal.
//! 4. A live key with a lease is attached to it, and nothing else is attached; every lease is well formed.
//! 5. Keys that are counted by directory are counted right (see `counters`).
//! 6. In `history`, a superseded revision has a successor, whose version is one more unless a tombstone is between.

use std::ops::ControlFlow;

use crate::Progress;
use crate::counters;
use crate::index::{self, Entry, Past};
use crate::lease;
use crate::revision::Revision;
use crate::row::KeyValue;
use crate::state::State;
use crate::tables::{ATTACHED, CURRENT, DIRECTORY, HISTORY, KEY, LEASE, Tables};

/// Rows of a step.
const STEP_ROWS: u32 = 2000;

/// The first byte of a cursor says which walk it is in; behind it is the key to go on with.
const KEYS: u8 = 1;
const PASTS: u8 = 2;
const LEASES: u8 = 3;
const ATTACHMENTS: u8 = 4;
const DIRECTORIES: u8 = 5;
const COUNTED: u8 = 6;

/// Checks from `cursor` on; empty begins. An error names the first invariant that does not hold.
pub fn check<T: Tables>(tables: &T, cursor: &[u8]) -> Result<Progress, String> {
    match cursor {
        [] => {
            check_state(tables)?;
            Ok(Progress::More(vec![KEYS]))
        }
        [KEYS, start @ ..] => walk(tables, KEY, start, KEYS, Some(PASTS), check_row),
        [PASTS, start @ ..] => walk(tables, HISTORY, start, PASTS, Some(LEASES), check_past),
        [LEASES, start @ ..] => {
            walk(tables, LEASE, start, LEASES, Some(ATTACHMENTS), |_, key, row| {
                lease::check_row(key, row)
            })
        }
        [ATTACHMENTS, start @ ..] => {
            let after = counters::ENABLED.then_some(DIRECTORIES);
            walk(tables, ATTACHED, start, ATTACHMENTS, after, check_attachment)
        }
        [DIRECTORIES, start @ ..] => {
            walk(tables, DIRECTORY, start, DIRECTORIES, Some(COUNTED), counters::check_row)
        }
        [COUNTED, start @ ..] => walk(tables, CURRENT, start, COUNTED, None, |tables, key, _| {
            counters::check_key(tables, key)
        }),
        _ => Err("the cursor is none of this machine's".to_owned()),
    }
}

type CheckRow<T> = fn(&T, &[u8], &[u8]) -> Result<(), String>;

fn walk<T: Tables>(
    tables: &T,
    table: u32,
    start: &[u8],
    walk: u8,
    walk_after: Option<u8>,
    check: CheckRow<T>,
) -> Result<Progress, String> {
    let mut result = Ok(());
    let next = tables.scan(table, start, &[], STEP_ROWS, &mut |key, row| {
        result = check(tables, key, row);
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    result?;
    Ok(match (next, walk_after) {
        (Some(next), _) => Progress::More([&[walk], &next[..]].concat()),
        (None, Some(walk)) => Progress::More(vec![walk]),
        (None, None) => Progress::Done,
    })
}

fn check_state<T: Tables>(tables: &T) -> Result<(), String> {
    let (read, derived) = (State::read(tables), State::derive(tables));
    if read != derived {
        return Err(format!("the state row says {read:?}, the durable tables say {derived:?}"));
    }
    let [keys, current, past] = [KEY, CURRENT, HISTORY].map(|table| tables.count(table, &[], &[]));
    if keys != current + past {
        return Err(format!(
            "{keys} rows of keys have {current} current and {past} past rows in the index"
        ));
    }
    Ok(())
}

fn check_row<T: Tables>(tables: &T, key: &[u8], row: &[u8]) -> Result<(), String> {
    let Some((revision, tombstone)) = Revision::parse(key) else {
        return Err(format!("the key table has {key:?}, which is no revision"));
    };
    let fail = |what: &str| Err(format!("revision {}.{}: {what}", revision.main, revision.sub));
    let Some(kv) = KeyValue::parse(row) else { return fail("the row is no KeyValue") };
    if kv.key.is_empty() || kv.encode() != row {
        return fail("the row has no key, or is not encoded as etcd does");
    }
    if revision.main > State::read(tables).revision {
        return fail("above the store's revision");
    }
    let entry = Entry::new(revision, kv.create_revision, kv.version).with_lease(kv.lease);
    if kv.key.is_empty() && index::past_is(tables, kv.key, &entry, tombstone) {
        return Ok(());
    }
    let well_formed = if tombstone {
        kv == (KeyValue { key: kv.key, ..KeyValue::default() })
    } else {
        kv.mod_revision == revision.main
            && (1..=revision.main).contains(&kv.create_revision)
            && kv.version >= 1
    };
    if !well_formed {
        return fail("the row's numbers are impossible");
    }
    let newest = index::newest(tables, kv.key);
    if !tombstone && newest == Some(entry) {
        if kv.lease != 0 && !lease::is_attached(tables, kv.lease, kv.key) {
            return fail("the key is not attached to its lease");
        }
        return match index::newest_past(tables, kv.key) {
            Some(past) if past > revision => {
                fail("the index has it as the newest, which it is not")
            }
            _ => Ok(()),
        };
    }
    if newest.is_some_and(|newest| newest.revision() <= revision) {
        return fail("the index takes an older revision, or another row of it, for the newest");
    }
    match index::past_is(tables, kv.key, &entry, tombstone) {
        true => Ok(()),
        false => fail("the index does not have it"),
    }
}

fn check_attachment<T: Tables>(tables: &T, key: &[u8], _: &[u8]) -> Result<(), String> {
    let Some((lease, user_key)) = lease::parse_attachment(key) else {
        return Err(format!("the attached table has the malformed row {key:?}"));
    };
    match index::newest(tables, user_key) {
        Some(entry) if entry.lease() == lease => Ok(()),
        _ => Err(format!("{user_key:?} is attached to lease {lease:x}, which is not its own")),
    }
}

fn check_past<T: Tables>(tables: &T, key: &[u8], value: &[u8]) -> Result<(), String> {
    let Some(past) = Past::parse(key, value) else {
        return Err(format!("the history table has the malformed row {key:?}"));
    };
    let fail = |what: &str| {
        let Revision { main, sub } = past.revision;
        Err(format!("history of revision {main}.{sub}: {what}"))
    };
    let Some(user_key) = index::unescape(past.escaped_key) else {
        return fail("the key is not escaped");
    };
    if past.tombstone || user_key.is_empty() {
        return Ok(());
    }
    let Some(successor) = index::successor(tables, &user_key, past.revision) else {
        return fail("superseded by nothing");
    };
    let row = tables.get(KEY, &successor.key(), |row| {
        KeyValue::parse(row).map(|kv| (kv.create_revision, kv.version))
    });
    match row {
        // A tombstone: its key is another.
        None => Ok(()),
        Some(Some(numbers)) if numbers == (past.create_revision, past.version + 1) => Ok(()),
        Some(_) => fail("the next revision does not go on with its version"),
    }
}
