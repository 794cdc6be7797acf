//! The key index: which revision of which key is where. Both of its tables are derived from the `key` table.
//!
//! - `current` holds the live keys and nothing else: user key -> *entry*. An entry is 33 bytes: the revision key of
//!   the newest row (17), create revision and version (8 each, big-endian).
//! - `history` holds what `current` does not: superseded revisions and tombstones. Its key is the escaped user key
//!   followed by main and sub revision (8 bytes big-endian each), its value create revision and version (8 each) and
//!   a byte, 1 for a tombstone.
//!
//! So a listing at the newest revision costs the same however often the keys were written, no row grows with a
//! key's age, and a key's revisions lie side by side, oldest first.
//!
//! Escaping keeps the order of keys and makes the end of a key visible: a zero byte becomes 00 FF, and 00 00 follows
//! the key.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use crate::request::Span;
use crate::revision::{KEY_LENGTH, Revision, number};
use crate::row::corrupt;
use crate::state::State;
use crate::tables::{CURRENT, HISTORY, Tables, scan_all};

pub const ENTRY_LENGTH: usize = 33;
pub const HISTORY_VALUE_LENGTH: usize = 17;

/// Rows that one scan asks for: enough to make the call itself cheap, few enough to be a small piece of memory.
const PAGE_ROWS: u32 = 1000;

/// Where the newest row of a key at some revision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry([u8; ENTRY_LENGTH]);

impl Entry {
    pub fn new(revision: Revision, create_revision: i64, version: i64) -> Self {
        let mut bytes = [0; ENTRY_LENGTH];
        bytes[..17].copy_from_slice(&revision.key());
        bytes[17..25].copy_from_slice(&create_revision.to_be_bytes());
        bytes[25..].copy_from_slice(&version.to_be_bytes());
        Entry(bytes)
    }

    pub fn parse(row: &[u8]) -> Self {
        match row.try_into() {
            Ok(bytes) => Entry(bytes),
            Err(_) => corrupt("a row of the current table has another length"),
        }
    }

