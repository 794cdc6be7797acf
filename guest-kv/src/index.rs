//! The key index: which revision of which key is where. Both of its tables are derived from the `key` table.
//!
//! - `current` holds the live keys and nothing else: user key -> *entry*. An entry is 33 bytes: the revision key of
//!   the newest row (17), create revision and version (8 each, big-endian); and, of a key that is attached to a lease,
//!   8 more: the lease's id.
//! - `history` holds what `current` does not: superseded revisions and tombstones. Its key is the escaped user key
//!   followed by main and sub revision (8 bytes big-endian each), its value create revision and version (8 each) and
//!   a byte, 1 for a tombstone.
//!
//! So a listing at the newest revision costs the same however often the keys were written, no row grows with a
//! key's age, and a key's revisions lie side by side, oldest first.
//!
//! Escaping keeps the order of keys and makes the end of a key visible: a zero byte becomes 00 FF, and 00 00 follows
//! the key.

use std::ops::ControlFlow;

use crate::revision::{KEY_LENGTH, Revision, number};
use crate::row::corrupt;
use crate::state::State;
use crate::tables::{CURRENT, HISTORY, Tables};

/// Of a key without a lease.
pub const ENTRY_LENGTH: usize = 33;
const LEASED_ENTRY_LENGTH: usize = ENTRY_LENGTH + 8;
pub const HISTORY_VALUE_LENGTH: usize = 17;

/// Where the newest row of a key at some revision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry([u8; LEASED_ENTRY_LENGTH]);

impl Entry {
    pub fn new(revision: Revision, create_revision: i64, version: i64) -> Self {
        let mut bytes = [0; LEASED_ENTRY_LENGTH];
        bytes[..17].copy_from_slice(&revision.key());
        bytes[17..25].copy_from_slice(&create_revision.to_be_bytes());
        bytes[25..33].copy_from_slice(&version.to_be_bytes());
        Entry(bytes)
    }

    /// The same, of a key that is attached to this lease; 0 is none.
    pub fn with_lease(mut self, lease: i64) -> Self {
        self.0[ENTRY_LENGTH..].copy_from_slice(&lease.to_be_bytes());
        self
    }

    pub fn parse(row: &[u8]) -> Self {
        let mut bytes = [0; LEASED_ENTRY_LENGTH];
        match row.len() {
            ENTRY_LENGTH => bytes[..ENTRY_LENGTH].copy_from_slice(row),
            LEASED_ENTRY_LENGTH => bytes.copy_from_slice(row),
            _ => corrupt("a row of the current table has another length"),
        }
        Entry(bytes)
    }

    /// The row of `current`.
    pub fn row(&self) -> &[u8] {
        if self.lease() == 0 { &self.0[..ENTRY_LENGTH] } else { &self.0 }
    }

    /// The key of its row in the `key` table.
    pub fn row_key(&self) -> &[u8; KEY_LENGTH] {
        self.0.first_chunk().unwrap_or_else(|| corrupt("an entry is too short"))
    }

    pub fn revision(&self) -> Revision {
        match Revision::parse(self.row_key()) {
            Some((revision, _)) => revision,
            None => corrupt("an entry of the index names no revision"),
        }
    }

    pub fn mod_revision(&self) -> i64 {
        self.number(0)
    }

    pub fn create_revision(&self) -> i64 {
        self.number(17)
    }

    pub fn version(&self) -> i64 {
        self.number(25)
    }

    /// The lease that the key is attached to; 0 if there is none.
    pub fn lease(&self) -> i64 {
        self.number(ENTRY_LENGTH)
    }

    fn number(&self, at: usize) -> i64 {
        number(&self.0, at).unwrap_or_else(|| corrupt("an entry is too short"))
    }
}

/// Appends the escaped form of a user key, end mark included.
pub fn escape(key: &[u8], out: &mut Vec<u8>) {
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        out.extend_from_slice(&rest[..zero]);
        out.extend_from_slice(&[0, 0xff]);
        rest = &rest[zero + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 0]);
}

pub fn escaped(key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(key.len() + 20);
    escape(key, &mut out);
    out
}

/// The user key behind an escaped one, end mark included; none if it is no escaped key.
pub fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut rest = escaped.strip_suffix(&[0, 0])?;
    let mut key = Vec::with_capacity(rest.len());
    while let Some(zero) = rest.iter().position(|byte| *byte == 0) {
        if rest.get(zero + 1) != Some(&0xff) {
            return None;
        }
        key.extend_from_slice(&rest[..=zero]);
        rest = &rest[zero + 2..];
    }
    key.extend_from_slice(rest);
    Some(key)
}

/// A row of the `history` table, its user key still escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past<'a> {
    pub escaped_key: &'a [u8],
    pub revision: Revision,
    pub create_revision: i64,
    pub version: i64,
    pub tombstone: bool,
}

impl<'a> Past<'a> {
    pub fn parse(key: &'a [u8], value: &[u8]) -> Option<Self> {
        let at = key.len().checked_sub(16)?;
        let past = Past {
            escaped_key: &key[..at],
            revision: Revision { main: number(key, at)?, sub: number(key, at + 8)? },
            create_revision: number(value, 0)?,
            version: number(value, 8)?,
            tombstone: *value.get(16)? == 1,
        };
        (value.len() == HISTORY_VALUE_LENGTH).then_some(past)
    }

    pub fn expect(key: &'a [u8], value: &[u8]) -> Self {
        Self::parse(key, value)
            .unwrap_or_else(|| corrupt("a row of the history table is malformed"))
    }

