//! Range: etcd's listing with every field (server/etcdserver/txn/range.go).
//!
//! In key order and without filters rows go from the `key` table to the answer unread; only what has to be sorted or
//! filtered is gathered first.

use std::ops::ControlFlow;

use crate::index::Entry;
use crate::listing;
use crate::rejection::Rejection;
use crate::request::{self, Range, Span};
use crate::revision::KEY_LENGTH;
use crate::row::{KeyValue, corrupt};
use crate::state::State;
use crate::tables::{Answer, KEY, Table, Tables};
use crate::wire;

/// `kvs` of a RangeResponse.
const KVS_FIELD: u32 = 2;
const MORE_FIELD: u32 = 3;
const COUNT_FIELD: u32 = 4;

/// Row keys that are handed over at once.
const KEYS_PACKED: usize = 1000;
/// Bytes of encoded keys that are handed over at once.
const BYTES_PACKED: usize = 64 * 1024;

/// What a range is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A RangeResponse, with the count of all keys in the span.
    Response,
    /// A message of a stream, which has its keys in order and counts elsewhere.
    StreamChunk,
}

/// What was found, beside the rows that went into the answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Keys in the span, whatever limit and filters; of a stream's chunk, the keys that were looked at.
    pub count: i64,
    pub more: bool,
    /// Keys in the answer.
    pub taken: i64,
    /// Of a stream's chunk: the first key behind it, if there is one.
    pub next_key: Option<Vec<u8>>,
}

impl Found {
    /// Appends what follows the rows in a RangeResponse.
    pub fn append_to(&self, answer: &mut impl Answer) {
        let mut out = Vec::with_capacity(16);
        wire::put_bool(&mut out, MORE_FIELD, self.more);
        wire::put_int64(&mut out, COUNT_FIELD, self.count);
        answer.append(&out);
    }
}

/// The revision that a request for `revision` reads at.
pub fn resolve(view: &State, revision: i64) -> Result<i64, Rejection> {
    if revision > view.revision {
        return Err(Rejection::future_revision());
    }
    let revision = if revision <= 0 { view.revision } else { revision };
    if revision < view.compacted {
        return Err(Rejection::compacted());
    }
    Ok(revision)
}

/// Answers a range: the rows are appended to `answer`, the rest is returned.
pub fn range<T: Tables>(
    tables: &T,
    answer: &mut impl Answer,
    view: &State,
    request: &Range<'_>,
    purpose: Purpose,
) -> Result<Found, Rejection> {
    let revision = resolve(view, request.revision)?;
    if request.count_only {
        let count = listing::count(tables, view, request.span(), revision) as i64;
        return Ok(Found { count, ..Found::default() });
    }
    let scope = Scope { tables, view, request, revision, purpose };
    if request.sort_target == request::TARGET_KEY
        && request.has_default_order()
        && !request.has_revision_filters()
    {
        Ok(scope.list(answer))
    } else {
        Ok(scope.gather(answer))
    }
}

struct Scope<'s, 'r, T> {
    tables: &'s T,
    view: &'s State,
    request: &'s Range<'r>,
    revision: i64,
    purpose: Purpose,
}

impl<T: Tables> Scope<'_, '_, T> {
    /// Whether the index alone answers, without the rows (and their leases: etcd sends 0 then).
    fn keys_from_index(&self) -> bool {
        self.request.keys_only && self.request.sort_target != request::TARGET_VALUE
    }

