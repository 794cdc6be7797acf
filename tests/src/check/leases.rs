//! Judges what clients saw of leases: never over early, over soon, all keys in one revision, and then for good.
//!
//! Times are the clients' own, from one clock, so each rule is as sharp as the requests were quick: what happened in
//! the server lies between the moment a request was sent and the moment it was answered.

use std::time::Duration;

/// How late a lease may be over when nothing is wrong.
pub const LATE_BY: Duration = Duration::from_secs(2);

/// A request about a lease that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub sent: Duration,
    pub answered: Duration,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Granted, or renewed.
    Renewed,
    /// Its keys are there.
    Present,
    /// The lease, or one of its keys, is gone.
    Gone,
}

/// All that was seen of one lease. Ids are never used again.
#[derive(Clone, Debug, Default)]
pub struct LeaseHistory {
    pub id: i64,
    pub ttl: Duration,
    pub seen: Vec<Seen>,
    /// When a client asked for it to be revoked, if one did, whatever the answer.
    pub revoked: Option<Duration>,
    /// How many of its keys were there after each revision that changed one of them.
    pub keys: Vec<(i64, usize)>,
}

/// When the cluster was whole again for the last time, and how much a new leader may add to a lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    pub since: Duration,
    pub extension: Duration,
}

/// The first promise that was broken.
pub fn judge(lease: &LeaseHistory, health: Health) -> Result<(), String> {
    let fail = |what: String| Err(format!("lease {:x} {what}", lease.id));
    for gone in lease.seen.iter().filter(|seen| seen.what == What::Gone) {
        let alive = lease.seen.iter().filter(|seen| seen.what != What::Gone);
        if let Some(after) = alive.into_iter().find(|seen| seen.sent > gone.answered) {
            return fail(format!("was gone ({gone:?}) and came back ({after:?})"));
        }
        let renewed = lease.seen.iter().filter(|seen| seen.what == What::Renewed);
        let early = renewed.into_iter().find(|seen| gone.answered < seen.sent + lease.ttl);
        if let Some(renewed) = early
            && lease.revoked.is_none_or(|revoked| revoked > gone.answered)
        {
            return fail(format!("was over early ({gone:?}) after {renewed:?}"));
        }
    }
    late(lease, health).or_else(fail)?;
    one_revision(&lease.keys).or_else(fail)
}

fn late(lease: &LeaseHistory, health: Health) -> Result<(), String> {
    let renewed = lease.seen.iter().filter(|seen| seen.what == What::Renewed);
    let Some(last) = renewed.map(|seen| seen.answered).max() else { return Ok(()) };
    let over = match health.since {
        Duration::ZERO => last + lease.ttl,
        since => (last + lease.ttl).max(since + lease.ttl + health.extension),
    };
    let present = lease.seen.iter().filter(|seen| seen.what == What::Present);
    match present.into_iter().find(|seen| seen.sent > over + LATE_BY) {
        Some(late) => Err(format!("should have been over at {over:?}: {late:?}")),
        None => Ok(()),
    }
}

/// Keys come one by one, and go together.
fn one_revision(keys: &[(i64, usize)]) -> Result<(), String> {
    let mut before = 0;
    for (revision, count) in keys {
        if *count < before && *count > 0 {
            return Err(format!("lost some of its keys in revision {revision}: {keys:?}"));
        }
        if before == 0 && *count > 0 && keys.iter().any(|(r, c)| r < revision && *c > 0) {
            return Err(format!("has keys again in revision {revision}: {keys:?}"));
        }
        before = *count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sent_ms: u64, answered_ms: u64, what: What) -> Seen {
        let ms = Duration::from_millis;
        Seen { sent: ms(sent_ms), answered: ms(answered_ms), what }
    }

    /// Granted with 5 s, renewed after 3, gone after 8.
    fn good() -> LeaseHistory {
        LeaseHistory {
            id: 1,
            ttl: Duration::from_secs(5),
            seen: vec![
                at(0, 10, What::Renewed),
                at(3_000, 3_010, What::Renewed),
                at(7_900, 7_990, What::Present),
                at(8_090, 8_100, What::Gone),
            ],
            revoked: None,
            keys: vec![(2, 1), (3, 2), (4, 3), (9, 0)],
        }
    }

    fn verdict(change: impl FnOnce(&mut LeaseHistory)) -> Result<(), String> {
        let mut history = good();
        change(&mut history);
        judge(&history, Health::default())
    }

    #[test]
    fn what_should_be_is_accepted() {
        verdict(|_| ()).expect("nothing is wrong");
        verdict(|lease| lease.keys.clear()).expect("a lease may have no keys");
        // Revoked by a client: it may be over any time.
        let revoked = verdict(|lease| {
            lease.revoked = Some(Duration::from_millis(4_000));
            lease.seen[2] = at(4_100, 4_200, What::Gone);
        });
        revoked.expect("revoked leases are over at once");
    }

    #[test]
    fn every_broken_promise_is_found() {
        let broken: [(&str, fn(&mut LeaseHistory)); 6] = [
            ("early", |lease| lease.seen[2] = at(7_800, 7_990, What::Gone)),
            ("early", |lease| {
                // It was revoked only after it was gone.
                lease.seen[2] = at(7_000, 7_100, What::Gone);
                lease.revoked = Some(Duration::from_millis(7_200));
            }),
            ("came back", |lease| lease.seen.push(at(8_200, 8_300, What::Renewed))),
            ("came back", |lease| lease.seen.push(at(8_200, 8_300, What::Present))),
            ("should have been over", |lease| lease.seen[2] = at(10_020, 10_030, What::Present)),
            ("lost some of its keys", |lease| lease.keys = vec![(2, 3), (9, 1), (10, 0)]),
        ];
        for (word, change) in broken {
            let verdict = verdict(|lease| {
                change(lease);
                // What is seen late must not also come after the end.
                if word == "should have been over" {
                    lease.seen[3] = at(10_100, 10_200, What::Gone);
                }
            });
            let found = verdict.expect_err(word);
            assert!(found.contains(word), "{word}: {found}");
        }
        let again = verdict(|lease| lease.keys.push((11, 1))).expect_err("keys are back");
        assert!(again.contains("has keys again"), "{again}");
    }

    #[test]
    fn a_leader_that_began_late_may_give_time() {
        let mut lease = good();
        lease.seen[2] = at(12_000, 12_010, What::Present);
        lease.seen[3] = at(13_000, 13_010, What::Gone);
        judge(&lease, Health::default()).expect_err("late without a reason");
        let health =
            Health { since: Duration::from_secs(6), extension: Duration::from_millis(1_000) };
        judge(&lease, health).expect("another leader began");
    }
}
