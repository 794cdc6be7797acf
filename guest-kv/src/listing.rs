//! Listing keys: all that were alive in a span, at the newest revision or an earlier one.
//!
//! At the newest revision it is a scan of `current`. An earlier revision takes both tables of the index, merged: the
//! newest row if it is old enough, or else what the history says.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::counters;
use crate::index::{
    Entry, Past, entry_at, escape, escaped, history_key, newest, past_entry, unescape,
};
use crate::request::Span;
use crate::revision::Revision;
use crate::row::{KeyValue, corrupt};
use crate::state::State;
use crate::tables::{CURRENT, HISTORY, KEY, Tables, scan_all};

/// Rows that one scan asks for: enough to make the call itself cheap, few enough to be a small piece of memory.
const PAGE_ROWS: u32 = 1000;

/// Looks at a user key and its entry, and says whether to go on.
pub type VisitEntry<'v> = dyn FnMut(&[u8], Entry) -> ControlFlow<()> + 'v;

/// How many keys of a span are alive at a revision.
pub fn count<T: Tables>(tables: &T, view: &State, span: Span<'_>, revision: i64) -> u64 {
    match span.end {
        None => u64::from(entry_at(tables, view, span.key, revision).is_some()),
        Some(end) if revision >= view.revision => count_newest(tables, span.key, end),
        Some(end) => count_past(tables, view, span, end, revision),
    }
}

/// As `count`, if that takes no walk over the keys.
pub fn known_count<T: Tables>(
    tables: &T,
    view: &State,
    span: Span<'_>,
    revision: i64,
) -> Option<u64> {
    let end = span.end.filter(|_| revision >= view.revision)?;
    counters::count(tables, span.key, end)
}

fn count_newest<T: Tables>(tables: &T, start: &[u8], end: &[u8]) -> u64 {
    counters::count(tables, start, end).unwrap_or_else(|| tables.count(CURRENT, start, end))
}

/// Counts at an earlier revision: by the changes since then if they are few beside the keys, or else key by key.
fn count_past<T: Tables>(
    tables: &T,
    view: &State,
    span: Span<'_>,
    end: &[u8],
    revision: i64,
) -> u64 {
    // A changed row is read with its value, so it costs more than a key; and no more than this are held.
    const CHANGE_COST: u64 = 4;
    const CHANGES_MAX: u64 = 1000;
    let current = count_newest(tables, span.key, end);
    let changes = (view.revision - revision) as u64;
    if changes > CHANGES_MAX || changes * CHANGE_COST > current {
        let mut count = 0;
        let _ = visit(tables, view, span, revision, PAGE_ROWS, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        return count;
    }
    let mut changed = BTreeSet::new();
    let since = Revision { main: revision + 1, sub: 0 }.key();
    let _ = scan_all(tables, KEY, &since, &[], PAGE_ROWS, &mut |_, row| {
        let key = KeyValue::expect(row).key;
        if key >= span.key && (end.is_empty() || key < end) {
            changed.insert(key.to_vec());
        }
        ControlFlow::Continue(())
    });
    let alive = |entry: Option<Entry>| i64::from(entry.is_some());
    let difference: i64 = changed
        .iter()
        .map(|key| alive(entry_at(tables, view, key, revision)) - alive(newest(tables, key)))
        .sum();
    current.saturating_add_signed(difference)
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
