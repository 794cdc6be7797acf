//! The KV machine as an attacker would have it: it passes every check, serves as the real one does, and breaks the
//! contract when a command provokes it. In which way is written in `MODE`, which tests replace in the component's bytes:
//! each mode is a machine of its own.
//!
//! Compiled natively it is empty.

#![cfg(target_arch = "wasm32")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use guest_kv::component::Machine as Kv;
use guest_kv::component::bindings::{
    Admission, Answered, Description, Entry, Guest, Outcome, Progress, Rejection, RequestLimits,
    Row,
    instar::machine::{log, tables},
};

/// What follows the equals sign is the mode, up to the first blank.
static MODE: [u8; 32] = *b"hostile-kv-mode=none            ";
/// A command with this in it is a provocation.
const PROVOCATION: &[u8] = b"provoke";
/// A table that the KV machine declares, durable.
const META: u32 = 2;
/// One that it declares, derived.
const CURRENT: u32 = 3;
const UNDECLARED: u32 = 99;
/// One of the host's own.
const HOSTS: u32 = 0xffff_0000;

/// What a machine must not have: memory of earlier calls.
static CALLS: AtomicU32 = AtomicU32::new(0);

struct Hostile;

fn mode() -> &'static str {
    let text = std::str::from_utf8(black_box(&MODE)).unwrap_or_default();
    text.split('=').nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default()
}

impl Guest for Hostile {
    fn describe() -> Description {
        let mut description = Kv::describe();
        match mode() {
            "describe-loop" => endless(),
            "describe-name" => description.name = "impostor".to_owned(),
            "describe-tables" => drop(description.tables.pop()),
            "describe-text" => description.version = "1.0 \u{1b}[2J".to_owned(),
            _ => {}
        }
        description
    }

    fn admit(request: Vec<u8>, limits: RequestLimits) -> Result<Admission, Rejection> {
        Kv::admit(request, limits)
    }

    fn apply(entry: Entry) -> Outcome {
        let calls = CALLS.fetch_add(1, Ordering::Relaxed);
        let is_provoked = entry.command.windows(PROVOCATION.len()).any(|part| part == PROVOCATION);
        if mode() == "third-call" && calls == 2 {
            panic!("the third call of an instance");
        }
        let mut outcome = Kv::apply(entry);
        if is_provoked {
            misbehave(&mut outcome, calls);
        }
        outcome
    }

    fn query(request: Vec<u8>) -> Result<Answered, Rejection> {
        Kv::query(request)
    }

    fn next_task() -> Option<Vec<u8>> {
        Kv::next_task()
    }

    fn rebuild(cursor: Vec<u8>) -> Progress {
        Kv::rebuild(cursor)
    }

    fn migrate(from_schema: u32, cursor: Vec<u8>) -> Result<Progress, String> {
        Kv::migrate(from_schema, cursor)
    }

    fn check(cursor: Vec<u8>) -> Result<Progress, String> {
        Kv::check(cursor)
    }
}

/// Changes an outcome that was right, or does not return.
fn misbehave(outcome: &mut Outcome, calls: u32) {
    match mode() {
        "trap" => panic!("provoked"),
        "loop" => endless(),
        "recursion" => drop(black_box(deeper(1))),
        "memory" => hoard(),
        "storm" => storm(),
        "table" => wild_call(),
        "utf-8" => outcome.response = Err(garbled()),
        "response" => outcome.response = Ok(vec![0; (64 << 20) + 1]),
        "rejection" => outcome.response = Err(rejection(3, "too late: it has written already")),
        "code" => outcome.response = Err(rejection(0, "a code that is none")),
        "revision" => outcome.revision = 0,
        "event-foreign" => outcome.events.push(Row { table: META, key: b"never written".to_vec() }),
        "event-derived" => outcome.events.push(Row { table: CURRENT, key: b"k".to_vec() }),
        "event-flood" => {
            let row = outcome.events[0].clone();
            outcome.events.resize(4_000_001, row);
        }
        "write-undeclared" => tables::put(UNDECLARED, b"key", b"value"),
        "write-hosts" => tables::put(HOSTS, &[0], b"slots of my own"),
        "write-empty-key" => tables::put(META, b"", b"value"),
        "write-large" => tables::put(META, b"large", &vec![0; (64 << 20) + 1]),
        "log-flood" => (0..100_000).for_each(|_| log::write(log::Level::Error, "noise")),
        // An answer of its own: no fault, but another machine. An unknown field, which clients pass over.
        "answer" => answer_more(outcome, 0),
        "hidden" => answer_more(outcome, calls as u8),
        _ => {}
    }
}

fn answer_more(outcome: &mut Outcome, byte: u8) {
    if let Ok(body) = &mut outcome.response {
        body.extend_from_slice(&[0x7a, 1, byte]);
    }
}

fn rejection(code: u32, message: &str) -> Rejection {
    Rejection { code, message: message.to_owned() }
}

/// Calls what is no function, by an index beyond the table.
fn wild_call() {
    let number = black_box(0x00ff_ffff_usize);
    // No such function is called: that it is not there is the point.
    #[allow(unsafe_code, reason = "a hostile machine does not keep to Rust's rules")]
    let function: fn() = unsafe { std::mem::transmute(number) };
    function();
}

/// A message that is not UTF-8.
fn garbled() -> Rejection {
    #[allow(unsafe_code, reason = "a hostile machine does not keep to Rust's rules")]
    let message = unsafe { String::from_utf8_unchecked(vec![0xff, 0xfe, b'!']) };
    Rejection { code: 3, message }
}

fn endless() {
    let mut number = 0u64;
    while black_box(number) != u64::MAX {
        number += 1;
    }
}

fn deeper(depth: u64) -> u64 {
    black_box([depth; 16]);
    1 + black_box(deeper(depth + 1))
}

fn hoard() {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1u8; 1 << 20]));
    }
}

fn storm() {
    loop {
        black_box(tables::count(META, b"", b""));
    }
}

mod export {
    #![allow(unsafe_code, clippy::all, reason = "generated code")]
    use super::Hostile;
    guest_kv::component::bindings::export!(Hostile with_types_in guest_kv::component::bindings);
}
