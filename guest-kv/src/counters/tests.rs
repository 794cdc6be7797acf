//! Counts against walks, by rule and at random.

use std::cell::Cell;

use super::*;
use crate::memory::{MemoryAnswer, MemoryTables};
use crate::model::{self, NativeSubject, Subject};
use crate::tables::Table;
use crate::{Admission, Answered, Entry, Outcome, Rejection, RequestLimits};

fn live(keys: &[&str]) -> MemoryTables {
    let mut tables = MemoryTables::with_page_rows(3);
    for key in keys {
        tables.put(CURRENT, key.as_bytes(), &[0; 33]);
    }
    tables
}

fn migrated(mut tables: MemoryTables) -> MemoryTables {
    while migrate(&mut tables) != Progress::Done {}
    tables
}

/// Both checks over all rows.
fn check(tables: &MemoryTables) -> Result<(), String> {
    tables.table(DIRECTORY).try_for_each(|(key, row)| check_row(tables, key, row))?;
    tables.table(CURRENT).try_for_each(|(key, _)| check_key(tables, key))
}

#[test]
fn a_directory_has_the_keys_below_it() {
    let tables = migrated(live(&["/a", "/a/1", "/a/2", "/a/b/1", "/ab/1", "/a0", "top", "x/y"]));
    assert_eq!(count(&tables, b"/a/", b"/a0"), Some(3));
    assert_eq!(count(&tables, b"/a/b/", b"/a/b0"), Some(1));
    assert_eq!(count(&tables, b"/", b"0"), Some(6));
    assert_eq!(count(&tables, b"/none/", b"/none0"), Some(0));
    for (start, end) in [(&b"/a"[..], &b"/b"[..]), (b"/a/", b"/a1"), (b"", b"0"), (b"/", b"")] {
        assert_eq!(count(&tables, start, end), None, "{start:?} to {end:?} is no directory");
    }
    assert_eq!(check(&tables), Ok(()));
}

#[test]
fn what_is_too_deep_or_too_long_is_counted_otherwise() {
    let deep = "/".repeat(LEVELS + 1);
    let long = format!("{}/x", "l".repeat(DIRECTORY_BYTES));
    let tables = migrated(live(&[&deep, &long]));
    assert_eq!(tables.count(DIRECTORY, &[COUNT], &[]), LEVELS as u64);
    assert_eq!(count(&tables, "/".repeat(LEVELS).as_bytes(), b"///////0"), Some(1));
    assert_eq!(count(&tables, deep.as_bytes(), b"////////0"), None);
    let directory = &long.as_bytes()[..=DIRECTORY_BYTES];
    assert_eq!(count(&tables, directory, &end_of(directory).unwrap()), None);
}

#[test]
fn nothing_counts_before_the_migration() {
    let mut tables = live(&["/a/1"]);
    let mut changes = Changes::default();
    changes.note(&mut tables, b"/a/1", 1);
    changes.write(&mut tables);
    assert_eq!(count(&tables, b"/a/", b"/a0"), None);
    assert_eq!(tables.count(DIRECTORY, &[], &[]), 0);
}

/// A key with many directories ends a step, as many keys do.
#[test]
fn a_step_is_bounded_in_directories() {
    let keys: Vec<String> = (0..2_000).map(|number| format!("{number}/b/c/d/e/f/key")).collect();
    let mut tables = MemoryTables::default();
    for key in &keys {
        tables.put(CURRENT, key.as_bytes(), &[0; 33]);
    }
    let mut steps = 0;
    loop {
        let before = tables.count(DIRECTORY, &[COUNT], &[]);
        let progress = migrate(&mut tables);
        let written = tables.count(DIRECTORY, &[COUNT], &[]) - before;
        assert!(written < (STEP_DIRECTORIES + LEVELS) as u64, "{written} in a step");
        steps += 1;
        if progress == Progress::Done {
            break;
        }
    }
    assert_eq!(steps, 12_000_u64.div_ceil(STEP_DIRECTORIES as u64 + 2));
    assert_eq!(check(&tables), Ok(()));
}

#[test]
fn damage_is_found() {
    let damages: [(&[u8], &[u8]); 4] = [
        (b"\x01/a/", &2_u64.to_be_bytes()),
        (b"\x01/x/", &1_u64.to_be_bytes()),
        (b"\x01/a", &1_u64.to_be_bytes()),
        (b"\x01/a/", b"short"),
    ];
    for (key, row) in damages {
        let mut tables = migrated(live(&["/a/1"]));
        tables.put(DIRECTORY, key, row);
        assert!(check(&tables).is_err(), "{key:?} with {row:?}");
    }
    let mut tables = migrated(live(&["/a/1"]));
    tables.delete(DIRECTORY, b"\x01/a/");
    assert!(check(&tables).is_err(), "a directory is missing");
}

/// The machine whose rows are migrated step by step between what clients do.
struct Migrating {
    subject: NativeSubject,
    /// Entries between two steps of the migration.
    pace: u64,
    /// From so many entries on.
    begins: u64,
}

thread_local! {
    /// Keys that directories had, in all episodes.
    static COUNTED: Cell<u64> = const { Cell::new(0) };
}

