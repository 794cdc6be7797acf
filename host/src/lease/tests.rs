//! The timers, minute by minute, in a time that the tests make up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::keeper::Keeper;
use super::row::{LeaseRow, LeaseTables};
use super::timers::{CHECKPOINT_INTERVAL, Renewal, Timers};
use crate::storage::{State, TableKind, TableSpec, files};

const EXTENSION: Duration = Duration::from_secs(1);
const MINIMUM_TTL_S: i64 = 2;

fn lease(id: i64, ttl_s: i64) -> LeaseRow {
    LeaseRow { id, ttl_s, remaining_s: 0, granted_index: 10 }
}

fn begin(rows: &[LeaseRow], now: Instant) -> Timers {
    Timers::begin(1, MINIMUM_TTL_S, rows, now, EXTENSION)
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_lease_is_over_when_its_time_is_and_not_before() {
    let start = Instant::now();
    let mut timers = begin(&[], start);
    timers.written(&lease(1, 5), start);
    assert_eq!(timers.next(), Some(start + s(5)));
    assert_eq!(timers.take_expired(start + s(5) - MS, 10), []);
    assert_eq!(timers.take_expired(start + s(5), 10), [(1, 10)]);
    assert_eq!(timers.take_expired(start + s(5), 10), [], "it comes once");
    assert_eq!(timers.renew(1, start + s(5)), Renewal::Expired);

    timers.put_back(&[(1, 10)], start + s(6));
    assert_eq!(timers.take_expired(start + s(6), 10), [(1, 10)], "unless it is put back");
    timers.removed(1);
    assert_eq!(timers.renew(1, start + s(6)), Renewal::Unknown);
    assert_eq!(timers.remaining_s(1, start), None);
}

#[test]
fn a_renewed_lease_has_all_its_time_again() {
    let start = Instant::now();
    let mut timers = begin(&[], start);
    timers.written(&lease(1, 5), start);
    assert_eq!(timers.renew(1, start + s(4)), Renewal::Renewed(5));
    assert_eq!(timers.take_expired(start + s(8), 10), []);
    assert_eq!(timers.remaining_s(1, start + s(8)), Some(1));
    assert_eq!(timers.take_expired(start + s(9), 10), [(1, 10)]);
    assert_eq!(timers.remaining_s(1, start + s(9) + 1500 * MS), Some(-1));
}

/// etcd-io/etcd#9888, #17132: with every change of the leader, or with the third, leases had all their time again.
#[test]
fn a_new_leader_extends_and_never_shortens() {
    let start = Instant::now();
    let checkpointed = LeaseRow { remaining_s: 100, ..lease(2, 1_000) };
    // From members with shorter elections, and from a checkpoint that cannot be right.
    let short = lease(3, 1);
    let odd = LeaseRow { remaining_s: 999, ..lease(4, 50) };
    let timers = begin(&[lease(1, 1_000), checkpointed, short, odd], start);
    let left = [1, 2, 3, 4].map(|id| timers.remaining_s(id, start));
    assert_eq!(left, [Some(1_001), Some(101), Some(MINIMUM_TTL_S + 1), Some(51)]);
}

#[test]
fn a_lease_that_was_granted_again_is_another() {
    let start = Instant::now();
    let mut timers = begin(&[lease(1, 5)], start);
    // Revoked and granted in one batch: the keeper sees the row of the second alone.
    let again = LeaseRow { granted_index: 11, ..lease(1, 5) };
    timers.written(&again, start + s(5));
    assert_eq!(timers.take_expired(start + s(9), 10), []);
    // The same row once more, because it was checkpointed, changes nothing.
    timers.written(&LeaseRow { remaining_s: 1, ..again }, start + s(9));
    assert_eq!(timers.take_expired(start + s(10), 10), [(1, 11)]);
}

#[test]
fn only_so_many_are_taken_at_once() {
    let start = Instant::now();
    let rows: Vec<LeaseRow> = (1..=1_000).map(|id| lease(id, 10)).collect();
    let mut timers = begin(&rows, start);
    let mut taken = Vec::new();
    for _ in 0..4 {
        let batch = timers.take_expired(start + s(11), 300);
        assert!(batch.len() <= 300);
        taken.extend(batch.into_iter().map(|(id, _)| id));
    }
    taken.sort_unstable();
    assert_eq!(taken, (1..=1_000).collect::<Vec<_>>());
}

#[test]
fn long_leases_are_checkpointed_when_they_were_quiet() {
    let start = Instant::now();
    let mut timers = begin(&[], start);
    timers.written(&lease(1, 1_000), start);
    timers.written(&lease(2, 1_000), start);
    timers.written(&lease(3, 300), start);
    let first = start + CHECKPOINT_INTERVAL;
    assert_eq!(timers.renew(2, start + s(200)), Renewal::Renewed(1_000));
    assert_eq!(timers.take_checkpoints(first - MS, 10), []);
    assert_eq!(timers.take_checkpoints(first, 10), [(1, 700)], "the others are renewed or short");
    assert_eq!(timers.take_checkpoints(start + s(500), 10), [(2, 700)]);
    assert_eq!(timers.take_checkpoints(start + s(600), 10), [(1, 400)]);
}

/// A checkpoint in the log would make the next leader shorten a lease that was renewed since.
#[test]
fn a_checkpoint_is_taken_back_before_a_lease_is_renewed() {
    let start = Instant::now();
    let mut timers = begin(&[LeaseRow { remaining_s: 400, ..lease(1, 1_000) }], start);
    assert_eq!(timers.renew(1, start), Renewal::Checkpointed(1));
    timers.checkpoint_taken_back(1, 1);
    assert_eq!(timers.renew(1, start), Renewal::Renewed(1_000));

    let due = start + CHECKPOINT_INTERVAL;
    assert_eq!(timers.take_checkpoints(due, 10), [(1, 700)]);
    assert_eq!(timers.renew(1, due), Renewal::Checkpointed(2));
    let again = due + CHECKPOINT_INTERVAL;
    assert_eq!(timers.take_checkpoints(again, 10), [(1, 400)]);
    timers.checkpoint_taken_back(1, 2);
    assert_eq!(timers.renew(1, again), Renewal::Checkpointed(3), "a later one is still there");
}

#[test]
fn the_longest_time_is_no_trouble() {
    let start = Instant::now();
    let mut timers = begin(&[lease(1, 9_000_000_000), lease(2, i64::MAX)], start);
    assert_eq!(timers.remaining_s(1, start), Some(9_000_000_001));
    assert_eq!(timers.renew(2, start), Renewal::Renewed(i64::MAX));
    assert_eq!(timers.take_expired(start + s(1_000_000), 10), []);
}

/// Random grants, renewals and revocations beside a list of deadlines.
#[test]
fn timers_are_a_list_of_deadlines() {
    let seed = std::env::var("INSTAR_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("INSTAR_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut now = Instant::now();
    let mut timers = begin(&[], now);
    let mut model: BTreeMap<i64, (Instant, i64, u64)> = BTreeMap::new();
    for index in 1..50_000u64 {
        now += Duration::from_millis(random.random_range(0..200));
        let id = random.random_range(1..100);
        let over = |model: &BTreeMap<i64, (Instant, i64, u64)>| -> Vec<(i64, u64)> {
            model.iter().filter(|(_, it)| it.0 <= now).map(|(id, it)| (*id, it.2)).collect()
        };
        match random.random_range(0..10) {
            0..3 => {
                let ttl_s = random.random_range(MINIMUM_TTL_S..30);
                let row = LeaseRow { granted_index: index, ..lease(id, ttl_s) };
                timers.written(&row, now);
                model.insert(id, (now + s(ttl_s as u64), ttl_s, index));
            }
            3..7 => {
                let expected = match model.get_mut(&id) {
                    None => Renewal::Unknown,
                    Some((deadline, ..)) if *deadline <= now => Renewal::Expired,
                    Some((deadline, ttl_s, _)) => {
                        *deadline = now + s(*ttl_s as u64);
                        Renewal::Renewed(*ttl_s)
                    }
                };
                assert_eq!(timers.renew(id, now), expected);
            }
            7 => {
                timers.removed(id);
                model.remove(&id);
            }
            _ => {
                assert!(timers.next().is_some() || model.is_empty());
                let mut expired = timers.take_expired(now, usize::MAX);
                expired.sort_unstable();
                assert_eq!(expired, over(&model), "step {index}");
                for (id, _) in expired {
                    timers.removed(id);
                    model.remove(&id);
                }
            }
        }
    }
}

/// A leader that cannot read the leases at first has timers as soon as it can: nobody else would make them.
#[tokio::test]
async fn a_leader_that_cannot_read_the_leases_tries_again() {
    let spec = |id, name: &str| TableSpec { id, name: name.into(), kind: TableKind::Durable };
    let tables = [spec(1, "lease"), spec(2, "lease_grant")];
    let directory = tempfile::tempdir().unwrap();
    let mut state = State::open(directory.path(), &files(), &[spec(3, "key")]).unwrap();
    let views = state.views();
    let keeper = Keeper::new(&tables, MINIMUM_TTL_S, EXTENSION);
    let found = LeaseTables::find(&tables).unwrap();
    assert!(found.all(&views.latest()).is_err(), "the tables are not there yet");
    let make = keeper.make_timers(found, 7, &views);
    let appear = async {
        // The first attempt has been made when this runs, and has failed.
        tokio::task::yield_now().await;
        assert_eq!(keeper.keeps_time_of(), None);
        state.declare(&tables).unwrap();
        let (writes, mark) = (state.overlay().into_writes(), state.view().mark().clone());
        state.commit(writes, mark).unwrap();
    };
    let both = async { tokio::join!(make, appear) };
    tokio::time::timeout(s(20), both).await.expect("timers, once the leases can be read");
    assert_eq!(keeper.keeps_time_of(), Some(7));
}
