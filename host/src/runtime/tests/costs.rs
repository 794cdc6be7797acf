//! Measurements, printed: `cargo test --release -p host costs -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use prost::Message;
use proto::{
    etcdserverpb::{InternalRaftRequest, PutRequest, RangeRequest},
    instar::kv::{Request, request::Kind},
};

use crate::{
    runtime::{BUILT_IN, Entry, machine::Runtime, native},
    storage::{Mark, Overlay, State, files},
};

const KEYS: u64 = 1_000;

fn encoded(request: InternalRaftRequest) -> Vec<u8> {
    Request { kind: Some(Kind::Etcd(request)) }.encode_to_vec()
}

/// A put of a 32-byte key and a 256-byte value.
fn put(number: u64) -> Vec<u8> {
    let key = format!("/registry/some/keys/{:012}", number % KEYS).into();
    let put = PutRequest { key, value: vec![b'v'; 256].into(), ..Default::default() };
    encoded(InternalRaftRequest { put: Some(put), ..Default::default() })
}

fn get(number: u64) -> Vec<u8> {
    let key = format!("/registry/some/keys/{:012}", number % KEYS).into();
    let range = Some(RangeRequest { key, ..Default::default() });
    encoded(InternalRaftRequest { range, ..Default::default() })
}

fn get_all() -> Vec<u8> {
    let key = b"/registry/".to_vec().into();
    let range_end = b"/registry0".to_vec().into();
    let range = Some(RangeRequest { key, range_end, ..Default::default() });
    encoded(InternalRaftRequest { range, ..Default::default() })
}

fn entries(from: u64, count: u64) -> Vec<Entry> {
    let entry = |index| Entry { index, time_ms: index, command: put(index).into() };
    (from..from + count).map(entry).collect()
}

/// The least and the middle of some repetitions.
fn timed(repetitions: usize, mut work: impl FnMut()) -> String {
    let mut times: Vec<Duration> = (0..repetitions)
        .map(|_| {
            let start = Instant::now();
            work();
            start.elapsed()
        })
        .collect();
    times.sort();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    format!("{:9.2} {:9.2} us", micros(times[0]), micros(times[repetitions / 2]))
}

#[test]
#[ignore = "a measurement"]
fn load() {
    println!("component: {} KiB", BUILT_IN.len() >> 10);
    let folder = tempfile::tempdir().expect("a folder");
    let cached = || Runtime::new(Some(folder.path().to_owned())).expect("an engine");
    println!("engine         {}", timed(20, || drop(Runtime::new(None).expect("an engine"))));
    let runtime = Runtime::new(None).expect("an engine");
    println!("load, compiled {}", timed(5, || drop(runtime.load(BUILT_IN).expect("a machine"))));
    cached().load(BUILT_IN).expect("a machine");
    let cached = cached();
    println!("load, cached   {}", timed(20, || drop(cached.load(BUILT_IN).expect("a machine"))));
}

/// The same figures for both kinds of machine, whose types have nothing in common but their methods.
macro_rules! measure {
    ($name:literal, $runtime:expr) => {{
        let runtime = $runtime;
        let machine = runtime.load(BUILT_IN).expect("a machine");
        let directory = tempfile::tempdir().expect("a directory");
        let tables = &machine.description().tables;
        let mut state = State::open(directory.path(), &files(), tables).expect("a state");
        let filled = machine.apply(state.overlay(), 0, &entries(1, KEYS)).expect("a batch");
        let revision = filled.outcomes[KEYS as usize - 1].revision;
        let view = state.commit(filled.overlay.into_writes(), Mark::default()).expect("a commit");
        for count in [1, 10, 100] {
            let batch = entries(KEYS + 1, count);
            let time = timed(2_000 / count as usize, || {
                let overlay = Overlay::new(view.clone());
                machine.apply(overlay, revision, &batch).expect("a batch");
            });
            println!("{} apply, batch of {count:3} {time}", $name);
        }
        let mut reader = machine.reader();
        let (one, all, write) = (get(7), get_all(), put(7));
        println!("{} admit      {}", $name, timed(2_000, || drop(reader.admit(&write, 128))));
        println!("{} get        {}", $name, timed(2_000, || drop(reader.query(&view, &one))));
        println!("{} get 1000   {}", $name, timed(100, || drop(reader.query(&view, &all))));
        println!("{} next task  {}", $name, timed(2_000, || drop(reader.next_task(&view))));
        println!(
            "{} first get  {}",
            $name,
            timed(200, || {
                let mut reader = machine.reader();
                drop(reader.query(&view, &one));
            })
        );
    }};
}

#[test]
#[ignore = "a measurement"]
fn calls() {
    measure!("component", Runtime::new(None).expect("an engine"));
    measure!("linked   ", native::Runtime::new(None).expect("a runtime"));
}