    pub fn bytes(&self) -> &[u8; ENTRY_LENGTH] {
        &self.0
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

    fn number(&self, at: usize) -> i64 {
        number(&self.0, at).unwrap_or_else(|| corrupt("an entry is too short"))
    }
}

/// Looks at a user key and its entry, and says whether to go on.
pub type VisitEntry<'v> = dyn FnMut(&[u8], Entry) -> ControlFlow<()> + 'v;

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

fn escaped(key: &[u8]) -> Vec<u8> {
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
    fn entry(&self) -> Option<Entry> {
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
    value[..16].copy_from_slice(&entry.bytes()[KEY_LENGTH..]);
    tables.put(HISTORY, &history_key(escaped(key), entry.revision()), &value);
}

pub fn put_tombstone<T: Tables>(tables: &mut T, key: &[u8], revision: Revision) {
    let mut value = [0; HISTORY_VALUE_LENGTH];
    value[16] = 1;
    tables.put(HISTORY, &history_key(escaped(key), revision), &value);
}

/// The newest revision of a key, if it is alive.
pub fn newest<T: Tables>(tables: &T, key: &[u8]) -> Option<Entry> {
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

fn past_entry<T: Tables>(tables: &T, escaped_key: &[u8], revision: i64) -> Option<Entry> {
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

/// How many keys of a span are alive at a revision.
pub fn count<T: Tables>(tables: &T, view: &State, span: Span<'_>, revision: i64) -> u64 {
    match span.end {
        None => u64::from(entry_at(tables, view, span.key, revision).is_some()),
        Some(end) if revision >= view.revision => tables.count(CURRENT, span.key, end),
        Some(_) => {
            let mut count = 0;
            let _ = visit(tables, view, span, revision, PAGE_ROWS, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            });
            count
        }
    }
}

/// Visits the keys of a span that are alive at a revision, in order. `wanted` says how many will be looked at,
/// roughly, so that no more are fetched.
pub fn visit<T: Tables>(
    tables: &T,
    view: &State,
    span: Span<'_>,
    revision: i64,
    wanted: u32,
    visit: &mut VisitEntry<'_>,
) -> ControlFlow<()> {
    let page_rows = wanted.clamp(1, PAGE_ROWS);
    match span.end {
        None => match entry_at(tables, view, span.key, revision) {
            Some(entry) => visit(span.key, entry),
            None => ControlFlow::Continue(()),
        },
        Some(end) if revision >= view.revision => {
            scan_all(tables, CURRENT, span.key, end, page_rows, &mut |key, row| {
                visit(key, Entry::parse(row))
            })
        }
        Some(end) => visit_past(tables, span.key, end, revision, page_rows, visit),
    }
}

/// Visits the keys from `start` to `end` that were alive at an earlier revision, by merging both tables.
fn visit_past<T: Tables>(
    tables: &T,
    start: &[u8],
    end: &[u8],
    revision: i64,
    page_rows: u32,
    visit: &mut VisitEntry<'_>,
) -> ControlFlow<()> {
    // An empty end would be escaped into the smallest of all keys.
    let history_end = if end.is_empty() { Vec::new() } else { escaped(end) };
    let mut current = Cursor::new(tables, CURRENT, start.to_vec(), end.to_vec(), page_rows);
    let mut history = Cursor::new(tables, HISTORY, escaped(start), history_end, PAGE_ROWS);
    let mut current_escaped = Vec::new();
    loop {
        let order = match (current.row(), history.row()) {
            (None, None) => return ControlFlow::Continue(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((key, _)), Some((past, value))) => {
                current_escaped.clear();
                escape(key, &mut current_escaped);
                current_escaped.as_slice().cmp(Past::expect(past, value).escaped_key)
            }
        };
        let past = if order.is_ge() { history.take_key(revision) } else { None };
        if order.is_le() {
            if let Some((key, row)) = current.row() {
                let newest = Some(Entry::parse(row)).filter(|e| e.mod_revision() <= revision);
                if let Some(entry) = newest.or(past.map(|(_, entry)| entry)) {
                    visit(key, entry)?;
                }
            }
            current.advance();
        } else if let Some((escaped_key, entry)) = past {
            match unescape(&escaped_key) {
                Some(key) => visit(&key, entry)?,
                None => corrupt("a key of the history table is not escaped"),
            }
        }
    }
}

/// A place in a table, with the rows behind it fetched in pages.
struct Cursor<'t, T> {
    tables: &'t T,
    table: u32,
    /// Where the next page starts; none behind the last.
    next: Option<Vec<u8>>,
    end: Vec<u8>,
    page_rows: u32,
    /// The page's rows, keys and values one after the other, and where each of them ends.
    bytes: Vec<u8>,
    bounds: Vec<(usize, usize)>,
    /// The row in work, and where its bytes begin.
    place: usize,
    begin: usize,
}

impl<'t, T: Tables> Cursor<'t, T> {
    fn new(tables: &'t T, table: u32, start: Vec<u8>, end: Vec<u8>, page_rows: u32) -> Self {
        let mut cursor = Cursor {
            tables,
            table,
            next: Some(start),
            end,
            page_rows,
            bytes: Vec::new(),
            bounds: Vec::new(),
            place: 0,
            begin: 0,
        };
        cursor.fetch();
        cursor
    }

    fn fetch(&mut self) {
        let Cursor { bytes, bounds, .. } = self;
        bytes.clear();
        bounds.clear();
        (self.place, self.begin) = (0, 0);
        if let Some(start) = self.next.take() {
            let (tables, rows) = (self.tables, self.page_rows);
            self.next = tables.scan(self.table, &start, &self.end, rows, &mut |key, value| {
                bytes.extend_from_slice(key);
                let middle = bytes.len();
                bytes.extend_from_slice(value);
                bounds.push((middle, bytes.len()));
                ControlFlow::Continue(())
            });
        }
    }

    fn row(&self) -> Option<(&[u8], &[u8])> {
        let (middle, end) = *self.bounds.get(self.place)?;
        Some((&self.bytes[self.begin..middle], &self.bytes[middle..end]))
    }

    fn advance(&mut self) {
        if let Some((_, end)) = self.bounds.get(self.place) {
            self.begin = *end;
            self.place += 1;
        }
        if self.place == self.bounds.len() {
            self.fetch();
        }
    }

    /// For a cursor in `history`: moves behind the rows of the key it stands on, and says what that key was at a
    /// revision, if it was alive.
    fn take_key(&mut self, revision: i64) -> Option<(Vec<u8>, Entry)> {
        // A key with more rows than this is looked up instead, so that one busy key does not cost all its revisions.
        const ROWS_WALKED: usize = 64;
        let (key, value) = self.row()?;
        let prefix = Past::expect(key, value).escaped_key.to_vec();
        let mut entry = None;
        for _ in 0..ROWS_WALKED {
            match self.row().map(|(key, value)| Past::expect(key, value)) {
                Some(past) if past.escaped_key == prefix => {
                    if past.revision.main <= revision {
                        entry = past.entry();
                    }
                    self.advance();
                }
                _ => return entry.map(|entry| (prefix, entry)),
            }
        }
        let entry = past_entry(self.tables, &prefix, revision);
        let behind = Revision { main: i64::MAX, sub: i64::MAX };
        self.next = Some(history_key(prefix.clone(), behind));
        self.fetch();
        entry.map(|entry| (prefix, entry))
    }
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
