//! A derived table: rows in memory, in order, with snapshots that cost nothing.
//!
//! A row is one allocation (key length, key, value), because a store of a million keys has a million of them.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdSet;

use super::tables::Visit;

/// `[key length: u32][key][value]`.
#[derive(Debug, Clone)]
struct Row(Arc<[u8]>);

const PREFIX: usize = 4;

impl Row {
    fn new(key: &[u8], value: &[u8]) -> Self {
        // Collected at its final length, so that it is allocated once.
        let length = PREFIX + key.len() + value.len();
        let mut row: Arc<[u8]> = std::iter::repeat_n(0, length).collect();
        if let Some(bytes) = Arc::get_mut(&mut row) {
            let (prefix, rest) = bytes.split_at_mut(PREFIX);
            let (key_part, value_part) = rest.split_at_mut(key.len());
            prefix.copy_from_slice(&(key.len() as u32).to_le_bytes());
            key_part.copy_from_slice(key);
            value_part.copy_from_slice(value);
        }
        Self(row)
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let (length, rest) = self.0.split_first_chunk::<PREFIX>().unwrap_or((&[0; PREFIX], &[]));
        rest.split_at(u32::from_le_bytes(*length) as usize)
    }

    fn key(&self) -> &[u8] {
        self.split().0
    }
}

impl Borrow<[u8]> for Row {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(other.key())
    }
}

/// Rows by key. A clone is a snapshot.
#[derive(Debug, Clone, Default)]
pub struct RowSet(OrdSet<Row>);

impl RowSet {
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(Row::new(key, value));
    }

    pub fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(|row| row.split().1)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn scan(&self, start: &[u8], end: &[u8], reverse: bool, visit: Visit<'_>) {
        let Some(bounds) = bounds(start, end) else { return };
        let rows = self.0.range::<_, [u8]>(bounds);
        let mut visit = |row: &Row| {
            let (key, value) = row.split();
            visit(key, value)
        };
        if reverse {
            let _ = rows.rev().try_for_each(&mut visit);
        } else {
            let _ = { rows }.try_for_each(&mut visit);
        }
    }
}

/// The bounds of a range as the contract understands it; none if it is inverted.
pub fn bounds<'a>(start: &'a [u8], end: &'a [u8]) -> Option<(Bound<&'a [u8]>, Bound<&'a [u8]>)> {
    if end.is_empty() {
        return Some((Bound::Included(start), Bound::Unbounded));
    }
    (start < end).then_some((Bound::Included(start), Bound::Excluded(end)))
}
