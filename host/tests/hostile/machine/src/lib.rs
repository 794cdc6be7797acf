//! A small machine for the tests of the runtime: a map with one derived table, which breaks the contract in whatever
//! way a command asks for. The first byte of a command, or of a query, says what it does.
//!
//! Compiled natively it is empty.

#![cfg(target_arch = "wasm32")]

mod bindings {
    #![allow(unsafe_code, clippy::all, reason = "generated code")]
    wit_bindgen::generate!({ path: "../../../../wit", world: "machine" });
    use super::Machine;
    export!(Machine);
}

use std::{cell::RefCell, hint::black_box};

use bindings::{
    Admission, Answered, Description, Entry, Guest, Outcome, Progress, Rejection, RequestLimits,
    Route, Row, TableDescription, TableKind,
    instar::machine::{answer, log, tables},
};

/// Durable: `r` + key -> value.
const ROWS: u32 = 1;
/// Derived: the key, backwards -> nothing.
const BACKWARDS: u32 = 2;
/// Durable: one row, the revision.
const META: u32 = 7;

struct Machine;

thread_local! {
    /// What a machine must not have: memory of earlier calls.
    static HOARD: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl Guest for Machine {
    fn describe() -> Description {
        let table = |table, name: &str, kind| TableDescription { table, name: name.into(), kind };
        Description {
            name: "hostile".into(),
            version: "0.1.0".into(),
            schema_version: 2,
            tables: vec![
                table(ROWS, "rows", TableKind::Durable),
                table(BACKWARDS, "backwards", TableKind::Derived),
                table(META, "meta", TableKind::Durable),
            ],
        }
    }

    fn admit(request: Vec<u8>, limits: RequestLimits) -> Result<Admission, Rejection> {
        match request.first() {
            Some(b'?') => Err(rejection(3, "refused")),
            Some(b'!') => Err(rejection(0, "a code that is none")),
            Some(b'w') if limits.operations > 0 => {
                tables::get(ROWS, b"admit has no tables");
                Ok(Admission { route: Route::Write, heavy: false })
            }
            Some(b'q') => Ok(Admission { route: Route::Read, heavy: true }),
            _ => Ok(Admission { route: Route::Write, heavy: false }),
        }
    }

    fn apply(entry: Entry) -> Outcome {
        let revision = revision();
        let mut outcome =
            Outcome { response: Ok(Vec::new()), revision, events: vec![], task_pending: false };
        match entry.command.split_first() {
            Some((b'p', key)) => put(key, &entry.index.to_le_bytes(), &mut outcome),
            Some((b'd', key)) => delete(key, &mut outcome),
            Some((b'r', _)) => outcome.response = Err(rejection(5, "no")),
            Some((b'f', steps)) => spin(steps),
            Some((b'm', mebibytes)) => hoard(mebibytes),
            Some((byte, argument)) => {
                put(b"half an entry", b"", &mut outcome);
                misbehave(*byte, argument, &mut outcome);
            }
            None => outcome.response = Err(rejection(3, "an empty command")),
        }
        outcome
    }

    fn query(request: Vec<u8>) -> Result<Answered, Rejection> {
        let (first, rest) = request.split_first().ok_or_else(|| rejection(3, "empty"))?;
        match first {
            b'g' => answer::append(&tables::get(ROWS, rest).ok_or_else(|| rejection(5, "none"))?),
            b'r' => answer::append_rows(ROWS, rest, 2, 16),
            b'0' => answer::append_rows(ROWS, rest, 0, 1),
            b'1' => answer::append_rows(ROWS, rest, 2, 0),
            b's' => {
                let page = tables::scan(ROWS, &[], &[], u32::from(rest[0]), rest[1] == 1);
                answer::append(&page.rows);
                answer::append(&[u8::from(page.more)]);
            }
            b'c' => answer::append(&tables::count(ROWS, rest, &[]).to_le_bytes()),
            b'l' => spin(&u64::MAX.to_le_bytes()),
            b'a' => loop {
                answer::append(&vec![0; 1 << 20]);
            },
            b'w' => tables::put(ROWS, b"k", b"v"),
            b'h' => hoard(rest),
            b'x' => {
                answer::append(b"dropped");
                return Err(rejection(5, "no"));
            }
            _ => panic!("an unknown query"),
        }
        Ok(Answered { revision: revision(), next: None })
    }

    fn next_task() -> Option<Vec<u8>> {
        tables::get(ROWS, b"task")
    }

    fn rebuild(cursor: Vec<u8>) -> Progress {
        if tables::get(ROWS, b"sabotage").is_some() {
            tables::put(ROWS, b"by rebuild", b"");
        }
        if tables::get(ROWS, b"standstill").is_some() && !cursor.is_empty() {
            return Progress::More(cursor);
        }
        let page = tables::scan(ROWS, &cursor, &[], 3, false);
        let mut next = Vec::new();
        for (key, _) in rows(&page.rows) {
            tables::put(BACKWARDS, &backwards(key), &[]);
            next = [key, &[0]].concat();
        }
        if page.more { Progress::More(next) } else { Progress::Done }
    }

    fn migrate(from_schema: u32, cursor: Vec<u8>) -> Result<Progress, String> {
        match (from_schema, cursor.is_empty()) {
            (1, true) => {
                tables::put(META, b"schema", b"2");
                Ok(Progress::More(vec![1]))
            }
            (1, false) => Ok(Progress::Done),
            _ => Err(format!("schema {from_schema} is unknown")),
        }
    }

    fn check(_cursor: Vec<u8>) -> Result<Progress, String> {
        if tables::count(ROWS, &[], &[]) != tables::count(BACKWARDS, &[], &[]) {
            return Err("the derived table has not as many rows as the durable one".into());
        }
        Ok(Progress::Done)
    }
}

/// What no machine may do, after a write that must not survive it.
fn misbehave(byte: u8, argument: &[u8], outcome: &mut Outcome) {
    let row = |table, key: &[u8]| Row { table, key: key.to_vec() };
    match byte {
        b'l' => spin(&u64::MAX.to_le_bytes()),
        b'M' => loop {
            hoard(&[16]);
        },
        b's' => {
            black_box(recurse(black_box(u64::MAX)));
        }
        b't' => panic!("as asked for"),
        b'e' => outcome.events.push(row(ROWS, b"not written")),
        b'D' => outcome.events.push(row(BACKWARDS, b"yrtne na flah")),
        b'U' => outcome.events.push(row(99, b"half an entry")),
        b'w' => outcome.response = Err(rejection(5, "no, but written")),
        b'W' => {
            outcome.response = Err(rejection(5, "no, but told"));
            tables::delete(ROWS, b"half an entry");
        }
        b'b' => outcome.revision -= 2,
        b'u' => tables::put(98, b"k", b"v"),
        b'k' => tables::put(ROWS, b"", b"v"),
        b'K' => {
            tables::get(ROWS, b"");
        }
        b'h' => outcome.response = Ok(vec![0; 65 << 20]),
        b'c' => {
            tables::delete(ROWS, b"half an entry");
            outcome.response = Err(rejection(u32::from(argument[0]), "a code"));
        }
        b'g' => outcome.response = Err(rejection(3, &"long".repeat(2000))),
        b'q' => answer::append(b"in apply"),
        b'n' => loop {
            // Cheap for the machine, dear for the host.
            tables::count(ROWS, &[], &[]);
        },
        b'o' => {
            for line in 0..1000 {
                log::write(log::Level::Debug, &format!("line {line} {}", "ä".repeat(1000)));
            }
            panic!("after much talk")
        }
        _ => panic!("an unknown command"),
    }
}

fn put(key: &[u8], value: &[u8], outcome: &mut Outcome) {
    tables::put(ROWS, key, value);
    tables::put(BACKWARDS, &backwards(key), &[]);
    outcome.events.push(Row { table: ROWS, key: key.to_vec() });
    advance(outcome);
}

fn delete(key: &[u8], outcome: &mut Outcome) {
    tables::delete_range(ROWS, key, &[key, &[0]].concat());
    tables::delete(BACKWARDS, &backwards(key));
    advance(outcome);
}

fn advance(outcome: &mut Outcome) {
    outcome.revision += 1;
    tables::put(META, b"revision", &outcome.revision.to_le_bytes());
    outcome.response = Ok(outcome.revision.to_le_bytes().to_vec());
}

fn revision() -> u64 {
    let row = tables::get(META, b"revision");
    row.map_or(0, |row| u64::from_le_bytes(row.try_into().expect("eight bytes")))
}

/// Computes for a while: the argument is the number of rounds, little-endian.
fn spin(rounds: &[u8]) {
    let mut number = [0; 8];
    number[..rounds.len()].copy_from_slice(rounds);
    for round in 0..u64::from_le_bytes(number) {
        black_box(round);
    }
}

/// Keeps so many mebibytes for ever.
fn hoard(mebibytes: &[u8]) {
    let bytes = usize::from(mebibytes[0]) << 20;
    HOARD.with_borrow_mut(|hoard| hoard.push(black_box(vec![1; bytes])));
}

#[expect(unconditional_recursion, reason = "the point of it")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(depth - 1)) + 1
}

fn backwards(key: &[u8]) -> Vec<u8> {
    key.iter().rev().copied().collect()
}

fn rejection(code: u32, message: &str) -> Rejection {
    Rejection { code, message: message.into() }
}

/// The rows of a page.
fn rows(page: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut parts = Vec::new();
    let mut rest = page;
    while let Some((length, after)) = rest.split_first_chunk() {
        let (part, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        parts.push(part);
        rest = after;
    }
    parts.chunks_exact(2).map(|row| (row[0], row[1])).collect()
}
