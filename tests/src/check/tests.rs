//! The checkers accept what a correct store does, and reject what a broken one does.

use super::simulated::{FAULTS, Fault, history};
use super::*;

const SEEDS: u64 = 2000;

#[test]
fn histories_of_a_correct_store_pass_both_checkers() {
    for seed in 0..SEEDS {
        let (history, _) = history(seed, 30, Fault::None);
        assert_eq!(check(&history), Ok(()), "seed {seed}");
        assert!(is_linearizable(&history.operations), "seed {seed}");
    }
}

#[test]
fn every_fault_is_found_whenever_it_could_be_placed() {
    for fault in FAULTS {
        let mut placed = 0;
        for seed in 0..SEEDS {
            let (history, was_placed) = history(seed, 40, fault);
            if was_placed {
                placed += 1;
                assert!(check(&history).is_err(), "{fault:?} with seed {seed} was not found");
            }
        }
        assert!(placed > SEEDS / 20, "{fault:?} was placed {placed} times only");
    }
}

/// The search ignores revisions, so it may accept more; what it rejects, the witness must reject.
#[test]
fn what_the_search_rejects_the_witness_rejects() {
    let mut rejected = 0;
    for fault in FAULTS {
        for seed in 0..SEEDS / 4 {
            let (history, _) = history(seed, 30, fault);
            if !is_linearizable(&history.operations) {
                rejected += 1;
                assert!(check(&history).is_err(), "{fault:?} with seed {seed}");
            }
        }
    }
    assert!(rejected > 300, "the search rejected {rejected} only");
}

#[test]
fn a_stale_read_is_found_by_name() {
    let put = |at: u64, value: &str, revision| Operation {
        client: 0,
        invoked_ns: at,
        returned_ns: at + 10,
        action: Action::Write(Write {
            value: value.into(),
            condition: None,
            effects: vec![Effect::Put { key: "k".into() }],
        }),
        outcome: Outcome::Wrote { revision },
    };
    let mut states = vec![Rows::new()];
    let mut operations = vec![put(0, "one", 2), put(20, "two", 3)];
    for operation in &operations {
        let Action::Write(write) = &operation.action else { unreachable!() };
        states.push(write.apply(states.last().unwrap(), states.len() as i64 + 1));
    }
    operations.push(Operation {
        client: 1,
        invoked_ns: 40,
        returned_ns: 50,
        action: Action::Read { key: Some("k".into()), serializable: false },
        outcome: Outcome::Saw { revision: 2, rows: states[1].clone() },
    });
    let timeline = Timeline { first: 1, states };
    let mut history = History { operations, timeline };
    assert_eq!(check(&history), Err(Violation::OutOfOrder { earlier: 1, later: 2 }));
    assert!(!is_linearizable(&history.operations));

    // The same answer is right while the second write is under way, and right for a serializable read.
    history.operations[2].invoked_ns = 25;
    assert_eq!(check(&history), Ok(()));
    history.operations[2].invoked_ns = 40;
    history.operations[2].action = Action::Read { key: Some("k".into()), serializable: true };
    assert_eq!(check(&history), Ok(()));
}
