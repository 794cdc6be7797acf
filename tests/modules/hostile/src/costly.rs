//! What takes as much of the host's time as can be had for the fuel: each of these goes on until it is stopped.

use std::hint::black_box;

use instar_sdk::{Rejection, kv, log, store};

/// The rows and keys that [`prepare`] leaves for the others.
const ROWS: u32 = 1_000;
const ROW_BYTES: usize = 4_000;

pub fn run(how: &str) -> Option<Result<Vec<u8>, Rejection>> {
    match how {
        "prepare-rows" => return Some(prepare_rows()),
        "prepare-keys" => return Some(prepare_keys()),
        "count" => count(),
        "divide" => divide(),
        "root" => root(),
        "fill" => fill(),
        "chase" => chase(),
        "scatter" => scatter(),
        "branch" => branch(),
        "grow" => grow(),
        "get-key" => forever(|| drop(kv::get("/hostile/key/00000001"))),
        "get-no-key" => forever(|| drop(kv::get("/hostile/nothing"))),
        "get-foreign" => forever(|| drop(kv::get("/foreign"))),
        "range-keys" => forever(|| drop(kv::range("/hostile/", "/hostile0", 1_000))),
        "get-row" => forever(|| drop(store::get(1_u32.to_be_bytes()))),
        "get-no-row" => forever(|| drop(store::get("nothing"))),
        "scan-rows" => forever(|| drop(store::scan([], [], 1_000))),
        "scan-row" => forever(|| drop(store::scan([], [], 1))),
        "own-rows" => own_rows(),
        "own-keys" => own_keys(),
        "put-key" => forever(|| ignore(kv::put("/hostile/own", "x"))),
        "put-row" => forever(|| ignore(store::put("own", "x"))),
        "long-key" => long_key(),
        "long-lines" => long_lines(),
        "lines" => forever(|| log::info("x")),
        _ => return None,
    }
    Some(Ok(Vec::new()))
}

fn forever(mut step: impl FnMut()) {
    loop {
        step();
    }
}

/// Refused or not, it goes on.
fn ignore<T>(_: T) {}

fn prepare_rows() -> Result<Vec<u8>, Rejection> {
    for number in 0..ROWS {
        store::put(number.to_be_bytes(), vec![b'v'; ROW_BYTES])?;
    }
    Ok(Vec::new())
}

fn prepare_keys() -> Result<Vec<u8>, Rejection> {
    for number in 0..ROWS {
        kv::put(format!("/hostile/key/{number:08}"), vec![b'v'; ROW_BYTES])?;
    }
    Ok(Vec::new())
}

fn count() {
    let mut number = 1_u64;
    loop {
        number = black_box(number.wrapping_mul(3));
    }
}

/// Each waits for the one before.
fn divide() {
    let by = black_box(3_u64);
    let mut number = black_box(u64::MAX);
    loop {
        for _ in 0..16 {
            number = (u64::MAX - number) / by;
        }
        black_box(number);
    }
}

fn root() {
    let mut number = black_box(1e300_f64);
    loop {
        number = number.sqrt().sqrt().sqrt().sqrt().sqrt().sqrt().sqrt().sqrt();
        number = number.sqrt().sqrt().sqrt().sqrt().sqrt().sqrt().sqrt().sqrt();
        number = black_box(number) + 1e300;
    }
}

fn fill() {
    let mut memory = vec![0_u8; 1 << 20];
    let mut byte = 0_u8;
    loop {
        byte = byte.wrapping_add(1);
        black_box(&mut memory).fill(byte);
    }
}

/// Reads where caches help least: one word of each line, in an order that nothing foretells.
fn chase() {
    const LINES: usize = 1 << 16;
    const WORDS: usize = 28;
    let mut memory = vec![0_u32; LINES * WORDS];
    for line in 0..LINES {
        // A full cycle over all lines.
        let next = (line.wrapping_mul(1_103_515_245).wrapping_add(12_345)) % LINES;
        memory[line * WORDS] = (next * WORDS) as u32;
    }
    let mut at = 0;
    loop {
        for _ in 0..16 {
            at = memory[at] as usize;
        }
        black_box(at);
    }
}

/// The same, by writing.
fn scatter() {
    let mut memory = vec![0_u32; 7 << 18];
    let lines = memory.len() / 16;
    let mut line = 0_usize;
    loop {
        for _ in 0..16 {
            line = line.wrapping_mul(1_103_515_245).wrapping_add(12_345);
            memory[(line % lines) * 16] = line as u32;
        }
        black_box(&mut memory);
    }
}

/// Branches that nothing foretells.
fn branch() {
    let (mut number, mut ones) = (black_box(1_u64), 0_u64);
    loop {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if number >> 63 == 1 {
            ones = black_box(ones) + 1;
        }
    }
}

/// As much memory as may be had, every page of it touched.
fn grow() {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut more = vec![0_u8; 1 << 20];
        more.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        hoard.push(more);
        black_box(&hoard);
    }
}

/// What a call wrote itself is laid over what it reads.
fn own_rows() {
    for number in 0..ROWS {
        ignore(store::put(number.to_be_bytes(), "x"));
    }
    forever(|| drop(store::scan([], [], 1)));
}

fn own_keys() {
    for number in 0..ROWS {
        ignore(kv::put(format!("/hostile/own/{number}"), "x"));
    }
    forever(|| drop(kv::range("/hostile/", "/hostile0", 1)));
}

fn long_key() {
    let key = vec![b'k'; 2 << 20];
    forever(|| drop(store::get(&key)));
}

fn long_lines() {
    let line = "x".repeat(2 << 20);
    forever(|| log::info(&line));
}