    /// The entry that `current` held for this revision; none for a tombstone.
    pub fn entry(&self) -> Option<Entry> {
        let entry = || Entry::new(self.revision, self.create_revision, self.version);
        (!self.tombstone).then(entry)
    }
}

/// The key of `history` for a revision of an escaped user key.
pub fn history_key(mut escaped_key: Vec<u8>, revision: Revision) -> Vec<u8> {
    escaped_key.extend_from_slice(&revision.main.to_be_bytes());
    escaped_key.extend_from_slice(&revision.sub.to_be_bytes());
    escaped_key
}

/// Notes that the newest revision of a key is superseded.
pub fn put_superseded<T: Tables>(tables: &mut T, key: &[u8], entry: &Entry) {
    let mut value = [0; HISTORY_VALUE_LENGTH];
    value[..16].copy_from_slice(&entry.0[KEY_LENGTH..ENTRY_LENGTH]);
    tables.put(HISTORY, &history_key(escaped(key), entry.revision()), &value);
}

pub fn put_tombstone<T: Tables>(tables: &mut T, key: &[u8], revision: Revision) {
    let mut value = [0; HISTORY_VALUE_LENGTH];
    value[16] = 1;
    tables.put(HISTORY, &history_key(escaped(key), revision), &value);
}

/// The newest revision of a key, if it is alive. A row without a key is nobody's newest (see `rebuild`).
pub fn newest<T: Tables>(tables: &T, key: &[u8]) -> Option<Entry> {
    if key.is_empty() {
        return None;
    }
    tables.get(CURRENT, key, Entry::parse)
}

/// The key's entry at a revision, if it was alive then.
pub fn entry_at<T: Tables>(tables: &T, view: &State, key: &[u8], revision: i64) -> Option<Entry> {
    match newest(tables, key) {
        Some(entry) if entry.mod_revision() <= revision => Some(entry),
        _ if revision >= view.revision => None,
        _ => past_entry(tables, &escaped(key), revision),
    }
}

/// The same, of a key that was changed since; its key is escaped.
pub fn past_entry<T: Tables>(tables: &T, escaped_key: &[u8], revision: i64) -> Option<Entry> {
    let (start, end) = history_span(escaped_key, revision);
    tables.last(HISTORY, &start, &end, |key, value| Past::expect(key, value).entry()).flatten()
}

/// The range of `history` with the revisions of one key up to a revision.
fn history_span(escaped_key: &[u8], revision: i64) -> (Vec<u8>, Vec<u8>) {
    let first = Revision { main: 0, sub: 0 };
    let behind = Revision { main: revision + 1, sub: 0 };
    (history_key(escaped_key.to_vec(), first), history_key(escaped_key.to_vec(), behind))
}

/// The first revision of a key behind `revision`, among those in `history` and then the newest.
pub fn successor<T: Tables>(tables: &T, key: &[u8], revision: Revision) -> Option<Revision> {
    let newest = newest(tables, key).map(|entry| entry.revision());
    if newest == Some(revision) {
        return None;
    }
    let prefix = escaped(key);
    let behind = Revision { main: revision.main, sub: revision.sub + 1 };
    let start = history_key(prefix.clone(), behind);
    let end = history_key(prefix, Revision { main: i64::MAX, sub: i64::MAX });
    let mut found = None;
    tables.scan(HISTORY, &start, &end, 1, &mut |key, value| {
        found = Some(Past::expect(key, value).revision);
        ControlFlow::Break(())
    });
    found.or(newest.filter(|newest| *newest > revision))
}

/// The last revision that `history` has of a key.
pub fn newest_past<T: Tables>(tables: &T, key: &[u8]) -> Option<Revision> {
    let (start, end) = history_span(&escaped(key), i64::MAX - 1);
    tables.last(HISTORY, &start, &end, |key, value| Past::expect(key, value).revision)
}

/// Whether `history` has a revision of a key just so.
pub fn past_is<T: Tables>(tables: &T, key: &[u8], entry: &Entry, tombstone: bool) -> bool {
    let key = history_key(escaped(key), entry.revision());
    let is_same = |value: &[u8]| {
        Past::parse(&key, value).is_some_and(|past| {
            past.tombstone == tombstone
                && past.create_revision == entry.create_revision()
                && past.version == entry.version()
        })
    };
    tables.get(HISTORY, &key, is_same).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_keeps_order_and_is_undone() {
        let parts: [&[u8]; 5] = [b"", b"\0", b"\0\xff", b"a", b"\xff"];
        let mut keys = Vec::new();
        for a in parts {
            for b in parts {
                for c in parts {
                    keys.push([a, b, c].concat());
                }
            }
        }
        keys.sort();
        keys.dedup();
        for pair in keys.windows(2) {
            // The revision behind a key must not decide between keys.
            let last = Revision { main: i64::MAX, sub: i64::MAX };
            let first = Revision { main: 0, sub: 0 };
            assert!(history_key(escaped(&pair[0]), last) < history_key(escaped(&pair[1]), first));
        }
        for key in keys {
            assert_eq!(unescape(&escaped(&key)), Some(key));
        }
    }

    #[test]
    fn what_is_not_escaped_is_refused() {
        for bad in [&b""[..], b"\0", b"a", b"\0\x01\0\0", b"\0\0\0\0"] {
            assert_eq!(unescape(bad), None, "{bad:?}");
        }
    }
}