    /// Visits up to `limit` keys. Returns how many there were, and the first key behind them.
    fn take(&self, limit: i64, each: &mut dyn FnMut(&[u8], Entry)) -> (i64, Option<Vec<u8>>) {
        let wanted = u32::try_from(limit.saturating_add(1)).unwrap_or(u32::MAX);
        let (mut taken, mut behind) = (0, None);
        let span = self.request.span();
        let _ = listing::visit(
            self.tables,
            self.view,
            span,
            self.revision,
            wanted,
            &mut |key, entry| {
                if taken == limit {
                    behind = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                taken += 1;
                each(key, entry);
                ControlFlow::Continue(())
            },
        );
        (taken, behind)
    }

    /// All keys of the span, of which `taken` are before `behind`.
    fn total(&self, taken: i64, behind: Option<&[u8]>) -> i64 {
        match (behind, self.purpose) {
            (None, _) => taken,
            (Some(_), Purpose::StreamChunk) => taken + 1,
            (Some(key), Purpose::Response) => {
                let (tables, view, span) = (self.tables, self.view, self.request.span());
                let rest = Span { key, end: span.end };
                match listing::known_count(tables, view, span, self.revision) {
                    Some(count) => count as i64,
                    None => taken + listing::count(tables, view, rest, self.revision) as i64,
                }
            }
        }
    }

    /// Keys in order, as the index has them.
    fn list(&self, answer: &mut impl Answer) -> Found {
        let limit = if self.request.limit > 0 { self.request.limit } else { i64::MAX };
        let mut rows = Rows::new(answer);
        let keys_only = self.keys_from_index();
        let (taken, behind) = self.take(limit, &mut |key, entry| {
            if keys_only {
                rows.push_key(key, &entry);
            } else {
                rows.push_row(&entry);
            }
        });
        rows.flush();
        Found {
            count: self.total(taken, behind.as_deref()),
            more: behind.is_some(),
            taken,
            next_key: behind,
        }
    }

    /// Everything that must be seen as a whole before the first row can be sent.
    fn gather(&self, answer: &mut impl Answer) -> Found {
        let mut items = Vec::new();
        let keep_keys = self.keys_from_index();
        let (taken, behind) = self.take(self.fetch_limit(), &mut |key, entry| {
            let key = if keep_keys { key.to_vec() } else { Vec::new() };
            items.push(Item { key, entry });
        });
        let count = self.total(taken, behind.as_deref());
        items.retain(|item| self.passes_filters(&item.entry));
        self.sort(&mut items);
        let limit = usize::try_from(self.request.limit).unwrap_or(0);
        let mut more = behind.is_some() && self.purpose == Purpose::StreamChunk;
        if limit > 0 && items.len() > limit {
            items.truncate(limit);
            more = true;
        }
        self.append(answer, &items);
        Found { count, more, taken: items.len() as i64, next_key: behind }
    }

    /// How many keys are read before they are sorted. As in etcd one more than asked for, which takes part in the
    /// sorting, if the order is left open but not its target. A stream has to go on behind what it has sent, and takes
    /// no such key.
    fn fetch_limit(&self) -> i64 {
        let request = self.request;
        if request.limit <= 0 || !request.has_default_order() || request.has_revision_filters() {
            return i64::MAX;
        }
        match self.purpose {
            Purpose::Response => request.limit.saturating_add(1),
            Purpose::StreamChunk => request.limit,
        }
    }

    fn passes_filters(&self, entry: &Entry) -> bool {
        let within =
            |revision, min, max| (max == 0 || revision <= max) && (min == 0 || revision >= min);
        let r = self.request;
        within(entry.mod_revision(), r.min_mod_revision, r.max_mod_revision)
            && within(entry.create_revision(), r.min_create_revision, r.max_create_revision)
    }

    /// Sorts stably: of equals, the smaller key comes first in either direction. (etcd leaves their order open.)
    fn sort(&self, items: &mut [Item]) {
        let descending = self.request.sort_order == request::SORT_DESCEND;
        let by_number = |items: &mut [Item], number: fn(&Entry) -> i64| {
            items.sort_by(|a, b| {
                let order = number(&a.entry).cmp(&number(&b.entry));
                if descending { order.reverse() } else { order }
            });
        };
        match self.request.sort_target {
            request::TARGET_KEY if descending => items.reverse(),
            request::TARGET_VERSION => by_number(items, Entry::version),
            request::TARGET_CREATE => by_number(items, Entry::create_revision),
            request::TARGET_MOD => by_number(items, Entry::mod_revision),
            request::TARGET_VALUE => {
                let mut valued: Vec<_> =
                    items.iter().map(|item| (self.value(&item.entry), item.entry)).collect();
                valued.sort_by(|(a, _), (b, _)| if descending { b.cmp(a) } else { a.cmp(b) });
                for (item, (_, entry)) in items.iter_mut().zip(valued) {
                    item.entry = entry;
                }
            }
            _ => {}
        }
    }

    fn value(&self, entry: &Entry) -> Vec<u8> {
        row(self.tables, entry, |row| KeyValue::expect(row).value.to_vec())
    }

    fn append(&self, answer: &mut impl Answer, items: &[Item]) {
        let mut rows = Rows::new(answer);
        for item in items {
            if self.keys_from_index() {
                rows.push_key(&item.key, &item.entry);
            } else if self.request.keys_only {
                row(self.tables, &item.entry, |row| {
                    rows.push(&KeyValue { value: &[], ..KeyValue::expect(row) });
                });
            } else {
                rows.push_row(&item.entry);
            }
        }
        rows.flush();
    }
}

struct Item {
    /// Empty unless the answer is made from it.
    key: Vec<u8>,
    entry: Entry,
}

/// Hands the row behind an entry to `read`.
pub fn row<T: Tables, R>(tables: &T, entry: &Entry, read: impl FnOnce(&[u8]) -> R) -> R {
    tables
        .get(KEY, entry.row_key(), read)
        .unwrap_or_else(|| corrupt("the index names a row that is not there"))
}

/// Collects rows of an answer, to hand them over many at a time.
struct Rows<'a, A> {
    answer: &'a mut A,
    /// Keys of rows that go out as they are stored.
    keys: Vec<u8>,
    /// Rows made here. Never both: a call uses one of the two.
    bytes: Vec<u8>,
}

