//! What watchers that lag have missed: the rows of the `key` table, revision by revision
//! (server/storage/mvcc/watchable_store.go, rangeEvents).

use std::ops::ControlFlow;

use crate::request::WatchStep;
use crate::revision::Revision;
use crate::row::corrupt;
use crate::state::State;
use crate::tables::{Answer, KEY, Tables, scan_all};
use crate::wire;

/// Rows fetched at once.
const PAGE_ROWS: u32 = 1000;

/// Answers with a WatchPage: whole revisions, at least one if there is one.
pub fn page<T: Tables>(tables: &T, answer: &mut impl Answer, view: &State, step: &WatchStep) {
    // What is compacted may be there in part.
    let from = step.revision.max(view.compacted).max(0);
    let start = Revision { main: from, sub: 0 }.key();
    let mut next = from.max(view.revision.saturating_add(1));
    let mut bytes = 0;
    let mut last = from;
    let mut field = Vec::new();
    let _ = scan_all(tables, KEY, &start, &[], PAGE_ROWS, &mut |key, row| {
        let Some((at, _)) = Revision::parse(key) else {
            corrupt("a key of the key table is no revision")
        };
        if at.main != last && bytes >= step.target_bytes {
            next = at.main;
            return ControlFlow::Break(());
        }
        last = at.main;
        bytes += (key.len() + row.len()) as u64;
        field.clear();
        wire::put_message(&mut field, 1, key);
        wire::put_message(&mut field, 2, row);
        answer.append(&field);
        ControlFlow::Continue(())
    });
    let mut end = Vec::new();
    wire::put_int64(&mut end, 3, next);
    wire::put_int64(&mut end, 4, view.compacted);
    answer.append(&end);
}
