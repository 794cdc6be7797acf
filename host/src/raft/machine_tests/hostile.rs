//! Machines that pass every check and break the contract once they serve: the entry that provokes them is applied by the
//! machine before, on every replica, and its client sees success.

use super::log::{Log, digest_of};
use super::{Replica, expect_equal, machines};
use crate::runtime::BUILT_IN;

/// Ways to misbehave that are faults.
const FAULTS: [&str; 18] = [
    "trap",
    "loop",
    "recursion",
    "memory",
    "storm",
    "response",
    "rejection",
    "code",
    "revision",
    "event-foreign",
    "event-derived",
    "event-flood",
    "write-undeclared",
    "write-hosts",
    "write-empty-key",
    "write-large",
    "utf-8",
    "table",
];

/// Ways that only cost time: the runtime takes care that nobody sees them.
const NUISANCES: [&str; 2] = ["third-call", "log-flood"];

/// Puts before the provocation, and as many after.
const PUTS: usize = 12;

/// What three replicas make of a machine, in batches of 1, of 5, and all at once.
fn provoked(mode: &str, shared: &std::sync::Arc<crate::runtime::Machines>) -> [Replica; 3] {
    let component = ::hostile::kv(mode);
    let (built_in, machine) = (digest_of(BUILT_IN), digest_of(&component));
    let mut log = Log::new();
    log.put_component(BUILT_IN);
    log.put_component(&component);
    log.ready_on_all(machine);
    let activated = log.activate(machine, built_in);
    let mut puts: Vec<u64> = (0..PUTS).map(|n| log.put(&format!("before/{n}"), mode)).collect();
    puts.push(log.put("provoke", mode));
    puts.extend((0..PUTS).map(|n| log.put(&format!("after/{n}"), mode)));
    let replicas = [(1, 1), (2, 5), (3, u64::MAX)].map(|(id, batch)| {
        let mut replica = Replica::new(id, shared.clone());
        replica.apply_to(&log, activated);
        assert_eq!(replica.active(), machine, "{mode}: it is not active");
        while replica.applied_index() < log.last_index() {
            let index = replica.applied_index().saturating_add(batch);
            replica.apply_to(&log, index);
        }
        replica
    });
    for replica in &replicas {
        let answers = replica.answers.0.lock().expect("nobody panics");
        for index in &puts {
            assert!(answers[index].response.is_ok(), "{mode}: {index}: {:?}", answers[index]);
        }
        drop(answers);
        let keys = replica.keys();
        assert_eq!(keys.len(), 2 * PUTS + 1, "{mode}: keys are lost, or there are others");
        assert!(keys.values().all(|value| value == mode), "{mode}: a value is another one");
    }
    replicas
}

#[test]
fn a_fault_brings_the_machine_before_back() {
    let cache = tempfile::tempdir().expect("a directory");
    let shared = machines(cache.path());
    for mode in FAULTS {
        let replicas = provoked(mode, &shared);
        assert_eq!(replicas[0].active(), digest_of(BUILT_IN), "{mode}: it is still active");
        expect_equal(&replicas);
    }
}

#[test]
fn what_is_no_fault_changes_nothing() {
    let cache = tempfile::tempdir().expect("a directory");
    let shared = machines(cache.path());
    for mode in NUISANCES {
        let replicas = provoked(mode, &shared);
        let machine = digest_of(&::hostile::kv(mode));
        assert_eq!(replicas[0].active(), machine, "{mode}: it was rolled back");
        expect_equal(&replicas);
    }
}

/// The one thing that no check of a single member finds: an answer out of what it remembers of the batch. Members'
/// digests differ then, which is what they compare, and so do the answers of a rehearsal.
#[test]
fn hidden_state_shows_in_the_digests() {
    let cache = tempfile::tempdir().expect("a directory");
    let replicas = provoked("hidden", &machines(cache.path()));
    let digests = replicas.each_ref().map(|replica| replica.view().mark().digest);
    assert!(digests[0] != digests[1] && digests[1] != digests[2], "{digests:?}");
}
