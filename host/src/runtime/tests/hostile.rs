//! A machine that breaks the contract: the process survives, the entry is rejected, and nothing of it is left. None of
//! it depends on batches.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{Replica, hostile};

/// Commands that break the contract or a limit, and what their rejection says.
const OFFENCES: [(&[u8], &str); 19] = [
    (b"l", "it did not end within its limit on computing"),
    (b"n", "it did not end within its limit on computing"),
    (b"M", "it asked for more memory than it may have"),
    (b"s", "it called itself too deeply"),
    (b"t", "it panicked"),
    (b"e", "it named an event for a row that it did not write"),
    (b"D", "it named an event for a row that it did not write"),
    (b"U", "it named table 99, which it does not declare"),
    (b"w", "it rejected an entry and wrote all the same"),
    (b"W", "it rejected an entry and wrote all the same"),
    (b"b", "it set the revision back"),
    (b"u", "it named table 98, which it does not declare"),
    (b"k", "it named a row with an empty key"),
    (b"K", "it named a row with an empty key"),
    (b"h", "its response is longer than 67108864 bytes"),
    (b"g", "its rejection's message is longer than 4096 bytes"),
    (b"q", "it built an answer in a call that is no query"),
    (b"o", "it panicked"),
    (b"?", "it panicked"),
];

#[test]
fn an_offence_is_rejected_and_leaves_nothing_behind() {
    for (offence, reason) in OFFENCES {
        let mut alone = Replica::new(hostile());
        alone.apply(&[b"pone"]);
        let before = alone.rows();
        let outcome = alone.apply(&[offence]).remove(0);
        let command = String::from_utf8_lossy(offence);
        let rejection = outcome.response.as_ref().expect_err("a rejection");
        assert_eq!(rejection.code, 13, "{command}");
        assert!(rejection.message.ends_with(reason), "{command}: {}", rejection.message);
        assert_eq!((outcome.revision, outcome.events.len()), (1, 0), "{command}");
        assert!(!outcome.task_pending, "{command}");
        assert_eq!(alone.rows(), before, "{command}");

        // In the middle of a batch it is the same.
        let mut together = Replica::new(hostile());
        let outcomes = together.apply(&[b"pone", offence, b"ptwo"]);
        assert_eq!(outcomes[1], outcome, "{command}");
        assert_eq!(outcomes[2], alone.apply(&[b"ptwo"])[0], "{command}");
        assert_eq!(together.rows(), alone.rows(), "{command}");
    }
}

#[test]
fn a_rejection_with_a_code_that_is_none_is_an_offence() {
    let mut replica = Replica::new(hostile());
    for code in [0, 17, 255] {
        let outcome = replica.apply(&[[b'c', code]]).remove(0);
        let rejection = outcome.response.expect_err("a rejection");
        assert!(rejection.message.ends_with(&format!("it rejected with {code}, no gRPC code")));
    }
    let outcome = replica.apply(&[b"r"]).remove(0);
    let rejection = outcome.response.expect_err("a rejection");
    assert_eq!((rejection.code, &*rejection.message), (5, "no"));
}

#[test]
fn what_an_entry_is_due_does_not_depend_on_those_before_it() {
    let mut replica = Replica::new(hostile());
    // Five megabytes each, which the machine never gives back: a shared instance is full after two.
    let hoard = vec![b"m\x05"; 9];
    // More than a shared instance may compute, less than an entry may: 10 or more units a round.
    let long: &[u8] = b"f\x00\x00\x30";
    let (hoarded, computed) = (replica.apply(&hoard), replica.apply(&[long; 2]));
    for outcome in hoarded.iter().chain(&computed) {
        assert!(outcome.response.is_ok(), "{outcome:?}");
    }
}

#[test]
fn how_entries_are_divided_into_batches_does_not_show() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut commands = Vec::new();
    let cheap: Vec<_> = OFFENCES.iter().filter(|(it, _)| !b"lnMh".contains(&it[0])).collect();
    for _ in 0..300 {
        let key = random.random_range(b'a'..=b'h');
        commands.push(match random.random_range(0..20) {
            0..8 => vec![b'p', key],
            8..12 => vec![b'd', key],
            12 => vec![b'r'],
            13 => vec![],
            14 => vec![b'm', random.random_range(1..8)],
            15 => vec![b'f', 0, 0, random.random_range(1..20)],
            _ => cheap.choose(&mut random).expect("some").0.to_vec(),
        });
    }
    let divided = |random: &mut StdRng, most: usize| {
        let (mut replica, mut outcomes) = (Replica::new(hostile()), Vec::new());
        let mut rest = &commands[..];
        while !rest.is_empty() {
            let (batch, after) = rest.split_at(random.random_range(1..=most.min(rest.len())));
            outcomes.extend(replica.apply(batch));
            rest = after;
        }
        (outcomes, replica.rows())
    };
    let one_by_one = divided(&mut random, 1);
    for most in [3, 17, 300] {
        assert!(divided(&mut random, most) == one_by_one, "batches of up to {most} differ");
    }
}
