//! Measurements, printed: `cargo test --release -p host module_costs -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant};

use super::log::Log;
use super::{Replica, machines};
use crate::limits::{MODULE_EVENTS, MODULE_FUEL};
use crate::runtime::Export;

/// Whatever a module does with its fuel, apply goes on within this.
const STALL: Duration = Duration::from_millis(50);

/// Everything that goes on until it is stopped, as `tests/modules/hostile` names it.
const COSTLY: [&str; 23] = [
    "count",
    "divide",
    "root",
    "fill",
    "chase",
    "scatter",
    "branch",
    "grow",
    "get-key",
    "get-no-key",
    "get-foreign",
    "range-keys",
    "get-row",
    "get-no-row",
    "scan-rows",
    "scan-row",
    "own-rows",
    "own-keys",
    "put-key",
    "put-row",
    "long-key",
    "long-lines",
    "lines",
];

#[test]
#[ignore = "a measurement"]
fn the_longest_stalls() {
    let cache = tempfile::tempdir().expect("a directory");
    let mut replica = Replica::new(1, machines(cache.path()));
    let mut log = Log::new();
    let digest = log.put_module(::modules::HOSTILE, "hostile");
    log.activate_module("hostile", digest, "/hostile/");
    log.call("hostile", "prepare-rows", "");
    log.call("hostile", "prepare-keys", "");
    replica.apply_to(&log, log.last_index());
    println!("{:12} {:>8} {:>8} {:>8}", "", "least ms", "most ms", "ns/unit");
    let mut longest = Duration::ZERO;
    for how in COSTLY {
        let times: Vec<Duration> = (0..5)
            .map(|_| {
                log.call("hostile", how, "");
                let started = Instant::now();
                replica.apply_to(&log, log.last_index());
                let took = started.elapsed();
                // It is not to be disabled.
                log.call("hostile", "echo", "");
                replica.apply_to(&log, log.last_index());
                took
            })
            .collect();
        let (least, most) = (times.iter().min().expect("some"), times.iter().max().expect("some"));
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let per_unit = least.as_nanos() as f64 / MODULE_FUEL as f64;
        println!("{how:12} {:8.1} {:8.1} {per_unit:8.3}", ms(least), ms(most));
        longest = longest.max(*least);
    }
    let shown = ten_thousand_keys(&mut replica, &mut log);
    println!("10,000 keys deleted at once, and shown: {shown:?}");
    let works = replica.machines.journal().works();
    let calls = works.iter().find(|(_, export, _)| *export == Export::Call).expect("calls");
    println!("{:?}", calls.2);
    assert!(longest < STALL, "a module stalls apply for {longest:?}");
}

/// How long an entry takes of which a module is shown as much as may be.
fn ten_thousand_keys(replica: &mut Replica, log: &mut Log) -> Duration {
    for number in 0..MODULE_EVENTS {
        log.put(&format!("/hostile/many/{number:06}"), "value");
    }
    replica.apply_to(log, log.last_index());
    log.delete("/hostile/many/", "/hostile/many0");
    let started = Instant::now();
    replica.apply_to(log, log.last_index());
    let took = started.elapsed();
    let keys = replica.keys();
    assert!(!keys.keys().any(|key| key.starts_with(b"/hostile/many/")), "they are refused");
    took
}

/// The hostile module under another name.
fn renamed(number: usize) -> (String, Vec<u8>) {
    let (name, mut component) = (format!("hostil{number}"), ::modules::HOSTILE.to_vec());
    let at = |component: &[u8]| component.windows(7).position(|bytes| bytes == b"hostile");
    while let Some(at) = at(&component) {
        component[at..at + 7].copy_from_slice(name.as_bytes());
    }
    (name, component)
}

#[test]
#[ignore = "a measurement"]
fn what_modules_cost_a_put() {
    let cache = tempfile::tempdir().expect("a directory");
    let machines = machines(cache.path());
    println!("microseconds a put, in batches of 100, under the modules' prefix and elsewhere");
    for count in [0, 1, 5] {
        let mut replica = Replica::new(1, machines.clone());
        let mut log = Log::new();
        for number in 0..count {
            let (name, component) = renamed(number);
            let digest = log.put_module(&component, &name);
            log.activate_module(&name, digest, "/seen/");
        }
        replica.apply_to(&log, log.last_index());
        let mut puts = |prefix: &str| {
            for number in 0..4_000 {
                log.put(&format!("{prefix}{:06}", number % 1_000), "value");
            }
            let started = Instant::now();
            while replica.applied_index() < log.last_index() {
                let index = replica.applied_index() + 100;
                replica.apply_to(&log, index.min(log.last_index()));
            }
            started.elapsed().as_secs_f64() * 1e6 / 4_000.0
        };
        puts("/elsewhere/");
        let (under, elsewhere) = (puts("/seen/"), puts("/elsewhere/"));
        println!("{count} modules: {under:8.2} {elsewhere:8.2}");
    }
}