impl Migrating {
    /// Every directory that counts itself counts as a walk does.
    fn compare(&mut self) {
        let tables = self.subject.tables_mut();
        for directory in [&b"a/"[..], b"a/b/", b"/", b"//", b"c/", b"none/"] {
            let end = end_of(directory).expect("a directory");
            if let Some(counted) = count(tables, directory, &end) {
                let walked = tables.count(CURRENT, directory, &end);
                assert_eq!(counted, walked, "keys of {directory:?}");
                COUNTED.set(COUNTED.get() + counted);
            }
        }
    }
}

impl Subject for Migrating {
    fn admit(&mut self, request: &[u8], limits: RequestLimits) -> Result<Admission, Rejection> {
        self.subject.admit(request, limits)
    }

    fn apply(&mut self, entry: Entry<'_>) -> Outcome {
        let outcome = self.subject.apply(entry);
        if entry.index >= self.begins && entry.index.is_multiple_of(self.pace) {
            migrate(self.subject.tables_mut());
        }
        self.compare();
        outcome
    }

    fn query(&mut self, request: &[u8]) -> Result<(Answered, Vec<u8>), Rejection> {
        self.subject.query(request)
    }

    fn next_task(&mut self) -> Option<Vec<u8>> {
        self.subject.next_task()
    }

    fn restart(&mut self) -> Result<(), String> {
        self.subject.restart()
    }

    fn check(&mut self) -> Result<(), String> {
        self.subject.check()
    }

    fn rows(&mut self, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.subject.rows(table)
    }
}

/// Every answer is that of etcd's rules, and the check holds, wherever the migration is.
#[test]
fn counts_are_right_at_every_step_of_the_migration() {
    for (seed, pace, begins, page_rows) in
        [(1, 1, 1, 1000), (2, 7, 60, 3), (3, 40, 300, 2), (4, 150, 900, 1)]
    {
        let new = || {
            let subject = NativeSubject::new(page_rows);
            Migrating { subject, pace, begins }
        };
        if let Err(difference) = model::run(seed * 1000, 8_000, new) {
            panic!("{difference}");
        }
    }
    let counted = COUNTED.get();
    assert!(counted > 10_000, "only {counted} keys were counted");
}

/// What a client sees of a count does not tell which machine it is.
#[test]
fn the_answer_to_a_count_is_that_of_a_walk() {
    use prost::Message;
    use proto::etcdserverpb::{InternalRaftRequest, RangeRequest};
    use proto::instar::kv::{Request, request::Kind};
    let before = live(&["/a/1", "/a/2", "/b/1", "top"]);
    let after = migrated(before.clone());
    for (key, range_end) in [("/a/", "/a0"), ("/", "0"), ("/c/", "/c0"), ("/a/", "/a1")] {
        let range = RangeRequest {
            key: key.as_bytes().into(),
            range_end: range_end.as_bytes().into(),
            count_only: true,
            ..RangeRequest::default()
        };
        let etcd = InternalRaftRequest { range: Some(range), ..Default::default() };
        let request = Request { kind: Some(Kind::Etcd(etcd)) }.encode_to_vec();
        let ask = |tables: &MemoryTables| {
            let mut answer = MemoryAnswer::new(tables);
            crate::query(tables, &mut answer, &request).map(|answered| (answered, answer.bytes))
        };
        assert_eq!(ask(&before), ask(&after), "{key} to {range_end}");
    }
}

/// A transaction counts its own writes.
#[test]
fn a_transaction_counts_what_it_has_written() {
    use prost::Message;
    use proto::etcdserverpb::request_op::Request as Op;
    use proto::etcdserverpb::response_op::Response;
    use proto::etcdserverpb::{
        DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        TxnResponse,
    };
    use proto::instar::kv::{Request, request::Kind};
    let count = || {
        let (key, range_end) = (b"d/".to_vec().into(), b"d0".to_vec().into());
        Op::RequestRange(RangeRequest { key, range_end, count_only: true, ..Default::default() })
    };
    let put = |key: &'static [u8]| {
        Op::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() })
    };
    let delete = |key: &'static [u8]| {
        Op::RequestDeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() })
    };
    let mut tables = migrated(MemoryTables::default());
    let mut index = 0;
    let mut apply = |operations: Vec<Op>| {
        let op = |request| RequestOp { request: Some(request) };
        let success = operations.into_iter().map(op).collect();
        let txn = Some(TxnRequest { success, ..TxnRequest::default() });
        let etcd = InternalRaftRequest { txn, ..InternalRaftRequest::default() };
        let command = Request { kind: Some(Kind::Etcd(etcd)) }.encode_to_vec();
        index += 1;
        let outcome = crate::apply(&mut tables, Entry { index, time_ms: 0, command: &command });
        let answer = TxnResponse::decode(&*outcome.response.expect("an answer")).expect("a Txn's");
        let counts = answer.responses.into_iter().filter_map(|response| match response.response {
            Some(Response::ResponseRange(range)) => Some(range.count),
            _ => None,
        });
        counts.collect::<Vec<_>>()
    };
    let operations = vec![count(), put(b"d/1"), count(), put(b"d/2"), put(b"e/1"), count()];
    assert_eq!(apply(operations), [0, 1, 2]);
    assert_eq!(apply(vec![delete(b"d/1"), count(), put(b"d/2"), count()]), [1, 1]);
}
