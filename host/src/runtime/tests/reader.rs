//! Queries: what they see, what they may not do, and that they hold nothing afterwards.

use std::sync::Arc;

use super::{Replica, hostile};
use crate::runtime::{Answer, CallError, QueryError, Route};

fn filled() -> Replica<'static> {
    let mut replica = Replica::new(hostile());
    replica.apply(&[b"pk1", b"pk2", b"pk3"]);
    replica
}

fn body(answer: Result<Answer, QueryError>) -> Vec<u8> {
    answer.expect("an answer").body.to_vec()
}

#[test]
fn a_query_sees_its_view_and_no_other() {
    let mut replica = filled();
    let mut reader = hostile().reader();
    let old = replica.view();
    replica.apply(&[b"dk2"]);
    let answer = reader.query(&old, b"gk2").expect("an answer");
    assert_eq!((answer.revision, &answer.body[..]), (3, &2u64.to_le_bytes()[..]));
    let gone = reader.query(&replica.view(), b"gk2");
    assert!(matches!(gone, Err(QueryError::Rejected(it)) if it.code == 5));
    assert_eq!(body(reader.query(&replica.view(), b"ck")), 2u64.to_le_bytes());
}

#[test]
fn rows_reach_the_answer_as_protobuf_fields() {
    let replica = filled();
    let mut reader = hostile().reader();
    let row = |number: u64| [&[0x82, 0x01, 8][..], &number.to_le_bytes()].concat();
    assert_eq!(body(reader.query(&replica.view(), b"rk3k1")), [row(3), row(1)].concat());
    for offence in [&b"rk3k"[..], b"rk9", b"0k1", b"1k1"] {
        let failed = reader.query(&replica.view(), offence);
        assert!(matches!(failed, Err(QueryError::Failed(CallError::Fault(_)))), "{offence:?}");
    }
}

#[test]
fn a_page_has_no_more_rows_than_asked_for_and_says_whether_there_are_more() {
    let replica = filled();
    let mut reader = hostile().reader();
    let mut keys = |limit: u8, reverse: u8| {
        let body = body(reader.query(&replica.view(), &[b's', limit, reverse]));
        let (more, rows) = body.split_last().expect("a byte");
        // A row: the key's length, `k` and a digit, the value's length, eight bytes.
        let keys: Vec<_> = rows.chunks(4 + 2 + 4 + 8).map(|row| row[5] - b'0').collect();
        (keys, *more == 1)
    };
    assert_eq!(keys(0, 0), (vec![1, 2, 3], false));
    assert_eq!(keys(3, 0), (vec![1, 2, 3], false));
    assert_eq!(keys(2, 0), (vec![1, 2], true));
    assert_eq!(keys(2, 1), (vec![3, 2], true));
}

#[test]
fn a_reader_survives_every_failure_and_holds_no_view() {
    let replica = filled();
    let mut reader = hostile().reader();
    let offences: [(&[u8], &str); 6] = [
        (b"l", "it did not end within its limit on computing"),
        (b"a", "it did not end within its limit on computing"),
        (b"w", "it wrote to its tables in a call that only reads"),
        (b"h\xff", "it asked for more memory than it may have"),
        (b"r\x01", "it named rows by keys of uneven length"),
        (b"?", "it panicked"),
    ];
    let view = replica.view();
    let holders = Arc::strong_count(&view);
    for (offence, reason) in offences {
        match reader.query(&view, offence) {
            Err(QueryError::Failed(CallError::Fault(fault))) => {
                assert_eq!(fault.to_string(), reason, "{offence:?}");
            }
            other => panic!("{offence:?}: {other:?}"),
        }
        assert_eq!(Arc::strong_count(&view), holders, "{offence:?}");
        assert_eq!(body(reader.query(&view, b"gk1")), 1u64.to_le_bytes());
        assert_eq!(Arc::strong_count(&view), holders);
    }
}

#[test]
fn what_a_rejected_query_appended_is_in_no_answer() {
    let replica = filled();
    let mut reader = hostile().reader();
    assert!(matches!(reader.query(&replica.view(), b"x"), Err(QueryError::Rejected(_))));
    assert_eq!(body(reader.query(&replica.view(), b"gk1")), 1u64.to_le_bytes());
}

#[test]
fn admission_has_no_tables_and_no_codes_of_its_own() {
    let mut reader = hostile().reader();
    let admission = reader.admit(b"q", 1).expect("an admission");
    assert_eq!((admission.route, admission.heavy), (Route::Read, true));
    assert!(matches!(reader.admit(b"?", 1), Err(QueryError::Rejected(it)) if it.code == 3));
    for offence in [b"w", b"!"] {
        assert!(matches!(reader.admit(offence, 1), Err(QueryError::Failed(_))), "{offence:?}");
    }
    // The operator's limit reaches the machine: without operations this one reads no table.
    assert_eq!(reader.admit(b"w", 0).expect("an admission").route, Route::Write);
}

#[test]
fn a_task_is_whatever_the_machine_says() {
    let mut replica = filled();
    let mut reader = hostile().reader();
    assert_eq!(reader.next_task(&replica.view()).expect("an answer"), None);
    replica.apply(&[b"ptask"]);
    let task = reader.next_task(&replica.view()).expect("an answer").expect("a task");
    assert_eq!(task[..], 4u64.to_le_bytes());
}