impl<'a, A: Answer> Rows<'a, A> {
    fn new(answer: &'a mut A) -> Self {
        Rows { answer, keys: Vec::new(), bytes: Vec::new() }
    }

    fn push_row(&mut self, entry: &Entry) {
        self.keys.extend_from_slice(entry.row_key());
        if self.keys.len() >= KEYS_PACKED * KEY_LENGTH {
            self.flush();
        }
    }

    fn push_key(&mut self, key: &[u8], entry: &Entry) {
        self.push(&KeyValue {
            key,
            create_revision: entry.create_revision(),
            mod_revision: entry.mod_revision(),
            version: entry.version(),
            value: &[],
            lease: 0,
        });
    }

    fn push(&mut self, kv: &KeyValue<'_>) {
        wire::put_message(&mut self.bytes, KVS_FIELD, &kv.encode());
        if self.bytes.len() >= BYTES_PACKED {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.keys.is_empty() {
            self.answer.append_rows(KEY, &self.keys, KEY_LENGTH as u32, KVS_FIELD);
            self.keys.clear();
        }
        if !self.bytes.is_empty() {
            self.answer.append(&self.bytes);
            self.bytes.clear();
        }
    }
}

/// An answer in the machine's own memory, for responses within responses.
pub struct Buffer<'a, T> {
    pub tables: &'a T,
    pub bytes: &'a mut Vec<u8>,
}

impl<T: Tables> Answer for Buffer<'_, T> {
    fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn append_rows(&mut self, table: Table, keys: &[u8], key_length: u32, field: u32) {
        for key in keys.chunks_exact(key_length as usize) {
            let row = self.tables.get(table, key, |row| wire::put_message(self.bytes, field, row));
            if row.is_none() {
                corrupt("the index names a row that is not there");
            }
        }
    }

    fn length(&self) -> u64 {
        self.bytes.len() as u64
    }
}
